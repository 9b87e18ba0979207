"""The losses, each proven five ways: spec, reference, laws, gradient, mistakes."""

import math
from typing import NamedTuple

import pytest
import spec_training as spec
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proof import (
    EPS,
    as_tensor,
    check,
    check_slope,
    differing,
    distance,
    fewer,
    gradients,
    holds,
    normal,
    rejects,
    seeds,
)
from torch import Tensor

from minibert.losses import (
    cross_entropy,
    kl_divergence,
    l2_penalty,
    mlm_loss,
    nsp_loss,
    soft_cross_entropy,
    span_loss,
    sparse_training_loss,
    squared_error,
)

SCALES = [1e-3, 1.0, 30.0]
TEMPERATURES = [0.5, 1.0, 3.0, 20.0]


def choices(seed: int, high: int, *shape: int) -> Tensor:
    """Whole numbers from 0 to high - 1."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def some_ignored(labels: Tensor) -> Tensor:
    """Every second label becomes -100, the first one never."""
    flat = labels.reshape(-1)
    return torch.where(torch.arange(len(flat)) % 2 == 1, -100, flat).view(labels.shape)


# ------------------------------------------------------------------------------ cross_entropy


class HardCase(NamedTuple):
    logits: Tensor
    labels: Tensor


def hard_case(seed: int, rows: int = 5, classes: int = 3, scale: float = 1.0) -> HardCase:
    logits = normal(seed, rows, classes, scale=scale)
    return HardCase(logits, some_ignored(choices(seed + 1, classes, rows)))


def hard_bound(logits: Tensor) -> float:
    """log Σ exp of C terms, then a mean of M rows; each rounding is relative to the largest one."""
    return (logits.shape[-1] + logits.numel() + 8) * EPS * (1 + float(logits.abs().max()))


hard_cases = st.builds(
    hard_case, seeds, st.sampled_from([1, 2, 7]), st.sampled_from([1, 2, 3, 11]),
    st.sampled_from(SCALES),
)


@given(case=hard_cases)
def test_cross_entropy_is_its_spec(case):
    expected = spec.cross_entropy(case.logits.tolist(), case.labels.tolist())
    error = abs(float(cross_entropy(*case)) - expected)
    check(error, hard_bound(case.logits), "cross_entropy and its spec")


@given(case=hard_cases)
def test_cross_entropy_is_the_reference(case):
    expected = F.cross_entropy(case.logits, case.labels, ignore_index=-100)
    bound = hard_bound(case.logits)
    check(distance(cross_entropy(*case), expected), bound, "cross_entropy and F.cross_entropy")


def uniform_logits_cost_log_c(formula, case):
    logits = torch.full_like(case.logits, float(case.logits[0, 0]))
    return abs(float(formula(logits, case.labels)) - math.log(logits.shape[1])), 8 * EPS


def a_shift_of_each_row_cancels(formula, case):
    moved = case.logits + normal(3, len(case.logits), 1, scale=100)
    error = distance(formula(moved, case.labels), formula(*case))
    return error, hard_bound(case.logits) + hard_bound(moved)


def two_classes_are_softplus(formula, case):
    error = 0.0
    for gap in (-1000.0, -30.0, float(case.logits[0, 0]), 1000.0):
        cost = float(formula(as_tensor([[0.0, gap]]), torch.tensor([0])))
        expected = max(gap, 0) + math.log1p(math.exp(-abs(gap)))
        error += abs(cost - expected) / (1 + abs(gap))
    return error, 4 * EPS


def ignored_rows_are_as_if_absent(formula, case):
    counted = case.labels != -100
    louder = torch.where(counted[:, None], case.logits, 1e4 * case.logits)
    alone = formula(case.logits[counted], case.labels[counted])
    return distance(formula(louder, case.labels), alone), 2 * hard_bound(case.logits)


def nothing_to_count_costs_nothing(formula, case):
    labels = torch.full_like(case.labels, -100)
    (slope,) = gradients(lambda x: formula(x, labels), [case.logits], as_tensor(1.0))
    return float(formula(case.logits, labels).abs() + slope.abs().sum()), 0


def repeated_rows_cost_the_same(formula, case):
    twice = formula(case.logits.repeat(2, 1), case.labels.repeat(2))
    return distance(twice, formula(*case)), 3 * hard_bound(case.logits)


def classes_may_be_renamed(formula, case):
    order = torch.randperm(case.logits.shape[1], generator=torch.Generator().manual_seed(5))
    new_numbers = torch.argsort(order)[case.labels.clamp(min=0)]
    renamed = torch.where(case.labels >= 0, new_numbers, -100)
    error = distance(formula(case.logits[:, order], renamed), formula(*case))
    return error, 2 * hard_bound(case.logits)


def its_slope_is_p_minus_y(formula, case):
    upstream = normal(11)
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], upstream)
    counted = case.labels != -100
    one_hot = F.one_hot(case.labels.clamp(min=0), case.logits.shape[1])
    expected = (F.softmax(case.logits, 1) - one_hot) * counted[:, None] / counted.sum()
    return distance(slope, upstream * expected), 2 * hard_bound(case.logits)


CROSS_ENTROPY_LAWS = [
    uniform_logits_cost_log_c,
    a_shift_of_each_row_cancels,
    two_classes_are_softplus,
    ignored_rows_are_as_if_absent,
    nothing_to_count_costs_nothing,
    repeated_rows_cost_the_same,
    classes_may_be_renamed,
    its_slope_is_p_minus_y,
]


@pytest.mark.parametrize("law", CROSS_ENTROPY_LAWS)
@given(case=hard_cases)
def test_cross_entropy_law(law, case):
    holds(law, cross_entropy, case)


def summed_over_rows(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def divided_by_all_rows(logits, labels):
    return summed_over_rows(logits, labels) / len(labels)


def divided_by_the_count_and_a_bit(logits, labels):
    """google-research/bert, run_pretraining.py: numerator / (denominator + 1e-5)."""
    return summed_over_rows(logits, labels) / ((labels != -100).sum() + 1e-5)


def averaged_over_classes(logits, labels):
    return cross_entropy(logits, labels) / logits.shape[1]


def in_bits(logits, labels):
    return cross_entropy(logits, labels) / math.log(2)


def log_of_softmax(logits, labels):
    return F.nll_loss(torch.log(F.softmax(logits, 1)), labels.clamp(min=0))


def softmax_without_log(logits, labels):
    return F.nll_loss(F.softmax(logits, 1), labels)


def label_zero_ignored(logits, labels):
    return F.cross_entropy(logits, labels.clamp(min=0), ignore_index=0)


def ignored_label_taken_for_class_zero(logits, labels):
    return F.cross_entropy(logits, labels.clamp(min=0))


def a_logistic_unit_per_class(logits, labels):
    counted = labels != -100
    one_hot = F.one_hot(labels[counted], logits.shape[1]).double()
    costs = F.binary_cross_entropy_with_logits(logits[counted], one_hot, reduction="none")
    return costs.sum() / counted.sum()


def smoothed_labels(logits, labels):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (summed_over_rows, repeated_rows_cost_the_same),
        (divided_by_all_rows, ignored_rows_are_as_if_absent),
        (divided_by_the_count_and_a_bit, uniform_logits_cost_log_c),
        (averaged_over_classes, uniform_logits_cost_log_c),
        (in_bits, its_slope_is_p_minus_y),
        (log_of_softmax, two_classes_are_softplus),
        (softmax_without_log, uniform_logits_cost_log_c),
        (label_zero_ignored, classes_may_be_renamed),
        (ignored_label_taken_for_class_zero, ignored_rows_are_as_if_absent),
        (a_logistic_unit_per_class, a_shift_of_each_row_cancels),
        (smoothed_labels, two_classes_are_softplus),
        (F.cross_entropy, nothing_to_count_costs_nothing),
    ],
)
def test_cross_entropy_rejects(mistake, law):
    rejects(law, mistake, cross_entropy, [hard_case(seed) for seed in range(5)])


@fewer(4)
@given(case=hard_cases, seed=seeds)
def test_cross_entropy_gradient(case, seed):
    labels = case.labels
    check_slope(
        lambda x: cross_entropy(x, labels),
        lambda z: spec.cross_entropy(z, labels.tolist()),
        [case.logits],
        seed,
    )


@pytest.mark.parametrize("bad", [-1, 3, 7])
def test_cross_entropy_refuses_labels_without_a_class(bad):
    with pytest.raises(ValueError, match=r"labels run from .* but must be -100 or 0 to 2"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, bad]))


# ----------------------------------------------------------------------------------- mlm_loss


def mlm_case(seed: int, scale: float = 1.0) -> HardCase:
    """Three sentences of five tokens, eight of fifteen masked, unequally many in each."""
    labels = some_ignored(choices(seed + 1, 7, 3, 5))
    return HardCase(normal(seed, 3, 5, 7, scale=scale), labels)


mlm_cases = st.builds(mlm_case, seeds, st.sampled_from(SCALES))


@given(case=mlm_cases)
def test_mlm_loss_is_its_spec(case):
    expected = spec.mlm_loss(case.logits.tolist(), case.labels.tolist())
    check(abs(float(mlm_loss(*case)) - expected), hard_bound(case.logits), "mlm_loss and its spec")


@given(case=mlm_cases)
def test_mlm_loss_is_the_reference(case):
    expected = F.cross_entropy(case.logits.transpose(1, 2), case.labels)
    check(distance(mlm_loss(*case), expected), hard_bound(case.logits), "mlm_loss and torch")


def only_masked_tokens_count(formula, case):
    masked = (case.labels != -100)[..., None]
    other = torch.where(masked, case.logits, normal(4, *case.logits.shape, scale=50))
    return distance(formula(other, case.labels), formula(*case)), 0


def tokens_beyond_cost_nothing(formula, case):
    longer = torch.cat([case.logits, normal(4, 3, 4, 7)], 1)
    labels = torch.cat([case.labels, torch.full((3, 4), -100)], 1)
    return distance(formula(longer, labels), formula(*case)), 2 * hard_bound(case.logits)


def sentences_may_be_cut_anywhere(formula, case):
    joined = formula(case.logits.view(1, 15, 7), case.labels.view(1, 15))
    return distance(joined, formula(*case)), 2 * hard_bound(case.logits)


MLM_LAWS = [only_masked_tokens_count, tokens_beyond_cost_nothing, sentences_may_be_cut_anywhere]


@pytest.mark.parametrize("law", MLM_LAWS)
@given(case=mlm_cases)
def test_mlm_loss_law(law, case):
    holds(law, mlm_loss, case)


def over_all_tokens(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels.clamp(min=0))


def divided_by_the_length(logits, labels):
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / labels.numel()


def divided_by_the_largest_count(logits, labels):
    """pytorchic-bert: the mean over max_pred places, filled or not."""
    most = int((labels != -100).sum(1).max())
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="sum") / (most * len(labels))


def mean_of_the_means_of_sentences(logits, labels):
    return torch.stack([cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]).mean()


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (over_all_tokens, only_masked_tokens_count),
        (divided_by_the_length, tokens_beyond_cost_nothing),
        (divided_by_the_largest_count, sentences_may_be_cut_anywhere),
        (mean_of_the_means_of_sentences, sentences_may_be_cut_anywhere),
    ],
)
def test_mlm_loss_rejects(mistake, law):
    rejects(law, mistake, mlm_loss, [mlm_case(seed) for seed in range(5)])


@fewer(4)
@given(seed=seeds)
def test_mlm_loss_gradient(seed):
    logits, labels = mlm_case(seed)
    check_slope(
        lambda x: mlm_loss(x, labels), lambda z: spec.mlm_loss(z, labels.tolist()), [logits], seed
    )


# ----------------------------------------------------------------------------------- nsp_loss


def nsp_case(seed: int, scale: float = 1.0) -> HardCase:
    labels = torch.cat([torch.tensor([0, 1]), choices(seed + 1, 2, 5)])
    return HardCase(normal(seed, 7, 2, scale=scale), labels)


nsp_cases = st.builds(nsp_case, seeds, st.sampled_from(SCALES))


@given(case=nsp_cases)
def test_nsp_loss_is_its_spec(case):
    expected = spec.cross_entropy(case.logits.tolist(), case.labels.tolist())
    check(abs(float(nsp_loss(*case)) - expected), hard_bound(case.logits), "nsp_loss and its spec")


@given(case=nsp_cases)
def test_nsp_loss_is_the_reference(case):
    """Two classes are one logistic unit: the difference of the logits."""
    gap = case.logits[:, 1] - case.logits[:, 0]
    expected = F.binary_cross_entropy_with_logits(gap, case.labels.double())
    check(distance(nsp_loss(*case), expected), 2 * hard_bound(case.logits), "nsp_loss and torch")


def both_answers_weigh_alike(formula, case):
    error = distance(formula(case.logits.flip(1), 1 - case.labels), formula(*case))
    return error, hard_bound(case.logits)


def every_pair_is_learned_from(formula, case):
    (slope,) = gradients(lambda x: formula(x, case.labels), [case.logits], as_tensor(1.0))
    return float((slope == 0).all(1).sum()), 0


def zero_means_follows(formula, case):
    sure = as_tensor([[1000.0, 0.0], [0.0, 1000.0]])
    return float(formula(sure, torch.tensor([0, 1]))), 0


NSP_LAWS = [both_answers_weigh_alike, every_pair_is_learned_from, zero_means_follows]


@pytest.mark.parametrize("law", NSP_LAWS)
@given(case=st.builds(nsp_case, seeds, st.sampled_from([1e-3, 1.0])))
def test_nsp_loss_law(law, case):
    holds(law, nsp_loss, case)


def follows_never_learned(logits, labels):
    """codertimo/BERT-pytorch issue 32: one NLLLoss(ignore_index=0) for both tasks."""
    return F.cross_entropy(logits, labels, ignore_index=0)


def labels_the_other_way(logits, labels):
    return nsp_loss(logits, 1 - labels)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (follows_never_learned, both_answers_weigh_alike),
        (follows_never_learned, every_pair_is_learned_from),
        (labels_the_other_way, zero_means_follows),
    ],
)
def test_nsp_loss_rejects(mistake, law):
    rejects(law, mistake, nsp_loss, [nsp_case(seed) for seed in range(5)])


@fewer(4)
@given(seed=seeds)
def test_nsp_loss_gradient(seed):
    logits, labels = nsp_case(seed)
    check_slope(
        lambda x: nsp_loss(x, labels),
        lambda z: spec.cross_entropy(z, labels.tolist()),
        [logits],
        seed,
    )


# ---------------------------------------------------------------------------------- span_loss


class SpanCase(NamedTuple):
    start: Tensor
    end: Tensor
    first: Tensor
    last: Tensor


def span_case(seed: int, scale: float = 1.0) -> SpanCase:
    """Three texts of seven tokens; the answer of the second starts before the cut."""
    start, end = normal(seed, 2, 3, 7, scale=scale)
    first, last = choices(seed + 1, 7, 2, 3)
    return SpanCase(start, end, torch.where(torch.arange(3) == 1, -100, first), last)


span_cases = st.builds(span_case, seeds, st.sampled_from(SCALES))


@given(case=span_cases)
def test_span_loss_is_its_spec(case):
    expected = spec.span_loss(*(part.tolist() for part in case))
    bound = hard_bound(case.start) + hard_bound(case.end)
    check(abs(float(span_loss(*case)) - expected), bound, "span_loss and its spec")


@given(case=span_cases)
def test_span_loss_is_the_reference(case):
    ends = [F.cross_entropy(case.start, case.first), F.cross_entropy(case.end, case.last)]
    bound = hard_bound(case.start) + hard_bound(case.end)
    check(distance(span_loss(*case), sum(ends) / 2), bound, "span_loss and torch")


def both_ends_weigh_alike(formula, case):
    swapped = formula(case.end, case.start, case.last, case.first)
    return distance(swapped, formula(*case)), hard_bound(case.start)


def equal_ends_cost_one_of_them(formula, case):
    once = cross_entropy(case.start, case.first)
    both = formula(case.start, case.start, case.first, case.first)
    return distance(both, once), hard_bound(case.start)


def a_cut_answer_is_left_out(formula, case):
    cut = torch.full_like(case.first, -100)
    half = cross_entropy(case.end, case.last) / 2
    return distance(formula(case.start, case.end, cut, case.last), half), hard_bound(case.end)


SPAN_LAWS = [both_ends_weigh_alike, equal_ends_cost_one_of_them, a_cut_answer_is_left_out]


@pytest.mark.parametrize("law", SPAN_LAWS)
@given(case=span_cases)
def test_span_loss_law(law, case):
    holds(law, span_loss, case)


def ends_added(start, end, first, last):
    return 2 * span_loss(start, end, first, last)


def start_only(start, end, first, last):
    return cross_entropy(start, first)


def cut_answer_at_the_last_token(start, end, first, last):
    places = [torch.where(place < 0, start.shape[1] - 1, place) for place in (first, last)]
    return span_loss(start, end, *places)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (ends_added, equal_ends_cost_one_of_them),
        (start_only, both_ends_weigh_alike),
        (cut_answer_at_the_last_token, a_cut_answer_is_left_out),
    ],
)
def test_span_loss_rejects(mistake, law):
    rejects(law, mistake, span_loss, [span_case(seed) for seed in range(5)])


@fewer(4)
@given(seed=seeds)
def test_span_loss_gradient(seed):
    start, end, first, last = span_case(seed)
    check_slope(
        lambda a, b: span_loss(a, b, first, last),
        lambda a, b: spec.span_loss(a, b, first.tolist(), last.tolist()),
        [start, end],
        seed,
    )


# ------------------------------------------------------------------------------ squared_error


class ErrorCase(NamedTuple):
    predicted: Tensor
    target: Tensor


def error_case(seed: int, rows: int = 5, scale: float = 1.0) -> ErrorCase:
    return ErrorCase(*normal(seed, 2, rows, scale=scale))


def square_bound(case: ErrorCase) -> float:
    return (len(case.target) + 8) * EPS * 4 * float(torch.stack(case).square().max())


error_cases = st.builds(error_case, seeds, st.sampled_from([1, 2, 7]), st.sampled_from(SCALES))


@given(case=error_cases)
def test_squared_error_is_its_spec(case):
    expected = spec.squared_error(*(part.tolist() for part in case))
    error = abs(float(squared_error(*case)) - expected)
    check(error, square_bound(case), "squared_error and its spec")


@given(case=error_cases)
def test_squared_error_is_the_reference(case):
    error = distance(squared_error(*case), F.mse_loss(*case))
    check(error, square_bound(case), "squared_error and F.mse_loss")


def an_offset_d_costs_d_squared(formula, case):
    d = 1.5
    return abs(float(formula(case.target + d, case.target)) - d * d), 16 * EPS * (
        1 + float(case.target.abs().max())
    )


def it_grows_with_the_square(formula, case):
    found = formula(8 * case.predicted, 8 * case.target)
    return distance(found, 64 * formula(*case)), 0


def only_equal_numbers_cost_nothing(formula, case):
    equal = float(formula(case.target, case.target).abs())
    return equal + float(not formula(*case) > 0), 0


SQUARED_ERROR_LAWS = [
    an_offset_d_costs_d_squared,
    it_grows_with_the_square,
    only_equal_numbers_cost_nothing,
]


@pytest.mark.parametrize("law", SQUARED_ERROR_LAWS)
@given(case=error_cases)
def test_squared_error_law(law, case):
    holds(law, squared_error, case)


def halved(predicted, target):
    return F.mse_loss(predicted, target) / 2


def absolute(predicted, target):
    return F.l1_loss(predicted, target)


def rooted(predicted, target):
    return torch.sqrt(F.mse_loss(predicted, target))


def all_pairs_compared(predicted, target):
    return (predicted[:, None] - target).square().mean()


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (halved, an_offset_d_costs_d_squared),
        (absolute, it_grows_with_the_square),
        (rooted, it_grows_with_the_square),
        (all_pairs_compared, only_equal_numbers_cost_nothing),
    ],
)
def test_squared_error_rejects(mistake, law):
    rejects(law, mistake, squared_error, [error_case(seed) for seed in range(5)])


@fewer(4)
@given(case=error_cases, seed=seeds)
def test_squared_error_gradient(case, seed):
    check_slope(squared_error, spec.squared_error, case, seed)
    upstream = normal(seed)
    slope, _ = gradients(squared_error, case, upstream)
    expected = upstream * 2 * (case.predicted - case.target) / len(case.target)
    check(distance(slope, expected, 1 + expected.abs()), 8 * EPS, "2 (predicted - target) / B")


def test_squared_error_refuses_to_broadcast():
    with pytest.raises(ValueError, match=r"shapes \[3, 1\] and \[3\] differ"):
        squared_error(torch.zeros(3, 1), torch.zeros(3))


# ------------------------------------------------------------------------------ kl_divergence


class SoftCase(NamedTuple):
    teacher: Tensor
    student: Tensor
    temperature: float


def soft_case(
    seed: int, rows: int = 3, classes: int = 5, scale: float = 1.0, temperature: float = 3.0
) -> SoftCase:
    return SoftCase(*normal(seed, 2, rows, classes, scale=scale), temperature)


def soft_bound(case: SoftCase) -> float:
    """As for `hard_bound`, with the logits divided by the temperature."""
    largest = float(torch.stack(case[:2]).abs().max()) / case.temperature
    return 4 * (case.teacher.shape[1] + 8) * EPS * (1 + largest)


soft_cases = st.builds(
    soft_case, seeds, st.sampled_from([1, 3]), st.sampled_from([2, 3, 11]),
    st.sampled_from(SCALES), st.sampled_from(TEMPERATURES),
)


def by_rows(formula, case: SoftCase) -> Tensor:
    rows = zip(case.teacher.tolist(), case.student.tolist(), strict=True)
    return as_tensor([formula(*row, case.temperature) for row in rows])


@given(case=soft_cases)
def test_kl_divergence_is_its_spec(case):
    expected = by_rows(spec.kl_divergence, case)
    check(distance(kl_divergence(*case), expected), soft_bound(case), "kl_divergence and its spec")


@given(case=soft_cases)
def test_kl_divergence_is_the_reference(case):
    log_p, log_q = (F.log_softmax(x / case.temperature, 1) for x in case[:2])
    expected = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    check(distance(kl_divergence(*case), expected), soft_bound(case), "kl_divergence and F.kl_div")


def equal_distributions_cost_nothing(formula, case):
    moved = case.teacher + normal(3, len(case.teacher), 1)
    return float(formula(case.teacher, moved, case.temperature).abs().max()), 2 * soft_bound(case)


def it_is_never_negative(formula, case):
    return max(0.0, -float(formula(*case).min())), soft_bound(case)


def two_classes_have_a_closed_form(formula, case):
    error = 0.0
    for a, b in ((0.5, -2.0), (3.0, 3.5), (-1.0, 4.0)):
        p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        t = case.temperature
        found = formula(as_tensor([[0.0, a * t]]), as_tensor([[0.0, b * t]]), t)
        error += abs(float(found) - expected)
    return error, 64 * EPS


def independent_choices_add_up(formula, case):
    """The teacher's and the student's answers to two questions at once: logits a_i + b_j."""
    other = SoftCase(*normal(9, 2, len(case.teacher), 3), case.temperature)

    def joint(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] + b[:, None, :]).flatten(1)

    both = formula(
        joint(case.teacher, other.teacher), joint(case.student, other.student), case.temperature
    )
    return distance(both, formula(*case) + formula(*other)), 4 * (
        soft_bound(case) + soft_bound(other)
    )


def merging_classes_hides_differences(formula, case):
    t = case.temperature

    def merged(x: Tensor) -> Tensor:
        both = t * torch.logaddexp(x[:, 0] / t, x[:, 1] / t)
        return torch.cat([both[:, None], x[:, 2:]], 1)

    gain = formula(merged(case.teacher), merged(case.student), t) - formula(*case)
    return max(0.0, float(gain.max())), 2 * soft_bound(case)


def temperature_is_a_scale_of_both_logits(formula, case):
    scaled = formula(4 * case.teacher, 4 * case.student, 4 * case.temperature)
    return distance(scaled, formula(*case)), 0


def an_impossible_class_adds_nothing(formula, case):
    """0 log 0 = 0: a class that the teacher rules out, whatever the student says of it."""

    def with_class(x: Tensor, logit: float) -> Tensor:
        return torch.cat([x, torch.full((len(x), 1), logit, dtype=x.dtype)], 1)

    teacher, t = with_class(case.teacher, -math.inf), case.temperature
    found = formula(teacher, with_class(case.student, -math.inf), t)
    return distance(found, formula(*case)), 2 * soft_bound(case)


def its_slope_is_q_minus_p_and_the_teacher_has_none(formula, case):
    upstream = normal(7, len(case.teacher))
    leaves = [x.clone().requires_grad_() for x in case[:2]]
    value = formula(*leaves, case.temperature)
    to_teacher, to_student = torch.autograd.grad(value, leaves, upstream, allow_unused=True)
    p, q = (F.softmax(x / case.temperature, 1) for x in case[:2])
    expected = upstream[:, None] * (q - p) / case.temperature
    leaked = 0.0 if to_teacher is None else float(to_teacher.abs().max())
    return distance(to_student, expected) + leaked, soft_bound(case) * (
        1 + float(upstream.abs().max()) / case.temperature
    )


def samples_are_independent(formula, case):
    rows = [
        formula(case.teacher[i : i + 1], case.student[i : i + 1], case.temperature)
        for i in range(len(case.teacher))
    ]
    return distance(torch.cat(rows), formula(*case)), soft_bound(case)


KL_LAWS = [
    equal_distributions_cost_nothing,
    it_is_never_negative,
    two_classes_have_a_closed_form,
    independent_choices_add_up,
    merging_classes_hides_differences,
    temperature_is_a_scale_of_both_logits,
    an_impossible_class_adds_nothing,
    its_slope_is_q_minus_p_and_the_teacher_has_none,
    samples_are_independent,
]


@pytest.mark.parametrize("law", KL_LAWS)
@given(case=soft_cases)
def test_kl_divergence_law(law, case):
    holds(law, kl_divergence, case)


@given(case=st.builds(soft_case, seeds))
def test_kl_divergence_of_different_distributions_is_positive(case):
    assert (kl_divergence(*case) > 1e-6).all()


def from_student_to_teacher(teacher, student, t):
    return kl_divergence(student.detach(), student + teacher - teacher, t) + kl_divergence(
        student, teacher, t
    )


def kl_averaged_over_classes(teacher, student, t):
    return kl_divergence(teacher, student, t) / teacher.shape[1]


def kl_averaged_over_the_batch(teacher, student, t):
    """F.kl_div with reduction="batchmean", spread again over the samples."""
    return kl_divergence(teacher, student, t).mean().expand(len(teacher))


def kl_times_temperature_squared(teacher, student, t):
    return kl_divergence(teacher, student, t) * t * t


def kl_with_temperature_on_the_student_only(teacher, student, t):
    return kl_divergence(teacher * t, student, t)


def kl_with_a_teacher_that_learns(teacher, student, t):
    log_p, log_q = F.log_softmax(teacher / t, 1), F.log_softmax(student / t, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def kl_of_plain_logarithms(teacher, student, t):
    p, q = F.softmax(teacher.detach() / t, 1), F.softmax(student / t, 1)
    return (p * (torch.log(p) - torch.log(q))).sum(1)


def all_classes_weighted_alike(teacher, student, t):
    return (F.log_softmax(teacher.detach() / t, 1) - F.log_softmax(student / t, 1)).mean(1)


def squared_difference_of_probabilities(teacher, student, t):
    return (F.softmax(teacher.detach() / t, 1) - F.softmax(student / t, 1)).square().sum(1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (from_student_to_teacher, two_classes_have_a_closed_form),
        (kl_averaged_over_classes, two_classes_have_a_closed_form),
        (kl_averaged_over_classes, independent_choices_add_up),
        (kl_averaged_over_the_batch, samples_are_independent),
        (kl_times_temperature_squared, temperature_is_a_scale_of_both_logits),
        (kl_with_temperature_on_the_student_only, temperature_is_a_scale_of_both_logits),
        (kl_with_temperature_on_the_student_only, equal_distributions_cost_nothing),
        (kl_with_a_teacher_that_learns, its_slope_is_q_minus_p_and_the_teacher_has_none),
        (kl_of_plain_logarithms, an_impossible_class_adds_nothing),
        (all_classes_weighted_alike, it_is_never_negative),
        (squared_difference_of_probabilities, two_classes_have_a_closed_form),
        (squared_difference_of_probabilities, merging_classes_hides_differences),
    ],
)
def test_kl_divergence_rejects(mistake, law):
    rejects(law, mistake, kl_divergence, [soft_case(seed) for seed in range(5)])


@fewer(4)
@given(case=soft_cases, seed=seeds)
def test_kl_divergence_gradient(case, seed):
    check_slope(
        lambda x: kl_divergence(case.teacher, x, case.temperature),
        lambda z: by_rows(
            spec.kl_divergence, SoftCase(case.teacher, as_tensor(z), case.temperature)
        ).tolist(),
        [case.student],
        seed,
    )


# ------------------------------------------------------------------------- soft_cross_entropy


def entropy(teacher: Tensor, temperature: float) -> Tensor:
    return torch.distributions.Categorical(logits=teacher / temperature).entropy()


@given(case=soft_cases)
def test_soft_cross_entropy_is_its_spec(case):
    error = distance(soft_cross_entropy(*case), by_rows(spec.soft_cross_entropy, case))
    check(error, soft_bound(case), "soft_cross_entropy and its spec")


@given(case=soft_cases)
def test_soft_cross_entropy_is_the_reference(case):
    p = F.softmax(case.teacher / case.temperature, 1)
    expected = F.cross_entropy(case.student / case.temperature, p, reduction="none")
    check(distance(soft_cross_entropy(*case), expected), soft_bound(case), "and F.cross_entropy")


def equal_logits_cost_the_entropy(formula, case):
    found = formula(case.teacher, case.teacher, case.temperature)
    return distance(found, entropy(case.teacher, case.temperature)), 2 * soft_bound(case)


def nothing_costs_less_than_the_entropy(formula, case):
    gain = entropy(case.teacher, case.temperature) - formula(*case)
    return max(0.0, float(gain.max())), 2 * soft_bound(case)


def it_is_the_divergence_and_the_entropy(formula, case):
    expected = kl_divergence(*case) + entropy(case.teacher, case.temperature)
    return distance(formula(*case), expected), 3 * soft_bound(case)


def a_sure_teacher_is_a_label(formula, case):
    labels = case.teacher.argmax(1)
    sure = 1e4 * case.temperature * F.one_hot(labels, case.teacher.shape[1]).double()
    expected = F.cross_entropy(case.student / case.temperature, labels, reduction="none")
    return distance(formula(sure, case.student, case.temperature), expected), soft_bound(case)


def uniform_logits_of_both_cost_log_c(formula, case):
    zeros = torch.zeros_like(case.teacher)
    expected = math.log(zeros.shape[1])
    return float((formula(zeros, zeros, case.temperature) - expected).abs().max()), 8 * EPS


def a_shift_of_either_side_cancels(formula, case):
    moved = formula(case.teacher + 5.0, case.student - 11.0, case.temperature)
    return distance(moved, formula(*case)), 8 * soft_bound(case) + 64 * EPS / case.temperature


def hot_slopes_compare_centred_logits(formula, case):
    """T² times the slope tends to (s - t) / C, both centred: Hinton et al. 2015, equation 4."""
    hot = 1e6 * float(torch.stack(case[:2]).abs().max())
    ones = torch.ones(len(case.teacher), dtype=torch.float64)
    (slope,) = gradients(lambda x: formula(case.teacher, x, hot), [case.student], ones)
    teacher, student = (x - x.mean(1, keepdim=True) for x in case[:2])
    expected = (student - teacher) / teacher.shape[1]
    return distance(hot * hot * slope, expected, expected.abs().max()), 1e-5


SOFT_CROSS_ENTROPY_LAWS = [
    equal_logits_cost_the_entropy,
    nothing_costs_less_than_the_entropy,
    it_is_the_divergence_and_the_entropy,
    a_sure_teacher_is_a_label,
    uniform_logits_of_both_cost_log_c,
    a_shift_of_either_side_cancels,
    temperature_is_a_scale_of_both_logits,
    an_impossible_class_adds_nothing,
    hot_slopes_compare_centred_logits,
    its_slope_is_q_minus_p_and_the_teacher_has_none,
    samples_are_independent,
]


@pytest.mark.parametrize("law", SOFT_CROSS_ENTROPY_LAWS)
@given(case=soft_cases)
def test_soft_cross_entropy_law(law, case):
    holds(law, soft_cross_entropy, case)


def mean_over_batch_and_classes(teacher, student, t):
    """TinyBERT's code: the mean over everything, here given back to each sample."""
    return soft_cross_entropy(teacher, student, t) / teacher.shape[1]


