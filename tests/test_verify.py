"""`verify(net)` says yes to what is sound, and names what is not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from hatify import HATModule, hatify, load, save, verify
from hatify.errors import FileError, HatifyError, InputError
from hatify.verification.trials import draw_masks, perturb
from tests.strangers import STRANGERS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4)
    perturb(model)
    return model


@pytest.fixture
def net(model: nn.Module) -> HATModule:
    """Two trained tasks and one to come."""
    net = hatify(model, num_tasks=3, example_inputs=(torch.randn(2, 3, 32, 32),))
    for task in range(2):
        with net.train().learn(task, steps=1):
            draw_masks(net, task)
    return net


def failed(net: HATModule, **kwargs: object) -> list[str]:
    return [check.name for check in verify(net, **kwargs) if not check.ok]  # type: ignore[arg-type]


def test_a_sound_network_before_and_after_training(model: nn.Module, net: HATModule) -> None:
    fresh = hatify(model, example_inputs=(torch.randn(2, 3, 32, 32),))
    before = copy.deepcopy(net.state_dict())
    for report in (verify(fresh, model=model), verify(net)):
        assert report.ok, str(report)
        assert "verified" in str(report) and str(report).count("│ ok │") == 6
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_network_with_other_numbers(net: HATModule, dtype: torch.dtype) -> None:
    report = verify(net.to(dtype))
    assert not {check.name for check in report if not check.ok} - {"unmoved"}, str(report)


@pytest.mark.parametrize("name", list(STRANGERS)[::9])
def test_strangers_are_verified(name: str) -> None:
    stranger = STRANGERS[name]
    net = hatify(stranger.model(), num_tasks=2, example_inputs=stranger.inputs(2))
    report = verify(net, example_inputs=stranger.inputs(3))
    assert [check.name for check in report if not check.ok] in ([], ["tightness"]), str(report)


def test_a_model_that_writes_into_its_input_and_holds_whole_numbers() -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.randint(-9, 9, (16, 16), dtype=torch.int8), requires_grad=False)
            self.write, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.write(x.mul_(2)) @ self.codes.float()))

    net = hatify(Quantized(), num_tasks=2, example_inputs=(torch.randn(2, 6),))
    x = torch.randn(3, 6)
    before = x.clone()
    assert verify(net, example_inputs=(x,)).ok
    assert torch.equal(x, before)
    with net.learn(0):
        pass
    assert net.eval()(x, task_id=0).isfinite().all()


def test_an_update_that_goes_round_the_optimizer_is_named(net: HATModule, tmp_path: Path) -> None:
    save(net, tmp_path / "net.safetensors")
    for moved in (net, load(tmp_path / "net.safetensors")):
        moved.get_parameter("layer1.0.conv1.weight").data.add_(1e-3)
        (unmoved,) = [check for check in verify(moved) if check.name == "unmoved"]
        assert not unmoved.ok and "layer1.0.conv1.weight" in unmoved.seen
        assert moved.moved_since_trained(0) == ("layer1.0.conv1.weight",)


def test_what_belongs_to_no_trained_task_may_move(net: HATModule) -> None:
    free = ~net.lock_masks(2)["layer1.0.conv1.weight"]
    parameter = net.get_parameter("layer1.0.conv1.weight")
    parameter.data[free] += 1.0
    net.registry.groups["layer1.0.conv1"].embedding(2).data.fill_(-1.0)
    assert failed(net) == []


def test_forgetting_and_loading_are_no_moves(net: HATModule) -> None:
    other = copy.deepcopy(net)
    net.forget(0)
    assert failed(net) == []
    other.load_state_dict(copy.deepcopy(other).state_dict() | {"conv1.0.weight": torch.ones(24, 3, 3, 3)})
    assert failed(other) == []


def test_a_parameter_exchanged_by_hand_has_no_hook(net: HATModule) -> None:
    layer = net.get_submodule("layer1.0.conv1")
    layer.weight = nn.Parameter(layer.weight.detach().clone())
    report = verify(net)
    assert [check.name for check in report if not check.ok] == ["hooks"]
    assert "layer1.0.conv1.weight" in str(report)


def test_another_model_is_no_equivalent(net: HATModule, model: nn.Module) -> None:
    other = copy.deepcopy(model)
    perturb(other)
    assert "equivalence" in failed(net, model=other)


def test_a_lock_that_leaks_is_found(net: HATModule) -> None:
    """Without its lock rules, training a task would move the others."""
    table = net.registry.locks
    table.lock = lambda name, taken, any_locked, shape: torch.zeros(shape, dtype=torch.bool)  # type: ignore[method-assign]
    assert {"scramble", "training"} <= set(failed(net))


def test_locking_everything_is_not_tight(model: nn.Module) -> None:
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 3, 32, 32),))
    net.registry.locks.terms = {}
    assert failed(net) == ["tightness"]


class Choice(nn.Module):
    """Returns whole numbers and truth values only."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(self.hidden(x).relu())
        return logits.argmax(1), logits > 0


def test_outputs_that_are_no_floating_point_numbers_are_compared() -> None:
    torch.manual_seed(0)
    model, x = Choice(), torch.randn(16, 6)
    net = hatify(model, num_tasks=2, example_inputs=(x,))
    assert failed(net, model=model, example_inputs=(x,)) == []
    assert "equivalence" in failed(net, model=Choice(), example_inputs=(x,))
    table = net.registry.locks
    table.lock = lambda name, taken, any_locked, shape: torch.zeros(shape, dtype=torch.bool)  # type: ignore[method-assign]
    assert "scramble" in failed(net, example_inputs=(x,))


class Packed(nn.Module):
    """Lengths must be above zero, and a packed sequence goes into a layer that is called as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.recurrent(packed)
        return self.head(hidden[-1])


@pytest.mark.filterwarnings("ignore")
def test_inputs_that_cannot_be_made_up_and_a_structure_that_cannot_be_saved(tmp_path: Path) -> None:
    inputs = torch.randn(3, 5, 4), torch.tensor([2, 5, 3])
    net = hatify(Packed(), num_tasks=2, example_inputs=inputs)
    with pytest.raises(InputError, match="give example_inputs"):
        verify(net)
    assert {check.name for check in verify(net, example_inputs=inputs) if not check.ok} <= {"tightness"}
    with pytest.raises(FileError, match="PackedSequence"):
        save(net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_verified() -> None:
    with pytest.raises(HatifyError, match="a network that hatify has converted, got Linear"):
        verify(nn.Linear(2, 2))  # type: ignore[arg-type]
    with torch.device("meta"):
        net = hatify(nn.Linear(4, 4), example_inputs=(torch.randn(2, 4),))
    with pytest.raises(HatifyError, match="meta device"):
        verify(net)
