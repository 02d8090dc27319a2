"""A diverged task must not reach another: 0 * NaN is NaN, so a mask alone does not keep such weights out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hatify.errors import no_longer_a_parameter

UNUSED = 2.0**-6  # small, so that nothing overflows, but not zero, by which a weight's norm would divide


class Divergence:
    """Finds the parameters that hold NaN or infinity, or whose norm overflows; it looks again only at those that were
    written to since.

    places: by each parameter's name, the module that holds it and its name there.
    """

    def __init__(self, places: Mapping[str, tuple[nn.Module, str]]) -> None:
        self._places = places
        self._seen: dict[str, tuple[int, int]] = {}
        self._diverged: dict[str, bool] = {}

    @torch.no_grad()
    def found(self) -> list[str]:
        """The names of those that have diverged.

        Raises:
            ConversionError: a module does not hold its parameter any more.
        """
        finite: dict[str, Tensor] = {}
        for name, (module, attribute) in self._places.items():
            parameter: Any = module._parameters.get(attribute)
            if parameter is None:
                raise no_longer_a_parameter(name)
            state = id(parameter), 0 if parameter.is_inference() else parameter._version
            if self._seen.get(name) != state:
                self._seen[name] = state
                self._diverged[name] = False
                if not parameter.is_meta and (parameter.is_floating_point() or parameter.is_complex()):
                    finite[name] = torch.linalg.vector_norm(parameter).isfinite()
        # Asked only now: an answer waits until the device has done all that it was given.
        self._diverged.update((name, not bool(answer)) for name, answer in finite.items())
        return [name for name, diverged in self._diverged.items() if diverged]


@contextmanager
def isolated(network: nn.Module, used: Mapping[int, Tensor]) -> Iterator[None]:
    """Let entries that a task does not use be `UNUSED`. used: by the `id` of a parameter, bool of its shape."""
    replaced: list[tuple[nn.Module, str, Any]] = [
        (module, name, parameter)
        for module in network.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in used
    ]
    try:
        for module, name, parameter in replaced:
            kept = torch.where(used[id(parameter)], parameter.detach(), UNUSED)
            # PyTorch may choose another kernel for what needs no gradient, and another one rounds otherwise.
            module._parameters[name] = nn.Parameter(kept, requires_grad=parameter.requires_grad)
        yield
    finally:
        for module, name, parameter in replaced:
            module._parameters[name] = parameter
