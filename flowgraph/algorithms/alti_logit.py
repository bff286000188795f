"""ALTI-Logit: which input tokens a logit comes from, through every layer.

Direct logit attribution says how much each part wrote in the direction of the target, and from which position it read. By then
the state at that position is a mixture of input tokens; the rollout of ALTI's shares gives the mixture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from ..charts.axis import Axis, Role
from ..charts.bars import Bar, Bars, Column
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table
from ..charts.text import visible
from ..errors import ArgumentError
from ..lenses.direct_attribution import DirectLogitAttribution, direct_logit_attribution, refuse_pooled
from ..methods.weigh import edge_weights
from ..values.arguments import takes
from ..values.joint import Joint
from ..values.token_matrix import TokenMatrix
from ..values.trace import Trace
from .rollout import attention_rollout


@dataclass(frozen=True, eq=False)
class AltiLogit(Result):
    """A logit, or a difference of two, over the input tokens. All parts are in logits.

    Attributes
    ----------
    attention
        [key_pos] contribution of the heads, by input token.
    mlps
        [key_pos] contribution of the MLPs, by the input tokens of the states that they read.
    embedding
        [key_pos] contribution of the embedding itself; 0 except at one token.
    biases
        Sum of all parts that come from no token.
    logit
        The model's logit before a soft-cap (target minus foil when there is a foil).
    prompt_tokens
        [key_pos] texts of the input tokens.
    """

    attention: Float[np.ndarray, "T"]
    mlps: Float[np.ndarray, "T"]
    embedding: Float[np.ndarray, "T"]
    biases: float
    logit: float
    prompt_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.attention.shape == self.mlps.shape == self.embedding.shape:
            raise ArgumentError(
                f"AltiLogit has parts of shapes {self.attention.shape}, {self.mlps.shape} and {self.embedding.shape}"
            )
        if len(self.prompt_tokens) != len(self.attention):
            raise ArgumentError(
                f"AltiLogit.prompt_tokens has {len(self.prompt_tokens)} texts for {len(self.attention)} tokens"
            )

    def __repr__(self) -> str:
        return f"AltiLogit({self.logit:.4g} logits over {len(self.prompt_tokens)} tokens, biases {self.biases:.4g})"

    @property
    def tokens(self) -> Float[np.ndarray, "T"]:
        """[key_pos] all that comes from each input token; with ``biases`` it sums to the logit."""
        total: np.ndarray = self.attention + self.mlps + self.embedding
        return total

    def chart(self) -> Bars:
        """A bar for each input token, made of what came through attention, through MLPs and from the embedding itself."""
        named: tuple[tuple[str, Role, np.ndarray], ...] = (
            ("attention", "attention", self.attention), ("MLPs", "mlp", self.mlps), ("embedding", "rest", self.embedding),
        )  # fmt: skip
        bars = tuple(Bar(values, self._tip_of(name, values), name, role) for name, role, values in named)
        places = Places("position", tuple(range(len(self.prompt_tokens))), self.prompt_tokens, "input token")
        return Bars(
            title="A logit over the input tokens",
            columns=(Column(places, Axis("part of the logit (logits)"), bars),),
            is_upright=True,
            subtitle=f"logit {self.logit:.4g}, of which biases {self.biases:.4g}",
            parts_title="through",
        )

    def _tip_of(self, name: str, values: Float[np.ndarray, "T"]) -> Callable[[int], tuple[str, ...]]:
        return lambda n: (
            f"{n} {visible(self.prompt_tokens[n])}", f"{name} {values[n]:+.4g} logits", f"in all {self.tokens[n]:+.4g} logits",
        )  # fmt: skip

    def table(self) -> Table:
        """One row for each input token: ``position``, ``token``, ``attention``, ``mlps``, ``embedding``, and ``logits``, their sum."""
        columns: dict[str, Any] = {
            "position": list(range(len(self.prompt_tokens))),
            "token": list(self.prompt_tokens),
            "attention": self.attention,
            "mlps": self.mlps,
            "embedding": self.embedding,
            "logits": self.tokens,
        }
        total = float(self.tokens.sum()) + self.biases
        note = f"with biases of {self.biases:.6g} all tokens sum to {total:.6g}, the logit is {self.logit:.6g}"
        return Table(repr(self), columns, note=note)

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of the table, ``biases`` and ``logit``."""
        return {**super().arrays(), "biases": np.asarray(self.biases), "logit": np.asarray(self.logit)}


