"""Several stacks as one chain: the steps of all of them in the order of time, over the positions of all of them.

An encoder's layers come first, then each layer of the decoder in two steps, attention to itself and attention to the encoder. In a
step, positions of the other stack stay as they are: they are *idle*, and no edge is theirs. Where two stacks read each other in the
same layers, as in LXMERT, one step is both at once, since each reads what the other was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from .node import EXCHANGING, STACKS, Node, NodeKind

StepPart = Literal["self", "cross"]


@dataclass(frozen=True)
class Step:
    """One step of a joint chain: an attention, and the MLP after it where there is one.

    Attributes
    ----------
    stack
        The stack whose states it writes to; None for the last one.
    layer
        Number of the layer in its stack.
    part
        ``"self"``: attention of the stack to itself. ``"cross"``: to the other stack.
    has_mlp
        Whether the layer's MLP follows.
    beside
        What the other stack does at the same time; None for nothing.
    """

    stack: str | None
    layer: int
    part: StepPart
    has_mlp: bool
    beside: Step | None = None

    @property
    def name(self) -> str:
        """The step in words: ``"enc.L0"``, ``"L0 self"``, ``"L0 cross"``; of two at once both."""
        of_stack = "" if self.stack is None else f"{STACKS[self.stack]}."
        part = "" if self.stack is not None and self.part == "self" else f" {self.part}"
        beside = "" if self.beside is None else f" + {self.beside.name}"
        return f"{of_stack}L{self.layer}{part}{beside}"


@dataclass(frozen=True)
class Joint:
    """The steps of several stacks, and whose positions are whose.

    Attributes
    ----------
    steps
        In the order of time.
    stacks
        (name, number of positions) in the order of the joint positions; the last one has no name.
    """

    steps: tuple[Step, ...]
    stacks: tuple[tuple[str | None, int], ...]

    @classmethod
    def of(cls, stacks: Sequence[tuple[str | None, int, int]]) -> Joint:
        """The chain of stacks that run one after the other, the last of which reads the one before in each of its layers.

        Parameters
        ----------
        stacks
            (name, number of positions, number of layers), the last one without a name.
        """
        steps = [Step(name, layer, "self", True) for name, _, layers in stacks[:-1] for layer in range(layers)]
        for layer in range(stacks[-1][2]):
            steps += [Step(None, layer, "self", False), Step(None, layer, "cross", True)]
        return cls(tuple(steps), tuple((name, count) for name, count, _ in stacks))

    @classmethod
    def exchanging(cls, other: tuple[int, int], last: tuple[int, int], between: int) -> Joint:
        """The chain of two stacks that read each other at the beginning of their last layers.

        Parameters
        ----------
        other, last
            (number of positions, number of layers) of both.
        between
            How many layers read the other stack.
        """
        steps = []
        for stack, layers in ((None, last[1]), (EXCHANGING, other[1])):
            steps += [Step(stack, layer, "self", True) for layer in range(layers - between)]
        for n in range(between):
            here, there = last[1] - between + n, other[1] - between + n
            both = Step(None, here, "cross", False, Step(EXCHANGING, there, "cross", False))
            steps += [both, Step(None, here, "self", True), Step(EXCHANGING, there, "self", True)]
        return cls(tuple(steps), ((EXCHANGING, other[0]), (None, last[0])))

    @cached_property
    def moves(self) -> tuple[tuple[int, Step], ...]:
        """(number of the step, what one stack does in it), those that happen at once one after the other."""
        return tuple(
            (row, one) for row, step in enumerate(self.steps) for one in (step, step.beside) if one is not None
        )

    def read_by(self, step: Step) -> slice:
        """Joint positions of the stack that a step's attention reads."""
        if step.part == "self":
            return self.positions[step.stack]
        return next(where for name, where in self.positions.items() if name != step.stack)

    @cached_property
    def positions(self) -> dict[str | None, slice]:
        """Joint positions of each stack."""
        found, first = {}, 0
        for name, count in self.stacks:
            found[name] = slice(first, first + count)
            first += count
        return found

    @property
    def count(self) -> int:
        """Number of joint positions."""
        return sum(count for _, count in self.stacks)

    @cached_property
    def enters(self) -> Bool[np.ndarray, "step position"]:
        """[step, position] whether a step writes by attention to the state at a position."""
        found = np.zeros((len(self.steps), self.count), bool)
        for row, step in self.moves:
            found[row, self.positions[step.stack]] = True
        return found

    @cached_property
    def has_mlp(self) -> Bool[np.ndarray, "step position"]:
        """[step, position] whether a step writes by an MLP to the state at a position."""
        found = np.zeros((len(self.steps), self.count), bool)
        for row, step in self.moves:
            found[row, self.positions[step.stack]] = step.has_mlp
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """[step] each step in words: ``"enc.L0"``, ``"L0 self"``, ``"L0 cross"``."""
        return tuple(step.name for step in self.steps)

    def place(self, position: int) -> tuple[str | None, int]:
        """Stack and own number of a joint position."""
        for name, where in self.positions.items():
            if where.start <= position < where.stop:
                return name, position - where.start
        raise IndexError(position)

    def own(self, positions: Any) -> Any:
        """Joint positions as numbers within their stacks; −1 stays."""
        starts = np.concatenate([np.full(count, self.positions[name].start) for name, count in self.stacks])
        at = np.asarray(positions)
        return np.where(at < 0, at, at - starts[at])

    def layer_of(self, steps: Any, positions: Any) -> Any:
        """Steps as numbers of layers in the stack of a joint position that they write to; −1 stays."""
        layers = np.tile(np.array([step.layer for step in self.steps])[:, None], (1, self.count))
        for row, step in self.moves:
            layers[row, self.positions[step.stack]] = step.layer
        at = np.asarray(steps)
        return np.where(at < 0, at, layers[at, positions])

    def steps_of(self, layer: int) -> tuple[int, ...]:
        """Steps of a layer of the last stack."""
        return tuple(n for n, step in self.moves if step.stack is None and step.layer == layer)

    def node(self, kind: NodeKind, step: int | None, head: int | None, position: int | None) -> Node:
        """The node that stands at a step and a joint position; ``kind`` as in a chain of one stack."""
        stack, own = (None, None) if position is None else self.place(position)
        if step is None:
            return Node(kind, head=head, position=own, stack=stack)
        found = self.steps[step]
        if position is None:
            stack = found.stack
        elif found.beside is not None and found.stack != stack:
            found = found.beside
        if kind == "head" and found.part == "cross":
            kind = "cross_head"
        elif kind == "attn_bias" and found.part == "cross":
            kind = "cross_bias"
        elif kind == "resid_mid" and not found.has_mlp:
            kind = "resid_cross"
        return Node(kind, layer=found.layer, head=head, position=own, stack=stack)

    def position_of(self, node: Node) -> int | None:
        """The joint position of a node."""
        return None if node.position is None else self.positions[node.stack].start + node.position

    def row_of(self, node: Node) -> int | None:
        """The step that a node belongs to, where it has a layer."""
        if node.layer is None:
            return None
        for row, step in self.moves:
            if (step.stack, step.layer) == (node.stack, node.layer) and _holds(step, node.kind):
                return row
        return None


def _holds(step: Step, kind: NodeKind) -> bool:
    """Whether a step of a node's layer is the one that it stands in."""
    if kind in ("resid_mid", "resid_post", "mlp"):
        return step.has_mlp
    if kind == "resid_cross":
        return not step.has_mlp
    return step.part == ("cross" if kind in ("cross_head", "cross_bias") else "self")


def joint_dict(joint: Joint) -> dict[str, list[list[Any]]]:
    """Plain data of a chain: a step as [stack, layer, part, has_mlp, what happens at once], a stack as [name, number of positions]."""
    return {
        "steps": [_step_list(one) for one in joint.steps],
        "stacks": [list(one) for one in joint.stacks],
    }


def _step_list(step: Step) -> list[Any]:
    beside = [] if step.beside is None else [_step_list(step.beside)]
    return [step.stack, step.layer, step.part, step.has_mlp, *beside]
