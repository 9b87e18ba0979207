"""Laws of `losses`: how far an answer is from the right one."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.functional import log_softmax
from minibert.laws import spec_training as spec
from minibert.laws.functional import at_least_eps32
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    gradients,
    integers,
    normal,
    order_of,
    seed_of,
    slopes,
)
from minibert.losses import (
    cross_entropy,
    kl_divergence,
    l2_penalty,
    mlm_loss,
    nsp_loss,
    smoothed_cross_entropy,
    soft_cross_entropy,
    span_loss,
    sparse_training_loss,
    squared_error,
)

SCALES = (1e-3, 1.0, 30.0)


def some_ignored(labels: Tensor) -> Tensor:
    """Every second label becomes -100, the first one never."""
    flat = labels.reshape(-1)
    return torch.where(torch.arange(len(flat)) % 2 == 1, -100, flat).view(labels.shape)


def smallest(x: Tensor) -> float:
    """The smallest normal number: below it, digits run out."""
    return torch.finfo(x.dtype).tiny


# --------------------------------------------------------------------------------- cross_entropy


class HardCase(NamedTuple):
    logits: Tensor
    labels: Tensor


def hard_case(draw: Draw, scales: tuple[float, ...] = SCALES) -> HardCase:
    rows, classes = draw.choice([1, 2, 7]), draw.choice([1, 2, 3, 11])
    logits = normal(seed_of(draw), rows, classes, scale=draw.choice(scales))
    return HardCase(logits, some_ignored(integers(seed_of(draw), classes, rows)))


def hard_bound(case: HardCase) -> float:
    """x - max and the logarithm of a sum of C terms for each row, then a mean over n rows."""
    classes = case.logits.shape[-1]
    logits, labels = case.logits.double().reshape(-1, classes), case.labels.reshape(-1)
    n = int((labels != -100).sum())
    loss = float(F.cross_entropy(logits, labels, reduction="sum")) / max(n, 1)
    return (4 + classes / 2 + (2 + n / 2) * loss) * at_least_eps32(case.logits)


CROSS_ENTROPY = Proof(cross_entropy, hard_case)


@CROSS_ENTROPY.spec
def it_is_the_mean_surprise_of_the_rows_that_count(formula, case):
    expected = spec.cross_entropy(case.logits.tolist(), case.labels.tolist())
    return abs(float(formula(*case)) - expected), hard_bound(case)


@CROSS_ENTROPY.reference
def it_is_torchs_cross_entropy(formula, case):
    expected = F.cross_entropy(case.logits, case.labels, ignore_index=-100)
    return distance(formula(*case), expected), 2 * hard_bound(case)


@CROSS_ENTROPY.law
def uniform_logits_cost_log_c(formula, case):
    logits = torch.full_like(case.logits, float(case.logits[0, 0]))
    return abs(float(formula(logits, case.labels)) - math.log(logits.shape[1])), 8 * EPS


@CROSS_ENTROPY.law
def a_shift_of_each_row_cancels(formula, case):
    moved = HardCase(case.logits + normal(3, len(case.logits), 1, scale=100), case.labels)
    lost = 2 * EPS * moved.logits.abs().max()
    return distance(formula(*moved), formula(*case)), 2 * hard_bound(case) + lost


@CROSS_ENTROPY.law
def two_classes_are_softplus(formula, case):
    """log(1 + e^gap), even for gaps of 1000."""
    error = 0.0
    for gap in (-1000.0, -30.0, float(case.logits[0, 0]), 1000.0):
        cost = float(formula(as_tensor([[0.0, gap]]), torch.tensor([0])))
        expected = max(gap, 0) + math.log1p(math.exp(-abs(gap)))
        error += abs(cost - expected) / (1 + abs(gap))
    return error, 4 * EPS


@CROSS_ENTROPY.law
def ignored_rows_are_as_if_absent(formula, case):
    counted = case.labels != -100
    louder = torch.where(counted[:, None], case.logits, 1e4 * case.logits)
    alone = formula(case.logits[counted], case.labels[counted])
    return distance(formula(louder, case.labels), alone), 2 * hard_bound(case)


@CROSS_ENTROPY.law
def nothing_to_count_costs_nothing(formula, case):
    labels = torch.full_like(case.labels, -100)
    (slope,) = gradients(lambda x: formula(x, labels), [case.logits], as_tensor(1.0))
    return float(formula(case.logits, labels).abs() + slope.abs().sum()), 0


@CROSS_ENTROPY.law
def repeated_rows_cost_the_same(formula, case):
    twice = HardCase(case.logits.repeat(2, 1), case.labels.repeat(2))
    return distance(formula(*twice), formula(*case)), 2 * hard_bound(twice)


@CROSS_ENTROPY.law
def rows_may_be_reordered(formula, case):
    order = order_of(len(case.labels))
    found = formula(case.logits[order], case.labels[order])
    return distance(found, formula(*case)), 2 * hard_bound(case)


@CROSS_ENTROPY.law
def classes_may_be_renamed(formula, case):
    order = order_of(case.logits.shape[1], 5)
    new_numbers = torch.argsort(order)[case.labels.clamp(min=0)]
    renamed = torch.where(case.labels >= 0, new_numbers, -100)
    error = distance(formula(case.logits[:, order], renamed), formula(*case))
    return error, 2 * hard_bound(case)


@CROSS_ENTROPY.law
def halfway_costs_at_most_the_mean_of_both_ends(formula, case):
    """It is convex, so a straight line down never leads up again."""
    other = HardCase(normal(4, *case.logits.shape, scale=5), case.labels)
    halfway = formula((case.logits + other.logits) / 2, case.labels)
    mean = (formula(*case) + formula(*other)) / 2
    return max(0.0, float(halfway - mean)), 2 * (hard_bound(case) + hard_bound(other))


@CROSS_ENTROPY.gradient(cost=3)
def its_slope_is_that_of_the_mean_surprise(formula, case):
    return slopes(
        lambda x: formula(x, case.labels),
        lambda z: spec.cross_entropy(z, case.labels.tolist()),
        [case.logits],
    )


@CROSS_ENTROPY.gradient
def its_slope_is_p_minus_y(formula, case):
    """u (p - y) / n in the rows that count, 0 in the others; p from torch"""
    upstream = normal(11)
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], upstream)
    counted = case.labels != -100
    one_hot = F.one_hot(case.labels.clamp(min=0), case.logits.shape[1])
    expected = (F.softmax(case.logits, 1) - one_hot) * counted[:, None] / counted.sum()
    return distance(slope, upstream * expected), (16 + 2 * case.logits.shape[1]) * EPS


@CROSS_ENTROPY.gradient
def slopes_of_a_row_cancel(formula, case):
    """What one class gains the others lose."""
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], as_tensor(1.0))
    return slope.sum(1).abs().max(), (16 + 2 * case.logits.shape[1]) * EPS


def impossible_classes(draw: Draw) -> HardCase:
    """-inf for every class above the label, but never for the first two."""
    logits, labels = hard_case(draw)
    ruled_out = torch.arange(logits.shape[1])[None] > labels[:, None].clamp(min=1)
    return HardCase(torch.where(ruled_out, -math.inf, logits), labels)


def equal_logits(draw: Draw) -> HardCase:
    logits, labels = hard_case(draw)
    return HardCase(torch.full_like(logits, draw.choice([0.0, -3.7, 1e4, 1e8])), labels)


def scores_of_1e4(draw: Draw) -> HardCase:
    logits, labels = hard_case(draw, (1.0,))
    return HardCase(1e4 * logits.sign() + logits, labels)


def offset_of_1e4(draw: Draw) -> HardCase:
    logits, labels = hard_case(draw, (1.0,))
    return HardCase(logits + 1e4, labels)


def nothing_counted(draw: Draw) -> HardCase:
    logits, labels = hard_case(draw)
    return HardCase(logits, torch.full_like(labels, -100))


@CROSS_ENTROPY.accuracy(
    {
        "normal": lambda draw: hard_case(draw, (1.0,)),
        "tiny": lambda draw: hard_case(draw, (1e-30,)),
        "large": lambda draw: hard_case(draw, (50.0,)),
        "scores of ±1e4": scores_of_1e4,
        "equal": equal_logits,
        "an offset of 1e4": offset_of_1e4,
        "impossible classes": impossible_classes,
        "nothing to count": nothing_counted,
    },
    torch_twin=F.cross_entropy,
)
def surprise_is_exact_up_to_its_own_size(formula, case):
    expected = spec.cross_entropy(case.logits.double().tolist(), case.labels.tolist())
    return distance(formula(*case), as_tensor(expected)), hard_bound(case)


@CROSS_ENTROPY.mistake(repeated_rows_cost_the_same)
def summed_over_rows(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


@CROSS_ENTROPY.mistake(
    nothing_to_count_costs_nothing,
    source="https://github.com/pytorch/pytorch/issues/70348",
    nan=True,
)
def nan_where_nothing_counts(logits, labels):
    return F.cross_entropy(logits, labels)


@CROSS_ENTROPY.mistake(ignored_rows_are_as_if_absent)
def divided_by_all_rows(logits, labels):
    return summed_over_rows(logits, labels) / len(labels)


@CROSS_ENTROPY.mistake(
    uniform_logits_cost_log_c,
    source="https://github.com/google-research/bert/blob/02102dba5529d74095111e7387a151817a0fdce8/run_pretraining.py",
)
def divided_by_the_count_and_a_bit(logits, labels):
    return summed_over_rows(logits, labels) / ((labels != -100).sum() + 1e-5)


@CROSS_ENTROPY.mistake(uniform_logits_cost_log_c, it_is_torchs_cross_entropy)
def averaged_over_classes(logits, labels):
    return cross_entropy(logits, labels) / logits.shape[1]


@CROSS_ENTROPY.mistake(
    its_slope_is_p_minus_y, its_slope_is_that_of_the_mean_surprise,
    it_is_the_mean_surprise_of_the_rows_that_count,
)
def in_bits(logits, labels):
    return cross_entropy(logits, labels) / math.log(2)


@CROSS_ENTROPY.mistake(two_classes_are_softplus)
def log_of_softmax_and_a_bit(logits, labels):
    return F.nll_loss(torch.log(F.softmax(logits, 1) + 1e-9), labels.clamp(min=0))


@CROSS_ENTROPY.mistake(two_classes_are_softplus, nan=True)
def overflow_of_the_log_of_softmax(logits, labels):
    """The logarithm of a probability that has become 0."""
    return F.nll_loss(torch.log(F.softmax(logits, 1)), labels.clamp(min=0))


@CROSS_ENTROPY.mistake(uniform_logits_cost_log_c, halfway_costs_at_most_the_mean_of_both_ends)
def softmax_without_log(logits, labels):
    return F.nll_loss(F.softmax(logits, 1), labels)


@CROSS_ENTROPY.mistake(
    its_slope_is_p_minus_y, two_classes_are_softplus,
    source="https://github.com/ariecattan/SciCo/issues/2",
)
def softmax_before_the_loss(logits, labels):
    return F.cross_entropy(F.softmax(logits, 1), labels)


@CROSS_ENTROPY.mistake(classes_may_be_renamed)
def label_zero_ignored(logits, labels):
    return F.cross_entropy(logits, labels.clamp(min=0), ignore_index=0)


@CROSS_ENTROPY.mistake(ignored_rows_are_as_if_absent)
def ignored_label_taken_for_class_zero(logits, labels):
    return F.cross_entropy(logits, labels.clamp(min=0))


@CROSS_ENTROPY.mistake(a_shift_of_each_row_cancels, slopes_of_a_row_cancel)
def a_logistic_unit_per_class(logits, labels):
    counted = labels != -100
    one_hot = F.one_hot(labels[counted], logits.shape[1]).double()
    costs = F.binary_cross_entropy_with_logits(logits[counted], one_hot, reduction="none")
    return costs.sum() / counted.sum()


@CROSS_ENTROPY.mistake(two_classes_are_softplus)
def smoothed_labels(logits, labels):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


@CROSS_ENTROPY.mistake(rows_may_be_reordered)
def the_first_row_alone(logits, labels):
    return cross_entropy(logits[:1], labels[:1])


@CROSS_ENTROPY.mistake(
    surprise_is_exact_up_to_its_own_size,
    source="https://github.com/pytorch/pytorch/issues/11752",
)
def logarithm_lost_beside_the_maximum(logits, labels):
    wide, top = logits.float(), logits.float().amax(1)
    total = top + torch.log(torch.exp(wide - top[:, None]).sum(1))
    losses = total - wide.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return losses[labels != -100].mean()


@CROSS_ENTROPY.mistake(surprise_is_exact_up_to_its_own_size)
def rounded_to_the_type_of_the_logits(logits, labels):
    return cross_entropy(logits, labels).bfloat16()


# ------------------------------------------------------------------------ smoothed_cross_entropy


class SmoothedCase(NamedTuple):
    logits: Tensor
    labels: Tensor
    smoothing: float


SMOOTHINGS = (0.0, 0.1, 0.3, 0.9)


def smoothed(hard: HardCase, draw: Draw, smoothings: tuple[float, ...] = SMOOTHINGS):
    return SmoothedCase(*hard, draw.choice(smoothings))


def smoothed_case(draw: Draw, scales: tuple[float, ...] = SCALES) -> SmoothedCase:
    return smoothed(hard_case(draw, scales), draw)


def smoothed_bound(case: SmoothedCase) -> float:
    """Each row has the errors of C logarithms, their mean and a sum of two; then a mean of n."""
    logits, labels, smoothing = case
    classes, n = logits.shape[1], int((labels != -100).sum())
    total = F.cross_entropy(logits.double(), labels, reduction="sum", label_smoothing=smoothing)
    loss = float(total) / max(n, 1)
    return (4 + classes / 2 + (3 + (classes + n) / 2) * loss) * at_least_eps32(logits)


SMOOTHED = Proof(smoothed_cross_entropy, smoothed_case)


@SMOOTHED.spec
def it_is_the_mean_surprise_of_smoothed_targets(formula, case):
    expected = spec.smoothed_cross_entropy(case.logits.tolist(), case.labels.tolist(), case[2])
    return abs(float(formula(*case)) - expected), smoothed_bound(case)


@SMOOTHED.reference
def it_is_torchs_label_smoothing(formula, case):
    expected = F.cross_entropy(case.logits, case.labels, label_smoothing=case.smoothing)
    return distance(formula(*case), expected), 2 * smoothed_bound(case)


@SMOOTHED.law(cases=lambda draw: SmoothedCase(*impossible_classes(draw), 0.0))
def without_smoothing_it_is_cross_entropy(formula, case):
    """Bit for bit, even where a class is impossible: 0 times infinity would be NaN."""
    return differing(formula(*case), cross_entropy(case.logits, case.labels)), 0


@SMOOTHED.law
def it_is_affine_in_the_smoothing(formula, case):
    """f(t ε) = (1 - t) f(0) + t f(ε), ε up to 0.96"""
    logits, labels, _ = case
    far = SmoothedCase(logits, labels, 0.96)
    ends = float(formula(logits, labels, 0.0)), float(formula(*far))
    error = sum(
        abs(float(formula(logits, labels, 0.96 * t)) - (1 - t) * ends[0] - t * ends[1])
        for t in (0.125, 0.5, 0.75)
    )
    return error, 4 * (smoothed_bound(far) + smoothed_bound(far._replace(smoothing=0.0)))


@SMOOTHED.law
def equal_logits_cost_log_c_however_smooth(formula, case):
    logits = torch.full_like(case.logits, float(case.logits[0, 0]))
    cost = float(formula(logits, case.labels, case.smoothing))
    return abs(cost - math.log(logits.shape[1])), (8 + 8 * logits.shape[1]) * EPS


@SMOOTHED.law
def two_classes_are_softplus_less_half_of_what_is_smoothed(formula, case):
    """log(1 + e^gap) - ε gap / 2, even for gaps of 1000: being sure costs more and more."""
    error = 0.0
    for gap in (-1000.0, -30.0, float(case.logits[0, 0]), 1000.0):
        cost = float(formula(as_tensor([[0.0, gap]]), torch.tensor([0]), case.smoothing))
        softplus = max(gap, 0) + math.log1p(math.exp(-abs(gap)))
        error += abs(cost - (softplus - case.smoothing * gap / 2)) / (1 + abs(gap))
    return error, 8 * EPS


@SMOOTHED.law
def no_logits_cost_less_than_the_entropy_of_the_target(formula, case):
    """And the logarithm of the target costs just that."""
    logits, labels, smoothing = case._replace(smoothing=max(case.smoothing, 0.05))
    classes, label = logits.shape[1], labels[:1].clamp(min=0)
    target = (1 - smoothing) * F.one_hot(label, classes).double() + smoothing / classes
    entropy = float(-(target * target.log()).sum())
    least = float(formula(target.log() + 3, label, smoothing))
    short = max(0.0, entropy - float(formula(logits[:1], label, smoothing)))
    return abs(least - entropy) + short, (16 + 4 * classes) * EPS * (1 + entropy)


@SMOOTHED.law
def moving_all_logits_of_a_row_cancels(formula, case):
    moved = case._replace(logits=case.logits + normal(3, len(case.logits), 1, scale=100))
    lost = 4 * EPS * moved.logits.abs().max()
    return distance(formula(*moved), formula(*case)), 2 * smoothed_bound(case) + lost


@SMOOTHED.law
def rows_without_a_label_have_no_part(formula, case):
    counted = case.labels != -100
    louder = torch.where(counted[:, None], case.logits, 1e4 * case.logits)
    alone = formula(case.logits[counted], case.labels[counted], case.smoothing)
    found = formula(louder, case.labels, case.smoothing)
    return distance(found, alone), 2 * smoothed_bound(case)


@SMOOTHED.law
def without_any_label_it_is_zero(formula, case):
    labels = torch.full_like(case.labels, -100)
    (slope,) = gradients(
        lambda x: formula(x, labels, case.smoothing), [case.logits], as_tensor(1.0)
    )
    return float(formula(case.logits, labels, case.smoothing).abs() + slope.abs().sum()), 0


@SMOOTHED.law
def rows_said_twice_cost_the_same(formula, case):
    again = SmoothedCase(case.logits.repeat(2, 1), case.labels.repeat(2), case.smoothing)
    return distance(formula(*again), formula(*case)), 2 * smoothed_bound(again)


@SMOOTHED.law
def rows_have_no_order(formula, case):
    order = order_of(len(case.labels))
    found = formula(case.logits[order], case.labels[order], case.smoothing)
    return distance(found, formula(*case)), 2 * smoothed_bound(case)


@SMOOTHED.law
def no_class_is_special(formula, case):
    order = order_of(case.logits.shape[1], 5)
    new_numbers = torch.argsort(order)[case.labels.clamp(min=0)]
    renamed = torch.where(case.labels >= 0, new_numbers, -100)
    found = formula(case.logits[:, order], renamed, case.smoothing)
    return distance(found, formula(*case)), 2 * smoothed_bound(case)


@SMOOTHED.gradient(cost=3)
def its_slope_is_that_of_smoothed_targets(formula, case):
    return slopes(
        lambda x: formula(x, case.labels, case.smoothing),
        lambda z: spec.smoothed_cross_entropy(z, case.labels.tolist(), case.smoothing),
        [case.logits],
    )


@SMOOTHED.gradient
def its_slope_is_p_minus_the_smoothed_target(formula, case):
    """u (p - q) / n in the rows that count, 0 in the others; p from torch"""
    upstream, classes = normal(11), case.logits.shape[1]
    (slope,) = gradients(
        lambda x: formula(x, case.labels, case.smoothing), [case.logits], upstream
    )
    counted = case.labels != -100
    one_hot = F.one_hot(case.labels.clamp(min=0), classes).double()
    target = (1 - case.smoothing) * one_hot + case.smoothing / classes
    expected = (F.softmax(case.logits, 1) - target) * counted[:, None] / counted.sum()
    return distance(slope, upstream * expected), (16 + 4 * classes) * EPS


@SMOOTHED.accuracy(
    {
        "normal": lambda draw: smoothed_case(draw, (1.0,)),
        "tiny": lambda draw: smoothed_case(draw, (1e-30,)),
        "large": lambda draw: smoothed_case(draw, (50.0,)),
        "scores of ±1e4": lambda draw: smoothed(scores_of_1e4(draw), draw),
        "equal": lambda draw: smoothed(equal_logits(draw), draw),
        "an offset of 1e4": lambda draw: smoothed(offset_of_1e4(draw), draw),
        "impossible classes": lambda draw: smoothed(impossible_classes(draw), draw, (0.0,)),
        "nothing to count": lambda draw: smoothed(nothing_counted(draw), draw),
    },
    torch_twin=lambda logits, labels, smoothing: F.cross_entropy(
        logits, labels, label_smoothing=smoothing
    ),
)
def smoothing_adds_no_error_of_its_own_kind(formula, case):
    given = case.logits.double().tolist(), case.labels.tolist(), case.smoothing
    return distance(formula(*case), as_tensor(spec.smoothed_cross_entropy(*given))), (
        smoothed_bound(case)
    )


def against(target_of, mean_of=None):
    """Cross-entropy against a target that is made from one-hot rows, C and ε."""

    def formula(logits, labels, smoothing):
        counted, classes = labels != -100, logits.shape[1]
        one_hot = F.one_hot(labels.clamp(min=0), classes).to(logits)
        costs = -(target_of(one_hot, classes, smoothing) * F.log_softmax(logits, 1)).sum(1)
        if mean_of:
            return mean_of(costs, counted)
        return torch.where(counted, costs, 0).sum() / counted.sum().clamp(min=1)

    return formula


def right_target(one_hot, classes, smoothing):
    return (1 - smoothing) * one_hot + smoothing / classes


for words, laws, wrong in (
    (  # fairseq's, and that of many tutorials
        "spread_over_the_other_classes",
        (
            two_classes_are_softplus_less_half_of_what_is_smoothed,
            it_is_torchs_label_smoothing,
            its_slope_is_p_minus_the_smoothed_target,
        ),
        against(lambda y, c, ε: (1 - ε) * y + ε / max(c - 1, 1) * (1 - y)),
    ),
    (
        "the_label_does_not_get_its_share",
        (equal_logits_cost_log_c_however_smooth, it_is_the_mean_surprise_of_smoothed_targets),
        against(lambda y, c, ε: (1 - ε) * y + ε / c * (1 - y)),
    ),
    (
        "the_label_keeps_all_it_had",
        (equal_logits_cost_log_c_however_smooth, its_slope_is_that_of_smoothed_targets),
        against(lambda y, c, ε: y + ε / c),
    ),
    (
        "summed_over_the_classes",
        (equal_logits_cost_log_c_however_smooth, it_is_torchs_label_smoothing),
        against(lambda y, c, ε: (1 - ε) * y + ε),
    ),
    (
        "shares_exchanged",
        (without_smoothing_it_is_cross_entropy, it_is_torchs_label_smoothing),
        against(lambda y, c, ε: ε * y + (1 - ε) / c),
    ),
    (
        "half_of_the_smoothing",
        (
            two_classes_are_softplus_less_half_of_what_is_smoothed,
            no_logits_cost_less_than_the_entropy_of_the_target,
        ),
        against(lambda y, c, ε: right_target(y, c, ε / 2)),
    ),
    (
        "smoothing_squared",
        (it_is_affine_in_the_smoothing,),
        against(lambda y, c, ε: right_target(y, c, ε * ε)),
    ),
    (
        "first_class_left_out",
        (no_class_is_special, equal_logits_cost_log_c_however_smooth),
        against(lambda y, c, ε: right_target(y, c, ε) * (torch.arange(c) > 0)),
    ),
    (
        "targets_summed_over_rows",
        (rows_said_twice_cost_the_same,),
        against(right_target, lambda costs, counted: torch.where(counted, costs, 0).sum()),
    ),
    (
        "mean_over_padding_too",
        (rows_without_a_label_have_no_part,),
        against(right_target, lambda costs, counted: torch.where(counted, costs, 0).mean()),
    ),
    (
        "padding_taken_for_the_first_class",
        (rows_without_a_label_have_no_part, without_any_label_it_is_zero),
        against(right_target, lambda costs, counted: costs.mean()),
    ),
    (
        "the_first_row_for_all",
        (rows_have_no_order,),
        against(right_target, lambda costs, counted: costs[0]),
    ),
):
    SMOOTHED.mistake(*laws, name=words)(wrong)


@SMOOTHED.mistake(without_any_label_it_is_zero, rows_without_a_label_have_no_part)
def padding_smoothed_all_the_same(logits, labels, smoothing):
    """The label of padding is ignored, but the share that smoothing gives its classes is not."""
    evenly = -F.log_softmax(logits, 1).mean(1).sum() / (labels != -100).sum().clamp(min=1)
    return (1 - smoothing) * cross_entropy(logits, labels) + smoothing * evenly


@SMOOTHED.mistake(
    it_is_affine_in_the_smoothing, two_classes_are_softplus_less_half_of_what_is_smoothed
)
def logits_smoothed(logits, labels, smoothing):
    return cross_entropy((1 - smoothing) * logits, labels)


@SMOOTHED.mistake(
    it_is_affine_in_the_smoothing, no_logits_cost_less_than_the_entropy_of_the_target
)
def divergence_from_the_target(logits, labels, smoothing):
    """KL instead of cross-entropy: the same gradient, but a minimum of 0."""
    classes = logits.shape[1]
    target = right_target((torch.arange(classes) == 0).to(logits), classes, smoothing)
    entropy = -torch.special.xlogy(target, target).sum() * bool((labels != -100).any())
    return smoothed_cross_entropy(logits, labels, smoothing) - entropy


@SMOOTHED.mistake(
    it_is_torchs_label_smoothing, no_logits_cost_less_than_the_entropy_of_the_target,
    its_slope_is_that_of_smoothed_targets,
)
def entropy_of_the_answer_rewarded(logits, labels, smoothing):
    """The divergence the other way round: the confidence penalty."""
    log_p, counted = F.log_softmax(logits, 1), labels != -100
    entropy = -(log_p.exp() * log_p).sum(1)
    rewarded = torch.where(counted, entropy, 0).sum() / counted.sum().clamp(min=1)
    return cross_entropy(logits, labels) - smoothing * rewarded


@SMOOTHED.mistake(moving_all_logits_of_a_row_cancels)
def a_logistic_unit_for_each_class(logits, labels, smoothing):
    counted, classes = labels != -100, logits.shape[1]
    one_hot = F.one_hot(labels.clamp(min=0), classes).to(logits)
    target = right_target(one_hot, classes, smoothing)
    costs = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
    return torch.where(counted, costs, 0).sum() / counted.sum().clamp(min=1)


@SMOOTHED.mistake(without_any_label_it_is_zero, nan=True)
def no_number_without_a_label(logits, labels, smoothing):
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


@SMOOTHED.mistake(without_smoothing_it_is_cross_entropy, nan=True)
def a_share_of_nothing_of_an_impossible_class(logits, labels, smoothing):
    evenly = -F.log_softmax(logits, 1).mean(1)[labels != -100].mean()
    return (1 - smoothing) * cross_entropy(logits, labels) + smoothing * evenly


@SMOOTHED.mistake(
    its_slope_is_p_minus_the_smoothed_target, its_slope_is_that_of_smoothed_targets
)
def the_even_share_not_trained(logits, labels, smoothing):
    hard = cross_entropy(logits, labels)
    return hard * (1 - smoothing) + (
        smoothed_cross_entropy(logits, labels, smoothing) - hard * (1 - smoothing)
    ).detach()


@SMOOTHED.mistake(smoothing_adds_no_error_of_its_own_kind)
def smoothed_in_half_precision(logits, labels, smoothing):
    return smoothed_cross_entropy(logits, labels, smoothing).bfloat16()


# -------------------------------------------------------------------------------------- mlm_loss


def mlm_case(draw: Draw, scales: tuple[float, ...] = SCALES) -> HardCase:
    """Three sentences of five tokens, eight of fifteen masked, not equally many in each."""
    labels = some_ignored(integers(seed_of(draw), 7, 3, 5))
    return HardCase(normal(seed_of(draw), 3, 5, 7, scale=draw.choice(scales)), labels)


MLM = Proof(mlm_loss, mlm_case)


@MLM.spec
def it_is_the_mean_surprise_of_the_masked_words(formula, case):
    expected = spec.mlm_loss(case.logits.tolist(), case.labels.tolist())
    return abs(float(formula(*case)) - expected), hard_bound(case)


@MLM.reference
def it_is_torchs_cross_entropy_over_words(formula, case):
    expected = F.cross_entropy(case.logits.transpose(1, 2), case.labels)
    return distance(formula(*case), expected), 2 * hard_bound(case)


@MLM.law
def only_masked_tokens_count(formula, case):
    masked = (case.labels != -100)[..., None]
    other = torch.where(masked, case.logits, normal(4, *case.logits.shape, scale=50))
    return distance(formula(other, case.labels), formula(*case)), 0


@MLM.law
def tokens_beyond_cost_nothing(formula, case):
    longer = torch.cat([case.logits, normal(4, 3, 4, 7)], 1)
    labels = torch.cat([case.labels, torch.full((3, 4), -100)], 1)
    return distance(formula(longer, labels), formula(*case)), 2 * hard_bound(case)


@MLM.law
def sentences_may_be_cut_anywhere(formula, case):
    """It is a mean over masked tokens, so it does not matter which sentence they are in."""
    joined = formula(case.logits.view(1, 15, 7), case.labels.view(1, 15))
    return distance(joined, formula(*case)), 2 * hard_bound(case)


@MLM.law
def every_masked_token_weighs_the_same(formula, case):
    """With all logits 0, the gradient is equally large at every masked token."""
    zeros = torch.zeros_like(case.logits)
    (slope,) = gradients(lambda x: formula(x, case.labels), [zeros], as_tensor(1.0))
    sizes = slope.abs().sum(-1)[case.labels != -100]
    return sizes.max() - sizes.min(), 8 * EPS


@MLM.law
def without_a_masked_token_it_is_zero(formula, case):
    return formula(case.logits, torch.full_like(case.labels, -100)).abs(), 0


@MLM.gradient(cost=4)
def its_slope_is_that_of_the_masked_words(formula, case):
    return slopes(
        lambda x: formula(x, case.labels),
        lambda z: spec.mlm_loss(z, case.labels.tolist()),
        [case.logits],
    )


@MLM.gradient
def unmasked_tokens_have_no_slope(formula, case):
    """And a masked one has u (p - y) / n."""
    upstream, masked = normal(11), case.labels != -100
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], upstream)
    one_hot = F.one_hot(case.labels.clamp(min=0), 7)
    expected = (F.softmax(case.logits, -1) - one_hot) * masked[..., None] / masked.sum()
    return distance(slope, upstream * expected), 40 * EPS


@MLM.accuracy(
    {
        "normal": lambda draw: mlm_case(draw, (1.0,)),
        "tiny": lambda draw: mlm_case(draw, (1e-30,)),
        "large": lambda draw: mlm_case(draw, (50.0,)),
        "scores of ±1e4": lambda draw: mlm_case(draw, (1e4,)),
    },
    torch_twin=lambda logits, labels: F.cross_entropy(logits.transpose(1, 2), labels),
)
def masked_words_are_weighed_exactly(formula, case):
    expected = spec.mlm_loss(case.logits.double().tolist(), case.labels.tolist())
    return distance(formula(*case), as_tensor(expected)), hard_bound(case)


@MLM.mistake(
    only_masked_tokens_count, unmasked_tokens_have_no_slope, its_slope_is_that_of_the_masked_words,
    source="https://github.com/graykode/nlp-tutorial/blob/c8dafc6a0e55a856845babbde7a646d8e72a0306/5-2.BERT/BERT.py",
)
def over_all_tokens(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0))


@MLM.mistake(tokens_beyond_cost_nothing, it_is_the_mean_surprise_of_the_masked_words)
def divided_by_the_length(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / labels.numel()


@MLM.mistake(
    sentences_may_be_cut_anywhere,
    source="https://github.com/dhlee347/pytorchic-bert/blob/07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
)
def divided_by_the_largest_count(logits, labels):
    most = int((labels != -100).sum(1).max())
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / (most * len(labels))


@MLM.mistake(sentences_may_be_cut_anywhere, every_masked_token_weighs_the_same)
def mean_of_the_means_of_sentences(logits, labels):
    return torch.stack([cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]).mean()


@MLM.mistake(it_is_torchs_cross_entropy_over_words, masked_words_are_weighed_exactly)
def summed_over_masked(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum")


@MLM.mistake(without_a_masked_token_it_is_zero, nan=True)
def nan_without_a_masked_token(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels)


@MLM.mistake(every_masked_token_weighs_the_same)
def later_words_weigh_more(logits, labels):
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (losses * torch.arange(1, 6)).sum() / (labels != -100).sum()


# -------------------------------------------------------------------------------------- nsp_loss


def nsp_case(draw: Draw, scales: tuple[float, ...] = (1e-3, 1.0)) -> HardCase:
    labels = torch.cat([torch.tensor([0, 1]), integers(seed_of(draw), 2, 5)])
    return HardCase(normal(seed_of(draw), 7, 2, scale=draw.choice(scales)), labels)


NSP = Proof(nsp_loss, nsp_case)


@NSP.spec(cases=lambda draw: nsp_case(draw, SCALES))
def it_is_the_mean_surprise_of_all_pairs(formula, case):
    expected = spec.cross_entropy(case.logits.tolist(), case.labels.tolist())
    return abs(float(formula(*case)) - expected), hard_bound(case)


@NSP.reference(cases=lambda draw: nsp_case(draw, SCALES))
def it_is_torchs_logistic_unit(formula, case):
    """Two classes are one logistic unit, applied to the difference of the logits."""
    gap = case.logits[:, 1] - case.logits[:, 0]
    expected = F.binary_cross_entropy_with_logits(gap, case.labels.double())
    return distance(formula(*case), expected), 2 * hard_bound(case)


@NSP.law
def both_answers_weigh_alike(formula, case):
    error = distance(formula(case.logits.flip(1), 1 - case.labels), formula(*case))
    return error, 2 * hard_bound(case)


@NSP.law
def every_pair_is_learned_from(formula, case):
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], as_tensor(1.0))
    return float((slope == 0).all(1).sum()), 0


@NSP.law
def zero_means_follows(formula, case):
    sure = as_tensor([[1000.0, 0.0], [0.0, 1000.0]])
    return float(formula(sure, torch.tensor([0, 1]))), 0


@NSP.gradient(cost=3)
def its_slope_is_that_of_all_pairs(formula, case):
    return slopes(
        lambda x: formula(x, case.labels),
        lambda z: spec.cross_entropy(z, case.labels.tolist()),
        [case.logits],
    )


@NSP.gradient
def its_slope_is_the_chance_of_being_wrong(formula, case):
    """u (σ(s_1 - s_0) - y) / B for the logit of "random", its negative for the other"""
    upstream, (logits, labels) = normal(11), case
    (slope,) = gradients(lambda x: formula(x, labels), [logits], upstream)
    wrong = upstream * (torch.sigmoid(logits[:, 1] - logits[:, 0]) - labels) / len(labels)
    return distance(slope, torch.stack((-wrong, wrong), 1)), 32 * EPS


@NSP.accuracy(
    {
        "normal": lambda draw: nsp_case(draw, (1.0,)),
        "tiny": lambda draw: nsp_case(draw, (1e-30,)),
        "large": lambda draw: nsp_case(draw, (50.0,)),
        "scores of ±1e4": lambda draw: nsp_case(draw, (1e4,)),
    },
    torch_twin=F.cross_entropy,
)
def pairs_are_weighed_exactly(formula, case):
    expected = spec.cross_entropy(case.logits.double().tolist(), case.labels.tolist())
    return distance(formula(*case), as_tensor(expected)), hard_bound(case)


@NSP.mistake(
    both_answers_weigh_alike, every_pair_is_learned_from,
    source="https://github.com/codertimo/BERT-pytorch/issues/32",
)
def follows_never_learned(logits, labels):
    return F.cross_entropy(logits, labels, ignore_index=0)


@NSP.mistake(
    zero_means_follows, its_slope_is_the_chance_of_being_wrong, its_slope_is_that_of_all_pairs,
    source="https://github.com/dhlee347/pytorchic-bert/blob/07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
)
def labels_the_other_way(logits, labels):
    return nsp_loss(logits, 1 - labels)


@NSP.mistake(
    it_is_the_mean_surprise_of_all_pairs, it_is_torchs_logistic_unit, pairs_are_weighed_exactly
)
def summed_over_pairs(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


@NSP.mistake(both_answers_weigh_alike)
def random_pairs_weigh_double(logits, labels):
    weight = torch.tensor([1.0, 2.0], dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight=weight)


# ------------------------------------------------------------------------------------- span_loss


class SpanCase(NamedTuple):
    start: Tensor
    end: Tensor
    first: Tensor
    last: Tensor


def span_case(draw: Draw, scales: tuple[float, ...] = SCALES) -> SpanCase:
    """Three texts of seven tokens; the answer of the second starts before the cut."""
    start, end = normal(seed_of(draw), 2, 3, 7, scale=draw.choice(scales))
    first, last = integers(seed_of(draw), 7, 2, 3)
    return SpanCase(start, end, torch.where(torch.arange(3) == 1, -100, first), last)


def span_bound(case: SpanCase) -> float:
    ends = HardCase(case.start, case.first), HardCase(case.end, case.last)
    return math.fsum(map(hard_bound, ends)) / 2


SPAN = Proof(span_loss, span_case)


@SPAN.spec
def it_is_the_mean_surprise_of_both_ends(formula, case):
    expected = spec.span_loss(*(part.tolist() for part in case))
    return abs(float(formula(*case)) - expected), span_bound(case)


@SPAN.reference
def it_is_the_mean_of_torchs_losses(formula, case):
    ends = [F.cross_entropy(case.start, case.first), F.cross_entropy(case.end, case.last)]
    return distance(formula(*case), sum(ends) / 2), 2 * span_bound(case)


@SPAN.law
def both_ends_weigh_alike(formula, case):
    swapped = formula(case.end, case.start, case.last, case.first)
    return distance(swapped, formula(*case)), 0


@SPAN.law
def equal_ends_cost_one_of_them(formula, case):
    once = cross_entropy(case.start, case.first)
    return distance(formula(case.start, case.start, case.first, case.first), once), 0


@SPAN.law
def a_cut_answer_is_left_out(formula, case):
    cut = torch.full_like(case.first, -100)
    half = cross_entropy(case.end, case.last) / 2
    return distance(formula(case.start, case.end, cut, case.last), half), 0


@SPAN.law
def tokens_may_be_reordered(formula, case):
    """The loss does not depend on which tokens are neighbours."""
    order = order_of(7)
    places = [
        torch.where(place < 0, place, torch.argsort(order)[place.clamp(min=0)])
        for place in (case.first, case.last)
    ]
    found = formula(case.start[:, order], case.end[:, order], *places)
    return distance(found, formula(*case)), 2 * span_bound(case)


@SPAN.gradient(cost=4)
def its_slope_is_that_of_both_ends(formula, case):
    return slopes(
        lambda a, b: formula(a, b, case.first, case.last),
        lambda a, b: spec.span_loss(a, b, case.first.tolist(), case.last.tolist()),
        [case.start, case.end],
    )


@SPAN.gradient
def each_end_has_half_its_slope(formula, case):
    """u (p - y) / 2n for either end, 0 where the answer was cut off"""
    upstream, error = normal(11), 0.0
    found = gradients(
        lambda a, b: formula(a, b, case.first, case.last), [case.start, case.end], upstream
    )
    ends = (case.start, case.first), (case.end, case.last)
    for slope, (logits, place) in zip(found, ends, strict=True):
        counted = place != -100
        p_minus_y = F.softmax(logits, 1) - F.one_hot(place.clamp(min=0), 7)
        expected = upstream * p_minus_y * counted[:, None] / (2 * counted.sum())
        error += distance(slope, expected)
    return error, 64 * EPS


@SPAN.accuracy(
    {
        "normal": lambda draw: span_case(draw, (1.0,)),
        "tiny": lambda draw: span_case(draw, (1e-30,)),
        "large": lambda draw: span_case(draw, (50.0,)),
        "scores of ±1e4": lambda draw: span_case(draw, (1e4,)),
    },
    torch_twin=lambda start, end, first, last: (
        F.cross_entropy(start, first) + F.cross_entropy(end, last)
    ) / 2,
)
def ends_are_weighed_exactly(formula, case):
    expected = spec.span_loss(*(part.double().tolist() for part in case[:2]),
                              *(part.tolist() for part in case[2:]))
    bound = span_bound(case) + at_least_eps32(case.start) / 2 * expected
    return distance(formula(*case), as_tensor(expected)), bound


@SPAN.mistake(
    equal_ends_cost_one_of_them, it_is_the_mean_surprise_of_both_ends, each_end_has_half_its_slope
)
def ends_added(start, end, first, last):
    return 2 * span_loss(start, end, first, last)


@SPAN.mistake(both_ends_weigh_alike, its_slope_is_that_of_both_ends, ends_are_weighed_exactly)
def start_only(start, end, first, last):
    return cross_entropy(start, first)


@SPAN.mistake(a_cut_answer_is_left_out)
def cut_answer_at_the_last_token(start, end, first, last):
    places = [torch.where(place < 0, start.shape[1] - 1, place) for place in (first, last)]
    return span_loss(start, end, *places)


@SPAN.mistake(a_cut_answer_is_left_out, it_is_the_mean_of_torchs_losses)
def cut_answer_at_the_first_token(start, end, first, last):
    return span_loss(start, end, first.clamp(min=0), last)


@SPAN.mistake(tokens_may_be_reordered)
def one_token_late_is_half_right(start, end, first, last):
    late = [torch.where((place >= 0) & (place < 6), place + 1, place) for place in (first, last)]
    return (span_loss(start, end, first, last) + span_loss(start, end, *late)) / 2


# --------------------------------------------------------------------------------- squared_error


class ErrorCase(NamedTuple):
    predicted: Tensor
    target: Tensor


def error_case(
    draw: Draw, scales: tuple[float, ...] = SCALES, offset: float = 0.0
) -> ErrorCase:
    rows = draw.choice([1, 2, 7])
    return ErrorCase(*normal(seed_of(draw), 2, rows, scale=draw.choice(scales), offset=offset))


def square_bound(case: ErrorCase) -> float:
    """Each difference and each square is right to its last digit; the mean sums B squares."""
    loss = float((case.predicted.double() - case.target.double()).square().mean())
    unit, digits_end = at_least_eps32(case.target), smallest(case.target)
    return (2 + len(case.target) / 2) * unit * loss + digits_end


SQUARED_ERROR = Proof(squared_error, error_case)


@SQUARED_ERROR.spec
def it_is_the_mean_squared_difference(formula, case):
    expected = spec.squared_error(*(part.tolist() for part in case))
    return abs(float(formula(*case)) - expected), square_bound(case)


@SQUARED_ERROR.reference
def it_is_torchs_mse_loss(formula, case):
    return distance(formula(*case), F.mse_loss(*case)), 2 * square_bound(case)


@SQUARED_ERROR.law
def an_offset_d_costs_d_squared(formula, case):
    d = 1.5
    error = abs(float(formula(case.target + d, case.target)) - d * d)
    return error, 16 * EPS * (1 + case.target.abs().max())


@SQUARED_ERROR.law
def it_grows_with_the_square(formula, case):
    found = formula(8 * case.predicted, 8 * case.target)
    return distance(found, 64 * formula(*case)), 0


@SQUARED_ERROR.law
def only_equal_numbers_cost_nothing(formula, case):
    equal = float(formula(case.target, case.target).abs())
    return equal + float(not formula(*case) > 0), 0


@SQUARED_ERROR.law
def either_may_be_the_target(formula, case):
    return differing(formula(*reversed(case)), formula(*case)), 0


@SQUARED_ERROR.law
def it_is_the_variance_and_the_squared_mean_of_the_difference(formula, case):
    gap = case.predicted - case.target
    expected = gap.var(correction=0) + gap.mean() ** 2
    return distance(formula(*case), expected), 4 * square_bound(case)


@SQUARED_ERROR.gradient(cost=2)
def its_slope_is_that_of_the_squared_difference(formula, case):
    return slopes(formula, spec.squared_error, case)


@SQUARED_ERROR.gradient
def its_slope_is_twice_the_difference_over_b(formula, case):
    """And its negative for the target."""
    upstream = normal(7)
    found = gradients(formula, case, upstream)
    expected = upstream * 2 * (case.predicted - case.target) / len(case.target)
    unit = 1 + expected.abs()
    return distance(found[0], expected, unit) + distance(found[1], -expected, unit), 16 * EPS


@SQUARED_ERROR.accuracy(
    {
        "normal": lambda draw: error_case(draw, (1.0,)),
        "tiny": lambda draw: error_case(draw, (1e-15, 1e-25)),
        "large": lambda draw: error_case(draw, (1e15,)),
        "an offset of 1e5": lambda draw: error_case(draw, (1.0,), 1e5),
        "equal": lambda draw: ErrorCase(*[error_case(draw).target] * 2),
    },
    torch_twin=F.mse_loss,
)
def its_digits_survive_any_offset(formula, case):
    expected = spec.squared_error(*(part.double().tolist() for part in case))
    return distance(formula(*case), as_tensor(expected)), square_bound(case)


@SQUARED_ERROR.mistake(
    an_offset_d_costs_d_squared, its_slope_is_twice_the_difference_over_b,
    it_is_the_mean_squared_difference,
)
def halved(predicted, target):
    return F.mse_loss(predicted, target) / 2


@SQUARED_ERROR.mistake(
    it_grows_with_the_square, it_is_torchs_mse_loss, its_slope_is_that_of_the_squared_difference
)
def absolute(predicted, target):
    return F.l1_loss(predicted, target)


@SQUARED_ERROR.mistake(it_grows_with_the_square)
def rooted(predicted, target):
    return torch.sqrt(F.mse_loss(predicted, target))


@SQUARED_ERROR.mistake(only_equal_numbers_cost_nothing)
def all_pairs_compared(predicted, target):
    return (predicted[:, None] - target).square().mean()


@SQUARED_ERROR.mistake(it_is_the_variance_and_the_squared_mean_of_the_difference)
def variance_of_the_difference_alone(predicted, target):
    return (predicted - target).var(correction=0)


@SQUARED_ERROR.mistake(either_may_be_the_target)
def relative_to_the_target(predicted, target):
    return ((predicted - target) / target).square().mean()


@SQUARED_ERROR.mistake(its_digits_survive_any_offset)
def squares_multiplied_out(predicted, target):
    a, b = predicted.float(), target.float()
    return (a * a - 2 * a * b + b * b).mean()


@SQUARED_ERROR.mistake(its_digits_survive_any_offset)
def difference_in_the_type_of_the_model(predicted, target):
    return (predicted - target).square().mean()


# --------------------------------------------------------------------------------- kl_divergence


class SoftCase(NamedTuple):
    teacher: Tensor
    student: Tensor
    temperature: float


def soft_case(
    draw: Draw,
    scales: tuple[float, ...] = SCALES,
    temperatures: tuple[float, ...] = (0.5, 1.0, 3.0, 20.0),
    offset: float = 0.0,
) -> SoftCase:
    shape = draw.choice([1, 3]), draw.choice([2, 3, 11])
    scale = draw.choice(scales)
    teacher, student = normal(seed_of(draw), 2, *shape, scale=scale, offset=offset)
    return SoftCase(teacher, student, draw.choice(temperatures))


def soft_bound(case: SoftCase) -> Tensor:
    """Rounding a logit over T costs |z| eps, which becomes a relative error of p.

    So does the rounding of log p; either is multiplied by log p or log q. Two sums have C terms.
    """
    pair = [x.double() / case.temperature for x in case[:2]]
    log_p, log_q = (F.log_softmax(z, -1) for z in pair)
    p = log_p.exp()
    sizes = p * (1 + log_p.abs()) * (1 + log_p.abs() + log_q.abs())
    size = torch.where(p > 0, sizes, 0).sum(-1)
    finite = [torch.where(z.isfinite(), z, 0).abs().amax(-1) for z in pair]
    largest = torch.maximum(*finite)
    return (7 + p.shape[-1] + largest) * at_least_eps32(case.teacher) * size


def by_rows(formula, case):
    """A spec for one sample, applied to each."""
    rows = zip(case.teacher.tolist(), case.student.tolist(), strict=True)
    return as_tensor([formula(*row, case.temperature) for row in rows])


KL = Proof(kl_divergence, soft_case)
SOFT = Proof(soft_cross_entropy, soft_case)


@KL.spec
def it_is_the_mean_gain_in_log_probability(formula, case):
    return distance(formula(*case), by_rows(spec.kl_divergence, case), soft_bound(case)), 1


@KL.reference
def it_is_torchs_kl_div(formula, case):
    log_p, log_q = (F.log_softmax(x / case.temperature, 1) for x in case[:2])
    expected = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return distance(formula(*case), expected, soft_bound(case)), 2


@KL.law
def equal_distributions_cost_nothing(formula, case):
    """Logits that differ by a constant are the same distribution."""
    moved = case._replace(student=case.teacher + normal(3, len(case.teacher), 1))
    return distance(formula(*moved), torch.zeros(len(case.teacher)), soft_bound(moved)), 2


@KL.law
def it_is_at_least_half_the_squared_distance_of_the_probabilities(formula, case):
    """Pinsker's inequality; so it is never negative, and 0 only where the two agree."""
    p, q = (F.softmax(x / case.temperature, 1) for x in case[:2])
    least = (p - q).abs().sum(1).square() / 2
    return (torch.relu(least - formula(*case)) / soft_bound(case)).max(), 1


