"""What the command line names by a word: models, and their example inputs."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hatify.capture.inputs import EXAMPLE_BATCH
from hatify.errors import InputError, SourceError, first_few

TIMM = "timm:"


def model_from(source: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model that `timm:NAME` or `package.module:factory` stands for, made with these arguments.

    Raises:
        SourceError: there is none, or the factory fails or makes something else.
    """
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM), arguments)
    factory = imported(source, "timm:NAME or package.module:factory")
    if isinstance(factory, nn.Module):
        return factory
    model = _made(source, factory, arguments)
    if not isinstance(model, nn.Module):
        raise SourceError(f"{source} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


def imported(source: str, forms: str) -> Any:
    """What `package.module:name` stands for; modules in the working directory are found, too."""
    module_name, separator, name = source.partition(":")
    if not separator or not module_name or not name:
        raise SourceError(f"{source!r} is not of the form {forms}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SourceError(f"there is no module {error.name!r} (looked for {source!r}) here or installed") from None
    except Exception as error:  # whatever a user's module does
        raise SourceError(f"importing {module_name!r} failed: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise SourceError(f"{module_name!r} has no {name!r}; it has {first_few(public)}")
    return getattr(module, name)


def arguments_from(settings: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` settings as arguments; values are Python literals, and text where they are none."""
    arguments: dict[str, Any] = {}
    for setting in settings:
        name, separator, value = setting.partition("=")
        if not separator or not name.isidentifier():
            raise SourceError(f"{setting!r} is not of the form NAME=VALUE")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    return arguments


def example_inputs_from(shapes: Sequence[str]) -> tuple[Tensor, ...] | None:
    """Example inputs of these shapes: `3x224x224`, or `128:int64` with a type; the batch comes in front of each."""
    return tuple(map(_example, shapes)) or None


def _example(shape: str) -> Tensor:
    sizes, _, dtype_name = shape.partition(":")
    dtype = getattr(torch, dtype_name or "float32", None)
    if not isinstance(dtype, torch.dtype):
        raise InputError(f"{shape!r} names no type of PyTorch; say, for instance, 128:int64")
    if not all(size.isdecimal() and int(size) for size in sizes.split("x")):
        raise InputError(f"{shape!r} is no shape; say, for instance, 3x224x224 (the batch comes in front of it)")
    return torch.zeros(EXAMPLE_BATCH, *map(int, sizes.split("x")), dtype=dtype)


def _from_timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError:
        raise SourceError(f"{TIMM}{name} needs timm: pip install timm") from None
    if not timm.is_model(name):
        close = timm.list_models(f"*{name}*") or timm.list_models(f"{name[:4]}*")
        raise SourceError(f"timm has no model {name!r}" + (f"; it has {first_few(close)}" if close else ""))
    model: nn.Module = _made(f"{TIMM}{name}", lambda **given: timm.create_model(name, **given), arguments)
    return model


def _made(source: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    if not callable(factory):
        raise SourceError(f"{source} is a {type(factory).__name__}, which makes nothing: name a class or a function")
    try:
        return factory(**arguments)
    except Exception as error:  # whatever a user's factory does
        raise SourceError(f"{source} failed: {type(error).__name__}: {error}") from error
