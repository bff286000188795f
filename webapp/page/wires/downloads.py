"""What can be taken away: the graph in every format, the numbers of each panel, the whole session."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import flask
from dash import Dash

from flowgraph.errors import ArgumentError, FlowgraphError, ModelNeededError
from flowgraph.render import shown_graph

from ...panels import PANELS, shown
from ...panels.kept_answer import KeptPicture, KeptQuestion
from ...present.errors import sentence
from ...recipe import LARGEST_LEVEL, Recipe, check_index, from_query
from ...server.asking import ask
from ...server.errors import Busy, NotYet, TimedOut
from ...server.run import RunQuestion
from ...server.service import Known
from ...server.turns import Turns
from ...session import Annotations
from ...session.codec import strict_json

if TYPE_CHECKING:
    from flowgraph import FlowGraph

    from ...server.service import Service

FORMATS = (
    ".svg", ".pdf", ".png", ".tex", ".html", ".json", ".graphml", ".gexf", ".gml", ".dot", ".csv", ".neuronpedia.json",
)  # fmt: skip
"""Endings of the files that a graph is offered as."""
NOTE = "Flowgraph-Note"
"""Header of a file's answer: a note that the page shows, percent-encoded."""
TESTED = "Flowgraph-Tested"
"""Header of a request: the test whose result the page shows beside the picture, ``{"keep", "corrupted"}`` as JSON, percent-encoded."""
_UNTESTED = "The file does not say how much of the answer the picture keeps: that is no longer kept here. Test the picture again, then export."
_PLAIN = re.compile(r"[^A-Za-z0-9]+")
_KINDS = {
    ".svg": "image/svg+xml", ".pdf": "application/pdf", ".png": "image/png", ".json": "application/json", ".csv": "text/csv",
}  # fmt: skip


class Exported(NamedTuple):
    """A file, its name, and what has to be said to who takes it; empty where nothing has."""

    data: bytes
    name: str
    note: str = ""


class Measured(NamedTuple):
    """A test of the picture: level of the slider, None where the graph opens, and the counterfactual prompts that were written."""

    keep: int | None
    corrupted: tuple[str, ...]


def register(app: Dash, service: Service) -> None:
    """Serve the files under ``export/``, each for the address that its query says; none of them starts a run."""
    turns = Turns()

    @app.server.get("/export/<name>")  # type: ignore[untyped-decorator]
    def export(name: str) -> flask.Response:
        try:
            recipe = from_query(flask.request.query_string.decode("ascii", "replace"))
            with turns.one():
                file = exported(service, recipe, name, _tested(flask.request.headers.get(TESTED, "")))
        except FlowgraphError as error:
            status = next((number for kind, number in _STATUS.items() if isinstance(error, kind)), 400)
            return flask.Response(f"{sentence(str(error))}\n", status=status, mimetype="text/plain")
        return _sent(file)


def _sent(file: Exported) -> flask.Response:
    kind = _KINDS.get(Path(file.name).suffix, "application/octet-stream")
    response = flask.send_file(io.BytesIO(file.data), mimetype=kind, as_attachment=True, download_name=file.name)
    response.headers[NOTE] = quote(file.note)
    return response


def _tested(header: str) -> Measured | None:
    """The test that a request names; None where it names none.

    Raises
    ------
    ArgumentError
        If it is not what the page sends.
    """
    if not header:
        return None
    said = strict_json(unquote(header).encode(), TESTED)
    keep, prompts = (said.get(name) for name in ("keep", "corrupted")) if isinstance(said, dict) else (None, None)
    if not isinstance(prompts, list) or not all(isinstance(text, str) for text in prompts):
        raise ArgumentError(f"{TESTED} names no test of this page; reload it")
    check_index("keep", keep, LARGEST_LEVEL)
    return Measured(keep, tuple(prompts))


