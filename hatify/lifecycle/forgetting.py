"""Forgetting and renewal: what only the forgotten tasks use, or no task, is drawn anew; all else stays, bitwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hatify.errors import InputError
from hatify.lifecycle.initial_values import Initialization, drawn_anew
from hatify.masks.registry import MaskGroup, MaskRegistry
from hatify.ownership import Ownership
from hatify.rewriting.heads import reset_task
from hatify.rewriting.layers import HATLayer, hat_layers
from hatify.seeding import seeded


@dataclass(frozen=True)
class ForgetReport:
    """What forgetting changes.

    tasks: the forgotten tasks. entries: by shared parameter, how many entries are drawn anew. features: by mask group,
    how many features are freed. dry_run: True if nothing was changed.
    """

    tasks: tuple[int, ...]
    entries: dict[str, int]
    features: dict[str, int]
    dry_run: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.tasks:
            return "no task to forget"
        tasks = f"task{'s' * (len(self.tasks) > 1)} {', '.join(map(str, self.tasks))}"
        return (
            f"{tasks} {'would be forgotten' if self.dry_run else 'forgotten'}: {sum(self.entries.values()):,} entries "
            f"of {sum(map(bool, self.entries.values()))} shared parameters drawn anew, "
            f"{sum(self.features.values()):,} features of {sum(map(bool, self.features.values()))} mask groups freed"
        )


def forget(
    net: nn.Module,
    ownership: Ownership,
    registry: MaskRegistry,
    heads: Sequence[str],
    initialization: Initialization,
    tasks: Sequence[int],
    *,
    seed: int | None,
    dry_run: bool,
) -> ForgetReport:
    """Make tasks as if they had never been trained; see `HATModule.forget`. heads: paths of each task's own head."""
    kept = [task for task in registry.begun if task not in tasks]
    shared = ownership.shared()
    used = {task: ownership.used(task, shared) for task in (*tasks, *kept)}
    entries = _entries_to_forget(shared, [used[t] for t in tasks], [used[t] for t in kept])
    counts = {name: int(renewed.sum()) for name, renewed in entries.items()}
    report = ForgetReport(tuple(tasks), counts, _freed_features(registry, tasks, kept), dry_run)
    if not dry_run:
        named = dict(net.named_parameters(remove_duplicate=False))
        with seeded(seed):
            draw_anew(named, entries, initialization)
            for task in tasks:
                registry.forget(task)
                _begin_anew(net, task, heads, initialization, named)
    return report


def _begin_anew(
    net: nn.Module,
    task: int,
    heads: Sequence[str],
    initialization: Initialization,
    named: Mapping[str, nn.Parameter],
) -> None:
    """Let what is a task's own be as a new task's. named: the network's parameters, by all their names."""
    for layer in hat_layers(net):
        reset_task(layer, task)
    for path in heads:
        head = net.get_submodule(path)
        if isinstance(head, HATLayer):
            _draw_head_anew(head.per_task[task], path, named, initialization)


