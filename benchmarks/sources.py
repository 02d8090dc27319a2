"""The libraries of models that the zoo draws from: names, and a model with its inputs by name."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import timm
import torch
from torch import nn

from benchmarks.models import Subject, images

SMALL_IMAGES = (128, 224)

# Models beyond this have no room for a network of three tasks, its optimizer and its copies.
LARGEST_SAMPLED = 60_000_000


@dataclass(frozen=True)
class Source:
    """A library: the names of its models, and how one is made."""

    names: Callable[[], Sequence[str]]
    subject: Callable[[str], Subject]


def _timm(name: str) -> Subject:
    """A model with images as small as it takes: of 128 pixels, of 224, or of its own size."""
    model = timm.create_model(name)
    channels, *own = model.pretrained_cfg["input_size"]
    for extent in SMALL_IMAGES:
        if extent < max(own) and _takes(model, (channels, extent, extent)):
            return Subject(model, images(channels, extent, extent))
    takes_size = "img_size" in inspect.signature(type(model)).parameters
    if model.pretrained_cfg.get("fixed_input_size") and takes_size and max(own) > SMALL_IMAGES[-1]:
        extent = SMALL_IMAGES[-1]
        return Subject(timm.create_model(name, img_size=extent), images(channels, extent, extent))
    return Subject(model, images(channels, *own))


def _takes(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a model runs on images of a shape."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError, ValueError):
        return False
    finally:
        model.train()
    return True


def smallest_of_each_file(sizes: Path) -> list[str]:
    """timm's model files, each by its smallest model. `sizes` keeps what was counted."""
    counted = _sizes(sizes)
    return [
        min(timm.list_models(module=module), key=lambda name: (counted[name], name)) for module in timm.list_modules()
    ]


def random_names(sizes: Path, count: int, seed: int = 0) -> list[str]:
    """Further names of timm, drawn at random from those small enough to be trained here."""
    counted, taken = _sizes(sizes), set(smallest_of_each_file(sizes))
    rest = [name for name in timm.list_models() if name not in taken and counted[name] <= LARGEST_SAMPLED]
    return random.Random(seed).sample(rest, count)


def _sizes(path: Path) -> dict[str, int]:
    """The number of parameters of every model of timm."""
    if path.exists():
        return json.loads(path.read_text())
    sizes = {name: _size(name) for name in timm.list_models()}
    path.write_text(json.dumps(sizes))
    return sizes


def _size(name: str) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name).parameters())


def _in_module(path: str) -> Source:
    """A library whose models a module of its own describes; imported when asked for, as the library is optional."""
    return Source(lambda: import_module(path).names(), lambda name: import_module(path).subject(name))


SOURCES: dict[str, Source] = {
    "timm": Source(timm.list_models, _timm),
    "torchvision": _in_module("benchmarks.torchvision_models"),
    "transformers": _in_module("benchmarks.transformers_models"),
}
