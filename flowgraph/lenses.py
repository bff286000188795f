"""Reading vectors of the forward pass in vocabulary, and taking a logit apart into what wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ArgumentError, UnsupportedReadingError
from .models import LoadedModel
from .models.anatomy import Norm
from .models.memory import room
from .reading import Reading
from .recorded import Trace

READING_SITES: tuple[str, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_out")
"""Sites that :func:`read_site` and :meth:`Trace.record` can read."""

_GEMM_BYTES = 64 * 2**20
_CACHE_ROWS = 4
_BLOCK = 64


def read(
    trace: Trace, vectors: Float[Tensor, "*N d_model"], k: int = 10, *, target: str | int | None = None
) -> Reading:
    """Read vectors in vocabulary: the model's own final norm on each vector alone, then its head.

    Parameters
    ----------
    trace
        A trace with a model attached.
    vectors
        [..., d_model], each read by itself. A reading of a component is not additive; that is what
        :func:`direct_logit_attribution` is for.
    k
        How many top and bottom tokens to keep.
    target
        Token that probability, rank and log-probability speak of; default the trace's target.

    Raises
    ------
    UnsupportedReadingError
        If the model has no head.
    ArgumentError
        If k or the shape of the vectors does not fit.

    References
    ----------
    nostalgebraist (2020), "interpreting GPT: the logit lens".
    """
    loaded = trace.model
    loaded.require_head("a reading")
    d_model, d_vocab = loaded.anatomy.d_model, loaded.anatomy.d_vocab
    if not 1 <= k <= d_vocab:
        raise ArgumentError(f"k={k} must be between 1 and {d_vocab}, the size of the vocabulary")
    if vectors.ndim == 0 or vectors.shape[-1] != d_model:
        raise ArgumentError(f"vectors have shape {tuple(vectors.shape)}; the last axis must be d_model={d_model}")
    target_id = _target(trace, target)
    flat = vectors.detach().reshape(-1, d_model).to(loaded.device)
    parts = [_statistics(logits, k, target_id) for logits in _project(loaded, flat)]
    columns = (
        {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]} if parts else _empty(k)
    )
    return Reading(
        **columns,
        top_tokens=tuple(loaded.vocabulary.strings(ids) for ids in columns["top_token_ids"].tolist()),
        bottom_tokens=tuple(loaded.vocabulary.strings(ids) for ids in columns["bottom_token_ids"].tolist()),
        target=target_id,
        target_token=loaded.vocabulary.string(target_id),
        norm=_wide(flat).norm(dim=-1).cpu().numpy(),
        shape=tuple(vectors.shape[:-1]),
    )


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
    if site == "head_out":
        return read(trace, head_outputs(trace), k, target=target)
    if site == "resid_mid" and trace.resid_mid is None:
        raise ArgumentError(
            "site='resid_mid': blocks of this model are parallel and have no state between attention and MLP"
        )
    return read(trace, trace.site(site), k, target=target)


def head_outputs(trace: Trace) -> Float[Tensor, "layer head position d_model"]:
    """[layer, head, position, d_model] what each head writes: z W_O. Their sum and the bias is ``attn_out``.

    In sandwich blocks it goes through the post-norm, frozen at its scale.
    """
    anatomy = trace.model.anatomy
    first, stop = trace.layers
    rows = []
    for row, layer in enumerate(range(first, stop)):
        written = _wide(trace.z[row]) @ anatomy.W_O(layer)
        post_norm = anatomy.blocks[layer].attention_post_norm
        if post_norm is not None:
            written = post_norm.linear(written, trace.norm_scales["attention_post"][row])
        rows.append(written)
    return torch.stack(rows)


def unembed(trace: Trace, vectors: Float[Tensor, "*N d_model"]) -> Float[Tensor, "*N d_vocab"]:
    """[..., d_vocab] logits of vectors read by themselves; at the last layer these are the model's own logits."""
    loaded = trace.model
    loaded.require_head("unembedding")
    flat = vectors.detach().reshape(-1, vectors.shape[-1]).to(loaded.device)
    found = flat.new_empty((len(flat), loaded.anatomy.d_vocab), dtype=_wide_type(loaded))
    row = 0
    for logits in _project(loaded, flat):
        found[row : row + len(logits)] = logits
        row += len(logits)
    return found.reshape(*vectors.shape[:-1], loaded.anatomy.d_vocab)


