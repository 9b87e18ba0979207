"""Training a translator: teacher forcing, and BLEU on the dev set.

B pairs of a batch · S tokens of the texts read · T tokens of the texts written · V words.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import collate, epoch_order
from minibert.data.parallel import Pairs
from minibert.data.tables import DataError
from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.kernels.decoder import decode, empty_memory
from minibert.kernels.encoder import encode
from minibert.kernels.losses import smoothed_cross_entropy
from minibert.model import Bert
from minibert.training.comparison import n_parameters
from minibert.training.evaluation import check_readable
from minibert.training.loop import TrainingOptions, train
from minibert.training.progress import Display
from minibert.training.sparse import (
    lost_zeros_warning,
    sparsity_sentence,
    trainable_for,
    zeros_of,
)
from minibert.training.students import shaped_config
from minibert.translator import Translator, TranslatorWeights, decoder_of

IGNORED = -100  # the label of padding
NEW_SHAPE, NEW_DROPOUT = "4x256x4x512", 0.25


@dataclass(frozen=True)
class TranslationObjective:
    """Every word of the right text is predicted from the ones before it: teacher forcing."""

    sources: Sequence[Encoding]
    targets: Sequence[Encoding]
    batch_size: int
    seed: int
    pad_ids: tuple[int, int]
    device: torch.device
    encoder: BertConfig
    decoder: BertConfig
    smoothing: float

    def __post_init__(self) -> None:
        check_readable(self.sources, self.encoder)
        check_readable(self.targets, self.decoder)

    def order(self, epoch: int) -> list[list[int]]:
        """Batches of similar length in random order: a function of seed and epoch alone."""
        pairs = zip(self.sources, self.targets, strict=True)
        lengths = [len(source.ids) + len(target.ids) for source, target in pairs]
        return epoch_order(lengths, self.batch_size, self.seed, epoch)

    def counted(self, rows: Sequence[int]) -> int:
        """The loss is a mean over the words that are predicted; the first token is given."""
        return sum(len(self.targets[row].ids) - 1 for row in rows)

    def terms(
        self, rows: Sequence[int], weights: TranslatorWeights, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        source = collate(self.sources, rows, self.pad_ids[0]).to(self.device)
        target = collate(self.targets, rows, self.pad_ids[1]).to(self.device)
        decoder = decoder_of(weights)
        encoded_BSD = encode(*source[:3], weights.encoder, self.encoder, generator)
        memory = empty_memory(encoded_BSD, source.keep_BS, decoder, self.decoder)
        logits_BTV, _ = decode(target.ids_BS[:, :-1], memory, decoder, self.decoder, generator)
        labels_BT = torch.where(target.keep_BS, target.ids_BS, IGNORED)[:, 1:]
        loss = smoothed_cross_entropy(
            logits_BTV.flatten(0, 1), labels_BT.flatten(), self.smoothing
        )
        return {"loss": loss}


@dataclass(frozen=True)
class Beginning:
    """How a translator starts.

    `model` is a BERT that the encoder starts from, or None; `shape` is LxD[xN[xF]] of what is new,
    by default `NEW_SHAPE`, or the shape of that BERT. With `as_encoder` the decoder's layers start
    from that BERT's too, except for cross-attention.

    Source
        Rothe et al. 2020, arXiv:1907.12461, section 2: rnd2rnd, bert2rnd and bert2bert.

    Differs
        there bert2bert takes the tables and the head too, with one vocabulary for both texts; here
        the language written has a vocabulary of its own, so these start at random.
    """

    model: str | None = None
    shape: str | None = None
    vocab_size: int = 5000
    vocabulary: str = "shared"
    as_encoder: bool = False
    dropout: float | None = None
    max_length: int = 128
    seed: int = 0


def new_translator(
    beginning: Beginning, pairs: Pairs, languages: tuple[str, str]
) -> Translator:
    """An untrained translator; new vocabularies are trained on the pairs.

    Raises
        CheckpointError  the shape cannot be read; the BERT is damaged, or its width is not the
                         decoder's.
    """
    size, seed = beginning.vocab_size, beginning.seed
    if beginning.model is not None:
        return _with_encoder(beginning.model, beginning, pairs, languages)
    if beginning.vocabulary == "shared":
        source = target = Tokenizer.trained([*pairs.sources, *pairs.targets], size)
    else:
        source, target = (Tokenizer.trained(texts, size) for texts in pairs[1:])
    rate = NEW_DROPOUT if beginning.dropout is None else beginning.dropout
    like = BertConfig(max_position_embeddings=beginning.max_length)
    config = shaped_config(beginning.shape or NEW_SHAPE, like, rate)
    encoder, decoder = (
        dataclasses.replace(config, vocab_size=len(one.pieces)) for one in (source, target)
    )
    return Translator.from_config(encoder, decoder, source, target, languages, seed)


def _with_encoder(
    name: str, beginning: Beginning, pairs: Pairs, languages: tuple[str, str]
) -> Translator:
    """A translator whose encoder is an existing BERT."""
    bert = Bert.from_pretrained(name, "encoder")
    if bert.tokenizer is None:
        raise CheckpointError(f"{name} has no vocabulary, so it cannot read text")
    target = Tokenizer.trained(pairs.targets, beginning.vocab_size)
    encoder = dataclasses.replace(
        shaped_config(shape_of(bert.config), bert.config, beginning.dropout),
        pruned=bert.config.pruned,
    )
    decoder = dataclasses.replace(
        shaped_config(beginning.shape or shape_of(encoder), encoder, beginning.dropout),
        vocab_size=len(target.pieces),
        max_position_embeddings=beginning.max_length,
    )
    model = Translator.from_config(
        encoder, decoder, bert.tokenizer, target, languages, beginning.seed
    )
    own, written = bert.weights._replace(pooler=None), model.weights.decoder
    if beginning.as_encoder:
        if encoder.pruned is not None:
            raise CheckpointError(
                "the encoder is pruned, so its layers cannot initialise the decoder; use --decoder "
                "random"
            )
        if shape_of(encoder) != shape_of(decoder):
            raise CheckpointError(
                f"the decoder is {shape_of(decoder)}, but the encoder {shape_of(encoder)}; to "
                "copy its layers, the shapes must be equal"
            )
        written = written._replace(bert=written.bert._replace(blocks=own.blocks))
    return dataclasses.replace(model, weights=TranslatorWeights(own, written))


def shape_of(config: BertConfig) -> str:
    """Layers, width, heads and feed-forward width."""
    return (
        f"{config.num_hidden_layers}x{config.hidden_size}x{config.num_attention_heads}"
        f"x{config.intermediate_size}"
    )


def learn_to_translate(
    model: Translator,
    train_set: Pairs,
    dev_set: Pairs,
    out: Path,
    options: TrainingOptions,
    batch_size: int,
    max_length: int,
    smoothing: float,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train on the pairs of `train_set`; the best model on `dev_set`, by chrF, is saved to `out`.

    BLEU is close to 0 as long as no four words in a row are right; chrF is not. A pair with more
    than `max_length` tokens on either side is left out: if cut, it would teach the model to stop in
    mid-sentence. Returns the metrics of that model, and the epoch that made it.

    Raises
        DataError        every pair is too long.
        CheckpointError  a text has more tokens than the encoder has positions.
    """
    check_readable(model.source.encode(dev_set.sources, max_length=max_length), model.encoder)
    sources, targets = _short_pairs(model, train_set, max_length, display)
    objective = TranslationObjective(
        sources,
        targets,
        batch_size,
        options.seed,
        (model.source.pad_id, model.target.pad_id),
        torch.device(device),
        model.encoder,
        model.decoder,
        smoothing,
    )

    def evaluate(weights: TranslatorWeights) -> dict[str, float]:
        learned = dataclasses.replace(model, weights=weights)
        return scores(learned, dev_set, 1, max_length=max_length)

    def keep(weights: TranslatorWeights) -> None:
        dataclasses.replace(model, weights=weights).save_pretrained(out)

    if warning := lost_zeros_warning(model.weights, options.sparsity):
        display.say(warning)
    total = options.total(len(objective.order(0)))
    progress = train(
        objective,
        trainable_for(model.weights, device, options.sparsity, total),
        options,
        out,
        "finetune",
        display,
        evaluate,
        "chrf",
        keep,
    )
    best = Translator.from_pretrained(out).weights
    if options.sparsity is not None:
        display.say(sparsity_sentence(best))
    return {
        "task": "translation",
        "n": len(dev_set),
        "metrics": progress.best_metrics,
        "signatures": signatures(model.languages[1]),
        "best_epoch": progress.best_epoch,
        "parameters": n_parameters(best),
        "zeros": zeros_of(best)[0],
        "model": str(out),
    }


