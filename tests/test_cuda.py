"""On a GPU: the same promises, in its number formats and with its graphs, and no step that waits for the device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hatify as library
from hatify import HATModule, hatify
from hatify.verification.trials import draw_masks, perturb

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

STEPS = 6
SIZES = {"resnet10t": 64, "test_vit": 160, "test_convnext": 64}


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(params=SIZES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def images(name: str) -> Tensor:
    return torch.randn(4, 3, SIZES[name], SIZES[name], device="cuda")


def model(name: str) -> nn.Module:
    plain = timm.create_model(name, num_classes=5)
    perturb(plain)
    return plain.cuda()


def two_trained_tasks(name: str) -> HATModule:
    net = hatify(model(name), num_tasks=3, example_inputs=(images(name),))
    for task_id in (0, 1):
        with net.learn(task_id):
            draw_masks(net, task_id, 0.4)
    return net


def train(net: HATModule, inputs: Tensor, call: Callable[..., Tensor], precision: torch.dtype | None = None) -> None:
    """Learn task 2. call: the network, or its compiled form."""
    labels = torch.arange(len(inputs), device="cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cuda", enabled=precision is torch.float16)
    net.train()
    with net.learn(2, steps=STEPS) as task:
        for _ in range(STEPS):
            optimizer.zero_grad()
            with torch.autocast("cuda", precision) if precision else nullcontext():
                loss = F.cross_entropy(call(inputs), labels) + task.regularization()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    net.eval()


def answers(net: HATModule, inputs: Tensor) -> list[Tensor]:
    net.eval()
    with torch.no_grad():
        return [f(inputs) for task in (0, 1) for f in (lambda x, t=task: net(x, task_id=t), net.extract(task))]


def same(now: list[Tensor], then: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(now, then, strict=True))


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_nothing_moves(name: str, precision: torch.dtype | None) -> None:
    net, inputs = two_trained_tasks(name), images(name)
    before, weights = answers(net, inputs), copy.deepcopy(net.state_dict())
    train(net, inputs, net, precision)
    assert same(answers(net, inputs), before)
    assert any(not torch.equal(p, weights[key]) for key, p in net.named_parameters() if not key.startswith("registry"))


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_nothing_moves_when_compiled(name: str, mode: str) -> None:
    net, inputs = two_trained_tasks(name), images(name)
    before = answers(net, inputs)
    train(net, inputs, torch.compile(net, fullgraph=True, mode=mode))
    assert same(answers(net, inputs), before)


def test_later_steps_replay_the_graphs_of_earlier_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[object] = []
    before_step: list[int] = []
    record = torch.cuda.graph.__enter__
    monkeypatch.setattr(torch.cuda.graph, "__enter__", lambda graph: [recorded.append(graph), record(graph)][1])
    net, inputs = two_trained_tasks(name), images(name)
    compiled = torch.compile(net, fullgraph=True, mode="reduce-overhead")

    def call(x: Tensor) -> Tensor:
        before_step.append(len(recorded))
        return compiled(x)

    train(net, inputs, call)
    assert before_step[STEPS // 2] == before_step[-1] > 0


def test_a_model_converted_elsewhere_is_the_same_network(name: str, tmp_path: Path) -> None:
    plain, inputs = model(name).eval(), images(name)
    moved = hatify(copy.deepcopy(plain).cpu(), num_tasks=2, example_inputs=(inputs.cpu(),)).cuda().eval()
    there = hatify(plain, num_tasks=2, example_inputs=(inputs,)).eval()
    library.save(there, tmp_path / "net.safetensors")
    loaded = library.load(tmp_path / "net.safetensors").cuda().eval()
    with torch.no_grad():
        for net in (moved, there, loaded):
            assert torch.equal(net(inputs), plain(inputs))


def test_what_a_network_says_of_itself(name: str) -> None:
    net = two_trained_tasks(name)
    capacity = net.capacity()
    assert all(set(group.used) == {0, 1} for group in capacity.values())
    assert "mask group" in str(net.summary())
    assert "each task has its own" in str(net.explain(net.blueprint.heads[0]))
    assert library.verify(net).ok


def test_a_forgotten_task_takes_no_other_along(name: str) -> None:
    net, inputs = two_trained_tasks(name), images(name)
    before = answers(net, inputs)
    net.forget(0, seed=0)
    now = answers(net, inputs)
    assert same(now[2:], before[2:])
    assert not same(now[:2], before[:2])


def test_everything_free_can_be_scrambled(name: str) -> None:
    report = library.verify(two_trained_tasks(name))
    assert report.ok, str(report)


def test_a_training_step_never_waits_for_the_device(name: str) -> None:
    net, inputs = two_trained_tasks(name), images(name)
    labels = torch.arange(len(inputs), device="cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net.train()
    with net.learn(2, steps=STEPS) as task:
        for step in range(STEPS):
            torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step sets the device up
            loss = F.cross_entropy(net(inputs), labels) + task.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
