"""A layer norm as a semantic filter: which tokens it promotes and demotes, and which of its steps does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..charts.axis import Axis, Role
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import visible
from ..errors import ArgumentError
from ..lenses.logit_lens import read, unembed
from ..lenses.query_key import row_of
from ..models.anatomy import Norm, upcast
from ..values.arguments import takes
from ..values.places import position_of
from ..values.reading import Reading
from ..values.trace import Trace
from .overlap import overlap

Part = Literal["attention", "cross", "mlp", "final"]
Step = Literal["centering", "scale", "gain", "bias"]


@dataclass(frozen=True)
class TokenChange:
    """What a norm does to one token.

    Attributes
    ----------
    token, token_id
        The token.
    rank_before, rank_after
        Rank among the logits, 1 = highest.
    log_probability_before, log_probability_after
        Natural log of the probability, in nats.
    by_step
        [step] change of the log-probability that each step of the norm makes; sums to the whole change.
    """

    token: str
    token_id: int
    rank_before: int
    rank_after: int
    log_probability_before: float
    log_probability_after: float
    by_step: tuple[float, ...]

    @property
    def log_probability_change(self) -> float:
        """Log-probability after minus before, in nats."""
        return self.log_probability_after - self.log_probability_before

    @property
    def rank_factor(self) -> float:
        """Rank before divided by rank after: 10 where the token comes ten times further to the front."""
        return self.rank_before / self.rank_after


@dataclass(frozen=True, eq=False)
class NormFilter(Result):
    """The reading of a vector before and after a norm, and what changed.

    Attributes
    ----------
    part, layer, position, token
        Which norm (layer is None for the final one), and the position and token it is looked at.
    before, after
        Readings of one vector each (shape ()).
    overlap
        I_k of both: the part of the k best tokens that they share.
    promoted_in_rank, demoted_in_rank
        Tokens whose rank changes by the largest factor, the largest first; those that do not change are left out.
    promoted_in_log_probability, demoted_in_log_probability
        Tokens whose log-probability changes most.
    steps
        What the norm does, in order: ``"centering"`` (LayerNorm only), ``"scale"``, ``"gain"``, ``"bias"``, where it has them.
    step_divergence
        [step] Kullback–Leibler divergence of the reading after each step from the one before it, in nats.
    divergence
        The same for the whole norm.
    """

    part: Part
    layer: int | None
    position: int
    token: str
    before: Reading
    after: Reading
    overlap: float
    promoted_in_rank: tuple[TokenChange, ...]
    demoted_in_rank: tuple[TokenChange, ...]
    promoted_in_log_probability: tuple[TokenChange, ...]
    demoted_in_log_probability: tuple[TokenChange, ...]
    steps: tuple[Step, ...]
    step_divergence: Float[np.ndarray, "step"]
    divergence: float

    def __repr__(self) -> str:
        norm = "final norm" if self.layer is None else f"norm of layer {self.layer}, {self.part}"
        return (
            f"NormFilter({norm}, position {self.position} {self.token!r}, top tokens shared {self.overlap:.0%}, divergence "
            f"{self.divergence:.3g} nats)"
        )

    def table(self) -> Table:
        """One row for each token of each list; a token can be in several.

        Columns: ``change`` (the list, such as ``promoted in rank``), ``token``, ``token_id``, ``rank_before``, ``rank_after``,
        ``log_probability_before``, ``log_probability_after`` in nats, and ``by_<step>``, the change that each step makes.
        """
        lists = [f"{side}_in_{measure}" for measure in ("rank", "log_probability") for side in ("promoted", "demoted")]
        rows = [(name.replace("_", " "), change) for name in lists for change in getattr(self, name)]
        columns: dict[str, Any] = {"change": [name for name, _ in rows]}
        for name in _COLUMNS:
            columns[name] = [getattr(change, name) for _, change in rows]
        for n, step in enumerate(self.steps):
            columns[f"by_{step}"] = [change.by_step[n] for _, change in rows]
        return Table(repr(self), columns, words=("change",))

    def chart(self) -> Bars:
        """The tokens that the norm moves most: their ranks before and after, and which step changes their log-probability."""
        moved = [*self.promoted_in_rank, *self.demoted_in_rank[::-1]]
        changed = [*self.promoted_in_log_probability, *self.demoted_in_log_probability[::-1]]
        ranks = Bar(
            values=np.array([change.rank_after for change in moved], dtype=np.float64),
            tip=lambda n: (visible(moved[n].token), f"rank {moved[n].rank_before:,} → {moved[n].rank_after:,}"),
            start=np.array([change.rank_before for change in moved], dtype=np.float64),
        )
        steps = tuple(self._part(changed, n) for n in range(len(self.steps)))
        norm = "final norm" if self.layer is None else f"norm of layer {self.layer}, {self.part}"
        return Bars(
            title=f"{norm}, at {visible(self.token)} (position {self.position}): top tokens shared {self.overlap:.0%}",
            columns=(
                Column(_places(moved), Axis("rank before and after, 1 = best", "rank"), (ranks,), title="largest change in rank"),
                Column(
                    _places(changed), Axis("change of log-probability (nats)"), steps,
                    title="largest change in log-probability, by step",
                ),
            ),
            parts_title="step of the norm, divergence it makes",
        )  # fmt: skip

    def _part(self, changed: Sequence[TokenChange], n: int) -> Bar:
        """What one step does to the log-probability of each token."""
        name, role = _STEPS[self.steps[n]]

        def tip(place: int) -> tuple[str, ...]:
            change = changed[place]
            before, after = change.log_probability_before, change.log_probability_after
            step = f"{name} {change.by_step[n]:+.3g} nats"
            return visible(change.token), step, f"log-probability {before:.3g} → {after:.3g} nats"

        values = np.array([change.by_step[n] for change in changed])
        return Bar(values, tip, f"{name}, {self.step_divergence[n]:.2g} nats", role)


def _places(changes: Sequence[TokenChange]) -> Places:
    return Places("token", tuple(range(len(changes))), tuple(change.token for change in changes), is_numbered=False)


_STEPS: dict[Step, tuple[str, Role]] = {
    "centering": ("centering", "rest"),
    "scale": ("scale", "muted"),
    "gain": ("gain γ", "attention"),
    "bias": ("bias β", "mlp"),
}
"""Step → its name, and its role in a chart."""


_COLUMNS = (
    "token", "token_id", "rank_before", "rank_after", "log_probability_before", "log_probability_after",
)  # fmt: skip


@takes(Trace)
def norm_filter(
    trace: Trace, *, layer: int | None = None, part: Part = "attention", position: int | None = None, k: int = 10
) -> NormFilter:
    """Compare what a vector says before and after a norm.

    Both sides are read as every vector is, through the model's own final norm and head. A final norm does not see the scale of
    a vector, and a LayerNorm not its mean, so the steps that do nothing to the reading show it: what filters is the gain and the
    bias. With ``part="final"`` the reading before is the model's own prediction, and the one after is normed twice.

    Parameters
    ----------
    trace
        A trace with its model.
    layer
        Layer of the norm; None for the final one.
    part
        ``"attention"``, ``"mlp"``: the norm before it; in post-norm blocks the norm over the sum after it. ``"cross"``: the same of
        attention to an encoder. ``"final"``: the norm before the head.
    position
        Position of the vector; default the trace's, negative counts from the end.
    k
        How many tokens of each kind.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head, or for ``"cross"`` no heads that read an encoder.
    ArgumentError
        If the norm or the position does not exist, or k is out of its range.

    References
    ----------
    Katz & Belinkov (2023), "VISIT: Visualizing and Interpreting the Semantic Information Flow of Transformers". They compare
    the top tokens on both sides; the steps of the norm are taken apart here.

    Examples
    --------
    >>> found = fg.norm_filter(trace, layer=23, part="mlp")
    >>> found.part, found.layer
    ('mlp', 23)
    """
    trace.model.require_head("the filter of a norm")
    t = position_of(trace, position)
    norm, vector = _norm_and_input(trace, layer, part, t)
    stages = _stages(norm, vector)
    vectors = torch.stack([vector, *stages.values()])
    before, after = (read(trace, one, k=k) for one in (vectors[0], vectors[-1]))
    logits = unembed(trace, vectors)
    ranks = _ranks(logits[[0, -1]]).cpu().numpy()
    log_p = logits.double().log_softmax(-1).cpu().numpy()
    factor, gain = np.log(ranks[0] / ranks[1]), log_p[-1] - log_p[0]
    up_in_rank, down_in_rank, up, down = (
        _changes(trace, _largest(measure, k), ranks, log_p) for measure in (factor, -factor, gain, -gain)
    )
    return NormFilter(
        part, layer, t, trace.tokens[t], before, after,
        overlap=float(overlap(before, after, k)[0]),
        promoted_in_rank=up_in_rank,
        demoted_in_rank=down_in_rank,
        promoted_in_log_probability=up,
        demoted_in_log_probability=down,
        steps=tuple(stages),
        step_divergence=np.array([_divergence(*log_p[n : n + 2]) for n in range(len(stages))]),
        divergence=_divergence(log_p[0], log_p[-1]),
    )  # fmt: skip


def _norm_and_input(trace: Trace, layer: int | None, part: Part, position: int) -> tuple[Norm, Tensor]:
    """The norm, and the vector [d_model] that goes into it."""
    if part not in get_args(Part):
        raise ArgumentError(f"part={part!r} is not known; expected one of {', '.join(get_args(Part))}")
    anatomy = trace.model.anatomy
    if part == "final":
        return _final(trace, layer, position)
    if layer is None:
        raise ArgumentError(f"part={part!r} needs layer=, got None; only part='final' has no layer")
    if part == "cross":
        return _cross(trace, layer, position)
    row, block = row_of(trace, layer), anatomy.blocks[layer]
    norm = block.attention_norm if part == "attention" else block.mlp_norm
    if norm.kind == "none":
        raise ArgumentError(
            f"part={part!r}, layer={layer}: {trace.model_name!r} has no norm there; {part} reads the state as it is, or the layer has none"
        )
    middle = None if part == "attention" else trace.resid_mid  # parallel blocks: both read what enters the block
    state = upcast((trace.resid_pre if middle is None else middle)[row, position])
    if trace.wiring == "post_norm":
        state = state + upcast((trace.attn_out if part == "attention" else trace.mlp_out)[row, position])
    return norm, state


def _cross(trace: Trace, layer: int, position: int) -> tuple[Norm, Tensor]:
    """The norm of the attention to an encoder."""
    norm: Norm = trace.model.anatomy.reader_of_encoder.blocks[layer].attention_norm
    row = row_of(trace, layer)
    state = upcast(trace.resid_cross[row, position])
    return norm, state + upcast(trace.cross_out[row, position]) if trace.wiring == "post_norm" else state


def _final(trace: Trace, layer: int | None, position: int) -> tuple[Norm, Tensor]:
    norm = trace.model.anatomy.final_norm
    if layer is not None:
        raise ArgumentError(f"layer={layer} with part='final': the final norm has no layer; leave layer= out")
    if norm is None:
        raise ArgumentError(
            f"part='final', but {trace.model_name!r} has no norm between its last block and its head; use 'attention' or 'mlp'"
        )
    if trace.layers[1] != trace.n_layers:
        raise ArgumentError(
            f"part='final' needs the last layer; the trace keeps layers {trace.layers[0]}…{trace.layers[1] - 1} of "
            f"{trace.n_layers}"
        )
    return norm, upcast(trace.resid_post[-1, position])


def _stages(norm: Norm, x: Float[Tensor, "d_model"]) -> dict[Step, Float[Tensor, "d_model"]]:
    """The vector after each step of a norm, in order."""
    scale, found = norm.scale(x), dict[Step, Tensor]()
    if norm.is_layer:
        found["centering"] = x = x - x.mean()
    found["scale"] = x = x / scale
    if getattr(norm.module, "weight", None) is not None:
        found["gain"] = x = x * norm.gain(len(x)).to(x)
    if norm.bias is not None:
        found["bias"] = x + norm.bias
    return found


def _ranks(logits: Float[Tensor, "n V"]) -> Int[Tensor, "n V"]:
    """Rank of every token, 1 = highest; ties count as better, as in a reading."""
    ordered = logits.sort(-1).values
    return 1 + logits.shape[-1] - torch.searchsorted(ordered, logits, right=True)


def _largest(measure: Float[np.ndarray, "V"], k: int) -> Int[np.ndarray, "m"]:
    """The k tokens with the largest measure above 0, the largest first."""
    order = np.argsort(-measure, kind="stable")[:k]
    return order[measure[order] > 0]


def _changes(
    trace: Trace, ids: Int[np.ndarray, "m"], ranks: Int[np.ndarray, "2 V"], log_p: Float[np.ndarray, "stage V"]
) -> tuple[TokenChange, ...]:
    by_step = np.diff(log_p[:, ids], axis=0)
    tokens = trace.model.answers.strings(ids.tolist())
    return tuple(
        TokenChange(
            token, int(i), int(ranks[0, i]), int(ranks[1, i]), float(log_p[0, i]), float(log_p[-1, i]),
            tuple(map(float, by_step[:, n])),
        )
        for n, (token, i) in enumerate(zip(tokens, ids, strict=True))
    )  # fmt: skip


def _divergence(before: Float[np.ndarray, "V"], after: Float[np.ndarray, "V"]) -> float:
    """Σ p log(p / p_before) of log-probabilities, in nats; rounding must not make it negative."""
    return max(0.0, float((np.exp(after) * (after - before)).sum()))
