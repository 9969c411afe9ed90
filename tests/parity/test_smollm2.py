"""The default model's real weights, when they are on this machine: ours against transformers on the same GGUF."""

import os
from pathlib import Path

import pytest
import torch

from aquila.generate.load import load
from aquila.generate.sampling import SamplingParams

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


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_greedy_tokens_equal_transformers():
    """64 tokens on ten prompts, zh, en and code, fp32; ours all in one batch."""
    if not GGUF.is_file():
        pytest.skip(f"smollm2-135m is not on this machine ({GGUF}); run `aquila pull smollm2-135m`")
    from transformers import AutoModelForCausalLM

    model = load(GGUF)
    params = SamplingParams(temperature=0.0, max_new_tokens=64)
    completions = model.generate(PROMPTS, params)
    theirs = AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        input_ids = torch.tensor([model.prompt_ids(prompt)])
        with torch.inference_mode():
            expected = theirs.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=False,
                max_new_tokens=64,
                eos_token_id=list(model.engine.end_token_ids),
                pad_token_id=0,
            )[0, input_ids.shape[1] :]
        assert completion.token_ids == expected.tolist(), prompt
