"""Initial embeddings of a task."""

from __future__ import annotations

import torch
from torch import Tensor

from hatify.config import EmbeddingInitialization


def initial_embedding(num_features: int, num_tasks: int, init: EmbeddingInitialization) -> Tensor:
    """Embeddings [num_features] of a new task, see `HATConfig.init`."""
    if init == "dense":
        return torch.ones(num_features)
    if init == "normal":
        return torch.randn(num_features)
    embedding = -torch.ones(num_features)
    chosen = torch.randperm(num_features)[: max(1, round(num_features / num_tasks))]
    embedding[chosen] = 1.0
    return embedding
