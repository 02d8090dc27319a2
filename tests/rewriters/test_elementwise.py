"""Elementwise functions: zeros that stay need no gate of their own, zeros that are lost need one."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import SHAPES, WIDTH, Sandwich, check, check_between, ideal

Function = Callable[[Tensor], Tensor]

KEEP_ZEROS: dict[str, Function] = {
    "rectifiers": nn.Sequential(nn.LeakyReLU(), nn.RReLU(), nn.ReLU6(), nn.ReLU(inplace=True)),
    "exponential units": nn.Sequential(nn.ELU(), nn.CELU(), nn.SELU()),
    "smooth units": nn.Sequential(nn.GELU(), nn.SiLU(), nn.Mish(), nn.Hardswish()),
    "saturating units": nn.Sequential(nn.Softsign(), nn.Tanh(), nn.Hardtanh(), nn.Tanhshrink()),
    "shrinking units": nn.Sequential(nn.Softshrink(0.1), nn.Hardshrink(0.1)),
    "prelu, a slope a channel": nn.PReLU(WIDTH),
    "prelu, one slope": nn.PReLU(),
    "dropout": nn.Dropout(0.1),
    "odd and even functions": lambda x: x.neg().sin().abs().square(),
    "exponentials and logarithms": lambda x: torch.log1p(torch.expm1(x / 10).abs()),
    "clamp around zero": lambda x: x.clamp(-1, 1),
    "clamp from below": lambda x: x.clamp(min=-1),
    "threshold below zero": lambda x: F.threshold(x, -1.0, 2.0),
    "power": lambda x: x**3,
    "scaling and casts": lambda x: (-2 * x.double() / 3).float().nan_to_num(),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 0.0),
    "where": lambda x: torch.where(x > 0, x, 0.5 * x),
    "where or zero": lambda x: torch.where(x > 0, x, 0.0),
    "maximum": lambda x: torch.fmax(torch.maximum(x, -0.5 * x), x.tanh()),
    "residual": lambda x: x + torch.tanh(x),
    "difference": lambda x: torch.sub(x, torch.tanh(x), alpha=0.5),
    "lerp": lambda x: torch.lerp(x, torch.tanh(x), 0.3),
    "lerp by a tensor": lambda x: torch.lerp(x, torch.tanh(x), torch.linspace(0, 1, WIDTH)),
    "addcdiv": lambda x: torch.addcdiv(x, torch.tanh(x), 1 + x.square(), value=0.5),
    "times a power of two": lambda x: torch.ldexp(x, torch.arange(WIDTH) % 3),
    "scaled bessel function": torch.special.i1e,
    "remainders": lambda x: x.remainder(3) + x.fmod(2),
    "addcmul": lambda x: torch.addcmul(x, x, torch.tanh(x), value=0.5),
    "product": lambda x: x * torch.tanh(x),
    "gated by itself": lambda x: x * torch.sigmoid(x),
    "by a function of it": lambda x: x / (1 + x.square()),
}

LOSE_ZEROS: dict[str, Function] = {
    "sigmoid": nn.Sigmoid(),
    "hardsigmoid": nn.Hardsigmoid(),
    "logsigmoid": nn.LogSigmoid(),
    "softplus": nn.Softplus(),
    "exp": lambda x: torch.exp(x / 10),
    "cos": torch.cos,
    "plus one": lambda x: x + 1,
    "one minus": lambda x: 1 - x,
    "clamp above zero": lambda x: x.clamp(min=0.5),
    "hardtanh above zero": nn.Hardtanh(0.5, 1.0),
    "threshold above zero": lambda x: F.threshold(x, 0.5, 1.0),
    "logaddexp": lambda x: torch.logaddexp(x, torch.tanh(x)),
    "sinc": torch.sinc,
    "scaled even bessel function": torch.special.i0e,
    "power of two": lambda x: 2 ** (x / 10),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 1.0),
    "where or one": lambda x: torch.where(x > 0, x, 1.0),
    "plus a live tensor": lambda x: x + torch.ones_like(x),
    "maximum with a live tensor": lambda x: torch.maximum(x, torch.full_like(x, 0.1)),
}


@pytest.mark.parametrize("function", KEEP_ZEROS.values(), ids=KEEP_ZEROS)
def test_zeros_that_stay_need_no_gate(function: Function) -> None:
    check_between("vectors", function, gates=0)


@pytest.mark.parametrize("function", LOSE_ZEROS.values(), ids=LOSE_ZEROS)
def test_zeros_that_are_lost_are_gated_again(function: Function) -> None:
    check_between("vectors", function, gates=1)


class ForbiddenPairs(nn.Module):
    """A buffer with infinities, which no gate may follow."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.full((size, size), -float("inf")).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] + self.bias[..., None]).amax(2)


