"""``logits``: direct logit attribution as edges into the logit node, signed, in logits.

Every edge says what a part wrote in the direction of the target (minus the foil) at the explained position: a head from one
source token, a head as a whole, an MLP, the embedding, a bias.
"""

from __future__ import annotations

import numpy as np

from ..lenses.direct_attribution import direct_logit_attribution, refuse_pooled
from ..values.edge_weights import EdgeWeights
from ..values.trace import Trace
from .origin import origin


def logits(trace: Trace) -> EdgeWeights:
    """Weights from :func:`flowgraph.direct_logit_attribution` at the trace's position.

    Raises
    ------
    UnsupportedReadingError
        If no direct logit attribution exists for the model.
    """
    refuse_pooled(trace, "the method 'logits'")
    parts = direct_logit_attribution(trace, trace.target, trace.foil, position=trace.position)
    by_source = parts.heads_by_source[:, :, None, :]
    return EdgeWeights(
        info=origin(trace, "logits", "logits"),
        parallel=trace.wiring == "parallel",
        query_positions=(trace.position,),
        attention=by_source,
        attention_summed=by_source.sum(1),
        head=parts.heads[:, :, None],
        mlp=parts.mlps[:, None],
        ends_in_logit=True,
        additive=True,
        embedding=parts.embedding,
        position_embedding=parts.position_embedding if trace.position_embedding is not None else None,
        biases=dict(parts.biases),
        mixer=None if parts.mixers is None else parts.mixers[:, None],
    )


def total(weights: EdgeWeights) -> float:
    """Sum of all parts, which is the logit (or the difference to the foil)."""
    further = [weights.embedding, weights.position_embedding, *weights.biases.values()]
    mlp = 0.0 if weights.mlp is None else float(np.sum(weights.mlp))
    mlp += 0.0 if weights.mixer is None else float(np.sum(weights.mixer))
    return float(np.sum(weights.head)) + mlp + sum(part for part in further if part is not None)
