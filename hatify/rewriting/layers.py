"""The HAT layer: operators with their parameters, which a task's masks multiply before use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hatify.rewriting.calls import OperatorCall, Places


def gate(tensor: Tensor, mask: Tensor | None) -> Tensor:
    """A gate of its own, where no layer can carry the mask. mask: broadcastable to `tensor`; None: no task.

    A feature that is off is zero whatever it was: in a product, infinity would become NaN. A mask that learns is never
    quite off.
    """
    if mask is None:
        return tensor
    product = _product(tensor, mask)
    return product if mask.requires_grad else torch.where(mask == 0, 0, product)


def _product(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor * (mask if mask.dtype is tensor.dtype else mask.to(tensor.dtype))


def for_each_example(mask: Tensor | None, tensor: Tensor) -> Tensor | None:
    """A mask for the features of one example, repeated where `tensor` holds one example's after the other's."""
    if mask is None:
        return None
    return mask.repeat([size // own if own > 1 else 1 for size, own in zip(tensor.shape, mask.shape, strict=True)])


def read(parameter: Tensor) -> Tensor:
    """The operator of a layer that only hands out a parameter (kept once a task)."""
    return parameter


@dataclass(frozen=True)
class Products:
    """A layer's own vectors, each multiplied by its mask already: by attribute."""

    layer: nn.Module
    by_attribute: Mapping[str, Tensor]


class HATLayer(nn.Module):
    """Stands at the path of the module that it replaces and holds its parameters under their old names.

    calls: the operators that use the layer's parameters; a layer that the model calls in several ways has several.
    counter: the name of the buffer that counts the batches of train mode (batch norm).
    per_task: for each task, its own copies of the parameters and buffers named in `task_indexed`. With no task the
        layer uses the parameters under their old names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[OperatorCall] = []
        self.task_indexed: tuple[str, ...] = ()
        self.counter: str | None = None
        self.per_task = nn.ModuleList()

    def forward(
        self,
        *operands: Any,
        masks: Sequence[Tensor | None] = (),
        vectors: Products | None = None,
        task_id: int | None = None,
        call: int = 0,
    ) -> Any:
        """Apply the operator of `calls[call]`.

        operands: the operator's inputs that are not the layer's own. masks: one for each gate; None with no task.
        vectors: what `MaskedVectors` has multiplied already; None with no task.
        """
        used = self.calls[call]
        constants, names, lists, fillings, result_masks = used.plan
        if self.training and self.counter is not None:
            self.of_task(self.counter, task_id).add_(1)
        own = self._own(task_id) if self.task_indexed and task_id is not None else self
        products = self._up_to_date(vectors)
        arguments = list(constants)
        for position in lists:
            arguments[position] = list(constants[position])
        for position, element, operand, attribute, places in fillings:
            if operand is not None:
                value = operands[operand]
                if places and masks:  # a weight that forward has computed: dead entries may be no numbers
                    value, places = _masked(value, places, masks, gate), ()
            elif attribute is None:
                value, places = self._stand_in(operands[0], places, masks), ()
            elif attribute in products:
                value, places = products[attribute], ()
            else:
                value = getattr(own if attribute in self.task_indexed else self, attribute)
            _put(_masked(value, places, masks) if places and masks else value, arguments, position, element)
        result = _called(used.operator, arguments, names)
        return _masked(result, result_masks, masks) if result_masks and masks else result

    def _stand_in(self, operand: Tensor, places: Places, masks: Sequence[Tensor | None]) -> Tensor | None:
        """The mask itself for an affine parameter that a norm has not: of the type of its statistics or its operand."""
        mask = _masked(None, places, masks)
        if mask is None:
            return None
        statistics = [value for value in self._buffers.values() if value is not None and value.is_floating_point()]
        return mask.to(statistics[0].dtype if statistics else operand.dtype)

    def _up_to_date(self, vectors: Products | None) -> Mapping[str, Tensor]:
        """Products that are this layer's still: not of one that it has replaced, nor of before its hooks have run."""
        if vectors is None or vectors.layer is not self or self._forward_pre_hooks:
            return {}
        return vectors.by_attribute

    def of_task(self, name: str, task_id: int | None) -> Any:
        """A parameter or buffer, a task's own where it is kept once a task."""
        if task_id is None or name not in self.task_indexed:
            return getattr(self, name)
        return getattr(self._own(task_id), name)

    def _own(self, task_id: int) -> Any:
        """What holds a task's own parameters."""
        return getattr(self.per_task, str(task_id))  # `per_task[task_id]`, without the checks

    def index_by_task(self, names: Sequence[str]) -> None:
        """Keep these parameters and buffers once a task."""
        self.task_indexed = tuple(dict.fromkeys([*self.task_indexed, *names]))

    def add_task(self) -> None:
        """Copies, for one more task, of what is kept once a task."""
        own = nn.Module()
        for name in self.task_indexed:
            value = getattr(self, name)
            copy = value.detach().clone()
            if isinstance(value, nn.Parameter):
                own.register_parameter(name, nn.Parameter(copy, requires_grad=value.requires_grad))
            else:
                own.register_buffer(name, copy)
        self.per_task.append(own)

    def extra_repr(self) -> str:
        operators = ", ".join(str(call.operator) for call in self.calls)
        indexed = f", once a task: {', '.join(self.task_indexed)}" if self.task_indexed else ""
        shapes = ", ".join(f"{name}={tuple(p.shape)}" for name, p in self._parameters.items() if p is not None)
        return f"{operators}: {shapes}{indexed}"


def hat_layers(net: nn.Module) -> list[HATLayer]:
    """The layers of a converted network that take masks, in its order."""
    return [module for module in net.modules() if isinstance(module, HATLayer)]


def _put(value: Any, arguments: list[Any], position: int, element: int | None) -> None:
    """Put a value in its place among the arguments. element: of a list there."""
    if element is None:
        arguments[position] = value
    else:
        arguments[position][element] = value


def _called(function: Callable[..., Any], arguments: Sequence[Any], names: Sequence[str]) -> Any:
    """What a function gives. names: of the last arguments, as many as have one."""
    if not names:
        return function(*arguments)
    named = dict(zip(names, arguments[-len(names) :], strict=True))
    return function(*arguments[: -len(names)], **named)


def _masked(
    value: Any,
    places: Places,
    masks: Sequence[Tensor | None],
    multiply: Callable[[Tensor, Tensor], Tensor] = _product,
) -> Any:
    for position, shape in places:
        mask = masks[position]
        if mask is None:
            continue
        if mask.shape != shape:  # to ask costs less than a view of the same shape
            mask = mask.reshape(shape)
        value = mask if value is None else multiply(value, mask)
    return value
