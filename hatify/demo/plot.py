"""The demo's results as a picture."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hatify.demo.results import NetworkResult, SequenceResult

CHANCE = 0.5


def draw(results: Mapping[str, NetworkResult], digits: Sequence[tuple[int, int]]) -> bytes:
    """A PNG with a row a network: both accuracy matrices, and the mean accuracy on the tasks so far."""
    labels = [f"{first}/{second}" for first, second in digits]
    figure = Figure(figsize=(13, 4.2 * len(results)), layout="constrained")
    rows = figure.subplots(len(results), 3, squeeze=False)
    for (hat, fine_tuning, course), (name, result) in zip(rows, results.items(), strict=True):
        _draw_matrix(hat, result.hat, labels, f"{name} with HAT")
        _draw_matrix(fine_tuning, result.fine_tuning, labels, f"{name}, fine-tuned")
        _draw_course(course, result, labels, name)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def _draw_matrix(axes: Axes, result: SequenceResult, labels: Sequence[str], title: str) -> None:
    matrix = np.full((len(labels), len(labels)), np.nan)
    for after, row in enumerate(result.accuracy):
        matrix[after, : len(row)] = row
        for task, accuracy in enumerate(row):
            percent = f"{100 * accuracy:.1f}"
            axes.text(task, after, percent, ha="center", va="center", color=_readable(accuracy))
    axes.imshow(matrix, vmin=CHANCE, vmax=1, cmap="viridis")
    axes.set_title(f"{title}: accuracy (%)")
    axes.set_xlabel("on task")
    axes.set_ylabel("after task")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)


def _readable(accuracy: float) -> str:
    return "black" if accuracy > (1 + CHANCE) / 2 else "white"


def _draw_course(axes: Axes, result: NetworkResult, labels: Sequence[str], title: str) -> None:
    for name, sequence, style in (("HAT", result.hat, "o-"), ("fine-tuned", result.fine_tuning, "s--")):
        axes.plot([100 * np.mean(row) for row in sequence.accuracy], style, label=name)
    axes.set_title(f"{title}: mean accuracy so far (%)")
    axes.set_xlabel("after task")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylim(100 * CHANCE - 10, 102)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
