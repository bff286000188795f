"""``ff``: how long each part is after attention and the feed-forward block (Kobayashi et al. 2024).

The state before the MLP at a token t is a sum of parts: one per source token s (Σ_h A^h_ts u^h_s), the residual stream, and
biases, which are no part. The MLP reads it through a norm, which is linear at its frozen scale, so its pre-activation is
b + Σ_j p_j with b from biases alone. Integrated gradients along b + α Σ_j p_j give each part its share of the neurons:

- without a gate p_j · (g(b + Σp) − g(b)) / Σp, in closed form;
- with a gate p_j^gate ∫ g'(gate) up dα + p_j^up ∫ g(gate) dα, by Gauss–Legendre quadrature.

That share times W_out is ff_j, and Σ_j ff_j + (what the MLP makes of biases alone) = mlp_out. The weight of part j on its way
to resid_post is ‖part_j + ff_j‖₂. What follows the MLP, a second norm, is frozen as well.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..models import LoadedModel
from ..models.anatomy import Block, Norm, no_neurons, upcast
from ..values.edge_weights import EdgeWeights
from ..values.trace import Trace
from .origin import array, origin

SOURCES = 16
"""Source tokens per target that go through the MLP one by one, unless told otherwise."""

POINTS, MOST_POINTS = 32, 1024
INTEGRATION_ERROR = 1e-5
"""Points of the quadrature are doubled until ‖error‖ / (‖neurons at the start‖ + ‖neurons at the end‖) is below this."""

_CHUNK_NUMBERS = 2**22
# Below |Σp| = √ε (1 + |b|) rounding of g(b + Σp) − g(b) costs the quotient more than the slope at b differs from it: both
# are about √ε there.
_SMALL = 2.0**-26

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FeedForwardParts:
    """Parts of one block at some targets t: k single sources, the residual stream, all other sources in one.

    Attributes
    ----------
    sources
        [t, k] the source tokens.
    parts
        [t, k + 2, d] what each brings to the state before the MLP.
    ff
        [t, k + 2, d] what the MLP makes of it.
    baseline
        [t, d] what the MLP makes of biases alone: mlp_out = Σ ff + baseline.
    lengths
        [t, k + 2] ‖part + ff‖₂, through the norm that follows where there is one.
    error
        [t] relative error of the integrals; 0 in closed form.
    """

    sources: Int[Tensor, "t k"]
    parts: Float[Tensor, "t n d"]
    ff: Float[Tensor, "t n d"]
    baseline: Float[Tensor, "t d"]
    lengths: Float[Tensor, "t n"]
    error: Float[Tensor, "t"]


def ff(trace: Trace, *, sources: int | None = SOURCES) -> EdgeWeights:
    """Weights ‖part + ff‖₂ of attention and residual stream; everything enters resid_post, heads are taken together.

    Parts go through the MLP one by one for the sources with the largest ‖part‖₂, the token itself always among them, and
    all others as one, whose weight is ``rest``. In parallel blocks the MLP reads the residual stream alone: it belongs to
    the residual edge, and every source is listed.

    Parameters
    ----------
    trace
        A trace with its model.
    sources
        How many source tokens per target go one by one; None for all. The cost is their number times T · d_model · d_mlp.

    Raises
    ------
    ArgumentError
        If ``sources`` is below 1.
    UnsupportedReadingError
        If the model's MLPs have no neurons.

    References
    ----------
    Kobayashi et al. (2024), "Analyzing Feed-Forward Blocks in Transformers through the Lens of Attention Maps". There the
    residual stream belongs to the part of the token itself; here it is an edge of its own.
    """
    if sources is not None and sources < 1:
        raise ArgumentError(f"sources={sources} must be at least 1 (the token itself), or None for all tokens")
    why = refusal(trace.model)
    if why:
        raise UnsupportedReadingError(why)
    n, t = trace.layers[1] - trace.layers[0], len(trace.tokens)
    summed, residual, rest = np.zeros((n, t, t)), np.zeros((n, t)), np.zeros((n, t))
    worst = 0.0
    for row in range(n):
        block = _Block.of(trace, row)
        if trace.wiring == "parallel":
            summed[row] = array(block.source_lengths())
        for at, found in block.chunks(sources):
            lengths = array(found.lengths)
            np.put_along_axis(summed[row, at], found.sources.cpu().numpy(), lengths[:, :-2], axis=1)
            residual[row, at], rest[row, at] = lengths[:, -2], lengths[:, -1]
            worst = max(worst, float(found.error.max()))
    if worst > INTEGRATION_ERROR:
        warnings.warn(
            f"method 'ff': integrals along the gated MLPs of {trace.model_name!r} have a relative error of {worst:.1g} with "
            f"{MOST_POINTS} points, above {INTEGRATION_ERROR:g}; activations with a kink do this",
            stacklevel=2,
        )
    reaches_logit = trace.target is not None and trace.layers[1] == trace.n_layers
    every = sources is None or sources >= t or trace.wiring == "parallel"
    options = {} if sources == SOURCES else {"sources": "all" if sources is None else sources}
    return EdgeWeights(
        info=replace(origin(trace, "ff", "norm"), options=options),
        parallel=True,
        query_positions=tuple(range(t)),
        attention=np.zeros((n, 0, t, t)),
        attention_summed=summed,
        head=np.zeros((n, 0, t)),
        residual=residual,
        rest=None if every else rest,
        unembed=float(np.linalg.norm(array(trace.resid_post[-1, trace.position]))) if reaches_logit else None,
    )


def refusal(model: LoadedModel) -> str:
    """Why this method cannot be used with a model; empty where it can."""
    anatomy, name = model.anatomy, model.name
    if not anatomy.has_neurons:
        return f"method 'ff' takes an MLP apart: {no_neurons(anatomy)}"
    try:
        anatomy.refuse_gates("method 'ff'")
    except UnsupportedReadingError as error:
        return str(error)
    if anatomy.exchanges:
        return (
            f"method 'ff' takes one attention and the MLP after it as one step, and {name!r} attends twice before each MLP "
            "that follows attention to the other stack; take 'norms' or 'proximity', which go through both stacks"
        )
    if anatomy.cross is not None:
        return (
            f"method 'ff' takes one attention and the MLP after it as one step, and before each MLP {name!r} attends twice, to "
            "what is written and to its encoder, with a state between; take 'norms' or 'proximity' over both stacks, or "
            "edge_weights(trace.stacks['encoder'], method='ff') for the encoder"
        )
    if anatomy.has_gaps:
        return (
            f"method 'ff' takes the state before each MLP apart into tokens, and some layers of {name!r} mix them by "
            "something else than attention; take 'norms' or 'proximity'"
        )
    return ""


@dataclass(frozen=True, eq=False)
class _Frozen:
    """A norm at its actual scales; no norm at all where there is none."""

    norm: Norm | None
    scale: Float[Tensor, "T"] | None

    def linear(self, x: Float[Tensor, "t n d"], at: slice) -> Float[Tensor, "t n d"]:
        """Parts at some targets, without the norm's bias."""
        if self.norm is None or self.scale is None:
            return x
        return self.norm.linear(x, self.scale[at, None])

    def whole(self, x: Float[Tensor, "t d"], at: slice) -> Float[Tensor, "t d"]:
        """What is no part, with the norm's bias."""
        x = self.linear(x[:, None], at)[:, 0]
        return x if self.norm is None or self.norm.bias is None else x + self.norm.bias


