"""How a text became pieces, and which words a masked-word head would put in their place.

S tokens · D width · L layers · V words.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from minibert.data.tokenizer import Encoding, Tokenizer
from minibert.encoder import encode_traced
from minibert.functional import softmax
from minibert.heads import mlm_logits
from minibert.model import Bert
from minibert.wordpiece import (
    SPECIALS,
    assemble,
    encode,
    longest_match,
    normalise,
    split_specials,
    split_words,
)

TOP = 5
LONGEST = 100  # characters of the longest word that `longest_match` looks up
AT_ONCE = 16  # sentences with one masked word in a batch


def tries(word: str, vocabulary: Collection[str]) -> list[list[str]]:
    """For each piece of a word, what was looked up: the longest first; the last one is found.

    For a word that becomes [UNK], the last list ends without a match; a word of over `LONGEST`
    characters is never looked up.

    >>> tries("unfit", {"un", "##fit"})
    [['unfit', 'unfi', 'unf', 'un'], ['##fit']]
    """
    looked_up: list[list[str]] = []
    start = 0
    while start < len(word) <= LONGEST:
        prefix = "##" if start else ""
        looked_up.append([])
        for end in range(len(word), start, -1):
            looked_up[-1].append(prefix + word[start:end])
            if looked_up[-1][-1] in vocabulary:
                start = end
                break
        else:
            break
    return looked_up


def word_steps(text: str, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Each word of a text as written and as normalised, with its tries and its pieces."""
    vocabulary, steps = tokenizer.vocabulary, []
    for offset, part, special in split_specials(text, SPECIALS):
        if special:
            steps.append({"text": part, "word": part, "tries": [[part]], "pieces": [part]})
            continue
        normal, origins = normalise(part, tokenizer.lowercase)
        for start, end in split_words(normal):
            word = normal[start:end]
            first, last = offset + origins[start], offset + origins[end - 1]
            steps.append(
                {
                    "text": text[first : last + 1],
                    "word": word,
                    "tries": tries(word, vocabulary),
                    "pieces": longest_match(word, vocabulary),
                }
            )
    return steps


def spans(
    first: str, second: str | None, encoding: Encoding, tokenizer: Tokenizer
) -> list[tuple[int, int]] | None:
    """The characters that each token came from; None if the book reads the text differently.

    The book knows one kind of tokenizer: it drops both capitals and accents, or neither.
    """
    if tokenizer.words != "bert" or not tokenizer.split_chinese:
        return None
    if tokenizer.strip_accents not in (None, tokenizer.lowercase):
        return None
    vocabulary, lowercase = tokenizer.vocabulary, tokenizer.lowercase
    rest = None if second is None else encode(second, vocabulary, lowercase)
    ours = assemble(vocabulary, encode(first, vocabulary, lowercase), rest)
    if ours.ids != encoding.ids:
        return None
    return [(token.start, token.end) for token in ours.tokens]


def likeliest(logits_SV: Tensor, pieces: Sequence[str]) -> list[list[list[Any]]]:
    """For each row the likeliest pieces and their probabilities.

    >>> likeliest(torch.tensor([[0.0, 40.0]]), ["a", "b"])[0][0]
    ['b', 1.0]
    """
    probabilities_SV = softmax(logits_SV[:, : len(pieces)])
    best = probabilities_SV.topk(min(TOP, len(pieces)), dim=-1)
    return [
        [[pieces[i], round(p, 5)] for i, p in zip(ids, shares, strict=True)]
        for ids, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def said_by_layers(bert: Bert, hiddens_LBSD: Sequence[Tensor]) -> list[list[list[list[Any]]]]:
    """What the head would predict for every token if the model ended after each layer, [L + 1, S].

    Source
        nostalgebraist 2020, "interpreting GPT: the logit lens".
    """
    assert bert.tokenizer is not None
    mlm = bert.weights.mlm
    assert mlm is not None
    word_VD, pieces = bert.weights.embeddings.word_VD, bert.tokenizer.pieces
    return [
        likeliest(mlm_logits(hidden_BSD[0], mlm, word_VD, bert.config), pieces)
        for hidden_BSD in hiddens_LBSD
    ]


def said_if_masked(bert: Bert, ids_BS: Tensor, types_BS: Tensor) -> list[list[list[Any]]]:
    """What the head predicts for each token when only that one is replaced by [MASK], [S]."""
    assert bert.tokenizer is not None
    mlm = bert.weights.mlm
    assert mlm is not None
    word_VD, pieces = bert.weights.embeddings.word_VD, bert.tokenizer.pieces
    n_tokens = ids_BS.shape[1]
    hidden_SS = torch.where(torch.eye(n_tokens) > 0, bert.tokenizer.mask_id, ids_BS)
    said = []
    for start in range(0, n_tokens, AT_ONCE):
        ids = hidden_SS[start : start + AT_ONCE]
        types = types_BS.expand(len(ids), -1)
        trace = encode_traced(ids, torch.ones_like(ids) > 0, types, bert.weights, bert.config)
        rows = torch.arange(len(ids))
        states_MD = trace.hidden_BSD[rows, rows + start]
        said += likeliest(mlm_logits(states_MD, mlm, word_VD, bert.config), pieces)
    return said
