"""Pooling and resizing keep the features of the dimensions that they leave alone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from tests.rewriters.promises import WIDTH, check_between


def boxes(x: Tensor) -> Tensor:
    """A box in each image of a batch."""
    corners = torch.tensor([0.0, 1.0, 6.0, 7.0]).expand(x.shape[0], -1)
    return torch.cat([torch.arange(x.shape[0])[:, None].float(), corners], 1)


OF_IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool": nn.MaxPool2d(2),
    "max_pool with padding": nn.MaxPool2d(3, 2, 1),
    "max_pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool and back": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "avg_pool": nn.AvgPool2d(2),
    "adaptive_avg_pool": nn.AdaptiveAvgPool2d(3),
    "adaptive_max_pool": nn.AdaptiveMaxPool2d(3),
    "nearest": nn.Upsample(scale_factor=2),
    "exactly nearest": nn.Upsample(size=(5, 5), mode="nearest-exact"),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bicubic": nn.Upsample(scale_factor=0.5, mode="bicubic"),
    "antialiased": lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
    "fractional_max_pool": nn.FractionalMaxPool2d(2, output_size=3, _random_samples=torch.full((3, WIDTH, 2), 0.3)),
    "boxes": lambda x: roi_align(x, boxes(x), 4),
    "largest in boxes": lambda x: roi_pool(x, boxes(x), 4),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(x.shape[0], 4, 4, 2), align_corners=False),
}

OF_LINES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_pool": nn.MaxPool1d(2),
    "avg_pool": nn.AvgPool1d(2),
    "adaptive_avg_pool": nn.AdaptiveAvgPool1d(3),
    "adaptive_max_pool": nn.AdaptiveMaxPool1d(3),
    "nearest": nn.Upsample(scale_factor=2),
    "linear": nn.Upsample(scale_factor=2, mode="linear"),
    "max_pool of volumes": lambda x: F.max_pool3d(x[..., None, None].expand(-1, -1, -1, 2, 2), 2)[..., 0, 0],
    "trilinear": lambda x: F.interpolate(
        x[..., None, None].expand(-1, -1, -1, 2, 2), scale_factor=2, mode="trilinear"
    ).mean((-1, -2)),
}


@pytest.mark.parametrize("function", OF_IMAGES.values(), ids=OF_IMAGES)
def test_images(function: Callable[[Tensor], Tensor]) -> None:
    check_between("images", function)


@pytest.mark.parametrize("function", OF_LINES.values(), ids=OF_LINES)
def test_lines(function: Callable[[Tensor], Tensor]) -> None:
    check_between("lines", function, gates=0)


class GeneralizedMean(nn.Module):
    """(mean of x^p)^(1/p) with a learned p: the slope of the root is infinite at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x.clamp(min=1e-6).pow(self.p), 8).pow(1 / self.p)


def test_generalized_mean_pooling() -> None:
    net = check_between("images", GeneralizedMean(), gates=1)
    assert "middle.p" in net.blueprint.task_indexed


@pytest.mark.parametrize("function", [nn.AvgPool1d(2), nn.AdaptiveMaxPool1d(4), nn.Upsample(scale_factor=0.5)], ids=str)
def test_pooled_features_are_live(function: nn.Module) -> None:
    check_between("tokens", function, read=WIDTH // 2 if "4" not in str(function) else 4, tight=False)


def test_indices_are_no_features() -> None:
    """Where a channel is zero, the position of its maximum is not."""

    def positions(x: Tensor) -> Tensor:
        values, indices = F.max_pool2d(x, 2, return_indices=True)
        return values + indices / 64

    check_between("images", positions, gates=1)


class SpatialTransformer(nn.Module):
    """Where to look is computed from features, of which the dead ones are read as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.pose = nn.Linear(WIDTH, 6)

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.pose(x.mean((2, 3))).view(-1, 2, 3), [x.shape[0], WIDTH, 8, 8], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


def test_sampled_at_learned_places() -> None:
    check_between("images", SpatialTransformer(), one_sided=6, two_sided=6 * WIDTH, gates=0)
