"""Methods of continual learning under one training loop, Avalanche's: each is a network and a plugin."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.core import SupervisedPlugin
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.models.packnet import PackNetModel, PackNetPlugin
from avalanche.training import JointTraining, Naive
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.learning.networks import Build
from benchmarks.learning.sequences import Sequence
from hatify import HATConfig, HATModule, hatify
from hatify.frameworks.avalanche import HATPlugin

# Chosen on Permuted-MNIST, by looking at test images of one seed. An embedding has to cross zero within the steps of a
# task, and the regularizer to leave room for nine more.
MASK_LEARNING_RATE = 0.1
REGULARIZATION = 5.0
CONFIG = HATConfig(init="normal")
BATCH_SIZE = 32

# Before each task, entries that no task uses are left as they are, drawn anew, or put back to what the model had.
Renewal = Literal["left", "drawn", "put back"]


@dataclass
class Contestant:
    """A network, and how its training differs from fine-tuning.

    plugin: of Avalanche; None: fine-tuning. mask_learning_rate: of embeddings, if the network has any.
    renew: called before each task. anew: a network for each task. together: all tasks at once.
    """

    network: nn.Module
    plugin: Any = None
    mask_learning_rate: float = MASK_LEARNING_RATE
    renew: Callable[[], object] | None = None
    anew: bool = False
    together: bool = False


Method = Callable[[Build, Sequence, int], Contestant]  # of a network, a sequence and the epochs of each task


class SettlingHATPlugin(HATPlugin):
    """Ends a task with a pass over its examples that learns nothing.

    Running statistics remember the last few dozen steps. Of a short task, those had softer masks than it ends with.
    """

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        with torch.random.fork_rng(), torch.no_grad():
            for inputs, *_ in strategy.dataloader:
                strategy.model(inputs)
        super().after_training_exp(strategy, **kwargs)


class FallingRate(SupervisedPlugin[Any]):
    """The weights' learning rate falls to zero over the second half of a task's steps; that of masks stays."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        steps = strategy.train_epochs * len(strategy.dataloader)

        def of_weights(step: int) -> float:
            return min(1.0, 2 * (1 - step / steps))

        def of_masks(step: int) -> float:
            return 1.0

        groups = len(strategy.optimizer.param_groups)
        self._schedule = LambdaLR(strategy.optimizer, [of_weights, of_masks][:groups])

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._schedule.step()


class MultiHead(MultiTaskModule):
    """A network with a head of its own for each task."""

    def __init__(self, trunk: nn.Module, num_tasks: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(trunk.head) for _ in range(num_tasks))
        trunk.head = nn.Identity()
        self.trunk = trunk

    def forward_single_task(self, x: Tensor, task_label: int) -> Tensor:
        return self.heads[task_label](self.trunk(x))


def with_masks(
    build: Build,
    sequence: Sequence,
    epochs: int,
    config: HATConfig = CONFIG,
    regularization: float = REGULARIZATION,
    mask_learning_rate: float = MASK_LEARNING_RATE,
    settle: bool = True,
    renewal: Renewal = "put back",
) -> Contestant:
    example = sequence.tasks[0].train.inputs[:2]
    model = build(sequence.shape, sequence.num_classes)
    net = hatify(model, num_tasks=len(sequence.tasks), example_inputs=(example,), config=config)
    plugin = SettlingHATPlugin if settle else HATPlugin
    renew = {"left": None, "drawn": net.renew, "put back": partial(net.renew, model.state_dict())}
    return Contestant(net, plugin(regularization), mask_learning_rate, renew[renewal])


def _multi_head(build: Build, sequence: Sequence) -> MultiHead:
    return MultiHead(build(sequence.shape, sequence.num_classes), len(sequence.tasks))


def fine_tuning(build: Build, sequence: Sequence, epochs: int) -> Contestant:
    return Contestant(_multi_head(build, sequence))


def joint(build: Build, sequence: Sequence, epochs: int) -> Contestant:
    return Contestant(_multi_head(build, sequence), together=True)


def network_a_task(build: Build, sequence: Sequence, epochs: int) -> Contestant:
    return Contestant(build(sequence.shape, sequence.num_classes), anew=True)


def ewc(build: Build, sequence: Sequence, epochs: int, strength: float) -> Contestant:
    return Contestant(_multi_head(build, sequence), EWCPlugin(strength))


