"""Networks that HAT-CL has trained: `load_resnet` reads the state dicts of its ResNets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from hatify.checkpoints.matching import matched, without_prefix
from hatify.checkpoints.reading import read_state_dict
from hatify.conversion import hatify
from hatify.errors import CheckpointError, first_few
from hatify.gated_sum import gated_sum
from hatify.module import HATModule
from hatify.output import PathLike

ATTENTION = re.compile(r"(.+)\.masker\.attention\.(\d+)")
TRAINED = "conv1.masker._task_trained"  # every masker has the same
NORM = re.compile(r"(.*(?:bn\d|downsample\.1))\.(\d+)\.(\w+)")
BLOCK = re.compile(r"layer(\d)\.(\d+)\.conv1\.weight")
HEAD = "fc"


class GatedBlock(BasicBlock):
    """timm's basic block with HAT-CL's sum: the mask of the block's last layer gates what the block hands on."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.act1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.act2(gated_sum(branch, shortcut))


def load_resnet(path: PathLike, *, image_size: tuple[int, int] | None = None) -> HATModule:
    """A `hat_resnet18`, `hat_resnet34` or one of their forms for small images (`hat_resnet18s`), with all its tasks.

    path: its state dict, as `torch.save` or safetensors wrote it; nothing in the file is run. A prefix of all names
        (`module.` of DataParallel) is taken off.
    image_size: height and width of the images; default: 224 x 224, and 32 x 32 for the forms for small images.

    Each trained task gives the logits that HAT-CL gives for it, up to rounding, and is locked from now on; the others
    can be trained. HAT-CL masks logits, too: here each task's head has zeros where its mask had them. What HAT-CL
    computed for no task, `net(x)` computes. Options that leave no trace in a state dict (another activation or
    pooling) are not restored.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is no ResNet of HAT-CL.
    """
    needed = (TRAINED, "conv1.weight", "fc.weight", *(f"layer{stage}.0.conv1.weight" for stage in range(1, 5)))
    tensors = without_prefix(read_state_dict(path), needed)
    attention = [match for name in tensors if (match := ATTENTION.fullmatch(name))]
    missing = [name for name in needed if name not in tensors]
    if not attention or missing:
        lack = first_few(missing or ["maskers"])
        raise CheckpointError(f"{str(path)!r} is no state dict of HAT-CL's ResNets: it lacks {lack}")
    num_tasks = 1 + max(int(match[2]) for match in attention)
    model, images = _resnet(tensors, image_size)
    net = hatify(model, num_tasks=num_tasks, example_inputs=(images,))
    net.registry.trained = torch.nonzero(tensors[TRAINED]).flatten().tolist()
    net.load_state_dict(matched(dict(_renamed(tensors, net, num_tasks)), net, str(path)), strict=False)
    return net


def _resnet(tensors: Mapping[str, Tensor], image_size: tuple[int, int] | None) -> tuple[nn.Module, Tensor]:
    """A ResNet of the checkpoint's sizes, without its weights, and a batch of two images for it."""
    places = [(int(match[1]), int(match[2])) for name in tensors if (match := BLOCK.fullmatch(name))]
    depths = tuple(sum(stage == number for stage, _ in places) for number in range(1, 5))
    channels, kernel = tensors["conv1.weight"].shape[1:3]
    block: Any = GatedBlock
    model: nn.Module = ResNet(block, depths, num_classes=len(tensors["fc.weight"]), in_chans=channels)
    if kernel == 7:
        return model, torch.zeros(2, channels, *(image_size or (224, 224)))
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    return model, torch.zeros(2, channels, *(image_size or (32, 32)))


def _renamed(tensors: Mapping[str, Tensor], net: HATModule, num_tasks: int) -> Iterable[tuple[str, Tensor]]:
    """The checkpoint's tensors by the network's names; what the network has no place for keeps its own."""
    yield "registry._extra_state", net.registry.get_extra_state()
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = net.registry.groups
    for name, tensor in tensors.items():
        if match := ATTENTION.fullmatch(name):
            if match[1] != HEAD:
                group = groups.get(match[1])
                yield (name_of[id(group.embedding(int(match[2])))] if group is not None else name), tensor
        elif match := NORM.fullmatch(name):
            path, index, attribute = match[1], int(match[2]), match[3]
            yield (f"{path}.{attribute}" if index == num_tasks else f"{path}.per_task.{index}.{attribute}"), tensor
        elif name in ("fc.weight", "fc.bias"):
            yield name, tensor
            for task in range(num_tasks):
                yield f"fc.per_task.{task}.{name.removeprefix('fc.')}", tensor * _mask_of_logits(tensors, task, tensor)
        elif not name.endswith("._task_trained"):
            yield name, tensor


def _mask_of_logits(tensors: Mapping[str, Tensor], task: int, like: Tensor) -> Tensor:
    """HAT-CL's mask of a task's logits: of one that was not trained none yet, nor where the head was left plain."""
    attention = tensors.get(f"{HEAD}.masker.attention.{task}")
    if attention is None or not tensors[TRAINED][task]:
        return torch.ones((), dtype=like.dtype)
    mask = attention > 0
    return mask.to(like.dtype).reshape(-1, *[1] * (like.dim() - 1))
