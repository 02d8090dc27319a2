"""What a conversion costs: steps of the converted network against steps of the plain model.

    python -m benchmarks.overhead [NAME ...] [--compile] [--autocast] [--json results.json]

Forms of a model (see `contenders`) take turns in one process, and ratios are of the same round: "unfolded" shows what
folding masks into weights buys, "extracted" is `net.extract(t)` of a task with 40 % of each group. Memory is the peak
of a process of its own on CPU, of the allocator on CUDA, which is used where there is one. `--tasks` times steps at 2
and at 50 trained tasks instead, `--profile` prints where the time of a converted step goes.
"""

from __future__ import annotations

import argparse
import ctypes
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._dynamo.utils import counters
from torch._subclasses import FakeTensor

from benchmarks.contenders import FORMS, Contender, Setting, contender, extracted_task
from benchmarks.promises import gates
from hatify.verification.trials import relative_difference

# Images a step, by device: what fills it.
BATCHES = {
    "resnet18": {"cpu": 32, "cuda": 256},
    "resnet50": {"cpu": 16, "cuda": 128},
    "vit_tiny_patch16_224": {"cpu": 32, "cuda": 256},
    "convnext_atto": {"cpu": 32, "cuda": 256},
    "mobilenetv3_small_100": {"cpu": 64, "cuda": 512},
}
WARM_UP = 2
# glibc gives freed memory back and takes it anew, page by page, and which form pays for that is chance: here none does.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**35)}
PROCESSES = 3
INFERENCES = 3  # rounds of inference for each of training: they are short, and what is asked of them is finer


@dataclass(frozen=True)
class Row:
    """Ratios to the plain model, and the plain model's own seconds. gates: masks that no weight could carry.

    training, inference: the converted network's; unfolded_...: those with a gate of its own a layer.
    again: inference of a second plain model, which shows how much the ratios wander on this machine.
    extracted: inference of the extracted task. left: its share of the parameters. difference: its logits from those
    of the masked network, over the largest. memory: peak of a training step. graphs, breaks: of torch.compile, under
    which only the plain and the converted network are timed, and memory isn't measured.
    """

    name: str
    batch: int
    plain_training: float
    plain_inference: float
    training: float
    inference: float
    again: float
    unfolded_training: float | None
    unfolded_inference: float | None
    extracted: float | None
    left: float
    difference: float
    memory: float | None
    gates: int
    graphs: int
    breaks: int


def measure(setting: Setting, rounds: int) -> Row:
    counters.clear()
    with ExitStack() as stack:
        forms = {
            form: contender(setting, form, stack) for form in FORMS if form != "unfolded" or not setting.compile_mode
        }
        inferring = {form: c.infer for form, c in forms.items()}
        inferring["again"] = contender(setting, "plain", stack).infer
        extracted = extracted_task(setting, forms["converted"])
        if not setting.compile_mode:
            inferring["extracted"] = extracted.infer
        inference = interleaved(setting, inferring, INFERENCES * rounds)
        difference = _difference(forms["converted"], extracted)
        training = interleaved(setting, {form: c.train_step for form, c in forms.items()}, rounds)
        own_gates = gates(forms["converted"].network)  # type: ignore[arg-type]
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    in_training, in_inference = ratios(training), ratios(inference)
    return Row(
        setting.name,
        setting.batch,
        statistics.median(training["plain"]),
        statistics.median(inference["plain"]),
        in_training["converted"],
        in_inference["converted"],
        in_inference["again"],
        in_training.get("unfolded"),
        in_inference.get("unfolded"),
        in_inference.get("extracted"),
        _size(extracted.network) / _size(forms["plain"].network),
        difference,
        None if setting.compile_mode else _peak(setting, "converted") / _peak(setting, "plain"),
        own_gates,
        graphs,
        breaks,
    )