@KL.law
def two_classes_have_a_closed_form(formula, case):
    error, t = 0.0, case.temperature
    for a, b in ((0.5, -2.0), (3.0, 3.5), (-1.0, 4.0)):
        p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        found = formula(as_tensor([[0.0, a * t]]), as_tensor([[0.0, b * t]]), t)
        error += abs(float(found) - expected)
    return error, 64 * EPS


@KL.law
def independent_choices_add_up(formula, case):
    """The teacher's and the student's answers to two questions at once: logits a_i + b_j."""
    other = SoftCase(*normal(9, 2, len(case.teacher), 3), case.temperature)

    def joint(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] + b[:, None, :]).flatten(1)

    both = SoftCase(
        joint(case.teacher, other.teacher), joint(case.student, other.student), case.temperature
    )
    return distance(formula(*both), formula(*case) + formula(*other), soft_bound(both)), 2


@KL.law
def merging_classes_hides_differences(formula, case):
    t = case.temperature

    def merged(x: Tensor) -> Tensor:
        both = t * torch.logaddexp(x[:, 0] / t, x[:, 1] / t)
        return torch.cat([both[:, None], x[:, 2:]], 1)

    gain = formula(merged(case.teacher), merged(case.student), t) - formula(*case)
    return (torch.relu(gain) / soft_bound(case)).max(), 2


