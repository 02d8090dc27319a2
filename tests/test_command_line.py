"""`hatify convert | inspect | draw | train | verify | forget | extract` on files, as a user runs them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hatify import load, save
from tests.command_line import assert_bad_input, run

MODULE = """
import torch
from torch import nn

def small(width=12, classes=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, 16), nn.ReLU(), nn.Linear(16, classes),
    )

def words():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 3)
        def forward(self, ids):
            return self.head(self.embed(ids).relu().mean(1))
    return Words()

def broken():
    raise ValueError("out of order")

def nothing():
    return 3

def pairs():
    return [(torch.full((1, 8, 8), float(label)), label) for label in [0, 1] * 8]

not_a_factory = 3
"""
INPUT = ("--input", "1x8x8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of models and two small sets of examples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_of_mine", raising=False)
    (tmp_path / "zoo_of_mine.py").write_text(MODULE)
    generator = np.random.default_rng(0)
    for name, labels in {"first.npz": (0, 1), "second.npz": (2, 3)}.items():
        chosen = generator.choice(labels, 64)
        inputs = generator.normal(size=(64, 1, 8, 8)) * 0.3
        inputs[np.arange(64), 0, chosen] += 2  # the row of a label is bright
        np.savez(tmp_path / name, inputs=inputs, labels=chosen)
    return tmp_path


@pytest.fixture
def network(folder: Path) -> Path:
    """A converted network."""
    outcome = run("convert", "zoo_of_mine:small", *INPUT, "--num-tasks", 3, "-o", "net.safetensors")
    assert outcome.exit_code == 0, outcome.output
    return folder / "net.safetensors"


@pytest.fixture
def trained(network: Path) -> Path:
    """A network with a trained task."""
    outcome = run("train", network, "--task", 0, "--data", "first.npz", "--epochs", 30, "--batch-size", 8)
    assert outcome.exit_code == 0, outcome.output
    return network


def logits(network: Path, task_id: int | None) -> Tensor:
    with torch.no_grad():
        answer: Tensor = load(network).eval()(images(), task_id=task_id)
    return answer


def images() -> Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_convert_keeps_the_function_of_the_checkpoint(folder: Path) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(model.state_dict(), "w.safetensors")
    outcome = run(
        *("convert", "timm:test_resnet", "--argument", "num_classes=7", "--checkpoint", "w.safetensors"),
        *("--num-tasks", 2, "--num-classes", "2,5", "-o", "net.safetensors", "--json"),
    )
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["num_tasks"] == 2
    net, x = load("net.safetensors").eval(), torch.randn(2, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        assert torch.equal(net(x), model(x))
        assert [net(x, task_id=task).shape[1] for task in (0, 1)] == [2, 5]


def test_inputs_of_any_type_can_be_named(folder: Path) -> None:
    assert run("convert", "zoo_of_mine:words", "--input", "6:int64", "-o", "net.safetensors").exit_code == 0
    assert load("net.safetensors")(torch.zeros(3, 6, dtype=torch.int64)).shape == (3, 3)


def test_a_second_task_leaves_the_first_bitwise(trained: Path) -> None:
    before = logits(trained, 0)
    outcome = run("train", trained, "--task", 1, "--data", "second.npz", "--epochs", 30, "--batch-size", 8, "--json")
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert report["accuracy"] > 0.9
    assert 0 < report["used"] <= report["features"]
    assert load(trained).trained_tasks == (0, 1)
    assert torch.equal(logits(trained, 0), before)


def test_renewing_draws_anew_what_the_first_task_left(trained: Path) -> None:
    before, weight = logits(trained, 0), load(trained).state_dict()["5.weight"]
    still = ("--data", "second.npz", "--epochs", 1, "--learning-rate", 0, "--mask-learning-rate", 0)
    for options, renewed in (((), False), (("--renew",), True)):
        outcome = run("train", trained, "--task", 1, *still, *options, "-o", "other.safetensors")
        assert outcome.exit_code == 0, outcome.output
        assert torch.equal(load("other.safetensors").state_dict()["5.weight"], weight) != renewed
        assert torch.equal(logits(Path("other.safetensors"), 0), before)


def test_examples_to_test_with_that_do_not_fit_are_refused_before_training(network: Path) -> None:
    before = network.read_bytes()
    np.savez("wide.npz", inputs=np.zeros((4, 3, 8, 8)), labels=np.zeros(4, int))
    outcome = run("train", network, "--task", 0, "--data", "first.npz", "--test", "wide.npz", "--epochs", 10_000)
    assert outcome.exit_code == 2
    assert network.read_bytes() == before


def test_train_on_a_data_set_and_into_another_file(network: Path) -> None:
    before = network.read_bytes()
    outcome = run(
        "train", network, "--task", 2, "--data", "zoo_of_mine:pairs", "--epochs", 1, "-o", "other.safetensors"
    )
    assert outcome.exit_code == 0, outcome.output
    assert network.read_bytes() == before
    assert load("other.safetensors").trained_tasks == (2,)


def test_inspect(trained: Path) -> None:
    table = run("inspect", trained)
    assert table.exit_code == 0
    assert "task 0" in table.stdout
    summary = json.loads(run("inspect", trained, "--json").stdout)
    assert summary["trained"] == [0]
    assert [group["num_features"] for group in summary["groups"]] == [12, 16]
    for group in summary["groups"]:
        assert group["used"]["0"] + group["free"] == group["num_features"]
    assert "def forward(self" in run("inspect", trained, "--code").stdout
    assert "writes '5'" in run("inspect", trained, "--explain", "5").stdout


def test_draw(trained: Path) -> None:
    assert run("draw", trained, "-o", "graph.svg").exit_code == 0
    assert "</svg>" in Path("graph.svg").read_text()


def test_verify_tells_a_network_that_has_moved(trained: Path) -> None:
    outcome = run("verify", trained)
    assert outcome.exit_code == 0, outcome.output
    net = load(trained)
    net.get_parameter("5.weight").data.add_(1.0)
    save(net, trained)
    failed = run("verify", trained, "--json")
    assert failed.exit_code == 1
    assert not json.loads(failed.stdout)["ok"]
    assert "unmoved" in failed.stderr


def test_training_ends_with_a_pass_for_the_statistics(network: Path) -> None:
    run("train", network, "--task", 1, "--data", "first.npz", "--epochs", 3, "--batch-size", 16)
    assert load(network).get_buffer("1.per_task.1.num_batches_tracked") == (3 + 1) * 64 // 16


def test_forget_leaves_the_other_task(trained: Path) -> None:
    run("train", trained, "--task", 1, "--data", "second.npz", "--epochs", 2)
    kept, whole = logits(trained, 1), trained.read_bytes()
    dry = run("forget", trained, "--task", 0, "--dry-run", "--json")
    assert json.loads(dry.stdout)["dry_run"]
    assert trained.read_bytes() == whole
    assert run("forget", trained, "--task", 0).exit_code == 0
    assert load(trained).trained_tasks == (1,)
    assert torch.equal(logits(trained, 1), kept)


@pytest.mark.parametrize("name", ["task.pt2", "task.onnx"])
def test_extract_writes_the_task_as_a_program(name: str, trained: Path) -> None:
    outcome = run("extract", trained, "--task", 0, "-o", name, "--json")
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert report["parameters"] < report["parameters_in_network"]
    if name.endswith(".pt2"):
        answer = torch.export.load(name).module()(images())
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
        answer = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images().numpy()})[0])
    torch.testing.assert_close(answer, logits(trained, 0), rtol=1e-4, atol=1e-5)


NEW = ("-o", "new.safetensors")
CONVERT = ("convert", "zoo_of_mine:small", *INPUT)
BAD: dict[str, tuple[Sequence[object], str]] = {
    "no command": (("translate",), "translate"),
    "no form": (("convert", "resnet18", *NEW), "timm:NAME or package.module:factory"),
    "no timm model": (("convert", "timm:resnet81", *NEW), "timm has no model 'resnet81'"),
    "no module": (("convert", "zoo_of_yours:small", *NEW), "no module 'zoo_of_yours'"),
    "no factory": (("convert", "zoo_of_mine:smal", *NEW), "has no 'smal'"),
    "a factory that fails": (("convert", "zoo_of_mine:broken", *NEW), "ValueError: out of order"),
    "a factory of something else": (("convert", "zoo_of_mine:nothing", *NEW), "makes a int"),
    "no callable": (("convert", "zoo_of_mine:not_a_factory", *NEW), "is a int"),
    "no setting": ((*CONVERT, "--argument", "width", *NEW), "NAME=VALUE"),
    "no such argument": ((*CONVERT, "--argument", "depth=3", *NEW), "depth"),
    "no shape": (("convert", "zoo_of_mine:small", "--input", "1,8,8", *NEW), "is no shape"),
    "no type": (("convert", "zoo_of_mine:small", "--input", "1x8x8:int65", *NEW), "no type"),
    "a shape that does not fit": (("convert", "zoo_of_mine:small", "--input", "2x8x8", *NEW), "channels"),
    "no numbers": ((*CONVERT, "--num-classes", "two", *NEW), "--num-classes"),
    "numbers for other tasks": ((*CONVERT, "--num-classes", "2,3", *NEW), "num_classes"),
    "no tasks": ((*CONVERT, "--num-tasks", 0, *NEW), "--num-tasks"),
    "no head": ((*CONVERT, "--head", "classifier", *NEW), "classifier"),
    "no checkpoint": ((*CONVERT, "--checkpoint", "w.pt", *NEW), "no checkpoint 'w.pt'"),
    "an output that exists": ((*CONVERT, "-o", "first.npz"), "exists"),
    "no folder for the output": ((*CONVERT, "-o", "none/net.safetensors"), "cannot write"),
    "no network": (("inspect", "none.safetensors"), "no file"),
    "another file": (("inspect", "first.npz"), "no safetensors file"),
    "no layer": (("inspect", "net.safetensors", "--explain", "conv9"), "'conv9' is no layer"),
    "code as JSON": (("inspect", "net.safetensors", "--code", "--json"), "--code prints Python"),
    "no picture": (("draw", "net.safetensors", "-o", "graph.txt"), ".svg"),
    "no such task": (("train", "net.safetensors", "--task", 9, "--data", "first.npz"), "task 9"),
    "no data": (("train", "net.safetensors", "--task", 0, "--data", "none.npz"), "no file 'none.npz'"),
    "no data set": (("train", "net.safetensors", "--task", 0, "--data", "zoo_of_mine:nothing"), "makes no data set"),
    "other labels": (("train", "net.safetensors", "--task", 0, "--data", "many.npz"), "0 to 9, the head has 4"),
    "other inputs": (("train", "net.safetensors", "--task", 0, "--data", "large.npz"), "(batch, 1, 8, 8)"),
    "bytes": (("train", "net.safetensors", "--task", 0, "--data", "bytes.npz"), "scale"),
    "other names": (("train", "net.safetensors", "--task", 0, "--data", "xy.npz"), "'inputs' and 'labels'"),
    "no classes": (("train", "net.safetensors", "--task", 0, "--data", "shares.npz"), "have to be whole numbers"),
    "no numbers to train on": (("train", "net.safetensors", "--task", 0, "--data", "words.npz"), "have to be numbers"),
    "not a number": (("train", "net.safetensors", "--task", 0, "--data", "nan.npz"), "hold NaN"),
    "inputs of another kind": (("train", "net.safetensors", "--task", 0, "--data", "whole.npz"), "takes torch.float32"),
    "a rate that is too high": (
        ("train", "net.safetensors", "--task", 0, "--data", "first.npz", "--learning-rate", 1e30),
        "the task diverged",
    ),
    "a device without memory": (
        ("train", "net.safetensors", "--task", 0, "--data", "first.npz", "--device", "meta"),
        "cannot use the device 'meta'",
    ),
    "a seed that is too large": (
        ("train", "net.safetensors", "--task", 0, "--data", "first.npz", "--seed", 2**70),
        "--seed",
    ),
    "a file that is cut off": (("train", "net.safetensors", "--task", 0, "--data", "cut.npz"), "it is cut off"),
    "objects": (("train", "net.safetensors", "--task", 0, "--data", "objects.npz"), "no .npz file of numbers"),
    "no device": (("train", "net.safetensors", "--task", 0, "--data", "first.npz", "--device", "tpu9"), "tpu9"),
    "an untrained task": (("forget", "net.safetensors", "--task", 1), "never trained"),
    "no format": (("extract", "net.safetensors", "--task", 0, "-o", "task.bin"), ".pt2 and .onnx"),
    "an untrained task to extract": (("extract", "net.safetensors", "--task", 0, "-o", "task.pt2"), "never trained"),
    "no task to extract": (("extract", "net.safetensors", "--task", 7, "-o", "task.pt2"), "task 7"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line_and_changes_nothing(mistake: str, network: Path) -> None:
    ones = np.ones((20, 1, 8, 8))
    np.savez("many.npz", inputs=ones, labels=np.arange(20) % 10)
    np.savez("large.npz", inputs=np.ones((20, 1, 9, 9)), labels=np.zeros(20, int))
    np.savez("bytes.npz", inputs=ones.astype(np.uint8), labels=np.zeros(20, int))
    np.savez("shares.npz", inputs=ones, labels=np.full(20, 0.5))
    np.savez("words.npz", inputs=np.array(["word"] * 20), labels=np.zeros(20, int))
    Path("cut.npz").write_bytes(Path("many.npz").read_bytes()[:500])
    np.savez("nan.npz", inputs=ones * np.nan, labels=np.zeros(20, int))
    np.savez("whole.npz", inputs=ones.astype(np.uint16), labels=np.zeros(20, int))
    np.savez("xy.npz", x=ones, y=np.zeros(20))
    np.savez("objects.npz", inputs=np.array([{}] * 20), labels=np.zeros(20, int))
    before = {path.name: path.read_bytes() for path in network.parent.iterdir() if path.is_file()}
    arguments, complaint = BAD[mistake]
    assert_bad_input(run(*arguments), complaint)
    assert {path.name: path.read_bytes() for path in network.parent.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("command", ["convert", "inspect", "draw", "train", "verify", "forget", "extract", "demo"])
def test_help_has_examples(command: str) -> None:
    outcome = run(command, "--help")
    assert outcome.exit_code == 0
    assert f"hatify {command}" in outcome.stdout.partition("Examples")[2]


def test_the_installed_command_completes_in_a_shell() -> None:
    installed = shutil.which("hatify")
    if installed is None:
        pytest.skip("hatify is not installed as a package here")
    outcome = subprocess.run([installed, "--show-completion", "bash"], capture_output=True, text=True, check=True)
    assert "complete" in outcome.stdout


def test_what_a_user_interrupts_leaves_the_old_network(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = network.read_bytes()

    def interrupted(self: nn.Module, *args: object, **kwargs: object) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr("hatify.module.HATModule._resolve", interrupted)
    outcome = run("train", network, "--task", 0, "--data", "first.npz")
    assert outcome.exit_code == 130
    assert network.read_bytes() == before
