"""The command line: what is printed where, exit codes, and what is never a traceback."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
import tiny
import torch
from command import ROOT, documented, shape_of
from test_training import files_in, room_for

from minibert import cli
from minibert.cli.machine import dtype_of
from minibert.cli.options import HEADINGS
from minibert.data.readers import Example
from minibert.data.tokenizer import Tokenizer
from minibert.model import Bert
from minibert.training.finetune import finetune
from minibert.training.loop import TrainingOptions
from minibert.training.progress import Display


def runnable(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command by its whole name; a group of commands is none itself."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        inside = isinstance(command, click.Group)
        found |= runnable(command, f"{before}{name} ") if inside else {before + name: command}
    return dict(sorted(found.items()))


COMMANDS = runnable(cli.cli)
SMALL = "--epochs 2 --batch-size 8 --lr 0.02 --max-length 20 --device cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`data` with train and dev, `model` with a fresh classifier, `teacher` with a trained one."""
    folder = tmp_path_factory.mktemp("cli")
    tiny.write_data(folder / "data", n_train=30, n_dev=16)
    model = tiny.classifier()
    model.save_pretrained(folder / "model")
    options = TrainingOptions(epochs=6, lr=2e-2)
    finetune(
        model, tiny.dataset(200, 1), tiny.dataset(40, 2), folder / "teacher", options, 16, 20,
        Display(quiet=True),
    )  # fmt: skip
    (folder / "teacher" / "finetune.state.safetensors").unlink()
    Bert.from_config(tiny.config(), "mlm", tiny.tokenizer()).save_pretrained(folder / "mlm")
    return folder


def finetuning(folder: Path, more: str = "") -> str:
    return f"finetune --model {folder}/model --data {folder}/data {SMALL} {more}"


def distilling(folder: Path, more: str = "") -> str:
    return (
        f"distill --teacher {folder}/teacher --data {folder}/data --student 1x12x3 {SMALL} "
        f"--intermediate-epochs 1 {more}"
    )


# --- Help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_is_a_command(name, minibert):
    answer = minibert(f"{name} --help")
    assert answer.code == 0
    assert answer.err == ""
    examples = [
        line.split() for line in answer.out.splitlines() if line.startswith(f"    minibert {name}")
    ]
    assert examples
    known = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)}
    used = {word for example in examples for word in example if word.startswith("--")}
    assert used <= known, "the options of the examples exist"
    assert "--json" in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_or_explains_itself(name):
    """A default is shown, or the help says what happens without the option."""
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and not parameter.is_flag:
            shown = parameter.show_default or parameter.required
            assert shown or parameter.help, parameter.name


@pytest.mark.parametrize("name", ["distill", "finetune"])
def test_many_options_stand_under_headings(name, minibert):
    help_text = minibert(f"{name} --help").out
    headings = re.findall(r"^([A-Z].*):$", help_text, re.M)
    known = [HEADINGS[o.name] for o in COMMANDS[name].params if o.name in HEADINGS]
    assert headings == ["Options"] * (name == "distill") + known
    listed = re.findall(r"^  (--[a-z0-9-]+)", help_text.partition(f"\n{headings[0]}:")[2], re.M)
    # click remembers an option's names from whoever asked first, with the group's -h or without
    assert [o for o in listed if o != "--help"] == [o.opts[0] for o in COMMANDS[name].params]


def test_all_commands_are_listed(minibert):
    answer = minibert("--help")
    assert answer.code == 0
    assert {"distill", "evaluate", "fill-mask", "finetune", "inspect", "predict"} <= set(COMMANDS)
    for name in cli.cli.commands:
        assert re.search(rf"^  {name} +\S.*[^.]\.$", answer.out, re.M), "a sentence, not cut off"


def test_without_a_command_the_help_is_shown(minibert):
    answer = minibert("")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("Usage: minibert")


def test_the_table_of_exit_codes_in_the_documentation():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([0-9, ]+) \|", text, re.M) == ["0", "1", "2", "3", "130, 143"]


