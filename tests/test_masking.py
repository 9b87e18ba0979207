"""Masking and sentence pairs: spec, reference, laws, shares by count, mistakes.

Where a formula draws at random, the spec gets the same draws and must give the same result; shares
that can be counted exactly are counted on a grid of draws; what is left is tested by a χ² of six
standard deviations with fixed seeds.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pytest
import spec_training as spec
import torch
from hypothesis import given
from hypothesis import strategies as st
from proof import fewer, holds, rejects, seeds
from torch import Tensor

from minibert.masking import (
    SentencePair,
    chosen_tokens,
    mask_tokens,
    masked_count,
    next_sentence_pairs,
    replaced_tokens,
    truncated_pair,
    word_groups,
)

SIX_SIGMA = 6.0


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def deviations_from_uniform(counts: Sequence[int]) -> float:
    """How many standard deviations χ² lies above its mean, if all are equally likely."""
    expected, freedom = sum(counts) / len(counts), len(counts) - 1
    if expected == 0:
        return math.inf
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def deviations_from_share(count: int, total: int, share: float) -> float:
    return abs(count - total * share) / math.sqrt(total * share * (1 - share))


# ------------------------------------------------------------------------------- masked_count


class Count(NamedTuple):
    tokens: int
    rate: float
    most: int


counts = st.builds(Count, st.integers(0, 600), st.floats(0, 1), st.sampled_from([0, 1, 20, 600]))
COUNTS = [Count(n, 0.15, most) for n in (1, 2, 7, 11, 16, 30, 70, 128, 512) for most in (5, 20, 80)]


@given(case=counts)
def test_masked_count_is_its_spec(case):
    assert masked_count(*case) == spec.masked_count(*case)


def test_masked_count_is_the_reference():
    """int(round(n * 0.15)) of create_pretraining_data.py; NumPy rounds as Python 3 does."""
    for n in range(600):
        assert masked_count(n) == min(20, max(1, int(np.rint(n * 0.15))))


def test_masked_count_rounds_halves_to_even_unlike_python_2():
    """Python 2, for which Google's code was written, gave one more at 30, 70, 110, … tokens."""
    half_up = [n for n in range(1, 513) if masked_count(n, most=512) != math.floor(0.15 * n + 0.5)]
    ties = [n for n in half_up if n > 3]  # below, the least count of 1 makes the difference
    assert ties == list(range(30, 513, 40))
    assert [masked_count(n) for n in (10, 30, 50, 70)] == [2, 4, 8, 10]


def at_least_one_and_at_most_the_room(formula, case):
    found = formula(*case)
    return max(0, min(1, case.most) - found, found - case.most), 0


def it_is_half_a_token_from_the_rate(formula, case):
    wanted = case.rate * case.tokens
    return abs(formula(*case) - wanted) if 1 <= wanted <= case.most else 0.0, 0.5


def more_tokens_are_not_fewer_masks(formula, case):
    return max(0, formula(*case) - formula(case.tokens + 1, *case[1:])), 0


COUNT_LAWS = [
    at_least_one_and_at_most_the_room,
    it_is_half_a_token_from_the_rate,
    more_tokens_are_not_fewer_masks,
]


@pytest.mark.parametrize("law", COUNT_LAWS)
@given(case=counts)
def test_masked_count_law(law, case):
    holds(law, masked_count, case)


def rounded_down(n, rate, most):
    return min(most, max(1, int(rate * n)))


def rounded_up(n, rate, most):
    return min(most, max(1, math.ceil(rate * n)))


def possibly_none(n, rate, most):
    return min(most, round(rate * n))


def no_limit(n, rate, most):
    return max(1, round(rate * n))


def specials_not_counted(n, rate, most):
    return masked_count(n - 3, rate, most)


def last_window_only(n, rate, most):
    """A long text in windows of `most` tokens, of which only the last is counted."""
    return masked_count((n - 1) % most + 1, rate, most)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (rounded_down, it_is_half_a_token_from_the_rate),
        (rounded_up, it_is_half_a_token_from_the_rate),
        (possibly_none, at_least_one_and_at_most_the_room),
        (no_limit, at_least_one_and_at_most_the_room),
        (specials_not_counted, it_is_half_a_token_from_the_rate),
        (last_window_only, more_tokens_are_not_fewer_masks),
    ],
)
def test_masked_count_rejects(mistake, law):
    near = [case._replace(tokens=case.most) for case in COUNTS]
    rejects(law, mistake, masked_count, COUNTS + near)


# ------------------------------------------------------------------------------ chosen_tokens


class Choice(NamedTuple):
    groups: Tensor
    count: int
    seed: int


def choice_case(seed: int, count: int, sizes: Sequence[int] = (1, 3, 1, 2, 1, 1, 4)) -> Choice:
    """[CLS], words of these many pieces with a [SEP] after the third, [SEP], padding."""
    groups = [-1]
    for number, size in enumerate(sizes):
        groups += [number + 5] * size + ([-1] if number == 2 else [])
    return Choice(torch.tensor([*groups, -1, -1, -1]), count, seed)


choices = st.builds(
    choice_case, seeds, st.integers(0, 15), st.lists(st.integers(1, 4), min_size=1, max_size=9)
)
CHOICES = [choice_case(seed, count) for seed in range(6) for count in (1, 3, 5)]


def chosen_by(formula: Callable[..., Tensor], case: Choice) -> Tensor:
    return formula(case.groups, case.count, generator_of(case.seed))


