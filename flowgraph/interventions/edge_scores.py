"""Edge attribution patching: a first-order score of every edge from two forwards and one backward.

score(u → (v, c)) = Σ_t (out_u corrupted − out_u clean) · LN-vjp(W_c g_c): the effect of the edge if everything between the
receiver's input and the answer were linear. A saturated softmax is not linear: there the score of an edge into a query or key is
about 0, whatever its effect. The QK fix runs the softmax again with the query or key that the edge would make, and takes only the
rest of the way as linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..charts.result import Result
from ..charts.table import Table
from ..errors import ArgumentError
from ..models import LoadedModel, load_model
from ..values.arguments import takes
from ..values.node import Node
from .ablation import answer_logits, one_for_each
from .edges import Edge, whole_network
from .gradients import Forward, Gradients, backward
from .metrics import Metric, metric_of
from .network import LAST, Into, Network, Reader
from .pass_numbers import READERS_AT_ONCE, fitting, pass_numbers
from .passes import Pass
from .prompts import Answers, Batch, Lengths, Prompts, batch_of, prompts_of
from .senders import Changed, each_alone, keep_senders, kept_of, pass_of, written_change

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
    network = whole_network(loaded.anatomy)
    found = prompts_of(loaded, clean, "clean", target=target, foil=foil)
    others = one_for_each(found, prompts_of(loaded, corrupted, "corrupted"), "corrupted")
    # Refuses prompts of different lengths before anything runs; the batches are made part by part below.
    batch_of(loaded, [*found, *others], "clean and corrupted")
    chosen, at_once = metric_of(metric), _fitting(loaded, len(found), found[0].lengths, qk_fix, max_bytes)[0]
    parts = []
    with loaded.lock:
        for first in range(0, len(found), at_once):
            batch, theirs = (batch_of(loaded, some[first : first + at_once], "prompts") for some in (found, others))
            parts.append(_scored(loaded, network, batch, theirs, chosen, qk_fix))
    values, ends = (torch.cat([part[n] for part in parts]).double().cpu().numpy() for n in (1, 2))
    return EdgeScores(
        sources=network.senders,
        receivers=network.receivers,
        scores=np.sum([part[0].double().cpu().numpy() for part in parts], axis=0) / len(found),
        possible=network.possible.numpy(),
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
    batch_of(loaded, found, "clean")
    return _fitting(loaded, len(found), found[0].lengths, qk_fix, max_bytes)[1]


def scoring_bytes(loaded: LoadedModel, lengths: Lengths, qk_fix: bool) -> Callable[[int], int]:
    """A function: number of prompts of one length → bytes that the scores of all edges need."""
    of, n_tokens = pass_numbers(loaded, lengths), sum(lengths)
    row = n_tokens * (of.graph + of.kept + of.gradients + of.changes + of.making + of.into) + of.logits

    def size(prompts: int) -> int:
        # The softmax is run anew for so many tokens at a time, or those of all prompts for one sender.
        tokens = min(max(_TOKENS, prompts * n_tokens), of.senders * prompts * n_tokens) if qk_fix else 0
        return of.width * (2 * of.scores + prompts * row + tokens * of.attention)

    return size


def _fitting(loaded: LoadedModel, count: int, lengths: Lengths, qk_fix: bool, max_bytes: int) -> tuple[int, int]:
    """How many prompts are run together, and the bytes that takes."""
    size = scoring_bytes(loaded, lengths, qk_fix)
    at_once = fitting(count, size, max_bytes)
    if not at_once:
        raise ArgumentError(
            f"max_bytes={max_bytes:,} does not hold the two passes of one prompt of {sum(lengths)} tokens ({size(1):,} bytes); "
            "raise it, or give a shorter prompt"
        )
    return at_once, size(at_once)


def _scored(
    loaded: LoadedModel, network: Network, clean: Batch, corrupted: Batch, metric: Metric, qk_fix: bool
) -> tuple[Float[Tensor, "source receiver"], Float[Tensor, "prompt"], Float[Tensor, "prompt"]]:
    """Scores summed over some prompts, and the metric of both runs."""
    grads, forward = backward(loaded, clean, metric, extra=("pattern", "v") if qk_fix else ())
    with torch.no_grad():
        run = Pass(loaded, len(corrupted))
        keep_senders(run, network)
        end = metric(answer_logits(loaded, run.run(corrupted.feed), corrupted.positions), forward.answers)
        changes = written_change(network, forward.kept, kept_of(run, network))
        scores = first_order(network, grads, forward, changes)
        if qk_fix:
            fix_softmax(loaded, network, grads, forward, changes=changes, scores=scores)
    return scores, grads.values, end


def first_order(
    network: Network, grads: Gradients, forward: Forward, changes: Changed
) -> Float[Tensor, "source receiver"]:
    """Σ over prompts and positions of change · gradient, for every edge."""
    return products(network, lambda reader: pulled_parts(grads, forward, reader), changes)


Pulled = list[tuple[slice, Tensor]]
"""Senders of the tower that is read, and [receiver, prompt, position, d_model] gradient through each receiver with respect to what they write."""


def pulled_parts(grads: Gradients, forward: Forward, reader: Reader) -> Pulled:
    """Gradients through a reader."""
    return list(reader.pulled(forward.kept, grads.of_input(reader)))


def products(
    network: Network, pulled: Callable[[Reader], Pulled], changes: Changed
) -> Float[Tensor, "source receiver"]:
    """Σ over prompts and positions of change · gradient; ``pulled`` gives the gradients through a reader."""
    like = changes[LAST]
    scores = like.new_zeros(network.possible.shape)
    for tower in network.towers.values():
        flat = changes[tower.name].flatten(1)
        reading = [reader for reader in network.readers if reader.reads is tower]
        # Through the norms of a post-norm stream there is a gradient for each of them.
        step = 1 if tower.anatomy.wiring == "post_norm" else READERS_AT_ONCE
        for first in range(0, len(reading), step):
            # Readers of several layers share a product: the senders' changes are then read from memory less often.
            for senders, columns, gradients in _together(
                [(reader, pulled(reader)) for reader in reading[first : first + step]]
            ):
                rows = slice(tower.start + senders.start, tower.start + senders.stop)
                scores[rows, columns] = flat[senders] @ torch.cat(gradients).flatten(1).T
    # Where a receiver reads before a sender writes there is no edge, and the product above is noise.
    return scores.masked_fill_(~network.possible.to(scores.device), 0.0)


def _together(found: list[tuple[Reader, Pulled]]) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
    """Senders, receivers, and the gradients through these; readers of one part each are taken together."""
    if all(len(parts) == 1 for _, parts in found):
        columns = torch.cat([_numbers_of(reader) for reader, _ in found])
        upto = max(senders.stop for _, ((senders, _),) in found)
        yield slice(0, upto), columns, [gradient for _, ((_, gradient),) in found]
        return
    for reader, parts in found:
        for senders, gradient in parts:
            yield senders, _numbers_of(reader), [gradient]


def _numbers_of(reader: Reader) -> Tensor:
    return torch.arange(reader.columns.start, reader.columns.stop, device="cpu")


def fix_softmax(
    loaded: LoadedModel,
    network: Network,
    grads: Gradients,
    forward: Forward,
    *,
    changes: Changed,
    scores: Float[Tensor, "source receiver"],
    tell: Callable[[float], None] | None = None,
) -> None:
    """Replace the first-order scores of queries and keys by scores of a softmax that runs again; ``tell`` gets the part done."""
    readers = [reader for reader in network.readers if reader.into in ("q", "k")]
    for n, reader in enumerate(readers):
        if tell is not None:
            tell(n / len(readers))
        worth = worth_of(grads, forward, reader)
        pattern = pattern_of(forward, reader)
        own = changes[reader.reads.name]
        # The patterns of every sender at a time would take senders × T² numbers a head.
        step = max(1, _TOKENS // (own.shape[1] * max(own.shape[2], worth.shape[2])))
        for start in range(0, reader.before, step):
            senders = torch.arange(start, min(start + step, reader.before), device="cpu")
            moved = reader.moved(forward.kept, each_alone(own, senders))
            patched = patterns_of(loaded, forward, reader, moved)
            by_head = torch.einsum("uphts,phts->uh", (patched - pattern).to(worth), worth)
            # Heads of a group share a key, so its score is the sum over them.
            by_receiver = by_head.unflatten(1, (-1, reader.group)).sum(2)
            rows = slice(reader.reads.start + start, reader.reads.start + start + len(senders))
            scores[rows, reader.columns] = by_receiver


def pattern_of(forward: Forward, reader: Reader) -> Float[Tensor, "prompt head query_pos key_pos"]:
    """Pattern of a reader's attention in the clean run."""
    return forward.kept[reader.owner.name][f"{reader.prefix}pattern", reader.at]


