"""Losses: how far an answer is from the right one, as one number to minimise.

B batch · S tokens · M rows that are scored · C classes · V words · P parameters. All are computed
in at least float32; eps under Accuracy is of that precision: 2^-23, or 2^-52 in float64. A label
of -100 means "do not count this row", as in every PyTorch data set.
"""

import torch
from torch import Tensor

from minibert.functional import at_least_float32, log_softmax


def cross_entropy(logits_MC: Tensor, labels_M: Tensor) -> Tensor:
    """How surprised the model is by the right class, on average over the rows that count.

    Formula
        L = 1/n Σ_i -log softmax(logits_i)[label_i] over the n rows whose label is not -100
        With no row to count, L = 0.

    Shapes
        logits_MC  float [M, C]
        labels_M   int64 [M]  0 <= label < C, or -100
        return     float []   uniform logits give log C

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.1.

    Differs
        torch's version is NaN (0/0) where no row counts.

    Accuracy
        |error| <= (4 + C/2 + (2 + n/2) L) eps

    Raises
        ValueError  a label is neither -100 nor one of the C classes.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([3, -100]))
    tensor(1.3863)
    """
    _check_labels("cross_entropy", logits_MC, labels_M)
    log_probabilities_MC = log_softmax(at_least_float32(logits_MC))
    return _mean_of_counted(_surprise(log_probabilities_MC, labels_M), labels_M)


def _check_labels(name: str, logits_MC: Tensor, labels_M: Tensor) -> None:
    n_classes = logits_MC.shape[1]
    if bool(((labels_M != -100) & ((labels_M < 0) | (labels_M >= n_classes))).any()):
        raise ValueError(
            f"{name}: labels run from {int(labels_M.min())} to {int(labels_M.max())}, "
            f"but must be -100 or 0 to {n_classes - 1}"
        )


def _surprise(log_probabilities_MC: Tensor, labels_M: Tensor) -> Tensor:
    """-log p of the label, or of class 0 in a row that does not count."""
    picked_M = torch.where(labels_M != -100, labels_M, 0)
    return -log_probabilities_MC.gather(1, picked_M[:, None])[:, 0]


def _mean_of_counted(losses_M: Tensor, labels_M: Tensor) -> Tensor:
    counted_M = labels_M != -100
    return torch.where(counted_M, losses_M, 0).sum() / counted_M.sum().clamp(min=1)


def smoothed_cross_entropy(logits_MC: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing: a little of each label is spread evenly over all classes.

    Formula
        L = 1/n Σ_i ((1 - ε) (-log p_i[label_i]) + ε/C Σ_c -log p_ic) over the n rows that count
        = the cross-entropy against q = (1 - ε) onehot + ε/C; its gradient is (p - q)/n, its least
        value the entropy of q. ε = 0 is `cross_entropy`; with no row to count, L = 0.

    Shapes
        logits_MC  float [M, C]
        labels_M   int64 [M]  0 <= label < C, or -100
        smoothing  float 0 <= ε < 1
        return     float []   infinite where a class is impossible (-inf) and ε > 0

    Source
        Szegedy et al. 2016, arXiv:1512.00567, section 7; Vaswani et al. 2017, section 5.4.

    Differs
        fairseq gives ε/(C - 1) to each of the other classes; torch's is NaN where no row counts.

    Accuracy
        |error| <= (4 + C/2 + (3 + (C + n)/2) L) eps

    Raises
        ValueError  the smoothing is not in [0, 1), or a label is neither -100 nor a class.

    >>> smoothed_cross_entropy(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), 0.5)
    tensor(0.6269)
    """
    if not 0 <= smoothing < 1:
        raise ValueError(
            f"smoothed_cross_entropy: the smoothing is {smoothing}, but must be in [0, 1)"
        )
    _check_labels("smoothed_cross_entropy", logits_MC, labels_M)
    log_probabilities_MC = log_softmax(at_least_float32(logits_MC))
    losses_M = _surprise(log_probabilities_MC, labels_M)
    if smoothing > 0:  # 0 times the infinity of an impossible class would be NaN
        evenly_M = -log_probabilities_MC.mean(1)
        losses_M = (1 - smoothing) * losses_M + smoothing * evenly_M
    return _mean_of_counted(losses_M, labels_M)


def mlm_loss(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Cross-entropy of the words that were chosen for masking, and of no others.

    Formula
        L = 1/n Σ -log softmax(logits_bs)[label_bs] over the n chosen tokens,
        including those replaced by a random word or left as they were

    Shapes
        logits_BSV  float [B, S, V]
        labels_BS   int64 [B, S]  the original word where one was chosen, -100 elsewhere
        return      float []

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1.

    Differs
        google-research/bert divides by n + 1e-5; pytorchic-bert by the largest possible n.

    Accuracy
        |error| <= (4 + V/2 + (2 + n/2) L) eps

    Raises
        ValueError  a label is neither -100 nor one of the classes.

    >>> mlm_loss(torch.zeros(1, 3, 8), torch.tensor([[-100, 5, -100]]))
    tensor(2.0794)
    """
    return cross_entropy(logits_BSV.reshape(-1, logits_BSV.shape[-1]), labels_BS.reshape(-1))


