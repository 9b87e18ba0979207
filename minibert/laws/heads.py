"""Laws of `heads`: what is put on top of the encoder."""

import dataclasses
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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
from minibert.laws import rounding, spec
from minibert.laws.attention import parts_of, with_parts
from minibert.laws.encoder import gelu_by_hand, wide_lists
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
    over_rows,
    seed_of,
    slopes,
)
from minibert.parameters import LayerNormWeights, LinearWeights, MlmWeights

B, S, D, V, C = 3, 7, 5, 13, 11
ERF = BertConfig(hidden_size=D, num_attention_heads=1, vocab_size=V)
TANH = BertConfig.from_dict(ERF.to_dict() | {"hidden_act": "gelu_pytorch_tanh"})


class HeadCase(NamedTuple):
    """A state or a pooled vector, and the map of the head."""

    x: Tensor
    weights: LinearWeights


def map_of(draw: Draw, out_width: int) -> LinearWeights:
    return LinearWeights(normal(seed_of(draw), out_width, D), normal(seed_of(draw), out_width))


def head_case(
    draw: Draw, shape: tuple[int, ...], classes: int, scale: float = 1.0, offset: float = 0.0
) -> HeadCase:
    x = normal(seed_of(draw), *shape, scale=scale, offset=offset)
    return HeadCase(x, map_of(draw, classes))


def hard_inputs(cases: Any) -> dict[str, Any]:
    """Cases of a head at every scale."""
    return {
        "normal": cases,
        "tiny": lambda draw: cases(draw, 1e-4),
        "large": lambda draw: cases(draw, 1e4),
        "a large offset": lambda draw: cases(draw, 1.0, 1e5),
        "equal": lambda draw: cases(draw, 0.0, 3.0),
    }


def map_bound(case: Any) -> Tensor:
    """The bound of the linear map that most heads are."""
    return rounding.linear(rounding.exact(case.x), *case.weights).error


# ---------------------------------------------------------------------------------------- pooled


def pooled_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (B, S, D), D, scale, offset)


POOLED = Proof(pooled, pooled_case)


def pooled_bound(case: HeadCase) -> Tensor:
    first = rounding.exact(case.x[:, 0])
    return rounding.tanh(rounding.linear(first, *case.weights)).error


def spec_of_pooled(x, weights):
    return [spec.pooled(sentence, weights) for sentence in x]


@POOLED.spec
def it_is_the_tanh_of_a_map_of_the_first_token(formula, case):
    expected = as_tensor(spec_of_pooled(case.x.tolist(), wide_lists(case.weights)))
    return distance(formula(*case), expected, pooled_bound(case)), 1


@POOLED.reference
def it_is_torchs_tanh_of_torchs_linear(formula, case):
    expected = torch.tanh(F.linear(case.x, *case.weights))[:, 0]
    return distance(formula(*case), expected, pooled_bound(case)), 2


@POOLED.law
def only_the_first_token_counts(formula, case):
    moved = case.x.clone()
    moved[:, 1:] = -100
    return differing(formula(*case._replace(x=moved)), formula(*case)), 0


@POOLED.law
def its_artanh_is_linear(formula, case):
    """x is kept small: near ±1 the artanh has no digits left."""
    weights = case.weights._replace(bias_O=case.weights.bias_O / 10)
    small = HeadCase(case.x / 10, weights)
    expected = linear(small.x[:, 0], *weights)
    steepness = 1 / (1 - torch.tanh(expected) ** 2)
    unit = pooled_bound(small) * steepness
    return distance(torch.atanh(formula(*small)), expected, unit + 4 * EPS), 4


@POOLED.law
def it_lies_between_minus_one_and_one(formula, case):
    y = formula(*case._replace(x=1e4 * case.x))
    return float((y.abs() > 1).sum()) + float((y.abs().amax(-1) < 1).sum()), 0


@POOLED.law
def it_is_odd_without_a_bias(formula, case):
    weights = case.weights._replace(bias_O=0 * case.weights.bias_O)
    return differing(formula(-case.x, weights), -formula(case.x, weights)), 0


@POOLED.gradient
def its_gradients_carry_one_minus_tanh_squared(formula, case):
    """da = u (1 - y²);  dW = Σ da h_0ᵀ, db = Σ da, dh_0 = da W, dh_s = 0 for the others."""
    upstream = normal(8, B, D)
    to_inner = upstream * (1 - torch.tanh(F.linear(case.x[:, 0], *case.weights)) ** 2)
    to_x = torch.zeros_like(case.x)
    to_x[:, 0] = to_inner @ case.weights.weight_OI
    found = gradients(
        lambda x, *parts: formula(x, LinearWeights(*parts)), [case.x, *case.weights], upstream
    )
    closed = to_x, to_inner.T @ case.x[:, 0], to_inner.sum(0)
    return sum(map(distance, found, closed)), 500 * EPS


@POOLED.gradient(cost=3)
def its_slope_is_that_of_the_tanh_of_a_map(formula, case):
    return slopes(
        lambda x, *parts: formula(x, LinearWeights(*parts)),
        lambda x, *parts: spec_of_pooled(x, parts),
        [case.x, *case.weights],
    )


@POOLED.accuracy(hard_inputs(pooled_case))
def it_is_exact_up_to_the_rounding_of_its_map(formula, case):
    lists = case.x.double().tolist(), wide_lists(case.weights)
    return distance(formula(*case), as_tensor(spec_of_pooled(*lists)), pooled_bound(case)), 1


@POOLED.mistake(only_the_first_token_counts, it_is_the_tanh_of_a_map_of_the_first_token)
def mean_of_tokens(x, weights):
    return torch.tanh(linear(x.mean(1), *weights))


@POOLED.mistake(only_the_first_token_counts, it_is_torchs_tanh_of_torchs_linear)
def last_token(x, weights):
    return pooled(x.flip(1), weights)


@POOLED.mistake(only_the_first_token_counts)
def largest_of_tokens(x, weights):
    return torch.tanh(linear(x, *weights)).amax(1)


