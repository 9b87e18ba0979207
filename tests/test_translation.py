"""A translator: reading pairs, files, teacher forcing, learning to copy, and the commands."""

import dataclasses
import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from operator import attrgetter
from pathlib import Path

import pytest
import tiny
import torch
from command import documented, shape_of
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert.config import BertConfig, CheckpointError, Pruned
from minibert.data.batches import collate
from minibert.data.parallel import Pairs, languages_of, read_pairs
from minibert.data.tables import DataError
from minibert.data.tokenizer import Tokenizer
from minibert.decoder import decode, empty_memory
from minibert.encoder import encode
from minibert.functional import log_softmax
from minibert.kernels import decoder as kernels
from minibert.kernels.products import arithmetic
from minibert.laws.measure import distance
from minibert.losses import smoothed_cross_entropy
from minibert.model import Bert
from minibert.optim import adam_form
from minibert.parameters import named_tensors, views_of, with_tensors
from minibert.search import length_penalty
from minibert.training.loop import TrainingOptions, accumulate_gradient
from minibert.training.progress import Display
from minibert.training.sparse import Sparsity, trainable_for
from minibert.training.trainable import Trainable
from minibert.training.translation import (
    Beginning,
    TranslationObjective,
    learn_to_translate,
    new_translator,
    scores,
    signatures,
)
from minibert.translator import Translation, Translator, decoder_of
from minibert.wordpiece import SPECIALS

LETTERS = "abcdef"


def config(pieces: int, **changes: object) -> BertConfig:
    sizes = BertConfig(
        vocab_size=pieces,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )
    return dataclasses.replace(sizes, **changes)  # type: ignore[arg-type]


def tokenizer(letters: str = LETTERS) -> Tokenizer:
    return Tokenizer([*SPECIALS, *letters], lowercase=False, words="spaces")


def translator(shared: bool = True, **changes: object) -> Translator:
    source = tokenizer()
    target = source if shared else tokenizer(LETTERS + "xyz")
    sizes = [config(len(one.pieces), **changes) for one in (source, target)]
    return Translator.from_config(sizes[0], sizes[1], source, target, ("up", "down"), seed=3)


def copies(count: int, seed: int, least: int = 1, most: int = 5) -> Pairs:
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(LETTERS, k=draw.randint(least, most))) for _ in range(count)]
    return Pairs(Path("copies"), tuple(texts), tuple(texts))


def write_pairs(folder: Path, train: Pairs, dev: Pairs) -> Path:
    folder.mkdir()
    for name, pairs in (("train", train), ("val", dev)):
        for ending, texts in (("up", pairs.sources), ("down", pairs.targets)):
            (folder / f"{name}.{ending}").write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder


# ---------------------------------------------------------------------------------- reading pairs


def test_a_folder_of_two_languages_is_read_line_by_line(tmp_path):
    folder = write_pairs(tmp_path / "data", copies(5, 1), copies(3, 2))
    assert read_pairs(folder, "train", ("up", "down"))[1:] == copies(5, 1)[1:]
    assert len(read_pairs(folder, "dev", ("down", "up"))) == 3
    assert len(read_pairs(folder, "train", ("up", "down"), limit=2)) == 2


