"""The model's calling convention, kept: arguments in and outputs out as the model itself takes and gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hatify.capture.decisions import Decision
from hatify.capture.inputs import Arguments
from hatify.errors import InputError


@dataclass(frozen=True)
class CallSignature:
    """How a call flattens into the graph's placeholders.

    shapes: for each flat input, its shape at capture with None for dimensions that may differ; None if no tensor.
    constants: for each flat input that is no tensor, the value that is part of the graph.
    decisions: what forward decides by the sizes of its inputs; the graph goes one way.
    eval_outputs: the outputs in eval mode where their structure is another one. Then the graph returns those of train
        mode, those of eval mode and, last, whether it is in train mode.
    """

    signature: inspect.Signature
    inputs: pytree.TreeSpec
    outputs: pytree.TreeSpec
    shapes: tuple[tuple[int | None, ...] | None, ...]
    constants: tuple[Any, ...]
    decisions: tuple[Decision, ...] = ()
    eval_outputs: pytree.TreeSpec | None = None

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], training: bool) -> list[Any]:
        """The graph's inputs for a call in train or eval mode.

        Raises:
            InputError: other arguments, or other shapes, than the model was captured with.
        """
        flat, spec = pytree.tree_flatten((args, kwargs))
        if spec != self.inputs:  # else nothing is to be bound, which older versions of torch.compile cannot trace
            flat, spec = pytree.tree_flatten(canonical_arguments(self.signature, args, kwargs))
        if spec != self.inputs:
            raise InputError(
                f"the model was captured with the arguments {self._describe(self.inputs)}, but called with "
                f"{self._describe(spec)}; convert it with example inputs of the structure that you call it with"
            )
        for value, shape, constant in zip(flat, self.shapes, self.constants, strict=True):
            if shape is not None:
                _check_shape(value, shape)
            elif isinstance(value, torch.Tensor) or value != constant:
                raise InputError(
                    f"the model was captured with the argument {constant!r}, which is part of the graph, but called "
                    f"with {type(value).__name__ if isinstance(value, torch.Tensor) else repr(value)}; convert it "
                    "with example inputs that have the value that you call it with"
                )
        for decision in self.decisions:
            if decision.training == training and not decision.is_as_in_the_example(flat):
                raise InputError(
                    f"forward goes another way for inputs of this size than for the example inputs, whose way is the "
                    f"graph's ({decision.place}); convert the model with example inputs of the size that you "
                    "call it with"
                )
        return flat

    def outputs_in(self, training: bool) -> slice:
        """Which of the graph's outputs are those of a mode."""
        if self.eval_outputs is None:
            return slice(None)
        return slice(self.outputs.num_leaves) if training else slice(self.outputs.num_leaves, -1)

    def unflatten(self, results: tuple[Any, ...]) -> Any:
        """The model's outputs, in its own structure, from those of the graph."""
        if self.eval_outputs is None:
            return pytree.tree_unflatten(list(results), self.outputs)
        training = results[-1]
        own = list(results[self.outputs_in(training)])
        return pytree.tree_unflatten(own, self.outputs if training else self.eval_outputs)

    def _describe(self, spec: pytree.TreeSpec) -> str:
        args, kwargs = pytree.tree_unflatten(["*"] * spec.num_leaves, spec)
        return str(inspect.BoundArguments(self.signature, _by_name(self.signature, args, kwargs)).arguments)


def canonical_arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """The same call with as many positional arguments as can be, and without those that have their default value.

    So `f(x=x)`, `f(x)` and `f(x, scale=None)` are alike.

    Raises:
        InputError: the arguments do not fit the model's `forward`.
    """
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"the arguments do not fit the model's forward{signature}: {error}") from None
    for name in [name for name in bound.arguments if _is_default(bound, name)]:
        del bound.arguments[name]
    return bound.args, bound.kwargs


def _is_default(bound: inspect.BoundArguments, name: str) -> bool:
    """Whether an argument has its default value, and can be left out."""
    parameter, value = bound.signature.parameters[name], bound.arguments[name]
    kinds = {bound.signature.parameters[other].kind for other in bound.arguments}
    if parameter.kind is parameter.POSITIONAL_ONLY or parameter.VAR_POSITIONAL in kinds:
        return False
    is_plain = isinstance(value, bool | int | float | str) and type(value) is type(parameter.default)
    return value is parameter.default or (is_plain and value == parameter.default)


def forward_signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


def _check_shape(value: Any, shape: tuple[int | None, ...]) -> None:
    if not isinstance(value, torch.Tensor):
        raise InputError(f"expected a tensor of shape {_pattern(shape)}, got {type(value).__name__}")
    fits = value.dim() == len(shape) and all(
        expected is None or actual == expected for actual, expected in zip(value.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"expected an input of shape {_pattern(shape)}, got {tuple(value.shape)}; "
            "convert the model with example inputs of the shape that you need"
        )


def _pattern(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("batch" if size is None else str(size) for size in shape) + ")"


def _by_name(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return signature.bind_partial(*args, **kwargs).arguments
