"""`hatify convert`: a model and its weights to a network that learns tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hatify.checkpoints import load_checkpoint
from hatify.cli.common import AsJSON, ModelArguments, note, show, warnings_in_one_line
from hatify.cli.sources import arguments_from, example_inputs_from, model_from
from hatify.conversion import hatify
from hatify.errors import FileError, TaskError
from hatify.files import save
from hatify.output import check_writable


def convert(
    source: Annotated[str, typer.Argument(help="timm:NAME or package.module:factory.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Weights: .safetensors, their .index.json or folder, .pt, .pth, .ckpt. Default: fresh ones."),
    ] = None,
    num_tasks: Annotated[int, typer.Option(min=1, help="Tasks to make room for.")] = 5,
    num_classes: Annotated[
        str | None, typer.Option(help="Classes of each task's head, such as 10,10,100. Default: the model's own.")
    ] = None,
    argument: ModelArguments = None,
    input_shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Shape of an input, such as 3x224x224 or 128:int64; once for each, the batch comes in front. "
            "Default: inferred from the model.",
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Path of a layer that each task has of its own; once for each. Default: found in the graph."),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Convert a model, with the weights of a saved checkpoint, into a network that learns tasks without forgetting.

    **Examples**

        hatify convert timm:resnet50 --checkpoint w.safetensors --num-tasks 10 -o net.safetensors

        hatify convert timm:vit_tiny_patch16_224 --argument num_classes=10 -o net.safetensors

        hatify convert my_package.models:encoder --input 128:int64 --num-classes 2,5 --num-tasks 2 -o net.safetensors
    """
    if output.exists():
        raise FileError(f"{str(output)!r} exists, and may hold trained tasks: name another file, or remove it first")
    check_writable(output)
    with warnings_in_one_line():
        model = model_from(source, arguments_from(argument or []))
        if checkpoint is not None:
            load_checkpoint(model, checkpoint)
        net = hatify(
            model,
            num_tasks=num_tasks,
            example_inputs=example_inputs_from(input_shape or []),
            num_classes=None if num_classes is None else _numbers(num_classes),
            heads=head,
        )
    save(net, output)
    summary = net.summary()
    show(as_json, summary.as_dict(), summary)
    weights = f"weights of {checkpoint}" if checkpoint is not None else "weights as the factory made them"
    note(f"wrote {output} ({output.stat().st_size / 2**20:.1f} MiB, {weights})")


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise TaskError(f"--num-classes takes one number a task, such as 10,10,100; got {text!r}") from None
