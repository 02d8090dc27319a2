"""What was seen at capture of each node's result: shapes with the sizes that may differ, dtypes.

Extraction reads them. As data a size that may differ is a number, the same for the same expression, and its value in
the example; when it is read again, each number is a symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

from hatify.analysis.sizes import concrete, is_unknown


@dataclass
class SizesApart:
    """Makes data that JSON has of results. numbers: those of the expressions that were met so far."""

    numbers: dict[str, int] = field(default_factory=dict)

    def apart(self, value: Any) -> Any:
        """A tensor as its dtype and sizes, several results one by one; nothing is kept of what is neither nor a size.

        A size that only the data tells has no value.
        """
        if isinstance(value, Tensor):
            shape = [self.apart(size) for size in value.shape]
            return {"dtype": str(value.dtype).removeprefix("torch."), "shape": shape}
        if isinstance(value, torch.SymInt):
            fixed = value.node.maybe_as_int()
            return self._size(value) if fixed is None else fixed
        if isinstance(value, list | tuple):
            return {"results": [self.apart(element) for element in value]}
        return value if type(value) is int else None

    def _size(self, size: torch.SymInt) -> list[int | None]:
        number = self.numbers.setdefault(str(size.node.expr), len(self.numbers))
        return [number, None if is_unknown(size) else concrete(size)]


@dataclass
class SizesTogether:
    """Makes fake tensors of what `SizesApart` gave."""

    environment: ShapeEnv = field(default_factory=ShapeEnv)
    symbols: dict[int, torch.SymInt] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._mode = FakeTensorMode(shape_env=self.environment)

    def together(self, data: Any) -> Any:
        if isinstance(data, list):
            return self._size(*data)
        if not isinstance(data, dict):
            return data
        if "results" in data:
            return [self.together(element) for element in data["results"]]
        return self._tensor(getattr(torch, data["dtype"]), [self.together(size) for size in data["shape"]])

    def _tensor(self, dtype: torch.dtype, shape: Sequence[int | torch.SymInt]) -> Tensor:
        with self._mode:
            return torch.empty(shape, dtype=dtype)

    def _size(self, number: int, hint: int | None) -> torch.SymInt:
        if number not in self.symbols:
            self.symbols[number] = self._symbol(f"size_{number}", hint)
        return self.symbols[number]

    def _symbol(self, name: str, hint: int | None) -> torch.SymInt:
        if hint is None:
            return self.environment.create_unbacked_symint()
        from torch._dynamo.source import ConstantSource  # takes half a second to import: here, where a file is read

        source = ConstantSource(name)
        symbol = self.environment.create_symbol(hint, source, DimDynamic.DYNAMIC, constraint_dim=None)
        size = self.environment.create_symintnode(symbol, hint=hint, source=source)
        assert isinstance(size, torch.SymInt)
        return size
