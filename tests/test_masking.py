"""What the laws of `masking` do not say: defaults, refusals, edges, sources of randomness."""

import re
from inspect import signature

import pytest
import torch
from proof import assert_holds

from minibert.laws.law import RandomDraw
from minibert.laws.masking import (
    MASK,
    NEXT_SENTENCE_PAIRS,
    VOCABULARY,
    long_case,
    words_case,
    written_anew,
)
from minibert.laws.measure import fresh
from minibert.masking import (
    chosen_tokens,
    mask_tokens,
    masked_count,
    next_sentence_pairs,
    replaced_tokens,
    truncated_pair,
    word_groups,
)


def test_fifteen_per_cent_and_at_most_twenty_unless_told_otherwise():
    assert masked_count(100) == 15
    assert masked_count(133) == masked_count(134) == masked_count(10_000) == 20
    assert masked_count(10_000, most=10_000) == 1500



def defaults_of(function):
    parameters = signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def test_only_these_arguments_have_defaults():
    assert defaults_of(masked_count) == {"rate": 0.15, "most": 20}
    assert defaults_of(mask_tokens) == {"rate": 0.15, "most": 20}
    assert defaults_of(next_sentence_pairs) == {"short_rate": 0.1}
    for function in (chosen_tokens, word_groups, replaced_tokens, truncated_pair):
        assert defaults_of(function) == {}


def test_masked_count_rounds_halves_to_even_unlike_python_2():
    """Python 2, for which Google's code was written, gave one more at 30, 70, 110, … tokens."""
    ours = [masked_count(n, most=512) for n in range(7, 513)]
    half_up = [int(0.15 * n + 0.5) for n in range(7, 513)]
    ties = [n for n, a, b in zip(range(7, 513), ours, half_up, strict=True) if a != b]
    assert ties == list(range(30, 513, 40))
    assert [masked_count(n) for n in (10, 30, 50, 70)] == [2, 4, 8, 10]


@pytest.mark.parametrize(
    ("n", "rate", "most", "count"),
    [(0, 0.15, 20, 1), (3, 0.15, 20, 1), (133, 0.15, 20, 20), (134, 0.15, 20, 20), (9, 0, 2, 1)],
)
def test_masked_count_at_its_edges(n, rate, most, count):
    assert masked_count(n, rate, most) == count


@pytest.mark.parametrize("groups", [[], [-1], [-1, -1]])
def test_where_nothing_can_be_masked_nothing_is_chosen(groups):
    groups_S = torch.tensor(groups, dtype=torch.int64)
    chosen_S = chosen_tokens(groups_S, 3, fresh(0))
    assert chosen_S.dtype == torch.bool
    assert chosen_S.tolist() == [False] * len(groups)


def test_a_count_of_zero_or_less_chooses_nothing():
    for count in (0, -1):
        assert not chosen_tokens(torch.arange(5), count, fresh(0)).any()


def test_the_pieces_of_a_word_need_not_be_neighbours():
    chosen_S = chosen_tokens(torch.tensor([4, 0, 4]), 2, fresh(3))
    assert chosen_S.tolist() in ([True, False, True], [False, True, False])


def test_ids_and_labels_are_whole_numbers_of_the_shape_of_the_ids():
    ids_BS = torch.tensor([[5, 6, 7]])
    results = replaced_tokens(ids_BS, ids_BS > 5, torch.tensor([[0.1, 0.85, 0.95]]), ids_BS * 2, 3)
    assert [result.dtype for result in results] == [torch.int64, torch.int64]
    assert [result.tolist() for result in results] == [[[5, 12, 7]], [[-100, 6, 7]]]
    groups_S = word_groups(torch.tensor([True, False]), torch.tensor([True, True]))
    assert groups_S.dtype == torch.int64


@pytest.mark.parametrize("rows", [0, 1])
def test_no_tokens_give_no_labels(rows):
    none_S = torch.zeros(rows, dtype=torch.int64)
    ids_S, labels_S = mask_tokens(none_S, none_S - 1, VOCABULARY, MASK, fresh(0))
    assert ids_S.tolist() == none_S.tolist()
    assert labels_S.tolist() == [-100] * rows


def test_texts_that_just_fit_are_not_cut_and_nothing_is_drawn():
    generator = fresh(0)
    assert truncated_pair([1, 2], [3], 3, generator) == ([1, 2], [3])
    assert torch.equal(generator.get_state(), fresh(0).get_state())
    assert truncated_pair([1, 2], [3], 0, generator) == ([], [])


def test_a_tuple_is_a_sentence_pair_with_names():
    (first, *_) = next_sentence_pairs([[[1], [2]], [[7]]], 2, fresh(0), 0.0)
    assert first._fields == ("first", "second", "label")
    assert first.label in (0, 1)


def test_one_target_in_ten_is_short_unless_given():
    case = long_case(RandomDraw("masking", 3))
    for rate in (0.1, 0.0):
        named = next_sentence_pairs(case.documents, case.most, fresh(3), rate)
        found = next_sentence_pairs(case.documents, case.most, fresh(3))
        assert (found == named) == (rate == 0.1)


def test_the_smallest_pairs_have_two_tokens():
    pairs = next_sentence_pairs([[[1], [2]], [[7]]], 2, fresh(1), 1.0)
    assert all(len(pair.first) == len(pair.second) == 1 for pair in pairs)


def test_pairs_written_anew_obey_the_laws():
    """Otherwise the mistakes that are made of them would prove nothing."""
    right = written_anew("nothing")
    for law in NEXT_SENTENCE_PAIRS.laws.values():
        if law.layer == "law" and "short" not in law.name:
            cases = law.cases if law.cases is long_case else words_case
            for number in range(3):
                assert_holds(law, right, cases(RandomDraw(law.name, number)))


@pytest.mark.parametrize(
    ("documents", "most", "message"),
    [
        ([[[1], [2]]], 8, "1 documents and 8 tokens a pair"),
        ([], 8, "0 documents and 8 tokens a pair"),
        ([[[1]], [[2]]], 1, "2 documents and 1 tokens a pair"),
    ],
)
def test_too_few_documents_or_tokens_are_refused(documents, most, message):
    whole = (
        f"next_sentence_pairs: {message}; "
        "needs at least two of each, so that a random second text can be drawn"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(whole)}$"):
        next_sentence_pairs(documents, most, fresh(0))


@pytest.mark.parametrize(
    ("documents", "number"), [([[[1]], []], 1), ([[[1], []], [[2]]], 0), ([[[1]], [[]]], 1)]
)
def test_an_empty_document_or_sentence_is_refused(documents, number):
    whole = f"next_sentence_pairs: document {number} has no sentence or an empty one; drop it"
    with pytest.raises(ValueError, match=f"^{re.escape(whole)}$"):
        next_sentence_pairs(documents, 8, fresh(0))


def test_a_draw_on_the_border_belongs_to_the_upper_part(monkeypatch):
    """An event of probability p happens for draws below p, so never at 0 and always at 1."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.tensor(0.5))
    assert truncated_pair([1, 2], [3], 2, fresh(0)) == ([1], [3])
    pairs = next_sentence_pairs([[[1], [2]], [[7]]], 2, fresh(0), 0.5)
    assert pairs[0] == ([1], [2], 0)