@POOLED.mistake(its_artanh_is_linear, it_lies_between_minus_one_and_one)
def no_tanh(x, weights):
    return linear(x[:, 0], *weights)


@POOLED.mistake(its_artanh_is_linear, it_is_odd_without_a_bias)
def relu_after_tanh(x, weights):
    """TinyBERT's classifier does this."""
    return torch.relu(pooled(x, weights))


@POOLED.mistake(it_is_odd_without_a_bias, it_is_the_tanh_of_a_map_of_the_first_token)
def sigmoid_for_tanh(x, weights):
    return torch.sigmoid(linear(x[:, 0], *weights))


@POOLED.mistake(it_is_the_tanh_of_a_map_of_the_first_token)
def no_map(x, weights):
    return torch.tanh(x[:, 0])


@POOLED.mistake(it_is_exact_up_to_the_rounding_of_its_map)
def state_in_eight_bits(x, weights):
    return pooled(x.clamp(-400, 400).to(torch.float8_e4m3fn).to(x.dtype), weights)


@POOLED.mistake(its_gradients_carry_one_minus_tanh_squared, its_slope_is_that_of_the_tanh_of_a_map)
def state_not_trained(x, weights):
    return pooled(x.detach(), weights)


# ------------------------------------------------------------------------------------ mlm_logits


class MlmCase(NamedTuple):
    hidden: Tensor
    weights: MlmWeights
    words: Tensor
    config: BertConfig


def mlm_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> MlmCase:
    norm = LayerNormWeights(normal(seed_of(draw), D, offset=1), normal(seed_of(draw), D))
    weights = MlmWeights(map_of(draw, D), norm, normal(seed_of(draw), V))
    hidden = normal(seed_of(draw), 2, S, D, scale=scale, offset=offset)
    config = dataclasses.replace(
        draw.choice([ERF, TANH]), layer_norm_eps=draw.choice([1e-12, 1e-5])
    )
    return MlmCase(hidden, weights, normal(seed_of(draw), V, D), config)


def mlm_bound(case: MlmCase) -> Tensor:
    w, config = case.weights, case.config
    inner = rounding.linear(rounding.exact(case.hidden), *w.transform)
    inner = rounding.gelu(inner, config.hidden_act != "gelu")
    normed = rounding.layer_norm(inner, *w.norm, config.layer_norm_eps)
    return rounding.linear(normed, case.words, w.bias_V).error


MLM_LOGITS = Proof(mlm_logits, mlm_case)


def spec_of_mlm(hidden, weights, words, config):
    eps, act = config.layer_norm_eps, config.hidden_act
    return over_rows(spec.mlm_logits, hidden, weights, words, eps, act)


def lists_of_mlm(case: MlmCase) -> list[Any]:
    words = case.words.double().tolist()
    return [case.hidden.double().tolist(), wide_lists(case.weights), words, case.config]


@MLM_LOGITS.spec
def a_logit_is_the_transformed_state_times_the_word(formula, case):
    expected = as_tensor(spec_of_mlm(*lists_of_mlm(case)))
    return distance(formula(*case), expected, mlm_bound(case)), 1


@MLM_LOGITS.reference
def they_are_torchs_linear_gelu_norm_linear(formula, case):
    w, approximate = case.weights, "none" if case.config.hidden_act == "gelu" else "tanh"
    t = F.gelu(F.linear(case.hidden, *w.transform), approximate=approximate)
    t = F.layer_norm(t, (D,), *w.norm, case.config.layer_norm_eps)
    return distance(formula(*case), F.linear(t, case.words, w.bias_V), mlm_bound(case)), 4


@MLM_LOGITS.law
def words_may_be_renumbered(formula, case):
    order = order_of(V)
    weights = case.weights._replace(bias_V=case.weights.bias_V[order])
    moved = case._replace(words=case.words[order], weights=weights)
    return distance(formula(*moved), formula(*case)[..., order], mlm_bound(case)[..., order]), 2


@MLM_LOGITS.law
def they_are_linear_in_the_words(formula, case):
    """Doubling the table doubles each logit less its bias; the bias is added once."""
    doubled = case._replace(words=2 * case.words)
    left = formula(*doubled) - case.weights.bias_V
    return distance(left, 2 * (formula(*case) - case.weights.bias_V), mlm_bound(doubled)), 4


@MLM_LOGITS.law
def a_word_of_zeros_has_its_bias(formula, case):
    y = formula(*case._replace(words=0 * case.words))
    return differing(y, case.weights.bias_V.expand_as(y)), 0


@MLM_LOGITS.law
def a_bias_moves_one_logit(formula, case):
    bump = 3 * torch.eye(V)[2].double()
    moved = case.weights._replace(bias_V=case.weights.bias_V + bump)
    gap = formula(*case._replace(weights=moved)) - formula(*case)
    return distance(gap, bump.expand_as(gap), mlm_bound(case) + 8 * EPS), 2


def showing(case: MlmCase) -> MlmCase:
    """Words that are unit vectors, no biases, gain 1: the logits are the normalised state."""
    norm = LayerNormWeights(torch.ones(D).double(), torch.zeros(D).double())
    weights = case.weights._replace(norm=norm, bias_V=torch.zeros(D).double())
    return case._replace(weights=weights, words=torch.eye(D).double())


@MLM_LOGITS.law
def unit_words_show_a_normalised_state(formula, case):
    """A logit vector of mean 0 and mean square v / (v + ε)."""
    case = showing(case)
    case = case._replace(config=dataclasses.replace(case.config, layer_norm_eps=1e-15))
    t = formula(*case)
    square, unit = (t * t).mean(-1), 1e-8
    return float(t.mean(-1).abs().max()) + distance(square, torch.ones_like(square)), unit


