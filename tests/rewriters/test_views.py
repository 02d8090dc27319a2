"""Operators that move data (views, joining, indexing, repeating, patches): features go where the data goes."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, check, check_between, ideal

Function = Callable[[Tensor], Tensor]

INDEX = torch.tensor([3, 0, 4, 1, 1])


def chain(*functions: Function) -> Function:
    """One function after the other, as one."""

    def chained(x: Tensor) -> Tensor:
        for function in functions:
            x = function(x)
        return x

    return chained


SPLITS = chain(
    lambda x: torch.cat(x.split([4, 12], 1)[::-1], 1),
    lambda x: torch.cat(x.chunk(4, -1)[::-1], -1),
    lambda x: torch.cat(torch.tensor_split(x, 3, 1), 1),
    lambda x: torch.cat(torch.tensor_split(x, (3, 7), -1)[::-1], 1),
    lambda x: torch.cat(torch.hsplit(x, 2)[::-1], 1),
    lambda x: torch.cat(torch.dsplit(x.view(-1, 1, 16), (2, 5))[::-1], -1).flatten(1),
    lambda x: torch.cat(x.unflatten(1, (2, 8)).unbind(1)[::-1], 1),
    lambda x: torch.stack(x.unbind(1)[::-1], 1),
)
SLICES = chain(
    lambda x: torch.cat([x[:, i::3] for i in range(3)], 1),
    lambda x: torch.cat([x[..., -5:], x[..., :-5]], 1),
    lambda x: torch.cat([x.narrow(1, 6, 10), x.narrow(1, 0, 6)], 1),
    lambda x: torch.cat([x.view(-1, 2, 8).select(1, i) for i in (1, 0)], 1),
)
TURNS = chain(lambda x: x.roll(3, 1), lambda x: x.roll((-5,), (-1,)), lambda x: x.flip(-1))
GRIDS = chain(
    lambda x: x.view(-1, 4, 4).transpose(1, 2).reshape(-1, WIDTH),
    lambda x: x.view(-1, 2, 8).mT.flatten(1),
    lambda x: x.view(-1, 2, 8).movedim(2, 1).flatten(1),
    lambda x: x.view(-1, 2, 2, 4).permute(0, 3, 2, 1).flatten(1),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: x.unfold(1, 4, 4).flatten(1),
)

ON_VECTORS: dict[str, tuple[Function, int]] = {
    "cat": (lambda x: torch.cat([x, x.tanh()], 1), 2 * WIDTH),
    "hstack": (lambda x: torch.hstack([x, x.tanh()]), 2 * WIDTH),
    "concatenate with zeros": (lambda x: torch.concatenate([x, torch.zeros_like(x)], 1), 2 * WIDTH),
    "stack and flatten": (lambda x: torch.stack([x, x.tanh()], 2).flatten(1), 2 * WIDTH),
    "stack and sum": (lambda x: torch.stack([x, x.tanh()], 1).sum(1), WIDTH),
    "splits": (SPLITS, WIDTH),
    "slices": (SLICES, WIDTH),
    "turns": (TURNS, WIDTH),
    "grids": (GRIDS, WIDTH),
    "repeat": (lambda x: x.repeat(1, 2), 2 * WIDTH),
    "tile": (lambda x: x.tile((2,)), 2 * WIDTH),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), 2 * WIDTH),
    "expand": (lambda x: x[:, None].expand(-1, 3, -1).flatten(1), 3 * WIDTH),
    "pad with zeros": (lambda x: F.pad(x, (2, 3)), WIDTH + 5),
    "crop": (lambda x: torch.cat([F.pad(x, (-2, -3)), x[:, :2], x[:, -3:]], 1), WIDTH),
    "crop and pad": (lambda x: torch.cat([F.pad(x, (-2, 2)), x[:, :2]], 1), WIDTH + 2),
}

ON_TOKENS: dict[str, Function] = {
    "turns": chain(lambda x: x.roll(2, 1), lambda x: x.flip(1)),
    "repeats": chain(lambda x: x.repeat(1, 2, 1), lambda x: x.repeat_interleave(2, 1)),
    "splits": chain(
        lambda x: torch.cat(x.split(2, 1)[::-1], 1), lambda x: torch.stack(x.unbind(1)[::-1], 1), lambda x: x[:, 1::2]
    ),
    "cat": lambda x: torch.cat([x, x.tanh()], 1),
    "cat with zeros": lambda x: torch.cat([x, torch.zeros_like(x)], 1),
    "select": lambda x: x[:, 2][:, None].expand(-1, 5, -1),
    "index": lambda x: x[:, INDEX],
    "two indices": lambda x: x[:, :, None][:, INDEX, torch.zeros(5, dtype=torch.long)],
    "vstack": lambda x: torch.vstack([x, x.tanh()])[: x.shape[0]],
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x.mean(1, keepdim=True))[1],
    "index_select": lambda x: x.index_select(1, INDEX),
    "gather": lambda x: x.gather(1, INDEX[None, :, None].expand(x.shape[0], -1, WIDTH)),
    "pad": lambda x: F.pad(x, (0, 0, 1, 2)),
    "pad with ones": lambda x: F.pad(x, (0, 0, 1, 2), value=1.0),
    "windows": lambda x: x.unfold(1, 3, 2).sum(-1),
    "heads merged with the batch": lambda x: (
        x.view(-1, 5, 4, 4).transpose(1, 2).reshape(-1, 5, 4).tanh().view(-1, 4, 5, 4).transpose(1, 2).flatten(2)
    ),
}

ON_IMAGES: dict[str, tuple[Function, int]] = {
    "pixel_unshuffle and shuffle": (lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2), WIDTH),
    "pixel_unshuffle": (nn.PixelUnshuffle(2), WIDTH * 4),
    "channel_shuffle": (nn.ChannelShuffle(4), WIDTH),
    "channel shuffle by hand": (
        lambda x: x.view(-1, 4, 4, 8, 8).transpose(1, 2).reshape(-1, WIDTH, 8, 8),
        WIDTH,
    ),
    "channels split and interleaved": (lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1), WIDTH),
    "pad": (lambda x: F.pad(x, (1, 2, 3, 0)), WIDTH),
    "pad with ones": (lambda x: F.pad(x, (1, 2, 3, 0), value=1.0), WIDTH),
    "pad by reflection": (lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"), WIDTH),
    "pad in a circle": (nn.CircularPad2d(1), WIDTH),
    "pad channels with zeros": (lambda x: F.pad(x, (0, 0, 0, 0, 0, 4)), WIDTH + 4),
    "dstack": (lambda x: torch.dstack([x, x.tanh()]), WIDTH),
    "rot90": (lambda x: x.rot90(1, (2, 3)), WIDTH),
    "cyclic shift": (lambda x: x.roll((2, 3), (2, 3)), WIDTH),
    "windows": (
        lambda x: x.view(-1, WIDTH, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, WIDTH, 4, 4),
        WIDTH,
    ),
    "unfold": (lambda x: F.unfold(x, 2, stride=2).view(-1, 4 * WIDTH, 4, 4), 4 * WIDTH),
    "unfold and fold": (lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1), WIDTH),
}


@pytest.mark.parametrize(("function", "read"), ON_VECTORS.values(), ids=ON_VECTORS)
def test_features_move_with_the_data(function: Function, read: int) -> None:
    check_between("vectors", function, read=read, gates=0)


@pytest.mark.parametrize("function", ON_TOKENS.values(), ids=ON_TOKENS)
def test_features_stay_while_positions_move(function: Function) -> None:
    check_between("tokens", function)


@pytest.mark.parametrize(("function", "read"), ON_IMAGES.values(), ids=ON_IMAGES)
def test_channels_move_with_the_data(function: Function, read: int) -> None:
    check_between("images", function, read=read)


LIVE: dict[str, tuple[str, Function, int]] = {
    "features picked at run time": ("vectors", lambda x: x[:, INDEX], 5),
    "features gathered": ("vectors", lambda x: x.gather(1, INDEX.expand(x.shape[0], -1)), 5),
    "features padded with ones": ("vectors", lambda x: F.pad(x, (2, 3), value=1.0), WIDTH + 5),
    "channels padded by repetition": ("tokens", lambda x: F.pad(x, (2, 2), mode="replicate"), WIDTH + 4),
    "features rolled over all dimensions": ("tokens", lambda x: x.roll(7), WIDTH),
    "features of different pixels": ("images", nn.PixelShuffle(2), WIDTH // 4),
    "pixels folded into other channels": (
        "images",
        lambda x: F.fold(x.flatten(2)[..., :4].transpose(1, 2).reshape(-1, 16, 4), (4, 4), 2, stride=2),
        4,
    ),
}


@pytest.mark.parametrize(("kind", "function", "read"), LIVE.values(), ids=LIVE)
def test_what_cannot_be_followed_is_live(kind: str, function: Function, read: int) -> None:
    check_between(kind, function, read=read, tight=False)


def test_a_gather_of_fewer_channels_takes_the_first() -> None:
    def first_channels(x: Tensor) -> Tensor:
        return x.gather(1, INDEX[None, :, None].expand(x.shape[0], -1, 6))

    check_between("tokens", first_channels, read=6)


def test_features_beside_live_ones() -> None:
    """Half of the concatenation is live: its columns are needed by every task that writes their row."""

    class BesideInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write = nn.Linear(WIDTH, WIDTH)
            self.read = nn.Linear(2 * WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.read(torch.cat([self.write(x), x], 1))))

    share = ideal(one_sided=2 * WIDTH * WIDTH + 2 * WIDTH, two_sided=WIDTH * WIDTH)
    check(BesideInput(), torch.randn(2, WIDTH), at_least=share, gates=0)


class MixedTokens(nn.Module):
    """Some tokens have features, others are the model's input: a later layer reads both with the same weights."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.write = nn.Linear(WIDTH, WIDTH)
        self.middle = middle
        self.read = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.middle(torch.cat([self.write(x), x], 1))
        return self.head(torch.relu(self.read(tokens)).mean(1))