def teacher_and_student_swapped(teacher, student, t):
    return soft_cross_entropy(student, teacher, t)


def temperature_on_the_student_only(teacher, student, t):
    return soft_cross_entropy(teacher * t, student, t)


def temperature_on_the_teacher_only(teacher, student, t):
    return soft_cross_entropy(teacher, student * t, t)


def multiplied_by_the_temperature(teacher, student, t):
    return soft_cross_entropy(teacher, student, t) * t


def multiplied_by_its_square(teacher, student, t):
    return soft_cross_entropy(teacher, student, t) * t * t


def divergence_instead(teacher, student, t):
    return kl_divergence(teacher, student, t)


def teacher_not_detached(teacher, student, t):
    return -(F.softmax(teacher / t, 1) * F.log_softmax(student / t, 1)).sum(1)


def a_soft_logistic_unit_per_class(teacher, student, t):
    p = torch.sigmoid(teacher.detach() / t)
    return F.binary_cross_entropy_with_logits(student / t, p, reduction="none").sum(1)


def hard_labels_of_the_teacher(teacher, student, t):
    return F.cross_entropy(student / t, teacher.argmax(1), reduction="none")


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (mean_over_batch_and_classes, uniform_logits_of_both_cost_log_c),
        (mean_over_batch_and_classes, equal_logits_cost_the_entropy),
        (teacher_and_student_swapped, it_is_the_divergence_and_the_entropy),
        (temperature_on_the_student_only, equal_logits_cost_the_entropy),
        (temperature_on_the_teacher_only, a_sure_teacher_is_a_label),
        (multiplied_by_the_temperature, temperature_is_a_scale_of_both_logits),
        (multiplied_by_its_square, uniform_logits_of_both_cost_log_c),
        (divergence_instead, equal_logits_cost_the_entropy),
        (teacher_not_detached, its_slope_is_q_minus_p_and_the_teacher_has_none),
        (divergence_instead, nothing_costs_less_than_the_entropy),
        (a_soft_logistic_unit_per_class, a_shift_of_either_side_cancels),
        (hard_labels_of_the_teacher, hot_slopes_compare_centred_logits),
    ],
)
def test_soft_cross_entropy_rejects(mistake, law):
    rejects(law, mistake, soft_cross_entropy, [soft_case(seed) for seed in range(5)])


