"""Laws of `functional`: the small functions that everything else is made of."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.functional import (
    at_least_float32,
    dropout,
    embedding,
    gelu_erf,
    gelu_tanh,
    layer_norm,
    linear,
    log_softmax,
    softmax,
)
from minibert.laws import spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    eps_of,
    fresh,
    gradients,
    integers,
    normal,
    order_of,
    over_rows,
    seed_of,
    slopes,
    tensor,
)

SHAPES = [(7,), (3, 5), (2, 3, 5), (2, 1, 3, 7), (1, 1), (11, 2)]
NOTHING_ROUNDED = {"accuracy": "it copies numbers and rounds none"}


def rows(draw: Draw, scales: tuple[float, ...] = (1e-3, 1.0, 5.0)) -> Tensor:
    """Vectors along the last axis of a tensor of one to four axes."""
    return tensor(draw, draw.choice(SHAPES), draw.choice(scales))


def rows_of(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def rounded_once(y: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a result may move if it is computed in float32 and returned in a narrower type."""
    narrow = torch.finfo(dtype)
    share = narrow.eps / 2 if narrow.bits < 32 else 0.0
    return share * y.abs() + narrow.tiny


def at_least_eps32(x: Tensor) -> float:
    """The eps of the precision in which softmax and similar functions compute."""
    return min(eps_of(x), 2.0**-23)


# ------------------------------------------------------------------------------ at_least_float32

AT_LEAST_FLOAT32 = Proof(at_least_float32, rows, without=NOTHING_ROUNDED)
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@AT_LEAST_FLOAT32.spec
def the_numbers_stay_as_they_are(formula, x):
    narrow = [x.to(dtype) for dtype in PRECISIONS]
    return sum(differing(formula(part).double(), part.double()) for part in narrow), 0


@AT_LEAST_FLOAT32.reference
def it_promotes_as_torch_does(formula, x):
    wanted = [torch.promote_types(dtype, torch.float32) for dtype in PRECISIONS]
    found = [formula(x.to(dtype)).dtype for dtype in PRECISIONS]
    return sum(a != b for a, b in zip(found, wanted, strict=True)), 0


@AT_LEAST_FLOAT32.law
def wide_numbers_are_not_copied(formula, x):
    wide = [x.to(dtype) for dtype in (torch.float32, torch.float64)]
    return sum(formula(part).data_ptr() != part.data_ptr() for part in wide), 0


@AT_LEAST_FLOAT32.gradient
def the_gradient_passes_unchanged(formula, x):
    upstream = normal(5, *x.shape)
    return differing(gradients(formula, [x], upstream)[0], upstream), 0


@AT_LEAST_FLOAT32.mistake(the_numbers_stay_as_they_are, the_gradient_passes_unchanged)
def always_float32(x):
    return x.float()


@AT_LEAST_FLOAT32.mistake(it_promotes_as_torch_does)
def always_float64(x):
    return x.double()


@AT_LEAST_FLOAT32.mistake(it_promotes_as_torch_does)
def left_in_half_precision(x):
    return x


@AT_LEAST_FLOAT32.mistake(wide_numbers_are_not_copied)
def copied_every_time(x):
    return at_least_float32(x).clone()


# ---------------------------------------------------------------------------------------- linear


class LinearCase(NamedTuple):
    x: Tensor
    weight: Tensor
    bias: Tensor


def linear_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> LinearCase:
    out_width, in_width = draw.choice([(5, 3), (5, 5), (1, 7)])
    return LinearCase(
        normal(seed_of(draw), 2, 7, in_width, scale=scale, offset=offset),
        normal(seed_of(draw), out_width, in_width),
        normal(seed_of(draw), out_width),
    )


def linear_bound(case: LinearCase) -> Tensor:
    """n roundings of a sum of n terms cost n/2 eps of the sum of their sizes, on either side."""
    terms, (x, weight, bias) = case.x.shape[-1] + 1, (part.double().abs() for part in case)
    return terms * eps_of(case.x) * (x @ weight.T + bias)


LINEAR = Proof(linear, linear_case)


def spec_of_linear(x, weight, bias):
    return over_rows(spec.linear, x, weight, bias)


@LINEAR.spec
def it_is_the_sum_of_products(formula, case):
    expected = as_tensor(spec_of_linear(*(part.tolist() for part in case)))
    return distance(formula(*case), expected, linear_bound(case)), 1


@LINEAR.reference
def it_is_torchs_linear(formula, case):
    return distance(formula(*case), F.linear(*case), linear_bound(case)), 1


@LINEAR.law
def one_hot_inputs_read_the_columns(formula, case):
    eye = torch.eye(case.x.shape[-1], dtype=torch.float64)
    return differing(formula(eye, case.weight, case.bias), case.weight.T + case.bias), 0


@LINEAR.law
def differences_ignore_the_bias(formula, case):
    x, y = case.x, case.x.flip(0)
    left = formula(x, case.weight, case.bias) - formula(y, case.weight, case.bias)
    right = formula(x - y, case.weight, torch.zeros_like(case.bias))
    return distance(left, right, linear_bound(case) + linear_bound(case).flip(0)), 2


@LINEAR.law
def zero_gives_the_bias(formula, case):
    result = formula(torch.zeros_like(case.x), case.weight, case.bias)
    return differing(result, case.bias.expand_as(result)), 0


@LINEAR.gradient(cost=3)
def its_slope_is_that_of_the_sum_of_products(formula, case):
    return slopes(formula, spec_of_linear, case)


@LINEAR.gradient
def its_gradients_are_products(formula, case):
    """dx = Wᵀ u, dW = Σ u xᵀ, db = Σ u"""
    upstream = normal(9, *case.x.shape[:2], len(case.bias))
    to_x, to_weight, to_bias = gradients(formula, case, upstream)
    error = distance(to_x, upstream @ case.weight)
    error += distance(to_weight, torch.einsum("bso,bsi->oi", upstream, case.x))
    return error + distance(to_bias, upstream.sum((0, 1))), 600 * EPS


@LINEAR.accuracy(
    {
        "tiny": lambda draw: linear_case(draw, 1e-30),
        "large": lambda draw: linear_case(draw, 1e4),
        "a large offset": lambda draw: linear_case(draw, 1.0, 1e5),
    },
    torch_twin=F.linear,
)
def it_is_exact_up_to_the_size_of_its_terms(formula, case):
    expected = as_tensor(spec_of_linear(*(part.double().tolist() for part in case)))
    return distance(formula(*case), expected, linear_bound(case)), 1


@LINEAR.mistake(one_hot_inputs_read_the_columns, it_is_the_sum_of_products)
def transposed_weight(x, weight, bias):
    return x @ (weight if weight.shape[0] == weight.shape[1] else weight.T) + bias


@LINEAR.mistake(zero_gives_the_bias, its_gradients_are_products)
def no_bias(x, weight, bias):
    return x @ weight.T


@LINEAR.mistake(zero_gives_the_bias)
def bias_added_twice(x, weight, bias):
    return linear(x, weight, bias) + bias


@LINEAR.mistake(differences_ignore_the_bias)
def bias_as_a_factor(x, weight, bias):
    return (x @ weight.T) * bias


@LINEAR.mistake(its_slope_is_that_of_the_sum_of_products, its_gradients_are_products)
def weight_not_trained(x, weight, bias):
    return linear(x, weight.detach(), bias)


