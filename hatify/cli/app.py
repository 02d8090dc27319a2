"""The command line's commands, gathered."""

import typer

from hatify.cli.demo import demo
from hatify.cli.errors import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def hatify() -> None:
    """Converts PyTorch models so that they learn tasks one after another without forgetting.

    Exit status: 0 success, 1 a check that failed, 2 bad input.
    """


app.command()(demo)