@fewer(4)
@given(case=soft_cases, seed=seeds)
def test_soft_cross_entropy_gradient(case, seed):
    check_slope(
        lambda x: soft_cross_entropy(case.teacher, x, case.temperature),
        lambda z: by_rows(
            spec.soft_cross_entropy, SoftCase(case.teacher, as_tensor(z), case.temperature)
        ).tolist(),
        [case.student],
        seed,
    )


@pytest.mark.parametrize("formula", [kl_divergence, soft_cross_entropy])
def test_the_temperature_is_one_unless_given(formula):
    teacher, student, _ = soft_case(0)
    assert torch.equal(formula(teacher, student), formula(teacher, student, 1.0))


@pytest.mark.parametrize("formula", [kl_divergence, soft_cross_entropy])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_soft_losses_refuse_a_temperature_not_above_zero(formula, bad):
    message = rf"{formula.__name__}: the temperature is {bad}, but must be above 0"
    with pytest.raises(ValueError, match=message):
        formula(torch.zeros(1, 2), torch.zeros(1, 2), bad)


@pytest.mark.parametrize("formula", [kl_divergence, soft_cross_entropy])
def test_soft_losses_refuse_other_shapes(formula):
    with pytest.raises(ValueError, match=r"teacher \[3, 2\] and student \[1, 2\] differ"):
        formula(torch.zeros(3, 2), torch.zeros(1, 2))


