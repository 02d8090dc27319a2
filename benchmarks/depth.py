"""How the time of a conversion grows with a model's depth: a ViT of 12, 48 and 192 blocks.

    python -m benchmarks.depth [--json results.json]

The model has no weights in memory: it is converted on the `meta` device. Analysis is linear in the number of nodes if
its time a node stays the same.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timm.models import VisionTransformer

from hatify.analysis.plan import analyse
from hatify.capture.capture import capture
from rewriters import load_rules

DEPTHS = (12, 48, 192)


@dataclass(frozen=True)
class Row:
    """Nodes of the captured graph, and the seconds of capture and analysis."""

    depth: int
    nodes: int
    capture_seconds: float
    analysis_seconds: float


def measure(depth: int) -> Row:
    with torch.device("meta"):
        model = VisionTransformer(img_size=64, patch_size=16, embed_dim=192, depth=depth, num_heads=3)
        images = torch.randn(2, 3, 64, 64)
    started = time.perf_counter()
    graph = capture(model, ((images,), {})).graph
    captured = time.perf_counter()
    analyse(graph, load_rules())
    return Row(depth, len(graph.nodes), captured - started, time.perf_counter() - captured)


def show(rows: list[Row], console: Console) -> None:
    table = Table(title="depth")
    for column in ("blocks", "nodes", "capture", "analysis", "analysis a node"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row.depth),
            str(row.nodes),
            f"{row.capture_seconds:.1f} s",
            f"{row.analysis_seconds:.2f} s",
            f"{1e3 * row.analysis_seconds / row.nodes:.2f} ms",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    measure(1)  # what the first capture of a process loads is no model's
    rows = [measure(depth) for depth in DEPTHS]
    show(rows, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
