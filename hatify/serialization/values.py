"""Values as JSON and back. What JSON has no form for is taken apart into what it has one for, under a tag."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hatify.blueprint import Blueprint
from hatify.capture.decisions import Decision
from hatify.capture.leaf_calls import TENSOR, LeafCall, TensorMark
from hatify.capture.signature import CallSignature
from hatify.config import HATConfig
from hatify.errors import FileError
from hatify.lifecycle.initial_values import Initial, Scheme
from hatify.rewriting.calls import OperatorCall, Slot
from hatify.serialization.targets import name_of, target_of

KNOWN_PACKAGES = ("timm", "torchvision", "transformers")  # their output types are imported when they are needed


@dataclass(frozen=True)
class Reference:
    """Stands for a node of a graph."""

    node: str


@dataclass(frozen=True)
class Unnamed:
    """Stands for a default value that only Python code can make: no caller can pass it."""

    shown: str

    def __repr__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class Form:
    """How values of one kind are written. fits: whether a value is of it. apart, together: inverses of each other."""

    fits: Callable[[Any], bool]
    apart: Callable[[Any], Any]
    together: Callable[[Any], Any]


def encoded(value: Any) -> Any:
    """A value as JSON.

    Raises:
        FileError: a value of a kind that has no form.
    """
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, list):
        return [encoded(element) for element in value]
    for tag, form in FORMS.items():
        if form.fits(value):
            return {tag: encoded(form.apart(value))}
    raise FileError(
        f"{value!r} of type {type(value).__qualname__} is part of the network, and a file has no form for it"
    )


def decoded(data: Any) -> Any:
    """The value that `encoded` made this of.

    Raises:
        FileError: it names something that does not exist here.
        KeyError, TypeError, ValueError: `encoded` never made this.
    """
    if isinstance(data, list):
        return [decoded(element) for element in data]
    if not isinstance(data, dict):
        return data
    ((tag, parts),) = data.items()
    return FORMS[tag].together(decoded(parts))


def _of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _record(kind: type) -> Form:
    """Of a dataclass, field by field."""
    names = [field.name for field in fields(kind) if field.init]
    return Form(_of(kind), lambda value: [getattr(value, name) for name in names], lambda parts: kind(*parts))


def _items(value: Mapping[Any, Any]) -> list[list[Any]]:
    return [[key, held] for key, held in value.items()]


def _attribute(kind: type) -> Form:
    """Of PyTorch's enumerations: `torch.float32`, `torch.channels_last`, `torch.strided`."""

    def together(name: str) -> Any:
        value = getattr(torch, name)
        if not isinstance(value, kind):
            raise ValueError(f"torch.{name} is no {kind.__name__}")
        return value

    return Form(_of(kind), lambda value: str(value).removeprefix("torch."), together)


# -- signatures and structures ---------------------------------------------------------------------------------


def _parameters(signature: inspect.Signature) -> list[list[Any]]:
    """Name, kind and, if there is one, default of each parameter."""

    def default(value: Any) -> list[Any]:
        if value is inspect.Parameter.empty:
            return []
        try:
            encoded(value)
        except FileError:
            return [Unnamed(repr(value))]
        return [value]

    return [[p.name, p.kind.name, *default(p.default)] for p in signature.parameters.values()]


def _signature(parameters: Sequence[Any]) -> inspect.Signature:
    def parameter(name: str, kind: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, getattr(inspect._ParameterKind, kind), default=default)

    return inspect.Signature([parameter(*own) for own in parameters])


def _example(spec: pytree.TreeSpec) -> Any:
    """A value of a structure.

    Raises:
        FileError: it has a container that takes tensors only.
    """
    try:
        return pytree.tree_unflatten(["*"] * spec.num_leaves, spec)
    except Exception as error:
        kinds = str(spec).replace("\n", "")
        raise FileError(f"data has no form for the structure of what a submodule takes or gives: {kinds}") from error


def _structure(example: Any) -> pytree.TreeSpec:
    return pytree.tree_flatten(example)[1]


def _is_container(value: Any) -> bool:
    """Whether a value is of a class of its own that holds values by name: a named tuple, an output of transformers."""
    is_named_tuple = isinstance(value, tuple) and hasattr(value, "_fields")
    return is_named_tuple or (isinstance(value, OrderedDict) and type(value) is not OrderedDict)


def _container_apart(value: Any) -> list[Any]:
    kind = type(value)
    items = dict(zip(kind._fields, value, strict=True)) if isinstance(value, tuple) else dict(value)
    return [kind.__module__, kind.__qualname__, items]


def _container_together(parts: Sequence[Any]) -> Any:
    module, name, items = parts
    if module.partition(".")[0] in KNOWN_PACKAGES:
        importlib.import_module(module)
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type):
        raise FileError(f"the network's outputs are a {module}.{name}: import {module} before you load it")
    if not (issubclass(kind, OrderedDict) or (issubclass(kind, tuple) and hasattr(kind, "_fields"))):
        raise ValueError(f"{module}.{name} holds no values by name")
    return kind(**items)


FORMS: Mapping[str, Form] = {
    "number": Form(_of(float), str, float),
    "complex": Form(_of(complex), lambda value: [value.real, value.imag], lambda parts: complex(*parts)),
    "container": Form(_is_container, _container_apart, _container_together),
    "tuple": Form(_of(tuple), list, tuple),
    "frozenset": Form(_of(frozenset), sorted, frozenset),
    "ordered": Form(_of(OrderedDict), _items, OrderedDict),
    "dict": Form(_of(dict), _items, dict),
    "slice": Form(_of(slice), lambda value: [value.start, value.stop, value.step], lambda parts: slice(*parts)),
    "range": Form(_of(range), lambda value: [value.start, value.stop, value.step], lambda parts: range(*parts)),
    "dtype": _attribute(torch.dtype),
    "layout": _attribute(torch.layout),
    "memory_format": _attribute(torch.memory_format),
    "device": Form(_of(torch.device), str, torch.device),
    "signature": Form(_of(inspect.Signature), _parameters, _signature),
    "structure": Form(_of(pytree.TreeSpec), _example, _structure),
    "tensor": Form(_of(TensorMark), lambda mark: None, lambda nothing: TENSOR),
    **{
        kind.__name__: _record(kind)
        for kind in (Blueprint, CallSignature, Decision, HATConfig, Initial, LeafCall, OperatorCall, Reference)
    },
    **{kind.__name__: _record(kind) for kind in (Scheme, Slot, Unnamed)},
    "call": Form(callable, name_of, target_of),
}
