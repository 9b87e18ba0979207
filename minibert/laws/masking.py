"""Laws of `masking`: which words are hidden, what they become, and which sentences are paired.

Where a formula draws at random, its spec gets the same draws and must give the same result. Shares
that can be counted exactly are counted on a grid of draws; the others are counted over many draws
and may deviate by six standard deviations, or, for χ², by what it exceeds once in 10^10.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor

from minibert.laws import spec_training as spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import EPS, differing, fresh, seed_of
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

WHOLE_NUMBERS = {
    "gradient": "whole numbers have no gradient",
    "accuracy": "it moves whole numbers and rounds none",
}
MASK, VOCABULARY = 3, 23


def unevenness(counts: Sequence[int], expected: float | None = None) -> float:
    """χ² of counts that should be equal, as a share of the value it exceeds with probability e^-25.

    χ² with d degrees of freedom is above d + 2 √(d t) + 2 t with probability e^-t at most (Laurent
    and Massart 2000). Without `expected`, each count should be their mean.
    """
    freedom, t = len(counts), 25
    if expected is None:
        expected, freedom = sum(counts) / len(counts), len(counts) - 1
    if expected == 0:
        return math.inf
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    return chi_square / (freedom + 2 * math.sqrt(freedom * t) + 2 * t)


def imbalance(count: int, total: int, share: float) -> float:
    """How far a count is from that share of the total, in units of six standard deviations."""
    return abs(count - total * share) / (6 * math.sqrt(total * share * (1 - share)))


# ---------------------------------------------------------------------------------- masked_count


class Count(NamedTuple):
    tokens: int
    rate: float
    most: int


def count_case(draw: Draw) -> Count:
    """Any count, rate and room; mostly with room enough."""
    rate = draw.choice([0.15, 0.15, draw.real(0, 1), draw.real(0, 1), 0.0, 1.0])
    room = draw.choice([600, 600, 600, 0, 1, draw.integer(1, 100)])
    return Count(draw.integer(0, draw.choice([9, 600, 600])), rate, room)


def roomy_case(draw: Draw) -> Count:
    """The rate asks for at least one token, and there is room for all."""
    return Count(draw.integer(20, 600), draw.real(0.05, 1), 600)


def tie_case(draw: Draw) -> Count:
    """15 % of 30, 70, 110, … tokens is a whole number and a half."""
    return Count(30 + 40 * draw.integer(0, 12), 0.15, 512)


MASKED_COUNT = Proof(masked_count, count_case, without=WHOLE_NUMBERS)


@MASKED_COUNT.spec
def it_is_the_nearest_whole_number_between_one_and_the_room(formula, case):
    return abs(formula(*case) - spec.masked_count(*case)), 0


@MASKED_COUNT.reference(cases=tie_case)
def it_rounds_as_torch_does(formula, case):
    wanted = int(torch.tensor(case.rate * case.tokens, dtype=torch.float64).round())
    return abs(formula(*case) - wanted), 0


@MASKED_COUNT.law
def at_least_one_and_at_most_the_room(formula, case):
    """Also at rate 0: a sequence without a word to guess would teach nothing."""
    error = 0
    for each in (case, case._replace(rate=0.0), case._replace(most=0)):
        found = formula(*each)
        error += max(0, min(1, each.most) - found, found - each.most)
    return error, 0


@MASKED_COUNT.law(cases=roomy_case)
def it_is_half_a_token_from_the_rate(formula, case):
    return abs(formula(*case) - case.rate * case.tokens), 0.5


@MASKED_COUNT.law
def more_tokens_are_not_fewer_masks(formula, case):
    more = [formula(case.tokens + added, *case[1:]) for added in (1, 7, 100)]
    return max(0, formula(*case) - min(more)), 0


@MASKED_COUNT.law(cases=tie_case)
def a_half_goes_to_the_even_number(formula, case):
    return formula(*case) % 2, 0


@MASKED_COUNT.mistake(it_is_half_a_token_from_the_rate)
def rounded_down(n, rate, most):
    return min(most, max(1, int(rate * n)))


@MASKED_COUNT.mistake(
    it_is_half_a_token_from_the_rate, it_is_the_nearest_whole_number_between_one_and_the_room
)
def rounded_up(n, rate, most):
    return min(most, max(1, math.ceil(rate * n)))


@MASKED_COUNT.mistake(a_half_goes_to_the_even_number, it_rounds_as_torch_does)
def half_up_as_python_2(n, rate, most):
    return min(most, max(1, math.floor(rate * n + 0.5)))


@MASKED_COUNT.mistake(at_least_one_and_at_most_the_room)
def possibly_none(n, rate, most):
    return min(most, round(rate * n))


@MASKED_COUNT.mistake(at_least_one_and_at_most_the_room)
def none_at_rate_zero(n, rate, most):
    return masked_count(n, rate, most) if rate else 0


@MASKED_COUNT.mistake(at_least_one_and_at_most_the_room)
def no_limit(n, rate, most):
    return max(1, round(rate * n))


@MASKED_COUNT.mistake(at_least_one_and_at_most_the_room)
def one_even_without_room(n, rate, most):
    return max(1, min(most, round(rate * n)))


@MASKED_COUNT.mistake(it_is_half_a_token_from_the_rate)
def specials_not_counted(n, rate, most):
    return masked_count(n - 3, rate, most)


@MASKED_COUNT.mistake(more_tokens_are_not_fewer_masks)
def last_window_only(n, rate, most):
    """A long text in windows of 128 tokens, of which only the last is counted."""
    return masked_count((n - 1) % 128 + 1, rate, most)


# --------------------------------------------------------------------------------- chosen_tokens


class Choice(NamedTuple):
    groups: Tensor
    most: int
    seed: int


def choice_case(draw: Draw) -> Choice:
    """[CLS], words of one to four pieces with a [SEP] after the third word, [SEP], padding."""
    sizes = [draw.integer(1, 4) for _ in range(draw.integer(1, 9))]
    groups = [-1]
    for number, size in enumerate(sizes):
        groups += [number + 5] * size + ([-1] if number == 2 else [])
    return Choice(torch.tensor([*groups, -1, -1, -1]), draw.integer(0, 15), seed_of(draw))


def chosen_by(formula: Callable[..., Tensor], case: Choice) -> Tensor:
    return formula(case.groups, case.most, fresh(case.seed))


def size_of(groups: Tensor, number: int) -> int:
    return int((groups == number).sum())


def plain_groups(groups: Tensor) -> Tensor:
    """Each token its own group."""
    return torch.where(groups < 0, -1, torch.arange(len(groups)))


CHOSEN_TOKENS = Proof(chosen_tokens, choice_case, without=WHOLE_NUMBERS)


@CHOSEN_TOKENS.spec
def the_groups_that_fit_in_the_order_of_the_draw(formula, case):
    n_groups = len(set(case.groups.tolist()) - {-1})
    order = torch.randperm(n_groups, generator=fresh(case.seed)).tolist()
    expected = spec.chosen_tokens(case.groups.tolist(), case.most, order)
    return differing(chosen_by(formula, case), torch.tensor(expected)), 0


@CHOSEN_TOKENS.reference
def single_tokens_are_the_first_of_torchs_permutation(formula, case):
    plain = plain_groups(case.groups)
    places = plain[plain >= 0]
    first = torch.randperm(len(places), generator=fresh(case.seed))[: case.most]
    expected = torch.zeros(plain.shape, dtype=torch.bool).index_fill_(0, places[first], True)
    return differing(formula(plain, case.most, fresh(case.seed)), expected), 0


@CHOSEN_TOKENS.law
def specials_are_never_chosen(formula, case):
    return int(chosen_by(formula, case)[case.groups < 0].sum()), 0


@CHOSEN_TOKENS.law
def words_are_chosen_whole(formula, case):
    chosen, groups = chosen_by(formula, case), case.groups
    numbers = set(groups.tolist()) - {-1}
    return sum(len(set(chosen[groups == number].tolist())) > 1 for number in numbers), 0


@CHOSEN_TOKENS.law
def the_count_is_not_exceeded(formula, case):
    return max(0, int(chosen_by(formula, case).sum()) - case.most), 0


@CHOSEN_TOKENS.law
def what_still_fits_is_taken(formula, case):
    chosen, groups = chosen_by(formula, case), case.groups
    room = case.most - int(chosen.sum())
    left_out = set(groups[~chosen].tolist()) - {-1}
    return sum(size_of(groups, number) <= room for number in left_out), 0


@CHOSEN_TOKENS.law
def single_tokens_fill_the_count(formula, case):
    plain = plain_groups(case.groups)
    found = int(formula(plain, case.most, fresh(case.seed)).sum())
    return abs(found - min(case.most, int((plain >= 0).sum()))), 0


@CHOSEN_TOKENS.law
def names_of_groups_do_not_matter(formula, case):
    renamed = torch.where(case.groups < 0, -1, 7 * case.groups + 2)
    other = formula(renamed, case.most, fresh(case.seed))
    return differing(other, chosen_by(formula, case)), 0


@CHOSEN_TOKENS.law
def group_zero_is_a_group_like_any_other(formula, case):
    from_zero = torch.where(case.groups < 0, -1, case.groups - 5)
    other = formula(from_zero, case.most, fresh(case.seed))
    return differing(other, chosen_by(formula, case)), 0


@CHOSEN_TOKENS.law(cost=60)
def every_place_is_equally_likely(formula, case):
    """Three of ten single tokens, 300 times: counts of each place."""
    generator, groups = fresh(case.seed), torch.arange(10)
    times = sum(formula(groups, 3, generator).long() for _ in range(300))
    return unevenness(times.tolist()), 1


@CHOSEN_TOKENS.law(cost=60)
def every_pair_of_places_is_equally_likely(formula, case):
    """Two of five, 400 times: counts of each of the ten pairs."""
    generator = fresh(case.seed)
    drawn = Counter(
        tuple(formula(torch.arange(5), 2, generator).nonzero()[:, 0].tolist()) for _ in range(400)
    )
    pairs = [(a, b) for b in range(5) for a in range(b)]
    stray = 400 - sum(drawn[pair] for pair in pairs)
    return unevenness([drawn[pair] for pair in pairs]) + stray, 1


def fair_order(groups, generator):
    numbers = torch.unique(groups[groups >= 0])
    return numbers[torch.randperm(len(numbers), generator=generator)].tolist()


@CHOSEN_TOKENS.mistake(the_count_is_not_exceeded)
def overflowing(groups, count, generator):
    """Words until the count is reached or passed."""
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for number in fair_order(groups, generator):
        if int(chosen.sum()) < count:
            chosen |= groups == number
    return chosen


@CHOSEN_TOKENS.mistake(what_still_fits_is_taken, the_groups_that_fit_in_the_order_of_the_draw)
def stops_at_the_first_that_is_too_long(groups, count, generator):
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for number in fair_order(groups, generator):
        if int(chosen.sum()) + size_of(groups, number) > count:
            break
        chosen |= groups == number
    return chosen


@CHOSEN_TOKENS.mistake(what_still_fits_is_taken)
def a_word_that_fills_the_room_is_passed_over(groups, count, generator):
    return chosen_tokens(groups, count - 1, generator)


@CHOSEN_TOKENS.mistake(
    words_are_chosen_whole, source="https://github.com/huggingface/transformers/issues/11768"
)
def pieces_instead_of_words(groups, count, generator):
    return chosen_tokens(plain_groups(groups), count, generator)


@CHOSEN_TOKENS.mistake(words_are_chosen_whole)
def the_last_word_is_broken_off(groups, count, generator):
    """Whole words, then as many pieces of the first word that is too long as still fit."""
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    for number in fair_order(groups, generator):
        places = (groups == number).nonzero()[:, 0]
        chosen[places[: count - int(chosen.sum())]] = True
    return chosen


@CHOSEN_TOKENS.mistake(
    specials_are_never_chosen,
    source="https://github.com/dhlee347/pytorchic-bert/blob/"
    "07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
)
def specials_are_a_word_too(groups, count, generator):
    return chosen_tokens(groups + 1, count, generator)


@CHOSEN_TOKENS.mistake(every_place_is_equally_likely)
def always_the_first(groups, count, generator):
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    chosen[(groups >= 0).nonzero()[:count, 0]] = True
    return chosen


@CHOSEN_TOKENS.mistake(every_place_is_equally_likely)
def never_the_last_word(groups, count, generator):
    return chosen_tokens(torch.where(groups == groups.max(), -1, groups), count, generator)


@CHOSEN_TOKENS.mistake(single_tokens_fill_the_count)
def each_token_by_itself(groups, count, generator):
    """As `transformers` draws: the number of masks varies and may be 0."""
    share = count / max(1, int((groups >= 0).sum()))
    return (torch.rand(len(groups), generator=generator) < share) & (groups >= 0)


@CHOSEN_TOKENS.mistake(
    every_pair_of_places_is_equally_likely, single_tokens_are_the_first_of_torchs_permutation
)
def a_run_of_neighbours(groups, count, generator):
    places = (groups >= 0).nonzero()[:, 0]
    start = int(torch.randint(len(places), (), generator=generator))
    chosen = torch.zeros(len(groups), dtype=torch.bool)
    chosen[places.roll(-start)[:count]] = True
    return chosen


@CHOSEN_TOKENS.mistake(names_of_groups_do_not_matter)
def ordered_by_a_remainder(groups, count, generator):
    """The order depends on the numbers of the groups."""
    return chosen_tokens(torch.where(groups < 0, -1, (groups * 5) % 11), count, generator)


@CHOSEN_TOKENS.mistake(group_zero_is_a_group_like_any_other)
def zero_taken_for_no_group(groups, count, generator):
    return chosen_tokens(torch.where(groups == 0, -1, groups), count, generator)


# ----------------------------------------------------------------------------------- word_groups


class Pieces(NamedTuple):
    starts: Tensor
    maskable: Tensor


def pieces_case(draw: Draw) -> Pieces:
    """[CLS], words, [SEP], words, [SEP]; a text cut at its front may begin inside a word.

    Sometimes without [CLS]: then the very first piece may continue a word.
    """
    texts = [[draw.choice([True, False]) for _ in range(draw.integer(1, 7))] for _ in range(2)]
    starts = [True, *texts[0], True, *texts[1], True]
    maskable = [False, *[True] * len(texts[0]), False, *[True] * len(texts[1]), False]
    bare = draw.integer(0, 1)
    return Pieces(torch.tensor(starts[bare:]), torch.tensor(maskable[bare:]))


def word_lengths_case(draw: Draw) -> tuple[list[int], list[int]]:
    """How many pieces each word of two texts has."""
    first, second = ([draw.integer(1, 4) for _ in range(draw.integer(1, 5))] for _ in range(2))
    return first, second


def places_by_group(groups: Tensor) -> list[list[int]]:
    numbers = sorted(set(groups.tolist()) - {-1})
    return [(groups == number).nonzero()[:, 0].tolist() for number in numbers]


WORD_GROUPS = Proof(word_groups, pieces_case, without=WHOLE_NUMBERS)
LIBRARY = BertWordPieceTokenizer(
    vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5, "##a": 6}
)


@WORD_GROUPS.spec
def the_words_are_the_runs_of_their_pieces(formula, case):
    expected = spec.words(*(part.tolist() for part in case))
    return float(places_by_group(formula(*case)) != expected), 0


@WORD_GROUPS.reference(cases=word_lengths_case)
def the_words_are_those_of_the_tokenizers_library(formula, case):
    first, second = (" ".join("a" * length for length in lengths) for lengths in case)
    encoding = LIBRARY.encode(first, second)
    named = list(zip(encoding.sequence_ids, encoding.word_ids, strict=True))
    words = [word for word in dict.fromkeys(named) if word[0] is not None]
    expected = [[s for s, word in enumerate(named) if word == wanted] for wanted in words]
    starts = torch.tensor([not piece.startswith("##") for piece in encoding.tokens])
    maskable = torch.tensor([word[0] is not None for word in named])
    return float(places_by_group(formula(starts, maskable)) != expected), 0


@WORD_GROUPS.law
def exactly_the_maskable_are_in_groups(formula, case):
    return differing(formula(*case) >= 0, case.maskable), 0


@WORD_GROUPS.law
def whatever_is_in_no_group_has_the_number_minus_one(formula, case):
    return float((formula(*case)[~case.maskable] != -1).sum()), 0


@WORD_GROUPS.law
def a_piece_joins_the_one_before_it(formula, case):
    groups, wrong = formula(*case), 0
    for s in range(1, len(groups)):
        if case.maskable[s] and case.maskable[s - 1]:
            wrong += bool(groups[s] == groups[s - 1]) == bool(case.starts[s])
    return wrong, 0


@WORD_GROUPS.law
def a_word_does_not_reach_over_a_separator(formula, case):
    """A piece with ## right after [SEP] is the rest of a word that was cut off."""
    runs = places_by_group(formula(*case))
    return sum(b - a > 1 for places in runs for a, b in pairwise(places)), 0


