"""The fast linear map in eight bits: the whole numbers of the book, and its result."""

import pytest
import torch
from hypothesis import given
from proof import assert_holds, drawn
from torch import Tensor

from minibert.functional import linear
from minibert.kernels import quantized as kernels
from minibert.kernels.quantized import int8_linear, prepared_int8
from minibert.laws import quantization as laws
from minibert.laws.functional import LinearCase, rounded_once
from minibert.laws.law import in_dtype
from minibert.laws.measure import differing, distance, integers, normal
from minibert.parameters import LinearWeights
from minibert.quantization import quantized_linear, quantized_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SHAPES = [(1, 1, 1), (1, 64, 3), (7, 5, 1), (13, 31, 17), (300, 33, 5), (513, 65, 7)]


def twin(x: Tensor, weight_OI: Tensor, scale_O1: Tensor, bias_O: Tensor) -> Tensor:
    """The kernel with the arguments of the book."""
    weights = kernels.Int8Linear(weight_OI.T, scale_O1[:, 0], bias_O)
    return int8_linear(x.reshape(-1, x.shape[-1]), weights).view(*x.shape[:-1], -1)


@pytest.mark.parametrize("law", laws.QUANTIZED_LINEAR.laws.values(), ids=lambda law: law.name)
def test_every_law_of_the_book_holds(law):
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, twin, case)

    holds()


@pytest.mark.parametrize("law", laws.QUANTIZED_ROWS.laws.values(), ids=lambda law: law.name)
def test_every_law_of_the_rows_holds(law):
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, kernels._quantized, case)

    holds()


def random_case(tokens: int, width: int, outputs: int, dtype: torch.dtype) -> LinearCase:
    sizes = 10.0 ** (torch.arange(tokens) % 5 - 2)[:, None]
    case = LinearCase(
        normal(0, tokens, width) * sizes, normal(1, outputs, width), normal(2, outputs)
    )
    case.x[tokens // 2] = 0
    return in_dtype(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_whole_numbers_are_the_books_bit_for_bit(shape, dtype):
    x, weight, bias = random_case(*shape, dtype)
    (q, scale), (ours, our_scale) = quantized_rows(x), kernels._quantized(x)
    assert differing(q, ours) == differing(scale, our_scale) == 0
    prepared = prepared_int8(LinearWeights(weight, bias))
    weight_q, weight_scale = quantized_rows(weight)
    assert differing(prepared.weight_IO, weight_q.T) == 0
    assert differing(prepared.scale_O, weight_scale[:, 0]) == 0
    assert differing(kernels._sums(q, prepared.weight_IO), q.long() @ weight_q.long().T) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_linear_map_is_the_books(shape, dtype):
    """Each is right to 3 eps of product and bias, and rounded once more in half precision."""
    case = random_case(*shape, dtype)
    weights = LinearWeights(case.weight, case.bias)
    found = int8_linear(case.x, prepared_int8(weights))
    expected = quantized_linear(case.x, *quantized_rows(case.weight), case.bias)
    assert found.dtype == dtype
    exact, unit = laws.rounding_of(case)
    assert distance(found, expected, 2 * (unit + rounded_once(exact, dtype))) <= 1


def test_the_whole_is_as_its_blocks():
    """A token does not care which others are computed with it."""
    x, weight, bias = random_case(2 * kernels.TOKENS + 3, 33, 5, torch.float32)
    prepared = prepared_int8(LinearWeights(weight, bias))
    each = torch.cat([int8_linear(row[None], prepared) for row in x])
    assert differing(int8_linear(x, prepared), each) == 0


def test_eight_bits_lose_something_but_little():
    """Or the test would not notice that nothing is quantized."""
    x, weight, bias = random_case(50, 64, 20, torch.float32)
    exact = linear(x, weight, bias)
    found = int8_linear(x, prepared_int8(LinearWeights(weight, bias)))
    loss = float(((found - exact).norm(dim=-1) / (exact - bias).norm(dim=-1))[:25].max())
    assert 1e-3 < loss < 3e-2


def test_no_tokens_give_no_results():
    weights = prepared_int8(LinearWeights(normal(0, 5, 3).float(), normal(1, 5).float()))
    assert int8_linear(torch.ones(0, 3), weights).shape == (0, 5)


def test_prepared_weights_are_a_copy_without_gradient():
    weight, bias = normal(0, 5, 3).requires_grad_(), normal(1, 5).requires_grad_()
    prepared = prepared_int8(LinearWeights(weight, bias))
    before = prepared.bias_O.clone()
    with torch.no_grad():
        bias += 1
        weight += 1
    assert not any(part.requires_grad for part in prepared)
    assert torch.equal(prepared.bias_O, before)
    assert prepared.weight_IO.T.is_contiguous()


def test_arguments_are_left_alone():
    x, weight, bias = random_case(7, 5, 3, torch.float32)
    prepared, untouched = prepared_int8(LinearWeights(weight, bias)), x.clone()
    copies = [part.clone() for part in prepared]
    int8_linear(x, prepared)
    assert torch.equal(x, untouched)
    assert all(torch.equal(a, b) for a, b in zip(prepared, copies, strict=True))


def test_another_width_is_refused():
    prepared = prepared_int8(LinearWeights(torch.ones(5, 3), torch.ones(5)))
    with pytest.raises(ValueError, match=r"^int8_linear: x has width 4, but .* maps from 3$"):
        int8_linear(torch.ones(2, 4), prepared)


def test_a_gradient_is_refused():
    prepared = prepared_int8(LinearWeights(torch.ones(5, 3), torch.ones(5)))
    with pytest.raises(RuntimeError, match="differentiation"):
        int8_linear(torch.ones(2, 3, requires_grad=True), prepared)


# --------------------------------------------------------- where the processor's sums are too short


@pytest.fixture
def short_sums(monkeypatch):
    """A processor that adds pairs of products in sixteen bits, as those without VNNI do."""

    def saturating(q: Tensor, weight: Tensor) -> Tensor:
        products = (q.long() + 128)[:, :, None] * weight.long()
        pairs = products.unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(1) - 128 * weight.long().sum(0)).int()

    kernels._products_are_exact.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", saturating)
    yield
    kernels._products_are_exact.cache_clear()


def test_a_processor_with_short_sums_is_noticed(short_sums):
    assert not kernels._products_are_exact()


def test_results_do_not_depend_on_the_processor(short_sums, monkeypatch):
    x, weight, bias = random_case(300, 34, 5, torch.float32)
    prepared = prepared_int8(LinearWeights(weight, bias))
    here = int8_linear(x, prepared)
    monkeypatch.undo()
    kernels._products_are_exact.cache_clear()
    assert differing(here, int8_linear(x, prepared)) <= here.numel() / 100
    assert distance(here, int8_linear(x, prepared), here.abs() + 1e-3) <= 2.0**-22


def test_sums_too_long_for_32_bits_are_exact():
    width = kernels.LONGEST + 1
    q = torch.full((1, width), 127, dtype=torch.int8)
    assert kernels._sums(q, q.T).item() == width * 127**2 >= 2**31
    q, weight = (integers(seed, 255, 2, kernels.LONGEST) - 127 for seed in (0, 1))
    sums = kernels._sums(q.to(torch.int8), weight.to(torch.int8).T)
    assert differing(sums, q @ weight.T) == 0
