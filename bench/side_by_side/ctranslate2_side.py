"""CTranslate2's side, int8: random weights in the model's shape, made on first use. Run by `worker.Worker`.

It reads no GGUF, so its file has other random numbers than ours; prompt processing takes the same time for all.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2  # ty: ignore[import-not-found]
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec  # ty: ignore[import-not-found]

from side_by_side.worker import Answer, serve


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    path = Path(settings["path"])
    folder = path.with_name(f"{path.stem}-ctranslate2-int8")
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            make_model(settings["shape"], Path(temporary) / "model")
            (Path(temporary) / "model").rename(folder)
    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=settings["threads"]
    )
    facts = {"version": f"ctranslate2 {ctranslate2.__version__}", "modes": {"alone": [{}], "batch": [{}]}}
    return facts, lambda question: run(generator, question["prompts"])


def run(generator: Any, prompts: list[list[int]]) -> dict[str, Any]:
    """Seconds until every prompt has its first token."""
    tokens = [[token_text(token_id) for token_id in prompt] for prompt in prompts]
    started = time.perf_counter()
    generator.generate_batch(tokens, max_length=1, beam_size=1, sampling_topk=1, include_prompt_in_result=False)
    return {"prefill_seconds": time.perf_counter() - started}


def token_text(token_id: int) -> str:
    return f"t{token_id}"


def make_model(shape: dict[str, Any], folder: Path) -> None:
    """Writes a Llama of the shape (fields of our `ModelConfig`) as CTranslate2's converter would."""
    hidden, ffn = shape["hidden_size"], shape["intermediate_size"]
    heads, kv_heads, head_dim = (shape[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        shape["num_hidden_layers"],
        heads,
        pre_norm=True,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_base=shape["rope_theta"],
        num_heads_kv=None if kv_heads == heads else kv_heads,
    )
    matrix = _random_matrices(0)
    norm = np.ones(hidden, np.float32)
    spec.decoder.scale_embeddings = False
    spec.decoder.embeddings.weight = matrix(shape["vocab_size"], hidden)
    spec.decoder.layer_norm.gamma = norm
    for layer in spec.decoder.layer:
        layer.self_attention.layer_norm.gamma = layer.ffn.layer_norm.gamma = norm
        layer.self_attention.linear[0].weight = matrix((heads + 2 * kv_heads) * head_dim, hidden)
        layer.self_attention.linear[1].weight = matrix(hidden, heads * head_dim)
        layer.ffn.linear_0.weight = matrix(ffn, hidden)
        layer.ffn.linear_0_noact.weight = matrix(ffn, hidden)
        layer.ffn.linear_1.weight = matrix(hidden, ffn)
    spec.decoder.projection.weight = matrix(shape["vocab_size"], hidden)
    spec.register_vocabulary([token_text(token_id) for token_id in range(shape["vocab_size"])])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = token_text(0)
    spec.config.layer_norm_epsilon = shape["rms_norm_eps"]
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir()
    spec.save(str(folder))


def _random_matrices(seed: int) -> Callable[[int, int], np.ndarray]:
    generator = np.random.Generator(np.random.SFC64(seed))

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.random((rows, columns), np.float32) - np.float32(0.5)) * np.float32((3 / columns) ** 0.5)

    return matrix


if __name__ == "__main__":
    serve(load)
