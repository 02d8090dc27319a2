"""The methods of benchmarks/learning learn; hatify's tasks stay, bitwise, and fine-tuning's do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")
pytest.importorskip("stable_baselines3")

from benchmarks.learning import audio, control
from benchmarks.learning.methods import (
    MASK_LEARNING_RATE,
    METHODS,
    Contestant,
    SettlingHATPlugin,
    learn,
    relearn,
    with_masks,
)
from benchmarks.learning.networks import NETWORKS
from benchmarks.learning.plots import plot
from benchmarks.learning.runs import finished
from benchmarks.learning.sequences import permuted_patches, permuted_small, split


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


def test_the_rate_of_weights_falls_in_the_second_half_and_that_of_masks_stays() -> None:
    rates: list[list[float]] = []

    class Witness(SettlingHATPlugin):
        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            rates.append([group["lr"] for group in strategy.optimizer.param_groups])

    def method(*arguments: Any) -> Contestant:
        return replace(with_masks(*arguments), plugin=Witness())

    sequence = permuted_small(num_tasks=2)
    learn(method, NETWORKS["MLP"], sequence, epochs=2, seed=0)
    weights, masks = zip(*rates, strict=True)
    each = len(rates) // 2
    assert set(masks) == {MASK_LEARNING_RATE}
    for of_task in (weights[:each], weights[each:]):
        assert set(of_task[: each // 2]) == {sequence.learning_rate}
        assert of_task[-1] == pytest.approx(2 / each * sequence.learning_rate)


def test_gated_sums_learn_and_relearn() -> None:
    sequence = replace(split(), tasks=split().tasks[:2])
    outcome, (net, _) = learn(METHODS["hatify"], NETWORKS["ResNet, gated sums"], sequence, epochs=2, seed=0)
    assert outcome.moved == 0
    net.forget(0)
    relearn(net, sequence, 0, epochs=2)
    assert net.trained_tasks == (1, 0)


def test_patches_move_as_wholes() -> None:
    first, second = (task.train.inputs for task in permuted_patches(num_tasks=2, num_images=10).tasks)
    patches = [images.unfold(2, 7, 7).unfold(3, 7, 7).reshape(len(images), 16, 49) for images in (first, second)]
    assert not torch.equal(*patches)
    order = (patches[0][:, :, None] == patches[1][:, None]).all(3).all(0).float().argmax(1)  # of equal ones the first
    assert torch.equal(patches[1][:, order], patches[0])


def test_to_choose_settings_no_test_image_is_looked_at() -> None:
    sequence = permuted_small(num_tasks=1)
    task, chosen = sequence.tasks[0], sequence.for_validation().tasks[0]
    known = {image.numpy().tobytes() for image in task.train.inputs}
    assert len(chosen.train.labels) + len(chosen.test.labels) == len(task.train.labels)
    assert {image.numpy().tobytes() for image in torch.cat([chosen.train.inputs, chosen.test.inputs])} == known


@pytest.mark.skipif(not audio.FOLDER.exists(), reason="the recordings are not installed")
def test_a_network_of_1d_convolutions_learns_voices() -> None:
    sequence = audio.voices()
    sequence = replace(sequence, tasks=sequence.tasks[:2])
    outcome, _ = learn(METHODS["hatify"], audio.Waveforms, sequence, epochs=2, seed=0)
    assert outcome.moved == 0
    assert min(outcome.accuracy) > 0.6


@pytest.mark.parametrize("method", ["hatify", "fine-tuning", "a network a task"])
def test_one_policy_learns_control_tasks(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "TASKS", {"CartPole-v1": control.ROLLOUT, "Acrobot-v1": control.ROLLOUT})
    monkeypatch.setattr(control, "EPISODES", 1)
    outcome = control.learn_control(method, seed=0)
    assert outcome.moved == (method == "fine-tuning")


def test_a_plot_has_a_panel_for_each_title(tmp_path: Path) -> None:
    plot({"one": {"a": [(1, [0.5, 0.6]), (2, [0.7])]}, "two": {}}, tmp_path / "plot.svg", x="x", y="y")
    assert (tmp_path / "plot.svg").read_text().count('id="axes_') == 2


def test_an_experiment_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ran = []

    def run(name: str) -> int:
        ran.append(name)
        return len(ran)

    assert finished({"a": lambda: run("a")}, tmp_path / "results.json") == {"a": 1}
    both = finished({"a": lambda: run("a"), "b": lambda: run("b")}, tmp_path / "results.json")
    assert both == {"a": 1, "b": 2}
    assert ran == ["a", "b"]
