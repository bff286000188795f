"""The identities that prove an architecture's row on a model, from a pass that kept every site.

Each side of an identity is computed in its own way: once by the model's own modules, once from the parts that this package works
with. A wrong row fails by a factor, not by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import ArchitectureError, NonFiniteError
from .anatomy import Anatomy, Block, Norm, Projection, upcast
from .eager import eager_attention, evaluating
from .forward import SITES, Pass, run
from .media import probe_feed, regions, short_source
from .parameters import matrix_of
from .rotary import rotate
from .stacks import DECODER_IDS

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Largest relative error at attach. Float64 models keep some Hugging Face norms in float32, hence the same bound."""

UNPACKED = 5e-2
"""Largest relative error of what is computed from packed weights: a kernel rounds, and some round its inputs too."""

# Five tokens: a wrong row fails on any prompt, and the proof runs at every load.
_PROBE_TOKENS = 5


@dataclass(frozen=True)
class OwnAttention:
    """Comparison of a model's answers under its own attention with those under eager attention, which is traced.

    Attributes
    ----------
    name
        The implementation that the model's config names: ``"sdpa"``, ``"flash_attention_2"``, ``"eager"`` …
    gap
        Largest relative difference of logits (last states without a head) on the short prompt of the proof; NaN where the
        implementation does not run here.
    tolerance
        Largest difference that counts as rounding.
    fault
        The reason why it does not run here.
    """

    name: str
    gap: float
    tolerance: float
    fault: str = ""

    @property
    def differs(self) -> bool:
        """Whether the answers differ by more than rounding, or cannot be compared."""
        return not self.gap <= self.tolerance

    @property
    def text(self) -> str:
        """The traced attention, and the difference of the model's own answers, in words."""
        if self.fault:
            return f"eager attention traced, its own {self.name!r} does not run here"
        return f"eager attention traced, answers of its own {self.name!r} differ by {self.gap:.2g}"


def own_name(model: Any) -> str:
    """Attention implementation that the model's config names."""
    return str(model.config._attn_implementation or "eager")


def own_attention(anatomy: Anatomy, eager: Float[Tensor, "position d_vocab"] | None = None) -> OwnAttention:
    """Run the proof's prompt under the model's own attention and under eager attention, and compare the answers.

    Parameters
    ----------
    anatomy
        The model's parts.
    eager
        Logits of that prompt under eager attention, where the proof has them already.
    """
    model, feed = anatomy.model, probe(anatomy)
    options: dict[str, Any] = {"use_cache": False} if anatomy.causal else {}
    name, tolerance = own_name(model), TOLERANCE[anatomy.dtype]
    if name == "eager":
        return OwnAttention(name, 0.0, tolerance)

    def answer() -> Tensor:
        output = model(**feed, **options)
        return upcast(output.logits if anatomy.has_head else output[0])

    with torch.inference_mode(mode=False), torch.no_grad():
        if eager is None:
            with eager_attention(model):
                expected = answer()
        else:
            expected = upcast(eager)[None]
        # In its own attention the model runs as the user's code would run it: evaluation mode alone is set.
        with evaluating(model):
            try:
                own = answer()
            except (
                ImportError,
                RuntimeError,
                ValueError,
            ) as error:  # an implementation for other devices or number types
                return OwnAttention(name, float("nan"), tolerance, str(error).strip().partition("\n")[0])
    return OwnAttention(name, float((own - expected).norm() / expected.norm()), tolerance)


def probe(anatomy: Anatomy) -> dict[str, Tensor]:
    """The arguments of a short pass."""
    own = probe_feed(anatomy.model, anatomy.embedding, _PROBE_TOKENS, anatomy.context)
    if anatomy.exchanges:
        return {**own, **regions(anatomy.model, _PROBE_TOKENS + 2)}
    if anatomy.cross is None:
        return own
    return {**short_source(anatomy.model, _PROBE_TOKENS + 2), DECODER_IDS: own["input_ids"]}


def prove(anatomy: Anatomy) -> dict[str, float]:
    """Run a short pass and check every identity.

    Returns
    -------
    dict
        Identity → largest relative error over all layers.

    Raises
    ------
    ArchitectureError
        If an identity does not hold; the message names it, the layer and the error.
    NonFiniteError
        If weights or activations are NaN or infinite; the message names the first layer.
    """
    return prove_and_answer(anatomy)[0]


