"""What a conversion promises, on a spread of models over the families of the zoo, which `benchmarks.zoo` runs whole."""

from __future__ import annotations

import pytest

from benchmarks.models import SUBJECTS
from benchmarks.promises import measure
from benchmarks.sources import SOURCES

OWN = ("MLP", "CNN", "nn.TransformerEncoder", "nn.LSTM")
LIBRARIES = {
    "timm": (
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "test_byobnet",
        "test_mambaout",
        "test_nfnet",  # standardises its weights
        "test_vit",
        "test_vit3",  # rotary positions
    ),
    "torchvision": ("shufflenet_v2_x0_5", "squeezenet1_1"),
    "transformers": (
        "BertForSequenceClassification",
        "AlbertForSequenceClassification",  # one layer, called several times
        "GPT2LMHeadModel",  # tied embeddings
        "LlamaForCausalLM",  # rotary positions, grouped queries
        "T5ForConditionalGeneration",
        "MixtralForCausalLM",
        "MambaForCausalLM",
        "CLIPModel",
        "Wav2Vec2ForCTC",  # drops layers in train mode, weight norm
    ),
}
MODELS = {name: SUBJECTS[name] for name in OWN} | {
    name: (lambda library=library, name=name: SOURCES[library].subject(name))
    for library, names in LIBRARIES.items()
    for name in names
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_equal_unmoved_and_plastic(name: str) -> None:
    row = measure(MODELS[name]())
    assert row.eval_difference < 1e-5 and row.masked_difference < 1e-5
    assert row.step_bitwise
    assert row.scramble_bitwise and row.moved
    assert row.plastic >= 0.65
    assert row.growth <= 1.3
