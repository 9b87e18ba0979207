"""`minibert exercise`: every body can be written, laws judge it, and known mistakes are known."""

import doctest
import importlib
import io
import json
import math
import multiprocessing
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from command import ROOT, documented, shape_of
from test_book import READING_ORDER, tree

from minibert import cli, exercises
from minibert.config import BertConfig
from minibert.exercises import (
    EXERCISES,
    PASSED_FILE,
    AnswerError,
    AnswerFailed,
    lines_of,
    placeholder,
    solution,
    to_write,
)
from minibert.laws.answers import book_function, judge, proofs_of, text_of, with_answer
from minibert.laws.measure import fresh
from minibert.parameters import LinearWeights

CASES = 2  # for each law; `minibert exercise check` takes 20

# What to change in the book's own body, so that it makes a known mistake.
WRONG = [
    ("softmax", "temperature_two", "at_least_float32(x_R)", "at_least_float32(x_R) / 2"),
    ("log_softmax", "maximum_not_added_back", "(shifted_C - torch", "(wide_C - torch"),
    ("gelu_erf", "distribution_function_alone", "wide_D * 0.5", "0.5"),
    (
        "layer_norm", "bessels_correction", "(centred_D * centred_D).mean(-1, keepdim=True)",
        "(centred_D * centred_D).sum(-1, keepdim=True) / (x_D.shape[-1] - 1)",
    ),
    ("dropout", "scales_nothing", "x_D * (1 / (1 - rate))", "x_D"),
    (
        "split_heads", "heads_and_tokens_swapped",
        ".view(batch, tokens, n_heads, width // n_heads).transpose(1, 2)",
        ".reshape(batch, n_heads, tokens, width // n_heads)",
    ),
    ("padding_bias", "plus_infinity", "-math.inf", "math.inf"),
    ("causal_bias", "places_counted_from_the_start", " + (n_keys - n_queries)", ""),
    ("attention_scores", "unscaled", " / math.sqrt(query_BNSK.shape[-1])", ""),
    ("attention_probabilities", "mask_ignored", " + mask_bias_BNSR", ""),
    (
        "attend", "scores_without_the_root", "attention_scores(query_BNSK, key_BNRK)",
        "query_BNSK @ key_BNRK.mT",
    ),
    ("embeddings", "no_types", "+ embedding(types_BS, weights.type_TD)", ""),
    ("feed_forward", "erf_and_tanh_exchanged", "==", "!="),
    (
        "block", "no_dropout_after_attention", "dropout(attention.output_BSD, rate, generator)",
        "attention.output_BSD",
    ),
    ("mlm_logits", "no_output_bias", "weights.bias_V", "0 * weights.bias_V"),
    ("cross_entropy", "averaged_over_classes", "labels_M), labels_M)",
     "labels_M), labels_M) / logits_MC.shape[1]"),
    ("kl_divergence", "kl_averaged_over_classes", ".sum(1)", ".mean(1)"),
    ("soft_cross_entropy", "mean_over_batch_and_classes", ".sum(1)", ".mean(1)"),
    ("hidden_loss", "summed_over_the_width", ".mean(2).sum(1)", ".sum((1, 2))"),
    ("attention_loss", "summed_over_heads", ".mean(1).sum((1, 2))", ".sum((1, 2, 3))"),
    (
        "relation_loss", "zeros_of_the_padding_averaged_in", "keep_BS.sum(1).clamp(min=1)",
        "tokens",
    ),
    (
        "prediction_loss", "regression_halved", "difference_B * difference_B",
        "difference_B * difference_B / 2",
    ),
    ("layer_map", "counted_from_zero", "return layers", "return tuple(g - 1 for g in layers)"),
    ("distillation_loss", "weights_normalised", ".sum(0)", ".sum(0) / sum(weights)"),
    (
        "adam_step", "eps_inside_the_root", "torch.sqrt(square_hat_P) + options.eps",
        "torch.sqrt(square_hat_P + options.eps)",
    ),
    (
        "clip_by_global_norm", "norm_after_clipping_reported", "for gradient in gradients), norm",
        "for gradient in gradients), norm.clamp(max=max_norm)",
    ),
    ("linear_schedule", "below_zero_after_the_end", " if step < total else 0.0", ""),
    ("keep_n_of_m", "n_are_lost", "(m - n) / m", "n / m"),
    ("quantized_rows", "cut_off_instead_of_rounded", "torch.round(wide_D / scale_1)",
     "(wide_D / scale_1)"),
    (
        "replaced_tokens", "never_a_random_word",
        "torch.where(draws_S < 0.9, random_ids_S, ids_S)", "ids_S",
    ),
    ("longest_match", "without_hashes", "append(prefix + word", "append(word"),
    (
        "decoder_block", "what_is_fed_forward_not_dropped",
        "fed_BSD, weights.output_norm, config, generator",
        "fed_BSD, weights.output_norm, config, None",
    ),
    ("greedy_search", "words_behind_the_end_are_scored", "torch.where(ended_B, 0.0, gain_B)",
     "gain_B"),
    ("beam_search", "texts_that_are_cut_are_lost", " | (length == longest)", ""),
]  # fmt: skip


