"""The estimate against what autograd really keeps, and against arithmetic done by hand."""

import pytest

from aquila.model.config import ModelConfig
from aquila.model.presets import preset
from aquila.model.quantised import BASE_FORMATS, quantise_base, quantised_weights
from aquila.train.estimate import Shape, block_bytes_per_token, estimate
from aquila.train.flops import device_peak, flops_per_token
from aquila.train.layout import Layout
from aquila.train.recipe import LoraConfig, ParallelConfig

GIB = 1 << 30


def _kept_by_autograd(config: ModelConfig, rows: int, seq: int) -> int:
    """Bytes of all distinct tensors that a forward pass leaves for the backward pass, the weights apart."""
    import torch

    from aquila.model.transformer import Transformer

    model = Transformer(config)
    model.init_weights()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        model.hidden(torch.zeros((rows, seq), dtype=torch.int64))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    return sum(size for pointer, size in storages.items() if pointer not in weights)


def test_a_block_keeps_what_is_estimated() -> None:
    """Counted as the difference that one more block makes."""
    fields = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    fields |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
    found = [_kept_by_autograd(ModelConfig(**fields, num_hidden_layers=layers), 2, 64) for layers in (2, 3)]
    config = ModelConfig(**fields, num_hidden_layers=1)
    assert (found[1] - found[0]) / 128 == pytest.approx(block_bytes_per_token(config, 4), rel=0.02)


def _shape(gpus: int = 1, **changes: object) -> Shape:
    parallel = ParallelConfig(precision="bf16", activation_checkpointing="full")
    return Shape(preset("aquila-7b"), Layout(dp_shard=gpus), parallel, 2048, 1, **changes)


def test_seven_billion_parameters_by_hand() -> None:
    """16 bytes a parameter for fp32 weights, gradients and two moments; an eighth of it on each of eight devices."""
    alone, shared = estimate(_shape()), estimate(_shape(8))
    assert (alone.weights + alone.gradients + alone.optimizer) / GIB == pytest.approx(108.7, abs=0.1)
    assert (shared.weights + shared.gradients + shared.optimizer) / GIB == pytest.approx(13.6, abs=0.1)
    adapter = estimate(_shape(lora=LoraConfig()))
    assert adapter.weights / GIB == pytest.approx(13.6, abs=0.1)
    assert adapter.total < 24 * GIB


@pytest.mark.parametrize("name", BASE_FORMATS)
def test_a_quantised_base_takes_what_its_codes_take(name: str) -> None:
    """Counted on the model itself, without its memory."""
    import torch

    from aquila.model.lora import add_lora
    from aquila.model.transformer import Transformer

    lora = LoraConfig(quantize=name)
    with torch.device("meta"):
        model = Transformer(preset("aquila-7b"))
    quantise_base(model, name)
    add_lora(model, r=lora.r, alpha=lora.alpha, targets=lora.targets)
    kept = [*(weight.codes for _, weight in quantised_weights(model)), *model.parameters()]
    found = sum(each.nbytes if each.dtype == torch.uint8 or each.requires_grad else 2 * each.numel() for each in kept)
    assert estimate(_shape(lora=lora)).weights == pytest.approx(found, rel=1e-3)


def test_what_is_offloaded_is_counted_on_the_host() -> None:
    shape = _shape()
    parallel = shape.parallel.model_copy(update={"offload": True})
    found = estimate(Shape(shape.model, shape.layout, parallel, 2048, 1))
    assert found.weights == found.optimizer == 0
    assert found.host / GIB == pytest.approx(108.7, abs=0.1)


def test_each_technique_takes_less_than_the_one_before() -> None:
    kinds = [
        ParallelConfig(precision="bf16", activation_checkpointing=kind).model_copy()
        for kind in ("none", "selective", "full")
    ]
    totals = [estimate(Shape(preset("aquila-7b"), Layout(), kind, 2048, 4)).activations for kind in kinds]
    assert totals[0] > totals[1] > totals[2]


def test_operations_of_a_token() -> None:
    """6 N + 12 L H Q T of PaLM, for the 7B model; an adapter saves the gradients of the weights."""
    config = preset("aquila-7b")
    multiplied = 7_295_537_152 - 100_008 * 4096
    attention = 12 * 32 * 4096 * 2048
    assert flops_per_token(config, 2048) == 6 * multiplied + attention
    assert flops_per_token(config, 2048, frozen=True) == 4 * multiplied + attention


def test_a_forward_and_backward_pass_count_as_many_operations_as_torch_counts() -> None:
    """Without attention, which torch counts in another way; and but for the norms, which N counts."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from aquila.model.transformer import Transformer

    config = ModelConfig(
        vocab_size=64, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64,
    )  # fmt: skip
    model = Transformer(config)
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(
            torch.zeros((2, 32), dtype=torch.int64, device="meta"), attend=lambda layer, q, k, v: q + k + v
        ).sum().backward()
    assert counter.get_total_flops() == 64 * (flops_per_token(config, 0) - 6 * 5 * config.hidden_size)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA H20", 148),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307),
        ("NVIDIA GeForce GT 710", None),
    ],
)
def test_peaks_of_devices(name: str, teraflops: float | None) -> None:
    """A peak that is too small makes every MFU too good."""
    assert device_peak(name) == (None if teraflops is None else pytest.approx(teraflops * 1e12))
