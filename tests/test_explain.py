"""The page of `minibert explain`: its numbers are the trace's, its text is text.

What the page does in a browser is tested in `test_explain_browser`.
"""

import base64
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from command import ROOT, documented, shape_of
from hypothesis import given
from hypothesis import strategies as st

from minibert.config import CheckpointError
from minibert.data.demo import demo_corpus
from minibert.data.tokenizer import Tokenizer
from minibert.distillation import TermWeights, intermediate_terms
from minibert.encoder import encode_traced, feed_forward
from minibert.explain import demo, page
from minibert.explain.beside import curves
from minibert.explain.making import explained
from minibert.explain.page import TooLarge, shipped
from minibert.explain.reading import NotReadable, read
from minibert.explain.words import tries
from minibert.functional import gelu_erf, linear, softmax
from minibert.model import Bert
from minibert.wordpiece import SPECIALS, UNKNOWN, longest_match

PACKAGE = ROOT / "minibert" / "explain"
TEXT = "the film was [MASK] and bright"
DTYPES = {"u8": "u1", "i8": "i1", "f16": "<f2", "f32": "<f4"}


def masked_model(**changes: object) -> Bert:
    return Bert.from_config(tiny.config(**changes), "mlm", tiny.tokenizer())


class Parts(HTMLParser):
    """Tags with their attributes, and what the scripts and the style hold."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, dict[str, str | None], str]] = []
        self.data: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.data = []

    def handle_data(self, data: str) -> None:
        self.data.append(data)  # a long script comes in pieces

    def handle_endtag(self, tag: str) -> None:
        if self.tags[-1][0] == tag:
            self.inside.append((*self.tags[-1], "".join(self.data)))

    def scripts(self, kind: str | None) -> list[tuple[dict[str, str | None], str]]:
        return [(a, d) for t, a, d in self.inside if t == "script" and a.get("type") == kind]

    @property
    def facts(self) -> Any:
        (only,) = (data for _, data in self.scripts("application/json"))
        return json.loads(only)

    @property
    def coded_blocks(self) -> dict[str, Any]:
        return {
            a["id"]: [a["data-kind"], [int(n) for n in (a["data-shape"] or "").split(",")], coded]
            for a, coded in self.scripts("text/plain")
        }

    def block(self, name: str) -> np.ndarray:
        (found,) = ((a, d) for a, d in self.scripts("text/plain") if a["id"] == name)
        attributes, coded = found
        numbers = np.frombuffer(base64.b64decode(coded), DTYPES[attributes["data-kind"]])
        return numbers.reshape([int(n) for n in attributes["data-shape"].split(",")])


@pytest.fixture(scope="module")
def made() -> tuple[Bert, Parts, str]:
    bert = masked_model()
    text, _ = explained(bert, TEXT)
    return bert, Parts(text), text


# ------------------------------------------------------------------------------------- the numbers


def trace_of(bert: Bert, parts: Parts) -> Any:
    ids_BS = torch.tensor([[token["id"] for token in parts.facts["tokens"]]])
    return encode_traced(ids_BS, ids_BS >= 0, ids_BS * 0, bert.weights, bert.config)


def inner_BSF(bert: Bert, block: Any, layer: int) -> torch.Tensor:
    """What the units of a layer are given."""
    return linear(block.attended_BSD, *bert.weights.blocks[layer - 1].intermediate)


def maps_of(weights: Any) -> dict[str, Any]:
    return weights.attention._asdict() | {"inner": weights.intermediate, "fed": weights.output}


def test_the_blocks_are_the_numbers_of_the_trace(made):
    bert, parts, _ = made
    trace = trace_of(bert, parts)
    assert len(trace.blocks) == 2
    for layer, block in enumerate(trace.blocks, 1):
        attention = block.attention
        shares_NSR = parts.block(f"attention.{layer}") / 255
        assert abs(shares_NSR - attention.probabilities_BNSR[0].numpy()).max() <= 1 / 510 + 1e-6
        for name, x in (
            ("query", attention.query_BNSK),
            ("key", attention.key_BNRK),
            ("value", attention.value_BNRK),
            ("output", attention.output_BSD),
            ("attended", block.attended_BSD),
            ("inner", inner_BSF(bert, block, layer)),
            ("fed", feed_forward(block.attended_BSD, bert.weights.blocks[layer - 1], "gelu")),
            ("hidden", block.hidden_BSD),
        ):
            assert (parts.block(f"{name}.{layer}") == x[0].half().numpy()).all(), name
        weights = bert.weights.blocks[layer - 1]
        for name, one in maps_of(weights).items():
            kept = parts.block(f"{name}.weight.{layer}")
            assert (kept == one.weight_OI.half().numpy()).all()
            assert (parts.block(f"{name}.bias.{layer}") == one.bias_O.half().numpy()).all()
        for name in ("norm", "output_norm"):
            norm = weights.output_norm if "output" in name else weights.attention_norm
            assert (parts.block(f"{name}.{layer}")[0] == norm.gain_D.numpy()).all()
            assert (parts.block(f"{name}.{layer}")[1] == norm.bias_D.numpy()).all()
    assert (parts.block("hidden.0") == trace.embedded_BSD[0].half().numpy()).all()
    tables = bert.weights.embeddings
    ids = [token["id"] for token in parts.facts["tokens"]]
    assert (parts.block("embedding.word") == tables.word_VD[ids].half().numpy()).all()
    positions_SD = tables.position_PD[: len(ids)].half()
    assert (parts.block("embedding.position") == positions_SD.numpy()).all()


def test_the_words_are_those_of_fill_mask(made):
    bert, parts, _ = made
    words = parts.facts["words"]
    place = [token["piece"] for token in parts.facts["tokens"]].index("[MASK]")
    (guesses,) = bert.fill_mask(TEXT)
    for said in (words["layers"][-1][place], words["masked"][place]):
        assert [piece for piece, _ in said] == [guess.piece for guess in guesses]
        assert [p for _, p in said] == pytest.approx([g.probability for g in guesses], abs=1e-4)
    (guesses,) = bert.fill_mask(TEXT.replace("[MASK]", "very").replace("film", "[MASK]"))
    _, other = explained(bert, TEXT.replace("[MASK]", "very"))
    assert [p for p, _ in other.facts["words"]["masked"][2]] == [g.piece for g in guesses]
    assert len(words["layers"]) == 3, "the embeddings, and each layer"


def test_long_texts_are_masked_in_parts():
    bert, words = masked_model(), ["film", "very", "good"] * 6
    said = explained(bert, " ".join(words))[1].facts["words"]["masked"]
    assert len(said) == 20
    for place in (1, 15, 16, 18):
        hidden = [*words[: place - 1], "[MASK]", *words[place:]]
        (guesses,) = bert.fill_mask(" ".join(hidden))
        assert [p for _, p in said[place]] == pytest.approx(
            [guess.probability for guess in guesses], abs=1e-4
        )
        assert [piece for piece, _ in said[place]] == [guess.piece for guess in guesses]


def test_a_model_without_a_masked_word_head_says_so():
    _, reading = explained(tiny.classifier(), "a good film")
    assert reading.facts["words"] is None
    assert reading.facts["head"] == "classification"


def test_source_lines_are_where_they_are_said_to_be(made):
    _, parts, _ = made
    assert len(parts.facts["sources"]) == 14
    for source in parts.facts["sources"].values():
        lines = (ROOT / source["file"]).read_text(encoding="utf-8").splitlines()
        assert lines[source["line"] - 1].strip() == source["code"]
        assert '"""' not in source["code"]


