"""Stored states stand in for the teacher: the same losses and gradients, or no states at all."""

import dataclasses
import json
import random
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from test_training import Watched, files_in, room_for
from torch import Tensor

from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import collate
from minibert.data.tokenizer import Encoding
from minibert.distillation import TermWeights, distillation_loss, intermediate_terms
from minibert.encoder import EncoderTrace
from minibert.kernels.encoder import encode_traced
from minibert.laws.measure import distance
from minibert.matching import grouped_heads
from minibert.model import Bert
from minibert.parameters import (
    BertWeights,
    initial_weights,
    named_tensors,
    weight_shapes,
    with_tensors,
)
from minibert.training import answers
from minibert.training import states as module
from minibert.training.evaluation import all_logits, encodings_of
from minibert.training.progress import Bar
from minibert.training.state_plan import StatePlan, StateSource, distinct_texts, state_plan
from minibert.training.states import (
    BeyondHalf,
    StoredStates,
    decided,
    held_with_more,
    kept_states,
    open_states,
    path_of_states,
    write_states,
)

HALF = 2.0**-11  # what rounding to half precision may change in a number, as a share of it
EPS_32 = 2.0**-23
LAYERS = (2, 4)
EVERY_TERM = TermWeights(
    cosine=1.0, patient=1.0, minilm_v1=1.0, minilm_v2=1.0, prediction=0.0, label=0.0
)
TERMS = [name for name, weight in EVERY_TERM._asdict().items() if weight]


class Said(Watched):
    """A silent display that remembers what it was told."""

    def __init__(self, after=lambda step: None) -> None:
        super().__init__(after)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def teacher() -> Bert:
    """Four layers, 24 wide, 6 heads; with dropout in its config, which must not be at work."""
    return tiny.classifier(hidden_size=24, num_attention_heads=6, num_hidden_layers=4)


@pytest.fixture(scope="module")
def texts(teacher) -> list[Encoding]:
    """Of many lengths; more than one batch while they are written."""
    return encodings_of(tiny.dataset(70, 1), teacher.tokenizer, 20)


@pytest.fixture
def source(teacher, texts) -> StateSource:
    return StateSource(texts, teacher, state_plan(LAYERS, TermWeights(), 3), torch.float32)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "states.safetensors"


def student(heads: int) -> tuple[BertConfig, BertWeights]:
    config = tiny.config(num_attention_heads=heads)
    shapes = weight_shapes(config, (), 24)
    return config, initial_weights(shapes, 0.2, torch.Generator().manual_seed(3))


def stored(path: Path, source: StateSource) -> StoredStates:
    write_states(path, source, Watched())
    return open_states(path, source)


def batch_of(texts, rows):
    return collate(texts, rows, 0)


@torch.no_grad()
def computed(teacher: Bert, texts, rows) -> EncoderTrace:
    batch = batch_of(texts, rows)
    inputs = (batch.ids_BS, batch.keep_BS, batch.types_BS)
    return encode_traced(*inputs, teacher.weights, teacher.config)


def same(one: EncoderTrace, other: EncoderTrace) -> None:
    for (name, tensor), (_, equal) in zip(named_tensors(one), named_tensors(other), strict=True):
        assert torch.equal(tensor, equal), name


