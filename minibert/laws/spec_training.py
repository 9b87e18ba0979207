"""Every formula of training as loops over floats, in the notation of its paper.

As in `spec`: no tensors, nothing but `math`. Losses are for one sample unless their mean over
samples is the formula. Random choices come in as arguments, so that nothing here is random.

Letters: z logits · y label · p, q probabilities of teacher and student · T temperature ·
H hidden states and A attention scores of the student, U and B those of the teacher · X, Y queries,
keys or values of the student, U, V those of the teacher, heads side by side · θ parameter ·
g gradient · η learning rate · w, T end of warm-up, end of training · s sparsity · S score.
"""

from collections.abc import Callable
from math import cos, erf, exp, floor, fsum, hypot, inf, log, pi, sqrt

from minibert.laws.spec import Matrix, Vector, Weights, dot, linear, log_softmax

IGNORED = -100


# losses


def cross_entropy(Z: Matrix, y: list[int]) -> float:
    """1/n Σ_i -log softmax(z_i)[y_i] over the n rows with a label; 0 without one"""
    costs = [-log_softmax(z_i)[y_i] for z_i, y_i in zip(Z, y, strict=True) if y_i != IGNORED]
    return fsum(costs) / len(costs) if costs else 0.0


def smoothed_cross_entropy(Z: Matrix, y: list[int], ε: float) -> float:
    """1/n Σ_i Σ_c -q_ic log softmax(z_i)[c],  q_ic = (1 - ε) [c = y_i] + ε/C; 0 without a label"""
    costs = []
    for z_i, y_i in zip(Z, y, strict=True):
        if y_i != IGNORED:
            q = [(1 - ε) * (c == y_i) + ε / len(z_i) for c in range(len(z_i))]
            pairs = zip(q, log_softmax(z_i), strict=True)
            costs.append(-fsum(q_c * log_p_c for q_c, log_p_c in pairs if q_c > 0))
    return fsum(costs) / len(costs) if costs else 0.0


def mlm_loss(Z: list[Matrix], y: list[list[int]]) -> float:
    """`cross_entropy` over the tokens of all sentences together"""
    return cross_entropy([z for row in Z for z in row], [label for row in y for label in row])


def span_loss(start: Matrix, end: Matrix, first: list[int], last: list[int]) -> float:
    """(CE(start, first) + CE(end, last)) / 2"""
    return (cross_entropy(start, first) + cross_entropy(end, last)) / 2


def squared_error(a: Vector, b: Vector) -> float:
    """1/B Σ_b (a_b - b_b)²"""
    return fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def kl_divergence(teacher: Vector, student: Vector, T: float) -> float:
    """Σ_c p_c (log p_c - log q_c), a class with p_c = 0 adding nothing"""
    log_p, log_q = log_softmax([z / T for z in teacher]), log_softmax([z / T for z in student])
    return fsum(exp(a) * (a - b) for a, b in zip(log_p, log_q, strict=True) if a > -inf)


def soft_cross_entropy(teacher: Vector, student: Vector, T: float) -> float:
    """- Σ_c p_c log q_c"""
    log_p, log_q = log_softmax([z / T for z in teacher]), log_softmax([z / T for z in student])
    return -fsum(exp(a) * b for a, b in zip(log_p, log_q, strict=True) if a > -inf)


def l2_penalty(θ: Vector, λ: float) -> float:
    """λ Σ_i θ_i²"""
    return λ * fsum(x * x for x in θ)


def sparse_training_loss(losses: Vector, θ: Vector, λ: float) -> float:
    """Σ_i L_i + λ ‖θ‖²"""
    return fsum(losses) + l2_penalty(θ, λ)


# distillation: one sample


def layer_map(M: int, N: int, rule: str) -> list[int]:
    """g(m) for m = 1 … M; uniform is the first layer that lies at least m/M of the way up"""
    if rule == "uniform":
        return [next(g for g in range(1, N + 1) if g * M >= m * N) for m in range(1, M + 1)]
    return list(range(1, N + 1))[-M:] if rule == "top" else list(range(1, N + 1))[:M]


def grouped_heads(B: list[Matrix], N: int) -> list[Matrix]:
    """Head n of N is the element-wise mean of the n-th group of H/N of the teacher's H heads"""
    size = len(B) // N
    groups = [B[n * size : (n + 1) * size] for n in range(N)]
    return [
        [
            [fsum(head[s][r] for head in group) / size for r in range(len(B[0][0]))]
            for s in range(len(B[0]))
        ]
        for group in groups
    ]


