"""Every formula of the forward pass as loops over floats, in the notation of its paper.

No tensors, nothing but `math`: a sentence is a list of vectors, a vector a list of floats. `fsum`
adds without intermediate rounding, so a value of this file is right to a few units in the last
place and can serve as the other side of an equation. Weights are the named structures of the
package with lists in place of tensors.

Letters: x vector · X sentence, a list of x · W, b linear map · g, b gain and bias of LayerNorm ·
Q, K, V queries, keys, values · N heads.
"""

from math import erfc, exp, fsum, inf, log, pi, sqrt, tanh
from typing import Any

Vector = list[float]
Matrix = list[Vector]
Weights = Any  # a named structure of `minibert.parameters`, its leaves nested lists of floats


def dot(u: Vector, v: Vector) -> float:
    return fsum(a * b for a, b in zip(u, v, strict=True))


def add(u: Vector, v: Vector) -> Vector:
    return [a + b for a, b in zip(u, v, strict=True)]


# functional: one vector at a time


def linear(x: Vector, W: Matrix, b: Vector) -> Vector:
    """y_o = Σ_i W_oi x_i + b_o"""
    return [dot(W_o, x) + b_o for W_o, b_o in zip(W, b, strict=True)]


def softmax(x: Vector) -> Vector:
    """p_i = exp(x_i) / Σ_j exp(x_j); zeros where every x_i is -inf"""
    top = max(x)
    if top == -inf:
        return [0.0 for _ in x]
    total = fsum(exp(x_j - top) for x_j in x)
    return [exp(x_i - top) / total for x_i in x]


def log_softmax(x: Vector) -> Vector:
    """log p_i = x_i - log Σ_j exp(x_j)"""
    top = max(x)
    return [(x_i - top) - log(fsum(exp(x_j - top) for x_j in x)) for x_i in x]


def gelu_erf(x: float) -> float:
    """x Φ(x), Φ the normal distribution function"""
    return x * erfc(-x / sqrt(2)) / 2


