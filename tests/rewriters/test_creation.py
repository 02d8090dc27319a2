"""Tensors that are made on the way: zeros are zero for every task, anything else is live."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, check, check_between, ideal

Function = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    "zeros",
    [
        torch.zeros_like,
        lambda x: x.new_zeros(x.shape),
        lambda x: torch.zeros(x.shape[0], WIDTH),
        lambda x: torch.zeros(WIDTH),
    ],
    ids=["zeros_like", "new_zeros", "zeros", "zeros to broadcast"],
)
def test_adding_zeros_needs_no_gate(zeros: Function) -> None:
    check_between("vectors", lambda x: x + zeros(x), gates=0)


LIVE: dict[str, Function] = {
    "ones": lambda x: torch.ones(x.shape[0], WIDTH),
    "ones_like": torch.ones_like,
    "full": lambda x: torch.full((WIDTH,), 0.5),
    "full_like": lambda x: torch.full_like(x, 0.5),
    "new_full": lambda x: x.new_full((WIDTH,), 0.5),
    "arange": lambda x: torch.arange(WIDTH, dtype=x.dtype),
    "linspace": lambda x: torch.linspace(0, 1, WIDTH),
    "eye": lambda x: torch.eye(WIDTH)[0],
    "tensor": lambda x: torch.tensor(0.5),
    "constant": lambda x: torch.tensor([0.5] * WIDTH),
    "uniform": lambda x: torch.empty_like(x).uniform_(0.5, 0.5),
    "normal": lambda x: torch.empty_like(x).normal_(0.5, 0.0),
    "randint": lambda x: torch.randint(1, 2, (x.shape[0], WIDTH)),
    "randint_like": lambda x: torch.randint_like(x.detach(), 1, 2),
    "exponential": lambda x: torch.empty_like(x).exponential_().isfinite().float(),
    "one_hot": lambda x: torch.nn.functional.one_hot(torch.arange(2), WIDTH).sum(0).float(),
}


@pytest.mark.parametrize("made", LIVE.values(), ids=LIVE)
def test_adding_anything_else_needs_a_gate(made: Function) -> None:
    check_between("vectors", lambda x: x + made(x), gates=1)


LOSE_ZEROS: dict[str, Function] = {
    "cos": torch.cos,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "plus one": lambda z: z + 1,
    "one minus": lambda z: 1 - z,
    "power": lambda z: z**0,
    "clamp": lambda z: z.clamp(min=0.5),
    "softmax": lambda z: z.softmax(-1),
    "layer_norm": lambda z: F.layer_norm(z, (WIDTH,), None, torch.full((WIDTH,), 0.5)),
    "masked_fill": lambda z: z.masked_fill(z == 0, 0.5),
    "where": lambda z: torch.where(z > 0, z, 0.5),
    "index_fill": lambda z: z.index_fill(1, torch.tensor([1]), 0.5),
    "scatter": lambda z: z.scatter(1, torch.zeros_like(z, dtype=torch.long), 0.5),
    "pad": lambda z: F.pad(z[:, 1:], (1, 0), value=0.5),
}


@pytest.mark.parametrize("function", LOSE_ZEROS.values(), ids=LOSE_ZEROS)
def test_zeros_of_every_task_are_lost_like_those_of_one(function: Function) -> None:
    check_between("vectors", lambda x: x + function(torch.zeros_like(x)), gates=1)


def test_multiplying_with_what_is_made_needs_none() -> None:
    check_between("vectors", lambda x: x * torch.arange(WIDTH) * torch.ones_like(x), gates=0)


END_FEATURES: dict[str, Function] = {
    "comparisons": lambda x: ((x > 0) & ~(x > 1)).float(),
    "bucketize": lambda x: torch.bucketize(x, torch.linspace(-1, 1, 5)).float(),
    "searchsorted": lambda x: torch.searchsorted(torch.linspace(-1, 1, 5), x).float(),
    "meshgrid": lambda x: torch.meshgrid(x[0], x[1], indexing="ij")[0][:1].expand(x.shape),
    "cross_entropy": lambda x: F.cross_entropy(x, x.argmax(1)).expand(x.shape),
    "multinomial": lambda x: (torch.multinomial(x.detach().abs() + 1, 1) >= 0).float().expand(x.shape),
    "mse_loss": lambda x: F.mse_loss(x, x.tanh()).expand(x.shape),
    "binary_cross_entropy": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()).expand(x.shape),
}


@pytest.mark.parametrize("function", END_FEATURES.values(), ids=END_FEATURES)
def test_what_has_no_zeros_ends_features(function: Function) -> None:
    check_between("vectors", function, tight=False)


def test_columns_that_read_zeros_are_free() -> None:
    """No task needs what multiplies zeros of every task."""
    check_between("vectors", lambda x: torch.cat([x, torch.zeros(x.shape[0], 4)], 1), read=WIDTH + 4, gates=0)


def test_a_parameter_without_entries() -> None:
    """As vision transformers with no class token have it."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.none = nn.Parameter(torch.zeros(0, WIDTH))
            self.write, self.read, self.head = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.none[None].expand(x.shape[0], -1, -1), self.write(x)], 1)
            return self.head(self.read(x).relu().mean(1))

    check(Tokens(), torch.randn(2, 5, 3), gates=0, at_least=ideal(one_sided=5 * WIDTH, two_sided=WIDTH**2))
