"""`hatify inspect`: what a conversion has made, and what is in use."""

from __future__ import annotations

from typing import Annotated

import typer

from hatify.cli.common import AsJSON, Model, ModelArguments, Network, open_network, show
from hatify.errors import InputError


def inspect(
    network: Network,
    code: Annotated[bool, typer.Option("--code", help="Print the converted forward as Python instead.")] = False,
    explain: Annotated[
        str | None, typer.Option(help="Say of one module what it reads and writes, and what locks it.")
    ] = None,
    model: Model = None,
    argument: ModelArguments = None,
    as_json: AsJSON = False,
) -> None:
    """Show a network's tasks, mask groups and capacity.

    **Examples**

        hatify inspect net.safetensors

        hatify inspect net.safetensors --explain layer1.0.conv1

        hatify inspect net.safetensors --code
    """
    if code and (as_json or explain is not None):
        raise InputError("--code prints Python: it goes with neither --explain nor --json")
    net = open_network(network, model, argument)
    if code:
        print(net.code.strip())
    elif explain is not None:
        explanation = net.explain(explain)
        show(as_json, explanation.as_dict(), str(explanation))
    else:
        summary = net.summary()
        show(as_json, summary.as_dict(), summary)
