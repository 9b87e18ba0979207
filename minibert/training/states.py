"""The teacher's states, computed once and kept in a file, so that later epochs only read them.

The file holds, in half precision and without padding, what the losses look at: for each distinct
text its states, then its attention scores. It is a safetensors file with one flat tensor, and is
mapped into memory, so that reading it takes no memory that the system cannot reclaim.

B rows · T distinct texts · C classes · S places, R = S · n places of one text, without padding ·
D the teacher's width · N heads of the stored scores · K width of a head · M stored states
(embeddings, hidden, then query, key and value) · L layers whose scores are stored · X values in
the file.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minibert.attention import AttentionTrace, merge_heads, split_heads
from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import Batch, collate, sorted_order
from minibert.encoder import BlockTrace, EncoderTrace
from minibert.kernels.encoder import encode_traced, prepared
from minibert.matching import grouped_heads
from minibert.training.answers import path_of_answers, write_answers
from minibert.training.evaluation import classifier_logits
from minibert.training.progress import Display
from minibert.training.runs import REPEAT, STATE_ENDING, written_whole
from minibert.training.state_plan import STORED, StatePlan, StateSource
from minibert.training.stopwatch import timed

WRITING_BATCH = 32


class BeyondHalf(ValueError):
    """A state of the teacher is too large for half precision, or not a number."""


# --- Whether it is worth it ------------------------------------------------------------------


class Decision(NamedTuple):
    """Whether the states are kept in a file, and the sentence that says so."""

    stored: bool
    sentence: str


def decided(
    source: StateSource, folder: Path, budget: int, epochs: float, mode: str = "masked"
) -> Decision:
    """Keep the states if they are of use and fit into `budget` bytes and on the disk.

    `epochs` says how often a text is read, and may be a fraction: a run can stop within an epoch.
    """
    needed = f"they take {_size(source.n_bytes)}"
    against = ""
    if mode != "masked":
        against = f"mode {mode} compares padding too, and that differs from batch to batch"
    elif epochs * len(source.encodings) <= len(source.texts.encodings):
        against = "every text is read only once"
    elif source.n_bytes > budget:
        against = f"{needed}, more than the {_size(budget)} that are allowed"
    elif source.n_bytes > (free := shutil.disk_usage(_existing(folder)).free):
        against = f"{needed}, more than the {_size(free)} that {folder} has room for"
    if against:
        return Decision(False, f"the teacher's states are computed for every batch: {against}")
    return Decision(
        True, f"the teacher's states are computed once and kept in {folder}: {needed}"
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(n_bytes: int) -> str:
    """A number of bytes for people.

    >>> _size(999), _size(1_500_000), _size(2_345_000_000)
    ('999 bytes', '1.5 MB', '2.3 GB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes} bytes"


def kept_states(
    path: Path,
    source: StateSource,
    budget: int,
    epochs: float,
    display: Display,
    mode: str = "masked",
) -> "StoredStates | None":
    """The states from a file, which is written if it does not exist; None if they are not kept.

    What is done, and why, is displayed in one sentence; `epochs` is that of `decided`. Where the
    states are written, the teacher's answers are kept beside them, so that it need not read the
    texts again.

    Raises
        CheckpointError  as `open_states`.
        OSError          the disk is full after all, or not writable.
    """
    if mode == "masked" and path.exists():
        states = open_states(path, source)
        display.say(f"the teacher's states are read from {path}")
        return states
    decision = decided(source, path.parent, budget, epochs, mode)
    display.say(decision.sentence)
    if not decision.stored:
        return None
    try:
        write_states(path, source, display)
    except BeyondHalf as error:
        display.say(f"{error}; they are computed for every batch instead")
        return None
    return open_states(path, source)


def held_with_more(folder: Path, source: StateSource) -> StateSource:
    """The source of a file in `folder` that holds all that is asked for, or the source itself.

    This way the states left by one recipe serve every recipe that leaves out some of its losses.
    """
    wanted = json.loads(source.record)
    for path in sorted(folder.glob(f"teacher-*{STATE_ENDING}")):
        try:
            with safe_open(path, framework="pt") as file:
                held = json.loads(file.metadata()["record"])
            plan = StatePlan.from_record(held["parts"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged; reported only if it is the file to read
        if held["source"] == wanted["source"] and plan.covers(source.plan):
            return replace(source, plan=plan)
    return source


def path_of_states(folder: Path, source: StateSource) -> Path:
    """Where the states of a source are kept: the name is a hash of all that they depend on."""
    name = hashlib.blake2b(source.record.encode(), digest_size=16).hexdigest()
    return folder / f"teacher-{name}{STATE_ENDING}"


# --- Writing ---------------------------------------------------------------------------------


@timed("teacher")
def write_states(path: Path, source: StateSource, display: Display) -> None:
    """Let the teacher read every distinct text, and write what is asked for to `path`.

    If it has a classifier, its answers are kept in the same folder, before the states get their
    name: where there are states, there are answers.

    Raises
        BeyondHalf  a state is beyond 65504, the largest number of half precision, or not a number.
        OSError     the disk is full or not writable; what was at `path` is untouched.
    """
    checksum = zlib.crc32(source.record.encode())
    teacher = source.teacher
    has_head = teacher.weights.pooler is not None and teacher.weights.classifier is not None
    n_labels = teacher.config.num_labels if has_head else 0
    logits_TC = torch.empty(len(source.texts.encodings), n_labels)
    with (
        written_whole(path, shared=True, then=REPEAT) as staged,
        staged.open("wb") as file,
        # closed, or its bar would outlive a full disk
        closing(_pieces(source, logits_TC, display)) as pieces,
    ):
        file.write(_header(source, checksum))
        for piece in pieces:
            file.write(piece)
            checksum = zlib.crc32(piece, checksum)
        file.seek(0)
        file.write(_header(source, checksum))  # as long as before, now with the checksum
        answers = path_of_answers(path.parent, source.encodings, teacher, source.dtype)
        if has_head and logits_TC.isfinite().all() and not answers.exists():
            write_answers(answers, logits_TC[list(source.texts.place_of)])


def _header(source: StateSource, checksum: int) -> bytes:
    """The beginning of a safetensors file: a length of 8 bytes, and JSON padded to 8 bytes.

    Source
        the format's own page, github.com/huggingface/safetensors, README.md
    """
    table = {
        "__metadata__": {"record": source.record, "checksum": f"{checksum:010}"},
        "states": {
            "dtype": "F16", "shape": [source.starts[-1]], "data_offsets": [0, source.n_bytes],
        },
    }  # fmt: skip
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@torch.no_grad()
def _pieces(
    source: StateSource, logits_TC: Tensor, display: Display
) -> Generator[bytes, None, None]:
    """The values of one distinct text after the other; their logits go into `logits_TC`."""
    texts, config, plan = source.texts.encodings, source.teacher.config, source.plan
    device = source.teacher.weights.embeddings.word_VD.device
    ready = prepared(source.teacher.weights, source.dtype)
    batches = sorted_order([len(text.ids) for text in texts], WRITING_BATCH)
    with display.phase("states", len(batches)) as bar:
        for rows in batches:
            batch = collate(texts, rows, config.pad_token_id).to(device)
            trace = encode_traced(batch.ids_BS, batch.keep_BS, batch.types_BS, ready, config)
            if logits_TC.shape[1]:
                logits_BC = classifier_logits(trace.hidden_BSD[:, :1], ready, config)
                logits_TC[rows] = logits_BC.float().cpu()
            states_BMSD, scores_BLNSR = (part.cpu() for part in _asked_for(trace, plan))
            for place, row in enumerate(rows):
                n = len(texts[row].ids)
                values_X = torch.cat(
                    (
                        states_BMSD[place, :, :n].flatten(),
                        scores_BLNSR[place, :, :, :n, :n].flatten(),
                    )
                )
                if not values_X.isfinite().all():
                    raise BeyondHalf(
                        "a state of the teacher is beyond 65504 or not a number, so the states "
                        "cannot be kept in half precision"
                    )
                yield values_X.numpy().tobytes()
            bar.advance({})


def _asked_for(trace: EncoderTrace, plan: StatePlan) -> tuple[Tensor, Tensor]:
    """The states [B, M, S, D] and scores [B, L, N, S, R] of a plan, in half precision."""
    states = [trace.hiddens_LBSD[layer] for layer in plan.hiddens]
    for layer in plan.relations:
        states += map(merge_heads, trace.blocks[layer - 1].attention[:3])
    batch, places, width = trace.embedded_BSD.shape
    scores = [
        grouped_heads(trace.blocks[layer - 1].attention.scores_BNSR.float(), plan.score_heads)
        for layer in plan.scores
    ]
    no_states_BMSD = torch.empty(batch, 0, places, width, dtype=STORED)
    no_scores_BLNSR = torch.empty(batch, 0, plan.score_heads, places, places, dtype=STORED)
    return (
        torch.stack(states, 1).to(STORED) if states else no_states_BMSD,
        torch.stack(scores, 1).to(STORED) if scores else no_scores_BLNSR,
    )


# --- Reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredStates:
    """The states of a source in a file, which stand in for the teacher itself."""

    values_X: numpy.ndarray[Any, numpy.dtype[numpy.float16]]
    source: StateSource

    @timed("teacher")
    def trace(self, rows: Sequence[int], batch: Batch) -> EncoderTrace:
        """What the teacher computes for these rows of the texts, padded with 0 like their batch.

        What is not stored is an empty tensor, which fits no loss. The scores have as many heads as
        the student. The values are in half precision; a loss computes with them in float32.

        Raises
            ValueError  a text has more tokens than the batch has places.
        """
        plan, config = self.source.plan, self.source.teacher.config
        width, (n_rows, places) = config.hidden_size, batch.ids_BS.shape
        states_MBSD = torch.zeros(plan.n_states, n_rows, places, width, dtype=STORED)
        scores_LBNSR = torch.zeros(
            len(plan.scores), n_rows, plan.score_heads, places, places, dtype=STORED
        )
        into_MBSD, into_LBNSR = states_MBSD.numpy(), scores_LBNSR.numpy()
        for place, row in enumerate(rows):
            text = self.source.texts.place_of[row]
            n = len(self.source.texts.encodings[text].ids)
            if n > places:
                raise ValueError(f"text {row} has {n} tokens, but only {places} places")
            values_X = self.values_X[self.source.starts[text] : self.source.starts[text + 1]]
            n_states = plan.n_states * n * width
            into_MBSD[:, place, :n] = values_X[:n_states].reshape(plan.n_states, n, width)
            into_LBNSR[:, place, :, :n, :n] = values_X[n_states:].reshape(
                len(plan.scores), plan.score_heads, n, n
            )
        device = batch.ids_BS.device
        return _as_trace(states_MBSD.to(device), scores_LBNSR.to(device), plan, config)


def _as_trace(
    states_MBSD: Tensor, scores_LBNSR: Tensor, plan: StatePlan, config: BertConfig
) -> EncoderTrace:
    """Stored states where `encode_traced` has them, and nothing everywhere else."""
    nothing = states_MBSD.new_empty(0)
    hiddens = dict(zip(plan.hiddens, states_MBSD, strict=False))
    scores = dict(zip(plan.scores, scores_LBNSR, strict=True))
    three_MBNSK = [
        split_heads(state_BSD, config.num_attention_heads)
        for state_BSD in states_MBSD[len(plan.hiddens) :]
    ]
    relations = {
        layer: three_MBNSK[3 * index : 3 * index + 3]
        for index, layer in enumerate(plan.relations)
    }
    blocks = []
    for layer in range(1, config.num_hidden_layers + 1):
        query, key, value = relations.get(layer, (nothing, nothing, nothing))
        attention = AttentionTrace(
            query, key, value, scores.get(layer, nothing), nothing, nothing
        )
        blocks.append(BlockTrace(attention, nothing, hiddens.get(layer, nothing)))
    return EncoderTrace(hiddens.get(0, nothing), tuple(blocks))


def open_states(path: Path, source: StateSource) -> StoredStates:
    """The states in a file, after a check of every byte of it.

    Raises
        CheckpointError  the file is damaged, or holds the states of another source.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record, checksum = (file.metadata()[key] for key in ("record", "checksum"))
            values_X = file.get_tensor("states")
        checksum = int(checksum)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None
    if record != source.record:
        raise _damaged(path, "it is of another teacher, of other texts, or other parts of them")
    if values_X.dtype != STORED or values_X.shape != (source.starts[-1],):
        raise _damaged(path, "its size is wrong")
    values = values_X.numpy()
    if zlib.crc32(values.data, zlib.crc32(record.encode())) != checksum:
        raise _damaged(path, "its checksum is wrong")
    return StoredStates(values, source)


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({why}); delete it, and it will be rebuilt")
