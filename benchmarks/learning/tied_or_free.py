"""Residual sums tied or free: one mask for a whole stream, or a mask of its own for each sum, as HAT-CL has it?

    python -m benchmarks.learning.tied_or_free [--seeds 5] [--epochs 5]

The same network, weights and data; "free" calls `gated_sum` where "tied" adds.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import Any

from benchmarks.learning.methods import learn, with_masks
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, split
from hatify import HATModule

FORMS = {"tied": NETWORKS["ResNet"], "free": NETWORKS["ResNet, gated sums"]}
HEADER = ("sums", "accuracy, %", "moved", "features", "free, %")


def run(form: str, sequence: Sequence, epochs: int, seed: int) -> dict[str, Any]:
    outcome, networks = learn(with_masks, FORMS[form], sequence, epochs, seed)
    net = networks[0]
    assert isinstance(net, HATModule)
    features = sum(group.num_features for group in net.registry.groups.values())
    return asdict(outcome) | {"features": features}


def main() -> None:
    arguments = parser(__doc__, "tied_or_free.json", seeds=5, epochs=5).parse_args()
    sequence = split()
    runs = {form: partial(run, form, sequence, arguments.epochs) for form in FORMS}
    rows = []
    for form, of_form in over_seeds(runs, arguments).items():
        accuracy = spread([fmean(result["accuracy"]) for result in of_form])
        moved = sum(result["moved"] for result in of_form)
        free = spread([result["free"][-1] for result in of_form])
        rows.append([form, accuracy, moved, of_form[0]["features"], free])
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
