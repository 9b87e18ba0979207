"""Laws of `distillation`: a small student learns what a large teacher computes.

The reference of the mode tinybert is the loss of the official code, stated anew with torch's
MSELoss, the mask of -10000 and the clamp at -100; values and gradients must agree.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minibert.attention import AttentionTrace
from minibert.config import BertConfig
from minibert.distillation import (
    DistillationTerms,
    TermWeights,
    attention_loss,
    distillation_loss,
    grouped_heads,
    hidden_loss,
    intermediate_terms,
    layer_map,
    prediction_loss,
)
from minibert.encoder import BlockTrace, EncoderTrace, encode_traced
from minibert.laws import spec_training as spec
from minibert.laws.functional import LinearCase, at_least_eps32, linear_bound
from minibert.laws.law import Draw, Proof, in_dtype
from minibert.laws.losses import SoftCase, smallest, soft_bound
from minibert.laws.measure import (
    EPS,
    as_lists,
    as_tensor,
    differing,
    distance,
    eps_of,
    fresh,
    gradients,
    integers,
    normal,
    order_of,
    seed_of,
    slopes,
)
from minibert.losses import soft_cross_entropy
from minibert.parameters import BertWeights, LinearWeights, initial_weights, weight_shapes

HUAWEI = "https://github.com/huawei-noah/Pretrained-Language-Model"
TINYBERT = f"{HUAWEI}/blob/1bb9b3e49b05279a4ba5cbe805ac81c803f94981/TinyBERT"
TEXTBREWER = "https://github.com/airaria/TextBrewer/blob"
TEXTBREWER_LOSSES = (
    f"{TEXTBREWER}/3496f3ec49e6eee6219f8a8d9db2b144fcedb361/src/textbrewer/losses.py"
)
LAYERS_ARE_COUNTED = {
    "gradient": "it counts layers, and counting has no slope",
    "accuracy": "it counts layers and rounds no real number",
}


def kept(lengths: list[int], tokens: int) -> Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


def samples(spec_of_one: Callable[..., float], *parts: Tensor) -> Tensor:
    """A spec for one sample, applied to each."""
    rows = zip(*(part.tolist() for part in parts), strict=True)
    return as_tensor([spec_of_one(*row) for row in rows])


def apart(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], leaves: Sequence[Tensor]
) -> float:
    """How far two losses are from one another in their values and gradients."""
    error, upstream = distance(ours(*leaves), theirs(*leaves)), normal(9)
    pairs = zip(*(gradients(loss, leaves, upstream) for loss in (ours, theirs)), strict=True)
    return error + math.fsum(distance(a, b, 1 + b.abs()) for a, b in pairs)


# ------------------------------------------------------------------------------------- layer_map


class Depths(NamedTuple):
    student: int
    teacher: int


def depths(draw: Draw) -> Depths:
    return Depths(draw.integer(1, 13), draw.integer(1, 13))


def depths_that_divide(draw: Draw) -> Depths:
    student = draw.integer(1, 6)
    return Depths(student, student * draw.integer(1, 4))


LAYER_MAP = Proof(layer_map, depths, without=LAYERS_ARE_COUNTED)


def unequal(a, b) -> float:
    """How many places of two lists of layers differ."""
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


@LAYER_MAP.spec
def uniform_is_the_first_layer_at_least_as_far_up(formula, case):
    return unequal(formula(*case), spec.layer_map(*case, "uniform")), 0


@LAYER_MAP.spec
def top_and_bottom_are_a_run_of_layers(formula, case):
    case = Depths(*sorted(case))
    wrong = [unequal(formula(*case, r), spec.layer_map(*case, r)) for r in ("top", "bottom")]
    return sum(wrong), 0


@LAYER_MAP.reference(cases=depths_that_divide)
def it_is_tinyberts_index_into_either_list(formula, case):
    """Attention layers counted from 0, and hidden states, of which the first is the embeddings."""
    layers, k = formula(*case), case.teacher // case.student
    by_attention = [i * k + k - 1 for i in range(case.student)]
    by_state = [i * k for i in range(case.student + 1)]
    return unequal([g - 1 for g in layers], by_attention) + unequal([0, *layers], by_state), 0


@LAYER_MAP.law
def every_layer_exists(formula, case):
    layers = formula(*case)
    return sum(not 1 <= g <= case.teacher for g in layers) + abs(len(layers) - case.student), 0


@LAYER_MAP.law
def the_last_learns_from_the_last(formula, case):
    return abs(formula(*case)[-1] - case.teacher), 0


@LAYER_MAP.law
def layers_rise(formula, case):
    """Strictly, as long as the teacher has enough of them."""
    layers, least = formula(*case), int(case.student <= case.teacher)
    return sum(b - a < least for a, b in pairwise(layers)), 0


@LAYER_MAP.law
def steps_differ_by_at_most_one(formula, case):
    steps = [b - a for a, b in pairwise((0, *formula(*case)))]
    return max(0, max(steps) - min(steps) - 1), 0


@LAYER_MAP.law
def equal_depths_pair_one_to_one(formula, case):
    return unequal(formula(case.teacher, case.teacher), range(1, case.teacher + 1)), 0


@LAYER_MAP.law
def multiples_keep_the_step(formula, case):
    layers = formula(case.student, 3 * case.student)
    return unequal(layers, [3 * m for m in range(1, case.student + 1)]), 0


@LAYER_MAP.law
def top_and_bottom_mirror_each_other(formula, case):
    """Counted from the other end, the one is the other."""
    student, teacher = sorted(case)
    top, bottom = (formula(student, teacher, rule) for rule in ("top", "bottom"))
    return unequal([teacher + 1 - g for g in reversed(top)], bottom), 0


@LAYER_MAP.mistake(
    the_last_learns_from_the_last, equal_depths_pair_one_to_one,
    it_is_tinyberts_index_into_either_list, source=f"{HUAWEI}/issues/166",
)
def counted_from_zero(student, teacher, rule="uniform"):
    return tuple(g - 1 for g in layer_map(student, teacher, rule))


@LAYER_MAP.mistake(multiples_keep_the_step, uniform_is_the_first_layer_at_least_as_far_up)
def one_step_early(student, teacher, rule="uniform"):
    return tuple(m * teacher // student for m in range(student))


@LAYER_MAP.mistake(every_layer_exists)
def rounded_down(student, teacher, rule="uniform"):
    return tuple(m * teacher // student for m in range(1, student + 1))


@LAYER_MAP.mistake(
    the_last_learns_from_the_last, multiples_keep_the_step, top_and_bottom_are_a_run_of_layers,
    top_and_bottom_mirror_each_other,
)
def always_the_first_layers(student, teacher, rule="uniform"):
    return tuple(range(1, student + 1))


@LAYER_MAP.mistake(the_last_learns_from_the_last)
def rest_of_the_division_dropped(student, teacher, rule="uniform"):
    return tuple(m * max(1, teacher // student) for m in range(1, student + 1))


@LAYER_MAP.mistake(steps_differ_by_at_most_one)
def rest_of_the_division_at_the_end(student, teacher, rule="uniform"):
    return (*rest_of_the_division_dropped(student, teacher)[:-1], teacher)


@LAYER_MAP.mistake(layers_rise)
def from_the_top_down(student, teacher, rule="uniform"):
    return layer_map(student, teacher, rule)[::-1]


# --------------------------------------------------------------------------------- grouped_heads


class HeadsCase(NamedTuple):
    scores: Tensor
    heads: int


def heads_case(draw: Draw, scales: tuple[float, ...] = (1.0,)) -> HeadsCase:
    heads, group = draw.choice([1, 2, 3]), draw.choice([1, 2, 5])
    scores = normal(seed_of(draw), 2, heads * group, 3, 5, scale=draw.choice(scales))
    return HeadsCase(scores, heads)


def heads_bound(case: HeadsCase) -> Tensor:
    """A sum of g numbers and a division."""
    group = case.scores.shape[1] // case.heads
    size = case.scores.double().abs().unflatten(1, (case.heads, group)).mean(2)
    return (group + 1) / 2 * eps_of(case.scores) * size + smallest(case.scores)


def spec_of_grouped_heads(case: HeadsCase) -> Tensor:
    return as_tensor([spec.grouped_heads(one, case.heads) for one in case.scores.tolist()])


HEADS = Proof(grouped_heads, heads_case)


@HEADS.spec
def each_head_is_the_mean_of_its_group(formula, case):
    return distance(formula(*case), spec_of_grouped_heads(case), heads_bound(case)), 1


def pooled(scores, heads):
    return F.avg_pool3d(scores, (scores.shape[1] // heads, 1, 1))


@HEADS.reference
def it_is_average_pooling_along_the_heads(formula, case):
    return distance(formula(*case), pooled(*case), heads_bound(case)), 2


@HEADS.law
def as_many_heads_stay_as_they_are(formula, case):
    return differing(formula(case.scores, case.scores.shape[1]), case.scores), 0


@HEADS.law
def the_mean_of_all_heads_stays(formula, case):
    return distance(formula(*case).mean(1), case.scores.mean(1)), 32 * EPS


@HEADS.law
def order_within_a_group_is_free(formula, case):
    groups = case.scores.unflatten(1, (case.heads, -1))
    turned = groups.roll(1, 2).flatten(1, 2)
    return distance(formula(turned, case.heads), formula(*case), heads_bound(case)), 2


@HEADS.law
def groups_move_as_one(formula, case):
    groups = case.scores.unflatten(1, (case.heads, -1))
    return distance(formula(groups.flip(1).flatten(1, 2), case.heads), formula(*case).flip(1)), 0


@HEADS.law
def grouping_twice_is_grouping_once(formula, case):
    return distance(formula(formula(*case), 1), formula(case.scores, 1)), 32 * EPS


@HEADS.gradient(cost=4)
def its_slope_is_that_of_the_mean_of_a_group(formula, case):
    return slopes(
        lambda x: formula(x, case.heads),
        lambda x: spec_of_grouped_heads(HeadsCase(as_tensor(x), case.heads)).tolist(),
        [case.scores],
    )


@HEADS.gradient
def each_head_of_a_group_has_an_equal_share(formula, case):
    """u_n / g to every head of group n"""
    batch, heads, *rest = case.scores.shape
    upstream, group = normal(3, batch, case.heads, *rest), heads // case.heads
    (found,) = gradients(lambda x: formula(x, case.heads), [case.scores], upstream)
    expected = upstream.repeat_interleave(group, 1) / group
    return distance(found, expected, expected.abs()), EPS


@HEADS.accuracy(
    {
        "normal": heads_case,
        "tiny": lambda draw: heads_case(draw, (1e-30,)),
        "large": lambda draw: heads_case(draw, (1e4,)),
        "scores that cancel": lambda draw: HeadsCase(
            torch.cat([heads_case(draw).scores[:, :1] * c for c in (1e4, 1.0, -1e4)], 1), 1
        ),
    },
    torch_twin=lambda scores, heads: pooled(scores.float(), heads).to(scores.dtype),
)
def a_group_is_exact_up_to_the_size_of_its_scores(formula, case):
    wide = HeadsCase(case.scores.double(), case.heads)
    return distance(formula(*case), spec_of_grouped_heads(wide), heads_bound(case)), 1


@HEADS.mistake(
    as_many_heads_stay_as_they_are, each_head_of_a_group_has_an_equal_share,
    grouping_twice_is_grouping_once,
)
def divided_by_the_student_heads(scores, heads):
    return scores.unflatten(1, (heads, -1)).sum(2) / heads


@HEADS.mistake(
    order_within_a_group_is_free, each_head_is_the_mean_of_its_group,
    it_is_average_pooling_along_the_heads,
)
def every_nth_head(scores, heads):
    return scores.unflatten(1, (-1, heads)).mean(1)


@HEADS.mistake(order_within_a_group_is_free, its_slope_is_that_of_the_mean_of_a_group)
def first_head_of_each_group(scores, heads):
    return scores.unflatten(1, (heads, -1))[:, :, 0]


@HEADS.mistake(the_mean_of_all_heads_stays)
def largest_of_each_group(scores, heads):
    return scores.unflatten(1, (heads, -1)).amax(2)


@HEADS.mistake(the_mean_of_all_heads_stays, groups_move_as_one)
def first_heads(scores, heads):
    return scores[:, :heads]


@HEADS.mistake(a_group_is_exact_up_to_the_size_of_its_scores)
def grouped_in_half_precision(scores, heads):
    return grouped_heads(scores.half().clamp(-6e4, 6e4), heads).to(scores.dtype)


# ----------------------------------------------------------------------------------- hidden_loss


class HiddenCase(NamedTuple):
    hidden: Tensor
    teacher: Tensor
    projection: Any  # LinearWeights, or None where both widths are equal
    keep: Tensor


def hidden_case(
    draw: Draw, scales: tuple[float, ...] = (1.0,), offset: float = 0.0
) -> HiddenCase:
    """Three sentences of 5, 1 and 3 tokens, padded to 5; widths D -> 7."""
    width, scale = draw.choice([2, 3]), draw.choice(scales)
    return HiddenCase(
        normal(seed_of(draw), 3, 5, width),
        normal(seed_of(draw), 3, 5, 7, scale=scale, offset=offset),
        LinearWeights(
            normal(seed_of(draw), 7, width, scale=scale),
            normal(seed_of(draw), 7, scale=scale, offset=offset),
        ),
        kept([5, 1, 3], 5),
    )


def any_scale(draw: Draw) -> HiddenCase:
    return hidden_case(draw, (1e-3, 1.0, 50.0))


def image(case: HiddenCase) -> Tensor:
    return case.hidden if case.projection is None else F.linear(case.hidden, *case.projection)


def hidden_bound(case: HiddenCase, mode: str = "masked") -> Tensor:
    """Every difference d is off by the error e of its map; squares and mean by their own size."""
    wide = in_float64(case)
    d = (image(wide) - wide.teacher).abs()
    mapped = case.projection is not None
    e = linear_bound(LinearCase(case.hidden, *case.projection)) if mapped else torch.zeros_like(d)
    own = (3 + d[0].numel() / 2) * at_least_eps32(case.hidden)
    terms = (2 * d * e + e * e + own * d * d).mean(-1)
    if mode == "tinybert":
        return terms.mean(-1)
    return torch.where(case.keep, terms, 0).sum(-1) / case.keep.sum(-1).clamp(min=1)


def steepness(case: HiddenCase) -> float:
    """The rounding of a gradient: of products and sums of numbers up to the largest one."""
    sizes = case.hidden.abs() @ case.projection.weight_OI.abs().T
    largest = 1 + float(sizes.max() + case.teacher.abs().max() + case.projection.bias_O.abs().max())
    return 1024 * EPS * largest * largest


def in_float64(case: HiddenCase) -> HiddenCase:
    return HiddenCase(*in_dtype(tuple(case), torch.float64))


def spec_of_hidden_loss(case: HiddenCase, mode: str = "masked") -> Tensor:
    projection = None if case.projection is None else as_lists(case.projection)
    return samples(
        lambda h, u, keep: spec.hidden_loss(h, u, projection, keep, mode),
        case.hidden, case.teacher, case.keep,
    )


HIDDEN = Proof(hidden_loss, hidden_case)


@HIDDEN.spec(cases=any_scale)
def it_is_the_mean_square_over_kept_tokens(formula, case):
    return distance(formula(*case), spec_of_hidden_loss(case), hidden_bound(case)), 1


@HIDDEN.reference(cases=any_scale)
def it_is_torchs_mse_of_the_kept_tokens(formula, case):
    expected = torch.stack([
        F.mse_loss(own[keep], other[keep])
        for own, other, keep in zip(image(case), case.teacher, case.keep, strict=True)
    ])
    return distance(formula(*case), expected, hidden_bound(case)), 2


@HIDDEN.law
def an_exact_image_costs_nothing(formula, case):
    """And nothing else does."""
    other = float((formula(*case) <= hidden_bound(case)).sum())
    exact = case._replace(teacher=image(case))
    return other + distance(formula(*exact), torch.zeros(3), hidden_bound(exact)), 1


@HIDDEN.law
def hidden_offsets_cost_their_square(formula, case):
    d = 1.5
    signs = torch.where(normal(7, *case.teacher.shape) > 0, d, -d)
    off = case._replace(teacher=image(case) + signs)
    return distance(formula(*off), torch.full((3,), d * d), hidden_bound(off) + 16 * EPS), 2


def moved_by_hidden_padding(formula: Callable[..., Tensor], case: HiddenCase, size: float) -> float:
    """How far value and slopes move when two tokens of random padding of this size follow."""
    longer = HiddenCase(
        torch.cat([case.hidden, size * normal(10, 3, 2, case.hidden.shape[2])], 1),
        torch.cat([case.teacher, size * normal(11, 3, 2, 7)], 1),
        case.projection,
        F.pad(case.keep, (0, 2), value=False),
    )
    found = []
    for part in (case, longer):
        leaves = [part.hidden, *part.projection]
        value = formula(*part)
        to_hidden, *to_projection = gradients(
            lambda h, w, b, part=part: formula(h, part.teacher, LinearWeights(w, b), part.keep),
            leaves,
            normal(9, 3),
        )
        found.append([value, to_hidden[:, :5], *to_projection, to_hidden[:, 5:].abs().sum()])
    return sum(distance(a, b) for a, b in zip(*found, strict=True))


@HIDDEN.law(cost=2)
def hidden_padding_changes_neither_value_nor_slope(formula, case):
    return moved_by_hidden_padding(formula, case, 50.0), steepness(case)


@HIDDEN.law(cost=2)
def not_even_nan_in_hidden_padding_changes_value_or_slope(formula, case):
    return moved_by_hidden_padding(formula, case, math.nan), steepness(case)


@HIDDEN.law
def a_sample_is_its_kept_tokens(formula, case):
    """Cut out of the batch and cropped, it costs the same: L(s, t) = Σ_i L_i."""
    alone = []
    for i, length in enumerate(case.keep.sum(1).tolist()):
        cropped = [part[i : i + 1, :length] for part in (case.hidden, case.teacher, case.keep)]
        alone.append(formula(cropped[0], cropped[1], case.projection, cropped[2]))
    return distance(torch.cat(alone), formula(*case), hidden_bound(case)), 2


@HIDDEN.law
def hidden_loss_grows_with_the_square(formula, case):
    weight, bias = case.projection
    scaled = formula(8 * case.hidden, 8 * case.teacher, LinearWeights(weight, 8 * bias), case.keep)
    return distance(scaled, 64 * formula(*case)), 0


@HIDDEN.law
def repeated_tokens_cost_the_same(formula, case):
    twice = case._replace(**{
        name: torch.cat([getattr(case, name)] * 2, 1) for name in ("hidden", "teacher", "keep")
    })
    return distance(formula(*twice), formula(*case), hidden_bound(case)), 2


@HIDDEN.law
def repeated_features_cost_the_same(formula, case):
    weight, bias = case.projection
    projection = LinearWeights(weight.repeat(2, 1), bias.repeat(2))
    twice = case._replace(teacher=case.teacher.repeat(1, 1, 2), projection=projection)
    return distance(formula(*twice), formula(*case), hidden_bound(case)), 2


@HIDDEN.law
def a_rotation_of_the_teacher_cancels(formula, case):
    turn, _ = torch.linalg.qr(normal(5, 7, 7))
    weight, bias = case.projection
    turned = LinearWeights(turn @ weight, turn @ bias)
    found = formula(case.hidden, case.teacher @ turn.T, turned, case.keep)
    return distance(found, formula(*case)), steepness(case)


@HIDDEN.law
def a_rotation_of_the_student_may_move_into_the_projection(formula, case):
    """W h = (W Aᵀ) (A h): the student is free to write its states in any axes."""
    weight, bias = case.projection
    turn, _ = torch.linalg.qr(normal(6, weight.shape[1], weight.shape[1]))
    turned = LinearWeights(weight @ turn.T, bias)
    found = formula(case.hidden @ turn.T, case.teacher, turned, case.keep)
    return distance(found, formula(*case)), steepness(case)


@HIDDEN.law
def without_a_projection_it_is_that_of_the_identity(formula, case):
    identity = LinearWeights(torch.eye(7).double(), torch.zeros(7).double())
    wide = normal(8, *case.teacher.shape)
    found = formula(wide, case.teacher, None, case.keep)
    return distance(found, formula(wide, case.teacher, identity, case.keep)), 0


@HIDDEN.law
def a_sentence_without_tokens_costs_nothing(formula, case):
    empty = case._replace(keep=kept([5, 0, 3], 5))
    leaves = [case.hidden, *case.projection]
    found = gradients(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b), empty.keep), leaves,
        normal(9, 3),
    )
    unbounded = sum(float((~x.isfinite()).sum()) for x in found)
    return float(formula(*empty)[1].abs() + found[0][1].abs().sum()) + unbounded, 0


@HIDDEN.gradient(cost=4)
def its_slope_is_that_of_the_mean_square(formula, case):
    return slopes(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b), case.keep),
        lambda h, w, b: spec_of_hidden_loss(
            HiddenCase(
                as_tensor(h), case.teacher, LinearWeights(as_tensor(w), as_tensor(b)), case.keep
            )
        ).tolist(),
        [case.hidden, *case.projection],
    )


@HIDDEN.gradient
def its_slopes_are_those_of_least_squares(formula, case):
    """2 / (n E) times the residual, through W to the state, times the state to W; no teacher's."""
    upstream = normal(9, 3)
    to_hidden, to_teacher, to_weight, to_bias = gradients(
        lambda h, t, w, b: formula(h, t, LinearWeights(w, b), case.keep),
        [case.hidden, case.teacher, *case.projection],
        upstream,
    )
    share = (upstream / case.keep.sum(1))[:, None, None] * case.keep[..., None] / 7
    residual = 2 * share * (image(case) - case.teacher)
    gaps = [
        distance(to_hidden, residual @ case.projection.weight_OI),
        distance(to_weight, torch.einsum("bse,bsd->ed", residual, case.hidden)),
        distance(to_bias, residual.sum((0, 1))),
        float(to_teacher.abs().max()),
    ]
    return sum(gaps), steepness(case)


