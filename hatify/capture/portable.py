"""Undo what torch.export bakes into a graph.

Training mode becomes an edge again (`training`, read from the converted module), devices follow the inputs, and the
aliases of in-place operators are followed, so that each later use reads the mutated value.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node

from hatify.errors import CaptureError, CaptureWarning

aten = torch.ops.aten

TRAINING_ARGUMENTS = ("train", "training")

# Randomness that a model draws by itself in train mode and that eval mode must not see.
RANDOM_OPERATORS = {
    aten.rand.default,
    aten.rand_like.default,
    aten.randn.default,
    aten.randn_like.default,
    aten.bernoulli.default,
    aten.bernoulli.p,
    aten.randint.default,
    aten.randperm.default,
}

RECURRENT_OPERATORS = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}


def when_training(training: bool, value: Any, otherwise: Any) -> Any:
    """A value that only train mode uses, such as a drop probability."""
    return value if training else otherwise


def make_portable(graph: Graph) -> None:
    """Rewrite `graph` in place."""
    _follow_mutations(graph)
    _drop_counters(graph)
    _restore_training(graph)
    _follow_devices(graph)
    _follow_dtypes(graph)
    graph.eliminate_dead_code(_is_impure)
    graph.lint()


def _is_impure(node: Node) -> bool:
    return node.op in ("placeholder", "output") or _mutates(node)


def _mutates(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _follow_mutations(graph: Graph) -> None:
    """Let later users of a mutated tensor read the operator's result, which is the same memory."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not _mutates(node) or node.target._schema.name in ("aten::batch_norm", "aten::instance_norm"):
            continue
        mutated = node.args[0]
        if not isinstance(mutated, Node):
            continue
        for user in [user for user in mutated.users if position[user] > position[node]]:
            user.replace_input_with(mutated, node)
        _refuse_mutated_views(mutated, node, position)


def _refuse_mutated_views(mutated: Node, node: Node, position: dict[Node, int]) -> None:
    """A view that is written to also writes its base, which no edge of the graph would show."""
    base = mutated
    while base.op == "call_function" and _is_view(base) and isinstance(base.args[0], Node):
        base = base.args[0]
        if base.op != "get_attr" and any(position[user] > position[node] for user in base.users):
            raise CaptureError(
                f"forward writes into a part of a tensor that it reads again ({node.name}, in "
                f"{node.meta.get('module_path') or 'the model'}); write it without the in-place assignment"
            )


def _is_view(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(r.alias_info is not None for r in target._schema.returns)


def _drop_counters(graph: Graph) -> None:
    """Batch norm counts its own batches (see `rewriting.layers`)."""
    for node in list(graph.nodes):
        counts = node.target is aten.add_.Tensor and node.args[0].meta.get("role") == "buffer"
        if counts and node.args[0].target.endswith("num_batches_tracked") and not node.users:
            graph.erase_node(node)


def _restore_training(graph: Graph) -> None:
    flag: Node | None = None

    def training() -> Node:
        nonlocal flag
        if flag is None:
            with graph.inserting_before(next(iter(graph.nodes))):
                flag = graph.create_node("get_attr", "training")
            flag.meta["role"] = "flag"
        return flag

    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        for name in TRAINING_ARGUMENTS:
            _replace_argument(node, name, lambda value: training() if value is True else value)
        if node.target is aten.scaled_dot_product_attention.default:
            _restore_attention_dropout(graph, node, training)
        elif node.target is aten.bernoulli_.float:
            _restore_stochastic_depth(graph, node, training)
        elif node.target in RANDOM_OPERATORS:
            warnings.warn(
                f"{node.meta.get('module_path') or 'the model'} draws random numbers ({node.target}): "
                "they are drawn in eval mode too",
                CaptureWarning,
                stacklevel=4,
            )


def _restore_attention_dropout(graph: Graph, node: Node, training: Callable[[], Node]) -> None:
    _replace_argument(node, "dropout_p", lambda p: _only_training(graph, node, training, p, 0.0) if p else p)


def _restore_stochastic_depth(graph: Graph, drawn: Node, training: Callable[[], Node]) -> None:
    """`x * bernoulli(keep) / keep` keeps everything in eval mode."""
    keep = drawn.args[1] if len(drawn.args) > 1 else drawn.kwargs.get("p", 0.5)
    kept = _only_training(graph, drawn, training, keep, 1.0)
    drawn.args, drawn.kwargs = (drawn.args[0], kept), {}
    for user in list(drawn.users):
        if user.target in (aten.div_.Tensor, aten.div.Tensor) and user.args[1] == keep:
            user.update_arg(1, kept)


def _only_training(graph: Graph, node: Node, training: Callable[[], Node], value: Any, otherwise: Any) -> Node:
    flag = training()
    with graph.inserting_before(node):
        return graph.call_function(when_training, (flag, value, otherwise))


def _replace_argument(node: Node, name: str, replace: Callable[[Any], Any]) -> None:
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for position, argument in enumerate(node.target._schema.arguments):
        if argument.name != name:
            continue
        if name in node.kwargs:
            node.update_kwarg(name, replace(node.kwargs[name]))
        elif position < len(node.args):
            node.update_arg(position, replace(node.args[position]))


def _follow_devices(graph: Graph) -> None:
    """Tensors made in the graph live where the first input lives; checks of device and dtype go."""
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
    inputs = [n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), torch.Tensor)]
    if not inputs:
        return
    captured = inputs[0].meta["val"].device
    device: Node | None = None
    for node in list(graph.nodes):
        if node.op != "call_function" or not _names_device(node, captured):
            continue
        if node.target in (aten.to.dtype_layout, aten.to.device):
            _replace_to(graph, node)
            continue
        if device is None:
            with graph.inserting_after(inputs[-1]):
                device = graph.call_function(getattr, (inputs[0], "device"))
        node.update_kwarg("device", device)


def _follow_dtypes(graph: Graph) -> None:
    """Initial states that a recurrent layer makes for itself have its input's dtype."""
    for node in list(graph.nodes):
        if node.target not in RECURRENT_OPERATORS:
            continue
        operand, states = node.args[:2]
        for state in states if isinstance(states, list | tuple) else [states]:
            if state.target is aten.zeros.default and len(state.users) == 1:
                with graph.inserting_before(state):
                    dtype = graph.call_function(getattr, (operand, "dtype"))
                state.update_kwarg("dtype", dtype)


def _names_device(node: Node, captured: torch.device) -> bool:
    return captured in (*node.args, *node.kwargs.values())


def _replace_to(graph: Graph, node: Node) -> None:
    """`x.to(dtype, device)` to the device that it is on anyway: only the dtype is meant."""
    value = node.meta["val"]
    with graph.inserting_before(node):
        cast = graph.call_function(aten.to.dtype, (node.args[0], value.dtype))
    cast.meta = dict(node.meta)
    node.replace_all_uses_with(cast)
    graph.erase_node(node)
