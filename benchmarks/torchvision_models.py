"""torchvision's models for classification and segmentation, with random weights and small images."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torchvision import models

from benchmarks.models import Subject

# The side of the images, and of those of the models whose strides and windows need more.
SIDE = 64
SIDES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56}

# No download for the backbone, and the head beside the last one that training uses.
SEGMENTATION = {"weights_backbone": None, "aux_loss": True}

# What a builder has to be told.
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},  # drawing them from SciPy's normal distribution takes long
    "inception_v3": {"init_weights": False},
    "maxvit_t": {"input_size": (224, 224)},
    "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    **{name: SEGMENTATION for name in models.list_models(include=["deeplabv3_*", "fcn_*"])},
    **{name: {"image_size": SIDES.get(name, SIDE)} for name in models.list_models(include="vit_*")},
}


def names() -> Sequence[str]:
    return models.list_models(module=models) + models.list_models(module=models.segmentation)


def subject(name: str) -> Subject:
    model, side = models.get_model(name, **OPTIONS.get(name, {})), SIDES.get(name, SIDE)
    (argument,) = signature(model.forward).parameters  # "x" but for a few
    return Subject(model, lambda batch: {argument: torch.randn(batch, 3, side, side)})
