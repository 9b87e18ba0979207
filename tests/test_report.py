"""The page and the model card of a distillation: sound markup, true pictures, nothing claimed.

Pictures are judged by their numbers: where a curve goes, whether anything leaves the frame, and
whether two words lie on each other.
"""

import itertools
import math
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tiny
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training import files_in, room_for

from minibert.config import CheckpointError
from minibert.training.axes import (
    LARGEST,
    SIZE,
    escaped,
    linear_scale,
    logarithmic_scale,
    number,
    scale_of,
    shortened,
    text_width,
)
from minibert.training.card import MARKER, model_card
from minibert.training.charts import (
    DARK,
    DARK_SERIES,
    LIGHT,
    LIGHT_SERIES,
    WIDTH,
    Line,
    layer_map,
    line_chart,
    share_bars,
    style,
)
from minibert.training.findings import headline, main_metric, toml
from minibert.training.report import POLICY, page, write_model_card, write_report
from minibert.training.runs import METRICS_FILE, write_metrics

ROWS = [
    {
        "phase": "intermediate",
        "epoch": epoch,
        "step": 40 * epoch,
        "lr": 1e-3,
        "train": {"loss": 2.0 / epoch, "embedding": 0.3 / epoch, "hidden": 1.7 / epoch},
        "seconds": 1.5,
    }
    for epoch in (1, 2, 3)
] + [
    {
        "phase": "prediction",
        "epoch": epoch,
        "step": 40 * epoch,
        "lr": 1e-3,
        "train": {"loss": 0.5 / epoch},
        "dev": {"accuracy": accuracy, "f1": 0.5},
        "seconds": 1.5,
    }
    for epoch, accuracy in enumerate((0.80, 0.86, 0.84, 0.86), start=1)
]
RECORD: dict[str, Any] = {
    "title": "A small student",
    "command": "minibert distill --teacher big/one --data glue/sst2",
    "recipe": {"student": "4x128", "lr": 3e-4, "labels_too": True, "weights": {"hidden": 1.0}},
    "versions": {"minibert": "0.1", "torch": "2.13.0", "python": "3.11", "platform": "Linux"},
    "threads": 1,
    "seed": 7,
    "date": "2026-07-01T10:00:00",
    "teacher": {"name": "big/one", "layers": 6, "width": 384, "heads": 12, "feed_forward": 1536,
                "parameters": 22_713_986},
    "student": {"name": "student", "layers": 4, "width": 128, "heads": 4, "feed_forward": 512,
                "parameters": 4_785_410},
    "layers": [2, 3, 5, 6],
    "losses": [["embedding", "weight 1", "a learned map between"], ["hidden", "weight 1", "1 ← 2"],
               ["attention", "off", "4 heads"], ["prediction", "T = 1", "2 outputs each"]],
    "task": "sst2",
    "n": 872,
    "models": [
        {"name": "teacher", "metrics": {"accuracy": 0.9174, "f1": 0.9}, "parameters": 22_713_986,
         "bytes": 90_000_000, "sentences_per_second": 350.0},
        {"name": "student", "metrics": {"accuracy": 0.8725, "f1": 0.8}, "parameters": 4_785_410,
         "bytes": 19_000_000, "sentences_per_second": 3290.0},
    ],
    "shares": {
        "intermediate": {"teacher": 5.0, "student": 4.0, "optimiser": 1.0, "steps": 120},
        "prediction": {"student": 9.0, "optimiser": 1.0, "steps": 160},
    },
    "notes": ["a note"],
}  # fmt: skip

# --------------------------------------------------------------------------------- reading pages

VOID = {"meta", "link", "img", "br", "hr", "input"}
INLINE_SVG = {"svg", "g", "path", "line", "rect", "circle", "text", "title", "desc"}
ALLOWED = INLINE_SVG | set(
    "html head meta style body main section h1 h2 h3 p div table thead tbody tr th td small figure "
    "figcaption pre code ul li".split()
)
NAMING = {"id", "aria-labelledby", "aria-label", "class", "role", "tabindex", "scope", "lang"}
DRAWING = set(
    "viewbox x y x1 y1 x2 y2 width height rx cx cy r d transform stroke stroke-width "
    "stroke-dasharray text-anchor".split()
)
OF_META = {"charset", "name", "content", "http-equiv"}


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str]
    text: list[str]
    inside: list["Element"]

    def all(self, tag: str = "") -> Iterator["Element"]:
        for child in self.inside:
            if not tag or child.tag == tag:
                yield child
            yield from child.all(tag)

    @property
    def words(self) -> str:
        return "".join(self.text) + "".join(child.words for child in self.inside)


