"""Two threads: the tests' networks are too small for more."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
