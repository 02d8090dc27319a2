"""Rules: operators that none knows are sound, and a user's own rule makes them tight."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatify import rewriter
from hatify.analysis.call import Call
from hatify.analysis.effect import Effect
from rewriters import load_rules, registry
from tests.rewriters.promises import WIDTH, check_between


@torch.library.custom_op("hatify_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return 2 * x


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


double.register_autograd(lambda ctx, gradient: 2 * gradient)
DOUBLE = torch.ops.hatify_tests.double


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return DOUBLE(x)


def keeps_features(call: Call) -> Effect:
    (operand,) = call.operands
    return Effect(call.support(operand), flows=(operand,))


@pytest.fixture
def restored() -> Iterator[None]:
    """The rules as they were before the test."""
    load_rules()
    before = registry._REGISTERED.copy()
    yield
    registry._REGISTERED[:] = before


def test_an_unknown_operator_is_live_and_reported() -> None:
    net = check_between("vectors", Doubled(), tight=False, unknown=["hatify_tests.double.default"])
    assert net.blueprint.unknown == {"hatify_tests.double.default": 1}


def test_a_parameter_that_an_unknown_operator_reads_is_locked_whole() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x @ DOUBLE(self.scale)

    sizes: dict[str, Any] = {"locked": WIDTH * WIDTH, "tight": False}
    check_between("vectors", Scaled(), **sizes, unknown=["hatify_tests.double.default"])


@pytest.mark.parametrize("operator", [DOUBLE, DOUBLE.default], ids=["all overloads", "one overload"])
def test_a_rule_of_ones_own_makes_it_tight(operator: object, restored: None) -> None:
    rewriter(operator)(keeps_features)
    check_between("vectors", Doubled(), gates=0)


def test_a_rule_for_an_operator_that_may_not_be_there(restored: None) -> None:
    rewriter("no_such_package::operator", "hatify_tests::double")(keeps_features)
    rules = load_rules()
    assert rules[DOUBLE.default] is keeps_features
    assert None not in rules


@pytest.mark.parametrize("operator", ["'aten::gelu'", "torch.ops.aten.gelu"])
def test_a_rule_wins_if_it_was_registered_before_the_librarys(operator: str) -> None:
    code = f"""
import torch
from hatify import rewriter
from rewriters import load_rules

@rewriter({operator})
def mine(call): ...

assert load_rules()[torch.ops.aten.gelu.default] is mine
assert load_rules()[torch.ops.aten.relu.default] is not mine
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_rule_of_ones_own_wins_over_the_librarys(restored: None) -> None:
    @rewriter(torch.ops.aten.tanh)
    def live(call: Call) -> Effect:
        return call.live(reads=call.operands)

    check_between("vectors", torch.tanh, tight=False)
    assert load_rules()[torch.ops.aten.tanh.default] is live
    assert load_rules()[torch.ops.aten.tanh_.default] is live


def test_every_overload_of_an_operator_has_its_rule() -> None:
    rules = load_rules()
    for name in torch.ops.aten.add.overloads():
        assert rules[getattr(torch.ops.aten.add, name)] is rules[torch.ops.aten.add.Tensor]
    assert rules[torch.ops.aten.relu_.default] is rules[torch.ops.aten.relu.default]
