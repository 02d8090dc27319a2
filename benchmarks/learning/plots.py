"""Lines over panels, from the results of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

Line = Sequence[tuple[float, Sequence[float]]]  # points: x, and y of each seed as a share


def plot(panels: Mapping[str, Mapping[str, Line]], path: Path, *, x: str, y: str, logarithmic: bool = False) -> None:
    """Draw panels beside each other, in percent: means over seeds, and from the lowest seed to the highest.

    panels: their lines, by title and label; a label has one colour. x, y: what the axes show. logarithmic: x goes by
    factors of two.
    """
    labels = list(dict.fromkeys(label for lines in panels.values() for label in lines))
    figure = Figure(figsize=(3.8 * len(panels) + 2.4, 3.4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        for label, points in lines.items():
            at, colour = [position for position, _ in points], f"C{labels.index(label)}"
            axes.plot(at, [100 * fmean(of_seeds) for _, of_seeds in points], colour, label=label, linewidth=1.4)
            low, high = ([100 * bound(of_seeds) for _, of_seeds in points] for bound in (min, max))
            axes.fill_between(at, low, high, color=colour, alpha=0.15)
        axes.set(title=title, xlabel=x, ylabel=y)
        if logarithmic:
            axes.set_xscale("log", base=2)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend(handles=list(handles.values()), loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path)
