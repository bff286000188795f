"""The nouns: traces, readings, nodes, graphs, matrices and edge weights, as frozen values."""
