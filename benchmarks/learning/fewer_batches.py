"""Does HAT-CL's recipe need fewer batches than the original's? (Duan 2023, section 4.1)

    python -m benchmarks.learning.fewer_batches [NAME ...] [--seeds 2] [--plot batches.svg]

HAT-CL begins with dense masks (embeddings of one) and moves the mask scale along a cosine; the original begins with
random ones and anneals it linearly, anew in each epoch. Each recipe learns the whole sequence with several budgets
of epochs. What counts is the smallest whose mean accuracy is joint training's, with the largest budget, less one point.
"""

from __future__ import annotations

from functools import partial
from statistics import fmean

from benchmarks.learning.methods import BATCH_SIZE, joint, learn, with_masks
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.plots import plot
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, permuted, split
from hatify import HATConfig

SEQUENCES = {"Split-MNIST": split, "Permuted-MNIST": partial(permuted, 5)}
PLACES = {"MLP": list(SEQUENCES), "ResNet": ["Split-MNIST"]}  # permuted pixels leave convolutions nothing to see
BUDGETS = (1, 2, 4, 8, 16)
MARGIN = 0.01
HEADER = (
    "network",
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


def run(network: str, recipe: str, sequence: Sequence, epochs: int, seed: int) -> float:
    method = joint if recipe == "joint" else partial(with_masks, config=recipes(epochs)[recipe])
    outcome, _ = learn(method, NETWORKS[network], sequence, epochs, seed)
    return fmean(outcome.accuracy)


def row(network: str, sequence: str, recipe: str, results: dict[str, list[float]], batches: int) -> list[str]:
    """batches: of an epoch of the whole sequence."""
    bar = fmean(results[f"{network}/{sequence}/joint/{BUDGETS[-1]}"])
    reached = {budget: results[f"{network}/{sequence}/{recipe}/{budget}"] for budget in BUDGETS}
    needed = next((budget for budget in BUDGETS if fmean(reached[budget]) >= bar - MARGIN), None)
    shown = f"{needed * batches:,}" if needed else f"over {BUDGETS[-1] * batches:,}"
    return [network, sequence, recipe, f"{100 * bar:.1f}", *map(spread, reached.values()), shown]


def main() -> None:
    arguments = parser(__doc__, "fewer_batches.json", seeds=2, names=PLACES, plot=True).parse_args()
    sequences = {name: make() for name, make in SEQUENCES.items()}
    recipe_names = list(recipes(1))
    places = [(network, name) for network in arguments.names for name in PLACES[network]]
    runs = {
        f"{network}/{name}/{recipe}/{epochs}": partial(run, network, recipe, sequences[name], epochs)
        for network, name in places
        for recipe in ("joint", *recipe_names)
        for epochs in (BUDGETS[-1:] if recipe == "joint" else BUDGETS)
    }
    results = over_seeds(runs, arguments)
    batches = {
        name: sum(-(-len(task.train.labels) // BATCH_SIZE) for task in sequence.tasks)
        for name, sequence in sequences.items()
    }
    print(
        markdown(
            HEADER, [row(*place, recipe, results, batches[place[1]]) for place in places for recipe in recipe_names]
        )
    )
    if arguments.plot:
        panels = {
            f"{network}, {name}": {
                recipe: [(budget * batches[name], results[f"{network}/{name}/{recipe}/{budget}"]) for budget in BUDGETS]
                for recipe in recipe_names
            }
            for network, name in places
        }
        plot(panels, arguments.plot, x="batches of the whole sequence", y="accuracy, %", logarithmic=True)


if __name__ == "__main__":
    main()