@KL.law
@SOFT.law
def temperature_is_a_scale_of_both_logits(formula, case):
    scaled = formula(4 * case.teacher, 4 * case.student, 4 * case.temperature)
    return distance(scaled, formula(*case)), 0


@KL.law
@SOFT.law
def an_impossible_class_adds_nothing(formula, case):
    """0 log 0 = 0 for a class that the teacher rules out, whatever the student says."""
    teacher, student = (F.pad(x, (0, 1), value=-math.inf) for x in case[:2])
    found = formula(teacher, student, case.temperature)
    return distance(found, formula(*case), soft_bound(case)), 2


@KL.law
@SOFT.law
def samples_are_independent(formula, case):
    rows = [
        formula(case.teacher[i : i + 1], case.student[i : i + 1], case.temperature)
        for i in range(len(case.teacher))
    ]
    return distance(torch.cat(rows), formula(*case), soft_bound(case)), 1


@KL.law
@SOFT.law
def classes_of_both_may_be_reordered(formula, case):
    order = order_of(case.teacher.shape[1])
    found = formula(case.teacher[:, order], case.student[:, order], case.temperature)
    return distance(found, formula(*case), soft_bound(case)), 1


@KL.gradient(cost=3)
def its_slope_is_that_of_the_gain(formula, case):
    return slopes(
        lambda x: formula(case.teacher, x, case.temperature),
        lambda z: by_rows(spec.kl_divergence, case._replace(student=as_tensor(z))).tolist(),
        [case.student],
    )


