"""What a conversion knows beside the graph and the tensors."""

from __future__ import annotations

from dataclasses import dataclass

from hatify.capture.signature import CallSignature
from hatify.config import HATConfig
from hatify.lifecycle.initial_values import Initialization


@dataclass(frozen=True)
class Blueprint:
    """Plain data.

    signature: the model's calling convention. config: the mechanism's settings.
    task_indexed: names of the parameters that each task has its own copy of. heads: paths of the layers that are
    each task's own head. unknown: operators without a rule, and how often each occurs. unfollowed: names of the
    parameters that are locked whole or kept once a task because no rule says which features their entries serve.
    unread: names of the parameters that forward does not read. initialization: how each parameter is drawn.
    """

    signature: CallSignature
    config: HATConfig
    task_indexed: frozenset[str]
    heads: tuple[str, ...]
    unknown: dict[str, int]
    unfollowed: frozenset[str]
    unread: frozenset[str]
    initialization: Initialization
