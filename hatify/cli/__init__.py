"""The command line: `hatify COMMAND`. Its libraries come with the extra `cli`."""

import sys


def main() -> None:
    """Entry point of the console script `hatify`."""
    try:
        from hatify.cli.app import app
    except ModuleNotFoundError as missing:
        sys.exit(_how_to_install(missing))
    app()


def _how_to_install(missing: ModuleNotFoundError) -> int:
    if missing.name != "typer":
        raise missing
    print(f"hatify: the command line needs {missing.name}: pip install 'hatify[cli]'", file=sys.stderr)
    return 2
