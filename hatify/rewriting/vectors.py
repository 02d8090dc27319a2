"""Vectors times their masks, those of all layers in one operation.

Biases and norms' affine parameters are what most masks are folded into. A network has some hundred of them, and to call
an operator on one takes longer than to compute it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from hatify.rewriting.calls import OperatorCall, Slot
from hatify.rewriting.layers import HATLayer, Products
from hatify.rewriting.products import multiplied

MASKED_VECTORS = "masked_vectors"
Vectors = tuple[tuple[str, str], ...]  # of a call: attribute and mask of each


class MaskedVectors(nn.Module):
    """Hands each call of a layer its vectors, multiplied by their masks.

    A module so that the graph can call it. It has no parameters: the layers hold them, and it holds the layers where no
    state dict finds them a second time. Each network makes its own from its graph, a copy and a loaded one, too.

    layers: of each call. calls: the key that the graph asks with, and of each vector the layer's attribute and the name
        of its mask (plain values, see `OperatorCall`).
    """

    def __init__(self, layers: Sequence[HATLayer], calls: Sequence[tuple[str, Vectors]]) -> None:
        super().__init__()
        self._layers, self._calls = tuple(layers), tuple(calls)

    def forward(self, masks: Mapping[str, Tensor | None], task_id: int | None) -> Mapping[str, Products | None]:
        """By key, the products `parameter * mask` of a layer; None where there is no task."""
        calls = self._calls
        if task_id is None:
            return dict.fromkeys([key for key, _ in calls])
        values = [
            layer.of_task(attribute, task_id)
            for layer, (_, vectors) in zip(self._layers, calls, strict=True)
            for attribute, _ in vectors
        ]
        names = [mask for _, vectors in calls for _, mask in vectors]
        wanted = [(name, value.dtype) for name, value in zip(names, values, strict=True)]
        distinct = {each: position for position, each in enumerate(dict.fromkeys(wanted))}
        factors = [_as_vector(masks[name], dtype) for name, dtype in distinct]
        products = iter(multiplied(values, factors, [distinct[each] for each in wanted]))
        return {
            key: Products(layer, {attribute: next(products) for attribute, _ in vectors})
            for layer, (key, vectors) in zip(self._layers, calls, strict=True)
        }

    def extra_repr(self) -> str:
        return f"{sum(len(vectors) for _, vectors in self._calls)} vectors"


def has_vectors(layer: HATLayer, call: OperatorCall) -> bool:
    """Whether masks are folded into vectors of a layer's own."""
    return any(True for _ in _masks_of_vectors(layer, call))


def masked_vectors(root: nn.Module, graph: Graph) -> MaskedVectors:
    """What a graph asks for, of the layers below `root`."""
    layers: list[HATLayer] = []
    calls: list[tuple[str, Vectors]] = []
    for node in graph.find_nodes(op="call_module"):
        edges: Any = node.kwargs
        if "vectors" not in edges:
            continue
        layer = root.get_submodule(str(node.target))
        if not isinstance(layer, HATLayer):
            raise TypeError(f"{node.target!r} is called with vectors, but is no HAT layer")
        names = [_name(mask) for mask in edges["masks"]]
        carried = _masks_of_vectors(layer, layer.calls[edges.get("call", 0)])
        layers.append(layer)
        calls.append((_name(edges["vectors"]), tuple((attribute, names[i]) for attribute, i in carried)))
    return MaskedVectors(layers, calls)


def _name(edge: Node) -> str:
    """The name with which an edge takes its part of what its source gives."""
    _, name = edge.args
    return str(name)


def _masks_of_vectors(layer: HATLayer, call: OperatorCall) -> Iterator[tuple[str, int]]:
    """The attributes of a layer that are vectors and carry one mask in a call, and the position of that mask."""
    slots = [slot for slot in call.arguments if isinstance(slot, Slot) and slot.attribute is not None]
    for slot in slots:
        parameter = getattr(layer, str(slot.attribute))
        is_vector = isinstance(parameter, nn.Parameter) and parameter.dim() == 1
        is_used_once = [other.attribute for other in slots].count(slot.attribute) == 1
        if is_vector and is_used_once and len(slot.masks) == 1 and slot.masks[0][1] in ((-1,), tuple(parameter.shape)):
            yield str(slot.attribute), slot.masks[0][0]


def _as_vector(mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    assert mask is not None
    mask = mask if mask.dim() == 1 else mask.reshape(-1)
    return mask if mask.dtype is dtype else mask.to(dtype)
