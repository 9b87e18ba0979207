"""Answers to exercises, tried on the laws: which fail, on what input, and is the mistake known.

An answer replaces the book's function in the formula of each proof about that function. A law that
fails is shown with the failing case of the fewest numbers: what went in, what came out and, where
the law compares with a spec or a library, what the book's function returns.
"""

import dataclasses
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.exercises import EXERCISES, AnswerError, AnswerFailed, code_of
from minibert.laws import proofs
from minibert.laws.law import Law, Proof
from minibert.laws.trial import Verdict, rejecting, share

Function = Callable[..., Any]
MOST_NUMBERS, MOST_LETTERS = 24, 80  # of what is printed in full
# How close two versions of the same mistake come: in their numbers, and in the errors of a law.
NEAR, NEAR_ERRORS = 1e-7, 1e-3
EQUAL = 1e-13  # more than that is a difference
RAISED = (Exception, SystemExit, KeyboardInterrupt)  # by an answer: Ctrl-C stops another process


def judge(name: str, path: str, cases: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Try every law, the cheap ones first.

    Yields ("doing", what is done next), ("law", a document) …, ("mistake", a document or None);
    none of the answer's code runs before the first.

    Raises
        AnswerError   the file does not load, or defines no such function.
        AnswerFailed  the body is not written yet.
    """
    book = book_function(name)
    pairs = [(proof, law) for proof in proofs_of(name) for law in proof.laws.values()]
    yield "doing", "it was read"
    answer = answer_in(path, name)
    failed: list[tuple[Trial, int]] = []
    for tried, (proof, law) in enumerate(sorted(pairs, key=lambda pair: pair[1].cost)):
        yield "doing", f"the law {law.words!r} was tried"
        trial = Trial(proof, law, book, answer, cases, seed)
        verdict, number = trial.verdict(path)
        if not tried and NotImplementedError.__name__ in verdict.problem:
            raise AnswerFailed(f"{path}: {verdict.problem}")
        document = verdict.document() | {"note": note_of(law), "case": None}
        if number is not None:
            failed.append((trial, number))
            document["case"] = trial.shown(number)
        yield "law", document
    yield "doing", "it was compared with the known mistakes"
    yield "mistake", known_mistake(failed)


def book_function(name: str) -> Function:
    function: Function = vars(importlib.import_module(f"minibert.{EXERCISES[name]}"))[name]
    return function


def proofs_of(name: str) -> list[Proof]:
    """The proofs about a function, alone or with others."""
    return [proof for proof in proofs() if book_function(name) in proof.of]


def with_answer(formula: Function, book: Function, answer: Function) -> Function:
    """A formula with an answer in place of the book's function, which it is or which it calls."""
    if formula is book:
        return answer
    assert isinstance(formula, FunctionType)
    names = formula.__globals__ | {book.__name__: answer}
    return FunctionType(
        formula.__code__, names, formula.__name__, formula.__defaults__, formula.__closure__
    )


def note_of(law: Law) -> str | None:
    """The first sentence of a law's docstring, if it has one."""
    return (inspect.getdoc(law.statement) or "").partition("\n\n")[0].replace("\n", " ") or None


# -------------------------------------------------------------------------------- the file itself


def answer_in(path: str, name: str) -> Function:
    """The function that a file defines.

    Raises
        AnswerError  the file is missing, does not load, or defines no such function.
    """
    module = ModuleType("answer")
    module.__file__ = path
    sys.modules["answer"] = module  # where a class that is defined there looks up its module
    try:
        exec(code_of(Path(path), name), vars(module))
    except AnswerError:
        raise
    except RAISED as error:
        raise AnswerError(f"{path}: {_line_in(path, error)}{_said(error)}") from None
    function = vars(module).get(name)
    if not inspect.isfunction(function) or function.__module__ != "answer":
        raise AnswerError(f"{path}: it defines no function {name}")
    return function


def _said(error: BaseException) -> str:
    """The exception in one line, cut short if an answer made it very long."""
    line = f"{type(error).__name__}: {error}".partition("\n")[0].removesuffix(": ")
    return line if len(line) <= 200 else f"{line[:199]}…"


def _line_in(path: str, error: BaseException) -> str:
    """The last line of the file that an exception passed through, as `line 7: `."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f"line {lines[-1]}: " if lines else ""


# --------------------------------------------------------------------------------------- one law


class Call(NamedTuple):
    """What went into a function and what came out, or the exception."""

    arguments: tuple[Any, ...]
    named: dict[str, Any]
    result: Any


class Replay(NamedTuple):
    """A law tried again on one case: the calls of the formula, those of the function, the error."""

    of_formula: list[Call]
    of_function: list[Call]
    error: float


class Trial(NamedTuple):
    """A law, and the function that is on trial."""

    proof: Proof
    law: Law
    book: Function
    answer: Function
    cases: int
    seed: int

    def drawn(self, number: int) -> Any:
        """A case, drawn afresh: an answer may have changed the one that it was given."""
        return self.proof.case(self.law, self.seed, number)

    def verdict(self, path: str) -> tuple[Verdict, int | None]:
        """The verdict on the failing case with the fewest numbers, and the number of that case."""
        formula = with_answer(self.proof.formula, self.book, self.answer)
        worst, failing = Verdict(self.proof, self.law, self.cases, 0.0, 0.0), {}
        for number in range(self.cases):
            found = worst._replace(error=math.nan, problem="")
            try:
                error, bound = self.law.check(formula, self.drawn(number))
                found = found._replace(error=error, bound=bound)
            except RAISED as problem:
                found = found._replace(problem=_line_in(path, problem) + _said(problem))
            if not found.holds:
                failing[number] = found
            if number == 0 or share(found.error, found.bound) > share(worst.error, worst.bound):
                worst = found
        if not failing:
            return worst, None
        fewest = min(failing, key=lambda number: numbers_in(self.drawn(number)))
        return failing[fewest], fewest

    def replay(self, number: int, function: Function) -> Replay:
        """The law on a case, with the answer, the book's function or a mistake as the formula."""
        of_formula: list[Call] = []
        of_function: list[Call] = []
        formula = function
        if function in (self.book, self.answer):
            recorded = recording(function, of_function)
            formula = with_answer(self.proof.formula, self.book, recorded)
        try:
            error = self.law.check(recording(formula, of_formula), self.drawn(number))[0]
        except RAISED:
            error = math.nan
        return Replay(of_formula, of_function, error)

    def is_rounding(self) -> bool:
        """Whether the law is about rounding, or also looks at half precision."""
        if self.law.layer == "accuracy":
            return True
        calls = self.replay(0, self.answer).of_formula
        return any(map(has_half_precision, (call.arguments for call in calls)))

    def differing_call(self, number: int) -> tuple[Call, Call | None]:
        """The answer's first call that differs from the book's; if none does, its first call."""
        calls = self.replay(number, self.answer).of_function
        for ours, theirs in zip(self.replay(number, self.book).of_function, calls, strict=False):
            if same(ours[:2], theirs[:2]) and not same(ours.result, theirs.result, EQUAL):
                return theirs, ours
        return (calls or [Call((), {}, None)])[0], None

    def shown(self, number: int) -> dict[str, Any]:
        """A case as text: inputs by their names, what came out and what was expected."""
        call, expected = self.differing_call(number)
        try:
            inputs = inspect.signature(self.book).bind(*call.arguments, **call.named).arguments
        except TypeError:
            inputs = {str(n): value for n, value in enumerate(call.arguments)} | call.named
        found = difference(call.result, expected.result if expected else call.result)
        came_out, wanted = (_at(found, part, 4) for part in (found.ours, found.theirs))
        told = self.law.layer in ("spec", "reference")
        if expected is None:
            wanted = "the same but for rounding, which this law looks at in every number"
        elif told and came_out == wanted:  # the difference is beyond those digits
            came_out, wanted = (_at(found, part, 17) for part in (found.ours, found.theirs))
        return {
            "inputs": {name: text_of(value) for name, value in inputs.items()},
            "came_out": came_out,
            "expected": wanted if told else None,
        }


def recording(function: Function, calls: list[Call]) -> Function:
    """The function, recording every call of it."""

    def recorded(*arguments: Any, **named: Any) -> Any:
        given = kept(arguments), kept(named)
        try:
            result = function(*arguments, **named)
        except Exception as error:
            calls.append(Call(*given, error))
            raise
        calls.append(Call(*given, kept(result)))
        return result

    return recorded


def known_mistake(failed: list[tuple[Trial, int]]) -> dict[str, Any] | None:
    """The known mistake that gives the same numbers in every case shown; `exactly` if the same laws
    reject it, else the one for which those laws differ least.

    Laws about rounding are left out unless only they fail: an answer that codes the same mistake in
    another way may still be right in half precision.
    """
    found = []
    for proof in dict.fromkeys(trial.proof for trial, _ in failed):
        of_proof = [pair for pair in failed if pair[0].proof is proof]
        laws = {trial.law.name for trial, _ in of_proof}
        shown = [pair for pair in of_proof if not pair[0].is_rounding()] or of_proof
        answers = [trial.replay(number, trial.answer) for trial, number in shown]
        cases, seed = shown[0][0].cases, shown[0][0].seed
        for mistake in proof.mistakes.values():
            replays = (trial.replay(number, mistake.wrong) for trial, number in shown)
            if all(map(same_replay, answers, replays)):
                rejected = set(rejecting(proof, mistake, cases, seed))
                found.append((len(laws ^ rejected), proof, mistake))
    if not found:
        return None
    others, proof, mistake = min(found, key=lambda one: one[0])
    words = (inspect.getdoc(mistake.wrong) or "").partition("\n\n")[0].replace("\n", " ")
    return {
        "name": f"{proof.name}.{mistake.name}",
        "exactly": not others,
        "words": words or None,
        "source": mistake.source or None,
    }


def same_replay(ours: Replay, theirs: Replay) -> bool:
    """Equal calls and results, and nearly equal errors, which depend on gradients as well."""
    near = math.isclose(ours.error, theirs.error, rel_tol=NEAR_ERRORS)
    unknown = math.isnan(ours.error) or math.isnan(theirs.error)
    return same(ours.of_formula, theirs.of_formula) and (near or unknown)


# --------------------------------------------------------------------------- numbers, and as text


def kept(value: Any) -> Any:
    """A copy of all tensors, so that later changes do not show in them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: kept(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        made: Any = getattr(value, "_make", type(value))
        return made([kept(part) for part in value])
    return value


def same(a: Any, b: Any, near: float = NEAR) -> bool:
    """Equal up to a share of the largest number, and up to rounding."""
    if callable(a) and callable(b):
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not a.is_floating_point():
            return torch.equal(a, b)
        size = float(a[a.isfinite()].abs().max()) if a.isfinite().any() else 0.0
        tolerance = max(near, 10 * torch.finfo(a.dtype).eps) * size
        return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=near) or (a != a and b != b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key], near) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y, near) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Generator):
        return bool(a.initial_seed() == b.initial_seed())
    return isinstance(a, Exception) or bool(a == b)


def has_half_precision(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and torch.finfo(value.dtype).bits < 32
    return isinstance(value, tuple | list) and any(map(has_half_precision, value))


class Difference(NamedTuple):
    """The first differing parts of two results, their path, and where the numbers first differ."""

    ours: Any
    theirs: Any
    path: str = ""
    start: int = 0


def difference(a: Any, b: Any) -> Difference:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or not a.numel():
            return Difference(a, b)
        near = torch.isclose(a.double(), b.double(), rtol=EQUAL, atol=0.0, equal_nan=True)
        return Difference(a, b, "", int((~near).flatten().long().argmax()))
    short = numbers_in(a) <= MOST_NUMBERS  # and is shown in full
    if short or type(a) is not type(b) or not isinstance(a, tuple | list) or len(a) != len(b):
        return Difference(a, b)
    for name, x, y in zip(getattr(a, "_fields", range(len(a))), a, b, strict=True):
        if not same(x, y, EQUAL):
            found = difference(x, y)
            return found._replace(path=f"{name}.{found.path}".rstrip("."))
    return Difference(a, b)


def numbers_in(value: Any) -> int:
    """How many numbers, or letters, a value is made of."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(numbers_in, value.values()))
    if isinstance(value, tuple | list | frozenset | set):
        return sum(map(numbers_in, value))
    return len(value) if isinstance(value, str) else 1


def _at(found: Difference, part: Any, digits: int) -> str:
    return (f"{found.path}  " if found.path else "") + text_of(part, digits, found.start)


def text_of(value: Any, digits: int = 4, start: int = 0) -> str:
    """A value in one line; of many numbers, only a few from `start` on, or only how many."""
    if isinstance(value, Tensor):
        return _text_of_tensor(value, digits, start)
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, BaseException):
        return _said(value)
    if isinstance(value, torch.Generator):
        return f"a generator of seed {value.initial_seed()}"
    if dataclasses.is_dataclass(value):
        usual: Any = type(value)
        names, usual = [field.name for field in dataclasses.fields(value)], usual()
        changed = [name for name in names if getattr(value, name) != getattr(usual, name)]
        parts = (f"{name}={text_of(getattr(value, name), digits)}" for name in changed)
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, frozenset | set):  # in an order that does not change from run to run
        return text_of(sorted(value, key=repr), digits)
    if isinstance(value, dict | tuple | list):
        return _text_of_parts(value, digits)
    return "a function" if callable(value) else repr(value)


