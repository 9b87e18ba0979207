"""The model in the page: JavaScript reads as the book does, with the same weights in eight bits.

`live.js` is run by Node, and so is each known mistake that is put into it. What a reader does with
it in a browser is tested in `test_explain_browser`.
"""

import dataclasses
import random
import unicodedata
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_explain import BLOCKS, OUR_SCRIPTS, Parts, in_node, injections, masked_model

from minibert.data.demo import demo_vocabulary, templates
from minibert.data.tokenizer import Tokenizer
from minibert.encoder import encode_traced
from minibert.explain import live
from minibert.explain.making import explained
from minibert.explain.page import TooLarge, page
from minibert.explain.reading import read
from minibert.explain.words import word_steps
from minibert.functional import gelu_erf, gelu_tanh, linear, softmax
from minibert.heads import mlm_logits
from minibert.model import Bert
from minibert.parameters import named_tensors, with_tensors
from minibert.pruned import without_idle
from minibert.training.demo import demo_models
from minibert.wordpiece import SPECIALS, assemble, encode

BOUND = 1e-6  # of the largest number, in float32; less than half of it is seen
TEXTS: list[list[str]] = [
    ["the film was [MASK] and bright"],
    ["film"],
    ["the plot was [MASK] , and the song was very [MASK] !", "it is so [MASK]"],
    ["warm warm cold zebra", "a lovely day"],
]
MODEL = f"""
const model = liveModel(given.live, given.config, {BLOCKS});
const plain = (x) => ArrayBuffer.isView(x) ? [...x] : x.map(plain);
"""


