"""The norm of all gradients in one process; over several it is compared in tests/parity/test_parallel.py."""

import math

import pytest
import torch

from aquila.train.clip import clip_gradients, total_norm


def gradients(scale: float = 1.0) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((3000, 200), (7,), (0, 4))]
    for parameter in parameters:
        parameter.grad = scale * torch.randn(parameter.shape, generator=draw)
    return [*parameters, torch.nn.Parameter(torch.zeros(3))]  # the last one has no gradient


def exact_norm(parameters: list[torch.nn.Parameter]) -> float:
    return math.sqrt(sum(float(each.grad.double().square().sum()) for each in parameters if each.grad is not None))


def test_the_norm_is_right_to_the_last_digits_of_fp32():
    """torch's own norm of such a matrix is off by 1e-5 on a CPU, and parity could not be told from a mistake."""
    parameters = gradients()
    assert clip_gradients(parameters, 0).item() == pytest.approx(exact_norm(parameters), rel=2e-7)


def test_larger_gradients_are_scaled_to_the_norm_and_smaller_ones_stay():
    parameters = gradients()
    before = exact_norm(parameters)
    assert clip_gradients(parameters, 2 * before).item() == pytest.approx(before)
    assert exact_norm(parameters) == pytest.approx(before, rel=1e-12)
    assert clip_gradients(parameters, 0.5).item() == pytest.approx(before)
    assert exact_norm(parameters) == pytest.approx(0.5, rel=1e-5)


def test_a_gradient_that_is_no_number_shows_in_the_norm():
    parameters = gradients()
    parameters[1].grad[3] = torch.inf
    assert clip_gradients(parameters, 1.0).isinf()


def test_nothing_to_train_has_no_norm():
    assert total_norm([]).item() == 0.0
