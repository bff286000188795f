"""How a token rises and falls along the residual stream of one position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..lenses import read
from ..models.anatomy import wide
from ..nodes import Node, label
from ..reading import Reading
from ..recorded import Trace
from .places import position_of

_TOP = 5


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Readings of one position through all sites, in the order in which the model passes them.

    Every reading says rank, probability and log-probability (nats) of the target, and of the foil where there is one.

    Attributes
    ----------
    model, position, token
        Model, query position and the token that stands there.
    layers
        First and one-past-last layer.
    sites
        [S] labels of the states: ``embed`` (a window that starts later: ``L3.resid_pre``), ``L0.resid_mid``,
        ``L0.resid_post``, …; parallel blocks have no ``resid_mid``.
    depth
        [S] how many blocks each state has behind it; between attention and MLP one half.
    stream
        Reading of the states, shape (S,).
    attention, mlp
        Readings of what attention and MLP of each layer add, each read by itself, shape (layer,).
    """

    model: str
    position: int
    token: str
    layers: tuple[int, int]
    sites: tuple[str, ...]
    depth: Float[np.ndarray, "S"]
    stream: Reading
    attention: Reading
    mlp: Reading


def trajectory(
    trace: Trace, *, position: int | None = None, target: str | int | None = None, foil: str | int | None = None
) -> Trajectory:
    """Follow a token, and a second one, through every state of a position.

    Parameters
    ----------
    trace
        A trace with its model that holds ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` and ``mlp_out``.
    position
        Query position; default the trace's, negative counts from the end.
    target, foil
        Tokens to follow; default those of the trace.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If the prompt has no such position.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens".
    """
    trace.model.require_head("a trajectory")
    t = position_of(trace, position)
    places = _states(trace, t)
    added = [wide(site[:, t]) for site in (trace.attn_out, trace.mlp_out)]
    k = min(_TOP, trace.model.anatomy.d_vocab)
    stream, attention, mlp = (
        read(trace, vectors, k=k, target=target, foil=foil)
        for vectors in (torch.stack([state for _, _, state in places]), *added)
    )
    return Trajectory(
        model=trace.model_name,
        position=t,
        token=trace.tokens[t],
        layers=trace.layers,
        sites=tuple(name for name, _, _ in places),
        depth=np.array([depth for _, depth, _ in places]),
        stream=stream,
        attention=attention,
        mlp=mlp,
    )


def _states(trace: Trace, position: int) -> list[tuple[str, float, Tensor]]:
    """Label, depth and vector of every state."""
    first, stop = trace.layers
    start = Node("embed") if first == 0 else Node("resid_pre", layer=first)
    found = [(label(start), float(first), wide(trace.resid_pre[0, position]))]
    for row, layer in enumerate(range(first, stop)):
        if trace.resid_mid is not None:
            found.append((label(Node("resid_mid", layer=layer)), layer + 0.5, wide(trace.resid_mid[row, position])))
        found.append((label(Node("resid_post", layer=layer)), layer + 1.0, wide(trace.resid_post[row, position])))
    return found
