"""The optimizer guard: momentum and weight decay move entries whose gradient is zero; here they are put back."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hatify.errors import TrainingError
from hatify.runtime.kept import Kept, put_back

Network = TypeVar("Network", bound=nn.Module)

_GUARDS: list[OptimizerGuard] = []  # those of the tasks that are being learned
_BEGUN: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # a step that has not ended
_FORBIDDEN: weakref.WeakKeyDictionary[nn.Module, Callable[[Any], bool]] = weakref.WeakKeyDictionary()  # by network


class OptimizerGuard:
    """Restores locked entries bitwise after each step of any optimizer that holds one of the parameters.

    locks: of the parameters that have locked entries, see `locks.compact`. parameters: all of the network's.
    shared: those that all tasks share. buffers: those of other tasks.
    on_step: called after each such step with the number of the task's steps so far. What several optimizers do in turn
        is one step of the task, until one of them steps again.
    """

    def __init__(
        self,
        locks: Mapping[nn.Parameter, Tensor],
        parameters: Iterable[nn.Parameter],
        shared: Iterable[nn.Parameter],
        buffers: Iterable[Tensor],
        on_step: Callable[[int], None],
    ) -> None:
        self._kept = [Kept(parameter, lock) for parameter, lock in locks.items()]
        self._seen: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._buffers = [Kept(buffer, torch.ones((), dtype=torch.bool, device=buffer.device)) for buffer in buffers]
        of_all_tasks = set(shared)
        self._shared = [kept for kept in self._kept if kept.parameter in of_all_tasks]
        self._watched = {id(parameter) for parameter in parameters}
        self._steps = 0
        self._in_this_step: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._on_step = on_step

    def attach(self, stack: ExitStack) -> None:
        """Watch every optimizer until the stack is left, and restore once more then."""
        _watch_optimizers()
        stack.callback(self.restore)
        stack.callback(self._end_modes)
        _GUARDS.append(self)
        stack.callback(_GUARDS.remove, self)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the locked entries back, and other tasks' buffers."""
        put_back(self._kept)
        put_back([kept for kept in self._buffers if kept.was_written()])

    @torch.no_grad()
    def reload(self) -> None:
        """Keep the values that there are now: the network is in another state, with other trained tasks."""
        for kept in (*self._kept, *self._buffers):
            kept.reload()

    def is_unmoved(self) -> bool:
        """Whether nothing needs to be put back."""
        return all(kept.is_unmoved() for kept in (*self._kept, *self._buffers))

    @torch.no_grad()
    def restore_written(self, shared_only: bool) -> None:
        """Put back what something beside optimizers has written to: a constraint, a loop by hand.

        shared_only: not what other tasks alone have, which there is a lot of.
        """
        put_back([kept for kept in (self._shared if shared_only else self._kept) if kept.was_written()])

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, is_whole: bool) -> None:
        """Restore what a step of this optimizer may have moved.

        is_whole: False for what a subclass's step does behind the step of its base class.
        """
        if not _holds_any(optimizer, self._watched):
            return
        # The many parameters of other tasks have no gradient, and most optimizers leave them alone.
        moved = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        put_back([kept for kept in self._kept if id(kept.parameter) in moved or kept.was_written()])
        self._seen.add(optimizer)
        if is_whole:
            if not self._in_this_step or optimizer in self._in_this_step:
                self._in_this_step.clear()
                self._steps += 1
            self._in_this_step.add(optimizer)
            self._on_step(self._steps)

    def _end_modes(self) -> None:
        """Optimizers with modes of their own (schedule-free) write to the weights when they go to eval mode: now."""
        for optimizer in list(self._seen):
            to_eval_mode = getattr(optimizer, "eval", None)
            if callable(to_eval_mode):
                to_eval_mode()


def _holds_any(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    """Whether an optimizer holds any of the parameters with these `id`s."""
    return any(not parameters.isdisjoint(map(id, group["params"])) for group in optimizer.param_groups)


def refuse_steps(net: Network, forbidden: Callable[[Network], bool]) -> None:
    """Refuse each step of an optimizer that holds a parameter of `net` while `forbidden(net)`, as long as `net` lives.

    forbidden: a function that does not keep `net` alive.
    """
    _watch_optimizers()
    _FORBIDDEN[net] = forbidden


@functools.cache
def _watch_optimizers() -> None:
    """For good: a hook that goes with its network may go just while an optimizer calls its hooks, which is an error."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for net, forbidden in list(_FORBIDDEN.items()):
        if forbidden(net) and _holds_any(optimizer, {id(p) for p in net.parameters()}):
            raise TrainingError(
                "an optimizer step outside net.learn would change the trained tasks: "
                "take it inside `with net.learn(task_id, steps=n)`"
            )
    _BEGUN.add(optimizer)


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Where a step calls that of its base class, both end here: the first end is that of a whole step."""
    is_whole = optimizer in _BEGUN
    _BEGUN.discard(optimizer)
    for guard in list(_GUARDS):
        guard.after_step(optimizer, is_whole)
