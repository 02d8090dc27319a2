"""Tensors from a checkpoint's files. Nothing in a file is run."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hatify.errors import CheckpointError, first_few
from hatify.output import PathLike

INDEX = ".safetensors.index.json"  # as huggingface_hub writes it for weights in several files
HOLDERS = ("state_dict", "model_state_dict", "model")  # where training scripts keep a state dict beside other things


def read_state_dict(path: PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name, on the CPU.

    path: a .safetensors file, the `.safetensors.index.json` of several, a folder with such an index, or what
    `torch.save` writes: a state dict, or a dict that holds one (`state_dict`, `model_state_dict`, `model`).

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else than tensors.
    """
    file = _file_in(Path(path)) if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint {str(file)!r}")
    if file.name.endswith(INDEX):
        return _read_shards(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file)
    return _state_dict_in(_read_pickled(file), file)


def _file_in(folder: Path) -> Path:
    """The checkpoint in a folder: the index of its parts, or the one file."""
    found = [*sorted(folder.glob(f"[!.]*{INDEX}")), *sorted(folder.glob("[!.]*.safetensors"))]
    if not found or (len(found) > 1 and not found[0].name.endswith(INDEX)):
        raise CheckpointError(f"the folder {str(folder)!r} has {len(found) or 'no'} .safetensors files: name one file")
    return found[0]


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{str(file)!r} is no safetensors file, or it is cut off: {error}") from None


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        file_of = json.loads(index.read_text())["weight_map"]
        names = sorted(set(file_of.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{str(index)!r} is no index of safetensors files, or it is cut off") from None
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(f"{str(index)!r} names {len(missing)} files that are not beside it: {first_few(missing)}")
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= _read_safetensors(index.parent / name)
    return tensors


def _read_pickled(file: Path) -> Any:
    """What `torch.save` wrote, with PyTorch's reader that knows tensors and plain containers and runs nothing."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not _is_pickled(file):
            raise CheckpointError(f"{str(file)!r} is no checkpoint, or it is damaged") from None
        raise CheckpointError(
            f"{str(file)!r} holds Python objects, which would run code when read ({_unknown_class(error)}): save the "
            "weights alone, torch.save(model.state_dict(), path)"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{str(file)!r} is no checkpoint, or it is cut off: {str(error).splitlines()[0] if str(error) else error!r}"
        ) from None


def _is_pickled(file: Path) -> bool:
    """Whether a file is `torch.save`'s archive or, as older versions wrote it, begins like a pickle of protocol 2."""
    return zipfile.is_zipfile(file) or file.read_bytes()[:2] == b"\x80\x02"


def _unknown_class(error: Exception) -> str:
    """The class that PyTorch's reader refused, of its many lines."""
    words = [word.strip("`',.") for word in str(error).split()]
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "GLOBAL"]
    return after[0] if after else "a class of its own"


def _state_dict_in(contents: Any, file: Path) -> dict[str, Tensor]:
    if isinstance(contents, Mapping):
        for holder in HOLDERS:
            if isinstance(contents.get(holder), Mapping):
                return _state_dict_in(contents[holder], file)
        tensors = {
            name: value for name, value in contents.items() if isinstance(name, str) and isinstance(value, Tensor)
        }
        if tensors:
            return tensors
        held = f"a dict with {first_few(list(map(str, contents)))}" if contents else "an empty dict"
    else:
        held = f"a {type(contents).__name__}"
    raise CheckpointError(f"{str(file)!r} holds {held}, but no state dict: save torch.save(model.state_dict(), path)")
