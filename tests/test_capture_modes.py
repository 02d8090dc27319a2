"""Train and eval mode: whatever a model does in one of them alone, the converted network does there alone."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hatify import HATModule, hatify, load, save
from hatify.capture.modes import when_training
from hatify.verification.trials import draw_masks, perturb, relative_difference, scramble


class Network(nn.Module):
    """Two layers; subclasses say what happens between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)).relu())

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Noise(Network):
    def between(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


class NoiseAsLargeAsTheSignal(Network):
    def between(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * x.detach().std() if self.training else x


class DropPath(Network):
    """As transformers writes it."""

    def between(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = 0.7 + torch.rand((x.shape[0], 1), dtype=x.dtype, device=x.device)
        kept.floor_()
        return x.div(0.7) * kept


class DropoutIfTraining(Network):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3) if self.training else x


class DropoutReadTwice(Network):
    """Its numbers are drawn once, whoever reads them."""

    def between(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, 0.3) if self.training else x
        return dropped + dropped.tanh()


class NoiseReadTwiceThenDropped(Network):
    def between(self, x: Tensor) -> Tensor:
        changed = F.dropout(x * torch.rand_like(x), 0.3) if self.training else x
        return changed.tanh() - self.second.weight[0] * changed


class DropoutReadInTrainModeAlone(Network):
    def between(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, 0.3) if self.training else x
        shifted = dropped.tanh()
        return shifted * dropped.sigmoid().sum(1, keepdim=True) if self.training else shifted


class AttentionThatReturnsItsWeights(Network):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)

    def between(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(1) * torch.arange(1.0, 4.0).reshape(3, 1)
        out, weights = self.attention(tokens, tokens, tokens)
        return out.sum(1) + weights.sum((1, 2)).unsqueeze(1)


class DropoutOfAWeight(Network):
    """As DeBERTa's relative positions: each layer drops entries of the same parameter anew."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.dropout = nn.Parameter(torch.randn(6)), nn.Dropout(0.3)

    def between(self, x: Tensor) -> Tensor:
        return (x + self.dropout(self.bias)) * self.dropout(self.bias)


class AlwaysDropout(Network):
    def between(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3)


class TwoFunctions(Network):
    def between(self, x: Tensor) -> Tensor:
        if self.training:
            x.mul_(2)
            return x - x.mean(0)
        return x.tanh()


class OwnStatistics(Network):
    """Running statistics by hand, some of them under no_grad, in whole and in part."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("history", torch.zeros(3, 6))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def between(self, x: Tensor) -> Tensor:
        if not self.training:
            return x - self.mean + self.history[0]
        self.batches += 1
        mean = x.mean(0)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * mean)
            self.history[0] = mean
            self.history[1:].copy_(mean)
        return x - mean


class StatisticsReadBack(OwnStatistics):
    """The state is read after it was written, in both modes."""

    def between(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.copy_(0.5 * self.mean + 0.5 * x.detach().mean(0))
            self.history[2] += 1
        return x * self.mean + self.history[2]


class StateInAPlainAttribute(Network):
    """A tensor that is no buffer: PyTorch neither saves nor moves it, but it is state all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.inner.steps = torch.zeros(6)

    def between(self, x: Tensor) -> Tensor:
        if self.training:
            self.inner.steps[:3] += 1
        return x + self.inner.steps


class NormOfTrainMode(Network):
    """A norm that eval mode doesn't run: there its statistics must not move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.training else x


class Spectral(Network):
    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))

    def between(self, x: Tensor) -> Tensor:
        return self.middle(x)


MODELS = [
    Noise,
    NoiseAsLargeAsTheSignal,
    DropPath,
    DropoutIfTraining,
    DropoutReadTwice,
    NoiseReadTwiceThenDropped,
    DropoutReadInTrainModeAlone,
    AttentionThatReturnsItsWeights,
    DropoutOfAWeight,
    AlwaysDropout,
    TwoFunctions,
    OwnStatistics,
    StatisticsReadBack,
    StateInAPlainAttribute,
    NormOfTrainMode,
    Spectral,
]


@pytest.mark.parametrize("kind", MODELS)
def test_each_mode_is_the_models(kind: type[Network]) -> None:
    model = kind()
    perturb(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),))
    for training in (True, False, False, True, False):
        model.train(training)
        net.train(training)
        x = torch.randn(5, 4)
        torch.manual_seed(1)
        expected = model(x)
        torch.manual_seed(1)
        assert torch.equal(net(x), expected)
        for name, buffer in model.named_buffers():
            assert torch.equal(net.get_buffer(name), buffer), name


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind is not AlwaysDropout])
def test_a_trained_task_stays_as_it_is(kind: type[Network]) -> None:
    model = kind()
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),))
    draw_masks(net, 0)
    net.train()(torch.randn(5, 4), task_id=0)
    net.registry.trained.append(0)
    x = torch.randn(5, 4)
    before = answer(net, x)
    net.train()(torch.randn(5, 4), task_id=1)
    scramble(net, 1)
    assert torch.equal(answer(net, x), before)
    assert torch.equal(answer(net, x), before)


