"""A trained task as a plain module of its own."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from hatify.capture.signature import CallSignature
from hatify.errors import ExtractionError
from hatify.extraction.families import load_families
from hatify.extraction.plain import PlainGraph
from hatify.extraction.smaller import without_removable_channels
from hatify.masks.registry import MaskRegistry
from hatify.ownership import dtype_of
from hatify.rewriting.root import owner_of


@torch.no_grad()
def extract(
    net: GraphModule, registry: MaskRegistry, signature: CallSignature, needed: dict[str, Tensor], task_id: int
) -> GraphModule:
    """The network of one task in eval mode, without the channels that its masks leave at zero.

    needed: for each shared parameter, the entries that the task depends on.
    The module's `staying` says, by module path, which unused channels stay all the same, and why.

    Raises:
        ExtractionError: forward calls something as it is, or there are no weights.
    """
    if any(parameter.is_meta for parameter in net.parameters()):
        raise ExtractionError("a network on the meta device has no masks to extract by: give it weights first")
    masks = {name: None if mask is None else mask.detach() for name, mask in registry(task_id, None).items()}
    plain = PlainGraph(
        net,
        masks,
        {id(net.get_parameter(name)): entries for name, entries in needed.items()},
        task_id,
        signature.outputs_in(training=False),
        dtype_of(net, registry),
    )
    load_families()
    graph, tensors, staying = without_removable_channels(plain)
    _take_calls(graph, signature)
    parameters = {name for name, _ in net.named_parameters(remove_duplicate=False)}
    extracted = GraphModule(_root(tensors, parameters), graph, class_name="ExtractedTask").eval()
    extracted.__dict__["staying"] = staying
    return extracted


def _take_calls(graph: Graph, signature: CallSignature) -> None:
    """Let the graph take arguments and give outputs in the model's own structure."""
    args, kwargs = pytree.tree_unflatten([None] * signature.inputs.num_leaves, signature.inputs)
    names = [*_names_of_positions(signature.signature, len(args)), *kwargs]
    outputs = signature.outputs if signature.eval_outputs is None else signature.eval_outputs
    graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, signature.inputs, outputs)))


def _names_of_positions(signature: inspect.Signature, count: int) -> list[str]:
    """The names of the first positional arguments; of `*args` one for each."""
    names: list[str] = []
    for name, parameter in signature.parameters.items():
        many = parameter.kind is parameter.VAR_POSITIONAL
        names += [f"{name}_{i}" for i in range(count - len(names))] if many else [name]
    return names[:count]


def _root(tensors: dict[str, Tensor], parameters: set[str]) -> nn.Module:
    """A tree of modules that holds the tensors under their names."""
    root = nn.Module()
    for name, value in tensors.items():
        owner, attribute = owner_of(root, name)
        if name in parameters:
            owner.register_parameter(attribute, nn.Parameter(value.clone()))
        else:
            owner.register_buffer(attribute, value.clone())
    return root
