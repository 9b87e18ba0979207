"""The face for users, and the commands `inspect` and `fill-mask`, on small random models."""

import copy
import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from minibert.cli import main
from minibert.config import BertConfig, CheckpointError
from minibert.data.tokenizer import Tokenizer
from minibert.heads import mlm_logits, nsp_logits, pooled, sequence_logits
from minibert.model import Bert
from minibert.parameters import LinearWeights, named_tensors
from minibert.pretrained import HEADS, head_named_in, head_shapes

PIECES = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"the a cat dog sat ran on mat . ##s".split(),
)
TOKENIZER = Tokenizer(PIECES)
CONFIG = BertConfig(
    vocab_size=len(PIECES) + 2,  # a table may have spare rows
    hidden_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=10,
    max_position_embeddings=9,
    initializer_range=0.5,
)
TEXTS = [
    "the cat sat on the mat .",
    "",
    "dogs",
    "a dog ran",
    "cats sat",
    "the the the the the the the",
]


def model(head: str = "encoder", **changes: object) -> Bert:
    config = dataclasses.replace(CONFIG, **changes)
    return Bert.from_config(config, head, TOKENIZER, seed=3, dtype=torch.float64)


def saved(folder: Path, head: str = "encoder", **changes: object) -> Path:
    model(head, **changes).to("cpu", torch.float32).save_pretrained(folder)
    return folder


def without(folder: Path, *starts: str) -> Path:
    """The same folder whose weights lack the keys that start so."""
    kept = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in kept.items() if not key.startswith(starts)}
    save_file(kept, folder / "model.safetensors")
    return folder


# --- using a model


def test_texts_together_are_encoded_like_each_alone_and_in_order() -> None:
    bert = model()
    together = bert.encode(TEXTS, batch_size=3)
    for text, hidden_SD in zip(TEXTS, together, strict=True):
        (alone_SD,) = bert.encode([text])
        assert hidden_SD.shape == (len(bert.tokens(text)), 6)
        torch.testing.assert_close(hidden_SD, alone_SD, rtol=0, atol=1e-13)
        torch.testing.assert_close(hidden_SD, bert.trace(text).hidden_BSD[0], rtol=0, atol=1e-13)


def test_pooling_is_the_mean_of_the_states_or_the_first() -> None:
    bert = model()
    states = bert.encode(TEXTS)
    mean_BD, first_BD = bert.encode(TEXTS, pool="mean"), bert.encode(TEXTS, pool="cls")
    assert mean_BD.shape == first_BD.shape == (len(TEXTS), 6)
    for row, hidden_SD in enumerate(states):
        torch.testing.assert_close(mean_BD[row], hidden_SD.mean(0), rtol=0, atol=1e-13)
        torch.testing.assert_close(first_BD[row], hidden_SD[0], rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="pool is 'max', but must be None, 'mean' or 'cls'"):
        bert.encode(TEXTS, pool="max")


def test_no_texts_give_no_results() -> None:
    bert = model("classification")
    assert bert.encode([]) == []
    assert bert.encode([], pool="mean").shape == (0, 6)
    assert bert.logits([]).shape == (0, 2)
    assert bert.classify([]) == []


def test_a_text_longer_than_the_model_is_cut() -> None:
    bert = model()
    (hidden_SD,) = bert.encode(["the cat " * 50])
    assert hidden_SD.shape == (9, 6)
    assert bert.tokens("the cat " * 50)[-1] == "[SEP]"


def test_a_pair_is_two_sentences_with_their_types() -> None:
    bert = model()
    assert bert.tokens("a cat", "dogs") == ["[CLS]", "a", "cat", "[SEP]", "dog", "##s", "[SEP]"]
    (pair_SD,) = bert.encode(["a cat"], ["dogs"])
    (alone_SD,) = bert.encode(["a cat"])
    assert (pair_SD[:4] - alone_SD).abs().max() > 1e-3
    torch.testing.assert_close(
        pair_SD, bert.trace("a cat", "dogs").hidden_BSD[0], rtol=0, atol=1e-13
    )


