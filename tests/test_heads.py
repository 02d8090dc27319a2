"""Heads: found in the graph, kept once a task, with each task's own number of classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from hatify import hatify
from hatify.errors import ConversionError


@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet10t", "fc"), ("test_vit", "head"), ("test_convnext", "head.fc"), ("test_efficientnet", "classifier")],
)
def test_the_last_weighted_layer_is_the_head(name: str, head: str) -> None:
    size = 160 if name == "test_vit" else 64
    net = hatify(
        timm.create_model(name, num_classes=7),
        num_tasks=3,
        num_classes=[2, 7, 5],
        example_inputs=(torch.randn(2, 3, size, size),),
    ).eval()
    x = torch.randn(2, 3, size, size)
    assert net.blueprint.heads == (head,)
    assert [net(x, task_id=task).shape[1] for task in range(3)] == [2, 7, 5]
    assert net(x).shape[1] == 7


class Raw(nn.Module):
    """A last layer that is a function of parameters."""

    def __init__(self, function: Callable[..., Tensor], outputs: int) -> None:
        super().__init__()
        self.body, self.weight = nn.Linear(8, 16), nn.Parameter(torch.randn(16, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.body(x).relu(), self.weight, self.bias)


IMAGE, VECTOR = torch.randn(2, 3, 8, 8), torch.randn(2, 8)
LAST: dict[str, tuple[nn.Module, Tensor]] = {
    "linear": (nn.Linear(8, 1), VECTOR),
    "convolution": (nn.Conv2d(3, 1, 1), IMAGE),
    "transposed convolution": (nn.ConvTranspose2d(3, 1, 2), IMAGE),
    "addmm": (Raw(lambda x, weight, bias: torch.addmm(bias, x, weight), 1), VECTOR),
    "einsum": (Raw(lambda x, weight, bias: torch.einsum("bi,io->bo", x, weight), 1), VECTOR),
}


@pytest.mark.parametrize("kind", LAST)
def test_a_head_with_one_output_can_have_more(kind: str) -> None:
    last, x = LAST[kind]
    body = nn.Identity() if isinstance(last, Raw) else nn.Sequential(type(last)(x.shape[1], x.shape[1], 1), nn.ReLU())
    net = hatify(nn.Sequential(body, last), num_tasks=2, num_classes=[1, 3], example_inputs=(x,))
    assert [net(x, task_id=task).shape[1] for task in range(2)] == [1, 3]


@pytest.mark.parametrize("last", [nn.Conv2d(8, 4, 1, groups=2), nn.ConvTranspose2d(8, 4, 2, groups=2)])
def test_the_classes_of_a_head_in_groups_cannot_be_changed(last: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), last)
    with pytest.raises(ConversionError, match="one of groups"):
        hatify(model, num_tasks=2, num_classes=[4, 6], example_inputs=(IMAGE,))


def test_a_long_way_from_the_head_to_the_output() -> None:
    """Each normalisation reads what is before it twice: there are a million ways back to the head."""

    class Sinkhorn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(self.body(x).relu()).exp()
            for _ in range(20):
                y = y / y.sum(-1, keepdim=True)
            return y

    assert hatify(Sinkhorn(), num_tasks=2).blueprint.heads == ("head",)


def test_without_numbers_of_classes_each_task_has_a_copy() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    net = hatify(model, num_tasks=2)
    for task in range(2):
        own = net.get_parameter(f"2.per_task.{task}.weight")
        assert torch.equal(own, model[2].weight)
        assert own is not net.get_parameter("2.weight")


def test_features_without_a_head_are_masked() -> None:
    model = timm.create_model("resnet10t", num_classes=0)
    net = hatify(model, num_tasks=2, example_inputs=(torch.randn(2, 3, 32, 32),)).eval()
    assert net.blueprint.heads == ()
    group = net.registry.groups["layer4.0.conv2"]
    group.embedding(0).data[::2] = -1.0
    features = net(torch.randn(3, 3, 32, 32), task_id=0)
    assert torch.equal(features[:, ::2], torch.zeros(3, 256))
    assert features[:, 1::2].abs().sum() > 0


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.boxes = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.body(x))
        return {"classes": self.classes(x).softmax(-1), "boxes": self.boxes(x)}


def test_several_heads() -> None:
    net = hatify(TwoHeads(), num_tasks=2)
    assert net.blueprint.heads == ("boxes", "classes") or net.blueprint.heads == ("classes", "boxes")
    with pytest.raises(ConversionError, match="several heads"):
        hatify(TwoHeads(), num_tasks=2, num_classes=[3, 3])
    one = hatify(TwoHeads(), num_tasks=2, num_classes=[2, 5], heads=["classes"]).eval()
    output = one(torch.randn(2, 4), task_id=1)
    assert (output["classes"].shape[1], output["boxes"].shape[1]) == (5, 4)


def test_no_head_on_demand() -> None:
    net = hatify(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), num_tasks=2, heads=[])
    assert net.blueprint.heads == ()
    assert list(net.registry.groups) == ["0"]
    assert "2.weight" in net.shared_parameters()
