"""Arguments and output that several commands share."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from hatify.cli.errors import report_in_one_line
from hatify.cli.sources import arguments_from, model_from
from hatify.files import load
from hatify.module import HATModule

NETWORK_HELP = "A file that `hatify convert` or `hatify.save` wrote."
MODEL_HELP = (
    "The model that the network was made from, as timm:NAME or package.module:factory; needed only where forward "
    "calls a submodule as it is, whose code no file holds."
)

Network = Annotated[Path, typer.Argument(help=NETWORK_HELP, show_default=False)]
Task = Annotated[int, typer.Option(help="The task's id, from 0.", show_default=False)]
Model = Annotated[str | None, typer.Option(help=MODEL_HELP, show_default=False)]
ModelArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--argument",
        help="An argument of the model's factory, NAME=VALUE, such as num_classes=10; once for each.",
        show_default=False,
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
InPlace = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write the network; default: back to NETWORK.")
]


def open_network(path: Path, model: str | None, arguments: list[str] | None) -> HATModule:
    """The network in a file."""
    with warnings_in_one_line():
        return load(path, None if model is None else model_from(model, arguments_from(arguments or [])))


def show(as_json: bool, data: Mapping[str, Any], *tables: RenderableType) -> None:
    """Print the outcome of a command: as tables for people, or as data for programs."""
    if as_json:
        print(json.dumps(data, indent=2))
    else:
        Console().print(*tables)


def note(message: str) -> None:
    """Say what was done, beside the outcome itself."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(message, markup=False)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Warnings for people: one line each on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # libraries speaking to libraries
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.showwarning = lambda message, *_: report_in_one_line(f"warning: {message}")
        yield