def written(folder: Path, name: str, old: str = "", new: str = "") -> Path:
    """The file of an exercise with the book's body in it, or with a changed one."""
    body = solution(name)
    assert old in body, (name, old)
    path = folder / f"{name}.py"
    text = to_write(name, "")
    assert placeholder(name) in text
    path.write_text(text.replace(placeholder(name), body.replace(old, new)), "utf-8")
    return path


def judged_here(name: str, path: Path, cases: int = CASES) -> tuple[list[dict], dict | None]:
    """The documents of all laws and the mistake, without a process of its own."""
    messages = list(judge(name, str(path), cases, 0))
    return [value for kind, value in messages if kind == "law"], messages[-1][1]


# ----------------------------------------------------------------------------------- every exercise


def test_exercises_stand_in_reading_order_and_each_has_a_mistake_to_make():
    places = []
    for name, module in EXERCISES.items():
        names = [getattr(node, "name", "") for node in tree(module).body]
        places.append((READING_ORDER.index(module), names.index(name)))
    assert places == sorted(places)
    assert len(places) >= 20
    assert f"| {len(places)} functions of the book" in (ROOT / "docs/checks.md").read_text("utf-8")
    assert [name for name, *_ in WRONG] == list(EXERCISES)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_started_file_does_not_pass(name, tmp_path):
    path = tmp_path / f"{name}.py"
    path.write_text(to_write(name, "minibert exercise check it"), encoding="utf-8")
    with pytest.raises(AnswerFailed) as failed:
        judged_here(name, path)
    line = len(path.read_text("utf-8").splitlines())
    wanted = f"{path}: line {line}: NotImplementedError: write the body of {name}"
    assert str(failed.value) == wanted


@pytest.mark.parametrize("name", EXERCISES)
def test_every_proof_asks_the_answer(name):
    """Also one whose formula is a wrapper of the function."""
    asked = []

    def answer(*arguments, **named):
        asked.append(proof)
        return book_function(name)(*arguments, **named)

    for proof in proofs_of(name):
        formula = with_answer(proof.formula, book_function(name), answer)
        law = next(iter(proof.laws.values()))
        error, bound = law.check(formula, proof.case(law, 0, 0))
        assert error <= bound
    assert set(asked) == set(proofs_of(name))


@pytest.mark.parametrize("name", EXERCISES)
def test_the_book_passes_and_its_examples_run(name, tmp_path):
    path = written(tmp_path, name)
    laws, mistake = judged_here(name, path, 1)
    assert len(laws) == sum(len(proof.laws) for proof in proofs_of(name))
    assert [law["law"] for law in laws if not law["holds"]] == []
    assert mistake is None
    module = ModuleType("written")
    exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    report, runner = io.StringIO(), doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=report.write)
    assert (runner.failures, runner.tries > 0) == (0, True), report.getvalue()


