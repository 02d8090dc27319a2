"""Vectors times their masks, those of all layers in one operation.

Biases and norms' affine parameters are what most masks are folded into. A network has some hundred of them, and to call
an operator on one takes longer than to compute it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from hatify.rewriting.layers import HATLayer, OperatorCall, Products, Slot

MASKED_VECTORS = "masked_vectors"


@dataclass(frozen=True)
class Vector:
    """A layer's own parameter of one dimension. mask: the name of the mask that it carries."""

    layer: HATLayer
    attribute: str
    mask: str


class MaskedVectors(nn.Module):
    """Hands each call of a layer its vectors, multiplied by their masks.

    A module so that the graph can call it. It has no parameters: the layers hold them, and it holds the layers where no
    state dict finds them a second time. Each network makes its own from its graph, a copy and a loaded one, too.

    vectors: by the key that the graph asks with, those of one call.
    """

    def __init__(self, vectors: Mapping[str, tuple[Vector, ...]]) -> None:
        super().__init__()
        self._vectors = dict(vectors)

    def forward(self, masks: Mapping[str, Tensor | None], task_id: int | None) -> Mapping[str, Products | None]:
        """By key, the products `parameter * mask` of a layer; None where there is no task."""
        if task_id is None:
            return dict.fromkeys(self._vectors)
        flat = [vector for vectors in self._vectors.values() for vector in vectors]
        values = [vector.layer.of_task(vector.attribute, task_id) for vector in flat]
        factors = [_like(masks[vector.mask], value) for vector, value in zip(flat, values, strict=True)]
        products = iter(_products(values, factors))
        return {
            key: Products(vectors[0].layer, {vector.attribute: next(products) for vector in vectors})
            for key, vectors in self._vectors.items()
        }

    def extra_repr(self) -> str:
        return f"{sum(map(len, self._vectors.values()))} vectors"


def has_vectors(layer: HATLayer, call: OperatorCall) -> bool:
    """Whether masks are folded into vectors of a layer's own."""
    return any(True for _ in _masks_of_vectors(layer, call))


def masked_vectors(root: nn.Module, graph: Graph) -> MaskedVectors:
    """What a graph asks for, of the layers below `root`."""
    vectors: dict[str, tuple[Vector, ...]] = {}
    for node in graph.find_nodes(op="call_module"):
        edges: Any = node.kwargs
        if "vectors" not in edges:
            continue
        layer = root.get_submodule(str(node.target))
        if not isinstance(layer, HATLayer):
            raise TypeError(f"{node.target!r} is called with vectors, but is no HAT layer")
        names = [_name(mask) for mask in edges["masks"]]
        carried = _masks_of_vectors(layer, layer.calls[edges.get("call", 0)])
        vectors[_name(edges["vectors"])] = tuple(Vector(layer, attribute, names[i]) for attribute, i in carried)
    return MaskedVectors(vectors)


def _name(edge: Node) -> str:
    """The name with which an edge takes its part of what its source gives."""
    _, name = edge.args
    return str(name)


def _masks_of_vectors(layer: HATLayer, call: OperatorCall) -> Iterator[tuple[str, int]]:
    """The attributes of a layer that are vectors and carry one mask in a call, and the position of that mask."""
    arguments = [*call.args, *(value for _, value in call.kwargs)]
    slots = [slot for slot in arguments if isinstance(slot, Slot) and slot.attribute is not None]
    for slot in slots:
        parameter = getattr(layer, str(slot.attribute))
        is_vector = isinstance(parameter, nn.Parameter) and parameter.dim() == 1
        is_used_once = [other.attribute for other in slots].count(slot.attribute) == 1
        if is_vector and is_used_once and [shape for _, shape in slot.masks] == [tuple(parameter.shape)]:
            yield str(slot.attribute), slot.masks[0][0]


def _products(values: list[Tensor], factors: list[Tensor]) -> Sequence[Tensor]:
    if torch._C._are_functorch_transforms_active():  # vmap knows no operators on lists
        return [value * factor for value, factor in zip(values, factors, strict=True)]
    return torch._foreach_mul(values, factors)


def _like(mask: Tensor | None, vector: Tensor) -> Tensor:
    assert mask is not None
    mask = mask if mask.shape == vector.shape else mask.reshape(vector.shape)
    return mask if mask.dtype is vector.dtype else mask.to(vector.dtype)
