"""Laws of `search`: the penalty of a length, the memories of hypotheses, greedy and beam search.

The model of most laws is a table of random log-probabilities, a row for every beginning of a text.
Its memory holds the words themselves, as keys and again as values, so a hypothesis that gets the
wrong memory reads the wrong row. Some laws search a real decoder, the smallest there is.
"""

from collections.abc import Callable
from decimal import Decimal, localcontext
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.config import BertConfig
from minibert.decoder import BlockMemory, DecoderMemory, DecoderWeights, decode, empty_memory
from minibert.functional import log_softmax
from minibert.laws import spec_search as spec
from minibert.laws.decoder import random_weights
from minibert.laws.law import Draw, Proof
from minibert.laws.measure import (
    EPS,
    as_tensor,
    differing,
    distance,
    eps_of,
    gradients,
    normal,
    order_of,
    seed_of,
)
from minibert.search import (
    Step,
    Texts,
    beam_search,
    greedy_search,
    length_penalty,
    reordered,
    repeated,
)

B = 3  # sentences

# -------------------------------------------------------------------------------- length_penalty


class Length(NamedTuple):
    n_words: int
    alpha: float


def length_case(draw: Draw) -> Length:
    return Length(draw.integer(1, 200), draw.choice([0.0, 0.2, 0.6, 1.0, draw.real(0, 2)]))


PENALTY = Proof(
    length_penalty,
    length_case,
    without={"gradient": "words are counted and α is chosen, so nothing is learnt through it"},
)


@PENALTY.spec
def it_is_a_power_of_a_sixth_of_five_words_more(formula, case):
    return abs(formula(*case) - spec.length_penalty(*case)), 0


@PENALTY.reference
def it_is_torchs_power(formula, case):
    base = torch.tensor((5 + case.n_words) / 6, dtype=torch.float64)
    expected = float(base.pow(case.alpha))
    return abs(formula(*case) - expected), 2 * EPS * expected


@PENALTY.law
def one_word_costs_nothing(formula, case):
    return abs(formula(1, case.alpha) - 1), 0


@PENALTY.law
def without_alpha_no_length_costs(formula, case):
    return abs(formula(case.n_words, 0.0) - 1), 0


@PENALTY.law
def seven_words_are_two_to_the_alpha(formula, case):
    return abs(formula(7, case.alpha) - 2**case.alpha), 0


@PENALTY.law
def exponents_add(formula, case):
    product = formula(*case) * formula(case.n_words, 0.5)
    return abs(formula(case.n_words, case.alpha + 0.5) - product), 16 * EPS * product


@PENALTY.law
def it_grows_with_the_length(formula, case):
    alpha = 0.2 + case.alpha
    return float(formula(case.n_words + 1, alpha) <= formula(case.n_words, alpha)), 0


@PENALTY.accuracy({"any length": length_case}, (torch.float64,))
def its_power_keeps_its_digits(formula, case):
    """Against fifty decimal places."""
    with localcontext() as context:
        context.prec = 50
        exact = (Decimal(5 + case.n_words) / 6) ** Decimal(case.alpha)
        error = abs(Decimal(formula(*case)) - exact)
        return float(error), (1 + case.alpha / 2) * EPS * float(exact)


@PENALTY.mistake(one_word_costs_nothing, seven_words_are_two_to_the_alpha)
def the_end_not_counted(n, alpha):
    return length_penalty(n - 1, alpha)


@PENALTY.mistake(
    it_is_a_power_of_a_sixth_of_five_words_more,
    seven_words_are_two_to_the_alpha,
    it_is_torchs_power,
)
def a_power_of_the_length_itself(n, alpha):
    return n**alpha


@PENALTY.mistake(without_alpha_no_length_costs, exponents_add)
def the_sixth_outside_the_power(n, alpha):
    return (5 + n) ** alpha / 6


@PENALTY.mistake(it_grows_with_the_length, seven_words_are_two_to_the_alpha)
def upside_down(n, alpha):
    return (6 / (5 + n)) ** alpha


@PENALTY.mistake(its_power_keeps_its_digits)
def power_in_single_precision(n, alpha):
    return float(torch.tensor((5 + n) / 6).pow(alpha))


# -------------------------------------------------------------------------- repeated and reordered


class Kept(NamedTuple):
    memory: DecoderMemory
    times: int


def some_memory(draw: Draw, rows: int) -> DecoderMemory:
    """Two layers, two heads, three words, five tokens of a text, heads seven wide."""
    seed = seed_of(draw)
    blocks = tuple(
        BlockMemory(*(normal(seed + 4 * n + i, rows, 2, k, 7) for i, k in enumerate((3, 3, 5, 5))))
        for n in range(2)
    )
    return DecoderMemory(normal(seed + 9, rows, 1, 1, 5), blocks)


def kept_case(draw: Draw) -> Kept:
    return Kept(some_memory(draw, B), draw.integer(2, 4))


def tensors_of(memory: DecoderMemory) -> list[Tensor]:
    return [memory.cross_bias_B11R, *(part for b in memory.blocks for part in b)]


def memory_of(parts: Any) -> DecoderMemory:
    bias, *rest = parts
    blocks = tuple(BlockMemory(*rest[i : i + 4]) for i in range(0, len(rest), 4))
    return DecoderMemory(bias, blocks)


def apart(left: DecoderMemory, right: DecoderMemory) -> float:
    return sum(map(differing, tensors_of(left), tensors_of(right)))


