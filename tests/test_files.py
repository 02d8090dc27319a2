"""Saving and loading: the same network, to the last bit, from a file that holds no code; and files that are none."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hatify import HATModule, hatify, load, save
from hatify.errors import FileError, InputError
from hatify.verification.trials import draw_masks, perturb
from tests.strangers import STRANGERS
from tests.test_strangers import outputs, train

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def net() -> HATModule:
    """A small network with one trained task and one interrupted."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4)
    perturb(model)
    net = hatify(model, num_tasks=3, num_classes=[4, 2, 3], example_inputs=(images(),))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(net, 1)
    return net.eval()


def interrupted(net: HATModule, task_id: int) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with net.train().learn(task_id, steps=4) as task:
        (net(images()).square().mean() + task.regularization()).backward()
        optimizer.step()
        raise KeyboardInterrupt


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", STRANGERS)
def test_every_stranger_is_itself_after_saving(name: str, tmp_path: Path) -> None:
    stranger = STRANGERS[name]
    model = stranger.model()
    perturb(model)
    net = hatify(model, num_tasks=2, example_inputs=stranger.inputs(2))
    draw_masks(net, 0)
    net.registry.trained.append(0)
    save(net, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors", model)
    assert_same(net, loaded, stranger.inputs(3))
    train(net, 1, stranger.inputs(3))
    train(loaded, 1, stranger.inputs(3))


def assert_same(net: HATModule, other: HATModule, inputs: dict[str, Any]) -> None:
    """Two networks are alike: tensors in the same order, code, locks, outputs with and without a task."""
    assert other.code == net.code
    assert [name for name, _ in other.named_parameters()] == [name for name, _ in net.named_parameters()]
    state, loaded = net.state_dict(), other.state_dict()
    assert list(state) == list(loaded)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert other.trained_tasks == net.trained_tasks
    locks = other.lock_masks(1)
    assert all(torch.equal(locks[name], lock) for name, lock in net.lock_masks(1).items())
    for task in (None, 0):
        expected, actual = ((torch.manual_seed(0), outputs(n.eval(), inputs, task_id=task))[1] for n in (net, other))
        assert all(map(torch.equal, actual, expected))


def test_what_was_trained_interrupted_and_set_is_in_the_file(net: HATModule, tmp_path: Path) -> None:
    copied = copy.deepcopy(net)
    copied.set_task(2)
    copied.layer1.eval()
    copied.train().layer1.eval()
    copied.requires_grad_(False)
    save(copied, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.trained_tasks == (0,) and loaded.registry.interrupted == {1: 1}
    assert [m.training for m in loaded.modules()] == [m.training for m in copied.modules()]
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded.eval()(images()), net(images(), task_id=2))
    assert loaded.blueprint.config == net.blueprint.config
    assert loaded.capacity() == net.capacity()


def test_a_loaded_network_lives_on(net: HATModule, tmp_path: Path) -> None:
    """It can do all that the saved one can, with the same results."""
    save(net, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    assert torch.equal(loaded.extract(0)(images()), net.extract(0)(images()))
    assert str(loaded.forget(1, seed=0, dry_run=True)) == str(net.forget(1, seed=0, dry_run=True))
    loaded.add_tasks(1)
    before = loaded.eval()(images(), task_id=0)
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=0.01)
    with loaded.train().learn(3, steps=2):
        for _ in range(2):
            loaded(images()).square().mean().backward()
            optimizer.step()
    assert torch.equal(loaded.eval()(images(), task_id=0), before)


@pytest.mark.parametrize("moment", [1, 3])
def test_a_task_resumed_from_files_ends_as_if_never_interrupted(net: HATModule, moment: int, tmp_path: Path) -> None:
    """The network from its file, the optimizer from its state dict: bitwise."""

    def step(net: HATModule, optimizer: torch.optim.Optimizer, task: Any, number: int) -> None:
        data = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(number))
        loss = net(data).square().mean() + task.regularization()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def steps(net: HATModule, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        with net.train().learn(2, steps=5) as task:
            for number in numbers:
                step(net, optimizer, task, number)
                if number == moment and numbers.stop < 5:
                    save(net, tmp_path / "net.safetensors")
                    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")

    whole, part = copy.deepcopy(net), copy.deepcopy(net)
    steps(whole, torch.optim.AdamW(whole.parameters(), lr=0.01), range(5))
    steps(part, torch.optim.AdamW(part.parameters(), lr=0.01), range(moment + 1))
    resumed = load(tmp_path / "net.safetensors")
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    steps(resumed, optimizer, range(moment + 1, 5))
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())
    assert resumed.trained_tasks == whole.trained_tasks == (0, 2)