# --------------------------------------------------------------------------------- l2_penalty


class PenaltyCase(NamedTuple):
    parameters: Tensor
    strength: float


def penalty_case(seed: int, strength: float = 0.3) -> PenaltyCase:
    return PenaltyCase(normal(seed, 3, 7), strength)


penalty_cases = st.builds(penalty_case, seeds, st.sampled_from([0.01, 0.3, 2.0]))


def penalty_bound(case: PenaltyCase) -> float:
    return 32 * EPS * case.strength * float(case.parameters.square().sum())


@given(case=penalty_cases)
def test_l2_penalty_is_its_spec(case):
    expected = spec.l2_penalty(case.parameters.flatten().tolist(), case.strength)
    check(abs(float(l2_penalty(*case)) - expected), penalty_bound(case), "l2_penalty and its spec")


@given(case=penalty_cases)
def test_l2_penalty_is_the_reference(case):
    expected = case.strength * torch.linalg.vector_norm(case.parameters) ** 2
    check(distance(l2_penalty(*case), expected), penalty_bound(case), "l2_penalty and torch")


def its_slope_is_2_lambda_theta(formula, case):
    upstream = normal(3)
    (slope,) = gradients(lambda x: formula(x, case.strength), [case.parameters], upstream)
    expected = 2 * case.strength * upstream * case.parameters
    return distance(slope, expected, expected.abs()), 4 * EPS