NOTHING_ROUNDED = {"accuracy": "it moves numbers and rounds none"}
REPEATED = Proof(repeated, kept_case, without=NOTHING_ROUNDED)


@REPEATED.spec
def every_row_stands_there_so_many_times_in_a_row(formula, case):
    expected = [
        as_tensor([row for row in part.tolist() for _ in range(case.times)])
        for part in tensors_of(case.memory)
    ]
    return sum(map(differing, tensors_of(formula(*case)), expected)), 0


@REPEATED.reference
def it_is_torchs_repeat_interleave(formula, case):
    expected = [part.repeat_interleave(case.times, 0) for part in tensors_of(case.memory)]
    return sum(map(differing, tensors_of(formula(*case)), expected)), 0


@REPEATED.law
def all_hypotheses_of_a_sentence_remember_it(formula, case):
    """Cut into sentences, each of which holds only its own row."""
    found, error = tensors_of(formula(*case)), 0.0
    for part, row in zip(found, tensors_of(case.memory), strict=True):
        rows = part.unflatten(0, (B, case.times))
        error += differing(rows, row[:, None].expand_as(rows))
    return error, 0


@REPEATED.law
def once_is_nothing_new(formula, case):
    return apart(formula(case.memory, 1), case.memory), 0


@REPEATED.gradient
def a_row_collects_the_gradients_of_its_hypotheses(formula, case):
    parts = tensors_of(case.memory)

    def flat(*given):
        many = formula(memory_of(given), case.times)
        return torch.cat([x.reshape(-1) for x in tensors_of(many)])

    upstream = normal(7, *flat(*parts).shape)
    found = gradients(flat, parts, upstream)
    sizes = [part.numel() * case.times for part in parts]
    expected = [
        u.view(B, case.times, *part.shape[1:]).sum(1)
        for u, part in zip(upstream.split(sizes), parts, strict=True)
    ]
    return sum(map(distance, found, expected)), 16 * EPS


@REPEATED.mistake(
    every_row_stands_there_so_many_times_in_a_row,
    it_is_torchs_repeat_interleave,
    all_hypotheses_of_a_sentence_remember_it,
)
def the_whole_batch_again_and_again(memory, times):
    """Hypotheses of different sentences stand side by side."""
    return memory_of(part.repeat(times, 1, 1, 1) for part in tensors_of(memory))


@REPEATED.mistake(once_is_nothing_new, all_hypotheses_of_a_sentence_remember_it)
def keys_of_the_text_for_its_values(memory, times):
    many = repeated(memory, times)
    return many._replace(
        blocks=tuple(b._replace(cross_value_BNRK=b.cross_key_BNRK) for b in many.blocks)
    )


@REPEATED.mistake(a_row_collects_the_gradients_of_its_hypotheses)
def words_learn_nothing(memory, times):
    many = repeated(memory, times)
    return many._replace(
        blocks=tuple(b._replace(own_key_BNUK=b.own_key_BNUK.detach()) for b in many.blocks)
    )


class Going(NamedTuple):
    memory: DecoderMemory
    origin: Tensor


WIDTH = 4


def going_case(draw: Draw) -> Going:
    """Four hypotheses for each sentence, each continuing one of them; some are not continued."""
    origin = [b * WIDTH + draw.integer(0, WIDTH - 1) for b in range(B) for _ in range(WIDTH)]
    origin[:WIDTH] = [2, 0, 3, 3]
    return Going(some_memory(draw, B * WIDTH), torch.tensor(origin))


REORDERED = Proof(reordered, going_case, without=NOTHING_ROUNDED)


def expected_order(case: Going, pick: Callable[[Tensor, Tensor], Tensor]) -> DecoderMemory:
    blocks = tuple(
        b._replace(
            own_key_BNUK=pick(b.own_key_BNUK, case.origin),
            own_value_BNUK=pick(b.own_value_BNUK, case.origin),
        )
        for b in case.memory.blocks
    )
    return case.memory._replace(blocks=blocks)


@REORDERED.spec
def each_hypothesis_has_the_words_of_the_one_it_goes_on_from(formula, case):
    def picked(part, origin):
        rows = part.tolist()
        return as_tensor([rows[h] for h in origin.tolist()])

    return apart(formula(*case), expected_order(case, picked)), 0


@REORDERED.reference
def it_is_torchs_take_along_the_first_axis(formula, case):
    def taken(part, origin):
        return part.take_along_dim(origin.view(-1, 1, 1, 1), 0)

    return apart(formula(*case), expected_order(case, taken)), 0


@REORDERED.law
def who_goes_on_from_himself_keeps_all(formula, case):
    return apart(formula(case.memory, torch.arange(B * WIDTH)), case.memory), 0


@REORDERED.law
def one_order_after_another_is_the_first_read_through_the_second(formula, case):
    second = case.origin.view(B, WIDTH).flip(1).reshape(-1)
    left = formula(formula(*case), second)
    return apart(left, formula(case.memory, case.origin[second])), 0


@REORDERED.law
def the_text_stays_where_it_is(formula, case):
    found, given = (tensors_of(memory) for memory in (formula(*case), case.memory))
    return sum(differing(found[i], given[i]) for i in (0, 3, 4, 7, 8)), 0


