"""Laws of training: a batch in parts has the gradient of the whole, and a teacher does not learn.

The loop and the objectives belong to the workshop, not to the book, but their usual mistakes are
as silent as those of any formula: the loss still falls.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.data.tokenizer import Encoding
from minibert.distillation import TermWeights, distillation_loss, intermediate_terms
from minibert.kernels.encoder import encode_traced
from minibert.laws import spec as spec_of_encoder
from minibert.laws import spec_training as spec
from minibert.laws.attention import parts_of, with_parts
from minibert.laws.encoder import random_weights, wide_lists
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    fresh,
    gradients,
    normal,
    order_of,
    seed_of,
    slope_of_spec,
    slopes,
)
from minibert.parameters import BertWeights, LinearWeights, flatten, named_tensors, with_tensors
from minibert.training.loop import TrainingOptions, accumulate_gradient
from minibert.training.objectives import ComputedStates, IntermediateObjective
from minibert.training.trainable import Trainable

# --------------------------------------------------------------------------- accumulate_gradient


class CountedRows:
    """The smallest objective there is: c_r ‖W x_r + b‖², averaged over what is counted.

    A count is the weight of a row: its number of masked words, or 1 if the mean is over rows.
    """

    def __init__(self, x_RI: Tensor, counts: list[int]) -> None:
        self.x_RI, self.counts = x_RI, counts

    def order(self, epoch: int) -> list[list[int]]:
        return [list(range(len(self.counts)))]

    def counted(self, rows: Sequence[int]) -> int:
        return sum(self.counts[row] for row in rows)

    def terms(self, rows: Sequence[int], weights: Any, generator: Any = None) -> dict[str, Tensor]:
        y_RO = self.x_RI[list(rows)] @ weights.weight_OI.T + weights.bias_O
        counts_R = as_tensor([self.counts[row] for row in rows])
        loss = (counts_R * (y_RO * y_RO).sum(-1)).sum() / max(self.counted(rows), 1)
        return {"loss": loss, "double": 2 * loss}


class Batch(NamedTuple):
    """A batch, the number of parts that it is cut into, and the factor λ of the L2 penalty."""

    objective: CountedRows
    weights: LinearWeights
    parts: int
    l2: float


def batch_of(draw: Draw, most: int = 5, least: int = 0) -> Batch:
    """1 to 11 rows of unequal counts, 0 among them, in as many parts or more."""
    seed, n = seed_of(draw), draw.integer(1, 11)
    counts = [draw.integer(least, most) for _ in range(n)]
    weights = LinearWeights(normal(seed + 1, 2, 3), normal(seed + 2, 2))
    objective = CountedRows(normal(seed, n, 3), counts)
    return Batch(objective, weights, draw.integer(1, 12), draw.choice([0.0, 0.01, 0.5]))


def rows_of(case: Batch) -> list[int]:
    return list(range(len(case.objective.counts)))


class Found(NamedTuple):
    gradient_P: Tensor
    terms: dict[str, float]
    trainable: Trainable


def found(
    formula: Callable[..., Any],
    case: Batch,
    parts: int | None = None,
    rows: Sequence[int] | None = None,
    left_over: float = 0.0,
) -> Found:
    trainable = Trainable(case.weights)
    trainable.gradient_P.fill_(left_over)
    options = TrainingOptions(
        dtype=torch.float64, accumulate=case.parts if parts is None else parts, l2=case.l2
    )
    chosen = rows_of(case) if rows is None else rows
    terms = formula(case.objective, chosen, trainable, options, None)
    return Found(trainable.gradient_P, terms, trainable)


def size_of(case: Batch) -> float:
    """At least as large as any number of a row's gradient 2 y xᵀ and as the loss of a row."""
    x, (weight, bias) = case.objective.x_RI.abs(), case.weights
    y = x @ weight.abs().T + bias.abs()
    return 1 + 2 * float(y.max()) * max(1.0, float(x.max()), float(y.max()))


ACCUMULATE = Proof(
    accumulate_gradient,
    batch_of,
    without={"accuracy": "only the gradient of its objective is rounded"},
    cost=2,
)


