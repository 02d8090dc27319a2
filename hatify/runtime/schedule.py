"""Mask scale schedules: the scale `s` of `sigmoid(s * e)` over a task's progress `p` in [0, 1]."""

from __future__ import annotations

import math

from hatify.config import Schedule


def scheduled_scale(schedule: Schedule, progress: float, s_max: float, cycles: int = 1) -> float:
    """The mask scale, in [1 / s_max, s_max].

    linear       1 / s_max to s_max in equal steps (Serra et al. 2018, eq. 3)
    cosine       max(1, s_max / 2 * (1 + cos(2 pi p))): hard, soft, hard again (Duan 2023, sec. 3.4)
    exponential  1 / s_max to s_max in equal ratios
    constant     s_max
    """
    p = min(max(progress, 0.0), 1.0)
    if cycles > 1 and p < 1.0:
        p = (p * cycles) % 1.0
    if schedule == "linear":
        return 1 / s_max + (s_max - 1 / s_max) * p
    if schedule == "cosine":
        return max(1.0, s_max / 2 * (1 + math.cos(2 * math.pi * p)))
    if schedule == "exponential":
        return float(s_max ** (2 * p - 1))
    return s_max
