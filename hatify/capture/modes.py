"""Train and eval mode in one graph.

The model is traced once in each mode. What both traces do is done once; a value that they compute differently is
chosen by the flag `training`, which is read from the converted module. So each mode is the model's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate, map_arg

from hatify.capture.calls import is_tensor
from hatify.capture.mutations import NORMS, follow_mutations, mutates
from hatify.capture.pairing import (
    DROPOUTS,
    Pair,
    arguments_beside,
    before_dropout,
    kind_of_tensor,
    paired_calls,
    paired_inputs,
    spelled_out,
    without_flags,
)

aten = torch.ops.aten

# `x * noise` in train mode where eval mode has `x` is `x * 1` there.
NEUTRAL: dict[Any, float] = {aten.mul.Tensor: 1.0, aten.div.Tensor: 1.0, aten.add.Tensor: 0.0, aten.sub.Tensor: 0.0}
COMMUTATIVE: set[Any] = {aten.mul.Tensor, aten.add.Tensor}

# These change where a tensor lies, not what it holds.
LAYOUTS: set[Any] = {aten.contiguous.default, aten.clone.default}


def when_training(training: bool, value: Any, otherwise: Any) -> Any:
    """What train mode uses, or what eval mode uses instead."""
    return value if training else otherwise


def restore_dropout(train: Graph, eval_only: Collection[str]) -> None:
    """Let the dropout of modules that are in eval mode in the graph of train mode be as in train mode."""
    for node in train.nodes:
        dropped = node.target in DROPOUTS and node.meta.get("module_path") in eval_only
        if dropped and node.args[1] > 0 and node.args[2] is False:
            node.update_arg(2, True)


def merge_modes(train: Graph, evaluation: Graph, same_outputs: bool) -> Graph:
    """One graph that does what `train` does while its module is in train mode, else what `evaluation` does.

    Both graphs are used up. Where both do the same, in-place operators stay as they are.
    same_outputs: whether the outputs of both have one structure. If not, those of train mode, those of eval mode and
        the flag follow each other.

    Raises:
        CaptureError: see `follow_mutations`.
    """
    pairs = paired_calls(train, evaluation)
    if same_outputs and _differ_in_flags_only(train, evaluation, pairs):
        _set_flags(train, pairs)
        follow_mutations(train)
        return train
    follow_mutations(train, keep_in_place=False)
    follow_mutations(evaluation, keep_in_place=False)
    return _Merge(train, evaluation, same_outputs).graph


def _differ_in_flags_only(train: Graph, evaluation: Graph, pairs: Sequence[Pair]) -> bool:
    if any(ours is None or theirs is None for ours, theirs in pairs):
        return False
    same: dict[Node, Node] = dict(paired_inputs(train, evaluation))
    same |= {ours: theirs for ours, theirs in pairs}  # type: ignore[misc]

    def arguments(node: Node, others: dict[Node, Node], with_flags: bool) -> str:
        named = map_arg(
            (spelled_out(node, None), node.kwargs), lambda n: str(n.target) if n.op == "get_attr" else others[n].name
        )
        return repr(named if with_flags else map_aggregate(named, without_flags))

    itself = {node: node for node in evaluation.nodes}
    outputs = train.output_node(), evaluation.output_node()
    return all(
        arguments(ours, same, ours is outputs[0]) == arguments(theirs, itself, ours is outputs[0])  # type: ignore[arg-type]
        for ours, theirs in [*pairs, outputs]
    )


def _set_flags(graph: Graph, pairs: Sequence[Pair]) -> None:
    """Let the flags that differ follow the mode."""
    with graph.inserting_before(next(iter(graph.nodes))):
        choice = _Choice(graph)
    for ours, theirs in pairs:
        assert ours is not None and theirs is not None
        with graph.inserting_before(ours):
            ours.args, ours.kwargs = choice.of_constants(arguments_beside(ours, theirs), arguments_beside(theirs, ours))
    choice.finish()


class _Choice:
    """Values that follow the mode. Each choice between the same two values is made once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.flag = graph.create_node("get_attr", "training")
        self.flag.meta = {"role": "flag", "val": True}
        self._made: dict[Any, Node] = {}

    def between(self, ours: Any, theirs: Any) -> Any:
        """`ours` in train mode, else `theirs`."""
        are_constants = type(ours) is type(theirs) and not isinstance(ours, Node)
        if ours is theirs or (are_constants and repr(ours) == repr(theirs)):  # NaN is not equal to itself
            return ours
        if ours is True and theirs is False:
            return self.flag
        key = (ours, theirs)
        if key not in self._made:
            self._made[key] = self.made_anew(ours, theirs)
        return self._made[key]

    def made_anew(self, ours: Any, theirs: Any) -> Node:
        """A choice of its own, at the graph's point of insertion."""
        node = self.graph.call_function(when_training, (self.flag, ours, theirs))
        shown = ours if isinstance(ours, Node) else theirs
        node.meta = dict(shown.meta) if isinstance(shown, Node) else {"val": ours}
        return node

    def of_constants(self, ours: Any, theirs: Any) -> Any:
        """Arguments of a call, with the flags that differ chosen and everything else as in train mode."""
        if isinstance(ours, tuple | list):
            return type(ours)(self.of_constants(a, b) for a, b in zip(ours, theirs, strict=True))
        if isinstance(ours, dict):
            return {name: self.of_constants(value, theirs[name]) for name, value in ours.items()}
        return self.between(ours, theirs) if isinstance(ours, bool | float) else ours

    def finish(self) -> None:
        if not self.flag.users:
            self.graph.erase_node(self.flag)


