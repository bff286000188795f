"""Neurons that are active whatever the prompt says: regularisation neurons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..charts.axis import Axis, Role
from ..charts.lines import Lines, Panel, Rule, Series
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable, visible
from ..errors import ArgumentError
from ..lenses.logit_lens import read
from ..models import LoadedModel, load_model
from ..models.anatomy import upcast
from ..semantic.layer import Layer
from ..tracing import TraceSites, trace
from ..values.arguments import takes
from ..values.reading import Reading
from ..values.trace import Trace

_READ = 5


@dataclass(frozen=True, eq=False)
class RegularizationNeurons(Result):
    """How often each neuron is active, and those that nearly always are.

    Attributes
    ----------
    model, layers
        Model, and first and one-past-last layer.
    threshold, most_active, positions
        As they were asked for.
    prompts, counted
        How many prompts were run, and over how many cases the frequency is: prompts, or positions of all prompts.
    frequency
        [layer, d_mlp] part of the cases in which the neuron is active, between 0 and 1.
    mean_activation
        [layer, d_mlp] mean of the activation over all cases, with its sign.
    row_norm
        [layer, d_mlp] length of the row of W_out, after the gain of a norm over the MLP's output where there is one.
    layer, neuron
        [n] the neurons whose frequency is above the threshold, the most frequent first.
    reading
        Reading (n,) of their rows, each with the sign of its mean activation, as it is written: ``reading.entropy`` in nats.
    other_neuron
        [m] neurons, spread evenly over a layer, that show what is usual.
    other_entropy
        [layer, m] entropy of their rows in nats, read in the same way.
    greatest_entropy
        ln of the size of the vocabulary: the entropy of a row that says nothing.
    """

    model: str
    layers: tuple[int, int]
    threshold: float
    most_active: int | None
    positions: str
    prompts: int
    counted: int
    frequency: Float[np.ndarray, "layers d_mlp"]
    mean_activation: Float[np.ndarray, "layers d_mlp"]
    row_norm: Float[np.ndarray, "layers d_mlp"]
    layer: Int[np.ndarray, "n"]
    neuron: Int[np.ndarray, "n"]
    reading: Reading
    other_neuron: Int[np.ndarray, "m"]
    other_entropy: Float[np.ndarray, "layers m"]
    greatest_entropy: float

    def __repr__(self) -> str:
        return (
            f"RegularizationNeurons({self.model!r}, {len(self.layer):,} of {self.frequency.size:,} neurons active in more than "
            f"{self.threshold:.0%} of {self.counted:,} {'prompts' if self.positions == 'last' else 'positions'})"
        )

    def table(self) -> Table:
        """One row for each neuron above the threshold, the most frequent first.

        Columns: ``layer``, ``neuron``, ``frequency``, ``mean_activation``, ``row_norm``, ``entropy`` of its row in nats, and the
        row's ``top_token``.
        """
        place = (self.layer - self.layers[0], self.neuron)
        found = {name: getattr(self, name)[place] for name in ("frequency", "mean_activation", "row_norm")}
        columns: dict[str, Any] = {"layer": self.layer, "neuron": self.neuron, **found, "entropy": self.reading.entropy}
        columns["top_token"] = [tokens[0] for tokens in self.reading.top_tokens]
        return Table(repr(self), columns)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of numbers by their names, and ``entropy`` [n] of the rows listed."""
        found = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return found | {"entropy": self.reading.entropy}

    def chart(self) -> Lines:
        """How often neurons are active against the entropy of what they write, with some others for comparison."""
        rows = np.arange(*self.layers)
        layers, neurons = np.repeat(rows, len(self.other_neuron)), np.tile(self.other_neuron, len(rows))
        others = self._series("others", layers, neurons, self.other_entropy.ravel(), None)
        name = f"in more than {self.threshold:.0%}"
        listed = self._series(name, self.layer, self.neuron, self.reading.entropy, self.reading)
        cases = f"{self.counted:,} {'prompts' if self.positions == 'last' else 'positions'}"
        how = "activation > 0" if self.most_active is None else f"among the {self.most_active} most active of its layer"
        rules = (Rule("y", self.threshold), Rule("x", self.greatest_entropy, "ln V: says nothing"))
        return Lines(
            title=f"{len(self.neuron):,} of {self.frequency.size:,} neurons of {printable(self.model)} are active in more than "
            f"{self.threshold:.0%} of {cases}",
            x=Axis(f"active in this part of {cases} ({how})", is_percent=True),
            panels=(Panel(Axis("entropy of its row, read in vocabulary (nats)"), (others, listed), rules),),
        )

    def _series(
        self,
        name: str,
        layer: Int[np.ndarray, "n"],
        neuron: Int[np.ndarray, "n"],
        entropy: np.ndarray,
        reading: Reading | None,
    ) -> Series:
        place = (layer - self.layers[0], neuron)
        frequency, activation, norm = self.frequency[place], self.mean_activation[place], self.row_norm[place]

        def tip(n: int) -> tuple[str, ...]:
            return (
                f"L{layer[n]}N{neuron[n]}: active in {frequency[n]:.1%}, entropy {entropy[n]:.2f} nats",
                f"mean activation {activation[n]:.3g}, norm of its row {norm[n]:.3g}",
                *(() if reading is None else (" · ".join(map(visible, reading.top_tokens[n])),)),
            )

        role: Role = "rest" if reading is None else "mlp"
        return Series(f"{name} ({len(layer):,})", role, frequency, entropy, tip)