@KL.gradient
@SOFT.gradient
def its_slope_is_q_minus_p_and_the_teacher_has_none(formula, case):
    """u (q - p) / T, with p and q from torch"""
    upstream = normal(7, len(case.teacher))
    to_teacher, to_student = gradients(
        lambda *pair: formula(*pair, case.temperature), case[:2], upstream
    )
    p, q = (F.softmax(x / case.temperature, 1) for x in case[:2])
    expected = upstream[:, None] * (q - p) / case.temperature
    unit = soft_bound(case)[:, None] * (1 + upstream.abs()[:, None] / case.temperature)
    return distance(to_student, expected, unit) + 2 * differing(to_teacher, 0 * case.teacher), 1


def scores_of_1e4_on_both_sides(draw: Draw) -> SoftCase:
    teacher, student, temperature = soft_case(draw, (1.0,))
    teacher, student = (1e4 * x.sign() + x for x in (teacher, student))
    return SoftCase(teacher, student, temperature)


def ruled_out_classes(draw: Draw) -> SoftCase:
    teacher, student, temperature = soft_case(draw, (1.0,))
    teacher, student = (F.pad(x, (0, 2), value=-math.inf) for x in (teacher, student))
    return SoftCase(teacher, student, temperature)


def equal_sides(draw: Draw) -> SoftCase:
    teacher, _, temperature = soft_case(draw)
    return SoftCase(teacher, teacher, temperature)


