"""A translator: an encoder reads a text of one language, a decoder writes it in another.

B texts of a batch · S tokens of a text · R tokens of the text read, where both occur · H hypotheses
· D width · V words of the language written. Nothing here computes gradients.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minibert.checkpoint import Stored, key_of, load_weights
from minibert.config import BertConfig, CheckpointError
from minibert.data.batches import Batch, collate, sorted_order
from minibert.data.tables import DataError
from minibert.data.tokenizer import Tokenizer
from minibert.decoder import (
    CrossWeights,
    DecoderMemory,
    DecoderWeights,
    decode_traced,
    decoder_shapes,
    empty_memory,
)
from minibert.files import CONFIG_FILE, read_json, save_tensors, save_whole, stored_in
from minibert.functional import log_softmax
from minibert.hub import model_folder
from minibert.kernels import decoder as kernels
from minibert.kernels.encoder import AnyWeights, encode, prepared
from minibert.parameters import (
    BertWeights,
    BlockWeights,
    initial_weights,
    named_tensors,
    weight_shapes,
    with_tensors,
)
from minibert.pretrained import check_vocabulary
from minibert.search import beam_search

ARCHITECTURE = "EncoderDecoderModel"
PARTS = ("encoder", "decoder")
OF_A_DECODER = {"is_decoder": True, "add_cross_attention": True}


class TranslatorWeights(NamedTuple):
    """Encoder and decoder. With one vocabulary for both languages the decoder's word table is None:
    it is the encoder's, see `decoder_of`."""

    encoder: BertWeights
    decoder: DecoderWeights


class Translation(NamedTuple):
    """A text, its log-probability divided by the length penalty, and its pieces without the end."""

    text: str
    score: float
    ids: list[int]


class Asked(NamedTuple):
    """The pieces of a text, those of its translation, and cross-attention shares [L, N, S, R].

    A row shows which pieces of the text were attended to in order to write that piece.
    """

    source: list[str]
    target: list[str]
    shares_LNSR: Tensor


def decoder_of(weights: TranslatorWeights) -> DecoderWeights:
    """The decoder with a word table, its own or the encoder's."""
    return _with_words(weights.decoder, weights.encoder.embeddings.word_VD)


def _with_words(decoder: DecoderWeights, word_VD: Tensor | None) -> DecoderWeights:
    tables = decoder.bert.embeddings
    if word_VD is not None and tables.word_VD is not None:
        return decoder
    tables = tables._replace(word_VD=word_VD)  # type: ignore[arg-type]
    return decoder._replace(bert=decoder.bert._replace(embeddings=tables))


def translator_shapes(
    encoder: BertConfig, decoder: BertConfig, shared: bool
) -> TranslatorWeights:
    """The structure of a translator's weights as tensors without storage."""
    written = decoder_shapes(decoder)
    return TranslatorWeights(
        weight_shapes(encoder, ()), _with_words(written, None) if shared else written
    )


