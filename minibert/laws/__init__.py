"""The laws of every formula of the book, written once.

One module per module of the book, in its order. The laws are used by the tests, with cases that
Hypothesis searches for; by `minibert verify`, with cases from a generator; and by the docs.

 law        what a law, a mistake and a proof are     measure   how errors are measured
 spec…      the formulas as loops over plain floats   rounding  what rounding may do, step by step
 trial      laws put to the test                      pages     the pages made from them
 answers    a reader's answers to exercises, judged
 training, metrics   laws of the workshop: accumulated gradients, distillation, scores
"""

from collections.abc import Iterator
from importlib import import_module

from minibert.laws.law import Law, Mistake, Proof

MODULES = tuple(
    "config parameters functional attention encoder heads losses matching distillation optim "
    "sparsity quantization masking wordpiece wordpiece_training decoder search checkpoint training "
    "metrics".split()
)


def proofs() -> Iterator[Proof]:
    """The proof of every formula, in the order of the book."""
    for name in MODULES:
        module = import_module(f"minibert.laws.{name}")
        yield from (value for value in vars(module).values() if isinstance(value, Proof))


__all__ = ["Law", "Mistake", "Proof", "proofs"]
