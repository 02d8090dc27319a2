"""What is certainly zero under a mask, what matters, and so what must be locked.

Plain data in, plain data out: a captured graph and a table of rules become a `Plan`, which can be printed and
tested without running the model.

plan        all passes, in this order, and what they find
supports    forward: the feature variables of every tensor, and which of them are coupled
heads       the last weighted layers, kept once a task
gates       backward: where a mask must be applied so that zeros are certain
coverage    forward and backward: which zeros are certain, which dead entries are never read
groups      the coupled variables, named after the modules that write them
locks       which entries of each parameter the locked tasks depend on
needs       the same, use by use
dependence  needs of what is computed from parameters, carried back to them

call, effect   what a rule is given, and what it answers
application   the effect of a call, with a rule or without one
weights     what forward computes from parameters alone
support, variables   features of entries, and their coupling
nodes, sizes   what the nodes of a graph take and give
"""
