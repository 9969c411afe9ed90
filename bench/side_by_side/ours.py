"""Aquila's side: requests through the engine, as every caller makes them. Run by `worker.Worker`."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import aquila
from aquila.checkpoint.adapter import Adapter
from aquila.generate.engine import Engine
from aquila.generate.request import Request
from aquila.generate.runner import Runner, SequenceStep
from aquila.generate.sampling import SamplingParams
from side_by_side.worker import Answer, serve


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    model = aquila.load(settings["path"], device="cpu", memory_limit=settings.get("memory_limit"))
    engine = model.engine
    drafts = engine.max_draft_tokens
    engine.max_draft_tokens = 0  # the peers guess nothing either, and random weights repeat themselves
    version = f"{aquila.__version__} ({type(engine.runner).__name__})"
    facts = {
        "version": version,
        "modes": {"alone": [{}], "batch": [{}]},
        "plan": model.plan.as_json() if model.plan else None,
    }

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        if "answer" in question:
            return run_recorded(engine, question["prompts"][0], question["answer"], drafts)
        return run(engine, question["prompts"], question["new"])

    return facts, answer


def run(engine: Engine, prompts: list[list[int]], new: int) -> dict[str, Any]:
    """Seconds until every prompt has its first token, and of the `new` tokens each that follow.

    The last prompts begin while the first already answer, so all ask for a few tokens more than are timed: during
    the timed part every sequence takes part in every step.
    """
    num_prompt_steps = sum(map(len, prompts)) // 256 + 8
    params = SamplingParams(temperature=0.0, max_new_tokens=new + num_prompt_steps, ignore_eos=True)
    started = time.perf_counter()
    ids = [engine.submit(Request(tuple(prompt), params)) for prompt in prompts]
    begun: set[int] = set()
    while len(begun) < len(ids):
        begun.update(delta.request_id for delta in engine.step())
    prefilled = time.perf_counter()
    num_tokens = sum(len(engine.step()) for _ in range(new))
    done = time.perf_counter()
    assert num_tokens == new * len(ids), f"{num_tokens} tokens in {new} steps of {len(ids)} sequences"
    for request_id in ids:
        engine.cancel(request_id)
    return {"prefill_seconds": prefilled - started, "decode_seconds": done - prefilled}


class Recorded:
    """A runner that computes every step and then says what was recorded, as a model that knew the answer would."""

    def __init__(self, runner: Runner, token_ids: Sequence[int]) -> None:
        self.runner = runner
        self.token_ids = token_ids
        self.page_size, self.num_pages = runner.page_size, runner.num_pages
        self.max_context, self.vocab_size = runner.max_context, runner.vocab_size
        self.draft_tokens, self.row_cost = runner.draft_tokens, runner.row_cost

    def load_adapter(self, adapter: Adapter) -> int:
        return self.runner.load_adapter(adapter)

    def step(self, batch: Sequence[SequenceStep]) -> np.ndarray:
        logits = self.runner.step(batch)
        (item,) = batch  # one sequence at a time
        first = item.start + len(item.token_ids) - item.num_logits + 1  # place of the token that row 0 is about
        for row, place in zip(logits, range(first, first + item.num_logits), strict=True):
            row[self.token_ids[min(place, len(self.token_ids) - 1)]] = 1e9
        return logits


def run_recorded(engine: Engine, prompt: list[int], answer: list[int], drafts: int) -> dict[str, Any]:
    """Seconds until the first token and of those that follow, lookup decoding on, the answer as recorded."""
    plain = engine.runner
    engine.runner, engine.max_draft_tokens = Recorded(plain, [*prompt, *answer]), drafts
    params = SamplingParams(temperature=0.0, max_new_tokens=len(answer), ignore_eos=True)
    started = time.perf_counter()
    engine.submit(Request(tuple(prompt), params))
    token_ids: list[int] = []
    while not token_ids:  # the prompt may take more than one step
        token_ids += [token_id for delta in engine.step() for token_id in delta.token_ids]
    prefilled = time.perf_counter()
    num_steps = 0
    while engine.busy:
        token_ids += [token_id for delta in engine.step() for token_id in delta.token_ids]
        num_steps += 1
    done = time.perf_counter()
    engine.runner, engine.max_draft_tokens = plain, 0
    assert token_ids == answer, "the recorded answer did not come out"
    return {"prefill_seconds": prefilled - started, "decode_seconds": done - prefilled, "steps": num_steps}


if __name__ == "__main__":
    serve(load)
