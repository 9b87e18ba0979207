"""What the laws of `search` do not say: refusals, defaults, dtypes, and no text."""

import math

import pytest
import torch

from minibert.decoder import DecoderMemory
from minibert.search import beam_search, greedy_search, length_penalty, repeated

MEMORY = DecoderMemory(torch.zeros(1, 1, 1, 0), ())
# From word 0, word 2 is likelier than the end, 1; the likeliest text of all is the end alone.
TABLE = torch.tensor([[0.1, 0.4, 0.5], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]).log()


def step(last, memory):
    return TABLE[last[:, 0]], memory


def test_a_beam_finds_what_greedy_passes_by():
    greedy = greedy_search(step, MEMORY, 0, 1, 9)
    beam = beam_search(step, MEMORY, 0, 1, 9, 2, 0.0)
    assert greedy.ids_BWS.tolist() == [[[2, 1]]]
    assert beam.ids_BWS.tolist() == [[[1, 1], [2, 1]]]
    assert greedy.scores_BW[0, 0].item() == beam.scores_BW[0, 1].item()
    assert beam.scores_BW[0, 0].item() == pytest.approx(math.log(0.4))


def test_the_default_is_a_beam_of_four_with_the_penalty_of_the_paper():
    found, said = (beam_search(step, MEMORY, 0, 1, 5, *what) for what in ((), (4, 0.6)))
    assert torch.equal(found.ids_BWS, said.ids_BWS)
    assert torch.equal(found.scores_BW, said.scores_BW)
    assert found.scores_BW.shape == (1, 4)


def test_places_of_no_text_have_no_score_and_nothing_but_ends():
    """Where a word is impossible, there may be fewer texts than the beam is wide."""

    def only_the_end(last, memory):
        return torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(len(last), 3), memory

    found = beam_search(only_the_end, MEMORY, 0, 1, 3, 3)
    assert found.scores_BW.tolist() == [[0.0, -math.inf, -math.inf]]
    assert found.ids_BWS.tolist() == [[[1, 1, 1]] * 3]


def test_scores_keep_the_precision_of_the_step_but_are_float32_at_least():
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):

        def rounded(last, memory, dtype=dtype):
            return TABLE[last[:, 0]].to(dtype), memory

        assert greedy_search(rounded, MEMORY, 0, 1, 4).scores_BW.dtype == expected
        assert beam_search(rounded, MEMORY, 0, 1, 4, 2).scores_BW.dtype == expected


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_first_word_is_asked_with_the_start(start):
    asked = []

    def watched(last, memory):
        asked.append(last)
        return step(last, memory)

    for search in (greedy_search, beam_search):
        search(watched, MEMORY, start, 1, 1)
        assert asked.pop().unique().tolist() == [start]


def test_all_is_made_where_the_memory_is():
    """Whatever is made on another device meets the memory's, and that is an error."""
    for search in (greedy_search, beam_search):
        expected = search(step, MEMORY, 0, 1, 4)
        with torch.device("meta"):
            found = search(step, MEMORY, 0, 1, 4)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)
    bias = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    with torch.device("meta"):
        again = repeated(DecoderMemory(bias, ()), 3)
    assert again.cross_bias_B11R.flatten().tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("longest", [0, -1])
def test_a_text_without_a_word_is_refused(longest):
    for search in (greedy_search, beam_search):
        with pytest.raises(ValueError, match=f"longest is {longest}, but must be at least 1"):
            search(step, MEMORY, 0, 1, longest)


def test_a_beam_without_a_hypothesis_is_refused():
    with pytest.raises(ValueError, match="width is 0, but must be at least 1"):
        beam_search(step, MEMORY, 0, 1, 3, 0)


def test_the_penalty_is_a_float():
    assert isinstance(length_penalty(1, 0), float)
