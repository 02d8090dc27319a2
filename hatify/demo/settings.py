"""What can be chosen about the demo."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class NetworkName(str, Enum):
    """The networks that the demo can train."""

    CNN = "cnn"
    RESNET10T = "resnet10t"


@dataclass(frozen=True)
class DemoSettings:
    """One run of the demo. `epochs` are passes over each task's training images."""

    networks: tuple[NetworkName, ...]
    epochs: int
    seed: int
    images_per_digit: int
    output: Path

    @property
    def results_file(self) -> Path:
        """The results as JSON."""
        return self.output / "results.json"

    @property
    def picture_file(self) -> Path:
        """The results as a plot."""
        return self.output / "results.png"