def gelu_tanh(x: float) -> float:
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))"""
    return x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


def layer_norm(x: Vector, g: Vector, b: Vector, eps: float) -> Vector:
    """y_i = g_i (x_i - μ) / √(σ² + ε) + b_i,  μ = 1/D Σ x_i,  σ² = 1/D Σ (x_i - μ)²

    x_i - μ is written 1/D Σ_j (x_i - x_j): μ itself would be rounded to the size of x.
    """
    D = len(x)
    d = [fsum(x_i - x_j for x_j in x) / D for x_i in x]
    sigma2 = fsum(d_i**2 for d_i in d) / D
    return [g_i * d_i / sqrt(sigma2 + eps) + b_i for d_i, g_i, b_i in zip(d, g, b, strict=True)]


def normed(x: Vector, w: Weights, eps: float) -> Vector:
    """LayerNorm with gain and bias from a structure"""
    g, b = w
    return layer_norm(x, g, b, eps)


def dropout(x: Vector, k: list[bool], rate: float) -> Vector:
    """y_i = k_i x_i / (1 - rate)"""
    return [x_i / (1 - rate) if k_i else 0.0 for x_i, k_i in zip(x, k, strict=True)]


def embedding(ids: list[int], table: Matrix) -> Matrix:
    """y_s = Σ_v [id_s = v] table_v"""
    one_hot = [[float(v == i) for v in range(len(table))] for i in ids]
    columns = [list(column) for column in zip(*table, strict=True)]
    return [[dot(row, column) for column in columns] for row in one_hot]


# attention: one sentence at a time; bias[s][r] is 0 where query s sees key r, else -inf


def split_heads(X: Matrix, N: int) -> list[Matrix]:
    """head n of x is x_nK … x_(n+1)K-1"""
    K = len(X[0]) // N
    return [[x[n * K : (n + 1) * K] for x in X] for n in range(N)]


def merge_heads(H: list[Matrix]) -> Matrix:
    """For each token, its slices from all heads, one after the other"""
    return [[x_i for head in H for x_i in head[s]] for s in range(len(H[0]))]


def scores(Q: Matrix, K: Matrix) -> Matrix:
    """q_s · k_r / √d_k"""
    return [[dot(q, k) / sqrt(len(q)) for k in K] for q in Q]


def probabilities(A: Matrix, bias: Matrix) -> Matrix:
    """softmax(a_s + bias_s) over the keys r"""
    return [softmax(add(a_s, bias_s)) for a_s, bias_s in zip(A, bias, strict=True)]


def attention(Q: Matrix, K: Matrix, V: Matrix, bias: Matrix) -> Matrix:
    """softmax(Q Kᵀ / √d_k + bias) V"""
    P = probabilities(scores(Q, K), bias)
    columns = [list(column) for column in zip(*V, strict=True)]
    return [[dot(p, column) for column in columns] for p in P]


def multi_head_attention(X: Matrix, M: Matrix, bias: Matrix, w: Weights, N: int) -> Matrix:
    """W_o concat_n(attention_n), the heads being slices of W_q X, W_k M, W_v M"""
    Q = [linear(x, *w.query) for x in X]
    K = [linear(m, *w.key) for m in M]
    V = [linear(m, *w.value) for m in M]
    width = len(Q[0]) // N
    joined: Matrix = [[] for _ in X]
    for n in range(N):
        head = slice(n * width, (n + 1) * width)
        taken = attention([q[head] for q in Q], [k[head] for k in K], [v[head] for v in V], bias)
        joined = [row + part for row, part in zip(joined, taken, strict=True)]
    return [linear(row, *w.output) for row in joined]


def keys_and_values(M: Matrix, w: Weights, N: int) -> tuple[list[Matrix], list[Matrix]]:
    """The slices of W_k M, and those of W_v M"""
    K, V = [linear(m, *w.key) for m in M], [linear(m, *w.value) for m in M]
    return split_heads(K, N), split_heads(V, N)


def attend(
    X: Matrix, K: list[Matrix], V: list[Matrix], bias: Matrix, w: Weights, N: int
) -> Matrix:
    """W_o concat_n(attention_n) with K_n and V_n given; only the queries are slices of W_q X"""
    Q = split_heads([linear(x, *w.query) for x in X], N)
    taken = [attention(q, k, v, bias) for q, k, v in zip(Q, K, V, strict=True)]
    return [linear(row, *w.output) for row in merge_heads(taken)]


# encoder: one sentence at a time


def hides_padding(keep: list[bool], n_queries: int) -> Matrix:
    return [[0.0 if kept else -inf for kept in keep] for _ in range(n_queries)]


def hides_future(n_queries: int, n_keys: int) -> Matrix:
    """The queries are the last tokens: query s stands at r = s + R - S and sees keys up to r."""
    last = [s + n_keys - n_queries for s in range(n_queries)]
    return [[0.0 if r <= here else -inf for r in range(n_keys)] for here in last]


def embeddings(ids: list[int], types: list[int], w: Weights, eps: float) -> Matrix:
    """LayerNorm(word[id_s] + position[s] + type[t_s])"""
    words, kinds = embedding(ids, w.word_VD), embedding(types, w.type_TD)
    summed = [
        add(add(word, w.position_PD[s]), kind)
        for s, (word, kind) in enumerate(zip(words, kinds, strict=True))
    ]
    return [normed(x, w.norm, eps) for x in summed]


def feed_forward(x: Vector, w: Weights, hidden_act: str) -> Vector:
    """W_2 gelu(W_1 x + b_1) + b_2"""
    gelu = gelu_erf if hidden_act == "gelu" else gelu_tanh
    return linear([gelu(a) for a in linear(x, *w.intermediate)], *w.output)


def block(X: Matrix, bias: Matrix, w: Weights, N: int, eps: float, hidden_act: str) -> Matrix:
    """a = LayerNorm(x + Attention(x));  y = LayerNorm(a + FeedForward(a))"""
    attended = multi_head_attention(X, X, bias, w.attention, N)
    A = [normed(add(x, a), w.attention_norm, eps) for x, a in zip(X, attended, strict=True)]
    return [normed(add(a, feed_forward(a, w, hidden_act)), w.output_norm, eps) for a in A]


def encode(
    ids: list[int],
    keep: list[bool],
    types: list[int],
    w: Weights,
    N: int,
    eps: float,
    hidden_act: str,
) -> Matrix:
    """h_0 = embeddings, h_l = block_l(h_{l-1})"""
    X = embeddings(ids, types, w.embeddings, eps)
    for layer in w.blocks:
        X = block(X, hides_padding(keep, len(ids)), layer, N, eps, hidden_act)
    return X


# heads: one sentence X, or its pooled vector p


def pooled(X: Matrix, w: Weights) -> Vector:
    """tanh(W h_0 + b)"""
    return [tanh(a) for a in linear(X[0], *w)]


def mlm_logits(h: Vector, w: Weights, words: Matrix, eps: float, hidden_act: str) -> Vector:
    """t = LayerNorm(gelu(W h + b));  logit_v = t · word_v + bias_v"""
    gelu = gelu_erf if hidden_act == "gelu" else gelu_tanh
    t = normed([gelu(a) for a in linear(h, *w.transform)], w.norm, eps)
    return [dot(t, word) + b for word, b in zip(words, w.bias_V, strict=True)]


def span_logits(X: Matrix, w: Weights) -> tuple[Vector, Vector]:
    """start_s = w_0 · h_s + b_0,  end_s = w_1 · h_s + b_1"""
    (w_0, w_1), (b_0, b_1) = w
    return [dot(w_0, h) + b_0 for h in X], [dot(w_1, h) + b_1 for h in X]


def multiple_choice_logits(P: Matrix, w: Weights, C: int) -> Matrix:
    """logit_qc = w · p_{q C + c} + b"""
    flat = [linear(p, *w)[0] for p in P]
    return [[flat[q * C + c] for c in range(C)] for q in range(len(P) // C)]


# decoder: one sentence at a time and all its words at once; M the states of the encoder's text


def decoder_block(
    X: Matrix,
    M: Matrix,
    keep: list[bool],
    w: Weights,
    cross: Weights,
    N: int,
    eps: float,
    hidden_act: str,
) -> Matrix:
    """a = LN(x + Attention(x, x_1 … x_s)); c = LN(a + Attention(a, M)); y = LN(c + Feed(c))"""
    own = multi_head_attention(X, X, hides_future(len(X), len(X)), w.attention, N)
    A = [normed(add(x, o), w.attention_norm, eps) for x, o in zip(X, own, strict=True)]
    asked = multi_head_attention(A, M, hides_padding(keep, len(A)), cross.attention, N)
    C = [normed(add(a, o), cross.norm, eps) for a, o in zip(A, asked, strict=True)]
    return [normed(add(c, feed_forward(c, w, hidden_act)), w.output_norm, eps) for c in C]


def decoder_states(
    ids: list[int],
    M: Matrix,
    keep: list[bool],
    w: Weights,
    N: int,
    eps: float,
    hidden_act: str,
) -> list[Matrix]:
    """h_0 = embeddings of type 0, h_l = block_l(h_{l-1}): all h_l but h_0"""
    X, states = embeddings(ids, [0 for _ in ids], w.bert.embeddings, eps), []
    for layer, cross in zip(w.bert.blocks, w.cross, strict=True):
        X = decoder_block(X, M, keep, layer, cross, N, eps, hidden_act)
        states.append(X)
    return states


# quantization: one vector at a time


def quantized(x: Vector) -> tuple[list[int], float]:
    """q_i = the whole number nearest to x_i / s, halves to the even one;  s = max(|x|) / 127

    But s is at least 2^-126.
    """
    s = max(max(abs(x_i) for x_i in x) / 127, 2.0**-126)
    return [round(x_i / s) for x_i in x], s


def quantized_linear(x: Vector, Q: list[list[int]], s: Vector, b: Vector) -> Vector:
    """y_o = s_x s_o Σ_i q_i Q_oi + b_o"""
    q, s_x = quantized(x)
    sums = [sum(q_i * Q_oi for q_i, Q_oi in zip(q, Q_o, strict=True)) for Q_o in Q]
    return [s_x * s_o * sum_o + b_o for sum_o, s_o, b_o in zip(sums, s, b, strict=True)]
