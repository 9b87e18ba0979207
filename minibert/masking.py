"""What BERT is trained on: words to guess, and pairs of sentences that may not belong together.

B batch · S tokens. Every draw comes from the generator that is passed in.
"""

from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor


def masked_count(n_tokens: int, rate: float = 0.15, most: int = 20) -> int:
    """How many tokens of one sequence are masked.

    Formula
        min(most, max(1, round(rate · n)));  a half goes to the even number, as Python 3 rounds
        At least one, also at rate 0: a sequence without a word to guess would teach nothing.

    Shapes
        n_tokens  int  tokens of the sequence, [CLS] and [SEP] counted
        rate      float from 0 to 1
        most      int  the room for predictions: 20 for 128 tokens in Google's recipe
        return    int

    Source
        google-research/bert, create_pretraining_data.py.

    Differs
        `transformers` draws for each token independently, so the count varies and can be 0.

    >>> masked_count(20), masked_count(2), masked_count(30), masked_count(512)
    (3, 1, 4, 20)
    """
    return min(most, max(1, round(rate * n_tokens)))


def chosen_tokens(groups_S: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Which tokens of one sequence to mask: whole groups, drawn until the count is full.

    Formula
        the groups in random order; a group that would exceed the count is passed over

    Shapes
        groups_S  int64 [S]  the number of the group that each token belongs to, -1 for tokens
                  that are never masked ([CLS], [SEP], padding). One group per token gives plain
                  masking; one per word gives whole-word masking.
        count     int  how many tokens at most
        return    bool [S]

    Source
        google-research/bert, create_pretraining_data.py (do_whole_word_mask).

    >>> chosen_tokens(torch.tensor([-1, 0, 0, 1, -1]), 1, torch.Generator().manual_seed(0))
    tensor([False, False, False,  True, False])
    """
    groups = torch.unique(groups_S[groups_S >= 0])
    chosen_S = torch.zeros(groups_S.shape, dtype=torch.bool)
    left = count
    for position in torch.randperm(len(groups), generator=generator).tolist():
        members_S = groups_S == groups[position]
        size = int(members_S.sum())
        if size <= left:
            chosen_S = chosen_S | members_S
            left = left - size
    return chosen_S


def word_groups(starts_word_S: Tensor, maskable_S: Tensor) -> Tensor:
    """The groups for whole-word masking: a piece with ## belongs to the word before it.

    Shapes
        starts_word_S  bool [S]  True where a piece does not begin with ##
        maskable_S     bool [S]  False for [CLS], [SEP] and padding
        return         int64 [S]  a number per word, or -1

    Source
        google-research/bert, create_pretraining_data.py (do_whole_word_mask).

    Differs
        Google joins a ## piece right after [SEP] to the last word before it; here it stands alone.

    >>> word_groups(torch.tensor([True, True, False, True]),
    ...             torch.tensor([False, True, True, True]))
    tensor([-1,  2,  2,  3])
    """
    return torch.where(maskable_S, starts_word_S.long().cumsum(0), -1)


def replaced_tokens(
    ids_S: Tensor, chosen_S: Tensor, draws_S: Tensor, random_ids_S: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Hide the chosen tokens: 80 % become [MASK], 10 % a random word, 10 % stay as they are.

    Formula
        draw < 0.8 -> [MASK];  0.8 <= draw < 0.9 -> random id;  else unchanged
        One draw decides for each token; two independent ones would give 81 / 10 / 9.

    Shapes
        ids_S         int64 [...]
        chosen_S      bool [...]
        draws_S       float [...]  uniform in [0, 1)
        random_ids_S  int64 [...]  uniform over the vocabulary
        mask_id       int  the id of [MASK]
        return        int64 [...] new ids; int64 [...] labels: the old id where chosen, else -100

    Source
        Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1.

    Differs
        labml's code makes two independent draws.

    >>> ids_S, all_S = torch.tensor([5, 6, 7]), torch.tensor([True, True, False])
    >>> replaced_tokens(ids_S, all_S, torch.tensor([0.1, 0.85, 0.1]), ids_S * 2, 3)
    (tensor([ 3, 12,  7]), tensor([   5,    6, -100]))
    """
    hidden_S = torch.where(draws_S < 0.8, mask_id, torch.where(draws_S < 0.9, random_ids_S, ids_S))
    return torch.where(chosen_S, hidden_S, ids_S), torch.where(chosen_S, ids_S, -100)


def mask_tokens(
    ids_S: Tensor,
    groups_S: Tensor,
    vocab_size: int,
    mask_id: int,
    generator: torch.Generator,
    rate: float = 0.15,
    most: int = 20,
) -> tuple[Tensor, Tensor]:
    """One sequence with words hidden, and the labels that say which.

    Formula
        chosen = `masked_count` tokens by `chosen_tokens`, hidden by `replaced_tokens`
        Every piece has a draw of its own, even within one word.

    Shapes
        ids_S       int64 [S]  without padding
        groups_S    int64 [S]  see `chosen_tokens`
        vocab_size  int  random words have ids below it
        mask_id     int  the id of [MASK]
        rate, most  float from 0 to 1, int; see `masked_count`
        return      int64 [S] ids, int64 [S] labels

    Source
        google-research/bert, create_pretraining_data.py.

    >>> ids_S, groups_S = torch.tensor([1, 8, 9, 2]), torch.tensor([-1, 0, 1, -1])
    >>> ids, labels = mask_tokens(ids_S, groups_S, 10, 3, torch.Generator().manual_seed(0))
    >>> int((labels != -100).sum())
    1
    """
    count = masked_count(ids_S.shape[0], rate, most)
    chosen_S = chosen_tokens(groups_S, count, generator)
    draws_S = torch.rand(ids_S.shape, generator=generator)
    random_ids_S = torch.randint(vocab_size, ids_S.shape, generator=generator)
    return replaced_tokens(ids_S, chosen_S, draws_S, random_ids_S, mask_id)


class SentencePair(NamedTuple):
    """Two runs of token ids, and 0 if the second follows the first, 1 if it is a random one."""

    first: list[int]
    second: list[int]
    label: int


def truncated_pair(
    first: list[int], second: list[int], most: int, generator: torch.Generator
) -> tuple[list[int], list[int]]:
    """Shorten the longer of two texts, at random at its front or its back, until both fit.

    Shapes
        first, second  lists of ids
        most           int  tokens that both may have together
        return         two shorter lists; contiguous parts of the given ones

    Source
        google-research/bert, create_pretraining_data.py (truncate_seq_pair).

    >>> truncated_pair([1, 2, 3], [4], 3, torch.Generator().manual_seed(0))
    ([2, 3], [4])
    """
    parts = [first, second]
    for _ in range(len(first) + len(second) - most):
        longer = 0 if len(parts[0]) > len(parts[1]) else 1
        at_front = float(torch.rand((), generator=generator)) < 0.5
        parts[longer] = parts[longer][1:] if at_front else parts[longer][:-1]
    return parts[0], parts[1]


def next_sentence_pairs(
    documents: list[list[list[int]]],
    most: int,
    generator: torch.Generator,
    short_rate: float = 0.1,
) -> list[SentencePair]:
    """Cut documents into pairs of neighbouring texts, half of them with a random second one.

    Formula
        Take sentences until `most` tokens (with probability short_rate: a random smaller target);
        split them at a random border; with probability 1/2, or if there is only one sentence,
        replace the second part by sentences of another document, and use the replaced ones next.

    Shapes
        documents   documents of sentences of token ids, no sentence empty
        most        int  tokens of both texts together; [CLS] and two [SEP] are not counted
        short_rate  float  the share of pairs with a smaller target
        return      list of SentencePair

    Source
        google-research/bert, create_pretraining_data.py (create_instances_from_document).

    Differs
        Google's code draws the other document up to ten times and may still get the same one,
        draws one target per document instead of per pair, and shortens to `most`, not the target.

    Raises
        ValueError  fewer than two documents, `most` below 2, or a document or sentence is empty.

    >>> documents = [[[1], [2], [3]], [[7], [8]]]
    >>> pairs = next_sentence_pairs(documents, 3, torch.Generator().manual_seed(3))
    >>> all(pair.label == (pair.first[-1] + 1 != pair.second[0]) for pair in pairs)
    True
    """
    if len(documents) < 2 or most < 2:
        raise ValueError(
            f"next_sentence_pairs: {len(documents)} documents and {most} tokens a pair; "
            "needs at least two of each, so that a random second text can be drawn"
        )
    for number, document in enumerate(documents):
        if not document or not all(document):
            raise ValueError(
                f"next_sentence_pairs: document {number} has no sentence or an empty one; drop it"
            )

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    def chance(probability: float) -> bool:
        return float(torch.rand((), generator=generator)) < probability

    pairs = []
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            target = integer(2, most) if chance(short_rate) else most
            # one sentence, then more while the total is below the target and any are left
            totals = accumulate(map(len, document[start:-1]))
            end = start + 1 + sum(total < target for total in totals)
            border = start + 1 if end == start + 1 else integer(start + 1, end - 1)
            first = list(chain.from_iterable(document[start:border]))
            if end == border or chance(0.5):
                other = integer(0, len(documents) - 2)
                source = documents[other if other < number else other + 1]
                opening, *more = source[integer(0, len(source) - 1) :]
                second = opening
                for sentence in more:
                    if len(second) < target - len(first):
                        second = second + sentence
                label, start = 1, border
            else:
                second = list(chain.from_iterable(document[border:end]))
                label, start = 0, end
            pairs.append(SentencePair(*truncated_pair(first, second, target, generator), label))
    return pairs
