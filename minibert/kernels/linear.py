"""The two shapes in which linear maps occur in a block, for training and for inference.

For inference the weights are `PackedLinear`, and GELU and sums are fused into the products. For
training they are the book's `LinearWeights`, and the gradients are written by hand.
T tokens · I, O in and out of one linear map · F feed-forward width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minibert.kernels.products import PackedLinear, chosen, packed_linear, product
from minibert.kernels.quantized import Int8Linear, int8_linear
from minibert.parameters import LinearWeights

AnyLinear = LinearWeights | PackedLinear | Int8Linear


def linear(x_TI: Tensor, weights: AnyLinear, add_TO: Tensor | None = None) -> Tensor:
    """`minibert.functional.linear` of x, plus another tensor if there is one."""
    if isinstance(weights, PackedLinear):
        return packed_linear(x_TI, weights, add_TO=add_TO)
    y_TO = (
        int8_linear(x_TI, weights) if isinstance(weights, Int8Linear) else _trained(x_TI, weights)
    )
    return y_TO if add_TO is None else y_TO + add_TO


def feed_forward(
    x_TD: Tensor, first: AnyLinear, second: AnyLinear, gelu: str, add_TD: Tensor | None = None
) -> Tensor:
    """`minibert.encoder.feed_forward`, plus another tensor if there is one."""
    form = "none" if gelu == "erf" else "tanh"
    if isinstance(first, LinearWeights):
        y_TD: Tensor = _FeedForward.apply(x_TD, *first, *second, form)
        return y_TD if add_TD is None else y_TD + add_TD
    if isinstance(first, PackedLinear):
        inner_TF = packed_linear(x_TD, first, gelu=gelu)
    else:
        inner_TF = F.gelu(int8_linear(x_TD, first), approximate=form)
    return linear(inner_TF, second, add_TD)


def _trained(x_TI: Tensor, weights: LinearWeights) -> Tensor:
    y_TO: Tensor = _Linear.apply(x_TI, *weights)
    return y_TO


class _Linear(torch.autograd.Function):
    """Keeps x and W, which are there anyway."""

    @staticmethod
    def forward(ctx: Any, x_TI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_TI, weight_OI)
        ctx.way = chosen(x_TI)
        return product(x_TI, weight_OI, bias_O, ctx.way)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TO,) = upstream
        x_TI, weight_OI = ctx.saved_tensors
        dx_TI = None
        if ctx.needs_input_grad[0]:
            dx_TI = product(dy_TO, weight_OI.T, None, ctx.way)
        return dx_TI, product(dy_TO.T, x_TI.T, None, ctx.way), dy_TO.sum(0)


class _FeedForward(torch.autograd.Function):
    """Keeps x and what goes into GELU; what comes out of it is as wide, and quick to compute."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_FD: Tensor,
        bias_F: Tensor,
        weight_DF: Tensor,
        bias_D: Tensor,
        form: str,
    ) -> Tensor:
        way = chosen(x_TD)
        inner_TF = product(x_TD, weight_FD, bias_F, way)
        ctx.save_for_backward(x_TD, weight_FD, weight_DF, inner_TF)
        ctx.way, ctx.form = way, form
        return product(F.gelu(inner_TF, approximate=form), weight_DF, bias_D, way)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TD,) = upstream
        x_TD, weight_FD, weight_DF, inner_TF = ctx.saved_tensors
        gelu_TF = F.gelu(inner_TF, approximate=ctx.form)
        dweight_DF = product(dy_TD.T, gelu_TF.T, None, ctx.way)
        dgelu_TF = product(dy_TD, weight_DF.T, None, ctx.way)
        dinner_TF = torch.ops.aten.gelu_backward(dgelu_TF, inner_TF, approximate=ctx.form)
        return (
            product(dinner_TF, weight_FD.T, None, ctx.way),
            product(dinner_TF.T, x_TD.T, None, ctx.way),
            dinner_TF.sum(0),
            dweight_DF,
            dy_TD.sum(0),
            None,
        )
