"""What is certainly zero under a mask, what matters, and so what must be locked.

Plain data in, plain data out: a captured graph and a table of rules become a `Plan`, which can be printed and
tested without running the model. Passes, in order:

    supports   forward: the feature variables of every tensor, and which of them are coupled
    heads      backward from the outputs: the last weighted layers, kept once a task
    gates      backward: where a mask must be applied so that zeros are certain
    coverage   forward and backward: which zeros are certain, which dead entries are never read
    locks      which entries of each parameter the locked tasks depend on
    groups     the coupled variables, named after the modules that write them
"""
