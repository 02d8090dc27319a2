"""Residual sums that leave the features of what they add apart."""

from __future__ import annotations

import torch

import hatify.gated_sum  # noqa: F401  # registers the operator
from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from rewriters.registry import rewriter


@rewriter(torch.ops.hatify.gated_sum)
def gated_sum(call: Call) -> Effect:
    """The branch's features are the result's, whose zeros the shortcut fills: they need a gate behind the sum."""
    branch, shortcut = call["branch"], call["shortcut"]
    return Effect(call.support(branch), flows=(branch,), reads=(shortcut,), keeps_zero=False)
