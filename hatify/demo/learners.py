"""Two ways to learn tasks one after another: with HAT, and by fine-tuning.

In both each task has a head of its own and is known at inference, and both use the same optimizer and schedule.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.optimizer import ParamsT

from hatify import hatify
from hatify.demo.data import IMAGE_SHAPE, LabelledImages
from hatify.demo.networks import MultiHeadNetwork, build_network
from hatify.demo.settings import NetworkName

CLASSES_PER_TASK = 2

LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2

# A mask embedding has to cross zero, one unit away, within the few soft steps of a task.
MASK_LEARNING_RATE = 5e-2
REGULARIZATION = 0.75


class Learner(Protocol):
    """Learns one task after another."""

    def learn(self, task_id: int, data: LabelledImages, epochs: int, after_step: Callable[[], None]) -> None:
        """Learn the task; call `after_step` after each optimizer step."""

    def logits(self, task_id: int, images: Tensor) -> Tensor:
        """The network's answer, in evaluation mode, on images of the task: [N, 1, 28, 28] -> [N, 2]."""


class HATLearner:
    """A network converted by hatify: each task has its masks, and what earlier tasks use is locked."""

    def __init__(self, name: NetworkName, num_tasks: int) -> None:
        self.network = hatify(
            build_network(name, CLASSES_PER_TASK),
            num_tasks=num_tasks,
            example_inputs=(torch.zeros(2, *IMAGE_SHAPE),),
            num_classes=[CLASSES_PER_TASK] * num_tasks,
        )

    def learn(self, task_id: int, data: LabelledImages, epochs: int, after_step: Callable[[], None]) -> None:
        """Learn the task under its masks, from hard to soft and back to hard."""
        with self.network.learn(task_id, steps=epochs * data.num_batches) as task:

            def loss(images: Tensor, labels: Tensor) -> Tensor:
                return cross_entropy(self.network(images), labels) + REGULARIZATION * task.regularization()

            self.network.train()
            optimizer = _optimizer(self.network.parameter_groups(MASK_LEARNING_RATE))
            _minimise(loss, optimizer, data, epochs, after_step)

    @torch.no_grad()
    def logits(self, task_id: int, images: Tensor) -> Tensor:
        """The answer under the task's binary masks."""
        self.network.eval()
        logits: Tensor = self.network(images, task_id=task_id)
        return logits


class FineTuningLearner:
    """The same network without HAT: each task moves the weights on from where the last one left them."""

    def __init__(self, name: NetworkName, num_tasks: int) -> None:
        self.network = MultiHeadNetwork(name, num_tasks, CLASSES_PER_TASK)

    def learn(self, task_id: int, data: LabelledImages, epochs: int, after_step: Callable[[], None]) -> None:
        """Learn the task with its own head."""

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(self.network(images, task_id), labels)

        self.network.train()
        _minimise(loss, _optimizer(self.network.parameters()), data, epochs, after_step)

    @torch.no_grad()
    def logits(self, task_id: int, images: Tensor) -> Tensor:
        """The answer of the task's head."""
        self.network.eval()
        logits: Tensor = self.network(images, task_id)
        return logits


def _optimizer(parameters: ParamsT) -> Optimizer:
    """AdamW, whose momentum and weight decay move also what has no gradient: HAT's locks must hold against it."""
    return AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)


def _minimise(
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    data: LabelledImages,
    epochs: int,
    after_step: Callable[[], None],
) -> None:
    schedule = CosineAnnealingLR(optimizer, T_max=epochs * data.num_batches)
    for _ in range(epochs):
        for images, labels in data.shuffled_batches():
            optimizer.zero_grad()
            loss(images, labels).backward()
            optimizer.step()
            schedule.step()
            after_step()
