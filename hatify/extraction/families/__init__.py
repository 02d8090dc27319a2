"""What extraction knows of operators, one file a family: where channels go in a call, and the call without some."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache


@cache
def load_families() -> None:
    """Register all families."""
    for family in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{family.name}")
