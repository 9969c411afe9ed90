"""Muon: the direction it takes, and that its other half is torch's AdamW."""

import numpy as np
import pytest
import torch

from aquila.train.layout import Layout
from aquila.train.muon import NEWTON_SCHULZ, Muon, orthogonalise, split
from aquila.train.ranks import Ranks
from parts import tiny_model

ALONE = Ranks(Layout(), torch.device("cpu"))


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_newton_schulz_is_its_polynomial_of_the_singular_values(shape):
    """The iteration on the matrix must be the scalar iteration on each singular value (float64 SVD)."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    values = values / np.linalg.norm(values)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        values = a * values + b * values**3 + c * values**5
    np.testing.assert_allclose(orthogonalise(matrix).numpy(), left * values @ right, atol=2e-5)
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_step_is_that_of_torch():
    """torch's own Muon runs in bf16, so the two agree to its rounding; weights, momentum and decay are fp32 in both."""
    first = torch.nn.Parameter(torch.randn(24, 16, generator=torch.Generator().manual_seed(1)))
    second = torch.nn.Parameter(first.detach().clone())
    ours = Muon([{"params": [first], "algorithm": "muon", "lr": 0.1, "weight_decay": 0.5, "momentum": 0.9}], ALONE)
    theirs = torch.optim.Muon([second], lr=0.1, weight_decay=0.5, momentum=0.9, adjust_lr_fn="original")
    for seed in range(3):
        first.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
        second.grad = first.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(ours.state[first]["momentum"], theirs.state[second]["momentum_buffer"], rtol=0, atol=0)
    assert (first - second).abs().max() < 0.1 * 3 * 0.02


def test_the_rest_takes_the_steps_of_adamw():
    first = torch.nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(1)))
    second = torch.nn.Parameter(first.detach().clone())
    group = {"algorithm": "adamw", "lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-6}
    ours = Muon([{"params": [first], **group}], ALONE)
    theirs = torch.optim.AdamW([second], lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6, fused=True)
    for seed in range(3):
        first.grad = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
        second.grad = first.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_only_matrices_of_the_blocks_are_orthogonalised():
    model = tiny_model().requires_grad_(True)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    matrices, rest = split(model)
    assert len(matrices) == 2 * 7 - 1
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} < rest.keys()
    assert all("norm" in name for name in rest.keys() - {"model.embed_tokens.weight", "lm_head.weight"})


def test_a_gradient_of_zeros_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(4, 4))
    parameter.grad = torch.zeros(4, 4)
    Muon([{"params": [parameter], "algorithm": "muon", "lr": 0.1, "weight_decay": 0.0}], ALONE).step()
    assert torch.equal(parameter, torch.ones(4, 4))
