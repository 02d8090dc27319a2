"""`hatify forget`: a task's own entries drawn anew, all others as they are."""

from __future__ import annotations

from typing import Annotated

import typer

from hatify.cli.common import AsJSON, InPlace, Model, ModelArguments, Network, Task, note, open_network, show
from hatify.files import save
from hatify.output import check_writable


def forget(
    network: Network,
    task: Task,
    output: InPlace = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be forgotten.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the fresh values. Default: another each time.")] = None,
    model: Model = None,
    argument: ModelArguments = None,
    as_json: AsJSON = False,
) -> None:
    """Forget a task: entries that only it uses are drawn anew, every other task stays as it is, bitwise.

    **Examples**

        hatify forget net.safetensors --task 2 --dry-run

        hatify forget net.safetensors --task 2 --output smaller.safetensors
    """
    target = output or network
    check_writable(target)
    net = open_network(network, model, argument)
    report = net.forget(task, seed=seed, dry_run=dry_run)
    if not dry_run:
        save(net, target)
    show(as_json, report.as_dict(), str(report))
    if not dry_run:
        note(f"wrote {target}")
