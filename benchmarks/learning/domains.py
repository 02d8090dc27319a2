"""One tool for all kinds of networks: larger ones on images, text, sound, and control.

    python -m benchmarks.learning.domains [NAME ...] [--seeds 1]

Each row learns a few tasks in order with masks, by fine-tuning (a head a task), and with a network a task. Accuracy and
forgetting as in `comparison`; for control, accuracy is the share of episodes that gymnasium calls solved.
What each needs installed stands in its module: `text`, `audio`, `control`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.audio import Waveforms, voices
from benchmarks.learning.comparison import forgetting
from benchmarks.learning.control import learn_control
from benchmarks.learning.methods import METHODS, Outcome, learn
from benchmarks.learning.networks import Build, FromTimm
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, split
from benchmarks.learning.text import Classifier, docstring_tasks

SHOWN = ("hatify", "fine-tuning", "a network a task")
HEADER = (
    "domain",
    "model",
    "tasks",
    "hatify, %",
    "forgetting, points",
    "moved",
    "parameters",
    "fine-tuning, %",
    "its forgetting",
    "a network a task, %",
    "its parameters",
)


@dataclass(frozen=True)
class Experiment:
    """learn: an outcome of a method, by name, and a seed."""

    domain: str
    model: str
    tasks: str
    learn: Callable[[str, int], Outcome]


def supervised(sequence: Callable[[], Sequence], build: Build, epochs: int) -> Callable[[str, int], Outcome]:
    def outcome(method: str, seed: int) -> Outcome:
        return learn(METHODS[method], build, sequence(), epochs, seed)[0]

    return outcome


def digits(learning_rate: float = 3e-4) -> Sequence:
    """Three tasks of Split-MNIST with few images, since the networks are large, and the rate that transformers need."""
    sequence = split(images_per_digit=200)
    return replace(sequence, tasks=sequence.tasks[:3], learning_rate=learning_rate)


VIT = partial(FromTimm, name="vit_small_patch16_224", img_size=28, patch_size=7)
CONVNEXT = partial(FromTimm, name="convnext_tiny", patch_size=3)
RESNET = partial(FromTimm, name="resnet50")
EXPERIMENTS = {
    "resnet50": Experiment("images", "ResNet-50", "3, digits", supervised(partial(digits, 1e-3), RESNET, epochs=8)),
    "vit": Experiment("images", "ViT-Small", "3, digits", supervised(digits, VIT, epochs=8)),
    "convnext": Experiment("images", "ConvNeXt-Tiny", "3, digits", supervised(digits, CONVNEXT, epochs=8)),
    "text": Experiment(
        "text", "MiniLM, pretrained", "3, docstrings", supervised(docstring_tasks, Classifier, epochs=3)
    ),
    "audio": Experiment("audio", "1-d convolutions", "3, voices", supervised(voices, Waveforms, epochs=10)),
    "control": Experiment("control", "MLP, PPO", "2, CartPole, Acrobot", learn_control),
}


def run(name: str, method: str, seed: int) -> dict[str, Any]:
    return asdict(EXPERIMENTS[name].learn(method, seed))


def row(experiment: Experiment, by_method: dict[str, list[dict[str, Any]]]) -> list[str]:
    accuracy = {m: spread([fmean(o["accuracy"]) for o in outcomes]) for m, outcomes in by_method.items()}
    lost = {m: spread([forgetting(o) for o in outcomes]) for m, outcomes in by_method.items()}
    size = {m: f"{outcomes[0]['parameters'] / 1e6:,.2f} M" for m, outcomes in by_method.items()}
    masks, tuned, separate = SHOWN
    moved = str(max(outcome["moved"] for outcome in by_method[masks]))
    return [
        *(experiment.domain, experiment.model, experiment.tasks),
        *(accuracy[masks], lost[masks], moved, size[masks]),
        *(accuracy[tuned], lost[tuned]),
        *(accuracy[separate], size[separate]),
    ]


def main() -> None:
    arguments = parser(__doc__, "domains.json", seeds=1, names=EXPERIMENTS).parse_args()
    names = arguments.names
    runs = {f"{name}/{method}": partial(run, name, method) for name in names for method in SHOWN}
    results = over_seeds(runs, arguments)
    rows = [row(EXPERIMENTS[name], {method: results[f"{name}/{method}"] for method in SHOWN}) for name in names]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
