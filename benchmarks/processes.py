"""A model measured in a process of its own, so that its failure, time and memory are its own too."""

from __future__ import annotations

import multiprocessing
import resource
import warnings
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from benchmarks.promises import measure
from benchmarks.sources import SOURCES
from hatify import hatify

Result = dict[str, Any]  # a `promises.Row` as JSON, or {"error": why there is none}

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])  # libraries are imported once, not once a model


def measure_in_process(source: str, name: str, minutes: float, gibibytes: float) -> Result:
    """Measure a model of a source within limits of time and memory."""
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_measure, args=(source, name, gibibytes, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(60 * minutes):
            return {"error": f"took more than {minutes:g} minutes"}
        return receiver.recv()
    except EOFError:
        process.join()
        return {"error": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _measure(source: str, name: str, gibibytes: float, sender: Connection) -> None:
    limit = int(gibibytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    hatify(nn.Linear(2, 2))  # what the first conversion of a process loads is no model's
    try:
        result: Result = asdict(measure(SOURCES[source].subject(name)))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"[:500]}
    sender.send(result)
