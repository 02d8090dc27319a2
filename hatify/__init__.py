"""hatify: continual learning with hard attention masks, for any PyTorch model.

`hatify(model, num_tasks=5)` captures the model as a torch.fx graph, gates its features by task masks, and returns a
`HATModule` that learns tasks one after another without changing an earlier one, bitwise.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hatify.config import HATConfig as HATConfig
    from hatify.conversion import hatify as hatify
    from hatify.errors import HatifyError as HatifyError
    from hatify.files import load as load
    from hatify.files import save as save
    from hatify.module import HATModule as HATModule
    from hatify.payload import HATPayload as HATPayload
    from hatify.verification.verify import verify as verify
    from rewriters import rewriter as rewriter

__version__ = "0.1.0"

_HOMES = {
    "HATConfig": "hatify.config",
    "HATModule": "hatify.module",
    "HATPayload": "hatify.payload",
    "HatifyError": "hatify.errors",
    "hatify": "hatify.conversion",
    "load": "hatify.files",
    "rewriter": "rewriters",
    "save": "hatify.files",
    "verify": "hatify.verification.verify",
}

__all__ = ["HATConfig", "HATModule", "HATPayload", "HatifyError", "hatify", "load", "rewriter", "save", "verify"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import hatify` alone costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hatify' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
