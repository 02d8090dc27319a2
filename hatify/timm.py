"""timm's model factory for converted networks: import this module, and every name of timm has a `hat_` form.

import timm, hatify.timm

net = timm.create_model("hat_resnet18", pretrained=True, num_tasks=5, num_classes=10)
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import timm
from timm.models import register_model

from hatify.config import HATConfig
from hatify.conversion import hatify
from hatify.module import HATModule

PREFIX = "hat_"


def create_converted(
    name: str,
    *,
    num_tasks: int = 1,
    num_classes: int | Sequence[int] | None = None,
    heads: Sequence[str] | None = None,
    config: HATConfig | None = None,
    example_inputs: Any = None,
    **arguments: Any,
) -> HATModule:
    """A model of timm, converted.

    num_classes: of the model, and so of each task's head; or one number for each task.
    num_tasks, heads, config, example_inputs: as for `hatify.hatify`. arguments: as for `timm.create_model`.
    """
    of_each_task = None
    if isinstance(num_classes, int | Integral):
        arguments["num_classes"] = int(num_classes)
    else:
        of_each_task = num_classes
    model = timm.create_model(name, **arguments)
    return hatify(
        model,
        num_tasks=num_tasks,
        example_inputs=example_inputs,
        num_classes=of_each_task,
        heads=heads,
        config=config,
    )


def _register(name: str) -> None:
    def entrypoint(**arguments: Any) -> HATModule:
        return create_converted(name, **arguments)

    entrypoint.__name__ = entrypoint.__qualname__ = f"{PREFIX}{name}"
    entrypoint.__doc__ = f"timm's {name}, converted: see `hatify.timm.create_converted`."
    register_model(entrypoint)


for _name in timm.list_models():
    if not timm.is_model(f"{PREFIX}{_name}"):
        _register(_name)
