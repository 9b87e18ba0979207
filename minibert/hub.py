"""From a name to a folder: one that exists wins, else the id is fetched from huggingface.co."""

import difflib
import os
import re
from pathlib import Path

from minibert.config import CheckpointError
from minibert.files import CONFIG_FILE, INDEX_FILE, PACKED_FILE, PICKLE_FILE, WEIGHTS_FILE

VOCABULARY_FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
SAFE_FILES = (
    CONFIG_FILE, WEIGHTS_FILE, PACKED_FILE, INDEX_FILE, "model-*.safetensors", *VOCABULARY_FILES,
    *(f"source/{name}" for name in VOCABULARY_FILES),  # of a translator with two vocabularies
    *(f"target/{name}" for name in VOCABULARY_FILES),
)  # fmt: skip


def model_folder(name: str | Path, local_files_only: bool = False) -> Path:
    """The folder of a model: a path, or an id such as `google-bert/bert-base-uncased`.

    A folder that exists is never looked for on the network. `local_files_only`, or HF_HUB_OFFLINE
    in the environment, looks into the cache of earlier downloads only.

    Raises
        CheckpointError  a path does not exist, or an id cannot be fetched; it says what was tried.
    """
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder) and str(name):
        return folder
    if os.path.isfile(folder):
        raise CheckpointError(f"{name} is a file, but a model is a folder; name the one it is in")
    if isinstance(name, Path) or _looks_like_path(name):
        raise CheckpointError(f"there is no folder {str(name)!r}{_similar(folder)}")
    return _download(name, local_files_only)


def _looks_like_path(name: str) -> bool:
    """Whether it is neither `word` nor `owner/word`, or `owner` is a folder here."""
    word = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
    if not re.fullmatch(f"{word}(/{word})?", name):
        return True
    return "/" in name and Path(name).parent.is_dir()


def _similar(folder: Path) -> str:
    """A hint: the folder of almost this name, if there is one."""
    try:
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        return f", nor is there a folder {folder.parent}" if not folder.parent.is_dir() else ""
    close = difflib.get_close_matches(folder.name, names, n=1)
    return f"; did you mean {folder.parent / close[0]}?" if close else ""


def _download(model_id: str, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE

    def fetch(patterns: tuple[str, ...]) -> Path:
        return Path(
            snapshot_download(
                model_id, allow_patterns=list(patterns), local_files_only=local_files_only
            )
        )

    try:
        folder = fetch(SAFE_FILES)
        if not any((folder / name).exists() for name in (WEIGHTS_FILE, PACKED_FILE, INDEX_FILE)):
            folder = fetch((*SAFE_FILES, PICKLE_FILE))
    except Exception as error:  # not only HTTP errors: whatever fails below, there is no model
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = "the cache" if local_files_only or HF_HUB_OFFLINE else "huggingface.co"
        raise CheckpointError(
            f"there is no folder {model_id!r}, and no such model could be loaded from {place} "
            f"({type(error).__name__}: {reason})"
        ) from None
    return folder