def hidden_loss(
    H: Matrix, U: Matrix, projection: tuple[Matrix, Vector] | None, keep: list[bool], mode: str
) -> float:
    """1/(n E) Σ_s ‖W h_s + b - u_s‖² over the kept tokens, or over all in mode tinybert"""
    costs = []
    for h, u, kept in zip(H, U, keep, strict=True):
        if kept or mode == "tinybert":
            mapped = linear(h, *projection) if projection else h
            costs += [(a - b) ** 2 for a, b in zip(mapped, u, strict=True)]
    return fsum(costs) / len(costs) if costs else 0.0


def attention_loss(A: list[Matrix], B: list[Matrix], keep: list[bool], mode: str) -> float:
    """Mean of (a - b)² over the pairs of kept tokens.

    Mode tinybert: over all pairs, where a score counts as 0 if its key is hidden or if it is at
    most -100.
    """

    def cut(score: float, r: int) -> float:
        return score if keep[r] and score > -100 else 0.0

    costs = []
    for a, b in zip(A, grouped_heads(B, len(A)), strict=True):
        for s in range(len(keep)):
            for r in range(len(keep)):
                if mode == "tinybert":
                    costs.append((cut(a[s][r], r) - cut(b[s][r], r)) ** 2)
                elif keep[s] and keep[r]:
                    costs.append((a[s][r] - b[s][r]) ** 2)
    return fsum(costs) / len(costs) if costs else 0.0


def relation_loss(
    X: Matrix, Y: Matrix, U: Matrix, V: Matrix, keep: list[bool], heads: int
) -> float:
    """1/(heads n) Σ_a Σ_s KL(p_as ‖ q_as) over the n kept tokens s.

    Over the kept tokens r, p_as = softmax(u_as · v_ar / √K) and q_as = softmax(x_as · y_ar / √K),
    each with the K of its own side; x_a is the a-th of `heads` slices of x.
    """
    kept = [s for s, shown in enumerate(keep) if shown]

    def scores(left: Matrix, right: Matrix, a: int, s: int) -> Vector:
        K = len(left[s]) // heads
        part = slice(a * K, (a + 1) * K)
        return [dot(left[s][part], right[r][part]) / sqrt(K) for r in kept]

    costs = [
        kl_divergence(scores(U, V, a, s), scores(X, Y, a, s), 1) for a in range(heads) for s in kept
    ]
    return fsum(costs) / len(costs) if costs else 0.0


def cosine(x: Vector, y: Vector) -> float:
    """x · y / (‖x‖ ‖y‖), 0 where one of them is 0"""
    lengths = hypot(*x) * hypot(*y)
    return dot(x, y) / lengths if lengths else 0.0


def cosine_loss(
    H: Matrix, U: Matrix, projection: tuple[Matrix, Vector] | None, keep: list[bool]
) -> float:
    """1/n Σ_s (1 - cos(W h_s + b, u_s)) over the kept tokens"""
    costs = [
        1 - cosine(linear(h, *projection) if projection else h, u)
        for h, u, kept in zip(H, U, keep, strict=True)
        if kept
    ]
    return fsum(costs) / len(costs) if costs else 0.0


def patient_loss(H: Matrix, U: Matrix, projection: tuple[Matrix, Vector] | None) -> float:
    """‖x/‖x‖ - u/‖u‖‖² for x = W h + b and u of the first token; a zero vector stays zero"""
    x, u = (linear(H[0], *projection) if projection else H[0]), U[0]
    a, b = hypot(*x) or 1.0, hypot(*u) or 1.0
    return fsum((x_i / a - u_i / b) ** 2 for x_i, u_i in zip(x, u, strict=True))


def prediction_loss(
    student: Vector, teacher: Vector, T: float, mode: str, squared: bool = False
) -> float:
    """Soft cross-entropy, divided by C in mode tinybert, times T² if squared.

    For one output, the squared difference.
    """
    if len(student) == 1:
        return (student[0] - teacher[0]) ** 2
    share = len(student) if mode == "tinybert" else 1
    return soft_cross_entropy(teacher, student, T) * (T**2 if squared else 1) / share


def label_loss(z: Vector, y: float) -> float:
    """-log softmax(z)[y], 0 for an ignored label; (z - y)² for one output"""
    if len(z) == 1:
        return (z[0] - y) ** 2
    return 0.0 if y == IGNORED else -log_softmax(z)[int(y)]


