"""llama.cpp's side: its C API by way of llama-cpp-python, one `llama_decode` a step. Run by `worker.Worker`.

The peer at its best: flash attention on and off, and for several sequences one cache for all or one each, are modes of
their own, of which the bench takes the fastest. numpy's argmax over the logits is the whole of the sampling.
"""

import ctypes
import time
from typing import Any

import llama_cpp  # ty: ignore[import-not-found]
import numpy as np

from side_by_side.worker import Answer, serve

MAX_BATCH = 512


def load(settings: dict[str, Any]) -> tuple[dict[str, Any], Answer]:
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = not settings.get("mmap", False)  # else weights are copied in another order, and stay
    model = llama_cpp.llama_model_load_from_file(settings["path"].encode(), params)
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {settings['path']}")
    side = LlamaCpp(model, settings["threads"])
    facts = {
        "version": f"llama-cpp-python {llama_cpp.__version__}",
        "modes": {
            "alone": [{"flash": flash, "unified": True} for flash in (False, True)],
            "batch": [{"flash": flash, "unified": unified} for flash in (False, True) for unified in (False, True)],
        },
    }
    return facts, side.answer


class LlamaCpp:
    """A loaded model and the contexts of the case that runs now, one a mode."""

    def __init__(self, model: Any, threads: int) -> None:
        self.model = model
        self.threads = threads
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(MAX_BATCH, 0, 1)
        self.tokens = np.ctypeslib.as_array(self.batch.token, (MAX_BATCH,))
        self.positions = np.ctypeslib.as_array(self.batch.pos, (MAX_BATCH,))
        self.wanted = np.ctypeslib.as_array(self.batch.logits, (MAX_BATCH,))
        np.ctypeslib.as_array(self.batch.n_seq_id, (MAX_BATCH,))[:] = 1
        self.shape = (0, 0)
        self.contexts: dict[tuple[bool, bool], Any] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        prompts, new, mode = question["prompts"], question["new"], question["mode"]
        shape = (len(prompts), len(prompts[0]) + new + 1)
        if shape != self.shape:
            for context in self.contexts.values():
                llama_cpp.llama_free(context)
            self.shape, self.contexts = shape, {}
        key = (mode["flash"], mode["unified"])
        if key not in self.contexts:
            self.contexts[key] = self._make_context(*key)
        return self.run(self.contexts[key], prompts, new)

    def run(self, context: Any, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """Seconds until every prompt has its first token, and of the `new` tokens each that follow."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        count = len(prompts)
        flat = np.array(prompts, np.int32).reshape(-1)
        length = len(prompts[0])
        started = time.perf_counter()
        first = []
        for start in range(0, len(flat), MAX_BATCH):
            first += self._prefill(context, flat[start : start + MAX_BATCH], start, length)
        prefilled = time.perf_counter()
        for place in range(count):
            self.batch.seq_id[place][0] = place
        self.tokens[:count] = first
        self.positions[:count] = length
        self.wanted[:count] = 1
        for _ in range(new):
            self._decode(context, count)
            self.tokens[:count] = self._argmax(context, count)
            self.positions[:count] += 1
        done = time.perf_counter()
        return {"prefill_seconds": prefilled - started, "decode_seconds": done - prefilled}

    def _prefill(self, context: Any, piece: np.ndarray, start: int, length: int) -> list[int]:
        """Computes a piece of all prompts laid end to end; the next tokens of the prompts that end in it."""
        places = np.arange(start, start + len(piece))
        self.tokens[: len(piece)] = piece
        self.positions[: len(piece)] = places % length
        self.wanted[: len(piece)] = places % length == length - 1
        for index, sequence in enumerate((places // length).tolist()):
            self.batch.seq_id[index][0] = sequence
        self._decode(context, len(piece))
        num_ended = int(self.wanted[: len(piece)].sum())
        return self._argmax(context, num_ended).tolist() if num_ended else []

    def _decode(self, context: Any, count: int) -> None:
        self.batch.n_tokens = count
        code = llama_cpp.llama_decode(context, self.batch)
        if code:
            raise RuntimeError(f"llama_decode of {count} tokens gives {code}")

    def _argmax(self, context: Any, count: int) -> np.ndarray:
        logits = llama_cpp.llama_get_logits(context)
        address = ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(address, (count, self.vocab_size)).argmax(axis=1)

    def _make_context(self, flash: bool, unified: bool) -> Any:
        count, length = self.shape
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = count * -(-length // 256) * 256  # llama.cpp rounds a sequence's cells up to 256
        params.n_batch = params.n_ubatch = MAX_BATCH
        params.n_seq_max = count
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.kv_unified = unified
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp makes no context of {params.n_ctx} positions for {count} sequences")
        return context


if __name__ == "__main__":
    serve(load)
