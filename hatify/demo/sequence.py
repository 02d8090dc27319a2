"""Learns the tasks in order and, after each, examines all tasks so far."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from hatify.demo.data import DigitTask
from hatify.demo.learners import Learner
from hatify.demo.results import SequenceResult


def learn_in_sequence(
    learner: Learner, tasks: Sequence[DigitTask], epochs: int, after_step: Callable[[int], None]
) -> SequenceResult:
    """Learn `tasks` one after another; `after_step(task_id)` is called after each optimizer step."""
    result = SequenceResult()
    remembered: list[Tensor] = []
    for task_id, task in enumerate(tasks):
        learner.learn(task_id, task.train, epochs, partial(after_step, task_id))
        logits = [learner.logits(seen, tasks[seen].test.images) for seen in range(task_id + 1)]
        remembered.append(logits[task_id])
        result.accuracy.append([_accuracy(now, tasks[seen].test.labels) for seen, now in enumerate(logits)])
        result.unchanged.append([_bitwise_equal(now, then) for now, then in zip(logits, remembered, strict=True)])
    return result


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(dim=1) == labels).sum()) / len(labels)


def _bitwise_equal(now: Tensor, then: Tensor) -> bool:
    return torch.equal(now.view(torch.int32), then.view(torch.int32))
