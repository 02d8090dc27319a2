"""Convolutions, whose weights lie between groups of channels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from tests.rewriters.promises import SHAPES, WIDTH, check, check_between, ideal

PLAIN: dict[str, tuple[str, Callable[..., nn.Module], dict[str, Any]]] = {
    "1d": ("lines", nn.Conv1d, {"padding": 1}),
    "2d": ("images", nn.Conv2d, {"padding": 1}),
    "2d, same": ("images", nn.Conv2d, {"padding": "same"}),
    "2d, valid": ("images", nn.Conv2d, {"padding": "valid"}),
    "2d, strided and dilated": ("images", nn.Conv2d, {"stride": 2, "dilation": 2, "padding": 2}),
    "2d, reflected": ("images", nn.Conv2d, {"padding": 1, "padding_mode": "reflect"}),
    "2d, circular": ("images", nn.Conv2d, {"padding": 1, "padding_mode": "circular"}),
    "1d, transposed": ("lines", nn.ConvTranspose1d, {"stride": 2}),
    "2d, transposed": ("images", nn.ConvTranspose2d, {"stride": 2, "output_padding": 1}),
}


@pytest.mark.parametrize(("kind", "layer", "options"), PLAIN.values(), ids=PLAIN)
def test_plain(kind: str, layer: Callable[..., nn.Module], options: dict[str, Any]) -> None:
    middle = layer(WIDTH, WIDTH, 3, **options)
    weight = WIDTH * WIDTH * (3 if kind == "lines" else 9)
    check_between(kind, middle, one_sided=WIDTH, two_sided=weight, gates=0)


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_without_bias(layer: Callable[..., nn.Module]) -> None:
    check_between("images", layer(WIDTH, WIDTH, 3, bias=False), two_sided=9 * WIDTH * WIDTH, gates=0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_grouped(layer: type[nn.Conv2d] | type[nn.ConvTranspose2d], bias: bool) -> None:
    middle = layer(WIDTH, 2 * WIDTH, 3, groups=4, padding=1, bias=bias)
    sizes: dict[str, Any] = {"one_sided": 2 * WIDTH if bias else 0, "two_sided": 2 * WIDTH * 4 * 9}
    check_between("images", middle, **sizes, read=2 * WIDTH, gates=0, slack=0.02)


@pytest.mark.parametrize(
    ("layer", "multiplier", "bias"),
    [(nn.Conv1d, 1, True), (nn.Conv2d, 1, False), (nn.Conv2d, 2, True), (nn.Conv2d, 3, False)],
)
def test_depthwise(layer: type[nn.Conv1d] | type[nn.Conv2d], multiplier: int, bias: bool) -> None:
    """An output channel has the feature of the one channel that it reads, or its own where several read one."""
    kind = "lines" if layer is nn.Conv1d else "images"
    width = multiplier * WIDTH
    middle = layer(WIDTH, width, 3, groups=WIDTH, padding=1, bias=bias)
    sides = {"one_sided" if multiplier == 1 else "two_sided": middle.weight.numel()}
    if bias:
        sides["one_sided"] = sides.get("one_sided", 0) + width
    net = check_between(kind, middle, **sides, read=width, slack=0.02, gates=0)
    assert len(net.registry.groups) == (2 if multiplier == 1 else 3)


def test_depthwise_transposed() -> None:
    middle = nn.ConvTranspose2d(WIDTH, WIDTH, 2, stride=2, groups=WIDTH)
    check_between("images", middle, one_sided=WIDTH, two_sided=4 * WIDTH, slack=0.03, gates=0)


def test_depthwise_of_the_input() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv2d(6, WIDTH, 1), nn.Flatten(), nn.Linear(36 * WIDTH, 4)
    )
    check(model, torch.randn(2, 3, 8, 8), at_least=ideal(one_sided=60 + WIDTH, two_sided=6 * WIDTH))


@pytest.mark.parametrize("transposed", [False, True])
def test_3d(transposed: bool) -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.ConvTranspose3d if transposed else nn.Conv3d
            self.conv = layer(WIDTH, WIDTH, (1, 2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x[:, :, None]).squeeze(2)

    check_between("images", Volume(), one_sided=WIDTH, two_sided=4 * WIDTH * WIDTH, gates=0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_as_head(layer: Callable[..., nn.Module], groups: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.ReLU(), layer(WIDTH, 4, 2, groups=groups))
    net = check(model, torch.randn(SHAPES["images"]), at_least=0.5, gates=0)
    assert net.blueprint.heads == ("2",)


def test_channels_that_are_positions() -> None:
    """Features along the line that a convolution slides over: it mixes them, and reads dead ones as zeros."""
    model = nn.Sequential(
        nn.Linear(3, WIDTH), nn.Conv1d(5, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * WIDTH, 4)
    )
    check(model, torch.randn(SHAPES["tokens"]), at_least=0.5)


class TokensAsChannels(nn.Module):
    """Channels with a different feature at each pixel."""

    def __init__(self, depthwise: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=4 if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nn.functional.pixel_shuffle(x, 2)).repeat(1, 4, 1, 1)


@pytest.mark.parametrize("depthwise", [False, True])
def test_features_along_channels_and_pixels(depthwise: bool) -> None:
    entries = 4 * 9 * (1 if depthwise else 4) + 4
    check_between("images", TokensAsChannels(depthwise), one_sided=entries)


class Decoder(nn.Module):
    """A vector, viewed as an image: the pixels of a channel share its mask."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.write = nn.Linear(3, WIDTH * 16)
        self.middle = middle
        self.read = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.head = nn.Conv2d(WIDTH, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.read(self.middle(self.write(x).unflatten(1, (WIDTH, 4, 4))))))


