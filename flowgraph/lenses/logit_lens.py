"""Reading vectors of the forward pass in vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArgumentError
from ..models import LoadedModel
from ..models.anatomy import upcast
from ..models.memory import empty_buffer
from ..models.parameters import bias_of
from ..values.arguments import takes
from ..values.reading import Reading
from ..values.trace import Trace

READING_SITES: tuple[str, ...] = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out", "resid_cross", "cross_out", "cross_head_out",
)  # fmt: skip
"""Sites that :func:`read_site` and :meth:`Trace.record` can read."""

_GEMM_BYTES = 64 * 2**20
_CACHE_ROWS = 4
_BLOCK = 64


@takes(Trace)
def read(
    trace: Trace,
    vectors: Float[Tensor, "*N d_model"],
    k: int = 10,
    *,
    target: str | int | None = None,
    foil: str | int | None = None,
) -> Reading:
    """Read vectors in vocabulary: the model's own final norm on each vector alone, then its head.

    Parameters
    ----------
    trace
        A trace with a model attached.
    vectors
        [..., d_model], each read by itself. A reading of a component is not additive; that is what
        :func:`flowgraph.direct_logit_attribution` is for.
    k
        How many top and bottom tokens to keep; of a classifier at most all classes.
    target
        Token that probability, rank and log-probability speak of; default the trace's target.
    foil
        A second token to say the same of; default the trace's foil if the target is the trace's, else none.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If k or the shape of the vectors does not fit.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens".

    Examples
    --------
    >>> states = trace.site("resid_post")[:, -1]
    >>> reading = fg.read(trace, states)
    >>> reading[29].top[0][0], reading[29].target_rank
    (' Tokyo', 1)
    """
    loaded = trace.model
    loaded.require_head("a reading")
    d_model, d_vocab = loaded.anatomy.d_model, loaded.anatomy.d_vocab
    k = k if loaded.anatomy.readout is None else min(k, d_vocab)
    if not 1 <= k <= d_vocab:
        raise ArgumentError(f"k={k} must be between 1 and {d_vocab}, the size of the vocabulary")
    _check_vectors(vectors, d_model)
    target_id = target_id_of(trace, target)
    foil_id = trace.foil if foil is None and target is None else None
    if foil is not None:
        foil_id = loaded.answers.target_id(foil, "foil")
        loaded.answers.refuse_same(target_id, foil_id)
    answers = {"target": target_id} if foil_id is None else {"target": target_id, "foil": foil_id}
    flat = vectors.detach().reshape(-1, d_model).to(loaded.device)
    parts = [_statistics(logits, k, answers) for logits in _project(loaded, flat)] or [
        _empty(flat.new_zeros((1, d_vocab), dtype=_wide_type(loaded)), k, answers)
    ]
    columns = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    return Reading(
        **columns,
        top_tokens=tuple(loaded.answers.strings(ids) for ids in columns["top_token_ids"].tolist()),
        bottom_tokens=tuple(loaded.answers.strings(ids) for ids in columns["bottom_token_ids"].tolist()),
        target=target_id,
        target_token=loaded.answers.string(target_id),
        foil=foil_id,
        foil_token=None if foil_id is None else loaded.answers.string(foil_id),
        norm=upcast(flat).norm(dim=-1).cpu().numpy(),
        shape=tuple(vectors.shape[:-1]),
    )


@takes(Trace)
def logit_lens(trace: Trace, *, site: str = "resid_post", k: int = 10, target: str | int | None = None) -> Reading:
    """Read the residual stream at every layer and position.

    Returns a :class:`Reading` of shape (layer, position): ``logit_lens(trace)[-1, -1]`` is the model's own prediction.

    Parameters
    ----------
    trace
        A trace that holds ``site``; it needs its model unless this reading was recorded.
    site
        ``"resid_post"``, ``"resid_pre"`` or another of ``READING_SITES``.
    k, target
        As for :func:`read`.

    Examples
    --------
    >>> lens = fg.logit_lens(trace)  # layer, position
    >>> [lens[layer, -1].target_rank == 1 for layer in (10, 29)]
    [False, True]
    >>> lens[29, -1].top[0][0]
    ' Tokyo'
    """
    recorded = trace.recorded_readings.get(site)
    if recorded is not None and trace.loaded is None:
        return _recorded(recorded, site, k, target)
    return read_site(trace, site, k=k, target=target)


def read_site(trace: Trace, site: str, *, k: int = 10, target: str | int | None = None) -> Reading:
    """Read every vector of one site: shape (layer, position), for ``head_out`` (layer, head, position).

    Raises
    ------
    ArgumentError
        If the site cannot be read in vocabulary.
    """
    if site not in READING_SITES:
        raise ArgumentError(f"site={site!r} is not read in vocabulary; expected one of {', '.join(READING_SITES)}")
    named: dict[str, Any] = {"first_layer": trace.layers[0], "prompt_tokens": trace.tokens}
    if site == "cross_head_out":
        return read(trace, head_outputs(trace, cross=True), k, target=target).named(
            ("layer", "head", "position"), **named
        )
    if site == "head_out":
        return read(trace, head_outputs(trace), k, target=target).named(("layer", "head", "position"), **named)
    if site == "resid_mid" and trace.resid_mid is None:
        raise ArgumentError(
            "site='resid_mid': blocks of this model are parallel and have no state between attention and MLP"
        )
    return read(trace, trace.site(site), k, target=target).named(("layer", "position"), **named)


def head_outputs(trace: Trace, *, cross: bool = False) -> Float[Tensor, "layer head position d_model"]:
    """[layer, head, position, d_model] what each head writes: z W_O. Their sum and the bias is ``attn_out``.

    In sandwich blocks it goes through the post-norm, frozen at its scale. With ``cross``, of the heads that read the encoder, whose
    sum and bias is ``cross_out``.
    """
    anatomy = trace.model.anatomy if not cross else trace.model.anatomy.reader_of_encoder
    z, scale = trace.site("cross_z" if cross else "z"), "cross_post" if cross else "attention_post"
    first, stop = trace.layers
    rows = []
    for row, layer in enumerate(range(first, stop)):
        written = upcast(z[row]) @ anatomy.W_O(layer)
        post_norm = anatomy.blocks[layer].attention_post_norm
        if post_norm is not None:
            written = post_norm.linear(written, trace.norm_scales[scale][row])
        rows.append(written)
    return torch.stack(rows)


def _check_vectors(vectors: Any, d_model: int) -> None:
    if not isinstance(vectors, Tensor):
        raise ArgumentError(
            f"vectors= is a {type(vectors).__name__}; expected a tensor whose last axis is d_model={d_model}"
        )
    if vectors.ndim == 0 or vectors.shape[-1] != d_model:
        raise ArgumentError(f"vectors have shape {tuple(vectors.shape)}; the last axis must be d_model={d_model}")


@takes(Trace)
def unembed(trace: Trace, vectors: Float[Tensor, "*N d_model"]) -> Float[Tensor, "*N d_vocab"]:
    """[..., d_vocab] logits of vectors read by themselves; at the last layer these are the model's own logits.

    Examples
    --------
    >>> logits = fg.unembed(trace, trace.site("resid_post")[-1, -1])
    >>> logits.argmax().item() == trace.target
    True
    """
    loaded = trace.model
    loaded.require_head("unembedding")
    _check_vectors(vectors, loaded.anatomy.d_model)
    flat = vectors.detach().reshape(-1, vectors.shape[-1]).to(loaded.device)
    found = flat.new_empty((len(flat), loaded.anatomy.d_vocab), dtype=_wide_type(loaded))
    row = 0
    for logits in _project(loaded, flat):
        found[row : row + len(logits)] = logits
        row += len(logits)
    return found.reshape(*vectors.shape[:-1], loaded.anatomy.d_vocab)


def target_id_of(trace: Trace, target: str | int | None) -> int:
    """Id of a target that is given, or the trace's own."""
    if target is not None:
        return trace.model.answers.target_id(target)
    assert trace.target is not None  # a model with a head always has one
    return trace.target