@WORD_GROUPS.mistake(a_word_does_not_reach_over_a_separator)
def googles_words(starts, maskable):
    """create_pretraining_data.py: a ## piece joins the last candidate, wherever that was."""
    groups, number = torch.full(starts.shape, -1), -1
    for s in range(len(starts)):
        if maskable[s]:
            number += bool(starts[s]) or number < 0
            groups[s] = number
    return groups


@WORD_GROUPS.mistake(
    a_piece_joins_the_one_before_it,
    the_words_are_those_of_the_tokenizers_library,
    the_words_are_the_runs_of_their_pieces,
)
def every_piece_a_word(starts, maskable):
    return torch.where(maskable, torch.arange(len(starts)), -1)


@WORD_GROUPS.mistake(exactly_the_maskable_are_in_groups)
def specials_in_groups(starts, maskable):
    return starts.long().cumsum(0) - 1


@WORD_GROUPS.mistake(exactly_the_maskable_are_in_groups)
def a_first_rest_never_masked(starts, maskable):
    """Words are counted from 0, so pieces before the first start get -1, the number of no group."""
    return torch.where(maskable, starts.long().cumsum(0) - 1, -1)


@WORD_GROUPS.mistake(a_piece_joins_the_one_before_it)
def a_piece_joins_the_one_after_it(starts, maskable):
    return torch.where(maskable, starts.long().cumsum(0) - starts.long(), -1)


