"""Algorithms on weights: rollout and maximum flow of attention, the flow that reaches a node, its strongest paths."""

from ..values.connected_flow import connected_flow, critical_levels
from ..values.strongest import keep_strongest
from .max_flow import FlowEdges, attention_flow, flow_edges, minimum_cut
from .paths import Path, merge_parallel, strongest_paths
from .rollout import attention_rollout

__all__ = [
    "FlowEdges", "Path", "attention_flow", "attention_rollout", "connected_flow", "critical_levels", "flow_edges",
    "keep_strongest", "merge_parallel", "minimum_cut", "strongest_paths",
]  # fmt: skip
