"""Tables as text, for what is printed without a console."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

WIDTH = 140


def as_text(*parts: RenderableType) -> str:
    """What a console 140 characters wide shows of these."""
    stream = StringIO()
    # A notebook's console would show instead of write, and colour what is no terminal.
    console = Console(file=stream, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    for part in parts:
        console.print(part)
    return stream.getvalue()
