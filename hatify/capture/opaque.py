"""Opaque leaves: submodules that cannot be captured, called as they are.

While the model is traced, a leaf is one operator whose results have the shapes that the submodule gave when it was
run. In the converted network the operator runs the submodule itself, with its parameters and buffers as operands.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.fx import Graph
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments, batch_dimensions
from hatify.capture.running import run_once

Size = int | tuple[int, int, int]  # a number, or a multiple of an operand's size: operand, dimension, factor


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


class OpaqueLeaf(nn.Module):
    """A submodule without its parameters and buffers, which each call is given.

    parameter_names, buffer_names: of the submodule's. calls: those that one forward pass of the model makes.
    """

    def __init__(self, module: nn.Module, calls: Sequence[LeafCall]) -> None:
        super().__init__()
        self.training = module.training
        self.calls = tuple(calls)
        self.parameter_names = tuple(name for name, _ in module.named_parameters())
        self.buffer_names = tuple(name for name, _ in module.named_buffers())
        self._skeleton = (_without_tensors(module),)  # in a tuple, where no one finds its parameters

    def forward(self, number: int, operands: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:
        """The tensors that call `number` gives. state: the values of its parameters, then of its buffers."""
        call = self.calls[number]
        (module,) = self._skeleton
        module.train(self.training)
        args, kwargs = pytree.tree_unflatten(_filled(call.fixed, operands), call.inputs)
        names = (*self.parameter_names, *self.buffer_names)
        used = dict(zip(names, state, strict=True))
        flat = pytree.tree_leaves(torch.func.functional_call(module, used, args, kwargs))
        with torch.no_grad():
            for name, given in zip(names, state, strict=True):
                if used[name] is not given:  # a buffer that forward assigned anew
                    given.copy_(used[name])
        return [value for value in flat if isinstance(value, Tensor)]


class _RunLeaf(HigherOrderOperator):
    """The call of a leaf in a graph. What it does inside cannot be seen there."""

    def __init__(self) -> None:
        super().__init__("run_opaque_leaf")

    def __call__(self, leaf: OpaqueLeaf, number: int, operands: Sequence[Tensor], state: Sequence[Tensor]) -> Any:
        return leaf(number, operands, state)


run_leaf = _RunLeaf()

_TRACED: dict[str, OpaqueLeaf] = {}  # by path, while a model is traced


# The schema is given since torch 2.6 reads none from `list[Tensor]`.
@torch.library.custom_op(
    "hatify::opaque_leaf",
    mutates_args=(),
    schema="(Tensor[] operands, Tensor[] state, str path, int number) -> Tensor[]",
)
def _opaque_leaf(operands: list[Tensor], state: list[Tensor], path: str, number: int) -> list[Tensor]:
    raise NotImplementedError("stands in a graph for a leaf while a model is traced")


@_opaque_leaf.register_fake
def _shapes_of_leaf(operands: list[Tensor], state: list[Tensor], path: str, number: int) -> list[Tensor]:
    call = _TRACED[path].calls[number]

    def extent(size: Size) -> Any:
        return size if isinstance(size, int) else operands[size[0]].shape[size[1]] * size[2]

    described = zip(call.sizes, call.dtypes, call.devices, strict=True)
    return [torch.empty([extent(s) for s in sizes], dtype=dtype, device=device) for sizes, dtype, device in described]


@contextmanager
def traced_as_leaves(model: nn.Module, leaves: dict[str, OpaqueLeaf]) -> Iterator[None]:
    """Let the submodules at these paths be one operator each."""
    modules = {path: model.get_submodule(path) for path in leaves}
    own = {path: module.__dict__["forward"] for path, module in modules.items() if "forward" in module.__dict__}
    try:
        _TRACED.update(leaves)
        for path, module in modules.items():
            module.forward = functools.partial(_trace, path, module, [0])
        yield
    finally:
        for path, module in modules.items():
            del module.forward, _TRACED[path]
            if path in own:
                module.forward = own[path]


def _trace(path: str, module: nn.Module, counter: list[int], *args: Any, **kwargs: Any) -> Any:
    leaf = _TRACED[path]
    number = counter[0] % len(leaf.calls)
    counter[0] += 1
    operands = [value for value in pytree.tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    names = (*leaf.parameter_names, *leaf.buffer_names)
    state = [functools.reduce(getattr, name.split("."), module) for name in names]
    results = torch.ops.hatify.opaque_leaf(operands, state, path, number)
    call = leaf.calls[number]
    return pytree.tree_unflatten(_filled(call.results, results), call.outputs)


def make_leaf(model: nn.Module, path: str, arguments: Arguments) -> OpaqueLeaf | None:
    """The submodule at `path` as a leaf, with what it does when `model` is called with `arguments`.

    None: it writes into its inputs, or its outputs have sizes that do not follow from those of its inputs, or forward
    takes no batch of another size.
    """
    module = model.get_submodule(path)
    for of_the_batch_only in (False, True):
        try:
            calls = _calls(model, module, arguments, _one_more(arguments, of_the_batch_only))
        except Exception:  # each image of a list would get another channel, or a graph's edges a third end, say
            continue
        return None if calls is None else OpaqueLeaf(module, calls)
    return None


def _calls(model: nn.Module, module: nn.Module, arguments: Arguments, longer: Arguments) -> list[LeafCall] | None:
    one, other = (_record(model, module, batch) for batch in (arguments, longer))
    if len(one) != len(other) or not one:
        return None
    calls = [_describe(*pair) for pair in zip(one, other, strict=True)]
    return None if None in calls else [call for call in calls if call is not None]


def run_leaves(graph: Graph, leaves: dict[str, OpaqueLeaf], constants: dict[str, Any]) -> None:
    """Let the graph call the leaves. constants: gets them, by the names under which the graph reads them."""
    for node in [node for node in graph.nodes if node.target is torch.ops.hatify.opaque_leaf.default]:
        operands, state, path, number = node.args
        name = f"{path}.opaque"
        constants[name] = leaves[str(path)]
        with graph.inserting_before(node):
            leaf = graph.create_node("get_attr", name)
            leaf.meta = {"role": "constant", "name": name}
            run = graph.call_function(run_leaf, (leaf, number, operands, state))
        run.meta = dict(node.meta)
        node.replace_all_uses_with(run)
        graph.erase_node(node)


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

    hooks = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        run_once(model, arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _one_more(arguments: Arguments, of_the_batch_only: bool) -> Arguments:
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


class TensorMark:
    """Stands where a tensor does."""

    def __deepcopy__(self, memo: dict[int, Any]) -> TensorMark:
        return self

    def __reduce__(self) -> str:
        return "TENSOR"


TENSOR = TensorMark()


def _filled(values: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    remaining = iter(tensors)
    return [next(remaining) if value is TENSOR else value for value in values]


def _without_tensors(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters and buffers hold no data."""
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for owner in module.modules():
        for value in vars(owner).values():
            if isinstance(value, Tensor) and not value.is_leaf:  # what a call has left, which cannot be copied
                memo[id(value)] = value.detach()
    return copy.deepcopy(module, memo)