@dataclass(frozen=True, eq=False)
class _Block:
    """One block as the sums and linear maps that its parts go through.

    ``coefficient[h, t, s] · vectors[h, s]`` is what a head brings from s to t; ``bias`` is what the state before the MLP has
    besides its parts. ``before``, ``inside`` and ``after`` are the norms on the MLP's input, on its output, and on their sum.
    ``W_in`` and ``b_in`` are those of the gate, where there is one, and of the input. ``attended`` is False where the MLP
    does not see what attention adds.
    """

    coefficient: Float[Tensor, "H T S"]
    vectors: Float[Tensor, "H S d"]
    residual: Float[Tensor, "T d"]
    bias: Float[Tensor, "T d"]
    attended: bool
    before: _Frozen
    inside: _Frozen
    after: _Frozen
    mlp: Block
    W_in: tuple[Float[Tensor, "d m"], ...]
    b_in: tuple[Float[Tensor, "m"] | None, ...]
    W_out: Float[Tensor, "m d"]
    b_out: Float[Tensor, "d"] | None

    @classmethod
    def of(cls, trace: Trace, row: int) -> _Block:
        anatomy, layer = trace.model.anatomy, trace.layers[0] + row
        block, scales = anatomy.blocks[layer], trace.norm_scales
        none = _Frozen(None, None)
        over_attention, mlp_norm = none, _Frozen(block.mlp_norm, scales["mlp"][row])
        post_norm, parallel = trace.wiring == "post_norm", trace.wiring == "parallel"
        if block.attention_post_norm is not None:
            over_attention = _Frozen(block.attention_post_norm, scales["attention_post"][row])
        elif post_norm:
            over_attention = _Frozen(block.attention_norm, scales["attention"][row])
        coefficient, residual = upcast(trace.pattern[row]), upcast(trace.resid_pre[row])
        vectors = anatomy.per_query_head(upcast(trace.v[row])) @ anatomy.W_O(layer)
        if over_attention.norm is not None and over_attention.scale is not None:
            # Its gain goes into the vectors, which no target changes, its scale into the coefficients.
            vectors = over_attention.norm.linear(vectors, vectors.new_ones(1, 1))
            coefficient = coefficient / upcast(over_attention.scale)[:, None]
        everywhere, b_O = slice(None), block.output_projection.bias
        bias = torch.zeros_like(residual) if b_O is None or parallel else b_O.expand_as(residual)
        projections = [p for p in (block.mlp_gate, block.mlp_input) if p is not None]
        return cls(
            coefficient=coefficient,
            vectors=vectors,
            residual=over_attention.linear(residual[:, None], everywhere)[:, 0] if post_norm else residual,
            bias=over_attention.whole(bias, everywhere),
            attended=not parallel,
            before=none if post_norm else mlp_norm,
            inside=none if block.mlp_post_norm is None else _Frozen(block.mlp_post_norm, scales["mlp_post"][row]),
            after=mlp_norm if post_norm else none,
            mlp=block,
            W_in=tuple(p.weight for p in projections),
            b_in=tuple(p.bias for p in projections),
            W_out=block.neuron_layers.output.weight,
            b_out=block.neuron_layers.output.bias,
        )

    def source_lengths(self) -> Float[Tensor, "T S"]:
        """[T, S] ‖Σ_h A^h_ts u^h_s‖, from the products of each source's vectors: never a [T, S, d] array."""
        gram = torch.einsum("hsd,gsd->shg", self.vectors, self.vectors)
        a = self.coefficient.permute(2, 1, 0)
        return (a @ gram * a).sum(-1).clamp_min(0).sqrt().T

    def chunks(self, sources: int | None) -> Iterator[tuple[slice, FeedForwardParts]]:
        """Parts at all targets, so many targets at a time as fit; single sources are those with the longest parts."""
        count = len(self.residual)
        # Sources without any pattern (later ones, and those outside a window) are no parts; a length may round to 0.
        brings = (self.coefficient != 0).any(0).fill_diagonal_(True)
        lengths = self.source_lengths().masked_fill(~brings, -1.0).fill_diagonal_(torch.inf)
        most = 0 if not self.attended else count if sources is None else min(sources, count)
        size = max(1, _CHUNK_NUMBERS // ((most + 2) * len(self.W_in) * len(self.W_out)))
        for start in range(0, count, size):
            at = slice(start, min(start + size, count))
            single = min(most, int(brings[at].sum(-1).max()))
            yield at, self.parts(at, lengths[at].topk(single).indices)

    def parts(self, at: slice, sources: Int[Tensor, "t k"]) -> FeedForwardParts:
        """Parts at some targets, given their single sources."""
        state = torch.cat([self._brought(at, sources), self.residual[at, None], self._others(at, sources)], 1)
        seen = self.before.linear(state, at)
        constant = self.before.whole(self.bias[at], at)
        pieces = [seen @ weight for weight in self.W_in]
        starts = [constant @ weight for weight in self.W_in]
        starts = [x if b is None else x + b for x, b in zip(starts, self.b_in, strict=True)]
        factors, error = _factors(self.mlp.neuron_layers.activation, starts, [piece.sum(1) for piece in pieces])
        neurons = pieces[0].mul_(factors[0][:, None])
        for piece, factor in zip(pieces[1:], factors[1:], strict=True):
            neurons.addcmul_(piece, factor[:, None])
        made = self.inside.linear(neurons @ self.W_out, at)
        alone = self.mlp.neurons(starts[0] if len(starts) > 1 else None, starts[-1]) @ self.W_out
        alone = alone if self.b_out is None else alone + self.b_out
        return FeedForwardParts(
            sources=sources,
            parts=state,
            ff=made,
            baseline=self.inside.whole(alone, at),
            lengths=torch.linalg.vector_norm(self.after.linear(state + made, at), dim=-1),
            error=error,
        )

    def _brought(self, at: slice, sources: Int[Tensor, "t k"]) -> Float[Tensor, "t k d"]:
        """[t, k, d] Σ_h A^h_ts u^h_s of single sources, one head after another, which keeps the memory of one."""
        picked = self.vectors.new_zeros(*sources.shape, self.vectors.shape[-1])
        for pattern, vectors in zip(self.coefficient[:, at], self.vectors, strict=True):
            picked.addcmul_(pattern.gather(1, sources)[..., None], vectors[sources])
        return picked

    def _others(self, at: slice, sources: Int[Tensor, "t k"]) -> Float[Tensor, "t 1 d"]:
        """[t, 1, d] Σ_s Σ_h A^h_ts u^h_s over all other sources; nothing where the MLP does not see them."""
        if not self.attended:
            return torch.zeros_like(self.residual[at, None])
        others = self.coefficient[:, at].scatter(2, sources.expand(len(self.vectors), -1, -1), 0.0)
        return torch.einsum("hts,hsd->td", others, self.vectors)[:, None]


def _factors(
    activation: Activation, starts: list[Tensor], steps: list[Tensor]
) -> tuple[list[Float[Tensor, "t m"]], Float[Tensor, "t"]]:
    """What each p_j is multiplied by, for the gate (where there is one) and the input, and the error of the integrals.

    In float64 whatever the model has: these are numbers per neuron, not per part, and the quotient needs the digits.
    """
    dtype = starts[0].dtype
    starts, steps = [x.double() for x in starts], [x.double() for x in steps]
    if len(starts) == 1:
        return [mean_slope(activation, starts[0], steps[0]).to(dtype)], starts[0].new_zeros(len(starts[0]))
    by_gate, by_up, error = gated_means(activation, (starts[0], starts[1]), (steps[0], steps[1]))
    return [by_gate.to(dtype), by_up.to(dtype)], error


def mean_slope(activation: Activation, start: Float[Tensor, "t m"], step: Float[Tensor, "t m"]) -> Float[Tensor, "t m"]:
    """[t, m] (g(start + step) − g(start)) / step, and g'(start) where the step is too small for the quotient."""
    value, slope = _value_and_slope(activation, start)
    small = step.abs() <= _SMALL * (1 + start.abs())
    quotient = (activation(start + step) - value) / torch.where(small, 1.0, step)
    return torch.where(small, slope, quotient)


def gated_means(
    activation: Activation,
    start: tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]],
    step: tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]],
) -> tuple[Float[Tensor, "t m"], Float[Tensor, "t m"], Float[Tensor, "t"]]:
    """Means over α in [0, 1] of g'(gate) · up and of g(gate), and the relative error of each target.

    The error is that of step_gate · first + step_up · second = g(gate) · up at the end less that at the start. Targets that are
    not there yet are taken again with twice as many points.
    """
    (gate, up), (gate_step, up_step) = start, step
    before, after = activation(gate) * up, activation(gate + gate_step) * (up + up_step)
    size = (before.norm(dim=-1) + after.norm(dim=-1)).clamp_min(torch.finfo(gate.dtype).tiny)
    by_gate, by_up, points = *_quadrature(activation, start, step, POINTS), POINTS
    while True:
        error = (gate_step * by_gate + up_step * by_up - (after - before)).norm(dim=-1) / size
        again = (error > INTEGRATION_ERROR).nonzero()[:, 0]
        points *= 2
        if not len(again) or points > MOST_POINTS:
            return by_gate, by_up, error
        some = (gate[again], up[again]), (gate_step[again], up_step[again])
        by_gate[again], by_up[again] = _quadrature(activation, *some, points)


