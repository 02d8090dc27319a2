"""The data flow of a converted network as boxes: what runs one after the other in one place is one box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from hatify.capture.opaque import OpaqueLeaf
from hatify.inspection.features import mask_name
from hatify.rewriting.layers import HATLayer, gate, read

# What only moves entries about or does nothing in a drawing's eyes.
HIDDEN = {
    *("view", "reshape", "flatten", "unflatten", "transpose", "permute", "t", "numpy_T", "getitem", "unsqueeze"),
    *("squeeze", "expand", "slice", "select", "alias", "clone", "contiguous", "dropout", "detach", "to", "_to_copy"),
    *("chunk", "split", "split_with_sizes", "unbind", "movedim", "swapaxes", "when_training", "for_each_example"),
}


@dataclass(frozen=True)
class Step:
    """One thing that a network does. path: the module that does it. name: how it is shown.

    operator: what it computes, as text. gates: the groups whose masks are applied here. group: the mask group of
    what comes out; None: all tasks use it.
    """

    path: str
    name: str
    operator: str
    gates: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class Box:
    """Steps one after the other. block: the numbered module that they are in, such as "layer1.0"; "" in none."""

    steps: tuple[Step, ...]
    block: str


@dataclass
class Flow:
    """Boxes in the order of the network, and which feeds which, as positions."""

    boxes: list[Box] = field(default_factory=list)
    edges: set[tuple[int, int]] = field(default_factory=set)


def flow_of(net: GraphModule, written: Mapping[str, str | None]) -> Flow:
    """The flow of a converted network. written: see `groups_written`."""
    containers = {
        path.rpartition(".")[0] for path, module in net.named_modules() if isinstance(module, HATLayer | OpaqueLeaf)
    }
    containers |= {part for path in list(containers) for part in _ancestors(path)}
    graph: nx.DiGraph[Node] = nx.DiGraph()
    sources: dict[Node, list[Node]] = {}  # what a node's result is made of: itself, or what was shown before it
    for node in net.graph.nodes:
        if not _carries_data(node):
            continue
        feeding = list(dict.fromkeys(s for n in node.all_input_nodes for s in sources.get(n, ())))
        step = _step(node, net) if feeding or _begins(node) else None
        if step is None:
            sources[node] = feeding
            continue
        sources[node] = [node]
        graph.add_node(node, box=Box((step,), _block(step.path, containers)))
        graph.add_edges_from((source, node) for source in feeding)
    _merge_chains(graph)
    _give_groups(graph, written)
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    return Flow([graph.nodes[n]["box"] for n in graph.nodes], {(numbers[a], numbers[b]) for a, b in graph.edges})


def _carries_data(node: Node) -> bool:
    """Whether a node's result is made of tensors, and not of sizes, masks or tasks."""
    if node.op in ("placeholder", "output"):
        return node.target not in ("task_id", "mask_scale")
    return isinstance(_first(node.meta.get("val")), Tensor)


def _begins(node: Node) -> bool:
    """Whether a node is something to show though nothing shown feeds it: an input, or a parameter by itself."""
    return node.op in ("placeholder", "call_module") or node.target is gate


def _step(node: Node, net: GraphModule) -> Step | None:
    path = str(node.meta.get("module_path") or "")
    if node.op == "placeholder":
        return Step("", str(node.target), "input")
    if node.op == "output":
        return Step("", "output", "")
    if node.op == "call_module":
        return _layer_step(node, net.get_submodule(str(node.target)))
    if node.op != "call_function":
        return None
    if node.target is gate:
        source = node.args[0]
        masked = str(source.target) if isinstance(source, Node) and source.op == "get_attr" else ""
        return Step(path, masked, "parameter" if masked else "mask", (mask_name(node.args[1]),))
    name = _operator_name(node.target)
    return None if name.rstrip("_") in HIDDEN else Step(path, "", name.rstrip("_"))


def _layer_step(node: Node, module: nn.Module) -> Step | None:
    path = str(node.target)
    if isinstance(module, OpaqueLeaf):
        return Step(path, path, "called as it is")
    if not isinstance(module, HATLayer):
        return None
    given: dict[str, Any] = dict(node.kwargs)
    call = module.calls[given.get("call", 0)]
    gates = tuple(mask_name(mask) for mask in given.get("masks", ()))
    operator = "parameter" if call.operator is read else _operator_name(call.operator)
    sizes = "x".join(map(str, next((tuple(p.shape) for p in module._parameters.values() if p is not None), ())))
    return Step(path, path, f"{operator} {sizes}".strip(), gates)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _operator_name(operator: Any) -> str:
    """`aten.conv2d.default` is conv2d."""
    packet = getattr(operator, "overloadpacket", operator)
    return str(getattr(packet, "__name__", packet))


def _block(path: str, containers: set[str]) -> str:
    """The innermost numbered module around a path."""
    around = [part for part in (*_ancestors(path), path) if part in containers]
    return next((part for part in reversed(around) if part[-1:].isdecimal()), "")


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _merge_chains(graph: nx.DiGraph[Node]) -> None:
    """One box for steps in one block of which each feeds the next and nothing else."""
    for node in list(graph.nodes):
        before = list(graph.predecessors(node))
        if len(before) != 1 or graph.out_degree(before[0]) != 1:
            continue
        first, second = graph.nodes[before[0]]["box"], graph.nodes[node]["box"]
        if first.block != second.block or second.steps[0].name == "output" or first.steps[0].operator == "input":
            continue
        graph.nodes[node]["box"] = replace(second, steps=first.steps + second.steps)
        for source in list(graph.predecessors(before[0])):
            graph.add_edge(source, node)
        graph.remove_node(before[0])


def _give_groups(graph: nx.DiGraph[Node], written: Mapping[str, str | None]) -> None:
    """What a layer writes has its group; what norms of each task and other steps do, the one of all that feeds them."""
    last: dict[Node, str | None] = {}
    for node in graph.nodes:
        box = graph.nodes[node]["box"]
        fed = {last[source] for source in graph.predecessors(node)}
        group = next(iter(fed)) if len(fed) == 1 else None
        steps = []
        for step in box.steps:
            group = written.get(step.name, group)
            steps.append(replace(step, group=group))
        last[node] = group
        graph.nodes[node]["box"] = replace(box, steps=tuple(steps))
