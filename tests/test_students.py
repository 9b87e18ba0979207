"""Students: how a shape is read, and where the first weights come from."""

import dataclasses
import json

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from minibert.config import BertConfig, CheckpointError
from minibert.laws.measure import EPS, distance, normal
from minibert.model import Bert
from minibert.parameters import EmbeddingWeights, LayerNormWeights, named_tensors
from minibert.training.students import (
    Start,
    default_heads,
    new_student,
    projected_tables,
    student_config,
)

EPS_32 = 2.0**-23

TEACHER = BertConfig(
    vocab_size=99, hidden_size=384, num_hidden_layers=6, num_attention_heads=12
).with_labels(("blame", "praise"), "single_label_classification")


def sizes(config: BertConfig) -> tuple[int, int, int, int]:
    return (
        config.num_hidden_layers,
        config.hidden_size,
        config.num_attention_heads,
        config.intermediate_size,
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("4x128", (4, 128, 4, 512)),
        ("4x312x12x1200", (4, 312, 12, 1200)),  # TinyBERT4
        ("4x312", (4, 312, 12, 1248)),
        ("6x768x12", (6, 768, 12, 3072)),
        ("1x16", (1, 16, 1, 64)),
        ("2x64x2", (2, 64, 2, 256)),
        ("2x64x2x7", (2, 64, 2, 7)),
    ],
)
def test_shapes_are_read(shape, expected):
    config = student_config(shape, TEACHER)
    assert sizes(config) == expected
    for key in ("vocab_size", "type_vocab_size", "max_position_embeddings", "id2label",
                "problem_type", "architectures", "hidden_act", "layer_norm_eps"):  # fmt: skip
        assert getattr(config, key) == getattr(TEACHER, key)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("", "is no shape; write LxD"),
        ("4", "is no shape; write LxD"),
        ("4x", "is no shape"),
        ("4x128x", "is no shape"),
        ("4x128x4x512x1", "is no shape"),
        ("x128", "is no shape"),
        ("4X128", "is no shape"),
        ("-4x128", "is no shape"),
        ("4x1.5", "is no shape"),
        ("4x١٢٨", "is no shape"),
        (" 4x128", "is no shape"),
        ("4x123456789", "is no shape"),
        ("0x128", "num_hidden_layers is 0"),
        ("4x0", "hidden_size is 0"),
        ("4x128x0", "0 heads, which do not divide its width 128; choose one of"),
        ("4x128x5", r"5 heads, .* choose one of \[1, 2, 4, 8\]"),
        ("4x128x4x0", "intermediate_size is 0"),
        ("999x128", "num_hidden_layers is 999"),
    ],
)
def test_what_is_no_shape_is_refused_in_one_sentence(shape, said):
    with pytest.raises(CheckpointError, match=said) as error:
        student_config(shape, TEACHER)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


@given(st.integers(1, 1100), st.integers(1, 24))
def test_default_heads_by_trying_all(width, teacher_heads):
    """The largest that divides both and leaves heads at least 16 wide; 1 if there is none."""
    found = default_heads(width, teacher_heads)
    fits = [n for n in range(1, 1200) if width % n == teacher_heads % n == 0 and width >= 16 * n]
    assert found == (fits[-1] if fits else 1)


def written(folder, **changes: object) -> str:
    path = folder / "student.json"
    path.write_text(json.dumps(student_config("2x64", TEACHER).to_dict() | changes))
    return str(path)


def test_a_config_file_is_a_student(tmp_path):
    """Everything is the file's own but what has to be the teacher's: what is read and answered."""
    shape = written(
        tmp_path, hidden_act="gelu_new", max_position_embeddings=33, id2label={"0": "x", "1": "y"},
        problem_type=None, architectures=["BertModel"], color="green",
    )  # fmt: skip
    config = student_config(shape, TEACHER)
    assert sizes(config) == (2, 64, 4, 256)
    assert (config.hidden_act, config.max_position_embeddings) == ("gelu_new", 33)
    assert config.unknown["color"] == "green"
    assert config.id2label == TEACHER.id2label
    assert config.problem_type == TEACHER.problem_type
    assert config.architectures == TEACHER.architectures


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab_size": 98}, "has vocab_size 98, but .* must be 99"),
        ({"type_vocab_size": 1}, "has type_vocab_size 1, but .* must be 2"),
        ({"pad_token_id": 1}, "has pad_token_id 1, but .* must be 0"),
        ({"num_attention_heads": 5}, "hidden_size 64 does not divide"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
    ],
)
def test_a_config_file_that_does_not_fit_is_refused(changes, said, tmp_path):
    with pytest.raises(CheckpointError, match=said) as error:
        student_config(written(tmp_path, **changes), TEACHER)
    assert "student.json" in str(error.value)


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "3", '{"a": NaN}', '{"a":1,"a":2}'])
def test_a_config_file_that_is_damaged_is_refused(content, tmp_path):
    path = tmp_path / "student.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=r"student\.json"):
        student_config(str(path), TEACHER)


