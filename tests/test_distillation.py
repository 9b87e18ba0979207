"""Distillation, each formula proven five ways: spec, reference, laws, gradient, mistakes.

The reference of the mode tinybert is the loss of the official code, stated anew with torch's
MSELoss, the mask of -10000 and the clamp at -100; values and gradients must agree.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import pytest
import spec_training as spec
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from proof import (
    EPS,
    as_tensor,
    check,
    check_slope,
    differing,
    distance,
    fewer,
    gradients,
    holds,
    normal,
    rejects,
    seeds,
)
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
from minibert.losses import soft_cross_entropy
from minibert.parameters import LinearWeights, initial_weights, weight_shapes


def kept(lengths: list[int], tokens: int) -> Tensor:
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


# ---------------------------------------------------------------------------------- layer_map


class Depths(NamedTuple):
    student: int
    teacher: int


depths = st.builds(Depths, st.integers(1, 13), st.integers(1, 13))
DEPTHS = [Depths(4, 12), Depths(4, 6), Depths(3, 6), Depths(5, 5), Depths(9, 4), Depths(7, 13)]


@given(case=depths)
def test_layer_map_is_its_spec(case):
    rules = ["uniform"] if case.student > case.teacher else ["uniform", "top", "bottom"]
    for rule in rules:
        assert list(layer_map(*case, rule)) == spec.layer_map(*case, rule)


@pytest.mark.parametrize(("student", "teacher"), [(4, 12), (6, 12), (3, 6), (1, 7), (5, 5)])
def test_layer_map_is_the_reference(student, teacher):
    """TinyBERT's two index formulas, attention layers and hidden states counted from 0."""
    k = teacher // student
    assert [g - 1 for g in layer_map(student, teacher)] == [i * k + k - 1 for i in range(student)]
    assert [0, *layer_map(student, teacher)] == [i * k for i in range(student + 1)]


def every_layer_exists(formula, case):
    layers = formula(*case)
    return sum(not 1 <= g <= case.teacher for g in layers) + abs(len(layers) - case.student), 0


def the_last_learns_from_the_last(formula, case):
    return abs(formula(*case)[-1] - case.teacher), 0


def layers_rise(formula, case):
    """Strictly, as long as the teacher has enough of them."""
    layers, least = formula(*case), int(case.student <= case.teacher)
    return sum(b - a < least for a, b in pairwise(layers)), 0


def steps_differ_by_at_most_one(formula, case):
    layers = (0, *formula(*case))
    steps = [b - a for a, b in pairwise(layers)]
    return max(0, max(steps) - min(steps) - 1), 0


def equal_depths_pair_one_to_one(formula, case):
    layers = formula(case.teacher, case.teacher)
    return sum(g != m for m, g in enumerate(layers, 1)), 0


def multiples_keep_the_step(formula, case):
    layers = formula(case.student, 3 * case.student)
    return sum(g != 3 * m for m, g in enumerate(layers, 1)), 0


LAYER_MAP_LAWS = [
    every_layer_exists,
    the_last_learns_from_the_last,
    layers_rise,
    steps_differ_by_at_most_one,
    equal_depths_pair_one_to_one,
    multiples_keep_the_step,
]


@pytest.mark.parametrize("law", LAYER_MAP_LAWS)
@given(case=depths)
def test_layer_map_law(law, case):
    holds(law, layer_map, case)


def counted_from_zero(student, teacher):
    return tuple(g - 1 for g in layer_map(student, teacher))


def one_step_early(student, teacher):
    return tuple(m * teacher // student for m in range(student))


def rounded_down(student, teacher):
    return tuple(m * teacher // student for m in range(1, student + 1))


def first_layers(student, teacher):
    return tuple(range(1, student + 1))


def rest_of_the_division_dropped(student, teacher):
    return tuple(m * max(1, teacher // student) for m in range(1, student + 1))


def rest_of_the_division_at_the_end(student, teacher):
    """DynaBERT forces the last layer to the teacher's last one."""
    return (*rest_of_the_division_dropped(student, teacher)[:-1], teacher)


def from_the_top_down(student, teacher):
    return layer_map(student, teacher)[::-1]


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (rest_of_the_division_at_the_end, steps_differ_by_at_most_one),
        (from_the_top_down, layers_rise),
        (counted_from_zero, the_last_learns_from_the_last),
        (counted_from_zero, equal_depths_pair_one_to_one),
        (one_step_early, multiples_keep_the_step),
        (rounded_down, every_layer_exists),
        (first_layers, the_last_learns_from_the_last),
        (first_layers, multiples_keep_the_step),
        (rest_of_the_division_dropped, the_last_learns_from_the_last),
    ],
)
def test_layer_map_rejects(mistake, law):
    rejects(law, mistake, layer_map, DEPTHS)


def test_layer_map_takes_the_layers_themselves():
    assert layer_map(3, 12, (12, 2, 2)) == (12, 2, 2)


@pytest.mark.parametrize(
    ("student", "teacher", "rule", "message"),
    [
        (4, 12, "middle", "the rule is 'middle', but must be uniform, top or bottom"),
        (3, 12, (4, 8), r"\(4, 8\) does not give each of 3 student layers"),
        (2, 12, (0, 12), r"\(0, 12\) does not .* one of the teacher's layers 1 to 12"),
        (2, 12, (6, 13), r"\(6, 13\) does not .* one of the teacher's layers 1 to 12"),
        (5, 4, "top", r"\(0, 1, 2, 3, 4\) does not give each of 5 student layers"),
        (5, 4, "bottom", r"\(1, 2, 3, 4, 5\) does not give each of 5 student layers"),
    ],
)
def test_layer_map_refuses(student, teacher, rule, message):
    with pytest.raises(ValueError, match=message):
        layer_map(student, teacher, rule)


# ------------------------------------------------------------------------------ grouped_heads


class HeadsCase(NamedTuple):
    scores: Tensor
    heads: int


def heads_case(seed: int, heads: int = 2, group: int = 3) -> HeadsCase:
    return HeadsCase(normal(seed, 2, heads * group, 3, 5), heads)


heads_cases = st.builds(heads_case, seeds, st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 5]))


@given(case=heads_cases)
def test_grouped_heads_is_its_spec(case):
    expected = [spec.grouped_heads(sample, case.heads) for sample in case.scores.tolist()]
    error = distance(grouped_heads(*case), as_tensor(expected))
    check(error, 32 * EPS, "grouped_heads and its spec")


@given(case=heads_cases)
def test_grouped_heads_is_the_reference(case):
    """A mean over neighbours is average pooling along the heads."""
    group = case.scores.shape[1] // case.heads
    expected = F.avg_pool3d(case.scores, (group, 1, 1))
    check(distance(grouped_heads(*case), expected), 32 * EPS, "grouped_heads and F.avg_pool3d")


def as_many_heads_stay_as_they_are(formula, case):
    return differing(formula(case.scores, case.scores.shape[1]), case.scores), 0


def the_mean_of_all_heads_stays(formula, case):
    return distance(formula(*case).mean(1), case.scores.mean(1)), 32 * EPS


def order_within_a_group_is_free(formula, case):
    groups = case.scores.unflatten(1, (case.heads, -1))
    turned = groups.roll(1, 2).flatten(1, 2)
    return distance(formula(turned, case.heads), formula(*case)), 32 * EPS


def groups_move_as_one(formula, case):
    groups = case.scores.unflatten(1, (case.heads, -1))
    return distance(formula(groups.flip(1).flatten(1, 2), case.heads), formula(*case).flip(1)), 0


HEADS_LAWS = [
    as_many_heads_stay_as_they_are,
    the_mean_of_all_heads_stays,
    order_within_a_group_is_free,
    groups_move_as_one,
]


@pytest.mark.parametrize("law", HEADS_LAWS)
@given(case=heads_cases)
def test_grouped_heads_law(law, case):
    holds(law, grouped_heads, case)


def every_nth_head(scores, heads):
    return scores.unflatten(1, (-1, heads)).mean(1)


def first_head_of_each_group(scores, heads):
    return scores.unflatten(1, (heads, -1))[:, :, 0]


def largest_of_each_group(scores, heads):
    return scores.unflatten(1, (heads, -1)).amax(2)


def first_heads(scores, heads):
    return scores[:, :heads]


