"""A model becomes one torch.fx graph of ATen operators.

inputs      example inputs, given or inferred
signature   the model's calling convention: how its arguments and outputs flatten
export      the graph, with each node's module path kept
mutations, training, devices   undo what the export bakes in: aliases, train mode, devices and dtypes
"""
