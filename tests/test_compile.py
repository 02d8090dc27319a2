"""`torch.compile(net)`: one graph, compiled once a task, and the same promises."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounterWithBackend

from hatify import HATModule, hatify
from hatify.errors import TrainingError
from hatify.verification.trials import draw_masks, perturb
from tests.test_decisions import QUESTIONS, SIZES, Asks

STEPS = 4


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()


def compiled(net: nn.Module) -> tuple[Callable[..., Tensor], CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(net, backend=counter, fullgraph=True), counter


def two_trained_tasks(name: str, size: int) -> HATModule:
    model = timm.create_model(name, num_classes=5)
    perturb(model)
    net = hatify(model, num_tasks=3, example_inputs=(torch.randn(2, 3, size, size),))
    for task_id in (0, 1):
        with net.learn(task_id):
            draw_masks(net, task_id, 0.4)
    return net


def train(net: HATModule, call: Callable[..., Tensor], images: Tensor) -> list[Tensor]:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    net.train()
    losses = []
    with net.learn(2, steps=STEPS) as task:
        for _ in range(STEPS):
            loss = F.cross_entropy(call(images), torch.arange(len(images))) + task.regularization()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return losses


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 32), ("test_vit", 160)])
def test_a_task_is_compiled_once_and_moves_no_other(name: str, size: int) -> None:
    net = two_trained_tasks(name, size)
    eager = copy.deepcopy(net)
    images = torch.randn(4, 3, size, size)
    call, counter = compiled(net)
    before = [net.eval()(images, task_id=task_id) for task_id in (0, 1)]
    losses = train(net, call, images)
    assert counter.frame_count == 1
    torch.testing.assert_close(losses, train(eager, eager, images), rtol=1e-3, atol=1e-3)
    net.eval()
    for task_id in (0, 1):
        assert torch.equal(net(images, task_id=task_id), before[task_id])
        torch.testing.assert_close(call(images, task_id=task_id), before[task_id])
    assert counter.frame_count == 3


def test_a_network_inside_a_compiled_module_is_the_same_network() -> None:
    net = two_trained_tasks("resnet10t", 32)
    images = torch.randn(4, 3, 32, 32)
    before = [net.eval()(images, task_id=task_id) for task_id in (0, 1)]
    call, _ = compiled(nn.Sequential(net))
    losses = train(net, call, images)
    assert losses[-1] < losses[0]
    net.eval()
    for task_id in (0, 1):
        net.set_task(task_id)
        torch.testing.assert_close(call(images), before[task_id])
        assert torch.equal(net(images), before[task_id])


def test_what_a_network_refuses_is_refused_inside_a_compiled_function() -> None:
    net = two_trained_tasks("resnet10t", 32)
    images = torch.randn(4, 3, 32, 32)
    before = net.eval()(images, task_id=0)
    net.train()
    with torch.no_grad(), pytest.raises(TrainingError, match="would move its batch statistics"):
        torch.compile(lambda x: net(x, task_id=0), backend="eager")(images)
    assert torch.equal(net.eval()(images, task_id=0), before)


@pytest.mark.parametrize(("then", "refused"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_compiled_call_that_goes_another_way_is_refused(then: Callable[[Tensor], Tensor], refused: set[int]) -> None:
    model = Asks(then)
    call, _ = compiled(hatify(model, example_inputs=(torch.randn(4, 4),)))
    for size in SIZES:
        x = torch.randn(size, 4)
        if size in refused:
            with pytest.raises(Unsupported, match=r"InputError.*another way"):
                call(x)
        else:
            assert torch.equal(call(x), model(x))