def divided_by_the_student_heads(scores, heads):
    return scores.unflatten(1, (heads, -1)).sum(2) / heads


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (divided_by_the_student_heads, as_many_heads_stay_as_they_are),
        (every_nth_head, order_within_a_group_is_free),
        (first_head_of_each_group, order_within_a_group_is_free),
        (largest_of_each_group, the_mean_of_all_heads_stays),
        (first_heads, the_mean_of_all_heads_stays),
        (first_heads, groups_move_as_one),
    ],
)
def test_grouped_heads_rejects(mistake, law):
    rejects(law, mistake, grouped_heads, [heads_case(seed) for seed in range(5)])


@fewer(4)
@given(seed=seeds)
def test_grouped_heads_gradient(seed):
    scores, heads = heads_case(seed)
    check_slope(
        lambda x: grouped_heads(x, heads),
        lambda x: [spec.grouped_heads(sample, heads) for sample in x],
        [scores],
        seed,
    )


@pytest.mark.parametrize("heads", [0, 5, 8, 24])
def test_grouped_heads_names_the_legal_counts(heads):
    message = rf"{heads} student heads cannot share 12 .* legal counts: \[1, 2, 3, 4, 6, 12\]"
    with pytest.raises(ValueError, match=message):
        grouped_heads(torch.zeros(1, 12, 2, 2), heads)


# -------------------------------------------------------------------------------- hidden_loss


class HiddenCase(NamedTuple):
    hidden: Tensor
    teacher: Tensor
    projection: LinearWeights
    keep: Tensor


def hidden_case(seed: int, scale: float = 1.0, width: int = 2) -> HiddenCase:
    """Three sentences of 5, 1 and 3 tokens, padded to 5; widths D -> 7."""
    return HiddenCase(
        normal(seed, 3, 5, width),
        normal(seed + 1, 3, 5, 7, scale=scale),
        LinearWeights(normal(seed + 2, 7, width, scale=scale), normal(seed + 3, 7, scale=scale)),
        kept([5, 1, 3], 5),
    )


hidden_cases = st.builds(
    hidden_case, seeds, st.sampled_from([1e-3, 1.0, 50.0]), st.sampled_from([2, 3])
)


def mapped(case: HiddenCase) -> Tensor:
    return F.linear(case.hidden, *case.projection)


def hidden_bound(case: HiddenCase) -> float:
    """A sum of D + 1 products, squared, and a mean over at most 35 of them."""
    largest = max(float(part.abs().max()) for part in (case.teacher, mapped(case))) + float(
        (case.hidden.abs() @ case.projection.weight_OI.abs().T).max()
    )
    return 64 * EPS * largest * largest


def hidden_spec(case: HiddenCase, mode: str) -> Tensor:
    lists = [part.tolist() for part in (case.hidden, case.teacher, case.keep)]
    projection = tuple(part.tolist() for part in case.projection)
    rows = zip(*lists, strict=True)
    return as_tensor([spec.hidden_loss(h, u, projection, keep, mode) for h, u, keep in rows])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@given(case=hidden_cases)
def test_hidden_loss_is_its_spec(mode, case):
    error = distance(hidden_loss(*case, mode), hidden_spec(case, mode))
    check(error, hidden_bound(case), "hidden_loss and its spec")


def official_hidden_loss(hidden, teacher, projection, keep):
    """task_distill.py: MSELoss of fit_dense(student state) and teacher state, padding included."""
    return torch.nn.MSELoss()(F.linear(hidden, *projection), teacher)


def same_slopes(ours, reference, leaves: list[Tensor], bound: float) -> None:
    """Value and gradients of two numbers, one loss each."""
    check(distance(ours(*leaves), reference(*leaves)), bound, "value of the official loss")
    one = as_tensor(1.0)
    for a, b in zip(gradients(ours, leaves, one), gradients(reference, leaves, one), strict=True):
        check(distance(a, b, 1 + b.abs()), bound, "gradient of the official loss")


@given(case=hidden_cases)
def test_hidden_loss_is_the_reference(case):
    def ours(hidden, *projection):
        projection = LinearWeights(*projection)
        return hidden_loss(hidden, case.teacher, projection, case.keep, "tinybert").mean()

    def theirs(hidden, *projection):
        return official_hidden_loss(hidden, case.teacher, projection, case.keep)

    same_slopes(ours, theirs, [case.hidden, *case.projection], 8 * hidden_bound(case))


def an_exact_image_costs_nothing(formula, case):
    """And nothing else does."""
    bound = hidden_bound(case) * EPS
    other = float((formula(*case) <= bound).sum())
    return float(formula(*case._replace(teacher=mapped(case))).abs().max()) + other, bound


def hidden_offsets_cost_their_square(formula, case):
    d = 1.5
    signs = torch.where(normal(7, *case.teacher.shape) > 0, d, -d)
    found = formula(*case._replace(teacher=mapped(case) + signs))
    return float((found - d * d).abs().max()), hidden_bound(case) + 16 * EPS