@LINEAR.mistake(it_is_exact_up_to_the_size_of_its_terms, it_is_torchs_linear)
def rounded_to_twelve_bits(x, weight, bias):
    return linear(x, weight, bias).bfloat16().to(x.dtype) * (1 + 2.0**-6)


# --------------------------------------------------------------------------------------- softmax


def softmax_bound(x: Tensor) -> Tensor:
    """exp turns an absolute error of its argument, |x - max| eps, into a relative one."""
    wide = x.double()
    top = wide.amax(-1, keepdim=True)
    gap = torch.where(wide == top, 0, wide - top).abs()
    gap = torch.where(gap.isfinite(), gap, 0)
    return (4 + x.shape[-1] / 2 + gap) * at_least_eps32(x)


SOFTMAX = Proof(softmax, rows)


def spec_of_softmax(x):
    return over_rows(spec.softmax, x)


@SOFTMAX.spec(cases=lambda draw: rows(draw, (1e-3, 1.0, 50.0)))
def it_is_exp_over_the_sum_of_exp(formula, x):
    expected = as_tensor(spec_of_softmax(x.tolist()))
    unit = softmax_bound(x) * expected + 1e-307  # below that, digits run out
    return distance(formula(x), expected, unit), 1


@SOFTMAX.reference(cases=lambda draw: rows(draw, (1e-3, 1.0, 50.0)))
def it_is_torchs_softmax(formula, x):
    expected = F.softmax(x, -1)
    return distance(formula(x), expected, 2 * softmax_bound(x) * expected + 1e-307), 1


@SOFTMAX.law
def rows_are_distributions(formula, x):
    p = formula(x)
    total = distance(p.sum(-1), torch.ones(x.shape[:-1]).double())
    return total + float(((p < 0) | (p > 1)).sum()), 2 * x.shape[-1] * EPS


@SOFTMAX.law
def a_common_shift_cancels(formula, x):
    found = [distance(formula(x + c), formula(x)) / (abs(c) + 10) for c in (1.0, -700.0, 1e4)]
    return math.fsum(found), 12 * (x.abs().max() + x.shape[-1]) * EPS


@SOFTMAX.law
def ratios_are_exponential(formula, x):
    log_p = torch.log(formula(x))
    error = distance(log_p - log_p[..., :1], x - x[..., :1])
    return error, (20 + 4 * x.abs().max()) * EPS


@SOFTMAX.law
def order_does_not_matter(formula, x):
    order = order_of(x.shape[-1])
    return distance(formula(x[..., order]), formula(x)[..., order]), x.shape[-1] * EPS


@SOFTMAX.law
def rows_do_not_see_each_other(formula, x):
    """Not even one that is larger by 2000."""
    rows = rows_of(x)
    others = rows + 2000 * torch.arange(len(rows))[:, None]
    return differing(formula(others)[0], formula(rows)[0]), 0


@SOFTMAX.law
def two_classes_are_logistic(formula, x):
    pair = torch.stack((x.reshape(-1), torch.zeros(x.numel())), -1)
    expected = as_tensor([1 / (1 + math.exp(-value)) for value in x.reshape(-1).tolist()])
    return distance(formula(pair)[:, 0], expected), 8 * EPS


@SOFTMAX.law
def limits_are_exact(formula, x):
    """Equal scores share equally; a score lower by 1e4, or of -inf, gets exactly 0."""
    equal, gap = torch.full_like(x, -3.7), torch.zeros_like(x)
    gap[..., 0] = 1e4
    hidden = torch.cat((x, torch.full_like(x[..., :1], -math.inf)), -1)
    one_hot = torch.zeros_like(x)
    one_hot[..., 0] = 1
    error = differing(formula(equal), torch.full_like(x, 1 / x.shape[-1]))
    error += differing(formula(gap), one_hot)
    return error + differing(formula(hidden)[..., -1], torch.zeros(x.shape[:-1])), 0


@SOFTMAX.law
def a_hidden_row_is_zero(formula, x):
    return differing(formula(torch.full_like(x, -math.inf)), torch.zeros_like(x)), 0


@SOFTMAX.law
def half_precision_is_float32_rounded_once(formula, x):
    half = [x.to(dtype) for dtype in (torch.float16, torch.bfloat16)]
    return sum(differing(formula(part), formula(part.float()).to(part.dtype)) for part in half), 0


@SOFTMAX.gradient(cost=3)
def its_slope_is_that_of_exp_over_the_sum_of_exp(formula, x):
    return slopes(formula, spec_of_softmax, [x])


@SOFTMAX.gradient
def its_jacobian_is_diag_p_minus_p_p(formula, x):
    """dx = p (u - Σ p u), with p from torch"""
    upstream, p = normal(5, *x.shape), F.softmax(x, -1)
    closed = p * (upstream - (p * upstream).sum(-1, keepdim=True))
    return distance(gradients(formula, [x], upstream)[0], closed), 50 * EPS


@SOFTMAX.gradient
def a_hidden_row_has_gradient_zero(formula, x):
    rows = rows_of(x).clone()
    rows[0] = -math.inf
    (found,) = gradients(formula, [rows], normal(6, *rows.shape))
    return differing(found[0], torch.zeros_like(found[0])), 0


HARD_ROWS = {
    "normal": lambda draw: rows(draw, (1.0,)),
    "tiny": lambda draw: rows(draw, (1e-30,)),
    "large": lambda draw: rows(draw, (50.0,)),
    "scores of ±1e4": lambda draw: 1e4 * rows(draw, (1.0,)).sign() + rows_like(draw),
    "equal": lambda draw: torch.full(draw.choice(SHAPES), draw.choice([0.0, -3.7, 1e4, -1e4])),
    "a large offset": lambda draw: rows(draw, (1.0,)) + 1e4,
    "fully masked": lambda draw: torch.full(draw.choice(SHAPES), -math.inf),
}


def rows_like(draw: Draw) -> Tensor:
    """One number, to be added to any row."""
    return normal(seed_of(draw), 1)


@SOFTMAX.accuracy(HARD_ROWS, torch_twin=lambda x: F.softmax(x, -1))
def each_probability_keeps_its_digits(formula, x):
    expected = as_tensor(spec_of_softmax(x.double().tolist()))
    unit = softmax_bound(x) * expected + rounded_once(expected, x.dtype)
    return distance(formula(x), expected, unit), 1


@SOFTMAX.mistake(a_common_shift_cancels, limits_are_exact, nan=True)
def no_maximum(x):
    weights = torch.exp(x)
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)


@SOFTMAX.mistake(ratios_are_exponential, it_is_exp_over_the_sum_of_exp)
def base_two(x):
    return softmax(x * math.log(2))


@SOFTMAX.mistake(rows_are_distributions, it_is_torchs_softmax)
def sum_over_everything(x):
    weights = torch.exp(x - x.amax())
    return weights / weights.sum()


@SOFTMAX.mistake(
    rows_are_distributions, its_slope_is_that_of_exp_over_the_sum_of_exp,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
)
def wrong_axis(x):
    return torch.softmax(x, 0)


@SOFTMAX.mistake(rows_are_distributions)
def eps_in_the_denominator(x):
    weights = torch.exp(x - x.amax(-1, keepdim=True))
    return weights / (weights.sum(-1, keepdim=True) + 1e-6)