def test_classify_names_the_likeliest_label() -> None:
    bert = model("classification", id2label={0: "bad", 1: "good", 2: "odd"})
    logits_BC = bert.logits(TEXTS)
    weights = bert.weights
    assert weights.pooler is not None
    assert weights.classifier is not None
    for row, said in enumerate(bert.classify(TEXTS)):
        (hidden_SD,) = bert.encode(TEXTS[row : row + 1])
        expected_C = sequence_logits(pooled(hidden_SD[None], weights.pooler), weights.classifier)[0]
        torch.testing.assert_close(logits_BC[row], expected_C, rtol=0, atol=1e-13)
        assert list(said.probabilities) == ["bad", "good", "odd"]
        probabilities_C = torch.softmax(expected_C, -1)
        found_C = torch.tensor(list(said.probabilities.values()), dtype=torch.float64)
        torch.testing.assert_close(found_C, probabilities_C, rtol=0, atol=1e-13)
        assert said.label == ("bad", "good", "odd")[int(expected_C.argmax())]


def test_regression_and_next_sentence_give_their_numbers() -> None:
    score = model("regression", id2label={0: "score"}, problem_type="regression")
    assert score.logits(TEXTS).shape == (len(TEXTS), 1)
    follows = model("nsp")
    logits_B2 = follows.logits(["a cat"], ["dogs"])
    (hidden_SD,) = follows.encode(["a cat"], ["dogs"])
    assert follows.weights.pooler is not None
    assert follows.weights.nsp is not None
    expected_B2 = nsp_logits(pooled(hidden_SD[None], follows.weights.pooler), follows.weights.nsp)
    torch.testing.assert_close(logits_B2, expected_B2, rtol=0, atol=1e-13)


def test_fill_mask_ranks_the_pieces_of_each_mask() -> None:
    bert = model("mlm")
    text = "the [MASK] sat on [MASK] mat"
    guesses = bert.fill_mask(text, top=4)
    assert [len(mask) for mask in guesses] == [4, 4]
    (hidden_SD,) = bert.encode([text])
    logits_SV = mlm_logits(
        hidden_SD, bert.weights.mlm, bert.weights.embeddings.word_VD, bert.config
    )
    for place, mask in zip((2, 5), guesses, strict=True):
        probabilities_V = torch.softmax(logits_SV[place, : len(PIECES)], -1)
        best = sorted(range(len(PIECES)), key=lambda i: -probabilities_V[i].item())[:4]
        assert [guess.piece for guess in mask] == [PIECES[i] for i in best]
        for guess, i in zip(mask, best, strict=True):
            assert abs(guess.probability - probabilities_V[i].item()) < 1e-13
    everything = bert.fill_mask("[MASK]", top=1000)[0]
    assert sorted(guess.piece for guess in everything) == sorted(PIECES)
    assert abs(sum(guess.probability for guess in everything) - 1) < 1e-13


def test_a_question_that_the_model_cannot_answer_is_refused() -> None:
    bert = model()
    with pytest.raises(CheckpointError, match="head 'encoder', but filling a mask needs 'mlm'"):
        bert.fill_mask("[MASK]")
    with pytest.raises(CheckpointError, match="head 'encoder', but judging whole texts"):
        bert.logits(TEXTS)
    with pytest.raises(CheckpointError, match="head 'encoder' of type None, but classify"):
        bert.classify(TEXTS)
    many = model("classification", problem_type="multi_label_classification")
    with pytest.raises(CheckpointError, match="multi_label_classification"):
        many.classify(TEXTS)
    with pytest.raises(ValueError, match=r"no \[MASK\] among its first 9 tokens"):
        model("mlm").fill_mask("the cat " * 10 + "[MASK]")
    with pytest.raises(TypeError, match="one text was given"):
        bert.encode("the cat")


def test_results_carry_no_gradient_and_leave_the_weights_alone() -> None:
    bert = model()
    before = {path: tensor.clone() for path, tensor in named_tensors(bert.weights)}
    for _, tensor in named_tensors(bert.weights):
        tensor.requires_grad_()
    assert not bert.encode(TEXTS, pool="mean").requires_grad
    for path, tensor in named_tensors(bert.weights):
        assert torch.equal(tensor.detach(), before[path])


def test_a_model_put_together_by_hand_is_saved_under_its_own_name(tmp_path: Path) -> None:
    parts = model("classification")
    config = dataclasses.replace(parts.config, architectures=("BertModel",))
    Bert(config, parts.weights, "classification").save_pretrained(tmp_path)
    assert Bert.from_pretrained(tmp_path).head == "classification"


