"""Runs of an experiment: kept in a JSON file one by one, so that a stopped experiment goes on where it was."""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from hatify.output import whole_file

Run = Callable[[], Any]  # gives plain data


def over_seeds(runs: Mapping[str, Callable[..., Any]], arguments: argparse.Namespace) -> dict[str, list[Any]]:
    """The results of runs by name, one for each seed, which a run takes as `seed`."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # the networks are too small for more; run several experiments at once instead
    budget = [f"{arguments.epochs} epochs"] if "epochs" in arguments else []
    seeds = range(arguments.seeds)

    def key(name: str, seed: int) -> str:
        return "/".join([name, *budget, str(seed)])

    each = {key(name, seed): partial(run, seed=seed) for name, run in runs.items() for seed in seeds}
    results = finished(each, arguments.results)
    return {name: [results[key(name, seed)] for seed in seeds] for name in runs}


def finished(runs: Mapping[str, Run], path: Path) -> dict[str, Any]:
    """The results of runs by name; those that `path` lacks are run, and added to it."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in track([name for name in runs if name not in known], console=Console(stderr=True)):
        known[name] = runs[name]()
        with whole_file(path) as file:
            file.write_text(json.dumps(known, indent=1))
    return {name: known[name] for name in runs}


def parser(
    documentation: str | None,
    results: str,
    *,
    seeds: int,
    names: Iterable[str] = (),
    epochs: int | None = None,
    plot: bool = False,
) -> argparse.ArgumentParser:
    """Arguments that the experiments share, with this one's defaults. names: what can be run by itself."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    if names := list(names):
        known = "; ".join(names)

        def name(text: str) -> str:
            if text not in names:
                raise argparse.ArgumentTypeError(f"{text!r} is none of: {known}")
            return text

        parser.add_argument("names", nargs="*", type=name, metavar="NAME", default=names, help=f"default: {known}")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--results", type=Path, default=Path(results), help="JSON file of the runs, to go on from")
    if epochs is not None:
        parser.add_argument("--epochs", type=int, default=epochs, help="passes over each task's images")
    if plot:
        parser.add_argument("--plot", type=Path, help="draw the results into this file, .svg or .png")
    return parser


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation over seeds; of shares, in percent."""
    mean = f"{scale * statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as README has it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