def size_of(groups: Tensor, number: int) -> int:
    return int((groups == number).sum())


@given(case=choices)
def test_chosen_tokens_is_its_spec(case):
    n_groups = len(set(case.groups.tolist()) - {-1})
    order = torch.randperm(n_groups, generator=generator_of(case.seed)).tolist()
    expected = spec.chosen_tokens(case.groups.tolist(), case.count, order)
    assert chosen_by(chosen_tokens, case).tolist() == expected


def specials_are_never_chosen(formula, case):
    return int(chosen_by(formula, case)[case.groups < 0].sum()), 0


def words_are_chosen_whole(formula, case):
    chosen, groups = chosen_by(formula, case), case.groups
    torn = [number for number in set(groups.tolist()) - {-1}
            if len(set(chosen[groups == number].tolist())) > 1]
    return len(torn), 0


def the_count_is_not_exceeded(formula, case):
    return max(0, int(chosen_by(formula, case).sum()) - case.count), 0


def what_still_fits_is_taken(formula, case):
    chosen, groups = chosen_by(formula, case), case.groups
    room = case.count - int(chosen.sum())
    left_out = set(groups[~chosen].tolist()) - {-1}
    return sum(size_of(groups, number) <= room for number in left_out), 0


def single_tokens_fill_the_count(formula, case):
    """Plain masking: each token its own group."""
    plain = torch.where(case.groups < 0, -1, torch.arange(len(case.groups)))
    candidates = int((plain >= 0).sum())
    found = int(formula(plain, case.count, generator_of(case.seed)).sum())
    return abs(found - min(case.count, candidates)), 0


def names_of_groups_do_not_matter(formula, case):
    renamed = torch.where(case.groups < 0, -1, 7 * case.groups + 2)
    other = formula(renamed, case.count, generator_of(case.seed))
    return int((other != chosen_by(formula, case)).sum()), 0


CHOICE_LAWS = [
    specials_are_never_chosen,
    words_are_chosen_whole,
    the_count_is_not_exceeded,
    what_still_fits_is_taken,
    single_tokens_fill_the_count,
    names_of_groups_do_not_matter,
]


@pytest.mark.parametrize("law", CHOICE_LAWS)
@fewer(4)
@given(case=choices)
def test_chosen_tokens_law(law, case):
    holds(law, chosen_tokens, case)


def every_place_is_equally_likely(formula, case):
    """Three of twenty single tokens, 600 times: counts of each place."""
    generator = generator_of(case.seed)
    groups = torch.arange(20)
    times = sum(formula(groups, 3, generator).long() for _ in range(600))
    return deviations_from_uniform(times.tolist()), SIX_SIGMA


def every_pair_of_places_is_equally_likely(formula, case):
    """Two of five, 600 times: counts of each of the ten pairs."""
    generator = generator_of(case.seed)
    drawn = [tuple(formula(torch.arange(5), 2, generator).nonzero()[:, 0].tolist())
             for _ in range(600)]
    pairs = [(a, b) for b in range(5) for a in range(b)]
    stray = len(set(drawn) - set(pairs))
    return deviations_from_uniform([drawn.count(pair) for pair in pairs]) + 100 * stray, SIX_SIGMA


@pytest.mark.parametrize(
    "law", [every_place_is_equally_likely, every_pair_of_places_is_equally_likely]
)
def test_chosen_tokens_is_fair(law):
    holds(law, chosen_tokens, CHOICES[0])


def overflowing(groups, count, generator):
    """Words until the count is reached or passed."""
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for number in fair_order(groups, generator):
        if int(chosen.sum()) < count:
            chosen |= groups == number
    return chosen


def fair_order(groups, generator):
    numbers = torch.unique(groups[groups >= 0])
    return numbers[torch.randperm(len(numbers), generator=generator)].tolist()


def stops_at_the_first_that_is_too_long(groups, count, generator):
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for number in fair_order(groups, generator):
        if int(chosen.sum()) + size_of(groups, number) > count:
            break
        chosen |= groups == number
    return chosen


def pieces_instead_of_words(groups, count, generator):
    plain = torch.where(groups < 0, -1, torch.arange(len(groups)))
    return chosen_tokens(plain, count, generator)


def specials_are_a_word_too(groups, count, generator):
    return chosen_tokens(groups + 1, count, generator)


def always_the_first(groups, count, generator):
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    chosen[(groups >= 0).nonzero()[:count, 0]] = True
    return chosen


def each_token_by_itself(groups, count, generator):
    """As `transformers` draws: the number of masks varies and may be none."""
    share = count / max(1, int((groups >= 0).sum()))
    return (torch.rand(len(groups), generator=generator) < share) & (groups >= 0)


def a_run_of_neighbours(groups, count, generator):
    places = (groups >= 0).nonzero()[:, 0]
    start = int(torch.randint(len(places), (), generator=generator))
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    chosen[places.roll(-start)[:count]] = True
    return chosen


def ordered_by_a_remainder(groups, count, generator):
    """An order that depends on what the groups are called."""
    return chosen_tokens(torch.where(groups < 0, -1, (groups * 5) % 11), count, generator)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (overflowing, the_count_is_not_exceeded),
        (stops_at_the_first_that_is_too_long, what_still_fits_is_taken),
        (pieces_instead_of_words, words_are_chosen_whole),
        (specials_are_a_word_too, specials_are_never_chosen),
        (each_token_by_itself, single_tokens_fill_the_count),
        (ordered_by_a_remainder, names_of_groups_do_not_matter),
    ],
)
def test_chosen_tokens_rejects(mistake, law):
    rejects(law, mistake, chosen_tokens, CHOICES)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (always_the_first, every_place_is_equally_likely),
        (a_run_of_neighbours, every_pair_of_places_is_equally_likely),
    ],
)
def test_chosen_tokens_rejects_an_unfair_choice(mistake, law):
    rejects(law, mistake, chosen_tokens, CHOICES[:1])


