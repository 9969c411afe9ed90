"""Log-probabilities in OpenAI's two shapes: that of completions, and that of chat."""

from collections.abc import Sequence
from typing import Any

from aquila.generate.sampling import TokenLogprob
from aquila.tokenizer.tokenizer import Tokenizer


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as text: `bytes:\\xe4\\xb8` where it is a part of a character only, as OpenAI writes it."""
    data = tokenizer.token_bytes(token_id, with_special=True)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class CompletionLogprobs:
    """The `logprobs` object of one choice of /v1/completions, piece by piece; offsets go on from piece to piece."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._offset = 0

    def prompt(self, prompt_ids: Sequence[int], entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """A prompt's: nothing for its first token, which nothing stands before."""
        found = self.tokens([TokenLogprob(prompt_ids[0], 0.0, ()), *entries])
        found["token_logprobs"][0] = None
        found["top_logprobs"][0] = None
        return found

    def tokens(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """More tokens."""
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for entry in entries:
            text = token_text(self._tokenizer, entry.token_id)
            top: dict[str, float] = {}
            for token_id, logprob in entry.top:  # falling: of two that read the same the likelier stays
                top.setdefault(token_text(self._tokenizer, token_id), logprob)
            top.setdefault(text, entry.logprob)
            found["tokens"].append(text)
            found["token_logprobs"].append(entry.logprob)
            found["top_logprobs"].append(top)
            found["text_offset"].append(self._offset)
            self._offset += len(text)
        return found


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two pieces as one."""
    return {name: first[name] + second[name] for name in first}


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The `logprobs` object of a choice or a chunk of /v1/chat/completions."""
    content = []
    for entry in entries:
        top = [_chat_entry(tokenizer, token_id, logprob) for token_id, logprob in entry.top]
        content.append({**_chat_entry(tokenizer, entry.token_id, entry.logprob), "top_logprobs": top})
    return {"content": content, "refusal": None}


def _chat_entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id, with_special=True)
    return {"token": token_text(tokenizer, token_id), "logprob": logprob, "bytes": list(data)}
