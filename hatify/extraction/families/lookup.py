"""Look-up tables: their columns are channels."""

from __future__ import annotations

from torch.fx import Node

from hatify.analysis.nodes import arguments_of
from hatify.capture.calls import given_arguments
from hatify.extraction.channels import Channels, Track
from hatify.extraction.operators import TABLES
from hatify.extraction.registry import Family, register
from hatify.extraction.smaller import Smaller


def follow(channels: Channels, node: Node) -> Track | None:
    given = arguments_of(node)
    channels.keep_all(given["indices"], reason=f"{node.target} looks up a row for each of them")
    table = channels.held(given["weight"])
    if table is None:
        return channels.stays(node)
    return channels.begin(node, given["weight"], (table == 0).all(0), node.meta["val"].dim() - 1)


def shrink(smaller: Smaller, node: Node) -> Node:
    weight, columns = arguments_of(node)["weight"], smaller.positions(node)
    table = smaller.value(weight)
    left = table if columns is None else table.index_select(1, columns.to(table.device))
    return smaller.call(node, {**given_arguments(node), "weight": smaller.read(str(weight.target), left)})


register(Family(follow, shrink, writes=True), *TABLES)
