"""Distillation from end to end, with a teacher that was really trained, in a second or two."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_training import Watched, files_in, room_for, stop_after

from minibert.config import CheckpointError
from minibert.data.readers import TASKS, DataError, Dataset, Example
from minibert.distillation import TermWeights
from minibert.laws.measure import distance
from minibert.model import Bert
from minibert.parameters import flatten, named_tensors
from minibert.training.answers import teacher_answers
from minibert.training.comparison import comparison_lines
from minibert.training.distil import DistilOptions, distil, learning_texts
from minibert.training.evaluation import all_logits, encodings_of, evaluated
from minibert.training.experiment import distil_and_compare
from minibert.training.finetune import finetune
from minibert.training.loop import Interrupted, TrainingOptions
from minibert.training.objectives import ComputedStates, IntermediateObjective
from minibert.training.preflight import check_teacher, checked_pair, losses_that_apply
from minibert.training.students import new_student, student_config

EPS_32 = 2.0**-23

MAX_LENGTH = 20
OPTIONS = DistilOptions(
    intermediate=TrainingOptions(epochs=1, lr=5e-3, seed=1),
    prediction=TrainingOptions(epochs=2, lr=2e-2, seed=1),
    batch_size=16,
    max_length=MAX_LENGTH,
)
LONGER = dataclasses.replace(
    OPTIONS,
    intermediate=dataclasses.replace(OPTIONS.intermediate, epochs=2),
    prediction=dataclasses.replace(OPTIONS.prediction, epochs=8),
)
SHAPE = "2x12x3x20"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Bert:
    """Four layers, 24 wide, 6 heads, with dropout, trained until it is nearly always right."""
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny.classifier(hidden_size=24, num_attention_heads=6, num_hidden_layers=4)
    options = TrainingOptions(epochs=6, lr=1e-2)
    finetune(
        model, tiny.dataset(200, 1), tiny.dataset(40, 2), folder, options, 16, MAX_LENGTH, Watched()
    )
    return Bert.from_pretrained(folder)


@pytest.fixture(scope="module")
def teacher_folder(teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "teacher"
    teacher.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"), n_train=64, n_dev=40)


def run(teacher, out, options=OPTIONS, shape=SHAPE, display=None, texts=64):
    student = student_config(shape, teacher.config)
    rows = tuple(e._replace(label=None) for e in tiny.examples(texts, 1))
    read = learning_texts(rows, tiny.CLASSIFY, teacher.tokenizer, MAX_LENGTH)
    return distil(teacher, student, read, tiny.dataset(40, 2), out, options, display or Watched())


def test_a_dev_text_that_is_too_long_is_told_before_the_first_step(teacher, tmp_path):
    student = dataclasses.replace(student_config(SHAPE, teacher.config), max_position_embeddings=4)
    rows = tuple(e for e in tiny.examples(64, 1) if len(e.first.split()) <= 2)
    read = learning_texts(rows, tiny.CLASSIFY, teacher.tokenizer, MAX_LENGTH)
    dev_set = tiny.dataset(40, 2)
    with pytest.raises(CheckpointError, match=r"^a text has \d+ tokens, but the model has only 4"):
        distil(teacher, student, read, dev_set, tmp_path, OPTIONS, Watched())
    assert list(tmp_path.iterdir()) == []


def cached(folder: Path) -> torch.Tensor:
    (path,) = folder.glob("answers-*.safetensors")
    return load_file(path)["logits"]


def pair(teacher_folder, data, task=None, shape=SHAPE, limit=None, options=OPTIONS):
    paths = (data / "train.tsv", data / "dev.tsv")
    return checked_pair(str(teacher_folder), *paths, task, shape, limit, options, Watched())


def whole(teacher_folder, data, out, display=None, labels_too=True, options=OPTIONS, limit=None):
    """From files to a student and its comparison, as `minibert distill` does it."""
    checked = pair(teacher_folder, data, limit=limit, options=options)
    read = learning_texts(
        checked.train_set.examples, checked.train_set.task, checked.teacher.tokenizer, MAX_LENGTH
    )
    return distil_and_compare(checked, read, labels_too, out, options, display or Watched())


# --- The teacher -----------------------------------------------------------------------------


def test_the_teacher_never_changes(teacher, tmp_path):
    before = {name: t.clone() for name, t in named_tensors(teacher.weights)}
    run(teacher, tmp_path)
    for name, tensor in named_tensors(teacher.weights):
        assert torch.equal(tensor, before[name]), name
        assert not tensor.requires_grad
        assert tensor.grad is None


def test_the_teachers_folder_never_changes(teacher_folder, data, tmp_path):
    before = files_in(teacher_folder)
    whole(teacher_folder, data, tmp_path, limit=32)
    assert files_in(teacher_folder) == before


def test_the_cached_answers_are_those_of_evaluation(teacher, tmp_path):
    """With dropout at work, which its config asks for, they would be others."""
    assert teacher.config.hidden_dropout_prob > 0
    run(teacher, tmp_path)
    answers = cached(tmp_path)
    encodings = encodings_of(tiny.dataset(64, 1), teacher.tokenizer, MAX_LENGTH)
    expected = all_logits(encodings, teacher.weights, teacher.config)
    assert torch.equal(answers, expected)
    alone = torch.stack([teacher.logits([e.first])[0] for e in tiny.examples(64, 1)])
    assert distance(answers, alone) <= 200 * EPS_32, "and those of the model itself, text by text"


def test_answers_are_computed_once(teacher, tmp_path, monkeypatch):
    encodings = encodings_of(tiny.dataset(9, 1), teacher.tokenizer, MAX_LENGTH)

    def answers(texts=encodings, model=teacher, dtype=torch.float32):
        return teacher_answers(tmp_path / "a", texts, model, dtype, Watched())

    first = answers()
    with monkeypatch.context() as patch:
        patch.setattr("minibert.training.answers.all_logits", lambda *a: pytest.fail("again"))
        assert torch.equal(answers(), first)
    assert distance(answers(encodings[:5]), first[:5]) <= 200 * EPS_32, "other texts"
    assert distance(answers(encodings[::-1]), first.flip(0)) <= 200 * EPS_32, "another order"
    other = answers(model=tiny.classifier(hidden_size=24))
    assert not torch.equal(other, first), "another teacher"
    assert not torch.equal(answers(dtype=torch.bfloat16), first), "another precision"
    assert len(list((tmp_path / "a").iterdir())) == 5
    assert torch.equal(answers(), first)


def test_a_damaged_file_of_answers_is_refused(teacher, tmp_path):
    encodings = encodings_of(tiny.dataset(9, 1), teacher.tokenizer, MAX_LENGTH)
    teacher_answers(tmp_path, encodings, teacher, torch.float32, Watched())
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"answers-\w+\.safetensors is damaged .*; delete it"):
        teacher_answers(tmp_path, encodings, teacher, torch.float32, Watched())


def test_a_full_disk_while_answers_are_cached_is_an_error_of_the_disk(teacher, tmp_path):
    encodings = encodings_of(tiny.dataset(64, 1), teacher.tokenizer, MAX_LENGTH)
    with room_for(100), pytest.raises(OSError, match=r"answers-\w+\.safetensors cannot be written"):
        teacher_answers(tmp_path, encodings, teacher, torch.float32, Watched())
    assert list(tmp_path.iterdir()) == []


def intermediate(teacher, student_weights, student_config, mode="masked") -> IntermediateObjective:
    encodings = encodings_of(tiny.dataset(6, 1), teacher.tokenizer, MAX_LENGTH)
    layers = tuple(range(1, student_config.num_hidden_layers + 1))
    return IntermediateObjective(
        encodings, 6, 0, 0, torch.device("cpu"), student_config,
        ComputedStates(teacher.weights, teacher.config), layers, TermWeights(), mode,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["masked", "tinybert"])
def test_the_teacher_has_no_dropout_while_the_student_has(teacher, mode):
    """A student with the teacher's own weights, and no dropout, is exactly as good; else it is not.

    If the teacher ran with its dropout of 0.2, the first three terms could not be zero.
    """
    generator = torch.Generator().manual_seed(0)
    still = dataclasses.replace(
        teacher.config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    objective = intermediate(teacher, teacher.weights, still, mode)
    terms = objective.terms(range(6), teacher.weights, generator)
    assert {name: float(term) for name, term in terms.items()} == {
        "loss": 0.0, "embedding": 0.0, "hidden": 0.0, "attention": 0.0,
    }  # fmt: skip
    objective = intermediate(teacher, teacher.weights, teacher.config, mode)
    terms = objective.terms(range(6), teacher.weights, generator)
    assert all(float(term) > 1e-3 for term in terms.values())


def test_an_untrained_head_is_noticed(teacher):
    untrained = dataclasses.replace(
        teacher, weights=tiny.classifier(hidden_size=24, num_hidden_layers=4,
                                         num_attention_heads=6, initializer_range=0.01).weights
    )  # fmt: skip
    dev = tiny.dataset(40, 2)
    with pytest.raises(CheckpointError, match=r"0.500, .* untrained, .* order; run minibert"):
        check_teacher(untrained, dev.task, dev, MAX_LENGTH)
    assert check_teacher(teacher, dev.task, dev, MAX_LENGTH)["accuracy"] > 0.9
    alike = dataclasses.replace(dev, examples=[e for e in dev.examples if int(e.label) == 1])
    with pytest.raises(DataError, match="every row has the same label, so a constant answer is"):
        check_teacher(teacher, dev.task, alike, MAX_LENGTH)
    several = dataclasses.replace(teacher.config, problem_type="multi_label_classification")
    with pytest.raises(CheckpointError, match="yes or no to each label by itself, but classify"):
        check_teacher(dataclasses.replace(teacher, config=several), dev.task, dev, MAX_LENGTH)


def test_a_constant_answer_is_noticed_whatever_the_metric(teacher):
    """With two thirds of the labels 1, the f1 of saying 1 to everything is 0.8."""
    rows = tuple(row for row in tiny.dataset(60, 7).examples if row.label == 1)
    rows += tuple(row for row in tiny.dataset(30, 8).examples if row.label == 0)
    task = dataclasses.replace(TASKS["mrpc"], label_names=("blame", "praise"))
    dev = Dataset(Path("dev.tsv"), task, rows)
    classifier = teacher.weights.classifier
    always = classifier._replace(
        weight_OI=torch.zeros_like(classifier.weight_OI), bias_O=torch.tensor([0.0, 1.0])
    )
    constant = dataclasses.replace(teacher, weights=teacher.weights._replace(classifier=always))
    with pytest.raises(CheckpointError, match=r"f1 on dev.tsv is 0.800, but .* reaches 0.800"):
        check_teacher(constant, task, dev, MAX_LENGTH)
    assert check_teacher(teacher, task, dev, MAX_LENGTH)["f1"] > 0.9


def with_labels(model: Bert, *names: str) -> Bert:
    return dataclasses.replace(model, config=model.config.with_labels(names, None))


def test_labels_in_another_order_are_refused(teacher):
    dev = tiny.dataset(40, 2)
    with pytest.raises(CheckpointError, match=r"labels are praise, blame, .* blame, praise"):
        check_teacher(with_labels(teacher, "praise", "blame"), dev.task, dev, MAX_LENGTH)
    with pytest.raises(CheckpointError, match=r"labels are cat, dog, but .* blame, praise"):
        check_teacher(with_labels(teacher, "cat", "dog"), dev.task, dev, MAX_LENGTH)
    with pytest.raises(CheckpointError, match="has 3 labels, but classify needs 2"):
        check_teacher(with_labels(teacher, "a", "b", "c"), dev.task, dev, MAX_LENGTH)
    generic = with_labels(teacher, "LABEL_0", "LABEL_1")
    assert check_teacher(generic, dev.task, dev, MAX_LENGTH)["accuracy"] > 0.9


def test_how_labels_without_names_are_taken_is_told(teacher, tmp_path, monkeypatch):
    with_labels(teacher, "LABEL_0", "LABEL_1").save_pretrained(tmp_path / "teacher")
    rows = "".join(f"{one.first}\t{one.label}\n" for one in tiny.examples(40, 2))
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + rows, encoding="utf-8")
    shutil.copy(tmp_path / "train.tsv", tmp_path / "dev.tsv")
    said: list[str] = []
    monkeypatch.setattr(Watched, "say", lambda self, text: said.append(text))
    pair(tmp_path / "teacher", tmp_path, "sst2")
    assert said[-1] == (
        "the teacher's labels have no names; they are taken as 0 negative  1 positive"
    )


def test_the_order_of_the_files_names_does_not_matter(teacher, teacher_folder, data, tmp_path):
    """Labels are matched to the teacher's by name, so a swapped teacher gives a swapped student."""
    folder = tmp_path / "swapped"
    head = teacher.weights.classifier
    turned = head._replace(weight_OI=head.weight_OI.flip(0), bias_O=head.bias_O.flip(0))
    swapped = with_labels(teacher, "praise", "blame")
    weights = teacher.weights._replace(classifier=turned)
    dataclasses.replace(swapped, weights=weights).save_pretrained(folder)
    accuracies = [
        whole(name, data, tmp_path / f"out{number}", None, False, LONGER)["metrics"]["accuracy"]
        for number, name in enumerate((teacher_folder, folder))
    ]
    assert min(accuracies) > 0.85
    predicted = Bert.from_pretrained(tmp_path / "out1").classify(["good great lovely", "bad awful"])
    assert [one.label for one in predicted] == ["praise", "blame"]


