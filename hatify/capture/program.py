"""From an exported program to a graph that reads what the model holds by name."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.nn import Parameter

from hatify.capture.mutations import drop_counters, return_outputs, written
from hatify.capture.regions import inline_regions
from hatify.errors import CaptureError


def graph_of(program: ExportedProgram) -> tuple[Graph, dict[str, Any]]:
    """The program's graph with parameters and buffers read by `get_attr` instead of passed as inputs; its constants.

    Raises:
        CaptureError: forward replaces state that the model holds.
    """
    replaced = [s.target for s in program.graph_signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
    if replaced:
        raise CaptureError(f"forward replaces {replaced}, which is state that a captured graph cannot keep")
    graph, constants = _reading_by_name(program)
    inline_regions(graph, constants)
    return_outputs(graph)
    drop_counters(graph)
    _count_as_buffers(graph)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph, constants


def _reading_by_name(program: ExportedProgram) -> tuple[Graph, dict[str, Any]]:
    """A copy of the graph whose inputs are the user's alone, and the constants that it reads."""
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    constants: dict[str, Any] = {}
    graph = Graph()
    copies: dict[Node, Node] = {}
    parameters: dict[Any, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and inputs[node.name].kind is not InputKind.USER_INPUT:
            spec = inputs[node.name]
            assert spec.target is not None
            held = program.constants.get(spec.target, program.state_dict.get(spec.target))
            if spec.kind is InputKind.CONSTANT_TENSOR and _memory(held) in parameters:
                copies[node] = parameters[_memory(held)]
                continue
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER):
                constants[spec.target] = held
            copies[node] = _read(graph, node, spec.target, spec.kind, held)
            if spec.kind is InputKind.PARAMETER and not held.is_meta:
                parameters[_memory(held)] = copies[node]
        elif node.op == "get_attr":
            constants[node.target] = getattr(program.graph_module, node.target)
            copies[node] = _read(graph, node, node.target, InputKind.CONSTANT_TENSOR, constants[node.target])
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta["module_path"] = _module_path(node)
    return graph, constants


def _memory(held: Any) -> Any:
    """What tells that two tensors are one: a parameter that a list of the model's holds, too, is no constant."""
    return (held.data_ptr(), held.shape, held.stride(), held.dtype) if type(held) in (Tensor, Parameter) else held


def _count_as_buffers(graph: Graph) -> None:
    """A tensor that the model holds without having registered it is a buffer, too, if forward writes to it."""
    for base in written(graph):
        if base.meta.get("role") == "constant":
            base.meta["role"] = "buffer"


def _read(graph: Graph, node: Node, name: str, kind: InputKind, held: Any) -> Node:
    roles = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer"}
    read = graph.create_node("get_attr", name)
    role = roles.get(kind, "constant")
    infinite = role != "parameter" and has_infinite_entries(held)
    read.meta = dict(node.meta, role=role, name=name, infinite=infinite)
    return read


def has_infinite_entries(value: Any) -> bool:
    """Whether a tensor that is given or held has infinite entries, as biases of attention have."""
    is_float = isinstance(value, Tensor) and value.is_floating_point() and not value.is_meta
    return is_float and bool(value.isinf().any())


def _module_path(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else re.sub(r"@\d+", "", path)
