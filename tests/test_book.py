"""What holds for every module of the book: what it may import and use, its size, its words.

`python tests/test_book.py` prints the map: module and code lines.
"""

import ast
import doctest
import importlib
import io
import re
import sys
import tokenize
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent
READING_ORDER = (
    "config",
    "parameters",
    "functional",
    "attention",
    "encoder",
    "heads",
    "losses",
    "distillation",
    "optim",
    "sparsity",
    "masking",
    "wordpiece",
    "decoder",
    "checkpoint",
)
BOOK = [name for name in READING_ORDER if (ROOT / "minibert" / f"{name}.py").exists()]
FORMULAS = BOOK[BOOK.index("functional") : BOOK.index("masking") + 1]

MOST_LINES = 2000  # of code in the whole book
MOST_LINES_OF_A_MODULE = 200
MOST_LINES_OF_A_DOCSTRING = 30
MOST_COLUMNS = 100

# Everything that the book uses of torch. A name that is missing here is a question: can the formula
# be written with these? A name that no module uses is one too many.
TORCH_NAMES = {
    "arithmetic": "exp log sqrt tanh erfc erfinv",
    "choice": "where",
    "joining": "cat stack",
    "making": "arange empty ones zeros zeros_like",
    "randomness": "Generator rand randint randperm",
    "sets": "unique",
    "tests": "isfinite",
    "types": "bool device dtype float32 float64",
}
TENSOR_NAMES = {
    "arithmetic": "abs clamp",
    "sums and extremes": "all amax any cumsum max mean min sum",
    "axes": "T contiguous numel reshape shape transpose view",
    "picking": "gather index_select",
    "types and places": "cpu device dtype float long to tolist",
    "gradients and copies": "clone detach",
}
PYTHON_NAMES = {"values"}  # methods of dict that a tensor has too


def source(name: str) -> str:
    return (ROOT / "minibert" / f"{name}.py").read_text(encoding="utf-8")


def tree(name: str) -> ast.Module:
    return ast.parse(source(name))


# ------------------------------------------------------------------------------------- imports


def imports_of(name: str) -> Iterator[tuple[str, str]]:
    """(module, imported name) for every import statement, wherever it stands."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py: relative imports hide the reading order"
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("name", BOOK)
def test_a_module_imports_torch_python_and_earlier_modules(name):
    allowed = {"torch", *(f"minibert.{earlier}" for earlier in BOOK[: BOOK.index(name)])}
    if name == "checkpoint":
        allowed |= {"safetensors", "safetensors.torch"}
    for module, imported in imports_of(name):
        if module.partition(".")[0] not in sys.stdlib_module_names:
            assert module in allowed, f"{name}.py imports {module}, which does not come before it"
        if module == "torch":
            assert imported in ("", "Tensor"), f"{name}.py imports torch.{imported} by a short name"


def test_every_module_at_the_top_has_its_place():
    """Flat modules that are not in the book are the workshop's; the book must not know them."""
    flat = {path.stem for path in (ROOT / "minibert").glob("*.py")}
    assert set(BOOK) <= flat
    workshop = {f"minibert.{name}" for name in flat - set(BOOK)}
    workshop |= {f"minibert.{path.name}" for path in (ROOT / "minibert").iterdir() if path.is_dir()}
    for name in BOOK:
        found = {module for module, _ in imports_of(name)}
        found |= {f"{module}.{imported}" for module, imported in imports_of(name)}
        assert not found & workshop, f"{name}.py imports from the workshop"


def test_specs_know_nothing_but_math():
    for path in TESTS.glob("spec*.py"):
        modules = re.findall(r"^(?:from|import) (\S+)", path.read_text("utf-8"), re.MULTILINE)
        assert set(modules) <= {"math", "typing", "collections.abc", "spec"}, path.name


# ----------------------------------------------------------------------------- names of torch