def _recorded(reading: Reading, site: str, k: int, target: str | int | None) -> Reading:
    if target not in (None, reading.target, reading.target_token):
        raise ArgumentError(
            f"the recorded reading of {site!r} speaks of {reading.target_token!r}, not of {target!r}; attach the model"
        )
    if k > reading.top_token_ids.shape[1]:
        raise ArgumentError(
            f"the recorded reading of {site!r} holds {reading.top_token_ids.shape[1]} tokens, k={k}; attach the model"
        )
    return reading


def _project(loaded: LoadedModel, flat: Float[Tensor, "N d_model"]) -> Iterator[Float[Tensor, "n d_vocab"]]:
    """Logits of all rows, in equal chunks of at most 64 MB. A chunk is overwritten by the next one."""
    if not len(flat):
        return
    d_vocab = loaded.anatomy.d_vocab
    chunks = -(-len(flat) // max(1, _GEMM_BYTES // (4 * d_vocab)))
    rows = -(-len(flat) // chunks)
    # One buffer for all chunks: its pages are touched for the first time once, which costs as much as a fifth of the product.
    buffer = empty_buffer((rows, d_vocab), flat.new_empty(0, dtype=_wide_type(loaded)))
    for chunk in flat.split(rows):
        yield logits_of_rows(loaded, chunk, out=buffer[: len(chunk)])


def logits_of_rows(
    loaded: LoadedModel, x: Float[Tensor, "n d_model"], *, softcap: bool = True, out: Tensor | None = None
) -> Float[Tensor, "n d_vocab"]:
    """Logits of a few rows, in ``out`` where the head is linear."""
    anatomy = loaded.anatomy
    with torch.no_grad():
        if anatomy.final_norm is not None:
            norm = anatomy.final_norm
            normed = norm.linear(x, norm.scale(x))
            x = normed if norm.bias is None else normed + norm.bias
        if anatomy.has_whole_head:
            for module in anatomy.head:
                x = module(x.to(loaded.dtype))
            return upcast(x)
        *inner, last = anatomy.head
        for module in inner:
            x = _linear(loaded, module, upcast(x), None)
        x = _linear(loaded, last, upcast(x), out)
        if anatomy.logit_factor != 1.0:
            x = x.mul_(anatomy.logit_factor)
    if softcap and anatomy.softcap is not None:
        x = x.div_(anatomy.softcap).tanh_().mul_(anatomy.softcap)
    return x


def _linear(loaded: LoadedModel, module: Any, x: Tensor, out: Tensor | None) -> Tensor:
    bias = bias_of(module)
    weight = loaded.widened(module)
    x = x.to(weight.dtype)
    if bias is None:
        return torch.mm(x, weight.T, out=out)
    return torch.addmm(bias.to(weight.dtype), x, weight.T, out=out)


def _statistics(logits: Float[Tensor, "n V"], k: int, answers: dict[str, int]) -> dict[str, Tensor]:
    """Everything a reading keeps of some rows of logits; ``answers`` are token ids by the name of their role."""
    at_answers = {name: logits[:, token_id].clone() for name, token_id in answers.items()}
    at_target = at_answers["target"]
    # On a CPU a few rows stay in a core's cache over all passes; an accelerator wants all of them.
    rows = _CACHE_ROWS if logits.device.type == "cpu" else len(logits)
    first, second = (logits.new_empty((min(rows, len(logits)), logits.shape[1])) for _ in range(2))
    sums = [
        _sums(block, wanted, first[: len(block)], second[: len(block)])
        for block, wanted in zip(logits.split(rows), at_target.split(rows), strict=True)
    ]
    rank, log_z, entropy, highest, lowest = (torch.cat(column) for column in zip(*sums, strict=True))
    top, top_ids = _extremes(logits, k, largest=True, best=highest)
    bottom, bottom_ids = _extremes(logits, k, largest=False, best=lowest)
    ranks = {name: 1 + (logits > at[:, None]).sum(-1) for name, at in at_answers.items() if name != "target"}
    aimed: dict[str, Tensor] = {}
    for name, at in at_answers.items():
        aimed |= {
            f"{name}_logit": at,
            f"{name}_log_probability": at - log_z,
            f"{name}_probability": (at - log_z).exp(),
            f"{name}_rank": ranks.get(name, rank),
        }
    return {
        "top_token_ids": top_ids,
        "top_logits": top,
        "top_probabilities": (top - log_z[:, None]).exp(),
        "bottom_token_ids": bottom_ids,
        "bottom_logits": bottom,
        "bottom_probabilities": (bottom - log_z[:, None]).exp(),
        "entropy": entropy.clamp_min(0.0),
        **aimed,
    }


def _sums(
    logits: Float[Tensor, "n V"],
    at_target: Float[Tensor, "n"],
    first: Float[Tensor, "n V"],
    second: Float[Tensor, "n V"],
) -> tuple[Tensor, ...]:
    """What takes a pass over whole rows: rank, log of the normaliser, entropy, and the maxima and minima of columns.

    ``first`` and ``second`` are scratch space.
    """
    width = logits.shape[1] // _BLOCK
    grid = logits[:, : width * _BLOCK].unflatten(1, (_BLOCK, width))
    highest, lowest = grid.amax(1), grid.amin(1)
    peak = logits.amax(-1, keepdim=True)
    # A comparison written as 0.0 and 1.0 is several times faster than one written as truth values. A float counts exactly
    # up to 2²⁴, which no vocabulary reaches.
    rank = 1 + torch.gt(logits, at_target[:, None], out=first).sum(-1).long()
    shifted = torch.sub(logits, peak, out=first)
    exponentials = torch.exp(shifted, out=second)
    total = exponentials.sum(-1)
    log_sum = total.log()
    entropy = log_sum - exponentials.mul_(shifted).sum(-1) / total
    return rank, peak[:, 0] + log_sum, entropy, highest, lowest


def _extremes(
    logits: Float[Tensor, "n V"], k: int, *, largest: bool, best: Float[Tensor, "n width"] | None = None
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """The k largest (smallest) logits of each row and their ids, exact.

    The k best numbers lie in the k columns of [64, V/64] whose best numbers are best, so one pass of maxima replaces a
    selection over the whole row; ``best`` are those of the columns, where they are known.
    """
    n, size = logits.shape
    width = size // _BLOCK
    if k >= width:
        found = logits.topk(k, largest=largest)
        return found.values, found.indices
    grid = logits[:, : width * _BLOCK].unflatten(1, (_BLOCK, width))
    if best is None:
        best = grid.amax(1) if largest else grid.amin(1)
    columns = best.topk(k, largest=largest).indices
    inside = grid.gather(2, columns[:, None].expand(-1, _BLOCK, -1)).flatten(1)
    ids = (torch.arange(_BLOCK, device=logits.device)[None, :, None] * width + columns[:, None]).flatten(1)
    rest = torch.arange(width * _BLOCK, size, device=logits.device).expand(n, -1)
    candidates = torch.cat((inside, logits[:, width * _BLOCK :]), dim=1)
    found = candidates.topk(k, largest=largest)
    return found.values, torch.cat((ids, rest), dim=1).gather(1, found.indices)


def _empty(logits: Float[Tensor, "1 V"], k: int, answers: dict[str, int]) -> dict[str, Tensor]:
    """Statistics of no rows."""
    return {name: value[:0] for name, value in _statistics(logits, k, answers).items()}


def _wide_type(loaded: LoadedModel) -> torch.dtype:
    return torch.float64 if loaded.dtype == torch.float64 else torch.float32
