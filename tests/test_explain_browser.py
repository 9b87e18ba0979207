"""The page of `minibert explain` in a real browser: quiet, alone, and every control does its work.

Needs playwright (`pip install -e '.[browser]'`) and a Chromium of the system; `MINIBERT_CHROMIUM`
names another one. Without them these tests are skipped with a reason.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tiny
from test_explain import LONG, SEEDS, injections, masked_model

from minibert.explain import page as pages
from minibert.explain.making import explained
from minibert.pruned import without_idle

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("MINIBERT_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

FIRST, SECOND = "the film was [MASK] and bright", "it was dull"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A pair of sentences with everything, one text with one open layer, and hostile strings."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [
        {"phase": phase, "step": step, "lr": 0.1 / step, "train": {"loss": 1.0 / step**3},
         "dev": {"accuracy": 0.8 + step / 100}}
        for phase in ("intermediate", "prediction")
        for step in range(1, 6)
    ]  # fmt: skip
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    teacher = tiny.classifier(5, num_hidden_layers=4, num_attention_heads=6)
    whole, _ = explained(masked_model(), FIRST, SECOND, teacher=teacher, run=folder)
    large = masked_model(num_hidden_layers=3, max_position_embeddings=64, hidden_size=48)
    _, some = explained(large, LONG, layers=[2, 3])
    without = pages.page(dataclasses.replace(some, maps={}))
    part = pages.page(some, len(without.encode()) + 10_000)
    alone, _ = explained(tiny.classifier(), "a film")
    reading = explained(masked_model(max_position_embeddings=64), FIRST)[1]
    strings = injections()
    reading.facts["live"]["pieces"] = [*reading.facts["live"]["pieces"][:-9], *strings[:9]]
    odd = pages.page(reading)
    reading.facts["live"], reading.model = {"why": strings[1]}, {}
    reading.facts |= {"text": strings, "curves": None, "teacher": None, "head": strings[2]}
    reading.facts["about"] = dict(enumerate(strings)) | {"model": strings[0]}
    for i, token in enumerate(reading.facts["tokens"]):
        token["piece"] = "".join(strings[i * 20 : i * 20 + 20])
    for lists in (*reading.facts["words"]["layers"], reading.facts["words"]["masked"]):
        for said in lists:
            said[0][0] = "".join(strings[:30])
    for i, step in enumerate(reading.facts["steps"][0]):
        step["text"] = strings[i]
    idle = masked_model()
    idle.weights.blocks[0].attention.output.weight_OI[:, :8] = 0  # two of three heads do nothing
    weights, config = without_idle(idle.weights, idle.config)
    pruned, _ = explained(dataclasses.replace(idle, weights=weights, config=config), FIRST)
    closed, _ = explained(masked_model(intermediate_size=60_000), FIRST)
    contents = {"whole": whole, "part": part, "alone": alone, "pruned": pruned, "closed": closed}
    contents["odd"] = odd
    sizes = {"max_position_embeddings": 512, "num_hidden_layers": 12, "num_attention_heads": 12}
    contents["large"], _ = explained(masked_model(**sizes), FIRST)
    contents["one"], _ = explained(masked_model(), FIRST)
    contents["hostile"] = pages.page(reading)
    found = {}
    for name, content in contents.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(content, encoding="utf-8", newline="\n")
    return found


@pytest.fixture
def opened(browser, files) -> Iterator[Any]:
    """Opens a page without a network; in the end there was no error and no other request."""
    contexts, said, asked = [], [], []

    def open_page(name: str, **more: Any) -> Any:
        context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a slow machine is no failure
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(files[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    allowed = {path.as_uri() for path in files.values()}
    others = [url for url in asked if url not in allowed and not url.startswith(("data:", "blob:"))]
    assert others == []


def facts_of(page: Any) -> Any:
    return json.loads(page.text_content("#facts"))


def shares(page: Any, layer: int) -> Any:
    """The shares of every head of a layer, decoded by the browser alone."""
    return page.evaluate(
        """(id) => { const e = document.getElementById(id), shape = e.dataset.shape.split(",");
        const bytes = Uint8Array.from(atob(e.textContent), (c) => c.charCodeAt(0));
        return [[...bytes], shape.map(Number)]; }""",
        f"attention.{layer}",
    )


def n_lines(page: Any, visible: bool = True) -> int:
    kind = ':not([visibility="hidden"])' if visible else ""
    return page.locator(f"#lines line{kind}").count()


def expected_lines(page: Any, layer: int, heads: list[int], keep: Any, least: float) -> int:
    values, (_, n, _) = shares(page, layer)
    return sum(
        values[(h * n + s) * n + r] / 255 >= least and keep(s, r)
        for h in heads for s in range(n) for r in range(n)
    )  # fmt: skip


def pressed(page: Any, within: str) -> list[str]:
    return page.locator(f'{within} [aria-pressed="true"]').all_text_contents()


# ----------------------------------------------------------------------------------- what is there


def test_every_panel_is_there_and_those_without_data_are_not(opened):
    def ids(name: str) -> list[str]:
        sections = opened(name).locator("section").all()
        return [section.get_attribute("id") for section in sections]

    every = ["live", "tokens", "map", "head", "steps", "words", "teacher", "training", "about"]
    assert ids("whole") == every
    assert ids("alone") == [one for one in every if one not in ("teacher", "training")]
    alone = opened("alone")
    assert "none that names words" in alone.text_content("#words")
    assert "Attention is not explanation." in alone.text_content("#about")
    assert alone.locator("#words button").count() == 0
    for name in ("whole", "alone"):
        first, *titles = opened(name).locator("h2").all_text_contents()
        assert first == "A sentence of your own"
        assert [int(title.partition(" · ")[0]) for title in titles] == [*range(1, len(titles) + 1)]
    assert alone.locator("kbd").all_text_contents() == ["[", "]", ",", "."]


def test_every_matrix_tells_its_shape_and_scale(opened):
    page = opened("whole")
    for stage in range(10):
        page.click(f"#stage-{stage}")
        captions = page.locator("#steps figcaption").all()
        assert len(captions) == (3 if stage == 1 else 1)
        for caption in captions:
            assert "[S × " in caption.text_content()
            assert caption.locator(".scale canvas").count() == 1
    assert "[4 × D = 4 × 12]" in page.text_content("#tokens")


# -------------------------------------------------------------------------------------- the panels


def test_a_token_marks_its_characters_and_a_word_shows_its_tries(opened):
    page = opened("whole")
    assert page.text_content("#tokens mark") == "[MASK]"
    page.click("#token-2")
    assert page.text_content("#tokens mark") == "film"
    assert page.get_attribute("#token-2", "aria-pressed") == "true"
    assert page.get_attribute("#token-4", "aria-pressed") == "false"
    page.click("#token-9")
    assert page.locator("#tokens mark").all_text_contents() == ["was"]
    assert "sentence B" in page.text_content("#tokens")
    page.click("#word-6")
    assert page.locator(".tries s").all_text_contents() == ["it", "i"], "not in the vocabulary"
    page.click("#word-1")
    assert page.locator(".tries b").all_text_contents() == ["film"]


def test_the_map_opens_a_head_and_can_be_walked_and_sorted(opened):
    page = opened("whole")
    assert page.locator("#map .thumb").count() == 6
    page.click("#map-2-1")
    assert page.input_value("#head-layer") == "2"
    assert pressed(page, "#head") == ["2"]
    assert (page.input_value("#steps-layer"), page.input_value("#steps-head")) == ("2", "1")
    page.focus("#map-1-0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "map-2-1"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert (page.input_value("#head-layer"), pressed(page, "#head")) == ("1", ["2"])
    facts = facts_of(page)
    losses = [row[0] for row in facts["teacher"]["attention"]]
    for sort, keys in (("entropy", [one["distinct"] for one in facts["layers"]]), ("order", None)):
        page.select_option("#map-sort", sort)
        for layer in (1, 2):
            thumbs = page.locator(f'#map .thumb[data-layer="{layer}"]').all()
            heads = [int(thumb.get_attribute("data-head")) for thumb in thumbs]
            wanted = sorted(range(3), key=keys[layer - 1].__getitem__) if keys else [0, 1, 2]
            assert heads == wanted
    page.select_option("#map-sort", "teacher")
    thumbs = page.locator('#map .thumb[data-layer="1"]')
    heads = thumbs.evaluate_all("l => l.map(e => e.dataset.head)")
    by_loss = facts["teacher"]["attention"][0][facts["teacher"]["maps"]["uniform"][0] - 1]
    assert [int(head) for head in heads] == sorted(range(3), key=by_loss.__getitem__)
    assert len(losses) == 2


def test_the_head_view_draws_the_lines_that_are_asked_for(opened):
    page = opened("whole")
    facts = facts_of(page)
    kinds = [token["type"] for token in facts["tokens"]]
    special = [token["piece"] in ("[CLS]", "[SEP]") for token in facts["tokens"]]
    page.select_option("#head-layer", "1")
    page.click("#all-heads")
    every = [0, 1, 2]
    assert n_lines(page) == expected_lines(page, 1, every, lambda s, r: True, 0.05) > 50
    page.fill("#threshold", "0.1")
    assert n_lines(page) == expected_lines(page, 1, every, lambda s, r: True, 0.1) > 20
    page.fill("#threshold", "0")
    assert n_lines(page) == 3 * len(kinds) ** 2
    page.select_option("#pairs", "AB")
    assert n_lines(page) == 3 * kinds.count(0) * kinds.count(1)
    page.select_option("#pairs", "BB")
    page.check("#specials")
    left = sum(kind and not hidden for kind, hidden in zip(kinds, special, strict=True))
    assert n_lines(page) == 3 * left**2
    page.uncheck("#specials")
    page.select_option("#pairs", "all")
    page.hover("#asks-2")
    assert n_lines(page) == 3 * len(kinds)
    page.mouse.move(5, 5)
    assert n_lines(page) == 3 * len(kinds) ** 2
    page.click("#asks-2")
    page.mouse.move(5, 5)
    assert n_lines(page) == 3 * len(kinds), "a click keeps it"
    page.focus("#asks-3")
    page.keyboard.press("Enter")
    assert page.get_attribute("#asks-3", "aria-pressed") == "true"


def test_a_click_toggles_a_head_and_a_double_click_isolates_it(opened):
    page = opened("whole")
    page.click("#all-heads")
    assert pressed(page, "#head") == ["1", "2", "3"]
    page.click("#chip-1")
    page.wait_for_selector('#chip-1[aria-pressed="false"]')
    assert pressed(page, "#head") == ["1", "3"]
    page.dblclick("#chip-2")
    page.wait_for_selector('#chip-0[aria-pressed="false"]')
    assert pressed(page, "#head") == ["3"]
    page.wait_for_timeout(300)
    assert pressed(page, "#head") == ["3"], "the clicks of the double click do nothing more"
    page.dblclick("#chip-2")
    page.wait_for_selector('#chip-0[aria-pressed="true"]')
    assert pressed(page, "#head") == ["1", "2", "3"]
    page.focus("#chip-1")
    page.keyboard.press("o")
    assert pressed(page, "#head") == ["2"]


def click_cell(page: Any, canvas: str, row: int, col: int, n_rows: int, n_cols: int) -> None:
    """Click into a matrix whose rows and columns have names (84 pixels left of it, 72 above)."""
    page.locator(canvas).scroll_into_view_if_needed()
    box = page.locator(canvas).bounding_box()
    top = 72 if canvas in ("#m-dot", "#m-scaled", "#m-masked", "#m-weight") else 0
    wide, tall = (box["width"] - 86) / n_cols, (box["height"] - top - 2) / n_rows
    page.mouse.click(box["x"] + 84 + (col + 0.5) * wide, box["y"] + top + (row + 0.5) * tall)


def test_a_number_is_followed_down_to_its_first_sum(opened):
    page = opened("whole")
    n = len(facts_of(page)["tokens"])
    page.click("#stage-9")
    click_cell(page, "#m-attended", 3, 5, n, 12)
    seen = []
    for name in ("x[5]", "o =", "z[head 1, 0]", "p(", "exp(", "score", "q · k", "q[0]", "x[0]"):
        seen.append(page.text_content("#story h3"))
        page.locator("#story .part", has_text=name).first.click()
    seen.append(page.text_content("#story h3"))
    words = [
        "after attention, add and norm", "before the norm", "what the attention gives",
        "what was takes", "takes this share", "score and mask", "score", "q · k", "query of was",
        "number 0",
    ]  # fmt: skip
    for said, part in zip(seen, words, strict=True):
        assert part in said
    assert "step 10" in page.text_content("#story .bar")
    for _ in range(9):
        page.click("#story-back")
    assert page.text_content("#story h3") == seen[0]
    assert page.is_disabled("#story-back")
    page.keyboard.press("Escape")
    assert page.is_hidden("#story")


def test_a_story_holds_its_sum_and_its_line_of_the_book(opened):
    page = opened("whole")
    n = len(facts_of(page)["tokens"])
    page.click("#stage-2")
    click_cell(page, "#m-dot", 2, 7, n, n)
    title = page.text_content("#story h3")
    assert title.startswith("film asks [SEP]: q · k: ")
    assert float(title.rpartition(" ")[2]) == pytest.approx(float(page.text_content("#story-sum")))
    rows = page.locator("#story tbody tr").all_text_contents()
    assert len(rows) == 4
    source = facts_of(page)["sources"]["scores"]
    assert f"minibert/attention.py:{source['line']}" in page.text_content("#story .source")
    assert source["code"] in page.text_content("#story .source")
    assert "-k attention_scores" in page.text_content("#story .source")
    page.click("#story-close")
    assert page.is_hidden("#story")


def test_a_story_names_its_layer_and_head_and_keeps_them(opened):
    page = opened("whole")
    n = len(facts_of(page)["tokens"])
    page.click("#map-2-2")
    page.click("#stage-2")
    click_cell(page, "#m-dot", 2, 7, n, n)
    assert page.text_content("#story-place") == "layer 2, head 3"
    title = page.text_content("#story h3")
    page.select_option("#steps-layer", "1")
    told = page.text_content("#story-place"), page.text_content("#story h3")
    assert told == ("layer 2, head 3", title), "another layer is shown, and this is of the former"
    page.locator("#story .part").first.click()
    assert page.text_content("#story-place") == "layer 2, head 3"
    page.locator("#story .part").first.click()
    assert page.text_content("#story-place") == "layer 1", "the state that layer 2 was given"
    page.click("#stage-1")
    page.focus("#m-query")
    page.keyboard.press("Enter")
    page.locator("#story .part").first.click()
    assert page.text_content("#story-place") == "embeddings"


def test_escape_closes_a_story_wherever_the_focus_is(opened):
    page = opened("whole")
    page.click("#stage-0")
    for elsewhere in ("#asks4-2", "#step-scrub", "#head-layer", "#live-text-0"):
        page.focus("#m-hidden")
        page.keyboard.press("Enter")
        assert page.is_visible("#story")
        page.focus(elsewhere)
        page.keyboard.press("Escape")
        assert page.is_hidden("#story")
        assert f"#{page.evaluate('document.activeElement.id')}" == elsewhere, "and that stays"
    page.focus("#m-hidden")
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Escape")
    assert page.is_hidden("#story")


def test_no_two_of_twelve_heads_look_alike(opened):
    page = opened("large")
    page.click("#all-heads")
    looks = page.locator("#lines line").evaluate_all(
        "l => l.map(e => [e.__data__.head, e.getAttribute('stroke'), "
        "e.getAttribute('stroke-dasharray')])"
    )
    heads = {head: (colour, dashes) for head, colour, dashes in looks}
    assert len(looks) > len(heads) == 12
    assert len(set(heads.values())) == 12
    assert [heads[head][1] for head in (0, 7, 8, 11)] == [None, None, "8 4", "8 4"]
    chips = page.locator(".headchip").evaluate_all(
        "l => l.map(e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).borderStyle])"
    )
    assert len({tuple(chip) for chip in chips}) == 12
    assert chips[8][1] == "dashed"


def test_a_matrix_is_walked_with_the_keyboard(opened):
    page = opened("whole")
    page.click("#stage-5")
    page.focus("#m-weight")
    first = page.locator("#steps .told").text_content()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    told = page.locator("#steps .told").text_content()
    assert told != first
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "story"
    pieces, value = told.split(": ")
    assert page.text_content("#story h3").endswith(f": {value}")
    for piece in pieces.split(", "):
        assert piece in page.text_content("#story h3")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "m-weight", "the focus is where it was"


def test_the_steps_are_stepped_scrubbed_and_played(opened):
    page = opened("whole")
    assert pressed(page, "#steps .stages") == ["x"]
    page.click("#step-on")
    assert pressed(page, "#steps .stages") == ["q, k, v"]
    assert page.evaluate("document.activeElement.id") == "step-on", "and can be pressed again"
    page.click("#step-back")
    page.fill("#step-scrub", "6")
    assert pressed(page, "#steps .stages") == ["weighted sum"]
    page.clock.install()
    page.click("#step-play")
    assert page.text_content("#step-play") == "pause"
    page.clock.run_for(2600)
    assert pressed(page, "#steps .stages") == ["output map"]
    page.click("#step-play")
    page.clock.run_for(6000)
    assert pressed(page, "#steps .stages") == ["output map"]
    assert page.text_content("#step-play") == "play"


def test_the_scrubber_follows_the_mouse_that_holds_it(opened):
    page = opened("whole")
    slider = page.locator("#step-scrub")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    inner, y = box["width"] - 16, box["y"] + box["height"] / 2  # the knob is 16 wide
    at = [box["x"] + 8 + inner * stage / 9 for stage in range(10)]
    names = page.locator("#steps .stages button").all_text_contents()
    page.mouse.move(at[0], y)
    page.mouse.down()
    for stage in (1, 2, 5, 9, 7, 4):
        page.mouse.move(at[stage], y, steps=3)
        assert pressed(page, "#steps .stages") == [names[stage]]
        assert slider.input_value() == str(stage)
    page.mouse.up()
    page.keyboard.press("ArrowRight")
    assert pressed(page, "#steps .stages") == [names[5]], "and the keys go on from there"
    page.click("#step-back")
    assert slider.input_value() == "4"


def test_the_words_follow_the_token(opened):
    page = opened("whole")
    words = facts_of(page)["words"]
    page.click("#say-2")
    for place, said in (("#as-read", words["layers"][-1][2]), ("#if-masked", words["masked"][2])):
        assert page.locator(f"{place} li code").all_text_contents() == [piece for piece, _ in said]
    rows = page.locator("#lens tbody tr").all()
    names = [row.locator("th").text_content() for row in rows]
    assert names == ["layer 2", "layer 1", "embeddings"]
    assert page.text_content("#lens-0-4") == words["layers"][0][4][0][0]
    page.click("#lens-1-5")
    assert page.text_content("#as-read h3").startswith("and")


def test_the_layer_map_changes_the_loss(opened):
    page = opened("whole")
    teacher = facts_of(page)["teacher"]

    def told() -> float:
        return float(page.text_content("#loss-sum").rpartition(" ")[2])

    def wanted(layers: list[int]) -> float:
        chosen = [teacher["attention"][m][g - 1] for m, g in enumerate(layers)]
        return sum(sum(losses) / len(losses) for losses in chosen)

    assert told() == pytest.approx(wanted([2, 4]), rel=1e-3)
    page.select_option("#rule", "top")
    assert told() == pytest.approx(wanted([3, 4]), rel=1e-3)
    page.select_option("#g-0", "1")
    assert page.input_value("#rule") == "custom"
    assert told() == pytest.approx(wanted([1, 4]), rel=1e-3)
    assert page.locator("#teacher path").count() == 2
    page.click("#loss-1-2")
    assert (page.input_value("#head-layer"), pressed(page, "#head")) == ("2", ["3"])


def test_the_curves_are_drawn_with_their_numbers(opened):
    page = opened("whole")
    titles = page.locator("#training figcaption span").all_text_contents()
    assert titles == ["train: loss", "dev: accuracy", "learning rate"]
    for i, (low, high) in enumerate([(0.001, 1), (0.81, 0.85)]):
        axis = page.locator("#training svg.curve").nth(i).locator("> g").nth(1).locator("text")
        numbers = [float(text) for text in axis.all_text_contents() if text]
        assert min(numbers) == pytest.approx(low, rel=0.01), "a score does not begin at 0"
        assert max(numbers) == pytest.approx(high, rel=0.01)
    assert page.locator("#training svg.curve >> nth=0 >> path[stroke-width]").count() == 2
    page.locator("#training summary").first.click()
    assert page.locator("#training li:visible").first.text_content() == "step 1: 1.000"


@pytest.mark.parametrize(
    ("panel", "name"),
    [("map", "attention-map.svg"), ("head", "layer-2.svg"), ("teacher", "layer-map.svg"),
     ("training", "train-loss.svg")],
)  # fmt: skip
def test_pictures_are_saved_as_svg(opened, panel, name):
    page = opened("whole", color_scheme="dark")
    page.select_option("#head-layer", "2")
    with page.expect_download() as waiting:
        page.locator(f"#{panel} .save").first.click()
    assert waiting.value.suggested_filename == name
    root = ElementTree.parse(waiting.value.path()).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("image") == (6 if panel == "map" else 0)
    assert names.count("text") >= 8
    if panel == "head":
        assert names.count("line") == n_lines(page, visible=False) > 0
    if panel in ("teacher", "training"):
        drawn = page.locator(f"#{panel} svg").first
        assert names.count("path") == drawn.locator("path").count() > 1
        words = [one.text or "" for one in root.iter() if one.tag.endswith("text")]
        assert words == drawn.locator("text").all_text_contents()
    assert root.get("color") == "#ececec", "what has the colour of the page's ink has it alone, too"
    assert "var(" not in Path(waiting.value.path()).read_text(encoding="utf-8")


def test_every_picture_that_is_drawn_as_svg_can_be_saved(opened):
    page = opened("whole")
    sections = page.locator("section").all()
    found = {one.get_attribute("id"): one.locator(".save").count() for one in sections}
    drawn = {one.get_attribute("id"): one.locator("svg").count() for one in sections}
    assert {panel: n for panel, n in drawn.items() if n} == {"head": 1, "teacher": 1, "training": 3}
    assert {panel: n for panel, n in found.items() if n} == {
        "map": 1, "head": 1, "teacher": 1, "training": 3,
    }  # fmt: skip


def test_headings_of_tables_are_not_broken_inside_words(opened):
    page = opened("whole")
    lines = """l => l.filter((e) => e.firstChild?.nodeType === 3).map((e) => {
      const text = document.createRange(); text.selectNodeContents(e.firstChild);
      return [e.textContent, new Set([...text.getClientRects()].map((r) => r.top)).size]; })"""
    for width in (1100, 700, 360):
        page.set_viewport_size({"width": width, "height": 700})
        headings = page.locator("#teacher th, #lens th").evaluate_all(lines)
        assert "difference" in [text for text, _ in headings]
        for text, n_lines_of in headings:
            assert n_lines_of <= len(text.split()), text
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_long_words_of_a_reader_do_not_widen_the_page(opened):
    page = opened("one")
    page.set_viewport_size({"width": 360, "height": 700})
    typed(page, f"film {'a' * 90} {'b' * 300}")
    page.click("#word-1")
    page.click("#stage-0")
    page.focus("#m-hidden")
    page.keyboard.press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


# ------------------------------------------------------------------------- a sentence of one's own


def typed(page: Any, text: str, field: int = 0) -> None:
    """Type, and wait until the page has read it."""
    page.evaluate("document.getElementById('live-0').dataset.was = ''")
    page.fill(f"#live-text-{field}", text)
    page.wait_for_selector("#live-0:not([data-was])")


def live_tokens(page: Any) -> list[str]:
    return page.locator("#live .desk .token").all_text_contents()


def pictures(page: Any) -> Any:
    """What the matrices of each panel show."""
    script = "s => [...document.querySelectorAll(s)].map(c => c.toDataURL())"
    shown = "#tokens canvas.matrix", "#map .thumb canvas", "#steps canvas.matrix"
    return {panel: page.evaluate(script, panel) for panel in shown}


def test_a_sentence_that_is_typed_changes_every_panel(opened):
    page = opened("one")
    assert live_tokens(page) == ["[CLS]", *FIRST.split(), "[SEP]"]
    assert "Python computed" in page.text_content("#live")
    before = pictures(page)
    said = page.text_content("#words")
    typed(page, "a dull film was very [MASK]")
    pieces = ["[CLS]", "a", "dull", "film", "was", "very", "[MASK]", "[SEP]"]
    assert live_tokens(page) == pieces
    assert page.evaluate("document.activeElement.id") == "live-text-0", "one may type on"
    for row, panel in (("token", "tokens"), ("asks4", "steps"), ("say", "words")):
        assert page.locator(f"#{panel} button[id^={row}-]").all_text_contents() == pieces
    assert page.locator("#lines .asks").all_text_contents() == pieces
    assert page.text_content("#tokens p.text") == "a dull film was very [MASK]"
    after = pictures(page)
    assert not [panel for panel in before if set(before[panel]) & set(after[panel])]
    assert page.text_content("#words") != said
    assert "8 × 8" in page.text_content("#map")
    assert "weights of eight bits" in page.text_content("#live")
    page.click("#live-reset")
    assert live_tokens(page) == ["[CLS]", *FIRST.split(), "[SEP]"]
    assert pictures(page) == before
    assert page.text_content("#words") == said


def test_a_click_hides_a_word_and_shows_it_again(opened):
    page = opened("one")
    typed(page, "the film was very bright")
    assert "Click a word to hide it" in page.text_content("#live-says")
    assert page.locator("#live-guesses li").count() == 0
    page.click("#live-2")
    assert live_tokens(page)[2] == "[MASK] film"
    assert page.get_attribute("#live-2", "aria-pressed") == "true"
    assert page.evaluate("document.activeElement.id") == "live-2"
    assert page.text_content("#tokens mark") == "film", "and it is the token of the panels"
    guesses = page.locator("#live-guesses li code").all_text_contents()
    assert len(guesses) == 5
    assert guesses == page.locator("#as-read li code").all_text_contents()
    assert guesses == page.locator("#if-masked li code").all_text_contents()
    shares = page.locator("#as-read li").evaluate_all("l => l.map(e => e.lastChild.textContent)")
    three = ", ".join(piece + share for piece, share in zip(guesses[:3], shares, strict=False))
    assert page.text_content("#live-says") == f"Position 2: {three}."
    assert page.get_attribute("#live-says", "role") == "status"
    typed(page, "the film was very bright and warm")
    assert live_tokens(page)[2] == "[MASK] film", "typing on leaves it hidden"
    page.focus("#live-5")
    page.keyboard.press("Enter")
    assert page.locator("#live-guesses h3").all_text_contents() == [
        "[MASK] at position 2, in place of film", "[MASK] at position 5, in place of bright",
    ]  # fmt: skip
    page.click("#live-2")
    assert live_tokens(page)[2] == "film"
    assert page.is_disabled("#live-0")
    typed(page, "a [MASK]")
    assert page.is_disabled("#live-2"), "what stands in the text is not shown by a click"


def hidden_tokens(page: Any) -> list[str]:
    return page.locator("#live .desk .token s").all_text_contents()


def test_a_hidden_word_stays_hidden_where_it_goes(opened):
    page = opened("one")
    typed(page, "film film was bright")
    page.click("#live-1")
    page.click("#live-4")
    for text, wanted in (
        ("a film film was bright", "[CLS] a [MASK]_film film was [MASK]_bright [SEP]"),
        ("a very film film was bright", "[CLS] a very [MASK]_film film was [MASK]_bright [SEP]"),
        ("", "[CLS] a very [MASK]_film film was [MASK]_bright [SEP]"),
        ("film film was bright", "[CLS] [MASK]_film film was [MASK]_bright [SEP]"),
        ("film film was very bright", "[CLS] [MASK]_film film was very [MASK]_bright [SEP]"),
        ("film was very bright", "[CLS] [MASK]_film was very [MASK]_bright [SEP]"),
        ("film was very dark", "[CLS] [MASK]_film was very dark [SEP]"),
    ):
        typed(page, text)
        assert [token.replace(" ", "_") for token in live_tokens(page)] == wanted.split()
    # both at once, before the page has read what was typed
    page.evaluate(
        "field = document.getElementById('live-text-0'); field.value = 'a very film was dark';"
        "field.dispatchEvent(new Event('input')); document.getElementById('live-1').click()"
    )
    assert live_tokens(page)[3] == "film", "a click means the word that it is on"
    assert hidden_tokens(page) == []


def test_no_token_is_hidden_of_a_text_that_cannot_be_read(opened):
    page = opened("one")
    typed(page, "the film was very bright")
    page.click("#live-2")
    before = live_tokens(page)
    page.fill("#live-text-0", "film " * 19)
    page.evaluate("document.getElementById('live-4').click()")  # before it was read, and after
    assert "21 tokens" in page.text_content("#live-says")
    assert page.locator("#live .desk .token:enabled").count() == 0
    page.evaluate("document.getElementById('live-4').click()")
    assert live_tokens(page) == before
    typed(page, "the film was very bright and warm")
    assert hidden_tokens(page) == ["film"]
    assert page.locator("#live .desk .token:enabled").count() == 7


def test_a_reset_shows_what_was_hidden(opened):
    page = opened("one")
    page.click("#live-2")
    assert hidden_tokens(page) == ["film"]
    page.click("#live-reset")
    assert hidden_tokens(page) == []
    typed(page, FIRST + " !")
    assert hidden_tokens(page) == [], "and it does not come back"
    assert live_tokens(page)[2] == "film"


def test_a_long_text_is_read_at_once_or_not_at_all(opened):
    page = opened("large")
    typed(page, "film " * 62)
    assert page.get_attribute("#live-text-0", "aria-invalid") == "false"
    page.fill("#live-text-0", "film " * 120)
    page.wait_for_selector("#live-text-0[aria-invalid=true]")
    assert "would keep the page waiting" in page.text_content("#live-says")
    assert page.locator("#lines .asks").count() == 64


def test_javascript_in_the_browser_agrees_with_python(opened):
    """Of the page's own text, both as Python and as the page computes it."""
    page = opened("whole")
    shown = "[...document.querySelectorAll('#lens button')].map(e => e.title)"
    python = page.evaluate(shown)
    entropies = "l => l.map(e => +e.title.split(' ').pop())"
    distinct = page.locator("#map .thumb").evaluate_all(entropies)
    typed(page, FIRST + " ")
    assert len(python) == 3 * 12
    for one, other in zip(python, page.evaluate(shown), strict=True):
        before, now = (
            [float(line.split(" ")[1]) for line in title.split("\n")] for title in (one, other)
        )
        assert before == pytest.approx(now, abs=1.0)
    assert page.locator("#map .thumb").evaluate_all(entropies) == pytest.approx(distinct, abs=0.02)
    assert "stays with the page's own text" in page.text_content("#teacher")
    assert page.locator("#map-sort option").all_text_contents()[-1] == "entropy, the sharpest first"