def values_of(forward: Forward, reader: Reader) -> Float[Tensor, "prompt key_pos head d_head"]:
    """Values of a reader's attention in the clean run, repeated for the heads that share them."""
    anatomy = reader.anatomy
    values = forward.kept[reader.owner.name][f"{reader.prefix}v", reader.at]
    return values.repeat_interleave(anatomy.n_heads // values.shape[2], 2)


def outputs_worth(grads: Gradients, reader: Reader) -> Float[Tensor, "prompt query_pos head d_head"]:
    """Gradient with respect to the outputs z of a reader's heads."""
    own = grads.stacks.get(reader.owner.name, grads)
    found = own.cross_z if reader.crossing else own.z
    assert found is not None
    return found[reader.at]


def worth_of(grads: Gradients, forward: Forward, reader: Reader) -> Float[Tensor, "prompt head query_pos key_pos"]:
    """Gradient with respect to each attention probability: what the value at that place is worth."""
    worth = outputs_worth(grads, reader)
    return torch.einsum("pthk,pshk->phts", worth, values_of(forward, reader).to(worth))


def patterns_of(
    loaded: LoadedModel,
    forward: Forward,
    reader: Reader,
    moved: Float[Tensor, "source prompt position d_in"],
) -> Float[Tensor, "source prompt head query_pos key_pos"]:
    """Patterns of a layer by its own attention, with the input of queries or keys moved."""
    weight = reader.weight()
    shift = torch.einsum("uptd,hdk->upthk", moved.to(weight), weight).flatten(0, 1)
    run = Pass(loaded, len(shift))
    own, site = pass_of(run, reader.owner), f"{reader.prefix}pattern"
    own.edit(reader.site, reader.at, lambda heads: heads + shift.to(heads))
    own.keep((site,), [reader.at])
    # Only the attention runs again, on the clean states; the hook shifts its queries or keys.
    reads = reader.queries_of(forward.kept).repeat(len(moved), 1, 1)
    block = reader.owner.anatomy.blocks[reader.at]
    module = block if not reader.crossing else block.cross
    assert module is not None
    with run.hooked():
        forward.calls[reader.owner.name, "cross" if reader.crossing else "attention"][reader.at].run(
            module.attention, reads
        )
    patterns: Tensor = own.kept[site, reader.at].unflatten(0, (len(moved), -1))
    return patterns
