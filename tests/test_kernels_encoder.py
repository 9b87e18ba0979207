"""The encoder without padding: packing, attention and the whole of it against the book."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proof import assert_holds, drawn, fewer
from test_kernels_products import kept_bytes
from tiny import classifier
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from minibert import encoder as book
from minibert.attention import (
    attention_probabilities,
    attention_scores,
    merge_heads,
    padding_bias,
    split_heads,
)
from minibert.kernels import attention as attention_kernels
from minibert.kernels import encoder as kernels
from minibert.kernels import packing as packing_kernels
from minibert.kernels import products
from minibert.kernels.attention import attention
from minibert.kernels.encoder import encode, encode_first, encode_traced, prepared
from minibert.kernels.packing import GROUP_SPREAD, packed, unpacked
from minibert.kernels.products import arithmetic
from minibert.laws import encoder as laws
from minibert.laws import rounding
from minibert.laws.attention import parts_of, rounded_attention, with_parts
from minibert.laws.encoder import BlockCase, Case, block_bound, case_of, encode_bound
from minibert.laws.law import RandomDraw, in_dtype
from minibert.laws.measure import differing, distance, fresh, gradients, normal
from minibert.parameters import named_tensors
from minibert.training.trainable import Trainable

WAYS = ["torch", "onednn"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """With oneDNN every product of float32, however small."""
    monkeypatch.setattr(products, "SMALL", 0)
    with arithmetic(request.param):
        yield request.param


# -------------------------------------------------------------------------------------- packing


@st.composite
def any_keep(draw: st.DrawFn, least: int = 0) -> Tensor:
    """bool [B, S] with gaps, empty rows and full ones; `least` tokens in each row."""
    rows, places = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    keep = torch.tensor(draw(st.lists(st.integers(0, 2**places - 1), min_size=rows, max_size=rows)))
    keep = (keep[:, None] >> torch.arange(places)) % 2 == 1
    kind = draw(st.sampled_from(["gaps", "gaps", "ends", "all", "none"]))
    if kind == "ends":
        keep = keep.sort(1, descending=True).values
    elif kind != "gaps":
        keep = torch.full_like(keep, kind == "all")
    keep[:, :least] = True
    return keep


def assert_packs(keep_BS: Tensor) -> None:
    """Every kept token once, each sentence in one piece and in order, the groups side by side."""
    packing = packed(keep_BS)
    rows, places = keep_BS.shape
    everywhere = torch.arange(rows * places)
    kept = everywhere[keep_BS.reshape(-1)]
    run = everywhere if packing.places_T is None else packing.places_T
    assert run.sort().values.tolist() == kept.tolist()
    start, seen = 0, []
    for group in packing.groups:
        assert group.start == start
        start = group.end
        found = run[group.start : group.end]
        row, lengths = (found // places).unique_consecutive(return_counts=True)
        assert len(row) == group.sentences
        assert int(lengths.max()) == group.length <= GROUP_SPREAD * int(lengths.min())
        for one in found.split(lengths.tolist()):
            assert one.tolist() == one.sort().values.tolist()
        seen += row.tolist()
        if group.places_Q is None:
            assert (lengths == group.length).all()
            assert group.tokens_t is group.bias_n11R is None
            continue
        within_nR = torch.arange(group.length).expand(len(row), -1)
        kept_nR = within_nR < lengths[:, None]
        places_nR = group.places_Q.view_as(kept_nR)
        assert places_nR[kept_nR].tolist() == list(range(len(found)))
        assert group.places_Q[group.tokens_t].tolist() == list(range(len(found)))
        assert kept_nR.reshape(-1)[group.tokens_t].all()
        assert torch.equal(places_nR.gather(1, (lengths - 1)[:, None]), places_nR[:, -1:])
        assert differing(group.bias_n11R[:, 0, 0], padding_bias(kept_nR)[:, 0, 0]) == 0
    assert start == len(run)
    assert sorted(seen) == keep_BS.any(1).nonzero()[:, 0].tolist(), "a row is in one group alone"


@given(any_keep())
def test_packing_keeps_every_token_once_and_in_order(keep_BS):
    assert_packs(keep_BS)


def assert_unpacks(keep_BS: Tensor) -> None:
    packing = packed(keep_BS)
    x_BSD = normal(1, *keep_BS.shape, 3)
    x_XD = x_BSD.flatten(0, 1)
    run_TD = x_XD if packing.places_T is None else x_XD[packing.places_T]
    again_BSD = kernels.unpacked(run_TD, packing)
    assert differing(again_BSD, torch.where(keep_BS[:, :, None], x_BSD, 0)) == 0


@given(any_keep())
def test_unpacking_undoes_it_and_leaves_zeros(keep_BS):
    assert_unpacks(keep_BS)


@given(any_keep(least=1))
def test_rows_and_first_tokens_are_found_again(keep_BS):
    packing, device = packed(keep_BS), torch.device("cpu")
    rows, places = keep_BS.shape
    place_T = torch.arange(rows * places) if packing.places_T is None else packing.places_T
    assert packing.row_T(device).tolist() == (place_T // places).tolist()
    assert place_T[packing.first_B(device)].tolist() == (torch.arange(rows) * places).tolist()


def test_one_length_needs_no_padding_and_two_lengths_little():
    assert packed(torch.ones(4, 5, dtype=torch.bool)).places_T is None
    lengths = torch.tensor([9, 2, 4, 5, 1, 0, 9])
    groups = packed(torch.arange(9) < lengths[:, None]).groups
    assert [(group.sentences, group.length) for group in groups] == [(2, 2), (2, 5), (2, 9)]
    assert [group.places_Q is None for group in groups] == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_a_mask_that_is_not_boolean_is_refused(dtype):
    message = rf"^packed: keep has dtype {dtype}, but must be torch\.bool$"
    with pytest.raises(ValueError, match=message):
        packed(torch.ones(2, 3, dtype=dtype))


# ------------------------------------------------------------------------------------ attention

N, K = 2, 3
D = N * K
RAGGED = torch.arange(9) < torch.tensor([9, 2, 4, 5, 1, 0, 9])[:, None]
RAGGED[0, 3] = False


def of_rows(keep_BS: Tensor, core: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """As a function of queries, keys and values [B, S, 3 D]; what is hidden stays 0."""

    def formula(qkv_BS3D: Tensor) -> Tensor:
        packing = packed(keep_BS, qkv_BS3D.dtype)
        run = qkv_BS3D.flatten(0, 1)
        run = run if packing.places_T is None else run[packing.places_T]
        return unpacked(core(run, packing, N), packing)

    return formula


def of_book(keep_BS: Tensor) -> Callable[[Tensor], Tensor]:
    def formula(qkv_BS3D: Tensor) -> Tensor:
        query, key, value = (split_heads(part, N) for part in qkv_BS3D.chunk(3, -1))
        bias = padding_bias(keep_BS, qkv_BS3D.dtype)
        context = attention_probabilities(attention_scores(query, key), bias) @ value
        return torch.where(keep_BS[:, :, None], merge_heads(context), 0)

    return formula


def attention_bound(qkv_BS3D: Tensor, keep_BS: Tensor) -> Tensor:
    parts = (rounding.exact(split_heads(part, N)) for part in qkv_BS3D.chunk(3, -1))
    return merge_heads(rounded_attention(*parts, padding_bias(keep_BS, torch.float64)).error)


def assert_attends(keep_BS: Tensor, dtype: torch.dtype, scale: float = 1.0) -> None:
    """Each of two results is right to the bound of the law."""
    qkv = normal(2, *keep_BS.shape, 3 * D, scale=scale).to(dtype)
    expected, bound = of_book(keep_BS)(qkv.double()), attention_bound(qkv, keep_BS)
    for asked in (False, True):  # with a gradient another way is taken
        found = of_rows(keep_BS, attention)(qkv.requires_grad_(asked))
        assert found.dtype == dtype
        assert distance(found, expected, bound) <= 2


def assert_attention_learns(keep_BS: Tensor) -> None:
    qkv, upstream = normal(2, *keep_BS.shape, 3 * D), normal(3, *keep_BS.shape, D)
    (found,) = gradients(of_rows(keep_BS, attention), [qkv], upstream)
    (expected,) = gradients(of_book(keep_BS), [qkv], upstream)
    assert distance(found, expected, expected.abs().max()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_is_the_books_for_every_sentence(dtype):
    @fewer(2)
    @given(any_keep(least=1), st.sampled_from([1e-3, 1.0, 6.0]))
    def holds(keep_BS, scale):
        assert_attends(keep_BS, dtype, scale)

    holds()
    assert_attends(RAGGED, dtype)


def test_the_gradient_of_attention_is_the_books():
    @fewer(2)
    @given(any_keep(least=1))
    def holds(keep_BS):
        assert_attention_learns(keep_BS)

    holds()
    assert_attention_learns(RAGGED)


def test_pieces_that_fit_the_cache_give_the_whole(monkeypatch):
    monkeypatch.setattr(attention_kernels, "CACHED_SCORES", 1)
    assert_attends(RAGGED, torch.float64)


def assert_one_mask() -> None:
    """Differences of the forward pass, its generator seeded again, against the gradient."""
    packing = packed(RAGGED[1:5, :5], torch.float64)
    qkv_T3D = normal(4, int(RAGGED[1:5, :5].sum()), 3 * D).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda qkv: attention_kernels.attention(qkv, packing, N, 0.4, fresh(1)), qkv_T3D
    )


def test_forward_and_backward_drop_the_same():
    assert_one_mask()


def test_dropout_falls_on_probabilities_and_is_linear_in_values():
    """One token alone takes 1 from itself: its value comes out scaled or not at all, by heads."""
    packing, rate = packed(torch.ones(2000, 1, dtype=torch.bool)), 0.3
    qkv_T3D = normal(5, 2000, 3 * D)
    for asked in (False, True):
        y = attention(qkv_T3D.requires_grad_(asked), packing, N, rate, fresh(1)).detach()
        ratio_TNK = (y / qkv_T3D[:, 2 * D :]).view(-1, N, K)
        kept_TN = ratio_TNK[..., 0] != 0
        expected = kept_TN[..., None].double().expand_as(ratio_TNK) / (1 - rate)
        assert distance(ratio_TNK, expected) <= 1e-14
        sigma = (rate * (1 - rate) / kept_TN.numel()) ** 0.5
        assert abs(float(kept_TN.double().mean()) - (1 - rate)) <= 5 * sigma
    packing = packed(RAGGED, torch.float64)
    qkv_T3D = normal(6, int(RAGGED.sum()), 3 * D)
    doubled = torch.cat((qkv_T3D[:, : 2 * D], 2 * qkv_T3D[:, 2 * D :]), 1)
    once, twice = (attention(part, packing, N, rate, fresh(1)) for part in (qkv_T3D, doubled))
    assert differing(twice, 2 * once) == 0
    assert differing(attention(qkv_T3D, packing, N, rate), once) > 0
    assert differing(attention(qkv_T3D, packing, N, rate), attention(qkv_T3D, packing, N)) == 0


def test_attention_keeps_probabilities_and_its_input():
    qkv_T3D = normal(6, int(RAGGED.sum()), 3 * D).requires_grad_()
    packing = packed(RAGGED, torch.float64)
    scores = sum(N * group.sentences * group.length**2 for group in packing.groups)
    assert kept_bytes(lambda: attention(qkv_T3D, packing, N), [qkv_T3D]) == 8 * scores
    dropping = kept_bytes(lambda: attention(qkv_T3D, packing, N, 0.3, fresh(1)), [qkv_T3D])
    assert dropping <= 9 * scores + 8 * len(packing.groups), "and a byte for each draw"


# ------------------------------------------------------------------------- the laws of the book


def filled(y: Tensor, ids, keep, types, weights, config) -> Tensor:
    """The book's state at places that are not kept, where the kernel leaves 0."""
    states = book.encode(ids, keep, types, weights, config)
    return torch.where(keep[:, :, None], y, states.to(y.dtype))


