"""Dense edge weights: the result of every method, computed once per trace and sparsified as often as needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..charts import rendering
from ..charts.table import Table, columns_of
from ..errors import ArgumentError
from .graph_info import GraphInfo
from .joint import Joint
from .node import Node


@dataclass(frozen=True, eq=False)
class EdgeWeights:
    """Weights of all edges of one method, dense. Q query positions are covered: all T, or only the explained one.

    For every method, the share of an edge is its weight divided by Σ|weights| of all edges into the same target, at the chosen
    level. Shares are computed when a graph is built.

    Attributes
    ----------
    info
        Where the weights come from; becomes the graph's.
    parallel
        Blocks without a state between attention and MLP: everything enters resid_post.
    query_positions
        [Q] the positions that axis ``query_pos`` stands for.
    attention
        [layer, head, query_pos, key_pos] previous state@s → head@t; axes as ``Trace.pattern``. No heads at all ([layer, 0,
        query_pos, key_pos]) from methods that do not tell them apart; graphs then have no head level.
    attention_summed
        [layer, query_pos, key_pos] previous state@s → resid_mid@t, heads taken together.
    head
        [layer, head, query_pos] head@t → resid_mid@t.
    residual
        [layer, query_pos] previous state@t → resid_mid@t.
    mlp, mlp_in
        [layer, query_pos] MLP@t → resid_post@t and its input edge; None where the method gives MLPs no number.
    residual_mlp
        [layer, query_pos] resid_mid@t → resid_post@t; None in parallel blocks.
    rest
        [layer, query_pos] weight that enters the same state as attention, but is listed on no edge; None where every part is.
    sink
        [layer, head, query_pos] sink@t → head@t, of attention that heads spend on a key that holds nothing; heads taken together it
        is their mean. None where heads have no sinks, or where a sink adds nothing under the method.
    unembed
        Weight of last state → logit; None where there is no such edge.
    ends_in_logit
        True for methods whose every edge ends in the logit node.
    additive
        True for methods whose numbers for the heads of a layer add up to those for the heads together: all heads carry the same
        share from a token into a state, whether they are shown one by one or as one. Only then can a graph show single heads in
        some of its layers.
    embedding, position_embedding, biases
        The further parts that end in the logit, in the method's unit.
    mixer
        [layer, query_pos] mixer@t → resid_mid@t, for methods whose edges end in the logit mixer@t → logit, in models some of whose
        layers mix tokens by something else than attention. Which tokens it read is on no edge.
    expert_index, expert
        [layer, query_pos, choice] number of each chosen expert, −1 for none, and weight of expert@t → MLP@t, in models with a
        mixture of experts; None elsewhere. Shown at head level, and in layers that are opened.
    shared_expert
        [layer, query_pos] weight of what the MLP writes beside its chosen experts; None where that is nothing.
    undefined
        States whose weights the method's own formula does not define; they follow its stated substitute.
    joint
        The steps of several stacks, of an encoder–decoder: rows are then steps in place of layers, and positions are those of all
        stacks. Where a step leaves a position alone, ``residual`` and ``residual_mlp`` are 1 and stand for no edge. None for one stack.
    """

    info: GraphInfo
    parallel: bool
    query_positions: tuple[int, ...]
    attention: Float[np.ndarray, "layer head query_pos key_pos"]
    attention_summed: Float[np.ndarray, "layer query_pos key_pos"]
    head: Float[np.ndarray, "layer head query_pos"]
    residual: Float[np.ndarray, "layer query_pos"] | None = None
    mlp: Float[np.ndarray, "layer query_pos"] | None = None
    mlp_in: Float[np.ndarray, "layer query_pos"] | None = None
    residual_mlp: Float[np.ndarray, "layer query_pos"] | None = None
    rest: Float[np.ndarray, "layer query_pos"] | None = None
    unembed: float | None = None
    ends_in_logit: bool = False
    additive: bool = False
    embedding: float | None = None
    position_embedding: float | None = None
    biases: Mapping[str, float] = field(default_factory=dict)
    undefined: tuple[Node, ...] = ()
    mixer: Float[np.ndarray, "layer query_pos"] | None = None
    sink: Float[np.ndarray, "layer head query_pos"] | None = None
    expert_index: Int[np.ndarray, "layer query_pos choice"] | None = None
    expert: Float[np.ndarray, "layer query_pos choice"] | None = None
    shared_expert: Float[np.ndarray, "layer query_pos"] | None = None
    joint: Joint | None = None

    def __post_init__(self) -> None:
        n, h, q, t = self.attention.shape
        expected = {
            "attention_summed": (n, q, t),
            "head": (n, h, q),
            "sink": (n, h, q),
            **dict.fromkeys(("residual", "mlp", "mlp_in", "residual_mlp", "rest", "mixer", "shared_expert"), (n, q)),
        }
        if self.expert_index is not None:
            expected |= dict.fromkeys(("expert_index", "expert"), (n, q, self.expert_index.shape[-1]))
        elif self.expert is not None:
            raise ArgumentError("EdgeWeights.expert needs expert_index, the numbers of the experts")
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ArgumentError(
                    f"EdgeWeights.{name} has shape {array.shape}; attention {self.attention.shape} needs {shape}"
                )
        count = len(self.info.tokens) if self.joint is None else self.joint.count
        if len(self.query_positions) != q or count != t:
            raise ArgumentError(
                f"EdgeWeights.attention {self.attention.shape} does not fit {len(self.query_positions)} query positions "
                f"and {count} tokens"
            )
        if len(self.rows) != n:
            raise ArgumentError(f"EdgeWeights.attention has {n} layers; info.layers is {self.info.layers}")

    @property
    def rows(self) -> range:
        """Numbers of the rows of every array: layers, or of several stacks their steps."""
        return range(*self.info.layers) if self.joint is None else range(len(self.joint.steps))

    @property
    def ends_at_top(self) -> bool:
        """Whether the last row is the last layer of the model."""
        return self.joint is not None or self.info.layers[1] == self.info.total_layers

    @property
    def explained(self) -> int:
        """The position, among those of the arrays, that the target belongs to."""
        at = self.info.position
        return at if self.joint is None else at + self.joint.positions[None].start

    @property
    def enters(self) -> Bool[np.ndarray, "layer query_pos"]:
        """[layer, query_pos] whether a row writes by attention to the state there; False only where another stack's step passes by."""
        at = list(self.query_positions)
        return np.ones((len(self.rows), len(at)), bool) if self.joint is None else self.joint.enters[:, at]

    @property
    def follows(self) -> Bool[np.ndarray, "layer query_pos"]:
        """[layer, query_pos] whether the row's MLP writes to the state there."""
        at = list(self.query_positions)
        return np.ones((len(self.rows), len(at)), bool) if self.joint is None else self.joint.has_mlp[:, at]

    @property
    def sink_summed(self) -> Float[np.ndarray, "layer query_pos"] | None:
        """[layer, query_pos] sink@t → resid_mid@t, heads taken together; None without sinks."""
        return None if self.sink is None else self.sink.mean(1)

    @property
    def apart(self) -> Float[np.ndarray, "layer query_pos"] | None:
        """[layer, query_pos] weight that enters the same state as attention and comes from no state; None where all of it does.

        It is that of mixers and sinks, and what is on no edge.
        """
        parts = [self.rest, self.sink_summed, None if self.ends_in_logit else self.mixer]
        found = [part for part in parts if part is not None]
        return sum(found[1:], found[0]) if found else None

    @property
    def heads_together(self) -> bool:
        """Whether the method does not tell heads apart, so that its graphs have no level of heads."""
        return int(self.attention.shape[1]) == 0

    def window(self, first: int, stop: int) -> EdgeWeights:
        """The weights of layers ``first`` … ``stop`` − 1.

        Raises
        ------
        ArgumentError
            If they are not among the layers that the weights have.
        """
        begin, end = self.info.layers
        if self.joint is not None:
            raise ArgumentError(
                f"layers={(first, stop)} cuts a graph of one stack, and these weights are of several; leave it out, and cut the graph "
                "afterwards, or take the weights of one stack: edge_weights(trace.stacks['encoder'])"
            )
        if not begin <= first < stop <= end:
            raise ArgumentError(f"layers={(first, stop)} is not a window within {begin}…{end} (first, one past last)")
        rows = slice(first - begin, stop - begin)
        cut: dict[str, Any] = {name: value[rows] for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        # The edge into the logit belongs to the last layer, so an earlier window has none.
        ends = self.ends_in_logit or stop == self.info.total_layers
        info = replace(self.info, layers=(first, stop))
        return replace(self, **cut, info=info, unembed=self.unembed if ends else None)

    def _repr_html_(self) -> str:
        arrays = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, np.ndarray) and name != "expert_index"
        }
        rows = [
            {"weight": name, "shape": " × ".join(map(str, value.shape)), "Σ|weight|": float(np.abs(value).sum())}
            for name, value in arrays.items()
        ]
        return rendering.html(
            Table(repr(self), columns_of(rows, ()), words=("weight", "shape"), note=f"unit: {self.info.unit}")
        )

    def __repr__(self) -> str:
        n, h, q, t = self.attention.shape
        heads = "heads together" if self.heads_together else f"{h} heads"
        return (
            f"EdgeWeights({self.info.method!r}, {n} layers × {heads} × {q} queries × {t} keys, unit {self.info.unit!r})"
        )
