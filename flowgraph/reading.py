"""What vectors say in vocabulary: the value object that :func:`flowgraph.read` returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Reading:
    """N vectors read in vocabulary.

    Attributes
    ----------
    top_tokens, bottom_tokens
        [N][k] strings, the k tokens with the highest and the lowest logits, best (worst) first.
    top_token_ids, bottom_token_ids
        [N, k] their ids.
    top_logits, bottom_logits
        [N, k] logits, after the model's soft-cap where it has one.
    top_probabilities, bottom_probabilities
        [N, k] probabilities over the whole vocabulary.
    target, target_token
        Token id and string that the three target fields speak of.
    target_logit, target_probability, target_log_probability, target_rank
        [N] logit, probability, natural log of it, and rank among the logits (1 = highest; ties count as better).
    entropy
        [N] entropy of the distribution over the vocabulary, in nats.
    norm
        [N] Euclidean length of the vector as given, before any norm.
    shape
        Shape of the vectors without their last axis; N is its product.
    foil, foil_token, foil_logit, foil_probability, foil_log_probability, foil_rank
        The same as for the target for a second token; None where none was asked for.
    """

    top_tokens: tuple[tuple[str, ...], ...]
    top_token_ids: Int[np.ndarray, "N k"]
    top_logits: Float[np.ndarray, "N k"]
    top_probabilities: Float[np.ndarray, "N k"]
    bottom_tokens: tuple[tuple[str, ...], ...]
    bottom_token_ids: Int[np.ndarray, "N k"]
    bottom_logits: Float[np.ndarray, "N k"]
    bottom_probabilities: Float[np.ndarray, "N k"]
    target: int
    target_token: str
    target_logit: Float[np.ndarray, "N"]
    target_probability: Float[np.ndarray, "N"]
    target_log_probability: Float[np.ndarray, "N"]
    target_rank: Int[np.ndarray, "N"]
    entropy: Float[np.ndarray, "N"]
    norm: Float[np.ndarray, "N"]
    shape: tuple[int, ...]
    foil: int | None = None
    foil_token: str | None = None
    foil_logit: Float[np.ndarray, "N"] | None = None
    foil_probability: Float[np.ndarray, "N"] | None = None
    foil_log_probability: Float[np.ndarray, "N"] | None = None
    foil_rank: Int[np.ndarray, "N"] | None = None

    def __post_init__(self) -> None:
        count = int(np.prod(self.shape))
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in _ABOUT and value is not None and len(value) != count:
                raise ArgumentError(f"Reading.{item.name} has {len(value)} rows; shape {self.shape} needs {count}")

    def __len__(self) -> int:
        return len(self.norm)

    def __getitem__(self, index: int | tuple[int, ...]) -> NodeReading:
        """Reading of one vector: ``reading[n]``, or ``reading[layer, position]`` along :attr:`shape`."""
        n = index if isinstance(index, int) else int(np.ravel_multi_index(_from_start(index, self.shape), self.shape))
        if not -len(self) <= n < len(self):
            raise IndexError(f"reading {index} of {len(self)}")
        return NodeReading(
            norm=float(self.norm[n]),
            top=_entries(self.top_tokens[n], self.top_probabilities[n], self.top_logits[n]),
            bottom=_entries(self.bottom_tokens[n], self.bottom_probabilities[n], self.bottom_logits[n]),
            target_logit=float(self.target_logit[n]),
            target_probability=float(self.target_probability[n]),
            target_log_probability=float(self.target_log_probability[n]),
            target_rank=int(self.target_rank[n]),
            entropy=float(self.entropy[n]),
            foil_logit=None if self.foil_logit is None else float(self.foil_logit[n]),
            foil_probability=None if self.foil_probability is None else float(self.foil_probability[n]),
            foil_rank=None if self.foil_rank is None else int(self.foil_rank[n]),
        )

    def __iter__(self) -> Iterator[NodeReading]:
        return (self[n] for n in range(len(self)))


Entry = tuple[str, float, float]
_ABOUT = ("target", "target_token", "foil", "foil_token", "shape")


@dataclass(frozen=True, slots=True)
class NodeReading:
    """Reading of one vector, as a node of a graph carries it.

    A model without a head gives the norm alone; everything else is then None or empty.

    Attributes
    ----------
    norm
        Euclidean length of the node's vector.
    top, bottom
        (token, probability, logit) of the highest and the lowest logits.
    target_logit, target_probability, target_log_probability, target_rank, entropy, foil_logit, foil_probability, foil_rank
        As in :class:`Reading`.
    activation
        Of a neuron or a row of W_O, what it is multiplied by; of a key or value the attention probability.
    contribution
        What the node writes in the direction of the target (minus the foil) at its own position, in logits.
    coverage
        Part of the node that its shown parts make up together, by the measure they were selected by; between 0 and 1.
    left_out
        Of a rest, how many parts it stands for.
    """

    norm: float
    top: tuple[Entry, ...] = ()
    bottom: tuple[Entry, ...] = ()
    target_logit: float | None = None
    target_probability: float | None = None
    target_log_probability: float | None = None
    target_rank: int | None = None
    entropy: float | None = None
    foil_logit: float | None = None
    foil_probability: float | None = None
    foil_rank: int | None = None
    activation: float | None = None
    contribution: float | None = None
    coverage: float | None = None
    left_out: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, with parallel lists for the tokens, for files and graph attributes."""
        data: dict[str, Any] = {"norm": self.norm}
        for name, entries in (("top", self.top), ("bottom", self.bottom)):
            if entries:
                data[f"{name}_tokens"] = [token for token, _, _ in entries]
                data[f"{name}_probabilities"] = [probability for _, probability, _ in entries]
                data[f"{name}_logits"] = [logit for _, _, logit in entries]
        for name in _SINGLE_FIELDS:
            value = getattr(self, name)
            if value is not None:
                data[name] = value
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NodeReading:
        """Inverse of :meth:`to_dict`; keys that do not belong to a reading are ignored."""
        entries: dict[str, Any] = {
            name: tuple(
                zip(
                    data.get(f"{name}_tokens", ()),
                    data.get(f"{name}_probabilities", ()),
                    data.get(f"{name}_logits", ()),
                    strict=True,
                )
            )
            for name in ("top", "bottom")
        }
        entries |= {name: data.get(name) for name in _SINGLE_FIELDS}
        return cls(norm=data["norm"], **entries)


_SINGLE_FIELDS = (
    "target_logit", "target_probability", "target_log_probability", "target_rank", "entropy", "foil_logit",
    "foil_probability", "foil_rank", "activation", "contribution", "coverage", "left_out",
)  # fmt: skip


def _entries(tokens: tuple[str, ...], probabilities: np.ndarray, logits: np.ndarray) -> tuple[Entry, ...]:
    return tuple(zip(tokens, map(float, probabilities), map(float, logits), strict=True))


def _from_start(index: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i + size if i < 0 else i for i, size in zip(index, shape, strict=True))
