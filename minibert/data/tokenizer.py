"""The fast tokenizer: BERT's WordPiece through the `tokenizers` library, for whole corpora.

`minibert/wordpiece.py` is the same algorithm written to be read; a test checks that both agree. A
model folder is read from `vocab.txt` or else from `tokenizer.json`, and written as both.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from minibert.config import CheckpointError
from minibert.files import read_json
from minibert.wordpiece import CHINESE, SPECIALS, read_vocabulary
from minibert.writing import whole_file

CLASSES = {"bert": "BertTokenizer", "spaces": "PreTrainedTokenizerFast"}  # of `transformers`
AROUND_CHINESE = re.compile(f"(?<={CHINESE.pattern}) | (?={CHINESE.pattern})")
TEMPLATE_SINGLE = "[CLS]:0 $A:0 [SEP]:0"
TEMPLATE_PAIR = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"


class Encoding(NamedTuple):
    """One input of BERT, not padded: token ids, and token types, 0 (first) or 1 (second)."""

    ids: list[int]
    types: list[int]


class Tokenizer:
    """A vocabulary and four settings; everything else about BERT's tokenizer is fixed.

    `strip_accents` None follows `lowercase`, which is the rule of the original BERT. `words` "bert"
    splits words at spaces and around punctuation; "spaces" only at spaces, so that punctuation is
    part of its word, and `decode` adds no space where there was none, and none around Chinese
    characters: text that a model writes, and not only reads, needs that.

    >>> tokenizer = Tokenizer.from_vocabulary([*SPECIALS, "hugging", "face", "##s"])
    >>> tokenizer.encode(["Hugging faces"], ["face"])
    [Encoding(ids=[2, 5, 6, 7, 3, 6, 3], types=[0, 0, 0, 0, 0, 1, 1])]
    """

    def __init__(
        self,
        pieces: Iterable[str],
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        words: str = "bert",
    ) -> None:
        if words not in CLASSES:
            raise ValueError(f"words is {words!r}, but must be one of {tuple(CLASSES)}")
        self.words = words
        self.pieces = tuple(pieces)
        # The check goes through the form of a file, so that what is accepted can also be saved.
        self.vocabulary = read_vocabulary("\n".join(self.pieces) + "\n")
        if tuple(self.vocabulary) != self.pieces:
            raise CheckpointError("the vocabulary has a piece with a line break; remove it")
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split_chinese = split_chinese
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self.vocabulary[special] for special in SPECIALS
        )
        self._fast = tokenizers.Tokenizer(models.WordPiece(self.vocabulary, unk_token="[UNK]"))
        self._fast.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=split_chinese,
            strip_accents=strip_accents,
            lowercase=lowercase,
        )
        self._fast.pre_tokenizer = _pre_tokenizer(words)
        self._fast.post_processor = processors.TemplateProcessing(
            single=TEMPLATE_SINGLE,
            pair=TEMPLATE_PAIR,
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        # Between whole words nothing is lost, so there is nothing to clean up.
        self._fast.decoder = decoders.WordPiece(prefix="##", cleanup=words == "bert")
        self._fast.add_special_tokens(list(SPECIALS))

    @classmethod
    def trained(
        cls, texts: Sequence[str], size: int, lowercase: bool = False, words: str = "spaces"
    ) -> "Tokenizer":
        """A vocabulary of `size` frequent pieces of the texts, or fewer if there are not so many.

        It is larger than `size` if having every letter of the texts takes more. The trainer of the
        `tokenizers` library joins the most frequent pairs, as byte-pair encoding does. Among
        equally frequent pairs it takes the one with the lowest ids, and it numbers the letters at
        random; so they are collected first, and numbered here.
        """
        blank = cls(SPECIALS, lowercase, None, True, words)
        vocabulary = {piece: number for number, piece in enumerate(SPECIALS)}
        for enough in (0, size):  # letters alone; then also what is joined from them
            letters = sorted(vocabulary.keys() - set(SPECIALS))
            trainer = trainers.WordPieceTrainer(
                vocab_size=enough,
                special_tokens=[*SPECIALS, *letters],
                show_progress=False,
                limit_alphabet=sys.maxunicode + 1,
                min_frequency=2,
            )
            blank._fast.train_from_iterator(texts, trainer)
            vocabulary = blank._fast.get_vocab()
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
        return cls(pieces, lowercase, None, True, words)

    @classmethod
    def from_vocabulary(cls, pieces: Iterable[str], lowercase: bool = True) -> "Tokenizer":
        """A tokenizer whose ids are the places in `pieces`, which must hold the five specials."""
        return cls(pieces, lowercase)

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Tokenizer":
        """Read `vocab.txt`, or `tokenizer.json` where there is none, and `tokenizer_config.json`.

        Padding and truncation settings in a tokenizer.json are ignored: a batch is padded when it
        is made, and `encode` is told where to cut.

        Raises
            CheckpointError  a file is missing or damaged, or asks for another tokenizer.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder, but a model folder is needed")
        listed, whole, config = (
            folder / name for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
        )
        stored = _description(whole) if whole.exists() else {}
        if listed.exists():
            pieces = _read_vocabulary_file(listed)
        elif whole.exists():
            pieces = _pieces_of(stored, whole)
        else:
            raise CheckpointError(f"{folder}: neither vocab.txt nor tokenizer.json is there")
        settings = _settings(pieces, read_json(config) if config.exists() else {}, stored, folder)
        try:
            tokenizer = cls(pieces, *settings)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        if not listed.exists():
            _refuse_other_steps(stored, tokenizer, whole)
        return tokenizer

    def save(self, folder: str | Path, max_length: int | None = None) -> None:
        """Write vocab.txt, tokenizer.json and tokenizer_config.json, as `transformers` reads them.

        `max_length`, the position rows of the model, tells `transformers` where to cut texts.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": CLASSES[self.words],
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.split_chinese,
        }
        config |= {f"{special[1:-1].lower()}_token": special for special in SPECIALS}
        if max_length is not None:
            config["model_max_length"] = max_length
        self._fast.no_truncation()
        _write(folder / "vocab.txt", "\n".join(self.pieces) + "\n")
        _write(folder / "tokenizer.json", self._fast.to_str(pretty=True))
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def encode(
        self,
        first: Sequence[str],
        second: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> list[Encoding]:
        """[CLS] first [SEP], or [CLS] first [SEP] second [SEP], for each text or pair of texts.

        What exceeds `max_length` tokens is cut from the end, in a pair from the longer text.
        """
        if isinstance(first, str) or isinstance(second, str):
            raise TypeError("encode needs a list of texts, but one text was given; wrap it: [text]")
        # Below this the library would silently cut nothing at all.
        least = 3 if second is None else 5
        if max_length is not None and max_length < least:
            raise ValueError(f"max_length is {max_length}, but must be at least {least}")
        if max_length is None:
            self._fast.no_truncation()
        else:
            self._fast.enable_truncation(max_length, strategy="longest_first")
        inputs = list(first) if second is None else list(zip(first, second, strict=True))
        try:
            encoded = self._fast.encode_batch_fast(inputs)
        except TypeError:
            raise ValueError(
                "a text is not a string, or holds half a surrogate pair; decode its bytes as UTF-8"
            ) from None
        return [Encoding(one.ids, one.type_ids) for one in encoded]

    def decode(self, ids: Sequence[int], skip_specials: bool = True) -> str:
        """Text from ids: pieces joined, without [CLS], [SEP] and the like. Case and accents that
        normalisation dropped are gone."""
        text: str = self._fast.decode(list(ids), skip_special_tokens=skip_specials)
        if self.words == "spaces" and self.split_chinese:
            text = AROUND_CHINESE.sub("", text)
        return text.removeprefix("##")  # a generated text may begin inside a word


def required_tokenizer(tokenizer: Tokenizer | None) -> Tokenizer:
    """The vocabulary of a model that is to read text.

    Raises
        CheckpointError  the model came without one.
    """
    if tokenizer is None:
        raise CheckpointError(
            "the model has no vocabulary, so it cannot read text; put vocab.txt or "
            "tokenizer.json into its folder"
        )
    return tokenizer


def _pre_tokenizer(words: str) -> Any:
    if words == "spaces":
        return pre_tokenizers.WhitespaceSplit()
    return pre_tokenizers.BertPreTokenizer()


def _read_vocabulary_file(path: Path) -> list[str]:
    try:
        return list(read_vocabulary(path.read_bytes().decode("utf-8-sig")))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CheckpointError(f"{path}, line {line}: not UTF-8; the file may be damaged") from None
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _description(path: Path) -> dict[str, Any]:
    try:
        return json.loads(tokenizers.Tokenizer.from_file(str(path)).to_str())
    except Exception as error:  # the library raises this class itself
        raise CheckpointError(f"{path}: the tokenizers library refuses it: {error}") from None


def _pieces_of(stored: Mapping[str, Any], path: Path) -> list[str]:
    kind, vocabulary = stored["model"]["type"], stored["model"].get("vocab", {})
    if kind != "WordPiece":
        raise CheckpointError(f"{path}: the model is {kind}, but minibert reads only WordPiece")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise CheckpointError(f"{path}: the vocabulary's ids must be 0, 1, 2 and so on, each once")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _settings(
    pieces: list[str], config: Mapping[str, Any], stored: Mapping[str, Any], folder: Path
) -> tuple[bool, bool | None, bool, str]:
    normalizer = stored.get("normalizer") or {}
    # If no file says it, the vocabulary does: an uncased one has no capital letters.
    uncased = not re.search(r"^(?!\[).*[A-Z]", "\n".join(pieces), re.MULTILINE)
    lowercase = config.get("do_lower_case", normalizer.get("lowercase", uncased))
    strip_accents = config.get("strip_accents", normalizer.get("strip_accents"))
    split_chinese = config.get(
        "tokenize_chinese_chars", normalizer.get("handle_chinese_chars", True)
    )
    if not (
        isinstance(lowercase, bool)
        and isinstance(strip_accents, bool | None)
        and isinstance(split_chinese, bool)
    ):
        raise CheckpointError(
            f"{folder}: do_lower_case, strip_accents and tokenize_chinese_chars are {lowercase!r}, "
            f"{strip_accents!r}, {split_chinese!r}, but must be true or false"
        )
    parts_at = (stored.get("pre_tokenizer") or {}).get("type")
    words = "spaces" if parts_at == "WhitespaceSplit" else "bert"
    return lowercase, strip_accents, split_chinese, words


def _refuse_other_steps(theirs: dict[str, Any], tokenizer: Tokenizer, path: Path) -> None:
    """A tokenizer.json can describe any pipeline; ours is fixed, so theirs must be the same."""
    ours = json.loads(tokenizer._fast.to_str())
    for description in (theirs, ours):
        del description["model"]["vocab"]
        for setting in ("lowercase", "strip_accents", "handle_chinese_chars"):
            (description["normalizer"] or {}).pop(setting, None)  # these three may differ
    if (theirs["post_processor"] or {}).get("type") == "BertProcessing":  # an older form of ours
        ours["post_processor"] = {
            "type": "BertProcessing",
            "sep": ["[SEP]", tokenizer.sep_id],
            "cls": ["[CLS]", tokenizer.cls_id],
        }
    for part in ("model", "normalizer", "pre_tokenizer", "post_processor"):
        if theirs[part] != ours[part]:
            raise CheckpointError(
                f"{path}: the {part} is {json.dumps(theirs[part])[:200]}, but BERT's is "
                f"{json.dumps(ours[part])[:200]}"
            )
    added = [token["content"] for token in theirs["added_tokens"]]
    if unknown := [piece for piece in added if piece not in SPECIALS]:
        raise CheckpointError(f"{path}: adds {', '.join(unknown[:5])}, which BERT does not have")


def _write(path: Path, text: str) -> None:
    with whole_file(path) as staged:
        staged.write_text(text, encoding="utf-8", newline="\n")
