"""Adapters in training: the base never changes, masks depend on the sample only."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aquila.errors import ConfigError
from aquila.kernels.formats import dequantise, pack_blocks, quantise_rows
from aquila.model.linear import Linear
from aquila.model.lora import (
    TARGETS,
    LoraLinear,
    add_lora,
    init_lora,
    keep_mask,
    lora_layers,
    lora_names,
    set_dropout_key,
)
from aquila.model.quantised import BASE_FORMATS, QuantisedLinear, quantise_base, quantised_weights
from aquila.model.transformer import Transformer
from lora_parts import lora_arrays, set_lora
from parts import tiny_model, tiny_tokenizer

IDS = torch.randint(0, tiny_tokenizer().vocab_size, (4, 24), generator=torch.Generator().manual_seed(3))


def adapted(*, dropout: float = 0.0, filled: bool = True, seed: int = 5) -> Transformer:
    """A tiny model with an adapter on all matrices; B is random unless it is to be as new."""
    model = tiny_model(initializer_range=0.1)
    add_lora(model, r=4, alpha=8.0, dropout=dropout, targets=TARGETS)
    init_lora(model, seed)
    if filled:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer in lora_layers(model).values():
                layer.lora_B.normal_(0, 0.1, generator=generator)
    return model


def test_a_new_adapter_changes_nothing_and_the_base_keeps_its_names():
    plain, model = tiny_model(initializer_range=0.1), adapted(filled=False)
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=0, atol=0)
    assert set(model.state_dict()) == set(plain.state_dict()) | set(lora_names(model))
    assert not model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    assert {name for name, each in model.named_parameters() if each.requires_grad} == set(lora_names(model))


def test_training_leaves_the_base_bitwise_as_it_was():
    model = adapted(dropout=0.1, filled=False).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.01)
    losses = []
    for step in range(8):
        set_dropout_key(model, seed=1, step=step, sample_ids=range(4))
        loss = model(IDS, labels=IDS.roll(-1, 1)) / IDS.numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    new = set(lora_names(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in new), name


def test_an_adapter_is_what_it_adds_to_the_weights():
    """scale * B A by hand, in a model without one."""
    model = adapted()
    plain = tiny_model(initializer_range=0.1)
    before = plain(IDS)
    with torch.no_grad():
        for name, (down, up) in lora_arrays(model).items():
            plain.get_parameter(f"{name}.weight").add_(torch.from_numpy(8.0 / 4 * (up @ down)))
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=0, atol=1e-5)
    assert (plain(IDS) - before).abs().max() > 0.01


def gradients(model: Transformer, rows: list[slice], *, seed: int = 1, step: int = 7) -> dict[str, Tensor]:
    """Of one step over the rows of IDS, in micro-batches."""
    model.zero_grad()
    for each in rows:
        set_dropout_key(model, seed=seed, step=step, sample_ids=range(4)[each])
        model(IDS[each], labels=IDS[each].roll(-1, 1)).backward()
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def test_dropout_follows_the_sample_not_its_company():
    """As a batch, in micro-batches, in another order, in a process that resumed: the same masks."""
    model = adapted(dropout=0.5).train()
    whole = gradients(model, [slice(0, 4)])
    for rows in ([slice(0, 1), slice(1, 4)], [slice(2, 4), slice(0, 2)]):
        found = gradients(adapted(dropout=0.5).train(), rows)
        for name, expected in whole.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4, msg=name)
    for changes in ({"seed": 2}, {"step": 8}):
        other = gradients(model, [slice(0, 4)], **changes)
        assert all((other[name] - whole[name]).abs().max() > 0.01 for name in whole)


def test_recomputed_activations_see_the_same_masks():
    model = adapted(dropout=0.5).train()
    expected = gradients(model, [slice(0, 4)])

    def recomputed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)

    for block in model.model.layers:
        block.forward = recomputed(block.forward)
    found = gradients(model, [slice(0, 4)])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_masks_have_their_rate_differ_everywhere_and_can_be_cut():
    rows = torch.tensor([11, 12], dtype=torch.int32)
    mask = keep_mask(rows, 0, (2, 300, 500), 0.2)
    assert mask.float().mean().item() == pytest.approx(0.8, abs=0.004)
    for axis in (0, 1, 2):  # neighbours agree as often as chance has them
        count = mask.shape[axis] - 1
        same = (mask.narrow(axis, 0, count) == mask.narrow(axis, 1, count)).float().mean().item()
        assert same == pytest.approx(0.68, abs=0.006)
    assert torch.equal(keep_mask(rows[1:], 100, (1, 50, 500), 0.2), mask[1:, 100:150])
    assert keep_mask(rows, 0, (2, 3, 5), 0.0).all()


def test_dropout_is_for_training_and_unbiased():
    model = adapted(dropout=0.3)
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    torch.testing.assert_close(model(IDS), adapted()(IDS), rtol=0, atol=0)
    layer.train()
    x = torch.ones(4, 2000, layer.in_features)
    set_dropout_key(model, seed=1, step=1, sample_ids=range(4))
    torch.testing.assert_close(layer(x).mean((0, 1)), layer.eval()(x)[0, 0], rtol=0, atol=0.05)


def test_initial_values_are_those_of_peft_and_depend_on_the_seed_and_the_name():
    layers = lora_layers(adapted(filled=False))
    for layer in layers.values():
        bound = layer.in_features**-0.5
        assert 0.9 * bound < layer.lora_A.abs().max().item() <= bound
        assert not layer.lora_B.any()
    again = lora_layers(adapted(filled=False))
    assert all(torch.equal(again[name].lora_A, layer.lora_A) for name, layer in layers.items())
    other = lora_layers(adapted(filled=False, seed=6))
    first = "model.layers.0.self_attn.q_proj"
    assert not torch.equal(other[first].lora_A, layers[first].lora_A)
    assert not torch.equal(layers["model.layers.1.self_attn.q_proj"].lora_A, layers[first].lora_A)


def test_an_adapter_is_taken_from_one_model_to_another():
    model, fresh = adapted(), adapted(filled=False)
    set_lora(fresh, lora_arrays(model))
    assert torch.equal(fresh(IDS), model(IDS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("q_prj",)}, "lora.targets: 'q_prj' names no layer; did you mean 'q_proj'"),
        ({"targets": ("lm_head",)}, "lora.targets: 'lm_head' names no layer"),
        ({"targets": ()}, "lora.targets: the list names no layer; name some of q_proj"),
        ({"r": 0}, "r 0, alpha 8.0 and dropout 0.0 do not make an adapter"),
        ({"dropout": 1.0}, "dropout 1.0 do not make an adapter; r is at least 1, dropout below 1"),
    ],
)
def test_settings_that_make_no_adapter_are_refused(changes: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        add_lora(tiny_model(), **{"r": 4, "alpha": 8.0, **changes})


def test_a_second_adapter_is_refused():
    with pytest.raises(ConfigError, match="has an adapter already"):
        add_lora(adapted(), r=4, alpha=8.0)


def quantised(model: Transformer, format_name: str) -> tuple[Transformer, Transformer]:
    """The model with its blocks in a format, and the plain model with the values that they then have."""
    plain = tiny_model()
    weights = dict(model.named_parameters())
    quantise_base(model, format_name)
    for name, weight in quantised_weights(model):
        rows = quantise_rows(format_name, weights[name].numpy())
        weight.codes.copy_(torch.from_numpy(rows))
        packed = pack_blocks(format_name, rows)
        values = dequantise(format_name, packed, len(rows), weight.columns)
        plain.get_parameter(name).data = torch.from_numpy(values)
    return model, plain


@pytest.mark.parametrize("format_name", BASE_FORMATS)
def test_a_quantised_base_computes_with_the_values_of_its_format(format_name: str):
    """Forward and backward, against a plain model that holds the dequantised weights; rows are no whole blocks."""
    model, plain = quantised(tiny_model(), format_name)
    for name, weight in quantised_weights(model):
        assert torch.equal(weight.dequantise(torch.float32), plain.get_parameter(name).data), name
    assert not any("proj" in name for name in model.state_dict())
    assert sum(isinstance(each, QuantisedLinear) for each in model.modules()) == 14
    for each in (model, plain):
        add_lora(each, r=4, alpha=8.0, targets=TARGETS)
        init_lora(each, 1)
        set_lora(each, {name: (down, up + 0.05) for name, (down, up) in lora_arrays(each).items()})
        each.train()
    torch.testing.assert_close(model(IDS), plain(IDS), rtol=0, atol=1e-5)
    found, expected = gradients(model, [slice(0, 4)]), gradients(plain, [slice(0, 4)])
    assert found.keys() == expected.keys() == set(lora_names(plain))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


def test_a_quantised_base_takes_no_gradient_memory():
    model, _ = quantised(tiny_model(), "w4")
    add_lora(model, r=4, alpha=8.0, targets=("q_proj",))
    init_lora(model, 1)
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    saved: list[torch.Size] = []
    x = torch.ones(1, 3, layer.in_features, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        layer(x)
    assert all(len(shape) != 2 for shape in saved), "the widened weight is kept for the backward pass"


def test_a_format_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"lora\.quantize: 'w5' is not one of w4, w4m, w8"):
        quantise_base(tiny_model(), "w5")


def test_nothing_is_allocated_on_the_meta_device():
    with torch.device("meta"):
        model = Transformer(tiny_model().config)
    quantise_base(model, "w4")
    names = add_lora(model, r=2, alpha=2.0, targets=("q_proj", "down_proj"))
    assert len(names) == 4
    assert all(each.is_meta for each in (*model.parameters(), *model.buffers()))
    assert all(type(model.get_submodule(name)) is LoraLinear for name in names)
    assert type(model.lm_head) is Linear
