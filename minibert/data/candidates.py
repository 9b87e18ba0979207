"""Which words may replace another: those near it in a table, or those that a model guesses.

V words that can replace another · D width · S tokens · M masked words of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple

import torch

from minibert.config import CheckpointError
from minibert.data.augmentation import Candidates, changeable, word_cutter
from minibert.data.batches import collate, sorted_order
from minibert.data.tokenizer import Encoding, Tokenizer, required_tokenizer
from minibert.data.vectors import WordVectors, nearest_words
from minibert.heads import mlm_logits
from minibert.kernels.encoder import AnyWeights, encode, prepared
from minibert.kernels.products import arithmetic
from minibert.model import Bert
from minibert.parameters import MlmWeights, named_tensors, with_tensors

# --- Candidates by a word's own vector ---------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The candidates of a word, whatever the sentence; `source` says what they are."""

    table: Mapping[str, tuple[str, ...]]
    source: str

    def __call__(self, words: Sequence[str]) -> list[tuple[str, ...]]:
        return [self.table.get(word, ()) for word in words]


def word_table(bert: Bert) -> WordVectors:
    """The rows of the model's own word table for pieces that are whole words and may be replaced.

    Raises
        CheckpointError  the model came without a vocabulary.
    """
    pieces = required_tokenizer(bert.tokenizer).pieces
    ids = [i for i, piece in enumerate(pieces) if changeable(piece)]
    rows_VD = bert.weights.embeddings.word_VD[ids].float().cpu()
    return WordVectors(tuple(pieces[i] for i in ids), rows_VD, "the model's word table")


def piece_means(words: Sequence[str], bert: Bert) -> WordVectors:
    """For each word, of however many pieces, the mean of their rows in the model's word table.

    A word that the vocabulary cannot spell has none.

    Raises
        CheckpointError  the model came without a vocabulary.
    """
    tokenizer = required_tokenizer(bert.tokenizer)
    pieces = {
        word: one.ids[1:-1] for word, one in zip(words, tokenizer.encode(words), strict=True)
    }
    found = [word for word in pieces if tokenizer.unk_id not in pieces[word]]
    table_VD = bert.weights.embeddings.word_VD.float().cpu()
    means = [table_VD[pieces[word]].mean(0) for word in found]
    matrix_VD = torch.stack(means) if means else table_VD[:0]
    return WordVectors(tuple(found), matrix_VD, "the means of pieces")


def neighbours(words: Sequence[str], vectors: WordVectors, k: int = 15) -> Neighbours:
    """For each word the K words whose vectors have the largest cosine with its own.

    A word without a vector gets no candidates. Only words that may be replaced are looked up and
    offered and, if all `words` are lower-case, only lower-case ones: for an uncased model "Good" is
    the same word as "good".

    Source
        Jiao et al. 2020, arXiv:1909.10351, algorithm 1, there for words of several pieces.
    """
    lower = all(word == word.lower() for word in words)
    rows = [
        row
        for row, word in enumerate(vectors.words)
        if changeable(word) and (word == word.lower() or not lower)
    ]
    offered = WordVectors(
        tuple(vectors.words[row] for row in rows), vectors.matrix_VD[rows], vectors.source
    )
    source = f"the {k} nearest by cosine among {len(rows):,} words of {vectors.source}"
    return Neighbours(nearest_words(words, offered, k), source)


def neighbours_by_pieces(words: Sequence[str], bert: Bert, k: int = 15) -> Neighbours:
    """The neighbours of words in a model's own table, those of several pieces as well.

    A word that is one piece is near other such words. The mean of several pieces says less, and is
    near fragments; so a word of several pieces is compared with the others of its kind in `words`.
    """
    whole = neighbours(words, word_table(bert), k)
    rest = [word for word in words if word not in whole.table]
    others = neighbours(rest, piece_means(rest, bert), k)
    source = f"{whole.source}; of several pieces, among {len(rest):,} of the texts"
    return Neighbours({**whole.table, **others.table}, source)


# --- Candidates by the sentence ----------------------------------------------------------------


@dataclass(frozen=True)
class MaskedGuesses:
    """The candidates for each place of the given sentences; no other sentence has any."""

    table: Mapping[tuple[str, ...], tuple[Sequence[str], ...]]
    source: str

    def __call__(self, words: Sequence[str]) -> tuple[Sequence[str], ...]:
        try:
            return self.table[tuple(words)]
        except KeyError:
            raise ValueError(
                f"no guesses were made for the sentence {' '.join(words)[:60]!r}; make them for "
                "every text that is to be augmented"
            ) from None


class _Sentence(NamedTuple):
    """Words, the ids of all their pieces, and per word the place of its piece if it has one."""

    words: tuple[str, ...]
    ids: list[int]
    places: list[int | None]