def hidden_padding_changes_neither_value_nor_slope(formula, case):
    """Whatever stands there, even NaN on both sides."""
    longer = HiddenCase(
        F.pad(case.hidden, (0, 0, 0, 2), value=math.nan),
        F.pad(case.teacher, (0, 0, 0, 2), value=math.nan),
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
    return sum(distance(a, b) for a, b in zip(*found, strict=True)), 8 * hidden_bound(case)


def a_sample_is_its_kept_tokens(formula, case):
    """Cut out of the batch and cropped, it costs the same: L(s, t) = Σ_i L_i."""
    alone = []
    for i, length in enumerate(case.keep.sum(1).tolist()):
        cropped = [part[i : i + 1, :length] for part in (case.hidden, case.teacher, case.keep)]
        alone.append(formula(cropped[0], cropped[1], case.projection, cropped[2]))
    return distance(torch.cat(alone), formula(*case)), hidden_bound(case)


def hidden_loss_grows_with_the_square(formula, case):
    weight, bias = case.projection
    scaled = formula(8 * case.hidden, 8 * case.teacher, LinearWeights(weight, 8 * bias), case.keep)
    return distance(scaled, 64 * formula(*case)), 0


def repeated_tokens_cost_the_same(formula, case):
    twice = case._replace(**{
        name: torch.cat([getattr(case, name)] * 2, 1) for name in ("hidden", "teacher", "keep")
    })
    return distance(formula(*twice), formula(*case)), hidden_bound(case)


def repeated_features_cost_the_same(formula, case):
    weight, bias = case.projection
    projection = LinearWeights(weight.repeat(2, 1), bias.repeat(2))
    twice = case._replace(teacher=case.teacher.repeat(1, 1, 2), projection=projection)
    return distance(formula(*twice), formula(*case)), hidden_bound(case)


def a_rotation_of_the_teacher_cancels(formula, case):
    turn, _ = torch.linalg.qr(normal(5, 7, 7))
    weight, bias = case.projection
    turned = LinearWeights(turn @ weight, turn @ bias)
    found = formula(case.hidden, case.teacher @ turn.T, turned, case.keep)
    return distance(found, formula(*case)), 16 * hidden_bound(case)


def its_slopes_are_those_of_least_squares(formula, case):
    """2 / (n E) times the residual, through W to the state, times the state to W; no teacher's."""
    upstream = normal(9, 3)
    leaves = [x.clone().requires_grad_() for x in (case.hidden, case.teacher, *case.projection)]
    value = formula(leaves[0], leaves[1], LinearWeights(*leaves[2:]), case.keep)
    to_hidden, to_teacher, to_weight, to_bias = torch.autograd.grad(
        value, leaves, upstream, allow_unused=True, materialize_grads=True
    )
    share = (upstream / case.keep.sum(1))[:, None, None] * case.keep[..., None] / 7
    residual = 2 * share * (mapped(case) - case.teacher)
    gaps = [
        distance(to_hidden, residual @ case.projection.weight_OI),
        distance(to_weight, torch.einsum("bse,bsd->ed", residual, case.hidden)),
        distance(to_bias, residual.sum((0, 1))),
        float(to_teacher.abs().max()),
    ]
    return sum(gaps), 64 * hidden_bound(case)


HIDDEN_LAWS = [
    an_exact_image_costs_nothing,
    hidden_offsets_cost_their_square,
    hidden_padding_changes_neither_value_nor_slope,
    a_sample_is_its_kept_tokens,
    hidden_loss_grows_with_the_square,
    repeated_tokens_cost_the_same,
    repeated_features_cost_the_same,
    a_rotation_of_the_teacher_cancels,
    its_slopes_are_those_of_least_squares,
]


@pytest.mark.parametrize("law", HIDDEN_LAWS)
@fewer(4)
@given(case=st.builds(hidden_case, seeds, st.just(1.0), st.sampled_from([2, 3])))
def test_hidden_loss_law(law, case):
    holds(law, hidden_loss, case)


def squares(hidden, teacher, projection):
    return (F.linear(hidden, *projection) - teacher.detach()).square()


def hidden_padding_counted(hidden, teacher, projection, keep):
    return squares(hidden, teacher, projection).mean((1, 2))


def hidden_divided_by_the_padded_length(hidden, teacher, projection, keep):
    return torch.where(keep[..., None], squares(hidden, teacher, projection), 0).mean((1, 2))


def divided_by_the_tokens_of_the_batch(hidden, teacher, projection, keep):
    kept_squares = torch.where(keep[..., None], squares(hidden, teacher, projection), 0)
    return len(keep) * kept_squares.mean(2).sum(1) / keep.sum()


def summed_over_the_width(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep) * teacher.shape[2]


def summed_over_the_tokens(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, keep) * keep.sum(1)


def absolute_differences(hidden, teacher, projection, keep):
    gaps = (F.linear(hidden, *projection) - teacher.detach()).abs().mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


def mask_the_other_way(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, projection, ~keep)


def rooted(hidden, teacher, projection, keep):
    return torch.sqrt(hidden_loss(hidden, teacher, projection, keep))


def projection_without_bias(hidden, teacher, projection, keep):
    return hidden_loss(hidden, teacher, LinearWeights(projection[0], 0 * projection[1]), keep)


def cosine_of_the_states(hidden, teacher, projection, keep):
    gap = 1 - F.cosine_similarity(F.linear(hidden, *projection), teacher.detach(), -1)
    return torch.where(keep, gap, 0).sum(1) / keep.sum(1)


def hidden_teacher_not_detached(hidden, teacher, projection, keep):
    gaps = (F.linear(hidden, *projection) - teacher).square().mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


def padding_hidden_after_the_map(hidden, teacher, projection, keep):
    gaps = F.linear(hidden, *projection) - teacher.detach()
    return torch.where(keep[..., None], gaps, 0).square().mean(2).sum(1) / keep.sum(1)


def padding_hidden_after_squaring(hidden, teacher, projection, keep):
    gaps = squares(hidden, teacher, projection).mean(2)
    return torch.where(keep, gaps, 0).sum(1) / keep.sum(1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (hidden_padding_counted, hidden_padding_changes_neither_value_nor_slope),
        (hidden_padding_counted, a_sample_is_its_kept_tokens),
        (hidden_divided_by_the_padded_length, a_sample_is_its_kept_tokens),
        (divided_by_the_tokens_of_the_batch, a_sample_is_its_kept_tokens),
        (summed_over_the_width, repeated_features_cost_the_same),
        (summed_over_the_width, hidden_offsets_cost_their_square),
        (summed_over_the_tokens, repeated_tokens_cost_the_same),
        (absolute_differences, a_rotation_of_the_teacher_cancels),
        (mask_the_other_way, a_sample_is_its_kept_tokens),
        (rooted, hidden_loss_grows_with_the_square),
        (projection_without_bias, an_exact_image_costs_nothing),
        (cosine_of_the_states, hidden_offsets_cost_their_square),
        (hidden_teacher_not_detached, its_slopes_are_those_of_least_squares),
        (padding_hidden_after_the_map, hidden_padding_changes_neither_value_nor_slope),
        (padding_hidden_after_squaring, hidden_padding_changes_neither_value_nor_slope),
    ],
)
def test_hidden_loss_rejects(mistake, law):
    rejects(law, mistake, hidden_loss, [hidden_case(seed) for seed in range(4)])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@fewer(4)
@given(seed=seeds)
def test_hidden_loss_gradient(mode, seed):
    case = hidden_case(seed)
    check_slope(
        lambda h, w, b: hidden_loss(h, case.teacher, LinearWeights(w, b), case.keep, mode),
        lambda h, w, b: hidden_spec(
            HiddenCase(
                as_tensor(h), case.teacher, LinearWeights(as_tensor(w), as_tensor(b)), case.keep
            ),
            mode,
        ).tolist(),
        [case.hidden, *case.projection],
        seed,
    )


@given(seed=seeds)
def test_hidden_loss_without_a_projection_is_that_of_the_identity(seed):
    case = hidden_case(seed, width=7)
    identity = LinearWeights(torch.eye(7).double(), torch.zeros(7).double())
    found = hidden_loss(case.hidden, case.teacher, None, case.keep)
    assert torch.equal(found, hidden_loss(case.hidden, case.teacher, identity, case.keep))


@given(seed=seeds)
def test_hidden_loss_of_tinybert_depends_on_the_padding(seed):
    """Two more tokens that match dilute the mean of five; two that do not match count fully."""
    case = hidden_case(seed)
    before = hidden_loss(*case, "tinybert")
    hidden = torch.cat([case.hidden, normal(8, 3, 2, 2)], 1)
    keep = torch.cat([case.keep, torch.zeros(3, 2, dtype=torch.bool)], 1)
    padding = F.linear(hidden[:, 5:], *case.projection)
    matched = hidden_loss(
        hidden, torch.cat([case.teacher, padding], 1), case.projection, keep, "tinybert"
    )
    missed = hidden_loss(
        hidden, torch.cat([case.teacher, padding + 3], 1), case.projection, keep, "tinybert"
    )
    check(distance(matched, before * 5 / 7), hidden_bound(case), "matched padding")
    check(distance(missed, (before * 5 + 2 * 9) / 7), 4 * hidden_bound(case), "missed padding")


def test_hidden_loss_of_a_sentence_without_tokens_is_zero():
    case = hidden_case(0)
    value = hidden_loss(*case._replace(keep=kept([5, 0, 3], 5)))
    assert value[1] == 0
    assert value.isfinite().all()


@pytest.mark.parametrize(
    ("projection", "message"),
    [
        (None, r"state \[3, 5, 2\] does not fit the teacher's \[3, 5, 7\]; a projection maps D"),
        (LinearWeights(torch.ones(6, 2), torch.ones(6)), r"\[3, 5, 6\] does not fit"),
        (LinearWeights(torch.ones(7, 3), torch.ones(7)), "width 2, but the weight maps from 3"),
    ],
)
def test_hidden_loss_refuses_widths_that_do_not_fit(projection, message):
    with pytest.raises(ValueError, match=message):
        hidden_loss(torch.ones(3, 5, 2), torch.ones(3, 5, 7), projection, kept([5, 1, 3], 5))


# ----------------------------------------------------------------------------- attention_loss


class AttentionCase(NamedTuple):
    scores: Tensor
    teacher: Tensor
    keep: Tensor


def attention_case(seed: int, scale: float = 1.0, group: int = 1, heads: int = 2) -> AttentionCase:
    """Three sentences of 5, 1 and 3 tokens; at scale 80 some scores are below -100."""
    scores = normal(seed, 3, heads, 5, 5, scale=scale)
    teacher = normal(seed + 1, 3, heads * group, 5, 5, scale=scale)
    return AttentionCase(scores, teacher, kept([5, 1, 3], 5))


attention_cases = st.builds(
    attention_case, seeds, st.sampled_from([1e-3, 1.0, 80.0]), st.sampled_from([1, 3])
)


def attention_bound(case: AttentionCase) -> float:
    largest = max(float(case.scores.abs().max()), float(case.teacher.abs().max()))
    return 128 * EPS * largest * largest


def attention_spec(case: AttentionCase, mode: str) -> Tensor:
    rows = zip(*(part.tolist() for part in case), strict=True)
    return as_tensor([spec.attention_loss(a, b, keep, mode) for a, b, keep in rows])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@fewer(4)
@given(case=attention_cases)
def test_attention_loss_is_its_spec(mode, case):
    error = distance(attention_loss(*case, mode), attention_spec(case, mode))
    check(error, attention_bound(case), "attention_loss and its spec")


def official_attention_loss(scores, teacher, keep):
    """task_distill.py: scores with -10000 added at padding, all at most -1e2 replaced by 0."""
    mask = (1.0 - keep[:, None, None, :].double()) * -10000.0
    student, teacher = scores + mask, teacher + mask
    student = torch.where(student <= -1e2, torch.zeros_like(student), student)
    teacher = torch.where(teacher <= -1e2, torch.zeros_like(teacher), teacher)
    return torch.nn.MSELoss()(student, teacher)


