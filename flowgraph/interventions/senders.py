"""Outputs of senders to the residual stream, and the change of a receiver's input when senders change.

A head writes z W_O. In sandwich blocks the second norm, frozen at its actual scale, is applied to it. Biases belong to no sender.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.anatomy import Anatomy, upcast
from ..models.attention_weights import attention_weights
from .edges import Into, senders_before
from .passes import ROLES, Pass

Kept = Mapping[tuple[str, int], Tensor]


def sender_sites(anatomy: Anatomy) -> tuple[str, ...]:
    """Sites that a pass has to keep of every layer for :func:`written`; of the first ``resid_pre`` as well."""
    return ("z", "attn_sum", "mlp_out") if anatomy.wiring == "sandwich" else ("z", "mlp_out")


def keep_senders(run: Pass, layers: Iterable[int] | None = None) -> None:
    """Make a pass keep the sites that :func:`written` needs."""
    run.keep(sender_sites(run.anatomy), layers)
    run.keep(("resid_pre",), [0])


def written(anatomy: Anatomy, kept: Kept) -> Float[Tensor, "sender row position d_model"]:
    """[sender, row, position, d_model] output of every sender in a pass, in the order of computation."""
    embed = upcast(kept["resid_pre", 0])
    width = anatomy.n_heads + 1
    outputs = embed.new_empty(1 + len(anatomy.blocks) * width, *embed.shape)
    outputs[0] = embed
    for layer in range(len(anatomy.blocks)):
        first = 1 + layer * width
        outputs[first : first + width - 1] = written_by_heads(anatomy, layer, kept)
        outputs[first + width - 1] = upcast(kept["mlp_out", layer])
    return outputs


def written_change(anatomy: Anatomy, kept: Kept, other: Kept) -> Float[Tensor, "sender row position d_model"]:
    """[sender, row, position, d_model] output of every sender in the other pass less its output in this one."""
    if anatomy.wiring == "sandwich":
        # The second norm's scale differs between the runs, so outputs are subtracted behind it.
        return written(anatomy, other).sub_(written(anatomy, kept))
    sites = sender_sites(anatomy)
    needed = [key for key in other if key[0] in sites or key == ("resid_pre", 0)]
    # All else is linear: to subtract first makes the outputs once instead of twice.
    return written(anatomy, {key: upcast(other[key]) - upcast(kept[key]) for key in needed})


def emptied(anatomy: Anatomy, kept: Kept) -> Float[Tensor, "sender row position d_model"]:
    """[sender, row, position, d_model] the negative of every sender's output in a pass: the change to zero."""
    return written(anatomy, kept).neg_()


def written_by_heads(anatomy: Anatomy, layer: int, kept: Kept) -> Float[Tensor, "head row position d_model"]:
    """[head, row, position, d_model] outputs of a layer's heads."""
    z = upcast(kept["z", layer])
    rows, n_tokens, _ = z.shape
    # One product per head over all rows and positions: heads × d_head instead of one large product with zeros.
    by_head = z.reshape(rows * n_tokens, anatomy.n_heads, anatomy.d_value).transpose(0, 1)
    outputs = torch.bmm(by_head, anatomy.W_O(layer)).view(anatomy.n_heads, rows, n_tokens, -1)
    post = anatomy.blocks[layer].attention_post_norm
    return outputs if post is None else post.linear(outputs, post.scale(kept["attn_sum", layer]))


def read_through_norm(
    anatomy: Anatomy,
    layer: int,
    norm: Literal["attention", "mlp"],
    *,
    state: Float[Tensor, "*row position d_model"],
    change: Float[Tensor, "*rows position d_model"],
) -> Float[Tensor, "*rows position d_model"]:
    """LN(x + Δ) − LN(x): change of the input of a layer's attention or MLP when the state changes by Δ."""
    block = anatomy.blocks[layer]
    module = (block.attention_norm if norm == "attention" else block.mlp_norm).module
    # The sum is made in 32 bits at least, and the norm reads the type that the model gives it.
    moved: Tensor = module((upcast(state) + change).to(state.dtype)) - module(state)
    return moved


def head_shift(
    anatomy: Anatomy, layer: int, into: Into, *, head: int, moved: Float[Tensor, "*rows position d_model"]
) -> Float[Tensor, "*rows position d_head"]:
    """Change of a projection's output for one head, from the change of attention's input."""
    weight, _ = attention_weights(anatomy, layer, ROLES[into])
    return (upcast(moved) @ weight[head]).to(moved.dtype)


