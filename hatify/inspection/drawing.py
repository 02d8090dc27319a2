"""A converted network as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hatify.inspection.colours import colour_of_group
from hatify.inspection.flow import Box
from hatify.inspection.folding import Folded
from hatify.inspection.picture import Picture, new_figure, not_installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FONT = 8.0  # points, as all lengths here
CHARACTER = 0.61 * FONT  # the width of one in a monospaced font
LINE = 1.35 * FONT
PADDING = 5.0
GAP_ACROSS, GAP_DOWN = 26.0, 20.0
LANE = 9.0  # between lines that pass other boxes
HEADLINE = "colour: the mask group that a box writes; white: every task uses what it writes; ◆: a mask is applied"


@dataclass(frozen=True)
class _Placed:
    """A box with its lines, one for each step, its centre and its size."""

    box: Box
    lines: tuple[str, ...]
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width / 2


def draw(flow: Folded, group_sizes: Mapping[str, int]) -> Picture:
    """A network as a picture of the size that it needs.

    group_sizes: by mask group, how many features it has.

    Raises:
        HatifyError: what drawing needs is not installed.
    """
    figure = new_figure()
    placed = _place(flow, group_sizes)
    passing = _lanes(flow, placed)
    left = min(p.x - p.width / 2 for p in placed) - 2 * GAP_ACROSS
    right = max([p.right for p in placed] + list(passing.values())) + 2 * GAP_ACROSS
    right = max(right, left + 0.62 * CHARACTER * len(HEADLINE) + 2 * GAP_ACROSS)
    bottom = max(p.y + p.height / 2 for p in placed) + GAP_DOWN
    figure.set_size_inches((right - left) / 72, (bottom + 2 * GAP_DOWN) / 72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left, right), ylim=(bottom, -2 * GAP_DOWN))
    axes.axis("off")
    axes.text(left + PADDING, -1.4 * GAP_DOWN, HEADLINE, fontsize=0.8 * FONT, color="#555555")
    _draw_blocks(axes, flow, placed)
    _draw_edges(axes, flow, placed, passing)
    for one in placed:
        _draw_box(axes, one, [colour_of_group(step.group, list(group_sizes)) for step in one.box.steps])
    return Picture(figure)


def _place(flow: Folded, group_sizes: Mapping[str, int]) -> list[_Placed]:
    """Boxes in rows: below all that feeds them, and side by side as igraph's Sugiyama layout has them.

    Raises:
        HatifyError: igraph is not installed.
    """
    try:
        import igraph
    except ModuleNotFoundError as missing:
        raise not_installed(missing) from None
    boxes, edges = flow.flow.boxes, sorted(flow.flow.edges)
    rows = _rows(len(boxes), edges)
    neighbours = [(a, b) for a, b in edges if rows[b] == rows[a] + 1]
    graph = igraph.Graph(n=len(boxes), edges=neighbours, directed=True)
    across = [point[0] for point in graph.layout_sugiyama(layers=rows, hgap=1)]
    texts = [_lines(box, group_sizes) for box in boxes]
    widths = [CHARACTER * max(map(len, lines)) + 2 * PADDING for lines in texts]
    heights = [LINE * len(lines) + 2 * PADDING for lines in texts]
    placed: dict[int, _Placed] = {}
    top = 0.0
    for row in range(max(rows, default=0) + 1):
        members = sorted((i for i in range(len(boxes)) if rows[i] == row), key=lambda i: across[i])
        height = max(heights[i] for i in members)
        x = -(sum(widths[i] for i in members) + GAP_ACROSS * (len(members) - 1)) / 2
        for i in members:
            placed[i] = _Placed(boxes[i], texts[i], x + widths[i] / 2, top + height / 2, widths[i], heights[i])
            x += widths[i] + GAP_ACROSS
        top += height + GAP_DOWN
    return [placed[i] for i in range(len(boxes))]


def _rows(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Of each box, the length of the longest way to it; what nothing feeds stands right above what it feeds."""
    rows = [0] * count
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        rows[b] = max(rows[b], rows[a] + 1)
    for source in set(range(count)) - {b for _, b in edges}:
        rows[source] = min((rows[b] - 1 for a, b in edges if a == source), default=0)
    return rows