def stirred(bert: Bert) -> Bert:
    """The model with noise on every tensor, so that no bias is 0 and no gain 1."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        path: x + 0.1 * torch.randn(x.shape, generator=generator)
        for path, x in named_tensors(bert.weights)
    }
    return dataclasses.replace(bert, weights=with_tensors(bert.weights, tensors))


def eps_counts(**changes: object) -> Bert:
    """Small states and a large eps, so that it shows where eps stands."""
    return stirred(masked_model(layer_norm_eps=0.01, max_position_embeddings=30, **changes))


def with_eight_bits(bert: Bert) -> Bert:
    """What the page computes with, in Python."""
    weights = live.read_by_page(bert.weights)
    blocks = live.eight_bits(dict(named_tensors(weights)))
    return dataclasses.replace(bert, weights=live.dequantized(weights, blocks))


def in_page(bert: Bert) -> dict[str, Any]:
    """What the page holds of a model, as its scripts find it there."""
    parts = Parts(explained(bert, "the film")[0])
    blocks = parts.coded_blocks
    own = {name.removeprefix("live."): blocks[name] for name in blocks if name.startswith("live.")}
    return {"live": parts.facts["live"], "config": parts.facts["config"], "blocks": own}


# ------------------------------------------------------------------------------- the forward pass

FORWARD = MODEL + """
given.inputs.map(({ ids, types }) => {
  const trace = encode(ids, types, model.weights, model.config);
  return { states: trace.hiddens_LSD.map(plain),
    probabilities: trace.blocks.map((one) => plain(one.attention.probabilities_NSR)),
    logits: plain(trace.hiddens_LSD.at(-1).map((state_D) => mlmLogits(state_D, model.weights, model.config))) };
})"""  # noqa: E501


def inputs_of(bert: Bert) -> list[dict[str, Any]]:
    assert bert.tokenizer is not None
    encoded = [bert.tokenizer.encode([text[0]], text[1:] or None)[0] for text in TEXTS]
    return [{"ids": one.ids, "types": one.types} for one in encoded]


def book(bert: Bert, dtype: torch.dtype) -> list[dict[str, list[torch.Tensor]]]:
    """The same numbers from the book, with the weights that the page has."""
    bert = with_eight_bits(bert).to("cpu", dtype)
    found = []
    for given in inputs_of(bert):
        ids_BS, types_BS = torch.tensor([given["ids"]]), torch.tensor([given["types"]])
        trace = encode_traced(ids_BS, ids_BS >= 0, types_BS, bert.weights, bert.config)
        mlm, word_VD = bert.weights.mlm, bert.weights.embeddings.word_VD
        assert mlm is not None
        found.append(
            {
                "states": [state_BSD[0] for state_BSD in trace.hiddens_LBSD],
                "probabilities": [b.attention.probabilities_BNSR[0] for b in trace.blocks],
                "logits": [mlm_logits(trace.hidden_BSD[0], mlm, word_VD, bert.config)],
            }
        )
    return found


def errors(answers: Any, truth: Any) -> dict[str, float]:
    """Of each kind of number the largest error, as a share of the largest number."""
    worst: dict[str, float] = {}
    for said, true in zip(answers, truth, strict=True):
        for kind, tensors in true.items():
            given = said[kind] if kind != "logits" else [said[kind]]
            for ours, theirs in zip(given, tensors, strict=True):
                error = np.abs(np.array(ours) - theirs.numpy()).max() / theirs.abs().max().item()
                worst[kind] = max(worst.get(kind, 0.0), float(error))
    return worst


@pytest.mark.parametrize("form", ["gelu", "gelu_new"])
def test_javascript_computes_what_the_book_computes(form):
    bert = eps_counts(hidden_act=form)
    (answers,) = in_node(FORWARD, in_page(bert) | {"inputs": inputs_of(bert)})
    for dtype in (torch.float64, torch.float32):
        worst = errors(answers, book(bert, dtype))
        said = ", ".join(f"{kind} {error:.1e}" for kind, error in worst.items())
        print(f"{form}, the book in {dtype}: largest error {said}")
        assert max(worst.values()) <= BOUND


def test_layers_that_lost_heads_and_units_are_read():
    whole = eps_counts()
    weights = whole.weights.blocks[0]
    weights.attention.output.weight_OI[:, 4:8] = 0
    weights.output.weight_OI[:, ::3] = 0
    bert = dataclasses.replace(whole)
    bert.weights, bert.config = without_idle(whole.weights, whole.config)
    assert bert.config.heads_and_units == ((2, 11), (3, 17))
    (answers,) = in_node(FORWARD, in_page(bert) | {"inputs": inputs_of(bert)})
    assert max(errors(answers, book(bert, torch.float64)).values()) <= BOUND


MISTAKES = {
    "the tanh form of GELU": ("{ gelu: geluErf", "{ gelu: geluTanh"),
    "a rough erf": ("1e-17 *", "1e-2 *"),
    "√D for √K": ("Math.sqrt(query_K.length)", "Math.sqrt(12)"),
    "no √K": (" / Math.sqrt(query_K.length)", ""),
    "eps of another model": ("/ D + eps)", "/ D + 1e-12)"),
    "eps outside the root": ("/ D + eps)", "/ D) + eps"),
    "variance of D - 1": ("/ D + eps)", "/ (D - 1) + eps)"),
    "no residual round the attention": (
        "add(x_D, attention.output_SD[s])", "attention.output_SD[s]",
    ),
    "no residual round the feed-forward": (
        "add(a_D, fed_S[s].fed_D)", "add(a_D.map(() => 0), fed_S[s].fed_D)",
    ),
    "one norm for both": ("weights.output_norm, config", "weights.attention_norm, config"),
    "one token type": ("type_TD[types_S[s]]", "type_TD[0]"),
    "positions from row 1": ("position_PD[s]", "position_PD[s + 1]"),
    "heads in strides": ("x_D.subarray(n * K, (n + 1) * K)", "x_D.filter((_, d) => d % 3 === n)"),
    "keys for values": ("heads(weights.value)", "heads(weights.key)"),
    "softmax over the queries": (
        "scores_SR.map(softmax)",
        "scores_SR.map((_, r) => softmax(Float32Array.from(scores_SR, (q) => q[r])))",
    ),
    "the first scale for all rows": ("whole * scale_O[o]", "whole * scale_O[0]"),
    "no bias in the decoder": ("bias_O: mlm.bias_V", "bias_O: mlm.bias_V.map(() => 0)"),
    "no GELU in the head": ("mlm.transform).map(gelu[config.hidden_act])", "mlm.transform)"),
    "no norm in the head": ("linear(normed_D, {", "linear(transformed_D, {"),
}  # fmt: skip


def test_known_mistakes_are_seen():
    bert = eps_counts()
    scripts = []
    for name, (right, wrong) in MISTAKES.items():
        assert OUR_SCRIPTS.count(right) == 1, name
        scripts.append(OUR_SCRIPTS.replace(right, wrong))
    chosen = slice(2, 4)
    inputs, truth = inputs_of(bert)[chosen], book(bert, torch.float64)[chosen]
    answers = in_node(FORWARD, in_page(bert) | {"inputs": inputs}, *scripts)
    for name, said in zip(MISTAKES, answers, strict=True):
        assert not max(errors(said, truth).values()) <= 20 * BOUND, name


def test_erf_and_gelu_are_those_of_torch():
    x = np.concatenate([np.linspace(-9, 9, 3001), [1e-300, -1e-9, 0.0, 5.9999, 6.0001]])
    (found,) = in_node("given.map((x) => [erf(x), geluErf(x), geluTanh(x)])", x.tolist())
    ours, theirs = torch.tensor(found).double().T, torch.from_numpy(x)
    error = (torch.tensor(found, dtype=torch.float64)[:, 0] - torch.erf(theirs)).abs().max()
    assert error <= 3e-15
    assert torch.allclose(ours[1], torch.nn.functional.gelu(theirs), rtol=0, atol=1e-6)
    other = torch.nn.functional.gelu(theirs, approximate="tanh")
    assert torch.allclose(ours[2], other, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------- the reading

READING = MODEL + """
given.texts.map((text) => {
  const { steps, tokens } = liveTokens(model, text), made = liveReading(model, text, steps, tokens);
  const places = [...tokens.keys()], numbers = {};
  for (const [name, shape] of Object.entries(given.shapes[text.join("|")])) {
    const rows = (place) => place.length === shape.length ? made.block(name).at(...place)
      : Array.from({ length: shape[place.length] }, (_, i) => rows([...place, i]));
    numbers[name] = rows([]);
  }
  return { tokens, steps, numbers, layers: made.layers, opened: made.opened,
    layered: [...made.layers, 0].map((_, layer) => places.map((s) => made.said(layer, s))),
    masked: places.map(made.ifMasked) };
})"""


def test_javascript_makes_the_reading_that_python_makes():
    """Of the same weights: tokens, word steps, sizes, entropies, likely words, and every block."""
    bert = eps_counts()
    readings = [read(with_eight_bits(bert), *text)[0] for text in TEXTS]
    shapes = {
        "|".join(text): {name: list(x.shape) for name, x in reading.blocks.items()}
        for text, reading in zip(TEXTS, readings, strict=True)
    }
    given = in_page(bert) | {"texts": TEXTS, "shapes": shapes}
    (answers,) = in_node(READING, given)
    for ours, reading in zip(answers, readings, strict=True):
        facts = reading.facts
        tokens = [token | {"span": tuple(token["span"])} for token in ours["tokens"]]
        assert tokens == facts["tokens"]
        wanted = ("text", "word", "tries", "pieces")
        steps = [[{k: one[k] for k in wanted} for one in words] for words in ours["steps"]]
        assert steps == facts["steps"]
        assert ours["opened"] == facts["opened"]
        for layer, other in zip(ours["layers"], facts["layers"], strict=True):
            assert layer["distinct"] == pytest.approx(other.pop("distinct"), abs=2e-3)
            del layer["distinct"]
            assert layer == other
        for said, true in ((ours["layered"], facts["words"]["layers"]),
                           ([ours["masked"]], [facts["words"]["masked"]])):  # fmt: skip
            assert np.array(said, dtype=object).shape == np.array(true, dtype=object).shape
            for a, b in zip(said, true, strict=True):
                for x, y in zip(a, b, strict=True):
                    assert [piece for piece, _ in x] == [piece for piece, _ in y]
                    assert [p for _, p in x] == pytest.approx([p for _, p in y], abs=1e-5)
        for name, x in reading.blocks.items():
            theirs = x.float().numpy() / (255 if x.dtype == torch.uint8 else 1)
            bound = 1 / 500 if x.dtype == torch.uint8 else 2e-3
            assert np.abs(np.array(ours["numbers"][name]) - theirs).max() <= bound, name


STORIES = MODEL + """
const { steps, tokens } = liveTokens(model, given.text);
const numbers = makeNumbers(given.facts, liveReading(model, given.text, steps, tokens));
given.cells.map((cell) => {
  const told = numbers.story(cell), parts = told.rows.flat().filter((part) => part.cell);
  return { ...told, parts: parts.map((part) => [part.value, numbers.get(part.cell)]) };
})"""


@pytest.mark.parametrize("form", ["gelu", "gelu_pytorch_tanh"])
def test_the_feed_forward_is_told_down_to_its_weights(form):
    bert = eps_counts(hidden_act=form)
    facts = read(bert, *TEXTS[3])[0].facts
    kinds = {"hidden": 12, "filled": 12, "fed": 12, "unit": 17, "inner": 17}
    cells = [
        {"kind": kind, "layer": layer, "head": 0, "row": 4, "col": col}
        for kind, width in kinds.items() for layer in (1, 2) for col in range(width)
    ]  # fmt: skip
    given = in_page(bert) | {"facts": facts, "text": TEXTS[3], "cells": cells}
    (stories,) = in_node(STORIES, given)
    rough = with_eight_bits(bert)
    trace = read(rough, *TEXTS[3])[1]
    gelu = gelu_erf if form == "gelu" else gelu_tanh
    sources = set()
    for cell, told in zip(cells, stories, strict=True):
        block, weights = trace.blocks[cell["layer"] - 1], rough.weights.blocks[cell["layer"] - 1]
        attended_D = block.attended_BSD[0, 4]
        inner_F = linear(attended_D, *weights.intermediate)
        fed_D = linear(gelu(inner_F), *weights.output)
        truth = {"hidden": block.hidden_BSD[0, 4], "filled": attended_D + fed_D, "fed": fed_D,
                 "unit": gelu(inner_F), "inner": inner_F}  # fmt: skip
        value = float(truth[cell["kind"]][cell["col"]])
        assert told["value"] == pytest.approx(value, abs=1e-5), cell
        total = float(told["then"].rpartition("= ")[2]) if told["then"] else told["sum"]
        assert total == pytest.approx(value, rel=1e-3, abs=1e-5), cell
        assert all(one == other for one, other in told["parts"])
        assert len(told["parts"]) == {"filled": 2, "fed": 17, "unit": 1}.get(cell["kind"], 12)
        sources.add(told["source"])
    assert sources == {"norm", "add_fed", "fed", "linear", gelu.__name__.removesuffix("_erf")}
    assert sources <= set(facts["sources"])


def test_what_cannot_be_read_is_said():
    bert = masked_model()
    given = in_page(bert) | {
        "texts": [[""], [" \t\u200d"], ["film " * 19], ["a film", ""], ["", "a"], ["\ud800"],
                  ["film " * 18]],
    }  # fmt: skip
    asked = MODEL + "given.texts.map((text) => liveTokens(model, text).why ?? null)"
    (answers,) = in_node(asked, given)
    assert answers == [
        "The text holds no word yet.",
        "The text holds no word yet.",
        "These are 21 tokens, but the model knows only 20 positions; shorten the text.",
        "Sentence B holds no word yet.",
        "Sentence A holds no word yet.",
        "The text contains half a character; type it again.",
        None,
    ]


def test_a_text_that_would_keep_the_page_waiting_is_refused():
    """A hundred and more tokens of a dozen layers with a dozen heads: over a second."""
    given = in_page(masked_model()) | {"counts": [118, 510]}
    given["config"] |= {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 48}
    given["config"]["max_position_embeddings"] = 512
    asked = MODEL + """given.counts.map((n) => {
      const { why } = liveTokens(model, ["film ".repeat(n)]), quick = +why.match(/over (\\d+) /)[1];
      const others = [quick - 2, quick - 1].map((few) => liveTokens(model, ["film ".repeat(few)]));
      return [why, quick, others[0].tokens.length, others[1].why.slice(0, 35)];
    })"""
    (answers,) = in_node(asked, given)
    for n_tokens, (why, quick, read_yet, first_refused) in zip((120, 512), answers, strict=True):
        assert why == (
            f"These are {n_tokens} tokens; over {quick} this model would keep the page waiting for "
            "more than a second, so shorten the text."
        )
        assert 40 <= quick == read_yet <= 80
        assert first_refused.startswith(f"These are {quick + 1} tokens; over {quick}")


def test_hidden_places_move_with_the_edit():
    cases = [
        ("a b c", "a x b c", [0, 2, 3]), ("a b c", "a c", [0, -1, 1]),
        ("a b c", "a x c", [0, -1, 2]), ("a b c", "a b c d", [0, 1, 2]),
        ("a b c", "x y a b c", [2, 3, 4]), ("b b b", "b b", [0, 1, -1]), ("b b", "b b b", [0, 1]),
        ("a b", "x y", [-1, -1]), ("a b a", "a", [0, -1, -1]),
    ]  # fmt: skip
    given = [[before.split(), after.split()] for before, after, _ in cases]
    (answers,) = in_node("given.map(([before, after]) => placesAfter(before, after))", given)
    assert answers == [places for _, _, places in cases]


# --------------------------------------------------------------------------------------- WordPiece

HOSTILE = [
    "Café CAFÉ cafe\u0301 e\u0323\u0301 e\u0301\u0323 Å ﬁ İstanbul ΣΊΣΥΦΟΣ ß ẞ",
    "書く the書film 한국어 \u1112\u1161\u11ab ﾊﾝ か\u3099",
    "a\0b\x1bc\ufffdd\u200de\ufefff\u00adg\u2028h\u3000i\u00a0j\x7fk\x85l\ue000m",
    "un" * 100, "a" * 100, "a" * 101, "the " + "e\u0301" * 100, "👩‍👩‍👧 😀film😀",
    "[MASK] [mask] [MASK][MASK] x[SEP]y [CLS [UNK]] [PAD]", "don't-stop $5.00 €5 ½ ² ¿qué?",
    "\U0001d165\U0001d16d \u302e\u302f e\u302e\u0301\u302f \U00016ff0\U00016ff1 \u1734 \u166d",
    "\U000111c9",
    "\u08e0a \u0898b \u2e52c \U000110cdd", "", " ", "\t\n\r", "__proto__ constructor",
]  # fmt: skip
PIECES = [
    *SPECIALS, *dict.fromkeys("abcdefghijklmnopqrstuvwxyz書か한é½σ"), "café", "cafe", "##e", "##é",
    "un", "##un", "film", "the", "##h", "don", "##s", "Café", "##́", "😀", "한국어", "__", "##proto",
]  # fmt: skip
WORDS = """given.map(([rules, texts]) => {
  const wordPiece = makeWordPiece(rules);
  return texts.map((text) => wordPiece.words(text));
})"""


def rules_of(tokenizer: Tokenizer) -> Any:
    bert = Bert.from_config(tiny.config(vocab_size=len(tokenizer.pieces)), "mlm", tokenizer)
    return in_page(bert)["live"]


def strange_texts(count: int) -> list[str]:
    """Characters that are assigned in this Python's Unicode, marks and spaces more often."""
    rng = random.Random(0)
    known = map(chr, [*range(0x3100), *range(0x3100, 0x110000, 41)])
    kinds = {character: unicodedata.category(character) for character in known}
    assigned = [c for c, kind in kinds.items() if kind not in ("Cn", "Cs")]
    marks = [c for c in assigned if kinds[c][0] in "MPZC"]
    latin = "abcdeéÉ .,[MASK]"
    return [
        "".join(rng.choice(rng.choice((assigned, marks, latin))) for _ in range(40))
        for _ in range(count)
    ]


