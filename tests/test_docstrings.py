"""Docstrings cannot rot: their sections, names, shapes, examples and refusals are held to the code.

Shapes are compared with the suffixes of the names and with real calls; the calls are those of
`test_names`, and every `Raises` is provoked by the refusals below.
"""

import ast
import doctest
import importlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import test_names
import torch
from test_book import BOOK, FORMULAS, MOST_LINES_OF_A_DOCSTRING, tree
from test_names import FOLDER, RUNS, SUFFIX
from torch import Tensor

from minibert import (
    attention,
    checkpoint,
    decoder,
    distillation,
    encoder,
    functional,
    heads,
    losses,
    masking,
    matching,
    optim,
    parameters,
    quantization,
    search,
    sparsity,
    wordpiece,
    wordpiece_training,
)
from minibert.config import BertConfig, CheckpointError
from minibert.laws import proofs
from minibert.laws.pages import sections_of
from minibert.parameters import LinearWeights


class Documented(NamedTuple):
    """A public function with its docstring in sections: "" is the summary."""

    module: str
    node: ast.FunctionDef
    doc: str
    sections: dict[str, list[str]]

    @property
    def where(self) -> str:
        return f"{self.module}.{self.node.name}"

    @property
    def arguments(self) -> list[ast.arg]:
        spec = self.node.args
        return [*spec.posonlyargs, *spec.args, *spec.kwonlyargs]


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
    for method in documented(node.name, node.body)
]
BY_NAME = {function.where: function for function in FUNCTIONS}
named = {"ids": lambda function: function.where}
WITH_EXAMPLES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in FOLDER.rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


# ------------------------------------------------------------------------------------- sections


def test_every_module_of_the_book_has_an_example():
    assert set(BOOK) <= {name.replace("/", ".") for name in WITH_EXAMPLES}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_say_what_happens(name):
    module = importlib.import_module(f"minibert.{name.replace('/', '.')}")
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
    numbers = {
        a.arg
        for a in function.arguments
        if a.annotation and re.search(r"\b(Tensor|int|float)\b", ast.unparse(a.annotation))
    }
    if numbers:
        missing = numbers - set(shape_rows(function))
        assert not missing, f"{function.where}: Shapes does not name {sorted(missing)}"
        assert "return" in shape_rows(function), f"{function.where}: Shapes has no return"


BOUNDED = {f"{p.of[0].__module__.rpartition('.')[2]}.{p.of[0].__name__}" for p in proofs()
           if p.accuracies}


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.where in BOUNDED], **named)
def test_a_formula_with_a_bound_promises_it(function):
    assert function.sections.get("Accuracy"), f"{function.where} promises no accuracy"


# --------------------------------------------------------------------------------------- shapes


def shape_rows(function: Documented) -> dict[str, str]:
    """Name and description of each row of Shapes; two spaces part them, a deeper line goes on."""
    rows: dict[str, str] = {}
    names: list[str] = []
    for line in function.sections.get("Shapes", []):
        text = line[4:]
        if text.startswith(" "):
            rows |= {name: f"{rows[name]} {text.strip()}" for name in names}
        else:
            first, _, rest = re.sub(r"  +", "\0", text, count=1).partition("\0")
            names = first.split(", ")
            rows |= dict.fromkeys(names, rest)
    return rows


SHAPED = [f for f in FUNCTIONS if "Shapes" in f.sections]
STATED = re.compile(r"\b(float|int8|int64|bool) \[([^\]]*)\]")


@pytest.mark.parametrize("function", SHAPED, **named)
def test_shapes_speak_of_arguments_in_their_order(function):
    names = [name for name in shape_rows(function) if name != "return"]
    arguments = [a.arg for a in function.arguments]
    strangers = set(names) - set(arguments)
    assert not strangers, f"{function.where}: Shapes names {sorted(strangers)}, no argument"
    assert names == [name for name in arguments if name in names], f"{function.where}: order"


@pytest.mark.parametrize("function", SHAPED, **named)
def test_shapes_agree_with_the_suffix_of_the_name(function):
    for name, row in shape_rows(function).items():
        suffix, stated = SUFFIX.search(name), STATED.search(row)
        if suffix and stated:
            axes = [axis for axis in stated[2].split(", ") if axis]
            written = "".join(axis for axis in axes if axis != "...")
            fits = suffix[1].endswith(written) if "..." in axes else suffix[1] == written
            assert fits or "*" in written, f"{function.where}: {name} is said to be [{stated[2]}]"


