"""A model becomes one torch.fx graph of ATen operators.

inputs      example inputs, given or inferred
signature   the model's calling convention: how its arguments and outputs flatten
export      the graph, with each node's module path kept
portable    undo what the export bakes in: training mode, devices, in-place aliases
"""