@SOFTMAX.mistake(rows_do_not_see_each_other)
def one_maximum_for_all_rows(x):
    weights = torch.exp(x - x.amax())
    return weights / weights.sum(-1, keepdim=True)


@SOFTMAX.mistake(two_classes_are_logistic)
def temperature_two(x):
    return softmax(x / 2)


@SOFTMAX.mistake(ratios_are_exponential)
def normalised_sigmoids(x):
    weights = torch.sigmoid(x)
    return weights / weights.sum(-1, keepdim=True)


@SOFTMAX.mistake(order_does_not_matter)
def the_last_one_takes_the_rest(x):
    p = softmax(2 * x)
    return torch.cat((p[..., :-1] / 2, 1 - p[..., :-1].sum(-1, keepdim=True) / 2), -1)


@SOFTMAX.mistake(
    a_hidden_row_is_zero, a_hidden_row_has_gradient_zero,
    source="https://github.com/pytorch/pytorch/pull/131060",
)
def nan_for_a_hidden_row(x):
    return torch.softmax(x, -1)


@SOFTMAX.mistake(half_precision_is_float32_rounded_once, each_probability_keeps_its_digits)
def summed_in_half_precision(x):
    weights = torch.exp(x - x.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True)


@SOFTMAX.mistake(its_jacobian_is_diag_p_minus_p_p)
def denominator_not_trained(x):
    weights = torch.exp(x - x.amax(-1, keepdim=True).detach())
    return weights / weights.sum(-1, keepdim=True).detach()


# ----------------------------------------------------------------------------------- log_softmax


def log_softmax_bound(x: Tensor) -> Tensor:
    wide = x.double()
    return (4 + x.shape[-1] / 2 + (wide - wide.amax(-1, keepdim=True)).abs()) * at_least_eps32(x)


LOG_SOFTMAX = Proof(log_softmax, rows)


def spec_of_log_softmax(x):
    return over_rows(spec.log_softmax, x)


@LOG_SOFTMAX.spec(cases=lambda draw: rows(draw, (1e-3, 1.0, 50.0, 500.0)))
def it_is_x_minus_the_log_of_the_sum_of_exp(formula, x):
    expected = as_tensor(spec_of_log_softmax(x.tolist()))
    return distance(formula(x), expected, log_softmax_bound(x)), 1


def any_row(draw: Draw) -> Tensor:
    return as_tensor([draw.real(-50, 50) for _ in range(draw.integer(1, 7))])


@LOG_SOFTMAX.spec(cases=any_row)
def it_is_the_logarithm_of_softmax_for_any_row(formula, x):
    expected = as_tensor(spec.log_softmax(x.tolist()))
    return distance(formula(x), expected, log_softmax_bound(x)), 1


@LOG_SOFTMAX.reference(cases=lambda draw: rows(draw, (1e-3, 1.0, 50.0, 500.0)))
def it_is_torchs_log_softmax(formula, x):
    return distance(formula(x), F.log_softmax(x, -1), 2 * log_softmax_bound(x)), 1


@LOG_SOFTMAX.law
def exponentials_sum_to_one(formula, x):
    total = torch.exp(formula(x)).sum(-1)
    return distance(total, torch.ones_like(total)), (20 + 4 * x.abs().max()) * EPS


@LOG_SOFTMAX.law
def differences_are_kept(formula, x):
    log_p = formula(x)
    error = distance(log_p - log_p[..., :1], x - x[..., :1])
    return error, (20 + 8 * x.abs().max()) * EPS


@LOG_SOFTMAX.law
def a_common_shift_cancels_in_logs(formula, x):
    return distance(formula(x + 1e4), formula(x)), 4 * 1e4 * EPS


@LOG_SOFTMAX.law
def uniform_is_minus_log_n(formula, x):
    error = distance(formula(torch.zeros_like(x)), torch.full_like(x, -math.log(x.shape[-1])))
    return error, 4 * EPS


@LOG_SOFTMAX.law
def a_wide_gap_stays_finite(formula, x):
    gap = torch.zeros_like(x)
    gap[..., 1:] = -1e4
    return differing(formula(gap), gap), 0


@LOG_SOFTMAX.law
def half_precision_logs_are_float32_rounded_once(formula, x):
    return half_precision_is_float32_rounded_once(formula, x)


@LOG_SOFTMAX.gradient(cost=3)
def its_slope_is_that_of_the_logarithm_of_the_sum(formula, x):
    return slopes(formula, spec_of_log_softmax, [x])


@LOG_SOFTMAX.gradient
def its_gradient_is_u_minus_p_times_the_sum_of_u(formula, x):
    upstream = normal(5, *x.shape)
    closed = upstream - F.softmax(x, -1) * upstream.sum(-1, keepdim=True)
    return distance(gradients(formula, [x], upstream)[0], closed), 100 * EPS


@LOG_SOFTMAX.accuracy(
    {family: cases for family, cases in HARD_ROWS.items() if family != "fully masked"},
    torch_twin=lambda x: F.log_softmax(x, -1),
)
def each_logarithm_keeps_its_digits(formula, x):
    expected = as_tensor(spec_of_log_softmax(x.double().tolist()))
    unit = log_softmax_bound(x) + rounded_once(expected, x.dtype)
    return distance(formula(x), expected, unit), 1


@LOG_SOFTMAX.mistake(a_wide_gap_stays_finite)
def log_of_softmax(x):
    return torch.log(torch.softmax(x, -1))


@LOG_SOFTMAX.mistake(a_wide_gap_stays_finite, uniform_is_minus_log_n)
def log_of_softmax_plus_eps(x):
    return torch.log(torch.softmax(x, -1) + 1e-9)


@LOG_SOFTMAX.mistake(
    a_common_shift_cancels_in_logs,
    source="https://github.com/cornell-brg/hb-pytorch/issues/61",
    nan=True,
)
def no_maximum_in_logs(x):
    return x - torch.log(torch.exp(x).sum(-1, keepdim=True))


@LOG_SOFTMAX.mistake(exponentials_sum_to_one, it_is_torchs_log_softmax)
def log_over_the_wrong_axis(x):
    return torch.log_softmax(x, 0)


@LOG_SOFTMAX.mistake(exponentials_sum_to_one, it_is_x_minus_the_log_of_the_sum_of_exp)
def maximum_not_added_back(x):
    return x - torch.log(torch.exp(x - x.amax(-1, keepdim=True)).sum(-1, keepdim=True))


@LOG_SOFTMAX.mistake(differences_are_kept, it_is_the_logarithm_of_softmax_for_any_row)
def in_bits(x):
    return log_softmax(x) / math.log(2)


@LOG_SOFTMAX.mistake(
    half_precision_logs_are_float32_rounded_once, each_logarithm_keeps_its_digits
)
def logs_summed_in_half_precision(x):
    shifted = x - x.amax(-1, keepdim=True)
    total = torch.exp(shifted).bfloat16().sum(-1, keepdim=True)
    return shifted - torch.log(total.to(x.dtype))


@LOG_SOFTMAX.mistake(
    its_gradient_is_u_minus_p_times_the_sum_of_u, its_slope_is_that_of_the_logarithm_of_the_sum
)
def logarithm_not_trained(x):
    return x - (x - log_softmax(x)).detach()


