"""The command line's training loop: one task of classification, with AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset

from hatify.errors import InputError, TrainingError
from hatify.module import HATModule


@dataclass(frozen=True)
class Settings:
    """How a task is trained. mask_learning_rate: of the embeddings, which have far to go in few steps."""

    epochs: int
    batch_size: int
    learning_rate: float
    mask_learning_rate: float
    weight_decay: float
    regularization: float
    seed: int


def train_task(
    net: HATModule, task_id: int, data: Dataset[Any], settings: Settings, after_step: Callable[[float], None]
) -> None:
    """Train a task. after_step: called with the loss after each optimizer step.

    Raises:
        InputError: the examples do not fit the network, or the labels its head.
        TrainingError: the loss is no longer a finite number.
    """
    torch.manual_seed(settings.seed)
    loader = DataLoader(data, settings.batch_size, shuffle=True, drop_last=_size(data) > settings.batch_size)
    optimizer = _optimizer(net, settings)
    steps = num_steps(data, settings)
    schedule = CosineAnnealingLR(optimizer, T_max=steps)
    net.train()
    with net.learn(task_id, steps=steps) as task:
        for _ in range(settings.epochs):
            for inputs, labels in _batches(loader, net):
                loss = _loss(_logits(net(inputs)), labels) + settings.regularization * task.regularization()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                after_step(_finite(loss.item()))
        _settle(net, loader)


@torch.no_grad()
def accuracy(net: HATModule, task_id: int, data: Dataset[Any], batch_size: int) -> float:
    """The share of the examples that a task gets right under its binary masks."""
    net.eval()
    loader = DataLoader(data, batch_size)
    right = sum(
        int((_logits(net(x, task_id=task_id)).argmax(-1) == labels).sum()) for x, labels in _batches(loader, net)
    )
    return right / _size(data)


def num_steps(data: Dataset[Any], settings: Settings) -> int:
    """How many optimizer steps training takes."""
    full, rest = divmod(_size(data), settings.batch_size)
    return settings.epochs * (full or int(rest > 0))


@torch.no_grad()
def _settle(net: HATModule, loader: DataLoader[Any]) -> None:
    """A pass that learns nothing: batch norms' statistics may still be those of softer masks than the last."""
    if any(name.endswith("running_mean") for name, _ in net.named_buffers()):
        for inputs, _ in _batches(loader, net):
            net(inputs)


def _optimizer(net: HATModule, settings: Settings) -> Optimizer:
    groups = net.parameter_groups(settings.mask_learning_rate)
    return AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def _batches(loader: DataLoader[Any], net: HATModule) -> Iterator[tuple[Tensor, Tensor]]:
    device = next(net.parameters()).device
    example = next(iter(net.graph.find_nodes(op="placeholder"))).meta["val"]
    for inputs, labels in loader:
        if inputs.is_floating_point() != example.is_floating_point():
            raise InputError(f"the inputs are {inputs.dtype}, the network takes {example.dtype}")
        yield inputs.to(device), labels.to(device)


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise InputError(f"training needs a classifier, whose output is [batch, classes]; got {type(output).__name__}")
    return logits


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    classes = logits.shape[-1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"the labels are {int(labels.min())} to {int(labels.max())}, the head has {classes} classes")
    return cross_entropy(logits, labels)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss}: the task diverged; try a lower learning rate")
    return loss


def _size(data: Any) -> int:
    return len(data)
