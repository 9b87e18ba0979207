"""The fast tokenizer: equal to transformers and to our own WordPiece, and strict about files."""

import json
import os

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from minibert import wordpiece
from minibert.config import CheckpointError
from minibert.data.tokenizer import SPECIALS, Tokenizer

PIECES = (
    *SPECIALS, "the", "cat", "##s", "##at", "sat", "c", "s", "u", "##n", ",", ".", "!", "naive",
    "naïve", "日", "本", "##本",
)  # fmt: skip
WORDS = st.sampled_from(
    ["the", "Cats", "CAT", "sat", "Naïve", "sun", "日本", "[MASK]", ",", ".", "\u00a0", "\t", "?"]
)
SENTENCES = st.lists(WORDS, max_size=12).map(" ".join) | st.lists(WORDS, max_size=5).map("".join)


@pytest.fixture
def folder(tmp_path):
    Tokenizer.from_vocabulary(PIECES).save(tmp_path)
    return tmp_path


def edited(folder, change):
    """The folder with only a tokenizer.json, which `change` has edited."""
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    change(stored)
    path.write_text(json.dumps(stored))
    return folder


@given(SENTENCES, st.booleans())
def test_ids_equal_those_of_our_own_wordpiece(text, lowercase):
    tokenizer = Tokenizer.from_vocabulary(PIECES, lowercase)
    by_hand = wordpiece.encode(text, tokenizer.vocabulary, lowercase)
    expected = [tokenizer.cls_id, *(token.id for token in by_hand), tokenizer.sep_id]
    assert tokenizer.encode([text])[0].ids == expected


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("name", ["AutoTokenizer", "BertTokenizerFast"])
def test_transformers_opens_a_saved_folder_with_equal_ids(tmp_path, name, lowercase):
    transformers = pytest.importorskip("transformers", reason="the oracle is in the extra [test]")
    ours = Tokenizer.from_vocabulary(PIECES, lowercase)
    ours.save(tmp_path, max_length=9)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    first, second = ["Naïve cats sat, cat", "日本 [MASK] the"], ["CAT!", "the sun sat. The sun"]
    for pair, length in (((first,), None), ((first, second), None), ((first, second), 9)):
        expected = theirs(*pair, truncation=length is not None)
        encodings = ours.encode(*pair, max_length=length)
        assert [e.ids for e in encodings] == expected["input_ids"]
        assert [e.types for e in encodings] == expected["token_type_ids"]
    assert theirs.mask_token_id == ours.mask_id
    assert theirs.model_max_length == 9


@pytest.mark.real
def test_real_sentences_equal_transformers(data_dir):
    transformers = pytest.importorskip("transformers", reason="the oracle is in the extra [test]")
    pieces = (data_dir / "bert-base-uncased-vocab.txt").read_text().split("\n")[:-1]
    ours = Tokenizer.from_vocabulary(pieces)
    theirs = transformers.BertTokenizerFast(vocab=ours.vocabulary)
    rows = (data_dir / "mrpc" / "dev.tsv").read_text(encoding="utf-8-sig").split("\n")[1:-1]
    first, second = ([row.split("\t")[column] for row in rows] for column in (3, 4))
    encodings = ours.encode(first, second, max_length=32)
    expected = theirs(first, second, truncation=True, max_length=32)
    assert len(encodings) == 408
    assert [e.ids for e in encodings] == expected["input_ids"]


