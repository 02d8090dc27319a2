"""The command line's commands, gathered."""

import typer

from hatify.cli.convert import convert
from hatify.cli.demo import demo
from hatify.cli.draw import draw
from hatify.cli.errors import OneLineErrors
from hatify.cli.extract import extract
from hatify.cli.forget import forget
from hatify.cli.inspect import inspect
from hatify.cli.train import train
from hatify.cli.verify import verify

app = typer.Typer(
    cls=OneLineErrors,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    no_args_is_help=True,
)


@app.callback()
def hatify() -> None:
    """Converts PyTorch models so that they learn tasks one after another without forgetting.

    Exit status: 0 success, 1 a check that failed, 2 bad input.
    """


for command in (convert, inspect, draw, train, verify, forget, extract, demo):
    app.command()(command)
