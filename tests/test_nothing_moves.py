"""No trained task moves, bitwise, whatever trains the next one: every optimizer, and what is put around it."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import timm.optim
import timm.utils
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from hatify import HATModule, hatify
from hatify.errors import TrainingError, TrainingWarning
from hatify.verification.trials import draw_masks, perturb

SHAPE = (1, 6, 6)

TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    "sgd nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, fused=True),
    # With momentum, torch's fused SGD fails on parameters that get their first gradient in a later step.
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01, weight_decay=0.1),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=4),
    "lbfgs line search": lambda p: torch.optim.LBFGS(p, max_iter=4, line_search_fn="strong_wolfe"),
}


def network() -> HATModule:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 16),
        nn.ReLU(),
        nn.Linear(16, 3),
    )
    perturb(model)
    return hatify(model, num_tasks=3, example_inputs=(torch.randn(2, *SHAPE),))


def trainable(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(8, *SHAPE), torch.randint(3, (8,))


def train(net: HATModule, task_id: int, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Learn a task, whose masks are random afterwards, so that it leaves something to train."""
    net.train()
    with net.learn(task_id, steps=steps) as task:
        for _ in range(steps):
            x, y = batch()

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x), y) + 0.75 * task.regularization()
                loss.backward(create_graph=type(optimizer).__name__ == "Adahessian")
                return loss

            optimizer.step(closure)
        draw_masks(net, task_id)
    net.eval()


@contextmanager
def nothing_moves(net: HATModule, x: Tensor) -> Iterator[None]:
    """Check that what is done meanwhile moves the network, but no trained task, masked and extracted."""
    trained = net.eval().trained_tasks

    def answers() -> list[Tensor]:
        with torch.no_grad():
            return [f(x) for task in trained for f in (lambda x, t=task: net(x, task_id=t), net.extract(task))]

    before, state = answers(), {name: value.clone() for name, value in net.named_parameters()}
    yield
    net.eval()
    assert all(torch.equal(now, then) for now, then in zip(answers(), before, strict=True))
    assert any(not torch.equal(p, state[name]) for name, p in net.named_parameters() if "registry" not in name)


@pytest.mark.parametrize("name", TORCH)
def test_torch_optimizer_kept_over_all_tasks(name: str) -> None:
    net, x = network(), torch.randn(5, *SHAPE)
    optimizer = TORCH[name](trainable(net))
    for task in range(3):
        with nothing_moves(net, x):
            train(net, task, optimizer)


@pytest.mark.parametrize("name", timm.optim.list_optimizers())
def test_timm_optimizer_kept_over_all_tasks(name: str) -> None:
    net, x = network(), torch.randn(5, *SHAPE)
    try:
        optimizer = timm.optim.create_optimizer_v2(net, opt=name, lr=0.02, weight_decay=0.1, momentum=0.9)
    except (ImportError, AssertionError, RuntimeError) as error:
        pytest.skip(f"{name} needs what is not here: {error}")
    for task in range(2):
        with nothing_moves(net, x):
            train(net, task, optimizer)


def trained_network() -> tuple[HATModule, torch.optim.Optimizer]:
    net = network()
    optimizer = torch.optim.AdamW(trainable(net), lr=0.02, weight_decay=0.2)
    train(net, 0, optimizer)
    return net, optimizer


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_autocast_and_gradient_scaling(precision: torch.dtype) -> None:
    net, optimizer = trained_network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        net.train()
        with net.learn(1, steps=8):
            for _ in range(8):
                x, y = batch()
                with torch.autocast("cpu", precision):
                    loss = F.cross_entropy(net(x), y)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()


def test_a_step_that_a_scaler_skips_is_not_counted() -> None:
    net, optimizer = trained_network()
    scaler = torch.amp.GradScaler("cpu")
    net.train()
    with net.learn(1, steps=4) as task:
        scaler.scale(net(batch()[0]).sum() * float("inf")).backward()
        scaler.step(optimizer)  # skipped: the gradient is infinite
        assert task.progress == 0.0


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.9)])
def test_weight_averages_do_not_move_either(average: Callable[..., None] | None) -> None:
    net, optimizer = trained_network()
    x = torch.randn(5, *SHAPE)
    averaged = AveragedModel(net, multi_avg_fn=average)
    with nothing_moves(net, x):
        before = net(x, task_id=0)
        net.train()
        with net.learn(1, steps=4):
            for _ in range(4):
                inputs, labels = batch()
                F.cross_entropy(net(inputs), labels).backward()
                optimizer.step()
                averaged.update_parameters(net)
    assert torch.equal(averaged.eval()(x, task_id=0), before)


def test_an_average_of_buffers_locks_what_the_network_locks() -> None:
    net, _ = trained_network()
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        averaged.update_parameters(net)
    locks, expected = averaged.module.lock_masks(1), net.lock_masks(1)
    assert any(bool(lock.any()) for lock in expected.values())
    assert all(torch.equal(lock, expected[name]) for name, lock in locks.items())


