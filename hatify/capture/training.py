"""Train-only behaviour that the export bakes in comes back as behaviour of train mode.

The flag `training` is an edge of the graph again, read from the converted module.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.fx import Graph, Node

from hatify.errors import CaptureWarning

aten = torch.ops.aten

DROPOUTS = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
    aten.alpha_dropout_.default,
    aten.feature_alpha_dropout.default,
    aten.feature_alpha_dropout_.default,
    aten.rrelu.default,
    aten.rrelu_.default,
}

RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}

# Norms with running statistics use the batch's in train mode only; without, always.
NORMS = {aten.batch_norm.default: "training", aten.instance_norm.default: "use_input_stats"}

# Randomness that a model draws by itself in train mode and that eval mode must not see.
RANDOM = {
    aten.rand.default,
    aten.rand_like.default,
    aten.randn.default,
    aten.randn_like.default,
    aten.bernoulli.default,
    aten.bernoulli.p,
    aten.randint.default,
    aten.randperm.default,
}


def when_training(training: bool, value: Any, otherwise: Any) -> Any:
    """A value that only train mode uses, such as a drop probability."""
    return value if training else otherwise


def restore_training(graph: Graph) -> None:
    """Rewrite what train mode alone does, in place.

    Warns:
        CaptureWarning: random numbers that no rule here knows; eval mode will draw them too.
    """
    flag = _add_flag(graph)
    for node in list(graph.nodes):
        target = node.target
        if target in DROPOUTS:
            _set(node, "train" if target not in (aten.rrelu.default, aten.rrelu_.default) else "training", flag)
        elif target in RECURRENT:
            _set(node, "train", flag)
        elif target in NORMS and _get(node, "running_mean") is not None:
            _set(node, NORMS[target], flag)
        elif target is aten.scaled_dot_product_attention.default and _get(node, "dropout_p"):
            _replace(node, "dropout_p", _only_training(graph, node, flag, _get(node, "dropout_p"), 0.0))
        elif target is aten.bernoulli_.float:
            _restore_stochastic_depth(graph, node, flag)
        elif target in RANDOM:
            _warn_of_randomness(node)
    if not flag.users:
        graph.erase_node(flag)


def _add_flag(graph: Graph) -> Node:
    with graph.inserting_before(next(iter(graph.nodes))):
        flag = graph.create_node("get_attr", "training")
    flag.meta["role"] = "flag"
    return flag


def _restore_stochastic_depth(graph: Graph, drawn: Node, flag: Node) -> None:
    """`x * bernoulli(keep) / keep` keeps everything in eval mode."""
    keep = drawn.args[1] if len(drawn.args) > 1 else drawn.kwargs.get("p", 0.5)
    kept = _only_training(graph, drawn, flag, keep, 1.0)
    drawn.args, drawn.kwargs = (drawn.args[0], kept), {}
    for user in list(drawn.users):
        if user.target in (aten.div_.Tensor, aten.div.Tensor) and user.args[1] == keep:
            user.update_arg(1, kept)


def _only_training(graph: Graph, node: Node, flag: Node, value: Any, otherwise: Any) -> Node:
    with graph.inserting_before(node):
        return graph.call_function(when_training, (flag, value, otherwise))


def _warn_of_randomness(node: Node) -> None:
    warnings.warn(
        f"{node.meta.get('module_path') or 'the model'} draws random numbers ({node.target}): "
        "the converted network draws them in eval mode too",
        CaptureWarning,
        stacklevel=6,
    )


def _set(node: Node, name: str, flag: Node) -> None:
    """Let an argument that was captured as True follow the flag; a model that passes False means it."""
    if _get(node, name) is True:
        _replace(node, name, flag)


def _get(node: Node, name: str) -> Any:
    position = _position(node, name)
    return node.args[position] if position < len(node.args) else node.kwargs.get(name)


def _replace(node: Node, name: str, value: Any) -> None:
    position = _position(node, name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def _position(node: Node, name: str) -> int:
    assert isinstance(node.target, torch._ops.OpOverload)
    return next(i for i, argument in enumerate(node.target._schema.arguments) if argument.name == name)
