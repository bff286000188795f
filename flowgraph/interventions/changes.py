"""The edits of a pass that put a plan into effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError
from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.forward import Feed
from ..values.node import Node
from .edges import PatternEdit
from .network import LAST, Kept, Network
from .passes import Pass
from .plan import Plan, edge_network_of, place_of
from .senders import Changed, Paths, keep_senders, written
from .ticks import Tick


@dataclass(frozen=True, eq=False)
class Reference:
    """The values that replace changed ones: zeros, another run's values, or their mean over a set of runs.

    Attributes
    ----------
    kept
        Sites of the other run; None for nothing, as in zero ablation.
    mean
        Whether its rows are averaged.
    places
        [position] the position of the other run that replaces each; −1 where there is none: that position does not change.
    stacks
        Name → the same of another stack.
    """

    kept: Kept | None
    mean: bool
    places: Sequence[int]
    stacks: Mapping[str, Reference] = field(default_factory=dict)

    def __call__(self, site: str, layer: int, like: Tensor) -> Float[Tensor, "#row position *rest"]:
        """[row or 1, position, …] the values of a site."""
        if self.kept is None:
            return torch.zeros_like(like[:1])
        return self.averaged(self.kept[site, layer])[:, self._index(like.device)]

    def senders(self, network: Network) -> Changed | None:
        """Output of every sender, by tower; None for zero ablation."""
        if self.kept is None:
            return None
        of = {LAST: self, **self.stacks}
        outputs = written(network, {name: of[name].kept or {} for name in network.towers})
        return {
            name: (made.mean(1, keepdim=True) if self.mean else made)[:, :, of[name]._index(made.device)]
            for name, made in outputs.items()
        }

    def averaged(self, x: Tensor) -> Tensor:
        """The values; if ``mean`` is set, their average over rows in at least float32."""
        return upcast(x).mean(0, keepdim=True).to(x.dtype) if self.mean else x

    def valid(self, device: torch.device) -> Tensor:
        """[position] whether there is a counterpart."""
        return torch.tensor([place >= 0 for place in self.places], device=device)

    def _index(self, device: torch.device) -> Int[Tensor, "position"]:
        return torch.tensor([max(place, 0) for place in self.places], device=device)


def recorded(loaded: LoadedModel, feed: Feed, plan: Plan, *, tick: Tick | None = None) -> tuple[Kept, Tensor]:
    """Run prompts; returns the sites that the plan needs, and the last states."""
    run = Pass(loaded, len(next(iter(feed.values()))), tick=tick)
    for site, layers in plan.sites().items():
        run.keep((site,), sorted(layers))
    for name, other in plan.stacks.items():
        for site, layers in other.sites().items():
            run.stacks[name].keep((site,), sorted(layers))
    if plan.cuts:
        keep_senders(run, edge_network_of(plan))
    states = run.run(feed)
    return run.kept | {
        (f"{name}.{site}", layer): value
        for name, other in run.stacks.items()
        for (site, layer), value in other.kept.items()
    }, states


def reference_of(kept: Kept, mean: bool, places: Sequence[int], source: Sequence[int], plan: Plan) -> Reference:
    """What :func:`recorded` kept as the values that replace others, by the positions of each stack."""
    stacks = {
        name: Reference(
            {(site.removeprefix(f"{name}."), layer): value for (site, layer), value in kept.items() if site.startswith(f"{name}.")},
            mean, source,
        )
        for name in plan.stacks
    }  # fmt: skip
    return Reference(kept, mean, places, stacks)


def changed(loaded: LoadedModel, feed: Feed, plan: Plan, reference: Reference, *, tick: Tick | None = None) -> Tensor:
    """The last states of a run with the changes of a plan."""
    run = Pass(loaded, len(next(iter(feed.values()))), tick=tick)
    install(run, plan, reference)
    return run.run(feed)


def install(run: Pass, plan: Plan, reference: Reference) -> None:
    """Add the edits of a plan to a pass: patterns before terms, terms before heads, nodes before edges."""
    for name, other in plan.stacks.items():
        install(run.stacks[name], other, reference.stacks.get(name, Reference(None, False, range(other.n_tokens))))
    device = run.anatomy.device
    valid = reference.valid(device)
    uneven = not bool(valid.all())
    if reference.kept is not None:
        read = (reference.kept["cross_pattern", layer] for layer in plan.crossing_patterns)
        uneven = uneven or any(pattern.shape[-1] != plan.n_source for pattern in read)
    if plan.cuts:
        uneven = uneven or any(not bool(one.valid(device).all()) for one in reference.stacks.values())
    if uneven and (plan.terms or plan.patterns or plan.crossing_patterns or plan.cuts):
        raise ArgumentError(
            "the prompts differ in length: only nodes can be changed across aligned prompts, as patterns and edges have no "
            "counterpart at every position; make the prompts equally long"
        )
    for position in plan.named:
        if not bool(valid[position]):
            raise ArgumentError(
                f"the other prompt has no position that stands for {position}; align otherwise, or take another position"
            )
    # Edits of one site run in the order in which they are added, so this order matters.
    for layer, edits in plan.patterns.items():
        # A pattern exists only after z, so the layer's attention runs once before; z is then shifted by what the edited
        # pattern adds.
        run.probe(layer)
        run.edit("z", layer, partial(_pattern_edited, run, "", layer, edits, reference))
    for layer, edits in plan.crossing_patterns.items():
        run.probe(layer, "cross_")
        run.edit("cross_z", layer, partial(_pattern_edited, run, "cross_", layer, edits, reference))
    for layer, terms in plan.terms.items():
        run.probe(layer)
        run.edit("z", layer, partial(_terms_replaced, run, layer, terms.to(device), reference))
    for layer in plan.heads.flatten(1).any(1).nonzero()[:, 0].tolist():
        mask = (plan.heads[layer].T.to(device) & valid[:, None]).repeat_interleave(run.anatomy.d_value, 1)
        run.edit("z", layer, partial(_replaced, reference, "z", layer, mask))
    crossing = [] if plan.crossing is None else plan.crossing.flatten(1).any(1).nonzero()[:, 0].tolist()
    for layer in crossing:
        assert plan.crossing is not None
        width = run.anatomy.reader_of_encoder.d_value
        mask = (plan.crossing[layer].T.to(device) & valid[:, None]).repeat_interleave(width, 1)
        run.edit("cross_z", layer, partial(_replaced, reference, "cross_z", layer, mask))
    for layer in plan.mlps.any(1).nonzero()[:, 0].tolist():
        mask = (plan.mlps[layer].to(device) & valid)[:, None]
        run.edit("mlp_out", layer, partial(_replaced, reference, "mlp_out", layer, mask))
    for node in plan.others:
        site, layer = place_of(node)
        run.edit(site, layer, partial(_node_replaced, reference, node, valid))
    if plan.cuts:
        network = edge_network_of(plan)
        paths = Paths(run, network, reference.senders(network))
        for (reader, receiver), senders in plan.cuts.items():
            paths.cut(reader, receiver, senders.to(device))
        paths.install()


def _replaced(reference: Reference, site: str, layer: int, mask: Tensor, x: Tensor) -> Tensor:
    return torch.where(mask, reference(site, layer, x), x)


def _node_replaced(reference: Reference, node: Node, valid: Tensor, x: Tensor) -> Tensor:
    site, layer = place_of(node)
    rows = valid.clone() if node.position is None else torch.zeros_like(valid)
    if node.position is not None:
        rows[node.position] = True
    mask = rows[:, None]
    if node.kind == "neuron":
        mask = mask & (torch.arange(x.shape[-1], device=x.device) == node.index)
    return torch.where(mask, reference(site, layer, x), x)


def _terms_replaced(run: Pass, layer: int, terms: Tensor, reference: Reference, z: Tensor) -> Tensor:
    # z is shifted, not made anew: terms that stay keep the digits of the model's own attention.
    change = -_mixed(run.kept["pattern", layer] * terms, run.kept["v", layer])
    if reference.kept is not None:
        theirs = _mixed(reference.kept["pattern", layer] * terms, reference.kept["v", layer])
        change = change + reference.averaged(theirs)
    return z + change


def _pattern_edited(
    run: Pass, prefix: str, layer: int, edits: list[PatternEdit], reference: Reference, z: Tensor
) -> Tensor:
    before = run.kept[f"{prefix}pattern", layer]
    after = before.clone()
    for edit in edits:
        mask = torch.zeros_like(before[0], dtype=torch.bool)
        places = (edit.head, edit.query_pos, edit.key_pos)
        mask[tuple(slice(None) if place is None else place for place in places)] = True
        new = before.new_full((), edit.value or 0.0)
        if edit.value is None and reference.kept is not None:
            new = reference.averaged(reference.kept[f"{prefix}pattern", layer])
        elif edit.value and None in places:
            # Whole rows and columns cover what the model's mask hides: that stays hidden.
            mask = mask & (before > 0)
        replaced = torch.where(mask, new, after)
        after = _renormalised(edit, after, replaced, mask) if edit.renormalise else replaced
    return z + _mixed(after - before, run.kept[f"{prefix}v", layer])


def _renormalised(edit: PatternEdit, before: Tensor, after: Tensor, mask: Tensor) -> Tensor:
    """Scale each row back to its earlier sum: new entries stay, the others are scaled."""
    changed = torch.where(mask, after, 0.0).sum(-1, keepdim=True)
    rest = torch.where(mask, 0.0, after).sum(-1, keepdim=True)
    wanted = before.sum(-1, keepdim=True) - changed
    touched = mask.any(-1, keepdim=True)
    # 1e-6: the row sums to 1 up to rounding of 32 bits.
    if bool((touched & (rest <= 0) & (wanted.abs() > 1e-6)).any()):
        raise ArgumentError(
            f"{edit}: nothing else is attended to in one of its rows, so the row cannot keep its sum; say renormalise=False"
        )
    # Where the rest is 0 the factor is not used; the smallest number keeps the division from giving NaN there.
    factor = torch.where(rest > 0, wanted.clamp(min=0) / rest.clamp(min=torch.finfo(rest.dtype).tiny), 1.0)
    return torch.where(mask | ~touched, after, after * factor)


def _mixed(
    pattern: Float[Tensor, "row head query_pos key_pos"],
    values: Float[Tensor, "row key_pos kv d_head"],
) -> Float[Tensor, "row query_pos width"]:
    """Σ over sources of pattern · value, as z: heads side by side."""
    # Layers may differ in the number of their keys and values.
    by_head = values.transpose(1, 2).repeat_interleave(pattern.shape[1] // values.shape[2], 1)
    return (pattern.to(by_head.dtype) @ by_head).transpose(1, 2).flatten(2)