@HIDDEN.gradient
def the_best_projection_has_no_slope(formula, case):
    """Least squares, solved by torch, over the kept tokens of all sentences together."""
    rows, targets = case.hidden[case.keep], case.teacher[case.keep]
    with_one = torch.cat([rows, torch.ones(len(rows), 1).double()], 1)
    best = torch.linalg.lstsq(with_one, targets).solution.T
    found = gradients(
        lambda w, b: formula(case.hidden, case.teacher, LinearWeights(w, b), case.keep),
        [best[:, :-1], best[:, -1]],
        case.keep.sum(1).double(),
    )
    lost = steepness(case) * (1 + best.abs().max()) ** 2
    return sum(float(x.abs().max()) for x in found), lost


HIDDEN_FAMILIES = {
    "normal": hidden_case,
    "tiny": lambda draw: hidden_case(draw, (1e-12,)),
    "large": lambda draw: hidden_case(draw, (1e4,)),
    "an offset of 1e4": lambda draw: hidden_case(draw, (1.0,), 1e4),
    "an exact image": lambda draw: exact_image(hidden_case(draw)),
    "without a projection": lambda draw: without_a_projection(hidden_case(draw), seed_of(draw)),
    "sentences without tokens": lambda draw: hidden_case(draw)._replace(keep=kept([0, 0, 5], 5)),
}


def exact_image(case: HiddenCase) -> HiddenCase:
    return case._replace(teacher=image(case))


def without_a_projection(case: HiddenCase, seed: int) -> HiddenCase:
    return case._replace(hidden=normal(seed, *case.teacher.shape), projection=None)


@HIDDEN.accuracy(HIDDEN_FAMILIES)
def squares_are_exact_up_to_the_error_of_the_map(formula, case):
    expected = spec_of_hidden_loss(in_float64(case))
    return distance(formula(*case), expected, hidden_bound(case) + smallest(case.hidden)), 1


def squares(hidden, teacher, projection):
    mapped = hidden if projection is None else F.linear(hidden, *projection)
    return (mapped - teacher.detach()).square()