def test_a_pair_has_two_fields(opened):
    page = opened("whole")
    typed(page, "a lovely day", 1)
    wanted = ["[CLS]", *FIRST.split(), "[SEP]", "a", "lovely", "day", "[SEP]"]
    assert live_tokens(page) == wanted
    assert page.locator("#tokens p.text").all_text_contents() == [FIRST, "a lovely day"]
    assert page.locator("#live label").all_text_contents() == ["sentence A", "sentence B"]


def test_a_text_that_cannot_be_read_is_told_and_breaks_nothing(opened):
    page = opened("one")
    before = page.text_content("#words")
    for text, said in (
        ("", "The text holds no word yet."),
        ("film " * 19, "These are 21 tokens, but the model knows only 20 positions; shorten"),
        ("\u200d", "The text holds no word yet."),
    ):
        page.fill("#live-text-0", text)
        page.wait_for_selector(f"#live-says:has-text('{said}')")
        assert page.get_attribute("#live-text-0", "aria-invalid") == "true"
        assert page.text_content("#words") == before
    typed(page, "film")
    assert page.get_attribute("#live-text-0", "aria-invalid") == "false"
    assert live_tokens(page) == ["[CLS]", "film", "[SEP]"]
    page.click("#token-2")
    page.click("#stage-5")
    assert page.text_content("#tokens p.text") == "film"


