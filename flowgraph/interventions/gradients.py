"""Gradients of a metric with respect to the outputs and inputs of heads and MLPs, from one backward pass through hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ArgumentError, UnsupportedReadingError
from ..models import LoadedModel, load_model
from ..models.anatomy import Anatomy, Norm, no_projections, upcast
from ..models.attention_weights import attention_weights
from ..values.arguments import takes
from .ablation import answer_logits, answer_tokens_of
from .calls import Call
from .edges import Into, require_sum
from .metrics import AnswerTokens, Metric, metric_of
from .passes import ROLES, Pass
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .senders import Kept, keep_senders


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of each prompt's metric; rows of one prompt depend on that prompt alone.

    Attributes
    ----------
    values
        [prompt] the metric.
    embed
        [prompt, position, d_model] with respect to the state that enters the first block.
    attn_out, mlp_out
        [layer, prompt, position, d_model] with respect to the outputs of attention and MLP as they join the stream. Without a
        second norm, the gradient for a head's output is that for attention's.
    z
        [layer, prompt, position, head, d_head] with respect to the input of attention's output projection, by head. Layers that do not
        attend have zeros here and in ``attn_out``, those without an MLP in ``mlp_out`` and ``mlp_in``.
    projected
        ``"q"``, ``"k"`` and ``"v"`` → what the properties of these names give; empty where queries, keys and values are no linear maps of
        what attention reads.
    mlp_in
        [layer, prompt, position, d_model] with respect to the MLP's input, after its norm.
    final
        [prompt, position, d_model] with respect to the last state; of an encoder, the one that its last block writes.
    states
        Site and layer → the states that were read, for :meth:`into`.
    cross_out, cross_z
        As ``attn_out`` and ``z``, of a decoder's attention to its encoder; None for one stack.
    stacks
        Name → the same of the other stacks: the ``"encoder"``, at its own positions.
    """

    values: Float[Tensor, "prompt"]
    embed: Float[Tensor, "prompt position d_model"]
    attn_out: Float[Tensor, "layer prompt position d_model"]
    mlp_out: Float[Tensor, "layer prompt position d_model"]
    z: Float[Tensor, "layer prompt position head d_head"]
    projected: Mapping[str, Tensor]
    mlp_in: Float[Tensor, "layer prompt position d_model"]
    final: Float[Tensor, "prompt position d_model"]
    states: Kept
    anatomy: Anatomy
    cross_out: Float[Tensor, "layer prompt position d_model"] | None = None
    cross_z: Float[Tensor, "layer prompt position head d_head"] | None = None
    stacks: Mapping[str, Gradients] = field(default_factory=dict)

    @property
    def q(self) -> Float[Tensor, "layer prompt position head d_head"]:
        """[layer, prompt, position, head, d_head] gradient with respect to the queries as they are projected.

        Raises
        ------
        UnsupportedReadingError
            If queries are no linear map of what attention reads. The same holds for :attr:`k` and :attr:`v`.
        """
        return self._projected("q")

    @property
    def k(self) -> Float[Tensor, "layer prompt position kv_head d_head"]:
        """[layer, prompt, position, key/value head, d_head] the same of keys."""
        return self._projected("k")

    @property
    def v(self) -> Float[Tensor, "layer prompt position kv_head d_head"]:
        """[layer, prompt, position, key/value head, d_head] the same of values."""
        return self._projected("v")

    def _projected(self, name: str) -> Tensor:
        if name not in self.projected:
            raise UnsupportedReadingError(no_projections(self.anatomy))
        return self.projected[name]

    def into(self, layer: int | None, into: Into) -> Float[Tensor, "receiver prompt position d_model"]:
        """[receiver, prompt, position, d_model] gradient with respect to the state, over one reading of it alone.

        ``"q"``: through each head's query; ``"k"``, ``"v"``: each key/value head's; ``"mlp"`` and ``"logits"`` (of no layer)
        have one receiver.

        Raises
        ------
        UnsupportedReadingError
            If the model's blocks normalise the stream itself.
        """
        require_sum(self.anatomy)
        if layer is None:
            return self.final[None]
        block = self.anatomy.blocks[layer]
        if into == "mlp":
            state = self.states["resid_pre" if self.anatomy.wiring == "parallel" else "resid_mid", layer]
            return norm_vjp(block.mlp_norm, state, self.mlp_in[layer][None])
        weight, _ = attention_weights(self.anatomy, layer, ROLES[into])
        by_head = getattr(self, into)[layer].permute(2, 0, 1, 3)
        reads = torch.einsum("hptk,hdk->hptd", by_head, weight)
        return norm_vjp(block.attention_norm, self.states["resid_pre", layer], reads)


