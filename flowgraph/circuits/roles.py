"""Roles of heads: scores that detect known kinds of heads, and a role for each head above a stated threshold.

Scores of attention come from random tokens that repeat, so neither meaning nor position can take the place of the pattern. Scores
of output come from the weights; scores on a task come from its examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from ..charts.grid import Grid
from ..charts.overview import Overview
from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError, UnsupportedReadingError
from ..interventions.ablation import Ablation
from ..interventions.metrics import metric_of
from ..lenses.head_scores import HeadScore
from ..models import load_model
from ..models.wheel import Progress
from ..values.arguments import takes
from ..values.node import Node
from .copying import COPY_SCORES, NO_SOURCE, copy_scores
from .detectors import ATTENTION_SCORES, CROSS_SCORES, NO_DISTANCE, Kind, attention_scores, repeating
from .runs import Cancel, Data, task_of
from .task_scores import TASK_SCORES, task_scores

THRESHOLDS: Mapping[str, float] = MappingProxyType(
    {
        "previous_token": 0.5, "duplicate_token": 0.5, "induction": 0.5, "sink": 0.3, "copying": 2.0, "answer": 0.5,
    }
)  # fmt: skip
"""Score → the value that a head has to exceed for the role of that name; a role of two scores needs both."""

_NEEDS: Mapping[str, tuple[tuple[str, float], ...]] = {
    **{name: ((name, 1.0),) for name in ATTENTION_SCORES},
    "copying": (("copying", 1.0),),
    "negative_copying": (("copying", -1.0),),
    "name_mover": (("copying", 1.0), ("answer", 1.0)),
    "negative_mover": (("copying", -1.0), ("answer", 1.0)),
}
"""Role → scores that have to exceed their thresholds, each times its sign; the first one ranks the role's heads."""
_SCORE = {"negative_copying": "copying", "name_mover": "answer", "negative_mover": "answer"}
_SHOWN = 3
_NEAR = 0.1
"""A score nearer to its threshold than this part of it may fall on the other side with other sequences."""
RoleAttention = Literal["self", "cross"]
# Columns of the table come in this order, whatever a model or task lacks.
_ORDER = (*ATTENTION_SCORES, *COPY_SCORES, *TASK_SCORES)