@WORD_GROUPS.mistake(a_piece_joins_the_one_before_it)
def all_pieces_one_word(starts, maskable):
    return torch.where(maskable, 1, -1)


@WORD_GROUPS.mistake(whatever_is_in_no_group_has_the_number_minus_one)
def ignored_as_in_a_loss(starts, maskable):
    return torch.where(maskable, word_groups(starts, maskable), -100)


# ------------------------------------------------------------------------------- replaced_tokens


class Replacing(NamedTuple):
    ids: Tensor
    chosen: Tensor
    draws: Tensor
    random_ids: Tensor
    mask_id: int


def replacing_case(draw: Draw) -> Replacing:
    generator, n = fresh(seed_of(draw)), draw.choice([1, 11, 24])
    ids, random_ids = torch.randint(5, VOCABULARY, (2, n), generator=generator)
    draws, chosen = torch.rand(2, n, generator=generator)
    return Replacing(ids, chosen < 0.5, draws, random_ids, MASK)


REPLACED_TOKENS = Proof(replaced_tokens, replacing_case, without=WHOLE_NUMBERS)


def differing_in_either(found, expected):
    return sum(differing(a, b) for a, b in zip(found, expected, strict=True))


@REPLACED_TOKENS.spec
def each_token_has_one_draw(formula, case):
    lists = [part.tolist() for part in case[:4]]
    expected = map(torch.tensor, spec.replaced_tokens(*lists, case.mask_id))
    return differing_in_either(formula(*case), expected), 0