# ------------------------------------------------------------------------------------------ gelu

SQRT_2 = math.sqrt(2)


def curve(draw: Draw, scales: tuple[float, ...] = (1e-3, 1.0, 3.0)) -> Tensor:
    """Vectors, or one number from -9 to 9."""
    return rows(draw, scales) if draw.integer(0, 1) else as_tensor([draw.real(-9, 9)])


def spec_of_gelu_erf(x):
    return over_rows(lambda row: [spec.gelu_erf(value) for value in row], x)


def spec_of_gelu_tanh(x):
    return over_rows(lambda row: [spec.gelu_tanh(value) for value in row], x)


def gelu_bound(x: Tensor) -> Tensor:
    """erfc(z) ~ exp(-z²) turns the rounding of z into a relative error of 2 z² eps = x² eps."""
    wide = x.double()
    return (16 + 2 * wide * wide) * at_least_eps32(x)


GELU_ERF = Proof(gelu_erf, curve)
GELU_TANH = Proof(gelu_tanh, curve)


@GELU_ERF.spec
def it_is_x_times_the_normal_distribution_function(formula, x):
    expected = as_tensor(spec_of_gelu_erf(x.tolist()))
    return distance(formula(x), expected, gelu_bound(x) * expected.abs() + 1e-300), 1


@GELU_ERF.reference
def it_is_torchs_gelu(formula, x):
    """torch loses digits below 0: 1 + erf keeps the absolute error small, not the relative one."""
    return distance(formula(x), F.gelu(x), 1 + x.abs()), 4 * EPS


@GELU_ERF.law
@GELU_TANH.law
def the_two_sides_differ_by_x(formula, x):
    return distance(formula(x) - formula(-x), x, 1 + x.abs()), 4 * EPS


@GELU_ERF.law
def the_two_sides_sum_to_x_erf(formula, x):
    expected = as_tensor([v * math.erf(v / SQRT_2) for v in x.reshape(-1).tolist()]).view(x.shape)
    return distance(formula(x) + formula(-x), expected, 1 + x.abs()), 8 * EPS


@GELU_ERF.law
def the_tail_keeps_its_digits(formula, x):
    tail = torch.linspace(-9, -5, 41, dtype=torch.float64)
    expected = as_tensor([v / 2 * math.erfc(-v / SQRT_2) for v in tail.tolist()])
    return distance(formula(tail), expected, expected.abs()), 1e-12


@GELU_ERF.law
def it_lies_below_relu(formula, x):
    """By at most 0.17."""
    y, relu = formula(x), torch.relu(x)
    above, below = torch.relu(y - relu).max(), torch.relu(relu - 0.16997120747990370 - y).max()
    return above + below, 4 * EPS * (1 + x.abs().max())


@GELU_ERF.law
def its_minimum_is_known(formula, x):
    lowest = formula(as_tensor([-0.7517915246935645]))
    return distance(lowest, as_tensor([-0.16997120747990369])), EPS


@GELU_ERF.law
@GELU_TANH.law
def half_precision_gelu_is_float32_rounded_once(formula, x):
    return half_precision_is_float32_rounded_once(formula, x)


@GELU_ERF.gradient(cost=3)
def its_slope_is_that_of_x_phi(formula, x):
    return slopes(formula, spec_of_gelu_erf, [x])


@GELU_ERF.gradient
def its_derivative_is_phi_plus_x_density(formula, x):
    """dx = (Φ(x) + x φ(x)) u"""
    upstream = normal(5, *x.shape)
    density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    closed = (torch.erfc(-x / SQRT_2) / 2 + x * density) * upstream
    return distance(gradients(formula, [x], upstream)[0], closed), 100 * EPS


@GELU_ERF.gradient
@GELU_TANH.gradient
def its_second_derivative_at_zero_is_the_root_of_2_over_pi(formula, x):
    """Of either form: y = x/2 + x²/√(2π) + O(x⁴)"""
    zero, (first, second) = torch.zeros_like(x).requires_grad_(), normal(5, 2, *x.shape)
    (slope,) = torch.autograd.grad(formula(zero), zero, first, create_graph=True)
    (bend,) = torch.autograd.grad(slope, zero, second)
    expected = math.sqrt(2 / math.pi) * first * second
    return distance(bend, expected, expected.abs()), 8 * EPS


HARD_CURVES = {
    "normal": lambda draw: rows(draw, (1.0,)),
    "tiny": lambda draw: rows(draw, (1e-30,)),
    "large": lambda draw: rows(draw, (1e4,)),
    "the tail from -12 to -4": lambda draw: as_tensor([draw.real(-12, -4) for _ in range(5)]),
    "around its minimum": lambda draw: rows(draw, (1e-3,)) - 0.7517915246935645,
}


@GELU_ERF.accuracy(HARD_CURVES, torch_twin=F.gelu)
def it_keeps_its_digits_even_in_the_tail(formula, x):
    expected = as_tensor(spec_of_gelu_erf(x.double().tolist()))
    unit = gelu_bound(x) * expected.abs() + rounded_once(expected, x.dtype)
    return distance(formula(x), expected, unit), 1


@GELU_ERF.mistake(
    the_tail_keeps_its_digits, it_keeps_its_digits_even_in_the_tail,
    source="https://github.com/pytorch/pytorch/issues/187806",
)
def with_one_plus_erf(x):
    return x / 2 * (1 + torch.erf(x / SQRT_2))


@GELU_ERF.mistake(
    the_two_sides_sum_to_x_erf,
    source="https://github.com/tinygrad/tinygrad/blob/02ac0a6b35edbf52c3e5e5d5e5686d6f896dd0b3/extra/models/bert.py",
)
def with_short_root_of_two(x):
    return x / 2 * torch.erfc(-x / 1.41421)


@GELU_ERF.mistake(
    the_two_sides_sum_to_x_erf,
    it_is_x_times_the_normal_distribution_function,
    its_second_derivative_at_zero_is_the_root_of_2_over_pi,
)
@GELU_TANH.mistake(
    its_second_derivative_at_zero_is_the_root_of_2_over_pi, name="with_sigmoid_for_tanh"
)
def with_sigmoid(x):
    return x * torch.sigmoid(1.702 * x)


@GELU_ERF.mistake(its_minimum_is_known, its_slope_is_that_of_x_phi)
def relu_for_gelu(x):
    return torch.relu(x)


@GELU_ERF.mistake(
    the_two_sides_sum_to_x_erf, its_minimum_is_known,
    source="https://github.com/Blaizzy/mlx-embeddings/issues/81",
)
def tanh_for_erf(x):
    return gelu_tanh(x)


@GELU_ERF.mistake(the_two_sides_differ_by_x, its_derivative_is_phi_plus_x_density)
def without_the_half(x):
    return x * (1 + torch.erf(x / SQRT_2))


@GELU_ERF.mistake(the_two_sides_sum_to_x_erf, it_is_torchs_gelu)
def without_the_root_of_two(x):
    return x / 2 * torch.erfc(-x)


@GELU_ERF.mistake(it_lies_below_relu)
def distribution_function_alone(x):
    return torch.erfc(-x / SQRT_2) / 2


@GELU_ERF.mistake(half_precision_gelu_is_float32_rounded_once)
def erfc_of_a_rounded_argument(x):
    return x * 0.5 * torch.erfc(x * -math.sqrt(0.5))


