"""`net.extract(t)`: the task's function as a plain module, without the channels that it does not use."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from hatify import HATModule, hatify
from hatify.errors import ExtractionError, TaskError
from hatify.verification.trials import draw_masks, perturb

DENSITY = 0.4

# The largest share of the parameters that may be left: 0.4 ** 2 where both sides of a weight are masked.
MODELS = {
    "resnet10t": 0.18,
    "test_vit": 0.25,
    "test_convnext": 0.21,
    "test_byobnet": 0.25,
    "mobilenetv3_small_050": 0.21,
}


def converted(model: nn.Module, inputs: tuple[Tensor, ...], num_tasks: int = 2) -> HATModule:
    perturb(model)
    net = hatify(model, num_tasks=num_tasks, example_inputs=inputs).eval()
    for task_id in range(num_tasks):
        with net.learn(task_id):
            draw_masks(net, task_id, DENSITY)
    return net


def check(extracted: nn.Module, net: HATModule, task_id: int, *args: Any, **kwargs: Any) -> None:
    with torch.no_grad():
        expected = net(*args, **kwargs, task_id=task_id)
        torch.testing.assert_close(extracted(*args, **kwargs), expected, rtol=1e-5, atol=1e-5 * _largest(expected))


def _largest(output: Any) -> float:
    return max(float(t.abs().max()) for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor))


def size(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.state_dict().values())


@pytest.mark.parametrize(("name", "share"), MODELS.items(), ids=MODELS)
def test_an_extracted_task_is_the_task_and_smaller(name: str, share: float) -> None:
    model = timm.create_model(name, num_classes=5)
    shape = model.pretrained_cfg["input_size"]
    net = converted(model, (torch.randn(2, *shape),))
    extracted = net.extract(1)
    check(extracted, net, 1, torch.randn(3, *shape))
    assert size(extracted) < share * size(model)


class Encoder(nn.Module):
    """Keyword inputs, a dictionary as output, attention by hand, and a table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.words(tokens))
        q, k, v = (layer(x).view(x.shape[0], -1, 2, 8).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2)) / 8**0.5 + mask[:, None, None]
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return {"logits": self.head((x + self.out(mixed)).mean(1)), "hidden": x}


def test_inputs_and_outputs_keep_their_structure() -> None:
    model = Encoder()
    perturb(model)
    tokens, mask = torch.randint(20, (4, 6)), torch.zeros(4, 6)
    net = hatify(model, num_tasks=1, example_inputs=((tokens[:2],), {"mask": mask[:2]})).eval()
    with net.learn(0):
        draw_masks(net, 0, DENSITY)
    check(net.extract(0), net, 0, tokens, mask=mask)


class Summed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return self.head(torch.relu(self.embed(first) + sum(self.embed(other) for other in others)))


class LooksUp(nn.Module):
    """A row of a table for each feature."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.table, self.head = nn.Linear(4, 16), nn.Embedding(2, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table((self.write(x) > 0).long()).mean(1))


class AlongTokens(nn.Module):
    """Features lie in rows, and what reads them runs along another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.read, self.head = nn.Linear(4, 16), nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.write(x[:, None].expand(-1, 5, -1)).reshape(-1, 16, 5).transpose(1, 2)
        return self.head(torch.relu(self.read(tokens)).mean(1))


