"""The sparse flow graph: nodes of the forward pass, edges with a weight, a share and a unit.

Edges are columns of frozen arrays, so a filter is an index and nothing is copied twice. Direction is source → target,
earlier → later. ``weight`` is a method's number in its unit; ``share`` is the weight normalised over what enters the
same target; *structural* edges exist in the model but have no number under the chosen method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from .errors import ArgumentError
from .graph_info import GraphInfo, info_dict
from .nodes import Node, label
from .notes import NodeNote
from .reading import NodeReading
from .table import columns_of, data_frame

if TYPE_CHECKING:
    import networkx
    import pandas  # type: ignore[import-untyped, unused-ignore]

    from .masses import Measured
    from .views.explain import Explanation
    from .views.widget import FlowWidget

EdgeKind = Literal[
    "attention", "residual", "mlp_in", "mlp", "head", "unembed", "embed", "bias",
    "norm", "query", "key", "value", "attn", "neuron", "rest", "feature", "error",
]  # fmt: skip
EDGE_KINDS: tuple[str, ...] = get_args(EdgeKind)
Unit = Literal["share", "norm", "logits", "attention", "activation", "contribution", "visit"]
UNITS: tuple[str, ...] = get_args(Unit)
"""What an edge's weight can be: a share of its target; a length; logits; an attention probability; an activation; the part of
its target that a vector makes up, ⟨part, whole⟩ / ⟨whole, whole⟩, which sums to 1 over all parts; a width as VISIT draws it,
whose scale differs from one kind of edge to another (:mod:`flowgraph.semantic.visit`)."""


Role = tuple[str, float]
"""Name of a role that a head has, and the score behind it."""


@runtime_checkable
class Roles(Protocol):
    """Roles of a model's heads, as :class:`flowgraph.HeadRoles` has them."""

    @property
    def model(self) -> str:
        """Name of the model."""

    def of(self, node: Node) -> Mapping[str, float]:
        """Role → the score behind it."""


