"""Random small networks: what a stranger's forward might do, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

EXTENT = 4
WIDTHS = (4, 6, 8, 12)
VOCABULARY = 10

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Convolution(nn.Module):
    """A convolution, grouped or depthwise at times, with a norm and an activation at times."""

    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = draw(st.sampled_from(WIDTHS))
        divisors = [g for g in (1, 2, 4, channels) if channels % g == 0 and self.channels % g == 0]
        groups = draw(st.sampled_from(divisors))
        kernel = draw(st.sampled_from((1, 3)))
        bias = draw(st.booleans())
        self.convolution = nn.Conv2d(channels, self.channels, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.then = draw(st.sampled_from(("nothing", "batch", "group", "instance", "layer")))
        norms: dict[str, nn.Module] = {
            "nothing": nn.Identity(),
            "batch": nn.BatchNorm2d(self.channels),
            "group": nn.GroupNorm(2, self.channels),
            "instance": nn.InstanceNorm2d(self.channels, affine=draw(st.booleans())),
            "layer": nn.LayerNorm(self.channels),
        }
        self.norm = norms[self.then]
        self.activation = draw(st.sampled_from((nn.Identity(), nn.ReLU(inplace=True), nn.GELU(), nn.Sigmoid())))

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        x = self.convolution(x)
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.then == "layer" else self.norm(x)
        return self.activation(x)


class Norm(nn.Module):
    """A norm of its own, of whatever comes before it."""

    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = channels
        affine = draw(st.booleans())
        norms = nn.BatchNorm2d(channels, affine=affine), nn.GroupNorm(2, channels, affine=affine)
        self.norm = draw(st.sampled_from((*norms, nn.LayerNorm(channels, elementwise_affine=affine))))

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        is_last = isinstance(self.norm, nn.LayerNorm)
        return self.norm(x.movedim(1, -1)).movedim(-1, 1) if is_last else self.norm(x)


class Twice(nn.Module):
    """One module called twice, its weight used a third time in another way."""

    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(channels, channels, bias=draw(st.booleans()))
        self.transposed = draw(st.booleans())

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        x = x.movedim(1, -1)
        x = self.linear(F.relu(self.linear(x)))
        if self.transposed:
            x = x @ self.linear.weight
        return x.movedim(-1, 1)


class Combination(nn.Module):
    """The present tensor with an earlier one: sum, product, gate, concatenation, maximum."""

    def __init__(self, draw: Draw, channels: int, earlier: list[int]) -> None:
        super().__init__()
        alike = [i for i, c in enumerate(earlier) if c == channels]
        kinds = ["cat", "cat_zeros", "blank"] + ["add", "mul", "gate", "maximum", "difference"] * bool(alike)
        self.kind = draw(st.sampled_from(kinds))
        self.other = draw(st.sampled_from(alike or range(len(earlier)))) if "cat" not in self.kind else 0
        if self.kind == "cat":
            self.other = draw(st.integers(0, len(earlier) - 1))
        grows = {"cat": earlier[self.other], "cat_zeros": 2}
        self.channels = channels + grows.get(self.kind, 0)

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        other = memory[self.other]
        if self.kind == "cat":
            return torch.cat([x, other], 1)
        if self.kind == "cat_zeros":
            return F.pad(x, (0, 0, 0, 0, 1, 1))
        if self.kind == "blank":
            return torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], 1)
        if self.kind == "add":
            return x + other
        if self.kind == "difference":
            return 0.5 * x - other
        if self.kind == "maximum":
            return torch.maximum(x, other)
        return x * (torch.sigmoid(other) if self.kind == "gate" else other)


class Rearrangement(nn.Module):
    """Splits, shuffles and rolls of the channels."""

    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.kind = draw(st.sampled_from(("shuffle", "swap", "roll", "halve", "glu", "flip", "fold")))
        self.channels = channels // 2 if self.kind in ("halve", "glu") else channels

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        batch, channels, height, width = x.shape
        if self.kind == "shuffle":
            return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)
        if self.kind == "swap":
            first, second = x.split([channels // 2, channels - channels // 2], 1)
            return torch.cat([second, first], 1)
        if self.kind == "roll":
            return x.roll((1, 1), (1, 2))
        if self.kind == "flip":
            return x.flip(1)
        if self.kind == "fold":
            return F.pixel_unshuffle(F.interpolate(x, scale_factor=2), 2).reshape(batch, channels, 4, height, width)[
                :, :, 0
            ]
        first, second = x.chunk(2, 1)
        return first * torch.sigmoid(second) if self.kind == "glu" else first + second


class SqueezeExcitation(nn.Module):
    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.reduce, self.grow = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.gate = draw(st.sampled_from((torch.sigmoid, F.hardsigmoid, F.relu)))

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        weights = self.gate(self.grow(F.relu(self.reduce(x.mean((2, 3))))))
        return x * weights[:, :, None, None]


class RawParameters(nn.Module):
    """Parameters in arithmetic: a positional embedding, a scale a channel, a shift of everything."""

    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.position = nn.Parameter(torch.randn(1, channels, EXTENT, EXTENT))
        self.scale = nn.Parameter(torch.randn(channels, 1, 1))
        self.shift = nn.Parameter(torch.randn(1))
        self.shifts = draw(st.booleans())

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        x = (x + self.position) * self.scale
        return x + self.shift if self.shifts else x


class Attention(nn.Module):
    def __init__(self, draw: Draw, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.heads = 2 if channels % 2 == 0 else 1
        self.norm = nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.fused = draw(st.booleans())
        self.residual = draw(st.booleans())

    def forward(self, x: Tensor, memory: list[Tensor]) -> Tensor:
        batch, _, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        qkv = self.qkv(self.norm(tokens)).reshape(batch, height * width, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            attended = F.scaled_dot_product_attention(query, key, value)
        else:
            attended = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        result = self.out(attended.transpose(1, 2).reshape(tokens.shape))
        result = tokens + result if self.residual else result
        return result.transpose(1, 2).reshape(x.shape)


class RandomNetwork(nn.Module):
    """Drawn steps over a stem, with or without a head, on images or on tokens with tied embeddings."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        channels = draw(st.sampled_from(WIDTHS))
        self.on_tokens = draw(st.booleans())
        self.stem = nn.Embedding(VOCABULARY, channels) if self.on_tokens else nn.Conv2d(3, channels, 3, padding=1)
        earlier = [channels]
        steps: list[nn.Module] = []
        for _ in range(draw(st.integers(1, 6))):
            step = self._step(draw, channels, earlier)
            channels = step.channels
            earlier.append(channels)
            steps.append(step)
        self.steps = nn.ModuleList(steps)
        endings = ["head", "flat head", "features"] + ["tied"] * self.on_tokens
        self.ending = draw(st.sampled_from(endings))
        width = {"head": channels, "flat head": channels * EXTENT**2, "tied": channels}.get(self.ending)
        to = self.stem.weight.shape[1] if self.ending == "tied" else 3
        self.head = nn.Linear(width, to) if width else nn.Identity()

    def _step(self, draw: Draw, channels: int, earlier: list[int]) -> Any:
        kinds: list[Callable[[], nn.Module]] = [
            lambda: Convolution(draw, channels),
            lambda: Convolution(draw, channels),
            lambda: Combination(draw, channels, earlier),
            lambda: Combination(draw, channels, earlier),
            lambda: Twice(draw, channels),
            lambda: SqueezeExcitation(draw, channels),
            lambda: RawParameters(draw, channels),
        ]
        if channels % 2 == 0:
            kinds += [lambda: Norm(draw, channels)]
            kinds += [lambda: Rearrangement(draw, channels), lambda: Attention(draw, channels)]
        return draw(st.sampled_from(kinds))()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.on_tokens:
            x = x.movedim(-1, 1)
        memory = [x]
        for step in self.steps:
            x = step(x, memory)
            memory.append(x)
        if self.ending == "features":
            return x
        if self.ending == "flat head":
            return self.head(x.flatten(1))
        pooled = self.head(x.mean((2, 3)))
        return F.linear(pooled, self.stem.weight) if self.ending == "tied" else pooled

    def example(self, batch: int) -> Tensor:
        if self.on_tokens:
            return torch.randint(VOCABULARY, (batch, EXTENT, EXTENT))
        return torch.randn(batch, 3, EXTENT, EXTENT)


@st.composite
def random_networks(draw: Draw) -> RandomNetwork:
    torch.manual_seed(draw(st.integers(0, 2**16)))
    return RandomNetwork(draw)
