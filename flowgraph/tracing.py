"""One forward pass, recorded once and frozen.

``trace(model, "The capital of Japan is the city of")`` runs the model once with plain hooks and keeps what every later step
needs: residual stream, attention patterns, q, k, v, z, neurons, what attention and MLP add, and the scales of the norms.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, overload

import torch

from .errors import ArchitectureError, ArgumentError, PromptError, UnsupportedReadingError
from .importing import old_name
from .models import LoadedModel, load_model
from .models.consistency import check_trace
from .models.forward import SITES, Feed, Pass, run, site_shapes
from .models.proof import check_finite
from .values.arguments import takes
from .values.inputs import INPUTS_INSTEAD, Row, inputs
from .values.trace import Trace

__all__ = ["Trace", "TraceSites", "Traces", "trace", "trace_size"]

logger = logging.getLogger(__name__)

MAX_BYTES = 8 * 2**30
"""A trace that would keep more than this is refused unless ``max_bytes=`` allows it."""


@dataclass(frozen=True)
class TraceSites:
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


def __getattr__(name: str) -> Any:
    if name == "Keep":
        return old_name(__name__, name, "TraceSites")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Traces(list[Trace]):
    """The traces of a batch, a list. What only one trace has is refused with the number of them."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not (hasattr(Trace, name) or name in {field.name for field in fields(Trace)}):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise PromptError(f"these are the traces of a batch of {len(self)} prompts; take one of them: traces[0].{name}")


@overload
def trace(
    model: Any,
    text_or_ids: str | Sequence[int],
    *,
    target: str | int | None = ...,
    foil: str | int | None = ...,
    keep: TraceSites | Iterable[str] | None = ...,
    position: int | None = ...,
    logits: Literal["last", "all"] = ...,
    chat: bool = ...,
    max_bytes: int = ...,
    attention_mask: Any = ...,
    token_type_ids: Any = ...,
    position_ids: Any = ...,
) -> Trace: ...
@overload
def trace(
    model: Any,
    text_or_ids: Any,
    *,
    target: str | int | None = ...,
    foil: str | int | None = ...,
    keep: TraceSites | Iterable[str] | None = ...,
    position: int | None = ...,
    logits: Literal["last", "all"] = ...,
    chat: bool = ...,
    max_bytes: int = ...,
    attention_mask: Any = ...,
    token_type_ids: Any = ...,
    position_ids: Any = ...,
) -> Any: ...
@takes(instead=INPUTS_INSTEAD)
def trace(
    model: Any,
    text_or_ids: Any,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
    keep: TraceSites | Iterable[str] | None = None,
    position: int | None = None,
    logits: Literal["last", "all"] = "last",
    chat: bool = False,
    max_bytes: int = MAX_BYTES,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
) -> Any:
    """Run a model once and record what happened.

    Parameters
    ----------
    model
        A :class:`LoadedModel`, or anything :func:`flowgraph.load_model` accepts.
    text_or_ids
        What goes in: a text, token ids, messages, a picture of PIL, what a tokenizer returned, or :func:`flowgraph.inputs` with more
        to say. A batch, which is a list of texts or several rows of ids, is run row by row.
    target, foil
        The token to explain and the one to compare it with, as a string (``" Tokyo"``) or an id. The default target is the
        model's best token at ``position``.
    keep
        Sites to store (names from ``flowgraph.SITES``) or a :class:`TraceSites` with a window of layers; None keeps every site.
    position
        Query position that is explained; −1 is the last token. Default: the last token, and for masked language models the
        first mask token; of an image or a sound CLS where there is one, else the last; where an encoder–decoder writes by itself, the
        position before its first word.
    logits
        ``"last"``: those at ``position``; ``"all"``: of every position.
    chat
        Put the text into the model's chat template as a user's message.
    max_bytes
        Refuse to keep more than this, all prompts of a batch together.
    attention_mask, token_type_ids, position_ids
        Beside token ids, under the names that they have in transformers: ``mask=``, ``token_types=`` and ``position_ids=`` of
        :func:`flowgraph.inputs`.

    Returns
    -------
    The :class:`Trace`, of a batch :class:`Traces`: a list with one for each prompt. Padding is left out, and positions count
    without it.

    Raises
    ------
    PromptError
        If the prompt is empty, longer than the model's context, nothing that can be a prompt, or has no mask token where one is
        needed.
    TargetError
        If target or foil is not one token, or both are the same.
    NoPatternError
        If patterns are wanted and the model gives none.
    NonFiniteError
        If the pass gives NaN or infinity.
    ArchitectureError
        If the pass is not what the model's row says: an identity fails on this prompt, or with a hook that was added since.
    UnsupportedReadingError
        If ``logits="all"`` is asked of a model without a head that is read.
    ArgumentError
        For an unknown site, a layer window outside the model, or a trace above ``max_bytes``.
    KeywordError
        If there is no argument of a name that was given; images, sounds and a decoder's text are given in ``inputs(…)``.

    Examples
    --------
    >>> trace = fg.trace(fg.load_model("smollm2"), "The capital of Japan is the city of")
    >>> trace.target_token
    ' Tokyo'
    >>> trace.pattern.shape  # layer, head, query position, key position
    torch.Size([30, 9, 8, 8])
    >>> [len(one.tokens) for one in fg.trace(trace.model, ["The capital of Japan", "Paris"])]
    [4, 1]
    """
    if logits not in ("last", "all"):
        raise ArgumentError(f"logits={logits!r} is not known; expected 'last' or 'all'")
    loaded = load_model(model)
    beside = {"mask": attention_mask, "token_types": token_type_ids, "position_ids": position_ids}
    given = inputs(text_or_ids, **beside, chat=chat).of(loaded)
    what = keep if isinstance(keep, TraceSites) else TraceSites() if keep is None else TraceSites(frozenset(keep))
    window = _window(loaded, what)
    if logits == "all" and not loaded.anatomy.has_head:
        packing = loaded.anatomy.packing
        why = f"; quantised, its head may round several positions together ({packing})" if packing else ""
        raise UnsupportedReadingError(
            f"logits='all' asks for logits, and {loaded.name!r} has no head that is read{why}; leave logits= out to trace its states"
        )
    places = [explained_of_row(loaded, row, position) for row in given.rows]
    answers = {name: _token_id(loaded, value, name) for name, value in (("target", target), ("foil", foil))}
    loaded.answers.refuse_same(answers["target"], answers["foil"])
    size = sum(_size(loaded, _lengths(row), what.sites, window) for row in given.rows)
    logger.info("the trace will keep %.1f MB (%s bytes)", size / 2**20, f"{size:,}")
    if size > max_bytes:
        lengths = [_lengths(row) for row in given.rows]
        raise ArgumentError(
            f"the trace would keep {size:,} bytes, more than max_bytes={max_bytes:,}; "
            f"{_what_fits(loaded, lengths, what.sites, window, max_bytes)}"
        )
    made = [
        _traced(loaded, row, what.sites, window, at, answers, everywhere=logits == "all")
        for row, at in zip(given.rows, places, strict=True)
    ]
    return Traces(made) if given.batch else made[0]


