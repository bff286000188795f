"""One forward pass, recorded once and frozen.

``trace(model, "The capital of Japan is the city of")`` runs the model once with plain hooks and keeps what every later step
needs: residual stream, attention patterns, q, k, v, z, neurons, what attention and MLP add, and the scales of the norms.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ArgumentError, PromptError
from .models import LoadedModel, load_model
from .models.forward import SITES, Pass, run, site_shapes
from .models.proof import check_finite
from .models.vocabulary import chat_ids, token_ids
from .recorded import Trace

__all__ = ["Keep", "Trace", "trace", "trace_size"]

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

    Examples
    --------
    >>> trace = fg.trace(fg.load_model("smollm2"), "The capital of Japan is the city of")
    >>> trace.target_token
    ' Tokyo'
    >>> trace.pattern.shape  # layer, head, query position, key position
    torch.Size([30, 9, 8, 8])
    """
    loaded = load_model(model)
    ids = ids_of_prompt(loaded, text_or_ids, chat)
    what = keep if isinstance(keep, Keep) else Keep() if keep is None else Keep(frozenset(keep))
    window = _window(loaded, what)
    at = explained_position(loaded, ids, position)
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
        result = run(
            loaded.anatomy,
            {"input_ids": batch},
            sites=what.sites,
            layers=window,
            logits_at=None if logits == "all" else at,
        )
    _check_pass(loaded, result, batch)
    if aims["target"] is None and result.logits is not None:
        aims["target"] = int((result.logits if result.logits.ndim == 1 else result.logits[at]).argmax())
    return _frozen(loaded, text_or_ids, ids, result, window, at, aims)


def trace_size(
    model: Any, text_or_ids: str | Sequence[int] | Tensor, *, keep: Keep | Iterable[str] | None = None
) -> int:
    """Bytes that :func:`trace` would keep per layer sites, known before it runs.

    Parameters as for :func:`trace`; logits, position vectors, norm scales and biases come on top and are small.

    Examples
    --------
    >>> model = fg.load_model("smollm2")
    >>> fg.trace_size(model, "a b c d") > fg.trace_size(model, "a b")
    True
    """
    loaded = load_model(model)
    what = keep if isinstance(keep, Keep) else Keep() if keep is None else Keep(frozenset(keep))
    return _size(loaded, len(ids_of_prompt(loaded, text_or_ids)), what.sites, _window(loaded, what))


def _size(loaded: LoadedModel, n_tokens: int, sites: frozenset[str], window: range) -> int:
    shapes = site_shapes(loaded.anatomy, n_tokens, sites, window)
    return sum(torch.Size(shape).numel() for shape in shapes.values()) * loaded.dtype.itemsize


def ids_of_prompt(loaded: LoadedModel, text_or_ids: str | Sequence[int] | Tensor, chat: bool = False) -> list[int]:
    """Token ids of a prompt that the model can take.

    Raises
    ------
    PromptError
        If it is empty or too long, holds an unknown id, or is a text and there is no tokenizer.
    ArgumentError
        If token ids are to be wrapped in a chat template.
    """
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


def explained_position(loaded: LoadedModel, ids: list[int], position: int | None = None) -> int:
    """The position that is explained: the one that was asked for, else the last, or a masked model's mask.

    Raises
    ------
    ArgumentError
        If the prompt has no such position.
    PromptError
        If a masked model is given no position and no mask.
    """
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
    # A model without a head of which only patterns, say, are kept: then those have to speak.
    seen = seen or list(result.sites.values())
    if all(bool(torch.isfinite(t[-1] if t.ndim == 3 else t).all()) for t in seen):
        return
    everywhere = range(len(loaded.anatomy.blocks))
    again = run(
        loaded.anatomy, {"input_ids": batch}, sites=frozenset({"resid_post"}), layers=everywhere, logits_at=None
    )
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
