"""Task heads: what is put on top of the encoder, each a small pure function.

B batch · S tokens · M masked tokens of a batch, in one list · D width · V words · C classes.
"""

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.functional import dropout, gelu_erf, gelu_tanh, layer_norm, linear
from minibert.parameters import LinearWeights, MlmWeights


def pooled(hidden_BSD: Tensor, weights: LinearWeights) -> Tensor:
    """One vector for the whole text, made from its first token, [CLS].

    Formula
        y = tanh(W h_0 + b),  h_0 = the last layer's state of token 0

    Shapes
        hidden_BSD  float [B, S, D]
        return      float [B, D]

    Source
        google-research/bert, modeling.py (pooler).

    Differs
        TinyBERT's classifier also applies a ReLU to it.

    Accuracy
        |error| <= (1 - y²) (D + 1)/2 eps (Σ |w| |h_0| + |b|) + 3/2 eps |y|, eps that of the dtype

    Raises
        ValueError  the widths do not fit.

    >>> pooled(torch.zeros(1, 3, 2), LinearWeights(torch.eye(2), torch.zeros(2)))
    tensor([[0., 0.]])
    """
    return torch.tanh(linear(hidden_BSD[:, 0], *weights))


def mlm_logits(
    hidden_MD: Tensor, weights: MlmWeights, word_VD: Tensor, config: BertConfig
) -> Tensor:
    """A score for every word of the vocabulary at each given token.

    Formula
        t = LayerNorm(gelu(W h + b));  logit_v = t · word_v + bias_v
        The head's own parameters are W, b, the norm and a bias for each word. The word vectors are
        the encoder's word table (tied), so each serves as both input and output.

    Shapes
        hidden_MD  float [..., D]  all tokens, or only the masked ones
        word_VD    float [V, D]    the encoder's own table
        return     float [..., V]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.1; google-research/bert, run_pretraining.py.

    Accuracy
        |error| <= the roundings of each step, enlarged by the steps after it: laws/rounding.py

    Raises
        ValueError  the widths do not fit.

    >>> from minibert.parameters import LayerNormWeights
    >>> one = LinearWeights(torch.eye(2), torch.zeros(2))
    >>> head = MlmWeights(one, LayerNormWeights(torch.ones(2), torch.zeros(2)), torch.zeros(3))
    >>> mlm_logits(torch.tensor([[9.0, 0.0]]), head, torch.eye(3)[:, :2], BertConfig())
    tensor([[ 1., -1.,  0.]])
    """
    gelu = gelu_erf if config.hidden_act == "gelu" else gelu_tanh
    transformed_MD = gelu(linear(hidden_MD, *weights.transform))
    transformed_MD = layer_norm(transformed_MD, *weights.norm, config.layer_norm_eps)
    return linear(transformed_MD, word_VD, weights.bias_V)


def nsp_logits(pooled_BD: Tensor, weights: LinearWeights) -> Tensor:
    """Does the second sentence follow the first?

    Formula
        logits = W p + b;  class 0: it follows, class 1: it is a random one

    Shapes
        pooled_BD  float [B, D]
        return     float [B, 2]

    Source
        google-research/bert, run_pretraining.py (get_next_sentence_output).

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |p| + |b|), eps that of the dtype

    Raises
        ValueError  the widths do not fit.

    >>> nsp_logits(torch.ones(1, 2), LinearWeights(torch.eye(2), torch.zeros(2)))
    tensor([[1., 1.]])
    """
    return linear(pooled_BD, *weights)