# --- Principal components --------------------------------------------------------------------

V, E, D, P, T = 53, 19, 7, 11, 2


def tables(seed: int, width: int, positions: int = P) -> EmbeddingWeights:
    """Tables whose columns have different sizes and a mean that is not 0, mixed by a rotation."""
    rotation = torch.linalg.qr(normal(seed + 3, width, width))[0]
    scales = torch.linspace(1, 3, width, dtype=torch.float64)
    word = (normal(seed, V, width) * scales) @ rotation + 0.7
    return EmbeddingWeights(
        word.float(),
        normal(seed + 1, positions, width).float(),
        normal(seed + 2, T, width).float(),
        LayerNormWeights(torch.ones(width), torch.zeros(width)),
    )


def as_weights(embeddings: EmbeddingWeights):
    model = tiny.classifier().weights
    return model._replace(embeddings=embeddings)


def projected(seed: int = 0, width: int = D) -> tuple[EmbeddingWeights, EmbeddingWeights]:
    teacher = tables(seed, E)
    return projected_tables(as_weights(tables(seed + 50, width)), as_weights(teacher)), teacher


def directions(student: EmbeddingWeights, teacher: EmbeddingWeights) -> torch.Tensor:
    """U, found back from X U by least squares: X has full rank."""
    centred = teacher.word_VD.double() - teacher.word_VD.double().mean(0)
    return torch.linalg.lstsq(centred, student.word_VD.double()).solution


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("width", [1, D, E])
def test_directions_are_orthonormal(seed, width):
    student, teacher = projected(seed, width)
    u_ED = directions(student, teacher)
    # rounding to float32 moves the rows by EPS_32/2 · |x|, and the condition of X is below 10
    assert distance(u_ED.T @ u_ED, torch.eye(width, dtype=torch.float64)) <= 100 * EPS_32, "UᵀU = 1"


@pytest.mark.parametrize("seed", range(4))
def test_the_first_columns_vary_most(seed):
    student, teacher = projected(seed, E)
    variances = student.word_VD.double().var(0)
    assert (variances[:-1] >= variances[1:]).all()
    assert float(variances[0] / variances[-1]) > 3, "and the case tells them apart"
    total = teacher.word_VD.double().var(0).sum()
    assert abs(float(variances.sum() / total - 1)) <= 20 * EPS_32, "a rotation keeps the variance"
    products = student.word_VD.double().T @ student.word_VD.double()
    off = products - products.diag().diag()
    assert float(off.abs().max() / products.max()) <= 100 * EPS_32, "columns are uncorrelated"


@pytest.mark.parametrize("seed", range(4))
def test_the_word_table_is_scikit_learns_pca(seed):
    from sklearn.decomposition import PCA

    student, teacher = projected(seed)
    pca = PCA(n_components=D, svd_solver="full").fit(teacher.word_VD.double().numpy())
    theirs = torch.from_numpy(pca.transform(teacher.word_VD.double().numpy()))
    ours = student.word_VD.double()
    signs = (ours * theirs).sum(0).sign()
    bound = EPS_32 * float(theirs.abs().max())
    assert distance(ours, theirs * signs) <= bound, "equal up to the sign of each column"
    for table, given_table in (
        (student.position_PD, teacher.position_PD),
        (student.type_TD, teacher.type_TD),
    ):
        rotated = given_table.double() @ torch.from_numpy(pca.components_).T * signs
        assert distance(table.double(), rotated) <= 20 * EPS_32, "the same directions, no mean"


def test_distances_are_kept_at_full_width():
    student, teacher = projected(width=E)
    ours, theirs = (torch.cdist(t.word_VD.double(), t.word_VD.double()) for t in (student, teacher))
    # two rows, each rounded to float32
    assert distance(ours, theirs) <= 4 * EPS_32 * float(teacher.word_VD.abs().max()) * E, "distance"


