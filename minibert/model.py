"""The high-level API: a BERT with its head and vocabulary, loaded from a folder or id, and saved.

B texts of a batch · n texts of a call · S tokens · D width · C classes. Nothing here computes
gradients; to train, hand `weights` to the functions of the book.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.checkpoint import LoadReport
from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import Batch, collate, sorted_order
from minibert.data.tokenizer import Encoding, Tokenizer, required_tokenizer
from minibert.encoder import EncoderTrace
from minibert.files import save_folder
from minibert.functional import at_least_float32, softmax
from minibert.heads import mlm_logits, nsp_logits, pooled, sequence_logits
from minibert.hub import model_folder
from minibert.kernels.encoder import AnyWeights, encode, encode_first, encode_traced, prepared
from minibert.kernels.products import Arithmetic, arithmetic, fixed_arithmetic
from minibert.module import BertModule
from minibert.parameters import BertWeights, initial_weights, named_tensors, with_tensors
from minibert.pretrained import (
    HEADS,
    check_head,
    check_vocabulary,
    head_shapes,
    load_model,
    vocabulary_notes,
)


class Guess(NamedTuple):
    """One word for a masked place, and how probable the model finds it."""

    piece: str
    probability: float


class Prediction(NamedTuple):
    """The likeliest label, and the probability of every label."""

    label: str
    probabilities: dict[str, float]


@dataclass(eq=False)
class Bert:
    """A model: sizes, weights, which head they carry, and the vocabulary if there is one.

    `report` tells what became of each key when it was loaded. `arithmetic` says how to compute:
    "book", "torch", "onednn", "int8", or None for what is fastest on this machine. `precision` is
    that of the encoder's arithmetic, None that of the weights, in which the heads compute.
    """

    config: BertConfig
    weights: BertWeights
    head: str = "encoder"
    tokenizer: Tokenizer | None = None
    report: LoadReport = field(default_factory=LoadReport)
    arithmetic: Arithmetic | None = None
    precision: torch.dtype | None = None
    _kept: tuple[Any, ...] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        check_head(self.head)
        architectures = (HEADS[self.head].architecture,)  # what a saved folder will say it is
        self.config = dataclasses.replace(self.config, architectures=architectures)
        check_vocabulary(self.tokenizer, self.config)

    @classmethod
    def from_config(
        cls,
        config: BertConfig,
        head: str = "encoder",
        tokenizer: Tokenizer | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> "Bert":
        """A fresh model with random weights.

        >>> config = BertConfig(vocab_size=9, hidden_size=12, num_hidden_layers=1)
        >>> Bert.from_config(config, "classification").weights.classifier.bias_O
        tensor([0., 0.])
        """
        check_head(head)
        generator = torch.Generator().manual_seed(seed)
        shapes = head_shapes(config, head)
        weights = initial_weights(shapes, config.initializer_range, generator, dtype)
        return cls(config, weights, head, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        head: str | None = None,
        new_head: str | None = None,
        labels: Sequence[str] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        fit_dense: bool = False,
        local_files_only: bool = False,
        arithmetic: Arithmetic | None = None,
    ) -> "Bert":
        """Load a model folder, or the id of one on huggingface.co.

        `head` is one of `HEADS`, by default the one that the folder's `architectures` names. With
        `new_head` that head is drawn at random from `seed`, with these `labels`, and so is a pooler
        that it needs and the file lacks; this is the only way to load a file that lacks something.
        `fit_dense` asks for TinyBERT's projection as well.

        Raises
            CheckpointError  no such folder or model; it is damaged, incomplete, or holds something
                             that is not part of this model; all keys are named.
        """
        folder = model_folder(name, local_files_only)
        config, weights, head, report = load_model(
            folder, head, new_head, labels, seed, dtype, fit_dense
        )
        notes = vocabulary_notes(folder)
        tokenizer = None if notes else Tokenizer.from_folder(folder)
        report = report._replace(notes=(*report.notes, *notes))
        return cls(config, weights, head, tokenizer, report, arithmetic)

    def save_pretrained(self, folder: str | Path, packed: bool = False) -> None:
        """Write config, weights and vocabulary so that minibert and `transformers` open them.

        `packed` writes a sparse model to a smaller file that only minibert opens, see
        `minibert.packed`.

        Raises
            OSError  the disk is full or not writable; a model that was there is untouched.
        """

        def add_vocabulary(staged: Path) -> None:
            if self.tokenizer is not None:
                self.tokenizer.save(staged, self.config.max_position_embeddings)

        save_folder(Path(folder), self.config, self.weights, add_vocabulary, packed)

    def as_module(self) -> BertModule:
        """The model as an `nn.Module` that shares its parameters; see `minibert.module`.

        `state_dict()` has the keys of the saved file. After training,
        `dataclasses.replace(bert, weights=module.weights())` is a `Bert` with the new weights.
        """
        return BertModule(self.config, self.weights, self.head)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> "Bert":
        """The same model on another device, or in another precision."""
        moved = {path: tensor.to(device, dtype) for path, tensor in named_tensors(self.weights)}
        return dataclasses.replace(self, weights=with_tensors(self.weights, moved))

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        second: Sequence[str] | None = None,
        pool: str | None = None,
        batch_size: int = 32,
    ) -> list[Tensor] | Tensor:
        """The last hidden states of each text, [S, D]; with `pool` one vector a text, [n, D].

        `pool="mean"` averages over the text's tokens, `pool="cls"` takes the first. Texts longer
        than the model has positions are cut.
        """
        if pool not in (None, "mean", "cls"):
            raise ValueError(f"pool is {pool!r}, but must be None, 'mean' or 'cls'")

        def states(batch: Batch, hidden_BSD: Tensor) -> list[Tensor]:
            lengths = batch.keep_BS.sum(1).tolist()
            return [hidden_SD[:n] for hidden_SD, n in zip(hidden_BSD, lengths, strict=True)]

        def vectors(batch: Batch, hidden_BSD: Tensor) -> list[Tensor]:
            if pool == "cls":
                return list(hidden_BSD[:, 0])
            keep_BS1 = batch.keep_BS[:, :, None]
            return list((hidden_BSD * keep_BS1).sum(1) / keep_BS1.sum(1))

        if pool is None:
            return self._over_batches(self._encoded(texts, second), states, batch_size)
        wanted = encode_first if pool == "cls" else encode
        rows = self._over_batches(self._encoded(texts, second), vectors, batch_size, wanted)
        return torch.stack(rows) if rows else self.weights.embeddings.word_VD[:0]

    @torch.no_grad()
    def logits(
        self, texts: Sequence[str], second: Sequence[str] | None = None, batch_size: int = 32
    ) -> Tensor:
        """The output of the head for each text, [n, C]: classes, one score, or next / not next.

        Raises
            CheckpointError  the model has no head that judges whole texts, or its answers are not
                             finite.
        """
        pooler, classifier, nsp = self.weights.pooler, self.weights.classifier, self.weights.nsp
        last = nsp if self.head == "nsp" else classifier
        if self.head not in ("classification", "regression", "nsp") or not (pooler and last):
            raise CheckpointError(
                f"the model has the head {self.head!r}, but judging whole texts needs "
                "'classification', 'regression' or 'nsp'; finetune or distil one first"
            )
        judge = nsp_logits if self.head == "nsp" else sequence_logits

        def judged(batch: Batch, hidden_BSD: Tensor) -> list[Tensor]:
            return list(judge(pooled(hidden_BSD, pooler), last))

        rows = self._over_batches(self._encoded(texts, second), judged, batch_size, encode_first)
        logits_XC = torch.stack(rows) if rows else last.bias_O.expand(0, -1)
        if not logits_XC.isfinite().all():
            raise CheckpointError("the model's answers are not finite; its weights are too large")
        return logits_XC

    def classify(
        self, texts: Sequence[str], second: Sequence[str] | None = None, batch_size: int = 32
    ) -> list[Prediction]:
        """The likeliest label of each text, or pair of texts, and the probability of all labels.

        Raises
            CheckpointError  the model is not a classifier with one label per text.
        """
        if (
            self.head != "classification"
            or self.config.problem_type == "multi_label_classification"
        ):
            raise CheckpointError(
                f"the model has the head {self.head!r} of type {self.config.problem_type!r}, but "
                "classify needs a classifier that chooses one label"
            )
        names = tuple(self.config.id2label.values())
        predictions = []
        logits_XC = at_least_float32(self.logits(texts, second, batch_size))
        for probabilities_C in softmax(logits_XC).tolist():
            best = max(range(len(names)), key=probabilities_C.__getitem__)
            by_name = dict(zip(names, probabilities_C, strict=True))
            predictions.append(Prediction(names[best], by_name))
        return predictions

    @torch.no_grad()
    def fill_mask(self, text: str, top: int = 5) -> list[list[Guess]]:
        """The likeliest pieces for each [MASK] of a text, from left to right.

        Raises
            CheckpointError  the model has no masked-word head.
            ValueError       the text has no [MASK], or one where the model has no position.
        """
        mlm = self.weights.mlm
        if mlm is None:
            raise CheckpointError(
                f"the model has the head {self.head!r}, but filling a mask needs 'mlm' or "
                "'pretraining'; an encoder alone was never taught to name words"
            )
        (encoding,) = self._encoded([text])
        assert self.tokenizer is not None
        batch = self._batch([encoding], [0])
        masked_S = batch.ids_BS[0] == self.tokenizer.mask_id
        (whole,) = self.tokenizer.encode([text])
        count, total = int(masked_S.sum()), whole.ids.count(self.tokenizer.mask_id)
        if count == 0 or count < total:
            found = f"only {count} of its {total} [MASK]" if count else "no [MASK]"
            limit = self.config.max_position_embeddings
            raise ValueError(f"the text has {found} among its first {limit} tokens")
        hidden_SD = self._hidden(batch, encode)[0]
        logits_MV = mlm_logits(
            hidden_SD[masked_S], mlm, self.weights.embeddings.word_VD, self.config
        )
        pieces = self.tokenizer.pieces
        probabilities_MV = softmax(at_least_float32(logits_MV[:, : len(pieces)]))
        best = probabilities_MV.topk(min(top, len(pieces)), dim=-1)
        return [
            [Guess(pieces[i], p) for i, p in zip(ids, probabilities, strict=True)]
            for ids, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @torch.no_grad()
    def trace(self, text: str, second: str | None = None) -> EncoderTrace:
        """Every state of the encoder for one text; `tokens` names the positions."""
        (encoding,) = self._encoded([text], None if second is None else [second])
        with arithmetic(self.arithmetic):
            return encode_traced(*self._batch([encoding], [0]), self._ready(), self.config)

    def tokens(self, text: str, second: str | None = None) -> list[str]:
        """The pieces that the model sees, [CLS] and [SEP] included."""
        (encoding,) = self._encoded([text], None if second is None else [second])
        return [required_tokenizer(self.tokenizer).pieces[i] for i in encoding.ids]

    def _ready(self) -> AnyWeights:
        """The weights in their fastest form, prepared at the first use.

        They are prepared again for other weights, another arithmetic or precision; numbers that are
        written into the tensors of `weights` afterwards go unnoticed.
        """
        way = (fixed_arithmetic(), self.precision)
        if self._kept is None or self._kept[0] is not self.weights or self._kept[1] != way:
            self._kept = (self.weights, way, prepared(self.weights, self.precision))
        ready: AnyWeights = self._kept[2]
        return ready

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": None}  # packed weights cannot be copied

    def _hidden(self, batch: Batch, encoder: Callable[..., Tensor]) -> Tensor:
        with arithmetic(self.arithmetic):
            hidden_BSD = encoder(*batch, self._ready(), self.config)
        return hidden_BSD.to(self.weights.embeddings.word_VD.dtype)

    def _encoded(self, texts: Sequence[str], second: Sequence[str] | None = None) -> list[Encoding]:
        tokenizer = required_tokenizer(self.tokenizer)
        return tokenizer.encode(texts, second, self.config.max_position_embeddings)

    def _batch(self, encodings: Sequence[Encoding], rows: Sequence[int]) -> Batch:
        device = self.weights.embeddings.word_VD.device
        return collate(encodings, rows, required_tokenizer(self.tokenizer).pad_id).to(device)

    def _over_batches(
        self,
        encodings: Sequence[Encoding],
        result_of: Callable[[Batch, Tensor], list[Tensor]],
        batch_size: int,
        encoder: Callable[..., Tensor] | None = None,
    ) -> list[Tensor]:
        """One result per text, in the order of the texts; the shortest are computed first."""
        results: dict[int, Tensor] = {}
        for rows in sorted_order([len(one.ids) for one in encodings], batch_size):
            batch = self._batch(encodings, rows)
            hidden_BSD = self._hidden(batch, encoder or encode)
            results |= zip(rows, result_of(batch, hidden_BSD), strict=True)
        return [results[row] for row in range(len(encodings))]
