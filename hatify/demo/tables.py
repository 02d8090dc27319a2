"""The demo's results as tables for the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from hatify.demo.results import NetworkResult, SequenceResult
from hatify.masks.capacity import GroupCapacity


def print_network(console: Console, name: str, result: NetworkResult, digits: Sequence[tuple[int, int]]) -> None:
    """Print the tables of one network; `digits` names the tasks."""
    tasks = [f"{first}/{second}" for first, second in digits]
    console.rule(f"[bold]{name}")
    console.print(_accuracy_table("with HAT", result.hat, tasks))
    console.print(_accuracy_table("fine-tuned", result.fine_tuning, tasks))
    console.print(_comparison_table(result))
    console.print(_capacity_table(result.capacity, tasks))


def _accuracy_table(learner: str, result: SequenceResult, tasks: Sequence[str]) -> Table:
    table = _table(f"Accuracy {learner} (%)", "after task", *(f"on {task}" for task in tasks))
    for task, row in zip(tasks, result.accuracy, strict=True):
        table.add_row(task, *(_percent(accuracy) for accuracy in row))
    return table


def _comparison_table(result: NetworkResult) -> Table:
    table = _table("After the last task", "", "mean accuracy (%)", "mean forgetting (%)", "earlier logits")
    for name, sequence in (("HAT", result.hat), ("fine-tuned", result.fine_tuning)):
        table.add_row(
            name,
            _percent(sequence.average_accuracy),
            _percent(sequence.average_forgetting),
            "changed" if sequence.changed_cells else "same bits",
        )
    return table


def _capacity_table(capacity: Mapping[str, GroupCapacity], tasks: Sequence[str]) -> Table:
    table = _table("Features in use with HAT", "mask group", "size", *tasks, "shared", "free")
    for name, group in capacity.items():
        used = (str(group.used[task]) for task in range(len(tasks)))
        table.add_row(name, str(group.num_features), *used, str(group.shared), str(group.free))
    return table


def _table(title: str, first_column: str, *other_columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first_column, overflow="fold")
    for heading in other_columns:
        table.add_column(heading, justify="right")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
