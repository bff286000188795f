"""One forward pass through plain hooks: the tensors of every site, copied once into their final place.

One rule serves every family: the input of the attention's output projection is z, and the input of the MLP's output
projection are the neurons. Patterns come from the attention module itself under the eager implementation, which is switched
on for the pass and back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import NoPatternError
from .anatomy import Anatomy, Block, Norm, scale_of_size
from .memory import room
from .rotary import Angles, rotate

SITES: tuple[str, ...] = (
    "resid_pre", "resid_mid", "resid_post", "pattern", "q", "k", "q_proj", "k_proj", "v", "z",
    "attn_out", "mlp_out", "neurons", "norm_scales", "rotary",
)  # fmt: skip
"""Names of what a trace can keep, per layer."""

Feed = Mapping[str, Tensor]
"""Name of an argument of the model → tensor: ``input_ids`` [row, position], and where there are any ``token_type_ids`` and
``position_ids`` of the same shape."""

_BY_HEAD = ("q", "k", "q_proj", "k_proj", "v", "z", "norm_scales.query", "norm_scales.key")
_ROTATED_BYTES = 2**20


@dataclass
class Pass:
    """What one forward pass left behind.

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
    """

    sites: dict[str, Tensor] = field(default_factory=dict)
    final_scale: Tensor | None = None
    position_embedding: Tensor | None = None
    logits: Tensor | None = None


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Switch the model to eager attention and evaluation mode, and back on leaving."""
    previous = model.config._attn_implementation
    in_training = [module for module in model.modules() if module.training]
    if previous != "eager":
        model.set_attn_implementation("eager")
    for module in in_training:
        module.training = False
    try:
        yield
    finally:
        if previous != "eager":
            model.set_attn_implementation(previous)
        for module in in_training:
            module.training = True


def site_shapes(anatomy: Anatomy, n_tokens: int, sites: frozenset[str], layers: range) -> dict[str, tuple[int, ...]]:
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
    """
    n, t, d = len(layers), n_tokens, anatomy.d_model
    query, key = (anatomy.n_heads, t, anatomy.d_head), (anatomy.n_kv_heads, t, anatomy.d_head)
    block = anatomy.blocks[0]
    shapes: dict[str, tuple[int, ...]] = {}
    states = n * bool(sites & {"resid_pre", "resid_post"}) + ({"resid_pre", "resid_post"} <= sites)
    if states:
        shapes["resid"] = (states, t, d)
    for site, shape in {
        "pattern": (anatomy.n_heads, t, t),
        "q_proj": query, "k_proj": key, "v": key, "z": query,
        "attn_out": (t, d), "mlp_out": (t, d), "neurons": (t, block.mlp_output.d_in),
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

    ``feed`` holds ``input_ids`` [1, position] and whatever else the model is called with, such as ``token_type_ids``.
    ``logits_at`` is the position whose logits are wanted; None for all of them.

    Raises
    ------
    NoPatternError
        If patterns are wanted and an attention module does not return them.
    """
    recorder = _Recorder(anatomy, sites, layers)
    options: dict[str, Any] = {"use_cache": False} if anatomy.causal else {}
    last = feed["input_ids"].shape[1] - 1
    if anatomy.has_head and anatomy.causal and logits_at == last:
        # The head of a decoder is then applied to one row only.
        options["logits_to_keep"] = 1
    with torch.no_grad(), eager_attention(anatomy.model), ExitStack() as hooks:
        for handle in recorder.hooks():
            hooks.callback(handle.remove)
        output = anatomy.model(**feed, **options)
    if anatomy.has_head:
        rows = output.logits[0].detach()
        recorder.result.logits = rows if logits_at is None else rows[-1 if len(rows) == 1 else logits_at].clone()
    return recorder.finished()