@GELU_TANH.spec
def it_is_the_published_tanh_form(formula, x):
    expected = as_tensor(spec_of_gelu_tanh(x.tolist()))
    return distance(formula(x), expected, 1 + x.abs()), 8 * EPS


@GELU_TANH.reference
def it_is_torchs_tanh_gelu(formula, x):
    return distance(formula(x), F.gelu(x, approximate="tanh"), 1 + x.abs()), 8 * EPS


@GELU_TANH.law
def its_inner_cubic_is_known(formula, x):
    """atanh(2 y/x - 1) / √(2/π) - x = 0.044715 x³"""
    grid = torch.linspace(0.25, 2, 29, dtype=torch.float64)
    inner = torch.atanh(2 * formula(grid) / grid - 1) / math.sqrt(2 / math.pi)
    return distance(inner - grid, 0.044715 * grid**3), 1e-13


@GELU_TANH.law
def it_starts_with_slope_one_half(formula, x):
    """y = x/2 + x²/√(2π) + O(x⁴)"""
    small = 1e-4 * x.clamp(-3, 3)
    expected = small / 2 + small**2 / math.sqrt(2 * math.pi)
    return distance(formula(small), expected), 1e-14


@GELU_TANH.law
def it_is_near_the_erf_form(formula, x):
    """The largest distance, 4.7324e-4, lies at x = 2.69892."""
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    here = as_tensor([2.69892])
    peak = abs(distance(formula(here), gelu_erf(here)) - 4.7324e-4)
    return peak + max(0.0, distance(formula(grid), gelu_erf(grid)) - 4.7325e-4), 5e-9


@GELU_TANH.gradient(cost=3)
def its_slope_is_that_of_the_tanh_form(formula, x):
    return slopes(formula, spec_of_gelu_tanh, [x])


@GELU_TANH.gradient
def its_derivative_is_that_of_the_tanh_form(formula, x):
    upstream = normal(5, *x.shape)
    tanh = torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    inner_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    closed = ((1 + tanh) / 2 + x / 2 * (1 - tanh * tanh) * inner_slope) * upstream
    error = distance(gradients(formula, [x], upstream)[0], closed)
    return error, 100 * EPS * (1 + x.abs().max())


@GELU_TANH.accuracy(
    HARD_CURVES, torch_twin=lambda x: F.gelu(x, approximate="tanh")
)
def it_is_exact_up_to_the_size_of_x(formula, x):
    """1 + tanh cancels below 0: the published form keeps no relative digits in the tail."""
    expected = as_tensor(spec_of_gelu_tanh(x.double().tolist()))
    unit = 4 * at_least_eps32(x) * x.double().abs() + rounded_once(expected, x.dtype)
    return distance(formula(x), expected, unit), 1


@GELU_TANH.mistake(its_inner_cubic_is_known, it_is_near_the_erf_form)
def erf_for_tanh(x):
    return gelu_erf(x)


@GELU_TANH.mistake(its_inner_cubic_is_known, it_is_the_published_tanh_form)
def with_swapped_digits(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.047415 * x**3)))


@GELU_TANH.mistake(the_two_sides_differ_by_x, its_derivative_is_that_of_the_tanh_form)
def with_a_square(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


@GELU_TANH.mistake(it_starts_with_slope_one_half, its_slope_is_that_of_the_tanh_form)
def with_root_of_pi_over_two(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3)))


@GELU_TANH.mistake(
    it_is_torchs_tanh_gelu, it_is_exact_up_to_the_size_of_x,
    its_second_derivative_at_zero_is_the_root_of_2_over_pi,
)
def with_two_digits_of_the_root(x):
    return x / 2 * (1 + torch.tanh(0.80 * (x + 0.044715 * x**3)))


@GELU_TANH.mistake(half_precision_gelu_is_float32_rounded_once)
def tanh_of_a_rounded_argument(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1 + torch.tanh(inner))


# ------------------------------------------------------------------------------------ layer_norm


class NormCase(NamedTuple):
    x: Tensor
    gain: Tensor
    bias: Tensor
    eps: float


def norm_case(
    draw: Draw,
    scales: tuple[float, ...] = (1e-6, 1.0, 1e3),
    offsets: tuple[float, ...] = (0.0, 10.0),
) -> NormCase:
    """At a standard deviation of 1e-6, BERT's eps of 1e-12 is as large as the variance."""
    shape = draw.choice([shape for shape in SHAPES if shape[-1] > 1])
    x = tensor(draw, shape, draw.choice(scales), draw.choice(offsets))
    gain, bias = normal(seed_of(draw), shape[-1], offset=1), normal(seed_of(draw), shape[-1])
    return NormCase(x, gain, bias, draw.choice([1e-12, 1e-5]))


def deviation(x: Tensor, eps: float) -> Tensor:
    return torch.sqrt(x.double().var(-1, correction=0, keepdim=True) + eps)


def norm_bound(case: NormCase) -> Tensor:
    """A sum of D numbers is off by D/2 eps of them; so are mean and variance of centred numbers.

    The mean is subtracted twice, so an offset counts only with the square of eps.
    """
    x, unit, width = case.x.double(), at_least_eps32(case.x), case.x.shape[-1]
    sigma = deviation(x, case.eps)
    centred = (x - x.mean(-1, keepdim=True)) / sigma
    offset = 1 + width * unit * x.abs().amax(-1, keepdim=True) / sigma
    spread = centred.abs() + centred.abs().amax(-1, keepdim=True)
    size = case.gain.double().abs() * spread * offset + case.bias.double().abs()
    return (4 + width / 2) * unit * size


LAYER_NORM = Proof(layer_norm, norm_case)


def spec_of_layer_norm(x, gain, bias, eps):
    return over_rows(spec.layer_norm, x, gain, bias, eps)


def plain(case: NormCase) -> tuple[Tensor, Tensor]:
    return torch.ones_like(case.gain), torch.zeros_like(case.bias)


@LAYER_NORM.spec
def it_is_the_deviation_from_the_mean_over_the_root(formula, case):
    lists = [part.tolist() for part in case[:3]]
    expected = as_tensor(spec_of_layer_norm(*lists, case.eps))
    return distance(formula(*case), expected, norm_bound(case) + 1e-300), 1


@LAYER_NORM.reference
def it_is_torchs_layer_norm(formula, case):
    """torch's loses digits to an offset: a mean of D numbers is off by D/2 eps |x|."""
    expected = F.layer_norm(case.x, case.gain.shape, case.gain, case.bias, case.eps)
    lost = case.x.abs().amax(-1, keepdim=True) / deviation(case.x, case.eps)
    lost = case.x.shape[-1] * EPS * lost * case.gain.abs()
    return distance(formula(*case), expected, 2 * norm_bound(case) + lost + 1e-300), 1


@LAYER_NORM.law(cases=lambda draw: norm_case(draw, offsets=(0.0,)))
def output_has_mean_0_and_square_v_over_v_plus_eps(formula, case):
    y = formula(case.x, *plain(case), case.eps)
    variance = case.x.var(-1, correction=0)
    gain, bias = plain(case)
    unit = norm_bound(case._replace(gain=gain, bias=bias)).amax(-1)
    error = distance(y.mean(-1), torch.zeros_like(variance), unit)
    expected = variance / (variance + case.eps)
    return error + distance((y * y).mean(-1), expected, unit), 4