# --- What fits, and what does not ------------------------------------------------------------


def table(teacher, shape=SHAPE, **changes):
    options = dataclasses.replace(OPTIONS, **changes)
    return losses_that_apply(student_config(shape, teacher.config), teacher.config, options)


def test_every_loss_is_listed_with_its_reason(teacher):
    rows = {name: (use, why) for name, use, why in table(teacher)}
    assert list(rows) == ["embedding", "hidden", "attention", "prediction"]
    assert "12 wide, the teacher 24" in rows["embedding"][1]
    assert rows["hidden"][1] == "layers 1 ← 2, 2 ← 4"
    means = "each learns a mean: 1 ← 1–2, 2 ← 3–4, 3 ← 5–6"
    assert rows["attention"] == ("weight 1", f"3 heads, the teacher 6; {means}")
    off = table(teacher, term_weights=TermWeights(hidden=0, attention=0.5))
    assert [use for _, use, _ in off[:3]] == ["weight 1", "off", "weight 0.5"]


def test_head_counts_that_do_not_divide_name_the_legal_ones(teacher):
    with pytest.raises(CheckpointError, match=r"4 student heads .* 6 .* one of \[1, 2, 3, 6\]"):
        table(teacher, "2x12x4")
    assert table(teacher, "2x12x4", term_weights=TermWeights(attention=0))[2][1] == "off"
    for heads in (1, 2, 3, 6):
        assert len(table(teacher, f"2x12x{heads}")) == 4


