"""Linear maps in 8-bit integers: a quarter of the memory. `kernels.quantized` is the fast form.

Each row of a weight and each token has its own scale, computed when it is seen ("dynamic"), so one
large number costs precision in its own row only.

As in `functional`, names give trailing axes only; a letter's size may differ from call to call.
"""

import torch
from torch import Tensor

from minibert.functional import at_least_float32


def quantized_rows(x_D: Tensor) -> tuple[Tensor, Tensor]:
    """Write every row as whole numbers from -127 to 127 times one scale.

    Formula
        q_i = round(x_i / s),  s = max(max_i |x_i| / 127, 2^-126)
        Halves are rounded to even. The 2^-126 matters only for rows of zeros or of numbers near 0,
        where it keeps x / s finite. -128 is not used, so that -x becomes -q.

    Shapes
        x_D     float [..., D]  finite, or scale and row are worth nothing
        return  int8 [..., D], float [..., 1]  q and s; s in float32 at least

    Source
        Jacob et al. 2018, arXiv:1712.05877, section 2.1; symmetric and with one scale a row, as
        in the vector-wise quantization of Dettmers et al. 2022, arXiv:2208.07339.

    Differs
        ONNX Runtime uses one scale and one zero point for all tokens together.

    Accuracy
        |x - q s| <= (1/2 + 64 eps) s; half precision is read as float32.

    >>> quantized_rows(torch.tensor([[254.0, -3.0, 1.0], [0.0, 0.0, 0.0]]))[0]
    tensor([[127,  -2,   0],
            [  0,   0,   0]], dtype=torch.int8)
    """
    wide_D = at_least_float32(x_D)
    scale_1 = (wide_D.abs().amax(-1, keepdim=True) / 127).clamp(min=2.0**-126)
    return torch.round(wide_D / scale_1).to(torch.int8), scale_1


def quantized_linear(x_I: Tensor, weight_OI: Tensor, scale_O1: Tensor, bias_O: Tensor) -> Tensor:
    """`functional.linear` with weights and tokens in eight bits; for inference only.

    Formula
        y_o = s_x s_o Σ_i q_i Q_oi + b_o,  (q, s_x) = quantized_rows(x)
        The sum is exact. 32 bits hold it up to I = 133,144, as 133,144 * 127² < 2^31.
        |y_o - (W x + b)_o| <= Σ_i (|W_oi| s_x + |x_i| s_o) / 2 + I s_x s_o / 4

    Shapes
        x_I        float [..., I]
        weight_OI  int8 [O, I]   weight and scale are `quantized_rows` of `functional.linear`'s
        scale_O1   float [O, 1]
        bias_O     float [O]     stays what it is
        return     float [..., O]  same dtype as x; computed in float32 at least

    Source
        Zafrir et al. 2019, arXiv:1910.06188 (BERT in eight bits); Dettmers et al. 2022,
        arXiv:2208.07339 (vector-wise: a scale for each token and each output).

    Accuracy
        |error| <= 3 eps (|s_x s_o Σ q Q| + |b|) beside what `quantized_rows` has changed;
        half precision is float32 rounded once.

    Raises
        ValueError  the weight is not int8 or not as wide as x.

    >>> quantized_linear(torch.tensor([0.5, 1.0]), *quantized_rows(torch.eye(2)), torch.ones(2))
    tensor([1.5039, 2.0000])
    """
    if weight_OI.dtype != torch.int8 or x_I.shape[-1] != weight_OI.shape[1]:
        raise ValueError(
            f"quantized_linear: x has width {x_I.shape[-1]}, so the weight must be torch.int8 "
            f"[O, {x_I.shape[-1]}], but it is {weight_OI.dtype} {list(weight_OI.shape)}"
        )
    q_I, scale_1 = quantized_rows(x_I)
    sums_O = q_I.long() @ weight_OI.long().T
    return (sums_O * scale_1 * scale_O1[:, 0] + bias_O).to(x_I.dtype)
