"""What holds for every module of the book: what it may import and use, its size, its words.

`python tests/test_book.py` prints the map: module and code lines.
"""

import ast
import io
import re
import sys
import tokenize
import unicodedata
from collections.abc import Iterator
from pathlib import Path

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
    "matching",
    "distillation",
    "optim",
    "sparsity",
    "quantization",
    "masking",
    "wordpiece",
    "wordpiece_training",
    "decoder",
    "search",
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
    "arithmetic": "exp log sqrt tanh erfc erfinv round",
    "choice": "where",
    "joining": "cat stack",
    "making": "arange empty ones zeros zeros_like",
    "randomness": "Generator rand randint randperm",
    "sets": "unique",
    "tests": "isfinite",
    "types": "bool device dtype float32 float64 int8",
}
TENSOR_NAMES = {
    "arithmetic": "abs clamp",
    "sums and extremes": "all amax any cumsum max mean min sum",
    "axes": "T contiguous numel reshape shape transpose view",
    "picking": "argsort gather index_select topk",
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
    """And a spec of text nothing but Unicode's tables; that of a later part, the one before."""
    known = {"math", "typing", "collections.abc", "unicodedata", "minibert.laws.spec"}
    paths = list((ROOT / "minibert" / "laws").glob("spec*.py"))
    assert paths
    for path in paths:
        modules = re.findall(r"^(?:from|import) (\S+)", path.read_text("utf-8"), re.MULTILINE)
        assert set(modules) <= known, path.name


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


@pytest.mark.parametrize("name", BOOK)
def test_no_number_hides_at_module_level(name):
    """A constant of a formula stands in the formula, where a test can see it changed."""
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
    return "\n".join(f"{name:<20}{lines:>6}" for name, lines in rows)


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
