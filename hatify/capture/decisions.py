"""What forward decides in Python by the size of an input: the graph goes one way, so a call must go the same."""

from __future__ import annotations

import ast
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest.mock import patch

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.experimental import sym_node
from torch.fx.experimental.sym_node import SymNode
from torch.utils._sympy.printers import PythonPrinter

from hatify.capture.calls import is_tensor
from hatify.capture.frames import is_of_pytorch, place
from hatify.errors import CaptureWarning, warn

FOUND = "questions"  # in the meta data of a program's graph module

# What the source of a condition may consist of, beside numbers and functions of `math`.
ARITHMETIC = (
    *(ast.Expression, ast.Lambda, ast.arguments, ast.arg, ast.Name, ast.expr_context, ast.Call, ast.IfExp),
    *(ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.boolop, ast.operator, ast.unaryop, ast.cmpop),
)
FUNCTIONS = {"math": math, "abs": abs, "max": max, "min": min, "int": int, "float": float, "round": round}

# Where PyTorch passes a question about a size on, from the code that asks it.
PASSED_ON = {torch.__file__, sym_node.__file__}


@dataclass(frozen=True)
class Question:
    """What code outside PyTorch asked of symbolic sizes, the answer in the example, and where it asked."""

    node: SymNode
    answer: bool
    place: str


@dataclass(frozen=True)
class Decision:
    """What forward decides in one mode by a condition, and where. Plain data.

    source: the condition, as the source of a Python function of sizes.
    sizes: for each of its arguments, an input and one of its dimensions.
    condition: the function, so that a compiled call can check it, too.
    """

    source: str
    answer: bool
    place: str
    sizes: tuple[tuple[int, int], ...]
    training: bool
    condition: Callable[..., bool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", _function(self.source))

    def is_as_in_the_example(self, inputs: Sequence[Any]) -> bool:
        """Whether a call with these flat inputs goes the way that was captured."""
        if self.condition(*(inputs[i].shape[d] for i, d in self.sizes)):
            return self.answer
        return not self.answer


@contextmanager
def watched_questions() -> Iterator[list[Question]]:
    """Collect, while a model is traced, the questions whose answers depend on the sizes of the inputs."""
    questions: list[Question] = []
    guard_bool = SymNode.guard_bool

    def watched(node: SymNode, file: str, line: int) -> bool:
        answer: bool = guard_bool(node, file, line)
        asker = _asker(sys._getframe(1))
        if asker is not None:
            questions.append(Question(node, answer, place(asker, asker.f_lineno)))
        return answer

    with patch.object(SymNode, "guard_bool", watched):
        yield questions


def decisions_of(program: ExportedProgram, inputs: Sequence[Node], training: bool) -> Iterator[Decision]:
    """What was decided while a program was traced. inputs: the placeholders of the model's own inputs.

    Warns:
        CaptureWarning: a decision by a size that no input has, which no call can be checked for.
    """
    sizes = {
        size.node.expr: (position, dimension)
        for position, node in enumerate(inputs)
        if is_tensor(node)
        for dimension, size in enumerate(node.meta["val"].shape)
        if isinstance(size, torch.SymInt)
    }
    questions = program.graph_module.meta.get(FOUND, ())
    asked = {question.node.expr: question for question in questions}  # now that it is known which sizes are the same
    for condition, question in asked.items():
        if condition.free_symbols <= sizes.keys():
            own = sorted(condition.free_symbols, key=str)
            if own:
                places = tuple(sizes[symbol] for symbol in own)
                yield Decision(_source(condition, own), question.answer, question.place, places, training)
        else:
            warn(
                f"forward decides by sizes at {question.place}; the converted network goes the way of the example "
                "inputs, whatever the sizes are",
                CaptureWarning,
            )


def _source(condition: sympy.Basic, symbols: Sequence[sympy.Symbol]) -> str:
    """A condition as a function of its symbols."""
    return f"lambda {', '.join(map(str, symbols))}: {PythonPrinter().doprint(condition)}"


def _function(source: str) -> Callable[..., bool]:
    """The function that a source defines, which may come from a file: it can do arithmetic, and nothing else.

    Raises:
        ValueError: the source is something else.
    """
    try:
        tree = ast.parse(source, mode="eval")
    except SyntaxError:
        raise ValueError(f"no condition on sizes: {source!r}") from None
    if not isinstance(tree.body, ast.Lambda) or not all(map(_is_arithmetic, ast.walk(tree))):
        raise ValueError(f"no condition on sizes: {source!r}")
    function: Callable[..., bool] = eval(compile(tree, "<condition>", "eval"), {"__builtins__": {}, **FUNCTIONS})
    return function


def _is_arithmetic(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | int | float)
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id == "math" and not node.attr.startswith("_")
    return isinstance(node, ARITHMETIC)


def _asker(innermost: FrameType) -> FrameType | None:
    """The code outside PyTorch that asked whether a condition holds; None if PyTorch did."""
    frames = (frame for frame, _ in traceback.walk_stack(innermost))
    asker = next((frame for frame in frames if frame.f_code.co_filename not in PASSED_ON), None)
    return None if asker is None or is_of_pytorch(asker) else asker
