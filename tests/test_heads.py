"""The task heads, proven five ways: spec, reference, laws, gradient, known mistakes."""

import math
from typing import NamedTuple

import pytest
import spec
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
    holds,
    normal,
    over_rows,
    rejects,
    seeds,
)
from torch import Tensor

from minibert.config import BertConfig
from minibert.functional import dropout, layer_norm, linear
from minibert.heads import (
    mlm_logits,
    multiple_choice_logits,
    nsp_logits,
    pooled,
    regression_values,
    sequence_logits,
    span_logits,
    token_logits,
)
from minibert.parameters import LayerNormWeights, LinearWeights, MlmWeights

B, S, D, V, C = 3, 7, 5, 13, 11
ERF = BertConfig(hidden_size=D, num_attention_heads=1, vocab_size=V)
TANH = BertConfig.from_dict(ERF.to_dict() | {"hidden_act": "gelu_pytorch_tanh"})
BOUND = 100 * EPS  # sums of 5 terms of size 1 to 10, at most three after one another
few = fewer(2)


def map_of(seed: int, out_width: int) -> LinearWeights:
    return LinearWeights(normal(seed, out_width, D), normal(seed + 1, out_width))


def lists(weights: LinearWeights) -> LinearWeights:
    return LinearWeights(*(tensor.tolist() for tensor in weights))


def fresh(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class HeadCase(NamedTuple):
    """A state or a pooled vector, and the map of the head."""

    x: Tensor
    weights: LinearWeights


# ------------------------------------------------------------------------------------- pooled


def pooled_case(seed: int) -> HeadCase:
    return HeadCase(normal(seed, B, S, D), map_of(seed + 1, D))


@given(seed=seeds)
@few
def test_pooled_is_its_spec(seed):
    x, weights = pooled_case(seed)
    expected = as_tensor([spec.pooled(sentence, lists(weights)) for sentence in x.tolist()])
    check(distance(pooled(x, weights), expected), BOUND, "pooled and its spec")


@given(seed=seeds)
@few
def test_pooled_is_the_reference(seed):
    x, weights = pooled_case(seed)
    expected = torch.tanh(F.linear(x, *weights))[:, 0]
    check(distance(pooled(x, weights), expected), BOUND, "pooled and torch's functions")


def only_the_first_token_counts(formula, case):
    moved = case.x.clone()
    moved[:, 1:] = -100
    return differing(formula(moved, case.weights), formula(*case)), 0


def its_artanh_is_linear(formula, case):
    """x is kept small: near ±1 the artanh has no digits left."""
    small = case.x / 10
    weights = case.weights._replace(bias_O=case.weights.bias_O / 10)
    expected = linear(small[:, 0], *weights)
    return distance(torch.atanh(formula(small, weights)), expected), BOUND


POOLED_LAWS = [only_the_first_token_counts, its_artanh_is_linear]


@pytest.mark.parametrize("law", POOLED_LAWS)
@given(seed=seeds)
@few
def test_pooled_law(law, seed):
    holds(law, pooled, pooled_case(seed))


def mean_of_tokens(x, weights):
    return torch.tanh(linear(x.mean(1), *weights))


def last_token(x, weights):
    return pooled(x.flip(1), weights)


def no_tanh(x, weights):
    return linear(x[:, 0], *weights)


def relu_after_tanh(x, weights):
    """TinyBERT's classifier does this."""
    return torch.relu(pooled(x, weights))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (mean_of_tokens, only_the_first_token_counts),
        (last_token, only_the_first_token_counts),
        (no_tanh, its_artanh_is_linear),
        (relu_after_tanh, its_artanh_is_linear),
    ],
)
def test_pooled_rejects(mistake, law):
    rejects(law, mistake, pooled, [pooled_case(seed) for seed in range(3)])


@given(seed=seeds)
@fewer(6)
def test_pooled_gradient(seed):
    x, weights = pooled_case(seed)
    check_slope(
        lambda x, w, b: pooled(x, LinearWeights(w, b)),
        lambda x, w, b: [spec.pooled(sentence, (w, b)) for sentence in x],
        [x, *weights],
        seed,
    )


# ----------------------------------------------------------------------------- masked words


class MlmCase(NamedTuple):
    hidden: Tensor
    weights: MlmWeights
    words: Tensor
    config: BertConfig