def losses(
    states: EncoderTrace, texts, rows, weights: TermWeights, heads: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Every term, and the gradient of their sum over all of the student's numbers."""
    config, own = student(heads)
    own = with_tensors(own, {n: t.clone().requires_grad_() for n, t in named_tensors(own)})
    batch = batch_of(texts, rows)
    trace = encode_traced(batch.ids_BS, batch.keep_BS, batch.types_BS, own, config)
    terms = intermediate_terms(
        trace, states, batch.keep_BS, LAYERS, own.fit_dense, weights, "masked", None
    )
    distillation_loss(terms, weights).sum().backward()
    gradients = [tensor.grad for _, tensor in named_tensors(own) if tensor.grad is not None]
    used = {name: term_B.detach() for name, term_B in terms._asdict().items() if term_B is not None}
    return used, torch.cat([gradient.to_dense().flatten() for gradient in gradients])


# --- Equal to the teacher --------------------------------------------------------------------


@pytest.mark.parametrize("name", TERMS)
def test_every_loss_and_its_gradient_is_that_of_the_teacher(name, teacher, texts, path):
    """With nothing else stored than what this loss needs."""
    none = dict.fromkeys(TermWeights._fields, 0.0)
    weights = TermWeights(**none | {name: 1.0})
    heads = 6 if name == "minilm_v1" else 3
    source = StateSource(texts, teacher, state_plan(LAYERS, weights, heads), torch.float32)
    states = stored(path, source)
    for rows in ([5, 60, 0, 31], [7], list(range(69, 20, -3))):
        found = losses(states.trace(rows, batch_of(texts, rows)), texts, rows, weights, heads)
        expected = losses(computed(teacher, texts, rows), texts, rows, weights, heads)
        assert found[0].keys() == expected[0].keys() == {f"{name}_B"}
        for term_B, expected_B in zip(found[0].values(), expected[0].values(), strict=True):
            torch.testing.assert_close(term_B, expected_B, rtol=8 * HALF, atol=1e-6)
        assert float((found[1] - expected[1]).norm()) < 4 * HALF * float(expected[1].norm())


def test_all_losses_together_are_those_of_the_teacher(teacher, texts, path):
    source = StateSource(texts, teacher, state_plan(LAYERS, EVERY_TERM, 6), torch.float32)
    rows = [3, 44, 45, 12, 69]
    trace = stored(path, source).trace(rows, batch_of(texts, rows))
    found = losses(trace, texts, rows, EVERY_TERM, 6)
    expected = losses(computed(teacher, texts, rows), texts, rows, EVERY_TERM, 6)
    assert len(found[0]) == len(TERMS)
    for name, term_B in found[0].items():
        torch.testing.assert_close(term_B, expected[0][name], rtol=8 * HALF, atol=1e-6)
    assert float((found[1] - expected[1]).norm()) < 4 * HALF * float(expected[1].norm())


def test_every_number_is_the_teachers_rounded_once(teacher, texts, path):
    """In its place: layer, head, row and token; the padding is 0."""
    plan = StatePlan((0, 1, 4), (2, 4), 3, (3,))
    rows = [50, 2, 33, 2]
    batch = batch_of(texts, rows)
    states = stored(path, StateSource(texts, teacher, plan, torch.float32)).trace(rows, batch)
    whole = computed(teacher, texts, rows)
    keep_BS1 = batch.keep_BS[:, :, None]
    pairs_B1SR = keep_BS1[:, None] & batch.keep_BS[:, None, None]
    pairs = [(states.embedded_BSD, whole.embedded_BSD, keep_BS1)]
    for layer in (1, 4):
        found, expected = states.blocks[layer - 1], whole.blocks[layer - 1]
        pairs.append((found.hidden_BSD, expected.hidden_BSD, keep_BS1))
    for layer in (2, 4):
        expected_BNSR = grouped_heads(whole.blocks[layer - 1].attention.scores_BNSR, 3)
        pairs.append((states.blocks[layer - 1].attention.scores_BNSR, expected_BNSR, pairs_B1SR))
    for found_BNSK, expected_BNSK in zip(
        states.blocks[2].attention[:3], whole.blocks[2].attention[:3], strict=True
    ):
        pairs.append((found_BNSK, expected_BNSK, keep_BS1[:, None]))
    assert not batch.keep_BS.all()
    for found_X, expected_X, kept_X in pairs:
        assert found_X.dtype == torch.float16
        expected_X = torch.where(kept_X, expected_X, 0)
        # The batches of the file are others, so the teacher itself is some float32 roundings off.
        torch.testing.assert_close(found_X.float(), expected_X, rtol=1.01 * HALF, atol=300 * EPS_32)


def test_a_text_is_the_same_in_every_batch(teacher, texts, path):
    """Bit for bit, whatever stands beside it, and 0 wherever it gets padding."""
    source = StateSource(texts, teacher, state_plan(LAYERS, EVERY_TERM, 6), torch.float32)
    states = stored(path, source)
    lengths = [len(text.ids) for text in texts]
    short, long = lengths.index(min(lengths)), lengths.index(max(lengths))
    n = lengths[short]
    assert n < lengths[long]
    alone = states.trace([short], batch_of(texts, [short]))
    beside = states.trace([long, short], batch_of(texts, [long, short]))
    for (name, alone_X), (_, beside_X) in zip(
        named_tensors(alone), named_tensors(beside), strict=True
    ):
        if alone_X.numel():
            padded_X = torch.zeros_like(beside_X[1])
            padded_X[tuple(map(slice, alone_X[0].shape))] = alone_X[0]
            assert torch.equal(beside_X[1], padded_X), name


def test_what_is_not_stored_fits_no_loss(teacher, texts, path):
    only = TermWeights(hidden=0.0, attention=0.0)
    source = StateSource(texts, teacher, state_plan(LAYERS, only, 3), torch.float32)
    trace = stored(path, source).trace([1, 2], batch_of(texts, [1, 2]))
    losses(trace, texts, [1, 2], only, 3)
    with pytest.raises(ValueError, match=r"does not fit the teacher's \[0\]"):
        losses(trace, texts, [1, 2], TermWeights(attention=0.0), 3)
    for name in ("attention", "minilm_v2"):
        with pytest.raises((ValueError, IndexError)):
            losses(trace, texts, [1, 2], only._replace(**{name: 1.0}), 3)


def test_a_text_that_is_too_long_for_its_batch_is_refused(source, texts, path):
    lengths = [len(text.ids) for text in texts]
    short, long = lengths.index(min(lengths)), lengths.index(max(lengths))
    states = stored(path, source)
    with pytest.raises(ValueError, match=f"text {long} has {max(lengths)} tokens, but only"):
        states.trace([long], batch_of(texts, [short]))


def test_a_teacher_may_compute_in_bfloat16(teacher, texts, path):
    source = StateSource(texts, teacher, state_plan(LAYERS, TermWeights(), 3), torch.bfloat16)
    found_BSD = stored(path, source).trace([4, 9], batch_of(texts, [4, 9])).blocks[3].hidden_BSD
    expected_BSD = computed(teacher, texts, [4, 9]).blocks[3].hidden_BSD
    keep_BS1 = batch_of(texts, [4, 9]).keep_BS[:, :, None]
    off = (found_BSD.float() - expected_BSD).where(keep_BS1, torch.tensor(0.0)).abs().max()
    assert 8 * HALF < float(off) < 0.2, "rounded to 8 bits on the way, and not wrong"


# --- What is stored --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "hiddens", "scores", "relations"),
    [
        (TermWeights(), (0, 2, 3, 6), (2, 3, 6), ()),
        (TermWeights(embedding=0), (2, 3, 6), (2, 3, 6), ()),
        (TermWeights(0, 0, 0, cosine=1), (6,), (), ()),
        (TermWeights(0, 0, 0, patient=1), (2, 3), (), ()),
        (TermWeights(0, 0, 0, minilm_v1=1), (), (), (6,)),
        (TermWeights(1, 0, 0, minilm_v2=1), (0,), (), (6,)),
        (TermWeights(0, 0, 0.5), (), (2, 3, 6), ()),
        (TermWeights(0, 0, 0, prediction=1, label=1), (), (), ()),
    ],
)
def test_each_loss_has_what_it_looks_at(weights, hiddens, scores, relations):
    assert state_plan((2, 3, 6), weights, 4) == StatePlan(hiddens, scores, 4, relations)