class Reader(HTMLParser):
    """Builds the tree; refuses a tag not closed in its order, and an attribute that comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {}, [], [])
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        assert all(value is not None for _, value in attrs), (tag, attrs)
        self.open[-1].inside.append(Element(tag, dict(attrs), [], []))
        if tag not in VOID:
            self.open.append(self.open[-1].inside[-1])

    def handle_startendtag(self, tag, attrs):
        assert tag in INLINE_SVG, f"<{tag}/> closes nothing in HTML"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, tag

    def handle_data(self, data):
        self.open[-1].text.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def read(text: str) -> Element:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], [e.tag for e in reader.open]
    return reader.root


def sound(text: str) -> Element:
    """The tree of a page that fetches nothing, runs nothing, and is in order."""
    root = read(text)
    elements = list(root.all())
    for element in elements:
        assert element.tag in ALLOWED, element.tag
        allowed = OF_META if element.tag == "meta" else NAMING | DRAWING
        assert element.attributes.keys() <= allowed, element
    css = "".join(element.words for element in root.all("style"))
    assert not re.search(r"url\(|@import|//|expression|<", css)
    policies = [e.attributes["content"] for e in root.all("meta") if "http-equiv" in e.attributes]
    assert policies == [POLICY]
    ids = [element.attributes["id"] for element in elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    for picture in root.all("svg"):
        assert [child.tag for child in picture.inside[:2]] == ["title", "desc"]
        assert all(child.words.strip() for child in picture.inside[:2])
        assert set(picture.attributes["aria-labelledby"].split()) <= set(ids)
        in_frame(picture)
    return root


def tags_of(root: Element) -> list[str]:
    return [element.tag for element in root.all()]


def moved(element: Element) -> tuple[float, float]:
    found = re.fullmatch(r"translate\((\S+) (\S+)\)", element.attributes.get("transform", ""))
    return (float(found[1]), float(found[2])) if found else (0.0, 0.0)


def path_points(element: Element) -> list[tuple[str, float, float]]:
    """The points of a path of absolute moves and lines."""
    found = re.findall(r"([ML])(-?[\d.]+) (-?[\d.]+)", element.attributes["d"])
    return [(kind, float(x), float(y)) for kind, x, y in found]


def boxes(picture: Element) -> list[tuple[float, float, float, float, str]]:
    """Left, top, right, bottom of every word, as wide as the layout takes them to be."""
    found = []
    for element in picture.all("text"):
        x, y = float(element.attributes["x"]), float(element.attributes["y"])
        width = text_width(element.words)
        anchor = element.attributes["text-anchor"]
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        found.append((left, y - 0.75 * SIZE, left + width, y + 0.2 * SIZE, element.words))
    return found


def in_frame(picture: Element) -> None:
    """Nothing is drawn outside the picture, and no word lies on another."""
    left, top, width, height = map(float, picture.attributes["viewbox"].split())
    assert (left, top, width) == (0, 0, WIDTH)
    for element in picture.all():
        values = element.attributes
        for key in ("x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height"):
            if key in values and element.tag != "svg":
                limit = height if key.startswith(("y", "cy", "height")) else WIDTH
                assert -8 <= float(values[key]) <= limit + 0.1, (key, element)
        if "curve" in values.get("class", "") and element.tag == "path":
            for _, x, y in path_points(element):
                assert 0 <= x <= WIDTH, element
                assert 0 <= y <= height, element
        assert "nan" not in " ".join(values.values())
        assert "inf" not in " ".join(values.values())
    words = boxes(picture)
    for x1, y1, x2, y2, said in words:
        assert x1 >= -0.1, said
        assert x2 <= WIDTH + 0.1, said
        assert 0 <= y1 <= y2 <= height, said
    for one, other in itertools.combinations(words, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def pictures(text: str) -> dict[str, Element]:
    """By the beginning of their ids."""
    found = {}
    for picture in read(text).all("svg"):
        found[picture.attributes["aria-labelledby"].split("-title")[0]] = picture
    return found


def drawn(picture: Element) -> list[list[tuple[str, float, float]]]:
    """The points of each curve."""
    kinds = [e for e in picture.all("path") if "curve" in e.attributes["class"]]
    return [path_points(element) for element in kinds]


def drawn_words(picture: Element) -> list[str]:
    return [element.words for element in picture.all("text")]


# --------------------------------------------------------------------------------------- the page


def test_the_page_is_sound_and_holds_every_part():
    root = sound(page(RECORD, ROWS))
    heads = [element.words for element in root.all("h2")]
    assert heads == [
        "The models", "Curves", "The layers", "The losses", "Where the time went", "The recipe",
        "How it was made", "Notes",
    ]  # fmt: skip
    result = next(e for e in root.all("p") if e.attributes.get("class") == "result")
    assert result.words == (
        "The student keeps 95.1 % of its teacher's accuracy with 4.7 times fewer parameters, "
        "9.4 times as fast."
    )
    tables = {
        e.attributes["aria-label"]: [[c.words for c in row.inside] for row in e.all("tr")]
        for e in root.all("div") if "aria-label" in e.attributes
    }  # fmt: skip
    assert tables["models"] == [
        ["model", "accuracy", "f1", "parameters", "on disk", "sentences/s"],
        ["teacher", "0.9174", "0.9000", "22.7 M", "90.0 MB", "350"],
        ["student", "0.872595.1 %", "0.800088.9 %", "4.8 M4.7 times fewer",
         "19.0 MB4.7 times less", "3,2909.4 times as fast"],
    ]  # fmt: skip
    assert tables["losses"][1:] == RECORD["losses"]
    assert ["layers", "6", "4"] in tables["sizes"]
    assert ["lr", "0.0003"] in tables["recipe"]
    assert ["seed", "7"] in tables["origin"]
    code = [element.words for element in root.all("code")]
    assert tomllib.loads(code[0]) == RECORD["recipe"]
    assert code[1] == RECORD["command"]


@pytest.mark.parametrize("missing", [*RECORD, None])
def test_a_part_that_is_missing_is_left_out(missing):
    record = {key: value for key, value in RECORD.items() if missing and key != missing}
    for rows in (ROWS, []):
        root = sound(page(record, rows))
        assert "None" not in root.words
        assert model_card(record).count(MARKER) == 1
    assert len(tags_of(root)) < len(tags_of(sound(page(RECORD, ROWS))))


HOSTILE = [
    "</style></title></svg></pre><script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><b onmouseover=alert(1)>&lt;&amp;&#60;script&#62;",
    "<!-- --> ]]> <![CDATA[ <?php ?>",
    "a\x00b\x1bc\ud800d\uffffe\x85f",
]


def spoiled(value: Any, payload: str) -> Any:
    """The record or rows with every text and every key of a free mapping spoiled."""
    if isinstance(value, str):
        return value + payload
    if isinstance(value, list):
        return [spoiled(part, payload) for part in value]
    if isinstance(value, dict):
        return {key: spoiled(part, payload) for key, part in value.items()}
    return value


def renamed(values: dict[str, Any], payload: str) -> dict[str, Any]:
    return {key + payload: value for key, value in values.items()}


def all_spoiled(payload: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    record, rows = spoiled(RECORD, payload), spoiled(ROWS, payload)
    for key in ("recipe", "versions", "shares"):
        record[key] = renamed(record[key], payload)
    for row in record["models"]:
        row["metrics"] = renamed(row["metrics"], payload)
    for row in rows:
        row["train"] = renamed(row["train"], payload)
    return record, rows


@pytest.mark.parametrize("payload", HOSTILE)
def test_whatever_record_and_rows_hold_is_text(payload):
    record, rows = all_spoiled(payload)
    text = page(record, rows)
    text.encode()
    assert tags_of(sound(text)) == tags_of(sound(page(*all_spoiled("x" * 40))))
    shown = re.sub(r"[\x00\x1b\ud800\uffff\x85]", "\ufffd", payload)
    assert read(text).words.count(shown) > 30


@settings(max_examples=15)
@given(st.text(max_size=60))
def test_any_text_is_text(payload):
    record, rows = all_spoiled(f"x{payload}x")
    root = sound(page(record, rows))
    assert tags_of(root).count("figure") == tags_of(read(page(RECORD, ROWS))).count("figure")
    model_card(record).encode()


numbers = st.one_of(
    st.floats(), st.integers(), st.sampled_from([10**400, 5e-324, 1.7e308, -1.7e308, None, "1"])
)
scores = st.dictionaries(st.sampled_from(["accuracy", "f1"]), numbers)
row_lists = st.lists(
    st.fixed_dictionaries(
        {"step": st.integers(0, 10**9)},
        optional={
            "phase": st.sampled_from(["one", "two"]),
            "epoch": st.integers(0, 9),
            "train": st.one_of(st.none(), st.dictionaries(st.sampled_from("abcd"), numbers)),
            "dev": st.one_of(st.none(), scores),
        },
    ),
    max_size=8,
)


@given(row_lists, numbers)
def test_any_measurements_make_a_page(rows, score):
    models = [RECORD["models"][0] | {"metrics": {"accuracy": score}}, *RECORD["models"][1:]]
    sound(page(RECORD | {"models": models}, rows))


def test_one_row_and_no_row():
    root = sound(page(RECORD, ROWS[:1]))
    assert [len(points) for points in drawn(pictures(page(RECORD, ROWS[:1]))["loss-0"])] == [1] * 3
    assert len(list(root.all("figure"))) == 3  # one phase, the layers, the times
    assert "metrics.jsonl holds no row." in sound(page(RECORD, [])).words


def test_what_is_not_finite_is_left_out_and_said():
    rows = [
        {"phase": "p", "epoch": e, "step": e, "train": {"loss": loss}}
        for e, loss in enumerate([1.0, 2.0, math.nan, 3.0, math.inf, 4.0], start=1)
    ]
    text = page(RECORD, rows)
    assert "2 not finite, not drawn" in sound(text).words
    kinds = "".join(kind for kind, _, _ in drawn(pictures(text)["loss-0"])[0])
    assert kinds == "MLMM"  # 1 to 2, then a lone 3, then a lone 4
    nothing = page(RECORD, [rows[2]])
    assert "No number that could be drawn was recorded." in sound(nothing).words


# ------------------------------------------------------------------------------------ the pictures


def test_a_curve_goes_where_its_numbers_are():
    line = Line("loss", ((10.0, 4.0), (20.0, 1.0), (40.0, 2.5)))
    (points,) = drawn(pictures(line_chart("c", "t", [line]))["c"])
    (_, x1, y1), (_, x2, y2), (_, x3, y3) = points
    assert (x2 - x1) / (x3 - x1) == pytest.approx(1 / 3, abs=0.01)
    assert (y3 - y1) / (y2 - y1) == pytest.approx(0.5, abs=0.01)  # up is small
    assert y1 < y2


def test_numbers_of_many_sizes_get_a_logarithmic_axis():
    line = Line("loss", ((0.0, 1000.0), (1.0, 10.0), (2.0, 0.1)))
    picture = pictures(line_chart("c", "t", [line]))["c"]
    (_, _, y1), (_, _, y2), (_, _, y3) = drawn(picture)[0]
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert any("logarithmic" in words for words in drawn_words(picture))
    small = Line("loss", ((0.0, 2.0), (1.0, 1.0)))
    assert "logarithmic" not in line_chart("c", "t", [small])
    negative = Line("loss", ((0.0, -1.0), (1.0, 1000.0)))
    assert "logarithmic" not in line_chart("c", "t", [negative])


def test_every_loss_of_every_phase_is_drawn_in_its_own_way():
    found = pictures(page(RECORD, ROWS))
    assert set(found) == {"loss-0", "loss-1", "dev-1", "layers", "times"}
    assert len(drawn(found["loss-0"])) == 3
    words = drawn_words(found["loss-0"])
    assert [term for term in ("loss", "embedding", "hidden") if term in words] == [
        *ROWS[0]["train"]
    ]
    described = found["loss-0"].inside[1].words
    assert "embedding: 0.3000 at step 40, 0.1000 at step 120" in described
    many = [Line(str(k), ((0.0, float(k)), (1.0, k + 1.0))) for k in range(24)]
    picture = pictures(line_chart("c", "t", many))["c"]
    looks = [
        (e.attributes["class"], e.attributes.get("stroke-dasharray"))
        for e in picture.all("path") if "curve" in e.attributes["class"]
    ]  # fmt: skip
    signs = [next(g.all("path")).attributes["d"] for g in picture.all("g")]
    assert len(set(zip(looks, signs, strict=True))) == 24


def test_a_long_curve_has_few_markers_and_a_lone_point_has_one():
    points = tuple((float(step), math.sin(step / 50)) for step in range(2000))
    markers = [e for e in pictures(line_chart("c", "t", [Line("a", points)]))["c"].all("path")
               if "transform" in e.attributes]  # fmt: skip
    assert 5 < len(markers) < 20
    lone = Line("a", tuple((float(x), math.nan if x % 2 else 1.0) for x in range(100)))
    picture = pictures(line_chart("c", "t", [lone]))["c"]
    assert len([e for e in picture.all("path") if "transform" in e.attributes]) == 51  # and legend


def test_the_teacher_is_a_line_and_the_kept_epoch_has_a_ring():
    picture = pictures(page(RECORD, ROWS))["dev-1"]
    words = drawn_words(picture)
    assert "teacher 0.9174" in words
    assert "kept: epoch 2, 0.8600" in words  # the first of the two best, as the loop keeps it
    kept = [row | ({"kept": True} if row["epoch"] in (1, 3) else {}) for row in ROWS]
    sparse = drawn_words(pictures(page(RECORD, kept))["dev-1"])
    assert "kept: epoch 3, 0.8400" in sparse  # dense models before it scored higher
    (points,) = drawn(picture)
    ring = [e for e in picture.all("circle") if "stroke-width" in e.attributes][-1]
    assert (float(ring.attributes["cx"]), float(ring.attributes["cy"])) == points[1][1:]
    (level,) = [e for e in picture.all("line") if e.attributes.get("stroke-dasharray") == "1 3"
                and e.attributes["x1"] != "0.0"]  # fmt: skip
    y = float(level.attributes["y1"])
    per_point = (points[0][2] - points[1][2]) / 0.06
    assert points[1][2] - y == pytest.approx((0.9174 - 0.86) * per_point, abs=0.3)
    assert level.attributes["y2"] == level.attributes["y1"]


@pytest.mark.parametrize(("other", "said"), [({"accuracy": 0.99}, "teacher 0.9900"), ({}, None)])
def test_the_teacher_of_another_set_may_be_told(other, said):
    words = drawn_words(pictures(page(RECORD | {"teacher_dev": other}, ROWS))["dev-1"])
    assert [w for w in words if w.startswith("teacher")] == ([said] if said else [])


def lines_of(picture: Element) -> int:
    return len([e for e in picture.all("line") if "curve" in e.attributes["class"]])


def test_the_map_joins_the_layers_that_learn():
    picture = pictures(page(RECORD, ROWS))["layers"]
    assert lines_of(picture) == 6  # four layers, embeddings, answers
    words = drawn_words(picture)
    for part in ("4 heads of 32", "12 heads of 32", "width 128", "width 384", "feed-forward 1,536"):
        assert part in words
    assert words.count("layer 4") == 2
    assert words.count("layer 6") == 1
    assert "student layer 3 learns from teacher layer 5" in picture.inside[1].words
    places = {
        (e.words, float(e.attributes["x"]) > WIDTH / 2): float(e.attributes["y"])
        for e in picture.all("text")
    }
    assert places["layer 2", False] == places["layer 3", True]  # half of each
    assert places["layer 4", False] == places["layer 6", True] < places["layer 1", True]


@pytest.mark.parametrize("on", [{"embedding"}, {"prediction"}, {"hidden"}, set()])
def test_the_map_shows_only_what_is_learned(on):
    losses = [[name, "weight 1" if name in on else "off", ""] for name, _, _ in RECORD["losses"]]
    picture = pictures(page(RECORD | {"losses": losses}, ROWS))["layers"]
    assert lines_of(picture) == len(on - {"hidden"}) + 4 * ("hidden" in on)


def test_a_layer_that_is_not_there_is_not_joined():
    sizes = {"layers": 2, "width": 8, "heads": 2}
    text = layer_map("m", sizes, sizes, [1, 3, 2], (False, False))
    assert lines_of(pictures(text)["m"]) == 1
    assert lines_of(pictures(layer_map("m", {}, {}, [1], (False, False)))["m"]) == 0


@pytest.mark.parametrize("layers", [(1, 1), (12, 24), (8, 3), (48, 48)])
def test_a_map_of_any_height_is_in_order(layers):
    own, other = ({"name": "n" * 99, "layers": n, "width": 16384, "heads": 128} for n in layers)
    path = [math.ceil(m * layers[1] / layers[0]) for m in range(1, layers[0] + 1)]
    picture = pictures(layer_map("m", own, other, path, (True, True)))["m"]
    in_frame(picture)
    assert lines_of(picture) == layers[0] + 2


def test_the_bars_are_cut_as_the_seconds_are():
    picture = pictures(page(RECORD, ROWS))["times"]
    bars = [e.attributes for e in picture.all("rect") if e.attributes.get("height") == "18"]
    assert [float(bar["width"]) for bar in bars] == [200.0, 160.0, 40.0, 360.0, 40.0]
    assert [float(bar["x"]) for bar in bars] == [0.0, 200.0, 360.0, 0.0, 360.0]
    assert bars[1]["class"] == bars[3]["class"] != bars[0]["class"]  # the student's, in both
    words = drawn_words(picture)
    assert words.count("90%") == 1
    assert "10.00 s, 12.00 steps/s" in words
    assert "10.00 s, 16.00 steps/s" in words


parts_of_a_phase = st.sampled_from(["teacher", "student", "data", "optimiser", "other", "x"])
seconds = st.dictionaries(parts_of_a_phase, st.floats(0, 1e6))


@given(st.dictionaries(st.text(min_size=1, max_size=30), seconds, max_size=3))
def test_any_shares_are_in_order(shares):
    bars = {name: (parts, "1.0 s, 2.0 steps/s") for name, parts in shares.items()}
    text = share_bars("s", "t", bars)
    assert bool(text) == any(sum(parts.values()) > 0 for parts in shares.values())
    if text:
        in_frame(pictures(text)["s"])


def test_a_part_without_time_is_no_part():
    parts = {"teacher": 3.0, "student": 0.0, "data": -1.0, "optimiser": math.nan, "steps": 6}
    picture = pictures(page(RECORD | {"shares": {"p": parts}}, ROWS))["times"]
    assert drawn_words(picture) == ["teacher", "p", "3.000 s, 2.000 steps/s", "100%"]


def test_no_shares_no_section():
    for shares in ({}, {"p": {"teacher": 0.0, "steps": 3}}, {"p": {"teacher": math.nan}}):
        assert "Where the time went" not in page(RECORD | {"shares": shares}, ROWS)


# ---------------------------------------------------------------------------------------- the axes

finite_numbers = st.floats(-LARGEST, LARGEST)


def value_of(label: str) -> float:
    return float(label.replace(",", ""))


@given(finite_numbers, finite_numbers, st.integers(1, 8), st.booleans())
def test_ticks_are_round_and_cover_the_numbers(one, other, most, outer):
    low, high = min(one, other), max(one, other)
    scale = linear_scale(low, high, most, outer)
    steps = np.diff(scale.ticks)
    if outer:
        assert 2 <= len(scale.ticks) <= most + 3
    assert len(set(scale.labels)) == len(scale.labels)
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        assert -1e-6 <= scale.place(tick) <= 1 + 1e-6
        gap = steps[0] if len(steps) else abs(tick) or 1.0
        assert abs(value_of(label) - tick) <= gap * 1e-3
    if len(steps):
        digits = f"{steps[0]:.6e}"
        assert digits.split("e")[0] in ("1.000000", "2.000000", "5.000000")
        assert np.allclose(steps, steps[0], rtol=1e-6)
    assert -1e-5 <= scale.place(low) <= scale.place(high) <= 1 + 1e-5


@given(st.floats(1e-290, 1e290), st.floats(31, 1e9), st.integers(2, 6))
def test_powers_cover_the_numbers(low, times, most):
    scale = logarithmic_scale(low, low * times, most)
    assert 2 <= len(scale.ticks) <= most + 2
    assert 0 <= scale.place(low) <= scale.place(low * times) <= 1
    for tick, label in zip(scale.ticks, scale.labels, strict=True):
        assert value_of(label) == pytest.approx(tick)
        assert label.strip("0").replace(",", "")[0] in "1."


@pytest.mark.parametrize("value", [0.0, 7.0, -7.0, 1e-300, 1e300, 5e-324])
def test_one_number_alone_is_in_the_middle(value):
    scale = scale_of([value, value], 5)
    assert 0.2 < scale.place(value) < 0.8


def test_steps_are_whole():
    assert linear_scale(0.0, 3.0, 6, outer=False, least=1.0).labels == ("0", "1", "2", "3")


@given(st.text(max_size=80), st.floats(20, 400))
def test_a_shortened_text_fits_and_begins_as_the_whole(text, room):
    short = shortened(text, room)
    assert text_width(short) <= room
    whole = shortened(text, 1e9)
    assert short == whole or (short.endswith("…") and whole.startswith(short[:-1]))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.0, "0.0000"), (12345, "12,345"), (12345.6, "12,346"), (1e8, "1e8"),
     (-0.00012345, "-0.0001234"), (1e-5, "1e-5"), (math.nan, "–"), (True, "–"), ("1", "–")],
)  # fmt: skip
def test_numbers_for_readers(value, shown):
    assert number(value) == shown


# --------------------------------------------------------------------------------------- colours


def linear_rgb(colour: str) -> np.ndarray:
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    light = sorted(float(linear_rgb(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, white D65."""
    part = TO_XYZ @ rgb.clip(0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1.0.
SIGHT = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
# On paper the page is light, whatever the reader prefers on the screen.
QUERY = "@media screen and (prefers-color-scheme:dark)"
STYLES = dict(zip(("light", "dark"), style().split(QUERY), strict=True))
THEMES = {"light": (LIGHT, LIGHT_SERIES), "dark": (DARK, DARK_SERIES)}


@pytest.mark.parametrize("theme", THEMES)
def test_everything_stands_out_from_its_page(theme):
    page_colours, series = THEMES[theme]
    for name in ("ink", "faint"):
        assert contrast(page_colours[name], page_colours["page"]) >= 4.5
    for colour in series:
        assert contrast(colour, page_colours["page"]) >= 3
    for colour in (*page_colours.values(), *series):
        assert f":{colour}" in STYLES[theme]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", THEMES)
def test_colours_are_apart_for_every_kind_of_sight(theme, sight):
    seen = [lab(SIGHT[sight] @ linear_rgb(colour)) for colour in THEMES[theme][1]]
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - other) > 15


