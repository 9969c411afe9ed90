"""A runner that says what it is told to, behind the real engine, scheduler, page pool, sampler and decoder.

Its pages hold token ids where a model's hold keys and values, so cached prefixes, preemption and drafts work as usual.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from aquila.checkpoint.adapter import Adapter
from aquila.generate.engine import Engine
from aquila.generate.infill import INFILL_KEY, infill_format
from aquila.generate.load import Model
from aquila.generate.runner import SequenceStep
from aquila.tokenizer.samples import CHINESE, CODE, ENGLISH
from aquila.tokenizer.specials import FIM_NAMES
from aquila.tokenizer.train import train_tokenizer
from parts import tiny_config
from scripted_model import SPECIALS

PAGE_SIZE = 16
SURE = 50.0  # a logit that nothing else comes near


class ScriptedRunner:
    """Goes on from a context as `script(context text)` says, and then ends.

    The script gives the whole answer; how much of it stands at the end of the context already is found by its bytes.
    """

    page_size = PAGE_SIZE
    draft_tokens = 0
    row_cost = 0.1

    def __init__(self, script: Callable[[str], str], *, max_context: int = 8192, num_pages: int = 2048):
        self.max_context = max_context
        self.num_pages = num_pages
        self.tokenizer = train_tokenizer(
            [CHINESE, ENGLISH, CODE], vocab_size=420, specials=(*SPECIALS, *FIM_NAMES.values())
        )
        self.vocab_size = self.tokenizer.vocab_size
        self._script = script
        self._kept = np.zeros((num_pages, PAGE_SIZE), dtype=np.int64)

    def load_adapter(self, adapter: Adapter) -> int:
        raise AssertionError("a script has no adapters")

    def step(self, batch: Sequence[SequenceStep]) -> Float[np.ndarray, "rows vocab"]:
        rows = [row for sequence in batch for row in self._rows(sequence)]
        return np.stack(rows) if rows else np.zeros((0, self.vocab_size), dtype=np.float32)

    def _rows(self, sequence: SequenceStep) -> list[Float[np.ndarray, " vocab"]]:
        end = sequence.start + len(sequence.token_ids)
        for place, token_id in enumerate(sequence.token_ids, sequence.start):
            self._kept[sequence.pages[place // PAGE_SIZE], place % PAGE_SIZE] = token_id
        ids = self._kept[list(sequence.pages)].reshape(-1)[:end].tolist()
        return [self._logits(ids[: end - back]) for back in range(sequence.num_logits - 1, -1, -1)]

    def _logits(self, ids: Sequence[int]) -> Float[np.ndarray, " vocab"]:
        logits = np.zeros(self.vocab_size, dtype=np.float32)
        logits[self._next(b"".join(self.tokenizer.token_bytes(each, with_special=True) for each in ids))] = SURE
        return logits

    def _next(self, context: bytes) -> int:
        answer = self._script(context.decode("utf-8", "replace")).encode()
        said = next(size for size in range(len(answer), -1, -1) if context.endswith(answer[:size]))
        rest = answer[said:]
        if not rest:
            return self.tokenizer.eos_token_ids[0]
        return self._longest_token(rest)

    def _longest_token(self, data: bytes) -> int:
        fits = [i for i, token in self._tokens() if data.startswith(token)]
        return max(fits, key=lambda i: len(self.tokenizer.token_bytes(i)))

    def _tokens(self) -> list[tuple[int, bytes]]:
        if not hasattr(self, "_table"):
            ids = (i for i in range(self.vocab_size) if i not in self.tokenizer.special_ids)
            self._table = [(i, data) for i in ids if (data := self.tokenizer.token_bytes(i))]
        return self._table


def scripted_model(
    script: Callable[[str], str], *, name: str = "scripted", infill: bool = False, **runner: int
) -> Model:
    """A model of the chat kind that `aquila.load` could have given, but for its runner. `infill`: it fills gaps."""
    made = ScriptedRunner(script, **runner)
    config = tiny_config(vocab_size=made.vocab_size, max_position_embeddings=made.max_context)
    engine = Engine(made, made.tokenizer)
    how = infill_format(made.tokenizer, {INFILL_KEY: ["psm"]}) if infill else None
    return Model(name, config, made.tokenizer, engine, kind="chat", template_name="aquila-chat", infill=how)
