"""The eight small functions, each proven five ways: spec, reference, laws, gradient, mistakes."""

import math
from typing import NamedTuple

import pytest
import spec
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proof import (
    EPS,
    EPS_32,
    as_tensor,
    check,
    check_slope,
    differing,
    distance,
    fewer,
    gradients,
    holds,
    normal,
    over_rows,
    rejects,
    seeds,
    tensors,
)
from torch import Tensor

from minibert.functional import (
    dropout,
    embedding,
    gelu_erf,
    gelu_tanh,
    layer_norm,
    linear,
    log_softmax,
    softmax,
)

SHAPES = [(7,), (3, 5), (2, 3, 5), (2, 1, 3, 7), (1, 1), (11, 2)]


def rows_of(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


# ------------------------------------------------------------------------------------- linear


class LinearCase(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor


def linear_case(seed: int, out_width: int = 5, in_width: int = 3) -> LinearCase:
    return LinearCase(
        normal(seed, 2, 7, in_width),
        normal(seed + 1, out_width, in_width),
        normal(seed + 2, out_width),
    )


def linear_bound(case: LinearCase) -> Tensor:
    """n roundings of a sum of n terms are n/2 EPS of the sum of their sizes, on either side."""
    terms = case.x.shape[-1] + 1
    return terms * EPS * (case.x.abs() @ case.weight.T.abs() + case.bias.abs())


@given(seed=seeds)
def test_linear_is_its_spec(seed):
    case = linear_case(seed)
    expected = as_tensor(over_rows(spec.linear, *(part.tolist() for part in case)))
    check(distance(linear(*case), expected, linear_bound(case)), 1, "linear and its spec")


@given(seed=seeds)
def test_linear_is_the_reference(seed):
    case = linear_case(seed)
    check(distance(linear(*case), F.linear(*case), linear_bound(case)), 1, "linear and F.linear")


def one_hot_inputs_read_the_columns(formula, case):
    eye = torch.eye(case.x.shape[-1], dtype=torch.float64)
    return differing(formula(eye, case.weight, case.bias), case.weight.T + case.bias), 0


def differences_ignore_the_bias(formula, case):
    x, y = case.x, case.x.flip(0)
    left = formula(x, case.weight, case.bias) - formula(y, case.weight, case.bias)
    right = formula(x - y, case.weight, torch.zeros_like(case.bias))
    return distance(left, right, linear_bound(case) + linear_bound(case).flip(0)), 2


def zero_gives_the_bias(formula, case):
    result = formula(torch.zeros_like(case.x), case.weight, case.bias)
    return differing(result, case.bias.expand_as(result)), 0


LINEAR_LAWS = [one_hot_inputs_read_the_columns, differences_ignore_the_bias, zero_gives_the_bias]


@pytest.mark.parametrize("law", LINEAR_LAWS)
@fewer(2)
@given(seed=seeds)
def test_linear_law(law, seed):
    holds(law, linear, linear_case(seed))


def transposed_weight(x, weight, bias):
    return x @ weight + bias


def no_bias(x, weight, bias):
    return x @ weight.T


def bias_added_to_the_input(x, weight, bias):
    return (x + bias) @ weight.T


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (transposed_weight, one_hot_inputs_read_the_columns),
        (no_bias, zero_gives_the_bias),
        (bias_added_to_the_input, zero_gives_the_bias),
    ],
)
def test_linear_rejects(mistake, law):
    rejects(law, mistake, linear, [linear_case(seed, 5, 5) for seed in range(5)])


@fewer(4)
@given(seed=seeds)
def test_linear_gradient(seed):
    case = linear_case(seed)
    check_slope(linear, lambda x, w, b: over_rows(spec.linear, x, w, b), case, seed)
    upstream = normal(seed + 9, 2, 7, 5)
    to_x, to_weight, to_bias = gradients(linear, case, upstream)
    check(distance(to_x, upstream @ case.weight), 100 * EPS, "dx = Wᵀ u")
    summed = torch.einsum("bso,bsi->oi", upstream, case.x)
    check(distance(to_weight, summed), 500 * EPS, "dW = Σ u xᵀ")
    check(distance(to_bias, upstream.sum((0, 1))), 100 * EPS, "db = Σ u")


def test_linear_refuses_another_width():
    with pytest.raises(ValueError, match="x has width 4, but the weight maps from 3"):
        linear(torch.ones(2, 4), torch.ones(5, 3), torch.ones(5))


# ------------------------------------------------------------------------------------ softmax


def softmax_bound(x: Tensor, eps: float = EPS) -> Tensor:
    """exp turns an absolute error of its argument, |x - max| EPS, into a relative one."""
    top = x.amax(-1, keepdim=True)
    gap = torch.where(x == top, 0, x - top).abs()
    return (4 + x.shape[-1] / 2 + torch.where(gap.isfinite(), gap, 0)) * eps


@given(x=tensors(SHAPES, scales=(1e-3, 1, 50)))
def test_softmax_is_its_spec(x):
    expected = as_tensor(over_rows(spec.softmax, x.tolist()))
    unit = softmax_bound(x) * expected + 1e-307  # below that, digits run out
    check(distance(softmax(x), expected, unit), 1, "softmax and its spec")


@given(x=tensors(SHAPES, scales=(1e-3, 1, 50)))
def test_softmax_is_the_reference(x):
    expected = F.softmax(x, -1)
    unit = 2 * softmax_bound(x) * expected + 1e-307
    check(distance(softmax(x), expected, unit), 1, "softmax and F.softmax")


@given(x=tensors(SHAPES, scales=(1, 20)))
def test_softmax_keeps_float32_accuracy(x):
    x = x.float()
    expected = as_tensor(over_rows(spec.softmax, x.tolist()))
    unit = softmax_bound(x, EPS_32) * expected + 1e-37
    check(distance(softmax(x), expected, unit), 1, "softmax in float32")


