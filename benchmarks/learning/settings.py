"""Which settings are best where no test image is looked at.

    python -m benchmarks.learning.settings [--seeds 1] [--epochs 8]

Each learns a whole sequence of `comparison`, with a fifth of the images for training set aside to judge it by.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import learn, with_masks
from benchmarks.learning.networks import MLP
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import SEQUENCES, Sequence
from hatify import HATConfig

INITS: tuple[Any, ...] = ("dense", "normal")
RATES = (0.03, 0.1, 0.3)  # of the masks
REGULARIZATIONS = (0.75, 2.5, 5.0, 10.0)
HEADER = ("sequence", "embeddings", "masks' rate", *(f"regularizer {weight:g}" for weight in REGULARIZATIONS))


def run(init: Any, rate: float, regularization: float, sequence: Sequence, epochs: int, seed: int) -> float:
    method = partial(with_masks, config=HATConfig(init=init), regularization=regularization, mask_learning_rate=rate)
    return fmean(learn(method, MLP, sequence, epochs, seed)[0].accuracy)


def row(sequence: str, init: str, rate: float, results: Mapping[str, list[float]]) -> list[str]:
    name = SEQUENCES[sequence]().name
    return [name, init, f"{rate:g}", *(spread(results[f"{sequence}/{init}/{rate}/{w}"]) for w in REGULARIZATIONS)]


def main() -> None:
    arguments = parser(__doc__, "settings.json", seeds=1, epochs=8).parse_args()
    sequences = {name: make().for_validation() for name, make in SEQUENCES.items()}
    runs = {
        f"{name}/{init}/{rate}/{weight}": partial(run, init, rate, weight, sequences[name], arguments.epochs)
        for name, init, rate, weight in product(sequences, INITS, RATES, REGULARIZATIONS)
    }
    results = over_seeds(runs, arguments)
    rows = [row(name, init, rate, results) for name, init, rate in product(sequences, INITS, RATES)]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