# -------------------------------------------------------------------------------- word_groups


class Pieces(NamedTuple):
    starts: Tensor
    maskable: Tensor


@st.composite
def pieces(draw) -> Pieces:
    """[CLS], words, [SEP], words, [SEP]; a text cut at its front may begin inside a word.

    Sometimes without [CLS]: then the rest of a word may be the very first piece.
    """
    texts = [draw(st.lists(st.booleans(), min_size=1, max_size=7)) for _ in range(2)]
    starts = [True, *texts[0], True, *texts[1], True]
    maskable = [False, *[True] * len(texts[0]), False, *[True] * len(texts[1]), False]
    bare = int(draw(st.booleans()))
    return Pieces(torch.tensor(starts[bare:]), torch.tensor(maskable[bare:]))


PIECES = [
    Pieces(torch.tensor([True, True, False, True, False, False, True]),
           torch.tensor([False, True, True, False, True, True, False])),
    Pieces(torch.tensor([True, False, False, True, True]),
           torch.tensor([False, True, True, True, False])),
    Pieces(torch.tensor([False, True, False]), torch.tensor([True, True, True])),
]


def places_by_group(groups: Tensor) -> list[list[int]]:
    numbers = sorted(set(groups.tolist()) - {-1})
    return [(groups == number).nonzero()[:, 0].tolist() for number in numbers]


@given(case=pieces())
def test_word_groups_is_its_spec(case):
    expected = spec.words(*(part.tolist() for part in case))
    assert places_by_group(word_groups(*case)) == expected


def exactly_the_maskable_are_in_groups(formula, case):
    return int(((formula(*case) >= 0) != case.maskable).sum()), 0


def a_piece_joins_the_one_before_it(formula, case):
    groups, wrong = formula(*case), 0
    for s in range(1, len(groups)):
        if case.maskable[s] and case.maskable[s - 1]:
            wrong += bool(groups[s] == groups[s - 1]) == bool(case.starts[s])
    return wrong, 0


def a_word_does_not_reach_over_a_separator(formula, case):
    """A piece with ## right after [SEP] is the rest of a word that was cut off."""
    runs = places_by_group(formula(*case))
    return sum(b - a > 1 for places in runs for a, b in pairwise(places)), 0


WORD_LAWS = [
    exactly_the_maskable_are_in_groups,
    a_piece_joins_the_one_before_it,
    a_word_does_not_reach_over_a_separator,
]


@pytest.mark.parametrize("law", WORD_LAWS)
@given(case=pieces())
def test_word_groups_law(law, case):
    holds(law, word_groups, case)


def googles_words(starts, maskable):
    """create_pretraining_data.py: a ## piece joins the last candidate, wherever that was."""
    groups, number = torch.full(starts.shape, -1), -1
    for s in range(len(starts)):
        if maskable[s]:
            number += bool(starts[s]) or number < 0
            groups[s] = number
    return groups


def every_piece_a_word(starts, maskable):
    return torch.where(maskable, torch.arange(len(starts)), -1)


def specials_in_groups(starts, maskable):
    return starts.long().cumsum(0) - 1


def a_first_rest_never_masked(starts, maskable):
    """Words counted from 0, so that a rest before the first word gets the number of no group."""
    return torch.where(maskable, starts.long().cumsum(0) - 1, -1)


def a_piece_joins_the_one_after_it(starts, maskable):
    return torch.where(maskable, starts.long().cumsum(0) - starts.long(), -1)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (googles_words, a_word_does_not_reach_over_a_separator),
        (a_piece_joins_the_one_after_it, a_piece_joins_the_one_before_it),
        (every_piece_a_word, a_piece_joins_the_one_before_it),
        (a_first_rest_never_masked, exactly_the_maskable_are_in_groups),
        (specials_in_groups, exactly_the_maskable_are_in_groups),
    ],
)
def test_word_groups_rejects(mistake, law):
    rejects(law, mistake, word_groups, PIECES)


# ---------------------------------------------------------------------------- replaced_tokens


class Replacing(NamedTuple):
    ids: Tensor
    chosen: Tensor
    draws: Tensor
    random_ids: Tensor
    mask_id: int


MASK, VOCABULARY = 3, 23


def replacing_case(seed: int, tokens: int = 11) -> Replacing:
    generator = generator_of(seed)
    ids, random_ids = torch.randint(5, VOCABULARY, (2, tokens), generator=generator)
    draws = torch.rand(tokens, generator=generator)
    return Replacing(ids, torch.rand(tokens, generator=generator) < 0.5, draws, random_ids, MASK)


@given(case=st.builds(replacing_case, seeds))
def test_replaced_tokens_is_its_spec(case):
    lists = [part.tolist() for part in case[:4]]
    expected = spec.replaced_tokens(*lists, MASK)
    assert tuple(part.tolist() for part in replaced_tokens(*case)) == expected


