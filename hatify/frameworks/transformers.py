"""transformers: a callback for `Trainer` that trains one task of a converted network."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hatify.frameworks.network import LearnBlock, the_network_in


class HATCallback(TrainerCallback):
    """Trains and evaluates a task: `Trainer(model=net, callbacks=[HATCallback(task_id=1)], ...)`.

    The model is a converted network, or holds one. When `train` ends normally the task is trained, and locked from then
    on. Trainer tells its callbacks of no exception: where `train` raised one, call `abandon`, or `train` again.

    task_id: the task. regularization: the weight of the masks' regularizer, whose gradient is added to the loss's
    before each optimizer step, after gradients were clipped.
    """

    def __init__(self, task_id: int, regularization: float = 0.75) -> None:
        self.task_id = task_id
        self.regularization = regularization
        self._block = LearnBlock()

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        the_network_in(kwargs["model"]).set_task(self.task_id)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        net = the_network_in(kwargs["model"])
        net.set_task(self.task_id)
        self._block.enter(net, self.task_id, state.max_steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._block.task is not None and self.regularization:
            penalty = self.regularization * self._block.task.regularization()
            scaler = getattr(kwargs.get("optimizer"), "scaler", None)
            if scaler is not None and args.max_grad_norm <= 0:  # in float16 the loss's scale stays until clipping
                penalty = scaler.scale(penalty)
            penalty.backward()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._block.leave()

    def abandon(self) -> None:
        """Leave a task whose training was interrupted; it is not trained, and training goes on with it."""
        self._block.abandon()
