"""Forget each task in turn: what becomes of it, of the others, and of the room that it leaves.

    python -m benchmarks.learning.forgetting [NAME ...] [--seeds 2] [--epochs 8]

Networks of several widths learn a sequence: MLPs ten tasks of Permuted-MNIST, the others five of permuted patches. Of a
copy each, one task is forgotten and learned again in the room that it left. Shown are its accuracy in between, the
others whose logits moved in any bit, and its accuracy again. The last task is shown beside it: it, too, had only what
the others left. "Its own" is the share of the shared parameters' entries that only the forgotten task used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch

from benchmarks.learning.methods import accuracy, learn, logits, relearn, with_masks
from benchmarks.learning.networks import MLP, Build, FromTimm
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted, permuted_patches
from hatify import HATModule

HEADER = (
    "network",
    "width",
    "accuracy, %",
    "forgotten, %",
    "others moved",
    "learned again, %",
    "the last task, %",
    "its own, %",
    "free, %",
)


@dataclass(frozen=True)
class Subject:
    """builds: by width."""

    sequence: Callable[[], Sequence]
    builds: dict[int, Build]


def _resnet(name: str, width: int) -> Build:
    return partial(FromTimm, name=name, channels=tuple(width * 2**stage for stage in range(4)))


def _vit(width: int) -> Build:
    options = {"img_size": 28, "patch_size": 7, "embed_dim": width, "num_heads": 3}
    return partial(FromTimm, name="vit_tiny_patch16_224", **options)


def _patches(learning_rate: float = 1e-3) -> Sequence:
    return replace(permuted_patches(num_tasks=5), learning_rate=learning_rate)


SUBJECTS = {
    "MLP": Subject(permuted, {width: partial(MLP, width=width) for width in (64, 128, 256, 512)}),
    "ResNet-18": Subject(_patches, {width: _resnet("resnet18", width) for width in (16, 32)}),
    "ResNet-50": Subject(_patches, {width: _resnet("resnet50", width) for width in (16, 32)}),
    "ViT-Tiny": Subject(partial(_patches, 5e-4), {width: _vit(width) for width in (48, 96)}),
}


def run(build: Build, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    outcome, networks = learn(with_masks, build, sequence, epochs, seed)
    net = networks[0]
    assert isinstance(net, HATModule)
    return {"before": outcome.accuracy, "free": outcome.free} | _columns(
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


def row(network: str, width: str, results: list[dict[str, Any]]) -> list[str]:
    means = {key: spread([fmean(r[key]) for r in results]) for key in ("before", "forgotten", "again", "own")}
    moved = str(int(sum(sum(r["moved"]) for r in results)))
    last, free = (spread([r[key][-1] for r in results]) for key in ("before", "free"))
    return [network, width, means["before"], means["forgotten"], moved, means["again"], last, means["own"], free]


def main() -> None:
    arguments = parser(__doc__, "forgetting.json", seeds=2, names=SUBJECTS, epochs=8).parse_args()
    runs = {}
    for network in arguments.names:
        subject = SUBJECTS[network]
        sequence = subject.sequence()
        for width, build in subject.builds.items():
            runs[f"{network}/{width}"] = partial(run, build, sequence)
    results = over_seeds({name: partial(one, arguments.epochs) for name, one in runs.items()}, arguments)
    rows = [row(*name.split("/", 1), of_width) for name, of_width in results.items()]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