def prove_and_answer(anatomy: Anatomy) -> tuple[dict[str, float], Float[Tensor, "position d_vocab"] | None]:
    """As :func:`prove`, with the logits of the short pass at every position; None where the model gives none.

    Raises
    ------
    ArchitectureError, NonFiniteError
        As for :func:`prove`.
    """
    feed = probe(anatomy)
    record = run(anatomy, feed, sites=frozenset(SITES), layers=range(len(anatomy.blocks)), logits_at=None)
    states = record.sites["pattern" if anatomy.level == "patterns" else "resid_post"]
    check_finite(anatomy, states, record.logits)
    errors = identity_errors(anatomy, feed.get(anatomy.ids_name), record)
    if anatomy.exchanges:
        for name, other in anatomy.sources.items():
            found = identity_errors(other, None, record.sources[name])
            errors |= {f"{identity}, of the {name} stack": error for identity, error in found.items()}
            errors |= _exchange_errors(anatomy, record, other, record.sources[name])
    for name, per_layer in errors.items():
        tolerance = max(TOLERANCE[states.dtype], unpacking_error(anatomy, name))
        worst = int(per_layer.argmax())
        if not per_layer[worst] <= tolerance:
            where = f" in layer {worst}" if len(per_layer) > 1 else ""
            raise ArchitectureError(
                f"the row {anatomy.family.name!r} does not describe {type(anatomy.model).__name__}: the identity "
                f"'{name}' fails{where} with relative error {per_layer[worst]:.2g} (at most {tolerance:g} is "
                "rounding). If adapters are attached, merge them first (model.merge_and_unload()); if the weights are "
                "quantised, load them unquantised; otherwise the row has to be corrected"
            )
    answer = record.logits if anatomy.has_head and anatomy.readout is None else None
    return {name: float(per_layer.max()) for name, per_layer in errors.items()}, answer


def unpacking_error(anatomy: Anatomy, identity: str) -> float:
    """Largest relative error that an identity may have because weights are packed; 0 where they are not, or it needs none."""
    return UNPACKED if anatomy.packings and identity.removesuffix(_TO_OTHER) in OF_WEIGHTS else 0.0


def check_finite(anatomy: Anatomy, states: Float[Tensor, "layer *n"], logits: Tensor | None) -> None:
    """Refuse NaN and infinity in a pass.

    Raises
    ------
    NonFiniteError
        Naming the first layer whose output is not finite, and its parameters that are not.
    """
    # A NaN of any layer reaches the last state, so the common case costs one look.
    if bool(torch.isfinite(states[-1]).all()) and (logits is None or bool(torch.isfinite(logits).all())):
        return
    layer = next((i for i, state in enumerate(states) if not bool(torch.isfinite(state).all())), None)
    if layer is None:
        where, module = "the head", anatomy.model
    else:
        where, module = f"layer {layer}", anatomy.blocks[layer].module
    bad = [
        name for name, value in module.named_parameters() if not value.is_meta and not bool(torch.isfinite(value).all())
    ]
    if layer == 0 and anatomy.embedding is not None and not bool(torch.isfinite(matrix_of(anatomy.embedding)).all()):
        bad.insert(0, "token embedding")
    cause = (
        f"parameters that are not finite: {', '.join(bad[:5])}" if bad else "its parameters are finite, so it overflows"
    )
    raise NonFiniteError(
        f"{where} gives NaN or infinity; {cause}. Nothing computed from it would mean anything: repair the weights, or "
        "load the model with dtype='float32'"
    )


