"""Everything that a conversion promises, checked at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import nn

from hatify.capture.inputs import example_arguments
from hatify.errors import HatifyError
from hatify.module import HATModule
from hatify.tables import as_text
from hatify.verification.checks import Check, equivalence, hooks, scrambled, tightness, trained, unmoved
from hatify.verification.inputs import made_up_call


@dataclass(frozen=True)
class VerifyReport:
    """The outcome of `verify`; a table when printed."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks passed."""
        return all(check.ok for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def __rich__(self) -> Table:
        table = Table("check", "", "seen", "asked", title="verified" if self.ok else "not verified")
        for check in self.checks:
            table.add_row(check.name, "ok" if check.ok else "FAILED", check.seen, check.asked)
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        return as_text(self)


def verify(net: HATModule, *, example_inputs: Any = None, model: nn.Module | None = None) -> VerifyReport:
    """Check what the conversion of `net` promises; `net` stays as it is, the checks work on copies.

    equivalence: a task that uses every feature gives what no task gives; with `model`, no task gives what it gives.
    scramble: N(0, 10) on every entry that one task may train leaves the others' outputs as they are, bitwise.
    training: so do steps of AdamW with weight decay.
    tightness: the share of entries that one task with half of each group leaves to others.
    hooks: every trainable parameter has its gradient hook.
    unmoved: nothing that a trained task depends on has changed since its training, by whatever way.

    example_inputs: a call of the network, as for `hatify`; made up where none is given.
    model: the model that `net` was made from, as it was then.

    Raises:
        HatifyError: `net` is no converted network, has no weights (meta device), or returns no tensor.
        InputError: the example inputs do not fit.
    """
    if not isinstance(net, HATModule):
        raise HatifyError(f"verify takes a network that hatify has converted, got {type(net).__name__}")
    if any(parameter.is_meta for parameter in net.parameters()):
        raise HatifyError("a network on the meta device has no weights to verify: give it some first")
    call = made_up_call(net) if example_inputs is None else example_arguments(net, example_inputs)
    return VerifyReport(
        (
            equivalence(net, call, model),
            scrambled(net, call),
            trained(net, call),
            tightness(net),
            hooks(net),
            unmoved(net),
        )
    )
