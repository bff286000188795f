"""Weights over several stacks: each step of the joint chain is weighed as a layer of one stack is, and put in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from ..errors import UnsupportedReadingError
from ..values.edge_weights import EdgeWeights
from ..values.joint import Joint, Step
from ..values.node import EXCHANGING
from ..values.trace import Trace, exchanging_chain
from .mixture import experts_stay_together
from .origin import array, origin
from .parts import AttentionParts, attention_parts, cross_parts, parts_by_target
from .schema import Codes


class TraceStep(NamedTuple):
    """One step of a joint chain in the trace that holds it."""

    trace: Trace
    row: int
    step: Step

    @property
    def pattern(self) -> Float[np.ndarray, "head query_pos source_pos"]:
        """[head, query_pos, source_pos] attention of the step."""
        site = self.trace.cross_pattern if self.step.part == "cross" else self.trace.pattern
        return array(site[self.row])

    def parts(self) -> list[AttentionParts]:
        """Parts of the step's attention, of all targets at once or of one after another."""
        if self.step.part == "cross":
            return [cross_parts(self.trace, self.row)]
        return list(parts_by_target(self.trace, self.row))

    def whole_parts(self) -> AttentionParts:
        """Parts of the step's attention, of all targets at once."""
        return cross_parts(self.trace, self.row) if self.step.part == "cross" else attention_parts(self.trace, self.row)


@dataclass(frozen=True, eq=False)
class StepWeights:
    """Weights of one step, with axes of its own positions; see :class:`flowgraph.EdgeWeights` for each.

    Attributes
    ----------
    no_shares
        [query_pos] where the method's formula does not define the weights into the state that attention enters, and into the one
        after the MLP.
    """

    attention: Float[np.ndarray, "head query_pos source_pos"]
    summed: Float[np.ndarray, "query_pos source_pos"]
    head: Float[np.ndarray, "head query_pos"]
    residual: Float[np.ndarray, "query_pos"]
    mlp: Float[np.ndarray, "query_pos"] | None = None
    mlp_in: Float[np.ndarray, "query_pos"] | None = None
    residual_mlp: Float[np.ndarray, "query_pos"] | None = None
    rest: Float[np.ndarray, "query_pos"] | None = None
    no_shares: tuple[Bool[np.ndarray, "query_pos"] | None, Bool[np.ndarray, "query_pos"] | None] = (None, None)


def is_joint(trace: Trace) -> bool:
    """Whether a trace is of several stacks, so that its graphs are."""
    return bool(trace.stacks) or any(name.startswith("cross_") for name in trace.sites)


def joint_of(trace: Trace) -> Joint:
    """The steps of a trace of an encoder and a decoder.

    Raises
    ------
    UnsupportedReadingError
        If the encoder is not traced, a stack is parallel, or layers are missing.
    """
    if not trace.stacks and trace.axis.kind == "region":
        raise UnsupportedReadingError(
            "graphs, rollout and flow run through the text and the regions of an image together; give the whole trace in place of "
            "trace.stacks['vision'], and start=Node(…, stack='vision') for a state of a region"
        )
    if not trace.stacks:
        raise UnsupportedReadingError(
            f"graphs, rollout and flow of {trace.model_name!r} run through its encoder, which is not traced; attention of the decoder, "
            "readings and direct logit attribution can be used"
        )
    for stack in (trace, *trace.stacks.values()):
        if stack.wiring in ("parallel", "unknown"):
            raise UnsupportedReadingError(
                f"graphs over several stacks are made of steps one after the other, and {stack.model_name!r} has blocks that are "
                f"{stack.wiring}"
            )
    if trace.layers != (0, trace.n_layers):
        raise UnsupportedReadingError(
            f"graphs over several stacks need every layer, and this trace holds layers {trace.layers[0]}…{trace.layers[1] - 1}; trace "
            "again without a window"
        )
    exchanging = trace.stacks.get(EXCHANGING)
    if exchanging is not None:
        return exchanging_chain(trace, exchanging)
    return Joint.of([(name, len(one.tokens), one.n_layers) for name, one in (*trace.stacks.items(), (None, trace))])


def traced_steps(trace: Trace, joint: Joint) -> list[TraceStep]:
    """What each stack does in each step, with the trace that holds it, in the order of :attr:`Joint.moves`."""
    return [
        TraceStep(trace if one.stack is None else trace.stacks[one.stack], one.layer, one) for _, one in joint.moves
    ]


def joint_weights(
    trace: Trace, weigh: Callable[[TraceStep], StepWeights], *, method: str, unit: str, unembed: float, **more: Any
) -> EdgeWeights:
    """Weights of all steps of a trace of several stacks.

    Parameters
    ----------
    trace
        A trace with its other stacks.
    weigh
        The method for one step.
    method, unit
        As the method names itself.
    unembed
        Weight of the last state → logit.
    **more
        Further fields of the weights, ``options`` of the method among them.
    """
    joint = joint_of(trace)
    count = joint.count
    found = [weigh(step) for step in traced_steps(trace, joint)]
    heads = max(len(one.attention) for one in found)
    rows = len(joint.steps)
    dtype = np.result_type(*(one.attention for one in found))
    attention = np.zeros((rows, heads, count, count), dtype)
    summed, head = np.zeros((rows, count, count)), np.zeros((rows, heads, count))
    # What passes a step by stays whole.
    residual, after = np.ones((rows, count)), np.ones((rows, count))
    has_mlp, has_rest = any(one.mlp is not None for one in found), any(one.rest is not None for one in found)
    mlp, mlp_in, rest = (np.zeros((rows, count)) for _ in range(3))
    for one, (row, step) in zip(found, joint.moves, strict=True):
        own, keys = joint.positions[step.stack], joint.read_by(step)
        attention[row, : len(one.attention), own, keys] = one.attention
        head[row, : len(one.head), own] = one.head
        summed[row, own, keys], residual[row, own] = one.summed, one.residual
        for whole, part in ((mlp, one.mlp), (mlp_in, one.mlp_in), (after, one.residual_mlp), (rest, one.rest)):
            if part is not None:
                whole[row, own] = part
    options = more.pop("options", {})
    weights = EdgeWeights(
        info=experts_stay_together(trace).said(replace(origin(trace, method, unit), options=options)),
        parallel=False,
        query_positions=tuple(range(count)),
        attention=attention,
        attention_summed=summed,
        head=head,
        residual=residual,
        mlp=mlp if has_mlp else None,
        mlp_in=mlp_in if has_mlp else None,
        residual_mlp=after,
        rest=rest if has_rest else None,
        unembed=unembed if trace.target is not None else None,
        joint=joint,
        **more,
    )
    return replace(weights, undefined=_undefined(weights, found))


def _undefined(weights: EdgeWeights, found: list[StepWeights]) -> tuple[Any, ...]:
    codes, joint = Codes(weights), weights.joint
    assert joint is not None
    nodes = []
    for one, (row, step) in zip(found, joint.moves, strict=True):
        first = joint.positions[step.stack].start
        for kind, where in zip(("resid_mid", "resid_post"), one.no_shares, strict=True):
            for t in [] if where is None else np.flatnonzero(where):
                nodes.append(codes.node(int(codes.of(kind, row, -1, first + int(t)))))
    return tuple(nodes)
