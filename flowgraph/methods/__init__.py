"""Edge methods: one file per method, one table, one checker in the tests that runs over all of them."""

from __future__ import annotations

from ..values.edge_weights import EdgeWeights
from ..values.graph_info import DEFAULT_METHOD
from .build import MAX_EDGES, build_graph
from .edge_methods import EDGE_METHODS, edge_weights

__all__ = ["DEFAULT_METHOD", "EDGE_METHODS", "MAX_EDGES", "EdgeWeights", "build_graph", "edge_weights"]