def exported(service: Service, recipe: Recipe, name: str, tested: Measured | None = None) -> Exported:
    """A file of a view.

    Parameters
    ----------
    service
        What answers.
    recipe
        The view that is exported.
    name
        ``graph`` with one of :data:`FORMATS`, a panel with ``.csv``, or ``session.flowgraph``.
    tested
        The test of the picture whose result a graph's file says; None: the file says nothing of it.

    Raises
    ------
    NotYet
        If the page has not computed what the file holds; the message says what to do first.
    FlowgraphError
        If there is no such file, or its question has no answer.
    """
    stem, _, _ = name.partition(".")
    ending = name.removeprefix(stem)
    known, sheets = Known(service), {panel.name: panel for panel in PANELS}
    try:
        if stem == "graph" and ending in FORMATS:
            return _graph_file(known, recipe, ending, tested)
        if name == "session.flowgraph":
            data, why = service.session_file(recipe, Annotations(pins=recipe.pins))
            note = f"The session was saved without its trace: {why}." if why else ""
            return Exported(data, f"{_file_stem(recipe, 'session')}.flowgraph", note)
        if stem in sheets and ending == ".csv":
            run = ask(known, RunQuestion.of(recipe))
            table = sheets[stem].table(ask(known, sheets[stem].question(recipe, run)), run)
            return Exported(table.to_csv().encode("utf-8"), f"{_file_stem(recipe, stem)}.csv")
    except NotYet as error:
        raise NotYet(f"{name} cannot be made yet: {error}. {_first(stem, recipe)}.") from error
    raise ArgumentError(
        f"{name[:60]!r} is not a file of this page; there are graph{', graph'.join(FORMATS)}, {'.csv, '.join(sheets)}.csv and session.flowgraph"
    )


def _first(stem: str, recipe: Recipe) -> str:
    """What to do before a file can be made."""
    if any(stem == panel.name for panel in PANELS):
        return f"Open the panel “{stem}” in the page, wait until it is shown, and export again"
    if recipe.circuit != "none":
        return "Search the circuit in the page (Find the circuit), and export again"
    return "Trace the prompt in the page, wait until the picture is drawn, and export again"


_STATUS: Mapping[type[FlowgraphError], int] = {NotYet: 409, ModelNeededError: 409, Busy: 503, TimedOut: 503}
"""Errors whose request is all right, and may be answered later."""


def _graph_file(service: Known, recipe: Recipe, ending: str, tested: Measured | None) -> Exported:
    graph, note = shown_graph(shown(service, recipe).graph, recipe.keep), ""
    if tested is not None:
        found = _kept(service, recipe, tested, graph)
        graph, note = (graph, _UNTESTED) if found is None else (graph.with_faithfulness(found.statement()), "")
    with tempfile.TemporaryDirectory(prefix="flowgraph-") as folder:
        stem = _file_stem(recipe, _method(recipe))
        graph.save(Path(folder) / f"{stem}{ending}")
        files = sorted(Path(folder).iterdir())
        if len(files) == 1:
            return Exported(files[0].read_bytes(), files[0].name, note)
        return Exported(_zipped(files), f"{stem}{ending.replace('.', '-')}.zip", note)


def _kept(service: Known, recipe: Recipe, tested: Measured, graph: FlowGraph) -> KeptPicture | None:
    """What a test said of a picture; None where it is not known, or was of another one."""
    if recipe.circuit != "none":
        return None
    question = KeptQuestion.of(replace(recipe, keep=tested.keep))
    try:
        found = ask(service, replace(question, corrupted=tested.corrupted))
    except NotYet:
        return None
    # Levels between which no edge lies show the same picture.
    return found if len(shown_graph(shown(service, recipe).graph, tested.keep)) == len(graph) else None


def _method(recipe: Recipe) -> str:
    """How the graph was made, for its file's name."""
    if recipe.circuit == "none":
        return recipe.method
    return f"{recipe.circuit}-circuit" if recipe.task == "none" else f"{recipe.task}-{recipe.circuit}-circuit"


def _zipped(files: list[Path]) -> bytes:
    """Several files as one: a table's nodes, edges and metadata, a picture and its caption."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return data.getvalue()


def _file_stem(recipe: Recipe, what: str) -> str:
    """``smollm2-the-capital-of-japan-lens``: letters, digits and dashes only."""
    words = _PLAIN.sub("-", f"{Path(recipe.model).name} {recipe.text[:32]}").strip("-").lower()
    return f"{words or 'flowgraph'}-{what}"