@LAYER_NORM.law
def a_shift_of_the_input_cancels(formula, case):
    """On a grid of 2^-16 a shift of 1e7 is exact, so only rounding inside may differ."""
    x = torch.round(case.x * 2**16) / 2**16 + torch.arange(case.x.shape[-1])
    moved = case._replace(x=x + 1e7)
    return distance(formula(*moved), formula(x, *case[1:]), norm_bound(moved)), 2


@LAYER_NORM.law
def scaling_x_and_root_eps_cancels(formula, case):
    """A power of two leaves every digit in place."""
    scaled = formula(case.x * 2.0**-10, case.gain, case.bias, case.eps * 2.0**-20)
    return differing(scaled, formula(*case)), 0


@LAYER_NORM.law
def gain_and_bias_act_last(formula, case):
    normed = formula(case.x, *plain(case), case.eps)
    return distance(formula(*case), normed * case.gain + case.bias, norm_bound(case)), 1


@LAYER_NORM.law
def it_is_odd(formula, case):
    zero = torch.zeros_like(case.bias)
    left = formula(-case.x, case.gain, zero, case.eps)
    return differing(left, -formula(case.x, case.gain, zero, case.eps)), 0


@LAYER_NORM.law
def a_constant_vector_gives_the_bias(formula, case):
    constant = torch.full_like(case.x, 3)
    return differing(formula(constant, *case[1:]), case.bias.expand_as(case.x)), 0


@LAYER_NORM.law
def vectors_do_not_see_each_other(formula, case):
    rows = rows_of(case.x)
    others = rows * (1 + torch.arange(len(rows)))[:, None]
    return differing(formula(others, *case[1:])[0], formula(rows, *case[1:])[0]), 0


@LAYER_NORM.law
def features_may_be_reordered(formula, case):
    order = order_of(len(case.gain))
    left = formula(case.x[..., order], case.gain[order], case.bias[order], case.eps)
    return distance(left, formula(*case)[..., order], norm_bound(case)[..., order]), 1


@LAYER_NORM.law
def half_precision_norm_is_float32_rounded_once(formula, case):
    """Squares of numbers near 300 are beyond the range of float16."""
    error = 0.0
    for dtype in (torch.float16, torch.bfloat16):
        x = (300 * case.x / case.x.abs().max()).to(dtype)
        gain, bias = case.gain.to(dtype), case.bias.to(dtype)
        expected = formula(x.float(), gain.float(), bias.float(), 1e-12).to(dtype)
        error += differing(formula(x, gain, bias, 1e-12), expected)
    return error, 0


@LAYER_NORM.gradient
def gradient_is_orthogonal_to_shift_and_scale(formula, case):
    """Σ dx = 0, and ⟨x - μ, dx⟩ = ε/(v+ε) ⟨y, u⟩: a scale is seen only through ε."""
    upstream = normal(5, *case.x.shape)
    gain, bias = plain(case)
    (dx,) = gradients(lambda x: formula(x, gain, bias, case.eps), [case.x], upstream)
    variance = case.x.var(-1, correction=0)
    y = formula(case.x, gain, bias, case.eps)
    centred = case.x - case.x.mean(-1, keepdim=True)
    expected = case.eps / (variance + case.eps) * (y * upstream).sum(-1)
    offset = 1 + case.x.abs().amax(-1) / deviation(case.x, case.eps)[..., 0]
    bounds = norm_bound(case._replace(gain=gain, bias=bias)).amax(-1) + len(gain) * EPS
    bounds = bounds * upstream.abs().sum(-1)
    sums = (dx * deviation(case.x, case.eps)).sum(-1)
    error = distance(sums, torch.zeros_like(sums), bounds * offset)
    return error + distance((centred * dx).sum(-1), expected, bounds * offset), 8


def steep(case: NormCase) -> list[Tensor]:
    """The three tensors, with a standard deviation far above the finite-difference step."""
    return [case.x + 10 * torch.arange(case.x.shape[-1]), case.gain, case.bias]


@LAYER_NORM.gradient(cases=lambda draw: norm_case(draw, (1.0,)), cost=3)
def its_slope_is_that_of_the_deviation_over_the_root(formula, case):
    return slopes(
        lambda *parts: formula(*parts, case.eps),
        lambda *parts: spec_of_layer_norm(*parts, case.eps),
        steep(case),
    )


@LAYER_NORM.gradient(cases=lambda draw: norm_case(draw, (1.0,)))
def its_gradients_have_a_closed_form(formula, case):
    """σ dx = u g - mean(u g) - ŷ mean(u g ŷ);  dg = Σ u ŷ;  db = Σ u"""
    x, gain, _, eps = case
    upstream, sigma = normal(6, *x.shape), deviation(x, eps)
    normed, scaled = (x - x.mean(-1, keepdim=True)) / sigma, upstream * gain
    along = normed * (scaled * normed).mean(-1, keepdim=True)
    closed = scaled - scaled.mean(-1, keepdim=True) - along
    dx, dgain, dbias = gradients(lambda *parts: formula(*parts, eps), case[:3], upstream)
    lost = 1 + (x.abs().amax() / sigma).amax()  # by the closed form, which centres once
    unit = norm_bound(case).amax() * (1 + upstream.abs()) * lost
    error = distance(dx * sigma, closed, unit)
    summed = rows_of(upstream * normed).sum(0), rows_of(upstream).sum(0)
    unit = len(rows_of(x)) * unit.amax()
    return error + distance(dgain, summed[0], unit) + distance(dbias, summed[1], unit), 8


@LAYER_NORM.accuracy(
    {
        "normal": lambda draw: norm_case(draw, (1.0,), (0.0,)),
        "tiny": lambda draw: norm_case(draw, (1e-6, 1e-12, 1e-30), (0.0,)),
        "large": lambda draw: norm_case(draw, (1e4,), (0.0,)),
        "an offset of 1e3": lambda draw: norm_case(draw, (1.0,), (1e3,)),
        "an offset of 1e5": lambda draw: norm_case(draw, (1.0,), (1e5, -1e5)),
        "equal": lambda draw: norm_case(draw, (0.0,), (3.0, -1e4)),
    },
    torch_twin=lambda x, gain, bias, eps: F.layer_norm(x, gain.shape, gain, bias, eps),
)
def it_keeps_its_digits_under_any_offset(formula, case):
    lists = [part.double().tolist() for part in case[:3]]
    expected = as_tensor(spec_of_layer_norm(*lists, case.eps))
    unit = norm_bound(case) + rounded_once(expected, case.x.dtype)
    return distance(formula(*case), expected, unit), 1


def moments(x):
    return x - x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)


@LAYER_NORM.mistake(
    output_has_mean_0_and_square_v_over_v_plus_eps,
    source="https://github.com/harvardnlp/annotated-transformer/issues/122",
)
def bessels_correction(x, gain, bias, eps):
    return moments(x)[0] / torch.sqrt(x.var(-1, keepdim=True) + eps) * gain + bias


@LAYER_NORM.mistake(
    output_has_mean_0_and_square_v_over_v_plus_eps, scaling_x_and_root_eps_cancels,
    source="https://github.com/codertimo/BERT-pytorch/issues/30",
)
def eps_outside_the_root(x, gain, bias, eps):
    centred, variance = moments(x)
    return centred / (torch.sqrt(variance) + eps) * gain + bias


