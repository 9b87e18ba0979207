"""The fast linear maps, feed-forward and dropout: the numbers and the gradients of the book."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from proof import assert_holds, drawn, fewer
from torch import Tensor

from minibert import functional as book
from minibert.encoder import feed_forward as book_feed_forward
from minibert.kernels import linear as kernels
from minibert.kernels import products
from minibert.kernels.dropout import LEVELS, dropout, dropped, keep_mask
from minibert.kernels.products import (
    arithmetic,
    chosen,
    cost_of_bfloat16,
    fastest,
    fixed_arithmetic,
    offers_onednn,
    pack,
)
from minibert.laws import encoder as encoder_laws
from minibert.laws import functional as laws
from minibert.laws import rounding
from minibert.laws.encoder import CONFIG, random_weights
from minibert.laws.functional import LinearCase, linear_bound
from minibert.laws.law import in_dtype
from minibert.laws.measure import differing, distance, eps_of, fresh, gradients, normal
from minibert.parameters import LinearWeights

WAYS = ["torch", "onednn"]
FORMS = {"none": "gelu", "tanh": "gelu_new"}  # torch's names, and the book's
TOKENS, WIDTH, OUT, INNER = (
    67,
    165,
    151,
    149,
)  # every product of them is above SMALL, so oneDNN computes it
HALF = [torch.float32, torch.bfloat16]

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch was built without oneDNN"
)


@pytest.fixture(params=WAYS)
def way(request):
    with arithmetic(request.param):
        yield request.param


class Spy:
    """oneDNN's product, and a count of its calls."""

    def __init__(self, product: Callable[..., Tensor], change: float = 1.0) -> None:
        self.product, self.change, self.calls = product, change, 0

    def __call__(self, *arguments: object) -> Tensor:
        self.calls += 1
        return self.product(*arguments) * self.change

    def binary(self, *arguments: object) -> Tensor:
        self.calls += 1
        return self.product.binary(*arguments) * self.change


def spied(monkeypatch, change: float = 1.0) -> Spy:
    spy = Spy(torch.ops.mkldnn._linear_pointwise, change)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    return spy


def flattened(formula: Callable[..., Tensor], x: Tensor, *arguments: object) -> Tensor:
    """The kernels take a run of tokens, the book any shape."""
    return formula(x.reshape(-1, x.shape[-1]), *arguments).view(*x.shape[:-1], -1)