@REORDERED.gradient
def a_hypothesis_collects_from_those_that_go_on_from_it(formula, case):
    parts = tensors_of(case.memory)

    def flat(*given):
        moved = formula(memory_of(given), case.origin)
        return torch.cat([x.reshape(-1) for x in tensors_of(moved)])

    upstream = normal(7, *flat(*parts).shape)
    found, expected = gradients(flat, parts, upstream), []
    for i, u in enumerate(upstream.split([part.numel() for part in parts])):
        u = u.view(parts[i].shape)
        own = i % 4 in (1, 2)
        expected.append(torch.zeros_like(u).index_add(0, case.origin, u) if own else u)
    return sum(map(distance, found, expected)), 16 * EPS


@REORDERED.mistake(
    each_hypothesis_has_the_words_of_the_one_it_goes_on_from,
    it_is_torchs_take_along_the_first_axis,
    a_hypothesis_collects_from_those_that_go_on_from_it,
)
def memory_left_as_it_is(memory, origin):
    return memory


@REORDERED.mistake(each_hypothesis_has_the_words_of_the_one_it_goes_on_from)
def only_keys_go_along(memory, origin):
    moved = reordered(memory, origin)
    both = zip(moved.blocks, memory.blocks, strict=True)
    return moved._replace(
        blocks=tuple(new._replace(own_value_BNUK=old.own_value_BNUK) for new, old in both)
    )


@REORDERED.mistake(
    who_goes_on_from_himself_keeps_all,
    one_order_after_another_is_the_first_read_through_the_second,
)
def counted_within_the_sentence(memory, origin):
    """The rows of the first sentence are used for all sentences."""
    return reordered(memory, origin % WIDTH)


@REORDERED.mistake(the_text_stays_where_it_is)
def text_goes_along(memory, origin):
    return memory_of(part[origin] for part in tensors_of(memory))


# ------------------------------------------------------------------------------ what is searched


class Search(NamedTuple):
    """A table of log-probabilities, [B, beginnings, V], and what to look for in it."""

    table: Tensor
    end_id: int
    longest: int
    width: int
    alpha: float


def beginnings(n_words: int, longest: int) -> int:
    """How many texts of fewer words than the longest there are."""
    return sum(n_words**n for n in range(longest))


def search_case(draw: Draw, scale: float = 2.0) -> Search:
    """In some, the end is likely or unlikely; in some, one sentence ends at once."""
    n_words, longest = draw.choice([(3, 4), (4, 3), (3, 3), (2, 4)])
    end_id = draw.integer(0, n_words - 1)
    logits = normal(seed_of(draw), B, beginnings(n_words, longest), n_words, scale=scale)
    logits[..., end_id] += draw.choice([-1.0, 0.0, 1.5])
    logits[0, :, end_id] += draw.choice([0.0, 3.0])
    width, alpha = draw.integer(1, 4), draw.choice([0.0, 0.6, 1.0, 2.0])
    return Search(logits.log_softmax(-1), end_id, longest, width, alpha)


def place_of(words: Any, n_words: int) -> Any:
    """The row of a beginning, shorter ones first; words are whole numbers or tensors of them."""
    place = 0
    for word in words:
        place = place * n_words + word + 1
    return place


def empty_notebook(rows: int, first: int = 0) -> DecoderMemory:
    """A memory that holds the number of its sentence and no words yet."""
    number = torch.arange(first, first + rows).double().view(-1, 1, 1, 1)
    nothing = number[:, :, :0]
    return DecoderMemory(0 * number, (BlockMemory(nothing, nothing, number, number),))


def step_of(table: Tensor) -> Step:
    """A step that looks up the table by the words in its memory; the first is the start."""

    def step(last: Tensor, memory: DecoderMemory) -> tuple[Tensor, DecoderMemory]:
        (b,) = memory.blocks
        new = last.double()[:, None, :, None]
        keys, values = (torch.cat([part, new], 2) for part in b[:2])
        number = b.cross_key_BNRK[:, 0, 0, 0].long()
        read = []
        for words in (keys, values):
            words = words[:, 0, 1:, 0].long()
            place = place_of(words.unbind(1), table.shape[-1])
            read.append(table[number, place])
        grown = BlockMemory(keys, values, *b[2:])
        return (read[0] + read[1]) / 2, memory._replace(blocks=(grown,))

    return step


def greedily(formula: Any, case: Search, rows: slice = slice(None)) -> Texts:
    numbers = range(B)[rows]
    memory = empty_notebook(len(numbers), numbers[0])
    found: Texts = formula(step_of(case.table), memory, 0, case.end_id, case.longest)
    return found


def by_beam(formula: Any, case: Search, rows: slice = slice(None)) -> Texts:
    numbers = range(B)[rows]
    memory = empty_notebook(len(numbers), numbers[0])
    found: Texts = formula(step_of(case.table), memory, 0, *case[1:])
    return found


def model_of(case: Search, b: int) -> spec.Model:
    rows, n_words = case.table[b].tolist(), case.table.shape[-1]
    return lambda text: rows[place_of(text, n_words)]


def as_texts(found: list[list[spec.Scored]], case: Search, width: int) -> Texts:
    """All padded with the end to the longest length; a missing text has the score -inf."""
    nothing = (-torch.inf, ())
    rows = [[*row, *[nothing] * (width - len(row))] for row in found]
    ids = [
        [[*text, *[case.end_id] * (case.longest - len(text))] for _, text in row] for row in rows
    ]
    scores = [[score for score, _ in row] for row in rows]
    return Texts(torch.tensor(ids), torch.tensor(scores, dtype=torch.float64))


def filled(found: Texts, case: Search) -> Texts:
    """The same texts, padded with the end to the longest length."""
    left = max(0, case.longest - found.ids_BWS.shape[2])
    ids = torch.nn.functional.pad(found.ids_BWS, (0, left), value=case.end_id)
    return found._replace(ids_BWS=ids)


