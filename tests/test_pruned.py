"""Heads and units that go: which, when, what is left of the model, and how it is kept."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import Watched, labels_objective, stop_after
from torch import Tensor

from minibert.config import BertConfig, CheckpointError, Pruned
from minibert.encoder import encode
from minibert.kernels.encoder import encode as fast_encode
from minibert.kernels.encoder import encode_first, encode_traced, prepared
from minibert.kernels.products import arithmetic
from minibert.laws.measure import distance
from minibert.model import Bert
from minibert.optim import adam_form
from minibert.parameters import BertWeights, named_tensors, views_of, with_tensors
from minibert.pruned import in_full, kept_heads, without_idle
from minibert.training.finetune import finetune
from minibert.training.loop import Interrupted, TrainingOptions, train
from minibert.training.progress import Display
from minibert.training.sparse import EVERY, GatedTrainable, Sparsity, trainable_for
from minibert.training.trainable import Trainable

ADAM = adam_form("adamw")
STEPS = 4 * EVERY
SIZES = tiny.config(num_hidden_layers=3, hidden_size=24, num_attention_heads=4)
N, L, F = SIZES.num_attention_heads, SIZES.num_hidden_layers, SIZES.intermediate_size


def model(dtype: torch.dtype = torch.float64, **changes: Any) -> Bert:
    config = dataclasses.replace(SIZES, **changes)
    return Bert.from_config(config, "classification", tiny.tokenizer(), 3, dtype)


def silenced(bert: Bert, heads: dict[int, list[int]], units: dict[int, list[int]]) -> Bert:
    """The model with 0 in the columns of these heads and units of each layer."""
    tensors = {name: tensor.clone() for name, tensor in named_tensors(bert.weights)}
    K = bert.config.head_width
    for layer, gone in heads.items():
        for head in gone:
            tensors[f"blocks.{layer}.attention.output.weight_OI"][:, head * K : (head + 1) * K] = 0
    for layer, gone in units.items():
        tensors[f"blocks.{layer}.output.weight_OI"][:, gone] = 0
    return dataclasses.replace(bert, weights=with_tensors(bert.weights, tensors))


def smaller(bert: Bert) -> Bert:
    weights, config = without_idle(bert.weights, bert.config)
    return dataclasses.replace(bert, weights=weights, config=config)


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    ids_BS = torch.randint(5, 31, (3, 7), generator=torch.Generator().manual_seed(seed))
    keep_BS = torch.arange(7) < torch.tensor([[7], [4], [1]])
    return ids_BS, keep_BS, ids_BS * 0


def states(bert: Bert, encoder: Any = encode) -> Tensor:
    given = batch()
    return encoder(*given, bert.weights, bert.config)[given[1]]


# ------------------------------------------------------------------------------ the smaller model

some_heads = st.dictionaries(st.integers(0, L - 1), st.sets(st.integers(0, N - 1)).map(sorted))
some_units = st.dictionaries(st.integers(0, L - 1), st.sets(st.integers(0, F - 1)).map(sorted))


@given(some_heads, some_units, some_heads)
def test_what_adds_nothing_is_left_out_and_comes_back_as_zeros(heads, units, later):
    whole = silenced(model(), heads, units)
    small = smaller(whole)
    for layer in range(L):
        gone = set(heads.get(layer, ()))
        left = tuple(n for n in range(N) if n not in gone) or (0,)
        assert kept_heads(small.config)[layer] == left
        n_units = max(1, F - len(units.get(layer, ())))
        assert small.config.heads_and_units[layer] == (len(left), n_units)
    assert distance(states(small), states(whole), 1) <= 1e-13
    again = smaller(silenced(small, {}, {}))
    assert again.config == small.config
    weights, config = in_full(small.weights, small.config)
    full = dataclasses.replace(small, weights=weights, config=config)
    assert config.pruned is None
    assert distance(states(full), states(whole), 1) <= 1e-13
    # A smaller model loses more: heads keep the numbers that they had at first.
    fewer = {layer: [n for n in range(len(kept_heads(small.config)[layer])) if n in gone]
             for layer, gone in later.items()}  # fmt: skip
    twice = smaller(silenced(small, fewer, {}))
    for layer, kept in enumerate(kept_heads(small.config)):
        left = tuple(n for i, n in enumerate(kept) if i not in fewer.get(layer, ())) or kept[:1]
        assert kept_heads(twice.config)[layer] == left


def test_equal_feed_forwards_are_an_ordinary_bert_and_heads_are_not():
    same = smaller(silenced(model(), {}, {layer: [0, layer + 1] for layer in range(L)}))
    assert (same.config.intermediate_size, same.config.pruned) == (F - 2, None)
    unequal = smaller(silenced(model(), {}, {0: [0], 1: [0, 1]}))
    assert unequal.config.pruned == Pruned(((0, 1, 2, 3),) * L, (F - 1, F - 2, F))
    heads = smaller(silenced(model(), {1: [2]}, {layer: [5] for layer in range(L)}))
    assert heads.config.pruned == Pruned(((0, 1, 2, 3), (0, 1, 3), (0, 1, 2, 3)), (F - 1,) * L)
    assert heads.config.intermediate_size == F - 1


@pytest.mark.parametrize("way", ["book", "torch", "onednn", "int8"])
def test_every_arithmetic_computes_it_as_the_book_does(way):
    small = smaller(silenced(model(torch.float32), {0: [1, 2], 2: [0]}, {1: [3, 4]}))
    expected, bound = states(small), 0.2 if way == "int8" else 1e-5
    with arithmetic(way):
        ready = dataclasses.replace(small, weights=prepared(small.weights))
        assert distance(states(ready, fast_encode), expected, bound) <= 1
        first = encode_first(*batch(), ready.weights, ready.config)[:, 0]
        assert distance(first, encode(*batch(), small.weights, small.config)[:, 0], bound) <= 1
        if way != "int8":
            trace = encode_traced(*batch(), ready.weights, ready.config)
            assert distance(trace.hidden_BSD[batch()[1]], expected, bound) <= 1
            assert [block.attention.scores_BNSR.shape[1] for block in trace.blocks] == [2, 4, 3]


def test_it_learns_as_the_book_says():
    """Its gradients by hand are those of autograd through the book."""
    small, given = smaller(silenced(model(), {0: [1, 2], 2: [0]}, {1: [3, 4]})), batch()
    found = []
    for encoder in (encode, fast_encode):
        trainable = Trainable(small.weights)
        state_BSD = encoder(*given, trainable.weights(torch.float64), small.config)
        trainable.backward((state_BSD[given[1]] ** 3).sum())
        found.append(trainable.gradient_P.clone())
    assert distance(found[1], found[0], 1 + found[0].abs().max()) <= 1e-11


def test_a_folder_holds_it_and_reads_it_back(tmp_path, minibert):
    small = smaller(silenced(model(torch.float32), {0: [1, 2], 2: [0]}, {1: [3, 4]}))
    small.save_pretrained(tmp_path / "small")
    again = Bert.from_pretrained(tmp_path / "small")
    assert again.config.pruned == small.config.pruned
    ours, theirs = named_tensors(again.weights), named_tensors(small.weights)
    for (path, one), (_, other) in zip(ours, theirs, strict=True):
        assert torch.equal(one, other), path
    assert torch.equal(again.logits(["a good film"]), small.logits(["a good film"]))
    inspected = minibert(f"inspect {tmp_path}/small")
    assert inspected.code == 0
    assert "heads 2, 4, 3 of 4, feed-forward 17, 15, 17" in inspected.out


@pytest.mark.parametrize("packed", [False, True])
def test_transformers_reads_what_is_exported_dense(packed, tmp_path, minibert):
    transformers = pytest.importorskip("transformers")
    small = smaller(silenced(model(torch.float32), {0: [1, 2], 2: [0]}, {1: [3, 4]}))
    small.save_pretrained(tmp_path / "small", packed)
    answer = minibert(f"export --model {tmp_path}/small --dense --out {tmp_path}/dense")
    assert answer.code == 0, answer.err
    theirs = transformers.BertModel.from_pretrained(tmp_path / "dense").eval()
    ids_BS, keep_BS, _ = batch()
    with torch.no_grad():
        found = theirs(input_ids=ids_BS, attention_mask=keep_BS.long()).last_hidden_state
    assert distance(found[keep_BS], states(small), 1e-5) <= 1
    with pytest.raises((RuntimeError, OSError)):  # not silently: the sizes do not fit
        transformers.BertModel.from_pretrained(tmp_path / "small")


def test_transformers_reads_equal_feed_forwards_as_they_are(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = smaller(silenced(model(torch.float32), {}, {layer: [1, 2] for layer in range(L)}))
    small.save_pretrained(tmp_path)
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    ids_BS, keep_BS, _ = batch()
    with torch.no_grad():
        found = theirs(input_ids=ids_BS, attention_mask=keep_BS.long()).last_hidden_state
    assert distance(found[keep_BS], states(small), 1e-5) <= 1


def test_a_damaged_map_is_refused_in_one_sentence(tmp_path, minibert):
    small = smaller(silenced(model(torch.float32), {0: [1]}, {}))
    small.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    for change, said in (
        ({"heads": [[0]] * L, "units": [F] * L}, "misfit: "),
        ({"heads": [[0]], "units": [F]}, "pruned has 1 layers of heads and 1 of units, but the"),
        ({"heads": [[0, 9]] * L, "units": [F] * L}, "a head in pruned is 9, but must be an"),
        ([], "pruned is [], but must hold a list of heads and one of units"),
    ):
        path.write_text(json.dumps(values | {"pruned": change}))
        answer = minibert(f"predict --model {tmp_path} text")
        assert answer.code == 3
        assert said in answer.said


# ---------------------------------------------------------------------------------- which, and when


def learner(pattern: str, share: float, begin: float = 0.1, end: float = 0.7) -> GatedTrainable:
    sparsity = Sparsity(share, pattern, begin=begin, end=end)
    weights = model(torch.float32).weights
    found: Any = trainable_for(weights, "cpu", sparsity, STEPS, SIZES)
    assert isinstance(found, GatedTrainable)
    return found


def columns(weights: BertWeights, pattern: str) -> list[Tensor]:
    """For each layer [O, heads or units, width of one]."""
    if pattern == "heads":
        return [block.attention.output.weight_OI.view(24, N, -1) for block in weights.blocks]
    return [block.output.weight_OI[:, :, None] for block in weights.blocks]


def pushed(trainable: GatedTrainable, pattern: str, importance: list[Tensor]) -> None:
    """One step whose gradient is such that each head or unit is as important as this."""
    gradient = views_of(trainable.gradient_P, trainable.shapes)
    trainable.gradient_P.zero_()
    parts = zip(columns(gradient, pattern), columns(trainable.leaves, pattern), importance,
                strict=True)  # fmt: skip
    for into, weight_OGi, wanted_G in parts:
        weight_OGi = weight_OGi.detach()
        size_G = (weight_OGi**2).sum((0, 2))
        into.copy_(weight_OGi * (wanted_G / size_G.clamp(min=1e-20))[:, None])
    trainable.look_at_gradient()
    trainable.update(0.0, ADAM)


def closed(trainable: GatedTrainable, pattern: str) -> list[list[int]]:
    parts = columns(trainable.finished_weights(), pattern)
    return [(part == 0).all(2).all(0).nonzero()[:, 0].tolist() for part in parts]


def test_heads_go_by_importance_in_their_layer_over_all_layers():
    """Layer 1 has a hundred times the gradient, and its least heads go all the same."""
    trainable = learner("heads", 0.5, 0.0, 0.25)
    wanted = [torch.tensor([4.0, 1.0, 3.0, 2.0]), torch.tensor([100.0, 100.0, 500.0, 100.0]),
              torch.tensor([1.0, 1.1, 1.2, 1.3])]  # fmt: skip
    for _ in range(EVERY):
        pushed(trainable, "heads", wanted)
    shares = [one / one.norm() for one in wanted]
    order = torch.cat(shares).argsort()[:6].tolist()
    expected = [sorted(i - N * layer for i in order if i // N == layer) for layer in range(L)]
    assert closed(trainable, "heads") == expected
    assert sum(map(len, expected)) == 6
    assert len(set(map(len, expected))) > 1, "not the same number in every layer"


def test_units_go_by_importance_as_many_in_every_layer():
    trainable = learner("ffn", 0.3, 0.0, 0.25)
    generator = torch.Generator().manual_seed(0)
    wanted = [torch.rand(F, generator=generator) + layer for layer in range(L)]
    for _ in range(EVERY):
        pushed(trainable, "ffn", wanted)
    assert closed(trainable, "ffn") == [sorted(one.argsort()[: round(0.3 * F)].tolist())
                                        for one in wanted]  # fmt: skip


def test_importance_is_added_up_from_one_choice_to_the_next():
    """One step speaks loudly for the first head, and all others softly for the rest."""
    trainable = learner("heads", 0.25, 0.0, 0.25)
    for step in range(EVERY):
        loud = torch.tensor([20.0, 0.0, 0.0, 0.0]) if step == 3 else torch.tensor([0.0, 1, 2, 3])
        pushed(trainable, "heads", [loud] * L)
    assert float(trainable.extra["importance"].sum()) == 0, "the next choice starts anew"
    assert closed(trainable, "heads") == [[0]] * L  # 20 against 24, 48 and 72


@pytest.mark.parametrize("pattern", ["heads", "ffn"])
def test_importance_is_of_the_loss_whatever_is_added_to_it_or_clipped(pattern, tmp_path):
    """The gradient of λ‖θ‖² would make large weights important, and clipping loud batches less."""
    found = []
    for more in ({}, {"l2": 0.1}, {"max_norm": 1e-3}):
        trainable = learner(pattern, 0.5, 0.9, 0.9)
        options = TrainingOptions(steps=3, lr=0.0, **more)
        folder = tmp_path / str(len(found))
        train(labels_objective(model(), 40), trainable, options, folder, "x", Display(quiet=True))
        found.append(trainable.extra["importance"])
    assert float(found[0].min()) > 0
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("pattern", ["heads", "ffn"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.75])
def test_the_share_goes_for_good_and_every_layer_keeps_one(pattern, share):
    trainable, gone = learner(pattern, share), [[]] * L
    before = trainable.parameters_P.clone()
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        trainable.gradient_P.copy_(torch.randn(before.shape, generator=generator))
        trainable.look_at_gradient()
        trainable.update(1e-3, ADAM)
        now = closed(trainable, pattern)
        assert all(set(old) <= set(new) for old, new in zip(gone, now, strict=True))
        gone = now
    count = N if pattern == "heads" else F
    assert all(len(one) < count for one in gone)
    if pattern == "ffn":
        assert {len(one) for one in gone} == {round(share * F)}
    else:
        assert sum(map(len, gone)) == round(share * N * L)
    weights, config = without_idle(trainable.finished_weights(), SIZES)
    assert sum(x.numel() for _, x in named_tensors(weights)) < len(before)
    assert (config.pruned is None) == (pattern == "ffn")


def test_the_best_of_a_layer_stays_and_another_goes_in_its_place():
    """By rank alone all heads of the second layer would go; every layer keeps one, so two of it."""
    trainable = learner("heads", 0.75, 0.0, 0.25)
    wanted = [torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([7.0, 7.0, 0.01, 0.02]),
              torch.tensor([1.0, 0.5, 0.5, 0.5])]  # fmt: skip
    for _ in range(EVERY):
        pushed(trainable, "heads", wanted)
    gone = closed(trainable, "heads")
    assert sum(map(len, gone)) == 9
    assert all(len(one) < N for one in gone)


def test_what_is_closed_stays_closed_where_others_have_no_importance():
    trainable = learner("heads", 0.5, 0.0, 1.0)
    for step in range(STEPS):
        wanted = torch.tensor([0.0, 1.0, 2.0, 3.0]) if step < EVERY else torch.zeros(4)
        pushed(trainable, "heads", [wanted] * L)
        if step == EVERY - 1:
            first = closed(trainable, "heads")
    assert any(first)
    for old, new in zip(first, closed(trainable, "heads"), strict=True):
        assert set(old) <= set(new)


@pytest.mark.parametrize(
    ("pattern", "share", "changes", "most"),
    [
        ("heads", 0.8, {}, "9 of 12"),
        ("heads", 0.5, {"num_attention_heads": 1}, "0 of 3"),
        ("ffn", 1.0, {}, "16 of 17"),
        ("ffn", 0.9, {"intermediate_size": 1}, "0 of 1"),
    ],
)
def test_a_share_that_leaves_a_layer_without_any_is_refused(pattern, share, changes, most):
    config = dataclasses.replace(SIZES, **changes)
    weights = model(torch.float32, **changes).weights
    said = f"--pattern {pattern} with --sparsity {share:g} would empty a layer; at most "
    with pytest.raises(CheckpointError, match=re.escape(said + most)):
        trainable_for(weights, "cpu", Sparsity(share, pattern), STEPS, config)


# -------------------------------------------------------------------------------------- whole runs


def run(folder: Path, pattern: str, stop_at: int = 0) -> dict[str, Any]:
    sparsity = Sparsity(0.5, pattern, begin=0.0, end=0.9)
    options = TrainingOptions(epochs=4, lr=1e-2, evaluate_every=7, sparsity=sparsity)
    return finetune(
        model(torch.float32), tiny.dataset(80, 1), tiny.dataset(20, 2), folder, options, 8, 20,
        Watched(stop_after(stop_at)),
    )  # fmt: skip


@pytest.mark.parametrize("pattern", ["heads", "ffn"])
def test_a_run_that_was_stopped_ends_bit_for_bit_where_it_would_have(pattern, tmp_path):
    expected = run(tmp_path / "whole", pattern)
    for stop_at in (13, 30):  # before the first choice, and between the two
        folder = tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            run(folder, pattern, stop_at)
        assert run(folder, pattern)["metrics"] == expected["metrics"]
        ours, theirs = (Bert.from_pretrained(one) for one in (folder, tmp_path / "whole"))
        assert ours.config.heads_and_units == theirs.config.heads_and_units
        pairs = zip(named_tensors(ours.weights), named_tensors(theirs.weights), strict=True)
        for (path, one), (_, other) in pairs:
            assert torch.equal(one, other), path


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """A folder with a model that has learned, and `data` beside it."""
    folder = tmp_path_factory.mktemp("pruned")
    tiny.write_data(folder / "data", n_train=30, n_dev=16)
    finetune(
        model(torch.float32), tiny.dataset(200, 1), tiny.dataset(40, 2), folder / "model",
        TrainingOptions(epochs=6, lr=2e-2), 16, 20, Display(quiet=True),
    )  # fmt: skip
    return folder / "model"


@pytest.mark.parametrize("pattern", ["heads", "ffn"])
def test_the_commands_make_smaller_models_which_the_commands_read(
    pattern, minibert, learned, tmp_path
):
    data = f"--data {learned.parent}/data --epochs 2 --batch-size 8 --lr 0.02 --max-length 20"
    whole = learned
    for command in (
        f"finetune --model {whole}",
        f"distill --teacher {whole} --init-student {whole} --intermediate-epochs 1",
    ):
        out = tmp_path / command.partition(" ")[0]
        answer = minibert(f"{command} {data} --sparsity 0.5 --pattern {pattern} --out {out}")
        assert answer.code == 0, answer.err
        config: BertConfig = Bert.from_pretrained(out).config
        sizes = config.heads_and_units
        if pattern == "heads":
            assert sum(heads for heads, _ in sizes) == N * L / 2
        else:
            assert sizes == ((N, F - round(F / 2)),) * L
        more = minibert(f"finetune --model {out} {data} --out {out}-further")
        assert more.code == 0, more.err
        assert Bert.from_pretrained(f"{out}-further").config.heads_and_units == sizes


def test_a_teacher_that_lost_heads_has_no_attention_to_compare(minibert, learned, tmp_path):
    teacher = Bert.from_pretrained(learned)
    smaller(silenced(teacher, {0: [1]}, {})).save_pretrained(tmp_path / "heads")
    smaller(silenced(teacher, {}, {0: [1]})).save_pretrained(tmp_path / "units")
    line = f"distill --data {learned.parent}/data --epochs 1 --student 1x12 --max-length 20"
    answer = minibert(f"{line} --teacher {tmp_path}/units --out {tmp_path}/a")
    assert answer.code == 0, answer.err
    answer = minibert(f"{line} --teacher {tmp_path}/heads --out {tmp_path}/b")
    assert answer.code == 3
    assert "layers of the teacher have pruned heads" in answer.said
    mapped = line.replace("1x12", "3x12x4")  # its heads cannot share what layer 1 has left
    answer = minibert(f"{mapped} --teacher {tmp_path}/heads --out {tmp_path}/b")
    assert "layers of the teacher have pruned heads" in answer.said
    line += " --attention-weight 0"
    answer = minibert(f"{line} --teacher {tmp_path}/heads --out {tmp_path}/c")
    assert answer.code == 0, answer.err


def test_the_card_of_a_student_that_lost_heads_says_how_transformers_reads_it(
    minibert, learned, tmp_path
):
    out = tmp_path / "out"
    answer = minibert(
        f"distill --teacher {learned} --init-student {learned} --intermediate-epochs 0 --epochs 2 "
        f"--data {learned.parent}/data --sparsity 0.5 --pattern heads --max-length 20 --out {out}"
    )
    assert answer.code == 0, answer.err
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "minibert export --model . --dense --out full" in card
    assert "AutoModelForSequenceClassification" not in card
    assert "library_name" not in card


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--pattern heads", "--pattern and --sparsity-by need --sparsity, the share of zeros"),
        (
            "--pattern ffn --sparsity 0.5 --sparsity-by l1",
            "--sparsity-by l1 prunes single weights, but --pattern ffn prunes whole parts, by "
            "importance; leave one of them out",
        ),
        (
            "--pattern heads --sparsity 0.5 --task translation --languages en-de",
            "--pattern heads is only for a BERT; for a translator use unstructured, row or 2:4",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, said, minibert):
    answer = minibert(f"finetune --model M --data D {options}")
    assert (answer.code, answer.said) == (2, said)
