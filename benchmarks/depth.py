"""How the time of a conversion grows with a model's depth, and what one of a billion parameters takes.

    python -m benchmarks.depth [--json results.json]

The models have no weights in memory: they are converted on the `meta` device. Analysis is linear in the number of nodes
if its time a node stays the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.table import Table
from timm.models import VisionTransformer
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hatify import hatify
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


@dataclass(frozen=True)
class LargeRow:
    """A whole conversion: its seconds, and the GiB by which the process has grown at its peak."""

    name: str
    parameters: int
    seconds: float
    gibibytes: float


def large_models() -> Iterator[tuple[str, nn.Module, object]]:
    """Names, models and example inputs."""
    with torch.device("meta"):
        yield "ViT-H/14", timm.create_model("vit_huge_patch14_224"), (torch.randn(2, 3, 224, 224),)
        config = LlamaConfig(
            vocab_size=50000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_key_value_heads=4,
            use_cache=False,
        )
        yield "Llama", LlamaForCausalLM(config), {"input_ids": torch.zeros(2, 16, dtype=torch.long)}


def measure_large(name: str, model: nn.Module, example_inputs: object) -> LargeRow:
    before, started = _peak(), time.perf_counter()
    hatify(model, num_tasks=2, example_inputs=example_inputs)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return LargeRow(name, parameters, time.perf_counter() - started, (_peak() - before) / 2**20)


def _peak() -> int:
    """The process's largest size so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def show_large(rows: list[LargeRow], console: Console) -> None:
    table = Table(title="conversion on the meta device")
    table.add_column("model")
    for column in ("parameters", "conversion", "memory"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.name, f"{row.parameters / 1e6:.0f} M", f"{row.seconds:.0f} s", f"{row.gibibytes:.2f} GiB")
    console.print(table)


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
    large = [measure_large(*described) for described in large_models()]
    show_large(large, Console())
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in (*rows, *large)], indent=2))


if __name__ == "__main__":
    main()