def unlike(found: Texts, expected: Texts, case: Search, tolerance: float = 1e-12) -> float:
    """How many words and scores are not those expected."""
    found, expected = filled(found, case), filled(expected, case)
    if found.ids_BWS.shape != expected.ids_BWS.shape:
        return float(found.ids_BWS.numel() + expected.ids_BWS.numel())
    a, b = found.scores_BW, expected.scores_BW
    near = (a == b) | ((a - b).abs() <= tolerance * (1 + b.abs()))
    return differing(found.ids_BWS, expected.ids_BWS) + float((~near).sum())


def text_of(ids: list[int], end_id: int) -> tuple[int, ...]:
    """The words of a row up to its end."""
    return tuple(ids[: ids.index(end_id) + 1] if end_id in ids else ids)


def scores_of_texts(found: Texts, case: Search, alpha: float) -> Tensor:
    """Each text scored by the model: Σ log p / lp(n), or -inf where there is no text."""
    scores = []
    for b, row in enumerate(found.ids_BWS.tolist()):
        texts = [text_of(ids, case.end_id) for ids in row]
        model = model_of(case, b)
        scores.append(
            [spec.log_probability(model, t) / spec.length_penalty(len(t), alpha) for t in texts]
        )
    wanted = torch.tensor(scores, dtype=torch.float64)
    return torch.where(found.scores_BW > -torch.inf, wanted, -torch.inf)


def after_the_end(found: Texts, end_id: int) -> float:
    """How many words after an end are not the end."""
    ended = (found.ids_BWS == end_id).long().cumsum(-1)[..., :-1] > 0
    return float((ended & (found.ids_BWS[..., 1:] != end_id)).sum())


def renumbered(case: Search) -> tuple[Step, Tensor]:
    """A model with its words renumbered, and the new number of each."""
    new = order_of(case.table.shape[-1], 5)
    old, step = new.argsort(), step_of(case.table)

    def other(last: Tensor, memory: DecoderMemory) -> tuple[Tensor, DecoderMemory]:
        log_p, memory = step(old[last], memory)
        return log_p[:, old], memory

    return other, new


# A real decoder: its table is made without a memory, each text as a whole.


class Writer(NamedTuple):
    encoded: Tensor
    keep: Tensor
    weights: DecoderWeights
    config: BertConfig
    start_id: int
    search: Search


def writer_case(draw: Draw) -> Writer:
    """Three words, two layers; the table of its search holds its answer to every beginning."""
    config = BertConfig(
        vocab_size=3,
        hidden_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=5,
        max_position_embeddings=6,
    )
    encoded, keep = normal(seed_of(draw), B, 3, 4), torch.arange(3) < torch.tensor([[3], [1], [2]])
    weights, start_id = random_weights(seed_of(draw), config, 1.0), draw.integer(0, 2)
    longest = 3
    rows = []
    for n in range(longest):
        ids = torch.tensor([[start_id, *text] for text in product(range(3), repeat=n)])
        asked, shown = (part.repeat_interleave(len(ids), 0) for part in (encoded, keep))
        memory = empty_memory(asked, shown, weights, config)
        logits, _ = decode(ids.repeat(B, 1), memory, weights, config)
        rows.append(logits[:, -1].log_softmax(-1).view(B, len(ids), 3))
    search = Search(
        torch.cat(rows, 1),
        draw.integer(0, 2),
        longest,
        draw.integer(1, 4),
        draw.choice([0.0, 0.6, 1.0]),
    )
    return Writer(encoded, keep, weights, config, start_id, search)


def written(formula: Any, case: Writer, *what: Any) -> Texts:
    """Searched word by word, with keys and values kept."""

    def step(last: Tensor, memory: DecoderMemory) -> tuple[Tensor, DecoderMemory]:
        logits, memory = decode(last, memory, case.weights, case.config)
        return log_softmax(logits[:, 0]), memory

    memory = empty_memory(case.encoded, case.keep, case.weights, case.config)
    found: Texts = formula(step, memory, case.start_id, *what)
    return found


# --------------------------------------------------------------------------------- greedy_search

NO_SEARCH = "torch has no search; a separate test compares with that of transformers"
GREEDY = Proof(greedy_search, search_case, without={"reference": NO_SEARCH}, cost=3)


def greedy_of(case: Search) -> Texts:
    found = [[spec.greedy_search(model_of(case, b), *case[1:3])] for b in range(B)]
    return as_texts(found, case, 1)


@GREEDY.spec
def it_takes_the_likeliest_word_until_the_end(formula, case):
    return unlike(greedily(formula, case), greedy_of(case), case), 0


@GREEDY.law
def its_score_is_the_log_probability_of_its_text(formula, case):
    found = greedily(formula, case)
    return distance(found.scores_BW, scores_of_texts(found, case, 0.0)), 1e-12


@GREEDY.law
def nothing_follows_the_end_but_the_end(formula, case):
    return after_the_end(greedily(formula, case), case.end_id), 0


@GREEDY.law
def a_lower_limit_cuts_and_changes_nothing_before(formula, case):
    left = filled(greedily(formula, case), case).ids_BWS[..., : case.longest - 1]
    shorter = case._replace(longest=case.longest - 1)
    right = filled(greedily(formula, shorter), shorter).ids_BWS
    return differing(left, right) if left.shape == right.shape else right.numel(), 0


