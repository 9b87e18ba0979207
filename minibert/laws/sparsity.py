"""Laws of `sparsity`: which weights are pruned, when, and what a head or a unit is worth.

That a network survives its pruning proves nothing: it adapts to a wrong choice as well. For every
choice, these laws say how much goes, that nothing larger goes, and what happens to equals.
"""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.ao.pruning import WeightNormSparsifier
from torch.nn.utils import prune

from minibert.attention import merge_heads, multi_head_attention
from minibert.encoder import feed_forward
from minibert.functional import gelu_erf, linear
from minibert.laws import spec as forward_spec
from minibert.laws import spec_training as spec
from minibert.laws.attention import NOTHING_ROUNDED, parts_of, with_parts
from minibert.laws.functional import at_least_eps32
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_lists,
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
    slope_of_spec,
    slopes,
)
from minibert.laws.optim import IN_STEPS, PRECISE, farthest, of_torch
from minibert.parameters import AttentionWeights, BlockWeights, LayerNormWeights, LinearWeights
from minibert.sparsity import (
    cubic_sparsity,
    fewest_bits,
    gate_gradients,
    keep_heads,
    keep_largest,
    keep_largest_of_rows,
    keep_n_of_m,
    keep_units,
    movement_scores,
    soft_threshold,
)

A_CHOICE = {
    "gradient": "the slope of a choice is 0 wherever it exists",
    "accuracy": "scores are compared and nothing is computed with them",
}

# -------------------------------------------------------------------------------- cubic_sparsity


class Pace(NamedTuple):
    """The steps at which pruning begins and ends, and the final and initial share of zeros."""

    begin: int
    end: int
    final: float
    initial: float


def pace(draw: Draw) -> Pace:
    """A rising share of zeros; a quarter of the way is a whole number of steps."""
    begin, initial = draw.integer(1, 40), draw.real(0.05, 0.4)
    end = begin + 4 * draw.integer(1, 12)
    return Pace(begin, end, initial + draw.real(0.1, 0.6), initial)


def any_pace(draw: Draw) -> Pace:
    """Also a falling share of zeros, and a change all at once."""
    begin = draw.integer(0, 30)
    return Pace(begin, begin + draw.integer(0, 40), draw.real(0.0, 1.0), draw.real(0.0, 1.0))


def on_the_way(schedule: Callable[..., float], case: Pace) -> list[float]:
    """From the first step to the last."""
    return [schedule(t, *case) for t in range(case.begin, case.end + 1)]


CUBIC = Proof(cubic_sparsity, pace, without=IN_STEPS)


@CUBIC.spec(cases=any_pace)
def what_is_missing_falls_with_the_cube_of_the_time_left(formula, case):
    times = range(case.end + 5)
    ours, theirs = ([f(t, *case) for t in times] for f in (formula, spec.cubic_sparsity))
    return farthest(ours, theirs), 8 * EPS


@CUBIC.reference(cost=3)
def it_is_torchs_polynomial_of_power_three(formula, case):
    duration = case.end - case.begin
    factors = of_torch("PolynomialLR", duration + 1, total_iters=duration, power=3.0)
    theirs = [case.final + (case.initial - case.final) * factor for factor in factors]
    return farthest(on_the_way(formula, case), theirs), 16 * duration * EPS


@CUBIC.law(cases=any_pace)
def it_waits_for_the_begin_and_stays_at_the_end(formula, case):
    """Bit for bit: a model that is meant to stay dense does."""
    error = 0.0
    for ends in (case, case._replace(final=0.8, initial=0.1)):
        before = [t for t in (0, case.begin - 1, case.begin) if 0 <= t < case.end]
        error += sum(abs(formula(t, *ends) - ends.initial) for t in before)
        after = (case.end, case.end + 1, 2 * case.end + 9)
        error += sum(abs(formula(t, *ends) - ends.final) for t in after)
    return error, 0


@CUBIC.law
def half_way_an_eighth_is_missing_and_after_three_quarters_a_64th(formula, case):
    gap, quarter = case.final - case.initial, (case.end - case.begin) // 4
    error = 0.0
    for quarters, missing in ((1, 27 / 64), (2, 1 / 8), (3, 1 / 64)):
        found = formula(case.begin + quarters * quarter, *case)
        error = max(error, abs(case.final - found - gap * missing))
    return error, 4 * EPS


@CUBIC.law
def its_third_difference_is_six_gaps_over_the_cube_of_the_duration(formula, case):
    v = on_the_way(formula, case)
    for _ in range(3):
        v = [b - a for a, b in pairwise(v)]
    expected = 6 * (case.final - case.initial) / (case.end - case.begin) ** 3
    return max(abs(third - expected) for third in v), 16 * EPS


@CUBIC.law
def zeros_come_ever_more_slowly(formula, case):
    rises = [b - a for a, b in pairwise(on_the_way(formula, case))]
    bends = [b - a for a, b in pairwise(rises)]
    return max(0.0, -min(rises), max(bends)), 4 * EPS


@CUBIC.law
def time_may_be_shifted_and_stretched(formula, case):
    def moved(t: int, shift: int, factor: int) -> float:
        times = [factor * (step + shift) for step in (t, case.begin, case.end)]
        return formula(*times, case.final, case.initial)

    times = range(case.end + 5)
    plain = [formula(t, *case) for t in times]
    ways = ((5, 1), (0, 3), (1000, 7))
    return max(farthest(plain, [moved(t, *way) for t in times]) for way in ways), 0


@CUBIC.law
def what_is_kept_moves_on_the_same_curve(formula, case):
    """1 - s goes from 1 - s_i to 1 - s_f."""
    dense = case._replace(final=1 - case.final, initial=1 - case.initial)
    kept = [1 - s for s in on_the_way(formula, dense)]
    return farthest(on_the_way(formula, case), kept), 4 * EPS


class Progress(NamedTuple):
    step: int
    begin: int
    end: int
    final: float
    initial: float


def progress(draw: Draw, begin: int, duration: int, gap: float = 0.9) -> Progress:
    """A step near either end, or anywhere."""
    initial = draw.real(0.0, 1 - gap)
    near = draw.choice([0, duration]) + draw.integer(-3, 3)
    step = begin + draw.choice([near, draw.integer(0, duration)])
    ends = draw.choice([(initial, initial + gap), (initial + gap, initial)])
    return Progress(max(0, step), begin, begin + duration, *ends)


def exact_sparsity(case: Progress) -> tuple[Fraction, float]:
    """The sparsity as a fraction, and the share of the gap that is left."""
    t, begin, end, final, initial = case
    left = 1 - Fraction(min(max(t - begin, 0), end - begin), end - begin)
    if t >= end:
        left = Fraction(0)
    return Fraction(final) + (Fraction(initial) - Fraction(final)) * left**3, float(left**3)


@CUBIC.accuracy(
    {
        "a short run": lambda draw: progress(draw, draw.integer(0, 9), draw.integer(1, 40)),
        "a million steps": lambda draw: progress(draw, 10**4 + 7, 10**6 + 3),
        "odd long runs": lambda draw: progress(draw, 10**9 + 7, 3 * 10**12 + draw.integer(1, 999)),
        "a small gap": lambda draw: progress(draw, 3, draw.integer(1, 40), 1e-6),
    },
    PRECISE,
)
def a_cube_is_rounded_a_few_times(formula, case):
    exact, left = exact_sparsity(case)
    gap = abs(case.final - case.initial) * left
    return abs(Fraction(formula(*case)) - exact), EPS * (float(exact) / 2 + 3.5 * gap)


def clamped(t: int, begin: int, end: int) -> float:
    """The fraction of the way that is done, from 0 to 1."""
    return 1.0 if t >= end else max(0, t - begin) / (end - begin)


@CUBIC.mistake(
    its_third_difference_is_six_gaps_over_the_cube_of_the_duration,
    half_way_an_eighth_is_missing_and_after_three_quarters_a_64th,
)
def a_straight_line(t, begin, end, final, initial):
    return initial + (final - initial) * clamped(t, begin, end)


@CUBIC.mistake(
    half_way_an_eighth_is_missing_and_after_three_quarters_a_64th,
    it_is_torchs_polynomial_of_power_three,
)
def a_square(t, begin, end, final, initial):
    return final + (initial - final) * (1 - clamped(t, begin, end)) ** 2


@CUBIC.mistake(zeros_come_ever_more_slowly, what_is_missing_falls_with_the_cube_of_the_time_left)
def a_cube_of_the_time_behind(t, begin, end, final, initial):
    """Slow at first: most weights go at the very end, and no time is left to adapt."""
    return initial + (final - initial) * clamped(t, begin, end) ** 3


@CUBIC.mistake(time_may_be_shifted_and_stretched, it_waits_for_the_begin_and_stays_at_the_end)
def counted_from_the_first_step(t, begin, end, final, initial):
    return cubic_sparsity(t, 0, end, final, initial)


@CUBIC.mistake(time_may_be_shifted_and_stretched)
def the_end_taken_for_a_duration(t, begin, end, final, initial):
    return cubic_sparsity(t, begin, begin + end, final, initial)


@CUBIC.mistake(it_waits_for_the_begin_and_stays_at_the_end)
def it_does_not_wait(t, begin, end, final, initial):
    left = 0.0 if t >= end else 1 - (t - begin) / (end - begin)
    return final + (initial - final) * left**3


@CUBIC.mistake(it_waits_for_the_begin_and_stays_at_the_end)
def rounded_at_the_begin(t, begin, end, final, initial):
    """0.8 + (0.1 - 0.8) is not 0.1."""
    return final + (initial - final) * (1 - clamped(t, begin, end)) ** 3


@CUBIC.mistake(it_waits_for_the_begin_and_stays_at_the_end)
def it_does_not_stay(t, begin, end, final, initial):
    left = 1 - max(0, t - begin) / max(1, end - begin)
    return final + (initial - final) * left**3


@CUBIC.mistake(
    what_is_kept_moves_on_the_same_curve, it_waits_for_the_begin_and_stays_at_the_end
)
def the_initial_zeros_come_on_top(t, begin, end, final, initial):
    return initial + cubic_sparsity(t, begin, end, final)


@CUBIC.mistake(what_is_kept_moves_on_the_same_curve)
def a_geometric_way(t, begin, end, final, initial):
    low, high = max(initial, 1e-3), max(final, 1e-3)
    return high * (low / high) ** ((1 - clamped(t, begin, end)) ** 3)


@CUBIC.mistake(
    time_may_be_shifted_and_stretched, what_is_missing_falls_with_the_cube_of_the_time_left
)
def only_every_tenth_step(t, begin, end, final, initial):
    """As pruning libraries do to save time; the formula has no such interval."""
    return cubic_sparsity(t - t % 10 if t < end else t, begin, end, final, initial)


@CUBIC.mistake(a_cube_is_rounded_a_few_times)
def in_single_precision(t, begin, end, final, initial):
    return torch.tensor(cubic_sparsity(t, begin, end, final, initial)).item()


# ---------------------------------------------------------------------------------- keep_largest


class Scored(NamedTuple):
    score: Tensor
    sparsity: float