@pytest.mark.parametrize(
    ("files", "languages"),
    [
        ({"train.de": "", "train.en": "", "val.en": ""}, ("en", "de")),
        ({"train.fr": "", "train.de": ""}, ("de", "fr")),
        ({"train.tsv": "de\ten\na\tb\n"}, ("de", "en")),
        ({"train.tsv": "x\ty\n", "train.de": "", "train.en": ""}, ("en", "de")),
        ({"train.en": "", "train.pt-BR": ""}, ("en", "pt-BR")),
        ({"train.tsv": "source text\ttarget text\na\tb\n"}, ("source text", "target text")),
        ({"train.tsv": "de\ten\na\tb\n", "train.json": ""}, ("de", "en")),
        ({"train.en": ""}, "two languages are needed, not en"),
        ({"train.tsv": "en\ten\na\tb\n"}, "two languages are needed, not en, en"),
        ({"train.en": "", "train.de": "", "train.fr": ""}, "not en, de, fr; use --languages"),
        ({"train.tsv": "en\tde\tfr\na\tb\tc\n"}, r"train.tsv: two languages .* not en, de, fr"),
        ({}, r"train\.tsv"),
    ],
)
def test_the_languages_are_found_where_nobody_says(files, languages, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if isinstance(languages, str):
        with pytest.raises(DataError, match=languages):
            languages_of(tmp_path)
    else:
        assert languages_of(tmp_path) == languages


def test_languages_of_a_table_in_capitals_and_of_nothing(tmp_path):
    (tmp_path / "train.TSV").write_text("de\ten\na\tb\n")
    (tmp_path / "train.json").write_text("")
    assert languages_of(tmp_path / "train.TSV") == ("de", "en")
    with pytest.raises(DataError, match=r"multi30: no such file or folder"):
        languages_of(tmp_path / "multi30")


def test_a_file_of_one_language_stands_for_both(minibert, tmp_path):
    """So that a test set can be measured beside a dev set; glob's signs in a name mean nothing."""
    folder = write_pairs(tmp_path / "data", copies(5, 1), copies(3, 2))
    for language in ("up", "down"):
        (folder / f"train.{language}").rename(folder / f"test[1].{language}")
    assert len(read_pairs(folder / "test[1].up", "dev", ("up", "down"))) == 5
    pairs = read_pairs(folder / "test[1].down", "dev", ("up", "down"))
    assert pairs[1:] == copies(5, 1)[1:]
    assert languages_of(folder / "test[1].up") == ("down", "up")
    translator().save_pretrained(tmp_path / "model")
    line = f"evaluate --task translation --model {tmp_path}/model --json --data"
    assert minibert(f"{line} {folder}/test[1].up").document["n"] == 5
    assert minibert(f"{line} {folder}").document["n"] == 3


def test_a_table_names_its_languages_and_may_turn_them_round(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("de\ten\nein Haus\ta house\nein Tisch\ta table\n", encoding="utf-8")
    for where in (path, tmp_path):
        pairs = read_pairs(where, "train", ("en", "de"))
        assert pairs.sources == ("a house", "a table")
        assert pairs.targets == ("ein Haus", "ein Tisch")


def test_a_folder_may_hold_any_kind_of_table(tmp_path):
    rows = [{"en": "a house", "de": "ein Haus"}, {"en": "a table", "de": "ein Tisch"}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "valid.csv").write_text("en,de\na house,ein Haus\n")
    assert languages_of(tmp_path) == ("en", "de")
    assert read_pairs(tmp_path, "train", ("de", "en")).sources == ("ein Haus", "ein Tisch")
    assert len(read_pairs(tmp_path, "dev", ("en", "de"))) == 1


def test_test_texts_serve_only_where_there_are_no_others(tmp_path):
    for language in ("en", "de"):
        (tmp_path / f"test.{language}").write_text("a\nb\n")
    assert len(read_pairs(tmp_path, "dev", ("en", "de"))) == 2
    (tmp_path / "dev.tsv").write_text("en\tde\na house\tein Haus\n")
    assert read_pairs(tmp_path, "dev", ("en", "de")).path == tmp_path / "dev.tsv"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"up": "c"}, "line 2: the text in down is None, but must be text"),
        ({"up": "c", "down": 7}, "line 2: the text in down is 7, but must be text"),
        ({"up": "\ud83d", "down": "d"}, "line 2: 'utf-8' codec can't encode"),
        ({"up": "c", "down": "d\0"}, "line 2: the text in down holds a NUL character"),
    ],
)
def test_bad_rows_of_json_are_refused_with_their_line(row, reason, tmp_path):
    rows = [{"up": "a", "down": "b"}, row]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=reason):
        read_pairs(tmp_path / "p.jsonl", "train", ("up", "down"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"train.down": "a\nb\n"}, r"train\.up has 3 lines, but .*train\.down has 2"),
        ({"train.down": "a\n \nb\n"}, r"train\.down, line 2: the text is empty"),
        ({"train.down": b"a\n\xff\nb\n"}, r"train\.down, line 2: byte 0xff is not UTF-8"),
        ({"train.down": None}, r"no train texts; need train\.up and train\.down, or train with"),
        ({"train.down": None, "train.tsv": "up\tside\na\tb\n"}, r"no column 'down'; the columns"),
        ({"train.down": None, "train.tsv": "up\tdown\na\tb\nc\n"}, r"line 3: 1 column, but 2"),
        ({"train.down": None, "train.tsv": "up\tdown\na\t\n"}, "line 2: the text in down is empty"),
        ({"train.down": None, "train.tsv": "up\tup\tdown\na\tb\tc\n"}, "two columns are called"),
        ({"train.down": None, "train.tsv": "up\tdown\n"}, r"holds a header and no row"),
    ],
)
def test_bad_pairs_are_refused_with_file_and_line(change, reason, tmp_path):
    folder = write_pairs(tmp_path / "data", copies(3, 1), copies(2, 2))
    for name, content in change.items():
        if content is None:
            (folder / name).unlink()
        else:
            data = content if isinstance(content, bytes) else content.encode()
            (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=reason):
        read_pairs(folder, "train", ("up", "down"))


# ------------------------------------------------------------------------------- whole-word pieces


@given(st.lists(st.text("aAbcß,.-!'\"", min_size=1, max_size=6), min_size=1, max_size=6))
def test_words_at_spaces_come_back_as_they_were(words):
    """Punctuation is a piece of its word, so nothing is lost, not even a hyphen's missing space."""
    alphabet = "aAbcß,.-!'\""
    own = Tokenizer([*SPECIALS, *alphabet, *(f"##{c}" for c in alphabet)], False, words="spaces")
    text = " ".join(words)
    assert own.decode(own.encode([text])[0].ids) == text


@pytest.mark.parametrize("text", ["我喜欢猫，你喜欢狗！", "他说：“ABC 很好”。", "日本語のテキスト"])
def test_chinese_comes_back_without_spaces(text):
    own = Tokenizer.trained([text] * 2, 60)
    assert own.decode(own.encode([text])[0].ids) == text.replace("ABC ", "ABC")


