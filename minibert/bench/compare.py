"""One case from its models to its rows: compare, then time, then measure memory."""

import importlib
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minibert.bench.accuracy import (
    INT8_BOUND,
    book_answer,
    bound_of,
    error_of,
    float64_difference,
)
from minibert.bench.arithmetic import INT8, PLAIN, operations, products
from minibert.bench.cases import Case, Choices, Prepared, Work, teacher_case, work_of
from minibert.bench.engines import ENGINES, Engine
from minibert.bench.memory import Memory, peak_memory
from minibert.bench.turns import spread, timed

PACKAGES = ("torch", "transformers", "onnxruntime", "openvino", "numpy", "onnx")
MISSING = "not installed: pip install 'minibert[bench]'"


class Row(NamedTuple):
    """The result of one engine: `status` is measured, inaccurate, missing or failed.

    `products` are the ways to multiply, at the model's sizes, that its rate is compared with.
    """

    engine: str
    name: str
    status: str = "measured"
    note: str = ""
    error: float | None = None
    bound: float | None = None
    operations: int | None = None
    products: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    memory: Memory | None = None

    @property
    def seconds(self) -> float | None:
        """The median of the rounds."""
        return statistics.median(self.times) if self.times else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """The middle half of the rounds lies between these."""
        return spread(self.times)[::2] if self.times else None

    @property
    def rate(self) -> float | None:
        """Operations per second."""
        return self.operations / self.seconds if self.operations and self.seconds else None


class Table(NamedTuple):
    """A case and its rows; `rates` are operations per second of the largest products alone."""

    case: Case
    tokens: int
    places: int
    passes: int
    rows: tuple[Row, ...]
    rates: dict[str, float]
    float64: float | None

    def share(self, row: Row) -> float | None:
        """A row's rate as a share of the fastest of its products alone."""
        best = max((self.rates[way] for way in row.products if way in self.rates), default=None)
        return row.rate / best if row.rate and best else None

    def ratio(self, row: Row) -> float | None:
        """How many times faster the first row, minibert's own, is than this one."""
        own = self.rows[0].seconds
        return row.seconds / own if row.seconds and own else None


class Entrant(NamedTuple):
    """An engine that takes part, and what it needs to be measured."""

    engine: str
    name: str
    work: Work
    exact: torch.Tensor
    bound: float
    products: tuple[str, ...]


def compared(
    case: Case,
    choices: Choices,
    folder: Path,
    only: Sequence[str] = (),
    rounds: int = 7,
    seconds: float = 0.5,
    say: Callable[[str], None] = lambda text: None,
) -> Table:
    """Every row of a case. `only` restricts the engines; minibert's own always takes part.

    Raises
        CheckpointError, DataError  the user's model or data cannot be read.
    """
    work = work_of(case, choices, folder)
    rows: dict[str, Row] = {}
    runs: dict[str, Callable[[], Any]] = {}
    failed: dict[str, Exception] = {}
    try:
        for entrant in _entrants(case, work, only):
            say(f"{case.name}: {entrant.name}")
            row, prepared = _checked(case, entrant)
            rows[row.name] = row
            if prepared is not None:
                run = _finished_run(prepared.run, choices.device)
                runs[row.name] = _with_matmul(run, ENGINES[entrant.engine].matmul)
        int8 = any(row.products == INT8 for row in rows.values())
        ways, amount = products(work, int8) if case.kind == "forward" else ({}, 0)
        say(f"{case.name}: {rounds} rounds")
        torch.set_float32_matmul_precision("highest")
        multiply = {
            f"product by {way}": _with_matmul(_finished_run(run, choices.device), "highest")
            for way, run in ways.items()
        }
        times = timed(runs | multiply, rounds, seconds, failed=failed)
    finally:
        torch.set_float32_matmul_precision("highest")
    by_way = {way: times.get(f"product by {way}") for way in ways}
    rates = {way: amount / statistics.median(found) for way, found in by_way.items() if found}
    finished = [_finished(row, times, failed) for row in rows.values()]
    runs.clear()
    if case.memory:
        finished = [_with_memory(case, row, choices, folder, say) for row in finished]
    return Table(
        case,
        sum(sum(batch.lengths) for batch in work.batches),
        sum(batch.ids_BS.numel() for batch in work.batches),
        len(work.batches),
        tuple(finished),
        rates,
        _float64(case, work),
    )


