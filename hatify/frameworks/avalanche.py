"""Avalanche: a plugin that gives each experience of a benchmark its task."""

from __future__ import annotations

from typing import Any

from avalanche.core import SupervisedPlugin

from hatify.frameworks.network import LearnBlock, the_network_in


class HATPlugin(SupervisedPlugin[Any]):
    """Trains a converted network on task-incremental benchmarks: `Naive(model=net, plugins=[HATPlugin()], ...)`.

    An experience's task label is the task id. After `train(experience)` its task is trained, and locked from then on.
    A strategy keeps its optimizer from task to task; momentum moves nothing that is locked. Avalanche tells its plugins
    of no exception: where `train` raised one, call `abandon`, or `train` again.

    regularization: the weight of the masks' regularizer, which is added to the loss.
    """

    def __init__(self, regularization: float = 0.75) -> None:
        super().__init__()
        self.regularization = regularization
        self._block = LearnBlock()

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        net = the_network_in(strategy.model)
        task_id = strategy.experience.task_label
        net.set_task(task_id)
        steps = strategy.train_epochs * len(strategy.dataloader)
        self._block.enter(net, task_id, steps)

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        assert self._block.task is not None
        strategy.loss += self.regularization * self._block.task.regularization()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._block.leave()

    def abandon(self) -> None:
        """Leave a task whose training was interrupted; it is not trained, and training goes on with it."""
        self._block.abandon()

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        the_network_in(strategy.model).set_task(strategy.experience.task_label)

    def after_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Go on with the task that is trained, if evaluation was in its midst."""
        if self._block.task is not None:
            the_network_in(strategy.model).set_task(self._block.task.task_id)
