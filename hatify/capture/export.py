"""Capture through torch.export: one graph at ATen level, before autograd, for train and eval mode."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from hatify.capture.decisions import FOUND, Decision, decisions_of, watched_questions
from hatify.capture.devices import follow_devices, follow_dtypes
from hatify.capture.grad_mode import inline_grad_modes
from hatify.capture.inputs import Arguments
from hatify.capture.ladder import Traces, trace, warn_of_lost_training
from hatify.capture.modes import merge_modes, restore_dropout
from hatify.capture.mutations import drop_counters, mutates, return_outputs
from hatify.capture.opaque import run_leaves
from hatify.capture.signature import CallSignature, canonical_arguments, forward_signature
from hatify.capture.sizes import fixed_size, numbers_fix_sizes
from hatify.capture.views import base_of
from hatify.errors import CaptureError, CaptureWarning


@dataclass(frozen=True)
class Capture:
    """A captured model.

    graph: placeholders for the flat inputs; `get_attr` nodes, with `meta["role"]` ("parameter", "buffer" or
        "constant") and `meta["name"]`, for what the model holds; a tuple as output. Calls have the path of their
        module in `meta["module_path"]`. What train and eval mode do differently follows the node `training`.
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
    signature = forward_signature(model.forward)
    arguments = canonical_arguments(signature, *arguments)
    traces = trace(model, arguments, _export)
    warn_of_lost_training(model, traces)
    train, evaluation, constants = _graphs(traces)
    lasting_state = _changed_buffers(evaluation)
    shapes = _shape_patterns(train, evaluation)
    _warn_of_fixed_batch(shapes)
    decisions = _decisions(traces, train, evaluation)
    in_train, in_eval = (_outputs(program) for program in (traces.train, traces.evaluation))
    graph = merge_modes(train, evaluation, same_outputs=in_train == in_eval)
    run_leaves(graph, traces.leaves, constants)
    _make_portable(graph)
    flat, inputs = pytree.tree_flatten(arguments)
    fixed = tuple(None if isinstance(value, torch.Tensor) else value for value in flat)
    eval_outputs = None if in_train == in_eval else in_eval
    call_signature = CallSignature(signature, inputs, in_train, shapes, fixed, decisions, eval_outputs)
    return Capture(graph, call_signature, constants, lasting_state)


def _decisions(traces: Traces, train: Graph, evaluation: Graph) -> tuple[Decision, ...]:
    """What forward decides by the sizes of its inputs, in both modes."""
    in_train = decisions_of(traces.train, train.find_nodes(op="placeholder"), training=True)
    in_eval = decisions_of(traces.evaluation, evaluation.find_nodes(op="placeholder"), training=False)
    return (*in_train, *in_eval)


def _graphs(traces: Traces) -> tuple[Graph, Graph, dict[str, Any]]:
    """The graphs of train and eval mode, and the constants that they read."""
    train, constants = _with_attributes(traces.train)
    evaluation, eval_constants = _with_attributes(traces.evaluation)
    restore_dropout(train, traces.eval_only)
    _share_constants(constants, evaluation, eval_constants)
    return train, evaluation, constants


def _outputs(program: ExportedProgram) -> pytree.TreeSpec:
    """How the program's outputs flatten."""
    outputs = program.call_spec.out_spec
    assert outputs is not None
    return outputs


