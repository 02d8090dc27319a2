"""The demo's files: each appears whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

from hatify.errors import HatifyError


class OutputError(HatifyError):
    """A file cannot be written."""


def prepare_for(files: Iterable[Path]) -> None:
    """Make the files' folders, and find out before the work begins whether the files can be written."""
    for file in files:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = _part_of(file)
            part.touch()
            part.unlink()
        except OSError as error:
            raise OutputError(f"cannot write to {file.parent}: {error.strerror}") from error
        if file.is_dir():
            raise OutputError(f"cannot write {file}: a folder of that name is in the way")


def write_whole(path: Path, content: bytes) -> None:
    """Write the file under another name and rename it, so that no half of it is ever seen under `path`."""
    part = _part_of(path)
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
