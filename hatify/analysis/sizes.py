"""Sizes of captured tensors: as in the example, or unknown until there is data."""

from __future__ import annotations

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols


def shape_of(value: object) -> tuple[int, ...]:
    """The shape of a captured tensor; a dynamic dimension has its size in the example (see `concrete`)."""
    assert isinstance(value, torch.Tensor)
    return tuple(concrete(size) for size in value.shape)


def concrete(size: int | torch.SymInt) -> int:
    """A size as in the example inputs; an unknown one as a number of its own."""
    if not isinstance(size, torch.SymInt):
        return int(size)
    if is_unknown(size):
        return _imagined(size)
    fixed = size.node.maybe_as_int()  # an unknown size that turned out to be a number has no hint
    hint = size.node.hint if fixed is None else fixed
    if hint is None:  # nor has one that turned out to be the size of an input
        assert size.node.shape_env is not None
        hint = size.node.shape_env.create_symintnode(size.node.expr, hint=None).node.hint  # type: ignore[union-attr]
    assert isinstance(hint, int)
    return hint


def is_unknown(size: int | torch.SymInt) -> bool:
    """Whether a size follows from the data (how many entries a mask selects), not from the sizes of the inputs."""
    return bool(free_unbacked_symbols(size))


def _imagined(size: torch.SymInt) -> int:
    """An unknown size, where each count that only the data tells is a prime: no other size is mistaken for it."""
    counts = free_unbacked_symbols(size)
    primes = {count: sympy.Integer(sympy.prime(100 + int(count.name.lstrip("u")))) for count in counts}
    known = size.node.expr.xreplace(primes)
    assert size.node.shape_env is not None
    return concrete(size.node.shape_env.create_symintnode(known, hint=None))


def unknown_dimensions(value: object) -> tuple[int, ...]:
    """The dimensions of a captured tensor that have an unknown size."""
    return tuple(d for d, s in enumerate(value.shape) if is_unknown(s)) if isinstance(value, torch.Tensor) else ()


def entries_per_example(size: torch.SymInt) -> int:
    """How many entries a dynamic dimension has for each example of the batch."""
    return int(size.node.expr.as_coeff_Mul()[0])
