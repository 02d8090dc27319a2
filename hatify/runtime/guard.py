"""The optimizer guard: momentum and weight decay move entries whose gradient is zero; here they are put back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from hatify.errors import TrainingError

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class _Kept:
    """A parameter with its lock (None: locked throughout) and the values that it keeps."""

    parameter: nn.Parameter
    lock: Tensor | None
    values: Tensor


class OptimizerGuard:
    """Restores locked entries bitwise after each step of any optimizer that holds one of the parameters.

    on_step: called after each such step with the number of steps that this optimizer has taken.
    """

    def __init__(
        self,
        locks: Mapping[nn.Parameter, Tensor],
        parameters: Iterable[nn.Parameter],
        on_step: Callable[[int], None],
    ) -> None:
        self._kept = [_keep(parameter, lock) for parameter, lock in locks.items() if bool(lock.any())]
        self._watched = {id(parameter) for parameter in parameters}
        self._steps: dict[int, int] = {}
        self._on_step = on_step

    def attach(self, stack: ExitStack) -> None:
        """Watch every optimizer until the stack is left, and restore once more then."""
        stack.callback(self.restore)
        stack.callback(register_optimizer_step_post_hook(self._after_step).remove)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the locked entries back."""
        for kept in self._kept:
            if kept.lock is None:
                kept.parameter.copy_(kept.values)
            else:
                kept.parameter.copy_(torch.where(kept.lock, kept.values, kept.parameter))

    @torch.no_grad()
    def reload(self) -> None:
        """Keep the values that the parameters have now: a state dict was loaded."""
        for kept in self._kept:
            kept.values.copy_(kept.parameter)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if holds_any(optimizer, self._watched):
            self.restore()
            self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
            self._on_step(max(self._steps.values()))


def holds_any(optimizer: torch.optim.Optimizer, parameters: set[int]) -> bool:
    """Whether an optimizer holds any of the parameters with these `id`s."""
    return any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])


def refuse_steps(net: Network, forbidden: Callable[[Network], bool]) -> None:
    """Refuse each step of an optimizer that holds a parameter of `net` while `forbidden(net)`, as long as `net` lives.

    forbidden: a function that does not keep `net` alive.
    """
    reference = weakref.ref(net)

    def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        alive = reference()
        if alive is None or not forbidden(alive):
            return
        if holds_any(optimizer, {id(p) for p in alive.parameters()}):
            raise TrainingError(
                "an optimizer step outside net.learn would change the trained tasks: "
                "take it inside `with net.learn(task_id, steps=n)`"
            )

    weakref.finalize(net, register_optimizer_step_pre_hook(before_step).remove)


def _keep(parameter: nn.Parameter, lock: Tensor) -> _Kept:
    return _Kept(parameter, None if bool(lock.all()) else lock, parameter.detach().clone())
