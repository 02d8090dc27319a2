"""The converted network inside what a framework trains."""

from __future__ import annotations

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