def mlm_case(seed: int, config: BertConfig = ERF) -> MlmCase:
    norm = LayerNormWeights(normal(seed + 3, D, offset=1), normal(seed + 4, D))
    weights = MlmWeights(map_of(seed + 1, D), norm, normal(seed + 5, V))
    return MlmCase(normal(seed, 2, S, D), weights, normal(seed + 6, V, D), config)


mlm_cases = st.builds(mlm_case, seeds, st.sampled_from([ERF, TANH]))
MLM_BOUND = 1e-12  # 50 times more: the norm divides by a deviation that may be below 0.1


@given(case=mlm_cases)
@few
def test_mlm_logits_are_their_spec(case):
    w = case.weights
    plain = MlmWeights(lists(w.transform), lists(w.norm), w.bias_V.tolist())
    expected = over_rows(
        spec.mlm_logits,
        case.hidden.tolist(),
        plain,
        case.words.tolist(),
        case.config.layer_norm_eps,
        case.config.hidden_act,
    )
    check(distance(mlm_logits(*case), as_tensor(expected)), MLM_BOUND, "mlm_logits and their spec")


@given(case=mlm_cases)
@few
def test_mlm_logits_are_the_reference(case):
    w, approximate = case.weights, "none" if case.config is ERF else "tanh"
    t = F.gelu(F.linear(case.hidden, *w.transform), approximate=approximate)
    t = F.layer_norm(t, (D,), *w.norm, case.config.layer_norm_eps)
    expected = F.linear(t, case.words, w.bias_V)
    check(distance(mlm_logits(*case), expected), MLM_BOUND, "mlm_logits and torch's functions")


def words_may_be_renumbered(formula, case):
    order = torch.randperm(V, generator=fresh(1))
    moved = case._replace(
        words=case.words[order], weights=case.weights._replace(bias_V=case.weights.bias_V[order])
    )
    return distance(formula(*moved), formula(*case)[..., order]), MLM_BOUND


def the_decoder_is_linear_in_the_words(formula, case):
    """Doubling the table doubles what a logit has above its bias; the last bias is added once."""
    doubled = formula(*case._replace(words=2 * case.words)) - case.weights.bias_V
    return distance(doubled, 2 * (formula(*case) - case.weights.bias_V)), MLM_BOUND


def a_bias_moves_one_logit(formula, case):
    moved = case.weights._replace(bias_V=case.weights.bias_V + 3 * torch.eye(V)[2].double())
    gap = formula(*case._replace(weights=moved)) - formula(*case)
    return distance(gap, (3 * torch.eye(V)[2]).double().expand_as(gap)), MLM_BOUND


def identity_words_show_a_normalised_state(formula, case):
    """Words that are unit vectors, no biases, gain 1: a logit vector of mean 0 and square 1."""
    norm = LayerNormWeights(torch.ones(D).double(), torch.zeros(D).double())
    weights = case.weights._replace(norm=norm, bias_V=torch.zeros(D).double())
    tiny_eps = BertConfig.from_dict(case.config.to_dict() | {"layer_norm_eps": 1e-15})
    t = formula(case.hidden, weights, torch.eye(D).double(), tiny_eps)
    square = (t * t).mean(-1)
    return float(t.mean(-1).abs().max()) + distance(square, torch.ones_like(square)), 1e-8


def the_erf_form_serves_gelu(formula, case):
    """State 0 and a bias of a and -a: what is normalised is gelu(a) and gelu(-a)."""
    a = 1.3
    bias = as_tensor([a, -a, 0, 0, 0])
    low, high = -a / 2 * math.erfc(a / math.sqrt(2)), a / 2 * math.erfc(-a / math.sqrt(2))
    expected = as_tensor([high, low, 0, 0, 0])
    norm = LayerNormWeights(torch.ones(D).double(), torch.zeros(D).double())
    transform = LinearWeights(torch.zeros(D, D).double(), bias)
    weights = MlmWeights(transform, norm, torch.zeros(D).double())
    t = formula(case.hidden, weights, torch.eye(D).double(), ERF)
    return distance(t, layer_norm(expected, *norm, 1e-12).expand_as(t)), BOUND


def each_token_alone(formula, case):
    moved = case.hidden.clone()
    moved[:, 1:] = 10 * moved[:, 1:]
    return differing(formula(*case._replace(hidden=moved))[:, 0], formula(*case)[:, 0]), 0


MLM_LAWS = [
    words_may_be_renumbered,
    the_decoder_is_linear_in_the_words,
    a_bias_moves_one_logit,
    identity_words_show_a_normalised_state,
    the_erf_form_serves_gelu,
    each_token_alone,
]