class Gathers(nn.Module):
    """A loop that begins with an empty tensor; a product whose bias is a row; integers that are gated."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.weight = nn.Linear(4, 16), nn.Parameter(torch.randn(48, 16) / 4)
        self.bias, self.head = nn.Parameter(torch.randn(1, 16)), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        gathered = torch.tensor([])
        for step in range(3):
            gathered = torch.cat([gathered, torch.relu(self.write(x) + step)], 1)
        classes = nn.functional.one_hot((gathered.sigmoid() * 3).long() + 1, 5).sum(2)
        return self.head(torch.addmm(self.bias, gathered * classes, self.weight))


@pytest.mark.parametrize("model", [LooksUp, AlongTokens, Gathers])
def test_what_looks_unlike_a_layer(model: Callable[[], nn.Module]) -> None:
    x = torch.randn(3, 4)
    net = converted(model(), (x,))
    check(net.extract(1), net, 1, x)


def test_any_number_of_arguments() -> None:
    inputs = tuple(torch.randn(3, 4) for _ in range(3))
    net = converted(Summed(), inputs)
    check(net.extract(1), net, 1, *inputs)


def test_a_mask_that_leaves_all_or_one_feature() -> None:
    net = converted(timm.create_model("test_vit", num_classes=5), (torch.randn(2, 3, 160, 160),))
    x = torch.randn(2, 3, 160, 160)
    for density in (1.0, 0.0):
        draw_masks(net, 0, density)
        check(net.extract(0), net, 0, x)


def test_an_extracted_task_runs_where_there_is_no_hatify() -> None:
    net = converted(timm.create_model("resnet10t", num_classes=5), (torch.randn(2, 3, 32, 32),))
    x = torch.randn(2, 3, 32, 32)
    extracted = net.extract(0)
    file = io.BytesIO()
    torch.save((extracted, x), file)
    program = (
        "import io, sys, torch; sys.modules['hatify'] = sys.modules['rewriters'] = None; "
        "net, x = torch.load(io.BytesIO(sys.stdin.buffer.read()), weights_only=False); "
        "torch.save(net(x), sys.stdout.buffer)"
    )
    run = subprocess.run([sys.executable, "-c", program], input=file.getvalue(), capture_output=True, check=True)
    torch.testing.assert_close(torch.load(io.BytesIO(run.stdout)), extracted(x))


def test_an_extracted_task_can_be_exported() -> None:
    net = converted(timm.create_model("test_vit", num_classes=5), (torch.randn(2, 3, 160, 160),))
    extracted = net.extract(1)
    x = torch.randn(3, 3, 160, 160)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(extracted, (torch.randn(2, 3, 160, 160),), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x), extracted(x))


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_module() -> None:
    model = nn.Sequential(nn.Linear(8, 8), LooksAtValues(), nn.Linear(8, 3))
    with pytest.raises(ExtractionError, match=r"calls '.*' as it is"):
        hatify(model, example_inputs=(torch.randn(2, 8),)).extract(0)
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)), torch.randn(2, 8)
    with pytest.raises(ExtractionError, match="meta device"):
        hatify(model, example_inputs=(x,)).extract(0)


def test_a_task_that_does_not_exist() -> None:
    net = converted(timm.create_model("resnet10t", num_classes=5), (torch.randn(2, 3, 32, 32),))
    with pytest.raises(TaskError, match="task 2 does not exist"):
        net.extract(2)


class Function(nn.Module):
    """A function of its layers and an input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def zeroed(layer: nn.Linear, start: int, step: int = 1) -> nn.Linear:
    """A layer of which the model itself has rows at zero."""
    with torch.no_grad():
        layer.weight[start::step], layer.bias[start::step] = 0.0, 0.0
    return layer


def joint_attention(m: Any, x: Tensor) -> Tensor:
    q, k = (torch.cat([one(x), other(x)], 1).view(-1, 10, 4, 4).transpose(1, 2) for one, other in (m.queries, m.keys))
    return m.head(F.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2))


