"""`hatify extract`: one task as a plain program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hatify.cli.common import AsJSON, Model, ModelArguments, Network, Task, note, open_network, show
from hatify.errors import FileError, never_trained
from hatify.extraction.exporting import FORMATS, export_task
from hatify.module import HATModule
from hatify.output import check_writable
from hatify.rewriting.layers import hat_layers
from hatify.verification.inputs import made_up_call


def extract(
    network: Network,
    task: Task,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A .pt2 file (torch.export) or an .onnx file.", show_default=False)
    ],
    model: Model = None,
    argument: ModelArguments = None,
    as_json: AsJSON = False,
) -> None:
    """Write one task as a program without the channels that it does not use; it needs no hatify to run.

    **Examples**

        hatify extract net.safetensors --task 0 -o task0.pt2

        hatify extract net.safetensors --task 0 -o task0.onnx
    """
    if output.suffix not in FORMATS:
        raise FileError(f"cannot write {str(output)!r}: extract writes {' and '.join(FORMATS)} files")
    check_writable(output)
    net = open_network(network, model, argument)
    if task in range(net.num_tasks) and task not in net.trained_tasks:
        raise never_trained(task, net.trained_tasks)
    extracted = net.extract(task)
    export_task(extracted, made_up_call(net), net.blueprint.signature, output)
    before = _parameters_read(net, task)
    after = sum(parameter.numel() for parameter in extracted.parameters())
    staying: dict[str, str] = extracted.__dict__["staying"]
    data = {"task": task, "parameters": after, "parameters_in_network": before, "staying": staying}
    lines = [f"{name}: {reason}" for name, reason in staying.items()]
    show(as_json, data, "\n".join([f"task {task}: {after:,} of {before:,} parameters", *lines]))
    note(f"wrote {output}")


def _parameters_read(net: HATModule, task: int) -> int:
    """How many parameters answer a task in the converted network: shared ones, its norms and its head."""
    own = (layer.per_task[task] for layer in hat_layers(net))
    counted = [*map(net.get_parameter, net.shared_parameters()), *(p for module in own for p in module.parameters())]
    return sum(parameter.numel() for parameter in counted)
