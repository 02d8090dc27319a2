"""What HAT-CL has trained goes on in hatify, with the logits that HAT-CL gives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hatify import load, save
from hatify.errors import CheckpointError

pytest.importorskip("timm")
from hatify.hat_cl import load_resnet

NUM_TASKS, NUM_CLASSES = 3, 5
WIDTHS = (64, 128, 256, 512)
StateDict = dict[str, Tensor]


def masked_layer(name: str, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", weight
    for task in range(NUM_TASKS):
        yield f"{name}.masker.attention.{task}", torch.randn(len(weight))
    yield f"{name}.masker._task_trained", torch.tensor([True, True, False])


def norm(name: str, width: int) -> Iterator[tuple[str, Tensor]]:
    for index in range(NUM_TASKS + 1):  # the last is that of no task
        for attribute, value in nn.BatchNorm2d(width).state_dict().items():
            drawn = torch.rand_like(value) + 0.5 if value.dim() else value
            yield f"{name}.{index}.{attribute}", drawn


@pytest.fixture
def state() -> StateDict:
    """A state dict in HAT-CL's layout: a `hat_resnet18s` with one block a stage."""
    parts = [masked_layer("conv1", torch.randn(64, 3, 3, 3) / 5), norm("bn1", 64)]
    inputs = 64
    for stage, width in enumerate(WIDTHS, 1):
        block = f"layer{stage}.0"
        scale = (9 * inputs) ** -0.5
        parts += [masked_layer(f"{block}.conv1", scale * torch.randn(width, inputs, 3, 3)), norm(f"{block}.bn1", width)]
        parts += [masked_layer(f"{block}.conv2", scale * torch.randn(width, width, 3, 3)), norm(f"{block}.bn2", width)]
        if width != inputs:
            parts += [masked_layer(f"{block}.downsample.0", scale * torch.randn(width, inputs, 1, 1))]
            parts += [norm(f"{block}.downsample.1", width)]
        inputs = width
    parts += [masked_layer("fc", torch.randn(NUM_CLASSES, 512)), iter([("fc.bias", torch.randn(NUM_CLASSES))])]
    return {name: value for part in parts for name, value in part}


def logits_of_hat_cl(state: StateDict, x: Tensor, task: int | None) -> Tensor:
    """HAT-CL's forward pass, from its source: norms see unmasked data, a sum has the mask of the block's last layer."""

    def mask(data: Tensor, layer: str) -> Tensor:
        if task is None:
            return data
        features = (state[f"{layer}.masker.attention.{task}"] > 0).float()
        return data * features.reshape(1, -1, *[1] * (data.dim() - 2))

    def normalised(data: Tensor, layer: str) -> Tensor:
        own = {k: state[f"{layer}.{NUM_TASKS if task is None else task}.{k}"] for k in ("weight", "bias")}
        index = NUM_TASKS if task is None else task
        mean, var = state[f"{layer}.{index}.running_mean"], state[f"{layer}.{index}.running_var"]
        return F.batch_norm(data, mean, var, own["weight"], own["bias"])

    x = mask(normalised(F.conv2d(x, state["conv1.weight"], padding=1), "bn1"), "conv1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        block, stride = f"layer{stage}.0", 1 if stage == 1 else 2
        branch = F.conv2d(x, state[f"{block}.conv1.weight"], stride=stride, padding=1)
        branch = mask(normalised(branch, f"{block}.bn1"), f"{block}.conv1").relu()
        branch = normalised(F.conv2d(branch, state[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")
        if stage > 1:
            x = F.conv2d(x, state[f"{block}.downsample.0.weight"], stride=stride)
            x = mask(normalised(x, f"{block}.downsample.1"), f"{block}.downsample.0")
        x = mask(mask(branch, f"{block}.conv2") + x, f"{block}.conv2").relu()
    return mask(F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]), "fc")


def test_tasks_have_the_logits_of_hat_cl(state: StateDict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "hat_resnet18s.pt")
    net = load_resnet(tmp_path / "hat_resnet18s.pt").eval()
    images = torch.randn(2, 3, 32, 32)
    assert net.trained_tasks == (0, 1)
    with torch.no_grad():
        for task in (None, 0, 1):
            expected = logits_of_hat_cl(state, images, task)
            torch.testing.assert_close(net(images, task_id=task), expected, rtol=1e-4, atol=1e-4)
        assert not torch.equal(net(images, task_id=0), net(images, task_id=1))
        extracted = net.extract(0)
        torch.testing.assert_close(extracted(images), net(images, task_id=0), rtol=1e-4, atol=1e-4)
        assert all("hatify" not in str(node.target) for node in extracted.graph.nodes)


def test_prefixed_names_and_another_image_size(state: StateDict, tmp_path: Path) -> None:
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "net.pt")
    net = load_resnet(tmp_path / "net.pt", image_size=(48, 40)).eval()
    images = torch.randn(2, 3, 48, 40)
    with torch.no_grad():
        expected = logits_of_hat_cl(state, images, 1)
        torch.testing.assert_close(net(images, task_id=1), expected, rtol=1e-4, atol=1e-4)


def test_it_is_saved_as_any_other(state: StateDict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "net.pt")
    net = load_resnet(tmp_path / "net.pt").eval()
    save(net, tmp_path / "net.safetensors")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path / "net.safetensors").eval()(images, task_id=1), net(images, task_id=1))


def test_the_next_task_moves_none_of_them(state: StateDict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "net.pt")
    net = load_resnet(tmp_path / "net.pt").eval()
    images = torch.randn(8, 3, 32, 32)
    before = [net(images, task_id=task).detach() for task in net.trained_tasks]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net.train()
    with net.learn(2, steps=3):
        for _ in range(3):
            loss = F.cross_entropy(net(images), torch.arange(8) % NUM_CLASSES)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    for task, logits in enumerate(before):
        assert torch.equal(net(images, task_id=task), logits)


def test_other_checkpoints_are_refused(state: StateDict, tmp_path: Path) -> None:
    torch.save({"conv1.weight": state["conv1.weight"]}, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="no state dict of HAT-CL's ResNets"):
        load_resnet(tmp_path / "plain.pt")
    torch.save({k: v for k, v in state.items() if not k.startswith("layer3.0.bn2")}, tmp_path / "cut.pt")
    with pytest.raises(CheckpointError, match=r"layer3\.0\.bn2"):
        load_resnet(tmp_path / "cut.pt")
