"""The encoder without padding: twins of `encode` and `encode_traced` of `minibert.encoder`.

B rows · S places · T tokens that are kept · D width · F feed-forward width · V words.
With the book's weights a call can be differentiated; `prepared` weights are for inference only.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from minibert import encoder as book
from minibert.attention import (
    AttentionTrace,
    attention_probabilities,
    attention_scores,
    merge_heads,
    padding_bias,
    split_heads,
)
from minibert.config import BertConfig
from minibert.encoder import BlockTrace, EncoderTrace
from minibert.functional import embedding
from minibert.kernels.attention import attention, attention_of_first
from minibert.kernels.dropout import dropout
from minibert.kernels.linear import AnyLinear, feed_forward, linear
from minibert.kernels.packing import Packing, packed, unpacked
from minibert.kernels.products import fixed_arithmetic, pack
from minibert.kernels.quantized import prepared_int8
from minibert.parameters import (
    BertWeights,
    BlockWeights,
    EmbeddingWeights,
    LayerNormWeights,
    LinearWeights,
    MlmWeights,
    named_tensors,
    with_tensors,
)


class FusedBlock(NamedTuple):
    """The weights of one block; the maps to query, key and value are one map to 3 D."""

    qkv: AnyLinear
    output: AnyLinear
    attention_norm: LayerNormWeights
    intermediate: AnyLinear
    feed_forward_output: AnyLinear
    output_norm: LayerNormWeights


class FastWeights(NamedTuple):
    """The weights of a model made ready for inference; all but the blocks as in `BertWeights`."""

    embeddings: EmbeddingWeights
    blocks: tuple[FusedBlock, ...]
    pooler: LinearWeights | None
    mlm: MlmWeights | None
    nsp: LinearWeights | None
    classifier: LinearWeights | None
    span: LinearWeights | None
    fit_dense: LinearWeights | None


AnyWeights = BertWeights | FastWeights


def fused(weights: BlockWeights | FusedBlock) -> FusedBlock:
    """The weights of a block with query, key and value side by side; unchanged if they are."""
    if isinstance(weights, FusedBlock):
        return weights
    three = weights.attention[:3]
    qkv = LinearWeights(
        torch.cat([part.weight_OI for part in three]), torch.cat([part.bias_O for part in three])
    )
    return FusedBlock(qkv, weights.attention.output, *weights[1:])


def prepared(weights: BertWeights, dtype: torch.dtype | None = None) -> AnyWeights:
    """Weights for many calls without gradients, computed in `dtype`; tables stay as they are.

    `arithmetic` decides their form: the book's functions take the book's weights.
    """
    parts = {name: part.detach() for name, part in named_tensors(weights)}
    if dtype is not None:
        parts = {
            name: part if name.startswith("embeddings.") else part.to(dtype)
            for name, part in parts.items()
        }
    weights = with_tensors(weights, parts)
    if fixed_arithmetic() == "book":
        return weights
    ready = prepared_int8 if fixed_arithmetic() == "int8" else pack
    blocks = tuple(
        FusedBlock._make(
            ready(part) if isinstance(part, LinearWeights) else part for part in fused(block)
        )
        for block in weights.blocks
    )
    return FastWeights(weights.embeddings, blocks, *weights[2:])


def encode(
    ids_BS: Tensor,
    keep_BS: Tensor,
    types_BS: Tensor,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`minibert.encoder.encode`, computed for the kept tokens alone; the other states are 0.

    The gradient of the word table is sparse; adding it to a dense one, as `Trainable` does, takes
    time that grows with the batch, not with the vocabulary.

    Accuracy
        as the book's: |error| <= 16 times what one eps more or less in each weight changes
    """
    if fixed_arithmetic() == "book" and isinstance(weights, BertWeights):
        return book.encode(ids_BS, keep_BS, types_BS, in_one_dtype(weights), config, generator)
    packing = packed(keep_BS, _dtype_of_blocks(weights))
    x_TD = embedded(ids_BS, types_BS, packing, weights, config, generator)
    for block_weights in weights.blocks:
        x_TD = _block(x_TD, packing, fused(block_weights), config, generator)
    return unpacked(x_TD, packing)


