"""The semantic graph as VISIT draws it: the same nodes, the same rules of selection, the same widths of edges.

The graph shows one position, with the layers in a row. Each layer has its state, its norm, one node for the queries of all heads
and one for each head, the sources with the largest attention with key and value, the output of each head, the heads put together,
rows of W_O, the bias, attention's output; the state between, its norm, neurons with input and output weights, the biases, the
MLP's output, the state after. No node stands for the parts that are left out, so parts do not sum to their whole here; in
:func:`flowgraph.semantic_graph` they do. Weights are lengths, probabilities and activations, rounded to three digits and multiplied by
constants that differ from one kind of edge to another; their unit is ``visit``.

In some places the original computes something else than its text says. The graph here follows the text:

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
