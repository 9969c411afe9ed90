"""Aquila's side: requests through the engine, as every caller makes them. Run by `worker.Worker`."""

import time
from typing import Any

import aquila
from aquila.generate.engine import Engine
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from side_by_side.worker import Answer, serve


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    engine = aquila.load(settings["path"], device="cpu").engine
    engine.max_draft_tokens = 0  # the peers guess nothing either, and random weights repeat themselves
    version = f"{aquila.__version__} ({type(engine.runner).__name__})"
    version = f"{aquila.__version__} ({type(engine.runner).__name__})"
    facts = {"version": version, "modes": {"alone": [{}], "batch": [{}]}}
    return facts, lambda question: run(engine, question["prompts"], question["new"])


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


if __name__ == "__main__":
    serve(load)
