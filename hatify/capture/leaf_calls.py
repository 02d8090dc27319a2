"""What a submodule takes and gives in each call: recorded for two batches, and explained for any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments, batch_dimensions
from hatify.capture.running import run_once

Size = int | tuple[int, int, int]  # a number, or a multiple of an operand's size: operand, dimension, factor


class TensorMark:
    """Stands where a tensor does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorMark:
        return self

    def __reduce__(self) -> str:
        return "TENSOR"


TENSOR = TensorMark()


@dataclass(frozen=True)
class LeafCall:
    """One call of a leaf. inputs, outputs: how its arguments and results flatten.

    fixed, results: what it takes and gives, with a mark for each tensor. sizes, dtypes, devices: of each tensor
    that it gives.
    """

    inputs: pytree.TreeSpec
    fixed: tuple[Any, ...]
    outputs: pytree.TreeSpec
    results: tuple[Any, ...]
    sizes: tuple[tuple[Size, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]


def filled(values: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """Values with tensors in the place of marks."""
    remaining = iter(tensors)
    return [next(remaining) if value is TENSOR else value for value in values]


def calls_of(model: nn.Module, module: nn.Module, arguments: Arguments) -> list[LeafCall] | None:
    """The calls of a submodule in one forward pass of `model` with `arguments`.

    None: it writes into its inputs, or its outputs have sizes that do not follow from those of its inputs, or forward
    takes no batch of another size.
    """
    for of_the_batch_only in (False, True):
        try:
            return _explained(model, module, arguments, _with_one_more(arguments, of_the_batch_only))
        except Exception:  # each image of a list would get another channel, or a graph's edges a third end, say
            continue
    return None


def _explained(model: nn.Module, module: nn.Module, arguments: Arguments, longer: Arguments) -> list[LeafCall] | None:
    """Each call, from what is recorded of it in two forward passes."""
    one, other = (_record(model, module, batch) for batch in (arguments, longer))
    if len(one) != len(other) or not one:
        return None
    calls = [_describe(*pair) for pair in zip(one, other, strict=True)]
    return None if None in calls else [call for call in calls if call is not None]


@dataclass
class _Recorded:
    inputs: list[Any]
    input_spec: pytree.TreeSpec
    outputs: list[Any]
    output_spec: pytree.TreeSpec
    writes: bool


def _record(model: nn.Module, module: nn.Module, arguments: Arguments) -> list[_Recorded]:
    calls: list[_Recorded] = []
    versions: list[list[int]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        versions.append([v._version for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)])

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        inputs, input_spec = pytree.tree_flatten((args, kwargs))
        outputs, output_spec = pytree.tree_flatten(result)
        writes = [v._version for v in inputs if isinstance(v, Tensor)] != versions.pop()
        calls.append(_Recorded(inputs, input_spec, outputs, output_spec, writes))

    def begin(*call: Any) -> None:  # the model is run once more where it fails without gradients
        calls.clear()
        versions.clear()

    hooks = [
        model.register_forward_pre_hook(begin),
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        run_once(model, arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _with_one_more(arguments: Arguments, of_the_batch_only: bool) -> Arguments:
    """The same call with one more example in the batch.

    of_the_batch_only: not of tensors whose first dimension has another size than the first argument's.
    """
    dimensions = batch_dimensions(arguments)
    first = next((v.shape[0] for v in pytree.tree_leaves(arguments) if isinstance(v, Tensor) and v.dim()), None)

    def longer(value: Any, dimension: int | None) -> Any:
        if dimension is None or (of_the_batch_only and value.shape[dimension] != first):
            return value
        return torch.cat([value, value.narrow(dimension, 0, 1)], dimension)

    args, kwargs = pytree.tree_map(longer, arguments, dimensions)
    return args, kwargs


def _describe(one: _Recorded, other: _Recorded) -> LeafCall | None:
    if one.writes or one.input_spec != other.input_spec or one.output_spec != other.output_spec:
        return None
    operands = list(zip(_tensors(one.inputs), _tensors(other.inputs), strict=True))
    results = list(zip(_tensors(one.outputs), _tensors(other.outputs), strict=True))
    if any(a.dim() != b.dim() for a, b in results):
        return None
    sizes = [[_size(operands, *extents) for extents in zip(a.shape, b.shape, strict=True)] for a, b in results]
    if any(size is None for shape in sizes for size in shape):
        return None
    return LeafCall(
        one.input_spec,
        _fixed(one.inputs),
        one.output_spec,
        _fixed(one.outputs),
        tuple(tuple(size for size in shape if size is not None) for shape in sizes),
        tuple(a.dtype for a, _ in results),
        tuple(a.device for a, _ in results),
    )


def _size(operands: Sequence[tuple[Tensor, Tensor]], one: int, other: int) -> Size | None:
    """A result's size in two calls, explained: a constant, or a multiple of an operand's size."""
    if one == other:
        return one
    for position, (a, b) in enumerate(operands):
        for dimension, (size, larger) in enumerate(zip(a.shape, b.shape, strict=True)):
            if size != larger and one % size == 0 and one * larger == other * size:
                return position, dimension, one // size
    return None


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


def _fixed(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(TENSOR if isinstance(value, Tensor) else value for value in values)