@GREEDY.law
def each_sentence_finds_what_it_finds_alone(formula, case):
    together, wrong = filled(greedily(formula, case), case), 0.0
    for b in range(B):
        rows = slice(b, b + 1)
        mine = Texts(*(part[rows] for part in together))
        wrong += unlike(mine, greedily(formula, case, rows), case)
    return wrong, 0


@GREEDY.law
def a_constant_added_to_all_words_counts_once_a_word(formula, case):
    plain, moved = (greedily(formula, each) for each in (case, case._replace(table=case.table + 2)))
    lengths = [
        [len(text_of(ids, case.end_id)) for ids in row] for row in plain.ids_BWS.tolist()
    ]
    expected = plain._replace(scores_BW=plain.scores_BW + 2 * torch.tensor(lengths))
    return unlike(moved, expected, case), 0


@GREEDY.law
def words_may_have_other_numbers(formula, case):
    step, new = renumbered(case)
    other = formula(step, empty_notebook(B), int(new[0]), int(new[case.end_id]), case.longest)
    plain = greedily(formula, case)
    return unlike(plain._replace(ids_BWS=new[plain.ids_BWS]), other, case), 0


@GREEDY.law(cases=writer_case, cost=8)
def a_decoder_with_its_memory_writes_what_it_would_without(formula, case):
    found = written(formula, case, *case.search[1:3])
    return unlike(found, greedy_of(case.search), case.search, 1e-9), 0


def slope_of_scores(found: Callable[[Search], Texts], case: Search) -> tuple[Tensor, Tensor]:
    """The gradient at the table by autograd, and the upstream gradient of the scores."""
    scores = found(case).scores_BW
    upstream = normal(7, *scores.shape)
    upstream = torch.where(scores > -torch.inf, upstream, 0)
    (by_autograd,) = gradients(
        lambda table: found(case._replace(table=table)).scores_BW, [case.table], upstream
    )
    return by_autograd, upstream


def slope_by_hand(texts: Texts, case: Search, upstream: Tensor, alpha: float) -> Tensor:
    expected, n_words = torch.zeros_like(case.table), case.table.shape[-1]
    for b, row in enumerate(texts.ids_BWS.tolist()):
        for w, ids in enumerate(row):
            text = text_of(ids, case.end_id)
            share = upstream[b, w] / spec.length_penalty(len(text), alpha)
            for s, word in enumerate(text):
                expected[b, place_of(text[:s], n_words), word] += share
    return expected


@GREEDY.gradient
def each_word_of_the_text_has_slope_one(formula, case):
    found, upstream = slope_of_scores(lambda each: greedily(formula, each), case)
    return distance(found, slope_by_hand(greedy_of(case), case, upstream, 0.0)), 1e-12


HARD_TABLES = {
    "normal": search_case,
    "nearly even": lambda draw: search_case(draw, 0.01),
    "sharp": lambda draw: search_case(draw, 100.0),
}


def score_error(found: Texts, case: Search, alpha: float) -> float:
    """The error of each score found, against its sum in float64, in units of its size."""
    exact = scores_of_texts(found, case._replace(table=case.table.double()), alpha)
    missing = exact == -torch.inf
    exact, scores = (x.masked_fill(missing, -1) for x in (exact, found.scores_BW.double()))
    return distance(scores, exact, exact.abs() + 1e-37)


@GREEDY.accuracy(HARD_TABLES, cost=2)
def its_score_is_right_to_one_rounding_a_word(formula, case):
    """All terms have one sign, so their sum has the size of what is rounded."""
    eps = min(eps_of(case.table), 2.0**-23)
    return score_error(greedily(formula, case), case, 0.0), case.longest * eps


def greedy_by(
    pick: Callable[[Tensor], tuple[Tensor, Tensor]] = lambda log_p: log_p.max(-1),
    goes_on: bool = False,
    counts: Callable[[Tensor, Tensor], Tensor] = lambda gain, ended: torch.where(ended, 0.0, gain),
    stop: Callable[[Tensor], Tensor] = torch.all,
    more: int = 0,
    kept: Callable[[Any, Any], Any] = lambda old, new: new,
):
    """greedy_search with one step replaced."""

    def formula(step, memory, start_id, end_id, longest):
        rows = len(memory.cross_bias_B11R)
        last, score = torch.full((rows,), start_id), torch.zeros(rows)
        ended, words = torch.zeros(rows) > 0, []
        for _ in range(longest + more):
            log_p, new = step(last[:, None], memory)
            memory = kept(memory, new)
            gain, best = pick(log_p)
            last = best if goes_on else torch.where(ended, end_id, best)
            score = score + counts(gain, ended)
            words.append(last)
            ended = ended | (last == end_id)
            if stop(ended):
                break
        return Texts(torch.stack(words, -1)[:, None], score[:, None])

    return formula


