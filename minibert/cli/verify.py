"""`minibert verify`: every law of every formula, on fresh random cases."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from minibert.cli.options import counted, print_result

if TYPE_CHECKING:
    from minibert.laws.law import Proof
    from minibert.laws.trial import Verdict


@click.command()
@click.argument("formulas", nargs=-1)
@click.option("--cases", type=click.IntRange(1), default=20, show_default=True, help="for each law")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--break", "broken", metavar="MISTAKE", help="replace a formula by this mistake")
@click.option("--matrix", is_flag=True, help="which law rejects which known mistake")
@click.option("--accuracy", is_flag=True, help="how far rounding moves each formula")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def verify(
    formulas: tuple[str, ...],
    cases: int,
    seed: int,
    broken: str | None,
    matrix: bool,
    accuracy: bool,
    as_json: bool,
) -> None:
    """Check the mathematics: try every law on random cases.

    FORMULAS are names of formulas or of modules of the book; without any, all are checked. A law
    has an error and a bound; the table shows the case that came nearest to the bound. A slow law
    gets fewer cases. Exit code 1 if a law does not hold.

    With --break a known mistake, like layer_norm.bessels_correction, takes the place of its
    formula: the laws that fail are the ones that catch it. --matrix shows that for all of them;
    it takes minutes, and with fewer than 20 cases some mistakes are not seen.

    \b
    Example
      minibert verify --break layer_norm.bessels_correction
    """
    if sum((broken is not None, matrix, accuracy)) > 1:
        raise click.UsageError("--break, --matrix and --accuracy exclude each other; give one")
    import torch

    from minibert.laws import proofs

    torch.set_num_threads(1)  # small tensors gain nothing from more
    chosen = _chosen(formulas, list(proofs()))
    if broken is not None:
        failed = _show_mistake(broken, chosen, cases, seed, as_json)
    elif matrix:
        failed = _show_matrix(chosen, cases, seed, as_json)
    elif accuracy:
        failed = _show_accuracy(chosen, cases, seed, as_json)
    else:
        failed = _show_laws(chosen, cases, seed, as_json)
    if failed:
        raise click.exceptions.Exit(1)


def _chosen(names: Iterable[str], everything: list["Proof"]) -> list["Proof"]:
    from minibert.laws.trial import named

    chosen: list[Proof] = []
    for name in names:
        found = named(name, everything)
        if not found:
            known = {part for proof in everything for part in (proof.name, *proof.name.split("."))}
            raise click.UsageError(f"there is no formula {name!r}{nearest(name, known)}")
        chosen += [proof for proof in found if proof not in chosen]
    return chosen or everything


def nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _show_laws(chosen: list["Proof"], cases: int, seed: int, as_json: bool) -> int:
    from minibert.laws.trial import verdict

    pairs = [(proof, law) for proof in chosen for law in proof.laws.values()]
    verdicts = [
        verdict(proof, law, cases, seed) for proof, law in _shown(pairs, "checking laws")
    ]
    failed = [v for v in verdicts if not v.holds]
    result = {
        "seed": seed,
        "proofs": len(chosen),
        "laws": [v.document() for v in verdicts],
        "failed": len(failed),
    }
    tried = sum(v.cases for v in verdicts)
    last = ", ".join(
        (counted(len(chosen), "proof"), counted(len(verdicts), "law"), counted(tried, "case"))
    )
    last += f": {counted(len(failed), 'law')} failed" if failed else ": every law holds"
    print_result(result, as_json, [_table(verdicts), last] if not as_json else [])
    return len(failed)


def _show_mistake(
    name: str, chosen: list["Proof"], cases: int, seed: int, as_json: bool
) -> int:
    from minibert.laws.trial import all_mistakes, verdict

    known = all_mistakes(chosen)
    found = {full: pair for full, pair in known.items() if f".{full}".endswith(f".{name}")}
    if not found:
        hint = nearest(name, [*known, *(full.rpartition(".")[2] for full in known)])
        raise click.UsageError(f"there is no mistake {name!r}{hint}; --matrix lists them")
    if len(found) > 1:
        raise click.UsageError(f"{name!r} may be {' or '.join(found)}; name one of them")
    [(full, (proof, mistake))] = found.items()
    verdicts = [
        verdict(proof, law, cases * law.cost, seed, mistake.wrong)  # as many for a slow law
        for law in _shown(list(proof.laws.values()), "checking laws")
    ]
    caught = [v for v in verdicts if not v.holds]
    result = {
        "seed": seed,
        "mistake": full,
        "source": mistake.source or None,
        "laws": [v.document() for v in verdicts],
        "caught_by": [v.law.name for v in caught],
    }
    last = f"{full} is caught by {len(caught)} of {len(verdicts)} laws"
    lines = [_table(verdicts), last] if not as_json else []
    missing = [law.words for law in proof.laws.values() if law.name in mistake.laws]
    missing = [words for words in missing if words not in {v.law.words for v in caught}]
    if missing:
        lines.append(f"not caught in so few cases by: {'; '.join(missing)}. Try more --cases")
    if mistake.source:
        lines.append(f"seen in {mistake.source}")
    print_result(result, as_json, lines)
    return len(caught)


def _show_matrix(chosen: list["Proof"], cases: int, seed: int, as_json: bool) -> int:
    """Rows are mistakes, columns the laws of their formula."""
    from minibert.laws.trial import rejecting

    rows = [(proof, mistake) for proof in chosen for mistake in proof.mistakes.values()]
    broken = {
        f"{proof.name}.{mistake.name}": rejecting(proof, mistake, cases, seed)
        for proof, mistake in _shown(rows, "trying mistakes")
    }
    missed, lines = 0, []
    document: dict[str, Any] = {}
    for proof in chosen:
        laws = list(proof.laws)
        numbers = " ".join(f"{number:>2}" for number in range(1, len(laws) + 1))
        width = max(len(name) for name in proof.mistakes)
        lines += [f"\n{proof.name}", f"  {'':<{width}} {numbers}"]
        for mistake in proof.mistakes.values():
            by = broken[f"{proof.name}.{mistake.name}"]
            marks = ["·" if n not in by else "●" if n in mistake.laws else "○" for n in laws]
            lines.append(f"  {mistake.name:<{width}}  {'  '.join(marks)}")
            missed += sum(name not in by for name in mistake.laws)
            document[f"{proof.name}.{mistake.name}"] = {
                "source": mistake.source or None, "named": list(mistake.laws), "rejected_by": by
            }
        for number, law in enumerate(proof.laws.values(), 1):
            by_law = sum(law.name in broken[f"{proof.name}.{m}"] for m in proof.mistakes)
            missed += not by_law
            lines.append(f"  {number:>2} {law.words}, rejects {by_law}")
    sources = [mistake.source for _, mistake in rows if mistake.source]
    laws_count = sum(len(proof.laws) for proof in chosen)
    lines.append(
        f"\n● the law named for this mistake rejects it, ○ so does this one, · lets it pass\n"
        f"{counted(len(rows), 'mistake')}, {len(sources)} of them seen in "
        f"{counted(len(set(sources)), 'public place')}, against "
        f"{counted(laws_count, 'law')}: "
        + (f"{missed} are missed" if missed else "each mistake and each law finds its match")
    )
    result = {"seed": seed, "laws": laws_count, "missed": missed, "mistakes": document}
    print_result(result, as_json, lines)
    return missed


def _show_accuracy(chosen: list["Proof"], cases: int, seed: int, as_json: bool) -> int:
    from minibert.laws.pages import accuracy_table
    from minibert.laws.trial import digits, finite

    rows = [
        digits(proof, law, dtype, cases, seed)
        for proof, law, dtype in _shown(
            [(p, law, dtype) for p in chosen for law in p.accuracies for dtype in law.dtypes],
            "measuring",
        )
    ]
    document = [
        {
            "formula": row.proof.name,
            "law": row.law.name,
            "dtype": str(row.dtype).removeprefix("torch."),
            "share_of_bound": finite(row.worst),
            "hardest": row.family,
            "torch_share_of_bound": None if row.of_torch is None else finite(row.of_torch),
        }
        for row in rows
    ]
    print_result({"seed": seed, "accuracy": document}, as_json, accuracy_table(rows))
    return sum(row.worst > 1 for row in rows)


def _shown(items: list[Any], title: str) -> Iterable[Any]:
    """The items, with a bar on stderr where there is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items, title, console=console, transient=True, disable=not console.is_terminal
    )