@given(seed=seeds, scale=st.sampled_from([1.0, 80.0]))
def test_attention_loss_is_the_reference(seed, scale):
    case = attention_case(seed, scale)
    same_slopes(
        lambda x: attention_loss(x, case.teacher, case.keep, "tinybert").mean(),
        lambda x: official_attention_loss(x, case.teacher, case.keep),
        [case.scores],
        attention_bound(case),
    )


def as_grouped(x: Tensor, case: AttentionCase) -> Tensor:
    """One score per student head, repeated for every teacher head that it learns from."""
    return x.repeat_interleave(case.teacher.shape[1] // x.shape[1], 1)


def equal_scores_cost_nothing(formula, case):
    """And no others do."""
    other = float((formula(*case) <= 0).sum())
    equal = formula(case.scores, as_grouped(case.scores, case), case.keep)
    return float(equal.abs().max()) + other, attention_bound(case) * EPS


def score_offsets_cost_their_square(formula, case):
    """Each of its own sign, so that neither softmax nor a mean over heads can hide them."""
    d = 1.5
    signs = torch.where(normal(7, *case.scores.shape) > 0, d, -d)
    found = formula(case.scores, as_grouped(case.scores + signs, case), case.keep)
    return float((found - d * d).abs().max()), attention_bound(case) + 64 * EPS


def an_equal_offset_costs_its_square(formula, case):
    """Softmax would not see it: it compares probabilities, this loss compares scores."""
    found = formula(case.scores, as_grouped(case.scores + 1.5, case), case.keep)
    return float((found - 2.25).abs().max()), attention_bound(case) + 64 * EPS


def score_padding_changes_neither_value_nor_slope(formula, case):
    """Whatever stands there, even NaN, as key or as query."""
    found = []
    longer = [F.pad(x, (0, 2, 0, 2), value=math.nan) for x in case[:2]]
    keep = F.pad(case.keep, (0, 2), value=False)
    for part in (case, AttentionCase(*longer, keep)):
        value = formula(*part)
        (slope,) = gradients(
            lambda x, part=part: formula(x, part.teacher, part.keep), [part.scores], normal(9, 3)
        )
        found.append([value, slope[:, :, :5, :5], slope[:, :, 5:].abs().sum()])
    return sum(distance(a, b) for a, b in zip(*found, strict=True)), attention_bound(case)


def a_sample_is_its_kept_pairs(formula, case):
    alone = []
    for i, n in enumerate(case.keep.sum(1).tolist()):
        scores, teacher = (x[i : i + 1, :, :n, :n] for x in case[:2])
        alone.append(formula(scores, teacher, case.keep[i : i + 1, :n]))
    return distance(torch.cat(alone), formula(*case)), attention_bound(case)


def heads_may_change_places(formula, case):
    groups = case.teacher.unflatten(1, (case.scores.shape[1], -1))
    moved = formula(case.scores.flip(1), groups.flip(1).flatten(1, 2), case.keep)
    return distance(moved, formula(*case)), attention_bound(case)


def repeated_heads_cost_the_same(formula, case):
    twice = formula(case.scores.repeat(1, 2, 1, 1), case.teacher.repeat(1, 2, 1, 1), case.keep)
    return distance(twice, formula(*case)), attention_bound(case)


def attention_loss_grows_with_the_square(formula, case):
    scaled = formula(8 * case.scores, 8 * case.teacher, case.keep)
    return distance(scaled, 64 * formula(*case)), 0


def negative_scores_count_like_positive_ones(formula, case):
    mirrored = formula(-case.scores, -case.teacher, case.keep)
    return distance(mirrored, formula(*case)), 0


def only_the_mean_of_a_group_counts(formula, case):
    group = case.teacher.shape[1] // case.scores.shape[1]
    noise = normal(6, *case.scores.shape[:2], group, 5, 5)
    noise = (noise - noise.mean(2, keepdim=True)).flatten(1, 2)
    found = formula(case.scores, case.teacher + noise, case.keep)
    return distance(found, formula(*case)), 8 * attention_bound(case)


def its_slope_is_the_residual(formula, case):
    """2 / (N n²) (a - mean of the group) at pairs of kept tokens; none to the teacher."""
    upstream = normal(9, 3)
    leaves = [x.clone().requires_grad_() for x in case[:2]]
    to_scores, to_teacher = torch.autograd.grad(
        formula(*leaves, case.keep), leaves, upstream, allow_unused=True, materialize_grads=True
    )
    heads = case.scores.shape[1]
    target = case.teacher.unflatten(1, (heads, -1)).mean(2)
    pairs = (case.keep[:, :, None] & case.keep[:, None, :])[:, None]
    share = upstream / (heads * case.keep.sum(1) ** 2)
    expected = 2 * share[:, None, None, None] * pairs * (case.scores - target)
    return distance(to_scores, expected) + float(to_teacher.abs().max()), attention_bound(case)


ATTENTION_LAWS = [
    equal_scores_cost_nothing,
    score_offsets_cost_their_square,
    an_equal_offset_costs_its_square,
    score_padding_changes_neither_value_nor_slope,
    a_sample_is_its_kept_pairs,
    heads_may_change_places,
    repeated_heads_cost_the_same,
    attention_loss_grows_with_the_square,
    negative_scores_count_like_positive_ones,
    only_the_mean_of_a_group_counts,
    its_slope_is_the_residual,
]


@pytest.mark.parametrize("law", ATTENTION_LAWS)
@fewer(4)
@given(case=st.builds(attention_case, seeds, st.sampled_from([1.0, 80.0]), st.sampled_from([1, 3])))
def test_attention_loss_law(law, case):
    holds(law, attention_loss, case)


def mean_over_pairs(gaps: Tensor, pairs: Tensor) -> Tensor:
    """Of gaps [B, N, S, S] where pairs [B, 1, S, S] say so."""
    return torch.where(pairs, gaps, 0).mean(1).sum((1, 2)) / pairs.sum((1, 2, 3))


def key_pairs(keep: Tensor) -> Tensor:
    return keep[:, None, None, :].expand(-1, 1, keep.shape[1], -1)


def both_pairs(keep: Tensor) -> Tensor:
    return key_pairs(keep) & key_pairs(keep).mT


def target_of(scores: Tensor, teacher: Tensor) -> Tensor:
    return teacher.detach().unflatten(1, (scores.shape[1], -1)).mean(2)


def probabilities_compared(scores, teacher, keep):
    p, q = (x.softmax(-1) for x in (target_of(scores, teacher), scores))
    return mean_over_pairs((p - q).square(), both_pairs(keep))


def mask_left_in_the_scores(scores, teacher, keep):
    mask = (1.0 - keep[:, None, None, :].double()) * -10000.0
    return ((scores + mask) - (target_of(scores, teacher) + mask)).square().mean((1, 2, 3))


def padded_queries_compared(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return mean_over_pairs(gaps, key_pairs(keep))


def padded_keys_compared(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return mean_over_pairs(gaps, key_pairs(keep).mT)


def divided_by_the_padded_square(scores, teacher, keep):
    gaps = (scores - target_of(scores, teacher)).square()
    return torch.where(both_pairs(keep), gaps, 0).mean((1, 2, 3))


def summed_over_heads(scores, teacher, keep):
    return attention_loss(scores, teacher, keep) * scores.shape[1]


def heads_averaged_first(scores, teacher, keep):
    """TextBrewer's attention_mse_sum, with a mean."""
    return attention_loss(scores.mean(1, True), teacher.mean(1, True), keep)


def negative_scores_clamped(scores, teacher, keep):
    """TextBrewer's unmasked loss: where(x <= -1e-3, 0, x)."""
    clamped = [torch.where(x <= -1e-3, 0, x) for x in (scores, target_of(scores, teacher))]
    return mean_over_pairs((clamped[0] - clamped[1]).square(), both_pairs(keep))


def first_head_only(scores, teacher, keep):
    group = teacher.shape[1] // scores.shape[1]
    return attention_loss(scores[:, :1], teacher[:, :group], keep)


def root_of_the_mean_square(scores, teacher, keep):
    return torch.sqrt(attention_loss(scores, teacher, keep))


def first_of_each_group(scores, teacher, keep):
    return attention_loss(scores, teacher.unflatten(1, (scores.shape[1], -1))[:, :, 0], keep)


def groups_interleaved(scores, teacher, keep):
    return attention_loss(scores, teacher.unflatten(1, (-1, scores.shape[1])).mean(1), keep)


def attention_teacher_not_detached(scores, teacher, keep):
    target = teacher.unflatten(1, (scores.shape[1], -1)).mean(2)
    return mean_over_pairs((scores - target).square(), both_pairs(keep))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (probabilities_compared, an_equal_offset_costs_its_square),
        (mask_left_in_the_scores, score_padding_changes_neither_value_nor_slope),
        (mask_left_in_the_scores, a_sample_is_its_kept_pairs),
        (padded_queries_compared, a_sample_is_its_kept_pairs),
        (padded_keys_compared, a_sample_is_its_kept_pairs),
        (divided_by_the_padded_square, a_sample_is_its_kept_pairs),
        (summed_over_heads, repeated_heads_cost_the_same),
        (summed_over_heads, score_offsets_cost_their_square),
        (heads_averaged_first, score_offsets_cost_their_square),
        (heads_averaged_first, its_slope_is_the_residual),
        (negative_scores_clamped, negative_scores_count_like_positive_ones),
        (first_head_only, heads_may_change_places),
        (root_of_the_mean_square, attention_loss_grows_with_the_square),
        (first_of_each_group, only_the_mean_of_a_group_counts),
        (groups_interleaved, equal_scores_cost_nothing),
        (attention_teacher_not_detached, its_slope_is_the_residual),
    ],
)
def test_attention_loss_rejects(mistake, law):
    cases = [attention_case(seed, group=3) for seed in range(4)]
    rejects(law, mistake, attention_loss, cases)


def in_tinybert_mode(scores, teacher, keep):
    return attention_loss(scores, teacher, keep, "tinybert")


def keys_out_of_sight_do_not_matter(formula, case):
    """Not even NaN: a hidden key counts as 0 on both sides."""
    hidden = ~case.keep[:, None, None, :]
    scores = torch.where(hidden, math.nan, case.scores)
    teacher = torch.where(hidden, 7.0, case.teacher)
    return distance(formula(scores, teacher, case.keep), formula(*case)), 0


def matched_padding_dilutes(formula, case):
    """Two more tokens, equal on both sides: the same sum over 49 pairs instead of 25."""
    longer = [F.pad(x, (0, 2, 0, 2), value=3.0) for x in case[:2]]
    found = formula(*longer, F.pad(case.keep, (0, 2), value=False))
    return distance(found, formula(*case) * 25 / 49), attention_bound(case)


def padded_queries_count(formula, case):
    """The second sentence has one token; four padded queries compare their score for it."""
    off = case.scores.clone()
    off[1, :, 1:, 0] += 3.0
    found = formula(off, as_grouped(case.scores, case), case.keep)
    return distance(found, as_tensor([0.0, 4 * 9 / 25, 0.0])), attention_bound(case)


def scores_up_to_minus_100_are_zero(formula, case):
    costs = {(-100, -5000): 0, (-100, 2): 4, (-99.5, 0): 99.5**2, (0, -99.5): 99.5**2}
    pairs = as_tensor(list(costs)).T[..., None, None, None]
    found = formula(*pairs, torch.ones(len(costs), 1, dtype=torch.bool))
    return distance(found, as_tensor(list(costs.values()))), 0


TINYBERT_ATTENTION_LAWS = [
    keys_out_of_sight_do_not_matter,
    matched_padding_dilutes,
    padded_queries_count,
    scores_up_to_minus_100_are_zero,
    repeated_heads_cost_the_same,
]


@pytest.mark.parametrize("law", TINYBERT_ATTENTION_LAWS)
@fewer(4)
@given(case=st.builds(attention_case, seeds))
def test_attention_loss_of_tinybert_law(law, case):
    holds(law, in_tinybert_mode, case)


def clamped_at_a_thousandth(scores, teacher, keep):
    return in_tinybert_mode(*(torch.where(x <= -1e-3, 0, x) for x in (scores, teacher)), keep)


def minus_100_itself_kept(scores, teacher, keep):
    nearly = [torch.where(x == -100, -100 + 1e-9, x) for x in (scores, teacher)]
    return in_tinybert_mode(*nearly, keep)


def only_the_student_clamped(scores, teacher, keep):
    return torch.where(scores <= -100, 0, scores).sub(teacher).square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (attention_loss, matched_padding_dilutes),
        (attention_loss, padded_queries_count),
        (attention_loss, scores_up_to_minus_100_are_zero),
        (clamped_at_a_thousandth, scores_up_to_minus_100_are_zero),
        (minus_100_itself_kept, scores_up_to_minus_100_are_zero),
        (only_the_student_clamped, scores_up_to_minus_100_are_zero),
        (only_the_student_clamped, keys_out_of_sight_do_not_matter),
    ],
)
def test_attention_loss_of_tinybert_rejects(mistake, law):
    rejects(law, mistake, in_tinybert_mode, [attention_case(seed) for seed in range(4)])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@fewer(4)
