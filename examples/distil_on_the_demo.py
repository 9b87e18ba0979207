"""Distil a teacher into a student, with every loss in sight.

    python examples/distil_on_the_demo.py

A 2-layer teacher learns the demo's reviews from 3,000 labels, then a student half as wide learns
from the teacher: first its states and attention scores, then its answers. Small and quick, made to
be read; `minibert distill` is the whole demo.
"""

import dataclasses
import tempfile
from pathlib import Path

from minibert import Bert, BertConfig
from minibert.data.demo import demo_corpus, demo_vocabulary
from minibert.data.readers import TASKS, Dataset
from minibert.data.tokenizer import Tokenizer
from minibert.training.distil import DistilOptions, distil, learning_texts
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions
from minibert.training.preflight import losses_that_apply
from minibert.training.progress import Display

corpus = demo_corpus()
tokenizer = Tokenizer.from_vocabulary(demo_vocabulary())
task = dataclasses.replace(TASKS["classify"], label_names=("negative", "positive"))
train_set = Dataset(Path("train"), task, corpus.teacher_train[:3000])
dev_set = Dataset(Path("dev"), task, corpus.teacher_train[-300:])
teacher_config = BertConfig(
    vocab_size=len(tokenizer.pieces), hidden_size=96, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=384, max_position_embeddings=64, hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
).with_labels(task.label_names)  # fmt: skip
student_config = dataclasses.replace(
    teacher_config, hidden_size=48, num_attention_heads=2, intermediate_size=192
)

with tempfile.TemporaryDirectory() as scratch:
    out, display = Path(scratch), Display(quiet=True)
    teacher = Bert.from_config(teacher_config, "classification", tokenizer)
    learned = finetune(
        teacher, train_set, dev_set, out / "teacher", TrainingOptions(epochs=2, lr=2e-3), 64, 64,
        display,
    )  # fmt: skip
    teacher = Bert.from_pretrained(out / "teacher")
    options = DistilOptions(
        intermediate=TrainingOptions(epochs=1, lr=3e-3),
        prediction=TrainingOptions(epochs=1, lr=2e-3),
        batch_size=64,
        max_length=64,
    )
    print("loss         use        how this pair is compared")
    for name, use, why in losses_that_apply(student_config, teacher_config, options):
        print(f"{name:<12} {use:<10} {why}")
    texts = learning_texts(train_set.examples, task, tokenizer, 64)
    distil(teacher, student_config, texts, dev_set, out / "student", options, display)
    print("\nwhat metrics.jsonl recorded:")
    print((out / "student" / "metrics.jsonl").read_text(encoding="utf-8"))
    student = Bert.from_pretrained(out / "student")
    texts = ["the plot was not bad at all .", "nobody would say that the plot was good ."]
    for text, said, taught in zip(
        texts, student.classify(texts), teacher.classify(texts), strict=True
    ):
        print(f"teacher: {taught.label:<9} student: {said.label:<9} {text}")
