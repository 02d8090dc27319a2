"""Operators by what extraction makes of them.

BY_ENTRY: their weights matter entry by entry, and one that is not needed can be zero.
PLAIN: PyTorch's own operators in the place of hatify's.
"""

from __future__ import annotations

from typing import Any

import torch

import hatify.gated_sum  # noqa: F401  # registers the operator
from hatify.capture.calls import WITHOUT_AUTOCAST

aten = torch.ops.aten

LINEAR: set[Any] = {aten.linear.default}
CONVOLUTIONS: set[Any] = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
CONVOLUTIONS |= {aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}
TRANSPOSED: set[Any] = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
PRODUCTS: set[Any] = {aten.mm.default, aten.matmul.default}
SUMS: set[Any] = {aten.addmm.default}
TABLES: set[Any] = {aten.embedding.default}

BY_ENTRY = LINEAR | CONVOLUTIONS | TRANSPOSED | PRODUCTS | SUMS | TABLES

PLAIN: dict[Any, Any] = {torch.ops.hatify.gated_sum.default: aten.add.Tensor, **WITHOUT_AUTOCAST}
