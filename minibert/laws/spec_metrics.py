"""The metrics of the tasks as loops over floats, in textbook notation.

Letters: y true values · z predicted ones · n their number. An undefined metric is 0.
"""

from math import fsum, sqrt

Vector = list[float]


def counts(y: Vector, z: Vector) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives, true negatives; 1 is positive"""
    pairs = list(zip(y, z, strict=True))
    return pairs.count((1, 1)), pairs.count((0, 1)), pairs.count((1, 0)), pairs.count((0, 0))


def f1(y: Vector, z: Vector) -> float:
    """2 TP / (2 TP + FP + FN)"""
    TP, FP, FN, _ = counts(y, z)
    return 2 * TP / (2 * TP + FP + FN) if TP + FP + FN else 0.0


def matthews_correlation(y: Vector, z: Vector) -> float:
    """(TP TN - FP FN) / √((TP + FP) (TP + FN) (TN + FP) (TN + FN))"""
    TP, FP, FN, TN = counts(y, z)
    below = (TP + FP) * (TP + FN) * (TN + FP) * (TN + FN)
    return (TP * TN - FP * FN) / sqrt(below) if below else 0.0


def pearson(y: Vector, z: Vector) -> float:
    """Σ (y_i - ȳ) (z_i - z̄) / √(Σ (y_i - ȳ)² Σ (z_i - z̄)²)"""
    n = len(y)
    a = [fsum(y_i - y_j for y_j in y) / n for y_i in y]
    b = [fsum(z_i - z_j for z_j in z) / n for z_i in z]
    below = sqrt(fsum(a_i**2 for a_i in a)) * sqrt(fsum(b_i**2 for b_i in b))
    return fsum(a_i * b_i for a_i, b_i in zip(a, b, strict=True)) / below if below else 0.0


def ranks(y: Vector) -> Vector:
    """1 for the smallest; equal values share the mean of their places"""
    return [sum(y_j < y_i for y_j in y) + (sum(y_j == y_i for y_j in y) + 1) / 2 for y_i in y]


def spearman(y: Vector, z: Vector) -> float:
    """Pearson's correlation of the ranks"""
    return pearson(ranks(y), ranks(z))
