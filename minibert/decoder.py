"""The decoder: it writes word by word, attending to the words so far and to another text.

That text is what an encoder has read, such as the sentence to translate. One function has two uses:
training, where all words are known and read at once; and writing word by word, with a memory of
the keys and values so far. B sentences · S new words (queries) · U words in memory · R tokens of
the encoder's text · D width · N heads · K = D/N · V words.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import (
    AttentionTrace,
    attend,
    causal_bias,
    keys_and_values,
    padding_bias,
)
from minibert.config import BertConfig
from minibert.encoder import embeddings, feed_forward
from minibert.functional import dropout, layer_norm
from minibert.heads import mlm_logits
from minibert.parameters import (
    AttentionWeights,
    BertWeights,
    BlockWeights,
    LayerNormWeights,
    weight_shapes,
)


class CrossWeights(NamedTuple):
    """What a decoder layer has beyond an encoder's: cross-attention to its states, and a norm."""

    attention: AttentionWeights
    norm: LayerNormWeights


class DecoderWeights(NamedTuple):
    """A BERT with a masked-word head, and cross-attention in each layer."""

    bert: BertWeights
    cross: tuple[CrossWeights, ...]


class BlockMemory(NamedTuple):
    """What a layer attends to: keys and values of the words so far and of the encoder's states."""

    own_key_BNUK: Tensor
    own_value_BNUK: Tensor
    cross_key_BNRK: Tensor
    cross_value_BNRK: Tensor


class DecoderMemory(NamedTuple):
    """Everything the decoder needs to continue, so that nothing is computed twice."""

    cross_bias_B11R: Tensor
    blocks: tuple[BlockMemory, ...]

    @property
    def n_words(self) -> int:
        """How many words it remembers."""
        return self.blocks[0].own_key_BNUK.shape[2]


class DecoderBlockTrace(NamedTuple):
    """What one layer computed: its two attentions, and the output state."""

    attention: AttentionTrace
    cross: AttentionTrace
    hidden_BSD: Tensor


def decoder_shapes(config: BertConfig) -> DecoderWeights:
    """The structure of a decoder's weights as tensors without storage, as in `weight_shapes`.

    >>> decoder_shapes(BertConfig(num_hidden_layers=2)).cross[1].attention.key.weight_OI.shape
    torch.Size([768, 768])
    """
    bert = weight_shapes(config, ("mlm",))
    block = bert.blocks[0]
    return DecoderWeights(
        bert, (CrossWeights(block.attention, block.attention_norm),) * len(bert.blocks)
    )


def empty_memory(
    encoded_BRD: Tensor, keep_BR: Tensor, weights: DecoderWeights, config: BertConfig
) -> DecoderMemory:
    """What the decoder knows before its first word: the encoder's states, as keys and values.

    Formula
        each layer: cross keys = W_k encoded, cross values = W_v encoded; no words of its own

    Shapes
        encoded_BRD  float [B, R, D]  from `encoder.encode`
        keep_BR      bool [B, R]      False marks padding, which no word asks
        return       DecoderMemory    U = 0

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3 (encoder-decoder attention).

    Accuracy
        |error| <= (D + 1) eps (Σ |w| |encoded| + |b|), that of `linear`

    Raises
        ValueError  keep is not boolean.

    >>> from minibert.parameters import initial_weights
    >>> config = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=2)
    >>> weights = initial_weights(decoder_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> memory = empty_memory(torch.zeros(1, 3, 12), torch.ones(1, 3) > 0, weights, config)
    >>> memory.n_words, memory.blocks[1].cross_key_BNRK.shape
    (0, torch.Size([1, 12, 3, 1]))
    """
    blocks = []
    for cross in weights.cross:
        key_BNRK, value_BNRK = keys_and_values(
            encoded_BRD, cross.attention, config.num_attention_heads
        )
        no_words = key_BNRK[:, :, :0]
        blocks.append(BlockMemory(no_words, no_words, key_BNRK, value_BNRK))
    return DecoderMemory(padding_bias(keep_BR, encoded_BRD.dtype), tuple(blocks))


