"""Checks of every trace, beside the proof at loading: the identities of its sites, in a cheap form.

The proof sees five tokens; a fault that depends on the length or on the tokens shows only in the pass itself. The checks look at
a sample of positions that always holds the explained and the last one. They compare products with large weights along one
random direction (Freivalds 1979): a wrong product agrees along it only by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArchitectureError
from .anatomy import Anatomy, Norm, Projection, upcast
from .forward import Feed, Pass, spread
from .kinds import image_token_of
from .parameters import bias_of, key_of, matrix_of, version
from .proof import unpacking_error

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""Largest relative error on a prompt. Rounding grows with the size of scores and the length, a wrong row fails by a factor."""

_MOST_TOKENS = 64
IMAGES = "pixel_values"
"""Argument that holds the images beside a text."""
_OF_HEADS = ("pattern", "q", "k", "q_proj", "k_proj", "v", "z", "z_gate", "norm_scales.query", "norm_scales.key")

_OF_STREAM = ("the residual stream adds up", "the MLP reads the state that the wiring says")
_Errors = dict[str, Float[Tensor, "layer"]]
# Weak, so that a model that is gone takes its products along; the key of each product says which weights it was made
# of.
_along: WeakKeyDictionary[Any, dict[tuple[Any, ...], Tensor]] = WeakKeyDictionary()


def check_trace(anatomy: Anatomy, feed: Feed, record: Pass, *, layers: range, at: int) -> None:
    """Check every identity of the sites that a pass kept.

    Parameters
    ----------
    anatomy, feed
        The model's parts and arguments.
    record, layers
        The pass, and the layers that it kept.
    at
        The explained position.

    Raises
    ------
    ArchitectureError
        If an identity does not hold; the message names it, the layer and the error.
    """
    fault = _fault(anatomy, feed, record, layers, at)
    if fault is not None and anatomy.model in _along:
        # Weights that were changed without torch's notice are no fault of the row: once more, from the weights as they are.
        del _along[anatomy.model]
        fault = _fault(anatomy, feed, record, layers, at)
    if fault is None:
        return
    name, layer, error, tolerance = fault
    where = "" if layer is None else f" in layer {layer}"
    if unpacking_error(anatomy, name):
        raise ArchitectureError(
            f"on this pass of {feed['input_ids'].shape[1]} tokens '{name}' fails{where} with relative error {error:.2g} (at most "
            f"{tolerance:g} is allowed for packed weights): the kernels of {', '.join(kind for kind, _ in anatomy.packings)} round too "
            "much here for what is computed from the weights to be trusted. Keep fewer sites (keep=), or load the model unquantised"
        )
    added = getattr(getattr(anatomy.model.config, "vision_config", None), "deepstack_visual_indexes", None)
    if added and IMAGES in feed and name in _OF_STREAM:
        raise ArchitectureError(
            f"{type(anatomy.model).__name__} adds features of the image to the states that leave its first {len(added)} layers (DeepStack): "
            f"no head and no MLP writes them, so with an image '{name}' fails{where} with relative error {error:.2g}. What needs no "
            "states can be kept: keep={'pattern', 'q', 'k', 'v', 'z'}; texts without an image are traced whole"
        )
    raise ArchitectureError(
        f"this pass of {_length(record)} {'tokens' if anatomy.ids_name in feed else 'positions'} is not what the row {anatomy.family.name!r} says of "
        f"{type(anatomy.model).__name__}: the identity '{name}' fails{where} with relative error {error:.2g} (at most "
        f"{tolerance:g} is rounding), so nothing computed from it could be trusted. It held on the short prompt at loading: the "
        "model does something with longer or with other prompts that the row does not know. Keep fewer sites (keep=) to see "
        "what is left, or write a row for this model (flowgraph.register_family)"
    )


