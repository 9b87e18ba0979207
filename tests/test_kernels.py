"""Fast twins of book functions: the same numbers as the book, in place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import classifier
from torch import Tensor

from minibert import optim
from minibert.kernels import optim as kernels
from minibert.laws.measure import EPS, distance, normal
from minibert.optim import AdamOptions, AdamState, adam_form, initial_adam_state
from minibert.training.trainable import Trainable

EPS_32 = 2.0**-23

FORMS = ("momentum", "google", "kingma", "adamw", "adam_l2")
STEPS, RATE = 7, 0.01


def gradient(seed: int, step: int, n: int, dtype: torch.dtype) -> Tensor:
    """Sizes from 1e-9, where Adam's ε decides, to 10; and some that are exactly zero."""
    sizes = 10.0 ** (torch.arange(n, dtype=torch.float64) % 11 - 9)
    g = normal(seed + step, n) * sizes
    g[::13] = 0
    return g.to(dtype)


def path_of(adam_step, form: AdamOptions, seed: int, dtype: torch.dtype):
    """Parameters and memory after each of a few steps."""
    theta = normal(seed, 101).to(dtype)
    state = initial_adam_state(theta)
    path = []
    for step in range(1, STEPS + 1):
        g = gradient(seed, step, len(theta), dtype)
        theta, state = adam_step(theta, g, state, RATE, form)
        path.append((theta.clone(), AdamState(state.mean_P.clone(), state.square_P.clone(), step)))
        assert state.steps == step
    return path


def adam_bound(form: AdamOptions, step: int, theta: Tensor, eps: float) -> Tensor:
    """How far two orders of the same arithmetic can be apart after so many steps.

    One update is η u with |u| = |m̂| / (√v̂ + ε): by Cauchy and Schwarz |m| is at most
    (1-β₁) / √((1-β₂)(1 - β₁²/β₂)) √v, which is 7.3 √v; the corrections, at least 1-β₁ and at most
    1, add a factor of √(1-β₂ᵗ) / (1-β₁ᵗ) <= 1. m, v, the two corrections, root, quotient, decay and
    difference are some 20 roundings, each of half an ulp on each side, and m's own rounding errors
    are relative to sums of |g| rather than to m, which 7.3 covers as well.
    """
    return step * eps * (20 * RATE * 7.3 + 2 * theta.abs() + RATE)


@pytest.mark.parametrize("decay", [None, 0.0, 0.3])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, EPS_32), (torch.float64, EPS)])
def test_adam_equals_the_book(name, decay, dtype, eps):
    form = adam_form(name)
    form = form if decay is None else form._replace(weight_decay=decay)
    for seed in range(5):
        book = path_of(optim.adam_step, form, seed, dtype)
        fast = path_of(kernels.adam_step, form, seed, dtype)
        for step, ((ours, memory), (theirs, their_memory)) in enumerate(
            zip(fast, book, strict=True), 1
        ):
            assert ours.dtype == dtype
            bound = adam_bound(form, step, theirs, eps)
            assert distance(ours, theirs, bound) <= 1, f"{name}, parameters after step {step}"
            # means of numbers up to |g| + decay |θ|, rounded a few times a step
            size = 100 + theirs.abs().max()
            unit = step * 8 * eps * size
            assert distance(memory.mean_P, their_memory.mean_P, unit) <= 1, "mean"
            assert distance(memory.square_P, their_memory.square_P, unit * size) <= 1, "square"


def test_adam_forms_are_told_apart():
    """The bound is tight enough that no form passes for another, nor for one with another ε."""
    paths = {name: path_of(kernels.adam_step, adam_form(name), 0, torch.float32) for name in FORMS}
    paths["ε of google"] = path_of(
        kernels.adam_step, adam_form("kingma")._replace(eps=1e-6), 0, torch.float32
    )
    for one, (ours, _) in ((name, path[-1]) for name, path in paths.items()):
        for other, (theirs, _) in ((name, path[-1]) for name, path in paths.items()):
            bound = adam_bound(adam_form("adamw"), STEPS, theirs, EPS_32)
            assert (distance(ours, theirs, bound) <= 1) == (one == other), (one, other)