@pytest.mark.parametrize("line", ["--help", "distill --help", "--version", "finetune --lr x"])
def test_help_and_usage_errors_do_not_load_torch(line):
    """Help is there at once; loading torch takes a second."""
    code = (
        "import sys; from minibert.cli import main\n"
        f"sys.argv = ['minibert', *{line.split()!r}]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'sklearn', 'tokenizers'} & set(sys.modules)\n"
        "print('loaded:', sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.splitlines()[-1] == "loaded: []"


# --- JSON ------------------------------------------------------------------------------------


def test_evaluate_prints_the_documented_document(minibert, folder):
    answer = minibert(f"evaluate --model {folder}/teacher --data {folder}/data --json")
    assert answer.code == 0
    assert list(answer.document) == ["task", "n", "metrics"]
    assert answer.document["task"] == "classify"
    assert answer.document["n"] == 16
    assert answer.document["metrics"]["accuracy"] > 0.9
    assert shape_of(answer.document) == shape_of(documented("evaluate"))


def test_predict_prints_the_documented_document(minibert, folder):
    answer = minibert(f"predict --model {folder}/teacher --json", "good great day", "awful plot")
    first, second = answer.document["predictions"]
    assert first["text"] == "good great day"
    assert (first["label"], second["label"]) == ("praise", "blame")
    for row in (first, second):
        assert list(row["probabilities"]) == ["blame", "praise"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
    assert answer.document.keys() == documented("predict").keys()
    assert first.keys() == documented("predict")["predictions"][0].keys()


def test_fill_mask_prints_the_documented_document(minibert, folder):
    texts = ("the [MASK] film", "a [MASK] and a [MASK]")
    answer = minibert(f"fill-mask --model {folder}/mlm --top 3 --json", *texts)
    assert shape_of(answer.document) == shape_of(documented("fill-mask"))
    assert [row["text"] for row in answer.document["texts"]] == list(texts)
    assert [[len(m) for m in row["masks"]] for row in answer.document["texts"]] == [[3], [3, 3]]


def test_inspect_prints_the_documented_document(minibert, folder):
    answer = minibert(f"inspect {folder}/teacher --json")
    assert answer.document.keys() == documented("inspect").keys()
    assert answer.document["parameters"] == 3060
    assert shape_of(answer.document["keys"]) == shape_of(documented("inspect")["keys"])
    assert {row["status"] for row in answer.document["keys"]} == {"used"}


def test_finetune_and_distill_print_the_documented_documents(minibert, folder):
    answer = minibert(finetuning(folder, "--json"))
    assert answer.code == 0
    assert shape_of(answer.document) == shape_of(documented("finetune"))
    assert answer.document["model"] == "runs/finetune"
    assert answer.document == json.loads(Path("runs/finetune/result.json").read_text())
    answer = minibert(distilling(folder, "--json"))
    assert answer.code == 0
    assert shape_of(answer.document) == shape_of(documented("distill"))
    assert len(answer.document["models"]) == 2


BAD = [
    ("", 2, "No such option"),
    ("nonsense", 2, "No such command 'nonsense'"),
    ("evaluate", 2, "Missing option '--model'"),
    ("evaluate --model {f}/teacher --data {f}/nothing", 3, "nothing: no such file or folder"),
    ("evaluate --model {f}/nothing --data {f}/data", 3, "there is no folder"),
    ("evaluate --model {f}/teacher --data {f}/data --task sst2", 3, "dev.tsv, line 2: the label"),
    ("evaluate --model {f}/teacher --data {f}/data --task stsb", 3, "needs two sentences"),
    ("evaluate --model {f}/mlm --data {f}/data", 3, "has the head 'mlm', but classify needs"),
    ("predict --model {f}/teacher", 2, "give texts as arguments, or --file"),
    ("predict --model {f}/teacher --file {f}/none", 3, "none: No such file"),
    ("predict --model {f}/teacher --file {f}/none text", 2, "give texts as arguments, or --file"),
    ("predict --model {f}/mlm text", 3, "needs"),
    ("fill-mask --model {f}/mlm text", 2, "has no [MASK]; write [MASK] where"),
    ("fill-mask --model {f}/teacher [MASK]", 3, "filling a mask needs"),
    ("fill-mask --model {f}/mlm --top 0 [MASK]", 2, "0 is not in the range"),
    ("diff {f}/mlm {f}/mlm --text caf\udce9", 2, "a --text is not UTF-8"),
    ("exercise check softmax --seconds inf", 2, "inf is not a finite number"),
    ("inspect {f}/data", 3, "config.json"),
    ("inspect {f}/teacher --head mlm", 3, "missing"),
    ("inspect {f}/teacher --head tail", 2, "there is no such head"),
    ("finetune --model {f}/model --data {f}/data/train.tsv", 2, "--dev"),
    ("finetune --model {f}/model --data {f}/data --lr 0", 2, "0"),
    ("finetune --model {f}/model --data {f}/data --lr nan", 2, "nan is not a finite number"),
    ("finetune --model {f}/model --data {f}/data --l2 inf", 2, "inf is not a finite number"),
    ("finetune --model {f}/model --data {f}/data --epochs 0", 2, "0 is not in the range"),
    ("finetune --model {f}/model --data {f}/data --seed -1", 2, "-1 is not in the range"),
    ("finetune --model {f}/model --data {f}/data --task news", 2, "'news' is not one of"),
    ("finetune --model {f}/model --data {f}/data --out {f}/data", 2, "files that no run wrote"),
    ("finetune --model {f}/model --data {f}/data --out {f}/data --overwrite", 2, "no run wrote"),
    ("finetune --model {f}/model --data {f}/data --out new --resume", 2, "so no run to resume"),
    ("finetune --model {f}/model --data {f}/data --overwrite --resume", 2, "exclude each other"),
    ("finetune --model {f}/model --data {f}/data --max-length 21 --limit 2", 0, ""),
    ("distill --teacher {f}/teacher", 2, "give --data (texts of a task) or --corpus"),
    ("distill --data {f}/data", 2, "give --teacher as well, or nothing at all"),
    ("distill --corpus {f}/data", 2, "give --teacher as well, or nothing at all"),
    ("distill --recipe {f}/none.toml", 2, "none.toml: No such file"),
    ("distill --recipe {f}/data/dev.tsv", 2, "dev.tsv: "),
    ("distill --teacher {f}/teacher --corpus {f}/none", 3, "none: No such file"),
    ("distill --teacher {f}/teacher --data {f}/data --corpus {f}/data", 2, "give it alone"),
    ("distill --teacher {f}/teacher --data {f}/data --seeds 2 --labels-too", 2, "does not go with"),
    ("distill --teacher {f}/teacher --corpus {f}/data --seeds 2", 2, "run it once for each --seed"),
    ("distill --teacher {f}/teacher --corpus {f}/data --results r", 2, "run it once for each"),
    (
        "distill --teacher {f}/teacher --corpus {f}/data --intermediate-epochs 0",
        2,
        "general distillation needs --intermediate-epochs of at least 1",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 2x12x1x17 --init-layers teacher "
        "--init-embeddings teacher --intermediate-epochs 0",
        3,
        "--init-layers teacher needs equal heads",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --prediction-weight 0",
        2,
        "the second stage has nothing to learn",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 1x12x3 --augment 1 "
        "--augment-by mlm",
        3,
        "has no head for masked words; give --corpus",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --augment-candidates 5",
        2,
        "--augment-candidates has no effect on a run without --augment COPIES, so leave it out",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 1x12x1 --minilm-v1-weight 1",
        3,
        "use --minilm-v2-weight",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 1x12x1 --minilm-v2-weight 1 "
        "--relation-heads 5",
        3,
        "--relation-heads 5 does not divide the student's width 12",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 1x12x3 --patient-weight 1",
        3,
        "switch it off with --patient-weight 0",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --student 1x12x1 --init-layers teacher",
        3,
        "--init-layers teacher needs equal heads",
    ),
    (
        "distill --teacher {f}/teacher --data {f}/data --init-student {f}/mlm --student 1x12x3",
        3,
        "has num_hidden_layers 2, but the student has 1",
    ),
    ("distill --teacher {f}/model --data {f}/data", 3, "its head seems untrained"),
    ("distill --teacher {f}/mlm --data {f}/data", 3, "has the head 'mlm', but classify needs"),
    ("distill --teacher {f}/teacher --data {f}/data --student 4x", 3, "'4x' is no shape"),
    ("distill --teacher {f}/teacher --data {f}/data --student 1x12x2", 3, "one of [1, 3]"),
    ("distill --teacher {f}/teacher --data {f}/data --layer-map a", 2, "--layer-map is 'a'"),
    ("distill --teacher {f}/teacher --data {f}/data --student 1x12 --layer-map 9", 3, "1 to 2"),
    (
        "distill --teacher {f}/teacher --data {f}/data --embedding-weight 0 --hidden-weight 0 "
        "--attention-weight 0",
        2,
        "leave it out with --intermediate-epochs 0",
    ),
]
if not torch.cuda.is_available():
    BAD.append(("evaluate --model {f}/teacher --data {f}/data --device cuda", 2, "finds no GPU"))


@pytest.mark.parametrize(("line", "code", "said"), BAD, ids=[line or "-" for line, *_ in BAD])
def test_bad_input_is_one_sentence_and_an_exit_code(line, code, said, minibert, folder, tmp_path):
    before = files_in(folder)
    answer = minibert(line.format(f=folder) + " --json")
    assert answer.code == code
    if code:
        assert list(answer.document) == ["error"] or "inspect" in line
        assert said in answer.document["error"]
        assert "\n" not in answer.document["error"]
        assert list(tmp_path.iterdir()) == [], "nothing is written"
    plain = minibert(line.format(f=folder) + (" --out again" if not code else ""))
    assert plain.code == code
    if code and line:
        assert said in plain.said
        assert plain.out == "" or "inspect" in line
    assert files_in(folder) == before


# --- What is damaged -------------------------------------------------------------------------


def test_a_truncated_checkpoint(minibert, folder, tmp_path):
    model = Bert.from_pretrained(folder / "teacher")
    model.save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for line in (
        f"evaluate --model cut --data {folder}/data",
        "predict --model cut good",
        "inspect cut",
        f"distill --teacher cut --data {folder}/data",
        f"finetune --model cut --data {folder}/data",
    ):
        answer = minibert(line)
        assert answer.code == 3
        assert "model.safetensors" in answer.said
    (tmp_path / "cut" / "config.json").write_text('{"vocab_size": ')
    answer = minibert("predict --model cut good")
    assert answer.code == 3
    assert "config.json" in answer.said


def test_a_bad_row(minibert, folder, tmp_path):
    data = tiny.write_data(tmp_path / "data", 6, 6)
    lines = (data / "train.tsv").read_text().splitlines()
    for row, said in (
        ("only a sentence", "1 column, but 2 are needed"),
        ("a film\tso-so", "the label is 'so-so'"),
        ("\tpraise", "the sentence is empty"),
        ("a film\t", "the label is empty"),
    ):
        (data / "train.tsv").write_text("\n".join([*lines[:3], row, *lines[4:]]) + "\n")
        answer = minibert(f"distill --teacher {folder}/teacher --data data --student 1x12x3")
        assert answer.code == 3
        assert f"train.tsv, line 4: {said}" in answer.said
    assert not (tmp_path / "runs").exists()


def test_a_damaged_run(minibert, folder):
    line = finetuning(folder, "--out run")
    assert minibert(line).code == 0
    run = Path("run")
    (run / "result.json").write_text("{")
    answer = minibert(line + " --resume")
    assert answer.code == 3
    assert "result.json" in answer.said
    (run / "result.json").unlink()
    (run / "finetune.state.safetensors").write_bytes(b"half a sta")
    answer = minibert(line + " --resume")
    assert answer.code == 3
    assert "is damaged" in answer.said
    assert minibert(line + " --overwrite").code == 0


@pytest.mark.parametrize("room", [0, 300, 3000, 12000, 20000])
def test_a_full_disk(room, minibert, folder, tmp_path):
    """1, a sentence, and no half-written file; when there is room again the run goes on."""
    line = finetuning(folder, "--out run")
    with room_for(room):
        answer = minibert(line)
    assert answer.code == 1
    assert "File too large" in answer.said
    left = [path for path in tmp_path.rglob("*") if "saving" in path.name]
    assert left == []
    again = minibert(line + (" --resume" if (tmp_path / "run" / "run.json").exists() else ""))
    assert again.code == 0
    Bert.from_pretrained(tmp_path / "run")


def test_a_loss_that_is_not_finite(minibert, folder):
    answer = minibert(distilling(folder, "--l2 1e38 --json"))
    assert answer.code == 1
    assert "step 1: l2 is inf, but must be finite" in answer.document["error"]
    assert not Path("runs/distill").exists(), "nothing was saved, so nothing is in the way"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")]
)
def test_a_full_memory(error, minibert, folder, monkeypatch):
    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr("minibert.training.evaluation.all_logits", fail)
    answer = minibert(f"evaluate --model {folder}/teacher --data {folder}/data")
    assert answer.code == 1
    assert answer.said == "the memory is full; try a smaller --batch-size or more --accumulate"


def test_a_mistake_of_ours_keeps_its_traceback(minibert, folder, monkeypatch):
    """Only what a user can cause is put in a sentence; a bug must show where it is."""
    monkeypatch.setattr("minibert.training.evaluation.all_logits", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        minibert(f"evaluate --model {folder}/teacher --data {folder}/data")


# --- Training --------------------------------------------------------------------------------


def test_finetune_distill_evaluate_predict_one_after_the_other(minibert, folder):
    """The path of a user, with the folders that the commands choose themselves."""
    answer = minibert(finetuning(folder, "--epochs 20"))
    assert answer.code == 0
    assert "best model" in answer.out
    assert re.search(r"^classify, 16 rows$", answer.out, re.M)
    line = distilling(folder).replace(f"{folder}/teacher", "runs/finetune")
    answer = minibert(line + " --labels-too")
    assert answer.code == 0, answer.err
    head, *rows = answer.out.splitlines()[:4]
    assert head.split() == ["accuracy", "parameters", "on", "disk", "sentences/s"]
    assert [row.split("  ")[0] for row in rows] == [
        "teacher", "student, labels alone", "student, distilled",
    ]  # fmt: skip
    assert all(re.search(r"\(.*x fewer\).*\(.*x less\).*\(.*x faster\)", r) for r in rows[1:])
    for name in ("embedding", "hidden", "attention", "prediction"):
        assert re.search(rf"^  {name} ", answer.err, re.M), "which losses apply is said"
    assert re.search(r"intermediate .*embedding .*hidden .*attention", answer.err)
    told = answer.out.splitlines()[-1].split()
    assert told[:4] == ["minibert", "predict", "--model", "runs/distill"]
    assert minibert(" ".join(told[1:4]), "a good film").code == 0
    answer = minibert(f"evaluate --model runs/distill --data {folder}/data --json")
    assert answer.document == {
        key: json.loads(Path("runs/distill/result.json").read_text())[key]
        for key in ("task", "n", "metrics")
    }
    left = {path.name for path in Path("runs").rglob("*") if path.is_file()}
    assert not [name for name in left if "state" in name or "teacher_logits" in name]
    assert {"run.json", "result.json", "metrics.jsonl", "config.json", "vocab.txt"} <= left


def test_a_used_folder_needs_a_choice(minibert, folder):
    line = finetuning(folder)
    first = minibert(line + " --json").document
    before = files_in(Path("runs/finetune"))
    answer = minibert(line)
    assert answer.code == 2
    assert "runs/finetune is not empty; go on with --resume" in answer.said
    answer = minibert(line + " --resume --json")
    assert answer.code == 0
    assert answer.document == first, "a complete run gives its result again"
    answer = minibert(line + " --resume --lr 0.03")
    assert answer.code == 2
    assert "was made with lr = 0.02, not 0.03" in answer.said
    answer = minibert(line + " --resume --save-every 1")
    assert answer.code == 0, "how often to save has no say in the result"
    answer = minibert(distilling(folder, "--out runs/finetune --resume"))
    assert answer.code == 2
    assert files_in(Path("runs/finetune")) == before
    answer = minibert(line + " --overwrite --seed 3 --json")
    assert answer.code == 0
    assert json.loads(Path("runs/finetune/run.json").read_text())["seed"] == 3


def test_the_result_does_not_depend_on_where_it_lies(minibert, folder):
    for out in ("a", "b/c"):
        assert minibert(finetuning(folder, f"--out {out}")).code == 0
    one, two = Path("a/model.safetensors"), Path("b/c/model.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_limit_takes_the_first_rows(minibert, folder):
    assert minibert(finetuning(folder, "--limit 16 --save-every 1")).code == 0
    rows = Path("runs/finetune/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [2, 4]
    answer = minibert(f"evaluate --model runs/finetune --data {folder}/data --limit 5 --json")
    assert answer.document["n"] == 5


def test_options_reach_the_run(minibert, folder):
    """Each of them changes the weights; so none is read and then forgotten."""
    seen = {}
    for number, more in enumerate(
        (
            "", "--adam google", "--adam momentum", "--schedule constant", "--warmup 0.9",
            "--weight-decay 0.9", "--l2 0.5", "--max-norm 0.01", "--seed 1", "--lr 0.01",
            "--batch-size 4", "--epochs 3", "--dtype bfloat16", "--max-length 8", "--limit 20",
        )
    ):  # fmt: skip
        answer = minibert(finetuning(folder, f"--out {number} --evaluate-every 100 {more}"))
        assert answer.code == 0, answer.err
        bytes_of_model = Path(f"{number}/model.safetensors").read_bytes()
        assert bytes_of_model not in seen, f"{more} gives the same as {seen.get(bytes_of_model)}"
        seen[bytes_of_model] = more


CHILD = "from minibert.cli import main; main()"
SLOW_CHILD = """
import time
from minibert.training import loop
step = loop.accumulate_gradient
loop.accumulate_gradient = lambda *arguments: (time.sleep(0.03), step(*arguments))[1]
"""


@pytest.mark.parametrize("name", ["book", "torch", "onednn", "int8"])
def test_every_arithmetic_gives_the_same_answers(name, minibert, folder):
    texts = ("good great day", "awful plot")
    line = f"predict --model {folder}/teacher --json"
    expected = minibert(line, *texts).document["predictions"]
    answer = minibert(f"{line} --arithmetic {name}", *texts)
    assert answer.code == 0
    for ours, theirs in zip(answer.document["predictions"], expected, strict=True):
        assert ours["label"] == theirs["label"]
        # whole numbers of eight bits are a percent apart, all others a rounding error
        margin = 0.05 if name == "int8" else 1e-4
        assert ours["probabilities"] == pytest.approx(theirs["probabilities"], abs=margin)


def test_a_dev_text_without_a_position_is_told_before_the_first_epoch(minibert, folder, tmp_path):
    tiny.write_data(tmp_path / "data", n_train=30, n_dev=8)
    with (tmp_path / "data" / "dev.tsv").open("a") as file:
        file.write("the " * 40 + "\tpraise\n")
    answer = minibert(f"finetune --model {folder}/model --data data --epochs 1 --max-length 64")
    assert (answer.code, "a text has 42 tokens" in answer.said) == (3, True)
    assert "epoch" not in answer.err


def test_a_run_is_not_resumed_with_another_dev_set(minibert, folder, tmp_path):
    """It chose the best epoch."""
    tiny.write_data(tmp_path / "data", n_train=30, n_dev=8)
    call = f"finetune --model {folder}/model --data data {SMALL}"
    assert minibert(call).code == 0
    tiny.write_data(tmp_path / "data", n_train=30, n_dev=10)
    answer = minibert(f"{call} --resume")
    assert (answer.code, "was made with a hash of dev = '" in answer.said) == (2, True)


def test_words_are_guessed_by_a_model_that_reads_as_the_teacher_does(minibert, folder, tmp_path):
    cased = Tokenizer(tiny.tokenizer().pieces, lowercase=False)
    Bert.from_config(tiny.config(), "mlm", cased).save_pretrained(tmp_path / "cased")
    line = distilling(folder, "--augment 1 --augment-by mlm --augment-model")
    answer = minibert(f"{line} cased")
    assert (answer.code, "read words differently" in answer.said) == (3, True)
    assert minibert(f"{line} {folder}/mlm").code == 0


def test_a_model_does_not_replace_the_one_it_starts_from(minibert, folder):
    line = f"finetune --model {folder}/teacher --data {folder}/data {SMALL} --overwrite"
    answer = minibert(f"{line} --out {folder}/data/../teacher")
    assert answer.code == 2
    assert f"--model {folder}/teacher is a folder that this run would write over" in answer.said


def test_a_run_is_not_resumed_with_another_model(minibert, folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    line = f"finetune --model model --data {folder}/data {SMALL}"
    assert minibert(line).code == 0
    assert minibert(f"{line} --resume").code == 0
    shutil.copy(folder / "teacher" / "model.safetensors", tmp_path / "model")
    answer = minibert(f"{line} --resume")
    assert (answer.code, "was made with a hash of model = " in answer.said) == (2, True)


def test_a_run_remembers_its_arithmetic(minibert, folder):
    assert minibert(finetuning(folder, "--arithmetic book")).code == 0
    assert json.loads(Path("runs/finetune/run.json").read_text())["arithmetic"] == "book"
    answer = minibert(finetuning(folder, "--arithmetic torch --resume"))
    assert answer.code == 2
    assert "arithmetic" in answer.said
    assert minibert(finetuning(folder, "--overwrite")).code == 0
    chosen = json.loads(Path("runs/finetune/run.json").read_text())["arithmetic"]
    assert chosen in ("torch", "onednn"), "what was measured, not that it was"


# a processor with instructions for bfloat16, one that is no faster with them, one without
@pytest.mark.parametrize(
    ("cost", "expected"), [(0.5, "bfloat16"), (0.95, "float32"), (20, "float32")]
)
def test_auto_is_the_dtype_that_this_machine_is_faster_in(
    cost, expected, minibert, folder, monkeypatch
):
    monkeypatch.setattr("minibert.kernels.products.cost_of_bfloat16", lambda: cost)
    answer = minibert(finetuning(folder, "--dtype auto"))
    assert answer.code == 0
    assert f"--dtype auto: {expected}; " in answer.err
    assert json.loads(Path("runs/finetune/run.json").read_text())["dtype"] == expected

    assert minibert(distilling(folder, "--teacher-dtype auto")).code == 0
    record = json.loads(Path("runs/distill/run.json").read_text())
    assert (record["dtype"], record["teacher_dtype"]) == ("float32", expected)


def test_a_resumed_run_keeps_the_dtype_it_began_with(minibert, folder, monkeypatch):
    cost = "minibert.kernels.products.cost_of_bfloat16"
    monkeypatch.setattr(cost, lambda: 0.5)
    assert minibert(finetuning(folder, "--dtype auto")).code == 0
    monkeypatch.setattr(cost, lambda: 20)
    answer = minibert(finetuning(folder, "--dtype auto --resume"))
    assert answer.code == 0, "on another machine it goes on as it began"
    assert json.loads(Path("runs/finetune/run.json").read_text())["dtype"] == "bfloat16"
    assert "takes 20 times as long as in float32 here, but the run began with it" in answer.err
    answer = minibert(finetuning(folder, "--dtype float32 --resume"))
    assert answer.code == 2
    assert "dtype" in answer.said


@pytest.mark.parametrize(("cost", "told"), [(0.5, False), (1.9, False), (20, True)])
def test_whoever_asks_for_bfloat16_where_it_is_slow_is_told(
    cost, told, minibert, folder, monkeypatch
):
    monkeypatch.setattr("minibert.kernels.products.cost_of_bfloat16", lambda: cost)
    answer = minibert(f"predict --model {folder}/teacher --dtype bfloat16 --json", "good day")
    assert answer.code == 0
    assert ("--dtype bfloat16: a product in bfloat16 takes 20 times as long" in answer.err) == told
    (row,) = answer.document["predictions"]  # and stdout is for the answer alone
    assert abs(sum(row["probabilities"].values()) - 1) < 1e-6, "they are not rounded to bfloat16"


@pytest.mark.parametrize(("able", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_on_a_gpu_auto_is_what_it_has_instructions_for(able, expected, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    with click.Context(click.Command("predict")):
        assert dtype_of("dtype", "auto", "cuda") == expected
        assert f"this GPU has {'' if able else 'no '}instructions" in capsys.readouterr().err
        assert dtype_of("dtype", "bfloat16", "cuda") == torch.bfloat16
    assert ("choose auto" in capsys.readouterr().err) == (not able)


def test_onednn_is_refused_for_what_the_processor_cannot_compute_in_it(
    minibert, folder, monkeypatch
):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    answer = minibert(finetuning(folder, "--arithmetic onednn --dtype bfloat16"))
    assert answer.code == 2
    assert "it cannot compute bfloat16 on this processor" in answer.said


def test_eight_bits_are_not_for_training(minibert, folder):
    answer = minibert(finetuning(folder, "--arithmetic int8"))
    assert answer.code == 2
    assert "no gradients" in answer.said
    assert not Path("runs").exists()


def stopped_by(number: int, line: str, folder: Path) -> tuple[int, str, str]:
    """Run a command in a process of its own, and send it a signal once it has measured more."""
    child = subprocess.Popen(
        [sys.executable, "-c", SLOW_CHILD + CHILD, *line.split(), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    rows = folder / "stopped" / "metrics.jsonl"
    size, deadline = rows.stat().st_size if rows.exists() else 0, time.monotonic() + 120
    while not rows.exists() or rows.stat().st_size <= size:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


def test_stopped_by_ctrl_c_and_by_sigterm_and_resumed(minibert, folder, tmp_path):
    line = finetuning(folder, "--epochs 20 --threads 1 --arithmetic torch")
    for number, code, more in ((signal.SIGINT, 130, ""), (signal.SIGTERM, 143, " --resume")):
        returned, out, err = stopped_by(number, f"{line} --out stopped{more}", tmp_path)
        assert returned == code, err
        assert "go on with --resume" in json.loads(out)["error"]
        assert "Traceback" not in err
        assert (tmp_path / "stopped" / "finetune.state.safetensors").exists()
        assert not (tmp_path / "stopped" / "result.json").exists()

    assert minibert(line + " --out stopped --resume").code == 0
    assert minibert(line + " --out straight").code == 0
    stopped, straight = files_in(tmp_path / "stopped"), files_in(tmp_path / "straight")
    rows = [
        [
            json.loads(row) | {"seconds": 0, "parts": {}}
            for row in found.pop("metrics.jsonl").splitlines()
        ]
        for found in (stopped, straight)
    ]
    assert rows[0] == rows[1]
    for found in (stopped, straight):
        assert json.loads(found.pop("result.json")).pop("model") in ("stopped", "straight")
    assert stopped == straight


# --- Prediction ------------------------------------------------------------------------------


def test_predict_from_arguments_a_file_and_standard_input(minibert, folder, tmp_path, monkeypatch):
    texts = ["good great day", "awful plot", "a lovely film and so bright"]
    expected = minibert(f"predict --model {folder}/teacher", *texts)
    lines = [line.split("\t") for line in expected.out.splitlines()]
    assert [line[0] for line in lines] == ["praise", "blame", "praise"]
    assert [line[2] for line in lines] == texts
    assert all(0.5 < float(line[1]) <= 1 for line in lines)
    (tmp_path / "texts").write_text("\n".join(texts) + "\n")
    assert minibert(f"predict --model {folder}/teacher --file texts") == expected
    with open(tmp_path / "texts") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert minibert(f"predict --model {folder}/teacher --file -") == expected


def test_predict_names_the_line_that_it_cannot_read(minibert, folder, tmp_path):
    for content, said in (
        (b"good\n\nbad\n", "line 2: the text is empty"),
        (b"good\n\xff\n", "line 2: byte 0xff is not UTF-8"),
        (b"", "the file is empty"),
    ):
        (tmp_path / "texts").write_bytes(content)
        answer = minibert(f"predict --model {folder}/teacher --file texts")
        assert answer.code == 3
        assert said in answer.said
    (tmp_path / "texts").write_text("good\tbad\ngood\n")
    answer = minibert(f"predict --model {folder}/teacher --pair --file texts")
    assert (answer.code, "texts, line 2: the text must have one tab" in answer.said) == (3, True)


def test_inspect_reads_the_vocabulary_too(minibert, folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").unlink()
    path = tmp_path / "other" / "vocab.txt"
    words = path.read_text()
    for text, said in ((words + "word\n", "has 32 pieces, but the model"), ("", "vocab.txt")):
        path.write_text(text)
        answer = minibert("inspect other")
        assert (answer.code, said in answer.said) == (3, True)
        assert answer.out, "what is known of the weights"


def test_answers_that_are_no_numbers_are_not_printed(minibert, tmp_path):
    bert = tiny.classifier()
    bert.weights.classifier.weight_OI.fill_(3e38)
    bert.save_pretrained(tmp_path / "huge")
    answer = minibert("predict --model huge --json", "good")
    assert answer.code == 3
    assert "huge: the model's answers are not finite; its" in answer.document["error"]


def test_a_head_of_several_labels_a_text_is_not_trained_as_one_of_a_single_label(minibert, folder):
    bert = Bert.from_pretrained(folder / "teacher")
    several = replace(bert.config, problem_type="multi_label_classification")
    replace(bert, config=several).save_pretrained("several")
    answer = minibert(f"finetune --model several --data {folder}/data {SMALL}")
    assert "a new head for blame, praise is drawn" in answer.err
    assert minibert("predict --model runs/finetune", "good").code == 0


def child(*arguments: str, **more) -> subprocess.CompletedProcess:
    """A command in a process of its own, for what happens to its real files."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} | more.pop("env", {})
    command = [sys.executable, "-c", CHILD, *arguments]
    return subprocess.run(command, text=True, env=environment, check=False, **more)


def test_output_that_cannot_be_written_or_input_that_is_closed_is_one_sentence(folder):
    predict = ("predict", "--model", f"{folder}/teacher")
    with open("/dev/full", "w") as full:
        done = child(*predict, "--json", "good", stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "minibert: No space left on device\n")
    latin = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = child(*predict, "good \N{CLAPPER BOARD}", capture_output=True, env=latin)
    assert (done.returncode, done.stdout[-16:]) == (0, "good \\U0001f3ac\n")
    closed = lambda: os.close(0)  # noqa: E731
    done = child(*predict, "--file", "-", capture_output=True, preexec_fn=closed)
    assert (done.returncode, "standard input is closed" in done.stderr) == (3, True)


def test_predict_prints_scores_of_a_regression(minibert, tmp_path):
    config = tiny.config().with_labels(("score",), "regression")
    Bert.from_config(config, "regression", tiny.tokenizer()).save_pretrained(tmp_path / "scores")
    answer = minibert("predict --model scores --json", "a good film")
    (row,) = answer.document["predictions"]
    assert row.keys() == {"text", "score"}
    plain = minibert("predict --model scores", "a good film")
    assert plain.out == f"{row['score']:.4f}\ta good film\n"


def test_a_reader_that_goes_away_is_no_error(folder):
    """`minibert predict … | head -1`."""
    texts = ["good"] * 3000
    command = [sys.executable, "-c", CHILD, "predict", "--model", f"{folder}/teacher", *texts]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("praise")
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == 0


def test_pairs_of_sentences(minibert, folder, tmp_path):
    """A column of second sentences is used: the same first with another second differs."""
    rows = tiny.examples(40, 1)
    lines = [f"the film\t{r.first}\t{tiny.NAMES[int(r.label or 0)]}" for r in rows]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("sentence1\tsentence2\tlabel\n" + "\n".join(lines) + "\n")
    answer = minibert(
        f"finetune --model {folder}/model --data . {SMALL} --epochs 12 --out run --json"
    )
    assert answer.code == 0, answer.err
    assert answer.document["metrics"]["accuracy"] > 0.7
    answer = minibert("evaluate --model run --data dev.tsv --json --max-length 20")
    assert answer.document["metrics"]["accuracy"] > 0.7


def test_a_class_the_model_does_not_know(minibert, folder, tmp_path):
    tiny.write_table(tmp_path / "dev.tsv", (Example("a film", None, 1),), ("x", "neutral"))
    answer = minibert(f"evaluate --model {folder}/teacher --data dev.tsv")
    assert answer.code == 3
    assert "dev.tsv, line 2: the label is 'neutral', but the classes are blame, praise" in (
        answer.said
    )


def test_finetune_keeps_a_head_that_fits_and_says_which_head_it_trains(minibert, folder):
    kept = minibert(f"finetune --model {folder}/teacher --data {folder}/data {SMALL} --lr 1e-9")
    assert f"{folder}/teacher has a head for blame, praise: it is trained further" in kept.err
    before = minibert(f"evaluate --model {folder}/teacher --data {folder}/data --json")
    after = minibert(f"evaluate --model runs/finetune --data {folder}/data --json")
    assert after.document == before.document
    fresh = minibert(f"finetune --model {folder}/mlm --data {folder}/data {SMALL} --out other")
    assert "a new head for blame, praise is drawn from seed 0" in fresh.err


def test_evaluate_refuses_a_model_of_other_classes(minibert, folder, tmp_path):
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\ngood film\t1\n", encoding="utf-8")
    answer = minibert(f"evaluate --model {folder}/teacher --data dev.tsv --task sst2")
    assert answer.code == 3
    assert "labels are blame, praise, but those of sst2 are negative, positive" in answer.said


def test_predict_takes_pairs_and_refuses_what_is_none(minibert, folder):
    two = minibert(f"predict --model {folder}/teacher --pair --json", "the film\tgood")
    one = minibert(f"predict --model {folder}/teacher --json", "the film")
    assert two.document["predictions"][0]["label"] == "praise"
    assert (
        two.document["predictions"][0]["probabilities"]
        != one.document["predictions"][0]["probabilities"]
    )
    for text, said in (("good", "must have one tab"), (" ", "text 1 is empty")):
        answer = minibert(f"predict --model {folder}/teacher --pair", text)
        assert answer.code == 2
        assert said in answer.said


def test_inspect_says_that_a_vocabulary_is_missing(minibert, folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / "model" / name).read_bytes())
    answer = minibert("inspect . --json")
    assert answer.document["notes"] == [
        "neither vocab.txt nor tokenizer.json is there, so the model cannot read text"
    ]