def parts_add_up(formula, case):
    parts = [formula(row, case.strength) for row in case.parameters]
    return distance(sum(parts), formula(*case)), penalty_bound(case)


def descent_shrinks_in_proportion_and_never_to_zero(formula, case):
    """θ (1 - 2 η λ)^t after t steps: this is why L2 prunes nothing."""
    parameters, rate = case.parameters, 0.1
    for _ in range(10):
        (slope,) = gradients(lambda x: formula(x, case.strength), [parameters], as_tensor(1.0))
        parameters = parameters - rate * slope
    expected = case.parameters * (1 - 2 * rate * case.strength) ** 10
    zeros = float((parameters == 0).sum())
    return distance(parameters, expected, expected.abs()) + zeros, 80 * EPS


L2_LAWS = [
    its_slope_is_2_lambda_theta,
    parts_add_up,
    descent_shrinks_in_proportion_and_never_to_zero,
]


@pytest.mark.parametrize("law", L2_LAWS)
@given(case=penalty_cases)
def test_l2_penalty_law(law, case):
    holds(law, l2_penalty, case)


def half_of_it(parameters, strength):
    return strength / 2 * parameters.square().sum()


def norm_not_squared(parameters, strength):
    return strength * torch.linalg.vector_norm(parameters)


def mean_instead_of_sum(parameters, strength):
    return strength * parameters.square().mean()


