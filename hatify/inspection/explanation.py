"""One module of a converted network, in words: what it writes and reads, what locks it, where its gate went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

from hatify.blueprint import Blueprint
from hatify.errors import HatifyError, first_few
from hatify.inspection.features import FeatureNames, mask_name
from hatify.masks.registry import MaskRegistry
from hatify.rewriting.calls import OperatorCall, Slot
from hatify.rewriting.layers import HATLayer, gate

RESULT = "its result"


@dataclass(frozen=True)
class Side:
    """The features along one dimension of a parameter: those of mask groups, or none, which every task uses."""

    dimension: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ParameterExplanation:
    """What locks a parameter.

    kind: "shared"; "once a task"; or "whole": shared, and locked as soon as a task is trained. uses: for each use of
    the parameter, its sides: an entry is locked once a trained task has the features of all sides of a use.
    locked: the share of the entries that the trained tasks have locked.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    uses: tuple[tuple[Side, ...], ...]
    locked: float


@dataclass(frozen=True)
class ModuleExplanation:
    """A module in words when printed.

    operators: what it computes. writes, reads: mask groups. gates: by group that the module writes, what carries its
    mask: modules with the parameters that are multiplied, or the operator behind which it is multiplied.
    """

    path: str
    operators: tuple[str, ...]
    parameters: tuple[ParameterExplanation, ...]
    writes: tuple[str, ...]
    reads: tuple[str, ...]
    gates: dict[str, tuple[str, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_in_words(self))


def explain(
    net: GraphModule, registry: MaskRegistry, path: str, blueprint: Blueprint, locks: Mapping[str, Tensor]
) -> ModuleExplanation:
    """Explain one module.

    locks: by parameter name, the entries that the trained tasks have locked.

    Raises:
        HatifyError: the network has no module of that name with weights of its own.
    """
    layers = {name: module for name, module in net.named_modules() if isinstance(module, HATLayer)}
    if path not in layers:
        below = [name for name in layers if name.startswith(f"{path}.")] or list(layers)
        raise HatifyError(f"{path!r} is no layer with weights of its own; there are {first_few(below)}")
    features = FeatureNames(net, registry)
    own = {id(net.get_parameter(name)) for name in blueprint.task_indexed}
    locked = {id(net.get_parameter(name)): lock for name, lock in locks.items()}
    held = [
        _parameter(f"{path}.{name}", parameter, features, id(parameter) in own, locked.get(id(parameter)))
        for name, parameter in layers[path].named_parameters(recurse=False)
    ]
    writes = _groups(held, is_written=True)
    return ModuleExplanation(
        path,
        tuple(dict.fromkeys(str(call.operator) for call in layers[path].calls)),
        tuple(held),
        writes,
        _groups(held, is_written=False),
        {group: tuple(_carriers(net, group, features)) for group in writes},
    )


def _parameter(
    name: str, parameter: Tensor, features: FeatureNames, is_task_indexed: bool, lock: Tensor | None
) -> ParameterExplanation:
    shape = tuple(parameter.shape)
    if is_task_indexed:
        return ParameterExplanation(name, shape, "once a task", (), 0.0)
    uses = tuple(tuple(Side(d, groups) for d, groups in sides) for sides in features.sides_of(parameter))
    locked = lock.float().mean().item() if lock is not None and lock.numel() else 0.0
    return ParameterExplanation(name, shape, "shared" if uses else "whole", uses, locked)


def _groups(parameters: list[ParameterExplanation], is_written: bool) -> tuple[str, ...]:
    """The groups along the parameters' first sides, which a layer writes, or along their others, which it reads."""
    sides = [sides[:1] if is_written else sides[1:] for parameter in parameters for sides in parameter.uses]
    return tuple(dict.fromkeys(group for chosen in sides for side in chosen for group in side.groups))


def _carriers(net: GraphModule, group: str, features: FeatureNames) -> Iterator[str]:
    """Where a group's mask is multiplied."""
    for node in net.graph.nodes:
        if node.op == "call_module" and isinstance(layer := net.get_submodule(str(node.target)), HATLayer):
            call = layer.calls[node.kwargs.get("call", 0)]
            masks = [features.groups_of_mask(mask_name(mask)) for mask in node.kwargs.get("masks", ())]
            multiplied = [_multiplied(call, position) for position, groups in enumerate(masks) if group in groups]
            if multiplied:
                yield f"{node.target} ({', '.join(dict.fromkeys(part for parts in multiplied for part in parts))})"
        elif node.target is gate and group in features.groups_of_mask(mask_name(node.args[1])):
            gated = node.args[0]
            yield str(gated.target) if gated.op == "get_attr" else f"a multiplication behind {gated}"


def _multiplied(call: OperatorCall, position: int) -> Iterator[str]:
    """What one of a call's masks is multiplied with."""
    slots = [slot for value in call.arguments for slot in (value if isinstance(value, list) else [value])]
    for slot in slots:
        if isinstance(slot, Slot) and any(mask == position for mask, _ in slot.masks):
            yield slot.attribute or ("an input" if slot.operand is not None else "in place of a weight")
    if any(mask == position for mask, _ in call.result_masks):
        yield RESULT


def _in_words(module: ModuleExplanation) -> Iterator[str]:
    yield f"{module.path}: {', '.join(module.operators)}"
    yield f"  writes {_listed(module.writes) or 'no mask group: every task uses what it writes'}"
    yield f"  reads {_listed(module.reads) or 'no mask group: every task uses what it reads'}"
    for parameter in module.parameters:
        size = " x ".join(map(str, parameter.shape))
        yield f"  {parameter.name} ({size}): {_lock_in_words(parameter)}"
    for group, carriers in module.gates.items():
        yield f"  the mask of {group!r} is carried by {first_few(carriers)}"


def _lock_in_words(parameter: ParameterExplanation) -> str:
    if parameter.kind == "once a task":
        return "each task has its own"
    if parameter.kind == "whole":
        return f"no rule follows it: locked whole once a task is trained; {parameter.locked:.0%} locked now"
    if not all(parameter.uses):
        return (
            f"one of its uses needs all of it: locked whole once a task is trained; {parameter.locked:.0%} locked now"
        )
    uses = " or ".join(" and ".join(_side_in_words(side) for side in use) for use in parameter.uses)
    return f"an entry is locked once a trained task uses {uses}; {parameter.locked:.0%} locked now"


def _side_in_words(side: Side) -> str:
    along = f" (dimension {side.dimension})"
    return f"its feature of {_listed(side.groups)}{along}" if side.groups else f"anything{along}"


def _listed(groups: tuple[str, ...]) -> str:
    return first_few([repr(group) for group in groups])
