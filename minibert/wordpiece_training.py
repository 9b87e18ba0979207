"""Training WordPiece: a vocabulary from the words of a corpus and how often each occurs.

Every word starts as its characters, each but the first with "##" in front. Then, again and again,
the pair of neighbours with the highest `pair_score` is joined wherever it occurs, and becomes a new
piece.

What is known
    Schuster and Nakajima (2012) add the unit that raises the likelihood of the training data the
    most, and give no formula. Google never published the program that made BERT's vocabulary. The
    score here is that gain in likelihood over all places of a pair, in a model where pieces follow
    each other independently. The score that is usually taught
    (huggingface.co/course, chapter 6.6) is the gain per place, and spends the vocabulary on rare
    pieces. The WordPiece trainer of the `tokenizers` library takes the most frequent pair, as
    byte-pair encoding does. docs/cli.md compares the resulting vocabularies.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import chain, pairwise

from minibert.wordpiece import SPECIALS


def pair_score(n_pair: int, n_first: int, n_second: int, n_all: int) -> float:
    """What the log-likelihood of a text gains if a pair becomes one piece in all its n_pair places.

    Formula
        n_pair * log(n_pair * n_all / (n_first * n_second))
        In each place log p of the pair, p = n_pair / n_all, replaces log p of the first, p =
        n_first / n_all, and of the second. It is neglected that both counts and n_all fall by
        n_pair: the gain of a text that is counted again differs by at most n_pair.

    Source
        Schuster and Nakajima 2012, Japanese and Korean Voice Search, in words; see above.

    Differs
        the Hugging Face course takes n_pair / (n_first * n_second), byte-pair encoding n_pair.

    Accuracy
        |error| <= eps (n_pair + 2 |score|)

    Raises
        ValueError  n_pair is below 1 or above a piece's count, or a piece's count is above n_all.

    >>> [round(pair_score(n, first, n, 113), 2) for n, first in ((20, 36), (5, 20))]
    [22.88, 8.66]
    """
    if not (1 <= n_pair <= n_first <= n_all and n_pair <= n_second <= n_all):
        raise ValueError(f"{n_pair} pairs of {n_first} and {n_second} pieces among {n_all}")
    return n_pair * math.log(n_pair * n_all / (n_first * n_second))


def train_wordpiece(
    word_counts: Mapping[str, int],
    vocab_size: int,
    specials: Sequence[str] = SPECIALS,
    min_count: int = 2,
) -> list[str]:
    """The vocabulary: specials, characters by code point, then pieces in the order of joining.

    Of equal scores the more frequent pair wins, then the first by code point; on a machine whose
    logarithm differs in the last digit, nearly equal scores may be ordered differently. A pair is
    counted at every place, twice in "xxx", and joined from the left. Pairs that occur fewer than
    `min_count` times are not joined: if no others are left, there are fewer than `vocab_size`
    pieces. Pairs that gain nothing come last, but are joined too. Words must be as `split_words`
    gives them; those of over 100 characters, which are always [UNK], are ignored.

    Raises
        ValueError  `vocab_size` has no room for specials and characters, or `min_count` is below 1.

    >>> words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    >>> train_wordpiece(words, 10, specials=())
    ['##g', '##n', '##s', '##u', 'b', 'h', 'p', '##ug', '##un', 'hug']
    """
    if min_count < 1:
        raise ValueError(f"min_count is {min_count}, but a pair that is joined stands somewhere")
    splits = {
        word: [word[0], *("##" + character for character in word[1:])]
        for word in word_counts
        if 0 < len(word) <= 100
    }
    vocabulary = dict.fromkeys([*specials, *sorted(set(chain.from_iterable(splits.values())))])
    if vocab_size < len(vocabulary):
        raise ValueError(
            f"vocab_size is {vocab_size}, but specials and characters alone are {len(vocabulary)}"
        )
    n_piece: Counter[str] = Counter()
    n_pair: Counter[tuple[str, str]] = Counter()
    words_with: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    pairs_with: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)

    def count(word: str, sign: int) -> None:
        for piece in splits[word]:
            n_piece[piece] += sign * word_counts[word]
        for pair in pairwise(splits[word]):
            n_pair[pair] += sign * word_counts[word]
            words_with[pair].add(word)
            for piece in pair:
                pairs_with[piece].add(pair)

    def rank(pair: tuple[str, str]) -> tuple[float, int, tuple[str, str]]:
        n, (first, second) = n_pair[pair], pair
        return -pair_score(n, n_piece[first], n_piece[second], n_all), -n, pair

    for word in splits:
        count(word, 1)
    changed = set(n_pair)
    queue: list[tuple[float, int, tuple[str, str]]] = []  # the smallest rank is the best
    while len(vocabulary) < vocab_size:
        n_all = n_piece.total()
        for pair in changed:
            if n_pair[pair] >= min_count:
                heappush(queue, rank(pair))
        # A pair whose counts change is queued again. n_all only falls, and every score with it,
        # whatever its sign. So no pair is better than the queue says, and the first that is still
        # as good as it says is the best.
        while queue:
            known = heappop(queue)
            pair = known[2]
            if n_pair[pair] >= min_count:
                if rank(pair) == known:
                    break
                heappush(queue, rank(pair))
        else:
            break
        first, second = pair
        joined = first + second.removeprefix("##")
        vocabulary.setdefault(joined)  # it may already be there, as a special
        for word in list(words_with[pair]):
            count(word, -1)
            splits[word] = _join(splits[word], first, second)
            count(word, 1)
        assert not n_pair[pair]  # a joined pair is gone, so the loop ends
        changed = pairs_with[first] | pairs_with[second] | pairs_with[joined]
    return list(vocabulary)


def _join(split: list[str], first: str, second: str) -> list[str]:
    """The pieces of a word with this pair joined, from the left."""
    done: list[str] = []
    for piece in split:
        if done and (done[-1], piece) == (first, second):
            done[-1] += second.removeprefix("##")
        else:
            done.append(piece)
    return done
