"""The weights of a BERT as plain named structures, and the one flat tensor they can live in.

`O`, `I` are the two sides of one linear map; the other letters are those of the dimension key.
A weight is stored as [out, in], as in every PyTorch checkpoint, so y = x Wᵀ + b.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from minibert.config import BertConfig

Structure = TypeVar("Structure")


class LinearWeights(NamedTuple):
    """y = x Wᵀ + b."""

    weight_OI: Tensor
    bias_O: Tensor


class LayerNormWeights(NamedTuple):
    """g and b in the paper; `weight` and `bias` in checkpoints, `gamma` and `beta` in old ones."""

    gain_D: Tensor
    bias_D: Tensor


class EmbeddingWeights(NamedTuple):
    """Three tables whose rows are added, and the LayerNorm of the sum."""

    word_VD: Tensor
    position_PD: Tensor
    type_TD: Tensor
    norm: LayerNormWeights


class AttentionWeights(NamedTuple):
    """Four maps D → D; a head is a slice of three maps' outputs and of the fourth's inputs."""

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    output: LinearWeights


class BlockWeights(NamedTuple):
    """One encoder layer: attention and feed-forward, each followed by its norm."""

    attention: AttentionWeights
    attention_norm: LayerNormWeights
    intermediate: LinearWeights
    output: LinearWeights
    output_norm: LayerNormWeights


class MlmWeights(NamedTuple):
    """The masked-word head; its decoder matrix is the word table itself, stored once."""

    transform: LinearWeights
    norm: LayerNormWeights
    bias_V: Tensor


class BertWeights(NamedTuple):
    """A whole model. A part that it does not have is None."""

    embeddings: EmbeddingWeights
    blocks: tuple[BlockWeights, ...]
    pooler: LinearWeights | None = None
    mlm: MlmWeights | None = None
    nsp: LinearWeights | None = None
    classifier: LinearWeights | None = None
    span: LinearWeights | None = None
    fit_dense: LinearWeights | None = None


def _linear(out_width: int, in_width: int) -> LinearWeights:
    return LinearWeights(
        torch.empty(out_width, in_width, device="meta"), torch.empty(out_width, device="meta")
    )


def _norm(width: int) -> LayerNormWeights:
    return LayerNormWeights(torch.empty(width, device="meta"), torch.empty(width, device="meta"))


def _block(d: int, heads_width: int, units: int) -> BlockWeights:
    return BlockWeights(
        attention=AttentionWeights(
            query=_linear(heads_width, d),
            key=_linear(heads_width, d),
            value=_linear(heads_width, d),
            output=_linear(d, heads_width),
        ),
        attention_norm=_norm(d),
        intermediate=_linear(units, d),
        output=_linear(d, units),
        output_norm=_norm(d),
    )


def weight_shapes(
    config: BertConfig, parts: tuple[str, ...] = ("pooler",), fit_width: int | None = None
) -> BertWeights:
    """The structure of a model's weights as tensors without storage: shapes only, no memory.

    `parts` are names of the optional fields of `BertWeights`; `fit_width` is the width E onto
    which a student's hidden states are projected (TinyBERT's fit_dense), None for no projection.
    The classifier has one row per label.

    Raises
        ValueError  a part is not one of pooler, mlm, nsp, classifier, span.

    >>> weight_shapes(BertConfig(hidden_size=24)).blocks[0].intermediate.weight_OI.shape
    torch.Size([3072, 24])
    """
    d, v = config.hidden_size, config.vocab_size
    sizes = ((heads * config.head_width, units) for heads, units in config.heads_and_units)
    optional: dict[str, Any] = {
        "pooler": _linear(d, d),
        "mlm": MlmWeights(_linear(d, d), _norm(d), torch.empty(v, device="meta")),
        "nsp": _linear(2, d),
        "classifier": _linear(config.num_labels, d),
        "span": _linear(2, d),
    }
    unknown = set(parts) - set(optional)
    if unknown:
        raise ValueError(f"no part of a model is named {sorted(unknown)}; known: {list(optional)}")
    chosen = {name: optional[name] for name in parts}
    if fit_width is not None:
        chosen["fit_dense"] = _linear(fit_width, d)
    return BertWeights(
        embeddings=EmbeddingWeights(
            word_VD=torch.empty(v, d, device="meta"),
            position_PD=torch.empty(config.max_position_embeddings, d, device="meta"),
            type_TD=torch.empty(config.type_vocab_size, d, device="meta"),
            norm=_norm(d),
        ),
        blocks=tuple(_block(d, heads_width, units) for heads_width, units in sizes),
        **chosen,
    )


def named_tensors(structure: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested named structure with its path, in the order of the fields.

    >>> [name for name, _ in named_tensors(_norm(3), "norm")]
    ['norm.gain_D', 'norm.bias_D']
    """
    if isinstance(structure, Tensor):
        yield prefix, structure
    elif isinstance(structure, tuple):
        names = getattr(structure, "_fields", range(len(structure)))
        for place, name in enumerate(names):
            yield from named_tensors(structure[place], f"{prefix}.{name}" if prefix else str(name))


