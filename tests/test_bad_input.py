"""What hurried users get wrong: one clear exception of the library's own, and the model as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from hatify import HATConfig, HatifyError, HATModule, HATPayload, hatify
from hatify.errors import (
    CapacityWarning,
    CaptureError,
    ConversionError,
    InputError,
    TaskError,
    TrainingError,
    TrainingWarning,
)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture
def net() -> HATModule:
    return hatify(model(), num_tasks=3)


@pytest.mark.parametrize("num_tasks", [0, -1, 1.5, "3", True, None])
def test_number_of_tasks(num_tasks: object) -> None:
    with pytest.raises(TaskError, match="num_tasks"):
        hatify(model(), num_tasks=num_tasks)


@pytest.mark.parametrize("num_classes", [[2], 2, [2, 2, 0], [2, 2, "2"]])
def test_numbers_of_classes(num_classes: object) -> None:
    with pytest.raises(TaskError, match="num_classes"):
        hatify(model(), num_tasks=3, num_classes=num_classes)


def test_numpys_integers_are_numbers() -> None:
    net = hatify(model(), num_tasks=np.int64(2), num_classes=np.array([2, 5]))
    net.add_tasks(np.int32(1))
    assert net.num_tasks == 3
    assert [net(torch.randn(2, 4), task_id=task).shape[1] for task in np.arange(2)] == [2, 5]


@pytest.mark.parametrize(
    ("task_id", "why"), [(3, "0 to 2"), (-1, "0 to 2"), ("0", "str"), (1.0, "float"), (True, "bool")]
)
def test_task_ids(net: HATModule, task_id: object, why: str) -> None:
    x = torch.randn(2, 4)
    for use in (
        lambda: net(x, task_id=task_id),
        lambda: net.set_task(task_id),
        lambda: net.lock_masks(task_id),
        lambda: net.registry.groups["0"].mask(task_id, 1.0),
    ):
        with pytest.raises(TaskError, match=why):
            use()
    with pytest.raises(TaskError, match=why), net.learn(task_id):
        pass


@pytest.mark.parametrize("steps", [0, -5, 2.5, True])
def test_steps(net: HATModule, steps: object) -> None:
    with pytest.raises(TaskError, match="steps"), net.learn(0, steps=steps):
        pass
    assert net.trained_tasks == ()


@pytest.mark.parametrize("mask_scale", [-1.0, 0, float("nan"), float("inf"), "hard"])
def test_mask_scales(net: HATModule, mask_scale: object) -> None:
    with pytest.raises(TaskError, match="mask_scale"):
        net(torch.randn(2, 4), task_id=0, mask_scale=mask_scale)


def test_a_payload_says_which_task_it_belongs_to(net: HATModule) -> None:
    with pytest.raises(TaskError, match="beside it"):
        net(HATPayload(torch.randn(2, 4), task_id=0), task_id=1)


def test_a_warning_names_the_line_that_it_is_meant_for(net: HATModule) -> None:
    with pytest.warns(TrainingWarning) as warned, net.train().learn(0, steps=2):
        pass
    with pytest.warns(UserWarning) as of_conversion:
        hatify(model(), num_tasks=20)
    assert {one.filename for one in (*warned, *of_conversion)} == {__file__}


@pytest.mark.parametrize(
    "setting",
    [
        {"s_max": "400"},
        {"s_max": 0.5},
        {"s_max": float("nan")},
        {"schedule_cycles": 1.5},
        {"exponent_limit": True},
        {"init": "random"},
    ],
)
def test_settings(setting: dict[str, object]) -> None:
    with pytest.raises(HatifyError, match=f"HATConfig.{next(iter(setting))}="):
        HATConfig(**setting)  # type: ignore[arg-type]


def test_training_outside_learn(net: HATModule) -> None:
    loss = net.train()(torch.randn(2, 4), task_id=0).sum()
    with pytest.raises(TrainingError, match="outside net"):
        loss.backward()
    with pytest.raises(TrainingError, match="outside net"):
        net(torch.randn(2, 4)).sum().backward()


def test_training_of_another_task_inside_learn(net: HATModule) -> None:
    net.train()
    with net.learn(1):
        with pytest.raises(TrainingError, match="no task"):
            net(torch.randn(2, 4), task_id=None)
        with pytest.raises(TrainingError, match="task 0"):
            net(torch.randn(2, 4), task_id=0)
        with torch.no_grad():
            net(torch.randn(2, 4), task_id=0)
        with pytest.raises(TrainingError, match="task 1 is being learned"), net.learn(2):
            pass
    assert net.trained_tasks == (1,)


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ((torch.randn(2, 5),), "fails on the example inputs"),
        ((torch.randn(1, 4),), "at least 2"),
        ((torch.randn(2, 4), torch.randn(2, 4)), "do not fit"),
        ({"y": torch.randn(2, 4)}, "do not fit"),
        (3, "example_inputs"),
    ],
)
def test_example_inputs(example: object, why: str) -> None:
    original = model()
    state = {name: value.clone() for name, value in original.state_dict().items()}
    original[1].eval()
    with pytest.raises(InputError, match=why):
        hatify(original, num_tasks=2, example_inputs=example)
    assert (original.training, original[1].training) == (True, False)
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())


def test_example_inputs_that_cannot_be_inferred() -> None:
    with pytest.raises(InputError, match="pass example_inputs"):
        hatify(nn.Sequential(nn.Bilinear(2, 2, 2)))


def test_inputs_of_another_shape_or_structure(net: HATModule) -> None:
    with pytest.raises(InputError, match=r"\(batch, 4\), got \(2, 5\)"):
        net(torch.randn(2, 5))
    with pytest.raises(InputError, match="do not fit"):
        net(torch.randn(2, 4), torch.randn(2, 4))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.linear(x)
        return self.linear(-x)


def test_a_model_that_cannot_be_captured_names_the_submodule_and_the_line() -> None:
    original = Branching().eval()  # as a part of a model it would be an opaque leaf
    with pytest.raises(CaptureError, match=r"in the model, Branching, test_bad_input.py:\d+ in forward"):
        hatify(original, num_tasks=2)
    assert not original.training and not original.linear.training
    assert original(torch.randn(2, 4)).shape == (2, 2)


def test_a_group_with_fewer_features_than_tasks() -> None:
    with pytest.warns(CapacityWarning, match="'0' with 8 features for 9 tasks"):
        hatify(model(), num_tasks=9)


def test_heads_that_do_not_exist() -> None:
    with pytest.raises(ConversionError, match="no weighted layer at 'fc'"):
        hatify(model(), num_tasks=2, heads=["fc"])
    with pytest.raises(ConversionError, match=r"heads takes a sequence"):
        hatify(model(), num_tasks=2, heads="2")
    with pytest.raises(ConversionError, match="no head"):
        hatify(model(), num_tasks=2, heads=[], num_classes=[2, 2])


def test_what_is_not_a_module() -> None:
    with pytest.raises(ConversionError, match=r"torch\.nn\.Module"):
        hatify(lambda x: x, num_tasks=2)


def test_a_network_that_is_converted_already(net: HATModule) -> None:
    with pytest.raises(ConversionError, match="add_tasks"):
        hatify(net, num_tasks=3)


def test_an_export_that_fails_logs_nothing_beside_the_error(caplog: pytest.LogCaptureFixture) -> None:
    class Chooses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError):
        hatify(Chooses(), example_inputs=(torch.randn(2, 4),))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(("path", "place"), [("", "the model is"), ("0.1", "'0.1' is")])
def test_script_modules(path: str, place: str) -> None:
    scripted = torch.jit.script(nn.Linear(4, 2))
    converted = scripted if not path else nn.Sequential(nn.Sequential(nn.Linear(4, 4), scripted), nn.ReLU())
    with pytest.raises(ConversionError, match=f"{place} a ScriptModule.*use the module that it was made from"):
        hatify(converted, num_tasks=2, example_inputs=(torch.randn(2, 4),))


@dataclass
class Output:
    logits: Tensor


def test_an_output_of_a_class_that_is_not_registered() -> None:
    class Wraps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model()

        def forward(self, x: Tensor) -> Output:
            return Output(self.inner(x))

    with pytest.raises(CaptureError, match="register_dataclass") as refused:
        hatify(Wraps(), example_inputs=(torch.randn(2, 4),))
    assert "Control flow" not in str(refused.value)


def test_example_inputs_of_another_type_than_the_models() -> None:
    with pytest.raises(InputError, match="the model fails on the example inputs"):
        hatify(model(), num_tasks=2, example_inputs=(torch.randn(3, 4, dtype=torch.float64),))


def test_a_model_without_features_to_mask() -> None:
    class Ensemble(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(torch.randn(4, 6, 16)), nn.Parameter(torch.randn(4, 16, 3))

        def forward(self, x: Tensor) -> Tensor:
            return (torch.relu(x.expand(4, -1, -1) @ self.first) @ self.last).mean(0)

    with pytest.warns(CapacityWarning, match="no feature of this model can be masked"):
        hatify(Ensemble(), num_tasks=2, example_inputs=(torch.randn(3, 6),))


def test_every_exception_is_the_librarys_own() -> None:
    for error in (TaskError, InputError, CaptureError, ConversionError, TrainingError):
        assert issubclass(error, HatifyError)


def test_constants_that_are_part_of_the_graph() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor, scale: float, mask: Tensor | None) -> Tensor:
            return self.linear(x * scale if mask is None else x * mask)

    net, x = hatify(Scaled(), num_tasks=2, example_inputs=(torch.randn(2, 4), 2.0, None)), torch.randn(3, 4)
    assert net(x, 2.0, None).shape == (3, 2)
    with pytest.raises(InputError, match=r"captured with the argument 2\.0"):
        net(x, 3.0, None)
    with pytest.raises(InputError, match="captured with the argument None"):
        net(x, 2.0, torch.ones(4))


@pytest.mark.parametrize("name", ["registry", "learn", "graph", "capacity", "operators", "task_id", "meta"])
def test_names_that_the_converted_network_uses(name: str) -> None:
    original = model()
    original.add_module(name, nn.Linear(2, 2))
    with pytest.raises(ConversionError, match=f"{name!r}.*rename it"):
        hatify(original)


def test_names_that_a_hat_layer_uses() -> None:
    original = model()
    original[0].register_parameter("per_task", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ConversionError, match=r"'0\.per_task' is called 'per_task'"):
        hatify(original)


@pytest.mark.parametrize("use", [lambda net: net(torch.randn(2, 4), task_id=0), lambda net: net.lock_masks(0)])
def test_a_converted_layer_that_was_pruned(use: Callable[[HATModule], Any]) -> None:
    net = hatify(model(), num_tasks=2).eval()
    l1_unstructured(net.get_submodule("0"), "weight", 0.5)
    with pytest.raises(ConversionError, match=r"'0\.weight' is no parameter .* any more: prune .* the model"):
        use(net)
