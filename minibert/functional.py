"""The small functions that everything else is made of.

Names give trailing axes only, and a letter's size may differ from call to call: `x_D` is any
tensor whose last axis is the one that the formula is about.

Accuracy sections compare with exact arithmetic on the same inputs; eps is the distance from 1 to
the next number of the precision, 2^-23 in float32. `minibert verify --accuracy` measures them.
"""

import math

import torch
from torch import Tensor


def at_least_float32(x_D: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 where they are float64 already.

    Sums of many terms lose too much in half precision, so softmax, norms and losses start here;
    products of matrices stay in their dtype.

    Shapes
        x_D     float [..., D]
        return  float [..., D]

    Source
        Micikevicius et al. 2018, arXiv:1710.03740, section 3.3 (arithmetic precision).

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x_D if x_D.dtype == torch.float64 else x_D.float()


def linear(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    """Map every vector of width I to one of width O.

    Formula
        y = W x + b

    Shapes
        x_I        float [..., I]
        weight_OI  float [O, I]  one row per output, as PyTorch stores it
        bias_O     float [O]
        return     float [..., O]

    Source
        Vaswani et al. 2017, arXiv:1706.03762, section 3.3 (each position alone, the same map).

    Differs
        TensorFlow's checkpoints store the transposed matrix under the name `kernel`.

    Accuracy
        |error| <= (I + 1) eps (Σ |w| |x| + |b|)

    Raises
        ValueError  the last axis of x is not I.

    >>> linear(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
    tensor([11.5000])
    """
    if x_I.shape[-1] != weight_OI.shape[1]:
        raise ValueError(
            f"linear: x has width {x_I.shape[-1]}, but the weight maps from {weight_OI.shape[1]}"
        )
    return x_I @ weight_OI.T + bias_O


def softmax(x_R: Tensor) -> Tensor:
    """Turn scores into probabilities.

    Formula
        p_i = exp(x_i - max(x)) / Σ_j exp(x_j - max(x))
        The maximum cancels in exact arithmetic; without it exp overflows at x = 89 in float32.
        A row that is -inf everywhere has nothing to choose from: its result is all zeros.

    Shapes
        x_R     float [..., R]  -inf means "not a choice" and gets exactly 0
        return  float [..., R]  same dtype; computed in float32 at least

    Source
        Vaswani et al. 2017, arXiv:1706.03762, equation 1.

    Differs
        torch.softmax returns NaN for a row of -inf.

    Accuracy
        |error| <= (4 + R/2 + |x_i - max|) eps p_i; half precision is float32 rounded once.

    >>> softmax(torch.tensor([0.0, 0.0, -math.inf]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    wide_R = at_least_float32(x_R)
    top_1 = wide_R.amax(-1, keepdim=True)
    top_1 = torch.where(top_1 == -math.inf, 0, top_1)
    weights_R = torch.exp(wide_R - top_1.detach())
    # The largest term is exp(0) = 1, so a sum below 1 can only be the empty one.
    total_1 = weights_R.sum(-1, keepdim=True).clamp(min=1)
    return (weights_R / total_1).to(x_R.dtype)


def log_softmax(x_C: Tensor) -> Tensor:
    """The logarithm of softmax, without the underflow of computing log(softmax(x)).

    Formula
        log p_i = (x_i - max(x)) - log Σ_j exp(x_j - max(x))

    Shapes
        x_C     float [..., C]  at least one finite value per row
        return  float [..., C]  same dtype; computed in float32 at least

    Source
        The log-sum-exp identity; see Goodfellow et al. 2016, Deep Learning, section 4.1.

    Differs
        log(softmax(x)) is -inf as soon as a gap exceeds 104 in float32.

    Accuracy
        |error| <= (4 + C/2 + |x_i - max|) eps; half precision is float32 rounded once.

    >>> log_softmax(torch.tensor([0.0, -200.0]))
    tensor([   0., -200.])
    """
    wide_C = at_least_float32(x_C)
    shifted_C = wide_C - wide_C.amax(-1, keepdim=True).detach()
    total_1 = torch.exp(shifted_C).sum(-1, keepdim=True)
    return (shifted_C - torch.log(total_1)).to(x_C.dtype)


def gelu_erf(x_D: Tensor) -> Tensor:
    """The exact GELU, called "gelu" in BERT's files: x times the normal distribution function of x.

    Formula
        y = x * Φ(x) = x/2 * erfc(-x/√2)

    Shapes
        x_D     float [..., D]
        return  float [..., D]

    Source
        Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    Differs
        x/2 * (1 + erf(x/√2)), the usual code, cancels below 0; in float32 no digit is left at -6.

    Accuracy
        |error| <= (16 + 2 x²) eps |y|, in the tail too; half precision: float32 rounded once.

    >>> gelu_erf(torch.tensor([-10.0, 0.0, 1.0], dtype=torch.float64))
    tensor([-7.6199e-23,  0.0000e+00,  8.4134e-01], dtype=torch.float64)
    """
    wide_D = at_least_float32(x_D)
    return (wide_D * 0.5 * torch.erfc(wide_D * -math.sqrt(0.5))).to(x_D.dtype)


def gelu_tanh(x_D: Tensor) -> Tensor:
    """The Gaussian error linear unit as Google's BERT code computes it, with tanh.

    Formula
        y = x/2 * (1 + tanh(√(2/π) * (x + 0.044715 x³)))

    Shapes
        x_D     float [..., D]
        return  float [..., D]  within 4.8e-4 of `gelu_erf`

    Source
        Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2; google-research/bert, modeling.py.

    Differs
        BERT's files say `hidden_act` "gelu", for which `transformers` and this book take the erf
        form; this one is "gelu_new". The two are so close that BERT's weights work with either.

    Accuracy
        |error| <= 4 eps |x|: 1 + tanh cancels below 0. Half precision: float32 rounded once.

    >>> gelu_tanh(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8412])
    """
    wide_D = at_least_float32(x_D)
    inner_D = math.sqrt(2 / math.pi) * (wide_D + 0.044715 * wide_D * wide_D * wide_D)
    return (0.5 * wide_D * (1 + torch.tanh(inner_D))).to(x_D.dtype)


def layer_norm(x_D: Tensor, gain_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
    """Normalise every vector to mean 0 and variance 1, then scale and shift it.

    Formula
        y = gain * (x - mean(x)) / sqrt(var(x) + eps) + bias
        mean and var over the last axis; var divides by D, not D - 1.

    Shapes
        x_D     float [..., D]  any scale
        gain_D  float [D]       g in the paper
        bias_D  float [D]       b in the paper
        eps     float > 0       in the unit of the VARIANCE of x; BERT uses 1e-12
        return  float [..., D]  same dtype as x; computed in float32 at least

    Source
        Ba et al. 2016, arXiv:1607.06450, section 3.

    Differs
        the Annotated Transformer divides by D - 1 and adds eps to the standard deviation.

    Accuracy
        |error| <= (4 + D/2) u (2 |gain| max|ŷ| (1 + D u max|x|/σ) + |bias|), σ = √(var + eps),
        u = 2^-23: an offset counts only with u². Half precision is float32 rounded once.

    Raises
        ValueError  the last axis of x is not the length of gain.

    >>> layer_norm(torch.tensor([1.0, 3.0]), torch.ones(2), torch.zeros(2), 1e-12)
    tensor([-1.,  1.])
    """
    if x_D.shape[-1:] != gain_D.shape:
        raise ValueError(
            f"layer_norm: x has width {x_D.shape[-1]}, but the gain has shape {list(gain_D.shape)}"
        )
    wide_D = at_least_float32(x_D)
    centred_D = wide_D - wide_D.mean(-1, keepdim=True)
    # Centre again: near 1e5 the mean's rounding error is too large beside the deviation.
    centred_D = centred_D - centred_D.mean(-1, keepdim=True)
    variance_1 = (centred_D * centred_D).mean(-1, keepdim=True)
    return (centred_D / torch.sqrt(variance_1 + eps) * gain_D + bias_D).to(x_D.dtype)


def dropout(x_D: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Zero each number with probability `rate` and scale the others to keep the expected value.

    Formula
        y_i = x_i * k_i / (1 - rate),  k_i = 1 with probability 1 - rate, else 0

    Shapes
        x_D        float [..., D]
        rate       float 0 <= rate < 1
        generator  the only source of randomness; None means evaluation: y = x
        return     float [..., D]

    Source
        Srivastava et al. 2014, JMLR 15:1929; the scaling during training is "inverted dropout".

    Differs
        the paper scales the weights at test time instead.

    Accuracy
        |error| <= eps |y|

    Raises
        ValueError  the rate is not in [0, 1).

    >>> dropout(torch.ones(4), 0.5, torch.Generator().manual_seed(1))
    tensor([2., 0., 0., 2.])
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: the rate is {rate}, but must be at least 0 and below 1")
    if generator is None or rate == 0:
        return x_D
    draws_D = torch.rand(x_D.shape, generator=generator, device=x_D.device)
    return torch.where(draws_D >= rate, x_D * (1 / (1 - rate)), 0)


def embedding(ids_S: Tensor, table_VD: Tensor) -> Tensor:
    """Look up one row of a table per id.

    Formula
        y_s = table[id_s], which equals one_hot(id_s) @ table

    Shapes
        ids_S     int64 [..., S]   0 <= id < V
        table_VD  float [V, D]
        return    float [..., S, D]

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3 (input representation).

    Differs
        indexing a tensor directly would silently take id -1 as the last row.

    Raises
        ValueError  an id is negative or not below V.

    >>> embedding(torch.tensor([1, 0]), torch.tensor([[1.0], [2.0]]))
    tensor([[2.],
            [1.]])
    """
    if ids_S.numel() and not 0 <= int(ids_S.min()) <= int(ids_S.max()) < table_VD.shape[0]:
        raise ValueError(
            f"embedding: ids run from {int(ids_S.min())} to {int(ids_S.max())}, "
            f"but the table has rows 0 to {table_VD.shape[0] - 1}"
        )
    return table_VD.index_select(0, ids_S.reshape(-1)).view(*ids_S.shape, table_VD.shape[1])
