"""One forward pass, recorded once and frozen.

``trace(model, "The capital of Japan is the city of")`` runs the model once with plain hooks and keeps what every later step
needs: residual stream, attention patterns, q, k, v, z, neurons, what attention and MLP add, and the scales of the norms.

Wiring, per kind of block:

- ``sequential``: resid_mid = resid_pre + attn_out; resid_post = resid_mid + mlp_out
- ``parallel``: resid_post = resid_pre + attn_out + mlp_out; there is no resid_mid
- ``sandwich``: as sequential, attn_out and mlp_out taken after their second norm
- ``post_norm``: resid_mid = LN₁(resid_pre + attn_out); resid_post = LN₂(resid_mid + mlp_out)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ArgumentError, ModelMismatchError, ModelNeededError, NotRecordedError, PromptError
from .models import LoadedModel, load_model
from .models.forward import SITES, Pass, run, site_shapes
from .models.proof import check_finite
from .models.vocabulary import chat_ids, token_ids

if TYPE_CHECKING:
    from .methods import EdgeWeights
    from .reading import Reading

logger = logging.getLogger(__name__)

MAX_BYTES = 8 * 2**30
"""A trace that would keep more than this is refused unless ``max_bytes=`` allows it."""


@dataclass(frozen=True)
class Keep:
    """What a trace stores: names of sites, and a window of layers.

    Attributes
    ----------
    sites
        Names from ``flowgraph.SITES``.
    layers
        First and one-past-last layer; None for all.
    """

    sites: frozenset[str] = frozenset(SITES)
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.sites) - set(SITES))
        if unknown:
            raise ArgumentError(f"keep= names unknown sites {', '.join(unknown)}; known are {', '.join(SITES)}")
        object.__setattr__(self, "sites", frozenset(self.sites))


@dataclass(frozen=True, eq=False)
class Trace:
    """A recorded forward pass. Tensors have no batch axis and must not be written to.

    Attributes
    ----------
    model_name, family, wiring
        Name of the model, of its architecture row, and how its blocks add to the residual stream.
    prompt
        The text, or None when ids were given.
    tokens, token_ids
        [position] decoded tokens (``" Tokyo"``; bytes of a part of a character as ``"<F0><9F>"``) and their ids.
    position
        The query position that target and logits belong to.
    target, foil
        Token ids; the target is the model's own best token unless another was asked for. None without a head.
    logits
        [d_vocab] at ``position``, or [position, d_vocab] when all were asked for; None without a head.
    sites
        Name → tensor over the kept layers; the properties below name them.
    layers
        First and one-past-last kept layer; ``n_layers`` is how many the model has.
    causal
        Whether a token sees earlier tokens only.
    biases
        ``"attn"`` and ``"mlp"`` → [layer, d_model] what the output projections' biases add before a post-norm; a key is
        missing where there is no bias.
    position_embedding
        [position, d_model] learned position vectors; None where there are none.
    final_scale
        [position] scale of the norm before the head; None where it was not passed.
    fingerprint
        Digests of config and weights.
    stacks
        Traces of other towers of the same pass (the encoder of an encoder–decoder) by role; empty for a single tower.
    recorded_weights, recorded_readings
        What :meth:`record` added.
    loaded
        The model, as long as it is attached.
    """

    model_name: str
    family: str
    wiring: str
    prompt: str | None
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    position: int
    target: int | None
    foil: int | None
    target_token: str | None
    foil_token: str | None
    logits: Tensor | None
    sites: Mapping[str, Tensor]
    layers: tuple[int, int]
    n_layers: int
    n_heads: int
    causal: bool
    biases: Mapping[str, Tensor]
    position_embedding: Tensor | None
    final_scale: Tensor | None
    fingerprint: Mapping[str, str]
    stacks: Mapping[str, Trace] = field(default_factory=dict)
    recorded_weights: Mapping[str, EdgeWeights] = field(default_factory=dict)
    recorded_readings: Mapping[str, Reading] = field(default_factory=dict)
    loaded: LoadedModel | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.token_ids):
            raise ArgumentError(f"Trace has {len(self.tokens)} tokens and {len(self.token_ids)} token_ids")
        rows = self.layers[1] - self.layers[0]
        for name, tensor in self.sites.items():
            if tensor.shape[0] != rows:
                raise ArgumentError(f"Trace.{name} has {tensor.shape[0]} layers; the window {self.layers} has {rows}")

    def __repr__(self) -> str:
        kept = "" if self.layers == (0, self.n_layers) else f", layers {self.layers[0]}…{self.layers[1] - 1} kept"
        return (
            f"Trace({self.model_name!r}, {len(self.tokens)} tokens, {self.n_layers} layers × {self.n_heads} heads{kept}, "
            f"target {self.target_token!r}, {self.nbytes / 2**20:.1f} MB)"
        )

    def site(self, name: str) -> Tensor:
        """The tensor of one site over the kept layers.

        Raises
        ------
        NotRecordedError
            If it was not kept.
        """
        if name not in self.sites:
            kept = ", ".join(sorted(self.sites)) or "nothing"
            raise NotRecordedError(
                f"this trace does not hold {name!r} (kept: {kept}); trace again with keep= naming it, or without keep="
            )
        return self.sites[name]

    @property
    def resid_pre(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] the state that enters each block."""
        return self.site("resid_pre")

    @property
    def resid_mid(self) -> Float[Tensor, "layer position d_model"] | None:
        """[layer, position, d_model] the state between attention and MLP; None in parallel blocks, which have none."""
        return None if self.wiring == "parallel" else self.site("resid_mid")

    @property
    def resid_post(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] the state that leaves each block."""
        return self.site("resid_post")

    @property
    def pattern(self) -> Float[Tensor, "layer head query_pos key_pos"]:
        """[layer, head, query_pos, key_pos] attention probabilities; rows sum to 1."""
        return self.site("pattern")

    @property
    def q(self) -> Float[Tensor, "layer head position d_head"]:
        """[layer, head, position, d_head] queries as they enter the dot product."""
        return self.site("q")

    @property
    def k(self) -> Float[Tensor, "layer kv_head position d_head"]:
        """[layer, key/value head, position, d_head] keys as they enter the dot product."""
        return self.site("k")

    @property
    def q_proj(self) -> Float[Tensor, "layer head position d_head"]:
        """[layer, head, position, d_head] queries before their norm and rotary."""
        return self.site("q_proj")

    @property
    def k_proj(self) -> Float[Tensor, "layer kv_head position d_head"]:
        """[layer, key/value head, position, d_head] keys before their norm and rotary."""
        return self.site("k_proj")

    @property
    def v(self) -> Float[Tensor, "layer kv_head position d_head"]:
        """[layer, key/value head, position, d_head] values, their bias included once."""
        return self.site("v")

    @property
    def z(self) -> Float[Tensor, "layer head position d_head"]:
        """[layer, head, position, d_head] pattern · v, what each head hands to the output projection."""
        return self.site("z")

    @property
    def attn_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] what attention adds to the residual stream."""
        return self.site("attn_out")

    @property
    def mlp_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] what the MLP adds to the residual stream."""
        return self.site("mlp_out")

    @property
    def neurons(self) -> Float[Tensor, "layer position d_mlp"]:
        """[layer, position, d_mlp] input of the MLP's output projection."""
        return self.site("neurons")

    @property
    def norm_scales(self) -> dict[str, Tensor]:
        """Norm → its scale: ``attention``, ``mlp``, ``attention_post``, ``mlp_post`` [layer, position], ``query``, ``key``
        [layer, head, position], ``final`` [position]."""
        prefix = "norm_scales."
        scales = {name.removeprefix(prefix): value for name, value in self.sites.items() if name.startswith(prefix)}
        if not scales:
            self.site("norm_scales")
        return scales if self.final_scale is None else scales | {"final": self.final_scale}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors kept; tensors that share memory count once."""
        tensors = [*self.sites.values(), *self.biases.values(), self.logits, self.position_embedding, self.final_scale]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
        return sum(storages.values())

    @property
    def model(self) -> LoadedModel:
        """The attached model.

        Raises
        ------
        ModelNeededError
            If the trace was loaded from a file and no model is attached.
        """
        if self.loaded is None:
            raise ModelNeededError(
                "this trace was loaded from a file and holds no model; what was recorded can be asked for, everything else "
                f"needs trace.attach(load_model({self.model_name!r}))"
            )
        return self.loaded

    def attach(self, model: Any) -> Trace:
        """The same trace with a model, which must be the one that was traced.

        Parameters
        ----------
        model
            Anything :func:`flowgraph.load_model` accepts.

        Raises
        ------
        ModelMismatchError
            If its config or weights differ from the traced model's.
        """
        loaded = load_model(model)
        offered = loaded.fingerprint()
        different = [part for part, digest in self.fingerprint.items() if offered[part] != digest]
        if different:
            raise ModelMismatchError(
                f"{loaded.name!r} is not the model that was traced ({self.model_name!r}): its {' and '.join(different)} "
                "differ; attach the model that made the trace, or trace again"
            )
        return replace(self, loaded=loaded)

    def record(self, *, methods: Sequence[str] = (), readings: Sequence[str] = (), k: int = 10) -> Trace:
        """The same trace with edge weights and readings computed now, so that they are saved with it.

        Parameters
        ----------
        methods
            Names of edge methods, as for :func:`flowgraph.edge_weights`.
        readings
            Sites to read in vocabulary: ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"``, ``"attn_out"``, ``"mlp_out"``,
            ``"head_out"``.
        k
            How many top and bottom tokens a reading keeps.
        """
        from .lenses import read_site
        from .methods import edge_weights

        weights = {method: edge_weights(self, method=method) for method in methods}
        read = {site: read_site(self, site, k=k) for site in readings}
        return replace(
            self,
            recorded_weights={**self.recorded_weights, **weights},
            recorded_readings={**self.recorded_readings, **read},
        )

    def save(self, path: str | Path) -> Path:
        """Write the trace as one ``.safetensors`` file, its JSON in the header; written beside and renamed."""
        from .export.trace_file import save_trace

        return save_trace(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace that :meth:`save` wrote; no model is attached.

        Raises
        ------
        FileFormatError
            If the file is damaged or not a trace.
        """
        from .export.trace_file import load_trace

        return load_trace(path)


