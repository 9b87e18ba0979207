"""The encoder: embeddings, then L blocks, each an attention and a feed-forward.

B batch · S tokens · D width · F feed-forward width · N heads · K = D/N · V words · P positions.
BERT is post-norm: every sub-layer's output is added to its input (the residual connection) and
*then* normalised.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from minibert.attention import AttentionTrace, multi_head_attention, padding_bias
from minibert.config import BertConfig
from minibert.functional import dropout, embedding, gelu_erf, gelu_tanh, layer_norm, linear
from minibert.parameters import BertWeights, BlockWeights, EmbeddingWeights


class BlockTrace(NamedTuple):
    """What one block computed: its attention, the state after it, and the output state."""

    attention: AttentionTrace
    attended_BSD: Tensor
    hidden_BSD: Tensor


class EncoderTrace(NamedTuple):
    """Every state of the encoder by name; `named_tensors` lists their paths.

    Example paths: `embedded_BSD`, `blocks.0.attention.scores_BNSR`, `blocks.3.hidden_BSD`.
    """

    embedded_BSD: Tensor
    blocks: tuple[BlockTrace, ...]

    @property
    def hidden_BSD(self) -> Tensor:
        """The last state, what `encode` returns."""
        return self.blocks[-1].hidden_BSD

    @property
    def hiddens_LBSD(self) -> tuple[Tensor, ...]:
        """L + 1 states: the embeddings first, then one per block."""
        return (self.embedded_BSD, *(block.hidden_BSD for block in self.blocks))


def embeddings(
    ids_BS: Tensor,
    types_BS: Tensor,
    weights: EmbeddingWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What a token is, where it stands and which sentence it is in, added and normalised.

    Formula
        x_s = dropout(LayerNorm(word[id_s] + position[s] + type[t_s]))

    Shapes
        ids_BS    int64 [B, S]  0 <= id < V, S <= P
        types_BS  int64 [B, S]  0 for the first sentence, 1 for the second
        return    float [B, S, D]

    Source
        Devlin et al. 2019, arXiv:1810.04805, figure 2; google-research/bert, modeling.py.

    Differs
        positions are learned rows, not the sinusoids of Vaswani et al. 2017.

    Accuracy
        |error| <= eps/2 (|word + position| + |sum|), divided by the deviation of the sum as the
        sum itself is, and the error of `layer_norm`

    Raises
        ValueError  an id, a type or the length S is beyond its table.

    >>> from minibert.parameters import LayerNormWeights as Norm
    >>> tables = EmbeddingWeights(torch.eye(2), torch.zeros(1, 2), torch.zeros(1, 2),
    ...                           Norm(torch.ones(2), torch.zeros(2)))
    >>> zero_BS = torch.zeros(1, 1, dtype=torch.int64)
    >>> embeddings(zero_BS, zero_BS, tables, BertConfig())
    tensor([[[ 1., -1.]]])
    """
    n_tokens = ids_BS.shape[1]
    if n_tokens > weights.position_PD.shape[0]:
        raise ValueError(
            f"embeddings: {n_tokens} tokens, but the model knows only "
            f"{weights.position_PD.shape[0]} positions; truncate the text"
        )
    # position_PD[:S] is SD and is added to every sentence of the batch
    summed_BSD = (
        embedding(ids_BS, weights.word_VD)
        + weights.position_PD[:n_tokens]
        + embedding(types_BS, weights.type_TD)
    )
    normed_BSD = layer_norm(summed_BSD, *weights.norm, config.layer_norm_eps)
    return dropout(normed_BSD, config.hidden_dropout_prob, generator)


def feed_forward(x_BSD: Tensor, weights: BlockWeights, hidden_act: str) -> Tensor:
    """Two linear maps with a GELU between them, applied to each token separately.

    Formula
        y = W_2 gelu(W_1 x + b_1) + b_2

    Shapes
        x_BSD       float [B, S, D]
        hidden_act  "gelu" for the erf form; "gelu_new" or "gelu_pytorch_tanh" for the tanh form
        return      float [B, S, D]

    Source
        Vaswani et al. 2017, arXiv:1706.03762, equation 2, with GELU for ReLU: Devlin et al. 2019,
        appendix A.2.

    Accuracy
        |error| <= Σ |W_2| (1.13 (D + 1)/2 eps (Σ |W_1| |x| + |b_1|) + the error of gelu)
        + (F + 1)/2 eps (Σ |W_2| |gelu| + |b_2|), eps that of the dtype

    >>> from minibert.parameters import initial_weights, weight_shapes
    >>> config = BertConfig(vocab_size=5, hidden_size=12, intermediate_size=7)
    >>> weights = initial_weights(weight_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> feed_forward(torch.zeros(1, 3, 12), weights.blocks[0], "gelu").abs().sum()
    tensor(0.)
    """
    gelu = gelu_erf if hidden_act == "gelu" else gelu_tanh
    inner_BSF = gelu(linear(x_BSD, *weights.intermediate))
    return linear(inner_BSF, *weights.output)


