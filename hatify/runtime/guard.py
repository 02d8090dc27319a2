"""The optimizer guard: momentum and weight decay move entries whose gradient is zero; here they are put back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@dataclass
class _Kept:
    """A parameter with its lock (None: locked throughout) and its values when the lock began."""

    parameter: nn.Parameter
    lock: Tensor | None
    values: Tensor
    version: int


class OptimizerGuard:
    """Restores locked entries bitwise after each step of any optimizer that holds one of the parameters.

    on_step: called after each such step with the number of steps that this optimizer has taken.
    """

    def __init__(self, locks: Mapping[nn.Parameter, Tensor], parameters: Iterable[nn.Parameter], on_step: Any) -> None:
        self._kept = [_keep(parameter, lock) for parameter, lock in locks.items() if bool(lock.any())]
        self._watched = {id(parameter) for parameter in parameters}
        self._steps: dict[int, int] = {}
        self._on_step = on_step

    def attach(self, stack: ExitStack) -> None:
        """Watch every optimizer until the stack is left."""
        stack.callback(register_optimizer_step_pre_hook(self._before_step).remove)
        stack.callback(register_optimizer_step_post_hook(self._after_step).remove)

    def _concerns(self, optimizer: torch.optim.Optimizer) -> bool:
        return any(id(p) in self._watched for group in optimizer.param_groups for p in group["params"])

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Values that were loaded since the last step (`load_state_dict`) are the ones to keep."""
        if self._concerns(optimizer):
            for kept in self._kept:
                if kept.parameter._version != kept.version:
                    kept.values.copy_(kept.parameter)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not self._concerns(optimizer):
            return
        for kept in self._kept:
            if kept.lock is None:
                kept.parameter.copy_(kept.values)
            else:
                kept.parameter.copy_(torch.where(kept.lock, kept.values, kept.parameter))
        self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
        self._on_step(max(self._steps.values()))
        for kept in self._kept:
            kept.version = kept.parameter._version


def _keep(parameter: nn.Parameter, lock: Tensor) -> _Kept:
    whole = bool(lock.all())
    return _Kept(parameter, None if whole else lock, parameter.detach().clone(), parameter._version)