# A caller may be in inference mode, whose tensors autograd cannot use.
@takes()
@torch.inference_mode(mode=False)
def gradients(
    model: Any,
    prompts: Prompts,
    metric: Metric | Callable[..., Any] | None = None,
    *,
    target: Answers = None,
    foil: Answers = None,
) -> Gradients:
    """One forward and one backward pass.

    Parameters
    ----------
    model, prompts, metric, target, foil
        As for :func:`flowgraph.ablate`; the metric has to be differentiable, which a rank is not.

    Raises
    ------
    ArgumentError
        If the metric has no gradient, or the model was made in inference mode.
    UnsupportedReadingError
        If the model has no head.
    """
    loaded = load_model(model)
    loaded.require_head("a gradient of the answer")
    batch = batch_of(loaded, prompts_of(loaded, prompts, "prompts", target=target, foil=foil), "prompts")
    with loaded.lock:
        return backward(loaded, batch, metric_of(metric))[0]


@dataclass(frozen=True, eq=False)
class Forward:
    """Further results of a pass with gradients: senders' outputs, the arguments of attention, logits and answers."""

    kept: Kept
    calls: Mapping[int, Call]
    logits: Tensor
    answers: AnswerTokens


@contextmanager
def _differentiable(loaded: LoadedModel) -> Iterator[None]:
    """Turn torch's error about gradients that a kernel for packed weights does not give into one of this package.

    Raises
    ------
    ArgumentError
        If weights are packed and there are no gradients.
    """
    try:
        yield
    except RuntimeError as error:
        if not loaded.anatomy.packings or isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise ArgumentError(
            f"{loaded.name!r} gives no gradients: {loaded.anatomy.packing}, and that kernel cuts them off. Take real changes, as "
            "flowgraph.ablate and flowgraph.edge_effects make them, or the model without packed weights"
        ) from error


# And in no_grad, which the passes of other interventions run in.
@torch.enable_grad()
def backward(
    loaded: LoadedModel, batch: Batch, metric: Metric, *, extra: tuple[str, ...] = ()
) -> tuple[Gradients, Forward]:
    """Gradients and their forward pass, which also keeps the ``extra`` sites of every layer.

    Raises
    ------
    ArgumentError
        If the model was made in inference mode, or the metric has no gradient.
    """
    anatomy = loaded.anatomy
    if any(parameter.is_inference() for parameter in anatomy.model.parameters()):
        raise ArgumentError(
            f"the weights of {loaded.name!r} were made inside torch.inference_mode, and torch takes no gradients through such tensors; "
            "load the model outside of that block (torch.no_grad() would do)"
        )
    run = Pass(loaded, len(batch), gradients=True)
    # Autograd needs one leaf: no weight asks for a gradient, so the graph begins at the state that enters the first
    # block.
    wanted: dict[str, dict[tuple[str, int], Tensor]] = {}
    for name, one in {"": run, **run.stacks}.items():
        one.edit("resid_pre", 0, lambda x: x.detach().requires_grad_())
        one.keep(("resid_pre",), [0], graph=True)
        # An MLP with a gate reads its input twice, by two modules; both gradients add up.
        blocks = one.anatomy.blocks
        attending, with_mlp = list(one.anatomy.attending), [block.index for block in blocks if block.mlp is not None]
        one.keep(ROLES if one.anatomy.has_projections else (), attending, graph=True)
        one.keep(("z", "attn_out"), attending, graph=True)
        one.keep(("mlp_in0", "mlp_in1", "mlp_out"), with_mlp, graph=True)
        if one.anatomy.cross is not None:
            one.keep(("cross_z", "cross_out"), graph=True)
        # An encoder's last state goes on inside the model.
        one.keep(("resid_post" if name else "final",), [len(one.anatomy.blocks) - 1], graph=True)
        # What is kept from here on stands beside the graph.
        wanted[name], one.kept = one.kept, {}
        # They are for edges, which there are none of where something mixes tokens beside attention.
        has_middle = one.anatomy.wiring != "parallel" and not one.anatomy.has_gaps
        middle = ("resid_mid",) if has_middle else ()
        one.keep({"resid_pre", *middle})
    keep_senders(run)
    run.keep(extra)
    if extra:
        run.keep_calls()
    with _differentiable(loaded):
        states = run.run(batch.feed)
    logits = answer_logits(loaded, states, batch.positions)
    answers = answer_tokens_of(batch, logits.detach())
    values = metric(logits, answers)
    if not values.requires_grad:
        raise ArgumentError(
            f"metric {metric.name!r} has no gradient; take one that is differentiable, such as logit_difference or "
            "log_probability"
        )
    # The metric of a prompt depends on its own row, so the gradient of the sum holds each prompt's own gradient.
    with _differentiable(loaded):
        found = iter(torch.autograd.grad(values.sum(), [x for of in wanted.values() for x in of.values()]))
    calls = run.calls["attention"].calls if extra else {}
    grads = {name: {key: upcast(next(found)) for key in of} for name, of in wanted.items()}
    forward = Forward(run.kept, calls, logits.detach(), answers)
    stacks = {name: _gradients(one.anatomy, grads[name], values.detach(), one.kept) for name, one in run.stacks.items()}
    return replace(_gradients(anatomy, grads[""], values.detach(), run.kept), stacks=stacks), forward


