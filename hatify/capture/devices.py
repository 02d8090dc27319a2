"""Devices, dtypes and memory layouts that the export bakes in follow the inputs, and the kernels, again."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from hatify.capture.calls import given_arguments

aten = torch.ops.aten

# What leaves a tensor in its memory, and a view of that.
MOVES = {aten.transpose.int, aten.permute.default, aten.view.default, aten.dropout.default, aten.select.int}

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
                node.prepend(state)  # forward may have made it before the operand
                with graph.inserting_before(state):
                    dtype = graph.call_function(getattr, (operand, "dtype"))
                state.update_kwarg("dtype", dtype)


def follow_layouts(graph: Graph) -> None:
    """Attention's result lies in memory as its kernel has it; the export saw one kernel, and left out `contiguous()`
    where that has nothing to do.
    """
    lies_anyhow: set[Node] = set()
    for node in graph.nodes:
        is_moved = node.target in MOVES and node.args[0] in lies_anyhow
        if is_moved and node.target is aten.view.default:
            node.target = aten.reshape.default
        elif is_moved or node.target is aten.scaled_dot_product_attention.default:
            lies_anyhow.add(node)


def _cast_only(graph: Graph, node: Node) -> None:
    """`x.to(dtype, device)` to the device that it is on anyway: only the dtype is meant, and a memory format."""
    kept = {name: value for name, value in given_arguments(node).items() if name == "memory_format"}
    with graph.inserting_before(node):
        cast = graph.call_function(aten.to.dtype, (node.args[0], node.meta["val"].dtype), kept)
    cast.meta = dict(node.meta)
    node.replace_all_uses_with(cast)
    graph.erase_node(node)