def spec_of_loss(case: Batch) -> Callable[[list[list[float]], list[float]], list[float]]:
    def loss(weight, bias):
        rows = [spec.linear(x, weight, bias) for x in case.objective.x_RI.tolist()]
        losses = [math.fsum(y * y for y in row) for row in rows]
        numbers = [number for row in weight for number in row] + bias
        return [spec.mean_loss(losses, case.objective.counts, numbers, case.l2)]

    return loss


@ACCUMULATE.spec
def it_is_the_gradient_of_the_mean_over_all_that_is_counted(formula, case):
    """Σ c_r g_r / Σ c_r + 2 λ θ, where g_r is the gradient of row r alone."""
    gradients = []
    for x in case.objective.x_RI.tolist():
        y = spec.linear(x, *(part.tolist() for part in case.weights))
        gradients.append([2 * y_o * x_i for y_o in y for x_i in x] + [2 * y_o for y_o in y])
    θ = flatten(case.weights).tolist()
    expected = spec.mean_gradient(gradients, case.objective.counts, θ, case.l2)
    return distance(found(formula, case).gradient_P, as_tensor(expected)), 32 * size_of(case) * EPS


@ACCUMULATE.spec
def the_terms_are_means_over_all_that_is_counted(formula, case):
    terms = found(formula, case).terms
    (loss,) = spec_of_loss(case)(*(part.tolist() for part in case.weights))
    price = spec.l2_penalty(flatten(case.weights).tolist(), case.l2)
    error = abs(terms["loss"] - loss) + abs(terms["double"] - 2 * (loss - price))
    return error + abs(terms.get("l2", 0.0) - price), 32 * size_of(case) * EPS


@ACCUMULATE.reference
def it_is_one_backward_pass_of_torch_over_the_whole(formula, case):
    """Over separate tensors, with the penalty as part of the loss."""
    leaves = {name: x.clone().requires_grad_() for name, x in named_tensors(case.weights)}
    weights = with_tensors(case.weights, leaves)
    loss = case.objective.terms(rows_of(case), weights)["loss"]
    (loss + case.l2 * sum((leaf * leaf).sum() for leaf in leaves.values())).backward()
    expected = flatten(with_tensors(weights, {name: x.grad for name, x in leaves.items()}))
    return distance(found(formula, case).gradient_P, expected), 32 * size_of(case) * EPS


@ACCUMULATE.law
def parts_do_not_matter(formula, case):
    """One, two, three, one for each row, or more parts than rows."""
    whole, allowed = found(formula, case, 1), 32 * size_of(case) * EPS
    worst = 0.0
    for parts in (2, 3, len(rows_of(case)), 50):
        other = found(formula, case, parts)
        worst = max(worst, distance(other.gradient_P, whole.gradient_P))
        worst = max(worst, abs(other.terms["loss"] - whole.terms["loss"]))
    return worst, allowed


@ACCUMULATE.law
def order_of_the_rows_does_not_matter(formula, case):
    rows = order_of(len(rows_of(case))).tolist()
    error = distance(found(formula, case, rows=rows).gradient_P, found(formula, case).gradient_P)
    return error, 32 * size_of(case) * EPS


@ACCUMULATE.law
def rows_of_count_zero_add_nothing(formula, case):
    counts = case.objective.counts
    some = case._replace(l2=0.0)
    rows = [row for row in rows_of(case) if counts[row]] or rows_of(case)[:1]
    error = distance(found(formula, some, rows=rows).gradient_P, found(formula, some).gradient_P)
    return error, 32 * size_of(case) * EPS


@ACCUMULATE.law
def counting_nothing_leaves_only_the_price(formula, case):
    """0, and not 0/0."""
    nothing = case._replace(objective=CountedRows(case.objective.x_RI, [0] * len(rows_of(case))))
    θ = flatten(case.weights)
    return distance(found(formula, nothing).gradient_P, 2 * case.l2 * θ), 4 * EPS * size_of(case)


@ACCUMULATE.law
def counts_have_no_unit(formula, case):
    """Every row three times as heavy: the same mean."""
    heavy = CountedRows(case.objective.x_RI, [3 * count for count in case.objective.counts])
    other = found(formula, case._replace(objective=heavy)).gradient_P
    return distance(other, found(formula, case).gradient_P), 32 * size_of(case) * EPS


