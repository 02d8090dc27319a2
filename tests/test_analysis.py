"""The analysis as plain data: supports, groups, gates and locks of a captured graph, without running the model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hatify.analysis.plan import Plan, analyse
from hatify.analysis.support import LIVE, compress, expand, reshape
from hatify.analysis.variables import Variables
from hatify.capture.capture import capture
from rewriters import load_rules


def plan_of(model: nn.Module, *inputs: Tensor) -> Plan:
    return analyse(capture(model, (inputs, {})).graph, load_rules())


def sides(plan: Plan, name: str) -> list[tuple[int, ...]]:
    """The shape of each factor of a parameter's only lock term."""
    (term,) = plan.locks[name].terms
    return [factor.shape for factor in term]


class Block(nn.Module):
    """A residual stream, a bottleneck in it, squeeze-and-excitation on it, a sigmoid where zeros are lost."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.narrow, self.norm, self.widen = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 8, 1)
        self.squeeze, self.excite = nn.Linear(8, 2), nn.Linear(2, 8)
        self.lossy, self.last, self.fc = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.widen(F.relu(self.norm(self.narrow(x))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3)))))).view(-1, 8, 1, 1)
        return self.fc(self.last(torch.sigmoid(self.lossy(x.mean((2, 3))))))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(Block(), torch.randn(2, 3, 6, 6))


def test_groups_are_named_after_their_first_writer_in_graph_order(plan: Plan) -> None:
    sizes = {group.name: group.num_features for group in plan.groups}
    assert sizes == {"stem": 8, "narrow": 4, "squeeze": 2, "lossy": 6, "last": 5}


def test_coupled_modules_are_members_of_one_group(plan: Plan) -> None:
    stem = plan.groups[0]
    assert {"stem", "widen", "excite", "narrow", "squeeze", "lossy"} <= set(stem.members)


def test_gates_are_folded_but_where_zeros_were_lost(plan: Plan) -> None:
    placements = Counter(gate.placement for gate in plan.gates.values())
    multiplied = [str(node.target) for node, gate in plan.gates.items() if gate.placement == "multiplied"]
    assert placements["multiplied"] == 1
    assert multiplied == ["aten.sigmoid.default"]


def test_what_only_feeds_gated_places_needs_no_gate(plan: Plan) -> None:
    gated = {node.meta["module_path"] for node in plan.gates}
    assert "excite" not in gated
    assert sides(plan, "excite.weight") == [(8, 1), (1, 2)]
    assert "narrow" not in gated and "norm" in gated
    assert sides(plan, "narrow.weight") == [(4, 1, 1, 1), (1, 8, 1, 1)]


def test_a_live_side_does_not_lock(plan: Plan) -> None:
    assert sides(plan, "stem.weight") == [(8, 1, 1, 1)]
    assert sides(plan, "stem.bias") == [(8,)]


def test_norms_and_heads_are_kept_once_a_task(plan: Plan) -> None:
    assert {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"} <= plan.per_task
    assert {"fc.weight", "fc.bias"} <= plan.per_task
    assert [node.meta["module_path"] for node in plan.heads] == ["fc"]


def test_the_plan_prints_itself(plan: Plan) -> None:
    text = str(plan)
    assert "5 mask groups, 25 features" in text
    assert "1 of their own" in text


def test_a_parameter_used_twice_is_locked_where_either_use_locks_it() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 6)
            self.hidden = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(self.hidden(self.embed(x))), self.embed.weight)

    plan = plan_of(Tied(), torch.randint(10, (2, 3)))
    assert len(plan.locks["embed.weight"].terms) == 2
    assert not plan.heads


def test_unknown_operators_are_reported_by_name() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.special.bessel_j0(self.first(x)))

    plan = plan_of(Rare(), torch.randn(2, 4))
    assert dict(plan.unknown) == {"aten.special_bessel_j0.default": 1}
    assert "no rule for aten.special_bessel_j0.default" in str(plan)


def test_attention_couples_queries_with_keys_but_not_with_values() -> None:
    plan = plan_of(timm.create_model("test_vit", num_classes=2), torch.randn(2, 3, 160, 160))
    width = 64
    qkv = next(group for group in plan.groups if group.name == "blocks.0.attn.qkv")
    assert qkv.num_features == 2 * width
    attention = [gate for node, gate in plan.gates.items() if "attn" in node.meta.get("module_path", "")]
    assert attention and all(gate.placement == "folded" for gate in attention)


# -- supports and variables ----------------------------------------------------------------------------------


def test_reshape_expands_only_what_it_splits_or_merges() -> None:
    channels = np.arange(2, 8).reshape(1, 6, 1, 1)
    split = reshape(channels, (5, 6, 7, 7), (5, 2, 3, 49))
    assert split.shape == (1, 2, 3, 1)
    assert reshape(split, (5, 2, 3, 49), (5, 6, 7, 7)).tolist() == channels.tolist()
    flat = reshape(channels, (5, 6, 7, 7), (5, 6 * 49))
    assert flat.shape == (1, 6 * 49)
    assert flat[0, ::49].tolist() == list(range(2, 8))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((2, 1, 6), (12,)),
        ((2, 6), (2, 1, 6, 1)),
        ((4, 6), (3, 8)),
        ((1,), ()),
        ((2, 3, 4), (2, 12)),
        ((1, 1, 4), (4, 1)),
    ],
)
def test_reshape_does_to_supports_what_it_does_to_data(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    ids = np.arange(2, 2 + int(np.prod(old))).reshape(old)
    assert np.array_equal(expand(reshape(ids, old, new), new), ids.reshape(new))
    assert compress(np.full(old, LIVE)).size == 1


def test_coupling_is_transitive() -> None:
    variables, node = Variables(), torch.fx.Graph().placeholder("x")
    a, b, c = (variables.fresh(3, node) for _ in range(3))
    variables.combine(a, b)
    variables.combine(b, c)
    assert variables.find(a).tolist() == variables.find(c).tolist()


def test_coupling_that_would_collapse_features_is_refused() -> None:
    variables, node = Variables(), torch.fx.Graph().placeholder("x")
    features = variables.fresh(8, node)
    combination = variables.combine(features, np.roll(features, 1))
    assert combination.carries == (True, False)
    assert len(np.unique(variables.find(features))) == 8


def test_floating_entries_adopt_features_or_become_live() -> None:
    variables, node = Variables(), torch.fx.Graph().placeholder("x")
    features, position, bias = variables.fresh(4, node), variables.floating((3, 4)), variables.floating((4,))
    assert variables.combine(features.reshape(1, 4), position).exact
    assert variables.resolve(position).tolist() == [features.tolist()]
    assert not variables.combine(np.full((1,), LIVE), bias).support.any()
    assert not variables.resolve(bias).any()


def test_floating_entries_that_meet_each_other_are_one() -> None:
    """`w + w.t()`: neither entry of a pair is first to adopt."""
    variables = Variables()
    weight = variables.floating((3, 3))
    combined = variables.combine(weight, weight.T).support
    assert np.array_equal(combined, combined.T)
    assert len(np.unique(combined)) == 6