def fields_of_the_book() -> set[str]:
    """Fields and properties of the book's own classes: `weights.norm` is no method of a tensor."""
    names = set()
    for name in BOOK:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ClassDef):
                names |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
                names |= {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


def torch_names_in(module: ast.Module, fields: set[str]) -> tuple[set[str], set[str]]:
    """What a module uses of torch: names of the package, and names of tensors."""
    imported = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    if "torch" not in imported:
        return set(), set()
    called = {id(node.func) for node in ast.walk(module) if isinstance(node, ast.Call)}
    of_torch, of_tensors = set(), set()
    for node in ast.walk(module):
        if not isinstance(node, ast.Attribute):
            continue
        root = node.value.id if isinstance(node.value, ast.Name) else ""
        if root == "torch":
            of_torch.add(node.attr)
        elif root not in imported and hasattr(torch.Tensor, node.attr):
            method = callable(getattr(torch.Tensor, node.attr))
            if not method or node.attr not in fields or id(node) in called:
                of_tensors.add(node.attr)
    return of_torch, of_tensors - PYTHON_NAMES


def listed(names: dict[str, str]) -> set[str]:
    return set(" ".join(names.values()).split())


def test_the_book_uses_the_listed_names_of_torch_and_no_others():
    of_torch: dict[str, list[str]] = {}
    of_tensors: dict[str, list[str]] = {}
    for name in BOOK:
        found = torch_names_in(tree(name), fields_of_the_book())
        for used, all_used in zip(found, (of_torch, of_tensors), strict=True):
            for attribute in used:
                all_used.setdefault(attribute, []).append(name)
    for used, allowed in ((of_torch, listed(TORCH_NAMES)), (of_tensors, listed(TENSOR_NAMES))):
        new = {attribute: users for attribute, users in used.items() if attribute not in allowed}
        assert not new, f"used, but not in the list: {new}"
        assert not allowed - set(used), f"in the list, but not used: {allowed - set(used)}"


@pytest.mark.parametrize(
    "line",
    [
        "torch.softmax(x, -1)",
        "x.softmax(-1)",
        "torch.nn.Linear(3, 4)",
        "torch.optim.Adam([])",
        "x.add_(1)",
        "x.norm()",
        "torch.nn.functional.gelu(x)",
        "x.backward()",
    ],
)
def test_the_search_for_names_finds_what_is_forbidden(line):
    """A guard that sees nothing guards nothing."""
    of_torch, of_tensors = torch_names_in(ast.parse(f"import torch\n{line}"), {"norm"})
    assert of_torch - listed(TORCH_NAMES) or of_tensors - listed(TENSOR_NAMES)


@pytest.mark.parametrize("name", BOOK)
def test_nothing_is_changed_in_place(name):
    """No augmented assignment to an element or attribute, no out=, no method that ends in _."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            in_place = method.endswith("_") and not method.endswith("__")
            assert not in_place, f"{name}.py:{node.lineno} {method} changes its tensor"
            assert "out" not in [k.arg for k in node.keywords], f"{name}.py:{node.lineno} out="
        if isinstance(node, ast.AugAssign) and name in FORMULAS:
            plain = isinstance(node.target, ast.Name) and isinstance(node.value, ast.Constant)
            assert plain, f"{name}.py:{node.lineno} changes a tensor in place"


@pytest.mark.parametrize("name", [name for name in BOOK if name != "wordpiece"])
def test_no_number_hides_at_module_level(name):
    """A constant of a formula stands in the formula. WordPiece's Unicode blocks are data."""
    for node in tree(name).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for part in ast.walk(node.value):
                number = isinstance(part, ast.Constant) and type(part.value) in (int, float)
                assert not number, f"{name}.py:{node.lineno} holds a number; say it in the formula"


# ---------------------------------------------------------------------------------------- size


def code_lines(text: str) -> int:
    """Lines that hold a token other than a comment or a docstring."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    silent |= {tokenize.ENCODING, tokenize.ENDMARKER}
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings |= set(range(first.lineno, (first.end_lineno or 0) + 1))
    counted: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent:
            counted |= set(range(token.start[0], token.end[0] + 1))
    return len(counted - docstrings)


def book_table() -> list[tuple[str, int]]:
    """(module, code lines) in reading order."""
    return [(name, code_lines(source(name))) for name in BOOK]


def printed_table() -> str:
    rows = [*book_table(), ("together", sum(lines for _, lines in book_table()))]
    return "\n".join(f"{name:<14}{lines:>6}" for name, lines in rows)


def test_code_lines_are_counted_as_said():
    text = (
        '"""Doc\nstring."""\n\n# comment\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """Doc."""\n'
    )
    text += '    y = """two\n    lines"""\n    return y\n'
    assert code_lines(text) == 3 + 1 + 2 + 1


def test_the_book_stays_short():
    table = dict(book_table())
    print(f"\n{printed_table()}")
    too_long = {name: n for name, n in table.items() if n > MOST_LINES_OF_A_MODULE}
    assert not too_long, f"more than {MOST_LINES_OF_A_MODULE} code lines: {too_long}"
    assert sum(table.values()) <= MOST_LINES


@pytest.mark.parametrize("name", BOOK)
def test_lines_fit_a_page(name):
    for number, line in enumerate(source(name).split("\n"), 1):
        columns = sum(not unicodedata.combining(character) for character in line)
        assert columns <= MOST_COLUMNS, f"{name}.py:{number} has {columns} columns"


# ----------------------------------------------------------------------------------- docstrings


class Documented(NamedTuple):
    """A public function with its docstring in sections: "" is the summary."""

    module: str
    node: ast.FunctionDef
    doc: str
    sections: dict[str, list[str]]

    @property
    def where(self) -> str:
        return f"{self.module}.{self.node.name}"


SECTIONS = ("Formula", "Shapes", "Source", "Differs", "Raises")


def sections_of(doc: str) -> dict[str, list[str]]:
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


def documented(module: str, body: list[ast.stmt]) -> Iterator[Documented]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            doc = ast.get_docstring(node) or ""
            yield Documented(module, node, doc, sections_of(doc))


FUNCTIONS = [function for name in BOOK for function in documented(name, tree(name).body)]
METHODS = [
    method
    for name in BOOK
    for node in tree(name).body
    if isinstance(node, ast.ClassDef)
    for method in documented(name, node.body)
]
named = {"ids": lambda function: function.where}


@pytest.mark.parametrize("name", BOOK)
def test_examples_say_what_happens(name):
    module = importlib.import_module(f"minibert.{name}")
    runner = doctest.DocTestRunner(verbose=False)
    report = io.StringIO()
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=report.write)
    assert runner.failures == 0, report.getvalue()
    assert runner.tries > 0, f"{name}.py has no example"


@pytest.mark.parametrize("function", FUNCTIONS, **named)
def test_a_function_says_what_it_returns_and_shows_an_example(function):
    assert function.sections[""], f"{function.where} has no docstring"
    assert "example" in function.sections, f"{function.where} has no example"
    length = len(function.doc.split("\n"))
    assert length <= MOST_LINES_OF_A_DOCSTRING, f"{function.where}: {length} lines of docstring"


@pytest.mark.parametrize("function", METHODS, **named)
def test_a_method_says_what_it_does(function):
    assert function.sections[""], f"{function.where} has no docstring"
    assert len(function.doc.split("\n")) <= MOST_LINES_OF_A_DOCSTRING


@pytest.mark.parametrize("name", BOOK)
def test_a_module_and_its_classes_say_what_they_are(name):
    module = tree(name)
    assert ast.get_docstring(module), f"{name}.py has no docstring"
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.module in FORMULAS], **named)
def test_a_formula_names_its_source_and_its_shapes(function):
    assert function.sections.get("Source"), f"{function.where} has no Source"
    arguments = [a for a in function.node.args.args if a.annotation]
    tensors = {a.arg for a in arguments if re.search(r"\bTensor\b", ast.unparse(a.annotation))}
    if tensors:
        missing = tensors - shape_names(function)
        assert not missing, f"{function.where}: Shapes does not name {sorted(missing)}"
        assert "return" in shape_names(function), f"{function.where}: Shapes has no return"


def shape_names(function: Documented) -> set[str]:
    """The first column of Shapes; two spaces end it, a deeper line goes on."""
    rows = [line[4:] for line in function.sections.get("Shapes", [])]
    first = [re.split(r"  +", row)[0] for row in rows if not row.startswith(" ")]
    return {name for column in first for name in column.split(", ")}


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if "Shapes" in f.sections], **named)
def test_shapes_speak_of_arguments(function):
    spec = function.node.args
    arguments = {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
    strangers = shape_names(function) - arguments - {"return"}
    assert not strangers, f"{function.where}: Shapes names {sorted(strangers)}, no argument"


def raised_by(function: ast.FunctionDef, module: ast.Module, seen: frozenset[str]) -> set[str]:
    """The exceptions that a function raises itself or through a private function of its module."""
    private = {
        node.name: node
        for node in module.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_")
    }
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            exception = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(exception))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = node.func.id
            if helper in private and helper not in seen:
                found |= raised_by(private[helper], module, seen | {helper})
    return found


@pytest.mark.parametrize("function", FUNCTIONS + METHODS, **named)
def test_what_is_raised_is_said(function):
    for exception in raised_by(function.node, tree(function.module), frozenset()):
        said = "\n".join(function.sections.get("Raises", []))
        assert exception in said, f"{function.where} raises {exception} and does not say so"


# --------------------------------------------------------------------------------------- tests


def functions_of(module: ast.Module) -> dict[str, ast.FunctionDef]:
    return {n.name: n for n in ast.walk(module) if isinstance(n, ast.FunctionDef)}


def asserts_itself(function: ast.FunctionDef) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "pytest.raises",
            "pytest.warns",
            "pytest.fail",
        ):
            return True
    return False


def asserting_functions(module: ast.Module, others: dict[str, ast.Module]) -> set[str]:
    """Names of the functions that assert, here or in a test module they are imported from."""
    local = functions_of(module)
    asserting = {name for name, function in local.items() if asserts_itself(function)}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module in others:
            theirs = asserting_functions(others[node.module], others)
            asserting |= {a.asname or a.name for a in node.names if a.name in theirs}
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in others:
                    theirs = asserting_functions(others[alias.name], others)
                    asserting |= {f"{alias.asname or alias.name}.{name}" for name in theirs}
    while True:
        more = {
            name
            for name, function in local.items()
            if name not in asserting
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in asserting
        }
        if not more:
            return asserting
        asserting |= more


TEST_MODULES = {path.stem: ast.parse(path.read_text("utf-8")) for path in TESTS.glob("*.py")}


@pytest.mark.parametrize("name", sorted(name for name in TEST_MODULES if name.startswith("test_")))
def test_every_test_can_fail(name):
    """A test without an assertion passes whatever the code does."""
    module = TEST_MODULES[name]
    tests = {name for name in functions_of(module) if name.startswith("test_")}
    blind = tests - asserting_functions(module, TEST_MODULES)
    assert tests, f"{name}.py holds no test"
    assert not blind, f"{name}.py: no assertion in {sorted(blind)}"


def test_the_search_for_assertions_sees_through_calls():
    text = "def test_a():\n    f(1)\n\ndef f(x):\n    g(x)\n\ndef g(x):\n    assert x\n\n"
    text += "def test_b():\n    print(1)\n"
    assert asserting_functions(ast.parse(text), {}) == {"test_a", "f", "g"}


if __name__ == "__main__":
    print(printed_table())
