"""Data that the command line trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from hatify.cli.sources import imported
from hatify.errors import SourceError

FORMS = "FILE.npz or package.module:factory"


def data_from(source: str) -> Dataset[Any]:
    """The examples that a name stands for, as pairs of an input and a label.

    source: an .npz file with the arrays `inputs` and `labels`, or `package.module:factory`, which makes a map-style
    dataset of pairs.

    Raises:
        SourceError: there are none.
    """
    if source.endswith(".npz"):
        return _from_arrays(Path(source))
    factory = imported(source, FORMS)
    try:
        dataset = factory() if callable(factory) else factory
        first = dataset[0]
        examples = len(dataset)
    except Exception as error:  # whatever a user's data set does
        raise SourceError(f"{source} makes no data set: {type(error).__name__}: {error}") from error
    if not isinstance(first, tuple | list) or len(first) != 2 or not examples:
        raise SourceError(f"{source} has to give pairs of an input and a label, got {type(first).__name__}")
    checked: Dataset[Any] = dataset
    return checked


def _from_arrays(file: Path) -> Dataset[Any]:
    if not file.is_file():
        raise SourceError(f"there is no file {str(file)!r}")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        inputs, labels = found["inputs"], found["labels"]
    except KeyError:
        raise SourceError(f"{str(file)!r} has the arrays {list(found)}; it needs 'inputs' and 'labels'") from None
    except Exception as error:  # whatever NumPy's reader of this kind of file meets
        raise SourceError(f"{str(file)!r} is no .npz file of numbers, or it is cut off: {error}") from None
    if inputs.ndim == 0 or labels.shape != inputs.shape[:1] or not len(labels):
        raise SourceError(
            f"{str(file)!r}: 'labels' has to be one number for each input; inputs {inputs.shape}, labels {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise SourceError(f"{str(file)!r}: 'labels' have to be whole numbers, the classes; they are {labels.dtype}")
    return TensorDataset(_numbers(inputs, file), torch.from_numpy(labels.astype(np.int64)))


def _numbers(inputs: np.ndarray, file: Path) -> Tensor:
    """Floats in single precision, and whole numbers, which are indices, as PyTorch's embeddings take them."""
    if inputs.dtype == np.uint8:
        raise SourceError(f"{str(file)!r}: 'inputs' are bytes: scale them as the model expects, into float32")
    if inputs.dtype.kind not in "fiu":
        raise SourceError(f"{str(file)!r}: 'inputs' have to be numbers; they are {inputs.dtype}")
    if not np.isfinite(inputs).all():
        raise SourceError(f"{str(file)!r}: 'inputs' hold NaN or infinity")
    return torch.from_numpy(inputs.astype(np.float32 if inputs.dtype.kind == "f" else np.int64))
