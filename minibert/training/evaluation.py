"""How good a model is: its answers on a whole data set, and the metrics of the task."""

import math
import warnings
from collections.abc import Sequence

import torch
from scipy import stats
from sklearn import metrics as scores
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import Batch, collate, sorted_order
from minibert.data.readers import Dataset, Task
from minibert.data.tokenizer import Encoding, Tokenizer, required_tokenizer
from minibert.heads import pooled, sequence_logits
from minibert.kernels.encoder import AnyWeights, encode_first, prepared
from minibert.kernels.products import arithmetic
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.progress import Bar
from minibert.training.runs import NotFinite

EVALUATION_BATCH = 64


def encodings_of(dataset: Dataset, tokenizer: Tokenizer | None, max_length: int) -> list[Encoding]:
    """The tokens of every example of a data set.

    Raises
        CheckpointError  the model came without a vocabulary.
    """
    first = [example.first for example in dataset.examples]
    second = [example.second or "" for example in dataset.examples] if dataset.task.pair else None
    return required_tokenizer(tokenizer).encode(first, second, max_length)


def label_names_for(model: Bert, task: str | None) -> tuple[str, ...] | None:
    """The names that labels of such a task are read with: the model's, where the task has none.

    None leaves it to the task, or to the file where no task is named.
    """
    if model.head == "classification" and task in (None, "classify"):
        return tuple(model.config.id2label.values())
    return None


def labels_of(dataset: Dataset) -> Tensor:
    """The label of every example: class numbers as integers, scores as floats."""
    dtype = torch.float32 if dataset.task.regression else torch.int64
    return torch.tensor([example.label for example in dataset.examples], dtype=dtype)


def task_logits(
    batch: Batch,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """From tokens to logits [B, C]: encoder, pooler, classifier."""
    first_B1D = encode_first(
        batch.ids_BS, batch.keep_BS, batch.types_BS, weights, config, generator
    )
    return classifier_logits(first_B1D, weights, config, generator)


def classifier_logits(
    first_B1D: Tensor,
    weights: AnyWeights,
    config: BertConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """From the last states, of which only the first of each text counts, to logits [B, C]."""
    assert weights.pooler is not None
    assert weights.classifier is not None
    pooled_BD = pooled(first_B1D, weights.pooler)
    return sequence_logits(pooled_BD, weights.classifier, config.head_dropout, generator)


def check_readable(encodings: Sequence[Encoding], config: BertConfig) -> None:
    """Refuse texts that the model has no positions for, or pairs where it has one token type.

    Raises
        CheckpointError  a text has more tokens than the model has positions, or another type.
    """
    longest = max((len(one.ids) for one in encodings), default=0)
    positions = config.max_position_embeddings
    if longest > positions:
        raise CheckpointError(
            f"a text has {longest} tokens, but the model has only {positions} positions; cut texts "
            f"with --max-length {positions}"
        )
    if config.type_vocab_size < 1 + max((max(one.types) for one in encodings), default=0):
        raise CheckpointError("the model has one token type, so it reads no pairs of texts")


@torch.no_grad()
def all_logits(
    encodings: Sequence[Encoding],
    weights: BertWeights,
    config: BertConfig,
    dtype: torch.dtype = torch.float32,
    bar: Bar | None = None,
) -> Tensor:
    """The logits [n, C] of every input, in float32, in the order of the inputs.

    Inputs of similar length share a batch of `EVALUATION_BATCH`; `bar` advances after each.

    Raises
        CheckpointError  a text is too long for the model.
        NotFinite        a logit is infinite or not a number.
    """
    check_readable(encodings, config)
    device = weights.embeddings.word_VD.device
    ready = prepared(weights, dtype)
    logits_XC = torch.empty(len(encodings), config.num_labels)
    lengths = [len(encoding.ids) for encoding in encodings]
    for rows in sorted_order(lengths, EVALUATION_BATCH):
        batch = collate(encodings, rows, config.pad_token_id)
        logits_XC[rows] = task_logits(batch.to(device), ready, config).float().cpu()
        if bar is not None:
            bar.advance({})
    if not logits_XC.isfinite().all():
        raise NotFinite(
            f"the model's answers are not finite in {dtype}; its weights are too large: train it "
            "with a smaller --lr"
        )
    return logits_XC


def measured(task: Task, logits_XC: Tensor, labels_X: Tensor) -> dict[str, float]:
    """The metrics of a task, by scikit-learn and scipy.

    A correlation with a constant is not defined; it is reported as 0, as scikit-learn does for
    Matthews' coefficient.
    """
    labels = labels_X.double().numpy()  # scipy would sum float32 scores in float32
    answers = (logits_XC[:, 0] if task.regression else logits_XC.argmax(-1)).double().numpy()
    by_name = {
        "accuracy": scores.accuracy_score,
        "f1": lambda true, said: scores.f1_score(true, said, zero_division=0.0),
        "matthews_correlation": scores.matthews_corrcoef,
        "pearson": lambda true, said: _correlation(stats.pearsonr, true, said),
        "spearman": lambda true, said: _correlation(stats.spearmanr, true, said),
    }
    return {name: float(by_name[name](labels, answers)) for name in task.metrics}


def has_unnamed_labels(config: BertConfig) -> bool:
    """Whether the labels are called LABEL_0, LABEL_1, …, as by default."""
    names = (name.lower() for name in config.id2label.values())
    return all(name == f"label_{number}" for number, name in enumerate(names))


def task_answers(
    model: Bert, dataset: Dataset, max_length: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A model's logits [X, C] for every example of a data set.

    Raises
        CheckpointError  the model has no head for this task, or other labels: another number of
                         them or another order, or any number of them for one text.
    """
    task, config = dataset.task, model.config
    if model.weights.classifier is None or model.weights.pooler is None:
        raise CheckpointError(
            f"the model has the head {model.head!r}, but {task.name} needs a classifier; train one "
            "with minibert finetune"
        )
    wanted = 1 if task.regression else len(task.label_names)
    if config.num_labels != wanted:
        raise CheckpointError(
            f"the model has {config.num_labels} labels, but {task.name} needs {wanted}; fine-tune "
            "it on this data"
        )
    if config.problem_type == "multi_label_classification":
        raise CheckpointError(
            f"the model says yes or no to each label by itself, but {task.name} has one label per "
            "text; fine-tune it on this data"
        )
    names = [name.lower() for name in config.id2label.values()]
    expected = [name.lower() for name in task.label_names]
    unnamed = has_unnamed_labels(config) or all(map(str.isdigit, expected))
    if names != expected and not (unnamed or task.regression):
        raise CheckpointError(
            f"the model's labels are {', '.join(names)}, but those of {task.name} are "
            f"{', '.join(expected)}, in this order; evaluate a model of this task, or fix "
            "id2label in its config.json, if that is wrong"
        )
    encodings = encodings_of(dataset, model.tokenizer, max_length)
    with arithmetic(model.arithmetic):
        return all_logits(encodings, model.weights, config, dtype)


def evaluated(
    model: Bert, dataset: Dataset, max_length: int, dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """The metrics of a model on a data set.

    Raises
        CheckpointError  as `task_answers`.
    """
    logits_XC = task_answers(model, dataset, max_length, dtype)
    return measured(dataset.task, logits_XC, labels_of(dataset))


def _correlation(function, true, said) -> float:  # type: ignore[no-untyped-def]
    if len(true) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(function(true, said).statistic)
    return value if math.isfinite(value) else 0.0
