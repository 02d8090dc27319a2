"""What a custom `torch.autograd.Function` says of its derivative, the capture doesn't see: it keeps operators alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments
from hatify.capture.running import left_as_it_was
from hatify.errors import CaptureWarning


def warn_of_own_derivatives(model: nn.Module, arguments: Arguments) -> None:
    """Say which functions are captured without the backward that they define."""
    names = dict.fromkeys(type(node).__name__.removesuffix("Backward") for node in _own_backwards(model, arguments))
    if names:
        warnings.warn(
            f"{', '.join(names)}: of a torch.autograd.Function the graph has what it computes, not the backward that "
            "it defines; gradients are those of its operators. Write a straight-through estimator as "
            "x + (f(x) - x).detach(), the reversal of gradients as 2 * x.detach() - x, and checkpoint with "
            "use_reentrant=False (a submodule that is called as it is keeps its own)",
            CaptureWarning,
            stacklevel=4,
        )


def _own_backwards(model: nn.Module, arguments: Arguments) -> Iterator[Any]:
    """Of the results of one call, the nodes of backward that Python defines."""
    seen: set[Any] = set()
    waiting = [result.grad_fn for result in _results(model, arguments)]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            if isinstance(node, BackwardCFunction):
                yield node


def _results(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    if any(map(is_lazy, model.parameters())):  # a call would make them, in the user's model
        return []
    try:
        with left_as_it_was(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            results = model(*arguments[0], **arguments[1])
    except RuntimeError:  # what cannot run with gradients, or without values (meta), has no backward to lose
        return []
    return [result for result in pytree.tree_leaves(results) if isinstance(result, Tensor)]
