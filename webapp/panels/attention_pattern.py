"""The attention of one layer as the app asks for it, in every stack and between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float

from flowgraph.errors import ArgumentError

from ..recipe import Recipe, check_index
from ..server.question import recorded, require
from ..server.run import OfRun, Run, RunQuestion, same
from ..server.traces import Check, Traces

if TYPE_CHECKING:
    from flowgraph import Trace


@dataclass(frozen=True, eq=False)
class StackAttention:
    """The attention of a layer within another stack, or between two.

    Attributes
    ----------
    name
        ``"encoder.self"`` or ``"decoder.cross"``, as :attr:`flowgraph.Trace.attention` has it.
    pattern
        [head, query_pos, key_pos] probabilities.
    queries, keys
        [position] the tokens on either side.
    """

    name: str
    pattern: Float[np.ndarray, "head query_pos key_pos"]
    queries: tuple[str, ...]
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = self.pattern.shape
        require(shape[1:] == (len(self.queries), len(self.keys)), f"StackAttention.pattern has shape {shape}")

    @property
    def stack(self) -> str | None:
        """The stack whose heads these are; None for heads between the stacks, which are the last one's."""
        return None if self.is_cross else self.name.partition(".")[0]

    @property
    def is_cross(self) -> bool:
        """Whether the heads read another stack."""
        return self.name.endswith(".cross")


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention pattern of one layer: [head, query_pos, key_pos] probabilities, and ``others`` of the layer in other stacks."""

    layer: int
    pattern: Float[np.ndarray, "head query_pos key_pos"]
    others: tuple[StackAttention, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pattern.shape
        require(len(shape) == 3 and shape[1] == shape[2], f"Attention.pattern has shape {shape}")


@recorded
@dataclass(frozen=True)
class AttentionQuestion(OfRun[Attention]):
    """The attention pattern of one layer."""

    layer: int
    quick = True

    def __post_init__(self) -> None:
        check_index("layer", -1 if self.layer is None else self.layer)

    @classmethod
    def of(cls, recipe: Recipe, layer: int) -> Self:
        """The attention of one layer, which no target changes."""
        return cls(replace(RunQuestion.of(recipe), target=None, foil=None), layer)

    def answer(self, traces: Traces, check: Check) -> Attention:
        """The attention pattern of one layer."""
        trace = traces.trace(self.run, check)
        if not self.layer < trace.n_layers:
            raise ArgumentError(f"layer={self.layer} is outside the model; its layers are 0…{trace.n_layers - 1}")
        return Attention(self.layer, trace.pattern[self.layer].float().cpu().numpy(), _others(trace, self.layer))

    def refuse_unfit(self, run: Run, answer: Attention) -> None:
        """As the base class says."""
        same("Attention.pattern", answer.pattern.shape, (run.n_heads, len(run.tokens), len(run.tokens)))
        same("Attention.layer", answer.layer, self.layer)
        same("Attention.layer", 0 <= answer.layer < run.n_layers, True)


def _others(trace: Trace, layer: int) -> tuple[StackAttention, ...]:
    """What the heads of a layer read between the stacks, and within the others; a stack with fewer layers has none."""
    found = []
    own = f"{trace.role}.self"
    for name, sites in trace.attention.items():
        if name == own or layer >= len(sites.pattern):
            continue
        pattern = sites.pattern[layer].float().cpu().numpy()
        inner = trace.stacks.get("encoder" if name.endswith(".cross") else name.partition(".")[0])
        keys = inner.tokens if inner is not None else tuple(map(str, range(pattern.shape[-1])))
        found.append(StackAttention(name, pattern, trace.tokens if name.endswith(".cross") else keys, keys))
    return tuple(found)
