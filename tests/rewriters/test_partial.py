"""Functions that are not defined everywhere: neither zeros nor what another task made of dead entries reach them."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rewriters.promises import WIDTH, Sandwich, check, check_between, ideal

Function = Callable[[Tensor], Tensor]

# Infinite at zero, or with an infinite slope there: behind a gate these would turn a network into NaN.
SINGULAR_AT_ZERO: dict[str, Function] = {
    "log": lambda x: F.softplus(x).log(),
    "reciprocal": lambda x: 1 / (1 + x.square()),
    "rsqrt": lambda x: torch.rsqrt(1 + x.square()),
    "sqrt": lambda x: torch.sqrt(1 + x.square()),
    "logit": lambda x: torch.logit(0.1 + torch.tanh(x).square() / 2),
    "root of a mean of powers": lambda x: (1 + x.square()).pow(3).pow(1 / 3),
    "hypotenuse": lambda x: torch.hypot(x, 1 + x.square()),
    "of what is scaled": lambda x: torch.rsqrt(4 * (1 + x.square()) / 3),
    "negative power": lambda x: (1 + x.square()).pow(-0.5),
}


def heads(x: Tensor) -> Tensor:
    return x.unflatten(1, (WIDTH // 2, 2))


# A head of which a mask leaves nothing has no norm to divide by: such features are in no mask.
SINGULAR_IN_PARTS: dict[str, Function] = {
    "norm": lambda x: heads(x) / heads(x).norm(dim=-1, keepdim=True),
    "deviation": lambda x: heads(x) / heads(x).std(-1, keepdim=True),
    "product": lambda x: heads(x) * torch.einsum("bhd,bhd->bh", heads(x), heads(x)).rsqrt()[..., None],
    "product of what a gate follows": lambda x: (heads(x).sigmoid().prod(-1).log())[..., None] + heads(x),
    "softmax by hand": lambda x: heads(x).exp() / heads(x).exp().sum(-1, keepdim=True),
    "hypotenuse": lambda x: heads(torch.hypot(x, x.tanh()) + x),
    "pieces": lambda x: torch.cat([p / p.norm(dim=-1, keepdim=True) for p in x.chunk(WIDTH // 2, -1)], -1),
    "a matrix": lambda x: torch.linalg.inv(x.unflatten(1, (4, 4)) / 4 + 2 * torch.eye(4)) * x[:, :1, None],
}

# Functions that a zero, or its sign, is too much for; what they are given is not zero in the model itself.
NOT_OF_ZERO: dict[str, tuple[Function, Sequence[str]]] = {
    "acosh": (lambda x: torch.acosh(1.5 + x.square()), ["aten.acosh.default"]),
    "quantile": (lambda x: torch.special.ndtri(torch.sigmoid(x)), ["aten.special_ndtri.default"]),
    "digamma": (lambda x: torch.digamma(1 + x.square()), ["aten.digamma.default"]),
    "of a sum": (lambda x: torch.lgamma(x.square() + 0.2 + x.tanh().square()), ["aten.lgamma.default"]),
    "of a product": (lambda x: torch.digamma((1 + x.square()) * (1 + x.tanh().square())), ["aten.digamma.default"]),
    "angle": (lambda x: torch.complex(x, x.tanh() + 1).angle(), []),
    "arc tangent of two": (lambda x: torch.atan2(x + 0.5, x - 1), []),
    "sign": (lambda x: torch.copysign(torch.ones(()), x.sigmoid() - 0.5), []),
}


def sparsemax(x: Tensor) -> Tensor:
    """Over positions. An index of -1 where a gate made a zero of `1 + k * z`."""
    ordered = x.sort(1, descending=True)[0]
    counts = torch.arange(1, x.shape[1] + 1.0)[:, None]
    sums = ordered.cumsum(1)
    chosen = (1 + counts * ordered > sums).sum(1, keepdim=True)
    return (x - (sums.gather(1, chosen - 1) - 1) / chosen).clamp(min=0)


# What WIDTH features give at first, and NaN or infinity once another task has trained those that are not masked.
DEFINED_FOR_FEW: dict[str, tuple[Function, int]] = {
    "log": (lambda x: torch.log(x + 40), 1),
    "log of a sigmoid": (lambda x: torch.sigmoid(x).log(), 1),
    "square root": (lambda x: torch.sqrt(x + 40), 1),
    "inverse square root": (lambda x: torch.rsqrt(x + 40), 1),
    "logit": (lambda x: torch.logit(x / 80 + 0.5), 1),
    "broken power": (lambda x: (x + 40).pow(1.5), 1),
    "power by a tensor": (lambda x: (x + 40).pow(torch.linspace(0.5, 1.5, WIDTH)), 1),
    "negative broken power": (lambda x: (x + 40).pow(-0.5), 1),
    "quotient": (lambda x: torch.tanh(x) / (x + 40), 0),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x + 40), 0),
    "arc cosine": (lambda x: torch.acos(x / 40), 1),
    "arc sine": (lambda x: torch.asin(x / 40), 0),
    "hyperbolic arc tangent": (lambda x: torch.atanh(x / 40), 0),
    "inverse error function": (lambda x: torch.erfinv(x / 40), 0),
    "log1p": (lambda x: torch.log1p(x / 40), 0),
    "expm1": (lambda x: torch.expm1(x / 2), 0),
    "hyperbolic sine": (lambda x: torch.sinh(x / 2), 0),
    "bessel function": (lambda x: torch.i0(x / 2), 1),
    "power of two": (lambda x: 2 ** (x / 2), 1),
}


OVERFLOWING: dict[str, Function] = {
    "product": lambda x: x.prod(1),
    "running product": lambda x: x.cumprod(1).mean(1),
    "power": lambda x: x.pow(30).mean(1),
    "norm of high order": lambda x: x.norm(p=40, dim=1),
    "cast": lambda x: (1000 * x).half().float().mean(1),
}


@pytest.mark.parametrize("function", OVERFLOWING.values(), ids=OVERFLOWING)
def test_no_zero_stops_infinity(function: Function) -> None:
    """A branch that overflows where another task has made it large, and is multiplied with zero then."""

    class TwoBranches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, WIDTH), nn.Linear(3, WIDTH)
            self.read, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.read(self.one(x).mean(1) * function(self.other(x)))))

    check(TwoBranches(), torch.randn(2, 40, 3) / 2, at_least=0.5)


@pytest.mark.parametrize("function", SINGULAR_AT_ZERO.values(), ids=SINGULAR_AT_ZERO)
def test_the_gate_goes_behind_what_is_singular_at_zero(function: Function) -> None:
    check_between("vectors", function, gates=1)


@pytest.mark.parametrize("function", SINGULAR_IN_PARTS.values(), ids=SINGULAR_IN_PARTS)
def test_a_part_without_features_is_no_divisor(function: Function) -> None:
    check(Sandwich("vectors", lambda x: function(x).flatten(1)), torch.randn(2, 3), at_least=0.2)


def test_a_part_whose_norm_has_a_floor_stays_masked() -> None:
    check_between("vectors", lambda x: F.normalize(heads(x), dim=-1).flatten(1), gates=0)


@pytest.mark.parametrize(("function", "unknown"), NOT_OF_ZERO.values(), ids=NOT_OF_ZERO)
def test_no_zeros_for_what_they_are_too_much_for(function: Function, unknown: Sequence[str]) -> None:
    check(Sandwich("vectors", function), torch.randn(2, 3), at_least=0.2, unknown=unknown)


def test_no_zeros_for_indices() -> None:
    check(Sandwich("tokens", sparsemax), torch.randn(2, 5, 3), at_least=0.2)


@pytest.mark.parametrize(("function", "gates"), DEFINED_FOR_FEW.values(), ids=DEFINED_FOR_FEW)
def test_another_tasks_features_reach_no_function_that_makes_them_nan(function: Function, gates: int) -> None:
    net = check_between("vectors", function, gates=gates)
    x, locks, is_finite = torch.randn(4, 3), net.lock_masks(1), True
    with torch.no_grad():
        before = net(x, task_id=0)
        for value in (-1000.0, -40.0, 1000.0):
            net.write.weight[~locks["write.weight"]] = 0.0
            net.write.bias[~locks["write.bias"]] = value
            assert torch.equal(net(x, task_id=0), before)
            is_finite &= bool(net(x).isfinite().all())
    assert not is_finite


class Scaled(nn.Module):
    """Features times a function of a parameter [WIDTH] that begins well above zero."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.write, self.read = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 4)
        self.scale = nn.Parameter(torch.full((WIDTH, 1), 0.5))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.write(x) * self.function(self.scale.view(WIDTH)))


