"""A tensor's name ends in its shape, and a name cannot lie: every one is checked while it lives.

A forward pass, the heads, the losses, distillation and Adam run under `sys.settrace` at sizes that
all differ; whenever a function of the book returns, each of its suffixed variables is measured.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert import attention, distillation, functional, heads, losses, optim
from minibert.config import BertConfig
from minibert.encoder import encode, encode_traced
from minibert.parameters import flatten, initial_weights, weight_shapes

BOOK = Path(attention.__file__).parent
WATCHED = ("functional", "attention", "encoder", "heads", "losses", "distillation", "optim")
PARTS = ("pooler", "mlm", "nsp", "classifier", "span")
# Letters that mean one size for a whole model; the others bind anew in each call.
STUDENT = {"B": 2, "S": 7, "R": 7, "N": 3, "K": 5, "D": 15, "F": 11, "V": 23, "C": 13, "L": 4}
TEACHER = STUDENT | {"N": 6, "K": 17, "D": 102, "F": 19, "L": 8}
PAIR = STUDENT | {"H": 6, "E": 102}
del PAIR["K"]  # two models, two widths of a head


def lie(name: str, value: Any, bound: dict[str, int], trailing: bool = False) -> str:
    """What is wrong with a name, or "". Letters that are not bound yet are bound here."""
    suffix = re.search(r"_([A-Z1-9]+)$", name)
    if not suffix:
        return ""
    letters = suffix[1]
    shape = list(value.shape) if isinstance(value, Tensor) else [len(value)]
    if not isinstance(value, Tensor) and value:
        shape += list(value[0].shape)
    if trailing:
        shape = shape[-len(letters) :]
    if len(shape) != len(letters):
        return f"{name} has the shape {shape}"
    for letter, size in zip(letters, shape, strict=True):
        broadcast = size == 1 and name.startswith("mask_bias")  # documented: one mask for all
        wanted = int(letter) if letter.isdigit() else bound.setdefault(letter, size)
        if size != wanted and not broadcast:
            return f"{name} has the shape {shape}, but {letter} is {wanted}"
    return ""


def is_measurable(value: Any) -> bool:
    sequence = isinstance(value, list | tuple) and not hasattr(value, "_fields")
    return isinstance(value, Tensor) or (
        sequence and bool(value) and all(isinstance(part, Tensor) for part in value)
    )


def lies_told(run: Callable[[], Any], sizes: dict[str, int]) -> tuple[list[str], set[str], Any]:
    """The wrong names, the functions that were watched, and what the run returned."""
    lies: list[str] = []
    seen: set[str] = set()

    def entering(frame: FrameType, event: str, arg: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        return leaving if path.parent == BOOK and path.stem in WATCHED else None

    def leaving(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "return":
            module = Path(frame.f_code.co_filename).stem
            general = module in ("functional", "losses", "optim")  # letters bind per call
            bound = {} if general else dict(sizes)
            seen.add(f"{module}.{frame.f_code.co_name}")
            for name, value in frame.f_locals.items():
                if is_measurable(value):
                    wrong = lie(name, value, bound, trailing=module == "functional")
                    lies.extend([f"{module}.{frame.f_code.co_name}: {wrong}"] if wrong else [])
        return leaving

    before = sys.gettrace()
    sys.settrace(entering)
    try:
        result = run()
    finally:
        sys.settrace(before)
    return lies, seen, result


def config_of(sizes: dict[str, int]) -> BertConfig:
    return BertConfig(
        vocab_size=sizes["V"],
        hidden_size=sizes["D"],
        num_hidden_layers=sizes["L"],
        num_attention_heads=sizes["N"],
        intermediate_size=sizes["F"],
        max_position_embeddings=29,
        type_vocab_size=3,
        id2label={index: str(index) for index in range(sizes["C"])},
    )


def weights_of(config: BertConfig, fit_width: int | None = None):
    shapes = weight_shapes(config, PARTS, fit_width)
    return initial_weights(shapes, 0.02, torch.Generator().manual_seed(0))


B, S, V, C = (STUDENT[letter] for letter in "BSVC")
IDS = torch.arange(B * S).view(B, S)
KEEP = torch.arange(S) < torch.tensor([[S], [4]])


def forward_pass() -> Any:
    config = config_of(STUDENT)
    weights = weights_of(config)
    generator = torch.Generator().manual_seed(1)
    hidden = encode(IDS, KEEP, 0 * IDS, weights, config, generator)
    pooled = heads.pooled(hidden, weights.pooler)
    words = heads.mlm_logits(
        hidden.view(B * S, -1), weights.mlm, weights.embeddings.word_VD, config
    )
    follows = heads.nsp_logits(pooled, weights.nsp)
    classes = heads.sequence_logits(pooled, weights.classifier, 0.1, generator)
    heads.token_logits(hidden, weights.classifier)
    start, end = heads.span_logits(hidden, weights.span)
    one_row = type(weights.span)(weights.span.weight_OI[:1], weights.span.bias_O[:1])
    scores = heads.regression_values(pooled, one_row)
    labels = torch.tensor([1, 0])
    functional.gelu_tanh(hidden)
    losses.mlm_loss(words.view(B, S, V), IDS)
    losses.nsp_loss(follows, labels)
    losses.span_loss(start, end, labels, labels)
    losses.squared_error(scores, scores)
    losses.kl_divergence(classes, classes)
    attention.causal_bias(S, S)
    return hidden


def distil() -> Any:
    student, teacher = config_of(STUDENT), config_of(TEACHER)
    own = weights_of(student, fit_width=TEACHER["D"])
    other = weights_of(teacher)
    with_teacher = encode_traced(IDS, KEEP, 0 * IDS, other, teacher)
    trace = encode_traced(IDS, KEEP, 0 * IDS, own, student)
    return trace, with_teacher, own.fit_dense


def compare(trace: Any, teacher: Any, projection: Any) -> Any:
    layers = distillation.layer_map(STUDENT["L"], TEACHER["L"])
    logits = torch.zeros(B, C)
    for mode in ("masked", "tinybert"):
        terms = distillation.intermediate_terms(
            trace, teacher, KEEP, layers, projection, distillation.TermWeights(), mode
        )
        prediction = distillation.prediction_loss(logits, logits + 1, 2.0, mode)
        terms = terms._replace(prediction_B=prediction)
        distillation.distillation_loss(terms, distillation.TermWeights())
    return terms


def step() -> Any:
    flat = flatten(weights_of(config_of(STUDENT)))
    optim.clip_by_global_norm((flat, flat[:3]), 0.1)
    for form in ("google", "adam_l2"):
        state = optim.initial_adam_state(flat)
        flat, _ = optim.adam_step(flat, flat, state, 0.1, optim.adam_form(form))
    return flat


def test_no_name_lies_in_a_forward_pass():
    lies, seen, _ = lies_told(forward_pass, STUDENT)
    assert not lies, "\n".join(sorted(set(lies)))
    assert {
        "encoder.block",
        "attention.split_heads",
        "heads.mlm_logits",
        "losses.span_loss",
    } <= seen
    assert {"functional.dropout", "functional.layer_norm", "functional.log_softmax"} <= seen


def test_no_name_lies_in_cross_attention():
    """Where queries and keys are of different number, one taken for the other shows."""
    weights = weights_of(config_of(STUDENT)).blocks[0].attention
    hidden, memory = torch.zeros(B, S, STUDENT["D"]), torch.zeros(B, 19, STUDENT["D"])
    bias = attention.causal_bias(S, 19)
    lies, seen, _ = lies_told(
        lambda: attention.multi_head_attention(hidden, memory, bias, weights, STUDENT["N"]),
        STUDENT | {"R": 19},
    )
    # split_heads serves both sides and calls the tokens of either S
    assert {lie.partition(":")[0] for lie in lies} <= {"attention.split_heads"}
    assert "attention.attention_scores" in seen


def test_no_name_lies_in_distillation():
    traces = distil()
    lies, seen, _ = lies_told(lambda: compare(*traces), PAIR)
    assert not lies, "\n".join(sorted(set(lies)))
    assert {"distillation.hidden_loss", "distillation.grouped_heads"} <= seen


def test_no_name_lies_in_a_step_of_adam():
    lies, seen, _ = lies_told(step, {})
    assert not lies, "\n".join(sorted(set(lies)))
    assert {"optim.adam_step", "optim.clip_by_global_norm"} <= seen


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x_BSD", (2, 15, 7), "x_BSD has the shape [2, 15, 7], but S is 7"),
        ("x_BSD", (2, 7), "x_BSD has the shape [2, 7]"),
        ("bias_B11R", (2, 1, 7, 7), "bias_B11R has the shape [2, 1, 7, 7], but 1 is 1"),
        ("mask_bias_BNSR", (2, 1, 1, 7), ""),
        ("mask_bias_BNSR", (2, 1, 1, 6), "mask_bias_BNSR has the shape [2, 1, 1, 6], but R is 7"),
        ("x_MM", (3, 4), "x_MM has the shape [3, 4], but M is 3"),
        ("plain", (2, 15, 7), ""),
    ],
)
def test_a_lie_is_found(name, shape, message):
    found = lie(name, torch.zeros(shape), dict(STUDENT))
    assert found == message


def test_the_first_letter_of_a_list_is_its_length():
    states = [torch.zeros(2, 7, 15)] * 4
    assert lie("hiddens_LBSD", states, dict(STUDENT)) == ""
    assert lie("hiddens_LBSD", states[:3], dict(STUDENT)).endswith("but L is 4")
