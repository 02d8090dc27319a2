"""From a converted network to a plain module for one task, with the channels removed that the task does not use.

extract     all of it, from a network to a module
plain       the network of one task: its masks and its parameters as constants, eval mode, PyTorch's operators only
families    what is known of operators, one file a family
registry    the families by operator
channels    which output channels of the weights are zero, where they go, and which have to stay
smaller     the same network without the others
operators   what becomes of operators that plain modules have no use for
exporting   a task as a program in a file
"""
