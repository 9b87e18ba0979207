"""Files that are whole or not there: written beside their target, flushed, and renamed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".saving"


class NotWritten(OSError):
    """A file that could not be written, named in the sentence."""


class Busy(Exception):
    """Another process holds the lock on a folder."""


@contextmanager
def whole_file(path: Path, shared: bool = False, then: str = "") -> Iterator[Path]:
    """Where to write a file that gets the name `path` when it is complete and on the disk.

    A `shared` file may be written by several processes at a time: each writes its own, and the
    last one stays. `then` ends the sentence about a failure, and says how to go on.

    Raises
        NotWritten  the disk is full or not writable; what was at `path` is untouched. If that is
                    true of another file, which is written meanwhile, the sentence is about it.
    """
    from safetensors import SafetensorError  # raised on a full disk; no help text needs it

    staged = path.with_name(f".{path.name}{UNFINISHED}")
    if shared:
        staged = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shared:
            _drop_leftovers(path)
        yield staged
        staged.chmod(0o666 & ~_umask())  # some libraries write for their user alone
        flush(staged)
        os.replace(staged, path)
        flush(path.parent)  # the new name, too, has to reach the disk
    except NotWritten:
        raise
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotWritten(
            f"{path} cannot be written: {reason}; what was saved before is untouched{then}"
        ) from None
    finally:
        with suppress(OSError):  # the reason is told above
            staged.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Make a folder and hold the lock on it, which ends with this process at the latest.

    Raises
        Busy  another process holds it, and this one does not want to `wait`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy from None
        yield
    finally:
        os.close(handle)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _drop_leftovers(path: Path) -> None:
    """Delete the unfinished copies of a shared file that killed processes left behind."""
    for staged in path.parent.glob(f".{path.name}.*{UNFINISHED}"):
        writer = staged.name.removesuffix(UNFINISHED).rpartition(".")[2]
        if not writer.isdigit():
            continue
        try:
            os.kill(int(writer), 0)  # sends nothing, and says whether there is such a process
        except ProcessLookupError:
            staged.unlink(missing_ok=True)
        except PermissionError:  # it is somebody else's
            pass


def _umask() -> int:
    """The permissions that new files are denied; they can be read only by setting them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
