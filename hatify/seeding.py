"""Random numbers of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import torch

from hatify.errors import InputError


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Random numbers from a seed; the caller's own go on afterwards as if none had been drawn. None: the caller's.

    Raises:
        InputError: no whole number from 0 to 2**63 - 1.
    """
    if seed is None:
        yield
        return
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise InputError(f"a seed is a whole number from 0 to 2**63 - 1, got {seed!r}")
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(int(seed))
        yield
