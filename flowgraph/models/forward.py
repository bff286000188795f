"""One forward pass through plain hooks: the tensors of every site, copied once into their final place.

One rule serves every family: the input of the attention's output projection is z, and the input of the MLP's output
projection are the neurons. Patterns come from the attention module itself under the eager implementation, which is switched
on for the pass and back afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import NoPatternError
from .anatomy import Anatomy, Block, Norm

SITES: tuple[str, ...] = (
    "resid_pre", "resid_mid", "resid_post", "pattern", "q", "k", "q_proj", "k_proj", "v", "z",
    "attn_out", "mlp_out", "neurons", "norm_scales",
)  # fmt: skip
"""Names of what a trace can keep, per layer."""


@dataclass
class Pass:
    """What one forward pass left behind.

    Attributes
    ----------
    sites
        Site name → [layer, …] tensor over the window of layers; norm scales as ``"norm_scales.attention"`` … [layer,
        position], and ``"norm_scales.query"``/``"norm_scales.key"`` [layer, head, position].
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
    modes = [(module, module.training) for module in model.modules()] if model.training else []
    if previous != "eager":
        model.set_attn_implementation("eager")
    model.eval()
    try:
        yield
    finally:
        if previous != "eager":
            model.set_attn_implementation(previous)
        for module, training in modes:
            module.training = training


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
    token_ids: Int[Tensor, "1 position"],
    *,
    sites: frozenset[str],
    layers: range,
    logits_at: int | None,
) -> Pass:
    """One forward pass of ``token_ids`` that keeps ``sites`` of ``layers``.

    ``logits_at`` is the position whose logits are wanted; None for all of them.

    Raises
    ------
    NoPatternError
        If patterns are wanted and an attention module does not return them.
    """
    recorder = _Recorder(anatomy, sites, layers)
    options: dict[str, Any] = {"use_cache": False} if anatomy.causal else {}
    last = token_ids.shape[1] - 1
    if anatomy.has_head and anatomy.causal and logits_at == last:
        # The head of a decoder is then applied to one row only.
        options["logits_to_keep"] = 1
    with torch.no_grad(), eager_attention(anatomy.model), ExitStack() as hooks:
        for handle in recorder.hooks():
            hooks.callback(handle.remove)
        output = anatomy.model(input_ids=token_ids, **options)
    if anatomy.has_head:
        rows = output.logits[0].detach()
        recorder.result.logits = rows if logits_at is None else rows[-1 if len(rows) == 1 else logits_at].clone()
    recorder.result.sites.pop("resid", None)
    return recorder.result


class _Recorder:
    """Hooks that copy what passes by into preallocated tensors, one per site."""

    def __init__(self, anatomy: Anatomy, sites: frozenset[str], layers: range) -> None:
        self.anatomy = anatomy
        self.sites = sites
        self.layers = layers
        self.result = Pass()
        self.angles: tuple[Tensor, Tensor] | None = None

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
        if not shared:
            self._store(site, row, _rows(x))
            return
        states = self._store("resid", row + (site == "resid_post"), _rows(x), len(self.layers) + 1)
        self.result.sites["resid_pre"], self.result.sites["resid_post"] = states[:-1], states[1:]

    def _attention_hooks(self, row: int, block: Block) -> Iterator[Any]:
        if self.sites & {"q", "k", "q_proj", "k_proj", "v", "norm_scales"}:
            if self.anatomy.stack.attention.rotary != "none":
                yield block.attention.register_forward_pre_hook(self._keep_angles, with_kwargs=True)
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
        """Rotary angles of this layer: (cos, sin), each [position, rotated dimensions]."""
        if "position_embeddings" in kwargs:
            cos, sin = kwargs["position_embeddings"]
            self.angles = cos[0], sin[0]
        else:
            n_tokens = (args[0] if args else kwargs["hidden_states"]).shape[1]
            sin, cos = module.embed_positions[:n_tokens].chunk(2, dim=-1)
            self.angles = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)

    def _heads(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "head position d_head"]:
        rows = _rows(x)
        return rows.view(rows.shape[0], -1, self.anatomy.d_head).transpose(0, 1)

    def _store_fused(self, row: int, block: Block, x: Tensor) -> None:
        heads = self._heads(x)
        n, g = self.anatomy.n_heads, self.anatomy.n_kv_heads
        if self.anatomy.stack.attention.fused_layout == "interleaved":
            query, key, value = heads[0::3], heads[1::3], heads[2::3]
        else:
            query, key, value = heads[:n], heads[n : n + g], heads[n + g :]
        self._store_query(row, block, query)
        self._store_key(row, block, key)
        if "v" in self.sites:
            self._store("v", row, value)

    def _store_query(self, row: int, block: Block, heads: Float[Tensor, "head position d_head"]) -> None:
        self._store_rotated("q", "query", row, heads, block.query_norm)

    def _store_key(self, row: int, block: Block, heads: Float[Tensor, "head position d_head"]) -> None:
        self._store_rotated("k", "key", row, heads, block.key_norm)

    def _store_rotated(self, site: str, scale_name: str, row: int, heads: Tensor, norm: Norm | None) -> None:
        projected = f"{site}_proj"
        if projected in self.sites:
            self._store(projected, row, heads)
        if norm is not None and "norm_scales" in self.sites:
            self._store(f"norm_scales.{scale_name}", row, norm.scale(heads))
        if site not in self.sites:
            return
        if not _is_transformed(self.anatomy, norm) and projected in self.sites:
            self.result.sites[site] = self.result.sites[projected]
            return
        entering = heads if norm is None else norm.module(heads)
        if self.anatomy.stack.attention.rotary != "none":
            assert self.angles is not None
            entering = rotate(entering, *self.angles, interleaved=self.anatomy.stack.attention.rotary == "interleaved")
        self._store(site, row, entering)

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
                yield _before(norm.module, partial(self._store_scale, name, row, norm))

    def _store_scale(self, name: str, row: int, norm: Norm, x: Tensor) -> None:
        self._store(f"norm_scales.{name}", row, norm.scale(_rows(x)))

    def _store_rows(self, site: str, row: int, x: Tensor) -> None:
        self._store(site, row, _rows(x))

    def _store(self, site: str, row: int, value: Tensor, rows: int | None = None) -> Tensor:
        """Copy one layer's value into its place; the tensor of the site is made when its first row arrives."""
        tensor = self.result.sites.get(site)
        if tensor is None:
            tensor = value.new_empty((rows or len(self.layers), *value.shape))
            self.result.sites[site] = tensor
        tensor[row].copy_(value.detach())
        return tensor


def rotate(
    x: Float[Tensor, "head position d_head"],
    cos: Float[Tensor, "position rotated"],
    sin: Float[Tensor, "position rotated"],
    *,
    interleaved: bool,
) -> Float[Tensor, "head position d_head"]:
    """Rotary position embedding (Su et al. 2021) of the first ``rotated`` dimensions of each head.

    Pairs are (i, i + rotated/2), or (2i, 2i + 1) when ``interleaved``.
    """
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    if interleaved:
        partner = torch.stack((-turned[..., 1::2], turned[..., ::2]), dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        partner = torch.cat((-second, first), dim=-1)
    turned = turned * cos.to(x.dtype) + partner * sin.to(x.dtype)
    return torch.cat((turned, kept), dim=-1)


def _is_transformed(anatomy: Anatomy, norm: Norm | None) -> bool:
    """Whether q or k differ between the projection's output and the dot product."""
    return norm is not None or anatomy.stack.attention.rotary != "none"


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
