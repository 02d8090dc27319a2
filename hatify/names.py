"""Names that are not taken."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count


def numbered(name: str, separator: str = ".") -> Iterator[str]:
    """`name`, then `name.2`, `name.3` and so on, without end: whoever asks takes the first that will do."""
    return chain([name], (f"{name}{separator}{number}" for number in count(2)))
