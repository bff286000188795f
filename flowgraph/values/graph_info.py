"""The origin of a graph: model, prompt, method, filters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

DEFAULT_METHOD: Final = "proximity"
"""The edge method of Python, the command line and the app, unless another is asked for."""

UNNAMED: Final = "unknown"
"""``GraphInfo.model`` of a file that names no model."""

EFFECT: Final = "effect"
"""Method of a graph whose parts were chosen for what they do to the answer; its numbers are effects, and no flow."""

KEPT: Final = "kept"
"""Entry of ``GraphInfo.provenance`` with what was measured of a picture: how much of the answer it keeps."""

Whole = Literal["method", "file", "shares"]


@dataclass(frozen=True)
class StackInfo:
    """A stack beside the last one, of an encoder–decoder.

    Attributes
    ----------
    name
        ``"encoder"``.
    tokens
        [position] its decoded tokens.
    layers
        How many layers it has.
    """

    name: str
    tokens: tuple[str, ...]
    layers: int


@dataclass(frozen=True)
class GraphInfo:
    """The origin of a graph, with all facts for its caption.

    Attributes
    ----------
    method, unit
        Edge method, and the unit of ``weight``.
    level
        ``"token"`` (heads summed) or ``"head"``.
    model
        Name of the model.
    tokens
        [T] decoded tokens of the prompt.
    layers
        First and one-past-last layer in the graph; ``total_layers`` is how many the model has.
    position
        The query position that the target belongs to.
    target, target_token, foil, foil_token
        Token ids and strings; None where the model has no head.
    options
        Options of the method that were set: ``{"parts": "token"}``.
    target_probability
        The model's own probability of the target at ``position``; None without a head.
    total_edges, total_share
        Number of weighted edges before filtering, and Σ|share| of them.
    filters
        Filters of the graph: ``threshold``, ``nucleus``, ``path_mass``, ``max_edges`` …, in the order of application.
    outside
        Another program's entries about the whole graph, plain JSON as it was read; empty for graphs of this project. Those of an
        attribution graph are ``metadata`` and ``qParams``, with its pins and groups of nodes (``supernodes``).
    provenance
        All that is needed to make the graph again: ``config`` and ``weights``, digests of the model's, its ``revision`` if one was
        given, ``dtype``, ``token_ids`` of the prompt, versions of ``flowgraph``, ``torch`` and ``transformers``, and ``made_by``,
        the call or the command line; ``kept``, what was measured of the picture by :func:`flowgraph.graph_faithfulness`. Empty if it
        is not known, as for files of earlier releases.
    flow_into, total_flow
        Label of the node that ``FlowGraph.flow`` runs into, and the sum of that flow over every edge of the whole graph, with the
        edges that a filter took away. None while no edge was taken away and nothing was summed.
    whole
        The edges that ``total_flow`` sums over. ``"method"``: every edge that the method gives within ``layers``. ``"file"``: the
        edges of the file that the graph was read from, if no more are known. ``"shares"``: the edges of the file do not all flow
        into one node, so ``total_share`` takes the place of the flow.
    stacks
        The other stacks of the pass, in the order of time; empty for one stack. Everything else here is about the last one.
    """

    method: str
    unit: str
    level: str
    model: str
    tokens: tuple[str, ...]
    layers: tuple[int, int]
    total_layers: int
    position: int
    total_edges: int
    total_share: float
    target: int | None = None
    target_token: str | None = None
    target_probability: float | None = None
    foil: int | None = None
    foil_token: str | None = None
    filters: Mapping[str, float | int | str] = field(default_factory=dict)
    options: Mapping[str, float | int | str] = field(default_factory=dict)
    outside: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    flow_into: str | None = None
    total_flow: float | None = None
    whole: Whole = "method"
    stacks: tuple[StackInfo, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether all positions are tokens of a text, which another pass can read; False of images and sounds, True if it is not known."""
        reads_more = any(name.endswith("_reads") for name in self.provenance)
        return not reads_more and not (self.tokens and self.provenance.get("token_ids") == [])

    def tokens_of(self, stack: str | None) -> tuple[str, ...]:
        """[position] the tokens of a stack; None is the last one. Empty for a stack that is not there."""
        if stack is None:
            return self.tokens
        return next((one.tokens for one in self.stacks if one.name == stack), ())

    def column(self, stack: str | None, position: int) -> int:
        """Number of a position of a stack among those of all stacks, in the order of time."""
        first = 0
        for one in self.stacks:
            if one.name == stack:
                return first + position
            first += len(one.tokens)
        return first + position

    def at_column(self, column: int) -> tuple[str | None, int]:
        """Stack and position of a number that :meth:`column` gave."""
        for one in self.stacks:
            if column < len(one.tokens):
                return one.name, column
            column -= len(one.tokens)
        return None, column

    @property
    def method_text(self) -> str:
        """The method with the options that were set: ``proximity, parts=token``."""
        return ", ".join([self.method, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def provenance_text(self) -> str:
        """One line that names the model's digests, versions, token ids and the call; empty where nothing is known."""
        known = {name: value for name, value in self.provenance.items() if value not in (None, "") and name != KEPT}
        return "; ".join(
            f"{name.replace('_', ' ')} {' '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in known.items()
        )


def info_dict(info: GraphInfo) -> dict[str, Any]:
    """Plain data of a graph's origin."""
    data = {name: getattr(info, name) for name in GraphInfo.__dataclass_fields__}
    data.update(
        provenance=dict(info.provenance),
        tokens=list(info.tokens),
        layers=list(info.layers),
        filters=dict(info.filters),
        options=dict(info.options),
    )
    if info.stacks:
        data["stacks"] = [{"name": one.name, "tokens": list(one.tokens), "layers": one.layers} for one in info.stacks]
    else:
        del data["stacks"]
    # Graphs of this project have nothing outside; files then stay as other programs expect them.
    if info.outside:
        return data | {"outside": dict(info.outside)}
    del data["outside"]
    return data