def shape_lie(value: Any, kind: str, axes: str, bound: dict[str, int]) -> str:
    """What is wrong with `float [B, S]` said of a tensor, or ""."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} is no tensor"
    families = {"float": value.is_floating_point()}
    if not families.get(kind, str(value.dtype) == f"torch.{kind}"):
        return f"{value.dtype} is not {kind}"
    wanted, shape = [axis for axis in axes.split(", ") if axis], list(value.shape)
    if "..." in wanted:
        wanted.remove("...")
        shape = shape[len(shape) - len(wanted) :] if wanted else []
    if len(shape) != len(wanted):
        return f"{list(value.shape)} is not [{axes}]"
    for axis, size in zip(wanted, shape, strict=True):
        if axis.isdigit() and size != int(axis):
            return f"{list(value.shape)} is not [{axes}]"
        if axis.isalpha() and bound.setdefault(axis, size) != size:
            return f"{list(value.shape)} is not [{axes}], as {axis} is {bound[axis]}"
    return ""


class Call(NamedTuple):
    arguments: dict[str, Any]
    result: Any


def real_calls(run: Callable[[], Any]) -> dict[str, list[Call]]:
    """Arguments and result of every call of a public function of the book."""
    calls: dict[str, list[Call]] = {}

    def profile(frame: FrameType, event: str, result: Any) -> None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        where = f"{path.stem}.{name}"
        if path.parent != FOLDER or where not in BY_NAME:
            return
        if event == "call":
            pending.append(dict(frame.f_locals))
        elif event == "return" and pending:
            calls.setdefault(where, []).append(Call(pending.pop(), result))

    pending: list[dict[str, Any]] = []
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return calls


@pytest.fixture(scope="module")
def calls() -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    pair = test_names.traces()
    for run in [*(run for run, _ in RUNS.values()), lambda: test_names.compare(*pair), more_calls]:
        for where, made in real_calls(run).items():
            found.setdefault(where, []).extend(made)
    return found


def more_calls() -> None:
    """What no run of `test_names` comes by."""
    losses.l2_penalty(torch.ones(3, 5), 0.1)
    generator = torch.Generator().manual_seed(0)
    parameters.truncated_normal((3, 5), 0.1, generator, torch.float32)
    functional.embedding(torch.tensor([[1, 0]]), torch.ones(3, 5))


STATING = [
    f for f in SHAPED if any(STATED.search(row) for row in shape_rows(f).values())
]


@pytest.mark.parametrize("function", STATING, **named)
def test_shapes_are_those_of_real_calls(function, calls):
    assert calls.get(function.where), f"no run calls {function.where}"
    for arguments, result in calls[function.where]:
        bound: dict[str, int] = {}
        for name, row in shape_rows(function).items():
            stated = STATED.findall(row)
            value = result if name == "return" else arguments.get(name)
            if not stated or value is None or hasattr(value, "_fields") or "*" in row:
                continue  # a structure has names of its own, and * is arithmetic
            values = value if isinstance(value, tuple) else [value]
            for part, (kind, axes) in zip(values, stated, strict=False):
                wrong = shape_lie(part, kind, axes, bound)
                assert not wrong, f"{function.where}: {name}: {wrong}"


@pytest.mark.parametrize(
    ("value", "kind", "axes", "wrong"),
    [
        (torch.ones(2, 3), "float", "B, S", ""),
        (torch.ones(2, 3), "float", "..., S", ""),
        (torch.ones(2, 3), "float", "B", "[2, 3] is not [B]"),
        (torch.ones(2, 3), "float", "B, B", "[2, 3] is not [B, B], as B is 2"),
        (torch.ones(2, 3), "int64", "B, S", "torch.float32 is not int64"),
        (torch.ones(2, 3), "bool", "B, S", "torch.float32 is not bool"),
        (torch.ones(2, 3), "int8", "B, S", "torch.float32 is not int8"),
        (torch.ones(2, 3), "float", "B, 1", "[2, 3] is not [B, 1]"),
        (3.0, "float", "", "float is no tensor"),
    ],
)
def test_a_wrong_shape_is_found(value, kind, axes, wrong):
    assert shape_lie(value, kind, axes, {}) == wrong


# --------------------------------------------------------------------------------------- raises


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


def module_of(function: Documented) -> ast.Module:
    name = function.module if function.module in BOOK else HOME[function.module]
    return tree(name)


HOME = {
    node.name: name for name in BOOK for node in tree(name).body if isinstance(node, ast.ClassDef)
}


@pytest.mark.parametrize("function", FUNCTIONS + METHODS, **named)
def test_what_is_raised_is_said(function):
    for exception in raised_by(function.node, module_of(function), frozenset()):
        said = "\n".join(function.sections.get("Raises", []))
        assert exception in said, f"{function.where} raises {exception} and does not say so"


ONES, TWO = torch.ones(2, 4), torch.ones(1, 2)
IDS, KEEP = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
MAP = LinearWeights(torch.ones(5, 3), torch.ones(5))
TINY = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=1, intermediate_size=7)
WEIGHTS = parameters.initial_weights(
    parameters.weight_shapes(TINY, ("pooler", "mlm")), 0.02, torch.Generator().manual_seed(0)
)
DECODER = parameters.initial_weights(
    decoder.decoder_shapes(TINY), 0.02, torch.Generator().manual_seed(0)
)
NO_WORDS = decoder.empty_memory(torch.ones(1, 3, 12), KEEP, DECODER, TINY)
SCORES, LOGITS = torch.ones(1, 3, 2, 2), torch.ones(2, 3)
STATE = torch.ones(1, 3, 4)
TRACE = encoder.EncoderTrace(STATE, ())
WORDS = {"[CLS]": 0, "[SEP]": 1}
LABELS_TOO = distillation.TermWeights(label=1.0)


def of_type(exception: type[Exception], *calls: Callable[[], Any]) -> list[Any]:
    return [(exception, call) for call in calls]


def no_step(last: Tensor, memory: Any) -> Any:
    raise AssertionError("a search that is refused takes no step")


REFUSALS: dict[str, list[tuple[type[Exception], Callable[[], Any]]]] = {
    "BertConfig.from_dict": of_type(
        CheckpointError,
        lambda: BertConfig.from_dict({"hidden_size": 7}),
        lambda: BertConfig.from_dict({"model_type": "roberta"}),
    ),
    "parameters.weight_shapes": of_type(
        ValueError, lambda: parameters.weight_shapes(TINY, ("poller",))
    ),
    "parameters.with_tensors": of_type(KeyError, lambda: parameters.with_tensors(MAP, {})),
    "parameters.views_of": of_type(
        ValueError, lambda: parameters.views_of(torch.ones(3), MAP)
    ),
    "functional.linear": of_type(ValueError, lambda: functional.linear(ONES, *MAP)),
    "functional.layer_norm": of_type(
        ValueError, lambda: functional.layer_norm(ONES, torch.ones(3), torch.ones(3), 1e-12)
    ),
    "functional.dropout": of_type(ValueError, lambda: functional.dropout(ONES, 1.0, None)),
    "functional.embedding": of_type(
        ValueError,
        lambda: functional.embedding(IDS - 1, ONES),
        lambda: functional.embedding(IDS + 2, ONES),
    ),
    "attention.split_heads": of_type(ValueError, lambda: attention.split_heads(ONES[None], 3)),
    "attention.padding_bias": of_type(ValueError, lambda: attention.padding_bias(ONES)),
    "attention.keys_and_values": of_type(
        ValueError,
        lambda: attention.keys_and_values(
            torch.ones(1, 2, 12), WEIGHTS.blocks[0].attention, 5
        ),
    ),
    "attention.attend": of_type(
        ValueError,
        lambda: attention.attend(
            torch.ones(1, 2, 12), torch.ones(1, 5, 2, 4), torch.ones(1, 5, 2, 4),
            torch.zeros(1, 1, 1, 2), WEIGHTS.blocks[0].attention, 5,
        ),
        lambda: attention.attend(
            torch.ones(1, 2, 12), torch.ones(1, 1, 2, 4), torch.ones(1, 3, 2, 4),
            torch.zeros(1, 1, 1, 2), WEIGHTS.blocks[0].attention, 3,
        ),
        lambda: attention.attend(
            torch.ones(1, 2, 12), torch.ones(1, 3, 2, 4), torch.ones(1, 1, 2, 4),
            torch.zeros(1, 1, 1, 2), WEIGHTS.blocks[0].attention, 3,
        ),
    ),
    "attention.multi_head_attention": of_type(
        ValueError,
        lambda: attention.multi_head_attention(
            torch.ones(1, 2, 12), torch.ones(1, 2, 12), torch.zeros(1, 1, 1, 2),
            WEIGHTS.blocks[0].attention, 5,
        ),
    ),
    "encoder.embeddings": of_type(
        ValueError,
        lambda: encoder.embeddings(IDS + 5, IDS, WEIGHTS.embeddings, TINY),
        lambda: encoder.embeddings(IDS, IDS + 2, WEIGHTS.embeddings, TINY),
        lambda: encoder.embeddings(
            torch.zeros(1, 513, dtype=torch.int64), torch.zeros(1, 513, dtype=torch.int64),
            WEIGHTS.embeddings, TINY,
        ),
    ),
    "encoder.encode": of_type(
        ValueError,
        lambda: encoder.encode(IDS, KEEP.long(), IDS, WEIGHTS, TINY),
        lambda: encoder.encode(IDS - 1, KEEP, IDS, WEIGHTS, TINY),
    ),
    "encoder.encode_traced": of_type(
        ValueError,
        lambda: encoder.encode_traced(IDS, KEEP.long(), IDS, WEIGHTS, TINY),
        lambda: encoder.encode_traced(IDS - 1, KEEP, IDS, WEIGHTS, TINY),
    ),
    "heads.pooled": of_type(ValueError, lambda: heads.pooled(STATE, MAP)),
    "heads.nsp_logits": of_type(ValueError, lambda: heads.nsp_logits(ONES, MAP)),
    "heads.span_logits": of_type(ValueError, lambda: heads.span_logits(STATE, MAP)),
    "heads.sequence_logits": of_type(
        ValueError,
        lambda: heads.sequence_logits(ONES, MAP),
        lambda: heads.sequence_logits(ONES[:, :3], MAP, 1.0),
    ),
    "heads.token_logits": of_type(
        ValueError,
        lambda: heads.token_logits(STATE, MAP),
        lambda: heads.token_logits(STATE[..., :3], MAP, 1.0),
    ),
    "heads.mlm_logits": of_type(
        ValueError,
        lambda: heads.mlm_logits(STATE, WEIGHTS.mlm, WEIGHTS.embeddings.word_VD, TINY),
    ),
    "heads.regression_values": of_type(
        ValueError, lambda: heads.regression_values(torch.ones(2, 3), MAP)
    ),
    "heads.multiple_choice_logits": of_type(
        ValueError,
        lambda: heads.multiple_choice_logits(
            torch.ones(5, 3), LinearWeights(torch.ones(1, 3), torch.ones(1)), 2
        ),
    ),
    "losses.cross_entropy": of_type(
        ValueError, lambda: losses.cross_entropy(LOGITS, torch.tensor([0, 3]))
    ),
    "losses.smoothed_cross_entropy": of_type(
        ValueError,
        lambda: losses.smoothed_cross_entropy(LOGITS, torch.tensor([0, 3]), 0.1),
        lambda: losses.smoothed_cross_entropy(LOGITS, torch.tensor([0, 1]), 1.0),
    ),
    "losses.mlm_loss": of_type(
        ValueError, lambda: losses.mlm_loss(LOGITS[None], torch.tensor([[0, 3]]))
    ),
    "losses.nsp_loss": of_type(
        ValueError, lambda: losses.nsp_loss(LOGITS[:, :2], torch.tensor([0, 2]))
    ),
    "losses.span_loss": of_type(
        ValueError,
        lambda: losses.span_loss(LOGITS, LOGITS, torch.tensor([0, 3]), torch.tensor([0, 0])),
        lambda: losses.span_loss(LOGITS, LOGITS, torch.tensor([0, 0]), torch.tensor([0, 3])),
    ),
    "losses.squared_error": of_type(
        ValueError, lambda: losses.squared_error(torch.ones(3, 1), torch.ones(3))
    ),
    "losses.kl_divergence": of_type(
        ValueError,
        lambda: losses.kl_divergence(LOGITS, LOGITS, 0.0),
        lambda: losses.kl_divergence(LOGITS, LOGITS[:1]),
    ),
    "losses.soft_cross_entropy": of_type(
        ValueError,
        lambda: losses.soft_cross_entropy(LOGITS, LOGITS, 0.0),
        lambda: losses.soft_cross_entropy(LOGITS, LOGITS[:1]),
    ),
    "distillation.layer_map": of_type(
        ValueError,
        lambda: distillation.layer_map(2, 4, "middle"),
        lambda: distillation.layer_map(2, 4, (1, 5)),
    ),
    "matching.grouped_heads": of_type(ValueError, lambda: matching.grouped_heads(SCORES, 2)),
    "matching.hidden_loss": of_type(
        ValueError,
        lambda: matching.hidden_loss(STATE, STATE[..., :2], None, KEEP),
        lambda: matching.hidden_loss(STATE, STATE, None, KEEP, "mean"),
    ),
    "matching.attention_loss": of_type(
        ValueError,
        lambda: matching.attention_loss(SCORES[:, :2], SCORES, KEEP[:, :2]),
        lambda: matching.attention_loss(SCORES, SCORES, KEEP[:, :2], "mean"),
    ),
    "matching.relation_loss": of_type(
        ValueError,
        lambda: matching.relation_loss(STATE, STATE, STATE[..., :2], STATE[..., :2], KEEP, 4),
        lambda: matching.relation_loss(STATE, STATE, STATE, STATE, KEEP, 0),
    ),
    "matching.cosine_loss": of_type(
        ValueError, lambda: matching.cosine_loss(STATE, STATE[..., :2], None, KEEP)
    ),
    "matching.patient_loss": of_type(
        ValueError, lambda: matching.patient_loss(STATE, STATE[..., :2], None)
    ),
    "matching.prediction_loss": of_type(
        ValueError,
        lambda: matching.prediction_loss(LOGITS, LOGITS, 1.0, "mean"),
        lambda: matching.prediction_loss(LOGITS, LOGITS[:1]),
        lambda: matching.prediction_loss(LOGITS, LOGITS, 0.0),
    ),
    "distillation.intermediate_terms": of_type(
        ValueError,
        lambda: distillation.intermediate_terms(
            TRACE, TRACE, KEEP, (1,), None, distillation.TermWeights()
        ),
        lambda: distillation.intermediate_terms(
            TRACE, TRACE, KEEP, (), None, distillation.TermWeights(), "mean"
        ),
    ),
    "distillation.prediction_terms": of_type(
        ValueError,
        lambda: distillation.prediction_terms(LOGITS, LOGITS, None, LABELS_TOO),
        lambda: distillation.prediction_terms(LOGITS, LOGITS, torch.tensor([0, 3]), LABELS_TOO),
        lambda: distillation.prediction_terms(LOGITS, LOGITS[:1], None, distillation.TermWeights()),
    ),
    "distillation.distillation_loss": of_type(
        ValueError,
        lambda: distillation.distillation_loss(
            distillation.DistillationTerms(), distillation.TermWeights()
        ),
    ),
    "optim.adam_form": of_type(ValueError, lambda: optim.adam_form("sgd")),
    "optim.clip_by_global_norm": of_type(
        ValueError, lambda: optim.clip_by_global_norm((ONES,), 0.0)
    ),
    **{
        f"optim.{schedule.__name__}": of_type(
            ValueError, lambda f=schedule: f(-1, 0, 5), lambda f=schedule: f(0, -1, 5)
        )
        for schedule in (
            optim.linear_schedule,
            optim.google_schedule,
            optim.constant_schedule,
            optim.cosine_schedule,
            optim.inverse_square_root_schedule,
        )
    },
    "sparsity.cubic_sparsity": of_type(
        ValueError,
        lambda: sparsity.cubic_sparsity(-1, 0, 4, 0.5),
        lambda: sparsity.cubic_sparsity(0, 5, 4, 0.5),
        lambda: sparsity.cubic_sparsity(0, 0, 4, 1.5),
        lambda: sparsity.cubic_sparsity(0, 0, 4, 0.5, -0.5),
    ),
    "sparsity.keep_largest": of_type(ValueError, lambda: sparsity.keep_largest(ONES, 1.5)),
    "sparsity.keep_largest_of_rows": of_type(
        ValueError, lambda: sparsity.keep_largest_of_rows(ONES, -0.5)
    ),
    "sparsity.keep_n_of_m": of_type(
        ValueError,
        lambda: sparsity.keep_n_of_m(ONES, 2, 3),
        lambda: sparsity.keep_n_of_m(ONES, 3, 2),
    ),
    "sparsity.soft_threshold": of_type(ValueError, lambda: sparsity.soft_threshold(ONES, -0.5)),
    "sparsity.gate_gradients": of_type(
        ValueError, lambda: sparsity.gate_gradients(ONES, ONES, 3)
    ),
    "sparsity.keep_heads": of_type(
        ValueError,
        lambda: sparsity.keep_heads(WEIGHTS.blocks[0].attention, torch.tensor([0]), 5),
    ),
    "sparsity.fewest_bits": of_type(
        ValueError,
        lambda: sparsity.fewest_bits(3, 4),
        lambda: sparsity.fewest_bits(3, -1),
    ),
    "quantization.quantized_linear": of_type(
        ValueError,
        lambda: quantization.quantized_linear(ONES, ONES, ONES[:, :1], ONES),
        lambda: quantization.quantized_linear(
            ONES, *quantization.quantized_rows(torch.ones(5, 3)), torch.ones(5)
        ),
    ),
    "masking.next_sentence_pairs": of_type(
        ValueError,
        lambda: masking.next_sentence_pairs([[[1]]], 5, torch.Generator()),
        lambda: masking.next_sentence_pairs([[[1]], [[2]]], 1, torch.Generator()),
        lambda: masking.next_sentence_pairs([[[1]], []], 5, torch.Generator()),
        lambda: masking.next_sentence_pairs([[[1]], [[]]], 5, torch.Generator()),
    ),
    "wordpiece.read_vocabulary": of_type(
        CheckpointError,
        lambda: wordpiece.read_vocabulary("a\n\nb"),
        lambda: wordpiece.read_vocabulary("a\na"),
        lambda: wordpiece.read_vocabulary("a\nb"),
    ),
    "wordpiece.encode": of_type(ValueError, lambda: wordpiece.encode("a\ud800", WORDS)),
    "wordpiece.assemble": of_type(
        ValueError, lambda: wordpiece.assemble(WORDS, [], None, 1)
    ),
    "wordpiece_training.pair_score": of_type(
        ValueError, lambda: wordpiece_training.pair_score(0, 1, 1, 2)
    ),
    "wordpiece_training.train_wordpiece": of_type(
        ValueError,
        lambda: wordpiece_training.train_wordpiece({"a": 1}, 5),
        lambda: wordpiece_training.train_wordpiece({"a": 1}, 9, min_count=0),
    ),
    "decoder.empty_memory": of_type(
        ValueError,
        lambda: decoder.empty_memory(torch.ones(1, 3, 12), KEEP.long(), DECODER, TINY),
    ),
    **{
        f"decoder.{decoding.__name__}": of_type(
            ValueError,
            lambda f=decoding: f(IDS + 5, NO_WORDS, DECODER, TINY),
            lambda f=decoding: f(IDS - 1, NO_WORDS, DECODER, TINY),
            lambda f=decoding: f(IDS[:, :1].repeat(1, 513), NO_WORDS, DECODER, TINY),
        )
        for decoding in (decoder.decode_traced, decoder.decode)
    },
    "search.greedy_search": of_type(
        ValueError, lambda: search.greedy_search(no_step, NO_WORDS, 0, 1, 0)
    ),
    "search.beam_search": of_type(
        ValueError,
        lambda: search.beam_search(no_step, NO_WORDS, 0, 1, 0),
        lambda: search.beam_search(no_step, NO_WORDS, 0, 1, 9, 0),
    ),
    "checkpoint.key_of": of_type(KeyError, lambda: checkpoint.key_of("pooler.weight")),
    "checkpoint.load_weights": of_type(
        CheckpointError, lambda: checkpoint.load_weights({}, WEIGHTS)
    ),
    "checkpoint.stored_tensors": of_type(
        CheckpointError, lambda: checkpoint.stored_tensors(Path("no such file"))
    ),
    "checkpoint.save_weights": of_type(
        OSError, lambda: checkpoint.save_weights(Path("no/such/folder"), WEIGHTS)
    ),
}


def promises(function: Documented) -> list[str]:
    """The exceptions that the section Raises names, one for each row."""
    lines = function.sections.get("Raises", [])
    return [line.split()[0] for line in lines if not line[4:].startswith(" ")]


PROMISING = [f for f in FUNCTIONS + METHODS if promises(f)]


@pytest.mark.parametrize("function", PROMISING, **named)
def test_every_promised_refusal_is_provoked(function):
    provoked = set()
    for exception, call in REFUSALS.get(function.where, []):
        with pytest.raises(exception) as caught:
            call()
        assert str(caught.value), f"{function.where} refuses without a word"
        provoked.add(exception.__name__)
    assert provoked == set(promises(function)), f"{function.where}: provoke what Raises promises"


def test_no_refusal_is_left_without_a_promise():
    assert set(REFUSALS) == {function.where for function in PROMISING}