def interleaved(setting: Setting, steps: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each step, in rounds in which all have their turn.

    Each round has an order of its own: what one step leaves behind in caches and in the allocator, another finds.
    """
    seconds: dict[str, list[float]] = {form: [] for form in steps}
    shuffle = random.Random(0)
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


def _peak(setting: Setting, form: str) -> float:
    """Bytes at the peak of three training steps.

    On CPU the median of processes of their own, which differ by some percent; a GPU's allocator counts exactly.
    """
    if setting.device == "cuda":
        return _peak_on_device(setting, form)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return statistics.median(pool.apply(_peak_here, (setting, form)) for _ in range(PROCESSES))


def _peak_here(setting: Setting, form: str) -> float:
    """Tensors before the steps, and what steps take on top; not what libraries and the conversion left."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    with ExitStack() as stack:
        step = contender(setting, form, stack).train_step
        step()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        tensors, before = _bytes_of_tensors(), _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        for _ in range(3):
            step()
    return tensors + _memory("VmHWM") - before


def _peak_on_device(setting: Setting, form: str) -> float:
    gc.collect()
    before = torch.cuda.memory_allocated()
    with ExitStack() as stack:
        step = contender(setting, form, stack).train_step
        step()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
    return torch.cuda.max_memory_allocated() - before


def _memory(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:"))


def _bytes_of_tensors() -> int:
    tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and not isinstance(t, FakeTensor)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.device.type == "cpu"}
    return sum(storages.values())


def measure_tasks(setting: Setting, rounds: int, few: int = 2, many: int = 50) -> float:
    """The time of a training step at many trained tasks, over that at few."""
    with ExitStack() as stack:
        steps = {str(n): contender(setting, "converted", stack, trained=n).train_step for n in (few, many)}
        return ratios(interleaved(setting, steps, rounds), to=str(few))[str(many)]


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
    table = Table(title="converted step / plain step")
    table.add_column("model")
    for column in ("batch", "training", "inference", "plain again", "memory", "unfolded training"):
        table.add_column(column, justify="right")
    for column in ("unfolded inference", "extracted", "left", "difference", "plain step", "gates", "graphs", "breaks"):
        table.add_column(column, justify="right")
    for row in rows:
        shown = (row.training, row.inference, row.again, row.memory, row.unfolded_training, row.unfolded_inference)
        table.add_row(
            row.name,
            str(row.batch),
            *("" if value is None else f"{value:.3f}" for value in (*shown, row.extracted)),
            f"{row.left:.0%}",
            f"{row.difference:.0e}",
            f"{row.plain_training:.3f} s",
            *map(str, (row.gates, row.graphs, row.breaks)),
        )
    console.print(table)


def keep_freed_memory() -> None:
    """Start anew with an allocator that does; processes of this one have the usual one again."""
    if not os.environ.keys() >= ALLOCATOR.keys():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.overhead", *sys.argv[1:]], os.environ | ALLOCATOR)
    for name in ALLOCATOR:
        del os.environ[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"timm models, default: {', '.join(BATCHES)}")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, help="images a step; default: the model's usual")
    parser.add_argument("--compile", nargs="?", const="default", help="with torch.compile, in this mode")
    parser.add_argument("--autocast", action="store_true", help="in bfloat16")
    parser.add_argument("--tasks", action="store_true", help="the step at 2 and at 50 trained tasks")
    parser.add_argument("--profile", action="store_true", help="where the time of a step goes")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    keep_freed_memory()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch._dynamo.config.recompile_limit = 32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    for name in arguments.names or BATCHES:
        batch = arguments.batch or BATCHES.get(name, {}).get(device, 32)
        setting = Setting(name, batch, device, arguments.autocast, arguments.compile)
        if arguments.profile:
            print(profile(setting))
        elif arguments.tasks:
            print(f"{name}: step at 50 trained tasks / at 2: {measure_tasks(setting, arguments.rounds):.3f}")
        else:
            rows.append(measure(setting, arguments.rounds))
            show(rows[-1:], Console(width=180))
            if arguments.json:
                arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))
            torch.compiler.reset()
    if rows:
        show(rows, Console(width=180))
        print(
            "beyond import torch: import hatify {:.3f} s, from hatify import hatify {:.3f} s".format(*import_seconds())
        )


if __name__ == "__main__":
    main()
