"""Whatever the order of training, forgetting, pruning, adding and saving: no other task's logits move, bitwise.

Hypothesis chooses the operations, their tasks and the densities of masks, and shortens what fails.
"""

from __future__ import annotations

import copy
import pickle
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from torch import Tensor, nn

from hatify import HATModule, hatify, load, save
from hatify.verification.trials import draw_masks

CLASSES, EXAMPLES, STEPS, MOST_TASKS = 4, 48, 40, 6
OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
}
DENSITIES = st.sampled_from((0.15, 0.3, 0.6, 1.0))


class Network(nn.Module):
    """A norm and a residual connection between two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 24), nn.LayerNorm(24), nn.Linear(24, 24)
        self.third, self.head = nn.Linear(24, 32), nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.second(self.norm(x).relu())
        return self.head(self.third(x).relu())


def examples(task: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(task)
    return torch.randn(EXAMPLES, 8, generator=generator), torch.randint(CLASSES, (EXAMPLES,), generator=generator)


class Life(RuleBasedStateMachine):
    """A network, and the logits that each trained task must keep."""

    @initialize(num_tasks=st.integers(1, 3), seed=st.integers(0, 99))
    def convert(self, num_tasks: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.net = hatify(Network(), num_tasks, example_inputs=(torch.zeros(2, 8),)).eval()
        self.logits: dict[int, Tensor] = {}

    def task(self, data: st.DataObject, tasks: Iterable[int]) -> int:
        return data.draw(st.sampled_from(sorted(tasks)), label="task")

    @rule(data=st.data(), density=DENSITIES, optimizer=st.sampled_from(sorted(OPTIMIZERS)))
    def learn(self, data: st.DataObject, density: float, optimizer: str) -> None:
        """A new task, or one that was trained or forgotten before."""
        task = self.task(data, range(self.net.num_tasks))
        x, y = examples(task)
        draw_masks(self.net, task, density)
        step = OPTIMIZERS[optimizer](self.net.parameters())
        with self.net.train().learn(task, steps=STEPS) as learning:
            for _ in range(STEPS):
                loss = F.cross_entropy(self.net(x), y) + 0.1 * learning.regularization()
                step.zero_grad()
                loss.backward()
                step.step()
        self.net.eval()
        self.logits[task] = self.output(task)

    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        """The training of a new task breaks off."""
        new = set(range(self.net.num_tasks)) - set(self.net.trained_tasks)
        if not new:
            return
        x, y = examples(task := self.task(data, new))
        step = torch.optim.AdamW(self.net.parameters(), lr=0.02)
        try:
            with self.net.train().learn(task, steps=STEPS):
                F.cross_entropy(self.net(x), y).backward()
                step.step()
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.net.eval()

    @precondition(lambda self: self.net.trained_tasks)
    @rule(data=st.data(), seed=st.integers(0, 9))
    def forget(self, data: st.DataObject, seed: int) -> None:
        task = self.task(data, self.net.trained_tasks)
        expected = str(self.net.forget(task, seed=seed, dry_run=True)).replace("would be forgotten", "forgotten")
        assert str(self.net.forget(task, seed=seed)) == expected
        assert task not in self.net.trained_tasks and task not in self.net.registry.interrupted
        assert not torch.equal(self.output(task), self.logits.pop(task))

    @precondition(lambda self: self.net.trained_tasks)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        task = self.task(data, self.net.trained_tasks)
        self.net.prune(task)
        self.logits = {task: self.logits[task]}

    @rule(seed=st.integers(0, 9), own=st.booleans())
    def renew(self, seed: int, own: bool) -> None:
        """What no task uses is drawn anew, or as a model had it."""
        torch.manual_seed(seed)
        self.net.renew(Network().state_dict() if own else None)

    @precondition(lambda self: self.net.num_tasks < MOST_TASKS)
    @rule()
    def add_a_task(self) -> None:
        self.net.add_tasks(1)

    @rule(how=st.sampled_from(("deepcopy", "pickle", "file", "state dict")))
    def replace(self, how: str) -> None:
        """The network goes on as a copy of itself."""
        self.net = _copied(self.net, how)

    @invariant()
    def no_trained_task_has_moved(self) -> None:
        assert set(self.net.trained_tasks) == set(self.logits)
        for task, logits in self.logits.items():
            assert torch.equal(self.output(task), logits), f"task {task} has moved"
            assert self.net.moved_since_trained(task) == ()

    @torch.no_grad()
    def output(self, task: int) -> Tensor:
        return self.net(examples(task)[0], task_id=task)


def _copied(net: HATModule, how: str) -> HATModule:
    if how == "deepcopy":
        return copy.deepcopy(net)
    if how == "pickle":
        return pickle.loads(pickle.dumps(net))
    if how == "state dict":
        other = hatify(Network(), net.num_tasks, example_inputs=(torch.zeros(2, 8),)).eval()
        other.load_state_dict(net.state_dict())
        return other
    with tempfile.TemporaryDirectory() as folder:
        save(net, Path(folder) / "net.safetensors")
        return load(Path(folder) / "net.safetensors")


def test_nothing_moves_whatever_happens() -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=25, stateful_step_count=12, deadline=None, derandomize=True, suppress_health_check=checks
            ),
        )


def test_a_forgotten_task_is_at_chance() -> None:
    """Over all tasks of several networks, in whatever order they were trained: a quarter of the answers is right."""
    right: list[float] = []
    for seed in range(8):
        life = Life()
        life.convert(num_tasks=3, seed=seed)
        for task in range(3):
            _learn(life.net, task)
        x, y = examples(seed % 3)
        assert float((life.net(x, task_id=seed % 3).argmax(1) == y).float().mean()) > 0.8
        life.net.forget(seed % 3, seed=seed)
        right.append(float((life.net(x, task_id=seed % 3).argmax(1) == y).float().mean()))
    mean, error = sum(right) / len(right), (0.25 * 0.75 / (len(right) * EXAMPLES)) ** 0.5
    assert abs(mean - 1 / CLASSES) < 4 * error, right


def _learn(net: HATModule, task: int) -> None:
    x, y = examples(task)
    draw_masks(net, task, 0.4)
    masks = set(net.registry.parameters())
    optimizer = torch.optim.Adam([parameter for parameter in net.parameters() if parameter not in masks], lr=0.02)
    with net.train().learn(task, steps=150):
        for _ in range(150):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