def trace(
    model: Any,
    text_or_ids: str | Sequence[int] | Tensor,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    keep: Keep | Iterable[str] | None = None,
    position: int | None = None,
    logits: Literal["last", "all"] = "last",
    chat: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Trace:
    """Run a model once and record what happened.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    text_or_ids
        A text, tokenized with the special tokens the model expects, or token ids as they are.
    target, foil
        The token to explain and the one to compare it with, as a string (``" Tokyo"``) or an id. The default target is the
        model's best token at ``position``.
    keep
        Sites to store (names from ``flowgraph.SITES``) or a :class:`Keep` with a window of layers; None keeps every site.
    position
        Query position that is explained; −1 is the last token. Default: the last token, and for masked language models the
        first mask token.
    logits
        ``"last"``: those at ``position``; ``"all"``: of every position.
    chat
        Put the text into the model's chat template as a user's message.
    max_bytes
        Refuse to keep more than this.

    Raises
    ------
    PromptError
        If the prompt is empty, longer than the model's context, or has no mask token where one is needed.
    TargetError
        If target or foil is not one token.
    NoPatternError
        If patterns are wanted and the model gives none.
    NonFiniteError
        If the pass gives NaN or infinity.
    ArgumentError
        For an unknown site, a layer window outside the model, or a trace above ``max_bytes``.
    """
    loaded = load_model(model)
    ids = _prompt_ids(loaded, text_or_ids, chat)
    what = keep if isinstance(keep, Keep) else Keep() if keep is None else Keep(frozenset(keep))
    window = _window(loaded, what)
    at = _position(loaded, ids, position)
    aims = {name: _aim(loaded, value, name) for name, value in (("target", target), ("foil", foil))}
    size = _size(loaded, len(ids), what.sites, window)
    logger.info("the trace will keep %.1f MB (%s bytes)", size / 2**20, f"{size:,}")
    if size > max_bytes:
        raise ArgumentError(
            f"the trace would keep {size:,} bytes, more than max_bytes={max_bytes:,}; keep fewer sites (keep={{'pattern'}}), "
            "a window of layers (keep=Keep(layers=(0, 4))), or raise max_bytes"
        )
    batch = torch.tensor([ids], device=loaded.device)
    with loaded.lock:
        result = run(loaded.anatomy, batch, sites=what.sites, layers=window, logits_at=None if logits == "all" else at)
    _check_pass(loaded, result, batch)
    if aims["target"] is None and result.logits is not None:
        aims["target"] = int((result.logits if result.logits.ndim == 1 else result.logits[at]).argmax())
    return _frozen(loaded, text_or_ids, ids, result, window, at, aims)


def trace_size(
    model: Any, text_or_ids: str | Sequence[int] | Tensor, *, keep: Keep | Iterable[str] | None = None
) -> int:
    """Bytes that :func:`trace` would keep per layer sites, known before it runs.

    Parameters as for :func:`trace`; logits, position vectors, norm scales and biases come on top and are small.
    """
    loaded = load_model(model)
    what = keep if isinstance(keep, Keep) else Keep() if keep is None else Keep(frozenset(keep))
    return _size(loaded, len(_prompt_ids(loaded, text_or_ids, False)), what.sites, _window(loaded, what))


def _size(loaded: LoadedModel, n_tokens: int, sites: frozenset[str], window: range) -> int:
    shapes = site_shapes(loaded.anatomy, n_tokens, sites, window)
    return sum(torch.Size(shape).numel() for shape in shapes.values()) * loaded.dtype.itemsize


def _prompt_ids(loaded: LoadedModel, text_or_ids: str | Sequence[int] | Tensor, chat: bool) -> list[int]:
    if isinstance(text_or_ids, str):
        if loaded.tokenizer is None:
            raise PromptError(
                "the prompt is a text, but this model has no tokenizer; pass token ids, or load_model(…, tokenizer=)"
            )
        if not text_or_ids:
            raise PromptError("the prompt is empty; give at least one token")
        ids = chat_ids(loaded.tokenizer, text_or_ids) if chat else token_ids(loaded.tokenizer, text_or_ids)
    else:
        if chat:
            raise ArgumentError("chat=True needs the prompt as a text, not as token ids")
        ids = [int(i) for i in torch.as_tensor(text_or_ids).reshape(-1).tolist()]
    if not ids:
        raise PromptError("the prompt has no tokens; give at least one")
    beyond = [i for i in ids if not 0 <= i < len(loaded.vocabulary)]
    if beyond:
        raise PromptError(
            f"token id {beyond[0]} is not in this model's vocabulary; ids run from 0 to {len(loaded.vocabulary) - 1}"
        )
    limit = loaded.anatomy.context
    if limit is not None and len(ids) > limit:
        raise PromptError(f"the prompt has {len(ids)} tokens; {loaded.name!r} takes at most {limit}. Shorten it")
    return ids


def _window(loaded: LoadedModel, keep: Keep) -> range:
    n_layers = len(loaded.anatomy.blocks)
    first, stop = keep.layers or (0, n_layers)
    if not 0 <= first < stop <= n_layers:
        raise ArgumentError(
            f"keep.layers={keep.layers} is not a window of this model; give (first, one past last) within 0…{n_layers}"
        )
    return range(first, stop)


def _position(loaded: LoadedModel, ids: list[int], position: int | None) -> int:
    if position is not None:
        if not -len(ids) <= position < len(ids):
            raise ArgumentError(f"position={position} is outside the prompt of {len(ids)} tokens")
        return position % len(ids)
    if loaded.anatomy.family.head_kind == "linear" or not loaded.anatomy.has_head:
        return len(ids) - 1
    mask = None if loaded.tokenizer is None else loaded.tokenizer.mask_token_id
    if mask not in ids:
        name = "its mask token" if mask is None else repr(loaded.tokenizer.mask_token)
        raise PromptError(
            f"{loaded.name!r} is a masked language model and the prompt has no {name}; put {name} where a token is to be "
            "predicted, or say position="
        )
    return ids.index(mask)


def _aim(loaded: LoadedModel, value: str | int | None, name: str) -> int | None:
    if value is None:
        return None
    loaded.require_head(f"{name}={value!r}")
    return loaded.vocabulary.target_id(value, name)


def _check_pass(loaded: LoadedModel, result: Pass, batch: Tensor) -> None:
    """Refuse a pass that is not finite; the full residual stream is traced again only to name the layer."""
    seen = [t for t in (result.logits, result.final_scale, result.sites.get("resid_post")) if t is not None]
    if all(bool(torch.isfinite(t[-1] if t.ndim == 3 else t).all()) for t in seen):
        return
    everywhere = range(len(loaded.anatomy.blocks))
    again = run(loaded.anatomy, batch, sites=frozenset({"resid_post"}), layers=everywhere, logits_at=None)
    check_finite(loaded.anatomy, again.sites["resid_post"], again.logits)


def _frozen(
    loaded: LoadedModel,
    text_or_ids: Any,
    ids: list[int],
    result: Pass,
    window: range,
    position: int,
    aims: Mapping[str, int | None],
) -> Trace:
    anatomy, vocabulary = loaded.anatomy, loaded.vocabulary
    blocks = anatomy.blocks[window.start : window.stop]
    biases = {
        name: torch.stack([bias for bias in rows if bias is not None])
        for name, rows in (
            ("attn", [block.attention_output.bias for block in blocks]),
            ("mlp", [block.mlp_output.bias for block in blocks]),
        )
        if all(bias is not None for bias in rows)
    }
    words = {name: None if value is None else vocabulary.string(value) for name, value in aims.items()}
    return Trace(
        model_name=loaded.name,
        family=anatomy.family.name,
        wiring=anatomy.wiring,
        prompt=text_or_ids if isinstance(text_or_ids, str) else None,
        tokens=vocabulary.strings(ids),
        token_ids=tuple(ids),
        position=position,
        target=aims["target"],
        foil=aims["foil"],
        target_token=words["target"],
        foil_token=words["foil"],
        logits=result.logits,
        sites=result.sites,
        layers=(window.start, window.stop),
        n_layers=len(anatomy.blocks),
        n_heads=anatomy.n_heads,
        causal=anatomy.causal,
        biases=biases,
        position_embedding=result.position_embedding,
        final_scale=result.final_scale,
        fingerprint=loaded.fingerprint(),
        loaded=loaded,
    )