SOFT_FAMILIES = {
    "normal": lambda draw: soft_case(draw, (1.0,)),
    "tiny": lambda draw: soft_case(draw, (1e-30,)),
    "large": lambda draw: soft_case(draw, (50.0,)),
    "scores of ±1e4": scores_of_1e4_on_both_sides,
    "an offset of 1e4": lambda draw: soft_case(draw, (1.0,), offset=1e4),
    "hot": lambda draw: soft_case(draw, (1.0,), (1e4, 1e6)),
    "cold": lambda draw: soft_case(draw, (1.0,), (1e-2, 1e-3)),
    "classes ruled out": ruled_out_classes,
    "equal": equal_sides,
}


def torchs_kl(teacher, student, t):
    log_p, log_q = F.log_softmax(teacher / t, 1), F.log_softmax(student / t, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


@KL.accuracy(SOFT_FAMILIES, torch_twin=torchs_kl)
def the_gain_is_exact_up_to_the_size_of_its_terms(formula, case):
    wide = SoftCase(case.teacher.double(), case.student.double(), case.temperature)
    expected = by_rows(spec.kl_divergence, wide)
    return distance(formula(*case), expected, soft_bound(case)), 1


@KL.mistake(
    two_classes_have_a_closed_form, its_slope_is_that_of_the_gain,
    source="https://github.com/paiml/aprender/pull/2153",
)
def from_student_to_teacher(teacher, student, t):
    log_p, log_q = log_softmax(teacher.detach() / t), log_softmax(student / t)
    return (log_q.exp() * (log_q - log_p)).sum(1)


@KL.mistake(
    it_is_the_mean_gain_in_log_probability, it_is_torchs_kl_div,
    source="https://github.com/pytorch/pytorch/issues/57459",
)
def arguments_of_kl_div_swapped(teacher, student, t):
    log_p, q = F.log_softmax(teacher.detach() / t, 1), F.softmax(student / t, 1)
    return F.kl_div(log_p, q, reduction="none").sum(1)


@KL.mistake(two_classes_have_a_closed_form, independent_choices_add_up)
def kl_averaged_over_classes(teacher, student, t):
    return kl_divergence(teacher, student, t) / teacher.shape[1]


@KL.mistake(
    two_classes_have_a_closed_form,
    it_is_at_least_half_the_squared_distance_of_the_probabilities,
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.kl_div.html",
)
def kl_averaged_over_everything(teacher, student, t):
    """F.kl_div with its default reduction, given to each sample."""
    log_q, p = F.log_softmax(student / t, 1), F.softmax(teacher.detach() / t, 1)
    return F.kl_div(log_q, p, reduction="none").mean().expand(len(teacher))


@KL.mistake(samples_are_independent)
def kl_averaged_over_the_batch(teacher, student, t):
    """F.kl_div with reduction="batchmean", given to each sample."""
    return kl_divergence(teacher, student, t).mean().expand(len(teacher))


@KL.mistake(temperature_is_a_scale_of_both_logits)
def kl_times_temperature_squared(teacher, student, t):
    return kl_divergence(teacher, student, t) * t * t


@KL.mistake(temperature_is_a_scale_of_both_logits, equal_distributions_cost_nothing)
def kl_with_temperature_on_the_student_only(teacher, student, t):
    return kl_divergence(teacher * t, student, t)


@KL.mistake(
    its_slope_is_q_minus_p_and_the_teacher_has_none,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/66",
)
def teacher_compared_with_itself(teacher, student, t):
    return kl_divergence(teacher, teacher + 0 * student, t)


@KL.mistake(its_slope_is_q_minus_p_and_the_teacher_has_none)
def kl_with_a_teacher_that_learns(teacher, student, t):
    return torchs_kl(teacher, student, t)


@KL.mistake(an_impossible_class_adds_nothing, nan=True)
def zero_times_infinity_in_the_gain(teacher, student, t):
    p, q = F.softmax(teacher.detach() / t, 1), F.softmax(student / t, 1)
    return (p * (torch.log(p) - torch.log(q))).sum(1)


@KL.mistake(it_is_at_least_half_the_squared_distance_of_the_probabilities)
def all_classes_weighted_alike(teacher, student, t):
    return (F.log_softmax(teacher.detach() / t, 1) - F.log_softmax(student / t, 1)).mean(1)


@KL.mistake(two_classes_have_a_closed_form, merging_classes_hides_differences)
def squared_difference_of_probabilities(teacher, student, t):
    return (F.softmax(teacher.detach() / t, 1) - F.softmax(student / t, 1)).square().sum(1)


@KL.mistake(classes_of_both_may_be_reordered)
def the_first_class_forgotten(teacher, student, t):
    return kl_divergence(teacher[:, 1:], student[:, 1:], t)


@KL.mistake(the_gain_is_exact_up_to_the_size_of_its_terms)
def kl_in_the_type_of_the_model(teacher, student, t):
    log_p, log_q = F.log_softmax(teacher / t, 1), F.log_softmax(student / t, 1)
    return torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0).sum(1)


