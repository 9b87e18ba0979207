"""A model reads one text: everything that the page shows, as facts and as blocks of numbers.

S tokens · D width · N heads · K = D/N · R keys. Everything is computed in float32 by the book
as it is written; then shares are stored in eight bits, and states in half precision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minibert.config import CheckpointError
from minibert.data.tokenizer import Encoding, required_tokenizer
from minibert.encoder import EncoderTrace, encode_traced, feed_forward
from minibert.explain.sources import source_lines
from minibert.explain.words import said_by_layers, said_if_masked, spans, word_steps
from minibert.functional import linear
from minibert.model import Bert
from minibert.parameters import LinearWeights, named_tensors

LARGEST_HALF = 65504.0


class NotReadable(ValueError):
    """A text that this model cannot read."""

    exit_code = 2


@dataclass
class Reading:
    """`facts` go into the page as JSON, `blocks` as numbers by name, the others if there is room.

    `maps` holds the blocks of each linear map, such as "query.1"; `model` the weights that
    `live.js` needs to read another text.
    """

    facts: dict[str, Any]
    blocks: dict[str, Tensor]
    maps: dict[str, dict[str, Tensor]]
    model: dict[str, Tensor] = field(default_factory=dict)


def checked_encoding(bert: Bert, first: str, second: str | None) -> Encoding:
    """The ids and types of a text, or a pair, that fits into the model uncut.

    Raises
        CheckpointError  the model has no vocabulary.
        NotReadable      no token is left, or there are more than the model has positions.
    """
    tokenizer = required_tokenizer(bert.tokenizer)
    (encoding,) = tokenizer.encode([first], None if second is None else [second])
    most = bert.config.max_position_embeddings
    if len(encoding.ids) > most:
        raise NotReadable(
            f"the text has {len(encoding.ids)} tokens, but the model knows only {most} positions; "
            "shorten it"
        )
    if len(encoding.ids) == (2 if second is None else 3):
        raise NotReadable("the text holds no character that the model reads; give it words")
    return encoding


def chosen_layers(bert: Bert, layers: Sequence[int] | None) -> list[int]:
    """The numbers of some layers in order, or of all.

    Raises
        NotReadable  there is no such layer.
    """
    n_layers = bert.config.num_hidden_layers
    chosen = sorted(set(layers or range(1, n_layers + 1)))
    if wrong := [one for one in chosen if not 1 <= one <= n_layers]:
        raise NotReadable(f"there is no layer {wrong[0]}: the model has layers 1 to {n_layers}")
    return chosen


def traced(
    bert: Bert, first: str, second: str | None
) -> tuple[Encoding, Tensor, Tensor, EncoderTrace]:
    """A text, or a pair, put through the encoder: its encoding, ids and types, and every state.

    Raises
        CheckpointError, NotReadable  as `checked_encoding`.
    """
    encoding = checked_encoding(bert, first, second)
    ids_BS, types_BS = torch.tensor([encoding.ids]), torch.tensor([encoding.types])
    types_BS = types_BS.clamp(max=bert.config.type_vocab_size - 1)  # some models have only one
    keep_BS = torch.ones_like(ids_BS) > 0
    trace = encode_traced(ids_BS, keep_BS, types_BS, bert.weights, bert.config)
    return encoding, ids_BS, types_BS, trace


def read(
    bert: Bert, first: str, second: str | None = None, layers: Sequence[int] | None = None
) -> tuple[Reading, EncoderTrace, Tensor, Tensor]:
    """What the model does with a text; `layers`, counted from 1, are those that can be opened.

    Returns the reading, and what a comparison with a teacher needs: trace, ids and types.

    Raises
        CheckpointError  no vocabulary, or a weight or state is not finite, or a state is too large
                         for half precision.
        NotReadable      as `checked_encoding`, or there is no such layer.
    """
    tokenizer, config, weights = bert.tokenizer, bert.config, bert.weights
    for path, x in named_tensors(weights):  # all rows: other texts may be typed into the page
        if not x.isfinite().all():
            raise CheckpointError(
                f"{path} holds a number that is not finite; the model is damaged, take another"
            )
    opened = chosen_layers(bert, layers)
    encoding, ids_BS, types_BS, trace = traced(bert, first, second)
    assert tokenizer is not None
    texts = [first] if second is None else [first, second]
    places = spans(first, second, encoding, tokenizer)
    said = None
    if weights.mlm is not None:
        said = {
            "layers": said_by_layers(bert, trace.hiddens_LBSD),
            "masked": said_if_masked(bert, ids_BS, types_BS),
        }
    facts = {
        "text": texts,
        "tokens": [
            {"piece": tokenizer.pieces[i], "id": i, "type": kind, "span": places and places[place]}
            for place, (i, kind) in enumerate(zip(*encoding, strict=True))
        ],
        "steps": None if places is None else [word_steps(text, tokenizer) for text in texts],
        "head": bert.head,
        "config": config.to_dict(),
        "layers": [
            {
                "heads": block.attention.query_BNSK.shape[1],
                "key_width": block.attention.query_BNSK.shape[3],
                "units": len(layer.intermediate.bias_O),
                "distinct": [round(one, 3) for one in _entropies(block.attention)],
            }
            for block, layer in zip(trace.blocks, weights.blocks, strict=True)
        ],
        "opened": opened,
        "words": said,
        "sources": source_lines(),
        "eps": config.layer_norm_eps,
    }
    blocks = _embedding_blocks(bert, ids_BS, types_BS) | _state_blocks(trace, bert, opened)
    return Reading(facts, blocks, _maps(trace, bert, opened)), trace, ids_BS, types_BS


def shares_of(probabilities_NSR: Tensor) -> Tensor:
    """Probabilities as eight bits: 255 is 1.

    >>> shares_of(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    return (probabilities_NSR * 255).round().to(torch.uint8)


def half(name: str, x: Tensor) -> Tensor:
    """The numbers in half precision.

    Raises
        CheckpointError  one is not finite, or beyond the largest half-precision number.
    """
    largest = x.abs().max().item()
    if not math.isfinite(largest) or largest > LARGEST_HALF:
        raise CheckpointError(
            f"{name} holds {largest:g}, but the page keeps numbers up to {LARGEST_HALF:g}; the "
            "model may be damaged"
        )
    return x.detach().half()


def _entropies(attention: Any) -> list[float]:
    """The mean entropy of each head over the tokens: 0 looks at one token, log R at all alike."""
    p_NSR = attention.probabilities_BNSR[0]
    terms_NSR = torch.where(p_NSR > 0, -p_NSR * torch.log(p_NSR.clamp(min=1e-30)), 0)
    entropies: list[float] = terms_NSR.sum(-1).mean(-1).tolist()
    return entropies


def _embedding_blocks(bert: Bert, ids_BS: Tensor, types_BS: Tensor) -> dict[str, Tensor]:
    tables = bert.weights.embeddings
    rows = {
        "word": tables.word_VD[ids_BS[0]],
        "position": tables.position_PD[: ids_BS.shape[1]],
        "type": tables.type_TD[types_BS[0]],
    }
    blocks = {f"embedding.{name}": half(f"the {name} table", x) for name, x in rows.items()}
    norm = torch.stack([tables.norm.gain_D, tables.norm.bias_D])
    return blocks | {"embedding.norm": norm.detach().float()}


def _state_blocks(trace: EncoderTrace, bert: Bert, opened: list[int]) -> dict[str, Tensor]:
    """Shares of every layer; of opened layers also states, queries, keys and values."""
    states = {0: trace.embedded_BSD}
    blocks: dict[str, Tensor] = {}
    for layer, block in enumerate(trace.blocks, 1):
        attention, weights = block.attention, bert.weights.blocks[layer - 1]
        blocks[f"attention.{layer}"] = shares_of(attention.probabilities_BNSR[0])
        if layer not in opened:
            continue
        states[layer - 1] = trace.hiddens_LBSD[layer - 1]
        states[layer] = block.hidden_BSD
        parts = {
            "query": attention.query_BNSK,
            "key": attention.key_BNRK,
            "value": attention.value_BNRK,
            "output": attention.output_BSD,
            "attended": block.attended_BSD,
            "fed": feed_forward(block.attended_BSD, weights, bert.config.hidden_act),
        }
        for name, x in parts.items():
            blocks[f"{name}.{layer}"] = half(f"{name} of layer {layer}", x[0])
        norms = {"norm": weights.attention_norm, "output_norm": weights.output_norm}
        for name, norm in norms.items():
            blocks[f"{name}.{layer}"] = torch.stack([norm.gain_D, norm.bias_D]).detach().float()
    for layer, state_BSD in states.items():
        blocks[f"hidden.{layer}"] = half(f"state {layer}", state_BSD[0])
    return blocks


def _maps(trace: EncoderTrace, bert: Bert, opened: list[int]) -> dict[str, dict[str, Tensor]]:
    """The linear maps of the opened layers, each a matrix and its bias, the most useful first.

    Attention comes first, for every layer, as it is what the steps show. In the feed-forward, a
    number is traced from the last map back to the first, so the last comes first, with its units.
    """
    blocks = {layer: bert.weights.blocks[layer - 1] for layer in opened}
    maps: dict[str, LinearWeights] = {}
    for layer, block in blocks.items():
        maps |= {f"{name}.{layer}": linear for name, linear in block.attention._asdict().items()}
    for layer, block in blocks.items():
        maps |= {f"fed.{layer}": block.output, f"inner.{layer}": block.intermediate}
    found = {}
    for name, one in maps.items():
        kind, on = name.split(".")
        parts = {f"{kind}.weight.{on}": one.weight_OI, f"{kind}.bias.{on}": one.bias_O}
        found[name] = {part: half(f"the {name} map", x) for part, x in parts.items()}
    for layer, block in blocks.items():
        inner_SF = linear(trace.blocks[layer - 1].attended_BSD[0], *block.intermediate)
        found[f"fed.{layer}"][f"inner.{layer}"] = half(f"inner of layer {layer}", inner_SF)
    return found
