"""How a token rises and falls along the residual stream of one position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..charts.axis import Axis, Role
from ..charts.lines import Lines, Panel, Series
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import printable, visible
from ..lenses.logit_lens import read
from ..models.anatomy import upcast
from ..values.arguments import takes
from ..values.node import Node, label
from ..values.places import position_of
from ..values.reading import Reading
from ..values.trace import Trace

_TOP = 5


@dataclass(frozen=True, eq=False)
class Trajectory(Result):
    """Readings of one position through all sites, in the order in which the model passes them.

    Every reading says rank, probability and log-probability (nats) of the target, and of the foil where there is one.

    Attributes
    ----------
    model, position, token
        Model, query position and the token that stands there.
    layers
        First and one-past-last layer.
    sites
        [S] labels of the states: ``embed`` (a window that starts later: ``L3.resid_pre``), ``L0.resid_mid``,
        ``L0.resid_post``, …; parallel blocks have no ``resid_mid``. In the decoder of an encoder–decoder ``L0.resid_cross`` stands
        between attention and attention to the encoder.
    depth
        [S] how many blocks each state has behind it; between attention and MLP one half, or one and two thirds where a block
        attends twice.
    stream
        Reading of the states, shape (S,).
    attention, mlp
        Readings of what attention and MLP of each layer add, each read by itself, shape (layer,).
    cross
        The same of attention to the encoder; None where there is none.
    """

    model: str
    position: int
    token: str
    layers: tuple[int, int]
    sites: tuple[str, ...]
    depth: Float[np.ndarray, "S"]
    stream: Reading
    attention: Reading
    mlp: Reading
    cross: Reading | None = None

    def __repr__(self) -> str:
        foil = "" if self.stream.foil_token is None else f", foil {self.stream.foil_token!r}"
        ranks = f"rank {self.stream.target_rank[0]:,} → {self.stream.target_rank[-1]:,}"
        return (
            f"Trajectory({self.model!r}, position {self.position} {self.token!r}, target {self.stream.target_token!r}{foil}, "
            f"{len(self.sites)} states, {ranks})"
        )

    def table(self) -> Table:
        """One row for each state, and before it one for what attention or MLP adds, read by itself, in the order of the pass.

        Columns: ``place`` (label), ``series`` (``stream``, ``attention``, ``cross``, ``mlp``), ``depth`` (blocks behind it), ``target_rank``,
        ``target_probability``, ``target_log_probability`` in nats, the same of the foil where there is one, ``entropy`` in nats,
        ``norm``, ``top_probability``, ``top_token``.
        """
        series = (*self._added, ("stream", list(self.sites), self.depth, self.stream))
        depth = np.concatenate([depth for *_, depth, _ in series])
        # Stable: what is added comes right before the state that it is added to.
        order = np.argsort(depth, kind="stable")
        columns: dict[str, Any] = {
            "place": np.array([place for _, places, _, _ in series for place in places]),
            "series": np.array([name for name, places, _, _ in series for _ in places]),
            "depth": depth,
        }
        for name in _COLUMNS:
            if getattr(self.stream, name) is not None:
                columns[name] = np.concatenate([getattr(reading, name) for *_, reading in series])
        columns["top_probability"] = np.concatenate([reading.top_probabilities[:, 0] for *_, reading in series])
        columns = {name: values[order] for name, values in columns.items()}
        best = [tokens[0] for *_, reading in series for tokens in reading.top_tokens]
        columns["top_token"] = [best[n] for n in order]
        return Table(repr(self), columns, words=("place", "series"), both_ends=True)

    @property
    def _added(self) -> list[tuple[Role, list[str], np.ndarray, Reading]]:
        """What each part of the blocks adds, in the order of the pass: its name, labels, depths and readings."""
        parts: list[tuple[Role, str, Reading]] = [
            ("attention", "attn_out", self.attention),
            ("mlp", "mlp_out", self.mlp),
        ]
        if self.cross is not None:
            parts.insert(1, ("cross", "cross_out", self.cross))
        before, within = np.arange(*self.layers, dtype=np.float64), len(parts)
        return [
            (name, [f"L{layer}.{site}" for layer in range(*self.layers)], before + n / within, reading)
            for n, (name, site, reading) in enumerate(parts, start=1)
        ]

    def chart(self) -> Lines:
        """Rank and log-probability of target and foil through all states, and of what attention and MLP add by themselves."""
        token, foil = visible(self.stream.target_token), self.stream.foil_token
        states = (self.depth, self.sites, self.stream)
        several: list[_Path] = [
            (f"state, {token}", "target", *states),
            *(
                (f"{_NAMES[name]} alone, {token}", name, depth, places, reading)
                for name, places, depth, reading in self._added
            ),
        ]
        if foil is not None:
            several.insert(1, (f"state, {visible(foil)} (foil)", "foil", *states))
        first, stop = self.layers
        ends = [(layer + 1.0, f"L{layer}") for layer in range(first, stop)]
        axes = {"rank": Axis("rank (1 = best)", "rank"), "log_probability": Axis("log-probability (nats)")}
        return Lines(
            title=f"{token} through the residual stream at position {self.position} ({visible(self.token)}), {printable(self.model)}",
            x=Axis("state after layer (between: after its attention)", ticks=((float(first), self.sites[0]), *ends)),
            panels=tuple(Panel(y, tuple(_series(*path, quantity) for path in several)) for quantity, y in axes.items()),
        )


_NAMES = {"attention": "attention", "cross": "attention to the encoder", "mlp": "MLP"}

_Path = tuple[str, Role, np.ndarray, Sequence[str], Reading]
"""Name and role of a series, how deep its vectors are, what they are called, and their reading."""


def _series(
    name: str, role: Role, depth: Float[np.ndarray, "S"], sites: Sequence[str], reading: Reading, quantity: str
) -> Series:
    aim = "foil" if role == "foil" else "target"
    ranks, probabilities = getattr(reading, f"{aim}_rank"), getattr(reading, f"{aim}_probability")
    return Series(
        name, role, depth, getattr(reading, f"{aim}_{quantity}").astype(np.float64),
        tip=lambda n: (
            sites[n], f"rank {ranks[n]:,}, p = {probabilities[n]:.3g}", f"reads {' · '.join(map(visible, reading.top_tokens[n]))}"
        ),
        is_joined=role in ("target", "foil"),
    )  # fmt: skip


_COLUMNS = (
    "target_rank", "target_probability", "target_log_probability", "foil_rank", "foil_probability", "foil_log_probability",
    "entropy", "norm",
)  # fmt: skip


@takes(Trace)
def trajectory(
    trace: Trace, *, position: int | None = None, target: str | int | None = None, foil: str | int | None = None
) -> Trajectory:
    """Follow a token, and a second one, through every state of a position.

    Parameters
    ----------
    trace
        A trace with its model that holds ``resid_pre``, ``resid_mid``, ``resid_post``, ``attn_out`` and ``mlp_out``, and
        ``resid_cross`` and ``cross_out`` of the decoder of an encoder–decoder.
    position
        Query position; default the trace's, negative counts from the end.
    target, foil
        Tokens to follow; default those of the trace.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If the prompt has no such position.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens".

    Examples
    --------
    >>> path = fg.trajectory(trace)
    >>> path.stream[-1].target_rank
    1
    """
    trace.model.require_head("a trajectory")
    t = position_of(trace, position)
    places = _states(trace, t)
    crosses = trace.model.anatomy.cross is not None
    sites = (trace.attn_out, trace.mlp_out, *([trace.cross_out] if crosses else []))
    added = [upcast(site[:, t]) for site in sites]
    k = min(_TOP, trace.model.anatomy.d_vocab)
    stream, attention, mlp, *cross = (
        read(trace, vectors, k=k, target=target, foil=foil)
        for vectors in (torch.stack([state for _, _, state in places]), *added)
    )
    return Trajectory(
        model=trace.model_name,
        position=t,
        token=trace.tokens[t],
        layers=trace.layers,
        sites=tuple(name for name, _, _ in places),
        depth=np.array([depth for _, depth, _ in places]),
        stream=stream,
        attention=attention,
        mlp=mlp,
        cross=cross[0] if cross else None,
    )


def _states(trace: Trace, position: int) -> list[tuple[str, float, Tensor]]:
    """Label, depth and vector of every state."""
    first, stop = trace.layers
    start = Node("embed") if first == 0 else Node("resid_pre", layer=first)
    found = [(label(start), float(first), upcast(trace.resid_pre[0, position]))]
    crosses = trace.model.anatomy.cross is not None
    for row, layer in enumerate(range(first, stop)):
        if crosses:
            name = label(Node("resid_cross", layer=layer))
            found.append((name, layer + 1 / 3, upcast(trace.resid_cross[row, position])))
        if trace.resid_mid is not None:
            depth = layer + (2 / 3 if crosses else 1 / 2)
            found.append((label(Node("resid_mid", layer=layer)), depth, upcast(trace.resid_mid[row, position])))
        found.append((label(Node("resid_post", layer=layer)), layer + 1.0, upcast(trace.resid_post[row, position])))
    return found
