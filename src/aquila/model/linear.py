"""A linear layer that takes the fastest product the machine has. `[..., in] -> [..., out]`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` whose product, when no gradient is wanted on a CPU, uses all cores and the whole memory bandwidth.

    Its storage is left as allocated: `Transformer.init_weights` or a checkpoint fills it.
    """

    def reset_parameters(self) -> None:
        pass

    def forward(self, input: Float[Tensor, "... in"]) -> Float[Tensor, "... out"]:
        return multiply(input, self.weight, self.bias)


def multiply(
    x: Float[Tensor, "... in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None
) -> Float[Tensor, "... out"]:
    """`x @ weight.T + bias`.

    torch sends fp32 products to MKL, which reads a weight with one thread at a batch of one and slows down further at
    2 to 8 rows. Two other ways are faster (bench/linear.py, Zen 4, 2 threads): at one row a batched product over equal
    slices of the weight, one a thread; at more rows oneDNN on the weight as it lies, the op torch.compile emits.
    """
    if not torch.is_inference_mode_enabled() or not _is_onednn_weight(weight):
        return F.linear(x, weight, bias)
    out_features, in_features = weight.shape
    threads = torch.get_num_threads()
    if x.numel() == in_features and weight.dtype == torch.float32 and out_features % threads == 0:
        slices = weight.view(threads, -1, in_features).transpose(1, 2)  # [threads, in, out / threads]
        out = torch.bmm(x.reshape(1, 1, in_features).expand(threads, -1, -1), slices)
        out = out.view(*x.shape[:-1], out_features)
        return out if bias is None else out + bias
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def project(x: Float[Tensor, "... in"], *layers: Linear) -> tuple[Tensor, ...]:
    """Each layer's output for the same input. Weights that lie side by side in one storage are multiplied as one."""
    if torch.is_inference_mode_enabled() and _side_by_side(layers):
        sizes = [layer.out_features for layer in layers]
        in_features = layers[0].in_features
        weight = layers[0].weight.as_strided((sum(sizes), in_features), (in_features, 1))
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return multiply(x, weight, bias).split(sizes, dim=-1)
    return tuple(layer(x) for layer in layers)


def _side_by_side(layers: tuple[Linear, ...]) -> bool:
    """Whether the weights follow each other in memory, as a loader lays them; a wrapped layer (LoRA) says no."""
    if any(type(layer) is not Linear for layer in layers):
        return False
    storage = layers[0].weight.untyped_storage().data_ptr()
    end = layers[0].weight.data_ptr()
    for layer in layers:
        weight = layer.weight
        if weight.data_ptr() != end or weight.untyped_storage().data_ptr() != storage:
            return False
        end += weight.numel() * weight.element_size()
    return True


def _is_onednn_weight(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype in {torch.float32, torch.bfloat16}
        and torch.backends.mkldnn.is_available()
    )