@ACCUMULATE.law
def what_was_left_over_is_forgotten(formula, case):
    """The gradient of the step before, and even a NaN in it."""
    clean = found(formula, case).gradient_P
    dirty = [found(formula, case, left_over=value).gradient_P for value in (1e3, math.nan)]
    return sum(differing(gradient, clean) for gradient in dirty), 0


@ACCUMULATE.law
def the_weights_do_not_move(formula, case):
    """The step comes after the last part."""
    trainable = found(formula, case).trainable
    return differing(trainable.parameters_P, flatten(case.weights)) + trainable.adam.steps, 0


@ACCUMULATE.gradient
def it_is_the_slope_of_the_mean_loss(formula, case):
    """Against differences of the loss as loops over floats, along a random direction."""
    directions = [normal(7, 2, 3), normal(8, 2)]
    gradient = found(formula, case).gradient_P
    slope = float(gradient @ flatten(LinearWeights(*directions)))
    expected = slope_of_spec(
        spec_of_loss(case), list(case.weights), as_tensor([1.0]), directions, 1e-3
    )
    return abs(slope - expected), 1e-11 * size_of(case)


def written_anew(**wrong: Callable[..., Any]) -> Callable[..., Any]:
    """The loop with single pieces replaced: the weight of each part, and what lies between."""

    def variant(objective, rows, trainable, options, generator):
        trainable.gradient_P.zero_()
        size = math.ceil(len(rows) / options.accumulate)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        counts = [objective.counted(part) for part in parts]
        sums = {}
        for number, part in enumerate(parts):
            share = wrong.get("share", lambda counts, n, parts: counts[n] / max(sum(counts), 1))
            weight = share(counts, number, parts)
            terms = objective.terms(part, trainable.weights(options.dtype), generator)
            (terms["loss"] * weight).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * weight
            wrong.get("between", lambda trainable, n, parts: None)(trainable, number, parts)
        if options.l2:
            price = wrong.get("price", lambda λ, parts: 2 * λ)(options.l2, parts)
            trainable.gradient_P.add_(trainable.parameters_P, alpha=price)
            sums["l2"] = options.l2 * float((trainable.parameters_P**2).sum())
            sums["loss"] += sums["l2"]
        return sums

    return variant


ACCUMULATE.mistake(
    parts_do_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
    the_terms_are_means_over_all_that_is_counted,
    rows_of_count_zero_add_nothing,
    source="https://github.com/huggingface/transformers/pull/34191",
    name="mean_of_means",
)(written_anew(share=lambda counts, n, parts: 1 / len(parts)))

ACCUMULATE.mistake(
    parts_do_not_matter,
    it_is_one_backward_pass_of_torch_over_the_whole,
    it_is_the_slope_of_the_mean_loss,
    source="https://github.com/harvardnlp/annotated-transformer/blob/0a91a254735c07532e23733dce8a693e504f3a08/the_annotated_transformer.py",
    name="sum_without_division",
)(written_anew(share=lambda counts, n, parts: 1.0))

ACCUMULATE.mistake(
    it_is_one_backward_pass_of_torch_over_the_whole,
    rows_of_count_zero_add_nothing,
    name="parts_weighed_by_their_rows",
)(written_anew(share=lambda counts, n, parts: len(parts[n]) / sum(map(len, parts))))

ACCUMULATE.mistake(
    counts_have_no_unit,
    it_is_the_slope_of_the_mean_loss,
    name="divided_by_a_count_and_one",
)(written_anew(share=lambda counts, n, parts: counts[n] / (sum(counts) + 1)))

ACCUMULATE.mistake(
    counting_nothing_leaves_only_the_price, name="nan_where_nothing_counts", nan=True
)(written_anew(share=lambda counts, n, parts: counts[n] / (sum(counts) or math.nan)))


def clear_unless_last(trainable, number, parts):
    if number < len(parts) - 1:
        trainable.gradient_P.zero_()


ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
    source="https://github.com/bytetriper/RAE/issues/67",
    name="gradient_cleared_for_every_part",
)(written_anew(between=clear_unless_last))


