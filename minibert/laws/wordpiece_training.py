"""Laws of `wordpiece_training`: which pair is joined next, and which vocabulary results.

A corpus is a handful of words of three letters, so that pairs tie and overlap. The mistakes are
variants of a trainer that recounts everything for each piece.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from tokenizers import models

from minibert.laws import spec_wordpiece as spec
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import EPS
from minibert.laws.wordpiece import TEXT, accepts, wrongly
from minibert.wordpiece import SPECIALS, UNKNOWN, longest_match
from minibert.wordpiece_training import pair_score, train_wordpiece

# ------------------------------------------------------------------------------------ pair_score


class Counts(NamedTuple):
    """How often a pair occurs, either piece of it, and any piece."""

    n_pair: int
    n_first: int
    n_second: int
    n_all: int


def counts_case(draw: Draw) -> Counts:
    """Of two pieces in a text of others: some pairs gain, and some do not."""
    most = draw.choice([9, 10**3, 3 * 10**7])
    n_pair = draw.integer(1, most)
    n_first, n_second = n_pair + draw.integer(1, most), n_pair + draw.integer(0, most)
    return Counts(n_pair, n_first, n_second, n_first + n_second + draw.integer(0, 9 * most))


PAIR_SCORE = Proof(
    pair_score,
    counts_case,
    without={"gradient": "counts are whole numbers, and nothing is learnt through them"},
)


def gain(n_pair: int, n_first: int, n_second: int, n_all: int) -> float:
    """For mistakes: it accepts impossible counts."""
    return n_pair * math.log(n_pair * n_all / (n_first * n_second))


def off(found: float, expected: float, n: int) -> tuple[float, float]:
    """How far apart two gains of n places are, and a bound of a few roundings of logarithms."""
    return abs(found - expected), 16 * EPS * (n + abs(found) + abs(expected))


@PAIR_SCORE.spec
def it_is_what_log_probabilities_of_all_places_say(formula, case):
    logs = sum(abs(math.log(n / case.n_all)) for n in case)
    error = abs(formula(*case) - spec.pair_score(*case))
    return error, 4 * EPS * case.n_pair * logs


@PAIR_SCORE.reference
def it_is_torchs_x_log_y(formula, case):
    n, first, second, everything = torch.tensor(case, dtype=torch.float64)
    expected = float(torch.special.xlogy(n, n / first / (second / everything)))
    return off(formula(*case), expected, case.n_pair)


@PAIR_SCORE.law
def a_text_counted_anew_gains_it_up_to_one_in_each_place(formula, case):
    """Σ n log n over the pieces, less that of their sum, is the log-likelihood of a text."""
    n, first, second, everything = case

    def of(*counts):
        return math.fsum(m * math.log(m) for m in counts if m)

    before = of(first, second) - of(everything)
    after = of(n, first - n, second - n) - of(everything - n)
    rounding = 16 * EPS * of(everything)
    return abs(after - before - formula(*case)), n + rounding


@PAIR_SCORE.law
def independent_pieces_gain_nothing(formula, case):
    n, times, as_often = case.n_pair, case.n_first, case.n_second
    return abs(formula(n, n * times, n * as_often, n * times * as_often)), 0


@PAIR_SCORE.law
def pieces_that_are_never_apart_gain_the_logarithm_of_one(formula, case):
    n, everything = case.n_pair, case.n_all
    return off(formula(n, n, n, everything), -n * math.log(n / everything), n)


@PAIR_SCORE.law
def a_text_twice_as_long_gains_twice(formula, case):
    score = formula(*case)
    return abs(formula(*(2 * n for n in case)) - 2 * score), 0


@PAIR_SCORE.law
def either_side_counts_alike(formula, case):
    n, first, second, everything = case
    return abs(formula(n, second, first, everything) - formula(*case)), 0


@PAIR_SCORE.law
def a_piece_twice_as_frequent_costs_log_two_in_each_place(formula, case):
    n, first, second, everything = case
    wide = 2 * everything
    expected = formula(n, first, second, wide) - n * math.log(2)
    errors = [
        off(found, expected, n)
        for found in (formula(n, 2 * first, second, wide), formula(n, first, 2 * second, wide))
    ]
    return max(errors)


@PAIR_SCORE.law
def text_around_it_twice_as_long_adds_log_two_for_each_place(formula, case):
    found = formula(*case._replace(n_all=2 * case.n_all))
    return off(found, formula(*case) + case.n_pair * math.log(2), case.n_pair)


@PAIR_SCORE.law
def less_text_never_raises_it(formula, case):
    """Whatever its sign, so that a queue may keep scores of earlier texts."""
    least = max(case.n_first, case.n_second)
    counts = sorted({least, least + 1, case.n_all - 1, case.n_all, 2 * case.n_all})
    scores = [formula(*case._replace(n_all=n)) for n in counts if n >= least]
    return wrongly(less > more for less, more in pairwise(scores))


@PAIR_SCORE.law
def counts_that_cannot_be_are_refused(formula, case):
    n, first, second, everything = case
    return wrongly(
        accepts(formula, *counts)
        for counts in (
            (0, first, second, everything),
            (-n, -first, second, everything),
            (first + 1, first, first + 1, everything + first),
            (second + 1, second + 1, second, everything + second),
            (n, everything + 1, second, everything),
            (n, first, everything + 1, everything),
        )
    )


@PAIR_SCORE.accuracy({"any counts": counts_case}, (torch.float64,))
def its_logarithm_keeps_its_digits(formula, case):
    """Against fifty decimal places."""
    with localcontext() as context:
        context.prec = 50
        n, first, second, everything = map(Decimal, case)
        exact = n * (n * everything / (first * second)).ln()
        error = abs(Decimal(formula(*case)) - exact)
        return float(error), EPS * (case.n_pair + 2 * abs(float(exact)))


@PAIR_SCORE.mistake(
    it_is_what_log_probabilities_of_all_places_say,
    independent_pieces_gain_nothing,
    text_around_it_twice_as_long_adds_log_two_for_each_place,
    counts_that_cannot_be_are_refused,
    source="https://github.com/huggingface/tokenizers/issues/570",
)
def the_pairs_alone(n_pair, n_first, n_second, n_all):
    """Byte-pair encoding."""
    return float(n_pair)


@PAIR_SCORE.mistake(
    it_is_what_log_probabilities_of_all_places_say,
    a_text_twice_as_long_gains_twice,
    independent_pieces_gain_nothing,
)
def the_quotient_of_the_counts(n_pair, n_first, n_second, n_all):
    """As it is usually taught."""
    return n_pair / (n_first * n_second)


@PAIR_SCORE.mistake(
    a_text_counted_anew_gains_it_up_to_one_in_each_place,
    a_text_twice_as_long_gains_twice,
    pieces_that_are_never_apart_gain_the_logarithm_of_one,
)
def the_gain_of_one_place(n_pair, n_first, n_second, n_all):
    return math.log(n_pair * n_all / (n_first * n_second))


@PAIR_SCORE.mistake(it_is_torchs_x_log_y, a_text_twice_as_long_gains_twice)
def the_gain_in_a_mean_place(n_pair, n_first, n_second, n_all):
    """A term of the mutual information."""
    return gain(n_pair, n_first, n_second, n_all) / n_all


@PAIR_SCORE.mistake(
    independent_pieces_gain_nothing, text_around_it_twice_as_long_adds_log_two_for_each_place
)
def the_length_of_the_text_forgotten(n_pair, n_first, n_second, n_all):
    return n_pair * math.log(n_pair / (n_first * n_second))


@PAIR_SCORE.mistake(
    a_piece_twice_as_frequent_costs_log_two_in_each_place,
    it_is_what_log_probabilities_of_all_places_say,
)
def to_the_base_of_two(n_pair, n_first, n_second, n_all):
    return n_pair * math.log2(n_pair * n_all / (n_first * n_second))


@PAIR_SCORE.mistake(
    either_side_counts_alike, a_piece_twice_as_frequent_costs_log_two_in_each_place
)
def given_the_first(n_pair, n_first, n_second, n_all):
    return n_pair * math.log(n_pair / n_first)


@PAIR_SCORE.mistake(
    a_piece_twice_as_frequent_costs_log_two_in_each_place, independent_pieces_gain_nothing
)
def over_the_sum(n_pair, n_first, n_second, n_all):
    return n_pair * math.log(n_pair * n_all / (n_first + n_second))


@PAIR_SCORE.mistake(
    less_text_never_raises_it,
    text_around_it_twice_as_long_adds_log_two_for_each_place,
)
def gains_and_losses_alike(n_pair, n_first, n_second, n_all):
    return abs(gain(n_pair, n_first, n_second, n_all))


@PAIR_SCORE.mistake(
    it_is_what_log_probabilities_of_all_places_say,
    independent_pieces_gain_nothing,
    it_is_torchs_x_log_y,
)
def one_added_to_each_count(n_pair, n_first, n_second, n_all):
    return n_pair * math.log((n_pair + 1) * (n_all + 1) / ((n_first + 1) * (n_second + 1)))


@PAIR_SCORE.mistake(its_logarithm_keeps_its_digits, it_is_torchs_x_log_y)
def in_single_precision(n_pair, n_first, n_second, n_all):
    return n_pair * float(torch.tensor(n_pair * n_all / (n_first * n_second)).log())


# ------------------------------------------------------------------------------- train_wordpiece


class Corpus(NamedTuple):
    """Words with their counts, how many pieces there may be besides characters, and settings."""

    words: dict[str, int]
    more: int
    specials: tuple[str, ...]
    min_count: int


def corpus_case(draw: Draw) -> Corpus:
    words: dict[str, int] = {}
    for _ in range(draw.integer(3, 8)):
        word = "".join(draw.choice("abc") for _ in range(draw.integer(1, 6)))
        words[word] = draw.integer(1, 6)
    specials = draw.choice([SPECIALS, ("<s>",), ()])
    return Corpus(words, draw.integer(2, 12), specials, draw.choice([1, 2, 4]))


def letters_of(word: str) -> list[str]:
    return [word[:1], *("##" + letter for letter in word[1:])]


def start_of(case: Corpus) -> list[str]:
    """What every vocabulary begins with."""
    return [*case.specials, *sorted({piece for word in case.words for piece in letters_of(word)})]


def trained(formula: Callable[..., Any], case: Corpus) -> list[str]:
    return formula(case.words, len(start_of(case)) + case.more, case.specials, case.min_count)


def new_in(formula: Callable[..., Any], case: Corpus) -> list[str]:
    """The pieces that were joined."""
    return trained(formula, case)[len(start_of(case)) :]


def first_of(formula: Callable[..., Any], words: Mapping[str, int], case: Corpus) -> list[str]:
    """The first piece that is joined, of other words."""
    return new_in(formula, case._replace(words=dict(words), more=1, min_count=1))


def turned(words: Mapping[str, int], by: int) -> dict[str, int]:
    """The same words, beginning with another one."""
    listed = list(words.items())
    return dict(listed[by % len(listed) :] + listed[: by % len(listed)])


TRAIN = Proof(train_wordpiece, corpus_case, without=TEXT)


@TRAIN.spec
def it_is_what_counting_everything_anew_finds(formula, case):
    size = len(start_of(case)) + case.more
    expected = spec.train_wordpiece(case.words, size, case.specials, case.min_count)
    return float(trained(formula, case) != expected), 0


@TRAIN.reference
def the_library_cuts_the_words_with_it_as_longest_match_does(formula, case):
    """And the pieces spell the words."""
    vocabulary = {piece: i for i, piece in enumerate([UNKNOWN, "##", *trained(formula, case)])}
    theirs = models.WordPiece(vocabulary, unk_token=UNKNOWN)
    wrong = []
    for word in case.words:
        pieces = [token.value for token in theirs.tokenize(word)]
        wrong.append(pieces != longest_match(word, vocabulary))
        wrong.append("".join(piece.removeprefix("##") for piece in pieces) != word)
    return wrongly(wrong)


@TRAIN.law
def specials_come_first_and_then_every_character(formula, case):
    start = start_of(case)
    return float(trained(formula, case)[: len(start)] != start), 0


@TRAIN.law
def no_word_is_unknown(formula, case):
    found = trained(formula, case)
    return wrongly(longest_match(word, found) == [UNKNOWN] for word in case.words)


@TRAIN.law
def a_word_that_is_a_special_makes_no_second_piece(formula, case):
    words, specials = case.words | {"ab": 2}, (*case.specials, "ab")
    found = trained(formula, Corpus(words, 999, specials, 1))
    return float(len(found) - len(set(found))), 0


@TRAIN.law
def every_piece_joins_two_earlier_ones(formula, case):
    found, known = trained(formula, case), len(start_of(case))
    wrong = []
    for place in range(known, len(found)):
        piece, earlier = found[place], set(found[:place])
        inside = 2 * piece.startswith("##")
        cuts = range(inside + 1, len(piece))
        wrong.append(not any({piece[:i], "##" + piece[i:]} <= earlier for i in cuts))
    return wrongly(wrong)


@TRAIN.law
def a_larger_vocabulary_begins_with_the_smaller(formula, case):
    found = trained(formula, case)
    larger = trained(formula, case._replace(more=case.more + 3))
    return float(larger[: len(found)] != found), 0


@TRAIN.law
def it_is_as_large_as_asked_while_pairs_are_left(formula, case):
    everything = len(trained(formula, case._replace(more=999)))
    size = min(everything, len(start_of(case)) + case.more)
    return abs(len(trained(formula, case)) - size), 0


@TRAIN.law
def with_room_for_all_every_word_is_a_piece(formula, case):
    return wrongly(
        word not in trained(formula, case._replace(more=999, min_count=1)) for word in case.words
    )


@TRAIN.law
def counts_times_four_change_nothing(formula, case):
    """Nor times anything else; but a power of two rounds every score alike."""
    fourfold = {word: 4 * n for word, n in case.words.items()}
    scaled = case._replace(words=fourfold, min_count=4 * case.min_count)
    return float(trained(formula, scaled) != trained(formula, case)), 0


@TRAIN.law
def the_order_of_the_words_changes_nothing(formula, case):
    found = trained(formula, case)
    orders = [dict(reversed(case.words.items())), turned(case.words, 1)]
    return wrongly(trained(formula, case._replace(words=words)) != found for words in orders)


@TRAIN.law
def every_piece_stands_in_as_many_places_as_asked(formula, case):
    def places(piece):
        inside, text = piece.startswith("##"), piece.removeprefix("##")
        return sum(
            n * word.startswith(text, i)
            for word, n in case.words.items()
            for i in (range(1, len(word)) if inside else [0])
        )

    return wrongly(places(piece) < case.min_count for piece in new_in(formula, case))


@TRAIN.law
def the_first_pair_has_the_highest_score(formula, case):
    pieces, pairs = counted((letters_of(word), n) for word, n in case.words.items())
    scores = {
        first + second[2:]: pair_score(n, pieces[first], pieces[second], pieces.total())
        for (first, second), n in pairs.items()
        if n >= case.min_count
    }
    new = new_in(formula, case)[:1]
    return wrongly([[scores.get(piece) for piece in new] != sorted(scores.values())[-1:]])


@TRAIN.law
def letters_that_are_never_apart_come_before_pairs_twice_as_frequent(formula, case):
    """n log 18 of "xy" against 2n log 9/4 of "ab", whose letters stand as often in other pairs."""
    n = case.more
    words = {"ab": 2 * n, "ac": 2 * n, "db": 2 * n, "dc": 2 * n, "xy": n}
    return float(first_of(formula, words, case) != ["xy"]), 0


@TRAIN.law
def frequent_pairs_come_before_a_single_one_that_is_never_apart(formula, case):
    n = 10 * case.more
    words = {"xy": 1, "ab": n, "ac": n, "db": n, "dc": n}
    return float(first_of(formula, words, case) != ["ab"]), 0


@TRAIN.law
def a_pair_that_gains_comes_before_a_frequent_one_that_loses(formula, case):
    """n log 5/4 of "x ##y" against 3n log 15/16 of "##y ##y"."""
    return float(first_of(formula, {"xyyyy": case.more}, case) != ["xy"]), 0


@TRAIN.law
def a_pair_that_loses_is_joined_where_no_other_is_left(formula, case):
    """4n log 8/9 of "##y ##y", and the other two are too rare."""
    n = case.more
    words = {"xyyy": n, "zyyy": n}
    found = new_in(formula, case._replace(words=words, more=1, min_count=2 * n))
    return float(found != ["##yy"]), 0


@TRAIN.law
def of_equal_scores_the_more_frequent_pair_is_joined(formula, case):
    """2n log 4 of "zy" is n log 16 of "ab"; "wy" gains nothing."""
    n = case.more
    words = turned({"ab": n, "zy": 2 * n, "wy": 2 * n, "w": 6 * n}, n)
    return float(first_of(formula, words, case) != ["zy"]), 0


@TRAIN.law
def of_pairs_that_are_equal_the_first_in_the_order_of_codes_is_joined(formula, case):
    words = turned({"zd": case.more, "Bc": case.more, "ab": case.more}, case.more)
    return float(first_of(formula, words, case) != ["Bc"]), 0


@TRAIN.law
def a_pair_in_a_run_counts_in_every_place(formula, case):
    """2n log 26/9 of "##y ##y", twice in each "xyyy"; n log 13/6 of "p ##q"."""
    n = case.more
    words = {"xyyy": n, "x": 2 * n, "pq": n, "p": 5 * n}
    return float(first_of(formula, words, case) != ["##yy"]), 0


@TRAIN.law
def a_pair_is_joined_in_every_place(formula, case):
    """Otherwise "!xy" would stand before "##x", and that pair would be joined next."""
    found = new_in(formula, case._replace(words={"!xyxy": case.more}, more=3, min_count=1))
    return float(found != ["##xy", "!xy", "!xyxy"]), 0


@TRAIN.law
def words_of_over_100_characters_do_not_count(formula, case):
    found = trained(formula, case)
    size = len(start_of(case)) + case.more
    over, full = ({**case.words, "q" * length: 9} for length in (101, 100))
    return wrongly(
        [
            formula(over, size, case.specials, case.min_count) != found,
            not {"q", "##q"} <= set(formula(full, 999, case.specials, case.min_count)),
        ]
    )


@TRAIN.law
def too_small_a_size_and_no_count_at_all_are_refused(formula, case):
    size = len(start_of(case))
    return wrongly(
        [
            *(accepts(formula, case.words, n, case.specials, 1) for n in (0, size - 1)),
            not accepts(formula, case.words, size, case.specials, 1),
            *(accepts(formula, case.words, size + 9, case.specials, n) for n in (0, -1)),
        ]
    )


# A trainer that recounts everything, and can be wrong in as many ways as it has arguments.

Pair = tuple[str, str]
Split = tuple[list[str], int]


def counted(splits: Iterable[Split]) -> tuple[Counter[str], Counter[Pair]]:
    pieces: Counter[str] = Counter()
    pairs: Counter[Pair] = Counter()
    for split, n in splits:
        pieces.update({piece: split.count(piece) * n for piece in split})
        for pair in pairwise(split):
            pairs[pair] += n
    return pieces, pairs


def apart(splits: Iterable[Split]) -> tuple[Counter[str], Counter[Pair]]:
    """Pairs counted where they can be joined: once in xxx."""
    splits = list(splits)
    pairs = counted(splits)[1]
    for pair in pairs:
        pairs[pair] = sum(n * (len(split) - len(join(split, *pair))) for split, n in splits)
    return counted(splits)[0], pairs


def join(split: Sequence[str], first: str, second: str) -> list[str]:
    done: list[str] = []
    for piece in split:
        if done and (done[-1], piece) == (first, second):
            done[-1] = first + second.removeprefix("##")
        else:
            done.append(piece)
    return done


def first_joined(split: list[str], *pair: str) -> list[str]:
    for i in range(len(split) - 1):
        if (split[i], split[i + 1]) == pair:
            return [*split[:i], pair[0] + pair[1][2:], *split[i + 2 :]]
    return split


def two_characters(pieces: list[str]) -> list[str]:
    return [piece for piece, _ in Counter(pieces).most_common(2)]


def by_count_and_code(n: int, pair: Pair) -> Any:
    return -n, pair


def varied(
    score: Callable[[int, int, int, int], float] = pair_score,
    ties: Callable[[int, Pair], Any] = by_count_and_code,
    count: Callable[..., Any] = counted,
    cut: Callable[[str], list[str]] = letters_of,
    weight: Callable[[int], int] = lambda n: n,
    join: Callable[..., list[str]] = join,
    characters: Callable[[list[str]], list[str]] = lambda pieces: sorted(set(pieces)),
    arrange: Callable[[list[str], list[str]], list[str]] = lambda first, rest: first + rest,
    longest: int = 100,
    room: int = 0,
    at_once: int = 1,
    once: bool = True,
    refusing: bool = True,
    pieces_recounted: bool = True,
    all_recounted: bool = True,
    losses_joined: bool = True,
    pairs_bounded: bool = True,
    words_bounded: bool = False,
) -> Callable[..., list[str]]:
    """`train_wordpiece` with other steps."""

    def train(word_counts, vocab_size, specials=SPECIALS, min_count=2):
        if refusing and min_count < 1:
            raise ValueError(min_count)
        least = min_count if words_bounded else 0
        splits = [
            (cut(word), weight(n))
            for word, n in word_counts.items()
            if len(word) <= longest and n >= least
        ]
        found = [*characters([piece for split, _ in splits for piece in split])]
        room_left = vocab_size - len(specials) - len(found) + room
        if refusing and room_left - room < 0:
            raise ValueError(vocab_size)
        new: list[str] = []
        at_first = count(splits)[0]
        while len(new) < room_left:
            pieces, pairs = count(splits)
            sizes = pieces if pieces_recounted else at_first | pieces
            n_all = (pieces if all_recounted else at_first).total()
            scores = {
                pair: score(n, sizes[pair[0]], sizes[pair[1]], n_all)
                for pair, n in pairs.items()
                if n >= (min_count if pairs_bounded else 1)
            }
            allowed = [pair for pair in scores if losses_joined or scores[pair] > 0]
            ranked = sorted(allowed, key=lambda pair: (-scores[pair], ties(pairs[pair], pair)))
            for first, second in ranked[: min(at_once, room_left - len(new))]:
                splits = [(join(split, first, second), n) for split, n in splits]
                joined = first + second.removeprefix("##")
                if not once or joined not in [*specials, *found, *new]:
                    new.append(joined)
            if not ranked:
                break
        return [*arrange([*specials, *found], new)]

    return train


for name, laws, source, steps in (
    (
        "the_most_frequent_pair",
        (
            letters_that_are_never_apart_come_before_pairs_twice_as_frequent,
            a_pair_that_gains_comes_before_a_frequent_one_that_loses,
            the_first_pair_has_the_highest_score,
            it_is_what_counting_everything_anew_finds,
        ),
        "https://github.com/huggingface/tokenizers/issues/1777",
        {"score": lambda n, first, second, n_all: n},
    ),
    (
        "the_highest_gain_for_each_place",
        (
            frequent_pairs_come_before_a_single_one_that_is_never_apart,
            the_first_pair_has_the_highest_score,
        ),
        "",
        {"score": lambda n, first, second, n_all: n / (first * second)},
    ),
    (
        "pairs_that_lose_left_apart",
        (a_pair_that_loses_is_joined_where_no_other_is_left,),
        "",
        {"losses_joined": False},
    ),
    (
        "the_length_never_counted_again",
        (it_is_what_counting_everything_anew_finds,),
        "",
        {"all_recounted": False},
    ),
    (
        "hashes_forgotten",
        (
            specials_come_first_and_then_every_character,
            no_word_is_unknown,
            the_library_cuts_the_words_with_it_as_longest_match_does,
            every_piece_joins_two_earlier_ones,
        ),
        "",
        {"cut": list},
    ),
    (
        "ties_in_the_order_of_the_words",
        (
            the_order_of_the_words_changes_nothing,
            of_pairs_that_are_equal_the_first_in_the_order_of_codes_is_joined,
        ),
        "https://github.com/huggingface/tokenizers/issues/1086",
        {"ties": lambda n, pair: 0},
    ),
    (
        "ties_by_the_code_alone",
        (of_equal_scores_the_more_frequent_pair_is_joined,),
        "",
        {"ties": lambda n, pair: pair},
    ),
    (
        "ties_to_the_rarer_pair",
        (of_equal_scores_the_more_frequent_pair_is_joined,),
        "",
        {"ties": lambda n, pair: (n, pair)},
    ),
    (
        "overlapping_pairs_counted_once",
        (a_pair_in_a_run_counts_in_every_place,),
        "",
        {"count": apart},
    ),
    (
        "every_word_counted_once",
        (it_is_what_counting_everything_anew_finds, the_first_pair_has_the_highest_score),
        "",
        {"weight": lambda n: 1},
    ),
    (
        "specials_joined_again",
        (a_word_that_is_a_special_makes_no_second_piece,),
        "",
        {"once": False},
    ),
    (
        "characters_in_the_order_of_the_words",
        (specials_come_first_and_then_every_character, the_order_of_the_words_changes_nothing),
        "",
        {"characters": dict.fromkeys},
    ),
    (
        "only_the_most_frequent_characters",
        (
            no_word_is_unknown,
            specials_come_first_and_then_every_character,
            the_library_cuts_the_words_with_it_as_longest_match_does,
        ),
        "",
        {"characters": two_characters},
    ),
    (
        "specials_at_the_end",
        (a_larger_vocabulary_begins_with_the_smaller,),
        "",
        {"arrange": lambda first, new: [*new, *first]},
    ),
    (
        "specials_not_counted",
        (it_is_what_counting_everything_anew_finds,),
        "",
        {"room": 5},
    ),
    (
        "pieces_never_counted_again",
        (it_is_what_counting_everything_anew_finds,),
        "",
        {"pieces_recounted": False, "score": gain},
    ),
    (
        "three_pairs_at_once",
        (it_is_what_counting_everything_anew_finds,),
        "",
        {"at_once": 3},
    ),
    (
        "rare_pairs_joined_too",
        (every_piece_stands_in_as_many_places_as_asked,),
        "",
        {"pairs_bounded": False},
    ),
    (
        "rare_words_left_out",
        (it_is_what_counting_everything_anew_finds, specials_come_first_and_then_every_character),
        "",
        {"words_bounded": True},
    ),
    ("words_of_any_length", (words_of_over_100_characters_do_not_count,), "", {"longest": 999}),
    ("words_below_100_alone", (words_of_over_100_characters_do_not_count,), "", {"longest": 99}),
    (
        "anything_accepted",
        (too_small_a_size_and_no_count_at_all_are_refused,),
        "",
        {"refusing": False},
    ),
    (
        "joined_in_the_first_place_alone",
        (a_pair_is_joined_in_every_place,),
        "",
        {"join": first_joined},
    ),
):
    TRAIN.mistake(*laws, source=source, name=name)(varied(**steps))


@TRAIN.mistake(it_is_as_large_as_asked_while_pairs_are_left)
def one_piece_too_few(word_counts, vocab_size, specials=SPECIALS, min_count=2):
    return train_wordpiece(word_counts, vocab_size, specials, min_count)[: vocab_size - 1]


@TRAIN.mistake(with_room_for_all_every_word_is_a_piece)
def rare_pairs_never_joined(word_counts, vocab_size, specials=SPECIALS, min_count=2):
    return train_wordpiece(word_counts, vocab_size, specials, max(2, min_count))


@TRAIN.mistake(counts_times_four_change_nothing, it_is_what_counting_everything_anew_finds)
def scores_with_three_added(word_counts, vocab_size, specials=SPECIALS, min_count=2):
    """Smoothed, as if every piece had been seen a few times more."""
    smooth = varied(lambda n, first, second, n_all: gain(n, first + 3, second + 3, n_all))
    return smooth(word_counts, vocab_size, specials, min_count)


@TRAIN.mistake(every_piece_joins_two_earlier_ones)
def the_most_frequent_strings(word_counts, vocab_size, specials=SPECIALS, min_count=2):
    """Pieces of any length at once, without the shorter ones that they are made of."""
    start = varied()(word_counts, vocab_size, specials, 10**9)
    strings: Counter[str] = Counter()
    for word, n in word_counts.items():
        for i in range(len(word)):
            for j in range(i + 3, len(word) + 1):
                strings["##" * (i > 0) + word[i:j]] += n
    return [*start, *sorted(strings, key=lambda s: (-strings[s], s))][:vocab_size]
