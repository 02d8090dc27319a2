"""Convert each model and check what the conversion promises.

    python -m benchmarks.spine [NAME ...] [--json results.json]

Prints one row a model: equality with the model in eval and train mode, the old task's logits after a step of another
task under AdamW with weight decay, and after scrambling every entry that is not locked, the share of entries that
stays plastic after one task with half of each group, parameters at 3 tasks over the model's (heads aside), and the
time of the conversion. Exits with 1 if a model misses a bar.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models import SUBJECTS
from benchmarks.promises import Row, measure

EQUAL, PLASTIC, GROWTH = 1e-5, 0.70, 1.3


def passed(row: Row) -> bool:
    equal = row.holds(EQUAL) and row.train_difference <= EQUAL
    return equal and row.plastic >= PLASTIC and row.growth <= GROWTH


def show(rows: Mapping[str, Row], console: Console) -> None:
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
    for name, row in rows.items():
        table.add_row(
            name if passed(row) else f"[red]{name}[/red]",
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
    for name, row in rows.items():
        if row.unknown:
            console.print(f"{name}: no rule for {row.unknown}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"models to measure, default all: {', '.join(SUBJECTS)}")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    warnings.filterwarnings("ignore")
    rows: dict[str, Row] = {}
    for name in arguments.names or SUBJECTS:
        torch.manual_seed(0)
        rows[name] = measure(SUBJECTS[name]())
        print(f"{name}: {'passed' if passed(rows[name]) else 'MISSED'}", file=sys.stderr, flush=True)
    show(rows, Console(width=130))
    if arguments.json:
        results = [{"name": name, **asdict(row), "passed": passed(row)} for name, row in rows.items()]
        arguments.json.write_text(json.dumps(results, indent=2))
    return 0 if all(map(passed, rows.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
