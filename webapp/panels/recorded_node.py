"""What recorded answers say of a node, where its own was not recorded and no model can be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowgraph import Node, NodeDetails

from ..recipe import Recipe
from ..server.run import Run
from .attention_pattern import AttentionQuestion
from .heads import HeadsQuestion
from .lens import LensQuestion

if TYPE_CHECKING:
    from ..server.service import Service

_WITHOUT = "this is what was recorded, without the model"


def recorded_node(service: Service, recipe: Recipe, run: Run, node: Node) -> NodeDetails | None:
    """A state as the lens reads it, a head as its scores and its attention have it; None where none of that was recorded."""
    if node.stack is not None or node.position is None or node.layer is None:
        return None
    empty = NodeDetails(node, None, None, None, run.tokens, "")
    if node.kind == "resid_post":
        lens = service.known(LensQuestion.of(recipe))
        if lens is None:
            return None
        return replace(empty, reading=lens[node.layer - run.layers[0], node.position])
    if node.kind != "head" or node.head is None:
        return None
    attention = service.known(AttentionQuestion.of(recipe, node.layer))
    scores = service.known(HeadsQuestion.of(recipe))
    row = None if attention is None else attention.pattern[node.head, node.position]
    added = None
    if scores is not None and "direct_logit" in scores.scores and node.position == run.position:
        added = float(scores.scores["direct_logit"][node.layer - run.layers[0], node.head])
    if row is None and added is None:
        return None
    missing = [
        *(["what it adds to the logit"] if added is None else []),
        "what it says in vocabulary",
        *(["where it looks"] if row is None else []),
    ]
    note = f"{', '.join(missing[:-1])}{' and ' if missing[:-1] else ''}{missing[-1]}; {_WITHOUT}"
    return replace(empty, contribution=added, attention=row, note=note)