def _quadrature(
    activation: Activation,
    start: tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]],
    step: tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]],
    points: int,
) -> tuple[Float[Tensor, "t m"], Float[Tensor, "t m"]]:
    """The means of :func:`gated_means` by Gauss–Legendre quadrature, one point after another."""
    (gate, up), (gate_step, up_step) = start, step
    by_gate, by_up = torch.zeros_like(gate), torch.zeros_like(gate)
    for alpha, weight in _legendre(points):
        value, slope = _value_and_slope(activation, torch.add(gate, gate_step, alpha=alpha))
        by_gate.addcmul_(slope, torch.add(up, up_step, alpha=alpha), value=weight)
        by_up.add_(value, alpha=weight)
    return by_gate, by_up


@lru_cache(maxsize=8)
def _legendre(points: int) -> list[tuple[float, float]]:
    """Nodes and weights of Gauss–Legendre quadrature over [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return list(zip(((nodes + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def _value_and_slope(activation: Activation, x: Float[Tensor, "t m"]) -> tuple[Tensor, Tensor]:
    """g(x) and g'(x) of an elementwise g."""
    # A caller's inference mode would keep no record to differentiate.
    with torch.inference_mode(mode=False), torch.enable_grad():
        x = x.clone().requires_grad_()
        value = activation(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), slope
