"""A model in three forms that do the same work: plain, converted, and converted with a gate of its own a layer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hatify.analysis.plan import GatePlan, Plan, analyse
from hatify.capture.capture import capture
from hatify.config import HATConfig
from hatify.conversion import build
from hatify.module import HATModule
from hatify.verification.trials import draw_masks
from rewriters import load_rules

FORMS = ("plain", "converted", "unfolded")
CHANNELS_FIRST = ("conv", "batch_norm", "group_norm")
NUM_CLASSES = 100
DENSITY = 0.4  # the share of each group's features that each trained task has


@dataclass(frozen=True)
class Setting:
    """What a step is timed on. autocast: in bfloat16. compile_mode: of torch.compile; None: eager."""

    name: str
    batch: int
    device: str = "cpu"
    autocast: bool = False
    compile_mode: str | None = None


@dataclass(frozen=True)
class Contender:
    """One form of a model.

    train_step: forward, backward, regularizer, optimizer and guard. infer: one forward pass under a task's masks.
    """

    network: nn.Module
    images: Tensor
    train_step: Callable[[], None]
    infer: Callable[[], None]


def contender(setting: Setting, form: str, stack: ExitStack, trained: int = 2) -> Contender:
    """A form of the model, which learns task `trained` after as many others until the stack is left."""
    torch.manual_seed(0)
    model = timm.create_model(setting.name, num_classes=NUM_CLASSES).to(setting.device)
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(setting.batch, *size, device=setting.device)
    labels = torch.randint(NUM_CLASSES, (setting.batch,), device=setting.device)
    if form == "plain":
        return _contender(setting, model, images, labels)
    net = converted(model, images[:2], trained + 1, folded=form == "converted")
    for task_id in range(trained):
        draw_masks(net, task_id, DENSITY)
        net.registry.trained.append(task_id)
    task = stack.enter_context(net.learn(trained, steps=10**6))
    return _contender(setting, net, images, labels, lambda: 0.75 * task.regularization(), {"task_id": 0})


def extracted_task(setting: Setting, contender: Contender) -> Contender:
    """Task 0 as a plain module."""
    module = contender.network.extract(0)  # type: ignore[operator]
    labels = torch.zeros(setting.batch, dtype=torch.int64, device=setting.device)
    return _contender(setting, module, contender.images, labels)


def converted(model: nn.Module, images: Tensor, num_tasks: int, folded: bool) -> HATModule:
    """folded: as `hatify` does it; else with an explicit multiplication for each mask that weights would carry."""
    captured = capture(model, ((images,), {}))
    plan = analyse(captured.graph, load_rules())
    return build(model, captured, plan if folded else _unfolded(plan), num_tasks, HATConfig())


def _unfolded(plan: Plan) -> Plan:
    gates = dict(plan.gates)
    for node, gate in plan.gates.items():
        if gate.placement == "folded":
            rank = node.meta["val"].dim()
            channels_first = any(kind in str(node.target) for kind in CHANNELS_FIRST)
            shape = [1] * rank
            shape[1 if channels_first else -1] = -1
            masks = tuple((positions.reshape(shape), {}) for positions, _ in gate.masks)
            gates[node] = GatePlan("multiplied", masks)
    return replace(plan, gates=gates)


def _contender(
    setting: Setting,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    regularization: Callable[[], Tensor | float] = lambda: 0.0,
    task: dict[str, int] | None = None,
) -> Contender:
    call = network if setting.compile_mode is None else _compiled(network, setting.compile_mode)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)

    def numbers() -> torch.autocast | nullcontext[None]:
        return torch.autocast(setting.device, torch.bfloat16) if setting.autocast else nullcontext()

    def train_step() -> None:
        if not network.training:  # to set a mode is to visit each module; a loop does it once
            network.train()
        with numbers():
            loss = cross_entropy(call(images), labels) + regularization()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def infer() -> None:
        if network.training:
            network.eval()
        with torch.no_grad(), numbers():
            call(images, **(task or {}))

    return Contender(network, images, train_step, infer)


def _compiled(network: nn.Module, mode: str) -> Callable[..., Tensor]:
    return torch.compile(network, fullgraph=True, mode=mode)
