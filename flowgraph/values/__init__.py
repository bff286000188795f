"""Values: traces, readings, nodes, graphs, matrices and edge weights, all frozen."""
