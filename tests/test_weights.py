"""Weights that forward computes from parameters: what a use of them needs is carried back to the parameters.

Each layer stands between two others in a network whose every other share is known, so that the share of its own
entries that stays free can be told: 3/4 between two masked sides, 1/2 where only one side is masked.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from hatify import HATModule, hatify
from hatify.errors import ConversionError
from hatify.verification.trials import draw_masks, scramble

WIDTH = 32


class Computed(nn.Module):
    """A linear layer whose weight is a function of its parameters."""

    def __init__(self, compute: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.compute = compute
        self.raw = nn.ParameterList([torch.randn(shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.compute(*self.raw))


def standardised(weight: Tensor) -> Tensor:
    return (weight - weight.mean(1, keepdim=True)) / (weight.std(1, keepdim=True) + 1e-5)


def standardised_by_batch_norm(weight: Tensor) -> Tensor:
    return F.batch_norm(weight.reshape(1, WIDTH, -1), None, None, training=True).reshape_as(weight)


SQUARE = (WIDTH, WIDTH)
TWO_SIDED = {
    "arithmetic": Computed(lambda w: torch.tanh(w) * 2 - 1, SQUARE),
    "transposed": Computed(lambda w: w.t(), SQUARE),
    "reshaped": Computed(lambda w: w.permute(1, 0, 2).reshape(SQUARE), (8, 4, WIDTH)),
    "a sum of branches": Computed(lambda a, b: a + b, SQUARE, SQUARE),
    "standardised": Computed(standardised, SQUARE),
    "standardised by a norm": Computed(standardised_by_batch_norm, SQUARE),
    "normalised rows": Computed(lambda w: F.normalize(w, dim=-1), SQUARE),
    "softmax": Computed(lambda w: w.softmax(-1), SQUARE),
    "rows of unit norm": Computed(lambda w: w / w.norm(dim=1, keepdim=True), SQUARE),
    "of unit norm as a whole": Computed(lambda w: w / w.norm(), SQUARE),
}
# the magnitudes of weight norm and the factors of a low-rank sum have one masked side
MIXED = {
    "weight norm": (parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH, bias=False)), WIDTH),
    # its only magnitude is kept once a task, and task 1's own is free
    "weight norm of all": (parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH, bias=False), dim=None), 2),
    "low rank": (Computed(lambda w, a, b: w + b @ a, SQUARE, (4, WIDTH), (WIDTH, 4)), 8 * WIDTH),
}


class Between(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.before, self.middle = nn.Linear(8, WIDTH), middle
        self.behind, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.middle(torch.relu(self.before(x))))
        return self.head(torch.relu(self.behind(x)))


def converted(middle: nn.Module) -> HATModule:
    """`middle` in a network, task 0 locked; checks that this network is the model, and that task 0 cannot move."""
    model, x = Between(middle), torch.randn(5, 8)
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 8),))
    assert torch.equal(net.eval()(x), model.eval()(x))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    before = net(x, task_id=0)
    assert before.isfinite().all()
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert not torch.equal(net(x), model(x))
    return net


def free(net: HATModule) -> float:
    """How many entries of the middle layer's parameters may be trained."""
    return sum(float((~lock).sum()) for name, lock in net.lock_masks(1).items() if name.startswith("middle"))


@pytest.mark.parametrize("name", TWO_SIDED)
def test_a_weight_between_two_masked_sides(name: str) -> None:
    net = converted(TWO_SIDED[name])
    entries = sum(parameter.numel() for parameter in TWO_SIDED[name].parameters())
    assert free(net) == 3 / 4 * entries
    assert not net.blueprint.unfollowed


@pytest.mark.parametrize("name", MIXED)
def test_parts_with_one_masked_side(name: str) -> None:
    middle, one_sided = MIXED[name]
    assert free(converted(middle)) == 3 / 4 * WIDTH**2 + one_sided / 2


def test_entries_that_no_use_reaches_are_free() -> None:
    net = converted(Computed(lambda w: w[WIDTH:], (2 * WIDTH, WIDTH)))
    assert free(net) == (1 + 3 / 4) * WIDTH**2


def test_an_operator_without_a_rule_locks_the_parameter_whole() -> None:
    net = converted(Computed(lambda w: torch.linalg.qr(w)[0], SQUARE))
    assert free(net) == 0
    assert net.blueprint.unfollowed == {"middle.raw.0"}


