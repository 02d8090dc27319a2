"""An extracted task as a program in a file."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments
from hatify.capture.signature import CallSignature
from hatify.errors import ExtractionError
from hatify.output import PathLike, whole_file

FORMATS = (".pt2", ".onnx")


def export_task(extracted: GraphModule, call: Arguments, signature: CallSignature, path: PathLike) -> None:
    """Write an extracted task, as torch.export (.pt2) or ONNX (.onnx) by the name's ending.

    call: example arguments. signature: the converted network's, which says which sizes may differ from call to call.

    Raises:
        ExtractionError: the program cannot be exported, or what ONNX needs is not installed.
        FileError: the file cannot be written.
    """
    args, kwargs = call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        try:
            program = torch.export.export(extracted, args, kwargs, dynamic_shapes=_dynamic_shapes(signature))
        except Exception as error:  # exporters raise their own, and what operators raise
            raise ExtractionError(f"the task cannot be exported: {type(error).__name__}: {error}") from error
        with whole_file(path) as unfinished:
            if Path(path).suffix == ".onnx":
                _to_onnx(program, unfinished)
            else:
                torch.export.save(program, unfinished)


def _to_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
    except ModuleNotFoundError as missing:
        raise ExtractionError(f"ONNX needs {missing.name}: pip install onnx onnxscript") from None
    finally:
        logger.setLevel(level)
    assert exported is not None
    exported.save(path)


def _dynamic_shapes(signature: CallSignature) -> tuple[Any, ...]:
    """By argument, its dimensions that may differ from call to call."""
    dynamic: list[Any] = [
        None if shape is None else {d: torch.export.Dim.AUTO for d, size in enumerate(shape) if size is None}
        for shape in signature.shapes
    ]
    args, kwargs = pytree.tree_unflatten(dynamic, signature.inputs)
    return (*args, *kwargs.values())
