"""Fourier transforms over positions keep features, and the two parts of a complex number share one."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fft, nn

from tests.rewriters.promises import WIDTH, check_between

Function = Callable[[Tensor], Tensor]

OF_IMAGES: dict[str, Function] = {
    "low frequencies": lambda x: fft.irfft2(fft.rfft2(x)[..., :3], s=(8, 8)),
    "real part": lambda x: fft.fft2(x, norm="ortho").real,
    "imaginary part": lambda x: torch.imag(fft.fftn(x, dim=(2, 3))),
    "absolute value": lambda x: fft.ifftn(fft.fftshift(fft.fftn(x, dim=(-1,)), dim=-1), dim=(-1,)).abs(),
    "there and back": lambda x: fft.irfft(fft.rfft(x, n=16), n=16)[..., :8],
    "both parts": lambda x: torch.view_as_real(fft.fft(x, dim=2)).sum(-1),
    "built from parts": lambda x: torch.complex(x, x.tanh()).real,
    "rotated": lambda x: (torch.polar(x, torch.ones_like(x)) * torch.polar(torch.ones(8), torch.arange(8.0))).real,
    "pairs of pixels": lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * 1j).flatten(-2),
}


@pytest.mark.parametrize("function", OF_IMAGES.values(), ids=OF_IMAGES)
def test_channels_pass_transforms_of_their_pixels(function: Function) -> None:
    check_between("images", function, gates=0)


def test_a_transform_over_features_ends_them() -> None:
    check_between("tokens", lambda x: fft.fft(x).real, tight=False)


def test_pairs_of_features_that_make_a_number_share_a_mask() -> None:
    def rotate(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (8, 2))) * torch.tensor(1j)).flatten(-2)

    net = check_between("tokens", rotate, gates=0)
    assert next(iter(net.registry.groups.values())).num_features == WIDTH // 2


class GlobalFilter(nn.Module):
    """A learned filter, a complex number for each channel and frequency."""

    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(WIDTH, 8, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return fft.irfft2(fft.rfft2(x) * torch.view_as_complex(self.filter), s=(8, 8))


class LongConvolution(nn.Module):
    """A kernel as long as its input."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH, 8))

    def forward(self, x: Tensor) -> Tensor:
        return fft.irfft(fft.rfft(x, n=16) * fft.rfft(self.kernel, n=16), n=16)[..., :8]


@pytest.mark.parametrize(("kind", "layer"), [("images", GlobalFilter), ("lines", LongConvolution)])
def test_a_filter_adopts_the_channels_that_it_multiplies(kind: str, layer: Callable[[], nn.Module]) -> None:
    middle = layer()
    check_between(kind, middle, one_sided=sum(p.numel() for p in middle.parameters()), gates=0)
