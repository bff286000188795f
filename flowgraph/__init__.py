"""Through which tokens, heads, neurons and layers did the information travel that made a language model say this.

Everything meant for users is importable from here and loaded when first asked for: ``import flowgraph`` itself pulls in
neither torch nor transformers. The names by what a person does:

Trace: models, prompts, one forward pass
    load_model, LoadedModel, KNOWN_MODELS, FAMILIES, Family, register_family, register_attention, inputs, Inputs, trace, Trace, Traces, TraceSites,
    Axis, trace_size, SITES
Read: states and parts in vocabulary
    logit_lens, read, unembed, Reading, direct_logit_attribution, DirectLogitAttribution, integrated_attribution,
    IntegratedAttribution, experts, Experts, head_scores, HeadScores,
    HeadScore, node_readings, NodeReading, node_details, NodeDetails, trajectory, Trajectory, head_circuit, HeadCircuit,
    norm_filter, NormFilter, TokenChange, edge_tokens, EdgeTokens, overlap, overlap_by_layer, LayerOverlap,
    regularization_neurons, RegularizationNeurons
Weigh: edge weights, rollout, flow
    DEFAULT_METHOD, EDGE_METHODS, EdgeMethod, register_method, edge_weights, EdgeWeights, norm_map, mixing_ratio,
    alti_logit, AltiLogit, attention_rollout, attention_flow, minimum_cut, flow_edges, FlowEdges, TokenMatrix
Draw: graphs, what is kept of them, pictures
    picture, PictureRecipe, picture_edges, build_graph, routes, routes_threshold, rollout_graph, flow_graph, semantic_graph,
    visit_graph, FlowGraph, GraphInfo, Node, node_key, parse_node, mass, edge_mass, connected_flow, critical_levels,
    keep_strongest, influence, prune, strongest_paths, merge_parallel, Path, render_picture, sankey, head_view, model_view,
    AttentionView, attention_figure, lens_figure, matrix_figure, head_scores_figure, trajectory_figure, head_circuit_figure,
    norm_filter_figure, edge_tokens_figure, overlap_figure, regularization_figure, Table
Test: ablation, patching, attribution, tasks
    ablate, patch, Effect, head_effects, HeadEffects, sweep_size, edge_effects, EdgeEffects, edge_scores, EdgeScores,
    scores_size, gradients, Gradients, Edge, PatternEdit, Metric, logit_difference, log_probability, kl_divergence,
    target_rank, task, TaskData, Example, corrupt, counterfactuals, Counterfactuals, Counterfactual
Find circuits: search, faithfulness, roles of heads
    discover, discovery_size, circuit_edges, CircuitEdges, faithfulness, Faithfulness, benchmark_faithfulness, BenchmarkFaithfulness,
    select_edges, completeness, Completeness, minimality, Minimality, compare, CircuitOverlap, explain_answer, graph_faithfulness, GraphFaithfulness,
    faithfulness_curve, FaithfulnessCurve, head_roles, HeadRoles
Files: graphs of this and other programs; what is saved is saved by its own ``save``
    import_graph
Errors: what is refused
    FlowgraphError, ArchitectureError, ArgumentError, CancelledError, DeviceError, FetchError, FileFormatError,
    GraphTooLargeError, KeywordError, ModelMismatchError, ModelNeededError, NoCounterfactualError, NoPatternError, NonFiniteError,
    NotRecordedError, PromptError,
    TargetError, UnknownModelError, UnsupportedReadingError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .charts.rendering import at_first_use
from .importing import MOVED, install, late, late_names, old_name
from .version import __version__ as __version__

if TYPE_CHECKING:
    from .algorithms.alti_logit import AltiLogit, alti_logit
    from .algorithms.flow_graph import flow_graph
    from .algorithms.influence import influence, prune
    from .algorithms.max_flow import FlowEdges, attention_flow, flow_edges, minimum_cut
    from .algorithms.paths import Path, merge_parallel, strongest_paths
    from .algorithms.picture_edges import picture_edges
    from .algorithms.rollout import attention_rollout
    from .algorithms.rollout_graph import rollout_graph
    from .algorithms.routes import routes, routes_threshold
    from .analyses.edge_tokens import EdgeTokens, edge_tokens
    from .analyses.head_circuit import HeadCircuit, head_circuit
    from .analyses.node_details import node_details
    from .analyses.norm_filter import NormFilter, TokenChange, norm_filter
    from .analyses.overlap import LayerOverlap, overlap, overlap_by_layer
    from .analyses.regularization import RegularizationNeurons, regularization_neurons
    from .analyses.trajectory import Trajectory, trajectory
    from .charts.table import Table
    from .circuits.benchmark import BenchmarkFaithfulness, benchmark_faithfulness
    from .circuits.circuit_edges import CircuitEdges, circuit_edges
    from .circuits.comparison import CircuitOverlap, compare
    from .circuits.completeness import Completeness, Minimality, completeness, minimality
    from .circuits.discovery import discover, discovery_size
    from .circuits.explain_answer import explain_answer
    from .circuits.faithfulness import Faithfulness, faithfulness
    from .circuits.faithfulness_curve import FaithfulnessCurve, faithfulness_curve
    from .circuits.graph_faithfulness import GraphFaithfulness, graph_faithfulness
    from .circuits.roles import HeadRoles, head_roles
    from .circuits.selection import select_edges
    from .errors import (
        ArchitectureError,
        ArgumentError,
        CancelledError,
        DeviceError,
        FetchError,
        FileFormatError,
        FlowgraphError,
        GraphTooLargeError,
        KeywordError,
        ModelMismatchError,
        ModelNeededError,
        NoCounterfactualError,
        NonFiniteError,
        NoPatternError,
        NotRecordedError,
        PromptError,
        TargetError,
        UnknownModelError,
        UnsupportedReadingError,
    )  # fmt: skip
    from .files.imports import import_graph
    from .interventions.ablation import ablate, patch
    from .interventions.edge_effects import EdgeEffects, edge_effects
    from .interventions.edge_scores import EdgeScores, edge_scores, scores_size
    from .interventions.edges import Edge, PatternEdit
    from .interventions.effect import Effect
    from .interventions.gradients import Gradients, gradients
    from .interventions.head_effects import HeadEffects, head_effects, sweep_size
    from .interventions.metrics import Metric, kl_divergence, log_probability, logit_difference, target_rank
    from .lenses.direct_attribution import DirectLogitAttribution, direct_logit_attribution
    from .lenses.experts import Experts, experts
    from .lenses.head_scores import HeadScore, HeadScores, head_scores
    from .lenses.integrated_attribution import IntegratedAttribution, integrated_attribution
    from .lenses.logit_lens import logit_lens, read, unembed
    from .methods import EDGE_METHODS, EdgeMethod, EdgeWeights, build_graph, edge_weights, register_method
    from .methods.node_readings import node_readings
    from .methods.norm_map import mixing_ratio, norm_map
    from .models import FAMILIES, KNOWN_MODELS, Family, LoadedModel, load_model, register_attention, register_family
    from .models.axis import Axis
    from .models.forward import SITES
    from .render.page.attention_view import AttentionView, head_view, model_view
    from .render.picture import picture
    from .render.plots.attention_figure import attention_figure
    from .render.plots.figures import (
        edge_tokens_figure,
        head_circuit_figure,
        head_scores_figure,
        lens_figure,
        matrix_figure,
        norm_filter_figure,
        overlap_figure,
        regularization_figure,
        trajectory_figure,
    )  # fmt: skip
    from .render.plots.sankey import sankey
    from .render.print.pictures import render_picture
    from .semantic import semantic_graph, visit_graph
    from .tasks import Example, TaskData, corrupt, task
    from .tasks.counterfactuals import Counterfactual, Counterfactuals, counterfactuals
    from .tracing import Traces, TraceSites, trace, trace_size
    from .values.connected_flow import connected_flow, critical_levels
    from .values.flow_graph import FlowGraph
    from .values.graph_info import DEFAULT_METHOD, GraphInfo
    from .values.inputs import Inputs, inputs
    from .values.mass import edge_mass, mass
    from .values.node import Node
    from .values.node_details import NodeDetails
    from .values.node_key import node_key, parse_node
    from .values.reading import NodeReading, Reading
    from .values.recipe import PictureRecipe
    from .values.strongest import keep_strongest
    from .values.token_matrix import TokenMatrix
    from .values.trace import Trace

_WHERE = {
    "algorithms.alti_logit": ("AltiLogit", "alti_logit"),
    "algorithms.flow_graph": ("flow_graph",),
    "algorithms.influence": ("influence", "prune"),
    "algorithms.max_flow": ("FlowEdges", "attention_flow", "flow_edges", "minimum_cut"),
    "algorithms.paths": ("Path", "merge_parallel", "strongest_paths"),
    "algorithms.picture_edges": ("picture_edges",),
    "algorithms.rollout": ("attention_rollout",),
    "algorithms.rollout_graph": ("rollout_graph",),
    "algorithms.routes": ("routes", "routes_threshold"),
    "analyses.edge_tokens": ("EdgeTokens", "edge_tokens",),
    "analyses.head_circuit": ("HeadCircuit", "head_circuit",),
    "analyses.node_details": ("node_details",),
    "analyses.norm_filter": ("NormFilter", "TokenChange", "norm_filter",),
    "analyses.overlap": ("LayerOverlap", "overlap", "overlap_by_layer",),
    "analyses.regularization": ("RegularizationNeurons", "regularization_neurons",),
    "analyses.trajectory": ("Trajectory", "trajectory",),
    "lenses.direct_attribution": ("DirectLogitAttribution", "direct_logit_attribution"),
    "lenses.experts": ("Experts", "experts"),
    "lenses.integrated_attribution": ("IntegratedAttribution", "integrated_attribution"),
    "circuits.circuit_edges": ("CircuitEdges", "circuit_edges"),
    "circuits.comparison": ("CircuitOverlap", "compare"),
    "circuits.completeness": ("Completeness", "Minimality", "completeness", "minimality"),
    "circuits.discovery": ("discover", "discovery_size"),
    "circuits.explain_answer": ("explain_answer",),
    "circuits.faithfulness": ("Faithfulness", "faithfulness"),
    "circuits.selection": ("select_edges",),
    "circuits.benchmark": ("BenchmarkFaithfulness", "benchmark_faithfulness"),
    "circuits.faithfulness_curve": ("FaithfulnessCurve", "faithfulness_curve"),
    "circuits.graph_faithfulness": ("GraphFaithfulness", "graph_faithfulness"),
    "circuits.roles": ("HeadRoles", "head_roles"),
    "errors": (
        "ArchitectureError", "ArgumentError", "CancelledError", "DeviceError", "FetchError", "FileFormatError", "FlowgraphError",
        "GraphTooLargeError", "KeywordError", "ModelMismatchError", "ModelNeededError", "NoCounterfactualError", "NoPatternError", "NonFiniteError",
        "NotRecordedError", "PromptError", "TargetError", "UnknownModelError", "UnsupportedReadingError",
    ),
    "files.imports": ("import_graph",),
    "render.print.pictures": ("render_picture",),
    "values.connected_flow": ("connected_flow", "critical_levels"),
    "values.strongest": ("keep_strongest",),
    "values.flow_graph": ("FlowGraph",),
    "values.graph_info": ("DEFAULT_METHOD", "GraphInfo"),
    "lenses.head_scores": ("HeadScore", "HeadScores", "head_scores"),
    "interventions.ablation": ("ablate", "patch"),
    "interventions.edge_effects": ("EdgeEffects", "edge_effects"),
    "interventions.edge_scores": ("EdgeScores", "edge_scores", "scores_size"),
    "interventions.edges": ("Edge", "PatternEdit"),
    "interventions.effect": ("Effect",),
    "interventions.gradients": ("Gradients", "gradients"),
    "interventions.head_effects": ("HeadEffects", "head_effects", "sweep_size"),
    "interventions.metrics": ("Metric", "kl_divergence", "log_probability", "logit_difference", "target_rank"),
    "values.mass": ("edge_mass", "mass"),
    "lenses.logit_lens": ("logit_lens", "read", "unembed"),
    "values.token_matrix": ("TokenMatrix",),
    "methods": ("EDGE_METHODS", "EdgeMethod", "EdgeWeights", "build_graph", "edge_weights", "register_method"),
    "methods.node_readings": ("node_readings",),
    "methods.norm_map": ("mixing_ratio", "norm_map"),
    "models": ("FAMILIES", "KNOWN_MODELS", "Family", "LoadedModel", "load_model", "register_attention", "register_family"),
    "models.axis": ("Axis",),
    "models.forward": ("SITES",),
    "values.node": ("Node",),
    "values.node_details": ("NodeDetails",),
    "values.node_key": ("node_key", "parse_node"),
    "values.inputs": ("Inputs", "inputs"),
    "values.recipe": ("PictureRecipe",),
    "values.reading": ("NodeReading", "Reading"),
    "values.trace": ("Trace",),
    "semantic": ("semantic_graph", "visit_graph"),
    "charts.table": ("Table",),
    "tasks": ("Example", "TaskData", "corrupt", "task"),
    "tasks.counterfactuals": ("Counterfactual", "Counterfactuals", "counterfactuals"),
    "tracing": ("TraceSites", "Traces", "trace", "trace_size"),
    "render.picture": ("picture",),
    "render.plots.attention_figure": ("attention_figure",),
    "render.page.attention_view": ("AttentionView", "head_view", "model_view"),
    "render.plots.figures": (
        "edge_tokens_figure", "head_circuit_figure", "head_scores_figure", "lens_figure", "matrix_figure",
        "norm_filter_figure", "overlap_figure", "regularization_figure", "trajectory_figure",
    ),
    "render.plots.sankey": ("sankey",),
}  # fmt: skip
_DRAWN_BY = {
    "html": {
        **{f"charts.{name}": "render.page.tables" for name in ("bars", "grid", "lines", "overview", "table")},
        "charts.diagram": "render.notebook.notebook", "values.trace": "render.of_tensors",
    },
    "text": {"charts.table": "render.words.table"},
    "figure": {
        **{f"charts.{name}": f"render.plots.{name}" for name in ("bars", "grid", "lines", "table")},
        "charts.diagram": "render.plots.graph",
    },
    "picture": {f"charts.{name}": "render.print.pictures" for name in ("bars", "diagram", "grid", "lines", "table")},
    "csv": {"charts.table": "files.tables", "charts.diagram": "files.csv_file"},
    "npz": {"charts.table": "files.tables"},
    "save": {
        "charts.table": "files.tables", "values.flow_graph": "files", "values.trace": "files.trace_file",
    },
    "load": {"values.flow_graph": "files", "values.trace": "files.trace_reader"},
    "show": {"charts.diagram": "render.notebook.notebook"},
    "widget": {"values.flow_graph": "render.notebook.notebook"},
    "caption": {"values.flow_graph": "render.words.caption"},
    "explain": {"values.flow_graph": "render.words.explain"},
    "summary": {"values.flow_graph": "render.words.caption"},
    "to_networkx": {"values.flow_graph": "files.graphml"},
    "from_networkx": {"values.flow_graph": "files.imports"},
    "record": {"values.trace": "methods.recording"},
}  # fmt: skip
"""Door → module of a value → module that registers for it; see :mod:`flowgraph.charts.rendering`."""
at_first_use(
    {door: {f"{__name__}.{of}": f"{__name__}.{by}" for of, by in given.items()} for door, given in _DRAWN_BY.items()}
)
install()
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "DEFAULT_METHOD", "EDGE_METHODS", "FAMILIES", "KNOWN_MODELS", "SITES", "AltiLogit", "ArchitectureError", "ArgumentError",
    "AttentionView", "Axis", "BenchmarkFaithfulness", "CancelledError", "CircuitEdges", "CircuitOverlap", "Completeness", "Counterfactual", "Counterfactuals", "DeviceError", "DirectLogitAttribution",
    "Edge", "EdgeEffects", "EdgeMethod", "EdgeScores", "EdgeTokens", "EdgeWeights", "Effect", "Example", "Experts", "Faithfulness", "FaithfulnessCurve",
    "Family", "FetchError", "FileFormatError", "FlowEdges", "FlowGraph", "FlowgraphError", "Gradients",
    "GraphFaithfulness", "GraphInfo", "GraphTooLargeError", "HeadCircuit", "HeadEffects", "HeadRoles", "HeadScore", "HeadScores",
    "Inputs", "IntegratedAttribution", "KeywordError", "LayerOverlap", "LoadedModel", "Metric", "Minimality", "ModelMismatchError", "ModelNeededError",
    "NoCounterfactualError", "NoPatternError", "Node", "NodeDetails", "NodeReading", "NonFiniteError", "NormFilter", "NotRecordedError", "Path",
    "PatternEdit", "PictureRecipe", "PromptError", "Reading", "RegularizationNeurons", "Table", "TargetError", "TaskData",
    "TokenChange", "TokenMatrix", "Trace", "TraceSites", "Traces", "Trajectory", "UnknownModelError", "UnsupportedReadingError",
    "__version__", "ablate", "alti_logit", "attention_figure", "attention_flow", "attention_rollout",
    "benchmark_faithfulness", "build_graph", "circuit_edges", "compare", "completeness", "connected_flow", "corrupt", "counterfactuals", "critical_levels",
    "direct_logit_attribution", "discover", "discovery_size", "edge_effects", "edge_mass", "edge_scores", "edge_tokens",
    "edge_tokens_figure", "edge_weights", "experts", "explain_answer", "faithfulness", "faithfulness_curve", "flow_edges", "flow_graph", "gradients", "graph_faithfulness", "head_circuit",
    "head_circuit_figure", "head_effects", "head_roles", "head_scores", "head_scores_figure", "head_view",
    "import_graph", "influence", "inputs", "integrated_attribution", "keep_strongest", "kl_divergence", "lens_figure", "load_model",
    "log_probability", "logit_difference", "logit_lens", "mass", "matrix_figure", "merge_parallel", "minimality",
    "minimum_cut", "mixing_ratio", "model_view", "node_details", "node_key", "node_readings", "norm_filter", "norm_filter_figure", "norm_map",
    "overlap", "overlap_by_layer", "overlap_figure", "parse_node", "patch", "picture", "picture_edges", "prune", "read", "register_attention", "register_family",
    "register_method", "regularization_figure", "regularization_neurons", "render_picture", "rollout_graph", "routes", "routes_threshold", "sankey",
    "scores_size", "select_edges", "semantic_graph", "strongest_paths", "sweep_size", "target_rank", "task", "trace", "trace_size", "trajectory",
    "trajectory_figure", "unembed", "visit_graph",
]  # fmt: skip

_late = late_names(__name__, _MODULE_OF)


_RENAMED = {"Keep": "TraceSites"}
"""Old public name → the one it has now."""


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        return old_name(__name__, name, _RENAMED[name])
    return late(f"{__name__}.{name}") if name in MOVED else _late(name)


def __dir__() -> list[str]:
    return sorted(__all__)
