"""Voices that Debian packages ship, and a network of one-dimensional convolutions on their samples.

    apt-get install asterisk-core-sounds-{en,es,fr,it,ru}-wav asterisk-prompt-it-menardi-wav

Each task is to tell two of them apart by half a second: one speaker's English from her Spanish, two Italians, a
Canadian from a Russian.
"""

from __future__ import annotations

from pathlib import Path

import torch
from scipy.io import wavfile
from torch import Tensor, nn

from benchmarks.learning.sequences import TEST_SHARE, Examples, Sequence, Task

FOLDER = Path("/usr/share/asterisk/sounds")
PAIRS = (
    ("en_US_f_Allison", "es_MX_f_Allison"),
    ("it_IT_m_Carlo", "it_IT_f_Menardi"),
    ("fr_CA_f_June", "ru_RU_f_IvrvoiceRU"),
)
WINDOW = 4000  # samples: half a second
WINDOWS = 400  # of each voice for training, a quarter of it for tests
SILENCE = 0.01  # of full scale, in the mean square's root


class Waveforms(nn.Module):
    """Four layers of convolutions on raw samples (Dai et al. 2017, network M5, narrower)."""

    def __init__(self, shape: torch.Size, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_layer(shape[0], width, kernel=80, stride=4),
            *_layer(width, width, kernel=3),
            *_layer(width, 2 * width, kernel=3),
            *_layer(2 * width, 2 * width, kernel=3),
        )
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, samples: Tensor) -> Tensor:
        """samples [N, 1, length]."""
        return self.head(self.layers(samples).mean(2))


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv1d(inputs, outputs, kernel, stride, bias=False)
    return [convolution, nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]


def voices() -> Sequence:
    """Windows for training and for tests are of different recordings."""
    return Sequence("voices", [_task(pair) for pair in PAIRS], num_classes=2)


def _task(pair: tuple[str, str]) -> Task:
    voices = [sorted((FOLDER / name).rglob("*.wav")) for name in pair]
    tests = [[path for number, path in enumerate(voice) if number % TEST_SHARE == 0] for voice in voices]
    trains = [[path for number, path in enumerate(voice) if number % TEST_SHARE] for voice in voices]
    return Task(_examples(trains, WINDOWS), _examples(tests, WINDOWS // 4))


def _examples(recordings: list[list[Path]], count: int) -> Examples:
    windows = [_windows(paths, count) for paths in recordings]
    labels = torch.cat([torch.full((len(of_voice),), label) for label, of_voice in enumerate(windows)])
    return Examples(torch.cat(windows), labels)


def _windows(paths: list[Path], count: int) -> Tensor:
    """Pieces [count, 1, WINDOW] of recordings, in an order by chance, each of one loudness; silence is left out."""
    samples = [torch.from_numpy(wavfile.read(path)[1].copy()).float() / 2**15 for path in paths]
    windows = torch.cat([recording[: len(recording) // WINDOW * WINDOW].view(-1, 1, WINDOW) for recording in samples])
    loudness = windows.square().mean(2, keepdim=True).sqrt()
    audible = (windows / loudness)[loudness.flatten() > SILENCE]
    return audible[torch.randperm(len(audible), generator=torch.Generator().manual_seed(0))[:count]]