@dataclass(frozen=True, eq=False)
class DirectLogitAttribution:
    """A logit, or a difference of two, as a sum over what wrote to the residual stream. All parts are in logits.

    Attributes
    ----------
    heads
        [layer, head] what each head wrote at the position.
    heads_by_source
        [layer, head, key_pos] the same, by the position the head read from; sums to ``heads``.
    mlps
        [layer] what each MLP wrote, its output bias apart.
    neurons
        [layer, d_mlp] what each neuron wrote; sums to ``mlps``.
    embedding, position_embedding
        The token's and the position's own vector.
    biases
        ``"L3.attn_bias"``, ``"L3.mlp_bias"``, ``"final_norm_bias"``, ``"unembed_bias"`` → part.
    logit
        The model's logit before a soft-cap (target minus foil when there is a foil).
    completeness_error
        |Σ parts − logit| / max(1, |logit|).
    target, foil, position
        Token ids and query position.
    """

    heads: Float[np.ndarray, "layer head"]
    heads_by_source: Float[np.ndarray, "layer head key_pos"]
    mlps: Float[np.ndarray, "layer"]
    neurons: Float[np.ndarray, "layer d_mlp"]
    embedding: float
    position_embedding: float
    biases: Mapping[str, float]
    logit: float
    completeness_error: float
    target: int
    foil: int | None
    position: int

    @property
    def total(self) -> float:
        """Sum of all parts."""
        parts = float(self.heads.sum() + self.mlps.sum()) + self.embedding + self.position_embedding
        return parts + sum(self.biases.values())


def direct_logit_attribution(
    trace: Trace, target: str | int | None = None, foil: str | int | None = None, *, position: int = -1
) -> DirectLogitAttribution:
    """Take the logit of a token apart into what each head, neuron, embedding and bias wrote.

    The final norm is frozen at the scale of the actual final state, so that it is linear and the parts add up:
    completeness_error says how well.

    Parameters
    ----------
    trace
        A trace of all layers with its model attached.
    target, foil
        Token, and optionally the token whose logit is subtracted; default those of the trace.
    position
        Query position; −1 is the last token.

    Raises
    ------
    UnsupportedReadingError
        If the head is not norm + linear (masked language models), if blocks normalise the stream itself (post-norm), or if
        there is no head: then parts do not add up to a logit.
    """
    loaded = trace.model
    _require_linear(loaded)
    if trace.layers != (0, trace.n_layers):
        raise ArgumentError(
            f"direct_logit_attribution needs all {trace.n_layers} layers; the trace kept {trace.layers}"
        )
    count = len(trace.tokens)
    if not -count <= position < count:
        raise ArgumentError(f"position={position} is outside the prompt of {count} tokens")
    at = position % count
    target_id = _target(trace, target)
    foil_id = (
        trace.foil
        if foil is None and target is None
        else None
        if foil is None
        else loaded.vocabulary.target_id(foil, "foil")
    )
    direction, head_bias = _direction(loaded, trace, target_id, at)
    logit = _logit_before_cap(trace, target_id, at)
    if foil_id is not None:
        foil_direction, foil_bias = _direction(loaded, trace, foil_id, at)
        direction, head_bias = (
            direction - foil_direction,
            {name: head_bias[name] - foil_bias[name] for name in head_bias},
        )
        logit -= _logit_before_cap(trace, foil_id, at)
    return _attribute(trace, direction, head_bias, logit, (target_id, foil_id, at))