def block(
    hidden_BSD: Tensor,
    mask_bias_B11S: Tensor,
    weights: BlockWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> BlockTrace:
    """One encoder layer, post-norm.

    Formula
        a = LayerNorm(x + dropout(Attention(x)))
        y = LayerNorm(a + dropout(FeedForward(a)))

    Shapes
        hidden_BSD      float [B, S, D]
        mask_bias_B11S  float [B, 1, 1, S]  from `padding_bias`
        return          BlockTrace; `hidden_BSD` is y

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.1; google-research/bert, modeling.py.

    Differs
        pre-norm code computes x + dropout(Attention(LayerNorm(x))), and likewise for the
        feed-forward; it cannot use BERT's weights, which were trained on normalised sums.

    Accuracy
        |error| <= 16 times what one eps more or less in x and in each weight changes

    >>> from minibert.parameters import initial_weights, weight_shapes
    >>> config = BertConfig(vocab_size=5, hidden_size=12, intermediate_size=7)
    >>> weights = initial_weights(weight_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> x_BSD, bias_B11S = torch.zeros(1, 3, 12), torch.zeros(1, 1, 1, 3)
    >>> block(x_BSD, bias_B11S, weights.blocks[0], config).hidden_BSD.shape
    torch.Size([1, 3, 12])
    """
    rate, eps = config.hidden_dropout_prob, config.layer_norm_eps
    n_heads = weights.attention.query.bias_O.shape[0] // config.head_width  # fewer, where pruned
    attention = multi_head_attention(
        hidden_BSD,
        hidden_BSD,
        mask_bias_B11S,
        weights.attention,
        n_heads,
        config.attention_probs_dropout_prob,
        generator,
    )
    attended_BSD = hidden_BSD + dropout(attention.output_BSD, rate, generator)
    attended_BSD = layer_norm(attended_BSD, *weights.attention_norm, eps)
    fed_BSD = feed_forward(attended_BSD, weights, config.hidden_act)
    output_BSD = attended_BSD + dropout(fed_BSD, rate, generator)
    output_BSD = layer_norm(output_BSD, *weights.output_norm, eps)
    return BlockTrace(attention, attended_BSD, output_BSD)


def encode_traced(
    ids_BS: Tensor,
    keep_BS: Tensor,
    types_BS: Tensor,
    weights: BertWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> EncoderTrace:
    """Run the encoder and keep everything it computed.

    Formula
        h_0 = embeddings;  h_l = block_l(h_{l-1}) for l = 1 … L

    Shapes
        ids_BS     int64 [B, S]
        keep_BS    bool [B, S]   False marks padding, which no token attends to
        types_BS   int64 [B, S]
        generator  source of dropout; None means evaluation
        return     EncoderTrace

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.

    Accuracy
        |error| <= 16 times what one eps more or less in each weight changes, for every state

    Raises
        ValueError  an id, a type or the length is beyond its table; keep is not boolean.

    >>> from minibert.parameters import initial_weights, weight_shapes
    >>> config = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=2)
    >>> weights = initial_weights(weight_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> ids_BS = torch.tensor([[2, 3, 4]])
    >>> trace = encode_traced(ids_BS, ids_BS > 0, ids_BS * 0, weights, config)
    >>> len(trace.hiddens_LBSD), trace.blocks[0].attention.scores_BNSR.shape
    (3, torch.Size([1, 12, 3, 3]))
    """
    embedded_BSD = embeddings(ids_BS, types_BS, weights.embeddings, config, generator)
    mask_bias_B11S = padding_bias(keep_BS, embedded_BSD.dtype)
    blocks: list[BlockTrace] = []
    for block_weights in weights.blocks:
        hidden_BSD = blocks[-1].hidden_BSD if blocks else embedded_BSD
        blocks.append(block(hidden_BSD, mask_bias_B11S, block_weights, config, generator))
    return EncoderTrace(embedded_BSD, tuple(blocks))


def encode(
    ids_BS: Tensor,
    keep_BS: Tensor,
    types_BS: Tensor,
    weights: BertWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The last hidden state of every token: `encode_traced` without keeping the states before it.

    Shapes
        ids_BS    int64 [B, S]
        keep_BS   bool [B, S]
        types_BS  int64 [B, S]
        return    float [B, S, D]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.

    Accuracy
        |error| <= 16 times what one eps more or less in each weight changes; as much lies between
        two sizes, lengths or orders of a batch. What padding or another row holds changes no bit
        of a sentence, and two runs give the same bits.

    Raises
        ValueError  an id, a type or the length is beyond its table; keep is not boolean.

    >>> from minibert.parameters import initial_weights, weight_shapes
    >>> config = BertConfig(vocab_size=5, hidden_size=12, num_hidden_layers=2)
    >>> weights = initial_weights(weight_shapes(config), 0.02, torch.Generator().manual_seed(0))
    >>> ids_BS = torch.tensor([[2, 3, 4]])
    >>> encode(ids_BS, ids_BS > 0, ids_BS * 0, weights, config).shape
    torch.Size([1, 3, 12])
    """
    hidden_BSD = embeddings(ids_BS, types_BS, weights.embeddings, config, generator)
    mask_bias_B11S = padding_bias(keep_BS, hidden_BSD.dtype)
    for block_weights in weights.blocks:
        hidden_BSD = block(hidden_BSD, mask_bias_B11S, block_weights, config, generator).hidden_BSD
    return hidden_BSD
