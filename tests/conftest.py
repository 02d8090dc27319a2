"""One thread: the tests' networks are too small for more, and pytest-xdist runs a test on each of the other cores."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
