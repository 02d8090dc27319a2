"""Whose code runs: the modules of a model, in the frames of Python's stack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import FrameType

import torch
from torch import nn

LIBRARY = Path(torch.__file__).parent


def module_paths(model: nn.Module) -> dict[int, str]:
    """The paths of a model's modules by the identity of their attributes.

    torch.export may call a module through a proxy, another object that shares its attributes.
    """
    return {id(module.__dict__): path for path, module in model.named_modules()}


def owner(frame: FrameType, paths: Mapping[int, str]) -> str | None:
    """The path of the module of which a method runs in the frame; None if none does."""
    module = frame.f_locals.get("self")
    return paths.get(id(module.__dict__)) if isinstance(module, nn.Module) else None


def asks_from_outside(frame: FrameType, questions: Collection[str]) -> bool:
    """Whether code outside PyTorch asked one of the questions (by the names of its methods) that the frame answers."""
    caller = frame.f_back
    asked = frame.f_code.co_name in questions and is_of_pytorch(frame)
    return asked and caller is not None and not is_of_pytorch(caller)


def place(frame: FrameType, line: int) -> str:
    """Where a person finds a line of code."""
    return f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}"


def is_of_pytorch(frame: FrameType) -> bool:
    return LIBRARY in Path(frame.f_code.co_filename).parents
