"""Laws of `config`: what is read from a `config.json` is what is written to it, and no more.

The formula is the class `BertConfig` itself; a mistake is a class that reads, writes or starts
differently.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minibert.config import BertConfig, CheckpointError, Pruned
from minibert.laws.law import Draw, Proof

DEFAULTS: dict[str, Any] = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "classifier_dropout": None,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "problem_type": None,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}
OTHER_MODELS: list[dict[str, Any]] = [
    {"model_type": "roberta"},
    {"model_type": "distilbert"},
    {"model_type": "albert"},
    {"model_type": "BERT"},
    {"position_embedding_type": "relative_key"},
    {"is_decoder": True},
    {"add_cross_attention": True},
    {"tie_word_embeddings": False},
    {"hidden_act": "relu"},
]
# Each is the only thing wrong with its config.
IMPOSSIBLE: list[dict[str, Any]] = [
    {"hidden_size": 0},
    {"hidden_size": 768.0},
    {"hidden_size": "768"},
    {"num_attention_heads": 7},
    {"num_hidden_layers": True},
    {"hidden_dropout_prob": 1.0},
    {"hidden_dropout_prob": -0.1},
    {"classifier_dropout": float("nan")},
    {"layer_norm_eps": 0},
    {"pad_token_id": 30522},
    {"problem_type": "ranking"},
    {"id2label": {"0": "a", "2": "b"}},
    {"architectures": "BertModel"},
    {"pruned": [[0]]},
    {"pruned": {"heads": [[0]] * 12}},
    {"pruned": {"heads": [0] * 12, "units": [1] * 12}},
    {"pruned": {"heads": [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [[0]] * 12, "units": [1] * 11}},
    {"pruned": {"heads": [[]] + [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [[1, 0]] + [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [[3, 3]] + [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [[12]] + [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [["0"]] + [[0]] * 11, "units": [1] * 12}},
    {"pruned": {"heads": [[0]] * 12, "units": [0] + [1] * 11}},
    {"pruned": {"heads": [[0]] * 12, "units": [3073] + [1] * 11}},
]
# What others may write: keys of other libraries, and every kind of value that JSON knows.
OTHER_KEYS = ("transformers_version", "cell", "gamma", "unknown", "use_cache", "")
VALUES: tuple[Any, ...] = (
    None, True, 0, -3, 2**60, 0.5, 1e-12, "", "4.6.0", "ä", [], [1, ["a"]], {}, {"a": {"b": 1}},
)
NAMES = ("LABEL_1", "negative", "positive", "0", "", "ä b", "None")
RATES = (0.0, 0.1, 0.33, 0.99)


def pruned_or_not(draw: Draw, layers: int, heads: int, units: int) -> Pruned | None:
    """Nothing, or some heads of each layer, at least one, and some units."""
    if draw.integer(0, 2):
        return None
    kept = [[n for n in range(heads) if draw.integer(0, 1)] for _ in range(layers)]
    return Pruned(
        tuple(tuple(some or [draw.integer(0, heads - 1)]) for some in kept),
        tuple(draw.integer(1, units) for _ in range(layers)),
    )


def fields(draw: Draw) -> dict[str, Any]:
    """The fields of a config, all within their bounds."""
    heads, units = draw.integer(1, 16), draw.integer(1, 65536)
    layers = draw.integer(1, draw.choice([4, 128]))
    names = [draw.choice(NAMES) for _ in range(draw.integer(1, draw.choice([4, 30])))]
    vocab_size = draw.choice([1, 7, 30522, 2**20])
    kinds = (None, "regression", "single_label_classification", "multi_label_classification")
    return {
        "vocab_size": vocab_size,
        "hidden_size": heads * draw.integer(1, 128),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": units,
        "hidden_act": draw.choice(["gelu", "gelu_new", "gelu_pytorch_tanh"]),
        "hidden_dropout_prob": draw.choice(RATES),
        "attention_probs_dropout_prob": draw.choice(RATES),
        "max_position_embeddings": draw.integer(1, 65536),
        "type_vocab_size": draw.integer(1, 1024),
        "initializer_range": draw.choice([0, 0.02, 10]),
        "layer_norm_eps": draw.choice([1e-15, 1e-12, 1e-5, 1]),
        "pad_token_id": draw.integer(0, vocab_size - 1),
        "classifier_dropout": draw.choice([None, 0.0, *RATES]),
        "problem_type": draw.choice(kinds),
        "id2label": dict(enumerate(names)),
        "architectures": tuple(draw.choice(NAMES) for _ in range(draw.integer(1, 2))),
        "pruned": pruned_or_not(draw, layers, heads, units),
        "unknown": {
            draw.choice(OTHER_KEYS): draw.choice(VALUES) for _ in range(draw.integer(0, 4))
        },
    }


CONFIG = Proof(
    BertConfig,
    fields,
    without={
        "reference": "a test compares it with the config of transformers",
        "gradient": "a record of sizes has no gradient",
        "accuracy": "it reads and writes numbers and rounds none",
    },
)


def told_apart(a: Any, b: Any) -> bool:
    """Whether two values differ as JSON, where 1, 1.0 and true are three different things."""
    return json.dumps(a, sort_keys=True) != json.dumps(b, sort_keys=True)


@CONFIG.spec
def every_default_is_that_of_bert_base_uncased(formula, case):
    """The values of its config.json, and the defaults of `transformers` for what it leaves out."""
    found = [config.to_dict() for config in (formula(), formula.from_dict({}))]
    wrong = sum(set(values) != set(DEFAULTS) for values in found)
    return wrong + sum(
        told_apart(values.get(key), value) for values in found for key, value in DEFAULTS.items()
    ), 0


@CONFIG.spec
def every_value_is_written_under_its_key(formula, case):
    """The keys of `transformers`; labels in both directions, their numbers as strings in one.

    `transformers` has no key for what a layer lost, so this one is ours, and only there if needed.
    """
    values = dict(case)
    pruned = values.pop("pruned")
    if pruned is not None:
        values["pruned"] = {"heads": pruned.heads, "units": pruned.units}
    labels = values["id2label"]
    expected = {"model_type": "bert"} | values.pop("unknown") | values
    expected["architectures"] = list(values["architectures"])
    expected["id2label"] = {str(index): name for index, name in labels.items()}
    expected["label2id"] = {name: index for index, name in labels.items()}
    return float(told_apart(formula(**case).to_dict(), expected)), 0


@CONFIG.law
def what_is_written_is_read_back(formula, case):
    """Through JSON, which knows no integer keys and no tuples."""
    config = formula(**case)
    again = formula.from_dict(json.loads(json.dumps(config.to_dict())))
    wrong = sum(
        getattr(again, field.name) != getattr(config, field.name)
        for field in dataclasses.fields(BertConfig)
    )
    return wrong + told_apart(again.to_dict(), config.to_dict()), 0


@CONFIG.law
def unknown_keys_are_kept(formula, case):
    """Whatever their values are; they are read from beside our keys, never from within a value."""
    others = case["unknown"] | {"one more": {"deep": [1, None]}, "nothing": None}
    config = formula.from_dict(formula(**case).to_dict() | others)
    written = config.to_dict()
    lost = sum(told_apart(config.unknown.get(key, "lost"), others[key]) for key in others)
    return lost + sum(told_apart(written.get(key, "lost"), others[key]) for key in others), 0


@CONFIG.law
def labels_keep_the_order_of_their_indices(formula, case):
    """Also where JSON names them in another order: 10 before 9 before 2, or backwards."""
    labels = case["id2label"]
    wrong = 0
    for order in (sorted(labels, key=str), sorted(labels, reverse=True)):
        shuffled = {str(index): labels[index] for index in order}
        config = formula.from_dict({"id2label": shuffled})
        wrong += list(config.id2label.items()) != list(labels.items())
        wrong += config.num_labels != len(labels)
    return wrong, 0


@CONFIG.law
def with_labels_changes_labels_and_nothing_else(formula, case):
    config, names = formula(**case), ("good", "bad", "0")
    named = config.with_labels(names, "multi_label_classification")
    plain = config.with_labels(names)
    wrong = dict(enumerate(names)) != named.id2label
    wrong += (named.problem_type, plain.problem_type) != ("multi_label_classification", None)
    return wrong + sum(
        getattr(named, field.name) != getattr(config, field.name)
        for field in dataclasses.fields(BertConfig)
        if field.name not in ("id2label", "problem_type")
    ), 0


@CONFIG.law
def a_number_of_labels_makes_names(formula, case):
    """LABEL_0, LABEL_1, …; names that are given take precedence."""
    count, labels = len(case["id2label"]), case["id2label"]
    config = formula.from_dict({"num_labels": count})
    wrong = config.id2label != {index: f"LABEL_{index}" for index in range(count)}
    named = formula.from_dict({"id2label": labels, "num_labels": count + 1, "label2id": {"x": 0}})
    return float(wrong) + (named.id2label != labels), 0


@CONFIG.law
def a_heads_own_dropout_goes_first(formula, case):
    """0 is a rate like any other; only None means the rate of the hidden states."""
    own, hidden = case["classifier_dropout"], case["hidden_dropout_prob"]
    return float(formula(**case).head_dropout != (hidden if own is None else own)), 0


@CONFIG.law
def heads_share_the_width(formula, case):
    config = formula(**case)
    return abs(config.head_width * config.num_attention_heads - config.hidden_size), 0


@CONFIG.law
def each_layer_has_the_heads_and_units_that_are_left(formula, case):
    """All of them, where nothing was pruned."""
    expected = [(case["num_attention_heads"], case["intermediate_size"])]
    expected *= case["num_hidden_layers"]
    if case["pruned"] is not None:
        pairs = zip(case["pruned"].heads, case["pruned"].units, strict=True)
        expected = [(len(heads), units) for heads, units in pairs]
    return float(list(formula(**case).heads_and_units) != expected), 0


def accepted(formula, several: list[dict[str, Any]]) -> int:
    count = 0
    for values in several:
        try:
            formula.from_dict(values)
            count += 1
        except CheckpointError:
            pass
    return count


@CONFIG.law
def other_models_are_refused(formula, case):
    """Models that would load and then compute something else."""
    return accepted(formula, OTHER_MODELS), 0


@CONFIG.law
def impossible_values_are_refused(formula, case):
    return accepted(formula, IMPOSSIBLE), 0


@CONFIG.law
def right_values_of_judged_keys_are_read(formula, case):
    judged = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    missing = dict.fromkeys(("model_type", "add_cross_attention", "tie_word_embeddings"))
    return 3 - accepted(formula, [judged, missing, {"tie_word_embeddings": True}]), 0


@CONFIG.law
def what_is_read_is_not_changed(formula, case):
    values = BertConfig(**case).to_dict()
    before = json.dumps(values)
    formula.from_dict(values)
    return float(json.dumps(values) != before), 0


class Reading(BertConfig):
    """What some mistakes have in common: they change the keys before `from_dict` sees them."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any:
        return super().from_dict(cls.seen(dict(values)))

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values


