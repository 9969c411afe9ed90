"""`aquila.load`: from a name or a path to a model that generates."""

import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aquila.checkpoint.adapter import read_adapter
from aquila.checkpoint.open import Checkpoint, open_checkpoint
from aquila.errors import ConfigError
from aquila.generate.device_plan import DevicePlan
from aquila.generate.engine import Engine
from aquila.generate.infill import InfillFormat, infill_format
from aquila.generate.lookup import DRAFT_TOKENS
from aquila.generate.memory_plan import MemoryPlan
from aquila.generate.request import Completion, Delta, Request
from aquila.generate.runners import RunnerOptions, choose_runner
from aquila.generate.sampling import SamplingParams
from aquila.model.config import ModelConfig
from aquila.tokenizer.tokenizer import Tokenizer
from aquila.zoo.registry import DEFAULT_MODEL, ModelEntry, lookup
from aquila.zoo.store import read_record, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A loaded model with its tokenizer and its engine.

    Attributes:
        name: as asked for.
        kind: "base", "chat" or "code" when the registry knows the model, else None.
        template_name: the chat template the registry binds to it, else None.
        plan: how the memory limit is spent, of the process or of an accelerator's memory; None without one.
        infill: how it fills in the middle (`infill.py`); None for one that was not trained to.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    engine: Engine
    kind: str | None = None
    template_name: str | None = None
    plan: MemoryPlan | DevicePlan | None = None
    infill: InfillFormat | None = None

    @property
    def max_context(self) -> int:
        """Positions that prompt and answer may have together."""
        return self.engine.max_context

    def generate(
        self,
        prompts: str | Sequence[str],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
    ) -> list[Completion]:
        """Continues each prompt; all run together. With `n` > 1 the completions of a prompt follow each other.

        `adapter` names one of those that the model was loaded with.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        params = params or SamplingParams()
        requests = [Request(tuple(self.prompt_ids(text)), params, adapter) for text in texts]
        return [completion for group in self.engine.generate(requests) for completion in group]

    def stream(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, adapter: str | None = None
    ) -> Generator[Delta]:
        """Deltas of one request as they come; closing the iterator cancels it."""
        return self.engine.stream(Request(tuple(prompt_ids), params, adapter))

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a plain prompt, begun as the model's training documents began."""
        ids = self.tokenizer.encode(text)
        if self.tokenizer.add_bos_token and self.tokenizer.bos_token_id is not None:
            return [self.tokenizer.bos_token_id, *ids]
        return ids


def load(  # noqa: PLR0913  the front door: every option has a default
    name_or_path: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    memory_limit: int | str | None = None,
    max_context: int | None = None,
    kv_bytes: int = 1 << 30,
    kv_dtype: str | None = None,
    max_batched_tokens: int = 512,
    max_sequences: int = 64,
    lookup: bool | None = None,
    adapters: Mapping[str, str | Path] | None = None,
) -> Model:
    """Loads a model for generation.

    Args:
        name_or_path: a name of the registry that was pulled, or a checkpoint (folder or GGUF file); the default
            model when None.
        device: "cpu", "cuda", "mps" ...; the accelerator when there is one, else the CPU.
        dtype: "fp32", "bf16" or "fp16". When not given, as the file has its weights on a CPU, quantised ones too, and
            bf16 on an accelerator.
        quantize: "w4" or "w8" (4 or 8 bits a weight, "w4m" with a minimum for each block), on a CPU.
        memory_limit: bytes for the whole process, or a text such as "2GiB" or "2<<30"; what does not fit is read from
            disk in every step. The model is packed into the cache first, once, unless it is a packed file. On an
            accelerator: bytes of its memory; what does not fit waits in the host's.
        max_context: positions a sequence may have; the model's own limit when not given.
        kv_bytes: memory for keys and values, bytes.
        kv_dtype: "f16" or "i8", how keys and values are kept, on a CPU; when not given, 16 bits, or what a memory
            limit leaves room for (docs/memory_limit.md).
        max_batched_tokens: tokens a step computes at most.
        max_sequences: sequences that run at once at most.
        lookup: guess tokens that the text has said before, which saves steps where it repeats; where the runner gains
            by it when not given.
        adapters: name -> folder of a LoRA adapter as PEFT saves it; each request may name one of them.

    Raises:
        AquilaError: no such model, or its checkpoint is not whole.
    """
    name = DEFAULT_MODEL if name_or_path is None else str(name_or_path)
    path = resolve(name)
    checkpoint = open_checkpoint(path)
    tokenizer = checkpoint.load_tokenizer()
    config = checkpoint.config
    limit = longest_context(config)
    if max_context is not None and not 1 <= max_context <= limit:
        raise ConfigError(f"max_context: {max_context} is not between 1 and the {limit} positions of {name}")
    found = {key: read_adapter(Path(folder).expanduser(), config) for key, folder in (adapters or {}).items()}
    options = RunnerOptions(device, dtype, quantize, memory_limit, max_context, kv_bytes, kv_dtype)
    runner = choose_runner(checkpoint, name, options, tuple(found.values()))
    plan = getattr(runner, "plan", None)
    if plan is not None:
        max_batched_tokens = min(max_batched_tokens, plan.step_tokens)
        max_sequences = min(max_sequences, plan.step_tokens)
    engine = Engine(
        runner,
        tokenizer,
        end_token_ids=end_token_ids(checkpoint, tokenizer),
        max_batched_tokens=max_batched_tokens,
        max_sequences=max_sequences,
        max_draft_tokens={None: None, False: 0, True: runner.draft_tokens or DRAFT_TOKENS}[lookup],
    )
    for key, adapter in found.items():
        engine.load_adapter(key, adapter)
    entry = _entry(name, path)
    return Model(
        name=name,
        config=config,
        tokenizer=tokenizer,
        engine=engine,
        kind=entry.kind if entry else None,
        template_name=entry.chat_template if entry else checkpoint.manifest.get("chat_template"),
        plan=plan,
        infill=infill_format(tokenizer, checkpoint.manifest),
    )


def longest_context(config: ModelConfig) -> int:
    """Positions a sequence may have at most: dynamic rotary scaling reaches `factor` times as far when asked to."""
    scaling = config.rope_scaling
    stretch = scaling.factor if scaling is not None and scaling.type == "dynamic" else 1.0
    return int(config.max_position_embeddings * stretch)


def end_token_ids(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that end a text: the tokenizer's, and those of the config that are special tokens.

    The published Aquila configs say 1 and 2, which are `!` and `"` in their vocabulary: the tokenizer knows better.
    """
    named = tuple(i for i in checkpoint.config.eos_token_ids if i in tokenizer.special_ids)
    return tuple(dict.fromkeys((*tokenizer.eos_token_ids, *named)))


def _entry(name: str, path: Path) -> ModelEntry | None:
    record = read_record(path)
    return lookup(record.name if record else name)
