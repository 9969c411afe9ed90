"""Prompts of requests as token ids, and whether they fit the context."""

from collections.abc import Sequence

from aquila.generate.load import Model
from aquila.serve.errors import ServeError

LONGEST_TOKEN = 512  # characters; no vocabulary in use has a longer one


def check_room(model: Model, prompt_ids: Sequence[int], param: str) -> None:
    """`ServeError` 400, saying both numbers, unless there is room for the prompt and one token more."""
    if len(prompt_ids) >= model.max_context:
        raise ServeError(
            400,
            f"this model's maximum context length is {model.max_context} tokens, and the prompt has "
            f"{len(prompt_ids)}; one must be left for the answer, so shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )


def check_length(model: Model, num_characters: int, param: str) -> None:
    """`ServeError` 400 for a text that cannot fit, before time is spent on counting its tokens."""
    limit = model.max_context * LONGEST_TOKEN
    if num_characters > limit:
        raise ServeError(
            400,
            f"this model's maximum context length is {model.max_context} tokens, and the prompt has {num_characters} "
            "characters; shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )


def text_prompt(model: Model, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
    """Token ids of a text that the caller wrote as the model is to read it, begun as training documents began.

    Never empty: a document's beginning, or its end, stands for no text.
    """
    check_length(model, len(text), "prompt")
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text, allow_special=parse_special)
    begin = tokenizer.bos_token_id
    if add_special_tokens and tokenizer.add_bos_token and begin is not None and ids[:1] != [begin]:
        ids = [begin, *ids]
    if not ids:
        ids = [begin] if begin is not None else list(tokenizer.eos_token_ids[:1])
    return ids
