"""Laws of `matching`: the losses that compare parts of the student with parts of the teacher.

The reference of the mode tinybert is the loss of the official code, rewritten with torch's
MSELoss, the mask of -10000 and the clamp at -100; values and gradients must agree.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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
    gradients,
    normal,
    order_of,
    seed_of,
    slopes,
)
from minibert.losses import soft_cross_entropy
from minibert.matching import (
    attention_loss,
    cosine_loss,
    grouped_heads,
    hidden_loss,
    patient_loss,
    prediction_loss,
    relation_loss,
)
from minibert.parameters import LinearWeights

HUAWEI = "https://github.com/huawei-noah/Pretrained-Language-Model"
TINYBERT = f"{HUAWEI}/blob/1bb9b3e49b05279a4ba5cbe805ac81c803f94981/TinyBERT"
TEXTBREWER = "https://github.com/airaria/TextBrewer/blob"
TEXTBREWER_LOSSES = (
    f"{TEXTBREWER}/3496f3ec49e6eee6219f8a8d9db2b144fcedb361/src/textbrewer/losses.py"
)


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
    """Each difference d is off by the error e of its map; squares and mean add their rounding."""
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
    """A bound on the rounding of a gradient, from the largest number in its products and sums."""
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
    """Anything else costs something."""
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
    """W h = (W Aᵀ) (A h): the student is free to write its states in any orthonormal basis."""
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
    """2 / (n E) times the residual, to states times W, to W times states; none to the teacher."""
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
    """Both its mean over samples and the gradients of that mean."""
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
    seed = seed_of(draw)  # one seed for both sides: two equal seeds would give equal scores
    scores = normal(seed, 3, heads, 5, 5, scale=scale)
    teacher = normal(seed + 1, 3, heads * group, 5, 5, scale=scale)
    return AttentionCase(scores, teacher, kept([5, 1, 3], 5))


def one_to_one(draw: Draw) -> AttentionCase:
    return attention_case(draw, groups=(1,))


def pairs_kept(keep: Tensor) -> Tensor:
    return (keep[:, :, None] & keep[:, None, :])[:, None]


def attention_bound(case: AttentionCase, mode: str = "masked") -> Tensor:
    """Each difference d is off by the error e of a group's mean; the rest adds its rounding."""
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
    """Any others cost something."""
    other = float((formula(*case) <= 0).sum())
    equal = case._replace(teacher=as_grouped(case.scores, case))
    return other + distance(formula(*equal), torch.zeros(3), attention_bound(equal)), 1


@ATTENTION.law
def score_offsets_cost_their_square(formula, case):
    """Each offset has its own sign, so that neither softmax nor a mean over heads can hide them."""
    d = 1.5
    signs = torch.where(normal(7, *case.scores.shape) > 0, d, -d)
    found = formula(case.scores, as_grouped(case.scores + signs, case), case.keep)
    return float((found - d * d).abs().max()), roughness(case)


@ATTENTION.law
def an_equal_offset_costs_its_square(formula, case):
    """Softmax would not see it, but this loss compares scores, not probabilities."""
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
    """All tokens in another order, padding included."""
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
    """The mean of the gaps [B, N, S, S] at which pairs [B, 1, S, S] is true."""
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
    """Both its mean over samples and the gradient of that mean."""
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
    """With equal numbers of heads, so that no mean of a group can be rounded across -100."""
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


# --------------------------------------------------------------------------------- relation_loss


class RelationCase(NamedTuple):
    left: Tensor
    right: Tensor
    teacher_left: Tensor
    teacher_right: Tensor
    keep: Tensor
    heads: int