def _gradients(anatomy: Anatomy, grads: dict[tuple[str, int], Tensor], values: Tensor, kept: Kept) -> Gradients:
    layers = range(len(anatomy.blocks))
    cross, end = anatomy.cross, len(anatomy.blocks) - 1

    def stacked(site: str, width: int | None = None) -> Tensor:
        """[layer, …] gradients; zeros of a width in layers that do not have the site."""
        first = grads["resid_pre", 0]
        absent = first.new_zeros(*first.shape[:-1], width or anatomy.d_model)
        like = next((one for (name, _), one in grads.items() if name == site), absent)
        return torch.stack([grads.get((site, layer), torch.zeros_like(like)) for layer in layers])

    return Gradients(
        values=values,
        embed=grads["resid_pre", 0],
        attn_out=stacked("attn_out"),
        mlp_out=stacked("mlp_out"),
        z=stacked("z", anatomy.n_heads * anatomy.d_value).unflatten(-1, (anatomy.n_heads, anatomy.d_value)),
        projected={name: stacked(name) for name in ROLES} if anatomy.has_projections else {},
        mlp_in=_into_mlps(grads, layers),
        final=grads["final", end] if ("final", end) in grads else grads["resid_post", end],
        states=kept,
        anatomy=anatomy,
        cross_out=None if cross is None else stacked("cross_out"),
        cross_z=None if cross is None else stacked("cross_z").unflatten(-1, (cross.n_heads, cross.d_value)),
    )


def _into_mlps(grads: dict[tuple[str, int], Tensor], layers: range) -> Tensor:
    """[layer, …] gradients with respect to the MLPs' inputs: of one module, or of input and gate together; zeros without an MLP."""
    absent = torch.zeros_like(grads["resid_pre", 0])
    return torch.stack([grads.get(("mlp_in0", layer), absent) + grads.get(("mlp_in1", layer), 0.0) for layer in layers])


def norm_vjp(norm: Norm, x: Float[Tensor, "*n d"], gradient: Float[Tensor, "*m d"]) -> Float[Tensor, "*m d"]:
    """Gradient before a norm from the gradient after it; the norm's scale moves along."""
    x = upcast(x)
    scale = norm.scale(x)[..., None]
    centred = x - x.mean(-1, keepdim=True) if norm.is_layer else x
    direction = centred / scale
    # In place: there is a gradient for each receiver, and each pass over them takes as long as a part of the model.
    result = gradient * (norm.gain(x.shape[-1]).to(gradient) / scale)
    if norm.is_layer:
        # The scale moves with the input: the part along the normalised direction drops out.
        along = (result * direction).mean(-1, keepdim=True)
        return result.sub_(result.mean(-1, keepdim=True)).addcmul_(direction, along, value=-1)
    return result.addcmul_(direction, (result * direction).mean(-1, keepdim=True), value=-1)
