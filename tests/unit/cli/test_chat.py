"""`aquila chat` outside of a terminal: one message in, plain text out."""

import io
from pathlib import Path

import pytest

from adapter_parts import random_adapter
from aquila.chat.session import ChatSession
from aquila.cli.chat import chat
from aquila.errors import ConfigError
from aquila.generate.load import Model, load
from aquila.generate.sampling import SamplingParams
from checkpoint_parts import export, tiny_config, tiny_tokenizer, write

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(max_position_embeddings=512)
    what = export(config, tokenizer=tiny_tokenizer())
    return write(what, tmp_path_factory.mktemp("chat") / "tiny", "native")


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Model:
    return load(checkpoint)


def give_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def test_a_pipe_gets_the_sessions_answer_and_nothing_else(checkpoint: Path, model: Model, capsys, monkeypatch):
    give_stdin(monkeypatch, "补全\n第二行\n".encode())
    chat(model=str(checkpoint), temperature=0.0, max_new_tokens=12, quiet=True)
    expected = "".join(ChatSession(model, params=GREEDY).send("补全\n第二行")).removesuffix("\n")
    assert capsys.readouterr() == (expected + "\n", "")


def test_a_prompt_is_answered_without_reading_stdin(checkpoint: Path, capsys, monkeypatch):
    give_stdin(monkeypatch, b"\xff")
    chat("hi", model=str(checkpoint), temperature=0.0, max_new_tokens=3)
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert "loading" in err
    assert "tokens/s" in err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\xffc", r"standard input: byte 2 \(0xff\) is not UTF-8"),
        (b" \n", "standard input is empty"),
    ],
)
def test_unusable_input_is_refused_before_a_model_is_loaded(data: bytes, message: str, monkeypatch):
    give_stdin(monkeypatch, data)
    with pytest.raises(ConfigError, match=message):
        chat(model="nothing/here")


def test_unusable_options_are_refused_before_a_model_is_loaded():
    with pytest.raises(ConfigError, match="temperature: must be between"):
        chat("hi", model="nothing/here", temperature=-1.0)
    with pytest.raises(ConfigError, match="chat template 'aquilla' is unknown; did you mean 'aquila'"):
        chat("hi", model="nothing/here", template="aquilla")


def test_an_answer_is_given_with_an_adapter(checkpoint: Path, tmp_path: Path, capsys):
    folder = random_adapter(tmp_path / "a", tiny_config(max_position_embeddings=512))
    chat("hi", model=str(checkpoint), temperature=0.0, max_new_tokens=12, quiet=True, adapter=folder)
    adapted = capsys.readouterr().out
    loaded = load(checkpoint, adapters={"mine": folder})
    session = ChatSession(loaded, params=GREEDY, adapter="mine")
    assert adapted.removesuffix("\n") == "".join(session.send("hi")).removesuffix("\n")
    chat("hi", model=str(checkpoint), temperature=0.0, max_new_tokens=12, quiet=True)
    assert capsys.readouterr().out != adapted


def test_quantisation_and_memory_limit_reach_the_model(checkpoint: Path, capsys):
    with pytest.raises(ConfigError, match="quantize: 'w5' is not one of w4, w4m, w8"):
        chat("hi", model=str(checkpoint), quantize="w5")
    with pytest.raises(ConfigError, match="memory_limit: 0 leaves no memory at all"):
        chat("hi", model=str(checkpoint), memory_limit="0")
    chat("hi", model=str(checkpoint), temperature=0.0, max_new_tokens=4, quiet=True, quantize="w8")
    assert capsys.readouterr().out.endswith("\n")


def test_closing_an_answer_frees_the_engine_and_the_conversation_goes_on(model: Model):
    session = ChatSession(model, params=GREEDY)
    answer = session.send("Q1")
    next(answer)
    assert model.engine.busy
    answer.close()
    assert not model.engine.busy
    assert len(session.rounds) == 1
    list(session.send("Q2"))
    assert len(session.rounds) == 2
