"""One call of torch.export, and what is set aside for it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensor
from torch.distributions import Distribution
from torch.export import Dim, ExportedProgram, _trace
from torch.nn.modules import transformer
from torch.utils import _pytree as pytree

from hatify.capture.decisions import FOUND, watched_questions
from hatify.capture.inputs import Arguments, batch_dimensions, in_own_containers
from hatify.capture.running import attributes_left_as_they_were
from hatify.capture.signature import forward_signature
from hatify.capture.sizes import numbers_fix_sizes
from hatify.errors import CaptureError


def export(model: nn.Module, arguments: Arguments) -> ExportedProgram:
    """A program at ATen level, before autograd, in the mode that the model is in; its batch may differ.

    Raises:
        CaptureError: forward makes a buffer.
    """
    arguments = in_own_containers(arguments)
    dynamic = pytree.tree_map(lambda d: None if d is None else {d: Dim.AUTO}, batch_dimensions(arguments))
    with ExitStack() as stack:
        for set_aside in ASIDE:
            stack.enter_context(set_aside())
        # recurrent layers re-assign their weights in forward; the export restores them, but warns
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        stack.enter_context(attributes_left_as_they_were(model))
        by_parameter, buffers = _by_parameter(model, *dynamic), _buffers(model)
        with watched_questions() as questions, numbers_fix_sizes():
            program = torch.export.export(model, *arguments, dynamic_shapes=by_parameter, strict=False)
        _check_none_was_made(_buffers(model) - buffers)
    program.graph_module.meta[FOUND] = questions
    return program


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch.export takes the dynamic shapes by the names of forward's parameters."""
    return dict(forward_signature(model.forward).bind(*args, **kwargs).arguments)


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers(remove_duplicate=False)}


def _check_none_was_made(made: Collection[str]) -> None:
    """torch.export writes such a buffer into another input of the graph."""
    if made:
        raise CaptureError(
            f"forward makes the buffer {min(made)!r} when it is first called: call the model once, and convert it then"
        )


@contextmanager
def _without_log_entries() -> Iterator[None]:
    """Where an export fails it logs whole graphs; the error that follows says what matters."""
    loggers = [logging.getLogger(f"torch.fx.experimental.{name}") for name in ("symbolic_shapes", "recording")]

    def is_minor(record: logging.LogRecord) -> bool:
        return record.levelno < logging.WARNING

    for logger in loggers:
        logger.addFilter(is_minor)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_minor)


@contextmanager
def _without_printed_graphs() -> Iterator[None]:
    """Some it prints, too."""
    namespace: Any = _trace
    namespace.print = lambda *values, **options: None
    try:
        yield
    finally:
        del namespace.print


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """In eval mode nn.TransformerEncoder has a fused operator; without it, both modes are one graph."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_looking_at_masks() -> Iterator[None]:
    """nn.TransformerEncoder and its like look whether a mask is causal, only to be quicker then."""
    before = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = before


@contextmanager
def _without_checks_of_distributions() -> Iterator[None]:
    """torch.distributions looks at the values of what it is given, only to refuse some."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _without_idle_conversions() -> Iterator[None]:
    """`self.layer.to(dtype)` in forward is refused by the export even where it changes nothing."""
    apply = nn.Module._apply

    def apply_unless_idle(module: nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        held = [*module.parameters(recurse), *module.buffers(recurse)]
        like_them = [torch.empty(0, dtype=tensor.dtype, device=tensor.device) for tensor in held]
        idle = all(function(tensor) is tensor for tensor in like_them)
        return module if idle else apply(module, function, recurse)

    nn.Module._apply = apply_unless_idle  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


@contextmanager
def _data_is_detached() -> Iterator[None]:
    """`x.data` in forward is no operator that a trace could see; `x.detach()` is, and gives the same."""
    patched: Any = torch.Tensor
    data = patched.data

    def detached(tensor: torch.Tensor) -> Any:
        return tensor.detach() if isinstance(tensor, FakeTensor) else data.__get__(tensor)

    patched.data = property(detached, data.__set__)
    try:
        yield
    finally:
        del patched.data  # which uncovers PyTorch's own


ASIDE = (
    warnings.catch_warnings,
    _without_log_entries,
    _without_printed_graphs,
    _without_fused_attention,
    _without_looking_at_masks,
    _without_checks_of_distributions,
    _without_idle_conversions,
    _data_is_detached,
)