def rows_are_distributions(formula, x):
    p = formula(x)
    total = distance(p.sum(-1), torch.ones(x.shape[:-1]).double())
    outside = float(((p < 0) | (p > 1)).sum())
    return total + outside, 2 * x.shape[-1] * EPS


def a_common_shift_cancels(formula, x):
    worst = 0.0
    for shift in (1.0, -700.0, 1e4):
        worst = max(worst, distance(formula(x + shift), formula(x)) / (abs(shift) + 10))
    return worst, 4 * (x.abs().max() + x.shape[-1]) * EPS


def ratios_are_exponential(formula, x):
    log_p = torch.log(formula(x))
    left = log_p - log_p[..., :1]
    return distance(left, x - x[..., :1]), (20 + 4 * x.abs().max()) * EPS


def order_does_not_matter(formula, x):
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(1))
    return distance(formula(x[..., order]), formula(x)[..., order]), x.shape[-1] * EPS


def rows_do_not_see_each_other(formula, x):
    rows = rows_of(x)
    others = rows + 2000 * torch.arange(len(rows))[:, None]
    return differing(formula(others)[0], formula(rows)[0]), 0


def two_classes_are_logistic(formula, x):
    pair = torch.stack((x.reshape(-1), torch.zeros(x.numel())), -1)
    expected = as_tensor([1 / (1 + math.exp(-value)) for value in x.reshape(-1).tolist()])
    return distance(formula(pair)[:, 0], expected), 8 * EPS


def limits_are_exact(formula, x):
    size = x.shape[-1]
    equal, gap = torch.full_like(x, -3.7), torch.zeros_like(x)
    gap[..., 0] = 1e4
    hidden = torch.cat((x, torch.full_like(x[..., :1], -math.inf)), -1)
    one_hot = torch.zeros_like(x)
    one_hot[..., 0] = 1
    error = differing(formula(equal), torch.full_like(x, 1 / size))
    error += differing(formula(gap), one_hot)
    error += differing(formula(hidden)[..., -1], torch.zeros(x.shape[:-1]))
    return error, 0


def a_hidden_row_is_zero(formula, x):
    nothing = torch.full_like(x, -math.inf)
    return differing(formula(nothing), torch.zeros_like(x)), 0


SOFTMAX_LAWS = [
    rows_are_distributions,
    a_common_shift_cancels,
    ratios_are_exponential,
    order_does_not_matter,
    rows_do_not_see_each_other,
    two_classes_are_logistic,
    limits_are_exact,
    a_hidden_row_is_zero,
]


@pytest.mark.parametrize("law", SOFTMAX_LAWS)
@fewer(2)
@given(x=tensors(SHAPES, scales=(1e-3, 1, 5)))
def test_softmax_law(law, x):
    holds(law, softmax, x)


def no_maximum(x):
    weights = torch.exp(x)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)


def base_two(x):
    return softmax(x * math.log(2))


def sum_over_everything(x):
    weights = torch.exp(x - x.amax())
    return weights / weights.sum()


def wrong_axis(x):
    return torch.softmax(x, 0)


def eps_in_the_denominator(x):
    weights = torch.exp(x - x.amax(-1, keepdim=True))
    return weights / (weights.sum(-1, keepdim=True) + 1e-6)


def one_maximum_for_all_rows(x):
    weights = torch.exp(x - x.amax())
    return weights / weights.sum(-1, keepdim=True)


def temperature_two(x):
    return softmax(x / 2)


def normalised_sigmoids(x):
    weights = torch.sigmoid(x)
    return weights / weights.sum(-1, keepdim=True)


def nan_for_a_hidden_row(x):
    return torch.softmax(x, -1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (no_maximum, a_common_shift_cancels),
        (base_two, ratios_are_exponential),
        (sum_over_everything, rows_are_distributions),
        (wrong_axis, rows_are_distributions),
        (eps_in_the_denominator, rows_are_distributions),
        (one_maximum_for_all_rows, rows_do_not_see_each_other),
        (temperature_two, two_classes_are_logistic),
        (normalised_sigmoids, ratios_are_exponential),
        (nan_for_a_hidden_row, a_hidden_row_is_zero),
    ],
)
def test_softmax_rejects(mistake, law):
    rejects(law, mistake, softmax, [normal(seed, 5, 7) for seed in range(5)])


@fewer(3)
@given(x=tensors(SHAPES), seed=seeds)
def test_softmax_gradient(x, seed):
    check_slope(softmax, lambda x: over_rows(spec.softmax, x), [x], seed)
    upstream, p = normal(seed, *x.shape), softmax(x)
    closed = p * (upstream - (p * upstream).sum(-1, keepdim=True))
    (found,) = gradients(softmax, [x], upstream)
    check(distance(found, closed), 50 * EPS, "dx = p (u - Σ p u)")


def test_softmax_of_a_hidden_row_has_gradient_zero():
    x = torch.tensor([[-math.inf, -math.inf], [1.0, -math.inf]])
    (found,) = gradients(softmax, [x], torch.tensor([[3.0, 5.0], [7.0, 11.0]]))
    assert found.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("formula", [softmax, log_softmax])
def test_half_precision_is_float32_rounded_once(formula, dtype):
    x = normal(3, 2, 7, 301, scale=5).to(dtype)
    assert formula(x).dtype == dtype
    assert differing(formula(x), formula(x.float()).to(dtype)) == 0


# -------------------------------------------------------------------------------- log_softmax


def log_softmax_bound(x: Tensor, eps: float = EPS) -> Tensor:
    top = x.amax(-1, keepdim=True)
    return (4 + x.shape[-1] / 2 + (x - top).abs()) * eps


