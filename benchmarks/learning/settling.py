"""Short tasks and batch norm: what a last pass that learns nothing is worth.

    python -m benchmarks.learning.settling [--seeds 2]

A narrow ResNet-50 learns three tasks of Split-MNIST under masks. Their scale goes up at the end of each task; with few
steps, running statistics still remember masks that were softer. "Settled": after the last step, the task's images are
passed once through the network in train mode.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import fmean

from benchmarks.learning.methods import BATCH_SIZE, learn, with_masks
from benchmarks.learning.networks import FromTimm
from benchmarks.learning.runs import markdown, over_seeds, parser, spread
from benchmarks.learning.sequences import Sequence, split

BUDGETS = (2, 4, 8, 16)  # epochs
FORMS = {"as trained": False, "settled": True}
NARROW = partial(FromTimm, name="resnet50", channels=(16, 32, 64, 128))


def run(form: str, sequence: Sequence, epochs: int, seed: int) -> float:
    outcome, _ = learn(partial(with_masks, settle=FORMS[form]), NARROW, sequence, epochs, seed)
    return fmean(outcome.accuracy)


def main() -> None:
    arguments = parser(__doc__, "settling.json", seeds=2).parse_args()
    whole = split(images_per_digit=200)
    sequence = replace(whole, tasks=whole.tasks[:3])
    runs = {f"{form}/{epochs}": partial(run, form, sequence, epochs) for form in FORMS for epochs in BUDGETS}
    results = over_seeds(runs, arguments)
    batches = -(-len(sequence.tasks[0].train.labels) // BATCH_SIZE)
    header = ("steps a task", *(f"{batches * epochs}" for epochs in BUDGETS))
    print(markdown(header, [[form, *(spread(results[f"{form}/{n}"]) for n in BUDGETS)] for form in FORMS]))


if __name__ == "__main__":
    main()