def absolute_values(parameters, strength):
    return strength * parameters.abs().sum()


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (half_of_it, its_slope_is_2_lambda_theta),
        (norm_not_squared, parts_add_up),
        (mean_instead_of_sum, parts_add_up),
        (absolute_values, descent_shrinks_in_proportion_and_never_to_zero),
    ],
)
def test_l2_penalty_rejects(mistake, law):
    rejects(law, mistake, l2_penalty, [penalty_case(seed) for seed in range(3)])


@fewer(4)
@given(case=penalty_cases, seed=seeds)
def test_l2_penalty_gradient(case, seed):
    check_slope(
        lambda x: l2_penalty(x, case.strength),
        lambda rows: spec.l2_penalty([x for row in rows for x in row], case.strength),
        [case.parameters],
        seed,
    )


# ----------------------------------------------------------------------- sparse_training_loss


class SparseCase(NamedTuple):
    losses: Tensor
    parameters: Tensor
    strength: float


def sparse_case(seed: int, strength: float = 0.3) -> SparseCase:
    return SparseCase(normal(seed, 5).abs(), normal(seed + 1, 7), strength)


sparse_cases = st.builds(sparse_case, seeds, st.sampled_from([0.01, 0.3, 2.0]))


@given(case=sparse_cases)
def test_sparse_training_loss_is_its_spec(case):
    expected = spec.sparse_training_loss(
        case.losses.tolist(), case.parameters.tolist(), case.strength
    )
    error = abs(float(sparse_training_loss(*case)) - expected)
    check(error, 16 * EPS * (1 + expected), "sparse_training_loss and its spec")


