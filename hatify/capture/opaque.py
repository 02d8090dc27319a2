"""Opaque leaves: submodules that cannot be captured, called as they are.

While the model is traced, a leaf is one operator whose results have the shapes that the submodule gave when it was
run. In the converted network the operator runs the submodule itself, with its parameters and buffers as operands.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.fx import Graph
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments
from hatify.capture.leaf_calls import LeafCall, Size, calls_of, filled


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
        args, kwargs = pytree.tree_unflatten(filled(call.fixed, operands), call.inputs)
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
    return pytree.tree_unflatten(filled(call.results, results), call.outputs)


def make_leaf(model: nn.Module, path: str, arguments: Arguments) -> OpaqueLeaf | None:
    """The submodule at `path` as a leaf, with what it does when `model` is called with `arguments`.

    None: its calls cannot be told for batches of any size, see `calls_of`.
    """
    module = model.get_submodule(path)
    calls = calls_of(model, module, arguments)
    return None if calls is None else OpaqueLeaf(module, calls)


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
