"""A recorded forward pass: the :class:`Trace`, frozen, with a name for everything it holds.

Wiring, per kind of block:

- ``sequential``: resid_mid = resid_pre + attn_out; resid_post = resid_mid + mlp_out
- ``parallel``: resid_post = resid_pre + attn_out + mlp_out; there is no resid_mid
- ``sandwich``: as sequential, attn_out and mlp_out taken after their second norm
- ``post_norm``: resid_mid = LN₁(resid_pre + attn_out); resid_post = LN₂(resid_mid + mlp_out)

In the decoder of an encoder–decoder, resid_cross takes the place of resid_mid after attention, and what it reads of the encoder is
added next: resid_mid = resid_cross + cross_out, or a norm of it. Where two stacks read each other in the same layers, that comes first:
resid_cross = LN₀(resid_pre + cross_out), resid_mid = LN₁(resid_cross + attn_out); in layers that do not read the other stack
resid_cross is resid_pre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..charts import rendering
from ..charts.table import Table, data_frame
from ..errors import ArgumentError, ModelMismatchError, ModelNeededError, NotRecordedError, UnsupportedReadingError
from ..models import LoadedModel, load_model
from ..models.anatomy import no_neurons, no_projections
from ..models.axis import Axis
from ..models.eager import refuse_autocast
from ..models.forward import given_sites
from .edge_weights import EdgeWeights
from .inputs import Inputs, Row
from .joint import Joint
from .node import EXCHANGING
from .reading import Reading
from .token_matrix import Axis as AxisName
from .token_matrix import TokenMatrix, origin_of, rows_of_one

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, unused-ignore]


@dataclass(frozen=True, eq=False)
class AttentionSites:
    """One kind of attention of a trace, over the kept layers: of a stack to itself, or to another stack.

    Attributes
    ----------
    trace
        The trace of the stack that attends.
    prefix
        What its sites' names begin with.
    """

    trace: Trace
    prefix: str

    def __repr__(self) -> str:
        n, h, q, k = self.pattern.shape
        return f"AttentionSites({n} layers × {h} heads × {q} queries × {k} keys)"

    @property
    def pattern(self) -> Float[Tensor, "layer head query_pos key_pos"]:
        """[layer, head, query_pos, key_pos] attention probabilities."""
        return self.trace.site(f"{self.prefix}pattern")

    @property
    def q(self) -> Float[Tensor, "layer head query_pos d_head"]:
        """[layer, head, query_pos, d_head] queries as they enter the dot product."""
        return self.trace.site(f"{self.prefix}q")

    @property
    def k(self) -> Float[Tensor, "layer kv_head key_pos d_head"]:
        """[layer, key/value head, key_pos, d_head] keys as they enter the dot product."""
        return self.trace.site(f"{self.prefix}k")

    @property
    def v(self) -> Float[Tensor, "layer kv_head key_pos d_value"]:
        """[layer, key/value head, key_pos, d_value] values."""
        return self.trace.site(f"{self.prefix}v")

    @property
    def z(self) -> Float[Tensor, "layer head query_pos d_value"]:
        """[layer, head, query_pos, d_value] pattern · v."""
        return self.trace.site(f"{self.prefix}z")

    @property
    def out(self) -> Float[Tensor, "layer query_pos d_model"]:
        """[layer, query_pos, d_model] what it adds to the residual stream."""
        return self.trace.site("cross_out" if self.prefix else "attn_out")


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
        [position] decoded tokens (``" Tokyo"``; bytes of a part of a character as ``"<F0><9F>"``) and their ids. Of an image or a
        sound the labels of :attr:`axis` (``"patch 3,5"``, row and column from 0; ``"0.34 s"``), and no ids.
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
        ``"attn"``, ``"cross"`` and ``"mlp"`` → [layer, d_model] contribution of the output projections' biases before a post-norm; without
        a bias its key is missing.
    position_embedding
        [position, d_model] learned position vectors; None where there are none.
    final_scale
        [position] scale of the norm before the head; None where it was not passed.
    fingerprint
        Digests of config and weights, and the revision where one was asked for.
    stacks
        Traces of other towers of the same pass (the encoder of an encoder–decoder) by role; empty for a single tower.
    recorded_weights, recorded_readings
        Results that :meth:`record` added.
    loaded
        The model, as long as it is attached.
    fed
        The input as one row of :class:`flowgraph.Inputs`: token types, position ids, messages and the places of the tokens in the
        text. None in files of earlier releases.
    classes
        Names of the classes that a classifier scores, in the order of :attr:`logits`; None for other models.
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
    fed: Row | None = field(default=None, repr=False)
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        has_ids = self.fed is None or self.fed.axis is None
        if not has_ids and (
            self.token_ids or self.fed is None or self.fed.axis is None or self.fed.axis.labels != self.tokens
        ):
            raise ArgumentError("Trace has other tokens than the labels of its axis, or ids beside them")
        if has_ids and len(self.tokens) != len(self.token_ids):
            raise ArgumentError(f"Trace has {len(self.tokens)} tokens and {len(self.token_ids)} token_ids")
        if self.fed is not None and has_ids and self.fed.ids != self.token_ids:
            raise ArgumentError("Trace.fed holds other token ids than Trace.token_ids")
        rows = self.layers[1] - self.layers[0]
        for name, tensor in self.sites.items():
            if tensor.shape[0] != rows:
                raise ArgumentError(f"Trace.{name} has {tensor.shape[0]} layers; the window {self.layers} has {rows}")

    def __repr__(self) -> str:
        kept = "" if self.layers == (0, self.n_layers) else f", layers {self.layers[0]}…{self.layers[1] - 1} kept"
        return (
            f"Trace({self.model_name!r}, {self._positions}, {self.n_layers} layers × {self.heads_text}{kept}, "
            f"target {self.target_token!r}, {self.nbytes / 2**20:.1f} MB)"
        )

    @property
    def _positions(self) -> str:
        """How many positions there are, and what they are, in words."""
        said = [f"{stack._positions} of the {name}" for name, stack in self.stacks.items()]
        what = {"token": "tokens", "region": "regions"}.get(self.axis.kind, "positions")
        own = f"{len(self.tokens)} {what}"
        if EXCHANGING in self.stacks:
            return f"{own} and {self.stacks[EXCHANGING]._positions}"
        return " and ".join([*said, f"{len(self.tokens)} of the {self.role}" if said else own])

    @property
    def axis(self) -> Axis:
        """The positions: what each is, and where it lies in the text, the image or the sound."""
        if self.fed is not None and (self.fed.axis or self.fed.mixed):
            return self.fed.axis or cast("Axis", self.fed.mixed)
        offsets = None if self.fed is None else self.fed.offsets
        # A token of no characters lies nowhere.
        places = tuple(
            None if offsets is None or start == end else (float(start), float(end)) for start, end in offsets or ()
        )
        tokenizer = None if self.loaded is None else self.loaded.tokenizer
        roles: tuple[str | None, ...] = ()
        if tokenizer is not None:
            special = set(tokenizer.all_special_ids)
            roles = tuple(
                token if one in special else None for one, token in zip(self.token_ids, self.tokens, strict=True)
            )
        return Axis("token", self.tokens, places or (None,) * len(self.tokens), roles)

    @property
    def axes(self) -> dict[str, Axis]:
        """The positions of every stack by its name: ``"encoder"``, ``"decoder"``."""
        return {**{name: stack.axis for name, stack in self.stacks.items()}, self.role: self.axis}

    def _repr_html_(self) -> str:
        can_tell = self.logits is not None and self.loaded is not None
        return rendering.html(self, self.predictions(5) if can_tell else None)

    def aimed_at(self, target: str | int | None = None, foil: str | int | None = None) -> Trace:
        """The same pass with another target or foil, sharing its tensors.

        Parameters
        ----------
        target, foil
            A token's text or id; None: as it is.

        Returns
        -------
        The trace, without what was recorded of the target before.

        Raises
        ------
        TargetError
            If one is not a token of the model, or the foil is the target.
        ModelNeededError
            If the trace has no model.

        Examples
        --------
        >>> trace.aimed_at(foil=" Paris").foil_token
        ' Paris'
        """
        self.model.require_head("a target")
        vocabulary = self.model.answers
        aims: dict[str, Any] = {"recorded_weights": {}, "recorded_readings": {}}
        for name, value in (("target", target), ("foil", foil)):
            if value is not None:
                aims[name] = vocabulary.target_id(value, name)
                aims[f"{name}_token"] = vocabulary.string(aims[name])
        vocabulary.refuse_same(aims.get("target", self.target), aims.get("foil", self.foil))
        return replace(self, **aims)

    def to_dataframe(self) -> pandas.DataFrame:
        """The prompt as a ``pandas.DataFrame``: ``position``, ``token``, ``token_id``, ``explained`` (True for one of them).

        An image or a sound has no ``token_id``.

        :meth:`predictions` gives the model's next tokens.

        Raises
        ------
        ArgumentError
            If pandas is not installed.
        """
        count = len(self.tokens)
        explained = [position == self.position for position in range(count)]
        columns = {"position": range(count), "token": self.tokens, "token_id": self.token_ids, "explained": explained}
        if not self.token_ids:
            del columns["token_id"]
        return data_frame(columns)

    def predictions(self, k: int = 10) -> Table:
        """The model's best tokens at :attr:`position`, as a table that renders and saves itself; of a classifier its classes.

        Columns: ``rank``, ``token``, ``token_id``, ``probability``, ``log_probability`` in nats, ``logit``.

        Parameters
        ----------
        k
            How many tokens; of a classifier at most all classes.

        Raises
        ------
        UnsupportedReadingError
            If the model has no head over a vocabulary.
        ModelNeededError
            If no model is attached: its vocabulary holds the tokens.
        ArgumentError
            If k is out of its range.
        """
        if self.logits is None:
            raise UnsupportedReadingError(f"{self.model_name!r} has no head over a vocabulary, so it predicts no token")
        vocabulary = self.model.answers
        # In double precision: log-probabilities of tokens far down need its digits.
        row = (self.logits if self.logits.ndim == 1 else self.logits[self.position]).detach().cpu().double()
        if self.model.anatomy.readout is not None:
            k = min(k, len(row))
        if not 1 <= k <= len(row):
            raise ArgumentError(f"k={k} must be between 1 and {len(row)}, the size of the vocabulary")
        log_probability = torch.log_softmax(row, -1)
        ids = row.topk(k).indices
        columns: dict[str, Any] = {
            "rank": range(1, k + 1),
            "token": vocabulary.strings(ids.tolist()),
            "token_id": ids.numpy(),
            "probability": log_probability[ids].exp().numpy(),
            "log_probability": log_probability[ids].numpy(),
            "logit": row[ids].numpy(),
        }
        if self.model.anatomy.readout is not None:
            return Table(f"Classes of {self.model_name}", columns)
        at = f"position {self.position}, {self.tokens[self.position]!r}"
        return Table(f"What {self.model_name} predicts at {at}", columns)

    def site(self, name: str) -> Tensor:
        """The tensor of one site over the kept layers.

        Raises
        ------
        NotRecordedError
            If it was not kept.
        UnsupportedReadingError
            If the model has no such site.
        """
        if name not in self.sites:
            if self.loaded is not None and not given_sites(self.loaded.anatomy, frozenset({name})):
                self.loaded.anatomy.require_stream(f"the site {name!r}")
                if "cross" in name:
                    _ = self.loaded.anatomy.reader_of_encoder
                lack = no_neurons if name == "neurons" else no_projections
                raise UnsupportedReadingError(
                    f"no trace of {self.model_name!r} holds {name!r}: {lack(self.loaded.anatomy)}"
                )
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
        """[layer, head, position, d_head] pattern · v, the input of the output projection by head."""
        return self.site("z")

    @property
    def z_gate(self) -> Float[Tensor, "layer head position d_value"]:
        """[layer, head, position, d_value] what a gate or a norm multiplies heads' outputs by: z = z_gate · (pattern · v)."""
        return self.site("z_gate")

    @property
    def attn_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] output of attention as it is added to the residual stream."""
        return self.site("attn_out")

    @property
    def resid_cross(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] the state between attention and the attention to another stack."""
        return self.site("resid_cross")

    @property
    def cross_pattern(self) -> Float[Tensor, "layer head query_pos source_pos"]:
        """[layer, head, query_pos, source_pos] attention to the encoder's last states; rows sum to 1."""
        return self.site("cross_pattern")

    @property
    def cross_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] output of the attention to the encoder as it is added to the residual stream."""
        return self.site("cross_out")

    @property
    def role(self) -> str:
        """``"decoder"`` of a stack whose tokens see earlier tokens only, ``"encoder"`` of one that sees all.

        Of a text and regions of an image that read each other they are ``"text"`` and ``"vision"``.
        """
        if EXCHANGING in self.stacks:
            return "text"
        return EXCHANGING if self.axis.kind == "region" else "decoder" if self.causal else "encoder"

    @property
    def attention(self) -> dict[str, AttentionSites]:
        """Every kind of attention of the pass by name: ``"decoder.self"``, ``"decoder.cross"``, ``"encoder.self"``.

        Of a text and regions of an image that read each other ``"text.self"``, ``"text.cross"``, ``"vision.self"`` and
        ``"vision.cross"``; layers that do not read the other stack have zeros there.
        """
        found = {f"{self.role}.self": AttentionSites(self, "")}
        if any(name.startswith("cross_") for name in self.sites):
            found[f"{self.role}.cross"] = AttentionSites(self, "cross_")
        for stack in self.stacks.values():
            found |= stack.attention
        return found

    def tokens_read_by(self, stack: str | None = None) -> tuple[str, ...]:
        """Names of the positions that a stack's attention to another one reads; their numbers where that was not traced.

        Parameters
        ----------
        stack
            The stack that reads, one of :attr:`stacks`; None is the last one.
        """
        if stack is not None:
            return self.tokens
        other = next(iter(self.stacks.values()), None)
        return tuple(map(str, range(self.cross_pattern.shape[-1]))) if other is None else other.tokens

    @property
    def mixer_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] output of layers' mixers as it is added to the residual stream; zero where there is none."""
        return self.site("mixer_out")

    @property
    def mlp_out(self) -> Float[Tensor, "layer position d_model"]:
        """[layer, position, d_model] output of the MLP as it is added to the residual stream."""
        return self.site("mlp_out")

    @property
    def neurons(self) -> Float[Tensor, "layer position d_mlp"]:
        """[layer, position, d_mlp] input of the MLP's output projection."""
        return self.site("neurons")

    @property
    def norm_scales(self) -> dict[str, Tensor]:
        """Norm → its scale.

        ``attention``, ``mlp``, ``attention_post``, ``mlp_post`` [layer, position]; ``query``, ``key`` [layer, head,
        position]; ``final`` [position].
        """
        prefix = "norm_scales."
        scales = {name.removeprefix(prefix): value for name, value in self.sites.items() if name.startswith(prefix)}
        if not scales:
            self.site("norm_scales")
        return scales if self.final_scale is None else scales | {"final": self.final_scale}

    @property
    def rotary(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary position embedding, [layer, position, rotated dimensions] each.

        Raises
        ------
        NotRecordedError
            If they were not kept, or the model has none.
        """
        return self.site("rotary.cos"), self.site("rotary.sin")

    @property
    def heads_text(self) -> str:
        """The number of heads of a layer in words; of a model without any attention, that it has none."""
        attends = self.loaded is None or bool(self.loaded.anatomy.attending)
        return f"{self.n_heads} heads" if attends else "no attention"

    @property
    def has_sinks(self) -> bool:
        """Whether heads have a sink, a key that holds nothing: rows of the pattern then sum to less than 1."""
        if self.loaded is not None:
            return self.loaded.anatomy.stack.attention.sinks
        # A trace from a file does not know its model: rows that miss more than rounding tell it.
        sums = self.pattern.float().sum(-1)
        return bool(((sums > 0) & (sums < 1 - (1e-2 if self.pattern.element_size() <= 2 else 1e-3))).any())

    @property
    def is_incomplete(self) -> bool:
        """Whether rows of some patterns do not sum to 1: heads have sinks, or layers do not attend."""
        return self.has_sinks or not bool(self.pattern.flatten(1).any(1).all())

    @property
    def sink(self) -> Float[Tensor, "layer head position"]:
        """[layer, head, position] attention to each head's sink; with it, rows of the pattern sum to 1. Zero without sinks."""
        if not self.has_sinks:
            return self.pattern.new_zeros(self.pattern.shape[:-1])
        sums = self.pattern.float().sum(-1)
        # A layer that does not attend has no sink either.
        return torch.where(sums > 0, 1 - sums, 0.0).clamp(min=0)

    def grouped(self, groups: Any = "words", *, head: int | None = None) -> TokenMatrix:
        """Attention between words, or between any groups of tokens, in every kept layer.

        Attention to the tokens of a group is added, and its tokens' rows are averaged, so rows still sum to 1. Of an encoder–decoder
        this is what its decoder has written; ``trace.stacks["encoder"].grouped()`` is what its encoder read.

        Parameters
        ----------
        groups
            ``"words"``: the parts of the text between spaces, each special token by itself. Or the positions of each group, every
            position in one of them: ``[[0], [1, 2], [3, 4]]``.
        head
            The pattern of one head; None: all heads averaged.

        Returns
        -------
        [layer, query_pos, key_pos] :class:`flowgraph.TokenMatrix` of probabilities, with a row and a column for each group.

        Raises
        ------
        ArgumentError
            If a position is missing, comes twice or is none, there is no such head, or it is not known where words begin.
        NotRecordedError
            If the trace holds no pattern.

        Examples
        --------
        >>> words = fg.trace(trace.model, "Unbelievably good").grouped()
        >>> words.tokens
        ('Unbelievably', ' good')
        """
        between = "words" if isinstance(groups, str) else "groups of tokens"
        if isinstance(groups, str):
            groups = self._words(groups)
        pattern = self.pattern.detach().cpu()
        if head is not None and not -self.n_heads <= head < self.n_heads:
            raise ArgumentError(f"head={head} is not one of 0…{self.n_heads - 1}")
        # Probabilities of 16 bits no longer sum to 1.
        found = rows_of_one(pattern.to(torch.float64).numpy(), pattern.dtype.itemsize)
        values, which = (
            (found.mean(1), "heads averaged") if head is None else (found[:, head], f"head {head % self.n_heads}")
        )
        axes: tuple[AxisName, ...] = ("layer", "query_pos", "key_pos")
        whole = TokenMatrix(values, axes, f"attention between {between}, {which}", "probability", **origin_of(self))
        return whole.grouped(groups)

    def _words(self, name: str) -> list[list[int]]:
        """Positions of each word."""
        if name != "words":
            raise ArgumentError(f"groups={name!r} is not known; expected 'words', or the positions of each group")
        if self.fed is None or self.fed.words is None:
            of_source = "".join(
                f". Words that its {name} read are grouped by trace.stacks[{name!r}].grouped('words')"
                for name, stack in self.stacks.items()
                if stack.fed is not None and stack.fed.words is not None
            )
            raise ArgumentError(
                "groups='words' needs the text and where its tokens stand in it: trace a text, with a fast tokenizer, or give the "
                f"positions of each group{of_source}"
            )
        found: dict[int, list[int]] = {}
        for position, word in enumerate(self.fed.words):
            found.setdefault(word, []).append(position)
        return list(found.values())

    @property
    def inputs(self) -> Inputs:
        """The input: ``trace(model, trace.inputs)`` runs the same pass again."""
        return Inputs((Row("ids", text=self.prompt, ids=self.token_ids) if self.fed is None else self.fed,))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors kept; tensors that share memory count once."""
        tensors = [*self.sites.values(), *self.biases.values(), self.logits, self.position_embedding, self.final_scale]
        # Several sites may be views of one tensor, so storages are counted.
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
        return sum(storages.values()) + sum(stack.nbytes for stack in self.stacks.values())

    @property
    def model(self) -> LoadedModel:
        """The attached model.

        Raises
        ------
        ModelNeededError
            If the trace was loaded from a file and no model is attached.
        ArgumentError
            If torch.autocast is on: results of its weights would have other number types.
        ModelMismatchError
            If its weights were changed after the trace was made: results would mix two models.
        """
        if self.loaded is None:
            raise ModelNeededError(
                "this trace was loaded from a file and holds no model; what was recorded can be asked for, everything else "
                f"needs trace.attach(load_model({self.model_name!r}))"
            )
        refuse_autocast(self.loaded.device.type)
        traced = self.fingerprint.get("weights")
        if traced is not None and traced != self.loaded.weights.digest():
            raise ModelMismatchError(
                f"the weights of {self.loaded.name!r} were changed after this trace was made, so the trace and the model no longer "
                "belong together; trace the prompt again, or put the weights back"
            )
        return self.loaded

    def differences(self, loaded: LoadedModel) -> list[str]:
        """The parts, ``"config"`` or ``"weights"``, in which a model differs from the traced one; empty for the same model."""
        offered = loaded.fingerprint()
        # A revision only names what the digests prove: the same weights may lie in a folder of another name.
        return [part for part in ("config", "weights") if self.fingerprint.get(part) != offered[part]]

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
        different = self.differences(loaded)
        if different:
            raise ModelMismatchError(
                f"{loaded.name!r} is not the model that was traced ({self.model_name!r}): its {' and '.join(different)} "
                f"{'differs' if different == ['config'] else 'differ'}; attach the model that made the trace, or trace again"
            )
        stacks = {name: stack.attach(loaded.stacks[name]) for name, stack in self.stacks.items()}
        return replace(self, loaded=loaded, stacks=stacks)

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
        recorded: Trace = rendering.record(self, methods=methods, readings=readings, k=k)
        return recorded

    def save(self, path: str | Path) -> Path:
        """Write the trace as one ``.safetensors`` file, its JSON in the header; written beside and renamed."""
        return rendering.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace that :meth:`save` wrote, or the one in a session that the app saved; no model is attached.

        Raises
        ------
        FileFormatError
            If the file is damaged, not a trace, or a session that was saved without one.
        """
        loaded: Trace = rendering.load.function(cls)(path)
        return loaded


def exchanging_chain(last: Trace, other: Trace) -> Joint:
    """The chain of the steps of two stacks that read each other in the same layers."""
    sizes = [(len(one.tokens), one.n_layers) for one in (other, last)]
    # A layer that does not read the other stack has no attention to it.
    return Joint.exchanging(sizes[0], sizes[1], int(last.cross_pattern.flatten(1).any(1).sum()))
