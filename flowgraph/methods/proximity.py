"""``proximity``: how much nearer each part brings the sum of the others to the whole (information flow routes).

s_i = max(0, ‖y‖₁ − ‖y − part_i‖₁), shares s_i / Σ s. Parts are one per head and source, one for the residual stream, one for
the MLP (Ferrando & Voita 2024); or one per source, its heads taken together, with the residual stream in that of the token
itself: ALTI (Ferrando et al. 2022), whose measure this is. Biases are never parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from ..errors import ArgumentError
from ..kernels.proximity import proximity_of_parts, proximity_of_sums
from ..values.edge_weights import EdgeWeights
from ..values.node import Node, NodeKind
from ..values.trace import Trace
from .joint import StepWeights, TraceStep, is_joint, joint_weights
from .mixture import mixture_of
from .origin import array, origin
from .parts import AttentionParts, MlpParts, attention_parts, mlp_parts, parts_by_target


@dataclass(frozen=True, eq=False)
class _Step:
    """Shares of one sum besides attention: residual, MLP, and where they follow the substitute."""

    residual: Float[np.ndarray, "T"]
    mlp: Float[np.ndarray, "T"]
    undefined: Bool[np.ndarray, "T"]
    mixer: Float[np.ndarray, "T"] | None = None


def proximity(trace: Trace, *, parts: Literal["head", "token"] = "head") -> EdgeWeights:
    """Weights c_i of every part, which sum to 1 over what enters a state and are the shares; an MLP has one input, weight 1.

    A whole that no part brings nearer (an MLP that cancels most of the stream) has no shares by the formula: they follow
    ‖part‖₁ instead, and the state is listed as ``undefined``.

    Parameters
    ----------
    trace
        A trace with its model.
    parts
        ``"head"``: information flow routes. ``"token"``: ALTI; heads are not told apart, and what a token keeps of itself,
        through attention or along the stream, is one part, on the residual edge.

    References
    ----------
    Ferrando & Voita (2024), "Information Flow Routes: Automatically Interpreting Language Models at Scale"; Ferrando, Gállego
    & Costa-jussà (2022), "Measuring the Mixing of Contextual Information in the Transformer".
    """
    if parts not in ("head", "token"):
        raise ArgumentError(
            f"parts={parts!r} is not known; expected 'head' (one part for each head and token) or 'token'"
        )
    if is_joint(trace):
        return joint_weights(
            trace, partial(_of_step, by_head=parts == "head"), method="proximity", unit="share", unembed=1.0,
            additive=parts == "head", options={} if parts == "head" else {"parts": parts},
        )  # fmt: skip
    parallel = trace.wiring == "parallel"
    first, stop = trace.layers
    rows, heads, count = range(stop - first), trace.n_heads if parts == "head" else 0, len(trace.tokens)
    # Filled layer by layer: one copy of what grows with the square of the prompt is enough.
    attention = np.empty((len(rows), heads, count, count), array(trace.pattern[0, :0]).dtype)
    summed = np.empty((len(rows), count, count))
    if parts == "token":
        trace.model.anatomy.refuse_gates("proximity of tokens (parts='token')")
    if heads:
        steps = [_layer_step(trace, row, attention[row], summed[row]) for row in rows]
    else:
        steps = [_token_step(attention_parts(trace, row), summed[row]) for row in rows]
    mlp_steps = [] if parallel else [_mlp_step(mlp_parts(trace, row)) for row in rows]
    mlp = np.stack([step.mlp for step in mlp_steps or steps])
    into: NodeKind = "resid_post" if parallel else "resid_mid"
    undefined = _undefined(into, steps, first) + _undefined("resid_post", mlp_steps, first)
    mixture = mixture_of(trace, _expert_shares)
    return EdgeWeights(
        info=mixture.said(
            replace(origin(trace, "proximity", "share"), options={} if parts == "head" else {"parts": parts})
        ),
        parallel=parallel,
        query_positions=tuple(range(count)),
        attention=attention,
        additive=parts == "head",
        attention_summed=summed,
        head=attention.sum(-1, dtype=np.float64),
        residual=np.stack([step.residual for step in steps]),
        mlp=mlp,
        mlp_in=np.ones_like(mlp),
        residual_mlp=None if parallel else np.stack([step.residual for step in mlp_steps]),
        unembed=1.0 if trace.target is not None and stop == trace.n_layers else None,
        mixer=_mixers(steps, count),
        undefined=undefined,
        **mixture.arrays,
    )


def _of_step(step: TraceStep, *, by_head: bool) -> StepWeights:
    """Shares of one step of several stacks."""
    pattern = step.pattern
    heads, count, sources = pattern.shape
    attention, summed = np.empty((heads if by_head else 0, count, sources), pattern.dtype), np.empty((count, sources))
    if by_head:
        found = _steps_of(step.parts(), attention, summed)
    else:
        step.trace.model.anatomy.refuse_gates("proximity of tokens (parts='token')")
        found = _token_step(step.whole_parts(), summed, own=step.step.part == "self")
    after = _mlp_step(mlp_parts(step.trace, step.row)) if step.step.has_mlp else None
    return StepWeights(
        attention=attention,
        summed=summed,
        head=attention.sum(-1, dtype=np.float64),
        residual=found.residual,
        mlp=None if after is None else after.mlp,
        mlp_in=None if after is None else np.ones_like(after.mlp),
        residual_mlp=None if after is None else after.residual,
        rest=found.mixer,
        no_shares=(found.undefined, None if after is None else after.undefined),
    )


def _mixers(steps: list[_Step], count: int) -> Float[np.ndarray, "layer T"] | None:
    """[layer, T] shares of mixers; None in models without any."""
    if all(step.mixer is None for step in steps):
        return None
    return np.stack([np.zeros(count) if step.mixer is None else step.mixer for step in steps])


def _beside(parts: AttentionParts) -> list[Float[np.ndarray, "T d"]]:
    """What enters beside attention and the stream: an MLP in parallel blocks, a mixer; zero where there is none."""
    nothing = np.zeros_like(parts.residual)
    return [nothing if part is None else part for part in (parts.mlp, parts.mixer)]


def _layer_step(
    trace: Trace, row: int, attention: Float[np.ndarray, "H T S"], summed: Float[np.ndarray, "T S"]
) -> _Step:
    """Shares of one layer, written to ``attention`` and ``summed``."""
    return _steps_of(parts_by_target(trace, row), attention, summed)


def _steps_of(
    parts: Iterable[AttentionParts], attention: Float[np.ndarray, "H T S"], summed: Float[np.ndarray, "T S"]
) -> _Step:
    """Shares of parts of one target after another, or of all at once."""
    found: list[_Step] = []
    first = 0
    for part in parts:
        targets = slice(first, first + len(part.whole))
        found.append(_head_step(part, attention[:, targets], summed[targets]))
        first = targets.stop
    if len(found) == 1:
        return found[0]
    mixers = [step.mixer for step in found if step.mixer is not None]
    residual, mlp, undefined = (
        np.concatenate([getattr(step, name) for step in found]) for name in ("residual", "mlp", "undefined")
    )
    return _Step(residual, mlp, undefined, np.concatenate(mixers) if mixers else None)


def _head_step(parts: AttentionParts, attention: Float[np.ndarray, "H T S"], summed: Float[np.ndarray, "T S"]) -> _Step:
    """Shares of each head and source, written to ``attention``, and their sums over heads, to ``summed``."""
    near = proximity_of_parts(parts.whole, parts.coefficient, parts.vectors)
    along = [parts.residual, *_beside(parts)]
    shares = [_near(parts.whole, part) for part in along]
    total = near.sum((0, 2), dtype=np.float64) + sum(shares)
    undefined = total <= 0
    if undefined.any():
        t = np.flatnonzero(undefined)
        near[:, t] = np.abs(parts.coefficient[:, t]) * np.abs(parts.vectors).sum(-1)[:, None]
        for share, part in zip(shares, along, strict=True):
            share[t] = np.abs(part[t]).sum(-1)
        total = near.sum((0, 2), dtype=np.float64) + sum(shares)
    residual, mlp, mixer = shares
    # A state that is zero through and through is made of nothing; everything it has comes along the stream.
    empty = total <= 0
    residual[empty], total[empty] = 1.0, 1.0
    np.divide(near, total[:, None].astype(near.dtype), out=attention)
    attention.sum(0, out=summed, dtype=np.float64)
    return _Step(residual / total, mlp / total, undefined, None if parts.mixer is None else mixer / total)


def _token_step(parts: AttentionParts, summed: Float[np.ndarray, "T S"], *, own: bool = True) -> _Step:
    """Shares of each source but the token itself, written to ``summed``; its own is the residual's.

    Where the sources are another stack's, none of them is the token itself, and the residual is a part of its own.
    """
    if not own:
        return _other_step(parts, summed)
    near = proximity_of_sums(parts.whole, parts.coefficient, parts.vectors, parts.residual).astype(np.float64)
    beside = _beside(parts)
    mlp, mixer = (_near(parts.whole, part) for part in beside)
    total = near.sum(1) + mlp + mixer
    undefined = total <= 0
    for t in np.flatnonzero(undefined):
        made = np.einsum("hs,hsd->sd", parts.coefficient[:, t], parts.vectors)
        made[t] += parts.residual[t]
        near[t] = np.abs(made).sum(-1)
        mlp[t], mixer[t] = (np.abs(part[t]).sum() for part in beside)
        total[t] = near[t].sum() + mlp[t] + mixer[t]
    empty = total <= 0
    near[empty, np.flatnonzero(empty)], total[empty] = 1.0, 1.0
    near /= total[:, None]
    summed[:] = near
    np.fill_diagonal(summed, 0.0)
    return _Step(near.diagonal().copy(), mlp / total, undefined, None if parts.mixer is None else mixer / total)


def _other_step(parts: AttentionParts, summed: Float[np.ndarray, "T S"]) -> _Step:
    """Shares of each source of another stack, its heads taken together, and of the residual stream."""
    # One source after another: an array of all sums would be large.
    near = np.stack(
        [_near(parts.whole, parts.coefficient[:, :, s].T @ parts.vectors[:, s]) for s in range(summed.shape[1])], 1
    )
    residual = _near(parts.whole, parts.residual)
    undefined = near.sum(1) + residual <= 0
    for t in np.flatnonzero(undefined):
        near[t] = np.abs(np.einsum("hs,hsd->sd", parts.coefficient[:, t], parts.vectors)).sum(-1)
        residual[t] = np.abs(parts.residual[t]).sum()
    total = near.sum(1) + residual
    empty = total <= 0
    residual[empty], total[empty] = 1.0, 1.0
    summed[:] = near / total[:, None]
    return _Step(residual / total, np.zeros(len(total)), undefined)


def _mlp_step(parts: MlpParts) -> _Step:
    mlp, residual = _near(parts.whole, parts.mlp), _near(parts.whole, parts.residual)
    undefined = mlp + residual <= 0
    mlp[undefined] = np.abs(parts.mlp[undefined]).sum(-1)
    residual[undefined] = np.abs(parts.residual[undefined]).sum(-1)
    residual[mlp + residual <= 0] = 1.0
    total = mlp + residual
    return _Step(residual / total, mlp / total, undefined)


def _expert_shares(whole: Float[np.ndarray, "T d"], parts: Float[np.ndarray, "n T d"]) -> Float[np.ndarray, "n T"]:
    """Shares of the experts in what the MLP writes."""
    near = np.stack([_near(whole, part) for part in parts])
    undefined = near.sum(0) <= 0
    near[:, undefined] = np.abs(parts[:, undefined]).sum(-1)
    total = near.sum(0)
    found: np.ndarray = np.divide(near, total, out=np.zeros_like(near), where=total > 0)
    return found


def _near(whole: Float[np.ndarray, "T d"], part: Float[np.ndarray, "T d"]) -> Float[np.ndarray, "T"]:
    """Σ_d (|y_d| − |y_d − part_d|), differenced before it is summed, or 0."""
    nearer: np.ndarray = (np.abs(whole) - np.abs(whole - part)).sum(-1, dtype=np.float64)
    nearer[nearer < 0] = 0
    return nearer


def _undefined(kind: NodeKind, steps: list[_Step], first: int) -> tuple[Node, ...]:
    return tuple(
        Node(kind, layer=first + row, position=int(t))
        for row, step in enumerate(steps)
        for t in np.flatnonzero(step.undefined)
    )
