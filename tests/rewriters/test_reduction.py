"""Reductions: over positions they keep features, over features they end them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import SHAPES, WIDTH, check, check_between

Function = Callable[[Tensor], Tensor]


def spread(reduce: Function) -> Function:
    """A reduction over positions (dimension 1), its result at each position."""
    return lambda x: reduce(x)[:, None].expand(-1, 5, -1)


OVER_POSITIONS: dict[str, Function] = {
    "mean": spread(lambda x: x.mean(1)),
    "mean with its dimension": lambda x: x - x.mean(1, keepdim=True),
    "sum": spread(lambda x: x.sum(1)),
    "max": spread(lambda x: x.max(1).values),
    "amax": spread(lambda x: x.amax(1)),
    "min": spread(lambda x: x.min(1)[0]),
    "median": spread(lambda x: x.median(1).values),
    "aminmax": spread(lambda x: torch.aminmax(x, dim=1).max),
    "prod": spread(lambda x: x.prod(1)),
    "std": spread(lambda x: x.std(1)),
    "var": spread(lambda x: x.var(1, unbiased=False)),
    "var_mean": spread(lambda x: torch.var_mean(x, 1)[0]),
    "norm": spread(lambda x: x.norm(dim=1)),
    "vector_norm": spread(lambda x: torch.linalg.vector_norm(x, dim=1)),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(1).values,
    "maximum of two": lambda x: torch.max(x, x.flip(1)),
    "sort": lambda x: x.sort(1, descending=True).values,
    "topk": lambda x: x.topk(2, 1).values,
    "standardised": lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 0.1),
}

LOSE_ZEROS: dict[str, Function] = {
    "logsumexp": spread(lambda x: x.logsumexp(1)),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(-2),
}

OVER_FEATURES: dict[str, Function] = {
    "mean": lambda x: x.mean(-1, keepdim=True).expand(-1, -1, WIDTH),
    "mean of all": lambda x: x.mean().expand(x.shape[0], 5, WIDTH),
    "sum": lambda x: x.sum(-1, keepdim=True).expand(-1, -1, WIDTH),
    "max": lambda x: x.max(-1, keepdim=True).values.expand(-1, -1, WIDTH),
    "std": lambda x: x.std(-1, keepdim=True).expand(-1, -1, WIDTH),
    "cumsum": lambda x: x.cumsum(-1),
    "sort": lambda x: x.sort(-1).values,
    "topk": lambda x: x.topk(WIDTH).values,
    "norm": lambda x: x.norm(dim=(1, 2))[:, None, None].expand(-1, 5, WIDTH),
    "argmax": lambda x: x.argmax(-1, keepdim=True).float().expand(-1, -1, WIDTH),
    "indices of the largest": lambda x: x.topk(WIDTH, 2).indices.float(),
    "cosine similarity": lambda x: torch.cosine_similarity(x[:, :, None], x[:, None], dim=-1) @ torch.ones(5, WIDTH),
}

# The statistic is live, what it scales keeps its features.
SCALED_BY_A_STATISTIC: dict[str, Function] = {
    "normalised": torch.nn.functional.normalize,
    "normalised features": lambda x: torch.nn.functional.normalize(x, dim=-1),
    "root mean square": lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5),
    "local response": lambda x: torch.nn.functional.local_response_norm(x.transpose(1, 2), 3).transpose(1, 2),
    "softmax over features": lambda x: x * x.softmax(-1),
    "logical": lambda x: x * (x.mean(-1, keepdim=True) > 0),
}


@pytest.mark.parametrize("function", OVER_POSITIONS.values(), ids=OVER_POSITIONS)
def test_features_survive_a_reduction_over_positions(function: Function) -> None:
    check_between("tokens", function, gates=0)


@pytest.mark.parametrize("function", LOSE_ZEROS.values(), ids=LOSE_ZEROS)
def test_lost_zeros_are_gated_again(function: Function) -> None:
    check_between("tokens", function, gates=1)


@pytest.mark.parametrize("function", OVER_FEATURES.values(), ids=OVER_FEATURES)
def test_features_end_in_a_reduction_over_them(function: Function) -> None:
    check_between("tokens", function, tight=False)


@pytest.mark.parametrize("function", SCALED_BY_A_STATISTIC.values(), ids=SCALED_BY_A_STATISTIC)
def test_features_scaled_by_a_statistic_of_them(function: Function) -> None:
    check_between("tokens", function, gates=0)


def test_softmax_over_channels() -> None:
    """Mixes channels, of which the dead ones count as zeros, and is gated again."""
    check_between("images", lambda x: x.softmax(1), gates=1)


INDICES: dict[str, Function] = {
    "sort": lambda x: x.sort(1).indices,
    "topk": lambda x: x.topk(2, 1).indices,
    "max": lambda x: x.max(1, keepdim=True).indices,
    "median": lambda x: x.median(1, keepdim=True).indices,
    "cummin": lambda x: x.cummin(1).indices,
    "max_pool": lambda x: F.max_pool1d(x.mT, 2, return_indices=True)[1].mT,
}


class AddedIndices(nn.Module):
    """Indices, which carry no features, are added to features that they have nothing to do with."""

    def __init__(self, indices: Function) -> None:
        super().__init__()
        self.indices = indices
        self.one, self.other = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
        self.read, self.squashed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        indices = self.indices(one).float()
        read = torch.relu(self.read(indices + self.other(x)[:, : indices.shape[1]]))
        return self.head(read.sum(1) + torch.relu(self.squashed(one.sigmoid())).sum(1))


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_indices_tell_nothing_of_dead_entries(indices: Function) -> None:
    check(AddedIndices(indices), torch.randn(SHAPES["tokens"]), at_least=0.65)


class Maxout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.pieces(x).unflatten(-1, (WIDTH, 3)).amax(-1)


def test_the_pieces_of_a_maxout_unit_share_its_mask() -> None:
    net = check_between("tokens", Maxout(), one_sided=3 * WIDTH, two_sided=3 * WIDTH * WIDTH, gates=0)
    assert net.registry.groups["middle.pieces"].num_features == WIDTH