def with_weights(ids, keep, types, weights, config, generator=None):
    y = kernels.encode(ids, keep, types, weights, config, generator)
    return filled(y, ids, keep, types, weights, config)


def with_prepared(ids, keep, types, weights, config, generator=None):
    y = kernels.encode(ids, keep, types, prepared(weights), config, generator)
    return filled(y, ids, keep, types, weights, config)


def traced(ids, keep, types, weights, config, generator=None):
    return encode_traced(ids, keep, types, weights, config, generator)


def traced_prepared(ids, keep, types, weights, config, generator=None):
    return encode_traced(ids, keep, types, prepared(weights), config, generator)


# Bits that hold in the book alone; in their place are the three tests with `all_but_rounding`.
BIT_FOR_BIT = {
    "other_rows_change_no_bit": "sentences are grouped by length, so products differ in size",
    "its_last_state_is_what_encode_returns": "padding is in one run of tokens and not in the other",
    "each_state_follows_from_the_one_before": "the book adds in another order",
    "the_state_between_is_input_plus_attention_normalised": "torch's layer norm is not the book's",
}
RUNS = [
    (laws.ENCODE, with_weights),
    (laws.ENCODE, with_prepared),
    (laws.ENCODE_TRACED, traced),
    (laws.ENCODE_TRACED, traced_prepared),
]