def identity_errors(
    anatomy: Anatomy, token_ids: Int[Tensor, "1 position"] | None, record: Pass
) -> dict[str, Float[Tensor, "layer"]]:
    """Relative errors ‖a − b‖/‖b‖ of every identity, [layer] each.

    Parameters
    ----------
    anatomy, token_ids, record
        The model's parts and a pass of ``token_ids`` (None for a model of images or sound) that kept every site of every layer.
    """
    layers = range(len(anatomy.blocks))
    if anatomy.level == "patterns":
        errors = {name: torch.stack([_PER_LAYER[name](anatomy, record, i) for i in layers]) for name in _OF_PATTERNS}
        return errors | {"pattern · v = z": torch.stack([record.output_errors[i] for i in layers])}
    errors = {name: torch.stack([check(anatomy, record, i) for i in layers]) for name, check in _PER_LAYER.items()}
    sites = record.sites
    if anatomy.cross is not None and record.cross is not None:
        for name in _OF_CROSS:
            found = torch.stack([_PER_LAYER[name](anatomy.cross, record.cross, i) for i in layers])
            errors[f"{name}{_TO_OTHER}"] = found
    if (
        token_ids is not None
        and anatomy.stack.embedding_is_residual
        and anatomy.embedding.weight.shape[1] == anatomy.d_model
    ):
        embedded = upcast(matrix_of(anatomy.embedding)[token_ids[0]]) * anatomy.embedding_scale
        if record.position_embedding is not None:
            embedded = embedded + upcast(record.position_embedding)
        errors["embedding = first residual"] = _error(embedded, sites["resid_pre"][0])[None]
    # Only where nothing is normalised on the way is the last state the sum of all that was written.
    if anatomy.wiring != "post_norm":
        written = _mixed(sites).sum(0) + upcast(sites["mlp_out"]).sum(0)
        if "cross_out" in sites:
            written = written + upcast(sites["cross_out"]).sum(0)
        errors["embedding + everything written = last residual"] = _error(
            upcast(sites["resid_pre"][0]) + written, sites["resid_post"][-1]
        )[None]
    if anatomy.readout is not None and record.logits is not None:
        made = anatomy.readout.tail.of(sites["resid_post"][-1][None])[0]
        errors["the head behind the last states = logits of the classes"] = _error(made, record.logits)[None]
    elif record.logits is not None:
        errors["final norm and head = logits"] = _error(_logits(anatomy, sites["resid_post"][-1]), record.logits)[None]
    return errors


def _exchange_errors(own: Anatomy, record: Pass, other: Anatomy, theirs: Pass) -> dict[str, Float[Tensor, "layer"]]:
    """Errors of keys and values of attention to the other stack, against those of the states that enter the layers of that stack."""
    found: dict[str, list[Tensor]] = {"keys": [], "values": []}
    for reader, read, states in ((own, record, theirs), (other, theirs, record)):
        assert reader.cross is not None
        between = [block for block in reader.cross.blocks if block.attention is not None]
        # Both stacks end together.
        first = len(states.sites["resid_pre"]) - len(between)
        for n, block in enumerate(between):
            state = upcast(states.sites["resid_pre"][first + n])
            for name, site, module in (("keys", "cross_k", block.key), ("values", "cross_v", block.value)):
                made = Projection(module)(state)
                given = upcast(read.sites[site][block.index]).transpose(0, 1).flatten(1)
                found[name].append(_error(made, given))
    return {
        f"{name} of attention to the other stack are made of its states": torch.stack(one)
        for name, one in found.items()
    }


def _logits(anatomy: Anatomy, x: Tensor) -> Tensor:
    """Logits of final states by the row's head, as readings and direct logit attribution understand it."""
    if anatomy.final_norm is not None:
        x = _normed(anatomy.final_norm, upcast(x), anatomy.final_norm.scale(x))
    if anatomy.has_whole_head:
        with torch.no_grad():
            for module in anatomy.head:
                x = module(x.to(anatomy.dtype))
        return upcast(x)
    for module in anatomy.head:
        x = Projection(module)(x)
    x = x * anatomy.logit_factor
    return x if anatomy.softcap is None else anatomy.softcap * torch.tanh(x / anatomy.softcap)


def _mixed(sites: Mapping[str, Tensor]) -> Float[Tensor, "layer position d_model"]:
    """What attention and other mixers of tokens add in each layer."""
    attended = upcast(sites["attn_out"])
    return attended + upcast(sites["mixer_out"]) if "mixer_out" in sites else attended


