"""What locked entries hold: kept while a task is learned, and put back, bitwise, where something has moved them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hatify.masks.locks import compact

LARGE = 2**18  # entries


class Kept:
    """A parameter, or a buffer, and the values that its locked entries keep.

    lock: see `locks.compact`.

    Of a large parameter only the block that has locks is kept: a copy of all the weights would tell in the memory that
    a step takes. Of a small one all is: to choose between two tensors is quicker than to write to a part of one.
    """

    def __init__(self, parameter: Tensor, lock: Tensor) -> None:
        self.parameter = parameter
        self.block = _block(lock) if parameter.numel() >= LARGE else None
        self.lock = lock if self.block is None else compact(lock[self.block])
        self.reload()

    def reload(self) -> None:
        """Keep the values that the parameter has now."""
        self.values = self._present().clone()
        self.note_unmoved()

    def is_unmoved(self) -> bool:
        """Whether the locked entries hold their values."""
        present = self._present()
        return torch.equal(torch.where(self.lock, self.values, present), present)

    def put_back(self) -> None:
        """Give the locked entries their values back."""
        if self.block is None:
            torch.where(self.lock, self.values, self.parameter, out=self.parameter)
        elif self.lock.numel() == 1:  # the block has no free entry
            self.parameter[self.block] = self.values
        else:
            self.parameter[self.block] = torch.where(self.lock, self.values, self._present())
        self.note_unmoved()

    def note_unmoved(self) -> None:
        """Its locked entries are as they should be, until it is written to again."""
        self._version = self.parameter._version

    def was_written(self) -> bool:
        """Whether it was written to since, as far as PyTorch knows: `parameter.data.add_` leaves no trace."""
        return self.parameter._version != self._version

    def _present(self) -> Tensor:
        values = self.parameter.detach()
        return values if self.block is None else values[self.block]


def put_back(kept: Iterable[Kept]) -> None:
    """Give the locked entries of parameters their values back."""
    vectors: dict[tuple[torch.device, torch.dtype], list[Kept]] = {}
    for each in kept:
        if each.parameter.dim() == 1 and each.block is None:
            vectors.setdefault((each.parameter.device, each.parameter.dtype), []).append(each)
        else:
            each.put_back()
    for alike in vectors.values():
        _put_vectors_back(alike)


def _put_vectors_back(kept: Sequence[Kept]) -> None:
    """All of one device and type at once: a GPU takes as long for each of them as for all."""
    parameters: list[Tensor] = [each.parameter for each in kept]
    sizes = [parameter.numel() for parameter in parameters]
    locks = torch.cat([each.lock.expand(size) for each, size in zip(kept, sizes, strict=True)])
    values = torch.where(locks, torch.cat([each.values for each in kept]), torch.cat(parameters))
    torch._foreach_copy_(parameters, values.split(sizes))
    for each in kept:
        each.note_unmoved()


def _block(lock: Tensor) -> tuple[Tensor | slice, ...]:
    """An index of all entries that share a row with a locked one, and a column, and so on."""
    dimensions = range(lock.dim())
    with_locks = [lock.movedim(d, 0).flatten(1).any(1) if lock.dim() > 1 else lock for d in dimensions]
    partial = [d for d in dimensions if not bool(with_locks[d].all())]
    block: list[Tensor | slice] = [slice(None)] * lock.dim()
    for position, d in enumerate(partial):
        shape = [-1 if other == position else 1 for other in range(len(partial))]
        block[d] = with_locks[d].nonzero().reshape(shape)
    return tuple(block)
