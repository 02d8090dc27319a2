"""A network as plain data (JSON and tensors), from which it can be built again without its model and without pickle.

values     what calls, settings and conventions consist of, as JSON
targets    what a graph may call, by name
sizes      the shapes that were seen at capture
graphs     a graph, node by node
contents   all of a network
"""
