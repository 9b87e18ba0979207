"""Laws of `distillation`: a small student learns what a large teacher computes."""

import math
from collections.abc import Sequence
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
    distillation_loss,
    intermediate_terms,
    layer_map,
    prediction_terms,
)
from minibert.encoder import BlockTrace, EncoderTrace, encode_traced
from minibert.laws import spec_training as spec
from minibert.laws.functional import at_least_eps32
from minibert.laws.law import Draw, Proof, in_dtype
from minibert.laws.losses import smallest, some_ignored
from minibert.laws.matching import (
    HUAWEI,
    TEXTBREWER,
    TINYBERT,
    AttentionCase,
    FirstCase,
    HiddenCase,
    PredictionCase,
    RelationCase,
    apart,
    attention_bound,
    cosine_bound,
    hidden_bound,
    kept,
    official_attention_loss,
    official_hidden_loss,
    pairs_kept,
    patient_bound,
    prediction_bound,
    relation_bound,
)
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
    seed_of,
    slopes,
)
from minibert.losses import cross_entropy
from minibert.matching import cosine_loss, hidden_loss, patient_loss, prediction_loss, relation_loss
from minibert.parameters import BertWeights, LinearWeights, initial_weights, weight_shapes

LAYERS_ARE_COUNTED = {
    "gradient": "it counts layers, and a count has no gradient",
    "accuracy": "it counts layers and rounds no real number",
}


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
    """In how many places two lists of layers differ."""
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
    """Counted from the other end, each is the other."""
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


# ---------------------------------------------------------------------------- intermediate_terms


def trace(
    seed: int, layers: int, heads: int, width: int, tokens: int = 5, head_width: int = 2
) -> EncoderTrace:
    """Two sentences through a made-up encoder: states, scores and all other parts are random."""
    empty = torch.empty(0)

    def block(n: int) -> BlockTrace:
        scores = normal(seed + n, 2, heads, tokens, tokens)
        query, key, value = (
            normal(seed + n + more, 2, heads, tokens, head_width) for more in (200, 300, 400)
        )
        attention = AttentionTrace(query, key, value, scores, empty, empty)
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
        trace(seed + 1000, *teacher, head_width=3),
        kept([5, 3], 5),
        layer_map(student[0], teacher[0], rule),
        LinearWeights(normal(seed + 1, wide, width), normal(seed + 2, wide)),
    )


def seed_with_room(draw: Draw) -> int:
    """A trace also uses the seeds above its own."""
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
NONE = TermWeights(*[0.0] * len(ALL))


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
    """The sum of the bounds that the losses promise, for every sample and term."""
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
    """The student's trace and projection with other tensors in place of the learned ones."""
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
    """As a whole: its value, and the gradient of everything in the student."""

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
    """Each one alone equals the one among all; the others are None."""
    wrong = 0
    whole = formula(*case, TermWeights(*[1.0] * len(NONE)))
    for name in TermWeights._fields[:7]:
        found = formula(*case, NONE._replace(**{name: 0.5}))
        expected = DistillationTerms()._replace(**{f"{name}_B": getattr(whole, f"{name}_B")})
        for a, b in zip(found, expected, strict=True):
            wrong += a is not b if a is None or b is None else not torch.equal(a, b)
    return float(wrong), 0


@INTERMEDIATE.law
def it_makes_no_prediction(formula, case):
    """Whatever the weights of the label and prediction terms."""
    found = formula(*case, ALL._replace(label=1.0))
    return sum(term is not None for term in (found.prediction_B, found.label_B)), 0


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
    """All states and scores larger or smaller."""

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
    """Attention layers are counted from 0; in a list of states that index is the layer before."""
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


# Directions and relations: what other papers compare in the same layers.

OTHERS = NONE._replace(cosine=1.0, patient=1.0, minilm_v1=1.0, minilm_v2=1.0)


def four(terms):
    return torch.stack(terms[3:7], -1)


def merged(block: BlockTrace) -> dict[str, Tensor]:
    """Queries, keys and values, the heads side by side."""
    parts = zip("QKV", block.attention[:3], strict=True)
    return {letter: x.transpose(1, 2).flatten(2) for letter, x in parts}


