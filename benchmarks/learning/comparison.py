"""hatify beside other methods of continual learning: the same network, data, optimizer and epochs for all.

    python -m benchmarks.learning.comparison [NAME ...] [--seeds 2] [--epochs 8]

Accuracy is the mean over tasks after the last one; forgetting is what of it was lost since each task was learned.
"Moved" counts the tasks whose logits changed in any bit. EWC is shown with each of three strengths. Fine-tuning, joint
training, EWC and PackNet are Avalanche's.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import METHODS, Method, learn
from benchmarks.learning.networks import MLP, Build
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import SEQUENCES, Sequence

HEADER = ("sequence", "method", "accuracy, %", "forgetting, points", "moved", "parameters")

# MLPs whose hidden layers have 256 features; and, with a fifth of the parameters of ten of these, a wider one for all
# tasks, or a narrower one for each.
CONTENDERS: dict[str, tuple[Method, Build]] = {name: (method, MLP) for name, method in METHODS.items()}
CONTENDERS["hatify, width 400"] = (METHODS["hatify"], partial(MLP, width=400))
CONTENDERS["a network a task, width 62"] = (METHODS["a network a task"], partial(MLP, width=62))


def run(name: str, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    outcome, _ = learn(*CONTENDERS[name], sequence, epochs, seed)
    return asdict(outcome)


def forgetting(outcome: dict[str, Any]) -> float:
    """The mean loss of accuracy since each task was learned, over all tasks but the last."""
    pairs = zip(outcome["learned"][:-1], outcome["accuracy"], strict=False)
    return fmean(then - now for then, now in pairs)


def row(sequence: str, method: str, outcomes: list[dict[str, Any]]) -> list[str]:
    ordered = outcomes[0]["learned"] is not None
    return [
        sequence,
        method,
        spread([fmean(outcome["accuracy"]) for outcome in outcomes]),
        spread([forgetting(outcome) for outcome in outcomes]) if ordered else "",
        str(max(outcome["moved"] for outcome in outcomes)) if ordered else "",
        f"{outcomes[0]['parameters'] / 1e3:,.0f} k",
    ]


def main() -> None:
    arguments = parser(__doc__, "comparison.json", seeds=2, names=CONTENDERS, epochs=8).parse_args()
    methods = arguments.names
    sequences = {name: make() for name, make in SEQUENCES.items()}
    runs = {
        f"{name}/{method}": partial(run, method, sequence, arguments.epochs)
        for name, sequence in sequences.items()
        for method in methods
    }
    results = over_seeds(runs, arguments)
    rows = [
        row(sequence.name, method, results[f"{name}/{method}"])
        for name, sequence in sequences.items()
        for method in methods
    ]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
