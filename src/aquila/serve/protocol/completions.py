"""The body of /v1/completions."""

from pydantic import Field

from aquila.serve.protocol.common import Count, Many, SamplingFields, StreamOptions
from aquila.serve.protocol.infill import Segments

DEFAULT_MAX_TOKENS = 16  # OpenAI's


class CompletionRequest(SamplingFields):
    """Continue a text, several, or token ids.

    With `suffix`, fill in between the two. `echo` gives the prompt back, `logprobs` so many likeliest tokens in each
    place, of the prompt too when it is echoed. `max_tokens` is cut to what the context has room for.
    """

    model: str | None = None
    prompt: str | Many[str] | Many[int] | Many[Many[int]] | None = None
    segments: Segments | None = None  # instead of a prompt: Tabby's plug-ins send it here
    suffix: str | None = None
    max_tokens: int | None = Field(default=None, ge=0)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=100)
    best_of: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    add_special_tokens: bool = True  # begin a text as the training documents began
    parse_special: bool = True  # read the texts of special tokens as those tokens
