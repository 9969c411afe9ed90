"""Answers from the engine and from a server: the same in any company, and what happens when a server fails."""

import pytest

from aquila.errors import ConfigError, EvaluationError
from aquila.evaluate.engine_source import EngineSource
from aquila.evaluate.sampling import Prompt, Settings, Source, sample_seed
from aquila.evaluate.url_source import UrlSource
from aquila.generate.load import load
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.messages import Message
from aquila.zoo.download import Retry
from completion_server import completion_server
from parts import tiny_checkpoint

DRAWN = Settings(n=3, temperature=0.9, top_p=0.95, max_new_tokens=12)
AT_ONCE = Retry(attempts=3, sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


def prompts(*texts: str, n: int = 3) -> list[Prompt]:
    return [Prompt((text, i), text, seed=sample_seed(0, text, i)) for text in texts for i in range(n)]


def test_seeds_follow_from_run_task_and_number_alone():
    seeds = {sample_seed(run, task, i) for run in (0, 1) for task in ("a", "b") for i in range(50)}
    assert len(seeds) == 200
    assert sample_seed(0, "HumanEval/0", 0) == 1745681321
    assert max(seeds) < 2**31


def test_an_answer_is_the_same_alone_and_in_company(model):
    asked = prompts("def f(", "class A", "x = ")
    source: Source = EngineSource(model)
    together = {answer.key: answer.text for answer in source.sample(asked, DRAWN)}
    alone = {prompt.key: next(source.sample([prompt], DRAWN)).text for prompt in reversed(asked)}
    assert together == alone
    direct = model.generate("x = ", SamplingParams(0.9, 0, 0.95, max_new_tokens=12, seed=sample_seed(0, "x = ", 2)))
    assert together["x = ", 2] == direct[0].text
    assert len({together["x = ", i] for i in range(3)}) > 1


def test_prompts_of_one_text_are_computed_once(model):
    before = model.engine.stats.num_cached_tokens
    text = "def compute(first, second):\n    return first" * 2
    list(EngineSource(model).sample(prompts(text, n=4), DRAWN))
    cached = model.engine.stats.num_cached_tokens - before
    assert cached >= 3 * (len(model.prompt_ids(text)) - model.engine.runner.page_size)


def test_an_answer_ends_at_the_token_that_completes_it(model):
    source = EngineSource(model)
    (whole,) = source.sample(prompts("x = ", n=1), DRAWN)
    ended = Prompt(("x = ", 0), "x = ", seed=sample_seed(0, "x = ", 0), is_complete=lambda text: len(text) >= 3)
    (answer,) = source.sample([ended], DRAWN)
    assert (answer.finish_reason, answer.text) == ("stop", whole.text[: len(answer.text)])
    assert 3 <= len(answer.text) < len(whole.text)
    assert answer.num_tokens < whole.num_tokens
    assert not model.engine.busy


def test_a_prompt_without_room_has_an_empty_answer(model):
    (answer,) = EngineSource(model).sample(prompts("x" * 500, n=1), DRAWN)
    assert (answer.text, answer.finish_reason) == ("", "too_long")


def test_leaving_early_leaves_the_engine_free(model):
    answers = EngineSource(model).sample(prompts("a", "b"), DRAWN)
    next(answers)
    answers.close()
    assert not model.engine.busy


def test_facts_name_the_weights(model, tmp_path):
    facts = EngineSource(model, loaded_as={"dtype": "bf16", "quantize": None}).facts()
    assert (facts["source"], facts["training"], facts["loaded_as"]) == ("engine", None, {"dtype": "bf16"})
    assert len(facts["digest"]) == 64
    other = EngineSource(load(tiny_checkpoint(tmp_path / "other", hidden_size=64), device="cpu")).facts()
    assert other["digest"] != facts["digest"]


def test_a_base_model_cannot_answer_a_conversation(model):
    asked = [Prompt(("a", 0), messages=(Message("user", "hello"),))]
    with pytest.raises(ConfigError, match="has no chat template, so it cannot answer a conversation"):
        list(EngineSource(model).sample(asked, DRAWN))


def test_a_server_is_asked_by_the_routes_of_openai():
    settings = Settings(n=3, temperature=0.9, top_p=0.95, max_new_tokens=7, stop=("a", "b", "c", "d", "/1"))
    with completion_server() as server:
        source = UrlSource(server.url, api_key="secret", num_concurrent=2)
        talk = Prompt(("t", 1), messages=(Message("user", "hi"),), seed=5)
        answers = {a.key: a for a in source.sample([Prompt(("t", 0), "x", seed=123), talk], settings)}
        source.close()
    assert answers["t", 0].text == "x"  # cut at the fifth stop, which a server need not know
    assert (answers["t", 0].finish_reason, answers["t", 0].num_tokens) == ("stop", 5)
    assert (answers["t", 1].text, answers["t", 1].finish_reason) == ("None/5", "length")
    bodies = {path: body for path, body, _ in server.bodies}
    assert bodies["/v1/completions"] == {
        "model": "tiny",
        "max_tokens": 7,
        "temperature": 0.9,
        "top_p": 0.95,
        "seed": 123,
        "stop": ["a", "b", "c", "d"],
        "prompt": "x",
    }
    assert bodies["/v1/chat/completions"]["messages"] == [{"role": "user", "content": "hi"}]
    assert {headers["authorization"] for _, _, headers in server.bodies} == {"Bearer secret"}
    assert "secret" not in str(source.facts())


def test_a_request_that_fails_is_tried_again():
    with completion_server() as server:
        server.fail = lambda number: (503, {"error": {"message": "loading"}}) if number % 2 else None
        source = UrlSource(server.url, model="m", num_concurrent=1, retry=AT_ONCE)
        answers = list(source.sample(prompts("a", "b", n=1), DRAWN))
    assert [answer.key for answer in answers] == [("a", 0), ("b", 0)]
    assert len(server.bodies) == 4


def test_a_server_that_stops_answering_halfway_leaves_what_was_finished():
    finished = []
    with completion_server() as server:
        server.fail = lambda number: (503, {"error": "down"}) if number > 4 else None
        source = UrlSource(server.url, model="m", num_concurrent=1, retry=AT_ONCE)

        def take() -> None:
            finished.extend(answer.key for answer in source.sample(prompts("a", "b", "c"), DRAWN))

        with pytest.raises(EvaluationError) as caught:
            take()
    assert f"{server.url}/v1/completions: it says 503 down, 3 times in a row; see that" in str(caught.value)
    assert finished == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]


