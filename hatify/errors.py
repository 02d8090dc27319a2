"""Everything that hatify raises or warns about; catch `HatifyError` to catch all of it."""

import sys
import warnings
from collections.abc import Sequence

# Whose code stands between what warns and the code that it is meant for.
BETWEEN = {"hatify", "rewriters", "torch", "contextlib"}


class HatifyError(Exception):
    """Base class of the library's own exceptions. The message says what is wrong and what to do."""


class CaptureError(HatifyError):
    """The model could not be captured as one graph; names the submodule and the line."""


class InputError(HatifyError, ValueError):
    """Inputs that do not fit the model, or cannot be inferred."""


class TaskError(HatifyError, ValueError):
    """A task id that does not exist, or a number of tasks, classes or steps that is none."""


class TrainingError(HatifyError, RuntimeError):
    """Training outside of `net.learn`, or of another task than the one being learned."""


class TrainingWarning(UserWarning):
    """Training goes on, but not as it was meant."""


class ConversionError(HatifyError):
    """The captured graph holds something that cannot be converted soundly."""


class CapacityWarning(UserWarning):
    """A mask group has fewer features than there are tasks, none left to give, or a task uses none of it."""


class CaptureWarning(UserWarning):
    """The captured graph may behave differently from the model in a case that is named."""


class ExtractionError(HatifyError):
    """A task that cannot be a plain module of its own."""


class FileError(HatifyError):
    """A network that cannot be saved, or a file that is no network as `save` writes it."""


class CheckpointError(HatifyError):
    """A checkpoint that is not there, is damaged, holds something else than weights, or does not fit the model."""


class SourceError(HatifyError):
    """The name of a model or of data that leads to none."""


def never_trained(task: int, trained: Sequence[int]) -> TaskError:
    """What to raise where only a trained task will do."""
    return TaskError(f"task {task} was never trained; trained are {list(trained) or 'none'}")


def no_longer_a_parameter(name: str) -> ConversionError:
    """What to raise where a layer of the converted network has lost a parameter to a reparametrisation."""
    return ConversionError(
        f"{name!r} is no parameter of the converted network any more: "
        "prune or reparametrise the model, and convert it then"
    )


def first_few(names: Sequence[str], count: int = 3) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line, outside hatify and PyTorch, that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