def _attribute(
    trace: Trace, direction: Tensor, head_bias: dict[str, float], logit: float, aim: tuple[int, int | None, int]
) -> DirectLogitAttribution:
    anatomy, at = trace.model.anatomy, aim[2]
    by_source, neurons = [], []
    biases: dict[str, float] = {}
    for layer, block in enumerate(anatomy.blocks):
        toward = _through(block.attention_post_norm, trace, "attention_post", layer, at, direction)
        reads = anatomy.W_O(layer) @ toward
        values = anatomy.per_query_head(_wide(trace.v[layer]))
        by_source.append(_wide(trace.pattern[layer, :, at]) * torch.einsum("hsd,hd->hs", values, reads))
        biases |= _bias(
            block.attention_output.bias, block.attention_post_norm, toward, direction, f"L{layer}.attn_bias"
        )
        toward = _through(block.mlp_post_norm, trace, "mlp_post", layer, at, direction)
        neurons.append(_wide(trace.neurons[layer, at]) * (block.mlp_output.weight @ toward))
        biases |= _bias(block.mlp_output.bias, block.mlp_post_norm, toward, direction, f"L{layer}.mlp_bias")
    # Summed in float64: thousands of neurons of either sign cancel.
    heads_by_source = torch.stack(by_source).double().cpu().numpy()
    by_neuron = torch.stack(neurons).double().cpu().numpy()
    first = _wide(trace.resid_pre[0, at])
    place = None if trace.position_embedding is None else _wide(trace.position_embedding[at])
    result = DirectLogitAttribution(
        heads=heads_by_source.sum(-1),
        heads_by_source=heads_by_source,
        mlps=by_neuron.sum(-1),
        neurons=by_neuron,
        embedding=float((first if place is None else first - place) @ direction),
        position_embedding=0.0 if place is None else float(place @ direction),
        biases=biases | head_bias,
        logit=logit,
        completeness_error=0.0,
        target=aim[0],
        foil=aim[1],
        position=at,
    )
    object.__setattr__(result, "completeness_error", abs(result.total - logit) / max(1.0, abs(logit)))
    return result


def _through(norm: Norm | None, trace: Trace, name: str, layer: int, position: int, direction: Tensor) -> Tensor:
    """The direction as seen before a post-norm that is frozen at its actual scale."""
    return direction if norm is None else norm.transposed(direction, trace.norm_scales[name][layer, position])


def _bias(bias: Tensor | None, norm: Norm | None, before: Tensor, after: Tensor, name: str) -> dict[str, float]:
    parts = [0.0 if bias is None else float(bias @ before)]
    if norm is not None and norm.bias is not None:
        parts.append(float(norm.bias @ after))
    return {name: sum(parts)} if bias is not None or len(parts) > 1 else {}


def _direction(loaded: LoadedModel, trace: Trace, token_id: int, position: int) -> tuple[Tensor, dict[str, float]]:
    """[d_model] vector whose dot product with a part is its share of the token's logit, and the head's own biases."""
    anatomy = loaded.anatomy
    *inner, last = anatomy.head
    column = _wide(last.weight[token_id].detach())
    biases = {} if getattr(last, "bias", None) is None else {"unembed_bias": float(last.bias[token_id].detach())}
    for module in reversed(inner):
        if getattr(module, "bias", None) is not None:
            biases["unembed_bias"] = biases.get("unembed_bias", 0.0) + float(_wide(module.bias.detach()) @ column)
        column = column @ _wide(module.weight.detach())
    norm = anatomy.final_norm
    if norm is None:
        return column, biases
    if norm.bias is not None:
        biases["final_norm_bias"] = float(norm.bias @ column)
    assert trace.final_scale is not None
    return norm.transposed(column, trace.final_scale[position]), biases


def _logit_before_cap(trace: Trace, token_id: int, position: int) -> float:
    """The logit that the parts should add up to.

    Where the trace holds the model's own logit and there is no soft-cap, that; a soft-cap near its limit cannot be undone
    from the logit, so there the final state is put through norm and head again.
    """
    anatomy = trace.model.anatomy
    if anatomy.softcap is None and trace.logits is not None:
        if trace.logits.ndim == 2:
            return float(trace.logits[position, token_id])
        if position == trace.position:
            return float(trace.logits[token_id])
    state = trace.resid_post[-1, position][None].to(trace.model.device)
    return float(_project_rows(trace.model, state, softcap=False)[0, token_id])