def test_nothing_else_keeps_more_of_the_table():
    """Eckart and Young: no random directions leave a smaller remainder."""
    student, teacher = projected()
    x = teacher.word_VD.double() - teacher.word_VD.double().mean(0)
    kept = float((student.word_VD.double() ** 2).sum())
    for seed in range(50):
        other = torch.linalg.qr(normal(seed, E, D))[0]
        assert float(((x @ other) ** 2).sum()) < kept


def test_the_projection_is_repeatable_and_its_signs_are_fixed():
    first, teacher = projected()
    second, _ = projected()
    for (name, one), (_, two) in zip(named_tensors(first), named_tensors(second), strict=True):
        assert torch.equal(one, two), name
    u_ED = directions(first, teacher)
    largest = u_ED.gather(0, u_ED.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    mirrored = teacher._replace(word_VD=2 * teacher.word_VD.mean(0) - teacher.word_VD)
    turned = projected_tables(as_weights(tables(50, D)), as_weights(mirrored))
    bound = 100 * EPS_32 * float(first.word_VD.abs().max())
    assert distance(turned.word_VD, -first.word_VD) <= bound, "signs do not matter"


def test_the_norm_stays_that_of_the_student_and_nothing_is_changed():
    teacher, student = tables(0, E), tables(50, D)
    before = [t.clone() for _, t in named_tensors((teacher, student))]
    result = projected_tables(as_weights(student), as_weights(teacher))
    assert result.norm is student.norm
    assert all(t.dtype == torch.float32 for _, t in named_tensors(result))
    after = [t for _, t in named_tensors((teacher, student))]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_shorter_position_tables_are_cut():
    teacher = tables(0, E)
    short = projected_tables(as_weights(tables(50, D, positions=4)), as_weights(teacher))
    whole, _ = projected()
    assert short.position_PD.shape == (4, D)
    assert torch.equal(short.position_PD, whole.position_PD[:4])


def test_a_student_beyond_its_teacher_is_refused():
    teacher = as_weights(tables(0, E))
    with pytest.raises(CheckpointError, match=r"width 20 exceeds .* 19; choose .* random"):
        projected_tables(as_weights(tables(50, E + 1)), teacher)
    with pytest.raises(CheckpointError, match=r"has 12 positions, .* only 11; choose .* random"):
        projected_tables(as_weights(tables(50, D, positions=12)), teacher)


# --- A new student ---------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["pca", "random"])
def test_a_new_student_is_repeatable_and_leaves_the_global_generator(init):
    teacher = tiny.classifier().weights
    config = tiny.config(hidden_size=6)
    before = torch.get_rng_state()
    one, two = (new_student(config, teacher, 3, Start(init)) for _ in range(2))
    other = new_student(config, teacher, 4, Start(init))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), (_, b) in zip(named_tensors(one), named_tensors(two), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.pooler.weight_OI, other.pooler.weight_OI)
    same_words = torch.equal(one.embeddings.word_VD, other.embeddings.word_VD)
    assert same_words == (init == "pca"), "the seed has no say in what the teacher gives"


@pytest.mark.parametrize(("width", "shape"), [(6, (12, 6)), (12, None), (15, (12, 15))])
def test_the_projection_to_the_teacher_is_there_where_widths_differ(width, shape):
    config = tiny.config(hidden_size=width)
    student = new_student(config, tiny.classifier().weights, 0)
    assert (student.fit_dense and tuple(student.fit_dense.weight_OI.shape)) == shape
    assert student.classifier.weight_OI.shape == (2, width)
    assert student.mlm is None
    assert len(student.blocks) == 2


def test_random_is_not_the_teachers_table():
    teacher = tiny.classifier().weights
    config = dataclasses.replace(tiny.config(), initializer_range=0.02)
    student = new_student(config, teacher, 0)
    assert float(student.embeddings.word_VD.abs().max()) <= 0.04 * (1 + EPS)


# --- Starting from what has been learned -----------------------------------------------------


def test_layers_and_tables_are_copies_of_the_teachers():
    teacher = tiny.classifier(num_hidden_layers=4).weights
    student = new_student(tiny.config(), teacher, 0, Start("teacher", "teacher"), (2, 4))
    pairs = [(student.embeddings, teacher.embeddings)]
    pairs += list(zip(student.blocks, (teacher.blocks[1], teacher.blocks[3]), strict=True))
    for own, original in pairs:
        others = dict(named_tensors(original))
        for name, one in named_tensors(own):
            other = others[name]
            assert torch.equal(one, other), name
            assert one.data_ptr() != other.data_ptr(), f"{name} is the teacher's own memory"
    fresh = new_student(tiny.config(), teacher, 0)
    assert torch.equal(student.classifier.weight_OI, fresh.classifier.weight_OI)


