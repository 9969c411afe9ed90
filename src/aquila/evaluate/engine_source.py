"""Answers from a model in this process, as many at once as the engine runs."""

import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aquila.checkpoint.checkpoint import Checkpoint
from aquila.checkpoint.open import open_checkpoint
from aquila.errors import ConfigError
from aquila.evaluate.loglikelihood import Scorer, encode_pair
from aquila.evaluate.sampling import Answer, Key, Prompt, Scored, Settings
from aquila.evaluate.training_data import training_facts
from aquila.files import sha256_file
from aquila.generate.load import Model
from aquila.generate.request import Delta, Request
from aquila.generate.sampling import SamplingParams
from aquila.tokenizer.specials import FimTokens
from aquila.tokenizer.stream import StreamDecoder
from aquila.tokenizer.templates import ChatTemplate, stop_token_ids, template_for
from aquila.zoo.store import read_record, resolve

_WEIGHTS = ("*.safetensors", "*.gguf", "*.aqw", "*.bin", "*.pt")


@dataclass(eq=False)
class _Open:
    """An answer in the making."""

    prompt: Prompt
    decoder: StreamDecoder
    end_token_ids: frozenset[int]
    started: float
    parts: list[str] = field(default_factory=list)
    num_tokens: int = 0
    complete: bool = False

    def hear(self, delta: Delta) -> None:
        """Takes tokens one by one, so that an answer ends at the same token however many a step gave."""
        if self.complete:
            return
        for token_id in delta.token_ids:
            self.num_tokens += 1
            part = "" if token_id in self.end_token_ids else self.decoder.push(token_id)
            if not part:
                continue
            self.parts.append(part)
            if self.prompt.is_complete is not None and self.prompt.is_complete("".join(self.parts)):
                self.complete = True
                return

    def finish(self, reason: str) -> Answer:
        if not self.complete:
            self.parts.append(self.decoder.flush(cut=reason != "stop"))
        seconds = time.monotonic() - self.started
        return Answer(self.prompt.key, "".join(self.parts), reason, self.num_tokens, round(seconds, 4))


class EngineSource:
    """Samples from a loaded model.

    Args:
        model: nothing else may run on its engine meanwhile.
        adapter: the name of one that it was loaded with.
        loaded_as: what it was loaded with that its scores depend on, such as `{"quantize": "w4m"}`; it is recorded.
        template: of conversations; the model's own when not given.
    """

    def __init__(
        self,
        model: Model,
        *,
        adapter: str | None = None,
        loaded_as: dict[str, Any] | None = None,
        template: str | None = None,
    ) -> None:
        self.model = model
        self._adapter = adapter
        self._loaded_as = {key: value for key, value in (loaded_as or {}).items() if value is not None}
        self._template_name = template

    @property
    def name(self) -> str:
        return self.model.name

    def facts(self) -> dict[str, Any]:
        """See `Source.facts`. Digests the weights where no record says what they are."""
        path = resolve(self.model.name)
        checkpoint = open_checkpoint(path)
        quantised = any(tensor.quantised for tensor in checkpoint.tensors.values())
        return {
            "name": self.model.name,
            "source": "engine",
            "digest": weights_digest(path, checkpoint),
            "training": training_facts(checkpoint),
            "quantisation": checkpoint.format if quantised else None,
            "loaded_as": self._loaded_as,
        }

    def sample(self, prompts: Sequence[Prompt], settings: Settings) -> Iterator[Answer]:
        """See `Source.sample`. Prompts of the same text are computed once."""
        engine = self.model.engine
        waiting = _Waiting(prompts)
        answers: dict[int, _Open] = {}
        try:
            while waiting or answers:
                while len(answers) < engine.scheduler.max_sequences and (prompt := waiting.next()) is not None:
                    request = self._request(prompt, settings)
                    if len(request.prompt_ids) >= self.model.max_context:
                        waiting.computed(prompt)
                        yield Answer(prompt.key, "", "too_long", 0, 0.0)
                        continue
                    decoder = StreamDecoder(self.model.tokenizer, request.params.stop)
                    ends = engine.end_token_ids.union(request.params.stop_token_ids)
                    answers[engine.submit(request)] = _Open(prompt, decoder, ends, time.monotonic())
                yield from self._step(answers, waiting)
        finally:
            for request_id in answers:
                engine.cancel(request_id)

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """See `Source.loglikelihood`."""
        encoded = [encode_pair(self.model, *pair) for pair in pairs]
        lengths = [len(context) + len(continuation) - 1 for context, continuation in encoded]
        scores = Scorer(self.model.engine).score(encoded)
        return [
            Scored(*score, cut=length > self.model.max_context) for score, length in zip(scores, lengths, strict=True)
        ]

    def _step(self, answers: dict[int, _Open], waiting: "_Waiting") -> Iterator[Answer]:
        finished: list[Answer] = []
        for delta in self.model.engine.step():
            answer = answers.get(delta.request_id)
            if answer is None:
                continue
            waiting.computed(answer.prompt)
            answer.hear(delta)
            if answer.complete or delta.finish_reason is not None:
                if delta.finish_reason is None:
                    self.model.engine.cancel(delta.request_id)
                del answers[delta.request_id]
                finished.append(answer.finish("stop" if answer.complete else delta.finish_reason or "stop"))
        yield from finished

    def _request(self, prompt: Prompt, settings: Settings) -> Request:
        stop, stop_ids = settings.stop, ()
        if prompt.messages is not None:
            template = self._template()
            prompt_ids = template.encode(self.model.tokenizer, prompt.messages)
            stop = tuple(dict.fromkeys((*stop, *template.stop)))
            stop_ids = stop_token_ids(template, self.model.tokenizer)
        elif prompt.suffix is not None:
            prompt_ids, stop_ids = fim_tokens(self.model, prompt)
        else:
            assert prompt.text is not None, "a prompt is a text or a conversation"
            prompt_ids = self.model.prompt_ids(prompt.text)
        params = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            max_new_tokens=settings.max_new_tokens,
            seed=prompt.seed,
            stop=stop,
            stop_token_ids=stop_ids,
        )
        return Request(tuple(prompt_ids), params, self._adapter)

    def _template(self) -> ChatTemplate:
        template = template_for(self._template_name or self.model.template_name, self.model.tokenizer)
        if template is None:
            raise ConfigError(
                f"{self.name} has no chat template, so it cannot answer a conversation; use --prompt-style bare"
            )
        return template


