"""What the laws of `quantization` do not say: refusals, dtypes, numbers that are not finite."""

import math
import re

import pytest
import torch

from minibert.laws.measure import normal
from minibert.quantization import quantized_linear, quantized_rows

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_are_int8_and_their_scales_float32_at_least(dtype):
    q, scale = quantized_rows(normal(0, 2, 3, 5).to(dtype))
    assert q.dtype == torch.int8
    assert scale.dtype == torch.promote_types(dtype, torch.float32)
    assert (q.shape, scale.shape) == ((2, 3, 5), (2, 3, 1))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 7, 3), (0, 3)])
def test_a_linear_map_keeps_dtype_and_axes(dtype, shape):
    x, weight, bias = (
        part.to(dtype) for part in (normal(0, *shape), normal(1, 5, 3), normal(2, 5))
    )
    y = quantized_linear(x, *quantized_rows(weight), bias)
    assert y.dtype == dtype
    assert y.shape == (*shape[:-1], 5)


def test_the_longest_sum_of_32_bits_is_the_one_that_is_said():
    assert 133_144 * 127**2 < 2**31 <= 133_145 * 127**2


def test_the_least_scale_is_the_smallest_normal_float32():
    assert quantized_rows(torch.zeros(3))[1].item() == torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_token_that_is_not_finite_is_not_made_so_in_silence(odd):
    x = torch.tensor([[1.0, odd, 2.0], [1.0, 3.0, 2.0]])
    y = quantized_linear(x, *quantized_rows(normal(1, 5, 3).float()), torch.zeros(5))
    assert not y[0].isfinite().any()
    assert y[1].isfinite().all()


@pytest.mark.parametrize("weight", [torch.ones(5, 3), torch.ones(5, 4).to(torch.int8)])
def test_linear_refuses_another_width_or_dtype(weight):
    message = (
        "quantized_linear: x has width 3, so the weight must be torch.int8 [O, 3], "
        f"but it is {weight.dtype} {list(weight.shape)}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        quantized_linear(torch.ones(2, 4, 3), weight, torch.ones(5, 1), torch.ones(5))
