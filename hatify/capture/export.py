"""One call of torch.export."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from hatify.capture.decisions import FOUND, watched_questions
from hatify.capture.inputs import Arguments, batch_dimensions, in_own_containers
from hatify.capture.running import attributes_left_as_they_were
from hatify.capture.signature import forward_signature
from hatify.capture.sizes import numbers_fix_sizes
from hatify.capture.surroundings import set_aside
from hatify.errors import CaptureError


def export(model: nn.Module, arguments: Arguments) -> ExportedProgram:
    """A program at ATen level, before autograd, in the mode that the model is in; its batch may differ.

    Raises:
        CaptureError: forward makes a buffer.
    """
    arguments = in_own_containers(arguments)
    dynamic = pytree.tree_map(lambda d: None if d is None else {d: Dim.AUTO}, batch_dimensions(arguments))
    with set_aside(), attributes_left_as_they_were(model):
        by_parameter, buffers = _by_parameter(model, *dynamic), _buffers(model)
        with watched_questions() as questions, numbers_fix_sizes():
            program = torch.export.export(model, *arguments, dynamic_shapes=by_parameter, strict=False)
        _check_none_was_made(_buffers(model) - buffers)
    program.graph_module.meta[FOUND] = questions
    return program


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch.export takes the dynamic shapes by the names of forward's parameters."""
    return dict(forward_signature(model.forward).bind(*args, **kwargs).arguments)


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def _check_none_was_made(made: Collection[str]) -> None:
    """torch.export writes such a buffer into another input of the graph."""
    if made:
        raise CaptureError(
            f"forward makes the buffer {min(made)!r} when it is first called: call the model once, and convert it then"
        )