def test_javascript_cuts_words_as_the_book_does():
    demo = Tokenizer.from_vocabulary(demo_vocabulary())
    claims = [*templates(False, False), *templates(True, True)]
    reviews = [f"{claim} truly Dull .".format(thing="plot", name="Marta") for claim in claims]
    odd = [*HOSTILE, *injections()[:90], *strange_texts(100)]
    cased = Tokenizer(PIECES, lowercase=False)
    sets = [(demo, reviews + odd), (Tokenizer(PIECES), odd), (cased, odd)]
    (answers,) = in_node(WORDS, [(rules_of(tokenizer), texts) for tokenizer, texts in sets])
    n_words = 0
    for (tokenizer, texts), found in zip(sets, answers, strict=True):
        for text, words in zip(texts, found, strict=True):
            steps = word_steps(text, tokenizer)
            spans = [
                (piece, *span) for word in words
                for piece, span in zip(word["pieces"], word.pop("spans"), strict=True)
            ]  # fmt: skip
            assert words == steps, text
            tokens = encode(text, tokenizer.vocabulary, tokenizer.lowercase)
            assert spans == [(token.piece, token.start, token.end) for token in tokens], text
            n_words += len(words)
    print(f"{n_words} words were cut alike")
    assert n_words > 5000


def test_pairs_are_laid_out_as_the_book_does():
    bert = masked_model(max_position_embeddings=64)
    assert bert.tokenizer is not None
    vocabulary = bert.tokenizer.vocabulary
    given = in_page(bert) | {"texts": TEXTS}
    laid_out = MODEL + "given.texts.map((text) => liveTokens(model, text).tokens)"
    (answers,) = in_node(laid_out, given)
    for text, tokens in zip(TEXTS, answers, strict=True):
        first, *rest = (encode(one, vocabulary) for one in text)
        laid = assemble(vocabulary, first, *rest)
        ours = [(token["piece"], token["id"], *token["span"]) for token in tokens]
        assert ours == [tuple(token) for token in laid.tokens]
        assert [token["type"] for token in tokens] == laid.types


