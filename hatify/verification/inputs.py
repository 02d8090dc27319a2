"""A call of a network, made up from its signature."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

from hatify.capture.inputs import Arguments
from hatify.errors import InputError
from hatify.module import HATModule
from hatify.ownership import dtype_of

BATCH = 3
LARGEST_INDEX = 1  # whatever integers are (indices, masks, lengths), 0 and 1 are most likely among them


def made_up_call(net: HATModule, seed: int = 0) -> Arguments:
    """Arguments of the shapes and dtypes that the network was captured with: N(0, 1), or 0 and 1 for whole numbers.

    Raises:
        InputError: the network takes only some values (lengths above zero, say).
    """
    signature = net.blueprint.signature
    generator = torch.Generator().manual_seed(seed)
    placeholders = net.graph.find_nodes(op="placeholder")[: len(signature.shapes)]
    device = next((parameter.device for parameter in net.parameters()), None)
    dtype = dtype_of(net, net.registry)
    flat = [
        constant if shape is None else _drawn(node, shape, generator, dtype).to(device)
        for node, shape, constant in zip(placeholders, signature.shapes, signature.constants, strict=True)
    ]
    args, kwargs = pytree.tree_unflatten(flat, signature.inputs)
    try:
        with torch.no_grad():
            copy.deepcopy(net).eval()(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"the network does not run on inputs that are made up ({type(error).__name__}: {error}); "
            "give example_inputs, on which it does"
        ) from error
    return args, kwargs


def _drawn(node: Node, shape: tuple[int | None, ...], generator: torch.Generator, own: torch.dtype) -> Tensor:
    """own: what the network computes with; one that was given other numbers than float32 takes them as inputs, too."""
    captured = node.meta["val"].dtype
    dtype = own if captured is torch.float32 else captured
    sizes = [BATCH if size is None else size for size in shape]
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(sizes, dtype=dtype, generator=generator)
    return torch.randint(LARGEST_INDEX + 1, sizes, generator=generator).to(dtype)