def test_a_shorter_text_leaves_no_choice_of_a_token_that_is_gone(opened):
    page = opened("one")
    page.click("#token-6")
    page.click("#asks-5")
    page.click("#word-5")
    page.click("#stage-2")
    page.focus("#m-dot")
    page.keyboard.press("Enter")
    assert page.is_visible("#story")
    typed(page, "film")
    assert page.is_hidden("#story"), "of a token that is gone"
    assert pressed(page, "#steps .tokens") == ["[SEP]"]
    assert page.locator('#lines [aria-pressed="true"]').count() == 0
    page.focus("#m-dot")
    page.keyboard.press("Enter")
    told = page.text_content("#story-sum")
    typed(page, "warm film")
    assert page.is_visible("#story")
    assert page.text_content("#story-sum") != told, "and one that is there is told anew"


@pytest.mark.parametrize("own", ["the film was bright", ""])
def test_a_state_is_followed_through_the_feed_forward_to_the_embeddings(opened, own):
    """Of a sentence of one's own, and of that of the page, by the same way."""
    page = opened("one")
    if own:
        typed(page, own)
    page.select_option("#steps-layer", "2")
    page.click("#stage-0")
    page.focus("#m-hidden")
    page.keyboard.press("Enter")
    seen = []
    names = ("x[0]", "y =", "unit[3]", "u =", "a[1]", "x[0]", "o =", "z[head 2, 1]", "v[1]")
    sources = []
    for name in (*names, "x[4]", "x[2]", "type"):
        seen.append(page.text_content("#story h3"))
        sources.append(page.text_content("#story .source b").partition(":")[0])
        assert page.text_content("#story-sum")
        page.locator("#story .part", has_text=name).first.click()
    words = [
        "before the last norm", "feed-forward gives", "unit 3", "is given",
        "attention, add and norm", "before the norm",
    ]  # fmt: skip
    for said, part in zip(seen[1:7], words, strict=True):
        assert part in said
    files = [name.removeprefix("minibert/").removesuffix(".py") for name in sources]
    assert files[:7] == [
        "functional", "encoder", "encoder", "functional", "functional", "functional", "encoder",
    ]  # fmt: skip
    assert "looked up, not computed" in page.text_content("#story")
    assert "step 13" in page.text_content("#story .bar")