class _Merge:
    """The merged graph, while it is built in the order of both."""

    def __init__(self, train: Graph, evaluation: Graph, same_outputs: bool) -> None:
        self.graph = Graph()
        self._in_train: dict[Node, Any] = {}
        self._in_eval: dict[Node, Any] = {}
        self._train_only: set[Node] = set()
        self._eval_only: set[Node] = set()
        self._neutral: dict[Node, Node] = {}  # calls of train mode, and the values that they give in eval mode
        for ours, theirs in paired_inputs(train, evaluation):
            self._in_train[ours] = self._in_eval[theirs] = self.graph.node_copy(ours)
        self._choice = _Choice(self.graph)
        self._read(train, evaluation)
        for mine, other in paired_calls(train, evaluation):
            if mine is not None and other is not None:
                self._do_in_both(mine, other)
            elif mine is not None:
                self._do_in_train(mine)
            elif other is not None:
                self._do_in_eval(other)
        self.graph.output(tuple(self._outputs(train, evaluation, same_outputs)))
        self._choice.finish()

    def _read(self, train: Graph, evaluation: Graph) -> None:
        reads: dict[str, Node] = {}
        for graph, copies in ((train, self._in_train), (evaluation, self._in_eval)):
            for node in [node for node in graph.nodes if node.op == "get_attr"]:
                name = str(node.target)
                if name not in reads:
                    reads[name] = self.graph.node_copy(node)
                copies[node] = reads[name]

    def _do_in_both(self, ours: Node, theirs: Node) -> None:
        arguments = self._either(arguments_beside(ours, theirs), arguments_beside(theirs, ours))
        self._in_train[ours] = self._in_eval[theirs] = self._copy(ours, arguments)

    def _do_in_train(self, ours: Node) -> None:
        args, kwargs = map_arg((ours.args, ours.kwargs), self._in_train.__getitem__)
        if _writes_back(ours):
            args = (args[0], self._choice.between(args[1], args[0]))
        position = NORMS.get(ours.target)
        if position is not None and args[position] is True and args[3] is not None:
            args = (*args[:position], self._choice.flag, *args[position + 1 :])
        self._in_train[ours] = self._copy(ours, (args, kwargs))
        self._train_only.add(self._in_train[ours])

    def _do_in_eval(self, theirs: Node) -> None:
        args, kwargs = map_arg((theirs.args, theirs.kwargs), self._in_eval.__getitem__)
        if _writes_back(theirs):
            args = (args[0], self._choice.between(args[0], args[1]))
        self._in_eval[theirs] = self._copy(theirs, (args, kwargs))
        self._eval_only.add(self._in_eval[theirs])

    def _copy(self, node: Node, arguments: Any) -> Node:
        args, kwargs = arguments
        copied = self.graph.call_function(node.target, tuple(args), dict(kwargs))  # type: ignore[arg-type]
        copied.meta = dict(node.meta)
        return copied

    def _outputs(self, train: Graph, evaluation: Graph, same_outputs: bool) -> Iterator[Any]:
        ours, theirs = train.output_node().args[0], evaluation.output_node().args[0]
        assert isinstance(ours, tuple | list) and isinstance(theirs, tuple | list)
        if same_outputs:
            yield from self._either(ours, theirs)
        else:
            yield from map_arg(tuple(ours), self._in_train.__getitem__)
            yield from map_arg(tuple(theirs), self._in_eval.__getitem__)
            yield self._choice.flag

    def _either(self, ours: Any, theirs: Any) -> Any:
        """Arguments of one mode and the other as arguments that follow the mode."""
        if isinstance(ours, tuple | list) and isinstance(theirs, tuple | list) and len(ours) == len(theirs):
            return [self._either(a, b) for a, b in zip(ours, theirs, strict=True)]
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return {name: self._either(value, theirs[name]) for name, value in ours.items()}
        mine = self._in_train[ours] if isinstance(ours, Node) else ours
        other = self._in_eval[theirs] if isinstance(theirs, Node) else theirs
        if self._reaches(mine, other):
            self._neutralize(mine, other)
            return mine
        if _is_laid_out(other, mine, self._eval_only):
            return other
        if isinstance(mine, Node) and before_dropout(other) is mine:
            return mine
        return self._choice.between(mine, other)

    def _reaches(self, ours: Any, value: Any) -> bool:
        """Whether train mode alone makes `ours` from `value`, in a way that can be neutralized."""
        if ours is value:
            return isinstance(ours, Node)
        if ours in self._neutral:
            return self._neutral[ours] is value
        if ours not in self._train_only or not is_tensor(ours) or not is_tensor(value):
            return False
        if kind_of_tensor(ours.meta["val"]) != kind_of_tensor(value.meta["val"]):
            return False
        if ours.target in DROPOUTS:
            return ours.args[2] is True and self._reaches(ours.args[0], value)
        if ours.target in LAYOUTS:
            return self._reaches(ours.args[0], value)
        if ours.target not in NEUTRAL:
            return False
        operands = ours.args if ours.target in COMMUTATIVE else ours.args[:1]
        return any(self._reaches(operand, value) for operand in operands)

    def _neutralize(self, ours: Node, value: Node) -> None:
        """Let what train mode alone does to `value` change nothing in eval mode.

        In place, for all who read it: a second dropout would draw numbers of its own.
        """
        if ours is value or ours in self._neutral:
            return
        self._neutral[ours] = value
        operand = next(operand for operand in ours.args if self._reaches(operand, value))
        assert isinstance(operand, Node)
        self._neutralize(operand, value)
        if ours.target in DROPOUTS:
            ours.update_arg(2, self._choice.flag)
        elif ours.target in NEUTRAL:
            position = 1 if operand is ours.args[0] else 0
            with self.graph.inserting_before(ours):
                neutral = self._choice.made_anew(ours.args[position], NEUTRAL[ours.target])
            ours.update_arg(position, neutral)


def _writes_back(node: Node) -> bool:
    """Whether a call stores the last value of memory that outlives the graph."""
    return mutates(node) and isinstance(node.args[0], Node) and node.args[0].op in ("get_attr", "placeholder")


def _is_laid_out(theirs: Any, value: Any, eval_only: set[Node]) -> bool:
    """Whether `theirs` is `value` itself, laid out anew in eval mode alone."""
    while theirs in eval_only and theirs.target in LAYOUTS:
        theirs = theirs.args[0]
        if theirs is value:
            return True
    return False
