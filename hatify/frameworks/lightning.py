"""Lightning: a callback that trains one task of a converted network."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from hatify.errors import TrainingError
from hatify.frameworks.network import LearnBlock, the_network_in


class HATCallback(Callback):
    """Trains, validates and tests a task: `Trainer(callbacks=[HATCallback(task_id=1)]).fit(module, data)`.

    The LightningModule holds one converted network and calls it with no task; its loss knows nothing of masks. When
    `fit` ends normally the task is trained, and locked from then on.

    task_id: the task. regularization: the weight of the masks' regularizer, whose gradient is added to the loss's.
    """

    def __init__(self, task_id: int, regularization: float = 0.75) -> None:
        self.task_id = task_id
        self.regularization = regularization
        self._block = LearnBlock()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        the_network_in(pl_module).set_task(self.task_id)
        # Behind those that write to weights when training ends (averages): as long as it is on, the earlier tasks are
        # safe. Before checkpoints, which are to hold a trained task.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = sorted(callbacks, key=lambda each: (isinstance(each, Checkpoint), each is self))  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise TrainingError("the masks' schedule needs an end: give the Trainer max_epochs or max_steps")
        net = the_network_in(pl_module)
        net.train()  # Lightning leaves modes as they are, and in eval mode masks are binary and do not learn
        self._block.enter(net, self.task_id, int(steps))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add the regularizer's gradient, in the proportion and at the scale in which the loss's comes."""
        if self._block.task is not None and self.regularization:
            weight = self.regularization / trainer.accumulate_grad_batches
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            penalty = weight * self._block.task.regularization()
            (penalty if scaler is None else scaler.scale(penalty)).backward()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._block.leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """An interrupted task is not trained; `fit` goes on with it."""
        self._block.abandon(exception)
