"""Analyses of a prompt that go with the semantic graph: each a function that returns a small frozen value object."""

from .edge_tokens import EdgeTokens, edge_tokens
from .head_circuit import HeadCircuit, head_circuit
from .norm_filter import NormFilter, TokenChange, norm_filter
from .overlap import LayerOverlap, overlap, overlap_by_layer
from .regularization import RegularizationNeurons, regularization_neurons
from .trajectory import Trajectory, trajectory

__all__ = [
    "EdgeTokens",
    "HeadCircuit",
    "LayerOverlap",
    "NormFilter",
    "RegularizationNeurons",
    "TokenChange",
    "Trajectory",
    "edge_tokens",
    "head_circuit",
    "norm_filter",
    "overlap",
    "overlap_by_layer",
    "regularization_neurons",
    "trajectory",
]
