"""Taking a logit apart into what wrote it: direct logit attribution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..charts.axis import Axis, Role
from ..charts.bars import Bar, Bars, Column, check_most
from ..charts.grid import Places
from ..charts.result import Result
from ..charts.table import Table, columns_of
from ..errors import ArgumentError, NotRecordedError, UnsupportedReadingError
from ..models import LoadedModel
from ..models.anatomy import Norm, upcast
from ..models.parameters import bias_of, matrix_of
from ..values.arguments import takes
from ..values.node import Node, NodeKind, label
from ..values.trace import Trace
from .logit_lens import logits_of_rows, target_id_of

Parts = TypeVar("Parts", bound="LogitParts")


@dataclass(frozen=True, eq=False)
class LogitParts(Result):
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
        ``"L3.attn_bias"``, ``"L3.cross_bias"``, ``"L3.mlp_bias"``, ``"final_norm_bias"``, ``"unembed_bias"`` → part.
    logit
        The model's logit before a soft-cap (target minus foil when there is a foil).
    completeness_error
        |Σ parts − logit| / max(1, |logit|).
    target, foil, position
        Token ids and query position.
    mixers
        [layer] what layers' mixers wrote, which are no attention (a state-space model, say); None where there are none.
    is_pooled
        Whether the head reads several positions, as the mean of all: parts are then sums over these.
    cross_heads
        [layer, head] what each head that reads the encoder wrote; None in models of one stack.
    cross_by_source
        [layer, head, source_pos] the same, by the encoder's position; sums to ``cross_heads``.
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
    mixers: Float[np.ndarray, "layer"] | None = None
    cross_heads: Float[np.ndarray, "layer head"] | None = None
    cross_by_source: Float[np.ndarray, "layer head source_pos"] | None = None
    is_pooled: bool = False

    @property
    def total(self) -> float:
        """Sum of all parts."""
        parts = float(self.heads.sum() + self.mlps.sum()) + self.embedding + self.position_embedding
        parts += 0.0 if self.cross_heads is None else float(self.cross_heads.sum())
        parts += 0.0 if self.mixers is None else float(self.mixers.sum())
        return parts + sum(self.biases.values())

    def __repr__(self) -> str:
        layers, heads = self.heads.shape
        aim = f"target {self.target}" if self.foil is None else f"target {self.target} − foil {self.foil}"
        place = "of all positions that are read" if self.is_pooled else f"at position {self.position}"
        return (
            f"{type(self).__name__}({self.logit:.4g} logits of {aim} {place}, {layers} layers × {heads} "
            f"heads{self._how()}, completeness error {self.completeness_error:.1e})"
        )

    def _how(self) -> str:
        """How the parts were made, in words."""
        return ""

    def table(self) -> Table:
        """One row for each part, the largest |logits| first: ``part``, ``kind``, ``layer``, ``head``, ``logits``.

        Kinds are ``head``, ``cross_head``, ``mlp``, ``mixer``, ``embedding``, ``position_embedding`` and ``bias``; the column sums
        to :attr:`total`. Heads by source and single neurons are in :meth:`arrays`.
        """
        rows: list[dict[str, Any]] = []
        kinds: tuple[tuple[NodeKind, np.ndarray | None], ...] = (("head", self.heads), ("cross_head", self.cross_heads))
        for kind, found in kinds:
            for (layer, head), logits in np.ndenumerate(np.zeros((0, 0)) if found is None else found):
                place = Node(kind, layer=layer, head=head)
                rows.append({"part": label(place), "kind": kind, "layer": layer, "head": head, "logits": float(logits)})
        for layer, logits in enumerate(self.mlps):
            place = Node("mlp", layer=layer)
            rows.append({"part": label(place), "kind": "mlp", "layer": layer, "logits": float(logits)})
        for layer, logits in enumerate([] if self.mixers is None else self.mixers):
            place = Node("mixer", layer=layer)
            rows.append({"part": label(place), "kind": "mixer", "layer": layer, "logits": float(logits)})
        rows += [{"part": kind, "kind": kind, "logits": getattr(self, kind)} for kind in _EMBEDDINGS]
        rows += [{"part": name, "kind": "bias", "logits": logits} for name, logits in self.biases.items()]
        rows.sort(key=lambda row: -abs(row["logits"]))
        note = f"all parts sum to {self.total:.6g}, the logit is {self.logit:.6g}"
        return Table(repr(self), columns_of(rows, _COLUMNS), words=("part", "kind"), note=note)

    def chart(self, most: int = 20) -> Bars:
        """The largest parts as bars, by what they are.

        Parameters
        ----------
        most
            How many parts.

        Raises
        ------
        ArgumentError
            If that is not at least one.
        """
        check_most(most)
        table = self.table()
        names, kinds, logits = (list(table.columns[name])[:most] for name in ("part", "kind", "logits"))
        bars = tuple(
            Bar(
                np.array([x if kind in held else 0.0 for x, kind in zip(logits, kinds, strict=True)]),
                lambda n: (f"{names[n]}: {logits[n]:+.4g} logits",), name, role,
            )
            for name, (role, held) in _BARS.items()
            if set(held) & set(kinds)
        )  # fmt: skip
        places = Places("part", tuple(range(len(names))), tuple(names), is_numbered=False)
        return Bars(
            title=f"The largest {len(names)} of {len(table)} parts of a logit",
            columns=(Column(places, Axis("part of the logit (logits)"), bars),),
            subtitle=f"all parts sum to {self.total:.6g}, the logit is {self.logit:.6g}",
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All fields by their names; ``biases`` [n] beside ``bias_names`` [n], ``foil`` only where there is one."""
        found = {
            name: np.asarray(value) for name, value in vars(self).items() if name != "biases" and value is not None
        }
        return found | {
            "biases": np.array(list(self.biases.values()), dtype=np.float64),
            "bias_names": np.array(list(self.biases), dtype=np.str_),
        }


