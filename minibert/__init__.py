"""BERT and TinyBERT from scratch on raw torch tensors.

The modules below are a book, to be read in this order. Each uses only the modules before it and
holds functions of plain tensors, one per formula, each with its source:

 1 config          the sizes of a model
 2 parameters      its weights as named structures, and one flat tensor for all of them
 3 functional      softmax, GELU, layer norm, dropout, embedding
 4 attention       scores, masks, probabilities, heads
 5 encoder         embeddings, feed-forward, the post-norm block, L of them
 6 heads           what is put on top: masked words, next sentence, classes, spans, choices
 7 losses          cross-entropy, KL, squared error, the L2 penalty
 8 matching        what is compared between student and teacher: states, scores, relations
 9 distillation    TinyBERT: which layer learns from which, and how much each term counts
10 optim           Adam in every published form, clipping, schedules
11 sparsity        which weights, heads and units are pruned, and when
12 quantization    linear maps in 8-bit integers
13 masking         80 / 10 / 10, whole words, next-sentence pairs
14 wordpiece       from text to tokens
15 wordpiece_training   a vocabulary from the words of a corpus
16 decoder         text word by word, attending to the words so far and to another text
17 search          the likeliest text: greedy search and beam search
18 checkpoint      the names of weights in files

The sub-packages are the workshop that makes the book do real work: `laws`, `data`, `kernels`,
`training`, `explain`, `bench`, `cli`.

A docstring has these sections: Formula; Shapes of inputs and outputs; Source; Differs, what other
programs, papers or forms do; Accuracy, what rounding may do (skip it on a first reading); Raises.

Dimension key. A tensor's name ends in its shape: `hidden_BSD` is [B, S, D].

 B  batch               S  tokens (queries)      R  tokens attended to (keys)
 D  hidden width        E  teacher's width       N  heads           H  teacher's heads, hypotheses
 K  width of a head     F  feed-forward width    V  vocabulary      P  position rows
 T  token types         L  layers                C  classes         M  masked tokens, or rows
 A  relation heads, or kept heads            U  kept units, or words in memory
 W  texts per sentence: the beam width       1  a broadcast axis
 O, I  out and in of one linear map

`Q` counts the choices of all questions, `G` groups. `P` is also the length of a flat tensor of
parameters, in `optim`, `sparsity` and the workshop. `X` is the number of rows of a data set in the
workshop, and of candidates in `search`. The first letter of a list is its length (`hiddens_LBSD`
has one more, the embeddings).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Bert": "minibert.model",
    "BertConfig": "minibert.config",
    "CheckpointError": "minibert.config",
    "encode": "minibert.encoder",
    "encode_traced": "minibert.encoder",
}
__all__ = ["Bert", "BertConfig", "CheckpointError", "encode", "encode_traced"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `minibert --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'minibert' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
