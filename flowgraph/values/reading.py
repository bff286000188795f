"""Readings of vectors in vocabulary: the value object that :func:`flowgraph.read` returns."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from ..charts import rendering
from ..charts.grid import Grid, Places
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import abbreviated, visible
from ..errors import ArgumentError

LensColour = Literal["probability", "rank", "entropy"]
"""Colour of a lens's cells: probability of the top token, rank of the target, or entropy of the distribution."""


@dataclass(frozen=True, eq=False)
class Reading(Result):
    """N vectors read in vocabulary.

    In a notebook a reading of two axes is a grid of top tokens, the last row on top, and any other one a list.

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
        Token id and string of the target fields below.
    target_logit, target_probability, target_log_probability, target_rank
        [N] logit, probability, natural log of it, and rank among the logits (1 = highest; ties count as better).
    entropy
        [N] entropy of the distribution over the vocabulary, in nats.
    norm
        [N] Euclidean length of the vector as given, before any norm.
    shape
        Shape of the vectors without their last axis; N is its product.
    foil, foil_token, foil_logit, foil_probability, foil_log_probability, foil_rank
        The same numbers for a second token; None without a foil.
    axes
        Names of the axes of ``shape``, such as ``("layer", "position")``, as :meth:`named` gave them; empty where they are not
        known.
    first_layer
        Layer of the model that index 0 of an axis ``"layer"`` stands for.
    prompt_tokens
        Tokens along an axis ``"position"``; empty where they are not known.
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
    axes: tuple[str, ...] = field(default=(), init=False)
    first_layer: int = field(default=0, init=False)
    prompt_tokens: tuple[str, ...] = field(default=(), init=False)

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
        # ravel_multi_index takes no negative numbers.
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

    def __repr__(self) -> str:
        foil = "" if self.foil_token is None else f", foil {self.foil_token!r}"
        shape = (
            " × ".join(f"{size} {name}s" for size, name in zip(self.shape, self.axis_names, strict=True)) or "1 vector"
        )
        return f"Reading({shape}, top {self.top_token_ids.shape[1]}, target {self.target_token!r}{foil})"

    def named(self, axes: Sequence[str], *, first_layer: int = 0, prompt_tokens: Sequence[str] = ()) -> Reading:
        """The same reading with names for its axes, for tables and pictures.

        Parameters
        ----------
        axes
            One name for each axis of :attr:`shape`.
        first_layer
            Layer of the model that index 0 of an axis ``"layer"`` stands for.
        prompt_tokens
            Tokens along an axis ``"position"``, where they are known.

        Raises
        ------
        ArgumentError
            If they do not fit the shape.
        """
        if len(axes) != len(self.shape):
            raise ArgumentError(f"axes={tuple(axes)} are {len(axes)} names; shape {self.shape} needs {len(self.shape)}")
        positions = self.shape[list(axes).index("position")] if "position" in axes else 0
        if prompt_tokens and len(prompt_tokens) != positions:
            raise ArgumentError(
                f"prompt_tokens are {len(prompt_tokens)}; axes={tuple(axes)} have {positions} positions"
            )
        found = copy.copy(self)
        for name, value in (
            ("axes", tuple(axes)),
            ("first_layer", first_layer),
            ("prompt_tokens", tuple(prompt_tokens)),
        ):
            # The dataclass is frozen, and a copy is new to everybody: nobody has seen it without its names.
            object.__setattr__(found, name, value)
        return found

    @property
    def axis_names(self) -> tuple[str, ...]:
        """:attr:`axes`, or where they are not known ``("vector",)``, ``("row", "column")``, or ``axis0`` and so on."""
        if self.axes:
            return self.axes
        unknown = {1: ("vector",), 2: ("row", "column")}
        return unknown.get(len(self.shape), tuple(f"axis{n}" for n in range(len(self.shape))))

    def axis_values(self, axis: int) -> Int[np.ndarray, "size"]:
        """[size] numbers of the places of an axis: layers as the model counts them, all others from 0."""
        start = self.first_layer if self.axis_names[axis] == "layer" else 0
        found: np.ndarray = np.arange(start, start + self.shape[axis])
        return found

    def table(self) -> Table:
        """One row for each vector and each of its top tokens, the best first.

        Columns: one for each axis (and ``prompt_token`` where it is known), ``order`` (1 = best), ``token``, ``token_id``,
        ``probability``, ``logit``; then the vector's own numbers, the same in all its rows: ``entropy`` in nats, ``norm``,
        ``target_rank``, ``target_probability``, ``target_logit`` and, with a foil, the same for the foil.
        ``frame[frame["order"] == 1]`` has one row for each vector.
        """
        k = self.top_token_ids.shape[1]
        places = np.indices(self.shape).reshape(len(self.shape), len(self))
        columns: dict[str, Any] = {}
        for n, name in enumerate(self.axis_names):
            columns[name] = np.repeat(self.axis_values(n)[places[n]], k)
            if name == "position" and self.prompt_tokens:
                columns["prompt_token"] = [self.prompt_tokens[i] for i in columns[name]]
        columns |= {
            "order": np.tile(np.arange(1, k + 1), len(self)),
            "token": [token for tokens in self.top_tokens for token in tokens],
            "token_id": self.top_token_ids.ravel(),
            "probability": self.top_probabilities.ravel(),
            "logit": self.top_logits.ravel(),
        }
        per_vector = {name: getattr(self, name) for name in _PER_VECTOR}
        columns |= {name: np.repeat(values, k) for name, values in per_vector.items() if values is not None}
        return Table(repr(self), columns)

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields as arrays of their own names, as :meth:`to_npz` writes them.

        Numbers have the axes of ``shape``, top and bottom tokens one more of length k; ``target`` (``foil``) is an id and
        ``target_token`` (``foil_token``) its text; ``axis_<name>`` [size] says what each axis counts, and ``prompt_tokens``
        [position] is there where they are known.
        """
        found = {f"axis_{name}": self.axis_values(n) for n, name in enumerate(self.axis_names)}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _TOKENS:
                value = np.array(value, dtype=np.str_).reshape(*self.shape, self.top_token_ids.shape[1])
            elif isinstance(value, np.ndarray):
                value = value.reshape((*self.shape, *value.shape[1:]))
            elif item.name not in _NAMED or value is None or value == ():
                continue
            found[item.name] = np.asarray(value)
        return found

    def chart(self, *, colour: LensColour = "probability") -> Grid:
        """The grid of top tokens of a reading of two axes, coloured by one number.

        Parameters
        ----------
        colour
            ``"probability"`` of the top token; ``"rank"`` of the target, on a logarithmic scale with rank 1 the strongest;
            ``"entropy"`` of the distribution over the vocabulary, in nats, 0 the strongest.

        Raises
        ------
        ArgumentError
            If the reading has not two axes, or ``colour`` is another word.
        """
        if len(self.shape) != 2 or not len(self):
            raise ArgumentError(f"reading has shape {self.shape}; a grid needs two axes, such as (layer, position)")
        if colour not in get_args(LensColour):
            raise ArgumentError(f"colour={colour!r} is not known; expected one of {', '.join(get_args(LensColour))}")
        names = " and ".join(self.axis_names)
        of_target = f", rank of {visible(self.target_token)}" if colour == "rank" else ""
        values, unit = {
            "probability": (self.top_probabilities[:, 0], "probability of the top token"),
            "rank": (self.target_rank, "rank of the target"),
            "entropy": (self.entropy, "entropy (nats)"),
        }[colour]
        rows, columns = self.shape
        best = [tokens[0] for tokens in self.top_tokens]
        return Grid(
            title=f"Top token of every {names}{of_target}",
            rows=self._places_of(0),
            columns=self._places_of(1),
            values=values.astype(np.float64).reshape(self.shape),
            unit=unit,
            tip=self._tip,
            words=tuple(tuple(best[row * columns : (row + 1) * columns]) for row in range(rows)),
            strongest="high" if colour == "probability" else "low",
            most=1.0 if colour == "probability" else None,
            is_logarithmic=colour == "rank",
            about=f"top tokens of {rows} {self.axis_names[0]}s × {columns} {self.axis_names[1]}s; colour: {unit}",
        )

    def _places_of(self, axis: int) -> Places:
        name = self.axis_names[axis]
        tokens = self.prompt_tokens if name == "position" and self.prompt_tokens else None
        return Places(name, tuple(self.axis_values(axis).tolist()), tokens, is_upward=axis == 0)

    def _tip(self, row: int, column: int) -> tuple[str, ...]:
        """Place, best tokens and numbers of a vector."""
        n = row * self.shape[1] + column
        names = self.axis_names
        place = f"{names[0]} {self.axis_values(0)[row]}, {names[1]} {self.axis_values(1)[column]}"
        if names[1] == "position" and self.prompt_tokens:
            place += f" {visible(self.prompt_tokens[column])}"
        best = zip(self.top_tokens[n][:_LISTED], self.top_probabilities[n], strict=False)
        words = " · ".join(f"{visible(token)} {probability:.3f}" for token, probability in best)
        rank = f"rank of {visible(self.target_token)}: {self.target_rank[n]:,}"
        return (place, words, f"{rank}, entropy {self.entropy[n]:.2f} nats")

    def listed(self) -> Table:
        """One row for each vector with its top tokens on one line, or of a single vector one for each of its top tokens."""
        if len(self) == 1:
            table = self.table()
            vector = self[0]
            note = f"entropy {vector.entropy:.3g} nats, length {vector.norm:.3g}; rank of the target {vector.target_rank:,}"
            columns = {name: table.columns[name] for name in ("order", "token", "probability", "logit")}
            return Table(table.title, columns, note=note)
        where = np.indices(self.shape).reshape(len(self.shape), len(self))
        columns = {name: self.axis_values(n)[where[n]] for n, name in enumerate(self.axis_names)}
        best = [" · ".join(visible(abbreviated(token)) for token in tokens[:_LISTED]) for tokens in self.top_tokens]
        columns |= {"top_tokens": best, "probability": self.top_probabilities[:, 0]}
        columns |= {name: getattr(self, name) for name in ("target_rank", "entropy", "norm")}
        return Table(repr(self), columns, words=("top_tokens",), note="probability: of the first token")

    def overview(self) -> Grid | Table:
        """The grid of a reading of two axes, otherwise its vectors, one on each line."""
        return self.chart() if len(self.shape) == 2 and len(self) else self.listed()

    def __str__(self) -> str:
        return rendering.text(self.listed())


_LISTED = 5
Entry = tuple[str, float, float]
_ABOUT = ("target", "target_token", "foil", "foil_token", "shape", "axes", "first_layer", "prompt_tokens")
_NAMED = ("target", "target_token", "foil", "foil_token", "prompt_tokens")
_TOKENS = ("top_tokens", "bottom_tokens")
_PER_VECTOR = (
    "entropy", "norm", "target_rank", "target_probability", "target_logit", "foil_rank", "foil_probability", "foil_logit",
)  # fmt: skip
"""Fields that are a column of the table, where they are not None."""


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
        Factor of a neuron or a row of W_O; attention probability of a key or value.
    contribution
        Logits that the node writes in the direction of the target (minus the foil) at its own position.
    coverage
        Part of the node that its shown parts make up together, by the measure that selected them; between 0 and 1.
    left_out
        Number of parts that a rest stands for.
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