@REPLACED_TOKENS.reference
def the_draw_falls_into_one_of_torchs_buckets(formula, case):
    kind = torch.bucketize(case.draws, torch.tensor([0.8, 0.9]), right=True)
    kind = kind.masked_fill(~case.chosen, 2)
    forms = torch.stack((torch.full_like(case.ids, case.mask_id), case.random_ids, case.ids))
    expected = forms.gather(0, kind[None])[0], case.ids.masked_fill(~case.chosen, -100)
    return differing_in_either(formula(*case), expected), 0


@REPLACED_TOKENS.law
def eighty_ten_ten(formula, case):
    """Exactly, on 100,000 draws spread evenly over [0, 1): no sampling, no tolerance."""
    n = 100_000
    draws = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    all_chosen = torch.ones(n, dtype=torch.bool)
    found, _ = formula(torch.full((n,), 7), all_chosen, draws, torch.full((n,), 9), case.mask_id)
    shares = [int((found == kind).sum()) for kind in (case.mask_id, 9, 7)]
    wanted = (80_000, 10_000, 10_000)
    return sum(abs(a - b) for a, b in zip(shares, wanted, strict=True)), 0


@REPLACED_TOKENS.law
def borders_belong_to_the_upper_part(formula, case):
    draws = torch.tensor([0.0, 0.8, 0.9], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.int64)
    found, _ = formula(7 * ones, ones.bool(), draws, 9 * ones, case.mask_id)
    return differing(found, torch.tensor([case.mask_id, 9, 7])), 0


@REPLACED_TOKENS.law
def tokens_not_chosen_stay(formula, case):
    found, labels = formula(*case)
    changed = int((found != case.ids)[~case.chosen].sum())
    return changed + int((labels[~case.chosen] != -100).sum()), 0


@REPLACED_TOKENS.law
def labels_are_the_old_words(formula, case):
    """For all chosen tokens, also for those that stay unchanged."""
    _, labels = formula(*case)
    return int((labels != case.ids)[case.chosen].sum()), 0


@REPLACED_TOKENS.law
def tokens_do_not_see_each_other(formula, case):
    order = torch.arange(len(case.ids)).flip(0)
    turned = formula(*(part[order] for part in case[:4]), case.mask_id)
    return differing_in_either(turned, [part[order] for part in formula(*case)]), 0


def hidden_if_chosen(case_hidden, ids, chosen):
    return torch.where(chosen, case_hidden, ids), torch.where(chosen, ids, -100)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten,
    source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/blob/"
    "3c7238047360f5fd55fe28960348f33f275b8bd9/labml_nn/transformers/mlm/__init__.py",
)
def two_draws(ids, chosen, draws, random_ids, mask_id):
    """10 % unchanged and 10 % random, drawn independently, give 81 / 10 / 9."""
    second = (draws * 1000) % 1
    hidden = torch.where(draws < 0.1, ids, mask_id)
    return hidden_if_chosen(torch.where(second < 0.1, random_ids, hidden), ids, chosen)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten, source="https://github.com/lucidrains/mlm-pytorch/issues/6"
)
def random_words_overwritten_by_masks(ids, chosen, draws, random_ids, mask_id):
    second = (draws * 1000) % 1
    hidden = torch.where(second < 0.1, random_ids, ids)
    return hidden_if_chosen(torch.where(draws < 0.8, mask_id, hidden), ids, chosen)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten, source="https://github.com/huggingface/transformers/issues/32329"
)
def a_tenth_of_the_rest_is_random(ids, chosen, draws, random_ids, mask_id):
    hidden = torch.where(draws < 0.82, random_ids, ids)
    return hidden_if_chosen(torch.where(draws < 0.8, mask_id, hidden), ids, chosen)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten,
    borders_belong_to_the_upper_part,
    source="https://github.com/codertimo/BERT-pytorch/issues/29",
)
def nothing_is_hidden(ids, chosen, draws, random_ids, mask_id):
    """A draw is compared with 0.8 and 0.9 times itself, and is never below."""
    return hidden_if_chosen(ids, ids, chosen)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten, source="https://github.com/facebookresearch/fairseq/pull/758"
)
def never_a_random_word(ids, chosen, draws, random_ids, mask_id):
    return hidden_if_chosen(torch.where(draws < 0.8, mask_id, ids), ids, chosen)


@REPLACED_TOKENS.mistake(
    eighty_ten_ten, each_token_has_one_draw, the_draw_falls_into_one_of_torchs_buckets
)
def always_the_mask(ids, chosen, draws, random_ids, mask_id):
    return torch.where(chosen, mask_id, ids), torch.where(chosen, ids, -100)


@REPLACED_TOKENS.mistake(borders_belong_to_the_upper_part)
def random_and_unchanged_swapped(ids, chosen, draws, random_ids, mask_id):
    return replaced_tokens(ids, chosen, draws, torch.where(draws < 0.9, ids, random_ids), mask_id)


@REPLACED_TOKENS.mistake(borders_belong_to_the_upper_part)
def borders_belong_to_the_lower_part(ids, chosen, draws, random_ids, mask_id):
    hidden = torch.where(draws <= 0.9, random_ids, ids)
    return hidden_if_chosen(torch.where(draws <= 0.8, mask_id, hidden), ids, chosen)


@REPLACED_TOKENS.mistake(tokens_not_chosen_stay)
def all_tokens_replaced(ids, chosen, draws, random_ids, mask_id):
    hidden, _ = replaced_tokens(ids, chosen | True, draws, random_ids, mask_id)
    return hidden, torch.where(chosen, ids, -100)


@REPLACED_TOKENS.mistake(
    tokens_not_chosen_stay, source="https://github.com/huggingface/course/issues/291"
)
def all_tokens_labelled(ids, chosen, draws, random_ids, mask_id):
    return replaced_tokens(ids, chosen, draws, random_ids, mask_id)[0], ids


@REPLACED_TOKENS.mistake(tokens_not_chosen_stay)
def zero_for_no_label(ids, chosen, draws, random_ids, mask_id):
    hidden, _ = replaced_tokens(ids, chosen, draws, random_ids, mask_id)
    return hidden, torch.where(chosen, ids, 0)


@REPLACED_TOKENS.mistake(labels_are_the_old_words)
def unchanged_tokens_not_labelled(ids, chosen, draws, random_ids, mask_id):
    hidden, labels = replaced_tokens(ids, chosen, draws, random_ids, mask_id)
    return hidden, torch.where(draws < 0.9, labels, -100)


@REPLACED_TOKENS.mistake(labels_are_the_old_words)
def new_words_as_labels(ids, chosen, draws, random_ids, mask_id):
    hidden, _ = replaced_tokens(ids, chosen, draws, random_ids, mask_id)
    return hidden, torch.where(chosen, hidden, -100)