@given(seed=seeds)
def test_attention_loss_gradient(mode, seed):
    case = attention_case(seed, group=3)
    check_slope(
        lambda x: attention_loss(x, case.teacher, case.keep, mode),
        lambda x: attention_spec(case._replace(scores=as_tensor(x)), mode).tolist(),
        [case.scores],
        seed,
    )


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
def test_attention_loss_does_not_hide_a_visible_nan(mode):
    case = attention_case(0)
    case.scores[0, 0, 0, 0] = math.nan
    assert attention_loss(*case, mode).isnan().tolist() == [True, False, False]


def test_attention_loss_of_a_sentence_without_tokens_is_zero():
    value = attention_loss(*attention_case(0)._replace(keep=kept([5, 0, 3], 5)))
    assert value[1] == 0
    assert value.isfinite().all()


def test_attention_loss_refuses_heads_that_do_not_share_evenly():
    with pytest.raises(ValueError, match="5 student heads cannot share 12 teacher heads"):
        attention_loss(torch.zeros(1, 5, 2, 2), torch.zeros(1, 12, 2, 2), kept([2], 2))


# ---------------------------------------------------------------------------- prediction_loss


class PredictionCase(NamedTuple):
    logits: Tensor
    teacher: Tensor
    temperature: float


def prediction_case(seed: int, classes: int = 3, temperature: float = 2.0) -> PredictionCase:
    return PredictionCase(*normal(seed, 2, 5, classes, scale=3), temperature)


prediction_cases = st.builds(
    prediction_case, seeds, st.sampled_from([1, 2, 3, 7]), st.sampled_from([0.5, 1.0, 5.0])
)


def prediction_bound(case: PredictionCase) -> float:
    largest = max(float(x.abs().max()) for x in case[:2])
    return 64 * EPS * (1 + largest / case.temperature + largest * largest)


def prediction_spec(case: PredictionCase, mode: str) -> Tensor:
    rows = zip(case.logits.tolist(), case.teacher.tolist(), strict=True)
    return as_tensor([spec.prediction_loss(*row, case.temperature, mode) for row in rows])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@given(case=prediction_cases)
def test_prediction_loss_is_its_spec(mode, case):
    error = distance(prediction_loss(*case, mode), prediction_spec(case, mode))
    check(error, prediction_bound(case), "prediction_loss and its spec")


def official_prediction_loss(logits, teacher, temperature):
    """task_distill.py: soft_cross_entropy(...).mean() over samples and classes."""
    log_q = F.log_softmax(logits / temperature, -1)
    return (-F.softmax(teacher / temperature, -1) * log_q).mean()


@given(case=st.builds(prediction_case, seeds, st.sampled_from([2, 3, 7])))
def test_prediction_loss_is_the_reference(case):
    same_slopes(
        lambda x: prediction_loss(x, case.teacher, case.temperature, "tinybert").mean(),
        lambda x: official_prediction_loss(x, case.teacher, case.temperature),
        [case.logits],
        prediction_bound(case),
    )


def the_number_of_classes_does_not_rescale(formula, case):
    """Uniform logits cost log C, and many classes that both sides rule out cost nothing more."""
    zeros = torch.zeros(5, 3, dtype=torch.float64)
    ruled_out = F.pad(zeros, (0, 8), value=-1e5)
    found = torch.stack([formula(x, x, case.temperature) for x in (zeros, ruled_out)])
    return float((found - math.log(3)).abs().max()), 8 * EPS


