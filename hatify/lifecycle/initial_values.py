"""How the parameters of a model were initialised, so that entries can be drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Scheme:
    """How one module draws its parameters. Plain data.

    layer: the class of torch.nn whose `reset_parameters` draws them. settings: the module's own, and its absent
        parameters.
    parameters: the module's parameters by their names in it, as names in the model.
    """

    layer: str
    settings: Mapping[str, Any]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Spread:
    """A parameter that no layer of torch.nn draws is drawn from N(mean, std) of its values at conversion."""

    mean: float
    std: float


Initialization = Mapping[str, Scheme | Spread]


def initialization(model: nn.Module) -> Initialization:
    """By each parameter's name, how it is drawn."""
    found: dict[str, Scheme | Spread] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        own = {name: f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)}
        layer = _layer_of(module)
        scheme = None if layer is None else Scheme(layer, _settings(module), own)
        for name, full_name in own.items():
            found[full_name] = scheme or _spread(getattr(module, name))
    return found


def drawn_anew(how: Scheme | Spread, name: str, shapes: Mapping[str, Tensor]) -> Tensor:
    """Fresh values of a parameter.

    shapes: tensors of the shape, dtype and device of the model's parameters, by name.
    """
    if isinstance(how, Spread):
        return how.mean + how.std * torch.randn_like(shapes[name])
    layer = getattr(nn, how.layer)
    module = layer.__new__(layer)
    nn.Module.__init__(module)
    module.__dict__.update(how.settings)
    for own, full_name in how.parameters.items():
        module.register_parameter(own, nn.Parameter(torch.empty_like(shapes[full_name])))
    module.reset_parameters()
    return next(getattr(module, own).detach() for own, full_name in how.parameters.items() if full_name == name)


def _layer_of(module: nn.Module) -> str | None:
    """The class of torch.nn that a module is, or is derived from, if that knows how to draw its parameters."""
    kinds = (kind for kind in type(module).__mro__ if getattr(nn, kind.__name__, None) is kind)
    return next((kind.__name__ for kind in kinds if hasattr(kind, "reset_parameters")), None)


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    absent = {name: None for name, parameter in module._parameters.items() if parameter is None}
    return absent | {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(v, plain) for v in value)))
    }


def _spread(parameter: Tensor) -> Spread:
    if parameter.is_meta or not parameter.numel():
        return Spread(0.0, 0.0)
    values = parameter.detach().double()
    return Spread(float(values.mean()), float(values.std(correction=0)))