def unused_entries(parameters: Mapping[str, nn.Parameter], kept: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """For each parameter, bool of its shape: the entries that no kept task uses.

    kept: for each such task, the entries that it uses, by parameter.
    """
    return {
        name: _of_none_kept(torch.ones_like(parameter, dtype=torch.bool), (), [used[name] for used in kept])
        for name, parameter in parameters.items()
    }


def _entries_to_forget(
    parameters: Mapping[str, nn.Parameter],
    forgotten: Sequence[Mapping[str, Tensor]],
    kept: Sequence[Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """For each parameter, bool of its shape: the entries that forgotten tasks alone use.

    An entry that is no finite number goes with them, whoever left it, unless a kept task uses it.

    forgotten, kept: for each such task, the entries that it uses, by parameter.
    """

    return {
        name: _of_none_kept(~parameter.isfinite(), [used[name] for used in forgotten], [used[name] for used in kept])
        for name, parameter in parameters.items()
    }


def _freed_features(registry: MaskRegistry, forgotten: Sequence[int], kept: Sequence[int]) -> dict[str, int]:
    """By mask group, how many features forgotten tasks alone use."""

    def freed(group: MaskGroup) -> int:
        none = torch.zeros_like(group.embedding(0), dtype=torch.bool)
        return int(_of_none_kept(none, map(group.binary_mask, forgotten), map(group.binary_mask, kept)).sum())

    return {name: freed(group) for name, group in registry.groups.items()}


def _of_none_kept(chosen: Tensor, forgotten: Iterable[Tensor], kept: Iterable[Tensor]) -> Tensor:
    """What is chosen or used by a forgotten task, but by no task that is kept; all of them bool of one shape."""
    for used in forgotten:
        chosen = chosen | used
    for used in kept:
        chosen = chosen & ~used
    return chosen


@torch.no_grad()
def draw_anew(
    parameters: Mapping[str, nn.Parameter], entries: Mapping[str, Tensor], initialization: Initialization
) -> None:
    """Give entries fresh values, each as its layer draws them. parameters: all of the network, by all their names."""
    _overwrite(parameters, entries, lambda name: drawn_anew(initialization[name], name, parameters))


@torch.no_grad()
def put_back(
    parameters: Mapping[str, nn.Parameter], entries: Mapping[str, Tensor], values: Mapping[str, Tensor]
) -> None:
    """Give entries the values that they have elsewhere. parameters: all of the network, by all their names.

    Raises:
        InputError: no state dict, or one without a parameter, or with another shape for it. Nothing is changed then.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"renew takes a state dict, got a {type(values).__name__}: give model.state_dict()")
    names: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        names.setdefault(id(parameter), []).append(name)
    given = {name: _value_of(names[id(parameters[name])], parameters[name], values) for name in entries}
    _overwrite(parameters, entries, lambda name: given[name].to(parameters[name]))


def _value_of(names: Sequence[str], parameter: nn.Parameter, values: Mapping[str, Any]) -> Tensor:
    """A parameter's value in a state dict, which may hold it by any of its names."""
    advice = "give the state dict of the model that was converted"
    name = next((name for name in names if name in values), None)
    if name is None:
        raise InputError(f"no values for {names[0]!r}: {advice}")
    value = values[name]
    if not isinstance(value, Tensor) or value.is_meta or value.layout is not torch.strided:
        raise InputError(f"the values for {name!r} are no dense tensor with data: {advice}")
    if value.is_complex() and not parameter.is_complex():
        raise InputError(f"complex values for {name!r}, which is real: {advice}")
    if value.shape != parameter.shape:
        raise InputError(
            f"values of shape {tuple(value.shape)} for {name!r}, which has {tuple(parameter.shape)}: {advice}"
        )
    return value


def _overwrite(
    parameters: Mapping[str, nn.Parameter], entries: Mapping[str, Tensor], values: Callable[[str], Tensor]
) -> None:
    """values: those of a parameter, by its name; asked for only where an entry is to have its own."""
    for name, chosen in entries.items():
        if bool(chosen.any()):
            parameter = parameters[name]
            parameter.copy_(torch.where(chosen, values(name), parameter))


@torch.no_grad()
def _draw_head_anew(
    head: nn.Module, path: str, parameters: Mapping[str, nn.Parameter], initialization: Initialization
) -> None:
    """Give a forgotten task's head fresh values, as its layer draws them.

    As a copy of the model's head, which it was at first, it would read off what other tasks' features still tell of
    its task. One that has a size of its own is drawn anew with the rest of its layer.

    head: holds the task's own parameters by the names that the layer at `path` has for them.
    """
    for name, parameter in head.named_parameters():
        full_name = f"{path}.{name}"
        if parameter.shape == parameters[full_name].shape:
            parameter.copy_(drawn_anew(initialization[full_name], full_name, parameters))
