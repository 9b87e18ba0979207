"""Models that lost heads and feed-forward units, and the same models in full.

A head adds nothing if its columns of the output map are 0, whatever it attends to; a unit, if its
column of the second feed-forward map is 0. Such a part can be left out, and put back.
"""

import dataclasses

import torch
from torch import Tensor

from minibert.config import BertConfig, Pruned
from minibert.parameters import (
    AttentionWeights,
    BertWeights,
    BlockWeights,
    LinearWeights,
    weight_shapes,
)
from minibert.sparsity import keep_heads, keep_units


def without_idle(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    """The model without the heads and units that add nothing; a layer keeps at least one of each.

    If every layer keeps all heads and equally many units, it is an ordinary BERT with a smaller
    feed-forward; anything else is recorded in `config.pruned`.
    """
    blocks, heads, units = [], [], []
    for block, kept, (n_heads, n_units) in zip(
        weights.blocks, kept_heads(config), config.heads_and_units, strict=True
    ):
        heads_A = _at_work(block.attention.output.weight_OI, n_heads)
        units_U = _at_work(block.output.weight_OI, n_units)
        attention = keep_heads(block.attention, heads_A, n_heads)
        blocks.append(keep_units(block._replace(attention=attention), units_U))
        heads.append(tuple(kept[head] for head in heads_A.tolist()))
        units.append(len(units_U))
    every_head = sum(map(len, heads)) == config.num_attention_heads * config.num_hidden_layers
    ordinary = every_head and len(set(units)) == 1
    smaller = dataclasses.replace(
        config,
        intermediate_size=max(units),
        pruned=None if ordinary else Pruned(tuple(heads), tuple(units)),
    )
    return weights._replace(blocks=tuple(blocks)), smaller


def in_full(weights: BertWeights, config: BertConfig) -> tuple[BertWeights, BertConfig]:
    """The same model as an ordinary BERT: heads and units that are gone come back, all 0."""
    full = dataclasses.replace(config, pruned=None)
    shapes = weight_shapes(full, parts=()).blocks
    blocks = tuple(
        _filled(block, shape, heads, config.head_width)
        for block, shape, heads in zip(weights.blocks, shapes, kept_heads(config), strict=True)
    )
    return weights._replace(blocks=blocks), full


def kept_heads(config: BertConfig) -> tuple[tuple[int, ...], ...]:
    """Which of the N heads each layer has.

    >>> kept_heads(BertConfig(num_hidden_layers=1, num_attention_heads=2))
    ((0, 1),)
    """
    if config.pruned is None:
        return (tuple(range(config.num_attention_heads)),) * config.num_hidden_layers
    return config.pruned.heads


def shape_told(config: BertConfig) -> str:
    """Heads and feed-forward units in words; for each layer if some were pruned.

    >>> shape_told(BertConfig())
    'heads 12, feed-forward 3072'
    """
    if config.pruned is None:
        return f"heads {config.num_attention_heads}, feed-forward {config.intermediate_size}"
    by_kind = zip(*config.heads_and_units, strict=True)
    heads, units = (", ".join(map(str, sizes)) for sizes in by_kind)
    return f"heads {heads} of {config.num_attention_heads}, feed-forward {units}"


def _at_work(weight_OI: Tensor, n_groups: int) -> Tensor:
    """Which groups of inputs are not all 0; the first group, if there is no other."""
    parts_OGK = weight_OI.reshape(len(weight_OI), n_groups, -1)
    found_G = (parts_OGK != 0).any(2).any(0).nonzero()[:, 0]
    return found_G if len(found_G) else found_G.new_zeros(1)


def _filled(
    block: BlockWeights, shape: BlockWeights, heads: tuple[int, ...], head_width: int
) -> BlockWeights:
    """A block with its heads in their places, its units in front, and 0 for those that are gone."""
    device = block.output.bias_O.device
    places = torch.tensor(heads, device=device)[:, None] * head_width
    rows_R = (places + torch.arange(head_width, device=device)).reshape(-1)
    units_U = torch.arange(len(block.intermediate.bias_O), device=device)

    def rows(part: LinearWeights, size: LinearWeights, places: Tensor) -> LinearWeights:
        return LinearWeights(*(_spread(*pair, places, 0) for pair in zip(part, size, strict=True)))

    def columns(part: LinearWeights, size: LinearWeights, places: Tensor) -> LinearWeights:
        return part._replace(weight_OI=_spread(part.weight_OI, size.weight_OI, places, 1))

    attention, sizes = block.attention, shape.attention
    return block._replace(
        attention=AttentionWeights(
            query=rows(attention.query, sizes.query, rows_R),
            key=rows(attention.key, sizes.key, rows_R),
            value=rows(attention.value, sizes.value, rows_R),
            output=columns(attention.output, sizes.output, rows_R),
        ),
        intermediate=rows(block.intermediate, shape.intermediate, units_U),
        output=columns(block.output, shape.output, units_U),
    )


def _spread(part: Tensor, size: Tensor, places: Tensor, axis: int) -> Tensor:
    """Zeros of the full size, with a part at its places along one axis."""
    return part.new_zeros(size.shape).index_copy(axis, places, part)
