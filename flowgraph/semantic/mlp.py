"""The MLP in the semantic graph: inputs and outputs of the strongest neurons."""

from __future__ import annotations

from torch import Tensor

from ..models.anatomy import upcast
from ..values.node import Node
from .layer import Layer, along, part_of
from .selection import Choice, coverage, made_up, measured, strongest
from .sketch import Sketch


class MlpNodes:
    """Adds the MLP of one layer to a sketch."""

    def __init__(self, sketch: Sketch, layer: Layer, choice: Choice) -> None:
        self.sketch, self.layer, self.choice = sketch, layer, choice
        self.trace, self.at = layer.trace, layer.layer

    def add(self, t: int, before: Node, state: Tensor, direction: Tensor | None) -> Node:
        """Add all nodes from a state to the MLP's output at a position; returns the node of the output."""
        rows, amounts = self.layer.neuron_rows, self.layer.neuron_amounts(t)
        whole = upcast(self.trace.mlp_out[self.layer.row, t])
        measure = measured(self.choice.select, rows, amounts, whole=whole, direction=direction)
        shown = strongest(measure, self.choice.neurons)
        mlp = self.sketch.node(
            Node("mlp", layer=self.at, position=t), whole, contribution=along(whole, direction),
            coverage=coverage(measure, shown),
        )  # fmt: skip
        read = self._add_norm(t, before, state)
        parts = made_up(rows, amounts, whole)
        self._add_neurons(t, shown, read, direction)
        for n in shown.tolist():
            neuron = Node("neuron", layer=self.at, position=t, index=n)
            self.sketch.edge(neuron, mlp, "neuron", "contribution", parts[n], **self._place(t))
        bias = self.layer.bias("mlp", t)
        if bias is not None:
            node = self.sketch.node(
                Node("mlp_bias", layer=self.at, position=t), bias, contribution=along(bias, direction)
            )
            self.sketch.edge(node, mlp, "bias", "contribution", part_of(bias, whole), **self._place(t))
        if len(shown) < len(amounts):
            self._add_rest(t, shown, read, mlp, direction)
        return mlp

    def _add_norm(self, t: int, before: Node, state: Tensor) -> Node:
        """The input of the MLP: the state after its norm, or in post-norm blocks the state."""
        if self.trace.wiring == "post_norm":
            return before
        node = self.sketch.node(Node("mlp_norm", layer=self.at, position=t), self.layer.normed("mlp", t, state))
        self.sketch.edge(before, node, "norm", "norm", state.norm(), **self._place(t))
        return node

    def _add_neurons(self, t: int, shown: Tensor, read: Node, direction: Tensor | None) -> None:
        """Add neurons with their input weights (gate and input) and their output."""
        block = self.trace.model.anatomy.blocks[self.at]
        place, rows, amounts = self._place(t), self.layer.neuron_rows, self.layer.neuron_amounts(t)
        activations, x = upcast(self.trace.neurons[self.layer.row, t]), self.sketch.vectors[read]
        layers = block.neuron_layers
        into = layers.input.weight[:, shown].T
        gates = None if layers.gate is None else layers.gate.weight[:, shown].T
        gate, up = self.trace.model.anatomy.mlp_pre(self.at, x)
        for place_in_shown, n in enumerate(shown.tolist()):
            written = amounts[n] * rows[n]
            neuron = self.sketch.node(
                Node("neuron", layer=self.at, position=t, index=n), written, activation=float(activations[n]),
                contribution=along(written, direction),
            )  # fmt: skip
            # Without a gate the activation acts on the input; with one it acts on the gate, and the input is multiplied
            # in.
            reads = [("neuron_in", into, up[n], up[n] if gate is not None else activations[n])]
            if gates is not None and gate is not None:
                reads.append(("gate", gates, gate[n], layers.activation(gate[n])))
            for kind, weights, before, after in reads:
                node = Node(kind, layer=self.at, position=t, index=n)  # type: ignore[arg-type]
                self.sketch.node(node, weights[place_in_shown], activation=float(before))
                # Such a vector is the same for every prompt, so its reading may come from the disk.
                self.sketch.weights.add(node)
                self.sketch.edge(read, node, "mlp_in", "activation", x @ weights[place_in_shown], **place)
                self.sketch.edge(node, neuron, "neuron", "activation", after, **place)

    def _add_rest(self, t: int, shown: Tensor, read: Node, mlp: Node, direction: Tensor | None) -> None:
        rows, amounts = self.layer.neuron_rows, self.layer.neuron_amounts(t).clone()
        # The rest is the sum of all other neurons, made in one product.
        amounts[shown] = 0
        vector = amounts @ rows
        rest = self.sketch.node(
            Node("mlp_rest", layer=self.at, position=t),
            vector,
            contribution=along(vector, direction),
            left_out=len(amounts) - len(shown),
        )
        self.sketch.edge(read, rest, "rest", "norm", self.sketch.vectors[read].norm(), **self._place(t))
        share = part_of(vector, self.sketch.vectors[mlp])
        self.sketch.edge(rest, mlp, "rest", "contribution", share, **self._place(t))

    def _place(self, t: int) -> dict[str, int]:
        return {"layer": self.at, "query_pos": t, "key_pos": t}