@pytest.mark.parametrize(
    ("law", "formula"),
    [
        pytest.param(law, formula, id=f"{formula.__name__}-{law.name}")
        for proof, formula in RUNS
        for law in proof.laws.values()
        if law.name not in BIT_FOR_BIT
        and not (law.layer == "gradient" and formula in (with_prepared, traced_prepared))
    ],
)
def test_every_law_of_the_book_holds(law, formula, way):
    @fewer(4 * law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, formula, case)

    holds()


@pytest.mark.parametrize("function", [encode, encode_traced])
def test_the_generator_decides_what_is_dropped(function):
    """The one law of dropout that does not ask for the very draws of the book."""
    law = laws.ENCODE_WITH_DROPOUT.laws["the_generator_decides_what_is_dropped"]

    @fewer(2 * law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, function, case)

    holds()


def test_every_exception_is_a_law():
    names = {name for proof, _ in RUNS for name in proof.laws}
    assert set(BIT_FOR_BIT) <= names


@pytest.mark.parametrize("formula", [with_weights, with_prepared])
def test_other_rows_change_nothing_but_rounding(formula, way):
    @fewer(8)
    @given(case=drawn(laws.in_two_precisions))
    def all_but_rounding(case):
        ids, keep, types = (part.clone() for part in case[:3])
        ids[1], keep[1], types[1] = (ids[1] + 7) % laws.V, True, 0
        changed = formula(*case._replace(ids=ids, keep=keep, types=types))
        bound = encode_bound(case)[0]
        assert distance(changed[0], formula(*case)[0], bound) <= 1

    all_but_rounding()