class Changes:
    """Reference of every sender less its output in a pass, filled as the pass goes on.

    Parameters
    ----------
    run
        The pass; :func:`keep_senders` has to be called with it.
    reference
        [sender, row or 1, position, d_model] the output that receivers see instead; None for zero ablation.
    """

    def __init__(self, run: Pass, reference: Float[Tensor, "sender #row position d_model"] | None) -> None:
        self.run, self.anatomy, self.reference = run, run.anatomy, reference
        self.values: Tensor | None = None
        self.filled = 0

    def upto(self, before: int) -> Float[Tensor, "sender row position d_model"]:
        """[sender, row, position, d_model] of the first ``before`` senders, all of which have written."""
        kept, width = self.run.kept, self.anatomy.n_heads + 1
        if self.values is None:
            embed = upcast(kept["resid_pre", 0])
            self.values = embed.new_empty(1 + len(self.anatomy.blocks) * width, *embed.shape)
            self._set(self.values, embed[None])
        # A sender is read once, when the first receiver after it runs: by then the pass has kept its output.
        while self.filled < before:
            layer, place = divmod(self.filled - 1, width)
            of_mlp = place == width - 1
            self._set(
                self.values,
                upcast(kept["mlp_out", layer])[None] if of_mlp else written_by_heads(self.anatomy, layer, kept),
            )
        return self.values[:before]

    def _set(self, values: Tensor, now: Tensor) -> None:
        senders = slice(self.filled, self.filled + len(now))
        values[senders] = -now if self.reference is None else self.reference[senders] - now
        self.filled = senders.stop


class Paths:
    """Edges cut, or patched, in one pass: receivers see the reference of some senders in place of their output.

    Parameters
    ----------
    run
        The pass; its edits of senders have to be added before.
    reference
        [sender, row or 1, position, d_model] the output that receivers see instead; None for zero ablation.
    """

    def __init__(self, run: Pass, reference: Float[Tensor, "sender #row position d_model"] | None) -> None:
        self.run, self.anatomy, self.changes = run, run.anatomy, Changes(run, reference)
        self.cuts: dict[tuple[int | None, Into], dict[int, Tensor]] = {}

    def cut(self, layer: int | None, into: Into, head: int, senders: Float[Tensor, "sender position"]) -> None:
        """Cut the edges into a receiver whose sender and position are 1 in ``senders``, and not 0.

        ``layer`` is None for the logits, and ``head`` then, as for an MLP, 0.
        """
        before = senders_before(self.anatomy, layer, into)
        held = self.cuts.setdefault((layer, into), {})
        held[head] = senders[:before] if head not in held else torch.maximum(held[head], senders[:before])

    def install(self) -> None:
        """Add the edits that do it."""
        anatomy, run = self.anatomy, self.run
        keep_senders(run)
        reads_mlp = "resid_pre" if anatomy.wiring == "parallel" else "resid_mid"
        for layer, into in self.cuts:
            if layer is None:
                run.edit("final", len(anatomy.blocks) - 1, self._into_logits)
            elif into == "mlp":
                run.keep((reads_mlp,), [layer])
                run.edit("mlp_in", layer, partial(self._into_mlp, layer, reads_mlp))
            else:
                run.keep(("resid_pre",), [layer])
                run.edit(into, layer, partial(self._into_heads, layer, into))

    def _into_heads(self, layer: int, into: Into, heads: Tensor) -> Tensor:
        result = heads.clone()
        cuts, state = self.cuts[layer, into], self.run.kept["resid_pre", layer]
        moved = read_through_norm(self.anatomy, layer, "attention", state=state, change=self._change(*cuts.values()))
        for head, own in zip(cuts, moved, strict=True):
            result[:, :, head] += head_shift(self.anatomy, layer, into, head=head, moved=own)
        return result

    def _into_mlp(self, layer: int, site: str, reads: Tensor) -> Tensor:
        change = self._change(self.cuts[layer, "mlp"][0])[0]
        return reads + read_through_norm(self.anatomy, layer, "mlp", state=self.run.kept[site, layer], change=change)

    def _into_logits(self, state: Tensor) -> Tensor:
        return (upcast(state) + self._change(self.cuts[None, "logits"][0])[0]).to(state.dtype)

    def _change(self, *senders: Float[Tensor, "sender position"]) -> Float[Tensor, "receiver row position d_model"]:
        """Σ over the cut senders of reference less output, for each receiver; one product serves all receivers."""
        cut = torch.stack(senders)
        some = cut.any(2).any(0).nonzero()[:, 0]
        # Nothing times what is not cut is faster than a copy of what is.
        used = some if 4 * len(some) < cut.shape[1] else slice(None)
        changes, weights = self.changes.upto(cut.shape[1])[used], cut[:, used]
        # A cut at all positions alike is a plain product, which is much faster than a sum with a weight at each
        # position.
        if bool((weights == weights[..., :1]).all()):
            summed: Tensor = (weights[..., 0].to(changes) @ changes.flatten(1)).unflatten(1, changes.shape[1:])
        else:
            summed = torch.einsum("srtd,nst->nrtd", changes, weights.to(changes))
        return summed