@MLM_LOGITS.law
def the_eps_of_the_config_counts(formula, case):
    """W = 0 and b = ±1e-6: the input of the norm has a variance as small as BERT's eps."""
    case = showing(case)
    bias = as_tensor([1e-6, -1e-6, 2e-6, -2e-6, 0])
    transform = LinearWeights(torch.zeros(D, D).double(), bias)
    case = case._replace(weights=case.weights._replace(transform=transform))
    inner = as_tensor([gelu_by_hand(b, case.config.hidden_act) for b in bias.tolist()])
    expected = layer_norm(inner, *case.weights.norm, case.config.layer_norm_eps)
    y = formula(*case)
    return distance(y, expected.expand_as(y)), 100 * EPS


@MLM_LOGITS.law
def the_name_chooses_the_gelu(formula, case):
    """W = 0 and biases of 2.69892 and its negative, where the two forms differ by 4.7e-4."""
    a = 2.69892
    case = showing(case)
    transform = LinearWeights(torch.zeros(D, D).double(), as_tensor([a, -a, 0, 1, -1]))
    case = case._replace(weights=case.weights._replace(transform=transform))
    inner = as_tensor([gelu_by_hand(b, case.config.hidden_act) for b in (a, -a, 0, 1, -1)])
    expected = layer_norm(inner, *case.weights.norm, case.config.layer_norm_eps)
    y = formula(*case)
    return distance(y, expected.expand_as(y)), 100 * EPS


@MLM_LOGITS.law
def each_token_is_read_alone(formula, case):
    moved = case.hidden.clone()
    moved[:, 1:] = 10 * moved[:, 1:]
    return differing(formula(*case._replace(hidden=moved))[:, 0], formula(*case)[:, 0]), 0


@MLM_LOGITS.law
def chosen_tokens_have_the_logits_they_have_among_all(formula, case):
    """[M, D] and [B, S, D] both work: only the masked tokens need logits."""
    chosen = torch.tensor([[True] * 3 + [False] * 4, [False] * 6 + [True]])
    found = formula(*case._replace(hidden=case.hidden[chosen]))
    return distance(found, formula(*case)[chosen], mlm_bound(case)[chosen]), 2


def away_from_0(case: MlmCase) -> MlmCase:
    """With no standard deviation near 0, where the norm curves within a finite-difference step."""
    transform = case.weights.transform
    transform = transform._replace(bias_O=transform.bias_O + 4 * torch.arange(D))
    weights = case.weights._replace(transform=transform)
    return case._replace(hidden=case.hidden[0, :3], weights=weights)


@MLM_LOGITS.gradient
def the_word_table_and_its_bias_have_products_for_gradients(formula, case):
    """dword = Σ u tᵀ, dbias = Σ u: the table is trained here too, as it is the decoder."""
    upstream, w = normal(8, 2, S, V), case.weights
    _, to_words, to_bias = gradients(
        lambda h, words, bias: formula(h, w._replace(bias_V=bias), words, case.config),
        [case.hidden, case.words, w.bias_V],
        upstream,
    )
    approximate = "none" if case.config.hidden_act == "gelu" else "tanh"
    t = F.gelu(F.linear(case.hidden, *w.transform), approximate=approximate)
    t = F.layer_norm(t, (D,), *w.norm, case.config.layer_norm_eps)
    unit = mlm_bound(case._replace(words=torch.eye(V, D).double())).amax() + 100 * EPS
    error = distance(to_words, torch.einsum("bsv,bsd->vd", upstream, t), unit)
    return error + distance(to_bias, upstream.sum((0, 1)), unit), 100


@MLM_LOGITS.gradient(cost=10)
def its_slope_is_that_of_the_transformed_state_times_the_word(formula, case):
    """With respect to the state, the table and all five tensors of the head."""
    case = away_from_0(case)
    return slopes(
        lambda h, words, *w: formula(h, with_parts(case.weights, w), words, case.config),
        lambda h, words, *w: spec_of_mlm(h, with_parts(case.weights, w), words, case.config),
        [case.hidden, case.words, *parts_of(case.weights)],
    )


@MLM_LOGITS.accuracy(
    {
        "normal": mlm_case,
        "tiny": lambda draw: mlm_case(draw, 1e-30),
        "large": lambda draw: mlm_case(draw, 1e4),
        "a large offset": lambda draw: mlm_case(draw, 1.0, 1e3),
        "equal": lambda draw: mlm_case(draw, 0.0, 3.0),
    },
    cost=2,
)
def logits_are_exact_up_to_the_rounding_of_each_step(formula, case):
    expected = as_tensor(spec_of_mlm(*lists_of_mlm(case)))
    return distance(formula(*case), expected, mlm_bound(case)), 1


def transformed(hidden, weights, config, gelu=F.gelu):
    t = gelu(linear(hidden, *weights.transform))
    return layer_norm(t, *weights.norm, config.layer_norm_eps)


@MLM_LOGITS.mistake(
    a_word_of_zeros_has_its_bias,
    a_bias_moves_one_logit,
    the_word_table_and_its_bias_have_products_for_gradients,
)
def no_output_bias(hidden, weights, words, config):
    return mlm_logits(hidden, weights._replace(bias_V=0 * weights.bias_V), words, config)


@MLM_LOGITS.mistake(
    a_word_of_zeros_has_its_bias,
    a_bias_moves_one_logit,
    they_are_linear_in_the_words,
    source="https://github.com/huggingface/transformers/issues/2957",
)
def bias_added_twice(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words, config) + weights.bias_V


@MLM_LOGITS.mistake(unit_words_show_a_normalised_state, the_name_chooses_the_gelu)
def no_transform(hidden, weights, words, config):
    return linear(hidden, words, weights.bias_V)


@MLM_LOGITS.mistake(
    unit_words_show_a_normalised_state, a_logit_is_the_transformed_state_times_the_word
)
def no_norm_in_the_head(hidden, weights, words, config):
    return linear(F.gelu(linear(hidden, *weights.transform)), words, weights.bias_V)


@MLM_LOGITS.mistake(unit_words_show_a_normalised_state, they_are_torchs_linear_gelu_norm_linear)
def norm_before_gelu(hidden, weights, words, config):
    t = layer_norm(linear(hidden, *weights.transform), *weights.norm, config.layer_norm_eps)
    return linear(F.gelu(t), words, weights.bias_V)


