"""Edge attribution patching: a first-order score of every edge from two forwards and one backward.

score(u → (v, c)) = Σ_t (out_u corrupted − out_u clean) · LN-vjp(W_c g_c): the effect of the edge if everything between the
receiver's input and the answer were linear. A saturated softmax is not linear: there the score of an edge into a query or key is
about 0, whatever its effect. The QK fix runs the softmax again with the query or key that the edge would make, and takes only the
rest of the way as linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..models import LoadedModel, load_model
from ..models.anatomy import Anatomy
from ..models.attention_weights import attention_weights
from ..values.arguments import takes
from ..values.node import Node
from .ablation import answer_logits, one_for_each
from .edges import BOTH_STACKS, Edge, Into, receivers, require_sum, sender_nodes, senders_before
from .gradients import Forward, Gradients, backward
from .metrics import Metric, metric_of
from .pass_numbers import LAYERS_AT_ONCE, fitting, pass_numbers
from .passes import ROLES, Pass
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .senders import keep_senders, read_through_norm, written_change

MAX_BYTES = 2**30
"""Memory to compute scores in, unless ``max_bytes`` says otherwise."""
_TOKENS = 2048


@dataclass(frozen=True, eq=False)
class EdgeScores(Result):
    """A score for every edge of a model.

    Attributes
    ----------
    sources
        Senders in the order of computation: ``embed``, then each layer's heads and MLP.
    receivers
        (node, its input) in the order of computation.
    scores
        [source, receiver] estimated m(edge corrupted) − m(clean), mean over the prompts, in ``unit``: negative where the edge
        supports the answer; 0 where there is no edge.
    possible
        [source, receiver] whether the source writes before the receiver reads.
    method
        ``"EAP"`` or ``"EAP with QK fix"``.
    metric, unit
        Name and unit of the metric.
    clean, corrupted
        [prompt] metric of the two runs.
    """

    sources: tuple[Node, ...]
    receivers: tuple[tuple[Node, Into], ...]
    scores: Float[np.ndarray, "source receiver"]
    possible: Bool[np.ndarray, "source receiver"]
    method: str
    metric: str
    unit: str
    clean: Float[np.ndarray, "prompt"]
    corrupted: Float[np.ndarray, "prompt"]

    def __repr__(self) -> str:
        return (
            f"EdgeScores({self.method}, {len(self.sources):,} sources × {len(self.receivers):,} receivers, "
            f"{int(self.possible.sum()):,} edges, {len(self.clean)} prompts, {self.metric}, {self.unit})"
        )

    @takes()
    def strongest(self, k: int) -> list[tuple[Edge, float]]:
        """The k edges with the largest |score|, the strongest first, each with its score."""
        if k < 1:
            raise ArgumentError(f"k={k} must be at least 1")
        order = np.argsort(-np.where(self.possible, np.abs(self.scores), -1.0), axis=None, kind="stable")
        places = zip(*np.unravel_index(order[: min(k, int(self.possible.sum()))], self.scores.shape), strict=True)
        return [
            (Edge(self.sources[s], self.receivers[r][0], self.receivers[r][1]), float(self.scores[s, r]))
            for s, r in places
        ]

    def score(self, edge: Edge) -> float:
        """Score of one edge without a position.

        Raises
        ------
        ArgumentError
            If the model has no such edge.
        """
        if edge.source in self.sources and (edge.target, edge.into) in self.receivers:
            place = self.sources.index(edge.source), self.receivers.index((edge.target, edge.into))
            if self.possible[place]:
                return float(self.scores[place])
        raise ArgumentError(f"{edge} is not among the scored edges: the model has none such, or it has a position")

    def table(self) -> Table:
        """One row for each of the strongest 1,000 edges: ``source``, ``target``, ``into``, ``score``."""
        found = self.strongest(1000)
        columns: dict[str, Any] = {
            name: [str(getattr(edge, name)) for edge, _ in found] for name in ("source", "target", "into")
        }
        return Table(repr(self), columns | {"score": [s for _, s in found]}, words=("source", "target", "into"))

    def chart(self) -> Table:
        """The table."""
        return self.table()

    def arrays(self) -> dict[str, np.ndarray]:
        """``scores``, ``possible``, ``clean`` and ``corrupted``."""
        return {name: getattr(self, name) for name in ("scores", "possible", "clean", "corrupted")}


# Whatever mode it is called in: autograd needs tensors that inference mode does not make.
@takes()
@torch.inference_mode(mode=False)
def edge_scores(
    model: Any,
    clean: Prompts,
    corrupted: Prompts,
    metric: Metric | Callable[..., Any] | None = None,
    *,
    qk_fix: bool = False,
    target: Answers = None,
    foil: Answers = None,
    max_bytes: int = MAX_BYTES,
) -> EdgeScores:
    """Estimate the effect of every edge at once.

    Parameters
    ----------
    model, clean, corrupted, target, foil
        As for :func:`flowgraph.patch`, prompts of one length.
    metric
        As for :func:`flowgraph.gradients`.
    qk_fix
        Score edges into queries and keys by a softmax that runs again for each sender.
    max_bytes
        Memory to work in, besides the model; as many prompts are run together as :func:`scores_size` says fit.

    Returns
    -------
    EdgeScores
        Scores with the sign of the exact effect, from 2 forwards and 1 backward; with the QK fix as well two attentions per
        sender and layer above it.

    Raises
    ------
    ArgumentError
        Also if not even one prompt fits into ``max_bytes``.
    ArgumentError, PromptError, TargetError, NonFiniteError, UnsupportedReadingError
        As for :func:`flowgraph.patch` and :func:`flowgraph.gradients`.

    References
    ----------
    Syed et al. (2023), "Attribution Patching Outperforms Automated Circuit Discovery"; Kramár et al. (2024), "AtP*", for the
    QK fix, which here goes through the receiver's norm exactly.

    Examples
    --------
    >>> scores = fg.edge_scores(trace.model, trace, "The capital of Peru is the city of", foil=" Kyoto")
    >>> str(scores.strongest(1)[0][0])
    'L26.mlp → logits'
    """
    loaded = load_model(model)
    loaded.require_head("a score of the answer")
    loaded.anatomy.refuse_stacks("a score of edges", BOTH_STACKS)
    require_sum(loaded.anatomy)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    # Refuses prompts of different lengths before anything runs; the batches are made part by part below.
    batch_of(loaded, [*found, *others], "clean and corrupted")
    chosen, at_once = metric_of(metric), _fitting(loaded, len(found), found[0].length, qk_fix, max_bytes)[0]
    parts = []
    with loaded.lock:
        for first in range(0, len(found), at_once):
            batch, theirs = (batch_of(loaded, some[first : first + at_once], "prompts") for some in (found, others))
            parts.append(_scored(loaded, batch, theirs, chosen, qk_fix))
    every, sources = receivers(loaded.anatomy), sender_nodes(loaded.anatomy)
    before = [senders_before(loaded.anatomy, node.layer, into) for node, into in every]
    values, ends = (torch.cat([part[n] for part in parts]).double().cpu().numpy() for n in (1, 2))
    return EdgeScores(
        sources=sources,
        receivers=every,
        scores=np.sum([part[0].double().cpu().numpy() for part in parts], axis=0) / len(found),
        possible=np.arange(len(sources))[:, None] < np.array(before),
        method="EAP with QK fix" if qk_fix else "EAP",
        metric=chosen.name,
        unit=chosen.unit,
        clean=values,
        corrupted=ends,
    )


@takes()
def scores_size(model: Any, clean: Prompts, *, qk_fix: bool = False, max_bytes: int = MAX_BYTES) -> int:
    """Bytes that :func:`edge_scores` will work in at most besides the model, known before it runs.

    Parameters
    ----------
    model, clean, qk_fix, max_bytes
        As for :func:`edge_scores`.

    Raises
    ------
    ArgumentError
        If not even one prompt fits into ``max_bytes``.

    Examples
    --------
    >>> fg.scores_size(trace.model, trace) < 2**27
    True
    """
    loaded = load_model(model)
    found = prompts_of(loaded, clean, "clean")
    return _fitting(loaded, len(found), batch_of(loaded, found, "clean").n_tokens, qk_fix, max_bytes)[1]


def scoring_bytes(loaded: LoadedModel, n_tokens: int, qk_fix: bool) -> Callable[[int], int]:
    """A function: number of prompts of one length → bytes that the scores of all edges need."""
    of, senders = pass_numbers(loaded, n_tokens), len(sender_nodes(loaded.anatomy))
    row = n_tokens * (of.graph + of.kept + of.gradients + of.changes + of.making + of.into) + of.logits

    def size(prompts: int) -> int:
        # The softmax is run anew for so many tokens at a time, or those of all prompts for one sender.
        tokens = min(max(_TOKENS, prompts * n_tokens), senders * prompts * n_tokens) if qk_fix else 0
        return of.width * (2 * of.scores + prompts * row + tokens * of.attention)

    return size


def _fitting(loaded: LoadedModel, count: int, n_tokens: int, qk_fix: bool, max_bytes: int) -> tuple[int, int]:
    """How many prompts are run together, and the bytes that takes."""
    size = scoring_bytes(loaded, n_tokens, qk_fix)
    at_once = fitting(count, size, max_bytes)
    if not at_once:
        raise ArgumentError(
            f"max_bytes={max_bytes:,} does not hold the two passes of one prompt of {n_tokens} tokens ({size(1):,} bytes); "
            "raise it, or give a shorter prompt"
        )
    return at_once, size(at_once)


def _scored(
    loaded: LoadedModel, clean: Batch, corrupted: Batch, metric: Metric, qk_fix: bool
) -> tuple[Float[Tensor, "source receiver"], Float[Tensor, "prompt"], Float[Tensor, "prompt"]]:
    """Scores summed over some prompts, and the metric of both runs."""
    grads, forward = backward(loaded, clean, metric, extra=("pattern", "v") if qk_fix else ())
    with torch.no_grad():
        run = Pass(loaded, len(corrupted))
        keep_senders(run)
        end = metric(answer_logits(loaded, run.run(corrupted.feed), corrupted.positions), forward.answers)
        changes = written_change(loaded.anatomy, forward.kept, run.kept)
        scores = first_order(grads, changes)
        if qk_fix:
            fix_softmax(loaded, grads, forward, changes=changes, scores=scores)
    return scores, grads.values, end


def columns_of(anatomy: Anatomy, layer: int, into: Into) -> slice:
    """Which receivers are the queries, keys, values or MLP of a layer."""
    n, g = anatomy.n_heads, anatomy.n_kv_heads
    first = layer * (n + 2 * g + 1)
    starts = {"q": (0, n), "k": (n, g), "v": (n + g, g), "mlp": (n + 2 * g, 1), "logits": (0, 1)}
    start, count = starts[into]
    return slice(first + start, first + start + count)


def first_order(
    grads: Gradients, changes: Float[Tensor, "source prompt position d_model"]
) -> Float[Tensor, "source receiver"]:
    """Σ over prompts and positions of change · gradient, for every edge."""
    return products(grads.anatomy, partial(gradients_into, grads), changes)


def gradients_into(grads: Gradients, layer: int) -> list[Float[Tensor, "receiver prompt position d_model"]]:
    """Gradients through a layer's queries, keys, values and MLP; beyond the last layer through the logits."""
    if layer == len(grads.anatomy.blocks):
        return [grads.into(None, "logits")]
    return [grads.into(layer, "q"), grads.into(layer, "k"), grads.into(layer, "v"), grads.into(layer, "mlp")]


