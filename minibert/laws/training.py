"""Laws of the training loop: cut into parts, a batch has the gradient that it has as a whole.

The loop belongs to the workshop and not to the book, but its usual mistakes are as silent as those
of any formula: the loss falls all the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.laws import spec_training as spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    normal,
    order_of,
    seed_of,
    slope_of_spec,
)
from minibert.parameters import LinearWeights, flatten, named_tensors, with_tensors
from minibert.training.loop import TrainingOptions, accumulate_gradient
from minibert.training.trainable import Trainable

# --------------------------------------------------------------------------- accumulate_gradient


class CountedRows:
    """The smallest objective there is: c_r ‖W x_r + b‖², in the mean over what is counted.

    A count is what a row weighs: its masked words, or 1 where the mean is over rows.
    """

    def __init__(self, x_RI: Tensor, counts: list[int]) -> None:
        self.x_RI, self.counts = x_RI, counts

    def order(self, epoch: int) -> list[list[int]]:
        return [list(range(len(self.counts)))]

    def counted(self, rows: Sequence[int]) -> int:
        return sum(self.counts[row] for row in rows)

    def terms(self, rows: Sequence[int], weights: Any, generator: Any = None) -> dict[str, Tensor]:
        y_RO = self.x_RI[list(rows)] @ weights.weight_OI.T + weights.bias_O
        counts_R = as_tensor([self.counts[row] for row in rows])
        loss = (counts_R * (y_RO * y_RO).sum(-1)).sum() / max(self.counted(rows), 1)
        return {"loss": loss, "double": 2 * loss}


class Batch(NamedTuple):
    """A batch, the parts that it is cut into, and the price λ of large weights."""

    objective: CountedRows
    weights: LinearWeights
    parts: int
    l2: float


def batch_of(draw: Draw, most: int = 5, least: int = 0) -> Batch:
    """1 to 11 rows of unequal counts, 0 among them, in as many parts or more."""
    seed, n = seed_of(draw), draw.integer(1, 11)
    counts = [draw.integer(least, most) for _ in range(n)]
    weights = LinearWeights(normal(seed + 1, 2, 3), normal(seed + 2, 2))
    objective = CountedRows(normal(seed, n, 3), counts)
    return Batch(objective, weights, draw.integer(1, 12), draw.choice([0.0, 0.01, 0.5]))


def rows_of(case: Batch) -> list[int]:
    return list(range(len(case.objective.counts)))


class Found(NamedTuple):
    gradient_P: Tensor
    terms: dict[str, float]
    trainable: Trainable


def found(
    formula: Callable[..., Any],
    case: Batch,
    parts: int | None = None,
    rows: Sequence[int] | None = None,
    left_over: float = 0.0,
) -> Found:
    trainable = Trainable(case.weights)  # type: ignore[arg-type]
    trainable.gradient_P.fill_(left_over)
    options = TrainingOptions(
        dtype=torch.float64, accumulate=case.parts if parts is None else parts, l2=case.l2
    )
    chosen = rows_of(case) if rows is None else rows
    terms = formula(case.objective, chosen, trainable, options, None)
    return Found(trainable.gradient_P, terms, trainable)


def size_of(case: Batch) -> float:
    """No number of a row's gradient 2 y xᵀ is larger, nor the loss of a row."""
    x, (weight, bias) = case.objective.x_RI.abs(), case.weights
    y = x @ weight.abs().T + bias.abs()
    return 1 + 2 * float(y.max()) * max(1.0, float(x.max()), float(y.max()))


ACCUMULATE = Proof(
    accumulate_gradient,
    batch_of,
    without={"accuracy": "what it rounds is the gradient of its objective"},
    cost=2,
)


def spec_of_loss(case: Batch) -> Callable[[list[list[float]], list[float]], list[float]]:
    def loss(weight, bias):
        rows = [spec.linear(x, weight, bias) for x in case.objective.x_RI.tolist()]
        losses = [math.fsum(y * y for y in row) for row in rows]
        numbers = [number for row in weight for number in row] + bias
        return [spec.mean_loss(losses, case.objective.counts, numbers, case.l2)]

    return loss


@ACCUMULATE.spec
def it_is_the_gradient_of_the_mean_over_all_that_is_counted(formula, case):
    """Σ c_r g_r / Σ c_r + 2 λ θ, where g_r is the gradient of row r alone."""
    gradients = []
    for x in case.objective.x_RI.tolist():
        y = spec.linear(x, *(part.tolist() for part in case.weights))
        gradients.append([2 * y_o * x_i for y_o in y for x_i in x] + [2 * y_o for y_o in y])
    θ = flatten(case.weights).tolist()
    expected = spec.mean_gradient(gradients, case.objective.counts, θ, case.l2)
    return distance(found(formula, case).gradient_P, as_tensor(expected)), 32 * size_of(case) * EPS