def test_a_vocabulary_is_trained_from_texts_and_kept_in_files(tmp_path):
    texts = ["der Hund, der Hund", "ein Hund-Haus", "der Hund im Haus."] * 4
    own = Tokenizer.trained(texts, 60)
    assert own.pieces[:5] == SPECIALS
    assert len(own.pieces) <= 60
    assert {"Hund", "der"} <= set(own.pieces), "what is frequent is one piece"
    own.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.pieces, again.words, again.lowercase) == (own.pieces, "spaces", False)
    for text in texts:
        assert again.encode([text]) == own.encode([text])
        assert again.decode(again.encode([text])[0].ids) == text


def test_a_vocabulary_is_the_same_in_every_process():
    """A run that goes on makes its vocabulary anew, and its weights stand for the old one."""
    code = (
        "from minibert.data.tokenizer import Tokenizer\n"
        "texts = [f'{a}{b}{c} {c}{a}' for a in 'abcd' for b in 'efgh' for c in 'ijkl']\n"
        "print(Tokenizer.trained(texts, 60).pieces)"
    )
    one, other = (
        subprocess.run(
            [sys.executable, "-c", code],
            check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in "01"
    )  # fmt: skip
    assert one == other


def test_words_are_parted_in_one_of_two_ways():
    with pytest.raises(ValueError, match=r"^words is 'none', but must be one of \('bert', 'spa"):
        Tokenizer(SPECIALS, words="none")


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_saved_comes_back_bit_for_bit(shared, tmp_path):
    model = translator(shared)
    model.save_pretrained(tmp_path)
    again = Translator.from_pretrained(tmp_path)
    assert again.shared == shared
    assert again.languages == ("up", "down")
    for config_of in (attrgetter("encoder"), attrgetter("decoder")):
        sizes = [config_of(one).to_dict() for one in (model, again)]
        for one in sizes:
            one.pop("architectures")  # of two BERTs alone, and of the halves of one model
        assert sizes[1].items() >= sizes[0].items()
    pairs = zip(named_tensors(model.weights), named_tensors(again.weights), strict=True)
    for (path, tensor), (other_path, other) in pairs:
        assert path == other_path
        assert torch.equal(tensor, other), path
    texts = list(copies(4, 5).sources)
    assert again.translate(texts) == model.translate(texts)


@pytest.mark.parametrize("shared", [True, False])
def test_transformers_opens_it_and_agrees(shared, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = translator(shared)
    model.save_pretrained(tmp_path)
    theirs = transformers.EncoderDecoderModel.from_pretrained(tmp_path).double().eval()
    doubled = {path: x.double() for path, x in named_tensors(model.weights)}
    weights = with_tensors(model.weights, doubled)
    source = collate(model.source.encode(["a b c d", "e"]), [0, 1], 0)
    ids_BT = torch.tensor([[2, 5, 6, 7], [2, 9, 8, 3]])
    expected = theirs(
        input_ids=source.ids_BS, attention_mask=source.keep_BS.long(), decoder_input_ids=ids_BT
    ).logits
    decoder = decoder_of(weights)
    encoded = encode(*source[:3], weights.encoder, model.encoder)
    memory = empty_memory(encoded, source.keep_BS, decoder, model.decoder)
    found, _ = decode(ids_BT, memory, decoder, model.decoder)
    assert distance(found, expected.detach(), expected.abs().max()) <= 1e-12
    theirs.float().save_pretrained(tmp_path / "theirs")
    if shared:  # their folder in ours; their pooler was drawn and is not part of a translator
        model.source.save(tmp_path / "theirs")
        tensors = load_file(tmp_path / "theirs" / "model.safetensors")
        kept = {key: x for key, x in tensors.items() if ".pooler." not in key}
        words = "embeddings.word_embeddings.weight"
        kept[f"decoder.bert.{words}"] = kept[f"encoder.{words}"].clone()
        save_file(kept, tmp_path / "theirs" / "model.safetensors")
        again = Translator.from_pretrained(tmp_path / "theirs")
        assert again.translate(["a b"]) == model.translate(["a b"])


def test_one_vocabulary_may_be_saved_over_two(tmp_path):
    translator(shared=False).save_pretrained(tmp_path)
    translator().save_pretrained(tmp_path)
    assert Translator.from_pretrained(tmp_path).shared


def damaged(folder: Path, change: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    words = "embeddings.word_embeddings.weight"
    match change:
        case "missing":
            del tensors["decoder.bert.encoder.layer.1.crossattention.self.key.bias"]
        case "strange":
            tensors["enc_to_dec_proj.weight"] = torch.ones(2)
        case "unequal":
            tensors[f"decoder.bert.{words}"][0, 0] += 1
        case "nan":
            tensors[f"encoder.{words}"][0, 0] = torch.nan
        case "other":
            values["model_type"] = "t5"
        case "half":
            del values["decoder"]
        case "names":
            values["languages"] = ["up"]
        case "pieces":
            with (folder / "vocab.txt").open("a") as file:
                file.write("more\n")
        case "act":
            values["encoder"]["hidden_act"] = "relu"
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "decoder's cross-attention: missing: .*layer.1.*key.bias"),
        ("strange", "enc_to_dec_proj.weight is of neither encoder nor decoder"),
        ("unequal", "there is one vocabulary, but the two word tables differ"),
        ("nan", r"encoder: not finite \(NaN or infinity\)"),
        ("other", "model_type is 't5', but a translator's is 'encoder-decoder'"),
        ("half", "the config has no decoder"),
        ("names", r"languages is \['up'\], but must be two names"),
        ("pieces", "the vocabulary has 12 pieces, but the model has only 11 word vectors"),
        ("act", "encoder: config: hidden_act is 'relu'"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(change, reason, tmp_path):
    translator().save_pretrained(tmp_path)
    damaged(tmp_path, change)
    with pytest.raises(CheckpointError, match=reason):
        Translator.from_pretrained(tmp_path)


def test_two_widths_are_refused():
    one = tokenizer()
    with pytest.raises(CheckpointError, match=r"encoder is 16 wide and the decoder 8"):
        Translator.from_config(config(11), config(11, hidden_size=8), one, one)


# ------------------------------------------------------------------------------- teacher forcing


def objective(model: Translator, pairs: Pairs, smoothing: float = 0.1) -> TranslationObjective:
    encoded = model.source.encode(pairs.sources), model.target.encode(pairs.targets)
    pads = (model.source.pad_id, model.target.pad_id)
    return TranslationObjective(
        *encoded, 4, 0, pads, torch.device("cpu"), model.encoder, model.decoder, smoothing
    )


def loss_one_by_one(model: Translator, pairs: Pairs, smoothing: float) -> Tensor:
    """By the book, a pair at a time and a word at a time: nothing is padded, nothing is masked."""
    losses = []
    decoder = decoder_of(model.weights)
    for source, target in zip(pairs.sources, pairs.targets, strict=True):
        batch = collate(model.source.encode([source]), [0], 0)
        encoded = encode(*batch, model.weights.encoder, model.encoder)
        memory = empty_memory(encoded, batch.keep_BS, decoder, model.decoder)
        ids = model.target.encode([target])[0].ids
        for given_id, wanted in itertools.pairwise(ids):
            logits, memory = decode(torch.tensor([[given_id]]), memory, decoder, model.decoder)
            losses.append(smoothed_cross_entropy(logits[0], torch.tensor([wanted]), smoothing))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("way", ["book", "torch", "onednn"])
def test_the_loss_is_the_mean_over_the_words_one_by_one(way, shared):
    model, pairs = translator(shared), copies(6, 7)
    with arithmetic(way):
        (loss,) = objective(model, pairs).terms(range(6), model.weights, None).values()
    assert float(loss - loss_one_by_one(model, pairs, 0.1)) == pytest.approx(0, abs=2e-6)


def test_parts_of_a_batch_add_up_to_its_gradient():
    """What counts are words, so parts with few of them weigh little."""
    model, pairs = translator(), copies(7, 8)
    gradients = []
    for accumulate in (1, 3):
        trainable = Trainable(model.weights)
        options = TrainingOptions(accumulate=accumulate)
        accumulate_gradient(objective(model, pairs), range(7), trainable, options, None)
        gradients.append(trainable.gradient_P.clone())
    assert distance(gradients[1], gradients[0], gradients[0].abs().max()) <= 1e-5


def test_a_shared_table_learns_from_all_three_of_its_uses():
    """The gradient of one table is the sum of those that two tables, of equal words, would get."""
    shared, pairs = translator(), copies(5, 9)
    words = shared.weights.encoder.embeddings.word_VD
    tables = shared.weights.decoder.bert.embeddings._replace(word_VD=words.clone())
    apart = shared.weights._replace(
        decoder=shared.weights.decoder._replace(
            bert=shared.weights.decoder.bert._replace(embeddings=tables)
        )
    )
    found = {}
    for name, weights in (("shared", shared.weights), ("apart", apart)):
        trainable = Trainable(weights)
        accumulate_gradient(objective(shared, pairs), range(5), trainable, TrainingOptions(), None)
        found[name] = views_of(trainable.gradient_P, trainable.shapes)
    both = found["apart"].encoder.embeddings.word_VD
    both = both + found["apart"].decoder.bert.embeddings.word_VD
    one = found["shared"].encoder.embeddings.word_VD
    assert distance(one, both, both.abs().max()) <= 1e-5
    assert float(found["apart"].encoder.embeddings.word_VD.abs().max()) > 0


def test_in_half_precision_the_kernel_decodes_nearly_as_the_book_does():
    """That it is the book's in float32 is a matter of laws: test_kernels_decoder.py."""
    model = translator()
    decoder = decoder_of(model.weights)
    source = collate(model.source.encode(["a b c d e", "f"]), [0, 1], 0)
    encoded = encode(*source[:3], model.weights.encoder, model.encoder)
    memory = empty_memory(encoded, source.keep_BS, decoder, model.decoder)
    ids_BS = torch.tensor([[2, 5, 6], [2, 7, 3]])
    exact, _ = decode(ids_BS, memory, decoder, model.decoder)
    rounded = kernels.prepared(decoder, torch.bfloat16)
    memory = kernels.empty_memory(encoded.bfloat16(), source.keep_BS, rounded, model.decoder)
    found, _ = kernels.decode(ids_BS, memory, rounded, model.decoder)
    assert found.dtype == torch.bfloat16
    assert distance(found.float(), exact, exact.abs().max()) <= 0.2


# --------------------------------------------------------------------------------------- learning


@pytest.fixture(scope="module")
def copier(tmp_path_factory) -> Path:
    """A folder with a translator that has learned to copy."""
    folder = tmp_path_factory.mktemp("copier")
    model = translator(hidden_size=32, intermediate_size=64, initializer_range=0.05)
    options = TrainingOptions(epochs=8, lr=5e-3)
    train_set, dev_set = copies(1500, 11), copies(60, 12)
    learn_to_translate(
        model, train_set, dev_set, folder, options, 32, 24, 0.0, Display(quiet=True)
    )
    return folder


def test_a_small_one_learns_to_copy_without_a_mistake(copier):
    model, unseen = Translator.from_pretrained(copier), copies(100, 13)
    for width in (1, 4):
        assert [one.text for one in model.translate(unseen.sources, width)] == list(unseen.targets)
    assert scores(model, unseen)["bleu"] == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_scores_are_those_of_the_words_that_were_written(copier, alpha):
    """The score of a translation is its teacher-forced log-probability, over the penalty."""
    model = Translator.from_pretrained(copier)
    decoder = decoder_of(model.weights)
    for text in copies(5, 15).sources:
        (found,) = model.translate([text], width=3, alpha=alpha)
        ids = [model.target.cls_id, *found.ids, model.target.sep_id]
        batch = collate(model.source.encode([text]), [0], 0)
        encoded = encode(*batch, model.weights.encoder, model.encoder)
        memory = empty_memory(encoded, batch.keep_BS, decoder, model.decoder)
        logits, _ = decode(torch.tensor([ids[:-1]]), memory, decoder, model.decoder)
        log_p = log_softmax(logits[0])[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
        expected = float(log_p.sum()) / length_penalty(len(ids) - 1, alpha)
        assert found.score == pytest.approx(expected, abs=1e-4)


def test_a_batch_translates_as_each_text_alone(copier):
    """Also an untrained one, whose texts have no end and are cut."""
    unseen = copies(9, 14)
    for model in (Translator.from_pretrained(copier), translator(), translator(shared=False)):
        together = model.translate(unseen.sources)
        for text, found in zip(unseen.sources, together, strict=True):
            (alone,) = model.translate([text])
            assert alone.text == found.text
            assert alone.score == pytest.approx(found.score, abs=1e-3)


def test_each_word_asks_the_word_that_it_copies(copier):
    ids = tokenizer().encode(["a b c d"])[0].ids[1:-1]
    asked = Translator.from_pretrained(copier).asked("a b c d", ids)
    assert asked.source == ["[CLS]", "a", "b", "c", "d", "[SEP]"]
    assert asked.target == ["a", "b", "c", "d", "[SEP]"]
    assert asked.shares_LNSR.shape == (2, 2, 5, 6)
    assert distance(asked.shares_LNSR.sum(-1), torch.ones(2, 2, 5)) <= 1e-5


def test_the_signatures_say_how_bleu_was_computed():
    assert "tok:13a" in signatures("de")["bleu"]
    assert "case:mixed" in signatures("de")["bleu"]
    assert "nc:6" in signatures("de")["chrf"]


@pytest.mark.parametrize(
    ("language", "words"),
    [("zh", "zh"), ("zh-CN", "zh"), ("ja", "char"), ("thing", "13a"), ("target", "13a")],
)
def test_languages_without_spaces_are_measured_in_letters(language, words):
    assert f"tok:{words}" in signatures(language)["bleu"]


def test_a_text_that_is_half_right_has_the_same_bleu_in_chinese():
    """Between spaces alone it would be one wrong word."""
    model = dataclasses.replace(translator(), languages=("en", "zh"))
    pairs = Pairs(Path(), ("a",), ("我喜欢猫和狗",))
    said = [Translation("我喜欢猫和鸟", 0.0, [])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translator, "translate", lambda *_, **__: said)
        assert scores(model, pairs)["bleu"] > 0.7
        assert scores(dataclasses.replace(model, languages=("en", "de")), pairs)["bleu"] == 0


# --------------------------------------------------------------------------------------- starting


def test_a_bert_can_begin_the_encoder_and_the_decoder(tmp_path):
    import tiny

    bert = tiny.classifier()
    bert.save_pretrained(tmp_path)
    pairs = Pairs(Path("some"), ("the film was good", "the plot"), ("der Film", "die Handlung"))
    beginning = Beginning(str(tmp_path), None, 60, "separate", True, None, 20, 1)
    model = new_translator(beginning, pairs, ("en", "de"))
    own, written = model.weights.encoder, model.weights.decoder.bert
    assert torch.equal(own.embeddings.word_VD, bert.weights.embeddings.word_VD)
    assert own.pooler is None
    for mine, theirs in zip(named_tensors(written.blocks), named_tensors(bert.weights.blocks),
                            strict=True):  # fmt: skip
        assert torch.equal(mine[1], theirs[1]), mine[0]
    assert not model.shared
    assert model.encoder.hidden_dropout_prob == bert.config.hidden_dropout_prob
    fresh = new_translator(dataclasses.replace(beginning, as_encoder=False), pairs, ("en", "de"))
    assert not torch.equal(
        fresh.weights.decoder.bert.blocks[0].output.weight_OI,
        bert.weights.blocks[0].output.weight_OI,
    )
    with pytest.raises(CheckpointError, match="to copy its layers, the shapes must be equal"):
        new_translator(dataclasses.replace(beginning, shape="1x12x3"), pairs, ("en", "de"))
    with pytest.raises(CheckpointError, match="encoder is 12 wide and the decoder 8"):
        new_translator(
            dataclasses.replace(beginning, shape="1x8x2", as_encoder=False), pairs, ("en", "de")
        )


def test_a_bert_that_lost_heads_reads_for_a_decoder_but_gives_it_no_layers(tmp_path):
    import tiny

    config = tiny.config(pruned=Pruned(((0, 2), (1,)), (17, 5)))
    bert = Bert.from_config(config, "classification", tiny.tokenizer())
    bert.save_pretrained(tmp_path / "bert")
    pairs = Pairs(Path("some"), ("the film was good", "the plot"), ("der Film", "die Handlung"))
    beginning = Beginning(str(tmp_path / "bert"), None, 60, "separate", False, None, 20, 1)
    model = new_translator(beginning, pairs, ("en", "de"))
    model.save_pretrained(tmp_path / "translator")
    again = Translator.from_pretrained(tmp_path / "translator")
    assert again.encoder.heads_and_units == ((2, 17), (1, 5))
    found = [one.translate(["the film"], 2) for one in (model, again)]
    assert found[0] == found[1]
    with pytest.raises(CheckpointError, match="the encoder is pruned, so its layers"):
        new_translator(dataclasses.replace(beginning, as_encoder=True), pairs, ("en", "de"))


# --------------------------------------------------------------------------------------- commands


@pytest.fixture
def pairs_folder(tmp_path) -> Path:
    return write_pairs(tmp_path / "data", copies(40, 1), copies(8, 2))


LEARN = (
    "--task translation --languages up-down --shape 1x16x2 --vocab-size 100 --epochs 1 --lr 0.01"
)


def test_a_translation_is_learned_measured_and_used(minibert, pairs_folder, tmp_path):
    out = tmp_path / "run"
    answer = minibert(f"finetune {LEARN} --data {pairs_folder} --out {out} --json")
    assert answer.code == 0, answer.err
    assert answer.document["task"] == "translation"
    assert set(answer.document["metrics"]) == {"bleu", "chrf"}
    again = minibert(f"finetune {LEARN} --data {pairs_folder} --out {out} --json --resume")
    assert again.document == answer.document
    assert shape_of(answer.document) == shape_of(
        documented("finetune") | {"signatures": documented("evaluate", 1)["signatures"],
                                  "metrics": documented("evaluate", 1)["metrics"]}
    )  # fmt: skip
    measured = minibert(
        f"evaluate --task translation --data {pairs_folder} --model {out} "
        "--beam 1 --json"
    )
    assert measured.document["metrics"] == answer.document["metrics"]
    assert shape_of(measured.document) == shape_of(documented("evaluate", 1))
    assert "version" in measured.document["signatures"]["bleu"]
    said = minibert(f"translate --model {out} --json", "a b", "c d e")
    assert shape_of(said.document) == shape_of(documented("translate"))
    assert [row["text"] for row in said.document["translations"]] == ["a b", "c d e"]
    (tmp_path / "texts").write_text("a b\nc d e\n")
    lines = minibert(f"translate --model {out} --file {tmp_path / 'texts'}").out.splitlines()
    assert lines == [row["translation"] for row in said.document["translations"]]


def test_a_sparse_translator_is_packed_and_comes_back_bit_for_bit(minibert, tmp_path):
    model = translator(hidden_size=32, intermediate_size=64)
    for _, tensor in named_tensors(model.weights):
        if tensor.dim() == 2:
            tensor[torch.rand(tensor.shape) < 0.8] = 0.0
    model.save_pretrained(tmp_path / "full")
    answer = minibert(f"export --model {tmp_path}/full --out {tmp_path}/small --packed --json")
    assert answer.document["sparse"]["packed"] < answer.document["sparse"]["full"]
    small = tmp_path / "small" / "model.packed.safetensors"
    assert small.stat().st_size < (tmp_path / "full" / "model.safetensors").stat().st_size / 2
    again = Translator.from_pretrained(tmp_path / "small")
    for (path, one), (_, other) in zip(
        named_tensors(again.weights), named_tensors(model.weights), strict=True
    ):
        assert torch.equal(one, other), path
    assert minibert(f"export --model {tmp_path}/small --out {tmp_path}/again").code == 0
    files = [tmp_path / folder / "model.safetensors" for folder in ("full", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_translator_whose_encoder_lost_a_head_gets_it_back_as_zeros(minibert, tmp_path):
    like = config(11)
    lost = dataclasses.replace(like, pruned=Pruned(((0,), (0, 1)), (24, 23)))
    source = tokenizer()
    model = Translator.from_config(lost, like, source, source, seed=3)
    model.save_pretrained(tmp_path / "lost")
    answer = minibert(f"export --model {tmp_path}/lost --out {tmp_path}/dense --dense")
    assert answer.code == 0, answer.err
    dense = Translator.from_pretrained(tmp_path / "dense")
    assert dense.encoder.pruned is None
    assert dense.weights.encoder.blocks[0].attention.query.weight_OI.shape == (16, 16)
    texts = ["a b", "f e d"]
    said = [one.translate(texts, 1) for one in (model, dense)]
    assert [one.text for one in said[0]] == [one.text for one in said[1]]


def test_a_resumed_run_needs_the_texts_that_it_began_with(minibert, pairs_folder, tmp_path):
    """Other texts make another vocabulary, in which its weights would mean nothing."""
    line = f"finetune {LEARN} --data {pairs_folder} --out {tmp_path}/run"
    assert minibert(line).code == 0
    path = pairs_folder / "train.up"
    path.write_text(path.read_text().replace("a", "b"))
    answer = minibert(line + " --resume")
    assert answer.code == 2
    assert "was made with a hash of train = '" in answer.said


def test_words_without_pieces_are_counted(minibert, pairs_folder, tmp_path):
    """Over 100 letters without a space are one [UNK], as in BERT, and no [UNK] is ever written."""
    for language in ("up", "down"):
        with (pairs_folder / f"train.{language}").open("a") as file:
            file.write("a" * 101 + "\n")
    answer = minibert(f"finetune {LEARN} --data {pairs_folder} --out {tmp_path}/run")
    assert answer.code == 0
    assert "1 texts of the target language hold [UNK], a word with" in answer.err


@pytest.mark.parametrize("shared", [True, False])
def test_a_translator_comes_from_the_hub_with_its_vocabularies(shared, tmp_path, monkeypatch):
    """Only what is asked for is fetched, so it has to ask for the folders of two vocabularies."""
    saved = translator(shared)
    saved.save_pretrained(tmp_path / "there")

    def download(model_id: str, allow_patterns: list[str], local_files_only: bool) -> str:
        for path in (tmp_path / "there").rglob("*.*"):
            name = path.relative_to(tmp_path / "there")
            if any(fnmatch(str(name), pattern) for pattern in allow_patterns):
                (tmp_path / model_id / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / model_id / name)
        return str(tmp_path / model_id)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    found = Translator.from_pretrained("owner/model")
    assert (found.source.pieces, found.target.pieces) == (saved.source.pieces, saved.target.pieces)
    assert found.translate(["a b c"], 1)[0].text == saved.translate(["a b c"], 1)[0].text


def test_a_shape_is_no_file(tmp_path):
    beginning = Beginning(shape="config.json")
    with pytest.raises(CheckpointError, match=r"^'config.json' is no shape; write LxD"):
        new_translator(beginning, copies(20, 1), ("up", "down"))


def test_every_map_of_the_blocks_becomes_sparse_also_of_cross_attention():
    model = translator()
    trainable = trainable_for(model.weights, "cpu", Sparsity(0.5), 100)
    for _ in range(70):
        trainable.gradient_P.normal_()
        trainable.update(1e-3, adam_form("adamw"))
    halved = {
        name.partition(".attention")[0]
        for name, x in named_tensors(trainable.finished_weights())
        if name.endswith("weight_OI") and int((x == 0).sum()) == x.numel() // 2
    }
    assert halved >= {"encoder.blocks.0", "decoder.bert.blocks.1", "decoder.cross.1"}


def test_pairs_that_are_too_long_are_left_out(minibert, pairs_folder, tmp_path):
    for language in ("up", "down"):
        with (pairs_folder / f"train.{language}").open("a") as file:
            file.write(language + " a" * 30 + "\n")
    line = f"finetune {LEARN} --max-length 24 --data {pairs_folder}"
    answer = minibert(f"{line} --out {tmp_path}/run")
    assert (answer.code, "1 pairs are left out: more than 24 tokens" in answer.err) == (0, True)
    for language in ("up", "down"):
        (pairs_folder / f"train.{language}").write_text("a " * 30 + "\n")
    answer = minibert(f"{line} --out {tmp_path}/other")
    assert (answer.code, "every pair has more than 24 tokens" in answer.said) == (3, True)


@pytest.mark.parametrize(
    "line",
    ["predict --model {} x", "fill-mask --model {} [MASK]", "inspect {}", "explain --model {} x"],
)
def test_a_translator_is_no_bert(line, minibert, tmp_path):
    translator().save_pretrained(tmp_path)
    answer = minibert(line.format(tmp_path))
    assert (answer.code, "is a translator, not a BERT" in answer.said) == (3, True), answer.err


def test_dev_texts_that_are_too_long_are_refused_before_anything_is_learned(
    minibert, pairs_folder, tmp_path
):
    tiny.classifier(max_position_embeddings=20).save_pretrained(tmp_path / "bert")
    with (pairs_folder / "val.up").open("a") as file:
        file.write("a " * 30 + "\n")
    with (pairs_folder / "val.down").open("a") as file:
        file.write("a\n")
    answer = minibert(
        f"finetune --task translation --languages up-down --data {pairs_folder} --epochs 1 "
        f"--model {tmp_path}/bert --vocab-size 100 --out {tmp_path}/run"
    )
    assert answer.code == 3
    assert "a text has 32 tokens, but the model has only" in answer.said
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_too_long_is_refused(minibert, tmp_path):
    translator().save_pretrained(tmp_path)
    answer = minibert(f"translate --model {tmp_path}", "a b", "a " * 23)
    assert (answer.code, answer.said) == (
        3, "text 2 has 25 tokens, but the model has only 24 positions; give it sentence by sentence"
    )  # fmt: skip
    assert minibert(f"translate --model {tmp_path}", "a " * 22).code == 0


def test_a_sparse_translator_is_told_of_and_so_are_zeros_lost(minibert, pairs_folder, tmp_path):
    line = f"finetune {LEARN} --data {pairs_folder} --epochs 1 --limit 8"
    answer = minibert(f"{line} --sparsity 0.8 --out {tmp_path}/sparse")
    assert answer.code == 0
    assert " weights are 0; " in answer.err
    answer = minibert(f"{line} --out {tmp_path}/dense")
    assert "weights are 0" not in answer.err
    bert = tiny.classifier()
    bert.weights.blocks[0].output.weight_OI.data[:] = 0.0
    bert.save_pretrained(tmp_path / "bert")
    answer = minibert(
        f"finetune --task translation --data {pairs_folder} --model {tmp_path}/bert --limit 8 "
        f"--max-length 16 --epochs 1 --out {tmp_path}/begun"
    )
    assert "training without --sparsity will change them" in answer.err


def test_a_translator_gets_epochs_and_a_rate_of_its_own(minibert, pairs_folder, tmp_path):
    """And --help says them; what is said counts."""
    line = f"finetune --task translation --data {pairs_folder} --shape 1x8x2 --vocab-size 100"
    assert minibert(f"{line} --lr 0.01 --limit 8 --out {tmp_path}/run").code == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["lr"] == 0.01
    told = f"--epochs {record['epochs']} --batch-size {record['batch_size']} --lr 0.002, or 0.0005"
    assert told in " ".join(minibert("finetune --help").out.split())
    assert (record["epochs"], record["batch_size"]) == (44, 128)
    tiny.classifier().save_pretrained(tmp_path / "bert")
    line = f"finetune --task translation --data {pairs_folder} --model {tmp_path}/bert --limit 8"
    assert minibert(f"{line} --max-length 16 --epochs 1 --out {tmp_path}/begun").code == 0
    assert json.loads((tmp_path / "begun" / "run.json").read_text())["lr"] == 0.0005


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("finetune --task translation --data D", 3, "D"),
        ("finetune --task translation --data .", 3, "train.tsv"),
        (f"finetune {LEARN} --data . --languages en-pt-BR", 2, "FROM:TO where a name has a hyphen"),
        (f"finetune {LEARN} --data . --languages en:../de", 2, "is not two languages"),
        ("finetune --task translation --data D --languages en", 2, "'en' is not two languages"),
        ("finetune --task translation --data D --languages en-en", 2, "is not two languages"),
        ("finetune --data D", 2, "name the model to train with --model"),
        ("finetune --data D --model M --shape 1x8", 2, "--shape is only for --task translation"),
        (f"finetune {LEARN} --data D --decoder encoder", 2, "--decoder encoder needs --model"),
        (f"finetune {LEARN} --data D --model M --vocabulary shared", 2, "does not go with --model"),
        (f"finetune {LEARN} --data nowhere", 3, "nowhere"),
        (f"finetune {LEARN} --data p.tsv", 2, "is one file; name the dev file with --dev"),
        ("translate --model nowhere x --length-penalty 1000", 2, "is not in the range"),
        ("translate --model nowhere x --beam 1000000", 2, "is not in the range"),
        ("translate --model nowhere \udcff", 2, "text 1 is not UTF-8"),
        ("translate --model nowhere x", 3, "nowhere"),
        ("translate --model nowhere", 2, "give texts as arguments, or --file"),
        ("translate --model M x --attention a.gif", 2, "must end in .svg or .png"),
        ("translate --model M x --attention no/such/a.svg", 2, "there is no such folder"),
    ],
)
def test_what_cannot_be_done_is_said(line, code, reason, minibert, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.tsv").write_text("up\tdown\na\tb\n")
    answer = minibert(line)
    assert answer.code == code
    assert reason in answer.said


def test_a_picture_of_two_texts_is_not_drawn(minibert):
    pytest.importorskip("matplotlib")
    answer = minibert("translate --model M x y --attention a.svg")
    assert answer.code == 2
    assert "--attention draws one text" in answer.err



def test_attention_is_drawn(minibert, copier, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("picture.svg", "picture.png"):
        answer = minibert(f"translate --model {copier} --attention {tmp_path / name}", "a b c")
        assert (answer.code, answer.out) == (0, "a b c\n")
    text = (tmp_path / "picture.svg").read_text()
    for written in ("layer 1", "layer 2", "[CLS]", "share, mean over the heads"):
        assert written in text
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_leaves_one_document(minibert, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.svg")

    translator().save_pretrained(tmp_path / "model")
    monkeypatch.setattr("minibert.pictures.save_cross_attention", full)
    answer = minibert("translate --model model --attention a.svg --json", "a b")
    assert (answer.code, "No space left" in answer.document["error"]) == (1, True)