@HIDDEN.mistake(
    hidden_padding_changes_neither_value_nor_slope, a_sample_is_its_kept_tokens,
    it_is_the_mean_square_over_kept_tokens, source=f"{TINYBERT}/general_distill.py",
)
def hidden_padding_counted(hidden, teacher, projection, keep):
    return squares(hidden, teacher, projection).mean((1, 2))


@HIDDEN.mistake(a_sample_is_its_kept_tokens, it_is_torchs_mse_of_the_kept_tokens)
def hidden_divided_by_the_padded_length(hidden, teacher, projection, keep):
    return torch.where(keep[..., None], squares(hidden, teacher, projection), 0).mean((1, 2))


@HIDDEN.mistake(a_sample_is_its_kept_tokens)
def divided_by_the_tokens_of_the_batch(hidden, teacher, projection, keep):
    kept_squares = torch.where(keep[..., None], squares(hidden, teacher, projection), 0)
    return len(keep) * kept_squares.mean(2).sum(1) / keep.sum()


@HIDDEN.mistake(repeated_features_cost_the_same, hidden_offsets_cost_their_square)
def summed_over_the_width(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep) * teacher.shape[2]


@HIDDEN.mistake(repeated_tokens_cost_the_same, its_slope_is_that_of_the_mean_square)
def summed_over_the_tokens(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep) * keep.sum(1)


@HIDDEN.mistake(a_rotation_of_the_teacher_cancels, the_best_projection_has_no_slope)
def absolute_differences(hidden, teacher, projection, keep):
    gaps = (F.linear(hidden, *projection) - teacher.detach()).abs().mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


@HIDDEN.mistake(a_sample_is_its_kept_tokens)
def mask_the_other_way(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, ~keep)


@HIDDEN.mistake(
    a_rotation_of_the_student_may_move_into_the_projection, it_is_the_mean_square_over_kept_tokens
)
def largest_feature_scaled_to_one(hidden, teacher, projection, keep):
    return hidden_loss(hidden / hidden.amax(-1, keepdim=True), teacher, projection, keep)


@HIDDEN.mistake(hidden_loss_grows_with_the_square)
def root_of_the_mean_squared_state(hidden, teacher, projection, keep):
    return torch.sqrt(hidden_loss(hidden, teacher, projection, keep))


@HIDDEN.mistake(an_exact_image_costs_nothing)
def projection_without_bias(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, LinearWeights(projection[0], 0 * projection[1]), keep)


@HIDDEN.mistake(hidden_offsets_cost_their_square)
def cosine_of_the_states(hidden, teacher, projection, keep):
    gap = 1 - F.cosine_similarity(F.linear(hidden, *projection), teacher.detach(), -1)
    return torch.where(keep, gap, 0).sum(1) / keep.sum(1)


@HIDDEN.mistake(
    a_sample_is_its_kept_tokens, source="https://github.com/linkedin/Liger-Kernel/pull/1478"
)
def cosine_of_all_tokens_over_the_number_of_kept_ones(hidden, teacher, projection, keep):
    gap = 1 - F.cosine_similarity(F.linear(hidden, *projection), teacher.detach(), -1)
    return gap.sum(1) / keep.sum(1)


@HIDDEN.mistake(its_slopes_are_those_of_least_squares)
def hidden_teacher_not_detached(hidden, teacher, projection, keep):
    gaps = (F.linear(hidden, *projection) - teacher).square().mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


@HIDDEN.mistake(not_even_nan_in_hidden_padding_changes_value_or_slope, nan=True)
def nan_of_padding_hidden_after_the_map(hidden, teacher, projection, keep):
    gaps = F.linear(hidden, *projection) - teacher.detach()
    return torch.where(keep[..., None], gaps, 0).square().mean(2).sum(1) / keep.sum(1)


@HIDDEN.mistake(
    not_even_nan_in_hidden_padding_changes_value_or_slope, a_sentence_without_tokens_costs_nothing,
    nan=True,
)
def nan_of_padding_hidden_after_squaring(hidden, teacher, projection, keep):
    gaps = squares(hidden, teacher, projection).mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


@HIDDEN.mistake(without_a_projection_it_is_that_of_the_identity)
def skipped_without_a_projection(hidden, teacher, projection, keep):
    if projection is None:
        return torch.zeros(len(hidden), dtype=hidden.dtype)
    return hidden_loss(hidden, teacher, projection, keep)


@HIDDEN.mistake(squares_are_exact_up_to_the_error_of_the_map)
def squared_in_half_precision(hidden, teacher, projection, keep):
    gaps = squares(hidden, teacher, projection).bfloat16().mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1).clamp(min=1)


def hidden_loss_of_tinybert(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep, "tinybert")


HIDDEN_TINYBERT = Proof(
    hidden_loss_of_tinybert, hidden_case, of=(hidden_loss,), name="hidden_loss_of_tinybert"
)


@HIDDEN_TINYBERT.spec(cases=any_scale)
def it_is_the_mean_square_over_all_tokens(formula, case):
    expected = spec_of_hidden_loss(case, "tinybert")
    return distance(formula(*case), expected, hidden_bound(case, "tinybert")), 1


def official_hidden_loss(hidden, teacher, projection, keep):
    """task_distill.py: MSELoss of fit_dense(student state) and teacher state, padding included."""
    return torch.nn.MSELoss()(F.linear(hidden, *projection), teacher)


@HIDDEN_TINYBERT.reference
def it_is_the_official_loss_of_a_state(formula, case):
    """Its mean over samples, and the gradients of that."""
    leaves = [case.hidden, *case.projection]
    error = apart(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b), case.keep).mean(),
        lambda h, w, b: official_hidden_loss(h, case.teacher, LinearWeights(w, b), case.keep),
        leaves,
    )
    return error, steepness(case)


@HIDDEN_TINYBERT.law
def it_does_not_look_at_the_mask(formula, case):
    return differing(formula(*case._replace(keep=~case.keep)), formula(*case)), 0


@HIDDEN_TINYBERT.law
def matched_tokens_dilute_and_missed_ones_count(formula, case):
    """Two more tokens that match leave a mean over seven; two that do not match count fully."""
    hidden = torch.cat([case.hidden, normal(8, 3, 2, case.hidden.shape[2])], 1)
    keep, before = F.pad(case.keep, (0, 2), value=False), formula(*case)
    more = F.linear(hidden[:, 5:], *case.projection)
    error = 0.0
    for off in (0.0, 3.0):
        teacher = torch.cat([case.teacher, more + off], 1)
        found = formula(hidden, teacher, case.projection, keep)
        error += distance(found, (before * 5 + 2 * off * off) / 7)
    return error, steepness(case)


@HIDDEN_TINYBERT.gradient(cost=4)
def its_slope_is_that_of_the_mean_over_all(formula, case):
    return slopes(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b), case.keep),
        lambda h, w, b: spec_of_hidden_loss(
            HiddenCase(
                as_tensor(h), case.teacher, LinearWeights(as_tensor(w), as_tensor(b)), case.keep
            ),
            "tinybert",
        ).tolist(),
        [case.hidden, *case.projection],
    )


@HIDDEN_TINYBERT.gradient
def padded_tokens_have_a_slope_too(formula, case):
    """2 / (S E) times the residual at every token, kept or not."""
    upstream = normal(9, 3)
    found, to_teacher = gradients(
        lambda h, t: formula(h, t, case.projection, case.keep), [case.hidden, case.teacher],
        upstream,
    )
    residual = 2 * upstream[:, None, None] / 35 * (image(case) - case.teacher)
    error = distance(found, residual @ case.projection.weight_OI)
    return error + float(to_teacher.abs().max()), steepness(case)


@HIDDEN_TINYBERT.accuracy(HIDDEN_FAMILIES)
def all_squares_are_exact_up_to_the_error_of_the_map(formula, case):
    expected = spec_of_hidden_loss(in_float64(case), "tinybert")
    unit = hidden_bound(case, "tinybert") + smallest(case.hidden)
    return distance(formula(*case), expected, unit), 1


@HIDDEN_TINYBERT.mistake(
    it_is_the_mean_square_over_all_tokens, it_is_the_official_loss_of_a_state,
    it_does_not_look_at_the_mask, matched_tokens_dilute_and_missed_ones_count,
    its_slope_is_that_of_the_mean_over_all, padded_tokens_have_a_slope_too,
)
def real_tokens_only(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep)


@HIDDEN_TINYBERT.mistake(all_squares_are_exact_up_to_the_error_of_the_map)
def all_squared_in_half_precision(hidden, teacher, projection, keep):
    return squares(hidden, teacher, projection).bfloat16().mean((1, 2))


# -------------------------------------------------------------------------------- attention_loss


class AttentionCase(NamedTuple):
    scores: Tensor
    teacher: Tensor
    keep: Tensor


def attention_case(
    draw: Draw, scales: tuple[float, ...] = (1.0, 80.0), groups: tuple[int, ...] = (1, 3)
) -> AttentionCase:
    """Three sentences of 5, 1 and 3 tokens; at scale 80 some scores are below -100."""
    heads, group, scale = draw.choice([1, 2]), draw.choice(groups), draw.choice(scales)
    seed = seed_of(draw)  # one for both: two that happen to be equal would give equal scores
    scores = normal(seed, 3, heads, 5, 5, scale=scale)
    teacher = normal(seed + 1, 3, heads * group, 5, 5, scale=scale)
    return AttentionCase(scores, teacher, kept([5, 1, 3], 5))


def one_to_one(draw: Draw) -> AttentionCase:
    return attention_case(draw, groups=(1,))


def pairs_kept(keep: Tensor) -> Tensor:
    return (keep[:, :, None] & keep[:, None, :])[:, None]


def attention_bound(case: AttentionCase, mode: str = "masked") -> Tensor:
    """Every difference d is off by the error e of a group's mean; the rest by its own size."""
    scores, teacher = (x.double() for x in case[:2])
    groups = teacher.unflatten(1, (scores.shape[1], -1))
    unit, target = at_least_eps32(case.scores), groups.mean(2)
    if mode == "tinybert":
        shown = case.keep[:, None, None, :]
        scores, target = (torch.where(shown & (x > -100), x, 0) for x in (scores, target))
    e = (groups.shape[2] + 1) / 2 * unit * groups.abs().mean(2)
    d = (scores - target).abs()
    own = (3 + scores[0].numel() / 2) * unit
    terms = 2 * d * e + e * e + own * d * d
    if mode == "tinybert":
        return torch.where(case.keep[:, None, None, :], terms, 0).mean((1, 2, 3))
    pairs = pairs_kept(case.keep)
    total = torch.where(pairs, terms, 0).mean(1).sum((1, 2))
    return total / pairs.sum((1, 2, 3)).clamp(min=1)


def roughness(case: AttentionCase) -> float:
    """The rounding of the square of the largest score."""
    largest = max(float(case.scores.abs().max()), float(case.teacher.abs().max()))
    return 128 * EPS * (1 + largest) ** 2


def spec_of_attention_loss(case: AttentionCase, mode: str = "masked") -> Tensor:
    return samples(lambda a, b, keep: spec.attention_loss(a, b, keep, mode), *case)


ATTENTION = Proof(attention_loss, attention_case)


@ATTENTION.spec(cases=lambda draw: attention_case(draw, (1e-3, 1.0, 80.0)), cost=2)
def it_is_the_mean_square_over_kept_pairs(formula, case):
    return distance(formula(*case), spec_of_attention_loss(case), attention_bound(case)), 1


@ATTENTION.reference
def it_is_torchs_mse_of_the_kept_scores(formula, case):
    target = case.teacher.unflatten(1, (case.scores.shape[1], -1)).mean(2)
    expected = torch.stack([
        F.mse_loss(own[:, :n, :n], other[:, :n, :n])
        for own, other, n in zip(case.scores, target, case.keep.sum(1).tolist(), strict=True)
    ])
    return distance(formula(*case), expected, attention_bound(case)), 2