def test_the_field_follows_the_reader_where_there_is_room(opened):
    page = opened("one")
    typed(page, "the film was bright and warm")
    top = "document.getElementById('live-text-0').getBoundingClientRect().top"
    page.evaluate("document.getElementById('words').scrollIntoView()")
    assert 0 <= page.evaluate(top) < 60
    place = "document.getElementById('words').getBoundingClientRect().top"
    before = page.evaluate(place)
    page.evaluate("document.getElementById('live-text-0').focus({ preventScroll: true })")
    page.keyboard.type(" and very cold")
    page.wait_for_selector("#live-9")
    assert page.evaluate(place) == pytest.approx(before, abs=40)
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate("document.getElementById('words').scrollIntoView()")
    assert page.evaluate(top) < 0


def test_a_page_without_a_live_model_says_why(opened):
    page = opened("closed")
    assert "its weights would take" in page.text_content("#live")
    assert page.locator("textarea").count() == 0
    alone = opened("alone")
    typed(alone, "a very bad film")
    assert live_tokens(alone) == ["[CLS]", "a", "very", "bad", "film", "[SEP]"]
    assert "no head that names words" in alone.text_content("#live-says")
    alone.click("#live-2")
    assert live_tokens(alone)[2] == "[MASK] very"
    lost = opened("pruned")
    typed(lost, "the film was dark")
    assert lost.locator("#map .thumb").count() == 4


