"""Running the user's model, which is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hatify.capture.inputs import Arguments, in_own_containers


def run_once(model: nn.Module, arguments: Arguments) -> None:
    """Run a model in eval mode and leave it as it was."""
    with left_as_it_was(model):
        try:
            with torch.no_grad():
                called(model, arguments)
        except Exception:  # forward may differentiate (forces from an energy)
            with torch.enable_grad():
                called(model, arguments)


def called(model: nn.Module, arguments: Arguments) -> Any:
    """What a model gives; the arguments are left as they were, too."""
    args, kwargs = in_own_containers(arguments)
    return model(*args, **kwargs)


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """A model in eval mode; afterwards its modes, its buffers and what its modules keep in attributes are as before."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    try:
        with in_mode(model, training=False), attributes_left_as_they_were(model):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


@contextmanager
def attributes_left_as_they_were(model: nn.Module) -> Iterator[None]:
    """Afterwards the modules' attributes are the objects that they were, and containers hold what they held."""
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    contents = [(value, copy.copy(value)) for own in attributes.values() for value in own.values() if _holds(value)]
    try:
        yield
    finally:
        for module, before in attributes.items():
            module.__dict__.clear()
            module.__dict__.update(before)
        for value, held in contents:
            if not _same(value, held):
                value.clear()
                value.extend(held) if isinstance(value, list) else value.update(held)


def _same(value: Any, held: Any) -> bool:
    """Whether a container holds what it did; one that nothing was put into may refuse to be written to."""
    if len(value) != len(held):
        return False
    if isinstance(value, list):
        return all(one is other for one, other in zip(value, held, strict=True))
    if isinstance(value, set):
        return value == held
    return all(key in held and held[key] is element for key, element in value.items())


def _holds(value: object) -> bool:
    """Whether forward may put something into an attribute (a cache, say)."""
    return isinstance(value, dict | list | set)


@contextmanager
def in_mode(model: nn.Module, training: bool, eval_only: Sequence[str] = ()) -> Iterator[None]:
    """All modules in one mode, but for those that stay in eval mode; afterwards each as it was.

    Not by `train()` and `eval()`, with which some models merge weights.
    """
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = training
        for path in eval_only:
            model.get_submodule(path).training = False
        yield
    finally:
        for module, flag in before.items():
            module.training = flag