def _require_linear(loaded: LoadedModel) -> None:
    loaded.require_head("direct logit attribution")
    if loaded.anatomy.family.head_kind == "masked":
        raise UnsupportedReadingError(
            f"{loaded.name!r} is a masked language model: its head is dense + activation + norm + linear, which is not linear "
            "in the residual stream, so no direct logit attribution exists. Use read() or logit_lens()"
        )
    if loaded.anatomy.wiring == "post_norm":
        raise UnsupportedReadingError(
            f"blocks of {loaded.name!r} normalise the residual stream itself (post-norm), so what was written does not add up "
            "to the final state and no direct logit attribution exists. Use read() or logit_lens()"
        )


def _target(trace: Trace, target: str | int | None) -> int:
    if target is not None:
        return trace.model.vocabulary.target_id(target)
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
    buffer = room((rows, d_vocab), flat.new_empty(0, dtype=_wide_type(loaded)))
    for chunk in flat.split(rows):
        yield _project_rows(loaded, chunk, out=buffer[: len(chunk)])


def _project_rows(
    loaded: LoadedModel, x: Float[Tensor, "n d_model"], *, softcap: bool = True, out: Tensor | None = None
) -> Float[Tensor, "n d_vocab"]:
    """Logits of a few rows, in ``out`` where the head is linear."""
    anatomy = loaded.anatomy
    with torch.no_grad():
        if anatomy.final_norm is not None:
            norm = anatomy.final_norm
            normed = norm.linear(x, norm.scale(x))
            x = normed if norm.bias is None else normed + norm.bias
        if anatomy.family.head_kind == "masked":
            for module in anatomy.head:
                x = module(x.to(loaded.dtype))
            return _wide(x)
        *inner, last = anatomy.head
        for module in inner:
            x = _linear(loaded, module, _wide(x), None)
        x = _linear(loaded, last, _wide(x), out)
    if softcap and anatomy.softcap is not None:
        x = x.div_(anatomy.softcap).tanh_().mul_(anatomy.softcap)
    return x


def _linear(loaded: LoadedModel, module: Any, x: Tensor, out: Tensor | None) -> Tensor:
    bias = getattr(module, "bias", None)
    weight = loaded.widened(module.weight)
    x = x.to(weight.dtype)
    if bias is None:
        return torch.mm(x, weight.T, out=out)
    return torch.addmm(bias.to(weight.dtype), x, weight.T, out=out)


def _statistics(logits: Float[Tensor, "n V"], k: int, target: int) -> dict[str, Tensor]:
    """Everything a reading keeps of some rows of logits."""
    at_target = logits[:, target].clone()
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
    target_log = at_target - log_z
    return {
        "top_token_ids": top_ids,
        "top_logits": top,
        "top_probabilities": (top - log_z[:, None]).exp(),
        "bottom_token_ids": bottom_ids,
        "bottom_logits": bottom,
        "bottom_probabilities": (bottom - log_z[:, None]).exp(),
        "target_logit": at_target,
        "target_log_probability": target_log,
        "target_probability": target_log.exp(),
        "target_rank": rank,
        "entropy": entropy.clamp_min(0.0),
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


def _empty(k: int) -> dict[str, np.ndarray]:
    integers = {name: np.zeros((0, k), np.int64) for name in ("top_token_ids", "bottom_token_ids")}
    tables = ("top_logits", "top_probabilities", "bottom_logits", "bottom_probabilities")
    rows = ("target_logit", "target_log_probability", "target_probability", "entropy")
    return (
        integers
        | {name: np.zeros((0, k), np.float32) for name in tables}
        | {name: np.zeros(0, np.float32) for name in rows}
        | {"target_rank": np.zeros(0, np.int64)}
    )


def _wide_type(loaded: LoadedModel) -> torch.dtype:
    return torch.float64 if loaded.dtype == torch.float64 else torch.float32


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