@dataclass(frozen=True, eq=False, repr=False)
class DirectLogitAttribution(LogitParts):
    """A logit of a linear head as the sum of its parts, exact up to rounding; see :class:`LogitParts` for the attributes."""


_EMBEDDINGS = ("embedding", "position_embedding")
_COLUMNS = ("part", "kind", "layer", "head", "logits")
_BARS: dict[str, tuple[Role, tuple[str, ...]]] = {
    "heads": ("attention", ("head", "cross_head")),
    "MLPs": ("mlp", ("mlp",)),
    "mixers": ("rest", ("mixer",)),
    "embedding and biases": ("rest", ("embedding", "position_embedding", "bias")),
}
"""What a bar is of → its role, and the kinds of parts that it stands for."""


@takes(Trace)
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
        Query position; −1 is the last token. A classifier reads its own.

    Raises
    ------
    UnsupportedReadingError
        If the head is not norm + linear (masked language models, many classifiers; there
        :func:`flowgraph.integrated_attribution` is made), if blocks normalise the stream itself (post-norm), or if
        there is no head: then parts do not add up to a logit.

    Examples
    --------
    >>> parts = fg.direct_logit_attribution(trace)
    >>> parts.heads.shape  # layer, head
    (30, 9)
    >>> divmod(int(parts.heads.argmax()), 9)  # layer and head that raise " Tokyo" most
    (29, 1)
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
    # A classifier reads its own position.
    at = position % count if loaded.anatomy.readout is None else trace.position
    target_id, foil_id = target_and_foil(trace, target, foil)
    if loaded.anatomy.has_whole_head:
        directions, constant, logit = pooled_directions(trace, target_id, foil_id)
        return parts_of(
            DirectLogitAttribution,
            trace,
            directions,
            {"head_bias": constant},
            logit,
            (target_id, foil_id, at),
            is_pooled=True,
        )
    direction, head_bias = logit_direction(trace, target_id, foil_id, at)
    logit = logit_before_cap(trace, target_id, at)
    if foil_id is not None:
        logit -= logit_before_cap(trace, foil_id, at)
    return parts_of(DirectLogitAttribution, trace, {at: direction}, head_bias, logit, (target_id, foil_id, at))


def target_and_foil(trace: Trace, target: str | int | None, foil: str | int | None) -> tuple[int, int | None]:
    """Ids of target and foil: those that are given, or the trace's own; its foil belongs to its own target."""
    target_id, vocabulary = target_id_of(trace, target), trace.model.answers
    if foil is None:
        return target_id, trace.foil if target is None else None
    foil_id = vocabulary.target_id(foil, "foil")
    vocabulary.refuse_same(target_id, foil_id)
    return target_id, foil_id


