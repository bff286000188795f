"""``logits``: direct logit attribution as edges into the logit node, signed, in logits.

Every edge says what a part wrote in the direction of the target (minus the foil) at the explained position: a head from one
source token, a head as a whole, an MLP, the embedding, a bias.
"""

from __future__ import annotations

import numpy as np

from ..lenses.direct_attribution import (
    DirectLogitAttribution,
    direct_logit_attribution,
    logit_direction,
    refuse_pooled,
)
from ..values.edge_weights import EdgeWeights
from ..values.trace import Trace
from .joint import is_joint, joint_of
from .mixture import Mixture, mixture_of
from .origin import origin


def logits(trace: Trace) -> EdgeWeights:
    """Weights from :func:`flowgraph.direct_logit_attribution` at the trace's position.

    Raises
    ------
    UnsupportedReadingError
        If no direct logit attribution exists for the model.
    """
    refuse_pooled(trace, "the method 'logits'")
    parts = direct_logit_attribution(trace, trace.target, trace.foil, position=trace.position)
    if is_joint(trace):
        return _of_stacks(trace, parts)
    by_source = parts.heads_by_source[:, :, None, :]
    mixture = _mixture(trace)
    return EdgeWeights(
        info=mixture.said(origin(trace, "logits", "logits")),
        parallel=trace.wiring == "parallel",
        query_positions=(trace.position,),
        attention=by_source,
        attention_summed=by_source.sum(1),
        head=parts.heads[:, :, None],
        mlp=parts.mlps[:, None],
        ends_in_logit=True,
        additive=True,
        embedding=parts.embedding,
        position_embedding=parts.position_embedding if trace.position_embedding is not None else None,
        biases=dict(parts.biases),
        mixer=None if parts.mixers is None else parts.mixers[:, None],
        **mixture.arrays,
    )


def _mixture(trace: Trace) -> Mixture:
    """What each expert wrote in the direction of the target; post-norm blocks turn it from layer to layer, and are left whole."""
    if trace.wiring == "post_norm" or trace.target is None:
        return mixture_of(trace, None)
    direction, _ = logit_direction(trace, trace.target, trace.foil, trace.position)
    toward = direction.double().cpu().numpy()
    return mixture_of(trace, lambda _whole, parts: parts.astype(np.float64) @ toward, (trace.position,))


def _of_stacks(trace: Trace, parts: DirectLogitAttribution) -> EdgeWeights:
    """The parts in the steps of several stacks: heads that read the encoder read its last states."""
    joint = joint_of(trace)
    rows, heads = len(joint.steps), parts.heads.shape[1]
    attention, head, mlp = np.zeros((rows, heads, 1, joint.count)), np.zeros((rows, heads, 1)), np.zeros((rows, 1))
    assert parts.cross_by_source is not None
    own, source = joint.positions[None], joint.positions[joint.stacks[0][0]]
    biases = {name: value for name, value in parts.biases.items() if not name.startswith("L")}
    for layer in range(trace.n_layers):
        read, crossed = joint.steps_of(layer)
        attention[read, :, 0, own], attention[crossed, :, 0, source] = (
            parts.heads_by_source[layer],
            parts.cross_by_source[layer],
        )
        mlp[crossed, 0] = parts.mlps[layer]
        # Named by their steps here; a node says its layer and what it is a bias of.
        for name, row, kind in (
            ("attn_bias", read, "attn_bias"), ("cross_bias", crossed, "attn_bias"), ("mlp_bias", crossed, "mlp_bias"),
        ):  # fmt: skip
            if f"L{layer}.{name}" in parts.biases:
                biases[f"L{row}.{kind}"] = parts.biases[f"L{layer}.{name}"]
    head[:, :, 0] = attention[:, :, 0].sum(-1)
    return EdgeWeights(
        info=origin(trace, "logits", "logits"),
        parallel=False,
        query_positions=(trace.position + own.start,),
        attention=attention,
        attention_summed=attention.sum(1),
        head=head,
        mlp=mlp,
        ends_in_logit=True,
        additive=True,
        embedding=parts.embedding,
        position_embedding=parts.position_embedding if trace.position_embedding is not None else None,
        biases=biases,
        joint=joint,
    )


def total(weights: EdgeWeights) -> float:
    """Sum of all parts, which is the logit (or the difference to the foil)."""
    further = [weights.embedding, weights.position_embedding, *weights.biases.values()]
    mlp = 0.0 if weights.mlp is None else float(np.sum(weights.mlp))
    mlp += 0.0 if weights.mixer is None else float(np.sum(weights.mixer))
    return float(np.sum(weights.head)) + mlp + sum(part for part in further if part is not None)
