"""`minibert bench`: error and speed compared with other programs that compute a BERT."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from minibert.cli.machine import keep_memory, place_of
from minibert.cli.options import MOST_THREADS, Number, picture_path, print_result

if TYPE_CHECKING:
    from minibert.bench.cases import Case, Choices
    from minibert.bench.compare import Table


@click.command()
@click.option(
    "--case", "names", multiple=True, help="measure this one; may be repeated  [default: all]"
)
@click.option(
    "--only", multiple=True, help="an engine to compare with; may be repeated  [default: all]"
)
@click.option("--list", "listing", is_flag=True, help="show the cases and their engines")
@click.option(
    "--data", type=click.Path(), help="SST-2's folder  [default: random ids of similar lengths]"
)
@click.option("--model", help="folder with vocabulary and weights  [default: random weights]")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option(
    "--seconds",
    type=Number(0),
    default=0.5,
    show_default=True,
    help="time per engine and round; a short call is repeated",
)
@click.option(
    "--batches", type=click.IntRange(1), help="use the first N batches of a case  [default: all]"
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="cuda has cases of its own, and fewer engines",
)
@click.option("--memory/--no-memory", default=True, show_default=True, help="measure peak memory")
@click.option(
    "--chart",
    type=click.Path(dir_okay=False),
    callback=picture_path,
    help="draw the results as FILE.svg or FILE.png  [default: no]",
)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(1, MOST_THREADS), help="default: all cores")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def bench(
    names: tuple[str, ...],
    only: tuple[str, ...],
    listing: bool,
    data: str | None,
    model: str | None,
    rounds: int,
    seconds: float,
    batches: int | None,
    device: str,
    memory: bool,
    chart: str | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Compare error and speed with other programs.

    These are transformers, torch.nn.TransformerEncoder, ONNX Runtime and OpenVINO. All get the
    same weights, inputs and threads; the settings of each are listed below the table. Errors are
    measured first: an engine over the bound is not timed. Then the engines take turns in rounds.
    Engines that are not installed are left out; pip install 'minibert[bench]' adds them. Exit code
    1 if minibert's own error is over its bound.

    \b
    Example
      minibert bench --case base --case one-32 --chart bench.svg
    """
    if data is not None and model is None:
        raise click.UsageError("--data needs --model for its vocabulary")
    import torch

    from minibert.bench.cases import Choices
    from minibert.bench.engines import cases_on

    cases = _chosen(names, only, cases_on(device))
    if listing:
        document = [{"case": c.name, "words": c.words, "engines": list(c.engines)} for c in cases]
        lines = [f"{c.name:<17} {c.words}\n{'':<17} {', '.join(c.engines)}" for c in cases]
        print_result({"cases": document}, as_json, lines)
        return
    device = place_of(device)
    if threads is not None:
        torch.set_num_threads(threads)
    keep_memory()  # every engine takes its memory from the C library
    folder = None if data is None else Path(data)
    choices = Choices(torch.get_num_threads(), seed, folder, model, batches, device)
    if not memory:
        cases = [case._replace(memory=False) for case in cases]
    tables = _tables(cases, choices, only, rounds, seconds, as_json)
    _show(tables, choices, rounds, chart, as_json)
    if any(row.status in ("inaccurate", "failed") for row in _own(tables)):
        raise click.exceptions.Exit(1)


def _chosen(
    names: tuple[str, ...], only: tuple[str, ...], known: dict[str, "Case"]
) -> list["Case"]:
    for name in names:
        if name not in known:
            raise click.UsageError(f"there is no case {name!r}; known: {', '.join(known)}")
    cases = [known[name] for name in names or known]
    engines = {engine for case in known.values() for engine in case.engines}
    for engine in only:
        if engine not in engines:
            raise click.UsageError(
                f"there is no engine {engine!r}; known: {', '.join(sorted(engines))}"
            )
    return cases


def _tables(
    cases: list["Case"],
    choices: "Choices",
    only: tuple[str, ...],
    rounds: int,
    seconds: float,
    as_json: bool,
) -> list["Table"]:
    """Measure; without --json each table is printed as soon as it is complete."""
    import os
    import signal
    import sys
    import warnings
    from tempfile import TemporaryDirectory

    from minibert.bench.compare import compared
    from minibert.training.progress import Display

    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is downloaded
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so the folder is deleted
    display, tables = Display(), []
    try:
        with TemporaryDirectory(prefix="minibert-bench-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the other engines' own warnings
            for case in cases:
                table = compared(case, choices, Path(folder), only, rounds, seconds, display.say)
                tables.append(table)
                if not as_json:
                    click.echo(_text(table))
    finally:
        signal.signal(signal.SIGTERM, before)
    return tables


def _text(table: "Table") -> str:
    from rich.console import Console

    from minibert.bench.report import table_text

    console = Console()
    return table_text(table, console.width if console.is_terminal else 160)


def _show(
    tables: list["Table"], choices: "Choices", rounds: int, chart: str | None, as_json: bool
) -> None:
    from minibert.bench.report import document, machine, settings_text

    facts = machine(choices, rounds)
    if chart is not None:
        from minibert.bench.chart import draw

        draw(tables, facts, Path(chart))
    result: dict[str, Any] = facts | {"cases": [document(table) for table in tables]}
    print_result(result, as_json, [settings_text(tables, facts)])


def _own(tables: list["Table"]) -> list[Any]:
    """minibert's rows, which come first."""
    return [table.rows[0] for table in tables]
