"""What a rule says about one operator call: its result's support, and the part that each operand plays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.fx import Node

from hatify.analysis.support import Support


class Argument(NamedTuple):
    """Where an operand stands in a call: its name in the operator's schema and, in a list, its index."""

    name: str
    element: int | None = None


RESULT = Argument("the result")


@dataclass(frozen=True)
class Gate:
    """A mask folded into a call: the operands that it multiplies.

    ids: the feature of each entry of the mask.
    slots: for each operand (or the RESULT), the shape in which the mask is multiplied with it. An operand that is
        absent from the call (a norm without affine parameters) is replaced by the mask itself.
    result: the shape in which the mask does the same to the result; None: it does not.
    """

    ids: npt.NDArray[np.int64]
    slots: dict[Argument, tuple[int, ...]]
    result: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Factor:
    """One side of a lock: an entry is locked only where the feature of *every* factor is taken.

    ids: broadcastable to the parameter, behind `rows` leading dimensions: the entry is used with each of the rows.
    side: "input" holds only if the zeros of `node` are certain, "output" only if they are or nobody reads its dead
        entries, "always" holds by the operator itself.
    """

    ids: npt.NDArray[np.int64]
    side: Literal["input", "output", "always"]
    node: Node
    rows: int = 0


@dataclass(frozen=True)
class Use:
    """A parameter's part in a call. No factors and no mask: every entry is needed by every task.

    mask: the features by which the parameter itself is masked, broadcastable to it, whatever the result's features
        are: a weight that serves all features of its operand alike is shared by its rows.
    outputs: the dimension along which the parameter has an entry for each output, so that a head can have more of them;
        None: there is no such dimension, or groups share it.
    """

    argument: Argument
    factors: tuple[Factor, ...] = ()
    mask: npt.NDArray[np.int64] | None = None
    outputs: int | None = 0


@dataclass(frozen=True)
class Effect:
    """The transfer function of one call.

    result: the support of the result (a tuple where the operator returns several tensors).
    flows: operands whose features are the result's features; the result is zero where all of them are, unless
        `keeps_zero` is False (f(0) != 0).
    factors: operands whose features are the result's features; the result is zero where any of them is.
    reads: operands whose dead entries would reach other entries of the result: they must be zero.
    fixed: operands whose dead entries must not change: they must be zero, or come from zeros alone. Behind them no zero
        stops what the function makes of other numbers (infinity, NaN, an error).
    pairs: operands contracted with each other over coupled features: one of them must be zero.
    shapes: operands that lend their shape only, whatever their entries.
    gates: how this call can be made zero at no cost to the activations.
    uses: the parameters that the call takes, with what locks them.
    per_task: operands kept once a task (affine parameters and statistics of norms).

    An operand in no list is read as it is, and everything that it depends on counts as live.
    """

    result: Support | tuple[Support, ...]
    flows: tuple[Node, ...] = ()
    factors: tuple[Node, ...] = ()
    reads: tuple[Node, ...] = ()
    fixed: tuple[Node, ...] = ()
    pairs: tuple[Node, ...] = ()
    shapes: tuple[Node, ...] = ()
    keeps_zero: bool = True
    gates: tuple[Gate, ...] = ()
    uses: tuple[Use, ...] = ()
    per_task: tuple[Argument, ...] = ()

    @property
    def masks_of_weights(self) -> list[Support]:
        """The features that the call's weights themselves are masked by."""
        return [use.mask for use in self.uses if use.mask is not None]