class _Recorder:
    """Hooks that copy what passes by into preallocated tensors, one per site.

    A hook does as little as it can, because each operation in it runs on a cold cache: rows of heads are copied as they
    pass by, [position, head, …], and of a norm only the size of its input is taken. :meth:`finished` does the rest for many
    layers at once.
    """

    def __init__(self, anatomy: Anatomy, sites: frozenset[str], layers: range) -> None:
        self.anatomy = anatomy
        self.sites = sites
        self.layers = layers
        self.result = Pass()
        self.places: dict[str, tuple[Tensor, ...]] = {}
        self.norms: dict[str, list[Norm]] = {}
        self.angles: list[Angles] = []
        self.angles_given: Any = None

    def hooks(self) -> Iterator[Any]:
        """Register every hook that the wanted sites need."""
        for row, layer in enumerate(self.layers):
            yield from self._block_hooks(row, self.anatomy.blocks[layer])
        if self.layers.stop == len(self.anatomy.blocks) and self.anatomy.final_norm is not None:
            final = self.anatomy.final_norm
            yield _before(final.module, lambda x: setattr(self.result, "final_scale", final.scale(_rows(x))))
        if self.anatomy.position_embedding is not None:
            yield _after(
                self.anatomy.position_embedding,
                lambda x: setattr(self.result, "position_embedding", _rows(x).detach().clone()),
            )

    def finished(self) -> Pass:
        """The pass, with its sites under their names and axes in their order."""
        sites = self.result.sites
        for name, norms in self.norms.items():
            width = self.anatomy.d_head if name in _BY_HEAD else self.anatomy.d_model
            sites[name] = scale_of_size(sites[name], norms, width)
        for site in [name for name in ("q", "k") if name in self.sites]:
            self._enter(site)
        if "rotary" in self.sites and self.angles:
            for part, name in enumerate(("rotary.cos", "rotary.sin")):
                sites[name] = _one_or_all([angles[part][:, 0] for angles in self.angles])
        for name in _BY_HEAD:
            if name in sites:
                sites[name] = sites[name].transpose(1, 2)
        if "resid" in sites:
            states = sites.pop("resid")
            sites["resid_pre"], sites["resid_post"] = states[:-1], states[1:]
        return self.result

    def _block_hooks(self, row: int, block: Block) -> Iterator[Any]:
        yield from self._residual_hooks(row, block)
        yield from self._attention_hooks(row, block)
        if "neurons" in self.sites:
            yield _before(block.mlp_output.module, lambda x: self._store("neurons", row, _rows(x)))
        for site, projection, post_norm in (
            ("attn_out", block.attention_output, block.attention_post_norm),
            ("mlp_out", block.mlp_output, block.mlp_post_norm),
        ):
            if site in self.sites:
                added = projection.module if post_norm is None else post_norm.module
                yield _after(added, partial(self._store_rows, site, row))
        if "norm_scales" in self.sites:
            yield from self._scale_hooks(row, block)

    def _residual_hooks(self, row: int, block: Block) -> Iterator[Any]:
        last = row == len(self.layers) - 1
        shared = {"resid_pre", "resid_post"} <= self.sites
        if "resid_pre" in self.sites:
            yield _before(block.module, lambda x: self._store_state("resid_pre", row, x, shared))
        if "resid_post" in self.sites and (last or not shared):
            yield _after(block.module, lambda x: self._store_state("resid_post", row, x, shared))
        if "resid_mid" in self.sites and self.anatomy.wiring != "parallel":
            if self.anatomy.wiring == "post_norm":
                yield _after(block.attention_norm.module, lambda x: self._store("resid_mid", row, _rows(x)))
            else:
                yield _before(block.mlp_norm.module, lambda x: self._store("resid_mid", row, _rows(x)))

    def _store_state(self, site: str, row: int, x: Tensor, shared: bool) -> None:
        """Keep a state; resid_post of a block and resid_pre of the next are the same rows of one tensor."""
        if shared:
            self._store("resid", row + (site == "resid_post"), _rows(x), len(self.layers) + 1)
        else:
            self._store(site, row, _rows(x))

    def _attention_hooks(self, row: int, block: Block) -> Iterator[Any]:
        if self.sites & {"q", "k", "rotary"} and self.anatomy.stack.attention.rotary != "none":
            yield block.attention.register_forward_pre_hook(self._keep_angles, with_kwargs=True)
        if self.sites & {"q", "k", "q_proj", "k_proj", "v", "norm_scales"}:
            if block.fused is not None:
                yield _after(block.fused, lambda x: self._store_fused(row, block, x))
            else:
                assert block.query is not None
                assert block.key is not None
                assert block.value is not None
                yield _after(block.query, lambda x: self._store_query(row, block, self._heads(x)))
                yield _after(block.key, lambda x: self._store_key(row, block, self._heads(x)))
                if "v" in self.sites:
                    yield _after(block.value, lambda x: self._store("v", row, self._heads(x)))
        if "z" in self.sites:
            yield _before(block.attention_output.module, lambda x: self._store("z", row, self._heads(x)))
        if "pattern" in self.sites:
            yield block.attention.register_forward_hook(
                lambda module, _args, output: self._store_pattern(row, module, output)
            )

    def _keep_angles(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Rotary angles of this layer: (cos, sin), each [position, 1, rotated dimensions]."""
        if "position_embeddings" in kwargs:
            given = kwargs["position_embeddings"]
            if given is not self.angles_given:  # most models hand the same pair to every layer
                self.angles_given = given
                self.angles.append((given[0][0, :, None], given[1][0, :, None]))
            else:
                self.angles.append(self.angles[-1])
        else:
            n_tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
            sin, cos = module.embed_positions[:n_tokens, None].chunk(2, dim=-1)
            self.angles.append((cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)))

    def _heads(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "position head d_head"]:
        return x.reshape(x.shape[-2], -1, self.anatomy.d_head)

    def _store_fused(self, row: int, block: Block, x: Tensor) -> None:
        heads = self._heads(x)
        n, g = self.anatomy.n_heads, self.anatomy.n_kv_heads
        if self.anatomy.stack.attention.fused_layout == "interleaved":
            query, key, value = heads[:, 0::3], heads[:, 1::3], heads[:, 2::3]
        else:
            query, key, value = heads[:, :n], heads[:, n : n + g], heads[:, n + g :]
        self._store_query(row, block, query)
        self._store_key(row, block, key)
        if "v" in self.sites:
            self._store("v", row, value)

    def _store_query(self, row: int, block: Block, heads: Float[Tensor, "position head d_head"]) -> None:
        self._store_entering("q", "query", row, heads, block.query_norm)

    def _store_key(self, row: int, block: Block, heads: Float[Tensor, "position head d_head"]) -> None:
        self._store_entering("k", "key", row, heads, block.key_norm)

    def _store_entering(self, site: str, scale_name: str, row: int, heads: Tensor, norm: Norm | None) -> None:
        """Keep queries or keys as projected and as normed; rotary comes at the end."""
        projected = f"{site}_proj"
        if projected in self.sites:
            self._store(projected, row, heads)
        if norm is not None and "norm_scales" in self.sites:
            self._store_scale(scale_name, row, norm, heads)
        if site in self.sites and (norm is not None or projected not in self.sites):
            self._store(site, row, heads if norm is None else norm.module(heads))

    def _enter(self, site: str) -> None:
        """Queries or keys as they enter the dot product, from what was stored of them."""
        sites = self.result.sites
        source = sites.get(site, sites.get(f"{site}_proj"))
        assert source is not None
        if self.anatomy.stack.attention.rotary == "none":
            sites[site] = source
            return
        target = sites.setdefault(site, room(source.shape, source))
        for rows, (cos, sin) in self._runs(source[0].nbytes):
            x = source[rows].clone() if target is source else source[rows]
            interleaved = self.anatomy.stack.attention.rotary == "interleaved"
            rotate(x, cos, sin, interleaved=interleaved, out=target[rows])

    def _runs(self, row_bytes: int) -> Iterator[tuple[slice, Angles]]:
        """Layers that share their angles, as many at a time as stay in a core's cache."""
        most, start = max(1, _ROTATED_BYTES // row_bytes), 0
        for row in range(1, len(self.angles) + 1):
            if row == len(self.angles) or row - start == most or self.angles[row] is not self.angles[start]:
                yield slice(start, row), self.angles[start]
                start = row

    def _store_pattern(self, row: int, module: nn.Module, output: Any) -> None:
        pattern = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(pattern, Tensor) or pattern.ndim != 4:
            raise NoPatternError(
                f"{type(module).__name__} of layer {self.layers[row]} returned no attention pattern under "
                f"attn_implementation={self.anatomy.config._attn_implementation!r}. Load the model with "
                "attn_implementation='eager', or leave the sites that need patterns out of keep="
            )
        self._store("pattern", row, pattern[0])

    def _scale_hooks(self, row: int, block: Block) -> Iterator[Any]:
        norms = {
            "attention": block.attention_norm,
            "attention_post": block.attention_post_norm,
            "mlp": block.mlp_norm,
            "mlp_post": block.mlp_post_norm,
        }
        for name, norm in norms.items():
            if norm is not None:
                yield _before(norm.module, partial(self._store_norm_input, name, row, norm))

    def _store_norm_input(self, name: str, row: int, norm: Norm, x: Tensor) -> None:
        self._store_scale(name, row, norm, _rows(x))

    def _store_scale(self, name: str, row: int, norm: Norm, x: Tensor) -> None:
        site = f"norm_scales.{name}"
        self.norms.setdefault(site, []).append(norm)
        self._store(site, row, norm.size(x))

    def _store_rows(self, site: str, row: int, x: Tensor) -> None:
        self._store(site, row, _rows(x))

    def _store(self, site: str, row: int, value: Tensor, rows: int | None = None) -> None:
        self._place(site, row, value, rows).copy_(value)

    def _place(self, site: str, row: int, value: Tensor, rows: int | None = None) -> Tensor:
        """Where a value goes; the tensor of the site is made when its first row arrives."""
        places = self.places.get(site)
        if places is None:
            tensor = room((rows or len(self.layers), *value.shape), value)
            self.result.sites[site] = tensor
            self.places[site] = places = tensor.unbind(0)
        return places[row]


def _is_transformed(anatomy: Anatomy, norm: Norm | None) -> bool:
    """Whether q or k differ between the projection's output and the dot product."""
    return norm is not None or anatomy.stack.attention.rotary != "none"


def _one_or_all(rows: list[Tensor]) -> Tensor:
    """[layer, …]; rows that are one and the same tensor are held once."""
    if all(row.data_ptr() == rows[0].data_ptr() for row in rows):
        return rows[0].expand(len(rows), *rows[0].shape)
    return torch.stack(rows)


def _rows(x: Tensor) -> Tensor:
    """[position, …] without the batch axis, which some modules have already folded away."""
    return x.reshape(-1, x.shape[-1])


def _before(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Hook on a module's first input."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        use(args[0] if args else next(iter(kwargs.values())))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _after(module: nn.Module, use: Callable[[Tensor], object]) -> Any:
    """Hook on a module's output, the first of several."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        use(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)