def one_output_is_a_regression(formula, case):
    """The cost of an offset d is d², at any temperature."""
    outputs = case.teacher[:, :1]
    found = formula(outputs + 1.5, outputs, case.temperature)
    return float((found - 2.25).abs().max()), prediction_bound(case)


def predictions_of_samples_are_independent(formula, case):
    alone = [
        formula(case.logits[i : i + 1], case.teacher[i : i + 1], case.temperature) for i in range(5)
    ]
    return distance(torch.cat(alone), formula(*case)), prediction_bound(case)


def its_slope_is_the_gap_over_the_temperature(formula, case):
    """(q - p) / T for classes, 2 (student - teacher) for one output; none to the teacher."""
    error = 0.0
    for part in (case, PredictionCase(case.logits[:, :1], case.teacher[:, :1], case.temperature)):
        upstream = normal(9, 5)
        leaves = [x.clone().requires_grad_() for x in part[:2]]
        to_logits, to_teacher = torch.autograd.grad(
            formula(*leaves, part.temperature), leaves, upstream, allow_unused=True,
            materialize_grads=True,
        )
        q, p = (F.softmax(x / part.temperature, 1) for x in part[:2])
        gap = (q - p) / part.temperature if part is case else 2 * (part.logits - part.teacher)
        error += distance(to_logits, upstream[:, None] * gap) + float(to_teacher.abs().max())
    return error, 4 * prediction_bound(case)


PREDICTION_LAWS = [
    the_number_of_classes_does_not_rescale,
    one_output_is_a_regression,
    predictions_of_samples_are_independent,
    its_slope_is_the_gap_over_the_temperature,
]


@pytest.mark.parametrize("law", PREDICTION_LAWS)
@given(case=st.builds(prediction_case, seeds, st.sampled_from([2, 3, 7])))
def test_prediction_loss_law(law, case):
    holds(law, prediction_loss, case)


def prediction_averaged_over_classes(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature, "tinybert")


def softmax_even_of_one_output(logits, teacher, temperature):
    return soft_cross_entropy(teacher, logits, temperature)


def regression_halved(logits, teacher, temperature):
    share = 0.5 if logits.shape[1] == 1 else 1.0
    return share * prediction_loss(logits, teacher, temperature)


def times_temperature_squared(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature) * temperature**2


def mean_of_the_batch_for_everyone(logits, teacher, temperature):
    return prediction_loss(logits, teacher, temperature).mean().expand(len(logits))


def prediction_teacher_not_detached(logits, teacher, temperature):
    if logits.shape[1] == 1:
        return (logits - teacher)[:, 0].square()
    return prediction_loss(logits, teacher, temperature)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (prediction_averaged_over_classes, the_number_of_classes_does_not_rescale),
        (softmax_even_of_one_output, one_output_is_a_regression),
        (regression_halved, one_output_is_a_regression),
        (times_temperature_squared, its_slope_is_the_gap_over_the_temperature),
        (mean_of_the_batch_for_everyone, predictions_of_samples_are_independent),
        (prediction_teacher_not_detached, its_slope_is_the_gap_over_the_temperature),
    ],
)
def test_prediction_loss_rejects(mistake, law):
    rejects(law, mistake, prediction_loss, [prediction_case(seed) for seed in range(4)])


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@fewer(4)
@given(case=prediction_cases, seed=seeds)
def test_prediction_loss_gradient(mode, case, seed):
    check_slope(
        lambda x: prediction_loss(x, case.teacher, case.temperature, mode),
        lambda x: prediction_spec(case._replace(logits=as_tensor(x)), mode).tolist(),
        [case.logits],
        seed,
    )


@pytest.mark.parametrize(
    ("teacher", "temperature", "message"),
    [
        (torch.zeros(5, 3), 1.0, r"student \[5, 1\] and teacher \[5, 3\] differ"),
        (torch.zeros(1, 1), 1.0, r"student \[5, 1\] and teacher \[1, 1\] differ"),
    ],
)
def test_prediction_loss_refuses_other_outputs(teacher, temperature, message):
    with pytest.raises(ValueError, match=message):
        prediction_loss(torch.zeros(5, 1), teacher, temperature)


def test_prediction_loss_refuses_a_temperature_not_above_zero():
    with pytest.raises(ValueError, match="the temperature is 0, but must be above 0"):
        prediction_loss(torch.zeros(5, 2), torch.zeros(5, 2), 0)


ONES_BS = torch.ones(1, 2, dtype=torch.bool)
WITH_MODE = [
    lambda mode: hidden_loss(torch.ones(1, 2, 3), torch.ones(1, 2, 3), None, ONES_BS, mode),
    lambda mode: attention_loss(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), ONES_BS, mode),
    lambda mode: prediction_loss(torch.ones(1, 2), torch.ones(1, 2), 1.0, mode),
]


@pytest.mark.parametrize("call", WITH_MODE, ids=["hidden", "attention", "prediction"])
def test_losses_refuse_an_unknown_mode(call):
    with pytest.raises(ValueError, match="mode is 'unmasked', but must be masked or tinybert"):
        call("unmasked")


# ------------------------------------------------------------------------- intermediate_terms


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
    projection: LinearWeights | None


def pair_case(seed: int, student=(3, 2, 5), teacher=(6, 2, 7), rule="uniform") -> Pair:
    """Shapes are (layers, heads, width)."""
    width, wide = student[2], teacher[2]
    return Pair(
        trace(seed, *student),
        trace(seed + 1000, *teacher),
        kept([5, 3], 5),
        layer_map(student[0], teacher[0], rule),
        LinearWeights(normal(seed + 1, wide, width), normal(seed + 2, wide)),
    )


ALL = TermWeights()


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@fewer(4)
@given(seed=seeds)
def test_intermediate_terms_is_its_spec(mode, seed):
    case = pair_case(seed)
    sums = {"embedding_B": [0.0] * 2, "hidden_B": [0.0] * 2, "attention_B": [0.0] * 2}
    states, teacher_states = case.student.hiddens_LBSD, case.teacher.hiddens_LBSD
    weight, bias = (part.tolist() for part in case.projection)
    for m, g in enumerate((0, *case.layers)):
        for i, keep in enumerate(case.keep.tolist()):
            own, other = states[m][i].tolist(), teacher_states[g][i].tolist()
            name = "hidden_B" if m else "embedding_B"
            sums[name][i] += spec.hidden_loss(own, other, (weight, bias), keep, mode)
            if m:
                own, other = (
                    x.attention.scores_BNSR[i].tolist()
                    for x in (case.student.blocks[m - 1], case.teacher.blocks[g - 1])
                )
                sums["attention_B"][i] += spec.attention_loss(own, other, keep, mode)
    found = intermediate_terms(*case, ALL, mode)
    assert found.prediction_B is None
    for name, expected in sums.items():
        error = distance(getattr(found, name), as_tensor(expected), 1 + max(expected))
        check(error, 1e-13, f"{name} of intermediate_terms and its spec")


def official_distillation_loss(student, teacher, keep, projection):
    """general_distill.py: att_loss + rep_loss with its own index formulas."""
    step = len(teacher.blocks) // len(student.blocks)
    scores, teacher_scores = (
        [block.attention.scores_BNSR for block in trace.blocks] for trace in (student, teacher)
    )
    new_scores = [teacher_scores[i * step + step - 1] for i in range(len(scores))]
    states, teacher_states = student.hiddens_LBSD, teacher.hiddens_LBSD
    new_states = [teacher_states[i * step] for i in range(len(states))]
    loss = as_tensor(0.0)
    for own, other in zip(scores, new_scores, strict=True):
        loss = loss + official_attention_loss(own, other, keep)
    for own, other in zip(states, new_states, strict=True):
        loss = loss + official_hidden_loss(own, other, projection, keep)
    return loss


