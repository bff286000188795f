"""One forward pass through plain hooks: the tensors of every site, copied once into their final place.

One rule serves every family: z is the input of the attention's output projection, and the neurons are the input of the MLP's
output projection. Queries and keys are taken where they enter the library's attention function, the pattern where it leaves it.
If a module computes attention by its own code, the pattern is the module's output, and queries and keys are its projections,
rotated as the row says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import NoPatternError
from .anatomy import Anatomy, Block, Norm, counting, fill, scale_of_size, scaled
from .eager import AttentionCall, Watch, asks_for_attention, eager_attention, watching
from .hooks import after, before, on_call, on_result, only_while
from .memory import empty_buffer
from .rotary import Angles, HandedAngles, rotate
from .softmax_capture import capturing
from .windows import over_all

SITES: tuple[str, ...] = (
    "resid_pre", "resid_mid", "resid_post", "pattern", "q", "k", "q_proj", "k_proj", "v", "z", "z_gate",
    "attn_out", "mixer_out", "mlp_out", "neurons", "norm_scales", "rotary",
    "resid_cross", "cross_pattern", "cross_q", "cross_k", "cross_v", "cross_z", "cross_out",
)  # fmt: skip
"""Names of the sites that a trace can keep, per layer."""

Feed = Mapping[str, Tensor]
"""Name of an argument of the model → tensor: ``input_ids`` [row, position], and where there are any ``token_type_ids`` and
``position_ids`` of the same shape; of a model of images or sound its one argument, such as ``pixel_values``."""

_CROSS = {
    "cross_pattern": "pattern", "cross_q": "q", "cross_k": "k", "cross_v": "v", "cross_z": "z", "cross_out": "attn_out",
    "norm_scales.cross": "norm_scales.attention", "norm_scales.cross_post": "norm_scales.attention_post",
}  # fmt: skip
"""Site of the attention to another stack → its name among the sites of one attention alone."""
_ABSENT = Norm(nn.Identity(), "none")
_BY_HEAD = ("q", "k", "q_proj", "k_proj", "v", "z", "z_gate", "norm_scales.query", "norm_scales.key")


@dataclass
class Pass:
    """Results of one forward pass.

    Attributes
    ----------
    sites
        Site name → [layer, …] tensor over the window of layers; norm scales as ``"norm_scales.attention"`` … [layer,
        position], and ``"norm_scales.query"``/``"norm_scales.key"`` [layer, head, position]; angles of rotary embedding as
        ``"rotary.cos"`` and ``"rotary.sin"`` [layer, position, rotated dimensions].
    final_scale
        [position] scale of the final norm; None where there is no final norm.
    position_embedding
        [position, d_model]; None where positions are not learned vectors.
    logits
        [position, d_vocab], or [d_vocab] of the one position asked for; None without a head.
    was_watched
        Whether the library's attention function was called.
    pattern_errors
        Row of the window → error of its pattern against the scores that were given, where scores have a bias or a sink.
    output_errors
        Row of the window → error of what heads give against pattern · v, where outputs are not kept.
    cross
        The same of the blocks' attention to another stack, its sites under the names that they have for one attention; None without.
    sources
        Name → pass of each stack that is read by it.
    """

    sites: dict[str, Tensor] = field(default_factory=dict)
    final_scale: Tensor | None = None
    position_embedding: Tensor | None = None
    logits: Tensor | None = None
    was_watched: bool = False
    pattern_errors: dict[int, Tensor] = field(default_factory=dict)
    output_errors: dict[int, Tensor] = field(default_factory=dict)
    cross: Pass | None = None
    sources: dict[str, Pass] = field(default_factory=dict)


def watch_of(several: Sequence[tuple[Block, Watch]]) -> Watch:
    """One watch for the layers that share an attention module: that of the layer that runs."""

    def watch(call: AttentionCall) -> None:
        for block, own in several:
            if block.is_running():
                own(call)

    return several[0][1] if len(several) == 1 and several[0][0].turns is None else watch


_MOST_POSITIONS = 32
"""Positions that checks of every pass look at, so that their cost stays small beside the pass, whatever the length."""


def spread(n_tokens: int, device: torch.device) -> Int[Tensor, "row"]:
    """Positions spread over the prompt, the last among them; all of a short prompt."""
    if n_tokens <= _MOST_POSITIONS:
        return torch.arange(n_tokens, device=device)
    return torch.linspace(0, n_tokens - 1, _MOST_POSITIONS, dtype=torch.float64, device="cpu").long().to(device)


def given_sites(anatomy: Anatomy, sites: frozenset[str]) -> frozenset[str]:
    """Those of some sites that the model has: neurons, and projected queries and keys, are not in every model."""
    if anatomy.level == "patterns":
        return sites & ({"pattern"} if anatomy.stack.uneven else {"pattern", "q", "k", "v"})
    absent = set() if anatomy.has_neurons else {"neurons"}
    absent |= set() if anatomy.cross is not None else {*_CROSS, "resid_cross"}
    absent |= set() if anatomy.has_mixers else {"mixer_out"}
    absent |= set() if anatomy.is_gated else {"z_gate"}
    if not anatomy.has_projections:
        absent |= {"q_proj", "k_proj", "rotary"}
    return sites - absent


def site_shapes(
    anatomy: Anatomy, n_tokens: int, sites: frozenset[str], *, layers: range, n_source: int = 0
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a pass keeps; tensors that share memory are counted once.

    Parameters
    ----------
    anatomy
        The model's parts.
    n_tokens
        T, length of the prompt in tokens.
    sites
        Names from :data:`SITES`.
    layers
        Window of layers.
    n_source
        Number of positions of the other stack, where one is read.
    """
    n, t, d = len(layers), n_tokens, anatomy.d_model
    query, key = (anatomy.n_heads, t, anatomy.d_head), (anatomy.n_kv_heads, t, anatomy.d_head)
    value, z = (anatomy.n_kv_heads, t, anatomy.d_value), (anatomy.n_heads, t, anatomy.d_value)
    block = anatomy.blocks[0]
    sites = given_sites(anatomy, sites)
    shapes: dict[str, tuple[int, ...]] = {}
    states = n * bool(sites & {"resid_pre", "resid_post"}) + ({"resid_pre", "resid_post"} <= sites)
    if states:
        shapes["resid"] = (states, t, d)
    for site, shape in {
        "pattern": (anatomy.n_heads, t, t),
        "q_proj": query, "k_proj": key, "v": value, "z": z, "z_gate": z,
        "attn_out": (t, d), "mixer_out": (t, d), "mlp_out": (t, d), "neurons": (t, anatomy.mlp_width),
    }.items():  # fmt: skip
        if site in sites:
            shapes[site] = (n, *shape)
    cross_key, cross_value = (
        (anatomy.n_kv_heads, n_source, anatomy.d_head),
        (anatomy.n_kv_heads, n_source, anatomy.d_value),
    )
    for site, shape in {
        "resid_cross": (t, d), "cross_pattern": (anatomy.n_heads, t, n_source), "cross_q": query, "cross_k": cross_key,
        "cross_v": cross_value, "cross_z": z, "cross_out": (t, d),
    }.items():  # fmt: skip
        if site in sites:
            shapes[site] = (n, *shape)
    if "resid_mid" in sites and anatomy.wiring != "parallel":
        shapes["resid_mid"] = (n, t, d)
    for site, shape, norm in (("q", query, block.query_norm), ("k", key, block.key_norm)):
        if site in sites and (f"{site}_proj" not in sites or _is_transformed(anatomy, norm)):
            shapes[site] = (n, *shape)
    return shapes


