"""Extraction by operator family: what goes of each, that nothing changes, ONNX, and the reasons of what stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify import hatify
from hatify.verification.trials import draw_masks
from tests.test_extraction import DENSITY, Function, check, converted, size

pytestmark = pytest.mark.filterwarnings("ignore")

ONE_SIDE, BOTH_SIDES = DENSITY, DENSITY**2
SLACK = 0.06  # heads, statistics, and masks that are rounded up


class Recurrent(nn.Module):
    def __init__(self, layer: type[nn.RNNBase], bidirectional: bool) -> None:
        super().__init__()
        self.layer = layer(24, 32, num_layers=2, bidirectional=bidirectional, batch_first=True)
        self.write, self.head = nn.Linear(6, 24), nn.Linear(64 if bidirectional else 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        sequence, state = self.layer(self.write(x))
        last = state[0] if isinstance(state, tuple) else state
        return self.head(sequence.mean(1)) + last.sum()


class Words(nn.Module):
    """Tables of words and places, a norm over their sum, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(7, 32)
        self.norm, self.hidden, self.out, self.head = (
            nn.LayerNorm(32),
            nn.Linear(32, 64),
            nn.Linear(64, 32),
            nn.Linear(32, 3),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(7, device=tokens.device))
        return self.head((x + self.out(self.hidden(self.norm(x)).relu())).mean(1))


def scaled(norm: nn.Module) -> nn.Module:
    return Function(
        lambda m, x: m.head(m.read(m.norm(m.write(x)) * m.scale.weight[0]).relu()),
        write=nn.Linear(6, 32),
        norm=norm,
        scale=nn.Embedding(1, 32),
        read=nn.Linear(32, 32),
        head=nn.Linear(32, 3),
    )


def image_network(*middle: nn.Module, channels: int = 32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), *middle, nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(channels * 64, 3),
    )  # fmt: skip