def eighty_ten_ten(formula, case):
    """Exactly, on 100,000 draws spread evenly over [0, 1): no sampling, no tolerance."""
    n = 100_000
    draws = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    all_chosen = torch.ones(n, dtype=torch.bool)
    found, _ = formula(torch.full((n,), 7), all_chosen, draws, torch.full((n,), 9), MASK)
    shares = [int((found == kind).sum()) for kind in (MASK, 9, 7)]
    wanted = (80_000, 10_000, 10_000)
    return sum(abs(a - b) for a, b in zip(shares, wanted, strict=True)), 0


def borders_belong_to_the_upper_part(formula, case):
    draws = torch.tensor([0.0, 0.8, 0.9], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.int64)
    found, _ = formula(7 * ones, ones.bool(), draws, 9 * ones, MASK)
    return int((found != torch.tensor([MASK, 9, 7])).sum()), 0


def tokens_not_chosen_stay(formula, case):
    found, labels = formula(*case)
    changed = int((found != case.ids)[~case.chosen].sum())
    return changed + int((labels[~case.chosen] != -100).sum()), 0


def labels_are_the_old_words(formula, case):
    """Of all chosen tokens, of those also that stay as they are."""
    _, labels = formula(*case)
    return int((labels != case.ids)[case.chosen].sum()), 0


REPLACING_LAWS = [
    eighty_ten_ten,
    borders_belong_to_the_upper_part,
    tokens_not_chosen_stay,
    labels_are_the_old_words,
]


@pytest.mark.parametrize("law", REPLACING_LAWS)
@fewer(4)
@given(case=st.builds(replacing_case, seeds))
def test_replaced_tokens_law(law, case):
    holds(law, replaced_tokens, case)


def two_draws(ids, chosen, draws, random_ids, mask_id):
    """labml's code: 10 % unchanged and 10 % random, drawn apart, give 81 / 10 / 9."""
    second = (draws * 1000) % 1
    hidden = torch.where(draws < 0.1, ids, mask_id)
    hidden = torch.where(second < 0.1, random_ids, hidden)
    return torch.where(chosen, hidden, ids), torch.where(chosen, ids, -100)


def always_the_mask(ids, chosen, draws, random_ids, mask_id):
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


def random_and_unchanged_swapped(ids, chosen, draws, random_ids, mask_id):
    return replaced_tokens(ids, chosen, draws, torch.where(draws < 0.9, ids, random_ids), mask_id)


def all_tokens_replaced(ids, chosen, draws, random_ids, mask_id):
    hidden, _ = replaced_tokens(ids, chosen | True, draws, random_ids, mask_id)
    return hidden, torch.where(chosen, ids, -100)


def all_tokens_labelled(ids, chosen, draws, random_ids, mask_id):
    return replaced_tokens(ids, chosen, draws, random_ids, mask_id)[0], ids


def unchanged_tokens_not_labelled(ids, chosen, draws, random_ids, mask_id):
    hidden, labels = replaced_tokens(ids, chosen, draws, random_ids, mask_id)
    return hidden, torch.where(draws < 0.9, labels, -100)


def new_words_as_labels(ids, chosen, draws, random_ids, mask_id):
    hidden, _ = replaced_tokens(ids, chosen, draws, random_ids, mask_id)
    return hidden, torch.where(chosen, hidden, -100)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (two_draws, eighty_ten_ten),
        (always_the_mask, eighty_ten_ten),
        (random_and_unchanged_swapped, borders_belong_to_the_upper_part),
        (all_tokens_replaced, tokens_not_chosen_stay),
        (all_tokens_labelled, tokens_not_chosen_stay),
        (unchanged_tokens_not_labelled, labels_are_the_old_words),
        (new_words_as_labels, labels_are_the_old_words),
    ],
)
def test_replaced_tokens_rejects(mistake, law):
    rejects(law, mistake, replaced_tokens, [replacing_case(seed) for seed in range(5)])


# -------------------------------------------------------------------------------- mask_tokens


class Sentence(NamedTuple):
    ids: Tensor
    groups: Tensor
    seed: int


def sentence_case(seed: int, words: int = 29) -> Sentence:
    """[CLS] = 1, words of single pieces, [SEP] = 2."""
    ids = torch.randint(5, VOCABULARY, (words,), generator=generator_of(seed))
    groups = torch.tensor([-1, *range(words), -1])
    return Sentence(torch.tensor([1, *ids.tolist(), 2]), groups, seed)


sentences = st.builds(sentence_case, seeds, st.sampled_from([1, 2, 29, 170]))


def masked_by(formula, case: Sentence, **options) -> tuple[Tensor, Tensor]:
    return formula(case.ids, case.groups, VOCABULARY, MASK, generator_of(case.seed), **options)


@given(case=sentences)
def test_mask_tokens_is_its_spec(case):
    """The same draws, in the order: which tokens, what happens to each, which random words."""
    generator, tokens = generator_of(case.seed), len(case.ids)
    order = torch.randperm(tokens - 2, generator=generator).tolist()
    draws = torch.rand(tokens, generator=generator).tolist()
    random_ids = torch.randint(VOCABULARY, (tokens,), generator=generator).tolist()
    count = spec.masked_count(tokens, 0.15, 20)
    chosen = spec.chosen_tokens(case.groups.tolist(), count, order)
    expected = spec.replaced_tokens(case.ids.tolist(), chosen, draws, random_ids, MASK)
    assert tuple(part.tolist() for part in masked_by(mask_tokens, case)) == expected


def the_count_is_the_published_one(formula, case):
    _, labels = masked_by(formula, case)
    wanted = min(len(case.ids) - 2, masked_count(len(case.ids)))
    return abs(int((labels != -100).sum()) - wanted), 0