def test_a_server_that_is_not_there_is_named():
    with completion_server() as server:
        url = server.url
    source = UrlSource(url, model="m", retry=AT_ONCE)
    with pytest.raises(
        EvaluationError, match=f"{url}/v1/completions: the connection failed .*run the same command again"
    ):
        list(source.sample(prompts("a"), DRAWN))


def test_what_no_retry_mends_ends_at_once():
    with completion_server() as server:
        server.fail = lambda number: (401, {"error": {"message": "no key"}})
        with pytest.raises(EvaluationError, match="it says 401 no key; give a key by --api-key"):
            list(UrlSource(server.url, model="m", retry=AT_ONCE, num_concurrent=1).sample(prompts("a"), DRAWN))
        assert len(server.bodies) == 1
        server.fail = lambda number: (200, {"choices": []})
        with pytest.raises(EvaluationError, match=r"its answer is not of OpenAI's form \(IndexError"):
            list(UrlSource(server.url, model="m", retry=AT_ONCE).sample(prompts("a"), DRAWN))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x/", ""])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="give the address of a server, such as"):
        UrlSource(url)


def test_an_address_may_end_where_people_end_it():
    for tail in ("", "/", "/v1", "/v1/", "/v1/completions", "/v1/chat/completions"):
        assert UrlSource(f"http://h:1{tail}").base_url == "http://h:1/v1"


def test_a_server_with_echo_scores():
    with completion_server() as server:
        source = UrlSource(server.url, model="m")
        found = source.loglikelihood([("ab ", "cd"), ("a", "ab")])
    assert found[0] == (-(ord(" ") + ord("c") + ord("d")) / 256, True, False)
    assert found[1].total == -(ord("a") + ord("b")) / 256


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 20}, "20 greedy samples would all be the same"),
        ({"n": 0}, "n: must be at least 1"),
        ({"temperature": -1}, "temperature: must be between 0 and 100"),
        ({"top_p": 0}, "top_p: must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Settings(**wrong)