@dataclass(eq=False)
class Translator:
    """Two configs, the weights, and a vocabulary for each language, which may be the same one.

    `languages` are the names of the one that is read and the one that is written.
    """

    encoder: BertConfig
    decoder: BertConfig
    weights: TranslatorWeights
    source: Tokenizer
    target: Tokenizer
    languages: tuple[str, str] = ("source", "target")

    @property
    def shared(self) -> bool:
        """Whether both languages have one vocabulary and one word table."""
        return self.weights.decoder.bert.embeddings.word_VD is None

    def summary(self) -> str:
        """Sizes and vocabularies in one line."""
        parts = [
            f"{name} {config.num_hidden_layers}x{config.hidden_size}"
            for name, config in (("encoder", self.encoder), ("decoder", self.decoder))
        ]
        pieces = [f"{len(one.pieces):,}" for one in {self.source: 0, self.target: 0}]
        count = sum(x.numel() for _, x in named_tensors(self.weights))
        return f"{', '.join(parts)}, {' and '.join(pieces)} pieces, {count:,} parameters"

    @classmethod
    def from_config(
        cls,
        encoder: BertConfig,
        decoder: BertConfig,
        source: Tokenizer,
        target: Tokenizer,
        languages: tuple[str, str] = ("source", "target"),
        seed: int = 0,
    ) -> "Translator":
        """A fresh model with random weights; the same tokenizer twice shares the word table.

        Raises
            CheckpointError  the two widths differ.
        """
        if encoder.hidden_size != decoder.hidden_size:
            raise CheckpointError(
                f"the encoder is {encoder.hidden_size} wide and the decoder {decoder.hidden_size}, "
                "but cross-attention needs equal widths"
            )
        generator = torch.Generator().manual_seed(seed)
        shapes = translator_shapes(encoder, decoder, source is target)
        weights = initial_weights(shapes, encoder.initializer_range, generator)
        return cls(encoder, decoder, weights, source, target, languages)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "Translator":
        """Load a folder in the form of `transformers`' EncoderDecoderModel, or an id on the hub.

        Raises
            CheckpointError  a file is missing or damaged, or is not a translator made of two BERTs.
        """
        folder = model_folder(name)
        values = read_json(folder / CONFIG_FILE)
        try:
            encoder, decoder = configs_of(values)
            languages = values.get("languages", ["source", "target"])
            if not (isinstance(languages, list) and [type(x) for x in languages] == [str, str]):
                raise CheckpointError(f"languages is {languages!r}, but must be two names")
            source, target = _tokenizers(folder, values.get("vocabulary"))
            for tokenizer, config in ((source, encoder), (target, decoder)):
                check_vocabulary(tokenizer, config)
            weights = _loaded(stored_in(folder), encoder, decoder, source is target)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from None
        return cls(encoder, decoder, weights, source, target, (languages[0], languages[1]))

    def save_pretrained(self, folder: str | Path, packed: bool = False) -> None:
        """Write it so that minibert and `transformers` open it.

        `packed` writes a sparse model to a smaller file that only minibert reads, see
        `minibert.packed`.

        Raises
            OSError  the disk is full or not writable; a model that was there is untouched.
        """
        decoder = self.decoder.to_dict() | OF_A_DECODER
        values = {
            "model_type": "encoder-decoder",
            "architectures": [ARCHITECTURE],
            "is_encoder_decoder": True,
            "encoder": self.encoder.to_dict() | {"architectures": ["BertModel"]},
            "decoder": decoder | {"architectures": ["BertLMHeadModel"]},
            "decoder_start_token_id": self.target.cls_id,
            "eos_token_id": self.target.sep_id,
            "pad_token_id": self.target.pad_id,
            "vocab_size": self.decoder.vocab_size,
            "languages": list(self.languages),
            "vocabulary": "shared" if self.shared else "separate",
        }

        def add_vocabularies(staged: Path) -> None:
            if self.source is self.target:
                self.source.save(staged, self.encoder.max_position_embeddings)
                return
            self.source.save(staged / "source", self.encoder.max_position_embeddings)
            self.target.save(staged / "target", self.decoder.max_position_embeddings)

        write = partial(save_tensors, tensors=_keyed(self.weights))
        save_whole(Path(folder), values, write, add_vocabularies, packed)

    def to(self, device: str | torch.device) -> "Translator":
        """The same model on another device."""
        moved = {path: tensor.to(device) for path, tensor in named_tensors(self.weights)}
        return dataclasses.replace(self, weights=with_tensors(self.weights, moved))

    def translate(
        self,
        texts: Sequence[str],
        width: int = 4,
        alpha: float = 0.6,
        batch_size: int = 32,
        dtype: torch.dtype = torch.float32,
        max_length: int | None = None,
    ) -> list[Translation]:
        """The best translation of each text that a beam of `width` finds; a width of 1 is greedy.

        Texts are cut after `max_length` tokens; a translation has at most as many tokens as the
        decoder has positions.

        Raises
            DataError  a text has more tokens than the encoder has positions.
        """
        encodings = self.source.encode(texts, max_length=max_length)
        positions = self.encoder.max_position_embeddings
        for number, one in enumerate(encodings, 1):
            if len(one.ids) > positions:
                raise DataError(
                    f"text {number} has {len(one.ids)} tokens, but the model has only {positions} "
                    "positions; give it sentence by sentence"
                )
        found: dict[int, Translation] = {}
        encoder, decoder = self.ready(dtype)
        for rows in sorted_order([len(one.ids) for one in encodings], batch_size):
            batch = collate(encodings, rows, self.source.pad_id)
            texts_of_rows = self.written(batch, encoder, decoder, width, alpha)
            found |= zip(rows, texts_of_rows, strict=True)
        return [found[row] for row in range(len(encodings))]

    @torch.no_grad()
    def asked(self, text: str, written: Sequence[int]) -> "Asked":
        """How much each piece of a translation, given by ids, attends to each piece of the text."""
        (source,) = self.source.encode([text], max_length=self.encoder.max_position_embeddings)
        batch = collate([source], [0], self.source.pad_id)
        ids = [self.target.cls_id, *written, self.target.sep_id]
        ids = ids[: self.decoder.max_position_embeddings + 1]  # if it was cut, it has no end
        ids_1T = torch.tensor([ids[:-1]])  # each asks in order to write the next
        here = self.to("cpu")
        encoded_1SD = encode(*batch, here.weights.encoder, self.encoder)
        decoder = decoder_of(here.weights)
        memory = empty_memory(encoded_1SD, batch.keep_BS, decoder, self.decoder)
        traces, _ = decode_traced(ids_1T, memory, decoder, self.decoder)
        return Asked(
            [self.source.pieces[i] for i in source.ids],
            [self.target.pieces[i] for i in ids[1:]],
            torch.stack([trace.cross.probabilities_BNSR[0] for trace in traces]),
        )

    def ready(self, dtype: torch.dtype = torch.float32) -> tuple[AnyWeights, DecoderWeights]:
        """The weights in their fastest form."""
        return prepared(self.weights.encoder, dtype), kernels.prepared(
            decoder_of(self.weights), dtype
        )

    @torch.no_grad()
    def written(
        self,
        batch: Batch,
        encoder: AnyWeights,
        decoder: DecoderWeights,
        width: int = 1,
        alpha: float = 0.6,
    ) -> list[Translation]:
        """What the decoder writes for one batch of texts."""
        batch = batch.to(encoder.embeddings.word_VD.device)
        encoded_BSD = encode(*batch, encoder, self.encoder)
        memory = kernels.empty_memory(encoded_BSD, batch.keep_BS, decoder, self.decoder)

        def step(last_H1: Tensor, memory: DecoderMemory) -> tuple[Tensor, DecoderMemory]:
            logits_H1V, memory = kernels.decode(last_H1, memory, decoder, self.decoder)
            return log_softmax(logits_H1V[:, -1].float()), memory

        longest = self.decoder.max_position_embeddings
        start, end = self.target.cls_id, self.target.sep_id
        texts = beam_search(step, memory, start, end, longest, width, alpha)
        best = zip(texts.ids_BWS[:, 0].tolist(), texts.scores_BW[:, 0].tolist(), strict=True)
        found = []
        for ids, score in best:
            ids = ids[: ids.index(end)] if end in ids else ids
            found.append(Translation(self.target.decode(ids), score, ids))
        return found


