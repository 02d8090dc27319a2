"""What flows through a converted network beside the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HATPayload:
    """Data with the task that it belongs to: payload in, payload out.

    data: the model's input (or output).
    task_id: the task whose masks gate the network; None: no task, the network as it is.
    mask_scale: the softness `s` of the masks `sigmoid(s * e)`; None: binary masks.
    """

    data: Any
    task_id: int | None = None
    mask_scale: float | None = None
