"""Fill in the middle: the prompt that asks a model for what belongs at a cursor.

    psm           [files] <prefix> before <suffix> after <middle>
    spm           [files] <prefix> <suffix> after <middle> before
    suffix_first  [files] <suffix> after <prefix> before <middle>

With `spm` the text before the cursor stands last, so that nothing of the prompt changes, and all of it stays computed,
while somebody types. The text before the cursor, that after it and the middle are encoded by themselves, as in
training: no token reaches over the cursor. The marks are the model's own tokens, whatever it calls them; text of a user
never becomes a mark. Sources: Bavarian et al. 2022, arXiv:2207.14255 (both orders); Hui et al. 2024, arXiv:2409.12186,
section 3.2 (files of a repository); the shares of before and after as llama.cpp's server takes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

from aquila.errors import ConfigError, UnsupportedError
from aquila.generate.request import Request
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.specials import AQUILA_FIM, FimTokens
from aquila.tokenizer.tokenizer import Tokenizer

Order = Literal["psm", "spm", "suffix_first"]

INFILL_KEY = "fill_in_the_middle"  # in a checkpoint's manifest: the orders it was trained in, or false
LOCAL_TOKENS = 2048  # before and after the cursor together: more slows every request and helps little
_SUFFIX_FIRST_MARKS = ("<|code_prefix|>", "<[fim-prefix]>")  # models that put each part behind its own mark
_NUM_MARKS = 4  # three, and the token that begins a text
_UNTOUCHED = "☺"  # no merge joins it with what follows, so that text behind it is read as in the middle of a line


@dataclass(frozen=True)
class InfillFormat:
    """How a model was taught to fill in the middle.

    Attributes:
        orders: what it knows, the one to use first.
        marks_files: it knows `<|file_sep|>`; otherwise other files go in front of the text before the cursor.
    """

    orders: tuple[Order, ...]
    marks_files: bool


@dataclass(frozen=True)
class ExtraFile:
    """A piece of another file, for context. The last of several matters most."""

    text: str
    filename: str = ""


@dataclass(frozen=True)
class InfillPrompt:
    """A prompt in token ids, what ends the middle besides the model's own ends, and whether text was left out."""

    token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]
    truncated: bool

    def ended(self, params: SamplingParams) -> SamplingParams:
        """`params` with these ends."""
        return replace(params, stop_token_ids=(*params.stop_token_ids, *self.stop_token_ids))