# ---------------------------------------------------------------------------------- words and TOML


def pair(**changes: Any) -> list[dict[str, Any]]:
    return [RECORD["models"][0], RECORD["models"][1] | changes]


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ([], "Nothing was measured."),
        (pair()[:1], "Nothing was measured."),
        (pair(parameters=22_713_986, sentences_per_second=351.0),
         "The student keeps 95.1 % of its teacher's accuracy with as many parameters, as fast."),
        (pair(parameters=2 * 22_713_986, sentences_per_second=100.0),
         "The student keeps 95.1 % of its teacher's accuracy with 2.0 times the parameters, "
         "3.5 times as slow."),
        (pair(parameters=None, sentences_per_second=math.nan),
         "The student keeps 95.1 % of its teacher's accuracy."),
        (pair(metrics={"accuracy": -0.1}, parameters=None, sentences_per_second=0.0),
         "The student's accuracy is -0.1000, its teacher's 0.9174."),
        ([RECORD["models"][0] | {"metrics": {"accuracy": -0.1}},
          *pair(parameters=None, metrics={"accuracy": -0.2})[1:]],
         "The student's accuracy is -0.2000, its teacher's -0.1000, 9.4 times as fast."),
        (pair(metrics={}, parameters=None, sentences_per_second=0),
         "The student's accuracy is –, its teacher's 0.9174."),
    ],
)  # fmt: skip
def test_the_result_in_one_sentence(models, sentence):
    assert headline(models, "accuracy") == sentence


