"""The default model's real weights, when they are on this machine: ours against transformers on the same GGUF."""

import os
from functools import cache
from pathlib import Path

import pytest
import torch

from aquila.checkpoint.open import open_checkpoint
from aquila.generate.engine import Engine
from aquila.generate.load import end_token_ids, load
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.generate.torch_runner import make_runner

PROMPTS = [
    "def is_prime(n):",
    "#补全代码\ndef quick_sort(x):",
    "class Stack:\n    def __init__(self):\n",
    "import numpy as np\n\ndef softmax(x):\n",
    "SELECT name, COUNT(*) FROM users",
    "The capital of France is",
    "Once upon a time, in a small village,",
    "人工智能是",
    "北京是中国的首都，",
    "for (int i = 0; i < 10; i++) {",
]
REAL_CACHE = Path(os.environ.get("AQUILA_HOME") or Path.home() / ".cache" / "aquila")  # before a test moves HOME
GGUF = REAL_CACHE / "models" / "smollm2-135m" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@cache
def expected_tokens(dtype: str) -> list[list[int]]:
    """What transformers gives for each prompt, from the same GGUF dequantised to `dtype`, computed in fp32."""
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32)
    if dtype == "fp16":
        for weight in theirs.parameters():
            weight.data = weight.data.half().float()
    model = load(GGUF, device="cpu")
    expected = []
    for prompt in PROMPTS:
        input_ids = torch.tensor([model.prompt_ids(prompt)])
        with torch.inference_mode():
            output = theirs.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=False,
                max_new_tokens=64,
                eos_token_id=list(model.engine.end_token_ids),
                pad_token_id=0,
            )
        expected.append(output[0, input_ids.shape[1] :].tolist())
    return expected


def torch_engine() -> Engine:
    """What `aquila.load` gives where the native kernels are not there."""
    checkpoint = open_checkpoint(GGUF)
    runner = make_runner(checkpoint, device="cpu", dtype="fp32", max_context=None, kv_bytes=1 << 30)
    tokenizer = checkpoint.load_tokenizer()
    return Engine(runner, tokenizer, end_token_ids=end_token_ids(checkpoint, tokenizer))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("runner", ["native fp32", "torch fp32", "native fp16"])
def test_greedy_tokens_equal_transformers(runner: str):
    """64 tokens on ten prompts, zh, en and code; ours all in one batch."""
    if not GGUF.is_file():
        pytest.skip(f"smollm2-135m is not on this machine ({GGUF}); run `aquila pull smollm2-135m`")
    kind, dtype = runner.split()
    model = load(GGUF, device="cpu", dtype=dtype)
    engine = torch_engine() if kind == "torch" else model.engine
    params = SamplingParams(temperature=0.0, max_new_tokens=64)
    requests = [Request(tuple(model.prompt_ids(prompt)), params) for prompt in PROMPTS]
    found = [group[0].token_ids for group in engine.generate(requests)]
    assert found == expected_tokens(dtype)
