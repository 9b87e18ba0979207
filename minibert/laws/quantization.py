"""Laws of `quantization`: rows in eight bits, and the linear map of them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.laws import spec
from minibert.laws.functional import (
    LinearCase,
    at_least_eps32,
    linear_bound,
    linear_case,
    rounded_once,
    rows,
    rows_of,
)
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    integers,
    normal,
    order_of,
    over_rows,
    seed_of,
)
from minibert.quantization import quantized_linear, quantized_rows

NO_SLOPE = {"gradient": "the slope of rounding to whole numbers is 0 wherever it exists"}
LEAST_SCALE = 2.0**-126


def restored(q: Tensor, scale: Tensor) -> Tensor:
    """The numbers that whole numbers and a scale represent."""
    return q.double() * scale.double()


def as_int8(x: Tensor) -> Tensor:
    """Numbers that do not fit lose their upper bits, as on most processors."""
    return x.long().to(torch.int8)


# -------------------------------------------------------------------------------- quantized_rows

QUANTIZED_ROWS = Proof(quantized_rows, rows, without=NO_SLOPE)


@QUANTIZED_ROWS.spec(cases=lambda draw: rows(draw, (1e-38, 1e-3, 1.0, 1e30)))
def it_is_the_nearest_multiple_of_a_127th(formula, x):
    q, scale = formula(x)
    expected = [spec.quantized(row) for row in rows_of(x).tolist()]
    error = differing(rows_of(q).double(), as_tensor([row for row, _ in expected]))
    return error + differing(scale.reshape(-1), as_tensor([s for _, s in expected])), 0


@QUANTIZED_ROWS.reference
def it_is_torchs_quantization_but_for_halves(formula, x):
    """torch multiplies by 1/s where we divide; that matters only next to a half."""
    wide = rows_of(x).float()
    q, scale = formula(wide)
    zeros = torch.zeros(len(wide), dtype=torch.int32)
    numbers = torch.fake_quantize_per_channel_affine(wide, scale[:, 0], zeros, 0, -128, 127)
    theirs = torch.round(numbers / scale)
    quotient = wide.double() / scale.double()
    decided = (quotient - quotient.floor() - 0.5).abs() > 1e-4
    return differing(q[decided], theirs[decided]), 0


@QUANTIZED_ROWS.law
def a_number_moves_by_half_a_step_at_most(formula, x):
    q, scale = formula(x)
    return distance(restored(q, scale), x, scale), 0.5 + 64 * EPS


@QUANTIZED_ROWS.law
def the_largest_number_is_127(formula, x):
    return differing(formula(x)[0].long().abs().amax(-1), torch.full(x.shape[:-1], 127)), 0


@QUANTIZED_ROWS.law
def the_opposite_has_opposite_numbers(formula, x):
    (q, scale), (opposite, same_scale) = formula(x), formula(-x)
    return differing(opposite.long(), -q.long()) + differing(same_scale, scale), 0


@QUANTIZED_ROWS.law
def powers_of_two_pass_into_the_scale(formula, x):
    q, scale = formula(x)
    error = 0.0
    for factor in (2.0, 2.0**-60, 2.0**60):
        others, other_scale = formula(x * factor)
        error += differing(others, q) + differing(other_scale, scale * factor)
    return error, 0


@QUANTIZED_ROWS.law
def each_row_is_quantized_alone(formula, x):
    """Even a row a thousand times as large makes no difference."""
    row = rows_of(x)[:1]
    q, scale = formula(torch.cat((row, 1024 * row, row / 1024)))
    alone, alone_scale = formula(row)
    factors = as_tensor([[1.0], [1024.0], [1 / 1024]])
    return differing(q, alone.expand(3, -1)) + differing(scale, alone_scale * factors), 0


@QUANTIZED_ROWS.law
def halves_go_to_the_even_number(formula, x):
    halves = as_tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5])
    expected = torch.tensor([127, 0, 2, 2, 0, -2, -2, 126], dtype=torch.int8)
    factor = 2.0 ** float(x.reshape(-1)[0].clamp(-9, 9).round())
    return differing(formula(halves * factor)[0], expected), 0


@QUANTIZED_ROWS.law
def zeros_stay_zeros(formula, x):
    q, scale = formula(torch.zeros_like(x))
    return differing(q, torch.zeros_like(q)) + float((~scale.isfinite()).sum()), 0


@QUANTIZED_ROWS.law
def rows_next_to_zero_keep_to_half_a_step(formula, x):
    """In float32, where a 127th of them has few digits or none."""
    small = (x / x.abs().amax(-1, keepdim=True)).float()
    error = 0.0
    for size in (2.0**-118, 2.0**-124, 2.0**-130, 2.0**-140, 2.0**-149):
        q, scale = formula(small * size)
        error = max(error, distance(restored(q, scale), small * size, scale))
    return error, 0.5 + 64 * 2.0**-23


@QUANTIZED_ROWS.law
def order_within_a_row_does_not_matter(formula, x):
    order = order_of(x.shape[-1])
    (q, scale), (moved, same_scale) = formula(x), formula(x[..., order])
    return differing(moved, q[..., order]) + differing(same_scale, scale), 0


@QUANTIZED_ROWS.law
def what_is_quantized_stays_as_it_is(formula, x):
    q, scale = formula(x)
    again, same_scale = formula(restored(q, scale))
    return differing(again, q) + distance(same_scale, scale, scale), 2 * EPS


@QUANTIZED_ROWS.law
def half_precision_is_read_as_float32(formula, x):
    error = 0.0
    for narrow in (x.to(torch.float16), x.to(torch.bfloat16)):
        (q, scale), (wide_q, wide_scale) = formula(narrow), formula(narrow.float())
        error += differing(q, wide_q) + differing(scale, wide_scale)
    return error, 0


HARD_ROWS = {
    "normal": lambda draw: rows(draw, (1.0,)),
    "tiny": lambda draw: rows(draw, (1e-30, 1e-38)),
    "large": lambda draw: rows(draw, (1e4, 1e37)),
    "one number stands out": lambda draw: with_one_large(rows(draw, (1.0,)), 1e3),
    "equal": lambda draw: torch.full((3, 5), draw.choice([0.0, -3.7, 1e4])),
    "halves": lambda draw: halves(draw),
}


def with_one_large(x: Tensor, size: float) -> Tensor:
    return torch.cat((x[..., :1] + size, x[..., 1:]), -1)


def halves(draw: Draw) -> Tensor:
    """Numbers that lie midway between two steps."""
    middles = integers(seed_of(draw), 253, 3, 7) - 126.5
    return torch.cat((torch.full((3, 1), 127.0), middles), -1).double() * draw.choice([1.0, 0.3])


@QUANTIZED_ROWS.accuracy(HARD_ROWS)
def half_a_step_is_all_that_is_lost(formula, x):
    q, scale = formula(x)
    return distance(restored(q, scale), x, scale * (0.5 + 64 * at_least_eps32(x))), 1


def scale_of(x: Tensor) -> Tensor:
    return quantized_rows(x)[1]


@QUANTIZED_ROWS.mistake(the_largest_number_is_127, a_number_moves_by_half_a_step_at_most)
def a_128th_and_no_limit(x):
    scale = scale_of(x) * 127 / 128
    return as_int8(torch.round(x / scale)), scale


@QUANTIZED_ROWS.mistake(the_largest_number_is_127)
def seven_bits(x):
    scale = scale_of(x) * 127 / 64
    return torch.round(x / scale).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(each_row_is_quantized_alone, it_is_the_nearest_multiple_of_a_127th)
def one_scale_for_all_rows(x):
    scale = scale_of(x).amax().expand(*x.shape[:-1], 1)
    return torch.round(x / scale).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(
    the_largest_number_is_127,
    source="https://github.com/vllm-project/compressed-tensors/issues/394",
)
def maximum_over_the_other_axis(x):
    scale = x.abs().amax(0, keepdim=True) / 127
    return torch.round(x / scale).to(torch.int8), scale.expand_as(x)


@QUANTIZED_ROWS.mistake(
    a_number_moves_by_half_a_step_at_most,
    it_is_torchs_quantization_but_for_halves,
    half_a_step_is_all_that_is_lost,
    source="https://github.com/ROCm/aiter/pull/4637",
)
def cut_off_instead_of_rounded(x):
    scale = scale_of(x)
    return (x / scale).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(halves_go_to_the_even_number)
def halves_go_up(x):
    scale = scale_of(x)
    return torch.floor(x / scale + 0.5).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(the_opposite_has_opposite_numbers)
def largest_with_its_sign(x):
    scale = (x.amax(-1, keepdim=True) / 127).clamp(min=LEAST_SCALE)
    return torch.round(x / scale).clamp(-128, 127).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(the_opposite_has_opposite_numbers)
def from_minus_128_on(x):
    """All 256 numbers, so that the smallest of the row is -128."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale = ((high - low) / 255).clamp(min=LEAST_SCALE)
    return (torch.round((x - low) / scale) - 128).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(
    zeros_stay_zeros,
    source="https://github.com/microsoft/BitNet/pull/123",
)
def nothing_divided_by_nothing(x):
    """Left in floats: which whole number a NaN becomes is up to the processor."""
    scale = x.abs().amax(-1, keepdim=True) / 127
    return torch.round(x / scale), scale


