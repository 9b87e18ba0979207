"""The loss that is computed in parts keeps every law of the book's, and its mistakes are seen."""

from typing import Any

import pytest
import torch
from hypothesis import given
from proof import assert_holds, drawn, fewer

from minibert import losses as book
from minibert.kernels import losses as kernels
from minibert.kernels.products import arithmetic
from minibert.laws.losses import SMOOTHED
from minibert.laws.measure import distance

BIT_FOR_BIT = "without_smoothing_it_is_cross_entropy"  # of the book: sums differ


@pytest.fixture(params=[1, 20, 2**18], ids=["a row", "few", "all"])
def part(request, monkeypatch):
    """How many logits are computed at once."""
    monkeypatch.setattr(kernels, "PART", request.param)


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize(
    "law",
    [pytest.param(x, id=x.name) for x in SMOOTHED.laws.values() if x.name != BIT_FOR_BIT],
)
def test_every_law_of_the_book_holds(law):
    @fewer(4 * law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, kernels.smoothed_cross_entropy, case)

    holds()


def test_the_law_that_is_left_out_is_one_of_the_book():
    assert BIT_FOR_BIT in [law.name for law in SMOOTHED.laws.values()]


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_equals_the_book_in_each_precision(dtype, smoothing):
    logits = torch.randn(7, 9).to(dtype)
    logits[3, 2] = -torch.inf if smoothing == 0 else -30.0
    labels = torch.tensor([0, 8, -100, 1, 4, -100, 4])
    found = []
    for formula in (book.smoothed_cross_entropy, kernels.smoothed_cross_entropy):
        leaf = logits.clone().requires_grad_()
        loss = formula(leaf, labels, smoothing)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    (loss, slope), (same_loss, same_slope) = found
    assert same_loss.dtype == loss.dtype
    assert same_slope.dtype == dtype
    eps = torch.finfo(loss.dtype).eps
    assert distance(same_loss, loss) <= 8 * eps * float(loss)
    assert distance(same_slope, slope) <= 8 * torch.finfo(dtype).eps


def test_twice_backward_adds_twice():
    logits = torch.randn(5, 4, requires_grad=True)
    loss = kernels.smoothed_cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0]), 0.1)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward()
    assert torch.equal(logits.grad, 2 * once)


@pytest.mark.parametrize(
    ("labels", "smoothing", "reason"),
    [
        ([0, 4], 0.1, "labels run from 0 to 4"),
        ([0, -1], 0.1, "labels run from -1 to 0"),
        ([0, 1], 1.0, "the smoothing is 1.0"),
        ([0, 1], -0.1, "the smoothing is -0.1"),
    ],
)
def test_the_books_refusals_are_kept(labels, smoothing, reason):
    with pytest.raises(ValueError, match=f"smoothed_cross_entropy: {reason}"):
        kernels.smoothed_cross_entropy(torch.zeros(2, 4), torch.tensor(labels), smoothing)


def test_in_the_books_arithmetic_it_is_the_book():
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])
    with arithmetic("book"):
        found = kernels.smoothed_cross_entropy(logits, labels, 0.1)
    assert torch.equal(found, book.smoothed_cross_entropy(logits, labels, 0.1))


# ------------------------------------------------------------------------------- known mistakes


def mistaken(change: Any) -> Any:
    class Mistaken(kernels._Smoothed):
        backward = staticmethod(change(kernels._Smoothed.backward))

    return Mistaken


def of_all_rows(backward):
    """The slope of a mean over all rows, with or without a label."""

    def wrong(ctx, *upstream):
        slope, *rest = backward(ctx, *upstream)
        counted = ctx.saved_tensors[2]
        return slope * counted.sum() / len(counted), *rest

    return wrong


def without_upstream(backward):
    return lambda ctx, *upstream: backward(ctx, torch.ones_like(upstream[0]))


def without_smoothing(backward):
    def wrong(ctx, *upstream):
        ctx.smoothing = 0.0
        return backward(ctx, *upstream)

    return wrong


@pytest.mark.parametrize("change", [of_all_rows, without_upstream, without_smoothing])
def test_a_mistake_in_the_slope_is_rejected(change, monkeypatch):
    law = SMOOTHED.laws["its_slope_is_p_minus_the_smoothed_target"]
    monkeypatch.setattr(kernels, "_Smoothed", mistaken(change))

    @fewer(1)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, kernels.smoothed_cross_entropy, case)

    with pytest.raises(AssertionError):
        holds()