@MLM_LOGITS.mistake(the_name_chooses_the_gelu, they_are_torchs_linear_gelu_norm_linear)
def tanh_form_always(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words, TANH)


@MLM_LOGITS.mistake(the_name_chooses_the_gelu)
def erf_form_always(hidden, weights, words, config):
    act = dataclasses.replace(config, hidden_act="gelu")
    return mlm_logits(hidden, weights, words, act)


@MLM_LOGITS.mistake(
    the_name_chooses_the_gelu,
    its_slope_is_that_of_the_transformed_state_times_the_word,
    source="https://github.com/d2l-ai/d2l-en/blob/000a7ca22d8b23362c8d8557197ae0616b28a3dc/"
    "chapter_natural-language-processing-pretraining/bert.md",
)
def relu_for_gelu(hidden, weights, words, config):
    t = transformed(hidden, weights, config, torch.relu)
    return linear(t, words, weights.bias_V)


@MLM_LOGITS.mistake(the_eps_of_the_config_counts)
def eps_of_pytorch_in_the_head(hidden, weights, words, config):
    other = dataclasses.replace(config, layer_norm_eps=1e-5)
    return mlm_logits(hidden, weights, words, other)


@MLM_LOGITS.mistake(they_are_linear_in_the_words)
def words_normalised(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words / words.norm(dim=-1, keepdim=True), config)


@MLM_LOGITS.mistake(words_may_be_renumbered, they_are_linear_in_the_words)
def a_decoder_of_its_own(hidden, weights, words, config):
    """Not tied: a second matrix of the same shape, whatever the word table holds."""
    other = normal(5, *words.shape).to(words.dtype)
    return linear(transformed(hidden, weights, config), other, weights.bias_V)


@MLM_LOGITS.mistake(each_token_is_read_alone)
def statistics_over_tokens(hidden, weights, words, config):
    return mlm_logits(hidden - hidden.mean(1, keepdim=True), weights, words, config)


@MLM_LOGITS.mistake(chosen_tokens_have_the_logits_they_have_among_all)
def statistics_over_the_batch(hidden, weights, words, config):
    return mlm_logits(hidden - hidden.mean(0, keepdim=True), weights, words, config)


@MLM_LOGITS.mistake(
    logits_are_exact_up_to_the_rounding_of_each_step,
    a_logit_is_the_transformed_state_times_the_word,
)
def words_in_eight_bits(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words.to(torch.float8_e4m3fn).to(words.dtype), config)


@MLM_LOGITS.mistake(
    the_word_table_and_its_bias_have_products_for_gradients,
    its_slope_is_that_of_the_transformed_state_times_the_word,
)
def word_table_not_trained(hidden, weights, words, config):
    return mlm_logits(hidden, weights, words.detach(), config)


# --------------------------------------------- heads that are one linear map: nsp, sequence, token


def nsp_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (B, D), 2, scale, offset)


def sequence_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (B, D), draw.choice([C, 1, 2]), scale, offset)


def token_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (B, S, D), draw.choice([C, 1]), scale, offset)


NSP_LOGITS = Proof(nsp_logits, nsp_case)
SEQUENCE_LOGITS = Proof(sequence_logits, sequence_case)
TOKEN_LOGITS = Proof(token_logits, token_case)


def spec_of_map(x, weight, bias):
    return over_rows(spec.linear, x, weight, bias)


@NSP_LOGITS.spec
@SEQUENCE_LOGITS.spec
@TOKEN_LOGITS.spec
def a_logit_is_a_row_times_the_vector_and_a_bias(formula, case):
    expected = as_tensor(spec_of_map(case.x.tolist(), *wide_lists(case.weights)))
    return distance(formula(*case), expected, map_bound(case)), 1


@NSP_LOGITS.reference
@SEQUENCE_LOGITS.reference
@TOKEN_LOGITS.reference
def they_are_torchs_linear_map(formula, case):
    return distance(formula(*case), F.linear(case.x, *case.weights), map_bound(case)), 2


@NSP_LOGITS.law
@SEQUENCE_LOGITS.law
@TOKEN_LOGITS.law
def row_c_is_class_c(formula, case):
    """A number added to the bias of one row moves that logit, and no other."""
    for c in range(len(case.weights.bias_O)):
        bias = case.weights.bias_O.clone()
        bias[c] = 1e3
        moved = formula(case.x, case.weights._replace(bias_O=bias)) != formula(*case)
        expected = torch.zeros_like(moved)
        expected[..., c] = True
        if not torch.equal(moved, expected):
            return 1, 0
    return 0, 0


@NSP_LOGITS.law
@SEQUENCE_LOGITS.law
@TOKEN_LOGITS.law
def vectors_are_scored_alone(formula, case):
    """The first one keeps its bits when all others change, in its sentence too if it has one."""
    moved, first = -3 * case.x, (0,) * (case.x.ndim - 1)
    moved[first] = case.x[first]
    return differing(formula(moved, case.weights)[first], formula(*case)[first]), 0


@NSP_LOGITS.law
@SEQUENCE_LOGITS.law
@TOKEN_LOGITS.law
def they_are_logits_and_no_probabilities(formula, case):
    """Doubling the head doubles them. A power of two leaves every digit in place."""
    doubled = LinearWeights(*(2 * part for part in case.weights))
    return differing(formula(case.x, doubled), 2 * formula(*case)), 0


@NSP_LOGITS.law
def logit_0_says_that_it_follows(formula, case):
    """A head whose row 1 is the negative of row 0: class 0 wins where logit 0 is > 0."""
    row, bias = case.weights.weight_OI[0], case.weights.bias_O[0]
    head = LinearWeights(torch.stack((row, -row)), torch.stack((bias, -bias)))
    wins = formula(case.x, head).argmax(-1) == 0
    return differing(wins, linear(case.x, *head)[:, 0] > 0), 0