def rate_and_room_are_obeyed(formula, case):
    _, all_of_them = masked_by(formula, case, rate=1.0, most=1000)
    _, few = masked_by(formula, case, rate=1.0, most=2)
    words = len(case.ids) - 2
    found = int((all_of_them != -100).sum()), int((few != -100).sum())
    return abs(found[0] - words) + abs(found[1] - min(2, words)), 0


def specials_stay_and_have_no_label(formula, case):
    ids, labels = masked_by(formula, case)
    special = case.groups < 0
    return int((ids != case.ids)[special].sum() + (labels[special] != -100).sum()), 0


def ids_and_labels_give_the_sentence_back(formula, case):
    ids, labels = masked_by(formula, case)
    return int((torch.where(labels == -100, ids, labels) != case.ids).sum()), 0


def one_seed_one_result(formula, case):
    """Nothing else is drawn from, neither before nor after."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = masked_by(formula, case)
    disturbed = int(not torch.equal(before, torch.get_rng_state()))
    torch.manual_seed(2)
    second = masked_by(formula, case)
    return disturbed + sum(int((a != b).sum()) for a, b in zip(first, second, strict=True)), 0


MASK_LAWS = [
    the_count_is_the_published_one,
    rate_and_room_are_obeyed,
    specials_stay_and_have_no_label,
    ids_and_labels_give_the_sentence_back,
    one_seed_one_result,
]


@pytest.mark.parametrize("law", MASK_LAWS)
@fewer(4)
@given(case=sentences)
def test_mask_tokens_law(law, case):
    holds(law, mask_tokens, case)


def shares_and_random_words_are_even(formula, case):
    """4,000 tokens of one word: what becomes of them, random words evenly from all V.

    A random word is [MASK] or the old one once in V times each, so the shares are corrected.
    """
    n, word = 4000, 7
    ids, labels = formula(
        torch.full((n,), word), torch.arange(n), VOCABULARY, MASK, generator_of(case.seed), 1.0, n
    )
    found = Counter(ids.tolist())
    random_words = [found[v] for v in range(VOCABULARY) if v not in (MASK, word)]
    gaps = [
        deviations_from_share(found[MASK], n, 0.8 + 0.1 / VOCABULARY),
        deviations_from_share(found[word], n, 0.1 + 0.1 / VOCABULARY),
        deviations_from_uniform(random_words),
        100.0 * int((labels != word).sum()),
    ]
    return max(gaps), SIX_SIGMA


def test_mask_tokens_is_fair():
    holds(shares_and_random_words_are_even, mask_tokens, sentence_case(1))


def global_randomness(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups, vocab_size, mask_id, torch.default_generator, rate, most)


def specials_among_the_words(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups + 1, vocab_size, mask_id, generator, rate, most)


def one_random_word_for_all(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    chosen = chosen_tokens(groups, masked_count(len(ids), rate, most), generator)
    word = torch.randint(vocab_size, (), generator=generator)
    draws = torch.rand(ids.shape, generator=generator)
    return replaced_tokens(ids, chosen, draws, word.expand(ids.shape), mask_id)


def random_words_of_the_sentence(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    chosen = chosen_tokens(groups, masked_count(len(ids), rate, most), generator)
    draws = torch.rand(ids.shape, generator=generator)
    return replaced_tokens(ids, chosen, draws, ids.roll(1), mask_id)


def words_counted_without_specials(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    rate = rate * (len(ids) - 2) / len(ids)
    return mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)


def room_forgotten(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups, vocab_size, mask_id, generator, rate)


def labels_of_the_masked_ids(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    hidden, labels = mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)
    return hidden, torch.where(labels == -100, -100, hidden)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (global_randomness, one_seed_one_result),
        (specials_among_the_words, specials_stay_and_have_no_label),
        (one_random_word_for_all, shares_and_random_words_are_even),
        (random_words_of_the_sentence, shares_and_random_words_are_even),
        (words_counted_without_specials, the_count_is_the_published_one),
        (room_forgotten, rate_and_room_are_obeyed),
        (labels_of_the_masked_ids, ids_and_labels_give_the_sentence_back),
    ],
)
def test_mask_tokens_rejects(mistake, law):
    if law is shares_and_random_words_are_even:
        cases = [sentence_case(1)]
    else:
        cases = [sentence_case(seed, words) for seed in range(4) for words in (22, 24, 29)]
    rejects(law, mistake, mask_tokens, cases)


# ----------------------------------------------------------------------------- truncated_pair


class TwoTexts(NamedTuple):
    first: list[int]
    second: list[int]
    most: int
    seed: int


def texts_case(seed: int, first: int = 13, second: int = 7, most: int = 11) -> TwoTexts:
    return TwoTexts(list(range(first)), list(range(100, 100 + second)), most, seed)


texts = st.builds(texts_case, seeds, st.integers(1, 17), st.integers(1, 17), st.integers(2, 23))


def cut_by(formula, case: TwoTexts) -> tuple[list[int], list[int]]:
    return formula(case.first, case.second, case.most, generator_of(case.seed))


@given(case=texts)
def test_truncated_pair_is_its_spec(case):
    generator = generator_of(case.seed)
    expected = spec.truncated_pair(
        case.first, case.second, case.most,
        lambda: float(torch.rand((), generator=generator)) < 0.5,
    )
    assert cut_by(truncated_pair, case) == expected


def as_long_as_there_is_room(formula, case):
    total = sum(map(len, cut_by(formula, case)))
    return abs(total - min(case.most, len(case.first) + len(case.second))), 0


def parts_are_contiguous(formula, case):
    cut = cut_by(formula, case)
    gaps = [b - a != 1 for part in cut for a, b in pairwise(part)]
    strays = [not set(part) <= set(whole) for part, whole in zip(cut, case[:2], strict=True)]
    return sum(gaps) + sum(strays), 0


def a_text_of_half_the_room_is_not_cut(formula, case):
    cut = cut_by(formula, case)
    return sum(
        part != whole for part, whole in zip(cut, case[:2], strict=True)
        if len(whole) <= case.most // 2
    ), 0


def two_long_texts_end_up_alike(formula, case):
    first, second = cut_by(formula, case)
    both_cut = len(first) < len(case.first) and len(second) < len(case.second)
    return max(0, abs(len(first) - len(second)) - 1) if both_cut else 0, 0


def neither_is_emptied(formula, case):
    return sum(not part for part in cut_by(formula, case)), 0


TRUNCATION_LAWS = [
    as_long_as_there_is_room,
    parts_are_contiguous,
    a_text_of_half_the_room_is_not_cut,
    two_long_texts_end_up_alike,
    neither_is_emptied,
]


@pytest.mark.parametrize("law", TRUNCATION_LAWS)
@given(case=texts)
def test_truncated_pair_law(law, case):
    holds(law, truncated_pair, case)


def front_and_back_are_cut_alike(formula, case):
    """900 tokens too many: about half of them go at the front."""
    first, _ = formula(list(range(1000)), [0], 101, generator_of(case.seed))
    return deviations_from_share(first[0], 900, 0.5), SIX_SIGMA


def test_truncated_pair_is_fair():
    holds(front_and_back_are_cut_alike, truncated_pair, texts_case(1))


def at_the_back_only(first, second, most, generator):
    while len(first) + len(second) > most:
        first, second = (first[:-1], second) if len(first) > len(second) else (first, second[:-1])
    return first, second


def second_text_only(first, second, most, generator):
    return first, second[: max(1, most - len(first))]


def first_half_each(first, second, most, generator):
    return first[: most // 2], second[: most - most // 2]


def in_proportion(first, second, most, generator):
    share = min(1.0, most / (len(first) + len(second)))
    kept = round(share * len(first))
    return first[:kept], second[: min(len(second), most - kept)]


def out_of_the_middle(first, second, most, generator):
    longer = max(first, second, key=len)
    spare = max(0, len(first) + len(second) - most)
    cut = longer[:1] + longer[1 + spare :]
    return (cut, second) if longer is first else (first, cut)


@pytest.mark.parametrize(
    ("mistake", "law"),
    [
        (at_the_back_only, front_and_back_are_cut_alike),
        (second_text_only, as_long_as_there_is_room),
        (in_proportion, a_text_of_half_the_room_is_not_cut),
        (first_half_each, as_long_as_there_is_room),
        (in_proportion, two_long_texts_end_up_alike),
        (in_proportion, neither_is_emptied),
        (out_of_the_middle, parts_are_contiguous),
    ],
)
def test_truncated_pair_rejects(mistake, law):
    shapes = [(13, 7, 11), (20, 15, 12), (30, 1, 8), (4, 19, 10), (3, 4, 12)]
    rejects(law, mistake, truncated_pair, [texts_case(9, *shape) for shape in shapes])


# ------------------------------------------------------------------------ next_sentence_pairs


class Corpus(NamedTuple):
    """Token 1000 d + i is the i-th of document d, so that every token says where it is from."""

    documents: list[list[list[int]]]
    most: int
    seed: int
    short_rate: float


def corpus_case(
    seed: int, most: int = 9, lengths: Sequence[Sequence[int]] = ((2, 3, 1, 4), (5,), (1, 1, 6)),
    short_rate: float = 0.3,
) -> Corpus:
    documents = []
    for d, document in enumerate(lengths):
        starts = [sum(document[:i]) for i in range(len(document))]
        documents.append([
            [1000 * d + start + i for i in range(length)]
            for start, length in zip(starts, document, strict=True)
        ])
    return Corpus(documents, most, seed, short_rate)


def words_case(seed: int, most: int = 7, lengths: Sequence[int] = (23, 41, 10)) -> Corpus:
    """Sentences of one token, always the full target: nothing is ever cut off."""
    return corpus_case(seed, most, [[1] * length for length in lengths], 0.0)


corpora = st.builds(
    corpus_case, seeds, st.integers(2, 12),
    st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=6), min_size=2, max_size=5),
    st.sampled_from([0.0, 0.3, 1.0]),
)


def pairs_by(formula, case: Corpus) -> list[SentencePair]:
    return formula(case.documents, case.most, generator_of(case.seed), case.short_rate)


@given(case=corpora)
def test_next_sentence_pairs_is_its_spec(case):
    generator = generator_of(case.seed)
    expected = spec.next_sentence_pairs(
        case.documents, case.most, case.short_rate,
        lambda low, high: int(torch.randint(low, high + 1, (), generator=generator)),
        lambda probability: float(torch.rand((), generator=generator)) < probability,
    )
    assert pairs_by(next_sentence_pairs, case) == expected


def document_of(tokens: list[int]) -> set[int]:
    return {token // 1000 for token in tokens}


def pairs_fit_and_neither_text_is_empty(formula, case):
    pairs = pairs_by(formula, case)
    too_long = sum(len(pair.first) + len(pair.second) > case.most for pair in pairs)
    return too_long + sum(not pair.first or not pair.second for pair in pairs), 0


def each_text_is_a_run_of_one_document(formula, case):
    return sum(
        any(b - a != 1 for a, b in pairwise(text))
        for pair in pairs_by(formula, case) for text in pair[:2]
    ), 0


def random_means_another_document_and_next_the_same(formula, case):
    return sum(
        (document_of(pair.first) == document_of(pair.second)) != (pair.label == 0)
        for pair in pairs_by(formula, case)
    ), 0


def next_comes_after(formula, case):
    return sum(
        pair.label == 0 and pair.second[0] <= pair.first[-1] for pair in pairs_by(formula, case)
    ), 0


def documents_come_in_order(formula, case):
    """The first texts walk through every document from its start, one after the other."""
    starts = [pair.first[0] for pair in pairs_by(formula, case)]
    missing = set(range(len(case.documents))) - {start // 1000 for start in starts}
    return sum(b <= a for a, b in pairwise(starts)) + len(missing), 0


def one_sentence_has_no_next(formula, case):
    """Documents of one sentence: there is nothing that could follow it."""
    single = case._replace(documents=[document[:1] for document in case.documents])
    return sum(pair.label == 0 for pair in pairs_by(formula, single)), 0


def pairs_depend_on_the_seed_alone(formula, case):
    torch.manual_seed(1)
    state, kept = torch.get_rng_state(), [[list(s) for s in doc] for doc in case.documents]
    first = pairs_by(formula, case)
    disturbed = int(not torch.equal(state, torch.get_rng_state())) + int(kept != case.documents)
    torch.manual_seed(2)
    return disturbed + int(first != pairs_by(formula, case)), 0


PAIR_LAWS = [
    pairs_fit_and_neither_text_is_empty,
    each_text_is_a_run_of_one_document,
    random_means_another_document_and_next_the_same,
    next_comes_after,
    documents_come_in_order,
    one_sentence_has_no_next,
    pairs_depend_on_the_seed_alone,
]


@pytest.mark.parametrize("law", PAIR_LAWS)
@fewer(4)
@given(case=corpora)
def test_next_sentence_pairs_law(law, case):
    holds(law, next_sentence_pairs, case)


def no_sentence_is_lost_or_used_twice(formula, case):
    """First texts and real next ones, laid end to end, are the documents again."""
    used = [
        token for pair in pairs_by(formula, case)
        for token in pair.first + (pair.second if pair.label == 0 else [])
    ]
    return int(used != [token for document in case.documents for [token] in document]), 0


def next_follows_at_once(formula, case):
    return sum(
        pair.label == 0 and pair.second[0] != pair.first[-1] + 1
        for pair in pairs_by(formula, case)
    ), 0


def pairs_are_full(formula, case):
    """All real ones but those at the end of a document."""
    last = {document[-1][0] for document in case.documents}
    return sum(
        len(pair.first) + len(pair.second) < case.most
        for pair in pairs_by(formula, case)
        if pair.label == 0 and pair.second[-1] not in last
    ), 0


WORD_PAIR_LAWS = [no_sentence_is_lost_or_used_twice, next_follows_at_once, pairs_are_full]


@pytest.mark.parametrize("law", WORD_PAIR_LAWS)
@fewer(4)
@given(case=st.builds(words_case, seeds, st.integers(2, 9)))
def test_next_sentence_pairs_law_without_cuts(law, case):
    holds(law, next_sentence_pairs, case)


def free_pairs(formula, case: Corpus) -> list[SentencePair]:
    """Pairs whose label was drawn: a chunk of one sentence is the last one of its document."""
    last = {document[-1][0] for document in case.documents}
    return [pair for pair in pairs_by(formula, case) if not last & set(pair.first)]


def labels_are_balanced(formula, case):
    pairs = free_pairs(formula, case)
    return deviations_from_share(sum(pair.label for pair in pairs), len(pairs), 0.5), SIX_SIGMA


def borders_are_even(formula, case):
    """Full chunks of seven sentences are cut after 1, …, 6 of them equally often."""
    lengths = Counter(
        len(pair.first) for pair in free_pairs(formula, case)
        if pair.label == 0 and len(pair.first) + len(pair.second) == case.most
    )
    return deviations_from_uniform([lengths[n] for n in range(1, case.most)]), SIX_SIGMA


def other_documents_are_drawn_evenly(formula, case):
    """Of the first document's random pairs, from each of the others."""
    found = Counter(
        pair.second[0] // 1000 for pair in pairs_by(formula, case)
        if pair.label == 1 and pair.first[0] < 1000
    )
    return deviations_from_uniform([found[d] for d in range(1, len(case.documents))]), SIX_SIGMA


