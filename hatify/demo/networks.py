"""The networks of the demo: plain PyTorch models that know nothing of masks."""

import timm
from torch import Tensor, nn

from hatify.demo.settings import NetworkName


def build_network(name: NetworkName, num_classes: int) -> nn.Module:
    """A new network for single-channel images; with `num_classes=0` it ends before the head."""
    if name is NetworkName.CNN:
        return SmallCNN(num_classes)
    network: nn.Module = timm.create_model(name.value, in_chans=1, num_classes=num_classes)
    return network


class SmallCNN(nn.Module):
    """Three convolutions with batch norm, and two linear layers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.block1 = _convolution_block(1, 32)
        self.block2 = _convolution_block(32, 64)
        self.block3 = _convolution_block(64, 64)
        self.mix = nn.Sequential(nn.Flatten(), nn.Linear(64 * 3 * 3, 128), nn.ReLU())
        self.head = nn.Linear(128, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """[N, 1, 28, 28] -> [N, num_classes], or [N, 128] without a head."""
        maps = self.block3(self.block2(self.block1(images)))
        logits: Tensor = self.head(self.mix(maps))
        return logits


def _convolution_block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


class MultiHeadNetwork(nn.Module):
    """A network with a head of its own for each task, and everything before the head shared."""

    def __init__(self, name: NetworkName, num_tasks: int, classes_per_task: int) -> None:
        super().__init__()
        self.trunk = build_network(name, num_classes=0)
        self.heads = nn.ModuleList(nn.LazyLinear(classes_per_task) for _ in range(num_tasks))

    def forward(self, images: Tensor, task_id: int) -> Tensor:
        """[N, 1, 28, 28] -> [N, classes_per_task]"""
        logits: Tensor = self.heads[task_id](self.trunk(images))
        return logits
