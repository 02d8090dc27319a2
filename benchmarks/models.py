"""The models that conversion is measured on, each with a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A model, and a function that draws the inputs of a call for a batch size."""

    model: nn.Module
    inputs: Callable[[int], dict[str, Any]]


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = [64, 256, 256, 256]
        self.layers = nn.Sequential(*[m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())])
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(64 * 49, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.features(x))))


class TransformerClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x)).mean(1))


class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.lstm = nn.LSTM(32, 64, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(x))
        return self.head(states[:, -1])


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=99,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
            num_labels=5,
        )
    )


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=99,
            n_embd=64,
            n_layer=3,
            n_head=4,
            n_positions=64,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def images(*shape: int) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {"x": torch.randn(batch, *shape)}


def tokens(length: int, vocabulary: int, name: str = "x", *, mask: bool = False) -> Callable[[int], dict[str, Any]]:
    def draw(batch: int) -> dict[str, Any]:
        inputs = {name: torch.randint(vocabulary, (batch, length))}
        if mask:
            inputs["attention_mask"] = torch.ones(batch, length, dtype=torch.long)
            inputs["attention_mask"][0, length // 2 :] = 0
        return inputs

    return draw


def _timm(name: str, size: int = 64) -> Callable[[], Subject]:
    return lambda: Subject(timm.create_model(name), images(3, size, size))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "MLP": lambda: Subject(MLP(), images(64)),
    "CNN": lambda: Subject(CNN(), images(1, 28, 28)),
    "resnet18": _timm("resnet18"),
    "resnet50": _timm("resnet50"),
    "vgg11_bn": _timm("vgg11_bn"),
    "mobilenetv3_small_100": _timm("mobilenetv3_small_100"),
    "efficientnet_b0": _timm("efficientnet_b0"),
    "densenet121": _timm("densenet121"),
    "convnext_atto": _timm("convnext_atto"),
    "vit_tiny_patch16_224": _timm("vit_tiny_patch16_224", 224),
    "swin_tiny_patch4_window7_224": _timm("swin_tiny_patch4_window7_224", 224),
    "mixer_s32_224": _timm("mixer_s32_224", 224),
    "nn.TransformerEncoder": lambda: Subject(TransformerClassifier(), tokens(12, 50)),
    "nn.LSTM": lambda: Subject(LSTMClassifier(), tokens(12, 50)),
    "BERT": lambda: Subject(_bert(), tokens(12, 99, "input_ids", mask=True)),
    "GPT-2": lambda: Subject(_gpt2(), tokens(12, 99, "input_ids")),
}
