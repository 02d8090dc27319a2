"""How the parameters of a model were drawn at first, so that entries can be drawn anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized


@dataclass(frozen=True)
class Scheme:
    """How a layer of torch.nn draws its parameters. Plain data.

    layer: the class whose `reset_parameters` draws them. settings: the module's own, and its absent parameters.
    parameters: what the layer draws, by its names in the module, as names in the model.
    """

    layer: str
    settings: Mapping[str, Any]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class Initial:
    """How one parameter was drawn: mean and standard deviation at conversion, and its layer's scheme, if it has one."""

    mean: float
    std: float
    scheme: Scheme | None

    def fits(self, drawn: Tensor) -> bool:
        """Whether values are of the same order as those at conversion: models often draw by a rule of their own."""
        std = float(drawn.std(correction=0))
        return self.std / 2 <= std <= self.std * 2


Initialization = Mapping[str, Initial]


@torch.no_grad()
def initialization(model: nn.Module) -> Initialization:
    """By each parameter's name, how it is drawn."""
    found: dict[str, Initial] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        scheme = _scheme(path, module)
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            draws = scheme is not None and name in scheme.parameters
            found[_joined(path, name)] = Initial(*_spread(parameter), scheme if draws else None)
    return found


def drawn_anew(initial: Initial, name: str, parameters: Mapping[str, Tensor]) -> Tensor:
    """Fresh values of a parameter: its layer's own scheme where it fits, else N(mean, std) as at conversion.

    parameters: tensors of the shapes, dtypes and devices of the model's parameters, by name.
    """
    if initial.scheme is not None:
        drawn = _drawn(initial.scheme, name, parameters)
        if initial.fits(drawn):
            return drawn
    return initial.mean + initial.std * torch.randn_like(parameters[name])


def _drawn(scheme: Scheme, name: str, parameters: Mapping[str, Tensor]) -> Tensor:
    layer = getattr(nn, scheme.layer)
    module = layer.__new__(layer)
    nn.Module.__init__(module)
    module.__dict__.update(scheme.settings)
    for own, full_name in scheme.parameters.items():
        module.register_parameter(own, nn.Parameter(torch.empty_like(parameters[full_name])))
    module.reset_parameters()
    return next(getattr(module, own).detach() for own, full in scheme.parameters.items() if full == name)


def _scheme(path: str, module: nn.Module) -> Scheme | None:
    """How the layer of torch.nn that a module is, or is derived from, draws its parameters.

    None: there is no such layer, its weight is computed from other parameters (weight norm, say), or it has statistics
    to reset as well.
    """
    kinds = (kind for kind in type(module).__mro__ if getattr(nn, kind.__name__, None) is kind)
    layer = next((kind.__name__ for kind in kinds if hasattr(kind, "reset_parameters")), None)
    if layer is None or is_parametrized(module) or "weight" in vars(module) or module._buffers:
        return None
    own = (name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False))
    drawn = (name for name in own if name.startswith(("weight", "bias")))  # a subclass may have others: a gain, say
    return Scheme(layer, _settings(module), {name: _joined(path, name) for name in drawn})


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, type(None))
    absent = {name: None for name, parameter in module._parameters.items() if parameter is None}
    return absent | {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (isinstance(value, plain) or (isinstance(value, tuple) and all(isinstance(v, plain) for v in value)))
    }


def _spread(parameter: Tensor) -> tuple[float, float]:
    """Mean and standard deviation."""
    if parameter.is_meta or not parameter.numel():
        return 0.0, 0.0
    values = torch.view_as_real(parameter) if parameter.is_complex() else parameter
    values = values if values.dtype in (torch.float32, torch.float64) else values.float()
    std, mean = torch.std_mean(values, correction=0)
    return float(mean), float(std)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
