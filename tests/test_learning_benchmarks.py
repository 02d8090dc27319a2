"""The methods of benchmarks/learning learn; hatify's tasks stay, bitwise, and fine-tuning's do not."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("avalanche")

from benchmarks.learning.methods import METHODS, learn, relearn
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.runs import finished
from benchmarks.learning.sequences import permuted_small, split


@pytest.mark.parametrize("method", METHODS)
def test_a_method_learns_two_tasks(method: str) -> None:
    sequence = permuted_small(num_tasks=2)
    outcome, networks = learn(METHODS[method], NETWORKS["MLP"], sequence, epochs=3, seed=0)
    assert len(networks) == len(outcome.accuracy) == 2
    assert outcome.accuracy[1] > 0.6
    if outcome.learned is not None:
        assert min(outcome.learned) > 0.6
    if method in ("hatify", "PackNet", "a network a task"):
        assert outcome.moved == 0
        assert outcome.accuracy == outcome.learned
    elif outcome.learned is not None:
        assert outcome.moved == 1


def test_gated_sums_learn_and_relearn() -> None:
    sequence = replace(split(), tasks=split().tasks[:2])
    outcome, (net, _) = learn(METHODS["hatify"], NETWORKS["ResNet, gated sums"], sequence, epochs=2, seed=0)
    assert outcome.moved == 0
    net.forget(0)
    relearn(net, sequence, 0, epochs=2)
    assert net.trained_tasks == (1, 0)


def test_an_experiment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ran = []

    def run(name: str) -> int:
        ran.append(name)
        return len(ran)

    assert finished({"a": lambda: run("a")}, tmp_path / "results.json") == {"a": 1}
    both = finished({"a": lambda: run("a"), "b": lambda: run("b")}, tmp_path / "results.json")
    assert both == {"a": 1, "b": 2}
    assert ran == ["a", "b"]
