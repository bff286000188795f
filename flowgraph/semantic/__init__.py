"""The semantic flow graph: every vector of the forward pass, read in vocabulary, in one connected graph."""

from .bounds import MAX_NODES
from .build import semantic_graph
from .visit import visit_graph

__all__ = ["MAX_NODES", "semantic_graph", "visit_graph"]