# ---------------------------------------------------------------------------- soft_cross_entropy


def entropy(teacher: Tensor, temperature: float) -> Tensor:
    return torch.distributions.Categorical(logits=teacher / temperature).entropy()


@SOFT.spec
def it_is_the_mean_surprise_of_the_teachers_choices(formula, case):
    return distance(formula(*case), by_rows(spec.soft_cross_entropy, case), soft_bound(case)), 1


@SOFT.reference
def it_is_torchs_cross_entropy_with_probabilities(formula, case):
    p = F.softmax(case.teacher / case.temperature, 1)
    expected = F.cross_entropy(case.student / case.temperature, p, reduction="none")
    return distance(formula(*case), expected, soft_bound(case)), 2


@SOFT.law
def equal_logits_cost_the_entropy(formula, case):
    same = case._replace(student=case.teacher)
    expected = entropy(case.teacher, case.temperature)
    return distance(formula(*same), expected, soft_bound(same)), 2


@SOFT.law
def nothing_costs_less_than_the_entropy(formula, case):
    """Gibbs' inequality."""
    gain = entropy(case.teacher, case.temperature) - formula(*case)
    return (torch.relu(gain) / soft_bound(case)).max(), 2


@SOFT.law
def it_is_the_divergence_and_the_entropy(formula, case):
    expected = kl_divergence(*case) + entropy(case.teacher, case.temperature)
    return distance(formula(*case), expected, soft_bound(case)), 3