def run(
    anatomy: Anatomy,
    feed: Feed,
    *,
    sites: frozenset[str],
    layers: range,
    logits_at: int | None,
) -> Pass:
    """One forward pass of one prompt that keeps ``sites`` of ``layers``.

    Parameters
    ----------
    anatomy
        The model's parts.
    feed
        The model's arguments, a batch of one.
    sites, layers
        Names from :data:`SITES`, and the window of layers they are kept of.
    logits_at
        The position whose logits are wanted; None for all of them.

    Raises
    ------
    NoPatternError
        If patterns are wanted and an attention module does not return them.
    """
    recorder, cross = _recorders(anatomy, sites, layers)
    sources = {name: _recorders(one, sites, range(len(one.blocks))) for name, one in anatomy.sources.items()}
    every = [one for pair in ((recorder, cross), *sources.values()) for one in pair if one is not None]
    options: dict[str, Any] = {"use_cache": False} if anatomy.causal else {}
    reads_one = anatomy.readout is None and cross is None
    if anatomy.has_head and reads_one and anatomy.causal and logits_at == feed["input_ids"].shape[1] - 1:
        # The head of a decoder is then applied to one row only.
        options["logits_to_keep"] = 1
    # A trace made in inference mode can be used outside of it as well.
    # Tensors made in inference mode could not be used in later computations outside of it.
    with torch.inference_mode(mode=False), torch.no_grad(), eager_attention(anatomy.model), ExitStack() as hooks:
        for one in every:
            for handle in one.hooks():
                hooks.callback(handle.remove)
        captured = _watches([one for one in every if not one.asks])
        if captured:
            hooks.enter_context(capturing(captured))
        with watching(_watches([one for one in every if one.asks])):
            output = anatomy.model(**feed, **options)
    if anatomy.has_head:
        rows = output.logits[0].detach()
    if anatomy.readout is not None:
        recorder.result.logits = rows.clone()
    elif anatomy.has_head:
        # A copy of one row: a view would keep the logits of all positions alive.
        recorder.result.logits = rows if logits_at is None else rows[-1 if len(rows) == 1 else logits_at].clone()
    result = _finished(recorder, cross)
    result.sources = {name: _finished(*pair) for name, pair in sources.items()}
    return result


