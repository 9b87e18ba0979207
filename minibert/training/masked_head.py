"""A masked-word head for an encoder that has none, such as one that was trained for sentences.

The encoder stays as it is, and so does its word table, to which the head is tied; only the head's
map, norm and bias learn. So no gradient goes through the encoder: its states at the masked places
are computed as for inference, and the head is trained on those.
B rows of a batch · S tokens · M masked tokens of a batch · D width · V words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.data.batches import collate, epoch_order, sorted_order
from minibert.data.corpus import windows
from minibert.data.tables import DataError
from minibert.data.tokenizer import Encoding, required_tokenizer
from minibert.heads import mlm_logits
from minibert.kernels.encoder import AnyWeights, encode, prepared
from minibert.kernels.losses import smoothed_cross_entropy
from minibert.kernels.optim import adam_step, clip_by_global_norm
from minibert.kernels.products import arithmetic
from minibert.masking import chosen_tokens, masked_count
from minibert.model import Bert
from minibert.optim import AdamOptions, initial_adam_state, linear_schedule
from minibert.parameters import (
    BertWeights,
    LayerNormWeights,
    LinearWeights,
    MlmWeights,
    flatten,
    views_of,
)
from minibert.training.progress import Display
from minibert.training.runs import NotFinite

MOST_MASKED = 20  # of one run of tokens, as in Google's recipe


@dataclass(frozen=True)
class MaskedHeadOptions:
    """How to train the head; `rate` is the share of masked tokens, `held_out` that of test runs."""

    epochs: int = 3
    lr: float = 2e-3
    warmup: float = 0.1
    batch_size: int = 32
    max_length: int = 64
    rate: float = 0.15
    held_out: float = 0.05
    seed: int = 0
    dtype: torch.dtype = torch.float32


class TrainedHead(NamedTuple):
    """The model with its new head, and how often it was right on held-out runs.

    `accuracy` holds "top1", "top5", and "commonest" for always guessing the commonest piece; `n`
    is the number of masked tokens that were tested.
    """

    bert: Bert
    accuracy: dict[str, float]
    n: int


class MaskedStates(NamedTuple):
    """What the encoder makes of masked tokens, and which they were."""

    hidden_MD: Tensor
    labels_M: Tensor


def train_masked_head(
    bert: Bert,
    texts: Sequence[str],
    options: MaskedHeadOptions | None = None,
    display: Display | None = None,
) -> TrainedHead:
    """Train a masked-word head on raw text, on top of a frozen encoder.

    Masks are drawn anew in every epoch. A head that the model already has is trained further; a
    new one starts as `initial_head`. With 0 epochs it is only measured. The result holds
    the encoder and this head, and no other part.

    How good it gets depends on what the encoder still knows about words. One that was trained to
    tell what a sentence is about says little about a single masked word: look at `accuracy`, and
    whether the neighbours in the word table are better candidates.

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1, for the head and the masks.

    Differs
        There a fifth of the chosen tokens are not hidden by [MASK], so that the encoder learns to
        look at every token. Here the encoder does not learn, and a word that can still be read
        would only teach the head to repeat it.

    Raises
        CheckpointError  the model came without a vocabulary.
        DataError        there is not enough text for one run to train on and one to keep back.
        NotFinite        the loss or its gradient is infinite or not a number.
    """
    options, display = options or MaskedHeadOptions(), display or Display(quiet=True)
    length = min(options.max_length, bert.config.max_position_embeddings)
    runs = windows([[text] for text in texts], required_tokenizer(bert.tokenizer), length)
    kept_back, train_runs = _held_out(runs, options.held_out)
    word_VD = bert.weights.embeddings.word_VD
    with arithmetic(bert.arithmetic):
        masking = _Masking(bert, prepared(bert.weights, options.dtype), options.rate)
        counts_V = _counts(train_runs, len(word_VD)).to(word_VD.device)
        start = bert.weights.mlm or initial_head(counts_V, bert.config)
        head = _trained(start, masking, train_runs, word_VD.float(), options, display)
        generator = _generator(options.seed, 0)
        tested = [
            masking.states([kept_back[row] for row in rows], generator)
            for rows in sorted_order([len(run.ids) for run in kept_back], options.batch_size)
        ]
    accuracy = _accuracy(tested, head, word_VD.float(), bert.config)
    labels_M = torch.cat([states.labels_M for states in tested])
    accuracy["commonest"] = float((labels_M == counts_V.argmax()).float().mean())
    mlm = views_of(flatten(head).to(word_VD.dtype), head)
    weights = BertWeights(bert.weights.embeddings, bert.weights.blocks, mlm=mlm)
    trained = Bert(bert.config, weights, "mlm", bert.tokenizer, arithmetic=bert.arithmetic)
    return TrainedHead(trained, accuracy, len(labels_M))


def initial_head(counts_V: Tensor, config: BertConfig) -> MlmWeights:
    """A head that passes states on as they are, and knows how common each piece is.

    The bias is the logarithm of a piece's share, each counted once more than it was seen.
    """
    width, device = config.hidden_size, counts_V.device
    seen_V = counts_V.float() + 1
    return MlmWeights(
        LinearWeights(torch.eye(width, device=device), torch.zeros(width, device=device)),
        LayerNormWeights(torch.ones(width, device=device), torch.zeros(width, device=device)),
        (seen_V / seen_V.sum()).log(),
    )


class _Masking:
    """The frozen encoder at work on masked runs of tokens."""

    def __init__(self, bert: Bert, weights: AnyWeights, rate: float) -> None:
        assert bert.tokenizer is not None
        self.tokenizer, self.config, self.weights, self.rate = (
            bert.tokenizer, bert.config, weights, rate,
        )  # fmt: skip
        self.device = bert.weights.embeddings.word_VD.device

    def masked(self, run: Encoding, generator: torch.Generator) -> tuple[Encoding, list[int]]:
        """A run with [MASK] for some tokens, and the labels that say which they were."""
        ids_S = torch.tensor(run.ids)
        groups_S = torch.arange(len(ids_S))
        groups_S[0] = groups_S[-1] = -1  # never [CLS] and [SEP]
        count = masked_count(len(ids_S), self.rate, MOST_MASKED)
        chosen_S = chosen_tokens(groups_S, count, generator)
        hidden_S = torch.where(chosen_S, self.tokenizer.mask_id, ids_S)
        labels_S = torch.where(chosen_S, ids_S, -100)
        return Encoding(hidden_S.tolist(), run.types), labels_S.tolist()

    @torch.no_grad()
    def states(self, runs: Sequence[Encoding], generator: torch.Generator) -> MaskedStates:
        """The last states at the masked places alone, in float32."""
        masked = [self.masked(run, generator) for run in runs]
        batch = collate([run for run, _ in masked], range(len(runs)), self.tokenizer.pad_id)
        hidden_BSD = encode(*batch.to(self.device), self.weights, self.config)
        rows = [row for row, (_, labels) in enumerate(masked) for i in labels if i != -100]
        places = [p for _, labels in masked for p, i in enumerate(labels) if i != -100]
        labels_M = torch.tensor([i for _, labels in masked for i in labels if i != -100])
        return MaskedStates(hidden_BSD[rows, places].float(), labels_M.to(self.device))


def _trained(
    start: MlmWeights,
    masking: _Masking,
    runs: Sequence[Encoding],
    word_VD: Tensor,
    options: MaskedHeadOptions,
    display: Display,
) -> MlmWeights:
    """Adam on the head alone, one step a batch of runs."""
    head_P = flatten(start).float().requires_grad_()
    state = initial_adam_state(head_P.detach())
    lengths = [len(run.ids) for run in runs]
    total = options.epochs * len(epoch_order(lengths, options.batch_size, options.seed, 0))
    warmup, sum_of_losses = round(options.warmup * total), 0.0
    with display.phase("masked head", total) as bar:
        for epoch in range(options.epochs):
            generator = _generator(options.seed, epoch + 1)
            for rows in epoch_order(lengths, options.batch_size, options.seed, epoch):
                states = masking.states([runs[row] for row in rows], generator)
                head = views_of(head_P, start)
                logits_MV = mlm_logits(states.hidden_MD, head, word_VD, masking.config)
                loss = smoothed_cross_entropy(logits_MV, states.labels_M, smoothing=0.0)
                (gradient_P,) = torch.autograd.grad(loss, head_P)
                _, norm = clip_by_global_norm((gradient_P,), 1.0)
                loss = loss.detach()
                if not (loss.isfinite() and norm.isfinite()):
                    raise NotFinite(
                        f"step {state.steps + 1}: the loss is {float(loss)}, the norm of its "
                        f"gradient {float(norm)}, but both must be finite; try a smaller lr"
                    )
                rate = options.lr * linear_schedule(state.steps, warmup, total)
                _, state = adam_step(head_P.detach(), gradient_P, state, rate, AdamOptions())
                sum_of_losses += float(loss)
                bar.advance({"loss": sum_of_losses / state.steps})
    return views_of(head_P.detach(), start)


@torch.no_grad()
def _accuracy(
    tested: Sequence[MaskedStates], head: MlmWeights, word_VD: Tensor, config: BertConfig
) -> dict[str, float]:
    """The share of masked tokens that are the likeliest guess, and one of the five likeliest."""
    hits: dict[str, int] = {"top1": 0, "top5": 0}
    for hidden_MD, labels_M in tested:
        best_M5 = mlm_logits(hidden_MD, head, word_VD, config).topk(5, dim=1).indices
        right_M5 = best_M5 == labels_M[:, None]
        hits["top1"] += int(right_M5[:, 0].sum())
        hits["top5"] += int(right_M5.sum())
    n = sum(len(states.labels_M) for states in tested)
    return {name: count / n for name, count in hits.items()}


def _held_out(runs: list[Encoding], share: float) -> tuple[list[Encoding], list[Encoding]]:
    """Every n-th run is held out, and the others are trained on."""
    every = max(2, round(1 / share))
    kept_back = runs[::every]
    others = [run for place, run in enumerate(runs) if place % every]
    if not others:
        raise DataError(
            f"{len(runs)} runs of tokens were found, but training a masked-word head needs two: "
            "one to train on, one to keep back"
        )
    return kept_back, others


def _counts(runs: Sequence[Encoding], n_words: int) -> Tensor:
    """How often each id occurs among the tokens between [CLS] and [SEP]."""
    ids = [i for run in runs for i in run.ids[1:-1]]
    return torch.bincount(torch.tensor(ids), minlength=n_words)


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number)
