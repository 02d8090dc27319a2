"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hatify.errors import FileError

PathLike = str | os.PathLike[str]


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A new name beside `path` to write to: it takes the place of `path` when the block ends, or else goes.

    A crash leaves the old file, and perhaps a `.NAME.*.unfinished` with the same ending, by which some writers go.

    Raises:
        FileError: `path` is a folder, or cannot be written.
    """
    target, unfinished = _names(path)
    try:
        unfinished.touch()
        usual = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(usual)  # some writers give files to their owner alone
        _flush(unfinished)
        unfinished.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise FileError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):  # it was never made, or cannot be
            unfinished.unlink()


def check_writable(path: PathLike) -> None:
    """Find out before the work begins whether a file can be written.

    Raises:
        FileError: it cannot.
    """
    _, probe = _names(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError(f"cannot write {str(path)!r}: {error.strerror}") from None


def _names(path: PathLike) -> tuple[Path, Path]:
    """The file, and what it is called until it is whole."""
    target = Path(path).resolve()
    if target.is_dir():
        raise FileError(f"cannot write {str(path)!r}: it is a folder; name a file in it")
    start = target.stem[:100]  # names cannot be of any length
    return target, target.with_name(f".{start}.{uuid.uuid4().hex[:8]}.unfinished{target.suffix}")


def _flush(path: Path) -> None:
    """Let what was written reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
