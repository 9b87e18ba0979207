"""Laws of the metrics: what scikit-learn and scipy compute is what papers mean by the name."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from minibert.data.readers import TASKS
from minibert.laws import spec_metrics as spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import EPS, integers, normal, order_of, seed_of
from minibert.training.evaluation import measured

Metric = Callable[[Tensor, Tensor], float]
NOT_OURS = {
    "reference": "it calls the library's own function",
    "gradient": "a count has no gradient, and nothing is trained on a metric",
    "accuracy": "it is a number to be read, printed with four digits",
}


def metric(name: str, task: str) -> Metric:
    """One metric of a data set, as a function of true and predicted values."""
    alone = dataclasses.replace(TASKS[task], metrics=(name,))

    def formula(true: Tensor, said: Tensor) -> float:
        said = said[:, None] if alone.regression else F.one_hot(said, 2)
        return measured(alone, said.double(), true)[name]

    return formula


class Answers(NamedTuple):
    true: Tensor
    said: Tensor


def classes(draw: Draw) -> Answers:
    """Labels of both classes, and predictions that mostly agree with them."""
    n = draw.choice([4, 7, 50])
    true, wrong = integers(seed_of(draw), 2, n), integers(seed_of(draw), 4, n) == 0
    true[:2] = torch.tensor([0, 1])
    return Answers(true, torch.where(wrong, 1 - true, true))


def scores(draw: Draw) -> Answers:
    n = draw.choice([3, 7, 50])
    true = normal(seed_of(draw), n)
    return Answers(true, true + draw.choice([0.1, 1.0, 5.0]) * normal(seed_of(draw), n))


def lists(case: Answers) -> tuple[list[float], list[float]]:
    return case.true.double().tolist(), case.said.double().tolist()


# ------------------------------------------------------------------------------------------- f1

F1 = Proof(metric("f1", "mrpc"), classes, of=(measured,), name="f1", without=NOT_OURS)


@F1.spec
def it_is_twice_the_hits_over_hits_and_misses(formula, case):
    return abs(formula(*case) - spec.f1(*lists(case))), 4 * EPS


@F1.law
def it_is_the_harmonic_mean_of_precision_and_recall(formula, case):
    true, said = case.true == 1, case.said == 1
    hits = int((true & said).sum())
    if not hits:
        return formula(*case), 0
    return abs(1 / formula(*case) - (said.sum() / hits + true.sum() / hits) / 2), 1e-6


@F1.law
def what_is_rightly_called_negative_does_not_count(formula, case):
    more = Answers(*(torch.cat((part, part.new_zeros(9))) for part in case))
    return abs(formula(*more) - formula(*case)), 4 * EPS


@F1.law
def truth_and_answer_may_change_places(formula, case):
    return abs(formula(case.said, case.true) - formula(*case)), 4 * EPS


@F1.law
def without_a_positive_it_is_zero(formula, case):
    none = torch.zeros_like(case.true)
    return abs(formula(none, none)) + abs(formula(case.true, none)), 0


@F1.law
def calling_everything_positive_has_a_known_score(formula, case):
    """2 π / (1 + π) where a share π is positive."""
    share = float(case.true.double().mean())
    found = formula(case.true, torch.ones_like(case.true))
    return abs(found - 2 * share / (1 + share)), 4 * EPS


@F1.mistake(
    it_is_twice_the_hits_over_hits_and_misses, calling_everything_positive_has_a_known_score
)
def f1_of_the_negative_class(true, said):
    return F1.formula(1 - true, 1 - said)


@F1.mistake(what_is_rightly_called_negative_does_not_count)
def f1_averaged_over_both_classes(true, said):
    return (F1.formula(true, said) + f1_of_the_negative_class(true, said)) / 2


@F1.mistake(truth_and_answer_may_change_places)
def precision_alone(true, said):
    return float(((true == 1) & (said == 1)).sum()) / max(1, int((said == 1).sum()))


@F1.mistake(it_is_the_harmonic_mean_of_precision_and_recall)
def arithmetic_mean_of_precision_and_recall(true, said):
    return (precision_alone(true, said) + precision_alone(said, true)) / 2


@F1.mistake(without_a_positive_it_is_zero)
def undefined_is_one(true, said):
    return F1.formula(true, said) if bool(((true == 1) | (said == 1)).any()) else 1.0


# -------------------------------------------------------------------------- matthews_correlation

MATTHEWS = Proof(
    metric("matthews_correlation", "cola"),
    classes,
    of=(measured,),
    name="matthews_correlation",
    without=NOT_OURS,
)


@MATTHEWS.spec
def it_is_the_determinant_over_the_root_of_the_margins(formula, case):
    return abs(formula(*case) - spec.matthews_correlation(*lists(case))), 8 * EPS


@MATTHEWS.law
def it_is_pearsons_correlation_of_zeros_and_ones(formula, case):
    if len(case.said.unique()) < 2:
        return formula(*case), 0
    return abs(formula(*case) - np.corrcoef(*lists(case))[0, 1]), 32 * EPS


@MATTHEWS.law
def right_is_1_wrong_is_minus_1_and_constant_is_0(formula, case):
    true = case.true
    gaps = [formula(true, true) - 1, formula(true, 1 - true) + 1, formula(true, 0 * true)]
    return sum(map(abs, gaps)), 4 * EPS


@MATTHEWS.law
def exchanging_the_classes_of_one_side_turns_the_sign(formula, case):
    turned = formula(1 - case.true, case.said) + formula(*case)
    return abs(turned) + abs(formula(case.said, case.true) - formula(*case)), 8 * EPS


@MATTHEWS.law
def every_row_twice_changes_nothing(formula, case):
    return abs(formula(case.true.repeat(2), case.said.repeat(2)) - formula(*case)), 8 * EPS


@MATTHEWS.mistake(
    right_is_1_wrong_is_minus_1_and_constant_is_0,
    it_is_the_determinant_over_the_root_of_the_margins,
)
def accuracy_instead(true, said):
    return float((true == said).double().mean())


@MATTHEWS.mistake(it_is_pearsons_correlation_of_zeros_and_ones)
def accuracy_from_minus_1_to_1(true, said):
    return 2 * accuracy_instead(true, said) - 1


@MATTHEWS.mistake(exchanging_the_classes_of_one_side_turns_the_sign)
def sign_lost(true, said):
    return abs(MATTHEWS.formula(true, said))


@MATTHEWS.mistake(every_row_twice_changes_nothing)
def not_divided_by_the_margins(true, said):
    TP, FP, FN, TN = spec.counts(true.tolist(), said.tolist())
    return float(TP * TN - FP * FN)


# --------------------------------------------------------------------------------------- pearson

PEARSON = Proof(
    metric("pearson", "stsb"), scores, of=(measured,), name="pearson", without=NOT_OURS
)


@PEARSON.spec
def it_is_the_covariance_over_both_deviations(formula, case):
    return abs(formula(*case) - spec.pearson(*lists(case))), 64 * EPS


@PEARSON.law
def scale_and_offset_cancel_and_a_sign_turns_it(formula, case):
    """On a grid an offset of 2^24 rounds nothing."""
    true, said = (torch.round(part * 2**20) / 2**20 for part in case)
    moved = formula(8 * true + 2**24, said / 4 - 2**24) - formula(true, said)
    return abs(moved) + abs(formula(-true, said) + formula(true, said)), 1e-6


@PEARSON.law
def itself_is_1_orthogonal_is_0_and_constant_is_0(formula, case):
    centred = case.true - case.true.mean()
    rest = case.said - case.said.mean()
    rest = rest - centred * (rest @ centred) / (centred @ centred)
    gaps = [formula(case.true, case.true) - 1, formula(case.true, 0 * case.said + 3)]
    orthogonal = formula(centred, rest) if float(rest.abs().max()) > 1e-6 else 0.0
    return sum(map(abs, [*gaps, orthogonal])), 1e-9


@PEARSON.law
def it_is_one_minus_half_the_squared_distance(formula, case):
    """Of the two as vectors of mean 0 and length 1."""
    units = [(part - part.mean()) / (part - part.mean()).norm() for part in case]
    return abs(formula(*case) - (1 - float((units[0] - units[1]).square().sum()) / 2)), 64 * EPS


@PEARSON.law
def one_outlier_decides(formula, case):
    """Both constant except at the same place: 1; except at different places: -1 / (n - 1)."""
    n = len(case.true)
    first, second = (torch.eye(n, dtype=torch.float64)[i] for i in (0, 1))
    return abs(formula(first, first) - 1) + abs(formula(first, second) + 1 / (n - 1)), 1e-12


@PEARSON.mistake(scale_and_offset_cancel_and_a_sign_turns_it, one_outlier_decides)
def cosine_without_the_mean(true, said):
    return float(torch.cosine_similarity(true, said.double(), 0))


@PEARSON.mistake(it_is_the_covariance_over_both_deviations)
def ranks_instead(true, said):
    return SPEARMAN.formula(true, said)


@PEARSON.mistake(itself_is_1_orthogonal_is_0_and_constant_is_0, nan=True)
def nan_for_a_constant(true, said):
    return PEARSON.formula(true, said) if len(said.unique()) > 1 else math.nan


@PEARSON.mistake(it_is_one_minus_half_the_squared_distance)
def squared_correlation(true, said):
    return PEARSON.formula(true, said) ** 2


# -------------------------------------------------------------------------------------- spearman

SPEARMAN = Proof(
    metric("spearman", "stsb"), scores, of=(measured,), name="spearman", without=NOT_OURS
)


@SPEARMAN.spec
def it_is_pearsons_correlation_of_the_ranks(formula, case):
    return abs(formula(*case) - spec.spearman(*lists(case))), 64 * EPS


@SPEARMAN.law
def any_rising_map_changes_nothing(formula, case):
    return abs(formula(case.true**3, torch.exp(case.said)) - formula(*case)), 64 * EPS


@SPEARMAN.law
def without_ties_it_counts_squared_distances_of_ranks(formula, case):
    """1 - 6 Σ d² / (n (n² - 1))"""
    n = len(case.true)
    d = stats.rankdata(case.true.numpy()) - stats.rankdata(case.said.numpy())
    return abs(formula(*case) - (1 - 6 * float((d**2).sum()) / (n * (n * n - 1)))), 64 * EPS


@SPEARMAN.law
def ties_share_the_mean_of_their_ranks(formula, case):
    found = formula(torch.tensor([1.0, 2, 2, 3]).double(), torch.tensor([1.0, 2, 3, 4]).double())
    return abs(found - 0.9486832980505138), 8 * EPS


@SPEARMAN.law
def the_same_order_is_1_and_the_opposite_is_minus_1(formula, case):
    falling = torch.sort(case.true, descending=True).values
    rising = torch.arange(len(falling), dtype=torch.float64)
    order = order_of(len(falling))
    return abs(formula(falling[order], rising[order]) + 1) + abs(
        formula(falling.flip(0), rising) - 1
    ), 8 * EPS


@SPEARMAN.mistake(
    it_is_pearsons_correlation_of_the_ranks,
    any_rising_map_changes_nothing,
    the_same_order_is_1_and_the_opposite_is_minus_1,
)
def values_for_ranks(true, said):
    return PEARSON.formula(true, said)


@SPEARMAN.mistake(ties_share_the_mean_of_their_ranks)
def ties_in_the_order_of_rows(true, said):
    places = [torch.argsort(torch.argsort(part, stable=True)).double() for part in (true, said)]
    return PEARSON.formula(*places)


@SPEARMAN.mistake(without_ties_it_counts_squared_distances_of_ranks)
def kendalls_tau(true, said):
    return float(stats.kendalltau(true.numpy(), said.numpy()).statistic)