def test_a_layer_that_two_learn_from_is_stored_once():
    assert state_plan((3, 3, 1), TermWeights(), 2) == StatePlan((0, 1, 3), (1, 3), 2, ())


def test_the_same_text_is_stored_once(source, texts, path):
    twice = dataclasses.replace(source, encodings=[*texts, *texts[::-1]])
    assert twice.n_bytes == source.n_bytes
    states = stored(path, twice)
    batches = [batch_of(texts, [row]) for row in range(len(texts))]
    for row, batch in enumerate(batches):
        mirrored = 2 * len(texts) - 1 - row
        same(states.trace([row], batch), states.trace([mirrored], batch))


def test_the_second_sentence_makes_a_text_another_one():
    one, other = (Encoding([2, 5, 3, 6, 3], types) for types in ([0, 0, 0, 0, 0], [0, 0, 0, 1, 1]))
    found = distinct_texts([other, one, other, one])
    assert found.encodings == (other, one)
    assert found.place_of == (0, 1, 0, 1)


def test_the_size_is_known_before_anything_is_computed(source, path):
    """2 bytes for each of (3 states × 24 + 2 layers × 3 heads × tokens) × tokens."""
    lengths = [len(text.ids) for text in source.texts.encodings]
    assert source.n_bytes == sum(2 * n * (3 * 24 + 2 * 3 * n) for n in lengths)
    write_states(path, source, Watched())
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size == header + source.n_bytes
    assert header % 8 == 0


