"""The decoder with fast products: twins of `empty_memory` and `decode` of `minibert.decoder`.

B sentences · S new words · U words so far · R tokens of the memory · M = B S, or B R, rows of a
product · D width · N heads · K = D/N · V words.
The texts of a decoder are short, so attention itself is the book's, between fast products; padding
is computed too, as in the book.
"""

from typing import Any

import torch
from torch import Tensor

from minibert import decoder as book
from minibert.attention import (
    attention_probabilities,
    attention_scores,
    causal_bias,
    merge_heads,
    padding_bias,
    split_heads,
)
from minibert.config import BertConfig
from minibert.decoder import BlockMemory, CrossWeights, DecoderMemory, DecoderWeights
from minibert.kernels.dropout import dropout
from minibert.kernels.encoder import embedded, fed, fused, in_one_dtype, layer_norm, linear
from minibert.kernels.packing import Packing
from minibert.kernels.products import fixed_arithmetic
from minibert.parameters import BlockWeights, LinearWeights, named_tensors, with_tensors


def prepared(weights: DecoderWeights, dtype: torch.dtype | None = None) -> DecoderWeights:
    """Weights for many calls without gradients, computed in `dtype`; tables stay as they are."""
    parts = {
        name: part.detach() if "embeddings." in name else part.detach().to(dtype)
        for name, part in named_tensors(weights)
    }
    weights = with_tensors(weights, parts)
    if fixed_arithmetic() == "book":
        return weights
    blocks: Any = tuple(map(fused, weights.bert.blocks))  # joined once, not at every word
    return weights._replace(bert=weights.bert._replace(blocks=blocks))


def empty_memory(
    encoded_BRD: Tensor, keep_BR: Tensor, weights: DecoderWeights, config: BertConfig
) -> DecoderMemory:
    """`minibert.decoder.empty_memory` with one product for keys and values of a layer."""
    if fixed_arithmetic() == "book":
        return book.empty_memory(encoded_BRD, keep_BR, weights, config)
    blocks = []
    for cross in weights.cross:
        both = _side_by_side(cross.attention.key, cross.attention.value)
        key_BNRK, value_BNRK = _heads(linear(encoded_BRD.flatten(0, 1), both), 2, keep_BR, config)
        none_BN0K = key_BNRK[:, :, :0]
        blocks.append(BlockMemory(none_BN0K, none_BN0K, key_BNRK, value_BNRK))
    return DecoderMemory(padding_bias(keep_BR, encoded_BRD.dtype), tuple(blocks))


def decode(
    ids_BS: Tensor,
    memory: DecoderMemory,
    weights: DecoderWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, DecoderMemory]:
    """`minibert.decoder.decode`; the tables may be in a higher precision than the blocks.

    Accuracy
        as the book's: |error| <= 16 times what one eps more or less in memory and each weight
        changes
    """
    if fixed_arithmetic() == "book":
        one = weights._replace(bert=in_one_dtype(weights.bert))
        return book.decode(ids_BS, memory, one, config, generator)
    bert, n_words = weights.bert, memory.n_words
    tables = bert.embeddings
    shifted = bert._replace(embeddings=tables._replace(position_PD=tables.position_PD[n_words:]))
    everything = Packing(ids_BS.shape, None, ())
    x_MD = embedded(ids_BS, 0 * ids_BS, everything, shifted, config, generator)
    n_new = ids_BS.shape[1]
    past_11SU = causal_bias(n_new, n_words + n_new, x_MD.dtype, x_MD.device)
    biases = (past_11SU, memory.cross_bias_B11R)
    blocks = []
    for block, cross, known in zip(bert.blocks, weights.cross, memory.blocks, strict=True):
        x_MD, grown = _block(x_MD, ids_BS, known, biases, block, cross, config, generator)
        blocks.append(grown)
    assert bert.mlm is not None
    transform, norm, bias_V = bert.mlm
    x_MD = layer_norm(_gelu(linear(x_MD, transform), config), norm, config)
    logits_MV = linear(x_MD, LinearWeights(tables.word_VD.to(x_MD.dtype), bias_V))
    return logits_MV.view(*ids_BS.shape, -1), memory._replace(blocks=tuple(blocks))


def _block(
    x_MD: Tensor,
    ids_BS: Tensor,
    memory: BlockMemory,
    biases: tuple[Tensor, Tensor],
    weights: BlockWeights,
    cross: CrossWeights,
    config: BertConfig,
    generator: torch.Generator | None,
) -> tuple[Tensor, BlockMemory]:
    """`minibert.decoder.decoder_block`."""
    rate, parts = config.hidden_dropout_prob, fused(weights)
    query_BNSK, key_BNSK, value_BNSK = _heads(linear(x_MD, parts.qkv), 3, ids_BS, config)
    key_BNUK = torch.cat([memory.own_key_BNUK, key_BNSK], 2)
    value_BNUK = torch.cat([memory.own_value_BNUK, value_BNSK], 2)
    context_MD = _context(query_BNSK, key_BNUK, value_BNUK, biases[0], config, generator)
    own_MD = dropout(linear(context_MD, parts.output), rate, generator)
    attended_MD = layer_norm(x_MD + own_MD, parts.attention_norm, config)
    (query_BNSK,) = _heads(linear(attended_MD, cross.attention.query), 1, ids_BS, config)
    context_MD = _context(
        query_BNSK, memory.cross_key_BNRK, memory.cross_value_BNRK, biases[1], config, generator
    )
    read_MD = dropout(linear(context_MD, cross.attention.output), rate, generator)
    crossed_MD = layer_norm(attended_MD + read_MD, cross.norm, config)
    grown = memory._replace(own_key_BNUK=key_BNUK, own_value_BNUK=value_BNUK)
    return fed(crossed_MD, parts, config, generator), grown


def _side_by_side(first: LinearWeights, second: LinearWeights) -> LinearWeights:
    """Two maps of one vector as one."""
    return LinearWeights(
        torch.cat([first.weight_OI, second.weight_OI]), torch.cat([first.bias_O, second.bias_O])
    )


def _heads(x_MC: Tensor, parts: int, like_BS: Tensor, config: BertConfig) -> list[Tensor]:
    """Each of the parts that lie side by side as heads [B, N, S, K]."""
    x_BSC = x_MC.view(*like_BS.shape, -1)
    return [split_heads(part, config.num_attention_heads) for part in x_BSC.chunk(parts, -1)]


def _context(
    query_BNSK: Tensor,
    key_BNUK: Tensor,
    value_BNUK: Tensor,
    bias_BNSU: Tensor,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """The context of each query: the weighted sum of the values, [M, D]."""
    scores_BNSU = attention_scores(query_BNSK, key_BNUK)
    probabilities_BNSU = attention_probabilities(scores_BNSU, bias_BNSU)
    rate = config.attention_probs_dropout_prob
    return merge_heads(dropout(probabilities_BNSU, rate, generator) @ value_BNUK).flatten(0, 1)


def _gelu(x_MD: Tensor, config: BertConfig) -> Tensor:
    approximate = "none" if config.hidden_act == "gelu" else "tanh"
    return torch.nn.functional.gelu(x_MD, approximate=approximate)
