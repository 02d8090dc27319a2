"""`hatify demo`: the library at work on real data, beside fine-tuning."""

from pathlib import Path
from typing import Annotated

import typer

from hatify.cli.errors import BAD_INPUT, CHECK_FAILED, leave
from hatify.demo.settings import DemoSettings, NetworkName

ALL_NETWORKS = list(NetworkName)


def demo(
    network: Annotated[
        list[NetworkName], typer.Option(help="Network to train; give the option once for each.")
    ] = ALL_NETWORKS,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images of each task.")] = 6,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of weights and batches.")] = 0,
    images_per_digit: Annotated[
        int, typer.Option(min=10, max=500, help="Images used of each digit; every fifth is a test image.")
    ] = 500,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("hatify-demo"),
) -> None:
    """Learn Split-MNIST, five tasks of two digits each, with HAT and beside it by fine-tuning.

    Prints the accuracy on each task after each task, the forgetting and the capacity in use, and saves them
    as results.json with a plot, results.png. With HAT the test logits of every earlier task must stay the
    same to the last bit; where they don't, the exit status is 1.

    **Examples**

        hatify demo

        hatify demo --network cnn --epochs 3

        hatify demo --seed 7 --output runs/seed-7
    """
    settings = DemoSettings(
        networks=tuple(dict.fromkeys(network)),
        epochs=epochs,
        seed=seed,
        images_per_digit=images_per_digit,
        output=output,
    )
    try:
        from hatify.demo.run import run_demo
    except ModuleNotFoundError as missing:
        leave(f"the demo needs {missing.name}: pip install 'hatify[demo]'", BAD_INPUT)
    results = run_demo(settings)
    changed = [
        f"{name}'s logits on task {task} after task {after}"
        for name, result in results.items()
        for after, task in result.hat.changed_cells
    ]
    if changed:
        leave(f"HAT has forgotten, these changed: {'; '.join(changed)}", CHECK_FAILED)
