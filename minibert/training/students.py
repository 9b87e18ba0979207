"""A student: its shape, and the weights that it starts with."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.files import read_config, read_json, stored_in
from minibert.model import Bert
from minibert.parameters import (
    BertWeights,
    EmbeddingWeights,
    Structure,
    initial_weights,
    named_tensors,
    weight_shapes,
    with_tensors,
)


def student_config(
    shape: str, teacher: BertConfig, dropout: float | None = None
) -> BertConfig:
    """The config of a student: `LxD[xN[xF]]`, or a config.json, for the teacher's vocabulary.

    L layers, width D, N heads, feed-forward width F. Without N: the largest number that divides
    both D and the teacher's heads and leaves heads at least 16 wide; without F: 4 D. `dropout`, if
    it is given, replaces all three dropout rates of the config.

    Raises
        CheckpointError  the shape cannot be read, or cannot be built.

    >>> config = student_config("4x128", BertConfig())
    >>> config.num_attention_heads, config.intermediate_size
    (4, 512)
    """
    if not shape.endswith(".json"):
        return shaped_config(shape, teacher, dropout)
    try:
        sizes = BertConfig.from_dict(read_json(Path(shape)))
    except CheckpointError as error:
        raise CheckpointError(f"student: {shape}: {error}") from None
    for key in ("vocab_size", "type_vocab_size", "pad_token_id"):
        own, other = getattr(sizes, key), getattr(teacher, key)
        if own != other:
            raise CheckpointError(
                f"student: {shape} has {key} {own}, but the student reads what its teacher "
                f"reads, so it must be {other}"
            )
    config = dataclasses.replace(
        sizes,
        id2label=teacher.id2label,
        problem_type=teacher.problem_type,
        architectures=teacher.architectures,
    )
    return _with_dropout(config, dropout)


def shaped_config(shape: str, like: BertConfig, dropout: float | None = None) -> BertConfig:
    """The config of a model of shape `LxD[xN[xF]]` that is otherwise like another, see above.

    Raises
        CheckpointError  the shape cannot be read, or cannot be built.
    """
    if not re.fullmatch(r"[0-9]{1,5}(x[0-9]{1,5}){1,3}", shape):
        raise CheckpointError(
            f"{shape!r} is no shape; write LxD, LxDxN or LxDxNxF, such as 4x128"
        )
    layers, width, *rest = map(int, shape.split("x"))
    heads = rest[0] if rest else default_heads(width, like.num_attention_heads)
    if not heads or width % heads:
        legal = [n for n in range(1, like.num_attention_heads + 1) if width % n == 0]
        raise CheckpointError(
            f"{shape} has {heads} heads, which do not divide its width {width}; choose "
            f"one of {legal}"
        )
    config = dataclasses.replace(
        like,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=rest[1] if len(rest) > 1 else 4 * width,
        pruned=None,
        unknown={},
    )
    return _with_dropout(config, dropout)


def _with_dropout(config: BertConfig, rate: float | None) -> BertConfig:
    if rate is None:
        return config
    return dataclasses.replace(
        config,
        hidden_dropout_prob=rate,
        attention_probs_dropout_prob=rate,
        classifier_dropout=rate,
    )


def default_heads(width: int, teacher_heads: int) -> int:
    """The largest N that divides the width and the teacher's heads, with heads at least 16 wide.

    >>> default_heads(128, 12), default_heads(312, 12), default_heads(8, 12)
    (4, 12, 1)
    """
    fitting = [
        n for n in range(1, teacher_heads + 1)
        if teacher_heads % n == 0 and width % n == 0 and width // n >= 16
    ]  # fmt: skip
    return max(fitting, default=1)


@dataclass(frozen=True)
class Start:
    """What a student begins with.

    `embeddings`: "pca", the teacher's tables projected, see `projected_tables`; "teacher", the
    tables as they are, for equal widths; "random". `layers`: "teacher", the teacher's blocks that
    the layer map names, for equal widths, heads and feed-forward widths; "random". `folder`: a
    student that has learned before, such as one from general distillation; it overrides both, and
    if it knows the task, its head is kept as well.
    """

    embeddings: str = "pca"
    layers: str = "random"
    folder: str | None = None


FROM_SCRATCH = Start(embeddings="random")


def new_student(
    config: BertConfig,
    teacher: BertWeights,
    seed: int,
    start: Start = FROM_SCRATCH,
    layers: tuple[int, ...] = (),
) -> BertWeights:
    """A student with a classifier, and a projection to the teacher's width where widths differ.

    `layers` are g(1), g(2), … of the layer map.

    Raises
        CheckpointError  the student cannot start this way: another size, another vocabulary.
    """
    teacher_width = teacher.embeddings.word_VD.shape[1]
    fit_width = teacher_width if teacher_width != config.hidden_size else None
    shapes = weight_shapes(config, ("pooler", "classifier"), fit_width)
    generator = torch.Generator().manual_seed(seed)
    weights = initial_weights(shapes, config.initializer_range, generator)
    if start.folder is not None:
        return _learned_before(weights, Path(start.folder), config)
    if start.embeddings == "pca":
        weights = weights._replace(embeddings=projected_tables(weights, teacher))
    if start.embeddings == "teacher":
        weights = weights._replace(
            embeddings=_copied(weights.embeddings, teacher.embeddings, "--init-embeddings")
        )
    if start.layers == "teacher":
        blocks = tuple(teacher.blocks[g - 1] for g in layers)
        weights = weights._replace(blocks=_copied(weights.blocks, blocks, "--init-layers"))
    return weights


def _copied(fresh: Structure, original: Structure, option: str) -> Structure:
    """A copy of the teacher's weights, if they have the sizes of the student's."""
    found = dict(named_tensors(original))
    for name, tensor in named_tensors(fresh):
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{option} teacher: {name} is {list(found[name].shape)} in the teacher, but "
                f"{list(tensor.shape)} in the student; give the student the same sizes, or start "
                "from pca or random"
            )
    # A student begins on the CPU, whatever machine its teacher is on.
    copies = {name: tensor.to("cpu", copy=True) for name, tensor in found.items()}
    return with_tensors(fresh, copies)


def _learned_before(fresh: BertWeights, folder: Path, config: BertConfig) -> BertWeights:
    """The encoder of a folder, its projection if it has one, and its head if that names our labels.

    Any other head is drawn at random, and so is its pooler, which was trained with it.
    """
    try:
        own = read_config(folder)
        same_task = "BertForSequenceClassification" in own.architectures and (
            (own.id2label, own.problem_type) == (config.id2label, config.problem_type)
        )
        fit = stored_in(folder).get("fit_dense.weight")
        projected = (  # a projection to the width of another teacher is of no use
            fresh.fit_dense is not None
            and fit is not None
            and fit.shape == tuple(fresh.fit_dense.weight_OI.shape)
        )
        head = None if same_task else "encoder"
        stored = Bert.from_pretrained(folder, head, fit_dense=projected)
    except CheckpointError as error:
        raise CheckpointError(f"--init-student {error}") from None
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                 "intermediate_size", "max_position_embeddings", "hidden_act",
                 "pruned"):  # fmt: skip
        own, other = getattr(stored.config, name), getattr(config, name)
        if own != other:
            raise CheckpointError(
                f"--init-student {folder} has {name} {own}, but the student has {other}; give "
                "--student the shape of that folder, or leave it out"
            )
    return fresh._replace(
        embeddings=stored.weights.embeddings,
        blocks=stored.weights.blocks,
        fit_dense=stored.weights.fit_dense or fresh.fit_dense,
        pooler=stored.weights.pooler if same_task else fresh.pooler,
        classifier=stored.weights.classifier or fresh.classifier,
    )


def projected_tables(student: BertWeights, teacher: BertWeights) -> EmbeddingWeights:
    """The teacher's embedding tables in the student's width: their D principal components.

    Formula
        X = word table minus its mean row;  U = the D leading right singular vectors of X
        word = X U,  position = P U,  type = T U

    Most of a small student's weights are its word table, and the teacher's rows already know which
    words are alike.

    Raises
        CheckpointError  the student is wider than its teacher, or has more positions.
    """
    tables = teacher.embeddings
    width, teacher_width = student.embeddings.word_VD.shape[1], tables.word_VD.shape[1]
    if width > teacher_width:
        raise CheckpointError(
            f"init-embeddings pca: the student's width {width} exceeds the teacher's "
            f"{teacher_width}; choose a narrower student or random"
        )
    positions, teacher_positions = (len(t.position_PD) for t in (student.embeddings, tables))
    if positions > teacher_positions:
        raise CheckpointError(
            f"init-embeddings pca: the student has {positions} positions, its teacher only "
            f"{teacher_positions}; choose fewer or random"
        )
    # In float64 on the CPU, so that the student is the same whatever machine its teacher is on.
    word_VE, position_PE, type_TE = (table.double().cpu() for table in tables[:3])
    directions_ED, _ = principal_directions(word_VE, width)
    return student.embeddings._replace(
        word_VD=((word_VE - word_VE.mean(0)) @ directions_ED).float(),
        position_PD=(position_PE[:positions] @ directions_ED).float(),
        type_TD=(type_TE @ directions_ED).float(),
    )


def principal_directions(table_VE: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The directions [E, width] along which rows differ most, and the variance along each, [E].

    No other `width` directions hold more variance (Pearson 1901). The sign of a direction is
    arbitrary; here it makes its largest number positive.

    >>> principal_directions(torch.tensor([[0.0, 1.0], [0.0, -3.0]]).double(), 1)[1].tolist()
    [4.0, 0.0]
    """
    centred_VE = table_VE - table_VE.mean(0)
    # eigh of the E x E covariance has the same vectors as the svd of V x E, and is much smaller.
    squares_E, directions_EE = torch.linalg.eigh(centred_VE.T @ centred_VE)
    directions_ED = directions_EE.flip(1)[:, :width]
    largest_1D = directions_ED.gather(0, directions_ED.abs().argmax(0, keepdim=True))
    return directions_ED * largest_1D.sign(), squares_E.flip(0).clamp(min=0) / len(table_VE)
