"""What each head does on one prompt, in numbers: where it looks, how sharply, and what it writes towards the target.

Every score is a mean over the query positions for which its formula has a key to speak of; positions that have none do not count.
A score that no position defines is absent, with the reason in its place: a prompt without a repeated token has no induction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..charts.grid import Grid, Places
from ..charts.overview import Overview
from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError, ModelNeededError, NotRecordedError, UnsupportedReadingError
from ..values.arguments import takes
from ..values.node import EXCHANGING, Node, label
from ..values.places import position_of
from ..values.trace import Trace
from .direct_attribution import direct_logit_attribution, refuse_pooled


@dataclass(frozen=True, eq=False)
class HeadScore:
    """One number for each head.

    Attributes
    ----------
    name
        ``"induction"``, …
    values
        [layer, head] the score, in ``unit``.
    unit
        ``"share"`` (part of a query's attention), ``"nats"`` or ``"logits"``.
    lowest, highest
        Bounds that the score cannot leave; None where there are none.
    queries
        Over how many query positions it is a mean; 1 for scores of the explained position.
    description
        What it is, on one line.
    kind
        ``"head"``, or ``"cross_head"`` for heads that read the encoder.
    """

    name: str
    values: Float[np.ndarray, "layer head"]
    unit: str
    lowest: float | None
    highest: float | None
    queries: int
    description: str
    kind: Literal["head", "cross_head"] = "head"

    def __repr__(self) -> str:
        layers, heads = self.values.shape
        held = f"{self.values.min():.3g}…{self.values.max():.3g} {self.unit}"
        return f"HeadScore({self.name!r}, {layers} layers × {heads} heads, {held}: {self.description})"

    def chart(self, first_layer: int = 0) -> Grid:
        """A grid over layers and heads.

        Parameters
        ----------
        first_layer
            Layer of the model that row 0 stands for.
        """
        layers, heads = self.values.shape
        name, values = self.name.replace("_", " "), self.values
        return Grid(
            title=f"{'Heads' if self.kind == 'head' else 'Heads that read the encoder'} by {name}",
            rows=Places("layer", tuple(range(first_layer, first_layer + layers)), is_upward=True),
            columns=Places("head", tuple(range(heads))),
            values=values,
            unit=self.unit,
            tip=lambda row, head: (
                label(Node(self.kind, layer=first_layer + row, head=head)),
                f"{values[row, head]:.4g} {self.unit}",
            ),
            subtitle=f"{self.description} ({self.unit})",
            about=f"{name} of {layers} layers × {heads} heads; colour: {self.description} ({self.unit})",
        )


@dataclass(frozen=True, eq=False)
class HeadScores(Result):
    """Scores of all heads on one prompt; ``scores["induction"]`` is [layer, head].

    Attributes
    ----------
    model
        Name of the model.
    tokens
        [position] the prompt.
    position
        The explained position.
    layers
        First and one-past-last layer; row 0 of every score is the first.
    scores
        Name → score.
    undefined
        Name → why this prompt or model has no such score.
    strongest_key
        [layer, head] the other position that the explained one attends to most; None where it sees no other.
    kind
        ``"head"``, or ``"cross_head"``: heads that read the encoder.
    keys
        [key_pos] the tokens that they attend to where these are not ``tokens``: the encoder's.
    """

    model: str
    tokens: tuple[str, ...]
    position: int
    layers: tuple[int, int]
    scores: Mapping[str, HeadScore]
    undefined: Mapping[str, str]
    strongest_key: Int[np.ndarray, "layer head"] | None
    kind: Literal["head", "cross_head"] = "head"
    keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        rows = self.layers[1] - self.layers[0]
        for name, score in self.scores.items():
            if len(score.values) != rows:
                raise ArgumentError(f"{name} has {len(score.values)} layers; the window {self.layers} has {rows}")
            if not np.isfinite(score.values).all():
                raise ArgumentError(
                    f"{name} holds numbers that are not finite; a score without a number has no place here"
                )

    def __getitem__(self, name: str) -> Float[np.ndarray, "layer head"]:
        """[layer, head] of one score.

        Raises
        ------
        ArgumentError
            If there is none of this name, or this prompt does not define it.
        """
        return self.score(name).values

    @takes()
    def score(self, name: str) -> HeadScore:
        """One score with its unit, bounds and description.

        Raises
        ------
        ArgumentError
            As for indexing.
        """
        if name in self.undefined:
            raise ArgumentError(f"{name!r} is not defined here: {self.undefined[name]}")
        if name not in self.scores:
            raise ArgumentError(f"{name!r} is not a score of heads; expected one of {', '.join(self.scores)}")
        return self.scores[name]

    def __repr__(self) -> str:
        rows, heads = next(iter(self.scores.values())).values.shape if self.scores else (0, 0)
        missing = f"; not defined: {', '.join(self.undefined)}" if self.undefined else ""
        at = f"position {self.position} {self.tokens[self.position]!r}"
        return f"HeadScores({self.model!r}, {rows} layers × {heads} {'heads' if self.kind == 'head' else 'heads that read the encoder'}, {at}: {', '.join(self.scores)}{missing})"

    @takes()
    def strongest(self, name: str, count: int = 5) -> list[tuple[Node, float]]:
        """The heads with the largest |score|, the largest first (of an entropy, the smallest: the sharpest heads).

        Raises
        ------
        ArgumentError
            As for indexing, or if ``count`` is below 1.
        """
        values = self[name]
        if count < 1:
            raise ArgumentError(f"count={count} must be at least 1")
        size = values if name == "entropy" else -np.abs(values)
        order = np.argsort(size, axis=None, kind="stable")[:count]
        places = (np.unravel_index(n, values.shape) for n in order)
        return [(self._head(int(row), int(head)), float(values[row, head])) for row, head in places]

    def table(self) -> Table:
        """One row for each head: ``head_label``, ``layer``, ``head``, then a column for each score.

        Where the explained position sees another one: ``strongest_key`` and ``strongest_key_token``, the position and token that
        it attends to most. Scores that are not defined have no column.
        """
        rows, heads = (self.layers[1] - self.layers[0]), self._heads
        places = [(row, head) for row in range(rows) for head in range(heads)]
        columns: dict[str, Any] = {
            "head_label": [label(self._head(row, head)) for row, head in places],
            "layer": [row + self.layers[0] for row, _ in places],
            "head": [head for _, head in places],
            **{name: score.values.ravel() for name, score in self.scores.items()},
        }
        if self.strongest_key is not None:
            keys = self.strongest_key.ravel()
            columns |= {"strongest_key": keys, "strongest_key_token": [(self.keys or self.tokens)[key] for key in keys]}
        return Table(repr(self), columns, words=("head_label",), note=self._missing)

    def arrays(self) -> dict[str, np.ndarray]:
        """Each score and ``strongest_key`` as [layer, head], ``layer`` and ``tokens``."""
        found = {name: score.values for name, score in self.scores.items()}
        if self.strongest_key is not None:
            found["strongest_key"] = self.strongest_key
        return found | {"layer": np.arange(*self.layers), "tokens": np.array(self.tokens, dtype=np.str_)}

    def chart(self, score: str | None = None) -> Grid:
        """A grid of one score over layers and heads.

        Parameters
        ----------
        score
            Which one; default ``"direct_logit"`` where it is defined, otherwise the first.

        Raises
        ------
        ArgumentError
            If the score does not exist or is not defined for this prompt.
        """
        if score is None:
            score = "direct_logit" if "direct_logit" in self.scores else next(iter(self.scores), "entropy")
        return self.score(score).chart(self.layers[0])

    def overview(self) -> Overview:
        """A small picture of each score, and its strongest heads."""
        scores = self.scores.values()
        columns: dict[str, Any] = {
            "score": list(self.scores),
            "strongest heads": [self._best(name) for name in self.scores],
            "mean": [float(score.values.mean()) for score in scores],
            "unit": [score.unit for score in scores],
            "queries": [score.queries for score in scores],
            "what it is": [score.description for score in scores],
        }
        words = ("score", "strongest heads", "unit", "what it is")
        table = Table(repr(self), columns, words=words, note=self._missing)
        return Overview(repr(self), {name: self.chart(name) for name in self.scores}, table)

    def _best(self, name: str) -> str:
        best = ", ".join(f"{label(node)} {value:.3g}" for node, value in self.strongest(name, 4))
        return "sharpest: " * (name == "entropy") + best

    @property
    def _missing(self) -> str:
        return "; ".join(f"{name} is not defined here: {why}" for name, why in self.undefined.items())

    @property
    def _heads(self) -> int:
        return next((score.values.shape[1] for score in self.scores.values()), 0)

    def _head(self, row: int, head: int) -> Node:
        return Node(self.kind, layer=row + self.layers[0], head=head)


_OF_ATTENTION = {
    "sink": "mean attention to the first token, from all later ones",
    "previous_token": "mean attention to the token just before",
    "duplicate_token": "mean attention to other places of the same token, where there are any",
    "induction": "mean attention to what followed the same token elsewhere, where there is such a place",
}
_ONE_TOKEN = "the prompt has one token only"
_WHY_NOT = {
    "sink": _ONE_TOKEN,
    "previous_token": _ONE_TOKEN,
    "duplicate_token": "no token of the prompt occurs twice",
    "induction": "no token of the prompt occurs again after another one has followed it",
}


@takes(Trace)
def head_scores(
    trace: Trace, *, position: int | None = None, attention: Literal["self", "cross"] = "self"
) -> HeadScores:
    """Score every head on this prompt.

    With A the attention of one head and ``id`` the token ids; a key s counts for a query t only where t may see it (s ≤ t in
    causal models):

    - ``entropy``: mean over t of −Σ_s A_ts ln A_ts, over all t that see two tokens or more; 0 … ln T nats
    - ``sink``: mean of A_t0 over t > 0
    - ``previous_token``: mean of A_t,t−1
    - ``duplicate_token``: mean of Σ A_ts over s ≠ t with id_s = id_t
    - ``induction``: mean of Σ A_ts over s ≠ t with id_(s−1) = id_t and s − 1 ≠ t: prefix matching
    - ``strongest_other``: max of A_ts over s ≠ t, at the explained position t
    - ``direct_logit``: what the head writes in the direction of the target (minus the foil) at the explained position, in logits

    Each mean is over the queries t that have such a key s. The paper below measures prefix matching on repeated random tokens;
    here it is measured on the prompt itself, where a head can also match by meaning or by position.

    Parameters
    ----------
    trace
        A trace that holds ``pattern``; ``direct_logit`` needs its model, all layers and their sites.
    position
        The explained position; default the trace's, negative counts from the end.
    attention
        ``"cross"``: the heads of a decoder that read its encoder. Of these the entropy is over the encoder's tokens, a duplicate is
        the encoder's same token, and ``strongest_other`` is any of its tokens. What asks for a distance between two positions
        (``sink``, ``previous_token``, ``induction``) is not defined: the two stacks count their positions apart.

    Returns
    -------
    Scores [layer, head]; those that this prompt or model does not define are in ``undefined`` with the reason, never NaN.

    Raises
    ------
    NotRecordedError
        If the trace does not hold ``pattern``.
    ArgumentError
        If the prompt has no such position, or ``attention`` is neither.
    UnsupportedReadingError
        If the model has no heads that read an encoder.

    Notes
    -----
    A sliding window hides far keys; where it hides the key that a score asks for, the attention to it counts as 0.

    References
    ----------
    Olsson et al. (2022), "In-context Learning and Induction Heads", for induction, prefix matching and previous-token heads;
    Wang et al. (2022), "Interpretability in the Wild", for duplicate-token heads; Xiao et al. (2023), "Efficient Streaming
    Language Models with Attention Sinks"; Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", for the
    direct logit contribution.

    Examples
    --------
    >>> found = fg.head_scores(trace).scores["direct_logit"]
    >>> round(float(found.values[23, 4]), 2)  # logits of " Tokyo" that layer 23's head 4 writes
    2.68
    """
    at = position_of(trace, position)
    if attention == "cross":
        return _of_cross(trace, at)
    if attention != "self":
        raise ArgumentError(f"attention={attention!r} is not known; expected 'self' or 'cross'")
    seen = _visible(len(trace.tokens), trace.causal)
    is_text = trace.axis.kind == "token"
    # Positions of an image or a sound are no tokens: none is the same as another.
    wanted = _keys(trace.token_ids if is_text else range(len(trace.tokens)), seen)
    choosing = seen.sum(1) > 1
    entropy, sums = _pass(trace.pattern, choosing, np.stack([wanted[name] for name in _OF_ATTENTION]))
    found, undefined = dict[str, HeadScore](), dict[str, str]()
    if choosing.any():
        about = "mean entropy of attention: 0 looks at one token, ln T at all alike"
        bound = math.log(len(trace.tokens))
        found["entropy"] = HeadScore("entropy", entropy, "nats", 0.0, bound, int(choosing.sum()), about)
    else:
        undefined["entropy"] = _ONE_TOKEN
    for n, (name, description) in enumerate(_OF_ATTENTION.items()):
        queries = int(wanted[name].any(1).sum())
        if not is_text:
            undefined[name] = "it looks for tokens of a text, and the positions are of an image or a sound"
        elif queries:
            found[name] = HeadScore(name, sums[n] / queries, "share", 0.0, 1.0, queries, description)
        else:
            undefined[name] = _WHY_NOT[name]
    strongest_key = _add_strongest(trace, at, seen, found, undefined)
    _add_direct(trace, at, found, undefined)
    return HeadScores(trace.model_name, trace.tokens, at, trace.layers, found, undefined, strongest_key)


def _of_cross(trace: Trace, at: int) -> HeadScores:
    """Scores of the heads that read the encoder."""
    if EXCHANGING in trace.stacks:
        raise UnsupportedReadingError(
            f"scores of heads that read another stack are made for encoder–decoders, and the two stacks of {trace.model_name!r} read each "
            "other; their patterns are trace.attention['text.cross'] and trace.attention['vision.cross']"
        )
    pattern, encoder = trace.cross_pattern, trace.stacks.get("encoder")
    queries, sources = pattern.shape[-2:]
    found, undefined = dict[str, HeadScore](), dict[str, str]()
    are_tokens = encoder is not None and encoder.axis.kind == trace.axis.kind == "token"
    source_ids = np.array(encoder.token_ids) if are_tokens and encoder is not None else np.full(sources, -1)
    same = np.array(trace.token_ids)[:, None] == source_ids
    entropy, sums = _pass(pattern, np.ones(queries, bool), same[None])
    if sources > 1:
        about = "mean entropy of attention to the encoder: 0 looks at one token, ln S at all alike"
        found["entropy"] = HeadScore("entropy", entropy, "nats", 0.0, math.log(sources), queries, about, "cross_head")
    else:
        undefined["entropy"] = "the encoder reads one position only"
    for name in ("sink", "previous_token", "induction"):
        undefined[name] = (
            "positions of the decoder and of the encoder are counted apart, so there is no distance between them"
        )
    matched = int(same.any(1).sum())
    if matched:
        about = "mean attention to the same token in the encoder, where there is one"
        found["duplicate_token"] = HeadScore(
            "duplicate_token", sums[0] / matched, "share", 0.0, 1.0, matched, about, "cross_head"
        )
    else:
        undefined["duplicate_token"] = (
            "no token that was written stands in the source" if are_tokens
            else "it looks for tokens of a text, and what the encoder reads is none, or is not traced"
        )  # fmt: skip
    rows = pattern[:, :, at].detach().cpu().double().numpy()
    about = "largest attention of the explained position to one token of the encoder"
    found["strongest_other"] = HeadScore("strongest_other", rows.max(-1), "share", 0.0, 1.0, 1, about, "cross_head")
    _add_direct(trace, at, found, undefined, kind="cross_head")
    keys = tuple(map(str, range(sources))) if encoder is None else encoder.tokens
    return HeadScores(
        trace.model_name, trace.tokens, at, trace.layers, found, undefined, rows.argmax(-1), "cross_head", keys
    )


def _pass(
    patterns: Float[Tensor, "layer head T S"], choosing: Bool[np.ndarray, "T"], keys: Bool[np.ndarray, "score T S"]
) -> tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "score layer head"]]:
    """Mean entropy over the queries that choose, and the attention that goes to the keys of each score."""
    counted = keys.reshape(len(keys), -1).astype(np.float64)
    entropy, sums = [], []
    # Layer by layer: in float64 all of them at once would be several times the trace.
    for layer in patterns:
        pattern = layer.detach().cpu().double()
        sums.append(counted @ pattern.flatten(1).numpy().T)
        # A query that sees one token only adds 0 and is not counted.
        whole = torch.special.entr(pattern).sum((1, 2)).numpy() / max(1, choosing.sum())
        entropy.append(np.maximum(whole, 0.0))  # −0.0 would be shown with its sign
    return np.stack(entropy), np.stack(sums, axis=1)


def _visible(count: int, causal: bool) -> Bool[np.ndarray, "T T"]:
    """[query, key] which tokens a token may see."""
    return np.tri(count, dtype=bool) if causal else np.ones((count, count), dtype=bool)


def _keys(token_ids: Sequence[int], seen: Bool[np.ndarray, "T T"]) -> dict[str, Bool[np.ndarray, "T T"]]:
    """Name → [query, key] which keys a score counts."""
    ids = np.array(token_ids)
    count = len(ids)
    t, s = np.indices((count, count))
    other = seen & (s != t)
    # The id before the first token belongs to none: −1 is no token's id.
    before = np.concatenate([[-1], ids[:-1]])
    return {
        "sink": other & (s == 0) & (t > 0),
        "previous_token": other & (s == t - 1),
        "duplicate_token": other & (ids[:, None] == ids),
        "induction": other & (ids[:, None] == before) & (s - 1 != t),
    }


def _add_strongest(
    trace: Trace, at: int, seen: Bool[np.ndarray, "T T"], found: dict[str, HeadScore], undefined: dict[str, str]
) -> Int[np.ndarray, "layer head"] | None:
    """Add the largest attention to another token; returns to which."""
    others = np.flatnonzero(seen[at] & (np.arange(len(seen)) != at))
    if not len(others):
        undefined["strongest_other"] = f"position {at} sees no other token"
        return None
    rows = trace.pattern[:, :, at].detach().cpu().double().numpy()[..., others]
    about = "largest attention of the explained position to another token"
    found["strongest_other"] = HeadScore("strongest_other", rows.max(-1), "share", 0.0, 1.0, 1, about)
    keys: np.ndarray = others[rows.argmax(-1)]
    return keys


def _add_direct(
    trace: Trace,
    at: int,
    found: dict[str, HeadScore],
    undefined: dict[str, str],
    kind: Literal["head", "cross_head"] = "head",
) -> None:
    """Add what each head writes towards the target, where single heads have a logit."""
    try:
        refuse_pooled(trace, "the logit of a head")
        parts = direct_logit_attribution(trace, position=at)
        heads = parts.heads if kind == "head" else parts.cross_heads
        assert heads is not None
    except (ArgumentError, ModelNeededError, NotRecordedError, UnsupportedReadingError) as error:
        undefined["direct_logit"] = str(error)
        return
    against = "" if trace.foil is None else " minus the foil"
    about = f"what the head writes in the direction of the target{against} at the explained position"
    found["direct_logit"] = HeadScore("direct_logit", heads, "logits", None, None, 1, about, kind)
