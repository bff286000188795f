"""The checked columns of a flow graph, and its nodes and edges as plain data.

Edges are columns of frozen arrays, so a filter is an index and nothing is copied twice. Direction is source → target,
earlier → later. ``weight`` is a method's number in its unit; ``share`` is the weight normalised over all edges into the
same target; *structural* edges exist in the model but have no number under the chosen method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from ..errors import ArgumentError
from .graph_info import GraphInfo
from .node import Node, label
from .note import NodeNote
from .reading import NodeReading

EdgeKind = Literal[
    "attention", "residual", "mlp_in", "mlp", "head", "unembed", "embed", "bias",
    "norm", "query", "key", "value", "attn", "neuron", "rest", "feature", "error", "mixer", "expert", "sink",
]  # fmt: skip
EDGE_KINDS: tuple[str, ...] = get_args(EdgeKind)
Unit = Literal["share", "norm", "logits", "attention", "activation", "contribution", "visit"]
UNITS: tuple[str, ...] = get_args(Unit)
"""Units of an edge's weight: a share of its target; a length; logits; an attention probability; an activation; the part of its
target that a vector makes up, ⟨part, whole⟩ / ⟨whole, whole⟩, which sums to 1 over all parts; a width as VISIT draws it, whose
scale differs from one kind of edge to another (:mod:`flowgraph.semantic.visit`)."""

Role = tuple[str, float]
"""Name of a role that a head has, and the score behind it."""

EDGE_COLUMNS = (
    "source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "structural",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class GraphColumns:
    """Nodes and weighted edges as columns; :class:`flowgraph.FlowGraph` says what each attribute holds.

    Functions of the numbers alone, such as :func:`flowgraph.mass`, take no more than this.
    """

    nodes: tuple[Node, ...]
    source: Int[np.ndarray, "E"]
    target: Int[np.ndarray, "E"]
    kind: Int[np.ndarray, "E"]
    layer: Int[np.ndarray, "E"]
    head: Int[np.ndarray, "E"]
    query_pos: Int[np.ndarray, "E"]
    key_pos: Int[np.ndarray, "E"]
    weight: Float[np.ndarray, "E"]
    share: Float[np.ndarray, "E"]
    structural: Bool[np.ndarray, "E"]
    info: GraphInfo
    readings: tuple[NodeReading | None, ...] = ()
    undefined: tuple[Node, ...] = ()
    unit: Int[np.ndarray, "E"] | None = None
    roles: tuple[tuple[Role, ...], ...] = ()
    notes: tuple[NodeNote | None, ...] = ()
    flow: Float[np.ndarray, "E"] | None = None

    def __post_init__(self) -> None:
        for name in EDGE_COLUMNS:
            column = getattr(self, name)
            if column.shape != self.source.shape:
                raise ArgumentError(f"FlowGraph.{name} has shape {column.shape}; source has {self.source.shape}")
            # Graphs may share columns, so a write to one would change others.
            column.setflags(write=False)
        if len(set(self.nodes)) != len(self.nodes):
            raise ArgumentError("FlowGraph.nodes holds the same node twice")
        if self.readings and len(self.readings) != len(self.nodes):
            raise ArgumentError(f"FlowGraph.readings has {len(self.readings)} rows for {len(self.nodes)} nodes")
        if self.notes and len(self.notes) != len(self.nodes):
            raise ArgumentError(f"FlowGraph.notes has {len(self.notes)} rows for {len(self.nodes)} nodes")
        self._check_roles()
        ends, kinds = len(self.nodes), len(EDGE_KINDS)
        for name, size in (("source", ends), ("target", ends), ("kind", kinds), ("unit", len(UNITS))):
            column = getattr(self, name)
            if column is None:
                continue
            if column.shape != self.source.shape:
                raise ArgumentError(f"FlowGraph.{name} has shape {column.shape}; source has {self.source.shape}")
            if column.size and (column.min() < 0 or column.max() >= size):
                raise ArgumentError(f"FlowGraph.{name} must lie in 0…{size - 1}, got {column.min()}…{column.max()}")
        for name in ("weight", "share"):
            if not np.isfinite(getattr(self, name)).all():
                raise ArgumentError(f"FlowGraph.{name} holds numbers that are not finite")
        if self.flow is not None:
            self._check_flow(self.flow)

    def _check_flow(self, flow: Float[np.ndarray, "E"]) -> None:
        if flow.shape != self.source.shape:
            raise ArgumentError(f"FlowGraph.flow has shape {flow.shape}; source has {self.source.shape}")
        if not (np.isfinite(flow).all() and (flow >= 0).all()):
            raise ArgumentError("FlowGraph.flow holds numbers that are not finite or below 0")
        total = self.info.total_flow
        # The sum of the flow may differ from the whole in its last digits.
        if total is None or not math.isfinite(total) or flow.sum() > total * (1 + 1e-6) + 1e-300:
            raise ArgumentError(
                f"FlowGraph.flow sums to {flow.sum():.6g}, more than info.total_flow={total}, the whole"
            )
        flow.setflags(write=False)

    def _check_roles(self) -> None:
        if self.roles and len(self.roles) != len(self.nodes):
            raise ArgumentError(f"FlowGraph.roles has {len(self.roles)} rows for {len(self.nodes)} nodes")
        for node, roles in zip(self.nodes, self.roles, strict=False):
            if roles and node.kind != "head":
                raise ArgumentError(f"FlowGraph.roles has roles of {node}, which is no head; expected none")
            if len({name for name, _ in roles}) != len(roles):
                raise ArgumentError(f"FlowGraph.roles has a role of {node} twice; expected each once")
            if not all(math.isfinite(score) for _, score in roles):
                raise ArgumentError(f"FlowGraph.roles has scores of {node} that are not finite")

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.source)

    @property
    def shown_share(self) -> float:
        """Σ|share| of the edges here divided by Σ|share| of all edges of the method; between 0 and 1."""
        total = self.info.total_share
        return float(np.abs(self.share).sum() / total) if total else 0.0

    def chosen(
        self, edges: Bool[np.ndarray, "E"] | Int[np.ndarray, "e"] | Sequence[int], argument: str = "edges"
    ) -> Int[np.ndarray, "e"]:
        """Indices of some edges, in the order that was given; those that count from the end are resolved.

        Raises
        ------
        ArgumentError
            If they are neither a mask of all edges nor indices of some, each once; the message calls them ``argument``.
        """
        wanted = f"a mask of {len(self):,} booleans, or indices of edges, each once"
        try:
            given = np.asarray(edges)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{argument} is no array of one type; expected {wanted}") from error
        if given.ndim != 1:
            what = f"{edges!r:.60}" if given.ndim == 0 else f"an array of shape {given.shape}"
            raise ArgumentError(f"{argument} is {what}; expected {wanted}")
        # An empty list is an array of floats to NumPy.
        if not given.size and given.dtype != bool:
            return np.zeros(0, dtype=np.int64)
        if given.dtype == bool:
            if len(given) != len(self):
                raise ArgumentError(
                    f"{argument} is a mask of {len(given):,} booleans; the graph has {len(self):,} edges"
                )
            return np.flatnonzero(given)
        if not np.issubdtype(given.dtype, np.integer):
            raise ArgumentError(
                f"{argument} holds values of type {given.dtype}, such as {given[0]!r:.40}; expected {wanted}"
            )
        outside = given[(given < -len(self)) | (given >= len(self))]
        if len(outside):
            within = f"-{len(self)}…{len(self) - 1}" if len(self) else "none, as the graph has no edge"
            raise ArgumentError(f"{argument} holds {outside[0]}; expected indices of edges: {within}")
        found = np.where(given < 0, given + len(self), given).astype(np.int64)
        numbers, counts = np.unique(found, return_counts=True)
        if (counts > 1).any():
            twice = int(np.argmax(counts > 1))
            raise ArgumentError(
                f"{argument} holds edge {numbers[twice]} {counts[twice]} times; expected each edge once"
            )
        return found

    def unit_of(self, e: int) -> str:
        """Unit of the weight of edge ``e``."""
        return self.info.unit if self.unit is None else UNITS[self.unit[e]]

    def node_dict(self, n: int) -> dict[str, Any]:
        """Attributes of node ``n`` as plain data."""
        node = self.nodes[n]
        data: dict[str, Any] = {
            "kind": node.kind,
            "layer": node.layer,
            "head": node.head,
            "position": node.position,
            "index": node.index,
            "label": label(node),
        }
        if node.stack is not None:
            data["stack"] = node.stack
        tokens = self.info.tokens_of(node.stack)
        if node.position is not None and node.position < len(tokens):
            data["token"] = tokens[node.position]
        elif node.token is not None:
            data["token"] = node.token
        reading = self.readings[n] if self.readings else None
        if reading is not None:
            data |= reading.to_dict()
        if self.roles and node.kind == "head":
            data["roles"] = dict(self.roles[n])
        note = self.notes[n] if self.notes else None
        if note is not None:
            # A field of the file never overwrites a fact of the node.
            data = {**data, **{name: value for name, value in note.shown().items() if name not in data}}
            data["note"] = dict(note.fields)
        return data

    def edge_dict(self, e: int) -> dict[str, Any]:
        """Attributes of edge ``e`` as plain data."""
        structural = bool(self.structural[e])
        flow = {} if self.flow is None else {"flow": float(self.flow[e])}
        return {
            "kind": EDGE_KINDS[self.kind[e]],
            **{name: _index(getattr(self, name)[e]) for name in ("layer", "head", "query_pos", "key_pos")},
            "weight": None if structural else float(self.weight[e]),
            "share": None if structural else float(self.share[e]),
            "unit": self.unit_of(e),
            **flow,
        }


def _index(value: np.integer[Any]) -> int | None:
    return None if value < 0 else int(value)
