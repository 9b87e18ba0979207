"""Training that ends with a sparse model: which weights become 0, how many, and when.

P parameters of the model in the order of the flat tensor · O, I the sides of one matrix · G its
groups of K inputs, each with one gate: a head, for the output map of attention, or a feed-forward
unit, where K is 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.optim import AdamOptions
from minibert.packed import size_of, size_sentence
from minibert.parameters import BertWeights, named_tensors, views_of
from minibert.pruned import shape_told, without_idle
from minibert.sparsity import (
    cubic_sparsity,
    gate_gradients,
    keep_largest,
    keep_largest_of_rows,
    keep_n_of_m,
    movement_scores,
    soft_threshold,
)
from minibert.training.comparison import n_parameters
from minibert.training.trainable import Trainable, Weights

# From scores [O, I] and the share to remove: which weights stay.
Pattern = Callable[[Tensor, float], Tensor]
PATTERNS: dict[str, Pattern] = {
    "unstructured": keep_largest,
    "row": keep_largest_of_rows,
    "2:4": lambda score_OI, sparsity: keep_n_of_m(score_OI, 2, 4),
}
METHODS = ("magnitude", "movement", "l1")
GATED = ("heads", "ffn")
EVERY = 25  # steps between two choices; ranking all weights costs about as much as one step


class Sparsity(NamedTuple):
    """How sparse the maps of the blocks become, and how they get there.

    `begin` and `end` are shares of the run's steps: zeros appear from the first on, grow in number
    by Zhu and Gupta's cubic rule, and are all there at the second; then the remaining weights
    adapt. The zeros of 2:4 come all at once, at the first.
    `method` is one of `METHODS`, for the patterns of single weights; `strength` is λ of the L1
    penalty. Patterns of `GATED` take whole heads or units, by their importance.
    """

    share: float
    pattern: str = "unstructured"
    method: str = "magnitude"
    strength: float = 0.1
    begin: float = 0.1
    end: float = 0.7


class SparseTrainable(Trainable[Weights]):
    """A model whose block maps become sparse while it learns.

    Magnitude: weights that are small when the choice is made become 0 and stay 0, and so do those
    that were 0 before. Movement: all weights are kept in full beside the sparse ones that are used,
    keep moving with Adam's momentum, and one that was left out can come back. L1: until the choice
    is final every step pulls all weights towards 0, by λ times its learning rate, and the smallest
    are removed, as by magnitude. Gradients are clipped before this: those of weights that are left
    out count in their norm.
    """

    def __init__(
        self, weights: Weights, device: str, sparsity: Sparsity, total_steps: int
    ) -> None:
        super().__init__(weights, device)
        self.sparsity = sparsity
        self.begin, self.end = (round(x * total_steps) for x in (sparsity.begin, sparsity.end))
        self.extra["keep"] = torch.ones_like(self.parameters_P, dtype=torch.bool)
        if sparsity.method == "movement":
            self.extra["scores"] = torch.zeros_like(self.parameters_P)
            self.extra["whole"] = self.parameters_P.clone()
        else:
            both = self._maps(self.extra["keep"]), self._maps(self.parameters_P)
            for keep_OI, weight_OI in zip(*both, strict=True):
                keep_OI.copy_(weight_OI != 0)

    def update(self, learning_rate: float, options: AdamOptions) -> None:
        """One step of Adam on all weights; then those that are left out are set to 0 again."""
        moving, keep_P = self.sparsity.method == "movement", self.extra["keep"]
        if moving:
            whole_P, scores_P = self.extra["whole"], self.extra["scores"]
            scores_P.copy_(movement_scores(scores_P, whole_P, self.gradient_P, learning_rate))
            self.gradient_P.mul_(keep_P)  # of the weights that were used
            self.parameters_P.copy_(whole_P)
        super().update(learning_rate, options)
        if self.sparsity.method == "l1" and self.adam.steps <= self.end:
            for weight_OI in self._pruned(self.parameters_P):
                threshold = learning_rate * self.sparsity.strength
                weight_OI.copy_(soft_threshold(weight_OI, threshold))
        if moving:
            whole_P.copy_(self.parameters_P)
        steps = self.adam.steps
        if steps <= self.end and (steps % EVERY == 0 or steps == self.end):
            self._choose(cubic_sparsity(steps, self.begin, self.end, self.sparsity.share))
        self.parameters_P.masked_fill_(~keep_P, 0.0)  # a product with 0 could be -0

    @property
    def complete(self) -> bool:
        """Whether the target sparsity has been reached."""
        return self.adam.steps >= self.end

    def _choose(self, share: float) -> None:
        """Leave out this share of the weights, those with the smallest scores."""
        if share == 0:
            return
        keep_P, moving = self.extra["keep"], self.sparsity.method == "movement"
        if moving:
            scores_P = self.extra["scores"]
        else:  # Adam moved what was left out too; it ranks below all others
            scores_P = self.parameters_P.abs().masked_fill_(~keep_P, -1.0)
        for keep_OI, score_OI in zip(self._pruned(keep_P), self._pruned(scores_P), strict=True):
            chosen_OI = PATTERNS[self.sparsity.pattern](score_OI, share)
            keep_OI.copy_(chosen_OI if moving else keep_OI & chosen_OI)

    def _pruned(self, flat_P: Tensor) -> list[Tensor]:
        """The views of a flat tensor in which the pattern chooses."""
        return self._maps(flat_P)

    def _maps(self, flat_P: Tensor) -> list[Tensor]:
        """The views of a flat tensor that are maps of blocks."""
        views = named_tensors(views_of(flat_P, self.shapes))
        return [view for name, view in views if is_pruned(name)]


class GatedTrainable(SparseTrainable[BertWeights]):
    """A model that closes whole heads, or feed-forward units, while it learns.

    The importance of each is the sum of its absolute `gate_gradients` from one choice to the next.
    Heads are ranked across all layers, following Michel et al. 2019 by their importance divided by
    the norm of that of their layer, and every layer keeps its best; units are ranked within their
    layer, so that all layers keep equally many. A head or unit is closed when the columns of the
    next map that read it are all 0.
    """

    def __init__(
        self,
        weights: BertWeights,
        device: str,
        sparsity: Sparsity,
        total_steps: int,
        config: BertConfig,
    ) -> None:
        super().__init__(weights, device, sparsity, total_steps)
        sizes = config.heads_and_units
        self.n_groups = [heads if sparsity.pattern == "heads" else units for heads, units in sizes]
        self.extra["importance"] = self.parameters_P.new_zeros(sum(self.n_groups))

    def look_at_gradient(self) -> None:
        """Add up how important each head or unit is to this batch."""
        maps = zip(
            self._pruned(self.parameters_P), self._pruned(self.gradient_P), self.n_groups,
            strict=True,
        )  # fmt: skip
        self.extra["importance"] += torch.cat([gate_gradients(*one).abs() for one in maps])

    def _choose(self, share: float) -> None:
        keeps = [
            keep_OI.view(len(keep_OI), n, -1)
            for keep_OI, n in zip(self._pruned(self.extra["keep"]), self.n_groups, strict=True)
        ]
        layers = self.extra["importance"].split(self.n_groups)
        scores = [
            # what is closed ranks below all others, and stays closed
            torch.where(
                keep_OGK.any(dim=2).any(dim=0), score_G / score_G.norm().clamp(min=1e-30), -1.0
            )
            for keep_OGK, score_G in zip(keeps, layers, strict=True)
        ]
        if self.sparsity.pattern == "heads":
            for score_G in scores:
                score_G[score_G.argmax()] = math.inf
            chosen = keep_largest(torch.cat(scores), share).split(self.n_groups)
        else:
            chosen = tuple(keep_largest(score_G, share) for score_G in scores)
        for keep_OGK, chosen_G in zip(keeps, chosen, strict=True):
            keep_OGK &= chosen_G[:, None]
        self.extra["importance"].zero_()

    def _pruned(self, flat_P: Tensor) -> list[Tensor]:
        """The map of each layer that reads the outputs of its heads, or of its units."""
        blocks = views_of(flat_P, self.shapes).blocks
        if self.sparsity.pattern == "heads":
            return [block.attention.output.weight_OI for block in blocks]
        return [block.output.weight_OI for block in blocks]


def trainable_for(
    weights: Weights,
    device: str,
    sparsity: Sparsity | None,
    total_steps: int,
    config: BertConfig | None = None,
) -> Trainable[Weights]:
    """A model that learns, and becomes sparse if that is wanted.

    Heads and units can be closed only in a BERT, whose `config` has to be given.

    Raises
        CheckpointError  as `check_fits`.
    """
    if sparsity is None:
        return Trainable(weights, device)
    check_fits(sparsity, weights, config)
    if sparsity.pattern not in GATED:
        return SparseTrainable(weights, device, sparsity, total_steps)
    if not isinstance(weights, BertWeights) or config is None:
        raise TypeError(f"the pattern {sparsity.pattern} needs a BERT and its config")
    return GatedTrainable(weights, device, sparsity, total_steps, config)  # type: ignore[return-value]


def check_fits(sparsity: Sparsity, weights: Any, config: BertConfig | None = None) -> None:
    """Check, before anything is trained, whether a model can become this sparse.

    Raises
        CheckpointError  4 does not divide a width, or a layer would have no head or unit left.
    """
    if sparsity.pattern == "2:4":
        for name, tensor in named_tensors(weights):
            if is_pruned(name) and tensor.shape[1] % 4:
                raise CheckpointError(
                    f"--pattern 2:4 needs widths divisible by 4, but {name} has {tensor.shape[1]}"
                )
    if sparsity.pattern in GATED and config is not None:
        heads, units = zip(*config.heads_and_units, strict=True)
        of_heads = sparsity.pattern == "heads"
        total, stay = (sum(heads), len(heads)) if of_heads else (min(units), 1)
        if round(sparsity.share * total) > total - stay:
            raise CheckpointError(
                f"--pattern {sparsity.pattern} with --sparsity {sparsity.share:g} would empty a "
                f"layer; at most {total - stay:,} of {total:,} can be pruned"
            )


def as_kept(
    weights: BertWeights, config: BertConfig, sparsity: Sparsity | None
) -> tuple[BertWeights, BertConfig]:
    """A model as it is saved: without the heads and units that add nothing."""
    if sparsity is None or sparsity.pattern not in GATED:
        return weights, config
    return without_idle(weights, config)


def is_pruned(name: str) -> bool:
    """Whether the weight at this path is a map of a block; tables, norms, biases, heads stay.

    >>> is_pruned("blocks.0.attention.query.weight_OI"), is_pruned("classifier.weight_OI")
    (True, False)
    >>> is_pruned("decoder.cross.0.attention.key.weight_OI")
    True
    """
    return ("blocks." in name or "cross." in name) and name.endswith("weight_OI")


def sparsity_sentence(weights: Any, config: BertConfig | None = None) -> str:
    """How sparse a model has become: its zeros and what they take, or what parts are left."""
    sizes = f"{n_parameters(weights):,} parameters"
    if config is not None:
        sizes += f", {shape_told(config)}"
    size = size_of(dict(named_tensors(weights)))
    if size.weights:
        return f"{sizes}; {size_sentence(size)}"
    zeros, count = zeros_of(weights)
    few = f"; {zeros:,} of {count:,} weights of its maps are 0, too few for a smaller packed file"
    return sizes + few if zeros else sizes


def lost_zeros_warning(
    weights: Weights, sparsity: Sparsity | None, first_stage: bool = False
) -> str:
    """What training does to zeros that are there; empty if it keeps them, or there are none.

    A distillation's first stage, from states, keeps none.
    """
    zeros, count = zeros_of(weights)
    if not zeros or not (first_stage or sparsity is None or sparsity.method == "movement"):
        return ""
    how = "by movement" if sparsity is not None else "without --sparsity"
    if first_stage:
        how = "on the teacher's states (--intermediate-epochs)"
    return (
        f"{zeros:,} of {count:,} weights in the maps of the blocks are 0 now; training "
        f"{how} will change them"
    )


def zeros_of(weights: Weights) -> tuple[int, int]:
    """How many weights of the maps of blocks are 0, and how many there are."""
    maps = [tensor for name, tensor in named_tensors(weights) if is_pruned(name)]
    return sum(int((x == 0).sum()) for x in maps), sum(x.numel() for x in maps)