def _export(model: nn.Module, arguments: Arguments) -> ExportedProgram:
    dynamic = pytree.tree_map(
        lambda v: {0: Dim.AUTO} if isinstance(v, torch.Tensor) and v.dim() > 0 else None, arguments
    )
    with warnings.catch_warnings(), _without_fused_attention(), _without_idle_conversions():
        # recurrent layers re-assign their weights in forward; the export restores them, but warns
        warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
        by_parameter = _by_parameter(model, *dynamic)
        with watched_questions() as questions, numbers_fix_sizes():
            program = torch.export.export(model, *arguments, dynamic_shapes=by_parameter, strict=False)
    program.graph_module.meta[FOUND] = questions
    return program


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch.export takes the dynamic shapes by the names of forward's parameters."""
    return dict(forward_signature(model.forward).bind(*args, **kwargs).arguments)


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """In eval mode nn.TransformerEncoder has a fused operator; without it, both modes are one graph."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _without_idle_conversions() -> Iterator[None]:
    """`self.layer.to(dtype)` in forward is refused by the export even where it changes nothing."""
    apply = nn.Module._apply

    def apply_unless_idle(module: nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
        held = [*module.parameters(recurse), *module.buffers(recurse)]
        like_them = [torch.empty(0, dtype=tensor.dtype, device=tensor.device) for tensor in held]
        idle = all(function(tensor) is tensor for tensor in like_them)
        return module if idle else apply(module, function, recurse)

    nn.Module._apply = apply_unless_idle  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


def _with_attributes(program: ExportedProgram) -> tuple[Graph, dict[str, Any]]:
    """The program's graph with parameters and buffers read by `get_attr` instead of passed as inputs."""
    inputs = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        mutated = [s.target for s in program.graph_signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
        raise CaptureError(f"forward replaces {mutated}, which is state that a captured graph cannot keep")
    constants: dict[str, Any] = {}
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and inputs[node.name].kind is not InputKind.USER_INPUT:
            spec = inputs[node.name]
            assert spec.target is not None
            if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER):
                constants[spec.target] = program.constants[spec.target]
            copies[node] = _read(graph, node, spec.target, spec.kind)
        elif node.op == "get_attr":
            constants[node.target] = getattr(program.graph_module, node.target)
            copies[node] = _read(graph, node, node.target, InputKind.CONSTANT_TENSOR)
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            copies[node].meta["module_path"] = _module_path(node)
    inline_grad_modes(graph, constants)
    return_outputs(graph)
    drop_counters(graph)
    _count_as_buffers(graph)
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph, constants


def _share_constants(constants: dict[str, Any], eval_graph: Graph, eval_constants: dict[str, Any]) -> None:
    """Add eval mode's constants to those of train mode: what is equal is one, and all have names of their own."""
    for node in [node for node in eval_graph.nodes if node.meta.get("role") == "constant"]:
        value = eval_constants[str(node.target)]
        own_name_first = sorted(constants, key=lambda name: name != node.target)
        equal = (name for name in own_name_first if _is_equal(value, constants[name]))
        taken = {*constants, *eval_constants}
        unused = (name for i in range(len(taken) + 1) if (name := f"{node.target}_{i}") not in taken)
        name = next(equal, None) or (next(unused) if node.target in constants else str(node.target))
        constants[name] = value
        node.target = node.meta["name"] = name


def _is_equal(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    same_kind = (one.dtype, one.shape, one.device) == (other.dtype, other.shape, other.device)
    return one is other or (same_kind and (one.is_meta or torch.equal(one, other)))


def _count_as_buffers(graph: Graph) -> None:
    """A tensor that the model holds without having registered it is a buffer, too, if forward writes to it."""
    for base in _written(graph):
        if base.meta.get("role") == "constant":
            base.meta["role"] = "buffer"


def _changed_buffers(graph: Graph) -> frozenset[str]:
    return frozenset(str(base.target) for base in _written(graph) if base.meta.get("role") == "buffer")


def _written(graph: Graph) -> set[Node]:
    return {base_of(node) for node in graph.nodes if mutates(node)}


def _make_portable(graph: Graph) -> None:
    """Undo what the export bakes in: devices and dtypes."""
    follow_devices(graph)
    follow_dtypes(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or _acts(node))
    graph.lint()


def _acts(node: Node) -> bool:
    """Whether a call is there for what it does: it writes, or it opens or closes a level of `torch.vmap`."""
    return mutates(node) or getattr(node.target, "__module__", "") == "torch._functorch.predispatch"


def _read(graph: Graph, node: Node, name: str, kind: InputKind) -> Node:
    roles = {InputKind.PARAMETER: "parameter", InputKind.BUFFER: "buffer"}
    read = graph.create_node("get_attr", name)
    read.meta = dict(node.meta, role=roles.get(kind, "constant"), name=name)
    return read


def _module_path(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else re.sub(r"@\d+", "", path)


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
        warnings.warn(
            f"the batch size is part of the captured graph: it takes batches of {batches[0]} only. len(x) in forward "
            "does that (x.shape[0] does not), and so may another size that equals the example's: try another batch",
            CaptureWarning,
            stacklevel=4,
        )
