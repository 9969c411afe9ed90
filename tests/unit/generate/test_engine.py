"""What a request gets depends on itself alone; every page comes back."""

import random
import threading
from dataclasses import replace

import pytest

from aquila.errors import GenerationError
from aquila.generate.request import Completion, Delta, Request, assemble
from aquila.generate.sampling import SamplingParams
from parts import tiny_engine, tiny_model, tiny_tokenizer

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=20, ignore_eos=True, logprobs=0)
DRAWN = SamplingParams(temperature=1.0, top_k=20, top_p=0.9, max_new_tokens=20, seed=11, ignore_eos=True, logprobs=0)


def make_requests(seed: int) -> list[Request]:
    """Eight prompts of mixed lengths, three of which share a long beginning; greedy and seeded in turn."""
    rng = random.Random(seed)
    tokens = range(20, tiny_tokenizer().vocab_size)
    shared = tuple(rng.choices(tokens, k=37))
    prompts = [tuple(rng.choices(tokens, k=rng.choice([1, 3, 15, 16, 17, 40, 70]))) for _ in range(5)]
    prompts += [shared + tuple(rng.choices(tokens, k=k)) for k in (1, 9, 20)]
    return [
        Request(prompt, replace(DRAWN, seed=seed + i) if i % 2 else replace(GREEDY, max_new_tokens=5 + 4 * i))
        for i, prompt in enumerate(prompts)
    ]


def alone(request: Request) -> Completion:
    return tiny_engine(prefix_cache=False).generate([request])[0][0]


def run_staggered(engine, requests: list[Request], seed: int) -> list[Completion]:
    """Submits at different steps, in a random order of arrival."""
    rng = random.Random(seed)
    waiting = rng.sample(range(len(requests)), len(requests))
    ids: dict[int, int] = {}
    deltas: dict[int, list[Delta]] = {}
    while waiting or engine.busy:
        for _ in range(rng.choice([0, 1, 2])):
            if waiting:
                place = waiting.pop()
                ids[engine.submit(requests[place])] = place
        for delta in engine.step():
            deltas.setdefault(ids[delta.request_id], []).append(delta)
    return [assemble(request, deltas[place]) for place, request in enumerate(requests)]


def assert_same(found: Completion, expected: Completion) -> None:
    assert found.token_ids == expected.token_ids
    assert found.text == expected.text
    assert found.finish_reason == expected.finish_reason
    assert [e.logprob for e in found.logprobs] == pytest.approx([e.logprob for e in expected.logprobs], abs=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batched_tokens": 8, "max_sequences": 8},
        {"num_pages": 12},
        {"num_pages": 9, "max_batched_tokens": 16, "max_sequences": 16},
        {"prefix_cache": False, "num_pages": 12},
    ],
    ids=["roomy", "chunked", "preempted", "chunked and preempted", "no prefix cache"],
)
def test_batched_gives_the_tokens_of_one_by_one(options, seed):
    """Mixed lengths, arriving at different steps, in pieces, preempted, sharing beginnings: the same tokens."""
    requests = make_requests(seed)
    engine = tiny_engine(**options)
    for found, request in zip(run_staggered(engine, requests, seed), requests, strict=True):
        assert_same(found, alone(request))
    assert engine.pool.num_free == engine.pool.num_pages


def test_the_mixes_above_do_preempt_and_do_share():
    """Guards the test above: its pools are small enough and its prefixes long enough."""
    crowded, roomy = tiny_engine(num_pages=9), tiny_engine()
    run_staggered(crowded, make_requests(0), 0)
    run_staggered(roomy, make_requests(0), 0)
    assert crowded.stats.num_preemptions > 0
    assert roomy.stats.num_cached_tokens >= 32


