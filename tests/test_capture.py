"""Capture: the converted network behaves as the model in train and eval mode, whatever it takes and gives."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from hatify import HATModule, hatify, load, save
from hatify.errors import CaptureWarning, InputError
from hatify.verification.trials import draw_masks, perturb, plastic_share, relative_difference
from tests.rewriters.promises import ideal


def equal_in_both_modes(model: nn.Module, net: HATModule, x: Tensor) -> None:
    for training in (True, False):
        reference, copied = copy.deepcopy(model).train(training), copy.deepcopy(net).train(training)
        torch.manual_seed(1)
        expected = reference(x)
        torch.manual_seed(1)
        assert relative_difference(copied(x), expected) < 1e-5
        for name, buffer in reference.named_buffers():
            assert torch.equal(copied.get_buffer(name), buffer), name


def test_the_graph_shows_the_plumbing_under_the_old_paths() -> None:
    model = timm.create_model("resnet10t", num_classes=4)
    net = hatify(model, num_tasks=2)
    assert isinstance(net, GraphModule)
    modules = [n.target for n in net.graph.nodes if n.op == "call_module"]
    assert {"registry", "layer1.0.conv1", "layer1.0.bn1", "fc"} <= set(modules)
    placeholders = [n.name for n in net.graph.nodes if n.op == "placeholder"]
    assert placeholders == ["x", "task_id", "mask_scale"]
    assert set(model.state_dict()) <= set(net.state_dict())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_model_is_left_as_it_was() -> None:
    model = timm.create_model("resnet10t", num_classes=4).eval()
    model.bn1.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = {name: module.training for name, module in model.named_modules()}
    net = hatify(model, num_tasks=2)
    with net.learn(0, steps=1):
        net.train()(torch.randn(2, 3, 176, 176)).sum().backward()
        torch.optim.SGD(net.parameters(), lr=1.0).step()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Writes(nn.Module):
    """Keeps what it saw, and writes into the dictionary that it is given, as sentence encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
        self.seen: Tensor | None = None
        self.cache: dict[str, Tensor] = {}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        self.seen = self.cache["last"] = torch.relu(self.first(features["x"]))
        features["output"] = self.last(self.seen)
        return features


def test_so_are_its_attributes_and_the_example_inputs() -> None:
    model, example = Writes(), {"x": torch.randn(3, 8)}
    net = hatify(model, example_inputs=(example,))
    assert model.seen is None and not model.cache and list(example) == ["x"]
    x = torch.randn(5, 8)
    assert torch.equal(net({"x": x})["output"], model({"x": x})["output"])


class Unchangeable(dict[str, float]):
    """A configuration, as diffusers has it."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("cannot be changed")


class Sharing(nn.Module):
    """Two modules hand on values in a list that both have."""

    def __init__(self) -> None:
        super().__init__()
        self.config = Unchangeable(scale=2.0)
        self.handed_on: list[Tensor | None] = [None]
        self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)
        self.write.handed_on = self.handed_on

    def forward(self, x: Tensor) -> Tensor:
        self.write.handed_on[0] = self.write(x)
        return self.read(self.handed_on[0]) * self.config["scale"]


def test_and_the_containers_that_it_holds() -> None:
    model, x = Sharing(), torch.randn(4, 3)
    net = hatify(model, num_tasks=2)
    assert model.config == {"scale": 2.0}
    assert model.write.handed_on is model.handed_on
    assert model.handed_on == [None]
    assert torch.equal(net(x), model(x))


class WithState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Embedding(30, 16), nn.GRU(16, 16, 2, batch_first=True)
        self.head = nn.Linear(16, 30)

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        outputs, state = self.recurrent(self.embed(tokens), state)
        return self.head(outputs), state


def test_the_batch_is_where_its_size_stands() -> None:
    """A recurrent layer's state is (layers, batch, features)."""
    model = WithState()
    net = hatify(model, example_inputs=(torch.randint(30, (5, 6)), torch.zeros(2, 5, 16)))
    call = torch.randint(30, (3, 6)), torch.randn(2, 3, 16)
    assert all(map(torch.equal, net(*call), model(*call)))


