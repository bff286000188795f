"""The sparse flow graph: nodes of the forward pass, edges with a weight, a share and a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from ..charts import rendering
from ..charts.diagram import Diagram
from ..charts.result import Result
from ..charts.table import Table, columns_of, data_frame
from ..errors import ArgumentError
from .arguments import takes
from .explanation import Explanation
from .graph_chart import EDGE_ATTRIBUTES, diagram, edge_table
from .graph_columns import EDGE_COLUMNS, EDGE_KINDS, UNITS, EdgeKind, GraphColumns, Role, Unit
from .graph_info import KEPT, info_dict
from .mass import Measured, carrying, into_start, mass, measured
from .node import Node, label
from .reading import NodeReading

if TYPE_CHECKING:
    import anywidget
    import networkx
    import pandas  # type: ignore[import-untyped, unused-ignore]

__all__ = [
    "EDGE_ATTRIBUTES",
    "EDGE_COLUMNS",
    "EDGE_KINDS",
    "NODE_COLUMNS",
    "UNITS",
    "EdgeKind",
    "FlowGraph",
    "Role",
    "Roles",
    "Unit",
]


@runtime_checkable
class Roles(Protocol):
    """Roles of a model's heads, as :class:`flowgraph.HeadRoles` has them."""

    @property
    def model(self) -> str:
        """Name of the model."""

    def of(self, node: Node) -> Mapping[str, float]:
        """Role → the score behind it."""


@runtime_checkable
class Measurement(Protocol):
    """What was measured of a picture, as :class:`flowgraph.GraphFaithfulness` says it."""

    def statement(self) -> Mapping[str, Any]:
        """Plain data, with a sentence under ``"text"``."""