def test_hostile_strings_that_are_typed_come_out_as_text(opened):
    page = opened("odd")
    foreign = "img, iframe, object, embed, base, link, math, body style, main script, main a"
    for start in range(0, len(SEEDS), 3):
        typed(page, "film " + " ".join(SEEDS[start : start + 3]))
        assert page.get_attribute("#live-text-0", "aria-invalid") == "false"
        assert page.text_content("#tokens p.text") == page.input_value("#live-text-0")
        assert page.locator(foreign).count() == 0
    page.click("#live summary")
    page.wait_for_selector("#live details code")
    pieces = page.locator("#live details code").all_text_contents()
    assert pieces[-9:] == injections()[:9], "nor are pieces of the vocabulary markup"
    assert page.locator(foreign).count() == 0


# -------------------------------------------------------------------------------- for every reader


def test_keys_change_layer_and_head(opened):
    page = opened("whole")
    page.select_option("#head-layer", "1")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("]")
    assert (page.input_value("#head-layer"), page.input_value("#steps-layer")) == ("2", "2")
    page.keyboard.press("]")
    page.keyboard.press("[")
    assert page.input_value("#head-layer") == "1"
    before = int(page.input_value("#steps-head"))
    page.keyboard.press(".")
    assert int(page.input_value("#steps-head")) == (before + 1) % 3
    page.keyboard.press(",")
    page.keyboard.press(",")
    assert int(page.input_value("#steps-head")) == (before - 1) % 3