@pytest.mark.parametrize(("name", "mistake", "old", "new"), WRONG, ids=[row[0] for row in WRONG])
def test_a_known_mistake_fails_and_is_known(name, mistake, old, new, tmp_path):
    laws, found = judged_here(name, written(tmp_path, name, old, new))
    failed = {f"{law['formula']}.{law['law']}" for law in laws if not law["holds"]}
    assert found is not None
    assert found["name"].endswith(f".{mistake}")
    [(proof, known)] = [
        (proof, proof.mistakes[mistake]) for proof in proofs_of(name) if mistake in proof.mistakes
    ]
    assert failed & {f"{proof.name}.{law}" for law in known.laws}
    assert found["source"] == (known.source or None)
    for law in laws:
        assert (law["case"] is None) == law["holds"]
        assert law["holds"] or law["case"]["inputs"].keys() <= set(argument_names(name))


def argument_names(name: str) -> tuple[str, ...]:
    code = book_function(name).__code__
    return code.co_varnames[: code.co_argcount]


# ------------------------------------------------------------------------------------------ one law


def law_of(name: str, path: Path, words: str, cases: int = 20) -> dict:
    return next(law for law in judged_here(name, path, cases)[0] if law["words"] == words)


def test_a_failing_law_shows_its_smallest_case_and_what_was_expected(tmp_path):
    path = written(tmp_path, "linear_schedule", "step / warmup", "2 * step / warmup")
    laws, mistake = judged_here("linear_schedule", path, 20)
    law = next(law for law in laws if law["layer"] == "spec")
    assert not law["holds"]
    assert law["error"] > law["bound"]
    inputs = {name: int(text) for name, text in law["case"]["inputs"].items()}
    right = inputs["step"] / inputs["warmup"]
    assert float(law["case"]["expected"]) == pytest.approx(right, rel=1e-3)
    assert float(law["case"]["came_out"]) == pytest.approx(2 * right, rel=1e-3)
    assert mistake is None
    assert all(law["case"]["expected"] is None for law in laws if law["case"] and
               law["layer"] not in ("spec", "reference"))


def test_of_the_cases_that_fail_the_one_with_the_fewest_numbers_is_shown(tmp_path):
    path = written(tmp_path, "softmax", "at_least_float32(x_R)", "at_least_float32(x_R) / 2")
    law = law_of("softmax", path, "it is torchs softmax")
    assert law["case"]["inputs"]["x_R"].startswith("float64 [7]  [")  # one row, the least there is


def test_a_difference_beyond_the_digits_that_are_shown_gets_all_of_them(tmp_path):
    path = written(tmp_path, "softmax", "weights_R / total_1", "weights_R / total_1 * (1 + 1e-9)")
    case = law_of("softmax", path, "it is torchs softmax")["case"]
    assert case["expected"] == "float64 [1, 1]  [[1]]"
    assert case["came_out"].startswith("float64 [1, 1]  [[1.000000001")


def test_what_an_answer_raises_is_told_with_its_line(tmp_path):
    wrong = "    raise KeyError('no\\nmore')"
    path = written(tmp_path, "softmax", "    total_1", f"{wrong}\n    total_1")
    number = path.read_text("utf-8").splitlines().index(wrong) + 1
    laws, mistake = judged_here("softmax", path)
    assert mistake is None
    for law in laws:
        assert law["problem"] == f"line {number}: KeyError: 'no\\nmore'"
        assert law["case"]["came_out"] == "KeyError: 'no\\nmore'"


