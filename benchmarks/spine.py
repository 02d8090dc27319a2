"""Convert each model and check what the conversion promises.

    python -m benchmarks.spine [NAME ...] [--json results.json]

Prints one row a model: equality with the model in eval and train mode, the old task's logits after a step of another
task under AdamW with weight decay, and after scrambling every entry that is not locked, the share of entries that
stays plastic after one task with half of each group, parameters at 3 tasks over the model's (heads aside), and the
time of the conversion. Exits with 1 if a model misses a bar.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.models import SUBJECTS, Subject
from hatify import HATModule, hatify
from hatify.verification import (
    draw_masks,
    parameter_growth,
    perturb,
    plastic_share,
    relative_difference,
    scramble,
)

EQUAL, PLASTIC, GROWTH = 1e-5, 0.70, 1.3


@dataclass(frozen=True)
class Row:
    """What was measured on one model."""

    name: str
    eval_difference: float
    train_difference: float
    step_bitwise: bool
    scramble_bitwise: bool
    moved: bool
    plastic: float
    growth: float
    groups: int
    gates: int
    unknown: dict[str, int]
    seconds: float

    @property
    def passed(self) -> bool:
        return (
            max(self.eval_difference, self.train_difference) < EQUAL
            and self.step_bitwise
            and self.scramble_bitwise
            and self.moved
            and self.plastic >= PLASTIC
            and self.growth <= GROWTH
        )


def measure(name: str, subject: Subject) -> Row:
    model = subject.model
    perturb(model)
    started = time.perf_counter()
    net = hatify(model, num_tasks=3, example_inputs=subject.inputs(2))
    seconds = time.perf_counter() - started
    inputs = subject.inputs(3)
    evaluated, trained = _equality(model, net, inputs)
    return Row(
        name,
        evaluated,
        trained,
        *_forgetting(net, inputs),
        plastic_share(net, 1),
        parameter_growth(net, model),
        len(net.registry.groups),
        sum("gate" in str(n.target) for n in net.graph.nodes if n.op == "call_function"),
        net.blueprint.unknown,
        seconds,
    )


def _equality(model: nn.Module, net: HATModule, inputs: dict[str, Any]) -> tuple[float, float]:
    """Relative differences from the model, in eval mode and, with the same seed, in train mode."""
    model.eval(), net.eval()
    evaluated = relative_difference(_logits(net(**inputs)), _logits(model(**inputs)))
    model.train(), net.train()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = _logits(reference(**inputs))
        torch.manual_seed(0)
        actual = _logits(copy.deepcopy(net)(**inputs))
    return evaluated, relative_difference(actual, expected)


def _forgetting(net: HATModule, inputs: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Task 0 with half of each group; then steps of task 1, then a scramble: is task 0 as it was, after each?

    Also whether the scramble moves the network with no task: one that moves nothing shows nothing.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    _step(net, 0, inputs, optimizer)
    draw_masks(net, 0)
    net.eval()
    before, untasked = _logits(net(**inputs, task_id=0)).detach(), _logits(net(**inputs)).detach()
    _step(net, 1, inputs, optimizer)
    net.eval()
    stepped = torch.equal(before, _logits(net(**inputs, task_id=0)))
    net.registry.trained.remove(1)
    scramble(net, 1)
    scrambled = torch.equal(before, _logits(net(**inputs, task_id=0)))
    moved = not torch.equal(_logits(net(**inputs)), untasked)
    return stepped, scrambled, moved


def _step(net: HATModule, task_id: int, inputs: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    net.train()
    with net.learn(task_id, steps=2) as task:
        for _ in range(2):
            loss = _logits(net(**inputs)).square().mean() + task.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _logits(output: Any) -> Tensor:
    return output.logits if hasattr(output, "logits") else output


def show(rows: list[Row], console: Console) -> None:
    table = Table(title="conversion")
    for column in (
        "model",
        "eval",
        "train",
        "step",
        "scramble",
        "plastic",
        "parameters",
        "groups",
        "gates",
        "time",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        table.add_row(
            row.name if row.passed else f"[red]{row.name}[/red]",
            f"{row.eval_difference:.1e}",
            f"{row.train_difference:.1e}",
            "bitwise" if row.step_bitwise else "[red]MOVED[/red]",
            "bitwise" if row.scramble_bitwise else "[red]MOVED[/red]",
            f"{row.plastic:.3f}",
            f"{row.growth:.2f}x",
            str(row.groups),
            str(row.gates),
            f"{row.seconds:.1f} s",
        )
    console.print(table)
    for row in rows:
        if row.unknown:
            console.print(f"{row.name}: no rule for {row.unknown}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"models to measure, default all: {', '.join(SUBJECTS)}")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    rows = []
    for name in arguments.names or SUBJECTS:
        torch.manual_seed(0)
        rows.append(measure(name, SUBJECTS[name]()))
        print(f"{name}: {'passed' if rows[-1].passed else 'MISSED'}", file=sys.stderr, flush=True)
    show(rows, Console(width=130))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) | {"passed": row.passed} for row in rows], indent=2))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
