"""What is made smaller: one objective for each stage, each a few lines over the book's losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.data.batches import Batch, collate, epoch_order
from minibert.data.tokenizer import Encoding
from minibert.distillation import (
    TermWeights,
    distillation_loss,
    intermediate_terms,
    prediction_loss,
)
from minibert.kernels.encoder import AnyWeights, encode_traced
from minibert.losses import cross_entropy, squared_error
from minibert.parameters import BertWeights
from minibert.training.evaluation import check_lengths, task_logits


@dataclass(frozen=True)
class Texts:
    """Tokens to train on, how they are cut into batches, and where which model computes on them.

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
        check_lengths(self.encodings, self.config)

    def order(self, epoch: int) -> list[list[int]]:
        """Batches of similar length in random order: a function of seed and epoch alone."""
        lengths = [len(encoding.ids) for encoding in self.encodings]
        return epoch_order(lengths, self.batch_size, self.seed, epoch)

    def counted(self, rows: Sequence[int]) -> int:
        """Every loss here is a mean over texts."""
        return len(rows)

    def batch(self, rows: Sequence[int]) -> Batch:
        """These rows, padded to the longest of them."""
        return collate(self.encodings, None, rows, self.pad_id).to(self.device)


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


@dataclass(frozen=True)
class IntermediateObjective(Texts):
    """TinyBERT's first stage: the student's states and scores follow the teacher's."""

    teacher: AnyWeights
    teacher_config: BertConfig
    layers: tuple[int, ...]
    term_weights: TermWeights
    mode: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lengths(self.encodings, self.teacher_config)

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        batch = self.batch(rows)
        inputs = (batch.ids_BS, batch.keep_BS, batch.types_BS)
        with torch.no_grad():  # and no generator: the teacher is in evaluation mode
            teacher = encode_traced(*inputs, self.teacher, self.teacher_config)
        student = encode_traced(*inputs, weights, self.config, generator)
        terms = intermediate_terms(
            student,
            teacher,
            batch.keep_BS,
            self.layers,
            weights.fit_dense,
            self.term_weights,
            self.mode,
        )
        loss_B = distillation_loss(terms, self.term_weights)
        named = zip(("embedding", "hidden", "attention"), terms[:3], strict=True)
        return {"loss": loss_B.mean()} | {
            name: term_B.mean() for name, term_B in named if term_B is not None
        }


@dataclass(frozen=True)
class PredictionObjective(Texts):
    """TinyBERT's second stage: the student's answers follow the teacher's, computed once."""

    teacher_logits_XC: Tensor
    temperature: float
    mode: str

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        logits_BC = task_logits(self.batch(rows), weights, self.config, generator)
        teacher_BC = self.teacher_logits_XC[list(rows)].to(self.device)
        return {"loss": prediction_loss(logits_BC, teacher_BC, self.temperature, self.mode).mean()}