@NSP_LOGITS.gradient
@SEQUENCE_LOGITS.gradient
@TOKEN_LOGITS.gradient
def their_gradients_are_products(formula, case):
    """dx = u W, dW = Σ u xᵀ, db = Σ u"""
    upstream = normal(8, *case.x.shape[:-1], len(case.weights.bias_O))
    rows, x = upstream.reshape(-1, upstream.shape[-1]), case.x.reshape(-1, D)
    found = gradients(
        lambda x, *parts: formula(x, LinearWeights(*parts)), [case.x, *case.weights], upstream
    )
    closed = upstream @ case.weights.weight_OI, rows.T @ x, rows.sum(0)
    return sum(map(distance, found, closed)), 500 * EPS


@NSP_LOGITS.gradient(cost=3)
@SEQUENCE_LOGITS.gradient(cost=3)
@TOKEN_LOGITS.gradient(cost=6)
def their_slope_is_that_of_rows_times_vectors(formula, case):
    return slopes(
        lambda x, *parts: formula(x, LinearWeights(*parts)),
        spec_of_map,
        [case.x, *case.weights],
    )


def twin_of_map(x, weights):
    return F.linear(x, *weights)


@NSP_LOGITS.accuracy(hard_inputs(nsp_case), torch_twin=twin_of_map)
@SEQUENCE_LOGITS.accuracy(hard_inputs(sequence_case), torch_twin=twin_of_map)
@TOKEN_LOGITS.accuracy(hard_inputs(token_case), torch_twin=twin_of_map)
def they_are_exact_up_to_the_size_of_their_terms(formula, case):
    lists = case.x.double().tolist(), *wide_lists(case.weights)
    return distance(formula(*case), as_tensor(spec_of_map(*lists)), map_bound(case)), 1


# ------------------------------------------------------------------- regression, multiple choice


class ChoiceCase(NamedTuple):
    x: Tensor
    weights: LinearWeights
    n_choices: int


def regression_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (draw.choice([B, 1]), D), 1, scale, offset)


def choice_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> ChoiceCase:
    """Two questions of three or four choices; or one question; or a single choice each."""
    texts, n_choices = draw.choice([(6, 3), (6, 3), (8, 4), (3, 3), (5, 1)])
    return ChoiceCase(*head_case(draw, (texts, D), 1, scale, offset), n_choices)


REGRESSION_VALUES = Proof(regression_values, regression_case)
MULTIPLE_CHOICE_LOGITS = Proof(multiple_choice_logits, choice_case)


def spec_of_values(x, weight, bias):
    return [spec.linear(p, weight, bias)[0] for p in x]


def spec_of_choices(case, x, weight, bias):
    return spec.multiple_choice_logits(x, (weight, bias), case.n_choices)


@REGRESSION_VALUES.spec
def a_value_is_one_row_times_the_vector_and_a_bias(formula, case):
    expected = as_tensor(spec_of_values(case.x.tolist(), *wide_lists(case.weights)))
    return distance(formula(*case), expected, map_bound(case)[:, 0]), 1


@REGRESSION_VALUES.reference
def it_is_torchs_linear_map_of_one_row(formula, case):
    expected = F.linear(case.x, *case.weights).squeeze(-1)
    return distance(formula(*case), expected, map_bound(case)[:, 0]), 2


@REGRESSION_VALUES.law
def a_text_has_its_value_whatever_the_others_are(formula, case):
    both = torch.cat((case.x, 100 * case.x.flip(0)))
    found = formula(both, case.weights)[: len(case.x)]
    return distance(found, formula(*case), map_bound(case)[:, 0]), 2


@REGRESSION_VALUES.law
def it_is_linear_and_no_probability(formula, case):
    doubled = LinearWeights(*(2 * part for part in case.weights))
    return differing(formula(case.x, doubled), 2 * formula(*case)), 0


@REGRESSION_VALUES.law
def a_vector_of_zeros_has_the_bias(formula, case):
    y = formula(0 * case.x, case.weights)
    return differing(y, case.weights.bias_O.expand(len(case.x))), 0


@REGRESSION_VALUES.law
def each_value_meets_its_own_label_alone(formula, case):
    """The mean squared error against labels [B] is that of the texts one at a time."""
    labels = normal(6, len(case.x))
    together = (formula(*case) - labels).square().mean()
    alone = [formula(case.x[i : i + 1], case.weights) - labels[i] for i in range(len(case.x))]
    size = 1 + case.x.abs().sum() * case.weights.weight_OI.abs().max() + labels.abs().max()
    return distance(together, torch.stack(alone).square().mean(), size * size), 32 * EPS


@REGRESSION_VALUES.gradient
def its_gradients_are_sums_over_texts(formula, case):
    upstream = normal(8, len(case.x))
    found = gradients(
        lambda x, *parts: formula(x, LinearWeights(*parts)), [case.x, *case.weights], upstream
    )
    closed = upstream[:, None] * case.weights.weight_OI, (upstream @ case.x)[None], upstream.sum()
    return sum(map(distance, found, (*closed[:2], closed[2][None]))), 200 * EPS


@REGRESSION_VALUES.gradient(cost=3)
def its_slope_is_that_of_one_row(formula, case):
    return slopes(
        lambda x, *parts: formula(x, LinearWeights(*parts)),
        spec_of_values,
        [case.x, *case.weights],
    )


@REGRESSION_VALUES.accuracy(
    hard_inputs(regression_case), torch_twin=lambda x, weights: F.linear(x, *weights)[:, 0]
)
def a_value_is_exact_up_to_the_size_of_its_terms(formula, case):
    lists = case.x.double().tolist(), *wide_lists(case.weights)
    return distance(formula(*case), as_tensor(spec_of_values(*lists)), map_bound(case)[:, 0]), 1


def choice_bound(case: ChoiceCase) -> Tensor:
    return map_bound(case).view(-1, case.n_choices)


@MULTIPLE_CHOICE_LOGITS.spec
def choice_c_of_question_q_is_text_qc_plus_c(formula, case):
    lists = case.x.tolist(), *wide_lists(case.weights)
    return distance(formula(*case), as_tensor(spec_of_choices(case, *lists)), choice_bound(case)), 1