@pytest.mark.parametrize("formula", [traced, traced_prepared])
def test_each_state_follows_from_the_one_before_but_for_rounding(formula, way):
    @fewer(8)
    @given(case=drawn(laws.in_two_precisions))
    def all_but_rounding(case):
        trace, config = formula(*case), case.config
        assert len(trace.blocks) == len(case.weights.blocks)
        bias = padding_bias(case.keep, trace.embedded_BSD.dtype)
        for x, seen, w in zip(trace.hiddens_LBSD, trace.blocks, case.weights.blocks, strict=False):
            again = book.block(x, bias, w, config).hidden_BSD
            bound = block_bound(BlockCase(x, bias, w, config))
            assert distance(seen.hidden_BSD, again, bound) <= 1
            added = rounding.add(rounding.exact(x), rounding.exact(seen.attention.output_BSD))
            between = rounding.layer_norm(added, *w.attention_norm, config.layer_norm_eps)
            assert distance(seen.attended_BSD, between.value, between.error) <= 1

    all_but_rounding()


@pytest.mark.parametrize("formula", [traced, traced_prepared])
def test_the_last_state_is_what_encode_returns_but_for_rounding(formula, way):
    @fewer(8)
    @given(case=drawn(laws.in_two_precisions))
    def all_but_rounding(case):
        state = formula(*case).hidden_BSD
        assert distance(state, with_prepared(*case), encode_bound(case)) <= 1

    all_but_rounding()