@given(st.text(alphabet="abc", max_size=12), st.sets(st.text(alphabet="abc#", max_size=5)))
def test_the_steps_lead_to_the_pieces(word, vocabulary):
    pieces, lists = longest_match(word, vocabulary), tries(word, vocabulary)
    if pieces != [UNKNOWN]:
        assert [one[-1] for one in lists] == pieces
        assert all(piece not in vocabulary for one in lists for piece in one[:-1])
    else:
        assert not any(piece in vocabulary for piece in lists[-1])


def test_the_steps_follow_the_text():
    vocabulary = [*SPECIALS, "una", "##ff", "##able", "!", "the"]
    bert = Bert.from_config(tiny.config(vocab_size=10), "mlm", Tokenizer(vocabulary))
    facts = read(bert, "The ünaffable!")[0].facts
    assert [step["pieces"] for step in facts["steps"][0]] == [
        ["the"], ["una", "##ff", "##able"], ["!"],
    ]  # fmt: skip
    assert facts["steps"][0][1]["tries"][1] == ["##ffable", "##ffabl", "##ffab", "##ffa", "##ff"]
    assert [token["span"] for token in facts["tokens"]][1:-1] == [
        (0, 3), (4, 7), (7, 9), (9, 13), (13, 14),
    ]  # fmt: skip
    other = Tokenizer(vocabulary, strip_accents=False)
    facts = read(Bert.from_config(tiny.config(vocab_size=10), "mlm", other), "the!")[0].facts
    assert facts["steps"] is None, "the book reads accents in another way"