@SOFT.law
def a_sure_teacher_is_a_label(formula, case):
    labels, t = case.teacher.argmax(1), case.temperature
    sure = 1e4 * t * F.one_hot(labels, case.teacher.shape[1]).double()
    expected = F.cross_entropy(case.student / t, labels, reduction="none")
    size = 8 + case.student.shape[1] + (case.student / t).abs().amax(1) + expected
    return distance(formula(sure, case.student, t), expected, size), 2 * EPS


@SOFT.law
def uniform_logits_of_both_cost_log_c(formula, case):
    zeros = torch.zeros_like(case.teacher)
    expected = math.log(zeros.shape[1])
    return float((formula(zeros, zeros, case.temperature) - expected).abs().max()), 8 * EPS


@SOFT.law
def a_shift_of_either_side_cancels(formula, case):
    moved = case._replace(teacher=case.teacher + 5.0, student=case.student - 11.0)
    return distance(formula(*moved), formula(*case), soft_bound(moved)), 2


@SOFT.law
def hot_slopes_compare_centred_logits(formula, case):
    """T² times the slope tends to u (s - t) / C, both centred: Hinton et al. 2015, section 2.1."""
    hot = 1e6 * float(torch.stack(case[:2]).abs().max())
    upstream = normal(7, len(case.teacher))
    (slope,) = gradients(lambda x: formula(case.teacher, x, hot), [case.student], upstream)
    teacher, student = (x - x.mean(1, keepdim=True) for x in case[:2])
    expected = upstream[:, None] * (student - teacher) / teacher.shape[1]
    return distance(hot * hot * slope, expected, expected.abs().max()), 1e-5


@SOFT.law
def a_mixture_of_teachers_costs_the_mixture(formula, case):
    """It is linear in the teacher's probabilities, so two teachers averaged cost the average."""
    t, other = case.temperature, normal(6, *case.teacher.shape)
    log_p, log_r = F.log_softmax(case.teacher / t, 1), F.log_softmax(other / t, 1)
    mixed = t * (torch.logaddexp(log_p, log_r) - math.log(2))
    found = formula(mixed, case.student, t)
    expected = (formula(*case) + formula(other, case.student, t)) / 2
    unit = soft_bound(case) + soft_bound(SoftCase(other, case.student, t))
    return distance(found, expected, unit), 2


@SOFT.gradient(cost=3)
def its_slope_is_that_of_the_teachers_choices(formula, case):
    return slopes(
        lambda x: formula(case.teacher, x, case.temperature),
        lambda z: by_rows(spec.soft_cross_entropy, case._replace(student=as_tensor(z))).tolist(),
        [case.student],
    )


def torchs_soft_cross_entropy(teacher, student, t):
    return F.cross_entropy(student / t, F.softmax(teacher / t, 1), reduction="none")


@SOFT.accuracy(SOFT_FAMILIES, torch_twin=torchs_soft_cross_entropy)
def choices_are_exact_up_to_the_size_of_their_terms(formula, case):
    wide = SoftCase(case.teacher.double(), case.student.double(), case.temperature)
    expected = by_rows(spec.soft_cross_entropy, wide)
    return distance(formula(*case), expected, soft_bound(case)), 1


@SOFT.mistake(
    uniform_logits_of_both_cost_log_c, equal_logits_cost_the_entropy,
    its_slope_is_that_of_the_teachers_choices,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/issues/176",
)
def mean_over_batch_and_classes(teacher, student, t):
    """The mean over everything, here written as a loss per sample."""
    return soft_cross_entropy(teacher, student, t) / teacher.shape[1]


@SOFT.mistake(
    it_is_the_divergence_and_the_entropy, a_mixture_of_teachers_costs_the_mixture,
    it_is_torchs_cross_entropy_with_probabilities,
)
def teacher_and_student_swapped(teacher, student, t):
    return soft_cross_entropy(student, teacher, t)


@SOFT.mistake(equal_logits_cost_the_entropy, temperature_is_a_scale_of_both_logits)
def temperature_on_the_student_only(teacher, student, t):
    return soft_cross_entropy(teacher * t, student, t)


@SOFT.mistake(a_sure_teacher_is_a_label, it_is_the_mean_surprise_of_the_teachers_choices)
def temperature_on_the_teacher_only(teacher, student, t):
    return soft_cross_entropy(teacher, student * t, t)


@SOFT.mistake(hot_slopes_compare_centred_logits, temperature_is_a_scale_of_both_logits)
def temperature_forgotten(teacher, student, t):
    return soft_cross_entropy(teacher, student)


@SOFT.mistake(temperature_is_a_scale_of_both_logits)
def multiplied_by_the_temperature(teacher, student, t):
    return soft_cross_entropy(teacher, student, t) * t


@SOFT.mistake(uniform_logits_of_both_cost_log_c, hot_slopes_compare_centred_logits)
def multiplied_by_its_square(teacher, student, t):
    return soft_cross_entropy(teacher, student, t) * t * t


@SOFT.mistake(equal_logits_cost_the_entropy, nothing_costs_less_than_the_entropy)
def divergence_instead(teacher, student, t):
    return kl_divergence(teacher, student, t)


@SOFT.mistake(its_slope_is_q_minus_p_and_the_teacher_has_none)
def teacher_not_detached(teacher, student, t):
    return -(F.softmax(teacher / t, 1) * F.log_softmax(student / t, 1)).sum(1)


@SOFT.mistake(a_shift_of_either_side_cancels)
def a_soft_logistic_unit_per_class(teacher, student, t):
    p = torch.sigmoid(teacher.detach() / t)
    return F.binary_cross_entropy_with_logits(student / t, p, reduction="none").sum(1)


@SOFT.mistake(hot_slopes_compare_centred_logits)
def hard_labels_of_the_teacher(teacher, student, t):
    return F.cross_entropy(student / t, teacher.argmax(1), reduction="none")


@SOFT.mistake(samples_are_independent)
def averaged_over_the_batch(teacher, student, t):
    return soft_cross_entropy(teacher, student, t).mean().expand(len(teacher))


@SOFT.mistake(an_impossible_class_adds_nothing, nan=True)
def zero_times_infinity(teacher, student, t):
    return -(F.softmax(teacher.detach() / t, 1) * F.log_softmax(student / t, 1)).sum(1)


@SOFT.mistake(classes_of_both_may_be_reordered)
def the_last_class_forgotten(teacher, student, t):
    return soft_cross_entropy(teacher[:, :-1], student[:, :-1], t)


@SOFT.mistake(choices_are_exact_up_to_the_size_of_their_terms)
def choices_in_the_type_of_the_model(teacher, student, t):
    p, log_q = F.softmax(teacher / t, 1), F.log_softmax(student / t, 1)
    return -torch.where(p > 0, p * log_q, 0).sum(1)


def at_full_scale(teacher, student, t):
    """With the factor T² of Hinton et al. 2015, to be added to a loss on hard labels."""
    return t * t * soft_cross_entropy(teacher, student, t)


AT_FULL_SCALE = Proof(
    at_full_scale, soft_case, of=(soft_cross_entropy,), name="soft_cross_entropy_at_full_scale"
)