def test_everything_can_be_reached_by_tab(opened):
    page = opened("whole")
    kinds = "button:enabled, select, input, textarea, canvas.matrix, summary, text[role=button]"
    controls = page.locator(kinds)
    assert controls.count() > 80
    unreachable = controls.evaluate_all("l => l.filter(e => e.tabIndex < 0).map(e => e.outerHTML)")
    assert unreachable == []


def test_a_layer_that_is_not_open_and_maps_that_are_not_there_say_so(opened):
    page = opened("part")
    page.select_option("#steps-layer", "1")
    assert "Layers that can be opened: 2, 3" in page.text_content("#steps")
    assert facts_of(page)["mapped"] == {"query.2": 8, "key.2": 8}
    for layer, n_terms, said in ((2, 49, "eight bits, with a scale"), (3, 0, "it: --layers 3;")):
        page.select_option("#steps-layer", str(layer))
        page.click("#stage-1")
        click_cell(page, "#m-query", 1, 2, 32, 16)
        assert page.locator("#story tbody tr").count() == n_terms, "48 products and the bias"
        assert said in page.text_content("#story")
        assert "minibert/functional.py:" in page.text_content("#story .source")
        page.keyboard.press("Escape")
    page.select_option("#steps-layer", "2")
    page.click("#stage-0")
    click_cell(page, "#m-hidden", 1, 2, 32, 48)
    assert "--layers 1,2,3 opens it" in page.text_content("#story")
    about = page.text_content("#about")
    assert "in eight bits, with a scale for each row, those of layer 2 (query, key); " in about
    assert "not at all, those of layer 2 (value, output, inner, fed), layer 3 (all)." in about