def last_pair(case: Pair) -> tuple[BlockTrace, BlockTrace]:
    return case.student.blocks[-1], case.teacher.blocks[case.layers[-1] - 1]


def relation_cases(case: Pair, heads: int) -> dict[str, RelationCase]:
    """The relations of the last pair of layers, by the letters of what is compared."""
    own, other = (merged(block) for block in last_pair(case))
    return {
        x + y: RelationCase(own[x], own[y], other[x], other[y], case.keep, heads)
        for x, y in ("QK", "VV", "QQ", "KK")
    }


def spec_of_others(case: Pair, relation_heads: int) -> Tensor:
    """Four terms for every sample, of two heads on either side."""
    rest = list(case.layers), as_lists(case.projection), 2, relation_heads

    def side(trace: EncoderTrace, block: BlockTrace, i: int) -> tuple[list, dict[str, list]]:
        states = [state[i].tolist() for state in trace.hiddens_LBSD]
        return states, {letter: x[i].tolist() for letter, x in merged(block).items()}

    own, other = last_pair(case)
    return as_tensor([
        spec.last_layer_terms(side(case.student, own, i), side(case.teacher, other, i), keep, *rest)
        for i, keep in enumerate(case.keep.tolist())
    ])


def others_bound(case: Pair, relation_heads: int) -> Tensor:
    """The sum of the bounds that the losses promise, for every sample and term."""
    own, other = case.student.hiddens_LBSD, case.teacher.hiddens_LBSD
    pairs = [(own[m], other[g]) for m, g in enumerate(case.layers, 1)]
    first, second = (relation_cases(case, heads) for heads in (2, relation_heads))
    return torch.stack(
        [
            cosine_bound(HiddenCase(*pairs[-1], case.projection, case.keep)),
            sum_of([patient_bound(FirstCase(*pair, case.projection)) for pair in pairs[:-1]]),
            sum_of([relation_bound(first[pair]) for pair in ("QK", "VV")]),
            sum_of([relation_bound(second[pair]) for pair in ("QQ", "KK", "VV")]),
        ],
        -1,
    )




OTHER_TERMS = Proof(
    intermediate_terms, pair_case, name="intermediate_terms_of_directions_and_relations"
)


@OTHER_TERMS.spec(cost=6)
def they_are_of_the_last_layers_and_patience_of_the_others(formula, case):
    """With the two heads that both models have, and with a single relation head."""
    error = 0.0
    for given, heads in ((None, 2), (1, 1)):
        found = four(formula(*case, OTHERS, "masked", given))
        error += distance(found, spec_of_others(case, heads), others_bound(case, heads))
    return error, 2


@OTHER_TERMS.reference(cost=4)
def they_are_torchs_cosines_and_divergences(formula, case):
    """Relations of the heads as the models have them, never merged."""
    own, other = (block.attention for block in last_pair(case))
    mapped, targets = mapped_pairs(case)
    gaps = 1 - F.cosine_similarity(mapped[-1], targets[-1], -1)
    cosine = torch.where(case.keep, gaps, 0).sum(1) / case.keep.sum(1)
    patient = sum_of([
        F.mse_loss(*(F.normalize(x[:, 0], dim=1) for x in pair), reduction="none").sum(1)
        for pair in zip(mapped[:-1], targets[:-1], strict=True)
    ])
    qk, qq, kk, vv = (
        torchs_relation(own, other, pair, case.keep) for pair in ((0, 1), (0, 0), (1, 1), (2, 2))
    )
    expected = torch.stack([cosine, patient, qk + vv, qq + kk + vv], -1)
    return distance(four(formula(*case, OTHERS)), expected, others_bound(case, 2)), 2


def mapped_pairs(case: Pair) -> tuple[list[Tensor], list[Tensor]]:
    """The student's states mapped to the teacher's width, and the teacher's they learn from."""
    mapped = [F.linear(state, *case.projection) for state in case.student.hiddens_LBSD[1:]]
    return mapped, [case.teacher.hiddens_LBSD[g] for g in case.layers]