# ------------------------------------------------------------------------------ what the page holds


def test_eight_bits_are_within_half_a_step_and_the_page_says_how_far_that_goes():
    bert = stirred(masked_model())
    rough = with_eight_bits(bert)
    for (path, x), (_, y) in zip(
        named_tensors(bert.weights), named_tensors(rough.weights), strict=False
    ):
        step_O1 = x.abs().amax(-1, keepdim=True) / 127 if x.ndim == 2 else torch.zeros(1)
        assert ((x - y).abs() <= 0.501 * step_O1).all(), path
    differences = explained(bert, TEXTS[0][0])[1].facts["live"]["differences"]
    trace, their_trace = (read(one, TEXTS[0][0])[1] for one in (bert, rough))
    pairs = list(zip(trace.hiddens_LBSD, their_trace.hiddens_LBSD, strict=True))
    assert differences["state"] == pytest.approx(max(float((a - b).abs().max()) for a, b in pairs))
    assert differences["largest"] == pytest.approx(max(float(a.abs().max()) for a, _ in pairs))
    assert 0.001 < differences["state"] < 0.2
    shares = [
        softmax(mlm_logits(t.hidden_BSD[0], b.weights.mlm, b.weights.embeddings.word_VD, b.config))
        for b, t in ((bert, trace), (rough, their_trace))
    ]
    best = shares[0].argmax(-1)
    told = max(abs(float(shares[0][s, v] - shares[1][s, v])) for s, v in enumerate(best))
    assert differences["share"] == pytest.approx(told)
    assert 0 < differences["share"] < 0.1


