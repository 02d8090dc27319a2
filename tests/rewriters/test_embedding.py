"""Look-up tables."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, check, ideal


class Language(nn.Module):
    def __init__(self, tied: bool = False, **options: Any) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, WIDTH, **options)
        self.positions = nn.Embedding(6, WIDTH)
        self.read = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 10, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        return self.head(torch.tanh(self.read(embedded)))


AROUND = 6 * WIDTH + WIDTH


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"scale_grad_by_freq": True}], ids=str)
def test_embeddings_are_gated_by_feature(options: dict[str, Any]) -> None:
    share = ideal(one_sided=10 * WIDTH + AROUND, two_sided=WIDTH * WIDTH)
    net = check(Language(**options), torch.randint(10, (2, 6)), at_least=share)
    assert len(net.registry.groups) == 2


def test_tied_embeddings_are_locked_where_either_use_locks_them() -> None:
    """The table is read by feature at both ends: an entry is locked where either feature is taken."""
    share = ideal(one_sided=AROUND, two_sided=WIDTH * WIDTH, locked=10 * WIDTH)
    net = check(Language(tied=True), torch.randint(10, (2, 6)), at_least=share)
    assert not net.lock_masks(1)["tokens.weight"].all()


def test_a_one_hot_product_as_a_table() -> None:
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Linear(10, WIDTH, bias=False)
            self.head = nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(nn.functional.one_hot(x, 10).float()).mean(1))

    check(OneHot(), torch.randint(10, (2, 6)), at_least=0.5, gates=0)


class Bags(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, WIDTH, **options)
        self.read, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        return self.head(torch.relu(self.read(self.bag(x, per_sample_weights=weights))))


@pytest.mark.parametrize(
    ("options", "weights"),
    [({}, ()), ({"mode": "max"}, ()), ({"mode": "sum", "padding_idx": 0}, (torch.randn(2, 6),))],
    ids=["mean", "max", "weighted sum"],
)
def test_bags_of_embeddings_are_gated_by_feature(options: dict[str, Any], weights: tuple[Tensor, ...]) -> None:
    share = ideal(one_sided=11 * WIDTH, two_sided=WIDTH * WIDTH)
    check(Bags(**options), torch.randint(10, (2, 6)), *weights, at_least=share, gates=1)


def test_the_places_of_maxima_are_live() -> None:
    class Places(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(10, WIDTH))
            self.read, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            bags = torch.embedding_bag(self.table, x, torch.arange(2) * 3, False, 2)
            return self.head(torch.relu(self.read(bags[0] + bags[3])))

    x = torch.randint(10, (6,))
    check(Places(), x, at_least=ideal(one_sided=WIDTH**2 + WIDTH, locked=10 * WIDTH), other_inputs=(x,))