def test_an_answer_that_changes_its_input_is_shown_what_it_was_given(tmp_path):
    path = written(tmp_path, "softmax", "wide_R = at_least_float32(x_R)", "wide_R = x_R.mul_(2)")
    case = law_of("softmax", path, "rows are distributions", CASES)["case"]
    assert case is None  # twice the scores are a distribution as well
    case = law_of("softmax", path, "it is torchs softmax", CASES)["case"]
    assert case is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.1235"),
        ("un", "'un'"),
        (["un", "##able"], "['un', '##able']"),
        ((None, True), "(None, True)"),
        ({"a": 1}, "{'a': 1}"),
        (frozenset({"un", "##able"}), "['##able', 'un']"),
        (["letters"] * 20, "list of 140 letters"),
        ([1] * 25, "list of 25 numbers"),
        (torch.tensor([[0.123456, -math.inf]]), "float32 [1, 2]  [[0.1235, -inf]]"),
        (torch.arange(30), "int64 [30]  [0, 1, 2, 3, 4, 5, …]"),
        (fresh(3), "a generator of seed 3"),
        (BertConfig(hidden_size=24), "BertConfig(hidden_size=24)"),
        (LinearWeights(torch.ones(1, 1), torch.ones(0)),
         "LinearWeights(weight_OI=float32 [1, 1]  [[1]], bias_O=float32 [0]  [])"),
        (ValueError("no\nmore"), "ValueError: no"),
        (print, "a function"),
    ],
)
def test_values_as_text(value, text):
    assert text_of(value) == text


# ------------------------------------------------------------------------ files that cannot be used


