"""What a model is."""

from __future__ import annotations

from dataclasses import dataclass

import flowgraph

from ..recipe import check_model
from .messages import LOADING
from .question import Question
from .traces import Check, Traces


@dataclass(frozen=True)
class Model:
    """A model that is loaded.

    Attributes
    ----------
    name, family
        Its name, and that of its architecture.
    n_layers, n_heads
        Its size.
    context
        Longest prompt in tokens; None where nothing limits it.
    causal, has_head, has_attribution
        Whether a token sees earlier tokens only; whether there are logits; whether a logit is the sum of its parts.
    chat
        Whether it has a chat template.
    """

    name: str
    family: str
    n_layers: int
    n_heads: int
    context: int | None
    causal: bool
    has_head: bool
    has_attribution: bool
    chat: bool


@dataclass(frozen=True)
class ModelQuestion(Question[Model]):
    """What the model is; asking loads it."""

    model: str

    def __post_init__(self) -> None:
        check_model(self.model)

    def answer(self, traces: Traces, check: Check) -> Model:
        """What the model is; what is compiled at its first use is made ready too, so that no question waits for it."""
        loaded = traces.model(self.model, check)
        anatomy = loaded.anatomy
        check(f"{LOADING}: making ready", None)
        # Of some models patterns alone are known, for which nothing is compiled.
        if loaded.level != "patterns":
            flowgraph.edge_weights(flowgraph.trace(loaded, [0, 0], position=0), method="proximity")
        return Model(
            name=loaded.name,
            family=anatomy.family.name,
            n_layers=len(anatomy.blocks),
            n_heads=anatomy.n_heads,
            context=anatomy.context,
            causal=anatomy.causal,
            has_head=anatomy.has_head,
            has_attribution=loaded.has_attribution,
            chat=bool(getattr(loaded.tokenizer, "chat_template", None)),
        )
