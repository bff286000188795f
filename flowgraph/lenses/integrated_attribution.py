"""Taking a logit apart where the head is not linear: the head's slope, averaged along a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, NonFiniteError
from ..models.anatomy import Anatomy, Norm, upcast
from ..values.arguments import takes
from ..values.places import position_of
from ..values.trace import Trace
from .direct_attribution import LogitParts, logit_before_cap, parts_of, target_and_foil


@dataclass(frozen=True, eq=False, repr=False)
class IntegratedAttribution(LogitParts):
    """A logit of any head as the sum of its parts, by the head's slope averaged along a line.

    The attributes are those of :class:`LogitParts`; ``biases["head_at_zero"]`` is what the head gives where all parts are zero.

    Attributes
    ----------
    points
        Points at which the head's slope was taken.
    """

    points: int = 32

    def _how(self) -> str:
        return f", integrated at {self.points} points"


@takes(Trace)
def integrated_attribution(
    trace: Trace,
    target: str | int | None = None,
    foil: str | int | None = None,
    *,
    position: int | None = None,
    points: int = 32,
) -> IntegratedAttribution:
    """Take the logit of a head that is not linear apart into what each head, neuron, embedding and bias wrote.

    On the straight line from the point where all parts are zero to the actual state the slope of the head is averaged; a part is
    its product with that. The sum of all parts, and of what the head gives at the beginning of the line, is the logit, up to the
    rule's error: ``completeness_error`` says how far off. On a linear head this is direct logit attribution.

    Norms between a part and the head are frozen at their actual scales: the final norm, and in post-norm blocks those on the
    stream. The parts are those of :func:`flowgraph.direct_logit_attribution`.

    Parameters
    ----------
    trace
        A trace of all layers with its model attached.
    target, foil
        Token or class, and optionally the one whose logit is subtracted; default those of the trace.
    position
        Query position; default the trace's. A classifier reads its own.
    points
        Points of the Gauss–Legendre rule along the line, in the logarithm of the distance from its beginning. Where the head has
        kinks, the line is halved, and each piece has as many.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If the trace does not hold all layers, or there is no such position or number of points.
    NonFiniteError
        If the head's slope is not finite somewhere on the line, as may happen in half precision.

    References
    ----------
    Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks".

    Examples
    --------
    >>> parts = fg.integrated_attribution(trace)
    >>> direct = fg.direct_logit_attribution(trace)
    >>> bool(abs(parts.heads - direct.heads).max() < 1e-3)
    True
    """
    loaded = trace.model
    loaded.require_head("integrated attribution")
    if trace.layers != (0, trace.n_layers):
        raise ArgumentError(f"integrated_attribution needs all {trace.n_layers} layers; the trace kept {trace.layers}")
    if not 1 <= points <= _MOST_POINTS:
        raise ArgumentError(f"points={points} must be between 1 and {_MOST_POINTS}")
    at = trace.position if position is None else position_of(trace, position)
    aim = target_and_foil(trace, target, foil)
    anatomy = loaded.anatomy
    states = upcast(trace.resid_post[-1].detach().to(loaded.device))
    pooled = anatomy.readout is not None and anatomy.readout.place == "several"
    rows = list(range(len(states))) if pooled else [at]
    norm = anatomy.readout.norm if anatomy.readout is not None else anatomy.final_norm
    scales = None if norm is None else norm.scale(states[rows])
    end = _normed(norm, states[rows], scales)
    start = torch.zeros_like(end)
    if norm is not None and norm.bias is not None:
        # Where all parts are zero the norm still gives its bias.
        start = start + norm.bias
    line = _Line(trace, start, end, aim, normed=norm is not None)
    slope, used = line.averaged(points)
    if not bool(torch.isfinite(slope).all()):
        raise NonFiniteError(
            f"the slope of {loaded.name!r}'s head is not finite on the way from zero, where a norm inside it meets numbers that "
            f"{str(loaded.dtype).removeprefix('torch.')} cannot hold; load the model with dtype='float32'"
        )
    biases = {"head_at_zero": float(line.values(np.zeros(1))[0])}
    directions = {}
    for n, row in enumerate(rows):
        if bool(slope[n].any()):
            directions[row] = slope[n] if norm is None or scales is None else norm.transposed(slope[n], scales[n])
    return parts_of(
        IntegratedAttribution,
        trace,
        directions,
        biases,
        _logit(trace, aim, at),
        (*aim, at),
        is_pooled=pooled,
        points=used,
    )


_MOST_POINTS = 4096
_MOST_PIECES = 64
_TOLERANCE = 1e-4
"""Error, in parts of the logit, that is not worth another halving."""
_DECADES = 14.0
"""Natural logarithm of the line's length over the first steps' on it."""
_ROWS = 8
"""Points that are run at once where a head reads many positions."""


def _normed(norm: Norm | None, x: Tensor, scale: Tensor | None) -> Tensor:
    if norm is None or scale is None:
        return x
    made = norm.linear(x, scale)
    return made if norm.bias is None else made + norm.bias


class _Line:
    """The straight line between two (normed) states, and the logit along it."""

    def __init__(self, trace: Trace, start: Tensor, end: Tensor, aim: tuple[int, int | None], *, normed: bool) -> None:
        self.trace, self.start, self.end, self.aim, self.normed = trace, start, end, aim, normed

    def _at(self, places: np.ndarray) -> Tensor:
        a = torch.from_numpy(places).to(self.end)[:, None, None]
        return (self.start + a * (self.end - self.start)).detach()

    def values(self, places: np.ndarray) -> np.ndarray:
        """[place] the logit."""
        with torch.inference_mode(mode=False), torch.no_grad():
            found = _aimed(_head(self.trace, self._at(places), normed=self.normed), self.aim)
        values: np.ndarray = found.double().cpu().numpy()
        return values

    def slope(self, places: np.ndarray, shares: np.ndarray) -> Float[Tensor, "row d_model"]:
        """[row, d_model] sum of the logit's slopes at the places, times their shares."""
        total = torch.zeros_like(self.end)
        with torch.inference_mode(mode=False), torch.enable_grad():
            for first in range(0, len(places), _ROWS):
                some = slice(first, first + _ROWS)
                x = self._at(places[some]).requires_grad_()
                value = _aimed(_head(self.trace, x, normed=self.normed), self.aim)
                (found,) = torch.autograd.grad(value.sum(), x)
                total = total + (found * torch.from_numpy(shares[some]).to(x)[:, None, None]).sum(0)
        return total

    def averaged(self, points: int) -> tuple[Float[Tensor, "row d_model"], int]:
        """[row, d_model] mean slope over the line, and how many points it took.

        The logit is known at the ends of each piece of the line, so each piece knows its own error. The worst is halved as long as
        all together are off: a head with kinks, such as a ReLU, needs it.
        """
        moved = (self.end - self.start).double()

        def piece(
            begin: float, stop: float, at: tuple[float, float]
        ) -> tuple[float, float, tuple[float, float], Tensor, float]:
            places, shares = _rule(points, begin, stop)
            slope = self.slope(places, shares)
            return begin, stop, at, slope, at[1] - at[0] - float((slope.double() * moved).sum())

        first, last = self.values(np.array([0.0, 1.0])).tolist()
        pieces = [piece(0.0, 1.0, (first, last))]
        allowed = _TOLERANCE * max(1.0, abs(last))
        while abs(sum(one[-1] for one in pieces)) > allowed and len(pieces) < _MOST_PIECES:
            worst = max(range(len(pieces)), key=lambda n: abs(pieces[n][-1]))
            begin, stop, at, _, _ = pieces.pop(worst)
            middle = (begin + stop) / 2
            value = float(self.values(_places(np.array([middle])))[0])
            pieces += [piece(begin, middle, (at[0], value)), piece(middle, stop, (value, at[1]))]
        return torch.stack([one[3] for one in pieces]).sum(0), points * (2 * len(pieces) - 1)