def torchs_relation(
    own: AttentionTrace, other: AttentionTrace, pair: tuple[int, int], keep: Tensor
) -> Tensor:
    """The relation loss of two places in the trace: 0 for queries, 1 for keys, 2 for values."""
    i, j = pair
    bias = torch.where(keep, 0.0, -1e9)[:, None, None, :]
    log_q, log_p = (
        F.log_softmax(x[i] @ x[j].mT / math.sqrt(x[i].shape[-1]) + bias, -1) for x in (own, other)
    )
    costs = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1).mean(1)
    return torch.where(keep, costs, 0).sum(1) / keep.sum(1)


@OTHER_TERMS.law(cost=2)
def a_copy_of_the_chosen_layers_costs_nothing_of_them(formula, case):
    chosen = EncoderTrace(
        case.teacher.embedded_BSD, tuple(case.teacher.blocks[g - 1] for g in case.layers)
    )
    found = formula(chosen, case.teacher, case.keep, case.layers, None, OTHERS)
    return float(four(found).abs().max()), 64 * EPS


def with_other_blocks(case: Pair, last: bool) -> Pair:
    """Other blocks in place of the last pair, or, without `last`, in place of all the rest."""
    own, other = trace(77, 3, 2, 5).blocks, trace(88, len(case.teacher.blocks), 2, 7).blocks
    g = case.layers[-1]
    student = [new if (m == 3) == last else old
               for m, (old, new) in enumerate(zip(case.student.blocks, own, strict=True), 1)]
    teacher = [new if (n == g) == last else old
               for n, (old, new) in enumerate(zip(case.teacher.blocks, other, strict=True), 1)]
    return case._replace(
        student=case.student._replace(blocks=tuple(student)),
        teacher=case.teacher._replace(blocks=tuple(teacher)),
    )


@OTHER_TERMS.law(cost=2)
def only_the_last_pair_has_cosines_and_relations(formula, case):
    found, expected = (
        four(formula(*part, OTHERS)) for part in (with_other_blocks(case, last=False), case)
    )
    return distance(found[:, [0, 2, 3]], expected[:, [0, 2, 3]]), 0


@OTHER_TERMS.law(cost=2, cases=lambda draw: pair_of(seed_with_room(draw)))
def patience_ends_before_the_last_pair(formula, case):
    found, expected = (
        formula(*part, OTHERS).patient_B for part in (with_other_blocks(case, last=True), case)
    )
    return distance(found, expected), 0


@OTHER_TERMS.law(cost=2)
def patience_adds_up_over_layers(formula, case):
    expected = [
        patient_loss(own.hidden_BSD, case.teacher.blocks[g - 1].hidden_BSD, case.projection)
        for own, g in zip(case.student.blocks[:-1], case.layers, strict=False)
    ]
    return distance(formula(*case, OTHERS).patient_B, sum_of(expected)), 64 * EPS


@OTHER_TERMS.law(cost=2)
def the_mode_is_not_for_them(formula, case):
    found = [four(formula(*case, OTHERS, mode)) for mode in ("masked", "tinybert")]
    return differing(*found), 0


@OTHER_TERMS.law
def heads_of_relations_are_the_most_that_divide_both(formula, case):
    """For six heads and four heads, that is two."""
    wide = case._replace(
        student=trace(case.student.blocks[0].hidden_BSD.numel(), 1, 6, 5),
        teacher=trace(3, 1, 4, 7, head_width=3),
        layers=(1,),
    )
    only = NONE._replace(minilm_v2=1.0)
    found = [formula(*wide, only, "masked", heads).minilm_v2_B for heads in (None, 2)]
    return differing(*found), 0


def learned_parts_of_others(case: Pair) -> list[Tensor]:
    """States, the projection, and the last layer's queries, keys and values."""
    states = [block.hidden_BSD for block in case.student.blocks]
    return [*case.projection, *case.student.blocks[-1].attention[:3], *states]


