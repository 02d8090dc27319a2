"""One run of the demo, from the data to the files."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hatify.demo.data import DigitTask, split_mnist
from hatify.demo.learners import FineTuningLearner, HATLearner, Learner
from hatify.demo.plot import draw
from hatify.demo.results import NetworkResult, SequenceResult
from hatify.demo.sequence import learn_in_sequence
from hatify.demo.settings import DemoSettings, NetworkName
from hatify.demo.tables import print_network
from hatify.errors import CapacityWarning, FileError
from hatify.output import check_writable, whole_file

# The networks are small: a second thread gains little, and on a busy machine several wait for each other.
NUM_THREADS = 1

LearnTitled = Callable[[Learner, str], SequenceResult]


def run_demo(settings: DemoSettings) -> dict[str, NetworkResult]:
    """Train, print the tables and write the files; the results are by network name."""
    _prepare(settings)
    torch.set_num_threads(NUM_THREADS)
    tasks = split_mnist(settings.images_per_digit)
    results = _train(settings, tasks)
    _report(settings, results, [task.digits for task in tasks])
    return results


def _prepare(settings: DemoSettings) -> None:
    """Make the folder, and find out before the work begins whether the files can be written."""
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {str(settings.output)!r}: {error.strerror}") from None
    check_writable(settings.results_file)
    check_writable(settings.picture_file)


def _train(settings: DemoSettings, tasks: Sequence[DigitTask]) -> dict[str, NetworkResult]:
    steps = settings.epochs * sum(task.train.num_batches for task in tasks)
    with (
        warnings.catch_warnings(),
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as progress,
    ):
        warnings.simplefilter("ignore", CapacityWarning)  # the table of capacity tells it in the end
        bar = progress.add_task("preparing", total=2 * len(settings.networks) * steps)

        def learn(learner: Learner, title: str) -> SequenceResult:
            def show(task_id: int) -> None:
                first, second = tasks[task_id].digits
                progress.update(bar, advance=1, description=f"{title}: {first} or {second}")

            return learn_in_sequence(learner, tasks, settings.epochs, show)

        return {name.value: _compare(name, len(tasks), settings.seed, learn) for name in settings.networks}


def _compare(name: NetworkName, num_tasks: int, seed: int, learn: LearnTitled) -> NetworkResult:
    torch.manual_seed(seed)
    hat = HATLearner(name, num_tasks)
    with_hat = learn(hat, f"{name.value} with HAT")
    torch.manual_seed(seed)
    fine_tuned = learn(FineTuningLearner(name, num_tasks), f"{name.value} fine-tuned")
    return NetworkResult(with_hat, fine_tuned, hat.network.capacity())


def _report(settings: DemoSettings, results: Mapping[str, NetworkResult], digits: Sequence[tuple[int, int]]) -> None:
    console = Console()
    for name, result in results.items():
        print_network(console, name, result, digits)
    with whole_file(settings.results_file) as file:
        file.write_text(json.dumps(_as_dict(settings, results, digits), indent=2))
    with whole_file(settings.picture_file) as file:
        file.write_bytes(draw(results, digits))
    console.print(f"Saved: {settings.results_file}, {settings.picture_file}")


def _as_dict(
    settings: DemoSettings, results: Mapping[str, NetworkResult], digits: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    return {
        "epochs": settings.epochs,
        "seed": settings.seed,
        "images_per_digit": settings.images_per_digit,
        "torch": torch.__version__,
        "digits": digits,
        "networks": {name: result.as_dict() for name, result in results.items()},
    }