def test_the_model_of_the_demo_can_always_go_live():
    config, _ = demo_models(len(demo_vocabulary()))
    bert = Bert.from_config(config, "mlm", Tokenizer.from_vocabulary(demo_vocabulary()))
    text, _ = explained(bert, "the plot was not dull . " * 10)
    assert len(text.encode()) < 2_200_000
    assert Parts(text).facts["live"]["why"] is None
    assert set(Parts(text).facts["mapped"].values()) == {16}, "with all maps"


def test_a_model_that_cannot_go_live_says_why():
    wide = masked_model(hidden_size=312, num_attention_heads=12, intermediate_size=1200)
    vocabulary = [*SPECIALS, *tiny.GOOD, *tiny.BAD, *tiny.NEUTRAL]
    accents = Tokenizer(vocabulary, strip_accents=False)
    other = dataclasses.replace(masked_model(), tokenizer=accents)
    for bert, why in (
        (wide, "its weights would take 3.3 MB, and a page keeps at most 1.5 MB of them"),
        (other, "its tokenizer treats text differently from the book's WordPiece"),
    ):
        text, reading = explained(bert, "the film")
        assert reading.facts["live"] == {"why": why}
        assert not [name for name in Parts(text).coded_blocks if name.startswith("live.")]
    assert not masked_model().weights.pooler, "a head that the page does not ask is not in it"
    bert = tiny.classifier()
    blocks = Parts(explained(bert, "the film")[0]).coded_blocks
    assert not [name for name in blocks if "pooler" in name or "classifier" in name]


def test_the_model_stays_out_where_there_is_no_room():
    _, reading = explained(masked_model(), "the film")
    size = len(page(reading).encode())
    smaller = page(reading, size - 12_000)
    assert len(smaller.encode()) <= size - 12_000
    facts = Parts(smaller).facts
    assert facts["live"] == {"why": "there was no room for its weights beside this text"}
    assert set(facts["mapped"].values()) == {16}, "and what it leaves goes to the maps"
    with pytest.raises(TooLarge):
        page(reading, size - 60_000)


def test_the_size_that_is_reckoned_is_that_of_the_page():
    bert = masked_model(num_hidden_layers=3)
    reading = explained(bert, "the film")[1]
    with_model = len(page(reading).encode())
    reading.model = {}
    took = with_model - len(page(reading).encode())
    tensors = dict(named_tensors(live.read_by_page(bert.weights)))
    assert took == pytest.approx(live.size_in_page(tensors.values()), rel=0.15)