def test_the_file_is_one_that_others_read(source, path):
    states = stored(path, source)
    tensors = load_file(path)
    assert tensors.keys() == {"states"}
    assert tensors["states"].dtype == torch.float16
    assert (tensors["states"].numpy() == states.values_X).all()


def test_nothing_to_store_is_an_empty_file(teacher, texts, path):
    source = StateSource(texts, teacher, StatePlan((), (), 3, ()), torch.float32)
    trace = stored(path, source).trace([0, 1], batch_of(texts, [0, 1]))
    assert source.n_bytes == 0
    assert all(not tensor.numel() for _, tensor in named_tensors(trace))


def test_heads_that_cannot_be_shared_are_refused(teacher, texts):
    with pytest.raises(ValueError, match=r"4 student heads cannot share 6 .*\[1, 2, 3, 6\]"):
        StateSource(texts, teacher, state_plan(LAYERS, TermWeights(), 4), torch.float32)
    without = state_plan(LAYERS, TermWeights(attention=0.0), 4)
    assert StateSource(texts, teacher, without, torch.float32).n_bytes


def test_a_text_that_is_too_long_for_the_teacher_is_refused(source):
    with pytest.raises(CheckpointError, match=r"a text has 21 tokens, .* only 20 positions"):
        dataclasses.replace(source, encodings=[Encoding([2] * 21, [0] * 21)])


# --- Whether they are kept -------------------------------------------------------------------


def test_states_are_kept_if_they_fit_and_are_of_use(source, texts, tmp_path):
    size, folder = source.n_bytes, tmp_path / "not" / "yet"
    twice = dataclasses.replace(source, encodings=[*texts, texts[3]])

    def said(budget=size, epochs=2, mode="masked", source=source) -> str:
        decision = decided(source, folder, budget, epochs, mode)
        start = "computed once and kept" if decision.stored else "computed for every batch"
        assert decision.sentence.startswith(f"the teacher's states are {start}")
        assert "\n" not in decision.sentence
        return decision.sentence

    assert f"kept in {folder}: they take " in said()
    assert re.search(r"take \d+\.\d kB, more than the \d+\.\d kB that are allowed$", said(size - 1))
    assert "read only once" in said(epochs=1)
    assert "read only once" in said(epochs=0.3), "not even once, and then few texts are of use"
    assert "kept in" in said(epochs=1.1)
    assert "kept in" in said(epochs=1, source=twice), "one text comes twice in an epoch"
    assert "mode tinybert compares padding" in said(mode="tinybert")