def _recorders(anatomy: Anatomy, sites: frozenset[str], layers: range) -> tuple[_Recorder, _Recorder | None]:
    """What records a stack, and what records its attention to another one; None where there is none."""
    recorder = _Recorder(anatomy, sites, layers)
    if anatomy.cross is None:
        return recorder, None
    own = {_CROSS[name] for name in sites & _CROSS.keys()} | (sites & {"norm_scales"})
    return recorder, _Recorder(anatomy.cross, frozenset(own), layers, alone=True)


def _watches(recorders: Sequence[_Recorder]) -> dict[nn.Module, Watch]:
    """Watches of all recorders, by attention module, which two of them may share."""
    watches: dict[nn.Module, list[tuple[Block, Watch]]] = {}
    for one in recorders:
        for module, several in one.watches().items():
            watches.setdefault(module, []).extend(several)
    return {module: watch_of(several) for module, several in watches.items()}


def _finished(recorder: _Recorder, cross: _Recorder | None) -> Pass:
    """The pass of a stack with the sites of its attention to another one."""
    result = recorder.finished()
    if cross is not None:
        result.cross = cross.finished()
        found = result.cross.sites
        result.sites |= {name: found[own] for name, own in _CROSS.items() if own in found}
    return result


class _Recorder:
    """Hooks that copy tensors of a pass into preallocated ones, one per site.

    A hook does as little as it can, because each operation in it runs on a cold cache. It copies rows of heads in the order
    that the model has, [position, head, …], and takes only the size of a norm's input. :meth:`finished` does the rest for
    many layers at once.
    """

    def __init__(self, anatomy: Anatomy, sites: frozenset[str], layers: range, *, alone: bool = False) -> None:
        self.anatomy, self.alone = anatomy, alone
        self.sites = sites = given_sites(anatomy, sites)
        self.layers = layers
        self.result = Pass()
        self.places: dict[str, tuple[Tensor, ...]] = {}
        self.norms: dict[str, dict[int, Norm]] = {}
        self.ungated: dict[int, Tensor] = {}
        self.has_rotary = anatomy.stack.attention.rotary != "none"
        does_not_attend = any(block.attention is None for block in anatomy.blocks)
        self.has_gaps = does_not_attend if alone else anatomy.has_gaps or anatomy.has_second_mlp
        # Without projections, what enters the attention function is all that is known of queries, keys and values.
        self.all_given = alone or not anatomy.has_projections
        self.asks = all(asks_for_attention(anatomy.blocks[layer].attention) for layer in anatomy.attending)
        # Modules with attention code of their own are looked at from inside where their row was found by search.
        self.is_given = self.asks or anatomy.is_found or anatomy.stack.attention.followed
        self.angles = HandedAngles(interleaved=anatomy.stack.attention.rotary == "interleaved")

    def watches(self) -> dict[nn.Module, list[tuple[Block, Watch]]]:
        """Watches on the calls of the library's attention function, by attention module, each with the layer that it is for."""
        seen = {"q", "k", "pattern", "rotary", "z_gate"} | ({"v"} if self.all_given else set())
        if not (self.is_given and self.sites & seen):
            return {}
        attends = [(row, self.anatomy.blocks[layer]) for row, layer in enumerate(self.layers)]
        watches: dict[nn.Module, list[tuple[Block, Watch]]] = {}
        for row, block in attends:
            if block.attention is not None:
                watch: Watch = partial(self._store_call, row)
                watch = watch if block.windows is None else over_all(watch, block.windows)
                watches.setdefault(block.attention, []).append((block, watch))
        return watches

    def hooks(self) -> Iterator[Any]:
        """Register every hook that the wanted sites need."""
        yield from counting(self.anatomy)
        if self.anatomy.level == "patterns":
            return
        for row, layer in enumerate(self.layers):
            block = self.anatomy.blocks[layer]
            with only_while(block.is_running):
                handles = list(self._block_hooks(row, block))
            yield from handles
        if self.alone:
            return
        if self.layers.stop == len(self.anatomy.blocks) and self.anatomy.final_norm is not None:
            final = self.anatomy.final_norm
            yield before(final.module, lambda x: setattr(self.result, "final_scale", final.scale(_rows(x))))
        if self.anatomy.position_embedding is not None:
            yield after(
                self.anatomy.position_embedding,
                lambda x: setattr(self.result, "position_embedding", _rows(x).detach().clone()),
            )

    def finished(self) -> Pass:
        """The pass, with its sites under their names and axes in their order."""
        sites = self.result.sites
        if self.has_gaps:
            self._add_empty()
        if (
            self.is_given
            and not set(self.layers).isdisjoint(self.anatomy.attending)
            and self.sites & {"q", "k", "pattern"}
            and not self.result.was_watched
        ):
            raise NoPatternError(
                f"{type(self.anatomy.blocks[0].attention).__name__} did not ask for an attention function in this pass, so "
                "its patterns, queries and keys were not seen; leave them out of keep="
            )
        # A trace keeps sizes while the model runs; roots of all layers are taken at once here.
        for name, norms in self.norms.items():
            width = self.anatomy.d_head if name in _BY_HEAD else self.anatomy.d_model
            each = [norms.get(row, _ABSENT) for row in range(len(self.layers))]
            sites[name] = scale_of_size(sites[name], each, width)
        angles = self._angles()
        for site in [name for name in ("q", "k") if name in self.sites]:
            if site not in sites:
                sites[site] = sites[f"{site}_proj"]
            if self.has_rotary and not self.is_given:
                self._rotate(site, angles)
        if "rotary" in self.sites and angles:
            for part, name in enumerate(("rotary.cos", "rotary.sin")):
                # A layer that does not attend turns nothing; the first angles stand in its place.
                found = dict(zip(self.angles.rows, angles, strict=True))
                whole = [found.get(row, angles[0])[part][:, 0] for row in range(len(self.layers))]
                sites[name] = _one_or_all(whole)
        for name in _BY_HEAD:
            if name in sites:
                sites[name] = sites[name].transpose(1, 2)
        if "resid" in sites:
            states = sites.pop("resid")
            sites["resid_pre"], sites["resid_post"] = states[:-1], states[1:]
        return self.result

    def _add_empty(self) -> None:
        """Zeros for sites that no layer of the window gives: of attention, or of the MLP, where there is none."""
        like = next(
            (x for name, x in self.result.sites.items() if name.startswith(("resid", "mixer", "attn", "mlp"))), None
        )
        shapes = site_shapes(self.anatomy, 0 if like is None else like.shape[1], self.sites, layers=self.layers)
        for site in ("pattern", "q", "k", "q_proj", "k_proj", "v", "z", "attn_out", "mixer_out", "mlp_out"):
            if site in shapes and like is not None and site not in self.result.sites:
                zeros = like.new_zeros(shapes[site])
                # Those of single heads are turned to [layer, head, position] at the end.
                self.result.sites[site] = zeros.transpose(1, 2) if site in _BY_HEAD else zeros

    def _block_hooks(self, row: int, block: Block) -> Iterator[Any]:
        yield from self._residual_hooks(row, block)
        yield from self._attention_hooks(row, block)
        if "neurons" in self.sites and block.mlp_output is not None:
            yield before(block.mlp_output.module, lambda x: self._store("neurons", row, _rows(x)))
        output = block.attention_output
        writers: tuple[tuple[str, nn.Module | None, float | Tensor, Norm | None], ...] = (
            (
                "attn_out",
                None if output is None else output.module,
                1.0 if output is None else output.factor,
                block.attention_post_norm,
            ),
            ("mixer_out", block.mixer, block.mixer_factor, block.attention_post_norm if output is None else None),
            ("mlp_out", block.mlp, block.mlp_factor, block.mlp_post_norm),
            ("mlp_out", block.mlp_beside, block.mlp_beside_factor, None),
        )
        for site, module, factor, post_norm in writers:
            if site in self.sites and module is not None:
                added = module if post_norm is None else post_norm.module
                joined: Callable[[Tensor], Tensor] = partial(scaled, factor=factor)
                if site == "attn_out" and output is not None and post_norm is None:
                    joined = output.joined
                yield after(added, partial(self._store_written, site, row, joined))
        if "norm_scales" in self.sites:
            yield from self._scale_hooks(row, block)

    def _residual_hooks(self, row: int, block: Block) -> Iterator[Any]:
        last = row == len(self.layers) - 1
        shared = {"resid_pre", "resid_post"} <= self.sites
        if "resid_pre" in self.sites:
            take, of = (before, block.module) if block.enters is None else (after, block.enters)
            yield take(of, lambda x: self._store_state("resid_pre", row, x, shared))
        if "resid_post" in self.sites and (last or not shared):
            yield after(block.leaves or block.module, lambda x: self._store_state("resid_post", row, x, shared))
        other, is_first = block.cross, self.anatomy.exchanges
        if "resid_cross" in self.sites and is_first:
            # The state after attention to the other stack; of a layer without it, the one that enters.
            with only_while(block.is_running if other is None else other.is_running):
                if other is not None:
                    yield after(other.attention_norm.module, lambda x: self._store("resid_cross", row, _rows(x)))
                elif block.enters is not None:
                    yield after(block.enters, lambda x: self._store("resid_cross", row, _rows(x)))
                else:
                    yield before(block.module, lambda x: self._store("resid_cross", row, _rows(x)))
        elif "resid_cross" in self.sites and other is not None:
            if self.anatomy.wiring == "post_norm":
                yield after(block.attention_norm.module, lambda x: self._store("resid_cross", row, _rows(x)))
            else:
                reads = other.attention if other.attention_norm.kind == "none" else other.attention_norm.module
                yield before(reads, lambda x: self._store("resid_cross", row, _rows(x)))
        if "resid_mid" in self.sites and self.anatomy.wiring != "parallel":
            if self.anatomy.wiring == "post_norm":
                last_norm = (block if other is None or is_first else other).attention_norm.module
                yield after(last_norm, lambda x: self._store("resid_mid", row, _rows(x)))
            else:
                reader = block.mlp_reader if block.mlp_norm.kind == "none" else block.mlp_norm.module
                # Without an MLP the state after attention is the one that leaves.
                hook = after if reader is None else before
                yield hook(reader or block.module, lambda x: self._store("resid_mid", row, _rows(x)))

    def _store_state(self, site: str, row: int, x: Tensor, shared: bool) -> None:
        """Keep a state; resid_post of a block and resid_pre of the next are the same rows of one tensor."""
        # One tensor with one state more than layers: each state is copied once instead of twice.
        if shared:
            self._store("resid", row + (site == "resid_post"), _rows(x), len(self.layers) + 1)
        else:
            self._store(site, row, _rows(x))

    def _attention_hooks(self, row: int, block: Block) -> Iterator[Any]:
        if block.attention_output is None:
            return
        if self.has_rotary and self.sites & {"q", "k", "rotary"}:
            yield on_call(block.attention, lambda module, _args, kwargs: self.angles.handed(row, module, kwargs))
        if not self.all_given and self.sites & {"q", "k", "q_proj", "k_proj", "v", "norm_scales", "rotary"}:
            if block.fused is not None:
                yield after(block.fused, lambda x: self._store_fused(row, block, x))
            else:
                assert block.query is not None
                assert block.key is not None
                assert block.value is not None
                yield after(block.query, lambda x: self._store_projected("q", row, block, self._heads(x)))
                yield after(block.key, lambda x: self._store_projected("k", row, block, self._heads(x)))
                if "v" in self.sites:
                    yield after(block.value, lambda x: self._store("v", row, self._heads(x)))
        if "z" in self.sites:
            yield before(
                block.attention_output.module, lambda x: self._store("z", row, self._filled(x, self.anatomy.d_value))
            )
        if "z_gate" in self.sites:
            yield before(block.attention_output.module, lambda x: self._store_gate(row, x))
        if "pattern" in self.sites and not self.is_given:
            yield on_result(block.attention, lambda module, _args, output: self._store_returned(row, module, output))

    def _heads(self, x: Float[Tensor, "*n d"], size: int | None = None) -> Float[Tensor, "position head d_head"]:
        # Some models count positions before rows, so that the last axis alone is known.
        size = size or self.anatomy.d_head
        return x.reshape(-1, x.shape[-1] // size, size)

    def _filled(self, x: Float[Tensor, "*n d"], size: int) -> Float[Tensor, "position head d_head"]:
        """All heads side by side, each filled up with zeros to the size that heads have in the layer where they are largest."""
        return fill(x.reshape(-1, self.anatomy.n_heads, x.shape[-1] // self.anatomy.n_heads), size)

    def _store_fused(self, row: int, block: Block, x: Tensor) -> None:
        heads = self._heads(x)
        n, g = self.anatomy.n_heads, self.anatomy.n_kv_heads
        if self.anatomy.stack.attention.fused_layout == "interleaved":
            query, key, value = heads[:, 0::3], heads[:, 1::3], heads[:, 2::3]
        else:
            query, key, value = heads[:, :n], heads[:, n : n + g], heads[:, n + g :]
        self._store_projected("q", row, block, query)
        self._store_projected("k", row, block, key)
        if "v" in self.sites:
            self._store("v", row, value)

    def _store_projected(self, site: str, row: int, block: Block, heads: Float[Tensor, "position head d_head"]) -> None:
        """Keep queries or keys as projected, and the values that link them to the input of the dot product."""
        norm = block.query_norm if site == "q" else block.key_norm
        if f"{site}_proj" in self.sites:
            self._store(f"{site}_proj", row, heads)
        if norm is not None and "norm_scales" in self.sites:
            self._store_scale("query" if site == "q" else "key", row, norm, heads)
        if not self.is_given and site in self.sites and self._is_apart(site, norm):
            self._store(site, row, heads if norm is None else norm.module(heads))
        if self.is_given and self.has_rotary and "rotary" in self.sites:
            # One head is enough to recognise the angles by.
            one = heads[:, :1]
            self.angles.before(site, row, one.clone() if norm is None else norm.module(one))

    def _store_gate(self, row: int, x: Tensor) -> None:
        """Keep what the heads' outputs were multiplied by; where an output is 0 its factor does not matter."""
        given = self.ungated.pop(row)
        self._store("z_gate", row, torch.where(given == 0, 0.0, self._filled(x, self.anatomy.d_value) / given))

    def _store_call(self, row: int, call: AttentionCall) -> None:
        """Keep the input of a block's attention function and the pattern that it gives."""
        self.result.was_watched = True
        block = self.anatomy.blocks[self.layers[row]]
        if "pattern" in self.sites:
            self._store_pattern(row, block.attention, call.pattern)
            attention = self.anatomy.stack.attention
            if self.anatomy.level == "patterns":
                # What the heads give is kept nowhere, so it is held against pattern and values while it is there.
                self.result.output_errors[row] = call.output_error()
            if attention.bias or attention.sinks:
                rows_seen = spread(call.query.shape[2], call.query.device)
                self.result.pattern_errors[row] = call.pattern_error(
                    block.scale, self.anatomy.attention_softcap, rows_seen
                )
        if "z_gate" in self.sites:
            self.ungated[row] = self._filled(call.output[0].flatten(-2), self.anatomy.d_value)
        if self.all_given and "v" in self.sites:
            self._store("v", row, fill(self._shared(call.value[0]).transpose(0, 1), self.anatomy.d_value))
        for site, heads, norm in (("q", call.query, block.query_norm), ("k", call.key, block.key_norm)):
            rows = (heads[0] if site == "q" else self._shared(heads[0])).transpose(0, 1)
            rows = fill(rows, self.anatomy.d_head)
            if site in self.sites and self._is_apart(site, norm):
                self._store(site, row, rows)
            if self.has_rotary and "rotary" in self.sites:
                self.angles.after(site, row, rows[:, :1].clone())

    def _shared(self, x: Float[Tensor, "kv_head position d"]) -> Float[Tensor, "most position d"]:
        """Keys or values as many times as the layer with the most of them has them."""
        times = self.anatomy.n_kv_heads // len(x)
        return x if times == 1 else x.repeat_interleave(times, 0)

    def _is_apart(self, site: str, norm: Norm | None) -> bool:
        """Whether queries or keys need tensors of their own beside the projected ones."""
        return f"{site}_proj" not in self.sites or _is_transformed(self.anatomy, norm)

    def _angles(self) -> list[Angles]:
        """Angles of each layer of the window; empty if they are not wanted, or if no angles explain the input of attention."""
        if not self.has_rotary or not self.sites & ({"rotary"} if self.is_given else {"q", "k", "rotary"}):
            return []
        return self.angles.recognised() if self.is_given else self.angles.taken()

    def _rotate(self, site: str, angles: list[Angles]) -> None:
        """Turn queries or keys into those that enter the dot product, for a module that computes attention itself."""
        # They are tensors of their own beside the projections, see _is_apart.
        heads = self.result.sites[site]
        for row, (cos, sin) in zip(self.angles.rows, angles, strict=True):
            rotate(heads[row].clone(), cos, sin, interleaved=self.angles.interleaved, out=heads[row])

    def _store_returned(self, row: int, module: nn.Module, output: Any) -> None:
        self._store_pattern(row, module, output[1] if isinstance(output, tuple) and len(output) > 1 else None)

    def _store_pattern(self, row: int, module: nn.Module, pattern: Any) -> None:
        if not isinstance(pattern, Tensor) or pattern.ndim != 4:
            raise NoPatternError(
                f"{type(module).__name__} of layer {self.layers[row]} gives no attention pattern, even under eager "
                "attention. Leave the sites that need patterns out of keep="
            )
        self._store("pattern", row, pattern[0])

    def _scale_hooks(self, row: int, block: Block) -> Iterator[Any]:
        norms = {
            "attention": block.attention_norm,
            "attention_post": block.attention_post_norm,
            **({} if self.alone else {"mlp": block.mlp_norm, "mlp_post": block.mlp_post_norm}),
        }
        for name, norm in norms.items():
            if norm is None:
                continue
            # Where there is no norm, the block's own input tells how many positions there are.
            reads = block.module if norm.kind == "none" else norm.module
            yield before(reads, partial(self._store_norm_input, name, row, norm))

    def _store_norm_input(self, name: str, row: int, norm: Norm, x: Tensor) -> None:
        self._store_scale(name, row, norm, scaled(_rows(x), 1 / norm.times))

    def _store_scale(self, name: str, row: int, norm: Norm, x: Tensor) -> None:
        site = f"norm_scales.{name}"
        self.norms.setdefault(site, {})[row] = norm
        self._store(site, row, norm.size(x))

    def _store_written(self, site: str, row: int, joined: Callable[[Tensor], Tensor], x: Tensor) -> None:
        written = joined(_rows(x))
        if site == "mlp_out" and self.anatomy.has_second_mlp:
            # Two modules write one output; the place is zero before the first.
            self._place(site, row, written).add_(written)
        else:
            self._store(site, row, written)

    def _store(self, site: str, row: int, value: Tensor, rows: int | None = None) -> None:
        self._place(site, row, value, rows).copy_(value)

    def _place(self, site: str, row: int, value: Tensor, rows: int | None = None) -> Tensor:
        """The place of a value; the tensor of the site is made when its first row arrives."""
        places = self.places.get(site)
        if places is None:
            # Only now are the value's size and type known, so no site is allocated that no module gives.
            tensor = empty_buffer((rows or len(self.layers), *value.shape), value)
            if self.has_gaps:
                # Layers that do not attend, or that only attend, leave their rows as they are.
                tensor.zero_()
            self.result.sites[site] = tensor
            self.places[site] = places = tensor.unbind(0)
        return places[row]


def _is_transformed(anatomy: Anatomy, norm: Norm | None) -> bool:
    """Whether q or k differ between the projection's output and the dot product."""
    attention = anatomy.stack.attention
    # Where the scores that were given prove the pattern, they do not prove that the projections are what entered.
    unproved = anatomy.is_found and (attention.bias or attention.sinks)
    return norm is not None or attention.rotary != "none" or unproved


def _one_or_all(rows: list[Tensor]) -> Tensor:
    """[layer, …]; rows that are one and the same tensor are held once."""
    if all(row.data_ptr() == rows[0].data_ptr() for row in rows):
        return rows[0].expand(len(rows), *rows[0].shape)
    return torch.stack(rows)


def _rows(x: Tensor) -> Tensor:
    """[position, …] without the batch axis, which some modules have already folded away."""
    return x.reshape(-1, x.shape[-1])
