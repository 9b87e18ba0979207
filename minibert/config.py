"""The shape of a BERT: one frozen record, read from and written to `config.json`.

The keys are those of `transformers`' `config.json`, so a folder from the hub and a folder of ours
say the same thing in the same words. Keys that mean nothing here are kept and written back.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class CheckpointError(ValueError):
    """A model's config, vocabulary or weights are missing, damaged, or do not fit."""

    exit_code = 3


class Pruned(NamedTuple):
    """What is left of each layer: which of the N heads, in order, and how many of the F units."""

    heads: tuple[tuple[int, ...], ...]
    units: tuple[int, ...]


@dataclass(frozen=True)
class BertConfig:
    """Every size and rate that a BERT needs; the defaults are those of bert-base-uncased.

    Letters of the dimension key: V = vocab_size, D = hidden_size, L = num_hidden_layers,
    N = num_attention_heads, F = intermediate_size, P = max_position_embeddings,
    T = type_vocab_size, C = num_labels. `pruned` says which layers have fewer than N heads or F
    units; it is minibert's own key of `config.json`, so only minibert reads such a model.

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3 and appendix A.

    Raises
        CheckpointError  a size, rate or name is outside what is listed in `_check`.

    >>> BertConfig(hidden_size=128, num_attention_heads=4).head_width
    32
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    classifier_dropout: float | None = None
    problem_type: str | None = None
    id2label: Mapping[int, str] = field(default_factory=lambda: {0: "LABEL_0", 1: "LABEL_1"})
    architectures: tuple[str, ...] = ("BertModel",)
    pruned: Pruned | None = None
    unknown: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # the keys may come in any order, from JSON or Python; from here on label i is the i-th name
        object.__setattr__(self, "id2label", _label_names(self.id2label))
        _check(self)

    @property
    def head_width(self) -> int:
        """K = D / N, the width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def heads_and_units(self) -> tuple[tuple[int, int], ...]:
        """How many heads and feed-forward units each layer has.

        >>> BertConfig(num_hidden_layers=2).heads_and_units
        ((12, 3072), (12, 3072))
        """
        if self.pruned is None:
            return ((self.num_attention_heads, self.intermediate_size),) * self.num_hidden_layers
        return tuple(zip(map(len, self.pruned.heads), self.pruned.units, strict=True))

    @property
    def num_labels(self) -> int:
        """C, the number of classes; 1 means regression."""
        return len(self.id2label)

    @property
    def head_dropout(self) -> float:
        """The dropout rate in front of a task head: its own, or else that of the hidden states."""
        if self.classifier_dropout is None:
            return self.hidden_dropout_prob
        return self.classifier_dropout

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "BertConfig":
        """Read the keys of a `config.json`.

        A key that minibert does not use is kept in `unknown`; one whose value asks for a model
        that minibert does not compute (relative positions, a decoder, another family) is refused.

        Raises
            CheckpointError  a value is impossible, or asks for a model other than BERT.

        >>> BertConfig.from_dict({"hidden_size": 312, "cell": {}}).unknown
        {'cell': {}}
        """
        _refuse_other_models(values)
        known = {f.name for f in dataclasses.fields(cls)} - {"unknown"}
        chosen = {key: value for key, value in values.items() if key in known}
        chosen["unknown"] = {
            key: value
            for key, value in values.items()
            if key not in known and key not in ("label2id", "num_labels", "model_type")
        }
        named = chosen.get("architectures") or ["BertModel"]
        chosen["architectures"] = tuple(named) if isinstance(named, list) else named
        chosen["pruned"] = _pruned(values.get("pruned"))
        if chosen.get("id2label") is None:
            count = values.get("num_labels", 2)
            _check_integer("num_labels", count, 1, 2**20)
            chosen["id2label"] = {index: f"LABEL_{index}" for index in range(count)}
        return cls(**chosen)

    def to_dict(self) -> dict[str, Any]:
        """The keys of a `config.json`, unknown ones included; `from_dict` reads them back.

        >>> config = BertConfig(num_hidden_layers=4)
        >>> BertConfig.from_dict(config.to_dict()) == config
        True
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        unknown, pruned = dict(values.pop("unknown")), values.pop("pruned")
        if pruned is not None:
            heads = [list(kept) for kept in pruned.heads]
            values["pruned"] = {"heads": heads, "units": list(pruned.units)}
        values["architectures"] = list(self.architectures)
        values["id2label"] = {str(index): name for index, name in self.id2label.items()}
        values["label2id"] = {name: index for index, name in self.id2label.items()}
        return {"model_type": "bert"} | unknown | values

    def with_labels(self, names: tuple[str, ...], problem_type: str | None = None) -> "BertConfig":
        """The same model with these classes, in order; for regression, one name and "regression".

        >>> BertConfig().with_labels(("bad", "good")).id2label
        {0: 'bad', 1: 'good'}
        """
        return dataclasses.replace(
            self, id2label=dict(enumerate(names)), problem_type=problem_type
        )


def _refuse_other_models(values: Mapping[str, Any]) -> None:
    """Refuse, with a reason, a config that would load and then compute something else."""
    accepted = {
        "model_type": ("bert", None),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        "tie_word_embeddings": (True, None),
    }
    for key, choices in accepted.items():
        if values.get(key) not in choices:
            raise CheckpointError(
                f"config: {key} is {values[key]!r}, but that of a BERT is {choices[0]!r}"
            )


def _label_names(id2label: Any) -> dict[int, str]:
    """`id2label` with integer keys 0, 1, 2, …; JSON can only write them as strings."""
    if not isinstance(id2label, Mapping):
        raise CheckpointError(f"config: id2label is {id2label!r}, not a map of indices")
    names = {str(index): str(name) for index, name in id2label.items()}
    if not names or set(names) != {str(index) for index in range(len(names))}:
        raise CheckpointError(
            f"config: id2label has the indices {list(names)}, but they must run 0, 1, 2, …"
        )
    return {index: names[str(index)] for index in range(len(names))}


def _pruned(values: Any) -> Pruned | None:
    """Read `pruned` from JSON: two lists, with one entry for each layer."""
    if values is None:
        return None
    try:
        return Pruned(tuple(map(tuple, values["heads"])), tuple(values["units"]))
    except (TypeError, KeyError):
        raise CheckpointError(
            f"config: pruned is {values!r}, but must hold a list of heads and one of units"
        ) from None


def _check_pruned(pruned: Pruned, config: BertConfig) -> None:
    if {len(pruned.heads), len(pruned.units)} != {config.num_hidden_layers}:
        raise CheckpointError(
            f"config: pruned has {len(pruned.heads)} layers of heads and {len(pruned.units)} of "
            f"units, but the model has {config.num_hidden_layers}"
        )
    for kept in pruned.heads:
        for head in kept:
            _check_integer("a head in pruned", head, 0, config.num_attention_heads - 1)
        if not kept or list(kept) != sorted(set(kept)):
            raise CheckpointError(
                f"config: pruned has a layer with the heads {list(kept)}, but must name at least "
                "one, and each once, in order"
            )
    for units in pruned.units:
        _check_integer("a number of units in pruned", units, 1, config.intermediate_size)


def _check_integer(key: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise CheckpointError(f"config: {key} is {value!r}, but must be an integer {low} to {high}")


def _check_number(key: str, value: Any, low: float, high: float) -> None:
    number = type(value) in (int, float)
    if not number or not low <= value <= high:
        raise CheckpointError(f"config: {key} is {value!r}, but must be a number {low} to {high}")


def _check(config: BertConfig) -> None:
    """Bounds that every real BERT satisfies, so that no later line has to check a size."""
    _check_integer("vocab_size", config.vocab_size, 1, 2**20)
    _check_integer("hidden_size", config.hidden_size, 1, 8192)
    _check_integer("num_hidden_layers", config.num_hidden_layers, 1, 128)
    _check_integer("num_attention_heads", config.num_attention_heads, 1, 8192)
    _check_integer("intermediate_size", config.intermediate_size, 1, 65536)
    _check_integer("max_position_embeddings", config.max_position_embeddings, 1, 65536)
    _check_integer("type_vocab_size", config.type_vocab_size, 1, 1024)
    _check_integer("pad_token_id", config.pad_token_id, 0, config.vocab_size - 1)
    _check_number("hidden_dropout_prob", config.hidden_dropout_prob, 0, 0.99)
    _check_number("attention_probs_dropout_prob", config.attention_probs_dropout_prob, 0, 0.99)
    _check_number("classifier_dropout", config.head_dropout, 0, 0.99)
    _check_number("initializer_range", config.initializer_range, 0, 10)
    _check_number("layer_norm_eps", config.layer_norm_eps, 1e-15, 1)
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"config: hidden_size {config.hidden_size} does not divide into "
            f"num_attention_heads {config.num_attention_heads}"
        )
    if config.pruned is not None:
        _check_pruned(config.pruned, config)
    names = config.architectures
    if not isinstance(names, tuple) or not names or not all(type(name) is str for name in names):
        raise CheckpointError(f"config: architectures is {names!r}, but must be a list of names")
    kinds = (None, "regression", "single_label_classification", "multi_label_classification")
    if config.problem_type not in kinds:
        raise CheckpointError(
            f"config: problem_type is {config.problem_type!r}, but must be one of {kinds}"
        )
    activations = ("gelu", "gelu_new", "gelu_pytorch_tanh")
    if config.hidden_act not in activations:
        raise CheckpointError(
            f"config: hidden_act is {config.hidden_act!r}, but must be one of {activations}"
        )