def nsp_loss(logits_B2: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy of "follows" (0) against "random" (1); both classes count.

    Formula
        L = 1/B Σ_b -log softmax(logits_b)[label_b]

    Shapes
        logits_B2  float [B, 2]
        labels_B   int64 [B]  0 or 1
        return     float []

    Source
        google-research/bert, run_pretraining.py (get_next_sentence_output).

    Differs
        codertimo/BERT-pytorch ignores label 0 here, so one class is never learned (issue 32).

    Accuracy
        |error| <= (5 + (2 + B/2) L) eps

    Raises
        ValueError  a label is neither -100 nor one of the classes.

    >>> nsp_loss(torch.zeros(2, 2), torch.tensor([0, 1]))
    tensor(0.6931)
    """
    return cross_entropy(logits_B2, labels_B)


def span_loss(start_BS: Tensor, end_BS: Tensor, first_B: Tensor, last_B: Tensor) -> Tensor:
    """Cross-entropy of where the answer starts and of where it ends, averaged.

    Formula
        L = (CE(start, first) + CE(end, last)) / 2

    Shapes
        start_BS, end_BS  float [B, S]  from `span_logits`
        first_B, last_B   int64 [B]     token positions; -100 where the answer was cut off
        return            float []

    Source
        google-research/bert, run_squad.py.

    Accuracy
        |error| <= the mean of what `cross_entropy` promises for either end, and L/2 eps

    Raises
        ValueError  a label is neither -100 nor one of the classes.

    >>> zero_BS, two_B = torch.zeros(1, 4), torch.tensor([2])
    >>> span_loss(zero_BS, zero_BS, two_B, two_B)
    tensor(1.3863)
    """
    return (cross_entropy(start_BS, first_B) + cross_entropy(end_BS, last_B)) / 2


def squared_error(predicted_B: Tensor, target_B: Tensor) -> Tensor:
    """The mean squared difference.

    Formula
        L = 1/B Σ_b (predicted_b - target_b)²

    Shapes
        predicted_B  float [B]
        target_B     float [B]
        return       float []

    Source
        `transformers`' problem_type "regression"; STS-B.

    Accuracy
        |error| <= (2 + B/2) L eps, and the smallest normal number

    Raises
        ValueError  the shapes differ: broadcasting [B, 1] against [B] would compare all pairs.

    >>> squared_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    tensor(2.)
    """
    if predicted_B.shape != target_B.shape:
        raise ValueError(
            f"squared_error: shapes {list(predicted_B.shape)} and {list(target_B.shape)} differ"
        )
    difference_B = at_least_float32(predicted_B) - at_least_float32(target_B)
    return (difference_B * difference_B).mean()


def kl_divergence(teacher_BC: Tensor, student_BC: Tensor, temperature: float = 1.0) -> Tensor:
    """How many nats it costs to use the student's distribution in place of the teacher's.

    Formula
        KL_b = Σ_c p_c (log p_c - log q_c),  p = softmax(teacher/T), q = softmax(student/T)
        0 exactly where the two agree; p_c = 0 adds 0.

    Shapes
        teacher_BC   float [B, C]  logits; no gradient flows here
        student_BC   float [B, C]  logits
        temperature  float > 0
        return       float [B]

    Source
        Kullback and Leibler 1951; for distillation Hinton et al. 2015, arXiv:1503.02531.

    Differs
        F.kl_div's default divides by B times C, not by B.

    Accuracy
        |error| <= (7 + C + z) eps Σ_c p_c (1 + |log p_c|) (1 + |log p_c| + |log q_c|),
        z = max |logit| / T

    Raises
        ValueError  the temperature is not above 0, or the shapes differ.

    >>> kl_divergence(torch.zeros(1, 3), torch.ones(1, 3))
    tensor([0.])
    """
    _check_logits("kl_divergence", teacher_BC, student_BC, temperature)
    log_p_BC = log_softmax(at_least_float32(teacher_BC.detach()) / temperature)
    log_q_BC = log_softmax(at_least_float32(student_BC) / temperature)
    p_BC = torch.exp(log_p_BC)
    return torch.where(p_BC > 0, p_BC * (log_p_BC - log_q_BC), 0).sum(1)


def soft_cross_entropy(
    teacher_BC: Tensor, student_BC: Tensor, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy against the teacher's whole distribution instead of one label.

    Formula
        CE_b = - Σ_c p_c log q_c,  p = softmax(teacher/T), q = softmax(student/T)
        = KL + the teacher's entropy. T > 1 flattens both, so that small probabilities count more.
        The gradient for the student's logits is (q - p) / T, and q - p itself shrinks like 1/T, so
        T² times the loss keeps the gradient's scale, for instance beside a loss on labels.

    Shapes
        teacher_BC   float [B, C]  logits; no gradient flows here
        student_BC   float [B, C]  logits
        temperature  float > 0, the same on both sides
        return       float [B]

    Source
        Jiao et al. 2020, arXiv:1909.10351, section 3.1 (prediction layer); Hinton et al. 2015.

    Differs
        TinyBERT's code also takes the mean over the classes, so its loss is 1/C of this one.

    Accuracy
        |error| <= the bound of `kl_divergence`

    Raises
        ValueError  the temperature is not above 0, or the shapes differ.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.6931])
    """
    _check_logits("soft_cross_entropy", teacher_BC, student_BC, temperature)
    log_p_BC = log_softmax(at_least_float32(teacher_BC.detach()) / temperature)
    log_q_BC = log_softmax(at_least_float32(student_BC) / temperature)
    p_BC = torch.exp(log_p_BC)
    return -torch.where(p_BC > 0, p_BC * log_q_BC, 0).sum(1)


def _check_logits(name: str, teacher: Tensor, student: Tensor, temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"{name}: the temperature is {temperature}, but must be above 0")
    if teacher.shape != student.shape:
        raise ValueError(
            f"{name}: teacher {list(teacher.shape)} and student {list(student.shape)} differ"
        )


def l2_penalty(parameters_P: Tensor, strength: float) -> Tensor:
    """A penalty for large weights.

    Formula
        penalty = λ ‖θ‖² = λ Σ_i θ_i²,  gradient 2 λ θ
        The gradient shrinks in proportion to the weight, so weights approach zero but never
        reach it: this regularises, but gives no zeros.

    Shapes
        parameters_P  float [...]  any shape; usually the flat tensor
        strength      float >= 0   λ
        return        float []

    Source
        Tikhonov regularisation; Goodfellow et al. 2016, Deep Learning, section 7.1.1.

    Differs
        weight decay in Adam's papers is λ/2 ‖θ‖² or no loss at all; see `optim.adam_step`.

    Accuracy
        |error| <= (2 + P/2) eps times the penalty, and the smallest normal number

    >>> l2_penalty(torch.tensor([3.0, 4.0]), 0.1)
    tensor(2.5000)
    """
    wide_P = at_least_float32(parameters_P)
    return strength * (wide_P * wide_P).sum()


def sparse_training_loss(losses_B: Tensor, parameters_P: Tensor, strength: float) -> Tensor:
    """"Sparse training": the losses of all samples plus a penalty for large weights.

    Formula
        L = Σ_i L_i(s_i, t_i) + λ ‖θ‖²
        It is trained with a falling learning rate (`optim.linear_schedule`). Despite its name this
        never makes a weight exactly zero: L2 only shrinks. Zeros need pruning or an L1 penalty.

    Shapes
        losses_B      float [B]    one loss per sample
        parameters_P  float [...]
        strength      float >= 0   λ
        return        float []

    Source
        The sum is TinyBERT's L(s, t) = Σ_i L_i(s_i, t_i), Jiao et al. 2020, with an L2 term.

    Accuracy
        |error| <= (3 + max(B, P)/2) L eps, and the smallest normal number, for losses >= 0

    >>> sparse_training_loss(torch.tensor([1.0, 2.0]), torch.tensor([2.0]), 0.5)
    tensor(5.)
    """
    return at_least_float32(losses_B).sum() + l2_penalty(parameters_P, strength)