@pytest.mark.real
def test_a_stored_padding_and_truncation_do_not_count(teacher_dir, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((teacher_dir / name).read_bytes())
    stored = json.loads((tmp_path / "tokenizer.json").read_text())
    assert stored["padding"] is not None
    assert stored["truncation"]["max_length"] == 128
    texts = ["short", "long " * 300]
    encodings = Tokenizer.from_folder(tmp_path).encode(texts)
    assert encodings == Tokenizer.from_folder(teacher_dir).encode(texts)
    assert [len(e.ids) for e in encodings] == [3, 302]


@pytest.mark.parametrize("kept", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize(
    "settings", [(True, None, True), (False, True, False), (True, False, True)]
)
def test_either_file_alone_gives_the_saved_tokenizer_back(tmp_path, kept, settings):
    saved = Tokenizer(PIECES, *settings)
    saved.save(tmp_path)
    (tmp_path / {"vocab.txt": "tokenizer.json", "tokenizer.json": "vocab.txt"}[kept]).unlink()
    read = Tokenizer.from_folder(tmp_path)
    texts = ["Naïve cat", "日本日", "naïve Cats"]
    assert read.pieces == saved.pieces
    assert (read.lowercase, read.strip_accents, read.split_chinese) == settings
    assert read.encode(texts) == saved.encode(texts)


def test_settings_change_the_ids():
    texts = ["Naïve", "日本"]
    ids = {
        settings: [e.ids[1:-1] for e in Tokenizer(PIECES, *settings).encode(texts)]
        for settings in ((True, None, True), (True, False, True), (False, None, False))
    }
    naive, accented, unknown = map(PIECES.index, ("naive", "naïve", "[UNK]"))
    day, origin, inside = map(PIECES.index, ("日", "本", "##本"))
    assert ids[True, None, True] == [[naive], [day, origin]]
    assert ids[True, False, True] == [[accented], [day, origin]]
    assert ids[False, None, False] == [[unknown], [day, inside]]


def test_an_unsaid_case_is_told_by_the_vocabulary(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.from_folder(folder).lowercase
    (folder / "vocab.txt").write_text("\n".join([*PIECES, "Paris"]))
    assert not Tokenizer.from_folder(folder).lowercase
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert Tokenizer.from_folder(folder).lowercase


def test_an_older_form_of_the_same_template_is_accepted(folder):
    def change(stored):
        stored["post_processor"] = {
            "type": "BertProcessing",
            "sep": ["[SEP]", 3],
            "cls": ["[CLS]", 2],
        }

    read = Tokenizer.from_folder(edited(folder, change))
    assert read.encode(["the"], ["cat"])[0].ids == [2, 5, 3, 6, 3]


@given(
    st.integers(0, 12), st.integers(0, 12), st.integers(5, 20)
)  # words of one piece each, so lengths are known
def test_truncation_cuts_the_longer_text_and_no_more_than_needed(first, second, max_length):
    tokenizer = Tokenizer.from_vocabulary(PIECES)
    encoding = tokenizer.encode(["the " * first], ["sat " * second], max_length)[0]
    kept = [encoding.ids.count(PIECES.index(word)) for word in ("the", "sat")]
    assert sum(kept) == min(first + second, max_length - 3)
    assert encoding.types == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
    for own, before, other in ((kept[0], first, kept[1]), (kept[1], second, kept[0])):
        assert own == before or own >= other - 1
    single = tokenizer.encode(["the " * first], None, max_length)[0]
    assert len(single.ids) == min(first + 2, max_length)


def test_a_truncation_does_not_outlive_its_call(tmp_path):
    tokenizer = Tokenizer.from_vocabulary(PIECES)
    assert len(tokenizer.encode(["the " * 9], None, 4)[0].ids) == 4
    assert len(tokenizer.encode(["the " * 9])[0].ids) == 11
    tokenizer.encode(["the " * 9], None, 4)
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None


def test_calls_that_cannot_mean_anything_are_refused():
    tokenizer = Tokenizer.from_vocabulary(PIECES)
    with pytest.raises(ValueError, match="max_length is 2, but must be at least 3"):
        tokenizer.encode(["the"], None, 2)
    with pytest.raises(ValueError, match="max_length is 4, but must be at least 5"):
        tokenizer.encode(["the"], ["cat"], 4)
    with pytest.raises(TypeError, match="list of texts"):
        tokenizer.encode("the cat")
    with pytest.raises(ValueError, match="shorter"):
        tokenizer.encode(["the", "cat"], ["cat"])
    with pytest.raises(ValueError, match="surrogate"):
        tokenizer.encode(["\ud800"])


def test_specials_have_their_ids_and_decode_drops_them():
    tokenizer = Tokenizer.from_vocabulary(PIECES)
    specials = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id)
    assert (*specials, tokenizer.mask_id) == (0, 1, 2, 3, 4)
    ids = tokenizer.encode(["The cats [MASK] sat"])[0].ids
    assert tokenizer.decode(ids) == "the cats sat"
    assert tokenizer.decode(ids, skip_specials=False) == "[CLS] the cats [MASK] sat [SEP]"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[PAD]\n[UNK]\n\n[CLS]", r"vocab\.txt.*line 3 is empty"),
        ("[PAD]\n[UNK]\na\n[UNK]\n", r"vocab\.txt.*line 4 repeats '\[UNK\]' of line 2"),
        ("[PAD]\n[UNK]\n[CLS]\na\n", r"vocab\.txt.*lacks \[SEP\], \[MASK\]"),
        (b"[PAD]\n[UNK]\n\xff\n", r"vocab\.txt, line 3: not UTF-8"),
    ],
)
def test_a_damaged_vocabulary_is_told_with_its_line(folder, content, message):
    (folder / "vocab.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(folder)


CHANGES = {
    "bpe": (
        lambda s: s.update(json.loads(tokenizers.Tokenizer(models.BPE()).to_str())),
        "model is BPE, but minibert reads only WordPiece",
    ),
    "no model": (lambda s: s.pop("model"), "library refuses it: Model missing"),
    "prefix": (lambda s: s["model"].update(continuing_subword_prefix="@@"), "the model is .*@@"),
    "word length": (lambda s: s["model"].update(max_input_chars_per_word=9), "the model is .*9"),
    "gap in ids": (lambda s: s["model"]["vocab"].update(extra=99), "ids must be 0, 1, 2"),
    "id a string": (lambda s: s["model"]["vocab"].update(the="5"), "library refuses it"),
    "normalizer": (lambda s: s.update(normalizer={"type": "NFC"}), "the normalizer is .*NFC"),
    "no normalizer": (lambda s: s.update(normalizer=None), "the normalizer is null"),
    "words": (lambda s: s.update(pre_tokenizer={"type": "Whitespace"}), "the pre_tokenizer is"),
    "template": (lambda s: s["post_processor"]["single"].pop(), "the post_processor is"),
    "no specials": (lambda s: s["model"]["vocab"].pop("[MASK]"), "ids must be 0, 1, 2"),
    "added": (
        lambda s: s["added_tokens"].append({**s["added_tokens"][0], "id": 5, "content": "the"}),
        "adds the, which BERT does not have",
    ),
    "unreadable": (lambda s: s["added_tokens"].append(7), "tokenizers library refuses it"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_tokenizer_json_of_another_kind_is_refused_in_words(folder, case):
    change, message = CHANGES[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_folder(edited(folder, change))
    assert str(folder) in str(caught.value)


def test_missing_and_broken_files_are_refused_in_words(tmp_path):
    with pytest.raises(CheckpointError, match="not a folder"):
        Tokenizer.from_folder(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"neither vocab\.txt nor tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    for content in ("{", "[]", "7"):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json.*library refuses it"):
            Tokenizer.from_folder(tmp_path)
    Tokenizer.from_vocabulary(PIECES).save(tmp_path)
    for content, message in (
        ("[]", "not a JSON object"),
        ('{"strip_accents": 1}', "true or false"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(CheckpointError, match=message):
            Tokenizer.from_folder(tmp_path)
    with pytest.raises(CheckpointError, match="line break"):
        Tokenizer.from_vocabulary([*SPECIALS, "a\nb"])


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_files(folder, monkeypatch, step):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        Tokenizer.from_vocabulary([*SPECIALS, "new"]).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