@CONFIG.mistake(
    every_default_is_that_of_bert_base_uncased,
    source="https://github.com/keras-team/keras-hub/issues/642",
    name="eps_of_pytorch",
)
@dataclass(frozen=True)
class EpsOfPytorch(BertConfig):
    """If a config does not say, LayerNorm gets the library's 1e-5 instead of BERT's 1e-12."""

    layer_norm_eps: float = 1e-5


@CONFIG.mistake(
    every_value_is_written_under_its_key,
    what_is_written_is_read_back,
    source="https://github.com/ml-explore/mlx-examples/blob/0d3697913ce74616d579931193c122805487fc07/bert/model.py",
    name="eps_not_read",
)
class EpsNotRead(Reading):
    """The config says it, but it is not read."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key != "layer_norm_eps"}

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"layer_norm_eps": 1e-12}


@CONFIG.mistake(every_default_is_that_of_bert_base_uncased, name="no_dropout")
@dataclass(frozen=True)
class NoDropout(BertConfig):
    """The default of inference code is 0."""

    hidden_dropout_prob: float = 0.0


@CONFIG.mistake(unknown_keys_are_kept, name="unknown_keys_dropped")
class UnknownKeysDropped(Reading):
    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key in DEFAULTS}


@CONFIG.mistake(
    unknown_keys_are_kept,
    what_is_written_is_read_back,
    every_value_is_written_under_its_key,
    name="unknown_keys_not_written",
)
class UnknownKeysNotWritten(BertConfig):
    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if key in DEFAULTS}


@CONFIG.mistake(unknown_keys_are_kept, name="nulls_dropped")
class NullsDropped(Reading):
    """A key with the value null is dropped, though it was there."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if value is not None}


