"""Notes: entries of another program's file about a node, beside the node's identity.

An attribution graph gives every feature a name, an activation and an influence. flowgraph computes none of these: it keeps them as
they were read, shows them, and writes them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXTS = ("node_id", "feature_type", "clerp")
NUMBERS = ("activation", "influence", "token_prob", "score")
"""Fields of a note that become attributes of the node, under their names in the file; ``clerp`` is the node's name."""


@dataclass(frozen=True, slots=True)
class NodeNote:
    """All entries of another program's file about one node.

    Attributes
    ----------
    fields
        Names and values as they stand in the file, plain JSON: of an attribution graph ``node_id``, ``feature``, ``layer``,
        ``clerp``, ``influence``, ``activation``, ``token_prob`` and all other entries.
    """

    fields: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        """The node's name in the file."""
        return self._text("node_id")

    @property
    def label(self) -> str | None:
        """The name that somebody gave the node; None without a name."""
        return self._text("clerp") or None

    @property
    def activation(self) -> float | None:
        """Activation of the feature, in the unit of its dictionary."""
        return self._number("activation")

    @property
    def influence(self) -> float | None:
        """The file's own number for the node's importance; in circuit-tracer's files it is cumulative, and small is important."""
        return self._number("influence")

    @property
    def probability(self) -> float | None:
        """The model's probability of a logit's token."""
        return self._number("token_prob")

    def shown(self) -> dict[str, str | float]:
        """The fields of :data:`TEXTS` and :data:`NUMBERS` that the note has."""
        texts = {name: text for name in TEXTS if (text := self._text(name)) is not None}
        return texts | {name: number for name in NUMBERS if (number := self._number(name)) is not None}

    def _text(self, name: str) -> str | None:
        value = self.fields.get(name)
        return value if isinstance(value, str) else None

    def _number(self, name: str) -> float | None:
        value = self.fields.get(name)
        # A truth value is a number to Python, and would be shown as 1.
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