@ACCUMULATE.spec
def the_terms_are_means_over_all_that_is_counted(formula, case):
    terms = found(formula, case).terms
    (loss,) = spec_of_loss(case)(*(part.tolist() for part in case.weights))
    price = spec.l2_penalty(flatten(case.weights).tolist(), case.l2)
    error = abs(terms["loss"] - loss) + abs(terms["double"] - 2 * (loss - price))
    return error + abs(terms.get("l2", 0.0) - price), 32 * size_of(case) * EPS


@ACCUMULATE.reference
def it_is_one_backward_pass_of_torch_over_the_whole(formula, case):
    """Over separate tensors, with the price as a part of the loss."""
    leaves = {name: x.clone().requires_grad_() for name, x in named_tensors(case.weights)}
    weights = with_tensors(case.weights, leaves)
    loss = case.objective.terms(rows_of(case), weights)["loss"]
    (loss + case.l2 * sum((leaf * leaf).sum() for leaf in leaves.values())).backward()
    expected = flatten(with_tensors(weights, {name: x.grad for name, x in leaves.items()}))
    return distance(found(formula, case).gradient_P, expected), 32 * size_of(case) * EPS


@ACCUMULATE.law
def parts_do_not_matter(formula, case):
    """One, two, three, one for each row, or more parts than rows."""
    whole, allowed = found(formula, case, 1), 32 * size_of(case) * EPS
    worst = 0.0
    for parts in (2, 3, len(rows_of(case)), 50):
        other = found(formula, case, parts)
        worst = max(worst, distance(other.gradient_P, whole.gradient_P))
        worst = max(worst, abs(other.terms["loss"] - whole.terms["loss"]))
    return worst, allowed


@ACCUMULATE.law
def order_of_the_rows_does_not_matter(formula, case):
    rows = order_of(len(rows_of(case))).tolist()
    error = distance(found(formula, case, rows=rows).gradient_P, found(formula, case).gradient_P)
    return error, 32 * size_of(case) * EPS


@ACCUMULATE.law
def rows_of_count_zero_add_nothing(formula, case):
    counts = case.objective.counts
    some = case._replace(l2=0.0)
    rows = [row for row in rows_of(case) if counts[row]] or rows_of(case)[:1]
    error = distance(found(formula, some, rows=rows).gradient_P, found(formula, some).gradient_P)
    return error, 32 * size_of(case) * EPS


@ACCUMULATE.law
def counting_nothing_leaves_only_the_price(formula, case):
    """0, and not 0/0."""
    nothing = case._replace(objective=CountedRows(case.objective.x_RI, [0] * len(rows_of(case))))
    θ = flatten(case.weights)
    return distance(found(formula, nothing).gradient_P, 2 * case.l2 * θ), 4 * EPS * size_of(case)


@ACCUMULATE.law
def counts_have_no_unit(formula, case):
    """Every row three times as heavy: the same mean."""
    heavy = CountedRows(case.objective.x_RI, [3 * count for count in case.objective.counts])
    other = found(formula, case._replace(objective=heavy)).gradient_P
    return distance(other, found(formula, case).gradient_P), 32 * size_of(case) * EPS


@ACCUMULATE.law
def what_was_left_over_is_forgotten(formula, case):
    """The gradient of the step before, and even a NaN in it."""
    clean = found(formula, case).gradient_P
    dirty = [found(formula, case, left_over=value).gradient_P for value in (1e3, math.nan)]
    return sum(differing(gradient, clean) for gradient in dirty), 0


@ACCUMULATE.law
def the_weights_do_not_move(formula, case):
    """The step comes after the last part."""
    trainable = found(formula, case).trainable
    return differing(trainable.parameters_P, flatten(case.weights)) + trainable.adam.steps, 0


@ACCUMULATE.gradient
def it_is_the_slope_of_the_mean_loss(formula, case):
    """Against differences of the loss as loops over floats, along a random direction."""
    directions = [normal(7, 2, 3), normal(8, 2)]
    gradient = found(formula, case).gradient_P
    slope = float(gradient @ flatten(LinearWeights(*directions)))
    expected = slope_of_spec(
        spec_of_loss(case), list(case.weights), as_tensor([1.0]), directions, 1e-3
    )
    return abs(slope - expected), 1e-11 * size_of(case)


def written_anew(**wrong: Callable[..., Any]) -> Callable[..., Any]:
    """The loop with single pieces replaced: what each part's loss weighs, and what lies between."""

    def variant(objective, rows, trainable, options, generator):
        trainable.gradient_P.zero_()
        size = math.ceil(len(rows) / options.accumulate)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        counts = [objective.counted(part) for part in parts]
        sums = {}
        for number, part in enumerate(parts):
            share = wrong.get("share", lambda counts, n, parts: counts[n] / max(sum(counts), 1))
            weight = share(counts, number, parts)
            terms = objective.terms(part, trainable.weights(options.dtype), generator)
            (terms["loss"] * weight).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * weight
            wrong.get("between", lambda trainable, n, parts: None)(trainable, number, parts)
        if options.l2:
            price = wrong.get("price", lambda λ, parts: 2 * λ)(options.l2, parts)
            trainable.gradient_P.add_(trainable.parameters_P, alpha=price)
            sums["l2"] = options.l2 * float((trainable.parameters_P**2).sum())
            sums["loss"] += sums["l2"]
        return sums

    return variant


