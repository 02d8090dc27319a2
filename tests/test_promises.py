"""What a conversion promises, on whole models of many families: the rows that `benchmarks/spine.py` prints."""

from __future__ import annotations

import pytest
import timm

from benchmarks.models import SUBJECTS, Subject, images
from benchmarks.promises import measure

SMALL = {
    name: (lambda name=name, size=size: Subject(timm.create_model(name), images(3, size, size)))
    for name, size in [
        ("test_vit", 160),
        ("test_convnext", 64),
        ("test_efficientnet", 64),
        ("test_resnet", 64),
        ("test_byobnet", 64),
        ("test_mambaout", 64),
    ]
}
MODELS = {name: SUBJECTS[name] for name in ("MLP", "CNN", "nn.TransformerEncoder", "nn.LSTM", "BERT", "GPT-2")} | SMALL


@pytest.mark.parametrize("name", MODELS)
def test_equal_unmoved_and_plastic(name: str) -> None:
    row = measure(MODELS[name]())
    assert max(row.eval_difference, row.train_difference) < 1e-5
    assert row.step_bitwise
    assert row.scramble_bitwise and row.moved
    assert row.plastic >= 0.70
    assert row.growth <= 1.3
