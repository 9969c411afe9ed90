"""The matrices of a block that an adapter may change. Imports no torch: recipes and adapter folders name them too."""

from typing import Literal, get_args

LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)
