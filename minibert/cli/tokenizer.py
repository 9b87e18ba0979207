"""`minibert tokenizer`: what a model reads with. `train` makes a vocabulary."""

import click

from minibert.cli.options import print_result

WRITTEN = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")


@click.group()
def tokenizer() -> None:
    """Make the vocabulary that a new model reads with."""


@tokenizer.command()
@click.option(
    "--corpus",
    multiple=True,
    required=True,
    metavar="PATH",
    help="raw text: a file, or a folder of them; repeatable",
)
@click.option(
    "--vocab-size", required=True, type=click.IntRange(6, 10**7), help="pieces, specials too"
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="folder to write")
@click.option("--cased", is_flag=True, help="keep capital letters and accents")
@click.option(
    "--min-count",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="how often a pair must occur to be joined",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def train(
    corpus: tuple[str, ...], vocab_size: int, out: str, cased: bool, min_count: int, as_json: bool
) -> None:
    """Train a WordPiece vocabulary on raw text.

    Starting from characters, it joins again and again the two neighbours that raise the likelihood
    of the text most (minibert/wordpiece_training.py). minibert and transformers read the folder
    that is written.

    \b
    Example
      minibert tokenizer train --corpus books --vocab-size 8000 --out runs/tokenizer
    """
    import time
    from pathlib import Path

    for name in WRITTEN:
        if (Path(out) / name).exists():
            raise click.UsageError(f"--out {out} already holds {name}; choose another folder")

    from minibert.data.corpus import read_corpus, word_counts
    from minibert.data.readers import DataError
    from minibert.data.tokenizer import Tokenizer
    from minibert.wordpiece import UNKNOWN, longest_match
    from minibert.wordpiece_training import train_wordpiece

    started = time.monotonic()
    counts = word_counts(read_corpus(corpus), lowercase=not cased)
    words = sum(counts.values())
    if not words:
        raise DataError(f"{corpus[0]}: there is no word in the corpus")
    click.echo(f"{words:,} words, {len(counts):,} different ones", err=True)
    click.echo(f"joining pairs up to {vocab_size:,} pieces …", err=True)
    try:
        vocabulary = train_wordpiece(counts, vocab_size, min_count=min_count)
    except ValueError as error:
        raise click.UsageError(f"--vocab-size is too small for this corpus: {error}") from None
    if len(vocabulary) < vocab_size:
        click.echo(
            f"{len(vocabulary):,} pieces, as no pair is left with a count of {min_count} or more",
            err=True,
        )
    Tokenizer(vocabulary, lowercase=not cased).save(out)
    known = frozenset(vocabulary)
    cuts = {word: longest_match(word, known) for word in counts}
    per_word = sum(n * len(cuts[word]) for word, n in counts.items()) / words
    unknown = sum(n for word, n in counts.items() if cuts[word] == [UNKNOWN])
    found = {
        "tokenizer": out,
        "pieces": len(vocabulary),
        "words": words,
        "different_words": len(counts),
        "pieces_per_word": per_word,
        "unknown_words": unknown,
        "seconds": time.monotonic() - started,
    }
    lines = [f"{out}: {len(vocabulary):,} pieces, {per_word:.3f} for each word of the corpus"]
    print_result(found, as_json, lines)
