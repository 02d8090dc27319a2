"""A converted network as a tree of its modules, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from hatify.inspection.colours import colour_of_group
from hatify.inspection.explanation import ModuleExplanation
from hatify.inspection.summary import NetworkSummary

STYLE = "font-family:monospace;font-size:12px;line-height:1.5"
INDENT = "margin-left:1.4em"
CHIP = "border-radius:3px;padding:0 4px;color:#111"


def as_html(summary: NetworkSummary, layers: Mapping[str, ModuleExplanation]) -> str:
    """A tree that unfolds: by module the groups that its layers write and read, their gates, what is locked.

    layers: by path.
    """
    groups = [group.name for group in summary.groups]
    facts = "".join(f"<div>{escape(line)}</div>" for line in _facts(summary))
    return f'<div style="{STYLE}">{facts}{"".join(_level("", layers, groups))}</div>'


def _facts(summary: NetworkSummary) -> Iterator[str]:
    trained = ", ".join(map(str, summary.trained)) or "none"
    yield f"{summary.num_tasks} tasks, trained: {trained}; {len(summary.groups)} mask groups"
    yield f"{summary.shared_parameters:,} parameters shared, {summary.parameters_per_task:,} a task"
    yield f"masks: {summary.folded} carried by layers, {summary.gates} multiplied on their own"
    left_live = {
        "operators without a rule": [f"{name} ({count}x)" for name, count in summary.unknown.items()],
        "submodules called as they are": summary.opaque,
        "parameters that no rule follows": summary.whole,
    }
    for reason, names in left_live.items():
        if names:
            yield f"left live, {reason}: {', '.join(names)}"


def _level(prefix: str, layers: Mapping[str, ModuleExplanation], groups: Sequence[str]) -> Iterator[str]:
    """What lies below a module, in the order of the network."""
    below = dict.fromkeys(path[len(prefix) :].partition(".")[0] for path in layers if path.startswith(prefix))
    for name in below:
        path = f"{prefix}{name}"
        inner = [layer for layer in layers if layer.startswith(f"{path}.")]
        if path in layers:
            yield f'<div style="{INDENT}">{_layer(name, layers[path], groups)}</div>'
        if inner:
            content = "".join(_level(f"{path}.", layers, groups))
            title = f"{escape(name)} <span style='color:#888'>{len(inner)} layers</span>"
            yield f'<details style="{INDENT}"><summary>{title}</summary>{content}</details>'


def _layer(name: str, layer: ModuleExplanation, groups: Sequence[str]) -> str:
    shared = [parameter for parameter in layer.parameters if parameter.kind != "once a task"]
    locked = max((parameter.locked for parameter in shared), default=0.0)
    lock = f"{locked:.0%} locked" if shared else "each task has its own"
    parts = [
        f"<b>{escape(name)}</b> {escape(', '.join(layer.operators))}",
        f"reads {_chips(layer.reads, groups)}" if layer.reads else "",
        f"writes {_chips(layer.writes, groups)}" if layer.writes else "",
        f"◆ {escape('; '.join(carrier for carriers in layer.gates.values() for carrier in carriers[:1]))}"
        if layer.gates
        else "",
        lock,
    ]
    return " · ".join(part for part in parts if part)


def _chips(names: Sequence[str], groups: Sequence[str]) -> str:
    return " ".join(
        f'<span style="{CHIP};background:{colour_of_group(name, groups)}">{escape(name)}</span>' for name in names
    )