def intermediate_terms(
    student: tuple[list[Matrix], list[list[Matrix]]],
    teacher: tuple[list[Matrix], list[list[Matrix]]],
    keep: list[bool],
    g: list[int],
    projection: tuple[Matrix, Vector] | None,
    mode: str,
) -> Vector:
    """Embedding, hidden and attention term; either side gives h_0 … h_L and A_1 … A_L"""
    (H, A), (U, B) = student, teacher
    embedding = hidden_loss(H[0], U[0], projection, keep, mode)
    pairs = list(enumerate(g, 1))
    hidden = fsum(hidden_loss(H[m], U[g_m], projection, keep, mode) for m, g_m in pairs)
    attention = fsum(attention_loss(A[m - 1], B[g_m - 1], keep, mode) for m, g_m in pairs)
    return [embedding, hidden, attention]


def last_layer_terms(
    student: tuple[list[Matrix], dict[str, Matrix]],
    teacher: tuple[list[Matrix], dict[str, Matrix]],
    keep: list[bool],
    g: list[int],
    projection: tuple[Matrix, Vector] | None,
    heads: int,
    relation_heads: int,
) -> Vector:
    """Cosine and patient terms, and the relation terms of MiniLM's two papers.

    Either side gives h_0 … h_L, and under the letters Q, K, V those of layer L or g(L).
    """
    (H, own), (U, other) = student, teacher
    L = len(g)

    def related(x: str, y: str, a: int) -> float:
        return relation_loss(own[x], own[y], other[x], other[y], keep, a)

    return [
        cosine_loss(H[L], U[g[L - 1]], projection, keep),
        fsum(patient_loss(H[m], U[g[m - 1]], projection) for m in range(1, L)),
        related("Q", "K", heads) + related("V", "V", heads),
        fsum(related(x, x, relation_heads) for x in "QKV"),
    ]


def distillation_loss(terms: list[float | None], weights: Vector) -> float:
    """Σ_k weight_k term_k, a missing term adding nothing"""
    return fsum(w * term for w, term in zip(weights, terms, strict=True) if term is not None)


# optim: one parameter


def adam_path(
    θ: float,
    gradients: Vector,
    η: float,
    β1: float,
    β2: float,
    ε: float,
    corrected: bool,
    decay: float,
    decoupled: bool,
) -> Vector:
    """θ after each step; the running means written out as the sums over all past gradients.

    m_t = (1 - β1) Σ_i β1^(t-i) g_i,  v_t = (1 - β2) Σ_i β2^(t-i) g_i²
    """
    path, past = [], []
    for t, g in enumerate(gradients, 1):
        past.append(g + (0 if decoupled else decay * θ))
        m = (1 - β1) * fsum(β1 ** (t - i) * g_i for i, g_i in enumerate(past, 1))
        v = (1 - β2) * fsum(β2 ** (t - i) * g_i**2 for i, g_i in enumerate(past, 1))
        if corrected:
            m, v = m / (1 - β1**t), v / (1 - β2**t)
        θ = θ - η * m / (sqrt(v) + ε) - (η * decay * θ if decoupled else 0)
        path.append(θ)
    return path


def adam_step(
    θ: float,
    g: float,
    m: float,
    v: float,
    t: int,
    η: float,
    β1: float,
    β2: float,
    ε: float,
    corrected: bool,
    decay: float,
    decoupled: bool,
) -> tuple[float, float, float]:
    """Step t alone, from the running means before it: the new θ, m and v"""
    g = g if decoupled else g + decay * θ
    m, v = β1 * m + (1 - β1) * g, β2 * v + (1 - β2) * g**2
    m_hat, v_hat = (m / (1 - β1**t), v / (1 - β2**t)) if corrected else (m, v)
    step = m_hat / (sqrt(v_hat) + ε) + (decay * θ if decoupled else 0)
    return θ - η * step, m, v


def global_norm(gradients: list[Vector]) -> float:
    """√ Σ g² over everything"""
    return hypot(*(x for part in gradients for x in part))


def clip_by_global_norm(gradients: list[Vector], c: float) -> list[Vector]:
    """g min(1, c / ‖g‖)"""
    norm = global_norm(gradients)
    return [[x * c / norm if norm > c else x for x in part] for part in gradients]


def linear_schedule(t: int, w: int, T: int) -> float:
    """The lower of two lines: through (0, 0) and (w, 1), and through (w, 1) and (T, 0)"""
    up = t / w if w else inf
    down = max(0, T - t) / (T - w) if w < T else (inf if t < w else 0.0)
    return min(up, down)


