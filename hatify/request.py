"""What `hatify` is asked for, checked before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.fx import Graph, GraphModule

from hatify.counts import checked_count
from hatify.errors import ConversionError, TaskError
from hatify.module import HATModule
from hatify.rewriting.layers import HATLayer
from hatify.rewriting.rewrite import FUNCTIONAL, REGISTRY
from hatify.rewriting.vectors import MASKED_VECTORS


def check_model(model: nn.Module) -> None:
    """Refuse a model that has no forward to capture, or whose names the converted network needs.

    Raises:
        ConversionError: such a model.
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"hatify converts a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, HATModule):
        raise ConversionError("the model is converted already: model.add_tasks(n) makes room for more tasks")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ConversionError(
                f"{repr(name) if name else 'the model'} is a ScriptModule, which has no Python code to capture; "
                "use the module that it was made from"
            )
    _check_names(model)


def check_heads(heads: Sequence[str] | None) -> None:
    """Refuse one path where a sequence of them is asked for: it is a sequence, too.

    Raises:
        ConversionError: one path.
    """
    if isinstance(heads, str):
        raise ConversionError(f"heads takes a sequence of module paths: [{heads!r}], not {heads!r}")


def checked_classes(num_classes: Sequence[int] | None, num_tasks: int) -> list[int] | None:
    """The classes of each task's head, as integers.

    Raises:
        TaskError: not one number a task, or a number that is none of classes.
    """
    if num_classes is None:
        return None
    numbers = list(num_classes) if isinstance(num_classes, Iterable) else []
    if len(numbers) != num_tasks:
        raise TaskError(f"num_classes takes one number a task: {num_tasks} of them, got {num_classes!r}")
    return [checked_count(number, "each entry of num_classes") for number in numbers]


def _check_names(model: nn.Module) -> None:
    """A model's names live on in the converted network, beside those of its methods."""
    held = [*dict(model.named_modules()), *(name for name, _ in model.named_parameters())]
    held += [name for name, _ in model.named_buffers()]
    network = set(dir(HATModule)) | set(dir(GraphModule(nn.Module(), Graph())))
    network = (network - set(dir(nn.Module()))) | {REGISTRY, MASKED_VECTORS, FUNCTIONAL}
    network |= {"blueprint", "task_id", "mask_scale"}
    layer = (set(dir(HATLayer())) - set(dir(nn.Module()))) - {""}
    for name in held:
        first, *rest = name.split(".")
        taken = first if first in network else next((part for part in rest if part in layer), None)
        if taken:
            raise ConversionError(
                f"the model's {name!r} is called {taken!r}, which the converted network uses: rename it"
            )
    arguments = {"task_id", "mask_scale"} & set(inspect.signature(model.forward).parameters)
    if arguments:
        raise ConversionError(f"forward takes {arguments.pop()!r}, which the converted network takes too: rename it")
