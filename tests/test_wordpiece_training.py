"""What the laws of `wordpiece_training` do not say: refusals, ties between many, real sizes."""

import re
from collections import Counter
from inspect import signature

import pytest
from proof import assert_holds

from minibert.laws import spec_wordpiece as spec
from minibert.laws.law import RandomDraw
from minibert.laws.wordpiece_training import TRAIN, varied
from minibert.wordpiece import SPECIALS, longest_match, read_vocabulary
from minibert.wordpiece_training import pair_score, train_wordpiece


def test_the_steps_put_together_obey_the_laws():
    """Otherwise the mistakes that are made of them would prove nothing."""
    for law in TRAIN.laws.values():
        for case in TRAIN.tried(law, 25):
            assert_holds(law, varied(), case)


def test_only_these_arguments_have_defaults():
    parameters = signature(train_wordpiece).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert found == {"specials": SPECIALS, "min_count": 2}


def test_a_pair_in_two_places_is_joined_and_one_in_a_single_place_is_not():
    assert train_wordpiece({"ab": 2, "cd": 1}, 9, ()) == ["##b", "##d", "a", "c", "ab"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_count", [1, 3])
def test_many_words_give_what_counting_everything_anew_gives(seed, min_count):
    """Large enough for hundreds of joins, in which an outdated count would show."""
    draw = RandomDraw("words", seed)
    letters = "abcdefgh"[: 2 + seed]
    words = {
        "".join(draw.choice(letters) for _ in range(draw.integer(1, 9))): draw.integer(1, 30)
        for _ in range(120)
    }
    found = train_wordpiece(words, 250, min_count=min_count)
    assert found == spec.train_wordpiece(words, 250, SPECIALS, min_count)
    assert len(found) > 100


def test_a_vocabulary_can_be_written_and_read():
    words = Counter("the cat sat on the mat and the rat ran at the cat".split())
    found = train_wordpiece(words, 40, min_count=1)
    vocabulary = read_vocabulary("\n".join(found) + "\n")
    assert list(vocabulary) == found
    assert longest_match("cat", vocabulary) == ["cat"]


def test_a_corpus_of_nothing_has_specials_alone():
    assert train_wordpiece({}, 9) == list(SPECIALS)
    assert train_wordpiece({"": 3}, 9) == list(SPECIALS)


def test_a_run_of_one_letter_is_joined_from_the_left():
    """b, then five a: of ##a ##a, in four places, two can be joined."""
    assert train_wordpiece({"baaaaa": 1, "b": 9}, 99, (), 1) == [
        "##a", "b", "##aa", "##aaa", "##aaaaa", "baaaaa",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "min_count", "message"),
    [
        (8, 2, "vocab_size is 8, but specials and characters alone are 9"),
        (99, 0, "min_count is 0, but a pair that is joined stands somewhere"),
    ],
)
def test_what_is_refused_is_said(size, min_count, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        train_wordpiece({"ab": 1, "ba": 1}, size, min_count=min_count)
    assert len(train_wordpiece({"ab": 1, "ba": 1}, 9)) == 9


def test_a_score_of_counts_that_cannot_be_says_them():
    with pytest.raises(ValueError, match=r"^0 pairs of 3 and 4 pieces among 9$"):
        pair_score(0, 3, 4, 9)
