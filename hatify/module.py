"""The converted network."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from numbers import Real
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import PythonCode

from hatify.blueprint import Blueprint
from hatify.counts import checked_count
from hatify.errors import CapacityWarning, TaskError, TrainingError, TrainingWarning, never_trained, warn
from hatify.extraction.extract import extract
from hatify.inspection.drawing import draw
from hatify.inspection.explanation import ModuleExplanation, explain
from hatify.inspection.features import groups_written
from hatify.inspection.flow import flow_of
from hatify.inspection.folding import folded
from hatify.inspection.picture import Picture, check_format
from hatify.inspection.plots import plot_capacity, plot_masks
from hatify.inspection.summary import NetworkSummary, summarise
from hatify.inspection.tree import as_html
from hatify.lifecycle.fingerprints import fingerprints
from hatify.lifecycle.forgetting import ForgetReport, draw_anew, forget, put_back, unused_entries
from hatify.masks.capacity import GroupCapacity, capacity, describe_emptiness, describe_scarcity
from hatify.masks.locks import compact
from hatify.masks.registry import MaskRegistry
from hatify.output import PathLike
from hatify.ownership import Ownership
from hatify.payload import HATPayload
from hatify.rewriting.layers import HATLayer, hat_layers
from hatify.rewriting.one_mode import differ, in_one_mode
from hatify.rewriting.root import keep_unread
from hatify.rewriting.vectors import MASKED_VECTORS, masked_vectors
from hatify.runtime.guard import OptimizerGuard, refuse_steps
from hatify.runtime.isolation import Divergence, isolated
from hatify.runtime.learning import LearningTask
from hatify.seeding import seeded
from hatify.serialization.contents import Contents, apart, together


class _Current:
    """In place of a task id: the task that is being learned, or else the one that the network is set to."""


_CURRENT: Any = _Current()

# What a module holds itself, by the names that PyTorch has for it.
_HELD = ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules", "training")


class HATModule(GraphModule):
    """A network whose weighted layers are gated by task masks.

    Call it as the model it was made from; `task_id` and `mask_scale` are further keyword arguments (see `forward`).
    """

    registry: MaskRegistry
    run_in_train_mode: Callable[..., Any]
    run_in_eval_mode: Callable[..., Any]

    def __init__(self, root: nn.Module, graph: Graph, blueprint: Blueprint) -> None:
        if graph.find_nodes(op="call_module", target=MASKED_VECTORS):
            vectors = root.masked_vectors = masked_vectors(root, graph)
            vectors.training = root.training
        self.blueprint = blueprint  # first: code is made of the graph at once
        super().__init__(root, graph, class_name="HATModule")
        keep_unread(self, root)
        self._ownership = Ownership(self, self.registry, blueprint.task_indexed)
        self._task_id: int | None = None
        self._learning: LearningTask | None = None
        self._guard: OptimizerGuard | None = None
        self._warned_full = False
        self._divergence = Divergence({name: self._place(name) for name in self.shared_parameters()})
        self._register_hooks()
        self.register_state_dict_pre_hook(HATModule._restore_locked)
        self.register_load_state_dict_pre_hook(_check_state_dict)
        self.register_load_state_dict_post_hook(_take_over)
        refuse_steps(self, _steps_would_move_trained_tasks)

    # -- calling ---------------------------------------------------------------------------------------------

    def recompile(self) -> PythonCode:
        """As of any graph module, but the graph's code has names of its own, and `forward` takes what the model took.

        So a module's hooks see the model's arguments and results, and torch.compile, which calls the `forward` of graph
        modules inside what it compiles, passes nothing by. Its signature stays the graph's: Transformers' Trainer
        hands over the columns that are named there.

        Where the modes compute different things, each has code of its own, so that none waits for the other's.
        """
        code = super().recompile()
        own = type(self)  # PyTorch makes a class for each graph module
        run = own.run_in_train_mode = own.run_in_eval_mode = own.__dict__["forward"]
        if differ(self.graph):
            outputs = self.blueprint.signature.outputs_in
            own.run_in_train_mode = _function_of(self, in_one_mode(self.graph, True, outputs(training=True)))
            own.run_in_eval_mode = _function_of(self, in_one_mode(self.graph, False, outputs(training=False)))
        own.forward = _with_signature(HATModule.forward, inspect.signature(run))  # type: ignore[method-assign]
        return code

    def forward(
        self, *args: Any, task_id: int | None = _CURRENT, mask_scale: float | None = None, **kwargs: Any
    ) -> Any:
        """Run the network.

        args, kwargs: as the model takes them, or one `HATPayload`, which is answered by a payload.
        task_id: whose masks gate the network; None: no task. Default: the task being learned, or the one given to
            `set_task`.
        mask_scale: a soft mask's scale. None: binary masks or, where a task is learned in train mode and gradients are
            on, the scheduled scale.

        Raises:
            InputError: arguments that do not fit the model or its example inputs.
            TaskError: a task id that does not exist, or a mask scale that is no positive number.
            TrainingError: in train mode, a forward pass with gradients for another task than the one being learned, or
                one that would move the batch statistics of a trained task.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], HATPayload):
            if mask_scale is not None or not isinstance(task_id, _Current):
                raise TaskError("a payload says which task it belongs to: give no task_id or mask_scale beside it")
            payload = args[0]
            data = self(payload.data, task_id=payload.task_id, mask_scale=payload.mask_scale)
            return HATPayload(data, payload.task_id, payload.mask_scale)
        task, scale = self._resolve(task_id, mask_scale)
        if self._guard is not None and self._learning is not None and not torch.compiler.is_compiling():
            self._guard.restore_written(shared_only=task == self._learning.task_id)
        flat = self.blueprint.signature.flatten(args, kwargs, self.training)
        with self._isolated(task, scale):
            run = self.run_in_train_mode if self.training else self.run_in_eval_mode
            results = run(*flat, task_id=task, mask_scale=scale)
        return self.blueprint.signature.unflatten(results)

    def _isolated(self, task: int | None, mask_scale: Tensor | float | None) -> AbstractContextManager[None]:
        """Keep what another task has made NaN or infinite out of a task under its binary masks."""
        if task is None or mask_scale is not None or torch.compiler.is_compiling():
            return nullcontext()
        if torch._C._are_functorch_transforms_active():  # there is no one answer for all the weights under vmap
            return nullcontext()
        diverged = self._divergence.found()
        if not diverged:
            return nullcontext()
        used = self._ownership.used(task, diverged)
        return isolated(self, {id(self.get_parameter(name)): entries for name, entries in used.items()})

    def _resolve(self, task_id: Any, mask_scale: float | None) -> tuple[int | None, Tensor | float | None]:
        """The task and the mask scale of a call, defaults filled in and checked."""
        learning = self._learning
        if isinstance(task_id, _Current):  # `is` cannot be traced where the id is a symbolic integer
            task = learning.default_task if learning is not None else self._task_id
        else:
            task = None if task_id is None else self.registry.checked(task_id)
        if mask_scale is not None and not (isinstance(mask_scale, Real | Tensor) and 0 < mask_scale < math.inf):
            raise TaskError(f"mask_scale must be a positive number or None for binary masks, got {mask_scale!r}")
        learned = learning is not None and task == learning.task_id
        if self.training and task in self.registry.trained and not learned and self._has_statistics():
            raise TrainingError(
                f"task {task} is trained, and a forward pass in train mode would move its batch statistics: "
                "call net.eval() first"
            )
        used: Tensor | float | None = mask_scale
        if learning is not None and self.training and torch.is_grad_enabled():
            if task != learning.task_id:
                raise TrainingError(
                    f"task {learning.task_id} is being learned, but the network was called in train mode for "
                    f"{'no task' if task is None else f'task {task}'}; use net.eval() there"
                )
            used = learning.scale() if mask_scale is None else mask_scale
        if learning is not None and learned and torch.is_grad_enabled():
            learning.note_scale(used)
        return task, used

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a parameter, and its name there."""
        path, _, attribute = name.rpartition(".")
        return self.get_submodule(path), attribute

    def _has_statistics(self) -> bool:
        """Whether any task has buffers that a forward pass in train mode changes."""
        return any(True for layer in hat_layers(self) for _ in layer.per_task.buffers())

    def set_task(self, task_id: int | None) -> None:
        """The task that is used where a call names none; None: no task. `learn` begins with the task that it trains.

        Raises:
            TaskError: no such task.
        """
        self._task_id = None if task_id is None else self.registry.checked(task_id)
        if self._learning is not None:
            self._learning.default_task = self._task_id

    # -- tasks -----------------------------------------------------------------------------------------------

    @property
    def num_tasks(self) -> int:
        """How many tasks there is room for; their ids are 0 to `num_tasks - 1`."""
        return self.registry.num_tasks

    @property
    def trained_tasks(self) -> tuple[int, ...]:
        """The trained tasks in the order of their training."""
        return tuple(self.registry.trained)

    def add_tasks(self, count: int) -> None:
        """Room for `count` more tasks.

        Raises:
            TaskError: a count that is no whole number of at least 1.
        """
        count = checked_count(count, "add_tasks")
        self.registry.add_tasks(count)
        for layer in hat_layers(self):
            for _ in range(count):
                layer.add_task()
        self._register_hooks()

    def capacity(self) -> dict[str, GroupCapacity]:
        """By group: the features that each trained task uses, those that several use, and those that are free."""
        return capacity(self.registry)

    def summary(self) -> NetworkSummary:
        """Tasks, mask groups, capacity, and what the conversion left live: tables when printed."""
        return summarise(self, self.registry, self.blueprint, self.shared_parameters())

    def explain(self, path: str) -> ModuleExplanation:
        """In words when printed: the mask groups that a layer writes and reads, what locks it, where its gate went.

        path: a layer with weights of its own, such as "layer1.0.conv1".

        Raises:
            HatifyError: there is no such layer.
        """
        return explain(self, self.registry, path, self.blueprint, self._ownership.locked_by_trained())

    def plot_masks(self) -> Picture:
        """By mask group, the features that each trained task uses, as a picture; shared ones are dark.

        Raises:
            HatifyError: no task is trained, or plotting's libraries are not installed (`hatify[draw]`).
        """
        return plot_masks(self.registry)

    def plot_capacity(self) -> Picture:
        """By mask group, the shares of features that one task alone uses, that several use, that are free.

        Raises:
            HatifyError: as for `plot_masks`.
        """
        return plot_capacity(self.registry)

    def _repr_html_(self) -> str:
        """How a notebook shows the network: its modules as a tree."""
        locks = self._ownership.locked_by_trained()
        paths = [path for path, module in self.named_modules() if isinstance(module, HATLayer)]
        return as_html(
            self.summary(), {path: explain(self, self.registry, path, self.blueprint, locks) for path in paths}
        )

    def draw(self, path: PathLike | None = None) -> Picture:
        """A picture of the network: boxes by module, coloured by mask group; blocks that repeat are drawn once.

        path: an .svg, .pdf or .png file to write, too.

        Raises:
            HatifyError: another ending, or drawing's libraries are not installed (`hatify[draw]`).
            FileError: the file cannot be written.
        """
        if path is not None:
            check_format(path)
        sizes = {name: group.num_features for name, group in self.registry.groups.items()}
        picture = draw(folded(flow_of(self, groups_written(self, self.registry, self.blueprint.heads))), sizes)
        if path is not None:
            picture.save(path)
        return picture

    def extract(self, task_id: int) -> GraphModule:
        """A task as a plain module: eval mode, PyTorch's own operators, and only the channels that the task uses.

        It gives what `net(x, task_id=task_id)` gives in eval mode, up to rounding, and needs no hatify to run. Channels
        whose place an operator needs stay, as zeros: the module's `staying` says which, by module path, and why. It is
        called with those arguments of the example inputs that do not have their default value.

        Raises:
            TaskError: no such task.
            ExtractionError: the network calls a submodule as it is, or it has no weights (meta device).
        """
        task = self.registry.checked(task_id)
        used = self._ownership.used(task)
        with self._isolated(task, mask_scale=None):
            return extract(self, self.registry, self.blueprint.signature, used, task)

    # -- forgetting ------------------------------------------------------------------------------------------

    def forget(self, task_id: int, *, seed: int | None = None, dry_run: bool = False) -> ForgetReport:
        """Forget a task: entries that only it uses and its head are drawn anew, its masks and norms are a new task's.

        Every other task, trained or interrupted, gives what it gave, bitwise, and `task_id` can be trained anew. An
        optimizer's momentum is its own: give the next task a new optimizer.

        seed: of the fresh values; None: PyTorch's own random numbers. dry_run: change nothing, only report.

        Raises:
            InputError: a seed that is no whole number from 0 to 2**63 - 1.
            TaskError: no such task, or one that was never trained.
            TrainingError: a task is being learned, or the network has no weights (meta device).
        """
        return self._forget([self._task_with_training(task_id)], seed, dry_run)

    def prune(self, task_id: int, *, seed: int | None = None, dry_run: bool = False) -> ForgetReport:
        """Forget every task but one, see `forget`, which raises the same."""
        kept = self._task_with_training(task_id)
        return self._forget([task for task in self.registry.begun if task != kept], seed, dry_run)

    def renew(self, values: Mapping[str, Tensor] | None = None, *, seed: int | None = None) -> dict[str, int]:
        """Clear what tasks have left behind: entries that no task uses are drawn anew, as their layers draw them.

        While a task is learned, it also trains features that it gives up in the end, and they are a worse beginning for
        the next task than fresh ones (loss of plasticity: Dohare et al. 2024, Nature 632; measured in
        `docs/choosing_settings.md`). Call it before each task; before the first one it does nothing. Every trained task
        gives what it gave, bitwise, and so does one that was left in its midst; frozen parameters stay as they are. An
        optimizer's momentum is its own: give the next task a new optimizer.

        values: what these entries are set to instead of drawn values, by parameter name: the `state_dict()` of a
            pretrained model, say, as it was converted. seed: of drawn values; None: PyTorch's own random numbers (give
            one where several processes hold the network).

        Returns: by shared parameter, how many of its entries were renewed.

        Raises:
            InputError: values that are no state dict, or lack a parameter, or have another shape for it; a seed that is
                no whole number from 0 to 2**63 - 1.
            TrainingError: a task is being learned, or the network has no weights (meta device).
        """
        self._check_nothing_is_learned()
        self._check_has_weights()
        if not self.registry.begun:
            return {}
        shared = self._ownership.shared()
        trainable = {name: parameter for name, parameter in shared.items() if parameter.requires_grad}
        entries = unused_entries(trainable, [self._ownership.used(task, trainable) for task in self.registry.begun])
        named = dict(self.named_parameters(remove_duplicate=False))
        if values is not None:
            put_back(named, entries, values)
        else:
            with seeded(seed):
                draw_anew(named, entries, self.blueprint.initialization)
        return {name: int(renewed.sum()) for name, renewed in entries.items()}

    def _task_with_training(self, task_id: int) -> int:
        task = self.registry.checked(task_id)
        if task not in self.registry.begun:
            raise never_trained(task, self.trained_tasks)
        self._check_nothing_is_learned()
        self._check_has_weights()
        return task

    def _check_nothing_is_learned(self) -> None:
        if self._learning is not None:
            raise TrainingError(f"task {self._learning.task_id} is being learned: leave its `learn` block first")

    def _check_has_weights(self) -> None:
        if any(parameter.is_meta for parameter in self.parameters()):
            raise TrainingError("a network on the meta device has no weights: give it some first")

    def _forget(self, tasks: Sequence[int], seed: int | None, dry_run: bool) -> ForgetReport:
        heads, initialization = self.blueprint.heads, self.blueprint.initialization
        return forget(self, self._ownership, self.registry, heads, initialization, tasks, seed=seed, dry_run=dry_run)

    # -- training --------------------------------------------------------------------------------------------

    @contextmanager
    def learn(self, task_id: int, steps: int | None = None) -> Iterator[LearningTask]:
        """Train a task: inside the block, gradients and optimizer steps leave every other trained task as it is.

        steps: optimizer steps that the task will take, for the schedule; None where `task.progress` is set by hand.

        Leaving the block marks the task as trained, and locks it from then on; leaving it by an exception does not.
        Entering it again for a trained task goes on with that task; for one that was left by an exception, or saved
        in its midst, the schedule goes on where it was.

        Raises:
            TaskError: no such task, or steps < 1.
            TrainingError: another task is being learned, or the parameters are sharded.
        """
        task = self.registry.checked(task_id)
        steps = None if steps is None else checked_count(steps, "steps")
        self._check_nothing_is_learned()
        self.registry.check_is_whole(task)
        self._warn_if_full(task)
        self._register_hooks()  # parameters that were frozen until now, or have been exchanged
        self.registry.fingerprints.pop(task, None)  # it may move from now on
        parameters = dict(self.named_parameters())
        locks = {parameters[name]: compact(lock) for name, lock in self.lock_masks(task).items() if bool(lock.any())}
        learning = LearningTask(self.registry, self.blueprint.config, task, steps, locks)
        shared = [parameters[name] for name in self.shared_parameters()]
        others = [t for t in self.trained_tasks if t != task]
        resting = [buffer for layer in hat_layers(self) for t in others for buffer in layer.per_task[t].buffers()]
        guard = OptimizerGuard(locks, parameters.values(), shared, resting, learning.step_taken)
        with ExitStack() as stack:
            guard.attach(stack)
            self._learning, self._guard = learning, guard
            stack.callback(setattr, self, "_guard", None)
            stack.callback(setattr, self, "_learning", None)
            yield learning
        if not self.registry.interrupted.pop(task, 0) and steps is not None:
            warn(
                f"task {task} was to take {steps} optimizer steps, and no optimizer that holds a parameter of this "
                "network has taken one: make it from net.parameters(), after the conversion; a loop that moves weights "
                "by itself sets task.progress",
                TrainingWarning,
            )
        if task not in self.registry.trained:
            self.registry.trained.append(task)
        self.registry.fingerprints[task] = self._fingerprints(task)
        emptiness = describe_emptiness(self.registry, task)
        if emptiness is not None:
            warn(emptiness, CapacityWarning)

    def _restore_locked(self, *details: Any) -> None:
        """Put back what something beside an optimizer's steps has moved, before the network is copied or saved.

        details: what a hook on `state_dict` is told.
        """
        if self._guard is not None:
            self._guard.restore()

    def moved_since_trained(self, task_id: int) -> tuple[str, ...]:
        """The parameters and buffers, of those that a trained task depends on, that have changed since its training.

        Nothing that goes through an optimizer in `learn` changes them; writing to `parameter.data` does.

        Raises:
            TaskError: no such task.
        """
        task = self.registry.checked(task_id)
        before = self.registry.fingerprints.get(task, {})
        return tuple(name for name, now in self._fingerprints(task).items() if now != before.get(name, now))

    def _fingerprints(self, task: int) -> dict[str, str]:
        return fingerprints(self, self._ownership, task)

    def lock_masks(self, task_id: int) -> dict[str, Tensor]:
        """For every parameter, bool of its shape: the entries that training `task_id` must leave as they are.

        Raises:
            TaskError: no such task.
        """
        return self._ownership.locked_for(self.registry.checked(task_id))

    def parameter_groups(self, mask_learning_rate: float) -> list[dict[str, Any]]:
        """What an optimizer takes: the weights, and the embeddings with a learning rate of their own and no decay.

        mask_learning_rate: the embeddings'. They have a way to go, from where they begin across zero, and few steps for
            it: 0.05 to 0.1 for AdamW.
        """
        embeddings = list(self.registry.parameters())
        known = set(embeddings)
        weights = [parameter for parameter in self.parameters() if parameter not in known]
        return [{"params": weights}, {"params": embeddings, "lr": mask_learning_rate, "weight_decay": 0.0}]

    def shared_parameters(self) -> tuple[str, ...]:
        """The names of the parameters that all tasks share: neither kept once a task nor an embedding."""
        return tuple(self._ownership.shared())

    def head_layers(self) -> tuple[HATLayer, ...]:
        """The layers that are each task's own head."""
        layers = (self.get_submodule(path) for path in self.blueprint.heads)
        return tuple(layer for layer in layers if isinstance(layer, HATLayer))

    def _warn_if_full(self, task: int) -> None:
        """Once: where hardly any feature is free, a new task can only re-use what earlier tasks have learned."""
        scarcity = None if self._warned_full else describe_scarcity(self.registry, task)
        if scarcity is not None:
            self._warned_full = True
            warn(scarcity, CapacityWarning)

    def _register_hooks(self) -> None:
        """One gradient hook on each trainable parameter, for good; it reads what is being learned when it runs."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not self.is_hooked(parameter):
                parameter.register_hook(partial(self._on_gradient, name, parameter))

    def is_hooked(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter's gradients pass through the network."""
        hooks = (parameter._backward_hooks or {}).values()
        return any(isinstance(hook, partial) and hook.func == self._on_gradient for hook in hooks)

    def _on_gradient(self, name: str, parameter: nn.Parameter, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:  # of products computed together, the loss depends on others
            return None
        if self._learning is None:
            raise TrainingError(
                f"a gradient reached {name!r} outside net.learn: train inside `with net.learn(task_id, steps=n)`, "
                "or switch the parameters' gradients off with net.requires_grad_(False)"
            )
        return self._learning.gradient(parameter, gradient)

    # -- copying, pickling -------------------------------------------------------------------------------------

    def __copy__(self) -> HATModule:
        raise TrainingError("two networks cannot share weights and each lock them: use copy.deepcopy(net)")

    def __deepcopy__(self, memo: dict[int, Any]) -> HATModule:
        self._restore_locked()
        root = nn.Module()
        root.__dict__.update({name: copy.deepcopy(self.__dict__[name], memo) for name in _HELD})
        copied = HATModule(root, copy.deepcopy(self.graph, memo), self.blueprint)
        copied._task_id = self._task_id
        memo[id(self)] = copied
        return copied

    def contents(self) -> Contents:
        """The network as plain data, see `hatify.save`.

        Raises:
            FileError: a part of it that data has no form for.
        """
        self._restore_locked()
        return apart(self, self.blueprint, self._task_id)

    @staticmethod
    def from_contents(contents: Contents) -> HATModule:
        """The network that has these contents."""
        parts = together(contents)
        net = HATModule(parts.root, parts.graph, parts.blueprint)
        net._task_id = parts.task_id
        return net

    def __reduce__(self) -> tuple[Any, ...]:
        return HATModule.from_contents, (self.contents(),)


def _function_of(net: nn.Module, graph: Graph) -> Callable[..., Any]:
    """A graph as a method of `net`, whose modules and tensors it names."""
    return type(GraphModule(net, graph)).forward


def _with_signature(function: Callable[..., Any], signature: inspect.Signature) -> FunctionType:
    """A copy of a function, which tells another signature than it has."""
    copied = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    copied.__kwdefaults__, copied.__doc__ = function.__kwdefaults__, function.__doc__
    copied.__signature__ = signature  # type: ignore[attr-defined]
    return copied


def _check_state_dict(
    net: HATModule, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any
) -> None:
    """Refuse a state dict before anything of it is loaded."""
    if net._learning is not None and local_metadata.get("assign_to_params_buffers"):
        raise TrainingError(
            f"load_state_dict(assign=True) would exchange parameters while task {net._learning.task_id} is learned: "
            "load without assign, or before net.learn"
        )
    state = state_dict.get(f"{prefix}registry._extra_state")
    if isinstance(state, Tensor):
        net.registry.check_extra_state(state)


def _take_over(net: HATModule, keys: Any) -> None:
    """A state dict was loaded: what it holds is what its trained tasks depend on; a plain model's knows of none.

    While a task is learned, those that had been trained before stay as they are, whatever it holds of them.
    """
    if net._guard is not None and net._learning is not None:
        if not net.trained_tasks or net.trained_tasks != net._learning.trained_before:
            net._guard.reload()
        elif not net._guard.is_unmoved():
            net._guard.restore()
            warn(
                "the state dict that was loaded has other values for what is locked, which trained tasks depend on: "
                "that stays as it was when net.learn was entered",
                TrainingWarning,
            )
    if any(key.endswith("registry._extra_state") for key in keys.missing_keys):
        return
    net.registry.fingerprints = {task: net._fingerprints(task) for task in net.trained_tasks}


def _steps_would_move_trained_tasks(net: HATModule) -> bool:
    """Outside `learn` nothing protects the trained tasks from stale gradients, momentum and weight decay."""
    return net._learning is None and bool(net.registry.trained)
