"""Numbers that forward draws from Python's or NumPy's generators: a trace has those of one call, for good."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from hatify.capture.frames import module_paths


@contextmanager
def find_drawers(model: nn.Module) -> Iterator[list[tuple[str, ...]]]:
    """Find the modules whose own code draws such numbers while `model` is traced.

    Gives for each draw the paths of the modules whose code was running then, from the inside out; each such once.
    """
    paths = module_paths(model)
    drawers: list[tuple[str, ...]] = []
    running = [""]
    before = _states()

    def look() -> None:
        nonlocal before
        now = _states()
        if now != before:
            before = now
            inside_out = tuple(dict.fromkeys(reversed(running)))
            if inside_out not in drawers:
                drawers.append(inside_out)

    def enter(module: nn.Module, inputs: Any) -> None:
        look()
        running.append(paths.get(id(module.__dict__), running[-1]))

    def leave(module: nn.Module, inputs: Any, result: Any) -> None:
        look()
        running.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield drawers
        look()
    finally:
        for hook in hooks:
            hook.remove()


def _states() -> tuple[Any, ...]:
    """Of the generators that all of a program shares."""
    _, numbers, position, *gauss = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(numbers).tobytes(), position, gauss
