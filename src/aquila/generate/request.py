"""What goes into the engine and what comes out of it."""

from dataclasses import dataclass, field

from aquila.generate.sampling import SamplingParams, TokenLogprob


@dataclass(frozen=True)
class Request:
    """A prompt as token ids, how to continue it, and the name of the adapter to continue it with."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None


@dataclass(frozen=True)
class Delta:
    """What one step added to one completion. The last delta of a completion carries `finish_reason`.

    Attributes:
        request_id: as given by `Engine.submit`.
        index: which of the request's `n` completions.
        text: whole characters that no stop string can begin with any more; may be empty.
        token_ids: tokens of this step, several where drafts were right, but one in the first delta of a completion; the
            token that ended the completion is among them.
        finish_reason: "stop" (an end token, a stop string, the grammar's end), "length", "cancelled", "error", or None
            while it goes on.
        logprobs: one entry a token when the parameters ask for it.
        seed: what the completion was drawn with (first delta only says it for all).
        num_cached_tokens: prompt tokens whose keys and values were there already.
        prompt_logprobs: in the first delta of the first completion, when the parameters ask for it: one entry for each
            prompt token but the first, which nothing stands before.
        error: why its computation failed; the other requests go on.
    """

    request_id: int
    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    seed: int = 0
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Completion:
    """A finished completion: its deltas put together."""

    index: int
    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    finish_reason: str
    logprobs: list[TokenLogprob] | None
    seed: int
    num_cached_tokens: int
    prompt_logprobs: list[TokenLogprob] | None = None


def assemble(request: Request, deltas: list[Delta]) -> Completion:
    """Joins the deltas of one completion, in order."""
    last = deltas[-1]
    assert last.finish_reason is not None, "the completion is not finished"
    return Completion(
        index=last.index,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        prompt_token_ids=list(request.prompt_ids),
        finish_reason=last.finish_reason,
        logprobs=None if request.params.logprobs is None else [entry for delta in deltas for entry in delta.logprobs],
        seed=last.seed,
        num_cached_tokens=last.num_cached_tokens,
        prompt_logprobs=[entry for delta in deltas for entry in delta.prompt_logprobs] or None,
    )