SHAPES = [(5, 7), (3, 5), (1, 11), (4, 4), (2, 3, 5)]


def share_of_zeros(draw: Draw) -> float:
    return draw.choice([0.0, 0.5, 1 / 3, 0.9, 1.0, draw.real(0.0, 1.0), draw.real(0.0, 1.0)])


def unequal(draw: Draw) -> Scored:
    """Scores of either sign, no two the same."""
    return Scored(normal(seed_of(draw), *draw.choice(SHAPES)), share_of_zeros(draw))


def ties(draw: Draw) -> Scored:
    """Few different scores, or one only."""
    levels, shape = draw.choice([1, 2, 4]), draw.choice(SHAPES)
    return Scored(integers(seed_of(draw), levels, *shape).double() / 4, share_of_zeros(draw))


def any_scores(draw: Draw) -> Scored:
    return draw.choice([unequal, ties])(draw)


def excess(score: Tensor, keep: Tensor) -> float:
    """By how much the largest score that goes exceeds the smallest that stays."""
    gone, kept = score[~keep], score[keep]
    return max(0.0, float(gone.max() - kept.min())) if len(gone) and len(kept) else 0.0


KEEP_LARGEST = Proof(keep_largest, any_scores, without=A_CHOICE)


@KEEP_LARGEST.spec
def the_smallest_go_and_of_equals_the_first(formula, case):
    expected = torch.tensor(spec.kept(case.score.flatten().tolist(), case.sparsity))
    return differing(formula(*case).flatten(), expected), 0


@KEEP_LARGEST.reference(cases=unequal)
def it_is_torchs_pruning_by_size(formula, case):
    weight, method = case.score, prune.L1Unstructured(case.sparsity)
    theirs = method.compute_mask(weight, torch.ones_like(weight))
    return differing(formula(weight.abs(), case.sparsity), theirs > 0), 0


@KEEP_LARGEST.law(cases=ties)
def exactly_the_rounded_share_goes(formula, case):
    gone = int((~formula(*case)).sum())
    return abs(gone - round(case.sparsity * case.score.numel())), 0


@KEEP_LARGEST.law
def halves_are_rounded_to_even(formula, case):
    """Of 1, 3, 5, 7 and 9 weights half is 0, 2, 2, 4 and 4."""
    score = torch.cat([case.score.flatten()] * 9)
    gone = [int((~formula(score[:n], 0.5)).sum()) for n in (1, 3, 5, 7, 9)]
    return differing(torch.tensor(gone), torch.tensor([0, 2, 2, 4, 4])), 0


@KEEP_LARGEST.law
def nothing_that_goes_is_larger_than_what_stays(formula, case):
    return excess(case.score, formula(*case)), 0


@KEEP_LARGEST.law
def none_go_at_0_and_all_at_1(formula, case):
    return float((~formula(case.score, 0.0)).sum() + formula(case.score, 1.0).sum()), 0


@KEEP_LARGEST.law
def any_rising_map_of_the_scores_leaves_the_choice(formula, case):
    keep, error = formula(*case), 0.0
    for moved in (8 * case.score, case.score.exp(), case.score + 2, case.score**3):
        error += differing(formula(moved, case.sparsity), keep)
    return error, 0


@KEEP_LARGEST.law(cases=unequal)
def the_opposite_scores_keep_what_went(formula, case):
    total = case.score.numel()
    gone = round(case.sparsity * total)
    keep = formula(case.score, gone / total)
    return differing(formula(-case.score, (total - gone) / total), ~keep), 0


@KEEP_LARGEST.law
def what_has_gone_does_not_come_back_with_more_zeros(formula, case):
    share, keep, error = case.sparsity, formula(*case), 0.0
    for more in (share + 0.1 * (1 - share), (1 + share) / 2):
        error += float((formula(case.score, more) & ~keep).sum())
    return error, 0


@KEEP_LARGEST.law(cases=unequal)
def weights_may_be_reordered(formula, case):
    flat = case.score.flatten()
    order = order_of(len(flat))
    return differing(formula(flat[order], case.sparsity), formula(flat, case.sparsity)[order]), 0


@KEEP_LARGEST.law
def the_shape_of_the_weights_does_not_matter(formula, case):
    keep = formula(*case)
    flat = formula(case.score.flatten(), case.sparsity)
    column = formula(case.score.reshape(-1, 1), case.sparsity)
    return differing(flat, keep.flatten()) + differing(column.flatten(), keep.flatten()), 0


def first_that_stays(score: Tensor, share: float) -> Tensor | None:
    """The smallest score that is kept; None where all go."""
    rising, gone = score.flatten().sort().values, round(share * score.numel())
    return rising[gone] if gone < len(rising) else None


@KEEP_LARGEST.mistake(exactly_the_rounded_share_goes, the_smallest_go_and_of_equals_the_first)
def a_threshold_that_keeps_all_equals(score, share):
    threshold = first_that_stays(score, share)
    return torch.zeros_like(score) > 0 if threshold is None else score >= threshold


@KEEP_LARGEST.mistake(exactly_the_rounded_share_goes)
def a_threshold_that_loses_all_equals(score, share):
    gone = round(share * score.numel())
    rising = score.flatten().sort().values
    return score > rising[gone - 1] if gone else score == score


@KEEP_LARGEST.mistake(exactly_the_rounded_share_goes)
def a_threshold_between_two_scores(score, share):
    """A quantile lies between neighbours: it counts n - 1 gaps, not n weights."""
    return score > torch.quantile(score, share)


@KEEP_LARGEST.mistake(exactly_the_rounded_share_goes, it_is_torchs_pruning_by_size)
def rounded_down(score, share):
    total = score.numel()
    return keep_largest(score, math.floor(share * total) / total)


@KEEP_LARGEST.mistake(exactly_the_rounded_share_goes, halves_are_rounded_to_even)
def rounded_up(score, share):
    total = score.numel()
    return keep_largest(score, math.ceil(share * total) / total)


@KEEP_LARGEST.mistake(halves_are_rounded_to_even)
def what_stays_is_rounded(score, share):
    total = score.numel()
    return keep_largest(score, (total - round((1 - share) * total)) / total)


@KEEP_LARGEST.mistake(none_go_at_0_and_all_at_1)
def one_stays_whatever_is_asked(score, share):
    total = score.numel()
    return keep_largest(score, min(share, 1 - 1 / total))


@KEEP_LARGEST.mistake(none_go_at_0_and_all_at_1, exactly_the_rounded_share_goes)
def the_share_is_what_stays(score, share):
    return keep_largest(score, 1 - share)


@KEEP_LARGEST.mistake(nothing_that_goes_is_larger_than_what_stays)
def the_smallest_stay(score, share):
    return keep_largest(-score, share)


@KEEP_LARGEST.mistake(
    nothing_that_goes_is_larger_than_what_stays, the_smallest_go_and_of_equals_the_first
)
def places_in_the_order_taken_for_ranks(score, share):
    """Sorted once: that says which weight has rank i, and not which rank weight i has."""
    order = score.flatten().argsort(stable=True)
    return (order >= round(share * len(order))).view(score.shape)


@KEEP_LARGEST.mistake(
    the_opposite_scores_keep_what_went, any_rising_map_of_the_scores_leaves_the_choice
)
def by_the_size_of_a_score(score, share):
    return keep_largest(score.abs(), share)


@KEEP_LARGEST.mistake(it_is_torchs_pruning_by_size)
def sizes_in_half_precision(score, share):
    """Two sizes become equal: the first of them goes, not the smaller one."""
    return keep_largest((score * 4).round(), share)


@KEEP_LARGEST.mistake(any_rising_map_of_the_scores_leaves_the_choice)
def a_share_of_the_largest_score(score, share):
    return score >= share * score.max()


@KEEP_LARGEST.mistake(
    the_shape_of_the_weights_does_not_matter, nothing_that_goes_is_larger_than_what_stays
)
def as_many_in_every_row(score, share):
    return keep_largest_of_rows(score, share)


@KEEP_LARGEST.mistake(what_has_gone_does_not_come_back_with_more_zeros)
def thrown_anew_each_time(score, share):
    draws = torch.rand(score.shape, generator=fresh(int(1e6 * share)))
    return keep_largest(draws, share)


@KEEP_LARGEST.mistake(weights_may_be_reordered, the_opposite_scores_keep_what_went)
def the_first_go(score, share):
    return keep_largest(torch.arange(score.numel()).view(score.shape), share)


@KEEP_LARGEST.mistake(the_smallest_go_and_of_equals_the_first)
def of_equals_the_last_go(score, share):
    return keep_largest(score.flatten().flip(0), share).flip(0).view(score.shape)


# -------------------------------------------------------------------------- keep_largest_of_rows

KEEP_ROWS = Proof(keep_largest_of_rows, any_scores, without=A_CHOICE)


