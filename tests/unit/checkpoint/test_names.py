"""Names and rotary row orders."""

import numpy as np
import pytest

from aquila.checkpoint.names import (
    FLAGAI,
    GGUF,
    Naming,
    expected_tensors,
    half_split_rows,
    interleaved_rows,
    reorder_rotary,
)
from aquila.model.config import ModelConfig
from checkpoint_parts import random_tensors, tiny_config


@pytest.mark.parametrize("naming", [FLAGAI, GGUF])
def test_every_name_has_one_counterpart(naming: Naming):
    """A name that translated to a second one would lose a tensor on conversion."""
    names = list(expected_tensors(tiny_config(qkv_bias=True)))
    there = [naming.from_canonical(name) for name in names]
    assert len(set(there)) == len(names)
    assert [naming.to_canonical(name) for name in there] == names


@pytest.mark.parametrize("name", ["lm_head.weight", "model.norm.weight", "layers.0.extra.weight", "blk.x.attn_q"])
def test_a_foreign_name_never_becomes_canonical(name: str):
    for naming in (FLAGAI, GGUF):
        assert naming.to_canonical(name) not in expected_tensors(tiny_config())


def test_aquila_7b_has_the_published_tensors():
    config = ModelConfig(
        vocab_size=100008,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=2048,
    )
    shapes = expected_tensors(config)
    assert len(shapes) == 291
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 7_295_537_152


def _rotate(x: np.ndarray, position: int, *, interleaved: bool) -> np.ndarray:
    half = len(x) // 2
    angle = position * 10000.0 ** (-np.arange(half) / half)
    pairs = x.reshape(half, 2) if interleaved else x.reshape(2, half).T
    turned = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(1j * angle)
    return (
        np.stack([turned.real, turned.imag], 1).reshape(-1)
        if interleaved
        else np.concatenate([turned.real, turned.imag])
    )


def test_both_row_orders_give_the_same_attention_scores():
    """Reordering q and k rows must be invisible to the model."""
    rows = half_split_rows(1, 8)
    q, k = np.random.default_rng(0).standard_normal((2, 8))
    score = _rotate(q, 5, interleaved=True) @ _rotate(k, 2, interleaved=True)
    assert np.isclose(_rotate(q[rows], 5, interleaved=False) @ _rotate(k[rows], 2, interleaved=False), score)


def test_row_orders_are_inverse():
    np.testing.assert_array_equal(half_split_rows(3, 8)[interleaved_rows(3, 8)], np.arange(24))


def test_reordering_twice_gives_the_tensors_back():
    """Weights and biases, with fewer key heads than query heads, read in pieces that cut heads."""
    config = tiny_config(qkv_bias=True)
    tensors = random_tensors(config)
    there = reorder_rotary(tensors, config, interleaved_rows)
    back = reorder_rotary(there, config, half_split_rows)
    for name in ("model.layers.1.self_attn.k_proj.weight", "model.layers.0.self_attn.q_proj.bias"):
        assert not np.array_equal(there[name].numpy(), tensors[name].numpy())
        pieces = [back[name].read(start, start + 3) for start in range(0, 15, 3)]
        np.testing.assert_array_equal(np.concatenate(pieces), tensors[name].numpy()[:15])
