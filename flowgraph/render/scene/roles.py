"""Roles of heads in words, each with the score behind it."""

from __future__ import annotations

from collections.abc import Sequence

from ...charts.text import printable
from ...values.flow_graph import FlowGraph, Role


def roles_text(roles: Sequence[Role]) -> str:
    """Roles of a head on one line: ``induction 0.97, previous token 0.62``; ``none`` where it has none.

    The result is text, not markup: escape it for the format it goes into.
    """
    parts = (f"{printable(name).replace('_', ' ')} {f'{score:.3g}'.replace('-', '−')}" for name, score in roles)
    return ", ".join(parts) or "none"


def node_roles(graph: FlowGraph) -> list[str | None]:
    """[N] roles of each head in words, None for other nodes; empty where none were asked for."""
    return [
        roles_text(roles) if node.kind == "head" else None
        for node, roles in zip(graph.nodes, graph.roles, strict=False)
    ]