@pytest.mark.parametrize("law", MLM_LAWS)
@given(case=mlm_cases)
@few
def test_mlm_logits_law(law, case):
    holds(law, mlm_logits, case)


def no_output_bias(hidden, weights, words, config):
    return mlm_logits(hidden, weights._replace(bias_V=0 * weights.bias_V), words, config)


def no_transform(hidden, weights, words, config):
    return linear(hidden, words, weights.bias_V)


def no_norm_in_the_head(hidden, weights, words, config):
    return linear(F.gelu(linear(hidden, *weights.transform)), words, weights.bias_V)


def norm_before_gelu(hidden, weights, words, config):
    t = layer_norm(linear(hidden, *weights.transform), *weights.norm, config.layer_norm_eps)
    return linear(F.gelu(t), words, weights.bias_V)


def tanh_form_always(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words, TANH)


def relu_for_gelu(hidden, weights, words, config):
    t = torch.relu(linear(hidden, *weights.transform))
    t = layer_norm(t, *weights.norm, config.layer_norm_eps)
    return linear(t, words, weights.bias_V)


def words_normalised(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words / words.norm(dim=-1, keepdim=True), config)


def statistics_over_tokens(hidden, weights, words, config):
    return mlm_logits(hidden - hidden.mean(1, keepdim=True), weights, words, config)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (no_output_bias, a_bias_moves_one_logit),
        (no_transform, identity_words_show_a_normalised_state),
        (no_norm_in_the_head, identity_words_show_a_normalised_state),
        (norm_before_gelu, identity_words_show_a_normalised_state),
        (tanh_form_always, the_erf_form_serves_gelu),
        (relu_for_gelu, the_erf_form_serves_gelu),
        (words_normalised, the_decoder_is_linear_in_the_words),
        (statistics_over_tokens, each_token_alone),
    ],
)
def test_mlm_logits_rejects(mistake, law):
    rejects(law, mistake, mlm_logits, [mlm_case(seed) for seed in range(3)])


@given(case=mlm_cases, seed=seeds)
@fewer(6)
def test_mlm_logits_gradient(case, seed):
    """The word table gets a gradient too: it is the decoder."""

    def weights_of(w, b, gain, bias, bias_v):
        return MlmWeights(LinearWeights(w, b), LayerNormWeights(gain, bias), bias_v)

    eps, act = case.config.layer_norm_eps, case.config.hidden_act
    steep = case.weights.transform.bias_O + 4 * torch.arange(D)  # no deviation near 0
    transform = case.weights.transform._replace(bias_O=steep)
    tensors = [case.hidden[0], case.words, *transform, *case.weights.norm]
    check_slope(
        lambda h, words, *w: mlm_logits(h, weights_of(*w), words, case.config),
        lambda h, words, *w: over_rows(spec.mlm_logits, h, weights_of(*w), words, eps, act),
        [*tensors, case.weights.bias_V],
        seed,
    )


def test_mlm_logits_of_chosen_tokens_are_those_of_all():
    """[M, D] and [B, S, D] both go: only the masked tokens need a logit."""
    case = mlm_case(1)
    chosen = torch.tensor([[True] * 3 + [False] * 4, [False] * 6 + [True]])
    found = mlm_logits(*case._replace(hidden=case.hidden[chosen]))
    check(distance(found, mlm_logits(*case)[chosen]), MLM_BOUND, "chosen tokens")


def test_mlm_logits_refuse_another_width():
    case = mlm_case(0)
    with pytest.raises(ValueError, match="x has width 4, but the weight maps from 5"):
        mlm_logits(*case._replace(hidden=case.hidden[..., :4]))
    with pytest.raises(ValueError, match="x has width 5, but the weight maps from 4"):
        mlm_logits(*case._replace(words=case.words[:, :4]))


# ------------------------------------------------------------------ heads that are one linear map

ONE_MAP = [
    pytest.param(nsp_logits, (B, D), 2, id="nsp"),
    pytest.param(sequence_logits, (B, D), C, id="sequence"),
    pytest.param(token_logits, (B, S, D), C, id="token"),
]


@pytest.mark.parametrize(("head", "shape", "classes"), ONE_MAP)
@given(seed=seeds)
@few
def test_linear_heads_are_their_spec(head, shape, classes, seed):
    x, weights = normal(seed, *shape), map_of(seed + 1, classes)
    expected = as_tensor(over_rows(spec.linear, x.tolist(), *lists(weights)))
    check(distance(head(x, weights), expected), BOUND, "head and its spec")
    assert distance(head(x, weights), F.linear(x, *weights)) <= BOUND