def rebuilt_with_others(case: Pair, leaves: Sequence[Tensor]) -> Pair:
    weight, bias, query, key, value, *states = leaves
    blocks = [
        block._replace(hidden_BSD=state)
        for block, state in zip(case.student.blocks, states, strict=True)
    ]
    attention = blocks[-1].attention._replace(query_BNSK=query, key_BNRK=key, value_BNRK=value)
    blocks[-1] = blocks[-1]._replace(attention=attention)
    return case._replace(
        student=case.student._replace(blocks=tuple(blocks)), projection=LinearWeights(weight, bias)
    )


@OTHER_TERMS.gradient(
    cases=lambda draw: pair_of(seed_with_room(draw), (2, 2, 2), (3, 2, 3)), cost=20
)
def their_slope_is_that_of_their_spec(formula, case):
    def from_lists(*lists):
        leaves = [as_tensor(part) for part in lists]
        return spec_of_others(rebuilt_with_others(case, leaves), 2).tolist()

    return slopes(
        lambda *leaves: four(formula(*rebuilt_with_others(case, leaves), OTHERS)),
        from_lists,
        learned_parts_of_others(case),
    )


@OTHER_TERMS.gradient(cost=2)
def all_compared_parts_of_the_student_learn_and_none_of_the_teacher(formula, case):
    own, (_, other) = learned_parts_of_others(case), last_pair(case)
    theirs = [*other.attention[:3], other.hidden_BSD]

    def loss(*leaves: Tensor) -> Tensor:
        query, key, value, hidden = leaves[len(own) :]
        attention = other.attention._replace(query_BNSK=query, key_BNRK=key, value_BNRK=value)
        block = BlockTrace(attention, other.attended_BSD, hidden)
        blocks = tuple(block if b is other else b for b in case.teacher.blocks)
        part = rebuilt_with_others(case, leaves[: len(own)])
        part = part._replace(teacher=part.teacher._replace(blocks=blocks))
        return four(formula(*part, OTHERS)).sum(-1)

    found = gradients(loss, [*own, *theirs], normal(9, 2))
    idle = sum(float(not slope.abs().max() > 0) for slope in found[: len(own)])
    return idle + sum(float(slope.abs().max()) for slope in found[len(own) :]), 0


@OTHER_TERMS.accuracy(
    {
        "normal": pair_case,
        "tiny": lambda draw: scaled(pair_case(draw), 1e-12),
        "large": lambda draw: scaled(pair_case(draw), 1e4),
    },
    cost=4,
)
def other_terms_are_as_exact_as_their_losses(formula, case):
    expected = spec_of_others(in_dtype(case, torch.float64), 2)
    unit = others_bound(case, 2) + smallest(case.projection.bias_O)
    return distance(four(formula(*case, OTHERS)), expected, unit), 1


def changed(**wrong: Any) -> Any:
    """The terms with one of them computed in another way, from the same arguments."""

    def formula(student, teacher, keep, layers, projection, *rest):
        found = intermediate_terms(student, teacher, keep, layers, projection, *rest)
        case = Pair(student, teacher, keep, layers, projection)
        return found._replace(**{name: compute(case, found) for name, compute in wrong.items()})

    return formula


def related(case: Pair, pairs: str, heads: int = 2) -> Tensor:
    cases = relation_cases(case, heads)
    return sum_of([relation_loss(*cases[pair]) for pair in pairs.split()])


OTHER_TERMS.mistake(
    they_are_of_the_last_layers_and_patience_of_the_others,
    only_the_last_pair_has_cosines_and_relations, their_slope_is_that_of_their_spec,
    they_are_torchs_cosines_and_divergences, name="cosine_of_the_first_pair",
)(changed(cosine_B=lambda case, _: cosine_loss(
    case.student.blocks[0].hidden_BSD, case.teacher.blocks[case.layers[0] - 1].hidden_BSD,
    case.projection, case.keep,
)))

OTHER_TERMS.mistake(
    patience_ends_before_the_last_pair, patience_adds_up_over_layers,
    name="patience_with_the_last_layer_too",
)(changed(patient_B=lambda case, found: found.patient_B + patient_loss(
    last_pair(case)[0].hidden_BSD, last_pair(case)[1].hidden_BSD, case.projection
)))

