"""Graphs at token level in which some layers are shown as their heads all the same.

Of a layer that is opened, the edges that all heads bring together make way for those into each head and from there into the
state; all other edges stay as they are. That says the same only where the numbers of the heads add up to the number that they
stand for (``EdgeWeights.additive``), and is refused elsewhere: the length of a sum of vectors is not the sum of their lengths.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

from ..errors import ArgumentError
from ..values.edge_weights import EdgeWeights


def layers_opened(weights: EdgeWeights, level: str, heads_in: Sequence[int]) -> tuple[int, ...]:
    """The layers that are opened into their heads, in order and each once.

    Parameters
    ----------
    weights
        Dense weights.
    level
        ``"token"`` where a layer is to be opened; at ``"head"`` every layer is.
    heads_in
        Numbers of layers.

    Raises
    ------
    ArgumentError
        If every layer is opened already, the weights do not have such a layer, or their numbers for heads do not add up to those
        for the heads together.
    """
    layers = tuple(sorted({operator.index(layer) for layer in heads_in}))
    if not layers:
        return ()
    said = f"heads_in={','.join(map(str, layers))}"
    if level == "head":
        raise ArgumentError(
            f"{said} opens layers into their heads, and level='head' shows all layers so; use level='token'"
        )
    if weights.heads_together:
        raise ArgumentError(
            f"{said} cannot be shown under the method {weights.info.method_text!r}: it takes heads together; choose a method "
            "that tells them apart, as attention, proximity and logits do"
        )
    if not weights.additive:
        raise ArgumentError(
            f"{said} cannot be shown under the method {weights.info.method_text!r}: its numbers for heads do not add up to those "
            "for the heads together; choose level='head' for all layers, or a method whose numbers do, as attention, proximity "
            "and logits"
        )
    first, stop = weights.info.layers
    outside = [layer for layer in layers if not first <= layer < stop]
    if outside:
        raise ArgumentError(f"heads_in={outside[0]} is not among the layers that are drawn, {first}…{stop - 1}")
    return layers
