"""Outputs of senders to the residual stream, and the change of a receiver's input when senders change.

A head writes z W_O. In sandwich blocks the second norm, frozen at its actual scale, is applied to it. Biases belong to no sender.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.anatomy import upcast
from .network import Added, Kept, KeptOf, Network, Reader, Tower
from .passes import Pass

Changed = Mapping[str, Tensor]
"""Name of a tower → [sender, row, position, d_model] change of what each of its senders writes."""


def keep_senders(run: Pass, network: Network) -> None:
    """Make a pass keep the sites that :func:`written` needs."""
    for tower in network.towers.values():
        own = pass_of(run, tower)
        own.keep(_sites(tower))
        own.keep(("resid_pre",), [0])


def keep_states(run: Pass, network: Network) -> None:
    """Make a pass keep the states that :meth:`Reader.moved` needs, of every reader."""
    wanted: dict[tuple[str, str], set[int]] = {}
    for reader in network.readers:
        for tower, site, layer in states_of(reader):
            wanted.setdefault((tower.name, site), set()).add(layer)
    for (name, site), layers in wanted.items():
        pass_of(run, network.towers[name]).keep((site,), sorted(layers))


def states_of(reader: Reader) -> Iterator[tuple[Tower, str, int]]:
    """Tower, site and layer of what :meth:`Reader.moved` reads of a pass."""
    if reader.layer is not None:
        yield reader.reads, *reader.state
    if reader.reads.anatomy.wiring == "post_norm":
        for _, _, state, written in reader.norms():
            yield reader.reads, *state
            yield reader.reads, *written


def pass_of(run: Pass, tower: Tower) -> Pass:
    """The pass of a tower in a pass of the model."""
    return run.stacks[tower.name] if tower.name else run


def kept_of(run: Pass, network: Network) -> dict[str, Kept]:
    """What a pass kept, by tower."""
    return network.by_tower(lambda tower: pass_of(run, tower).kept)


def written(network: Network, kept: KeptOf) -> Changed:
    """[sender, row, position, d_model] output of every sender in a pass, by tower in the order of computation."""
    return network.by_tower(lambda tower: _written(tower, kept[tower.name]))


def written_change(network: Network, kept: KeptOf, other: KeptOf) -> Changed:
    """[sender, row, position, d_model] output of every sender in the other pass less its output in this one."""

    def of(tower: Tower) -> Tensor:
        own, theirs = kept[tower.name], other[tower.name]
        if tower.anatomy.wiring == "sandwich":
            # The second norm's scale differs between the runs, so outputs are subtracted behind it.
            return _written(tower, theirs).sub_(_written(tower, own))
        sites = _sites(tower)
        needed = [key for key in theirs if key[0] in sites or key == ("resid_pre", 0)]
        # All else is linear: to subtract first makes the outputs once instead of twice.
        return _written(tower, {key: upcast(theirs[key]) - upcast(own[key]) for key in needed})

    return network.by_tower(of)


def emptied(network: Network, kept: KeptOf) -> Changed:
    """[sender, row, position, d_model] the negative of every sender's output in a pass: the change to zero."""
    return {name: outputs.neg_() for name, outputs in written(network, kept).items()}


def each_alone(changes: Float[Tensor, "sender row position d_model"], senders: Tensor) -> Added:
    """Changes of some senders of a tower, each in a row of its own."""
    chosen = changes[senders]

    def added(some: slice) -> Tensor:
        inside = (senders >= some.start) & (senders < some.stop)
        if bool(inside.all()):
            return chosen
        masked: Tensor = chosen * inside.to(chosen).view(-1, *[1] * (chosen.ndim - 1))
        return masked

    return added


def of_one(change: Float[Tensor, "*rows position d_model"], sender: int) -> Added:
    """Changes of what one sender of a tower writes, a row for each."""

    def added(some: slice) -> Tensor:
        return change if some.start <= sender < some.stop else torch.zeros_like(change)

    return added


