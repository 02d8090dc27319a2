"""The strongest tests that the theorem allows: scramble every entry that is not locked, and count those."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hatify.module import HATModule


@torch.no_grad()
def perturb(model: nn.Module, scale: float = 0.05) -> None:
    """Move every parameter and statistic a little, so that no zero-initialised branch or head hides a difference."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(torch.randn_like(parameter) * scale)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.add_(torch.randn_like(buffer) * scale)
        elif name.endswith("running_var"):
            buffer.mul_(1 + scale * torch.rand_like(buffer))


@torch.no_grad()
def draw_masks(net: HATModule, task_id: int, density: float = 0.5) -> None:
    """Random binary masks for a task: `density` of each group's features (at least one)."""
    for group in net.registry.groups.values():
        embedding = group.embedding(task_id)
        chosen = torch.randperm(group.num_features, device=embedding.device)
        embedding.fill_(-1.0)
        embedding[chosen[: max(1, round(density * group.num_features))]] = 1.0


@torch.no_grad()
def scramble(net: HATModule, task_id: int, scale: float = 10.0) -> None:
    """Overwrite with N(0, scale) every parameter entry that training `task_id` may move; whole numbers cannot train."""
    parameters = dict(net.named_parameters())
    for name, lock in net.lock_masks(task_id).items():
        parameter = parameters[name]
        if not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        noise = torch.randn_like(parameter) * scale
        parameter.copy_(torch.where(lock, parameter, noise))


@torch.no_grad()
def with_all_features(net: HATModule) -> HATModule:
    """A copy whose last task is a new one that uses all features: it is the network with no task."""
    trial = copy.deepcopy(net)
    trial.add_tasks(1)
    for embedding in trial.registry.task_embeddings(trial.num_tasks - 1):
        embedding.fill_(1.0)
    return trial


def plastic_share(net: HATModule, task_id: int) -> float:
    """The share of the shared parameters' entries that `task_id` may train.

    Shared is what forward reads and is kept neither once a task nor as an embedding.
    """
    free = total = 0
    locks = net.lock_masks(task_id)
    for name in set(net.shared_parameters()) - net.blueprint.unread:
        free += int((~locks[name]).sum())
        total += locks[name].numel()
    return free / total if total else 1.0


def parameter_growth(net: HATModule, model: nn.Module) -> float:
    """The network's parameters over the model's, heads aside."""
    heads = sum(p.numel() for layer in net.head_layers() for p in layer.parameters())
    base = sum(p.numel() for layer in net.head_layers() for p in layer.parameters(recurse=False))
    own = sum(p.numel() for p in net.parameters())
    return (own - heads) / (sum(p.numel() for p in model.parameters()) - base)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value; of whole numbers and truth values, too."""
    actual, expected = (_numbers(tensor.detach()) for tensor in (actual, expected))
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def _numbers(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.double()
