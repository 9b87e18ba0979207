"""`minibert diff`: models that differ in one thing, which is found where it begins and named."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from command import documented, shape_of
from torch import Tensor

from minibert import attention, encoder
from minibert.causes import Cause, cause_of, compare, formed_states
from minibert.config import CheckpointError
from minibert.difference import (
    TEXTS,
    TOLERANCE,
    Gap,
    Inputs,
    first_beyond,
    gap,
    random_inputs,
    read_inputs,
    side_of,
    state_gaps,
    states_of,
)
from minibert.encoder import BlockTrace, encode_traced
from minibert.functional import layer_norm, linear
from minibert.model import Bert
from minibert.parameters import LinearWeights, named_tensors, with_tensors
from minibert.pretrained import HEADS

NAMES = ("query_BNSK", "key_BNRK", "value_BNRK", "scores_BNSR", "probabilities_BNSR", "output_BSD")
BLOCKS = [
    f"blocks.{layer}.{name}"
    for layer in (0, 1)
    for name in (*(f"attention.{one}" for one in NAMES), "attended_BSD", "hidden_BSD")
]


def model(head: str = "classification", seed: int = 0, **changes: Any) -> Bert:
    """A random model in float64 in which every weight counts, biases too."""
    config = tiny.config(**changes)
    if head == "regression":
        config = config.with_labels(("score",), "regression")
    bert = Bert.from_config(config, head, tiny.tokenizer(), seed)
    generator = torch.Generator().manual_seed(3)
    for _, tensor in named_tensors(bert.weights):
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)
    return bert.to("cpu", torch.float64)


def configured(bert: Bert, **changes: Any) -> Bert:
    return dataclasses.replace(bert, config=dataclasses.replace(bert.config, **changes))


def with_weights(bert: Bert, **tensors: Tensor) -> Bert:
    """The model with other weights at some paths, written with __ for a dot."""
    chosen = {path.replace("__", "."): tensor for path, tensor in tensors.items()}
    all_of_them = dict(named_tensors(bert.weights))
    assert chosen.keys() <= all_of_them.keys()
    return dataclasses.replace(bert, weights=with_tensors(bert.weights, all_of_them | chosen))


# ----------------------------------------------------------------- what is compared, and how far


def test_a_bound_is_a_share_of_the_larger_of_two_largest_values():
    x = torch.tensor([1.0, -8.0])
    assert gap("x", x, x / 2, 0.5) == gap("x", x / 2, x, 0.5) == Gap("x", 4.0, 4.0)
    assert not gap("x", x, x / 2, 0.5).beyond
    assert gap("x", x, x / 2, 0.49).beyond
    assert gap("x", x, x * math.nan, 0.5).beyond
    assert gap("x", x, x[:1], 0.5) == Gap("x", math.inf, 0.0)
    assert not gap("x", x * 0, x * 0, 0.0).beyond
    assert not gap("x", x[:0], x[:0], 0.0).beyond


def test_the_first_is_the_first_beyond_and_not_the_largest():
    gaps = [Gap("a", 1.0, 2.0), Gap("b", 3.0, 2.0), Gap("c", 9.0, 2.0)]
    assert first_beyond(gaps) == gaps[1]
    assert first_beyond(gaps[:1]) is None


def test_states_come_in_the_order_of_their_computation():
    found = compare(model(), model(), ())
    assert [one.name for one in found.states] == [
        "embedded_BSD", *BLOCKS, "pooled_BD", "answer_BC"
    ]  # fmt: skip
    assert found.equal
    assert found.weights == []
    assert all(one.difference == 0 < one.bound for one in found.states)


def test_texts_are_of_unlike_length_and_one_has_two_sentences():
    for inputs in (read_inputs(model(), TEXTS), random_inputs(model().config)):
        lengths = inputs.keep_BS.sum(1).tolist()
        assert lengths[0] == inputs.ids_BS.shape[1] > lengths[1] > 2
        assert set(inputs.types_BS[inputs.keep_BS].tolist()) == {0, 1}
    one_type = configured(model(), type_vocab_size=1)
    assert not read_inputs(one_type, TEXTS).types_BS.any()
    assert not random_inputs(one_type.config).types_BS.any()
    assert random_inputs(configured(model(), max_position_embeddings=3).config).ids_BS.shape[1] == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("good\tday\tplot", "a --text holds 2 tabs; at most one is allowed"),
        ("good " * 2000, "a --text has 2,002 tokens, but the model has only {} positions"),
    ],
)
def test_a_text_that_cannot_be_read_whole_is_refused(text, reason):
    bert = model()
    with pytest.raises(CheckpointError) as refused:
        read_inputs(bert, [text])
    assert str(refused.value) == reason.format(bert.config.max_position_embeddings)


def test_what_padding_holds_is_not_compared_but_what_is_taken_from_it():
    bert = model()
    inputs = read_inputs(bert, TEXTS)
    other = inputs._replace(ids_BS=torch.where(inputs.keep_BS, inputs.ids_BS, 7))
    states = [side_of(bert).states(one) for one in (inputs, other)]
    assert not torch.equal(states[0]["embedded_BSD"], states[1]["embedded_BSD"])
    assert not any(one.difference for one in state_gaps(*states, inputs.keep_BS, TOLERANCE))
    leaky = dict(states[0])
    leaky[BLOCKS[4]] = leaky[BLOCKS[4]] + 0.1 * ~inputs.keep_BS[:, None, None]
    first = first_beyond(state_gaps(states[0], leaky, inputs.keep_BS, TOLERANCE))
    assert first.name == BLOCKS[4] == "blocks.0.attention.probabilities_BNSR"


def test_the_form_of_bert_is_the_book_to_the_last_bit():
    for head in ("classification", "mlm"):
        bert = model(head)
        inputs = read_inputs(bert, TEXTS)
        formed = formed_states(inputs, bert.weights, bert.config, head)
        states = side_of(bert).states(inputs)
        assert formed.keys() == states.keys()
        assert all(torch.equal(formed[name], states[name]) for name in states)


def test_a_difference_within_the_bound_is_none():
    bert = model()
    bias = bert.weights.blocks[1].output_norm.bias_D
    for size, equal in ((1e-8, True), (1e-4, False)):
        moved = with_weights(bert, blocks__1__output_norm__bias_D=bias + size)
        found = compare(bert, moved, ())
        assert found.equal is equal
        assert [one.name for one in found.weights] == ["blocks.1.output_norm.bias_D"]
    assert compare(bert, moved, (), tolerance=0.01).equal


def test_a_weight_that_the_texts_do_not_use_still_makes_models_differ():
    bert = model()
    words_VD = bert.weights.embeddings.word_VD.clone()
    words_VD[tiny.tokenizer().pieces.index("tree")] += 1
    found = compare(bert, with_weights(bert, embeddings__word_VD=words_VD), ["a film"])
    assert (found.first, found.cause, found.equal) == (None, None, False)
    assert [(one.name, one.beyond) for one in found.weights] == [("embeddings.word_VD", True)]


def test_models_of_other_sizes_heads_or_vocabularies():
    found = compare(model(), model(intermediate_size=16, num_hidden_layers=1), ())
    assert found.sizes == ["num_hidden_layers", "intermediate_size"]
    assert (found.states, found.weights, found.equal) == ([], [], False)
    words = model("mlm")
    found = compare(model(), words, ())
    assert set(found.alone[1]) == {path for path, _ in named_tensors(words.weights.mlm, "mlm")}
    assert "classifier.bias_O" in found.alone[0]
    assert not found.equal
    assert [one.name for one in found.states][-1] == "blocks.1.hidden_BSD"
    pieces = tiny.tokenizer().pieces
    other = dataclasses.replace(model(), tokenizer=tiny.Tokenizer.from_vocabulary(pieces[:-1]))
    found = compare(model(), other, ())
    assert (found.same_vocabulary, found.equal, found.first) == (False, False, None)
    assert compare(dataclasses.replace(model(), tokenizer=None), other, ["a film"]).equal
    for settings, same in (((False,), False), ((True, True), True), ((True, False), False)):
        cut = dataclasses.replace(model(), tokenizer=tiny.Tokenizer(pieces, *settings))
        found = compare(model(), cut, ())
        assert (found.same_vocabulary, found.equal) == (same, same), "accents follow the case"


# ------------------------------------------------------------------------- causes, one at a time


def rounded(dtype: torch.dtype) -> Callable[[Bert], Bert]:
    return lambda bert: bert.to("cpu", dtype).to("cpu", torch.float64)


def rolled(bert: Bert) -> Bert:
    """The rows of the positions as RoBERTa has them, where the first is row 2."""
    return with_weights(
        bert, embeddings__position_PD=bert.weights.embeddings.position_PD.roll(-2, 0)
    )


def turned(bert: Bert) -> Bert:
    weight_OI = bert.weights.blocks[1].attention.value.weight_OI
    return with_weights(bert, blocks__1__attention__value__weight_OI=weight_OI.T)


def biased(bert: Bert) -> Bert:
    bias_O = bert.weights.blocks[0].intermediate.bias_O
    return with_weights(bert, blocks__0__intermediate__bias_O=bias_O + 1)


MODELS: dict[str, tuple[Callable[[Bert], Bert], str, str]] = {
    "gelu": (
        lambda bert: configured(bert, hidden_act="gelu_new"),
        "blocks.0.hidden_BSD",
        "the tanh form of GELU",
    ),
    "eps": (
        lambda bert: configured(bert, layer_norm_eps=1e-3),
        "embedded_BSD",
        "0.001 as the eps of LayerNorm",
    ),
    "heads": (
        lambda bert: configured(bert, num_attention_heads=4),
        "blocks.0.attention.scores_BNSR",
        "4 heads",
    ),
    "float16": (rounded(torch.float16), "embedded_BSD", "weights rounded to float16"),
    "bfloat16": (rounded(torch.bfloat16), "embedded_BSD", "weights rounded to bfloat16"),
    "positions": (rolled, "embedded_BSD", "positions that start at row 2"),
    "transposed": (
        turned,
        "blocks.1.attention.value_BNRK",
        "blocks.1.attention.value.weight_OI transposed",
    ),
    "a bias": (biased, "blocks.0.hidden_BSD", "the other's blocks.0.intermediate.bias_O"),
    "the head": (
        lambda bert: with_weights(bert, classifier__bias_O=bert.weights.classifier.bias_O + 1),
        "answer_BC",
        "the other's classifier.bias_O",
    ),
    "another model": (lambda bert: model(seed=1), "embedded_BSD", "the other's weights"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_cause_between_two_models_is_named(name):
    change, first, words = MODELS[name]
    bert = model()
    found = compare(bert, change(bert), ["the film was good and so bright", "a plot\tis dull"])
    assert not found.equal
    assert found.first.name == first
    assert found.cause == Cause(words, "A", found.cause.left, None)
    assert found.cause.left <= 1e-12


@pytest.mark.parametrize(
    ("name", "model_named", "words"),
    [
        ("gelu", "A", "the erf form of GELU"),
        ("eps", "A", "1e-12 as the eps of LayerNorm"),
        ("heads", "A", "3 heads"),
        ("float16", "B", "weights rounded to float16"),
    ],
)
def test_the_other_way_round(name, model_named, words):
    """What was rounded cannot be told from what it is now, so it is B that lacks the rounding."""
    bert = model()
    found = compare(MODELS[name][0](bert), bert, ["the film was good"])
    assert (found.cause.model, found.cause.words) == (model_named, words)


def test_a_second_difference_is_named_after_the_first():
    bert = model()
    found = compare(bert, configured(turned(bert), hidden_act="gelu_new"), ())
    assert found.first.name == "blocks.0.hidden_BSD"
    assert found.cause.words == "the tanh form of GELU"
    assert found.cause.then == "blocks.1.attention.value_BNRK"


def test_where_nothing_explains_it_nothing_is_named():
    """Not even that of a model whose code is unknown: what is changed there is not its own."""
    bert = model()
    book = side_of(bert).states
    assert explained(
        bert, lambda inputs: {name: x.exp() for name, x in book(inputs).items()}
    ) == ("embedded_BSD", None)


def test_of_two_explanations_the_one_that_leaves_less_is_named():
    """Under a wide bound the eps 1e-5 and 1e-12 are as good as 1e-6, which it is."""
    a, b = (configured(model(), layer_norm_eps=eps) for eps in (1e-3, 1e-6))
    found = compare(a, b, (), tolerance=1e-4)
    assert (found.first.name, found.cause.left) == ("embedded_BSD", 0.0)
    assert found.cause.words == "1e-06 as the eps of LayerNorm"


def test_what_explains_the_first_difference_must_not_make_an_earlier_one():
    bert = model()
    book = side_of(bert).states

    def states(inputs: Inputs) -> Any:
        other = book(inputs._replace(types_BS=torch.zeros_like(inputs.types_BS)))
        return dict(book(inputs)) | {"pooled_BD": other["pooled_BD"]}

    assert explained(bert, states) == ("pooled_BD", None)


# A BERT of one's own: the book with one of its functions replaced by a mistake that others made.


def unscaled(query_BNSK: Tensor, key_BNRK: Tensor) -> Tensor:
    return query_BNSK @ key_BNRK.transpose(2, 3)


def scaled_by_width(query_BNSK: Tensor, key_BNRK: Tensor) -> Tensor:
    return query_BNSK @ key_BNRK.transpose(2, 3) / math.sqrt(12)


def pre_norm(x: Tensor, bias: Tensor, weights: Any, config: Any, generator: Any = None) -> Any:
    eps, n = config.layer_norm_eps, config.num_attention_heads
    normed = layer_norm(x, *weights.attention_norm, eps)
    trace = attention.multi_head_attention(normed, normed, bias, weights.attention, n)
    x = x + trace.output_BSD
    fed = layer_norm(x, *weights.output_norm, eps)
    return BlockTrace(trace, x, x + encoder.feed_forward(fed, weights, config.hidden_act))


def view_split(x: Tensor, n: int) -> Tensor:
    return x.view(len(x), n, -1, x.shape[2] // n)


def view_merge(x: Tensor) -> Tensor:
    return x.contiguous().view(len(x), x.shape[2], -1)


def strided_split(x: Tensor, n: int) -> Tensor:
    return torch.stack([x[..., head::n] for head in range(n)], 1)


def strided_merge(x: Tensor) -> Tensor:
    return torch.stack(x.unbind(1), -1).flatten(2)


MISTAKES: dict[str, tuple[list[tuple[Any, str, Any]], str, str]] = {
    "scale": (
        [(attention, "attention_scores", unscaled)],
        "blocks.0.attention.scores_BNSR",
        "scores that are not divided by √K",
    ),
    "root of the width": (
        [(attention, "attention_scores", scaled_by_width)],
        "blocks.0.attention.scores_BNSR",
        "scores divided by √D instead of √K",
    ),
    "mask": (
        [(encoder, "padding_bias", lambda keep_BS, dtype: torch.zeros(len(keep_BS), 1, 1, 1))],
        "blocks.0.attention.probabilities_BNSR",
        "no mask, so that padding is read,",
    ),
    "pre-norm": (
        [(encoder, "block", pre_norm)],
        "blocks.0.attention.query_BNSK",
        "pre-norm blocks instead of post-norm",
    ),
    "view": (
        [(attention, "split_heads", view_split), (attention, "merge_heads", view_merge)],
        "blocks.0.attention.query_BNSK",
        "heads cut by a view that exchanges no axes",
    ),
    "strides": (
        [(attention, "split_heads", strided_split), (attention, "merge_heads", strided_merge)],
        "blocks.0.attention.query_BNSK",
        "heads of every N-th number instead of slices",
    ),
}


def explained(bert: Bert, states: Callable[[Inputs], Any]) -> tuple[str, Cause | None]:
    """The first difference from a BERT with these states, and its cause."""
    a = side_of(bert)
    b = a._replace(states=states)
    inputs = read_inputs(bert, TEXTS)
    first = first_beyond(
        state_gaps(a.states(inputs), b.states(inputs), inputs.keep_BS, TOLERANCE)
    )
    return first.name, cause_of(a, b, inputs, first, TOLERANCE)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_known_mistake_of_a_bert_of_ones_own_is_named(name):
    patches, first, words = MISTAKES[name]
    bert = model()

    def states(inputs: Inputs) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for module, function, wrong in patches:
                patch.setattr(module, function, wrong)
            trace = encode_traced(*inputs, bert.weights, bert.config)
        return states_of(trace, bert.weights, bert.config, bert.head)

    found, cause = explained(bert, states)
    assert found == first
    assert (cause.words, cause.model, cause.then) == (words, "A", None)


@pytest.mark.parametrize("rates", [(0.1, 0.0), (0.0, 0.1)], ids=["hidden", "attention"])
def test_dropout_that_is_on_is_named(rates):
    hidden, probabilities = rates
    bert = configured(
        model(), hidden_dropout_prob=hidden, attention_probs_dropout_prob=probabilities
    )
    generator = torch.Generator().manual_seed(0)

    def states(inputs: Inputs) -> Any:
        trace = encode_traced(*inputs, bert.weights, bert.config, generator)
        return states_of(trace, bert.weights, bert.config, bert.head)

    first, cause = explained(bert, states)
    assert first == ("embedded_BSD" if hidden else "blocks.0.attention.output_BSD")
    assert cause.model == "B"
    assert cause.words.startswith("no dropout")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (torch.zeros_like, "token types that are all 0"),
        (torch.ones_like, "token types that are all 1"),
        (lambda types_BS: 1 - types_BS, "token types 0 and 1 exchanged"),
    ],
)
def test_token_types_are_named(change, words):
    bert = model()
    book = side_of(bert).states
    first, cause = explained(
        bert, lambda inputs: book(inputs._replace(types_BS=change(inputs.types_BS)))
    )
    assert (first, cause.words) == ("embedded_BSD", words)


def mean_of_tokens(hidden_BSD: Tensor, keep_BS: Tensor, weights: LinearWeights) -> Tensor:
    means = [x[keep].mean(0) for x, keep in zip(hidden_BSD, keep_BS, strict=True)]
    return torch.tanh(linear(torch.stack(means), *weights))


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        (lambda x, keep, weights: linear(x[:, 0], *weights), "a pooler without its tanh"),
        (
            lambda x, keep, weights: torch.relu(torch.tanh(linear(x[:, 0], *weights))),
            "a ReLU behind the pooler",
        ),
        (mean_of_tokens, "a pooler of the mean instead of [CLS]"),
    ],
)
def test_another_pooler_is_named(pool, words):
    bert = model()
    book = side_of(bert).states

    def states(inputs: Inputs) -> Any:
        found = dict(book(inputs))
        pooled_BD = pool(found["blocks.1.hidden_BSD"], inputs.keep_BS, bert.weights.pooler)
        said_BC = linear(pooled_BD, *bert.weights.classifier)
        return found | {"pooled_BD": pooled_BD, "answer_BC": said_BC}

    first, cause = explained(bert, states)
    assert (first, cause.words, cause.then) == ("pooled_BD", words, None)


# ---------------------------------------------------------------------------------- transformers


@pytest.mark.parametrize("head", HEADS)
def test_transformers_agrees_on_a_folder_that_it_saved(head, tmp_path):
    transformers = pytest.importorskip("transformers", reason="it is compared with")
    bert = model(head)
    bert.save_pretrained(tmp_path / "ours")
    theirs = getattr(transformers, HEADS[head].architecture)
    theirs.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for name in ("ours", "theirs"):  # the latter without a vocabulary
        loaded = Bert.from_pretrained(tmp_path / name, dtype=torch.float64)
        assert (loaded.tokenizer is None) == (name == "theirs")
        found = compare(loaded, loaded, (), theirs=tmp_path / name)
        assert found.equal
        assert 0 < max(one.difference for one in found.states) < 1e-12
        names = {one.name for one in found.states}
        own = side_of(loaded).states(random_inputs(loaded.config)).keys()
        assert own - names == {name for name in own if name.endswith("scores_BNSR")}


def test_a_cause_against_transformers_is_named(tmp_path):
    pytest.importorskip("transformers", reason="it is compared with")
    bert = model()
    configured(bert, hidden_act="gelu_new").save_pretrained(tmp_path)
    b = Bert.from_pretrained(tmp_path, dtype=torch.float64)
    found = compare(bert, b, (), theirs=tmp_path)
    assert (found.first.name, found.cause.words) == ("blocks.0.hidden_BSD", MODELS["gelu"][2])
    configured(bert, num_attention_heads=4).save_pretrained(tmp_path)
    b = Bert.from_pretrained(tmp_path, dtype=torch.float64)
    found = compare(bert, b, (), theirs=tmp_path)
    assert found.first.name == "blocks.0.attention.probabilities_BNSR", "scores are not handed out"
    assert found.cause.words == "4 heads"


# -------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two that differ in their GELU, one without a vocabulary, a smaller and a pruned one."""
    folder = tmp_path_factory.mktemp("diff")
    bert = tiny.classifier()
    bert.save_pretrained(folder / "a")
    configured(bert, hidden_act="gelu_new").save_pretrained(folder / "b")
    dataclasses.replace(bert, tokenizer=None).save_pretrained(folder / "mute")
    tiny.classifier(num_hidden_layers=1).save_pretrained(folder / "small")
    config = json.loads((folder / "mute/config.json").read_text())
    config["pruned"] = {"heads": [[0, 1, 2], [0, 1, 2]], "units": [17, 17]}  # nothing is gone
    bert.save_pretrained(folder / "pruned")
    (folder / "pruned/config.json").write_text(json.dumps(config))
    return folder