def products(
    anatomy: Anatomy,
    into: Callable[[int], list[Tensor]],
    changes: Float[Tensor, "source prompt position d_model"],
) -> Float[Tensor, "source receiver"]:
    """Σ over prompts and positions of change · gradient; ``into`` gives the result of :func:`gradients_into` for a layer."""
    before = torch.tensor(
        [senders_before(anatomy, node.layer, kind) for node, kind in receivers(anatomy)], device="cpu"
    )
    flat, scores, done = changes.flatten(1), changes.new_zeros(len(changes), len(before)), 0
    for first in range(0, len(anatomy.blocks) + 1, LAYERS_AT_ONCE):
        several = range(first, min(first + LAYERS_AT_ONCE, len(anatomy.blocks) + 1))
        gradient = torch.cat([part for layer in several for part in into(layer)]).flatten(1)
        columns = slice(done, done + len(gradient))
        # Of senders up to the last of these receivers; those that write too late for the others are taken out again.
        upto, done = int(before[columns][-1]), columns.stop
        scores[:upto, columns] = flat[:upto] @ gradient.T
    late: Tensor = torch.arange(len(changes), device="cpu")[:, None] >= before
    # Where a receiver reads before a sender writes there is no edge, and the product above is noise.
    return scores.masked_fill_(late.to(scores.device), 0.0)


