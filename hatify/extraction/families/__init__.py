"""What extraction knows of operators, one file a family: where channels go in a call, and the call without some."""

from __future__ import annotations

import importlib
from functools import cache

FAMILIES = ("attention", "lookup", "moving", "norms", "pointwise", "recurrent", "reductions", "spatial", "weighted")


@cache
def load_families() -> None:
    """Register all families."""
    for name in FAMILIES:
        importlib.import_module(f"{__name__}.{name}")