def trained(x: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    return flattened(kernels.linear, x, LinearWeights(weight_OI, bias_O))


def packed(x: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
    return flattened(kernels.linear, x, pack(LinearWeights(weight_OI, bias_O)))


def fed(x: Tensor, weights, hidden_act: str) -> Tensor:
    maps = weights.intermediate, weights.output
    return flattened(kernels.feed_forward, x, *maps, "none" if hidden_act == "gelu" else "tanh")


def fed_packed(x: Tensor, weights, hidden_act: str) -> Tensor:
    maps = pack(weights.intermediate), pack(weights.output)
    return flattened(kernels.feed_forward, x, *maps, "none" if hidden_act == "gelu" else "tanh")


# ------------------------------------------------------------------------------ laws of the book


def laws_of(proof, formula, in_training: bool) -> list:
    """Inference has no gradient to be right or wrong."""
    return [
        pytest.param(law, formula, id=f"{formula.__name__}-{law.name}")
        for law in proof.laws.values()
        if in_training or law.layer != "gradient"
    ]


@pytest.mark.parametrize(
    ("law", "formula"),
    [
        *laws_of(laws.LINEAR, trained, True),
        *laws_of(laws.LINEAR, packed, False),
        *laws_of(encoder_laws.FEED_FORWARD, fed, True),
        *laws_of(encoder_laws.FEED_FORWARD, fed_packed, False),
    ],
)
def test_every_law_of_the_book_holds(law, formula, way, monkeypatch):
    monkeypatch.setattr(products, "SMALL", 0)  # or oneDNN would leave so few numbers to torch

    @fewer(3 * law.cost)
    @given(case=drawn(law.cases))
    def holds(case):
        assert_holds(law, formula, case)

    holds()


# ---------------------------------------------------------- at sizes where oneDNN really computes


def big_linear(dtype: torch.dtype) -> LinearCase:
    """Rows of sizes from 0.01 to 100."""
    sizes = 10.0 ** (torch.arange(TOKENS) % 5 - 2)[:, None]
    case = LinearCase(normal(0, TOKENS, WIDTH) * sizes, normal(1, OUT, WIDTH), normal(2, OUT))
    return in_dtype(case, dtype)


def computes_in_onednn(way: str, dtype: torch.dtype, trained: bool) -> bool:
    """Whether a big product should call oneDNN: in bfloat16 only if packed, and if it can."""
    if dtype == torch.bfloat16 and (trained or not offers_onednn(dtype)):
        return False
    return way == "onednn"


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("formula", [trained, packed])
def test_a_big_map_is_as_exact_as_the_books(formula, dtype, way, monkeypatch):
    spy, case = spied(monkeypatch), big_linear(dtype)
    y = formula(*case)
    assert (spy.calls > 0) == computes_in_onednn(way, dtype, formula is trained)
    assert y.dtype == dtype
    exact = book.linear(*(part.double() for part in case))
    assert distance(y, exact, linear_bound(case)) <= 1


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["trained", "packed"])
def test_another_tensor_is_added(kind, dtype, way):
    """Once, and at no more than two roundings of the sum."""
    case, add_TO = big_linear(dtype), normal(3, TOKENS, OUT, scale=30).to(dtype)
    weights = LinearWeights(*case[1:])
    untouched = add_TO.clone()
    y_TO = kernels.linear(case.x, weights if kind == "trained" else pack(weights), add_TO)
    exact = book.linear(*(part.double() for part in case)) + add_TO
    bound = linear_bound(case) + eps_of(add_TO) * (exact.abs() + add_TO.double().abs())
    assert distance(y_TO, exact, bound) <= 1
    assert differing(add_TO, untouched) == 0


@pytest.mark.parametrize("dtype", HALF)
def test_gradients_of_a_big_map(dtype, way, monkeypatch):
    """dx = dy W sums O terms; dW = dyᵀ x and db = Σ dy sum T."""
    spy, case, dy_TO = spied(monkeypatch), big_linear(dtype), normal(4, TOKENS, OUT).to(dtype)
    found = gradients(trained, case, dy_TO)
    assert spy.calls == (3 if (way, dtype) == ("onednn", torch.float32) else 0)
    x, weight, dy = case.x.double(), case.weight.double(), dy_TO.double()
    expected = dy @ weight, dy.T @ x, dy.sum(0)
    sizes = dy.abs() @ weight.abs(), dy.abs().T @ x.abs(), dy.abs().sum(0)
    for gradient, exact, size, terms in zip(
        found, expected, sizes, (OUT, TOKENS, TOKENS), strict=True
    ):
        assert gradient.dtype == dtype
        assert distance(gradient, exact, terms * eps_of(dy_TO) * size) <= 1


def big_feed(dtype: torch.dtype) -> tuple[Tensor, LinearWeights, LinearWeights]:
    parts = normal(0, TOKENS, WIDTH), normal(1, INNER, WIDTH, scale=0.1), normal(2, INNER)
    parts += normal(3, WIDTH, INNER, scale=0.1), normal(4, WIDTH)
    x_TD, *maps = (part.to(dtype) for part in parts)
    return x_TD, LinearWeights(*maps[:2]), LinearWeights(*maps[2:])


def rounded_gradients(
    x_TD: Tensor, first: LinearWeights, second: LinearWeights, form: str, dy_TD: Tensor
) -> list[rounding.Rounded]:
    """The chain rule with a bound on every rounding; GELU' has a slope of 0.8 at most."""
    x, dy, one = (
        rounding.exact(x_TD),
        rounding.exact(dy_TD),
        rounding.exact(dy_TD.new_ones(1, TOKENS)),
    )
    inner = rounding.linear(x, *first)
    act = book.gelu_erf if form == "none" else book.gelu_tanh
    (slope,) = gradients(act, [inner.value], torch.ones_like(inner.value))
    slope_error = 0.8 * inner.error + 16 * inner.wide_eps
    out = rounding.product(dy, rounding.exact(second.weight_OI))
    to_inner = out.stored(
        out.value * slope, out.error * (slope.abs() + slope_error) + out.value.abs() * slope_error
    )
    back = to_inner._replace(value=to_inner.value.T, error=to_inner.error.T)
    gelu = rounding.gelu(inner, form == "tanh")
    return [
        rounding.product(to_inner, rounding.exact(first.weight_OI)),
        rounding.product(back, x),
        rounding.product(one, to_inner),
        rounding.product(dy._replace(value=dy.value.T, error=dy.error.T), gelu),
        rounding.product(one, dy),
    ]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("kind", ["trained", "packed"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("adding", [False, True])
def test_a_big_feed_forward_is_as_exact_as_the_books(adding, form, kind, dtype, way, monkeypatch):
    spy, (x_TD, *maps) = spied(monkeypatch), big_feed(dtype)
    ready = maps if kind == "trained" else [pack(part) for part in maps]
    add_TD = normal(5, TOKENS, WIDTH).to(dtype) if adding else None
    y_TD = kernels.feed_forward(x_TD, *ready, form, add_TD)
    assert spy.calls == 2 * computes_in_onednn(way, dtype, kind == "trained")
    inner = rounding.gelu(rounding.linear(rounding.exact(x_TD), *maps[0]), form == "tanh")
    exact = rounding.linear(inner, *maps[1])
    if add_TD is not None:
        exact = rounding.add(exact, rounding.exact(add_TD))
    assert distance(y_TD, exact.value, exact.error) <= 1


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_a_big_feed_forward(form, dtype, way, monkeypatch):
    spy, (x_TD, *maps), dy_TD = (
        spied(monkeypatch),
        big_feed(dtype),
        normal(6, TOKENS, WIDTH).to(dtype),
    )
    found = gradients(
        lambda x, *parts: kernels.feed_forward(
            x, LinearWeights(*parts[:2]), LinearWeights(*parts[2:]), form
        ),
        [x_TD, *maps[0], *maps[1]],
        dy_TD,
    )
    assert spy.calls == (6 if (way, dtype) == ("onednn", torch.float32) else 0)
    expected = rounded_gradients(x_TD, *maps, form, dy_TD)
    for gradient, exact in zip(found, expected, strict=True):
        assert gradient.dtype == dtype
        assert distance(gradient, exact.value.view_as(gradient), exact.error.view_as(gradient)) <= 1


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_the_feed_forward_in_float64(form, way):
    """Those of the book by autograd, with a tensor added to both."""
    weights = random_weights(1).blocks[0]
    x_TD, dy_TD = normal(2, 9, CONFIG.hidden_size), normal(3, 9, CONFIG.hidden_size)
    inputs = [x_TD, *weights.intermediate, *weights.output]

    def maps(parts: tuple[Tensor, ...]) -> tuple[LinearWeights, LinearWeights]:
        return LinearWeights(*parts[:2]), LinearWeights(*parts[2:])

    def reference(x: Tensor, *parts: Tensor) -> Tensor:
        first, second = maps(parts)
        both = weights._replace(intermediate=first, output=second)
        return book_feed_forward(x, both, FORMS[form]) + x

    found = gradients(
        lambda x, *parts: kernels.feed_forward(x, *maps(parts), form, x), inputs, dy_TD
    )
    for gradient, expected in zip(found, gradients(reference, inputs, dy_TD), strict=True):
        assert distance(gradient, expected, expected.abs().max()) <= 1e-13


def asked(count: int) -> list[tuple[bool, ...]]:
    """Every choice of what a gradient is wanted for, but that of nothing."""
    return list(itertools.product((True, False), repeat=count))[:-1]


def assert_only_these_are_computed(
    monkeypatch, formula, inputs: list[Tensor], wanted: tuple[bool, ...], products_of_all: int
) -> None:
    """As many products as `wanted` needs; the gradients are those with nothing frozen."""
    upstream = normal(9, *formula(*inputs).shape).float()
    expected = gradients(formula, inputs, upstream)
    spy = spied(monkeypatch)
    leaves = [part.detach().requires_grad_(want) for part, want in zip(inputs, wanted, strict=True)]
    formula(*leaves).backward(upstream)
    assert spy.calls == products_of_all
    for leaf, want, gradient in zip(leaves, wanted, expected, strict=True):
        assert (leaf.grad is not None) == want
        assert leaf.grad is None or differing(leaf.grad, gradient) == 0


@pytest.mark.parametrize("wanted", asked(3))
def test_a_map_computes_no_gradient_that_nobody_asks_for(wanted, monkeypatch):
    for_x, for_weight, _ = wanted
    with arithmetic("onednn"):
        assert_only_these_are_computed(
            monkeypatch, trained, list(big_linear(torch.float32)), wanted, 1 + for_x + for_weight
        )


@pytest.mark.parametrize("wanted", asked(5))
def test_a_feed_forward_computes_no_gradient_that_nobody_asks_for(wanted, monkeypatch):
    for_x, for_first, for_bias, for_second, _ = wanted
    x_TD, first, second = big_feed(torch.float32)

    def formula(x: Tensor, *parts: Tensor) -> Tensor:
        maps = LinearWeights(*parts[:2]), LinearWeights(*parts[2:])
        return kernels.feed_forward(x, *maps, "none")

    through_gelu = for_x or for_first or for_bias
    with arithmetic("onednn"):
        assert_only_these_are_computed(
            monkeypatch,
            formula,
            [x_TD, *first, *second],
            wanted,
            2 + for_second + through_gelu + for_x + for_first,
        )


@pytest.mark.parametrize("function", [kernels._Linear, kernels._FeedForward])
def test_what_is_frozen_gets_none(function):
    """Autograd drops what it did not ask for, so this asks the function itself."""
    x_TD, first, second = big_feed(torch.float32)
    inner_TF, dy_TD = torch.ones(TOKENS, INNER), torch.ones(TOKENS, WIDTH)
    linear = function is kernels._Linear
    saved = (inner_TF, second.weight_OI) if linear else (x_TD, first[0], second[0], inner_TF)
    none = [False] * (3 if linear else 6)
    for place in range(3 if linear else 5):
        needs = [*none[:place], True, *none[place + 1 :]]
        ctx = SimpleNamespace(
            saved_tensors=saved, needs_input_grad=needs, way="torch", gelu="none"
        )
        found = function.backward(ctx, dy_TD)
        assert [gradient is not None for gradient in found] == needs


# ----------------------------------------------------------------------- what is kept in between


def kept_bytes(run: Callable[[], Tensor], given: list[Tensor]) -> int:
    """The memory that waits for a gradient, without what was there before."""
    there = {part.untyped_storage().data_ptr() for part in given}
    found: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in there:
            found[storage.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        y = run()
        assert y.requires_grad
        return sum(found.values())


def test_a_linear_map_keeps_only_what_was_there():
    case = [part.requires_grad_() for part in big_linear(torch.float32)]
    assert kept_bytes(lambda: trained(*case), case) == 0


@pytest.mark.parametrize("form", FORMS)
def test_feed_forward_keeps_one_inner_tensor_where_autograd_keeps_more(form):
    x_TD, *maps = big_feed(torch.float32)
    given = [part.requires_grad_() for part in (x_TD, *maps[0], *maps[1])]
    one = TOKENS * INNER * 4
    assert kept_bytes(lambda: kernels.feed_forward(x_TD, *maps, form), given) == one
    weights = random_weights(1).blocks[0]._replace(intermediate=maps[0], output=maps[1])
    assert kept_bytes(lambda: book_feed_forward(x_TD, weights, FORMS[form]), given) >= 3 * one


# ------------------------------------------------------------------------------- which arithmetic


@pytest.fixture
def unmeasured():
    fastest.cache_clear()
    yield
    fastest.cache_clear()


@pytest.mark.parametrize("dtype", HALF)
def test_one_of_the_ways_is_fastest(dtype, unmeasured):
    assert fastest(dtype) in WAYS
    assert fastest(dtype) is fastest(dtype), "measured once"


@pytest.mark.parametrize("times", [(1.0, 2.0), (2.0, 1.0), (0.95, 1.0)])
def test_onednn_must_be_slower_by_a_tenth_to_lose(times, unmeasured, monkeypatch):
    monkeypatch.setattr(products, "_best_seconds", lambda *functions: list(times))
    assert fastest(torch.float32) == ("torch" if times[0] < 0.9 * times[1] else "onednn")


@pytest.mark.parametrize("change", [1 + 1e-3, float("nan")])
def test_a_way_with_wrong_results_is_refused(change, unmeasured, monkeypatch):
    """However fast it is."""
    monkeypatch.setattr(products, "_best_seconds", lambda *functions: [2.0, 1.0])
    assert fastest(torch.float32) == "onednn"
    fastest.cache_clear()
    assert spied(monkeypatch, change).calls == 0
    assert fastest(torch.float32) == "torch"


def test_a_way_that_the_processor_lacks_is_refused(unmeasured, monkeypatch):
    def lacking(*arguments: object) -> Tensor:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lacking)
    assert fastest(torch.float32) == "torch"


def test_the_cost_of_bfloat16_is_that_of_two_products_and_measured_once(monkeypatch):
    dtypes = []

    def timed(*functions: Callable[[], Tensor]) -> list[float]:
        dtypes.extend(function().dtype for function in functions)
        return [2.0, 5.0]

    monkeypatch.setattr(products, "_best_seconds", timed)
    cost_of_bfloat16.cache_clear()
    try:
        assert cost_of_bfloat16() == cost_of_bfloat16() == 2.5
    finally:
        cost_of_bfloat16.cache_clear()
    assert dtypes == [torch.float32, torch.bfloat16]


def test_without_instructions_for_bfloat16_onednn_is_for_float32_alone(unmeasured, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(products, "_best_seconds", lambda *functions: [2.0, 1.0])
    assert fastest(torch.bfloat16) == "torch"
    with arithmetic("onednn"):
        assert chosen(torch.ones(1)) == "onednn"
        assert chosen(torch.ones(1).bfloat16()) == "torch"
        weights = LinearWeights(torch.ones(2, 3).bfloat16(), torch.ones(2).bfloat16())
        assert pack(weights).packed is None


def test_arithmetic_is_fixed_within_its_block_alone():
    assert fixed_arithmetic() is None
    with arithmetic("torch"):
        with arithmetic("onednn"):
            assert fixed_arithmetic() == "onednn"
            with arithmetic(None):
                assert fixed_arithmetic() == "onednn"
        assert fixed_arithmetic() == "torch"
        with pytest.raises(KeyError), arithmetic("book"):
            raise KeyError
        assert fixed_arithmetic() == "torch"
    assert fixed_arithmetic() is None


def test_what_was_fixed_is_chosen_where_it_can_be(monkeypatch):
    """float64 knows only torch; "book" and "int8" say nothing about this kind of product."""
    monkeypatch.setattr(products, "fastest", lambda dtype: f"fastest for {dtype}")
    for name in WAYS:
        with arithmetic(name):
            for dtype in HALF:
                able = name == "torch" or offers_onednn(dtype)
                assert chosen(torch.ones(1, dtype=dtype)) == (name if able else "torch")
            assert chosen(torch.ones(1, dtype=torch.float64)) == "torch"
            assert chosen(torch.ones(1, device="meta")) == "torch"
    for other in ("book", "int8", None):
        with arithmetic(other):
            assert chosen(torch.ones(1)) == "fastest for torch.float32"


def test_packed_weights_are_laid_out_for_onednn_alone():
    weights = LinearWeights(normal(0, OUT, WIDTH).float().requires_grad_(), normal(1, OUT).float())
    with arithmetic("torch"):
        assert pack(weights).packed is None
    with arithmetic("onednn"):
        ready = pack(weights)
    assert ready.packed is not None
    assert not any(part.requires_grad for part in ready[:2])


# ------------------------------------------------------------------------------- known mistakes


OTHER = {"none": "tanh", "tanh": "none"}
GELU, GELU_BACKWARD = torch.nn.functional.gelu, torch.ops.aten.gelu_backward


def other_form(x: Tensor, approximate: str = "none") -> Tensor:
    return GELU(x, approximate=OTHER[approximate])


def slope_of_the_other_form(dy: Tensor, x: Tensor, approximate: str = "none") -> Tensor:
    return GELU_BACKWARD(dy, x, approximate=OTHER[approximate])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (torch.nn.functional, "gelu", other_form),
        (torch.ops.aten, "gelu_backward", slope_of_the_other_form),
    ],
)
def test_a_mistake_in_gelu_is_rejected(place, name, wrong, form, monkeypatch):
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(AssertionError):
        test_gradients_of_the_feed_forward_in_float64(form, "torch")


# -------------------------------------------------------------------------------------- dropout

RATES = [0.1, 0.3, 0.5, 1 / 3, 0.9]
DRAWS = 2**20


@pytest.mark.parametrize("rate", RATES)
def test_the_share_of_what_stays(rate):
    kept = keep_mask(torch.empty(DRAWS), rate, fresh(1)).bool().double()
    assert kept.shape == (DRAWS,)
    sigma = (rate * (1 - rate) / DRAWS) ** 0.5
    assert abs(float(kept.mean()) - (1 - rate)) <= 2.0**-17 + 5 * sigma


@pytest.mark.parametrize("rate", [*RATES, 1e-4, 2.0**-16, 1 - 2.0**-16, 1 - 2.0**-18])
def test_of_all_draws_as_many_stay_as_the_rate_says(rate, monkeypatch):
    """Each of the 2^16 draws once, in place of random ones."""

    def every(words: Tensor, *limits: object, generator: object = None) -> Tensor:
        words.view(torch.int16).copy_(torch.arange(-LEVELS // 2, LEVELS // 2))
        return words

    monkeypatch.setattr(torch.Tensor, "random_", every)
    kept = keep_mask(torch.empty(LEVELS), rate, None)
    assert set(kept.unique().tolist()) <= {-1, 0}
    assert abs(int(kept.bool().sum()) - (1 - rate) * LEVELS) <= 0.5


@pytest.mark.parametrize("rate", RATES)
def test_draws_do_not_know_of_each_other(rate):
    """Neighbours, the four draws of one word, and the same place of later words."""
    kept = keep_mask(torch.empty(DRAWS), rate, fresh(2)).bool().double()
    centred = (kept - kept.mean()) / kept.std()
    for lag in range(1, 17):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) <= 5 / (DRAWS - lag) ** 0.5, lag
    lanes = centred.view(-1, 4)
    between = lanes.T @ lanes / len(lanes) - torch.eye(4)
    between.fill_diagonal_(0)
    assert float(between.abs().max()) <= 5 / len(lanes) ** 0.5
    shares = kept.view(-1, 4).mean(0)
    sigma = (rate * (1 - rate) / len(lanes)) ** 0.5
    assert float((shares - (1 - rate)).abs().max()) <= 2.0**-17 + 5 * sigma, "every lane alike"


@pytest.mark.parametrize("dtype", [torch.float64, *HALF])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 1, 7), (1,), (0, 3)])
def test_what_stays_is_scaled_and_so_is_its_gradient(shape, dtype):
    x, upstream = normal(3, *shape).to(dtype), normal(4, *shape).to(dtype)
    rate = 0.3
    y = dropout(x, rate, fresh(5))
    keep = keep_mask(x, rate, fresh(5))
    assert (y.dtype, y.shape, keep.dtype) == (dtype, x.shape, torch.int8)
    assert differing(y, torch.where(keep.bool(), x * (1 / (1 - rate)), 0)) == 0
    (gradient,) = gradients(lambda x: dropout(x, rate, fresh(5)), [x], upstream)
    assert differing(gradient, torch.where(keep.bool(), upstream * (1 / (1 - rate)), 0)) == 0