@torch.no_grad()
def masked_guesses(
    texts: Sequence[str],
    bert: Bert,
    k: int = 15,
    pair: bool = True,
    fallback: Candidates | None = None,
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
) -> MaskedGuesses:
    """For each word that is one piece the K likeliest other words when it is masked.

    With `pair` the model reads [CLS] masked sentence [SEP] whole sentence [SEP]: it sees the word
    that it is to replace, and so stays closer to the meaning. Words of several pieces, and words
    beyond the model's last position, get what `fallback` offers. `dtype` is the precision
    of the encoder.

    Source
        Jiao et al. 2020, arXiv:1909.10351, algorithm 1; the pair: data_augmentation.py of
        huawei-noah/Pretrained-Language-Model.

    Differs
        Only words that may be replaced are offered: the pieces also include punctuation and
        function words.

    Raises
        CheckpointError  the model has no masked-word head, no vocabulary, or knows no pairs.
    """
    tokenizer, mlm = required_tokenizer(bert.tokenizer), bert.weights.mlm
    if mlm is None:
        raise CheckpointError(
            f"the model has the head {bert.head!r}, but guessing masked words needs 'mlm'; train "
            "one for it with train_masked_head, or use the neighbours in its word table"
        )
    if pair and bert.config.type_vocab_size < 2:
        raise CheckpointError("the model has one token type, so it reads no pairs; use pair=False")
    positions = bert.config.max_position_embeddings
    most = (positions - 3) // 2 if pair else positions - 2
    sentences = list(_sentences(texts, tokenizer, most))
    cases = [
        (index, place)
        for index, sentence in enumerate(sentences)
        for place, token in enumerate(sentence.places)
        if token is not None
    ]
    with arithmetic(bert.arithmetic):
        guesser = _Guesser(bert, tokenizer, mlm, prepared(bert.weights, dtype), k, pair)
        lengths = [len(sentences[index].ids) for index, _ in cases]
        guesses: dict[tuple[int, int], list[str]] = {}
        for rows in sorted_order(lengths, batch_size):
            chosen = [cases[row] for row in rows]
            guesses |= zip(chosen, guesser(sentences, chosen), strict=True)
    table: dict[tuple[str, ...], tuple[Sequence[str], ...]] = {}
    for index, sentence in enumerate(sentences):
        others = fallback(sentence.words) if fallback else [()] * len(sentence.words)
        table[sentence.words] = tuple(
            guesses.get((index, place), other) for place, other in enumerate(others)
        )
    form = "sentence and whole sentence" if pair else "sentence alone"
    rest = f"; else {getattr(fallback, 'source', 'a fallback')}" if fallback else ""
    return MaskedGuesses(table, f"the {k} likeliest words for a masked one ({form}){rest}")


def _sentences(texts: Sequence[str], tokenizer: Tokenizer, most: int) -> Iterator[_Sentence]:
    """Each different sentence once, cut to `most` pieces, with the places of words to be masked."""
    cut = word_cutter(tokenizer)
    seen = dict.fromkeys(tuple(cut(text).words) for text in texts)
    vocabulary = list(dict.fromkeys(word for words in seen for word in words))
    # Word by word, so that each piece's word is known; [CLS] and [SEP] are taken off.
    encoded = tokenizer.encode(vocabulary)
    pieces = {word: one.ids[1:-1] for word, one in zip(vocabulary, encoded, strict=True)}
    ids_of = tokenizer.vocabulary
    whole = {word for word in filter(changeable, pieces) if pieces[word] == [ids_of.get(word)]}
    for words in seen:
        starts = accumulate((len(pieces[word]) for word in words), initial=0)
        places = [
            start if start < most and word in whole else None
            for word, start in zip(words, starts, strict=False)
        ]
        ids = list(islice((i for word in words for i in pieces[word]), most))
        yield _Sentence(words, ids, places)


class _Guesser:
    """The model and the words that it may guess; each call works on one batch of masked words."""

    def __init__(
        self,
        bert: Bert,
        tokenizer: Tokenizer,
        mlm: MlmWeights,
        weights: AnyWeights,
        k: int,
        pair: bool,
    ) -> None:
        self.config, self.tokenizer, self.weights, self.pair = bert.config, tokenizer, weights, pair
        self.allowed = [i for i, piece in enumerate(tokenizer.pieces) if changeable(piece)]
        self.place_of = {i: place for place, i in enumerate(self.allowed)}
        self.k = min(k, len(self.allowed) - 1)
        # Only the words that may be offered go through the product with the vocabulary.
        self.word_VD = bert.weights.embeddings.word_VD[self.allowed].float()
        wide = {name: part.float() for name, part in named_tensors(mlm)}
        wide["bias_V"] = wide["bias_V"][self.allowed]
        self.mlm = with_tensors(mlm, wide)

    def __call__(
        self, sentences: Sequence[_Sentence], cases: Sequence[tuple[int, int]]
    ) -> list[list[str]]:
        masked, own, encodings = [], [], []
        for index, place in cases:
            ids, token = sentences[index].ids, sentences[index].places[place]
            assert token is not None
            masked.append(token + 1)  # [CLS] comes first
            own.append(self.place_of[ids[token]])
            encodings.append(self._encoding(ids, token))
        device = self.word_VD.device
        rows = range(len(cases))
        batch = collate(encodings, rows, self.tokenizer.pad_id).to(device)
        hidden_BSD = encode(*batch, self.weights, self.config)
        hidden_MD = hidden_BSD[torch.arange(len(cases)), torch.tensor(masked)].float()
        logits_MV = mlm_logits(hidden_MD, self.mlm, self.word_VD, self.config)
        logits_MV.scatter_(1, torch.tensor(own, device=device)[:, None], -torch.inf)
        pieces = self.tokenizer.pieces
        best = logits_MV.topk(self.k, dim=1).indices.tolist()
        return [[pieces[self.allowed[place]] for place in places] for places in best]

    def _encoding(self, ids: list[int], token: int) -> Encoding:
        known = self.tokenizer
        first = [known.cls_id, *ids[:token], known.mask_id, *ids[token + 1 :], known.sep_id]
        second = [*ids, known.sep_id] if self.pair else []
        return Encoding(first + second, [0] * len(first) + [1] * len(second))

