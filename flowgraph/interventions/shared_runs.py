"""Many runs of shown parts at once, computing only what is shown, and that only once.

The stream of every run is the counterfactual's and a change. A layer changes it where parts are shown: so attention runs for rows with
a shown term, and an MLP for positions at which it is shown. Rows that show the same parts up to some layer have the same change there,
and share it. What comes out is what :class:`flowgraph.interventions.part_runs.PartRuns` computes with hooks in whole passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models import LoadedModel
from ..models.anatomy import Anatomy, Block, Projection, fill, scaled, upcast
from ..models.eager import AttentionCall, asks_for_attention, eager_attention, watching
from .calls import Call
from .passes import logits_of_states

_TOKENS = 2048
"""Positions that go through an attention together."""


def can_share(anatomy: Anatomy) -> bool:
    """Whether runs can share what they have in common: every layer adds attention, then an MLP, and nothing else, to one stream."""
    return (
        anatomy.wiring in ("sequential", "parallel", "sandwich")
        and anatomy.cross is None
        and not anatomy.has_gaps
        and not anatomy.has_second_mlp
        and not anatomy.packings
        and all(
            block.turns is None
            and block.enters is None
            and block.windows is None
            and asks_for_attention(block.attention)
            for block in anatomy.blocks
        )
    )


def shared_sites(anatomy: Anatomy) -> tuple[str, ...]:
    """Sites of the counterfactual run that shared runs need, beside those of the parts."""
    middle = () if anatomy.wiring == "parallel" else ("resid_mid",)
    post = ("attn_sum", "attn_out") if anatomy.wiring == "sandwich" else ()
    return ("resid_pre", *middle, *post)


@dataclass(frozen=True, eq=False)
class Attended:
    """What entered the attention of counterfactual runs, [pair, …], and how its pattern is made of queries and keys.

    Queries of ``pattern`` begin at the first position that differs. ``scale`` is None where the pattern cannot be made again.
    """

    key: Tensor
    value: Tensor
    pattern: Tensor
    scale: float | None
    softcap: float | None

    def of(self, pair: slice | Tensor) -> Attended:
        """The same of some pairs."""
        return replace(self, key=self.key[pair], value=self.value[pair], pattern=self.pattern[pair])

    def change(self, call: AttentionCall, shown: Tensor, *, strict: bool) -> Float[Tensor, "row position head d_value"]:
        """What terms bring to heads' outputs in a call, less what they bring in the counterfactual run.

        ``shown`` is [row, head, position, source]: truth values, or numbers between 0 and 1.
        """
        assert call.pattern is not None
        first = call.query.shape[2] - shown.shape[2]
        pattern, theirs = upcast(call.pattern[:, :, first:]), upcast(self.pattern)
        gate = shown.to(theirs.dtype)
        if strict and self.scale is not None:
            rows = torch.arange(first, call.query.shape[2], device=shown.device)
            live, other = call.products(call.key, rows), call.products(self.key, rows)
            # As a number between 0 and 1 the gate moves scores, so that a gradient sees what a key brings.
            is_exact = shown.dtype == torch.bool
            scores = torch.where(shown, live, other) if is_exact else other + gate * (live - other)
            pattern = call.pattern_of(scores, self.scale, self.softcap, rows)
        return _read(gate * pattern, call.value) - _read(gate * theirs, self.value)


@dataclass(frozen=True, eq=False)
class SharedLayer:
    """A layer of the counterfactual run of one pair, from the first position that differs on; ``before`` are the states before it."""

    before: Float[Tensor, "before d_model"]
    entering: Float[Tensor, "position d_model"]
    middle: Float[Tensor, "position d_model"]
    attn_sum: Float[Tensor, "position d_model"] | None
    attn_out: Float[Tensor, "position d_model"] | None
    mlp: Float[Tensor, "position d_model"]
    attended: Attended


class SharedRuns:
    """Runs beside one counterfactual.

    Parameters
    ----------
    loaded
        The model.
    layers
        The counterfactual run.
    calls
        Layer → the arguments of its attention in a run of the prompt.
    start
        [position, d_model] the prompt's states that enter the first block less the counterfactual's.
    last
        [d_model] the counterfactual's last state at the explained position.
    at
        The explained position, counted from the first that differs.
    strict
        Whether sources that are not shown keep the counterfactual's keys.
    """

    def __init__(
        self, loaded: LoadedModel, layers: Sequence[SharedLayer], calls: Mapping[int, Call], *, start: Tensor, last: Tensor,
        at: int, strict: bool,
    ) -> None:  # fmt: skip
        self.loaded, self.layers, self.calls = loaded, layers, calls
        self.start, self.last, self.at, self.strict = start, last, at, strict

    @torch.no_grad()
    def of(
        self, terms: Bool[Tensor, "row layer head position source"], mlps: Bool[Tensor, "row layer position"]
    ) -> Float[Tensor, "row d_vocab"]:
        """[row, d_vocab] logits with the terms and MLPs of each row shown."""
        anatomy = self.loaded.anatomy
        terms, mlps = terms.cpu(), mlps.cpu()
        has_terms, has_mlps = terms.flatten(2).any(2), mlps.any(2)
        change, group = self.start[None], [0] * len(terms)
        with self.loaded.lock, eager_attention(anatomy.model):
            for layer in range(len(self.layers)):
                # In a parallel block the MLP reads the state that attention read.
                read = change
                if bool(has_terms[:, layer].any()):
                    split = _split(group, terms[:, layer], has_terms[:, layer])
                    read, change = change[split.parents], self._attended(layer, change, split)
                    group = split.group
                if bool(has_mlps[:, layer].any()):
                    split = _split(group, mlps[:, layer], has_mlps[:, layer])
                    read = read if anatomy.wiring == "parallel" else change
                    change = self._through_mlp(layer, change, read, split)
                    group = split.group
        ends = self.last + change[group, self.at]
        return logits_of_states(self.loaded, ends.to(anatomy.dtype))

    def _attended(self, layer: int, change: Tensor, split: _Split) -> Float[Tensor, "group position d_model"]:
        """The changes of groups with what their terms add."""
        made = change[split.parents]
        wanted = split.shown.flatten(1).any(1).nonzero()[:, 0].tolist()
        # Rows that differ in the terms of this layer read the same queries, keys and values.
        readers = sorted({split.parents[n] for n in wanted})
        place = {parent: n for n, parent in enumerate(readers)}
        n_tokens = self.layers[layer].attended.key.shape[-2]
        step = max(1, _TOKENS // n_tokens)
        for start in range(0, len(readers), step):
            part = readers[start : start + step]
            inside = [n for n in wanted if split.parents[n] in part]
            call = self._call(layer, change[part])
            rows = torch.tensor([place[split.parents[n]] - start for n in inside], device=change.device)
            for some in range(0, len(inside), step):
                chosen = slice(some, some + step)
                shown = split.shown[inside[chosen]].to(change.device)
                made[inside[chosen]] += self._written(layer, _of_rows(call, rows[chosen]), shown)
        return made

    def _call(self, layer: int, change: Float[Tensor, "row position d_model"]) -> AttentionCall:
        """The call of a layer's attention function for states with these changes."""
        block, theirs = self.loaded.anatomy.blocks[layer], self.layers[layer]
        states = torch.cat([theirs.before.expand(len(change), -1, -1), theirs.entering + change], 1)
        seen: list[AttentionCall] = []
        with watching({block.attention: seen.append}):
            prompt = torch.zeros(len(change), dtype=torch.long, device="cpu")
            self.calls[layer].run(block.attention, block.attention_norm(states.to(self.loaded.anatomy.dtype)), prompt)
        return seen[0]

    def _written(
        self, layer: int, call: AttentionCall, shown: Bool[Tensor, "row head position source"]
    ) -> Float[Tensor, "row position d_model"]:
        """What the shown terms of a layer add, less what they add in the counterfactual run."""
        anatomy, theirs = self.loaded.anatomy, self.layers[layer]
        block = anatomy.blocks[layer]
        z = fill(theirs.attended.change(call, shown, strict=self.strict), anatomy.d_value).flatten(2)
        output, post = block.output_projection, block.attention_post_norm
        if post is None:
            return z @ output.weight
        assert theirs.attn_sum is not None
        assert theirs.attn_out is not None
        summed = theirs.attn_sum + z @ replace(output, factor=1.0).weight
        return upcast(scaled(post(summed.to(anatomy.dtype)), output.factor)) - theirs.attn_out

    def _through_mlp(
        self, layer: int, change: Tensor, read_by_mlp: Tensor, split: _Split
    ) -> Float[Tensor, "group position d_model"]:
        """The changes of groups with what their MLPs add."""
        theirs, block = self.layers[layer], self.loaded.anatomy.blocks[layer]
        made = change[split.parents]
        child, position = (one.to(change.device) for one in split.shown.nonzero().T)
        parent = torch.tensor(split.parents, device=change.device)[child]
        n = change.shape[1]
        places, alike = torch.unique(parent * n + position, return_inverse=True)
        at = places % n
        states = theirs.middle[at] + read_by_mlp[places // n, at]
        added = upcast(_mlp(block, states.to(self.loaded.anatomy.dtype)[None])[0]) - theirs.mlp[at]
        made[child, position] += added[alike]
        return made


@dataclass(frozen=True, eq=False)
class _Split:
    """Groups after rows of one group may have come to differ: each row's group, each group's parent, and what the group shows."""

    group: list[int]
    parents: list[int]
    shown: Tensor


def _split(group: Sequence[int], masks: Tensor, some: Tensor) -> _Split:
    """Groups of rows that were in one group and have the same mask."""
    known: dict[tuple[int, bytes], int] = {}
    found: list[int] = []
    parents: list[int] = []
    rows: list[int] = []
    for row, (parent, any_shown) in enumerate(zip(group, some.tolist(), strict=True)):
        key = (parent, masks[row].numpy().tobytes() if any_shown else b"")
        if key not in known:
            known[key] = len(parents)
            parents.append(parent)
            rows.append(row)
        found.append(known[key])
    return _Split(found, parents, masks[rows])


def _of_rows(call: AttentionCall, rows: Int[Tensor, "row"]) -> AttentionCall:
    """A call for some of its rows, each as often as it is named."""
    count = len(call.query)

    def chosen(x: Tensor | None) -> Tensor | None:
        return x[rows] if isinstance(x, Tensor) and x.ndim > 2 and len(x) == count and count > 1 else x

    bias = call.options.get("position_bias")
    return replace(
        call, query=call.query[rows], key=call.key[rows], value=call.value[rows], mask=chosen(call.mask),
        pattern=None if call.pattern is None else call.pattern[rows],
        options={**call.options, "position_bias": chosen(bias)} if isinstance(bias, Tensor) else call.options,
    )  # fmt: skip


def _read(weights: Tensor, value: Tensor) -> Float[Tensor, "row query_pos head d_value"]:
    """Σ over sources of weight · value."""
    return (weights @ upcast(value).repeat_interleave(weights.shape[1] // value.shape[1], 1)).transpose(1, 2)


def _mlp(block: Block, states: Float[Tensor, "1 place d_model"]) -> Float[Tensor, "1 place d_model"]:
    """What an MLP adds to the stream, from the states that it reads, by the model's own modules."""
    x = block.mlp_norm(states)
    if block.mlp_output is None:
        assert block.mlp is not None
        made = block.mlp(x)
        out = made[0] if isinstance(made, tuple) else made
    else:
        layers = block.neuron_layers
        gate = None if layers.gate is None else _part(layers.gate, x)
        out = layers.output.module(block.neurons(gate, _part(layers.input, x)))
    out = out.view(states.shape)
    return scaled(out if block.mlp_post_norm is None else block.mlp_post_norm(out), block.mlp_factor)


def _part(projection: Projection, x: Tensor) -> Tensor:
    made: Tensor = projection.module(x)
    return made[..., slice(*projection.columns)]