@QUANTIZED_ROWS.mistake(powers_of_two_pass_into_the_scale)
def added_to_the_largest(x):
    scale = (x.abs().amax(-1, keepdim=True) + 1e-10) / 127
    return torch.round(x / scale).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(rows_next_to_zero_keep_to_half_a_step)
def whatever_a_127th_rounds_to(x):
    scale = x.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale == 0, 1, scale)
    return as_int8(torch.round(x / scale)), scale


@QUANTIZED_ROWS.mistake(
    rows_next_to_zero_keep_to_half_a_step,
    nan=True,
    source="https://github.com/openvinotoolkit/openvino/pull/32410",
)
def multiplied_by_127_over_the_largest(x):
    largest = x.abs().amax(-1, keepdim=True)
    return torch.round(x * (127 / largest)).clamp(-127, 127).to(torch.int8), largest / 127


@QUANTIZED_ROWS.mistake(order_within_a_row_does_not_matter)
def the_first_number_sets_the_scale(x):
    scale = (x[..., :1].abs() / 127).clamp(min=LEAST_SCALE)
    return torch.round(x / scale).clamp(-127, 127).to(torch.int8), scale


@QUANTIZED_ROWS.mistake(what_is_quantized_stays_as_it_is)
def a_step_of_three_halves(x):
    q, scale = quantized_rows(x)
    return torch.round(q / 1.5).to(torch.int8), scale * 1.5