@LAYER_NORM.mistake(
    output_has_mean_0_and_square_v_over_v_plus_eps,
    source="https://github.com/hyunwoongko/transformer/issues/7",
)
def root_of_the_deviation(x, gain, bias, eps):
    centred, variance = moments(x)
    return centred / torch.sqrt(torch.sqrt(variance) + eps) * gain + bias


@LAYER_NORM.mistake(a_constant_vector_gives_the_bias)
def no_eps(x, gain, bias, eps):
    centred, variance = moments(x)
    return centred / torch.sqrt(variance) * gain + bias


@LAYER_NORM.mistake(
    output_has_mean_0_and_square_v_over_v_plus_eps, scaling_x_and_root_eps_cancels,
    source="https://github.com/keras-team/keras-hub/issues/642",
)
def eps_of_pytorch(x, gain, bias, eps):
    return F.layer_norm(x, gain.shape, gain, bias)  # 1e-5


@LAYER_NORM.mistake(vectors_do_not_see_each_other)
def statistics_over_the_batch(x, gain, bias, eps):
    return (x - x.mean(0)) / torch.sqrt(x.var(0, correction=0) + eps) * gain + bias


@LAYER_NORM.mistake(
    a_shift_of_the_input_cancels, it_is_the_deviation_from_the_mean_over_the_root
)
def root_mean_square(x, gain, bias, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * gain + bias


@LAYER_NORM.mistake(gain_and_bias_act_last, it_is_torchs_layer_norm)
def gain_and_bias_swapped(x, gain, bias, eps):
    return layer_norm(x, bias, gain, eps)


@LAYER_NORM.mistake(gain_and_bias_act_last)
def gain_applied_to_the_bias(x, gain, bias, eps):
    centred, variance = moments(x)
    return (centred / torch.sqrt(variance + eps) + bias) * gain


@LAYER_NORM.mistake(
    a_shift_of_the_input_cancels, it_keeps_its_digits_under_any_offset,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/blob/0eb74d7b200a3258c7e61aa59ee231d86c9a4671/labml_nn/normalization/layer_norm/__init__.py",
)
def variance_by_cancellation(x, gain, bias, eps):
    mean = x.mean(-1, keepdim=True)
    variance = (x * x).mean(-1, keepdim=True) - mean * mean
    return (x - mean) / torch.sqrt(variance + eps) * gain + bias


@LAYER_NORM.mistake(it_keeps_its_digits_under_any_offset)
def mean_subtracted_once(x, gain, bias, eps):
    centred = x.float() - x.float().mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True)
    return (centred / torch.sqrt(variance + eps) * gain + bias).to(x.dtype)


@LAYER_NORM.mistake(gain_and_bias_act_last)
def one_plus_gain(x, gain, bias, eps):
    return layer_norm(x, 1 + gain, bias, eps)


@LAYER_NORM.mistake(it_is_odd)
def absolute_deviation(x, gain, bias, eps):
    return layer_norm(x, gain, bias, eps).abs()


@LAYER_NORM.mistake(features_may_be_reordered)
def deviation_from_the_first_feature(x, gain, bias, eps):
    return layer_norm(torch.cat((x[..., :1] * 2, x[..., 1:]), -1), gain, bias, eps)


@LAYER_NORM.mistake(half_precision_norm_is_float32_rounded_once)
def squares_in_half_precision(x, gain, bias, eps):
    centred, variance = x - x.mean(-1, keepdim=True), (x * x).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + eps) * gain + bias


@LAYER_NORM.mistake(
    gradient_is_orthogonal_to_shift_and_scale,
    its_slope_is_that_of_the_deviation_over_the_root,
    its_gradients_have_a_closed_form,
)
def detached_statistics(x, gain, bias, eps):
    centred, variance = moments(x.detach())
    return (x - (x - centred).detach()) / torch.sqrt(variance + eps) * gain + bias


# --------------------------------------------------------------------------------------- dropout


class DropoutCase(NamedTuple):
    x: Tensor
    rate: float
    seed: int


def dropout_case(draw: Draw) -> DropoutCase:
    x = tensor(draw, draw.choice([(2, 3, 5), (101,)]), offset=10.0)
    return DropoutCase(x, draw.choice([0.1, 0.3, 0.5, 0.9]), seed_of(draw))


DROPOUT = Proof(dropout, dropout_case)


@DROPOUT.spec
def every_number_has_one_draw_and_stays_where_it_is_at_least_the_rate(formula, case):
    draws = torch.rand(case.x.shape, generator=fresh(case.seed)).reshape(-1).tolist()
    kept = [draw >= case.rate for draw in draws]
    expected = as_tensor(spec.dropout(case.x.reshape(-1).tolist(), kept, case.rate))
    found = formula(case.x, case.rate, fresh(case.seed)).reshape(-1)
    return distance(found, expected, expected.abs() + 1), 2 * EPS


