"""Fingerprints of what a trained task depends on: if one changes, something has gone round the locks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's numbers, bit by bit."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def fingerprints(tensors: Mapping[str, Tensor], used: Mapping[str, Tensor]) -> dict[str, str]:
    """By name, a fingerprint of the entries in use. used: bool of a tensor's shape; all entries where it has none."""

    def chosen(name: str, tensor: Tensor) -> Tensor:
        return tensor.detach().masked_select(used[name]) if name in used else tensor

    return {
        name: hashlib.blake2b(bytes_of(chosen(name, tensor)), digest_size=8).hexdigest()
        for name, tensor in tensors.items()
    }
