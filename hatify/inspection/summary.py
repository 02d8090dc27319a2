"""What a conversion has made of a model, and how much of it is in use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from torch.fx import GraphModule

from hatify.blueprint import Blueprint
from hatify.capture.opaque import OpaqueLeaf
from hatify.masks.capacity import capacity
from hatify.masks.registry import MaskRegistry
from hatify.rewriting.layers import gate, hat_layers
from hatify.tables import as_text


@dataclass(frozen=True)
class GroupSummary:
    """A mask group: its features, the modules that write or read them, and the features in use by trained task."""

    name: str
    num_features: int
    members: tuple[str, ...]
    used: dict[int, int]
    shared: int
    free: int


@dataclass(frozen=True)
class NetworkSummary:
    """A converted network; tables when printed.

    num_tasks: how many there is room for. trained: in the order of training. shared_parameters, parameters_per_task:
    entries, masks included in the latter. heads: modules kept once a task as its head. folded: masks that parameters or
    a layer's results carry. gates: masks that cost a multiplication of an activation. opaque: submodules called as they
    are. unknown: operators without a rule, and how often each occurs. whole: parameters that no rule follows, locked
    whole or kept once a task.
    """

    num_tasks: int
    trained: tuple[int, ...]
    shared_parameters: int
    parameters_per_task: int
    heads: tuple[str, ...]
    folded: int
    gates: int
    opaque: tuple[str, ...]
    unknown: dict[str, int]
    whole: tuple[str, ...]
    groups: tuple[GroupSummary, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __rich__(self) -> Group:
        return Group(self._facts(), self._table())

    def __str__(self) -> str:
        return as_text(self)

    def _facts(self) -> Table:
        facts = Table.grid("", "", padding=(0, 2))
        facts.add_row("tasks", f"{self.num_tasks}, trained: {', '.join(map(str, self.trained)) or 'none'}")
        facts.add_row("parameters", f"{self.shared_parameters:,} shared, {self.parameters_per_task:,} a task")
        facts.add_row("heads", ", ".join(self.heads) or "none")
        facts.add_row("masks", f"{self.folded} carried by layers, {self.gates} multiplied on their own")
        if self.opaque:
            facts.add_row("called as they are", ", ".join(self.opaque))
        if self.unknown:
            facts.add_row("no rule for", ", ".join(f"{name} ({count}x)" for name, count in self.unknown.items()))
        if self.whole:
            facts.add_row("not followed", ", ".join(self.whole))
        return facts

    def _table(self) -> Table:
        table = Table()
        table.add_column("mask group", overflow="fold")
        for column in ("modules", "features", *(f"task {task}" for task in self.trained), "shared", "free"):
            table.add_column(column, justify="right")
        for group in self.groups:
            used = [group.used[task] for task in self.trained]
            numbers = (len(group.members), group.num_features, *used, group.shared, group.free)
            table.add_row(group.name, *map(str, numbers))
        return table


def summarise(
    net: GraphModule, registry: MaskRegistry, blueprint: Blueprint, shared: tuple[str, ...]
) -> NetworkSummary:
    """The summary of a converted network. shared: the names of the parameters that all tasks share."""
    used = capacity(registry)
    entries = {name: parameter.numel() for name, parameter in net.named_parameters()}
    own = {id(p): p.numel() for layer in hat_layers(net) for p in layer.per_task[0].parameters()}
    own |= {id(p): p.numel() for p in registry.task_embeddings(0)}
    own_gates = net.graph.find_nodes(op="call_function", target=gate)
    on_parameters = sum(node.args[0].op == "get_attr" for node in own_gates)
    by_layers = sum(len(node.kwargs.get("masks", ())) for node in net.graph.find_nodes(op="call_module"))
    return NetworkSummary(
        num_tasks=registry.num_tasks,
        trained=tuple(registry.trained),
        shared_parameters=sum(entries[name] for name in shared),
        parameters_per_task=sum(own.values()),
        heads=blueprint.heads,
        folded=by_layers + on_parameters,
        gates=len(own_gates) - on_parameters,
        opaque=tuple(dict.fromkeys(path for path, module in net.named_modules() if isinstance(module, OpaqueLeaf))),
        unknown=dict(blueprint.unknown),
        whole=tuple(sorted(blueprint.unfollowed)),
        groups=tuple(
            GroupSummary(
                group.name,
                group.num_features,
                group.members,
                used[group.name].used,
                used[group.name].shared,
                used[group.name].free,
            )
            for group in registry.groups.values()
        ),
    )
