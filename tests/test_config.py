"""The config beyond its laws: any text and JSON, every bound, and every refusal word for word."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof import assert_holds, fewer

from minibert.config import BertConfig, CheckpointError, Pruned
from minibert.laws.config import CONFIG, DEFAULTS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = {field.name for field in dataclasses.fields(BertConfig)}
OWN_KEYS = FIELDS - {"unknown"} | {"model_type", "label2id", "num_labels"}
JUDGED_KEYS = {
    "position_embedding_type",
    "is_decoder",
    "add_cross_attention",
    "tie_word_embeddings",
}
rates = st.floats(0, 0.99)


def whole(message: str) -> str:
    """A pattern that this message alone matches."""
    return f"^{re.escape(message)}$"


@st.composite
def configs(draw):
    """The fields of any config within the bounds, labels and keys of others in any text."""
    heads = draw(st.integers(1, 16))
    names = draw(st.lists(st.text(), min_size=1, max_size=5))
    unknown = st.dictionaries(
        st.text().filter(lambda key: key not in OWN_KEYS | JUDGED_KEYS), json_values, max_size=3
    )
    vocab_size = draw(st.integers(1, 2**20))
    layers, units = draw(st.integers(1, 128)), draw(st.integers(1, 65536))
    left = st.sets(st.integers(0, heads - 1), min_size=1).map(sorted).map(tuple)
    pruned = st.builds(
        Pruned,
        st.tuples(*[left] * layers),
        st.tuples(*[st.integers(1, units)] * layers),
    )
    return {
        "vocab_size": vocab_size,
        "hidden_size": heads * draw(st.integers(1, 128)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": units,
        "hidden_act": draw(st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh"])),
        "hidden_dropout_prob": draw(rates),
        "attention_probs_dropout_prob": draw(rates),
        "max_position_embeddings": draw(st.integers(1, 65536)),
        "type_vocab_size": draw(st.integers(1, 1024)),
        "initializer_range": draw(st.floats(0, 10)),
        "layer_norm_eps": draw(st.floats(1e-15, 1)),
        "pad_token_id": draw(st.integers(0, vocab_size - 1)),
        "classifier_dropout": draw(st.none() | rates),
        "problem_type": draw(st.sampled_from([None, "regression", "single_label_classification"])),
        "id2label": dict(enumerate(names)),
        "architectures": tuple(draw(st.lists(st.text(), min_size=1, max_size=2))),
        "pruned": draw(st.none() | pruned) if layers < 9 else None,
        "unknown": draw(unknown),
    }


# ------------------------------------------------------------------------------ reading, writing


@pytest.mark.parametrize("law", CONFIG.laws.values(), ids=lambda law: law.name)
@given(fields=configs())
@fewer(6)
def test_laws_hold_for_any_text(law, fields):
    assert_holds(law, BertConfig, fields)


def test_a_key_named_unknown_is_kept_too():
    config = BertConfig.from_dict({"unknown": 5})
    assert config.unknown == {"unknown": 5}
    assert BertConfig.from_dict(config.to_dict()) == config


def test_the_defaults_are_those_of_transformers():
    transformers = pytest.importorskip("transformers", reason="it holds the reference config")
    theirs = transformers.BertConfig().to_dict()
    names = {"architectures", "id2label", "label2id"}  # of its own, with integer keys or without
    ours = {key: value for key, value in BertConfig().to_dict().items() if key not in names}
    assert ours == {key: theirs.get(key) for key in ours}


def test_the_width_of_a_head_is_a_whole_number():
    config = BertConfig()
    assert (config.head_width, type(config.head_width)) == (64, int)


def test_a_bert_has_every_default():
    for field in dataclasses.fields(BertConfig):
        if field.name == "pruned":
            assert BertConfig().pruned is None
        elif field.name not in ("id2label", "architectures", "unknown"):
            assert getattr(BertConfig(), field.name) == DEFAULTS[field.name], field.name
    assert BertConfig().id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert BertConfig().architectures == ("BertModel",)
    assert BertConfig().unknown == {}
    assert CheckpointError.exit_code == 3


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig().hidden_size = 3


# -------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"num_labels": 1}, ("LABEL_0",)),
        ({"id2label": None, "num_labels": 2}, ("LABEL_0", "LABEL_1")),
        ({"id2label": {"1": "b", "0": "a"}}, ("a", "b")),
        ({"id2label": {1: "b", 0: "a"}}, ("a", "b")),
        (
            {"id2label": {str(i): f"x{i}" for i in (10, 9, *range(9))}},
            tuple(f"x{i}" for i in range(11)),
        ),
        ({"id2label": {"0": 3, "1": None}}, ("3", "None")),
        ({"id2label": {"0": "same", "1": "same"}}, ("same", "same")),
        ({"id2label": {"0": "a"}, "label2id": {"b": 4}, "num_labels": 9}, ("a",)),
    ],
)
def test_labels_are_read_in_the_order_of_their_indices(values, names):
    config = BertConfig.from_dict(values)
    assert tuple(config.id2label) == tuple(range(len(names)))
    assert tuple(config.id2label.values()) == names
    assert config.num_labels == len(names)


@pytest.mark.parametrize(
    "id2label",
    [
        {},
        {"1": "a"},
        {"0": "a", "2": "b"},
        {"0": "a", "00": "b"},
        {"0": "a", " 1": "b"},
        {"0": "a", "٠": "b"},
        {"0": "a", "-1": "b"},
        {"0": "a", "one": "b"},
        {0.5: "a"},
        {math.inf: "a"},
        {False: "a"},
        {None: "a"},
        {"9" * 5000: "a"},
    ],
    ids=str,
)
def test_labels_with_other_indices_are_refused(id2label):
    indices = [str(index) for index in id2label]
    message = f"config: id2label has the indices {indices}, but they must run 0, 1, 2, …"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"id2label": id2label})
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig(id2label=id2label)


@pytest.mark.parametrize("id2label", [["a", "b"], "ab", 2, True])
def test_labels_that_are_no_map_are_refused(id2label):
    message = f"config: id2label is {id2label!r}, not a map of indices"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"id2label": id2label})


def test_no_labels_are_refused():
    message = "config: id2label has the indices [], but they must run 0, 1, 2, …"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig().with_labels(())


def test_the_problem_type_is_forgotten_with_the_labels():
    config = BertConfig(problem_type="regression").with_labels(("a", "b"))
    assert config.problem_type is None


# -------------------------------------------------------------------------------------- bounds

INTEGERS = {
    "vocab_size": (1, 2**20),
    "hidden_size": (1, 8192),
    "num_hidden_layers": (1, 128),
    "num_attention_heads": (1, 8192),
    "intermediate_size": (1, 65536),
    "max_position_embeddings": (1, 65536),
    "type_vocab_size": (1, 1024),
    "pad_token_id": (0, 30521),
}
NUMBERS = {
    "hidden_dropout_prob": (0, 0.99),
    "attention_probs_dropout_prob": (0, 0.99),
    "classifier_dropout": (0, 0.99),
    "initializer_range": (0, 10),
    "layer_norm_eps": (1e-15, 1),
}


@pytest.mark.parametrize(("key", "bounds"), [*INTEGERS.items(), *NUMBERS.items()])
def test_both_bounds_are_allowed(key, bounds):
    for value in bounds:
        heads = {"num_attention_heads": 1} if key == "hidden_size" else {}
        width = {"hidden_size": 8192} if key == "num_attention_heads" else {}
        assert getattr(BertConfig(**{key: value} | heads | width), key) == value


@pytest.mark.parametrize(("key", "bounds"), INTEGERS.items())
def test_integers_outside_are_refused(key, bounds):
    low, high = bounds
    for value in (low - 1, high + 1, -(10**12), 10**12):
        message = f"config: {key} is {value}, but must be an integer {low} to {high}"
        with pytest.raises(CheckpointError, match=whole(message)):
            BertConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [True, 12.0, "12", None, [12], {}, math.nan, 1e400])
@pytest.mark.parametrize("key", INTEGERS)
def test_integers_of_another_type_are_refused(key, value):
    low, high = INTEGERS[key]
    message = f"config: {key} is {value!r}, but must be an integer {low} to {high}"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize(("key", "bounds"), NUMBERS.items())
def test_numbers_outside_are_refused(key, bounds):
    low, high = bounds
    above = high * (1 + 1e-9)
    for value in (low - 1e-9, above, -1, 11, math.nan, 1e400, -1e400, 10**400):
        message = f"config: {key} is {value!r}, but must be a number {low} to {high}"
        with pytest.raises(CheckpointError, match=whole(message)):
            BertConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [True, "0.1", [0.1], {}])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_of_another_type_are_refused(key, value):
    low, high = NUMBERS[key]
    message = f"config: {key} is {value!r}, but must be a number {low} to {high}"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize("key", sorted(set(NUMBERS) - {"classifier_dropout"}))
def test_a_number_cannot_be_missing(key):
    low, high = NUMBERS[key]
    message = f"config: {key} is None, but must be a number {low} to {high}"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({key: None})


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2", None, 2**20 + 1])
def test_a_number_of_labels_that_is_none_is_refused(count):
    message = f"config: num_labels is {count!r}, but must be an integer 1 to 1048576"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"num_labels": count})


def test_heads_divide_the_width():
    message = "config: hidden_size 768 does not divide into num_attention_heads 7"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig(num_attention_heads=7)


@pytest.mark.parametrize("act", ["relu", "GELU", "gelu_fast", "", None, ["gelu"], 1])
def test_other_activations_are_refused(act):
    message = (
        f"config: hidden_act is {act!r}, but must be one of "
        "('gelu', 'gelu_new', 'gelu_pytorch_tanh')"
    )
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"hidden_act": act})


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("hidden_act", ("gelu", "gelu_new", "gelu_pytorch_tanh")),
        (
            "problem_type",
            ("regression", "single_label_classification", "multi_label_classification", None),
        ),
    ],
)
def test_every_choice_is_allowed(key, values):
    for value in values:
        assert getattr(BertConfig.from_dict({key: value}), key) == value


@pytest.mark.parametrize("kind", ["ranking", "", 1, ["regression"]])
def test_other_problem_types_are_refused(kind):
    message = (
        f"config: problem_type is {kind!r}, but must be one of (None, 'regression', "
        "'single_label_classification', 'multi_label_classification')"
    )
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"problem_type": kind})


@pytest.mark.parametrize("names", ["BertModel", 5, [3], {"a": 1}, [["BertModel"]]])
def test_architectures_that_are_no_list_of_names_are_refused(names):
    read = tuple(names) if isinstance(names, list) else names
    message = f"config: architectures is {read!r}, but must be a list of names"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({"architectures": names})


@pytest.mark.parametrize("names", [None, []])
def test_missing_architectures_mean_a_bare_model(names):
    assert BertConfig.from_dict({"architectures": names}).architectures == ("BertModel",)


# ---------------------------------------------------------------------------- other models


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("model_type", "roberta", "bert"),
        ("model_type", "distilbert", "bert"),
        ("model_type", "BERT", "bert"),
        ("model_type", ["bert"], "bert"),
        ("position_embedding_type", "relative_key", "absolute"),
        ("is_decoder", True, False),
        ("add_cross_attention", True, False),
        ("tie_word_embeddings", False, True),
    ],
)
def test_other_models_are_refused(key, value, wanted):
    message = f"config: {key} is {value!r}, but that of a BERT is {wanted!r}"
    with pytest.raises(CheckpointError, match=whole(message)):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", None),
        ("model_type", "bert"),
        ("position_embedding_type", "absolute"),
        ("position_embedding_type", None),
        ("is_decoder", False),
        ("is_decoder", None),
        ("add_cross_attention", False),
        ("add_cross_attention", None),
        ("tie_word_embeddings", True),
        ("tie_word_embeddings", None),
    ],
)
def test_a_judged_key_with_the_right_value_is_fine(key, value):
    assert BertConfig.from_dict({key: value}).hidden_size == 768


@given(values=st.dictionaries(st.sampled_from(sorted(OWN_KEYS | JUDGED_KEYS)), json_values))
def test_any_json_gives_a_config_or_a_checkpoint_error(values):
    """Whatever stands under our keys: a model that can be computed, or one sentence."""
    refusal = ""
    try:
        config = BertConfig.from_dict(values)
    except CheckpointError as error:
        refusal = str(error)
    assert refusal.startswith("config: ") or BertConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("heads", "units", "reason"),
    [
        (((0,),), (1, 1), "pruned has 1 layers of heads and 2 of units, but the model has 2"),
        (((0,), (3,)), (1, 1), "a head in pruned is 3, but must be an integer 0 to 2"),
        (((0,), (-1,)), (1, 1), "a head in pruned is -1, but must be an integer 0 to 2"),
        (((0,), ()), (1, 1), "pruned has a layer with the heads [], but must name at least one, "
         "and each once, in order"),
        (((0,), (1, 0)), (1, 1), "pruned has a layer with the heads [1, 0], but must name at least "
         "one, and each once, in order"),
        (((0,), (0,)), (1, 0), "a number of units in pruned is 0, but must be an integer 1 to 5"),
        (((0,), (0,)), (6, 1), "a number of units in pruned is 6, but must be an integer 1 to 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_left_of_a_model_is_refused_word_for_word(heads, units, reason):
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 5}
    with pytest.raises(CheckpointError, match=whole(f"config: {reason}")):
        BertConfig(hidden_size=6, pruned=Pruned(heads, units), **sizes)