def trace_errors(anatomy: Anatomy, feed: Feed, record: Pass, *, layers: range, at: int) -> _Errors:
    """Relative error of every identity that the kept sites allow: [layer] each, of the whole model [1].

    Parameters as for :func:`check_trace`.
    """
    sites = record.sites
    like = next(iter(feed.values()))
    rows = _sample(_length(record), at, like.device)
    errors: _Errors = {}
    if "pattern" in sites:
        # Pieces of one image may see each other, and what is written before an image may see all of it.
        errors |= _attention_errors(anatomy, record, layers, rows, causal=anatomy.causal and IMAGES not in feed)
    if record.output_errors:
        errors["pattern · v = z"] = torch.stack([record.output_errors[row] for row in range(len(layers))])
    errors |= _written_errors(anatomy, sites, layers, rows)
    if anatomy.cross is not None and record.cross is not None:
        part: _Errors = {}
        if "pattern" in record.cross.sites:
            part |= _attention_errors(anatomy.cross, record.cross, layers, rows, causal=False)
        part |= _written_errors(anatomy.cross, record.cross.sites, layers, rows)
        errors |= {f"{name}, to the other stack": error for name, error in part.items()}
    errors |= _stream_errors(anatomy, sites, layers, rows)
    if {"resid_pre"} <= sites.keys() and layers.start == 0 and anatomy.stack.embedding_is_residual:
        errors |= _embedding_error(anatomy, feed, record, rows)
    if record.logits is not None and "resid_post" in sites and layers.stop == len(anatomy.blocks):
        errors |= _logits_error(anatomy, record, at)
    return errors


def _length(record: Pass) -> int:
    """Number of positions of a pass."""
    return next(
        (
            site.shape[2 if name in _OF_HEADS else 1]
            for name, site in record.sites.items()
            if not name.startswith("rotary")
        ),
        1,
    )


def _fault(
    anatomy: Anatomy, feed: Feed, record: Pass, layers: range, at: int
) -> tuple[str, int | None, float, float] | None:
    """The identity that fails most, its layer (None for one of the whole model), its error and the tolerance."""
    errors = trace_errors(anatomy, feed, record, layers=layers, at=at)
    if not errors:
        return None
    # NaN counts as the worst error: as itself it would pass every comparison.
    worst = {name: float(torch.nan_to_num(error, nan=torch.inf).max()) for name, error in errors.items()}
    allowed = {name: max(TOLERANCE[anatomy.dtype], unpacking_error(anatomy, name)) for name in errors}
    name = max(worst, key=lambda name: worst[name] / allowed[name])
    tolerance = allowed[name]
    if worst[name] <= tolerance:
        return None
    layer = layers[int(torch.nan_to_num(errors[name], nan=torch.inf).argmax())] if len(errors[name]) > 1 else None
    return name, layer, worst[name], tolerance


def _sample(n_tokens: int, at: int, device: torch.device) -> Int[Tensor, "row"]:
    """Positions spread over the prompt, the explained and the last among them; all of a short prompt."""
    return torch.tensor(sorted({*spread(n_tokens, device).tolist(), at}), device=device)