def decoder_block(
    hidden_BSD: Tensor,
    memory: BlockMemory,
    cross_bias_B11R: Tensor,
    weights: BlockWeights,
    cross_weights: CrossWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> tuple[DecoderBlockTrace, BlockMemory]:
    """One decoder layer, post-norm, and its memory with the new words.

    Formula
        a = LayerNorm(x + dropout(Attention(x, words so far)))    word s sees the words up to s
        c = LayerNorm(a + dropout(Attention(a, encoder's states)))
        y = LayerNorm(c + dropout(FeedForward(c)))

    Shapes
        hidden_BSD       float [B, S, D]
        memory           BlockMemory of the words before these
        cross_bias_B11R  float [B, 1, 1, R]  from `padding_bias`
        return           DecoderBlockTrace, whose `hidden_BSD` is y; BlockMemory of S words more

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.1; GELU and BERT's weights: Rothe et al.
        2020, arXiv:1907.12461, section 2.

    Accuracy
        |error| <= 16 times what one eps more or less in x, memory and each weight changes

    >>> config, bias = BertConfig(vocab_size=5, hidden_size=12), torch.zeros(1, 1, 1, 3)
    >>> weights = decoder_shapes(config)  # shapes alone are enough to see those of the result
    >>> parts = (torch.empty(1, 12, n, 1, device="meta") for n in (2, 2, 3, 3))
    >>> trace, memory = decoder_block(torch.empty(1, 4, 12, device="meta"), BlockMemory(*parts),
    ...     bias.to("meta"), weights.bert.blocks[0], weights.cross[0], config)
    >>> trace.attention.scores_BNSR.shape, memory.own_key_BNUK.shape
    (torch.Size([1, 12, 4, 6]), torch.Size([1, 12, 6, 1]))
    """
    heads, rate = config.num_attention_heads, config.attention_probs_dropout_prob
    new_key_BNSK, new_value_BNSK = keys_and_values(hidden_BSD, weights.attention, heads)
    key_BNUK = torch.cat([memory.own_key_BNUK, new_key_BNSK], 2)
    value_BNUK = torch.cat([memory.own_value_BNUK, new_value_BNSK], 2)
    past_11SU = causal_bias(
        hidden_BSD.shape[1], key_BNUK.shape[2], hidden_BSD.dtype, hidden_BSD.device
    )
    attention = attend(
        hidden_BSD, key_BNUK, value_BNUK, past_11SU, weights.attention, heads, rate, generator
    )
    attended_BSD = _added_and_normed(
        hidden_BSD, attention.output_BSD, weights.attention_norm, config, generator
    )
    cross = attend(
        attended_BSD,
        memory.cross_key_BNRK,
        memory.cross_value_BNRK,
        cross_bias_B11R,
        cross_weights.attention,
        heads,
        rate,
        generator,
    )
    crossed_BSD = _added_and_normed(
        attended_BSD, cross.output_BSD, cross_weights.norm, config, generator
    )
    fed_BSD = feed_forward(crossed_BSD, weights, config.hidden_act)
    output_BSD = _added_and_normed(crossed_BSD, fed_BSD, weights.output_norm, config, generator)
    grown = memory._replace(own_key_BNUK=key_BNUK, own_value_BNUK=value_BNUK)
    return DecoderBlockTrace(attention, cross, output_BSD), grown


def _added_and_normed(
    x_BSD: Tensor,
    change_BSD: Tensor,
    norm: LayerNormWeights,
    config: BertConfig,
    generator: torch.Generator | None,
) -> Tensor:
    """What each of the three sub-layers does with its result."""
    summed_BSD = x_BSD + dropout(change_BSD, config.hidden_dropout_prob, generator)
    return layer_norm(summed_BSD, *norm, config.layer_norm_eps)


def decode_traced(
    ids_BS: Tensor,
    memory: DecoderMemory,
    weights: DecoderWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> tuple[tuple[DecoderBlockTrace, ...], DecoderMemory]:
    """Read the words that follow the remembered ones, and keep everything that was computed.

    Formula
        h_0 = embeddings of type 0 at the places after the remembered words;  h_l = block_l(h_{l-1})

    Shapes
        ids_BS  int64 [B, S]  all words of a text, or its next word alone
        memory  DecoderMemory of the words before these, at most P - S
        return  L DecoderBlockTraces; DecoderMemory of S words more

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.1; BERT as a decoder: Rothe et al. 2020,
        arXiv:1907.12461, section 2.

    Accuracy
        |error| <= 16 times what one eps more or less in encoded and each weight changes, for every
        state, and whether the words came at once or one by one

    Raises
        ValueError  an id or the number of words is beyond its table.

    >>> from minibert.parameters import initial_weights
    >>> config = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=2)
    >>> weights = initial_weights(decoder_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> memory = empty_memory(torch.zeros(1, 3, 12), torch.ones(1, 3) > 0, weights, config)
    >>> traces, memory = decode_traced(torch.tensor([[2, 3]]), memory, weights, config)
    >>> len(traces), memory.n_words
    (2, 2)
    """
    tables = weights.bert.embeddings
    n_places, n_words = tables.position_PD.shape[0], memory.n_words + ids_BS.shape[1]
    if n_words > n_places:
        raise ValueError(
            f"decode: a text of {n_words} words, but the model knows only {n_places} positions"
        )
    tables = tables._replace(position_PD=tables.position_PD[memory.n_words :])
    hidden_BSD = embeddings(ids_BS, 0 * ids_BS, tables, config, generator)
    traces, blocks = [], []
    for block, cross, known in zip(weights.bert.blocks, weights.cross, memory.blocks, strict=True):
        trace, grown = decoder_block(
            hidden_BSD, known, memory.cross_bias_B11R, block, cross, config, generator
        )
        hidden_BSD = trace.hidden_BSD
        traces.append(trace)
        blocks.append(grown)
    return tuple(traces), memory._replace(blocks=tuple(blocks))


def decode(
    ids_BS: Tensor,
    memory: DecoderMemory,
    weights: DecoderWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, DecoderMemory]:
    """For each of these words, a score for every word of the vocabulary as the next one.

    Formula
        logits_s = MLM head of the last layer's state of word s: they score word s + 1

    Shapes
        ids_BS  int64 [B, S]
        memory  DecoderMemory of the words before these, at most P - S
        return  float [B, S, V]; DecoderMemory of S words more

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.4 (the same table at both ends); BERT's
        head as the output: Rothe et al. 2020, arXiv:1907.12461, section 2.

    Accuracy
        |error| <= 16 times what one eps more or less in encoded and each weight changes, whether
        the words came at once or one by one. What stands behind a word, in padding or in another
        row changes no bit of its scores.

    Raises
        ValueError  an id or the number of words is beyond its table.

    >>> from minibert.parameters import initial_weights
    >>> config = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=2)
    >>> weights = initial_weights(decoder_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> memory = empty_memory(torch.zeros(1, 3, 12), torch.ones(1, 3) > 0, weights, config)
    >>> decode(torch.tensor([[2, 3]]), memory, weights, config)[0].shape
    torch.Size([1, 2, 5])
    """
    traces, grown = decode_traced(ids_BS, memory, weights, config, generator)
    mlm, word_VD = weights.bert.mlm, weights.bert.embeddings.word_VD
    assert mlm is not None, "a decoder has a masked-word head"
    return mlm_logits(traces[-1].hidden_BSD, mlm, word_VD, config), grown