@CONFIG.mistake(labels_keep_the_order_of_their_indices, name="labels_in_the_order_of_the_file")
class LabelsInTheOrderOfTheFile(Reading):
    """The n-th name in the file becomes class n."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        if isinstance(values.get("id2label"), dict):
            values["id2label"] = dict(enumerate(values["id2label"].values()))
        return values


@CONFIG.mistake(labels_keep_the_order_of_their_indices, name="labels_sorted_as_text")
class LabelsSortedAsText(Reading):
    """10 comes before 2."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = values.get("id2label")
        if isinstance(names, dict):
            values["id2label"] = dict(enumerate(names[index] for index in sorted(names, key=str)))
        return values


@CONFIG.mistake(what_is_written_is_read_back, name="labels_read_from_label2id")
class LabelsReadFromLabel2id(Reading):
    """Two classes of the same name become one."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = values.get("label2id")
        if names:
            values["id2label"] = dict(enumerate(sorted(names, key=names.__getitem__)))
        return values


@CONFIG.mistake(a_number_of_labels_makes_names, name="two_labels_always")
class TwoLabelsAlways(Reading):
    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"num_labels": 2}


@CONFIG.mistake(with_labels_changes_labels_and_nothing_else, name="labels_by_defaults")
class LabelsByDefaults(BertConfig):
    """A new config with these labels and defaults for everything else."""

    def with_labels(self, names: tuple[str, ...], problem_type: str | None = None) -> Any:
        return type(self)(id2label=dict(enumerate(names)), problem_type=problem_type)


@CONFIG.mistake(with_labels_changes_labels_and_nothing_else, name="labels_sorted")
class LabelsSorted(BertConfig):
    """So class 0 is not the caller's class 0."""

    def with_labels(self, names: tuple[str, ...], problem_type: str | None = None) -> Any:
        return super().with_labels(tuple(sorted(names)), problem_type)


