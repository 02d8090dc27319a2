"""Tracing in rungs: what cannot be traced as it is in train mode is traced with as little lost as can be.

1. The model in train mode, and in eval mode.
2. A module that chooses its layers in train mode (layer drop) stays in eval mode; its submodules do not. So does one
   whose own code draws from Python's or NumPy's generators there, or makes a number of the batch size in train mode
   alone.
3. A submodule that cannot be traced at all becomes an opaque leaf.
4. An error that names the submodule, the line and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn
from torch.export import ExportedProgram

from hatify.capture.failures import check_runs, culprit, explanation, first_line, where
from hatify.capture.inputs import Arguments
from hatify.capture.opaque import OpaqueLeaf, make_leaf, traced_as_leaves
from hatify.capture.randomness import find_drawers
from hatify.capture.running import in_mode
from hatify.capture.sizes import batch_sizes, find_makers_of_numbers
from hatify.errors import CaptureError, CaptureWarning, warn

Export = Callable[[nn.Module, Arguments], ExportedProgram]


@dataclass
class Traces:
    """A model, traced in both modes.

    eval_only: the paths of modules that both have in eval mode. drawers: of those that draw numbers from Python's or
    NumPy's generators in eval mode, too.
    """

    train: ExportedProgram
    evaluation: ExportedProgram
    eval_only: tuple[str, ...]
    drawers: tuple[str, ...]
    leaves: dict[str, OpaqueLeaf]


@dataclass
class _Attempt:
    """How a model is traced: with which modules in eval mode throughout, and with which leaves.

    tried: the modules that were kept in eval mode for the numbers that they drew.
    """

    eval_only: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    leaves: dict[str, OpaqueLeaf] = field(default_factory=dict)


def trace(model: nn.Module, arguments: Arguments, export: Export) -> Traces:
    """Trace `model`, called with `arguments`, in train and eval mode. It is left as it was.

    Raises:
        InputError: the model fails on the arguments.
        CaptureError: the model cannot be traced; names the submodule and the line.

    Warns:
        CaptureWarning: what is lost in train mode, and which submodules are leaves.
    """
    attempt = _Attempt()
    traces = None
    while traces is None:
        traces = _traced(model, arguments, export, attempt)
    return _with_free_batch(model, arguments, export, traces)


def _traced(model: nn.Module, arguments: Arguments, export: Export, attempt: _Attempt) -> Traces | None:
    """The traces of both modes; None where one fails or is left to chance: the attempt is another one then."""
    programs: list[ExportedProgram] = []
    drawers: list[list[tuple[str, ...]]] = []
    for training in (True, False):
        try:
            with (
                in_mode(model, training, attempt.eval_only),
                traced_as_leaves(model, attempt.leaves),
                find_drawers(model) as found,
            ):
                programs.append(export(model, arguments))
        except CaptureError:
            raise
        except Exception as error:
            _step_down(model, arguments, attempt, training, error)
            return None
        drawers.append(found)
    in_train, in_eval = drawers
    always = tuple(dict.fromkeys(inner for inner, *_ in in_eval))
    if _leave_less_to_chance(attempt, [paths for paths in in_train if paths[0] not in always]):
        return None
    train, evaluation = programs
    return Traces(train, evaluation, tuple(attempt.eval_only), always, attempt.leaves)


def _leave_less_to_chance(attempt: _Attempt, drawers: Sequence[tuple[str, ...]]) -> bool:
    """Keep in eval mode what draws numbers in train mode alone; whether anything has changed.

    drawers: the running modules at each draw. One that goes on drawing was told to by one around it, which is next.
    """
    before = set(attempt.tried)
    for paths in drawers:
        path = next((path for path in paths if path not in before), None)
        if path is not None and path not in attempt.tried:
            inside = paths[: paths.index(path)]
            attempt.eval_only = [*(other for other in attempt.eval_only if other not in inside), path]
            attempt.tried.add(path)
    return attempt.tried != before


def _with_free_batch(model: nn.Module, arguments: Arguments, export: Export, traces: Traces) -> Traces:
    """Where train mode alone fixes the batch, keep the modules whose own code does so in eval mode.

    A module that goes on making a number of the size was told to by one around it, which is next. Where none is left
    and the batch is still fixed, or without their train mode the model cannot be traced, nothing is taken from them.
    """
    if not _is_fixed_by_train_mode(traces):
        return traces
    eval_only, tried = list(traces.eval_only), set(traces.eval_only)
    while True:
        try:
            with (
                in_mode(model, True, eval_only),
                traced_as_leaves(model, traces.leaves),
                find_makers_of_numbers(model) as makers,
            ):
                train = export(model, arguments)
        except Exception:
            return traces
        attempt = replace(traces, train=train, eval_only=tuple(eval_only))
        if not _is_fixed_by_train_mode(attempt):
            return attempt
        path = next((path for path in makers if path not in tried), None)
        if path is None:
            return traces
        if makers[0] in eval_only and makers[0] not in traces.eval_only:
            eval_only.remove(makers[0])
        eval_only.append(path)
        tried.add(path)


def _is_fixed_by_train_mode(traces: Traces) -> bool:
    """Whether the trace of train mode depends on a batch size that may differ in eval mode."""
    sizes = zip(batch_sizes(traces.train), batch_sizes(traces.evaluation), strict=True)
    return any(in_eval is None and in_train is not None for in_train, in_eval in sizes)


def _step_down(model: nn.Module, arguments: Arguments, attempt: _Attempt, training: bool, error: Exception) -> None:
    """The next rung for the submodule that could not be traced."""
    check_runs(model, arguments)
    path = culprit(model, error)
    module = model.get_submodule(path)
    reason = f"{type(error).__name__}: {first_line(error)}, {where(model, error)}"
    if training and path not in attempt.eval_only and any(True for _ in module.children()):
        attempt.eval_only.append(path)
        return
    leaf = None
    while path and path not in attempt.leaves and leaf is None:
        leaf = make_leaf(model, path, arguments)
        if leaf is None:
            path = path.rpartition(".")[0]
    if leaf is None:
        raise CaptureError(explanation(model, error)) from error
    attempt.leaves[path] = leaf
    attempt.eval_only = [other for other in attempt.eval_only if not f"{other}.".startswith(f"{path}.")]
    _warn(
        f"{_named(model, path)} cannot be captured ({reason}): the converted network "
        f"calls it as it is, with its parameters ({_share(model, path):.0%} of the model's) kept once a task, or "
        "locked whole by the first task that trains"
    )


def warn_of_lost_training(model: nn.Module, traces: Traces) -> None:
    """Say which modules do in train mode what they do in eval mode."""
    for path in traces.eval_only:
        _warn(
            f"{_named(model, path)} can only be captured in eval mode: what it does by "
            "itself in train mode alone (layer drop, masks drawn by NumPy) is lost, except for dropout; its submodules "
            "follow the mode"
        )


def warn_of_chance(model: nn.Module, traces: Traces) -> None:
    """Say which modules have drawn numbers that are constants now."""
    for path in traces.drawers:
        _warn(
            f"{_named(model, path)} draws numbers from Python's or NumPy's "
            "generator in eval mode: the converted network has those of this call for good; torch.rand draws anew"
        )


def _named(model: nn.Module, path: str) -> str:
    """A submodule, or the model itself, in a warning."""
    return f"{path or 'the model'} ({type(model.get_submodule(path)).__name__})"


def _share(model: nn.Module, path: str) -> float:
    """The share of a model's parameters that a submodule holds."""
    own, whole = (sum(p.numel() for p in module.parameters()) for module in (model.get_submodule(path), model))
    return own / max(whole, 1)


def _warn(message: str) -> None:
    warn(message, CaptureWarning)