@dataclass(frozen=True, eq=False)
class FlowGraph:
    """Nodes and weighted edges extracted from dense edge weights.

    Attributes
    ----------
    nodes
        [N] nodes; edges refer to them by index.
    source, target
        [E] indices into ``nodes``.
    kind
        [E] indices into :data:`EDGE_KINDS`.
    layer, head, query_pos, key_pos
        [E] where the edge lives in the model; −1 stands for None.
    weight, share
        [E] the method's number in ``info.unit``, and its signed share of what enters the target; both 0 on
        structural edges.
    structural
        [E] True where the method gives the edge no number.
    info
        Where the graph comes from.
    readings
        [N] reading of each node, None where it has none; empty when nothing was read.
    unit
        [E] indices into :data:`UNITS`, where edges differ in unit; None: all are in ``info.unit``. Shares are then of what
        enters the same target in the same unit.
    undefined
        Nodes whose incoming shares are not defined by the method's own formula and follow its stated substitute.
    roles
        [N] roles of each node, each with the score behind it, as :meth:`with_roles` sets them; only heads have any. Empty
        when none were asked for.
    notes
        [N] what the file of another program says of each node, None where it says nothing; empty for graphs of this project.
    flow
        [E] flow of each edge into ``info.flow_into`` along the whole graph that this one is cut from, which ``info.total_flow``
        sums up; 0 on structural edges. None: not cut yet, and not asked for. See :func:`flowgraph.mass`.

    Raises
    ------
    ArgumentError
        If the columns differ in length, an edge points nowhere, a number is not finite, a node occurs twice, or anything but a
        head has roles.
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

    def __repr__(self) -> str:
        from .views.caption import mass_of, percent

        return (
            f"FlowGraph({self.info.method!r}, level={self.info.level!r}, {len(self.nodes):,} nodes, "
            f"{len(self):,} edges, {percent(self.kept_mass)} {mass_of(self)})"
        )

    @property
    def measured(self) -> Measured:
        """How the mass of the edges is measured, worked out once."""
        from .masses import measured

        return measured(self)

    @property
    def kept_mass(self) -> float:
        """Part of the method's whole flow into the explained position that the edges hold, 0…1: :func:`flowgraph.mass`."""
        from .masses import mass

        return mass(self)

    @property
    def shown_share(self) -> float:
        """Σ|share| of the edges here divided by Σ|share| of all edges of the method; between 0 and 1."""
        total = self.info.total_share
        return float(np.abs(self.share).sum() / total) if total else 0.0

    def keep(
        self, edges: Bool[np.ndarray, "E"] | Int[np.ndarray, "e"] | Sequence[int], **filters: float | int | str
    ) -> FlowGraph:
        """The graph of some of its edges and the nodes they touch.

        Parameters
        ----------
        edges
            Mask or indices of the edges to keep; their order is kept.
        **filters
            Added to ``info.filters``, so that the caption can say what was done.

        Returns
        -------
        The smaller graph. It carries the flow of its edges along the whole graph, so that its mass can be told.
        """
        from .masses import carrying

        whole = self if self.flow is not None else carrying(self, self.measured)
        if whole is not self:
            return whole.keep(edges, **filters)
        columns = {name: getattr(self, name)[edges].copy() for name in EDGE_COLUMNS}
        used = np.unique(np.concatenate([columns["source"], columns["target"]]))
        renumber = np.full(len(self.nodes), -1)
        renumber[used] = np.arange(len(used))
        columns["source"], columns["target"] = renumber[columns["source"]], renumber[columns["target"]]
        nodes = tuple(self.nodes[i] for i in used)
        kept = set(nodes)
        return FlowGraph(
            nodes=nodes,
            **columns,
            info=replace(self.info, filters={**self.info.filters, **filters}),
            readings=tuple(self.readings[i] for i in used) if self.readings else (),
            undefined=tuple(node for node in self.undefined if node in kept),
            unit=None if self.unit is None else self.unit[edges].copy(),
            flow=None if self.flow is None else self.flow[edges].copy(),
            roles=tuple(self.roles[i] for i in used) if self.roles else (),
            notes=tuple(self.notes[i] for i in used) if self.notes else (),
        )

    def unit_of(self, e: int) -> str:
        """Unit of the weight of edge ``e``."""
        return self.info.unit if self.unit is None else UNITS[self.unit[e]]

    def measured_into(self, start: Node | None) -> FlowGraph:
        """The same graph, its mass measured by the flow into ``start``; None: into the node that is explained.

        Of a graph that was cut before, the flow into another node than ``info.flow_into`` is known along its own edges only:
        these are the whole then, and the caption says so.

        Raises
        ------
        ArgumentError
            As for :func:`flowgraph.connected_flow`.
        """
        from .masses import into_start

        return into_start(self, start)

    def with_readings(self, readings: Sequence[NodeReading | None]) -> FlowGraph:
        """The same graph, its nodes carrying ``readings`` ([N], None for a node that has none)."""
        return replace(self, readings=tuple(readings))

    def with_roles(self, roles: Roles) -> FlowGraph:
        """The same graph, its heads carrying their roles, whatever their position; no other node has any.

        Parameters
        ----------
        roles
            What :func:`flowgraph.head_roles` found in the graph's model.

        Raises
        ------
        ArgumentError
            If the roles are of another model, or the graph has heads that they do not speak of.
        """
        if roles.model != self.info.model:
            raise ArgumentError(
                f"the roles are of heads of {roles.model!r}, and the graph is of {self.info.model!r}; "
                "find the roles of the graph's model"
            )
        heads = {(node.layer, node.head): node for node in self.nodes if node.kind == "head"}
        found = {place: tuple(roles.of(node).items()) for place, node in heads.items()}
        return replace(
            self, roles=tuple(found[node.layer, node.head] if node.kind == "head" else () for node in self.nodes)
        )

    def caption(self) -> str:
        """One line that says model, prompt, method, filters and how much is hidden.

        Examples
        --------
        >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
        >>> graph.caption().split(" · ")[:2]
        ['smollm2', '“The capital of Japan is the city of”']
        """
        from .views.caption import caption

        return caption(self)

    def explain(self) -> Explanation:
        """What the graph shows in plain sentences, each with the edges and nodes whose numbers it gives.

        Examples
        --------
        >>> graph = fg.build_graph(trace, method="proximity", readings=False)
        >>> print(graph.explain().sentences[3].text.split(":")[0])
        In layer 23, position 7 (“␣of”) reads position 3 (“␣Japan”)
        """
        from .views.explain import explain

        return explain(self)

    def show(self, *, height: int = 640, theme: str = "auto") -> None:
        """Show the page in the notebook, ``height`` px high; where there is no IPython, in the browser.

        Raises
        ------
        ArgumentError
            If ``height`` is not between 200 and 4,000, or ``theme`` is not known.
        """
        from .views.notebook import show

        show(self, height=height, theme=theme)

    def widget(self, **traits: Any) -> FlowWidget:
        """The page as a Jupyter widget, whose selection, pins, level, width and theme can be read and set.

        Parameters
        ----------
        **traits
            Values to begin with, of the names that :class:`flowgraph.views.widget.FlowWidget` has.

        Raises
        ------
        ArgumentError
            If anywidget is not installed, or a value is not one of its trait.
        """
        from .views.notebook import widget

        return widget(self, **traits)

    def _repr_html_(self) -> str:
        from .views.notebook import frame

        return frame(self)

    def to_networkx(self, *, plain: bool = False) -> networkx.MultiDiGraph:
        """A ``networkx.MultiDiGraph`` whose keys are :class:`Node`, or one that networkx can write.

        Nodes carry ``kind``, ``layer``, ``head``, ``position``, ``label`` and, where read, ``norm``, ``top_tokens``,
        ``top_probabilities``, ``top_logits``, the same for ``bottom_``, ``target_logit``, ``target_probability``,
        ``target_log_probability``, ``target_rank`` and ``entropy``; heads, where they were asked for, ``roles``, each with its
        score; nodes out of an attribution graph ``clerp``, ``activation``, ``influence``, ``token_prob`` and their whole ``note``.
        Edges carry ``kind``, ``layer``, ``head``, ``query_pos``, ``key_pos``, ``weight`` and ``share`` (None on structural edges),
        ``unit``, ``number``, their place in this graph, and, where it is known, ``flow``: what the edge carries into the explained
        node along the whole graph.

        Parameters
        ----------
        plain
            Keys ``n0``, ``n1`` … and ``e0``, ``e1`` …, and as values texts and numbers only: what is None is left out, lists and
            tables are JSON texts. All of networkx's writers take it.

        Examples
        --------
        >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
        >>> fg.Node("embed", position=3) in graph.to_networkx()
        True
        >>> fg.FlowGraph.from_networkx(graph.to_networkx(plain=True)).nodes == graph.nodes
        True
        """
        if plain:
            from .export.graphml import plain_graph

            return plain_graph(self)
        import networkx

        graph = networkx.MultiDiGraph(**info_dict(self.info))
        undefined = set(self.undefined)
        for n, node in enumerate(self.nodes):
            graph.add_node(node, **self.node_dict(n), **({"undefined": True} if node in undefined else {}))
        for e in range(len(self)):
            graph.add_edge(self.nodes[self.source[e]], self.nodes[self.target[e]], **self.edge_dict(e), number=e)
        return graph

    @classmethod
    def from_networkx(cls, graph: Any) -> FlowGraph:
        """The flow graph that a networkx graph is.

        What :meth:`to_networkx` gave comes back exactly, plain or not, also after networkx wrote it as GraphML or node-link data
        and read it again. Any other directed graph is read as :func:`flowgraph.import_graph` reads files: edges need a ``weight``.

        Parameters
        ----------
        graph
            A ``networkx.MultiDiGraph`` or ``networkx.DiGraph``.

        Raises
        ------
        ArgumentError
            If it is undirected, has a cycle, or a value in it is missing or impossible; the message names the place.
        """
        from .export.imports import graph_of_networkx

        return graph_of_networkx(graph)

    def to_dataframe(self, *, nodes: bool = False) -> pandas.DataFrame:
        """The edges, or the nodes, as a ``pandas.DataFrame`` with one row for each, in the order of the graph.

        Edges: ``source``, ``target`` (rows of the table of nodes) with their labels, then the attributes of
        :meth:`to_networkx` and ``structural``. Nodes: ``kind``, ``layer``, ``head``, ``position``, ``index``, ``label``, ``token``
        and, where there are any, readings and ``roles``. What does not exist is missing (``NA``).

        Raises
        ------
        ArgumentError
            If pandas is not installed.
        """
        if nodes:
            return data_frame(columns_of(map(self.node_dict, range(len(self.nodes))), NODE_COLUMNS))
        labels = [label(node) for node in self.nodes]
        ends = {"source": self.source, "target": self.target}
        named = {f"{end}_label": [labels[n] for n in indices] for end, indices in ends.items()}
        names = EDGE_ATTRIBUTES if self.flow is None else (*EDGE_ATTRIBUTES, "flow")
        attributes = columns_of(map(self.edge_dict, range(len(self))), names)
        return data_frame({**ends, **named, **attributes, "structural": self.structural})

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
        if node.position is not None and node.position < len(self.info.tokens):
            data["token"] = self.info.tokens[node.position]
        elif node.token is not None:
            data["token"] = node.token
        reading = self.readings[n] if self.readings else None
        if reading is not None:
            data |= reading.to_dict()
        if self.roles and node.kind == "head":
            data["roles"] = dict(self.roles[n])
        note = self.notes[n] if self.notes else None
        if note is not None:
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

    def save(self, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
        """Write the graph; the ending of the name chooses the format.

        ``.json``, ``.graphml``, ``.gexf``, ``.gml``, ``.dot``, ``.gv``, ``.csv`` (NAME.nodes.csv, NAME.edges.csv
        and NAME.csv-metadata.json), ``.neuronpedia.json``, ``.html``; pictures ``.svg``, ``.pdf``, ``.png``, ``.tex`` with the
        options of :func:`flowgraph.export.pictures.save_picture`. The file is written beside and renamed, so that it is never half-made.

        Returns
        -------
        The path.

        Raises
        ------
        ArgumentError
            If the ending is not known, or the file exists and ``overwrite`` is False.

        Examples
        --------
        >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
        >>> graph.save("flow.json").name
        'flow.json'
        >>> graph.save("flow.svg", width="one-column", theme="print").name
        'flow.svg'
        """
        from .export import save_graph

        return save_graph(self, path, overwrite=overwrite, **options)

    @classmethod
    def load(cls, path: str | Path) -> FlowGraph:
        """Read a graph that :meth:`save` wrote as ``.json`` or ``.graphml``.

        Raises
        ------
        FileFormatError
            If the file is not a flowgraph file of a version this release can read.

        Examples
        --------
        >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
        >>> fg.FlowGraph.load(graph.save("flow.json")).nodes == graph.nodes
        True
        """
        from .export import load_graph

        return load_graph(path)


EDGE_COLUMNS = (
    "source", "target", "kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "structural",
)  # fmt: skip

EDGE_ATTRIBUTES = ("kind", "layer", "head", "query_pos", "key_pos", "weight", "share", "unit")
NODE_COLUMNS = ("kind", "layer", "head", "position", "index", "label", "token")


def _index(value: np.integer[Any]) -> int | None:
    return None if value < 0 else int(value)