def sequence_logits(
    pooled_BD: Tensor,
    weights: LinearWeights,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """For every text, a score for each class.

    Formula
        logits = W dropout(p) + b

    Shapes
        pooled_BD     float [B, D]  p, from `pooled`
        dropout_rate  float 0 <= rate < 1, of what goes in
        return        float [B, C]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 4.1.

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |p| + |b|), eps that of the dtype

    Raises
        ValueError  the widths do not fit, or the rate is not in [0, 1).

    >>> sequence_logits(torch.ones(1, 2), LinearWeights(torch.eye(2), torch.zeros(2)))
    tensor([[1., 1.]])
    """
    return linear(dropout(pooled_BD, dropout_rate, generator), *weights)


def regression_values(
    pooled_BD: Tensor,
    weights: LinearWeights,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One number for a text: the classification head with a single row.

    Formula
        y = w · dropout(p) + b

    Shapes
        pooled_BD     float [B, D]
        dropout_rate  float 0 <= rate < 1, of what goes in
        return        float [B]

    Source
        Devlin et al. 2019 evaluate STS-B so; `transformers`' problem_type "regression".

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |p| + |b|), eps that of the dtype

    Raises
        ValueError  the head has more than one row.

    >>> regression_values(torch.ones(1, 2), LinearWeights(torch.ones(1, 2), torch.zeros(1)))
    tensor([2.])
    """
    if weights.weight_OI.shape[0] != 1:
        raise ValueError(
            f"regression_values: the head has {weights.weight_OI.shape[0]} rows, but needs one"
        )
    return sequence_logits(pooled_BD, weights, dropout_rate, generator)[:, 0]


def token_logits(
    hidden_BSD: Tensor,
    weights: LinearWeights,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """For every token, a score for each class.

    Formula
        logits_s = W dropout(h_s) + b

    Shapes
        hidden_BSD    float [B, S, D]
        dropout_rate  float 0 <= rate < 1, of what goes in
        return        float [B, S, C]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 5.3 (named entities).

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |h| + |b|), eps that of the dtype

    Raises
        ValueError  the widths do not fit, or the rate is not in [0, 1).

    >>> token_logits(torch.ones(1, 3, 2), LinearWeights(torch.ones(5, 2), torch.zeros(5))).shape
    torch.Size([1, 3, 5])
    """
    return linear(dropout(hidden_BSD, dropout_rate, generator), *weights)


def span_logits(hidden_BSD: Tensor, weights: LinearWeights) -> tuple[Tensor, Tensor]:
    """For every token, how likely an answer is to start there and how likely to end there.

    Formula
        start_s = w_0 · h_s + b_0,  end_s = w_1 · h_s + b_1

    Shapes
        hidden_BSD  float [B, S, D]
        return      float [B, S] starts, float [B, S] ends

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 4.2.

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |h| + |b|), eps that of the dtype

    Raises
        ValueError  the widths do not fit.

    >>> start_BS, end_BS = span_logits(torch.ones(1, 3, 2),
    ...                                LinearWeights(torch.eye(2), torch.zeros(2)))
    >>> start_BS.shape
    torch.Size([1, 3])
    """
    logits_BS2 = linear(hidden_BSD, *weights)
    return logits_BS2[..., 0], logits_BS2[..., 1]


def multiple_choice_logits(
    pooled_QD: Tensor,
    weights: LinearWeights,
    n_choices: int,
    dropout_rate: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A score for each of C candidate texts of a question.

    Formula
        logit_c = w · dropout(p_c) + b;  a softmax over c then chooses

    Shapes
        pooled_QD     float [B*C, D]  the choices of one question follow one another
        n_choices     int  C
        dropout_rate  float 0 <= rate < 1, of what goes in
        return        float [B, C]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 4.4 (SWAG).

    Accuracy
        |error| <= (D + 1)/2 eps (Σ |w| |p| + |b|), eps that of the dtype

    Raises
        ValueError  the texts do not divide into questions of C choices.

    >>> one = LinearWeights(torch.ones(1, 2), torch.zeros(1))
    >>> multiple_choice_logits(torch.ones(6, 2), one, 3).shape
    torch.Size([2, 3])
    """
    if n_choices < 1 or pooled_QD.shape[0] % n_choices:
        raise ValueError(
            f"multiple_choice_logits: {pooled_QD.shape[0]} texts do not divide into questions "
            f"of {n_choices} choices"
        )
    return regression_values(pooled_QD, weights, dropout_rate, generator).view(-1, n_choices)
