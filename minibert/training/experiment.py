"""A whole experiment: what the student reads, one run or one for each seed, and what came out."""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minibert.config import BertConfig
from minibert.data.tokenizer import Encoding
from minibert.distillation import layer_map
from minibert.model import Bert
from minibert.packed import size_of
from minibert.parameters import named_tensors
from minibert.training.answers import hash_of_model, hash_of_texts
from minibert.training.comparison import compared
from minibert.training.distil import DistilOptions, LearningTexts, distil, distil_generally
from minibert.training.estimate import estimated
from minibert.training.finetune import finetune
from minibert.training.ledger import Identity, add_result, answers_of, finished, read_results
from minibert.training.preflight import Pair
from minibert.training.progress import Display
from minibert.training.record import record_of, share_lines
from minibert.training.report import write_model_card, write_report
from minibert.training.runs import check_run, finish_run, open_run, seconds_so_far, with_hashes
from minibert.training.students import new_student


@dataclass(frozen=True)
class Run:
    """One seed of an experiment: its folder, its options, and how files record them."""

    seed: int
    folder: Path
    options: DistilOptions
    record: Mapping[str, Any]
    told: Mapping[str, Any]
    resume: bool
    overwrite: bool


def run_once(
    run: Run, pair: Pair, texts: LearningTexts, labels_too: bool, display: Display, device: str
) -> dict[str, Any]:
    """Distil one seed in its folder, or read the result of a run that is complete.

    Beside the student it leaves `report.html` and a model card.
    """
    # what augmentation read is not in `made_of`, but what it made is here
    read = hash_of_texts((one.ids, one.types) for one in texts.encodings)
    record = with_hashes(run.record, {"texts": read})
    with open_run(run.folder, record, run.resume, run.overwrite) as done:
        if done is None:
            for line in estimated(
                texts, pair.teacher, pair.student, run.folder, run.options, device
            ):
                display.say(line)
            before = seconds_so_far(run.folder)  # of a run that is resumed
            started = time.monotonic()
            done = distil_and_compare(
                pair, texts, labels_too, run.folder, run.options, display, device
            )
            done["seconds"] = round(before + time.monotonic() - started, 1)
            student = Bert.from_pretrained(run.folder)
            page = record_of(pair.teacher, student, run.options, done, run.told, run.folder)
            write_report(run.folder, page)
            write_model_card(run.folder, page)
            finish_run(run.folder, done)  # last: with it the run is complete
            for line in share_lines(run.folder):
                display.say(line)
    return done


def general_run(
    teacher: Bert,
    student: BertConfig,
    encodings: list[Encoding],
    folder: Path,
    options: DistilOptions,
    told: Mapping[str, Any],
    display: Display,
    device: str,
) -> dict[str, Any]:
    """General distillation in a folder that `open_run` has claimed, and its report."""
    texts = LearningTexts(encodings, torch.full((len(encodings),), float("nan")))
    for line in estimated(texts, teacher, student, folder, options, device, general=True):
        display.say(line)
    done = distil_generally(teacher, student, encodings, folder, options, display, device)
    record = record_of(
        teacher, Bert.from_pretrained(folder, "encoder"), options, done, told, folder
    )
    write_report(folder, record)
    finish_run(folder, done)
    for line in share_lines(folder):
        display.say(line)
    return done


def made_of(pair: Pair, options: DistilOptions) -> dict[str, str]:
    """Hashes of models and data: a folder of the same name may hold others by now."""
    found = {
        "teacher": hash_of_model(pair.teacher),
        "train": hash_of_texts(pair.train_set.examples),
        "dev": hash_of_texts(pair.dev_set.examples),
    }
    if options.start.folder is not None:
        found["init_student"] = hash_of_model(Bert.from_pretrained(options.start.folder, "encoder"))
    return found


def run_seeds(
    runs: list[Run],
    pair: Pair,
    texts: Callable[[], LearningTexts],
    path: Path,
    identity: Identity,
    display: Display,
    device: str,
) -> list[dict[str, Any]]:
    """Distil every seed that has no row in the results file yet, and add its row.

    Raises
        RunError         rows of this name belong to another recipe, to other models or data, or a
                         folder is in the way.
        CheckpointError  the results file is damaged.
    """
    rows, name = read_results(path), identity.name
    left = [run for run in runs if finished(rows, identity, run.seed) is None]
    for run in left:
        check_run(run.folder, run.record, run.resume, run.overwrite)
    learned = texts() if left else None
    for run in runs:
        if run not in left:
            again = "; to run it again, remove that row" if run.overwrite else ""
            display.say(f"{name}, seed {run.seed}: its result is in {path}{again}")
            continue
        assert learned is not None
        display.say(f"{name}, seed {run.seed}")
        done = run_once(run, pair, learned, False, display, device)
        student = Bert.from_pretrained(run.folder).to(device)
        row = {key: done[key] for key in ("task", "n", "metrics", "best_epoch", "steps", "seconds")}
        add_result(
            path,
            {"name": name, "seed": run.seed} | row | {
                "teacher": pair.teacher_metrics,
                **{key: done["models"][-1][key] for key in ("parameters", "bytes")},
                "sparse": size_of(dict(named_tensors(student.weights)))._asdict(),
                "recipe": dict(identity.recipe),
                "made_of": dict(identity.made_of),
                "answers": answers_of(student, pair.dev_set, run.options.max_length),
            },
            identity.defaults,
        )  # fmt: skip
    return [row for row in read_results(path) if row["name"] == name]


def distil_and_compare(
    pair: Pair,
    texts: LearningTexts,
    labels_too: bool,
    out: Path,
    options: DistilOptions,
    display: Display,
    device: str = "cpu",
) -> dict[str, Any]:
    """Distil, and train the same student on labels alone if that is wanted; measure all of them.

    Returns the student's metrics and a row for each model, as `minibert distill` prints them.
    """
    folder, teacher, _, student, train_set, dev_set = pair
    models: dict[str, Path] = {"teacher": folder}
    if labels_too:
        layers = layer_map(
            student.num_hidden_layers, teacher.config.num_hidden_layers, options.layers
        )
        own = new_student(student, teacher.weights, options.prediction.seed, options.start, layers)
        finetune(
            Bert(student, own._replace(fit_dense=None), teacher.head, teacher.tokenizer),
            train_set, dev_set, out / "labels", options.prediction, options.batch_size,
            options.max_length, display, device, "labels",
        )  # fmt: skip
        models["student, labels alone"] = out / "labels"
    result = distil(teacher, student, texts, dev_set, out, options, display, device)
    models["student, distilled"] = out
    rows = compared(models, dev_set, options.max_length, device)
    try_it = ["minibert", "predict", "--model", str(out), dev_set.examples[0].first]
    if train_set.task.pair:
        try_it[-1] += f"\t{dev_set.examples[0].second}"
        try_it.insert(-1, "--pair")
    return result | {"models": rows, "next": shlex.join(try_it)}