@given(x=tensors(SHAPES, scales=(1e-3, 1, 50, 500)))
def test_log_softmax_is_its_spec(x):
    expected = as_tensor(over_rows(spec.log_softmax, x.tolist()))
    check(distance(log_softmax(x), expected, log_softmax_bound(x)), 1, "log_softmax and its spec")


@given(x=tensors(SHAPES, scales=(1e-3, 1, 50, 500)))
def test_log_softmax_is_the_reference(x):
    expected, unit = F.log_softmax(x, -1), 2 * log_softmax_bound(x)
    check(distance(log_softmax(x), expected, unit), 1, "log_softmax and F.log_softmax")


@given(row=st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=1, max_size=7))
def test_softmax_and_log_softmax_are_their_specs_for_any_row(row):
    x = as_tensor(row)
    expected, unit = as_tensor(spec.log_softmax(row)), log_softmax_bound(x)
    check(distance(log_softmax(x), expected, unit), 1, "log_softmax of any row")
    expected, unit = as_tensor(spec.softmax(row)), softmax_bound(x)
    check(distance(softmax(x), expected, unit * expected + 1e-307), 1, "softmax of any row")


@given(x=tensors(SHAPES, scales=(1, 500)))
def test_log_softmax_keeps_float32_accuracy(x):
    x = x.float()
    expected = as_tensor(over_rows(spec.log_softmax, x.tolist()))
    unit = log_softmax_bound(x, EPS_32)
    check(distance(log_softmax(x), expected, unit), 1, "log_softmax in float32")


def exponentials_sum_to_one(formula, x):
    total = torch.exp(formula(x)).sum(-1)
    return distance(total, torch.ones_like(total)), (20 + 4 * x.abs().max()) * EPS


def differences_are_kept(formula, x):
    log_p = formula(x)
    return distance(log_p - log_p[..., :1], x - x[..., :1]), (20 + 8 * x.abs().max()) * EPS


def a_common_shift_cancels_in_logs(formula, x):
    return distance(formula(x + 1e4), formula(x)), 4 * 1e4 * EPS


def uniform_is_minus_log_n(formula, x):
    error = distance(formula(torch.zeros_like(x)), torch.full_like(x, -math.log(x.shape[-1])))
    return error, 4 * EPS


def a_wide_gap_stays_finite(formula, x):
    gap = torch.zeros_like(x)
    gap[..., 1:] = -1e4
    return differing(formula(gap), gap), 0


LOG_SOFTMAX_LAWS = [
    exponentials_sum_to_one,
    differences_are_kept,
    a_common_shift_cancels_in_logs,
    uniform_is_minus_log_n,
    a_wide_gap_stays_finite,
]


@pytest.mark.parametrize("law", LOG_SOFTMAX_LAWS)
@fewer(2)
@given(x=tensors(SHAPES, scales=(1e-3, 1, 5)))
def test_log_softmax_law(law, x):
    holds(law, log_softmax, x)


def log_of_softmax(x):
    return torch.log(torch.softmax(x, -1))


def log_of_softmax_plus_eps(x):
    return torch.log(torch.softmax(x, -1) + 1e-9)


def no_maximum_in_logs(x):
    return x - torch.log(torch.exp(x).sum(-1, keepdim=True))


def log_over_the_wrong_axis(x):
    return torch.log_softmax(x, 0)


def maximum_not_added_back(x):
    return x - torch.log(torch.exp(x - x.amax(-1, keepdim=True)).sum(-1, keepdim=True))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (log_of_softmax, a_wide_gap_stays_finite),
        (log_of_softmax_plus_eps, a_wide_gap_stays_finite),
        (log_of_softmax_plus_eps, uniform_is_minus_log_n),
        (no_maximum_in_logs, a_common_shift_cancels_in_logs),
        (log_over_the_wrong_axis, exponentials_sum_to_one),
        (maximum_not_added_back, exponentials_sum_to_one),
    ],
)
def test_log_softmax_rejects(mistake, law):
    rejects(law, mistake, log_softmax, [normal(seed, 5, 7) for seed in range(5)])


@fewer(3)
@given(x=tensors(SHAPES), seed=seeds)
def test_log_softmax_gradient(x, seed):
    check_slope(log_softmax, lambda x: over_rows(spec.log_softmax, x), [x], seed)
    upstream = normal(seed, *x.shape)
    closed = upstream - softmax(x) * upstream.sum(-1, keepdim=True)
    (found,) = gradients(log_softmax, [x], upstream)
    check(distance(found, closed), 100 * EPS, "dx = u - p Σ u")


# --------------------------------------------------------------------------------------- gelu

SQRT_2 = math.sqrt(2)
lines = st.floats(-9, 9, allow_subnormal=False).map(lambda value: as_tensor([value]))
curves = st.one_of(tensors(SHAPES, scales=(1e-3, 1, 3)), lines)


def gelu_bound(x: Tensor, eps: float = EPS) -> Tensor:
    """erfc(z) ~ exp(-z²) turns the rounding of z into a relative error of 2 z² EPS = x² EPS."""
    return (16 + 2 * x * x) * eps


@given(x=curves)
def test_gelu_erf_is_its_spec(x):
    expected = as_tensor(over_rows(lambda row: [spec.gelu_erf(v) for v in row], x.tolist()))
    unit = gelu_bound(x) * expected.abs() + 1e-300
    check(distance(gelu_erf(x), expected, unit), 1, "gelu_erf and its spec")


@given(x=curves)
def test_gelu_erf_is_the_reference(x):
    """The reference cancels below 0: 1 + erf keeps an absolute error, not a relative one."""
    check(distance(gelu_erf(x), F.gelu(x), 1 + x.abs()), 4 * EPS, "gelu_erf and F.gelu")


@given(x=tensors(SHAPES, scales=(1, 3)))
def test_gelu_erf_keeps_float32_accuracy(x):
    x = x.float().clamp(-9, 9)
    expected = as_tensor(over_rows(lambda row: [spec.gelu_erf(v) for v in row], x.tolist()))
    unit = gelu_bound(x, EPS_32) * expected.abs() + 1e-36
    check(distance(gelu_erf(x), expected, unit), 1, "gelu_erf in float32")