def test_equal_models_end_with_0_and_others_with_1(minibert, folder):
    same = minibert(f"diff {folder}/a {folder}/a")
    assert (same.code, same.err) == (0, "")
    assert same.out.endswith("\nevery state agrees\n")
    assert same.out.count("0.0e+00") == 19
    assert not any(word in same.out for word in ("beyond", "first", "config"))
    answer = minibert(f"diff {folder}/a {folder}/b")
    assert answer.code == 1
    assert answer.out.startswith("config  hidden_act: A 'gelu', B 'gelu_new'\n")
    assert answer.out.endswith(
        "\nthe first difference is blocks.0.hidden_BSD\n"
        "if A had the tanh form of GELU it would vanish\n"
    )
    marked = [line.split()[0] for line in answer.out.splitlines() if line.endswith("<- first")]
    assert marked == ["blocks.0.hidden_BSD"]
    beyond = [line.split()[0] for line in answer.out.splitlines() if line.endswith("beyond")]
    assert beyond == [*BLOCKS[8:], "pooled_BD", "answer_BC"]


def test_the_document_is_the_documented_one(minibert, folder):
    answer = minibert(f"diff {folder}/a {folder}/b --json --text", "the film\tand a plot")
    assert answer.code == 1
    assert answer.document["first"] == "blocks.0.hidden_BSD"
    assert answer.document["cause"]["words"] == "the tanh form of GELU"
    assert answer.document["config"] == {"hidden_act": ["gelu", "gelu_new"]}
    assert answer.document.keys() == documented("diff").keys()
    for key in ("states", "cause"):
        mine, told = (shape_of(one[key]) for one in (answer.document, documented("diff")))
        assert mine == told, key
    heads = minibert(f"diff {folder}/a {folder}/small --json")
    assert (heads.code, heads.document["sizes"]) == (1, ["num_hidden_layers"])
    assert heads.document.keys() == documented("diff").keys()


