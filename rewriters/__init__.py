"""What each ATen operator does to supports: one file an operator family, one rule an operator.

A rule takes a `hatify.analysis.call.Call` and returns an `Effect`; it knows nothing of training. Register one
from anywhere with `@rewriter(torch.ops.my.op)`, or name its module in the entry-point group "hatify.rewriters".
"""

from rewriters.registry import load_rules, rewriter

__all__ = ["load_rules", "rewriter"]