def shorten(trainable, number, parts):
    trainable.gradient_P.mul_((1 / trainable.gradient_P.norm()).clamp(max=1))


ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    source="https://github.com/huggingface/transformers/issues/986",
    name="clipped_after_every_part",
)(written_anew(between=shorten))


def step_after_the_first(trainable, number, parts):
    if number == 0:
        trainable.parameters_P.sub_(trainable.gradient_P, alpha=0.01)


ACCUMULATE.mistake(
    the_weights_do_not_move,
    parts_do_not_matter,
    source="https://github.com/rasbt/LLMs-from-scratch/issues/299",
    name="a_step_after_the_first_part",
)(written_anew(between=step_after_the_first))

ACCUMULATE.mistake(
    it_is_one_backward_pass_of_torch_over_the_whole,
    counting_nothing_leaves_only_the_price,
    name="price_without_its_two",
)(written_anew(price=lambda λ, parts: λ))

ACCUMULATE.mistake(parts_do_not_matter, name="price_paid_for_every_part")(
    written_anew(price=lambda λ, parts: 2 * λ * len(parts))
)


@ACCUMULATE.mistake(what_was_left_over_is_forgotten)
def gradient_not_zeroed_before(objective, rows, trainable, options, generator):
    before = trainable.gradient_P.clone()
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    trainable.gradient_P += before
    return sums


@ACCUMULATE.mistake(what_was_left_over_is_forgotten)
def gradient_multiplied_by_zero_before(objective, rows, trainable, options, generator):
    """0 times NaN is NaN: after one bad step, every later one is bad."""
    before = 0 * trainable.gradient_P
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    trainable.gradient_P += before
    return sums


@ACCUMULATE.mistake(
    parts_do_not_matter,
    order_of_the_rows_does_not_matter,
    it_is_the_gradient_of_the_mean_over_all_that_is_counted,
)
def first_part_only(objective, rows, trainable, options, generator):
    size = math.ceil(len(rows) / options.accumulate)
    return accumulate_gradient(objective, rows[:size], trainable, options, generator)


