"""Cases from Hypothesis for the laws of `minibert.laws`, and the verdict on one case."""

from collections.abc import Sequence
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from minibert.laws.law import Cases, Law

T = TypeVar("T")


class HypothesisDraw:
    """The choices of a case made by Hypothesis, which looks for the simplest case that fails."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def real(self, low: float, high: float) -> float:
        return self._draw(st.floats(low, high, allow_subnormal=False))

    def choice(self, values: Sequence[T]) -> T:
        return self._draw(st.sampled_from(values))


@st.composite
def drawn(draw: st.DrawFn, cases: Cases) -> Any:
    """A strategy for the cases of a law."""
    return cases(HypothesisDraw(draw))


def fewer(divisor: int) -> settings:
    """For tests that are slow per case: a share of the examples of the profile in force."""
    return settings(max_examples=max(1, settings.default.max_examples // divisor))


def assert_holds(law: Law, formula: Any, case: Any) -> None:
    error, bound = law.check(formula, case)
    assert error <= bound, f"{law.words}: the error is {error:.3g}, the bound {bound:.3g}"