def test_head_counts_need_not_divide_where_no_scores_are_compared(teacher):
    skipped = dataclasses.replace(OPTIONS.intermediate, epochs=0)
    rows = table(teacher, "2x12x4", intermediate=skipped)
    assert rows[2] == ("attention", "off", "4 heads, the teacher 6")


@pytest.mark.parametrize(
    ("layers", "path"),
    [
        ("uniform", "1 ← 2, 2 ← 4"),
        ("top", "1 ← 3, 2 ← 4"),
        ("bottom", "1 ← 1, 2 ← 2"),
        ((1, 4), "1 ← 1, 2 ← 4"),
        ((3, 3), "1 ← 3, 2 ← 3"),
    ],
)
def test_the_layer_map_is_what_was_asked_for(layers, path, teacher, tmp_path):
    assert table(teacher, layers=layers)[1][2] == f"layers {path}"
    seen = []

    class Seen(IntermediateObjective):
        def terms(self, *arguments):
            seen.append(self.layers)
            return super().terms(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minibert.training.distil.IntermediateObjective", Seen)
        run(teacher, tmp_path, dataclasses.replace(OPTIONS, layers=layers), texts=16)
    wanted = tuple(int(part.split(" ← ")[1]) for part in path.split(", "))
    assert set(seen) == {wanted}


@pytest.mark.parametrize("layers", [(1,), (1, 2, 3), (0, 1), (1, 5), "middle"])
def test_a_layer_map_that_cannot_be_is_refused(layers, teacher):
    with pytest.raises(CheckpointError, match="layer_map"):
        table(teacher, layers=layers)
    with pytest.raises(CheckpointError, match="layer_map"):
        table(teacher, "5x12x3", layers="top")


# --- The student -----------------------------------------------------------------------------


def test_the_student_learns_from_answers_alone(teacher, tmp_path):
    """No label is shown to it, and it comes near its teacher on sentences that are new to both."""
    result = run(teacher, tmp_path, LONGER, texts=200)
    new = tiny.dataset(200, 88)
    student = Bert.from_pretrained(tmp_path)
    quality = evaluated(student, new, MAX_LENGTH)["accuracy"]
    assert quality > evaluated(teacher, new, MAX_LENGTH)["accuracy"] - 0.1
    assert result["metrics"] == evaluated(student, tiny.dataset(40, 2), MAX_LENGTH)
    assert result["task"] == "classify"
    assert result["n"] == 40
    assert 1 <= result["best_epoch"] <= 8


def test_the_first_stage_brings_the_student_near(teacher, tmp_path):
    """Its losses fall, each of them, and the second stage starts from where it ended."""
    longer = dataclasses.replace(OPTIONS.intermediate, epochs=6, lr=2e-2)
    run(teacher, tmp_path, dataclasses.replace(OPTIONS, intermediate=longer))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows.pop(0)["phase"] == "states"
    assert [row["phase"] for row in rows] == ["intermediate"] * 6 + ["prediction"] * 2
    for name in ("loss", "embedding", "hidden", "attention"):
        assert rows[5]["train"][name] < 0.9 * rows[0]["train"][name], name
    assert "dev" not in rows[5]
    assert rows[6]["train"].keys() == {"loss"}
    assert rows[6]["dev"].keys() == {"accuracy"}


def test_labels_alone_need_no_answers(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("minibert.training.distil.teacher_answers", lambda *a: pytest.fail("asked"))
    labels_alone = OPTIONS.term_weights._replace(prediction=0.0, label=1.0)
    stage = dataclasses.replace(OPTIONS.intermediate, epochs=0)
    options = dataclasses.replace(OPTIONS, term_weights=labels_alone, intermediate=stage)
    student = student_config(SHAPE, teacher.config)
    read = learning_texts(tiny.examples(64, 1), tiny.CLASSIFY, teacher.tokenizer, MAX_LENGTH)
    dev_set = tiny.dataset(40, 2)
    result = distil(teacher, student, read, dev_set, tmp_path, options, Watched())
    assert result["steps"].keys() == {"prediction"}


def test_the_comparison_has_every_metric():
    same = {"parameters": 10, "bytes": 40, "sentences_per_second": 5.0}
    rows = [
        {"name": "teacher", "metrics": {"f1": 0.875, "accuracy": 0.75}, **same},
        {"name": "student", "metrics": {"f1": 0.5, "accuracy": 0.25}, **same},
    ]
    head, *lines = (line.split() for line in comparison_lines(rows))
    assert head[:2] == ["f1", "accuracy"]
    assert [line[:3] for line in lines] == [
        ["teacher", "0.8750", "0.7500"], ["student", "0.5000", "0.2500"],
    ]  # fmt: skip


def test_without_the_first_stage(teacher, tmp_path):
    none = dataclasses.replace(OPTIONS.intermediate, epochs=0)
    run(teacher, tmp_path, dataclasses.replace(OPTIONS, intermediate=none))
    assert not (tmp_path / "intermediate.state.safetensors").exists()
    assert all(use == "off" for _, use, _ in table(teacher, intermediate=none)[:3])


def test_the_saved_student_is_a_plain_bert(teacher, tmp_path):
    """The projection has done its work, and loading is strict: nothing more, nothing less."""
    run(teacher, tmp_path)
    start = new_student(student_config(SHAPE, teacher.config), teacher.weights, 1)
    assert start.fit_dense is not None
    keys = load_file(tmp_path / "model.safetensors")
    assert not [key for key in keys if "fit" in key]
    student = Bert.from_pretrained(tmp_path)
    assert student.head == "classification"
    assert not student.report.faults
    assert (student.config.hidden_size, student.config.num_hidden_layers) == (12, 2)
    assert student.config.id2label == teacher.config.id2label
    assert student.tokenizer is not None
    assert student.tokenizer.pieces == teacher.tokenizer.pieces


def test_transformers_opens_the_student(teacher, tmp_path):
    transformers = pytest.importorskip("transformers")
    run(teacher, tmp_path)
    student = Bert.from_pretrained(tmp_path)
    theirs, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys"))
    texts = [example.first for example in tiny.examples(12, 5)]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = theirs.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    # two layers of a dozen float32 operations each, on numbers of about 10
    assert distance(student.logits(texts), logits) <= 500 * EPS_32, "logits"
    assert theirs.config.id2label == {0: "blame", 1: "praise"}


def test_a_teacher_of_scores(tmp_path):
    """Regression: the student learns the teacher's scores, not classes.

    Both learn in bfloat16, and are measured in float32, in which they are saved.
    """
    task = dataclasses.replace(TASKS["regress"])
    rows = tuple(
        Example(e.first, None, float(sum(w in tiny.GOOD for w in e.first.split())))
        for e in tiny.examples(200, 1)
    )
    config = tiny.config().with_labels(("score",), "regression")
    model = Bert.from_config(config, "regression", tiny.tokenizer())
    train_set, dev_set = Dataset(Path("t"), task, rows[:160]), Dataset(Path("d"), task, rows[160:])
    learning = TrainingOptions(epochs=6, lr=2e-2, dtype=torch.bfloat16)
    taught = finetune(
        model, train_set, dev_set, tmp_path / "teacher", learning, 16, MAX_LENGTH, Watched()
    )
    teacher = Bert.from_pretrained(tmp_path / "teacher")
    assert taught["metrics"] == evaluated(teacher, dev_set, MAX_LENGTH)
    assert check_teacher(teacher, task, dev_set, MAX_LENGTH)["pearson"] > 0.8
    student = student_config("1x12x3", teacher.config)
    texts = learning_texts(rows[:160], task, teacher.tokenizer, MAX_LENGTH)
    stages = {
        name: dataclasses.replace(getattr(OPTIONS, name), dtype=torch.bfloat16)
        for name in ("intermediate", "prediction")
    }
    options = dataclasses.replace(OPTIONS, **stages)
    result = distil(teacher, student, texts, dev_set, tmp_path / "out", options, Watched())
    assert result["metrics"]["pearson"] > 0.5
    learned = Bert.from_pretrained(tmp_path / "out")
    assert learned.head == "regression"
    assert result["metrics"] == evaluated(learned, dev_set, MAX_LENGTH)


# --- Files in, a student out -----------------------------------------------------------------


def test_the_comparison_has_a_row_for_each_model(teacher_folder, data, tmp_path):
    result = whole(teacher_folder, data, tmp_path)
    teacher, labels, distilled = result["models"]
    assert [row["name"] for row in result["models"]] == [
        "teacher", "student, labels alone", "student, distilled",
    ]  # fmt: skip
    assert distilled["metrics"] == result["metrics"]
    for row, folder in ((teacher, teacher_folder), (labels, tmp_path / "labels")):
        model = Bert.from_pretrained(folder)
        assert row["parameters"] == len(flatten(model.weights))
        assert row["sentences_per_second"] > 0
    assert labels["parameters"] == distilled["parameters"] < teacher["parameters"] / 4
    assert json.loads(json.dumps(result)) == result, "and it is plain JSON"
    assert str(tmp_path) in result["next"]


def test_the_size_on_disk_is_that_of_the_model(teacher_folder, data, tmp_path):
    """And not that of the states and answers which lie beside it while the run goes on."""
    result = whole(teacher_folder, data, tmp_path)
    folders = (teacher_folder, tmp_path / "labels", tmp_path)
    for row, folder in zip(result["models"], folders, strict=True):
        assert row["bytes"] == (folder / "model.safetensors").stat().st_size, row["name"]


def test_the_number_of_rows_can_be_limited(teacher_folder, data, tmp_path):
    whole(teacher_folder, data, tmp_path, limit=20, labels_too=False)
    assert cached(tmp_path).shape == (20, 2)
    assert not (tmp_path / "labels").exists()


@pytest.fixture(scope="module")
def uninterrupted(teacher_folder, data, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    whole(teacher_folder, data, folder)
    return files_in(folder)


@pytest.mark.parametrize(
    ("phase", "step"), [("labels", 3), ("intermediate", 2), ("intermediate", 4), ("prediction", 5)]
)
def test_stopped_in_any_stage_and_resumed_equals_uninterrupted(
    phase, step, teacher_folder, data, tmp_path, uninterrupted
):
    class InPhase(Watched):
        def phase(self, name, total, done=0):
            self.after = stop_after(step) if name == phase else lambda step: None
            return super().phase(name, total, done)

    with pytest.raises(Interrupted):
        whole(teacher_folder, data, tmp_path, InPhase())
    whole(teacher_folder, data, tmp_path)
    stopped, straight = files_in(tmp_path), uninterrupted
    assert stopped.keys() == straight.keys()
    for name in stopped:
        if name.endswith("metrics.jsonl"):
            rows = [
                [json.loads(row) | {"seconds": 0, "parts": {}} for row in found[name].splitlines()]
                for found in (stopped, straight)
            ]
            assert rows[0] == rows[1], name
        else:
            assert stopped[name] == straight[name], name
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_does_not_fit_is_refused_beforehand(teacher, teacher_folder, data, tmp_path):
    bottom = dataclasses.replace(OPTIONS, layers="bottom")
    long = dataclasses.replace(OPTIONS, max_length=64)
    for changes, error, said in (
        ({"shape": "2x12x4"}, CheckpointError, r"one of \[1, 2, 3, 6\]"),
        ({"shape": "9x12x3", "options": bottom}, CheckpointError, "student layers"),
        ({"task": "stsb"}, DataError, "train.tsv"),
        ({"task": "mrpc"}, DataError, "two sentences"),
        ({"task": "sst2"}, DataError, "line 2: the label is 'blame', but the classes are"),
    ):
        with pytest.raises(error, match=said):
            pair(teacher_folder, data, **changes)
    for name in ("train.tsv", "dev.tsv"):
        tiny.write_table(tmp_path / name, tiny.examples(4, 1), names=("0", "1"))
    with pytest.raises(CheckpointError, match="labels are blame, praise, but those of"):
        pair(teacher_folder, tmp_path, task="sst2")
    tiny.write_table(tmp_path / "dev.tsv", (Example("a " * 40, None, 0),) * 3)
    with pytest.raises(CheckpointError, match=r"a text has 42 tokens, .* only 20 positions"):
        pair(teacher_folder, tmp_path, options=long)
    with pytest.raises(CheckpointError, match="no folder"):
        pair(tmp_path / "nowhere", data)
    with pytest.raises(DataError, match="No such file"):
        pair(teacher_folder, tmp_path / "nowhere")
    encoder = tmp_path / "encoder"
    Bert.from_config(tiny.config(), "encoder", tiny.tokenizer()).save_pretrained(encoder)
    with pytest.raises(CheckpointError, match=r"has the head 'encoder', but .* needs a classifier"):
        pair(encoder, data, shape="1x12x3")
    dumb = tmp_path / "dumb"
    dataclasses.replace(teacher, tokenizer=None).save_pretrained(dumb)
    with pytest.raises(CheckpointError, match="no vocabulary"):
        pair(dumb, data)