def relation_case(draw: Draw, scales: tuple[float, ...] = (0.5, 2.0)) -> RelationCase:
    """Three sentences of 5, 2 and 3 tokens; heads of width 2, in the teacher of width 3.

    In half of the cases, the right side is the same as the left.
    """
    heads, scale, seed = draw.choice([1, 2, 3]), draw.choice(scales), seed_of(draw)
    sides = [normal(seed + i, 3, 5, (2, 3)[i // 2] * heads, scale=scale) for i in range(4)]
    if draw.choice([False, True]):
        sides[1], sides[3] = sides[0], sides[2]
    return RelationCase._make([*sides, kept([5, 2, 3], 5), heads])


def head_scores(left: Tensor, right: Tensor, heads: int) -> Tensor:
    """x_as · y_ar / √K for every head, query and key: [B, A, S, S]."""
    pair = [x.unflatten(-1, (heads, -1)) for x in (left, right)]
    return torch.einsum("bsak,brak->basr", *pair) / math.sqrt(left.shape[-1] // heads)


def log_relations(left: Tensor, right: Tensor, keep: Tensor, heads: int) -> Tensor:
    scores = head_scores(left, right, heads)
    return F.log_softmax(torch.where(keep[:, None, None, :], scores, -math.inf), -1)


def both_relations(left, right, teacher_left, teacher_right, keep, heads) -> list[Tensor]:
    """log p of the teacher, who does not learn, and log q of the student."""
    teacher = log_relations(teacher_left.detach(), teacher_right.detach(), keep, heads)
    return [teacher, log_relations(left, right, keep, heads)]


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * torch.where(log_p > -math.inf, log_p - log_q, 0)).sum(-1)


def over_queries(costs: Tensor, keep: Tensor) -> Tensor:
    """The mean over heads and kept queries of costs [B, A, S]."""
    return torch.where(keep[:, None], costs, 0).mean(1).sum(1) / keep.sum(1).clamp(min=1)


def relation_bound(case: RelationCase) -> Tensor:
    """A score is off by (K + 1)/2 eps of its terms, which becomes a relative error of p.

    The normaliser adds as much, and both count for log p and for log q: four times in all.
    """
    wide = RelationCase(*in_dtype(tuple(case), torch.float64))
    log_p, log_q = both_relations(*wide)
    sizes = log_p.exp() * (1 + log_p.abs()) * (1 + log_p.abs() + log_q.abs())
    size = torch.where(log_p > -math.inf, sizes, 0).sum(-1)
    pairs = [(wide.left, wide.right), (wide.teacher_left, wide.teacher_right)]
    shown = case.keep[:, None, None, :]
    terms = [torch.where(shown, head_scores(x.abs(), y.abs(), case.heads), 0) for x, y in pairs]
    widest = max(x.shape[2] for x in case[:4]) // case.heads
    z = 2 * (widest + 1) * torch.maximum(*terms).amax(-1)
    tokens = case.keep.shape[1]
    count = 9 + tokens + case.heads * tokens / 2 + z
    return over_queries(count * at_least_eps32(case.left) * size, case.keep)


def unevenness(case: RelationCase) -> float:
    """The rounding of the largest score, and of the slopes through it."""
    pairs = [(case.left, case.right), (case.teacher_left, case.teacher_right)]
    largest = max(float(head_scores(x.abs(), y.abs(), case.heads).max()) for x, y in pairs)
    return 512 * EPS * (1 + largest) ** 2


def spec_of_relation_loss(case: RelationCase) -> Tensor:
    return samples(
        lambda x, y, u, v, keep: spec.relation_loss(x, y, u, v, keep, case.heads), *case[:5]
    )


RELATION = Proof(relation_loss, relation_case)


@RELATION.spec(cost=2)
def it_is_the_mean_divergence_of_relations(formula, case):
    return distance(formula(*case), spec_of_relation_loss(case), relation_bound(case)), 1


@RELATION.reference
def it_is_torchs_kl_div_of_each_sentence(formula, case):
    """MiniLM's equations for one sentence without its padding."""
    expected = []
    for i, n in enumerate(case.keep.sum(1).tolist()):
        log_p, log_q = (
            F.log_softmax(head_scores(x[i : i + 1, :n], y[i : i + 1, :n], case.heads), -1)
            for x, y in (case[2:4], case[:2])
        )
        total = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
        expected.append(total / (case.heads * n))
    return distance(formula(*case), torch.stack(expected), relation_bound(case)), 2


@RELATION.law
def equal_relations_cost_nothing(formula, case):
    """And others do. Equal are those of wider vectors, scaled to make up for their larger √K."""
    other = float((formula(*case) <= relation_bound(case)).sum())

    def longer(x: Tensor) -> Tensor:
        parts = F.pad(x.unflatten(2, (case.heads, -1)), (0, 1))
        return (1.5**0.25 * parts).flatten(2)

    equal = case._replace(teacher_left=longer(case.left), teacher_right=longer(case.right))
    return other + distance(formula(*equal), torch.zeros(3), relation_bound(equal)), 4


@RELATION.law
def two_tokens_have_a_closed_form(formula, case):
    """Vectors of width 1: the log odds of the second token are the product with it."""
    error, ones, keep = 0.0, torch.ones(1, 2, 1).double(), kept([2], 2)
    for a, b in ((0.5, -2.0), (3.0, 3.5), (-1.0, 4.0)):
        p, q = 1 / (1 + math.exp(-a)), 1 / (1 + math.exp(-b))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        teacher, student = (as_tensor([[[0.0], [odds]]]) for odds in (a, b))
        error += abs(float(formula(ones, student, ones, teacher, keep, 1)) - expected)
    return error, 64 * EPS


@RELATION.law
def heads_are_averaged_each_with_its_own_root(formula, case):
    alone = [
        formula(*(x.unflatten(2, (case.heads, -1))[:, :, a] for x in case[:4]), case.keep, 1)
        for a in range(case.heads)
    ]
    return distance(torch.stack(alone).mean(0), formula(*case), relation_bound(case)), 2


@RELATION.law
def heads_of_both_sides_may_change_places(formula, case):
    turned = [x.unflatten(2, (case.heads, -1)).roll(1, 2).flatten(2) for x in case[:4]]
    found = formula(*turned, case.keep, case.heads)
    return distance(found, formula(*case), relation_bound(case)), 2


@RELATION.law
def a_rotation_within_a_head_cancels(formula, case):
    """A different one for each head and model; only dot products are compared."""

    def turned(x: Tensor, seed: int) -> Tensor:
        parts = x.unflatten(2, (case.heads, -1))
        turns, _ = torch.linalg.qr(normal(seed, case.heads, parts.shape[3], parts.shape[3]))
        return torch.einsum("bsak,akj->bsaj", parts, turns).flatten(2)

    sides = [turned(x, 5 + i // 2) for i, x in enumerate(case[:4])]
    return distance(formula(*sides, case.keep, case.heads), formula(*case)), unevenness(case)


@RELATION.law
def one_vector_added_to_all_keys_cancels(formula, case):
    """It changes all scores of a query equally, and softmax does not see it."""
    moved = case._replace(
        right=case.right + normal(6, case.right.shape[2]),
        teacher_right=case.teacher_right + normal(7, case.teacher_right.shape[2]),
    )
    return distance(formula(*moved), formula(*case)), unevenness(case) + unevenness(moved)


@RELATION.law
def four_copies_of_a_feature_count_twice(formula, case):
    """Four times the sum over twice the root."""

    def copied(x: Tensor) -> Tensor:
        return x.unflatten(2, (case.heads, -1)).repeat(1, 1, 1, 4).flatten(2)

    found = formula(*(copied(x) for x in case[:4]), case.keep, case.heads)
    doubled = case._replace(left=2 * case.left, teacher_left=2 * case.teacher_left)
    return distance(found, formula(*doubled), relation_bound(doubled)), 4


@RELATION.law
def repeated_tokens_relate_the_same(formula, case):
    twice = [torch.cat([x, x], 1) for x in case[:5]]
    return distance(formula(*twice, case.heads), formula(*case), relation_bound(case)), 2


@RELATION.law
def tokens_may_be_reordered(formula, case):
    """All in the same way, padding included."""
    order = order_of(5, 2)
    found = formula(*(x[:, order] for x in case[:5]), case.heads)
    return distance(found, formula(*case), relation_bound(case)), 2


def moved_by_relation_padding(
    formula: Callable[..., Tensor], case: RelationCase, size: float
) -> float:
    """How far value and slopes move when two tokens of random padding follow."""
    sides = [
        torch.cat([x, size * normal(10 + i, 3, 2, x.shape[2])], 1) for i, x in enumerate(case[:4])
    ]
    longer = RelationCase._make([*sides, F.pad(case.keep, (0, 2), value=False), case.heads])
    found = []
    for part in (case, longer):
        to_left, to_right = gradients(
            lambda x, y, part=part: formula(x, y, *part[2:]), part[:2], normal(9, 3)
        )
        beyond = to_left[:, 5:].abs().sum() + to_right[:, 5:].abs().sum()
        found.append([formula(*part), to_left[:, :5], to_right[:, :5], beyond])
    return sum(distance(a, b) for a, b in zip(*found, strict=True))


@RELATION.law(cost=2)
def relation_padding_changes_neither_value_nor_slope(formula, case):
    return moved_by_relation_padding(formula, case, 3.0), unevenness(case)


@RELATION.law(cost=2)
def not_even_nan_in_relation_padding_changes_value_or_slope(formula, case):
    return moved_by_relation_padding(formula, case, math.nan), unevenness(case)


@RELATION.law
def a_sample_relates_its_kept_tokens(formula, case):
    alone = [
        formula(*(x[i : i + 1, :n] for x in case[:5]), case.heads)
        for i, n in enumerate(case.keep.sum(1).tolist())
    ]
    return distance(torch.cat(alone), formula(*case), relation_bound(case)), 2


@RELATION.law
def without_tokens_there_is_no_relation(formula, case):
    """No cost, no slope, and the other sentences unchanged."""
    keep = kept([5, 0, 3], 5)
    to_sides = gradients(
        lambda x, y: formula(x, y, *case[2:4], keep, case.heads), case[:2], normal(9, 3)
    )
    found, expected = formula(*case._replace(keep=keep)), formula(*case)
    error = found[1].abs() + sum(x[1].abs().sum() + (~x.isfinite()).sum() for x in to_sides)
    return float(error) + distance(found[::2], expected[::2]), 0


@RELATION.gradient(cost=6)
def its_slope_is_that_of_the_mean_divergence(formula, case):
    return slopes(
        lambda x, y: formula(x, y, *case[2:]),
        lambda x, y: spec_of_relation_loss(
            case._replace(left=as_tensor(x), right=as_tensor(y))
        ).tolist(),
        case[:2],
    )


@RELATION.gradient
def its_slopes_are_the_gap_of_the_relations_times_the_other_side(formula, case):
    """(q - p) / (A n √K), to queries times keys, to keys times queries; none to the teacher."""
    upstream = normal(9, 3)
    to_left, to_right, *to_teacher = gradients(
        lambda *sides: formula(*sides, case.keep, case.heads), case[:4], upstream
    )
    log_p, log_q = both_relations(*case)
    x, y = (side.unflatten(2, (case.heads, -1)) for side in case[:2])
    share = upstream / (case.heads * case.keep.sum(1)) / math.sqrt(x.shape[3])
    gap = share[:, None, None, None] * case.keep[:, None, :, None] * (log_q.exp() - log_p.exp())
    gaps = [
        distance(to_left, torch.einsum("basr,brak->bsak", gap, y).flatten(2)),
        distance(to_right, torch.einsum("basr,bsak->brak", gap, x).flatten(2)),
        *(float(slope.abs().max()) for slope in to_teacher),
    ]
    return sum(gaps), unevenness(case)


@RELATION.accuracy(
    {
        "normal": lambda draw: relation_case(draw, (1.0,)),
        "tiny": lambda draw: relation_case(draw, (1e-12,)),
        "large": lambda draw: relation_case(draw, (10.0, 50.0)),
        "sentences without tokens": lambda draw: relation_case(draw)._replace(
            keep=kept([0, 0, 5], 5)
        ),
    },
    cost=2,
)
def relations_are_exact_up_to_the_size_of_their_terms(formula, case):
    expected = spec_of_relation_loss(RelationCase(*in_dtype(tuple(case), torch.float64)))
    return distance(formula(*case), expected, relation_bound(case) + smallest(case.left)), 1


@RELATION.mistake(
    two_tokens_have_a_closed_form, it_is_the_mean_divergence_of_relations,
    it_is_torchs_kl_div_of_each_sentence, its_slope_is_that_of_the_mean_divergence,
    its_slopes_are_the_gap_of_the_relations_times_the_other_side,
)
def from_the_relations_of_the_student(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return over_queries(divergence(log_q, log_p), keep)


@RELATION.mistake(
    relation_padding_changes_neither_value_nor_slope, a_sample_relates_its_kept_tokens,
    source="https://github.com/peremartra/optipfair/issues/34",
)
def queries_of_the_padding_counted(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return divergence(log_p, log_q).mean((1, 2))


@RELATION.mistake(
    a_sample_relates_its_kept_tokens, it_is_torchs_kl_div_of_each_sentence,
    source="https://github.com/ServiceNow/Fast-LLM/issues/344",
)
def zeros_of_the_padding_averaged_in(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return torch.where(keep[:, None], divergence(log_p, log_q), 0).mean((1, 2))


@RELATION.mistake(
    relation_padding_changes_neither_value_nor_slope, a_sample_relates_its_kept_tokens
)
def softmax_before_the_mask(left, right, teacher_left, teacher_right, keep, heads):
    teacher = teacher_left.detach(), teacher_right.detach()
    log_p, log_q = (
        F.log_softmax(head_scores(*pair, heads), -1) for pair in (teacher, (left, right))
    )
    costs = torch.where(keep[:, None, None, :], log_p.exp() * (log_p - log_q), 0).sum(-1)
    return over_queries(costs, keep)


@RELATION.mistake(
    heads_are_averaged_each_with_its_own_root, it_is_the_mean_divergence_of_relations
)
def root_of_the_whole_width(left, right, teacher_left, teacher_right, keep, heads):
    """√D in the place of √(D/A): the scores are too small."""
    less = heads**-0.5
    return relation_loss(less * left, right, less * teacher_left, teacher_right, keep, heads)


@RELATION.mistake(four_copies_of_a_feature_count_twice, equal_relations_cost_nothing)
def no_root_at_all(left, right, teacher_left, teacher_right, keep, heads):
    own, other = (math.sqrt(x.shape[2] // heads) for x in (left, teacher_left))
    return relation_loss(own * left, right, other * teacher_left, teacher_right, keep, heads)


@RELATION.mistake(
    tokens_may_be_reordered, it_is_the_mean_divergence_of_relations,
    source="https://github.com/microsoft/unilm/issues/354",
)
def heads_cut_across_the_tokens(left, right, teacher_left, teacher_right, keep, heads):
    """A reshape to [B, A, S, K] without a transpose."""

    def cut(x: Tensor) -> Tensor:
        return x.reshape(len(x), heads, x.shape[1], -1).transpose(1, 2).flatten(2)

    sides = (cut(x) for x in (left, right, teacher_left, teacher_right))
    return relation_loss(*sides, keep, heads)


@RELATION.mistake(a_rotation_within_a_head_cancels)
def heads_of_every_nth_feature(left, right, teacher_left, teacher_right, keep, heads):
    sides = (
        x.unflatten(2, (-1, heads)).transpose(2, 3).flatten(2)
        for x in (left, right, teacher_left, teacher_right)
    )
    return relation_loss(*sides, keep, heads)


@RELATION.mistake(one_vector_added_to_all_keys_cancels, it_is_torchs_kl_div_of_each_sentence)
def softmax_over_the_queries(left, right, teacher_left, teacher_right, keep, heads):
    return relation_loss(right, left, teacher_right, teacher_left, keep, heads)


@RELATION.mistake(one_vector_added_to_all_keys_cancels, two_tokens_have_a_closed_form)
def scores_of_the_relations_compared(left, right, teacher_left, teacher_right, keep, heads):
    teacher = head_scores(teacher_left, teacher_right, heads).detach()
    gaps = (head_scores(left, right, heads) - teacher).square()
    return mean_over_pairs(gaps, pairs_kept(keep))


@RELATION.mistake(two_tokens_have_a_closed_form)
def squared_gap_of_the_relations(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return over_queries((log_p.exp() - log_q.exp()).square().sum(-1), keep)


@RELATION.mistake(two_tokens_have_a_closed_form)
def left_held_against_itself(left, right, teacher_left, teacher_right, keep, heads):
    return relation_loss(left, left, teacher_left, teacher_left, keep, heads)


@RELATION.mistake(
    repeated_tokens_relate_the_same, heads_are_averaged_each_with_its_own_root,
    source="https://github.com/neuralmagic/sparseml/pull/592",
)
def divided_by_the_batch_alone(left, right, teacher_left, teacher_right, keep, heads):
    """kl_div with "batchmean" is the sum over heads and tokens, whatever their number."""
    found = relation_loss(left, right, teacher_left, teacher_right, keep, heads)
    return found * heads * keep.sum(1)


@RELATION.mistake(
    heads_are_averaged_each_with_its_own_root,
    source="https://github.com/GoblinLord-nuclear/mindclip/blob/"
    "8638c6c49ceee36060d3e313723e08268bdf8b03/distill_model/loss_component/attention_probs_kl.py",
)
def relations_averaged_over_heads_first(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = (
        x.exp().mean(1, keepdim=True).log()
        for x in both_relations(left, right, teacher_left, teacher_right, keep, heads)
    )
    return over_queries(divergence(log_p, log_q), keep)


@RELATION.mistake(equal_relations_cost_nothing)
def surprise_at_the_relations(left, right, teacher_left, teacher_right, keep, heads):
    """The cross-entropy, which keeps the teacher's entropy."""
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    costs = -torch.where(log_p > -math.inf, log_p.exp() * log_q, 0).sum(-1)
    return over_queries(costs, keep)


@RELATION.mistake(heads_of_both_sides_may_change_places)
def first_relation_head_alone(left, right, teacher_left, teacher_right, keep, heads):
    sides = (
        x[:, :, : x.shape[2] // heads] for x in (left, right, teacher_left, teacher_right)
    )
    return relation_loss(*sides, keep, 1)


@RELATION.mistake(tokens_may_be_reordered)
def relations_of_the_first_token_alone(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return divergence(log_p, log_q)[:, :, 0].mean(1)


@RELATION.mistake(
    its_slopes_are_the_gap_of_the_relations_times_the_other_side,
    source="https://github.com/pytorch/translate/pull/391",
)
def relations_of_a_teacher_that_learns(left, right, teacher_left, teacher_right, keep, heads):
    log_p = log_relations(teacher_left, teacher_right, keep, heads)
    return over_queries(divergence(log_p, log_relations(left, right, keep, heads)), keep)


@RELATION.mistake(
    a_sample_relates_its_kept_tokens, nan=True,
    source="https://github.com/huggingface/trl/pull/5594",
)
def infinity_less_infinity(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return over_queries((log_p.exp() * (log_p - log_q)).sum(-1), keep)


@RELATION.mistake(not_even_nan_in_relation_padding_changes_value_or_slope, nan=True)
def padding_hidden_from_the_scores_only(left, right, teacher_left, teacher_right, keep, heads):
    log_p, log_q = both_relations(left, right, teacher_left, teacher_right, keep, heads)
    return over_queries(divergence(log_p, log_q), keep)


@RELATION.mistake(without_tokens_there_is_no_relation, nan=True)
def mean_relation_of_no_token(left, right, teacher_left, teacher_right, keep, heads):
    found = relation_loss(left, right, teacher_left, teacher_right, keep, heads)
    return found * keep.sum(1).clamp(min=1) / keep.sum(1)


@RELATION.mistake(relations_are_exact_up_to_the_size_of_their_terms)
def relations_in_half_precision(left, right, teacher_left, teacher_right, keep, heads):
    sides = (x.bfloat16() for x in (left, right, teacher_left, teacher_right))
    return relation_loss(*sides, keep, heads).bfloat16()


# ----------------------------------------------------------------------------------- cosine_loss


def mapped_norms(case: Any) -> Tensor:
    return torch.linalg.vector_norm(image(case), dim=-1)


def direction_error(case: Any) -> Tensor:
    """How far the direction of a mapped vector is off, by the error of the map: 2 ‖e‖ / ‖x‖."""
    wide = in_dtype(case, torch.float64)
    if case.projection is None:
        return torch.zeros_like(mapped_norms(wide))
    e = linear_bound(LinearCase(case.hidden, *case.projection))
    found = 2 * torch.linalg.vector_norm(e, dim=-1) / mapped_norms(wide)
    return found.nan_to_num(0, posinf=2).clamp(max=2)


def cosine_bound(case: HiddenCase) -> Tensor:
    """Errors of the direction, of the sums of E products for it and the cosine, and of the mean."""
    wide, n = in_float64(case), case.keep.sum(1).clamp(min=1)
    gaps = 1 - F.cosine_similarity(image(wide), wide.teacher, -1, 0.0).nan_to_num(0)
    loss = torch.where(case.keep, gaps, 0).sum(1) / n
    tokens, width = case.teacher.shape[1:]
    own = (5 + width + (1 + tokens / 2) * loss) * at_least_eps32(case.hidden)
    return torch.where(case.keep, direction_error(case), 0).sum(1) / n + own


def bend(case: Any) -> float:
    """The rounding of the slope of a direction: the shorter the vector, the larger."""
    return steepness(case) * (1 + 1 / float(mapped_norms(case).min())) ** 2


def spec_of_cosine_loss(case: HiddenCase) -> Tensor:
    projection = None if case.projection is None else as_lists(case.projection)
    return samples(
        lambda h, u, keep: spec.cosine_loss(h, u, projection, keep),
        case.hidden, case.teacher, case.keep,
    )


COSINE = Proof(cosine_loss, hidden_case)


@COSINE.spec(cases=any_scale)
def it_is_one_less_the_mean_cosine_of_kept_tokens(formula, case):
    return distance(formula(*case), spec_of_cosine_loss(case), cosine_bound(case)), 1


@COSINE.reference
def it_is_torchs_cosine_similarity_of_kept_tokens(formula, case):
    expected = torch.stack([
        (1 - F.cosine_similarity(own[keep], other[keep], 1)).mean()
        for own, other, keep in zip(image(case), case.teacher, case.keep, strict=True)
    ])
    return distance(formula(*case), expected, cosine_bound(case)), 2


@COSINE.reference
def it_is_the_loss_of_distilberts_code(formula, case):
    """CosineEmbeddingLoss of the tokens that the mask selects, target 1; it adds 1e-12 to squares.

    Compared for each sentence: over a batch, that code takes the mean over the tokens of all.
    """
    expected = torch.stack([
        torch.nn.CosineEmbeddingLoss()(own[keep], other[keep], torch.ones(int(keep.sum())))
        for own, other, keep in zip(image(case), case.teacher, case.keep, strict=True)
    ])
    shortest = torch.minimum(mapped_norms(case), torch.linalg.vector_norm(case.teacher, dim=-1))
    return distance(formula(*case), expected), 1e-12 * (1 + float(shortest.min()) ** -2)


def lengthened(case: Any, factor: Tensor | float) -> list[Any]:
    """The case with longer mapped vectors, and with longer ones of the teacher."""
    weight, bias = case.projection
    return [
        case._replace(projection=LinearWeights(factor * weight, factor * bias)),
        case._replace(teacher=factor * case.teacher),
    ]


@COSINE.law
def lengths_do_not_matter(formula, case):
    """No bit changes even where their squares would overflow or vanish."""
    cases = [part for factor in (2.0**-600, 2.0**600) for part in lengthened(case, factor)]
    return sum(distance(formula(*part), formula(*case)) for part in cases), 0


@COSINE.law
def each_vector_may_have_a_length_of_its_own(formula, case):
    lengths = torch.exp(2 * normal(8, *case.teacher.shape[:2], 1))
    found = formula(*case._replace(teacher=lengths * case.teacher))
    return distance(found, formula(*case)), 64 * EPS


def at_an_angle(case: Any) -> dict[str, Any]:
    """The case with a teacher along the mapped states, orthogonal to them, and opposite."""
    x = image(case)
    other = normal(7, *x.shape)
    across = other - (other * x).sum(-1, keepdim=True) / (x * x).sum(-1, keepdim=True) * x
    teachers = {"along": 3 * x, "across": across, "against": -x / 2}
    return {name: case._replace(teacher=teacher) for name, teacher in teachers.items()}


@COSINE.law
def along_costs_nothing_across_one_and_against_two(formula, case):
    costs = {"along": 0.0, "across": 1.0, "against": 2.0}
    found = {name: formula(*part) for name, part in at_an_angle(case).items()}
    return sum(float((found[name] - cost).abs().max()) for name, cost in costs.items()), bend(case)


def zeros_of_states(case: Any) -> Any:
    weight, bias = case.projection
    return case._replace(
        hidden=0 * case.hidden, projection=LinearWeights(weight, torch.zeros_like(bias))
    )


def slopes_of_states(formula: Callable[..., Tensor], case: Any) -> list[Tensor]:
    """The slopes to the student's states, to the projection, and to the teacher."""
    return list(gradients(
        lambda h, w, b, t: formula(h, t, LinearWeights(w, b), *case[3:]),
        [case.hidden, *case.projection, case.teacher],
        normal(9, len(case.hidden)),
    ))


@COSINE.law
def zeros_cost_one_and_are_pulled_like_a_vector_of_length_one(formula, case):
    """Their slope is -v / n, while that of a vector next to zero is unbounded."""
    zeros = zeros_of_states(case)
    found = [formula(*zeros), formula(*case._replace(teacher=0 * case.teacher))]
    share = (normal(9, 3) / case.keep.sum(1))[:, None, None] * case.keep[..., None]
    pull = slopes_through_the_map(-share * F.normalize(case.teacher, dim=-1), zeros)
    pairs = zip(slopes_of_states(formula, zeros), pull, strict=True)
    error = sum(distance(x, torch.ones(3)) for x in found)
    return error + sum(distance(a, b) for a, b in pairs), steepness(case)


# laws of the hidden loss that hold here too, with the same arguments
COSINE.law(hidden_padding_changes_neither_value_nor_slope, cost=2)
COSINE.law(not_even_nan_in_hidden_padding_changes_value_or_slope, cost=2)
COSINE.law(a_sample_is_its_kept_tokens)
COSINE.law(repeated_tokens_cost_the_same)
COSINE.law(a_rotation_of_the_teacher_cancels)
COSINE.law(a_rotation_of_the_student_may_move_into_the_projection)
COSINE.law(without_a_projection_it_is_that_of_the_identity)
COSINE.law(a_sentence_without_tokens_costs_nothing)


@COSINE.gradient(cost=4)
def its_slope_is_that_of_the_mean_cosine(formula, case):
    return slopes(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b), case.keep),
        lambda h, w, b: spec_of_cosine_loss(
            HiddenCase(
                as_tensor(h), case.teacher, LinearWeights(as_tensor(w), as_tensor(b)), case.keep
            )
        ).tolist(),
        [case.hidden, *case.projection],
    )


def slope_of_cosine(case: Any) -> Tensor:
    """(v - cos u) / ‖x‖, u and v the directions: the component along x is removed from v."""
    x = image(case)
    u, v = (F.normalize(part, dim=-1) for part in (x, case.teacher))
    return (v - (u * v).sum(-1, keepdim=True) * u) / torch.linalg.vector_norm(x, dim=-1)[..., None]


def slopes_through_the_map(to_mapped: Tensor, case: Any) -> list[Tensor]:
    """In the order of `slopes_of_states`; the teacher has none."""
    return [
        to_mapped @ case.projection.weight_OI,
        torch.einsum("bse,bsd->ed", to_mapped, case.hidden),
        to_mapped.sum((0, 1)),
        0 * case.teacher,
    ]


@COSINE.gradient
def its_slope_is_what_of_the_teacher_lies_across(formula, case):
    """- (v - cos u) / (n ‖x‖), to states times W, to W times states; none to the teacher."""
    share = normal(9, 3) / case.keep.sum(1)
    to_mapped = -share[:, None, None] * case.keep[..., None] * slope_of_cosine(case)
    pairs = slopes_of_states(formula, case), slopes_through_the_map(to_mapped, case)
    return sum(distance(a, b) for a, b in zip(*pairs, strict=True)), bend(case)


def with_zeros(draw: Draw) -> HiddenCase:
    """The first token's state and the second's teacher are zeros."""
    case = without_a_projection(hidden_case(draw), seed_of(draw))
    case.hidden[:, 0], case.teacher[:, 1] = 0, 0
    return case


DIRECTION_FAMILIES = HIDDEN_FAMILIES | {"vectors of zeros": with_zeros}


@COSINE.accuracy(DIRECTION_FAMILIES)
def cosines_are_exact_up_to_the_error_of_the_map(formula, case):
    return distance(formula(*case), spec_of_cosine_loss(in_float64(case)), cosine_bound(case)), 1


def cosines(hidden, teacher, projection):
    mapped = hidden if projection is None else F.linear(hidden, *projection)
    return F.cosine_similarity(mapped, teacher.detach(), -1)


def over_tokens(costs: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, costs, 0).sum(1) / keep.sum(1).clamp(min=1)


@COSINE.mistake(
    hidden_padding_changes_neither_value_nor_slope, a_sample_is_its_kept_tokens,
    source="https://github.com/NVIDIA/Model-Optimizer/pull/892",
)
def cosine_of_the_padding_counted(hidden, teacher, projection, keep):
    return 1 - cosines(hidden, teacher, projection).mean(1)


@COSINE.mistake(
    hidden_padding_changes_neither_value_nor_slope, a_sample_is_its_kept_tokens,
    source="https://github.com/linkedin/Liger-Kernel/pull/1478",
)
def cosines_of_all_tokens_over_the_number_of_kept_ones(hidden, teacher, projection, keep):
    return (1 - cosines(hidden, teacher, projection)).sum(1) / keep.sum(1)


@COSINE.mistake(
    a_sample_is_its_kept_tokens, it_is_torchs_cosine_similarity_of_kept_tokens,
    source="https://github.com/ServiceNow/Fast-LLM/issues/344",
)
def cosines_over_the_padded_length(hidden, teacher, projection, keep):
    return torch.where(keep, 1 - cosines(hidden, teacher, projection), 0).mean(1)


@COSINE.mistake(
    each_vector_may_have_a_length_of_its_own, along_costs_nothing_across_one_and_against_two,
    it_is_one_less_the_mean_cosine_of_kept_tokens,
)
def cosine_of_the_mean_states(hidden, teacher, projection, keep):
    own, other = (over_tokens_of(x, keep) for x in (F.linear(hidden, *projection), teacher))
    return 1 - F.cosine_similarity(own, other.detach(), -1)


def over_tokens_of(states: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep[..., None], states, 0).sum(1) / keep.sum(1)[:, None]


@COSINE.mistake(
    each_vector_may_have_a_length_of_its_own,
    source="https://github.com/facebookresearch/WMReward/issues/11",
)
def cosine_along_the_tokens(hidden, teacher, projection, keep):
    """dim=1 of [B, S, E] is that of the tokens."""
    mapped = torch.where(keep[..., None], F.linear(hidden, *projection), 0)
    return 1 - F.cosine_similarity(mapped, teacher.detach(), 1).mean(1)


@COSINE.mistake(lengths_do_not_matter, along_costs_nothing_across_one_and_against_two)
def product_without_the_lengths(hidden, teacher, projection, keep):
    mapped = F.linear(hidden, *projection)
    return over_tokens(1 - (mapped * teacher.detach()).mean(-1), keep)


@COSINE.mistake(lengths_do_not_matter)
def lengths_of_at_least_1e_8(hidden, teacher, projection, keep):
    """As torch's cosine_similarity has it."""
    return over_tokens(1 - cosines(hidden, teacher, projection), keep)


@COSINE.mistake(zeros_cost_one_and_are_pulled_like_a_vector_of_length_one)
def squares_and_1e_12(hidden, teacher, projection, keep):
    """As torch's CosineEmbeddingLoss has it: finite at zero, with a slope of a million."""
    x, t = F.linear(hidden, *projection), teacher.detach()
    squares = (x.square().sum(-1) + 1e-12) * (t.square().sum(-1) + 1e-12)
    return over_tokens(1 - (x * t).sum(-1) / torch.sqrt(squares), keep)


@COSINE.mistake(
    zeros_cost_one_and_are_pulled_like_a_vector_of_length_one, nan=True,
    source="https://github.com/huggingface/sentence-transformers/issues/625",
)
def zero_over_zero(hidden, teacher, projection, keep):
    x, t = F.linear(hidden, *projection), teacher.detach()
    u, v = (part / torch.linalg.vector_norm(part, dim=-1, keepdim=True) for part in (x, t))
    return over_tokens(1 - (u * v).sum(-1), keep)


@COSINE.mistake(
    zeros_cost_one_and_are_pulled_like_a_vector_of_length_one, nan=True,
    source="https://github.com/google-deepmind/optax/pull/946",
)
def safe_value_with_an_unsafe_slope(hidden, teacher, projection, keep):
    """The root of zero has an infinite slope, whatever its value is replaced by."""

    def direction(x: Tensor) -> Tensor:
        length = torch.sqrt(x.square().sum(-1, keepdim=True))
        return x / torch.where(length == 0, 1, length)

    u, v = direction(F.linear(hidden, *projection)), direction(teacher.detach())
    return over_tokens(1 - (u * v).sum(-1), keep)


@COSINE.mistake(
    a_rotation_of_the_teacher_cancels, it_is_one_less_the_mean_cosine_of_kept_tokens,
    it_is_the_loss_of_distilberts_code,
)
def correlation_of_the_states(hidden, teacher, projection, keep):
    x, t = (
        part - part.mean(-1, keepdim=True)
        for part in (F.linear(hidden, *projection), teacher.detach())
    )
    return over_tokens(1 - F.cosine_similarity(x, t, -1), keep)


@COSINE.mistake(along_costs_nothing_across_one_and_against_two)
def against_taken_for_along(hidden, teacher, projection, keep):
    return over_tokens(1 - cosines(hidden, teacher, projection).abs(), keep)


@COSINE.mistake(
    along_costs_nothing_across_one_and_against_two, its_slope_is_that_of_the_mean_cosine,
    its_slope_is_what_of_the_teacher_lies_across,
)
def sine_squared(hidden, teacher, projection, keep):
    return over_tokens(1 - cosines(hidden, teacher, projection).square(), keep)


@COSINE.mistake(along_costs_nothing_across_one_and_against_two)
def mapped_after_the_length_is_taken_out(hidden, teacher, projection, keep):
    return cosine_loss(F.normalize(hidden, dim=-1), teacher, projection, keep)


@COSINE.mistake(a_rotation_of_the_student_may_move_into_the_projection)
def largest_feature_of_the_state_made_one(hidden, teacher, projection, keep):
    return cosine_loss(hidden / hidden.amax(-1, keepdim=True), teacher, projection, keep)


@COSINE.mistake(repeated_tokens_cost_the_same)
def cosines_summed_over_the_tokens(hidden, teacher, projection, keep):
    return cosine_loss(hidden, teacher, projection, keep) * keep.sum(1)


@COSINE.mistake(without_a_projection_it_is_that_of_the_identity)
def no_cosine_without_a_projection(hidden, teacher, projection, keep):
    if projection is None:
        return torch.zeros(len(hidden), dtype=hidden.dtype)
    return cosine_loss(hidden, teacher, projection, keep)


@COSINE.mistake(its_slope_is_what_of_the_teacher_lies_across)
def cosine_to_a_teacher_that_learns(hidden, teacher, projection, keep):
    gaps = 1 - F.cosine_similarity(F.linear(hidden, *projection), teacher, -1)
    return over_tokens(gaps, keep)


@COSINE.mistake(not_even_nan_in_hidden_padding_changes_value_or_slope, nan=True)
def nan_of_padding_hidden_after_the_cosine(hidden, teacher, projection, keep):
    return over_tokens(1 - cosines(hidden, teacher, projection), keep)


@COSINE.mistake(a_sentence_without_tokens_costs_nothing, nan=True)
def mean_cosine_of_no_token(hidden, teacher, projection, keep):
    gaps = torch.where(keep, 1 - cosines(hidden, teacher, projection), 0)
    return gaps.sum(1) / keep.sum(1)


@COSINE.mistake(cosines_are_exact_up_to_the_error_of_the_map)
def cosine_in_half_precision(hidden, teacher, projection, keep):
    return cosine_loss(hidden, teacher, projection, keep).bfloat16()


# ---------------------------------------------------------------------------------- patient_loss


class FirstCase(NamedTuple):
    hidden: Tensor
    teacher: Tensor
    projection: Any  # LinearWeights, or None where both widths are equal


def of_first(cases: Callable[[Draw], HiddenCase]) -> Callable[[Draw], FirstCase]:
    return lambda draw: FirstCase(*cases(draw)[:3])


def first_alone(case: FirstCase) -> FirstCase:
    return FirstCase(case.hidden[:, :1], case.teacher[:, :1], case.projection)


def patient_bound(case: FirstCase) -> Tensor:
    """The two directions together are off by δ; their difference is squared."""
    first = in_dtype(first_alone(case), torch.float64)
    pair = (F.normalize(x[:, 0], dim=-1, eps=1e-300) for x in (image(first), first.teacher))
    d = torch.linalg.vector_norm(torch.sub(*pair), dim=-1)
    width, unit = case.teacher.shape[2], at_least_eps32(case.hidden)
    delta = direction_error(first_alone(case))[:, 0] + (5 + width / 2) * unit
    return 2 * d * delta + delta * delta + (2 + width / 2) * unit * d * d


def spec_of_patient_loss(case: FirstCase) -> Tensor:
    projection = None if case.projection is None else as_lists(case.projection)
    return samples(lambda h, u: spec.patient_loss(h, u, projection), *case[:2])


PATIENT = Proof(patient_loss, of_first(hidden_case))


@PATIENT.spec(cases=of_first(any_scale))
def it_is_the_squared_distance_of_the_first_directions(formula, case):
    return distance(formula(*case), spec_of_patient_loss(case), patient_bound(case)), 1


@PATIENT.reference
def it_is_torchs_distance_of_normalised_states(formula, case):
    own, other = (F.normalize(x[:, 0], dim=1) for x in (image(case), case.teacher))
    expected = F.mse_loss(own, other, reduction="none").sum(1)
    return distance(formula(*case), expected, patient_bound(case)), 2


@PATIENT.law
def it_is_twice_the_cosine_loss_of_the_first_token(formula, case):
    """‖u - v‖² = 2 - 2 u · v for vectors of length 1."""
    first = first_alone(case)
    expected = 2 * cosine_loss(*first, torch.ones(3, 1, dtype=torch.bool))
    return distance(formula(*case), expected), 64 * EPS


@PATIENT.law
def later_tokens_do_not_matter(formula, case):
    """Not even a NaN in one, to value or slope."""
    hidden, teacher = case.hidden.clone(), case.teacher.clone()
    hidden[:, 1:], teacher[:, 1:] = math.nan, math.nan
    changed = case._replace(hidden=hidden, teacher=teacher)
    error = distance(formula(*changed), formula(*case))
    slopes_of_both = (slopes_of_states(formula, part) for part in (changed, case))
    error += sum(distance(a, b) for a, b in zip(*slopes_of_both, strict=True))
    return error + float(slopes_of_states(formula, case)[0][:, 1:].abs().sum()), 0


PATIENT.law(lengths_do_not_matter)
PATIENT.law(each_vector_may_have_a_length_of_its_own)


@PATIENT.law
def along_costs_nothing_across_two_and_against_four(formula, case):
    costs = {"along": 0.0, "across": 2.0, "against": 4.0}
    found = {name: formula(*part) for name, part in at_an_angle(case).items()}
    return sum(float((found[name] - cost).abs().max()) for name, cost in costs.items()), bend(case)


@PATIENT.law
def zeros_stay_zeros_and_are_pulled_like_a_vector_of_length_one(formula, case):
    """Their distance is 1 from any direction and 0 from zeros; the slope is -2 v."""
    zeros, silent = zeros_of_states(case), 0 * case.teacher
    costs = [(zeros, 1), (case._replace(teacher=silent), 1), (zeros._replace(teacher=silent), 0)]
    error = sum(distance(formula(*part), torch.full((3,), float(c))) for part, c in costs)
    first = (torch.arange(5) == 0)[None, :, None] * normal(9, 3)[:, None, None]
    pull = slopes_through_the_map(-2 * first * F.normalize(case.teacher, dim=-1), zeros)
    pairs = zip(slopes_of_states(formula, zeros), pull, strict=True)
    return error + sum(distance(a, b) for a, b in pairs), steepness(case)


@PATIENT.law
def samples_are_patient_each_for_itself(formula, case):
    alone = [
        formula(case.hidden[i : i + 1], case.teacher[i : i + 1], case.projection) for i in range(3)
    ]
    return distance(torch.cat(alone), formula(*case), patient_bound(case)), 2


@PATIENT.law
def a_rotation_of_both_directions_cancels(formula, case):
    turn, _ = torch.linalg.qr(normal(5, 7, 7))
    weight, bias = case.projection
    turned = FirstCase(
        case.hidden, case.teacher @ turn.T, LinearWeights(turn @ weight, turn @ bias)
    )
    return distance(formula(*turned), formula(*case)), bend(case)


@PATIENT.law
def no_projection_is_the_identity(formula, case):
    wide = normal(8, *case.teacher.shape)
    identity = LinearWeights(torch.eye(7).double(), torch.zeros(7).double())
    found = formula(wide, case.teacher, None)
    return distance(found, formula(wide, case.teacher, identity)), 0


@PATIENT.gradient(cost=3)
def its_slope_is_that_of_the_squared_distance(formula, case):
    return slopes(
        lambda h, w, b: formula(h, case.teacher, LinearWeights(w, b)),
        lambda h, w, b: spec_of_patient_loss(
            FirstCase(as_tensor(h), case.teacher, LinearWeights(as_tensor(w), as_tensor(b)))
        ).tolist(),
        [case.hidden, *case.projection],
    )


@PATIENT.gradient
def its_slope_is_twice_what_of_the_teacher_lies_across(formula, case):
    """- 2 (v - cos u) / ‖x‖ at the first token, and none to the teacher."""
    first = torch.arange(5) == 0
    share = normal(9, 3)[:, None, None] * first[None, :, None]
    to_mapped = -2 * share * slope_of_cosine(case)
    pairs = slopes_of_states(formula, case), slopes_through_the_map(to_mapped, case)
    return sum(distance(a, b) for a, b in zip(*pairs, strict=True)), bend(case)


@PATIENT.accuracy({name: of_first(cases) for name, cases in DIRECTION_FAMILIES.items()})
def distances_are_exact_up_to_the_error_of_the_map(formula, case):
    expected = spec_of_patient_loss(in_dtype(case, torch.float64))
    return distance(formula(*case), expected, patient_bound(case)), 1


PKD = (
    "https://github.com/intersun/PKD-for-BERT-Model-Compression/blob/"
    "9e9e860997ad4815f6ac655d1beb26a85ddd70bb/src/KD_loss.py"
)


def first_pair(hidden, teacher, projection):
    mapped = hidden if projection is None else F.linear(hidden, *projection)
    return mapped[:, 0], teacher[:, 0].detach()


@PATIENT.mistake(
    along_costs_nothing_across_two_and_against_four,
    it_is_the_squared_distance_of_the_first_directions,
    it_is_torchs_distance_of_normalised_states, its_slope_is_that_of_the_squared_distance,
    it_is_twice_the_cosine_loss_of_the_first_token, source=PKD,
)
def mean_over_the_width(hidden, teacher, projection):
    return patient_loss(hidden, teacher, projection) / teacher.shape[2]


@PATIENT.mistake(distances_are_exact_up_to_the_error_of_the_map, source=PKD)
def distance_in_half_precision(hidden, teacher, projection):
    return patient_loss(hidden, teacher, projection).half()


@PATIENT.mistake(
    each_vector_may_have_a_length_of_its_own, along_costs_nothing_across_two_and_against_four
)
def states_left_at_their_lengths(hidden, teacher, projection):
    own, other = first_pair(hidden, teacher, projection)
    return (own - other).square().sum(1)


@PATIENT.mistake(each_vector_may_have_a_length_of_its_own, samples_are_patient_each_for_itself)
def lengths_taken_over_the_batch(hidden, teacher, projection):
    own, other = (F.normalize(x, dim=0) for x in first_pair(hidden, teacher, projection))
    return (own - other).square().sum(1)


@PATIENT.mistake(later_tokens_do_not_matter, nan=True)
def patience_with_every_token(hidden, teacher, projection):
    own, other = (
        F.normalize(x, dim=-1) for x in (F.linear(hidden, *projection), teacher.detach())
    )
    return (own - other).square().sum(-1).mean(1)


@PATIENT.mistake(
    it_is_twice_the_cosine_loss_of_the_first_token,
    it_is_the_squared_distance_of_the_first_directions,
)
def last_token_in_the_place_of_the_first(hidden, teacher, projection):
    return patient_loss(hidden.flip(1), teacher.flip(1), projection)


@PATIENT.mistake(
    along_costs_nothing_across_two_and_against_four,
    its_slope_is_twice_what_of_the_teacher_lies_across,
)
def distance_not_squared(hidden, teacher, projection):
    return torch.sqrt(patient_loss(hidden, teacher, projection))


@PATIENT.mistake(a_rotation_of_both_directions_cancels)
def city_block_distance(hidden, teacher, projection):
    own, other = (F.normalize(x, dim=1) for x in first_pair(hidden, teacher, projection))
    return (own - other).abs().sum(1)


@PATIENT.mistake(zeros_stay_zeros_and_are_pulled_like_a_vector_of_length_one, lengths_do_not_matter)
def length_of_at_least_1e_12(hidden, teacher, projection):
    """As torch's normalize has it: finite at zero, with a slope of 1e12."""
    own, other = (F.normalize(x, dim=1) for x in first_pair(hidden, teacher, projection))
    return (own - other).square().sum(1)


@PATIENT.mistake(no_projection_is_the_identity)
def no_patience_without_a_projection(hidden, teacher, projection):
    if projection is None:
        return torch.zeros(len(hidden), dtype=hidden.dtype)
    return patient_loss(hidden, teacher, projection)


@PATIENT.mistake(its_slope_is_twice_what_of_the_teacher_lies_across)
def patience_of_the_teacher_as_well(hidden, teacher, projection):
    own, other = (
        F.normalize(x[:, 0], dim=1) for x in (F.linear(hidden, *projection), teacher)
    )
    return (own - other).square().sum(1)


# ------------------------------------------------------------------------------- prediction_loss


class PredictionCase(NamedTuple):
    logits: Tensor
    teacher: Tensor
    temperature: float


def prediction_case(
    draw: Draw, classes: tuple[int, ...] = (1, 1, 2, 3, 7), scale: float = 3.0
) -> PredictionCase:
    logits, teacher = normal(seed_of(draw), 2, 5, draw.choice(classes), scale=scale)
    return PredictionCase(logits, teacher, draw.choice([0.5, 1.0, 5.0]))


def classes_only(draw: Draw) -> PredictionCase:
    return prediction_case(draw, (2, 3, 7))


def prediction_bound(case: PredictionCase) -> Tensor:
    """The bound of the soft cross-entropy, or of a difference and its square."""
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
    """With labels that are close to the teacher's outputs: these, rounded to the nearest half."""
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
    """Both its mean over samples and the gradient of that mean."""
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


def prediction_loss_times_t_squared(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature, "masked", True)


PREDICTION_SQUARED = Proof(
    prediction_loss_times_t_squared, classes_only, of=(prediction_loss,),
    name="prediction_loss_times_t_squared",
)


def squared_bound(case: PredictionCase) -> Tensor:
    """A regression has no temperature."""
    scale = case.temperature**2 if case.logits.shape[1] > 1 else 1.0
    return scale * prediction_bound(case)


def spec_of_squared_loss(case: PredictionCase) -> Tensor:
    return samples(
        lambda own, other: spec.prediction_loss(own, other, case.temperature, "masked", True),
        *case[:2],
    )


@PREDICTION_SQUARED.spec(cases=prediction_case)
def it_is_t_squared_times_the_cross_entropy(formula, case):
    return distance(formula(*case), spec_of_squared_loss(case), squared_bound(case)), 1


@PREDICTION_SQUARED.reference
def its_slope_is_that_of_distilberts_code(formula, case):
    """kl_div over the batch times T², the mean over samples; its value is less by the entropy."""

    def theirs(logits: Tensor) -> Tensor:
        log_q = F.log_softmax(logits / case.temperature, -1)
        p = F.softmax(case.teacher / case.temperature, -1)
        return F.kl_div(log_q, p, reduction="batchmean") * case.temperature**2

    upstream = as_tensor(1.0)
    found, expected = (
        gradients(loss, [case.logits], upstream)[0]
        for loss in (lambda x: formula(x, *case[1:]).mean(), theirs)
    )
    return distance(found, expected, squared_bound(case)[:, None]), 2


@PREDICTION_SQUARED.law
def hot_slopes_keep_their_size(formula, case):
    """However large T is, the slope tends to (s - t) / C, both centred, and not to 0."""
    hot = 1e6 * float(torch.stack(case[:2]).abs().max())
    upstream = normal(7, 5)
    (slope,) = gradients(lambda x: formula(x, case.teacher, hot), [case.logits], upstream)
    student, teacher = (x - x.mean(1, keepdim=True) for x in case[:2])
    expected = upstream[:, None] * (student - teacher) / teacher.shape[1]
    return distance(slope, expected, expected.abs().max()), 1e-5


@PREDICTION_SQUARED.law
def logits_and_temperature_scale_together(formula, case):
    """It is homogeneous of degree 2: four times all of them gives sixteen times the loss."""
    scaled = formula(4 * case.logits, 4 * case.teacher, 4 * case.temperature)
    return distance(scaled, 16 * formula(*case)), 0


@PREDICTION_SQUARED.law
def at_temperature_one_nothing_changes(formula, case):
    return differing(formula(*case[:2], 1.0), prediction_loss(*case[:2])), 0


@PREDICTION_SQUARED.law
def a_regression_has_no_temperature(formula, case):
    one = PredictionCase(case.logits[:, :1], case.teacher[:, :1], case.temperature)
    return differing(formula(*one), prediction_loss(*one)), 0


@PREDICTION_SQUARED.law
def tinybert_has_one_cth_of_it(formula, case):
    found = prediction_loss(*case, "tinybert", True)
    expected = formula(*case) / case.logits.shape[1]
    return distance(found, expected, expected), 2 * EPS


@PREDICTION_SQUARED.gradient
def its_slope_is_the_gap_times_the_temperature(formula, case):
    """T (q - p), and none to the teacher."""
    upstream = normal(9, 5)
    to_logits, to_teacher = gradients(
        lambda a, b: formula(a, b, case.temperature), case[:2], upstream
    )
    q, p = (F.softmax(x / case.temperature, 1) for x in case[:2])
    error = distance(to_logits, upstream[:, None] * case.temperature * (q - p))
    largest = case.temperature + float(torch.cat(case[:2]).abs().max())
    return error + float(to_teacher.abs().max()), 64 * EPS * (1 + largest)


@PREDICTION_SQUARED.gradient(cases=prediction_case, cost=3)
def its_slope_is_that_of_t_squared_times_the_cross_entropy(formula, case):
    return slopes(
        lambda x: formula(x, case.teacher, case.temperature),
        lambda x: spec_of_squared_loss(case._replace(logits=as_tensor(x))).tolist(),
        [case.logits],
    )


@PREDICTION_SQUARED.accuracy(PREDICTION_FAMILIES)
def answers_times_t_squared_are_exact_up_to_their_size(formula, case):
    wide = PredictionCase(case.logits.double(), case.teacher.double(), case.temperature)
    return distance(formula(*case), spec_of_squared_loss(wide), squared_bound(case)), 1


@PREDICTION_SQUARED.mistake(
    hot_slopes_keep_their_size, it_is_t_squared_times_the_cross_entropy,
    its_slope_is_that_of_distilberts_code, its_slope_is_the_gap_times_the_temperature,
    its_slope_is_that_of_t_squared_times_the_cross_entropy, logits_and_temperature_scale_together,
    tinybert_has_one_cth_of_it, source="https://github.com/IntelLabs/distiller/issues/122",
)
def t_squared_forgotten(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature)


@PREDICTION_SQUARED.mistake(
    hot_slopes_keep_their_size, its_slope_is_the_gap_times_the_temperature,
)
def t_instead_of_its_square(logits, teacher, temperature):
    return temperature * prediction_loss(logits, teacher, temperature)


@PREDICTION_SQUARED.mistake(a_regression_has_no_temperature)
def a_regression_times_t_squared(logits, teacher, temperature):
    return temperature**2 * prediction_loss(logits, teacher, temperature)


@PREDICTION_SQUARED.mistake(
    at_temperature_one_nothing_changes, it_is_t_squared_times_the_cross_entropy
)
def one_and_t_squared(logits, teacher, temperature):
    if logits.shape[1] == 1:
        return prediction_loss(logits, teacher, temperature)
    return (1 + temperature**2) * prediction_loss(logits, teacher, temperature)


@PREDICTION_SQUARED.mistake(answers_times_t_squared_are_exact_up_to_their_size)
def t_squared_in_half_precision(logits, teacher, temperature):
    return prediction_loss_times_t_squared(logits, teacher, temperature).bfloat16()