# ------------------------------------------------------------------------------- the first token


def starting(case: Case) -> Case:
    """Every row keeps its first token."""
    keep = case.keep.clone()
    keep[:, 0] = True
    return case._replace(keep=keep)


@pytest.mark.parametrize("ready", [lambda weights: weights, prepared], ids=["book's", "prepared"])
def test_the_first_token_is_that_of_encode(ready, way):
    @fewer(4)
    @given(case=drawn(laws.in_two_precisions))
    def holds(case):
        case = starting(case)
        bound = encode_bound(case)[:, :1]
        first = encode_first(*case._replace(weights=ready(case.weights)))
        wide = in_dtype(parts_of(case.weights), torch.float64)
        exact = book.encode(*case._replace(weights=with_parts(case.weights, wide)))[:, :1]
        assert first.shape == exact.shape
        assert first.dtype == case.weights.embeddings.word_VD.dtype
        assert distance(first, exact, bound) <= 1

    holds()


def test_a_row_without_its_first_token_is_refused():
    case = starting(case_of(RandomDraw("refused")))
    case.keep[1, 0] = False
    with pytest.raises(ValueError, match=r"^encode_first: a row does not keep its first token"):
        encode_first(*case)


def test_the_first_token_draws_for_dropout():
    case = starting(case_of(RandomDraw("dropout")))
    dropping = case._replace(config=laws.with_rates(case.config, 0.3, 0.5))
    one, again, other = (encode_first(*dropping, fresh(seed)) for seed in (1, 1, 2))
    assert differing(one, again) == 0 < differing(one, other)
    assert differing(encode_first(*dropping), encode_first(*case)) == 0
    quiet = case._replace(config=laws.with_rates(case.config, 0.0, 0.0))
    assert distance(encode_first(*quiet, fresh(1)), encode_first(*case)) <= 1e-12


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("function", [encode, encode_traced, encode_first])
def test_more_tokens_than_positions_are_refused(function):
    zeros = torch.zeros(2, 14, dtype=torch.int64)
    case = case_of(RandomDraw("long"))._replace(ids=zeros, keep=zeros == 0, types=zeros)
    with pytest.raises(ValueError, match=r"^encode: 14 tokens, but the model knows only 13 pos"):
        function(*case)


