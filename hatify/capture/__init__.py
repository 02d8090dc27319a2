"""A model becomes one torch.fx graph of ATen operators.

capture     all of it, from a model to its graph
inputs      example inputs, given or inferred
signature   the model's calling convention: how its arguments and outputs flatten
ladder      the traces of train and eval mode, and what to do where a module cannot be traced
failures    where a model failed, in words
opaque      submodules that are called as they are
leaf_calls  what such a submodule takes and gives
export      one call of torch.export
surroundings   what is set aside for it
running     the model is run, and left as it was
program, constants   from a trace to a graph, with each node's module path kept
sizes, decisions   sizes that Python code makes numbers of, or asks questions about
frames      whose code runs
regions     blocks under `no_grad`, or without autocast, become part of them
randomness  whose code draws from Python's or NumPy's generators
derivatives   what forward says of its derivative, which no graph has
views, mutations   writes in place, into views too, become edges
pairing     which calls the graphs of train and eval mode have in common
modes       both become one that follows the flag `training`
devices     devices and dtypes follow the inputs again
calls       what all of these put into a graph
"""