def test_a_pair_has_two_sentences_and_one_type_of_token_may_be_all():
    for types in (2, 1):
        facts = explained(masked_model(type_vocab_size=types), "a film", "very bad")[1].facts
        assert [token["type"] for token in facts["tokens"]] == [0, 0, 0, 0, 1, 1, 1]
        assert facts["text"] == ["a film", "very bad"]


# ------------------------------------------------------------------------------------- its size


def small_tinybert() -> Bert:
    return masked_model(
        hidden_size=312, num_hidden_layers=4, num_attention_heads=12, intermediate_size=1200,
        max_position_embeddings=128, initializer_range=0.02,
    )  # fmt: skip


ATTENTION = ("query", "key", "value", "output")
LONG = " ".join(["the film was very good and"] * 5)


def test_32_tokens_of_a_4_layer_model_fit_into_3_megabytes():
    text, reading = explained(small_tinybert(), LONG)
    assert len(reading.facts["tokens"]) == 32
    assert len(text.encode()) <= 3_000_000
    first = [f"{name}.{layer}" for layer in (1, 2, 3) for name in ATTENTION]
    assert Parts(text).facts["mapped"] == dict.fromkeys(first, 8), "attention has room, in 8 bits"


def kept_maps(bert: Bert, text: str, layers: list[int] | None, budget: int) -> Any:
    """The facts of a page that is no larger, and the same each time."""
    content, _ = explained(bert, text, layers=layers, budget=budget)
    assert content == explained(bert, text, layers=layers, budget=budget)[0]
    assert len(content.encode()) <= budget
    return Parts(content).facts


def test_room_is_filled_with_maps_and_what_the_page_of_one_layer_has_is_said():
    bert = masked_model(
        hidden_size=96, num_hidden_layers=3, intermediate_size=384, vocab_size=3000,
        max_position_embeddings=600,
    )  # fmt: skip
    order = [f"{name}.{layer}" for layer in (1, 2, 3) for name in ATTENTION]
    order += [f"{name}.{layer}" for layer in (1, 2, 3) for name in ("fed", "inner")]
    without = dataclasses.replace(explained(bert, TEXT)[1], maps={})
    least = len(page.page(without).encode())
    seen = set()
    for room in (2_000, 30_000, 100_000, 200_000, 300_000, 420_000, 550_000, 900_000):
        facts = kept_maps(bert, TEXT, None, least + room)
        bits = [facts["mapped"].get(name, 0) for name in order]
        assert list(facts["mapped"]) == order[: len(facts["mapped"])]
        assert bits == sorted(bits, reverse=True), "half precision first, then eight bits, then 0"
        seen |= set(bits)
        for layer in (1, 2, 3):
            alone = set(kept_maps(bert, TEXT, [layer], least + room)["mapped"])
            told = {name for name in facts["alone"] if name.endswith(f".{layer}")}
            own = {name for name in order if name.endswith(f".{layer}")}
            assert told == (alone if own - set(facts["mapped"]) else set())
    assert seen == {0, 8, 16}


def test_a_wide_layer_alone_uses_the_room_that_there_is():
    wide = masked_model(
        hidden_size=768, num_hidden_layers=4, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=128, initializer_range=0.02,
    )  # fmt: skip
    facts = kept_maps(wide, LONG, None, 3_000_000)
    assert facts["mapped"] == {}
    assert facts["alone"] == [f"{name}.{n}" for n in (1, 2, 3, 4) for name in ("query", "key")]
    facts = kept_maps(wide, LONG, [3], 3_000_000)
    assert facts["mapped"] == {"query.3": 8, "key.3": 8}
    assert facts["opened"] == [3]


def test_weights_of_eight_bits_are_within_half_a_step_of_those_of_sixteen():
    bert = small_tinybert()
    parts = Parts(explained(bert, LONG)[0])
    weight_OI = bert.weights.blocks[2].attention.key.weight_OI.half().float()
    step_O1 = parts.block("key.scale.3")[:, None]
    kept_OI = parts.block("key.weight.3")
    assert kept_OI.dtype == np.int8
    assert (abs(kept_OI * step_O1 - weight_OI.numpy()) <= 0.501 * step_O1).all()


def test_a_page_over_the_budget_is_refused_with_advice_that_helps():
    bert, budget = small_tinybert(), 900_000
    with pytest.raises(TooLarge) as refused:
        explained(bert, LONG, budget=budget)
    assert refused.value.exit_code == 2
    said = re.fullmatch(
        r"the page would have 1\.\d MB, but may have 0\.9 MB; open fewer layers, such as "
        r"--layers ([\d,]+)", str(refused.value),
    )  # fmt: skip
    layers = [int(one) for one in said[1].split(",")]
    text, reading = explained(bert, LONG, layers=layers, budget=budget)
    assert len(text.encode()) <= budget
    assert reading.facts["opened"] == layers
    with pytest.raises(TooLarge, match="give it a shorter text"):
        explained(bert, LONG, budget=400_000)


