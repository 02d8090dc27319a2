"""The heads: the last weighted layers, whose weights nothing but the output depends on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from torch.fx import Graph, Node

from hatify.analysis.effect import Effect
from hatify.analysis.nodes import is_parameter, locations, sources_of
from hatify.analysis.supports import Inference
from hatify.capture.calls import is_tensor
from hatify.errors import ConversionError


def find_last_layers(graph: Graph, effects: Mapping[Node, Effect]) -> tuple[Node, ...]:
    """The weighted calls that alone produce an output, but for operators without parameters.

    Their results reach nothing but the outputs, so no mask may gate them.
    """
    tail = _only_for_output(graph)
    behind: dict[Node, set[Node] | None] = {}
    for node in graph.nodes:
        behind[node] = _heads_behind(node, effects, behind) if node in tail and node in effects else None
    heads = set().union(*(behind[result] or () for result in graph.output_node().all_input_nodes))
    return tuple(node for node in graph.nodes if node in heads)


def find_heads(last_layers: Sequence[Node], weights: Collection[Node]) -> tuple[Node, ...]:
    """The last layers whose parameters are their own (a tied one is shared by all tasks)."""
    return tuple(node for node in last_layers if _owns_its_parameters(node, weights))


def heads_at(graph: Graph, inference: Inference, paths: Sequence[str]) -> tuple[Node, ...]:
    """The weighted calls whose parameters lie at the module paths that the user named."""
    heads: list[Node] = []
    for path in paths:
        found = [
            node
            for node in graph.nodes
            if _is_weighted(node, inference.effects) and path in _owners(node, inference.weights)
        ]
        if not found:
            raise ConversionError(f"no weighted layer at {path!r}: `heads` takes module paths such as 'fc'")
        heads += found
    return tuple(node for node in graph.nodes if node in heads)


def _only_for_output(graph: Graph) -> set[Node]:
    tail: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.users and all(user.op == "output" or user in tail for user in node.users):
            tail.add(node)
    return tail


def _heads_behind(
    node: Node, effects: Mapping[Node, Effect], behind: Mapping[Node, set[Node] | None]
) -> set[Node] | None:
    """The heads that produce a node that only outputs read; None if anything else has a part in it.

    behind: the same for the nodes before it.
    """
    if _is_weighted(node, effects):
        return {node}
    if effects[node].gates or effects[node].per_task:
        return None
    sources = [n for n in node.all_input_nodes if is_tensor(n) or n in effects]
    branches = [branch for source in sources if (branch := behind[source]) is not None]
    if not sources or len(branches) < len(sources):
        return None
    return set().union(*branches)


def _is_weighted(node: Node, effects: Mapping[Node, Effect]) -> bool:
    effect = effects.get(node)
    return effect is not None and bool(effect.uses) and not effect.per_task and not isinstance(effect.result, tuple)


def _owns_its_parameters(node: Node, weights: Collection[Node]) -> bool:
    parameters = list(_parameters(node, weights))
    return bool(parameters) and all(_serves_only(parameter, node, weights) for parameter in parameters)


def _serves_only(source: Node, node: Node, weights: Collection[Node]) -> bool:
    """Whether all that is computed from a parameter is computed for one call."""
    seen, open_nodes = {source}, [source]
    while open_nodes:
        users = [user for user in open_nodes.pop().users if user is not node and user not in seen]
        if not all(user in weights for user in users):
            return False
        seen.update(users)
        open_nodes += users
    return True


def _owners(node: Node, weights: Collection[Node]) -> set[str]:
    """The modules that hold the parameters of a call; of a parametrised weight, also the module that it belongs to."""
    names = [str(parameter.meta["name"]) for parameter in _parameters(node, weights)]
    return {name.rpartition(".")[0] for name in names} | {name.partition(".parametrizations.")[0] for name in names}


def _parameters(node: Node, weights: Collection[Node]) -> Iterator[Node]:
    for _, value in locations(node):
        yield from (source for source in sources_of(value, weights) if is_parameter(source))
