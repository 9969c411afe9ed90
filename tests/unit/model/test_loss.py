"""The loss of a linear head in pieces is the loss of the whole table of logits, and so are its gradients."""

import pytest
import torch
import torch.nn.functional as F

from aquila.model.loss import IGNORE, linear_cross_entropy


def _parts(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 7, 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(50, 16, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (3, 7), generator=generator)
    labels[0, :4] = IGNORE
    labels[2] = IGNORE
    return hidden, weight, labels


def _reference(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logits = (hidden @ weight.T).flatten(0, 1).float()
    return F.cross_entropy(logits, labels.flatten(), reduction="sum", ignore_index=IGNORE)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_chunked_loss_and_gradients_equal_those_of_full_logits(rows: int) -> None:
    """Whatever the size of a piece: `rows` of 50 fp32 logits at a time."""
    hidden, weight, labels = _parts()
    loss = linear_cross_entropy(hidden, weight, labels, chunk_bytes=rows * 50 * 4)
    found = torch.autograd.grad(0.5 * loss, (hidden, weight))
    reference = _reference(hidden, weight, labels)
    expected = torch.autograd.grad(0.5 * reference, (hidden, weight))
    torch.testing.assert_close(loss, reference, rtol=1e-6, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_equal_finite_differences() -> None:
    """The second route needs no other implementation of cross entropy."""
    hidden, weight, labels = _parts(torch.float64)

    def in_double(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear_cross_entropy(hidden.float(), weight.float(), labels, chunk_bytes=800)

    direction = torch.randn(50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (slope,) = torch.autograd.grad(in_double(hidden, weight), weight)
    step = 1e-2
    with torch.no_grad():
        rise = in_double(hidden, weight + step * direction) - in_double(hidden, weight - step * direction)
    torch.testing.assert_close(rise.double() / (2 * step), (slope * direction).sum(), rtol=1e-3, atol=1e-3)


def test_bf16_sums_the_gradient_of_the_head_in_fp32() -> None:
    """Many small pieces must not lose what one large product keeps."""
    hidden, weight, labels = _parts(torch.bfloat16)
    many = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels, chunk_bytes=200), weight)[0]
    expected = torch.autograd.grad(_reference(hidden, weight, labels), weight)[0]
    torch.testing.assert_close(many.float(), expected.float(), rtol=0.03, atol=0.03)


def test_nothing_to_learn_from_is_a_loss_of_zero() -> None:
    hidden, weight, labels = _parts()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(labels, IGNORE))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients)


def test_a_frozen_head_gets_no_gradient() -> None:
    """Adapters below it do."""
    hidden, weight, labels = _parts()
    linear_cross_entropy(hidden, weight.detach(), labels).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_the_padded_way_of_accelerators_equals_the_compact_way_of_a_cpu() -> None:
    """On a CPU ignored rows are left out before the product; elsewhere they are computed and masked."""
    from aquila.model.loss import _SumOfLosses, losses_and_slope

    hidden, weight, labels = _parts()
    compact = linear_cross_entropy(hidden, weight, labels)
    keep = labels.flatten() != IGNORE
    direct = _SumOfLosses.apply(hidden.flatten(0, 1)[keep], weight, labels.flatten()[keep], 4, losses_and_slope)
    torch.testing.assert_close(compact, direct)
