"""`aquila_generate`, for those who come from FlagAI: its signature and defaults, over the one engine.

Source: FlagAI's `aquila_generate`. What differs: prompts may be many and run together, each begins with the token its
training documents began with, the context is the model's own, and no device is assumed.
"""

from collections.abc import Sequence
from typing import overload

from aquila.errors import ConfigError
from aquila.generate.load import Model
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.tokenizer import Tokenizer


@overload
def aquila_generate(
    tokenizer: Tokenizer | None,
    model: Model,
    prompts: str,
    max_gen_len: int = ...,
    temperature: float = ...,
    top_k: int = ...,
    top_p: float = ...,
    prompts_tokens: Sequence[int] | None = ...,
) -> str: ...


@overload
def aquila_generate(
    tokenizer: Tokenizer | None,
    model: Model,
    prompts: Sequence[str],
    max_gen_len: int = ...,
    temperature: float = ...,
    top_k: int = ...,
    top_p: float = ...,
    prompts_tokens: Sequence[Sequence[int]] | None = ...,
) -> list[str]: ...


def aquila_generate(
    tokenizer,
    model,
    prompts,
    max_gen_len=200,
    temperature=0.8,
    top_k=30,
    top_p=0.95,
    prompts_tokens=None,
):
    """Continues one prompt (gives a text) or several (gives a list of texts).

    Args:
        tokenizer: encodes the prompts; the model's own when None.
        model: from `aquila.load`.
        prompts: one text or a list of them; ignored where `prompts_tokens` gives ids.
        max_gen_len: new tokens at most.
        temperature: 0 or less is greedy, as it was.
        top_k: draw among so many tokens; 0 means all.
        top_p: draw among tokens that make up this probability.
        prompts_tokens: token ids instead of texts, one list a prompt; used as they are.
    """
    single = isinstance(prompts, str)
    texts = [prompts] if single else list(prompts)
    if prompts_tokens is not None:
        rows = [prompts_tokens] if prompts_tokens and isinstance(prompts_tokens[0], int) else list(prompts_tokens)
        if len(rows) != len(texts):
            raise ConfigError(f"prompts_tokens: {len(rows)} lists for {len(texts)} prompts; give one a prompt")
    elif tokenizer is None or tokenizer is model.tokenizer:
        rows = [model.prompt_ids(text) for text in texts]
    else:
        rows = [tokenizer.encode(text) for text in texts]
    params = SamplingParams(temperature=max(temperature, 0.0), top_k=top_k, top_p=top_p, max_new_tokens=max_gen_len)
    groups = model.engine.generate([Request(tuple(row), params) for row in rows])
    answers = [group[0].text for group in groups]
    return answers[0] if single else answers
