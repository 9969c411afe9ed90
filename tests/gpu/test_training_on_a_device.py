"""What only an accelerator can show. Run with `pytest tests/gpu`; skipped where there is none."""

import numpy as np
import pytest
import torch

from aquila.data.batch import PADDING
from aquila.model.loss import linear_cross_entropy
from aquila.model.transformer import Transformer
from aquila.train.attention import document_attention
from parts import tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.accelerator.is_available(), reason="needs an accelerator, which torch does not find here"
    ),
]

DOCUMENT_IDS = np.repeat([0, 1, 2, PADDING], [20, 31, 9, 4])[None]


def _device() -> torch.device:
    device = torch.accelerator.current_accelerator()
    assert device is not None
    return device


def _model(**changes: object) -> Transformer:
    model = Transformer(tiny_config(**changes))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def test_packed_attention_in_bf16_equals_fp32_on_the_host() -> None:
    """The varlen kernel against one exact call a document."""
    config = {"hidden_size": 128, "head_dim": 32, "initializer_range": 0.05}
    model = _model(**config)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 300, DOCUMENT_IDS.shape, generator=generator)
    expected = model(ids, attend=document_attention(DOCUMENT_IDS, torch.device("cpu")))
    found = model.to(_device(), torch.bfloat16)(ids.to(_device()), attend=document_attention(DOCUMENT_IDS, _device()))
    seen = torch.from_numpy(DOCUMENT_IDS[0] != PADDING)
    torch.testing.assert_close(found[0].float().cpu()[seen], expected[0][seen], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunked_loss_and_gradients_equal_the_hosts(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator)
    weight = torch.randn(500, 32, generator=generator)
    labels = torch.randint(0, 500, (64,), generator=generator)
    labels[::3] = -100
    results = []
    for device in (torch.device("cpu"), _device()):
        kind = dtype if device.type != "cpu" else torch.float32
        leaves = [each.detach().to(device, kind).requires_grad_() for each in (hidden, weight)]
        loss = linear_cross_entropy(*leaves, labels.to(device), chunk_bytes=9 * 500 * 4)
        loss.backward()
        results.append([loss.float().cpu(), *(leaf.grad.float().cpu() for leaf in leaves)])
    loose = 2e-2 if dtype == torch.bfloat16 else 1e-4
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=loose, atol=10 * loose)
