"""Every preset is cut over 8 and 64 devices by torch itself, without the devices: sizes that do not divide show."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from aquila.errors import ConfigError
from aquila.model.config import ModelConfig
from aquila.model.presets import preset, preset_names
from aquila.model.transformer import Transformer
from aquila.train.layout import Layout
from aquila.train.parallel import parallelise
from aquila.train.ranks import Ranks, connect
from aquila.train.recipe import ParallelConfig
from aquila.train.shards import local, local_slices


@contextmanager
def pretended(layout: Layout, rank: int) -> Iterator[Ranks]:
    """The place of one process among others that are not there; what it sends is not received."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=layout.world)
    try:
        yield connect(layout, torch.device("cpu"), rank)
    finally:
        dist.destroy_process_group()


LAYOUTS = {
    8: [Layout(dp_shard=8), Layout(dp_shard=2, tp=4), Layout(dp_shard=4, cp=2)],
    64: [Layout(dp_shard=64), Layout(dp_replicate=2, dp_shard=2, cp=2, tp=8), Layout(dp_shard=8, tp=8)],
}


@pytest.mark.parametrize("world", [8, 64])
def test_each_preset_is_cut_over(world: int) -> None:
    """One block of each: all blocks are alike. The last process is where pieces run short."""
    shapes = {preset(name).model_copy(update={"num_hidden_layers": 1}) for name in preset_names()}
    for layout in LAYOUTS[world]:
        fitting = [shape for shape in shapes if _fits(layout, shape)]
        assert len(fitting) >= len(shapes) // 2
        with pretended(layout, world - 1) as ranks:
            for shape in fitting:
                with torch.device("meta"):
                    model = Transformer(shape)
                whole = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
                parallelise(model, ranks, ParallelConfig(precision="bf16"))
                for name, parameter in model.named_parameters():
                    assert tuple(parameter.shape) == whole[name]
                    piece = tuple(part.stop - part.start for part in local_slices(parameter))
                    assert tuple(local(parameter).shape) == piece, f"{name} of {shape.hidden_size} in {layout}"


def _fits(layout: Layout, shape: ModelConfig) -> bool:
    try:
        layout.check(shape, 2048)
    except ConfigError:
        return False
    return True
