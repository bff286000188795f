"""Recorded files: a session as it is, a trace as a session, whose page answers what the file of a pass holds, without the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowgraph
from flowgraph import DEFAULT_METHOD, EDGE_METHODS, Trace
from flowgraph.errors import FileFormatError

from ..recipe import LONGEST_TEXT, Recipe
from ..server.question import Question
from ..server.run import Prediction, Run, RunQuestion
from ..server.traces import Check, Traces
from ..session import Annotations, Session
from ..session.archive import LARGEST_FILE
from ..session.container import LARGEST_TRACE, holds_session
from .attention_pattern import Attention, AttentionQuestion
from .flow import GraphAnswer, GraphQuestion
from .heads import HeadsQuestion, heads_answer
from .lens import LensQuestion

if TYPE_CHECKING:
    from ..server.service import Service


@dataclass(frozen=True)
class OpenQuestion(Question[Session]):
    """The session of a trace's file, which the worker reads: a process that holds torch, and that may be ended.

    Attributes
    ----------
    path
        The file, on this machine.
    title
        What it is called, in the page and in messages.
    """

    path: str
    title: str
    kept = False

    def answer(self, traces: Traces, check: Check) -> Session:  # noqa: ARG002  no model is asked
        """What the file holds."""
        check("reading the trace", None)
        try:
            trace = Trace.load(self.path)
        except FileFormatError as error:
            raise FileFormatError(str(error).replace(repr(self.path), repr(self.title[:200]))) from error
        check("drawing what was recorded", None)
        return session_of_trace(trace, self.title)


def open_recorded_file(service: Service, path: Path, title: str) -> Session:
    """Open a session or a trace, which may come from anywhere; nothing in it is run.

    Parameters
    ----------
    service
        Where it is opened.
    path
        The file.
    title
        What to call it.

    Raises
    ------
    FileFormatError
        If it is neither, or anything in it is not what it should be.
    """
    with path.open("rb") as file:
        is_session = holds_session(file)
        file.seek(0)
        data = file.read(LARGEST_FILE + 1)
    if is_session:
        return service.open_session(data)
    session = service.ask(OpenQuestion(str(path), title))
    return service.add_session(replace(session, trace=data if len(data) <= LARGEST_TRACE else b""))


def session_of_trace(trace: Trace, title: str = "") -> Session:
    """A session of what a trace holds: its graphs of every recorded method, its attention, its lens and scores of heads.

    Parameters
    ----------
    trace
        As :meth:`flowgraph.Trace.load` gives it; what :meth:`flowgraph.Trace.record` added is answered, and what needs no model.
    title
        What to call it.
    """
    methods = [method for method in (DEFAULT_METHOD, *EDGE_METHODS) if method in trace.recorded_weights]
    recipe = _recipe(trace, methods)
    # Attention depends on no target, so that it is of the same pass without one.
    plain = replace(recipe, target=None, foil=None)
    run = _run(trace)
    answers: dict[Question[Any], Any] = {RunQuestion.of(recipe): run, RunQuestion.of(plain): run}
    for method in dict.fromkeys(methods):
        answers |= _graphs(trace, replace(recipe, method=method))
    if "resid_post" in trace.recorded_readings:
        reading = trace.recorded_readings["resid_post"]
        answers[LensQuestion.of(recipe)] = reading.named(
            ("layer", "position"), first_layer=trace.layers[0], prompt_tokens=trace.tokens
        )
    if "pattern" in trace.sites:
        for layer in range(*trace.layers):
            pattern = trace.pattern[layer - trace.layers[0]].float().cpu().numpy()
            answers[AttentionQuestion.of(plain, layer)] = Attention(layer, pattern)
        answers[HeadsQuestion.of(recipe)] = heads_answer(flowgraph.head_scores(trace))
    return Session(title[:200], recipe, Annotations(), answers)


def _graphs(trace: Trace, recipe: Recipe) -> dict[Question[Any], Any]:
    """The graphs that a recorded method gives."""
    weights = flowgraph.edge_weights(trace, method=recipe.method)
    found: dict[Question[Any], Any] = {}
    for asked in (recipe, replace(recipe, show="all"), replace(recipe, level="head")):
        if asked.level == "head" and weights.heads_together:
            continue
        graph, note = flowgraph.picture_edges(weights, show=asked.show, level=asked.level)
        found[GraphQuestion.of(asked)] = GraphAnswer(
            graph.with_readings(flowgraph.node_readings(trace, graph.nodes)), note
        )
    return found


def _recipe(trace: Trace, methods: list[str]) -> Recipe:
    name = "".join(character for character in trace.model_name if character.isprintable())[:400]
    between = "" if trace.axis.kind == "token" else " "
    text = trace.prompt if trace.prompt is not None else between.join(trace.tokens)
    # Half a surrogate pair, as a token may be, cannot stand in an address.
    text = text.encode("utf-8", "replace").decode()[:LONGEST_TEXT]
    return Recipe(
        model=name or "unknown",
        text=text or "?",
        method=methods[0] if methods else DEFAULT_METHOD,
        position=trace.position,
        target=trace.target,
        foil=trace.foil,
    )


def _run(trace: Trace) -> Run:
    same = ("family", "prompt", "tokens", "position", "n_layers", "n_heads", "layers", "causal", "target", "target_token", "foil",
            "foil_token")  # fmt: skip
    return Run(
        model=trace.model_name,
        **{name: getattr(trace, name) for name in same},
        # Without ids it is answered from the file alone, as a graph file is: another run might have other tokens.
        token_ids=(),
        predictions=_predictions(trace),
        has_head=trace.logits is not None,
        has_attribution=False,
        seconds=0.0,
        is_text=trace.axis.kind == "token" and all(one.axis.kind == "token" for one in trace.stacks.values()),
    )


def _predictions(trace: Trace) -> tuple[Prediction, ...]:
    """Of the target and the foil; the texts of other tokens are the model's."""
    if trace.logits is None:
        return ()
    row: Any = (trace.logits if trace.logits.ndim == 1 else trace.logits[trace.position]).double()
    probabilities = row.softmax(-1)
    return tuple(
        Prediction(token, text, float(probabilities[token]), float(row[token]))
        for token, text in ((trace.target, trace.target_token), (trace.foil, trace.foil_token))
        if token is not None and text is not None
    )
