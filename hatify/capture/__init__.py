"""A model becomes one torch.fx graph of ATen operators.

inputs      example inputs, given or inferred
signature   the model's calling convention: how its arguments and outputs flatten
export      the graphs of train and eval mode, with each node's module path kept
grad_mode   blocks under `no_grad` become part of them
views, mutations   writes in place, into views too, become edges
modes       both graphs become one that follows the flag `training`
devices     devices and dtypes follow the inputs again
calls       what all of these put into a graph
"""