for words, laws, wrong in (
    (
        "the_least_likely_word",
        (it_takes_the_likeliest_word_until_the_end, each_word_of_the_text_has_slope_one),
        greedy_by(pick=lambda log_p: log_p.min(-1)),
    ),
    (
        "the_end_does_not_stop_a_text",
        (
            nothing_follows_the_end_but_the_end,
            it_takes_the_likeliest_word_until_the_end,
            each_sentence_finds_what_it_finds_alone,
        ),
        greedy_by(goes_on=True),
    ),
    (
        "words_behind_the_end_are_scored",
        (
            its_score_is_the_log_probability_of_its_text,
            each_sentence_finds_what_it_finds_alone,
            a_constant_added_to_all_words_counts_once_a_word,
        ),
        greedy_by(counts=lambda gain, ended: gain),
    ),
    (
        "all_stop_where_one_does",
        (each_sentence_finds_what_it_finds_alone, it_takes_the_likeliest_word_until_the_end),
        greedy_by(stop=torch.any),
    ),
    (
        "greedy_memory_never_grows",
        (
            it_takes_the_likeliest_word_until_the_end,
            a_decoder_with_its_memory_writes_what_it_would_without,
        ),
        greedy_by(kept=lambda old, new: old),
    ),
    (
        "probabilities_added",
        (
            its_score_is_the_log_probability_of_its_text,
            a_constant_added_to_all_words_counts_once_a_word,
        ),
        greedy_by(counts=lambda gain, ended: torch.where(ended, 0.0, gain.exp())),
    ),
    (
        "greedy_scores_in_half_precision",
        (its_score_is_right_to_one_rounding_a_word,),
        greedy_by(counts=lambda gain, ended: torch.where(ended, 0.0, gain.bfloat16() * 1.0078125)),
    ),
):
    GREEDY.mistake(*laws, name=words)(wrong)


@GREEDY.mistake(a_lower_limit_cuts_and_changes_nothing_before)
def the_last_word_is_always_the_end(step, memory, start_id, end_id, longest):
    found = greedy_search(step, memory, start_id, end_id, longest)
    ids = found.ids_BWS.clone()
    ids[..., -1] = end_id
    return found._replace(ids_BWS=ids)


@GREEDY.mistake(words_may_have_other_numbers)
def the_end_is_word_zero(step, memory, start_id, end_id, longest):
    return greedy_search(step, memory, start_id, 0, longest)


# ----------------------------------------------------------------------------------- beam_search

BEAM = Proof(beam_search, search_case, cost=4)


def beam_of(case: Search) -> Texts:
    found = [spec.beam_search(model_of(case, b), *case[1:]) for b in range(B)]
    return as_texts(found, case, case.width)


@BEAM.spec
def it_follows_the_likeliest_beginnings(formula, case):
    return unlike(by_beam(formula, case), beam_of(case), case), 0


def full(case: Search) -> Search:
    """A beam as wide as the number of texts, or wider."""
    return case._replace(longest=3, width=case.table.shape[-1] ** 3)


def best_of_all(case: Search) -> Texts:
    """The best of all texts, as torch lists them; one that ends early counts once."""
    n_words, longest, found = case.table.shape[-1], case.longest, []
    products = torch.cartesian_prod(*[torch.arange(n_words)] * longest).tolist()
    texts = sorted({text_of(ids, case.end_id) for ids in products})
    for b in range(B):
        model = model_of(case, b)
        scores = [
            spec.log_probability(model, t) / spec.length_penalty(len(t), case.alpha) for t in texts
        ]
        best = torch.tensor(scores, dtype=torch.float64).topk(len(texts))
        found.append([(s, texts[i]) for s, i in zip(*map(Tensor.tolist, best), strict=True)])
    return as_texts(found, case, case.width)


@BEAM.reference(cost=10)
def a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists(formula, case):
    """All of them in their order, with their scores, for every α."""
    case = full(case)
    return unlike(by_beam(formula, case), best_of_all(case), case), 0


@BEAM.law(cases=writer_case, cost=15)
def a_beam_of_all_texts_finds_the_best_that_a_decoder_can_write(formula, case):
    search = full(case.search)
    return unlike(written(formula, case, *search[1:]), best_of_all(search), search, 1e-9), 0


@BEAM.law(cases=writer_case, cost=12)
def with_its_memory_a_decoder_is_searched_as_without(formula, case):
    found = written(formula, case, *case.search[1:])
    return unlike(found, beam_of(case.search), case.search, 1e-9), 0


@BEAM.law
def a_beam_of_one_is_greedy_whatever_alpha(formula, case):
    """Its score is that of greedy search over the penalty of its length."""
    found = by_beam(formula, case._replace(width=1))
    expected = greedily(greedy_search, case)
    lengths = [[len(text_of(ids, case.end_id)) for ids in row] for row in expected.ids_BWS.tolist()]
    lp = [[spec.length_penalty(n, case.alpha) for n in row] for row in lengths]
    scores = expected.scores_BW / torch.tensor(lp, dtype=torch.float64)
    return unlike(found, expected._replace(scores_BW=scores), case), 0


@BEAM.law
def a_score_is_the_log_probability_of_its_text_over_the_penalty(formula, case):
    found = by_beam(formula, case)
    expected = found._replace(scores_BW=scores_of_texts(found, case, case.alpha))
    return unlike(found, expected, case), 0


@BEAM.law
def scores_descend(formula, case):
    scores = by_beam(formula, case).scores_BW
    return float((scores[:, 1:] > scores[:, :-1]).sum()), 0


@BEAM.law
def no_text_is_found_twice(formula, case):
    found, twice = by_beam(formula, case), 0
    rows = zip(found.ids_BWS.tolist(), found.scores_BW.tolist(), strict=True)
    for texts, scores in rows:
        there = [tuple(t) for t, s in zip(texts, scores, strict=True) if s > -torch.inf]
        twice += len(there) - len(set(there))
    return twice, 0


@BEAM.law
def after_the_end_comes_nothing_but_the_end(formula, case):
    return after_the_end(by_beam(formula, case), case.end_id), 0