@AT_FULL_SCALE.law
def heat_does_not_weaken_its_slope(formula, case):
    """From T to 2T, both hot, the slope stays the same."""
    hot = 1e6 * float(torch.stack(case[:2]).abs().max())
    upstream = normal(7, len(case.teacher))
    once, twice = (
        gradients(lambda x, t=t: formula(case.teacher, x, t), [case.student], upstream)[0]
        for t in (hot, 2 * hot)
    )
    return distance(twice, once, once.abs().max()), 1e-5


@AT_FULL_SCALE.mistake(
    heat_does_not_weaken_its_slope, source="https://github.com/keras-team/keras-io/issues/869"
)
def square_of_the_temperature_missing(teacher, student, t):
    return soft_cross_entropy(teacher, student, t)


@AT_FULL_SCALE.mistake(heat_does_not_weaken_its_slope)
def temperature_not_squared(teacher, student, t):
    return t * soft_cross_entropy(teacher, student, t)


# ------------------------------------------------------------------------------------ l2_penalty


class PenaltyCase(NamedTuple):
    parameters: Tensor
    strength: float


def penalty_case(draw: Draw, scale: float = 1.0) -> PenaltyCase:
    return PenaltyCase(normal(seed_of(draw), 3, 7, scale=scale), draw.choice([0.01, 0.3, 2.0]))


def penalty_bound(case: PenaltyCase) -> float:
    """P squares, their sum, and the price itself: each right to its last digit."""
    penalty = case.strength * float(case.parameters.double().square().sum())
    roundings = 2 + case.parameters.numel() / 2
    return roundings * at_least_eps32(case.parameters) * penalty + smallest(case.parameters)


L2 = Proof(l2_penalty, penalty_case)


@L2.spec
def it_is_the_sum_of_squares(formula, case):
    expected = spec.l2_penalty(case.parameters.flatten().tolist(), case.strength)
    return abs(float(formula(*case)) - expected), penalty_bound(case)


@L2.reference
def it_is_torchs_norm_squared(formula, case):
    expected = case.strength * torch.linalg.vector_norm(case.parameters) ** 2
    return distance(formula(*case), expected), 2 * penalty_bound(case)


@L2.law
def parts_add_up(formula, case):
    parts = [formula(row, case.strength) for row in case.parameters]
    return distance(sum(parts), formula(*case)), 2 * penalty_bound(case)


@L2.law
def a_rotation_changes_no_price(formula, case):
    turn, _ = torch.linalg.qr(normal(5, 7, 7))
    found = formula(case.parameters @ turn, case.strength)
    return distance(found, formula(*case)), 4 * penalty_bound(case)


@L2.law
def descent_shrinks_in_proportion_and_never_to_zero(formula, case):
    """θ (1 - 2 η λ)^t after t steps: this is why L2 prunes nothing."""
    parameters, rate = case.parameters, 0.1
    for _ in range(10):
        (slope,) = gradients(lambda x: formula(x, case.strength), [parameters], as_tensor(1.0))
        parameters = parameters - rate * slope
    expected = case.parameters * (1 - 2 * rate * case.strength) ** 10
    zeros = float((parameters == 0).sum())
    return distance(parameters, expected, expected.abs()) + zeros, 80 * EPS


@L2.gradient(cost=2)
def its_slope_is_that_of_the_sum_of_squares(formula, case):
    return slopes(
        lambda x: formula(x, case.strength),
        lambda rows: spec.l2_penalty([x for row in rows for x in row], case.strength),
        [case.parameters],
    )


@L2.gradient
def its_slope_is_2_lambda_theta(formula, case):
    upstream = normal(3)
    (slope,) = gradients(lambda x: formula(x, case.strength), [case.parameters], upstream)
    expected = 2 * case.strength * upstream * case.parameters
    return distance(slope, expected, expected.abs()), 4 * EPS


@L2.accuracy(
    {
        "normal": penalty_case,
        "tiny": lambda draw: penalty_case(draw, 1e-15),
        "beyond the smallest square": lambda draw: penalty_case(draw, 1e-25),
        "large": lambda draw: penalty_case(draw, 1e15),
    },
    torch_twin=lambda x, strength: strength * torch.linalg.vector_norm(x) ** 2,
)
def the_price_keeps_its_digits(formula, case):
    expected = spec.l2_penalty(case.parameters.double().flatten().tolist(), case.strength)
    return distance(formula(*case), as_tensor(expected)), penalty_bound(case)


@L2.mistake(
    its_slope_is_2_lambda_theta, it_is_the_sum_of_squares, its_slope_is_that_of_the_sum_of_squares
)
def half_of_it(parameters, strength):
    return strength / 2 * parameters.square().sum()


@L2.mistake(parts_add_up, it_is_torchs_norm_squared)
def norm_not_squared(parameters, strength):
    return strength * torch.linalg.vector_norm(parameters)


@L2.mistake(parts_add_up)
def mean_instead_of_sum(parameters, strength):
    return strength * parameters.square().mean()


@L2.mistake(descent_shrinks_in_proportion_and_never_to_zero, a_rotation_changes_no_price)
def absolute_values(parameters, strength):
    return strength * parameters.abs().sum()


@L2.mistake(the_price_keeps_its_digits)
def squares_in_half_precision(parameters, strength):
    return strength * parameters.bfloat16().square().sum()


# -------------------------------------------------------------------------- sparse_training_loss


class SparseCase(NamedTuple):
    losses: Tensor
    parameters: Tensor
    strength: float


def sparse_case(draw: Draw, scales: tuple[float, ...] = (1.0,)) -> SparseCase:
    losses = normal(seed_of(draw), 5, scale=draw.choice(scales)).abs()
    parameters = normal(seed_of(draw), 7, scale=draw.choice(scales))
    return SparseCase(losses, parameters, draw.choice([0.01, 0.3, 2.0]))


def sparse_bound(case: SparseCase) -> float:
    """Two sums of non-negative terms, and the sum of both."""
    losses = float(case.losses.double().sum())
    total = losses + case.strength * float(case.parameters.double().square().sum())
    roundings = 3 + max(len(case.losses), len(case.parameters)) / 2
    return roundings * at_least_eps32(case.losses) * total + smallest(case.losses)


SPARSE = Proof(sparse_training_loss, sparse_case)


@SPARSE.spec
def it_is_the_sum_of_losses_and_the_price(formula, case):
    lists = case.losses.tolist(), case.parameters.tolist()
    expected = spec.sparse_training_loss(*lists, case.strength)
    return abs(float(formula(*case)) - expected), sparse_bound(case)


@SPARSE.reference
def it_is_torchs_sum_and_norm(formula, case):
    price = case.strength * torch.linalg.vector_norm(case.parameters) ** 2
    return distance(formula(*case), torch.sum(case.losses) + price), 2 * sparse_bound(case)


@SPARSE.law
def the_batch_may_be_cut_into_parts(formula, case):
    """Σ_i L_i is a plain sum; the price of the weights is paid once, not per part."""
    parts = formula(case.losses[:2], *case[1:]) + formula(case.losses[2:], *case[1:])
    once = formula(torch.zeros(1, dtype=torch.float64), *case[1:])
    return distance(parts - once, formula(*case)), 4 * sparse_bound(case)


@SPARSE.law
def without_a_price_it_is_the_sum(formula, case):
    found = formula(case.losses, case.parameters, 0.0)
    return distance(found, case.losses.sum()), sparse_bound(case._replace(strength=0.0))


@SPARSE.law
def without_samples_it_is_the_price(formula, case):
    return differing(formula(case.losses[:0], *case[1:]), l2_penalty(*case[1:])), 0


@SPARSE.gradient
def every_sample_weighs_one(formula, case):
    """u for each sample, and u 2 λ θ for every weight."""
    upstream = normal(3)
    found = gradients(lambda *parts: formula(*parts, case.strength), case[:2], upstream)
    expected = 2 * case.strength * upstream * case.parameters
    error = differing(found[0], upstream.expand_as(found[0]))
    return error + distance(found[1], expected, expected.abs()), 4 * EPS


@SPARSE.gradient(cost=2)
def its_slope_is_that_of_losses_and_price(formula, case):
    return slopes(
        lambda losses, x: formula(losses, x, case.strength),
        lambda losses, x: spec.sparse_training_loss(losses, x, case.strength),
        [case.losses, case.parameters],
    )


@SPARSE.accuracy(
    {
        "normal": sparse_case,
        "tiny": lambda draw: sparse_case(draw, (1e-15,)),
        "large": lambda draw: sparse_case(draw, (1e10,)),
        "unlike sizes": lambda draw: sparse_case(draw, (1e-10, 1.0, 1e10)),
    },
    torch_twin=lambda losses, x, strength: (
        losses.sum() + strength * torch.linalg.vector_norm(x) ** 2
    ),
)
def the_sum_keeps_its_digits(formula, case):
    lists = [part.double().tolist() for part in case[:2]]
    expected = spec.sparse_training_loss(*lists, case.strength)
    return distance(formula(*case), as_tensor(expected)), sparse_bound(case)


@SPARSE.mistake(
    the_batch_may_be_cut_into_parts, without_a_price_it_is_the_sum,
    its_slope_is_that_of_losses_and_price, it_is_torchs_sum_and_norm,
)
def mean_over_samples(losses, parameters, strength):
    return losses.mean() + l2_penalty(parameters, strength)


@SPARSE.mistake(
    the_batch_may_be_cut_into_parts, without_samples_it_is_the_price,
    it_is_the_sum_of_losses_and_the_price,
)
def price_per_sample(losses, parameters, strength):
    return (losses + l2_penalty(parameters, strength)).sum()


@SPARSE.mistake(every_sample_weighs_one)
def weakened_samples(losses, parameters, strength):
    return (1 - strength) * losses.sum() + l2_penalty(parameters, strength)


@SPARSE.mistake(the_sum_keeps_its_digits)
def losses_added_in_half_precision(losses, parameters, strength):
    return losses.bfloat16().sum() + l2_penalty(parameters, strength)