@QUANTIZED_ROWS.mistake(
    half_precision_is_read_as_float32,
    half_a_step_is_all_that_is_lost,
    source="https://github.com/pytorch/ao/pull/4326",
)
def scale_in_half_precision(x):
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=LEAST_SCALE)
    return torch.round(x / scale).clamp(-127, 127).to(torch.int8), scale


# ------------------------------------------------------------------------------ quantized_linear

QUANTIZED_LINEAR = Proof(quantized_linear, linear_case, without=NO_SLOPE)


def applied(formula, case: LinearCase) -> Tensor:
    """The weight is quantized by `quantized_rows`, so that a law is about the linear map alone."""
    return formula(case.x, *quantized_rows(case.weight), case.bias)


def rounding_of(case: LinearCase) -> tuple[Tensor, Tensor]:
    """The result without any rounding after the sum, and a bound on that rounding."""
    (q, scale), (weight_q, weight_scale) = quantized_rows(case.x), quantized_rows(case.weight)
    product = restored(q, scale) @ restored(weight_q, weight_scale).T
    eps = at_least_eps32(case.x)
    expected = product + case.bias.double()
    # The float64 product is itself rounded, by a thousandth of what is allowed in float32.
    return expected, 3 * eps * (product.abs() + case.bias.double().abs())


def spec_of_quantized_linear(case: LinearCase) -> Tensor:
    q, scale = quantized_rows(case.weight)
    lists = q.tolist(), scale[:, 0].tolist(), case.bias.tolist()
    return as_tensor(over_rows(spec.quantized_linear, case.x.tolist(), *lists))


@QUANTIZED_LINEAR.spec
def it_is_two_scales_times_the_sum_of_whole_products(formula, case):
    return distance(applied(formula, case), spec_of_quantized_linear(case), rounding_of(case)[1]), 1


@QUANTIZED_LINEAR.reference
def it_is_torchs_linear_of_what_the_whole_numbers_stand_for(formula, case):
    x, weight = (restored(*quantized_rows(part)) for part in case[:2])
    unit = linear_bound(LinearCase(x, weight, case.bias))
    return distance(applied(formula, case), F.linear(x, weight, case.bias), unit), 1