BAD = [
    ("def softmax(x):\n    return (x\n", "line 2: '(' was never closed"),
    ("import torch\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    ("exit()\n", "line 1: SystemExit"),
    ("raise KeyboardInterrupt\n", "line 1: KeyboardInterrupt"),
    ("def softmaxx(x):\n    return x\n", "it defines no function softmax"),
    ("from minibert.functional import softmax\n", "it defines no function softmax"),
    ("softmax = 3\n", "it defines no function softmax"),
    ("x = '\0'\n", "null bytes"),
    (None, "No such file or directory; minibert exercise start softmax writes it"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said for _, said in BAD])
def test_a_file_that_cannot_be_used_is_one_sentence(text, said, tmp_path):
    path = tmp_path / "softmax.py"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(AnswerError) as error:
        judged_here("softmax", path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


# --------------------------------------------------------------------------------- the command line


@pytest.fixture
def judged_at_once(monkeypatch):
    """The command without a process of its own, which takes seconds to begin."""

    def judged(name, path, cases, seed, seconds):
        laws, mistake = judged_here(name, path)
        return {"laws": laws, "mistake": mistake}

    monkeypatch.setattr(sys.modules[f"{cli.__name__}.exercise"], "judged", judged)


def test_from_the_list_to_the_next_exercise(minibert, judged_at_once):
    rows = {row["name"]: row for row in minibert("exercise list --json").document["exercises"]}
    assert list(rows) == list(EXERCISES)
    assert rows["softmax"]["state"] == ""
    assert rows["softmax"]["lines"] == lines_of("softmax") == 6
    assert rows["softmax"]["about"] == "Turn scores into probabilities."

    answer = minibert("exercise start softmax")
    assert answer.code == 0
    assert answer.out.endswith("then run minibert exercise check softmax\n")
    lines = minibert("exercise list").out.splitlines()
    assert " started " in lines[1]
    assert lines[-1] == f"0 of {len(EXERCISES)} pass; minibert exercise start softmax"
    elsewhere = minibert("exercise list --out mine").out.splitlines()[-1]
    assert elsewhere.endswith("; minibert exercise start softmax --out mine")

    path = Path("exercises/softmax.py")
    begun = path.read_text("utf-8")
    path.write_text(begun.replace(placeholder("softmax"), solution("softmax")), "utf-8")
    again = minibert("exercise start softmax")
    assert again.code == 2
    assert "already exists; --overwrite starts over" in again.said

    answer = minibert("exercise check softmax")
    assert answer.code == 0
    last = "Every one of the 15 laws of softmax holds. Next: minibert exercise start log_softmax"
    assert answer.out.splitlines()[-1] == last
    lines = minibert("exercise list").out.splitlines()
    assert " passes " in lines[1]
    assert lines[-1] == f"1 of {len(EXERCISES)} pass; minibert exercise start log_softmax"

    path.write_text(path.read_text("utf-8") + "# changed\n", "utf-8")
    assert " started " in minibert("exercise list").out.splitlines()[1]
    assert minibert("exercise start softmax --overwrite").code == 0
    assert path.read_text("utf-8") == begun
    Path("exercises", PASSED_FILE).write_text("{", "utf-8")
    assert " started " in minibert("exercise list").out.splitlines()[1]


def test_a_known_mistake_on_the_command_line(minibert, judged_at_once, tmp_path):
    row = next(row for row in WRONG if row[0] == "layer_norm")
    written(tmp_path, row[0], *row[2:])
    answer = minibert("exercise check layer_norm --out .")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert any(line.startswith("FAILS  it is torchs layer norm: error ") for line in lines)
    assert any(line.startswith("         x_D  ") for line in lines)
    assert lines[-3] == f"{answer.out.count('FAILS')} of the 15 laws of layer_norm fail"
    assert lines[-2].endswith(" the known mistake functional.layer_norm.bessels_correction")
    assert lines[-1].startswith("seen in https://")
    assert not Path(PASSED_FILE).exists()


def test_the_documents_are_those_of_the_documentation(minibert, judged_at_once, tmp_path):
    listed = minibert("exercise list --json").document
    assert shape_of(listed) == shape_of(documented("exercise"))
    assert shape_of(minibert("exercise start softmax --json").document) == shape_of(
        documented("exercise", 1)
    )
    row = next(row for row in WRONG if row[0] == "layer_norm")
    written(tmp_path, row[0], *row[2:])
    answer = minibert("exercise check layer_norm --out . --json").document
    example = documented("exercise", 2)
    assert answer["laws"][0].keys() == example["laws"][0].keys()
    assert answer["laws"][0]["case"].keys() == example["laws"][0]["case"].keys()
    assert answer["mistake"].keys() == example["mistake"].keys()
    shapes = (shape_of(one | {"laws": [], "mistake": {}}) for one in (answer, example))
    assert next(shapes) == next(shapes)


def test_a_name_that_is_none_gets_a_hint(minibert):
    answer = minibert("exercise start softmx")
    assert answer.code == 2
    assert "there is no exercise 'softmx'; did you mean softmax" in answer.said
    assert "`minibert exercise list` has them all" in minibert("exercise check q").said


def test_what_the_process_finds_comes_back_and_what_it_prints_is_no_result(tmp_path):
    path = written(tmp_path, "causal_bias", "return", "print('asked'); return")
    command = "from minibert.cli import main; main()"
    options = f"exercise check causal_bias --out {tmp_path} --cases 1 --json".split()
    done = subprocess.run(
        [sys.executable, "-c", command, *options], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passes"]
    assert document["file"] == str(path)
    assert [law["holds"] for law in document["laws"]] == [True] * 6
    assert set(done.stderr.splitlines()) == {"asked"}


def test_a_loop_without_an_end_is_stopped(tmp_path, monkeypatch):
    """A small process in the place of the one that would import torch first."""
    text = "def loop(sender, *work):\n    sender.send(('doing', 'it ran'))\n    while True: pass\n"
    (tmp_path / "endless.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(exercises, "_try_answer", importlib.import_module("endless").loop)
    path = written(tmp_path, "softmax")
    with pytest.raises(AnswerFailed, match=r"stopped after 0\.2 seconds, while it ran"):
        exercises.judged("softmax", path, 1, 0, 0.2)
    assert multiprocessing.active_children() == []


def test_a_process_that_ends_is_told(tmp_path, monkeypatch, capfd):
    """As after a crash, or an exit in the midst of an answer."""
    monkeypatch.setattr(exercises, "_try_answer", print)  # the process prints, and is gone
    path = written(tmp_path, "softmax")
    with pytest.raises(AnswerFailed, match="it ended the process while nothing was done yet"):
        exercises.judged("softmax", path, 1, 0, 60)
    assert "softmax.py 1 0\n" in capfd.readouterr().out


def test_a_file_that_is_missing_ends_with_3(minibert):
    answer = minibert("exercise check layer_map")
    assert answer.code == 3
    assert answer.said.endswith("minibert exercise start layer_map writes it")
