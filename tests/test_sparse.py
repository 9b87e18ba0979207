"""Training that ends with zeros: how many, where, which come back, resume; and their files."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tiny
import torch
from command import documented, shape_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_training import Watched, labels_objective, stop_after
from torch import Tensor

from minibert.checkpoint import stored_tensors
from minibert.cli import options
from minibert.config import CheckpointError
from minibert.files import checksum, save_tensors
from minibert.laws.measure import distance
from minibert.model import Bert
from minibert.optim import adam_form, adam_step, initial_adam_state
from minibert.packed import packed_file, size_of, with_unpacked
from minibert.parameters import LinearWeights, named_tensors, views_of
from minibert.sparsity import soft_threshold
from minibert.training import sparse as sparse_training
from minibert.training.finetune import finetune
from minibert.training.loop import Interrupted, TrainingOptions, train
from minibert.training.progress import Display
from minibert.training.sparse import (
    EVERY,
    SparseTrainable,
    Sparsity,
    is_pruned,
    sparsity_sentence,
    trainable_for,
    zeros_of,
)
from minibert.training.trainable import Trainable

ADAM = adam_form("adamw")
STEPS = 4 * EVERY
METHODS = ["magnitude", "movement", "l1"]


def learner(sparsity: Sparsity, steps: int = STEPS, **changes: Any) -> SparseTrainable[Any]:
    found = trainable_for(tiny.classifier(**changes).weights, "cpu", sparsity, steps)
    assert isinstance(found, SparseTrainable)
    return found


def stepped(trainable: Trainable[Any], count: int, seed: int = 0) -> None:
    """Steps with random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        trainable.gradient_P.copy_(torch.randn(trainable.gradient_P.shape, generator=generator))
        trainable.update(1e-3, ADAM)