def test_layers_that_are_not_opened_keep_their_shares_alone():
    text, _ = explained(masked_model(num_hidden_layers=3), TEXT, layers=[2])
    ids = {attributes["id"] for attributes, _ in Parts(text).scripts("text/plain")}
    names = {name for name in ids if not name.startswith("live.")}
    assert {f"attention.{layer}" for layer in (1, 2, 3)} <= names
    assert {name for name in names if name.startswith("query")} == {
        "query.2", "query.weight.2", "query.bias.2",
    }  # fmt: skip
    states = {name for name in names if name.startswith("hidden")}
    assert states == {"hidden.0", "hidden.1", "hidden.2"}, "and the embeddings'"


# ------------------------------------------------------------------------------- text stays text

SEEDS = (
    "</script>", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "-->",
    "<svg onload=alert(1)>", "]]>", "&lt;b&gt;", "&#60;", "\u2028", "\u2029", "\"", "'", "`", "\\",
    "${alert(1)}", "javascript:alert(1)", "<style>*{display:none}</style>", "\x00", "\x1b",
    "\ufeff",
    "</main>", "<base href=//x>", "<a href='https://x'>", "\\u003c/script\\u003e", "é", "書", "😀",
    "</SCRIPT >", "<noscript>", "{{x}}", "%3Cscript%3E", "\u202e", "\n", "<math>", "<plaintext>",
)  # fmt: skip


def injections() -> list[str]:
    """200 strings, each alone and joined at random."""
    rng = random.Random(0)
    joined = ["".join(rng.choices(SEEDS, k=rng.randint(2, 5))) for _ in range(200 - len(SEEDS))]
    return [*SEEDS, *joined]


def tags_of(parts: Parts) -> list[tuple[str, tuple[str, ...]]]:
    return [(tag, tuple(sorted(attributes))) for tag, attributes in parts.tags]


def test_200_injections_come_out_as_text(made):
    """As the text, and as the name of a model: the page has the tags that it always has."""
    assert len(injections()) == 200
    bert, plain, _ = made
    reading = read(bert, "the film")[0]
    reading.blocks, reading.maps = {}, {}
    usual = None
    for text in injections():
        reading.facts |= {"text": [text], "about": {"model": text}, "head": text}
        parts = Parts(page.page(reading))
        usual = usual or tags_of(parts)
        assert tags_of(parts) == usual, text
        assert parts.facts["text"] == [text]
        assert parts.facts["about"] == {"model": text}
    assert [tag for tag, _ in usual].count("script") == 2 + len(page.SCRIPTS)
    assert "meta" in {tag for tag, _ in tags_of(plain)}


def test_an_injection_goes_through_the_whole_of_it():
    text = "film </script><img src=x onerror=alert(1)> \u2028 & 'bright'"
    parts = Parts(explained(masked_model(max_position_embeddings=64), text)[0])
    assert parts.facts["text"] == [text]
    assert "img" not in {tag for tag, _ in parts.tags}


# ---------------------------------------------------------------------------- nothing is fetched


def test_the_page_refers_to_nothing_outside(made):
    _, parts, _ = made
    links = {"src", "href", "srcset", "action", "data", "poster", "background", "style"}
    for tag, attributes in parts.tags:
        assert not links & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
    library, *ours = (script for _, script in parts.scripts(None))
    assert library == shipped("vendor/d3.min.js")
    assert ours == [shipped(name) for name in OURS]
    (style,) = (data for tag, _, data in parts.inside if tag == "style")
    for content in (*ours, style):
        for reach in (
            r"http", r"(?<![\w*])//[\w.]", r"@import", r"url\((?!data:)", r"\bfetch\b",
            r"\bimport\(", r"XMLHttpRequest", r"WebSocket", r"EventSource", r"sendBeacon",
            r"innerHTML", r"\beval\b",
        ):  # fmt: skip
            assert not re.search(reach, content.replace("URL.createObjectURL(", "")), reach


def test_the_policy_names_the_scripts_and_lets_nothing_be_fetched(made):
    _, parts, _ = made
    policy = next(a["content"] for t, a in parts.tags if a.get("http-equiv"))
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "style-src", "img-src", "script-src"}
    for kind, contents in (
        ("script-src", [script for _, script in parts.scripts(None)]),
        ("style-src", [data for tag, _, data in parts.inside if tag == "style"]),
    ):
        digests = [hashlib.sha256(one.encode()).digest() for one in contents]
        named = [f"'sha256-{base64.b64encode(one).decode()}'" for one in digests]
        assert rules[kind].split() == named


