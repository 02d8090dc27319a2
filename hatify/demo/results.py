"""What the demo found out, as plain data that JSON can hold."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from hatify.masks.capacity import GroupCapacity


@dataclass
class SequenceResult:
    """One learner on all tasks. Row i, column j (j <= i) of a matrix is about task j after task i.

    `accuracy`: share of test images answered correctly, 0 to 1.
    `unchanged`: whether the test logits are, to the last bit, those of right after task j was learned.
    """

    accuracy: list[list[float]] = field(default_factory=list)
    unchanged: list[list[bool]] = field(default_factory=list)

    @property
    def forgetting(self) -> list[list[float]]:
        """Accuracy right after task j was learned, less that after task i: negative where it has risen."""
        return [[self.accuracy[task][task] - accuracy for task, accuracy in enumerate(row)] for row in self.accuracy]

    @property
    def average_accuracy(self) -> float:
        """Mean accuracy over all tasks, after the last."""
        return fmean(self.accuracy[-1])

    @property
    def average_forgetting(self) -> float:
        """Mean forgetting, after the last task, over all tasks before it."""
        return fmean(self.forgetting[-1][:-1])

    @property
    def changed_cells(self) -> list[tuple[int, int]]:
        """(i, j) wherever `unchanged` is False."""
        return [
            (after, task)
            for after, row in enumerate(self.unchanged)
            for task, unchanged in enumerate(row)
            if not unchanged
        ]

    def as_dict(self) -> dict[str, Any]:
        """All of the above under its own names."""
        return {
            "accuracy": self.accuracy,
            "forgetting": self.forgetting,
            "logits_unchanged": self.unchanged,
            "average_accuracy": self.average_accuracy,
            "average_forgetting": self.average_forgetting,
        }


@dataclass(frozen=True)
class NetworkResult:
    """One network: with HAT, by fine-tuning, and what HAT's masks use of each mask group."""

    hat: SequenceResult
    fine_tuning: SequenceResult
    capacity: Mapping[str, GroupCapacity]

    def as_dict(self) -> dict[str, Any]:
        """All of the above under its own names."""
        return {
            "hat": self.hat.as_dict(),
            "fine_tuning": self.fine_tuning.as_dict(),
            "capacity": {name: asdict(group) for name, group in self.capacity.items()},
        }
