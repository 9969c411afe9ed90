"""Packing a model takes memory for a few pieces of it, however large it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_parts import export, tiny_config, tiny_tokenizer, write

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
]

LIMIT_BYTES = 64 << 20  # five pieces of 4 MiB, and what rounding them takes
MEASURE = """
import json, pathlib, sys, gguf, aquila.checkpoint.packed_writer

def memory_bytes(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))

pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
before = memory_bytes("VmRSS")
aquila.checkpoint.packed_writer.quantise(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), to="w4")
print(json.dumps(memory_bytes("VmHWM") - before))
"""


@pytest.mark.parametrize(("kind", "quantize"), [("hf", None), ("gguf", None), ("gguf", "q4_0")])
def test_packing_needs_a_fraction_of_the_model(tmp_path: Path, kind: str, quantize: str | None):
    config = tiny_config(hidden_size=1024, intermediate_size=2816, num_hidden_layers=6, num_attention_heads=16)
    name = "model.gguf" if kind == "gguf" else "model"
    path = write(export(config, tokenizer=tiny_tokenizer()), tmp_path / name, kind, quantize)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, path, tmp_path / "model.aqw"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < LIMIT_BYTES
    assert (tmp_path / "model.aqw").stat().st_size > 34e6