@given(x=curves)
def test_gelu_tanh_is_its_spec(x):
    expected = as_tensor(over_rows(lambda row: [spec.gelu_tanh(v) for v in row], x.tolist()))
    check(distance(gelu_tanh(x), expected, 1 + x.abs()), 8 * EPS, "gelu_tanh and its spec")


@given(x=curves)
def test_gelu_tanh_is_the_reference(x):
    expected = F.gelu(x, approximate="tanh")
    check(distance(gelu_tanh(x), expected, 1 + x.abs()), 8 * EPS, "gelu_tanh and F.gelu")


@given(x=tensors(SHAPES, scales=(1, 3)))
def test_gelu_tanh_keeps_float32_accuracy(x):
    x = x.float()
    expected = as_tensor(over_rows(lambda row: [spec.gelu_tanh(v) for v in row], x.tolist()))
    check(distance(gelu_tanh(x), expected, 1 + x.abs()), 8 * EPS_32, "gelu_tanh in float32")


def the_two_sides_differ_by_x(formula, x):
    return distance(formula(x) - formula(-x), x, 1 + x.abs()), 4 * EPS


def the_two_sides_sum_to_x_erf(formula, x):
    expected = as_tensor([v * math.erf(v / SQRT_2) for v in x.reshape(-1).tolist()]).view(x.shape)
    return distance(formula(x) + formula(-x), expected, 1 + x.abs()), 8 * EPS


def the_tail_keeps_its_digits(formula, x):
    tail = torch.linspace(-9, -5, 41, dtype=torch.float64)
    expected = as_tensor([v / 2 * math.erfc(-v / SQRT_2) for v in tail.tolist()])
    return distance(formula(tail), expected, expected.abs()), 1e-12


def it_lies_below_relu(formula, x):
    y = formula(x)
    above = torch.relu(-(torch.relu(x) - y)).max()
    below = torch.relu(torch.relu(x) - 0.16997120747990370 - y).max()
    return float(above + below), 4 * EPS * (1 + x.abs().max())


def its_minimum_is_known(formula, x):
    lowest = formula(as_tensor([-0.7517915246935645]))
    return distance(lowest, as_tensor([-0.16997120747990369])), EPS


GELU_ERF_LAWS = [
    the_two_sides_differ_by_x,
    the_two_sides_sum_to_x_erf,
    the_tail_keeps_its_digits,
    it_lies_below_relu,
    its_minimum_is_known,
]


@pytest.mark.parametrize("law", GELU_ERF_LAWS)
@fewer(2)
@given(x=curves)
def test_gelu_erf_law(law, x):
    holds(law, gelu_erf, x)


def with_one_plus_erf(x):
    return x / 2 * (1 + torch.erf(x / SQRT_2))


def with_short_root_of_two(x):
    return x / 2 * torch.erfc(-x / 1.41421)


def with_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


def relu(x):
    return torch.relu(x)


def without_the_half(x):
    return x * (1 + torch.erf(x / SQRT_2))


def without_the_root_of_two(x):
    return x / 2 * torch.erfc(-x)


def distribution_function_alone(x):
    return torch.erfc(-x / SQRT_2) / 2


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (gelu_tanh, the_two_sides_sum_to_x_erf),
        (gelu_tanh, its_minimum_is_known),
        (with_one_plus_erf, the_tail_keeps_its_digits),
        (with_short_root_of_two, the_two_sides_sum_to_x_erf),
        (with_sigmoid, the_two_sides_sum_to_x_erf),
        (relu, its_minimum_is_known),
        (without_the_half, the_two_sides_differ_by_x),
        (without_the_root_of_two, the_two_sides_sum_to_x_erf),
        (distribution_function_alone, it_lies_below_relu),
    ],
)
def test_gelu_erf_rejects(mistake, law):
    rejects(law, mistake, gelu_erf, [normal(seed, 5, 7) for seed in range(5)])


def its_inner_cubic_is_known(formula, x):
    """atanh(2 y/x - 1) / √(2/π) - x = 0.044715 x³"""
    grid = torch.linspace(0.25, 2, 29, dtype=torch.float64)
    inner = torch.atanh(2 * formula(grid) / grid - 1) / math.sqrt(2 / math.pi)
    return distance(inner - grid, 0.044715 * grid**3), 1e-13


def it_starts_with_slope_one_half(formula, x):
    """y = x/2 + x²/√(2π) + O(x⁴)"""
    small = 1e-4 * x.clamp(-3, 3)
    expected = small / 2 + small**2 / math.sqrt(2 * math.pi)
    return distance(formula(small), expected), 1e-14


def it_is_near_the_erf_form(formula, x):
    """The largest distance, 4.7324e-4, lies at x = 2.69892."""
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    here = as_tensor([2.69892])
    peak = abs(distance(formula(here), gelu_erf(here)) - 4.7324e-4)
    return peak + max(0.0, distance(formula(grid), gelu_erf(grid)) - 4.7325e-4), 5e-9


GELU_TANH_LAWS = [
    the_two_sides_differ_by_x,
    its_inner_cubic_is_known,
    it_starts_with_slope_one_half,
    it_is_near_the_erf_form,
]


@pytest.mark.parametrize("law", GELU_TANH_LAWS)
@fewer(2)
@given(x=curves)
def test_gelu_tanh_law(law, x):
    holds(law, gelu_tanh, x)


def with_swapped_digits(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.047415 * x**3)))