def test_training_mode_is_the_models() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert hatify(model.eval()).training is False
    assert hatify(model.train()).training is True


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet10t", {"drop_path_rate": 0.5, "drop_rate": 0.3}, 32),
        ("test_vit", {"drop_path_rate": 0.5, "attn_drop_rate": 0.3, "proj_drop_rate": 0.2}, 160),
        ("test_convnext", {"drop_path_rate": 0.5}, 64),
        ("test_efficientnet", {"drop_path_rate": 0.5}, 64),
    ],
)
def test_dropout_and_stochastic_depth_in_train_and_eval_mode(name: str, options: dict[str, float], size: int) -> None:
    model = timm.create_model(name, num_classes=5, **options)
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 3, size, size),))
    equal_in_both_modes(model, net, torch.randn(4, 3, size, size))


def test_batch_statistics_belong_to_the_task() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 1, 6, 6),)).train()
    with torch.no_grad():
        net(torch.randn(8, 1, 6, 6) + 3, task_id=1)
    assert torch.equal(net.get_buffer("1.running_mean"), torch.zeros(4))
    assert torch.equal(net.get_buffer("1.per_task.0.running_mean"), torch.zeros(4))
    assert not torch.equal(net.get_buffer("1.per_task.1.running_mean"), torch.zeros(4))
    assert int(net.get_buffer("1.per_task.1.num_batches_tracked")) == 1


@dataclass
class Result:
    logits: Tensor
    features: dict[str, Tensor]


torch.export.register_dataclass(Result)


class SeveralInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.image, self.head = nn.Embedding(9, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(
        self, tokens: Tensor, *, extra: dict[str, Tensor], scale: float = 2.0, mask: Tensor | None = None
    ) -> Result:
        x = self.embed(tokens).mean(1) + self.image(extra["image"]) * scale
        if mask is not None:
            x = x * mask[:, None]
        return Result(self.head(F.relu(x)), {"features": x, "pair": (x, x + 1)})


def test_keyword_inputs_and_nested_outputs_are_kept() -> None:
    model = SeveralInputs().eval()

    def call(batch: int) -> tuple[tuple[Tensor], dict[str, object]]:
        tokens, image = torch.randint(9, (batch, 4)), torch.randn(batch, 5)
        return (tokens,), {"extra": {"image": image}, "mask": torch.rand(batch)}

    net = hatify(model, num_tasks=2, example_inputs=call(2))
    args, kwargs = call(5)
    actual, expected = net(*args, **kwargs), model(*args, **kwargs)
    assert isinstance(actual, Result)
    assert torch.equal(actual.logits, expected.logits)
    assert torch.equal(actual.features["pair"][1], expected.features["pair"][1])
    assert torch.equal(net(tokens=args[0], **kwargs).logits, expected.logits)
    assert net(*args, **kwargs, task_id=1).logits.shape == (5, 3)


def test_transformers_models_keep_their_output_type() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).eval()
    inputs = {"input_ids": torch.randint(50, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    net = hatify(model, num_tasks=2, example_inputs={k: v[:2] for k, v in inputs.items()})
    output = net(**inputs)
    assert type(output) is type(model(**inputs))
    assert relative_difference(output.logits, model(**inputs).logits) < 1e-5


class Unshuffled(nn.Sequential):
    """Its first convolution, as of some models of timm, does not see the image."""

    pretrained_cfg: ClassVar = {"input_size": (3, 16, 16), "first_conv": []}

    def __init__(self) -> None:
        super().__init__(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 1), nn.Flatten(), nn.Linear(128, 3))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (timm.create_model("test_vit", num_classes=3), (4, 3, 160, 160)),
        (timm.create_model("resnet10t", num_classes=3, in_chans=1), (4, 1, 176, 176)),
        (Unshuffled(), (4, 3, 16, 16)),
        (nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)), (4, 5)),
        (
            nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2)),
            (4, 2, 32),
        ),
    ],
)
def test_example_inputs_are_inferred(model: nn.Module, shape: tuple[int, ...]) -> None:
    net = hatify(model.eval(), num_tasks=2)
    x = torch.randn(shape)
    assert relative_difference(net(x), model(x)) < 1e-5


def test_any_batch_size() -> None:
    model = timm.create_model("test_vit", num_classes=3).eval()
    net = hatify(model, num_tasks=2)
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 160, 160)
        assert relative_difference(net(x), model(x)) < 1e-5


