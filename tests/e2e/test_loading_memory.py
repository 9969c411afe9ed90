"""Loading a model costs little more memory than its weights: each is read once, into the place where it is used."""

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

LIMIT = 1.15  # peak over the bytes of the weights
MEASURE = """
import json, pathlib, sys, aquila, aquila.generate.load, gguf
from aquila.checkpoint.open import open_checkpoint

def memory_bytes(field):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":"))

def start():
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    return memory_bytes("VmRSS")

kind, path = sys.argv[1], pathlib.Path(sys.argv[2])
if kind == "torch":
    from aquila.generate.torch_runner import make_runner
    before = start()
    runner = make_runner(open_checkpoint(path), device="cpu", dtype="fp32", max_context=None, kv_bytes=1 << 20)
    weights = {weight.data_ptr(): weight for weight in runner.model.parameters()}.values()
    touched = sum(float(weight.sum()) for weight in weights)  # mapped pages count once they are read
    num_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
else:
    import aquila.generate.native_runner
    from aquila.kernels import _native
    before = start()
    model = aquila.load(path, device="cpu", dtype="fp32", kv_bytes=1 << 20)
    num_bytes = _native.allocated_bytes()  # written whole
print(json.dumps({"num_bytes": num_bytes, "peak_bytes": memory_bytes("VmHWM") - before}))
"""


@pytest.mark.parametrize("runner", ["native", "torch"])
@pytest.mark.parametrize(
    ("kind", "dtype", "quantize"),
    [("native", "fp32", None), ("native", "fp16", None), ("hf", "bf16", None), ("gguf", "fp16", "q8_0")],
)
def test_loading_to_fp32_costs_at_most_1_15_times_the_weights(
    tmp_path: Path, kind: str, dtype: str, quantize: str | None, runner: str
):
    config = tiny_config(hidden_size=1024, intermediate_size=2816, num_hidden_layers=6, num_attention_heads=16)
    name = "model.gguf" if kind == "gguf" else "model"
    path = write(export(config, dtype, tokenizer=tiny_tokenizer()), tmp_path / name, kind, quantize)
    done = subprocess.run([sys.executable, "-c", MEASURE, runner, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["num_bytes"] > 250e6
    assert measured["peak_bytes"] <= LIMIT * measured["num_bytes"]
