"""The optimizer guard: momentum and weight decay move entries whose gradient is zero; here they are put back."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hatify.errors import TrainingError
from hatify.masks.locks import compact

Network = TypeVar("Network", bound=nn.Module)

LARGE = 2**18  # entries
_GUARDS: list[OptimizerGuard] = []  # those of the tasks that are being learned
_FORBIDDEN: weakref.WeakKeyDictionary[nn.Module, Callable[[Any], bool]] = weakref.WeakKeyDictionary()  # by network


class _Kept:
    """A parameter and the values that its locked entries keep.

    lock: see `locks.compact`.

    Of a large parameter only the block that has locks is kept: a copy of all the weights would tell in the memory that
    a step takes. Of a small one all is: to choose between two tensors is quicker than to write to a part of one.
    """

    def __init__(self, parameter: nn.Parameter, lock: Tensor) -> None:
        self.parameter = parameter
        self.block = _block(lock) if parameter.numel() >= LARGE else None
        self.lock = lock if self.block is None else compact(lock[self.block])
        self.reload()

    def reload(self) -> None:
        """Keep the values that the parameter has now."""
        self.values = self._present().clone()
        self.note_restored()

    def restore(self) -> None:
        """Give the locked entries their values back."""
        if self.block is None:
            torch.where(self.lock, self.values, self.parameter, out=self.parameter)
        elif self.lock.numel() == 1:  # the block has no free entry
            self.parameter[self.block] = self.values
        else:
            self.parameter[self.block] = torch.where(self.lock, self.values, self._present())
        self.note_restored()

    def note_restored(self) -> None:
        """Its locked entries are as they should be, until it is written to again."""
        self._version = self.parameter._version

    def may_have_moved(self) -> bool:
        """False where no optimizer moves it: the many parameters of other tasks, most of which nothing writes to."""
        return self.parameter.grad is not None or self.parameter._version != self._version

    def _present(self) -> Tensor:
        values = self.parameter.detach()
        return values if self.block is None else values[self.block]


def _restore(kept: Iterable[_Kept]) -> None:
    vectors: dict[tuple[torch.device, torch.dtype], list[_Kept]] = {}
    for each in kept:
        if each.parameter.dim() == 1 and each.block is None:
            vectors.setdefault((each.parameter.device, each.parameter.dtype), []).append(each)
        else:
            each.restore()
    for alike in vectors.values():
        _restore_vectors(alike)


def _restore_vectors(kept: Sequence[_Kept]) -> None:
    """All of one device and type at once: a GPU takes as long for each of them as for all."""
    parameters: list[Tensor] = [each.parameter for each in kept]
    sizes = [parameter.numel() for parameter in parameters]
    locks = torch.cat([each.lock.expand(size) for each, size in zip(kept, sizes, strict=True)])
    restored = torch.where(locks, torch.cat([each.values for each in kept]), torch.cat(parameters))
    torch._foreach_copy_(parameters, restored.split(sizes))
    for each in kept:
        each.note_restored()


def _block(lock: Tensor) -> tuple[Tensor | slice, ...]:
    """An index of all entries that share a row with a locked one, and a column, and so on."""
    dimensions = range(lock.dim())
    with_locks = [lock.movedim(d, 0).flatten(1).any(1) if lock.dim() > 1 else lock for d in dimensions]
    partial = [d for d in dimensions if not bool(with_locks[d].all())]
    block: list[Tensor | slice] = [slice(None)] * lock.dim()
    for position, d in enumerate(partial):
        shape = [-1 if other == position else 1 for other in range(len(partial))]
        block[d] = with_locks[d].nonzero().reshape(shape)
    return tuple(block)


class OptimizerGuard:
    """Restores locked entries bitwise after each step of any optimizer that holds one of the parameters.

    locks: of the parameters that have locked entries, see `locks.compact`.
    on_step: called after each such step with the number of steps that this optimizer has taken.
    """

    def __init__(
        self,
        locks: Mapping[nn.Parameter, Tensor],
        parameters: Iterable[nn.Parameter],
        on_step: Callable[[int], None],
    ) -> None:
        self._kept = [_Kept(parameter, lock) for parameter, lock in locks.items()]
        self._watched = {id(parameter) for parameter in parameters}
        self._steps: dict[int, int] = {}
        self._on_step = on_step

    def attach(self, stack: ExitStack) -> None:
        """Watch every optimizer until the stack is left, and restore once more then."""
        _watch_optimizers()
        stack.callback(self.restore)
        _GUARDS.append(self)
        stack.callback(_GUARDS.remove, self)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the locked entries back."""
        _restore(self._kept)

    @torch.no_grad()
    def reload(self) -> None:
        """Keep the values that the parameters have now: a state dict was loaded."""
        for kept in self._kept:
            kept.reload()

    @torch.no_grad()
    def _restore_moved(self) -> None:
        _restore([kept for kept in self._kept if kept.may_have_moved()])

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Restore what a step of this optimizer may have moved."""
        if holds_any(optimizer, self._watched):
            self._restore_moved()
            self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
            self._on_step(max(self._steps.values()))


def holds_any(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    """Whether an optimizer holds any of the parameters with these `id`s."""
    return any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])


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
        if forbidden(net) and holds_any(optimizer, {id(p) for p in net.parameters()}):
            raise TrainingError(
                "an optimizer step outside net.learn would change the trained tasks: "
                "take it inside `with net.learn(task_id, steps=n)`"
            )


def _after_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for guard in list(_GUARDS):
        guard.after_step(optimizer)