@ACCUMULATE.mistake(
    parts_do_not_matter,
    source="https://github.com/harvardnlp/annotated-transformer/blob/0a91a254735c07532e23733dce8a693e504f3a08/the_annotated_transformer.py",
)
def rest_of_the_batch_left_out(objective, rows, trainable, options, generator):
    """Parts of equal size; rows that do not fill one are never used."""
    filled = max(1, len(rows) // options.accumulate) * options.accumulate
    return accumulate_gradient(objective, rows[:filled], trainable, options, generator)


@ACCUMULATE.mistake(the_terms_are_means_over_all_that_is_counted)
def loss_of_the_last_part_reported(objective, rows, trainable, options, generator):
    sums = accumulate_gradient(objective, rows, trainable, options, generator)
    size = math.ceil(len(rows) / options.accumulate)
    last = rows[(len(rows) - 1) // size * size :]
    terms = objective.terms(last, trainable.weights(options.dtype), generator)
    return sums | {name: float(value.detach()) for name, value in terms.items()}


# ------------------------------------------------------------------------ intermediate objective


class Lesson(NamedTuple):
    """An objective with its teacher, the student's weights, and a seed for the student's draws."""

    objective: IntermediateObjective
    weights: BertWeights
    seed: int


def small_model(layers: int, width: int, heads: int, dropout: float) -> BertConfig:
    return BertConfig(
        vocab_size=7,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=5,
        max_position_embeddings=6,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


STUDENT, TEACHER = small_model(2, 4, 1, 0.4), small_model(3, 6, 2, 0.5)


def without_dropout(config: BertConfig) -> BertConfig:
    return dataclasses.replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def lesson(draw: Draw, modes: tuple[str, ...] = ("masked", "tinybert")) -> Lesson:
    """Two or three texts of unequal lengths for a teacher of 3 layers and a student of 2."""
    lengths = draw.choice([(2, 4), (3, 1), (4, 4), (5, 2, 3)])
    texts = [
        Encoding([draw.integer(1, 6) for _ in range(n)], [draw.integer(0, 1) for _ in range(n)])
        for n in lengths
    ]
    objective = IntermediateObjective(
        texts,
        len(texts),
        0,
        0,
        torch.device("cpu"),
        STUDENT,
        ComputedStates(random_weights(seed_of(draw), TEACHER), TEACHER),
        draw.choice([(2, 3), (1, 2), (3, 1)]),
        TermWeights(*draw.choice([(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])),
        draw.choice(modes),
    )
    fit = LinearWeights(normal(seed_of(draw), 6, 4), normal(seed_of(draw), 6))
    weights = random_weights(seed_of(draw), STUDENT)._replace(fit_dense=fit)
    return Lesson(objective, weights, seed_of(draw))


def masked_lesson(draw: Draw) -> Lesson:
    return lesson(draw, ("masked",))


INTERMEDIATE = Proof(
    IntermediateObjective.terms,
    lesson,
    name="intermediate_objective",
    without={
        "reference": "its parts are compared with torch in their own proofs",
        "accuracy": "only the two encoders and their losses round",
    },
    cost=2,
)


def texts_of(objective: IntermediateObjective) -> range:
    return range(len(objective.encodings))


def loss_of(formula: Callable[..., Any], case: Lesson, generator: Any = None) -> Tensor:
    terms = formula(case.objective, texts_of(case.objective), case.weights, generator)
    loss: Tensor = terms["loss"]
    return loss


def with_student(case: Lesson, config: BertConfig) -> Lesson:
    return case._replace(objective=dataclasses.replace(case.objective, config=config))


def with_teacher(case: Lesson, teacher: BertWeights, config: BertConfig = TEACHER) -> Lesson:
    objective = dataclasses.replace(case.objective, teacher=ComputedStates(teacher, config))
    return case._replace(objective=objective)


def spec_of_traced(ids, types, keep, w, config):
    """States h_0 … h_L and scores A_1 … A_L, as loops over floats."""
    heads, eps = config.num_attention_heads, config.layer_norm_eps
    states, scores = [spec_of_encoder.embeddings(ids, types, w.embeddings, eps)], []
    bias = spec_of_encoder.hides_padding(keep, len(ids))
    for b in w.blocks:
        Q, K = (
            spec_of_encoder.split_heads([spec.linear(x, *map_) for x in states[-1]], heads)
            for map_ in b.attention[:2]
        )
        scores.append([spec_of_encoder.scores(q, k) for q, k in zip(Q, K, strict=True)])
        states.append(spec_of_encoder.block(states[-1], bias, b, heads, eps, config.hidden_act))
    return states, scores


def spec_of_terms(case: Lesson, student: Any) -> list[float]:
    """Embedding, hidden and attention term, means over texts padded to the longest of them."""
    objective, teaching = case.objective, case.objective.teacher
    assert isinstance(teaching, ComputedStates)
    teacher = wide_lists(teaching.weights)
    longest, terms = max(len(text.ids) for text in objective.encodings), []
    for ids, types in objective.encodings:
        rest = [0] * (longest - len(ids))
        given = ids + rest, types + rest, [True] * len(ids) + [False] * len(rest)
        own = spec_of_traced(*given, student, objective.config)
        other = spec_of_traced(*given, teacher, teaching.config)
        layers, fit = list(objective.layers), student.fit_dense
        terms.append(spec.intermediate_terms(own, other, given[2], layers, fit, objective.mode))
    return [math.fsum(column) / len(terms) for column in zip(*terms, strict=True)]


def spec_of_objective(case: Lesson, student: Any) -> float:
    prices = list(case.objective.term_weights[:3])
    return spec.distillation_loss([*spec_of_terms(case, student)], prices)


@INTERMEDIATE.spec(cost=20)
def it_is_the_mean_of_what_two_encoders_disagree_on(formula, case):
    """The loss and each of its terms, averaged over texts."""
    found = formula(case.objective, texts_of(case.objective), case.weights, None)
    student = wide_lists(case.weights)
    terms, loss = spec_of_terms(case, student), spec_of_objective(case, student)
    names = ("embedding", "hidden", "attention", "loss")
    error = max(abs(float(found[k]) - e) for k, e in zip(names, [*terms, loss], strict=True))
    return error, 200 * EPS * (1 + loss)


@INTERMEDIATE.law
def the_teacher_answers_the_same_whatever_the_student_draws(formula, case):
    """A student without dropout, a teacher with rates in its config: no generator has an effect."""
    still = with_student(case, without_dropout(STUDENT))
    plain = loss_of(formula, still)
    losses = [loss_of(formula, still, fresh(case.seed + shift)) for shift in (0, 1)]
    return sum(distance(loss, plain) for loss in losses), 0


@INTERMEDIATE.law
def the_rates_of_the_teacher_do_not_matter(formula, case):
    quiet = with_teacher(case, case.objective.teacher.weights, without_dropout(TEACHER))
    losses = [loss_of(formula, part, fresh(case.seed)) for part in (case, quiet)]
    return distance(*losses), 0


@INTERMEDIATE.law
def the_student_alone_draws(formula, case):
    """It draws what `encode_traced` draws: what comes next from the generator is the same."""
    generator, alone = fresh(case.seed), fresh(case.seed)
    loss_of(formula, case, generator)
    batch = case.objective.batch(texts_of(case.objective))
    encode_traced(batch.ids_BS, batch.keep_BS, batch.types_BS, case.weights, STUDENT, alone)
    return distance(*(torch.rand(5, generator=source) for source in (generator, alone))), 0


@INTERMEDIATE.law(cases=masked_lesson)
def a_batch_is_the_mean_of_its_texts_alone(formula, case):
    """Each without padding."""
    objective, rows = case.objective, texts_of(case.objective)
    alone = [formula(objective, [row], case.weights, None)["loss"] for row in rows]
    whole = loss_of(formula, case)
    return distance(whole, torch.stack(alone).mean()), 200 * EPS * (1 + float(whole))


@INTERMEDIATE.law
def a_student_like_the_teacher_has_nothing_to_learn(formula, case):
    """The teacher's weights, no dropout and every layer from its own: exactly 0."""
    same = dataclasses.replace(case.objective, config=without_dropout(TEACHER), layers=(1, 2, 3))
    twin = Lesson(same, same.teacher.weights, case.seed)
    return float(loss_of(formula, twin, fresh(case.seed))), 0


@INTERMEDIATE.gradient
def no_gradient_reaches_the_teacher(formula, case):
    """None to any of its weights, even if asked for; the student's word embeddings get one."""
    words, teacher = case.weights.embeddings, case.objective.teacher.weights

    def loss(word_VD, *parts):
        taught = with_teacher(case, with_parts(teacher, parts))
        weights = case.weights._replace(embeddings=words._replace(word_VD=word_VD))
        return loss_of(formula, taught._replace(weights=weights), fresh(case.seed))

    to_words, *found = gradients(loss, [words.word_VD, *parts_of(teacher)], as_tensor(1.0))
    error = sum(float(gradient.abs().sum()) for gradient in found)
    return error + float(to_words.abs().sum() == 0), 0


@INTERMEDIATE.gradient
def every_weight_of_the_student_learns(formula, case):
    """Also the map to the teacher's width, and the last block, through its hidden state."""
    found = gradients(
        lambda *parts: loss_of(formula, case._replace(weights=with_parts(case.weights, parts))),
        parts_of(case.weights),
        as_tensor(1.0),
    )
    return sum(float(gradient.abs().sum()) == 0 for gradient in found), 0


@INTERMEDIATE.gradient(cost=100)
def its_slope_is_that_of_the_mean_over_texts(formula, case):
    """For all weights of the student at once."""
    return slopes(
        lambda *parts: loss_of(formula, case._replace(weights=with_parts(case.weights, parts))),
        lambda *parts: spec_of_objective(case, with_parts(case.weights, parts)),
        parts_of(case.weights),
        tolerance=1e-10,
    )


def evaluated_teacher(inputs, objective, generator):
    """With a gradient, if one is asked for."""
    return encode_traced(*inputs, objective.teacher.weights, objective.teacher.config)


def with_pieces(teach=evaluated_teacher, learn=encode_traced, keep=lambda keep: keep):
    """The objective with another teacher, another student, or another mask for their losses."""

    def terms(objective, rows, weights, generator):
        batch = objective.batch(rows)
        inputs = batch.ids_BS, batch.keep_BS, batch.types_BS
        found = intermediate_terms(
            learn(*inputs, weights, objective.config, generator),
            teach(inputs, objective, generator),
            keep(batch.keep_BS),
            objective.layers,
            weights.fit_dense,
            objective.term_weights,
            objective.mode,
        )
        loss_B = distillation_loss(found, objective.term_weights)
        named = zip(("embedding", "hidden", "attention"), found[:3], strict=True)
        return {"loss": loss_B.mean()} | {name: term_B.mean() for name, term_B in named}

    return terms


def teacher_drawing(inputs, objective, generator):
    return encode_traced(*inputs, objective.teacher.weights, objective.teacher.config, generator)


INTERMEDIATE.mistake(
    the_teacher_answers_the_same_whatever_the_student_draws,
    the_rates_of_the_teacher_do_not_matter,
    the_student_alone_draws,
    a_student_like_the_teacher_has_nothing_to_learn,
    source="https://github.com/yxuansu/TaCL/issues/11",
    name="the_teacher_gets_the_generator",
)(with_pieces(teacher_drawing))

INTERMEDIATE.mistake(
    the_rates_of_the_teacher_do_not_matter,
    a_student_like_the_teacher_has_nothing_to_learn,
    it_is_the_mean_of_what_two_encoders_disagree_on,
    source="https://github.com/huawei-noah/Pretrained-Language-Model/blob/"
    "1bb9b3e49b05279a4ba5cbe805ac81c803f94981/TinyBERT/general_distill.py",
    name="the_teacher_is_never_told_to_evaluate",
)(with_pieces(lambda inputs, objective, _: teacher_drawing(inputs, objective, fresh(1))))

INTERMEDIATE.mistake(the_student_alone_draws, name="the_student_does_without_dropout")(
    with_pieces(learn=lambda *case: encode_traced(*case[:-1]))
)

INTERMEDIATE.mistake(
    a_batch_is_the_mean_of_its_texts_alone,
    it_is_the_mean_of_what_two_encoders_disagree_on,
    name="padding_has_to_be_learnt_too",
)(with_pieces(keep=torch.ones_like))


@INTERMEDIATE.mistake(no_gradient_reaches_the_teacher)
def the_teacher_is_trained_along(objective, rows, weights, generator):
    """Squares of a difference with a gradient on either side: each moves towards the other."""
    batch = objective.batch(rows)
    inputs = batch.ids_BS, batch.keep_BS, batch.types_BS
    student = encode_traced(*inputs, weights, objective.config, generator)
    teacher = evaluated_teacher(inputs, objective, generator)
    mapped = student.embedded_BSD @ weights.fit_dense.weight_OI.T + weights.fit_dense.bias_O
    return {"loss": (mapped - teacher.embedded_BSD)[batch.keep_BS].square().mean()}


@INTERMEDIATE.mistake(every_weight_of_the_student_learns, its_slope_is_that_of_the_mean_over_texts)
def the_map_does_not_learn(objective, rows, weights, generator):
    still = LinearWeights(*(part.detach() for part in weights.fit_dense))
    return objective.terms(rows, weights._replace(fit_dense=still), generator)


@INTERMEDIATE.mistake(it_is_the_mean_of_what_two_encoders_disagree_on)
def always_the_first_layers(objective, rows, weights, generator):
    return dataclasses.replace(objective, layers=(1, 2)).terms(rows, weights, generator)


@INTERMEDIATE.mistake(it_is_the_mean_of_what_two_encoders_disagree_on)
def the_teacher_run_by_the_config_of_the_student(objective, rows, weights, generator):
    teacher = ComputedStates(objective.teacher.weights, objective.config)
    confused = dataclasses.replace(objective, teacher=teacher)
    return confused.terms(rows, weights, generator)


@INTERMEDIATE.mistake(
    it_is_the_mean_of_what_two_encoders_disagree_on, a_batch_is_the_mean_of_its_texts_alone
)
def summed_over_the_texts(objective, rows, weights, generator):
    terms = objective.terms(rows, weights, generator)
    return {name: len(rows) * term for name, term in terms.items()}


@INTERMEDIATE.mistake(it_is_the_mean_of_what_two_encoders_disagree_on)
def terms_alike_whatever_they_weigh(objective, rows, weights, generator):
    alike = dataclasses.replace(objective, term_weights=TermWeights())
    return alike.terms(rows, weights, generator)