def with_a_square(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


def with_root_of_pi_over_two(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (gelu_erf, its_inner_cubic_is_known),
        (gelu_erf, it_is_near_the_erf_form),
        (with_swapped_digits, its_inner_cubic_is_known),
        (with_a_square, the_two_sides_differ_by_x),
        (with_root_of_pi_over_two, it_starts_with_slope_one_half),
    ],
)
def test_gelu_tanh_rejects(mistake, law):
    rejects(law, mistake, gelu_tanh, [normal(seed, 5, 7) for seed in range(5)])


@fewer(3)
@given(x=tensors(SHAPES, scales=(1, 3)), seed=seeds)
def test_gelu_gradients(x, seed):
    for formula, by_hand in ((gelu_erf, spec.gelu_erf), (gelu_tanh, spec.gelu_tanh)):
        check_slope(
            formula, lambda x, f=by_hand: over_rows(lambda row: [f(v) for v in row], x), [x], seed
        )
    upstream = normal(seed, *x.shape)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    (found,) = gradients(gelu_erf, [x], upstream)
    closed = (torch.erfc(-x / SQRT_2) / 2 + x * density) * upstream
    check(distance(found, closed), 100 * EPS, "dx = (Φ(x) + x φ(x)) u")
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    inner_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    (found,) = gradients(gelu_tanh, [x], upstream)
    closed = ((1 + tanh) / 2 + x / 2 * (1 - tanh * tanh) * inner_slope) * upstream
    check(distance(found, closed), 100 * EPS * float(1 + x.abs().max()), "dx of the tanh form")


# --------------------------------------------------------------------------------- layer_norm


class NormCase(NamedTuple):
    x: Tensor
    gain: Tensor
    bias: Tensor
    eps: float


def norm_cases(
    scales: tuple[float, ...] = (1e-6, 1.0, 1e3), offsets: tuple[float, ...] = (0.0, 10.0)
) -> st.SearchStrategy[NormCase]:
    """At a standard deviation of 1e-6 BERT's eps of 1e-12 is as large as the variance."""
    shapes = [shape for shape in SHAPES if shape[-1] > 1]
    return st.builds(
        lambda x, seed, eps: NormCase(
            x, normal(seed, x.shape[-1], offset=1), normal(seed + 1, x.shape[-1]), eps
        ),
        tensors(shapes, scales, offsets),
        seeds,
        st.sampled_from([1e-12, 1e-5]),
    )


def deviation(x: Tensor, eps: float) -> Tensor:
    return torch.sqrt(x.var(-1, correction=0, keepdim=True) + eps)


def norm_bound(case: NormCase, unit: float = EPS) -> Tensor:
    """A mean of D numbers is D/2 EPS |x| off; division by the deviation magnifies that."""
    x = case.x.double()
    condition = (x.abs().amax(-1, keepdim=True) + x.abs()) / deviation(x, case.eps)
    factor = (2 + x.shape[-1] / 2) * unit
    return factor * (case.gain.abs() * (1 + condition) + case.bias.abs())


@given(case=norm_cases())
def test_layer_norm_is_its_spec(case):
    lists = [part.tolist() for part in case[:3]]
    expected = as_tensor(over_rows(spec.layer_norm, *lists, case.eps))
    check(distance(layer_norm(*case), expected, norm_bound(case)), 1, "layer_norm and its spec")


@given(case=norm_cases())
def test_layer_norm_is_the_reference(case):
    expected = F.layer_norm(case.x, case.gain.shape, case.gain, case.bias, case.eps)
    unit = 2 * norm_bound(case)
    check(distance(layer_norm(*case), expected, unit), 1, "layer_norm and F.layer_norm")


@given(case=norm_cases(offsets=(0.0, 1e3)))
def test_layer_norm_keeps_float32_accuracy(case):
    case = NormCase(*(part.float() for part in case[:3]), case.eps)
    expected = as_tensor(over_rows(spec.layer_norm, *(p.tolist() for p in case[:3]), case.eps))
    unit = norm_bound(case, EPS_32)
    check(distance(layer_norm(*case), expected, unit), 1, "layer_norm in float32")


def plain(case: NormCase) -> tuple[Tensor, Tensor]:
    return torch.ones_like(case.gain), torch.zeros_like(case.bias)


def output_has_mean_0_and_square_v_over_v_plus_eps(formula, case):
    y = formula(case.x, *plain(case), case.eps)
    variance = case.x.var(-1, correction=0)
    unit = norm_bound(case._replace(gain=plain(case)[0], bias=plain(case)[1])).amax(-1)
    error = distance(y.mean(-1), torch.zeros_like(variance), unit)
    expected = variance / (variance + case.eps)
    return error + distance((y * y).mean(-1), expected, unit), 4


def a_shift_of_the_input_cancels(formula, case):
    """On a grid of 2^-16 a shift of 1e7 is exact, so all that may differ is rounding inside."""
    x = torch.round(case.x * 2**16) / 2**16 + torch.arange(case.x.shape[-1])
    moved = case._replace(x=x + 1e7)
    return distance(formula(*moved), formula(x, *case[1:]), norm_bound(moved)), 2


def scaling_x_and_root_eps_cancels(formula, case):
    """A power of two leaves every digit in place."""
    scaled = formula(case.x * 2.0**-10, case.gain, case.bias, case.eps * 2.0**-20)
    return differing(scaled, formula(*case)), 0


def gain_and_bias_act_last(formula, case):
    normed = formula(case.x, *plain(case), case.eps)
    return distance(formula(*case), normed * case.gain + case.bias, norm_bound(case)), 1


def it_is_odd(formula, case):
    zero = torch.zeros_like(case.bias)
    left = formula(-case.x, case.gain, zero, case.eps)
    return differing(left, -formula(case.x, case.gain, zero, case.eps)), 0


def a_constant_vector_gives_the_bias(formula, case):
    constant = torch.full_like(case.x, 3)
    return differing(formula(constant, *case[1:]), case.bias.expand_as(case.x)), 0


