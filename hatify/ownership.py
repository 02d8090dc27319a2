"""Whose the parameters are: a task's own or shared; of the shared ones, what a task uses and what is locked."""

from __future__ import annotations

from collections.abc import Iterable, Set
from functools import reduce

import torch
from torch import Tensor, nn

from hatify.errors import no_longer_a_parameter
from hatify.masks.registry import MaskRegistry
from hatify.rewriting.layers import hat_layers


class Ownership:
    """Answers for a converted network as it is when asked.

    task_indexed: the names of the parameters that each task has its own copy of.

    Whatever is asked raises ConversionError where a layer has lost a parameter that it was converted with.
    """

    def __init__(self, network: nn.Module, registry: MaskRegistry, task_indexed: Set[str]) -> None:
        self._network = network
        self._registry = registry
        self._task_indexed = task_indexed

    def shared(self) -> dict[str, nn.Parameter]:
        """The parameters that all tasks share, by name: neither kept once a task nor an embedding."""
        own = {id(self._parameter(name)) for name in self._task_indexed}
        own |= {id(parameter) for parameter in self._registry.parameters()}
        own |= {id(p) for layer in hat_layers(self._network) for p in layer.per_task.parameters()}
        return {name: parameter for name, parameter in self._network.named_parameters() if id(parameter) not in own}

    def of_task(self, task: int) -> set[int]:
        """The `id`s of the parameters and buffers that are a task's own."""
        held = [layer.per_task[task] for layer in hat_layers(self._network)]
        own = (tensor for module in held for tensor in (*module.parameters(), *module.buffers()))
        return {id(tensor) for tensor in (*self._registry.task_embeddings(task), *own)}

    def used(self, task: int, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """For shared parameters, bool of their shapes: the entries that a task's output depends on.

        They are those that it locks where it is the only trained task. names: of some of them; None: all.
        """
        chosen = self.shared() if names is None else {name: self._parameter(name) for name in names}
        return self._locked(chosen, self._registry.used(task), any_locked=True)

    def locked_by_trained(self) -> dict[str, Tensor]:
        """For shared parameters, bool of their shapes: what all the trained tasks have locked."""
        return self._locked(self.shared(), self._registry.taken(None), bool(self._registry.trained))

    def locked_for(self, task: int) -> dict[str, Tensor]:
        """For every parameter, bool of its shape: the entries that training a task must leave as they are."""
        any_locked = any(other != task for other in self._registry.trained)
        shared = self._locked(self.shared(), self._registry.taken(task), any_locked)
        own = self.of_task(task)
        return {
            name: shared[name]
            if name in shared
            else torch.full_like(parameter, id(parameter) not in own, dtype=torch.bool)
            for name, parameter in self._network.named_parameters()
        }

    def _parameter(self, name: str) -> nn.Parameter:
        try:
            return self._network.get_parameter(name)
        except AttributeError:
            raise no_longer_a_parameter(name) from None

    def _locked(self, shared: dict[str, nn.Parameter], taken: Tensor, any_locked: bool) -> dict[str, Tensor]:
        """For shared parameters, bool of their shapes: what is locked where these features are taken.

        A parameter without a lock rule is locked whole, if anything is. One with several, since it was tied to another
        after the conversion, is locked where any of them says so.
        """
        table = self._registry.locks
        rules: dict[int, list[str]] = {}
        for name in table.names:
            rules.setdefault(id(self._parameter(name)), []).append(name)

        def lock(parameter: nn.Parameter) -> Tensor:
            locked = [table.lock(name, taken, any_locked, parameter.shape) for name in rules.get(id(parameter), ())]
            if not locked:
                return torch.full_like(parameter, any_locked, dtype=torch.bool)
            return reduce(torch.logical_or, locked)

        return {name: lock(parameter) for name, parameter in shared.items()}


def dtype_of(network: nn.Module, registry: MaskRegistry) -> torch.dtype:
    """The numbers that a network itself computes with, whatever its masks' are."""
    embeddings = set(registry.parameters())
    own = (p.dtype for p in network.parameters() if p not in embeddings and p.is_floating_point())
    return next(own, torch.get_default_dtype())
