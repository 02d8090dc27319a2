"""Learning one task: progress, mask scale, regularizer, and the locks that hold meanwhile."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hatify.config import HATConfig
from hatify.errors import TrainingWarning, warn
from hatify.masks.registry import MaskRegistry
from hatify.masks.regularization import regularization, tariff
from hatify.runtime.gradients import compensation, gated_gradient
from hatify.runtime.schedule import scheduled_scale


class LearningTask:
    """A task being learned, from `net.learn`.

    locks: of the parameters that have locked entries, see `locks.compact`.
    task_id: the task. steps: optimizer steps of the whole task, those before an interruption included; None where
        `progress` is set by hand.
    progress: how far the task is, in [0, 1]; it moves on with each optimizer step.
    mask_scale: the scheduled mask scale at the present progress. trained_before: the tasks that had been trained when
        learning began. default_task: the task of calls that name none, see `HATModule.set_task`.
    """

    def __init__(
        self,
        registry: MaskRegistry,
        config: HATConfig,
        task_id: int,
        steps: int | None,
        locks: Mapping[nn.Parameter, Tensor],
    ) -> None:
        self.task_id = task_id
        self.steps = steps
        self.trained_before = tuple(registry.trained)
        self.default_task: int | None = task_id
        self._registry = registry
        self._config = config
        self._tariff = tariff(registry, task_id, mode=config.regularizer, quota=config.quota)
        # In one place for the whole task: compiled graphs know the addresses of what a network holds.
        self._scale = torch.empty((), dtype=self._tariff.free.dtype, device=self._tariff.free.device)
        self._steps_before = registry.interrupted.get(task_id, 0)
        self.progress = 0.0
        self._schedule(self._steps_before)
        self._locks = {id(p): lock for p, lock in locks.items()}
        self._zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._embeddings: dict[int, Tensor] = {id(e): e for e in registry.task_embeddings(task_id)}
        self._used_scale: Tensor | float | None = None
        self._factors: dict[int, tuple[Tensor, int]] = {}  # see `_compensations`
        self._warned_binary = False

    @property
    def progress(self) -> float:
        """How far the task is, in [0, 1]; the mask scale follows it."""
        return self._progress

    @progress.setter
    def progress(self, progress: float) -> None:
        config = self._config
        self._progress = progress
        self.mask_scale = scheduled_scale(config.schedule, progress, config.s_max, config.schedule_cycles)
        self._scale.fill_(self.mask_scale)
        self._factors = {}

    def scale(self) -> Tensor:
        """The mask scale as a scalar tensor of its own: the next step doesn't change what backward still reads.

        A number, which changes with each step, would be compiled anew each time.
        """
        return self._scale.clone()

    def regularization(self) -> Tensor:
        """What the task pays for features that no other task has taken, a scalar; see `HATConfig.regularizer`."""
        return regularization(self._registry.masks(self.task_id, self.scale()), self._tariff)

    def note_scale(self, mask_scale: Tensor | float | None) -> None:
        """Note the scale of the last pass with gradients (None: binary masks): the compensation divides by it."""
        self._used_scale = mask_scale
        self._factors = {}

    def step_taken(self, count: int) -> None:
        """Move on after the `count`-th optimizer step, and clamp the embeddings."""
        taken = self._registry.interrupted[self.task_id] = self._steps_before + count
        self._schedule(taken)
        limit = self._config.embedding_limit
        embeddings = list(self._embeddings.values())
        if embeddings:
            with torch.no_grad():
                torch._foreach_clamp_min_(embeddings, -limit)
                torch._foreach_clamp_max_(embeddings, limit)

    def _schedule(self, taken: int) -> None:
        """Set the progress after so many optimizer steps, unless it is set by hand."""
        if self.steps is not None:
            self.progress = min(taken / self.steps, 1.0)

    def gradient(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        """A parameter's gradient as this task may use it."""
        self._warn_if_binary()
        if id(parameter) in self._locks:
            return gated_gradient(gradient, self._locks[id(parameter)], self._zero_like(gradient))
        if id(parameter) in self._embeddings and self._config.compensation:
            return self._compensated(parameter, gradient)
        return gradient

    def _zero_like(self, gradient: Tensor) -> Tensor:
        key = gradient.dtype, gradient.device
        if key not in self._zeros:
            self._zeros[key] = torch.zeros((), dtype=gradient.dtype, device=gradient.device)
        return self._zeros[key]

    def _warn_if_binary(self) -> None:
        if self._used_scale is None and not self._warned_binary:
            self._warned_binary = True
            warn(
                f"task {self.task_id} is trained with binary masks, which get no gradient: call net.train() for the "
                "scheduled mask scale",
                TrainingWarning,
            )

    def _compensated(self, embedding: nn.Parameter, gradient: Tensor) -> Tensor:
        known = self._factors.get(id(embedding))
        if known is None or known[1] != embedding._version:  # the scale is another, or it has been written to since
            self._factors = self._compensations()
        factor, _ = self._factors[id(embedding)]
        return (gradient * factor).to(gradient.dtype)

    @torch.no_grad()
    def _compensations(self) -> dict[int, tuple[Tensor, int]]:
        """By each embedding's `id`, its factor and its version: for all at once, as a GPU is slow at small steps."""
        config = self._config
        scale = self._used_scale if self._used_scale is not None else self._scale
        embeddings = list(self._embeddings.values())
        factors = compensation(torch.cat(embeddings), scale, config.s_max, config.exponent_limit)
        split = factors.split([len(embedding) for embedding in embeddings])
        return {id(e): (factor, e._version) for e, factor in zip(embeddings, split, strict=True)}