def _short_pairs(
    model: Translator, pairs: Pairs, max_length: int, display: Display
) -> tuple[list[Encoding], list[Encoding]]:
    """The pairs that are not too long, as tokens."""
    both = zip(model.source.encode(pairs.sources), model.target.encode(pairs.targets), strict=True)
    short = [pair for pair in both if max(len(one.ids) for one in pair) <= max_length]
    if not short:
        raise DataError(f"{pairs.path}: every pair has more than {max_length} tokens on a side")
    if left := len(pairs) - len(short):
        display.say(f"{left:,} pairs are left out: more than {max_length} tokens on a side")
    if unread := sum(model.target.unk_id in target.ids for _, target in short):
        display.say(
            f"{unread:,} texts of the target language hold [UNK], a word with a letter that the "
            "vocabulary lacks or of over 100 letters; the model learns to leave it out"
        )
    return [source for source, _ in short], [target for _, target in short]


def scores(
    model: Translator,
    pairs: Pairs,
    width: int = 4,
    alpha: float = 0.6,
    dtype: torch.dtype = torch.float32,
    max_length: int | None = None,
) -> dict[str, float]:
    """BLEU and chrF by sacrebleu with its defaults, 0 to 1: cased, and of plain text.

    Languages without spaces are measured in letters, see `_words_of`.
    """
    found = model.translate(pairs.sources, width, alpha, dtype=dtype, max_length=max_length)
    said = [one.text for one in found]
    right = [list(pairs.targets)]
    words = _words_of(model.languages[1])
    return {
        "bleu": sacrebleu.corpus_bleu(said, right, tokenize=words).score / 100,
        "chrf": sacrebleu.corpus_chrf(said, right).score / 100,
    }


def signatures(language: str) -> dict[str, str]:
    """sacrebleu's signatures for texts of that language, as papers cite them."""
    said, right = ["a"], [["a"]]
    bleu, chrf = sacrebleu.BLEU(tokenize=_words_of(language)), sacrebleu.CHRF()
    bleu.corpus_score(said, right), chrf.corpus_score(said, right)
    return {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def _words_of(language: str) -> str:
    """sacrebleu's name for what counts as a word in BLEU.

    >>> _words_of("zh_CN"), _words_of("th"), _words_of("de")
    ('zh', 'char', '13a')
    """
    code = re.split("[-_]", language.lower())[0]
    if code in ("ja", "th", "lo", "km", "my"):
        return "char"
    return "zh" if code == "zh" else "13a"