def loss_of_eight_bits(case: LinearCase) -> Tensor:
    """Σ (|w| s_x + |x| s_w) / 2 + I s_x s_w / 4: every factor moves by half a step."""
    scale_x, scale_w = quantized_rows(case.x)[1], quantized_rows(case.weight)[1].T
    sum_x = case.x.abs().sum(-1, keepdim=True)
    sum_w = case.weight.abs().sum(-1)
    return (sum_w * scale_x + sum_x * scale_w) / 2 + case.x.shape[-1] * scale_x * scale_w / 4


@QUANTIZED_LINEAR.law(cases=lambda draw: wide_case(draw))
def it_is_as_near_to_the_linear_map_as_half_steps_allow(formula, case):
    unit = loss_of_eight_bits(case) + linear_bound(case)
    return distance(applied(formula, case), F.linear(*case), unit), 1


def wide_case(draw: Draw) -> LinearCase:
    """One token a hundred times as large as the others, and rows of weights of many sizes."""
    out_width, in_width = draw.choice([(5, 3), (5, 5), (1, 7), (3, 31)])
    sizes = 10.0 ** (torch.arange(7, dtype=torch.float64)[:, None] % 3)
    return LinearCase(
        normal(seed_of(draw), 2, 7, in_width) * sizes,
        normal(seed_of(draw), out_width, in_width) * 3.0 ** torch.arange(out_width)[:, None],
        normal(seed_of(draw), out_width),
    )


@QUANTIZED_LINEAR.law
def whole_numbers_are_multiplied_exactly(formula, case):
    """All scales are 1. The largest sum is 127² · 3001, beyond float32's 2^24."""
    width, seed = 3001, int(case.bias[0].abs() * 1e6)
    numbers = integers(seed, 255, 6, width) - 127
    numbers[:, 0] = 127
    numbers[0] = numbers[3] = 127
    x, weight = numbers[:3], numbers[3:]
    bias = torch.tensor([7.0, 0.0, -5.0], dtype=torch.float64)
    found = formula(x.double(), *quantized_rows(weight.double()), bias)
    return distance(found, (x @ weight.T).double() + bias), 0


@QUANTIZED_LINEAR.law
def tokens_do_not_see_each_other(formula, case):
    """Even a token a thousand times as large makes no difference."""
    louder = torch.cat((case.x, 1024 * case.x.flip(1)))
    expected = applied(formula, case)
    return differing(applied(formula, case._replace(x=louder))[: len(case.x)], expected), 0


@QUANTIZED_LINEAR.law
def doubling_a_token_doubles_what_is_added_to_the_bias(formula, case):
    case = case._replace(bias=torch.zeros_like(case.bias))
    doubled = applied(formula, case._replace(x=2 * case.x))
    return differing(doubled, 2 * applied(formula, case)), 0


@QUANTIZED_LINEAR.law
def each_output_has_its_own_scale(formula, case):
    factors = 2.0 ** torch.arange(len(case.bias), dtype=torch.float64)
    found = applied(formula, LinearCase(case.x, case.weight * factors[:, None], 0 * case.bias))
    return differing(found, factors * applied(formula, case._replace(bias=0 * case.bias))), 0


@QUANTIZED_LINEAR.law
def a_token_of_zeros_gives_the_bias(formula, case):
    found = applied(formula, case._replace(x=torch.zeros_like(case.x)))
    return differing(found, case.bias.expand_as(found)), 0


@QUANTIZED_LINEAR.law
def half_precision_linear_is_float32_rounded_once(formula, case):
    error = 0.0
    for dtype in (torch.float16, torch.bfloat16):
        narrow = LinearCase(*(part.to(dtype) for part in case))
        wide = LinearCase(*(part.float() for part in narrow))
        error += differing(applied(formula, narrow), applied(formula, wide).to(dtype))
    return error, 0


@QUANTIZED_LINEAR.accuracy(
    {
        "tiny": lambda draw: linear_case(draw, 1e-30),
        "large": lambda draw: linear_case(draw, 1e4),
        "a large offset": lambda draw: linear_case(draw, 1.0, 1e5),
        "many sizes": wide_case,
    },
)
def after_the_exact_sum_it_rounds_a_few_times(formula, case):
    expected, unit = rounding_of(case)
    unit = unit + rounded_once(expected, case.x.dtype)
    return distance(applied(formula, case), expected, unit), 1


