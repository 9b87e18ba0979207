"""Fine-tuning: teach a pretrained model one task from labels."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from minibert.data.readers import Dataset, Task
from minibert.files import read_config
from minibert.hub import model_folder
from minibert.model import Bert
from minibert.parameters import BertWeights
from minibert.training.comparison import n_parameters
from minibert.training.evaluation import (
    all_logits,
    check_readable,
    encodings_of,
    labels_of,
    measured,
)
from minibert.training.loop import TrainingOptions, train
from minibert.training.objectives import LabelObjective
from minibert.training.progress import Display
from minibert.training.sparse import (
    as_kept,
    lost_zeros_warning,
    sparsity_sentence,
    trainable_for,
    zeros_of,
)


def starting_model(name: str, task: Task, seed: int, display: Display) -> Bert:
    """The model to fine-tune: with its own head, if that has the labels of the task, or a new one.

    Raises
        CheckpointError  there is no such model, or it is damaged.
    """
    folder = model_folder(name)
    config = read_config(folder)
    head = "regression" if task.regression else "classification"
    labels = task.label_names or ("score",)
    own = tuple(config.id2label.values())
    fitting = len(own) == 1 if task.regression else own == labels
    fitting &= config.problem_type != "multi_label_classification"  # which answers each by itself
    if "BertForSequenceClassification" in config.architectures and fitting:
        display.say(f"{name} has a head for {', '.join(own)}: it is trained further")
        return Bert.from_pretrained(folder, head)
    display.say(f"a new head for {', '.join(labels)} is drawn from seed {seed}")
    return Bert.from_pretrained(folder, new_head=head, labels=labels, seed=seed)


def finetune(
    model: Bert,
    train_set: Dataset,
    dev_set: Dataset,
    out: Path,
    options: TrainingOptions,
    batch_size: int,
    max_length: int,
    display: Display,
    device: str = "cpu",
    phase: str = "finetune",
) -> dict[str, Any]:
    """Train on the labels of `train_set`; the best model on `dev_set` is saved to `out`.

    Returns the metrics of that model, and the epoch that made it.
    """
    encodings = encodings_of(train_set, model.tokenizer, max_length)
    dev_encodings = encodings_of(dev_set, model.tokenizer, max_length)
    check_readable(dev_encodings, model.config)
    dev_labels_X = labels_of(dev_set)
    objective = LabelObjective(
        encodings,
        batch_size,
        options.seed,
        model.config.pad_token_id,
        torch.device(device),
        model.config,
        labels_of(train_set),
    )

    def evaluate(weights: BertWeights) -> dict[str, float]:
        logits_XC = all_logits(dev_encodings, weights, model.config)
        return measured(dev_set.task, logits_XC, dev_labels_X)

    def keep(weights: BertWeights) -> None:
        kept, config = as_kept(weights, model.config, options.sparsity)
        dataclasses.replace(model, weights=kept, config=config).save_pretrained(out)

    if warning := lost_zeros_warning(model.weights, options.sparsity):
        display.say(warning)
    total = options.total(len(objective.order(0)))
    progress = train(
        objective,
        trainable_for(model.weights, device, options.sparsity, total, model.config),
        options,
        out,
        phase,
        display,
        evaluate,
        train_set.task.select_by,
        keep,
    )
    best = Bert.from_pretrained(out)
    if options.sparsity is not None:
        display.say(sparsity_sentence(best.weights, best.config))
    return {
        "task": train_set.task.name,
        "n": len(dev_set),
        "metrics": progress.best_metrics,
        "best_epoch": progress.best_epoch,
        "parameters": n_parameters(best.weights),
        "zeros": zeros_of(best.weights)[0],
        "model": str(out),
    }
