"""`hatify draw`: a network as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hatify.cli.common import Model, ModelArguments, Network, note, open_network
from hatify.output import check_writable


def draw(
    network: Network,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="An .svg, .pdf or .png file.", show_default=False)
    ] = Path("graph.svg"),
    model: Model = None,
    argument: ModelArguments = None,
) -> None:
    """Draw a network by module, coloured by mask group; blocks that repeat are drawn once.

    **Examples**

        hatify draw net.safetensors

        hatify draw net.safetensors -o net.pdf
    """
    check_writable(output)
    open_network(network, model, argument).draw(output)
    note(f"wrote {output}")