def test_no_gate_behind_infinity() -> None:
    check(Sandwich("tokens", ForbiddenPairs(5)), torch.randn(2, 5, 3), at_least=0.2)


class SigmoidNetwork(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(3, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, 4))


def test_a_sigmoid_network_is_gated_behind_each_sigmoid() -> None:
    check(
        SigmoidNetwork(),
        torch.randn(2, 3),
        at_least=ideal(one_sided=5 * WIDTH, two_sided=WIDTH * WIDTH),
        gates=2,
    )


def test_a_gated_linear_unit_couples_its_halves() -> None:
    net = check_between("vectors", nn.GLU(), read=WIDTH // 2, gates=0)
    assert net.registry.groups["write"].num_features == WIDTH // 2


class SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, WIDTH)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def test_the_factors_of_a_product_share_one_gate() -> None:
    net = check_between("tokens", SwiGLU(), one_sided=3 * WIDTH, two_sided=3 * WIDTH * WIDTH, gates=0)
    assert set(net.registry.groups["middle.gate"].members) >= {"middle.gate", "middle.up", "middle.down"}


class SqueezeAndExcitation(nn.Module):
    """The branch ends in a sigmoid: its dead channels are not zero, but scale channels that are."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(WIDTH, 8, 1)
        self.excite = nn.Conv2d(8, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def test_squeeze_and_excitation_needs_no_gate_of_its_own() -> None:
    check_between("images", SqueezeAndExcitation(), one_sided=8 + WIDTH, two_sided=2 * 8 * WIDTH, gates=0)


class Residual(nn.Module):
    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.branch = nn.Linear(WIDTH, WIDTH)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        added = self.branch(x)
        return x + (added.mean(1, keepdim=True) if self.pooled else added)


@pytest.mark.parametrize("pooled", [False, True], ids=["entry by entry", "broadcast"])
def test_a_residual_sum_couples_its_addends(pooled: bool) -> None:
    net = check_between("tokens", Residual(pooled), one_sided=WIDTH, two_sided=WIDTH * WIDTH, gates=0)
    assert len(net.registry.groups) == 2


class AddedInput(nn.Module):
    """A live addend: the sum is gated again."""

    def __init__(self) -> None:
        super().__init__()
        self.write = nn.Linear(WIDTH, WIDTH)
        self.read = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.read(x + self.write(x))))


def test_a_sum_with_a_live_input_is_gated() -> None:
    share = ideal(one_sided=WIDTH * WIDTH + 2 * WIDTH, two_sided=WIDTH * WIDTH)
    check(AddedInput(), torch.randn(2, WIDTH), at_least=share, gates=1)


class Experts(nn.Module):
    """Features along two dimensions meet in one product: it has those of the larger side, and the other is gated."""

    def __init__(self, gate_first: bool) -> None:
        super().__init__()
        self.gate_first = gate_first
        self.gate = nn.Linear(WIDTH, 4)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).softmax(-1)[..., None]
        answers = torch.stack([expert(x) for expert in self.experts], -2)
        return (gate * answers if self.gate_first else answers * gate).sum(-2)


@pytest.mark.parametrize("gate_first", [False, True])
def test_a_product_of_features_along_two_dimensions(gate_first: bool) -> None:
    biases, weights = 4 + 4 * WIDTH, 4 * WIDTH + 4 * WIDTH * WIDTH
    check_between("vectors", Experts(gate_first), one_sided=biases, two_sided=weights, gates=1)


class WithParameter(nn.Module):
    def __init__(self, combine: Callable[..., Tensor], *shape: int) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.randn(shape))
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(x, self.parameter)


ADOPTED: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "positional embedding": (torch.add, (1, 5, WIDTH)),
    "bias": (torch.add, (WIDTH,)),
    "layer scale": (torch.mul, (WIDTH,)),
    "class token": (lambda x, p: torch.cat([p.expand(x.shape[0], -1, -1), x], 1), (1, 1, WIDTH)),
    "padding token": (lambda x, p: torch.where(x[..., :1] > 0, x, p), (WIDTH,)),
}


@pytest.mark.parametrize("case", ADOPTED.values(), ids=ADOPTED)
def test_a_parameter_adopts_the_features_that_it_meets(case: tuple[Callable[..., Tensor], tuple[int, ...]]) -> None:
    combine, shape = case
    parameter = WithParameter(combine, *shape)
    check_between("tokens", parameter, one_sided=parameter.parameter.numel())


def test_the_rows_that_are_cut_off_a_table_stay_as_they_are() -> None:
    table = WithParameter(lambda x, p: x + p[:, :5], 1, 9, WIDTH)
    check_between("tokens", table, one_sided=5 * WIDTH, locked=4 * WIDTH)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, p: x / (0.5 + p.abs()),
        lambda x, p: (0.5 + x.square()).pow(p.abs() + 1),
        lambda x, p: torch.clamp(x, min=-p.abs()),
    ],
    ids=["divisor", "exponent", "bound"],
)
def test_a_parameter_that_cannot_adopt_is_kept_once_a_task(function: Callable[..., Tensor]) -> None:
    net = check_between("tokens", WithParameter(function, 1), tight=False)
    assert "middle.parameter" in net.blueprint.task_indexed


def test_a_scale_that_is_one_number() -> None:
    """As the logit scale of CLIP: it has no dimension, and no features to adopt."""
    net = check_between("tokens", WithParameter(lambda x, p: x * p.exp().clamp(max=100.0)), gates=0)
    assert "middle.parameter" in net.blueprint.task_indexed


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.masked_fill(x > 0.5, -torch.inf).amax(1),
        lambda x: torch.where(x > 0.5, -torch.inf, x).amax(1),
        lambda x: torch.where(x > 0.5, torch.full_like(x, -torch.inf), x).amax(1),
        lambda x: F.pad(x, (0, 0, 1, 0), value=-torch.inf).amax(1),
        lambda x: x.scatter(1, x.argmin(1, keepdim=True), -torch.inf).amax(1),
        lambda x: x.index_fill(1, torch.tensor([0]), -torch.inf).amax(1),
        lambda x: x.index_put((x.mean(-1) > 0,), torch.tensor(-torch.inf)).amax(1).clamp(min=-5),
        lambda x: torch.select_scatter(x, torch.full_like(x[:, 0], -torch.inf), 1, 0).amax(1),
        lambda x: torch.full_like(x, -torch.inf).index_copy(1, torch.tensor([0, 1, 2, 3, 3]), x).amax(1),
        lambda x: (x + 2 * torch.tensor([0.0, 0.0, -torch.inf, 0.0, 0.0])[:, None]).amax(1),
        lambda x: (x + torch.tensor([0.0, -torch.inf])[torch.tensor([0, 1, 0, 0, 1])][:, None]).amax(1),
        lambda x: torch.nan_to_num(x.masked_fill(x > 0.5, torch.nan)).amax(1),
    ],
    ids=[
        *("masked_fill", "where, a number", "where, a tensor", "pad", "scatter", "index_fill", "index_put"),
        *("select_scatter", "index_copy", "a sum with a multiple", "a sum with some by index", "NaN"),
    ],
)
def test_no_gate_follows_an_infinite_value(function: Function) -> None:
    """A mask times infinity is NaN: what reads the result takes it as live."""

    class MaskedMaximum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)[:, None].expand(-1, 5, -1)

    check_between("tokens", MaskedMaximum(), tight=False)


@pytest.mark.parametrize("divide", [torch.div, lambda x, y: torch.addcdiv(x, x, y)], ids=["div", "addcdiv"])
def test_features_that_are_divided_by_are_in_no_mask(divide: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Heads of an attention that is normalised by its own sum: a dead head would be 0 / 0."""

    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            positive = x.abs()
            return divide(positive, positive.sum(0, keepdim=True))

    model = Sandwich("vectors", Normalised(), WIDTH)
    net = check(model, torch.randn(SHAPES["vectors"]), at_least=0.0)
    assert list(net.registry.groups) == ["read"]


def test_features_whose_parts_are_divided_by_are_in_no_mask() -> None:
    """As in a bilinear attention over blocks: of a pair's sum, a mask may leave nothing."""

    def share_of_pair(x: Tensor) -> Tensor:
        pairs = x.unflatten(1, (-1, 2)).sigmoid()
        return (pairs / pairs.sum(2, keepdim=True)).flatten(1)

    check(Sandwich("vectors", share_of_pair), torch.randn(2, 3), at_least=0.4)


def test_a_floor_keeps_a_divisor_from_zero() -> None:
    class Normalised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.norm(dim=0, keepdim=True).clamp_min(1e-6)

    check_between("vectors", Normalised(), gates=0)


def test_features_added_to_infinities_are_gated_before_the_sum() -> None:
    """A gate behind it would be 0 * -inf."""

    class Decays(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            visible = torch.ones(WIDTH, WIDTH, dtype=torch.bool).tril()
            logits = torch.where(visible, torch.zeros(WIDTH, WIDTH), -float("inf")) + x[:, None]
            return (logits - logits.amax(-1, keepdim=True)).exp().sum(-1)

    check_between("vectors", Decays(), tight=False)