@REPLACED_TOKENS.mistake(tokens_do_not_see_each_other)
def one_draw_for_all(ids, chosen, draws, random_ids, mask_id):
    return replaced_tokens(ids, chosen, draws[:1].expand(draws.shape), random_ids, mask_id)


# ----------------------------------------------------------------------------------- mask_tokens


class Sentence(NamedTuple):
    ids: Tensor
    groups: Tensor
    seed: int


def sentence_case(draw: Draw) -> Sentence:
    """[CLS] = 1, words of single pieces, [SEP] = 2."""
    words, seed = draw.choice([1, 2, 22, 24, 29, 170]), seed_of(draw)
    ids = torch.randint(5, VOCABULARY, (words,), generator=fresh(seed))
    groups = torch.tensor([-1, *range(words), -1])
    return Sentence(torch.tensor([1, *ids.tolist(), 2]), groups, seed)


def masked_by(formula: Callable[..., Any], case: Sentence, **options: Any) -> Any:
    return formula(case.ids, case.groups, VOCABULARY, MASK, fresh(case.seed), **options)


MASK_TOKENS = Proof(mask_tokens, sentence_case, without=WHOLE_NUMBERS)


@MASK_TOKENS.spec
def the_draws_are_which_tokens_then_what_becomes_of_them_then_random_words(formula, case):
    generator, tokens = fresh(case.seed), len(case.ids)
    order = torch.randperm(tokens - 2, generator=generator).tolist()
    draws = torch.rand(tokens, generator=generator).tolist()
    random_ids = torch.randint(VOCABULARY, (tokens,), generator=generator).tolist()
    count = spec.masked_count(tokens, 0.15, 20)
    chosen = spec.chosen_tokens(case.groups.tolist(), count, order)
    expected = spec.replaced_tokens(case.ids.tolist(), chosen, draws, random_ids, MASK)
    return differing_in_either(masked_by(formula, case), map(torch.tensor, expected)), 0


@MASK_TOKENS.reference
def torchs_cross_entropy_reads_the_labels_of_the_chosen_words_alone(formula, case):
    """Logits that are all equal cost ln V for each word that counts."""
    _, labels = masked_by(formula, case)
    cost = F.cross_entropy(
        torch.zeros(len(labels), VOCABULARY, dtype=torch.float64), labels, reduction="sum"
    )
    share = torch.tensor(0.15 * len(labels), dtype=torch.float64)
    words = min(len(labels) - 2, int(share.round().clamp(1, 20)))
    return abs(float(cost) - words * math.log(VOCABULARY)), 100 * words * EPS


@MASK_TOKENS.law
def the_count_is_the_published_one(formula, case):
    _, labels = masked_by(formula, case)
    wanted = min(len(case.ids) - 2, spec.masked_count(len(case.ids), 0.15, 20))
    return abs(int((labels != -100).sum()) - wanted), 0


@MASK_TOKENS.law
def rate_and_room_are_obeyed(formula, case):
    words, error = len(case.ids) - 2, 0
    for rate, most, wanted in ((1.0, 1000, words), (1.0, 2, min(2, words)), (0.0, 1000, 1)):
        _, labels = masked_by(formula, case, rate=rate, most=most)
        error += abs(int((labels != -100).sum()) - wanted)
    return error, 0


@MASK_TOKENS.law
def specials_stay_and_have_no_label(formula, case):
    """Also where every word is hidden."""
    special, error = case.groups < 0, 0
    for options in ({}, {"rate": 1.0, "most": 1000}):
        ids, labels = masked_by(formula, case, **options)
        error += int((ids != case.ids)[special].sum() + (labels[special] != -100).sum())
    return error, 0


@MASK_TOKENS.law
def ids_and_labels_give_the_sentence_back(formula, case):
    ids, labels = masked_by(formula, case)
    return differing(torch.where(labels == -100, ids, labels), case.ids), 0


