"""The converted network inside what a framework trains, and its `learn` block where training was interrupted."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from hatify.errors import TrainingError
from hatify.module import HATModule


def the_network_in(module: nn.Module) -> HATModule:
    """The one converted network that a module is or holds.

    Raises:
        TrainingError: it holds none, or several.
    """
    found = [inner for inner in module.modules() if isinstance(inner, HATModule)]
    if len(found) != 1:
        raise TrainingError(
            f"{type(module).__name__} holds {len(found) or 'no'} networks that hatify has converted; it has to hold one"
        )
    return found[0]


def abandon(learning: ExitStack) -> None:
    """Leave a `learn` block, if there is one, as an exception does: its task is not trained, and can go on."""
    learning.__exit__(InterruptedError, InterruptedError("training was interrupted"), None)
