"""The pages generated from the proofs: `docs/formulas.md` and the table of `docs/accuracy.md`."""

import inspect
from collections.abc import Callable, Iterable
from decimal import ROUND_CEILING, Context
from typing import Any

import torch

from minibert.laws.law import LAYERS, Proof
from minibert.laws.trial import Digits

SECTIONS = ("Formula", "Shapes", "Source", "Differs", "Accuracy", "Raises")


def sections_of(doc: str) -> dict[str, list[str]]:
    """A docstring cut into its sections; the key "" is the summary, "example" the doctest."""
    found: dict[str, list[str]] = {"": []}
    here = ""
    for line in doc.split("\n"):
        if line in SECTIONS:
            assert line not in found, f"two sections {line}"
            here = line
        elif line.startswith(">>>"):
            here = "example"
        found.setdefault(here, [])
        if line.strip() and line not in SECTIONS:
            found[here].append(line)
    return found


def section(function: Callable[..., Any], name: str) -> str:
    """The lines of one section, dedented; "" where a docstring has none."""
    lines = sections_of(inspect.getdoc(function) or "").get(name, [])
    return inspect.cleandoc("\n".join(["", *lines]))


def rounded_up(number: float) -> str:
    """Three digits, always rounded up: a share of 1.001 must not be printed as 1."""
    digits = Context(prec=3, rounding=ROUND_CEILING).create_decimal_from_float(number)
    return f"{float(digits):.3g}"


def accuracy_table(rows: Iterable[Digits]) -> list[str]:
    """One row per formula: what is promised, and how much of it each precision uses up."""
    by_formula: dict[str, list[Digits]] = {}
    for row in rows:
        by_formula.setdefault(row.proof.name, []).append(row)
    lines = [
        "| formula | promised in its docstring | float64 | float32 | bfloat16 | torch in float32 |",
        "|---|---|---|---|---|---|",
    ]
    for name, group in by_formula.items():
        promise = section(group[0].proof.of[0], "Accuracy").replace("\n", " ").replace("|", "\\|")
        cells = []
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            same = [row for row in group if row.dtype == dtype]
            hardest = max(same, key=lambda row: row.worst, default=None)
            cells.append(f"{rounded_up(hardest.worst)} ({hardest.family})" if hardest else "")
        theirs = [r.of_torch for r in group if r.dtype == torch.float32 and r.of_torch is not None]
        cells.append(rounded_up(max(theirs)) if theirs else "")
        lines.append(f"| `{name}` | {promise} | {' | '.join(cells)} |")
    return lines


def formulas_page(proofs: Iterable[Proof]) -> str:
    """Formula, function, laws and known mistakes, for every formula of the book."""
    proofs = list(proofs)
    laws = sum(len(proof.laws) for proof in proofs)
    mistakes = [mistake for proof in proofs for mistake in proof.mistakes.values()]
    sources = [mistake.source for mistake in mistakes if mistake.source]
    parts = [
        "# Formulas, laws and known mistakes",
        f"{len(proofs)} proofs, {laws} laws, {len(mistakes)} known mistakes, "
        f"{len(sources)} of them seen in {len(set(sources))} public threads and files (linked). "
        "`minibert verify` tries every law; `minibert verify --break NAME` "
        "puts a mistake in the place of its formula; `minibert verify --matrix` shows which law "
        "rejects which mistake.\n\nThis page is made by `python -m minibert.laws > "
        "docs/formulas.md`; a test holds it to the code.",
    ]
    module = ""
    for proof in proofs:
        if proof.name.partition(".")[0] != module:
            module = proof.name.partition(".")[0]
            parts.append(f"## {module}")
        parts.append(_chapter(proof))
    return "\n\n".join(parts) + "\n"


def _chapter(proof: Proof) -> str:
    title = proof.name.partition(".")[2]
    functions = ", ".join(f"`{f.__module__.removeprefix('minibert.')}.{f.__qualname__}`"
                          for f in proof.of)
    lines = [f"### {title}", "", f"Of {functions}."]
    formula = section(proof.of[0], "Formula")
    if formula:
        lines += ["", "```", formula, "```"]
    for layer in LAYERS:
        names = [law.words for law in proof.laws.values() if law.layer == layer]
        if names:
            lines += ["", f"**{layer}**: " + " · ".join(names)]
        elif layer in proof.without:
            lines += ["", f"**{layer}**: none, as {proof.without[layer]}"]
    wrong = [
        f"[{mistake.name}]({mistake.source})" if mistake.source else mistake.name
        for mistake in proof.mistakes.values()
    ]
    return "\n".join([*lines, "", "**known mistakes**: " + " · ".join(wrong)])