def test_a_sum_of_weights_of_eight_bits_is_near_the_number(opened):
    page = opened("part")
    page.select_option("#steps-layer", "2")
    page.click("#stage-1")
    for col in range(4):
        click_cell(page, "#m-key", 5, col, 32, 16)
        number = float(page.text_content("#story h3").rpartition(" ")[2])
        total = page.text_content("#story-sum")
        assert float(total) == pytest.approx(number, abs=0.02), "half a step is 0.4 %"
        assert f"come to {total}; the model, in float32, had" in page.text_content("#story")


def test_a_layer_may_have_lost_heads(opened):
    page = opened("pruned")
    assert page.locator("#map .thumb").count() == 4
    page.click("#map-2-2")
    page.select_option("#steps-layer", "1")
    assert page.input_value("#steps-head") == "0", "the only one that is left"
    page.click("#stage-7")
    click_cell(page, "#m-output", 1, 3, 8, 12)
    assert page.locator("#story tbody tr").count() == 5, "4 products of one head, and the bias"
    assert pressed(page, "#head") == ["1"], "head 3, which was chosen, is not there"


def test_light_dark_and_the_colours_of_query_key_and_value(opened):
    colours = {}
    for scheme in ("light", "dark"):
        page = opened("whole", color_scheme=scheme)
        page.click("#stage-1")
        colours[scheme] = [page.evaluate("getComputedStyle(document.body).backgroundColor")]
        for kind in ("query", "key", "value"):
            style = f"getComputedStyle(document.querySelector('figcaption.{kind} b')).color"
            colours[scheme].append(page.evaluate(style))
    assert colours == {
        "light": ["rgb(255, 255, 255)", "rgb(0, 114, 178)", "rgb(184, 74, 0)", "rgb(0, 120, 90)"],
        "dark": ["rgb(21, 22, 23)", "rgb(86, 180, 233)", "rgb(255, 143, 77)", "rgb(62, 207, 159)"],
    }