@pytest.mark.parametrize(("turns", "taken"), [("abab", 2), ("aabb", 3), ("aabaab", 4), ("ba", 1)])
def test_a_step_of_the_task_is_one_of_each_optimizer(turns: str, taken: int) -> None:
    net = network()
    half = trainable(net)[::2]
    ids = set(map(id, half))
    optimizers = {
        "a": torch.optim.SGD(half, lr=0.01),
        "b": torch.optim.AdamW([p for p in trainable(net) if id(p) not in ids], lr=0.01),
    }
    net.train()
    with net.learn(0, steps=10) as task:
        for turn in turns:
            x, y = batch()
            F.cross_entropy(net(x), y).backward()
            optimizers[turn].step()
        assert task.progress == taken / 10


def test_an_optimizer_of_its_own_in_each_epoch() -> None:
    net = network()
    net.train()
    with net.learn(0, steps=6) as task:
        for _ in range(3):
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
            for _ in range(2):
                x, y = batch()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
        assert task.progress == 1.0


def test_activation_checkpointing() -> None:
    net, optimizer = trained_network()
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        net.train()
        with net.learn(1, steps=2):
            for _ in range(2):
                x, y = batch()
                F.cross_entropy(checkpoint(net, x, use_reentrant=False), y).backward()
                optimizer.step()


def test_compiled_training() -> None:
    net, optimizer = trained_network()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        net.train()
        with net.learn(1, steps=2) as task:
            for _ in range(2):
                x, y = batch()
                (F.cross_entropy(compiled(x), y) + task.regularization()).backward()
                optimizer.step()


def test_groups_of_parameters_of_which_one_is_frozen() -> None:
    net, _ = trained_network()
    net.get_parameter("0.weight").requires_grad_(False)
    groups = [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(trainable(net))]
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        train(net, 1, torch.optim.AdamW(groups, weight_decay=0.3))


def test_a_network_may_go_while_an_optimizer_calls_its_hooks() -> None:
    def collect(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        gc.collect()

    collecting = register_optimizer_step_pre_hook(collect)
    gc.collect()
    gc.disable()
    try:
        net, optimizer = trained_network()
        for task_id in (1, 2):
            network()  # nothing holds it, but it refers to itself
            with nothing_moves(net, torch.randn(5, *SHAPE)):
                train(net, task_id, optimizer)
    finally:
        gc.enable()
        collecting.remove()


def test_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_in_one_of_two_processes, args=(tmp_path / "store",), nprocs=2)


def _train_in_one_of_two_processes(rank: int, store: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    net, _ = trained_network()
    parallel = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
    optimizer = torch.optim.AdamW(trainable(parallel), lr=0.02, weight_decay=0.2)
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        net.train()
        torch.manual_seed(rank)
        with net.learn(1, steps=3):
            for _ in range(3):
                x, y = batch()
                optimizer.zero_grad()
                F.cross_entropy(parallel(x), y).backward()
                optimizer.step()
    weight = net.get_parameter("6.weight").detach()
    both = [torch.empty_like(weight) for _ in range(2)]
    torch.distributed.all_gather(both, weight)
    assert torch.equal(*both)
    del parallel  # before the group: what it holds of that may wait for the other process for ever
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_a_table_with_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 16, sparse=True), nn.Flatten(), nn.Linear(64, 3))
    tokens = torch.randint(30, (6, 4))
    net = hatify(model, num_tasks=2, example_inputs=(tokens,))
    table = net.get_parameter("0.weight")
    others = [parameter for parameter in trainable(net) if parameter is not table]
    optimizers = torch.optim.SparseAdam([table], lr=0.1), torch.optim.AdamW(others, lr=0.1)

    def learn(task_id: int) -> Tensor:
        net.train()
        with net.learn(task_id, steps=3):
            for _ in range(3):
                net(tokens).square().sum().backward()
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            draw_masks(net, task_id)
        with torch.no_grad():
            return net.eval()(tokens, task_id=task_id)

    first, values = learn(0), table.detach().clone()
    learn(1)
    assert not torch.equal(table, values)
    with torch.no_grad():
        assert torch.equal(net(tokens, task_id=0), first)


def learn_and_draw(net: HATModule, task_id: int, step: Callable[[Tensor, Tensor], None], steps: int = 3) -> None:
    """Learn a task by a loop of one's own. step: what the loop does with a batch."""
    net.train()
    with net.learn(task_id, steps=steps):
        for _ in range(steps):
            step(*batch())
        draw_masks(net, task_id)
    net.eval()


class AveragingSGD(torch.optim.SGD):
    """Has modes, as schedule-free optimizers do: in eval mode the weights are the averages of those of its steps."""

    averages = False

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        result = super().step(closure)
        for p in self.param_groups[0]["params"]:
            mean = self.state[p].setdefault("mean", p.detach().clone())
            mean.lerp_(p.detach() * 0.9, 0.5)  # decays on its own, on locked entries too
        return result

    @torch.no_grad()
    def eval(self) -> None:
        if not self.averages:
            for p in self.param_groups[0]["params"]:
                p.copy_(self.state[p]["mean"])
        self.averages = True


