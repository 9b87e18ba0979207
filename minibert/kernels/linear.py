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
    """`minibert.encoder.feed_forward`, plus another tensor if there is one.

    `gelu` is torch's name of the form: "none" for erf, or "tanh".
    """
    if isinstance(first, LinearWeights):
        y_TD: Tensor = _FeedForward.apply(x_TD, *first, *second, gelu)
        return y_TD if add_TD is None else y_TD + add_TD
    if isinstance(first, PackedLinear):
        inner_TF = packed_linear(x_TD, first, gelu=gelu)
    else:
        inner_TF = F.gelu(int8_linear(x_TD, first), approximate=gelu)
    return linear(inner_TF, second, add_TD)


def _trained(x_TI: Tensor, weights: LinearWeights) -> Tensor:
    y_TO: Tensor = _Linear.apply(x_TI, *weights)
    return y_TO


class _Linear(torch.autograd.Function):
    """Keeps x and W for the gradient; both exist anyway."""

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
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(dy_TO, weight_OI.T, None, ctx.way) if for_x else None,
            product(dy_TO.T, x_TI.T, None, ctx.way) if for_weight else None,
            dy_TO.sum(0) if for_bias else None,
        )


class _FeedForward(torch.autograd.Function):
    """Keeps x and the input of GELU; its output is as wide, and quick to compute again."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_FD: Tensor,
        bias_F: Tensor,
        weight_DF: Tensor,
        bias_D: Tensor,
        gelu: str,
    ) -> Tensor:
        way = chosen(x_TD)
        inner_TF = product(x_TD, weight_FD, bias_F, way)
        ctx.save_for_backward(x_TD, weight_FD, weight_DF, inner_TF)
        ctx.way, ctx.gelu = way, gelu
        return product(F.gelu(inner_TF, approximate=gelu), weight_DF, bias_D, way)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (dy_TD,) = upstream
        x_TD, weight_FD, weight_DF, inner_TF = ctx.saved_tensors
        for_x, for_weight, for_bias, for_weight_DF, for_bias_D, _ = ctx.needs_input_grad
        dx_TD = dweight_FD = dbias_F = dweight_DF = None
        if for_weight_DF:
            gelu_TF = F.gelu(inner_TF, approximate=ctx.gelu)
            dweight_DF = product(dy_TD.T, gelu_TF.T, None, ctx.way)
        if for_x or for_weight or for_bias:
            dgelu_TF = product(dy_TD, weight_DF.T, None, ctx.way)
            dinner_TF = torch.ops.aten.gelu_backward(dgelu_TF, inner_TF, approximate=ctx.gelu)
            dx_TD = product(dinner_TF, weight_FD.T, None, ctx.way) if for_x else None
            dweight_FD = product(dinner_TF.T, x_TD.T, None, ctx.way) if for_weight else None
            dbias_F = dinner_TF.sum(0) if for_bias else None
        dbias_D = dy_TD.sum(0) if for_bias_D else None
        return dx_TD, dweight_FD, dbias_F, dweight_DF, dbias_D, None
