"""What of `optim` is no law: refusals, defaults, edges, types, transformers' schedules."""

import re
from typing import get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proof import fewer

from minibert.laws.measure import EPS, differing, distance, normal
from minibert.laws.optim import FORMS, Run, path, rounding, written_anew
from minibert.optim import (
    AdamOptions,
    adam_form,
    adam_step,
    clip_by_global_norm,
    constant_schedule,
    cosine_schedule,
    global_norm,
    google_schedule,
    initial_adam_state,
    inverse_square_root_schedule,
    linear_schedule,
)

ALL_SCHEDULES = [
    linear_schedule,
    google_schedule,
    constant_schedule,
    cosine_schedule,
    inverse_square_root_schedule,
]


# --------------------------------------------------------------------------------------- Adam


def test_options_by_default_are_kingmas():
    assert AdamOptions() == (0.9, 0.999, 1e-8, True, 0.0, True)
    assert AdamOptions() == adam_form("kingma")
    assert list(get_type_hints(AdamOptions)) == [
        "beta1", "beta2", "eps", "bias_correction", "weight_decay", "decoupled",
    ]


@pytest.mark.parametrize("name", ["adam", "", "Google"])
def test_adam_form_refuses_other_names(name):
    message = f"adam_form: {name!r} is not one of momentum, google, kingma, adamw, adam_l2"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        adam_form(name)


def test_the_rows_of_the_mistakes_are_adam_without_them():
    """Otherwise those mistakes would prove nothing."""
    for form in FORMS:
        run = Run(normal(2, 5), normal(3, 7, 5), adam_form(form))
        assert distance(path(written_anew(), run), path(adam_step, run)) <= rounding(run), form


@fewer(4)
@given(seed=st.integers(0, 2**32 - 1))
def test_adam_step_finds_the_least_squares_solution(seed):
    """Not a proof of the formula, but of the direction: with a falling rate it arrives."""
    target = normal(seed, 3)
    parameters, state = torch.zeros(3).double(), initial_adam_state(torch.zeros(3).double())
    for t in range(400):
        rate = 0.1 * linear_schedule(t, 10, 400)
        parameters, state = adam_step(parameters, parameters - target, state, rate, AdamOptions())
    assert distance(parameters, target) <= 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_adam_keeps_the_precision_of_the_parameters(dtype):
    theta, gradient = torch.ones(2, 3, dtype=dtype), torch.full((2, 3), 0.5, dtype=dtype)
    state = initial_adam_state(theta)
    assert (state.steps, state.mean_P.dtype, state.square_P.dtype) == (0, dtype, dtype)
    after, new = adam_step(theta, gradient, state, 0.1, AdamOptions())
    assert (after.dtype, new.mean_P.dtype, new.square_P.dtype) == (dtype, dtype, dtype)
    assert after.shape == (2, 3)


# ------------------------------------------------------------------------------------ clipping


def test_a_gradient_as_long_as_allowed_is_handed_back_itself():
    gradients = (torch.tensor([3.0, 4.0]),)
    assert clip_by_global_norm(gradients, 5.0)[0] is gradients
    assert clip_by_global_norm(gradients, 4.9999)[0] is not gradients


def test_one_number_and_no_axis_will_do():
    (found,), norm = clip_by_global_norm((torch.tensor(-2.0),), 0.5)
    assert (float(found), float(norm)) == (-0.5, 2.0)
    assert global_norm((torch.tensor(-2.0),)).shape == ()


def test_clip_by_global_norm_survives_squares_that_overflow():
    found, norm = clip_by_global_norm((torch.tensor([3e30, -4e30]),), 1.0)
    assert norm == 5e30
    assert torch.allclose(found[0], torch.tensor([0.6, -0.8]), rtol=3e-7, atol=0)


def test_clip_by_global_norm_leaves_zeros_alone():
    (found,), norm = clip_by_global_norm((torch.zeros(3),), 1.0)
    assert differing(found, torch.zeros(3)) == 0
    assert norm == 0


@pytest.mark.parametrize("bad", [0, 0.0, -1.0])
def test_clip_by_global_norm_refuses_a_limit_not_above_zero(bad):
    message = f"clip_by_global_norm: max_norm is {bad}, but must be above 0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        clip_by_global_norm((torch.ones(2),), bad)


# ----------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (linear_schedule, "get_linear_schedule_with_warmup"),
        (cosine_schedule, "get_cosine_schedule_with_warmup"),
        (constant_schedule, "get_constant_schedule_with_warmup"),
        (inverse_square_root_schedule, "get_inverse_sqrt_schedule"),
    ],
)
@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (3, 20), (10, 100), (7, 13)])
def test_schedules_are_those_of_transformers(schedule, name, warmup, total):
    optimization = pytest.importorskip(
        "transformers.optimization", reason="transformers holds the reference schedules"
    )
    arguments = {"num_warmup_steps": warmup}
    if schedule in (linear_schedule, cosine_schedule):
        arguments["num_training_steps"] = total
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    factor = getattr(optimization, name)(optimizer, **arguments).lr_lambdas[0]
    for t in range(total + 1):
        assert abs(schedule(t, warmup, total) - factor(t)) <= 8 * EPS, f"step {t}"


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
def test_a_schedule_may_be_of_no_step_or_all_warm_up(schedule):
    ended = {constant_schedule: 1.0, inverse_square_root_schedule: 1.0}.get(schedule, 0.0)
    assert schedule(0, 0, 0) == ended
    assert [schedule(t, 5, 5) for t in (0, 4, 5)] == [0.0, 0.8, ended]
    assert [schedule(t, 5, 2) for t in (0, 3, 5)] == [0.0, 0.6, ended]


@pytest.mark.parametrize("schedule", ALL_SCHEDULES)
@pytest.mark.parametrize(("step", "warmup"), [(-1, 2), (3, -2), (-1, 0), (0, -1)])
def test_schedules_refuse_negative_steps(schedule, step, warmup):
    message = f"schedule: step {step} and warm-up {warmup} must not be negative"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        schedule(step, warmup, 10)