@pytest.mark.parametrize(("head", "shape", "classes"), ONE_MAP)
@given(seed=seeds)
@fewer(12)
def test_linear_heads_gradient(head, shape, classes, seed):
    check_slope(
        lambda x, w, b: head(x, LinearWeights(w, b)),
        lambda x, w, b: over_rows(spec.linear, x, w, b),
        [normal(seed, *shape), *map_of(seed + 1, classes)],
        seed,
    )


@pytest.mark.parametrize(("head", "shape", "classes"), ONE_MAP)
def test_linear_heads_refuse_another_width(head, shape, classes):
    with pytest.raises(ValueError, match="x has width 5, but the weight maps from 4"):
        head(normal(0, *shape), LinearWeights(normal(1, classes, 4), normal(2, classes)))


WITH_DROPOUT = [
    pytest.param(sequence_logits, (B, D), C, (), id="sequence"),
    pytest.param(token_logits, (B, S, D), C, (), id="token"),
    pytest.param(regression_values, (B, D), 1, (), id="regression"),
    pytest.param(multiple_choice_logits, (6, D), 1, (3,), id="multiple choice"),
]


@pytest.mark.parametrize(("head", "shape", "classes", "arguments"), WITH_DROPOUT)
def test_dropout_falls_on_the_input_of_a_head(head, shape, classes, arguments):
    x, weights = normal(1, *shape), map_of(2, classes)
    plain = head(x, weights, *arguments)
    found = head(x, weights, *arguments, 0.5, fresh(3))
    assert differing(found, head(dropout(x, 0.5, fresh(3)), weights, *arguments)) == 0
    assert differing(found, plain) > 0
    assert differing(head(x, weights, *arguments, 0.5), plain) == 0
    assert differing(head(x, weights, *arguments, generator=fresh(3)), plain) == 0
    assert differing(head(x, weights, *arguments, 0.0, fresh(3)), plain) == 0


# --------------------------------------------------------------------------------- regression


@given(seed=seeds)
@few
def test_regression_values_are_their_spec(seed):
    x, weights = normal(seed, B, D), map_of(seed + 1, 1)
    expected = as_tensor([spec.linear(p, *lists(weights))[0] for p in x.tolist()])
    found = regression_values(x, weights)
    assert found.shape == (B,)
    check(distance(found, expected), BOUND, "regression_values and their spec")
    assert distance(found, F.linear(x, *weights)[:, 0]) <= BOUND


@given(seed=seeds)
@fewer(12)
def test_regression_gradient(seed):
    check_slope(
        lambda x, w, b: regression_values(x, LinearWeights(w, b)),
        lambda x, w, b: [spec.linear(p, w, b)[0] for p in x],
        [normal(seed, B, D), *map_of(seed + 1, 1)],
        seed,
    )


def test_regression_refuses_a_head_for_classes():
    with pytest.raises(ValueError, match="the head has 2 rows, but needs one"):
        regression_values(normal(0, B, D), map_of(1, 2))


# -------------------------------------------------------------------------------------- spans


def span_case(seed: int) -> HeadCase:
    return HeadCase(normal(seed, B, S, D), map_of(seed + 1, 2))


@given(seed=seeds)
@few
def test_span_logits_are_their_spec(seed):
    x, weights = span_case(seed)
    starts, ends = zip(*(spec.span_logits(row, lists(weights)) for row in x.tolist()), strict=True)
    found = span_logits(x, weights)
    check(distance(found[0], as_tensor(starts)), BOUND, "start and its spec")
    check(distance(found[1], as_tensor(ends)), BOUND, "end and its spec")
    reference = F.linear(x, *weights).split(1, -1)  # as transformers cuts them
    for ours, theirs in zip(found, reference, strict=True):
        assert distance(ours, theirs.squeeze(-1)) <= BOUND


def row_0_is_the_start(formula, case):
    x, (weight, bias) = case
    start, end = formula(x, LinearWeights(weight.clone(), bias + torch.tensor([5.0, 0.0])))
    plain_start, plain_end = formula(x, case.weights)
    return distance(start, plain_start + 5) + distance(end, plain_end), BOUND


