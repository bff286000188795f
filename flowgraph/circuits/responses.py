"""Responses of a head or an MLP to one corrupted input: by real runs of its layer, not by gradients.

No gradient passes through a saturated softmax, so gradients see nothing upstream of one. Two estimates of an edge s → (u, c) do,
once the exact effects of edges out of u are known. Both run u's layer with s corrupted in c:

- *direct share*: the part of u's whole change (its output in the corrupted run less its output now) that s alone brings about, times
  the exact effects of the edges out of u. It passes through any number of saturated softmaxes.
- *through*: the effect of that change of u on the readers of the edges out of u. Attention runs again for queries and keys, and
  the gradient gives the rest. It sees changes that are small beside u's whole change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.blocks import mlp_of
from ..interventions.edge_scores import outputs_worth, pattern_of, patterns_of, values_of, worth_of
from ..interventions.network import Network, Reader
from ..interventions.senders import each_alone, of_one
from ..models.anatomy import upcast
from .memory import RESPONSE_TOKENS
from .pairs import Runs


@dataclass(frozen=True, eq=False)
class Stage:
    """Readers that belong to the same nodes: those of a layer's heads, of heads that read an encoder, of its MLP, or the logits.

    Attributes
    ----------
    readers
        The readers; heads have three, by query, key and value.
    senders
        The nodes' numbers among the senders of all towers; none of the logits.
    """

    readers: tuple[Reader, ...]
    senders: range

    @property
    def is_of_heads(self) -> bool:
        """Whether the nodes are heads."""
        return len(self.readers) > 1


def stages_of(network: Network) -> list[Stage]:
    """All readers from the logits down."""
    found: dict[tuple[Any, ...], list[Reader]] = {}
    for reader in reversed(network.readers):
        is_of_heads = reader.into in ("q", "k", "v")
        found.setdefault((reader.owner.name, reader.layer, is_of_heads, reader.crossing), []).insert(0, reader)
    stages = []
    for readers in found.values():
        first = readers[0]
        writers = [first.writers(n) for n in range(len(first.nodes))]
        start = first.owner.start
        stages.append(Stage(tuple(readers), range(start + writers[0].start, start + writers[-1].stop)))
    return stages


@dataclass(frozen=True, eq=False)
class HeadResponses:
    """Responses of the heads of a layer to each source by itself.

    Attributes
    ----------
    direct_share
        For each reader (q, k, v): [source, head, prompt] the part of each head's whole change that a source brings about.
    effect
        For q and k: [source, receiver] first-order effect behind the softmax, summed over prompts: the score with the QK fix.
    """

    direct_share: dict[Reader, Tensor]
    effect: dict[Reader, Tensor]


class Responses:
    """Responses of the heads and MLPs of one batch of prompts."""

    def __init__(self, runs: Runs) -> None:
        self.runs, self.loaded, self.network = runs, runs.search.loaded, runs.search.network
        self.grads, self.forward = runs.backward
        self.prompts, self.n_tokens = len(runs.pairs), sum(runs.pairs.clean.lengths)

    def of_heads(self, stage: Stage) -> HeadResponses:
        """Responses of every head of a layer to each source alone, for each input of the head."""
        query = stage.readers[0]
        whole = self._whole(stage)
        size = whole.flatten(2).square().sum(-1)
        # The output projection is linear: a projection onto the whole change can be taken at z, which has d_head
        # numbers instead of d_model.
        known_receivers = torch.einsum(
            "hptd,hkd->hptk", self._past_norm(query, whole), query.anatomy.W_O(query.at).to(whole)
        )
        worth = outputs_worth(self.grads, query).permute(2, 0, 1, 3)
        direct_share: dict[Reader, Tensor] = {}
        effect: dict[Reader, Tensor] = {}
        for reader in stage.readers:
            parts = [self._heads(reader, some) for some in self._chunks(_upto(reader))]
            along = torch.cat([torch.einsum("uhptk,hptk->uhp", part, known_receivers) for part in parts])
            direct_share[reader] = _part(along, size)
            if reader.into != "v":
                by_head = torch.cat([torch.einsum("uhptk,hptk->uh", part.to(worth), worth) for part in parts])
                effect[reader] = by_head.unflatten(1, (-1, reader.group)).sum(2)
        return HeadResponses(direct_share, effect)

    def moved_of_mlp(self, reader: Reader) -> Float[Tensor, "source"]:
        """Σ over prompts and positions of the squared distance by which each source alone moves the input of an MLP."""
        parts = [upcast(self._moved(reader, some)) for some in self._chunks(_upto(reader))]
        return torch.cat([part.flatten(1).square().sum(1) for part in parts])

    def recall_of_mlp(self, stage: Stage, senders: Int[Tensor, "u"]) -> Float[Tensor, "source 1 prompt"]:
        """The part of an MLP's whole change that each of some sources alone brings about; 0 for all others."""
        (reader,) = stage.readers
        (whole,) = self._whole(stage)
        along = whole.new_zeros(reader.before, self.prompts)
        for some in self._chunks(senders):
            along[some] = torch.einsum("uptd,ptd->up", self.mlp(reader, some), whole)
        return _part(along[:, None], whole.flatten(1).square().sum(-1)[None])

    def head(self, reader: Reader, head: int, senders: Int[Tensor, "u"]) -> Float[Tensor, "u prompt position d_model"]:
        """Change of a head's output when each source alone is corrupted in its query, key or value."""
        weight = reader.anatomy.W_O(reader.at)[head].to(self.grads.z)
        written = torch.cat([self._heads(reader, some)[:, head] @ weight for some in self._chunks(senders)])
        return self._past_norm(reader, written)

    def mlp(self, reader: Reader, senders: Int[Tensor, "u"]) -> Float[Tensor, "u prompt position d_model"]:
        """Change of an MLP's output when each source alone is corrupted."""
        anatomy, layer = reader.owner.anatomy, reader.at
        state = self.runs.cuts.kept[reader.owner.name][reader.state]
        reads = reader.through(state)
        parts = []
        for some in self._chunks(senders):
            moved = reads + self._moved(reader, some)
            parts.append(upcast(mlp_of(anatomy, layer, moved) - mlp_of(anatomy, layer, reads)[None]))
            # One row more for the clean state, which every chunk runs anew.
            self._ran(len(some) + 1)
        return torch.cat(parts)

    def downstream_effect(
        self,
        change: Float[Tensor, "u prompt position d_model"],
        writer: int,
        reader: Reader,
        receivers: Sequence[int],
    ) -> Float[Tensor, "u"]:
        """Σ over prompts of the effect that changes of a sender have on the metric through some receivers of one reader together.

        ``writer`` is the sender's number in the tower that the reader reads.
        """
        if reader.into not in ("q", "k"):
            pulled = reader.pulled(self.forward.kept, self.grads.of_input(reader)[list(receivers)])
            worth = next(gradient for senders, gradient in pulled if senders.start <= writer < senders.stop).sum(0)
            return torch.einsum("uptd,ptd->u", change.to(self.grads.final), worth)
        chosen = [one * reader.group + n for one in receivers for n in range(reader.group)]
        worth = worth_of(self.grads, self.forward, reader)[:, chosen]
        pattern, found = pattern_of(self.forward, reader)[:, chosen], []
        for some in self._chunks(torch.arange(len(change), device="cpu")):
            moved = reader.moved(self.forward.kept, of_one(change[some], writer))
            patched = patterns_of(self.loaded, self.forward, reader, moved)[:, :, chosen]
            self._ran(len(some))
            found.append(torch.einsum("uphts,phts->u", (patched - pattern).to(worth), worth))
        return torch.cat(found)

    def _moved(self, reader: Reader, senders: Tensor) -> Float[Tensor, "u prompt position d_in"]:
        """Change of a reader's input with each source alone corrupted."""
        return reader.moved(self.forward.kept, each_alone(self.runs.changes[reader.reads.name], senders))

    def _heads(self, reader: Reader, senders: Tensor) -> Float[Tensor, "u head prompt position d_head"]:
        """Change of every head's z with each source alone corrupted."""
        moved, pattern = self._moved(reader, senders), upcast(pattern_of(self.forward, reader))
        if reader.into == "v":
            weight = reader.weight()
            # Values do not go through a softmax: their change follows from the weights, without a run.
            shift = torch.einsum("uptd,gdk->ugptk", moved.to(weight), weight).repeat_interleave(reader.group, 1)
            return torch.einsum("phts,uhpsk->uhptk", pattern, shift.to(pattern))
        patched = upcast(patterns_of(self.loaded, self.forward, reader, moved))
        self._ran(len(senders))
        return torch.einsum("uphts,pshk->uhptk", patched - pattern, upcast(values_of(self.forward, reader)))

    def _whole(self, stage: Stage) -> Float[Tensor, "n prompt position d_model"]:
        """Whole change of what the nodes of a stage write."""
        tower = stage.readers[0].owner
        return self.runs.changes[tower.name][stage.senders.start - tower.start : stage.senders.stop - tower.start]

    def _past_norm(self, reader: Reader, change: Tensor) -> Tensor:
        """A change through the norm after attention, if there is one, which is an RMSNorm and so diagonal: the same back and forth."""
        post = reader.anatomy.blocks[reader.at].attention_post_norm
        site = "cross_sum" if reader.crossing else "attn_sum"
        if post is None:
            return change
        return post.linear(change, post.scale(self.runs.cuts.kept[reader.owner.name][site, reader.at]))

    def _chunks(self, senders: Tensor) -> tuple[Tensor, ...]:
        # At least one sender at a time, however long the prompts.
        chunks: tuple[Tensor, ...] = senders.split(max(1, RESPONSE_TOKENS // (self.prompts * self.n_tokens)))
        return chunks

    def _ran(self, count: int) -> None:
        self.runs.search.spending.layer_runs += count * self.prompts


def _upto(reader: Reader) -> Int[Tensor, "u"]:
    return torch.arange(reader.before, device="cpu")


def _part(along: Float[Tensor, "u n prompt"], size: Float[Tensor, "n prompt"]) -> Float[Tensor, "u n prompt"]:
    """Projection onto the whole change, as a part of its length; 0 where nothing changes."""
    # A division by the smallest number gives 0 / tiny = 0 in the branch that is not taken, so no NaN arises.
    return torch.where(size > 0, along / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