@CONFIG.mistake(a_heads_own_dropout_goes_first, name="zero_means_no_choice")
class ZeroMeansNoChoice(BertConfig):
    """`or` instead of `is None`."""

    @property
    def head_dropout(self) -> float:
        return self.classifier_dropout or self.hidden_dropout_prob


@CONFIG.mistake(heads_share_the_width, name="heads_of_sixty_four")
class HeadsOfSixtyFour(BertConfig):
    @property
    def head_width(self) -> int:
        return 64


@CONFIG.mistake(
    what_is_written_is_read_back,
    every_value_is_written_under_its_key,
    name="pruned_layers_not_written",
)
class PrunedLayersNotWritten(BertConfig):
    """The saved config then asks for weights that are gone."""

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if key != "pruned"}


@CONFIG.mistake(each_layer_has_the_heads_and_units_that_are_left, name="layers_all_alike")
class LayersAllAlike(BertConfig):
    @property
    def heads_and_units(self) -> tuple[tuple[int, int], ...]:
        return ((self.num_attention_heads, self.intermediate_size),) * self.num_hidden_layers


@CONFIG.mistake(each_layer_has_the_heads_and_units_that_are_left, name="heads_that_went_are_listed")
class HeadsThatWentAreListed(BertConfig):
    """The heads that are gone, as `pruned_heads` of older programs lists them."""

    @property
    def heads_and_units(self) -> tuple[tuple[int, int], ...]:
        sizes, all_heads = super().heads_and_units, self.num_attention_heads
        if self.pruned is None:
            return sizes
        return tuple((all_heads - heads, units) for heads, units in sizes)


@CONFIG.mistake(other_models_are_refused, name="any_family_accepted")
class AnyFamilyAccepted(Reading):
    """RoBERTa's weights load into BERT, and its positions are two rows off."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values | {"model_type": "bert"}


@CONFIG.mistake(other_models_are_refused, name="relative_positions_ignored")
class RelativePositionsIgnored(Reading):
    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in values.items() if k != "position_embedding_type"}


@CONFIG.mistake(
    impossible_values_are_refused,
    source="https://github.com/google-research/bert/blob/0017e7ecb4aa6b40e6d21ab7d46d2b055f88f236/modeling.py",
    name="heads_that_do_not_divide_the_width",
)
class HeadsThatDoNotDivideTheWidth(Reading):
    """The first example of Google's own code had such a model: width 512, 6 heads."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        width, heads = values.get("hidden_size", 768), values.get("num_attention_heads", 12)
        if type(width) is int and width > 0 and width % heads:
            values["hidden_size"] = width // heads * heads
        return values


@CONFIG.mistake(impossible_values_are_refused, name="numbers_converted")
class NumbersConverted(Reading):
    """Text becomes a number, and so does true."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        sizes = [key for key in values if type(DEFAULTS.get(key)) is int]
        return values | {key: int(values[key]) for key in sizes}


@CONFIG.mistake(right_values_of_judged_keys_are_read, name="judged_keys_refused")
class JudgedKeysRefused(Reading):
    """Whatever their values are."""

    @classmethod
    def seen(cls, values: dict[str, Any]) -> dict[str, Any]:
        if "tie_word_embeddings" in values:
            raise CheckpointError("config: tie_word_embeddings is there")
        return values


@CONFIG.mistake(what_is_read_is_not_changed, name="keys_taken_out")
class KeysTakenOut(BertConfig):
    """`pop` on the caller's own dictionary."""

    @classmethod
    def from_dict(cls, values: Any) -> Any:
        config = super().from_dict(values)
        values.pop("model_type", None)
        return config