@takes()
def regularization_neurons(
    model: Any,
    prompts: Iterable[str | Sequence[int]],
    *,
    layers: int | tuple[int, int] | None = None,
    threshold: float = 0.85,
    most_active: int | None = 100,
    positions: Literal["last", "all"] = "last",
    others: int = 16,
) -> RegularizationNeurons:
    """Find the neurons that are active in more than ``threshold`` of all prompts, and say how much their rows mean.

    A neuron is active where its |activation| is above 0 and fewer than ``most_active`` neurons of its layer have a larger one.
    Activations are what W_out multiplies, in gated MLPs act(gate) · input. Prompts are run one after another, and of each only
    the activations are kept.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    prompts
        Texts or token ids.
    layers
        One layer, or (first, one past last); default all.
    threshold
        Frequency above which a neuron is listed.
    most_active
        How many neurons of a layer count as active; None: all with an activation above 0.
    positions
        ``"last"``: a case is a prompt, at the position it explains (the last token, for masked language models the mask).
        ``"all"``: a case is a position.
    others
        How many neurons of each layer are read as well, for comparison.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If there are no prompts, or an argument is out of its range.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers", section on
    regularisation neurons: among the 100 most active neurons of their layer in over 85 % of 100 prompts, at the last position,
    with rows of high norm or high entropy. A "most active" neuron is here one with a large absolute activation.
    """
    loaded = load_model(model)
    loaded.require_head("the entropy of a neuron's row")
    if positions not in ("last", "all"):
        raise ArgumentError(f"positions={positions!r} is not known; expected 'last' or 'all'")
    window = _checked(loaded, layers, threshold, most_active, others)
    counts = _Counts(most_active, every=positions == "all")
    last: Trace | None = None
    for prompt in prompts:
        last = trace(loaded, prompt, keep=TraceSites(frozenset({"neurons"}), window))
        counts.add(last)
    if last is None:
        raise ArgumentError("prompts is empty; give at least one, better a hundred")
    frequency, mean = counts.frequency, counts.mean
    rows = [Layer(last, layer).neuron_rows for layer in range(*window)]
    found = _above(frequency, threshold)
    compared = np.unique(np.linspace(0, frequency.shape[1] - 1, others).round().astype(np.int64))
    return RegularizationNeurons(
        loaded.name, window, threshold, most_active, positions, counts.prompts, counts.cases,
        frequency=frequency,
        mean_activation=mean,
        row_norm=np.stack([part.norm(dim=-1).cpu().numpy() for part in rows]),
        layer=found[:, 0] + window[0],
        neuron=found[:, 1],
        reading=_read(last, rows, mean, found),
        other_neuron=compared,
        other_entropy=_read(last, rows, mean, _grid(len(rows), compared)).entropy.reshape(len(rows), -1),
        greatest_entropy=float(np.log(loaded.anatomy.d_vocab)),
    )  # fmt: skip


