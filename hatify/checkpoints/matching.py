"""A checkpoint's tensors under a model's own names."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from hatify.errors import CheckpointError, first_few

# Counters that batch norms have had since PyTorch 0.4.1; only norms without a momentum read them.
OPTIONAL = "num_batches_tracked"


def matched(tensors: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """The tensors that the model takes, by its names.

    Raises:
        CheckpointError: tensors are missing, superfluous or of another shape.
    """
    own = model.state_dict()
    found = without_prefix(tensors, own)
    missing = _missing(own, found)
    if missing:
        lack = f"{source!r} lacks {len(missing)} of the model's {len(own)} tensors: {first_few(missing)}"
        raise CheckpointError(f"{lack}; it holds {first_few([*tensors])}: is it a checkpoint of this model?")
    superfluous = [name for name in found if name not in own]
    if superfluous:
        raise CheckpointError(
            f"{source!r} holds {len(superfluous)} tensors that the model lacks: {first_few(superfluous)}"
        )
    misfits = [name for name, value in found.items() if value.shape != own[name].shape]
    if misfits:
        shapes = [f"{name!r} is {tuple(found[name].shape)} there, {tuple(own[name].shape)} here" for name in misfits]
        raise CheckpointError(f"{len(misfits)} tensors of {source!r} do not fit the model: {first_few(shapes)}")
    return found


def without_prefix(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The tensors without what stands before the model's names (`module.` of DataParallel). own: some of its names."""
    prefix = _prefix(tensors, own)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _prefix(tensors: Mapping[str, Tensor], own: Collection[str]) -> str:
    """What stands before the model's names in the file: of all that stand before any, what most have."""
    candidates = {""}
    for name in list(own)[:3]:
        candidates |= {key.removesuffix(name) for key in tensors if key.endswith("." + name)}
    return max(sorted(candidates), key=lambda prefix: sum(prefix + name in tensors for name in own))


def _missing(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """The model's tensors that are not there under any of their names."""
    there = {own[name].data_ptr() for name in found if name in own}
    return [
        name
        for name, tensor in own.items()
        if name not in found and not name.endswith(OPTIONAL) and not (tensor.numel() and tensor.data_ptr() in there)
    ]