# --- Files -----------------------------------------------------------------------------------


def configs_of(values: Mapping[str, Any]) -> tuple[BertConfig, BertConfig]:
    """The two configs inside the config of an EncoderDecoderModel.

    Raises
        CheckpointError  it is another model, or a part of it is no BERT.
    """
    if values.get("model_type") != "encoder-decoder":
        raise CheckpointError(
            f"model_type is {values.get('model_type')!r}, but a translator's is 'encoder-decoder'"
        )
    found = []
    for part in PARTS:
        inner = values.get(part)
        if not isinstance(inner, dict):
            raise CheckpointError(f"the config has no {part}")
        if part == "decoder":
            inner = {key: value for key, value in inner.items() if key not in OF_A_DECODER}
        try:
            found.append(BertConfig.from_dict(inner))
        except CheckpointError as error:
            raise CheckpointError(f"{part}: {error}") from None
    return found[0], found[1]


def _tokenizers(folder: Path, kind: str | None) -> tuple[Tokenizer, Tokenizer]:
    """Two vocabularies or one, as the config says: an older run may have left the other kind."""
    if kind == "separate" or (kind is None and (folder / "source").is_dir()):
        return Tokenizer.from_folder(folder / "source"), Tokenizer.from_folder(folder / "target")
    both = Tokenizer.from_folder(folder)
    return both, both


