"""What forward decides in Python by the size of an input: the graph holds one outcome, so a call must have the same."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental.sym_node import SymNode

from hatify.capture.calls import is_tensor
from hatify.capture.frames import asks_from_outside

FOUND = "decisions"  # in the meta data of a program's graph module


@dataclass(frozen=True)
class Question:
    """What code outside PyTorch asked of symbolic sizes, the answer in the example, and where it asked."""

    condition: sympy.Basic
    answer: bool
    place: str


@dataclass(frozen=True)
class Decision:
    """A question that forward asks in one mode. sizes: for each symbol in it, an input and one of its dimensions."""

    question: Question
    sizes: Mapping[sympy.Symbol, tuple[int, int]]
    training: bool

    def is_as_in_the_example(self, inputs: Sequence[Any]) -> bool:
        """Whether a call with these flat inputs goes the way that was captured."""
        sizes = {symbol: sympy.Integer(inputs[i].shape[d]) for symbol, (i, d) in self.sizes.items()}
        return bool(self.question.condition.xreplace(sizes)) == self.question.answer


@contextmanager
def watched_decisions() -> Iterator[list[Question]]:
    """Collect, while a model is traced, the questions whose answers depend on the sizes of the inputs.

    Where a number is made of a size by arithmetic (`int(0.5 * n)`), the sizes that it is made of become constants:
    the graph is one for them, and what is done about sizes that are part of a graph is done about these.
    """
    questions: list[Question] = []
    sym_node: Any = SymNode
    guard_bool, guard_int = sym_node.guard_bool, sym_node.guard_int

    def watched_bool(node: SymNode, file: str, line: int) -> bool:
        answer: bool = guard_bool(node, file, line)
        if node.expr.free_symbols and (asker := _asker(sys._getframe(1))):
            questions.append(Question(node.expr, answer, _place(asker)))
        return answer

    def watched_int(node: SymNode, file: str, line: int) -> int:
        number: int = guard_int(node, file, line)
        for symbol in node.expr.free_symbols:
            size: Any = node.shape_env.create_symintnode(symbol, hint=None)  # type: ignore[union-attr]
            guard_int(size.node, file, line)
        return number

    sym_node.guard_bool, sym_node.guard_int = watched_bool, watched_int
    try:
        yield questions
    finally:
        sym_node.guard_bool, sym_node.guard_int = guard_bool, guard_int


def decisions_of(program: ExportedProgram, inputs: Sequence[Node], training: bool) -> Iterator[Decision]:
    """What was decided while a program was traced. inputs: the placeholders of the model's own inputs."""
    sizes = {
        size.node.expr: (position, dimension)
        for position, node in enumerate(inputs)
        if is_tensor(node)
        for dimension, size in enumerate(node.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    }
    for question in dict.fromkeys(program.graph_module.meta.get(FOUND, ())):
        symbols = question.condition.free_symbols
        if symbols <= sizes.keys():
            yield Decision(question, {symbol: sizes[symbol] for symbol in symbols}, training)


def _asker(innermost: FrameType) -> FrameType | None:
    """The code outside PyTorch that asked whether a condition holds; None if PyTorch did."""
    frames = (frame for frame, _ in traceback.walk_stack(innermost))
    answering = next((frame for frame in frames if frame.f_code.co_name == "__bool__"), None)
    return answering.f_back if answering is not None and asks_from_outside(answering, {"__bool__"}) else None


def _place(frame: FrameType) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
