"""Weights of the experts of mixtures of experts, which enter the MLP that they are parts of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ..lenses.experts import LayerExperts, has_experts, layer_experts
from ..values.graph_info import GraphInfo
from ..values.trace import Trace
from .origin import array

Measure = Callable[[Float[np.ndarray, "T d"], Float[np.ndarray, "n T d"]], Float[np.ndarray, "n T"]]
"""[T, d] what an MLP writes and [n, T, d] its parts → [n, T] weights of the parts."""


@dataclass(frozen=True)
class Mixture:
    """Weights of experts.

    Attributes
    ----------
    arrays
        ``expert_index``, ``expert`` and ``shared_expert`` of :class:`flowgraph.EdgeWeights`; empty without experts.
    together
        Why experts are not told apart, in words; empty where all are.
    """

    arrays: dict[str, Any]
    together: str = ""

    def said(self, info: GraphInfo) -> GraphInfo:
        """The origin of the weights with what it has to say of experts."""
        if not self.together:
            return info
        return replace(info, provenance={**info.provenance, "experts_together": self.together})


def experts_stay_together(trace: Trace) -> Mixture:
    """What weights over several stacks have to say of experts: they are not told apart there."""
    found = any(
        block.mlp is not None and block.mlp_output is None and has_experts(block.mlp)
        for one in (trace, *trace.stacks.values()) if one.loaded is not None for block in one.loaded.anatomy.blocks
    )  # fmt: skip
    return Mixture({}, "in graphs of several stacks" if found else "")


def mixture_of(trace: Trace, measure: Measure | None, positions: Sequence[int] | None = None) -> Mixture:
    """Weights of the experts of every kept layer.

    Parameters
    ----------
    trace
        A trace with its model.
    measure
        Weights of parts of what an MLP writes; None where the method has none for this model.
    positions
        Positions that the weights have; None for all.
    """
    first, stop = trace.layers
    at = list(range(len(trace.tokens)) if positions is None else positions)
    layers: dict[int, LayerExperts] = {}
    why: dict[str, list[int]] = {}
    for row in range(stop - first):
        found = layer_experts(trace, row)
        if found is not None and measure is None and not isinstance(found, str):
            found = "norms on the stream lie between it and the logit"
        if isinstance(found, str):
            why.setdefault(found, []).append(first + row)
        elif found is not None:
            layers[row] = found
    together = "; ".join(
        f"layer{'s' if len(some) > 1 else ''} {', '.join(map(str, some))}: {reason}" for reason, some in why.items()
    )
    if not layers or measure is None:
        return Mixture({}, together)
    choices = max(one.index.shape[1] for one in layers.values())
    index = np.full((stop - first, len(at), choices), -1, dtype=np.int64)
    weight, shared = np.zeros(index.shape), np.zeros(index.shape[:2])
    for row, one in layers.items():
        chosen = one.index[at].cpu().numpy()
        parts = [array(one.out[at, choice]) for choice in range(chosen.shape[1])]
        parts += [] if one.shared is None else [array(one.shared[at])]
        weights = measure(array(trace.mlp_out[row, at]), np.stack(parts))
        index[row, :, : chosen.shape[1]] = chosen
        weight[row, :, : chosen.shape[1]] = np.where(chosen >= 0, weights[: chosen.shape[1]].T, 0.0)
        shared[row] = 0.0 if one.shared is None else weights[-1]
    has_shared = any(one.shared is not None for one in layers.values())
    arrays = {"expert_index": index, "expert": weight} | ({"shared_expert": shared} if has_shared else {})
    return Mixture(arrays, together)
