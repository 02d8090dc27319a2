"""Fingerprints of what a trained task depends on: if one changes, something has gone round the locks."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from hatify.ownership import Ownership


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's numbers, bit by bit."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def fingerprints(net: nn.Module, ownership: Ownership, task: int) -> dict[str, str]:
    """By name, a fingerprint of each tensor that a task depends on: of the shared entries that it uses, and of its own.

    A network without weights (meta device) has none.
    """
    shared = ownership.shared()
    if any(parameter.is_meta for parameter in shared.values()):
        return {}
    used = {name: entries for name, entries in ownership.used(task, shared).items() if bool(entries.any())}
    own = ownership.of_task(task)

    def chosen(name: str, tensor: Tensor) -> Tensor:
        return tensor.detach().masked_select(used[name]) if name in used else tensor

    return {
        name: hashlib.blake2b(bytes_of(chosen(name, tensor)), digest_size=8).hexdigest()
        for name, tensor in (*net.named_parameters(), *net.named_buffers())
        if name in used or id(tensor) in own
    }
