"""Settings of the mechanism; the defaults are those that HAT-CL's paper recommends (Duan 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from hatify.errors import HatifyError

Schedule = Literal["cosine", "linear", "exponential", "constant"]
EmbeddingInitialization = Literal["dense", "normal", "sparse"]
Regularizer = Literal["layer", "network"]


@dataclass(frozen=True)
class HATConfig:
    """How masks are initialised, trained and regularised.

    init: embeddings of a new task: "dense" all ones (HAT-CL), "normal" N(0, 1) (Serra et al. 2018), "sparse" a
        random 1 / num_tasks of the features at 1 and the rest at -1.
    schedule: the mask scale over a task's progress, see `runtime.schedule`.
    schedule_cycles: how often the schedule runs through a task (the original runs through it once an epoch).
    s_max: the hardest mask scale.
    embedding_limit: embeddings are clamped to [-limit, limit] after each step (Serra et al. 2018, sec. 2.4).
    exponent_limit: `s * e` is clamped to [-limit, limit] in the gradient compensation (ibid., eq. 4).
    compensation: whether the embeddings' gradients are compensated for the mask scale.
    regularizer: "layer" means over groups (HAT-CL), "network" over all features at once (Serra et al., eq. 5).
    quota: whether a task may use num_features / num_tasks features of each group free of charge (HAT-CL).
    """

    init: EmbeddingInitialization = "dense"
    schedule: Schedule = "cosine"
    schedule_cycles: int = 1
    s_max: float = 400.0
    embedding_limit: float = 6.0
    exponent_limit: float = 50.0
    compensation: bool = True
    regularizer: Regularizer = "layer"
    quota: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (
            ("init", ("dense", "normal", "sparse")),
            ("schedule", ("cosine", "linear", "exponential", "constant")),
            ("regularizer", ("layer", "network")),
        ):
            if getattr(self, name) not in allowed:
                raise HatifyError(f"HATConfig({name}={getattr(self, name)!r}): one of {', '.join(allowed)}")
        for name in ("s_max", "embedding_limit", "exponent_limit", "schedule_cycles"):
            value, is_whole = getattr(self, name), name == "schedule_cycles"
            is_number = isinstance(value, Integral if is_whole else Real) and math.isfinite(value)
            if isinstance(value, bool) or not is_number:
                raise HatifyError(f"HATConfig({name}={value!r}): must be a {'whole ' * is_whole}number")
        for name in ("s_max", "schedule_cycles"):
            if getattr(self, name) < 1:
                raise HatifyError(f"HATConfig({name}={getattr(self, name)!r}): must be at least 1")
        for name in ("embedding_limit", "exponent_limit"):
            if getattr(self, name) <= 0:
                raise HatifyError(f"HATConfig({name}={getattr(self, name)!r}): must be positive")
