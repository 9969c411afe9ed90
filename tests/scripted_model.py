"""A chat model that says what it is told to, through the real tokenizer and stream decoder."""

from collections.abc import Generator, Sequence
from functools import cache

from aquila.generate.request import Delta
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.samples import CHINESE, CODE, ENGLISH
from aquila.tokenizer.stream import StreamDecoder
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.tokenizer.train import train_tokenizer

SPECIALS = (
    "<|endoftext|>",
    "<|startofpiece|>",
    "<|endofpiece|>",
    "[CLS]",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


@cache
def small_tokenizer() -> Tokenizer:
    """400 entries, with the control tokens of all templates that the tests use."""
    return train_tokenizer([CHINESE, ENGLISH, CODE], vocab_size=400, specials=SPECIALS)


def special_ids_in(tokenizer: Tokenizer, token_ids: Sequence[int]) -> list[str]:
    return [tokenizer.token_text(each) for each in token_ids if each in tokenizer.special_ids]


class ScriptedModel:
    """Answers with `replies` in turn, the last one for ever; keeps the prompts and parameters it got."""

    name = "scripted"
    kind: str | None = "chat"

    def __init__(
        self,
        *replies: str,
        context: int = 2048,
        template_name: str | None = "aquila-chat",
        kind: str | None = "chat",
    ) -> None:
        self.tokenizer = small_tokenizer()
        self.template_name = template_name
        self.kind = kind
        self.max_context = context
        self.prompts: list[str] = []
        self.params: list[SamplingParams] = []
        self.num_closed = 0
        self._replies = list(replies)

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, adapter: str | None = None
    ) -> Generator[Delta, None, None]:
        self.prompts.append(self.tokenizer.decode(prompt_ids, skip_special=False))
        self.params.append(params)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        return self._deltas(self.tokenizer.encode(reply, allow_special=True), params)

    def _deltas(self, token_ids: Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
        decoder = StreamDecoder(self.tokenizer, params.stop)
        try:
            for token_id in token_ids[: params.max_new_tokens]:
                if token_id in params.stop_token_ids:
                    break
                yield Delta(0, 0, decoder.push(token_id), (token_id,))
                if decoder.stopped:
                    break
            reason = "length" if len(token_ids) > params.max_new_tokens else "stop"
            yield Delta(0, 0, decoder.flush(), (), reason)
        finally:
            self.num_closed += 1