def _traced(
    loaded: LoadedModel,
    row: Row,
    sites: frozenset[str],
    window: range,
    at: int,
    answers: Mapping[str, int | None],
    *,
    everywhere: bool,
) -> Trace:
    """The trace of one prompt."""
    loaded.check_hooks()
    loaded.check_attention()
    feed = row.feed(loaded)
    with loaded.running(row.length):
        result = run(loaded.anatomy, feed, sites=sites, layers=window, logits_at=None if everywhere else at)
    _check_pass(loaded, result, feed)
    check_trace(loaded.anatomy, feed, result, layers=window, at=at)
    stacks = {}
    for name, other in loaded.stacks.items():
        assert row.encoder is not None
        found, whole = result.sources[name], range(len(other.anatomy.blocks))
        last = row.encoder.length - 1
        check_trace(other.anatomy, row.encoder.feed(other), found, layers=whole, at=last)
        stacks[name] = _frozen(other, row.encoder, found, whole, last, dict.fromkeys(answers))
    if answers["target"] is None and result.logits is not None:
        best = int((result.logits if result.logits.ndim == 1 else result.logits[at]).argmax())
        answers = {**answers, "target": best}
    loaded.answers.refuse_same(answers["target"], answers["foil"])
    return replace(_frozen(loaded, row, result, window, at, answers), stacks=stacks)


@takes(instead=INPUTS_INSTEAD)
def trace_size(model: Any, text_or_ids: Any, *, keep: TraceSites | Iterable[str] | None = None) -> int:
    """Bytes that :func:`trace` would keep per layer sites, known before it runs; of a batch for all prompts together.

    Parameters as for :func:`trace`; logits, position vectors, norm scales and biases come on top and are small.

    Examples
    --------
    >>> model = fg.load_model("smollm2")
    >>> fg.trace_size(model, "a b c d") > fg.trace_size(model, "a b")
    True
    """
    loaded = load_model(model)
    what = keep if isinstance(keep, TraceSites) else TraceSites() if keep is None else TraceSites(frozenset(keep))
    window = _window(loaded, what)
    return sum(_size(loaded, _lengths(row), what.sites, window) for row in inputs(text_or_ids).of(loaded).rows)


def _lengths(row: Row) -> tuple[int, int]:
    """Number of tokens of the last stack, and of the encoder that it reads."""
    return row.length, 0 if row.encoder is None else row.encoder.length


