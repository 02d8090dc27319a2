"""A diverged task must not reach another: 0 * NaN is NaN, so a mask alone does not keep such weights out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Divergence:
    """Finds the parameters that hold NaN or infinity; it looks again only at those that were written to since.

    places: the modules that hold the parameters, and their names there.
    """

    def __init__(self, places: Sequence[tuple[nn.Module, str]]) -> None:
        self._places = places
        self._seen: list[tuple[int, int]] = [(0, 0)] * len(places)
        self._finite = [True] * len(places)

    @torch.no_grad()
    def found(self) -> list[nn.Parameter]:
        parameters: list[Any] = [module._parameters[name] for module, name in self._places]
        for i, parameter in enumerate(parameters):
            state = id(parameter), 0 if parameter.is_inference() else parameter._version
            if state != self._seen[i]:
                self._seen[i] = state
                self._finite[i] = parameter.is_meta or bool(parameter.sum().isfinite())
        return [parameter for parameter, finite in zip(parameters, self._finite, strict=True) if not finite]


@contextmanager
def isolated(network: nn.Module, used: Mapping[int, Tensor]) -> Iterator[None]:
    """Let entries that a task does not use be zero. used: by the `id` of a parameter, bool of its shape."""
    replaced: list[tuple[nn.Module, str, Any]] = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in used
    ]
    try:
        for module, name, parameter in replaced:
            kept = torch.where(used[id(parameter)], parameter.detach(), 0)
            module._parameters[name] = nn.Parameter(kept, requires_grad=False)
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter
