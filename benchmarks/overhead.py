"""What a conversion costs: steps of the converted network against steps of the plain model.

    python -m benchmarks.overhead [NAME ...] [--compile] [--autocast] [--json results.json]

Forms of a model (see `contenders`) take turns in one process, and ratios are of the same round; where a process happens
to lay its weights is worth some percent, so several processes are asked, one after another. "unfolded" shows what
folding masks into weights buys, "extracted" is `net.extract(t)` of a task with 40 % of each group. Memory is what
tensors take at the peak, counted and not sampled. CUDA is used where there is one. `--tasks` times steps at 2 and at
50 trained tasks instead, `--profile` prints where the time of a converted step goes.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensor
from torch.profiler import ProfilerActivity

from benchmarks.contenders import FORMS, Contender, Setting, contender, extracted_task
from hatify.verification.trials import relative_difference

P = ParamSpec("P")
T = TypeVar("T")

# Images a step, by device: what fills it.
BATCHES = {
    "resnet18": {"cpu": 32, "cuda": 256},
    "resnet50": {"cpu": 16, "cuda": 128},
    "vit_tiny_patch16_224": {"cpu": 32, "cuda": 256},
    "convnext_atto": {"cpu": 32, "cuda": 256},
    "mobilenetv3_small_100": {"cpu": 64, "cuda": 512},
}
WARM_UP = 2
PROCESSES = 5
FEW, MANY = 2, 50  # trained tasks
INFERENCES = 3  # rounds of inference for each of training: they are short, and what is asked of them is finer
# glibc gives freed memory back and takes it anew, page by page, and which form pays for that is chance: here none does.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**35)}


@dataclass(frozen=True)
class Timings:
    """The plain model's seconds, and by form the ratios to them.

    A form is also "again", a second plain model, which shows how much ratios wander on this machine, and of those that
    infer "extracted", the extracted task. left: its share of the parameters. difference: its logits from those of the
    masked network, over the largest. gates: masks that no parameter could carry. graphs, breaks: of torch.compile,
    under which neither the unfolded nor the extracted network is timed.
    """

    plain_training: float
    plain_inference: float
    training: dict[str, float]
    inference: dict[str, float]
    left: float
    difference: float
    gates: int
    graphs: int
    breaks: int


@dataclass(frozen=True)
class Row:
    """processes: what each of them saw. memory: peak of a training step, a ratio; not measured under torch.compile."""

    name: str
    batch: int
    processes: Sequence[Timings]
    memory: float | None


def measure(setting: Setting, rounds: int) -> Row:
    seen = in_processes(timings, setting, rounds)
    memory = None
    if not setting.compile_mode:
        memory = in_fresh_process(peak, setting, "converted") / in_fresh_process(peak, setting, "plain")
    return Row(setting.name, setting.batch, seen, memory)


def medians(seen: Sequence[Timings]) -> Timings:
    def by_form(ratios: Sequence[dict[str, float]]) -> dict[str, float]:
        return {form: statistics.median(each[form] for each in ratios) for form in ratios[0]}

    return replace(
        seen[0],
        plain_training=statistics.median(each.plain_training for each in seen),
        plain_inference=statistics.median(each.plain_inference for each in seen),
        training=by_form([each.training for each in seen]),
        inference=by_form([each.inference for each in seen]),
        difference=max(each.difference for each in seen),
    )


def in_processes(function: Callable[[Setting, int, int], T], setting: Setting, rounds: int) -> list[T]:
    """What the function sees in several processes, one after another, each with a seed of its own."""
    return [in_fresh_process(function, setting, rounds, seed) for seed in range(PROCESSES)]


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare) as pool:
        return pool.submit(function, *arguments, **keywords).result()


def _prepare() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch._dynamo.config.recompile_limit = 32


def timings(setting: Setting, rounds: int, seed: int) -> Timings:
    with ExitStack() as stack:
        forms = {
            form: contender(setting, form, stack) for form in FORMS if form != "unfolded" or not setting.compile_mode
        }
        forms["again"] = contender(setting, "plain", stack)
        inferring = {form: c.infer for form, c in forms.items()}
        extracted = extracted_task(setting, forms["converted"])
        if not setting.compile_mode:
            inferring["extracted"] = extracted.infer
        inference = interleaved(setting, inferring, INFERENCES * rounds, seed)
        difference = _difference(forms["converted"], extracted)
        training = interleaved(setting, {form: c.train_step for form, c in forms.items()}, rounds, seed)
        own_gates = forms["converted"].network.summary().gates  # type: ignore[operator]
    return Timings(
        statistics.median(training["plain"]),
        statistics.median(inference["plain"]),
        ratios(training),
        ratios(inference),
        _size(extracted.network) / _size(forms["plain"].network),
        difference,
        own_gates,
        counters["stats"]["unique_graphs"],
        sum(counters["graph_break"].values()),
    )


def interleaved(
    setting: Setting, steps: Mapping[str, Callable[[], None]], rounds: int, seed: int = 0
) -> dict[str, list[float]]:
    """The seconds of each step, in rounds in which all have their turn.

    Each round has an order of its own: what one step leaves behind in caches and in the allocator, another finds.
    """
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    shuffle = random.Random(seed)
    for turn in range(WARM_UP + rounds):
        for form in shuffle.sample(list(steps), len(steps)):
            started = time.perf_counter()
            steps[form]()
            if setting.device == "cuda":
                torch.cuda.synchronize()
            if turn >= WARM_UP:
                seconds[form].append(time.perf_counter() - started)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], to: str = "plain") -> dict[str, float]:
    """Of each form, the median of its ratios within a round: what slows the machine down slows all."""
    return {
        form: statistics.median(own / other for own, other in zip(times, seconds[to], strict=True))
        for form, times in seconds.items()
    }


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _difference(converted: Contender, extracted: Contender) -> float:
    images = converted.images[:2]
    with torch.no_grad():
        return relative_difference(extracted.network(images), converted.network.eval()(images, task_id=0))


def peak(setting: Setting, form: str) -> float:
    """Bytes of all tensors at the peak of training steps."""
    return _peak_on_device(setting, form) if setting.device == "cuda" else _peak_on_cpu(setting, form)


def _peak_on_device(setting: Setting, form: str) -> float:
    with ExitStack() as stack:
        step = contender(setting, form, stack).train_step
        step()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
    return torch.cuda.max_memory_allocated()


def _peak_on_cpu(setting: Setting, form: str) -> float:
    """What there is before two steps, and the most that they have allocated and not yet freed.

    A CPU's allocator keeps no such count, and resident memory is as much the C library's doing as ours. Of what was
    there before, the gradients are freed on the way, which the profiler does not see: so the first step has none.
    """
    with ExitStack() as stack:
        own = contender(setting, form, stack)
        own.train_step()
        own.network.zero_grad()
        gc.collect()
        before = _bytes_of_tensors()
        with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            own.train_step()
            own.train_step()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return before + max(accumulate(change for _, change in changes))


def _bytes_of_tensors() -> int:
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and not isinstance(t, FakeTensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measure_tasks(setting: Setting, rounds: int) -> float:
    """The time of a training step at many trained tasks, over that at few."""
    return statistics.median(in_processes(_many_to_few, setting, rounds))


def _many_to_few(setting: Setting, rounds: int, seed: int) -> float:
    with ExitStack() as stack:
        steps = {str(n): contender(setting, "converted", stack, trained=n).train_step for n in (FEW, MANY)}
        return ratios(interleaved(setting, steps, rounds, seed), to=str(FEW))[str(MANY)]


def import_seconds() -> tuple[float, float]:
    """What `import hatify` and `from hatify import hatify` take beyond `import torch`, in fresh processes."""
    program = "import time, torch; started = time.perf_counter(); {}; print(time.perf_counter() - started)"
    statements = ("import hatify", "from hatify import hatify")

    def seconds(statement: str) -> float:
        run = [sys.executable, "-c", program.format(statement)]
        return statistics.median(float(subprocess.check_output(run, text=True)) for _ in range(5))

    first, second = map(seconds, statements)
    return first, second


def profile(setting: Setting) -> str:
    """Where the time of a converted training step goes, by operator."""
    with ExitStack() as stack:
        step = contender(setting, "converted", stack).train_step
        for _ in range(WARM_UP):
            step()
        with torch.profiler.profile() as profiler:
            step()
    return profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=50)


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table("model", title="converted step / plain step")
    by_column = list(map(cells, rows))
    for column in by_column[0]:
        table.add_column(column, justify="right")
    for row, columns in zip(rows, by_column, strict=True):
        table.add_row(row.name, *columns.values())
    console.print(table)


def cells(row: Row) -> dict[str, str]:
    seen = medians(row.processes)
    ratios = {
        "training": seen.training["converted"],
        "plain again": seen.training["again"],
        "inference": seen.inference["converted"],
        "plain inference again": seen.inference["again"],
        "memory": row.memory,
        "unfolded training": seen.training.get("unfolded"),
        "unfolded inference": seen.inference.get("unfolded"),
        "extracted": seen.inference.get("extracted"),
    }
    return {
        "batch": str(row.batch),
        **{column: "" if ratio is None else f"{ratio:.3f}" for column, ratio in ratios.items()},
        "left": f"{seen.left:.0%}",
        "difference": f"{seen.difference:.0e}",
        "plain step": f"{seen.plain_training:.3f} s",
        "gates": str(seen.gates),
        "graphs": str(seen.graphs),
        "breaks": str(seen.breaks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"timm models, default: {', '.join(BATCHES)}")
    parser.add_argument("--rounds", type=int, default=4, help="of training, a process")
    parser.add_argument("--batch", type=int, help="images a step; default: the model's usual")
    parser.add_argument("--compile", nargs="?", const="default", help="with torch.compile, in this mode")
    parser.add_argument("--autocast", action="store_true", help="in bfloat16")
    parser.add_argument("--tasks", action="store_true", help="the step at 2 and at 50 trained tasks")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    os.environ.update(ALLOCATOR)  # of the processes to come
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    for name in arguments.names or BATCHES:
        batch = arguments.batch or BATCHES.get(name, {}).get(device, 32)
        setting = Setting(name, batch, device, arguments.autocast, arguments.compile)
        if arguments.profile:
            print(in_fresh_process(profile, setting))
        elif arguments.tasks:
            ratio = measure_tasks(setting, arguments.rounds)
            print(f"{name}: step at {MANY} trained tasks / at {FEW}: {ratio:.3f}")
        else:
            rows.append(measure(setting, arguments.rounds))
            show(rows[-1:], Console(width=180))
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
    if rows:
        show(rows, Console(width=180))
        print(
            "beyond import torch: import hatify {:.3f} s, from hatify import hatify {:.3f} s".format(*import_seconds())
        )


if __name__ == "__main__":
    main()
