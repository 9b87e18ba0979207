"""The rows as a table for a person and as a document for a program."""

import math
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch

from minibert.bench.arithmetic import INT8
from minibert.bench.cases import Choices
from minibert.bench.compare import Row, Table, device_name, processor, versions

ABSENT = "–"
ENVIRONMENT = (  # what affects the speed of threads and products
    "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip


def machine(choices: Choices, rounds: int) -> dict[str, Any]:
    """Where and how this was measured."""
    return {
        "device": device_name(choices.device),
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "threads": choices.threads,
        "rounds": rounds,
        "seed": choices.seed,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "versions": versions(),
    }


def document(table: Table) -> dict[str, Any]:
    """One case in JSON: seconds and bytes, operations per second, and ratios."""
    return {
        "case": table.case.name,
        "words": table.case.words,
        "dtype": str(table.case.dtype).removeprefix("torch."),
        "batches": table.passes,
        "tokens": table.tokens,
        "places": table.places,
        "product_rates": table.rates,
        "float64_difference": table.float64,
        "rows": [_row(table, row) for row in table.rows],
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    return {
        "engine": row.engine,
        "name": row.name,
        "status": row.status,
        "note": row.note,
        # JSON knows neither infinity nor NaN.
        "error": row.error if row.error is not None and math.isfinite(row.error) else None,
        "bound": row.bound,
        "seconds": row.seconds,
        "quartiles": None if row.quartiles is None else list(row.quartiles),
        "rounds": list(row.times),
        "operations": row.operations,
        "rate": row.rate,
        "share_of_product_rate": table.share(row),
        "ratio": table.ratio(row),
        "memory": None if row.memory is None else row.memory._asdict(),
    }


def table_text(table: Table, width: int) -> str:
    """The rows of a case; a row that was not measured says why."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("", overflow="fold", min_width=18)
    heads = ["error", "time", "middle half"]
    if table.case.kind != "adam":
        heads.append("GFLOP/s")
    if table.rates:
        heads.append("of product")
    heads.append("minibert is")
    if table.case.memory:
        heads += ["peak memory", "above weights"]
    for head in heads:
        grid.add_column(head, justify="right", no_wrap=True)
    for row in table.rows:
        cells = [number(row.error, "{:.1e}"), duration(row.seconds), _middle(row)]
        if table.case.kind != "adam":
            cells.append(number(row.rate, "{:.0f}", 1e9))
        if table.rates:
            cells.append(number(table.share(row), "{:.0f} %", 0.01))
        cells.append(ABSENT if row is table.rows[0] else faster(table.ratio(row)))
        if table.case.memory:
            cells.append(number(row.memory and row.memory.peak, "{:,.0f} MB", 1e6))
            cells.append(number(row.memory and row.memory.above, "{:,.0f} MB", 1e6))
        grid.add_row(row.name, *cells, style="" if row.times else "dim")
    console = Console(highlight=False, width=width)
    with console.capture() as capture:
        console.print(grid)
    return "\n".join([_title(table), capture.get().rstrip(), *_remarks(table), ""])


def _title(table: Table) -> str:
    dtype = str(table.case.dtype).removeprefix("torch.")
    title = f"{table.case.name}: {table.case.words}; {dtype}"
    if table.case.kind == "adam":
        return title
    padding = 1 - table.tokens / table.places
    title += f"; {table.tokens:,} tokens in {table.passes} batch{'es' * (table.passes > 1)}"
    return title + (f", {padding:.0%} padding if padded" if padding else "")


def _remarks(table: Table) -> list[str]:
    """What the columns mean here, and why a row has no time."""
    lines = []
    bounds = dict.fromkeys(row.bound for row in table.rows if row.error is not None)
    if bounds:
        listed = " and ".join(number(bound, "{:.1e}") for bound in bounds)
        lines.append(f"error: the largest, against the book in float64; bound {listed}")
    if table.float64 is not None:
        lines[-1:] = [f"{lines[-1]}; transformers in float64 is {table.float64:.0e} from the book"]
    if table.rates:
        listed = ", ".join(f"{way} {rate / 1e9:.0f}" for way, rate in table.rates.items())
        lines.append(f"product: the largest linear maps alone, GFLOP/s: {listed}")
        if INT8[0] in table.rates:
            lines[-1] += f"; int8 as a share of {INT8[0]}"
    reasons = {
        "inaccurate": "the error is over its bound, so no speed is shown",
        "missing": "",
        "failed": "failed",
    }
    for row in table.rows:
        if row.status != "measured":
            why = ": ".join(text for text in (reasons[row.status], row.note) if text)
            lines.append(f"{row.name}: {why}")
    return lines


def settings_text(tables: Sequence[Table], facts: dict[str, Any]) -> str:
    """The settings of every engine, and the versions."""
    lines = dict.fromkeys(  # in another case an engine may have other settings
        f"{row.name}: {row.note}"
        for table in tables
        for row in table.rows
        if row.times and row.note
    )
    listed = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    environment = " ".join(f"{name}={value}" for name, value in facts["environment"].items())
    return "\n".join(
        [
            *lines,
            f"{hardware(facts)}, {facts['cores']} cores, {facts['capability']}; "
            f"{facts['threads']} threads for each; {facts['rounds']} rounds, medians; "
            f"{environment or 'default settings of OpenMP'}",
            listed,
        ]
    )


def hardware(facts: dict[str, Any]) -> str:
    """Where it was measured: the processor, or the GPU with the processor that serves it.

    >>> hardware({"device": "cpu", "processor": "EPYC"})
    'EPYC'
    >>> hardware({"device": "H200", "processor": "EPYC"})
    'H200 beside EPYC'
    """
    gpu = "" if facts["device"] == "cpu" else f"{facts['device']} beside "
    return f"{gpu}{facts['processor']}"


def number(value: float | None, form: str, unit: float = 1.0) -> str:
    """A number in its unit, or a dash."""
    return ABSENT if value is None else form.format(value / unit)


def duration(seconds: float | None) -> str:
    """Three digits and a unit.

    >>> duration(0.0123), duration(None)
    ('12.3 ms', '–')
    """
    if seconds is None:
        return ABSENT
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def faster(ratio: float | None) -> str:
    """How minibert compares, in words.

    >>> faster(2.0), faster(0.5)
    ('2.00x faster', '2.00x slower')
    """
    if ratio is None:
        return ABSENT
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def _middle(row: Row) -> str:
    if row.quartiles is None:
        return ABSENT
    lower, upper = (duration(value) for value in row.quartiles)
    return f"{lower} … {upper}"
