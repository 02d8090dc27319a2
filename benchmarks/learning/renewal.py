"""What it is worth to clear what earlier tasks have left behind: `net.renew` before each task.

    python -m benchmarks.learning.renewal [NAME ...] [--seeds 2]

While a task is learned, it also trains features that it gives up in the end. Entries that no task uses are left so,
drawn anew, or put back to what they were at conversion: for the encoder, what it was pretrained to. Accuracy is the
mean over tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import get_args

from benchmarks.learning.methods import Renewal, learn, with_masks
from benchmarks.learning.networks import MLP, Build
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted, permuted_small, split
from benchmarks.learning.text import Classifier, docstring_tasks

FORMS: tuple[Renewal, ...] = get_args(Renewal)


@dataclass(frozen=True)
class Place:
    sequence: Callable[[], Sequence]
    build: Build
    epochs: int = 8


PLACES = {
    "Split-MNIST": Place(split, MLP),
    "Permuted-MNIST": Place(permuted, MLP),
    "fifty tasks": Place(permuted_small, MLP),
    "text, pretrained": Place(docstring_tasks, Classifier, epochs=3),
}


def run(place: Place, renewal: Renewal, seed: int) -> float:
    method = partial(with_masks, renewal=renewal)
    return fmean(learn(method, place.build, place.sequence(), place.epochs, seed)[0].accuracy)


def main() -> None:
    arguments = parser(__doc__, "renewal.json", seeds=2, names=PLACES).parse_args()
    names = arguments.names
    results = over_seeds({f"{n}/{form}": partial(run, PLACES[n], form) for n in names for form in FORMS}, arguments)
    rows = [[name, *(spread(results[f"{name}/{form}"]) for form in FORMS)] for name in names]
    print(markdown(["sequence", *(f"{form}, %" for form in FORMS)], rows))


if __name__ == "__main__":
    main()