@pytest.mark.parametrize(
    "middle",
    [nn.Identity(), nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.Softmax(-1), nn.GroupNorm(2, 6), nn.Sigmoid()],
    ids=str,
)
def test_tokens_with_and_without_features(middle: nn.Module) -> None:
    check(MixedTokens(middle), torch.randn(2, 3, WIDTH), at_least=0.5)


def test_images_flattened_into_a_linear_layer() -> None:
    """Each weight of the linear layer reads one pixel of one channel."""
    share = ideal(one_sided=3 * 9 * 8 + 8 + WIDTH, two_sided=8 * 16 * WIDTH)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, 4),
    )
    check(model, torch.randn(2, 3, 8, 8), at_least=share, gates=0)


def test_images_as_tokens() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, WIDTH, 4, stride=4)
            self.read = nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            return self.head(torch.tanh(self.read(tokens)).mean(1))

    share = ideal(one_sided=3 * 16 * WIDTH + 2 * WIDTH, two_sided=WIDTH * WIDTH)
    check(Patches(), torch.randn(2, 3, 8, 8), at_least=share, gates=0)


def test_a_view_that_puts_the_batch_inside_is_live() -> None:
    """For a batch of 2 the pairs of equal features happen to lie one a row."""

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(4, WIDTH // 2), nn.Linear(WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            pairs = self.write(x).repeat_interleave(2, 1)
            return self.head(torch.relu(self.read(pairs.reshape(WIDTH, -1).t())))

    check(Inside(), torch.randn(2, 4), at_least=0.5)


def test_a_view_whose_rows_depend_on_the_batch_is_live() -> None:
    """`(2, batch, n)` read as `(batch, 2 * n)`: which features a row holds depends on the size of the batch."""

    class ForgottenTranspose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write = nn.Linear(WIDTH, WIDTH)
            self.read = nn.Linear(2 * WIDTH, WIDTH)
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            stacked = torch.stack([self.write(x), x])
            return self.head(torch.relu(self.read(torch.sigmoid(stacked.view(x.shape[0], -1)))))

    check(ForgottenTranspose(), torch.randn(3, WIDTH), other_inputs=(torch.randn(5, WIDTH),), at_least=0.5)