@pytest.mark.parametrize("copied", ["pickle", "torch.save"])
def test_a_network_can_be_pickled(net: HATModule, copied: str) -> None:
    stream = io.BytesIO()
    if copied == "pickle":
        other = pickle.loads(pickle.dumps(net))
    else:
        torch.save(net, stream)
        stream.seek(0)
        other = torch.load(stream, weights_only=False)
    assert_same(net, other, {"x": images()})


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.hidden = nn.Embedding(20, 8), nn.Linear(8, 8)
            self.decoder = nn.Linear(8, 20, bias=False)
            self.decoder.weight = self.words.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.hidden(self.words(ids)).relu())

    net = hatify(Tied(), 2, example_inputs=(torch.zeros(2, 4, dtype=torch.long),))
    save(net, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    assert loaded.get_parameter("decoder.weight") is loaded.get_parameter("words.weight")


@pytest.mark.parametrize("name", ["BertModel", "GPT2LMHeadModel"])
def test_outputs_of_transformers_keep_their_type(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, use_cache=False)
    if name == "BertModel":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(vocab_size=50, **sizes)
    ids = torch.randint(50, (2, 6))
    net = hatify(getattr(transformers, name)(config), 2, example_inputs={"input_ids": ids}).eval()
    save(net, tmp_path / "net.safetensors")
    loaded = load(tmp_path / "net.safetensors")
    expected, actual = net(input_ids=ids, task_id=0), loaded(input_ids=ids, task_id=0)
    assert type(actual) is type(expected) and actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_a_required_argument_is_required_of_a_loaded_network(net: HATModule, tmp_path: Path) -> None:
    save(net, tmp_path / "net.safetensors")
    with pytest.raises(InputError, match="missing a required argument: 'x'"):
        load(tmp_path / "net.safetensors")()


def test_a_file_holds_no_code(net: HATModule, tmp_path: Path) -> None:
    """A process that cannot import the model's package loads it."""
    save(net, tmp_path / "net.safetensors")
    torch.save(net(images(), task_id=0), tmp_path / "logits.pt")
    program = (
        "import sys; sys.modules['timm'] = None\n"
        "import torch; from hatify import load\n"
        f"net = load({str(tmp_path / 'net.safetensors')!r})\n"
        "images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        f"assert torch.equal(net(images, task_id=0), torch.load({str(tmp_path / 'logits.pt')!r}))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- files that are none, or are damaged ----------------------------------------------------------------------------


def refusal(path: Path, *model: nn.Module) -> str:
    with pytest.raises(FileError) as refused:
        load(path, *model)
    message = str(refused.value)
    assert ("\n" not in message and str(path) in message) or model
    return message


def test_a_damaged_file_is_refused(net: HATModule, tmp_path: Path) -> None:
    """Cut off anywhere, or with one bit changed anywhere."""
    path = tmp_path / "net.safetensors"
    save(net, path)
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(25):
        path.write_bytes(whole[: chance.randrange(len(whole))])
        refusal(path)
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refusal(path)
    for position in (0, 9, 200, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        refusal(path)


def test_what_is_no_network_is_refused_in_one_line(net: HATModule, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert "there is no file" in refusal(path)
    assert "there is no file" in refusal(tmp_path)
    with pytest.raises(FileError, match="load takes the path of a file, got int"):
        load(7)  # type: ignore[arg-type]
    path.write_bytes(b"")
    assert "no safetensors file" in refusal(path)
    torch.save(net.state_dict(), path)
    assert "no safetensors file" in refusal(path)
    save_file({"weight": torch.zeros(2)}, path)
    assert "holds tensors, but no network" in refusal(path)
    rewritten(net, path, {"hatify.format": "3", "hatify.version": "9.0"})
    assert "written by hatify 9.0" in refusal(path) and "install the newer one" in refusal(path)


def rewritten(net: HATModule, path: Path, changes: dict[str, str]) -> None:
    """A file with other metadata."""
    save(net, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | changes)


@pytest.mark.parametrize(
    ("part", "replacement", "message"),
    [
        ('"aten.relu_.default"', '"aten.from_file.default"', "do not trust this file"),
        ('"aten.relu_.default"', '"aten.no_such_thing.default"', "import the package that defines it"),
        ('"aten.relu_.default"', '"builtins.eval"', "does not exist here"),
        ('"aten.relu_.default"', '"os.system"', "does not exist here"),
        ('"target": "x"', '"target": "x=print(1)"', "cannot be built"),
        ('"target": "conv1.0"', '"target": "conv1.__class__"', "does not hold"),
        ('"Reference"', '"Unheard"', "cannot be built"),
    ],
)
def test_a_crafted_file_runs_nothing(
    net: HATModule, part: str, replacement: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever writes a file can give it the right fingerprint, too."""
    path = tmp_path / "net.safetensors"
    header = net.contents().header
    crafted = json.loads(json.dumps(header).replace(part, replacement))
    assert crafted != header
    with monkeypatch.context() as patch:
        patch.setattr(type(net), "contents", lambda net: contents_with(crafted, net))
        save(net, path)
    assert message in refusal(path, nn.Module())


def contents_with(header: dict[str, Any], net: HATModule) -> Any:
    from hatify.serialization.contents import Contents, apart

    return Contents(header, apart(net, net.blueprint, None).tensors)


def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(net: HATModule, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save(net, path)
    before = path.read_bytes()
    with pytest.raises(FileError, match="a network that hatify has converted, got Linear"):
        save(nn.Linear(2, 2), path)
    with pytest.raises(FileError, match="meta device"):
        save(copy.deepcopy(net).to("meta"), path)
    with pytest.raises(FileError, match="it is a folder"):
        save(net, tmp_path)
    with pytest.raises(FileError, match="cannot write"):
        save(net, tmp_path / "no" / "such" / "folder.safetensors")
    with pytest.raises(FileError, match="cannot write"):
        save(net, path / "net.safetensors")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net.safetensors"]
    save(net, tmp_path / f"{'long' * 60}.safetensors")  # as long as names can be


def test_a_file_is_as_readable_as_others(net: HATModule, tmp_path: Path) -> None:
    save(net, tmp_path / "net.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_saving_replaces_what_a_link_points_at(net: HATModule, tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "net.safetensors")
    save(net, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert load(tmp_path / "net.safetensors").trained_tasks == (0,)


KILLS = 50
SAVING = """
import os, sys, time, torch, random, signal
from torch import nn
from hatify import hatify, load, save
torch.set_num_threads(1)
path, kills = sys.argv[1], int(sys.argv[2])
net = hatify(nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 10)), 2)
def save_filled(value):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    save(net, path)
started = time.perf_counter()
save_filled(0.0)
patience = 3 * (time.perf_counter() - started)
chance, between, last = random.Random(0), 0, 0.0
for kill in range(kills):
    child = os.fork()
    if not child:
        value = last
        while True:
            value += 1.0
            save_filled(value)
    time.sleep(chance.uniform(0, patience))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    values = {float(v) for p in load(path).parameters() for v in (p.min(), p.max())}
    assert len(values) == 1 and min(values) >= last, values
    replaced = min(values) > last
    between += replaced
    patience *= 0.9 if replaced else 1.1  # so that both happen, however busy the machine is
    last = min(values)
print(between)
"""


def test_a_save_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """kill -9 at random moments: the file is the old one or the new one, whole."""
    run = [sys.executable, "-c", SAVING, str(tmp_path / "net.safetensors"), str(KILLS)]
    replaced = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    assert 5 < replaced < KILLS  # some were killed before they had replaced the file once, some after
