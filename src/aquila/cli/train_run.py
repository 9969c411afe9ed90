"""What `aquila train RECIPE` shows while it runs: the plan, a line of progress, the picture at the end."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquila.train.plan import Plan
    from aquila.train.recipe import Recipe

log = logging.getLogger(__name__)


def train(recipe: "Recipe", run_dir: Path) -> int:
    """Runs the recipe; returns the exit code of the process."""
    from aquila.errors import AquilaError

    rank = int(os.environ.get("RANK", "0"))
    if rank:  # rank 0 speaks for all
        logging.getLogger("aquila").setLevel(logging.WARNING)
    progress = _Progress(recipe.log.log_interval, run_dir)
    from aquila.train.ranks import RankError
    from aquila.train.run_dir import resume_command
    from aquila.train.start import run_recipe

    try:
        outcome = run_recipe(recipe, run_dir, on_plan=progress.begin, on_step=progress.step)
    except AquilaError as error:
        progress.end()
        if rank:  # what every rank finds is said once
            if isinstance(error, RankError):
                log.error("%s", error)
            return error.exit_code
        raise
    progress.end()
    if rank:
        return outcome.exit_code
    _draw(run_dir)
    if outcome.exit_code:
        log.info("stopped at step %d and saved; go on with `%s`", outcome.step, resume_command(run_dir))
    elif outcome.num_steps == 0:
        log.info("nothing left to do: all %d steps of %s are done", outcome.step, run_dir)
    else:
        skipped = f", {outcome.num_skipped} steps skipped" if outcome.num_skipped else ""
        log.info("done: %d steps, %d tokens, loss %.4f%s", outcome.step, outcome.num_tokens, outcome.loss, skipped)
    return outcome.exit_code


def plan_lines(plan: "Plan", run_dir: Path) -> list[str]:
    """What is about to be trained, for people."""
    from aquila.model.count import count_parameters
    from aquila.train.estimate import adapter_parameters
    from aquila.train.progress import short_count

    recipe = plan.recipe
    parameters = count_parameters(plan.model)
    trained = (
        "" if recipe.lora is None else f", {short_count(adapter_parameters(plan.model, recipe.lora))} trained (LoRA)"
    )
    layout = plan.layout
    sizes = {"copies": layout.dp_replicate, "shards": layout.dp_shard, "context": layout.cp, "tensor": layout.tp}
    spread = " x ".join(f"{size} {name}" for name, size in sizes.items() if size > 1)
    cut = f"{plan.micro_batch_size} a device" + (
        f" x {plan.accumulation} micro-batches" if plan.accumulation > 1 else ""
    )
    tokens = plan.steps * plan.tokens_per_step
    passes = plan.steps * plan.global_batch_size / plan.loader.num_sequences
    return [
        f"run         {run_dir}",
        f"model       {short_count(parameters)} parameters{trained}, {plan.model.num_hidden_layers} layers of "
        f"{plan.model.hidden_size}, {plan.model.vocab_size} ids",
        f"data        {plan.loader.num_sequences:,} sequences of {recipe.data.sequence_length} tokens, "
        f"read {passes:.2f} times",
        f"batch       {plan.global_batch_size} sequences, {short_count(plan.tokens_per_step)} tokens a step ({cut})",
        f"steps       {plan.steps:,}, {short_count(tokens)} tokens",
        f"devices     {layout.world}" + (f" ({spread})" if spread else "") + f", {recipe.parallel.precision}",
    ]


def data_lines(report: Mapping[str, Any]) -> list[str]:
    """What is read of each source, and what to look out for."""
    lines = []
    if len(report["sources"]) > 1:
        for source in report["sources"]:
            lines.append(
                f"  {source['name']:<12} {source['share']:.1%} of the tokens (wanted {source['share_wanted']:.1%}), "
                f"read {source['epochs']:.2f} times"
            )
    lines += [f"warning: {warning}" for warning in report["warnings"]]
    return lines


def dry_run(recipe: "Recipe", run_dir: Path, world: int | None, memory: str | None) -> None:
    """Prints the plan after checking every shape on the meta device.

    `world` devices of `memory`; those of this machine where None, or 80 GiB each where it has none.
    """
    import torch

    from aquila.config import parse_size
    from aquila.machine import read_memory
    from aquila.train.estimate import estimate, estimate_table
    from aquila.train.plan import make_plan
    from aquila.train.start import check_shapes, device_memory, planned_world

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    wanted = world or planned_world(recipe.parallel)
    capacity = device_memory(accelerator) if accelerator is not None else None
    elsewhere = accelerator is None and (  # meant for accelerators that are not here
        recipe.parallel.precision != "fp32" or memory is not None
    )
    if memory is not None or elsewhere:
        capacity = parse_size(memory or "80GiB")
    plan = make_plan(recipe, wanted, device_memory=capacity)
    check_shapes(plan)
    for line in plan_lines(plan, run_dir):
        print(line)
    needed = estimate(plan.shape(), on_cpu=capacity is None)
    room = capacity
    if capacity is None and (machine := read_memory()) is not None:
        room = machine.total_bytes
    guessed = elsewhere and memory is None
    print("memory      of each device" + (", taken to have 80 GiB: none is here (--memory)" if guessed else ""))
    for line in estimate_table(needed, room):
        print(line)
    print(f"time        {_time(plan, accelerator, elsewhere=elsewhere)}")
    for line in data_lines(plan.loader.report(plan.steps)):
        print(line)
    print("every shape fits; nothing was allocated")


def _time(plan: "Plan", accelerator: Any, *, elsewhere: bool) -> str:
    import torch

    from aquila.train.flops import flops_per_token, peak_flops
    from aquila.train.progress import format_duration

    recipe = plan.recipe
    work = plan.steps * plan.tokens_per_step
    work *= flops_per_token(plan.model, recipe.data.sequence_length, frozen=recipe.lora is not None)
    if elsewhere:
        peak, share, where = 989e12, 0.4, "on H100s at 40% of their peak"
    else:
        device = accelerator or torch.device("cpu")
        peak, share = peak_flops(device, recipe.parallel.precision), 0.4 if accelerator is not None else 0.5
        where = f"at {share:.0%} of what {'this processor' if accelerator is None else 'the device'} can do"
    if peak is None:
        return f"{work:.3g} operations; the peak of this device is not known"
    return f"about {format_duration(work / (peak * share * plan.layout.world))} {where}"


class _Progress:
    """A line a step that replaces itself in a terminal; one every `log_interval` steps elsewhere."""

    def __init__(self, log_interval: int, run_dir: Path) -> None:
        self._interval, self._run_dir = log_interval, run_dir
        self._live = sys.stderr.isatty()
        self._total = 0
        self._began = self._shown = 0.0
        self._first: int | None = None
        self._open = False

    def begin(self, plan: "Plan") -> None:
        self._total = plan.steps
        self._began = time.monotonic()
        for line in plan_lines(plan, self._run_dir):
            log.info("%s", line)
        for line in data_lines(plan.loader.report(plan.steps)):
            log.info("%s", line)

    def step(self, record: Mapping[str, Any]) -> None:
        from aquila.train.progress import progress_line

        now, step = time.monotonic(), record["step"]
        if self._first is None:
            self._first, self._began = step, now
        done = step - self._first
        left = (now - self._began) / done * (self._total - step) if done else None
        line = progress_line({**record, "seconds_left": left}, self._total)
        logged = step % self._interval == 0 or step == self._total or record.get("skipped")
        if self._live and (logged or now - self._shown > 0.2):
            print(f"\r\x1b[K{line}", end="\n" if logged else "", file=sys.stderr, flush=True)
            self._shown, self._open = now, not logged
        elif logged:
            log.info("%s", line)

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)
            self._open = False


def _draw(run_dir: Path) -> None:
    from aquila.errors import ConfigError
    from aquila.train.plot import plot_run

    try:
        log.info("loss: %s", plot_run(run_dir))
    except (ConfigError, OSError) as error:  # no matplotlib, nothing to draw, no room: the run is no worse for it
        log.info("no picture of the loss: %s", error)
