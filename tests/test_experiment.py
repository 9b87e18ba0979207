"""Recipes, seeds and results through the command line, on models that train in moments."""

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest
import tiny
from command import ROOT, documented, shape_of

from minibert import cli
from minibert.data.tokenizer import Tokenizer
from minibert.model import Bert
from minibert.training.curves import loss_curves
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions
from minibert.training.progress import Display
from minibert.training.runs import save_state

RECIPES = ROOT / "examples" / "recipes"
FAST = (
    "epochs = 2\nbatch_size = 8\nlr = 0.02\nmax_length = 20\nintermediate_epochs = 1\n"
    'student = "1x12x3"\n'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`data`, a `teacher` that learned it, a `corpus`, and a recipe for a tiny student."""
    folder = tmp_path_factory.mktemp("experiment")
    tiny.write_data(folder / "data", n_train=30, n_dev=16)
    finetune(
        tiny.classifier(), tiny.dataset(200, 1), tiny.dataset(40, 2), folder / "teacher",
        TrainingOptions(epochs=6, lr=2e-2), 16, 20, Display(quiet=True),
    )  # fmt: skip
    (folder / "teacher" / "finetune.state.safetensors").unlink()
    (folder / "first.toml").write_text(FAST)
    lines = [example.first for example in tiny.examples(40, 5)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def line(folder: Path, more: str = "", recipe: str = "first") -> str:
    return (
        f"distill --recipe {folder}/{recipe}.toml --teacher {folder}/teacher "
        f"--data {folder}/data --device cpu {more}"
    )


def results(path: str = "runs/distill/results.jsonl") -> list[dict]:
    return [json.loads(row) for row in Path(path).read_text(encoding="utf-8").splitlines()]


def test_every_seed_gets_a_folder_and_a_row(minibert, folder):
    answer = minibert(line(folder, "--seeds 2 --seed 3 --json"))
    assert answer.code == 0, answer.err
    assert shape_of(answer.document) == shape_of(documented("distill", 2)) | {
        "rows": [shape_of(answer.document["rows"][0])]
    }
    rows = results()
    assert rows == answer.document["rows"]
    assert set(rows[0]) == set(documented("distill", 2)["rows"][0])
    assert [(row["name"], row["seed"]) for row in rows] == [("first", 3), ("first", 4)]
    teacher = minibert(f"evaluate --model {folder}/teacher --data {folder}/data/dev.tsv --json")
    for row in rows:
        assert row["teacher"] == teacher.document["metrics"]
        student = Bert.from_pretrained(f"runs/distill/seed-{row['seed']}")
        assert student.config.hidden_size == 12
        assert sum(row["answers"]) / 16 == row["metrics"]["accuracy"]
        assert row["recipe"]["lr"] == 0.02
        assert row["steps"] == {"intermediate": 4, "prediction": 8}


def test_a_seed_is_that_seed_alone(minibert, folder):
    minibert(line(folder, "--seeds 2 --out both"))
    minibert(line(folder, "--seed 1 --out alone"))
    files = [Path(name, "model.safetensors").read_bytes() for name in ("both/seed-1", "alone")]
    assert files[0] == files[1]
    assert not Path("alone/results.jsonl").exists()


def test_finished_rows_are_skipped_and_new_ones_added(minibert, folder):
    minibert(line(folder, "--seeds 1 --results all.jsonl --out a"))
    before = Path("all.jsonl").read_bytes()
    answer = minibert(line(folder, "--seeds 2 --results all.jsonl --out a"))
    assert answer.code == 0, answer.err
    assert "seed 0: its result is in all.jsonl" in answer.err
    assert Path("all.jsonl").read_bytes().startswith(before)
    assert [row["seed"] for row in results("all.jsonl")] == [0, 1]


def test_a_stopped_experiment_goes_on_where_it_stopped(minibert, folder, monkeypatch):
    """The seed that was stopped is resumed, those that are missing begin; also with more seeds."""
    minibert(line(folder, "--seeds 2 --out straight"))
    saved = []

    def stop(*arguments, **named):
        save_state(*arguments, **named)
        saved.append(arguments[0].name)
        if len(saved) == 2:  # the first epoch of the second stage
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("minibert.training.loop.save_state", stop)
        answer = minibert(line(folder, "--seeds 2 --out stopped"))
    assert answer.code == 130, answer.err
    assert "go on with --resume" in answer.said
    assert not Path("stopped/results.jsonl").exists()
    answer = minibert(line(folder, "--seeds 3 --out stopped --resume"))
    assert answer.code == 0, answer.err
    for seed in (0, 1):
        files = [Path(run, f"seed-{seed}", "model.safetensors") for run in ("straight", "stopped")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert [row["seed"] for row in results("stopped/results.jsonl")] == [0, 1, 2]


def test_what_replaces_a_run_and_is_stopped_in_its_first_part_goes_on(
    minibert, folder, monkeypatch
):
    """The student of labels alone is trained in a folder of its own, before the distilled one."""
    minibert(line(folder, "--labels-too --out straight --lr 0.01"))
    minibert(line(folder, "--labels-too --out stopped"))
    saved = []

    def stop(*arguments, **named):
        save_state(*arguments, **named)
        saved.append(arguments[0])
        if len(saved) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    call = line(folder, "--labels-too --out stopped --lr 0.01")
    with monkeypatch.context() as patch:
        patch.setattr("minibert.training.loop.save_state", stop)
        answer = minibert(f"{call} --overwrite")
    assert answer.code == 130
    assert "saved in stopped/labels/labels.state.safetensors; go on with --resume" in answer.said
    assert not Path("stopped/result.json").exists(), "it is of the run before"
    answer = minibert(f"{call} --resume")
    assert answer.code == 0, answer.err
    for name in ("model.safetensors", "labels/model.safetensors"):
        assert Path("stopped", name).read_bytes() == Path("straight", name).read_bytes()
    assert not list(Path("stopped").rglob("*.state.safetensors"))


def test_the_command_line_wins_and_a_name_stands_for_one_recipe(minibert, folder):
    minibert(line(folder, "--seeds 1 --results all.jsonl --out a"))
    answer = minibert(line(folder, "--seeds 1 --results all.jsonl --out b --lr 0.01"))
    assert answer.code == 2
    assert "'first' were made with lr = 0.02, not 0.01; give this recipe another" in answer.said
    assert not Path("b").exists()
    answer = minibert(
        line(folder, "--seeds 1 --results all.jsonl --out b --lr 0.01 --name slow")
    )
    assert answer.code == 0, answer.err
    table = answer.out.splitlines()
    assert table[0].startswith("| recipe | seeds | accuracy |")
    assert [row.split(" | ")[0] for row in table[2:]] == ["| first", "| slow"]
    assert results("all.jsonl")[1]["recipe"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1\n", "distill has no option 'colour'"),
        ("[lr]\nx = 1\n", "lr is a table, but recipes are flat"),
        ("lr = \n", "recipe.toml: "),
        ("lr = \"fast\"\n", "lr = 'fast', but must be a number or a whole number"),
        ("lr = true\n", "lr = True, but must be a number"),
        ("augment = 1.7\n", "augment = 1.7, but must be a whole number"),
        ("layer_map = [2, 3]\n", "layer_map = [2, 3], but must be a text"),
        ("corpus = \"x\"\n", "corpus = 'x', but must be a list of texts"),
        ("temperature_squared = 1\n", "temperature_squared = 1, but must be true or false"),
        ("lr = -1\n", "-1"),
        ("recipe = \"x\"\n", "has no option 'recipe'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(text, said, minibert, tmp_path):
    Path("recipe.toml").write_text(text)
    answer = minibert("distill --recipe recipe.toml --json")
    assert answer.code == 2
    assert said in answer.document["error"]


def test_the_printed_recipe_is_a_recipe(minibert, folder):
    printed = minibert("distill --print-recipe")
    assert printed.code == 0
    Path("all.toml").write_text(printed.out, encoding="utf-8")
    sections = dict(
        re.findall(r"^# --- ([^\n]*) ---\n(.*?)(?=^# ---|\Z)", printed.out, re.M | re.S)
    )
    assert "join = 0" in sections["Added texts"]
    assert "temperature = 1.0" in sections["Losses of distillation"]
    assert "batch_size = 32" in sections["Training"]
    assert "The run" not in sections, "where a run is kept is no part of a recipe"
    again = minibert("distill --recipe all.toml --print-recipe")
    assert again.out == printed.out
    own = minibert(f"distill --recipe {folder}/first.toml --lr 0.5 --print-recipe").out
    assert "lr = 0.5" in own
    assert 'student = "1x12x3"' in own


def test_general_distillation_then_a_task(minibert, folder):
    shape = "--student 1x12x3 --max-length 12 --batch-size 4 --device cpu"
    answer = minibert(
        f"distill --teacher {folder}/teacher --corpus {folder}/corpus.txt {shape} --out general "
        "--intermediate-epochs 2 --json"
    )
    assert answer.code == 0, answer.err
    assert shape_of(answer.document) == shape_of(documented("distill", 1))
    general = Bert.from_pretrained("general")
    assert general.head == "encoder"
    assert general.weights.pooler is None
    answer = minibert(
        f"distill --teacher {folder}/teacher --data {folder}/data --init-student general "
        "--epochs 1 --max-length 20 --device cpu --out task"
    )
    assert answer.code == 0, answer.err
    assert Bert.from_pretrained("task").config.hidden_size == 12


def test_augmented_texts_are_read(minibert, folder):
    answer = minibert(line(folder, "--augment 3 --steps 3 --intermediate-steps 2 --json"))
    assert answer.code == 0, answer.err
    assert answer.document["steps"] == {"intermediate": 2, "prediction": 3}
    assert "30 texts became " in answer.err


def test_joined_texts_are_read_and_have_no_label(minibert, folder):
    more = "--join 12 --intermediate-on labelled --intermediate-epochs 1 --epochs 1 --json"
    answer = minibert(line(folder, more))
    assert answer.code == 0, answer.err
    assert "30 texts became 42" in answer.err
    assert answer.document["steps"] == {"intermediate": 4, "prediction": 6}, "batches of 8"


def test_pairs_are_not_joined(minibert, folder):
    data = folder / "pairs"
    data.mkdir(exist_ok=True)
    rows = [f"{one.first},a film,{('blame', 'praise')[one.label]}" for one in tiny.examples(16, 2)]
    for split in ("train", "dev"):
        table = "\n".join(["sentence1,sentence2,label", *rows])
        (data / f"{split}.csv").write_text(table, encoding="utf-8")
    answer = minibert(line(folder, f"--data {data} --join 3"))
    assert answer.code == 2
    assert "--join concatenates single texts, but classify has pairs" in answer.err


def test_a_page_and_a_model_card_lie_beside_the_student(minibert, folder):
    answer = minibert(line(folder, "--labels-too"))
    assert answer.code == 0, answer.err
    page = Path("runs/distill/report.html").read_text(encoding="utf-8")
    for part in ("1x12, distilled from teacher", "intermediate", "prediction", "student, labels"):
        assert part in page
    assert "lr = 0.02" in page, "the recipe"
    card = Path("runs/distill/README.md").read_text(encoding="utf-8")
    assert "minibert distill --recipe" in card
    assert "student, distilled" in card
    assert "estimated time: " in answer.err
    assert " steps/s; student " in answer.err, "the shares of time"


@pytest.mark.parametrize(("epochs", "phase"), [(2, "states"), (1, "answers")])
def test_what_the_teacher_does_alone_is_timed_too(epochs, phase, minibert, folder):
    """Once: its answers come with its states, which are worth a file from two epochs on."""
    answer = minibert(line(folder, f"--intermediate-epochs {epochs} --dropout 0"))
    assert answer.code == 0, answer.err
    rows = [json.loads(row) for row in Path("runs/distill/metrics.jsonl").read_text().splitlines()]
    alone = [row for row in rows if row["phase"] not in ("intermediate", "prediction")]
    assert [row["phase"] for row in alone] == [phase]
    assert alone[0]["step"] == 1, "30 texts fit into a batch"
    assert alone[0]["parts"]["teacher"] > 0
    assert f"\n{phase}: " in answer.err, "its share of the time is told"
    assert list(loss_curves(Path("runs/distill"), {}).starts) == ["intermediate", "prediction"]
    assert f"{phase}: losses" not in Path("runs/distill/report.html").read_text(encoding="utf-8")


def test_texts_that_augmentation_made_can_be_left_to_the_second_stage(minibert, folder):
    more = "--augment 9 --augment-probability 1 --intermediate-epochs 1 --epochs 1 --json"
    steps = []
    for which in ("all", "labelled"):
        answer = minibert(line(folder, f"{more} --intermediate-on {which} --out {which}"))
        assert answer.code == 0, answer.err
        steps.append(answer.document["steps"])
    assert steps[0]["prediction"] == steps[1]["prediction"] == steps[0]["intermediate"]
    assert steps[1]["intermediate"] == 4, "30 texts in batches of 8"
    assert steps[0]["intermediate"] > 4


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_examples_can_be_read(path, minibert):
    """Every key is an option, and every value has come through."""
    answer = minibert(f"distill --recipe {path} --print-recipe")
    assert answer.code == 0, answer.err
    printed = tomllib.loads(answer.out)
    for key, value in tomllib.loads(path.read_text(encoding="utf-8")).items():
        assert printed[key] == value


def test_the_script_of_all_experiments_calls_commands_that_exist(tmp_path, monkeypatch):
    """Each call is noted instead of run, and its options are read as the command reads them."""
    note = tmp_path / "minibert"
    one_call = 'printf "%s\\037" "$@" >> "$CALLS"; echo >> "$CALLS"'
    # finetune --model DIR --data DIR --task TASK --seed SEED …: a greater seed is a better teacher
    trained = """for out; do :; done
        [ "$8" = --seed ] || exit 0
        mkdir -p "$out" && echo '{"metrics": {"f1": 0.'$9'}}' > "$out/result.json"
    """
    note.write_text(f"#!/bin/sh\n{one_call}\n{trained}")
    note.chmod(0o755)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("MINILM", "GLUE", "TEXTS", "PAIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    parts = "teachers general ladder ablation wide sparse growth translation".split()
    script = ROOT / "examples" / "experiments.sh"
    subprocess.run(["sh", script, *parts], check=True, cwd=tmp_path)
    calls = [line.split("\037")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert len(calls) == 10 + 1 + 7 + 12 + 5 + 1 + 2 * 28 + 6 + 20 + 4 * 3
    for command, *options in calls:
        monkeypatch.chdir(ROOT)
        timed = any(x.startswith("growth on ") for x in options)
        both = timed or "translation" in options or options[-1] == "runs/sparse/student"
        found = cli.cli.commands[command].make_context(command, options)
        assert found.params["threads"] == (2 if both else 1)
        has_rows = bool(found.params.get("results"))
        assert found.params.get("resume", False) == has_rows, "nothing is there yet"
    for task, seed in (("sst2", 7), ("mrpc", 2), ("cola", 2), ("stsb", 1)):
        chosen = json.loads((tmp_path / f"runs/teacher-{task}/result.json").read_text())
        assert chosen["metrics"]["f1"] == seed / 10
    (tmp_path / "runs" / "general").mkdir(parents=True)
    (tmp_path / "runs" / "general" / "run.json").write_text("{}")
    subprocess.run(["sh", script, "general"], check=True, cwd=tmp_path)
    assert "--resume" in (tmp_path / "calls").read_text().splitlines()[-1].split("\037")
    assert subprocess.run(["sh", script, "nothing"], cwd=tmp_path, check=False).returncode == 2


# ---------------------------------------------------------------- what must not go by unnoticed


def test_a_seed_reads_the_same_texts_wherever_the_call_began(minibert, folder):
    more = "--augment 2 --join 5 --steps 3 --intermediate-steps 2"
    minibert(line(folder, f"{more} --seeds 2 --out both"))
    minibert(line(folder, f"{more} --seed 1 --out alone"))
    minibert(line(folder, f"{more} --seed 1 --augment-seed 7 --out other"))
    files = [
        Path(name, "model.safetensors").read_bytes() for name in ("both/seed-1", "alone", "other")
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_another_dev_set_is_another_experiment(minibert, folder):
    minibert(line(folder, "--results all.jsonl --out a"))
    tiny.write_data(Path("other"), n_train=30, n_dev=18)
    answer = minibert(line(folder, "--data other --results all.jsonl --out b"))
    assert answer.code == 2
    assert "the results of 'first' were made with another dev; use another" in answer.said
    assert not Path("b").exists()


def test_an_option_that_is_no_longer_given_is_named(minibert, folder):
    minibert(line(folder, "--results all.jsonl --out a --dropout 0.5"))
    answer = minibert(line(folder, "--results all.jsonl --out b"))
    assert answer.code == 2
    assert "were made with dropout = 0.5, not None; give this recipe another" in answer.said


def test_rows_of_other_tasks_stay_out_of_the_table(minibert, folder):
    minibert(line(folder, "--results all.jsonl --out a"))
    row = results("all.jsonl")[0] | {"name": "other", "task": "stsb", "metrics": {"pearson": 1.0}}
    Path("all.jsonl").write_text(json.dumps(row) + "\n")
    answer = minibert(line(folder, "--results all.jsonl --out b"))
    assert answer.code == 0, answer.err
    assert [text.split(" | ")[0] for text in answer.out.splitlines()[2:]] == ["| first"]


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ("--seeds 2 --baseline nobody", 2, "baseline 'nobody' is not in the results: first"),
        ("--cache runs/distill/cache", 2, "is in --out, whose working files are deleted"),
        ("--cache {folder}/first.toml", 2, "File exists"),
        ("--cache {folder}/first.toml/cache", 2, "Not a directory"),
        ("--cache-gb 1e305", 2, "is not in the range"),
        ("--results all.jsonl --labels-too", 2, "--labels-too does not go with --seeds"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(more, code, said, minibert, folder):
    answer = minibert(line(folder, more.format(folder=folder)))
    assert answer.code == code
    assert said in answer.said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--teacher {folder}/teacher --corpus {folder}/corpus.txt --epochs 3",
         "--epochs has no effect on general distillation"),
        ("--teacher {folder}/teacher --corpus {folder}/corpus.txt --join 3",
         "--join has no effect on general distillation"),
        ("--student 4x128", "--student has no effect on the demo"),
        ("--lr 0.1", "--lr has no effect on the demo"),
        ("--teacher {folder}/teacher --data {folder}/data --baseline other",
         "--baseline has no effect on a run without --seeds or --results"),
        ("--teacher {folder}/teacher --data {folder}/data --augment-seed 1",
         "--augment-seed has no effect on a run without --augment or --join"),
        ("--teacher {folder}/teacher --data {folder}/data --init-student s --init-layers teacher",
         "--init-layers has no effect on a student that --init-student names"),
    ],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(arguments, said, minibert, folder):
    answer = minibert(f"distill {arguments.format(folder=folder)}")
    assert answer.code == 2
    assert said in answer.said


def test_a_recipe_may_hold_more_than_general_distillation_needs(minibert, folder):
    answer = minibert(
        f"distill --recipe {folder}/first.toml --teacher {folder}/teacher --device cpu "
        f"--corpus {folder}/corpus.txt --max-length 12 --out general"
    )
    assert answer.code == 0, answer.err
    assert "estimated time: " in answer.err
    assert "general: " in answer.err, "the shares of time"
    page = Path("general/report.html").read_text(encoding="utf-8")
    for part in ("1x12, distilled from teacher", "embedding", "The layers", "lr = 0.02"):
        assert part in page
    assert "Nothing was measured" not in page


def test_a_run_that_dies_before_its_page_gets_it_when_it_is_resumed(minibert, folder, monkeypatch):
    def fail(*arguments):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("minibert.training.experiment.write_report", fail)
        assert minibert(line(folder)).code == 1
    assert not Path("runs/distill/report.html").exists()
    metrics = Path("runs/distill/metrics.jsonl")
    first, *others = metrics.read_text().splitlines()
    row = json.loads(first)
    row["parts"]["student"] += 1000.0  # as if the call that died had taken so long
    metrics.write_text("\n".join([json.dumps(row), *others]) + "\n")
    answer = minibert(line(folder, "--resume"))
    assert answer.code == 0, answer.err
    assert Path("runs/distill/report.html").exists()
    assert Path("runs/distill/README.md").exists()
    seconds = json.loads(Path("runs/distill/result.json").read_text())["seconds"]
    assert 1000 < seconds < 1300, "the time of the first call counts"


def test_an_answer_with_a_flipped_bit_is_noticed(minibert, folder):
    minibert(line(folder, "--cache kept --out a"))
    (path,) = Path("kept").glob("answers-*.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    answer = minibert(line(folder, "--cache kept --out b"))
    assert answer.code == 3
    assert "is damaged (its checksum is wrong); delete it" in answer.said
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(), "others may read it"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_resumed_experiment_computes_as_it_began(minibert, folder):
    minibert(line(folder, "--seeds 2 --arithmetic torch --out a"))
    Path("a/seed-1/result.json").unlink()
    Path("a/results.jsonl").unlink()
    answer = minibert(line(folder, "--seeds 2 --out a --resume"))
    assert answer.code == 0, answer.err


def test_rows_that_are_there_are_named_when_they_were_to_be_written_over(minibert, folder):
    minibert(line(folder, "--results all.jsonl --out a"))
    answer = minibert(line(folder, "--results all.jsonl --out a --overwrite"))
    assert answer.code == 0
    assert "its result is in all.jsonl; to run it again, remove that row" in answer.err


# ------------------------------------------------------------------ what a name stands for by now


@pytest.mark.parametrize(
    ("changed", "known"), [("teacher", "teacher"), ("train", "texts"), ("dev", "dev")]
)
def test_a_run_is_not_resumed_with_what_has_another_content(
    changed, known, minibert, folder, tmp_path
):
    """The name of a folder or a file is not enough: what it holds may be new."""
    shutil.copytree(folder, tmp_path / "copy")
    call = line(tmp_path / "copy", "--out run")
    assert minibert(call).code == 0
    assert minibert(f"{call} --resume").code == 0
    if changed == "teacher":
        other = Bert.from_pretrained(folder / "teacher")
        other.weights.classifier.bias_O.add_(0.01)
        other.save_pretrained(tmp_path / "copy" / "teacher")
    else:
        path = tmp_path / "copy" / "data" / f"{changed}.tsv"
        path.write_text(path.read_text().replace("the", "a"))
    answer = minibert(f"{call} --resume")
    assert answer.code == 2
    assert f"was made with a hash of {known} = '" in answer.said


def test_general_distillation_is_not_resumed_on_other_texts(minibert, folder, tmp_path):
    (tmp_path / "corpus.txt").write_text((folder / "corpus.txt").read_text())
    call = (
        f"distill --recipe {folder}/first.toml --teacher {folder}/teacher --corpus corpus.txt "
        "--device cpu --out general"
    )
    assert minibert(call).code == 0
    assert minibert(f"{call} --resume").code == 0
    (tmp_path / "corpus.txt").write_text("a good film\n" * 30)
    answer = minibert(f"{call} --resume")
    assert (answer.code, "was made with a hash of texts" in answer.said) == (2, True)
    (tmp_path / "corpus.txt").write_text("\N{ZERO WIDTH SPACE}\n")
    answer = minibert(f"{call} --overwrite")
    assert (answer.code, "--corpus holds no word" in answer.said) == (3, True)


def test_results_that_cannot_be_written_are_told_before_the_run(minibert, folder):
    answer = minibert(line(folder, "--results /proc/nope/r.jsonl --out results"))
    assert answer.code == 2
    assert "--results /proc/nope/r.jsonl: No such file or directory" in answer.said
    assert not Path("results").exists()


@pytest.mark.parametrize("option", ["teacher", "init-student"])
def test_a_student_does_not_replace_what_it_starts_from(option, minibert, folder):
    start = "" if option == "teacher" else f"--init-student {folder}/data/../teacher"
    if start:
        start = f"--teacher {folder}/other {start}"
    answer = minibert(line(folder, f"{start} --out {folder}/teacher --overwrite"))
    assert answer.code == 2
    given = f"{folder}/teacher" if option == "teacher" else f"{folder}/data/../teacher"
    said = f"--{option} {given} is a folder that this run would write over; choose another --out"
    assert said in answer.said
    more = start.replace("data/../teacher", "seed-1") or f"--teacher {folder}/seed-1"
    answer = minibert(line(folder, f"{more} --out {folder} --seeds 2 --overwrite"))
    assert f"--{option} {folder}/seed-1 is a folder that this run" in answer.said


def test_a_student_of_another_vocabulary_cannot_be_the_start(minibert, folder, tmp_path):
    """Of the same size: its rows would stand for other words."""
    other = Bert.from_config(tiny.config(), "classification", tiny.tokenizer())
    pieces = list(other.tokenizer.pieces)
    other.tokenizer = Tokenizer.from_vocabulary([*pieces[:5], *reversed(pieces[5:])])
    other.save_pretrained(tmp_path / "other")
    call = f"distill --teacher {folder}/teacher --data {folder}/data --max-length 20"
    answer = minibert(f"{call} --init-student other")
    assert answer.code == 3
    assert "--init-student other has another vocabulary than the teacher" in answer.said


def test_a_general_student_may_learn_from_a_teacher_of_another_width(minibert, folder, tmp_path):
    """The map to the width of its first teacher is of no use then, and another one is drawn."""
    wide = tiny.classifier(hidden_size=24)
    wide.save_pretrained(tmp_path / "wide")
    shared = f"--recipe {folder}/first.toml --device cpu"
    call = f"distill {shared} --teacher wide --corpus {folder}/corpus.txt --out general"
    assert minibert(call.replace("--out", "--student 1x6x3 --out")).code == 0
    call = f"distill --teacher {folder}/teacher --data {folder}/data --init-student general"
    answer = minibert(f"{call} --max-length 20 --epochs 1 --device cpu")
    assert answer.code == 0, answer.err


def test_rows_measured_on_other_texts_are_not_in_the_table(minibert, folder, tmp_path):
    """They cannot be compared: neither a table nor a baseline has them."""
    tiny.write_data(tmp_path / "other", n_train=30, n_dev=20)
    first = line(folder, "--results all.jsonl --name one --out a")
    assert minibert(first).code == 0
    second = first.replace(f"{folder}/data", "other").replace("one --out a", "two --out b")
    answer = minibert(f"{second} --baseline one")
    assert answer.code == 2
    assert "the baseline 'one' is not in the results: two" in answer.said
    answer = minibert(second)
    assert answer.code == 0, answer.err
    assert "| two |" in answer.out
    assert "| one |" not in answer.out
    assert [row["name"] for row in results("all.jsonl")] == ["one", "two"]