class Average(nn.Module):
    """A buffer that forward writes to, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.head = nn.Linear(8, 16), nn.Linear(16, 3)
        self.register_buffer("average", torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.write(x))
        self.average.mul_(0.9).add_(hidden.detach().mean(0) * 0.1)
        return self.head(hidden - self.average)


VECTOR, TOKENS, IMAGE = (8,), (5, 8), (3, 8, 8)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "what a difference with zero is": (
        lambda: Function(
            lambda m, x: m.head(m.write(x).exp() - x), write=zeroed(nn.Linear(8, 8), 4), head=nn.Linear(8, 3)
        ),
        VECTOR,
    ),
    "what a comparison with zero is": (
        lambda: Function(
            lambda m, x: m.head((m.write(x).cos() == 1).to(x.dtype)),
            write=zeroed(nn.Linear(8, 8), 4),
            head=nn.Linear(8, 3),
        ),
        VECTOR,
    ),
    "tokens with channels of their own": (
        lambda: Function(
            joint_attention,
            queries=nn.ModuleList([zeroed(nn.Linear(8, 16), 0, 4), zeroed(nn.Linear(8, 16), 1, 4)]),
            keys=nn.ModuleList([zeroed(nn.Linear(8, 16), 0, 4), zeroed(nn.Linear(8, 16), 1, 4)]),
            head=nn.Linear(16, 3),
        ),
        TOKENS,
    ),
    "a buffer that forward writes to": (Average, VECTOR),
    "a norm behind tokens of two kinds": (
        lambda: Function(
            lambda m, x: m.head(m.norm(torch.cat([m.one(x).flatten(2), m.other(x).flatten(2)], 2)).mean(2)),
            one=nn.Conv2d(3, 16, 3),
            other=nn.Conv2d(3, 16, 5),
            norm=nn.BatchNorm1d(16),
            head=nn.Linear(16, 3),
        ),
        IMAGE,
    ),
    "modules with the names of what extraction adds": (
        lambda: Function(
            lambda m, x: m.head(m.constants(x).exp() * m.mul(x)),
            constants=nn.Linear(8, 8),
            mul=nn.Linear(8, 8),
            head=nn.Linear(8, 3),
        ),
        VECTOR,
    ),
    "a bias that depends on the input": (
        lambda: Function(
            lambda m, x: m.head(F.linear(x, m.write.weight, m.bias(x).mean(0))),
            write=nn.Linear(8, 16),
            bias=nn.Linear(8, 16),
            head=nn.Linear(16, 3),
        ),
        VECTOR,
    ),
    "multi-head attention": (
        lambda: Function(
            lambda m, x: m.head(m.attention(x, x, x, need_weights=False)[0]),
            attention=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        TOKENS,
    ),
    "norms without parameters": (
        lambda: nn.Sequential(
            nn.Linear(8, 16),
            nn.BatchNorm1d(16, affine=False),
            nn.ReLU(),
            nn.LayerNorm(16, elementwise_affine=False),
            nn.Linear(16, 3),
        ),
        VECTOR,
    ),
    "weights of unit norm": (
        lambda: nn.Sequential(nn.Linear(8, 16), nn.ReLU(), weight_norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 3)),
        VECTOR,
    ),
}


@pytest.mark.parametrize(("model", "shape"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("density", [DENSITY, 0.8, 1.0])
def test_what_cannot_go_stays(model: Callable[[], nn.Module], shape: tuple[int, ...], density: float) -> None:
    net = hatify(model(), num_tasks=1, example_inputs=(torch.randn(2, *shape),)).eval()
    with net.learn(0):
        draw_masks(net, 0, density)
    extracted = net.extract(0)
    for batch in (3, 4):
        check(extracted, net, 0, torch.randn(batch, *shape))


@pytest.mark.parametrize("before", [True, False])
def test_half_precision(before: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 3))
    x = torch.randn(2, 8, dtype=torch.bfloat16)
    net = hatify(
        model.bfloat16() if before else model, num_tasks=1, example_inputs=(x if before else x.float(),)
    ).eval()
    draw_masks(net, 0, DENSITY)
    extracted = net.extract(0) if before else net.bfloat16().extract(0)
    with torch.no_grad():
        torch.testing.assert_close(extracted(x), net(x, task_id=0), rtol=0.05, atol=0.05)


class Places(nn.Module):
    """What is computed from the parameters is called as the operator is: `to`, which a module has, too."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.places = torch.randn(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.write(x) + self.places.to(x.dtype)).relu())


def test_constants_that_are_called_like_a_modules_methods() -> None:
    net = converted(Places(), (torch.randn(2, 6),))
    check(net.extract(1), net, 1, torch.randn(3, 6))
