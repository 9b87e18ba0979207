"""What is shown beside a model: its teacher on the same text, and the curves of its training.

N the student's heads · S query tokens · R key tokens · L the student's layers.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minibert.attention import attention_probabilities, padding_bias
from minibert.config import CheckpointError
from minibert.distillation import layer_map
from minibert.encoder import EncoderTrace, encode_traced
from minibert.matching import attention_loss, grouped_heads, hidden_loss
from minibert.model import Bert
from minibert.training.curves import Line, run_lines

MOST_POINTS = 300  # per phase, plus the last; a curve shows no more
RULES = ("uniform", "top", "bottom")


def beside_teacher(
    student: Bert, trace: EncoderTrace, teacher: Bert, ids_BS: Tensor, types_BS: Tensor
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The losses of every layer against every layer of the teacher, head by head, and its maps.

    If the student has fewer heads, each is compared with the mean of a group, as in distillation.
    Losses are TinyBERT's on this text alone: of scores, and of states if the widths are equal.

    Raises
        CheckpointError  the teacher has another vocabulary, or fewer layers, or its number of heads
                         is not a multiple of the student's.
    """
    if teacher.tokenizer is None or student.tokenizer is None:
        raise CheckpointError("the teacher has no vocabulary, so it cannot be shown the same text")
    if teacher.tokenizer.pieces != student.tokenizer.pieces:
        raise CheckpointError(
            f"the teacher's vocabulary ({len(teacher.tokenizer.pieces):,} pieces) is not the "
            f"model's ({len(student.tokenizer.pieces):,}); they must read the same tokens"
        )
    if teacher.config.max_position_embeddings < ids_BS.shape[1]:
        raise CheckpointError(
            f"the text has {ids_BS.shape[1]} tokens, but the teacher knows only "
            f"{teacher.config.max_position_embeddings} positions; shorten it"
        )
    keep_BS = torch.ones_like(ids_BS) > 0
    types_BS = types_BS.clamp(max=teacher.config.type_vocab_size - 1)
    theirs = encode_traced(ids_BS, keep_BS, types_BS, teacher.weights, teacher.config)
    n_heads = {block.attention.scores_BNSR.shape[1] for block in trace.blocks}
    counts = {block.attention.scores_BNSR.shape[1] for block in theirs.blocks}
    if len(n_heads) > 1 or any(count % min(n_heads) for count in counts):
        raise CheckpointError(
            f"the model has {sorted(n_heads)} heads and the teacher {sorted(counts)}, but to be "
            "shown side by side the model's number must divide the teacher's"
        )
    own, others = student.config, teacher.config
    if own.num_hidden_layers > others.num_hidden_layers:
        raise CheckpointError(
            f"the model has {own.num_hidden_layers} layers, the teacher only "
            f"{others.num_hidden_layers}; did you give them the wrong way round?"
        )
    targets_L = [grouped_heads(b.attention.scores_BNSR, min(n_heads)) for b in theirs.blocks]
    maps = {
        f"teacher.{number}": attention_probabilities(target_BNSR, padding_bias(keep_BS))[0]
        for number, target_BNSR in enumerate(targets_L, 1)
    }
    same_width = own.hidden_size == others.hidden_size
    facts = {
        "layers": others.num_hidden_layers,
        "heads": others.num_attention_heads,
        "width": others.hidden_size,
        "maps": {
            rule: layer_map(own.num_hidden_layers, others.num_hidden_layers, rule) for rule in RULES
        },
        "attention": [
            [_by_head(block.attention.scores_BNSR, target, keep_BS) for target in targets_L]
            for block in trace.blocks
        ],
        "hidden": [
            [
                float(hidden_loss(block.hidden_BSD, other.hidden_BSD, None, keep_BS))
                for other in theirs.blocks
            ]
            for block in trace.blocks
        ]
        if same_width
        else None,
    }
    return facts, maps


def _by_head(scores_BNSR: Tensor, target_BNSR: Tensor, keep_BS: Tensor) -> list[float]:
    """The attention loss of each head alone; their mean is that of the layer."""
    return [
        float(attention_loss(scores_BNSR[:, n : n + 1], target_BNSR[:, n : n + 1], keep_BS))
        for n in range(scores_BNSR.shape[1])
    ]


def curves(folder: Path) -> list[dict[str, Any]]:
    """The curves of a run, one for each number of each phase; none if it recorded none.

    Raises
        CheckpointError  a row of `metrics.jsonl` is damaged.
    """
    return [
        {"phase": phase, "kind": kind, "name": name, "points": _thinned(line)}
        for phase, kinds in run_lines(folder).items()
        for kind, lines in kinds.items()
        for name, line in lines.items()
    ]


def _thinned(line: Line) -> Line:
    """At most `MOST_POINTS` evenly spaced points of a line, and its last."""
    every = -(-len(line) // MOST_POINTS)
    return [*line[:-1:every], line[-1]]
