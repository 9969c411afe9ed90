"""The loop: batches in, steps of the optimizer, measurements, checkpoints. One loop for pretrain, continue, sft and
adapters.

A step: the loss of each micro-batch is a sum over its targets, divided by the targets of the whole step (all ranks, all
micro-batches), so gradients do not depend on how the step is cut. Then the norm is taken and clipped, the guard
judges, the optimizer takes the step or the step is skipped. Everything that decides what comes next is in the
checkpoint: a run that was killed goes on bit for bit."""

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from aquila.checkpoint.folder import json_digest
from aquila.checkpoint.open import Checkpoint
from aquila.data.batch import Batch
from aquila.data.loader import ValidationSet
from aquila.generate.infill import INFILL_KEY, infill_orders
from aquila.machine import peak_memory_bytes
from aquila.model.lora import set_dropout_key
from aquila.train.build import build_model
from aquila.train.clip import clip_gradients
from aquila.train.evaluation import continue_prompts, evaluate
from aquila.train.export import export_checkpoint, export_run, is_exported
from aquila.train.feed import Batches, MicroBatch, micro_batch
from aquila.train.flops import flops_per_token, peak_flops
from aquila.train.guard import Guard
from aquila.train.metrics import Metrics
from aquila.train.optimizer import LossScale, build_optimizer, set_lr
from aquila.train.plan import Plan
from aquila.train.ranks import Ranks, own_errors
from aquila.train.recipe import recipe_data
from aquila.train.schedule import lr_factor
from aquila.train.state import Checkpoints, Identity, RunFacts, TrainState
from aquila.train.stop import StopRequest

log = logging.getLogger(__name__)

_WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".gguf", ".aqw")
_COLLECT_STEPS = 100  # Python's garbage is collected on all ranks at the same step, not when one of them happens to
_CARRIED = ("name", "version", "licence", "chat_template", INFILL_KEY)  # from the model that a run begins with


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `exit_code` is 0 when all steps are done, else what to leave the process with.

    `num_steps` were done this time, `step` in all.
    """

    step: int
    num_steps: int
    num_tokens: int
    loss: float
    num_skipped: int
    exit_code: int = 0


class Trainer:
    """One run on this rank. `on_step` is called on rank 0 with each line of metrics."""

    def __init__(
        self, plan: Plan, ranks: Ranks, run_dir: Path, *, on_step: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        self.plan, self.ranks, self.run_dir, self.on_step = plan, ranks, Path(run_dir), on_step
        recipe = plan.recipe
        self.train = recipe.train
        with own_errors(ranks.rank):  # each rank reads its own pieces of the first weights
            self.model = build_model(plan, ranks)
        self.optimizer = build_optimizer(self.model, recipe.train, ranks)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.guard = Guard(recipe.train)
        self.loss_scale = LossScale(recipe.train, enabled=recipe.parallel.precision == "fp16")
        self.metrics: Metrics | None = None
        self.state = TrainState()
        self.checkpoints = self._open_checkpoints()
        try:
            last_step = self._resume()
            if ranks.is_main:
                self.metrics = Metrics(self.run_dir, recipe.log, recipe_data(recipe), last_step=last_step)
        except BaseException:
            self.release()
            raise
        self._validation: list[ValidationSet] | None = None
        self.last_loss = float("nan")
        self._flops = flops_per_token(plan.model, recipe.data.sequence_length, frozen=recipe.lora is not None)
        self._peak = peak_flops(ranks.device, recipe.parallel.precision)

    def _open_checkpoints(self) -> Checkpoints:
        plan, recipe = self.plan, self.plan.recipe
        record = dict(plan.checkpoint.manifest) if plan.checkpoint is not None else {}
        carried = {key: record[key] for key in _CARRIED if key in record}
        if any(source.fim_rate > 0 for source in recipe.data.mix):
            carried[INFILL_KEY] = infill_orders(recipe.data.fim.spm_rate)
        elif plan.checkpoint is None:
            carried[INFILL_KEY] = False  # the vocabulary may have marks for it all the same
        if recipe.stage == "sft" and recipe.data.template is not None:
            carried["chat_template"] = recipe.data.template  # the model answers in the form that it was trained in
        base = "" if recipe.lora is None or plan.checkpoint is None else _base_digest(plan.checkpoint)
        identity = Identity(
            model=json_digest(plan.model.model_dump(mode="json")),
            tokenizer=plan.tokenizer_digest,
            data=plan.loader.digest,
            base=base,
        )
        export = None if recipe.lora is not None else recipe.save.export
        return Checkpoints(
            self.run_dir,
            RunFacts(identity, plan.model, plan.tokenizer, carried, recipe_data(recipe)),
            keep_last=recipe.save.keep_last,
            keep_interval=recipe.save.keep_interval,
            on_published=None if export is None else lambda path: export_checkpoint(path, export),
        )

    def _resume(self) -> int:
        """Loads the newest checkpoint and returns the last step that is done; -1 where nothing is, not even step 0."""
        state = self.checkpoints.load_latest(self.model, [self.optimizer])
        if state is None:
            return -1
        self.guard.restore(state.extras["guard"])
        self.loss_scale.restore(state.extras["loss_scale"])
        log.info("going on from step %d of %d", state.step, self.plan.steps)
        self.state = state
        return state.step

    def run(self) -> Outcome:
        """Trains from where the run stands to its last step, or until it is asked to stop."""
        begun = self.state.step
        try:
            exit_code = self._loop()
            self.checkpoints.close()
        finally:
            self.release()
        num_steps = self.state.step - begun
        if exit_code == 0 and self.ranks.is_main and (num_steps or not is_exported(self.run_dir, self.state.step)):
            what = "model" if self.plan.recipe.lora is None else "adapter"
            log.info("the trained %s is %s", what, export_run(self.run_dir))
        figures = (self.state.num_tokens, self.last_loss, self.guard.num_skipped, exit_code)
        return Outcome(self.state.step, num_steps, *figures)

    def release(self) -> None:
        """Closes the files of the run, and gives its folder free."""
        self.checkpoints.release()
        if self.metrics is not None:
            self.metrics.close()

    def _loop(self) -> int:
        """All steps that are left; returns the exit code of the process."""
        stop_at = self.plan.steps
        exit_code = 0
        with StopRequest() as stop, _collected_at_steps():
            if self.state.step == 0 and stop_at:
                self._measure()
            batches = Batches(self.plan.loader, self.ranks, first=self.state.step, stop=stop_at)
            for batch in batches:
                stopping = self.step(batch, asked_to_stop=stop.received is not None)
                last = self.state.step == stop_at
                if self._is_due(self.plan.recipe.eval.eval_interval) or last:
                    self._measure()
                if stopping and not last:
                    exit_code = stop.exit_code
                if last or exit_code or self._is_due(self.plan.recipe.save.save_interval):
                    self._save(wait=bool(last or exit_code or not self.plan.recipe.save.async_save))
                if exit_code:
                    break
                if self.state.step % _COLLECT_STEPS == 0:
                    gc.collect()
        return exit_code

    def step(self, batch: Batch, *, asked_to_stop: bool = False) -> bool:
        """One step of the optimizer on this rank's rows, with its line of metrics.

        Returns whether any rank was asked to stop.
        """
        started = time.perf_counter()
        factor = lr_factor(self.state.step, self.plan.steps, self.train)
        set_lr([self.optimizer], factor)
        parts = list(self._micro_batches(batch))
        own_targets = sum(part.num_targets for part in parts)
        num_targets = max(1.0, float(self._sum([own_targets])[0]))
        total = self._gradients(parts, num_targets)
        scale = self.loss_scale.scale
        norm = clip_gradients(self.trained, self.train.max_grad_norm * scale)
        summed = self._sum([float(total), float(asked_to_stop)])
        loss, grad_norm = summed[0] / num_targets, float(norm) / scale
        scaled = self.loss_scale.enabled
        why = self.guard.judge(self.state.step, loss, grad_norm, overflow_is_expected=scaled and scale > 1)
        if why is None:
            if scale != 1:
                torch._foreach_mul_(
                    [parameter.grad for parameter in self.trained if parameter.grad is not None], 1 / scale
                )
            self.optimizer.step()
        if why != "spike":
            self.loss_scale.update(overflowed=why is not None)
        self.optimizer.zero_grad(set_to_none=True)
        self.state = TrainState(
            self.state.step + 1,
            self.state.num_tokens + self.plan.tokens_per_step,
            {"guard": self.guard.state(), "loss_scale": self.loss_scale.state()},
        )
        self.last_loss = loss
        figures = {"loss": loss, "lr": self.train.lr * factor, "grad_norm": grad_norm}
        self._record(figures, why, int(num_targets), time.perf_counter() - started)
        return summed[1] > 0

    def _micro_batches(self, batch: Batch) -> Iterator[MicroBatch]:
        size = self.plan.micro_batch_size
        for start in range(0, len(batch.input_ids), size):
            rows = batch.rows(start, start + size)
            yield micro_batch(rows, self.ranks, document_mask=self.plan.recipe.data.document_mask)

    def _gradients(self, parts: list[MicroBatch], num_targets: float) -> Tensor:
        """Adds the gradients of all micro-batches up. Returns this rank's sum of losses."""
        total = torch.zeros((), dtype=torch.float64 if self.ranks.device.type != "mps" else torch.float32)
        total = total.to(self.ranks.device)
        first_row = self.ranks.data_rank * self.plan.micro_batch_size * self.plan.accumulation
        for number, part in enumerate(parts):
            if isinstance(self.model, FSDPModule):
                self.model.set_requires_gradient_sync(number == len(parts) - 1)
            if self.plan.recipe.lora is not None:
                row = first_row + number * self.plan.micro_batch_size
                set_dropout_key(
                    self.model,
                    seed=self.train.seed,
                    step=self.state.step,
                    sample_ids=range(row, row + self.plan.micro_batch_size),
                    first_position=self.ranks.columns(part.length).start,
                )
            loss = self.model(
                part.input_ids, part.positions, attend=part.attend, length=part.length, labels=part.labels
            )
            (loss * (self.loss_scale.scale / num_targets)).backward()
            total += loss.detach()
        return total

    def _sum(self, values: list[float]) -> list[float]:
        """Sums over the ranks that see different tokens, in double precision where the device has it."""
        if self.ranks.mesh is None:
            return values
        dtype = torch.float32 if self.ranks.device.type == "mps" else torch.float64
        return self.ranks.sum(torch.tensor(values, dtype=dtype, device=self.ranks.device)).tolist()

    def _record(self, figures: dict[str, float], why: str | None, num_targets: int, seconds: float) -> None:
        if self.metrics is None:
            return
        tokens = self.plan.tokens_per_step
        rate = tokens / seconds
        record: dict[str, Any] = {
            "step": self.state.step,
            "num_tokens": self.state.num_tokens,
            **figures,
            "tokens_per_second": rate,
            "step_seconds": seconds,
            "peak_memory_bytes": self._peak_memory(),
            "num_targets": num_targets,
            "mfu": None if self._peak is None else rate * self._flops / (self._peak * self.ranks.world),
        }
        if self.loss_scale.enabled:
            record["loss_scale"] = self.loss_scale.scale
        if why is not None:
            record |= {"skipped": why, "num_skipped": self.guard.num_skipped}
        self.metrics.step(record)
        if self.on_step is not None:
            self.on_step(record)

    def _peak_memory(self) -> int:
        if self.ranks.device.type == "cpu":
            return peak_memory_bytes() or 0
        return torch.accelerator.max_memory_allocated(self.ranks.device)

    def _is_due(self, interval: int) -> bool:
        return interval > 0 and self.state.step % interval == 0

    def _measure(self) -> None:
        """Evaluation losses and sampled continuations, to their files and the log."""
        recipe = self.plan.recipe
        if self._validation is None:
            rows, most = self.plan.micro_batch_size * self.ranks.data_world, recipe.eval.max_batches
            most = (
                None if most is None else most * self.plan.accumulation
            )  # the same sequences on any number of devices
            self._validation = self.plan.loader.validation(rows, most)
        place = {"step": self.state.step, "num_tokens": self.state.num_tokens}
        for found in evaluate(self.model, self._validation, self.ranks, document_mask=recipe.data.document_mask):
            if self.metrics is not None:
                bits = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
                log.info("step %d  %s: loss %.4f%s", self.state.step, found.name, found.loss, bits)
                figures = {"loss": found.loss, "bits_per_byte": found.bits_per_byte, "num_targets": found.num_targets}
                self.metrics.evaluation({**place, "name": found.name, **figures})
        if recipe.eval.prompts:
            prompts, length = recipe.eval.prompts, recipe.eval.max_new_tokens
            texts = continue_prompts(self.model, self.plan.tokenizer, prompts, self.ranks, max_new_tokens=length)
            for prompt, text in zip(prompts, texts, strict=True):
                if self.metrics is not None:
                    self.metrics.sample({**place, "prompt": prompt, "continuation": text})

    def _save(self, *, wait: bool) -> None:
        self.checkpoints.save(self.model, [self.optimizer], self.state, wait=wait)


def _base_digest(checkpoint: Checkpoint) -> str:
    """Of the weights below an adapter: their files as the manifest vouches for them, else by name and size."""
    path = checkpoint.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    sizes = {file.name: file.stat().st_size for file in files if file.suffix in _WEIGHT_FILES and file.is_file()}
    return json_digest([checkpoint.manifest.get("files", sizes), checkpoint.config.model_dump(mode="json")])


@contextlib.contextmanager
def _collected_at_steps() -> Generator[None]:
    """Python's collector is off inside: it would stop one rank at a time, and everyone would wait for it."""
    gc.collect()
    gc.freeze()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
