"""Edge methods: one file per method, one table, one checker in the tests that runs over all of them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ArgumentError
from ..recorded import Trace
from .attention import attention
from .build import MAX_EDGES, build_graph
from .logits import logits
from .norms import norms
from .weights import EdgeWeights


def _proximity(trace: Trace) -> EdgeWeights:
    # The compiler is imported with the method that needs it: it takes longer than all the others together.
    from .proximity import proximity

    return proximity(trace)


EDGE_METHODS: dict[str, Callable[[Trace], EdgeWeights]] = {
    "attention": attention,
    "norms": norms,
    "proximity": _proximity,
    "logits": logits,
}

__all__ = ["EDGE_METHODS", "MAX_EDGES", "EdgeWeights", "build_graph", "edge_weights"]


def edge_weights(trace: Trace, *, method: str = "attention") -> EdgeWeights:
    """Dense weights of all edges of a trace.

    Parameters
    ----------
    trace
        A trace that holds what the method needs.
    method
        ``"attention"``: the pattern, heads averaged, half attention and half residual. ``"logits"``: what each part wrote in
        the direction of the target, in logits. ``"norms"``: how long the vectors are that are added. ``"proximity"``: how much
        nearer each part brings the sum of the others to the whole; information flow routes.

    Raises
    ------
    ArgumentError
        If the method is not known.
    NotRecordedError
        If the trace does not hold a site that the method needs.
    ModelNeededError
        If the trace has no model, the method needs one and was not recorded.
    """
    if method not in EDGE_METHODS:
        raise ArgumentError(f"method={method!r} is not known; expected one of {', '.join(EDGE_METHODS)}")
    recorded = trace.recorded_weights.get(method)
    return EDGE_METHODS[method](trace) if recorded is None else recorded
