"""Example inputs: normalised where given, inferred where the model tells what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hatify.errors import InputError

SMALLEST_BATCH = 2  # a batch of 0 or 1 would be captured as a constant
EXAMPLE_BATCH = 5  # seldom another size of a model, which would be taken for the batch
EXAMPLE_EXTENT = 32  # height, width, length or depth where the first layer takes any

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def example_arguments(model: nn.Module, example_inputs: object) -> Arguments:
    """The example call as (args, kwargs).

    example_inputs: args as a tuple, kwargs as a dict, both as a pair of those, a tensor, or None to infer them.

    Raises:
        InputError: not of these forms, or a batch of fewer than 2, or nothing to infer them from.
    """
    if example_inputs is None:
        return _infer(model)
    if isinstance(example_inputs, torch.Tensor):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        args, kwargs = (), dict(example_inputs)
    elif _is_pair(example_inputs):
        args, kwargs = tuple(example_inputs[0]), dict(example_inputs[1])  # type: ignore[index]
    elif isinstance(example_inputs, tuple | list):
        args, kwargs = tuple(example_inputs), {}
    else:
        raise InputError(
            "example_inputs takes a tuple of arguments, a dict of keyword arguments, or a pair of both; "
            f"got {type(example_inputs).__name__}"
        )
    _check_batch(args, kwargs)
    return args, kwargs


def in_own_containers(arguments: Arguments) -> Arguments:
    """The same arguments in lists and dicts of their own: forward may write into those that it is given."""
    own: Arguments = pytree.tree_map(lambda value: value, arguments)
    return own


def batch_dimensions(arguments: Arguments) -> Any:
    """For each argument, the dimension of the batch, which is the first one's first; None for what is no tensor.

    It may be another one: (layers, batch, features) is the shape of a recurrent layer's state.
    """
    sizes = [v.shape[0] for v in pytree.tree_leaves(arguments) if isinstance(v, torch.Tensor) and v.dim()]

    def dimension(value: Any) -> int | None:
        if not isinstance(value, torch.Tensor) or not value.dim():
            return None
        alike = [d for d, size in enumerate(value.shape) if size == sizes[0]]
        return alike[0] if len(alike) == 1 else 0

    return pytree.tree_map(dimension, arguments)


def _is_pair(value: object) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and isinstance(value[0], tuple | list)
        and isinstance(value[1], Mapping)
    )


def _check_batch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor) and v.dim() > 0]
    if tensors and all(tensor.shape[0] < SMALLEST_BATCH for tensor in tensors):
        raise InputError(
            f"an example input has the shape {tuple(tensors[0].shape)}; its batch (first dimension) must be at "
            f"least {SMALLEST_BATCH}, since a smaller one is captured as a constant"
        )


def _infer(model: nn.Module) -> Arguments:
    size = _timm_input_size(model)
    if size is not None:
        return (_images(model, (EXAMPLE_BATCH, *size)),), {}
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping) and dummy:
        return (), {name: _batched(value) for name, value in dummy.items()}
    shape = _first_layer_shape(model)
    if shape is None:
        raise InputError(
            f"cannot infer the inputs of {type(model).__name__}; pass example_inputs=(x,) with a batch of at least 2"
        )
    if shape == "indices":
        return (torch.zeros(EXAMPLE_BATCH, EXAMPLE_EXTENT, dtype=torch.long, device=_device(model)),), {}
    return (_images(model, (EXAMPLE_BATCH, *shape)),), {}


def _timm_input_size(model: nn.Module) -> tuple[int, ...] | None:
    """The input size of timm's `pretrained_cfg`, with the channels and image size that the model was made with."""
    configuration = getattr(model, "pretrained_cfg", None)
    if not isinstance(configuration, Mapping) or "input_size" not in configuration:
        return None
    channels, *extent = configuration["input_size"]
    embed = getattr(model, "patch_embed", None)
    extent = getattr(embed, "img_size", None) or extent
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and configuration.get("first_conv"):  # else the image is transformed before the first one
        channels = first.in_channels
    return (channels, *extent)


def _first_layer_shape(model: nn.Module) -> tuple[int, ...] | str | None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return (module.in_features,)
        if isinstance(module, nn.Embedding):
            return "indices"
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return (module.in_channels, *[EXAMPLE_EXTENT] * len(module.kernel_size))
        if isinstance(module, nn.RNNBase):
            return (EXAMPLE_EXTENT, module.input_size) if module.batch_first else None
    return None


def _images(model: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    return torch.zeros(shape, dtype=parameter.dtype if parameter is not None else None, device=_device(model))


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else None


def _batched(value: Any) -> Any:
    """A dummy input with a batch of at least 2."""
    if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] < SMALLEST_BATCH:
        return value.expand(EXAMPLE_BATCH, *value.shape[1:]).contiguous()
    return value
