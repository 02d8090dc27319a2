"""What forward says of its derivative, the capture doesn't see, since it keeps operators alone.

That is what a custom `torch.autograd.Function` defines, and what a hook does to a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hatify.capture.failures import check_runs
from hatify.capture.inputs import Arguments
from hatify.capture.running import called, left_as_it_was
from hatify.errors import CaptureWarning, warn

INSTEAD = (
    "Write a straight-through estimator as x + (f(x) - x).detach(), the reversal of gradients as 2 * x.detach() - x"
)


def warn_of_own_derivatives(model: nn.Module, arguments: Arguments) -> None:
    """Say which functions are captured without the backward that they define, and whether hooks are lost."""
    with _NotedHooks() as hooks:
        results = _results(model, arguments)
    names = dict.fromkeys(type(node).__name__.removesuffix("Backward") for node in _own_backwards(results))
    if names:
        warn(
            f"{', '.join(names)}: of a torch.autograd.Function the graph has what it computes, not the backward that "
            f"it defines; gradients are those of its operators. {INSTEAD}, and checkpoint with "
            "use_reentrant=False (a submodule that is called as it is keeps its own)",
            CaptureWarning,
        )
    if hooks.on_tensors:
        warn(
            f"forward registers hooks on gradients, which are no part of the graph: they do not run. {INSTEAD}",
            CaptureWarning,
        )


class _NotedHooks(TorchFunctionMode):
    """Notes whether hooks are registered on the gradients of tensors."""

    on_tensors = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.on_tensors |= func is Tensor.register_hook
        return func(*args, **(kwargs or {}))


def _own_backwards(results: Iterable[Tensor]) -> Iterator[Any]:
    """The nodes of the results' backward that Python defines."""
    seen: set[Any] = set()
    waiting = [result.grad_fn for result in results]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            if isinstance(node, BackwardCFunction):
                yield node


def _results(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """The tensors that a call gives, with gradients."""
    if any(map(is_lazy, model.parameters())):  # a call would make them, in the user's model
        return []
    try:
        with left_as_it_was(model), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            results = called(model, arguments)
    except RuntimeError:  # what cannot run with gradients, or without values (meta), has no backward to lose
        if not any(parameter.is_meta for parameter in model.parameters()):
            check_runs(model, arguments)
        return []
    return [result for result in pytree.tree_leaves(results) if isinstance(result, Tensor)]
