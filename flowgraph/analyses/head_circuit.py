"""One head at one position: what it looks for, what it finds, and what it brings from there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..charts.axis import Axis
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import visible
from ..errors import ArgumentError
from ..lenses.direct_attribution import direction_of_target
from ..lenses.logit_lens import read
from ..lenses.query_key import attention_input, key_directions, query_directions, row_of
from ..models.anatomy import upcast
from ..semantic.layer import Layer
from ..semantic.selection import coverage, made_up, measured, strongest
from ..values.arguments import takes
from ..values.places import position_of
from ..values.reading import Reading
from ..values.trace import Trace


@dataclass(frozen=True, eq=False)
class HeadCircuit(Result):
    """What a head reads and writes at a position. Rows are the sources shown, the largest contribution first.

    Attributes
    ----------
    layer, head, position, token
        Which head, and the query position and its token.
    sources, source_tokens
        [S] positions that the head reads from, and the tokens there.
    pattern
        [S] attention probability.
    score
        [S] scale · query · key, before mask and soft-cap.
    contribution
        [S] part of the head's output that the source makes up, ⟨A·u, output⟩ / ⟨output, output⟩; 1 over all sources.
    logits
        [S] what the source writes in the direction of the target (minus the foil) at this position; None where single parts
        have no logit.
    coverage
        Bar of Σ|contribution| over all sources that those shown hold, between 0 and 1.
    keys
        Reading (S,) of the keys as the query's position sees them: what of the state here would be attended from.
    queries
        Reading (S,) of the query as each source's position sees it: what of a state there is looked for.
    values
        Reading (S,) of what is brought from each source: A · value · W_O.
    output
        Reading () of what the head writes in all.
    output_logits
        Logit of that in the direction of the target; None as above.
    """

    layer: int
    head: int
    position: int
    token: str
    sources: Int[np.ndarray, "S"]
    source_tokens: tuple[str, ...]
    pattern: Float[np.ndarray, "S"]
    score: Float[np.ndarray, "S"]
    contribution: Float[np.ndarray, "S"]
    logits: Float[np.ndarray, "S"] | None
    coverage: float
    keys: Reading
    queries: Reading
    values: Reading
    output: Reading
    output_logits: float | None

    def __repr__(self) -> str:
        logits = "" if self.output_logits is None else f", {self.output_logits:+.3g} logits"
        return (
            f"HeadCircuit(L{self.layer}H{self.head} at position {self.position} {self.token!r}, {len(self.sources)} sources that "
            f"hold {self.coverage:.0%}, writes {self.output.top_tokens[0][0]!r}{logits})"
        )

    def table(self) -> Table:
        """One row for each source shown, the largest contribution first.

        Columns: ``source`` (position), ``source_token``, ``pattern``, ``score``, ``contribution``, ``logits`` where single parts
        have one, and the best token of each reading: ``query_token``, ``key_token``, ``value_token``.
        """
        columns: dict[str, Any] = {
            "source": self.sources,
            "source_token": list(self.source_tokens),
            **{name: getattr(self, name) for name in ("pattern", "score", "contribution")},
        }
        if self.logits is not None:
            columns["logits"] = self.logits
        for name, reading in (("query", self.queries), ("key", self.keys), ("value", self.values)):
            columns[f"{name}_token"] = [tokens[0] for tokens in reading.top_tokens]
        note = f"these sources hold {self.coverage:.0%} of Σ|contribution|"
        return Table(repr(self), columns, note=note)

    def chart(self) -> Bars:
        """Numbers of each source as bars, and the top tokens of query, key and value beside them."""
        places = Places("source", tuple(self.sources.tolist()), self.source_tokens, "source: position, token")
        numbers = [("attention", "probability", self.pattern), ("of the output", "part (Σ = 1)", self.contribution)]
        numbers += [] if self.logits is None else [("to the target", "logits", self.logits)]
        texts = (("query looks for", self.queries), ("key answers", self.keys), ("value brings", self.values))
        written = " · ".join(map(visible, self.output.top_tokens[0][:_WRITTEN]))
        logit = "" if self.output_logits is None else f", {self.output_logits:+.2f} logits to the target"
        return Bars(
            title=f"L{self.layer}H{self.head} at {visible(self.token)} (position {self.position}) writes {written}{logit}",
            columns=(
                *(
                    Column(places, Axis(unit), (self._part(values, unit),), title=name)
                    for name, unit, values in numbers
                ),
                *(
                    Column(
                        places, Axis(name), words=tuple(tokens[:_LISTED] for tokens in reading.top_tokens), title=name
                    )
                    for name, reading in texts
                ),
            ),
            subtitle=f"{len(self.sources)} sources, which hold {self.coverage:.0%} of Σ|part of its output|",
        )

    def _part(self, values: Float[np.ndarray, "S"], unit: str) -> Bar:
        def tip(n: int) -> tuple[str, ...]:
            return (f"{self.sources[n]} {visible(self.source_tokens[n])}: {values[n]:.3g} {unit}",)

        return Bar(values, tip)


_WRITTEN, _LISTED = 3, 5
"""Tokens in the title, and of each reading."""


@takes(Trace)
def head_circuit(
    trace: Trace, *, layer: int, head: int, position: int | None = None, k: int = 10, sources: int = 5
) -> HeadCircuit:
    """Read both circuits of a head for this prompt: which tokens match (query, key), and which are copied (value, output).

    Queries and keys are taken back to the residual stream through the other side's weights, rotary embedding and norm
    (:mod:`flowgraph.lenses.query_key`), where a word has a meaning. What a head adds goes through the norm after the block where there is
    one (sandwich), frozen at its scale.

    Parameters
    ----------
    trace
        A trace with its model and all sites of attention.
    layer, head
        Which head.
    position
        Query position; default the trace's, negative counts from the end.
    k
        How many top and bottom tokens each reading keeps.
    sources
        How many sources, those with the largest |contribution|; a source that brings nothing is left out.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head over a vocabulary.
    ArgumentError
        If layer, head, position, k or sources is out of its range.

    References
    ----------
    Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits", for the QK and OV circuit; Dar et al. (2023),
    "Analyzing Transformers in Embedding Space", for reading them in vocabulary.

    Examples
    --------
    >>> circuit = fg.head_circuit(trace, layer=23, head=4)
    >>> circuit.source_tokens[0]  # the token that it reads most of
    ' Japan'
    """
    trace.model.require_head("the circuit of a head")
    t, row = position_of(trace, position), row_of(trace, layer)
    if not 0 <= head < trace.n_heads:
        raise ArgumentError(f"head={head} must be one of 0…{trace.n_heads - 1}")
    if sources < 1:
        raise ArgumentError(f"sources={sources} must be at least 1")
    parts = Layer(trace, layer)
    rows, amounts = parts.source_rows[head], parts.source_amounts(t)[head]
    brought = amounts[:, None] * rows
    output = brought.sum(0)
    measure = measured("contribution", rows, amounts, whole=output, direction=None)
    shown = strongest(measure, sources)
    keys, queries, score = _matched(trace, layer, torch.full_like(shown, head), torch.full_like(shown, t), shown)
    direction = direction_of_target(trace, t)
    return HeadCircuit(
        layer, head, t, trace.tokens[t],
        sources=_array(shown),
        source_tokens=tuple(trace.tokens[i] for i in shown.tolist()),
        pattern=_array(upcast(trace.pattern[row, head, t])[shown]),
        score=_array(score),
        contribution=_array(made_up(rows, amounts, output)[shown]),
        logits=None if direction is None else _array(brought[shown] @ direction),
        coverage=coverage(measure, shown),
        keys=read(trace, keys, k=k),
        queries=read(trace, queries, k=k),
        values=read(trace, brought[shown], k=k),
        output=read(trace, output, k=k),
        output_logits=None if direction is None else float(output @ direction),
    )  # fmt: skip


def _matched(
    trace: Trace, layer: int, heads: Int[Tensor, "S"], query_pos: Int[Tensor, "S"], key_pos: Int[Tensor, "S"]
) -> tuple[Float[Tensor, "S d_model"], Float[Tensor, "S d_model"], Float[Tensor, "S"]]:
    """Keys and queries in the residual stream, and the scores that they make."""
    keys, bias = key_directions(trace, layer, heads, query_pos=query_pos, key_pos=key_pos)
    queries, _ = query_directions(trace, layer, heads, query_pos=query_pos, key_pos=key_pos)
    state = attention_input(trace, layer)[query_pos]
    score: Tensor = trace.model.anatomy.blocks[layer].scale * ((state * keys).sum(-1) + bias)
    return keys, queries, score


def _array(x: Tensor) -> np.ndarray:
    found: np.ndarray = x.detach().cpu().numpy()
    return found