def _as_bert(cross: Sequence[CrossWeights]) -> BertWeights:
    """Cross-attentions as the attentions of a BERT that has nothing else, to find their keys."""
    blocks = [BlockWeights(part.attention, part.norm, (), (), ()) for part in cross]  # type: ignore[arg-type]
    return BertWeights((), tuple(blocks))  # type: ignore[arg-type]


def _keyed(weights: TranslatorWeights) -> dict[str, Tensor]:
    """The tensors by the names that `transformers` gives them; a shared table has two names."""
    own = weights.decoder.bert.embeddings.word_VD
    word_VD = weights.encoder.embeddings.word_VD.clone() if own is None else own  # bytes of its own
    decoder = _with_words(weights.decoder, word_VD)
    encoder = {key_of(path, ""): part for path, part in named_tensors(weights.encoder)}
    bert = {key_of(path): part for path, part in named_tensors(decoder.bert)}
    cross = {
        key_of(path).replace(".attention.", ".crossattention."): part
        for path, part in named_tensors(_as_bert(decoder.cross))
    }
    return {f"encoder.{key}": part for key, part in encoder.items()} | {
        f"decoder.{key}": part for key, part in (bert | cross).items()
    }


def _loaded(
    stored: Mapping[str, Stored], encoder: BertConfig, decoder: BertConfig, shared: bool
) -> TranslatorWeights:
    strange = [key for key in stored if not key.startswith(("encoder.", "decoder."))]
    if strange:
        raise CheckpointError(f"{strange[0]} is of neither encoder nor decoder")
    within = {part: _of(stored, f"{part}.") for part in PARTS}
    crossing = {key for key in within["decoder"] if ".crossattention." in key}
    cross = {
        key.replace(".crossattention.", ".attention."): within["decoder"].pop(key)
        for key in crossing
    }
    shapes = translator_shapes(encoder, decoder, shared=False)
    read = []
    for name, of_part, wanted in (
        ("encoder", within["encoder"], shapes.encoder),
        ("decoder", within["decoder"], shapes.decoder.bert),
        ("decoder's cross-attention", cross, _as_bert(shapes.decoder.cross)),
    ):
        try:
            read.append(load_weights(of_part, wanted)[0])
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from None
    own, bert, asking = read
    crosses = tuple(CrossWeights(block.attention, block.attention_norm) for block in asking.blocks)
    weights = TranslatorWeights(own, DecoderWeights(bert, crosses))
    if not shared:
        return weights
    if not torch.equal(own.embeddings.word_VD, bert.embeddings.word_VD):
        raise CheckpointError("there is one vocabulary, but the two word tables differ")
    return weights._replace(decoder=_with_words(weights.decoder, None))


def _of(stored: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    return {
        key.removeprefix(prefix): one for key, one in stored.items() if key.startswith(prefix)
    }
