"""Tests of what is shown: the run once more, with a part of it set to zero."""

from __future__ import annotations

from dataclasses import fields

import flowgraph
from flowgraph import Effect, FlowGraph, Node, PatternEdit, Trace
from flowgraph.errors import ArgumentError
from flowgraph.render import shown_graph

from ..server.answers import Ablation
from ..server.questions import AblateQuestion, FaithfulQuestion, GraphQuestion
from ..server.traces import Check, Traces
from .discovery import reporting
from .graphs import graph

_KEPT = "The other keys keep their attention."


def ablate(traces: Traces, question: AblateQuestion, check: Check) -> Ablation:
    """The answer without one part of the run."""
    trace = traces.trace(question.run, check)
    node, source = question.node, question.source
    if source is None:
        return _said(trace, _effect(trace, node, check), str(node), "")
    if source >= len(trace.tokens):
        raise ArgumentError(f"source={source} is outside this run of {len(trace.tokens)} tokens")
    entry = PatternEdit(node.layer or 0, node.head, node.position, source)
    return _said(trace, _effect(trace, entry, check), f"what {node} reads at {source}", _KEPT)


def faithful(traces: Traces, question: FaithfulQuestion, check: Check) -> Ablation:
    """The answer with nothing left but what the graph shows, and the residual stream."""
    if question.show not in ("all", "routes") or traces.weights(question.run, question.method, check).ends_in_logit:
        raise ArgumentError(
            "what can be tested are edges from state to state: choose the method attention, norms, proximity or ff, and show "
            "routes or all edges"
        )
    if question.start is not None:
        raise ArgumentError(
            f"this graph shows what reaches {question.start}, and the test is of the logit; go back to the logit first"
        )
    asked = GraphQuestion(**{item.name: getattr(question, item.name) for item in fields(GraphQuestion)})
    shown = shown_graph(graph(traces, asked, check).graph, question.keep)
    trace = traces.trace(question.run, check)
    effect = _effect(trace, shown, check, outside=True)
    return _said(trace, effect, "all but what is shown", _left(shown))


def _effect(trace: Trace, what: Node | PatternEdit | FlowGraph, check: Check, *, outside: bool = False) -> Effect:
    progress, cancel = reporting(check, "measuring the change")
    return flowgraph.ablate(trace.model, trace, what, outside=outside, progress=progress, cancel=cancel)


def _said(trace: Trace, effect: Effect, what: str, note: str) -> Ablation:
    assert trace.target_token is not None  # a model without a head was refused by the intervention
    return Ablation(what, trace.target_token, trace.foil_token, "logits", effect.mean_before, effect.mean_after, note)


def _left(shown: FlowGraph) -> str:
    has_mlps = any(node.kind == "mlp" for node in shown.nodes)
    left = f"{len(shown):,} edges and the residual stream are left."
    return left if has_mlps else f"{left} No MLP is shown, so all of them are out."
