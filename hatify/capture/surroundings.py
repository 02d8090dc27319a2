"""What is set aside while a model is exported: shortcuts, checks and messages that a trace has no use for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.backends import mha
from torch.distributions import Distribution
from torch.export import _trace
from torch.nn.modules import transformer

# Where an export fails these log whole graphs; the error that follows says what matters.
VERBOSE = [logging.getLogger(f"torch.fx.experimental.{name}") for name in ("symbolic_shapes", "recording")]


@contextmanager
def set_aside() -> Iterator[None]:
    """Let PyTorch be as a trace needs it, and afterwards as it was."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # recurrent layers re-assign their weights in forward; the export restores them, but warns
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        for logger in VERBOSE:
            logger.addFilter(_is_minor)
            stack.callback(logger.removeFilter, _is_minor)
        # in eval mode nn.TransformerEncoder has a fused operator; without it, both modes are one graph
        stack.callback(mha.set_fastpath_enabled, mha.get_fastpath_enabled())
        mha.set_fastpath_enabled(False)
        for owner, name, value in _replacements():
            stack.enter_context(patch.object(owner, name, value))
        yield


def _is_minor(record: logging.LogRecord) -> bool:
    return record.levelno < logging.WARNING


def _replacements() -> Iterator[tuple[Any, str, Any]]:
    """What is another one while a model is traced: where it is, its name, and what it is then."""
    # some failing exports print whole graphs
    yield _trace, "print", lambda *values, **options: None
    # nn.TransformerEncoder and its like look whether a mask is causal, only to be quicker then
    yield transformer, "_detect_is_causal_mask", lambda mask, is_causal=None, size=None: is_causal is True
    # torch.distributions looks at the values of what it is given, only to refuse some
    yield Distribution, "_validate_args", False
    # `self.layer.to(dtype)` in forward is refused by the export even where it changes nothing
    yield nn.Module, "_apply", _unless_idle(nn.Module._apply)
    # `x.data` in forward is no operator that a trace could see; `x.detach()` is, and gives the same
    yield torch.Tensor, "data", _detached(torch.Tensor.data)


def _unless_idle(apply: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def apply_unless_idle(module: nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        held = [*module.parameters(recurse), *module.buffers(recurse)]
        like_them = [torch.empty(0, dtype=tensor.dtype, device=tensor.device) for tensor in held]
        idle = all(function(tensor) is tensor for tensor in like_them)
        return module if idle else apply(module, function, recurse)

    return apply_unless_idle


def _detached(data: Any) -> property:
    def detached(tensor: Tensor) -> Any:
        return tensor.detach() if isinstance(tensor, FakeTensor) else data.__get__(tensor)

    return property(detached, data.__set__)
