"""Bad input on the command line: one line on standard error and exit status 2, never a traceback."""

import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from hatify.errors import HatifyError

CHECK_FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130

# Found through a public name: the module that holds it differs between typer's versions.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]


class OneLineErrors(TyperGroup):
    """A command group that reports every foreseen error in one line."""

    def main(self, *args: Any, **settings: Any) -> NoReturn:
        """Run the command line and leave the process with the command's exit status."""
        settings["standalone_mode"] = False
        try:
            status = super().main(*args, **settings)
        except typer.Abort:
            leave("interrupted", INTERRUPTED)
        except UsageError as error:
            leave(_advise(error), BAD_INPUT)
        except HatifyError as error:
            leave(str(error), BAD_INPUT)
        sys.exit(status)


def leave(message: str, status: int) -> NoReturn:
    """Print `message` as one line on standard error and leave the process with `status`."""
    report_in_one_line(message)
    sys.exit(status)


def report_in_one_line(message: str) -> None:
    print("hatify:", " ".join(message.split()), file=sys.stderr)


def _advise(error: Any) -> str:
    command = error.ctx.command_path if error.ctx else "hatify"
    return f"{error.format_message()} (try: {command} --help)"
