"""Vectors times their masks, those of all layers in one operation.

Biases and norms' affine parameters are what most masks are folded into. A network has some hundred of them, and to call
an operator on one takes longer than to compute it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from hatify.rewriting.layers import HATLayer, OperatorCall, Slot

MASKED_VECTORS = "masked_vectors"


@dataclass(frozen=True)
class Vector:
    """A layer's own parameter of one dimension. mask: the name of the mask that it carries."""

    layer: HATLayer
    attribute: str
    mask: str


class MaskedVectors(nn.Module):
    """Hands each call of a layer its vectors, multiplied by their masks.

    A module so that the graph can call it; it has no parameters, the layers hold them.

    vectors: by the key that the graph asks with, those of one call.
    """

    def __init__(self, vectors: Mapping[str, tuple[Vector, ...]]) -> None:
        super().__init__()
        self._vectors = dict(vectors)

    def forward(
        self, masks: Mapping[str, Tensor | None], task_id: int | None
    ) -> Mapping[str, Mapping[str, Tensor] | None]:
        """By key and attribute, `parameter * mask`; None where there is no task."""
        if task_id is None:
            return dict.fromkeys(self._vectors)
        flat = [(key, vector) for key, vectors in self._vectors.items() for vector in vectors]
        values = [vector.layer.of_task(vector.attribute, task_id) for _, vector in flat]
        products = torch._foreach_mul(values, [_like(masks[v.mask], p) for (_, v), p in zip(flat, values, strict=True)])
        masked: dict[str, dict[str, Tensor]] = {key: {} for key in self._vectors}
        for (key, vector), product in zip(flat, products, strict=True):
            masked[key][vector.attribute] = product
        return masked

    def extra_repr(self) -> str:
        return f"{sum(map(len, self._vectors.values()))} vectors"


def has_vectors(layer: HATLayer, call: OperatorCall) -> bool:
    """Whether masks are folded into vectors of a layer's own."""
    return any(True for _ in _masks_of_vectors(layer, call))


def masked_vectors(root: nn.Module, graph: Graph) -> MaskedVectors:
    """What a graph asks for, of the layers below `root`."""
    vectors: dict[str, tuple[Vector, ...]] = {}
    for node in graph.find_nodes(op="call_module"):
        if "vectors" not in node.kwargs:
            continue
        layer = root.get_submodule(str(node.target))
        assert isinstance(layer, HATLayer)
        names = [str(mask.args[1]) for mask in node.kwargs["masks"]]
        carried = _masks_of_vectors(layer, layer.calls[node.kwargs.get("call", 0)])
        vectors[key_of(node)] = tuple(Vector(layer, attribute, names[position]) for attribute, position in carried)
    return MaskedVectors(vectors)


def key_of(call: Node) -> str:
    """The key with which a layer's call asks for its vectors."""
    return str(call.kwargs["vectors"].args[1])  # type: ignore[union-attr]


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


def _like(mask: Tensor | None, vector: Tensor) -> Tensor:
    assert mask is not None
    mask = mask if mask.shape == vector.shape else mask.reshape(vector.shape)
    return mask if mask.dtype is vector.dtype else mask.to(vector.dtype)