def test_an_optimizer_with_modes_of_its_own() -> None:
    net, _ = trained_network()
    optimizer = AveragingSGD(trainable(net), lr=0.05)
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        train(net, 1, optimizer)
        optimizer.eval()


def test_a_step_that_calls_the_step_of_its_base_class_is_one_step() -> None:
    net, _ = trained_network()  # PyTorch hooks the base class's step as soon as there was an optimizer of it
    torch.optim.SGD(trainable(net), lr=0.05)
    optimizer = AveragingSGD(trainable(net), lr=0.05)
    net.train()
    with net.learn(1, steps=4) as task:
        for taken in range(1, 5):
            x, y = batch()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
            assert task.progress == taken / 4


def test_weights_that_are_tied_later_are_locked_for_both_uses() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(8, 8), nn.ReLU())]
    net = hatify(nn.Sequential(*layers, nn.Linear(8, 3)), num_tasks=2, example_inputs=(torch.randn(2, 8),))
    net.get_submodule("2").weight = net.get_submodule("4").weight
    draw_masks(net, 0)
    net.registry.trained.append(0)
    optimizer = torch.optim.AdamW(trainable(net), lr=0.05, weight_decay=0.2)
    x, y = torch.randn(5, 8), torch.randint(3, (5,))
    before = net.eval()(x, task_id=0)
    net.train()
    with net.learn(1, steps=3):
        for _ in range(3):
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert torch.equal(net.eval()(x, task_id=0), before)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_optimizers_that_step_during_backward(set_to_none: bool) -> None:
    net, _ = trained_network()
    for parameter in trainable(net):
        own = torch.optim.AdamW([parameter], lr=0.01, weight_decay=0.2)

        def step(parameter: Tensor, own: torch.optim.Optimizer = own) -> None:
            own.step()
            own.zero_grad(set_to_none=set_to_none)

        parameter.register_post_accumulate_grad_hook(step)
    with nothing_moves(net, torch.randn(5, *SHAPE)):
        learn_and_draw(net, 1, lambda x, y: F.cross_entropy(net(x), y).backward())


def test_weights_that_a_loop_writes_to_are_put_back_before_they_are_used() -> None:
    net, optimizer = trained_network()
    probe = torch.randn(5, *SHAPE)
    first = net.eval()(probe, task_id=0)
    locks = net.lock_masks(1)
    used: list[bool] = []

    def compare(module: nn.Module, inputs: Any) -> None:
        locked = locks["6.weight"]
        used.append(torch.equal(module.weight[locked], values[locked]))

    values = net.get_parameter("6.weight").detach().clone()
    net.get_submodule("6").register_forward_pre_hook(compare)

    def step(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.clamp_(-0.02, 0.02)
        assert torch.equal(net.eval()(probe, task_id=0), first)
        net.train()

    with nothing_moves(net, probe):
        learn_and_draw(net, 1, step)
    assert len(used) > 6 and all(used)


def test_a_rounded_state_dict_that_is_loaded_meanwhile() -> None:
    net, optimizer = trained_network()
    best: dict[str, Tensor] = {}

    def step(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        best.update({name: value.bfloat16() for name, value in net.state_dict().items()})

    with nothing_moves(net, torch.randn(5, *SHAPE)):
        net.train()
        with net.learn(1, steps=3):
            for _ in range(3):
                step(*batch())
            with pytest.warns(TrainingWarning, match="stays as it was"):
                net.load_state_dict(best)
            draw_masks(net, 1)
    assert not net.moved_since_trained(0) and not net.moved_since_trained(1)


def test_an_average_that_was_begun_before_a_task() -> None:
    net, optimizer = trained_network()
    average = timm.utils.ModelEmaV2(net, decay=0.5)

    def step(x: Tensor, y: Tensor) -> None:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        average.update(net)

    x = torch.randn(5, *SHAPE)
    with nothing_moves(net, x):
        learn_and_draw(net, 1, step)
    assert average.module.trained_tasks == (0,)


def test_gradients_in_batches() -> None:
    net, _ = trained_network()
    x, y = batch()
    net.train()
    with net.learn(1, steps=1):
        losses = F.cross_entropy(net(x), y, reduction="none")
        weights = trainable(net)
        options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
        batched = torch.autograd.grad(losses, weights, torch.eye(len(losses)), is_grads_batched=True, **options)
        one = torch.autograd.grad(losses[2], weights, **options)
    for all_of_them, alone in zip(batched, one, strict=True):
        if alone is not None:
            torch.testing.assert_close(all_of_them[2], alone)


def test_sharded_parameters_are_refused(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_shard, args=(tmp_path / "store",), nprocs=1)


def _shard(rank: int, store: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=1)
    net, _ = trained_network()
    fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(TrainingError, match="sharded"), net.learn(1):
        pass
    torch.distributed.destroy_process_group()


def test_a_shallow_copy_is_refused() -> None:
    with pytest.raises(TrainingError, match="deepcopy"):
        copy.copy(network())