@dataclass(frozen=True, eq=False)
class FlowGraph(GraphColumns, Result):
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
        [E] the method's number in ``info.unit``, and its signed share of all edges into the target; both 0 on
        structural edges.
    structural
        [E] True where the method gives the edge no number.
    info
        Where the graph comes from.
    readings
        [N] reading of each node, None where it has none; empty when nothing was read.
    unit
        [E] indices into :data:`UNITS`, if edges differ in unit; None: all are in ``info.unit``. A share is then a part of all edges
        into the same target in the same unit.
    undefined
        Nodes whose incoming shares are not defined by the method's own formula and follow its stated substitute.
    roles
        [N] roles of each node, each with the score behind it, as :meth:`with_roles` sets them; only heads have any. Empty
        when none were asked for.
    notes
        [N] another program's entries about each node, None without any; empty for graphs of this project.
    flow
        [E] flow of each edge into ``info.flow_into`` along the whole graph that this one is cut from, which ``info.total_flow``
        sums up; 0 on structural edges. None: not cut yet, and not asked for. See :func:`flowgraph.mass`.

    Raises
    ------
    ArgumentError
        If the columns differ in length, an edge points nowhere, a number is not finite, a node occurs twice, or anything but a
        head has roles.
    """

    def __repr__(self) -> str:
        return rendering.summary(self)

    __str__ = __repr__

    @property
    def measured(self) -> Measured:
        """The measure of the edges' mass, computed once."""
        return measured(self)

    @property
    def kept_mass(self) -> float:
        """Part of the method's whole flow into the explained position that the edges hold, 0…1: :func:`flowgraph.mass`."""
        return mass(self)

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

        Raises
        ------
        ArgumentError
            If ``edges`` holds an edge twice or anything but edges of the graph.
        """
        edges = self.chosen(edges)
        whole = self if self.flow is not None else carrying(self, self.measured)
        # Cutting loses edges, so the flow along the whole graph is put into the columns before the first cut.
        if whole is not self:
            return whole.keep(edges, **filters)
        columns = {name: getattr(self, name)[edges].copy() for name in EDGE_COLUMNS}
        used = np.unique(np.concatenate([columns["source"], columns["target"]]))
        info = replace(self.info, filters={**self.info.filters, **filters})
        if len(edges) < len(self):
            # What was measured is of the whole picture.
            info = replace(info, provenance={k: v for k, v in info.provenance.items() if k != KEPT})
        renumber = np.full(len(self.nodes), -1)
        renumber[used] = np.arange(len(used))
        columns["source"], columns["target"] = renumber[columns["source"]], renumber[columns["target"]]
        nodes = tuple(self.nodes[i] for i in used)
        kept = set(nodes)
        return FlowGraph(
            nodes=nodes,
            **columns,
            info=info,
            readings=tuple(self.readings[i] for i in used) if self.readings else (),
            undefined=tuple(node for node in self.undefined if node in kept),
            unit=None if self.unit is None else self.unit[edges].copy(),
            flow=None if self.flow is None else self.flow[edges].copy(),
            roles=tuple(self.roles[i] for i in used) if self.roles else (),
            notes=tuple(self.notes[i] for i in used) if self.notes else (),
        )

    @takes()
    def measured_into(self, start: Node | None) -> FlowGraph:
        """The same graph, its mass measured by the flow into ``start``; None: into the node that is explained.

        For a cut graph the flow into another node than ``info.flow_into`` is known only along its own edges; these are then the
        whole, and the caption says so.

        Raises
        ------
        ArgumentError
            As for :func:`flowgraph.connected_flow`.
        """
        return into_start(self, start)

    @takes()
    def with_readings(self, readings: Sequence[NodeReading | None]) -> FlowGraph:
        """The same graph, its nodes carrying ``readings`` ([N], None for a node that has none)."""
        return replace(self, readings=tuple(readings))

    def with_roles(self, roles: Roles) -> FlowGraph:
        """The same graph with the roles of its heads, the same at every position; no other node has roles.

        Parameters
        ----------
        roles
            Result of :func:`flowgraph.head_roles` for the graph's model.

        Raises
        ------
        ArgumentError
            If the roles are of another model, or lack a head of the graph.
        """
        if roles.model != self.info.model:
            raise ArgumentError(
                f"the roles are of heads of {roles.model!r}, and the graph is of {self.info.model!r}; "
                "find the roles of the graph's model"
            )
        # A head has one role for the whole model: positions of one head share one look-up.
        heads = {(node.layer, node.head): node for node in self.nodes if node.kind == "head"}
        found = {place: tuple(roles.of(node).items()) for place, node in heads.items()}
        return replace(
            self, roles=tuple(found[node.layer, node.head] if node.kind == "head" else () for node in self.nodes)
        )

    def with_faithfulness(self, found: Measurement | Mapping[str, Any]) -> FlowGraph:
        """The same graph, whose captions and files say how much of the answer it keeps.

        Parameters
        ----------
        found
            Result of :func:`flowgraph.graph_faithfulness` for this very graph, or its statement as plain data. A smaller graph made of this one says nothing of it.
        """
        said = found if isinstance(found, Mapping) else found.statement()
        provenance = {**self.info.provenance, KEPT: dict(said)}
        return replace(self, info=replace(self.info, provenance=provenance))

    def caption(self) -> str:
        """One line that says model, prompt, method, filters and how much is hidden.

        Examples
        --------
        >>> graph = fg.routes(fg.edge_weights(trace, method="proximity"), threshold=0.1)
        >>> graph.caption().split(" · ")[:2]
        ['smollm2', '“The capital of Japan is the city of”']
        """
        return rendering.caption(self)

    def explain(self) -> Explanation:
        """Explain the graph in plain sentences, each with the edges and nodes whose numbers it gives.

        Examples
        --------
        >>> graph = fg.build_graph(trace, method="proximity", readings=False)
        >>> print(graph.explain().sentences[3].text.split(":")[0])
        In layer 23, position 7 (“␣of”) reads position 3 (“␣Japan”)
        """
        explained: Explanation = rendering.explain(self)
        return explained

    def chart(self, *, keep: int | None = None) -> Diagram[FlowGraph]:
        """What is to be seen: nodes in layers over tokens or, of a circuit, heads. A semantic graph has no figure but :func:`flowgraph.sankey`.

        Parameters
        ----------
        keep
            Level of the slider of the page, 0 to 1,000; None: where each look opens.

        Examples
        --------
        >>> graph = fg.build_graph(trace, method="proximity", readings=False)
        >>> graph.chart().title, len(graph.chart().columns)
        ('Flow graph', 8)
        >>> [one.name for one in graph.figure().data if one.name]
        ['state', 'MLP', 'logit']
        """
        return diagram(self, keep)

    def table(self) -> Table:
        """The edges: ``source``, ``target`` (indices of nodes) with their labels, and what :meth:`to_networkx` says of each."""
        return edge_table(self)

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of the edges, kinds and units as texts, −1 for an index that does not exist; and ``node``, [N] the labels."""
        columns = {name: getattr(self, name) for name in EDGE_COLUMNS}
        columns |= {
            "kind": np.array(EDGE_KINDS)[self.kind],
            "unit": np.array([self.unit_of(e) for e in range(len(self))], dtype=str),
        }
        columns |= {} if self.flow is None else {"flow": self.flow}
        return columns | {"node": np.array([label(node) for node in self.nodes], dtype=str)}

    def show(self, *, height: int = 640, theme: str = "auto") -> None:
        """Show the page in the notebook, ``height`` px high; where there is no IPython, in the browser.

        Raises
        ------
        ArgumentError
            If ``height`` is not between 200 and 4,000, or ``theme`` is not known.
        """
        rendering.show(self.chart(), height=height, theme=theme)

    def widget(self, **traits: Any) -> anywidget.AnyWidget:
        """The page as a Jupyter widget, whose selection, pins, level, width and theme can be read and set.

        Parameters
        ----------
        **traits
            Values to begin with, of the names that :class:`flowgraph.render.notebook.widget.FlowWidget` has.

        Raises
        ------
        ArgumentError
            If anywidget is not installed, or a value is not one of its trait.
        """
        made: anywidget.AnyWidget = rendering.widget(self, **traits)
        return made

    @takes()
    def to_networkx(self, *, plain: bool = False) -> networkx.MultiDiGraph:
        """A ``networkx.MultiDiGraph`` whose keys are :class:`Node`, or one that networkx can write.

        Nodes carry ``kind``, ``layer``, ``head``, ``position``, ``label`` and, where read, ``norm``, ``top_tokens``,
        ``top_probabilities``, ``top_logits``, the same for ``bottom_``, ``target_logit``, ``target_probability``,
        ``target_log_probability``, ``target_rank`` and ``entropy``; heads, where they were asked for, ``roles``, each with its
        score; nodes out of an attribution graph ``clerp``, ``activation``, ``influence``, ``token_prob`` and their whole ``note``.
        Edges carry ``kind``, ``layer``, ``head``, ``query_pos``, ``key_pos``, ``weight`` and ``share`` (None on structural edges),
        ``unit``, ``number``, their place in this graph, and, if it is known, ``flow``: the edge's flow into the explained node along
        the whole graph.

        Parameters
        ----------
        plain
            Keys ``n0``, ``n1`` … and ``e0``, ``e1`` …, with texts and numbers as the only values: None is left out, lists and
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
            return rendering.to_networkx(self)
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
        """Turn a networkx graph into a flow graph.

        A result of :meth:`to_networkx` comes back exactly, plain or not, also after networkx wrote it as GraphML or node-link data
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
        taken: FlowGraph = rendering.from_networkx.function(cls)(graph)
        return taken

    def to_dataframe(self, *, nodes: bool = False) -> pandas.DataFrame:
        """The edges, or the nodes, as a ``pandas.DataFrame`` with one row for each, in the order of the graph.

        Edges: ``source``, ``target`` (rows of the table of nodes) with their labels, then the attributes of
        :meth:`to_networkx` and ``structural``. Nodes: ``kind``, ``layer``, ``head``, ``position``, ``index``, ``label``, ``token``
        and, if there are any, readings and ``roles``. A value that does not exist is missing (``NA``).

        Raises
        ------
        ArgumentError
            If pandas is not installed.
        """
        if nodes:
            return data_frame(columns_of(map(self.node_dict, range(len(self.nodes))), NODE_COLUMNS))
        return super().to_dataframe()

    def to_csv(self) -> str:
        """The edges as CSV: the text of ``NAME.edges.csv`` that :meth:`save` writes."""
        return rendering.csv(self.chart())

    def save(self, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
        """Write the graph; the ending of the name chooses the format.

        ``.json``, ``.graphml``, ``.gexf``, ``.gml``, ``.dot``, ``.gv``, ``.csv`` (NAME.nodes.csv, NAME.edges.csv
        and NAME.csv-metadata.json), ``.neuronpedia.json``, ``.html``; pictures ``.svg``, ``.pdf``, ``.png``, ``.tex`` with the
        options of :func:`flowgraph.render.print.pictures.save_picture`. The file is written beside and renamed, so that it is never half-made.

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
        return rendering.save(self, path, overwrite=overwrite, **options)

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
        loaded: FlowGraph = rendering.load.function(cls)(path)
        return loaded


NODE_COLUMNS = ("kind", "layer", "head", "position", "index", "label", "token")
