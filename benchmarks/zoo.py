"""Convert and check whole libraries of models.

    python -m benchmarks.zoo --source timm|torchvision|transformers [--filter 'resnet*'] [--shard 0/4]
    python -m benchmarks.zoo --source timm --smallest            the smallest model of each of timm's files
    python -m benchmarks.zoo --source timm --random 300          further names, drawn at random

Each model has a process of its own, with a limit on its time and memory, so that one failure costs one row. Results
are kept in a JSON file, and a run that was stopped goes on where it was; a row that failed is tried again with
`--again`. Prints a Markdown table and a line of totals. Exits with 1 if a model fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.processes import Result, measure_in_process
from benchmarks.promises import Row
from benchmarks.sources import SOURCES, random_names, smallest_of_each_file

EQUAL, PLASTIC = 1e-4, 0.65

# The lower ends of the bands in which models are counted by the share of their weights that stays plastic.
BANDS = (0.74, 0.70, PLASTIC, 0.0)


def measure_all(
    source: str, names: Sequence[str], results: Path, jobs: int, minutes: float, gibibytes: float
) -> dict[str, Result]:
    """Measure the named models that `results` lacks, and add them to it one by one."""
    known: dict[str, Result] = json.loads(results.read_text()) if results.exists() else {}
    missing = [name for name in names if name not in known]
    with Progress(console=Console(stderr=True)) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task(source, total=len(names), completed=len(names) - len(missing))
        running = {pool.submit(measure_in_process, source, name, minutes, gibibytes): name for name in missing}
        for done in as_completed(running):
            known[running[done]] = done.result()
            results.write_text(json.dumps(known, indent=1))
            progress.console.print(f"{running[done]}: {_verdict(known[running[done]])}")
            progress.advance(bar)
    return {name: known[name] for name in names}


def _verdict(result: Result) -> str:
    if "error" in result:
        return result["error"]
    row = Row(**result)
    if not row.holds(EQUAL):
        return (
            f"MISSED: eval {row.eval_difference:.1e}, masked {row.masked_difference:.1e}, "
            f"step {row.step_bitwise}, scramble {row.scramble_bitwise}"
        )
    return f"passed, {row.plastic:.3f} plastic"


def passed(result: Result) -> bool:
    return "error" not in result and Row(**result).holds(EQUAL)


def table(results: dict[str, Result]) -> str:
    """A Markdown table with a row for each model."""
    lines = [
        "| model | parameters | eval | step | scramble | plastic | unfollowed | gates | time | memory |",
        "| --- " * 10 + "|",
    ]
    for name, result in results.items():
        if "error" in result:
            lines.append(f"| {name} | {result['error'].splitlines()[0]} |" + " |" * 8)
            continue
        row = Row(**result)
        cells = [
            name,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.eval_difference:.0e}",
            "bitwise" if row.step_bitwise else "MOVED",
            "bitwise" if row.scramble_bitwise else "MOVED",
            f"{row.plastic:.3f}",
            f"{row.unfollowed:.1%}",
            str(row.gates),
            f"{row.seconds:.1f} s",
            f"{row.memory:.1f}x",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plasticity(results: dict[str, Result]) -> str:
    """A Markdown table that counts the models by the share of their weights that stays plastic."""
    shares = [Row(**result).plastic for result in results.values() if "error" not in result]
    bounds = zip(BANDS, (1.0, *BANDS), strict=False)
    lines = [
        f"| {low:.2f} to {high:.2f} | {sum(low <= share and (share < high or high == 1) for share in shares)} |"
        for low, high in bounds
    ]
    return "\n".join(["| plastic | models |", "| --- | --- |", *lines])


def causes(results: dict[str, Result]) -> str:
    """For each model that falls short in plasticity, what costs it."""
    lines = []
    for name, result in results.items():
        if "error" not in result and (row := Row(**result)).plastic < PLASTIC:
            costly = ", ".join(f"`{parameter}` ({locked:.0%} locked)" for parameter, locked in row.costly.items())
            unknown = f"; no rule for {', '.join(row.unknown)}" if row.unknown else ""
            lines.append(f"- {name}, {row.plastic:.3f}: {costly}{unknown}")
    return "\n".join(lines)


def totals(results: dict[str, Result]) -> str:
    rows = [Row(**result) for result in results.values() if "error" not in result]
    if not rows:
        return f"0 of {len(results)} pass"

    median = statistics.median
    beyond = [row.seconds - 2 * row.export_seconds for row in rows if row.export_seconds is not None] or [math.nan]
    return (
        f"{sum(map(passed, results.values()))} of {len(results)} pass; plastic {median(r.plastic for r in rows):.3f} "
        f"in the median, {min(r.plastic for r in rows):.3f} at least; unfollowed "
        f"{median(r.unfollowed for r in rows):.1%} in the median; conversion "
        f"{median(beyond):.1f} s beyond twice an export in the median, "
        f"memory {median(r.memory for r in rows):.1f} times the parameters"
    )


def _names(arguments: argparse.Namespace) -> list[str]:
    sizes = arguments.results.with_name("timm_sizes.json")
    if arguments.smallest:
        names = smallest_of_each_file(sizes)
    elif arguments.random:
        names = random_names(sizes, arguments.random)
    else:
        names = list(SOURCES[arguments.source].names())
    names = [name for name in names if fnmatch.fnmatch(name, arguments.filter)]
    index, count = map(int, arguments.shard.split("/"))
    return names[index::count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=SOURCES, default="timm")
    parser.add_argument("--smallest", action="store_true", help="timm: the smallest model of each file")
    parser.add_argument("--random", type=int, metavar="N", help="timm: N further names, at random")
    parser.add_argument("--filter", default="*", help="a pattern that the names must match")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="every N-th name from the I-th on")
    parser.add_argument("--results", type=Path, default=Path("zoo.json"), help="the file that keeps the results")
    parser.add_argument("--again", action="store_true", help="measure anew what failed")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, with a core each")
    parser.add_argument("--minutes", type=float, default=10, help="time limit of a model")
    parser.add_argument("--gibibytes", type=float, default=10, help="memory limit of a model")
    arguments = parser.parse_args()
    if arguments.again and arguments.results.exists():
        kept = {n: r for n, r in json.loads(arguments.results.read_text()).items() if passed(r)}
        arguments.results.write_text(json.dumps(kept))
    results = measure_all(
        arguments.source,
        _names(arguments),
        arguments.results,
        arguments.jobs,
        arguments.minutes,
        arguments.gibibytes,
    )
    print(table(results), plasticity(results), causes(results), totals(results), sep="\n\n")
    return 0 if all(map(passed, results.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
