"""From a plan to a network: weighted calls become HAT layers, masks and task ids become edges.

root      the tensors of the model, in a tree of modules with their old names
calls     what a layer calls, and where the arguments come from
layers    the HAT layer, which takes the place of a weighted call
layout    which arguments of a call a layer is given, and which it holds
products  many small products in one operation
vectors   biases and norms, multiplied by their masks all at once
rewrite   the plan, carried out on the graph
heads     each task's own number of classes
one_mode  the graph of both modes, without what only the other one uses
"""
