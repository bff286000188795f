"""The semantic graph as VISIT draws it: the same nodes, the same rules of selection, the same widths of edges.

One position, the layers in a row. Each layer has its state, its norm, one node for the queries of all heads and one for each
head, the sources with the largest attention with key and value, what each head writes, the heads put together, rows of W_O, the
bias, what attention adds; the state between, its norm, neurons with what they read and write, the biases, what the MLP adds, the
state after. Nothing stands for what is left out, so parts do not sum to their whole here: :func:`flowgraph.semantic_graph` does
that. Weights are lengths, probabilities and activations rounded to three digits and times constants, which differ from one kind
of edge to another; their unit is ``visit``.

Where the original computes something else than it says, the graph here holds what it says:

- Queries and keys go through the other side's projection the right way round, through the norms of queries and keys, and
  through the rotary embedding from the source's position to the query's.
- A neuron or row with a negative activation lists the lowest tokens of its weights, as in the original; its numbers (target,
  entropy, probabilities) are of minus the weights, which is what it writes.
- The heads put together (``concat_heads``) lie in no space that has words; the node carries its length alone.
- The state that enters the second and later layers has its own length.
"""

from .build import visit_graph
from .drawing import projected

__all__ = ["projected", "visit_graph"]