@BEAM.law
def no_text_is_longer_than_the_longest(formula, case):
    """And if the longest is one word, the texts are the likeliest words."""
    shortest = case._replace(longest=1, width=min(case.width, case.table.shape[-1]))
    first = case.table[:, 0].topk(shortest.width)
    expected = Texts(first.indices[..., None], first.values)
    error = unlike(by_beam(formula, shortest), expected, shortest)
    return error or max(0, by_beam(formula, case).ids_BWS.shape[2] - case.longest), 0


def uneven_case(draw: Draw) -> Search:
    """One sentence is done early, but longer texts would be better; the others go on."""
    case = search_case(draw)
    n_words, longest = case.table.shape[-1], case.longest
    logits = normal(seed_of(draw), *case.table.shape)
    logits[0, : beginnings(n_words, longest - 1), case.end_id] += 1
    logits[1:, :, case.end_id] -= 3
    return case._replace(table=logits.log_softmax(-1), width=draw.integer(1, 2), alpha=3.0)


@BEAM.law(cases=uneven_case)
def each_sentence_is_searched_as_if_alone(formula, case):
    """Also where one is done early and the others go on."""
    together, wrong = filled(by_beam(formula, case), case), 0.0
    for b in range(B):
        rows = slice(b, b + 1)
        mine = Texts(*(part[rows] for part in together))
        wrong += unlike(mine, by_beam(formula, case, rows), case)
    return wrong, 0


@BEAM.law
def twice_the_log_probabilities_are_twice_the_scores(formula, case):
    """A power of two leaves every digit in place and every comparison as it was."""
    plain, sharper = (
        by_beam(formula, each) for each in (case, case._replace(table=2 * case.table))
    )
    return unlike(sharper, plain._replace(scores_BW=2 * plain.scores_BW), case, 0.0), 0


@BEAM.law
def words_of_a_beam_may_have_other_numbers(formula, case):
    step, new = renumbered(case)
    other = formula(step, empty_notebook(B), int(new[0]), int(new[case.end_id]), *case[2:])
    plain = by_beam(formula, case)
    renamed = case._replace(end_id=int(new[case.end_id]))
    return unlike(plain._replace(ids_BWS=new[plain.ids_BWS]), other, renamed), 0


@BEAM.gradient
def each_word_of_a_text_has_one_over_the_penalty_as_slope(formula, case):
    found, upstream = slope_of_scores(lambda each: by_beam(formula, each), case)
    return distance(found, slope_by_hand(beam_of(case), case, upstream, case.alpha)), 1e-12


@BEAM.accuracy(HARD_TABLES, cost=4)
def its_scores_are_right_to_one_rounding_a_word(formula, case):
    eps = min(eps_of(case.table), 2.0**-23)
    return score_error(by_beam(formula, case), case, case.alpha), (case.longest + 4) * eps


def with_the_memory(memory: Any, origin: Tensor, width: int) -> Any:
    return reordered(memory, origin)


def beam_by(
    penalty: Callable[[int, float], float] = length_penalty,
    begin: float = -torch.inf,
    candidates: int = 2,
    ends: Callable[[bool, bool], bool] = lambda is_end, is_last: is_end or is_last,
    first: Callable[[int, int], bool] = lambda place, width: place < width,
    done: Callable[[int, int], bool] = lambda found, width: found >= width,
    closes: bool = True,
    rank: Callable[[Any, float], Any] = lambda total, lp: total / lp,
    go_along: Callable[[Any, Tensor, int], Any] = with_the_memory,
    fill: int | None = None,
    gain: Callable[[Tensor], Tensor] = lambda log_p: log_p,
    more: int = 0,
):
    """beam_search once more, in lists and sentence by sentence, with one step replaced.

    `begin` is the initial score of all hypotheses but one, `candidates` how many continuations are
    considered per hypothesis, `closes` whether a finished sentence takes no more texts, `rank` what
    finished texts are sorted by, `fill` what follows an end, `more` how much longer a text may be.
    """

    def longer(begun: Any, log_p: Tensor, width: int) -> Any:
        """Score, words and origin of the likeliest continuations."""
        found = [
            (total + log_p[w, word], [*text, word], w)
            for w, (total, text) in enumerate(begun)
            for word in range(log_p.shape[-1])
        ]
        found.sort(key=lambda one: float(one[0].detach()), reverse=True)
        return found[: candidates * width]

    def formula(step, memory, start_id, end_id, longest, width=4, alpha=0.6):
        rows, longest = len(memory.cross_bias_B11R), longest + more
        memory, last = repeated(memory, width), torch.full((rows * width, 1), start_id)
        none = torch.tensor(-torch.inf)
        begun = [
            [(torch.tensor(begin if w else 0.0), []) for w in range(width)] for _ in range(rows)
        ]
        found = [[] for _ in range(rows)]
        for length in range(1, longest + 1):
            log_p, memory = step(last, memory)
            log_p, origin = gain(log_p).view(rows, width, -1), []
            for b in range(rows):
                closed, going = closes and done(len(found[b]), width), []
                for place, one in enumerate(longer(begun[b], log_p[b], width)):
                    if not ends(one[1][-1] == end_id, length == longest):
                        going.append(one)
                    elif first(place, width) and not closed and one[0] > -torch.inf:
                        found[b].append(one[:2])
                going = (going + [(none, [end_id], 0)] * width)[:width]
                begun[b] = [one[:2] for one in going]
                origin += [b * width + one[2] for one in going]
            last = torch.tensor([[text[-1]] for row in begun for _, text in row])
            memory = go_along(memory, torch.tensor(origin), width)
            if all(done(len(row), width) for row in found):
                break
        ids, scores = [], []
        for row in found:
            lps = [penalty(len(text), alpha) for _, text in row]
            order = sorted(
                range(len(row)), key=lambda i: float(rank(row[i][0].detach(), lps[i])), reverse=True
            )[:width]
            filler, empty = end_id if fill is None else fill, width - len(order)
            texts = [row[i][1] for i in order] + [[end_id]] * empty
            ids.append([[*text, *[filler] * (longest - len(text))] for text in texts])
            scores.append(torch.stack([row[i][0] / lps[i] for i in order] + [none] * empty))
        return Texts(torch.tensor(ids), torch.stack(scores))

    return formula