def _size(loaded: LoadedModel, lengths: tuple[int, int], sites: frozenset[str], window: range) -> int:
    own, source = lengths
    kept = [site_shapes(loaded.anatomy, own, sites, layers=window, n_source=source)]
    kept += [
        site_shapes(one.anatomy, source, sites, layers=range(len(one.anatomy.blocks)), n_source=own)
        for one in loaded.stacks.values()
    ]
    return sum(torch.Size(shape).numel() for shapes in kept for shape in shapes.values()) * loaded.dtype.itemsize


def _what_fits(
    loaded: LoadedModel, lengths: Sequence[tuple[int, int]], sites: frozenset[str], window: range, max_bytes: int
) -> str:
    """What could be kept of prompts that are too long to keep ``sites`` of ``window``, in words and code."""

    def size(sites: frozenset[str], layers: int, lengths: Sequence[tuple[int, int]] = lengths) -> int:
        return sum(_size(loaded, n, sites, range(window.start, window.start + layers)) for n in lengths)

    def advice(sites: frozenset[str], layers: range) -> str:
        window = "" if len(layers) == len(loaded.anatomy.blocks) else f"layers=({layers.start}, {layers.stop})"
        names = "" if sites == frozenset(SITES) else f"{{{', '.join(map(repr, sorted(sites)))}}}"
        if sites == rest and not custom:
            names = "set(fg.SITES) - {'pattern'}"
        if window:
            names = ", ".join(filter(None, (f"frozenset({names})" if names else "", window)))
        return f"keep={f'TraceSites({names})' if window else names} ({size(sites, len(layers)):,} bytes)"

    pattern, rest, custom = frozenset({"pattern"}), sites - {"pattern"}, sites != frozenset(SITES)
    some = [pattern] * (pattern < sites) + [rest] * (not custom)
    fitting = [advice(one, window) for one in some if size(one, len(window)) <= max_bytes]
    for one in (sites, pattern):
        most = bisect_right(range(1, len(window)), max_bytes, key=partial(size, one))
        if most:
            fitting.append(advice(one, range(window.start, window.start + most)))
            break
    if fitting:
        return f"what fits: {'; '.join(fitting)}; or raise max_bytes"
    own, source = max(lengths)
    # Of both stacks in the same part, where there are two.
    longest = bisect_right(range(1, own), max_bytes, key=lambda n: size(pattern, 1, [(n, -(-source * n // own))]))
    shorter = f"shorten the prompt, to {longest} tokens for these, or " if longest else ""
    return f"not even this fits: {advice(pattern, range(window.start, window.start + 1))}; {shorter}raise max_bytes"


def _window(loaded: LoadedModel, keep: TraceSites) -> range:
    n_layers = len(loaded.anatomy.blocks)
    first, stop = keep.layers or (0, n_layers)
    if not 0 <= first < stop <= n_layers:
        raise ArgumentError(
            f"keep.layers={keep.layers} is not a window of this model; give (first, one past last) within 0…{n_layers}"
        )
    return range(first, stop)


def explained_of_row(loaded: LoadedModel, row: Row, position: int | None = None) -> int:
    """The position that is explained: of an image or a sound CLS where there is one, else the last; see :func:`explained_position`.

    Raises
    ------
    ArgumentError, PromptError
        As :func:`explained_position`.
    """
    readout = loaded.anatomy.readout
    if readout is not None:
        return _read_position(loaded, row, position)
    if row.axis is None:
        if position is None and row.generated:
            return _first_written(loaded, row.token_ids)
        return explained_position(loaded, row.token_ids, position)
    if position is None:
        return row.axis.special.index("CLS") if "CLS" in row.axis.special else len(row.axis) - 1
    if not -len(row.axis) <= position < len(row.axis):
        raise ArgumentError(f"position={position} is outside the {len(row.axis)} positions")
    return position % len(row.axis)


def _read_position(loaded: LoadedModel, row: Row, position: int | None) -> int:
    """The position that a classifier reads; where it reads several, CLS or the last unless another is asked for.

    Raises
    ------
    ArgumentError
        If another position is asked for than the one that is read.
    """
    readout, count = loaded.anatomy.readout, row.length
    assert readout is not None
    if position is not None and not -count <= position < count:
        raise ArgumentError(f"position={position} is outside the {count} positions")
    place = readout.position(count, row.ids or ())
    if place is None:
        has_cls = row.axis is not None and "CLS" in row.axis.special
        return position % count if position is not None else 0 if has_cls else count - 1
    if position is not None and position % count != place:
        raise ArgumentError(
            f"position={position}: {loaded.name!r} reads its classes at position {place} alone; leave position out"
        )
    return place


def explained_position(loaded: LoadedModel, ids: Sequence[int], position: int | None = None) -> int:
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
    readout = loaded.anatomy.readout
    if readout is not None and (place := readout.position(len(ids), ids)) is not None:
        return place
    # A decoder may have a masked model's head, as BERT's does; it predicts what comes next all the same.
    if loaded.anatomy.causal or loaded.anatomy.family.head_kind == "linear" or not loaded.anatomy.has_head:
        return len(ids) - 1
    mask = None if loaded.tokenizer is None else loaded.tokenizer.mask_token_id
    if mask not in ids:
        name = "its mask token" if mask is None else repr(loaded.tokenizer.mask_token)
        raise PromptError(
            f"{loaded.name!r} is a masked language model and the prompt has no {name}; put {name} where a token is to be "
            "predicted, or choose the position that is explained (position=; --position on the command line)"
        )
    return ids.index(mask)


def _sees_later(result: Pass) -> bool:
    """Whether a position saw later ones, as pieces of one image may see each other."""
    pattern = result.sites.get("pattern")
    return pattern is not None and bool(pattern.triu(1).any())


def _first_written(loaded: LoadedModel, ids: Sequence[int]) -> int:
    """The position before the first word that a decoder wrote by itself; before it stand its start and what says language or task."""
    special = set() if loaded.tokenizer is None else set(loaded.tokenizer.all_special_ids)
    return next((place for place, token in enumerate(ids[1:]) if token not in special), len(ids) - 1)


def _token_id(loaded: LoadedModel, value: str | int | None, name: str) -> int | None:
    if value is None:
        return None
    loaded.require_head(f"{name}={value!r}")
    return loaded.answers.target_id(value, name)


def _check_pass(loaded: LoadedModel, result: Pass, feed: Feed) -> None:
    """Refuse a pass of another vocabulary, or not finite; the full stream is traced again only to name the layer."""
    given = loaded.anatomy.d_vocab if result.logits is None else result.logits.shape[-1]
    if given != loaded.anatomy.d_vocab:
        raise ArchitectureError(
            f"{loaded.name!r} gives {given} logits, and had a vocabulary of {loaded.anatomy.d_vocab} when it was loaded; load it "
            "again with flowgraph.load_model"
        )
    seen = [t for t in (result.logits, result.final_scale, result.sites.get("resid_post")) if t is not None]
    # A model without a head of which only patterns, say, are kept: then those have to speak.
    seen = seen or list(result.sites.values())
    if all(bool(torch.isfinite(t[-1] if t.ndim == 3 else t).all()) for t in seen):
        return
    everywhere = range(len(loaded.anatomy.blocks))
    again = run(loaded.anatomy, feed, sites=frozenset({"resid_post"}), layers=everywhere, logits_at=None)
    check_finite(loaded.anatomy, again.sites["resid_post"], again.logits)


def _frozen(
    loaded: LoadedModel,
    row: Row,
    result: Pass,
    window: range,
    position: int,
    answers: Mapping[str, int | None],
) -> Trace:
    anatomy, vocabulary = loaded.anatomy, loaded.vocabulary
    blocks = anatomy.blocks[window.start : window.stop]
    zero = torch.zeros(anatomy.d_model, dtype=torch.promote_types(loaded.dtype, torch.float32), device=loaded.device)
    biases = {
        # A layer without the part has no bias, whatever the others have.
        name: torch.stack([zero if bias is None else bias for bias in rows])
        for name, rows in (
            ("attn", [None if b.attention_output is None else b.attention_output.bias for b in blocks]),
            ("cross", [None if b.cross is None else b.cross.output_projection.bias for b in blocks]),
            ("mlp", [None if b.mlp_output is None else b.mlp_output.bias for b in blocks]),
        )
        if any(bias is not None for bias in rows)
    }
    words = {name: None if value is None else loaded.answers.string(value) for name, value in answers.items()}
    return Trace(
        model_name=loaded.name,
        family=anatomy.family.name,
        wiring=anatomy.wiring,
        prompt=row.prompt,
        tokens=row.mixed.labels
        if row.mixed
        else vocabulary.strings(row.token_ids)
        if row.axis is None
        else row.axis.labels,
        token_ids=row.token_ids if row.axis is None else (),
        position=position,
        target=answers["target"],
        foil=answers["foil"],
        target_token=words["target"],
        foil_token=words["foil"],
        logits=result.logits,
        sites=result.sites,
        layers=(window.start, window.stop),
        n_layers=len(anatomy.blocks),
        n_heads=anatomy.n_heads,
        causal=anatomy.causal and (row.beside is None or not _sees_later(result)),
        biases=biases,
        position_embedding=result.position_embedding,
        final_scale=result.final_scale,
        fingerprint=loaded.fingerprint(),
        loaded=loaded,
        fed=row,
        classes=anatomy.labels,
    )
