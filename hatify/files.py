"""Networks in files: safetensors, with all that is no tensor as JSON in the file's metadata. No pickle, no code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import hatify as package
from hatify.capture.opaque import OpaqueLeaf
from hatify.errors import FileError
from hatify.lifecycle.fingerprints import bytes_of
from hatify.module import HATModule
from hatify.output import PathLike, whole_file
from hatify.serialization.contents import Contents
from hatify.serialization.values import decoded

FORMAT = 2  # 1: without `MaskedVectors`
HEADER, VERSION, DIGEST = "hatify", "hatify.format", "hatify.digest"


def save(net: HATModule, path: PathLike) -> None:
    """Write a network to a file: weights, masks, trained and interrupted tasks, its graph and how it is called.

    The file is written beside `path` under another name, and takes its place when it is whole: a crash leaves the old
    file. A network that is being trained can be saved between two steps; an optimizer's state is saved by its own
    `state_dict`.

    Raises:
        FileError: the file cannot be written, or the network has a part that no file has a form for.
    """
    if not isinstance(net, HATModule):
        raise FileError(f"save takes a network that hatify has converted, got {type(net).__name__}")
    contents = net.contents()
    tensors = {name: _plain(name, tensor) for name, tensor in contents.tensors.items()}
    header = json.dumps({**contents.header, "complex": [n for n, t in contents.tensors.items() if t.is_complex()]})
    metadata = {VERSION: str(FORMAT), HEADER: header, DIGEST: _digest(header, tensors)}
    metadata |= {"hatify.version": package.__version__, "torch.version": torch.__version__}
    with whole_file(path) as unfinished:
        try:
            save_file(tensors, unfinished, metadata)
        except SafetensorError as error:
            raise FileError(f"cannot write {str(path)!r}: {error}") from None


def load(path: PathLike, model: nn.Module | None = None) -> HATModule:
    """The network that `save` wrote to a file, on the CPU. Nothing in the file is run but operators of PyTorch, and
    arithmetic on sizes.

    model: the model that the network was made from. Needed, and looked at, only where forward calls a submodule as it
    is (conversion has warned of it): the file has no code.

    Raises:
        FileError: there is no such file, it is damaged or is no network, a newer hatify wrote it, or it needs an
            operator that does not exist here.
    """
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"load takes the path of a file, got {type(path).__name__}")
    tensors, metadata = _read(path)
    _check_format(path, metadata)
    if metadata.get(DIGEST) != _digest(metadata[HEADER], tensors):
        raise FileError(f"{str(path)!r} is damaged: it does not hold what was saved")
    try:
        header = json.loads(metadata[HEADER])
        for name in header.pop("complex"):
            tensors[name] = torch.view_as_complex(tensors[name])
        contents = Contents(header, tensors, _leaves(header["leaves"], model))
        net = HATModule.from_contents(contents)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(
            f"{str(path)!r} holds a network that cannot be built: {type(error).__name__}: {error}"
        ) from error
    if _shown(net.contents().header) != _shown(header):
        raise FileError(f"{str(path)!r} holds a network that is another one when it is built here")
    return net


def _plain(name: str, tensor: Tensor) -> Tensor:
    """A tensor as safetensors stores it."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        raise FileError(f"{name!r} is on the meta device, sparse or quantized: no file can hold it")
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return numbers.cpu().contiguous().clone()


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of all that a file holds."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(bytes_of(tensors[name]))
    return digest.hexdigest()


def _read(path: PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not Path(path).is_file():
        raise FileError(f"there is no file {str(path)!r}")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            # Copies: in the file tensors lie unaligned, which kernels round by, and it may be written again.
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise FileError(f"{str(path)!r} is no safetensors file, or it is cut off: {error}") from None


def _check_format(path: PathLike, metadata: Mapping[str, str]) -> None:
    if not {HEADER, VERSION} <= metadata.keys():
        raise FileError(
            f"{str(path)!r} holds tensors, but no network: convert the model that they belong to, after "
            "model.load_state_dict(safetensors.torch.load_file(path))"
        )
    if not metadata[VERSION].isdecimal() or int(metadata[VERSION]) > FORMAT:
        raise FileError(
            f"{str(path)!r} has format {metadata[VERSION]}, written by hatify {metadata.get('hatify.version')}; "
            f"this is hatify {package.__version__}, which reads format {FORMAT}: install the newer one"
        )


def _leaves(described: Mapping[str, Any], model: nn.Module | None) -> dict[str, OpaqueLeaf]:
    """The submodules that forward calls as they are, from the model."""
    leaves: dict[str, OpaqueLeaf] = {}
    for name, (parameters, buffers, calls) in described.items():
        path = name.rpartition(".")[0]
        if model is None:
            raise FileError(
                f"forward calls {path!r} as it is, and its code is not in the file: load(path, model=model)"
            )
        leaves[name] = leaf = OpaqueLeaf(_submodule(model, path), decoded(calls))
        if [list(leaf.parameter_names), list(leaf.buffer_names)] != [parameters, buffers]:
            raise FileError(f"the model's {path!r} is not what the network was made from: it holds other tensors")
    return leaves


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise FileError(f"the network was made from a model with a submodule {path!r}, which this one lacks") from None


def _shown(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True)
