"""What is minimised: one objective for each stage, each a few lines on top of the book's losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.data.batches import Batch, collate, epoch_order
from minibert.data.tokenizer import Encoding
from minibert.distillation import (
    DistillationTerms,
    TermWeights,
    distillation_loss,
    intermediate_terms,
    prediction_terms,
)
from minibert.encoder import EncoderTrace
from minibert.kernels.encoder import AnyWeights, encode_traced
from minibert.losses import cross_entropy, squared_error
from minibert.parameters import BertWeights
from minibert.training.evaluation import check_readable, task_logits
from minibert.training.stopwatch import timed


@dataclass(frozen=True)
class Texts:
    """Tokens to train on, how they are cut into batches, the device, and the config of the model.

    Raises
        CheckpointError  a text is too long for the model.
    """

    encodings: Sequence[Encoding]
    batch_size: int
    seed: int
    pad_id: int
    device: torch.device
    config: BertConfig

    def __post_init__(self) -> None:
        check_readable(self.encodings, self.config)

    def order(self, epoch: int) -> list[list[int]]:
        """Batches of similar length in random order: a function of seed and epoch alone."""
        lengths = [len(encoding.ids) for encoding in self.encodings]
        return epoch_order(lengths, self.batch_size, self.seed, epoch)

    def counted(self, rows: Sequence[int]) -> int:
        """Every loss here is a mean over texts."""
        return len(rows)

    @timed("data")
    def batch(self, rows: Sequence[int]) -> Batch:
        """These rows, padded to the longest of them."""
        return collate(self.encodings, rows, self.pad_id).to(self.device)


@dataclass(frozen=True)
class LabelObjective(Texts):
    """Learn the labels: cross-entropy of classes, squared error of scores."""

    labels_X: Tensor

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        logits_BC = task_logits(self.batch(rows), weights, self.config, generator)
        labels_B = self.labels_X[list(rows)].to(self.device)
        if self.labels_X.is_floating_point():
            return {"loss": squared_error(logits_BC[:, 0], labels_B)}
        return {"loss": cross_entropy(logits_BC, labels_B)}


class Teaching(Protocol):
    """Where the teacher's states come from: computed on the fly, or read from a file."""

    def trace(self, rows: Sequence[int], batch: Batch) -> EncoderTrace:
        """The teacher's states for the rows of a batch, padded like it."""


@dataclass(frozen=True)
class ComputedStates:
    """The teacher computes its states anew for every batch, without dropout or gradients."""

    weights: AnyWeights
    config: BertConfig

    @timed("teacher")
    @torch.no_grad()
    def trace(self, rows: Sequence[int], batch: Batch) -> EncoderTrace:
        return encode_traced(
            batch.ids_BS, batch.keep_BS, batch.types_BS, self.weights, self.config
        )


@dataclass(frozen=True)
class IntermediateObjective(Texts):
    """TinyBERT's first stage: the student's states and scores follow the teacher's."""

    teacher: Teaching
    layers: tuple[int, ...]
    term_weights: TermWeights
    mode: str
    relation_heads: int | None = None

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        batch = self.batch(rows)
        teacher = self.teacher.trace(rows, batch)
        student = encode_traced(
            batch.ids_BS, batch.keep_BS, batch.types_BS, weights, self.config, generator
        )
        terms = intermediate_terms(
            student,
            teacher,
            batch.keep_BS,
            self.layers,
            weights.fit_dense,
            self.term_weights,
            self.mode,
            self.relation_heads,
        )
        return _means(terms, distillation_loss(terms, self.term_weights))


@dataclass(frozen=True)
class PredictionObjective(Texts):
    """TinyBERT's second stage: the student's answers follow the teacher's, computed once.

    Where `term_weights.label` asks for it, the labels count as well, for the texts that have one:
    `labels_X` is NaN where a text has none.
    """

    teacher_logits_XC: Tensor
    labels_X: Tensor
    term_weights: TermWeights
    temperature: float
    temperature_squared: bool
    mode: str

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        logits_BC = task_logits(self.batch(rows), weights, self.config, generator)
        teacher_BC = self.teacher_logits_XC[list(rows)].to(self.device)
        labels_B = self.labels_X[list(rows)].to(self.device)
        has_label_B = ~labels_B.isnan()
        labels_B = labels_B.nan_to_num(0.0)
        terms = prediction_terms(
            logits_BC,
            teacher_BC,
            labels_B if logits_BC.shape[1] == 1 else labels_B.long(),
            self.term_weights,
            self.temperature,
            self.mode,
            self.temperature_squared,
        )
        if terms.label_B is not None:
            terms = terms._replace(label_B=torch.where(has_label_B, terms.label_B, 0))
        return _means(terms, distillation_loss(terms, self.term_weights))


def _means(terms: DistillationTerms, loss_B: Tensor) -> dict[str, Tensor]:
    """The mean over the batch of the loss, and of each of its terms if there are several."""
    named = {
        name.removesuffix("_B"): term_B.mean()
        for name, term_B in terms._asdict().items()
        if term_B is not None
    }
    return {"loss": loss_B.mean()} | (named if len(named) > 1 else {})
