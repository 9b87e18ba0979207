"""The pages of docs/ say what the code says."""

import ast
import re
from pathlib import Path

import pytest
from test_book import BOOK, tree

import minibert
from minibert.laws import proofs
from minibert.laws.pages import formulas_page, section

DOCS = Path(__file__).parent.parent / "docs"
FUNCTIONS = {
    f"{name}.{node.name}": node
    for name in BOOK
    for node in tree(name).body
    if isinstance(node, ast.FunctionDef)
}
PROOFS = list(proofs())


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table_rows(name: str, head: str) -> list[list[str]]:
    """The cells of the rows of every table whose head begins with this; no row is passed over."""
    rows: list[list[str]] = []
    columns: list[str] = []
    for line in page(name).split("\n"):
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = cells
        elif not set("".join(cells)) <= set("-:"):
            assert len(cells) == len(columns), f"{name}: {line}"
            rows += [cells] if columns[0] == head else []
    assert rows, f"{name} has no table of {head}"
    return rows


def code(cell: str) -> str:
    found = re.fullmatch(r"`(.+)`", cell)
    assert found, f"{cell!r} is no code"
    return found[1]


# ----------------------------------------------------------------------------------- notation.md


def test_the_axes_are_those_of_the_dimension_key():
    key = (minibert.__doc__ or "").partition("Dimension key.")[2].partition("`P` is also")[0]
    letters = set(re.findall(r"\b([A-Z1])\b(?=,? [A-Z]  |  )", key))
    told = {code(row[0]) for row in table_rows("notation.md", "letter")}
    assert told == letters


NOTATION = table_rows("notation.md", "paper")


@pytest.mark.parametrize("row", NOTATION, ids=lambda row: f"{row[3]}-{row[2]}")
def test_a_symbol_is_found_where_it_is_said_to_be(row):
    function = FUNCTIONS[code(row[3])]
    names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    names |= {argument.arg for argument in function.args.args}
    assert code(row[2]) in names


# -------------------------------------------------------------------------------- differences.md


DIFFERENCES = table_rows("differences.md", "what")


@pytest.mark.parametrize("row", DIFFERENCES, ids=lambda row: row[0])
def test_a_difference_names_its_function_and_its_law(row):
    """The last two columns: one function of the book, and laws that hold for it and no other."""
    name = code(row[7])
    about = [p for p in PROOFS if name in {f"{f.__module__[9:]}.{f.__name__}" for f in p.of}]
    laws = {law.words for proof in about for law in proof.laws.values()}
    named = [law.strip() for law in row[8].split(";")]
    assert not set(named) - laws, f"no law of {name}: {set(named) - laws}"


# ------------------------------------------------------------------- formulas.md and accuracy.md


def test_formulas_are_those_of_the_proofs():
    assert page("formulas.md") == formulas_page(PROOFS), (
        "docs/formulas.md is out of date; python -m minibert.laws > docs/formulas.md"
    )


ACCURATE = {proof.name: proof for proof in PROOFS if proof.accuracies}


def test_the_table_of_accuracy_has_a_row_for_every_promise():
    rows = {code(row[0]): row for row in table_rows("accuracy.md", "formula")}
    assert list(rows) == list(ACCURATE)
    for name, proof in ACCURATE.items():
        promise = section(proof.of[0], "Accuracy").replace("\n", " ").replace("|", r"\|")
        assert rows[name][1] == promise, f"{name}: the docstring promises something else"


def test_the_table_of_accuracy_holds_no_broken_promise():
    for row in table_rows("accuracy.md", "formula"):
        for cell in row[2:5]:
            assert not cell or float(cell.partition(" ")[0]) <= 1, row[0]


# ------------------------------------------------------------------------------------ code blocks


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_python_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        exec(compile(block, path.name, "exec"), {})
    assert text.startswith("# ")


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_commands_exist(path):
    from minibert.cli import cli

    text = path.read_text(encoding="utf-8")
    commands = re.findall(r"^(?:\$ )?minibert ([\w-]+)", text, re.MULTILINE)
    commands += re.findall(r"`minibert ([\w-]+)", text)
    assert set(commands) <= set(cli.commands)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    # Sphinx knows no page that lies elsewhere
    pages = [(path.parent / link).resolve() for link in links if link.endswith(".md")]
    assert [page for page in pages if not page.is_relative_to(DOCS.resolve())] == []
