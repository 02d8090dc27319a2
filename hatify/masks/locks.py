"""Lock masks: lock rules evaluated on what the trained tasks have taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hatify.masks.positions import PositionHolder

Terms = tuple[tuple[Tensor, ...], ...]  # of positions into `MaskRegistry.taken`


def compact(lock: Tensor) -> Tensor:
    """A lock mask with size 1 in each dimension along which all is alike: it broadcasts to what it was."""
    for dimension in range(lock.dim()):
        first = lock.narrow(dimension, 0, 1)
        if torch.equal(lock, first.expand_as(lock)):
            lock = first
    return lock.clone()


class LockTable(PositionHolder):
    """The lock rules of the shared parameters, as positions into `MaskRegistry.taken`.

    A module so that the positions follow the network to its device; it has no parameters, and a state dict no entry.

    terms: by parameter, the rule's terms as names of positions.
    """

    def __init__(self, rules: Mapping[str, Terms]) -> None:
        super().__init__()
        self.terms: dict[str, list[list[str]]] = {}
        self._known: dict[bytes, str] = {}
        for name, terms in rules.items():
            self.terms[name] = [[self._keep(positions) for positions in term] for term in terms]
        self._known.clear()

    def _keep(self, positions: Tensor) -> str:
        """The name of positions; equal ones are kept once."""
        key = repr(tuple(positions.shape)).encode() + positions.cpu().numpy().tobytes()
        if key not in self._known:
            self._known[key] = f"positions_{len(self._known)}"
            self.positions[self._known[key]] = positions
        return self._known[key]

    @property
    def names(self) -> Sequence[str]:
        return tuple(self.terms)

    @torch.no_grad()
    def lock(self, parameter: str, taken: Tensor, any_locked: bool, shape: torch.Size) -> Tensor:
        """The lock of a parameter, bool of its shape: `OR` over its uses of `AND` over their factors."""
        locked = torch.zeros(shape, dtype=torch.bool, device=taken.device)
        for term in self.terms[parameter]:
            every = torch.full((), any_locked, device=taken.device)
            for name in term:
                every = every & taken[self.positions[name]]
            locked |= every
        return locked