@pytest.mark.parametrize(
    ("changes", "start", "said"),
    [
        ({"hidden_size": 6}, Start("teacher"), r"--init-embeddings teacher: .* \[31, 12\] in"),
        ({"intermediate_size": 5}, Start("pca", "teacher"), r"--init-layers teacher: .* give the"),
    ],
)
def test_other_sizes_cannot_be_copied(changes, start, said):
    teacher = tiny.classifier().weights
    with pytest.raises(CheckpointError, match=said):
        new_student(tiny.config(**changes), teacher, 0, start, (1, 2))


@pytest.mark.parametrize("width", [6, 12])
def test_a_student_goes_on_from_a_folder(width, tmp_path):
    """Encoder and projection are those of the folder; pooler and head are drawn from the seed."""
    teacher, config = tiny.classifier().weights, tiny.config(hidden_size=width)
    before = new_student(config, teacher, 7)
    general = before._replace(pooler=None, classifier=None)
    Bert(config, general, "encoder", tiny.tokenizer()).save_pretrained(tmp_path / "general")
    start = Start(folder=str(tmp_path / "general"))
    student, fresh = new_student(config, teacher, 8, start), new_student(config, teacher, 8)
    for part in ("embeddings", "blocks", "fit_dense"):
        ours = dict(named_tensors(getattr(student, part)))
        for name, tensor in named_tensors(getattr(before, part)):
            assert torch.equal(ours[name], tensor), f"{part} {name}"
    assert torch.equal(student.pooler.weight_OI, fresh.pooler.weight_OI)
    assert torch.equal(student.classifier.weight_OI, fresh.classifier.weight_OI)


def test_a_student_that_knows_the_task_keeps_its_head(tmp_path):
    """And one that knows another task with other labels does not."""
    teacher, own = tiny.classifier().weights, tiny.classifier(5)
    own.save_pretrained(tmp_path / "same")
    labels = own.config.with_labels(("worse", "better"), own.config.problem_type)
    other = Bert(labels, own.weights, "classification", tiny.tokenizer())
    other.save_pretrained(tmp_path / "other")
    config, fresh = own.config, new_student(own.config, teacher, 8)
    for name, expected in (("same", own.weights), ("other", fresh)):
        student = new_student(config, teacher, 8, Start(folder=str(tmp_path / name)))
        assert torch.equal(student.pooler.weight_OI, expected.pooler.weight_OI)
        assert torch.equal(student.classifier.weight_OI, expected.classifier.weight_OI)
        assert torch.equal(student.embeddings.word_VD, own.weights.embeddings.word_VD)


def test_a_finished_student_without_projection_gets_a_new_one(tmp_path):
    teacher, config = tiny.classifier().weights, tiny.config(hidden_size=6)
    finished = new_student(config, teacher, 7)._replace(fit_dense=None)
    Bert(config, finished, "classification", tiny.tokenizer()).save_pretrained(tmp_path / "old")
    student = new_student(config, teacher, 8, Start(folder=str(tmp_path / "old")))
    drawn = new_student(config, teacher, 8).fit_dense
    assert torch.equal(student.fit_dense.weight_OI, drawn.weight_OI)
    assert torch.equal(student.embeddings.word_VD, finished.embeddings.word_VD)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 24), ("num_hidden_layers", 1), ("num_attention_heads", 4),
     ("intermediate_size", 5), ("max_position_embeddings", 9), ("hidden_act", "gelu_new")],
)  # fmt: skip
def test_a_folder_of_another_shape_is_refused(name, value, tmp_path):
    other = tiny.config(**{name: value})
    Bert.from_config(other, "encoder", tiny.tokenizer()).save_pretrained(tmp_path / "other")
    start = Start(folder=str(tmp_path / "other"))
    with pytest.raises(CheckpointError, match=f"--init-student .* has {name} {value}, but"):
        new_student(tiny.config(), tiny.classifier().weights, 0, start)
    with pytest.raises(CheckpointError, match="--init-student"):
        new_student(tiny.config(), tiny.classifier().weights, 0, Start(folder="nowhere"))


def test_a_student_may_have_its_own_dropout():
    config = student_config("2x64", TEACHER, 0.25)
    rates = (config.hidden_dropout_prob, config.attention_probs_dropout_prob, config.head_dropout)
    assert rates == (0.25, 0.25, 0.25)
    assert student_config("2x64", TEACHER).hidden_dropout_prob == TEACHER.hidden_dropout_prob