def test_a_fresh_model_follows_its_seed() -> None:
    one, same, other = (Bert.from_config(CONFIG, "mlm", seed=seed) for seed in (1, 1, 2))
    words = [bert.weights.embeddings.word_VD for bert in (one, same, other)]
    assert torch.equal(words[0], words[1])
    assert not torch.equal(words[0], words[2])
    assert one.config.architectures == ("BertForMaskedLM",)
    assert one.to("cpu", torch.bfloat16).weights.embeddings.word_VD.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="there is no head 'lm'; known: encoder, mlm"):
        Bert.from_config(CONFIG, "lm")


# --- folders


@pytest.mark.parametrize("head", HEADS)
def test_a_folder_round_trip_keeps_everything(tmp_path: Path, head: str) -> None:
    changes = {"id2label": {0: "score"}} if head == "regression" else {}
    bert = model(head, unknown={"cell": {}}, **changes)
    bert.save_pretrained(tmp_path)
    names = {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    again = Bert.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.head == head
    assert again.config.to_dict() == bert.config.to_dict() | {"dtype": "float64"}
    assert again.tokenizer is not None
    assert again.tokenizer.pieces == PIECES
    for (name, one), (path, two) in zip(
        named_tensors(bert.weights), named_tensors(again.weights), strict=True
    ):
        assert name == path
        assert torch.equal(one, two)


def test_the_vocabulary_is_found_in_either_file(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    assert Bert.from_pretrained(tmp_path).tokens("a cat") == ["[CLS]", "a", "cat", "[SEP]"]


def test_a_model_without_vocabulary_says_so_when_it_is_to_read(tmp_path: Path) -> None:
    bert = dataclasses.replace(model(), tokenizer=None)
    bert.save_pretrained(tmp_path)
    loaded = Bert.from_pretrained(tmp_path)
    assert loaded.report.notes[-1].startswith("neither vocab.txt nor tokenizer.json is there")
    with pytest.raises(CheckpointError, match=r"no vocabulary.*put vocab\.txt or tokenizer\.json"):
        loaded.encode(["a cat"])


def test_the_vocabulary_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("x\ny\nz\n")
    with pytest.raises(CheckpointError, match="18 pieces, but the model has only 17 word vectors"):
        Bert.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="15 pieces, but the model has only 14"):
        Bert.from_config(dataclasses.replace(CONFIG, vocab_size=14), tokenizer=TOKENIZER)


def test_the_head_comes_from_the_architectures_or_from_the_caller(tmp_path: Path) -> None:
    saved(tmp_path, "pretraining")
    assert Bert.from_pretrained(tmp_path).head == "pretraining"
    masked = Bert.from_pretrained(tmp_path, head="mlm")
    assert masked.config.architectures == ("BertForMaskedLM",)
    assert masked.weights.pooler is None
    ignored = {row.key: row.note for row in masked.report.of("ignored")}
    assert set(ignored) == {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    }
    bare = Bert.from_pretrained(tmp_path, head="encoder")
    assert bare.weights.pooler is not None
    assert bare.weights.mlm is bare.weights.nsp is None


def test_an_unknown_architecture_asks_which_part_to_load(tmp_path: Path) -> None:
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["architectures"] = ["TinyBertForPreTraining"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"architectures is TinyBertForPreTraining, but mini"):
        Bert.from_pretrained(tmp_path)
    assert Bert.from_pretrained(tmp_path, head="encoder").head == "encoder"


def test_one_label_or_a_problem_type_makes_a_regression() -> None:
    classifier = ("BertForSequenceClassification",)
    assert head_named_in(BertConfig(architectures=classifier)) == "classification"
    one = BertConfig(architectures=classifier, id2label={0: "x"})
    assert head_named_in(one) == "regression"
    score = BertConfig(architectures=classifier, problem_type="regression")
    assert head_named_in(score) == "regression"


def test_a_missing_head_is_an_error_that_says_how_to_load(tmp_path: Path) -> None:
    without(saved(tmp_path, "classification"), "classifier")
    with pytest.raises(CheckpointError) as caught:
        Bert.from_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: missing: classifier.weight, classifier.bias; load with head='encoder', "
        "or give it an untrained one with new_head='classification'"
    )
    without(tmp_path, "bert.encoder.layer.1.output.dense.bias")
    with pytest.raises(CheckpointError) as caught:
        Bert.from_pretrained(tmp_path)
    assert "bert.encoder.layer.1.output.dense.bias" in str(caught.value)
    assert "new_head" not in str(caught.value)  # a new head would not help


