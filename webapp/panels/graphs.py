"""Flow graphs for the page: which edges of a method are drawn, and in words which those are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

import flowgraph
from flowgraph import EdgeWeights, FlowGraph, Node
from flowgraph.errors import ArgumentError, GraphTooLargeError
from flowgraph.render import COLOURED_KINDS

from ..server.answers import MOST_EDGES, GraphAnswer
from ..server.questions import GraphQuestion, SketchQuestion
from ..server.traces import Check, Traces

Asked = GraphQuestion | SketchQuestion
_MOST_LISTED = 2_000_000


def graph(traces: Traces, question: Asked, check: Check) -> GraphAnswer:
    """The flow graph of a run."""
    weights = traces.weights(question.run, question.method, check)
    _refuse_combination(question, weights)
    if question.layers is not None:
        weights = weights.window(*question.layers)
    check("drawing the graph", None)
    drawn, note = (_mixed if question.heads_in else _SHOW[question.show])(weights, question)
    drawn, note = _strongest(drawn, note, question.start)
    wanted = [n for n in drawn.nodes if isinstance(question, GraphQuestion) or n.kind in COLOURED_KINDS]
    readings = dict(zip(wanted, traces.readings(question.run, wanted, check), strict=True))
    return GraphAnswer(drawn.with_readings(tuple(readings.get(node) for node in drawn.nodes)), note)


def _refuse_combination(question: Asked, weights: EdgeWeights) -> None:
    """Say what to choose where the weights of a method do not have what is asked for."""
    method, show = question.method, question.show
    if show in ("rollout", "flow"):
        if weights.ends_in_logit:
            raise ArgumentError(
                f"{show} follows edges from state to state, and those of {method!r} all end in the logit; choose the method "
                "attention, norms or proximity, or show routes or all edges"
            )
        if question.level == "head" or question.heads_in:
            raise ArgumentError(f"{show} is between tokens, heads together; choose level token, or show routes")
    if question.level == "head" and weights.heads_together:
        raise ArgumentError(f"{method!r} takes heads together; choose level token, or the method norms or proximity")


def _all(weights: EdgeWeights, question: Asked) -> tuple[FlowGraph, str]:
    """Every edge, or above a size that still fits into memory the strongest."""
    threshold, note = question.threshold, "all edges"
    if threshold:
        note = f"all edges of share ≥ {_number(threshold)}"
    try:
        return flowgraph.build_graph(
            weights,
            level=question.level,
            threshold=threshold,
            start=question.start,
            max_edges=_MOST_LISTED,
            readings=False,
        ), note
    except GraphTooLargeError:
        drawn = flowgraph.build_graph(
            weights,
            level=question.level,
            threshold=threshold,
            start=question.start,
            top_k=_MOST_LISTED,
            max_edges=_MOST_LISTED,
            readings=False,
        )
        return drawn, f"the {_MOST_LISTED:,} edges of the largest share"


def _routes(weights: EdgeWeights, question: Asked) -> tuple[FlowGraph, str]:
    threshold = _threshold(weights, question)
    drawn = flowgraph.routes(weights, question.start, threshold=threshold, level=question.level, max_edges=_MOST_LISTED)
    return drawn, f"routes over edges of share ≥ {_number(threshold)}"


def _threshold(weights: EdgeWeights, question: Asked) -> float:
    """What was asked for, or the least that a picture holds."""
    if question.threshold:
        return question.threshold
    return flowgraph.routes_threshold(weights, question.start, level=question.level, max_edges=_MOST_LISTED)


def _mixed(weights: EdgeWeights, question: Asked) -> tuple[FlowGraph, str]:
    """Some layers as their heads; routes are what is strong enough, of which only what leads to the start is kept."""
    whole = flowgraph.build_graph(
        weights, heads_in=question.heads_in, start=question.start, max_edges=_MOST_LISTED, readings=False
    )
    heads = f"heads of L{', L'.join(map(str, question.heads_in))} one by one"
    # Opening a layer changes nothing about the others: routes keep the threshold that they have while it is closed.
    threshold = _threshold(weights, question) if question.show == "routes" else question.threshold
    if not threshold:
        return whole, f"all edges, {heads}"
    kept = whole.keep(~whole.structural & (np.abs(whole.share) >= threshold), threshold=threshold)
    said = "routes over" if question.show == "routes" else "all"
    return kept, f"{said} edges of share ≥ {_number(threshold)}, {heads}"


def _rollout(weights: EdgeWeights, question: Asked) -> tuple[FlowGraph, str]:
    return flowgraph.rollout_graph(weights, question.start), "rollout"


def _flow(weights: EdgeWeights, question: Asked) -> tuple[FlowGraph, str]:
    return flowgraph.flow_graph(weights, question.start), "maximum flow"


_SHOW: Mapping[str, Callable[[EdgeWeights, Asked], tuple[FlowGraph, str]]] = {
    "all": _all, "routes": _routes, "rollout": _rollout, "flow": _flow,
}  # fmt: skip


def _strongest(drawn: FlowGraph, note: str, start: Node | None) -> tuple[FlowGraph, str]:
    """The strongest connected edges, as many as a page can draw."""
    if not len(drawn):
        return drawn, f"{note}: none"
    count = len(drawn)
    kept = flowgraph.keep_strongest(drawn, mass=None, max_edges=MOST_EDGES, start=start)
    if len(kept) == count:
        return kept, note
    if len(kept) < MOST_EDGES:
        return kept, f"{note}; {len(kept):,} of {count:,} lead to {'the logit' if start is None else start}"
    return kept, f"{note}; the strongest {len(kept):,} of {count:,} that hang together"


def _number(share: float) -> str:
    return f"{share:g}".replace("0.", ".", 1) if share < 1 else f"{share:g}"