def test_arguments_at_their_default_value_may_be_spelled_out_or_left_out() -> None:
    model = SeveralInputs().eval()
    tokens, extra = torch.randint(9, (5, 4)), {"image": torch.randn(5, 5)}
    expected = model(tokens, extra=extra).logits
    brief, explicit = {"extra": extra}, {"extra": extra, "scale": 2.0, "mask": None}
    for example, call in ((brief, explicit), (explicit, brief)):
        assert torch.equal(hatify(model, example_inputs=((tokens,), example))(tokens, **call).logits, expected)


def test_a_batch_size_that_is_part_of_the_graph_is_named() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.reshape(len(x), 4))

    with pytest.warns(CaptureWarning, match="batches of 3 only"):
        net = hatify(Counting(), example_inputs=(torch.randn(3, 4),))
    with pytest.raises(InputError, match=r"expected an input of shape \(3, 4\), got \(5, 4\)"):
        net(torch.randn(5, 4))


def test_double_and_half_precision_follow_the_network() -> None:
    model = nn.Sequential(nn.Embedding(7, 8), nn.LSTM(8, 6, batch_first=True))
    net = hatify(model, num_tasks=2, example_inputs=(torch.randint(7, (2, 4)),))
    output, _ = net.double()(torch.randint(7, (3, 4)), task_id=0)
    assert output.dtype == torch.float64
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    halved = hatify(convolution, num_tasks=2, example_inputs=(torch.randn(2, 1, 6, 6),)).bfloat16()
    assert halved(torch.randn(2, 1, 6, 6).bfloat16(), task_id=1).dtype == torch.bfloat16


def test_a_layer_that_forward_casts_to_the_dtype_that_it_has() -> None:
    class Casts(nn.Module):
        """As transformers' routers: the layer is assigned anew in forward."""

        def __init__(self) -> None:
            super().__init__()
            self.router, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.router = self.router.to(x.dtype)
            return self.head(self.router(x).relu())

    model = Casts()
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 4),))
    assert {"router", "head"} <= {node.target for node in net.graph.nodes if node.op == "call_module"}
    equal_in_both_modes(model, net, torch.randn(3, 4))
    assert model.half().router.weight.dtype is torch.float16


def test_in_place_operators_on_shared_tensors() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            active = hidden.relu_()
            hidden += 1
            return self.second(hidden + active)

    model = InPlace().eval()
    net = hatify(model, num_tasks=2)
    x = torch.randn(3, 4)
    assert torch.equal(net(x), model(x))


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.BatchNorm2d(4, affine=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.InstanceNorm2d(4, affine=True),
    ],
)
def test_norms_with_and_without_running_statistics(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(64, 2))
    perturb(model)
    equal_in_both_modes(model, hatify(model, example_inputs=(torch.randn(2, 1, 6, 6),)), torch.randn(4, 1, 6, 6))


def test_state_that_forward_changes_in_eval_mode_is_named_and_each_tasks_own() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            return self.linear(x) * self.count

    with pytest.warns(CaptureWarning, match="count"):
        net = hatify(Counting(), num_tasks=2)
    net.eval()(torch.randn(4, 3), task_id=1)
    assert [float(net.get_buffer(f"operators.count.per_task.{task}.count")) for task in (0, 1)] == [0.0, 1.0]