def google_schedule(t: int, w: int, T: int) -> float:
    """Polynomial decay of power 1 over all T steps, of which the first w are overwritten"""
    return t / w if t < w else (1 - min(t, T) / T if T else 0.0)


def constant_schedule(t: int, w: int, T: int) -> float:
    return min(t, w) / w if w else 1.0


def cosine_schedule(t: int, w: int, T: int) -> float:
    """cos²(π/2 x) for the part x of the way from w to T"""
    if t < w:
        return t / w
    return cos(pi / 2 * (t - w) / (T - w)) ** 2 if t < T else 0.0


def inverse_square_root_schedule(t: int, w: int, T: int) -> float:
    """min(t^(-1/2), t w^(-3/2)) √w"""
    w, t = max(w, 1), t if w else max(t, 1)
    return min(1 / sqrt(t), t * w**-1.5) * sqrt(w) if t else 0.0


# sparsity


def cubic_sparsity(t: int, t_0: int, t_1: int, s_f: float, s_i: float) -> float:
    """s_f + (s_i - s_f) (1 - x)³, x the fraction of the way from t_0 to t_1 that is done"""
    x = 1.0 if t >= t_1 else 0.0 if t <= t_0 else (t - t_0) / (t_1 - t_0)
    return s_f + (s_i - s_f) * (1 - x) ** 3


def kept(x: Vector, s: float) -> list[bool]:
    """All but the round(s n) smallest; of equal numbers the last are kept"""
    rising = sorted(range(len(x)), key=lambda i: (x[i], i))
    gone = rising[: round(s * len(x))]
    return [i not in gone for i in range(len(x))]


def kept_of_groups(x: Vector, n: int, m: int) -> list[bool]:
    """The n largest of x_0 … x_m-1, those of x_m … x_2m-1, and so on"""
    found = []
    for g in range(0, len(x), m):
        largest = sorted(range(g, g + m), key=lambda i: (x[i], i))[m - n :]
        found += [i in largest for i in range(g, g + m)]
    return found


def soft_threshold(w: float, t: float) -> float:
    """w - t above t, w + t below -t, 0 between"""
    return w - t if w > t else w + t if w < -t else 0.0


def movement_score(S: float, w: float, g: float, η: float) -> float:
    """S - η w g"""
    return S - η * w * g


def gate_gradients(W: Matrix, dW: Matrix, G: int) -> Vector:
    """Σ_o Σ_i W_oi dW_oi over the inputs i of each of G groups that lie side by side"""
    size = len(W[0]) // G
    groups = [range(g * size, (g + 1) * size) for g in range(G)]
    rows = list(zip(W, dW, strict=True))
    return [fsum(W_o[i] * dW_o[i] for W_o, dW_o in rows for i in group) for group in groups]


def keep_heads(w: Weights, heads: list[int], N: int) -> Weights:
    """Rows n K … (n + 1) K - 1 of W_q, W_k, W_v and their biases, and those columns of W_o"""
    K = len(w.query.bias_O) // N
    kept_rows = [n * K + k for n in heads for k in range(K)]

    def rows(part: Weights) -> Weights:
        W, b = part
        return type(part)([W[i] for i in kept_rows], [b[i] for i in kept_rows])

    W_o, b_o = w.output
    output = type(w.output)([[row[i] for i in kept_rows] for row in W_o], b_o)
    return type(w)(rows(w.query), rows(w.key), rows(w.value), output)


def keep_units(w: Weights, units: list[int]) -> Weights:
    """Rows of W_1 and b_1, columns of W_2"""
    (W_1, b_1), (W_2, b_2) = w.intermediate, w.output
    return w._replace(
        intermediate=type(w.output)([W_1[f] for f in units], [b_1[f] for f in units]),
        output=type(w.output)([[row[f] for f in units] for row in W_2], b_2),
    )


def fewest_bits(n: int, z: int) -> float:
    """- Σ n_k log₂(n_k / n) over the numbers n_k of zeros and of ones"""
    return -fsum(n_k * log(n_k / n) / log(2) for n_k in (z, n - z) if n_k)


# training: rows, each with its count


