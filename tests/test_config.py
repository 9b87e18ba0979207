"""The config: what is read, what is kept, what is written, and what is refused."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof import fewer

from minibert.config import BertConfig, CheckpointError

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


@st.composite
def configs(draw):
    """Any config within the bounds, labels and keys of others included."""
    heads = draw(st.integers(1, 16))
    names = draw(st.lists(st.text(), min_size=1, max_size=5))
    unknown = st.dictionaries(
        st.text().filter(lambda key: key not in OWN_KEYS | JUDGED_KEYS), json_values, max_size=3
    )
    vocab_size = draw(st.integers(1, 2**20))
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=heads * draw(st.integers(1, 128)),
        num_hidden_layers=draw(st.integers(1, 128)),
        num_attention_heads=heads,
        intermediate_size=draw(st.integers(1, 65536)),
        hidden_act=draw(st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh"])),
        hidden_dropout_prob=draw(rates),
        attention_probs_dropout_prob=draw(rates),
        max_position_embeddings=draw(st.integers(1, 65536)),
        type_vocab_size=draw(st.integers(1, 1024)),
        initializer_range=draw(st.floats(0, 10)),
        layer_norm_eps=draw(st.floats(1e-15, 1)),
        pad_token_id=draw(st.integers(0, vocab_size - 1)),
        classifier_dropout=draw(st.none() | rates),
        problem_type=draw(st.sampled_from([None, "regression", "single_label_classification"])),
        id2label=dict(enumerate(names)),
        architectures=tuple(draw(st.lists(st.text(), min_size=1, max_size=2))),
        unknown=draw(unknown),
    )


# ------------------------------------------------------------------------------ reading, writing


@given(config=configs())
@fewer(2)
def test_a_config_survives_json(config):
    assert BertConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(config=configs(), others=st.dictionaries(st.text(), json_values, max_size=4))
@fewer(2)
def test_keys_of_others_are_kept_and_written_back(config, others):
    others = {key: value for key, value in others.items() if key not in OWN_KEYS | JUDGED_KEYS}
    values = config.to_dict() | others
    again = BertConfig.from_dict(values)
    assert again.to_dict() == values
    assert again.unknown == dict(config.unknown) | others


def test_a_key_named_unknown_is_kept_too():
    config = BertConfig.from_dict({"unknown": 5})
    assert config.unknown == {"unknown": 5}
    assert BertConfig.from_dict(config.to_dict()) == config


def test_the_defaults_are_bert_base_uncased():
    """The numbers of its config.json, and what `transformers` takes where that says nothing."""
    config = BertConfig.from_dict({})
    assert config == BertConfig()
    assert config.to_dict() == {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "classifier_dropout": None,
        "problem_type": None,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    }


def test_the_input_is_not_changed():
    values = {"id2label": {"1": "b", "0": "a"}, "architectures": ["X"], "cell": [1]}
    before = json.dumps(values)
    BertConfig.from_dict(values)
    assert json.dumps(values) == before


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BertConfig().hidden_size = 3


def test_to_dict_speaks_for_transformers():
    values = BertConfig(id2label={0: "no", 1: "yes"}).to_dict()
    assert values["model_type"] == "bert"
    assert values["id2label"] == {"0": "no", "1": "yes"}
    assert values["label2id"] == {"no": 0, "yes": 1}
    assert values["architectures"] == ["BertModel"]
    assert "unknown" not in values


# ------------------------------------------------------------------------------- derived sizes


@given(config=configs())
@fewer(3)
def test_derived_sizes(config):
    assert config.head_width * config.num_attention_heads == config.hidden_size
    assert config.num_labels == len(config.id2label)
    expected = config.classifier_dropout
    if expected is None:
        expected = config.hidden_dropout_prob
    assert config.head_dropout == expected


def test_a_head_dropout_of_zero_is_a_choice():
    """Not "no choice": `or` in the place of `is None` would fall back to the hidden rate."""
    assert BertConfig(classifier_dropout=0.0).head_dropout == 0.0


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
    message = "id2label has the indices .*, but they must run 0, 1, 2, …"
    with pytest.raises(CheckpointError, match=message):
        BertConfig.from_dict({"id2label": id2label})
    with pytest.raises(CheckpointError, match=message):
        BertConfig(id2label=id2label)


@pytest.mark.parametrize("id2label", [["a", "b"], "ab", 2, True])
def test_labels_that_are_no_map_are_refused(id2label):
    with pytest.raises(CheckpointError, match=r"id2label is .*, not a map of indices"):
        BertConfig.from_dict({"id2label": id2label})


def test_with_labels_changes_labels_and_nothing_else():
    config = BertConfig(hidden_size=24, unknown={"cell": {}})
    named = config.with_labels(("bad", "good"), "single_label_classification")
    assert named.id2label == {0: "bad", 1: "good"}
    assert named.problem_type == "single_label_classification"
    back = {"id2label": config.id2label, "problem_type": None}
    assert dataclasses.replace(named, **back) == config
    with pytest.raises(CheckpointError, match=r"id2label has the indices \[\]"):
        config.with_labels(())


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
    message = f"config: {key} is .*, but must be an integer {low} to {high}"
    for value in (low - 1, high + 1, -(10**12), 10**12):
        with pytest.raises(CheckpointError, match=message):
            BertConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [True, 12.0, "12", None, [12], {}, math.nan, 1e400])
@pytest.mark.parametrize("key", INTEGERS)
def test_integers_of_another_type_are_refused(key, value):
    with pytest.raises(CheckpointError, match=f"config: {key} is .*, but must be an integer"):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize(("key", "bounds"), NUMBERS.items())
def test_numbers_outside_are_refused(key, bounds):
    low, high = bounds
    above = high * (1 + 1e-9)
    for value in (low - 1e-9, above, -1, 11, math.nan, 1e400, -1e400, 10**400):
        with pytest.raises(CheckpointError, match=rf"{key} is .*, but must be a number {low} to"):
            BertConfig.from_dict({key: value})


@pytest.mark.parametrize("value", [True, "0.1", [0.1], {}])
@pytest.mark.parametrize("key", NUMBERS)
def test_numbers_of_another_type_are_refused(key, value):
    with pytest.raises(CheckpointError, match=f"config: {key} is .*, but must be a number"):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize("key", sorted(set(NUMBERS) - {"classifier_dropout"}))
def test_a_number_cannot_be_missing(key):
    with pytest.raises(CheckpointError, match=f"config: {key} is None"):
        BertConfig.from_dict({key: None})


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2", None, 2**20 + 1])
def test_a_number_of_labels_that_is_none_is_refused(count):
    with pytest.raises(CheckpointError, match=r"num_labels is .*, but must be an integer 1 to"):
        BertConfig.from_dict({"num_labels": count})


def test_heads_divide_the_width():
    with pytest.raises(
        CheckpointError, match="hidden_size 768 does not divide into num_attention_heads 7"
    ):
        BertConfig(num_attention_heads=7)


@pytest.mark.parametrize("act", ["relu", "GELU", "gelu_fast", "", None, ["gelu"], 1])
def test_other_activations_are_refused(act):
    with pytest.raises(CheckpointError, match=r"hidden_act is .*, but must be one of \('gelu', "):
        BertConfig.from_dict({"hidden_act": act})


@pytest.mark.parametrize("kind", ["ranking", "", 1, ["regression"]])
def test_other_problem_types_are_refused(kind):
    with pytest.raises(CheckpointError, match=r"problem_type is .*, but must be one of"):
        BertConfig.from_dict({"problem_type": kind})


@pytest.mark.parametrize("names", ["BertModel", 5, [3], {"a": 1}, [["BertModel"]]])
def test_architectures_that_are_no_list_of_names_are_refused(names):
    with pytest.raises(CheckpointError, match=r"architectures is .*, but must be a list of names"):
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
        ("is_decoder", True, "False"),
        ("add_cross_attention", True, "False"),
        ("tie_word_embeddings", False, "True"),
    ],
)
def test_other_models_are_refused(key, value, wanted):
    message = rf"config: {key} is .*, but minibert computes only '?{wanted}"
    with pytest.raises(CheckpointError, match=message):
        BertConfig.from_dict({key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", None),
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", None),
        ("tie_word_embeddings", True),
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