def with_tensors(
    structure: Structure, tensors: Mapping[str, Tensor], prefix: str = ""
) -> Structure:
    """The same structure with the tensor at every path replaced by the one of that name.

    Raises
        KeyError  a path of the structure is not among `tensors`.

    >>> with_tensors(_norm(1), {"gain_D": torch.ones(1), "bias_D": torch.zeros(1)}).gain_D
    tensor([1.])
    """
    if isinstance(structure, Tensor):
        return tensors[prefix]  # type: ignore[return-value]
    if not isinstance(structure, tuple):
        return structure
    names = getattr(structure, "_fields", range(len(structure)))
    parts = [
        with_tensors(structure[place], tensors, f"{prefix}.{name}" if prefix else str(name))
        for place, name in enumerate(names)
    ]
    built: Any = getattr(structure, "_make", tuple)
    return built(parts)


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the tensor at this path, by an explicit list of names.

    Matrices and embedding tables decay; biases and the gains of LayerNorm do not.

    Source
        google-research/bert, optimization.py: exclude_from_weight_decay names LayerNorm and bias.

    >>> is_decayed("blocks.0.output.weight_OI"), is_decayed("blocks.0.output_norm.gain_D")
    (True, False)
    """
    return name.rpartition(".")[2] in ("weight_OI", "word_VD", "position_PD", "type_TD")


def truncated_normal(
    shape: tuple[int, ...], std: float, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """Draws from a normal distribution of standard deviation `std`, truncated at ±2 `std`.

    Formula
        x = std * √2 * erfinv(u),  u uniform between erf(-2/√2) and erf(2/√2)
        (the inverse of the distribution function, so no draw is ever rejected)
        The standard deviation that remains is 0.8796 * std.

    Shapes
        return  float [*shape], every value within ±2 std

    Source
        tf.truncated_normal_initializer in google-research/bert, modeling.py.

    Differs
        the PyTorch ports draw from a plain normal, which has tails beyond ±2 std.

    Accuracy
        |error| <= 0.51 eps |x| for float32 and less: drawn in float64, and rounded once

    >>> truncated_normal((2,), 0.02, torch.Generator().manual_seed(0), torch.float32).abs() < 0.04
    tensor([True, True])
    """
    limit = math.erf(2 / math.sqrt(2))
    u = torch.rand(shape, generator=generator, dtype=torch.float64) * (2 * limit) - limit
    return (torch.erfinv(u) * (std * math.sqrt(2))).to(dtype)


def initial_weights(
    shapes: Structure,
    std: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Structure:
    """Fresh weights: matrices and tables truncated normal, biases 0, gains 1.

    >>> shapes = weight_shapes(BertConfig(vocab_size=7, hidden_size=12))
    >>> initial_weights(shapes, 0.02, torch.Generator().manual_seed(0)).pooler.bias_O.sum()
    tensor(0.)
    """
    tensors = {}
    for name, shape in named_tensors(shapes):
        size = tuple(shape.shape)
        if is_decayed(name):
            tensors[name] = truncated_normal(size, std, generator, dtype)
        elif name.endswith("gain_D"):
            tensors[name] = torch.ones(size, dtype=dtype)
        else:
            tensors[name] = torch.zeros(size, dtype=dtype)
    return with_tensors(shapes, tensors)


class FlatSlot(NamedTuple):
    """The place of one tensor in the flat tensor."""

    start: int
    end: int
    shape: tuple[int, ...]


def flat_layout(shapes: Any) -> dict[str, FlatSlot]:
    """Where each tensor of a structure lies in one flat tensor: decayed ones first.

    The decayed parameters form one contiguous range and the undecayed ones the next, so an
    optimiser step is two calls, the gradient norm one line, and a checkpoint one buffer.

    >>> flat_layout(_linear(2, 3))["bias_O"]
    FlatSlot(start=6, end=8, shape=(2,))
    """
    layout, start = {}, 0
    named = list(named_tensors(shapes))
    for name, tensor in sorted(named, key=lambda pair: not is_decayed(pair[0])):
        layout[name] = FlatSlot(start, start + tensor.numel(), tuple(tensor.shape))
        start += tensor.numel()
    return layout


def decayed_length(layout: Mapping[str, FlatSlot]) -> int:
    """How many leading numbers of the flat tensor belong to decayed parameters.

    >>> decayed_length(flat_layout(_linear(2, 3)))
    6
    """
    return max((slot.end for name, slot in layout.items() if is_decayed(name)), default=0)


def flatten(structure: Any) -> Tensor:
    """All tensors of a structure copied into one flat tensor, in the order of `flat_layout`.

    >>> flatten(LinearWeights(torch.ones(1, 2), torch.zeros(1)))
    tensor([1., 1., 0.])
    """
    tensors = dict(named_tensors(structure))
    return torch.cat([tensors[name].reshape(-1) for name in flat_layout(structure)])


def views_of(flat: Tensor, structure: Structure) -> Structure:
    """The structure whose tensors are views of a flat tensor; writing to one writes to the other.

    Raises
        ValueError  the flat tensor has more or fewer numbers than the structure.

    >>> views_of(torch.arange(3), LinearWeights(torch.ones(1, 2), torch.zeros(1))).bias_O
    tensor([2])
    """
    layout = flat_layout(structure)
    length = sum(slot.end - slot.start for slot in layout.values())
    if flat.shape != (length,):
        raise ValueError(
            f"views_of: the flat tensor has shape {list(flat.shape)}, but the structure holds "
            f"{length} numbers"
        )
    views = {name: flat[slot.start : slot.end].view(slot.shape) for name, slot in layout.items()}
    return with_tensors(structure, views)
