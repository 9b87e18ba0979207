"""`minibert plot`: the numbers in a picture are the book's, and its file is whole."""

import dataclasses
import doctest
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny
import torch
from command import documented, shape_of

from minibert import optim, pictures
from minibert import picture_numbers as numbers
from minibert.config import CheckpointError
from minibert.data.readers import TASKS, Dataset
from minibert.explain.reading import NotReadable
from minibert.functional import softmax
from minibert.model import Bert
from minibert.pruned import without_idle
from minibert.training import agreement, curves, students
from minibert.training.agreement import answers_beside
from minibert.training.curves import loss_curves
from minibert.training.evaluation import evaluated
from minibert.translator import Asked

TEXT = "the film was very bright"
STAGES = [
    {"phase": "intermediate", "step": 4, "train": {"loss": 9.0, "hidden": 1.0, "attention": 4.0}},
    {"phase": "intermediate", "step": 8, "train": {"loss": 3.0, "hidden": 1.0, "attention": 1.0}},
    {"phase": "prediction", "step": 5, "train": {"loss": 0.5}, "dev": {"accuracy": 0.75}},
    {"phase": "prediction", "step": 10, "train": {"loss": 0.25}, "dev": {"accuracy": 0.5}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run with a teacher of its own, a dev set, weights of its terms and rows of two stages."""
    folder = tmp_path_factory.mktemp("plot")
    tiny.classifier(1).save_pretrained(folder)
    tiny.classifier(2).save_pretrained(folder / "teacher")
    tiny.write_table(folder / "dev.tsv", tiny.examples(20, 2))
    options = {"attention_weight": 2.0, "data": str(folder), "task": "classify", "max_length": 20}
    (folder / "run.json").write_text(json.dumps(options))
    rows = "".join(json.dumps(row) + "\n" for row in STAGES)
    (folder / "metrics.jsonl").write_text(rows)
    return folder


KINDS = {
    "attention": ("--model {f}", ["layer 2", "head 3", "[CLS]", "bright", "share"]),
    "attention --head 2.3": ("--model {f}", ["layer 2, head 3", "[SEP]", "0."]),
    "embeddings": ("--model {f} good bad film", ["good", "bad", "film", "% of the variance"]),
    "schedules": ("--steps 50", [*"linear google constant cosine inverse_sqrt".split(), "step"]),
    "adam": ("", ["6.57 at step 12", "with correction", "without, warm-up 34"]),
    "losses": ("{f}", ["intermediate", "prediction", "attention", "hidden", "best 0.7500"]),
    "students": ("{f}", ["teacher: probability of praise", "both blame", "they agree"]),
}


@pytest.fixture(scope="module")
def kept() -> dict[str, tuple[Any, str]]:
    return {}


@pytest.fixture
def drawn(minibert, folder, tmp_path, kept):
    """Draw a kind, once for all tests: what `--json` prints, and the picture."""
    pytest.importorskip("matplotlib")

    def draw(kind: str) -> tuple[Any, str]:
        if kind not in kept:
            texts = [TEXT] if kind.startswith("attention") else []
            line = f"plot {kind} {KINDS[kind][0].format(f=folder)} -o {tmp_path}/a.svg"
            answer = minibert(f"{line} --ground transparent --json", *texts)
            assert (answer.code, answer.err) == (0, "")
            kept[kind] = answer.document, (tmp_path / "a.svg").read_text("utf-8")
        return kept[kind]

    return draw


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_its_words_and_tells_its_numbers(kind, drawn):
    document, svg = drawn(kind)
    words = KINDS[kind][1]
    assert document["bytes"] == len(svg.encode())
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = " ".join(t for e in root.iter() if (t := (e.text or "").strip()))
    for word in words:
        assert word in written
    number = list(dict.fromkeys(name.split()[0] for name in KINDS)).index(kind.split()[0])
    told = documented("plot", number)
    assert document.keys() == told.keys()
    if kind in ("adam", "attention"):
        assert shape_of(document) == shape_of(told)


def test_a_picture_is_the_same_on_every_call(minibert, folder, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        answer = minibert(f"plot embeddings film --model {folder} -o {tmp_path}/{name}")
        said = rf".*/{name}: 1 word on two axes with [\d.]+% of the variance\n"
        assert re.fullmatch(said, answer.out)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("ground", pictures.GROUNDS)
def test_a_png_has_the_colour_of_its_ground(ground):
    numpy = pytest.importorskip("numpy")
    image = pytest.importorskip("matplotlib.image")
    from io import BytesIO

    draw = lambda figure: figure.subplots()  # noqa: E731
    content = pictures.picture(draw, (1, 1), ".png", ground)
    assert content.startswith(b"\x89PNG")
    pixel = image.imread(BytesIO(content), format="png")[0, 0]
    wanted = {"white": (1, 1, 1, 1), "dark": (20 / 255, 23 / 255, 28 / 255, 1)}
    if ground == "transparent":
        assert pixel[3] == 0
    else:
        assert numpy.allclose(pixel, wanted[ground], atol=1e-3)


def test_every_colour_stands_out_on_white_and_on_dark_pages():
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((light(one), light(other)))
        return (high + 0.05) / (low + 0.05)

    for colour in pictures.COLOURS:
        for page in ("white", "dark"):
            assert contrast(colour, pictures.GROUNDS[page][0]) >= 3, (colour, page)
    for page in ("white", "dark"):
        assert contrast(*pictures.GROUNDS[page]) >= 7


def test_words_stay_as_they_are_and_names_that_nobody_uses_go():
    pytest.importorskip("matplotlib")
    words = ("a$b$c", "<b>&", "it's ##ly")
    points = numbers.Points({"g": {word: (i, i * i) for i, word in enumerate(words)}}, (0.5, 0.3))

    def draw(figure):
        pictures.draw_points(figure, points)

    svg = pictures.picture(draw, (4, 4)).decode()
    written = [e.text for e in ElementTree.fromstring(svg).iter() if e.text]
    assert set(words) <= set(written)
    assert "50.0% of the variance" in svg
    ids = re.findall(r' id="([^"]+)"', svg)
    assert ids
    assert all(f"#{name}" in svg for name in ids)
    assert "<style" not in svg
    assert "<metadata" not in svg


# ------------------------------------------------------------------------------------- attention

FIRST_SR = torch.tensor([[0.125, 0.25, 0.625], [0.5, 0.375, 0.125], [0.75, 0.0, 0.25]])
SECOND_SR = FIRST_SR[[1, 2, 0]]
SHARES = numbers.Shares(["a", "b$c", "d"], [2, 5], [
    torch.stack([FIRST_SR, SECOND_SR]), torch.stack([SECOND_SR.T, FIRST_SR.T]),
])  # fmt: skip


@pytest.fixture
def figure():
    return pytest.importorskip("matplotlib.figure").Figure()


def words_of(ticks) -> list[str]:
    return [label.get_text() for label in ticks]


def test_each_map_is_that_of_its_head(figure):
    """A row asks, a column is asked; the tokens stand at the left and below."""
    pictures.draw_heads(figure, SHARES)
    fields = [axes for axes in figure.axes if axes.images]
    assert len(fields) == 4
    for number, axes in enumerate(fields):
        row, column = divmod(number, 2)
        assert axes.images[0].get_array().tolist() == SHARES.maps[row][column].tolist()
        assert axes.images[0].norm.vmax == pytest.approx(0.8)
        tokens = ["a", r"b\$c", "d"]
        assert words_of(axes.get_yticklabels()) == (tokens if column == 0 else [])
        assert words_of(axes.get_xticklabels()) == (tokens if row == 1 else [])
        assert axes.get_title() == (f"head {column + 1}" if row == 0 else "")
        assert axes.get_ylabel() == (f"layer {SHARES.layers[row]}" if column == 0 else "")
    assert figure.get_supxlabel() == "token that is asked"
    assert figure.get_supylabel() == "token that asks"


@pytest.mark.parametrize("head", [1, 2])
def test_one_head_has_its_numbers_at_their_places(head, figure):
    pictures.draw_head(figure, SHARES, head)
    axes, shares = figure.axes[0], SHARES.maps[0][head - 1].tolist()
    assert axes.images[0].get_array().tolist() == shares
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (r, s): f"{shares[s][r]:.2f}" for s in range(3) for r in range(3)
    }
    assert axes.get_title() == f"layer 2, head {head}"
    assert axes.get_xlabel() == "token that is asked"
    assert axes.get_ylabel() == "token that asks"


def test_what_was_written_asks_what_was_read(figure):
    """Of a translation the means over the heads, a field for each layer."""
    shares_LNSR = torch.rand(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    pictures.draw_cross_attention(figure, Asked(list("abcd"), list("xy"), shares_LNSR))
    for layer, axes in enumerate(figure.axes[:2]):
        mean_SR = sum(shares_LNSR[layer, head] for head in range(3)) / 3
        drawn_SR = torch.tensor(axes.images[0].get_array().tolist())
        assert torch.allclose(drawn_SR, mean_SR)
        assert axes.get_title() == f"layer {layer + 1}"
        assert words_of(axes.get_xticklabels()) == list("abcd")
    assert words_of(figure.axes[0].get_yticklabels()) == list("xy")


def test_json_has_the_shares_that_are_drawn(drawn, folder):
    maps = numbers.attention_shares(Bert.from_pretrained(folder), TEXT).maps
    for option, wanted in (("", maps), (" --head 2.3", [maps[1][2:]])):
        shares = drawn(f"attention{option}")[0]["shares"]
        assert torch.allclose(torch.tensor(shares), torch.stack(wanted), rtol=6e-4, atol=0)
        assert all(share == float(f"{share:.4g}") for share in shares[0][0][0])


def test_shares_are_those_of_the_trace():
    bert = tiny.classifier()
    shares = numbers.attention_shares(bert, TEXT, "it is dull", [2])
    assert shares.layers == [2]
    assert shares.tokens == bert.tokens(TEXT, "it is dull")
    trace = bert.trace(TEXT, "it is dull")
    assert torch.allclose(
        shares.maps[0], trace.blocks[1].attention.probabilities_BNSR[0], atol=1e-6
    )
    assert len(numbers.attention_shares(bert, TEXT).maps) == 2


def test_every_head_of_a_pruned_model_is_drawn():
    pytest.importorskip("matplotlib")
    idle = tiny.classifier()
    idle.weights.blocks[0].attention.output.weight_OI[:, :8] = 0  # two of three heads do nothing
    weights, config = without_idle(idle.weights, idle.config)
    bert = dataclasses.replace(idle, weights=weights, config=config)
    shares = numbers.attention_shares(bert, TEXT)
    assert [len(maps) for maps in shares.maps] == [1, 3]

    def draw(figure):
        pictures.draw_heads(figure, shares)

    svg = pictures.picture(draw, pictures.size_of_heads(shares)).decode()
    assert svg.count("<image") == 4 + 1  # and the scale


def test_many_heads_are_drawn_without_words(figure):
    many = numbers.Shares(["bright"] * 20, [3], [torch.rand(8, 20, 20)])
    assert pictures.words_fit(many._replace(maps=[torch.rand(7, 20, 20)]))
    assert not pictures.words_fit(many)
    pictures.draw_heads(figure, many)
    assert [axes.get_title() for axes in figure.axes[:8]] == [f"head {n}" for n in range(1, 9)]
    assert not any(words_of(axes.get_yticklabels()) for axes in figure.axes[:8])


# ----------------------------------------------------------------------------------------- words


def test_places_are_principal_components():
    """Against the singular value decomposition of the whole table."""
    bert = tiny.classifier()
    points = numbers.word_points(bert, ["good", "BAD"])
    table = bert.weights.embeddings.word_VD.double()
    left, singular, _ = torch.linalg.svd(table - table.mean(0), full_matrices=False)
    for word, row in (("good", 5), ("BAD", 11)):
        assert bert.tokenizer.pieces[row] == word.lower()
        for axis in (0, 1):
            expected = abs(float(left[row, axis] * singular[axis]))
            assert abs(points.groups["words"][word][axis]) == pytest.approx(expected, rel=1e-9)
    shares = singular**2 / (singular**2).sum()
    assert points.variance == pytest.approx(shares[:2].tolist(), rel=1e-9)


def test_a_word_stands_at_its_place(figure):
    groups = {"one": {"a": (1.0, 5.0), "b": (2.0, -3.0)}, "two": {"c": (-4.0, 0.5)}}
    pictures.draw_points(figure, numbers.Points(groups, (0.5, 0.25)))
    (axes,) = figure.axes
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn == {name: list(places.values()) for name, places in groups.items()}
    assert {note.get_text(): note.xy for note in axes.texts} == groups["one"] | groups["two"]
    assert axes.get_xlabel() == "first axis, 50.0% of the variance"
    assert axes.get_ylabel() == "second axis, 25.0% of the variance"


def test_a_row_is_drawn_once():
    points = numbers.word_points(tiny.classifier(), ["good", "bad", "Good", "bad"])
    assert list(points.groups["words"]) == ["good", "bad"]


def test_words_are_grouped_where_none_are_named():
    points = numbers.word_points(tiny.classifier())
    assert list(points.groups["praise"]) == ["good", "great", "lovely"]
    assert list(points.groups["blame"]) == ["bad", "awful", "poor", "dull"]
    assert list(points.groups["things"]) == ["plot", "film", "room"]
    assert "numbers" not in points.groups, "none of them is in the vocabulary"


def test_no_word_of_ours_stands_in_two_groups():
    words = " ".join(numbers.WORDS.values()).split()
    assert len(words) == len(set(words))


# -------------------------------------------------------------------------------------- training


def test_schedules_are_those_of_the_book():
    found = numbers.schedules_over(1000, 0.1)
    assert found.warmup == 100
    assert {0, 99, 100, 101, 1000} <= set(found.steps)
    by_name = {
        "linear": optim.linear_schedule, "google": optim.google_schedule,
        "constant": optim.constant_schedule, "cosine": optim.cosine_schedule,
        "inverse_sqrt": optim.inverse_square_root_schedule,
    }  # fmt: skip
    assert found.factors == {
        name: [schedule(step, 100, 1000) for step in found.steps]
        for name, schedule in by_name.items()
    }
    assert numbers.schedules_over(2, 0.0).steps == [0, 1, 2]


def test_steps_of_adam_are_as_long_as_their_closed_form():
    """(1 - β₁ᵗ) / √(1 - β₂ᵗ) learning rates without correction, one with it."""
    lengths = numbers.adam_lengths(40)
    closed = [(1 - 0.9**t) / math.sqrt(1 - 0.999**t) for t in range(1, 41)]
    assert lengths["google"] == pytest.approx(closed, rel=1e-4)  # ε in the place of nothing
    assert lengths["kingma"] == pytest.approx([1.0] * 40, rel=1e-7)
    assert lengths["google"].index(max(lengths["google"])) + 1 == 12
    assert round(max(lengths["google"]), 2) == 6.57


def lines_of(axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line that has a name."""
    lines = {str(line.get_label()): line.get_data() for line in axes.lines}
    return {
        name: [(float(x), float(y)) for x, y in zip(*points, strict=True)]
        for name, points in lines.items()
        if not name.startswith("_")
    }


def test_schedules_and_steps_are_lines(figure):
    found = numbers.Schedules([0, 2, 6], 2, {"linear": [0.0, 1.0, 0.25], "flat": [0.5, 1.0, 1.0]})
    left, right = figure.subfigures(1, 2)
    pictures.draw_schedules(left, found)
    (axes,) = left.axes
    assert lines_of(axes) == {
        "linear": [(0, 0.0), (2, 1.0), (6, 0.25)], "flat": [(0, 0.5), (2, 1.0), (6, 1.0)]
    }  # fmt: skip
    assert axes.lines[-1].get_xdata()[0] == 2
    assert axes.texts[0].xy[0] == 2, "the end of warm-up"
    pictures.draw_adam(right, [3.0, 7.0, 6.0], [1.0, 1.5, 1.0])
    stays, rises = right.axes
    assert lines_of(stays) == {
        "without correction": [(1, 3.0), (2, 7.0), (3, 6.0)],
        "with correction": [(1, 1.0), (2, 1.5), (3, 1.0)],
    }
    assert (stays.texts[0].get_text(), stays.texts[0].xy) == ("7.00 at step 2", (2, 7.0))
    slow = lines_of(rises)["without, warm-up 1000"]
    assert slow == [(1, 0.003), (2, 0.014), (3, pytest.approx(0.018))]


def test_losses_are_on_the_left_and_scores_on_the_right(figure):
    """Names stay as they are, and what is best stands above its point."""
    terms = {"a$b$": [(1, 4.0), (3, 2.0)], "loss_x": [(1, 9.0), (3, 5.0)]}
    dev = {"f1": [(1, 0.25), (2, 0.75), (3, 0.5)]}
    pictures.draw_curves(figure, curves.Curves(terms, dev, {"one": 0, "t$w$o": 2}))
    left, right = figure.axes
    assert lines_of(left) == {r"a\$b\$": terms["a$b$"], "loss x": terms["loss_x"]}
    assert lines_of(right) == dev
    for axes in (left, right):
        assert [(n.get_text(), n.xy[0]) for n in axes.texts[:2]] == [("one", 0), (r"t\$w\$o", 2)]
    best = right.texts[2]
    assert (best.get_text(), best.xy) == ("best 0.7500", (2, 0.75))
    assert best.xyann[1] >= 7, "points above: the ring has a radius of 5.5"
    assert right.get_ylim()[1] > 0.75 + 0.15 * 0.5, "and there is room for it"
    assert list(zip(*right.lines[-1].get_data(), strict=True)) == [(2, 0.75)]


def test_json_has_the_lines_that_are_drawn(drawn, folder):
    found, _ = drawn("losses")
    assert found["terms"]["attention"] == [[4, 8.0], [8, 2.0]]
    assert (found["dev"], found["best"]) == (
        {"accuracy": [[13, 0.75], [18, 0.5]]}, {"accuracy": 0.75}
    )  # fmt: skip
    found, _ = drawn("embeddings")
    places = numbers.word_points(Bert.from_pretrained(folder), ["good", "film"]).groups["words"]
    for word, place in places.items():
        assert found["words"]["words"][word] == pytest.approx(place, rel=6e-4)
    found, _ = drawn("schedules")
    assert found["schedules"]["linear"][4:7] == [[4, 0.8], [5, 1.0], [6, 0.9778]]
    found, _ = drawn("adam")
    assert (found["without"][:2], found["with"][2]) == ([3.162, 4.249], 1.0)
    assert (found["without"][11], found["longest"], found["step"]) == (6.568, 6.568, 12)


def test_terms_count_as_they_are_weighted(folder):
    options = json.loads((folder / "run.json").read_text())
    found = loss_curves(folder, options)
    assert found.terms == {
        "hidden": [(4, 1.0), (8, 1.0)],
        "attention": [(4, 8.0), (8, 2.0)],
        "prediction": [(13, 0.5), (18, 0.25)],
        "loss": [(4, 9.0), (8, 3.0)],
    }
    assert list(found.terms)[-1] == "loss"
    assert found.dev == {"accuracy": [(13, 0.75), (18, 0.5)]}
    assert found.starts == {"intermediate": 0, "prediction": 8}


def test_stages_follow_each_other(tmp_path):
    rows = [{"phase": stage, "step": step, "lr": 0.1, "train": {"loss": 1.0, "x": step}}
            for stage in "abc" for step in (2, 5)]  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = loss_curves(tmp_path, {})
    assert found.starts == {"a": 0, "b": 5, "c": 10}
    assert [step for step, _ in found.terms["x"]] == [2, 5, 7, 10, 12, 15]


@pytest.mark.parametrize(
    ("stage", "options", "name"),
    [
        ("intermediate", {"embedding_weight": 0, "hidden_weight": 0}, "attention"),
        ("intermediate", {}, "loss"),
        ("prediction", {"prediction_weight": 0, "label_weight": 0.5}, "label"),
        ("finetune", {}, "loss"),
    ],
)
def test_the_only_term_of_a_stage_has_its_name(stage, options, name, tmp_path):
    row = {"phase": stage, "step": 1, "train": {"loss": 2.0}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert loss_curves(tmp_path, options).terms == {name: [(1, 2.0)]}


def test_what_is_no_number_is_left_out(tmp_path):
    row = {"phase": "tiny", "step": 1}
    rows = [row | {"train": {"loss": math.nan, "hidden": "x"}, "dev": 3}, row | {"step": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CheckpointError, match="holds no loss that is a finite number"):
        loss_curves(tmp_path, {})


# -------------------------------------------------------------------------- student and teacher


def test_answers_of_two_classes_are_counted():
    teacher, student, dataset = tiny.classifier(2), tiny.classifier(1), tiny.dataset(30, 2)
    answers = answers_beside(teacher, student, dataset, 20)
    said = []
    for model, number_X in ((teacher, answers.teacher_X), (student, answers.student_X)):
        rows = model.classify([example.first for example in dataset.examples])
        praise = [shares["praise"] for _, shares in rows]
        assert number_X == pytest.approx(praise, abs=1e-5)
        said.append([number > 0.5 for number in number_X])
    pairs = list(zip(*said, strict=True))
    assert {place: n for place, (n, _) in answers.corners.items()} == {
        place: pairs.count(place)
        for place in ((True, True), (True, False), (False, True), (False, False))
    }
    assert answers.corners[True, False][1] == "teacher praise,\nstudent blame"
    assert answers.agree_X == [one == other for one, other in pairs]
    assert 0 < sum(answers.agree_X) < 30, "a set on which they do not always agree"
    spots = [answers.spots(same) for same in (True, False)]
    assert [sum(found.values()) for found in spots] == [
        sum(answers.agree_X), 30 - sum(answers.agree_X)
    ]  # fmt: skip
    x, y = next(iter(spots[0]))
    assert (round(x, 2), round(y, 2)) == (x, y)


def test_answers_of_more_classes_are_right_or_wrong():
    names = ("a", "b", "c")
    task = dataclasses.replace(TASKS["classify"], label_names=names)
    rows = [row._replace(label=i % 3) for i, row in enumerate(tiny.examples(30, 3))]
    dataset = Dataset(Path("three"), task, tuple(rows))
    models = [
        Bert.from_config(
            tiny.config(initializer_range=0.5).with_labels(names, "single_label_classification"),
            "classification", tiny.tokenizer(), seed,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    answers = answers_beside(*models, dataset, 20)
    counts = {place: count for place, (count, _) in answers.corners.items()}
    assert sum(counts.values()) == 30
    for number, model in enumerate(models):
        right = sum(count for place, count in counts.items() if place[number])
        assert right / 30 == pytest.approx(evaluated(model, dataset, 20)["accuracy"])
    assert answers.cut is None
    logits = [agreement.task_answers(model, dataset, 20) for model in models]
    label = int(rows[4].label or 0)
    for logits_XC, number_X in zip(logits, (answers.teacher_X, answers.student_X), strict=True):
        assert number_X[4] == pytest.approx(float(softmax(logits_XC)[4, label]), abs=1e-6)
    one_X, other_X = (logits_XC.argmax(-1) for logits_XC in logits)
    assert answers.agree_X == (one_X == other_X).tolist()
    assert sum(answers.agree_X) < counts[True, True] + counts[False, False], "unlike and both wrong"


def test_answers_of_a_regression_are_scores():
    rows = [row._replace(label=float(i % 5)) for i, row in enumerate(tiny.examples(20, 3))]
    dataset = Dataset(Path("scores"), TASKS["regress"], tuple(rows))
    config = tiny.config().with_labels(("score",), "regression")
    models = [Bert.from_config(config, "classification", tiny.tokenizer(), s) for s in (1, 2)]
    answers = answers_beside(*models, dataset, 20)
    assert (answers.what, answers.cut) == ("score", 2.0)
    assert answers.span == (
        min(answers.teacher_X + answers.student_X), max(answers.teacher_X + answers.student_X)
    )  # fmt: skip
    above = sum(x > 2.0 for x in answers.teacher_X)
    assert answers.corners[True, True][0] + answers.corners[True, False][0] == above


def test_an_answer_lies_where_both_models_say_it(figure):
    """The teacher to the right, the student upwards; so do the counts in the corners."""
    corners = {(True, True): (4, "tt"), (True, False): (3, "t"), (False, True): (2, "s"),
               (False, False): (1, "$")}  # fmt: skip
    answers = agreement.Answers(
        "yes", [0.9, 0.8, 0.25, 0.25], [0.2, 0.7, 0.125, 0.125], [False, True, True, True], 0.6,
        (0.0, 1.0), corners,
    )  # fmt: skip
    pictures.draw_answers(figure, answers)
    (axes,) = figure.axes
    spots = {dots.get_label(): dots.get_offsets().tolist() for dots in axes.collections}
    assert spots == {"they agree": [[0.8, 0.7], [0.25, 0.12]], "they do not": [[0.9, 0.2]]}
    one, two = axes.collections[0].get_sizes()
    assert two > one, "two texts lie there"
    found = {(x > 0.5, y > 0.5): note.get_text() for note in axes.texts for x, y in [note.xy]}
    assert found == {(True, True): "4\ntt", (True, False): "3\nt", (False, True): "2\ns",
                     (False, False): "1\n\\$"}  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("teacher: yes", "student: yes")


def test_a_run_is_measured_on_its_dev_set_and_on_whole_texts(minibert, folder, tmp_path):
    """Of `--data` and `--dev` it is the second, cut where the run cut them."""
    pytest.importorskip("matplotlib")
    teacher, student = tiny.classifier(2), tiny.classifier(1)
    student.save_pretrained("run")
    tiny.classifier(3).save_pretrained("run/teacher")  # these two are left by a demo before
    tiny.write_table(Path("run/held_out.tsv"), tiny.examples(9, 9))
    texts = tuple(row._replace(first=f"the tree is so very of a day {row.first}")
                  for row in tiny.examples(6, 5))  # fmt: skip
    dev = str(tiny.write_table(tmp_path / "own.tsv", texts))
    options = json.loads((folder / "run.json").read_text())
    options |= {"dev": dev, "teacher": str(folder / "teacher")}
    Path("run/run.json").write_text(json.dumps(options))
    found = minibert("plot students run -o a.svg --json").document
    assert (found["data"], found["n"]) == (dev, 6)
    dataset = Dataset(Path("own"), tiny.CLASSIFY, texts)
    at_8, at_20 = (
        {
            name: [[*place, count] for place, count in answers.spots(same).items()]
            for name, same in (("agree", True), ("differ", False))
        }
        for most in (8, 20)
        for answers in [answers_beside(teacher, student, dataset, most)]
    )
    assert at_8 != at_20 == found["points"]


def test_scores_are_found_where_no_task_was_named(minibert, tmp_path):
    pytest.importorskip("matplotlib")
    config = tiny.config().with_labels(("score",), "regression")
    for seed, name in enumerate(("run", "teacher")):
        Bert.from_config(config, "regression", tiny.tokenizer(), seed).save_pretrained(name)
    Path("dev.tsv").write_text("sentence\tscore\na film\t0.5\na plot\t0.25\n")
    options = {"task": None, "teacher": "teacher", "data": "dev.tsv", "max_length": 20}
    Path("run/run.json").write_text(json.dumps(options))
    answer = minibert("plot students run -o a.svg --json")
    assert answer.code == 0, answer.said
    assert answer.document["n"] == 2


# -------------------------------------------------------------------------------------- refusals

REFUSED = [
    ("adam -o a.pdf", 2, "the name must end in .svg or .png"),
    ("adam -o none/a.svg", 2, "there is no such folder"),
    ("adam", 2, "Missing option '-o'"),
    ("pie -o a.svg", 2, "No such command 'pie'"),
    ("schedules --warmup 1.5 -o a.svg", 2, "1.5 is not in the range"),
    ("attention --model {f} -o a.svg", 2, "Missing argument 'TEXT'"),
    ("attention film --model {f} --layers 3 -o a.svg", 2, "the model has layers 1 to 2"),
    ("attention film --model {f} --layers x -o a.svg", 2, "give numbers such as 1,3 or 2-4"),
    ("attention film --model {f} --head 2 -o a.svg", 2, "give LAYER.HEAD, such as 2.3"),
    ("attention film --model {f} --head ٢.١ -o a.svg", 2, "give LAYER.HEAD, such as 2.3"),
    ("attention film --model {f} --layers ٢ -o a.svg", 2, "give numbers such as 1,3 or 2-4"),
    ("attention film --model {f} --head 2.4 -o a.svg", 2, "layer 2 has heads 1 to 3"),
    ("attention film --model {f} --head 0.1 -o a.svg", 2, "there is no layer 0"),
    ("attention film --model {f} --head 1.1 --layers 1 -o a.svg", 2, "leave out --layers"),
    ("attention film --model {f}/none -o a.svg", 3, "there is no folder"),
    ("embeddings film filmroom --model {f} -o a.svg", 2, "the model reads [UNK]; give words that"),
    ("embeddings \udcff --model {f} -o a.svg", 2, "a word is not UTF-8"),
    ("losses {f}/teacher -o a.svg", 3, "holds no metrics.jsonl of a run"),
    ("losses {f}/none -o a.svg", 3, "there is no folder"),
    ("losses {f}/.. -o a.svg", 3, "name one of the runs in it, such as"),
    ("students {f}/teacher -o a.svg", 2, "does not name its teacher"),
    ("students {f}/teacher --teacher {f} -o a.svg", 2, "give --data"),
    ("students {f} --data {f}/none -o a.svg", 3, "none: no such file or folder"),
    ("students {f} --task stsb -o a.svg", 3, "needs two sentences"),
]


@pytest.mark.parametrize(("line", "code", "said"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_what_cannot_be_drawn_is_said(line, code, said, minibert, folder, tmp_path):
    pytest.importorskip("matplotlib")
    answer = minibert("plot " + line.format(f=folder))
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.said
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_of_a_run_that_was_moved_it_is_said_what_to_give(minibert, tmp_path):
    pytest.importorskip("matplotlib")
    tiny.classifier().save_pretrained("run")
    for options, said in (
        ({"teacher": "./gone"}, "the teacher of run: there is no folder './gone'; give --teacher"),
        ({"teacher": "run", "data": "gone"},
         "gone, on which run was measured, is not there; give --data"),
    ):  # fmt: skip
        Path("run/run.json").write_text(json.dumps(options))
        answer = minibert("plot students run -o a.svg")
        assert (answer.code, answer.said) == (3, said)
    answer = minibert("plot students run --data none -o a.svg")
    assert answer.said == "none: no such file or folder"


def test_a_matplotlib_that_does_not_load_is_one_sentence(minibert, monkeypatch):
    pytest.importorskip("matplotlib")

    def broken(name):
        raise ImportError("libfreetype.so: cannot open\nsee the manual")

    monkeypatch.setattr("minibert.cli.options.import_module", broken)
    answer = minibert("plot adam -o a.svg")
    assert answer.code == 2
    assert answer.said == (
        "pictures need matplotlib, but the installed one does not load (libfreetype.so: "
        "cannot open); fix that, or reinstall it: pip install --force-reinstall matplotlib"
    )


def test_without_matplotlib_it_is_said_what_to_install(minibert, monkeypatch):
    monkeypatch.setattr("minibert.cli.options.find_spec", lambda name: None)
    answer = minibert("plot adam -o a.svg --json")
    assert answer.code == 2
    assert answer.document == {"error": "pictures need matplotlib; pip install 'minibert[plot]'"}


def test_words_of_several_pieces_are_told_apart():
    tokenizer = tiny.Tokenizer.from_vocabulary([*tiny.SPECIALS, "dull", "##ness", "warm"])
    assert numbers.piece_of("##ness", tokenizer) == 6
    assert numbers.piece_of("WARM", tokenizer) == 7
    with pytest.raises(NotReadable, match="the model reads dull ##ness; give words"):
        numbers.piece_of("dullness", tokenizer)


def test_a_file_that_cannot_be_written_leaves_the_old_one(minibert, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    (tmp_path / "a.svg").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("minibert.writing.flush", full)
    answer = minibert("plot schedules --steps 9 -o a.svg")
    assert answer.code == 1
    assert "cannot be written" in answer.said
    assert (tmp_path / "a.svg").read_text() == "old"


@pytest.mark.parametrize("module", [numbers, students, curves, agreement])
def test_docstrings_run(module):
    result = doctest.testmod(module)
    assert result.failed == 0