def vectors_do_not_see_each_other(formula, case):
    rows = rows_of(case.x)
    others = rows * (1 + torch.arange(len(rows)))[:, None]
    return differing(formula(others, *case[1:])[0], formula(rows, *case[1:])[0]), 0


def features_may_be_reordered(formula, case):
    order = torch.randperm(len(case.gain), generator=torch.Generator().manual_seed(1))
    left = formula(case.x[..., order], case.gain[order], case.bias[order], case.eps)
    return distance(left, formula(*case)[..., order], norm_bound(case)[..., order]), 1


def gradient_is_orthogonal_to_shift_and_scale(formula, case):
    """Σ dx = 0, and ⟨x - μ, dx⟩ = ε/(v+ε) ⟨y, u⟩: a scale is seen only through ε."""
    upstream = normal(5, *case.x.shape)
    gain, bias = plain(case)
    (dx,) = gradients(lambda x: formula(x, gain, bias, case.eps), [case.x], upstream)
    variance = case.x.var(-1, correction=0)
    y = formula(case.x, gain, bias, case.eps)
    centred = case.x - case.x.mean(-1, keepdim=True)
    expected = case.eps / (variance + case.eps) * (y * upstream).sum(-1)
    bounds = norm_bound(case._replace(gain=gain, bias=bias)).amax(-1) * upstream.abs().sum(-1)
    sums = (dx * deviation(case.x, case.eps)).sum(-1)
    error = distance(sums, torch.zeros_like(sums), bounds)
    return error + distance((centred * dx).sum(-1), expected, bounds), 8


LAYER_NORM_LAWS = [
    output_has_mean_0_and_square_v_over_v_plus_eps,
    a_shift_of_the_input_cancels,
    scaling_x_and_root_eps_cancels,
    gain_and_bias_act_last,
    it_is_odd,
    a_constant_vector_gives_the_bias,
    vectors_do_not_see_each_other,
    features_may_be_reordered,
    gradient_is_orthogonal_to_shift_and_scale,
]


@pytest.mark.parametrize("law", LAYER_NORM_LAWS)
@fewer(2)
@given(case=norm_cases())
def test_layer_norm_law(law, case):
    holds(law, layer_norm, case)


def moments(x):
    return x - x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)


def bessels_correction(x, gain, bias, eps):
    return moments(x)[0] / torch.sqrt(x.var(-1, keepdim=True) + eps) * gain + bias


def eps_outside_the_root(x, gain, bias, eps):
    centred, variance = moments(x)
    return centred / (torch.sqrt(variance) + eps) * gain + bias


def no_eps(x, gain, bias, eps):
    centred, variance = moments(x)
    return centred / torch.sqrt(variance) * gain + bias


def eps_of_pytorch(x, gain, bias, eps):
    return F.layer_norm(x, gain.shape, gain, bias)  # 1e-5


def statistics_over_the_batch(x, gain, bias, eps):
    return (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + eps) * gain + bias


def root_mean_square(x, gain, bias, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain + bias


def gain_and_bias_swapped(x, gain, bias, eps):
    return layer_norm(x, bias, gain, eps)


def gain_applied_to_the_bias(x, gain, bias, eps):
    centred, variance = moments(x)
    return (centred / torch.sqrt(variance + eps) + bias) * gain


def variance_by_cancellation(x, gain, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


def one_plus_gain(x, gain, bias, eps):
    return layer_norm(x, 1 + gain, bias, eps)


def detached_statistics(x, gain, bias, eps):
    centred, variance = moments(x.detach())
    return (x - (x - centred).detach()) / torch.sqrt(variance + eps) * gain + bias


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (bessels_correction, output_has_mean_0_and_square_v_over_v_plus_eps),
        (eps_outside_the_root, output_has_mean_0_and_square_v_over_v_plus_eps),
        (eps_outside_the_root, scaling_x_and_root_eps_cancels),
        (no_eps, a_constant_vector_gives_the_bias),
        (eps_of_pytorch, output_has_mean_0_and_square_v_over_v_plus_eps),
        (eps_of_pytorch, scaling_x_and_root_eps_cancels),
        (statistics_over_the_batch, vectors_do_not_see_each_other),
        (root_mean_square, a_shift_of_the_input_cancels),
        (gain_and_bias_swapped, gain_and_bias_act_last),
        (gain_applied_to_the_bias, gain_and_bias_act_last),
        (variance_by_cancellation, a_shift_of_the_input_cancels),
        (one_plus_gain, gain_and_bias_act_last),
        (detached_statistics, gradient_is_orthogonal_to_shift_and_scale),
    ],
)
def test_layer_norm_rejects(mistake, law):
    cases = [
        NormCase(normal(i, 5, 7, scale=scale), normal(i + 50, 7), normal(i + 70, 7), 1e-12)
        for i, scale in enumerate((1e-6, 1.0, 30.0))
    ]
    rejects(law, mistake, layer_norm, cases)