SEEN = {"memory_stays_behind": "https://github.com/huggingface/transformers/issues/46612"}

for words, rejecting, other in (
    (
        "penalty_with_the_end_not_counted",
        (
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
            a_beam_of_one_is_greedy_whatever_alpha,
            a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists,
        ),
        beam_by(penalty=lambda n, alpha: length_penalty(n - 1, alpha)),
    ),
    (
        "penalty_forgotten",
        (
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
            a_beam_of_all_texts_finds_the_best_that_a_decoder_can_write,
            each_word_of_a_text_has_one_over_the_penalty_as_slope,
        ),
        beam_by(penalty=lambda n, alpha: 1.0),
    ),
    (
        "penalty_that_multiplies",
        (a_beam_of_one_is_greedy_whatever_alpha, it_follows_the_likeliest_beginnings),
        beam_by(penalty=lambda n, alpha: 1 / length_penalty(n, alpha)),
    ),
    (
        "finished_texts_compared_without_the_penalty",
        (
            scores_descend,
            a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists,
            it_follows_the_likeliest_beginnings,
        ),
        beam_by(rank=lambda total, lp: total),
    ),
    (
        "equal_beginnings_at_the_start",
        (no_text_is_found_twice, it_follows_the_likeliest_beginnings),
        beam_by(begin=0.0),
    ),
    (
        "memory_stays_behind",
        (
            it_follows_the_likeliest_beginnings,
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
            with_its_memory_a_decoder_is_searched_as_without,
            a_beam_of_all_texts_finds_the_best_that_a_decoder_can_write,
        ),
        beam_by(go_along=lambda memory, origin, width: memory),
    ),
    (
        "values_stay_behind",
        (
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
            with_its_memory_a_decoder_is_searched_as_without,
        ),
        beam_by(go_along=lambda memory, origin, width: only_keys_go_along(memory, origin)),
    ),
    (
        "words_of_the_first_sentence_for_all",
        (
            each_sentence_is_searched_as_if_alone,
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
        ),
        beam_by(go_along=lambda memory, origin, width: reordered(memory, origin % width)),
    ),
    (
        "the_end_stops_no_text",
        (
            after_the_end_comes_nothing_but_the_end,
            a_beam_of_one_is_greedy_whatever_alpha,
            a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists,
        ),
        beam_by(ends=lambda is_end, is_last: is_last),
    ),
    (
        "texts_that_are_cut_are_lost",
        (
            a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists,
            it_follows_the_likeliest_beginnings,
            no_text_is_longer_than_the_longest,
        ),
        beam_by(ends=lambda is_end, is_last: is_end),
    ),
    (
        "ends_behind_the_first_w_are_texts",
        (it_follows_the_likeliest_beginnings,),
        beam_by(first=lambda place, width: True),
    ),
    (
        "finished_texts_take_places_of_the_beam",
        (it_follows_the_likeliest_beginnings,),
        beam_by(candidates=1),
    ),
    (
        "a_done_sentence_goes_on",
        (each_sentence_is_searched_as_if_alone, it_follows_the_likeliest_beginnings),
        beam_by(closes=False),
    ),
    (
        "done_with_the_first_text",
        (
            it_follows_the_likeliest_beginnings,
            a_beam_of_all_texts_finds_the_best_of_those_that_torch_lists,
        ),
        beam_by(done=lambda found, width: found >= 1),
    ),
    (
        "never_done",
        (it_follows_the_likeliest_beginnings,),
        beam_by(done=lambda found, width: False),
    ),
    (
        "filled_with_word_zero",
        (after_the_end_comes_nothing_but_the_end,),
        beam_by(fill=0),
    ),
    ("one_word_too_many", (no_text_is_longer_than_the_longest,), beam_by(more=1)),
    (
        "probabilities_added_in_a_beam",
        (
            twice_the_log_probabilities_are_twice_the_scores,
            a_score_is_the_log_probability_of_its_text_over_the_penalty,
        ),
        beam_by(gain=torch.exp),
    ),
    (
        "half_of_the_slope",
        (each_word_of_a_text_has_one_over_the_penalty_as_slope,),
        beam_by(gain=lambda log_p: (log_p + log_p.detach()) / 2),
    ),
    (
        "log_probabilities_in_eight_bits",
        (its_scores_are_right_to_one_rounding_a_word,),
        beam_by(gain=lambda log_p: log_p.clamp(-400, 0).to(torch.float8_e4m3fn).to(log_p.dtype)),
    ),
):
    BEAM.mistake(*rejecting, source=SEEN.get(words, ""), name=words)(other)


@BEAM.mistake(words_of_a_beam_may_have_other_numbers)
def the_end_of_a_beam_is_word_zero(step, memory, start_id, end_id, *what):
    return beam_search(step, memory, start_id, 0, *what)
