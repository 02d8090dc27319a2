"""The mask registry: every task's embeddings, and the masks that a forward pass asks for."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hatify.config import EmbeddingInitialization
from hatify.errors import InputError, TaskError, TrainingError, TrainingWarning, warn
from hatify.masks.initialization import initial_embedding
from hatify.masks.locks import LockTable, Terms
from hatify.masks.positions import PositionHolder
from hatify.names import numbered

__all__ = ["MaskGroup", "MaskRegistry"]


@dataclass(frozen=True, eq=False)
class MaskGroup:
    """Coupled features: one mask gates every module that writes or reads them.

    name: the first module that writes the group. members: the module paths that write or read it. start: the position
    of its first feature among those of all groups.
    """

    name: str
    num_features: int
    members: tuple[str, ...]
    start: int
    _registry: MaskRegistry = field(repr=False)

    def embedding(self, task_id: int) -> nn.Parameter:
        """The embeddings `e` [num_features] of a task, within `HATConfig.embedding_limit` of zero.

        Raises:
            TaskError: no such task.
        """
        return self._registry.embedding(self.name, self._registry.checked(task_id))

    def mask(self, task_id: int, scale: float) -> Tensor:
        """The soft mask `sigmoid(s * e)` [num_features] (Serra et al. 2018, eq. 1)."""
        return torch.sigmoid(scale * self.embedding(task_id))

    def binary_mask(self, task_id: int) -> Tensor:
        """The mask at inference, bool [num_features]: `e > 0`."""
        return self.embedding(task_id).detach() > 0

    def locked_mask(self, task_id: int | None) -> Tensor:
        """The features, bool [num_features], that trained tasks other than `task_id` have taken."""
        task = None if task_id is None else self._registry.checked(task_id)
        return self._registry.taken(task)[self.start : self.start + self.num_features]


class MaskRegistry(PositionHolder):
    """Embeddings by group and task.

    layout: (name, num_features, members) of each group, in graph order.
    trained: the trained tasks, in order. interrupted: tasks whose training has begun, and the optimizer steps that they
        have taken.
    fingerprints: by task, those of what it depends on, taken when its training ended.
    views: masks that are no group's own: positions among all features, group after group. Behind the last feature
        stand two constants: 1 (never masked) and 0 (always masked). `positions` holds them.
    locks: the lock rules of the shared parameters.
    """

    def __init__(
        self,
        layout: list[tuple[str, int, tuple[str, ...]]],
        views: Mapping[str, Tensor],
        lock_rules: Mapping[str, Terms],
        num_tasks: int,
        init: EmbeddingInitialization,
    ) -> None:
        super().__init__()
        self.init = init
        self.trained: list[int] = []
        self.interrupted: dict[int, int] = {}
        self.fingerprints: dict[int, dict[str, str]] = {}
        self.embeddings = nn.ModuleDict()
        self._keys: dict[str, str] = {}
        # Tuples of plain values: torch.compile looks at each of them once in a call.
        self.layout: tuple[tuple[str, int, tuple[str, ...]], ...] = tuple(layout)
        for name, _, _ in layout:
            self._keys[name] = _attribute_name(name, self.embeddings)
            self.embeddings[self._keys[name]] = nn.ParameterList()
        self._attributes = tuple(self._keys.values())
        self.views: dict[str, str] = {}
        for name, positions in views.items():
            self.views[name] = f"positions_{len(self.views)}"
            self.positions[self.views[name]] = positions
        self.locks = LockTable(lock_rules)
        self.num_tasks = 0
        self.add_tasks(num_tasks)

    @property
    def groups(self) -> dict[str, MaskGroup]:
        """The mask groups by name, in graph order."""
        groups: dict[str, MaskGroup] = {}
        start = 0
        for name, size, members in self.layout:
            groups[name] = MaskGroup(name, size, members, start, self)
            start += size
        return groups

    @property
    def begun(self) -> tuple[int, ...]:
        """The tasks whose training has begun: the trained ones, in order, then those that were interrupted."""
        return tuple(dict.fromkeys([*self.trained, *self.interrupted]))

    def checked(self, task_id: Any) -> int:
        """A task id, as an integer.

        Raises:
            TaskError: no such task.
        """
        try:
            if isinstance(task_id, bool):
                raise TypeError
            task = operator.index(task_id)
        except TypeError:
            raise TaskError(f"a task id is an integer, got {type(task_id).__name__} {task_id!r}") from None
        if not 0 <= task < self.num_tasks:
            raise TaskError(
                f"task {task} does not exist: this network has the tasks 0 to {self.num_tasks - 1}; "
                "add_tasks(n) makes room for more"
            )
        return task

    def embedding(self, group: str, task_id: int) -> nn.Parameter:
        """A task's embeddings [num_features] of one group."""
        parameters: Any = self.embeddings[self._keys[group]]
        return parameters[task_id]

    def task_embeddings(self, task_id: int) -> list[nn.Parameter]:
        """A task's embeddings, group by group."""
        return [getattr(getattr(self.embeddings, name), str(task_id)) for name in self._attributes]

    def check_is_whole(self, task_id: int) -> None:
        """Refuse a process that has not a task's embeddings: FSDP leaves them in pieces, in other memory, or nowhere.

        Raises:
            TrainingError: it has not.
        """
        sizes = [size for _, size, _ in self.layout]
        for embedding, size in zip(self.task_embeddings(task_id), sizes, strict=True):
            if type(embedding) is not nn.Parameter or tuple(embedding.shape) != (size,):
                raise TrainingError(
                    "the network's parameters are sharded (FSDP), and what is locked is known of whole ones only: "
                    "train it with DistributedDataParallel, or in one process"
                )

    def add_tasks(self, count: int) -> None:
        """Room for `count` more tasks, with initial embeddings."""
        self.num_tasks += count
        for name, size, _ in self.layout:
            parameters: Any = self.embeddings[self._keys[name]]
            for _ in range(count):
                embedding = initial_embedding(size, self.num_tasks, self.init)
                if len(parameters):
                    embedding = embedding.to(parameters[0])
                parameters.append(nn.Parameter(embedding))

    @torch.no_grad()
    def forget(self, task_id: int) -> None:
        """Make a task a new one."""
        for embedding in self.task_embeddings(task_id):
            embedding.copy_(initial_embedding(embedding.numel(), self.num_tasks, self.init))
        self.trained = [task for task in self.trained if task != task_id]
        self.interrupted.pop(task_id, None)
        self.fingerprints.pop(task_id, None)

    @property
    def dtype(self) -> torch.dtype:
        """The embeddings' type of numbers, and so the masks'."""
        return self.task_embeddings(0)[0].dtype if self.layout else torch.get_default_dtype()

    def masks(self, task_id: int, mask_scale: Tensor | float | None) -> Tensor:
        """A task's masks of all features [num_features], group after group.

        mask_scale: None for binary masks.
        """
        if not self.layout:
            return torch.zeros(0)
        embeddings = torch.cat(tuple(self.task_embeddings(task_id)))
        if mask_scale is None:
            return (embeddings > 0).to(embeddings.dtype)
        return torch.sigmoid(mask_scale * embeddings)

    def forward(self, task_id: int | None, mask_scale: Tensor | float | None) -> dict[str, Tensor | None]:
        """Every mask that the graph asks for, by name; None where there is no task."""
        names = [name for name, _, _ in self.layout]
        if task_id is None or not names:
            return dict.fromkeys([*names, *self.views])
        masks = self.masks(task_id, mask_scale)
        by_name: dict[str, Tensor | None] = {}
        by_name.update(zip(names, masks.split([size for _, size, _ in self.layout]), strict=True))
        if self.views:
            by_name.update(self._masks_of_views(masks))
        return by_name

    def _masks_of_views(self, masks: Tensor) -> Iterator[tuple[str, Tensor]]:
        """By name. One index for all: what its backward costs, on a GPU above all, hardly depends on its length."""
        with_constants = torch.cat([masks, masks.new_ones(1), masks.new_zeros(1)])
        positions = [self.positions[name] for name in self.views.values()]
        masks_of_all = with_constants[torch.cat([own.flatten() for own in positions])]
        each = masks_of_all.split([own.numel() for own in positions])
        for name, own, mask in zip(self.views, positions, each, strict=True):
            yield name, mask if own.dim() == 1 else mask.reshape(own.shape)

    @torch.no_grad()
    def taken(self, task_id: int | None) -> Tensor:
        """What trained tasks other than `task_id` have taken, bool, by position: all features, then the constants.

        The constant 1 counts as taken as soon as there is such a task, the constant 0 never.
        """
        others = [t for t in self.trained if t != task_id]
        count = sum(size for _, size, _ in self.layout)
        device = self.task_embeddings(0)[0].device if self.layout else None
        taken = torch.zeros(count + 2, dtype=torch.bool, device=device)
        for other in others:
            taken |= self.used(other)
        return taken

    @torch.no_grad()
    def used(self, task_id: int) -> Tensor:
        """What one task uses, by position as in `taken`."""
        constants = torch.tensor([True, False], device=self.task_embeddings(0)[0].device if self.layout else None)
        return torch.cat([*(embedding > 0 for embedding in self.task_embeddings(task_id)), constants])

    def get_extra_state(self) -> Tensor:
        """What has been trained, int64 [2 * num_tasks, 2]: part of each state dict, since what is locked depends on it.

        One row for each trained task, in order: its id and -1. One for each interrupted task: its id and its steps. The
        rest is -1: the shape stays the same, for averages of state dicts.
        """
        rows = [*((task, -1) for task in self.trained), *self.interrupted.items()]
        return torch.tensor([*rows, *[(-1, -1)] * (2 * self.num_tasks - len(rows))], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:
        state = state.to(torch.int64)  # an average of state dicts has no integers
        lost = set(self.trained)
        begun = [(task, steps) for task, steps in state.tolist() if task >= 0]
        self.trained = [task for task, steps in begun if steps < 0]
        self.interrupted = {task: steps for task, steps in begun if steps >= 0}
        lost -= set(self.trained)
        if lost:
            warn(
                f"the state dict that was loaded knows the trained tasks {sorted(lost)} as untrained: nothing locks "
                "them now. Where it was taken inside `net.learn(t)`, enter and leave that once more: then t is trained",
                TrainingWarning,
            )

    def check_extra_state(self, state: Tensor) -> None:
        """Refuse a state that has more tasks than there is room for, see `get_extra_state`.

        Raises:
            InputError: there is not, or it is an average of states that differ.
        """
        if not torch.equal(state, state.to(torch.int64).to(state.dtype)):
            raise InputError(
                "the state dict is an average of networks that have not learned the same tasks in the same order: "
                "no network is in such a state"
            )
        last = int(state[:, 0].max()) if len(state) else -1
        if last >= self.num_tasks:
            raise InputError(
                f"the state dict has a task {last}, and this network has the tasks 0 to {self.num_tasks - 1}: "
                f"net.add_tasks({last + 1 - self.num_tasks}) makes room"
            )

    def extra_repr(self) -> str:
        return f"{len(self.layout)} groups, {sum(n for _, n, _ in self.layout)} features, {self.num_tasks} tasks"


def _attribute_name(name: str, taken: nn.ModuleDict) -> str:
    """A group's name as an attribute: `layer1.0.conv1` becomes `layer1_0_conv1`."""
    candidates = numbered(name.replace(".", "_"), "_")
    return next(name for name in candidates if name not in taken and not hasattr(nn.ModuleDict, name))