def rows_in(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


@KEEP_ROWS.spec
def of_every_row_the_smallest_go(formula, case):
    expected = over_rows(spec.kept, case.score.tolist(), case.sparsity)
    return differing(formula(*case), torch.tensor(expected)), 0


@KEEP_ROWS.reference(cases=unequal)
def what_stays_is_torchs_top_of_each_row(formula, case):
    width = case.score.shape[-1]
    top = case.score.topk(width - round(case.sparsity * width), -1).indices
    theirs = torch.zeros(case.score.shape, dtype=torch.bool).scatter(-1, top, True)
    return differing(formula(*case), theirs), 0


@KEEP_ROWS.law
def every_row_loses_the_rounded_share(formula, case):
    gone = (~formula(*case)).sum(-1)
    expected = round(case.sparsity * case.score.shape[-1])
    return differing(gone, torch.full(case.score.shape[:-1], expected)), 0


@KEEP_ROWS.law
def nothing_larger_goes_within_a_row(formula, case):
    keep = formula(*case)
    return max(excess(*row) for row in zip(rows_in(case.score), rows_in(keep), strict=True)), 0


@KEEP_ROWS.law
def each_row_is_chosen_alone(formula, case):
    """Even a row a thousand times as large makes no difference."""
    row = rows_in(case.score)[:1]
    others = torch.cat((row, 1024 * row.flip(1), row.roll(1, 1) - 1024))
    return differing(formula(others, case.sparsity)[:1], formula(row, case.sparsity)), 0


@KEEP_ROWS.law(cases=unequal)
def the_inputs_may_be_reordered(formula, case):
    order = order_of(case.score.shape[-1])
    return differing(formula(case.score[..., order], case.sparsity), formula(*case)[..., order]), 0


@KEEP_ROWS.law
def one_row_is_chosen_from_as_a_whole(formula, case):
    row = case.score.reshape(1, -1)
    return differing(formula(row, case.sparsity), keep_largest(row, case.sparsity)), 0


@KEEP_ROWS.mistake(every_row_loses_the_rounded_share, each_row_is_chosen_alone)
def all_rows_together(score, share):
    return keep_largest(score, share)


@KEEP_ROWS.mistake(every_row_loses_the_rounded_share, nothing_larger_goes_within_a_row)
def down_the_columns(score, share):
    return keep_largest_of_rows(score.transpose(0, -1), share).transpose(0, -1)


@KEEP_ROWS.mistake(one_row_is_chosen_from_as_a_whole, every_row_loses_the_rounded_share)
def a_share_of_the_rows(score, share):
    """round(s O) in place of round(s I)."""
    height, width = rows_in(score).shape
    return keep_largest_of_rows(score, min(width, round(share * height)) / width)


@KEEP_ROWS.mistake(each_row_is_chosen_alone, nothing_larger_goes_within_a_row)
def the_same_inputs_in_every_row(score, share):
    return keep_largest(rows_in(score).mean(0), share).expand_as(score)


@KEEP_ROWS.mistake(the_inputs_may_be_reordered, what_stays_is_torchs_top_of_each_row)
def places_taken_for_ranks_in_rows(score, share):
    return score.argsort(dim=-1, stable=True) >= round(share * score.shape[-1])


@KEEP_ROWS.mistake(every_row_loses_the_rounded_share)
def a_threshold_for_each_row(score, share):
    width = score.shape[-1]
    gone = round(share * width)
    rising = score.sort(-1).values
    return score >= rising[..., gone : gone + 1] if gone < width else score != score


@KEEP_ROWS.mistake(of_every_row_the_smallest_go, every_row_loses_the_rounded_share)
def rounded_down_in_rows(score, share):
    width = score.shape[-1]
    return keep_largest_of_rows(score, math.floor(share * width) / width)


@KEEP_ROWS.mistake(of_every_row_the_smallest_go)
def of_equals_in_a_row_the_last_go(score, share):
    return keep_largest_of_rows(score.flip(-1), share).flip(-1)


# ----------------------------------------------------------------------------------- keep_n_of_m


class Pattern(NamedTuple):
    score: Tensor
    n: int
    m: int


def pattern(draw: Draw, equal: bool = False) -> Pattern:
    """As many rows as a group has inputs, so that the other axis would fit too, or three rows."""
    m = draw.choice([2, 4, 5])
    shape = draw.choice([m, 3]), m * draw.choice([2, 3])
    score = integers(seed_of(draw), 3, *shape).double() if equal else normal(seed_of(draw), *shape)
    return Pattern(score, draw.integer(1, m - 1), m)


def any_pattern(draw: Draw) -> Pattern:
    return pattern(draw, draw.choice([True, False]))


def groups_of(x: Tensor, m: int) -> Tensor:
    return x.unflatten(-1, (-1, m))


KEEP_N_OF_M = Proof(keep_n_of_m, any_pattern, without=A_CHOICE)


@KEEP_N_OF_M.spec
def the_n_largest_of_m_neighbours_stay(formula, case):
    expected = over_rows(spec.kept_of_groups, case.score.tolist(), case.n, case.m)
    return differing(formula(*case), torch.tensor(expected)), 0


@KEEP_N_OF_M.reference(cases=pattern, cost=3)
def it_is_torchs_sparsifier_of_blocks(formula, case):
    """Blocks of 1 × m, of which m - n are to be zeros, by the sum of their sizes."""
    weight, n, m = case
    model = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], len(weight), bias=False))
    model[0].weight.data = weight
    theirs = WeightNormSparsifier(1.0, (1, m), m - n, norm=1)
    theirs.prepare(model, [{"tensor_fqn": "0.weight"}])
    theirs.step()
    return differing(formula(weight.abs(), n, m), model[0].parametrizations.weight[0].mask > 0), 0


@KEEP_N_OF_M.law
def every_group_keeps_n(formula, case):
    kept = groups_of(formula(*case), case.m).sum(-1)
    return differing(kept, torch.full(kept.shape, case.n)), 0


@KEEP_N_OF_M.law
def nothing_larger_goes_within_a_group(formula, case):
    groups, keep = (rows_in(groups_of(x, case.m)) for x in (case.score, formula(*case)))
    return max(excess(*group) for group in zip(groups, keep, strict=True)), 0


@KEEP_N_OF_M.law
def each_group_is_chosen_alone(formula, case):
    groups = groups_of(case.score, case.m)
    sizes = 4.0 ** torch.arange(groups.shape[1], dtype=torch.float64)[:, None]
    scaled = (groups * sizes - sizes).flatten(1)
    return differing(formula(scaled, case.n, case.m), formula(*case)), 0


@KEEP_N_OF_M.law
def groups_may_be_reordered(formula, case):
    turned = groups_of(case.score, case.m).flip(1).flatten(1)
    keep = groups_of(formula(*case), case.m).flip(1).flatten(1)
    return differing(formula(turned, case.n, case.m), keep), 0


@KEEP_N_OF_M.law(cases=pattern)
def neighbours_may_be_reordered(formula, case):
    order = order_of(case.m)
    turned = groups_of(case.score, case.m)[..., order].flatten(1)
    keep = groups_of(formula(*case), case.m)[..., order].flatten(1)
    return differing(formula(turned, case.n, case.m), keep), 0


@KEEP_N_OF_M.law
def all_or_none_of_m_stay(formula, case):
    lost, kept = ~formula(case.score, case.m, case.m), formula(case.score, 0, case.m)
    return float(lost.sum() + kept.sum()), 0


@KEEP_N_OF_M.law
def fewer_of_m_are_among_more_of_m(formula, case):
    more = formula(case.score, case.n + 1, case.m)
    return float((formula(*case) & ~more).sum()), 0


@KEEP_N_OF_M.law
def one_group_is_a_row(formula, case):
    width = case.score.shape[1]
    keep = keep_largest_of_rows(case.score, (width - case.n) / width)
    return differing(formula(case.score, case.n, width), keep), 0


@KEEP_N_OF_M.mistake(every_group_keeps_n, nothing_larger_goes_within_a_group)
def along_the_other_axis(score, n, m):
    across = len(score) % m == 0
    return keep_n_of_m(score.T, n, m).T if across else keep_n_of_m(score, n, m)


@KEEP_N_OF_M.mistake(every_group_keeps_n, the_n_largest_of_m_neighbours_stay)
def groups_that_are_spread_over_the_row(score, n, m):
    """Every (I/m)-th input in place of m neighbours."""
    spread = score.unflatten(-1, (m, -1))
    return keep_n_of_m(spread.mT.flatten(1), n, m).unflatten(-1, (-1, m)).mT.flatten(1)


@KEEP_N_OF_M.mistake(every_group_keeps_n, it_is_torchs_sparsifier_of_blocks)
def n_are_lost(score, n, m):
    return keep_n_of_m(score, m - n, m)


@KEEP_N_OF_M.mistake(nothing_larger_goes_within_a_group, fewer_of_m_are_among_more_of_m)
def the_smaller_stay_where_one_does(score, n, m):
    return keep_n_of_m(-score if n == 1 else score, n, m)


@KEEP_N_OF_M.mistake(each_group_is_chosen_alone, every_group_keeps_n)
def the_share_of_a_whole_row(score, n, m):
    return keep_largest_of_rows(score, (m - n) / m)