@pytest.mark.parametrize("name", FORMS)
def test_adam_writes_over_its_arguments(name):
    theta, g = normal(0, 5), normal(1, 5)
    state = initial_adam_state(theta)
    untouched = g.clone()
    pointers = [x.data_ptr() for x in (theta, state.mean_P, state.square_P)]
    new, after = kernels.adam_step(theta, g, state, RATE, adam_form(name))
    assert [x.data_ptr() for x in (new, after.mean_P, after.square_P)] == pointers
    assert torch.equal(g, untouched), "the gradient must not be written over"
    assert after.steps == 1
    assert not torch.equal(theta, normal(0, 5))


def test_only_the_decayed_range_decays():
    """With gradient zero, decay is all that moves; biases and norms stay bit for bit."""
    trainable = Trainable(classifier().weights)
    before = trainable.parameters_P.clone()
    n = trainable.n_decayed
    trainable.update(0.1, adam_form("adamw")._replace(weight_decay=0.5))
    assert 0 < n < len(before)
    expected = before[:n] - 0.1 * 0.5 * before[:n]
    assert distance(trainable.parameters_P[:n], expected, before[:n].abs() + 1e-30) <= EPS_32
    assert torch.equal(trainable.parameters_P[n:], before[n:])
    assert trainable.adam.steps == 1
    trainable.gradient_P.fill_(1.0)
    trainable.update(0.1, adam_form("adamw"))
    assert (trainable.parameters_P[n:] < before[n:]).all(), "but they learn"


def test_trainable_is_one_tensor_with_views():
    """Leaves, gradients and the flat tensors share memory, also after backward passes."""
    trainable = Trainable(classifier().weights)
    leaf = trainable.leaves.classifier.weight_OI
    for times in (1, 2):
        (leaf * 3).sum().backward()
        assert float(trainable.gradient_P.sum()) == times * 3 * leaf.numel()
    assert leaf.grad.untyped_storage().data_ptr() == trainable.gradient_P.data_ptr()
    trainable.parameters_P.zero_()
    assert float(leaf.detach().abs().sum()) == 0
    half = trainable.weights(torch.bfloat16).classifier.weight_OI
    trainable.gradient_P.zero_()
    trainable.backward((half * 3).sum())
    assert half.dtype == torch.bfloat16
    assert float(trainable.gradient_P.sum()) == 3 * leaf.numel(), "gradients come back in float32"


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-15, 1e-3, 1.0, 1e3, 1e30]),
    st.sampled_from([1e-4, 0.1, 1.0, 50.0]),
)
def test_clipping_equals_the_book(seed, scale, most):
    gradients = tuple(normal(seed + i, n, scale=scale).float() for i, n in enumerate((3, 1, 64)))
    copies = tuple(g.clone() for g in gradients)
    expected, norm = optim.clip_by_global_norm(gradients, most)
    clipped, fast_norm = kernels.clip_by_global_norm(copies, most)
    # a sum of 68 squares in another order: at most 68 roundings, halved by the root; then a few
    bound = 40 * EPS_32
    assert distance(fast_norm, norm, norm) <= bound, "norm"
    for ours, theirs, given_in in zip(clipped, expected, copies, strict=True):
        assert ours is given_in, "in place"
        assert distance(ours, theirs, theirs.abs() + 1e-38) <= bound, "clipped gradient"


def test_clipping_leaves_a_short_gradient_alone():
    g = torch.tensor([0.6, 0.8])
    (same,), norm = kernels.clip_by_global_norm((g,), 1.0 + EPS_32)
    assert same.tolist() == torch.tensor([0.6, 0.8]).tolist()
    assert float(norm) == pytest.approx(1, abs=2 * EPS_32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clipping_shows_what_is_not_finite(bad):
    for clip in (kernels.clip_by_global_norm, optim.clip_by_global_norm):
        _, norm = clip((torch.tensor([1.0, bad]),), 1.0)
        assert not torch.isfinite(norm)


@pytest.mark.parametrize("most", [0.0, -1.0])
def test_clipping_refuses_a_length_that_is_none(most):
    for clip in (kernels.clip_by_global_norm, optim.clip_by_global_norm):
        with pytest.raises(ValueError, match=f"max_norm is {most}, but must be above 0"):
            clip((torch.ones(2),), most)