def logit_direction(
    trace: Trace, target: int, foil: int | None, position: int
) -> tuple[Float[Tensor, "d_model"], dict[str, float]]:
    """Direction of a logit (minus another) in the residual stream at a position, and what the head's biases add.

    The final norm is frozen at its actual scale there, so the dot product with a part of the stream is the part's logit.

    Raises
    ------
    UnsupportedReadingError
        As for :func:`direct_logit_attribution`.
    NotRecordedError
        If the trace does not reach the last layer, and so the norm's scale is not known.
    """
    loaded = trace.model
    _require_linear(loaded)
    refuse_pooled(trace, "the logit of a part")
    direction, biases = _direction(loaded, trace, target, position)
    if foil is None:
        return direction, biases
    foil_direction, foil_bias = _direction(loaded, trace, foil, position)
    return direction - foil_direction, {name: biases[name] - foil_bias[name] for name in biases}


def refuse_pooled(trace: Trace, wanted: str) -> None:
    """Refuse what speaks of one position, for a classifier that reads several; ``wanted`` is that thing, in words.

    Raises
    ------
    UnsupportedReadingError
        If the model is such a classifier.
    """
    readout = trace.model.anatomy.readout
    if readout is not None and readout.place == "several":
        raise UnsupportedReadingError(
            f"{wanted} explains one position, and classes of {trace.model.name!r} are read from several; direct_logit_attribution() "
            "and integrated_attribution() sum over them"
        )


def pooled_directions(
    trace: Trace, target: int, foil: int | None
) -> tuple[dict[int, Float[Tensor, "d_model"]], float, float]:
    """Of a classifier whose head is affine in the normed states of several positions: position → direction, constant, logit.

    The norm is frozen at its actual scale at each position.
    """
    anatomy = trace.model.anatomy
    readout = anatomy.readout
    assert readout is not None
    states = upcast(trace.resid_post[-1].detach().to(trace.model.device))
    with torch.inference_mode(mode=False), torch.enable_grad():
        zero = torch.zeros_like(states)[None].requires_grad_()
        value = _aimed(readout.tail.of(zero, normed=readout.norm is not None)[0], target, foil)
        (slopes,) = torch.autograd.grad(value, zero)
    constant = float(value.detach())
    directions: dict[int, Tensor] = {}
    for position in slopes[0].any(-1).nonzero().flatten().tolist():
        direction = slopes[0, position]
        if readout.norm is not None:
            if readout.norm.bias is not None:
                constant += float(readout.norm.bias @ direction)
            direction = readout.norm.transposed(direction, readout.norm.scale(states[position]))
        directions[position] = direction
    assert trace.logits is not None
    return directions, constant, float(_aimed(upcast(trace.logits), target, foil))


def _aimed(logits: Float[Tensor, "d_vocab"], target: int, foil: int | None) -> Tensor:
    return logits[target] if foil is None else logits[target] - logits[foil]


def parts_of(
    kind: type[Parts],
    trace: Trace,
    directions: Mapping[int, Tensor],
    head_bias: dict[str, float],
    logit: float,
    aim: tuple[int, int | None, int],
    **further: Any,
) -> Parts:
    """What each part wrote along the direction at each position, summed over positions.

    In post-norm blocks the norms on the stream are frozen at their actual scale.

    Parameters
    ----------
    kind, trace
        Class of the result, and the trace.
    directions
        Position → [d_model] direction in its last state.
    head_bias
        What the head adds whatever was written.
    logit, aim
        The logit, and target, foil and position.
    further
        Fields of the result besides those of :class:`LogitParts`.
    """
    anatomy = trace.model.anatomy
    found = [_parts_at(trace, position, direction) for position, direction in directions.items()]
    biases: dict[str, float] = {}
    for one in found:
        for name, value in one.biases.items():
            biases[name] = biases.get(name, 0.0) + value

    def summed(name: str) -> Any:
        return np.sum([getattr(one, name) for one in found], 0)

    heads_by_source, cross = summed("heads_by_source"), None if anatomy.cross is None else summed("cross")
    result = kind(
        heads=heads_by_source.sum(-1),
        heads_by_source=heads_by_source,
        mlps=summed("mlps"),
        neurons=summed("neurons"),
        embedding=float(summed("embedding")),
        position_embedding=float(summed("position_embedding")),
        biases=biases | head_bias,
        logit=logit,
        completeness_error=0.0,
        target=aim[0],
        foil=aim[1],
        position=aim[2],
        mixers=summed("mixers") if anatomy.has_mixers else None,
        cross_heads=None if cross is None else cross.sum(-1),
        cross_by_source=cross,
        **further,
    )
    object.__setattr__(result, "completeness_error", abs(result.total - logit) / max(1.0, abs(logit)))
    return result


