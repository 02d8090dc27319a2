"""The converted network inside what a framework trains, and its `learn` block over the calls of a callback."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from hatify.errors import TrainingError
from hatify.module import HATModule
from hatify.runtime.learning import LearningTask


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


class LearnBlock:
    """A network's `learn` block that a framework enters in one call and leaves in another.

    task: the task that is being learned; None outside.
    """

    def __init__(self) -> None:
        self.task: LearningTask | None = None
        self._stack = ExitStack()

    def enter(self, net: HATModule, task_id: int, steps: int) -> None:
        """Begin, or go on after an interruption; see `HATModule.learn`, which raises the same."""
        self.abandon()
        self.task = self._stack.enter_context(net.learn(task_id, steps=steps))

    def leave(self) -> None:
        """End: the task is trained, and locked from then on."""
        self.task = None
        self._stack.close()

    def abandon(self, error: BaseException | None = None) -> None:
        """Leave the block, if there is one, as an exception does: its task is not trained, and can go on."""
        self.task = None
        error = error or InterruptedError("training was interrupted")
        self._stack.__exit__(type(error), error, error.__traceback__)
