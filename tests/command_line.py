"""The command line, run as a user runs it."""

from typer.testing import CliRunner, Result

from hatify.cli.app import app


def run(*arguments: object) -> Result:
    """The outcome of `hatify ARGUMENTS`."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_bad_input(outcome: Result, complaint: str) -> None:
    """Exit status 2, and one line on standard error that says what is wrong."""
    assert outcome.exit_code == 2, outcome.output
    assert complaint in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