NOT_OF_EVERY_PARAMETER: dict[str, Function] = {
    "log": torch.log,
    "logit": torch.logit,
    "square root": torch.sqrt,
    "inverse square root": torch.rsqrt,
    "reciprocal": lambda w: 1 / w,
    "negative power": lambda w: w**-2,
    "broken power": lambda w: w**1.5,
    "power by a tensor": lambda w: w ** torch.linspace(0.5, 1.5, WIDTH),
    "arc cosine": torch.acos,
    "arc sine": torch.asin,
    "log1p": torch.log1p,
}


@pytest.mark.parametrize("function", NOT_OF_EVERY_PARAMETER.values(), ids=NOT_OF_EVERY_PARAMETER)
def test_a_parameter_that_must_not_become_negative_or_zero_is_locked_whole(function: Function) -> None:
    net = check(Scaled(function), torch.randn(2, 3), at_least=0.4)  # of the rest, half
    assert net.blueprint.unfollowed == {"scale"}


@pytest.mark.parametrize("function", [torch.exp, torch.square, lambda w: (w.abs() + 1).log()])
def test_a_parameter_that_may_be_negative_is_shared(function: Function) -> None:
    net = check(Scaled(function), torch.randn(2, 3), at_least=ideal(one_sided=80))
    assert "scale" in net.shared_parameters()
