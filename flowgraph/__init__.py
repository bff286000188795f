"""Through which tokens, heads, neurons and layers did the information travel that made a language model say this.

Everything meant for users is importable from here and loaded when first asked for: ``import flowgraph`` itself pulls in
neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .algorithms.alti_logit import AltiLogit, alti_logit
    from .algorithms.connected_flow import connected_flow, critical_levels, keep_strongest
    from .algorithms.influence import influence, prune
    from .algorithms.max_flow import FlowEdges, attention_flow, flow_edges, minimum_cut
    from .algorithms.paths import Path, merge_parallel, strongest_paths
    from .algorithms.rollout import attention_rollout
    from .algorithms.routes import routes
    from .attribution import DirectLogitAttribution, direct_logit_attribution
    from .errors import (
        ArchitectureError,
        ArgumentError,
        DeviceError,
        FetchError,
        FileFormatError,
        FlowgraphError,
        GraphTooLargeError,
        ModelMismatchError,
        ModelNeededError,
        NonFiniteError,
        NoPatternError,
        NotRecordedError,
        PromptError,
        TargetError,
        UnknownModelError,
        UnsupportedReadingError,
    )  # fmt: skip
    from .graph import FlowGraph, GraphInfo
    from .lenses import logit_lens, read, unembed
    from .methods import EDGE_METHODS, EdgeWeights, build_graph, edge_weights
    from .methods.norm_map import mixing_ratio, norm_map
    from .models import FAMILIES, KNOWN_MODELS, Family, LoadedModel, load_model, register_family
    from .models.forward import SITES
    from .nodes import Node
    from .reading import NodeReading, Reading
    from .recorded import Trace
    from .semantic import semantic_graph, visit_graph
    from .tracing import Keep, trace, trace_size

_WHERE = {
    "algorithms.alti_logit": ("AltiLogit", "alti_logit"),
    "algorithms.connected_flow": ("connected_flow", "critical_levels", "keep_strongest"),
    "algorithms.influence": ("influence", "prune"),
    "algorithms.max_flow": ("FlowEdges", "attention_flow", "flow_edges", "minimum_cut"),
    "algorithms.paths": ("Path", "merge_parallel", "strongest_paths"),
    "algorithms.rollout": ("attention_rollout",),
    "algorithms.routes": ("routes",),
    "attribution": ("DirectLogitAttribution", "direct_logit_attribution"),
    "errors": (
        "ArchitectureError", "ArgumentError", "DeviceError", "FetchError", "FileFormatError", "FlowgraphError",
        "GraphTooLargeError", "ModelMismatchError", "ModelNeededError", "NoPatternError", "NonFiniteError",
        "NotRecordedError", "PromptError", "TargetError", "UnknownModelError", "UnsupportedReadingError",
    ),
    "graph": ("FlowGraph", "GraphInfo"),
    "lenses": ("logit_lens", "read", "unembed"),
    "methods": ("EDGE_METHODS", "EdgeWeights", "build_graph", "edge_weights"),
    "methods.norm_map": ("mixing_ratio", "norm_map"),
    "models": ("FAMILIES", "KNOWN_MODELS", "Family", "LoadedModel", "load_model", "register_family"),
    "models.forward": ("SITES",),
    "nodes": ("Node",),
    "reading": ("NodeReading", "Reading"),
    "recorded": ("Trace",),
    "semantic": ("semantic_graph", "visit_graph"),
    "tracing": ("Keep", "trace", "trace_size"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "EDGE_METHODS", "FAMILIES", "KNOWN_MODELS", "SITES", "AltiLogit", "ArchitectureError", "ArgumentError",
    "DeviceError", "DirectLogitAttribution", "EdgeWeights", "Family", "FetchError", "FileFormatError",
    "FlowEdges", "FlowGraph", "FlowgraphError", "GraphInfo", "GraphTooLargeError", "Keep", "LoadedModel",
    "ModelMismatchError", "ModelNeededError", "NoPatternError", "Node", "NodeReading", "NonFiniteError",
    "NotRecordedError", "Path", "PromptError", "Reading", "TargetError", "Trace", "UnknownModelError",
    "UnsupportedReadingError", "__version__", "alti_logit", "attention_flow", "attention_rollout", "build_graph",
    "connected_flow", "critical_levels", "direct_logit_attribution", "edge_weights", "flow_edges", "influence",
    "keep_strongest", "load_model", "logit_lens", "merge_parallel", "minimum_cut", "mixing_ratio", "norm_map",
    "prune", "read", "register_family", "routes", "semantic_graph", "strongest_paths", "trace", "trace_size",
    "unembed", "visit_graph",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flowgraph' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
