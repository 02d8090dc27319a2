"""The batch size while a model is traced: whether the graph depends on it, and whose code made a number of it.

A size is symbolic until someone needs its number: from then on the graph is one for batches of the example's size.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.sym_node import SymNode

from hatify.capture.frames import asks_from_outside, is_of_pytorch, module_paths, owner

# What Python calls for int(n), range(n), len(x) or NumPy's shapes, and for loops over a tensor.
CONVERSIONS = {"__int__", "__index__", "__iter__"}


def fixed_size(size: int | torch.SymInt) -> int | None:
    """A size that the graph depends on; None if it may differ."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def batch_sizes(program: ExportedProgram) -> tuple[int | None, ...]:
    """The first dimension of each input that has one; None where it may differ."""
    specs = program.graph_signature.input_specs
    inputs = {spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT}
    values = (node.meta.get("val") for node in program.graph.find_nodes(op="placeholder") if node.name in inputs)
    return tuple(fixed_size(value.shape[0]) for value in values if isinstance(value, torch.Tensor) and value.dim() > 0)


@contextmanager
def numbers_fix_sizes() -> Iterator[None]:
    """While a model is traced, a number made by arithmetic (`int(0.5 * n)`) fixes the sizes that it is made of.

    The number is a constant of the graph, although the sizes might stay symbolic.
    """
    guard_int = SymNode.guard_int

    def fixing(node: SymNode, file: str, line: int) -> int:
        number: int = guard_int(node, file, line)
        for symbol in node.expr.free_symbols:
            size: Any = node.shape_env.create_symintnode(symbol, hint=None)  # type: ignore[union-attr]
            guard_int(size.node, file, line)
        return number

    with patch.object(SymNode, "guard_int", fixing):
        yield


@contextmanager
def find_makers_of_numbers(model: nn.Module) -> Iterator[list[str]]:
    """Find, while `model` is traced, the first own code of a module that makes a number of a symbolic size.

    Gives the paths of the modules whose code was running then, from the inside out; none if PyTorch alone did so.
    """
    paths = module_paths(model)
    makers: list[str] = []
    guard_int = SymNode.guard_int

    def watched(node: SymNode, file: str, line: int) -> int:
        symbolic = node.maybe_as_int() is None
        number: int = guard_int(node, file, line)
        if symbolic and not makers and node.maybe_as_int() is not None:
            makers.extend(_makers(sys._getframe(1), paths))
        return number

    with patch.object(SymNode, "guard_int", watched):
        yield makers


def _makers(innermost: FrameType, paths: Mapping[int, str]) -> Iterator[str]:
    """The modules whose own code converts a size in the innermost frame; none if PyTorch's code does."""
    frames = [frame for frame, _ in traceback.walk_stack(innermost)]
    inside = next((i for i, frame in enumerate(frames) if asks_from_outside(frame, CONVERSIONS)), None)
    if inside is None or any(owner(frame, paths) is not None for frame in frames[:inside]):
        return  # the latter: a module of PyTorch's own
    owners = (owner(frame, paths) for frame in frames[inside + 1 :] if not is_of_pytorch(frame))
    yield from dict.fromkeys(path for path in owners if path is not None)