def test_d3_is_unmodified_and_comes_with_its_licence(made):
    said, name = (PACKAGE / "vendor/SHA256SUMS").read_text(encoding="ascii").split()
    content = (PACKAGE / "vendor" / name).read_bytes()
    # what the npm registry's d3-7.9.2.tgz holds as package/dist/d3.min.js
    known = "912111098ea99503a6f4967361d2bbdc9dbf58cf9c678c8e27e5b02d1a07f0c1"
    assert hashlib.sha256(content).hexdigest() == said == known
    assert content.startswith(b"// https://d3js.org v7.9.2 ")
    licence = (PACKAGE / "vendor/LICENSE").read_text(encoding="utf-8")
    assert "Permission to use, copy" in licence
    ((_, in_page),) = made[1].scripts("text/licence")
    assert in_page == licence, "who hands on a page hands on d3"


def test_an_installed_package_has_the_files():
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    (patterns,) = re.findall(r"^minibert\.explain = (.+)$", setup, re.M)
    packed = {path for pattern in patterns.split(", ") for path in PACKAGE.glob(pattern)}
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert packed == {path for path in others if "__pycache__" not in path.parts}


# ------------------------------------------------------------------------------- what is refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    masked_model().save_pretrained(folder / "mlm")
    tiny.classifier(num_hidden_layers=3).save_pretrained(folder / "teacher")
    tiny.classifier(num_attention_heads=2).save_pretrained(folder / "two_heads")
    pieces = [*SPECIALS, "film"]
    other = tiny.config(vocab_size=6)
    Bert.from_config(other, "mlm", Tokenizer(pieces)).save_pretrained(folder / "other")
    (folder / "notes.html").mkdir()
    return folder