def the_batch_may_be_cut_into_parts(formula, case):
    """Σ_i L_i is a plain sum; the price of the weights is paid once, not per part."""
    parts = formula(case.losses[:2], *case[1:]) + formula(case.losses[2:], *case[1:])
    once = formula(torch.zeros(1, dtype=torch.float64), *case[1:])
    return distance(parts - once, formula(*case)), 64 * EPS * float(parts)


def without_a_price_it_is_the_sum(formula, case):
    return distance(formula(case.losses, case.parameters, 0.0), case.losses.sum()), 8 * EPS * float(
        case.losses.sum()
    )


def every_sample_weighs_one(formula, case):
    (slope,) = gradients(lambda x: formula(x, *case[1:]), [case.losses], as_tensor(1.0))
    return differing(slope, torch.ones_like(slope)), 0


SPARSE_LAWS = [
    the_batch_may_be_cut_into_parts,
    without_a_price_it_is_the_sum,
    every_sample_weighs_one,
]


@pytest.mark.parametrize("law", SPARSE_LAWS)
@given(case=sparse_cases)
def test_sparse_training_loss_law(law, case):
    holds(law, sparse_training_loss, case)


def mean_over_samples(losses, parameters, strength):
    return losses.mean() + l2_penalty(parameters, strength)


