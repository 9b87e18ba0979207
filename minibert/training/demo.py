"""The demo: a teacher, a student that sees few labels, and the same student distilled.

The corpus comes from a grammar (`minibert/data/demo.py`), so nothing is downloaded. The teacher
learns from thousands of labels. The student gets 500 of them; when it is distilled, it gets the
teacher's answers to a pool of texts without labels instead.
"""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from minibert.config import BertConfig
from minibert.data.demo import demo_corpus, demo_vocabulary
from minibert.data.readers import TASKS, Dataset, Example
from minibert.data.tokenizer import Tokenizer
from minibert.model import Bert
from minibert.training.comparison import compared
from minibert.training.distil import DistilOptions, distil, learning_texts
from minibert.training.evaluation import evaluated
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions
from minibert.training.preflight import explained
from minibert.training.progress import Display
from minibert.training.record import record_of
from minibert.training.report import write_model_card, write_report
from minibert.training.students import new_student

MAX_LENGTH = 64
DEV_SIZE = 500
TASK = dataclasses.replace(TASKS["classify"], label_names=("negative", "positive"))


def demo_models(vocabulary_size: int) -> tuple[BertConfig, BertConfig]:
    """The sizes of teacher and student."""
    teacher = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.05,  # 0.02 suits a width of 768; from it, a run may never start
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ).with_labels(TASK.label_names)
    student = dataclasses.replace(
        teacher,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    return teacher, student


def write_table(path: Path, examples: tuple[Example, ...]) -> None:
    """Labelled sentences as a file that `minibert evaluate` reads."""
    rows = [f"{example.first}\t{TASK.label_names[int(example.label or 0)]}" for example in examples]
    path.write_text("sentence\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")


def run_demo(out: Path, seed: int, display: Display, device: str = "cpu") -> dict[str, Any]:
    """Train all three models and measure them on held-out sentences that none of them saw.

    The best epoch of each model is chosen on a dev set in the training grammar; the table is
    measured on the held-out set, whose templates, things and names are all new.
    """
    corpus = demo_corpus(seed)
    tokenizer = Tokenizer.from_vocabulary(demo_vocabulary())
    teacher_config, student_config = demo_models(len(tokenizer.pieces))
    dev_set = Dataset(Path("demo dev"), TASK, corpus.teacher_train[-DEV_SIZE:])
    teacher_set = Dataset(Path("demo"), TASK, corpus.teacher_train[:-DEV_SIZE])
    label_set = Dataset(Path("demo labels"), TASK, corpus.student_train)
    held_out = Dataset(out / "held_out.tsv", TASK, corpus.held_out)
    write_table(held_out.path, held_out.examples)

    display.say(f"1. a teacher learns from {len(teacher_set):,} labelled reviews")
    finetune(
        Bert.from_config(teacher_config, "classification", tokenizer, seed),
        teacher_set, dev_set, out / "teacher", TrainingOptions(epochs=6, lr=5e-4, seed=seed),
        32, MAX_LENGTH, display, device, "teacher",
    )  # fmt: skip
    teacher = Bert.from_pretrained(out / "teacher").to(device)

    display.say(f"2. a student learns from {len(label_set):,} labels alone")
    options = DistilOptions(
        intermediate=TrainingOptions(epochs=4, lr=3e-3, seed=seed),
        prediction=TrainingOptions(epochs=6, lr=1e-3, seed=seed),
        batch_size=32,
        max_length=MAX_LENGTH,
    )
    start = new_student(student_config, teacher.weights, seed)  # nothing of the teacher in it
    finetune(
        Bert(student_config, start._replace(fit_dense=None), "classification", tokenizer),
        label_set, dev_set, out / "labels", TrainingOptions(epochs=20, lr=1e-3, seed=seed),
        32, MAX_LENGTH, display, device, "labels",
    )  # fmt: skip

    texts = (*corpus.pool, *corpus.student_train)
    display.say(f"3. the same student learns from the teacher's answers to {len(texts):,} texts")
    for line in explained(student_config, teacher, options):
        display.say(line)
    read = learning_texts(texts, TASK, tokenizer, MAX_LENGTH)
    distil(teacher, student_config, read, dev_set, out, options, display, device)

    rows = compared(
        {
            "teacher": out / "teacher",
            f"student, {len(label_set)} labels alone": out / "labels",
            f"student, distilled on {len(texts):,} texts": out,
        },
        held_out,
        MAX_LENGTH,
        device=device,
    )
    result = {
        "task": "demo",
        "n": len(held_out),
        "metrics": rows[-1]["metrics"],
        "model": str(out),
        "models": rows,
        "next": shlex.join(["minibert", "predict", "--model", str(out), corpus.held_out[0].first]),
    }
    told = {
        "title": "The demo",
        "command": shlex.join(["minibert", "distill", "--seed", str(seed)]),
        "teacher": "a teacher of the demo's own",
        "teacher_dev": evaluated(teacher, dev_set, MAX_LENGTH),  # the table is of another set
    }
    student = Bert.from_pretrained(out).to(device)
    record = record_of(teacher, student, options, result, told, out)
    write_report(out, record)
    write_model_card(out, record)
    return result