@pytest.mark.parametrize(
    ("task", "metric"),
    [("sst2", "accuracy"), ("mrpc", "f1"), ("stsb", "accuracy"), ("x", "accuracy")],
)
def test_the_metric_is_the_one_that_chose_the_epoch(task, metric):
    assert main_metric(RECORD | {"task": task}) == metric


plain_values = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text()
)
values = st.recursive(
    plain_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), values, max_size=4))
def test_toml_says_what_the_recipe_says(recipe):
    assert tomllib.loads(toml(recipe)) == mended(recipe)


def mended(value: Any) -> Any:
    if isinstance(value, str):
        bad = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]"
        return re.sub(bad, "\ufffd", value)
    if isinstance(value, list):
        return [mended(part) for part in value]
    if isinstance(value, dict):
        return {mended(key): mended(part) for key, part in value.items()}
    return value


def test_escaped_text_fits_into_an_attribute():
    assert escaped("\"'<&") == "&quot;&#x27;&lt;&amp;"


def test_none_is_left_out_of_toml():
    assert tomllib.loads(toml({"a": None, "b": {"c": None, "d": [1, None]}})) == {"b": {"d": [1]}}


# ------------------------------------------------------------------------------------------- files


def test_the_page_lies_beside_the_student(tmp_path):
    write_metrics(tmp_path, ROWS)
    path = write_report(tmp_path, RECORD)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == page(RECORD, ROWS)
    assert sorted(files_in(tmp_path)) == [METRICS_FILE, "report.html"]
    assert write_report(tmp_path, RECORD | {"title": "Another"}).read_text().count("Another") == 2