def test_weights_are_told_with_their_shapes(minibert, folder):
    bert = tiny.classifier()
    three = bert.config.with_labels(("x", "y", "z"))
    Bert.from_config(three, "classification", bert.tokenizer).save_pretrained("three")
    answer = minibert(f"diff {folder}/a three --json")
    rows = {row["name"]: row for row in answer.document["weights"]}
    assert rows["classifier.weight_OI"]["shapes"] == [[2, 12], [3, 12]]
    assert rows["classifier.weight_OI"]["difference"] is None
    assert list(rows) == ["classifier.weight_OI", "classifier.bias_O"]
    assert shape_of(rows["classifier.bias_O"] | {"difference": 0.1}) == shape_of(
        documented("diff")["weights"][0]
    )
    lines = minibert(f"diff {folder}/a three").out.splitlines()
    assert "classifier.bias_O          sizes  0.0e+00  beyond  [2] and [3]" in lines


def test_a_gap_without_a_number_is_null(minibert, folder):
    configured(tiny.classifier(), num_attention_heads=4).save_pretrained("four")
    answer = minibert(f"diff {folder}/a four --json")
    rows = {row["name"]: row for row in answer.document["states"]}
    assert rows["blocks.0.attention.scores_BNSR"]["difference"] is None
    lines = minibert(f"diff {folder}/a four").out.splitlines()
    (line,) = [line for line in lines if line.startswith("blocks.0.attention.scores_BNSR")]
    assert line.split()[1:] == ["sizes", "0.0e+00", "<-", "first"]


