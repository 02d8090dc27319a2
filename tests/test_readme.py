"""The README's examples run as they stand."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from hatify import HATModule
from tests.command_line import run

README = MarkdownIt().parse((Path(__file__).parent.parent / "README.md").read_text())


def examples(language: str, word: str) -> list[str]:
    """The code blocks of a language that hold a word."""
    return [token.content for token in README if token.info == language and word in token.content]


def test_use_it() -> None:
    (example,) = examples("python", "net.learn")
    batches = [[(torch.randn(2, 3, 224, 224), torch.tensor([0, 1]))]] * 3
    names: dict[str, Any] = {"loaders": batches}
    exec(compile(example, "README.md", "exec"), names)
    net = names["net"]
    assert isinstance(net, HATModule)
    assert net.trained_tasks == (0, 1, 2)
    assert names["logits"].shape == (2, 10)


def test_teach_it_an_operator() -> None:
    (example,) = examples("python", "@rewriter")
    torch.library.define("my::op", "(Tensor x) -> Tensor")
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)
    from rewriters import load_rules

    assert load_rules()[torch.ops.my.op.default] is names["my_op"]


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("resnet10t")
    save_file(model.state_dict(), "w.safetensors")
    size = model.pretrained_cfg["input_size"]
    np.savez("first.npz", inputs=np.zeros((4, *size), np.float32), labels=np.arange(4))
    (example,) = examples("sh", "hatify convert")
    for line in example.replace("timm:resnet50", "timm:resnet10t").splitlines():  # a smaller one
        program, *arguments = shlex.split(line)
        assert program == "hatify"
        outcome = run(*arguments)
        assert outcome.exit_code == 0, f"{line}: {outcome.output}"
    assert {file.name for file in tmp_path.iterdir()} >= {"net.safetensors", "graph.svg", "task0.onnx"}
