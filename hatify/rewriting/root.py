"""A tree of modules that holds the model's parameters, buffers and constants under their names, and no code."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hatify.rewriting.layers import HATLayer


def copy_tensors(model: nn.Module, constants: dict[str, Any]) -> nn.Module:
    """A tree with copies of all tensors; what the model shares is shared, under all its names."""
    root = nn.Module()
    copies: dict[int, Any] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in copies:
            copy = parameter.detach().clone()
            copies[id(parameter)] = nn.Parameter(copy, requires_grad=parameter.requires_grad)
        owner, attribute = owner_of(root, name)
        owner.register_parameter(attribute, copies[id(parameter)])
    transient = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    for name, buffer in model.named_buffers(remove_duplicate=False):
        copies.setdefault(id(buffer), buffer.detach().clone())
        owner, attribute = owner_of(root, name)
        owner.register_buffer(attribute, copies[id(buffer)], persistent=name not in transient)
    for name, value in constants.items():
        owner, attribute = owner_of(root, name)
        if isinstance(value, torch.Tensor):
            owner.register_buffer(attribute, value.detach().clone(), persistent=False)
        else:
            setattr(owner, attribute, value)
    root.training = model.training
    return root


def keep_unread(net: nn.Module, root: nn.Module) -> None:
    """Let a network hold what its graph does not read of the tree, under its name, so that state dicts stay compatible.

    Its modules are in the modes that the tree's are in.
    """
    held = dict(net.named_modules(remove_duplicate=False))
    for path, module in root.named_modules(remove_duplicate=False):
        if path in held:
            _keep_tensors(held[path], module)
            continue
        owner, _, name = path.rpartition(".")
        held[owner].add_module(name, module)
        held.update(module.named_modules(prefix=path, remove_duplicate=False))


def _keep_tensors(own: nn.Module, module: nn.Module) -> None:
    own.training = module.training
    for name, parameter in module._parameters.items():
        if name not in own._parameters:
            own.register_parameter(name, parameter)
    for name, buffer in module._buffers.items():
        is_transient = name in module._non_persistent_buffers_set
        if name not in own._buffers:
            own.register_buffer(name, buffer, persistent=not is_transient)
        elif is_transient:
            own._non_persistent_buffers_set.add(name)


def layer_at(root: nn.Module, path: str) -> HATLayer:
    """The HAT layer at a path; a plain node of the tree there becomes one, with all that it holds."""
    owner, attribute = owner_of(root, path)
    existing = owner._modules.get(attribute)
    if isinstance(existing, HATLayer):
        return existing
    layer = HATLayer()
    layer.training = root.training
    if existing is not None:
        layer._parameters.update(existing._parameters)
        layer._buffers.update(existing._buffers)
        layer._non_persistent_buffers_set.update(existing._non_persistent_buffers_set)
        layer._modules.update(existing._modules)
    owner.add_module(attribute, layer)
    return layer


def owner_of(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The node of the tree that holds `name`, made where it is missing, and the attribute there."""
    path, _, attribute = name.rpartition(".")
    node = root
    for part in path.split(".") if path else ():
        if part not in node._modules:
            child = nn.Module()
            child.training = root.training
            node.add_module(part, child)
        child_or_none = node._modules[part]
        assert child_or_none is not None
        node = child_or_none
    return node, attribute