@MASK_TOKENS.law
def one_seed_one_result(formula, case):
    """torch's global generator is neither used nor moved, and the arguments stay as they are."""
    kept = torch.get_rng_state(), case.ids.clone(), case.groups.clone()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = masked_by(formula, case)
    disturbed = differing(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = masked_by(formula, case)
    torch.set_rng_state(kept[0])
    disturbed += differing(kept[1], case.ids) + differing(kept[2], case.groups)
    return disturbed + differing_in_either(first, second), 0


@MASK_TOKENS.law
def other_seeds_give_other_results(formula, case):
    """Half of 100 words."""
    ids = torch.arange(100)
    first, second = (
        formula(ids, ids, 2000, MASK, fresh(case.seed + i), 0.5, 50)[0] for i in range(2)
    )
    return float((first == second).all()), 0


@MASK_TOKENS.law(cost=5)
def each_piece_has_a_draw_of_its_own_and_words_are_even(formula, case):
    """One word of 40,000 pieces: the shares of the outcomes, and random words evenly from all V.

    A random word is [MASK] once in V draws, and the old word once; the shares allow for that.
    """
    n, word = 40_000, 7
    one_word = torch.zeros(n, dtype=torch.int64)
    ids, labels = formula(
        torch.full((n,), word), one_word, VOCABULARY, MASK, fresh(case.seed), 1.0, n
    )
    found = torch.bincount(ids, minlength=VOCABULARY).tolist()
    uneven = max(
        imbalance(found[MASK], n, 0.8 + 0.1 / VOCABULARY),
        imbalance(found[word], n, 0.1 + 0.1 / VOCABULARY),
        unevenness(
            [found[v] for v in range(VOCABULARY) if v not in (MASK, word)], 0.1 * n / VOCABULARY
        ),
    )
    return uneven + float((labels != word).sum()), 1


@MASK_TOKENS.mistake(one_seed_one_result)
def global_randomness(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups, vocab_size, mask_id, torch.default_generator, rate, most)


@MASK_TOKENS.mistake(other_seeds_give_other_results)
def a_fixed_seed(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups, vocab_size, mask_id, fresh(0), rate, most)


@MASK_TOKENS.mistake(one_seed_one_result)
def masked_in_place(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    hidden, labels = mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)
    return ids.copy_(hidden), labels


@MASK_TOKENS.mistake(
    specials_stay_and_have_no_label,
    source="https://github.com/dhlee347/pytorchic-bert/blob/"
    "07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
)
def specials_among_the_words(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups + 1, vocab_size, mask_id, generator, rate, most)


def with_random_words(words_of):
    """`mask_tokens` with other random words."""

    def variant(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
        chosen = chosen_tokens(groups, masked_count(len(ids), rate, most), generator)
        draws = torch.rand(ids.shape, generator=generator)
        words = words_of(ids, vocab_size, generator)
        return replaced_tokens(ids, chosen, draws, words.expand(ids.shape), mask_id)

    return variant


for name, words_of in {
    "one_random_word_for_all": lambda ids, v, g: torch.randint(v, (), generator=g),
    "random_words_of_the_sentence": lambda ids, v, g: ids.roll(1),
    "never_a_special_one": lambda ids, v, g: torch.randint(5, v, ids.shape, generator=g),
    "always_a_special_one": lambda ids, v, g: torch.randint(5, ids.shape, generator=g),
    "never_the_last_word": lambda ids, v, g: torch.randint(v - 1, ids.shape, generator=g),
}.items():
    law = each_piece_has_a_draw_of_its_own_and_words_are_even
    MASK_TOKENS.mistake(law, name=name)(with_random_words(words_of))


@MASK_TOKENS.mistake(
    each_piece_has_a_draw_of_its_own_and_words_are_even,
    the_draws_are_which_tokens_then_what_becomes_of_them_then_random_words,
)
def one_draw_for_a_whole_word(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    chosen = chosen_tokens(groups, masked_count(len(ids), rate, most), generator)
    draws = torch.rand(len(ids), generator=generator)[groups]
    words = torch.randint(vocab_size, ids.shape, generator=generator)
    return replaced_tokens(ids, chosen, draws, words, mask_id)


@MASK_TOKENS.mistake(the_count_is_the_published_one)
def words_counted_without_specials(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    rate = rate * (len(ids) - 2) / len(ids)
    return mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)


@MASK_TOKENS.mistake(rate_and_room_are_obeyed)
def room_forgotten(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    return mask_tokens(ids, groups, vocab_size, mask_id, generator, rate)


@MASK_TOKENS.mistake(ids_and_labels_give_the_sentence_back)
def labels_of_the_masked_ids(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    hidden, labels = mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)
    return hidden, torch.where(labels == -100, -100, hidden)


@MASK_TOKENS.mistake(
    torchs_cross_entropy_reads_the_labels_of_the_chosen_words_alone,
    specials_stay_and_have_no_label,
)
def no_label_is_zero(ids, groups, vocab_size, mask_id, generator, rate=0.15, most=20):
    hidden, labels = mask_tokens(ids, groups, vocab_size, mask_id, generator, rate, most)
    return hidden, torch.where(labels == -100, 0, labels)


# -------------------------------------------------------------------------------- truncated_pair


class TwoTexts(NamedTuple):
    first: list[int]
    second: list[int]
    most: int
    seed: int


def texts_case(draw: Draw) -> TwoTexts:
    first, second = (draw.choice([1, draw.integer(1, 7), draw.integer(8, 30)]) for _ in range(2))
    most = draw.integer(2, 23)
    return TwoTexts(list(range(first)), list(range(100, 100 + second)), most, seed_of(draw))


def long_texts_case(draw: Draw) -> TwoTexts:
    """Each text alone is longer than both together may be."""
    return texts_case(draw)._replace(
        first=list(range(draw.integer(24, 90))), second=list(range(100, draw.integer(124, 190)))
    )


def cut_by(formula: Callable[..., Any], case: TwoTexts) -> tuple[list[int], list[int]]:
    return formula(case.first, case.second, case.most, fresh(case.seed))


TRUNCATED_PAIR = Proof(truncated_pair, texts_case, without=WHOLE_NUMBERS)


@TRUNCATED_PAIR.spec
def tokens_go_one_by_one_at_the_end_that_is_drawn(formula, case):
    generator = fresh(case.seed)
    expected = spec.truncated_pair(
        *case[:3], lambda: float(torch.rand((), generator=generator)) < 0.5
    )
    return float(cut_by(formula, case) != expected), 0


@TRUNCATED_PAIR.reference
def the_lengths_are_those_of_the_tokenizers_library(formula, case):
    """Of two equally long texts, the library may give the odd token to the other one."""
    LIBRARY.enable_truncation(case.most + 3, strategy="longest_first")
    theirs = LIBRARY.encode("a " * len(case.first), "a " * len(case.second))
    LIBRARY.no_truncation()
    expected = sorted(theirs.sequence_ids.count(part) for part in (0, 1))
    return float(sorted(map(len, cut_by(formula, case))) != expected), 0


@TRUNCATED_PAIR.law
def as_long_as_there_is_room(formula, case):
    total = sum(map(len, cut_by(formula, case)))
    return abs(total - min(case.most, len(case.first) + len(case.second))), 0


@TRUNCATED_PAIR.law
def parts_are_contiguous(formula, case):
    cut = cut_by(formula, case)
    gaps = [b - a != 1 for part in cut for a, b in pairwise(part)]
    strays = [not set(part) <= set(whole) for part, whole in zip(cut, case[:2], strict=True)]
    return sum(gaps) + sum(strays), 0


@TRUNCATED_PAIR.law
def a_text_of_half_the_room_is_not_cut(formula, case):
    cut = cut_by(formula, case)
    return sum(
        part != whole
        for part, whole in zip(cut, case[:2], strict=True)
        if len(whole) <= case.most // 2
    ), 0


@TRUNCATED_PAIR.law(cases=long_texts_case)
def two_long_texts_end_up_alike(formula, case):
    first, second = cut_by(formula, case)
    both_cut = len(first) < len(case.first) and len(second) < len(case.second)
    return max(0, abs(len(first) - len(second)) - 1) if both_cut else 0, 0


@TRUNCATED_PAIR.law(cases=long_texts_case)
def of_two_texts_cut_alike_the_first_has_the_odd_token(formula, case):
    first, second = cut_by(formula, case)
    both_cut = len(first) < len(case.first) and len(second) < len(case.second)
    return max(0, len(second) - len(first)) if both_cut else 0, 0


@TRUNCATED_PAIR.law
def neither_is_emptied(formula, case):
    """Not even a text of one token beside a long one."""
    one = case._replace(first=case.first[:1], second=list(range(100, 190)))
    return sum(not part for each in (case, one) for part in cut_by(formula, each)), 0


@TRUNCATED_PAIR.law
def the_given_texts_stay_as_they_are(formula, case):
    kept = list(case.first), list(case.second)
    cut_by(formula, case)
    return float(kept != (case.first, case.second)), 0


@TRUNCATED_PAIR.law(cost=5)
def front_and_back_are_cut_alike(formula, case):
    """900 tokens too many: about half of them go at the front."""
    first, _ = formula(list(range(1000)), [0], 101, fresh(case.seed))
    return imbalance(first[0], 900, 0.5), 1


@TRUNCATED_PAIR.mistake(front_and_back_are_cut_alike, tokens_go_one_by_one_at_the_end_that_is_drawn)
def at_the_back_only(first, second, most, generator):
    while len(first) + len(second) > most:
        first, second = (first[:-1], second) if len(first) > len(second) else (first, second[:-1])
    return first, second


@TRUNCATED_PAIR.mistake(as_long_as_there_is_room, the_lengths_are_those_of_the_tokenizers_library)
def second_text_only(first, second, most, generator):
    return first, second[: max(1, most - len(first))]


@TRUNCATED_PAIR.mistake(as_long_as_there_is_room)
def half_the_room_each(first, second, most, generator):
    return first[: most // 2], second[: most - most // 2]


@TRUNCATED_PAIR.mistake(as_long_as_there_is_room)
def one_token_too_many(first, second, most, generator):
    return truncated_pair(first, second, most - 1, generator)


@TRUNCATED_PAIR.mistake(
    a_text_of_half_the_room_is_not_cut, two_long_texts_end_up_alike, neither_is_emptied
)
def in_proportion(first, second, most, generator):
    share = min(1.0, most / (len(first) + len(second)))
    kept = round(share * len(first))
    return first[:kept], second[: min(len(second), most - kept)]


@TRUNCATED_PAIR.mistake(parts_are_contiguous)
def out_of_the_middle(first, second, most, generator):
    longer = max(first, second, key=len)
    spare = max(0, len(first) + len(second) - most)
    cut = longer[:1] + longer[1 + spare :]
    return (cut, second) if longer is first else (first, cut)


@TRUNCATED_PAIR.mistake(of_two_texts_cut_alike_the_first_has_the_odd_token)
def the_first_of_equals_is_cut(first, second, most, generator):
    second, first = truncated_pair(second, first, most, generator)
    return first, second


@TRUNCATED_PAIR.mistake(the_given_texts_stay_as_they_are)
def cut_in_place(first, second, most, generator):
    while len(first) + len(second) > most:
        (first if len(first) > len(second) else second).pop()
    return first, second


# --------------------------------------------------------------------------- next_sentence_pairs


class Corpus(NamedTuple):
    """Token 1000 d + i is the i-th of document d, so that every token says where it is from."""

    documents: list[list[list[int]]]
    most: int
    seed: int
    short_rate: float


def documents_of(lengths: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Documents whose sentences have these lengths."""
    documents = []
    for d, document in enumerate(lengths):
        tokens = iter(range(1000 * d, 1000 * d + sum(document)))
        documents.append([[next(tokens) for _ in range(length)] for length in document])
    return documents


def corpus_case(draw: Draw) -> Corpus:
    lengths = [
        [draw.integer(1, 6) for _ in range(draw.integer(1, 6))] for _ in range(draw.integer(2, 5))
    ]
    most, short_rate = draw.integer(2, 12), draw.choice([0.0, 0.3, 1.0])
    return Corpus(documents_of(lengths), most, seed_of(draw), short_rate)


def words_case(draw: Draw) -> Corpus:
    """Sentences of one token and never a short target: nothing is ever cut off."""
    documents = documents_of([[1] * length for length in (23, 41, 10)])
    return Corpus(documents, draw.integer(2, 9), seed_of(draw), 0.0)


def long_case(draw: Draw) -> Corpus:
    """Enough sentences of one token to count what is drawn."""
    documents = documents_of([[1] * length for length in (999, 990, 500, 720, 333)])
    return Corpus(documents, 7, seed_of(draw), 0.0)


def short_case(draw: Draw) -> Corpus:
    return long_case(draw)._replace(short_rate=draw.choice([1.0, 0.4]))


def pairs_by(formula: Callable[..., Any], case: Corpus) -> list[SentencePair]:
    return formula(case.documents, case.most, fresh(case.seed), case.short_rate)


NEXT_SENTENCE_PAIRS = Proof(
    next_sentence_pairs,
    corpus_case,
    without=WHOLE_NUMBERS | {"reference": "no library at hand makes such pairs"},
)


@NEXT_SENTENCE_PAIRS.spec
def sentences_are_collected_until_they_fill_the_target(formula, case):
    generator = fresh(case.seed)
    expected = spec.next_sentence_pairs(
        case.documents,
        case.most,
        case.short_rate,
        lambda low, high: int(torch.randint(low, high + 1, (), generator=generator)),
        lambda probability: float(torch.rand((), generator=generator)) < probability,
    )
    return float(pairs_by(formula, case) != expected), 0


def document_of(tokens: list[int]) -> set[int]:
    return {token // 1000 for token in tokens}


def last_tokens(case: Corpus) -> set[int]:
    return {document[-1][-1] for document in case.documents}


@NEXT_SENTENCE_PAIRS.law
def pairs_fit_and_neither_text_is_empty(formula, case):
    pairs = pairs_by(formula, case)
    too_long = sum(len(pair.first) + len(pair.second) > case.most for pair in pairs)
    return too_long + sum(not pair.first or not pair.second for pair in pairs), 0


@NEXT_SENTENCE_PAIRS.law
def each_text_is_a_run_of_one_document(formula, case):
    texts = [text for pair in pairs_by(formula, case) for text in pair[:2]]
    return sum(any(b - a != 1 for a, b in pairwise(text)) for text in texts), 0


@NEXT_SENTENCE_PAIRS.law
def random_means_another_document_and_next_the_same(formula, case):
    return sum(
        (document_of(pair.first) == document_of(pair.second)) != (pair.label == 0)
        for pair in pairs_by(formula, case)
    ), 0


@NEXT_SENTENCE_PAIRS.law
def next_comes_after(formula, case):
    return sum(
        pair.label == 0 and pair.second[0] <= pair.first[-1] for pair in pairs_by(formula, case)
    ), 0


@NEXT_SENTENCE_PAIRS.law
def documents_come_in_order(formula, case):
    """The first texts walk through every document from its start, one after the other."""
    starts = [pair.first[0] for pair in pairs_by(formula, case)]
    missing = set(range(len(case.documents))) - {start // 1000 for start in starts}
    return sum(b <= a for a, b in pairwise(starts)) + len(missing), 0


@NEXT_SENTENCE_PAIRS.law
def one_sentence_has_no_next(formula, case):
    """Documents of one sentence: there is nothing that could follow it."""
    single = case._replace(documents=[document[:1] for document in case.documents])
    return sum(pair.label == 0 for pair in pairs_by(formula, single)), 0


@NEXT_SENTENCE_PAIRS.law
def pairs_depend_on_the_seed_alone(formula, case):
    state, kept = torch.get_rng_state(), [[list(s) for s in doc] for doc in case.documents]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = pairs_by(formula, case)
    disturbed = differing(before, torch.get_rng_state()) + float(kept != case.documents)
    torch.manual_seed(2)
    second = pairs_by(formula, case)
    torch.set_rng_state(state)
    return disturbed + float(first != second), 0


@NEXT_SENTENCE_PAIRS.law(cases=words_case)
def no_sentence_is_lost_or_used_twice(formula, case):
    """First texts and real next ones, laid end to end, are the documents again."""
    used = [
        token
        for pair in pairs_by(formula, case)
        for token in pair.first + (pair.second if pair.label == 0 else [])
    ]
    return float(used != [token for document in case.documents for [token] in document]), 0


@NEXT_SENTENCE_PAIRS.law(cases=words_case)
def next_follows_at_once(formula, case):
    return sum(
        pair.label == 0 and pair.second[0] != pair.first[-1] + 1 for pair in pairs_by(formula, case)
    ), 0


@NEXT_SENTENCE_PAIRS.law(cases=words_case)
def pairs_are_full_unless_a_document_ends(formula, case):
    return sum(
        len(pair.first) + len(pair.second) < case.most and pair.second[-1] not in last_tokens(case)
        for pair in pairs_by(formula, case)
    ), 0


def free_pairs(formula: Callable[..., Any], case: Corpus) -> list[SentencePair]:
    """Pairs whose label was drawn; a chunk of one sentence, the last of a document, draws none."""
    return [pair for pair in pairs_by(formula, case) if not last_tokens(case) & set(pair.first)]


@NEXT_SENTENCE_PAIRS.law(cases=long_case, cost=20)
def labels_are_balanced(formula, case):
    pairs = free_pairs(formula, case)
    return imbalance(sum(pair.label for pair in pairs), len(pairs), 0.5), 1


@NEXT_SENTENCE_PAIRS.law(cases=long_case, cost=20)
def borders_are_even(formula, case):
    """Full chunks of seven sentences are cut after 1, …, 6 of them equally often."""
    lengths = Counter(
        len(pair.first)
        for pair in free_pairs(formula, case)
        if pair.label == 0 and len(pair.first) + len(pair.second) == case.most
    )
    return unevenness([lengths[n] for n in range(1, case.most)]), 1


@NEXT_SENTENCE_PAIRS.law(cases=long_case, cost=20)
def other_documents_are_drawn_evenly(formula, case):
    """For each document, from each of the others."""
    found = Counter(
        (pair.first[0] // 1000, pair.second[0] // 1000)
        for pair in pairs_by(formula, case)
        if pair.label == 1
    )
    n = range(len(case.documents))
    return max(unevenness([found[d, other] for other in n if other != d]) for d in n), 1


@NEXT_SENTENCE_PAIRS.law(cases=long_case, cost=20)
def random_texts_start_anywhere(formula, case):
    """Starts are counted in ten equal parts of the second document."""
    size = len(case.documents[1])
    found = Counter(
        (pair.second[0] % 1000) * 10 // size
        for pair in pairs_by(formula, case)
        if pair.label == 1 and pair.second[0] // 1000 == 1
    )
    return unevenness([found[tenth] for tenth in range(10)]), 1


@NEXT_SENTENCE_PAIRS.law(cases=short_case, cost=20)
def short_targets_are_even_and_as_many_as_asked(formula, case):
    """Real pairs away from the end of a document have their target's length: 2 to 7."""
    pairs = [
        pair
        for pair in pairs_by(formula, case)
        if pair.label == 0 and pair.second[-1] + 1 < 1000 * (pair.second[0] // 1000) + 300
    ]
    found = Counter(len(pair.first) + len(pair.second) for pair in pairs)
    stray = len(pairs) - sum(found[n] for n in range(2, 8))
    uneven = unevenness([found[n] for n in range(2, 7)], len(pairs) * case.short_rate / 6)
    return max(uneven, imbalance(found[7], len(pairs), 1 - case.short_rate * 5 / 6)) + stray, 1


def written_anew(wrong: str) -> Callable[..., list[SentencePair]]:
    """The procedure for sentences that are never cut off, with one thing wrong."""

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
                    if wrong == "the_same_document":
                        other = number
                    if wrong == "neighbouring_document":
                        other = (number + 1) % len(documents)
                    source = documents[other]
                    at = 0 if wrong == "from_the_front" else integer(0, len(source) - 1)
                    room = 1 if wrong == "one_random_sentence" else max(1, most - len(first))
                    second = list(chain(*source[at : at + room]))
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


for wrong, law, source in (
    ("too_long", pairs_fit_and_neither_text_is_empty, ""),
    ("text_with_a_hole", each_text_is_a_run_of_one_document, ""),
    (
        "any_document",
        random_means_another_document_and_next_the_same,
        "https://github.com/NVIDIA/DeepLearningExamples/issues/421",
    ),
    (
        "the_same_document",
        random_means_another_document_and_next_the_same,
        "https://github.com/codertimo/BERT-pytorch/issues/86",
    ),
    (
        "labels_the_other_way",
        random_means_another_document_and_next_the_same,
        "https://github.com/dhlee347/pytorchic-bert/blob/"
        "07eeeafc3abddfc668f6103eac448530223eded8/pretrain.py",
    ),
    ("order_swapped", next_comes_after, ""),
    ("sentences_overlap", documents_come_in_order, ""),
    ("last_document_forgotten", documents_come_in_order, ""),
    ("never_forced", one_sentence_has_no_next, ""),
    ("global_randomness", pairs_depend_on_the_seed_alone, ""),
    ("unused_thrown_away", no_sentence_is_lost_or_used_twice, ""),
    ("gap_before_the_next", next_follows_at_once, ""),
    ("half_full", pairs_are_full_unless_a_document_ends, ""),
    ("one_random_sentence", pairs_are_full_unless_a_document_ends, ""),
    ("mostly_next", labels_are_balanced, ""),
    ("cut_in_the_middle", borders_are_even, ""),
    ("neighbouring_document", other_documents_are_drawn_evenly, ""),
    ("from_the_front", random_texts_start_anywhere, ""),
):
    NEXT_SENTENCE_PAIRS.mistake(law, source=source)(written_anew(wrong))


@NEXT_SENTENCE_PAIRS.mistake(
    sentences_are_collected_until_they_fill_the_target,
    short_targets_are_even_and_as_many_as_asked,
)
def never_a_short_target(documents, most, generator, short_rate):
    return next_sentence_pairs(documents, most, generator, 0.0)


@NEXT_SENTENCE_PAIRS.mistake(
    sentences_are_collected_until_they_fill_the_target,
    short_targets_are_even_and_as_many_as_asked,
)
def one_target_per_document(documents, most, generator, short_rate):
    """As in Google's code: a document with a short target has only short pairs."""
    pairs = []
    for document in documents:
        short = float(torch.rand((), generator=generator)) < short_rate
        target = int(torch.randint(2, most + 1, (), generator=generator)) if short else most
        found = next_sentence_pairs(documents, target, generator, 0.0)
        pairs += [pair for pair in found if pair.first[0] // 1000 == document[0][0] // 1000]
    return pairs