def test_paper_is_white_and_its_ink_dark(opened):
    """Also what was drawn before with the colours of a dark screen."""
    page = opened("whole", color_scheme="dark")
    ink = "getComputedStyle(document.body).color"
    line = "document.querySelector('#lines text').getAttribute('fill')"
    names = (  # the darkest pixel of the pieces beside a picture
        "(() => { const c = document.querySelector('#m-hidden'); const { data } = "
        "c.getContext('2d').getImageData(0, 18, 80, 60); const inked = []; for (let i = 0; i < "
        "data.length; i += 4) if (data[i + 3] > 200) inked.push(data[i]); "
        "return Math.min(...inked); })()"
    )
    assert (page.evaluate(ink), page.evaluate(line)) == ("rgb(236, 236, 236)", "#ececec")
    assert page.evaluate(names) > 150
    page.emulate_media(media="print", color_scheme="dark")
    page.wait_for_selector("#lines text[fill='#1b1b1b'] >> nth=0")
    assert page.evaluate(line) == "#1b1b1b"
    assert page.evaluate(ink) == "rgb(27, 27, 27)"
    assert page.evaluate(names) < 60
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    page.emulate_media(media="screen", color_scheme="dark")
    page.wait_for_selector("#lines text[fill='#ececec'] >> nth=0")


def test_no_row_looks_out_from_under_the_sum(opened):
    page = opened("whole")
    page.set_viewport_size({"width": 1100, "height": 500})
    page.click("#stage-7")
    page.focus("#m-output")
    page.keyboard.press("Enter")
    ends = (
        "(() => { const foot = document.querySelector('#story tfoot td'), "
        "box = foot.closest('.tall'); return [box.scrollHeight - box.clientHeight, "
        "box.getBoundingClientRect().bottom, foot.getBoundingClientRect().bottom]; })()"
    )
    hidden, box, foot = page.evaluate(ends)
    assert hidden > 0
    assert foot >= box - 0.01


def test_nothing_moves_where_that_is_not_wanted(opened):
    for motion, seconds in (("reduce", "0s"), ("no-preference", "0.2s")):
        page = opened("whole", reduced_motion=motion)
        fill = "document.querySelector('.fill')"
        found = page.evaluate(f"getComputedStyle({fill}).transitionDuration")
        assert found == seconds
        assert page.evaluate("still()") == (motion == "reduce")


def test_a_phone_scrolls_down_and_not_sideways(opened):
    page = opened("whole", screen={"width": 360, "height": 700})
    page.set_viewport_size({"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_200_injections_are_shown_as_text(opened):
    page = opened("hostile")
    strings = injections()

    def texts(selector: str) -> list[str]:
        return page.locator(selector).evaluate_all("l => l.map(e => e.textContent)")

    assert texts("#provenance td")[:200] == strings
    assert texts("#tokens p.text") == strings
    foreign = "img, iframe, object, embed, base, link, math, body style, main script, main a"
    assert page.locator(foreign).count() == 0
    page.click("#asks4-3")
    page.click("#stage-5")
    page.locator("#m-weight").press("Enter")
    assert page.locator(foreign).count() == 0
    page.keyboard.press("Escape")  # of pieces so long the story lies over all else
    page.click("#chip-1")
    page.click("#lens-1-2")
    assert page.locator(foreign).count() == 0
    with page.expect_download() as waiting:
        page.click("#head .save")
    assert ElementTree.parse(waiting.value.path()).getroot() is not None