def test_decoding_with_the_cache_equals_full_passes():
    """Prefill and decode give the greedy tokens of a model that sees the whole text anew for each."""
    import torch

    model = tiny_model(3)
    prompt = tuple(range(30, 55))
    found = tiny_engine(model).generate([Request(prompt, GREEDY)])[0][0].token_ids
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(GREEDY.max_new_tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert found == ids[len(prompt) :]


def test_several_completions_are_those_of_their_index():
    """n = 4 shares the prompt's pages; each differs, and is the same whatever runs beside it."""
    request = Request(tuple(range(30, 75)), replace(DRAWN, n=4))
    engine = tiny_engine()
    group = engine.generate([request])[0]
    beside = tiny_engine(num_pages=20).generate([*make_requests(1), request])[-1]
    assert [c.token_ids for c in group] == [c.token_ids for c in beside]
    assert len({tuple(c.token_ids) for c in group}) == 4
    assert [c.num_cached_tokens for c in group] == [0, 32, 32, 32]


def test_a_seed_is_reported_and_repeats_the_draw():
    request = Request((50, 60), replace(DRAWN, seed=None))
    first = tiny_engine().generate([request])[0][0]
    again = tiny_engine().generate([Request((50, 60), replace(DRAWN, seed=first.seed))])[0][0]
    assert again.token_ids == first.token_ids


def test_closing_a_stream_cancels_and_frees_its_pages():
    engine = tiny_engine()
    stream = engine.stream(Request((50, 60, 70), replace(DRAWN, n=2)))
    next(stream)
    stream.close()
    assert not engine.busy
    assert engine.pool.num_free == engine.pool.num_pages


def test_streams_that_are_read_in_turn_do_not_mix():
    engine = tiny_engine()
    requests = make_requests(2)[:3]
    streams = [engine.stream(request) for request in requests]
    deltas: list[list[Delta]] = [[], [], []]
    live = set(range(3))
    while live:
        for place in sorted(live):
            delta = next(streams[place], None)
            if delta is None:
                live.remove(place)
            else:
                deltas[place].append(delta)
    for request, found in zip(requests, deltas, strict=True):
        assert_same(assemble(request, found), alone(request))


def test_several_threads_at_one_engine():
    """Each gets what it would alone, whole or as a stream, whoever's step computed it."""
    engine = tiny_engine()
    requests = make_requests(5)
    expected = [alone(request) for request in requests]
    found: dict[int, list[Completion]] = {place: [] for place in range(len(requests))}

    def ask(place: int) -> None:
        for turn in range(4):
            if turn % 2:
                found[place].append(assemble(requests[place], list(engine.stream(requests[place]))))
            else:
                found[place].append(engine.generate([requests[place]])[0][0])

    threads = [threading.Thread(target=ask, args=[place], daemon=True) for place in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for place, completions in found.items():
        assert len(completions) == 4
        for completion in completions:
            assert_same(completion, expected[place])
    assert engine.pool.num_free == engine.pool.num_pages


def test_cancel_says_so_and_later_cancels_say_nothing():
    engine = tiny_engine()
    request_id = engine.submit(Request((50, 60), replace(DRAWN, n=2)))
    engine.step()
    assert [d.finish_reason for d in engine.cancel(request_id)] == ["cancelled", "cancelled"]
    assert engine.cancel(request_id) == []
    assert engine.step() == []


def test_output_is_clamped_to_the_context():
    request = Request(tuple(range(20, 140)), replace(GREEDY, max_new_tokens=1000))
    completion = tiny_engine().generate([request])[0][0]
    assert len(completion.token_ids) == 8
    assert completion.finish_reason == "length"


def test_a_stop_string_ends_the_text_before_it():
    """The stop string may span tokens; what came before it is all there, and nothing of it."""
    whole = alone(Request((50, 60), GREEDY))
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    request = Request((50, 60), replace(GREEDY, stop=(stop,)))
    engine = tiny_engine()
    deltas = list(engine.stream(request))
    completion = assemble(request, deltas)
    assert completion.text == whole.text[: whole.text.index(stop)]
    assert completion.finish_reason == "stop"
    assert engine.pool.num_free == engine.pool.num_pages


def test_end_tokens_end_it_and_are_not_text():
    whole = alone(Request((50, 60), GREEDY))
    end = whole.token_ids[4]
    first = whole.token_ids.index(end) + 1
    by_request = tiny_engine().generate([Request((50, 60), replace(GREEDY, stop_token_ids=(end,)))])[0][0]
    by_model = tiny_engine(end_token_ids=[end]).generate([Request((50, 60), replace(GREEDY, ignore_eos=False))])[0][0]
    ignoring = tiny_engine(end_token_ids=[end]).generate([Request((50, 60), GREEDY)])[0][0]
    for completion in (by_request, by_model):
        assert completion.token_ids == whole.token_ids[:first]
        assert completion.finish_reason == "stop"
        assert whole.text.startswith(completion.text)
    assert ignoring.token_ids == whole.token_ids


def test_logprobs_are_those_of_the_model():
    """Log-softmax of the raw logits, whatever the temperature and penalties."""
    import torch

    model = tiny_model(5)
    prompt = (33, 44, 55)
    params = replace(DRAWN, logprobs=3, repetition_penalty=1.3, temperature=0.7)
    completion = tiny_engine(model).generate([Request(prompt, params)])[0][0]
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *completion.token_ids]]))[0]
    expected = logits.log_softmax(-1)
    for place, entry in enumerate(completion.logprobs):
        row = expected[len(prompt) - 1 + place]
        assert entry.logprob == pytest.approx(row[entry.token_id].item(), abs=1e-4)
        assert [token_id for token_id, _ in entry.top] == row.topk(3).indices.tolist()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [((), "the prompt is empty"), (tuple(range(128)), "the prompt has 128 tokens, the context holds 128")],
)
def test_a_prompt_that_cannot_run_is_refused_at_once(prompt, message):
    engine = tiny_engine()
    with pytest.raises(GenerationError, match=message):
        engine.submit(Request(prompt, GREEDY))
    assert not engine.busy


def test_a_generate_call_that_fails_leaves_nothing_behind():
    """The second prompt is refused: the first one must not stay in the queue."""
    engine = tiny_engine()
    with pytest.raises(GenerationError):
        engine.generate([Request((50,), GREEDY), Request((), GREEDY)])
    assert not engine.busy


def test_weights_that_cannot_fit_are_refused_before_loading():
    from aquila.generate.torch_runner import require_memory
    from aquila.machine import Memory

    memory = Memory(total_bytes=24 << 30, available_bytes=20 << 30, limited_by=None)
    require_memory(20 << 30, "fp32", memory)
    with pytest.raises(GenerationError, match=r"the weights take 27\.2 GiB in fp32, and 20 GiB .* dtype bf16"):
        require_memory(7_295_537_152 * 4, "fp32", memory)


def test_dynamic_scaling_serves_a_longer_context_when_asked():
    from aquila.generate.load import longest_context
    from parts import tiny_config

    assert longest_context(tiny_config()) == 128
    assert longest_context(tiny_config(rope_scaling={"type": "dynamic", "factor": 4.0})) == 512
    assert longest_context(tiny_config(rope_scaling={"type": "linear", "factor": 4.0})) == 128
