"""Capture through torch.export: one graph at ATen level, before autograd, for train and eval mode."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from hatify.capture.devices import follow_devices, follow_dtypes
from hatify.capture.grad_mode import inline_grad_modes
from hatify.capture.inputs import Arguments
from hatify.capture.modes import merge_modes
from hatify.capture.mutations import drop_counters, mutates, return_outputs
from hatify.capture.signature import CallSignature, canonical_arguments, forward_signature
from hatify.capture.views import base_of
from hatify.errors import CaptureError, InputError


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
    args, kwargs = canonical_arguments(signature, *arguments)
    train, evaluation = (_export(model, args, kwargs, training) for training in (True, False))
    graph, constants = _with_attributes(train)
    eval_graph, eval_constants = _with_attributes(evaluation)
    _share_constants(constants, eval_graph, eval_constants)
    lasting_state = _changed_buffers(eval_graph)
    in_train, in_eval = train.call_spec.out_spec, evaluation.call_spec.out_spec
    assert in_train is not None and in_eval is not None
    shapes = _shape_patterns(graph, eval_graph)
    graph = merge_modes(graph, eval_graph, same_outputs=in_train == in_eval)
    _make_portable(graph)
    flat, inputs = pytree.tree_flatten((args, kwargs))
    fixed = tuple(None if isinstance(value, torch.Tensor) else value for value in flat)
    eval_outputs = None if in_train == in_eval else in_eval
    call_signature = CallSignature(signature, inputs, in_train, shapes, fixed, eval_outputs)
    return Capture(graph, call_signature, constants, lasting_state)


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> ExportedProgram:
    with _mode(model, training), _without_fused_attention():
        return _traced(model, args, kwargs)


def _traced(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    dynamic = pytree.tree_map(
        lambda v: {0: Dim.AUTO} if isinstance(v, torch.Tensor) and v.dim() > 0 else None, (args, kwargs)
    )
    try:
        with warnings.catch_warnings():
            # recurrent layers re-assign their weights in forward; the export restores them, but warns
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")
            return torch.export.export(model, args, kwargs, dynamic_shapes=_by_parameter(model, *dynamic), strict=False)
    except Exception as error:
        _check_runs(model, args, kwargs)
        raise CaptureError(_explain(model, error)) from error


def _by_parameter(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """torch.export takes the dynamic shapes by the names of forward's parameters."""
    return dict(forward_signature(model.forward).bind(*args, **kwargs).arguments)


def _check_runs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Tell example inputs that do not fit from a model that cannot be captured."""
    training = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers() if not buffer.is_meta}
    try:
        model.eval()
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"the model fails on the example inputs {_shapes(args, kwargs)}: "
            f"{type(error).__name__}: {_first_line(error)} ({_where(model, error)})"
        ) from error
    finally:
        for module, flag in training.items():
            module.training = flag
        for name, buffer in model.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """All modules in train mode, or all in eval mode; afterwards each as it was."""
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = training
        yield
    finally:
        for module, flag in before.items():
            module.training = flag


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    """In eval mode nn.TransformerEncoder has a fused operator; without it, both modes are one graph."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph, constants


def _share_constants(constants: dict[str, Any], eval_graph: Graph, eval_constants: dict[str, Any]) -> None:
    """Add eval mode's constants to those of train mode: what is equal is one, and all have names of their own."""
    for node in [node for node in eval_graph.nodes if node.meta.get("role") == "constant"]:
        value = eval_constants[str(node.target)]
        equal = (name for name, other in constants.items() if _is_equal(value, other))
        taken = {*constants, *eval_constants}
        unused = (name for i in range(len(taken) + 1) if (name := f"{node.target}_{i}") not in taken)
        name = next(equal, None) or (next(unused) if node.target in constants else str(node.target))
        constants[name] = value
        node.target = node.meta["name"] = name


def _is_equal(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    return one is other or (one.dtype == other.dtype and torch.equal(one, other))


def _changed_buffers(graph: Graph) -> frozenset[str]:
    bases = (base_of(node) for node in graph.nodes if mutates(node))
    return frozenset(str(base.target) for base in bases if base.meta.get("role") == "buffer")


def _make_portable(graph: Graph) -> None:
    """Undo what the export bakes in: devices and dtypes."""
    follow_devices(graph)
    follow_dtypes(graph)
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or mutates(node))
    graph.lint()


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
    inputs = zip(*([node for node in graph.nodes if node.op == "placeholder"] for graph in graphs), strict=True)
    return tuple(_shape_pattern([node.meta.get("val") for node in nodes]) for nodes in inputs)


def _shape_pattern(values: Sequence[Any]) -> tuple[int | None, ...] | None:
    if not isinstance(values[0], torch.Tensor):
        return None
    sizes = zip(*(value.shape for value in values), strict=True)
    return tuple(next((size for size in same if isinstance(size, int)), None) for same in sizes)


def _explain(model: nn.Module, error: Exception) -> str:
    return (
        f"cannot capture {type(model).__name__} as one graph: {type(error).__name__}: {_first_line(error)} "
        f"({_where(model, error)}). Control flow there must not depend on the values of tensors: make it "
        "arithmetic (torch.where), or convert the parts of the model around it"
    )


def _where(model: nn.Module, error: BaseException) -> str:
    """The innermost submodule and the innermost line outside PyTorch that the error went through."""
    names = {id(module): name for name, module in model.named_modules()}
    library = Path(torch.__file__).parent
    submodule, line = "", ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if id(owner) in names and isinstance(owner, nn.Module):
            submodule = f"{names[id(owner)] or 'the model'}, {type(owner).__name__}"
        path = Path(frame.f_code.co_filename)
        if library not in path.parents and path != Path(__file__) and "hatify" not in path.parts[-3:-1]:
            line = f"{path.name}:{number} in {frame.f_code.co_name}"
    return f"in {submodule or type(model).__name__}, {line or 'inside PyTorch'}"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def shape(value: Any) -> Any:
        return tuple(value.shape) if isinstance(value, torch.Tensor) else value

    described = [str(shape(v)) for v in args] + [f"{k}={shape(v)}" for k, v in kwargs.items()]
    return ", ".join(described)