def _lines(box: Box, group_sizes: Mapping[str, int]) -> tuple[str, ...]:
    """A line for each step; a group is named where it begins, unless it has its first writer's name."""
    lines: list[str] = []
    before = None
    for step in box.steps:
        name = step.name.removeprefix(f"{box.block}.") if box.block else step.name
        begins = step.group is not None and step.group not in (before, step.name)
        group = f"[{step.group}: {group_sizes[step.group]}]" if begins and step.group is not None else ""
        lines.append(" ".join(part for part in (name, step.operator, "◆" if step.gates else "", group) if part))
        before = step.group
    return tuple(lines)


def _lanes(flow: Folded, placed: Sequence[_Placed]) -> dict[tuple[int, int], float]:
    """For edges that pass other boxes, where to the right of all those they go down; short ones lie further in."""
    lanes: dict[tuple[int, int], float] = {}
    spans: list[tuple[float, float, float]] = []
    for a, b in sorted(flow.flow.edges, key=lambda edge: placed[edge[1]].y - placed[edge[0]].y):
        top, bottom = placed[a].y, placed[b].y
        passed = [p for p in placed if top < p.y < bottom]
        if not passed:
            continue
        x = max(p.right for p in (*passed, placed[a], placed[b])) + LANE
        while any(abs(x - other) < LANE and low < bottom and top < high for other, low, high in spans):
            x += LANE
        spans.append((x, top, bottom))
        lanes[a, b] = x
    return lanes


def _draw_blocks(axes: Axes, flow: Folded, placed: Sequence[_Placed]) -> None:
    """A frame around each numbered block, with all the names that it stands for."""
    from matplotlib.patches import FancyBboxPatch

    blocks: dict[str, list[_Placed]] = {}
    for one in placed:
        if one.box.block:
            blocks.setdefault(one.box.block, []).append(one)
    for block, members in blocks.items():
        left, right = min(p.x - p.width / 2 for p in members), max(p.right for p in members)
        top, bottom = min(p.y - p.height / 2 for p in members), max(p.y + p.height / 2 for p in members)
        repeats = flow.repeats.get(block, ())
        title = f"{block} to {repeats[-1]}: {len(repeats)} times" if repeats else block
        axes.add_patch(
            FancyBboxPatch(
                (left, top),
                right - left,
                bottom - top,
                boxstyle=f"round,pad={PADDING}",
                facecolor="#f4f4f4" if repeats else "none",
                edgecolor="#bbbbbb",
                linewidth=0.7,
                zorder=0,
            )
        )
        axes.text(
            left - 1.6 * PADDING,
            (top + bottom) / 2,
            title,
            fontsize=0.8 * FONT,
            color="#555555",
            ha="right",
            va="center",
            rotation=90,
        )


def _draw_edges(axes: Axes, flow: Folded, placed: Sequence[_Placed], passing: Mapping[tuple[int, int], float]) -> None:
    for a, b in sorted(flow.flow.edges):
        source, target = placed[a], placed[b]
        style: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "zorder": 1}
        if (a, b) in passing:
            lane, below = passing[a, b], source.y + source.height / 2 + GAP_DOWN / 3
            axes.plot([source.x, source.x, lane, lane], [source.y, below, below, target.y], **style)
            start, end = (lane, target.y), (target.right, target.y)
        else:
            start = (source.x, source.y + source.height / 2)
            end = (target.x, target.y - target.height / 2)
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **style})


def _draw_box(axes: Axes, placed: _Placed, colours: Sequence[str]) -> None:
    """A box with a strip for each step, in the colour of what the step writes."""
    from matplotlib.patches import Rectangle

    left, top = placed.x - placed.width / 2, placed.y - placed.height / 2
    strip = placed.height / len(placed.lines)
    for number, (line, colour) in enumerate(zip(placed.lines, colours, strict=True)):
        y = top + strip * number
        axes.add_patch(Rectangle((left, y), placed.width, strip, facecolor=colour, linewidth=0, zorder=2))
        axes.text(placed.x, y + strip / 2, line, fontsize=FONT, family="monospace", ha="center", va="center", zorder=4)
    outline: dict[str, Any] = {"facecolor": "none", "edgecolor": "#444444", "linewidth": 0.8}
    axes.add_patch(Rectangle((left, top), placed.width, placed.height, zorder=3, **outline))