def packnet(build: Build, sequence: Sequence, epochs: int) -> Contestant:
    """Each task keeps the same share of the weights; the last third of its epochs is for what pruning has left."""
    count = len(sequence.tasks)
    left = [1 - 1 / (count - task) for task in range(count)]
    network = PackNetModel(build(sequence.shape, sequence.num_classes))
    return Contestant(network, PackNetPlugin(max(1, epochs // 3), left))


METHODS: dict[str, Method] = {
    "hatify": with_masks,
    "fine-tuning": fine_tuning,
    "EWC, 1e4": partial(ewc, strength=1e4),
    "EWC, 1e6": partial(ewc, strength=1e6),
    "EWC, 1e8": partial(ewc, strength=1e8),
    "PackNet": packnet,
    "a network a task": network_a_task,
    "joint training": joint,
}


@dataclass(frozen=True)
class Outcome:
    """How a method did.

    accuracy: of each task after the last, in [0, 1]. learned: of each right after it was learned; None: all at once.
    moved: the tasks, of all but the last, whose test logits are no longer bitwise what they were then.
    parameters: of all its networks. free: of a network with masks, the share of features that no task uses, after each
    task.
    """

    accuracy: list[float]
    learned: list[float] | None
    moved: int
    parameters: int
    free: list[float] | None = None


def learn(method: Method, build: Build, sequence: Sequence, epochs: int, seed: int) -> tuple[Outcome, list[nn.Module]]:
    """Learn a sequence. Returns the outcome and the network that answers each task."""
    torch.manual_seed(seed)
    contestant = method(build, sequence, epochs)
    fresh = copy.deepcopy(contestant.network) if contestant.anew else None
    stream = _stream(sequence)
    networks: list[nn.Module] = []
    remembered: list[Tensor] = []
    free: list[float] = []
    strategy = _strategy(contestant, sequence, epochs)
    if contestant.together:
        strategy.train(stream)
        networks = [contestant.network] * len(sequence.tasks)
    for task_id, experience in enumerate(() if contestant.together else stream):
        if fresh is not None:
            contestant.network = copy.deepcopy(fresh)
            strategy = _strategy(contestant, sequence, epochs)
        if contestant.renew is not None:
            contestant.renew()
        strategy.optimizer = _optimizer(contestant, sequence)
        strategy.train(experience)
        networks.append(contestant.network)
        remembered.append(logits(contestant.network, sequence, task_id))
        if isinstance(contestant.network, HATModule):
            free.append(_free(contestant.network))
    final = [logits(network, sequence, task_id) for task_id, network in enumerate(networks)]
    moved = sum(not torch.equal(now, then) for now, then in zip(final[:-1], remembered, strict=False))
    outcome = Outcome(
        [accuracy(now, sequence, task_id) for task_id, now in enumerate(final)],
        None if contestant.together else [accuracy(then, sequence, task_id) for task_id, then in enumerate(remembered)],
        moved,
        sum(p.numel() for network in {id(n): n for n in networks}.values() for p in network.parameters()),
        free or None,
    )
    return outcome, networks


@torch.no_grad()
def logits(network: nn.Module, sequence: Sequence, task_id: int) -> Tensor:
    """A task's logits on its test images, in eval mode."""
    network.eval()
    inputs = sequence.tasks[task_id].test.inputs
    if isinstance(network, HATModule):
        return network(inputs, task_id=task_id)
    if isinstance(network, MultiTaskModule):
        return network(inputs, torch.full((len(inputs),), task_id))
    return network(inputs)


def accuracy(answers: Tensor, sequence: Sequence, task_id: int) -> float:
    return (answers.argmax(1) == sequence.tasks[task_id].test.labels).float().mean().item()


def _stream(sequence: Sequence) -> Any:
    train, test = (
        [(e.inputs, e.labels) for e in (getattr(t, part) for t in sequence.tasks)] for part in ("train", "test")
    )
    return tensors_benchmark(train, test, task_labels=list(range(len(sequence.tasks)))).train_stream


def _strategy(contestant: Contestant, sequence: Sequence, epochs: int) -> Any:
    kind = JointTraining if contestant.together else Naive
    logging.getLogger("avalanche").setLevel(logging.ERROR)
    return kind(
        model=contestant.network,
        optimizer=_optimizer(contestant, sequence),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH_SIZE,
        train_epochs=epochs,
        plugins=[plugin for plugin in (contestant.plugin, FallingRate()) if plugin is not None],
        evaluator=EvaluationPlugin(),
    )


def _optimizer(contestant: Contestant, sequence: Sequence) -> torch.optim.Optimizer:
    network = contestant.network
    groups: Any = network.parameters()
    if isinstance(network, HATModule):
        groups = network.parameter_groups(contestant.mask_learning_rate)
    return torch.optim.Adam(groups, lr=sequence.learning_rate)


def _free(net: HATModule) -> float:
    """The share of all features that no task uses."""
    groups = net.capacity().values()
    return sum(group.free for group in groups) / sum(group.num_features for group in groups)


def relearn(net: HATModule, sequence: Sequence, task_id: int, epochs: int) -> None:
    """Learn one task of a sequence on a converted network that knows others."""
    net.renew()
    _strategy(Contestant(net, SettlingHATPlugin(REGULARIZATION)), sequence, epochs).train(_stream(sequence)[task_id])
