"""Adam and clipping in place, in one pass over memory: twins of functions of `minibert.optim`."""

import torch
from torch import Tensor

from minibert.optim import AdamOptions, AdamState, global_norm


def adam_step(
    parameters_P: Tensor,
    gradient_P: Tensor,
    state: AdamState,
    learning_rate: float,
    options: AdamOptions,
) -> tuple[Tensor, AdamState]:
    """`minibert.optim.adam_step`, written over its arguments.

    torch's fused kernel computes every published form: a form without bias correction is the
    corrected one at a step so late (10^9) that β^t is 0 and both corrections are exactly 1.

    Returns the same tensors that were passed in, and a state whose tensors are those of `state`.
    """
    step = state.steps + 1 if options.bias_correction else 10**9
    fused = torch._fused_adamw_ if options.decoupled else torch._fused_adam_
    fused(
        [parameters_P],
        [gradient_P],
        [state.mean_P],
        [state.square_P],
        [],
        [torch.tensor(float(step), device=parameters_P.device)],
        lr=learning_rate,
        beta1=options.beta1,
        beta2=options.beta2,
        weight_decay=options.weight_decay,
        eps=options.eps,
        amsgrad=False,
        maximize=False,
    )
    return parameters_P, AdamState(state.mean_P, state.square_P, state.steps + 1)


def clip_by_global_norm(
    gradients: tuple[Tensor, ...], max_norm: float
) -> tuple[tuple[Tensor, ...], Tensor]:
    """`minibert.optim.clip_by_global_norm`, written over its arguments."""
    if max_norm <= 0:
        raise ValueError(f"clip_by_global_norm: max_norm is {max_norm}, but must be above 0")
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
    )
    if not norm.isfinite():
        norm = global_norm(gradients)  # squares overflowed, perhaps; this way does not
    if norm > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / norm)
    return gradients, norm