@MULTIPLE_CHOICE_LOGITS.reference
def it_is_torchs_linear_map_in_rows_of_choices(formula, case):
    expected = F.linear(case.x, *case.weights).view(-1, case.n_choices)
    return distance(formula(*case), expected, choice_bound(case)), 2


@MULTIPLE_CHOICE_LOGITS.law
def choices_of_a_question_follow_one_another(formula, case):
    """Swapping the last two choices of the last question swaps their logits and no others."""
    if case.n_choices < 2:
        return 0, 0
    order = torch.arange(len(case.x))
    order[-2:] = order[-2:].flip(0)
    expected = formula(*case).clone()
    expected[-1, -2:] = expected[-1, -2:].flip(0)
    moved = formula(*case._replace(x=case.x[order]))
    return distance(moved, expected, choice_bound(case).amax()), 2


@MULTIPLE_CHOICE_LOGITS.law
def a_common_bias_leaves_the_choice(formula, case):
    moved = case.weights._replace(bias_O=case.weights.bias_O + 7)
    found = torch.softmax(formula(*case._replace(weights=moved)), -1)
    return distance(found, torch.softmax(formula(*case), -1)), 200 * EPS


@MULTIPLE_CHOICE_LOGITS.law
def every_text_has_the_value_it_has_alone(formula, case):
    values = regression_values(case.x, case.weights)
    return differing(formula(*case).reshape(-1), values), 0


