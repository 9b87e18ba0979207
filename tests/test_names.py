"""A tensor's name ends in its shape, and a name cannot lie: every one is checked while it lives.

A forward pass, the heads, the losses, distillation, masking and Adam run under `sys.settrace` at
sizes that are all different, prime wherever one is free. After every line of a function of the
book each suffixed variable is measured, and so are the suffixed fields of what it holds. A
suffixed variable that no run has seen is a fault of this test.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import torch
from test_book import BOOK
from torch import Tensor

from minibert import (
    attention,
    distillation,
    functional,
    heads,
    losses,
    masking,
    matching,
    optim,
    quantization,
    search,
    sparsity,
)
from minibert.config import BertConfig
from minibert.decoder import decode, decoder_shapes, empty_memory
from minibert.encoder import encode, encode_traced
from minibert.parameters import LinearWeights, flatten, initial_weights, weight_shapes

FOLDER = Path(attention.__file__).parent
# letters bind anew per call
GENERAL = (
    "parameters", "functional", "losses", "optim", "sparsity", "quantization", "masking", "search"
)
TRAILING = ("functional", "quantization")  # names give trailing axes only
PARTS = ("pooler", "mlm", "nsp", "classifier", "span")
PLACES = {"T": 31, "P": 37}
# Letters that mean one size for a whole model. D = N K, and H is a multiple of N.
STUDENT = {"B": 2, "S": 7, "N": 3, "K": 5, "D": 15, "F": 11, "V": 23, "C": 13, "L": 17, **PLACES}
TEACHER = STUDENT | {"N": 6, "K": 41, "D": 246, "F": 19, "L": 29}
MEMORY = 43  # tokens attended to in cross-attention

SUFFIX = re.compile(r"_([A-Z1-9]+)$")


def lie(name: str, value: Any, bound: dict[str, int], trailing: bool = False) -> str:
    """What is wrong with a name, or "". Letters that are not bound yet are bound here."""
    suffix = SUFFIX.search(name)
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


def lies_within(value: Any, sizes: dict[str, int]) -> Iterator[str]:
    """The lies of the fields of a named tuple, at any depth.

    A trace belongs to the model that runs. Weights, terms and states have letters of their own.
    """
    if not hasattr(value, "_fields"):
        return
    bound = sizes if type(value).__name__.endswith("Trace") else {}
    two = type(value).__name__ == "DecoderBlockTrace"  # its attentions ask different tokens
    for name, part in zip(value._fields, value, strict=True):
        if isinstance(part, Tensor):
            yield lie(name, part, bound)
        for inner in part if isinstance(part, tuple) and not hasattr(part, "_fields") else [part]:
            yield from lies_within(inner, dict(bound) if two else bound)


class Watch(NamedTuple):
    """What a run showed: the wrong names, and every (function, variable) that was measured."""

    lies: set[str]
    seen: set[tuple[str, str]]


def watched(run: Callable[[], Any], sizes: dict[str, int]) -> Watch:
    found = Watch(set(), set())

    def entering(frame: FrameType, event: str, arg: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent != FOLDER or path.stem not in BOOK:
            return None
        bound = {} if path.stem in GENERAL else dict(sizes)
        function = f"{path.stem}.{frame.f_code.co_qualname.partition('.')[0]}"
        measured: dict[str, int] = {}

        def each_line(frame: FrameType, event: str, arg: Any) -> Any:
            for name, value in frame.f_locals.items():
                if measured.get(name) == id(value):
                    continue
                measured[name] = id(value)
                if is_measurable(value):
                    found.seen.add((function, name))
                    note(lie(name, value, bound, path.stem in TRAILING))
                # where two models or two texts meet, each trace has sizes of its own
                alone = path.stem in ("distillation", "decoder")
                for wrong in lies_within(value, {} if alone else bound):
                    note(wrong)
            return each_line

        def note(wrong: str) -> None:
            if wrong:
                found.lies.add(f"{function}: {wrong}")

        return each_line

    before = sys.gettrace()
    sys.settrace(entering)
    try:
        run()
    finally:
        sys.settrace(before)
    return found


# ----------------------------------------------------------------------------------- the runs


def config_of(sizes: dict[str, int]) -> BertConfig:
    return BertConfig(
        vocab_size=sizes["V"],
        hidden_size=sizes["D"],
        num_hidden_layers=sizes["L"],
        num_attention_heads=sizes["N"],
        intermediate_size=sizes["F"],
        max_position_embeddings=sizes["P"],
        type_vocab_size=sizes["T"],
        id2label={index: str(index) for index in range(sizes["C"])},
    )


def weights_of(config: BertConfig, fit_width: int | None = None):
    shapes = weight_shapes(config, PARTS, fit_width)
    return initial_weights(shapes, 0.02, fresh())


def fresh() -> torch.Generator:
    return torch.Generator().manual_seed(1)


B, S, V, C = (STUDENT[letter] for letter in "BSVC")
EVERYTHING = distillation.TermWeights(*[1.0] * len(distillation.TermWeights()))
IDS = torch.arange(B * S).view(B, S)
KEEP = torch.arange(S) < torch.tensor([[S], [4]])


def forward_pass() -> None:
    config = config_of(STUDENT)
    weights = weights_of(config)
    hidden = encode(IDS, KEEP, 0 * IDS, weights, config, fresh())
    pooled = heads.pooled(hidden, weights.pooler)
    masked = hidden.view(B * S, -1)[:5]
    heads.mlm_logits(masked, weights.mlm, weights.embeddings.word_VD, config)
    heads.nsp_logits(pooled, weights.nsp)
    heads.sequence_logits(pooled, weights.classifier, 0.1, fresh())
    heads.token_logits(hidden, weights.classifier)
    heads.span_logits(hidden, weights.span)
    one_row = type(weights.span)(weights.span.weight_OI[:1], weights.span.bias_O[:1])
    heads.regression_values(pooled, one_row)
    functional.gelu_tanh(hidden)
    encode_traced(IDS, KEEP, 0 * IDS, weights, config)


def choose() -> None:
    """Six texts are two questions of three choices: B is 6 in one function and 2 in another."""
    one_row = LinearWeights(torch.ones(1, STUDENT["D"]), torch.ones(1))
    heads.multiple_choice_logits(torch.ones(6, STUDENT["D"]), one_row, 3)
    matching.prediction_loss(torch.ones(B, 1), torch.ones(B, 1))
    distillation.prediction_terms(torch.ones(B, 1), torch.ones(B, 1), torch.ones(B), EVERYTHING)


def compute_losses() -> None:
    labels = torch.tensor([1, 0, 1])
    losses.mlm_loss(torch.zeros(B, S, V), IDS)
    losses.nsp_loss(torch.zeros(3, 2), labels)
    losses.smoothed_cross_entropy(torch.zeros(3, C), labels, 0.1)
    losses.span_loss(torch.zeros(3, S), torch.ones(3, S), labels, labels)
    losses.squared_error(torch.zeros(3), torch.ones(3))
    for formula in (losses.kl_divergence, losses.soft_cross_entropy):
        formula(torch.zeros(3, C), torch.ones(3, C))
    losses.sparse_training_loss(torch.zeros(3), torch.ones(5), 0.1)


def look_across() -> None:
    """Where queries and keys are of different number, one taken for the other shows."""
    weights = weights_of(config_of(STUDENT)).blocks[0].attention
    hidden, memory = torch.zeros(B, S, STUDENT["D"]), torch.zeros(B, MEMORY, STUDENT["D"])
    for bias in (
        attention.causal_bias(S, MEMORY),
        attention.padding_bias(torch.ones(B, MEMORY, dtype=torch.bool)),
    ):
        attention.multi_head_attention(hidden, memory, bias, weights, STUDENT["N"])


def traces() -> tuple[Any, Any, Any]:
    student, teacher = config_of(STUDENT), config_of(TEACHER)
    own, other = weights_of(student, fit_width=TEACHER["D"]), weights_of(teacher)
    with_teacher = encode_traced(IDS, KEEP, 0 * IDS, other, teacher)
    return encode_traced(IDS, KEEP, 0 * IDS, own, student), with_teacher, own.fit_dense


def compare(trace: Any, teacher: Any, projection: Any) -> None:
    """All but minilm_v1, as the two have not equally many heads."""
    layers = distillation.layer_map(STUDENT["L"], TEACHER["L"])
    logits, labels, weights = torch.zeros(B, C), torch.zeros(B).long(), EVERYTHING
    for mode in ("masked", "tinybert"):
        terms = distillation.intermediate_terms(
            trace, teacher, KEEP, layers, projection, weights._replace(minilm_v1=0.0), mode
        )
        answers = distillation.prediction_terms(logits, logits + 1, labels, weights, 2.0, mode)
        terms = terms._replace(prediction_B=answers.prediction_B, label_B=answers.label_B)
        distillation.distillation_loss(terms, weights)


def relate() -> None:
    """More heads than either model has, at widths that have 5 in common."""
    own, other = torch.ones(B, S, RELATED["D"]), torch.ones(B, S, RELATED["E"])
    matching.relation_loss(own, own, other, other, KEEP, RELATED["A"])


def step() -> None:
    flat = flatten(weights_of(config_of(STUDENT)))
    optim.clip_by_global_norm((flat, flat[:3]), 0.1)
    for form in ("google", "adam_l2", "kingma"):
        state = optim.initial_adam_state(flat)
        flat, _ = optim.adam_step(flat, flat, state, 0.1, optim.adam_form(form))


def leave_out() -> None:
    score, block = torch.ones(STUDENT["F"], 20), weights_of(config_of(STUDENT)).blocks[0]
    sparsity.keep_largest(score.flatten(), 0.5)
    sparsity.keep_n_of_m(score, 2, 4)
    sparsity.soft_threshold(score[0], 0.5)
    sparsity.movement_scores(score[0], score[1], score[2], 0.1)
    sparsity.gate_gradients(score, score, 5)
    sparsity.keep_heads(block.attention, torch.tensor([2, 0]), STUDENT["N"])
    sparsity.keep_units(block, torch.arange(7))


def take_eight_bits() -> None:
    weight = torch.ones(STUDENT["F"], STUDENT["D"])
    rows = quantization.quantized_rows(weight)
    quantization.quantized_linear(torch.ones(B, S, STUDENT["D"]), *rows, torch.ones(STUDENT["F"]))


def hide_words() -> None:
    ids = torch.arange(S)
    groups = masking.word_groups(ids % 3 != 1, ids > 0)
    masking.mask_tokens(ids, groups, V, 3, fresh())


def write() -> None:
    """Words in two parts, then a search: texts, words, hypotheses are of as many sizes."""
    config = config_of(STUDENT)
    weights = initial_weights(decoder_shapes(config), 0.02, fresh())
    encoded, keep = torch.zeros(B, MEMORY, STUDENT["D"]), torch.ones(B, MEMORY) > 0
    nothing = empty_memory(encoded, keep, weights, config)
    _, memory = decode(IDS, nothing, weights, config, fresh())
    decode(IDS[:, :3], memory, weights, config)

    def step(last: Tensor, memory: Any) -> Any:
        logits, memory = decode(last, memory, weights, config)
        return functional.log_softmax(logits[:, 0]), memory

    search.greedy_search(step, nothing, 0, 1, 3)
    search.beam_search(step, nothing, 0, 1, 4, 3)
    search.length_penalty(5, 0.6)


LOOKING_ACROSS = STUDENT | {"R": MEMORY}
# What asks and what is asked differs from call to call, and rows are sentences or hypotheses.
WRITING = {letter: STUDENT[letter] for letter in "NKDFVL"}
RELATED = {"B": B, "S": S, "R": S, "A": 5, "D": 5 * 13, "E": 5 * 29}
PAIR = {key: size for key, size in STUDENT.items() if key != "K"} | {"H": 6, "E": 246, "R": S}
RUNS: dict[str, tuple[Callable[[], Any], dict[str, int]]] = {
    "a forward pass": (forward_pass, STUDENT | {"R": S}),
    "choices and scores": (choose, {"D": STUDENT["D"]}),
    "the losses": (compute_losses, {}),
    "cross-attention": (look_across, LOOKING_ACROSS),
    "relations": (relate, RELATED),
    "a step of Adam": (step, {}),
    "zeros": (leave_out, {}),
    "eight bits": (take_eight_bits, {}),
    "masking": (hide_words, {}),
    "writing": (write, WRITING),
}


# These serve either side, with tokens S whose they are, or with the widths of a second model; the
# head takes all tokens of a batch as well as the masked ones in one list.
BOTH_SIDES = {
    "cross-attention": ["attention.split_heads"],
    "relations": ["attention.split_heads"],
    "distillation": ["attention.split_heads", "attention.merge_heads"],
    "writing": ["heads.mlm_logits"],
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Watch]:
    pair = traces()
    runs = RUNS | {"distillation": (lambda: compare(*pair), PAIR)}
    return {name: watched(run, sizes) for name, (run, sizes) in runs.items()}


@pytest.mark.parametrize("run", [*RUNS, "distillation"])
def test_no_name_lies_in(run, seen):
    assert seen[run].seen
    lies = seen[run].lies
    lies = {lie for lie in lies if lie.partition(":")[0] not in BOTH_SIDES.get(run, ())}
    assert not lies, "\n".join(sorted(lies))


def suffixed_variables() -> Iterator[tuple[str, str]]:
    """(module.function, variable) for every suffixed argument and variable in the source."""
    for module in BOOK:
        for function in ast.parse((FOLDER / f"{module}.py").read_text("utf-8")).body:
            if isinstance(function, ast.FunctionDef):
                stored = {
                    node.id
                    for node in ast.walk(function)
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
                }
                stored |= {argument.arg for argument in function.args.args}
                yield from ((f"{module}.{function.name}", n) for n in stored if SUFFIX.search(n))


def test_every_suffixed_variable_was_seen(seen):
    """Otherwise a name could lie where no run of this test comes by."""
    everything = set().union(*(watch.seen for watch in seen.values()))
    unseen = sorted(set(suffixed_variables()) - everything)
    assert not unseen, f"never measured: {', '.join(f'{f} {name}' for f, name in unseen)}"


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
    assert lie(name, torch.zeros(shape), STUDENT | {"R": 7}) == message


def test_the_first_letter_of_a_list_is_its_length():
    states = [torch.zeros(2, 7, 15)] * STUDENT["L"]
    assert lie("hiddens_LBSD", states, dict(STUDENT)) == ""
    assert lie("hiddens_LBSD", states[:3], dict(STUDENT)).endswith("but L is 17")


def test_a_lie_within_a_trace_is_found():
    zeros = torch.zeros(2, 3, 7, 5)
    scores = torch.zeros(2, 3, 7, 7)
    right = attention.AttentionTrace(zeros, zeros, zeros, scores, scores, torch.zeros(2, 7, 15))
    wrong = right._replace(scores_BNSR=scores.transpose(1, 2))
    sizes = STUDENT | {"R": 7}
    assert not any(lies_within(right, sizes))
    assert any(lies_within(wrong, sizes))


def test_sizes_are_all_different():
    """Or a swapped axis could be silent."""
    model = {key: size for key, size in STUDENT.items() if key != "R"}
    assert len(set(model.values())) == len(model)
    free = [size for key, size in model.items() if key != "D"]
    assert all(size > 1 and all(size % d for d in range(2, size)) for size in free)
    assert not set(TEACHER.values()) & {MEMORY}
