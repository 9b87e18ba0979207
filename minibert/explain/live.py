"""The model itself in the page: its weights in eight bits, so that `live.js` reads any text there.

S tokens · D width · V words · O, I the sides of a map.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from minibert.encoder import EncoderTrace, encode_traced
from minibert.explain.words import LONGEST
from minibert.functional import softmax
from minibert.heads import mlm_logits
from minibert.model import Bert
from minibert.parameters import BertWeights, named_tensors, with_tensors
from minibert.quantization import quantized_rows
from minibert.wordpiece import CHANGED_SINCE_8, CHINESE, GAINED_AFTER_8, SPECIALS

LARGEST = 1_500_000  # bytes that the weights may take: half of a page
SCALE = ".scale"


def live(
    bert: Bert, trace: EncoderTrace, ids_BS: Tensor, types_BS: Tensor, book_reads: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the page needs to read other texts: facts, and blocks; or in the facts `why` it cannot.

    `book_reads` says that the model's tokenizer is the book's WordPiece, the only one that the
    page knows. The facts also say how far the model with 8-bit weights is from the original.
    """
    if not book_reads:
        return {"why": "its tokenizer treats text differently from the book's WordPiece"}, {}
    assert bert.tokenizer is not None
    weights = read_by_page(bert.weights)
    tensors = dict(named_tensors(weights))
    size = size_in_page(tensors.values())
    if size > LARGEST:
        return {
            "why": f"its weights would take {size / 1e6:.1f} MB, and a page keeps at most "
            f"{LARGEST / 1e6:.1f} MB of them"
        }, {}
    blocks = eight_bits(tensors)
    theirs = dequantized(weights, blocks)
    facts = {
        "why": None,
        "pieces": bert.tokenizer.pieces,
        "lowercase": bert.tokenizer.lowercase,
        "specials": SPECIALS,
        "longest": LONGEST,
        "gained": in_javascript(GAINED_AFTER_8.pattern),
        "changed": CHANGED_SINCE_8,
        "chinese": in_javascript(CHINESE.pattern),
        "differences": largest_differences(bert, theirs, trace, ids_BS, types_BS),
    }
    return facts, blocks


def in_javascript(pattern: str) -> str:
    r"""A class of characters as JavaScript writes it, under its flag u.

    >>> in_javascript(r"[\u061d\U00010d24-\U00010f89]")
    '[\\u{61d}\\u{10d24}-\\u{10f89}]'
    """
    parts = pattern.replace("\\U", "\\u").split("\\u")
    numbers = [part.rstrip("-]") for part in parts[1:]]
    written = (
        f"\\u{{{int(number, 16):x}}}{part[len(number):]}"
        for number, part in zip(numbers, parts[1:], strict=True)
    )
    return parts[0] + "".join(written)


def read_by_page(weights: BertWeights) -> BertWeights:
    """The encoder and the masked-word head; the page uses no other head."""
    return BertWeights(weights.embeddings, weights.blocks, mlm=weights.mlm)


def size_in_page(tensors: Iterable[Tensor]) -> int:
    """Roughly how many bytes the weights take there: base64 makes one byte one and a third."""
    sizes = [x.numel() + 4 * x.shape[0] if x.ndim == 2 else 4 * x.numel() for x in tensors]
    return math.ceil(sum(sizes) / 3) * 4 + 150 * len(sizes)


def eight_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by path: matrices as 8-bit integers with a scale for each row, vectors unchanged.

    >>> list(eight_bits({"weight_OI": torch.eye(2), "bias_O": torch.zeros(2)}))
    ['weight_OI', 'weight_OI.scale', 'bias_O']
    """
    blocks = {}
    for path, x in tensors.items():
        if x.ndim == 1:
            blocks[path] = x.detach().float()
            continue
        blocks[path], scale_O1 = quantized_rows(x.detach())
        blocks[path + SCALE] = scale_O1[:, 0].float()
    return blocks


def dequantized(weights: BertWeights, blocks: Mapping[str, Tensor]) -> BertWeights:
    """The weights that the page computes with, in float32."""
    tensors = {
        path: blocks[path] * blocks[path + SCALE][:, None] if x.ndim == 2 else blocks[path]
        for path, x in named_tensors(weights)
    }
    return with_tensors(weights, tensors)


def largest_differences(
    bert: Bert, weights: BertWeights, trace: EncoderTrace, ids_BS: Tensor, types_BS: Tensor
) -> dict[str, float | None]:
    """How far a model with these weights is from `bert`, on the text of the trace.

    For states, the largest difference and the largest number; for words, the largest difference in
    the probability of the piece that `bert` finds likeliest at each position.
    """
    keep_BS = torch.ones_like(ids_BS) > 0
    theirs = encode_traced(ids_BS, keep_BS, types_BS, weights, bert.config)
    pairs = list(zip(trace.hiddens_LBSD, theirs.hiddens_LBSD, strict=True))
    found: dict[str, float | None] = {
        "state": max(float((own - other).abs().max()) for own, other in pairs),
        "largest": max(float(own.abs().max()) for own, _ in pairs),
        "share": None,
    }
    if bert.weights.mlm is not None:
        own_SV, other_SV = (
            softmax(mlm_logits(one.hidden_BSD[0], of.mlm, of.embeddings.word_VD, bert.config))
            for one, of in ((trace, bert.weights), (theirs, weights))
            if of.mlm is not None
        )
        best_S1 = own_SV.argmax(1, keepdim=True)
        found["share"] = float((own_SV - other_SV).gather(1, best_S1).abs().max())
    return found