def test_a_damaged_row_is_named_and_the_old_page_stays(tmp_path):
    write_report(tmp_path, RECORD)
    (tmp_path / METRICS_FILE).write_text('{"phase": "p"}\n')
    before = files_in(tmp_path)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 1"):
        write_report(tmp_path, RECORD)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("write", [write_report, write_model_card])
def test_a_full_disk_leaves_what_was_there(tmp_path, write):
    write(tmp_path, RECORD)
    before = files_in(tmp_path)
    for room in (0, 1000):
        with room_for(room), pytest.raises(OSError, match="cannot be written"):
            write(tmp_path, RECORD | {"title": "Another"})
        assert files_in(tmp_path) == before


# -------------------------------------------------------------------------------------- model card


def loaded(tmp_path: Path, record: dict[str, Any]) -> ModelCard:
    return ModelCard.load(write_model_card(tmp_path, record))


def test_the_hub_reads_the_card(tmp_path):
    card = loaded(tmp_path, RECORD)
    facts = card.data.to_dict()
    assert facts["base_model"] == "big/one"
    assert facts["metrics"] == ["accuracy", "f1"]
    assert facts["library_name"] == "transformers"
    assert facts["pipeline_tag"] == "text-classification"
    assert "distillation" in facts["tags"]
    assert not {"language", "license"} & facts.keys()
    found = {(r.dataset_type, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found == {("sst2", "accuracy"): 0.8725, ("sst2", "f1"): 0.8}  # the student's
    assert "No licence is named" in card.text
    assert RECORD["command"] in card.text
    assert tomllib.loads(re.findall(r"```toml\n(.*?)```", card.text, re.S)[0]) == RECORD["recipe"]


def test_what_is_known_is_said_and_what_is_not_measured_is_not(tmp_path):
    known = loaded(tmp_path, RECORD | {"language": "en", "license": "mit"})
    assert known.data.to_dict() | {"language": "en", "license": "mit"} == known.data.to_dict()
    assert "No licence" not in known.text
    rows = pair(metrics={"accuracy": math.nan})
    unknown = loaded(tmp_path, RECORD | {"models": rows, "task": "stsb"}).data.to_dict()
    assert "metrics" not in unknown
    assert "model-index" not in unknown
    bare = loaded(tmp_path, {})
    assert "Its quality is unknown" in bare.text
    assert "## Results" not in bare.text


def test_metrics_are_named_as_on_the_hub(tmp_path):
    rows = pair(metrics={"pearson": 0.8, "spearman": 0.7, "matthews_correlation": 0.6})
    facts = loaded(tmp_path, RECORD | {"models": rows}).data.to_dict()
    assert facts["metrics"] == ["pearsonr", "spearmanr", "matthews_correlation"]


def test_a_folder_is_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "big").mkdir()
    assert "base_model" not in loaded(tmp_path / "out", RECORD).data.to_dict()
    for name in ("/a/b", "../b", "teacher", "a/b/c", "a b/c"):
        record = RECORD | {"teacher": RECORD["teacher"] | {"name": name}}
        assert "base_model" not in loaded(tmp_path / "out", record).data.to_dict()


def test_somebody_elses_readme_stays(tmp_path):
    own, other = tmp_path / "README.md", tmp_path / "README.minibert.md"
    own.write_bytes(b"\xff my own words")
    assert write_model_card(tmp_path, RECORD) == other
    assert write_model_card(tmp_path, RECORD | {"title": "Another"}) == other
    assert "# Another" in other.read_text()
    assert own.read_bytes() == b"\xff my own words"
    other.write_text(other.read_text().replace(MARKER, ""))
    before = files_in(tmp_path)
    with pytest.raises(FileExistsError, match=r"README\.md and README\.minibert\.md .* stay"):
        write_model_card(tmp_path, RECORD)
    assert files_in(tmp_path) == before
    own.unlink()
    assert write_model_card(tmp_path, RECORD) == own
    assert write_model_card(tmp_path, RECORD) == own


MARKDOWN = ["a|b\n---\n# c\n```\n````\n# d\n", "*a* [b](c) $d$ `e`"]


@pytest.mark.parametrize("payload", [*HOSTILE, *MARKDOWN])
def test_whatever_the_record_holds_is_text_of_the_card(payload, tmp_path):
    record, _ = all_spoiled(payload)
    record["task"] = "sst2"
    text = model_card(record)
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", text, flags=re.S | re.M)
    heads = [line for line in outside.splitlines() if line.startswith("#")]
    assert [head for head in heads if head.startswith("## ")] == [
        "## Results", "## Use", "## How it was made", "## Limits",
    ]  # fmt: skip
    assert len(heads) == 5
    body = outside.replace(MARKER, "")
    assert not re.search(r"(?<!\\)<", body.split("\n---\n", 1)[1])
    for table in re.findall(r"(?:^\|.*\n?)+", outside, re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    assert len(ModelCard.load(path).data.eval_results) == 2


@pytest.mark.parametrize(
    ("task", "pair"), [("classify", False), ("classify", True), ("regress", False)]
)
def test_the_lines_of_use_run(task, pair, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="it runs the second of the two blocks")
    config = tiny.config()
    if task == "regress":
        config = config.with_labels(("score",), "regression")
    head = "regression" if task == "regress" else "classification"
    model = tiny.Bert.from_config(config, head, tiny.tokenizer(), 0)
    model.save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = write_model_card(
        tmp_path, RECORD | {"task": task, "pair": pair}
    ).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    assert len(blocks) == 2
    assert text.count('["another one"]') == (2 if pair else 0)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("tensor") + (task != "regress") >= 2
