"""The semantic flow graph: every vector of the forward pass, read in vocabulary, in one connected graph."""

from .build import MAX_NODES, semantic_graph

__all__ = ["MAX_NODES", "semantic_graph"]
