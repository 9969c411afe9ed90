"""How much memory a run takes on each device, before anything is allocated. Imports no torch.

Counted for a step at its peak: fp32 weights, gradients and optimizer state, each device its piece; the copies that a
block is computed with; activations that wait for the backward pass; the head's loss. Checked against what autograd
keeps (tests/unit/train/test_estimate.py) and against a device (bench/gpu.py)."""

from dataclasses import dataclass

from aquila.config import format_size
from aquila.kernels.formats import FORMATS
from aquila.model.config import ModelConfig
from aquila.model.count import count_parameters
from aquila.train.layout import Layout
from aquila.train.recipe import LoraConfig, ParallelConfig

ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
LOSS_CHUNK_BYTES = 512 << 20  # model/loss.py on an accelerator
RUNTIME_BYTES = 800 << 20  # driver context, libraries' workspaces, communication buffers


@dataclass(frozen=True)
class Shape:
    """What a run is made of, as far as memory goes. `micro_batch_size` counts sequences."""

    model: ModelConfig
    layout: Layout
    parallel: ParallelConfig
    sequence_length: int
    micro_batch_size: int
    optimizer: str = "adamw"
    lora: LoraConfig | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes on each device, and in the memory of the host for each device when weights are kept there."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    loss: int
    runtime: int
    host: int = 0

    @property
    def total(self) -> int:
        return sum(value for _, value in self.parts())

    def parts(self) -> list[tuple[str, int]]:
        names = ("weights", "gradients", "optimizer", "gathered", "activations", "loss", "runtime")
        return [(name, getattr(self, name)) for name in names]


def adapter_parameters(model: ModelConfig, lora: LoraConfig) -> int:
    """Parameters of the two small matrices of every adapted layer."""
    sizes = layer_sizes(model)
    return model.num_hidden_layers * lora.r * sum(sum(sizes[target]) for target in lora.targets)


def layer_sizes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each matrix of a block."""
    hidden, wide = model.hidden_size, model.intermediate_size
    return {
        "q_proj": (hidden, model.q_size),
        "k_proj": (hidden, model.kv_size),
        "v_proj": (hidden, model.kv_size),
        "o_proj": (model.q_size, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def estimate(shape: Shape, *, on_cpu: bool = False) -> Memory:
    """Bytes of one device at the peak of a step."""
    model, layout, parallel = shape.model, shape.layout, shape.parallel
    item = ITEM_BYTES[parallel.precision]
    pieces = layout.dp_shard * layout.cp * layout.tp
    parameters = count_parameters(model)
    head = model.vocab_size * model.hidden_size
    outside = head * (1 if model.tie_word_embeddings else 2) + model.hidden_size
    block = (parameters - outside) // model.num_hidden_layers
    if shape.lora is None:
        weights, trained = 4 * parameters, parameters
        states = _optimizer_bytes(shape, block)
    else:
        trained = adapter_parameters(model, shape.lora)
        kept_as = shape.lora.quantize
        of_block = item if kept_as is None else FORMATS[kept_as].bits_per_weight / 8  # scales included
        weights = int(of_block * block * model.num_hidden_layers) + item * outside + 4 * trained
        states = 8 * trained
    kept = [weights // pieces, 4 * trained // pieces, states // pieces]
    sharded = pieces > 1 or parallel.precision != "fp32" or parallel.offload
    gathered = item * (2 * block + outside) // layout.tp if sharded else 0
    if shape.lora is None and sharded:  # gradients of two blocks before they are reduced, in the precision they come in
        gathered += item * (2 * block + head) // layout.tp
    tokens = shape.micro_batch_size * shape.sequence_length // layout.cp
    runtime = 250 << 20 if on_cpu else RUNTIME_BYTES
    on_device = [0, 0, 0] if parallel.offload else kept
    return Memory(
        *on_device,
        gathered=gathered,
        activations=tokens * _activation_bytes_per_token(shape),
        loss=_loss_bytes(shape, tokens, on_cpu=on_cpu),
        runtime=runtime,
        host=sum(kept) if parallel.offload else 0,
    )


def _optimizer_bytes(shape: Shape, block: int) -> int:
    """AdamW: two moments. Muon: one momentum for the matrices of the blocks."""
    parameters = count_parameters(shape.model)
    if shape.optimizer == "adamw":
        return 8 * parameters
    return 8 * parameters - 4 * block * shape.model.num_hidden_layers


def block_bytes_per_token(model: ModelConfig, item: int) -> int:
    """What autograd keeps of one block for its backward pass, for a token.

    Each norm its input, the normed input in fp32 and what the products read, 12 bytes of each feature in any precision;
    q, k, v as attended, the output of attention and its log-sums; gate, up, silu(gate) and its product with up.
    """
    q, kv = model.q_size, model.kv_size
    attention = item * (2 * q + 2 * kv) + 4 * model.num_attention_heads
    return 2 * (12 * model.hidden_size + 4) + attention + item * 4 * model.intermediate_size


def _activation_bytes_per_token(shape: Shape) -> int:
    model, tp = shape.model, shape.layout.tp
    item = ITEM_BYTES[shape.parallel.precision]
    whole = block_bytes_per_token(model, item) // tp
    stream = item * model.hidden_size // tp
    layers = model.num_hidden_layers
    kind = shape.parallel.activation_checkpointing
    if kind == "full":
        kept = layers * stream + whole
    elif kind == "selective":  # attention, and q, v, gate, down of the products
        attention = item * model.q_size + 4 * model.num_attention_heads
        products = item * (model.q_size + model.kv_size + model.intermediate_size + model.hidden_size)
        kept = layers * (stream + (attention + products) // tp) + whole
    else:
        kept = layers * whole
    return kept + 4 * stream  # embedding, last norm, head's input and its gradient


def _loss_bytes(shape: Shape, tokens: int, *, on_cpu: bool) -> int:
    """Two tables of logits of one chunk, and the head's gradient in fp32 until it is handed over."""
    model, item = shape.model, ITEM_BYTES[shape.parallel.precision]
    vocab = model.vocab_size // shape.layout.tp
    chunk = min(4 * vocab * tokens, (16 << 20) if on_cpu else LOSS_CHUNK_BYTES)
    head_gradient = 0 if shape.lora is not None else 4 * vocab * model.hidden_size
    return int(chunk * (2 + item / 4)) + head_gradient


def verdict(num_bytes: int, capacity: int) -> str:
    """Whether so many bytes fit a device, in words. The last hundredths are lost to fragments."""
    share = num_bytes / capacity
    return "fits" if share <= 0.92 else "tight" if share <= 1 else "does not fit"


def estimate_table(memory: Memory, capacity: int | None) -> list[str]:
    """Lines for people: what each part takes, the sum, and whether it fits `capacity` bytes."""
    lines = [f"  {name:<12} {format_size(value):>9}" for name, value in memory.parts() if value]
    said = ""
    if capacity is not None:
        share = memory.total / capacity
        said = f"  {share:.0%} of {format_size(capacity)}: {verdict(memory.total, capacity)}"
    lines.append(f"  {'in all':<12} {format_size(memory.total):>9}{said}")
    if memory.host:
        lines.append(f"  {'host memory':<12} {format_size(memory.host):>9}  for each device")
    return lines