def _table(verdicts: list["Verdict"], width: int | None = None) -> str:
    """One row for each law; on a narrow screen the formulas are headings, and places are left out.

    Output that does not go to a terminal is wide, with one line per row.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    columns = width or (console.width if console.is_terminal else 180)
    narrow = columns < 120
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    if not narrow:
        table.add_column("formula", no_wrap=True)
    table.add_column("law", overflow="fold", min_width=24)
    table.add_column("cases", justify="right", no_wrap=True)
    table.add_column("worst error", justify="right", overflow="fold")
    table.add_column("bound", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if not narrow:
        table.add_column("where", no_wrap=True)
    previous = None
    for verdict in verdicts:
        name = "" if verdict.proof is previous else verdict.proof.name
        previous = verdict.proof
        row = [
            verdict.law.words,
            str(verdict.cases),
            verdict.problem or f"{verdict.error:.2g}",
            f"{verdict.bound:.2g}",
            "holds" if verdict.holds else "FAILS",
        ]
        if narrow and name:
            table.add_row(f"[bold]{name}[/bold]")
        if not narrow:
            row = [name, *row, verdict.law.place.removeprefix("minibert/laws/")]
        table.add_row(*row, style="" if verdict.holds else "red")
    console = Console(highlight=False, width=columns)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