class ByHand(nn.Module):
    """A norm by root mean square, as language models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), norm, nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 3))


VECTOR, SEQUENCE, IMAGE = (6,), (5, 6), (3, 8, 8)
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "LSTM": (lambda: Recurrent(nn.LSTM, False), SEQUENCE, BOTH_SIDES),
    "LSTM of two directions": (lambda: Recurrent(nn.LSTM, True), SEQUENCE, BOTH_SIDES),
    "GRU": (lambda: Recurrent(nn.GRU, False), SEQUENCE, BOTH_SIDES),
    "GRU of two directions": (lambda: Recurrent(nn.GRU, True), SEQUENCE, BOTH_SIDES),
    "plain RNN": (lambda: Recurrent(nn.RNN, True), SEQUENCE, BOTH_SIDES),
    "group norm": (lambda: image_network(nn.GroupNorm(4, 32), nn.ReLU()), IMAGE, ONE_SIDE),
    "group norm of one group": (lambda: image_network(nn.GroupNorm(1, 32), nn.GELU()), IMAGE, ONE_SIDE),
    "instance norm": (lambda: image_network(nn.InstanceNorm2d(32, affine=True)), IMAGE, ONE_SIDE),
    "grouped convolution": (lambda: image_network(nn.Conv2d(32, 32, 3, padding=1, groups=4)), IMAGE, ONE_SIDE),
    "depthwise convolution": (lambda: image_network(nn.Conv2d(32, 32, 3, padding=1, groups=32)), IMAGE, ONE_SIDE),
    "transposed convolution": (
        lambda: image_network(nn.ConvTranspose2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 1)),
        IMAGE,
        BOTH_SIDES + 0.1,
    ),
    "transposed convolution in groups": (
        lambda: image_network(nn.ConvTranspose2d(32, 32, 3, padding=1, groups=4), nn.ReLU()),
        IMAGE,
        ONE_SIDE,
    ),
    "root mean square norm": (lambda: normed(nn.RMSNorm(32, eps=1e-6)), VECTOR, BOTH_SIDES + 0.05),
    "root mean square norm without eps": (lambda: normed(nn.RMSNorm(32)), VECTOR, BOTH_SIDES + 0.05),
    "root mean square norm by hand": (lambda: normed(ByHand(32)), VECTOR, BOTH_SIDES + 0.05),
    "layer norm without bias": (lambda: normed(nn.LayerNorm(32, bias=False)), VECTOR, BOTH_SIDES + 0.05),
    "layer norm, its scale by hand": (lambda: scaled(nn.LayerNorm(32, elementwise_affine=False)), VECTOR, 0.25),
    "root mean square norm, its scale by hand": (
        lambda: scaled(nn.RMSNorm(32, elementwise_affine=False)),
        VECTOR,
        0.25,
    ),
    "group norm, its scale by hand": (lambda: scaled(nn.GroupNorm(4, 32, affine=False)), VECTOR, 0.35),
    "mean over channels": (
        lambda: Function(
            lambda m, x: m.head(m.read(m.write(x) - m.write(x).mean(1, keepdim=True) * m.write(x))),
            write=nn.Linear(6, 64),
            read=nn.Linear(64, 64),
            head=nn.Linear(64, 3),
        ),
        VECTOR,
        BOTH_SIDES + 0.05,
    ),
}  # fmt: skip


FAMILIES["a shape that another tensor lends"] = (
    lambda: Function(
        lambda m, x: m.head(m.read(m.norm(m.write(x).flatten(0, 1)).reshape_as(m.write(x)).relu())),
        write=nn.Linear(6, 32),
        norm=nn.BatchNorm1d(32),
        read=nn.Linear(32, 32),
        head=nn.Linear(32, 3),
    ),
    SEQUENCE,
    BOTH_SIDES + 0.1,
)


def around(function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> nn.Module:
    return Function(
        lambda m, x: m.head(m.read(function(m, m.write(x))).relu()),
        write=nn.Linear(6, 32),
        read=nn.Linear(32, 32),
        head=nn.Linear(32, 3),
        **layers,
    )


FAMILIES["a roll over the ends of lines"] = (  # two lines of 40, and as many numbers as five lines of what is left
    lambda: Function(
        lambda m, x: m.head(m.read(m.write(x).roll(80)).relu()),
        write=nn.Linear(6, 40),
        read=nn.Linear(40, 32),
        head=nn.Linear(32, 3),
    ),
    SEQUENCE,
    1.0,
)
FAMILIES["layer norm with a bias alone"] = (
    lambda: around(lambda m, x: x * F.layer_norm(x, (32,), None, m.shift.weight[0]), shift=nn.Embedding(1, 32)),
    VECTOR,
    BOTH_SIDES + 0.1,
)
FAMILIES["group norm with a bias alone"] = (
    lambda: around(lambda m, x: x * F.group_norm(x, 4, None, m.shift.weight[0]), shift=nn.Embedding(1, 32)),
    VECTOR,
    BOTH_SIDES + 0.2,
)
FAMILIES["a mean in other numbers"] = (
    lambda: around(
        lambda m, x: x * m.scale(x.mean(-1, keepdim=True, dtype=torch.float64)).float(), scale=nn.Linear(1, 1).double()
    ),
    VECTOR,
    BOTH_SIDES + 0.1,
)


@pytest.mark.parametrize(("model", "shape", "share"), FAMILIES.values(), ids=FAMILIES)
def test_channels_go_and_the_function_stays(
    model: Callable[[], nn.Module], shape: tuple[int, ...], share: float
) -> None:
    original = model()
    net = converted(original, (torch.randn(2, *shape),))
    extracted = net.extract(1)
    check(extracted, net, 1, torch.randn(4, *shape))
    assert size(extracted) < (share + SLACK) * size(original)


def test_tables_lose_columns() -> None:
    model = Words()
    net = converted(model, (torch.zeros(2, 7, dtype=torch.long),))
    extracted = net.extract(0)
    check(extracted, net, 0, torch.randint(50, (3, 7)))
    assert extracted.get_parameter("words.weight").shape == (50, round(DENSITY * 32))
    assert size(extracted) < (ONE_SIDE + SLACK) * size(model)


@pytest.mark.parametrize("name", ["BertModel", "GPT2Model", "LlamaModel"])
def test_language_models(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    if name == "GPT2Model":
        sizes = dict(n_embd=64, n_layer=2, n_head=4)
    config = getattr(transformers, name.replace("Model", "Config"))(
        vocab_size=99, use_cache=False, attn_implementation="eager", **sizes
    )
    backbone = getattr(transformers, name)(config)
    model = Function(
        lambda m, ids: m.head(m.backbone(ids).last_hidden_state[:, 0]), backbone=backbone, head=nn.Linear(64, 3)
    )
    net = converted(model, (torch.randint(99, (2, 8)),))
    extracted = net.extract(0)
    check(extracted, net, 0, torch.randint(99, (3, 8)))
    assert size(extracted) < 0.5 * size(model)


EXPORTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet10t": (lambda: timm.create_model("resnet10t", num_classes=5), (3, 64, 64)),
    "test_vit": (lambda: timm.create_model("test_vit", num_classes=5), (3, 160, 160)),
    "test_convnext": (lambda: timm.create_model("test_convnext", num_classes=5), (3, 160, 160)),
    "LSTM": (lambda: Recurrent(nn.LSTM, False), SEQUENCE),
}


@pytest.mark.parametrize(("model", "shape"), EXPORTED.values(), ids=EXPORTED)
def test_an_extracted_task_runs_under_onnxruntime(
    model: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net = converted(model(), (torch.randn(2, *shape),))
    extracted, x = net.extract(0), torch.randn(3, *shape)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        extracted, (torch.randn(2, *shape),), tmp_path / "task.onnx", dynamo=True, dynamic_shapes=({0: batch},)
    )
    session = onnxruntime.InferenceSession(tmp_path / "task.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = net(x, task_id=0).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_what_stays_has_a_reason() -> None:
    model = Function(
        lambda m, x: m.head(m.first(x).cumsum(1) + m.second(x)),
        first=nn.Linear(6, 20), second=nn.Linear(6, 20), head=nn.Linear(20, 3),
    )  # fmt: skip
    net = hatify(model, 1, example_inputs=(torch.randn(2, 6),)).eval()
    with net.learn(0):
        draw_masks(net, 0, DENSITY)
    staying = net.extract(0).staying
    assert "aten.cumsum.default needs them in their place" in staying["first"]
    assert staying["first"].startswith("12 of 12 unused channels stay")


def test_nothing_stays_of_what_can_go() -> None:
    net = converted(timm.create_model("resnet10t", num_classes=5), (torch.randn(2, 3, 64, 64),))
    assert net.extract(0).staying == {}
