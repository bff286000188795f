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
    from .analyses.edge_tokens import EdgeTokens, edge_tokens
    from .analyses.head_circuit import HeadCircuit, head_circuit
    from .analyses.norm_filter import NormFilter, TokenChange, norm_filter
    from .analyses.overlap import LayerOverlap, overlap, overlap_by_layer
    from .analyses.regularization import RegularizationNeurons, regularization_neurons
    from .analyses.trajectory import Trajectory, trajectory
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
    from .export.imports import import_graph
    from .export.pictures import render_picture
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
    from .views.figures import (
        edge_tokens_figure,
        head_circuit_figure,
        norm_filter_figure,
        overlap_figure,
        regularization_figure,
        trajectory_figure,
    )  # fmt: skip
    from .views.sankey import sankey

_WHERE = {
    "algorithms.alti_logit": ("AltiLogit", "alti_logit"),
    "algorithms.connected_flow": ("connected_flow", "critical_levels", "keep_strongest"),
    "algorithms.influence": ("influence", "prune"),
    "algorithms.max_flow": ("FlowEdges", "attention_flow", "flow_edges", "minimum_cut"),
    "algorithms.paths": ("Path", "merge_parallel", "strongest_paths"),
    "algorithms.rollout": ("attention_rollout",),
    "algorithms.routes": ("routes",),
    "analyses.edge_tokens": ("EdgeTokens", "edge_tokens",),
    "analyses.head_circuit": ("HeadCircuit", "head_circuit",),
    "analyses.norm_filter": ("NormFilter", "TokenChange", "norm_filter",),
    "analyses.overlap": ("LayerOverlap", "overlap", "overlap_by_layer",),
    "analyses.regularization": ("RegularizationNeurons", "regularization_neurons",),
    "analyses.trajectory": ("Trajectory", "trajectory",),
    "attribution": ("DirectLogitAttribution", "direct_logit_attribution"),
    "errors": (
        "ArchitectureError", "ArgumentError", "DeviceError", "FetchError", "FileFormatError", "FlowgraphError",
        "GraphTooLargeError", "ModelMismatchError", "ModelNeededError", "NoPatternError", "NonFiniteError",
        "NotRecordedError", "PromptError", "TargetError", "UnknownModelError", "UnsupportedReadingError",
    ),
    "export.imports": ("import_graph",),
    "export.pictures": ("render_picture",),
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
    "views.figures": (
        "edge_tokens_figure", "head_circuit_figure", "norm_filter_figure", "overlap_figure",
        "regularization_figure", "trajectory_figure",
    ),
    "views.sankey": ("sankey",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "EDGE_METHODS", "FAMILIES", "KNOWN_MODELS", "SITES", "AltiLogit", "ArchitectureError", "ArgumentError",
    "DeviceError", "DirectLogitAttribution", "EdgeTokens", "EdgeWeights", "Family", "FetchError",
    "FileFormatError", "FlowEdges", "FlowGraph", "FlowgraphError", "GraphInfo", "GraphTooLargeError",
    "HeadCircuit", "Keep", "LayerOverlap", "LoadedModel", "ModelMismatchError", "ModelNeededError",
    "NoPatternError", "Node", "NodeReading", "NonFiniteError", "NormFilter", "NotRecordedError", "Path",
    "PromptError", "Reading", "RegularizationNeurons", "TargetError", "TokenChange", "Trace", "Trajectory",
    "UnknownModelError", "UnsupportedReadingError", "__version__", "alti_logit", "attention_flow",
    "attention_rollout", "build_graph", "connected_flow", "critical_levels", "direct_logit_attribution",
    "edge_tokens", "edge_tokens_figure", "edge_weights", "flow_edges", "head_circuit", "head_circuit_figure",
    "import_graph", "influence", "keep_strongest", "load_model", "logit_lens", "merge_parallel", "minimum_cut",
    "mixing_ratio", "norm_filter", "norm_filter_figure", "norm_map", "overlap", "overlap_by_layer",
    "overlap_figure", "prune", "read", "register_family", "regularization_figure", "regularization_neurons",
    "render_picture", "routes", "sankey", "semantic_graph", "strongest_paths", "trace", "trace_size",
    "trajectory", "trajectory_figure", "unembed", "visit_graph",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'flowgraph' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