class _Counts:
    """How often each neuron was active so far, and the sum of its activations."""

    def __init__(self, most_active: int | None, *, every: bool) -> None:
        self.most_active, self.every = most_active, every
        self.prompts, self.cases = 0, 0
        self.active: Tensor | float = 0.0
        self.total: Tensor | float = 0.0

    def add(self, run: Trace) -> None:
        """Count one prompt."""
        found = upcast(run.neurons if self.every else run.neurons[:, run.position : run.position + 1])
        self.active = self.active + _is_active(found, self.most_active).sum(1)
        self.total = self.total + found.double().sum(1)
        self.prompts += 1
        self.cases += found.shape[1]

    @property
    def frequency(self) -> Float[np.ndarray, "layers d_mlp"]:
        assert isinstance(self.active, Tensor)
        found: np.ndarray = self.active.double().cpu().numpy() / self.cases
        return found

    @property
    def mean(self) -> Float[np.ndarray, "layers d_mlp"]:
        assert isinstance(self.total, Tensor)
        found: np.ndarray = self.total.cpu().numpy() / self.cases
        return found


def _is_active(
    activation: Float[Tensor, "layer position d_mlp"], most_active: int | None
) -> Bool[Tensor, "layer position d_mlp"]:
    if most_active is None:
        return activation > 0
    size = activation.abs()
    least = size.topk(most_active, dim=-1).values[..., -1:]
    return (size >= least) & (size > 0)


def _above(frequency: Float[np.ndarray, "layers d_mlp"], threshold: float) -> Int[np.ndarray, "n 2"]:
    """(row of the layer, neuron) above the threshold, the most frequent first."""
    found = np.argwhere(frequency > threshold)
    order = np.argsort(-frequency[found[:, 0], found[:, 1]], kind="stable")
    return found[order]


def _grid(layers: int, neurons: Int[np.ndarray, "m"]) -> Int[np.ndarray, "n 2"]:
    """The same neurons of every layer."""
    return np.stack([np.repeat(np.arange(layers), len(neurons)), np.tile(neurons, layers)], axis=1)


def _read(
    run: Trace, rows: list[Tensor], mean: Float[np.ndarray, "layers d_mlp"], which: Int[np.ndarray, "n 2"]
) -> Reading:
    """Rows as they are written: with the sign of their mean activation."""
    sign = [-1.0 if mean[row, neuron] < 0 else 1.0 for row, neuron in which]
    vectors = [s * rows[row][neuron] for s, (row, neuron) in zip(sign, which, strict=True)]
    k = min(_READ, run.model.anatomy.d_vocab)
    return read(run, torch.stack(vectors) if vectors else rows[0][:0], k=k)


def _checked(
    loaded: LoadedModel, layers: int | tuple[int, int] | None, threshold: float, most_active: int | None, others: int
) -> tuple[int, int]:
    """The window of layers, after all arguments were checked."""
    anatomy = loaded.anatomy
    n_layers, d_mlp = len(anatomy.blocks), anatomy.blocks[0].n_neurons
    window = (0, n_layers) if layers is None else (layers, layers + 1) if isinstance(layers, int) else layers
    if not 0 <= window[0] < window[1] <= n_layers:
        raise ArgumentError(f"layers={layers} is not within 0…{n_layers - 1}; give one, or (first, one past last)")
    if not 0 <= threshold < 1:
        raise ArgumentError(f"threshold={threshold} must be at least 0 and below 1: frequencies above it are listed")
    if most_active is not None and not 1 <= most_active < d_mlp:
        raise ArgumentError(
            f"most_active={most_active} must be between 1 and {d_mlp - 1}, fewer than the {d_mlp} neurons of a layer; or None "
            "for all with an activation above 0"
        )
    if not 1 <= others <= d_mlp:
        raise ArgumentError(f"others={others} must be between 1 and {d_mlp}, the neurons of a layer")
    return window