def price_per_sample(losses, parameters, strength):
    return (losses + l2_penalty(parameters, strength)).sum()


def weakened_samples(losses, parameters, strength):
    return (1 - strength) * losses.sum() + l2_penalty(parameters, strength)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (mean_over_samples, the_batch_may_be_cut_into_parts),
        (price_per_sample, the_batch_may_be_cut_into_parts),
        (weakened_samples, every_sample_weighs_one),
        (mean_over_samples, without_a_price_it_is_the_sum),
    ],
)
def test_sparse_training_loss_rejects(mistake, law):
    rejects(law, mistake, sparse_training_loss, [sparse_case(seed) for seed in range(3)])


@fewer(4)
@given(case=sparse_cases, seed=seeds)
def test_sparse_training_loss_gradient(case, seed):
    check_slope(
        lambda losses, x: sparse_training_loss(losses, x, case.strength),
        lambda losses, x: spec.sparse_training_loss(losses, x, case.strength),
        [case.losses, case.parameters],
        seed,
    )


# -------------------------------------------------------------------------------- of them all

CALLS = [
    (cross_entropy, hard_case(0)),
    (mlm_loss, mlm_case(0)),
    (nsp_loss, nsp_case(0)),
    (span_loss, span_case(0)),
    (squared_error, error_case(0)),
    (kl_divergence, soft_case(0)),
    (soft_cross_entropy, soft_case(0)),
    (l2_penalty, penalty_case(0)),
    (sparse_training_loss, sparse_case(0)),
]
IDS = [formula.__name__ for formula, _ in CALLS]


def in_dtype(case, dtype: torch.dtype):
    """The arguments with their real numbers in another type, labels as they are."""
    return [
        part.to(dtype) if isinstance(part, Tensor) and part.is_floating_point() else part
        for part in case
    ]


@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_loss_leaves_its_arguments_alone(formula, case):
    before = [part.clone() if isinstance(part, Tensor) else part for part in case]
    formula(*case)
    for old, new in zip(before, case, strict=True):
        assert torch.equal(torch.as_tensor(old), torch.as_tensor(new))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_loss_of_half_precision_is_computed_in_float32(formula, case, dtype):
    half = in_dtype(case, dtype)
    found = formula(*half)
    assert found.dtype == torch.float32
    assert torch.equal(found, formula(*in_dtype(half, torch.float32)))