def maps_of(flat_P: Tensor, trainable: Trainable[Any]) -> dict[str, Tensor]:
    views = named_tensors(views_of(flat_P, trainable.shapes))
    return {name: view for name, view in views if is_pruned(name)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_every_map_of_a_block_ends_with_its_share_of_zeros_and_nothing_else_does(method, share):
    trainable = learner(Sparsity(share, method=method))
    before = trainable.parameters_P.clone()
    stepped(trainable, STEPS)
    for name, weight in named_tensors(trainable.finished_weights()):
        zeros = int((weight == 0).sum())
        assert zeros == (round(share * weight.numel()) if is_pruned(name) else 0), name
    assert not torch.equal(trainable.parameters_P, before)
    count, total = zeros_of(trainable.finished_weights())
    assert count / total == pytest.approx(share, abs=0.01)


def test_rows_and_groups_of_four_keep_alike():
    shape = {"hidden_size": 24, "intermediate_size": 16}
    for pattern, length, kept in (("row", None, None), ("2:4", 4, 2)):
        trainable = learner(Sparsity(0.5, pattern), **shape)
        stepped(trainable, STEPS)
        for weight_OI in maps_of(trainable.parameters_P, trainable).values():
            rows = weight_OI if length is None else weight_OI.reshape(-1, length)
            counts = (rows != 0).sum(-1)
            assert set(counts.tolist()) == {kept or rows.shape[-1] // 2}


def test_the_share_grows_by_the_cubic_rule():
    """Half-way from begin to end, 7/8 of the way is made."""
    trainable = learner(Sparsity(0.8, begin=0.0, end=1.0), steps=4 * EVERY)
    shares = []
    for _ in range(4):
        stepped(trainable, EVERY)
        count, total = zeros_of(trainable.finished_weights())
        shares.append(count / total)
    expected = [0.8 * (1 - (1 - t) ** 3) for t in (0.25, 0.5, 0.75, 1.0)]
    assert shares == pytest.approx(expected, abs=0.01)


def test_what_is_small_goes_and_never_comes_back():
    trainable = learner(Sparsity(0.8, begin=0.0, end=1.0))
    gone: dict[str, Tensor] = {}
    for _ in range(4):
        stepped(trainable, EVERY - 1)
        sizes = {name: x.abs().clone() for name, x in
                 maps_of(trainable.parameters_P, trainable).items()}  # fmt: skip
        trainable.gradient_P.zero_()
        trainable.update(0.0, ADAM)  # the choice, and no step
        for name, weight in maps_of(trainable.parameters_P, trainable).items():
            zero = weight == 0
            assert float(sizes[name][zero].max()) <= float(sizes[name][~zero].min())
            assert bool((zero | ~gone.get(name, torch.zeros_like(zero))).all())
            gone[name] = zero.clone()


@pytest.mark.parametrize(
    ("pattern", "method", "stay"),
    [
        ("unstructured", "magnitude", True), ("row", "magnitude", True), ("2:4", "magnitude", True),
        ("unstructured", "l1", True), ("heads", "magnitude", True), ("ffn", "magnitude", True),
        ("unstructured", "movement", False),
    ],
)  # fmt: skip
def test_zeros_that_were_there_stay_except_by_movement(pattern, method, stay):
    """From the first step on, though there are more of them than are asked for."""
    bert = tiny.classifier(hidden_size=24, intermediate_size=16)
    draw = torch.Generator().manual_seed(5)
    for name, weight in named_tensors(bert.weights):
        if is_pruned(name):
            weight.masked_fill_(torch.rand(weight.shape, generator=draw) < 0.8, 0.0)
    share = 0.5 if pattern == "2:4" else 0.3
    trainable = trainable_for(
        bert.weights, "cpu", Sparsity(share, pattern, method), STEPS, bert.config
    )
    zero = {name: x == 0 for name, x in maps_of(trainable.parameters_P, trainable).items()}
    for _ in range(STEPS):
        stepped(trainable, 1)
        left = maps_of(trainable.parameters_P, trainable)
        assert all(bool((left[name] == 0)[zero[name]].all()) for name in zero) == stay
    if pattern in ("heads", "ffn"):
        maps = trainable._pruned(trainable.extra["keep"])
        closed = torch.cat([~x.view(len(x), n, -1).any(2).any(0)
                            for x, n in zip(maps, trainable.n_groups, strict=True)])  # fmt: skip
        assert int(closed.sum()) == round(share * len(closed)), "and groups go by importance"


@pytest.mark.parametrize("method", ["magnitude", "l1"])
@pytest.mark.parametrize("pattern", ["unstructured", "row", "2:4"])
def test_what_is_left_out_stays_so_though_adam_moves_it(pattern, method):
    """Before it is 0 again it may be larger than the smallest that are left."""
    share = 0.5 if pattern == "2:4" else 0.1
    sparsity = Sparsity(share, pattern, method, begin=0.0, end=1.0)
    trainable = learner(sparsity, 8 * EVERY, hidden_size=24, intermediate_size=48)
    kept_before = trainable.extra["keep"].clone()
    generator = torch.Generator().manual_seed(0)
    drift_P = 0.3 * torch.randn(kept_before.shape, generator=generator)
    for _ in range(8 * EVERY):
        trainable.gradient_P.copy_(drift_P + torch.randn(drift_P.shape, generator=generator))
        trainable.update(5e-3, ADAM)
        assert not bool((trainable.extra["keep"] & ~kept_before).any())
        kept_before = trainable.extra["keep"].clone()
    assert not bool(kept_before.all())


def test_movement_brings_back_what_training_moves_away_from_zero():
    trainable = learner(Sparsity(0.5, method="movement", begin=0.0, end=1.0))
    weight = maps_of(trainable.parameters_P, trainable)["blocks.0.output.weight_OI"]
    whole = maps_of(trainable.extra["whole"], trainable)["blocks.0.output.weight_OI"]
    gradient = maps_of(trainable.gradient_P, trainable)["blocks.0.output.weight_OI"]
    first_half = torch.arange(weight.numel()).view_as(weight) < weight.numel() // 2

    def push(here: Tensor, count: int) -> None:
        for _ in range(count):
            trainable.gradient_P.zero_()
            gradient.copy_(torch.where(here, whole, -whole))  # towards 0 here, away from it there
            trainable.update(1e-3, ADAM)

    push(first_half, EVERY)
    assert bool((weight[~first_half] != 0).all())
    left_out = (weight == 0) & first_half
    assert bool(left_out.any())
    assert bool((whole[left_out] != 0).all()), "it is kept beside"
    push(~first_half, 3 * EVERY)
    assert bool((weight[first_half] != 0).all()), "and has come back"
    assert int((weight == 0).sum()) == round(0.5 * weight.numel())


def test_the_gradient_does_not_reach_what_is_left_out_but_its_score():
    """Adam's momentum of before would still move it, and decay does."""
    trainable = learner(Sparsity(0.5, method="movement", begin=0.0, end=0.25))
    stepped(trainable, EVERY)
    keep = trainable.extra["keep"].clone()
    whole, scores = (trainable.extra[name].clone() for name in ("whole", "scores"))
    trainable.adam = initial_adam_state(trainable.parameters_P)  # without momentum of before
    trainable.gradient_P.fill_(1.0)
    trainable.update(1e-3, ADAM._replace(weight_decay=0.0))
    moved = trainable.extra["whole"] != whole
    assert not bool(moved[~keep].any())
    assert bool(moved[keep].all())
    expected = scores - 1e-3 * whole
    assert distance(trainable.extra["scores"], expected, 1) <= 1e-6


def test_l1_is_a_step_of_adam_and_a_soft_threshold():
    trainable = learner(Sparsity(0.5, method="l1", strength=3.0, begin=0.5), steps=1000)
    before = {name: x.clone() for name, x in named_tensors(trainable.finished_weights())}
    trainable.gradient_P.fill_(0.5)
    trainable.update(1e-2, ADAM)
    for name, found in named_tensors(trainable.finished_weights()):
        options = ADAM if name.rpartition(".")[2] in (
            "weight_OI", "word_VD", "position_PD", "type_TD"
        ) else ADAM._replace(weight_decay=0.0)  # fmt: skip
        state = initial_adam_state(before[name])
        gradient = torch.full_like(before[name], 0.5)
        expected = adam_step(before[name], gradient, state, 1e-2, options)[0]
        if is_pruned(name):
            expected = soft_threshold(expected, 1e-2 * 3.0)
        assert distance(found, expected, 1) <= 1e-6, name
    assert zeros_of(trainable.finished_weights())[0] > 0, "some are 0 by the penalty alone"


# ------------------------------------------------------------------------------------- whole runs


def run(folder: Path, sparsity: Sparsity | None, stop_at: int = 0) -> dict[str, Any]:
    """Fine-tune a tiny model; at a step, Ctrl-C."""
    options = TrainingOptions(epochs=4, lr=1e-2, evaluate_every=7, sparsity=sparsity)
    return finetune(
        tiny.classifier(), tiny.dataset(80, 1), tiny.dataset(20, 2), folder, options, 8, 20,
        Watched(stop_after(stop_at)),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_stopped_ends_bit_for_bit_where_it_would_have(method, tmp_path):
    sparsity = Sparsity(0.6, method=method, begin=0.0, end=0.9)
    expected = run(tmp_path / "whole", sparsity)
    for stop_at in (13, 30):  # before the first choice, and between the two
        folder = tmp_path / str(stop_at)
        with pytest.raises(Interrupted):
            run(folder, sparsity, stop_at)
        found = run(folder, sparsity)
        assert found["metrics"] == expected["metrics"]
        for name in ("model.safetensors", "finetune.state.safetensors"):
            assert (folder / name).exists()
        ours, theirs = (Bert.from_pretrained(one).weights for one in (folder, tmp_path / "whole"))
        for (path, one), (_, other) in zip(named_tensors(ours), named_tensors(theirs), strict=True):
            assert torch.equal(one, other), path


def test_only_a_model_that_is_sparse_enough_is_kept(tmp_path):
    """Even where each model is worse than the one before, the first of all is not sparse yet."""
    options = TrainingOptions(epochs=2 * EVERY, lr=1e-2, evaluate_every=10)
    objective = labels_objective(tiny.classifier())
    total = options.total(len(objective.order(0)))
    trainable = learner(Sparsity(0.9, begin=0.0, end=0.5), total)
    scores, kept = iter(range(1000, 0, -1)), []
    train(
        objective, trainable, options, tmp_path, "sparse", Display(quiet=True),
        lambda weights: {"accuracy": next(scores)}, "accuracy",
        lambda weights: kept.append((trainable.adam.steps, zeros_of(weights))),
    )  # fmt: skip
    ((step, (zeros, count)),) = kept
    assert total / 2 <= step < total / 2 + 10
    assert zeros / count == pytest.approx(0.9, abs=0.01)


def test_the_command_line_offers_what_training_knows():
    """Its own lists, which load no torch, are those of the training."""
    assert (*sparse_training.PATTERNS, *sparse_training.GATED) == options.PATTERNS
    assert options.SPARSITY_METHODS == sparse_training.METHODS


def test_without_sparsity_nothing_changes(tmp_path):
    assert type(trainable_for(tiny.classifier().weights, "cpu", None, 9)) is Trainable
    run(tmp_path, None)
    assert zeros_of(Bert.from_pretrained(tmp_path).weights)[0] == 0


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A folder with a model that has learned, and `data` beside it."""
    folder = tmp_path_factory.mktemp("sparse")
    tiny.write_data(folder / "data", n_train=30, n_dev=16)
    finetune(
        tiny.classifier(), tiny.dataset(200, 1), tiny.dataset(40, 2), folder / "teacher",
        TrainingOptions(epochs=6, lr=2e-2), 16, 20, Display(quiet=True),
    )  # fmt: skip
    return folder / "teacher"


@pytest.mark.parametrize(
    "more", ["", "--pattern row", "--sparsity-by movement", "--sparsity-by l1"]
)
def test_the_commands_make_zeros(more, minibert, teacher, tmp_path):
    data = f"--data {teacher.parent}/data --epochs 2 --batch-size 8 --lr 0.02 --max-length 20"
    for command in (
        f"finetune --model {teacher}",
        f"distill --teacher {teacher} --init-student {teacher} --intermediate-epochs 1",
    ):
        out = tmp_path / command.partition(" ")[0]
        answer = minibert(f"{command} {data} --sparsity 0.5 {more} --out {out}")
        assert answer.code == 0, answer.err
        count, total = zeros_of(Bert.from_pretrained(out).weights)
        assert count / total == pytest.approx(0.5, abs=0.03)


def test_the_options_reach_the_training(minibert, teacher, tmp_path, monkeypatch):
    """A method that is named is the one that chooses, and λ is what was given."""
    seen = []
    monkeypatch.setattr(
        "minibert.training.finetune.trainable_for",
        lambda *given: seen.append(given[2]) or trainable_for(*given),
    )
    line = f"finetune --model {teacher} --data {teacher.parent}/data --epochs 1 --sparsity 0.5"
    for number, more in enumerate(
        ["", "--sparsity-by movement", "--sparsity-by l1", "--sparsity-by l1 --l1 0.7",
         "--pattern row"]
    ):  # fmt: skip
        assert minibert(f"{line} {more} --out {tmp_path}/{number}").code == 0
    assert seen == [
        Sparsity(0.5),
        Sparsity(0.5, method="movement"),
        Sparsity(0.5, method="l1", strength=0.1),
        Sparsity(0.5, method="l1", strength=0.7),
        Sparsity(0.5, "row"),
    ]


def test_a_penalty_ends_where_the_choice_is_final():
    """What is left adapts; it is not drawn on until all is 0."""
    trainable = learner(Sparsity(0.5, method="l1", strength=5.0, begin=0.0, end=0.5))
    for _ in range(STEPS):
        trainable.gradient_P.zero_()
        trainable.update(1e-3, ADAM._replace(weight_decay=0.0))
    whole = learner(Sparsity(0.5))
    expected = {name: x.clone() for name, x in maps_of(whole.parameters_P, whole).items()}
    for name, found in maps_of(trainable.parameters_P, trainable).items():
        drawn = soft_threshold(expected[name], STEPS / 2 * 1e-3 * 5.0)
        kept = found != 0
        assert distance(found[kept], drawn[kept], 1) <= 1e-5, name


@pytest.mark.parametrize("command", ["finetune --model", "distill --init-student"])
def test_a_model_with_zeros_is_not_filled_without_a_word(command, minibert, teacher, tmp_path):
    options = f"--data {teacher.parent}/data --epochs 1 --max-length 20"
    more = f"--teacher {teacher} --intermediate-epochs 0" if "distill" in command else ""
    sparse = tmp_path / "sparse"
    answer = minibert(f"finetune --model {teacher} {options} --sparsity 0.5 --out {sparse}")
    zeros, count = zeros_of(Bert.from_pretrained(sparse).weights)
    assert " bytes in full, " in answer.err, "what they take, packed and at the least"
    answer = minibert(f"{command} {sparse} {options} {more} --out {tmp_path}/next")
    assert answer.code == 0, answer.err
    assert f"{zeros:,} of {count:,} weights in the maps of the blocks are 0 now;" in answer.err
    again = f"{command} {sparse} {options} {more} --sparsity 0.6 --out {tmp_path}"
    assert "are 0 now" not in minibert(f"{again}/more").err
    assert "training by movement will change" in minibert(f"{again}/m --sparsity-by movement").err
    if "distill" in command:
        first = again.replace("--intermediate-epochs 0", "--intermediate-epochs 1")
        assert "are 0 now; training on the teacher's states" in minibert(f"{first}/first").err


@pytest.mark.parametrize(
    ("command", "wide"),
    [("finetune --model {}", 17), ("distill --teacher {} --student 1x12x3x5", 5)],
)
def test_two_of_four_need_rows_that_four_divides(command, wide, minibert, teacher, tmp_path):
    """It is said before anything is trained, and nothing is left behind."""
    options = f"--data {teacher.parent}/data --sparsity 0.5 --pattern 2:4 --out {tmp_path}/out"
    answer = minibert(f"{command.format(teacher)} {options}")
    assert (answer.code, answer.said) == (
        3, f"--pattern 2:4 needs widths divisible by 4, but blocks.0.output.weight_OI has {wide}"
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_penalty_alone_is_refused(minibert):
    for how in ("--l1 0.5", "--sparsity 0.5 --l1 0.5", "--sparsity 0.5 --sparsity-by movement "
                "--l1 1"):  # fmt: skip
        answer = minibert(f"finetune --model M --data D {how}")
        assert (answer.code, answer.said) == (
            2, "--l1 needs --sparsity-by l1, whose penalty it scales"
        )  # fmt: skip


@pytest.mark.parametrize("how", ["--pattern 2:4", "--pattern row", "--sparsity-by movement"])
def test_a_pattern_alone_is_refused(how, minibert):
    answer = minibert(f"finetune --model M --data D {how}")
    assert (answer.code, answer.said) == (
        2, "--pattern and --sparsity-by need --sparsity, the share of zeros"
    )  # fmt: skip


def test_two_of_four_are_half(minibert):
    answer = minibert("finetune --model M --data D --pattern 2:4 --sparsity 0.8")
    assert (answer.code, answer.said) == (
        2, "--pattern 2:4 makes half of the weights 0, not 0.8; give --sparsity 0.5"
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ files


def test_so_few_zeros_that_packing_gives_nothing_are_told_all_the_same():
    weights = tiny.classifier().weights
    for _, tensor in named_tensors(weights):
        tensor.data.add_(1.0)  # no bias that is 0
    weights.blocks[0].output.weight_OI.data[0, 0] = 0.0
    zeros, count = zeros_of(weights)
    assert zeros == 1
    said = sparsity_sentence(weights, tiny.config())
    assert f"; 1 of {count:,} weights of its maps are 0, too few for a smaller packed file" in said


@pytest.fixture
def sparse(tmp_path) -> Path:
    """A folder with a packed model, four of five weights of its maps 0."""
    trainable = learner(Sparsity(0.8), hidden_size=24, intermediate_size=40)
    stepped(trainable, STEPS)
    bert = tiny.classifier(hidden_size=24, intermediate_size=40)
    bert.weights = trainable.finished_weights()
    bert.save_pretrained(tmp_path / "full")
    bert.save_pretrained(tmp_path / "packed", packed=True)
    return tmp_path / "packed"


def test_a_packed_model_comes_back_bit_for_bit_and_is_smaller(sparse):
    packed, full = (Bert.from_pretrained(folder) for folder in (sparse, sparse.parent / "full"))
    for (path, one), (_, other) in zip(
        named_tensors(packed.weights), named_tensors(full.weights), strict=True
    ):
        assert torch.equal(one, other), path
    files = (sparse / "model.packed.safetensors", sparse.parent / "full" / "model.safetensors")
    sizes = [file.stat().st_size for file in files]
    count, total = zeros_of(full.weights)
    saved = 4 * count - total / 8  # and three names instead of one
    assert sizes[0] <= sizes[1] - saved + 200 * 24
    found = size_of(dict(named_tensors(full.weights)))
    assert (found.zeros, found.full) == (count, 4 * total)
    assert found.least < found.packed < found.full


@given(st.lists(st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e-45]), min_size=0, max_size=40))
def test_every_number_comes_back_the_sign_of_zero_too(numbers):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "one.safetensors"
        tensor = torch.tensor(numbers, dtype=torch.float32).view(-1, 1)
        save_file({"x": tensor}, path)
        save_file(packed_file(path), path)
        stored = with_unpacked(stored_tensors(path))["x"]
        again = stored.read()
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), "float32")
        assert torch.equal(again.view(torch.int32), tensor.view(torch.int32))


def spoiled(tensors: dict[str, Tensor], change: str) -> None:
    key = "bert.encoder.layer.0.output.dense.weight"
    match change:
        case "mask missing":
            del tensors[f"{key}.values"]
        case "a bit":
            tensors[f"{key}.mask"][0] ^= 1
        case "a value":
            tensors[f"{key}.values"] = tensors[f"{key}.values"][1:].clone()
        case "the shape":
            tensors[f"{key}.shape"] = torch.tensor([24, 39])
        case "negative":
            tensors[f"{key}.shape"] = torch.tensor([-24, -40])
        case "a bit beyond":
            count = tensors[f"{key}.mask"].numel() * 8
            tensors[f"{key}.shape"] = torch.tensor([count - 3])
            tensors[f"{key}.mask"][-1] |= 128
        case "twice":
            tensors[key] = torch.zeros(24, 40)
        case "its type":
            tensors[f"{key}.mask"] = tensors[f"{key}.mask"].int()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("mask missing", r"is packed, but its part .*dense\.weight\.values is missing"),
        ("a bit", "is packed, but its mask does not fit its values"),
        ("a value", "is packed, but its mask does not fit its values"),
        ("the shape", r"is packed, but its mask does not fit its shape \(24, 39\)"),
        ("negative", r"is packed, but its mask does not fit its shape \(-24, -40\)"),
        ("a bit beyond", "is packed, but its mask does not fit its values|misfit"),
        ("twice", "is stored twice, packed and unpacked"),
        ("its type", "is packed, but its shape or mask has a wrong type"),
    ],
)
def test_a_damaged_packed_tensor_is_refused_in_one_sentence(change, reason, sparse):
    path = sparse / "model.packed.safetensors"
    tensors = load_file(path)
    spoiled(tensors, change)
    save_tensors(path, tensors, checksum=str(checksum(tensors)))  # whole, and yet impossible
    with pytest.raises(CheckpointError, match=f"{sparse}.*: .*{reason}"):
        Bert.from_pretrained(sparse)


def test_a_packed_file_with_one_changed_bit_is_refused(sparse):
    """The format itself would not notice one in its numbers, nor the parts of one another."""
    path = sparse / "model.packed.safetensors"
    whole, draw = path.read_bytes(), random.Random(0)
    numbers = 8 + int.from_bytes(whole[:8], "little")
    for start in [0, numbers, numbers, numbers] * 25:
        content = bytearray(whole)
        content[draw.randrange(start, len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as refused:
            Bert.from_pretrained(sparse)
        assert str(refused.value).count(str(path)) == 1, str(refused.value)


def test_a_packed_file_without_a_checksum_is_refused(sparse):
    path = sparse / "model.packed.safetensors"
    save_file(load_file(path), path)
    with pytest.raises(CheckpointError, match="its checksum is wrong; export it again"):
        Bert.from_pretrained(sparse)


def test_export_writes_either_form_from_the_other(minibert, sparse, tmp_path):
    answer = minibert(f"export --model {sparse} --out {tmp_path}/again --json")
    assert shape_of(answer.document) == shape_of(documented("export"))
    full = (sparse.parent / "full" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == full
    answer = minibert(f"export --model {tmp_path}/again --out {tmp_path}/small --packed")
    assert (tmp_path / "small" / "model.packed.safetensors").read_bytes() == (
        sparse / "model.packed.safetensors"
    ).read_bytes()
    assert "bytes in full" in answer.out
    text = "a good film"
    said = [minibert(f"predict --model {folder} --json", text).document["predictions"]
            for folder in (sparse, tmp_path / "again")]  # fmt: skip
    assert said[0] == said[1]


def test_export_into_the_folder_that_is_read_leaves_one_form(minibert, sparse):
    """Back and forth; never both files, of which one may be old."""
    before = Bert.from_pretrained(sparse)
    for form, name in (("", "model.safetensors"), ("--packed", "model.packed.safetensors")):
        assert minibert(f"export --model {sparse} --out {sparse} {form}").code == 0
        assert [file.name for file in sparse.glob("model*")] == [name]
        again = Bert.from_pretrained(sparse)
        pairs = zip(named_tensors(again.weights), named_tensors(before.weights), strict=True)
        for (path, one), (_, other) in pairs:
            assert torch.equal(one, other), path


def test_transformers_finds_no_weights_in_a_packed_folder(sparse):
    """Better than finding none of the maps in a file, and drawing them at random."""
    transformers = pytest.importorskip("transformers")
    with pytest.raises(OSError, match="no file named model"):
        transformers.BertForSequenceClassification.from_pretrained(sparse)


def test_export_keeps_a_projection_and_says_what_it_leaves(minibert, tmp_path):
    bert = tiny.classifier()
    projection = LinearWeights(torch.ones(20, 12), torch.ones(20))
    bert.weights = bert.weights._replace(fit_dense=projection)
    bert.save_pretrained(tmp_path / "from")
    assert minibert(f"export --model {tmp_path}/from --out {tmp_path}/to").code == 0
    again = Bert.from_pretrained(tmp_path / "to", fit_dense=True)
    assert torch.equal(again.weights.fit_dense.weight_OI, projection.weight_OI)
    path = tmp_path / "from" / "model.safetensors"
    save_file(load_file(path) | {"qa_outputs.weight": torch.ones(2, 12)}, path)
    answer = minibert(f"export --model {tmp_path}/from --out {tmp_path}/to")
    assert (answer.code, "already holds config.json, of another model" in answer.said) == (2, True)
    answer = minibert(f"export --model {tmp_path}/from --out {tmp_path}/from")
    assert (answer.code, "would lose qa_outputs.weight" in answer.said) == (2, True)
    assert "qa_outputs.weight" in load_file(path)
    answer = minibert(f"export --model {tmp_path}/from --out {tmp_path}/next")
    assert "left out, as not part of the model: qa_outputs.weight" in answer.err
