"""Does HAT-CL's recipe need fewer batches than the original's? (Duan 2023, section 4.1)

    python -m benchmarks.learning.fewer_batches [--seeds 2]

HAT-CL begins with dense masks (embeddings of one) and moves the mask scale along a cosine; the original begins with
random ones and anneals it linearly, anew in each epoch. Each recipe learns the whole sequence with several budgets
of epochs. What counts is the smallest whose mean accuracy is joint training's, with the largest budget, less one point.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean

from benchmarks.learning.methods import BATCH_SIZE, joint, learn, with_masks
from benchmarks.learning.networks import MLP
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted, split
from hatify import HATConfig

BUDGETS = (1, 2, 4, 8, 16)
MARGIN = 0.01
HEADER = (
    "sequence",
    "recipe",
    "joint, %",
    *(f"{budget} epoch{'s' * (budget > 1)}" for budget in BUDGETS),
    "batches needed",
)


def recipes(epochs: int) -> dict[str, HATConfig]:
    return {
        "HAT-CL": HATConfig(init="dense", schedule="cosine"),
        "original": HATConfig(init="normal", schedule="linear", schedule_cycles=epochs),
        "dense, linear": HATConfig(init="dense", schedule="linear", schedule_cycles=epochs),
        "normal, cosine": HATConfig(init="normal", schedule="cosine"),
    }


def run(recipe: str, sequence: Sequence, epochs: int, seed: int) -> float:
    method = joint if recipe == "joint" else partial(with_masks, config=recipes(epochs)[recipe])
    outcome, _ = learn(method, MLP, sequence, epochs, seed)
    return fmean(outcome.accuracy)


def row(name: str, recipe: str, results: dict[str, list[float]], batches: int) -> list[str]:
    """batches: of an epoch of the whole sequence."""
    bar = fmean(results[f"{name}/joint/{BUDGETS[-1]}"])
    reached = {budget: results[f"{name}/{recipe}/{budget}"] for budget in BUDGETS}
    needed = next((budget for budget in BUDGETS if fmean(reached[budget]) >= bar - MARGIN), None)
    shown = f"{needed * batches:,}" if needed else f"over {BUDGETS[-1] * batches:,}"
    return [name, recipe, f"{100 * bar:.1f}", *(spread(values) for values in reached.values()), shown]


def main() -> None:
    arguments = parser(__doc__, "fewer_batches.json", seeds=2).parse_args()
    sequences = {sequence.name: sequence for sequence in (split(), permuted(5))}
    recipe_names = list(recipes(1))
    runs = {
        f"{name}/{recipe}/{epochs}": partial(run, recipe, sequence, epochs)
        for name, sequence in sequences.items()
        for recipe in ("joint", *recipe_names)
        for epochs in (BUDGETS[-1:] if recipe == "joint" else BUDGETS)
    }
    results = over_seeds(runs, arguments)
    batches = {
        name: sum(-(-len(task.train.labels) // BATCH_SIZE) for task in sequence.tasks)
        for name, sequence in sequences.items()
    }
    print(markdown(HEADER, [row(n, recipe, results, batches[n]) for n in sequences for recipe in recipe_names]))


if __name__ == "__main__":
    main()