@takes(Trace)
def alti_logit(trace: Trace, target: str | int | None = None, foil: str | int | None = None) -> AltiLogit:
    """Share the logit at the trace's position out among the input tokens.

    Head h of layer l reads position s. Its output is shared out over the input tokens in the proportions in which the state at s
    before layer l is made of them. The output of an MLP is shared out in the proportions of the state that it reads. The
    published attribution is ``attention + embedding``; with the MLPs and the biases the parts sum to the logit. In an
    encoder–decoder the input tokens are the encoder's, then those that the decoder has written.

    Parameters
    ----------
    trace
        A trace of all layers with its model.
    target, foil
        Token, and optionally the token whose logit is subtracted; default those of the trace.

    Raises
    ------
    UnsupportedReadingError
        If no direct logit attribution exists for the model.

    References
    ----------
    Ferrando, Gállego, Tsiamas & Costa-jussà (2023), "Explaining How Transformers Use Context to Build Predictions"; for two
    stacks Ferrando, Gállego, Alastruey, Escolano & Costa-jussà (2022), "Towards Opening the Black Box of Neural Machine Translation".

    Examples
    --------
    >>> found = fg.alti_logit(trace)
    >>> found.tokens.shape  # what each input token brings to the logit
    (8,)
    """
    at = trace.position
    refuse_pooled(trace, "ALTI-Logit")
    written = direct_logit_attribution(trace, target, foil, position=at)
    weights = edge_weights(trace, method="proximity", parts="token")
    rolled = attention_rollout(weights)
    if weights.joint is not None:
        return _of_stacks(trace, weights.joint, written, rolled)
    count = len(trace.tokens)
    # made_of[l] is the make-up of the states before block l; before the first each token is itself.
    made_of = np.concatenate([np.eye(count)[None], rolled])
    by_source = written.heads_by_source.sum(1, dtype=np.float64)
    # A parallel MLP reads the state before its block, a sequential one the state after attention. An MLP moves nothing
    # between positions, so the rollout after the block is the same.
    read = made_of[:-1] if trace.wiring == "parallel" else made_of[1:]
    embedding = np.zeros(count)
    embedding[at] = written.embedding + written.position_embedding
    return AltiLogit(
        attention=np.einsum("ls,lsj->j", by_source, made_of[:-1]),
        mlps=np.einsum("l,lj->j", written.mlps, read[:, at]),
        embedding=embedding,
        biases=float(sum(written.biases.values())),
        logit=written.logit,
        prompt_tokens=tuple(trace.tokens),
    )


def _of_stacks(trace: Trace, joint: Joint, written: DirectLogitAttribution, rolled: TokenMatrix) -> AltiLogit:
    """The same over the tokens of both stacks: a head that reads the encoder reads states that are made of its tokens."""
    assert written.cross_by_source is not None
    own, source = joint.positions[None], joint.positions[joint.stacks[0][0]]
    made_of = np.concatenate([np.eye(joint.count)[None], rolled.values])
    attention, mlps, embedding = (np.zeros(joint.count) for _ in range(3))
    for layer in range(trace.n_layers):
        read, crossed = joint.steps_of(layer)
        attention += written.heads_by_source[layer].sum(0) @ made_of[read][own]
        attention += written.cross_by_source[layer].sum(0) @ made_of[crossed][source]
        mlps += written.mlps[layer] * made_of[crossed + 1][own.start + trace.position]
    embedding[own.start + trace.position] = written.embedding + written.position_embedding
    tokens = (*(token for stack in trace.stacks.values() for token in stack.tokens), *trace.tokens)
    return AltiLogit(attention, mlps, embedding, float(sum(written.biases.values())), written.logit, tokens)