def test_a_new_head_is_drawn_from_the_seed_and_reported(tmp_path: Path) -> None:
    saved(tmp_path, "mlm")
    bert = Bert.from_pretrained(tmp_path, new_head="classification", labels=("a", "b", "c"), seed=7)
    assert bert.head == "classification"
    assert bert.config.architectures == ("BertForSequenceClassification",)
    assert bert.config.id2label == {0: "a", 1: "b", 2: "c"}
    new = {row.key: row.note for row in bert.report.of("new")}
    assert new == dict.fromkeys(
        (
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias",
        ),
        "drawn from seed 7",
    )
    same, other = (
        Bert.from_pretrained(tmp_path, new_head="classification", labels="abc", seed=seed)
        for seed in (7, 8)
    )
    assert bert.weights.classifier is not None
    matrix_CD = bert.weights.classifier.weight_OI
    assert matrix_CD.shape == (3, 6)
    assert torch.equal(matrix_CD, same.weights.classifier.weight_OI)
    assert not torch.equal(matrix_CD, other.weights.classifier.weight_OI)
    bert.save_pretrained(tmp_path / "out")
    assert Bert.from_pretrained(tmp_path / "out").head == "classification"


def test_labels_are_those_of_a_new_head(tmp_path: Path) -> None:
    saved(tmp_path, "classification")
    with pytest.raises(ValueError, match="labels are those of a new head"):
        Bert.from_pretrained(tmp_path, labels=("a", "b"))


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    saved(tmp_path, "classification")
    path = tmp_path / "config.json"
    changed = json.loads(path.read_text()) | {"problem_type": "regression"}
    path.write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match="a regression with 2 outputs; minibert knows"):
        Bert.from_pretrained(tmp_path)


@pytest.mark.parametrize("head", ["classification", "mlm"])
def test_the_precision_of_the_encoder_does_not_round_probabilities(head: str) -> None:
    """In bfloat16 they would be multiples of 1/256 near 1, and not sum to 1."""
    exact = dataclasses.replace(tiny.Bert.from_config(tiny.config(), head, tiny.tokenizer(), 1))
    quick = dataclasses.replace(exact, precision=torch.bfloat16)
    found = []
    for bert in (exact, quick):
        if head == "mlm":
            found.append([guess.probability for guess in bert.fill_mask("a [MASK] film", 31)[0]])
        else:
            found.append(sorted(bert.classify(["a good film"])[0].probabilities.values()))
    assert abs(sum(found[1]) - 1) < 1e-6
    assert found[0] != found[1], "the encoder did compute in bfloat16"
    assert any(p != float(torch.tensor(p).bfloat16()) for p in found[1])
    torch.testing.assert_close(*map(torch.tensor, found), rtol=0.2, atol=0.02)
    assert quick.weights.embeddings.word_VD.dtype == torch.float32
    exact.precision = torch.bfloat16
    assert torch.equal(exact.encode(["a film"])[0], quick.encode(["a film"])[0])


def test_a_new_head_keeps_the_pooler_and_replaces_the_old_head(tmp_path: Path) -> None:
    saved(tmp_path, "classification")
    old = load_file(tmp_path / "model.safetensors")
    bert = Bert.from_pretrained(tmp_path, new_head="regression")
    assert bert.head == "regression"
    assert bert.config.problem_type == "regression"
    assert {row.key for row in bert.report.of("new")} == {"classifier.weight", "classifier.bias"}
    assert {row.key for row in bert.report.of("ignored")} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert bert.weights.pooler is not None
    assert torch.equal(bert.weights.pooler.weight_OI, old["bert.pooler.dense.weight"])
    assert bert.weights.classifier is not None
    assert bert.weights.classifier.weight_OI.shape == (1, 6)
    choice = Bert.from_pretrained(tmp_path, new_head="multiple_choice")
    assert choice.weights.classifier is not None
    assert choice.weights.classifier.weight_OI.shape == (1, 6)


def test_a_new_head_does_not_excuse_a_damaged_body(tmp_path: Path) -> None:
    without(saved(tmp_path), "pooler.dense.bias")
    with pytest.raises(CheckpointError, match=r"missing: bert\.pooler\.dense\.bias"):
        Bert.from_pretrained(tmp_path, new_head="classification")
    with pytest.raises(CheckpointError, match=r"missing: bert\.pooler\.dense\.bias"):
        Bert.from_pretrained(tmp_path)


