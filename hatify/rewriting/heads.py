"""Each task's own head, with its own number of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from hatify.errors import ConversionError
from hatify.rewriting.layers import HATLayer


@dataclass(frozen=True)
class Head:
    """A weight (or bias) of a head: the layer that holds it, its name, and the dimension of its classes.

    name: None if the weight is computed from parameters (weight norm). dimension: None if the classes have none of
    their own (groups).
    """

    path: str
    layer: HATLayer
    name: str | None
    dimension: int | None


def resize_heads(heads: Sequence[Head], num_classes: Sequence[int]) -> None:
    """Give task t's copy of each head `num_classes[t]` outputs; a copy that has as many already stays as it is.

    New weights are drawn as `torch.nn.Linear` draws them: uniform in +-1 / sqrt(inputs).

    Raises:
        ConversionError: the model has no head, or more than one, or one whose weight is computed or in groups.
    """
    if not heads:
        raise ConversionError("num_classes was given, but the model has no head of its own: name it with heads=[...]")
    if len({id(head.layer) for head in heads}) > 1:
        raise ConversionError("num_classes was given, but the model has several heads: choose one with heads=[...]")
    dimensions = {h.name: h.dimension for h in heads if h.name is not None and h.dimension is not None}
    if len(dimensions) < len(heads):
        kind = "computed from its parameters" if any(head.name is None for head in heads) else "one of groups"
        raise ConversionError(
            f"num_classes was given, but the weight of the head {heads[0].path!r} is {kind}, so "
            "that its classes cannot be changed: give the model a plain last layer"
        )
    for task, count in enumerate(num_classes):
        own = heads[0].layer.per_task[task]
        fan_in = max(_inputs(getattr(own, name), dimension) for name, dimension in dimensions.items())
        for name, dimension in dimensions.items():
            _resize(own, name, dimension, count, fan_in)


def _inputs(weight: torch.Tensor, dimension: int) -> int:
    return weight.numel() // weight.shape[dimension]


def _resize(own: nn.Module, name: str, dimension: int, count: int, fan_in: int) -> None:
    old = getattr(own, name)
    if old.shape[dimension] == count:
        return
    shape = [count if d == dimension else size for d, size in enumerate(old.shape)]
    fresh = _drawn(torch.empty(shape, dtype=old.dtype, device=old.device), fan_in)
    own.register_parameter(name, nn.Parameter(fresh, requires_grad=old.requires_grad))


@torch.no_grad()
def reset_task(layer: HATLayer, task_id: int) -> None:
    """Give a task's own parameters and buffers the values of a new task; a head that was resized is drawn anew."""
    resized: list[torch.Tensor] = []
    fan_in = 1
    for name in layer.task_indexed:
        own, common = getattr(layer.per_task[task_id], name), getattr(layer, name)
        if own.shape == common.shape:
            own.copy_(common)
        else:
            resized.append(own)
            dimension = next(d for d, size in enumerate(own.shape) if size != common.shape[d])
            fan_in = max(fan_in, _inputs(own, dimension))
    for own in resized:
        _drawn(own, fan_in)


def _drawn(tensor: torch.Tensor, fan_in: int) -> torch.Tensor:
    return tensor.uniform_(-(fan_in**-0.5), fan_in**-0.5)