def product_of(x: Tensor, weight: Tensor) -> Tensor:
    return (x.long() @ weight.long().T).double()


@QUANTIZED_LINEAR.mistake(
    tokens_do_not_see_each_other,
    it_is_as_near_to_the_linear_map_as_half_steps_allow,
    source="https://github.com/pytorch/executorch/pull/22432",
)
def one_scale_for_all_tokens(x, weight, scale, bias):
    x_scale = x.abs().amax() / 127
    return product_of(torch.round(x / x_scale), weight) * x_scale * scale[:, 0] + bias


@QUANTIZED_LINEAR.mistake(
    each_output_has_its_own_scale, it_is_as_near_to_the_linear_map_as_half_steps_allow
)
def one_scale_for_all_outputs(x, weight, scale, bias):
    return quantized_linear(x, weight, scale.amax().expand_as(scale), bias)


@QUANTIZED_LINEAR.mistake(each_output_has_its_own_scale)
def scale_of_the_next_output(x, weight, scale, bias):
    return quantized_linear(x, weight, scale.roll(1, 0), bias)


@QUANTIZED_LINEAR.mistake(
    a_token_of_zeros_gives_the_bias, it_is_two_scales_times_the_sum_of_whole_products
)
def bias_scaled_as_well(x, weight, scale, bias):
    q, x_scale = quantized_rows(x)
    return (product_of(q, weight) + bias) * x_scale * scale[:, 0]


@QUANTIZED_LINEAR.mistake(a_token_of_zeros_gives_the_bias)
def bias_in_eight_bits(x, weight, scale, bias):
    return quantized_linear(x, weight, scale, restored(*quantized_rows(bias)))


@QUANTIZED_LINEAR.mistake(doubling_a_token_doubles_what_is_added_to_the_bias)
def scale_of_the_token_forgotten(x, weight, scale, bias):
    return product_of(quantized_rows(x)[0], weight) * scale[:, 0] + bias


@QUANTIZED_LINEAR.mistake(
    it_is_torchs_linear_of_what_the_whole_numbers_stand_for,
    after_the_exact_sum_it_rounds_a_few_times,
)
def tokens_left_as_they_are(x, weight, scale, bias):
    """Weights alone in eight bits: another formula, and no faster."""
    return F.linear(x.double(), restored(weight, scale), bias.double()).to(x.dtype)


@QUANTIZED_LINEAR.mistake(whole_numbers_are_multiplied_exactly)
def summed_in_eight_bits(x, weight, scale, bias):
    q, x_scale = quantized_rows(x)
    return (q @ weight.T).double() * x_scale * scale[:, 0] + bias


@QUANTIZED_LINEAR.mistake(
    whole_numbers_are_multiplied_exactly,
    source="https://github.com/microsoft/onnxruntime/issues/14642",
)
def pairs_saturated_in_sixteen_bits(x, weight, scale, bias):
    """Processors without VNNI: two products of an unsigned and a signed number share 16 bits."""
    q, x_scale = quantized_rows(x)
    width = x.shape[-1] + x.shape[-1] % 2
    products = (q.long() + 128)[..., None, :] * weight.long()
    products = F.pad(products, (0, width - x.shape[-1])).unflatten(-1, (-1, 2))
    sums = products.sum(-1).clamp(-(2**15), 2**15 - 1).sum(-1) - 128 * weight.long().sum(-1)
    return sums * x_scale * scale[:, 0] + bias


@QUANTIZED_LINEAR.mistake(whole_numbers_are_multiplied_exactly)
def summed_in_float32(x, weight, scale, bias):
    q, x_scale = quantized_rows(x)
    return F.linear(q.float(), weight.float()) * x_scale * scale[:, 0] + bias


@QUANTIZED_LINEAR.mistake(half_precision_linear_is_float32_rounded_once)
def scaled_in_half_precision(x, weight, scale, bias):
    q, x_scale = quantized_rows(x)
    narrow = x_scale.to(x.dtype), scale[:, 0].to(x.dtype)
    return (product_of(q, weight).to(x.dtype) * narrow[0] * narrow[1] + bias).to(x.dtype)
