"""The bodies of the routes that fill in the middle: llama.cpp's, Mistral's and Tabby's."""

from pydantic import Field

from aquila.serve.protocol.common import Count, Fields, Many, SamplingFields, StreamOptions

DEFAULT_NEW_TOKENS = 128


class ExtraInput(Fields):
    """A piece of another file."""

    text: str
    filename: str | None = None


class InfillRequest(SamplingFields):
    """Fill in between `input_prefix + prompt` and `input_suffix`.

    `prompt` is what stands before the cursor on its own line. With `spm_infill`, where the model knows that order, the
    whole prompt stays computed while somebody types. `n_predict: 0` writes nothing and prepares the context; without a
    temperature the likeliest text is taken. `n_indent` ends the text before a line that is indented less, `single_line`
    with its first line, `t_max_predict_ms` once it has a line. `response_fields` picks parts of the answer,
    `timings/prompt_ms` for one.
    """

    model: str | None = None
    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Many[ExtraInput] = Field(default_factory=list, max_length=10_000)
    prompt: str = ""
    n_predict: int | None = Field(default=None, lt=1 << 31)
    n_indent: int = Field(default=0, ge=0, lt=1 << 16)
    n_cmpl: Count | None = None
    single_line: bool = False
    spm_infill: bool | None = None
    t_max_predict_ms: float | None = None
    repeat_penalty: float | None = None
    response_fields: Many[str] | None = None
    stream: bool | None = None


class FimRequest(Fields):
    """Mistral's: fill in between `prompt` and `suffix`; without a suffix, go on."""

    model: str | None = None
    prompt: str
    suffix: str | None = None
    max_tokens: int | None = Field(default=None, ge=0, lt=1 << 31)
    temperature: float | None = None
    top_p: float | None = None
    random_seed: int | None = None
    seed: int | None = None
    stop: str | Many[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Snippet(Fields):
    """Code from elsewhere in the project."""

    filepath: str = ""
    body: str = ""


class Segments(Fields):
    """Text around the cursor in Tabby's form."""

    prefix: str
    suffix: str | None = None
    filepath: str | None = None
    declarations: Many[Snippet] | None = Field(default=None, max_length=10_000)
    relevant_snippets_from_changed_files: Many[Snippet] | None = Field(default=None, max_length=10_000)
    relevant_snippets_from_recently_opened_files: Many[Snippet] | None = Field(default=None, max_length=10_000)
    clipboard: str | None = None