def random_texts_start_anywhere(formula, case):
    """In ten parts of the second document."""
    size = len(case.documents[1])
    found = Counter(
        (pair.second[0] % 1000) * 10 // size for pair in pairs_by(formula, case)
        if pair.label == 1 and pair.second[0] // 1000 == 1
    )
    return deviations_from_uniform([found[tenth] for tenth in range(10)]), SIX_SIGMA


FAIR_LAWS = [
    labels_are_balanced,
    borders_are_even,
    other_documents_are_drawn_evenly,
    random_texts_start_anywhere,
]
LONG = words_case(3, 7, (999, 990, 500, 720, 333))


@pytest.mark.parametrize("law", FAIR_LAWS)
def test_next_sentence_pairs_is_fair(law):
    holds(law, next_sentence_pairs, LONG)


def test_short_targets_are_drawn_evenly_and_as_often_as_asked():
    """Real pairs away from the end of a document have their target's length: 2 to 7."""
    for short_rate in (1.0, 0.4):
        case = LONG._replace(short_rate=short_rate)
        pairs = [
            pair for pair in pairs_by(next_sentence_pairs, case)
            if pair.label == 0 and pair.second[-1] + 1 < 1000 * (pair.second[0] // 1000) + 300
        ]
        found = Counter(len(pair.first) + len(pair.second) for pair in pairs)
        assert set(found) <= set(range(2, 8))
        assert deviations_from_uniform([found[n] for n in range(2, 7)]) < SIX_SIGMA
        full = 1 - short_rate * 5 / 6
        assert deviations_from_share(found[7], len(pairs), full) < SIX_SIGMA


def test_one_target_in_ten_is_short_unless_given():
    found = next_sentence_pairs(LONG.documents, LONG.most, generator_of(3))
    assert found == pairs_by(next_sentence_pairs, LONG._replace(short_rate=0.1))


def written_anew(wrong: str):
    """Google's procedure for uncut sentences with one thing wrong."""

    def variant(documents, most, generator, short_rate):
        def integer(low: int, high: int) -> int:
            source = torch.default_generator if wrong == "global_randomness" else generator
            return int(torch.randint(low, high + 1, (), generator=source))

        pairs = []
        for number, document in enumerate(documents):
            start = 0
            while start < len(document):
                end = min(start + most, len(document))
                if wrong == "sentences_overlap":
                    start = max(0, start - 1)
                single = end - start == 1
                border = start + 1 if single else integer(start + 1, end - 1)
                if wrong == "cut_in_the_middle" and not single:
                    border = (start + end) // 2
                first = list(chain(*document[start:border]))
                second = list(chain(*document[border:end]))
                random = integer(0, 1) == 1
                if wrong == "mostly_next":
                    random = integer(0, 3) == 0
                label = int(random or (single and wrong != "never_forced"))
                if label == 0:
                    next_start = end
                    second = second or first
                else:
                    other = integer(0, len(documents) - 2)
                    other += other >= number
                    if wrong == "any_document":
                        other = integer(0, len(documents) - 1)
                    if wrong == "neighbouring_document":
                        other = (number + 1) % len(documents)
                    source = documents[other]
                    at = 0 if wrong == "from_the_front" else integer(0, len(source) - 1)
                    second = list(chain(*source[at : at + max(1, most - len(first))]))
                    next_start = end if wrong == "unused_thrown_away" else border
                if wrong == "too_long":
                    second = second + [second[-1] + 1] * (len(first) + len(second) == most)
                if wrong == "order_swapped" and label == 0:
                    first, second = second, first
                if wrong == "text_with_a_hole":
                    first = first[:1] + first[2:]
                if wrong == "half_full" and label == 0 and len(second) > 1:
                    second = second[:-1]
                if wrong == "gap_before_the_next" and label == 0 and len(second) > 1:
                    second = second[1:]
                if wrong == "last_document_forgotten" and number == len(documents) - 1:
                    return pairs
                turned = wrong == "labels_the_other_way"
                pairs.append(SentencePair(first, second, label ^ turned))
                start = next_start
        return pairs

    variant.__name__ = wrong
    return variant


def test_pairs_written_anew_obey_the_laws():
    """Otherwise the mistakes below would prove nothing."""
    for law in PAIR_LAWS + WORD_PAIR_LAWS:
        holds(law, written_anew("nothing"), words_case(1))
    for law in FAIR_LAWS:
        holds(law, written_anew("nothing"), LONG)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        ("too_long", pairs_fit_and_neither_text_is_empty),
        ("text_with_a_hole", each_text_is_a_run_of_one_document),
        ("any_document", random_means_another_document_and_next_the_same),
        ("labels_the_other_way", random_means_another_document_and_next_the_same),
        ("order_swapped", next_comes_after),
        ("sentences_overlap", documents_come_in_order),
        ("last_document_forgotten", documents_come_in_order),
        ("never_forced", one_sentence_has_no_next),
        ("global_randomness", pairs_depend_on_the_seed_alone),
        ("unused_thrown_away", no_sentence_is_lost_or_used_twice),
        ("gap_before_the_next", next_follows_at_once),
        ("half_full", pairs_are_full),
        ("mostly_next", labels_are_balanced),
        ("cut_in_the_middle", borders_are_even),
        ("neighbouring_document", other_documents_are_drawn_evenly),
        ("from_the_front", random_texts_start_anywhere),
    ],
)
def test_next_sentence_pairs_rejects(wrong, law):
    cases = [LONG] if law in FAIR_LAWS else [words_case(seed) for seed in range(5)]
    rejects(law, written_anew(wrong), next_sentence_pairs, cases)


@pytest.mark.parametrize(
    ("documents", "most", "message"),
    [
        ([[[1], [2]]], 8, "1 documents and 8 tokens a pair; needs at least two of each"),
        ([], 8, "0 documents and 8 tokens a pair"),
        ([[[1]], [[2]]], 1, "2 documents and 1 tokens a pair"),
        ([[[1]], []], 8, "document 1 has no sentence or an empty one; drop it"),
        ([[[1], []], [[2]]], 8, "document 0 has no sentence or an empty one; drop it"),
    ],
)
def test_next_sentence_pairs_refuses(documents, most, message):
    with pytest.raises(ValueError, match=message):
        next_sentence_pairs(documents, most, generator_of(0))