class _Waiting:
    """Prompts that are to be asked, grouped by text, with one of each group ahead of the others."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._groups: OrderedDict[object, deque[Prompt]] = OrderedDict()
        self._ahead: dict[object, Key] = {}  # groups whose first is on its way
        self._done: set[object] = set()
        for prompt in prompts:
            self._groups.setdefault(_text_of(prompt), deque()).append(prompt)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def next(self) -> Prompt | None:
        """One that may start now; None where all wait for their group's first."""
        text = next((text for text in self._groups if text in self._done or text not in self._ahead), None)
        if text is None:
            return None
        group = self._groups[text]
        prompt = group.popleft()
        if not group:
            del self._groups[text]
        self._ahead.setdefault(text, prompt.key)
        return prompt

    def computed(self, prompt: Prompt) -> None:
        """The prompt is in the pages now."""
        self._done.add(_text_of(prompt))


def _text_of(prompt: Prompt) -> object:
    return (prompt.text, prompt.suffix) if prompt.text is not None else tuple(prompt.messages or ())


def require_fim(model: Model) -> FimTokens:
    """The tokens that mark a gap.

    Raises:
        ConfigError: the vocabulary has none.
    """
    if model.tokenizer.fim is None:
        raise ConfigError(
            f"{model.name} has no fill-in-the-middle tokens in its vocabulary, so it cannot be asked for a middle; "
            "take a model that was trained for it (docs/training.md, fim_rate)"
        )
    return model.tokenizer.fim


def fim_tokens(model: Model, prompt: Prompt) -> tuple[list[int], tuple[int, ...]]:
    """A prompt with a gap in the model's own fill-in-the-middle tokens, and those of them that end an answer."""
    tokenizer, marks = model.tokenizer, require_fim(model)
    before, after = tokenizer.encode(prompt.text or ""), tokenizer.encode(prompt.suffix or "")
    begin = [tokenizer.bos_token_id] if tokenizer.add_bos_token and tokenizer.bos_token_id is not None else []
    if prompt.order == "spm":
        ids = [*begin, marks.prefix, marks.suffix, *after, marks.middle, *before]
    else:
        ids = [*begin, marks.prefix, *before, marks.suffix, *after, marks.middle]
    return ids, tuple(dict.fromkeys(marks.ids().values()))


def weights_digest(path: Path, checkpoint: Checkpoint) -> str:
    """The sha256 of a model's one file of weights, or of the list of them; recorded digests are believed."""
    folder = path if path.is_dir() else path.parent
    record = read_record(path)
    names = [path.name] if path.is_file() else sorted(each.name for kind in _WEIGHTS for each in folder.glob(kind))
    known: dict[str, str] = {name: file.sha256 for name, file in record.files.items()} if record else {}
    for name, entry in (checkpoint.manifest.get("files") or {}).items():
        known.setdefault(name, entry["sha256"])
    digests = [known.get(name) or sha256_file(folder / name) for name in names]
    if len(digests) == 1:
        return digests[0]
    listed = "".join(f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return hashlib.sha256(listed.encode()).hexdigest()