@fewer(4)
@given(seed=seeds, step=st.sampled_from([1, 2, 4]))
def test_distillation_loss_is_the_reference(seed, step):
    """TinyBERT's first stage as a whole: value, and the gradient of everything the student has."""
    case = pair_case(seed, (3, 2, 5), (3 * step, 2, 7))

    def rebuilt(embedded, weight, bias, *parts):
        scores, states = parts[:3], parts[3:]
        blocks = tuple(
            BlockTrace(block.attention._replace(scores_BNSR=a), block.attended_BSD, h)
            for block, a, h in zip(case.student.blocks, scores, states, strict=True)
        )
        return EncoderTrace(embedded, blocks), LinearWeights(weight, bias)

    def ours(*leaves):
        student, projection = rebuilt(*leaves)
        terms = intermediate_terms(
            student, case.teacher, case.keep, case.layers, projection, ALL, "tinybert"
        )
        return distillation_loss(terms, ALL).mean()

    def theirs(*leaves):
        student, projection = rebuilt(*leaves)
        return official_distillation_loss(student, case.teacher, case.keep, projection)

    scores = [block.attention.scores_BNSR for block in case.student.blocks]
    states = [block.hidden_BSD for block in case.student.blocks]
    leaves = [case.student.embedded_BSD, *case.projection, *scores, *states]
    same_slopes(ours, theirs, leaves, 1e-13 * (1 + float(theirs(*leaves))))


def total_of(terms: DistillationTerms) -> Tensor:
    return distillation_loss(terms, ALL)


def a_copy_of_the_chosen_layers_costs_nothing(formula, case):
    chosen = EncoderTrace(
        case.teacher.embedded_BSD, tuple(case.teacher.blocks[g - 1] for g in case.layers)
    )
    found = formula(chosen, case.teacher, case.keep, case.layers, None, ALL)
    return float(total_of(found).sum()), 0


def layers_not_chosen_do_not_matter(formula, case):
    other = trace(77, len(case.teacher.blocks), 2, 7).blocks
    blocks = tuple(
        block if g in case.layers else other[g - 1]
        for g, block in enumerate(case.teacher.blocks, 1)
    )
    changed = case._replace(teacher=case.teacher._replace(blocks=blocks))
    return distance(total_of(formula(*changed, ALL)), total_of(formula(*case, ALL))), 0


def layers_add_up(formula, case):
    """The terms of all layers are the sums of the terms of one layer at a time."""
    whole, sums = formula(*case, ALL), [torch.zeros(2, dtype=torch.float64)] * 2
    for block, g in zip(case.student.blocks, case.layers, strict=True):
        one = case._replace(student=case.student._replace(blocks=(block,)), layers=(g,))
        found = formula(*one, ALL)
        sums = [sums[0] + found.hidden_B, sums[1] + found.attention_B]
    gaps = [distance(whole.hidden_B, sums[0]), distance(whole.attention_B, sums[1])]
    return sum(gaps), 64 * EPS * float(total_of(whole).max())


def the_embeddings_count_once(formula, case):
    found = formula(*case, ALL).embedding_B
    embedded = case.student.embedded_BSD, case.teacher.embedded_BSD
    return distance(found, hidden_loss(*embedded, case.projection, case.keep)), 0


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


INTERMEDIATE_LAWS = [
    a_copy_of_the_chosen_layers_costs_nothing,
    layers_not_chosen_do_not_matter,
    layers_add_up,
    the_embeddings_count_once,
    only_terms_with_a_weight_are_computed,
]


@pytest.mark.parametrize("law", INTERMEDIATE_LAWS)
@fewer(4)
@given(seed=seeds, rule=st.sampled_from(["uniform", "top", "bottom", (6, 1, 1)]))
def test_intermediate_terms_law(law, seed, rule):
    holds(law, intermediate_terms, pair_case(seed, rule=rule))


def shifted(layers: tuple[int, ...], by: int, depth: int) -> tuple[int, ...]:
    return tuple(min(max(g + by, 1), depth) for g in layers)


def map_off_by_one(student, teacher, keep, layers, projection, weights):
    """Layers counted from 0 taken for layers counted from 1 (TinyBERT's issue 166)."""
    layers = shifted(layers, -1, len(teacher.blocks))
    return intermediate_terms(student, teacher, keep, layers, projection, weights)


def states_off_by_one(student, teacher, keep, layers, projection, weights):
    """The embeddings forgotten in the list of hidden states; attention is right."""
    late = shifted(layers, 1, len(teacher.blocks))
    right = intermediate_terms(student, teacher, keep, layers, projection, weights)
    wrong = intermediate_terms(student, teacher, keep, late, projection, weights)
    return right._replace(hidden_B=wrong.hidden_B)


def mean_over_layers(student, teacher, keep, layers, projection, weights):
    found = intermediate_terms(student, teacher, keep, layers, projection, weights)
    return found._replace(attention_B=found.attention_B / len(layers))


def embeddings_in_the_hidden_term_too(student, teacher, keep, layers, projection, weights):
    found = intermediate_terms(student, teacher, keep, layers, projection, weights)
    return found._replace(hidden_B=found.hidden_B + found.embedding_B)


def first_layer_taken_for_the_embeddings(student, teacher, keep, layers, projection, weights):
    found = intermediate_terms(student, teacher, keep, layers, projection, weights)
    states = student.hiddens_LBSD[1], teacher.hiddens_LBSD[1]
    return found._replace(embedding_B=hidden_loss(*states, projection, keep))


def last_layers_only(student, teacher, keep, layers, projection, weights):
    student = student._replace(blocks=student.blocks[-1:])
    return intermediate_terms(student, teacher, keep, layers[-1:], projection, weights)


def everything_computed(student, teacher, keep, layers, projection, weights):
    return intermediate_terms(student, teacher, keep, layers, projection, ALL)


def terms_weighted_already(student, teacher, keep, layers, projection, weights):
    found = intermediate_terms(student, teacher, keep, layers, projection, weights)
    return DistillationTerms(*(
        None if term is None else w * term for w, term in zip(weights, found, strict=True)
    ))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (map_off_by_one, a_copy_of_the_chosen_layers_costs_nothing),
        (map_off_by_one, layers_not_chosen_do_not_matter),
        (states_off_by_one, a_copy_of_the_chosen_layers_costs_nothing),
        (mean_over_layers, layers_add_up),
        (embeddings_in_the_hidden_term_too, layers_add_up),
        (first_layer_taken_for_the_embeddings, the_embeddings_count_once),
        (last_layers_only, layers_add_up),
        (everything_computed, only_terms_with_a_weight_are_computed),
        (terms_weighted_already, only_terms_with_a_weight_are_computed),
    ],
)
def test_intermediate_terms_rejects(mistake, law):
    rejects(law, mistake, intermediate_terms, [pair_case(seed) for seed in range(3)])


