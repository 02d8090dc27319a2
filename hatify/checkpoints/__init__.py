"""State dicts as PyTorch, timm, torchvision, Lightning and DataParallel write them."""

from __future__ import annotations

from torch import nn

from hatify.checkpoints.matching import matched
from hatify.checkpoints.reading import read_state_dict
from hatify.output import PathLike

__all__ = ["load_checkpoint", "read_state_dict"]


def load_checkpoint(model: nn.Module, path: PathLike) -> None:
    """Load a checkpoint's weights into a model: all of them or, where they do not fit, none.

    path: see `read_state_dict`. A prefix that all of the model's names have in the file (`module.` of DataParallel,
    an attribute's name of a LightningModule) is left out.

    Raises:
        CheckpointError: there is no such file, it is damaged or no checkpoint, or it does not fit the model; names the
            first three tensors that do not.
    """
    model.load_state_dict(matched(read_state_dict(path), model, str(path)), strict=False)