OTHER_TERMS.mistake(patience_adds_up_over_layers, name="mean_patience")(
    changed(patient_B=lambda case, found: found.patient_B / (len(case.layers) - 1))
)

OTHER_TERMS.mistake(
    they_are_torchs_cosines_and_divergences, name="keys_related_in_the_place_of_values"
)(changed(minilm_v1_B=lambda case, _: related(case, "QK KK")))

OTHER_TERMS.mistake(
    they_are_of_the_last_layers_and_patience_of_the_others, name="queries_left_out"
)(changed(minilm_v2_B=lambda case, _: related(case, "KK VV")))

OTHER_TERMS.mistake(
    all_compared_parts_of_the_student_learn_and_none_of_the_teacher,
    name="values_left_out_of_both_papers",
)(changed(
    minilm_v1_B=lambda case, _: related(case, "QK"),
    minilm_v2_B=lambda case, _: related(case, "QQ KK"),
))


@OTHER_TERMS.mistake(
    a_copy_of_the_chosen_layers_costs_nothing_of_them, only_the_last_pair_has_cosines_and_relations
)
def the_teachers_last_layer_whatever_the_map_says(student, teacher, keep, layers, *rest):
    layers = (*layers[:-1], len(teacher.blocks))
    return intermediate_terms(student, teacher, keep, layers, *rest)


@OTHER_TERMS.mistake(the_mode_is_not_for_them)
def padding_related_as_in_tinybert(*arguments):
    student, teacher, keep, layers, projection, weights, *rest = arguments
    if rest[:1] == ["tinybert"]:
        keep = torch.ones_like(keep)
    return intermediate_terms(student, teacher, keep, layers, projection, weights, *rest)


@OTHER_TERMS.mistake(heads_of_relations_are_the_most_that_divide_both)
def one_relation_head_unless_given(*arguments):
    given = (*arguments, "masked", 1) if len(arguments) == 6 else arguments
    given = (*given[:7], 1) if given[-1] is None else given
    return intermediate_terms(*given)


@OTHER_TERMS.mistake(other_terms_are_as_exact_as_their_losses)
def other_terms_in_half_precision(*arguments):
    found = intermediate_terms(*arguments)
    return DistillationTerms(*(None if t is None else t.bfloat16() for t in found))


# The same through two encoders: what goes into the terms, not only how they are computed.


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


STUDENT = sizes(2, 2, 6, 0.0)  # without dropout, so that only the teacher can differ
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
    """The student is in training mode, with a generator; the teacher in evaluation, without one."""
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
    """Whatever the seed of the training."""
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
    """The teacher's word table gets no gradient at all, the student's does."""
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


# ------------------------------------------------------------------------------ prediction_terms


class AnswerCase(NamedTuple):
    """The arguments of `prediction_terms`, in order."""

    logits: Tensor
    teacher: Tensor
    labels: Tensor
    weights: TermWeights
    temperature: float
    mode: str
    squared: bool


BOTH = NONE._replace(prediction=1.0, label=1.0)


def answer_case(
    draw: Draw, classes: tuple[int, ...] = (1, 1, 2, 3, 7), scale: float = 3.0
) -> AnswerCase:
    """Five samples; with classes, every second sample has no label."""
    count = draw.choice(classes)
    logits, teacher = normal(seed_of(draw), 2, 5, count, scale=scale)
    labels = some_ignored(integers(seed_of(draw), count, 5))
    return AnswerCase(
        logits,
        teacher,
        normal(seed_of(draw), 5, scale=scale) if count == 1 else labels,
        BOTH,
        draw.choice([0.5, 1.0, 5.0]),
        draw.choice(["masked", "tinybert"]),
        draw.choice([False, True]),
    )


def classified(draw: Draw) -> AnswerCase:
    return answer_case(draw, (2, 3, 7))


def both(terms):
    return torch.stack(terms[7:], -1)


def spec_of_answers(case: AnswerCase) -> Tensor:
    rows = zip(*(part.tolist() for part in case[:3]), strict=True)
    return as_tensor([
        [spec.prediction_loss(z, u, *case[4:]), spec.label_loss(z, y)] for z, u, y in rows
    ])


