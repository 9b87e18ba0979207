"""Searching for the likeliest text: greedy search and beam search.

A model gives each next word a probability, a text has the product of these, and there are too many
texts to try them all. Both searches see the model as a function `step`, so they serve any decoder.
B sentences · W hypotheses of each, the beam width · H = B W hypotheses in all, side by side ·
V words · S words of a text · X = 2 W candidates.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from minibert.decoder import BlockMemory, DecoderMemory

# Takes the last word [H, 1] of each hypothesis and the memory before it; returns log-probabilities
# [H, V] of every next word, and the memory with that last word.
Step = Callable[[Tensor, DecoderMemory], tuple[Tensor, DecoderMemory]]


class Texts(NamedTuple):
    """W texts for each sentence, best first; each is padded with the end word.

    Where there are fewer than W texts, the scores of the missing ones are -inf.
    """

    ids_BWS: Tensor
    scores_BW: Tensor


def length_penalty(n_words: int, alpha: float) -> float:
    """What the log-probability of a text is divided by, so that long ones do not always lose.

    Formula
        lp(n) = ((5 + n) / 6)^α

    Shapes
        n_words  int    n >= 1, the end counted
        alpha    float  α; 0 for none, and the more, the longer the texts
        return   float

    Source
        Wu et al. 2016, arXiv:1609.08144, equation 14.

    Differs
        fairseq and transformers divide by n^α.

    Accuracy
        |error| <= (1 + |α|/2) eps lp

    >>> length_penalty(1, 0.6), length_penalty(7, 1.0)
    (1.0, 2.0)
    """
    return float(((5 + n_words) / 6) ** alpha)


def repeated(memory: DecoderMemory, times: int) -> DecoderMemory:
    """The memory repeated for `times` hypotheses of each sentence, side by side.

    Shapes
        memory  DecoderMemory of B rows
        times   int  W
        return  DecoderMemory of H = B W rows; rows b W to b W + W - 1 are row b

    Source
        Sutskever et al. 2014, arXiv:1409.3215, section 3.2 (a beam of partial hypotheses).

    >>> bias, part = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    >>> repeated(DecoderMemory(bias, (BlockMemory(*[part] * 4),)), 2).cross_bias_B11R.view(4)
    tensor([0., 0., 1., 1.])
    """
    n_sentences, device = memory.cross_bias_B11R.shape[0], memory.cross_bias_B11R.device
    from_H = torch.arange(n_sentences * times, device=device) // times
    return DecoderMemory(
        memory.cross_bias_B11R.index_select(0, from_H),
        tuple(
            BlockMemory(*(part.index_select(0, from_H) for part in block))
            for block in memory.blocks
        ),
    )


def reordered(memory: DecoderMemory, from_H: Tensor) -> DecoderMemory:
    """The memory of hypotheses that continue others: h continues `from_H[h]`, of the same sentence.

    Shapes
        memory  DecoderMemory of H rows
        from_H  int64 [H]
        return  DecoderMemory; what is asked of the encoder is the sentence's, so it stays

    Source
        Sutskever et al. 2014, arXiv:1409.3215, section 3.2 (left-to-right beam search).

    >>> words, part = torch.tensor([5.0, 6.0]).view(2, 1, 1, 1), torch.ones(2, 1, 1, 1)
    >>> memory = DecoderMemory(part, (BlockMemory(words, words, part, part),))
    >>> reordered(memory, torch.tensor([1, 1])).blocks[0].own_key_BNUK.view(2)
    tensor([6., 6.])
    """
    blocks = tuple(
        block._replace(
            own_key_BNUK=block.own_key_BNUK.index_select(0, from_H),
            own_value_BNUK=block.own_value_BNUK.index_select(0, from_H),
        )
        for block in memory.blocks
    )
    return memory._replace(blocks=blocks)


def greedy_search(
    step: Step, memory: DecoderMemory, start_id: int, end_id: int, longest: int
) -> Texts:
    """Take the likeliest word, then the likeliest after it, until the end.

    Formula
        w_s = argmax_w p(w | w_1 … w_{s-1}, memory);  score = Σ_s log p(w_s | …), the end counted

    Shapes
        memory   DecoderMemory of B rows and no words, from `decoder.empty_memory`
        longest  int    words of a text at most, the end counted; there it is cut
        return   Texts  W = 1

    Source
        Sutskever et al. 2014, arXiv:1409.3215, section 3.2 (a beam of 1).

    Accuracy
        |error of a score| <= S eps Σ |log p|, eps that of float32 at most

    Raises
        ValueError  longest is below 1.

    >>> table_VV = torch.tensor([[0.1, 0.4, 0.5], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]).log()
    >>> memory = DecoderMemory(torch.zeros(1, 1, 1, 0), ())  # a model of the last word alone
    >>> greedy_search(lambda last, kept: (table_VV[last[:, 0]], kept), memory, 0, 1, 9).ids_BWS
    tensor([[[2, 1]]])
    """
    _check(longest=longest)
    n_sentences, device = memory.cross_bias_B11R.shape[0], memory.cross_bias_B11R.device
    last_B = torch.zeros(n_sentences, device=device).long() + start_id
    score_B = torch.zeros(n_sentences, device=device)
    ended_B = torch.zeros(n_sentences, dtype=torch.bool, device=device)
    words = []
    for _ in range(longest):
        log_p_BV, memory = step(last_B[:, None], memory)
        gain_B, likeliest_B = log_p_BV.max(1)
        last_B = torch.where(ended_B, end_id, likeliest_B)
        score_B = score_B + torch.where(ended_B, 0.0, gain_B)
        words.append(last_B)
        ended_B = last_B == end_id
        if bool(ended_B.all()):
            break
    return Texts(torch.stack(words, 1)[:, None], score_B[:, None])


def beam_search(
    step: Step,
    memory: DecoderMemory,
    start_id: int,
    end_id: int,
    longest: int,
    width: int = 4,
    alpha: float = 0.6,
) -> Texts:
    """For each sentence, follow the W likeliest beginnings of a text at once.

    Formula
        score = Σ_s log p(w_s | w_1 … w_{s-1}, memory) / lp(n)  for a finished text of n words
        Each length considers the 2 W likeliest beginnings, of which at most W end. Those that end
        among the first W are finished texts; the first W that do not end, ranked by sum, go on.
        A sentence is done when it has W texts, or at the greatest length, where the rest are cut.

    Shapes
        memory   DecoderMemory of B rows and no words, from `decoder.empty_memory`
        longest  int    words of a text at most, the end counted
        width    int    W; 1 finds what `greedy_search` does, but for ties; V^longest tries all
        alpha    float  α of `length_penalty`
        return   Texts

    Source
        Wu et al. 2016, arXiv:1609.08144, section 7 (which also rewards that every source word was
        looked at); 2 W candidates, and the end: facebookresearch/fairseq, sequence_generator.py.

    Accuracy
        |error of a score| <= (S + 4) eps Σ |log p| / lp(n), eps that of float32 at most

    Raises
        ValueError  longest or width is below 1.

    >>> table_VV = torch.tensor([[0.1, 0.4, 0.5], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]).log()
    >>> memory = DecoderMemory(torch.zeros(1, 1, 1, 0), ())  # a model of the last word alone
    >>> beam_search(lambda last, kept: (table_VV[last[:, 0]], kept), memory, 0, 1, 9, 2).ids_BWS
    tensor([[[1, 1],
             [2, 1]]])
    """
    _check(longest=longest, width=width)
    n_sentences, device = memory.cross_bias_B11R.shape[0], memory.cross_bias_B11R.device
    memory = repeated(memory, width)
    start_BW1 = torch.zeros(n_sentences, width, 1, device=device).long() + start_id
    row_B1 = torch.arange(n_sentences, device=device)[:, None]
    column_W = torch.arange(width, device=device)
    first_X = torch.arange(2 * width, device=device) < width
    none_BW = torch.zeros(n_sentences, width, device=device) - math.inf
    found = Texts(start_BW1[:, :, :0], none_BW)
    # all W beginnings are still the same, so only the first one counts
    begun = Texts(start_BW1, torch.where(column_W == 0, 0.0, none_BW))
    for length in range(1, longest + 1):
        log_p_HV, memory = step(begun.ids_BWS[:, :, -1].reshape(-1, 1), memory)
        longer, from_BX = _likeliest(begun, log_p_HV)
        ends_BX = (longer.ids_BWS[:, :, -1] == end_id) | (length == longest)
        open_B1 = found.scores_BW[:, -1:] == -math.inf

        score_BX = longer.scores_BW / length_penalty(length, alpha)
        score_BX = torch.where(ends_BX & first_X & open_B1, score_BX, -math.inf)
        found = _best(found, Texts(longer.ids_BWS[:, :, 1:], score_BX), end_id)
        if bool((found.scores_BW[:, -1] > -math.inf).all()):
            break

        # stable: those that go on keep their order, and those that end come last
        place_BW = ends_BX.long().argsort(stable=True)[:, :width]
        begun = Texts(longer.ids_BWS[row_B1, place_BW], longer.scores_BW.gather(1, place_BW))
        memory = reordered(memory, (width * row_B1 + from_BX.gather(1, place_BW)).view(-1))
    return found


def _likeliest(begun: Texts, log_p_HV: Tensor) -> tuple[Texts, Tensor]:
    """The 2 W likeliest beginnings one word longer, and which beginning each continues."""
    n_sentences, width = begun.scores_BW.shape
    n_words = log_p_HV.shape[1]
    total_BWV = begun.scores_BW[:, :, None] + log_p_HV.view(n_sentences, width, n_words)
    score_BX, place_BX = total_BWV.view(n_sentences, -1).topk(2 * width)
    from_BX, word_BX = place_BX // n_words, place_BX % n_words
    row_B1 = torch.arange(n_sentences, device=log_p_HV.device)[:, None]
    ids = torch.cat([begun.ids_BWS[row_B1, from_BX], word_BX[:, :, None]], 2)
    return Texts(ids, score_BX), from_BX


def _best(old: Texts, new: Texts, end_id: int) -> Texts:
    """The W best of both; the old texts, which are a word shorter, get one more end word."""
    n_sentences, width = old.scores_BW.shape
    row_B1 = torch.arange(n_sentences, device=old.ids_BWS.device)[:, None]
    one_more_BW1 = torch.zeros_like(new.ids_BWS[:, :width, :1]) + end_id
    ids = torch.cat([torch.cat([old.ids_BWS, one_more_BW1], 2), new.ids_BWS], 1)
    scores = torch.cat([old.scores_BW, new.scores_BW], 1)
    # stable: among scores of -inf the empty places of `old` come first, no unfinished text enters
    place_BW = scores.argsort(descending=True, stable=True)[:, :width]
    return Texts(ids[row_B1, place_BW], scores.gather(1, place_BW))


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but must be at least 1")