def head_shift(
    reader: Reader, receiver: int, moved: Float[Tensor, "*rows position d_in"]
) -> Float[Tensor, "*rows position d_head"]:
    """Change of a projection's output for one receiver, from the change of its input."""
    shift: Tensor = (upcast(moved) @ reader.weight()[receiver]).to(moved.dtype)
    return shift


def _sites(tower: Tower) -> tuple[str, ...]:
    """Sites that a pass has to keep of every layer for :func:`written`; of the first ``resid_pre`` as well."""
    sites = ("z", "attn_sum") if tower.anatomy.wiring == "sandwich" else ("z",)
    return (*sites, *(f"cross_{site.removeprefix('attn_')}" for site in sites if tower.crossing), "mlp_out")


def _written(tower: Tower, kept: Kept) -> Float[Tensor, "sender row position d_model"]:
    embed = upcast(kept["resid_pre", 0])
    outputs = embed.new_empty(tower.count, *embed.shape)
    outputs[0] = embed
    for layer in range(len(tower.anatomy.blocks)):
        for some, made in _of_layer(tower, layer, kept):
            outputs[some.start : some.stop] = made
    return outputs


def _of_layer(tower: Tower, layer: int, kept: Kept, since: int = 0) -> Iterator[tuple[range, Tensor]]:
    """Senders of a layer from one on with their outputs, as they write one after the other."""
    for crossing in (False, True) if tower.crossing else (False,):
        heads = tower.heads(layer, crossing=crossing)
        if heads.start >= since:
            yield heads, _written_by_heads(tower, layer, kept, crossing=crossing)
    yield range(tower.mlp(layer), tower.mlp(layer) + 1), upcast(kept["mlp_out", layer])[None]


def _written_by_heads(
    tower: Tower, layer: int, kept: Kept, *, crossing: bool = False
) -> Float[Tensor, "head row position d_model"]:
    """[head, row, position, d_model] outputs of a layer's heads."""
    anatomy, site = (tower.anatomy.reader_of_encoder, "cross_z") if crossing else (tower.anatomy, "z")
    z = upcast(kept[site, layer])
    rows, n_tokens, _ = z.shape
    # One product per head over all rows and positions: heads × d_head instead of one large product with zeros.
    by_head = z.reshape(rows * n_tokens, anatomy.n_heads, anatomy.d_value).transpose(0, 1)
    outputs = torch.bmm(by_head, anatomy.W_O(layer)).view(anatomy.n_heads, rows, n_tokens, -1)
    post = anatomy.blocks[layer].attention_post_norm
    if post is None:
        return outputs
    return post.linear(outputs, post.scale(kept["cross_sum" if crossing else "attn_sum", layer]))


class Changes:
    """Reference of every sender less its output in a pass, filled as the pass goes on.

    Parameters
    ----------
    run
        The pass; :func:`keep_senders` has to be called with it.
    network
        The senders.
    reference
        Name of a tower → [sender, row or 1, position, d_model] the output that receivers see instead; None for zero ablation.
    """

    def __init__(self, run: Pass, network: Network, reference: Changed | None) -> None:
        self.run, self.network, self.reference = run, network, reference
        self.values: dict[str, Tensor] = {}
        self.filled = dict.fromkeys(network.towers, 0)

    def upto(self, tower: Tower, before: int) -> Float[Tensor, "sender row position d_model"]:
        """[sender, row, position, d_model] of the first ``before`` senders of a tower, all of which have written."""
        kept = pass_of(self.run, tower).kept
        if tower.name not in self.values:
            embed = upcast(kept["resid_pre", 0])
            self.values[tower.name] = embed.new_empty(tower.count, *embed.shape)
            self._set(tower, range(1), embed[None])
        # A sender is read once, when the first receiver after it runs: by then the pass has kept its output.
        while self.filled[tower.name] < before:
            first = self.filled[tower.name]
            layer = (first - 1) // tower.width
            for some, made in _of_layer(tower, layer, kept, first):
                self._set(tower, some, made)
                if some.stop >= before:
                    break
        return self.values[tower.name][:before]

    def _set(self, tower: Tower, some: range, now: Tensor) -> None:
        senders = slice(some.start, some.stop)
        reference = None if self.reference is None else self.reference[tower.name][senders]
        self.values[tower.name][senders] = -now if reference is None else reference - now
        self.filled[tower.name] = senders.stop