@dataclass
class _AtPosition:
    """Parts at one position."""

    heads_by_source: Float[np.ndarray, "layer head key_pos"]
    mlps: Float[np.ndarray, "layer"]
    neurons: Float[np.ndarray, "layer d_mlp"]
    mixers: Float[np.ndarray, "layer"]
    embedding: float
    position_embedding: float
    biases: dict[str, float]
    cross: Float[np.ndarray, "layer head source_pos"] | None = None


def _parts_at(trace: Trace, at: int, direction: Tensor) -> _AtPosition:
    anatomy = trace.model.anatomy
    by_source, neurons, whole, mixers, cross = [], [], [], [], []
    biases: dict[str, float] = {}
    # From the last layer down, since norms on the stream lie between a part and the last state.
    for layer, block in reversed(list(enumerate(anatomy.blocks))):
        direction = _below(block.mlp_norm, trace, "mlp", layer, at, direction, biases)
        toward = _through(block.mlp_post_norm, trace, "mlp_post", layer, at, direction)
        if block.mlp_output is None:
            # An MLP without neurons is one part, with all of its biases in it.
            whole.append(upcast(trace.mlp_out[layer, at]) @ direction)
            neurons.append(direction.new_zeros(anatomy.mlp_width if anatomy.has_neurons else 0))
        else:
            neurons.append(upcast(trace.neurons[layer, at]) * (block.mlp_output.weight @ toward))
            whole.append(neurons[-1].double().sum())
            biases |= _bias(block.mlp_output.bias, block.mlp_post_norm, toward, direction, f"L{layer}.mlp_bias")
        if block.cross is not None:
            direction = _below(block.cross.attention_norm, trace, "cross", layer, at, direction, biases)
            read, bias = _of_cross(trace, layer, at, direction)
            cross.append(read)
            biases |= bias
        direction = _below(block.attention_norm, trace, "attention", layer, at, direction, biases)
        toward = _through(block.attention_post_norm, trace, "attention_post", layer, at, direction)
        reads = anatomy.W_O(layer) @ toward
        values = anatomy.per_query_head(upcast(trace.v[layer]))
        if anatomy.is_gated:
            values = values * upcast(trace.z_gate[layer, :, at])[:, None]
        by_source.append(upcast(trace.pattern[layer, :, at]) * torch.einsum("hsd,hd->hs", values, reads))
        output = block.attention_output
        if output is not None:
            biases |= _bias(output.bias, block.attention_post_norm, toward, direction, f"L{layer}.attn_bias")
        mixers.append(
            upcast(trace.mixer_out[layer, at]) @ direction if block.mixer is not None else direction.new_zeros(())
        )
    first = upcast(trace.resid_pre[0, at])
    # A position's vector is a part of its own only where nothing lies between it and the first state.
    has_place = trace.position_embedding is not None and anatomy.stack.embedding_is_residual
    place = upcast(trace.position_embedding[at]) if has_place and trace.position_embedding is not None else None

    def rows(values: list[Tensor]) -> np.ndarray:
        # Summed in float64: thousands of neurons of either sign cancel.
        found: np.ndarray = torch.stack(values[::-1]).double().cpu().numpy()
        return found

    return _AtPosition(
        heads_by_source=rows(by_source),
        mlps=rows(whole),
        neurons=rows(neurons),
        mixers=rows(mixers),
        embedding=float((first if place is None else first - place) @ direction),
        position_embedding=0.0 if place is None else float(place @ direction),
        biases=dict(reversed(biases.items())),
        cross=rows(cross) if cross else None,
    )


