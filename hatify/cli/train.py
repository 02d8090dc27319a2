"""`hatify train`: a task learned, earlier tasks as they were."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.utils.data import Subset

from hatify.cli.common import (
    AsJSON,
    InPlace,
    Model,
    ModelArguments,
    Network,
    Task,
    note,
    open_network,
    show,
    warnings_in_one_line,
)
from hatify.cli.data import data_from
from hatify.cli.training import Settings, accuracy, num_steps, train_task
from hatify.errors import InputError
from hatify.files import save
from hatify.module import HATModule
from hatify.output import check_writable

DATA_HELP = "An .npz file with `inputs` and `labels`, or package.module:factory, which makes a dataset of such pairs."


def train(
    network: Network,
    task: Task,
    data: Annotated[str, typer.Option(help=DATA_HELP, show_default=False)],
    test: Annotated[
        str | None, typer.Option(help="Data to measure the accuracy on, named like --data. Default: --data.")
    ] = None,
    output: InPlace = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=2, help="Examples a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of the weights, under AdamW.")] = 2e-3,
    mask_learning_rate: Annotated[float, typer.Option(min=0.0, help="Of the mask embeddings.")] = 5e-2,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Of the weights.")] = 1e-2,
    regularization: Annotated[
        float, typer.Option(min=0.0, help="Of the masks: more of it leaves more features to later tasks.")
    ] = 0.75,
    renew: Annotated[
        bool, typer.Option("--renew", help="First draw anew what no task uses. Not where weights came pretrained.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the batches' order, and of what is drawn.")] = 0,
    device: Annotated[str, typer.Option(help="Such as cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    model: Model = None,
    argument: ModelArguments = None,
    as_json: AsJSON = False,
) -> None:
    """Train a task of classification. What earlier tasks have learned is locked and stays as it is, bitwise.

    **Examples**

        hatify train net.safetensors --task 0 --data digits01.npz --test digits01-test.npz

        hatify train net.safetensors --task 1 --data my_package.data:flowers --epochs 30 --output net1.safetensors
    """
    target = output or network
    check_writable(target)
    examples = data_from(data)
    tested = examples if test is None else data_from(test)
    settings = Settings(epochs, batch_size, learning_rate, mask_learning_rate, weight_decay, regularization, seed)
    net = open_network(network, model, argument)
    _move(net, device)
    accuracy(net, task, Subset(tested, [0]), batch_size)  # so that examples that do not fit are refused now
    if renew:
        net.renew(seed=seed)
    with _progress() as bar, warnings_in_one_line():
        steps = bar.add_task("", total=num_steps(examples, settings), loss=float("nan"))
        train_task(net, task, examples, settings, lambda loss: bar.update(steps, advance=1, loss=loss))
    save(net, target)
    note(f"wrote {target}")
    _report(net, task, accuracy(net, task, tested, batch_size), as_json)


def _move(net: HATModule, device: str) -> None:
    if device.partition(":")[0] == "meta":
        raise InputError(f"cannot use the device {device!r}: it has no memory")
    try:
        net.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"cannot use the device {device!r}: {error}") from None


def _progress() -> Progress:
    """A bar for people, which goes when training ends; a program that reads along gets none."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _report(net: HATModule, task: int, share: float, as_json: bool) -> None:
    """Print the accuracy, and what the task has taken."""
    capacity = net.capacity()
    features = sum(group.num_features for group in capacity.values())
    used = sum(group.used[task] for group in capacity.values())
    free = sum(group.free for group in capacity.values())
    data = {"task": task, "accuracy": share, "features": features, "used": used, "free": free}
    table = Table("task", "accuracy", "features used", "features free")
    table.add_row(str(task), f"{share:.1%}", f"{used} of {features}", f"{free} of {features}")
    show(as_json, data, table)