def encode_first(
    ids_BS: Tensor,
    keep_BS: Tensor,
    types_BS: Tensor,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The last state of each row's first token alone, [B, 1, D]: all that a pooler looks at.

    In the last block only this token is a query, and only it goes through the feed-forward, which
    saves three quarters of the block's products. Every row must keep its first token.
    """
    if not keep_BS[:, 0].all():
        raise ValueError("encode_first: a row does not keep its first token, so it has no state")
    if fixed_arithmetic() == "book" and isinstance(weights, BertWeights):
        return encode(ids_BS, keep_BS, types_BS, weights, config, generator)[:, :1]
    packing = packed(keep_BS, _dtype_of_blocks(weights))
    x_TD = embedded(ids_BS, types_BS, packing, weights, config, generator)
    for block_weights in weights.blocks[:-1]:
        x_TD = _block(x_TD, packing, fused(block_weights), config, generator)
    last = fused(weights.blocks[-1])
    qkv_T3D = linear(x_TD, last.qkv)
    context_BD = attention_of_first(
        qkv_T3D,
        packing,
        _n_heads(qkv_T3D, config),
        config.attention_probs_dropout_prob,
        generator,
    )
    first_BD = x_TD.index_select(0, packing.first_B(x_TD.device))
    return _after_attention(first_BD, context_BD, last, config, generator)[:, None]


def encode_traced(
    ids_BS: Tensor,
    keep_BS: Tensor,
    types_BS: Tensor,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> EncoderTrace:
    """`minibert.encoder.encode_traced` with fast products; padding is computed like the book's."""
    if fixed_arithmetic() == "book" and isinstance(weights, BertWeights):
        one = in_one_dtype(weights)
        return book.encode_traced(ids_BS, keep_BS, types_BS, one, config, generator)
    everything = Packing(ids_BS.shape, None, ())  # padding as well
    embedded_TD = embedded(ids_BS, types_BS, everything, weights, config, generator)
    embedded_BSD = unpacked(embedded_TD, everything)
    mask_bias_B11S = padding_bias(keep_BS, embedded_BSD.dtype)
    blocks: list[BlockTrace] = []
    for block_weights in weights.blocks:
        hidden_BSD = blocks[-1].hidden_BSD if blocks else embedded_BSD
        parts = fused(block_weights)
        blocks.append(_traced_block(hidden_BSD, mask_bias_B11S, parts, config, generator))
    return EncoderTrace(embedded_BSD, tuple(blocks))


def _dtype_of_blocks(weights: AnyWeights) -> torch.dtype:
    return weights.blocks[0].output_norm.gain_D.dtype


def in_one_dtype(weights: BertWeights) -> BertWeights:
    """The book's functions need the tables in the precision of the blocks."""
    dtype = _dtype_of_blocks(weights)
    tables = {name: table.to(dtype) for name, table in named_tensors(weights.embeddings)}
    return weights._replace(embeddings=with_tensors(weights.embeddings, tables))


def _block(
    x_TD: Tensor,
    packing: Packing,
    weights: FusedBlock,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """`minibert.encoder.block` on a run of tokens."""
    qkv_T3D = linear(x_TD, weights.qkv)
    context_TD = attention(
        qkv_T3D, packing, _n_heads(qkv_T3D, config), config.attention_probs_dropout_prob, generator
    )
    return _after_attention(x_TD, context_TD, weights, config, generator)


def _n_heads(qkv_T3D: Tensor, config: BertConfig) -> int:
    """How many heads this block has; a pruned one has fewer than the config says."""
    return qkv_T3D.shape[1] // (3 * config.head_width)


def _after_attention(
    x_TD: Tensor,
    context_TD: Tensor,
    weights: FusedBlock,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """What a block does to each token alone: output map, sum and norm, then feed-forward."""
    if generator is None:
        attended_TD = linear(context_TD, weights.output, add_TO=x_TD)
    else:
        output_TD = linear(context_TD, weights.output)
        attended_TD = x_TD + dropout(output_TD, config.hidden_dropout_prob, generator)
    attended_TD = layer_norm(attended_TD, weights.attention_norm, config)
    return fed(attended_TD, weights, config, generator)


def fed(
    attended_TD: Tensor,
    weights: FusedBlock,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """The second half of a block: feed-forward, sum and norm."""
    maps = (weights.intermediate, weights.feed_forward_output)
    gelu = "none" if config.hidden_act == "gelu" else "tanh"  # torch's names of the forms
    if generator is None:
        output_TD = feed_forward(attended_TD, *maps, gelu, add_TD=attended_TD)
    else:
        fed_TD = feed_forward(attended_TD, *maps, gelu)
        output_TD = attended_TD + dropout(fed_TD, config.hidden_dropout_prob, generator)
    return layer_norm(output_TD, weights.output_norm, config)


def _traced_block(
    hidden_BSD: Tensor,
    mask_bias_B11S: Tensor,
    weights: FusedBlock,
    config: BertConfig,
    generator: torch.Generator | None,
) -> BlockTrace:
    """`minibert.encoder.block`: the book's attention between fast products."""
    x_TD = hidden_BSD.flatten(0, 1)  # T = B S here
    qkv_T3D = linear(x_TD, weights.qkv)
    query_BNSK, key_BNRK, value_BNRK = (
        split_heads(part_TD.unflatten(0, hidden_BSD.shape[:2]), _n_heads(qkv_T3D, config))
        for part_TD in qkv_T3D.chunk(3, -1)
    )
    scores_BNSR = attention_scores(query_BNSK, key_BNRK)
    probabilities_BNSR = attention_probabilities(scores_BNSR, mask_bias_B11S)
    taken_BNSR = dropout(probabilities_BNSR, config.attention_probs_dropout_prob, generator)
    context_BSD = merge_heads(taken_BNSR @ value_BNRK)
    output_TD = linear(context_BSD.flatten(0, 1), weights.output)
    attended_TD = x_TD + dropout(output_TD, config.hidden_dropout_prob, generator)
    attended_TD = layer_norm(attended_TD, weights.attention_norm, config)
    next_TD = fed(attended_TD, weights, config, generator)
    attention_trace = AttentionTrace(
        query_BNSK,
        key_BNRK,
        value_BNRK,
        scores_BNSR,
        probabilities_BNSR,
        output_TD.view_as(hidden_BSD),
    )
    return BlockTrace(attention_trace, attended_TD.view_as(hidden_BSD), next_TD.view_as(hidden_BSD))


def layer_norm(x_TD: Tensor, norm: LayerNormWeights, config: BertConfig) -> Tensor:
    return torch.layer_norm(x_TD, norm.gain_D.shape, *norm, config.layer_norm_eps)


def embedded(
    ids_BS: Tensor,
    types_BS: Tensor,
    packing: Packing,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """`minibert.encoder.embeddings` of the kept tokens, in the precision of the blocks."""
    tables = weights.embeddings
    rows, places = packing.shape
    if places > tables.position_PD.shape[0]:
        raise ValueError(
            f"encode: {places} tokens, but the model knows only {tables.position_PD.shape[0]} "
            "positions; truncate the text"
        )
    ids_T, types_T = ids_BS.reshape(-1), types_BS.reshape(-1)
    place_T = torch.arange(places, device=ids_BS.device).repeat(rows)
    if packing.places_T is not None:
        ids_T, types_T, place_T = (
            of_all.index_select(0, packing.places_T) for of_all in (ids_T, types_T, place_T)
        )
    word_TD = _word_rows(ids_T, tables.word_VD)
    position_TD = tables.position_PD.index_select(0, place_T)
    summed_TD = word_TD + position_TD + embedding(types_T, tables.type_TD)
    normed_TD = layer_norm(summed_TD, tables.norm, config)
    dropped_TD = dropout(normed_TD, config.hidden_dropout_prob, generator)
    return dropped_TD.to(_dtype_of_blocks(weights))


def _word_rows(ids_T: Tensor, table_VD: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and table_VD.requires_grad):
        return embedding(ids_T, table_VD)
    rows_TD: Tensor = _Rows.apply(ids_T, table_VD)
    return rows_TD


class _Rows(torch.autograd.Function):
    """`minibert.functional.embedding`, whose gradient holds only the rows that were looked up.

    Adding it to a dense gradient takes time that grows with the batch, not with the vocabulary.
    """

    @staticmethod
    def forward(ctx: Any, ids_T: Tensor, table_VD: Tensor) -> Tensor:
        ctx.save_for_backward(ids_T)
        ctx.shape = table_VD.shape
        return embedding(ids_T, table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, Tensor]:
        (dy_TD,) = upstream
        (ids_T,) = ctx.saved_tensors
        gradient_VD = torch.sparse_coo_tensor(ids_T[None], dy_TD, ctx.shape, check_invariants=False)
        return None, gradient_VD