def label_losses(case: AnswerCase) -> Tensor:
    if case.logits.shape[1] == 1:
        return F.mse_loss(case.logits[:, 0], case.labels, reduction="none")
    return F.cross_entropy(case.logits, case.labels, reduction="none")


def answers_bound(case: AnswerCase) -> Tensor:
    """The bound of the prediction loss times its factor, and that of one row's label loss."""
    unit, classes = at_least_eps32(case.logits), case.logits.shape[1]
    loss = label_losses(case._replace(logits=case.logits.double(), labels=wide_labels(case)))
    own = 2 * loss if classes == 1 else 4 + classes / 2 + 2 * loss
    scale = case.temperature**2 if case.squared and classes > 1 else 1.0
    share = classes if case.mode == "tinybert" else 1
    theirs = prediction_bound(PredictionCase(case.logits, case.teacher, case.temperature))
    return torch.stack([scale * theirs / share, own * unit + smallest(case.logits)], -1)


def wide_labels(case: AnswerCase) -> Tensor:
    return case.labels.double() if case.labels.is_floating_point() else case.labels


PREDICTION_TERMS = Proof(prediction_terms, answer_case)


@PREDICTION_TERMS.spec
def they_are_the_teachers_answer_and_the_label(formula, case):
    return distance(both(formula(*case)), spec_of_answers(case), answers_bound(case)), 1


@PREDICTION_TERMS.reference
def the_label_term_is_torchs_loss_of_each_sample(formula, case):
    found = formula(*case).label_B
    return distance(found, label_losses(case), answers_bound(case)[:, 1]), 2


@PREDICTION_TERMS.reference(cases=classified)
def it_is_hintons_sum_of_soft_and_hard_targets(formula, case):
    """T² kl_div plus cross_entropy, as they are usually written, has the same gradient."""
    case = case._replace(mode="masked", squared=True)
    t = case.temperature

    def theirs(logits: Tensor) -> Tensor:
        log_q, p = F.log_softmax(logits / t, 1), F.softmax(case.teacher / t, 1)
        soft = F.kl_div(log_q, p, reduction="none").sum(1) * t * t
        return soft + F.cross_entropy(logits, case.labels, reduction="none")

    found, expected = (
        gradients(loss, [case.logits], normal(9, 5))[0]
        for loss in (lambda x: both(formula(x, *case[1:])).sum(1), theirs)
    )
    return distance(found, expected), 64 * EPS * (1 + t + float(torch.cat(case[:2]).abs().max()))


@PREDICTION_TERMS.law
def the_prediction_is_that_of_its_loss(formula, case):
    logits, teacher, _, _, *rest = case
    return differing(formula(*case).prediction_B, prediction_loss(logits, teacher, *rest)), 0


@PREDICTION_TERMS.law(cases=classified)
def the_mean_over_labels_is_the_cross_entropy(formula, case):
    counted = (case.labels != -100).sum()
    mean = formula(*case).label_B.sum() / counted
    expected = cross_entropy(case.logits, case.labels)
    return distance(mean, expected, answers_bound(case)[:, 1].max()), 2


@PREDICTION_TERMS.law(cases=classified)
def a_sample_without_label_costs_nothing(formula, case):
    """And gets no gradient; the others get one."""
    (slope,) = gradients(
        lambda x: formula(x, *case[1:]).label_B, [case.logits], torch.ones(5).double()
    )
    silent = case.labels == -100
    error = formula(*case).label_B[silent].abs().sum() + slope[silent].abs().sum()
    return float(error) + float((slope[~silent].abs().sum(1) == 0).sum()), 0


@PREDICTION_TERMS.law
def only_answers_with_a_weight_are_computed(formula, case):
    """Each alone is the same as with the other; without labels the teacher's remains."""
    whole, wrong = formula(*case), 0.0
    for name in ("prediction", "label"):
        found = formula(*case._replace(weights=NONE._replace(**{name: 0.5})))
        wrong += differing(getattr(found, f"{name}_B"), getattr(whole, f"{name}_B"))
        wrong += sum(term is not None for term in found) != 1
    unlabelled = case._replace(labels=None, weights=BOTH._replace(label=0.0))
    return wrong + differing(formula(*unlabelled).prediction_B, whole.prediction_B), 0


