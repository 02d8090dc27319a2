"""From a model to its graph: both modes are traced, made free of what the export baked in, and merged."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from hatify.capture.calls import is_level
from hatify.capture.constants import share_constants
from hatify.capture.decisions import Decision, decisions_of
from hatify.capture.derivatives import warn_of_own_derivatives
from hatify.capture.devices import follow_devices, follow_dtypes, follow_layouts
from hatify.capture.export import export
from hatify.capture.inputs import Arguments
from hatify.capture.ladder import Traces, trace, warn_of_chance, warn_of_lost_training
from hatify.capture.modes import merge_modes, restore_dropout
from hatify.capture.mutations import mutates, written
from hatify.capture.opaque import run_leaves
from hatify.capture.program import graph_of, has_infinite_entries
from hatify.capture.signature import CallSignature, canonical_arguments, forward_signature
from hatify.capture.sizes import fixed_size
from hatify.errors import CaptureWarning, warn

_ONE_AT_A_TIME = threading.RLock()  # what is set aside while a model is traced is the whole process's


@dataclass(frozen=True)
class Capture:
    """A captured model.

    graph: placeholders for the flat inputs; `get_attr` nodes, with `meta["role"]` ("parameter", "buffer" or
        "constant") and `meta["name"]`, for what the model holds; a tuple as output. Inputs, buffers and constants that
        hold infinity have `meta["infinite"]`. Calls have the path of their module in `meta["module_path"]`. What train
        and eval mode do differently follows the node `training`.
    constants: tensors and subgraphs that the graph holds beside the model's own, by name.
    lasting_state: the buffers that forward changes in eval mode, too.
    """

    graph: Graph
    signature: CallSignature
    constants: dict[str, Any]
    lasting_state: frozenset[str] = frozenset()


def capture(model: nn.Module, arguments: Arguments) -> Capture:
    """Capture `model`, called with `arguments`. The model is left as it was.

    Raises:
        InputError: the model fails on the example inputs.
        CaptureError: the model cannot be one graph; names the submodule and the line.
    """
    with _ONE_AT_A_TIME:
        signature = forward_signature(model.forward)
        arguments = canonical_arguments(signature, *arguments)
        traces = trace(model, arguments, export)
        warn_of_lost_training(model, traces)
        warn_of_chance(model, traces)
        warn_of_own_derivatives(model, arguments)
        return _merged(traces, signature, arguments)


def _merged(traces: Traces, signature: inspect.Signature, arguments: Arguments) -> Capture:
    """What both traces do, in one graph."""
    train, evaluation, constants = _graphs(traces)
    lasting_state = _changed_buffers(evaluation)
    call_signature = _call_signature(traces, train, evaluation, signature, arguments)
    _warn_of_fixed_batch(call_signature.shapes)
    graph = merge_modes(train, evaluation, same_outputs=call_signature.eval_outputs is None)
    run_leaves(graph, traces.leaves, constants)
    _make_portable(graph)
    for placeholder, value in zip(graph.find_nodes(op="placeholder"), pytree.tree_leaves(arguments), strict=True):
        placeholder.meta["infinite"] = has_infinite_entries(value)
    return Capture(graph, call_signature, constants, lasting_state)


def _call_signature(
    traces: Traces, train: Graph, evaluation: Graph, signature: inspect.Signature, arguments: Arguments
) -> CallSignature:
    """The model's calling convention. train, evaluation: the graphs of both traces."""
    flat, inputs = pytree.tree_flatten(arguments)
    outputs, eval_outputs = _outputs(traces.train), _outputs(traces.evaluation)
    return CallSignature(
        signature=signature,
        inputs=inputs,
        outputs=outputs,
        shapes=_shape_patterns(train, evaluation),
        constants=tuple(None if isinstance(value, torch.Tensor) else value for value in flat),
        decisions=_decisions(traces, train, evaluation),
        eval_outputs=None if eval_outputs == outputs else eval_outputs,
    )


def _decisions(traces: Traces, train: Graph, evaluation: Graph) -> tuple[Decision, ...]:
    """What forward decides by the sizes of its inputs, in both modes."""
    in_train = decisions_of(traces.train, train.find_nodes(op="placeholder"), training=True)
    in_eval = decisions_of(traces.evaluation, evaluation.find_nodes(op="placeholder"), training=False)
    return (*in_train, *in_eval)


def _graphs(traces: Traces) -> tuple[Graph, Graph, dict[str, Any]]:
    """The graphs of train and eval mode, and the constants that they read."""
    train, constants = graph_of(traces.train)
    evaluation, eval_constants = graph_of(traces.evaluation)
    restore_dropout(train, traces.eval_only)
    share_constants(constants, evaluation, eval_constants)
    return train, evaluation, constants


def _outputs(program: ExportedProgram) -> pytree.TreeSpec:
    """How the program's outputs flatten."""
    outputs = program.call_spec.out_spec
    assert outputs is not None
    return outputs


def _changed_buffers(graph: Graph) -> frozenset[str]:
    return frozenset(str(base.target) for base in written(graph) if base.meta.get("role") == "buffer")


def _make_portable(graph: Graph) -> None:
    """Undo what the export bakes in: devices, dtypes and layouts."""
    follow_devices(graph)
    follow_dtypes(graph)
    follow_layouts(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _acts(node))
    graph.lint()


def _acts(node: Node) -> bool:
    """Whether a call is there for what it does: it writes, or it opens or closes a level."""
    return mutates(node) or is_level(node)


def _shape_patterns(*graphs: Graph) -> tuple[tuple[int | None, ...] | None, ...]:
    """The shape of each input, with None where it may differ in all graphs; None for what is no tensor."""
    inputs = zip(*(graph.find_nodes(op="placeholder") for graph in graphs), strict=True)
    return tuple(_shape_pattern([node.meta.get("val") for node in nodes]) for nodes in inputs)


def _shape_pattern(values: Sequence[Any]) -> tuple[int | None, ...] | None:
    if not isinstance(values[0], torch.Tensor):
        return None
    sizes = zip(*(value.shape for value in values), strict=True)
    return tuple(next((size for size in map(fixed_size, same) if size is not None), None) for same in sizes)


def _warn_of_fixed_batch(shapes: Sequence[tuple[int | None, ...] | None]) -> None:
    batches = [shape[0] for shape in shapes if shape]
    if batches and None not in batches:
        warn(
            f"the batch size is part of the captured graph: it takes batches of {batches[0]} only. len(x) in forward "
            "does that (x.shape[0] does not), and so may another size that equals the example's: try another batch",
            CaptureWarning,
        )