@runtime_checkable  # the type checks of the tests ask it
class InfillModel(Protocol):
    """What a prompt needs to know of a model; `aquila.load` returns one."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def max_context(self) -> int: ...
    @property
    def infill(self) -> InfillFormat | None: ...


def infill_format(tokenizer: Tokenizer, manifest: Mapping[str, Any]) -> InfillFormat | None:
    """How a checkpoint fills in the middle; None for one that was not trained to.

    Marks in a vocabulary are not enough: `aquila tokenizer train` always adds them, and the published Aquila models
    have unused ids that may become them. What a run of ours trained, its manifest says; of other models, those whose
    vocabulary has the marks were trained with them.
    """
    if tokenizer.fim is None:
        return None
    trained = manifest.get(INFILL_KEY)
    if trained is not None:
        orders = tuple(order for order in trained or () if order in get_args(Order))
        return InfillFormat(cast("tuple[Order, ...]", orders), marks_files=False) if orders else None
    if tokenizer.fim == AQUILA_FIM:
        return None
    first = tokenizer.token_text(tokenizer.fim.prefix) in _SUFFIX_FIRST_MARKS
    return InfillFormat(("suffix_first",) if first else ("psm", "spm"), marks_files=tokenizer.fim.file_sep is not None)


def infill_orders(spm_rate: float) -> list[Order]:
    """What a run that rearranges documents teaches, for the manifest; the order it saw more of first, else `spm`."""
    orders: list[Order] = ["spm", "psm"] if spm_rate >= 0.5 else ["psm", "spm"]
    return [order for order in orders if (spm_rate < 1 if order == "psm" else spm_rate > 0)]


def infill_prompt(
    model: InfillModel,
    prefix: str,
    suffix: str,
    extra: Sequence[ExtraFile] = (),
    *,
    line: str = "",
    max_new_tokens: int = 128,
    order: Order | None = None,
    filename: str = "",
) -> InfillPrompt:
    """The prompt for the text between `prefix + line` and `suffix`.

    Where not all of it fits, three quarters are for what stands before the cursor and one for what stands after it, and
    either takes what the other leaves; other files get the rest of the context, the last of them first.

    Args:
        model: was trained for it.
        prefix: before the cursor; its end is kept.
        suffix: after the cursor; its beginning is kept.
        extra: pieces of other files.
        line: more of the text before the cursor, for clients that send its line by itself.
        max_new_tokens: room for the answer, at most a quarter of the context.
        order: of the parts; the model's own when not given.
        filename: of the file that is written, for models that know files.

    Raises:
        UnsupportedError: the model was not trained to fill in the middle.
        ConfigError: it was not trained in this order.
    """
    form, marks = require_infill(model)
    if order is not None and order not in form.orders:
        raise ConfigError(f"order: {model.name} knows {' and '.join(form.orders)}, not {order!r}; leave it out")
    tokenizer = model.tokenizer
    before_cursor = prefix + line
    room = max(0, model.max_context - min(max_new_tokens, max(1, model.max_context // 4)) - _NUM_MARKS)
    local = min(LOCAL_TOKENS, room)
    near, near_suffix = _end(before_cursor, local), suffix[: _characters(local)]
    prefix_ids, suffix_ids = tokenizer.encode(near), _inner(tokenizer, near_suffix)
    before, after = _split_room(prefix_ids, suffix_ids, local)
    left = room - len(before) - len(after)
    files, all_files = _files(tokenizer, marks if form.marks_files else None, extra, filename, left)
    order = order or form.orders[0]
    if form.marks_files or not files:
        ids = [*files, *_arrange(order, marks, before, after)]
    else:
        ids = _arrange(order, marks, [*files, *before], after)
    if tokenizer.add_bos_token and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    asked = (before_cursor, suffix, prefix_ids, suffix_ids, True)
    given = (near, near_suffix, before, after, all_files)
    return InfillPrompt(tuple(ids), tuple(dict.fromkeys(marks.ids().values())), truncated=asked != given)


def infill_request(
    model: InfillModel,
    prefix: str,
    suffix: str,
    params: SamplingParams,
    extra: Sequence[ExtraFile] = (),
    *,
    line: str = "",
    order: Order | None = None,
    adapter: str | None = None,
) -> Request:
    """`infill_prompt` as a request to the engine: the marks end the middle too."""
    prompt = infill_prompt(model, prefix, suffix, extra, line=line, max_new_tokens=params.max_new_tokens, order=order)
    return Request(prompt.token_ids, prompt.ended(params), adapter)


def require_infill(model: InfillModel) -> tuple[InfillFormat, FimTokens]:
    """How the model fills in the middle, and its marks.

    Raises:
        UnsupportedError: it was not trained to.
    """
    marks = model.tokenizer.fim
    if model.infill is None or marks is None:
        why = "its vocabulary has no tokens for it" if marks is None else "its training had none of it"
        raise UnsupportedError(
            f"{model.name} cannot fill in the middle: {why}. Leave out the suffix, or serve a model that was trained "
            "to, such as Qwen2.5-Coder or StarCoder2, or one that `aquila train` made with fim_rate above 0 "
            "(recipes/pretrain/fim-tiny.yaml)"
        )
    return model.infill, marks


def _arrange(order: Order, marks: FimTokens, before: list[int], after: list[int]) -> list[int]:
    if order == "psm":
        return [marks.prefix, *before, marks.suffix, *after, marks.middle]
    if order == "spm":
        return [marks.prefix, marks.suffix, *after, marks.middle, *before]
    return [marks.suffix, *after, marks.prefix, *before, marks.middle]


def _split_room(before: list[int], after: list[int], room: int) -> tuple[list[int], list[int]]:
    """The end of `before` and the beginning of `after`, together at most `room` tokens.

    Both are cut in jumps: a cut that moved with every token typed would change the whole prompt, and nothing computed
    before could be used again.
    """
    share = max(room - len(after), room * 3 // 4)
    taken = min(share, _round_up(len(before), max(1, room // 16)))
    if len(before) > share:
        before = before[_round_up(len(before) - share, max(1, share // 4)) :]
    return before, after[: max(0, room - taken)]


def _round_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _characters(tokens: int) -> int:
    """Text longer than this is not encoded at all: a token of code has 3 to 4 characters, of indentation more."""
    return 16 * tokens


def _end(text: str, tokens: int) -> str:
    """The end of a long text, cut in jumps for the same reason."""
    keep = _characters(tokens)
    if len(text) <= keep:
        return text
    return text[_round_up(len(text) - keep, max(1, keep // 4)) :]


def _files(
    tokenizer: Tokenizer, marks: FimTokens | None, extra: Sequence[ExtraFile], filename: str, room: int
) -> tuple[list[int], bool]:
    """Other files, as many of the last of them as there is room for, and whether these are all."""
    head = []
    tail = []
    if marks is not None and marks.file_sep is not None and extra:
        if marks.repo_name is not None:
            head = [marks.repo_name, *tokenizer.encode("repository\n")]
        tail = [marks.file_sep, *tokenizer.encode(f"{filename or 'file'}\n")]
    room -= len(head) + len(tail)
    chosen: list[list[int]] = []
    for file in reversed(extra):
        if len(file.text) > _characters(max(0, room)):
            break
        if marks is not None and marks.file_sep is not None:
            ids = [marks.file_sep, *tokenizer.encode(f"{file.filename or 'file'}\n{file.text}")]
        else:
            ids = tokenizer.encode(f"{file.text}\n\n")
        if len(ids) > room:
            break
        room -= len(ids)
        chosen.append(ids)
    ids = [token_id for file in reversed(chosen) for token_id in file]
    return [*head, *ids, *tail] if chosen else [], len(chosen) == len(extra)


def _inner(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of text that does not begin a document: without the space that some vocabularies put there."""
    if not text or not tokenizer.adds_space:
        return tokenizer.encode(text) if text else []
    return tokenizer.encode(_UNTOUCHED + text)[len(tokenizer.encode(_UNTOUCHED)) :]