def _attention_errors(anatomy: Anatomy, record: Pass, layers: range, rows: Tensor, *, causal: bool) -> _Errors:
    attending = [row for row, layer in enumerate(layers) if layer in anatomy.attending]
    if not attending:
        return {}
    sites: Mapping[str, Tensor] = record.sites
    if len(attending) < len(layers):
        sites = {name: sites[name][attending] for name in ("pattern", "q", "k", "v", "z", "z_gate") if name in sites}
        layers_attending = [layers[row] for row in attending]
    else:
        layers_attending = list(layers)
    pattern = sites["pattern"][:, :, rows]
    wide_pattern = upcast(pattern)
    errors: _Errors = {}
    # A sink takes the rest of a row; the scores that are given then prove both.
    if not anatomy.stack.attention.sinks:
        errors["pattern rows sum to 1"] = (wide_pattern.sum(-1) - 1).abs().flatten(1).amax(1)
    if causal:
        later = torch.arange(pattern.shape[-1], device=rows.device) > rows[:, None]
        # A wrong mask would also give later tokens weight, which no sum shows.
        errors["a causal pattern is lower-triangular"] = (wide_pattern * later).flatten(1).amax(1)
    if record.pattern_errors:
        errors["softmax(scale · q · k) = pattern"] = torch.stack([record.pattern_errors[row] for row in attending])
    elif {"q", "k"} <= sites.keys():
        scale = pattern.new_tensor([anatomy.blocks[layer].scale for layer in layers_attending]).view(-1, 1, 1, 1)
        # In the model's own number type, so that half precision rounds as the model did.
        queries = sites["q"][:, :, rows]
        scores = upcast(_by_group(anatomy, queries, sites["k"].transpose(-1, -2)) * scale)
        if anatomy.attention_softcap is not None:
            scores = anatomy.attention_softcap * torch.tanh(scores / anatomy.attention_softcap)
        # Masked keys have exactly zero pattern under eager attention, so the pattern's support is the mask.
        made = scores.masked_fill_(pattern == 0, float("-inf")).softmax(-1)
        errors["softmax(scale · q · k) = pattern"] = _error(made, wide_pattern)
    if {"v", "z"} <= sites.keys():
        made = _by_group(anatomy, wide_pattern, upcast(sites["v"]))
        if anatomy.is_gated:
            if "z_gate" not in sites:
                return {name: _of_all(error, attending, len(layers)) for name, error in errors.items()}
            made = made * upcast(sites["z_gate"][:, :, rows])
        errors["pattern · v = z"] = _error(made, sites["z"][:, :, rows])
    return {name: _of_all(error, attending, len(layers)) for name, error in errors.items()}


def _of_all(errors: Float[Tensor, "some"], rows: list[int], count: int) -> Float[Tensor, "layer"]:
    """Errors of some rows in their places among all, 0 elsewhere."""
    return (
        errors
        if len(rows) == count
        else errors.new_zeros(count).index_copy(0, torch.tensor(rows, device=errors.device), errors)
    )