@pytest.mark.parametrize("function", [encode, encode_traced])
def test_a_batch_of_padding_alone_stays_finite(function):
    case = case_of(RandomDraw("nobody"))
    states = function(*case._replace(keep=torch.zeros_like(case.keep)))
    assert all(part.isfinite().all() for part in parts_of(states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ready", [False, True])
def test_a_batch_of_no_rows_has_no_states(ready, dtype, way):
    case = in_dtype(case_of(RandomDraw("no rows")), dtype)
    inputs = [part[:0] for part in case[:3]]
    weights = prepared(case.weights) if ready else case.weights
    shape = book.encode(*inputs, case.weights, case.config).shape
    assert encode(*inputs, weights, case.config).shape == shape
    assert encode_first(*inputs, weights, case.config).shape == (0, 1, shape[2])
    assert encode_traced(*inputs, weights, case.config).hidden_BSD.shape == shape


# ----------------------------------------------------------------------------------- gradients


def gradients_of(formula: Callable[..., Tensor], case: Case, upstream: Tensor) -> list[Tensor]:
    """To every weight; the gradient of the word table names only the rows that were used."""
    found = gradients(
        lambda *parts: formula(*case._replace(weights=with_parts(case.weights, parts))),
        parts_of(case.weights),
        upstream,
    )
    return [part.to_dense() for part in found]


def assert_equal_gradients(found: list[Tensor], expected: list[Tensor], weights: Any) -> None:
    """Those to key biases are 0 but for rounding, so their unit is another tensor's size."""
    least = 1e-3 * max(float(part.abs().max()) for part in expected)
    for (name, _), ours, theirs in zip(named_tensors(weights), found, expected, strict=True):
        assert distance(ours, theirs, max(float(theirs.abs().max()), least)) <= 1e-10, name


def assert_encode_learns(case: Case) -> None:
    upstream = normal(7, *case.ids.shape, laws.D) * case.keep[:, :, None]
    expected = gradients_of(book.encode, case, upstream)
    assert_equal_gradients(gradients_of(kernels.encode, case, upstream), expected, case.weights)


@fewer(4)
@given(case=drawn(case_of))
def test_gradients_of_encode_are_the_books(case):
    assert_encode_learns(case)


def test_gradients_of_ragged_sentences_are_the_books():
    """Two groups with padding, one without, and a row that is padding alone."""
    rows, places = RAGGED.shape
    case = case_of(RandomDraw("ragged"))
    ids, types = (torch.arange(rows * places).view(rows, places) % size for size in (laws.V, 3))
    assert_encode_learns(case._replace(ids=ids, keep=RAGGED, types=types))


@fewer(4)
@given(case=drawn(case_of))
def test_gradients_of_the_first_token_are_the_books(case):
    case = starting(case)
    upstream = normal(7, len(case.ids), 1, laws.D)
    expected = gradients_of(lambda *given: book.encode(*given)[:, :1], case, upstream)
    assert_equal_gradients(gradients_of(encode_first, case, upstream), expected, case.weights)


@fewer(4)
@given(case=drawn(case_of))
def test_gradients_of_the_trace_are_the_books(case):
    """Of all states and scores at once, as distillation asks for them."""

    def everything(function: Callable[..., Any]) -> Callable[..., Tensor]:
        def formula(*given: Any) -> Tensor:
            trace = function(*given)
            states = torch.stack(trace.hiddens_LBSD).flatten()
            scores = [seen.attention.scores_BNSR.flatten() for seen in trace.blocks]
            return torch.cat([states, *scores])

        return formula

    upstream = normal(7, *everything(encode_traced)(*case).shape)
    found, expected = (
        gradients_of(everything(function), case, upstream)
        for function in (encode_traced, book.encode_traced)
    )
    assert_equal_gradients(found, expected, case.weights)


@pytest.mark.parametrize("function", ["encode", "encode_first"])
@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(3))
def test_less_precision_learns_as_the_book_does_in_it(seed, narrow, function, way):
    """Through the flat tensors of a model in training; twice the book's own error at most."""
    model = classifier(seed)
    ids = torch.randint(31, (6, 9), generator=fresh(seed))
    keep = torch.arange(9) < torch.tensor([9, 4, 5, 2, 7, 1])[:, None]
    upstream = normal(seed, 6, 9, 12) * keep[:, :, None]

    def gradient(dtype: torch.dtype, wide: bool = False) -> Tensor:
        weights = model.weights
        if wide:
            parts = [part.double() for part in parts_of(weights)]
            weights = with_parts(weights, parts)
        trainable = Trainable(weights)
        used = trainable.weights(dtype)
        y = getattr(kernels, function)(ids, keep, ids * 0, used, model.config)
        assert y.dtype == dtype
        trainable.backward((y * upstream[:, : y.shape[1]].to(dtype)).sum())
        return trainable.gradient_P.double()

    with arithmetic("book"):
        exact, of_book = gradient(torch.float64, wide=True), gradient(narrow)
    found = gradient(narrow)
    assert 0 < float((found - exact).norm()) <= 2 * float((of_book - exact).norm())
    assert float((of_book - exact).norm()) <= 8 * torch.finfo(narrow).eps * float(exact.norm())


# ------------------------------------------------------------------------------- known mistakes


def first_place_at_the_end(*arguments: Any) -> Any:
    group = GROUP(*arguments)
    return group if group.tokens_t is None else group._replace(tokens_t=group.tokens_t.roll(1))


def mask_drawn_anew(
    dcontext: Tensor, qkv: Tensor, group: Any, saved: Any, ctx: Any, **more: Any
) -> Tensor:
    keep = attention_kernels.keep_mask(saved.probabilities_XRR, ctx.rate, fresh(99))
    return GRADIENT(dcontext, qkv, group, saved._replace(keep_XRR=keep), ctx, **more)


def in_the_order_of_length(x_TD: Tensor, packing: Any) -> Tensor:
    if packing.places_T is not None:
        packing = packing._replace(places_T=packing.places_T.sort().values)
    return unpacked(x_TD, packing)


def added_twice(x_TI: Tensor, weights: Any, add_TO: Tensor | None = None) -> Tensor:
    y_TO = LINEAR(x_TI, weights, add_TO)
    return y_TO if add_TO is None else y_TO + add_TO


def other_gelu(x: Tensor, first: Any, second: Any, gelu: str, add_TD: Any = None) -> Tensor:
    return FEED_FORWARD(x, first, second, "tanh" if gelu == "none" else "none", add_TD)


GROUP, GRADIENT = packing_kernels._group, attention_kernels._gradient
LINEAR, FEED_FORWARD = kernels.linear, kernels.feed_forward
UNSCALED = SimpleNamespace(sqrt=lambda k: 1.0, inf=math.inf)


def assert_encodes() -> None:
    case = case_of(RandomDraw("mistakes"))
    keep = torch.arange(laws.S) < torch.tensor([[laws.S], [4]])
    case = case._replace(keep=keep)
    assert distance(with_weights(*case), book.encode(*case), encode_bound(case)) <= 1


def of_ragged(check: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: check(RAGGED, *arguments)


MISTAKES = {
    "gradient of padding": (
        attention_kernels,
        "_without_padding",
        lambda x_XRK, *_: x_XRK,
        of_ragged(assert_attention_learns),
    ),
    "no root of K": (
        attention_kernels,
        "math",
        UNSCALED,
        of_ragged(assert_attends, torch.float64),
    ),
    "no root of K in the gradient": (
        attention_kernels,
        "math",
        UNSCALED,
        of_ragged(assert_attention_learns),
    ),
    "tokens shifted by one, seen in packing": (
        packing_kernels,
        "_group",
        first_place_at_the_end,
        of_ragged(assert_packs),
    ),
    "tokens shifted by one, seen in attention": (
        packing_kernels,
        "_group",
        first_place_at_the_end,
        of_ragged(assert_attends, torch.float64),
    ),
    "another mask in the gradient": (
        attention_kernels,
        "_gradient",
        mask_drawn_anew,
        assert_one_mask,
    ),
    "rows in the order of length, seen in packing": (
        kernels,
        "unpacked",
        in_the_order_of_length,
        of_ragged(assert_unpacks),
    ),
    "rows in the order of length, seen in encode": (
        kernels,
        "unpacked",
        in_the_order_of_length,
        assert_encodes,
    ),
    "residual twice": (kernels, "linear", added_twice, assert_encodes),
    "GELU's forms exchanged": (kernels, "feed_forward", other_gelu, assert_encodes),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_rejected(name, monkeypatch):
    """By the very check that the kernels pass."""
    place, attribute, wrong, check = MISTAKES[name]
    check()
    monkeypatch.setattr(place, attribute, wrong)
    with pytest.raises((AssertionError, GradcheckError)):
        check()
