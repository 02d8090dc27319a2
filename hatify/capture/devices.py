"""Devices and dtypes that the export bakes in follow the inputs again."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}


def follow_devices(graph: Graph) -> None:
    """Tensors made in the graph live where the first input lives; checks of device and dtype go."""
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor)]
    if not inputs:
        return
    captured = inputs[0].meta["val"].device
    with graph.inserting_after(inputs[-1]):
        device = graph.call_function(getattr, (inputs[0], "device"))
    for node in list(graph.nodes):
        if node.op != "call_function" or captured not in (*node.args, *node.kwargs.values()):
            continue
        if node.target in (aten.to.dtype_layout, aten.to.device):
            _cast_only(graph, node)
        else:
            node.update_kwarg("device", device)
    if not device.users:
        graph.erase_node(device)


def follow_dtypes(graph: Graph) -> None:
    """Initial states that a recurrent layer makes for itself have its input's dtype."""
    for node in list(graph.nodes):
        if node.target not in RECURRENT:
            continue
        operand, states = node.args[:2]
        for state in states if isinstance(states, list | tuple) else [states]:
            if state.target is aten.zeros.default and len(state.users) == 1:
                with graph.inserting_before(state):
                    dtype = graph.call_function(getattr, (operand, "dtype"))
                state.update_kwarg("dtype", dtype)


def _cast_only(graph: Graph, node: Node) -> None:
    """`x.to(dtype, device)` to the device that it is on anyway: only the dtype is meant."""
    value = node.meta["val"]
    with graph.inserting_before(node):
        cast = graph.call_function(aten.to.dtype, (node.args[0], value.dtype))
    cast.meta = dict(node.meta)
    node.replace_all_uses_with(cast)
    graph.erase_node(node)