@dataclass(frozen=True, eq=False)
class HeadRoles(Result):
    """Scores of all heads, and the roles that follow from them.

    Attributes
    ----------
    model
        Name of the model.
    scores
        Name → score [layer, head], with unit and definition: ``previous_token``, ``duplicate_token``, ``induction``, ``sink``,
        ``copying``, ``copying_eigenvalues``; of a task as well ``answer``, ``importance``, ``ablation_effect``.
    undefined
        Name → why this model or task has no such score.
    thresholds
        Score → the value that it has to exceed for a role.
    task
        Name of the task; None without.
    kind
        ``"head"``, or ``"cross_head"`` for heads that read an encoder.
    """

    model: str
    scores: Mapping[str, HeadScore]
    undefined: Mapping[str, str]
    thresholds: Mapping[str, float]
    task: str | None
    kind: Kind = "head"

    def __getitem__(self, name: str) -> Float[np.ndarray, "layer head"]:
        """[layer, head] of one score.

        Raises
        ------
        ArgumentError
            If there is none of this name, or it is not defined here.
        """
        if name in self.scores:
            return self.scores[name].values
        why = self.undefined.get(name, f"there is no such score; known are {', '.join(self.scores)}")
        raise ArgumentError(f"{name!r}: {why}")

    @property
    def roles(self) -> dict[str, tuple[Node, ...]]:
        """Role → its heads, the one with the highest score first; roles that no head has are left out.

        ``previous_token``, ``duplicate_token``, ``induction``, ``sink``: the score of that name is above its threshold.
        ``copying``, ``negative_copying``: the score ``copying`` is above its threshold, or below the negative of it.
        ``name_mover``, ``negative_mover``: the same, and the score ``answer`` is above its threshold.
        """
        found = {role: self._heads(needs) for role, needs in _NEEDS.items()}
        return {role: nodes for role, nodes in found.items() if nodes}

    @property
    def near(self) -> dict[str, tuple[Node, ...]]:
        """Role → heads whose having it or not depends on the draw: a score behind it lies within 10 % of its threshold, and no other is below.

        A threshold is a convention, and a score is a mean over some sequences: of these heads take the score, not the role.
        """
        found = {}
        for role, needs in _NEEDS.items():
            if not all(name in self.scores for name, _ in needs):
                continue
            parts = [
                sign * self.scores[name].values / self.thresholds[name]
                for name, sign in needs
                if self.thresholds[name] > 0
            ]
            least = np.min(parts, axis=0) if parts else np.full(next(iter(self.scores.values())).values.shape, np.inf)
            places = np.argwhere(np.abs(least - 1) <= _NEAR)
            if len(places):
                found[role] = tuple(Node(self.kind, layer=int(layer), head=int(head)) for layer, head in places)
        return found

    def of(self, node: Node) -> dict[str, float]:
        """Role of a head, at any position → the score behind it; empty for other nodes.

        The score is that of the role's name. For ``negative_copying`` it is ``copying``; for movers it is ``answer``. The other
        score of a mover stands beside it, since each mover also copies, or copies negatively.

        Raises
        ------
        ArgumentError
            If the model has no such head.
        """
        if node.kind != self.kind or node.stack is not None:
            return {}
        place = node.layer or 0, node.head or 0
        layers, heads = next(iter(self.scores.values())).values.shape
        if not (place[0] < layers and place[1] < heads):
            raise ArgumentError(f"node {node} is no head of {self.model}, which has {layers} layers of {heads} heads")
        named = [role for role, needs in _NEEDS.items() if all(self._above(*need, place) for need in needs)]
        return {role: float(self.scores[_SCORE.get(role, role)].values[place]) for role in named}

    def __repr__(self) -> str:
        layers, heads = next(iter(self.scores.values())).values.shape
        named = []
        for role, nodes in self.roles.items():
            more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
            named.append(f"{role} {' '.join(map(str, nodes[:_SHOWN]))}{more}")
        about = "" if self.task is None else f", task {self.task!r}"
        of = " that read the encoder" if self.kind == "cross_head" else ""
        return f"HeadRoles({self.model!r}, {layers} layers × {heads} heads{of}{about}: {'; '.join(named) or 'no head has a role'})"

    def table(self) -> Table:
        """One row for each head: ``layer``, ``head``, ``roles``, and every score; heads with roles first."""
        layers, heads = next(iter(self.scores.values())).values.shape
        named: dict[tuple[int, int], list[str]] = {}
        for role, nodes in self.roles.items():
            for node in nodes:
                named.setdefault((node.layer or 0, node.head or 0), []).append(role)
        places = sorted(np.ndindex(layers, heads), key=lambda place: (place not in named, place))
        columns: dict[str, Any] = {
            "layer": [layer for layer, _ in places],
            "head": [head for _, head in places],
            "roles": [", ".join(named.get(place, [])) for place in places],
        }
        columns |= {name: np.array([score.values[place] for place in places]) for name, score in self.scores.items()}
        limits = ", ".join(f"{name} {limit:g}" for name, limit in self.thresholds.items())
        definitions = [f"{name}: {score.description} ({score.unit})" for name, score in self.scores.items()]
        missing = [f"no {name}: {why}" for name, why in self.undefined.items()]
        near = [f"near the threshold of {role}: {' '.join(map(str, nodes))}" for role, nodes in self.near.items()]
        note = "; ".join([*definitions, *missing, f"a role is named above: {limits}", *near])
        return Table(repr(self), columns, words=("roles",), note=note)

    def chart(self, score: str | None = None) -> Grid | Table:
        """A grid of one score over layers and heads, or the table of all heads.

        Parameters
        ----------
        score
            Which score; None: the table.

        Raises
        ------
        ArgumentError
            If there is no such score, or it is not defined here.
        """
        if score is None:
            return self.table()
        self[score]  # refuses a name that is not there
        return self.scores[score].chart()

    def overview(self) -> Overview:
        """A small picture of each score, and the heads, those with roles first."""
        return Overview(repr(self), {name: score.chart() for name, score in self.scores.items()}, self.table())

    def arrays(self) -> dict[str, np.ndarray]:
        """Each score as [layer, head]."""
        return {name: score.values for name, score in self.scores.items()}

    def _heads(self, needs: Sequence[tuple[str, float]]) -> tuple[Node, ...]:
        """Heads that meet all needs, those with the highest first score first."""
        name, sign = needs[0]
        if name not in self.scores:
            return ()
        values = self.scores[name].values
        places = (np.unravel_index(n, values.shape) for n in np.argsort(-sign * values, axis=None, kind="stable"))
        found = ((int(layer), int(head)) for layer, head in places)
        return tuple(
            Node(self.kind, layer=place[0], head=place[1])
            for place in found
            if all(self._above(*need, place) for need in needs)
        )

    def _above(self, name: str, sign: float, place: tuple[int, int]) -> bool:
        return name in self.scores and bool(sign * self.scores[name].values[place] > self.thresholds[name])


