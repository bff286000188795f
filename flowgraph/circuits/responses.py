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

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.blocks import mlp_of
from ..interventions.edge_scores import patterns_of
from ..interventions.edges import Into, senders_before
from ..interventions.senders import read_through_norm
from ..models.anatomy import upcast
from ..models.attention_weights import attention_weights
from .memory import RESPONSE_TOKENS
from .pairs import Runs

_HEAD_INPUTS: tuple[Into, ...] = ("q", "k", "v")


@dataclass(frozen=True, eq=False)
class HeadResponses:
    """Responses of the heads of a layer to each source by itself.

    Attributes
    ----------
    recall
        For each input (q, k, v): [source, head, prompt] the part of each head's whole change that a source brings about.
    effect
        For q and k: [source, receiver] first-order effect behind the softmax, summed over prompts: the score with the QK fix.
    """

    direct_share: dict[Into, Tensor]
    effect: dict[Into, Tensor]


class Responses:
    """Responses of the heads and MLPs of one batch of prompts."""

    def __init__(self, runs: Runs) -> None:
        self.runs, self.loaded, self.anatomy = runs, runs.search.loaded, runs.search.loaded.anatomy
        self.grads, self.forward = runs.backward
        self.group = self.anatomy.n_heads // self.anatomy.n_kv_heads
        self.prompts, self.n_tokens = len(runs.pairs), runs.pairs.clean.n_tokens

    def of_heads(self, layer: int) -> HeadResponses:
        """Responses of every head of a layer to each source alone, for each input of the head."""
        whole = self._whole(layer)
        size = whole.flatten(2).square().sum(-1)
        # The output projection is linear: a projection onto the whole change can be taken at z, which has d_head
        # numbers instead of d_model.
        known_receivers = torch.einsum(
            "hptd,hkd->hptk", self._past_norm(layer, whole), self.anatomy.W_O(layer).to(whole)
        )
        worth = self.grads.z[layer].permute(2, 0, 1, 3)
        senders = torch.arange(senders_before(self.anatomy, layer, "q"), device="cpu")
        direct_share: dict[Into, Tensor] = {}
        effect: dict[Into, Tensor] = {}
        for into in _HEAD_INPUTS:
            parts = [self._heads(layer, into, some) for some in self._chunks(senders)]
            along = torch.cat([torch.einsum("uhptk,hptk->uhp", part, known_receivers) for part in parts])
            direct_share[into] = _part(along, size)
            if into != "v":
                by_head = torch.cat([torch.einsum("uhptk,hptk->uh", part.to(worth), worth) for part in parts])
                effect[into] = by_head if into == "q" else by_head.unflatten(1, (-1, self.group)).sum(2)
        return HeadResponses(direct_share, effect)

    def moved_of_mlp(self, layer: int) -> Float[Tensor, "source"]:
        """Σ over prompts and positions of the squared distance by which each source alone moves the input of an MLP."""
        state = self.runs.cuts.kept[self.runs.cuts.reads_mlp, layer]
        senders = torch.arange(senders_before(self.anatomy, layer, "mlp"), device="cpu")
        parts = [
            upcast(read_through_norm(self.anatomy, layer, "mlp", state=state, change=self.runs.changes[some]))
            for some in self._chunks(senders)
        ]
        return torch.cat([part.flatten(1).square().sum(1) for part in parts])

    def recall_of_mlp(self, layer: int, senders: Int[Tensor, "u"]) -> Float[Tensor, "source 1 prompt"]:
        """The part of an MLP's whole change that each of some sources alone brings about; 0 for all others."""
        whole = self.runs.changes[1 + layer * (self.anatomy.n_heads + 1) + self.anatomy.n_heads]
        along = whole.new_zeros(senders_before(self.anatomy, layer, "mlp"), self.prompts)
        for some in self._chunks(senders):
            along[some] = torch.einsum("uptd,ptd->up", self.mlp(layer, some), whole)
        return _part(along[:, None], whole.flatten(1).square().sum(-1)[None])

    def head(
        self, layer: int, head: int, into: Into, senders: Int[Tensor, "u"]
    ) -> Float[Tensor, "u prompt position d_model"]:
        """Change of a head's output when each source alone is corrupted in its query, key or value."""
        parts = []
        for some in self._chunks(senders):
            change = self._heads(layer, into, some)[:, head] @ self.anatomy.W_O(layer)[head].to(self.grads.z)
            parts.append(change)
        written = torch.cat(parts)
        post = self.anatomy.blocks[layer].attention_post_norm
        return written if post is None else post.linear(written, post.scale(self.runs.cuts.kept["attn_sum", layer]))

    def mlp(self, layer: int, senders: Int[Tensor, "u"]) -> Float[Tensor, "u prompt position d_model"]:
        """Change of an MLP's output when each source alone is corrupted."""
        norm = self.anatomy.blocks[layer].mlp_norm.module
        state = self.runs.cuts.kept[self.runs.cuts.reads_mlp, layer]
        parts = []
        for some in self._chunks(senders):
            moved = (upcast(state) + self.runs.changes[some]).to(state.dtype)
            parts.append(
                upcast(mlp_of(self.anatomy, layer, norm(moved)) - mlp_of(self.anatomy, layer, norm(state))[None])
            )
            # One row more for the clean state, which every chunk runs anew.
            self._ran(len(some) + 1)
        return torch.cat(parts)

    def downstream_effect(
        self, change: Float[Tensor, "u prompt position d_model"], layer: int | None, into: Into, heads: Sequence[int]
    ) -> Float[Tensor, "u"]:
        """Σ over prompts of the effect that changes of a sender have on the metric through some heads together.

        For keys and values ``heads`` are groups; MLP and logits are head 0 of their layer.
        """
        if into not in ("q", "k"):
            worth = self.grads.into(layer, into)[list(heads)].sum(0)
            return torch.einsum("uptd,ptd->u", change.to(self.grads.final), worth)
        assert layer is not None
        size = self.group if into == "k" else 1
        chosen = [head * size + n for head in heads for n in range(size)]
        # Gradient with respect to each attention probability: what the value at that place is worth.
        values = self.forward.kept["v", layer].repeat_interleave(self.group, 2)[:, :, chosen]
        worth = torch.einsum("pthk,pshk->phts", self.grads.z[layer][:, :, chosen], values.to(self.grads.z))
        pattern = self.forward.kept["pattern", layer][:, chosen]
        state, found = self.forward.kept["resid_pre", layer], []
        for some in self._chunks(torch.arange(len(change), device="cpu")):
            moved = read_through_norm(self.anatomy, layer, "attention", state=state, change=change[some])
            patched = patterns_of(self.loaded, self.forward, layer, into=into, moved=moved)[:, :, chosen]
            self._ran(len(some))
            found.append(torch.einsum("uphts,phts->u", (patched - pattern).to(worth), worth))
        return torch.cat(found)

    def _heads(self, layer: int, into: Into, senders: Tensor) -> Float[Tensor, "u head prompt position d_head"]:
        """Change of every head's z with each source alone corrupted."""
        state = self.forward.kept["resid_pre", layer]
        moved = read_through_norm(self.anatomy, layer, "attention", state=state, change=self.runs.changes[senders])
        pattern, values = upcast(self.forward.kept["pattern", layer]), self.forward.kept["v", layer]
        if into == "v":
            weight, _ = attention_weights(self.anatomy, layer, "value")
            # Values do not go through a softmax: their change follows from the weights, without a run.
            shift = torch.einsum("uptd,gdk->ugptk", moved.to(weight), weight).repeat_interleave(self.group, 1)
            return torch.einsum("phts,uhpsk->uhptk", pattern, shift.to(pattern))
        assert into in ("q", "k")
        patched = upcast(patterns_of(self.loaded, self.forward, layer, into=into, moved=moved))
        self._ran(len(senders))
        by_head = upcast(values).repeat_interleave(self.group, 2)
        return torch.einsum("uphts,pshk->uhptk", patched - pattern, by_head)

    def _whole(self, layer: int) -> Float[Tensor, "head prompt position d_model"]:
        first = 1 + layer * (self.anatomy.n_heads + 1)
        return self.runs.changes[first : first + self.anatomy.n_heads]

    def _past_norm(self, layer: int, change: Tensor) -> Tensor:
        """Pull a change back through the norm after attention, if there is one: it is an RMSNorm, and so diagonal."""
        post = self.anatomy.blocks[layer].attention_post_norm
        return change if post is None else post.linear(change, post.scale(self.runs.cuts.kept["attn_sum", layer]))

    def _chunks(self, senders: Tensor) -> tuple[Tensor, ...]:
        # At least one sender at a time, however long the prompts.
        chunks: tuple[Tensor, ...] = senders.split(max(1, RESPONSE_TOKENS // (self.prompts * self.n_tokens)))
        return chunks

    def _ran(self, count: int) -> None:
        self.runs.search.spending.layer_runs += count * self.prompts


def _part(along: Float[Tensor, "u n prompt"], size: Float[Tensor, "n prompt"]) -> Float[Tensor, "u n prompt"]:
    # A division by the smallest number gives 0 / tiny = 0 in the branch that is not taken, so no NaN arises.
    """Projection onto the whole change, as a part of its length; 0 where nothing changes."""
    return torch.where(size > 0, along / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