def fix_softmax(
    loaded: LoadedModel,
    grads: Gradients,
    forward: Forward,
    *,
    changes: Float[Tensor, "source prompt position d_model"],
    scores: Float[Tensor, "source receiver"],
    tell: Callable[[float], None] | None = None,
) -> None:
    """Replace the first-order scores of queries and keys by scores of a softmax that runs again; ``tell`` gets the part done."""
    anatomy = loaded.anatomy
    group = anatomy.n_heads // anatomy.n_kv_heads
    # The patterns of every sender at a time would take senders × T² numbers a head.
    step = max(1, _TOKENS // (changes.shape[1] * changes.shape[2]))
    for layer in range(len(anatomy.blocks)):
        if tell is not None:
            tell(layer / len(anatomy.blocks))
        values = forward.kept["v", layer].repeat_interleave(group, 2)
        worth = torch.einsum("pthk,pshk->phts", grads.z[layer], values.to(grads.z))
        pattern = forward.kept["pattern", layer]
        before = senders_before(anatomy, layer, "q")
        for start in range(0, before, step):
            senders = slice(start, min(start + step, before))
            moved = read_through_norm(
                anatomy, layer, "attention", state=forward.kept["resid_pre", layer], change=changes[senders]
            )
            for into in ("q", "k"):
                patched = patterns_of(loaded, forward, layer, into=into, moved=moved)
                by_head = torch.einsum("uphts,phts->uh", (patched - pattern).to(worth), worth)
                if into == "k":
                    # Heads of a group share a key, so its score is the sum over them.
                    by_head = by_head.unflatten(1, (-1, group)).sum(2)
                scores[senders, columns_of(anatomy, layer, into)] = by_head


def patterns_of(
    loaded: LoadedModel,
    forward: Forward,
    layer: int,
    *,
    into: Literal["q", "k"],
    moved: Float[Tensor, "source prompt position d_model"],
) -> Float[Tensor, "source prompt head query_pos key_pos"]:
    """Patterns of a layer by its own attention, with the input of queries or keys moved."""
    anatomy, block = loaded.anatomy, loaded.anatomy.blocks[layer]
    weight, _ = attention_weights(anatomy, layer, ROLES[into])
    shift = torch.einsum("uptd,hdk->upthk", moved.to(weight), weight).flatten(0, 1)
    run = Pass(loaded, len(shift))
    run.edit(into, layer, lambda heads: heads + shift.to(heads))
    run.keep(("pattern",), [layer])
    # Only the attention runs again, on the clean states; the hook shifts its queries or keys.
    reads = block.attention_norm.module(forward.kept["resid_pre", layer]).repeat(len(moved), 1, 1)
    with run.hooked():
        forward.calls[layer].run(block.attention, reads)
    patterns: Tensor = run.kept["pattern", layer].unflatten(0, (len(moved), -1))
    return patterns
