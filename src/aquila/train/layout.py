"""How many devices do what: the sizes of the mesh, checked against the model before anything is allocated. No torch.

A device's rank counts dp_replicate slowest, then dp_shard, cp, and tp fastest, so that the devices that talk most
(tensor parallel) are neighbours.
"""

from dataclasses import dataclass

from aquila.errors import ConfigError
from aquila.model.config import ModelConfig
from aquila.train.recipe import LoraConfig, ParallelConfig


@dataclass(frozen=True)
class Layout:
    """Devices in each direction.

    dp_replicate copies of the model, each spread over dp_shard x cp devices (FSDP) and tp (tensor parallel). Rows of
    the batch go to dp_replicate x dp_shard places, each of which cuts its rows in cp pieces.
    """

    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def world(self) -> int:
        return self.dp_replicate * self.dp_shard * self.cp * self.tp

    @property
    def data_world(self) -> int:
        """Places that get different rows of the batch."""
        return self.dp_replicate * self.dp_shard

    def data_rank(self, rank: int) -> int:
        return rank // (self.cp * self.tp)

    def cp_rank(self, rank: int) -> int:
        return rank // self.tp % self.cp

    def tp_rank(self, rank: int) -> int:
        return rank % self.tp

    def check(self, model: ModelConfig, sequence_length: int | None = None, lora: LoraConfig | None = None) -> None:
        """Refuses a model, a length of sequences, or an adapter, that cannot be cut this way.

        Raises:
            ConfigError: names the size that does not divide, and those that do.
        """
        for name, value in _split_by_tp(model).items():
            if value % self.tp:
                fitting = _listed([size for size in range(1, 65) if fits_tensor_parallel(model, size)])
                raise ConfigError(f"parallel.tp: {self.tp} does not divide {name} {value}; set it to {fitting}")
        heads = model.num_attention_heads // self.tp
        if heads % self.cp:
            share = f" / tp {self.tp}" if self.tp > 1 else ""
            fitting = _listed(_divisors(heads))
            raise ConfigError(
                f"parallel.cp: {self.cp} does not divide the {heads} attention heads of a device "
                f"(num_attention_heads {model.num_attention_heads}{share}); set it to {fitting}"
            )
        pieces = self.cp * self.tp
        if sequence_length is not None and sequence_length % pieces:
            below = sequence_length // pieces * pieces
            fitting = _listed([length for length in (below, below + pieces) if length])
            raise ConfigError(
                f"data.sequence_length: {sequence_length} cannot be cut in cp {self.cp} x tp {self.tp} = {pieces} "
                f"pieces; set it to {fitting}"
            )
        if self.tp > 1 and lora is not None and (lora.dropout or lora.quantize):
            setting = f"dropout {lora.dropout}" if lora.dropout else f"quantize {lora.quantize}"
            raise ConfigError(
                f"lora.{setting} needs whole matrices, and parallel.tp {self.tp} cuts them; leave one of the two out"
            )


def plan_layout(config: ParallelConfig, world: int) -> Layout:
    """The sizes for `world` processes, with `dp_shard: auto` filled in.

    Raises:
        ConfigError: the sizes do not multiply to `world`; says which numbers of processes would do.
    """
    if config.compile and config.tp > 1:
        raise ConfigError(
            f"parallel.compile: tensor parallel blocks (tp {config.tp}) are not compiled; torch's compiler gets their "
            "gradients wrong. Set compile: false, or tp: 1"
        )
    sizes = {"dp_replicate": config.dp_replicate, "cp": config.cp, "tp": config.tp}
    if config.dp_shard != "auto":
        sizes["dp_shard"] = config.dp_shard
    fixed = 1
    for size in sizes.values():
        fixed *= size
    product = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "dp_shard 1"
    processes = f"{world} process" + ("es" if world > 1 else "")
    if config.dp_shard != "auto":
        if fixed != world:
            raise ConfigError(
                f"parallel: {product} asks for {fixed} devices, but the run has {processes}; "
                f"start {fixed}, or leave dp_shard out (it then takes the devices that are left)"
            )
        return Layout(config.dp_replicate, config.dp_shard, config.cp, config.tp)
    if world % fixed:
        total = f" = {fixed}" if " x " in product else ""
        multiples = [count for count in (world // fixed * fixed, (world // fixed + 1) * fixed) if count]
        divisors = f", or choose sizes whose product divides {world}: {_listed(_divisors(world))}" if world > 1 else ""
        raise ConfigError(
            f"parallel: {product}{total} does not divide {processes}; start {_listed(multiples)}{divisors}"
        )
    return Layout(config.dp_replicate, world // fixed, config.cp, config.tp)


def fits_tensor_parallel(model: ModelConfig, tp: int) -> bool:
    """Whether every matrix of the model can be cut in `tp` equal pieces."""
    return all(value % tp == 0 for value in _split_by_tp(model).values())


def _split_by_tp(model: ModelConfig) -> dict[str, int]:
    names = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    return {name: getattr(model, name) for name in names}


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _listed(numbers: list[int]) -> str:
    """`1`, `1 or 2`, `1, 2 or 4`."""
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} or {texts[-1]}"
