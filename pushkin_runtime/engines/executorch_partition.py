"""What XNNPACK is given of the graph, and what it is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import (
    CosConfig,
    MulConfig,
    SinConfig,
)
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch.export import ExportedProgram
from torch.fx import Node

NOT_DELEGATED = (CosConfig, SinConfig)  # XNNPACK's are approximations, which shows at large angles


class _MulOfOwn(MulConfig):
    """Leave products with an input (an adapter's factors, positions) outside: each would be a delegate alone."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        inputs = set(ep.graph_signature.user_inputs)
        if any(argument.name in inputs for argument in node.all_input_nodes):
            return False
        return bool(super().check_constraints(node, ep))


class _Partitioner(XnnpackPartitioner):
    """Keep the adapters' products whole: XNNPACK would repack their matrices at every call."""

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[Any], Callable[[Node], bool] | None]:
        kept, is_supported = super().ops_to_not_decompose(ep)

        def is_kept(node: Node) -> bool:
            return node.target is torch.ops.aten.linear.default or bool(
                is_supported is not None and is_supported(node)
            )

        return kept, is_kept


def partitioner() -> XnnpackPartitioner:
    """Return the partitioner of every export."""
    replaced = {MulConfig: _MulOfOwn}
    return _Partitioner(
        configs=[replaced.get(c, c) for c in ALL_PARTITIONER_CONFIGS if c not in NOT_DELEGATED]
    )
