"""Running the user's model, which is left as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from hatify.capture.inputs import Arguments


def run_once(model: nn.Module, arguments: Arguments) -> None:
    """Run a model in eval mode and leave it as it was."""
    with left_as_it_was(model):
        try:
            with torch.no_grad():
                model(*arguments[0], **arguments[1])
        except Exception:  # forward may differentiate (forces from an energy)
            with torch.enable_grad():
                model(*arguments[0], **arguments[1])


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """A model in eval mode; afterwards its modes and buffers are as before."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    with in_mode(model, training=False):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])


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