def test_a_constant_in_forward_is_no_state() -> None:
    class Repeating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            places = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
            places += 1
            return self.read(self.write(x).index_select(1, places))

    model, x = Repeating(), torch.randn(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = hatify(model, num_tasks=2)
    assert torch.equal(net(x), model(x))
    assert torch.equal(net(x), model(x))
    assert not net.blueprint.task_indexed - {"read.weight", "read.bias"}


class Sign(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Reversed(torch.autograd.Function):
    """A gradient that goes back with the other sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(3, 8), function, nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def test_a_derivative_that_is_not_captured_is_named() -> None:
    with pytest.warns(CaptureWarning, match="Sign: .* not the backward"):
        hatify(Between(Sign.apply))
    with pytest.warns(CaptureWarning, match="CheckpointFunction: "):
        hatify(Between(lambda x: checkpoint(torch.tanh, x, use_reentrant=True)))


def reversed_by_a_hook(x: Tensor) -> Tensor:
    y = x.tanh()
    if y.requires_grad:
        y.register_hook(torch.neg)
    return y


def test_a_hook_that_does_not_run_is_named() -> None:
    with pytest.warns(CaptureWarning, match="hooks on gradients"):
        hatify(Between(reversed_by_a_hook))


@pytest.mark.parametrize(
    ("function", "written"),
    [(Sign.apply, lambda x: x + (x.sign() - x).detach()), (Reversed.apply, lambda x: 2 * x.detach() - x)],
    ids=["straight through", "reversed"],
)
def test_what_the_warning_says_to_write_has_the_derivative(
    function: Callable[[Tensor], Tensor], written: Callable[[Tensor], Tensor]
) -> None:
    model, x = Between(function), torch.randn(4, 3)
    model(x).sum().backward()
    other = Between(written)
    other.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaptureWarning)
        net = hatify(other).train()
    with net.learn(0):
        net(x, mask_scale=1e4).sum().backward()
    gradient = model.first.weight.grad
    assert gradient is not None
    torch.testing.assert_close(net.first.weight.grad, gradient)


def test_a_model_without_weights_in_memory() -> None:
    with torch.device("meta"):
        model = timm.create_model("test_vit", num_classes=3)
    real = timm.create_model("test_vit", num_classes=3)
    net, expected = hatify(model, num_tasks=2), hatify(real, num_tasks=2)
    assert all(parameter.is_meta for parameter in net.parameters())
    assert net.capacity() == expected.capacity()
    assert {n: g.members for n, g in net.registry.groups.items()} == {
        n: g.members for n, g in expected.registry.groups.items()
    }


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.write(x).unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads)
        return self.read(mixed.transpose(1, 2).contiguous().view(x.shape[0], -1, 8))


def test_another_kernel_for_attention() -> None:
    model, x = Attending(), torch.randn(2, 5, 3)
    net = hatify(model, num_tasks=2, example_inputs=(x,))
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.equal(net(x), model(x))


def test_a_memory_format_is_kept() -> None:
    class ChannelsLast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to(memory_format=torch.channels_last)

    net = hatify(
        nn.Sequential(nn.Conv2d(3, 4, 1), ChannelsLast()), num_tasks=2, example_inputs=(torch.randn(2, 3, 8, 8),)
    )
    assert net(torch.randn(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("function", [lambda v: v.clone().mul_(2), lambda v: v * torch.tensor([1.0, 2.0] * 4)])
def test_writes_and_constants_under_vmap(function: Callable[[Tensor], Tensor]) -> None:
    class PerExample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.read = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(torch.vmap(function)(self.write(x)).relu())

    model, x = PerExample(), torch.randn(4, 3)
    assert torch.equal(hatify(model, num_tasks=2)(x), model(x))


class InFullPrecision(nn.Module):
    """As rotary embeddings and quantisers have it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.write, self.middle, self.head = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.write(x).relu()
        with torch.autocast(self.device, enabled=False):
            x = self.middle(x.float()).relu()
        return self.head(x)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_block_without_autocast_is_part_of_the_graph(device: str, tmp_path: Path) -> None:
    model, x = InFullPrecision(device), torch.randn(4, 3)
    net = hatify(model, num_tasks=2)
    assert not net.blueprint.unknown and not net.blueprint.unfollowed
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(x), model(x))
    assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(x), net(x))
    with net.learn(0):
        draw_masks(net, 0)
    assert plastic_share(net, 1) >= ideal(one_sided=16 * 5, two_sided=16 * 16)
    expected = net.eval()(x, task_id=0)
    assert relative_difference(net.extract(0)(x), expected) < 1e-6
    save(net, tmp_path / "net.safetensors")
    assert torch.equal(load(tmp_path / "net.safetensors")(x, task_id=0), expected)


def test_data_of_tensors_and_parameters() -> None:
    class StraightThrough(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.middle, self.read = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.write(x).relu()
            return self.read(x + (self.middle(x).round() - x).data * self.middle.weight.data.norm())

    model, x = StraightThrough(), torch.randn(4, 3, requires_grad=True)
    net = hatify(model, num_tasks=2).requires_grad_(False)
    assert torch.equal(net(x), model(x))
    ours, theirs = (torch.autograd.grad(network(x).sum(), x)[0] for network in (net, model))
    assert torch.equal(ours, theirs)
    assert "data" not in torch.Tensor.__dict__


def test_an_error_in_a_block_without_autocast_leaves_no_level_open() -> None:
    net = hatify(InFullPrecision("cpu"), num_tasks=2)
    del net.middle.weight
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(AttributeError):
            net(torch.randn(4, 3))
        assert torch.autocast_increment_nesting() == 2
        torch.autocast_decrement_nesting()
