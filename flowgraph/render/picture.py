"""The picture of the app from Python: the same recipe gives the same graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..algorithms.picture_edges import picture_edges
from ..errors import ArgumentError
from ..methods.node_readings import node_readings
from ..methods.weigh import edge_weights
from ..models import LoadedModel, load_model
from ..tracing import trace as run
from ..values.flow_graph import FlowGraph
from ..values.node import Node
from ..values.node_key import node_key, parse_node
from ..values.recipe import PictureRecipe
from ..values.trace import Trace
from .scene.elements import shown_graph

_OF_PASS = ("model", "text", "chat")


def picture(of: Trace | PictureRecipe | str, *, loaded: LoadedModel | None = None, **recipe: Any) -> FlowGraph:
    """Make the flow graph that the app shows: the same nodes, edges, weights and readings.

    ``graph.show()`` opens it as the app does, with the same slider.

    Parameters
    ----------
    of
        A trace; or an address of the app, from which the model is loaded and run; or the recipe of one.
    loaded
        The model of an address or a recipe, where it is loaded already.
    **recipe
        Fields of :class:`PictureRecipe`; of an address or a recipe, those that are to be another. ``start`` may be a node, ``target``
        and ``foil`` a token's text, ``heads_in`` and ``layers`` lists. Of a trace its model, text and position stand.

    Returns
    -------
    The graph: at most 3,000 edges, those that hang together with the start. With ``keep``, of these what the slider shows at that
    level.

    Raises
    ------
    ArgumentError
        If a field is not known or cannot be used, the method does not have what is asked for, or the address shows a circuit.
    PromptError
        If an address or a recipe has no text.
    ModelNeededError
        If the trace has no model, and the method was not recorded.

    Examples
    --------
    >>> graph = fg.picture(trace, method="proximity", heads_in=[23], threshold=0.05)
    >>> sorted({node.layer for node in graph.nodes if node.kind == "head"})
    [23]
    >>> same = fg.picture("?text=The%20capital%20of%20Japan%20is%20the%20city%20of&heads_in=23&threshold=0.05")
    >>> same.nodes == graph.nodes
    True
    """
    if isinstance(of, Trace):
        trace, asked = _of_trace(of, recipe, loaded)
    else:
        trace, asked = _of_recipe(of, recipe, loaded)
    weights = edge_weights(trace, method=asked.method)
    if asked.layers is not None:
        weights = weights.window(*asked.layers)
    graph, _ = picture_edges(
        weights,
        show=asked.show,
        level=asked.level,
        # At the level of heads every layer is shown as its heads.
        heads_in=asked.heads_in if asked.level == "token" else (),
        # Rollout and flow are of the whole matrix and know no threshold.
        threshold=float(asked.threshold) if asked.show in ("all", "routes") else 0.0,
        start=None if asked.start is None else parse_node(asked.start),
    )
    graph = graph.with_readings(node_readings(trace, graph.nodes))
    return graph if asked.keep is None else shown_graph(graph, asked.keep)


def _of_trace(trace: Trace, given: Mapping[str, Any], loaded: LoadedModel | None) -> tuple[Trace, PictureRecipe]:
    fixed = [name for name in _OF_PASS if name in given]
    if fixed or loaded is not None:
        raise ArgumentError(
            f"{fixed[0] if fixed else 'loaded'}= is what the trace was made of; leave it out, or give the address or the recipe"
        )
    position = given.get("position")
    if position is not None and position != trace.position:
        raise ArgumentError(
            f"position={position!r}, but this trace explains position {trace.position}; trace again with position={position!r}"
        )
    aims = {name: given[name] for name in ("target", "foil") if given.get(name) is not None}
    others = {name: value for name, value in given.items() if name not in ("position", "target", "foil")}
    return trace.aimed_at(**aims) if aims else trace, _changed(PictureRecipe(), others)


def _of_recipe(
    of: PictureRecipe | str, given: Mapping[str, Any], loaded: LoadedModel | None
) -> tuple[Trace, PictureRecipe]:
    recipe = PictureRecipe.from_address(of) if isinstance(of, str) else of
    if not isinstance(recipe, PictureRecipe):
        raise ArgumentError(
            f"of is a {type(of).__name__}; expected a trace, an address of the app (a text) or a PictureRecipe"
        )
    aims = {name: given.get(name, getattr(recipe, name)) for name in ("target", "foil")}
    recipe = _changed(recipe, {name: value for name, value in given.items() if name not in aims})
    made: Trace = run(
        load_model(recipe.model) if loaded is None else loaded, recipe.text, position=recipe.position, chat=recipe.chat
    )
    aims = {name: value for name, value in aims.items() if value is not None}
    return made.aimed_at(**aims) if aims else made, recipe


def _changed(recipe: PictureRecipe, given: Mapping[str, Any]) -> PictureRecipe:
    """The recipe with some fields changed, written as the address has them."""
    known = PictureRecipe.__dataclass_fields__
    for name in given:
        if name not in known:
            raise ArgumentError(f"{name}= is no field of a picture; the fields are {', '.join(known)}")
    changes: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | range) else value for name, value in given.items()
    }
    if isinstance(changes.get("start"), Node):
        changes["start"] = node_key(changes["start"])
    return replace(recipe, **changes)