def test_not_even_infinity_survives_where_it_is_dropped():
    """Times 0 it would be NaN."""
    y = dropout(torch.full((100,), float("inf")), 0.5, fresh(1))
    assert not y.isnan().any()
    assert 0 < int((y == 0).sum()) < 100


def test_the_seed_decides():
    x = torch.ones(1000)
    before = torch.get_rng_state()
    one, again, other = (dropout(x, 0.5, fresh(seed)) for seed in (1, 1, 2))
    assert differing(one, again) == 0
    assert 400 < differing(one, other) < 600
    generator = fresh(1)
    assert differing(dropout(x, 0.5, generator), one) == 0
    assert 400 < differing(dropout(x, 0.5, generator), one) < 600, "draws are used once"
    assert differing(torch.get_rng_state(), before) == 0


def test_nothing_is_dropped_without_both_a_rate_and_a_generator():
    x, generator = torch.ones(3), fresh(1)
    before = generator.get_state()
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, generator) is x
    assert dropped(x, None, 0.5) is x
    assert differing(generator.get_state(), before) == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    for generator in (None, fresh(1)):
        with pytest.raises(ValueError, match=rf"the rate is {rate}, but must be at least 0"):
            dropout(torch.ones(1), rate, generator)


def test_a_gradient_of_dropout_remembers_one_byte_a_number():
    x = normal(1, 1000).float().requires_grad_()
    assert kept_bytes(lambda: dropout(x, 0.5, fresh(1)), [x]) == 1000
