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
    attributes = {module: dict(module.__dict__) for module in model.modules()}
    contents = [(value, copy.copy(value)) for own in attributes.values() for value in own.values() if _holds(value)]
    with in_mode(model, training=False):
        try:
            yield
        finally:
            for module, before in attributes.items():
                module.__dict__.clear()
                module.__dict__.update(before)
            for value, held in contents:
                value.clear()
                value.extend(held) if isinstance(value, list) else value.update(held)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])


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
