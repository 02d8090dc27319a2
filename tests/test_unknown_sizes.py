"""Sizes that follow from the data: how many entries a mask selects. Nothing leaks, and nothing is the example's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hatify import HATModule, hatify
from hatify.errors import CaptureError, CaptureWarning
from hatify.verification.trials import draw_masks, perturb
from tests.strangers import SEQUENCE, STRANGERS, Selecting, mask
from tests.test_strangers import assert_not_moved, assert_same_function, train

SEVERAL = {"x": SEQUENCE, "keep": mask(-1, 6)}


def converted(model: nn.Module) -> HATModule:
    perturb(model)
    inputs = {name: kind.draw(2) for name, kind in SEVERAL.items()}
    return hatify(model.eval(), num_tasks=2, example_inputs=inputs).eval()


@pytest.mark.parametrize("name", ["PositionsByMask", "PositionsByIndex", "TokensDropped", "AttentionOverSelected"])
@pytest.mark.parametrize("count", [0, 1, 5, 18])
def test_another_number_of_selected_entries(name: str, count: int) -> None:
    model = STRANGERS[name].model()
    net = converted(model)
    keep = (torch.arange(18) < count)[torch.randperm(18)].view(3, 6)
    x = torch.randn(3, 6, 12)
    for output, expected in zip(_tuple(net(x, keep)), _tuple(model(x, keep)), strict=True):
        assert output.shape == expected.shape
        assert torch.allclose(output, expected, atol=1e-5)


def _tuple(output: object) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)  # type: ignore[return-value]


class Swapped(Selecting):
    """Two unknown sizes change places, and what lay between them does not stay where it was."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x = self.encode(x)
        pairs = x[keep][:, :, None] * x[~keep].t()
        swapped = pairs.reshape(pairs.shape[2], 32, pairs.shape[0])
        return self.decode(swapped.mean(-1))


class Prefix(Selecting):
    """As many features as are selected, from a place that is not known either."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        x, count = self.encode(x), keep.sum().item()
        torch._check(count >= 2)
        torch._check(count <= 30)
        first, one = x[..., :count], x.narrow(-1, count - 1, 2)
        return self.decode(x * first.mean(-1, keepdim=True) + one.sum(-1, keepdim=True))


@pytest.mark.parametrize("kind", [Swapped, Prefix])
def test_features_at_unknown_places_are_live(kind: type[nn.Module]) -> None:
    model = kind()
    net = converted(model)
    inputs = {"x": torch.randn(3, 6, 12), "keep": torch.rand(3, 6) > 0.5}
    assert_same_function(model, net, inputs)
    train(net, 0, inputs)
    draw_masks(net, 0)
    assert_not_moved(net, inputs)


class Padded(nn.Module):
    """A size that Python must know."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return x[:, : int(keep.sum(1).max())]


class Within(Selecting):
    def __init__(self) -> None:
        super().__init__()
        self.padded = Padded()

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.decode(self.padded(self.encode(x), keep)).mean(1)


def test_a_size_that_python_must_know_is_an_error_with_its_line() -> None:
    class Outermost(Selecting):
        forward = Padded.forward

    with pytest.raises(CaptureError, match=r"test_unknown_sizes.py:\d+ in forward"):
        converted(Outermost())


def test_a_size_that_python_must_know_makes_its_submodule_a_leaf() -> None:
    model = Within()
    with pytest.warns(CaptureWarning, match="padded"):
        net = converted(model)
    for count in (2, 5):
        inputs = {"x": torch.randn(3, 6, 12), "keep": torch.arange(6).expand(3, -1) < count}
        assert_same_function(model, net, inputs)


def test_a_size_that_turns_out_to_be_that_of_an_input() -> None:
    class Chosen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            x = self.write(x)
            return self.read(x[keep] + x)

    model, inputs = Chosen(), (torch.randn(4, 3), torch.ones(4, dtype=torch.bool))
    net = hatify(model, num_tasks=2, example_inputs=inputs)
    assert torch.equal(net(*inputs), model(*inputs))
