"""Fifty tasks on one network: when is it full, and what do the settings do?

    python -m benchmarks.learning.long_sequence [--seeds 1] [--epochs 8] [--plot tasks.svg]

Each setting learns fifty tasks of permuted small digits on an MLP. Accuracies are those of the tasks as they were
learned, in tens, beside those of a fresh network for each. "Full": the task after which less than one feature in a
hundred is free.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import Method, learn, network_a_task, with_masks
from benchmarks.learning.networks import MLP
from benchmarks.learning.plots import Line, plot
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted_small
from hatify import HATConfig

NUM_TASKS, TENS = 50, 10
FULL = 0.01


@dataclass(frozen=True)
class Setting:
    width: int
    method: Method


def _setting(width: int, regularization: float, quota: bool = True) -> Setting:
    config = HATConfig(init="normal", quota=quota)
    return Setting(width, partial(with_masks, config=config, regularization=regularization))


SETTINGS = {
    "a fresh network a task, width 256": Setting(256, network_a_task),
    "width 256, regularizer 0.75": _setting(256, 0.75),
    "width 256, regularizer 5": _setting(256, 5.0),
    "width 256, regularizer 5, no quota": _setting(256, 5.0, quota=False),
    "width 256, regularizer 20": _setting(256, 20.0),
    "width 1024, regularizer 5": _setting(1024, 5.0),
}
HEADER = (
    "setting",
    *(f"tasks {n + 1} to {n + TENS}, %" for n in range(0, NUM_TASKS, TENS)),
    *("moved", "full", "free, %", "parameters"),
)


def run(name: str, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    setting = SETTINGS[name]
    outcome, _ = learn(setting.method, partial(MLP, width=setting.width), sequence, epochs, seed)
    return asdict(outcome)


def row(name: str, results: list[dict[str, Any]]) -> list[str]:
    starts = range(0, NUM_TASKS, TENS)
    tens = [spread([fmean(result["learned"][n : n + TENS]) for result in results]) for n in starts]
    moved = str(sum(result["moved"] for result in results))
    free = [result["free"] for result in results if result["free"]]
    left = spread([of_seed[-1] for of_seed in free]) if free else ""
    parameters = f"{results[0]['parameters'] / 1e3:,.0f} k"
    return [name, *tens, moved, ", ".join(map(_full, free)), left, parameters]


def _full(free: list[float]) -> str:
    return next((f"task {count}" for count, share in enumerate(free, start=1) if share < FULL), "never")


def _by_task(results: list[dict[str, Any]], key: str) -> Line:
    return [(task + 1, [result[key][task] for result in results]) for task in range(NUM_TASKS)]


def main() -> None:
    arguments = parser(__doc__, "long_sequence.json", seeds=1, epochs=8, plot=True).parse_args()
    sequence = permuted_small(NUM_TASKS)
    results = over_seeds({name: partial(run, name, sequence, arguments.epochs) for name in SETTINGS}, arguments)
    print(markdown(HEADER, [row(name, of_setting) for name, of_setting in results.items()]))
    if arguments.plot:
        with_free = {name: of_setting for name, of_setting in results.items() if of_setting[0]["free"]}
        panels = {
            "accuracy as learned": {name: _by_task(of_setting, "learned") for name, of_setting in results.items()},
            "features that no task uses": {
                name: _by_task(of_setting, "free") for name, of_setting in with_free.items()
            },
        }
        plot(panels, arguments.plot, x="task", y="%")


if __name__ == "__main__":
    main()
