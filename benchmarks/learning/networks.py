"""Plain networks for the sequences; none knows of masks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hatify.gated_sum import gated_sum

Build = Callable[[torch.Size, int], nn.Module]  # of images and a number of classes; the layer `head` is its last


class MLP(nn.Module):
    """Two hidden layers."""

    def __init__(self, image_shape: torch.Size, num_classes: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(image_shape.numel(), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))


class ResidualBlock(nn.Module):
    """add: what joins the branch and the stream, `torch.add` or `gated_sum`."""

    def __init__(self, width: int, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.add(branch, x).relu()


class ResNet(nn.Module):
    """Three residual blocks on images of a quarter of the size."""

    def __init__(
        self,
        image_shape: torch.Size,
        num_classes: int,
        width: int = 24,
        add: Callable[[Tensor, Tensor], Tensor] = torch.add,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*(ResidualBlock(width, add) for _ in range(3)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.pool(self.stem(images))).mean((2, 3)))


class FromTimm(nn.Module):
    """A network of timm's with a head of ours. options: of `timm.create_model`."""

    def __init__(self, image_shape: torch.Size, num_classes: int, name: str, **options: Any) -> None:
        super().__init__()
        self.layers = timm.create_model(name, in_chans=image_shape[0], num_classes=0, **options)
        self.head = nn.Linear(self.layers.num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))


NETWORKS: dict[str, Build] = {"MLP": MLP, "ResNet": ResNet, "ResNet, gated sums": partial(ResNet, add=gated_sum)}