@fewer(3)
@given(case=norm_cases(scales=(1.0,)), seed=seeds)
def test_layer_norm_gradient(case, seed):
    x, gain, bias, eps = case
    steep = x + 10 * torch.arange(x.shape[-1])  # a deviation far above the step of differences
    check_slope(
        lambda x, gain, bias: layer_norm(x, gain, bias, eps),
        lambda x, gain, bias: over_rows(spec.layer_norm, x, gain, bias, eps),
        [steep, gain, bias],
        seed,
    )
    upstream, sigma = normal(seed, *x.shape), deviation(x, eps)
    normed, scaled = moments(x)[0] / sigma, upstream * gain
    along = normed * (scaled * normed).mean(-1, keepdim=True)
    (dx,) = gradients(lambda x: layer_norm(x, gain, bias, eps), [x], upstream)
    closed = scaled - scaled.mean(-1, keepdim=True) - along
    unit = norm_bound(case).amax() * (1 + upstream.abs())
    check(distance(dx * sigma, closed, unit), 4, "σ dx = u g - mean(u g) - ŷ mean(u g ŷ)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_layer_norm_in_half_precision_is_float32_rounded_once(dtype):
    """Squares of numbers near 300 are beyond the range of float16."""
    x = normal(1, 3, 11, scale=300).to(dtype)
    gain, bias = normal(2, 11).to(dtype), normal(3, 11).to(dtype)
    expected = layer_norm(x.float(), gain.float(), bias.float(), 1e-12).to(dtype)
    assert layer_norm(x, gain, bias, 1e-12).dtype == dtype
    assert differing(layer_norm(x, gain, bias, 1e-12), expected) == 0


def test_layer_norm_refuses_another_width():
    with pytest.raises(ValueError, match=r"x has width 4, but the gain has shape \[3\]"):
        layer_norm(torch.ones(2, 4), torch.ones(3), torch.ones(3), 1e-12)


# ------------------------------------------------------------------------------------ dropout


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


rates = st.sampled_from([0.1, 0.3, 0.5, 0.9])


class DropoutCase(NamedTuple):
    x: Tensor
    rate: float
    seed: int


dropout_cases = st.builds(DropoutCase, tensors([(2, 3, 5), (101,)], offsets=(10.0,)), rates, seeds)


@given(case=dropout_cases)
def test_dropout_is_its_spec(case):
    """Every number gets one draw, uniform in [0, 1), and stays where the draw is >= rate."""
    draws = torch.rand(case.x.shape, generator=fresh(case.seed)).reshape(-1).tolist()
    kept = [draw >= case.rate for draw in draws]
    expected = as_tensor(spec.dropout(case.x.reshape(-1).tolist(), kept, case.rate))
    found = dropout(case.x, case.rate, fresh(case.seed)).reshape(-1)
    check(distance(found, expected, found.abs() + 1), 2 * EPS, "dropout and its spec")


def without_a_generator_nothing_happens(formula, case):
    return differing(formula(case.x, case.rate, None), case.x), 0


def kept_numbers_are_scaled(formula, case):
    y = formula(case.x, case.rate, fresh(case.seed))
    kept = y != 0
    return distance(y[kept] * (1 - case.rate), case.x[kept], case.x[kept].abs()), 2 * EPS


def the_rate_is_the_share_of_zeros(formula, case):
    """A count of n draws has the deviation √(n p (1-p)); six of them are never exceeded."""
    n, rate = 100_000, case.rate
    dropped = float((formula(torch.ones(n), rate, fresh(case.seed)) == 0).sum())
    return abs(dropped - n * rate), 6 * math.sqrt(n * rate * (1 - rate))


def neighbours_are_independent(formula, case):
    """Both of two neighbours, along either axis, are dropped with probability rate²."""
    zero = formula(torch.ones(300, 300), case.rate, fresh(case.seed)) == 0
    pairs, expected = 300 * 299, case.rate**2
    down = abs(float((zero[1:] & zero[:-1]).sum()) - pairs * expected)
    across = abs(float((zero[:, 1:] & zero[:, :-1]).sum()) - pairs * expected)
    # a draw takes part in two pairs, so the count varies a little more than pairs alone would
    return max(down, across), 6 * math.sqrt(pairs * expected * (1 + 2 * case.rate))


def equal_generators_give_equal_results(formula, case):
    return differing(*(formula(case.x, case.rate, fresh(case.seed)) for _ in range(2))), 0


def other_seeds_give_other_results(formula, case):
    ones = torch.ones(1000)
    first, second = (formula(ones, case.rate, fresh(case.seed + i)) for i in range(2))
    return float((first == second).all()), 0


DROPOUT_LAWS = [
    without_a_generator_nothing_happens,
    kept_numbers_are_scaled,
    the_rate_is_the_share_of_zeros,
    neighbours_are_independent,
    equal_generators_give_equal_results,
    other_seeds_give_other_results,
]


@pytest.mark.parametrize("law", DROPOUT_LAWS)
@fewer(3)
@given(case=dropout_cases)
def test_dropout_law(law, case):
    holds(law, dropout, case)


def draws_of(x, generator):
    return torch.rand(x.shape, generator=generator)


def always_drops(x, rate, generator):
    return dropout(x, rate, generator or fresh(0))


def scales_nothing(x, rate, generator):
    return x if generator is None else torch.where(draws_of(x, generator) >= rate, x, 0)


def scales_by_the_rate(x, rate, generator):
    return x if generator is None else torch.where(draws_of(x, generator) >= rate, x / rate, 0)


def keeps_what_it_should_drop(x, rate, generator):
    if generator is None:
        return x
    return torch.where(draws_of(x, generator) < rate, x / (1 - rate), 0)


def drops_whole_rows(x, rate, generator):
    if generator is None:
        return x
    return torch.where(draws_of(x[..., :1], generator) >= rate, x / (1 - rate), 0)


def draws_from_the_global_source(x, rate, generator):
    if generator is None:
        return x
    return torch.where(torch.rand(x.shape) >= rate, x / (1 - rate), 0)


def draws_with_a_fixed_seed(x, rate, generator):
    return x if generator is None else dropout(x, rate, fresh(0))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (always_drops, without_a_generator_nothing_happens),
        (scales_nothing, kept_numbers_are_scaled),
        (scales_by_the_rate, kept_numbers_are_scaled),
        (keeps_what_it_should_drop, the_rate_is_the_share_of_zeros),
        (drops_whole_rows, neighbours_are_independent),
        (draws_from_the_global_source, equal_generators_give_equal_results),
        (draws_with_a_fixed_seed, other_seeds_give_other_results),
    ],
)
def test_dropout_rejects(mistake, law):
    cases = [DropoutCase(normal(seed, 5, 7, offset=10), 0.3, seed) for seed in range(3)]
    rejects(law, mistake, dropout, cases)


