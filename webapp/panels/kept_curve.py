"""How much of the answer the slider's pictures keep, over its levels: few first, more while somebody looks, and what chance keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import flowgraph
from flowgraph import FlowGraph
from flowgraph.errors import ArgumentError, FlowgraphError
from flowgraph.render import drawing, shown_graph

from ..present.errors import sentence
from ..present.ids import Id
from ..present.wiring import Ticket
from ..recipe import from_query
from ..registered import POSTED
from ..server.asking import ask
from ..server.errors import Cancelled
from ..server.question import recorded, require
from ..server.traces import Check, Traces, reporting
from .flow import OfGraph
from .kept_answer import LEAST_GAP, against, asked_answer, check_corrupted, prompts_of, tested_graph

if TYPE_CHECKING:
    from dash import Dash

    from ..server.service import Service

MOST_POINTS, MOST_RANDOM = 64, 8
_SMALLEST = 200
"""The smallest picture that is measured has this part of the edges, in whole ones."""


@dataclass(frozen=True)
class KeptCurve:
    """What the slider's pictures keep.

    Attributes
    ----------
    levels, edges
        Levels of the slider, ascending, and the edges that it shows there.
    f
        Part of the answer that each picture keeps, not clipped.
    random
        What pictures of as many parts anywhere keep; empty where none was drawn.
    against
        The words that stand in the counterfactual prompts.
    """

    levels: tuple[int, ...]
    edges: tuple[int, ...]
    f: tuple[float, ...]
    random: tuple[float, ...]
    against: str

    def __post_init__(self) -> None:
        require(len(self.levels) == len(self.edges) == len(self.f), "KeptCurve has columns of other lengths")
        require(len(self.random) in (0, len(self.f)), "KeptCurve.random is of other sizes")


@recorded
@dataclass(frozen=True)
class CurveQuestion(OfGraph[KeptCurve]):
    """How much of the answer the slider's pictures keep.

    Attributes
    ----------
    corrupted
        Counterfactual prompts; empty: up to three that are proposed.
    points
        How many pictures, at most.
    random
        Pictures by chance at each size.
    """

    corrupted: tuple[str, ...] = ()
    points: int = 8
    random: int = 0

    long = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_corrupted(self.corrupted)
        for name, least, most in (("points", 1, MOST_POINTS), ("random", 0, MOST_RANDOM)):
            if not least <= getattr(self, name) <= most:
                raise ArgumentError(f"{name}={getattr(self, name)} cannot be used; expected {least} to {most}")

    def answer(self, traces: Traces, check: Check) -> KeptCurve:
        """What each picture keeps."""
        trace, graph = tested_graph(self, traces, check)
        _, prompts = prompts_of(self.run, self.corrupted, trace, traces, check)
        levels = levels_of(graph, self.points)
        progress, cancel = reporting(check, "testing pictures")
        found = flowgraph.faithfulness_curve(
            trace.model, trace, [shown_graph(graph, level) for level in levels], corrupted=prompts, target=asked_answer(self.corrupted, trace),
            random=self.random, least_gap=LEAST_GAP, progress=progress, cancel=cancel,
        )  # fmt: skip
        random = () if found.random is None else tuple(found.random.tolist())
        return KeptCurve(
            tuple(levels), tuple(found.edges.tolist()), tuple(found.f.tolist()), random, against(found.counterfactuals)
        )


def levels_of(graph: FlowGraph, points: int) -> list[int]:
    """Levels of the slider whose pictures have numbers of edges that are spread evenly over their logarithm."""
    ranked = np.sort(drawing(graph).level)
    counts = np.geomspace(max(1, len(ranked) / _SMALLEST), len(ranked), points).round().astype(int)
    return sorted({int(ranked[count - 1]) for count in counts})


class _Wanted(Ticket):
    corrupted: list[str]
    points: int
    random: int


POSTED.add(f"{Id.PICTURE}.curve_wanted", _Wanted | None)


def wires(app: Dash, service: Service) -> None:
    """Connect the callback that measures a curve."""
    from dash import Input, Output

    @app.callback(Output(Id.PICTURE, "curve"), Input(Id.PICTURE, "curve_wanted"), prevent_initial_call=True)
    def measure(ticket: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if ticket is None else measured(service, ticket)


def measured(service: Service, ticket: dict[str, Any]) -> dict[str, Any] | None:
    """The curve that a ticket asks for, or why there is none; None where it was taken back."""
    if ticket["previous"]:
        service.cancel(ticket["previous"])
    if not ticket["points"]:
        return None
    try:
        question = replace(
            CurveQuestion.of(from_query(ticket["search"])),
            corrupted=tuple(ticket["corrupted"]), points=ticket["points"], random=ticket["random"],
        )  # fmt: skip
        found = ask(service, question, ticket["id"])
    except Cancelled:
        return None
    except FlowgraphError as error:
        return {"ticket": ticket["id"], "problem": sentence(str(error))}
    return {
        "ticket": ticket["id"], "levels": list(found.levels), "edges": list(found.edges), "f": list(found.f), "random": list(found.random), "against": found.against,
    }  # fmt: skip
