"""Where train mode and eval mode part, and the state that forward changes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, check_between


class ByMode(nn.Module):
    def __init__(self, in_training: Callable[[Tensor], Tensor], otherwise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.in_training, self.otherwise = in_training, otherwise

    def forward(self, x: Tensor) -> Tensor:
        return self.in_training(x) if self.training else self.otherwise(x)


@pytest.mark.parametrize(
    ("in_training", "gates"), [(torch.tanh, 0), (torch.cos, 1), (torch.ones_like, 1)], ids=["tanh", "cos", "ones_like"]
)
def test_what_the_modes_compute_shares_its_features(in_training: Callable[[Tensor], Tensor], gates: int) -> None:
    check_between("vectors", ByMode(in_training, torch.relu), gates=gates)


class RunningMean(nn.Module):
    """Subtracts a mean that forward keeps; `always` in eval mode, too, when it is that of the last batch."""

    def __init__(self, always: bool) -> None:
        super().__init__()
        self.always = always
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if self.always:
            self.mean.copy_(x.detach().mean(0))
        elif self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return x - self.mean


def test_state_that_rests_in_eval_mode_needs_no_gate() -> None:
    """The difference is gated, as the mean is live; the mean itself is left as the model computes it."""
    check_between("vectors", RunningMean(always=False), gates=1)


@pytest.mark.filterwarnings("ignore:forward changes the buffers")
def test_state_that_eval_mode_changes() -> None:
    check_between("vectors", RunningMean(always=True))
