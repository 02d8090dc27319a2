"""What a layer calls: an operator, and where each of its arguments comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

Places = tuple[tuple[int, tuple[int, ...]], ...]  # of masks: their positions among a layer's, and their shapes


@dataclass(frozen=True)
class Slot:
    """Where one argument of a call comes from, and the masks that multiply it.

    operand: its position among the layer's inputs. attribute: its name among the layer's own parameters and
    buffers. masks: those that multiply it. A slot with neither source is an absent operand, which a mask replaces.
    """

    operand: int | None = None
    attribute: str | None = None
    masks: Places = ()


# Of a slot: the argument that it fills, by position, and for a list its element; its operand, attribute and masks.
Filling = tuple[int, int | None, int | None, str | None, Places]


@dataclass(frozen=True)
class OperatorCall:
    """One operator with the layout of its arguments: slots, lists with slots, and constants.

    plan: what a layer reads of it, see `_plan`. It is one tuple of plain values since torch.compile looks at all that
        it has seen anew in each call, at such a tuple once, at objects field by field.
    """

    operator: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    result_masks: Places = ()
    plan: tuple[tuple[Any, ...], tuple[str, ...], tuple[int, ...], tuple[Filling, ...], Places] = field(
        init=False, repr=False, compare=False
    )

    @property
    def arguments(self) -> list[Any]:
        """All of them, named ones last."""
        return [*self.args, *(value for _, value in self.kwargs)]

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", _plan(self))  # no cached property: torch.compile cannot trace the lock of one


def _plan(call: OperatorCall) -> tuple[Any, ...]:
    """The constants among the arguments, named ones last and None where a slot fills one; the names; the positions of
    lists with slots; the slots; the masks of the result.
    """
    return (
        tuple(map(_constant, call.arguments)),
        tuple(name for name, _ in call.kwargs),
        tuple(position for position, argument in enumerate(call.arguments) if _has_slots(argument)),
        tuple(_fillings(call.arguments)),
        call.result_masks,
    )


def _constant(argument: Any) -> Any:
    if isinstance(argument, list):
        return tuple(map(_constant, argument))
    return None if isinstance(argument, Slot) else argument


def _has_slots(argument: Any) -> bool:
    return isinstance(argument, list) and any(isinstance(element, Slot) for element in argument)


def _fillings(arguments: Sequence[Any]) -> Iterator[Filling]:
    for position, argument in enumerate(arguments):
        for index, slot in enumerate(argument if isinstance(argument, list) else [argument]):
            if isinstance(slot, Slot):
                element = index if isinstance(argument, list) else None
                yield position, element, slot.operand, slot.attribute, slot.masks