def mean_loss(losses: Vector, c: list[int], θ: Vector, λ: float) -> float:
    """Σ_r c_r L_r / Σ_r c_r + λ ‖θ‖²; the mean over nothing is 0"""
    total = sum(c)
    mean = fsum(c_r * L_r for c_r, L_r in zip(c, losses, strict=True)) / total if total else 0.0
    return mean + l2_penalty(θ, λ)


def mean_gradient(gradients: list[Vector], c: list[int], θ: Vector, λ: float) -> Vector:
    """Σ_r c_r g_r / Σ_r c_r + 2 λ θ, number by number"""
    total = sum(c) or 1
    columns = zip(*gradients, strict=True)
    sums = [fsum(c_r * g_r for c_r, g_r in zip(c, column, strict=True)) for column in columns]
    return [s / total + 2 * λ * x for s, x in zip(sums, θ, strict=True)]


# parameters: one number


def truncated_normal(u: float, std: float) -> float:
    """std x where a share u of the normal distribution between -2 and 2 lies below x.

    Found by halving the interval, so that nothing but the distribution function is needed.
    """
    wanted = (2 * u - 1) * erf(sqrt(2))
    low, high = -2.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if erf(middle / sqrt(2)) < wanted else (low, middle)
    return std * middle


# masking


def masked_count(n: int, rate: float, most: int) -> int:
    """rate n to the nearest whole number, halves to the even one; from 1 to most"""
    below = floor(rate * n)
    rest = rate * n - below
    rounded = below + (rest > 0.5 or (rest == 0.5 and below % 2 == 1))
    return min(most, max(1, rounded))


def chosen_tokens(groups: list[int], count: int, order: list[int]) -> list[bool]:
    """Take the groups in the given order, each whole, if it still fits"""
    numbers = sorted(set(groups) - {-1})
    taken: list[int] = []
    for number in (numbers[i] for i in order):
        members = [s for s, group in enumerate(groups) if group == number]
        if len(taken) + len(members) <= count:
            taken += members
    return [s in taken for s in range(len(groups))]


def words(starts: list[bool], maskable: list[bool]) -> list[list[int]]:
    """The positions of each word's pieces, words of special tokens left out"""
    found: list[list[int]] = []
    for s, start in enumerate(starts):
        if start or not found:
            found.append([])
        found[-1].append(s)
    return [kept for word in found if (kept := [s for s in word if maskable[s]])]


def replaced_tokens(
    ids: list[int], chosen: list[bool], draws: Vector, random_ids: list[int], mask_id: int
) -> tuple[list[int], list[int]]:
    hidden, labels = list(ids), [IGNORED] * len(ids)
    for s, _ in enumerate(ids):
        if chosen[s]:
            labels[s] = ids[s]
            if draws[s] < 0.8:
                hidden[s] = mask_id
            elif draws[s] < 0.9:
                hidden[s] = random_ids[s]
    return hidden, labels


def truncated_pair(
    first: list[int], second: list[int], most: int, at_front: Callable[[], bool]
) -> tuple[list[int], list[int]]:
    """Drop one token of the longer text, the second if equal, until both fit"""
    first, second = list(first), list(second)
    while len(first) + len(second) > most:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if at_front() else -1)
    return first, second


def next_sentence_pairs(
    documents: list[list[list[int]]],
    most: int,
    short_rate: float,
    integer: Callable[[int, int], int],
    chance: Callable[[float], bool],
) -> list[tuple[list[int], list[int], int]]:
    """Collect sentences; when they fill the target or the document ends, make a pair of them."""
    pairs = []
    for number, document in enumerate(documents):
        chunk: list[list[int]] = []
        waiting, target = list(document), 0
        while waiting:
            if not chunk:
                target = integer(2, most) if chance(short_rate) else most
            chunk.append(waiting.pop(0))
            if waiting and sum(len(sentence) for sentence in chunk) < target:
                continue
            border = integer(1, len(chunk) - 1) if len(chunk) > 1 else 1
            first = [token for sentence in chunk[:border] for token in sentence]
            if len(chunk) == 1 or chance(0.5):
                others = [other for i, other in enumerate(documents) if i != number]
                source, label = others[integer(0, len(others) - 1)], 1
                second: list[int] = []
                for sentence in source[integer(0, len(source) - 1) :]:
                    second = second + sentence
                    if len(second) >= target - len(first):
                        break
                waiting = chunk[border:] + waiting
            else:
                second, label = [token for sentence in chunk[border:] for token in sentence], 0
            chunk = []
            kept = truncated_pair(first, second, target, lambda: chance(0.5))
            pairs.append((*kept, label))
    return pairs