@pytest.mark.parametrize(
    ("text", "more", "code", "said"),
    [
        ("", "", 2, "TEXT is empty"),
        (" \n ", "", 2, "TEXT is empty"),
        ("a film\t", "", 2, "one of its two sentences is"),
        ("a\tb\tc", "", 2, "TEXT holds 2 tabs; at most one is allowed"),
        ("a \ud800", "", 2, "TEXT is not UTF-8"),
        ("\u200d", "", 2, "no character that the model reads"),
        ("film " * 19, "", 2, "21 tokens, but the model knows only 20 positions"),
        ("film", "--layers 3", 2, "there is no layer 3: the model has layers 1 to 2"),
        ("film", "--layers 0", 2, "there is no layer 0: the model has layers 1 to 2"),
        ("film", "--layers x", 2, "--layers x: give numbers such as 1,3 or 2-4"),
        ("film", "--layers 2-1", 2, "it names no layer"),
        ("film", "-o page.txt", 2, "the name must end in .html"),
        ("film", "-o no/page.html", 2, "there is no such folder"),
        ("film", "--model no/where", 3, "there is no folder"),
        ("film", "--teacher {}/other", 3, "is not the model's"),
        ("film", "--teacher {}/two_heads", 3, "the model's number must divide the teacher's"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(text, more, code, said, minibert, folder):
    options = more.format(folder).split()
    model = [] if "--model" in options else ["--model", f"{folder}/mlm"]
    answer = minibert("explain", *options, *model, text)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.said
    assert not Path("page.html").exists()


def test_the_teacher_must_not_be_the_smaller_one(folder, minibert):
    answer = minibert(f"explain --model {folder}/teacher --teacher {folder}/mlm film")
    assert (answer.code, "the wrong way round" in answer.said) == (3, True)


def test_numbers_that_no_page_can_hold_are_refused():
    bert = masked_model()
    bert.weights.blocks[0].attention.value.bias_O.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"holds .*, but the page keeps numbers up to"):
        explained(bert, TEXT)
    for bert in (masked_model(), tiny.classifier()):
        bert.weights.embeddings.word_VD[-1, 3] = float("nan")  # of a word that is not in the text
        with pytest.raises(CheckpointError, match="word_VD holds a number that is not finite"):
            explained(bert, TEXT)
    blank = Bert.from_config(tiny.config(), "mlm")
    with pytest.raises(CheckpointError, match="no vocabulary"):
        explained(blank, TEXT)
    with pytest.raises(NotReadable, match="shorten it"):
        explained(masked_model(), "film " * 30)


# ------------------------------------------------------------------------------- what stands beside


def test_the_losses_beside_the_teacher_are_those_of_distillation():
    student = masked_model()
    teacher = tiny.classifier(7, num_hidden_layers=4, num_attention_heads=6)
    reading = explained(student, TEXT, teacher=teacher)[1]
    facts = reading.facts["teacher"]
    assert facts["maps"] == {"uniform": (2, 4), "top": (3, 4), "bottom": (1, 2)}
    ids_BS = torch.tensor([[token["id"] for token in reading.facts["tokens"]]])
    own, theirs = (
        encode_traced(ids_BS, ids_BS >= 0, ids_BS * 0, model.weights, model.config)
        for model in (student, teacher)
    )
    for layers in ((2, 4), (1, 3), (4, 4)):
        terms = intermediate_terms(own, theirs, ids_BS >= 0, layers, None, TermWeights())
        by_head = [facts["attention"][m][g - 1] for m, g in enumerate(layers)]
        told = sum(sum(losses) / len(losses) for losses in by_head)
        assert told == pytest.approx(float(terms.attention_B), rel=1e-5)
        hidden = sum(facts["hidden"][m][g - 1] for m, g in enumerate(layers))
        assert hidden == pytest.approx(float(terms.hidden_B), rel=1e-5)
    maps = [reading.blocks[f"teacher.{g}"] for g in (1, 2, 3, 4)]
    assert {x.shape for x in maps} == {reading.blocks["attention.1"].shape}
    total_SR = maps[0].float().sum(-1) / 255
    assert (total_SR - 1).abs().max() < 0.05, "shares, those of the mean score of two heads"


def test_curves_are_the_rows_of_the_run(tmp_path):
    assert curves(tmp_path) == []
    rows = [
        {"phase": "a", "step": step, "lr": 0.1, "train": {"loss": 1.0 / step, "x": None},
         "dev": {"accuracy": 0.5}}
        for step in range(1, 1000)
    ]  # fmt: skip
    rows.append({"phase": "b", "step": 4, "train": {"loss": float("inf"), "hidden": 2}})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    found = {(one["phase"], one["kind"], one["name"]): one["points"] for one in curves(tmp_path)}
    assert list(found) == [
        ("a", "train", "loss"), ("a", "dev", "accuracy"), ("a", "lr", "lr"),
        ("b", "train", "hidden"),
    ]  # fmt: skip
    assert found["b", "train", "hidden"] == [(4, 2.0)]
    points = found["a", "train", "loss"]
    assert points[1] == (5, 0.2), "every fourth of 999, so no more than 300"
    assert len(points) == 251
    assert points[-1] == (999, 1 / 999), "the last row as well"


# ------------------------------------------------------------------------------- the command line


def test_explain_prints_the_documented_document(minibert, folder):
    answer = minibert(f"explain --model {folder}/mlm --teacher {folder}/teacher --json", TEXT)
    assert answer.code == 0, answer.err
    assert shape_of(answer.document) == shape_of(documented("explain"))
    document = answer.document
    content = Path("page.html").read_bytes()
    assert document["bytes"] == len(content)
    assert document["tokens"] == ["[CLS]", *TEXT.split(), "[SEP]"]
    facts = Parts(content.decode()).facts
    assert facts["about"]["command"].endswith(f"--json '{TEXT}'")
    assert facts["about"]["model"] == f"{folder}/mlm"
    assert facts["curves"] is None


def test_a_page_that_cannot_be_written_leaves_what_is_there(minibert, folder):
    answer = minibert(f"explain --model {folder}/mlm -o {folder}/notes.html film")
    assert (answer.code, answer.out) == (1, "")
    assert "cannot be written" in answer.said
    assert (folder / "notes.html").is_dir()


def test_the_small_model_is_trained_once_and_the_command_says_so(minibert, monkeypatch):
    corpus = demo_corpus()
    few = corpus._replace(teacher_train=corpus.teacher_train[:90], pool=())
    monkeypatch.setattr(demo, "demo_corpus", lambda seed: few)
    monkeypatch.setattr(demo, "HELD_OUT", 20)
    answer = minibert("explain", "the plot was [MASK] .")
    assert answer.code == 0, answer.err
    said = "a small model learns to name masked words in reviews; kept in runs/explain"
    assert said in answer.err
    facts = Parts(Path("page.html").read_text(encoding="utf-8")).facts
    assert {line["name"] for line in facts["curves"]} == {"loss", "accuracy", "lr"}
    assert facts["words"] is not None
    kept = Path("runs/explain/model.safetensors").read_bytes()
    again = minibert("explain", "the plot was [MASK] .")
    assert (again.code, again.err) == (0, "")
    assert Path("runs/explain/model.safetensors").read_bytes() == kept


def test_a_training_that_is_stopped_goes_on_with_the_same_command(minibert, monkeypatch):
    corpus = demo_corpus()
    few = corpus._replace(teacher_train=corpus.teacher_train[:150], pool=())
    monkeypatch.setattr(demo, "demo_corpus", lambda seed: few)
    monkeypatch.setattr(demo, "HELD_OUT", 20)
    whole = demo.MaskedWords.terms

    def interrupted(self: Any, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return whole(self, *arguments)

    monkeypatch.setattr(demo.MaskedWords, "terms", interrupted)
    answer = minibert("explain", "the plot was [MASK] .")
    assert (answer.code, answer.out) == (130, "")
    assert answer.said == "stopped, and saved in runs/explain; the same command resumes"
    monkeypatch.setattr(demo.MaskedWords, "terms", whole)
    assert minibert("explain", "the plot was [MASK] .").code == 0
    assert json.loads(Path("runs/explain/result.json").read_text(encoding="utf-8"))["metrics"]


def test_a_folder_of_somebody_else_is_left_alone(minibert):
    Path("runs/explain").mkdir(parents=True)
    Path("runs/explain/mine").write_text("x", encoding="utf-8")
    answer = minibert("explain", "the plot was dull .")
    assert (answer.code, "name a --model" in answer.said) == (2, True)


def test_a_place_where_the_small_model_cannot_be_kept_names_the_way_out(minibert):
    Path("runs").write_text("x", encoding="utf-8")
    answer = minibert("explain", "the plot was dull .")
    assert (answer.code, answer.out) == (1, "")
    assert answer.said.startswith("runs/explain cannot be made here: ")
    assert answer.said.endswith("; run this in a folder where you can write, or name a --model")


# ------------------------------------------------------------------------------ the viewer, in Node

NODE = shutil.which("node")
OURS = page.SCRIPTS[1:]  # d3 draws, and is not asked here
OUR_SCRIPTS = "\n".join(map(shipped, OURS))
IN_NODE = """
const { scripts, expression, given } = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(scripts.map((script) =>
  new Function("given", "expression", `${script}\\nreturn eval(expression);`)(given, expression))));
"""
BLOCKS = """Object.fromEntries(Object.entries(given.blocks).map(
  ([name, [kind, shape, text]]) => [name, asBlock(decode(text, kind), shape)]))"""
CHECK = f"const blocks = {BLOCKS};" + """(() => {
const cells = given.cells;
const numbers = makeNumbers(given.facts, pageReading(given.facts, (name) => blocks[name]));
return {
  halves: [...decode(given.halves, "f16")].map(String), softmax: given.rows.map((row) => softmax(row)),
  stories: cells.map((c) => { const s = numbers.story(c); return [numbers.get(c), s.sum, s.rows.length, s.source, s.then]; }),
  parts: cells.filter((c) => c.kind !== "weight").flatMap((c) => numbers.story(c).rows.flat().filter((p) => p.cell).map((p) => [p.value, numbers.get(p.cell)])),
  shown: shown(given.facts.eps), hidden: softmax([-Infinity, 1]),
  differences: differenceWords({ state: 0.25, largest: 8, share: 0.0123 }),
}; })()"""  # noqa: E501


def in_node(expression: str, given: Any, *scripts: str) -> list[Any]:
    """What JavaScript that speaks of `given` and of our scripts gives, for each set of scripts."""
    if NODE is None:
        pytest.skip("there is no node to run the page's functions")
    asked = {"scripts": scripts or [OUR_SCRIPTS], "expression": expression, "given": given}
    done = subprocess.run(
        [NODE, "-e", IN_NODE], input=json.dumps(asked), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers


@pytest.fixture(scope="module")
def viewed(made) -> Any:
    """What the pure functions of the viewer say of every kind of cell of the page."""
    _, parts, _ = made
    rng = random.Random(1)
    n_tokens = len(parts.facts["tokens"])
    cells = []
    for kind in KINDS:
        for _ in range(6):
            width = n_tokens if kind in ("dot", "scaled", "masked", "weight") else 12
            width = 4 if kind in ("query", "key", "value", "taken") else width
            width = 17 if kind in ("inner", "unit") else width
            layer = 0 if kind in ("word", "position", "type", "summed") else rng.randint(1, 2)
            layer = rng.randint(0, 2) if kind == "hidden" else layer
            cells.append(
                {"kind": kind, "layer": layer, "head": rng.randrange(3),
                 "row": rng.randrange(n_tokens), "col": rng.randrange(width)}
            )  # fmt: skip
    rows = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 20
    given = {
        "facts": parts.facts,
        "cells": cells,
        "rows": rows.tolist(),
        "halves": base64.b64encode(np.arange(65536, dtype="<u2").tobytes()).decode(),
        "blocks": parts.coded_blocks,
    }
    (found,) = in_node(CHECK, given)
    return found | {"cells": cells, "rows": rows}


KINDS = (
    "word position type summed hidden query key value dot scaled masked weight taken output added "
    "attended inner unit fed filled".split()
)


def test_every_half_precision_number_is_decoded(viewed):
    ours = np.array([float(x.replace("Infinity", "inf")) for x in viewed["halves"]])
    theirs = np.arange(65536, dtype="<u2").view("<f2").astype(float)
    assert np.array_equal(ours, theirs, equal_nan=True)


def test_softmax_is_the_books(viewed):
    assert np.allclose(viewed["softmax"], softmax(viewed["rows"].double()).numpy(), atol=1e-12)
    assert viewed["hidden"] == [0, 1], "what is hidden gets nothing"


def value_in(bert: Bert, trace: Any, embedded: dict[str, Any], cell: dict[str, Any]) -> float:
    """The number of a cell as the trace has it."""
    kind, layer, head, row, col = (cell[k] for k in ("kind", "layer", "head", "row", "col"))
    if kind in embedded:
        return float(embedded[kind][row, col])
    if kind == "hidden":
        return float(trace.hiddens_LBSD[layer][0, row, col])
    block = trace.blocks[layer - 1]
    a = block.attention
    width = a.query_BNSK.shape[-1]
    inner_SF = inner_BSF(bert, block, layer)[0]
    fed_SD = feed_forward(block.attended_BSD, bert.weights.blocks[layer - 1], "gelu")[0]
    by_kind = {
        "query": a.query_BNSK[0, head], "key": a.key_BNRK[0, head], "value": a.value_BNRK[0, head],
        "dot": a.scores_BNSR[0, head] * width**0.5, "scaled": a.scores_BNSR[0, head],
        "masked": a.scores_BNSR[0, head], "weight": a.probabilities_BNSR[0, head],
        "taken": a.probabilities_BNSR[0, head] @ a.value_BNRK[0, head], "output": a.output_BSD[0],
        "added": trace.hiddens_LBSD[layer - 1][0] + a.output_BSD[0],
        "attended": block.attended_BSD[0], "inner": inner_SF, "unit": gelu_erf(inner_SF),
        "fed": fed_SD, "filled": block.attended_BSD[0] + fed_SD,
    }  # fmt: skip
    return float(by_kind[kind][row, col])


def test_every_number_is_the_traces_and_comes_about_as_told(made, viewed):
    bert, parts, _ = made
    trace, tables = trace_of(bert, parts), bert.weights.embeddings
    ids = [token["id"] for token in parts.facts["tokens"]]
    embedded = {
        "word": tables.word_VD[ids],
        "position": tables.position_PD[: len(ids)],
        "type": tables.type_TD[[0] * len(ids)],
    }
    embedded["summed"] = embedded["word"] + embedded["position"] + embedded["type"]
    summed = (
        "summed query key value dot scaled masked taken output added inner unit fed filled".split()
    )
    for cell, (value, total, n_rows, source, then) in zip(
        viewed["cells"], viewed["stories"], strict=True
    ):
        kind = cell["kind"]
        true = value_in(bert, trace, embedded, cell)
        assert value == pytest.approx(true, rel=4e-3, abs=4e-3), cell
        if kind in summed:
            assert total == pytest.approx(value, rel=4e-3, abs=4e-3), cell
            assert n_rows > 0
        assert source in parts.facts["sources"], cell
        if kind in ("attended", "hidden"):  # what the words of the last step come to
            assert float(then.rpartition("= ")[2]) == pytest.approx(value, rel=1e-2, abs=1e-2)
        if kind == "weight":
            assert float(then.rpartition("= ")[2]) == pytest.approx(value, rel=1e-3)
            above, below = (float(x) for x in then.partition(" =")[0].split(" / "))
            assert above / below == pytest.approx(value, rel=1e-3)
    assert {cell["kind"] for cell in viewed["cells"]} == set(KINDS)


def test_a_part_is_the_number_that_it_leads_to(viewed):
    assert len(viewed["parts"]) > 500
    assert all(told == reached for told, reached in viewed["parts"])
    assert viewed["shown"] == "1.00e-12"


def test_how_far_eight_bits_are_is_said_in_points(viewed):
    said = "at most 0.2500 off (their largest number is 8.000), and the shares of its likeliest "
    assert said + "words at most 1.23 points." in viewed["differences"]
