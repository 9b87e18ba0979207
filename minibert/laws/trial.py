"""Laws put to the test: on our formulas, on the known mistakes, and for their accuracy."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from minibert.laws.law import Accuracy, Law, Mistake, Proof, RandomDraw, in_dtype


class Verdict(NamedTuple):
    """The result of a law: the case that came nearest to its bound, or exceeded it most."""

    proof: Proof
    law: Law
    cases: int
    error: float
    bound: float
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether the error was within the bound in every case."""
        return not self.problem and self.error <= self.bound

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "formula": self.proof.name,
            "law": self.law.name,
            "words": self.law.words,
            "layer": self.law.layer,
            "cases": self.cases,
            "error": finite(self.error),
            "bound": finite(self.bound),
            "holds": self.holds,
            "problem": self.problem or None,
            "where": self.law.place,
        }


def finite(number: float) -> float | None:
    """JSON knows neither infinity nor NaN."""
    return number if math.isfinite(number) else None


def share(error: float, bound: float) -> float:
    """The error as a share of its bound: at most 1 where the law holds; NaN is beyond any."""
    if math.isnan(error):
        return math.inf
    return error / bound if bound else (math.inf if error else 0.0)


def verdict(
    proof: Proof, law: Law, count: int, seed: int = 0, formula: Callable[..., Any] | None = None
) -> Verdict:
    """Try a law on fresh cases, with our formula or with another in its place."""
    worst = Verdict(proof, law, 0, 0.0, 0.0)
    for case in proof.tried(law, count, seed):
        worst = worst._replace(cases=worst.cases + 1)
        try:
            error, bound = law.check(formula or proof.formula, case)
        except Exception as problem:  # a wrong formula may also raise
            first_line = str(problem).partition("\n")[0]
            return worst._replace(problem=f"{type(problem).__name__}: {first_line}")
        if worst.cases == 1 or share(error, bound) > share(worst.error, worst.bound):
            worst = worst._replace(error=error, bound=bound)
    return worst


def rejecting(proof: Proof, mistake: Mistake, count: int, seed: int = 0) -> list[str]:
    """The names of the laws that a mistake breaks."""
    return [
        law.name
        for law in proof.laws.values()
        if not verdict(proof, law, count * law.cost, seed, mistake.wrong).holds
    ]


class Digits(NamedTuple):
    """How much of the error that a docstring allows is used up, in one precision."""

    proof: Proof
    law: Accuracy
    dtype: torch.dtype
    worst: float
    family: str
    of_torch: float | None


def digits(proof: Proof, law: Accuracy, dtype: torch.dtype, count: int, seed: int = 0) -> Digits:
    """The largest error over all hard families, as a share of the promised bound; torch's too."""
    found: list[tuple[float, str]] = []
    of_torch: list[float] = []
    for family, cases in law.families.items():
        for number in range(max(1, count // law.cost)):
            drawn = cases(RandomDraw(proof.name, law.name, family, seed, number))
            case = in_dtype(drawn, dtype)
            found.append((share(*law.check(proof.formula, case)), family))
            if law.torch_twin is not None:
                of_torch.append(share(*law.check(law.torch_twin, case)))
    worst, family = max(found)
    return Digits(proof, law, dtype, worst, family, max(of_torch, default=None))


def named(name: str, proofs: Iterable[Proof]) -> list[Proof]:
    """The proofs of a formula, or of all formulas of a module of the book."""
    return [p for p in proofs if name in (p.name, *p.name.split(".", 1))]


def all_mistakes(proofs: Iterable[Proof]) -> dict[str, tuple[Proof, Mistake]]:
    """Every known mistake by its full name, `module.formula.mistake`."""
    return {f"{p.name}.{m.name}": (p, m) for p in proofs for m in p.mistakes.values()}
