"""Where a model has failed, and what its author can do about it, in words."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hatify.capture.frames import is_of_pytorch, module_paths, owner, place
from hatify.capture.inputs import Arguments
from hatify.capture.running import run_once
from hatify.errors import InputError


def check_runs(model: nn.Module, arguments: Arguments) -> None:
    """Tell example inputs that do not fit from a model that cannot be captured.

    Raises:
        InputError: they do not fit.
    """
    try:
        run_once(model, arguments)
    except Exception as error:
        raise InputError(
            f"the model fails on the example inputs {_shapes(*arguments)}: "
            f"{type(error).__name__}: {first_line(error)} ({where(model, error)})"
        ) from error


def explanation(model: nn.Module, error: Exception) -> str:
    """Why a model could not be captured, where, and what to do."""
    return (
        f"cannot capture {type(model).__name__} as one graph: {type(error).__name__}: {first_line(error)} "
        f"({where(model, error)}). {_advice(error)}"
    )


def _advice(error: Exception) -> str:
    if "register a pytree" in str(error):
        return (
            "Return tensors, or tuples, lists and dicts of them, or register a class of your own "
            "(torch.export.register_dataclass); caches of transformers go with config.use_cache = False"
        )
    return (
        "Control flow there must not depend on the values of tensors: make it arithmetic (torch.where), or move it "
        "into a submodule of its own, which is then called as it is"
    )


def culprit(model: nn.Module, error: BaseException) -> str:
    """The path of the innermost submodule that the error went through."""
    paths = module_paths(model)
    owners = [owner(frame, paths) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((path for path in reversed(owners) if path is not None), "")


def where(model: nn.Module, error: BaseException) -> str:
    """The innermost submodule and the innermost line outside PyTorch that the error went through."""
    path = culprit(model, error)
    line = ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if not is_of_pytorch(frame) and file.parent != Path(__file__).parent and file.is_file():
            line = place(frame, number)
    return f"in {path or 'the model'}, {type(model.get_submodule(path)).__name__}, {line or 'inside PyTorch'}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message: PyTorch's go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Arguments, with a shape in the place of each tensor."""

    def shape(value: Any) -> Any:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else value

    args, kwargs = pytree.tree_map(shape, (args, kwargs))
    return ", ".join([*map(str, args), *(f"{name}={value}" for name, value in kwargs.items())])
