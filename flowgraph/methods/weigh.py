"""Edge weights of a trace by the name of a method."""

from __future__ import annotations

from inspect import signature
from typing import Any

from ..errors import ArgumentError, ModelNeededError
from ..values.arguments import takes
from ..values.edge_weights import EdgeWeights
from ..values.graph_info import DEFAULT_METHOD
from ..values.trace import Trace
from .edge_methods import EDGE_METHODS


@takes(Trace)
def edge_weights(trace: Trace, *, method: str = DEFAULT_METHOD, **options: Any) -> EdgeWeights:
    """Dense weights of all edges of a trace.

    Parameters
    ----------
    trace
        A trace that holds what the method needs.
    method
        ``"proximity"`` (default): how much nearer each part brings the sum of the others to the whole; information flow routes.
        ``"attention"``: the pattern, heads averaged, half attention and half residual. ``"logits"``: what each part wrote in
        the direction of the target, in logits. ``"norms"``: how long the vectors are that are added. ``"ff"``: how long each
        part is after attention and the feed-forward block.
    **options
        Options of the method. ``"proximity"``: ``parts="head"`` (default) or ``parts="token"``, which is ALTI. ``"ff"``:
        ``sources=16``, how many sources of each target go through the feed-forward block one by one; None for all.

    Raises
    ------
    ArgumentError
        If the method is not known, or has no such option or value.
    NotRecordedError
        If the trace does not hold a site that the method needs.
    ModelNeededError
        If the trace has no model, the method needs one and was not recorded.

    Examples
    --------
    >>> weights = fg.edge_weights(trace, method="proximity")
    >>> weights
    EdgeWeights('proximity', 30 layers × 9 heads × 8 queries × 8 keys, unit 'share')
    >>> weights.attention_summed.shape  # layer, query position, key position
    (30, 8, 8)
    """
    if method not in EDGE_METHODS:
        raise ArgumentError(f"method={method!r} is not known; expected one of {', '.join(EDGE_METHODS)}")
    known = {name: one.default for name, one in signature(EDGE_METHODS[method]).parameters.items() if name != "trace"}
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = f"has {', '.join(known)}" if known else "has no options"
        raise ArgumentError(f"{unknown[0]}= is not an option of method={method!r}, which {has}")
    # What is recorded was computed without options, which an option's default says again.
    chosen = any(value != known[name] for name, value in options.items())
    recorded = None if chosen else trace.recorded_weights.get(method)
    if recorded is not None:
        return recorded
    try:
        found: EdgeWeights = EDGE_METHODS[method](trace, **options)
    except ModelNeededError as error:
        if not trace.recorded_weights:
            raise
        names = ", ".join(map(repr, trace.recorded_weights))
        raise ModelNeededError(
            f"this trace holds no model, and method={method!r} needs one; recorded with it were {names}. Say one of these, or "
            f"trace.attach(load_model({trace.model_name!r}))"
        ) from error
    return found
