"""What is worked out from a flow graph: the flow that reaches a node, and the strongest paths into it."""

from .connected_flow import connected_flow, critical_levels, keep_strongest
from .paths import Path, merge_parallel, strongest_paths

__all__ = ["Path", "connected_flow", "critical_levels", "keep_strongest", "merge_parallel", "strongest_paths"]
