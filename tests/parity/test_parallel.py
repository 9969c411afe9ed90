"""Training spread over processes is training in one process: the same losses, norms and weights, in fp32."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import parallel_parts as parts
from aquila.train.ranks import start
from aquila.train.recipe import ParallelConfig
from parallel_parts import Case, Pool, Trained

SPREAD = {
    "fsdp": (2, {}),
    "tp": (2, {"tp": 2}),
    "fsdp x tp": (4, {"tp": 2}),
    "cp": (2, {"cp": 2}),
    "hsdp": (4, {"dp_replicate": 2}),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool()
    yield pool
    pool.close()


@cache
def alone(accumulation: int = 1, optimizer: str = "adamw", kind: str = "plain", steps: int = 3) -> Trained:
    """The steps in this process."""
    case = Case(accumulation=accumulation, optimizer=optimizer, kind=kind, steps=steps)
    return parts.train_case(start(ParallelConfig(), {}), case)


def assert_same(together: Trained, one: Trained, *, weights: float = 5e-6) -> None:
    assert together.losses == pytest.approx(one.losses, rel=1e-6)
    assert together.norms == pytest.approx(one.norms, rel=1e-5)
    assert together.parameters.keys() == one.parameters.keys()
    for name, parameter in one.parameters.items():
        assert (together.parameters[name] - parameter).abs().max() < weights, name


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("spread", SPREAD)
def test_packed_documents_train_as_in_one_process(pool: Pool, spread: str, accumulation: int) -> None:
    world, parallel = SPREAD[spread]
    assert_same(pool.train(Case(world, parallel, accumulation)), alone(accumulation))


@pytest.mark.parametrize(
    ("world", "parallel"),
    [
        (4, {"cp": 2, "tp": 2}),
        (4, {"dp_replicate": 2, "tp": 2}),
        (4, {"dp_replicate": 2, "cp": 2}),
        (4, {"cp": 4}),  # more than there are key heads
        (2, {"activation_checkpointing": "full"}),
        (2, {"activation_checkpointing": "selective", "tp": 2}),
        (2, {"activation_checkpointing": "selective", "cp": 2}),
        (2, {"offload": True}),
    ],
)
def test_other_ways_to_spread(pool: Pool, world: int, parallel: dict[str, Any]) -> None:
    assert_same(pool.train(Case(world, parallel)), alone())


@pytest.mark.parametrize("spread", ["fsdp", "fsdp x tp"])
@pytest.mark.parametrize("kind", ["tied", "biases", "lora"])
def test_other_models(pool: Pool, spread: str, kind: str) -> None:
    """Tied embeddings are one parameter; frozen weights stay as they are and need no gradients."""
    world, parallel = SPREAD[spread]
    assert_same(pool.train(Case(world, parallel, kind=kind)), alone(kind=kind))


@pytest.mark.parametrize("spread", ["fsdp", "fsdp x tp", "hsdp"])
def test_muon_orthogonalises_whole_matrices(pool: Pool, spread: str) -> None:
    """Newton-Schulz lifts singular values near zero, and the rounding of the sums with them."""
    world, parallel = SPREAD[spread]
    assert_same(pool.train(Case(world, parallel, optimizer="muon")), alone(optimizer="muon"), weights=1e-4)


@pytest.mark.parametrize("spread", SPREAD)
def test_pieces_are_where_they_are_said_to_be(pool: Pool, spread: str) -> None:
    """The piece of each process, taken from the whole by `shards`, is what torch has put there."""
    world, parallel = SPREAD[spread]
    assert all(pool.run(world, parallel, parts.pieces_agree, Case(world, parallel, kind="uneven")))


@pytest.mark.slow
def test_a_compiled_step_is_the_eager_step(pool: Pool) -> None:
    """Ten blocks in pieces, recomputed in the backward pass too; all of them share a few compiled graphs,
    and the loss has two: for parts of one size, and of any."""
    parallel = {"compile": True, "activation_checkpointing": "full"}
    case = Case(2, parallel, kind="deep", steps=2)
    trained, num_of_blocks, num_of_loss = pool.run(2, parallel, parts.count_graphs, case)[0]
    assert_same(trained, alone(kind="deep", steps=2))
    assert 2 <= num_of_blocks <= 4
    assert 1 <= num_of_loss <= 2


def test_optimizer_state_is_cut_anew(pool: Pool, tmp_path: Path) -> None:
    """Muon's momentum and Adam's moments, saved by four and loaded by others, of sizes that divide nowhere evenly."""

    def case(spread: str) -> Case:
        return Case(*SPREAD[spread], optimizer="muon", kind="uneven")

    saved = pool.run(*SPREAD["fsdp x tp"], parts.save_steps, case("fsdp x tp"), tmp_path)[0]
    assert {name.rpartition(".")[2] for name in saved} == {"weight", "momentum", "exp_avg", "exp_avg_sq", "step"}
    loaded = [pool.run(*SPREAD[spread], parts.load_steps, case(spread), tmp_path)[0] for spread in ("tp", "hsdp")]
    loaded.append(parts.load_steps(start(ParallelConfig(), {}), case("fsdp"), tmp_path))
    for state in loaded:
        assert state.keys() == saved.keys()
        assert [name for name in saved if not torch.equal(state[name], saved[name])] == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_fp32_weights_and_moments(pool: Pool, precision: str) -> None:
    parallel = {"precision": precision, "tp": 2}
    for trained, dtypes in pool.run(2, parallel, parts.half_precision, Case(2, parallel)):
        assert dtypes == {torch.float32}
        assert trained.losses == pytest.approx(alone().losses, rel=1e-3)
        assert trained.losses != alone().losses


def test_who_counts_in_a_sum(pool: Pool) -> None:
    """Ranks 0 and 1 see the same tokens under tensor parallel; 0 and 2 different ones."""
    answers = pool.run(4, {"tp": 2, "cp": 2}, parts.sums)
    assert [total for total, _, _ in answers] == [1 + 4] * 4
    assert [everyone for _, everyone, _ in answers] == [[0, 1, 2, 3]] * 4
    assert [columns.start for _, _, columns in answers] == [0, 0, 16, 16]


@pytest.mark.parametrize(
    ("finders", "said"), [((1, 2), "rank 1: damage 1"), ((0, 2), "damage 0"), ((), "no damage to {rank}")]
)
def test_what_some_find_all_know(pool: Pool, finders: tuple[int, ...], said: str) -> None:
    answers = pool.run(4, {}, parts.found_by_some, finders)
    assert answers == [said.format(rank=rank) for rank in range(4)]


def test_packed_is_unpacked() -> None:
    """Documents side by side in rows, and each in a row of its own: one loss, one gradient."""
    ranks = start(ParallelConfig(), {})
    packed = parts.packed_batch(1)
    (loss, gradients), (other, others) = (parts.gradients(ranks, batch) for batch in (packed, parts.unpacked(packed)))
    assert loss == pytest.approx(other, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - others[name]).abs().max() < 1e-6 * max(1.0, gradient.abs().max()), name


@pytest.mark.parametrize("spread", ["cp", "tp"])
def test_another_document_changes_nothing(pool: Pool, spread: str) -> None:
    world, parallel = SPREAD[spread]
    for before, after in pool.run(world, parallel, parts.logits_beside_documents):
        assert np.array_equal(before, after)
