"""Numbers of tasks, classes and steps, as users give them."""

from __future__ import annotations

from numbers import Integral

from hatify.errors import TaskError


def checked_count(count: object, what: str) -> int:
    """A number of things as an integer, NumPy's integers too.

    what: what it is called, for the error.

    Raises:
        TaskError: no whole number of at least 1.
    """
    if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
        raise TaskError(f"{what} takes a whole number of at least 1, got {count!r}")
    return int(count)