def _logit(trace: Trace, aim: tuple[int, int | None], at: int) -> float:
    """The model's own logit, before a soft-cap."""
    target, foil = aim
    if trace.model.anatomy.readout is not None and trace.logits is not None:
        return float(_aimed(upcast(trace.logits)[None], aim)[0])
    found = logit_before_cap(trace, target, at)
    return found if foil is None else found - logit_before_cap(trace, foil, at)


def _places(s: np.ndarray) -> np.ndarray:
    """Distances from the beginning of the line, in parts of it, of numbers from 0 to 1."""
    found: np.ndarray = np.expm1(_DECADES * s) / np.expm1(_DECADES)
    return found


def _rule(points: int, begin: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Places on a piece of the line and their shares: a Gauss–Legendre rule in the logarithm of the distance from the beginning.

    A norm inside the head turns within a tiny distance from where all parts are zero; even steps would pass over that.
    """
    nodes, weights = np.polynomial.legendre.leggauss(points)
    s = begin + (stop - begin) * (nodes + 1) / 2
    return _places(s), weights * (stop - begin) / 2 * _DECADES * np.exp(_DECADES * s) / np.expm1(_DECADES)


def _aimed(logits: Float[Tensor, "n d_vocab"], aim: tuple[int, int | None]) -> Float[Tensor, "n"]:
    target, foil = aim
    return logits[:, target] if foil is None else logits[:, target] - logits[:, foil]


def _head(trace: Trace, x: Float[Tensor, "n row d_model"], *, normed: bool) -> Float[Tensor, "n d_vocab"]:
    """Logits before a soft-cap of (normed) states, [n, row, d_model] of all rows that the head reads."""
    anatomy: Anatomy = trace.model.anatomy
    readout = anatomy.readout
    if readout is not None and readout.place == "several":
        found: Tensor = readout.tail.of(x, normed=normed)
        return found
    y: Any = x[:, 0]
    if readout is not None and anatomy.has_whole_head:
        alone: Tensor = readout.tail.of(y[:, None].expand(-1, readout.tail.length, -1), normed=normed)
        return alone
    for module in anatomy.head:
        y = module(y.to(trace.model.dtype))
    return upcast(y) * anatomy.logit_factor