def tokens_are_scored_alone(formula, case):
    order = torch.randperm(S, generator=fresh(1))
    moved = formula(case.x[:, order], case.weights)
    return sum(distance(a, b[:, order]) for a, b in zip(moved, formula(*case), strict=True)), BOUND


@pytest.mark.parametrize("law", [row_0_is_the_start, tokens_are_scored_alone])
@given(seed=seeds)
@few
def test_span_logits_law(law, seed):
    holds(law, span_logits, span_case(seed))


def start_and_end_swapped(x, weights):
    return span_logits(x, weights)[::-1]


def end_for_both(x, weights):
    return span_logits(x, weights)[1], span_logits(x, weights)[1]


def later_tokens_favoured(x, weights):
    start, end = span_logits(x, weights)
    return start + torch.arange(S), end


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (start_and_end_swapped, row_0_is_the_start),
        (end_for_both, row_0_is_the_start),
        (later_tokens_favoured, tokens_are_scored_alone),
    ],
)
def test_span_logits_rejects(mistake, law):
    rejects(law, mistake, span_logits, [span_case(seed) for seed in range(3)])


@given(seed=seeds)
@fewer(12)
def test_span_gradient(seed):
    check_slope(
        lambda x, w, b: torch.stack(span_logits(x, LinearWeights(w, b)), 1),
        lambda x, w, b: [list(spec.span_logits(row, (w, b))) for row in x],
        [*span_case(seed)[:1], *span_case(seed).weights],
        seed,
    )


# ---------------------------------------------------------------------------- multiple choice


class ChoiceCase(NamedTuple):
    x: Tensor
    weights: LinearWeights
    n_choices: int


def choice_case(seed: int) -> ChoiceCase:
    """Two questions of three choices."""
    return ChoiceCase(normal(seed, 6, D), map_of(seed + 1, 1), 3)


@given(seed=seeds)
@few
def test_multiple_choice_logits_are_their_spec(seed):
    x, weights, n_choices = choice_case(seed)
    expected = spec.multiple_choice_logits(x.tolist(), lists(weights), n_choices)
    found = multiple_choice_logits(x, weights, n_choices)
    check(distance(found, as_tensor(expected)), BOUND, "multiple_choice_logits and their spec")
    assert distance(found, F.linear(x, *weights).view(2, 3)) <= BOUND


def choices_of_a_question_follow_one_another(formula, case):
    """Reordering the choices of the second question leaves the first alone."""
    order = torch.tensor([0, 1, 2, 5, 3, 4])
    plain = formula(*case)
    moved = formula(*case._replace(x=case.x[order]))
    expected = torch.stack((plain[0], plain[1, [2, 0, 1]]))
    return distance(moved, expected), BOUND


def a_common_bias_leaves_the_choice(formula, case):
    moved = case.weights._replace(bias_O=case.weights.bias_O + 7)
    found = torch.softmax(formula(*case._replace(weights=moved)), -1)
    return distance(found, torch.softmax(formula(*case), -1)), BOUND


CHOICE_LAWS = [choices_of_a_question_follow_one_another, a_common_bias_leaves_the_choice]


@pytest.mark.parametrize("law", CHOICE_LAWS)
@given(seed=seeds)
@few
def test_multiple_choice_logits_law(law, seed):
    holds(law, multiple_choice_logits, choice_case(seed))


def questions_first(x, weights, n_choices):
    return linear(x, *weights)[:, 0].view(n_choices, -1).T


def sigmoids(x, weights, n_choices):
    return torch.sigmoid(multiple_choice_logits(x, weights, n_choices))


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (questions_first, choices_of_a_question_follow_one_another),
        (sigmoids, a_common_bias_leaves_the_choice),
    ],
)
def test_multiple_choice_logits_rejects(mistake, law):
    rejects(law, mistake, multiple_choice_logits, [choice_case(seed) for seed in range(3)])


@given(seed=seeds)
@fewer(12)
def test_multiple_choice_gradient(seed):
    case = choice_case(seed)
    check_slope(
        lambda x, w, b: multiple_choice_logits(x, LinearWeights(w, b), 3),
        lambda x, w, b: spec.multiple_choice_logits(x, (w, b), 3),
        [case.x, *case.weights],
        seed,
    )


@pytest.mark.parametrize("n_choices", [4, 5, 0, -2])
def test_multiple_choice_refuses_a_remainder(n_choices):
    with pytest.raises(ValueError, match=f"6 texts do not divide into questions of {n_choices}"):
        multiple_choice_logits(normal(0, 6, D), map_of(1, 1), n_choices)
