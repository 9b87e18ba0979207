"""A small model for the page: it learns to predict masked words in the reviews of the demo.

M masked tokens of a batch · S tokens · V words.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minibert.data.demo import demo_corpus, demo_vocabulary
from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.heads import mlm_logits
from minibert.kernels.encoder import encode
from minibert.losses import cross_entropy
from minibert.masking import mask_tokens
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.demo import MAX_LENGTH, demo_models
from minibert.training.loop import TrainingOptions, train
from minibert.training.objectives import Texts
from minibert.training.progress import Display
from minibert.training.runs import finish_run
from minibert.training.trainable import Trainable

HELD_OUT = 400  # reviews for evaluation only
EPOCHS = 2


@dataclass(frozen=True)
class MaskedWords(Texts):
    """Predict the masked words, in batches of texts of similar length."""

    mask_id: int

    def masked(self, row: int, generator: torch.Generator) -> tuple[Encoding, Tensor]:
        """A review with some words masked, never [CLS] or [SEP], and the labels that say which."""
        ids_S = torch.tensor(self.encodings[row].ids)
        groups_S = torch.arange(len(ids_S))
        groups_S[0] = groups_S[-1] = -1
        hidden_S, labels_S = mask_tokens(
            ids_S, groups_S, self.config.vocab_size, self.mask_id, generator
        )
        return Encoding(hidden_S.tolist(), self.encodings[row].types), labels_S

    def logits(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The logits of every word at each masked position, and the words that were there."""
        masked = [self.masked(row, generator) for row in rows]
        hidden = dataclasses.replace(self, encodings=[one for one, _ in masked])
        batch = hidden.batch(range(len(rows)))
        labels_BS = torch.full_like(batch.ids_BS, -100)
        for row, (_, labels_S) in enumerate(masked):
            labels_BS[row, : len(labels_S)] = labels_S
        hidden_BSD = encode(*batch, weights, self.config)
        chosen_BS = labels_BS != -100
        assert weights.mlm is not None
        word_VD = weights.embeddings.word_VD
        logits_MV = mlm_logits(hidden_BSD[chosen_BS], weights.mlm, word_VD, self.config)
        return logits_MV, labels_BS[chosen_BS]

    def terms(
        self, rows: Sequence[int], weights: BertWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        assert generator is not None, "masks are drawn"
        return {"loss": cross_entropy(*self.logits(rows, weights, generator))}


def train_demo(folder: Path, seed: int, display: Display, epochs: int = EPOCHS) -> Bert:
    """Train the model, or resume its training, and save it to `folder`.

    Raises
        Interrupted  Ctrl-C or SIGTERM; the state is saved, and the next call resumes.
    """
    tokenizer = Tokenizer.from_vocabulary(demo_vocabulary())
    config, _ = demo_models(len(tokenizer.pieces))
    model = Bert.from_config(config, "mlm", tokenizer, seed)
    corpus = demo_corpus(seed)
    texts = [review.first for review in (*corpus.teacher_train, *corpus.pool)]
    encodings = tokenizer.encode(texts, max_length=MAX_LENGTH)
    place = (tokenizer.pad_id, torch.device("cpu"), model.config, tokenizer.mask_id)
    learned = MaskedWords(encodings[HELD_OUT:], 32, seed, *place)
    kept_back = MaskedWords(encodings[:HELD_OUT], 32, seed, *place)

    @torch.no_grad()
    def evaluate(weights: BertWeights) -> dict[str, float]:
        generator = torch.Generator().manual_seed(seed)
        said = [kept_back.logits(rows, weights, generator) for rows in kept_back.order(0)]
        right = torch.cat([logits_MV.argmax(1) == labels_M for logits_MV, labels_M in said])
        return {"accuracy": float(right.float().mean())}

    def keep(weights: BertWeights) -> None:
        dataclasses.replace(model, weights=weights).save_pretrained(folder)

    options = TrainingOptions(epochs=epochs, lr=2e-3, seed=seed)
    progress = train(
        learned, Trainable(model.weights), options, folder, "masked words", display,
        evaluate, "accuracy", keep,
    )  # fmt: skip
    finish_run(folder, {"metrics": progress.best_metrics, "model": str(folder)})
    return Bert.from_pretrained(folder)