def _below(
    norm: Norm, trace: Trace, name: str, layer: int, at: int, direction: Tensor, biases: dict[str, float]
) -> Tensor:
    """The direction below a post-norm block's norm, frozen at its actual scale; the norm's own bias is a part."""
    if trace.wiring != "post_norm":
        return direction
    if norm.bias is not None:
        biases[f"L{layer}.{name}_norm_bias"] = float(norm.bias @ direction)
    return norm.transposed(direction, trace.norm_scales[name][layer, at])


def _of_cross(
    trace: Trace, layer: int, at: int, direction: Tensor
) -> tuple[Float[Tensor, "head source_pos"], dict[str, float]]:
    """What heads that read the encoder wrote toward a direction, by the encoder's position, and their output's bias."""
    anatomy = trace.model.anatomy.reader_of_encoder
    block = anatomy.blocks[layer]
    toward = _through(block.attention_post_norm, trace, "cross_post", layer, at, direction)
    values = anatomy.per_query_head(upcast(trace.site("cross_v")[layer]))
    found = upcast(trace.cross_pattern[layer, :, at]) * torch.einsum("hsd,hd->hs", values, anatomy.W_O(layer) @ toward)
    output = block.output_projection
    return found, _bias(output.bias, block.attention_post_norm, toward, direction, f"L{layer}.cross_bias")


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
    column = upcast(matrix_of(last)[token_id]) * anatomy.logit_factor
    bias = bias_of(last)
    biases = {} if bias is None else {"unembed_bias": float(bias[token_id]) * anatomy.logit_factor}
    for module in reversed(inner):
        inner_bias = bias_of(module)
        if inner_bias is not None:
            biases["unembed_bias"] = biases.get("unembed_bias", 0.0) + float(upcast(inner_bias) @ column)
        column = column @ upcast(matrix_of(module))
    norm = anatomy.final_norm
    if norm is None:
        return column, biases
    if norm.bias is not None:
        biases["final_norm_bias"] = float(norm.bias @ column)
    if trace.final_scale is None:
        raise NotRecordedError(
            f"this trace keeps layers {trace.layers[0]}…{trace.layers[1] - 1} and so not the scale of the final norm, which "
            "logits of single parts need; trace a window that ends with the last layer"
        )
    return norm.transposed(column, trace.final_scale[position]), biases


def logit_before_cap(trace: Trace, token_id: int, position: int) -> float:
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
    return float(logits_of_rows(trace.model, state, softcap=False)[0, token_id])


def _require_linear(loaded: LoadedModel) -> None:
    loaded.require_head("direct logit attribution")
    anatomy = loaded.anatomy
    if anatomy.family.head_kind == "masked":
        raise UnsupportedReadingError(
            f"{loaded.name!r} is a masked language model: its head is dense + activation + norm + linear, which is not linear "
            "in the residual stream, so no direct logit attribution exists. Use read(), logit_lens() or integrated_attribution()"
        )
    if anatomy.readout is not None and not anatomy.readout.is_affine:
        raise UnsupportedReadingError(
            f"{loaded.name!r} is a classifier, and its head is not linear in the residual stream (a dense layer with an activation, or a norm of a "
            "mean), so no direct logit attribution exists. Use read(), logit_lens() or integrated_attribution()"
        )
    if anatomy.wiring == "post_norm":
        raise UnsupportedReadingError(
            f"blocks of {loaded.name!r} normalise the residual stream itself (post-norm), so what was written does not add up "
            "to the final state and no direct logit attribution exists. Use read(), logit_lens() or integrated_attribution()"
        )


def direction_of_target(trace: Trace, position: int) -> Float[Tensor, "d_model"] | None:
    """[d_model] direction of the logit of the trace's target (minus its foil) at a position.

    None where single parts have no logit: heads that are not norm + linear, post-norm blocks, and traces that do not reach the
    last layer.
    """
    if trace.target is None:
        return None
    try:
        return logit_direction(trace, trace.target, trace.foil, position)[0]
    except (UnsupportedReadingError, NotRecordedError):
        return None
