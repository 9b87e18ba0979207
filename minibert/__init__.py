"""BERT and TinyBERT from scratch on raw torch tensors.

The flat modules of this package are a book, to be read in this order. Each uses only what comes
before it, and holds functions of plain tensors, one per formula, with its source:

 1 config          the sizes of a model
 2 parameters      its weights as named structures, and one flat tensor for all of them
 3 functional      softmax, GELU, layer norm, dropout, embedding
 4 attention       scores, masks, probabilities, heads
 5 encoder         embeddings, feed-forward, the post-norm block, L of them
 6 heads           what is put on top: masked words, next sentence, classes, spans, choices
 7 losses          cross-entropy, KL, squared error, the L2 penalty
 8 matching        what of the student is held against the teacher: states, scores, relations
 9 distillation    TinyBERT: which layer learns from which, and what counts how much
10 optim           Adam in every published form, clipping, schedules
11 sparsity        which weights, heads and units go, and when
12 quantization    linear maps in whole numbers of eight bits
13 masking         80 / 10 / 10, whole words, next-sentence pairs
14 wordpiece       from text to tokens
15 wordpiece_training   a vocabulary from the words of a corpus
16 decoder         word after word, asking what is written and another text
17 search          the likeliest text: greedy, and by a beam
18 checkpoint      the names of weights in files

The sub-packages are the workshop that makes the book do real work: `laws`, `data`, `kernels`,
`training`, `explain`, `bench`, `cli`.

A docstring has sections: Formula; Shapes of what goes in and comes out; Source; Differs, what other
programs, papers or forms do; Accuracy, what rounding may do (first readers pass over it); Raises.

Dimension key. A tensor's name ends in its shape: `hidden_BSD` is [B, S, D].

 B  batch               S  tokens (queries)      R  tokens attended to (keys)
 D  hidden width        E  teacher's width       N  heads           H  teacher's heads, hypotheses
 K  width of a head     F  feed-forward width    V  vocabulary      P  position rows
 T  token types         L  layers                C  classes         M  masked tokens, or rows
 A  relation heads, or kept ones             U  units that are kept, or words so far
 W  texts of a sentence: a beam's width      1  a broadcast axis
 O, I  out and in of one linear map

`Q` are the choices of all questions, `G` groups. `P` is also the length of a flat tensor of
parameters, in `optim`, `sparsity` and the workshop; `X` there is the number of rows of a data set,
and in `search` of candidates. In a list the first letter is its length: `hiddens_LBSD`.
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
