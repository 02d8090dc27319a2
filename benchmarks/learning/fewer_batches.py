"""Does HAT-CL's recipe need fewer batches than the original's? (Duan 2023, section 4.1)

    python -m benchmarks.learning.fewer_batches [--seeds 2]

HAT-CL begins with dense masks (embeddings of one) and moves the mask scale along a cosine; the original begins with
random ones and anneals it linearly, anew in each epoch. Each recipe learns the whole sequence with several budgets
of epochs. What counts is the smallest whose mean accuracy is joint training's, with the largest budget, less one point.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import BATCH_SIZE, joint, learn, with_masks
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.runs import finished, markdown, parser, spread
from benchmarks.learning.sequences import Sequence, permuted, split
from hatify import HATConfig

BUDGETS = (1, 2, 4, 8, 16)
MARGIN = 0.01
HEADER = ("sequence", "network", "recipe", "joint, %", *(f"{budget} epochs" for budget in BUDGETS), "batches needed")


def recipes(epochs: int) -> dict[str, HATConfig]:
    return {
        "HAT-CL": HATConfig(init="dense", schedule="cosine"),
        "original": HATConfig(init="normal", schedule="linear", schedule_cycles=epochs),
        "dense, linear": HATConfig(init="dense", schedule="linear", schedule_cycles=epochs),
        "normal, cosine": HATConfig(init="normal", schedule="cosine"),
    }


def run(recipe: str, network: str, sequence: Sequence, epochs: int, seed: int) -> float:
    method = joint if recipe == "joint" else partial(with_masks, config=recipes(epochs)[recipe])
    outcome, _ = learn(method, NETWORKS[network], sequence, epochs, seed)
    return fmean(outcome.accuracy)


def row(name: str, recipe: str, results: dict[str, Any], seeds: range, batches: int) -> list[str]:
    """batches: of an epoch of the whole sequence."""
    bar = fmean(results[f"{name}/joint/{BUDGETS[-1]}/{seed}"] for seed in seeds)
    reached = {b: [results[f"{name}/{recipe}/{b}/{seed}"] for seed in seeds] for b in BUDGETS}
    needed = next((b for b in BUDGETS if fmean(reached[b]) >= bar - MARGIN), None)
    shown = f"{needed * batches:,}" if needed else f"over {BUDGETS[-1] * batches:,}"
    return [*name.split("/"), recipe, f"{100 * bar:.1f}", *(spread(values) for values in reached.values()), shown]


def main() -> None:
    arguments = parser(__doc__, "fewer_batches.json", seeds=2).parse_args()
    seeds = range(arguments.seeds)
    settings = {"Split-MNIST/MLP": split(), "Permuted-MNIST/MLP": permuted(5)}
    recipe_names = list(recipes(1))
    runs = {
        f"{name}/{recipe}/{epochs}/{seed}": partial(run, recipe, name.split("/")[1], sequence, epochs, seed)
        for name, sequence in settings.items()
        for recipe in ("joint", *recipe_names)
        for epochs in (BUDGETS[-1:] if recipe == "joint" else BUDGETS)
        for seed in seeds
    }
    results = finished(runs, arguments.results)
    batches = {
        name: sum(-(-len(task.train.labels) // BATCH_SIZE) for task in sequence.tasks)
        for name, sequence in settings.items()
    }
    rows = [row(name, recipe, results, seeds, batches[name]) for name in settings for recipe in recipe_names]
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