def _entrants(case: Case, work: Work, only: Sequence[str]) -> list[Entrant]:
    exact = book_answer(case, work, torch.float64)
    bound = bound_of(case, work, exact)
    found = [
        Entrant(engine, ENGINES[engine].name, work, exact, bound, _products_of(ENGINES[engine]))
        for engine in case.engines
        if engine == case.engines[0] or not only or engine in only
    ]
    if case.teacher is not None:
        larger = teacher_case(case, case.teacher)
        work = work_of(larger, work.choices, work.folder)
        exact = book_answer(larger, work, torch.float64)
        bound = bound_of(larger, work, exact)
        # The products that are measured have the student's sizes.
        found.append(Entrant("kernels", "its teacher, minibert kernels", work, exact, bound, ()))
    return found


def _products_of(engine: Engine) -> tuple[str, ...]:
    return INT8 if engine.int8 else PLAIN


def _checked(case: Case, entrant: Entrant) -> tuple[Row, Prepared | None]:
    """The row as far as it is known before the clock starts, and the engine if it may be timed."""
    engine: Engine = ENGINES[entrant.engine]
    bound = INT8_BOUND if engine.int8 else entrant.bound
    row = Row(entrant.engine, entrant.name, bound=bound, products=entrant.products)
    work = entrant.work
    try:
        if not engine.installed:
            return row._replace(status="missing", note=MISSING), None
        importlib.import_module(engine.module)
        torch.set_float32_matmul_precision(engine.matmul)
        prepared = engine.prepare(work)
        error = error_of(prepared.answer(), entrant.exact, case.kind)
    except Exception as problem:  # whatever a rival does, the others are measured
        return row._replace(status="failed", note=_reason(problem)), None
    row = row._replace(error=error, note=prepared.settings)
    if not error <= bound:  # NaN is over every bound
        return row._replace(status="inaccurate"), None
    if case.kind != "adam":
        lengths = [length for batch in work.batches for length in batch.lengths]
        passes = 3 if case.kind == "step" else 1  # backward has two products for each one
        row = row._replace(operations=passes * operations(work.config, lengths))
    return row, prepared


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}".splitlines()[0]


def _finished(row: Row, times: dict[str, list[float]], failed: dict[str, Exception]) -> Row:
    if row.name in failed:
        return row._replace(status="failed", note=_reason(failed[row.name]))
    return row._replace(times=tuple(times.get(row.name, ())))


def _finished_run(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A run that waits until its work is done: Python does not wait for a GPU by itself."""
    if device == "cpu":
        return run

    def finishing() -> None:
        run()
        torch.cuda.synchronize()

    return finishing


def _with_matmul(run: Callable[[], Any], precision: str) -> Callable[[], Any]:
    def running() -> None:
        torch.set_float32_matmul_precision(precision)
        run()

    return running


def _with_memory(
    case: Case, row: Row, choices: Choices, folder: Path, say: Callable[[str], None]
) -> Row:
    if row.status != "measured":
        return row
    say(f"{case.name}: memory of {row.name}")
    options = choices._asdict() | {"data": None if choices.data is None else str(choices.data)}
    try:
        return row._replace(memory=peak_memory(case.name, row.engine, options, folder))
    except Exception as problem:  # the times stay
        notes = (row.note, f"memory not measured: {_reason(problem)}")
        return row._replace(note="; ".join(note for note in notes if note))


def _float64(case: Case, work: Work) -> float | None:
    try:
        known = case.kind == "forward" and ENGINES["eager"].installed
        return float64_difference(work) if known else None
    except Exception:  # its own rows say what is wrong with transformers
        return None


def versions() -> dict[str, str]:
    """The versions of the packages that take part, or that one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device_name(device: str) -> str:
    """What a GPU calls itself; the name of a CPU comes from `processor`."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def processor() -> str:
    """What the operating system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
