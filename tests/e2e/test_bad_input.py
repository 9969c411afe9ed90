"""What a user gets wrong, and files that are not what they say: one line with what, where and what to do."""

import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_parts import export, tiny_config, tiny_tokenizer, write

pytestmark = pytest.mark.e2e


@pytest.fixture
def error(aquila) -> Callable[..., str]:
    """The one line of a command that fails."""

    def run(*arguments: str | bytes | Path, exit_code: int, stdin: bytes = b"") -> str:
        done = aquila(*arguments, exit_code=exit_code, stdin=stdin)
        assert done.stdout == b""
        return done.stderr.decode().splitlines()[-1]

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--temperature -1", "temperature: must be between 0.0 and 100.0, got -1.0"),
        ("--temperature warm", "Invalid value for '--temperature'"),
        ("--top-p 2", "top_p: must be between 0.0 and 1.0, got 2.0"),
        ("--n 0", "n: must be between 1 and 1024, got 0"),
        ("--max-new-tokens 0", "max_new_tokens: must be between 1 and"),
        ("--temprature 0", "No such option: --temprature"),
        ("--logprobs 2", "--logprobs has a place in JSON only; add --json"),
        ("--stream --json", "--stream prints one continuation as it comes"),
        ("--model smolm2-135m", "did you mean 'smollm2-135m'?"),
        ("--model /nowhere/model", "/nowhere/model: no such file or folder"),
        ("--file /nowhere/text", "a prompt and --file were both given"),
    ],
)
def test_a_wrong_option_is_named(error, options: str, message: str):
    assert message in error("generate", *options.split(), "def f():", exit_code=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "tpu:x"), "device: 'tpu:x' is not here; this machine has cpu"),
        (("--dtype", "fp8"), "dtype: 'fp8' is not one of fp32, fp16, bf16"),
        (("--max-context", "129"), "max_context: 129 is not between 1 and the 128 positions"),
        (("-m", ""), "the name of the model is empty"),
    ],
)
def test_what_only_a_model_can_tell_is_named(error, checkpoint: Path, options: tuple[str, str], message: str):
    assert message in error("generate", "-m", checkpoint, *options, "def f():", exit_code=2)


def test_prompts_that_are_empty_or_no_text(error, checkpoint: Path, tmp_path: Path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    command = ("generate", "-m", checkpoint)
    assert "the prompt is empty" in error(*command, "", exit_code=2)
    assert "the prompt is empty" in error(*command, exit_code=2)
    assert "the prompt: byte 3 (0xe9) is not UTF-8" in error(*command, b"caf\xe9", exit_code=2)
    assert "standard input: byte 2 (0xff) is not UTF-8" in error(*command, stdin=b"ab\xff", exit_code=2)
    assert "latin.txt: byte 3 (0xe9) is not UTF-8" in error(*command, "-f", tmp_path / "latin.txt", exit_code=2)
    assert "is not a file; give the path of a text" in error(*command, "-f", tmp_path, exit_code=2)


def test_a_prompt_longer_than_the_context(error, checkpoint: Path):
    message = error("generate", "-m", checkpoint, "word " * 200, exit_code=1)
    assert "the context holds 128 and one must be left for the answer; shorten the prompt" in message


def test_a_model_that_was_not_pulled(error):
    assert error("generate", "-m", "aquila-7b", "x", exit_code=1).endswith("run `aquila pull aquila-7b`")


def write_tiny(path: Path, kind: str) -> Path:
    return write(export(tiny_config(), tokenizer=tiny_tokenizer()), path, kind)


@pytest.mark.parametrize(
    ("change", "exit_code", "message"),
    [
        ({"model_type": "gpt2"}, 2, "model_type 'gpt2' is not a Llama-shaped architecture"),
        ({"rms_norm_eps": math.nan}, 2, "rms_norm_eps: Input should be a finite number, got nan"),
        ({"hidden_size": 10**12}, 2, "hidden_size: Input should be less than or equal to"),
        ({"num_hidden_layers": 3}, 1, "9 missing: model.layers.2.input_layernorm.weight [32]"),
        ({"intermediate_size": 64}, 1, "of wrong shape: model.layers.0.mlp.gate_proj.weight is [96, 32]"),
    ],
)
def test_a_config_that_lies(error, tmp_path: Path, change: dict, exit_code: int, message: str):
    folder = write_tiny(tmp_path / "model", "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    line = error("generate", "-m", folder, "x", exit_code=exit_code)
    assert message in line
    assert line.startswith(f"error: {folder}")


def test_weights_that_are_cut_or_flipped(error, aquila, tmp_path: Path):
    folder = write_tiny(tmp_path / "model", "native")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    assert "the copy is incomplete, fetch it again" in error("generate", "-m", folder, "x", exit_code=1)
    flipped = bytearray(whole)
    flipped[-500] ^= 0x10
    weights.write_bytes(flipped)
    done = aquila("verify", folder, exit_code=1)
    assert b"wrong    model.safetensors: sha256 is" in done.stdout


def test_weights_that_are_no_numbers(error, tmp_path: Path):
    folder = write_tiny(tmp_path / "model", "hf")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", math.nan))
    message = error("generate", "-q", "-m", folder, "x", exit_code=1)
    assert "its weights are damaged (`aquila verify` tells)" in message


class Code:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(error, tmp_path: Path):
    folder = write_tiny(tmp_path / "model", "flagai")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Code(tmp_path / "ran")}, protocol=2))
    message = error("generate", "-m", folder, "x", exit_code=1)
    assert str(folder / "pytorch_model.bin") in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("offset", [1 << 40, 0, 7])
def test_a_gguf_with_lying_offsets(error, tmp_path: Path, offset: int):
    path = write_tiny(tmp_path / "model.gguf", "gguf")
    data = bytearray(path.read_bytes())
    name = b"blk.0.attn_q.weight"
    place = data.find(name) + len(name) + 4 + 16 + 4  # behind the name: dimensions, two sizes, type
    data[place : place + 8] = struct.pack("<Q", offset)
    path.write_bytes(data)
    message = error("generate", "-m", path, "x", exit_code=1)
    assert message.startswith(f"error: {path}: tensor 'blk.0.attn_q.weight' ")
    assert message.endswith("fetch it again")