@takes()
def head_roles(
    model: Any,
    data: Data | None = None,
    *,
    how: Ablation = "resample",
    attention: RoleAttention = "self",
    sequences: int = 8,
    thresholds: Mapping[str, float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> HeadRoles:
    """Score every head for the things that heads are known to do, and name those that do them.

    On ``sequences`` of random tokens, a token that does not come again and then a random sequence of a random period, again and
    again, with A the attention of a head:

    - ``previous_token``: mean of A_t,t−1 over t ≥ 1
    - ``duplicate_token``: mean of Σ A_ts over s < t with the same token at s and t
    - ``induction``: mean of Σ A_ts over s < t with the same token at s − 1 and t
    - ``sink``: mean of A_t0 over t ≥ 1

    On the same sequences, through values, output and unembedding, the final norm but for its scale included:

    - ``copying``: the number of standard deviations by which a token's own logit is above the mean of all logits that the head
      writes when it looks at that token, mean over all tokens; 0 if no logit changes. A positive head raises the token
    - ``copying_eigenvalues``: the same from the weights alone, Σ Re λ / Σ|λ| of W_E W_V W_O W_U. It sees embeddings, not the states
      that later layers read, and names no role

    On ``data``, if given: ``answer``, mean attention from the explained position to where the answer's token stands;
    ``importance``, mean over the prompts of |Σ_t z · ∂m/∂z|, the first-order change of the metric m (logit difference) if the head
    wrote nothing; ``ablation_effect``, the exact change if it is ablated.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts; causal.
    data
        A task, or examples.
    how
        Output in place of an ablated head's: ``"resample"``, that of the corrupted prompt; ``"mean"``, the mean over the corrupted
        prompts of its length; ``"zero"``.
    attention
        Of an encoder–decoder the heads of its decoder that read what is written (``"self"``), or those that read the encoder
        (``"cross"``). For the first the encoder reads the same tokens from another place of their period on, or noise where it reads
        no tokens of the decoder's. For the second ``duplicate_token`` is attention to the same token in the source, ``induction`` to
        what follows it there, ``copying`` and ``answer`` are of the source's tokens, and ``previous_token`` and ``sink`` are not defined: the
        two stacks count their positions apart. Heads of an encoder see both sides, and have no such roles.
    sequences
        How many random sequences.
    thresholds
        Values that scores have to exceed for a role. Scores without one take ``THRESHOLDS``, which are conventions, not facts.
    seed
        Seed of the sequences.
    progress, cancel
        As for :func:`flowgraph.head_effects`.

    Returns
    -------
    HeadRoles
        Scores that are not defined here are in ``undefined``, with the reason.

    Raises
    ------
    ArgumentError
        If the model is not causal, too short or of too few tokens for a sequence to repeat, or a threshold is of no score.
    CancelledError
        If ``cancel`` said so.
    PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.faithfulness`.

    References
    ----------
    Olsson et al. (2022), "In-context Learning and Induction Heads", for prefix matching on repeated random tokens; Elhage et al.
    (2021), "A Mathematical Framework for Transformer Circuits", for copying by eigenvalues; Wang et al. (2022),
    "Interpretability in the Wild", for name movers and negative name movers; Michel et al. (2019), "Are Sixteen Heads Really
    Better than One?", for importance; Xiao et al. (2023), "Efficient Streaming Language Models with Attention Sinks".
    """
    loaded = load_model(model)
    limits = _limits(thresholds)
    task = None if data is None else task_of(loaded, data)
    if attention not in get_args(RoleAttention):
        raise ArgumentError(
            f"attention={attention!r} is not known; expected {' or '.join(map(repr, get_args(RoleAttention)))}"
        )
    crossing = attention == "cross"
    kind: Kind = "cross_head" if crossing else "head"
    if crossing:
        loaded.anatomy.reader_of_encoder.require_attention(None, "the roles of heads")
    prompts = repeating(loaded, sequences, seed)
    copied, undefined = copy_scores(loaded, prompts, crossing=crossing)
    scores = {} if crossing and prompts.source is None else attention_scores(loaded, prompts, crossing=crossing)
    scores |= copied
    if crossing:
        undefined |= dict.fromkeys(("previous_token", "sink"), NO_DISTANCE)
        undefined |= dict.fromkeys(CROSS_SCORES, NO_SOURCE) if prompts.source is None else {}
    if task is None:
        undefined |= dict.fromkeys(TASK_SCORES, "it is measured on a task; give data=")
    else:
        on_task, missing = task_scores(loaded, task, how, metric_of(None), progress, cancel, crossing=crossing)
        scores |= on_task
        undefined |= missing
    scores = {name: scores[name] for name in _ORDER if name in scores}
    if not scores:
        raise UnsupportedReadingError(
            f"no role of heads of {loaded.name!r} that read its encoder can be measured: {NO_SOURCE}; give data= with a task"
        )
    return HeadRoles(loaded.name, scores, undefined, limits, None if task is None else task.name, kind)


def _limits(thresholds: Mapping[str, float] | None) -> dict[str, float]:
    for name, limit in (thresholds or {}).items():
        if name not in THRESHOLDS:
            raise ArgumentError(
                f"thresholds names {name!r}, which makes no role; those that do: {', '.join(THRESHOLDS)}"
            )
        if not limit >= 0:
            raise ArgumentError(f"thresholds[{name!r}]={limit} must be 0 or more")
    return {**THRESHOLDS, **(thresholds or {})}
