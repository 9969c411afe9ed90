"""Documents that share a row do not see each other, and lose nothing by sharing it."""

import numpy as np
import torch

from aquila.data.batch import PADDING
from aquila.model.transformer import Transformer
from aquila.train.attention import document_attention
from parts import tiny_config

CPU = torch.device("cpu")
LENGTHS = (5, 9, 2)
PADDED = 4


def _model() -> Transformer:
    model = Transformer(tiny_config())
    model.init_weights(torch.Generator().manual_seed(0))
    return model.requires_grad_(False)


def _packed(seed: int) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, np.ndarray]:
    """Documents, and one row with all of them and padding behind: ids, positions, document ids."""
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randint(1, 300, (length,), generator=generator) for length in LENGTHS]
    row = torch.cat([*documents, torch.zeros(PADDED, dtype=torch.int64)])[None]
    positions = torch.cat([*(torch.arange(length) for length in (*LENGTHS, PADDED))])[None]
    ids = np.repeat([*range(len(LENGTHS)), PADDING], [*LENGTHS, PADDED])[None]
    return documents, row, positions, ids


def test_packed_logits_equal_each_documents_alone() -> None:
    model = _model()
    documents, row, positions, ids = _packed(0)
    together = model(row, positions, attend=document_attention(ids, CPU))[0]
    start = 0
    for document in documents:
        alone = model(document[None])[0]
        torch.testing.assert_close(together[start : start + len(document)], alone, rtol=1e-5, atol=1e-5)
        start += len(document)


def test_a_document_does_not_change_when_its_neighbour_does() -> None:
    """To the last bit."""
    model = _model()
    _, row, positions, ids = _packed(0)
    changed = row.clone()
    changed[0, : LENGTHS[0]] = 7
    attend = document_attention(ids, CPU)
    before, after = model(row, positions, attend=attend)[0], model(changed, positions, attend=attend)[0]
    assert not torch.equal(before[: LENGTHS[0]], after[: LENGTHS[0]])
    assert torch.equal(before[LENGTHS[0] : -PADDED], after[LENGTHS[0] : -PADDED])


def test_gradients_of_packed_documents_are_those_of_each_alone() -> None:
    model = _model()
    model.requires_grad_(True)
    documents, row, positions, ids = _packed(1)
    labels = row.clone()
    labels[0, -PADDED:] = -100
    weights = [model.model.layers[0].self_attn.q_proj.weight, model.model.embed_tokens.weight]
    packed = torch.autograd.grad(model(row, positions, attend=document_attention(ids, CPU), labels=labels), weights)
    alone = [torch.autograd.grad(model(each[None], labels=each[None]), weights) for each in documents]
    for number, gradient in enumerate(packed):
        expected = sum(gradients[number] for gradients in alone)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_rows_of_one_document_are_one_call() -> None:
    """The common case of long documents costs nothing extra."""
    from aquila.model.transformer import causal_attention

    assert document_attention(np.array([[0, 0, 0], [0, 0, PADDING]]), CPU) is causal_attention