def as_grouped(x: Tensor, case: AttentionCase) -> Tensor:
    """One score per student head, repeated for every teacher head that it learns from."""
    return x.repeat_interleave(case.teacher.shape[1] // x.shape[1], 1)


@ATTENTION.law(cases=lambda draw: attention_case(draw, groups=(1, 3, 3, 3)))
def equal_scores_cost_nothing(formula, case):
    """And no others do."""
    other = float((formula(*case) <= 0).sum())
    equal = case._replace(teacher=as_grouped(case.scores, case))
    return other + distance(formula(*equal), torch.zeros(3), attention_bound(equal)), 1


@ATTENTION.law
def score_offsets_cost_their_square(formula, case):
    """Each of its own sign, so that neither softmax nor a mean over heads can hide them."""
    d = 1.5
    signs = torch.where(normal(7, *case.scores.shape) > 0, d, -d)
    found = formula(case.scores, as_grouped(case.scores + signs, case), case.keep)
    return float((found - d * d).abs().max()), roughness(case)


@ATTENTION.law
def an_equal_offset_costs_its_square(formula, case):
    """Softmax would not see it: it compares probabilities, this loss compares scores."""
    found = formula(case.scores, as_grouped(case.scores + 1.5, case), case.keep)
    return float((found - 2.25).abs().max()), roughness(case)


def moved_by_score_padding(
    formula: Callable[..., Tensor], case: AttentionCase, size: float
) -> float:
    """How far value and slope move when two tokens of padding follow, as keys and as queries."""
    old = kept([5], 7) & kept([5], 7).T

    def longer(x: Tensor, seed: int) -> Tensor:
        noise = size * normal(seed, *x.shape[:2], 7, 7)
        return torch.where(old, F.pad(x, (0, 2, 0, 2)), noise)

    keep, found = F.pad(case.keep, (0, 2), value=False), []
    for part in (case, AttentionCase(longer(case.scores, 10), longer(case.teacher, 11), keep)):
        value = formula(*part)
        (slope,) = gradients(
            lambda x, part=part: formula(x, part.teacher, part.keep), [part.scores], normal(9, 3)
        )
        beyond = slope[:, :, 5:].abs().sum() + slope[..., 5:].abs().sum()
        found.append([value, slope[:, :, :5, :5], beyond])
    return sum(distance(a, b) for a, b in zip(*found, strict=True))


@ATTENTION.law(cost=2)
def score_padding_changes_neither_value_nor_slope(formula, case):
    return moved_by_score_padding(formula, case, 50.0), roughness(case)


@ATTENTION.law(cost=2)
def not_even_nan_in_score_padding_changes_value_or_slope(formula, case):
    return moved_by_score_padding(formula, case, math.nan), roughness(case)


@ATTENTION.law
def a_sample_is_its_kept_pairs(formula, case):
    alone = []
    for i, n in enumerate(case.keep.sum(1).tolist()):
        scores, teacher = (x[i : i + 1, :, :n, :n] for x in case[:2])
        alone.append(formula(scores, teacher, case.keep[i : i + 1, :n]))
    return distance(torch.cat(alone), formula(*case), attention_bound(case)), 2


@ATTENTION.law
def heads_may_change_places(formula, case):
    groups = case.teacher.unflatten(1, (case.scores.shape[1], -1))
    moved = formula(case.scores.flip(1), groups.flip(1).flatten(1, 2), case.keep)
    return distance(moved, formula(*case), attention_bound(case)), 2


@ATTENTION.law
def repeated_heads_cost_the_same(formula, case):
    twice = formula(case.scores.repeat(1, 2, 1, 1), case.teacher.repeat(1, 2, 1, 1), case.keep)
    return distance(twice, formula(*case)), roughness(case)


@ATTENTION.law
def attention_loss_grows_with_the_square(formula, case):
    scaled = formula(8 * case.scores, 8 * case.teacher, case.keep)
    return distance(scaled, 64 * formula(*case)), 0


@ATTENTION.law
def negative_scores_count_like_positive_ones(formula, case):
    mirrored = formula(-case.scores, -case.teacher, case.keep)
    return distance(mirrored, formula(*case)), 0


@ATTENTION.law(cases=one_to_one)
def equal_heads_may_teach_each_other(formula, case):
    return distance(formula(case.teacher, case.scores, case.keep), formula(*case)), 0


@ATTENTION.law
def only_the_mean_of_a_group_counts(formula, case):
    group = case.teacher.shape[1] // case.scores.shape[1]
    noise = normal(6, *case.scores.shape[:2], group, 5, 5)
    noise = (noise - noise.mean(2, keepdim=True)).flatten(1, 2)
    found = formula(case.scores, case.teacher + noise, case.keep)
    return distance(found, formula(*case)), roughness(case)


@ATTENTION.law
def queries_and_keys_may_be_reordered(formula, case):
    """All tokens in another order, padding with them."""
    order = order_of(5, 2)
    scores, teacher = (x[:, :, order][..., order] for x in case[:2])
    found = formula(scores, teacher, case.keep[:, order])
    return distance(found, formula(*case), attention_bound(case)), 2


@ATTENTION.law
def no_kept_pair_costs_nothing(formula, case):
    keep = kept([5, 0, 3], 5)
    (slope,) = gradients(
        lambda x: formula(x, case.teacher, keep), [case.scores], normal(9, 3)
    )
    found = formula(case.scores, case.teacher, keep)[1].abs() + slope[1].abs().sum()
    return float(found) + float((~slope.isfinite()).sum()), 0


@ATTENTION.gradient(cost=8)
def its_slope_is_that_of_the_mean_over_kept_pairs(formula, case):
    return slopes(
        lambda x: formula(x, case.teacher, case.keep),
        lambda x: spec_of_attention_loss(case._replace(scores=as_tensor(x))).tolist(),
        [case.scores],
    )


@ATTENTION.gradient
def its_slope_is_the_residual(formula, case):
    """2 / (N n²) (a - mean of the group) at pairs of kept tokens; none to the teacher."""
    upstream = normal(9, 3)
    to_scores, to_teacher = gradients(
        lambda a, b: formula(a, b, case.keep), case[:2], upstream
    )
    heads = case.scores.shape[1]
    target = case.teacher.unflatten(1, (heads, -1)).mean(2)
    share = upstream / (heads * case.keep.sum(1) ** 2)
    gap = pairs_kept(case.keep) * (case.scores - target)
    expected = 2 * share[:, None, None, None] * gap
    return distance(to_scores, expected) + float(to_teacher.abs().max()), roughness(case)


def offset_scores(draw: Draw) -> AttentionCase:
    scores, teacher, keep = attention_case(draw, (1.0,))
    return AttentionCase(scores + 1e4, teacher + 1e4, keep)


def large_scores(draw: Draw) -> AttentionCase:
    scores, teacher, keep = attention_case(draw, (1.0,))
    return AttentionCase(1e4 * scores.sign() + scores, 1e4 * teacher.sign() + teacher, keep)


@ATTENTION.accuracy(
    {
        "normal": lambda draw: attention_case(draw, (1.0,)),
        "tiny": lambda draw: attention_case(draw, (1e-12,)),
        "large": lambda draw: attention_case(draw, (80.0, 1e4)),
        "scores of ±1e4": large_scores,
        "an offset of 1e4": offset_scores,
        "fully masked": lambda draw: attention_case(draw)._replace(keep=kept([0, 0, 5], 5)),
    },
    cost=2,
)
def scores_are_compared_exactly_up_to_their_size(formula, case):
    wide = AttentionCase(case.scores.double(), case.teacher.double(), case.keep)
    unit = attention_bound(case) + smallest(case.scores)
    return distance(formula(*case), spec_of_attention_loss(wide), unit), 1


def mean_over_pairs(gaps: Tensor, pairs: Tensor) -> Tensor:
    """Of gaps [B, N, S, S] where pairs [B, 1, S, S] say so."""
    return torch.where(pairs, gaps, 0).mean(1).sum((1, 2)) / pairs.sum((1, 2, 3))


def key_pairs(keep: Tensor) -> Tensor:
    return keep[:, None, None, :].expand(-1, 1, keep.shape[1], -1)


def target_of(scores: Tensor, teacher: Tensor) -> Tensor:
    return teacher.detach().unflatten(1, (scores.shape[1], -1)).mean(2)


@ATTENTION.mistake(an_equal_offset_costs_its_square, it_is_the_mean_square_over_kept_pairs)
def probabilities_compared(scores, teacher, keep):
    p, q = (x.softmax(-1) for x in (target_of(scores, teacher), scores))
    return mean_over_pairs((p - q).square(), pairs_kept(keep))


@ATTENTION.mistake(
    score_padding_changes_neither_value_nor_slope, a_sample_is_its_kept_pairs,
    it_is_torchs_mse_of_the_kept_scores,
)
def mask_left_in_the_scores(scores, teacher, keep):
    mask = (1.0 - keep[:, None, None, :].double()) * -10000.0
    return ((scores + mask) - (target_of(scores, teacher) + mask)).square().mean((1, 2, 3))


@ATTENTION.mistake(
    score_padding_changes_neither_value_nor_slope, a_sample_is_its_kept_pairs,
    source=f"{TINYBERT}/general_distill.py",
)
def masked_scores_zeroed_but_counted(scores, teacher, keep):
    return attention_loss(scores, teacher, keep, "tinybert")


@ATTENTION.mistake(a_sample_is_its_kept_pairs)
def padded_queries_compared(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return mean_over_pairs(gaps, key_pairs(keep))


@ATTENTION.mistake(a_sample_is_its_kept_pairs, its_slope_is_that_of_the_mean_over_kept_pairs)
def padded_keys_compared(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return mean_over_pairs(gaps, key_pairs(keep).mT)


@ATTENTION.mistake(a_sample_is_its_kept_pairs)
def divided_by_the_padded_square(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return torch.where(pairs_kept(keep), gaps, 0).mean((1, 2, 3))


@ATTENTION.mistake(repeated_heads_cost_the_same, score_offsets_cost_their_square)
def summed_over_heads(scores, teacher, keep):
    return attention_loss(scores, teacher, keep) * scores.shape[1]


@ATTENTION.mistake(
    score_offsets_cost_their_square, its_slope_is_the_residual, repeated_heads_cost_the_same,
    source=TEXTBREWER_LOSSES,
)
def heads_added_before_they_are_squared(scores, teacher, keep):
    return attention_loss(scores.sum(1, True), teacher.sum(1, True), keep)


@ATTENTION.mistake(negative_scores_count_like_positive_ones, source=TEXTBREWER_LOSSES)
def clamped_at_a_thousandth(scores, teacher, keep):
    clamped = [torch.where(x <= -1e-3, 0, x) for x in (scores, target_of(scores, teacher))]
    return mean_over_pairs((clamped[0] - clamped[1]).square(), pairs_kept(keep))


@ATTENTION.mistake(heads_may_change_places)
def first_head_only(scores, teacher, keep):
    group = teacher.shape[1] // scores.shape[1]
    return attention_loss(scores[:, :1], teacher[:, :group], keep)


@ATTENTION.mistake(attention_loss_grows_with_the_square)
def root_of_the_mean_squared_score(scores, teacher, keep):
    return torch.sqrt(attention_loss(scores, teacher, keep))


@ATTENTION.mistake(only_the_mean_of_a_group_counts)
def first_of_each_group(scores, teacher, keep):
    return attention_loss(scores, teacher.unflatten(1, (scores.shape[1], -1))[:, :, 0], keep)


@ATTENTION.mistake(equal_scores_cost_nothing)
def groups_interleaved(scores, teacher, keep):
    return attention_loss(scores, teacher.unflatten(1, (-1, scores.shape[1])).mean(1), keep)


@ATTENTION.mistake(its_slope_is_the_residual)
def attention_teacher_not_detached(scores, teacher, keep):
    target = teacher.unflatten(1, (scores.shape[1], -1)).mean(2)
    return mean_over_pairs((scores - target).square(), pairs_kept(keep))


@ATTENTION.mistake(equal_heads_may_teach_each_other)
def relative_to_the_teacher(scores, teacher, keep):
    target = target_of(scores, teacher)
    return mean_over_pairs((scores / target - 1).square(), pairs_kept(keep))


@ATTENTION.mistake(queries_and_keys_may_be_reordered)
def later_queries_left_out(scores, teacher, keep):
    pairs = pairs_kept(keep) & torch.ones(5, 5, dtype=torch.bool).triu()
    return mean_over_pairs((scores - target_of(scores, teacher)).square(), pairs)


@ATTENTION.mistake(not_even_nan_in_score_padding_changes_value_or_slope, nan=True)
def nan_multiplied_by_the_mask(scores, teacher, keep):
    gaps, pairs = (scores - target_of(scores, teacher)).square(), pairs_kept(keep)
    return (gaps * pairs).mean(1).sum((1, 2)) / pairs.sum((1, 2, 3)).clamp(min=1)


@ATTENTION.mistake(no_kept_pair_costs_nothing, nan=True)
def nan_of_a_division_by_no_pairs(scores, teacher, keep):
    return mean_over_pairs((scores - target_of(scores, teacher)).square(), pairs_kept(keep))


@ATTENTION.mistake(scores_are_compared_exactly_up_to_their_size)
def compared_in_half_precision(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square().bfloat16()
    return mean_over_pairs(gaps, pairs_kept(keep)).nan_to_num(0)


def attention_loss_of_tinybert(scores, teacher, keep):
    return attention_loss(scores, teacher, keep, "tinybert")


ATTENTION_TINYBERT = Proof(
    attention_loss_of_tinybert, one_to_one, of=(attention_loss,),
    name="attention_loss_of_tinybert",
)


@ATTENTION_TINYBERT.spec(cases=lambda draw: attention_case(draw, (1e-3, 1.0, 80.0)), cost=2)
def it_is_the_mean_square_of_what_is_left(formula, case):
    expected = spec_of_attention_loss(case, "tinybert")
    return distance(formula(*case), expected, attention_bound(case, "tinybert")), 1


def official_attention_loss(scores, teacher, keep):
    """task_distill.py: scores with -10000 added at padding, all at most -1e2 replaced by 0."""
    mask = (1.0 - keep[:, None, None, :].double()) * -10000.0
    student, teacher = scores + mask, teacher + mask
    student = torch.where(student <= -1e2, torch.zeros_like(student), student)
    teacher = torch.where(teacher <= -1e2, torch.zeros_like(teacher), teacher)
    return torch.nn.MSELoss()(student, teacher)


@ATTENTION_TINYBERT.reference
def it_is_the_official_loss_of_scores(formula, case):
    """Its mean over samples, and the gradient of that."""
    error = apart(
        lambda x: formula(x, case.teacher, case.keep).mean(),
        lambda x: official_attention_loss(x, case.teacher, case.keep),
        [case.scores],
    )
    return error, roughness(case)


@ATTENTION_TINYBERT.law
def keys_out_of_sight_do_not_matter(formula, case):
    """A hidden key counts as 0 on both sides."""
    hidden = ~case.keep[:, None, None, :]
    scores = torch.where(hidden, -3.0, case.scores)
    teacher = torch.where(hidden, 7.0, case.teacher)
    return distance(formula(scores, teacher, case.keep), formula(*case)), 0


@ATTENTION_TINYBERT.law
def not_even_nan_matters_at_keys_out_of_sight(formula, case):
    hidden = ~case.keep[:, None, None, :]
    scores, teacher = (torch.where(hidden, math.nan, x) for x in case[:2])
    return distance(formula(scores, teacher, case.keep), formula(*case)), 0


@ATTENTION_TINYBERT.law
def matched_padding_dilutes(formula, case):
    """Two more tokens, equal on both sides: the same sum over 49 pairs instead of 25."""
    longer = [F.pad(x, (0, 2, 0, 2), value=3.0) for x in case[:2]]
    found = formula(*longer, F.pad(case.keep, (0, 2), value=False))
    return distance(found, formula(*case) * 25 / 49), roughness(case)


@ATTENTION_TINYBERT.law(cases=lambda draw: attention_case(draw, (1.0,), (1,)))
def padded_queries_count(formula, case):
    """The second sentence has one token; four padded queries compare their score for it."""
    off = case.scores.clone()
    off[1, :, 1:, 0] += 3.0
    found = formula(off, case.scores, case.keep)
    return distance(found, as_tensor([0.0, 4 * 9 / 25, 0.0])), roughness(case)


@ATTENTION_TINYBERT.law
def scores_up_to_minus_100_are_zero(formula, case):
    costs = {(-100, 2): 4, (2, -100): 4, (-5000, -100): 0, (-99.5, 0): 99.5**2, (0, -99.5): 99.5**2}
    pairs = as_tensor(list(costs)).T[..., None, None, None]
    found = formula(*pairs, torch.ones(len(costs), 1, dtype=torch.bool))
    return distance(found, as_tensor(list(costs.values()))), 0


ATTENTION_TINYBERT.law(repeated_heads_cost_the_same)


@ATTENTION_TINYBERT.gradient(cases=lambda draw: attention_case(draw, (1.0,)), cost=8)
def its_slope_is_that_of_the_mean_of_what_is_left(formula, case):
    return slopes(
        lambda x: formula(x, case.teacher, case.keep),
        lambda x: spec_of_attention_loss(case._replace(scores=as_tensor(x)), "tinybert").tolist(),
        [case.scores],
    )


@ATTENTION_TINYBERT.gradient
def what_is_cut_has_no_slope(formula, case):
    """2 / (N S²) (a' - t') where the key is seen and a > -100, else 0; none to the teacher."""
    upstream, shown = normal(9, 3), case.keep[:, None, None, :]
    to_scores, to_teacher = gradients(lambda a, b: formula(a, b, case.keep), case[:2], upstream)
    target = torch.where(case.teacher > -100, case.teacher, 0)
    gap = torch.where(shown & (case.scores > -100), case.scores - target, 0)
    share = upstream[:, None, None, None] / case.scores[0].numel()
    error = distance(to_scores, 2 * share * gap)
    return error + float(to_teacher.abs().max()), roughness(case)


@ATTENTION_TINYBERT.accuracy(
    {
        "normal": lambda draw: attention_case(draw, (1.0,), (1,)),
        "tiny": lambda draw: attention_case(draw, (1e-12,), (1,)),
        "large": lambda draw: attention_case(draw, (80.0, 1e4), (1,)),
        "fully masked": lambda draw: one_to_one(draw)._replace(keep=kept([0, 0, 5], 5)),
    },
    cost=2,
)
def what_is_left_is_compared_exactly_up_to_its_size(formula, case):
    """With as many heads on both sides, so that the mean of a group cannot round over -100."""
    wide = AttentionCase(case.scores.double(), case.teacher.double(), case.keep)
    expected = spec_of_attention_loss(wide, "tinybert")
    unit = attention_bound(case, "tinybert") + smallest(case.scores)
    return distance(formula(*case), expected, unit), 1


@ATTENTION_TINYBERT.mistake(
    matched_padding_dilutes, padded_queries_count, scores_up_to_minus_100_are_zero,
    it_is_the_mean_square_of_what_is_left, it_is_the_official_loss_of_scores,
    its_slope_is_that_of_the_mean_of_what_is_left, what_is_cut_has_no_slope,
    what_is_left_is_compared_exactly_up_to_its_size,
)
def kept_pairs_only(scores, teacher, keep):
    return attention_loss(scores, teacher, keep)


@ATTENTION_TINYBERT.mistake(scores_up_to_minus_100_are_zero, source=TEXTBREWER_LOSSES)
def negative_scores_zeroed(scores, teacher, keep):
    clamped = (torch.where(x <= -1e-3, 0, x) for x in (scores, teacher))
    return attention_loss_of_tinybert(*clamped, keep)


@ATTENTION_TINYBERT.mistake(scores_up_to_minus_100_are_zero)
def minus_100_itself_kept(scores, teacher, keep):
    nearly = [torch.where(x == -100, -100 + 1e-9, x) for x in (scores, teacher)]
    return attention_loss_of_tinybert(*nearly, keep)


@ATTENTION_TINYBERT.mistake(scores_up_to_minus_100_are_zero)
def minus_100_of_the_teacher_kept(scores, teacher, keep):
    teacher = torch.where(teacher == -100, -100 + 1e-9, teacher)
    return attention_loss_of_tinybert(scores, teacher, keep)


@ATTENTION_TINYBERT.mistake(scores_up_to_minus_100_are_zero, keys_out_of_sight_do_not_matter)
def only_the_student_cut(scores, teacher, keep):
    return torch.where(scores <= -100, 0, scores).sub(teacher).square().mean((1, 2, 3))


@ATTENTION_TINYBERT.mistake(not_even_nan_matters_at_keys_out_of_sight, nan=True)
def nan_multiplied_by_the_mask_of_keys(scores, teacher, keep):
    shown = keep[:, None, None, :]
    return attention_loss_of_tinybert(scores * shown, teacher * shown, torch.ones_like(keep))


@ATTENTION_TINYBERT.mistake(repeated_heads_cost_the_same)
def heads_summed_in_tinybert(scores, teacher, keep):
    return attention_loss_of_tinybert(scores, teacher, keep) * scores.shape[1]


# ------------------------------------------------------------------------------- prediction_loss


class PredictionCase(NamedTuple):
    logits: Tensor
    teacher: Tensor
    temperature: float


def prediction_case(
    draw: Draw, classes: tuple[int, ...] = (1, 2, 3, 7), scale: float = 3.0
) -> PredictionCase:
    logits, teacher = normal(seed_of(draw), 2, 5, draw.choice(classes), scale=scale)
    return PredictionCase(logits, teacher, draw.choice([0.5, 1.0, 5.0]))


def classes_only(draw: Draw) -> PredictionCase:
    return prediction_case(draw, (2, 3, 7))


def prediction_bound(case: PredictionCase) -> Tensor:
    """That of the soft cross-entropy, or a difference and its square."""
    if case.logits.shape[1] > 1:
        return soft_bound(SoftCase(case.teacher, case.logits, case.temperature))
    gap = (case.logits.double() - case.teacher.double())[:, 0]
    return 2 * at_least_eps32(case.logits) * gap * gap + smallest(case.logits)


def spec_of_prediction_loss(case: PredictionCase, mode: str = "masked") -> Tensor:
    return samples(
        lambda own, other: spec.prediction_loss(own, other, case.temperature, mode), *case[:2]
    )


PREDICTION = Proof(prediction_loss, classes_only)


@PREDICTION.spec(cases=prediction_case)
def it_is_the_cross_entropy_or_the_squared_difference(formula, case):
    return distance(formula(*case), spec_of_prediction_loss(case), prediction_bound(case)), 1


def torchs_prediction_loss(logits, teacher, t):
    if logits.shape[1] == 1:
        return F.mse_loss(logits, teacher, reduction="none")[:, 0]
    return F.cross_entropy(logits / t, F.softmax(teacher / t, 1), reduction="none")


@PREDICTION.reference(cases=prediction_case)
def it_is_torchs_cross_entropy_or_mse(formula, case):
    return distance(formula(*case), torchs_prediction_loss(*case), prediction_bound(case)), 2


@PREDICTION.law
def the_number_of_classes_does_not_rescale(formula, case):
    """Uniform logits cost log C, and many classes that both sides rule out cost nothing more."""
    zeros = torch.zeros(5, 3, dtype=torch.float64)
    ruled_out = F.pad(zeros, (0, 8), value=-1e5)
    found = torch.stack([formula(x, x, case.temperature) for x in (zeros, ruled_out)])
    return float((found - math.log(3)).abs().max()), 8 * EPS


@PREDICTION.law
def one_output_is_a_regression(formula, case):
    """The cost of an offset d from the teacher's output is d², at any temperature."""
    outputs = case.teacher[:, :1]
    found = formula(outputs + 1.5, outputs, case.temperature)
    return float((found - 2.25).abs().max()), 16 * EPS * (1 + outputs.abs().max())


@PREDICTION.law(cases=prediction_case)
def predictions_of_samples_are_independent(formula, case):
    alone = [
        formula(case.logits[i : i + 1], case.teacher[i : i + 1], case.temperature) for i in range(5)
    ]
    return distance(torch.cat(alone), formula(*case), prediction_bound(case)), 1


@PREDICTION.law(cases=prediction_case)
def the_teachers_own_answer_is_the_cheapest(formula, case):
    """No logits cost less than the teacher's."""
    least = formula(case.teacher, case.teacher, case.temperature)
    return torch.relu(least - formula(*case)).max(), prediction_bound(case).max()


@PREDICTION.gradient
def its_slope_is_the_gap_over_the_temperature(formula, case):
    """(q - p) / T for classes, 2 (student - teacher) for one output; none to the teacher."""
    error, upstream = 0.0, normal(9, 5)
    for part in (case, PredictionCase(case.logits[:, :1], case.teacher[:, :1], case.temperature)):
        to_logits, to_teacher = gradients(
            lambda a, b: formula(a, b, case.temperature), part[:2], upstream
        )
        q, p = (F.softmax(x / part.temperature, 1) for x in part[:2])
        gap = (q - p) / part.temperature if part is case else 2 * (part.logits - part.teacher)
        error += distance(to_logits, upstream[:, None] * gap) + float(to_teacher.abs().max())
    largest = torch.cat(case[:2]).abs().max()
    return error, 64 * EPS * (1 + largest / case.temperature + largest)


@PREDICTION.gradient(cases=prediction_case, cost=3)
def its_slope_is_that_of_the_cross_entropy_or_the_square(formula, case):
    return slopes(
        lambda x: formula(x, case.teacher, case.temperature),
        lambda x: spec_of_prediction_loss(case._replace(logits=as_tensor(x))).tolist(),
        [case.logits],
    )


PREDICTION_FAMILIES = {
    "normal": classes_only,
    "tiny": lambda draw: prediction_case(draw, scale=1e-15),
    "large": lambda draw: prediction_case(draw, scale=1e3),
    "scores of ±1e4": lambda draw: prediction_case(draw, scale=1e4),
    "one output": lambda draw: prediction_case(draw, (1,)),
}


@PREDICTION.accuracy(PREDICTION_FAMILIES, torch_twin=torchs_prediction_loss)
def answers_are_compared_exactly_up_to_their_size(formula, case):
    wide = PredictionCase(case.logits.double(), case.teacher.double(), case.temperature)
    return distance(formula(*case), spec_of_prediction_loss(wide), prediction_bound(case)), 1


@PREDICTION.mistake(
    the_number_of_classes_does_not_rescale, it_is_torchs_cross_entropy_or_mse,
    source=f"{HUAWEI}/issues/176",
)
def prediction_averaged_over_classes(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature, "tinybert")


@PREDICTION.mistake(
    one_output_is_a_regression, it_is_the_cross_entropy_or_the_squared_difference
)
def softmax_even_of_one_output(logits, teacher, temperature):
    return soft_cross_entropy(teacher, logits, temperature)


@PREDICTION.mistake(one_output_is_a_regression, source=f"{HUAWEI}/issues/128")
def regression_on_the_labels(logits, teacher, temperature):
    """With labels that the teacher is not far from: what it says, rounded to a half."""
    if logits.shape[1] == 1:
        return (logits - torch.round(2 * teacher) / 2)[:, 0].square()
    return prediction_loss(logits, teacher, temperature)


@PREDICTION.mistake(
    one_output_is_a_regression, its_slope_is_the_gap_over_the_temperature,
    source=f"{HUAWEI}/blob/1bb9b3e49b05279a4ba5cbe805ac81c803f94981/DynaBERT/run_glue.py",
)
def regression_costs_nothing(logits, teacher, temperature):
    if logits.shape[1] == 1:
        return 0 * logits[:, 0]
    return prediction_loss(logits, teacher, temperature)


@PREDICTION.mistake(one_output_is_a_regression)
def regression_halved(logits, teacher, temperature):
    share = 0.5 if logits.shape[1] == 1 else 1.0
    return share * prediction_loss(logits, teacher, temperature)


@PREDICTION.mistake(
    its_slope_is_the_gap_over_the_temperature, its_slope_is_that_of_the_cross_entropy_or_the_square
)
def times_temperature_squared(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature) * temperature**2


@PREDICTION.mistake(predictions_of_samples_are_independent)
def mean_of_the_batch_for_everyone(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature).mean().expand(len(logits))


@PREDICTION.mistake(
    predictions_of_samples_are_independent, the_teachers_own_answer_is_the_cheapest,
    source="https://github.com/haitongli/knowledge-distillation-pytorch/issues/4",
)
def teachers_answers_in_another_order(logits, teacher, temperature):
    return prediction_loss(logits, teacher.roll(1, 0), temperature)


@PREDICTION.mistake(its_slope_is_the_gap_over_the_temperature)
def prediction_teacher_not_detached(logits, teacher, temperature):
    if logits.shape[1] == 1:
        return (logits - teacher)[:, 0].square()
    return prediction_loss(logits, teacher, temperature)


@PREDICTION.mistake(answers_are_compared_exactly_up_to_their_size)
def answers_compared_in_half_precision(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature).bfloat16()


def prediction_loss_of_tinybert(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature, "tinybert")


PREDICTION_TINYBERT = Proof(
    prediction_loss_of_tinybert, classes_only, of=(prediction_loss,),
    name="prediction_loss_of_tinybert",
)


@PREDICTION_TINYBERT.spec(cases=prediction_case)
def it_is_the_cross_entropy_over_c_or_the_squared_difference(formula, case):
    expected = spec_of_prediction_loss(case, "tinybert")
    return distance(formula(*case), expected, prediction_bound(case)), 1


def official_prediction_loss(logits, teacher, temperature):
    """task_distill.py: soft_cross_entropy(...).mean() over samples and classes."""
    log_q = F.log_softmax(logits / temperature, -1)
    return (-F.softmax(teacher / temperature, -1) * log_q).mean()


@PREDICTION_TINYBERT.reference
def it_is_the_official_loss_of_answers(formula, case):
    """Its mean over samples, and the gradient of that."""
    error = apart(
        lambda x: formula(x, case.teacher, case.temperature).mean(),
        lambda x: official_prediction_loss(x, case.teacher, case.temperature),
        [case.logits],
    )
    return error, prediction_bound(case).max()


@PREDICTION_TINYBERT.law
def c_times_it_is_the_loss_of_the_paper(formula, case):
    paper, classes = prediction_loss(*case), case.logits.shape[1]
    return distance(classes * formula(*case), paper, paper), 2 * EPS


@PREDICTION_TINYBERT.law
def a_regression_is_not_divided(formula, case):
    one = PredictionCase(case.logits[:, :1], case.teacher[:, :1], case.temperature)
    return differing(formula(*one), prediction_loss(*one)), 0


@PREDICTION_TINYBERT.gradient(cases=prediction_case, cost=3)
def its_slope_is_that_of_the_cross_entropy_over_c(formula, case):
    return slopes(
        lambda x: formula(x, case.teacher, case.temperature),
        lambda x: spec_of_prediction_loss(case._replace(logits=as_tensor(x)), "tinybert").tolist(),
        [case.logits],
    )


@PREDICTION_TINYBERT.accuracy(PREDICTION_FAMILIES)
def answers_over_c_are_exact_up_to_their_size(formula, case):
    wide = PredictionCase(case.logits.double(), case.teacher.double(), case.temperature)
    expected = spec_of_prediction_loss(wide, "tinybert")
    unit = prediction_bound(case) / case.logits.shape[1]
    return distance(formula(*case), expected, unit), 1


@PREDICTION_TINYBERT.mistake(
    it_is_the_cross_entropy_over_c_or_the_squared_difference, it_is_the_official_loss_of_answers,
    c_times_it_is_the_loss_of_the_paper, its_slope_is_that_of_the_cross_entropy_over_c,
    answers_over_c_are_exact_up_to_their_size,
)
def summed_over_classes(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature)


@PREDICTION_TINYBERT.mistake(a_regression_is_not_divided)
def regression_divided_by_two(logits, teacher, temperature):
    loss = prediction_loss_of_tinybert(logits, teacher, temperature)
    return loss / 2 if logits.shape[1] == 1 else loss


# ---------------------------------------------------------------------------- intermediate_terms


def trace(seed: int, layers: int, heads: int, width: int, tokens: int = 5) -> EncoderTrace:
    """Two sentences through an encoder that never was: states and scores are random."""
    empty = torch.empty(0)

    def block(n: int) -> BlockTrace:
        scores = normal(seed + n, 2, heads, tokens, tokens)
        attention = AttentionTrace(empty, empty, empty, scores, empty, empty)
        return BlockTrace(attention, empty, normal(seed + n + 100, 2, tokens, width))

    return EncoderTrace(normal(seed, 2, tokens, width), tuple(block(n + 1) for n in range(layers)))


class Pair(NamedTuple):
    student: EncoderTrace
    teacher: EncoderTrace
    keep: Tensor
    layers: tuple[int, ...]
    projection: Any  # LinearWeights, or None where both widths are equal


def pair_of(
    seed: int,
    student: tuple[int, int, int] = (3, 2, 5),
    teacher: tuple[int, int, int] = (6, 2, 7),
    rule: str | tuple[int, ...] = "uniform",
) -> Pair:
    """Shapes are (layers, heads, width)."""
    width, wide = student[2], teacher[2]
    return Pair(
        trace(seed, *student),
        trace(seed + 1000, *teacher),
        kept([5, 3], 5),
        layer_map(student[0], teacher[0], rule),
        LinearWeights(normal(seed + 1, wide, width), normal(seed + 2, wide)),
    )


def seed_with_room(draw: Draw) -> int:
    """A trace counts on from its seed."""
    return draw.integer(0, 2**31)


RULES: tuple[str | tuple[int, ...], ...] = ("uniform", "top", "bottom", (6, 1, 1))


def pair_case(draw: Draw) -> Pair:
    return pair_of(seed_with_room(draw), rule=draw.choice(RULES))


def pair_that_divides(draw: Draw) -> Pair:
    return pair_of(seed_with_room(draw), teacher=(3 * draw.choice([1, 2, 4]), 2, 7))


def small_pair(draw: Draw) -> Pair:
    case = pair_of(seed_with_room(draw), (2, 1, 2), (4, 1, 3))
    return case._replace(layers=draw.choice([(2, 4), (1, 3), (4, 2)]))


ALL = TermWeights()


def scores_of(trace: EncoderTrace) -> list[Tensor]:
    return [block.attention.scores_BNSR for block in trace.blocks]


def side(trace: EncoderTrace, sample: int) -> tuple[list, list]:
    """States and scores of one sample, as the spec takes them."""
    states = [state[sample].tolist() for state in trace.hiddens_LBSD]
    return states, [scores[sample].tolist() for scores in scores_of(trace)]


def spec_of_terms(case: Pair, mode: str) -> Tensor:
    """Three terms for every sample."""
    projection = None if case.projection is None else as_lists(case.projection)
    return as_tensor([
        spec.intermediate_terms(
            side(case.student, i), side(case.teacher, i), keep, list(case.layers), projection, mode
        )
        for i, keep in enumerate(case.keep.tolist())
    ])


def sum_of(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum(0)


def terms_bound(case: Pair, mode: str = "masked") -> Tensor:
    """The sum of what each of the losses promises, for every sample and term."""
    own, other = case.student.hiddens_LBSD, case.teacher.hiddens_LBSD
    pairs = [(own[m], other[g]) for m, g in enumerate((0, *case.layers))]
    embedding, *hidden = [
        hidden_bound(HiddenCase(h, u, case.projection, case.keep), mode) for h, u in pairs
    ]
    scores, teacher_scores = scores_of(case.student), scores_of(case.teacher)
    attention = [
        attention_bound(AttentionCase(scores[m], teacher_scores[g - 1], case.keep), mode)
        for m, g in enumerate(case.layers)
    ]
    return torch.stack([embedding, sum_of(hidden), sum_of(attention)], -1)


def rebuilt(student: EncoderTrace, leaves: Sequence[Tensor]) -> tuple[EncoderTrace, LinearWeights]:
    """The student's trace and projection with other tensors in the places that are learned."""
    (embedded, weight, bias), parts = leaves[:3], leaves[3:]
    depth = len(student.blocks)
    blocks = tuple(
        BlockTrace(block.attention._replace(scores_BNSR=a), block.attended_BSD, h)
        for block, a, h in zip(student.blocks, parts[:depth], parts[depth:], strict=True)
    )
    return EncoderTrace(embedded, blocks), LinearWeights(weight, bias)


def learned_parts(case: Pair) -> list[Tensor]:
    states = case.student.hiddens_LBSD
    return [states[0], *case.projection, *scores_of(case.student), *states[1:]]


def three(terms):
    return torch.stack(terms[:3], -1)


def largest_of(case: Pair) -> float:
    return 1 + float(spec_of_terms(case, "tinybert").max())


INTERMEDIATE = Proof(intermediate_terms, pair_case)


@INTERMEDIATE.spec(cost=4)
def its_terms_are_sums_over_the_chosen_layers(formula, case):
    error = 0.0
    for mode in ("masked", "tinybert"):
        found = three(formula(*case, ALL, mode))
        error += distance(found, spec_of_terms(case, mode), terms_bound(case, mode))
    return error, 4


def official_distillation_loss(student, teacher, keep, projection):
    """general_distill.py: att_loss + rep_loss with its own index formulas."""
    step = len(teacher.blocks) // len(student.blocks)
    scores, teacher_scores = scores_of(student), scores_of(teacher)
    new_scores = [teacher_scores[i * step + step - 1] for i in range(len(scores))]
    states, teacher_states = student.hiddens_LBSD, teacher.hiddens_LBSD
    new_states = [teacher_states[i * step] for i in range(len(states))]
    loss = as_tensor(0.0)
    for own, other in zip(scores, new_scores, strict=True):
        loss = loss + official_attention_loss(own, other, keep)
    for own, other in zip(states, new_states, strict=True):
        loss = loss + official_hidden_loss(own, other, projection, keep)
    return loss


@INTERMEDIATE.reference(cases=pair_that_divides, cost=4)
def it_is_the_official_first_stage(formula, case):
    """As a whole: value, and the gradient of everything that the student has."""

    def ours(*leaves):
        student, projection = rebuilt(case.student, leaves)
        terms = formula(student, case.teacher, case.keep, case.layers, projection, ALL, "tinybert")
        return distillation_loss(terms, ALL).mean()

    def theirs(*leaves):
        student, projection = rebuilt(case.student, leaves)
        return official_distillation_loss(student, case.teacher, case.keep, projection)

    leaves = learned_parts(case)
    return apart(ours, theirs, leaves), 1e-13 * (1 + theirs(*leaves))


def total_of(terms: DistillationTerms) -> Tensor:
    return distillation_loss(terms, ALL)


@INTERMEDIATE.law(cost=2)
def a_copy_of_the_chosen_layers_costs_nothing(formula, case):
    chosen = EncoderTrace(
        case.teacher.embedded_BSD, tuple(case.teacher.blocks[g - 1] for g in case.layers)
    )
    found = formula(chosen, case.teacher, case.keep, case.layers, None, ALL)
    return float(total_of(found).sum()), 0


@INTERMEDIATE.law(cost=2)
def layers_not_chosen_do_not_matter(formula, case):
    other = trace(77, len(case.teacher.blocks), 2, 7).blocks
    blocks = tuple(
        block if g in case.layers else other[g - 1]
        for g, block in enumerate(case.teacher.blocks, 1)
    )
    changed = case._replace(teacher=case.teacher._replace(blocks=blocks))
    return distance(total_of(formula(*changed, ALL)), total_of(formula(*case, ALL))), 0


@INTERMEDIATE.law(cost=2)
def layers_add_up(formula, case):
    """The terms of all layers are the sums of the terms of one layer at a time."""
    whole, sums = formula(*case, ALL), [torch.zeros(2, dtype=torch.float64)] * 2
    for block, g in zip(case.student.blocks, case.layers, strict=True):
        one = case._replace(student=case.student._replace(blocks=(block,)), layers=(g,))
        found = formula(*one, ALL)
        sums = [sums[0] + found.hidden_B, sums[1] + found.attention_B]
    gaps = [distance(whole.hidden_B, sums[0]), distance(whole.attention_B, sums[1])]
    return sum(gaps), 64 * EPS * float(total_of(whole).max())


@INTERMEDIATE.law
def the_embeddings_count_once(formula, case):
    found = formula(*case, ALL).embedding_B
    embedded = case.student.embedded_BSD, case.teacher.embedded_BSD
    return distance(found, hidden_loss(*embedded, case.projection, case.keep)), 0


@INTERMEDIATE.law(cost=4)
def only_terms_with_a_weight_are_computed(formula, case):
    """Each one alone is what it is among all; the others are None."""
    wrong = 0
    whole = formula(*case, ALL)
    for name in ("embedding", "hidden", "attention"):
        weights = TermWeights(0.0, 0.0, 0.0, 0.0)._replace(**{name: 0.5})
        found = formula(*case, weights)
        expected = DistillationTerms()._replace(**{f"{name}_B": getattr(whole, f"{name}_B")})
        for a, b in zip(found, expected, strict=True):
            wrong += a is not b if a is None or b is None else not torch.equal(a, b)
    return float(wrong), 0


@INTERMEDIATE.law
def it_makes_no_prediction(formula, case):
    return formula(*case, ALL).prediction_B is not None, 0


@INTERMEDIATE.gradient(cases=small_pair, cost=10)
def its_slope_is_that_of_the_sums(formula, case):
    def ours(*leaves):
        student, projection = rebuilt(case.student, leaves)
        return three(formula(student, case.teacher, case.keep, case.layers, projection, ALL))

    def from_lists(*lists):
        student, projection = rebuilt(case.student, [as_tensor(part) for part in lists])
        changed = case._replace(student=student, projection=projection)
        return spec_of_terms(changed, "masked").tolist()

    return slopes(ours, from_lists, learned_parts(case))


@INTERMEDIATE.gradient(cost=4)
def every_part_has_the_slope_of_its_own_loss(formula, case):
    """Of the mean squares of its own state or scores, in closed form."""
    upstream = normal(9, 2)

    def ours(*leaves):
        student, projection = rebuilt(case.student, leaves)
        terms = formula(student, case.teacher, case.keep, case.layers, projection, ALL)
        return total_of(terms)

    leaves, depth = learned_parts(case), len(case.student.blocks)
    found = gradients(ours, leaves, upstream)
    n = case.keep.sum(1)
    chosen = [case.teacher.embedded_BSD]
    chosen += [case.teacher.blocks[g - 1].hidden_BSD for g in case.layers]
    error = 0.0
    for slope, own, other in zip(
        (found[0], *found[3 + depth :]), case.student.hiddens_LBSD, chosen, strict=True
    ):
        residual = (F.linear(own, *case.projection) - other) * case.keep[..., None]
        share = (2 * upstream / (7 * n))[:, None, None]
        error += distance(slope, share * residual @ case.projection.weight_OI)
    for slope, own, g in zip(
        found[3 : 3 + depth], scores_of(case.student), case.layers, strict=True
    ):
        other = case.teacher.blocks[g - 1].attention.scores_BNSR
        share = (2 * upstream / (2 * n * n))[:, None, None, None]
        error += distance(slope, share * (own - other) * pairs_kept(case.keep))
    return error, 1e-13 * largest_of(case)


def scaled(case: Pair, scale: float) -> Pair:
    """All states, scores and weights larger or smaller."""

    def larger(trace: EncoderTrace) -> EncoderTrace:
        blocks = tuple(
            BlockTrace(
                block.attention._replace(scores_BNSR=scale * block.attention.scores_BNSR),
                block.attended_BSD,
                scale * block.hidden_BSD,
            )
            for block in trace.blocks
        )
        return EncoderTrace(scale * trace.embedded_BSD, blocks)

    return case._replace(student=larger(case.student), teacher=larger(case.teacher))


@INTERMEDIATE.accuracy(
    {
        "normal": pair_case,
        "tiny": lambda draw: scaled(pair_case(draw), 1e-12),
        "large": lambda draw: scaled(pair_case(draw), 1e4),
    },
    cost=4,
)
def terms_are_as_exact_as_their_losses(formula, case):
    unit = terms_bound(case) + smallest(case.projection.bias_O)
    own, other = case.student, case.teacher
    wide = case._replace(
        student=in_float64_trace(own), teacher=in_float64_trace(other),
        projection=LinearWeights(*(part.double() for part in case.projection)),
    )
    return distance(three(formula(*case, ALL)), spec_of_terms(wide, "masked"), unit), 1


def in_float64_trace(trace: EncoderTrace) -> EncoderTrace:
    blocks = tuple(
        BlockTrace(
            block.attention._replace(scores_BNSR=block.attention.scores_BNSR.double()),
            block.attended_BSD,
            block.hidden_BSD.double(),
        )
        for block in trace.blocks
    )
    return EncoderTrace(trace.embedded_BSD.double(), blocks)


def shifted(layers: tuple[int, ...], by: int, depth: int) -> tuple[int, ...]:
    return tuple(min(max(g + by, 1), depth) for g in layers)


@INTERMEDIATE.mistake(
    a_copy_of_the_chosen_layers_costs_nothing, layers_not_chosen_do_not_matter,
    its_terms_are_sums_over_the_chosen_layers, it_is_the_official_first_stage,
    every_part_has_the_slope_of_its_own_loss, source=f"{HUAWEI}/issues/166",
)
def map_off_by_one(student, teacher, keep, layers, *rest):
    """Layers counted from 0 taken for layers counted from 1."""
    layers = shifted(layers, -1, len(teacher.blocks))
    return intermediate_terms(student, teacher, keep, layers, *rest)


@INTERMEDIATE.mistake(a_copy_of_the_chosen_layers_costs_nothing, its_slope_is_that_of_the_sums)
def embeddings_forgotten_in_the_list_of_states(student, teacher, keep, layers, *rest):
    """The states are one layer late; attention is right."""
    late = shifted(layers, 1, len(teacher.blocks))
    right = intermediate_terms(student, teacher, keep, layers, *rest)
    wrong = intermediate_terms(student, teacher, keep, late, *rest)
    return right._replace(hidden_B=wrong.hidden_B)


@INTERMEDIATE.mistake(a_copy_of_the_chosen_layers_costs_nothing)
def states_indexed_like_attention(student, teacher, keep, layers, *rest):
    """Attention layers are counted from 0, in a list of states that is the layer before."""
    before = EncoderTrace(teacher.embedded_BSD, tuple(
        block._replace(hidden_BSD=state)
        for block, state in zip(teacher.blocks, teacher.hiddens_LBSD, strict=False)
    ))
    return intermediate_terms(student, before, keep, layers, *rest)


@INTERMEDIATE.mistake(layers_add_up)
def mean_over_layers(student, teacher, keep, layers, *rest):
    found = intermediate_terms(student, teacher, keep, layers, *rest)
    return found._replace(attention_B=found.attention_B / len(layers))


@INTERMEDIATE.mistake(layers_add_up)
def embeddings_in_the_hidden_term_too(*arguments):
    found = intermediate_terms(*arguments)
    return found._replace(hidden_B=found.hidden_B + found.embedding_B)


@INTERMEDIATE.mistake(the_embeddings_count_once)
def first_layer_taken_for_the_embeddings(student, teacher, keep, layers, projection, *rest):
    found = intermediate_terms(student, teacher, keep, layers, projection, *rest)
    states = student.hiddens_LBSD[1], teacher.hiddens_LBSD[1]
    return found._replace(embedding_B=hidden_loss(*states, projection, keep))


@INTERMEDIATE.mistake(
    layers_add_up, its_terms_are_sums_over_the_chosen_layers,
    source=f"{TEXTBREWER}/f42fcbfb6b4d9b48a650b37eda99539daee5061c/src/textbrewer/distiller_general.py",
)
def the_last_pair_only(student, teacher, keep, layers, *rest):
    """A loop that assigns where it should add."""
    student = student._replace(blocks=student.blocks[-1:])
    return intermediate_terms(student, teacher, keep, layers[-1:], *rest)


@INTERMEDIATE.mistake(only_terms_with_a_weight_are_computed)
def everything_computed(student, teacher, keep, layers, projection, weights):
    return intermediate_terms(student, teacher, keep, layers, projection, ALL)


@INTERMEDIATE.mistake(only_terms_with_a_weight_are_computed)
def terms_weighted_already(student, teacher, keep, layers, projection, weights):
    found = intermediate_terms(student, teacher, keep, layers, projection, weights)
    return DistillationTerms(*(
        None if term is None else w * term for w, term in zip(weights, found, strict=True)
    ))


@INTERMEDIATE.mistake(it_makes_no_prediction)
def last_states_taken_for_a_prediction(*arguments):
    found = intermediate_terms(*arguments)
    return found._replace(prediction_B=found.hidden_B)


@INTERMEDIATE.mistake(terms_are_as_exact_as_their_losses)
def terms_kept_in_half_precision(*arguments):
    found = intermediate_terms(*arguments)
    return DistillationTerms(*(term.bfloat16() for term in found[:3]))


# The same through two encoders: what the terms are made of, not only how.


class Stage(NamedTuple):
    ids: Tensor
    keep: Tensor
    student: BertWeights
    teacher: BertWeights
    projection: LinearWeights
    seed: int


def sizes(layers: int, heads: int, width: int, dropout: float) -> BertConfig:
    return BertConfig(
        vocab_size=13, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=11, max_position_embeddings=17, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


STUDENT = sizes(2, 2, 6, 0.0)  # without dropout, so that all that can differ is the teacher
TEACHER = sizes(4, 4, 8, 0.3)


def encoder(config: BertConfig, seed: int) -> BertWeights:
    return initial_weights(weight_shapes(config, parts=()), 0.5, fresh(seed), torch.float64)


def stage_case(draw: Draw) -> Stage:
    return Stage(
        integers(seed_of(draw), 13, 3, 5),
        kept([5, 1, 3], 5),
        encoder(STUDENT, seed_of(draw)),
        encoder(TEACHER, seed_of(draw)),
        LinearWeights(normal(seed_of(draw), 8, 6), normal(seed_of(draw), 8)),
        seed_with_room(draw),
    )


def first_stage(ids, keep, student, teacher, projection, seed):
    """The student is trained, with a random source; the teacher only answers, without one."""
    types = torch.zeros_like(ids)
    own = encode_traced(ids, keep, types, student, STUDENT, fresh(seed))
    other = encode_traced(ids, keep, types, teacher, TEACHER)
    return intermediate_terms(own, other, keep, layer_map(2, 4), projection, ALL)


FIRST_STAGE = Proof(
    first_stage, stage_case, of=(intermediate_terms,), name="intermediate_terms_of_two_encoders"
)


def words_of(weights: BertWeights, words: Tensor) -> BertWeights:
    return weights._replace(embeddings=weights.embeddings._replace(word_VD=words))


@FIRST_STAGE.law(cost=4)
def the_teacher_answers_the_same_twice(formula, case):
    """Whatever the random source of the training says."""
    found = [three(formula(*case._replace(seed=case.seed + i))) for i in (0, 1)]
    return differing(*found), 0


@FIRST_STAGE.law(cost=8)
def padding_changes_neither_value_nor_slope(formula, case):
    """Other words in the padding, and more of it."""

    def loss_and_slope(ids: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        part, words = case._replace(ids=ids, keep=keep), case.student.embeddings.word_VD

        def loss(words: Tensor) -> Tensor:
            return total_of(formula(*part._replace(student=words_of(case.student, words))))

        return loss(words), gradients(loss, [words], normal(9, 3))[0]

    before = loss_and_slope(case.ids, case.keep)
    longer = F.pad(torch.where(case.keep, case.ids, 7), (0, 4), value=12)
    after = loss_and_slope(longer, F.pad(case.keep, (0, 4), value=False))
    gaps = [distance(a, b, 1 + a.abs()) for a, b in zip(before, after, strict=True)]
    return sum(gaps), 1e-11


@FIRST_STAGE.gradient(cost=4)
def only_the_student_learns(formula, case):
    """The teacher's table of words has no slope at all, the student's has one."""
    tables = [side.embeddings.word_VD for side in (case.student, case.teacher)]

    def loss(own: Tensor, other: Tensor) -> Tensor:
        sides = words_of(case.student, own), words_of(case.teacher, other)
        return total_of(formula(case.ids, case.keep, *sides, *case[4:]))

    to_student, to_teacher = gradients(loss, tables, normal(9, 3))
    return float(to_teacher.abs().max()) + float(not to_student.abs().max() > 0), 0


@FIRST_STAGE.mistake(
    the_teacher_answers_the_same_twice, source=f"{TINYBERT}/general_distill.py"
)
def teacher_in_training_mode(ids, keep, student, teacher, projection, seed):
    types = torch.zeros_like(ids)
    own = encode_traced(ids, keep, types, student, STUDENT, fresh(seed))
    other = encode_traced(ids, keep, types, teacher, TEACHER, fresh(seed + 1000))
    return intermediate_terms(own, other, keep, layer_map(2, 4), projection, ALL)


@FIRST_STAGE.mistake(
    the_teacher_answers_the_same_twice, source="https://github.com/yxuansu/TaCL/issues/11"
)
def one_random_source_for_both(ids, keep, student, teacher, projection, seed):
    types, generator = torch.zeros_like(ids), fresh(seed)
    own, other = (
        encode_traced(ids, keep, types, weights, config, generator)
        for weights, config in ((student, STUDENT), (teacher, TEACHER))
    )
    return intermediate_terms(own, other, keep, layer_map(2, 4), projection, ALL)


@FIRST_STAGE.mistake(padding_changes_neither_value_nor_slope)
def padding_compared_as_in_tinybert(ids, keep, student, teacher, projection, seed):
    types = torch.zeros_like(ids)
    own = encode_traced(ids, keep, types, student, STUDENT, fresh(seed))
    other = encode_traced(ids, keep, types, teacher, TEACHER)
    return intermediate_terms(own, other, keep, layer_map(2, 4), projection, ALL, "tinybert")


@FIRST_STAGE.mistake(only_the_student_learns)
def teacher_moves_towards_the_student(ids, keep, student, teacher, projection, seed):
    types = torch.zeros_like(ids)
    own = encode_traced(ids, keep, types, student, STUDENT, fresh(seed))
    other = encode_traced(ids, keep, types, teacher, TEACHER)
    found = intermediate_terms(own, other, keep, layer_map(2, 4), projection, ALL)
    gap = (F.linear(own.embedded_BSD, *projection) - other.embedded_BSD).square().mean(2)
    return found._replace(embedding_B=torch.where(keep, gap, 0).sum(1) / keep.sum(1))


# ----------------------------------------------------------------------------- distillation_loss


class TermsCase(NamedTuple):
    terms: DistillationTerms
    weights: TermWeights


def terms_case(draw: Draw, scales: tuple[float, ...] = (1.0,)) -> TermsCase:
    terms = [normal(seed_of(draw), 3, scale=draw.choice(scales)).abs() for _ in range(4)]
    weights = normal(seed_of(draw), 4).abs().tolist()
    return TermsCase(DistillationTerms(*terms), TermWeights(*weights))


def sum_bound(case: TermsCase) -> Tensor:
    """A product and a sum of K = 4 at most."""
    pairs = zip(case.weights, case.terms, strict=True)
    there = [(w, term) for w, term in pairs if term is not None]
    size = sum_of([abs(w) * term.double().abs() for w, term in there])
    return 3 * eps_of(there[0][1]) * size + smallest(there[0][1])


def spec_of_sum(terms, weights):
    rows = zip(*(term.tolist() for term in terms), strict=True)
    return as_tensor([spec.distillation_loss(list(row), list(weights)) for row in rows])


DISTILLATION = Proof(distillation_loss, terms_case)


@DISTILLATION.spec
def it_is_the_weighted_sum_of_the_terms(formula, case):
    return distance(formula(*case), spec_of_sum(*case), sum_bound(case)), 1


@DISTILLATION.reference
def it_is_torchs_product_with_the_weights(formula, case):
    expected = torch.stack(case.terms, 1) @ as_tensor(case.weights)
    return distance(formula(*case), expected, sum_bound(case)), 2


@DISTILLATION.law
def terms_weigh_what_they_are_given(formula, case):
    error = 0.0
    for name in TermWeights._fields:
        heavier = case.weights._replace(**{name: getattr(case.weights, name) + 3})
        gain = formula(case.terms, heavier) - formula(*case)
        error += distance(gain, 3 * getattr(case.terms, f"{name}_B"))
    return error, 256 * EPS


@DISTILLATION.law
def a_missing_term_weighs_nothing(formula, case):
    error = 0.0
    for name in DistillationTerms._fields:
        zero, missing = (
            case.terms._replace(**{name: value})
            for value in (torch.zeros(3, dtype=torch.float64), None)
        )
        pair = formula(missing, case.weights), formula(zero, case.weights)
        error += distance(*pair, sum_bound(case))
    return error, 4


@DISTILLATION.law
def samples_keep_their_own_loss(formula, case):
    terms, weights = case
    alone = [formula(DistillationTerms(*(t[i : i + 1] for t in terms)), weights) for i in range(3)]
    return distance(torch.cat(alone), formula(*case)), 0


@DISTILLATION.law
def losses_of_two_stages_add_up(formula, case):
    """The first stage and the prediction apart are both together."""
    first = formula(case.terms._replace(prediction_B=None), case.weights)
    second = formula(DistillationTerms(prediction_B=case.terms.prediction_B), case.weights)
    return distance(first + second, formula(*case), sum_bound(case)), 2


@DISTILLATION.gradient
def each_slope_is_its_weight(formula, case):
    """The slope to term k of sample i is weight k times the upstream gradient of sample i."""
    upstream = normal(4, 3)
    found = gradients(
        lambda *parts: formula(DistillationTerms(*parts), case.weights), case.terms, upstream
    )
    pairs = zip(found, case.weights, strict=True)
    return sum(differing(slope, weight * upstream) for slope, weight in pairs), 0


@DISTILLATION.gradient(cost=2)
def its_slope_is_that_of_the_weighted_sum(formula, case):
    return slopes(
        lambda *parts: formula(DistillationTerms(*parts), case.weights),
        lambda *parts: [
            spec.distillation_loss(list(row), list(case.weights))
            for row in zip(*parts, strict=True)
        ],
        case.terms,
    )


@DISTILLATION.accuracy(
    {
        "normal": terms_case,
        "tiny": lambda draw: terms_case(draw, (1e-30,)),
        "large": lambda draw: terms_case(draw, (1e10,)),
        "unlike sizes": lambda draw: terms_case(draw, (1e-10, 1.0, 1e10)),
    },
    torch_twin=lambda terms, weights: (
        torch.stack(terms, 1) @ as_tensor(weights).to(terms.embedding_B.dtype)
    ),
)
def the_weighted_sum_keeps_its_digits(formula, case):
    wide = DistillationTerms(*(term.double() for term in case.terms))
    return distance(formula(*case), spec_of_sum(wide, case.weights), sum_bound(case)), 1


@DISTILLATION.mistake(
    terms_weigh_what_they_are_given, it_is_the_weighted_sum_of_the_terms, each_slope_is_its_weight,
    it_is_torchs_product_with_the_weights,
)
def weights_forgotten(terms, weights):
    return distillation_loss(terms, ALL)


@DISTILLATION.mistake(terms_weigh_what_they_are_given, its_slope_is_that_of_the_weighted_sum)
def weights_normalised(terms, weights):
    return distillation_loss(terms, weights) / sum(weights)


@DISTILLATION.mistake(a_missing_term_weighs_nothing, losses_of_two_stages_add_up)
def weights_shifted(terms, weights):
    """By every term that is missing."""
    there = [term for term in terms if term is not None]
    return torch.stack([w * t for w, t in zip(weights, there, strict=False)]).sum(0)


@DISTILLATION.mistake(samples_keep_their_own_loss)
def averaged_over_samples(terms, weights):
    found = distillation_loss(terms, weights)
    return found.mean().expand_as(found)


@DISTILLATION.mistake(losses_of_two_stages_add_up)
def divided_by_the_number_of_terms(terms, weights):
    return distillation_loss(terms, weights) / sum(term is not None for term in terms)


@DISTILLATION.mistake(the_weighted_sum_keeps_its_digits)
def added_in_half_precision(terms, weights):
    half = (None if term is None else term.bfloat16() for term in terms)
    return distillation_loss(DistillationTerms(*half), weights)
