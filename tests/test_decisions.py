"""What forward does by the size of its inputs: the network does the same, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.errors import CaptureWarning, InputError

SIZES = (1, 2, 3, 4, 6, 101)


class Asks(nn.Module):
    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.then = nn.Linear(4, 3), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.linear(x))


QUESTIONS: dict[str, tuple[Callable[[Tensor], Tensor], set[int]]] = {
    "none": (lambda x: x / x.shape[0] ** 0.5, set()),
    "large": (lambda x: x * 2 if x.shape[0] > 3 else x, {1, 2, 3}),
    "not too large": (lambda x: x * 2 if x.shape[0] < 100 else x, {101}),
    "even": (lambda x: x * 2 if x.shape[0] % 2 == 0 else x, {1, 3, 101}),
    "odd": (lambda x: x * 2 if x.shape[0] % 2 else x, {1, 3, 101}),
    "a multiple": (lambda x: x * 2 if not x.shape[0] // 4 else x, {1, 2, 3}),
    "arithmetic": (lambda x: x * (1 + (x.shape[0] > 3)), {1, 2, 3}),
    "one": (lambda x: x * 2 if x.shape[0] == 1 else x, {1}),
}


@pytest.mark.parametrize(("then", "refused"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_call_that_goes_another_way_is_refused(then: Callable[[Tensor], Tensor], refused: set[int]) -> None:
    model = Asks(then)
    net = hatify(model, example_inputs=(torch.randn(4, 4),))
    for size in SIZES:
        x = torch.randn(size, 4)
        if size in refused:
            with pytest.raises(InputError, match=r"another way .*test_decisions\.py:\d+ in <lambda>"):
                net(x)
        else:
            assert torch.equal(net(x), model(x))


def test_a_question_about_one_of_two_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.linear((x * 2 if x.shape[0] > 3 else x) + y)

    model = Two()
    net = hatify(model, example_inputs=(torch.randn(4, 4), torch.randn(4, 4)))
    x, y = torch.randn(2, 6, 4)
    assert torch.equal(net(x, y), model(x, y))
    with pytest.raises(InputError, match="another way"):
        net(x[:2], y[:2])


def test_a_question_of_train_mode_is_none_of_eval_mode() -> None:
    class AsksInTraining(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x * 2 if self.training and x.shape[0] > 3 else x)

    model = AsksInTraining()
    net = hatify(model, example_inputs=(torch.randn(4, 4),))
    x = torch.randn(2, 4)
    with pytest.raises(InputError, match="another way"):
        net.train()(x)
    assert torch.equal(net.eval()(x), model.eval()(x))


class SomeExamples(nn.Module):
    """As DINOv2's stochastic depth: train mode adds the branch to a share of the batch, a number of its own."""

    def __init__(self, mode: bool | None) -> None:
        super().__init__()
        self.linear, self.branch, self.mode = nn.Linear(4, 3), nn.Linear(3, 3), mode

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.training == self.mode or self.mode is None:
            kept = torch.arange(x.shape[0])[: max(int(0.5 * x.shape[0]), 1)]
            return x.index_add(0, kept, self.branch(x[kept]), alpha=2.0)
        return x + self.branch(x)


def test_a_number_computed_from_the_batch_size_in_train_mode_leaves_that_mode_out() -> None:
    model = nn.Sequential(SomeExamples(True), nn.Dropout(0.5))
    with pytest.warns(CaptureWarning, match="SomeExamples.* can only be captured in eval mode"):
        net = hatify(model, example_inputs=(torch.randn(4, 4),))
    x = torch.randn(8, 4)
    assert torch.equal(net.eval()(x), model.eval()(x))
    assert net.train()(x).shape == (8, 3)


def test_a_number_computed_from_the_batch_size_is_part_of_the_graph() -> None:
    model = SomeExamples(None)
    with pytest.warns(CaptureWarning, match="batches of 4 only"):
        net = hatify(model, example_inputs=(torch.randn(4, 4),))
    x = torch.randn(4, 4)
    assert torch.equal(net(x), model(x))
    with pytest.raises(InputError, match=r"shape \(4, 4\)"):
        net(torch.randn(8, 4))