@pytest.mark.parametrize(
    "middle",
    [nn.ReLU(), nn.BatchNorm2d(WIDTH), nn.GroupNorm(4, WIDTH), nn.Upsample(scale_factor=2), nn.MaxPool2d(2)],
    ids=str,
)
def test_the_pixels_of_a_vector_viewed_as_an_image_share_a_mask(middle: nn.Module) -> None:
    share = ideal(one_sided=4 * 16 * WIDTH + WIDTH, two_sided=9 * WIDTH * WIDTH)
    net = check(Decoder(middle), torch.randn(2, 3), at_least=share, gates=0)
    assert net.registry.groups["write"].num_features == WIDTH


def test_shuffled_pixels_share_a_mask() -> None:
    class Upscaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(WIDTH, 4 * WIDTH, 1)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.pixel_shuffle(self.conv(x), 2)

    net = check_between("images", Upscaled(), one_sided=4 * WIDTH, two_sided=4 * WIDTH * WIDTH, gates=0)
    assert net.registry.groups["middle.conv"].num_features == WIDTH


def test_shuffled_pixels_with_features_of_their_own() -> None:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read, self.head = nn.Linear(3, 8 * 9), nn.Linear(72, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            pixels = nn.functional.pixel_shuffle(self.write(x).view(-1, 8, 3, 3), 2)
            return self.head(torch.relu(self.read(pixels.flatten(1))))

    check(Decoder(), torch.randn(2, 3), at_least=ideal(one_sided=4 * 72, two_sided=72 * WIDTH) - 0.01)


class Deformable(nn.Module):
    def __init__(self, modulated: bool) -> None:
        super().__init__()
        self.offset = nn.Conv2d(WIDTH, 18, 3, padding=1)
        self.modulation = nn.Conv2d(WIDTH, 9, 3, padding=1) if modulated else None
        self.weight, self.bias = nn.Parameter(torch.randn(WIDTH, WIDTH, 3, 3) / 12), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.modulation is None else self.modulation(x).tanh()
        return deform_conv2d(x, self.offset(x), self.weight, self.bias, padding=1, mask=mask)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable(modulated: bool) -> None:
    layer = Deformable(modulated)
    biases = WIDTH + 18 + (9 if modulated else 0)
    weights = sum(p.numel() for p in layer.parameters()) - biases
    check_between("images", layer, one_sided=biases, two_sided=weights, gates=0, slack=0.01)