def test_an_encoder_trained_without_pooler_is_whole(tmp_path: Path) -> None:
    bert = Bert.from_pretrained(without(saved(tmp_path), "pooler"))
    assert bert.weights.pooler is None
    assert bert.encode(["a cat"], pool="cls").shape == (1, 6)


def test_tinyberts_projection_is_read_if_it_is_asked_for(tmp_path: Path) -> None:
    fit = LinearWeights(torch.randn(8, 6), torch.randn(8))
    bert = model().to("cpu", torch.float32)
    bert = dataclasses.replace(bert, weights=bert.weights._replace(fit_dense=fit))
    bert.save_pretrained(tmp_path)
    plain = Bert.from_pretrained(tmp_path)
    assert plain.weights.fit_dense is None
    assert {row.key for row in plain.report.of("ignored")} == {"fit_dense.weight", "fit_dense.bias"}
    loaded = Bert.from_pretrained(tmp_path, fit_dense=True)
    assert loaded.weights.fit_dense is not None
    assert torch.equal(loaded.weights.fit_dense.weight_OI, fit.weight_OI)
    assert torch.equal(loaded.weights.fit_dense.bias_O, fit.bias_O)
    with pytest.raises(CheckpointError, match=r"fit_dense was asked for, but the file has no"):
        Bert.from_pretrained(saved(tmp_path / "plain"), fit_dense=True)


def test_a_config_as_huawei_writes_it_loads(tmp_path: Path) -> None:
    """No model_type, no architectures, and keys of their own."""
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for key in ("model_type", "architectures", "id2label", "label2id", "problem_type"):
        del values[key]
    values |= {"cell": {}, "emb_size": 6, "structure": [], "pre_trained": "", "training": ""}
    (tmp_path / "config.json").write_text(json.dumps(values))
    bert = Bert.from_pretrained(tmp_path)
    assert bert.head == "encoder"
    assert bert.config.unknown["emb_size"] == 6


def test_a_head_that_does_not_exist_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for names in ({"head": "tagger"}, {"new_head": "tagger"}):
        with pytest.raises(ValueError, match="there is no head 'tagger'; known: encoder, mlm"):
            Bert.from_pretrained(saved(tmp_path), **names)


def test_the_shapes_of_every_head_hold_its_parts_and_no_others() -> None:
    for name, head in HEADS.items():
        shapes = head_shapes(CONFIG, name)
        parts = {part for part in shapes._field_defaults if getattr(shapes, part) is not None}
        assert parts == set(head.parts)


# --- the commands


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["minibert", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_inspect_has_a_line_for_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, "pretraining")
    keys = load_file(tmp_path / "model.safetensors")
    assert run(monkeypatch, "inspect", tmp_path, "--head", "mlm") == 0
    shown, complaints = capsys.readouterr()
    lines = shown.splitlines()
    rows = [line.split() for line in lines if line.startswith(("used", "ignored"))]
    assert {row[1] for row in rows} == set(keys)
    assert len(rows) == len(keys)
    assert lines[-1] == f"{len(keys) - 4} used, 4 ignored"
    assert complaints == ""