@given(case=dropout_cases)
def test_dropout_gradient_is_the_same_mask(case):
    upstream = normal(case.seed, *case.x.shape)
    (found,) = gradients(lambda x: dropout(x, case.rate, fresh(case.seed)), [case.x], upstream)
    kept = dropout(torch.ones_like(case.x), case.rate, fresh(case.seed))
    check(distance(found, upstream * kept), 4 * EPS, "dx = u k / (1 - rate)")


def test_dropout_leaves_the_global_source_alone():
    before = torch.get_rng_state()
    dropout(torch.ones(5), 0.5, fresh(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_at_rate_zero_draws_nothing():
    generator = fresh(0)
    x = torch.ones(3)
    assert dropout(x, 0, generator) is x
    assert torch.equal(generator.get_state(), fresh(0).get_state())


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, math.nan])
@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_dropout_refuses_a_rate_that_is_none(rate, generator):
    with pytest.raises(ValueError, match=r"the rate is .*, but must be at least 0 and below 1"):
        dropout(torch.ones(3), rate, generator)


# ---------------------------------------------------------------------------------- embedding


class TableCase(NamedTuple):
    ids: Tensor
    table: Tensor


def table_case(seed: int, shape: tuple[int, ...] = (2, 5)) -> TableCase:
    ids = torch.randint(11, shape, generator=fresh(seed))
    return TableCase(ids, normal(seed, 11, 3))


table_cases = st.builds(table_case, seeds, st.sampled_from([(), (5,), (2, 5), (2, 1, 3), (0,)]))


@given(seed=seeds)
def test_embedding_is_its_spec(seed):
    ids, table = table_case(seed)
    expected = as_tensor([spec.embedding(row, table.tolist()) for row in ids.tolist()])
    assert differing(embedding(ids, table), expected) == 0


@given(case=table_cases)
def test_embedding_is_the_reference(case):
    assert differing(embedding(*case), F.embedding(*case)) == 0


def a_row_is_a_one_hot_product(formula, case):
    eye = torch.eye(len(case.table), dtype=torch.float64)
    return differing(formula(case.ids, case.table), eye[case.ids] @ case.table), 0


def reordered_rows_need_reordered_ids(formula, case):
    order = torch.randperm(len(case.table), generator=fresh(1))
    left = formula(order[case.ids], case.table)
    return differing(left, formula(case.ids, case.table[order])), 0


def the_last_id_reads_the_last_row(formula, case):
    last = torch.full_like(case.ids, len(case.table) - 1)
    found = formula(last, case.table)
    return differing(found, case.table[-1].expand_as(found)), 0


def ids_outside_are_refused(formula, case):
    accepted = 0
    for bad in (-1, len(case.table)):
        ids = case.ids.clone()
        ids[0, 0] = bad
        try:
            formula(ids, case.table)
            accepted += 1
        except ValueError:
            pass
    return float(accepted), 0


def a_row_collects_the_gradients_of_its_uses(formula, case):
    upstream = normal(3, *case.ids.shape, case.table.shape[1])
    expected = torch.zeros_like(case.table)
    for index, row in zip(case.ids.reshape(-1).tolist(), rows_of(upstream), strict=True):
        expected[index] += row
    (found,) = gradients(lambda table: formula(case.ids, table), [case.table], upstream)
    return distance(found, expected), 20 * EPS


EMBEDDING_LAWS = [
    a_row_is_a_one_hot_product,
    reordered_rows_need_reordered_ids,
    the_last_id_reads_the_last_row,
    ids_outside_are_refused,
    a_row_collects_the_gradients_of_its_uses,
]


@pytest.mark.parametrize("law", EMBEDDING_LAWS)
@fewer(2)
@given(seed=seeds)
def test_embedding_law(law, seed):
    holds(law, embedding, table_case(seed))


def plain_indexing(ids, table):
    return table[ids]


def counted_from_one(ids, table):
    return embedding(ids, table.roll(1, 0))


def clipped_ids(ids, table):
    return table[ids.clamp(0, len(table) - 1)]


def scaled_by_the_root_of_the_width(ids, table):
    return embedding(ids, table) * math.sqrt(table.shape[1])


def each_row_trained_once(ids, table):
    later = torch.zeros(ids.shape, dtype=torch.bool)
    for index in ids.unique():
        later.view(-1)[(ids.reshape(-1) == index).nonzero()[1:]] = True
    found = embedding(ids, table)
    return torch.where(later[..., None], found.detach(), found)


def padding_not_trained(ids, table):
    found = embedding(ids, table)
    return torch.where((ids == 0)[..., None], found.detach(), found)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (plain_indexing, ids_outside_are_refused),
        (clipped_ids, ids_outside_are_refused),
        (counted_from_one, the_last_id_reads_the_last_row),
        (counted_from_one, a_row_is_a_one_hot_product),
        (scaled_by_the_root_of_the_width, a_row_is_a_one_hot_product),
        (each_row_trained_once, a_row_collects_the_gradients_of_its_uses),
        (padding_not_trained, a_row_collects_the_gradients_of_its_uses),
    ],
)
def test_embedding_rejects(mistake, law):
    def refusing_mistake(ids, table):
        try:
            return mistake(ids, table)
        except IndexError as error:  # torch refuses too, above the table
            raise ValueError from error

    refusing_mistake.__name__ = mistake.__name__
    rejects(law, refusing_mistake, embedding, [table_case(seed, (3, 7)) for seed in range(8)])


@pytest.mark.parametrize("bad", [-1, 4, -(2**40)])
def test_embedding_refuses_ids_outside_the_table(bad):
    with pytest.raises(ValueError, match=rf"{bad}.*but the table has rows 0 to 3"):
        embedding(torch.tensor([[0, bad]]), torch.ones(4, 3))