class Paths:
    """Edges cut, or patched, in one pass: receivers see the reference of some senders in place of their output.

    Parameters
    ----------
    run
        The pass; its edits of senders have to be added before.
    network
        Senders and receivers.
    reference
        As for :class:`Changes`.
    """

    def __init__(self, run: Pass, network: Network, reference: Changed | None) -> None:
        self.run, self.network = run, network
        self.changes = Changes(run, network, reference)
        self.cuts: dict[int, dict[int, Tensor]] = {}

    def cut(self, reader: int, receiver: int, senders: Float[Tensor, "sender position"]) -> None:
        """Cut the edges into a receiver whose sender and position are 1 in ``senders``, and not 0; both are those of what it reads.

        ``reader`` is its number in the network, ``receiver`` the one among the reader's.
        """
        before = self.network.readers[reader].before
        held = self.cuts.setdefault(reader, {})
        held[receiver] = senders[:before] if receiver not in held else torch.maximum(held[receiver], senders[:before])

    def install(self) -> None:
        """Add the edits that do it."""
        keep_senders(self.run, self.network)
        for number, cuts in self.cuts.items():
            reader = self.network.readers[number]
            for tower, site, layer in states_of(reader):
                pass_of(self.run, tower).keep((site,), [layer])
            pass_of(self.run, reader.owner).edit(reader.site, reader.at, partial(self._edited, reader, cuts))

    def _edited(self, reader: Reader, cuts: Mapping[int, Tensor], reads: Tensor) -> Tensor:
        moved = reader.moved(kept_of(self.run, self.network), self._added(reader, [*cuts.values()]))
        return shifted(reader, reads, dict(zip(cuts, moved, strict=True)))

    def _added(self, reader: Reader, cuts: list[Float[Tensor, "sender position"]]) -> Added:
        """Σ over the cut senders of reference less output, for each receiver; one product serves all receivers."""
        cut = torch.stack(cuts)

        def added(some: slice) -> Tensor:
            # The reader itself has not run: whoever writes after it is no part of what it reads.
            return _summed(cut[:, some], self.changes.upto(reader.reads, some.stop)[some])

        return added


def shifted(reader: Reader, reads: Tensor, moved: Mapping[int, Tensor]) -> Tensor:
    """What a reader reads, or of heads what their projections give, when the inputs of some receivers move."""
    if reader.into not in ("q", "k", "v"):
        (change,) = moved.values()
        return (upcast(reads) + change).to(reads.dtype)
    # A copy: the output of the projection belongs to the model's pass.
    result = reads.clone()
    for receiver, own in moved.items():
        result[:, :, receiver] += head_shift(reader, receiver, own)
    return result


def _summed(
    cut: Float[Tensor, "receiver sender position"], changes: Float[Tensor, "sender row position d_model"]
) -> Float[Tensor, "receiver row position d_model"]:
    some = cut.any(2).any(0).nonzero()[:, 0]
    # Nothing times what is not cut is faster than a copy of what is.
    used = some if 4 * len(some) < cut.shape[1] else slice(None)
    changes, weights = changes[used], cut[:, used]
    # A cut at all positions alike is a plain product, which is much faster than a sum with a weight at each position.
    if bool((weights == weights[..., :1]).all()):
        summed: Tensor = (weights[..., 0].to(changes) @ changes.flatten(1)).unflatten(1, changes.shape[1:])
    else:
        summed = torch.einsum("srtd,nst->nrtd", changes, weights.to(changes))
    return summed
