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
from ..models.anatomy import Anatomy, no_projections, upcast
from ..values.arguments import takes
from .ablation import answer_logits, answer_tokens_of
from .calls import Call
from .edges import refuse_others
from .metrics import AnswerTokens, Metric, metric_of
from .network import LAST, ROLES, Into, Kept, KeptOf, Reader, need_projections, network_of
from .passes import Pass
from .prompts import Answers, Batch, Prompts, batch_of, prompts_of
from .senders import keep_senders, keep_states, kept_of


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
        Site and layer → the states that were read.
    cross_out, cross_z, cross_q, cross_k, cross_v
        As ``attn_out``, ``z``, ``q``, ``k`` and ``v``, of a decoder's attention to its encoder; None for one stack. Positions of
        ``cross_k`` and ``cross_v`` are the encoder's; these and ``cross_q`` are None too where they are no linear maps of what is read.
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
    cross_q: Float[Tensor, "layer prompt position head d_head"] | None = None
    cross_k: Float[Tensor, "layer prompt source_pos kv_head d_head"] | None = None
    cross_v: Float[Tensor, "layer prompt source_pos kv_head d_head"] | None = None
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

    def into(
        self, layer: int | None, into: Into, *, crossing: bool = False
    ) -> Float[Tensor, "receiver prompt position d_model"]:
        """[receiver, prompt, position, d_model] gradient with respect to the state, over one reading of it alone.

        ``"q"``: through each head's query; ``"k"``, ``"v"``: each key/value head's; ``"mlp"`` and ``"logits"`` (of no layer)
        have one receiver. With ``crossing`` the heads are those that read the encoder: of their keys and values the state is the last
        one of the encoder's blocks, at its positions.

        Raises
        ------
        UnsupportedReadingError
            If queries, keys and values are no linear maps of what attention reads.
        """
        refuse_others(self.anatomy, "a gradient over one reading of a state")
        network = network_of(self.anatomy)
        (reader,) = (
            one
            for one in network.readers
            if (one.owner.name, one.layer, one.into, one.crossing) == (LAST, layer, into, crossing)
        )
        kept = {LAST: self.states} | {name: one.states for name, one in self.stacks.items()}
        return reader.at_state(kept, self.of_input(reader))

    def of_input(self, reader: Reader) -> Float[Tensor, "receiver prompt position d_in"]:
        """[receiver, prompt, position, d_in] gradient with respect to what a reader's projections or MLP read; of the logits the state."""
        own = self.stacks.get(reader.owner.name, self)
        if reader.layer is None:
            return own.final[None]
        if reader.into == "mlp":
            return own.mlp_in[reader.layer][None]
        need_projections(reader.anatomy)
        by_head = getattr(own, reader.site)[reader.layer].permute(2, 0, 1, 3)
        return torch.einsum("hptk,hdk->hptd", by_head, reader.weight().to(by_head))


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
    """Further results of a pass with gradients: by stack what it kept, by stack and kind of attention its arguments; logits and answers."""

    kept: KeptOf
    calls: Mapping[tuple[str, str], Mapping[int, Call]]
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
    loaded: LoadedModel,
    batch: Batch,
    metric: Metric,
    *,
    extra: tuple[str, ...] = (),
    answers: AnswerTokens | None = None,
) -> tuple[Gradients, Forward]:
    """Gradients and their forward pass, which also keeps the ``extra`` sites of every layer.

    ``answers`` are those that the metric is of; None: the batch's, and where none was said the best tokens of this pass.

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
            one.keep(_of_cross(one.anatomy), graph=True)
        # An encoder's last state goes on inside the model.
        one.keep(("resid_post" if name else "final",), [len(one.anatomy.blocks) - 1], graph=True)
        # What is kept from here on stands beside the graph.
        wanted[name], one.kept = one.kept, {}
        # They are for edges, which there are none of where something mixes tokens beside attention.
        has_middle = one.anatomy.wiring != "parallel" and not one.anatomy.has_gaps
        middle = ("resid_mid",) if has_middle else ()
        one.keep({"resid_pre", *middle, *extra})
        if one.anatomy.cross is not None:
            one.keep(("resid_cross", *(f"cross_{site}" for site in extra)))
    network = network_of(anatomy)
    if not any(tower.anatomy.has_gaps for tower in network.towers.values()):
        keep_states(run, network)
    keep_senders(run, network)
    if extra:
        run.keep_calls()
    with _differentiable(loaded):
        states = run.run(batch.feed)
    logits = answer_logits(loaded, states, batch.positions)
    answers = answer_tokens_of(batch, logits.detach()) if answers is None else answers
    values = metric(logits, answers)
    if not values.requires_grad:
        raise ArgumentError(
            f"metric {metric.name!r} has no gradient; take one that is differentiable, such as logit_difference or "
            "log_probability"
        )
    # The metric of a prompt depends on its own row, so the gradient of the sum holds each prompt's own gradient.
    with _differentiable(loaded):
        found = iter(torch.autograd.grad(values.sum(), [x for of in wanted.values() for x in of.values()]))
    calls = {
        (name, kind): recorder.calls
        for name, one in {LAST: run, **run.stacks}.items()
        for kind, recorder in one.calls.items()
    }
    grads = {name: {key: upcast(next(found)) for key in of} for name, of in wanted.items()}
    forward = Forward(kept_of(run, network), calls, logits.detach(), answers)
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

    def of_cross(site: str) -> Tensor | None:
        return stacked(site) if cross is not None and site in _of_cross(anatomy) else None

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
        cross_q=of_cross("cross_q"),
        cross_k=of_cross("cross_k"),
        cross_v=of_cross("cross_v"),
    )


def _into_mlps(grads: dict[tuple[str, int], Tensor], layers: range) -> Tensor:
    """[layer, …] gradients with respect to the MLPs' inputs: of one module, or of input and gate together; zeros without an MLP."""
    absent = torch.zeros_like(grads["resid_pre", 0])
    return torch.stack([grads.get(("mlp_in0", layer), absent) + grads.get(("mlp_in1", layer), 0.0) for layer in layers])


def _of_cross(anatomy: Anatomy) -> tuple[str, ...]:
    """Sites of the attention to an encoder whose gradients are taken."""
    projected = ("cross_q", "cross_k", "cross_v") if anatomy.reader_of_encoder.has_projections else ()
    return (*projected, "cross_z", "cross_out")