@torch.no_grad()
def answer(net: HATModule, x: Tensor) -> Tensor:
    return net.eval()(x, task_id=0)


def test_dropouts_of_one_parameter_need_no_choice_between_modes() -> None:
    net = hatify(DropoutOfAWeight(), num_tasks=2)
    assert not [node for node in net.graph.nodes if node.target is when_training]


def test_gradients_in_train_mode() -> None:
    for kind in (OwnStatistics, StatisticsReadBack, DropPath, TwoFunctions, Spectral):
        model = kind()
        net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),)).requires_grad_(False)
        x = torch.randn(5, 4)
        gradients = []
        for module in (copy.deepcopy(model), net):
            torch.manual_seed(1)
            leaf = x.clone().requires_grad_()
            module(leaf).square().sum().backward()
            gradients.append(leaf.grad)
        assert torch.equal(*gradients), kind


def test_outputs_of_another_structure_in_train_mode() -> None:
    class Auxiliary(nn.Module):
        """As Inception and GoogLeNet: one more head in train mode."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
            x = self.body(x).relu()
            if self.training:
                return {"logits": self.head(x), "auxiliary": self.auxiliary(x)}
            return self.head(x)

    model = Auxiliary()
    net = hatify(model, num_tasks=2)
    x = torch.randn(3, 4)
    expected = model(x)
    actual = net(x)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert torch.equal(net.eval()(x), model.eval()(x))
    assert operators(net.eval(), x) == 2 * ["aten.addmm.default"]
    assert operators(net.train(), x) == 3 * ["aten.addmm.default"]


def test_frozen_encoder_layers_of_pytorch() -> None:
    """Frozen, they use a fused operator in eval mode, which the converted network doesn't."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True).requires_grad_(False)
    model = nn.Sequential(layer, nn.Linear(8, 3))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 5, 8),))
    assert not net.blueprint.unknown
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(net.eval()(x), model.eval()(x))
    torch.manual_seed(1)
    expected = model.train()(x)
    torch.manual_seed(1)
    assert torch.equal(net.train()(x), expected)


def operators(net: nn.Module, x: Tensor) -> list[str]:
    """The layers that a call computes."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    called: list[str] = []
    with Watch():
        net(x)
    return [name for name in called if name.startswith(("aten.addmm", "aten.bernoulli", "aten.argsort"))]


@pytest.mark.parametrize("options", [{"patch_drop_rate": 0.5}, {"drop_path_rate": 0.2}], ids=["patches", "paths"])
def test_each_mode_computes_its_own_only(options: dict[str, float], tmp_path: Path) -> None:
    model = timm.create_model("test_vit", num_classes=4, **options)
    perturb(model)
    converted = hatify(model, num_tasks=2)
    save(converted, tmp_path / "net.safetensors")
    x = torch.randn(3, 3, 160, 160)
    for net in (converted, copy.deepcopy(converted), load(tmp_path / "net.safetensors")):
        for training in (True, False):
            torch.manual_seed(0)
            expected = model.train(training)(x)
            torch.manual_seed(0)
            assert torch.equal(net.train(training)(x), expected)
            assert operators(net, x) == operators(model, x)


class FewerTokens(nn.Module):
    """Leaves tokens out in train mode, as patch dropout does."""

    def __init__(self, rest: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.write, self.middle, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.places = nn.Parameter(torch.randn(9, 8))
        self.rest = rest

    def forward(self, x: Tensor) -> Tensor:
        x = self.write(x).relu()
        return self.head(self.rest(self, x[:, :3] if self.training else x))


@pytest.mark.parametrize(
    "rest",
    [
        lambda m, x: m.middle(x.reshape(-1, 8)).view(x.shape).mean(1),
        lambda m, x: m.attention(x, x, x, need_weights=False)[0].mean(1),
        lambda m, x: m.middle(x + m.places[: x.shape[1]]).relu().mean(1),
        lambda m, x: m.middle(x).transpose(1, 2).reshape(x.shape).sum(1),
    ],
    ids=["flattened", "attention", "places", "features elsewhere"],
)
def test_fewer_tokens_in_train_mode(rest: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model, x = FewerTokens(rest), torch.randn(4, 9, 3)
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=(x[:2],))
    for training in (True, False):
        assert relative_difference(net.train(training)(x), model.train(training)(x)) < 1e-6
    with net.learn(0):
        draw_masks(net, 0)
    before = net(x, task_id=0)
    scramble(net, 1)
    assert torch.equal(net(x, task_id=0), before)
