"""Entries written into another tensor: each place holds the features of both."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.rewriters.promises import WIDTH, check_between

Function = Callable[[Tensor], Tensor]

INDEX = torch.tensor([3, 0, 4, 1, 1])


def everywhere(x: Tensor) -> Tensor:
    """The index of a position for each entry."""
    return INDEX[None, :, None].expand(x.shape[0], -1, WIDTH)


OVER_POSITIONS: dict[str, Function] = {
    "index_add": lambda x: torch.zeros_like(x).index_add(1, INDEX, x),
    "index_add, to itself": lambda x: x.index_add(1, INDEX, x.tanh(), alpha=0.5),
    "index_copy": lambda x: torch.zeros_like(x).index_copy(1, INDEX, x),
    "index_fill": lambda x: x.index_fill(1, INDEX[:2], 0.0),
    "index_put": lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([1, 2])), x[:2, 0]),
    "index_put with a mask": lambda x: torch.zeros_like(x).index_put((x.mean(-1) > 0,), x[0, 0]),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, everywhere(x), x),
    "scatter, in place": lambda x: torch.zeros_like(x).scatter_(1, everywhere(x), x),
    "scatter zeros": lambda x: x.scatter(1, everywhere(x), 0.0),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, everywhere(x), x),
    "scatter_reduce": lambda x: x.scatter_reduce(1, everywhere(x), x.tanh(), "amax"),
    "scatter the mean": lambda x: x.scatter_reduce(1, everywhere(x), x.tanh(), "mean", include_self=False),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :2].tanh(), 1, 3),
    "select_scatter": lambda x: torch.select_scatter(x, x.mean(1), 1, 2),
}

OVER_FEATURES: dict[str, Function] = {
    "a slice": lambda x: torch.slice_scatter(x, x[:, 8:].tanh(), 1, 0, 8),
    "every other": lambda x: torch.slice_scatter(torch.zeros_like(x), x[:, 1::2], 1, 0, None, 2),
    "one": lambda x: torch.select_scatter(x, x[:, 0] * x[:, 0], 1, -1),
}

# Places that only the data knows, or values that are not zero.
LIVE: dict[str, Function] = {
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argsort(1), x),
    "index_add": lambda x: x.index_add(1, x[0].argsort(), x),
    "index_put": lambda x: torch.ops.aten.index_put(x, [None, torch.arange(4)], x[:, 4:8]),
    "masked_scatter": lambda x: x.masked_scatter(x > 0, x),
}


@pytest.mark.parametrize("function", OVER_POSITIONS.values(), ids=OVER_POSITIONS)
def test_what_is_written_at_other_positions_is_coupled(function: Function) -> None:
    net = check_between("tokens", function, gates=0)
    assert len(net.registry.groups) == 2


@pytest.mark.parametrize("function", OVER_FEATURES.values(), ids=OVER_FEATURES)
def test_what_is_written_at_other_features_brings_its_own(function: Function) -> None:
    check_between("vectors", function, gates=0, slack=0.01)


@pytest.mark.parametrize("function", LIVE.values(), ids=LIVE)
def test_features_at_unknown_places_are_live(function: Function) -> None:
    check_between("vectors", function, tight=False)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.scatter(1, everywhere(x)[:, :2], 1.0),
        lambda x: x.index_fill(1, INDEX[:2], 1.0),
        lambda x: x.index_put((torch.tensor([0]), torch.tensor([1])), torch.ones(WIDTH)),
        lambda x: torch.select_scatter(x, torch.ones_like(x[:, 0]), 1, 0),
    ],
    ids=["scatter", "index_fill", "index_put", "select_scatter"],
)
def test_numbers_that_are_written_are_gated_again(function: Function) -> None:
    check_between("tokens", function, gates=1)
