"""What a proof is made of: a formula, cases to try it on, laws that hold, mistakes that break them.

A law is a function `law(formula, case) -> (error, bound)`. It holds where error <= bound; a NaN
never does. The formula is an argument, so the same law must hold for ours and fail for each
known mistake: a law that no mistake can break proves nothing.

    SOFTMAX = Proof(softmax, rows)                  the formula, and how to draw a case

    @SOFTMAX.law
    def rows_sum_to_one(formula, x): ...            its name is the law in words

    @SOFTMAX.mistake(rows_sum_to_one)
    def wrong_axis(x): ...                          the law rejects this one

Laws have five layers: `spec` compares with the formula as plain loops over floats, `reference` with
torch, `law` states an algebraic fact, `gradient` compares autograd with the closed form and with
finite differences of the spec, and `accuracy` checks the bound that a docstring promises.
"""

import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Cases = Callable[["Draw"], Any]
LAYERS = ("spec", "reference", "law", "gradient", "accuracy")


class Draw(Protocol):
    """Where the choices of a case come from: a random generator here, Hypothesis in the tests."""

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""

    def real(self, low: float, high: float) -> float:
        """A number, both ends included, and never subnormal."""

    def choice(self, values: Sequence[T]) -> T:
        """One of these."""


class RandomDraw:
    """Choices that are the same for the same key, on every machine.

    >>> RandomDraw("softmax", 7).integer(0, 9) == RandomDraw("softmax", 7).integer(0, 9)
    True
    """

    def __init__(self, *key: object) -> None:
        self._random = random.Random("/".join(map(str, key)))

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def real(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def choice(self, values: Sequence[T]) -> T:
        return self._random.choice(values)


@dataclass(frozen=True)
class Law:
    """A statement that can be checked for one case; it is `cost` times slower than usual."""

    statement: Callable[[Any, Any], tuple[float, float]]
    layer: str
    cases: Cases
    cost: int = 1

    @property
    def name(self) -> str:
        return self.statement.__name__

    @property
    def words(self) -> str:
        """The law as a sentence: its name with spaces."""
        return self.name.replace("_", " ")

    @property
    def place(self) -> str:
        """File and line."""
        path = Path(inspect.getsourcefile(self.statement) or "")
        line = inspect.getsourcelines(self.statement)[1]
        return f"minibert/laws/{path.name}:{line}"

    def check(self, formula: Any, case: Any) -> tuple[float, float]:
        """Error and bound as numbers."""
        error, bound = self.statement(formula, case)
        return float(error), float(bound)


@dataclass(frozen=True)
class Accuracy(Law):
    """A law about rounding: inputs in families, by what makes them hard, in several precisions."""

    families: Mapping[str, Cases] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = ()
    torch_twin: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Mistake:
    """A wrong version of a formula, the laws that reject it, and where it was seen in public.

    A law must reject it with a finite error: a wrong shape would be noticed without any law. `nan`
    is set only where a NaN or an infinity is the mistake itself.
    """

    wrong: Callable[..., Any]
    name: str
    laws: tuple[str, ...]
    source: str = ""
    nan: bool = False


class Proof:
    """All that is claimed of one formula, and of the functions of the book that it is made of."""

    def __init__(
        self,
        formula: Callable[..., Any],
        cases: Cases,
        of: tuple[Callable[..., Any], ...] = (),
        name: str = "",
        without: Mapping[str, str] | None = None,
        cost: int = 1,
    ) -> None:
        self.formula = formula
        self.cases = cases
        self.of = of or (formula,)
        module = self.of[0].__module__.rpartition(".")[2]
        self.name = f"{module}.{name or self.of[0].__name__}"
        self.without = dict(without or {})
        self.cost = cost
        self.laws: dict[str, Law] = {}
        self.mistakes: dict[str, Mistake] = {}

    def _add(self, layer: str, statement: Any, cases: Cases | None, cost: int | None) -> Any:
        def add(statement: Callable[..., Any]) -> Callable[..., Any]:
            assert statement.__name__ not in self.laws, f"two laws {statement.__name__}"
            law = Law(statement, layer, cases or self.cases, cost or self.cost)
            self.laws[law.name] = law
            return statement

        return add(statement) if statement else add

    def spec(self, statement: Any = None, cases: Cases | None = None, cost: int = 0) -> Any:
        """The formula equals its spec, loops over plain floats in the notation of the paper."""
        return self._add("spec", statement, cases, cost)

    def reference(self, statement: Any = None, cases: Cases | None = None, cost: int = 0) -> Any:
        """The formula equals what torch, or another library, computes."""
        return self._add("reference", statement, cases, cost)

    def law(self, statement: Any = None, cases: Cases | None = None, cost: int = 0) -> Any:
        """An algebraic fact: symmetry, invariance, a limit, a conserved sum."""
        return self._add("law", statement, cases, cost)

    def gradient(self, statement: Any = None, cases: Cases | None = None, cost: int = 0) -> Any:
        """Autograd equals the closed form, or finite differences of the spec."""
        return self._add("gradient", statement, cases, cost)

    def accuracy(
        self,
        families: Mapping[str, Cases],
        dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16),
        torch_twin: Callable[..., Any] | None = None,
        cost: int = 1,
    ) -> Callable[[Any], Any]:
        """The bound of the docstring's section Accuracy, over inputs that are hard to round.

        A family draws a case in float64; its numbers are rounded to each dtype before the law
        sees them, so what is measured is the formula's rounding and not that of its input.
        """

        def drawn(draw: Draw) -> Any:
            family = families[draw.choice(list(families))]
            return in_dtype(family(draw), draw.choice(dtypes))

        def add(statement: Callable[..., Any]) -> Callable[..., Any]:
            law = Accuracy(
                statement, "accuracy", drawn, cost, families, dtypes, torch_twin
            )
            self.laws[law.name] = law
            return statement

        return add

    def mistake(
        self, *laws: Callable[..., Any], source: str = "", name: str = "", nan: bool = False
    ) -> Callable[[Any], Any]:
        """A wrong formula that each of these laws rejects; `source` is where it was published."""

        def add(wrong: Callable[..., Any]) -> Callable[..., Any]:
            key = name or wrong.__name__
            assert key not in self.mistakes, f"two mistakes {key}"
            names = tuple(law.__name__ for law in laws)
            assert names, f"{key} names no law that rejects it"
            assert set(names) <= set(self.laws), f"{key}: no such law among {names}"
            self.mistakes[key] = Mistake(wrong, key, names, source, nan)
            return wrong

        return add

    @property
    def accuracies(self) -> list[Accuracy]:
        """The laws about rounding."""
        return [law for law in self.laws.values() if isinstance(law, Accuracy)]

    def tried(self, law: Law, count: int, seed: int = 0) -> Iterator[Any]:
        """Cases of a law from a generator: the same for the same seed, different for every law."""
        for number in range(max(1, count // law.cost)):
            yield self.case(law, seed, number)

    def case(self, law: Law, seed: int, number: int) -> Any:
        """One of these cases, drawn afresh."""
        return law.cases(RandomDraw(self.name, law.name, seed, number))


def in_dtype(case: Any, dtype: torch.dtype) -> Any:
    """The case with every real number of its tensors rounded to a dtype."""
    if isinstance(case, Tensor):
        return case.to(dtype) if case.is_floating_point() else case
    if isinstance(case, tuple):
        parts = [in_dtype(part, dtype) for part in case]
        made: Any = getattr(case, "_make", tuple)
        return made(parts)
    return case
