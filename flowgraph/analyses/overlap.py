"""How much two readings say the same: the part of their top tokens that they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ..charts.axis import Axis
from ..charts.lines import Lines, Panel, Series
from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..values.arguments import takes
from ..values.reading import Reading


@dataclass(frozen=True, eq=False)
class LayerOverlap(Result):
    """Top-k overlap of two readings, layer by layer.

    Attributes
    ----------
    k
        How many top tokens are compared.
    first_layer
        Layer of the model that row 0 stands for.
    values
        [layer, place] I_k between 0 and 1; places are all that a reading has within a layer (positions, heads × positions).
    mean
        [layer] their mean over places.
    """

    k: int
    first_layer: int
    values: Float[np.ndarray, "layer place"]
    mean: Float[np.ndarray, "layer"]

    def __repr__(self) -> str:
        layers, places = self.values.shape
        return f"LayerOverlap(top {self.k}, {layers} layers × {places} places, mean {self.mean.min():.2f}…{self.mean.max():.2f})"

    def table(self) -> Table:
        """One row for each layer and place: ``layer``, ``place``, ``overlap``."""
        layers, places = self.values.shape
        layer = np.repeat(np.arange(self.first_layer, self.first_layer + layers), places)
        place = np.tile(np.arange(places), layers)
        return Table(repr(self), {"layer": layer, "place": place, "overlap": self.values.ravel()}, both_ends=True)

    def arrays(self) -> dict[str, np.ndarray]:
        """``values`` [layer, place], ``mean`` [layer], ``layer`` and ``k``."""
        layer = np.arange(self.first_layer, self.first_layer + len(self.mean))
        return {"values": self.values, "mean": self.mean, "layer": layer, "k": np.array(self.k)}

    def chart(self) -> Lines:
        """Every place as a point over its layer, and their mean as a line."""
        layers, places = self.first_layer + np.arange(len(self.mean), dtype=np.float64), self.values.shape[1]
        x, y = np.repeat(layers, places), self.values.ravel()
        each = Series("one place", "rest", x, y, lambda n: (f"L{x[n]:.0f}: {y[n]:.2f}",))
        mean = Series(
            f"mean of {places:,} places", "main", layers, self.mean, lambda n: (f"L{layers[n]:.0f}: {self.mean[n]:.3f}",),
            is_joined=True,
        )  # fmt: skip
        return Lines(
            title=f"Overlap of the top {self.k} tokens of two readings",
            x=Axis("layer", ticks=tuple((layer, f"{layer:.0f}") for layer in layers.tolist())),
            panels=(Panel(Axis(f"part of the top {self.k} tokens shared", ends=(-0.04, 1.04)), (each, mean)),),
        )


@takes(Reading, Reading)
def overlap(one: Reading, other: Reading, k: int = 10) -> Float[np.ndarray, "N"]:
    """[N] top-k overlap of each vector of one reading with the same vector of another: I_k = |top_k ∩ top_k| / k.

    1 where both have the same k best tokens, in whatever order; 0 where they have none in common.

    Parameters
    ----------
    one, other
        Readings of equal shape over the same vocabulary: of two sites, or of the same site for two prompts.
    k
        How many top tokens to compare; both readings must hold as many.

    Raises
    ------
    ArgumentError
        If the readings differ in shape, or hold fewer than k tokens.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers", who compare
    queries, keys and values of heads, and states before and after a norm, in this way.

    Examples
    --------
    >>> before = fg.read(trace, trace.site("resid_pre")[:, -1])
    >>> after = fg.read(trace, trace.site("resid_post")[:, -1])
    >>> fg.overlap(before, after, k=5).shape  # a number between 0 and 1 for each layer
    (30,)
    """
    if one.shape != other.shape:
        raise ArgumentError(f"one has shape {one.shape} and other {other.shape}; overlap needs readings of equal shape")
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    for name, reading in (("one", one), ("other", other)):
        held = reading.top_token_ids.shape[1]
        if held < k:
            raise ArgumentError(f"{name} holds {held} top tokens, k={k}; read it again with k={k} or more")
    shared = one.top_token_ids[:, :k, None] == other.top_token_ids[:, None, :k]
    # The ids of one row differ, so each match is one token in common.
    found: np.ndarray = shared.sum((1, 2)) / k
    return found


@takes(Reading, Reading)
def overlap_by_layer(one: Reading, other: Reading, k: int = 10, *, first_layer: int = 0) -> LayerOverlap:
    """Top-k overlap of two readings whose first axis is the layer, such as those of :func:`flowgraph.logit_lens`.

    Parameters
    ----------
    one, other, k
        As for :func:`overlap`; the shape is (layer, position), or (layer, head, position).
    first_layer
        Layer of the model that row 0 stands for, where the trace keeps a window.

    Raises
    ------
    ArgumentError
        As for :func:`overlap`, and if the readings have no layers.
    """
    if len(one.shape) < 2:
        raise ArgumentError(
            f"one has shape {one.shape}; by layer it needs (layer, position) or (layer, head, position)"
        )
    values = overlap(one, other, k).reshape(one.shape[0], -1)
    return LayerOverlap(k=k, first_layer=first_layer, values=values, mean=values.mean(-1))