def test_what_a_norm_mixes_is_gated_before_it() -> None:
    """The norm of a row reads entries with dead inputs: in a task they are zero, and so may be trained."""
    model = Between(Computed(lambda w: F.normalize(w, dim=-1), SQUARE))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 8),)).eval()
    draw_masks(net, 0)
    x = torch.randn(3, 8)
    read, written, behind = (net.registry.groups[n].binary_mask(0) for n in ("before", "middle", "behind"))
    hidden = torch.relu(model.before(x)) * read
    hidden = torch.relu(F.linear(hidden, F.normalize(model.middle.raw[0] * read, dim=-1))) * written
    expected = net(x, task_id=0)
    net.registry.trained.append(0)
    head = net.head_layers()[0].per_task[0]
    actual = F.linear(torch.relu(model.behind(hidden)) * behind, head.weight, head.bias)
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_weight_standardisation_in_convolutions() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = F.batch_norm(self.weight.view(1, self.out_channels, -1), None, None, training=True)
            return F.conv2d(x, weight.view_as(self.weight), self.bias, padding=1)

    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), Standardised(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 1), nn.Flatten(1)
    )
    model.append(nn.Linear(8 * 36, 4))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 3, 8, 8),))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    net.eval()
    x = torch.randn(3, 3, 8, 8)
    before = net(x, task_id=0)
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert float((~net.lock_masks(1)["2.weight"]).float().mean()) == 3 / 4


def test_a_layer_that_is_called_several_times_writes_the_same_features() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = torch.tanh(self.layer(x))
            return x

    net = converted(Repeated())
    assert list(net.registry.groups) == ["before", "middle.layer", "behind"]
    taken = {name: group.binary_mask(0) for name, group in net.registry.groups.items()}
    read = taken["before"] | taken["middle.layer"]
    assert torch.equal(net.lock_masks(1)["middle.layer.weight"], taken["middle.layer"][:, None] & read)


def test_a_layer_that_reads_a_constant_is_no_weight() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tanh(self.embedding(torch.tensor(3)))

    assert free(converted(Positions())) == 5 * WIDTH / 2


def test_a_head_with_a_computed_weight_is_each_tasks_own() -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), parametrizations.weight_norm(nn.Linear(WIDTH, 4)))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 8),))
    assert set(net.shared_parameters()) == {"0.weight", "0.bias"}
    x = torch.randn(3, 8)
    assert torch.equal(net.eval()(x), model.eval()(x))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    before = net(x, task_id=0)
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
    assert not torch.equal(net(x, task_id=1), hatify(model, num_tasks=2, example_inputs=(x,)).eval()(x, task_id=1))


def test_the_classes_of_a_head_with_a_computed_weight_cannot_be_changed() -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU(), parametrizations.weight_norm(nn.Linear(WIDTH, 4)))
    with pytest.raises(ConversionError, match="computed from its parameters"):
        hatify(model, num_tasks=2, num_classes=[4, 7], example_inputs=(torch.randn(2, 8),))


def test_a_large_table_of_positions_is_followed_by_its_features() -> None:
    """Too large to be followed entry by entry: what it is added to gives each column its feature."""

    class Located(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(2, 1 << 15, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            places = F.one_hot(torch.tensor([[3], [70]]), 1 << 15).to(x.dtype)
            return x + (places @ self.table).sum(0)

    assert free(converted(Located())) == 2 * (1 << 15) * WIDTH / 2


def test_a_weight_at_the_end_of_a_long_chain() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.rand(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            gate = self.gate
            for _ in range(200):
                gate = torch.tanh(gate * 1.5)
            return x * gate

    model = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), Gated(), nn.Linear(WIDTH, 2))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),))
    assert not net.blueprint.unfollowed


def test_a_parameter_that_a_list_holds_too_is_that_parameter() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.middle = nn.Parameter(torch.randn(8, 8))
            self.all = [self.middle]

        def forward(self, x: Tensor) -> Tensor:
            x = self.write(x).relu()
            return self.head((x @ self.all[0] + x @ self.middle).relu())

    net, x = hatify(Listed(), num_tasks=2).eval(), torch.randn(4, 3)
    before = net(x)
    with torch.no_grad():
        net.middle += 1
    assert not torch.equal(net(x), before)
    with net.learn(0):
        draw_masks(net, 0)
    assert float((~net.lock_masks(1)["middle"]).float().mean()) == 3 / 4
