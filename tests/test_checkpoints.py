"""Checkpoints in all the forms that are written, and what is wrong with some."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hatify.checkpoints import load_checkpoint
from hatify.errors import CheckpointError


def a_model(num_classes: int = 3) -> nn.Module:
    model: nn.Module = timm.create_model("test_vit", num_classes=num_classes)
    return model


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def write_shards(state: dict[str, Any], folder: Path) -> Path:
    """As huggingface_hub writes weights in two files."""
    names = list(state)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, chosen in halves.items():
        save_file({name: state[name].contiguous() for name in chosen}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: file for file, own in halves.items() for name in own}}))
    return index


def _saved(contents: Any, path: Path) -> Path:
    torch.save(contents, path)
    return path


def _safetensors(state: dict[str, Any], folder: Path) -> Path:
    save_file(state, folder / "w.safetensors")
    return folder / "w.safetensors"


FORMS: dict[str, Callable[[dict[str, Any], Path], Path]] = {
    "safetensors": _safetensors,
    "shards": write_shards,
    "a folder of shards": lambda state, folder: write_shards(state, folder).parent,
    "a folder with one file": lambda state, folder: _safetensors(state, folder).parent,
    "torch.save": lambda state, folder: _saved(state, folder / "w.pt"),
    "torch.save, before 1.6": lambda state, folder: _old(state, folder / "w.pth"),
    "DataParallel": lambda state, folder: _saved(prefixed(state, "module."), folder / "w.pth"),
    "torchvision's references": lambda state, folder: _saved({"model": state, "epoch": 3}, folder / "w.pth"),
    "timm": lambda state, folder: _saved({"state_dict": state, "epoch": 3, "arch": "x"}, folder / "w.pth.tar"),
    "Lightning": lambda state, folder: _saved(
        {"state_dict": prefixed(state, "net.") | {"criterion.weight": torch.ones(3)}, "epoch": 1}, folder / "w.ckpt"
    ),
    "compiled, in DataParallel": lambda state, folder: _saved(prefixed(state, "module._orig_mod."), folder / "w.pt"),
}


def _old(state: dict[str, Any], path: Path) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_weights(form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    written, read = a_model(), a_model()
    load_checkpoint(read, FORMS[form](written.state_dict(), tmp_path))
    for name, tensor in written.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


def test_a_tied_weight_needs_one_of_its_names(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.logits = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.logits.weight = self.words.weight

    written, read = Tied(), Tied()
    save_file({"words.weight": written.words.weight.detach()}, tmp_path / "w.safetensors")
    load_checkpoint(read, tmp_path / "w.safetensors")
    assert torch.equal(read.logits.weight, written.words.weight)


class RunsCode:
    """What a hostile file would hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def _cut(path: Path, share: float = 0.5) -> Path:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def _text(path: Path, text: str = "not a checkpoint") -> Path:
    path.write_text(text)
    return path


def _without_a_shard(state: dict[str, Any], folder: Path) -> Path:
    index = write_shards(state, folder)
    (folder / "model-2.safetensors").unlink()
    return index


BAD: dict[str, tuple[Callable[[dict[str, Any], Path], Path], str]] = {
    "no file": (lambda state, folder: folder / "w.pt", "there is no checkpoint"),
    "an empty folder": (lambda state, folder: folder, "no .safetensors files"),
    "cut off, safetensors": (lambda state, folder: _cut(_safetensors(state, folder)), "cut off"),
    "cut off, torch.save": (lambda state, folder: _cut(_saved(state, folder / "w.pt")), "cut off"),
    "cut off, before 1.6": (lambda state, folder: _cut(_old(state, folder / "w.pt")), "cut off|damaged"),
    "empty": (lambda state, folder: _text(folder / "w.pt", ""), "no checkpoint"),
    "text": (lambda state, folder: _text(folder / "w.pt"), "no checkpoint"),
    "text as safetensors": (lambda state, folder: _text(folder / "w.safetensors"), "no safetensors file"),
    "an index that is none": (lambda state, folder: _text(folder / "w.safetensors.index.json", "[]"), "no index"),
    "a missing shard": (_without_a_shard, "not beside it: model-2.safetensors"),
    "code": (lambda state, folder: _saved({"state_dict": state, "x": RunsCode()}, folder / "w.pt"), "would run code"),
    "a whole model": (lambda state, folder: _saved(a_model(), folder / "w.pt"), "would run code.*VisionTransformer"),
    "no tensors": (lambda state, folder: _saved({"epoch": 3}, folder / "w.pt"), "no state dict"),
    "a list": (lambda state, folder: _saved([1, 2], folder / "w.pt"), "holds a list"),
    "another model": (
        lambda state, folder: _saved(timm.create_model("test_resnet").state_dict(), folder / "w.pt"),
        r"lacks \d+ of the model's \d+ tensors: .*, .*, .* and \d+ more",
    ),
    "more than the model": (
        lambda state, folder: _saved(state | {"neck.weight": torch.ones(1)}, folder / "w.pt"),
        "1 tensors that the model lacks: neck.weight",
    ),
    "other shapes": (
        lambda state, folder: _saved(a_model(5).state_dict(), folder / "w.pt"),
        r"2 tensors .* 'head.weight' is \(5, 64\) there, \(3, 64\) here",
    ),
}


@pytest.mark.parametrize("flaw", BAD)
def test_what_is_wrong_is_said_and_the_model_stays(flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = a_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    make, complaint = BAD[flaw]
    with pytest.raises(CheckpointError, match=f"(?s){complaint}"):
        load_checkpoint(model, make(a_model().state_dict(), folder))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not Path("executed").exists()
