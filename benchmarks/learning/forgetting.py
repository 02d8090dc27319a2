"""Forget each of ten tasks in turn: what becomes of it, of the others, and of the room that it leaves.

    python -m benchmarks.learning.forgetting [--seeds 2] [--epochs 8]

Networks of several widths learn ten tasks of Permuted-MNIST. Of a copy each, one task is forgotten and learned again in
the room that it left. Shown are its accuracy in between (and that of the last task alone, whose features no later one
shares), the others whose logits moved in any bit, and its accuracy again. "Its own" is the share of the shared
parameters' entries that only the forgotten task used.
"""

from __future__ import annotations

import copy
from functools import partial
from statistics import fmean
from typing import Any

import torch

from benchmarks.learning.methods import accuracy, free_share, learn, logits, relearn, with_masks
from benchmarks.learning.networks import MLP
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted
from hatify import HATModule

WIDTHS = (64, 128, 256, 512)
HEADER = (
    "width",
    "accuracy, %",
    "forgotten, %",
    "the last, %",
    "others moved",
    "learned again, %",
    "its own, %",
    "free, %",
)


def run(width: int, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    outcome, networks = learn(with_masks, partial(MLP, width=width), sequence, epochs, seed)
    net = networks[0]
    assert isinstance(net, HATModule)
    return {"before": outcome.accuracy, "free": free_share(net)} | _columns(
        [_forget(net, task_id, sequence, epochs, seed) for task_id in range(len(sequence.tasks))]
    )


def _forget(net: HATModule, task_id: int, sequence: Sequence, epochs: int, seed: int) -> dict[str, float]:
    others = [task for task in net.trained_tasks if task != task_id]
    before = {task: logits(net, sequence, task) for task in others}
    trial = copy.deepcopy(net)
    report = trial.forget(task_id, seed=seed)
    forgotten = accuracy(logits(trial, sequence, task_id), sequence, task_id)
    relearn(trial, sequence, task_id, epochs)
    moved = sum(not torch.equal(logits(trial, sequence, task), before[task]) for task in others)
    again = accuracy(logits(trial, sequence, task_id), sequence, task_id)
    own = sum(report.entries.values()) / _shared(net)
    return {"forgotten": forgotten, "moved": moved, "again": again, "own": own}


def _shared(net: HATModule) -> int:
    return sum(net.get_parameter(name).numel() for name in net.shared_parameters())


def _columns(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    return {key: [row[key] for row in rows] for key in rows[0]}


def main() -> None:
    arguments = parser(__doc__, "forgetting.json", seeds=2, epochs=8).parse_args()
    sequence = permuted(10)
    runs = {str(width): partial(run, width, sequence, arguments.epochs) for width in WIDTHS}
    rows = []
    for width, of_width in over_seeds(runs, arguments).items():
        means = {key: spread([fmean(r[key]) for r in of_width]) for key in ("before", "forgotten", "again", "own")}
        last = spread([r["forgotten"][-1] for r in of_width])
        moved = int(sum(sum(r["moved"]) for r in of_width))
        free = spread([r["free"] for r in of_width])
        rows.append([width, means["before"], means["forgotten"], last, moved, means["again"], means["own"], free])
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