@KEEP_N_OF_M.mistake(all_or_none_of_m_stay, one_group_is_a_row)
def half_of_them_whatever_is_asked(score, n, m):
    """The hardware supports only 2 of 4."""
    return keep_n_of_m(score, m // 2, m)


@KEEP_N_OF_M.mistake(groups_may_be_reordered, the_n_largest_of_m_neighbours_stay)
def groups_begin_one_later(score, n, m):
    return keep_n_of_m(score.roll(-1, 1), n, m).roll(1, 1)


@KEEP_N_OF_M.mistake(neighbours_may_be_reordered)
def the_first_of_each_group(score, n, m):
    return keep_n_of_m(-torch.arange(score.shape[1]).expand_as(score), n, m)


@KEEP_N_OF_M.mistake(every_group_keeps_n)
def equals_of_a_group_stay_together(score, n, m):
    groups = groups_of(score, m)
    least = groups.sort(-1).values[..., m - n :][..., :1]
    return (groups >= least).flatten(1) if n else score != score


@KEEP_N_OF_M.mistake(each_group_is_chosen_alone)
def by_the_size_of_a_neighbour(score, n, m):
    return keep_n_of_m(score.abs(), n, m)


@KEEP_N_OF_M.mistake(the_n_largest_of_m_neighbours_stay)
def of_equal_neighbours_the_last_go(score, n, m):
    return keep_n_of_m(score.flip(1), n, m).flip(1)


# -------------------------------------------------------------------------------- soft_threshold


class Shrunk(NamedTuple):
    weight: Tensor
    threshold: float


def shrunk(draw: Draw, scale: float = 1.0) -> Shrunk:
    """A threshold that some weights are below and some above; one weight is at it, one is 0."""
    threshold = scale * draw.choice([0.25, 0.7, 1.0])
    weight = normal(seed_of(draw), *draw.choice([(3, 5), (11,)]), scale=scale)
    weight[..., 0], weight[..., 1] = threshold, 0.0
    return Shrunk(weight, threshold)


def off_the_corner(draw: Draw) -> Shrunk:
    """No weight is so near to its threshold that a small step would pass it."""
    weight, threshold = shrunk(draw)
    far = (weight.abs() - threshold).abs() > 0.05
    return Shrunk(torch.where(far, weight, 2 * threshold + 0.1), threshold)


def spec_of_soft_threshold(weight: Any, threshold: float) -> Any:
    return over_rows(lambda row: [spec.soft_threshold(w, threshold) for w in row], weight)


def shrink_bound(case: Shrunk) -> Tensor:
    """The threshold and the difference are rounded once each; a result of 0 is exact."""
    exact = as_tensor(spec_of_soft_threshold(case.weight.double().tolist(), case.threshold))
    return torch.where(exact == 0, 0, eps_of(case.weight) / 2 * (exact.abs() + case.threshold))


SOFT = Proof(soft_threshold, shrunk)


@SOFT.spec
def it_is_w_less_t_or_w_plus_t_or_nothing(formula, case):
    expected = as_tensor(spec_of_soft_threshold(case.weight.tolist(), case.threshold))
    return distance(formula(*case), expected), 0


@SOFT.reference
def it_is_torchs_softshrink(formula, case):
    return distance(formula(*case), F.softshrink(*case)), 0


@SOFT.law
def nothing_costs_less(formula, case):
    """t |w'| + (w' - w)² / 2, against 401 others from -|w| to |w|, and against its neighbours."""
    weight, found = case.weight.flatten(), formula(*case).flatten()

    def cost(x: Tensor) -> Tensor:
        return case.threshold * x.abs() + (x - weight) ** 2 / 2

    others = torch.linspace(-1, 1, 401, dtype=torch.float64)[:, None] * weight
    near = found + torch.tensor([[-1e-3], [1e-3]], dtype=torch.float64)
    least = cost(torch.cat((others, near))).amin(0)
    return (cost(found) - least).max().clamp(min=0), 64 * EPS


@SOFT.law
def every_weight_loses_t_or_all_it_has(formula, case):
    lost = case.weight.abs() - formula(*case).abs()
    return distance(lost, case.weight.abs().clamp(max=case.threshold)), 8 * EPS


@SOFT.law
def no_weight_changes_its_sign(formula, case):
    return float((formula(*case) * case.weight < 0).sum()), 0


@SOFT.law
def the_opposite_weight_has_the_opposite_result(formula, case):
    return differing(formula(-case.weight, case.threshold), -formula(*case)), 0


@SOFT.law
def two_thresholds_add_up(formula, case):
    twice = formula(formula(case.weight, 0.5), case.threshold)
    return distance(twice, formula(case.weight, case.threshold + 0.5)), 16 * EPS


@SOFT.law
def powers_of_two_pass_through(formula, case):
    error = 0.0
    for factor in (2.0, 2.0**-60, 2.0**60):
        scaled = formula(factor * case.weight, factor * case.threshold)
        error += differing(scaled, factor * formula(*case))
    return error, 0


@SOFT.law
def two_weights_never_move_apart(formula, case):
    others = case.weight.flip(-1)
    before = (case.weight - others).abs()
    after = (formula(*case) - formula(others, case.threshold)).abs()
    return (after - before).max().clamp(min=0), 8 * EPS


@SOFT.law
def what_it_takes_away_is_the_nearest_of_a_box(formula, case):
    """Moreau: w is what stays plus the projection of w onto -t … t."""
    box = F.hardtanh(case.weight, -case.threshold, case.threshold)
    return distance(formula(*case) + box, case.weight), 8 * EPS


@SOFT.law
def at_the_threshold_0_nothing_moves_and_at_the_largest_all_is_0(formula, case):
    top = float(case.weight.abs().max())
    all_gone = formula(case.weight, top).abs().sum()
    return differing(formula(case.weight, 0.0), case.weight) + float(all_gone), 0


@SOFT.gradient(cases=off_the_corner)
def its_slope_is_one_beyond_the_threshold_and_zero_within(formula, case):
    upstream = normal(9, *case.weight.shape)
    (found,) = gradients(lambda w: formula(w, case.threshold), [case.weight], upstream)
    return distance(found, torch.where(case.weight.abs() > case.threshold, upstream, 0)), 0


@SOFT.gradient(cases=off_the_corner, cost=2)
def its_slope_is_that_of_its_three_pieces(formula, case):
    return slopes(
        lambda w: formula(w, case.threshold),
        lambda w: spec_of_soft_threshold(w, case.threshold),
        [case.weight],
    )


HARD_TO_SHRINK: dict[str, Callable[[Draw], Shrunk]] = {
    "normal": shrunk,
    "tiny": lambda draw: shrunk(draw, 1e-30),
    "large": lambda draw: shrunk(draw, 1e30),
    "next to the threshold": lambda draw: Shrunk(
        0.7 * (1 + normal(seed_of(draw), 3, 7, scale=draw.choice([1e-2, 1e-6]))), 0.7
    ),
    "a small threshold": lambda draw: Shrunk(normal(seed_of(draw), 3, 7), 1e-4),
}


@SOFT.accuracy(HARD_TO_SHRINK, torch_twin=F.softshrink)
def the_threshold_and_the_difference_are_rounded(formula, case):
    expected = as_tensor(spec_of_soft_threshold(case.weight.double().tolist(), case.threshold))
    return distance(formula(*case), expected, shrink_bound(case)), 1


@SOFT.mistake(every_weight_loses_t_or_all_it_has, nothing_costs_less, two_thresholds_add_up)
def a_hard_threshold(weight, t):
    return torch.where(weight.abs() > t, weight, 0)


@SOFT.mistake(the_opposite_weight_has_the_opposite_result, no_weight_changes_its_sign)
def the_sign_is_lost(weight, t):
    return (weight.abs() - t).clamp(min=0)


@SOFT.mistake(the_opposite_weight_has_the_opposite_result)
def negative_weights_all_go(weight, t):
    return (weight - t).clamp(min=0)


@SOFT.mistake(no_weight_changes_its_sign, its_slope_is_one_beyond_the_threshold_and_zero_within)
def it_does_not_stop_at_0(weight, t):
    return weight - t * weight.sign()


@SOFT.mistake(nothing_costs_less, it_is_torchs_softshrink, its_slope_is_that_of_its_three_pieces)
def a_share_of_every_weight(weight, t):
    """The step of an L2 penalty: nothing becomes 0."""
    return weight / (1 + t)


@SOFT.mistake(nothing_costs_less, what_it_takes_away_is_the_nearest_of_a_box)
def half_the_threshold(weight, t):
    """The square taken without its half."""
    return soft_threshold(weight, t / 2)


@SOFT.mistake(powers_of_two_pass_through, every_weight_loses_t_or_all_it_has)
def times_the_weight(weight, t):
    """The weighted penalty of some papers: large weights lose more."""
    return weight - (t * weight * weight.abs()).clamp(-t, t)


@SOFT.mistake(powers_of_two_pass_through)
def a_least_size_that_stays(weight, t):
    found = soft_threshold(weight, t)
    return torch.where(found.abs() > 1e-8, found, 0)


@SOFT.mistake(every_weight_loses_t_or_all_it_has, nothing_costs_less)
def the_weights_as_one_vector(weight, t):
    """Group lasso: the direction stays, so that all weights become 0 together or none."""
    return weight * (1 - t / weight.norm()).clamp(min=0)


@SOFT.mistake(two_weights_never_move_apart, nothing_costs_less)
def more_than_the_threshold_from_those_next_to_it(weight, t):
    """Firm thresholding between t and 2 t: a slope of 2."""
    size = torch.minimum(2 * (weight.abs() - t).clamp(min=0), weight.abs())
    return weight.sign() * size


@SOFT.mistake(at_the_threshold_0_nothing_moves_and_at_the_largest_all_is_0)
def a_threshold_that_is_never_0(weight, t):
    return soft_threshold(weight, t + 1e-12)


@SOFT.mistake(what_it_takes_away_is_the_nearest_of_a_box, it_is_w_less_t_or_w_plus_t_or_nothing)
def what_is_taken_for_what_stays(weight, t):
    return weight.clamp(-t, t)


@SOFT.mistake(
    its_slope_is_one_beyond_the_threshold_and_zero_within, its_slope_is_that_of_its_three_pieces
)
def straight_through(weight, t):
    return weight + (soft_threshold(weight, t) - weight).detach()


@SOFT.mistake(the_threshold_and_the_difference_are_rounded)
def shrunk_in_half_precision(weight, t):
    return soft_threshold(weight.bfloat16(), t).to(weight.dtype) * (1 + 2.0**-6)


# ------------------------------------------------------------------------------- movement_scores


class Moved(NamedTuple):
    score: Tensor
    weight: Tensor
    gradient: Tensor
    rate: float


def moved(draw: Draw, scale: float = 1.0) -> Moved:
    shape = draw.choice([(3, 5), (7,)])
    score, weight, gradient = (normal(seed_of(draw), *shape, scale=scale) for _ in range(3))
    return Moved(score, weight, gradient, draw.choice([0.01, 0.3, 2.0]))


def product_size(case: Moved) -> Tensor:
    return abs(case.rate) * (case.weight.double() * case.gradient.double()).abs()


def spec_of_movement(score: Any, weight: Any, gradient: Any, rate: float) -> Any:
    if not isinstance(score, list):
        return spec.movement_score(score, weight, gradient, rate)
    rows = zip(score, weight, gradient, strict=True)
    return [spec_of_movement(*row, rate) for row in rows]


def movement_bound(case: Moved) -> Tensor:
    exact = case.score.double() - case.rate * case.weight.double() * case.gradient.double()
    return eps_of(case.score) * (exact.abs() / 2 + 2 * product_size(case))


MOVEMENT = Proof(movement_scores, moved)


@MOVEMENT.spec
def a_score_falls_by_the_weight_times_its_gradient(formula, case):
    expected = as_tensor(spec_of_movement(*(x.tolist() for x in case[:3]), case.rate))
    return distance(formula(*case), expected, movement_bound(case)), 1


@MOVEMENT.reference
def it_is_a_step_of_torchs_sgd_straight_through_the_choice(formula, case):
    """L = Σ g w', w' = w ⊙ (keep + S - S), the last S detached."""
    score = case.score.clone().requires_grad_()
    keep = (case.score > 0).double()
    used = case.weight * (keep + score - score.detach())
    optimizer = torch.optim.SGD([score], lr=case.rate)
    (case.gradient * used).sum().backward()
    optimizer.step()
    return distance(formula(*case), score, movement_bound(case)), 2


@MOVEMENT.law
def scores_are_sums_over_the_history(formula, case):
    """-η Σ_t w_t g_t, starting from 0."""
    score, total = torch.zeros_like(case.score), torch.zeros_like(case.score)
    for t in range(5):
        weight, gradient = case.weight.roll(t, -1), case.gradient.roll(-t, -1)
        score = formula(score, weight, gradient, case.rate)
        total = total + weight * gradient
    size = 1 + total.abs() + case.weight.abs().max() * case.gradient.abs().max()
    return distance(score, -case.rate * total, size), 64 * EPS


@MOVEMENT.law
def what_moves_away_from_0_gains_and_what_moves_towards_it_loses(formula, case):
    """By a step against the gradient that does not cross 0."""
    step = case.weight.abs() / 2 * case.gradient / case.gradient.abs().max()
    grows = (case.weight - step).abs() > case.weight.abs()
    gains = formula(torch.zeros_like(case.score), *case[1:]) > 0
    return differing(gains, grows), 0


@MOVEMENT.law
def a_weight_that_was_left_out_comes_back(formula, case):
    """Its gradient asks for more of it, the others have none: it ends with the largest score."""
    score, gradient = torch.tensor([1.0, 2.0, -3.0]), torch.tensor([0.0, 0.0, -1.0])
    weight = torch.tensor([1.0, -1.0, float(case.weight.flatten()[0].abs() + 0.5)])
    for _ in range(30):
        score = formula(score, weight, gradient, 1.0)
    return float(score.argmax() != 2), 0


@MOVEMENT.law
def the_signs_of_weight_and_gradient_cancel(formula, case):
    score, weight, gradient, rate = case
    return differing(formula(score, -weight, -gradient, rate), formula(*case)), 0


@MOVEMENT.law
def the_opposite_gradient_moves_the_other_way(formula, case):
    """S + Δ and S - Δ."""
    back = formula(formula(*case), case.weight, -case.gradient, case.rate)
    return distance(back, case.score, 1 + case.score.abs() + product_size(case)), 8 * EPS


@MOVEMENT.law
def a_score_sees_its_own_weight_alone(formula, case):
    order = order_of(case.score.shape[-1])
    turned = [part[..., order] for part in case[:3]]
    louder = [torch.cat((part, 1024 * part), -1) for part in turned]
    found = formula(*louder, case.rate)[..., : len(order)]
    return differing(found, formula(*case)[..., order]), 0


@MOVEMENT.law
def half_the_rate_moves_half_as_far(formula, case):
    zero = torch.zeros_like(case.score)
    half = formula(zero, case.weight, case.gradient, case.rate / 2)
    return differing(2 * half, formula(zero, *case[1:])), 0


@MOVEMENT.gradient
def its_slopes_are_one_and_two_products(formula, case):
    """dS = u, dw = -η g u, dg = -η w u"""
    upstream = normal(9, *case.score.shape)
    found = gradients(lambda *parts: formula(*parts, case.rate), case[:3], upstream)
    scaled = -case.rate * upstream
    expected = (upstream, scaled * case.gradient, scaled * case.weight)
    gaps = [distance(a, b, b.abs()) for a, b in zip(found, expected, strict=True)]
    return max(gaps), 4 * EPS


@MOVEMENT.gradient(cost=2)
def its_slope_is_that_of_the_product(formula, case):
    return slopes(
        lambda *parts: formula(*parts, case.rate),
        lambda *parts: spec_of_movement(*parts, case.rate),
        case[:3],
    )


@MOVEMENT.accuracy(
    {
        "normal": moved,
        "tiny": lambda draw: moved(draw, 1e-15),
        "large": lambda draw: moved(draw, 1e15),
        "scores that cancel": lambda draw: cancelling(moved(draw)),
        "scores of 0": lambda draw: moved(draw)._replace(score=torch.zeros(1).double()),
    },
    torch_twin=lambda score, weight, gradient, rate: torch.addcmul(
        score, weight, gradient, value=-rate
    ),
)
def a_product_of_three_and_a_difference_are_rounded(formula, case):
    exact = case.score.double() - case.rate * case.weight.double() * case.gradient.double()
    return distance(formula(*case), exact, movement_bound(case)), 1


def cancelling(case: Moved) -> Moved:
    return case._replace(score=case.rate * case.weight * case.gradient * (1 + 1e-3))


@MOVEMENT.mistake(
    what_moves_away_from_0_gains_and_what_moves_towards_it_loses,
    the_opposite_gradient_moves_the_other_way,
)
def by_the_size_of_the_product(score, weight, gradient, rate):
    """Sensitivity: how much a weight matters, whichever way it moves."""
    return score + rate * (weight * gradient).abs()


@MOVEMENT.mistake(
    what_moves_away_from_0_gains_and_what_moves_towards_it_loses,
    a_weight_that_was_left_out_comes_back,
    it_is_a_step_of_torchs_sgd_straight_through_the_choice,
)
def towards_0_gains(score, weight, gradient, rate):
    return score + rate * weight * gradient


@MOVEMENT.mistake(
    the_signs_of_weight_and_gradient_cancel, a_score_falls_by_the_weight_times_its_gradient,
    its_slope_is_that_of_the_product,
)
def without_the_weight(score, weight, gradient, rate):
    return score - rate * gradient


@MOVEMENT.mistake(
    the_signs_of_weight_and_gradient_cancel,
    what_moves_away_from_0_gains_and_what_moves_towards_it_loses,
)
def by_the_size_of_the_weight(score, weight, gradient, rate):
    return score - rate * weight.abs() * gradient


@MOVEMENT.mistake(
    a_weight_that_was_left_out_comes_back, it_is_a_step_of_torchs_sgd_straight_through_the_choice
)
def of_the_weights_that_are_kept(score, weight, gradient, rate):
    """The masked weight: one that is left out has the slope 0 and never comes back."""
    return movement_scores(score, weight * keep_largest(score, 1 / 3), gradient, rate)


@MOVEMENT.mistake(scores_are_sums_over_the_history)
def the_last_step_alone(score, weight, gradient, rate):
    return -rate * weight * gradient


@MOVEMENT.mistake(scores_are_sums_over_the_history, its_slopes_are_one_and_two_products)
def a_running_mean(score, weight, gradient, rate):
    return movement_scores(0.9 * score, weight, gradient, rate)


@MOVEMENT.mistake(half_the_rate_moves_half_as_far, a_score_falls_by_the_weight_times_its_gradient)
def the_rate_forgotten(score, weight, gradient, rate):
    return score - weight * gradient


@MOVEMENT.mistake(a_score_sees_its_own_weight_alone)
def in_units_of_the_largest_gradient(score, weight, gradient, rate):
    return movement_scores(score, weight, gradient / gradient.abs().max(), rate)


@MOVEMENT.mistake(a_score_falls_by_the_weight_times_its_gradient)
def by_the_sign_of_the_gradient(score, weight, gradient, rate):
    return movement_scores(score, weight, gradient.sign(), rate)


@MOVEMENT.mistake(its_slopes_are_one_and_two_products)
def the_gradient_taken_for_a_constant(score, weight, gradient, rate):
    return movement_scores(score, weight, gradient.detach(), rate)


@MOVEMENT.mistake(a_product_of_three_and_a_difference_are_rounded)
def moved_in_half_precision(score, weight, gradient, rate):
    narrow = [part.bfloat16() for part in (score, weight, gradient)]
    return movement_scores(*narrow, rate).to(score.dtype) * (1 + 2.0**-6)


# -------------------------------------------------------------------------------- gate_gradients


class Gated(NamedTuple):
    weight: Tensor
    gradient: Tensor
    groups: int


def gated(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> Gated:
    """Sometimes as many outputs as inputs, so that the other axis would fit."""
    height, width, groups = draw.choice([(5, 6, 3), (6, 6, 2), (4, 4, 4), (3, 10, 5), (7, 12, 3)])
    weight, gradient = (
        normal(seed_of(draw), height, width, scale=scale, offset=offset) for _ in range(2)
    )
    return Gated(weight, gradient, groups)


def gate_bound(case: Gated) -> Tensor:
    """n products and n - 1 sums for the n weights of a group."""
    sizes = (case.weight.double() * case.gradient.double()).abs().sum(0)
    own = (case.weight.numel() / case.groups + 1) / 2 * at_least_eps32(case.weight)
    return own * sizes.unflatten(0, (case.groups, -1)).sum(1)


def spec_of_gates(case: Gated) -> Tensor:
    lists = case.weight.double().tolist(), case.gradient.double().tolist()
    return as_tensor(spec.gate_gradients(*lists, case.groups))


GATES = Proof(gate_gradients, gated)


@GATES.spec
def it_is_the_sum_of_weights_times_gradients_of_a_group(formula, case):
    return distance(formula(*case), spec_of_gates(case), gate_bound(case)), 1


@GATES.reference
def it_is_torchs_einsum_over_groups(formula, case):
    weight, gradient = (groups_of(x, x.shape[1] // case.groups) for x in case[:2])
    expected = torch.einsum("ogk,ogk->g", weight, gradient)
    return distance(formula(*case), expected, gate_bound(case)), 2


@GATES.law
def larger_groups_are_sums_of_smaller_ones(formula, case):
    width = case.weight.shape[1]
    single = formula(case.weight, case.gradient, width).unflatten(0, (case.groups, -1)).sum(1)
    error = distance(single, formula(*case), gate_bound(case))
    whole = formula(case.weight, case.gradient, 1)
    return error + distance(whole, formula(*case).sum(0, True), gate_bound(case).sum()), 8


@GATES.law
def groups_move_with_their_inputs(formula, case):
    def turned(x: Tensor) -> Tensor:
        return groups_of(x, x.shape[1] // case.groups).flip(1).roll(1, 2).flatten(1)

    found = formula(turned(case.weight), turned(case.gradient), case.groups)
    return distance(found, formula(*case).flip(0), gate_bound(case).flip(0)), 2


@GATES.law
def the_outputs_may_be_reordered(formula, case):
    order = order_of(len(case.weight))
    found = formula(case.weight[order], case.gradient[order], case.groups)
    return distance(found, formula(*case), gate_bound(case)), 2


@GATES.law
def a_factor_may_move_from_weights_to_gradients(formula, case):
    """A network whose weights are written in another unit is the same network."""
    found = formula(8 * case.weight, case.gradient / 8, case.groups)
    return differing(found, formula(*case)), 0


@GATES.law
def the_opposite_gradient_has_opposite_gates(formula, case):
    return differing(formula(case.weight, -case.gradient, case.groups), -formula(*case)), 0


@GATES.law
def half_precision_gates_are_those_of_float32(formula, case):
    error = 0.0
    for dtype in (torch.float16, torch.bfloat16):
        narrow = [part.to(dtype) for part in case[:2]]
        wide = [part.float() for part in narrow]
        error += differing(formula(*narrow, case.groups), formula(*wide, case.groups))
    return error, 0


@GATES.law(cases=lambda draw: heads_case(draw))
def for_a_linear_loss_it_is_what_is_lost_without_the_head(formula, case):
    """L = Σ u y: L with all heads minus L without head n."""
    upstream = normal(9, *case.hidden.shape)
    found = formula(*weight_and_gradient(case, upstream), case.n_heads)
    others = 1 - torch.eye(case.n_heads, dtype=torch.float64)
    whole = (upstream * attended(case, case.weights, case.n_heads)).sum()
    lost = [whole - (upstream * gated_output(case, gates)).sum() for gates in others]
    return distance(found, torch.stack(lost)), 1024 * EPS


def bent(y: Tensor) -> Tensor:
    """Any function that is not linear."""
    return torch.sin(y) + y**2 / 2


@GATES.gradient(cases=lambda draw: heads_case(draw))
def it_is_the_slope_of_real_gates_on_heads(formula, case):
    upstream, context = normal(9, *case.hidden.shape), context_of(case)
    weight, bias = case.weights.output
    (slope,) = gradients(lambda w: bent(linear(context, w, bias)), [weight], upstream)
    ones = torch.ones(case.n_heads, dtype=torch.float64)
    (expected,) = gradients(lambda gates: bent(gated_output(case, gates)), [ones], upstream)
    size = (weight * slope).abs().sum()
    return distance(formula(weight, slope, case.n_heads), expected, 1 + size), 256 * EPS


@GATES.gradient(cases=lambda draw: units_case(draw))
def it_is_the_slope_of_real_gates_on_units(formula, case):
    upstream = normal(9, *case.hidden.shape)
    (weight, bias), inner = case.weights.output, len(case.weights.intermediate.bias_O)
    units = gelu_erf(linear(case.hidden, *case.weights.intermediate))
    (slope,) = gradients(lambda w: bent(linear(units, w, bias)), [weight], upstream)
    ones = torch.ones(inner, dtype=torch.float64)
    (expected,) = gradients(lambda gates: bent(gated_units(case, gates)), [ones], upstream)
    size = (weight * slope).abs().sum()
    return distance(formula(weight, slope, inner), expected, 1 + size), 256 * EPS


@GATES.gradient(cases=lambda draw: heads_case(draw), cost=4)
def it_is_the_slope_of_attention_whose_columns_are_scaled(formula, case):
    """Differences of the spec, column i of W_o times the gate of its head."""
    upstream, lists = normal(9, *case.hidden.shape), as_lists(case.weights)
    size = len(lists.query.bias_O) // case.n_heads

    def scaled(gates: list[float]) -> Any:
        rows = [
            [w * gates[i // size] for i, w in enumerate(row)] for row in lists.output.weight_OI
        ]
        weights = lists._replace(output=lists.output._replace(weight_OI=rows))
        return spec_of_attention(case, weights, case.n_heads)

    ones, direction = torch.ones(case.n_heads).double(), normal(10, case.n_heads)
    expected = slope_of_spec(scaled, [ones], upstream, [direction], 1e-2)
    found = formula(*weight_and_gradient(case, upstream), case.n_heads)
    return abs(float((found * direction).sum()) - expected), 1e-11 * (10 + abs(expected))


@GATES.accuracy(
    {
        "normal": gated,
        "tiny": lambda draw: gated(draw, 1e-15),
        "large": lambda draw: gated(draw, 1e15),
        "a large offset": lambda draw: gated(draw, 1.0, 1e3),
        "products that cancel": lambda draw: opposite(gated(draw)),
    },
    torch_twin=lambda weight, gradient, groups: torch.einsum(
        "ogk,ogk->g", *(groups_of(x, x.shape[1] // groups) for x in (weight, gradient))
    ),
)
def a_gate_is_exact_up_to_the_size_of_its_terms(formula, case):
    return distance(formula(*case), spec_of_gates(case), gate_bound(case)), 1


def opposite(case: Gated) -> Gated:
    """Every row twice, the second time with the opposite gradient."""
    weight = torch.cat((case.weight, case.weight * (1 + 1e-3)))
    return case._replace(weight=weight, gradient=torch.cat((case.gradient, -case.gradient)))


@GATES.mistake(
    the_opposite_gradient_has_opposite_gates, it_is_the_slope_of_real_gates_on_heads,
    for_a_linear_loss_it_is_what_is_lost_without_the_head,
)
def sizes_before_the_sum(weight, gradient, groups):
    return gate_gradients(weight.abs(), gradient.abs(), groups)


@GATES.mistake(the_opposite_gradient_has_opposite_gates)
def the_size_of_the_sum(weight, gradient, groups):
    """As the mean over texts needs it; but sizes are taken later, and some uses need the sign."""
    return gate_gradients(weight, gradient, groups).abs()


@GATES.mistake(
    it_is_the_sum_of_weights_times_gradients_of_a_group, groups_move_with_their_inputs,
    the_outputs_may_be_reordered,
)
def groups_of_outputs(weight, gradient, groups):
    square = weight.shape[0] == weight.shape[1]
    return gate_gradients(*((weight.T, gradient.T) if square else (weight, gradient)), groups)


@GATES.mistake(
    groups_move_with_their_inputs, larger_groups_are_sums_of_smaller_ones,
    it_is_the_slope_of_attention_whose_columns_are_scaled,
)
def every_nth_input_is_a_group(weight, gradient, groups):
    return (weight * gradient).sum(0).unflatten(0, (-1, groups)).sum(0)


@GATES.mistake(
    larger_groups_are_sums_of_smaller_ones, it_is_torchs_einsum_over_groups,
    it_is_the_slope_of_real_gates_on_heads,
)
def the_mean_over_a_group(weight, gradient, groups):
    return gate_gradients(weight, gradient, groups) * groups / weight.shape[1]


@GATES.mistake(
    a_factor_may_move_from_weights_to_gradients, it_is_the_slope_of_real_gates_on_units
)
def the_gradient_alone(weight, gradient, groups):
    return gate_gradients(torch.ones_like(weight), gradient, groups)


@GATES.mistake(
    a_factor_may_move_from_weights_to_gradients, the_opposite_gradient_has_opposite_gates
)
def the_weights_alone(weight, gradient, groups):
    """Magnitude: no loss is involved."""
    return gate_gradients(weight, weight, groups)


@GATES.mistake(a_factor_may_move_from_weights_to_gradients)
def lengths_for_a_product(weight, gradient, groups):
    """‖∂L/∂W‖² of a group: a slope of all its weights at once."""
    return gate_gradients(gradient, gradient, groups)


@GATES.mistake(the_outputs_may_be_reordered, it_is_the_slope_of_real_gates_on_heads)
def the_first_output_alone(weight, gradient, groups):
    return gate_gradients(weight[:1], gradient[:1], groups)


@GATES.mistake(for_a_linear_loss_it_is_what_is_lost_without_the_head)
def what_is_won_without_the_head(weight, gradient, groups):
    return -gate_gradients(weight, gradient, groups)


@GATES.mistake(
    half_precision_gates_are_those_of_float32, a_gate_is_exact_up_to_the_size_of_its_terms
)
def multiplied_in_half_precision(weight, gradient, groups):
    product = weight * gradient
    return gate_gradients(product, torch.ones_like(product), groups)


# ------------------------------------------------------------------------------------ keep_heads


class HeadsCase(NamedTuple):
    """N K need not be D: it no longer is after heads were pruned."""

    hidden: Tensor
    memory: Tensor
    bias: Tensor
    weights: AttentionWeights
    heads: Tensor
    n_heads: int


def map_of(draw: Draw, out_width: int, in_width: int) -> LinearWeights:
    weight = normal(seed_of(draw), out_width, in_width) / math.sqrt(in_width)
    return LinearWeights(weight, normal(seed_of(draw), out_width))


def heads_case(draw: Draw) -> HeadsCase:
    """Two texts of 3 queries and 4 keys; the last key of the second is padding."""
    n_heads, size = draw.choice([(2, 3), (3, 2), (4, 2)])
    joined = n_heads * size
    width = draw.choice([joined, 5])
    bias = torch.zeros(2, 1, 1, 4, dtype=torch.float64)
    bias[1, ..., 3] = -math.inf
    query, key, value = (map_of(draw, joined, width) for _ in range(3))
    weights = AttentionWeights(query, key, value, map_of(draw, width, joined))
    hidden, memory = normal(seed_of(draw), 2, 3, width), normal(seed_of(draw), 2, 4, width)
    heads = order_of(n_heads, seed_of(draw))[: draw.integer(1, n_heads - 1)]
    return HeadsCase(hidden, memory, bias, weights, heads, n_heads)


def attended(case: HeadsCase, weights: AttentionWeights, n_heads: int) -> Tensor:
    trace = multi_head_attention(case.hidden, case.memory, case.bias, weights, n_heads)
    return trace.output_BSD


def pruned_output(formula: Callable[..., Any], case: HeadsCase) -> Tensor:
    return attended(case, formula(case.weights, case.heads, case.n_heads), len(case.heads))


def context_of(case: HeadsCase) -> Tensor:
    """The contexts of the heads, side by side, before the output map."""
    trace = multi_head_attention(case.hidden, case.memory, case.bias, case.weights, case.n_heads)
    return merge_heads(trace.probabilities_BNSR @ trace.value_BNRK)


def gated_output(case: HeadsCase, gates: Tensor) -> Tensor:
    """The output with a gate in front of each head's context."""
    context = context_of(case)
    return linear(
        context * gates.repeat_interleave(context.shape[-1] // case.n_heads), *case.weights.output
    )


def weight_and_gradient(case: HeadsCase, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Of the output map, for the loss Σ upstream · output."""
    weight, bias = case.weights.output
    context = context_of(case)
    (slope,) = gradients(lambda w: linear(context, w, bias), [weight], upstream)
    return weight, slope


def gates_of(case: HeadsCase) -> Tensor:
    """1 for the heads that are kept, 0 for the others."""
    return torch.zeros(case.n_heads, dtype=torch.float64).index_fill(0, case.heads, 1.0)


def apart(found: Any, expected: Any) -> float:
    """How many numbers of two structures differ."""
    pairs = zip(parts_of(found), parts_of(expected), strict=True)
    return math.fsum(differing(a, b) for a, b in pairs)


def spec_of_attention(case: HeadsCase, weights: Any, n_heads: int) -> Any:
    """`weights` has lists as leaves."""
    texts = zip(case.hidden.tolist(), case.memory.tolist(), case.bias[:, 0].tolist(), strict=True)
    return [
        forward_spec.multi_head_attention(x, m, bias * len(x), weights, n_heads)
        for x, m, bias in texts
    ]


KEEP_HEADS = Proof(keep_heads, heads_case, without={"accuracy": NOTHING_ROUNDED})


@KEEP_HEADS.spec
def rows_and_columns_of_the_kept_heads_remain(formula, case):
    found = formula(case.weights, case.heads, case.n_heads)
    lists = spec.keep_heads(as_lists(case.weights), case.heads.tolist(), case.n_heads)
    expected = with_parts(found, [as_tensor(part) for part in leaves_of(lists)])
    return apart(found, expected), 0


def leaves_of(structure: Any) -> list[Any]:
    """The lists of a named structure, in the order of its tensors."""
    if not hasattr(structure, "_fields"):
        return [structure]
    return [leaf for part in structure for leaf in leaves_of(part)]


@KEEP_HEADS.reference
def it_is_torchs_attention_of_the_kept_heads(formula, case):
    def heads_of(x: Tensor, part: LinearWeights) -> Tensor:
        return F.linear(x, *part).unflatten(-1, (case.n_heads, -1)).transpose(1, 2)[:, case.heads]

    weights, memory = case.weights, case.memory
    query, key = heads_of(case.hidden, weights.query), heads_of(memory, weights.key)
    value = heads_of(memory, weights.value)
    taken = F.scaled_dot_product_attention(query, key, value, case.bias)
    columns = weights.output.weight_OI.unflatten(1, (case.n_heads, -1))[:, case.heads].flatten(1)
    expected = F.linear(taken.transpose(1, 2).flatten(2), columns, weights.output.bias_O)
    return distance(pruned_output(formula, case), expected), 256 * EPS


@KEEP_HEADS.law
def the_others_count_as_contexts_of_0(formula, case):
    return distance(pruned_output(formula, case), gated_output(case, gates_of(case))), 256 * EPS


@KEEP_HEADS.law
def what_the_others_hold_does_not_matter(formula, case):
    """Not even NaN."""
    mask = gates_of(case).repeat_interleave(len(case.weights.query.bias_O) // case.n_heads) > 0
    *inner, output = case.weights
    odd = [
        LinearWeights(
            torch.where(mask[:, None], part.weight_OI, math.nan),
            torch.where(mask, part.bias_O, math.nan),
        )
        for part in inner
    ]
    last = output._replace(weight_OI=torch.where(mask, output.weight_OI, math.nan))
    found = formula(AttentionWeights(*odd, last), case.heads, case.n_heads)
    return apart(found, formula(case.weights, case.heads, case.n_heads)), 0


@KEEP_HEADS.law
def all_heads_in_order_are_the_same_weights(formula, case):
    return apart(formula(case.weights, torch.arange(case.n_heads), case.n_heads), case.weights), 0


@KEEP_HEADS.law
def the_order_of_the_heads_does_not_matter(formula, case):
    order = case._replace(heads=case.heads.roll(1))
    return distance(pruned_output(formula, order), pruned_output(formula, case)), 256 * EPS


@KEEP_HEADS.law
def choosing_twice_is_choosing_once(formula, case):
    order = order_of(case.n_heads)
    first = formula(case.weights, order, case.n_heads)
    twice = formula(first, case.heads, case.n_heads)
    return apart(twice, formula(case.weights, order[case.heads], case.n_heads)), 0


@KEEP_HEADS.law
def single_heads_add_up_to_all(formula, case):
    """Each without the bias of the output."""
    bias = case.weights.output.bias_O
    total = bias + sum(
        pruned_output(formula, case._replace(heads=torch.tensor([n]))) - bias
        for n in range(case.n_heads)
    )
    return distance(total, attended(case, case.weights, case.n_heads)), 512 * EPS


@KEEP_HEADS.law
def the_bias_of_the_output_stays(formula, case):
    found = formula(case.weights, case.heads, case.n_heads).output.bias_O
    return differing(found, case.weights.output.bias_O), 0


@KEEP_HEADS.gradient
def kept_weights_have_the_slope_of_gated_heads_and_the_others_none(formula, case):
    upstream, parts = normal(9, *case.hidden.shape), parts_of(case.weights)

    def ours(*parts: Tensor) -> Tensor:
        return pruned_output(formula, case._replace(weights=with_parts(case.weights, parts)))

    def gated(*parts: Tensor) -> Tensor:
        weights = with_parts(case.weights, parts)
        return gated_output(case._replace(weights=weights), gates_of(case))

    pairs = zip(*(gradients(f, parts, upstream) for f in (ours, gated)), strict=True)
    return max(distance(a, b) for a, b in pairs), 1024 * EPS


@KEEP_HEADS.gradient(cost=8)
def its_slope_is_that_of_attention_with_fewer_heads(formula, case):
    def of_lists(*parts: Any) -> Any:
        weights = with_parts(case.weights, parts)
        kept = spec.keep_heads(weights, case.heads.tolist(), case.n_heads)
        return spec_of_attention(case, kept, len(case.heads))

    return slopes(
        lambda *parts: pruned_output(
            formula, case._replace(weights=with_parts(case.weights, parts))
        ),
        of_lists,
        parts_of(case.weights),
        1e-10,
    )


def taken(part: LinearWeights, rows: Tensor) -> LinearWeights:
    return LinearWeights(part.weight_OI[rows], part.bias_O[rows])


def with_rows(weights: AttentionWeights, rows: Tensor, columns: Tensor) -> AttentionWeights:
    """These rows of the first three maps, these columns of the last."""
    query, key, value = (taken(part, rows) for part in weights[:3])
    output = weights.output._replace(weight_OI=weights.output.weight_OI[:, columns])
    return AttentionWeights(query, key, value, output)


def places(weights: AttentionWeights, n_heads: int) -> Tensor:
    """[N, K]: where the numbers of each head lie."""
    return torch.arange(len(weights.query.bias_O)).view(n_heads, -1)


@KEEP_HEADS.mistake(
    rows_and_columns_of_the_kept_heads_remain, the_others_count_as_contexts_of_0,
    single_heads_add_up_to_all, what_the_others_hold_does_not_matter,
)
def rows_of_the_output_map(weights, heads, n_heads):
    """Which fits where N K is D."""
    found = keep_heads(weights, heads, n_heads)
    rows = places(weights, n_heads)[heads].flatten()
    weight = weights.output.weight_OI
    if weight.shape[0] != weight.shape[1]:
        return found
    return found._replace(output=found.output._replace(weight_OI=weight[rows].T))


@KEEP_HEADS.mistake(
    it_is_torchs_attention_of_the_kept_heads, rows_and_columns_of_the_kept_heads_remain,
    its_slope_is_that_of_attention_with_fewer_heads,
)
def every_nth_number_is_a_head(weights, heads, n_heads):
    """Heads interleaved: k N + n."""
    rows = torch.arange(len(weights.query.bias_O)).view(-1, n_heads).T[heads].flatten()
    return with_rows(weights, rows, rows)


@KEEP_HEADS.mistake(
    the_others_count_as_contexts_of_0, all_heads_in_order_are_the_same_weights
)
def without_the_biases_of_the_heads(weights, heads, n_heads):
    found = keep_heads(weights, heads, n_heads)
    bare = [part._replace(bias_O=0 * part.bias_O) for part in found[:3]]
    return AttentionWeights(*bare, found.output)


@KEEP_HEADS.mistake(
    what_the_others_hold_does_not_matter, rows_and_columns_of_the_kept_heads_remain
)
def the_biases_of_the_first_heads(weights, heads, n_heads):
    found = keep_heads(weights, heads, n_heads)
    wrong = [
        part._replace(bias_O=whole.bias_O[: len(part.bias_O)])
        for part, whole in zip(found[:3], weights[:3], strict=True)
    ]
    return AttentionWeights(*wrong, found.output)


@KEEP_HEADS.mistake(the_bias_of_the_output_stays, single_heads_add_up_to_all)
def a_share_of_the_output_bias(weights, heads, n_heads):
    """As if each head contributed a part of it."""
    found = keep_heads(weights, heads, n_heads)
    share = len(heads) / n_heads
    return found._replace(output=found.output._replace(bias_O=share * found.output.bias_O))


@KEEP_HEADS.mistake(
    the_bias_of_the_output_stays, all_heads_in_order_are_the_same_weights
)
def without_the_output_bias(weights, heads, n_heads):
    found = keep_heads(weights, heads, n_heads)
    return found._replace(output=found.output._replace(bias_O=0 * found.output.bias_O))


@KEEP_HEADS.mistake(single_heads_add_up_to_all, it_is_torchs_attention_of_the_kept_heads)
def the_rest_made_louder(weights, heads, n_heads):
    """As dropout does it; pruning does not."""
    found = keep_heads(weights, heads, n_heads)
    louder = found.output.weight_OI * n_heads / len(heads)
    return found._replace(output=found.output._replace(weight_OI=louder))


@KEEP_HEADS.mistake(
    rows_and_columns_of_the_kept_heads_remain, choosing_twice_is_choosing_once,
    the_order_of_the_heads_does_not_matter,
)
def columns_in_the_old_order(weights, heads, n_heads):
    where = places(weights, n_heads)
    return with_rows(weights, where[heads].flatten(), where[heads.sort().values].flatten())


@KEEP_HEADS.mistake(single_heads_add_up_to_all, what_the_others_hold_does_not_matter)
def as_many_of_the_first_heads(weights, heads, n_heads):
    return keep_heads(weights, torch.arange(len(heads)), n_heads)


@KEEP_HEADS.mistake(
    all_heads_in_order_are_the_same_weights, the_others_count_as_contexts_of_0
)
def heads_counted_from_one(weights, heads, n_heads):
    return keep_heads(weights, (heads - 1) % n_heads, n_heads)


@KEEP_HEADS.mistake(choosing_twice_is_choosing_once, all_heads_in_order_are_the_same_weights)
def a_head_is_one_number_further(weights, heads, n_heads):
    """n + k in place of n K + k."""
    size = len(weights.query.bias_O) // n_heads
    rows = (heads[:, None] + torch.arange(size)).flatten()
    return with_rows(weights, rows, rows)


@KEEP_HEADS.mistake(
    kept_weights_have_the_slope_of_gated_heads_and_the_others_none,
    its_slope_is_that_of_attention_with_fewer_heads,
)
def the_output_map_not_trained(weights, heads, n_heads):
    found = keep_heads(weights, heads, n_heads)
    return found._replace(output=LinearWeights(*(part.detach() for part in found.output)))


# ------------------------------------------------------------------------------------ keep_units


class UnitsCase(NamedTuple):
    hidden: Tensor
    weights: BlockWeights
    units: Tensor


def units_case(draw: Draw) -> UnitsCase:
    width, inner = draw.choice([(5, 7), (5, 5), (3, 11)])
    attention = AttentionWeights(*(map_of(draw, width, width) for _ in range(4)))
    norms = [
        LayerNormWeights(normal(seed_of(draw), width), normal(seed_of(draw), width))
        for _ in range(2)
    ]
    first, second = map_of(draw, inner, width), map_of(draw, width, inner)
    weights = BlockWeights(attention, norms[0], first, second, norms[1])
    units = order_of(inner, seed_of(draw))[: draw.integer(2, inner - 1)]
    return UnitsCase(normal(seed_of(draw), 2, 3, width), weights, units)


def fed(formula: Callable[..., Any], case: UnitsCase) -> Tensor:
    return feed_forward(case.hidden, formula(case.weights, case.units), "gelu")


def gated_units(case: UnitsCase, gates: Tensor) -> Tensor:
    """The output with a gate in front of each unit."""
    inner = gelu_erf(linear(case.hidden, *case.weights.intermediate))
    return linear(inner * gates, *case.weights.output)


def unit_gates(case: UnitsCase) -> Tensor:
    inner = len(case.weights.intermediate.bias_O)
    return torch.zeros(inner, dtype=torch.float64).index_fill(0, case.units, 1.0)


KEEP_UNITS = Proof(keep_units, units_case, without={"accuracy": NOTHING_ROUNDED})


@KEEP_UNITS.spec
def rows_and_columns_of_the_kept_units_remain(formula, case):
    found = formula(case.weights, case.units)
    lists = spec.keep_units(as_lists(case.weights), case.units.tolist())
    return apart(found, with_parts(found, [as_tensor(part) for part in leaves_of(lists)])), 0


@KEEP_UNITS.reference
def it_is_torchs_feed_forward_of_the_kept_units(formula, case):
    first, second = case.weights.intermediate, case.weights.output
    inner = F.gelu(F.linear(case.hidden, *first))[..., case.units]
    expected = F.linear(inner, second.weight_OI[:, case.units], second.bias_O)
    return distance(fed(formula, case), expected), 128 * EPS


@KEEP_UNITS.law
def the_other_units_count_as_0(formula, case):
    return distance(fed(formula, case), gated_units(case, unit_gates(case))), 128 * EPS


@KEEP_UNITS.law
def all_units_in_order_are_the_same_weights(formula, case):
    inner = len(case.weights.intermediate.bias_O)
    return apart(formula(case.weights, torch.arange(inner)), case.weights), 0


@KEEP_UNITS.law
def the_order_of_the_units_does_not_matter(formula, case):
    turned = case._replace(units=case.units.roll(1))
    return distance(fed(formula, turned), fed(formula, case)), 128 * EPS


@KEEP_UNITS.law
def two_parts_of_the_units_add_up_to_all(formula, case):
    """Each without the bias of the second map."""
    gone = (unit_gates(case) == 0).nonzero()[:, 0]
    bias = case.weights.output.bias_O
    total = fed(formula, case) + fed(formula, case._replace(units=gone)) - bias
    return distance(total, feed_forward(case.hidden, case.weights, "gelu")), 128 * EPS


@KEEP_UNITS.law
def units_chosen_twice_are_chosen_once(formula, case):
    order = order_of(len(case.weights.intermediate.bias_O))
    twice = formula(formula(case.weights, order), case.units)
    return apart(twice, formula(case.weights, order[case.units])), 0


@KEEP_UNITS.law
def the_rest_of_the_block_stays(formula, case):
    """Attention, both norms, and the bias of the second map."""
    found, given = formula(case.weights, case.units), case.weights
    error = apart(found.attention, given.attention)
    error += apart(found.attention_norm, given.attention_norm)
    error += apart(found.output_norm, given.output_norm)
    return error + differing(found.output.bias_O, given.output.bias_O), 0


@KEEP_UNITS.gradient
def kept_units_have_the_slope_of_gated_units_and_the_others_none(formula, case):
    maps = (case.weights.intermediate, case.weights.output)

    def with_maps(parts: tuple[Tensor, ...]) -> UnitsCase:
        first, second = with_parts(maps[0], parts[:2]), with_parts(maps[1], parts[2:])
        return case._replace(weights=case.weights._replace(intermediate=first, output=second))

    def ours(*parts: Tensor) -> Tensor:
        return fed(formula, with_maps(parts))

    def gated(*parts: Tensor) -> Tensor:
        return gated_units(with_maps(parts), unit_gates(case))

    upstream, leaves = normal(9, *case.hidden.shape), [*maps[0], *maps[1]]
    pairs = zip(*(gradients(f, leaves, upstream) for f in (ours, gated)), strict=True)
    return max(distance(a, b) for a, b in pairs), 256 * EPS


@KEEP_UNITS.gradient(cost=4)
def its_slope_is_that_of_feed_forward_with_fewer_units(formula, case):
    def of_lists(*parts: Any) -> Any:
        kept = spec.keep_units(with_parts(case.weights, parts), case.units.tolist())
        return over_rows(forward_spec.feed_forward, case.hidden.tolist(), kept, "gelu")

    return slopes(
        lambda *parts: fed(formula, case._replace(weights=with_parts(case.weights, parts))),
        of_lists,
        parts_of(case.weights),
    )


def with_second(weights: BlockWeights, **parts: Tensor) -> BlockWeights:
    return weights._replace(output=weights.output._replace(**parts))


@KEEP_UNITS.mistake(the_other_units_count_as_0, rows_and_columns_of_the_kept_units_remain)
def rows_of_the_second_map(weights, units):
    """Which fits where F is D."""
    found, weight = keep_units(weights, units), weights.output.weight_OI
    square = weight.shape[0] == weight.shape[1]
    return with_second(found, weight_OI=weight[units].T) if square else found


@KEEP_UNITS.mistake(the_rest_of_the_block_stays, two_parts_of_the_units_add_up_to_all)
def the_second_bias_cut(weights, units):
    """Where there are fewer units than outputs, the rest of the bias is 0."""
    bias = weights.output.bias_O
    kept = torch.arange(len(bias)) < len(units) - 1
    return with_second(keep_units(weights, units), bias_O=torch.where(kept, bias, 0))


@KEEP_UNITS.mistake(
    it_is_torchs_feed_forward_of_the_kept_units, all_units_in_order_are_the_same_weights,
    its_slope_is_that_of_feed_forward_with_fewer_units,
)
def without_the_first_bias(weights, units):
    found = keep_units(weights, units)
    first = found.intermediate
    return found._replace(intermediate=first._replace(bias_O=0 * first.bias_O))


@KEEP_UNITS.mistake(
    rows_and_columns_of_the_kept_units_remain, two_parts_of_the_units_add_up_to_all
)
def the_first_bias_of_the_first_units(weights, units):
    found = keep_units(weights, units)
    bias = weights.intermediate.bias_O[: len(units)]
    return found._replace(intermediate=found.intermediate._replace(bias_O=bias))


@KEEP_UNITS.mistake(two_parts_of_the_units_add_up_to_all, the_other_units_count_as_0)
def units_made_louder(weights, units):
    found = keep_units(weights, units)
    factor = len(weights.intermediate.bias_O) / len(units)
    return with_second(found, weight_OI=factor * found.output.weight_OI)


@KEEP_UNITS.mistake(the_order_of_the_units_does_not_matter, units_chosen_twice_are_chosen_once)
def columns_of_units_in_the_old_order(weights, units):
    columns = weights.output.weight_OI[:, units.sort().values]
    return with_second(keep_units(weights, units), weight_OI=columns)


@KEEP_UNITS.mistake(two_parts_of_the_units_add_up_to_all, the_other_units_count_as_0)
def as_many_of_the_first_units(weights, units):
    return keep_units(weights, torch.arange(len(units)))


@KEEP_UNITS.mistake(the_rest_of_the_block_stays)
def the_last_norm_scaled(weights, units):
    """To make up for the units that are gone."""
    found = keep_units(weights, units)
    gain = found.output_norm.gain_D * len(weights.intermediate.bias_O) / len(units)
    return found._replace(output_norm=found.output_norm._replace(gain_D=gain))


@KEEP_UNITS.mistake(
    kept_units_have_the_slope_of_gated_units_and_the_others_none,
    its_slope_is_that_of_feed_forward_with_fewer_units,
)
def the_second_map_not_trained(weights, units):
    found = keep_units(weights, units)
    return with_second(found, weight_OI=found.output.weight_OI.detach())


# ----------------------------------------------------------------------------------- fewest_bits


class Counts(NamedTuple):
    weights: int
    zeros: int


def counts(draw: Draw) -> Counts:
    weights = draw.choice([draw.integer(3, 40), draw.integer(41, 5000)])
    return Counts(weights, draw.integer(1, weights - 1))


def any_counts(draw: Draw) -> Counts:
    weights = draw.integer(0, 30)
    return Counts(weights, draw.integer(0, weights))


FEWEST_BITS = Proof(
    fewest_bits, counts, without={"gradient": "weights are counted in whole numbers"}
)


def bits_bound(case: Counts) -> float:
    """The error of a logarithm's argument counts once for each weight, the others for each bit."""
    return EPS * (case.weights + 2 * spec.fewest_bits(*case))


@FEWEST_BITS.spec(cases=any_counts)
def it_is_the_entropy_of_zeros_and_others(formula, case):
    return abs(formula(*case) - spec.fewest_bits(*case)), 4 * bits_bound(case)


@FEWEST_BITS.reference
def it_is_scipys_entropy_times_the_number(formula, case):
    parts = [case.zeros, case.weights - case.zeros]
    return abs(formula(*case) - case.weights * stats.entropy(parts, base=2)), 8 * bits_bound(case)


@FEWEST_BITS.law
def it_is_the_number_of_patterns_up_to_the_logarithm_of_n(formula, case):
    """log₂ C(n, z) <= bits <= log₂ C(n, z) + log₂ (n + 1)"""
    found, patterns = formula(*case), math.log2(math.comb(*case))
    most = patterns + math.log2(case.weights + 1)
    return max(0.0, patterns - found, found - most), bits_bound(case)


@FEWEST_BITS.law
def zeros_and_others_may_change_places(formula, case):
    return abs(formula(*case) - formula(case.weights, case.weights - case.zeros)), bits_bound(case)


@FEWEST_BITS.law(cases=any_counts)
def nothing_to_choose_takes_no_bits(formula, case):
    return abs(formula(case.weights, 0)) + abs(formula(case.weights, case.weights)), 0


@FEWEST_BITS.law
def half_of_them_take_a_bit_each(formula, case):
    return abs(formula(2 * case.weights, case.weights) - 2 * case.weights), 0


@FEWEST_BITS.law
def copies_cost_as_much_each(formula, case):
    many = formula(3 * case.weights, 3 * case.zeros)
    return abs(many - 3 * formula(*case)), 6 * bits_bound(case)


@FEWEST_BITS.law
def each_zero_more_adds_less_than_the_last(formula, case):
    n, z = case
    bend = formula(n, z - 1) + formula(n, z + 1) - 2 * formula(n, z)
    return max(0.0, bend), 8 * bits_bound(case)


@FEWEST_BITS.law
def two_tensors_with_unlike_shares_take_less_than_one(formula, case):
    """With equal shares they take just as many."""
    n, z = case
    others = Counts(n, n - z)
    apart = formula(*case) + formula(*others)
    alike = 2 * formula(*case) - formula(2 * n, 2 * z)
    together = formula(2 * n, n)
    return max(0.0, apart - together, abs(alike)), 8 * bits_bound(case) + 4 * EPS * n


BIT_COUNTS: dict[str, Callable[[Draw], Counts]] = {
    "few": any_counts,
    "many": lambda draw: Counts(10**8 + 7, draw.integer(0, 10**8)),
    "one zero": lambda draw: Counts(draw.integer(1, 10**9), 1),
    "almost half": lambda draw: Counts(10**6 + 3, 5 * 10**5 + draw.integer(-99, 99)),
}


@FEWEST_BITS.accuracy(BIT_COUNTS, PRECISE)
def bits_are_right_to_the_last_places_of_n(formula, case):
    return abs(Fraction(formula(*case)) - exact_bits(case)), bits_bound(case)


def exact_bits(case: Counts) -> Fraction:
    """With 40 digits."""
    with localcontext(prec=40):
        n, parts = Decimal(case.weights), (case.zeros, case.weights - case.zeros)
        nats = sum(part * (n / part).ln() for part in parts if part)
        return Fraction(nats / Decimal(2).ln())


@FEWEST_BITS.mistake(
    half_of_them_take_a_bit_each, it_is_scipys_entropy_times_the_number,
    it_is_the_number_of_patterns_up_to_the_logarithm_of_n,
)
def in_nats(n, z):
    return fewest_bits(n, z) * math.log(2)


@FEWEST_BITS.mistake(
    zeros_and_others_may_change_places, it_is_the_entropy_of_zeros_and_others
)
def the_zeros_alone(n, z):
    return z * math.log2(n / z) if z else 0.0


@FEWEST_BITS.mistake(
    nothing_to_choose_takes_no_bits, two_tensors_with_unlike_shares_take_less_than_one,
    it_is_the_number_of_patterns_up_to_the_logarithm_of_n,
)
def one_bit_a_weight_and_its_number(n, z):
    """A mask as it lies in memory, plus z itself."""
    return n + math.log2(z + 1)


@FEWEST_BITS.mistake(
    it_is_the_number_of_patterns_up_to_the_logarithm_of_n, it_is_scipys_entropy_times_the_number
)
def a_parabola(n, z):
    """Gini's 4 s (1 - s), which has the same ends and the same middle."""
    return 4 * z * (n - z) / n if n else 0.0


@FEWEST_BITS.mistake(copies_cost_as_much_each, half_of_them_take_a_bit_each)
def the_number_of_patterns(n, z):
    """log₂ C(n, z): the bits it takes if z is already known."""
    return math.log2(math.comb(n, z))


@FEWEST_BITS.mistake(copies_cost_as_much_each, half_of_them_take_a_bit_each)
def for_one_weight(n, z):
    return fewest_bits(n, z) / n if n else 0.0


@FEWEST_BITS.mistake(zeros_and_others_may_change_places, it_is_scipys_entropy_times_the_number)
def the_number_of_each_zero(n, z):
    """z indices, each of as many bits as the largest one has."""
    return float(z * max(1, n - 1).bit_length())


@FEWEST_BITS.mistake(each_zero_more_adds_less_than_the_last)
def in_whole_bytes(n, z):
    return 8.0 * math.ceil(fewest_bits(n, z) / 8)


@FEWEST_BITS.mistake(nothing_to_choose_takes_no_bits, copies_cost_as_much_each)
def shares_that_are_never_0(n, z):
    share = (z + 1) / (n + 2)
    return -n * (share * math.log2(share) + (1 - share) * math.log2(1 - share))


@FEWEST_BITS.mistake(bits_are_right_to_the_last_places_of_n)
def bits_in_single_precision(n, z):
    return torch.tensor(fewest_bits(n, z)).item()
