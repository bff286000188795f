"""What the file of another program says of a node beside what the node is.

An attribution graph says of every feature what somebody called it, how active it was and how much it matters. flowgraph computes
none of these: they are kept as they were read, shown, and written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXTS = ("node_id", "feature_type", "clerp")
NUMBERS = ("activation", "influence", "token_prob", "score")
"""Fields of a note that become attributes of the node, in the words of the file: what it was called is ``clerp``."""


@dataclass(frozen=True, slots=True)
class NodeNote:
    """Everything that a file of another program says of one node.

    Attributes
    ----------
    fields
        Names and values as they stand in the file, plain JSON: of an attribution graph ``node_id``, ``feature``, ``layer``,
        ``clerp``, ``influence``, ``activation``, ``token_prob`` and whatever else is there.
    """

    fields: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        """The node's name in the file."""
        return self._text("node_id")

    @property
    def label(self) -> str | None:
        """What somebody called the node; None where nobody did."""
        return self._text("clerp") or None

    @property
    def activation(self) -> float | None:
        """How active the feature was, in the unit of its dictionary."""
        return self._number("activation")

    @property
    def influence(self) -> float | None:
        """The file's own number for how much the node matters; in circuit-tracer's files cumulative, small is important."""
        return self._number("influence")

    @property
    def probability(self) -> float | None:
        """The model's probability of a logit's token."""
        return self._number("token_prob")

    def shown(self) -> dict[str, str | float]:
        """Those of :data:`TEXTS` and :data:`NUMBERS` that are there."""
        texts = {name: text for name in TEXTS if (text := self._text(name)) is not None}
        return texts | {name: number for name in NUMBERS if (number := self._number(name)) is not None}

    def _text(self, name: str) -> str | None:
        value = self.fields.get(name)
        return value if isinstance(value, str) else None

    def _number(self, name: str) -> float | None:
        value = self.fields.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