SHAPES = [
    ((4, 4, 128), (6, 12, 384)),
    ((4, 12, 312), (12, 12, 768)),
    ((3, 2, 74), (6, 12, 384)),
    ((5, 3, 51), (4, 9, 45)),
    ((1, 1, 2), (24, 16, 1024)),
    ((6, 12, 384), (6, 12, 384)),
]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_intermediate_terms_of_any_two_shapes(student, teacher):
    """Layers × heads × width. A teacher made from the student costs nothing, another one does."""
    case = pair_case(5, student, teacher)
    found = intermediate_terms(*case, ALL)
    assert all(bool((term_B > 0.1).all()) for term_B in found[:3])

    def image(x_BSD: Tensor) -> Tensor:
        return F.linear(x_BSD, *case.projection)

    blocks = list(case.teacher.blocks)
    pairs = dict(zip(case.layers, case.student.blocks, strict=True))
    for g, own in pairs.items():
        scores = own.attention.scores_BNSR.repeat_interleave(teacher[1] // student[1], 1)
        attention = own.attention._replace(scores_BNSR=scores)
        blocks[g - 1] = BlockTrace(attention, own.attended_BSD, image(own.hidden_BSD))
    copied = EncoderTrace(image(case.student.embedded_BSD), tuple(blocks))
    learners = tuple(pairs[g] for g in case.layers)  # where two layers share a teacher layer
    student_trace = case.student._replace(blocks=learners)
    exact = intermediate_terms(
        student_trace, copied, case.keep, case.layers, case.projection, ALL
    )
    assert all(bool((term_B < 1e-20).all()) for term_B in exact[:3])


@pytest.mark.parametrize("layers", [(0, 3, 6), (2, 4), (2, 4, 6, 6), (2, 4, 7)])
def test_intermediate_terms_refuses_layers_that_are_not_there(layers):
    """Not even 0: a list counted from 0 would quietly take the teacher's last layer first."""
    with pytest.raises(ValueError, match="one of the teacher's layers 1 to 6"):
        intermediate_terms(*pair_case(0)._replace(layers=layers), ALL)


@pytest.mark.parametrize(
    ("change", "mode", "message"),
    [
        ({"projection": None}, "masked", "does not fit the teacher's"),
        ({"student": trace(0, 3, 4, 5)}, "masked", "4 student heads cannot share 2"),
        ({}, "mean", "mode is 'mean'"),
    ],
)
def test_intermediate_terms_refuses_what_does_not_fit(change, mode, message):
    with pytest.raises(ValueError, match=message):
        intermediate_terms(*pair_case(0)._replace(**change), ALL, mode)


# ------------------------------------------------------------ intermediate_terms, whole encoder


def encoder(seed: int, layers: int, heads: int, width: int):
    config = BertConfig(
        vocab_size=13, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=11, max_position_embeddings=17,
    )
    shapes, generator = weight_shapes(config, parts=()), torch.Generator().manual_seed(seed)
    return initial_weights(shapes, 0.5, generator, torch.float64), config


@pytest.mark.parametrize("padding", [1, 6])
def test_distillation_through_both_encoders_ignores_padding(padding):
    """Value and gradient, 6 layers × 12 heads into 4 × 4, with other words in the padding."""
    ids = torch.randint(13, (3, 5), generator=torch.Generator().manual_seed(1))
    student, teacher = encoder(2, 4, 4, 20), encoder(3, 6, 12, 24)
    projection = LinearWeights(normal(4, 24, 20), normal(5, 24))
    keep = kept([5, 1, 3], 5)

    def loss_and_slope(ids: Tensor, keep: Tensor):
        weights = student[0]
        word = weights.embeddings.word_VD.clone().requires_grad_()
        weights = weights._replace(embeddings=weights.embeddings._replace(word_VD=word))
        traces = [
            encode_traced(ids, keep, torch.zeros_like(ids), w, config)
            for w, config in ((weights, student[1]), teacher)
        ]
        terms = intermediate_terms(*traces, keep, layer_map(4, 6), projection, ALL)
        losses = distillation_loss(terms, ALL)
        return losses.detach(), torch.autograd.grad(losses.sum(), word)[0]

    longer = F.pad(ids, (0, padding), value=12)
    before = loss_and_slope(ids, keep)
    after = loss_and_slope(longer, F.pad(keep, (0, padding), value=False))
    for a, b in zip(before, after, strict=True):
        check(distance(a, b, 1 + a.abs()), 1e-12, "distillation of a padded batch")


# -------------------------------------------------------------------------- distillation_loss


def terms_case(seed: int) -> tuple[DistillationTerms, TermWeights]:
    terms = normal(seed, 4, 3).abs()
    return DistillationTerms(*terms), TermWeights(*normal(seed + 1, 4).abs().tolist())


@given(seed=seeds)
def test_distillation_loss_is_its_spec(seed):
    terms, weights = terms_case(seed)
    expected = [
        math.fsum(w * float(term[i]) for w, term in zip(weights, terms, strict=True))
        for i in range(3)
    ]
    error = distance(distillation_loss(terms, weights), as_tensor(expected))
    check(error, 64 * EPS, "distillation_loss and its spec")


def terms_weigh_what_they_are_given(formula, case):
    terms, weights = case
    heavier = weights._replace(hidden=weights.hidden + 3)
    gain = formula(terms, heavier) - formula(terms, weights)
    return distance(gain, 3 * terms.hidden_B), 64 * EPS


def a_missing_term_weighs_nothing(formula, case):
    terms, weights = case
    zero = terms._replace(attention_B=torch.zeros(3, dtype=torch.float64))
    return distance(formula(terms._replace(attention_B=None), weights), formula(zero, weights)), EPS


def samples_keep_their_own_loss(formula, case):
    terms, weights = case
    alone = [formula(DistillationTerms(*(t[i : i + 1] for t in terms)), weights) for i in range(3)]
    return distance(torch.cat(alone), formula(*case)), 0


DISTILLATION_LAWS = [
    terms_weigh_what_they_are_given,
    a_missing_term_weighs_nothing,
    samples_keep_their_own_loss,
]


@pytest.mark.parametrize("law", DISTILLATION_LAWS)
@fewer(4)
@given(case=st.builds(terms_case, seeds))
def test_distillation_loss_law(law, case):
    holds(law, distillation_loss, case)


def weights_forgotten(terms, weights):
    return distillation_loss(terms, ALL)


def weights_normalised(terms, weights):
    return distillation_loss(terms, weights) / sum(weights)


def weights_shifted(terms, weights):
    kept_terms = [term for term in terms if term is not None]
    return torch.stack([w * t for w, t in zip(weights, kept_terms, strict=False)]).sum(0)


def averaged_over_samples(terms, weights):
    return distillation_loss(terms, weights).mean().expand(len(terms.embedding_B))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (weights_forgotten, terms_weigh_what_they_are_given),
        (weights_normalised, terms_weigh_what_they_are_given),
        (weights_shifted, a_missing_term_weighs_nothing),
        (averaged_over_samples, samples_keep_their_own_loss),
    ],
)
def test_distillation_loss_rejects(mistake, law):
    rejects(law, mistake, distillation_loss, [terms_case(seed) for seed in range(3)])


def test_distillation_loss_gradient():
    """The slope to term k of sample i is weight k times the upstream gradient of sample i."""
    terms, weights = terms_case(3)
    upstream = normal(4, 3)
    slopes = gradients(
        lambda *parts: distillation_loss(DistillationTerms(*parts), weights), terms, upstream
    )
    for slope, weight in zip(slopes, weights, strict=True):
        assert torch.equal(slope, weight * upstream)


def test_distillation_loss_refuses_to_have_no_term():
    with pytest.raises(ValueError, match="every term is switched off; give one a weight above 0"):
        distillation_loss(DistillationTerms(), ALL)


# -------------------------------------------------------------------------------- of them all

CALLS = [
    (hidden_loss, hidden_case(0)),
    (attention_loss, attention_case(0, group=3)),
    (prediction_loss, prediction_case(0)),
]
IDS = [formula.__name__ for formula, _ in CALLS]


@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_the_mode_is_masked_unless_given(formula, case):
    assert torch.equal(formula(*case), formula(*case, "masked"))


def test_the_temperature_is_one_unless_given():
    logits, teacher, _ = prediction_case(0)
    assert torch.equal(prediction_loss(logits, teacher), prediction_loss(logits, teacher, 1.0))


def test_all_terms_weigh_one_unless_given():
    assert TermWeights() == (1.0, 1.0, 1.0, 1.0)


def tensors_of(part) -> list[Tensor]:
    return [part] if isinstance(part, Tensor) else list(part) if isinstance(part, tuple) else []


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_distillation_loss_leaves_its_arguments_alone(formula, case, mode):
    tensors = [x for part in case for x in tensors_of(part)]
    before = [x.clone() for x in tensors]
    formula(*case, mode)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
@pytest.mark.parametrize(("formula", "case"), CALLS, ids=IDS)
def test_a_distillation_loss_of_half_precision_is_computed_in_float32(formula, case, mode):
    """Only the projection itself runs in the type of the model."""

    def cast(part, dtype):
        if isinstance(part, Tensor) and part.is_floating_point():
            return part.to(dtype)
        return None if isinstance(part, tuple) else part

    if formula is hidden_loss:
        case = hidden_case(0, width=7)
    half = [cast(part, torch.bfloat16) for part in case]
    found = formula(*half, mode)
    assert found.dtype == torch.float32
    assert torch.equal(found, formula(*(cast(part, torch.float32) for part in half), mode))


def test_not_even_a_nan_in_the_padding_reaches_a_gradient():
    generator = torch.Generator().manual_seed(0)
    hidden_BSD = torch.randn(2, 3, 5, generator=generator)
    hidden_BSD[:, 2] = math.nan
    hidden_BSD.requires_grad_()
    weight_OI = torch.randn(7, 5, generator=generator).requires_grad_()
    projection = LinearWeights(weight_OI, torch.zeros(7))
    keep_BS = torch.tensor([[True, True, False]] * 2)
    target_BSE = torch.randn(2, 3, 7, generator=generator)
    hidden_loss(hidden_BSD, target_BSE, projection, keep_BS).sum().backward()
    assert weight_OI.grad is not None
    assert hidden_BSD.grad is not None
    assert weight_OI.grad.isfinite().all()
    assert hidden_BSD.grad.isfinite().all()