def _attention_of_values(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    made = upcast(record.sites["pattern"][i]) @ anatomy.per_query_head(upcast(record.sites["v"][i]))
    return _error(made * upcast(record.sites["z_gate"][i]) if anatomy.is_gated else made, record.sites["z"][i])


def _pattern_of_scores(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    if i not in anatomy.attending:
        return upcast(record.sites["q"].new_zeros(()))
    if record.pattern_errors:
        return upcast(record.pattern_errors[i])
    pattern = upcast(record.sites["pattern"][i])
    keys = anatomy.per_query_head(upcast(record.sites["k"][i]))
    scores = anatomy.blocks[i].scale * upcast(record.sites["q"][i]) @ keys.transpose(-1, -2)
    if anatomy.attention_softcap is not None:
        scores = anatomy.attention_softcap * torch.tanh(scores / anatomy.attention_softcap)
    # Masked keys have exactly zero pattern under eager attention, so the pattern's support is the mask.
    return _error(scores.masked_fill(pattern == 0, float("-inf")).softmax(-1), pattern)


def _entering(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    """Projections, with the row's norms of single heads and rotary embedding, give queries and keys of the dot product."""
    block, sites = anatomy.blocks[i], record.sites
    kind = anatomy.stack.attention.rotary
    if not anatomy.has_projections or i not in anatomy.attending:
        return upcast(record.sites["q"].new_zeros(()))
    errors = [record.sites["q"].new_zeros(())]
    for site, norm in (("q", block.query_norm), ("k", block.key_norm)):
        x = sites[f"{site}_proj"][i]
        if norm is not None:
            with torch.no_grad():
                x = norm.module(x)
        if kind != "none":
            if "rotary.cos" not in sites:
                # Angles that explain nothing mean that the row is wrong, so the identity fails.
                return x.new_full((), torch.inf)
            x = x.transpose(0, 1)
            made = torch.empty_like(x)
            cos, sin = (sites[f"rotary.{part}"][i][:, None] for part in ("cos", "sin"))
            rotate(x, cos, sin, interleaved=kind == "interleaved", out=made)
            x = made.transpose(0, 1)
        errors.append(_error(upcast(x), sites[site][i]))
    return torch.stack([upcast(error) for error in errors]).max()


def _pattern_rows(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    rows = upcast(record.sites["pattern"][i]).sum(-1)
    if i not in anatomy.attending:
        return rows.abs().amax()
    if anatomy.stack.attention.sinks:
        # The scores with the sink prove its share; here only that it is one.
        return (rows - 1).clamp(min=0).amax()
    return _error(rows, torch.ones_like(rows))


def _pattern_is_causal(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    pattern = record.sites["pattern"][i]
    return upcast(pattern.triu(1)).abs().max() if anatomy.causal else upcast(pattern.new_zeros(()))


def _heads_to_attn_out(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    block = anatomy.blocks[i]
    if block.attention_output is None:
        return upcast(record.sites["attn_out"][i]).abs().amax()
    z = upcast(record.sites["z"][i]).transpose(0, 1).flatten(1)
    return _written(z, block.attention_output, block.attention_post_norm, record, i, "attn_out", "attention_post")


def _neurons_to_mlp_out(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    block = anatomy.blocks[i]
    if block.mlp_output is None:
        return upcast(record.sites["mlp_out"].new_zeros(()))
    neurons = upcast(record.sites["neurons"][i])
    return _written(neurons, block.mlp_output, block.mlp_post_norm, record, i, "mlp_out", "mlp_post")


def _written(
    parts: Tensor, projection: Projection, post_norm: Norm | None, record: Pass, i: int, site: str, scale: str
) -> Tensor:
    """Error of parts · W + b, through the frozen post-norm if there is one, against the output that joined the stream."""
    whole = projection(parts)
    if post_norm is not None:
        whole = post_norm.linear(whole, record.sites[f"norm_scales.{scale}"][i])
        if post_norm.bias is not None:
            whole = whole + post_norm.bias
    return _error(whole, record.sites[site][i])


def _wiring(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    """The residual stream adds up as the wiring says."""
    s = {name: upcast(record.sites[name][i]) for name in ("resid_pre", "attn_out", "mlp_out", "resid_post")}
    if "mixer_out" in record.sites:
        s["attn_out"] = s["attn_out"] + upcast(record.sites["mixer_out"][i])
    if anatomy.wiring == "parallel":
        return _error(s["resid_pre"] + s["attn_out"] + s["mlp_out"], s["resid_post"])
    block = anatomy.blocks[i]
    steps = [
        ("attn_out", "attention", block.attention_norm, "resid_mid"),
        ("mlp_out", "mlp", block.mlp_norm, "resid_post"),
    ]
    if anatomy.exchanges and block.cross is not None:
        s |= {name: upcast(record.sites[name][i]) for name in ("cross_out", "resid_cross")}
        steps.insert(0, ("cross_out", "cross", block.cross.attention_norm, "resid_cross"))
    elif block.cross is not None:
        s |= {name: upcast(record.sites[name][i]) for name in ("cross_out", "resid_cross")}
        steps[:1] = [
            ("attn_out", "attention", block.attention_norm, "resid_cross"),
            ("cross_out", "cross", block.cross.attention_norm, "resid_mid"),
        ]
    s["resid_mid"] = upcast(record.sites["resid_mid"][i])
    errors, state = [], s["resid_pre"]
    for written, scale, norm, after in steps:
        made = state + s[written]
        if anatomy.wiring == "post_norm":
            made = _normed(norm, made, record.sites[f"norm_scales.{scale}"][i])
        state = s[after]
        errors.append(_error(made, state))
    return torch.stack(errors).max()


def _mlp_input(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    """The MLP's norm sees the state that the wiring says: a parallel block's MLP does not see its attention."""
    seen = record.sites["norm_scales.mlp"][i]
    if anatomy.wiring == "post_norm":
        return seen.new_zeros(())
    state = record.sites["resid_pre" if anatomy.wiring == "parallel" else "resid_mid"][i]
    return _error(seen, anatomy.blocks[i].mlp_norm.scale(state))


def _input_to_neurons(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    """The MLP's projections and activation, applied to its input, give the neurons."""
    block = anatomy.blocks[i]
    if block.mlp_output is None:
        return upcast(record.sites["mlp_out"].new_zeros(()))
    x = upcast(record.sites["resid_pre" if anatomy.wiring == "parallel" else "resid_mid"][i])
    if anatomy.wiring != "post_norm":
        x = _normed(block.mlp_norm, x, record.sites["norm_scales.mlp"][i])
    return _error(block.neurons(*anatomy.mlp_pre(i, x)), record.sites["neurons"][i])


def _norm_formula(anatomy: Anatomy, record: Pass, i: int) -> Tensor:
    """Scale, gain and bias together give the output of the norm's own module."""
    block: Block = anatomy.blocks[i]
    x = record.sites["resid_pre"][i]
    # Where attention reads the state itself, the norm over what it adds, or that of the MLP, is tried.
    norm = next(
        (
            one
            for one in (block.attention_norm, block.attention_post_norm, block.mlp_norm)
            if one and one.kind != "none"
        ),
        None,
    )
    if norm is None:
        return upcast(x.new_zeros(()))
    with torch.no_grad():
        expected = norm(x)
    return _error(_normed(norm, upcast(x), norm.scale(x)), expected)


def _normed(norm: Norm, x: Tensor, scale: Tensor) -> Tensor:
    out = norm.linear(x, scale)
    return out if norm.bias is None else out + norm.bias


def _error(value: Tensor, expected: Tensor) -> Tensor:
    """‖value − expected‖/‖expected‖, a scalar; the absolute error where the expected is zero."""
    expected = upcast(expected).to(value)
    size = expected.norm()
    error: Tensor = (value - expected).norm() / torch.where(size > 0, size, torch.ones_like(size))
    return error


_OF_PATTERNS = (
    "softmax(scale · q · k) = pattern", "pattern rows sum to 1", "a causal pattern is lower-triangular",
)  # fmt: skip
"""Identities that need nothing but attention."""
OF_WEIGHTS = (
    "Σ z W_O + b_O = attention's output", "Σ neurons W_out + b_out = MLP's output",
    "activation(norm(x) W_in + b_in) = neurons, gated: activation(gate) · up",
)  # fmt: skip
"""Identities one side of which is computed from weights of linear layers."""
_TO_OTHER = ", to the other stack"
_OF_CROSS = (
    "pattern · v = z", "softmax(scale · q · k) = pattern", "pattern rows sum to 1", "Σ z W_O + b_O = attention's output",
)  # fmt: skip
"""Identities of attention to another stack; what it adds to the stream is part of the wiring's."""
_PER_LAYER = {
    "pattern · v = z": _attention_of_values,
    "softmax(scale · q · k) = pattern": _pattern_of_scores,
    "norm and rotary of projections = queries and keys": _entering,
    "pattern rows sum to 1": _pattern_rows,
    "a causal pattern is lower-triangular": _pattern_is_causal,
    "Σ z W_O + b_O = attention's output": _heads_to_attn_out,
    "Σ neurons W_out + b_out = MLP's output": _neurons_to_mlp_out,
    "the residual stream adds up": _wiring,
    "the MLP reads the state that the wiring says": _mlp_input,
    "the norm's formula": _norm_formula,
    "activation(norm(x) W_in + b_in) = neurons, gated: activation(gate) · up": _input_to_neurons,
}
