"""Token matrices: numbers between tokens, layer by layer, as an array with the tokens and layers of its rows and columns."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.lib.mixins import NDArrayOperatorsMixin

from ..charts.axis import Axis as ChartAxis
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Grid, Places, Tip
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import visible
from ..errors import ArgumentError

Axis = Literal["layer", "query_pos", "key_pos"]


@dataclass(frozen=True, eq=False)
class TokenMatrix(NDArrayOperatorsMixin, Result):
    """Numbers between tokens by one measure, such as attention rollout.

    A matrix behaves as its array ``values``: indices, operators, NumPy's functions and the methods of arrays give plain arrays.
    ``values`` cannot be written to; ``matrix.copy()`` can.

    Attributes
    ----------
    values
        [layer, query_pos, key_pos], or without some of these axes; in ``unit``.
    axes
        Names of the axes.
    measure
        Name of the measure: ``"attention rollout"``.
    unit
        Unit of the values.
    tokens
        [position] tokens of the prompt; None where only positions are known.
    first_layer
        Layer of the model that index 0 of the axis ``layer`` stands for.
    steps
        Names of the steps that the axis ``layer`` counts in place of layers, where the matrix is of several stacks; positions are
        then those of all stacks, the encoder's first.
    """

    values: Float[np.ndarray, "..."]
    axes: tuple[Axis, ...]
    measure: str
    unit: str
    tokens: tuple[str, ...] | None = None
    first_layer: int = 0
    steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.axes not in _AXES:
            raise ArgumentError(f"axes={self.axes} is not known; expected one of {', '.join(map(str, _AXES))}")
        if len(self.axes) != self.values.ndim:
            raise ArgumentError(
                f"values have shape {self.values.shape}; axes={self.axes} need {len(self.axes)} dimensions"
            )
        for name, size in zip(self.axes, self.values.shape, strict=True):
            if name != "layer" and self.tokens is not None and len(self.tokens) != size:
                raise ArgumentError(f"values have {size} places along {name!r}; there are {len(self.tokens)} tokens")
        # Of the view only: the array itself may be somebody else's.
        values = self.values.view()
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # NumPy calls this for every conversion; without it an array of one object would come out.
        return np.array(self.values, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        # Results are plain arrays: a sum of two matrices has no one measure or unit.
        plain = [value.values if isinstance(value, TokenMatrix) else value for value in inputs]
        return getattr(ufunc, method)(*plain, **options)

    def __getattr__(self, name: str) -> Any:
        # Everything that can be asked of an array, and nothing that Python or a library looks for by protocol.
        if name.startswith("_") or name == "values":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.values, name)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __bool__(self) -> bool:
        return bool(self.values)

    def __repr__(self) -> str:
        shape = " × ".join(f"{size} {name}" for name, size in zip(self.axes, self.values.shape, strict=True))
        held = f", {self.values.min():.3g}…{self.values.max():.3g}" if self.values.size else ""
        return f"TokenMatrix({self.measure!r}, {shape}{held}, unit {self.unit!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return self.values.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.values.dtype

    def layer(self, layer: int) -> TokenMatrix:
        """The matrix of one layer, as the model counts it; negative counts from the end.

        Raises
        ------
        ArgumentError
            If there is no such layer, or no axis of layers.
        """
        if self.axes[0] != "layer":
            raise ArgumentError(f"layer={layer}, but the axes are {self.axes}: this is no matrix for each layer")
        count = len(self.values)
        row = layer + count if layer < 0 else layer - self.first_layer
        if not 0 <= row < count:
            stop = self.first_layer + count
            raise ArgumentError(f"layer={layer} is not one of {self.first_layer}…{stop - 1}, or negative from the end")
        measure = f"{self.measure}, {self._named(self.first_layer + row)}"
        return replace(self, values=self.values[row], axes=self.axes[1:], measure=measure, steps=())

    def grouped(self, groups: Any) -> TokenMatrix:
        """The matrix between groups of tokens: columns of a group are added, its rows averaged, so that row sums stay.

        Parameters
        ----------
        groups
            Positions of each group, every position in one of them: ``[[0], [1, 2], [3, 4]]``.

        Raises
        ------
        ArgumentError
            If a position is missing, comes twice, or is none.
        """
        sizes = [size for size, name in zip(self.shape, self.axes, strict=True) if name != "layer"]
        places = checked_groups(groups, sizes[0])
        values = self.values
        for axis, name in enumerate(self.axes):
            if name != "layer":
                parts = [values.take(group, axis) for group in places]
                # Columns are added and rows averaged, so that a row of probabilities stays one.
                merged = [part.sum(axis) if name == "key_pos" else part.mean(axis) for part in parts]
                values = np.stack(merged, axis)
        tokens = None if self.tokens is None else tuple("".join(self.tokens[n] for n in group) for group in places)
        return replace(self, values=values, tokens=tokens)

    def places(self, axis: int) -> Int[np.ndarray, "size"]:
        """[size] numbers of the places along an axis: layers as the model counts them, positions from 0."""
        start = self.first_layer if self.axes[axis] == "layer" else 0
        found: np.ndarray = np.arange(start, start + self.values.shape[axis])
        return found

    def table(self) -> Table:
        """One row for each value: ``layer``, ``query_pos``, ``query_token``, ``key_pos``, ``key_token``, ``value``.

        Axes that are not there are left out, and tokens where they are not known.
        """
        where = np.indices(self.values.shape).reshape(self.ndim, self.values.size)
        columns: dict[str, Any] = {}
        # Millions of rows share a few texts: an array of objects refers to them.
        tokens = None if self.tokens is None else np.array(self.tokens, dtype=np.object_)
        for n, name in enumerate(self.axes):
            columns[name] = self.places(n)[where[n]]
            if name != "layer" and tokens is not None:
                columns[name.replace("_pos", "_token")] = tokens[where[n]]
        return Table(repr(self), {**columns, "value": self.values.ravel()})

    def arrays(self) -> dict[str, np.ndarray]:
        """``values`` as they are, ``axes``, ``measure`` and ``unit`` as texts, ``layer`` and ``tokens`` where there are any."""
        found = {"values": self.values, "axes": np.array(self.axes)}
        found |= {"measure": np.array(self.measure), "unit": np.array(self.unit)}
        if self.axes[0] == "layer":
            found["layer"] = self.places(0)
        return found if self.tokens is None else {**found, "tokens": np.array(self.tokens, dtype=np.str_)}

    def chart(self, *, layer: int = -1) -> Grid | Bars:
        """A grid of one layer, or of the whole where there is one matrix only; bars where there is one axis.

        Parameters
        ----------
        layer
            Which layer of several, as the model counts them; negative counts from the end.

        Raises
        ------
        ArgumentError
            If there is no such layer.
        """
        if self.ndim == 3:
            # Without layers there is nothing to choose from, and an empty grid to see.
            none = replace(self, values=np.zeros((0, 0), self.dtype), axes=self.axes[1:], tokens=None)
            chosen = self.layer(layer) if len(self) else none
            grid = chosen.chart()
            number = layer if layer >= 0 else layer + self.first_layer + len(self)
            note = f"shown: {self._named(number)}; .layer(n) is another"
            return replace(grid, notes=(note,) * (len(self) > 1)) if isinstance(grid, Grid) else grid
        axes = [self._places_of(axis) for axis in range(self.ndim)]
        title = f"{self.measure} ({self.unit})"
        title = title[:1].upper() + title[1:]
        if self.ndim == 1:
            part = Bar(self.values, self._tips_of_bars())
            column = Column(axes[0], ChartAxis(f"{self.measure} ({self.unit})"), (part,))
            return Bars(title, (column,), is_upright=True, about=self._about())
        rows, columns = axes
        return Grid(title, rows, columns, self.values, self.unit, self._tips_of_grid(), about=self._about())

    def overview(self) -> Grid | Bars:
        """The chart."""
        return self.chart()

    def _places_of(self, axis: int) -> Places:
        name = self.axes[axis]
        numbers = tuple(self.places(axis).tolist())
        short = {"query_pos": "query", "key_pos": "key"}.get(name, name)
        tokens = (self.steps or None) if name == "layer" else self.tokens
        title = "step" if name == "layer" and self.steps else _TITLES[name]
        return Places(short, numbers, tokens, title, is_upward=name == "layer")

    def _named(self, number: int) -> str:
        """A place along the axis of layers, in words."""
        return self.steps[number - self.first_layer] if self.steps else f"layer {number}"

    def _names(self, axis: int) -> list[str]:
        """Names of the places of an axis in a tip."""
        numbers = self.places(axis).tolist()
        if self.axes[axis] == "layer":
            return [self._named(number) for number in numbers]
        return list(map(str, numbers)) if self.tokens is None else [f"{n} {visible(self.tokens[n])}" for n in numbers]

    def _tips_of_grid(self) -> Tip:
        # Named once: a matrix has far more places than rows and columns.
        rows, columns = self._names(0), self._names(1)
        arrow = "," if self.axes[0] == "layer" else " ←"
        return lambda row, column: (
            f"{rows[row]}{arrow} {columns[column]}",
            f"{self.values[row, column]:.6g} {self.unit}",
        )

    def _tips_of_bars(self) -> Callable[[int], tuple[str, ...]]:
        names = self._names(0)
        return lambda place: (names[place], f"{self.values[place]:.6g} {self.unit}")

    def _about(self) -> str:
        """Description of a picture, with the meaning of its colours."""
        axes = " × ".join(
            f"{size} {_COUNTED[name][size != 1]}" for size, name in zip(self.shape, self.axes, strict=True)
        )
        held = f", from {self.values.min():.3g} to {self.values.max():.3g}" if self.values.size else ""
        return f"{self.measure}, {axes}; colour: {self.unit}{held}"


_TITLES = {"layer": "layer", "query_pos": "query: token that is written", "key_pos": "key: token that is read"}
_COUNTED = {"layer": ("layer", "layers"), "query_pos": ("query", "queries"), "key_pos": ("key", "keys")}
_AXES = (
    ("layer", "query_pos", "key_pos"), ("layer", "query_pos"), ("query_pos", "key_pos"), ("query_pos",), ("key_pos",),
)  # fmt: skip


def checked_groups(groups: Any, count: int) -> list[list[int]]:
    """Check that groups hold each of ``count`` positions exactly once; returns them as lists.

    Raises
    ------
    ArgumentError
        If they do not, or are no lists of whole numbers.
    """
    try:
        found = [[operator.index(position) for position in group] for group in groups]
    except TypeError as error:
        raise ArgumentError(
            f"groups={groups!r} cannot be used; expected the positions of each group, such as [[0], [1, 2]]"
        ) from error
    flat = [position for group in found for position in group]
    outside = [position for position in flat if not 0 <= position < count]
    if outside:
        raise ArgumentError(f"groups hold position {outside[0]}; positions are 0…{count - 1}")
    if not all(found):
        raise ArgumentError("groups hold an empty group; give each at least one position")
    twice = sorted({position for position in flat if flat.count(position) > 1})
    missing = sorted(set(range(count)) - set(flat))
    if twice or missing:
        said = [
            f"{', '.join(map(str, some))} {what}" for some, what in ((missing, "missing"), (twice, "twice")) if some
        ]
        raise ArgumentError(f"groups must hold every position 0…{count - 1} exactly once; {' and '.join(said)}")
    return found


def rows_of_one(pattern: Float[np.ndarray, "..."], itemsize: int) -> Float[np.ndarray, "..."]:
    """Divide the rows of a pattern by their sums if its numbers had 16 bits; others stay as they are.

    ``itemsize`` is the number of bytes of the original numbers. Rounding to 16 bits moves row sums away from 1 by up to .008.
    """
    # Rows that were rounded apart are brought back to sum 1; a row of zeros stays zero.
    if itemsize > 2:
        return pattern
    whole = pattern.sum(-1, keepdims=True)
    divided: np.ndarray = np.divide(pattern, whole, out=np.zeros_like(pattern), where=whole > 0)
    return divided


def origin_of(attention_or_trace: Any) -> dict[str, Any]:
    """Tokens and first layer of a trace or of edge weights, as fields of a :class:`TokenMatrix`; of arrays they are not known.

    Parameters
    ----------
    attention_or_trace
        Any input of :func:`flowgraph.algorithms.attention.layer_matrices`.
    """
    joint = getattr(attention_or_trace, "joint", None)
    if joint is not None:
        info = attention_or_trace.info
        tokens = tuple(token for name, _ in joint.stacks for token in info.tokens_of(name))
        return {"tokens": tokens, "steps": joint.names}
    about = getattr(attention_or_trace, "info", attention_or_trace)
    if not hasattr(about, "tokens") or not hasattr(about, "layers"):
        return {}
    return {"tokens": tuple(about.tokens), "first_layer": about.layers[0]}
