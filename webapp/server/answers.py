"""What the service answers: frozen dataclasses of numpy arrays, texts and numbers, which cross processes and fit in files.

Each checks its own shapes, so that what is read from a file is as sound as what was computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from flowgraph import FlowGraph, Node, NodeReading, Reading
from flowgraph.errors import ArgumentError

MOST_EDGES = 3_000
"""Edges of a graph that is handed to the page."""

Lens = Reading
"""Every state after every layer, read in vocabulary: shape (layer, position)."""


@dataclass(frozen=True)
class Model:
    """A model that is loaded.

    Attributes
    ----------
    name, family
        Its name, and that of its architecture.
    n_layers, n_heads
        Its size.
    context
        Longest prompt in tokens; None where nothing limits it.
    causal, has_head, has_attribution
        Whether a token sees earlier tokens only; whether there are logits; whether a logit is the sum of its parts.
    chat
        Whether it has a chat template.
    """

    name: str
    family: str
    n_layers: int
    n_heads: int
    context: int | None
    causal: bool
    has_head: bool
    has_attribution: bool
    chat: bool


@dataclass(frozen=True)
class Prediction:
    """One token that the model may say next: its id and text, its probability and logit."""

    token_id: int
    token: str
    probability: float
    logit: float


@dataclass(frozen=True)
class Run:
    """One pass of the model.

    Attributes
    ----------
    model, family, prompt, tokens, token_ids, position, n_layers, n_heads, layers, causal, target, target_token, foil, foil_token
        As in :class:`flowgraph.Trace`; ``token_ids`` is empty where a saved graph does not say them.
    predictions
        The ten best tokens at ``position``, and after them target and foil where they are not among these; empty without a head.
    has_head, has_attribution
        Whether there are logits; whether a logit is the sum of its parts.
    seconds
        Time of the pass.
    """

    model: str
    family: str
    prompt: str | None
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    position: int
    n_layers: int
    n_heads: int
    layers: tuple[int, int]
    causal: bool
    target: int | None
    target_token: str | None
    foil: int | None
    foil_token: str | None
    predictions: tuple[Prediction, ...]
    has_head: bool
    has_attribution: bool
    seconds: float

    def __post_init__(self) -> None:
        _require(bool(self.tokens), "Run.tokens is empty")
        _require(len(self.token_ids) in (0, len(self.tokens)), "Run.token_ids does not fit Run.tokens")
        _require(0 <= self.position < len(self.tokens), f"Run.position={self.position} is outside the prompt")
        first, stop = self.layers
        _require(0 <= first < stop <= self.n_layers <= _MOST_LAYERS, f"Run.layers={self.layers} is no window")
        _require(0 <= self.n_heads <= _MOST_LAYERS, f"Run.n_heads={self.n_heads}")


@dataclass(frozen=True, eq=False)
class GraphAnswer:
    """A flow graph of at most 3,000 edges, its nodes read; and in words what was taken of the whole."""

    graph: FlowGraph
    note: str

    def __post_init__(self) -> None:
        _require(len(self.graph) <= MOST_EDGES, f"GraphAnswer.graph has {len(self.graph):,} edges, over {MOST_EDGES:,}")


@dataclass(frozen=True, eq=False)
class Heads:
    """Scores of every head.

    Attributes
    ----------
    scores
        Name → [layer, head] score; NaN-free. The first is the one to show unless another is chosen.
    units, descriptions
        Name → unit of the score, and what it says in a sentence.
    layers
        First and one-past-last layer of the rows.
    bounds
        Name → lowest and highest value that the score can have; None where nothing bounds it.
    undefined
        Name → why this prompt or model has no such score.
    strongest_key
        [layer, head] the other position that the explained one attends to most; None where it sees no other.
    """

    scores: dict[str, Float[np.ndarray, "layer head"]]
    units: dict[str, str]
    descriptions: dict[str, str]
    layers: tuple[int, int]
    bounds: dict[str, tuple[float | None, float | None]]
    undefined: dict[str, str]
    strongest_key: Int[np.ndarray, "layer head"] | None

    def __post_init__(self) -> None:
        names = [set(named) for named in (self.scores, self.units, self.descriptions, self.bounds)]
        _require(
            all(name == names[0] for name in names), "Heads: scores, units, descriptions and bounds differ in names"
        )
        shapes = {score.shape for score in self.scores.values()}
        rows = self.layers[1] - self.layers[0]
        _require(len(shapes) <= 1 and all(s[0] == rows for s in shapes), f"Heads.scores {shapes} for {rows} layers")


@dataclass(frozen=True, eq=False)
class Attention:
    """The attention pattern of one layer: [head, query_pos, key_pos] probabilities."""

    layer: int
    pattern: Float[np.ndarray, "head query_pos key_pos"]

    def __post_init__(self) -> None:
        shape = self.pattern.shape
        _require(len(shape) == 3 and shape[1] == shape[2], f"Attention.pattern has shape {shape}")


@dataclass(frozen=True)
class Bar:
    """One part of a logit.

    Attributes
    ----------
    label, kind
        How it is written, and the kind of node: ``head``, ``mlp``, ``neuron``, ``embed``, ``position_embed``, ``attn_bias`` …
    layer, head, position, index
        Where it is in the model; None where the kind has none. ``index`` is that of a neuron.
    value
        What it adds to the logit.
    """

    label: str
    kind: str
    layer: int | None
    head: int | None
    position: int | None
    index: int | None
    value: float


@dataclass(frozen=True, eq=False)
class Bars:
    """A logit (minus that of the foil) as a sum.

    Attributes
    ----------
    rows
        Every component: embeddings, heads, MLPs, biases; their sum is ``total``.
    total, logit, error
        Σ rows; the model's own logit; |total − logit| / max(1, |logit|).
    unit
        ``"logits"``.
    heads, mlps
        [layer, head] and [layer] what heads and MLPs add.
    sources
        [position] what heads brought from each token, all heads together.
    neurons, neurons_rest
        The strongest 50 neurons, and the sum of all others; together Σ mlps.
    target, foil, target_token, foil_token
        Whose logit it is.
    """

    rows: tuple[Bar, ...]
    total: float
    logit: float
    error: float
    unit: Literal["logits"]
    heads: Float[np.ndarray, "layer head"]
    mlps: Float[np.ndarray, "layer"]
    sources: Float[np.ndarray, "position"]
    neurons: tuple[Bar, ...]
    neurons_rest: float
    target: int
    foil: int | None
    target_token: str
    foil_token: str | None

    def __post_init__(self) -> None:
        layers = len(self.mlps)
        _require(self.heads.shape[:1] == (layers,), f"Bars.heads has {self.heads.shape} for {layers} layers")


@dataclass(frozen=True)
class NodeAnswer:
    """What one node says.

    Attributes
    ----------
    node, label
        The node and how it is written.
    reading
        Its vector read in vocabulary; None for kinds that have no vector.
    contribution
        What it adds to the logit of the target (minus the foil), in logits; None where that has no meaning.
    attention
        [key_pos] where a head looks from its position; None for other kinds.
    note
        Why something is missing; empty where nothing is.
    """

    node: Node
    label: str
    reading: NodeReading | None
    contribution: float | None
    attention: tuple[float, ...] | None
    note: str


@dataclass(frozen=True, eq=False)
class Semantic:
    """The semantic graph of some layers, and in words what was taken."""

    graph: FlowGraph
    note: str


@dataclass(frozen=True)
class Generation:
    """How the model goes on.

    Attributes
    ----------
    tokens, token_ids
        The tokens that it adds.
    text
        The prompt and what was added.
    prompts
        For each token the text that a run of it starts from, everything before the token; None where the tokenizer would
        cut that text into other tokens.
    ended
        Whether the model ended the text itself.
    """

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    text: str
    prompts: tuple[str | None, ...]
    ended: bool

    def __post_init__(self) -> None:
        counts = {len(self.tokens), len(self.token_ids), len(self.prompts)}
        _require(len(counts) == 1, f"Generation: {sorted(counts)} tokens, ids and prompts")


@dataclass(frozen=True)
class Ablation:
    """What a change of the run does to its answer.

    Attributes
    ----------
    what
        What was set to zero, in words.
    target_token, foil_token
        Whose logits are measured: target minus foil, or minus the mean logit where ``foil_token`` is None.
    unit
        ``"logits"``.
    before, after
        The difference without and with the change.
    note
        What has to be known to read it; empty where nothing has.
    """

    what: str
    target_token: str
    foil_token: str | None
    unit: Literal["logits"]
    before: float
    after: float
    note: str


@dataclass(frozen=True)
class Pair:
    """A prompt and its corrupted counterpart, the answer and a wrong one; texts of tokens are as the tokenizer has them.

    ``foil`` is None where the answer is compared with the mean logit.
    """

    clean: str
    corrupted: str
    target: str
    foil: str | None


@dataclass(frozen=True, eq=False)
class Circuit:
    """A circuit of at most 3,000 edges, what was taken of it in words, and the prompts that it was searched with."""

    graph: FlowGraph
    note: str
    about: str
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        _require(0 < len(self.graph) <= MOST_EDGES, f"Circuit.graph has {len(self.graph):,} edges")


@dataclass(frozen=True)
class CircuitTest:
    """What the answer is with nothing left but a circuit.

    Attributes
    ----------
    edges, prompts
        How many edges were left, and on how many prompts it was measured.
    metric, unit
        What was measured.
    full, empty, kept
        Its mean with all edges of the model, with none, and with those of the circuit.
    """

    edges: int
    prompts: int
    metric: str
    unit: str
    full: float
    empty: float
    kept: float


@dataclass(frozen=True)
class Counterpart:
    """A prompt that was made of another one; empty where none could be, and in words what was changed or why not."""

    text: str
    note: str


@dataclass(frozen=True)
class Token:
    """A token of the model."""

    token_id: int
    text: str


Answer = (
    Model | Run | GraphAnswer | Reading | Heads | Attention | Bars | NodeAnswer | Semantic | Generation | Ablation | Circuit
    | CircuitTest | Counterpart | Token
)  # fmt: skip

_MOST_LAYERS = 10_000

__all__ = [
    "MOST_EDGES", "Ablation", "Answer", "Attention", "Bar", "Bars", "Circuit", "CircuitTest", "Counterpart", "Generation", "GraphAnswer", "Heads", "Lens",
    "Model", "NodeAnswer", "Pair", "Prediction", "Run", "Semantic", "Token",
]  # fmt: skip


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ArgumentError(message)
