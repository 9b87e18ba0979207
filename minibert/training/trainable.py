"""A model that learns: its parameters, their gradients and Adam's memory, each one flat tensor."""

from typing import Generic, TypeVar

import torch
from torch import Tensor

from minibert.kernels.optim import adam_step
from minibert.optim import AdamOptions, AdamState, initial_adam_state
from minibert.parameters import (
    decayed_length,
    flat_layout,
    flatten,
    named_tensors,
    views_of,
    with_tensors,
)

Weights = TypeVar("Weights")


class Trainable(Generic[Weights]):
    """The flat tensors of one model and the named views through which everyone else sees them.

    The model is any named structure of tensors, such as `BertWeights`.

    Parameters are kept in float32 (or float64); `weights(dtype)` hands out what a forward pass
    computes with, and `backward` brings gradients back to `gradient_P` in the parameters' own
    precision.
    """

    def __init__(self, weights: Weights, device: str = "cpu") -> None:
        # Shapes without data, so that the weights that were passed in can be freed.
        sizes = {name: tensor.to("meta") for name, tensor in named_tensors(weights)}
        self.shapes = with_tensors(weights, sizes)
        self.parameters_P = flatten(weights).to(device)
        self.gradient_P = torch.zeros_like(self.parameters_P)
        self.adam = initial_adam_state(self.parameters_P)
        self.n_decayed = decayed_length(flat_layout(weights))
        self.leaves = self._leaves()
        self.lower: dict[str, Tensor] = {}
        self.extra: dict[str, Tensor] = {}  # what else the next step depends on

    def _leaves(self) -> Weights:
        # Detached views made once: a slice of a tensor that itself requires gradients would
        # allocate a gradient of full size in every backward pass.
        gradients = dict(named_tensors(views_of(self.gradient_P, self.shapes)))
        leaves = {}
        for name, view in named_tensors(views_of(self.parameters_P, self.shapes)):
            leaves[name] = view.detach().requires_grad_()
            leaves[name].grad = gradients[name]
        return with_tensors(self.shapes, leaves)

    def weights(self, dtype: torch.dtype) -> Weights:
        """The leaves themselves, or copies of them in a lower precision; see `backward`.

        The tables are never copied: a batch looks up few of their rows.
        """
        if dtype == self.parameters_P.dtype:
            return self.leaves
        leaves = dict(named_tensors(self.leaves))
        for name, leaf in leaves.items():
            if "embeddings." in name:
                continue
            if name not in self.lower or self.lower[name].dtype != dtype:
                self.lower[name] = torch.empty_like(leaf, dtype=dtype).requires_grad_()
            self.lower[name].data.copy_(leaf)
        return with_tensors(self.shapes, leaves | self.lower)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to `gradient_P`, also for leaves that copies stood in for."""
        loss.backward()
        leaves = dict(named_tensors(self.leaves))
        for name, copy in self.lower.items():
            if copy.grad is not None:
                leaves[name].grad.add_(copy.grad)  # type: ignore[union-attr]
                copy.grad = None

    def look_at_gradient(self) -> None:
        """Called when `gradient_P` is that of the loss alone, before any penalty and clipping."""

    @property
    def complete(self) -> bool:
        """Whether the model already has the form that it is to end with, such as its sparsity."""
        return True

    def finished_weights(self) -> Weights:
        """A copy of the weights as they are now, without gradients."""
        return views_of(self.parameters_P.clone(), self.shapes)

    def update(self, learning_rate: float, options: AdamOptions) -> None:
        """One step of Adam on the whole model; only the decayed range is decayed."""
        mean_P, square_P, steps = self.adam
        for part, choice in (
            (slice(0, self.n_decayed), options),
            (slice(self.n_decayed, None), options._replace(weight_decay=0.0)),
        ):
            state = AdamState(mean_P[part], square_P[part], steps)
            adam_step(self.parameters_P[part], self.gradient_P[part], state, learning_rate, choice)
        self.adam = AdamState(mean_P, square_P, steps + 1)
