"""Conversion: whole or not at all, within little memory."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aquila.checkpoint.checkpoint import Export
from aquila.checkpoint.convert import convert
from aquila.checkpoint.names import expected_tensors
from aquila.checkpoint.open import open_checkpoint
from aquila.checkpoint.tensors import LazyTensor, from_array
from aquila.errors import CheckpointError, ConfigError
from aquila.model.config import to_hugging_face
from aquila.tokenizer.templates import TEMPLATES, template_for
from checkpoint_parts import export, random_tensors, tiny_config, tiny_tokenizer, write

NAMES = {"native": "out", "hf": "out", "flagai": "out", "gguf": "out.gguf"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(export(tiny_config(), tokenizer=tiny_tokenizer()), tmp_path / "source", "hf")


@pytest.mark.parametrize("to", NAMES)
def test_progress_ends_at_the_total(tmp_path: Path, source: Path, to: str):
    seen: list[tuple[int, int]] = []
    convert(source, tmp_path / NAMES[to], to=to, dtype="fp16", progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert open_checkpoint(tmp_path / NAMES[to]).dtype == "fp16"


@pytest.mark.parametrize("to", NAMES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, source: Path, to: str, error: BaseException):
    """Ctrl-C or a full disk in the middle of the weights."""

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise error

    before = sorted(tmp_path.iterdir())
    with pytest.raises((KeyboardInterrupt, CheckpointError)) as caught:
        convert(source, tmp_path / NAMES[to], to=to, progress=stop)
    assert sorted(tmp_path.iterdir()) == before
    if caught.type is CheckpointError:
        assert "No space left on device; nothing was left behind, free some space" in str(caught.value)


@pytest.mark.parametrize("to", NAMES)
def test_an_existing_destination_is_kept(tmp_path: Path, source: Path, to: str):
    if to == "gguf":
        kept = tmp_path / NAMES[to]
    else:
        (tmp_path / NAMES[to]).mkdir()
        kept = tmp_path / NAMES[to] / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        convert(source, tmp_path / NAMES[to], to=to)
    assert kept.read_text() == "mine"


def test_an_empty_folder_may_be_the_destination(tmp_path: Path, source: Path):
    (tmp_path / "out").mkdir()
    assert open_checkpoint(convert(source, tmp_path / "out", to="native")).format == "native"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out", {"to": "onnx"}, "--to is 'onnx'; choose one of native, hf, flagai, gguf"),
        ("out", {"to": "hf", "dtype": "int8"}, "--dtype is 'int8'; choose one of fp32, fp16, bf16"),
        ("a.gguf", {"to": "gguf", "quantize": "q2_k"}, "--quantize is 'q2_k'; choose one of q8_0, q4_0"),
        ("out", {"to": "hf", "quantize": "q8_0"}, "goes with --to gguf only"),
        ("a.gguf", {"to": "gguf", "quantize": "q8_0", "dtype": "fp16"}, "exclude each other"),
        ("out", {"to": "gguf"}, r"let the destination end in \.gguf"),
        ("a.gguf", {"to": "hf"}, r"drop the \.gguf ending"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(
    tmp_path: Path, source: Path, name: str, options: dict[str, str], message: str
):
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / name, **options)


def test_a_value_beyond_fp16_stops_the_conversion(tmp_path: Path):
    tensors = random_tensors(tiny_config())
    tensors["model.norm.weight"] = from_array(np.full(32, 1e6, np.float32))
    source = write(Export(tiny_config(), tensors, "fp32"), tmp_path / "source", "hf")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: the value 1e\+06 does not fit fp16"):
        convert(source, tmp_path / "out", to="native", dtype="fp16")
    assert not (tmp_path / "out").exists()


def test_a_quantised_source_becomes_fp16_unless_told_otherwise(tmp_path: Path):
    source = write(export(tiny_config()), tmp_path / "a.gguf", "gguf", "q4_0")
    assert open_checkpoint(convert(source, tmp_path / "out", to="hf")).dtype == "fp16"


def test_a_disk_too_small_is_noticed_before_writing(tmp_path: Path):
    """A sparse file of 2 TB stands for a model that no test machine has room for."""
    config = tiny_config(vocab_size=1 << 22, hidden_size=1 << 17, num_attention_heads=1 << 10)
    names, sizes = expected_tensors(config), 0
    header = {}
    for name, shape in names.items():
        begin, sizes = sizes, sizes + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, sizes]}
    source = write(export(tiny_config()), tmp_path / "source", "hf")
    (source / "config.json").write_text(json.dumps(to_hugging_face(config, "float32")))
    text = json.dumps(header).encode()
    with (source / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            file.truncate(8 + len(text) + sizes)
        except OSError:
            pytest.skip("this file system has no files of that size")
    with pytest.raises(CheckpointError, match=r"needs [\d.]+ TiB but .* has [\d.]+ \w+ free"):
        convert(source, tmp_path / "out", to="native")


MEASURE = """
import sys
from pathlib import Path
import gguf, torch, torch.serialization  # counted before: the promise is about weights
import aquila.tokenizer.load
from aquila.checkpoint.convert import convert

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))

before = peak()
convert(Path(sys.argv[1]), Path(sys.argv[2]), to=sys.argv[3], quantize=sys.argv[4] or None)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path):
    """A checkpoint of 0.9 GB through every writer; a process stays below 150 MB over its imports."""
    config = tiny_config(
        vocab_size=8192, hidden_size=4096, intermediate_size=11008, num_attention_heads=32, num_key_value_heads=32
    )
    pool = np.random.default_rng(0).standard_normal(24 << 20, np.float32).astype(np.float16)

    def lazy(shape: tuple[int, ...]) -> LazyTensor:
        width = int(np.prod(shape[1:]))
        return LazyTensor(shape, pool.dtype, lambda a, b: pool[: (b - a) * width].reshape(b - a, *shape[1:]))

    tensors = {name: lazy(shape) for name, shape in expected_tensors(config).items()}
    source = write(Export(config, tensors, "fp16"), tmp_path / "source", "hf")
    assert (source / "model.safetensors").stat().st_size > 900e6
    steps = [
        (source, "a", "native", ""),
        (tmp_path / "a", "b", "flagai", ""),
        (tmp_path / "b", "c.gguf", "gguf", "q8_0"),
    ]
    for path, name, to, quantize in steps:
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / name), to, quantize]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert int(done.stdout) < 150e6, f"{to} took {int(done.stdout) / 1e6:.0f} MB more"
        shutil.rmtree(path)  # 0.9 GB each


def test_a_damaged_source_leaves_nothing(tmp_path: Path, source: Path):
    (source / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="truncated or not safetensors"):
        convert(source, tmp_path / "out", to="native")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["native", "hf", "gguf"])
def test_a_named_chat_template_goes_along(tmp_path: Path, to: str):
    """As Jinja for other programs; ours knows its own by name again, with its stop strings."""
    tokenizer = tiny_tokenizer()
    assert tokenizer.chat_template is None
    made = export(tiny_config(), tokenizer=tokenizer)
    named = dataclasses.replace(made, record={**made.record, "chat_template": "aquila-v2"})
    source = write(named, tmp_path / "source", "native")
    convert(source, tmp_path / NAMES[to], to=to)
    found = open_checkpoint(tmp_path / NAMES[to]).load_tokenizer()
    assert template_for(None, found) is TEMPLATES["aquila-v2"]