@PREDICTION_TERMS.law
def states_are_none_of_its_business(formula, case):
    found = formula(*case._replace(weights=TermWeights(*[1.0] * len(NONE))))
    return sum(term is not None for term in found[:7]), 0


@PREDICTION_TERMS.law
def teacher_and_temperature_are_not_for_the_label(formula, case):
    other = case._replace(
        teacher=2 * case.teacher, temperature=3 * case.temperature, squared=not case.squared,
        mode="masked" if case.mode == "tinybert" else "tinybert",
    )
    return differing(formula(*other).label_B, formula(*case).label_B), 0


@PREDICTION_TERMS.law
def the_label_is_not_for_the_prediction(formula, case):
    other = case._replace(labels=case.labels.flip(0))
    return differing(formula(*other).prediction_B, formula(*case).prediction_B), 0


@PREDICTION_TERMS.law
def answers_of_samples_are_independent(formula, case):
    alone = [formula(*(part[i : i + 1] for part in case[:3]), *case[3:]) for i in range(5)]
    found = torch.cat([both(terms) for terms in alone])
    return distance(found, both(formula(*case)), answers_bound(case)), 1


@PREDICTION_TERMS.gradient(cost=3)
def their_slope_is_that_of_both_answers(formula, case):
    return slopes(
        lambda x: both(formula(x, *case[1:])),
        lambda x: spec_of_answers(case._replace(logits=as_tensor(x))).tolist(),
        [case.logits],
    )


@PREDICTION_TERMS.gradient
def the_slope_of_a_label_is_q_minus_y(formula, case):
    """At temperature 1; 2 (z - y) for one output, 0 without a label; none for the teacher."""
    upstream = normal(9, 5)
    to_logits, to_teacher = gradients(
        lambda z, u: formula(z, u, *case[2:]).label_B, case[:2], upstream
    )
    to_both = gradients(
        lambda u: both(formula(case.logits, u, *case[2:])) + 0 * u.sum(), [case.teacher],
        normal(8, 5, 2),
    )
    if case.logits.shape[1] == 1:
        gap = 2 * (case.logits - case.labels[:, None])
    else:
        one_hot = F.one_hot(case.labels.clamp(min=0), case.logits.shape[1])
        gap = (F.softmax(case.logits, 1) - one_hot) * (case.labels >= 0)[:, None]
    error = distance(to_logits, upstream[:, None] * gap)
    error += float(to_teacher.abs().max() + to_both[0].abs().max())
    return error, 64 * EPS * (1 + float(torch.cat(case[:2]).abs().max()))


@PREDICTION_TERMS.accuracy(
    {
        "normal": answer_case,
        "tiny": lambda draw: answer_case(draw, scale=1e-15),
        "large": lambda draw: answer_case(draw, scale=1e3),
        "scores of ±1e4": lambda draw: answer_case(draw, scale=1e4),
        "one output": lambda draw: answer_case(draw, (1,)),
    }
)
def both_answers_are_exact_up_to_their_size(formula, case):
    wide = case._replace(
        logits=case.logits.double(), teacher=case.teacher.double(), labels=wide_labels(case)
    )
    return distance(both(formula(*case)), spec_of_answers(wide), answers_bound(case)), 1


def answers_changed(label: Any = None, prediction: Any = None) -> Any:
    """The terms with one of them computed in another way, from the same arguments."""

    def formula(*arguments):
        found, case = prediction_terms(*arguments), AnswerCase(*arguments)
        if label is not None and found.label_B is not None:
            found = found._replace(label_B=label(case, found.label_B))
        if prediction is not None and found.prediction_B is not None:
            found = found._replace(prediction_B=prediction(case, found.prediction_B))
        return found

    return formula