ACCUMULATE.mistake(
    parts_do_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
    the_terms_are_means_over_all_that_is_counted,
    rows_of_count_zero_add_nothing,
    source="https://github.com/huggingface/transformers/pull/34191",
    name="mean_of_means",
)(written_anew(share=lambda counts, n, parts: 1 / len(parts)))

ACCUMULATE.mistake(
    parts_do_not_matter,
    it_is_one_backward_pass_of_torch_over_the_whole,
    it_is_the_slope_of_the_mean_loss,
    source="https://github.com/harvardnlp/annotated-transformer/blob/0a91a254735c07532e23733dce8a693e504f3a08/the_annotated_transformer.py",
    name="sum_without_division",
)(written_anew(share=lambda counts, n, parts: 1.0))

ACCUMULATE.mistake(
    it_is_one_backward_pass_of_torch_over_the_whole,
    rows_of_count_zero_add_nothing,
    name="parts_weighed_by_their_rows",
)(written_anew(share=lambda counts, n, parts: len(parts[n]) / sum(map(len, parts))))

ACCUMULATE.mistake(
    counts_have_no_unit,
    it_is_the_slope_of_the_mean_loss,
    name="divided_by_a_count_and_one",
)(written_anew(share=lambda counts, n, parts: counts[n] / (sum(counts) + 1)))

ACCUMULATE.mistake(counting_nothing_leaves_only_the_price, name="nan_where_nothing_counts")(
    written_anew(share=lambda counts, n, parts: counts[n] / (sum(counts) or math.nan))
)


def clear_unless_last(trainable, number, parts):
    if number < len(parts) - 1:
        trainable.gradient_P.zero_()


ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
    source="https://github.com/bytetriper/RAE/issues/67",
    name="gradient_cleared_for_every_part",
)(written_anew(between=clear_unless_last))


def shorten(trainable, number, parts):
    trainable.gradient_P.mul_((1 / trainable.gradient_P.norm()).clamp(max=1))


ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    source="https://github.com/huggingface/transformers/issues/986",
    name="clipped_after_every_part",
)(written_anew(between=shorten))


def step_after_the_first(trainable, number, parts):
    if number == 0:
        trainable.parameters_P.sub_(trainable.gradient_P, alpha=0.01)


ACCUMULATE.mistake(
    the_weights_do_not_move,
    parts_do_not_matter,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/299",
    name="a_step_after_the_first_part",
)(written_anew(between=step_after_the_first))

ACCUMULATE.mistake(
    it_is_one_backward_pass_of_torch_over_the_whole,
    counting_nothing_leaves_only_the_price,
    name="price_without_its_two",
)(written_anew(price=lambda λ, parts: λ))

ACCUMULATE.mistake(parts_do_not_matter, name="price_paid_for_every_part")(
    written_anew(price=lambda λ, parts: 2 * λ * len(parts))
)


@ACCUMULATE.mistake(what_was_left_over_is_forgotten)
def gradient_not_zeroed_before(objective, rows, trainable, options, generator):
    before = trainable.gradient_P.clone()
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    trainable.gradient_P += before
    return sums


@ACCUMULATE.mistake(what_was_left_over_is_forgotten)
def gradient_multiplied_by_zero_before(objective, rows, trainable, options, generator):
    """0 times NaN is NaN: one bad step, and every later one is."""
    before = 0 * trainable.gradient_P
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    trainable.gradient_P += before
    return sums


@ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
)
def first_part_only(objective, rows, trainable, options, generator):
    size = math.ceil(len(rows) / options.accumulate)
    return accumulate_gradient(objective, rows[:size], trainable, options, generator)


@ACCUMULATE.mistake(
    parts_do_not_matter,
    source="https://github.com/harvardnlp/annotated-transformer/blob/0a91a254735c07532e23733dce8a693e504f3a08/the_annotated_transformer.py",
)
def rest_of_the_batch_left_out(objective, rows, trainable, options, generator):
    """Parts of equal size, and what does not fill one is never stepped on."""
    filled = max(1, len(rows) // options.accumulate) * options.accumulate
    return accumulate_gradient(objective, rows[:filled], trainable, options, generator)


@ACCUMULATE.mistake(the_terms_are_means_over_all_that_is_counted)
def loss_of_the_last_part_reported(objective, rows, trainable, options, generator):
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    size = math.ceil(len(rows) / options.accumulate)
    last = rows[(len(rows) - 1) // size * size :]
    terms = objective.terms(last, trainable.weights(options.dtype), generator)
    return sums | {name: float(value.detach()) for name, value in terms.items()}
