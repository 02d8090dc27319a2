"""Fifty tasks on one network: when is it full, and what do the settings do?

    python -m benchmarks.learning.long_sequence [--seeds 1] [--epochs 8]

Each setting learns fifty tasks of permuted small digits on an MLP. Accuracies are those of the tasks as they were
learned, in tens, beside those of a fresh network for each; what is free is counted after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import Method, free_share, learn, network_a_task, with_masks
from benchmarks.learning.networks import MLP
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted_small
from hatify import HATConfig, HATModule

NUM_TASKS, TENS = 50, 10


@dataclass(frozen=True)
class Setting:
    width: int
    method: Method


def _setting(width: int, regularization: float, quota: bool) -> Setting:
    config = HATConfig(init="normal", quota=quota)
    return Setting(width, partial(with_masks, config=config, regularization=regularization))


SETTINGS = {
    "a fresh network a task, width 256": Setting(256, network_a_task),
    "width 256, regularizer 0.75": _setting(256, 0.75, True),
    "width 256, regularizer 5": _setting(256, 5.0, True),
    "width 256, regularizer 5, no quota": _setting(256, 5.0, False),
    "width 256, regularizer 20": _setting(256, 20.0, True),
}
HEADER = ("setting", *(f"tasks {n + 1} to {n + TENS}, %" for n in range(0, NUM_TASKS, TENS)), "moved", "free, %")


def run(name: str, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    setting = SETTINGS[name]
    outcome, networks = learn(setting.method, partial(MLP, width=setting.width), sequence, epochs, seed)
    net = networks[-1]
    free = free_share(net) if isinstance(net, HATModule) else None
    return {"learned": outcome.learned, "moved": outcome.moved, "free": free}


def main() -> None:
    arguments = parser(__doc__, "long_sequence.json", seeds=1, epochs=8).parse_args()
    sequence = permuted_small(NUM_TASKS)
    runs = {name: partial(run, name, sequence, arguments.epochs) for name in SETTINGS}
    rows = []
    for name, of_setting in over_seeds(runs, arguments).items():
        tens = [
            spread([fmean(result["learned"][n : n + TENS]) for result in of_setting]) for n in range(0, NUM_TASKS, TENS)
        ]
        free = [result["free"] for result in of_setting if result["free"] is not None]
        rows.append([name, *tens, sum(result["moved"] for result in of_setting), spread(free) if free else ""])
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
