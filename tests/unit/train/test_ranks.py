"""A process alone, and a process among others that do not fit."""

import pytest
import torch
import torch.distributed as dist

from aquila.errors import ConfigError
from aquila.train.ranks import RankError, own_errors, start
from aquila.train.recipe import ParallelConfig


def test_alone_nothing_is_connected():
    ranks = start(ParallelConfig(), {})
    assert (ranks.rank, ranks.world, ranks.data_rank, ranks.data_world, ranks.cp_rank) == (0, 1, 0, 1, 0)
    assert ranks.is_main
    assert ranks.mesh is None
    assert not dist.is_initialized()
    assert ranks.columns(32) == slice(0, 32)
    assert ranks.sum(torch.tensor(3.0)).item() == 3.0
    ranks.barrier()
    ranks.close()


def test_alone_in_half_precision_there_is_a_mesh_of_one():
    """FSDP keeps the fp32 weights then, as it does among many."""
    ranks = start(ParallelConfig(precision="bf16"), {})
    try:
        assert ranks.mesh is not None
        assert ranks.mesh.shape == (1, 1, 1)
        assert ranks.sum(torch.tensor(3.0)).item() == 3.0
    finally:
        ranks.close()
    assert not dist.is_initialized()


def test_processes_that_do_not_fit_are_told_before_they_meet():
    with pytest.raises(ConfigError, match=r"^parallel: tp 4 does not divide 6 processes; start 4 or 8"):
        start(ParallelConfig(tp=4), {"WORLD_SIZE": "6", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "6"})
    assert not dist.is_initialized()


@pytest.mark.parametrize(("rank", "kind", "text"), [(0, ConfigError, "no room"), (3, RankError, "rank 3: no room")])
def test_what_one_rank_meets_says_which(rank: int, kind: type[Exception], text: str):
    with pytest.raises(kind, match=f"^{text}$"), own_errors(rank):
        raise ConfigError("no room")