def _by_group(
    anatomy: Anatomy, x: Float[Tensor, "layer head row n"], y: Float[Tensor, "layer kv_head n m"]
) -> Float[Tensor, "layer head row m"]:
    """[layer, head, row, m] x · y of each head with its key/value head, without a repeated copy of the latter."""
    layers, heads, rows, _ = x.shape
    groups = x.reshape(layers, anatomy.n_kv_heads, heads // anatomy.n_kv_heads * rows, -1)
    return (groups @ y).reshape(layers, heads, rows, -1)


def _written_errors(anatomy: Anatomy, sites: Mapping[str, Tensor], layers: range, rows: Tensor) -> _Errors:
    """Heads and neurons, through their output projections and second norms, along one direction."""
    errors: _Errors = {}
    blocks = [anatomy.blocks[layer] for layer in layers]
    parts = (
        ("Σ z W_O + b_O = attention's output", "z", "attn_out", "attention_post",
         [(block.attention_output, block.attention_post_norm) for block in blocks if block.attention_output is not None]),
        ("Σ neurons W_out + b_out = MLP's output", "neurons", "mlp_out", "mlp_post",
         [(block.mlp_output, block.mlp_post_norm) for block in blocks if block.mlp_output is not None]),
    )  # fmt: skip
    for name, read, written, scale_name, outputs in parts:
        scales = sites.get(f"norm_scales.{scale_name}")
        if not outputs:
            continue  # an MLP without neurons
        has_post = any(norm is not None for _, norm in outputs)
        if not {read, written} <= sites.keys() or (has_post and scales is None):
            continue
        chosen = [row for row, block in enumerate(blocks) if read != "z" or block.attention_output is not None]
        x = sites[read][chosen] if len(chosen) < len(blocks) else sites[read]
        x = upcast(x.transpose(1, 2)[:, rows].flatten(2) if read == "z" else x[:, rows])
        along = torch.stack([_projected(anatomy, *output) for output in outputs]).to(x)
        # The last entry of each row is the bias along the same direction.
        made = torch.einsum("lri,li->lr", x, along[:, :-1]) + along[:, -1:]
        # The scale of a second norm differs from row to row; its gain and mean are in the cached product.
        if has_post and scales is not None:
            made = made / scales[chosen][:, rows]
        whole = upcast(sites[written][chosen][:, rows] if len(chosen) < len(blocks) else sites[written][:, rows])
        direction = _direction(anatomy, whole)
        if has_post:
            made = made + torch.stack([_constant(norm, direction) for _, norm in outputs])[:, None]
        # Of a wrong vector of this length, the direction sees this much on average.
        size = whole.flatten(1).norm(dim=1) * direction.norm() / len(direction) ** 0.5
        found = (made - whole @ direction).norm(dim=1) / torch.where(size > 0, size, torch.ones_like(size))
        errors[name] = _of_all(found, chosen, len(blocks))
    return errors


def _projected(anatomy: Anatomy, output: Projection, norm: Norm | None) -> Float[Tensor, "d_in_and_bias"]:
    """The projection's weights along the direction, then its bias. Both are kept until torch counts a change to the weights.

    If there is a second norm, its linear part without the division by the scale is included.
    """
    kept = _along.setdefault(anatomy.model, {})
    # Address and version name the weights: both stay while torch sees no change.
    number, scaling = (None, output.factor) if isinstance(output.factor, Tensor) else (output.factor, None)
    along_factor = () if scaling is None else (scaling.data_ptr(), version(scaling))
    along_shift = () if output.shift is None else (output.shift.data_ptr(), version(output.shift))
    key = (number, *along_factor, *along_shift, *key_of(output.module), *(() if norm is None else key_of(norm.module)))
    if key not in kept:
        weight, bias = output.weight, output.bias
        direction = _direction(anatomy, weight)
        if norm is not None:
            direction = norm.transposed(direction, torch.ones((), device=weight.device, dtype=weight.dtype))
        along = weight @ direction
        kept[key] = torch.cat([along, (along.new_zeros(1) if bias is None else (bias @ direction)[None])])
    return kept[key]


def _constant(norm: Norm | None, direction: Tensor) -> Tensor:
    """The second norm's own bias along the direction."""
    bias = None if norm is None else norm.bias
    return direction.new_zeros(()) if bias is None else bias.to(direction) @ direction


def _direction(anatomy: Anatomy, like: Tensor) -> Float[Tensor, "d_model"]:
    """A fixed random direction, the same for every default device and number type of torch."""
    # Made on the CPU with a seed of its own, so every device checks along the same direction and no random state is
    # touched.
    generator = torch.Generator("cpu").manual_seed(20)
    return torch.randn(anatomy.d_model, generator=generator, dtype=torch.float32, device="cpu").to(like)


def _stream_errors(anatomy: Anatomy, sites: Mapping[str, Tensor], layers: range, rows: Tensor) -> _Errors:
    wanted = {"resid_pre", "attn_out", "mlp_out", "resid_post"}
    if anatomy.cross is not None:
        wanted |= {"cross_out", "resid_cross"}
    if anatomy.wiring != "parallel":
        wanted.add("resid_mid")
    if not wanted <= sites.keys():
        return {}
    s = {name: upcast(sites[name][:, rows]) for name in wanted}
    if anatomy.has_mixers:
        if "mixer_out" not in sites:
            return {}
        s["attn_out"] = s["attn_out"] + upcast(sites["mixer_out"][:, rows])
    if anatomy.wiring == "parallel":
        return {"the residual stream adds up": _error(s["resid_pre"] + s["attn_out"] + s["mlp_out"], s["resid_post"])}
    blocks = [anatomy.blocks[layer] for layer in layers]
    steps = [
        ("attn_out", [block.attention_norm for block in blocks], "resid_mid"),
        ("mlp_out", [block.mlp_norm for block in blocks], "resid_post"),
    ]
    if anatomy.cross is not None:
        others = [anatomy.cross.blocks[layer].attention_norm for layer in layers]
        if anatomy.exchanges:
            steps.insert(0, ("cross_out", others, "resid_cross"))
        else:
            steps[:1] = [("attn_out", steps[0][1], "resid_cross"), ("cross_out", others, "resid_mid")]
    found, state = s["resid_pre"].new_zeros(len(blocks)), s["resid_pre"]
    for written, norms, after in steps:
        made = state + s[written]
        if anatomy.wiring == "post_norm":
            made = torch.stack([_normed(norm, x) for norm, x in zip(norms, made, strict=True)])
        state = s[after]
        found = torch.maximum(found, _error(made, state))
    return {"the residual stream adds up": found}


def _normed(norm: Norm, x: Tensor) -> Tensor:
    made = norm.linear(x, norm.scale(x))
    return made if norm.bias is None else made + norm.bias


def _embedding_error(anatomy: Anatomy, feed: Feed, record: Pass, rows: Tensor) -> _Errors:
    weight = matrix_of(anatomy.embedding)
    # With another width a projection lies between embedding and state, which the proof at loading covers.
    if weight.shape[1] != anatomy.d_model:
        return {}
    if IMAGES in feed:
        # Where a piece of an image stands, no token's vector enters.
        rows = rows[feed[anatomy.ids_name][0, rows] != image_token_of(anatomy.model)]
        if not len(rows):
            return {}
    embedded = upcast(weight[feed[anatomy.ids_name][0, rows]]) * anatomy.embedding_scale
    if "token_type_ids" in feed and IMAGES not in feed:
        # Where the embedding is the state, as in GPT-2, token types are added as words of the same table.
        embedded = embedded + upcast(weight[feed["token_type_ids"][0, rows]]) * anatomy.embedding_scale
    if record.position_embedding is not None:
        embedded = embedded + upcast(record.position_embedding[rows])
    return {"embedding = first residual": _error(embedded[None], record.sites["resid_pre"][:1, rows])}


def _logits_error(anatomy: Anatomy, record: Pass, at: int) -> _Errors:
    """Some tokens' logits at the explained position; a masked model's head is proved at loading alone."""
    if anatomy.readout is not None and anatomy.has_whole_head and record.logits is not None:
        states = record.sites["resid_post"][-1]
        readout = anatomy.readout
        with torch.no_grad():
            made = readout.tail.of(states[None]) if readout.place == "several" else readout.tail(states[at][None])
        return {"the head behind the last states = logits of the classes": _error(made, record.logits[None])}
    if anatomy.has_whole_head or record.logits is None:
        return {}
    x = upcast(record.sites["resid_post"][-1, at])[None]
    errors: _Errors = {}
    if anatomy.final_norm is not None:
        if record.final_scale is not None:
            # A norm without an offset gives the same for a multiple of the state; what is read through its scale differs.
            own = anatomy.final_norm.scale(x)
            errors["last residual = what the final norm reads"] = _error(own[None], record.final_scale[at][None, None])
        x = _normed(anatomy.final_norm, x)
    for module in anatomy.head[:-1]:
        x = Projection(module)(x)
    logits = record.logits if record.logits.ndim == 1 else record.logits[at]
    count = min(_MOST_TOKENS, len(logits))
    # Tokens spread over the vocabulary, since all logits would cost as much as the head itself.
    tokens = torch.linspace(0, len(logits) - 1, count, dtype=torch.float64, device=logits.device).long()
    # The best token is always among them: the largest logits are the ones that are shown.
    tokens = torch.cat([tokens, logits.argmax()[None]])
    last = anatomy.head[-1]
    made = x @ upcast(matrix_of(last)[tokens]).T
    bias = bias_of(last)
    if bias is not None:
        made = made + upcast(bias[tokens])
    made = made * anatomy.logit_factor
    if anatomy.softcap is not None:
        made = anatomy.softcap * torch.tanh(made / anatomy.softcap)
    return errors | {"final norm and head = logits": _error(made, logits[None, tokens])}


def _error(value: Float[Tensor, "layer *n"], expected: Float[Tensor, "layer *n"]) -> Float[Tensor, "layer"]:
    """[layer] ‖value − expected‖/‖expected‖; the absolute error where the expected is zero."""
    expected = upcast(expected).to(value)
    size = expected.flatten(1).norm(dim=1)
    error: Tensor = (value - expected).flatten(1).norm(dim=1) / torch.where(size > 0, size, torch.ones_like(size))
    return error