@DROPOUT.reference
def what_is_kept_is_scaled_as_torchs_dropout_does(formula, case):
    """The two draw different numbers, but each keeps and scales a number or drops it."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(case.seed)
    theirs = F.dropout(case.x, case.rate, True) / case.x
    torch.set_rng_state(generator_state)
    ours = formula(case.x, case.rate, fresh(case.seed)) / case.x
    values = torch.cat((theirs[theirs > 0][:1], ours[ours > 0]))
    return float(values.max() - values.min()) if len(values) > 1 else 0.0, 64 * EPS


@DROPOUT.law
def without_a_generator_nothing_happens(formula, case):
    return differing(formula(case.x, case.rate, None), case.x), 0


@DROPOUT.law
def kept_numbers_are_scaled(formula, case):
    y = formula(case.x, case.rate, fresh(case.seed))
    kept = y != 0
    return distance(y[kept] * (1 - case.rate), case.x[kept], case.x[kept].abs()), 2 * EPS


@DROPOUT.law(cost=3)
def the_rate_is_the_share_of_zeros(formula, case):
    """A count of n draws has standard deviation √(n p (1-p)); six of these are never exceeded."""
    n, rate = 100_000, case.rate
    dropped = float((formula(torch.ones(n), rate, fresh(case.seed)) == 0).sum())
    return abs(dropped - n * rate), 6 * math.sqrt(n * rate * (1 - rate))


@DROPOUT.law(cost=3)
def neighbours_are_independent(formula, case):
    """Both of two neighbours, along either axis, are dropped with probability rate²."""
    zero = formula(torch.ones(300, 300), case.rate, fresh(case.seed)) == 0
    pairs, expected = 300 * 299, case.rate**2
    down = abs(float((zero[1:] & zero[:-1]).sum()) - pairs * expected)
    across = abs(float((zero[:, 1:] & zero[:, :-1]).sum()) - pairs * expected)
    # a draw is part of two pairs, so the count varies a little more than with independent pairs
    return max(down, across), 6 * math.sqrt(pairs * expected * (1 + 2 * case.rate))


@DROPOUT.law
def equal_generators_give_equal_results(formula, case):
    return differing(*(formula(case.x, case.rate, fresh(case.seed)) for _ in range(2))), 0


@DROPOUT.law
def other_seeds_give_other_results(formula, case):
    ones = torch.ones(1000)
    first, second = (formula(ones, case.rate, fresh(case.seed + i)) for i in range(2))
    return float((first == second).all()), 0


@DROPOUT.gradient
def its_gradient_is_the_same_mask(formula, case):
    upstream = normal(case.seed, *case.x.shape)
    (found,) = gradients(lambda x: formula(x, case.rate, fresh(case.seed)), [case.x], upstream)
    kept = formula(case.x, case.rate, fresh(case.seed)) / case.x
    return distance(found, upstream * kept), 64 * EPS


@DROPOUT.accuracy(
    {
        "tiny": lambda draw: dropout_case(draw)._replace(x=normal(seed_of(draw), 50, scale=1e-30)),
        "large": lambda draw: dropout_case(draw)._replace(x=normal(seed_of(draw), 50, scale=1e30)),
    },
)
def a_kept_number_is_rounded_twice(formula, case):
    """Once for 1 / (1 - rate), once for the product."""
    draws = torch.rand(case.x.shape, generator=fresh(case.seed)).tolist()
    kept = [draw >= case.rate for draw in draws]
    expected = as_tensor(spec.dropout(case.x.double().tolist(), kept, case.rate))
    found = formula(case.x, case.rate, fresh(case.seed))
    return distance(found, expected, eps_of(case.x) * expected.abs() + 1e-300), 1


def draws_of(x, generator):
    return torch.rand(x.shape, generator=generator)


@DROPOUT.mistake(
    without_a_generator_nothing_happens,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def always_drops(x, rate, generator):
    return dropout(x, rate, generator or fresh(0))


@DROPOUT.mistake(
    kept_numbers_are_scaled,
    every_number_has_one_draw_and_stays_where_it_is_at_least_the_rate,
    what_is_kept_is_scaled_as_torchs_dropout_does,
)
def scales_nothing(x, rate, generator):
    return x if generator is None else torch.where(draws_of(x, generator) >= rate, x, 0)


@DROPOUT.mistake(kept_numbers_are_scaled, a_kept_number_is_rounded_twice)
def scales_by_the_rate(x, rate, generator):
    return x if generator is None else torch.where(draws_of(x, generator) >= rate, x / rate, 0)


@DROPOUT.mistake(the_rate_is_the_share_of_zeros)
def keeps_what_it_should_drop(x, rate, generator):
    if generator is None:
        return x
    return torch.where(draws_of(x, generator) < rate, x / (1 - rate), 0)


@DROPOUT.mistake(neighbours_are_independent)
def drops_whole_rows(x, rate, generator):
    if generator is None:
        return x
    return torch.where(draws_of(x[..., :1], generator) >= rate, x / (1 - rate), 0)


@DROPOUT.mistake(equal_generators_give_equal_results)
def draws_from_the_global_source(x, rate, generator):
    if generator is None:
        return x
    return torch.where(torch.rand(x.shape) >= rate, x / (1 - rate), 0)


@DROPOUT.mistake(other_seeds_give_other_results)
def draws_with_a_fixed_seed(x, rate, generator):
    return x if generator is None else dropout(x, rate, fresh(0))


@DROPOUT.mistake(its_gradient_is_the_same_mask)
def gradient_of_what_was_dropped(x, rate, generator):
    return dropout(x, rate, generator).detach() + x - x.detach()


# ------------------------------------------------------------------------------------- embedding


class TableCase(NamedTuple):
    ids: Tensor
    table: Tensor


def table_case(draw: Draw) -> TableCase:
    shape = draw.choice([(5,), (2, 5), (2, 1, 3), (3, 7)])
    return TableCase(integers(seed_of(draw), 11, *shape), normal(seed_of(draw), 11, 3))


EMBEDDING = Proof(embedding, table_case, without=NOTHING_ROUNDED)


@EMBEDDING.spec
def it_is_a_product_with_one_hot_vectors(formula, case):
    rows = case.ids.reshape(-1, case.ids.shape[-1]).tolist()
    expected = as_tensor([spec.embedding(row, case.table.tolist()) for row in rows])
    return differing(formula(*case), expected.view(*case.ids.shape, 3)), 0


@EMBEDDING.reference
def it_is_torchs_embedding(formula, case):
    return differing(formula(*case), F.embedding(*case)), 0


@EMBEDDING.law
def reordered_rows_need_reordered_ids(formula, case):
    order = order_of(len(case.table))
    left = formula(order[case.ids], case.table)
    return differing(left, formula(case.ids, case.table[order])), 0


@EMBEDDING.law
def the_last_id_reads_the_last_row(formula, case):
    last = torch.full_like(case.ids, len(case.table) - 1)
    found = formula(last, case.table)
    return differing(found, case.table[-1].expand_as(found)), 0


@EMBEDDING.law
def no_ids_give_no_rows(formula, case):
    found = formula(case.ids.reshape(-1)[:0], case.table)
    return len(found) + abs(found.shape[-1] - case.table.shape[-1]), 0


@EMBEDDING.law
def ids_outside_are_refused(formula, case):
    accepted = 0
    for bad in (-1, len(case.table)):
        ids = case.ids.clone()
        ids[..., 0] = bad
        try:
            formula(ids, case.table)
            accepted += 1
        except (ValueError, IndexError):
            pass
    return accepted, 0


@EMBEDDING.gradient
def a_row_collects_the_gradients_of_its_uses(formula, case):
    upstream = normal(3, *case.ids.shape, case.table.shape[1])
    expected = torch.zeros_like(case.table)
    for index, row in zip(case.ids.reshape(-1).tolist(), rows_of(upstream), strict=True):
        expected[index] += row
    (found,) = gradients(lambda table: formula(case.ids, table), [case.table], upstream)
    return distance(found, expected), 20 * EPS


@EMBEDDING.mistake(ids_outside_are_refused)
def plain_indexing(ids, table):
    return table[ids]


@EMBEDDING.mistake(ids_outside_are_refused)
def clipped_ids(ids, table):
    return table[ids.clamp(0, len(table) - 1)]


@EMBEDDING.mistake(the_last_id_reads_the_last_row, it_is_a_product_with_one_hot_vectors)
def counted_from_one(ids, table):
    return embedding(ids, table.roll(1, 0))


@EMBEDDING.mistake(it_is_torchs_embedding)
def scaled_by_the_root_of_the_width(ids, table):
    return embedding(ids, table) * math.sqrt(table.shape[1])


@EMBEDDING.mistake(reordered_rows_need_reordered_ids)
def rows_scaled_by_their_number(ids, table):
    return embedding(ids, table * torch.arange(len(table))[:, None])


@EMBEDDING.mistake(no_ids_give_no_rows)
def at_least_one_row(ids, table):
    return embedding(ids, table) if ids.numel() else table[:1]


@EMBEDDING.mistake(a_row_collects_the_gradients_of_its_uses)
def each_row_trained_once(ids, table):
    later = torch.zeros(ids.shape, dtype=torch.bool)
    for index in ids.unique():
        later.view(-1)[(ids.reshape(-1) == index).nonzero()[1:]] = True
    found = embedding(ids, table)
    return torch.where(later[..., None], found.detach(), found)


@EMBEDDING.mistake(a_row_collects_the_gradients_of_its_uses)
def padding_not_trained(ids, table):
    found = embedding(ids, table)
    return torch.where((ids == 0)[..., None], found.detach(), found)
