"""A linear layer that takes the fastest product the machine has. `[..., in] -> [..., out]`."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # asked once: the compiler cannot look at it


class Linear(nn.Linear):
    """`nn.Linear` whose products on a CPU take the library that is fastest at them.

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
    In training the product with the transposed gradient is left to MKL.
    """
    if not _inference():
        if bias is None and trains_with_onednn(x, weight):
            return _TrainedProduct.apply(x.flatten(0, -2), weight).view(*x.shape[:-1], weight.shape[0])
        return F.linear(x, weight, bias)
    if not _is_onednn_weight(weight):
        return F.linear(x, weight, bias)
    out_features, in_features = weight.shape
    threads = torch.get_num_threads()
    if x.numel() == in_features and weight.dtype == torch.float32 and out_features % threads == 0:
        slices = weight.view(threads, -1, in_features).transpose(1, 2)  # [threads, in, out / threads]
        out = torch.bmm(x.reshape(1, 1, in_features).expand(threads, -1, -1), slices)
        out = out.view(*x.shape[:-1], out_features)
        return out if bias is None else out + bias
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _TrainedProduct(Function):
    """`x @ weight.T` with its gradients: two products by oneDNN, the weight's gradient by MKL, as fast at it.

    CPU time of one Zen 4 thread, Gflop/s of oneDNN and MKL, 1,024 rows, 384 -> 1,024: forward 97 and 83, gradient of x
    103 and 89, gradient of the weight 88 and 90.
    """

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "rows in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "rows out"]:
        ctx.save_for_backward(x, weight)
        return onednn_product(x, weight)

    @staticmethod
    def backward(ctx: Any, *slopes: Float[Tensor, "rows out"]) -> tuple[Tensor | None, Tensor | None]:
        (slope,) = slopes
        x, weight = ctx.saved_tensors
        x_slope = onednn_product(slope, weight.T) if ctx.needs_input_grad[0] else None
        return x_slope, slope.T @ x if ctx.needs_input_grad[1] else None


def onednn_product(x: Float[Tensor, "rows in"], weight: Float[Tensor, "out in"]) -> Float[Tensor, "rows out"]:
    """`x @ weight.T`, as an operator of our own: the compiler takes oneDNN's only for weights that never change."""
    return torch.ops.aquila.onednn_product(x, weight)


_OPERATORS = torch.library.Library("aquila", "DEF")
_OPERATORS.define("onednn_product(Tensor x, Tensor weight) -> Tensor")
_OPERATORS.impl(
    "onednn_product",
    lambda x, weight: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""),
    "CPU",
)
torch.library.register_fake(
    "aquila::onednn_product", lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]), lib=_OPERATORS
)


def trains_with_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whole fp32 matrices on a CPU; pieces of tensor parallel ones are products of their own kind."""
    whole = type(weight) in {Tensor, nn.Parameter} and type(x) is Tensor
    return whole and x.dtype == weight.dtype == torch.float32 and _is_onednn_weight(weight)


def project(x: Float[Tensor, "... in"], *layers: Linear) -> tuple[Tensor, ...]:
    """Each layer's output for the same input. Weights that lie side by side in one storage are multiplied as one."""
    if _inference() and _side_by_side(layers):
        sizes = [layer.out_features for layer in layers]
        in_features = layers[0].in_features
        weight = layers[0].weight.as_strided((sum(sizes), in_features), (in_features, 1))
        bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        return multiply(x, weight, bias).split(sizes, dim=-1)
    return tuple(layer(x) for layer in layers)


def _inference() -> bool:
    # the compiler cannot look at inference mode: each look would cut the compiled block in two
    return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


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
    return weight.device.type == "cpu" and weight.dtype in {torch.float32, torch.bfloat16} and _HAS_ONEDNN