@MULTIPLE_CHOICE_LOGITS.gradient
def a_question_trains_the_texts_that_are_its_choices(formula, case):
    upstream = normal(8, len(case.x) // case.n_choices, case.n_choices)
    found = gradients(
        lambda x, *parts: formula(x, LinearWeights(*parts), case.n_choices),
        [case.x, *case.weights],
        upstream,
    )
    flat = upstream.reshape(-1)
    closed = flat[:, None] * case.weights.weight_OI, (flat @ case.x)[None], flat.sum()[None]
    return sum(map(distance, found, closed)), 200 * EPS


@MULTIPLE_CHOICE_LOGITS.gradient(cost=3)
def its_slope_is_that_of_the_rows_of_choices(formula, case):
    return slopes(
        lambda x, *parts: formula(x, LinearWeights(*parts), case.n_choices),
        lambda *parts: spec_of_choices(case, *parts),
        [case.x, *case.weights],
    )


@MULTIPLE_CHOICE_LOGITS.accuracy(
    hard_inputs(choice_case),
    torch_twin=lambda x, weights, n: F.linear(x, *weights).view(-1, n),
)
def a_choice_is_exact_up_to_the_size_of_its_terms(formula, case):
    lists = case.x.double().tolist(), *wide_lists(case.weights)
    return distance(formula(*case), as_tensor(spec_of_choices(case, *lists)), choice_bound(case)), 1


# ---------------------------------------------------- dropout in front of a head, and the mistakes


@SEQUENCE_LOGITS.law
@TOKEN_LOGITS.law
@REGRESSION_VALUES.law
@MULTIPLE_CHOICE_LOGITS.law
def dropout_falls_on_the_input(formula, case):
    x, rest = case.x, case[1:]
    dropped = formula(dropout(x, 0.5, fresh(3)), *rest)
    return differing(formula(x, *rest, 0.5, fresh(3)), dropped), 0


@SEQUENCE_LOGITS.law
@TOKEN_LOGITS.law
@REGRESSION_VALUES.law
@MULTIPLE_CHOICE_LOGITS.law
def nothing_is_dropped_without_both_a_rate_and_a_generator(formula, case):
    plain = formula(*case)
    error = differing(formula(*case, 0.5), plain)
    return error + differing(formula(*case, 0.0, fresh(3)), plain), 0


@SEQUENCE_LOGITS.mistake(dropout_falls_on_the_input)
@TOKEN_LOGITS.mistake(dropout_falls_on_the_input)
def dropout_on_the_logits(x, weights, rate=0.0, generator=None):
    return dropout(linear(x, *weights), rate, generator)


@SEQUENCE_LOGITS.mistake(
    nothing_is_dropped_without_both_a_rate_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
@TOKEN_LOGITS.mistake(
    nothing_is_dropped_without_both_a_rate_and_a_generator,
    source="https://github.com/karpathy/nanoGPT/pull/240",
)
def dropout_in_evaluation(x, weights, rate=0.0, generator=None):
    return linear(dropout(x, rate, generator or fresh(1)), *weights)


@NSP_LOGITS.mistake(
    row_c_is_class_c,
    logit_0_says_that_it_follows,
    they_are_torchs_linear_map,
    source="https://github.com/dhlee347/pytorchic-bert/blob/"
    "07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
)
@SEQUENCE_LOGITS.mistake(row_c_is_class_c, a_logit_is_a_row_times_the_vector_and_a_bias)
@TOKEN_LOGITS.mistake(row_c_is_class_c, a_logit_is_a_row_times_the_vector_and_a_bias)
def classes_exchanged(x, weights, rate=0.0, generator=None):
    return linear(x, *weights).flip(-1)


@NSP_LOGITS.mistake(they_are_logits_and_no_probabilities, they_are_torchs_linear_map)
@SEQUENCE_LOGITS.mistake(they_are_logits_and_no_probabilities, they_are_torchs_linear_map)
@TOKEN_LOGITS.mistake(they_are_logits_and_no_probabilities, they_are_torchs_linear_map)
def probabilities_for_logits(x, weights, rate=0.0, generator=None):
    return torch.softmax(linear(x, *weights), -1)


@NSP_LOGITS.mistake(row_c_is_class_c, a_logit_is_a_row_times_the_vector_and_a_bias)
@SEQUENCE_LOGITS.mistake(row_c_is_class_c)
@TOKEN_LOGITS.mistake(row_c_is_class_c)
def no_bias(x, weights, rate=0.0, generator=None):
    return x @ weights.weight_OI.T


@NSP_LOGITS.mistake(vectors_are_scored_alone)
@SEQUENCE_LOGITS.mistake(vectors_are_scored_alone)
@TOKEN_LOGITS.mistake(vectors_are_scored_alone)
def vectors_centred_over_the_batch(x, weights, rate=0.0, generator=None):
    return linear(x - x.mean(0), *weights)


@NSP_LOGITS.mistake(a_logit_is_a_row_times_the_vector_and_a_bias)
@SEQUENCE_LOGITS.mistake(a_logit_is_a_row_times_the_vector_and_a_bias)
@TOKEN_LOGITS.mistake(a_logit_is_a_row_times_the_vector_and_a_bias)
def relu_before_the_head(x, weights, rate=0.0, generator=None):
    """As TinyBERT's classifier does it."""
    return linear(torch.relu(x), *weights)


@TOKEN_LOGITS.mistake(vectors_are_scored_alone, a_logit_is_a_row_times_the_vector_and_a_bias)
def neighbours_logits(x, weights, rate=0.0, generator=None):
    return linear(x, *weights).roll(1, 1)


@NSP_LOGITS.mistake(their_gradients_are_products, their_slope_is_that_of_rows_times_vectors)
@SEQUENCE_LOGITS.mistake(their_gradients_are_products, their_slope_is_that_of_rows_times_vectors)
@TOKEN_LOGITS.mistake(their_gradients_are_products, their_slope_is_that_of_rows_times_vectors)
def encoder_not_trained(x, weights, rate=0.0, generator=None):
    return linear(x.detach(), *weights)


@NSP_LOGITS.mistake(they_are_exact_up_to_the_size_of_their_terms)
@SEQUENCE_LOGITS.mistake(they_are_exact_up_to_the_size_of_their_terms)
@TOKEN_LOGITS.mistake(they_are_exact_up_to_the_size_of_their_terms)
def head_in_eight_bits(x, weights, rate=0.0, generator=None):
    weight = weights.weight_OI.to(torch.float8_e4m3fn).to(x.dtype)
    return linear(x, weight, weights.bias_O)


@REGRESSION_VALUES.mistake(it_is_linear_and_no_probability, it_is_torchs_linear_map_of_one_row)
def squashed_to_0_and_1(x, weights, rate=0.0, generator=None):
    return torch.sigmoid(regression_values(x, weights))


@REGRESSION_VALUES.mistake(
    a_vector_of_zeros_has_the_bias, a_value_is_one_row_times_the_vector_and_a_bias
)
def value_without_bias(x, weights, rate=0.0, generator=None):
    return regression_values(x, weights) - weights.bias_O


@REGRESSION_VALUES.mistake(each_value_meets_its_own_label_alone)
def a_column_of_values(x, weights, rate=0.0, generator=None):
    """[B, 1] for [B]: a loss against [B] then broadcasts to [B, B] without an error."""
    return linear(x, *weights)


@REGRESSION_VALUES.mistake(a_text_has_its_value_whatever_the_others_are)
def ranked_among_the_batch(x, weights, rate=0.0, generator=None):
    values = regression_values(x, weights)
    return values - values.mean()


@REGRESSION_VALUES.mistake(dropout_falls_on_the_input)
def dropout_on_the_value(x, weights, rate=0.0, generator=None):
    return dropout(regression_values(x, weights), rate, generator)


@REGRESSION_VALUES.mistake(nothing_is_dropped_without_both_a_rate_and_a_generator)
def value_with_dropout_in_evaluation(x, weights, rate=0.0, generator=None):
    return regression_values(x, weights, rate, generator or fresh(1))


@REGRESSION_VALUES.mistake(a_value_is_exact_up_to_the_size_of_its_terms)
def value_in_eight_bits(x, weights, rate=0.0, generator=None):
    weight = weights.weight_OI.to(torch.float8_e4m3fn).to(x.dtype)
    return regression_values(x, weights._replace(weight_OI=weight))


@REGRESSION_VALUES.mistake(its_gradients_are_sums_over_texts, its_slope_is_that_of_one_row)
def last_text_not_trained(x, weights, rate=0.0, generator=None):
    return regression_values(torch.cat((x[:-1], x[-1:].detach())), weights)


@MULTIPLE_CHOICE_LOGITS.mistake(
    choices_of_a_question_follow_one_another,
    choice_c_of_question_q_is_text_qc_plus_c,
    every_text_has_the_value_it_has_alone,
)
def questions_follow_one_another(x, weights, n_choices, rate=0.0, generator=None):
    return linear(x, *weights)[:, 0].view(n_choices, -1).T


@MULTIPLE_CHOICE_LOGITS.mistake(
    a_common_bias_leaves_the_choice, it_is_torchs_linear_map_in_rows_of_choices
)
def one_sigmoid_a_choice(x, weights, n_choices, rate=0.0, generator=None):
    return torch.sigmoid(multiple_choice_logits(x, weights, n_choices))


@MULTIPLE_CHOICE_LOGITS.mistake(choice_c_of_question_q_is_text_qc_plus_c)
def softmax_over_the_questions(x, weights, n_choices, rate=0.0, generator=None):
    return torch.log_softmax(multiple_choice_logits(x, weights, n_choices), 0)


@MULTIPLE_CHOICE_LOGITS.mistake(dropout_falls_on_the_input)
def dropout_on_the_choices(x, weights, n_choices, rate=0.0, generator=None):
    return dropout(multiple_choice_logits(x, weights, n_choices), rate, generator)


@MULTIPLE_CHOICE_LOGITS.mistake(nothing_is_dropped_without_both_a_rate_and_a_generator)
def choices_dropped_in_evaluation(x, weights, n_choices, rate=0.0, generator=None):
    return multiple_choice_logits(x, weights, n_choices, rate, generator or fresh(1))


@MULTIPLE_CHOICE_LOGITS.mistake(a_choice_is_exact_up_to_the_size_of_its_terms)
def choices_in_eight_bits(x, weights, n_choices, rate=0.0, generator=None):
    weight = weights.weight_OI.to(torch.float8_e4m3fn).to(x.dtype)
    return multiple_choice_logits(x, weights._replace(weight_OI=weight), n_choices)


@MULTIPLE_CHOICE_LOGITS.mistake(
    a_question_trains_the_texts_that_are_its_choices, its_slope_is_that_of_the_rows_of_choices
)
def only_the_first_choice_trained(x, weights, n_choices, rate=0.0, generator=None):
    y = multiple_choice_logits(x, weights, n_choices)
    first = multiple_choice_logits(x[:1].expand_as(x), weights, n_choices)
    return y.detach() + first - first.detach()


# ----------------------------------------------------------------------------------- span_logits


def span_case(draw: Draw, scale: float = 1.0, offset: float = 0.0) -> HeadCase:
    return head_case(draw, (B, S, D), 2, scale, offset)


SPAN_LOGITS = Proof(span_logits, span_case)


def spec_of_spans(x, weight, bias):
    """[B][2][S]: starts, then ends."""
    return [list(spec.span_logits(row, (weight, bias))) for row in x]


def both_of(formula, case):
    """float [B, 2, S]"""
    return torch.stack(tuple(formula(*case)), 1)


def span_bound(case: HeadCase) -> Tensor:
    return map_bound(case).mT


@SPAN_LOGITS.spec
def starts_are_row_0_and_ends_are_row_1(formula, case):
    expected = as_tensor(spec_of_spans(case.x.tolist(), *wide_lists(case.weights)))
    return distance(both_of(formula, case), expected, span_bound(case)), 1


@SPAN_LOGITS.reference
def they_are_torchs_linear_map_cut_in_two(formula, case):
    expected = F.linear(case.x, *case.weights).split(1, -1)
    expected = torch.stack([part.squeeze(-1) for part in expected], 1)
    return distance(both_of(formula, case), expected, span_bound(case)), 2


@SPAN_LOGITS.law
def row_0_is_the_start(formula, case):
    x, (weight, bias) = case
    start, end = formula(x, LinearWeights(weight, bias + as_tensor([5, 0])))
    plain_start, plain_end = formula(*case)
    error = distance(start, plain_start + 5, span_bound(case)[:, 0] + 16 * EPS)
    return error + differing(end, plain_end), 2


@SPAN_LOGITS.law
def exchanged_rows_exchange_start_and_end(formula, case):
    turned = LinearWeights(*(part.flip(0) for part in case.weights))
    start, end = formula(case.x, turned)
    found = torch.stack((end, start), 1)
    return distance(found, both_of(formula, case), span_bound(case)), 2


@SPAN_LOGITS.law
def tokens_are_scored_alone(formula, case):
    order = order_of(S)
    moved = both_of(formula, case._replace(x=case.x[:, order]))
    bound = span_bound(case)[..., order]
    return distance(moved, both_of(formula, case)[..., order], bound), 2


@SPAN_LOGITS.law
def they_are_logits_of_every_token(formula, case):
    """Doubling the head doubles them: no softmax over the tokens, and no token hidden."""
    doubled = case._replace(weights=LinearWeights(*(2 * part for part in case.weights)))
    return differing(both_of(formula, doubled), 2 * both_of(formula, case)), 0


@SPAN_LOGITS.gradient
def gradients_of_start_and_end_are_products(formula, case):
    """dx = u_0 w_0 + u_1 w_1, dw_i = Σ u_i x, db_i = Σ u_i"""
    upstream, w = normal(8, B, 2, S), case.weights
    found = gradients(
        lambda x, *parts: both_of(formula, HeadCase(x, LinearWeights(*parts))),
        [case.x, *w],
        upstream,
    )
    closed = (
        torch.einsum("bis,id->bsd", upstream, w.weight_OI),
        torch.einsum("bis,bsd->id", upstream, case.x),
        upstream.sum((0, 2)),
    )
    return sum(map(distance, found, closed)), 500 * EPS


@SPAN_LOGITS.gradient(cost=6)
def their_slope_is_that_of_two_rows(formula, case):
    return slopes(
        lambda x, *parts: both_of(formula, HeadCase(x, LinearWeights(*parts))),
        spec_of_spans,
        [case.x, *case.weights],
    )


@SPAN_LOGITS.accuracy(hard_inputs(span_case))
def start_and_end_are_exact_up_to_the_size_of_their_terms(formula, case):
    lists = case.x.double().tolist(), *wide_lists(case.weights)
    expected = as_tensor(spec_of_spans(*lists))
    return distance(both_of(formula, case), expected, span_bound(case)), 1


@SPAN_LOGITS.mistake(
    row_0_is_the_start, starts_are_row_0_and_ends_are_row_1, they_are_torchs_linear_map_cut_in_two
)
def start_and_end_exchanged(x, weights):
    return span_logits(x, weights)[::-1]


@SPAN_LOGITS.mistake(row_0_is_the_start, exchanged_rows_exchange_start_and_end)
def end_for_both(x, weights):
    return span_logits(x, weights)[1], span_logits(x, weights)[1]


@SPAN_LOGITS.mistake(tokens_are_scored_alone)
def later_tokens_favoured(x, weights):
    start, end = span_logits(x, weights)
    return start + torch.arange(S), end


@SPAN_LOGITS.mistake(they_are_logits_of_every_token)
def log_probabilities(x, weights):
    return tuple(torch.log_softmax(part, -1) for part in span_logits(x, weights))


@SPAN_LOGITS.mistake(starts_are_row_0_and_ends_are_row_1)
def cut_along_the_tokens(x, weights):
    """Cut into halves of the row where the last axis should move to the front."""
    y = linear(x, *weights).view(len(x), 2, -1)
    return y[:, 0], y[:, 1]


@SPAN_LOGITS.mistake(start_and_end_are_exact_up_to_the_size_of_their_terms)
def spans_in_eight_bits(x, weights):
    weight = weights.weight_OI.to(torch.float8_e4m3fn).to(x.dtype)
    return span_logits(x, weights._replace(weight_OI=weight))


@SPAN_LOGITS.mistake(gradients_of_start_and_end_are_products, their_slope_is_that_of_two_rows)
def ends_not_trained(x, weights):
    start, end = span_logits(x, weights)
    return start, end.detach()
