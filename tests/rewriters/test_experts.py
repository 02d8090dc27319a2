"""Rules for mixtures of experts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, check_between

pytest.importorskip("transformers.integrations.moe")  # registers the operator


class Experts(nn.Module):
    """Every second row goes to the one expert, the others to the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x: Tensor) -> Tensor:
        doubled = torch.cat([x, x])
        ends = torch.ones(2, dtype=torch.int32).cumsum(0) * x.shape[0]
        done = torch.ops.transformers.grouped_mm_fallback(doubled, self.weight, ends.to(torch.int32))
        return done[: x.shape[0]] + done[x.shape[0] :]


def test_grouped_product() -> None:
    check_between("vectors", Experts(), two_sided=2 * WIDTH * WIDTH, gates=0)
