"""`hatify demo`, run as a user runs it, on very few images."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from hatify.demo.data import LabelledImages, split_mnist
from hatify.demo.learners import HATLearner
from tests.command_line import assert_bad_input, run

FEW_IMAGES = ("--epochs", "1", "--images-per-digit", "20")


def run_demo(*options: str) -> Result:
    """The outcome of `hatify demo OPTIONS`."""
    return run("demo", *options)


@pytest.fixture(scope="module", params=["cnn", "resnet10t"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result, Path]:
    """A network's name, the outcome of its demo and the folder of its results."""
    folder = tmp_path_factory.mktemp("demo") / "made" / "on" / "demand"
    return request.param, run_demo("--network", request.param, *FEW_IMAGES, "--output", str(folder)), folder


def results_in(folder: Path, network: str) -> dict[str, Any]:
    """What results.json says of the network."""
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())["networks"][network]
    return results


def test_hat_forgets_exactly_nothing(finished: tuple[str, Result, Path]) -> None:
    network, outcome, folder = finished
    assert outcome.exit_code == 0, outcome.output
    hat = results_in(folder, network)["hat"]
    assert [len(row) for row in hat["forgetting"]] == [1, 2, 3, 4, 5]
    assert all(cell == 0 for row in hat["forgetting"] for cell in row)
    assert all(cell is True for row in hat["logits_unchanged"] for cell in row)


def test_fine_tuning_stands_beside_it_and_does_change(finished: tuple[str, Result, Path]) -> None:
    network, _, folder = finished
    fine_tuning = results_in(folder, network)["fine_tuning"]
    assert [len(row) for row in fine_tuning["accuracy"]] == [1, 2, 3, 4, 5]
    assert fine_tuning["logits_unchanged"][4] == [False, False, False, False, True]


def test_forgetting_is_what_the_accuracies_say(finished: tuple[str, Result, Path]) -> None:
    network, _, folder = finished
    for learner in ("hat", "fine_tuning"):
        result = results_in(folder, network)[learner]
        right_after = [row[-1] for row in result["accuracy"]]
        last = result["accuracy"][-1]
        assert result["average_accuracy"] == pytest.approx(sum(last) / 5)
        lost = [before - now for before, now in zip(right_after, last, strict=True)]
        assert result["average_forgetting"] == pytest.approx(sum(lost[:-1]) / 4)


def test_capacity_adds_up(finished: tuple[str, Result, Path]) -> None:
    network, _, folder = finished
    capacity = results_in(folder, network)["capacity"]
    assert capacity
    for group in capacity.values():
        assert sorted(group["used"]) == ["0", "1", "2", "3", "4"]
        assert 0 <= group["shared"] <= group["num_features"] - group["free"]
        assert max(group["used"].values()) <= group["num_features"] - group["free"] <= sum(group["used"].values())


def test_tables_and_files_and_nothing_else(finished: tuple[str, Result, Path]) -> None:
    _, outcome, folder = finished
    for title in ("Accuracy with HAT", "Accuracy fine-tuned", "After the last task", "Features in use"):
        assert title in outcome.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "results.png"]
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_results(finished: tuple[str, Result, Path], tmp_path: Path) -> None:
    network, _, folder = finished
    run_demo("--network", network, *FEW_IMAGES, "--output", str(tmp_path))
    assert (tmp_path / "results.json").read_text() == (folder / "results.json").read_text()


def test_a_changed_logit_is_named_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class ForgetfulLearner(HATLearner):
        def learn(self, task_id: int, *rest: Any) -> None:
            super().learn(task_id, *rest)
            if task_id == 3:
                with torch.no_grad():
                    for parameter in self.network.parameters():
                        parameter.mul_(1 + 1e-6)

    monkeypatch.setattr("hatify.demo.run.HATLearner", ForgetfulLearner)
    outcome = run_demo("--network", "cnn", *FEW_IMAGES, "--output", str(tmp_path))
    assert outcome.exit_code == 1
    assert "cnn's logits on task 0 after task 3" in outcome.stderr
    assert "after task 2" not in outcome.stderr
    assert results_in(tmp_path, "cnn")["hat"]["logits_unchanged"][3][0] is False


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--network", "perceptron"], "'cnn', 'resnet10t'"),
        (["--epochs", "0"], "--epochs"),
        (["--epochs", "many"], "--epochs"),
        (["--seed", "-1"], "--seed"),
        (["--images-per-digit", "501"], "--images-per-digit"),
        (["--speed", "1"], "--speed"),
        (["cnn"], "cnn"),
    ],
)
def test_bad_options_are_one_line(options: list[str], complaint: str, tmp_path: Path) -> None:
    outcome = run_demo(*options, "--output", str(tmp_path / "results"))
    assert_bad_input(outcome, complaint)
    assert not (tmp_path / "results").exists()


def test_an_output_folder_that_is_a_file_is_found_before_training(tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("mine")
    assert_bad_input(run_demo("--output", str(occupied)), "occupied")
    assert_bad_input(run_demo("--output", str(occupied / "below")), "occupied")
    assert occupied.read_text() == "mine"


def test_a_folder_in_place_of_a_file_is_found_before_training(tmp_path: Path) -> None:
    (tmp_path / "results.png").mkdir()
    assert_bad_input(run_demo("--output", str(tmp_path)), "results.png")
    assert [path.name for path in tmp_path.iterdir()] == ["results.png"]


def test_help_shows_examples() -> None:
    outcome = run_demo("--help")
    assert outcome.exit_code == 0
    assert "hatify demo --network cnn" in outcome.stdout


def test_the_split_is_stratified_and_apart() -> None:
    tasks = split_mnist(images_per_digit=50)
    assert [task.digits for task in tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    for task in tasks:
        assert task.train.images.shape == (80, 1, 28, 28)
        assert task.test.images.shape == (20, 1, 28, 28)
        assert task.train.labels.bincount().tolist() == [40, 40]
        assert task.test.labels.bincount().tolist() == [10, 10]
        trained_on = {image.numpy().tobytes() for image in task.train.images}
        assert not trained_on & {image.numpy().tobytes() for image in task.test.images}


def test_a_pass_sees_every_image_once_in_batches_of_like_size() -> None:
    data = LabelledImages(images=torch.arange(65.0).view(65, 1, 1, 1), labels=torch.zeros(65))
    batches = [images.flatten().tolist() for images, _ in data.shuffled_batches()]
    assert sorted(len(batch) for batch in batches) == [21, 22, 22]
    assert len(batches) == data.num_batches
    assert sorted(number for batch in batches for number in batch) == list(range(65))