def test_models_of_other_sizes_are_not_compared(minibert, folder):
    answer = minibert(f"diff {folder}/a {folder}/small")
    assert answer.code == 1
    assert answer.out == (
        "config  num_hidden_layers: A 2, B 1\n\n"
        "the sizes differ (num_hidden_layers), so nothing more is compared\n"
    )


def test_models_without_a_vocabulary_read_random_ids(minibert, folder):
    answer = minibert(f"diff {folder}/mute {folder}/mute")
    assert answer.code == 0
    assert minibert(f"diff {folder}/mute {folder}/mute --text film").code == 3


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("diff {f}/a", 2, "give two models, or one and --against transformers"),
        ("diff", 2, "Missing argument 'A'"),
        ("diff {f}/a {f}/none", 3, "there is no folder"),
        ("diff {f}/a {f}/a --tolerance -1", 2, "-1"),
        ("diff {f}/a {f}/a --tolerance nan", 2, "nan is not a finite number"),
        ("diff {f}/a {f}/a --against tensorflow", 2, "'tensorflow' is not"),
        ("diff {f}/mute {f}/mute --text film", 3, "no --text can be read"),
    ],
)
def test_bad_input_is_one_sentence(line, code, said, minibert, folder):
    answer = minibert(line.format(f=folder))
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.said


def test_an_empty_text_is_refused(minibert, folder):
    answer = minibert(f"diff {folder}/a {folder}/a --text", " ")
    assert (answer.code, answer.said) == (2, "a --text is empty; give words to read")


def test_the_command_computes_against_transformers(minibert, folder):
    pytest.importorskip("transformers", reason="it is compared with")
    answer = minibert(f"diff {folder}/a --against transformers")
    assert answer.code == 0
    assert "transformers keeps its scores to itself\n" in answer.out
    assert minibert(f"diff {folder}/a {folder}/b --against transformers").code == 1
    pruned = minibert(f"diff {folder}/pruned --against transformers")
    assert pruned.code == 3
    assert "export --dense" in pruned.said


def test_without_transformers_it_says_how_to_install_it(minibert, folder, monkeypatch):
    monkeypatch.setattr(sys.modules["minibert.cli.diff"], "find_spec", lambda name: None)
    answer = minibert(f"diff {folder}/a --against transformers")
    assert answer.code == 2
    assert answer.said == "--against transformers: it is not installed; pip install transformers"