def label_term(case: AnswerCase, **changes: Any) -> Tensor:
    found = prediction_terms(*case._replace(weights=BOTH, **changes)).label_B
    assert found is not None
    return found


PREDICTION_TERMS.mistake(
    teacher_and_temperature_are_not_for_the_label, the_slope_of_a_label_is_q_minus_y,
    the_label_term_is_torchs_loss_of_each_sample, their_slope_is_that_of_both_answers,
    it_is_hintons_sum_of_soft_and_hard_targets, the_mean_over_labels_is_the_cross_entropy,
    they_are_the_teachers_answer_and_the_label, name="labels_at_the_temperature_of_the_teacher",
)(answers_changed(lambda case, _: label_term(case, logits=case.logits / case.temperature)))

PREDICTION_TERMS.mistake(
    a_sample_without_label_costs_nothing, the_label_term_is_torchs_loss_of_each_sample,
    name="no_label_taken_for_class_zero",
)(answers_changed(lambda case, _: label_term(case, labels=case.labels.clamp(min=0))
                  if case.logits.shape[1] > 1 else label_term(case)))

PREDICTION_TERMS.mistake(
    answers_of_samples_are_independent, name="the_mean_over_labels_for_every_sample"
)(answers_changed(lambda _, found: found.mean().expand_as(found)))

PREDICTION_TERMS.mistake(
    they_are_the_teachers_answer_and_the_label, name="every_score_against_every_label"
)(answers_changed(
    lambda case, found: (case.logits - case.labels).square().mean(0)
    if case.logits.shape[1] == 1 else found
))

PREDICTION_TERMS.mistake(
    the_prediction_is_that_of_its_loss, the_label_is_not_for_the_prediction,
    source="https://github.com/aidotse/LeakPro/pull/440",
    name="labels_in_the_place_of_the_teacher",
)(answers_changed(None, lambda case, _: label_term(case)))

PREDICTION_TERMS.mistake(
    both_answers_are_exact_up_to_their_size, name="both_answers_in_half_precision"
)(answers_changed(lambda _, found: found.bfloat16(), lambda _, found: found.bfloat16()))


@PREDICTION_TERMS.mistake(only_answers_with_a_weight_are_computed)
def answers_weighted_already(logits, teacher, labels, weights, *rest):
    found = prediction_terms(logits, teacher, labels, weights, *rest)
    return DistillationTerms(*(
        None if term is None else w * term for w, term in zip(weights, found, strict=True)
    ))


@PREDICTION_TERMS.mistake(states_are_none_of_its_business)
def the_label_counted_as_a_state(*arguments):
    found = prediction_terms(*arguments)
    return found._replace(hidden_B=found.label_B)


# ----------------------------------------------------------------------------- distillation_loss


class TermsCase(NamedTuple):
    terms: DistillationTerms
    weights: TermWeights


def terms_case(draw: Draw, scales: tuple[float, ...] = (1.0,)) -> TermsCase:
    terms = [normal(seed_of(draw), 3, scale=draw.choice(scales)).abs() for _ in ALL]
    weights = normal(seed_of(draw), len(ALL)).abs().tolist()
    return TermsCase(DistillationTerms(*terms), TermWeights(*weights))


def sum_bound(case: TermsCase) -> Tensor:
    """Products, and a sum of K = 9 of them at most."""
    pairs = zip(case.weights, case.terms, strict=True)
    there = [(w, term) for w, term in pairs if term is not None]
    size = sum_of([abs(w) * term.double().abs() for w, term in there])
    return 5 * eps_of(there[0][1]) * size + smallest(there[0][1])


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
    """The losses of the first stage and of the answers sum to that of both together."""
    first = formula(case.terms._replace(prediction_B=None, label_B=None), case.weights)
    answers = DistillationTerms(*[None] * 7, *case.terms[7:])
    second = formula(answers, case.weights)
    return distance(first + second, formula(*case), sum_bound(case)), 2


@DISTILLATION.gradient
def each_slope_is_its_weight(formula, case):
    """The gradient for term k of sample i is weight k times the upstream gradient of sample i."""
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
    """By one place for every term that is missing."""
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