def test_a_disk_without_room_is_noticed_beforehand(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    for free, kept in ((source.n_bytes, True), (source.n_bytes - 1, False)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda folder, free=free: usage._replace(free=free)
        )
        decision = decided(source, tmp_path, 10**9, 2)
        assert decision.stored is kept
        assert ("has room for" in decision.sentence) is not kept


def test_a_second_run_reads_what_the_first_one_wrote(source, texts, path, monkeypatch):
    display = Said()
    first = kept_states(path, source, 10**9, 2, display)
    before = path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_traced", lambda *a: pytest.fail("the teacher worked again"))
        resumed = kept_states(path, dataclasses.replace(source), 10**9, 2, display)
    assert path.stat().st_ino == before
    assert f"computed once and kept in {path.parent}" in display.lines[0]
    assert display.lines[1:] == [f"the teacher's states are read from {path}"]
    assert first is not None
    assert resumed is not None
    batch = batch_of(texts, [8, 9])
    same(first.trace([8, 9], batch), resumed.trace([8, 9], batch))


def test_answers_come_with_the_states(teacher, texts, tmp_path, monkeypatch):
    """Rows in any order and twice: the teacher reads each text once, for both of its stages."""
    texts = [*texts[::-1], texts[3]]
    source = StateSource(texts, teacher, state_plan(LAYERS, TermWeights(), 3), torch.float32)
    kept_states(tmp_path / "states.safetensors", source, 10**9, 2, Watched())
    expected = all_logits(texts, teacher.weights, teacher.config)
    monkeypatch.setattr(answers, "all_logits", lambda *a: pytest.fail("the teacher worked again"))
    kept = answers.teacher_answers(tmp_path, texts, teacher, torch.float32, Watched())
    assert distance(kept, expected) <= 200 * EPS_32
    assert distance(kept, expected.roll(1, 0)) > 0.01, "each text has its own"


def test_where_there_are_states_there_are_answers(source, path, texts, teacher, monkeypatch):
    """Or a run that is resumed would read other ones: those of all_logits differ by roundings."""

    def full(*arguments):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_answers", full)
        with pytest.raises(OSError, match="no space"):
            write_states(path, source, Watched())
    assert not path.exists()
    write_states(path, source, Watched())
    (kept,) = path.parent.glob("answers-*")
    before, when = kept.read_bytes(), kept.stat().st_ino
    path.unlink()
    write_states(path, source, Watched())
    assert (kept.read_bytes(), kept.stat().st_ino) == (before, when), "those that are there stay"


def test_answers_that_cannot_be_written_are_told_once(source, path, monkeypatch):
    def elsewhere(*arguments):
        return path.parent / "file" / "answers-1.safetensors"

    (path.parent / "file").write_text("no folder")
    monkeypatch.setattr(module, "path_of_answers", elsewhere)
    with pytest.raises(OSError, match=r"answers-1\.safetensors cannot be written: ") as caught:
        write_states(path, source, Watched())
    assert str(caught.value).count("cannot be written") == 1
    assert sorted(files_in(path.parent)) == ["file"]


def test_a_teacher_without_a_classifier_leaves_no_answers(texts, tmp_path):
    bare = tiny.classifier(hidden_size=24, num_attention_heads=6, num_hidden_layers=4)
    bare.weights = bare.weights._replace(classifier=None, pooler=None)
    source = StateSource(texts, bare, state_plan(LAYERS, TermWeights(), 3), torch.float32)
    kept_states(tmp_path / "states.safetensors", source, 10**9, 2, Watched())
    assert [path.name for path in tmp_path.iterdir()] == ["states.safetensors"]


@pytest.mark.parametrize("left_out", TERMS)
def test_the_states_of_one_recipe_serve_those_that_leave_out_a_loss(
    left_out, teacher, texts, tmp_path
):
    """The file of all losses is found by whoever needs less, and gives the same numbers."""
    every = StateSource(texts, teacher, state_plan(LAYERS, EVERY_TERM, 6), torch.float32)
    fewer = EVERY_TERM._replace(**{left_out: 0.0})
    asked = StateSource(texts, teacher, state_plan(LAYERS, fewer, 6), torch.float32)
    assert held_with_more(tmp_path, asked) is asked
    write_states(path_of_states(tmp_path, every), every, Watched())
    (tmp_path / "teacher-damaged.state.safetensors").write_bytes(b"no file of states")
    found = held_with_more(tmp_path, asked)
    assert path_of_states(tmp_path, found) == path_of_states(tmp_path, every)
    rows = [8, 9, 3]
    ours = open_states(path_of_states(tmp_path, found), found).trace(rows, batch_of(texts, rows))
    own = stored(tmp_path / "own", asked).trace(rows, batch_of(texts, rows))
    one, other = (losses(states, texts, rows, fewer, 6) for states in (ours, own))
    assert {n: float(t.sum()) for n, t in one[0].items()} == {
        n: float(t.sum()) for n, t in other[0].items()
    }
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("what", ["weight", "word", "precision", "layers", "scores", "heads"])
def test_states_of_another_source_serve_nobody(what, source, tmp_path):
    """Nor do fewer layers, or the scores of other heads."""
    plan = source.plan._replace(score_heads=1)
    other = {**others(source), "heads": dataclasses.replace(source, plan=plan)}[what]
    write_states(path_of_states(tmp_path, other), other, Watched())
    assert held_with_more(tmp_path, source) is source


def test_states_that_are_not_worth_it_are_not_written(source, path):
    display = Said()
    assert kept_states(path, source, source.n_bytes - 1, 2, display) is None
    assert kept_states(path, source, 10**9, 2, display, "tinybert") is None
    assert not path.exists()
    assert len(display.lines) == 2


def test_the_states_of_mode_masked_are_none_of_mode_tinybert(source, path):
    write_states(path, source, Watched())
    display = Said()
    assert kept_states(path, source, 10**9, 2, display, "tinybert") is None
    assert "mode tinybert" in display.lines[0]


def others(source: StateSource) -> dict[str, StateSource]:
    """Sources that differ from this one in a single thing."""
    changed = {name: tensor.clone() for name, tensor in named_tensors(source.teacher.weights)}
    changed["blocks.0.attention.key.weight_OI"][3, 1] += 1e-6
    weights = with_tensors(source.teacher.weights, changed)
    config = dataclasses.replace(source.teacher.config, layer_norm_eps=1e-11)
    (first, *rest) = source.encodings
    text = Encoding([*first.ids[:-2], first.ids[-2] ^ 1, first.ids[-1]], first.types)
    types = Encoding(first.ids, [*first.types[:-1], 1])
    return {
        "weight": dataclasses.replace(
            source, teacher=dataclasses.replace(source.teacher, weights=weights)
        ),
        "config": dataclasses.replace(
            source, teacher=dataclasses.replace(source.teacher, config=config)
        ),
        "word": dataclasses.replace(source, encodings=[text, *rest]),
        "type": dataclasses.replace(source, encodings=[types, *rest]),
        "fewer": dataclasses.replace(source, encodings=source.encodings[:-1]),
        "precision": dataclasses.replace(source, dtype=torch.bfloat16),
        "layers": dataclasses.replace(source, plan=source.plan._replace(hiddens=(0, 2, 3))),
        "scores": dataclasses.replace(source, plan=source.plan._replace(scores=(1, 4))),
    }


@pytest.mark.parametrize("what", ["weight", "config", "word", "type", "fewer", "precision",
                                  "layers", "scores"])  # fmt: skip
def test_the_states_of_another_source_are_refused(what, source, path):
    """Its file has another name, too, so this one was renamed."""
    other = others(source)[what]
    assert path_of_states(path.parent, other) != path_of_states(path.parent, source)
    write_states(path, other, Watched())
    with pytest.raises(CheckpointError, match=r"is damaged .it is of another teacher"):
        kept_states(path, source, 10**9, 2, Watched())


# --- Damage, full disks and large numbers ----------------------------------------------------


@pytest.fixture
def small(teacher, texts) -> StateSource:
    """So few texts that every byte of the file can be spoiled."""
    return StateSource(texts[:3], teacher, StatePlan((4,), (2,), 1, ()), torch.float32)


def refused(path: Path, source: StateSource) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_states(path, source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path} is damaged (")
    assert str(caught.value).endswith("); delete it, and it will be rebuilt")
    assert caught.value.exit_code == 3


def test_a_cut_off_file_is_refused(small, path):
    write_states(path, small, Watched())
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        refused(path, small)
    for more in (b"\0", b"\0" * 8):
        path.write_bytes(whole + more)
        refused(path, small)
    path.write_bytes(whole)
    assert len(open_states(path, small).values_X) == small.n_bytes // 2


def test_any_flipped_bit_is_noticed(small, path):
    """In the record it makes the file another source's; elsewhere it is damage."""
    write_states(path, small, Watched())
    whole, rng = bytearray(path.read_bytes()), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    bits = [(place, bit) for place in range(header) for bit in range(8)]
    bits += [(place, rng.randrange(8)) for place in range(header, len(whole), 3)]
    for place, bit in bits:
        flipped = whole.copy()
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        refused(path, small)


def test_numbers_of_another_type_or_count_are_refused(small, path):
    """Although record and checksum are right."""
    values = open_and_close(path, small)
    record = small.record.encode()
    for wrong_X in (values.view(torch.int16), values[:-1].clone(), values[None]):
        checksum = zlib.crc32(wrong_X.numpy().tobytes(), zlib.crc32(record))
        save_file({"states": wrong_X}, path, {"record": small.record, "checksum": str(checksum)})
        refused(path, small)
    checksum = zlib.crc32(values.numpy().tobytes(), zlib.crc32(record))
    save_file({"states": values}, path, {"record": small.record, "checksum": str(checksum)})
    assert open_states(path, small)


def open_and_close(path: Path, source: StateSource) -> Tensor:
    """The numbers of a new file, which is then deleted."""
    values_X = torch.from_numpy(stored(path, source).values_X.copy())
    path.unlink()
    return values_X


def test_a_damaged_file_is_not_written_over(source, path):
    """It may be the disk; whoever owns it should know."""
    write_states(path, source, Watched())
    path.write_bytes(path.read_bytes()[:-1])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"is damaged .*; delete it"):
        kept_states(path, source, 10**9, 2, Watched())
    assert path.read_bytes() == before


def test_other_files_are_no_states(source, path, tmp_path):
    for content in (b"", b"text", b"{}", b"\0" * 100):
        path.write_bytes(content)
        refused(path, source)
    tiny.classifier().save_pretrained(tmp_path / "model")
    path.write_bytes((tmp_path / "model" / "model.safetensors").read_bytes())
    refused(path, source)
    path.unlink()
    refused(path, source)
    path.mkdir()
    refused(path, source)


def test_a_full_disk_leaves_what_was_there(source, path, tmp_path):
    write_states(path, others(source)["word"], Watched())
    before = files_in(tmp_path)
    size = source.n_bytes
    for room in [*range(0, size, size // 12), size]:  # the header is not in it
        with room_for(room), pytest.raises(OSError, match=r"states\.safetensors cannot be written"):
            write_states(path, source, Watched())
        assert files_in(tmp_path) == before
    with room_for(path.stat().st_size + size):
        write_states(path, source, Watched())
    assert open_states(path, source)


def test_a_full_disk_takes_the_bar_off_the_screen(source, path):
    """Before the error is told."""

    class Counting(Watched):
        shown = 0

        @contextmanager
        def phase(self, name: str, total: int, done: int = 0) -> Iterator[Bar]:
            self.shown += 1
            try:
                with super().phase(name, total, done) as bar:
                    yield bar
            finally:
                self.shown -= 1

    display = Counting()
    with room_for(0):
        try:
            write_states(path, source, display)
        except OSError:  # held, as it is while it is told
            assert display.shown == 0
        else:
            pytest.fail("there is no room")


def test_whoever_stops_leaves_nothing_behind(source, path, tmp_path):
    def stop(batch: int) -> None:
        if batch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_states(path, source, Watched(stop))
    assert files_in(tmp_path) == {}


@pytest.mark.parametrize("gain", [1e6, float("nan")])
def test_states_beyond_half_precision_are_computed_instead(gain, source, path, tmp_path):
    """A gain of the last norm makes its states as large as it is itself."""
    changed = {name: tensor.clone() for name, tensor in named_tensors(source.teacher.weights)}
    changed["blocks.3.output_norm.gain_D"][5] = gain
    weights = with_tensors(source.teacher.weights, changed)
    large = dataclasses.replace(
        source, teacher=dataclasses.replace(source.teacher, weights=weights)
    )
    with pytest.raises(BeyondHalf, match="beyond 65504 or not a number"):
        write_states(path, large, Watched())
    display = Said()
    assert kept_states(path, large, 10**9, 2, display) is None
    assert "they are computed for every batch instead" in display.lines[-1]
    assert files_in(tmp_path) == {}


def test_the_record_says_what_is_in_the_file(source):
    record = json.loads(source.record)
    assert record["parts"] == {
        "hiddens": [0, 2, 4], "scores": [2, 4], "score_heads": 3, "relations": [],
    }  # fmt: skip
    assert len(record["source"]) == 32
