"""One task's network in eval mode: a graph of PyTorch's own operators and the tensors that it reads."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from hatify.capture.calls import is_level
from hatify.capture.constants import is_equal
from hatify.capture.modes import when_training
from hatify.capture.mutations import mutates
from hatify.capture.pairing import DROPOUTS
from hatify.capture.views import base_of
from hatify.errors import ExtractionError
from hatify.extraction.operators import BY_ENTRY, PLAIN, PRODUCTS, SUMS
from hatify.names import numbered
from hatify.rewriting.calls import Slot
from hatify.rewriting.layers import HATLayer, for_each_example, gate, read
from hatify.rewriting.vectors import MaskedVectors

aten = torch.ops.aten


class PlainGraph:
    """The graph of a converted network for one task, without masks, task ids and modes.

    needed: by the `id` of a parameter, the entries that the task depends on. outputs: which of the network's outputs
        are those of eval mode. dtype: the numbers that the network computes with.

    constants: the path of tensors that are none of the network's own.
    tensors: what its `get_attr` nodes read, by name. Entries of weights that the task does not depend on are zero, so
        that what can be removed can be seen in the tensors themselves.
    """

    def __init__(
        self,
        net: GraphModule,
        masks: Mapping[str, Tensor | None],
        needed: Mapping[int, Tensor],
        task_id: int,
        outputs: slice,
        dtype: torch.dtype,
    ) -> None:
        self.graph = Graph()
        self.constants = _unused_name(net)
        self._net = net
        self._dtype = dtype
        self.tensors: dict[str, Tensor] = {}
        self._masks, self._needed = masks, needed
        self._task_id = task_id
        self._values: dict[Node, Any] = {}
        self._reads: dict[str, Node] = {}
        for node in net.graph.nodes:
            self._values[node] = self._translated(node, outputs)
        self._fold_constants()
        self._write_products_as_linear()
        self.graph.eliminate_dead_code(_acts)
        self.tensors = {str(n.target): self.tensors[str(n.target)] for n in self.graph.find_nodes(op="get_attr")}

    @torch.no_grad()
    def _fold_constants(self) -> None:
        """What is computed from parameters alone is computed once; what forward writes to, or draws, is none of it."""
        changing = {base_of(node) for node in self.graph.nodes if mutates(node)}
        for node in list(self.graph.nodes):
            inputs = node.all_input_nodes
            held = bool(inputs) and all(n.op == "get_attr" and n not in changing for n in inputs)
            if node.op != "call_function" or not held or torch.Tag.nondeterministic_seeded in _tags(node):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.tensors[str(n.target)])
            value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                node.replace_all_uses_with(self._read(f"{self.constants}.computed_{node.name}", value))

    def _write_products_as_linear(self) -> None:
        """`x @ weight` and `bias + x @ weight` are linear layers: one form for all of them."""
        for node in self.graph.nodes:
            if node.target in PRODUCTS | SUMS and not set(node.kwargs) & {"alpha", "beta"}:
                *bias, x, weight = node.args
                if self._is_matrix(weight) and not self._is_held(x) and all(b.meta["val"].dim() == 1 for b in bias):
                    with self.graph.inserting_before(node):
                        linear = self.graph.call_function(aten.linear.default, (x, self._transposed(weight), *bias))
                    linear.meta = dict(node.meta)
                    node.replace_all_uses_with(linear)

    def _is_held(self, node: Node) -> bool:
        return node.op == "get_attr"

    def _is_matrix(self, node: Node) -> bool:
        return self._is_held(node) and self.tensors[str(node.target)].dim() == 2

    def _transposed(self, matrix: Node) -> Node:
        """The transposed matrix, under the same name where nothing else reads it."""
        name = str(matrix.target)
        value = self.tensors[name].t().contiguous()
        if len(matrix.users) > 1:
            return self._read(name, value)
        self.tensors[name] = matrix.meta["val"] = value
        return matrix

    @property
    def device(self) -> torch.device | None:
        return next((tensor.device for tensor in self.tensors.values()), None)

    def _translated(self, node: Node, outputs: slice) -> Any:
        if node.op == "placeholder":
            return None if node.target in ("task_id", "mask_scale") else self._copied(node)
        if node.op == "get_attr":
            return False if node.meta.get("role") == "flag" else self._held(str(node.target))
        if node.op == "output":
            return self.graph.output(self._value(node.args[0])[outputs])
        if node.op == "call_module":
            return self._module(node)
        return self._called(node)

    def _module(self, node: Node) -> Any:
        module = self._net.get_submodule(str(node.target))
        if isinstance(module, HATLayer):
            return self._layer(node, module)
        if isinstance(module, MaskedVectors):
            return module({}, None)  # none: here each parameter carries its masks for good
        return dict(self._masks)

    def _called(self, node: Node) -> Any:
        arguments = [self._value(argument) for argument in node.args]
        if node.target is when_training:
            return arguments[2]
        if node.target is operator.getitem and isinstance(arguments[0], dict):
            return arguments[0][arguments[1]]
        if node.target in DROPOUTS and not arguments[2]:
            return arguments[0]
        if node.target is for_each_example:
            return _Repeated(arguments[0], arguments[1])
        if node.target is gate:
            return self._multiplied(arguments[0], arguments[1], node)
        copied = self._copied(node)
        copied.target = PLAIN.get(node.target, node.target)
        if copied.target is aten.cat.default:
            _leave_out_empty_vectors(copied)
        return copied

    def _layer(self, node: Node, layer: HATLayer) -> Any:
        """The operator of a HAT layer, with its masks in its parameters."""
        call = layer.calls[self._value(node.kwargs.get("call", 0))]
        operands = [self._value(operand) for operand in node.args]
        masks: Sequence[Tensor | None] = self._value(node.kwargs.get("masks", ()))

        def fill(argument: Any) -> Any:
            if isinstance(argument, list):
                return [fill(element) for element in argument]
            if not isinstance(argument, Slot):
                return argument
            factors = [mask.reshape(shape) for i, shape in argument.masks if (mask := masks[i]) is not None]
            if argument.operand is not None:
                value = operands[argument.operand]
                for factor in factors:
                    value = self._multiplied(value, factor, node)
                return value
            if argument.attribute == "training":
                return False
            if argument.attribute is None:  # an absent operand is replaced by its masks
                return self._read(f"{node.target}.mask", reduce(torch.mul, factors).to(self._dtype))
            return self._parameter(str(node.target), layer, argument.attribute, factors, call.operator in BY_ENTRY)

        filled = [fill(argument) for argument in call.args]
        if call.operator is read:
            return filled[0]
        result = self.graph.call_function(call.operator, tuple(filled), {k: fill(v) for k, v in call.kwargs})
        result.meta = dict(node.meta)
        for position, shape in call.result_masks:
            mask = masks[position]
            if mask is not None:
                result = self._multiplied(result, mask.reshape(shape), node)
        return result

    def _parameter(
        self, path: str, layer: HATLayer, attribute: str, factors: Sequence[Tensor], acts_by_entry: bool
    ) -> Node:
        """A parameter times its masks. acts_by_entry: entries that are not needed can be zero."""
        tensor = layer.of_task(attribute, self._task_id)
        value = tensor.detach()
        if acts_by_entry and id(tensor) in self._needed:
            value = torch.where(self._needed[id(tensor)], value, 0)
        for factor in factors:
            value = value * factor.to(value.dtype)
        return self._read(f"{path}.{attribute}", value)

    def _held(self, name: str) -> Node:
        value: Any = reduce(getattr, name.split("."), self._net)
        if not isinstance(value, Tensor):
            raise ExtractionError(
                f"forward calls {name!r} as it is ({type(value).__name__}), which cannot be part of a plain module: "
                "keep the converted network for this task"
            )
        return self._read(name, value.detach())

    def _read(self, name: str, value: Tensor) -> Node:
        """A node that reads a tensor; another tensor of the same name gets another."""
        unique = name_for(self.tensors, name, value)
        self.tensors[unique] = value
        anchor = next((n for n in self.graph.nodes if n.op != "placeholder"), None)
        if unique not in self._reads:
            node = self.graph.create_node("get_attr", unique)
            if anchor is not None:
                anchor.prepend(node)
            node.meta["val"] = value
            self._reads[unique] = node
        return self._reads[unique]

    def _multiplied(self, value: Node, mask: Any, node: Node) -> Node:
        if mask is None:
            return value
        kind = value.meta.get("val")
        dtype = self._dtype if kind is None or kind.is_floating_point() or kind.is_complex() else kind.dtype
        if isinstance(mask, _Repeated):
            whole = self._constant(mask.mask, dtype)
            factor = self.graph.call_function(aten.repeat.default, (whole, mask.times(self.graph)))
        else:
            factor = self._constant(mask, dtype)
        product = self.graph.call_function(aten.mul.Tensor, (value, factor))
        product.meta = dict(node.meta)
        return product

    def _constant(self, value: Tensor, dtype: torch.dtype) -> Node:
        return self._read(f"{self.constants}.mask", value.detach().to(dtype))

    def _copied(self, node: Node) -> Node:
        copied = self.graph.node_copy(node, self._value)
        copied.meta = {k: v for k, v in node.meta.items() if k in ("val", "module_path")}
        return copied

    def _value(self, argument: Any) -> Any:
        return map_arg(argument, self._values.__getitem__)


class _Repeated:
    """A mask for the features of one example, for a tensor that holds one example's after the other's."""

    def __init__(self, mask: Tensor, tensor: Node) -> None:
        self.mask, self._tensor = mask, tensor

    def times(self, graph: Graph) -> list[Any]:
        sizes = [graph.call_function(aten.sym_size.int, (self._tensor, d)) for d in range(self.mask.dim())]
        pairs = zip(sizes, self.mask.shape, strict=True)
        return [graph.call_function(operator.floordiv, (size, own)) if own > 1 else 1 for size, own in pairs]


def _unused_name(net: GraphModule) -> str:
    """Where tensors go that are none of the network's own."""
    return next(name for name in numbered("constants", "_") if not hasattr(net, name))


def _leave_out_empty_vectors(joining: Node) -> None:
    """`cat` takes them among tensors of any rank, and they add nothing: loops begin with one."""
    tensors: Any = joining.args[0]
    rank = joining.meta["val"].dim()
    joining.args = ([tensor for tensor in tensors if tensor.meta["val"].dim() == rank], *joining.args[1:])


def _tags(node: Node) -> Sequence[Any]:
    return getattr(node.target, "tags", ())


def _acts(node: Node) -> bool:
    """Whether a node is there for what it does: of writes, in eval mode, only those to what the module holds."""
    writes = mutates(node) and base_of(node).op == "get_attr"
    return node.op in ("placeholder", "output") or writes or is_level(node)


def name_for(tensors: Mapping[str, Tensor], name: str, value: Tensor) -> str:
    """The name under which a tensor is held, or can be: another tensor that has the name keeps it."""
    return next(each for each in numbered(name, "_") if each not in tensors or is_equal(tensors[each], value))