def test_inspect_as_json_is_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, "mlm")
    assert run(monkeypatch, "inspect", tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["head"] == "mlm"
    assert document["config"]["hidden_size"] == 6
    expected = sum(tensor.numel() for _, tensor in named_tensors(model("mlm").weights))
    assert document["parameters"] == expected
    row = next(row for row in document["keys"] if row["path"] == "mlm.bias_V")
    assert row == {
        "key": "cls.predictions.bias",
        "status": "used",
        "path": "mlm.bias_V",
        "note": "",
        "shape": [17],
        "dtype": "float32",
    }


@pytest.mark.parametrize("as_json", [True, False])
def test_inspect_shows_faults_and_ends_with_3(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    without(saved(tmp_path), "encoder.layer.0.attention.self.key.bias")
    key = "bert.encoder.layer.0.attention.self.key.bias"
    assert run(monkeypatch, "inspect", tmp_path, *(["--json"] if as_json else [])) == 3
    shown, complaints = capsys.readouterr()
    if as_json:
        document = json.loads(shown)
        assert document["error"] == f"{tmp_path}: missing: {key}"
        assert {"missing"} == {row["status"] for row in document["keys"] if row["key"] == key}
        assert complaints == ""
    else:
        assert f"missing     {key}" in shown
        assert complaints == f"minibert: {tmp_path}: missing: {key}\n"


def test_inspect_finds_numbers_that_are_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(saved(tmp_path) / "model.safetensors")
    tensors["pooler.dense.bias"][2] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    assert run(monkeypatch, "inspect", tmp_path) == 3
    assert "not finite (NaN or infinity): pooler.dense.bias" in capsys.readouterr().err


def test_every_damage_is_one_sentence_and_exit_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = saved(tmp_path / "whole")

    def damaged(name: str, file: str, content: bytes) -> Path:
        folder = shutil.copytree(whole, tmp_path / name)
        (folder / file).write_bytes(content)
        return folder

    weights = (whole / "model.safetensors").read_bytes()
    config = (whole / "config.json").read_bytes()
    trillion = config.replace(b'"vocab_size": 17', b'"vocab_size": 1000000000000')
    million = config.replace(b'"vocab_size": 17', b'"vocab_size": 1000000')
    assert len({config, trillion, million}) == 3
    cases = [
        (tmp_path / "nowhere", "there is no folder"),
        (whole / "config.json", "is a file, but a model is a folder"),
        (damaged("cut", "model.safetensors", weights[:-1]), "damaged"),
        (damaged("empty", "model.safetensors", b""), "damaged"),
        (damaged("trillion", "config.json", trillion), "vocab_size is 1000000000000, but must be"),
        (damaged("million", "config.json", million), "must be floats of size [1000000, 6]"),
        (damaged("text", "config.json", b"hello"), "config.json cannot be read"),
    ]
    for folder, reason in cases:
        assert run(monkeypatch, "inspect", folder) == 3
        complaint = capsys.readouterr().err
        assert reason in complaint
        assert complaint.startswith("minibert: ")
        assert complaint.count("\n") == 1


def test_fill_mask_prints_the_guesses_of_every_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, "mlm")
    texts = ["the [MASK] sat", "[MASK] [MASK]"]
    assert run(monkeypatch, "fill-mask", "--model", tmp_path, "--top", 2, "--json", *texts) == 0
    document = json.loads(capsys.readouterr().out)
    expected = Bert.from_pretrained(tmp_path)
    assert [entry["text"] for entry in document["texts"]] == texts
    for entry in document["texts"]:
        guesses = expected.fill_mask(entry["text"], top=2)
        assert entry["masks"] == [[guess._asdict() for guess in mask] for mask in guesses]
    assert run(monkeypatch, "fill-mask", "--model", tmp_path, "--top", 2, texts[1]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == texts[1]
    assert [line.split()[0] for line in lines[1:]] == ["1", "1", "2", "2"]


def test_fill_mask_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "mlm", "mlm")
    saved(tmp_path / "encoder")
    assert run(monkeypatch, "fill-mask", "--model", tmp_path / "mlm", "no mask") == 2
    assert "has no [MASK]" in capsys.readouterr().err
    assert run(monkeypatch, "fill-mask", "--model", tmp_path / "mlm", "cat " * 9 + "[MASK]") == 2
    assert "no [MASK] among its first 9 tokens" in capsys.readouterr().err
    more = "[MASK] " + "cat " * 9 + "[MASK]"
    assert run(monkeypatch, "fill-mask", "--model", tmp_path / "mlm", more) == 2
    assert "only 1 of its 2 [MASK] among its first 9 tokens" in capsys.readouterr().err
    assert run(monkeypatch, "fill-mask", "--model", tmp_path / "encoder", "[MASK]") == 3
    assert "needs 'mlm' or 'pretraining'" in capsys.readouterr().err


def test_what_was_made_ready_follows_the_weights_and_the_arithmetic():
    """Other weights or another arithmetic are never answered from those of before."""
    one, other = tiny.classifier(seed=0), tiny.classifier(seed=1)
    texts = ["good great day", "awful plot"]
    expected = other.logits(texts)
    assert not torch.equal(one.logits(texts), expected)
    one.weights = other.weights
    assert torch.equal(one.logits(texts), expected)
    one.arithmetic = "int8"
    rounded = one.logits(texts)
    assert 0 < float((rounded - expected).abs().max()) < 0.1
    one.arithmetic = None
    assert torch.equal(one.logits(texts), expected)
    assert torch.equal(copy.deepcopy(one).logits(texts), expected), "it can be copied after use"


def test_an_arithmetic_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="must be one of"):
        dataclasses.replace(tiny.classifier(), arithmetic="onedn").logits(["good"])
