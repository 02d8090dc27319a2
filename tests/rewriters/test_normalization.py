"""Normalisations: what they mix, what they keep once a task, and where their gate goes."""

import pytest
import torch
from torch import Tensor, nn

from hatify import hatify, verify
from tests.rewriters.promises import SHAPES, WIDTH, Sandwich, check, check_between

CHANNELWISE = {
    "batch_norm": nn.BatchNorm2d(WIDTH),
    "batch_norm without affine": nn.BatchNorm2d(WIDTH, affine=False),
    "instance_norm": nn.InstanceNorm2d(WIDTH),
    "instance_norm with affine": nn.InstanceNorm2d(WIDTH, affine=True),
    "group_norm": nn.GroupNorm(4, WIDTH),
    "group_norm, one group": nn.GroupNorm(1, WIDTH),
    "group_norm without affine": nn.GroupNorm(4, WIDTH, affine=False),
    "layer_norm of whole images": nn.LayerNorm([WIDTH, 8, 8]),
    "layer_norm of positions": nn.LayerNorm([8, 8]),
}

OF_TOKENS = {
    "layer_norm": nn.LayerNorm(WIDTH),
    "layer_norm without bias": nn.LayerNorm(WIDTH, bias=False),
    "layer_norm without affine": nn.LayerNorm(WIDTH, elementwise_affine=False),
    "layer_norm of positions and features": nn.LayerNorm([5, WIDTH]),
    "rms_norm": nn.RMSNorm(WIDTH),
    "rms_norm without affine": nn.RMSNorm(WIDTH, elementwise_affine=False),
}

# Here dimension 1, which these take for channels, holds positions: the features lie in the last dimension.
OVER_POSITIONS = {
    "batch_norm": nn.BatchNorm1d(5),
    "instance_norm": nn.InstanceNorm1d(5),
    "instance_norm with affine": nn.InstanceNorm1d(5, affine=True),
    "group_norm": nn.GroupNorm(5, 5),
    "group_norm, one group": nn.GroupNorm(1, 5),
}


class Transposed(nn.Module):
    """A norm over the positions of tokens, each feature by itself."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("norm", CHANNELWISE.values(), ids=CHANNELWISE)
def test_norms_of_images(norm: nn.Module) -> None:
    over_positions = isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) == 2
    net = check_between("images", norm, gates=1 if over_positions else 0)
    assert {f"middle.{name}" for name, _ in norm.named_parameters()} <= net.blueprint.task_indexed


def test_statistics_that_an_operator_moves_without_a_word() -> None:
    class Native(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            norm = self.norm
            assert norm.running_mean is not None and norm.running_var is not None
            held = norm.weight, norm.bias, norm.running_mean, norm.running_var
            return torch.native_batch_norm(x, *held, self.training, 0.1, 1e-5)[0]

    net = hatify(Sandwich("vectors", Native()), num_tasks=2, example_inputs=(torch.randn(2, 3),))
    assert verify(net).ok
    assert {"middle.norm.running_mean", "middle.norm.running_var"} <= set(net.state_dict())


@pytest.mark.parametrize("norm", OF_TOKENS.values(), ids=OF_TOKENS)
def test_what_a_norm_makes_of_padding_is_no_zero(norm: nn.Module) -> None:
    padding = nn.ConstantPad1d((WIDTH // 2, -(WIDTH // 2)), 0.0)  # half of the features go, zeros come in their place
    check(Sandwich("tokens", nn.Sequential(padding, norm)), torch.randn(SHAPES["tokens"]), at_least=0.5)


@pytest.mark.parametrize("norm", OF_TOKENS.values(), ids=OF_TOKENS)
def test_norms_of_tokens(norm: nn.Module) -> None:
    net = check_between("tokens", norm, gates=0)
    assert {f"middle.{name}" for name, _ in norm.named_parameters()} <= net.blueprint.task_indexed


@pytest.mark.parametrize("norm", OVER_POSITIONS.values(), ids=OVER_POSITIONS)
def test_norms_over_positions(norm: nn.Module) -> None:
    """Positions are no features: the norm mixes the features of one position, which must be zero before it."""
    check_between("tokens", norm, gates=1)


def test_a_norm_of_each_feature_over_its_positions() -> None:
    check_between("tokens", Transposed(nn.LayerNorm(5)), gates=1)


def test_batch_norm_of_vectors() -> None:
    check_between("vectors", nn.BatchNorm1d(WIDTH), gates=0)


class NormedParameter(nn.Module):
    """The norm mixes the parameter's entries, so dead ones must be zero before it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.query)


def test_a_norm_of_a_parameter() -> None:
    check_between("tokens", NormedParameter(), one_sided=WIDTH)


def test_a_norms_bias_that_is_also_added_to_the_features() -> None:
    """Kept once a task for the norm, and gated where it is added."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x).relu() + self.norm.bias

    check_between("vectors", Added())


def test_statistics_are_each_tasks_own() -> None:
    model = Sandwich("images", nn.BatchNorm2d(WIDTH))
    net = check(model, torch.randn(SHAPES["images"]), at_least=0.69)
    before = dict(model.named_buffers())["middle.running_mean"].clone()
    net.train()
    net(torch.randn(4, 3, 8, 8), task_id=1)
    buffers = dict(net.named_buffers())
    assert torch.equal(buffers["middle.running_mean"], before)
    assert torch.equal(buffers["middle.per_task.0.running_mean"], before)
    assert not torch.equal(buffers["middle.per_task.1.running_mean"], before)
    assert buffers["middle.per_task.1.num_batches_tracked"] == 1


@pytest.mark.parametrize("kind", ["images", "tokens"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_mask_that_stands_in_for_an_affine_parameter_is_of_its_type(kind: str, dtype: torch.dtype) -> None:
    norm = nn.BatchNorm2d(WIDTH, affine=False) if kind == "images" else nn.LayerNorm(WIDTH, elementwise_affine=False)
    x = torch.randn(SHAPES[kind], dtype=dtype)
    net = hatify(Sandwich(kind, norm).to(dtype), num_tasks=1, example_inputs=(x,)).eval()
    assert net(x, task_id=0).dtype is dtype
    assert net.extract(0)(x).dtype is dtype