def _text_of_tensor(x: Tensor, digits: int, start: int) -> str:
    def nested(part: Any) -> str:
        if isinstance(part, list):
            return f"[{', '.join(map(nested, part))}]"
        return f"{part:.{digits}g}" if isinstance(part, float) else str(part)

    kind = f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
    if x.numel() <= MOST_NUMBERS:
        return f"{kind}  {nested(x.tolist())}"
    few = nested(x.flatten()[start : start + 6].tolist())[1:-1]
    return f"{kind}  [{'…, ' if start else ''}{few}{', …' if start + 6 < x.numel() else ''}]"


def _is_of_texts(value: Any) -> bool:
    return all(isinstance(part, str) for part in value)


def _text_of_parts(value: Any, digits: int) -> str:
    names = getattr(value, "_fields", None) or (value if isinstance(value, dict) else None)
    kind, count = type(value).__name__, numbers_in(value)
    if count > (MOST_LETTERS if _is_of_texts(value) else MOST_NUMBERS):
        return f"{kind} of {count:,} {'letters' if _is_of_texts(value) else 'numbers'}"
    parts = value.values() if isinstance(value, dict) else value
    texts = [text_of(part, digits) for part in parts]
    if isinstance(value, dict):
        return f"{{{', '.join(map('{!r}: {}'.format, value, texts))}}}"
    if names:
        return f"{kind}({', '.join(map('{}={}'.format, names, texts))})"
    return f"[{', '.join(texts)}]" if isinstance(value, list) else f"({', '.join(texts)})"
