"""Architecture families as rows of data.

A :class:`Family` says where, in a Hugging Face model, the parts of a transformer live. Nothing here runs: rows are resolved
by :mod:`flowgraph.models.building` and proved by :mod:`flowgraph.models.proof` when a model is attached.

Paths are attribute paths (``"self_attn.o_proj"``). Those of a :class:`Stack` start at the stack's root, those of its blocks
at one block, those of the head at the whole model. A path that ends in ``?`` may be missing or None. Of several alternatives
separated by ``|`` the first that exists is taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..errors import ArgumentError

Wiring = Literal["sequential", "parallel", "sandwich", "post_norm", "unknown"]
NormKind = Literal["layer", "layer_unit_offset", "rms", "rms_unit_offset", "none"]
Rotary = Literal["none", "half", "interleaved"]
NOT_READ = ("",)
"""A row's ``head`` for a head that is there and is not read."""
FUNCTION = "function:"
"""Before the name of an activation in transformers that is no module of its own."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a stack whose config does not say them under the usual names.

    Attributes
    ----------
    heads, kv_heads
        Query heads, and key/value heads.
    d_head, d_value
        Length of a head's queries and keys, and of its values.
    d_model
        Width of the residual stream.
    """

    heads: int
    kv_heads: int
    d_head: int
    d_value: int
    d_model: int

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True)
class Attention:
    """Where one attention of a block lives; paths start at the block.

    Attributes
    ----------
    module
        The module that returns ``(output, pattern)``.
    output
        Its output projection. The input of this projection is z.
    query, key, value
        Split projections, or empty when they are fused. All of them and ``fused`` are empty where queries and keys are no linear
        maps of the block's input (low-rank projections, say): they are then known only as they enter the attention function.
    fused, fused_layout
        One projection for all three: ``"concatenated"`` [q; k; v], or ``"interleaved"`` [head][q; k; v].
    query_norm, key_norm
        Norms of the single heads, before rotary.
    rotary
        ``"half"`` rotates (i, i + d/2), ``"interleaved"`` rotates (2i, 2i + 1), as many dimensions as there are angles.
    scale
        ``"module"``: the factor of the dot product stands in the module as ``scaling`` or ``scale_attn`` (a divisor);
        ``"none"``: there is no factor; ``"size"``: it is 1/√(size of a head), and stands nowhere.
    followed
        Whether the module computes attention by code of its own and returns no pattern, so that it is followed at its softmax.
    scales
        The factor of each layer, in place of ``scale``.
    softcap
        Config attribute of the soft-cap on attention scores, or its number.
    factor
        Number that the output is multiplied by before it joins the stream.
    shift
        Path of a vector that joins the stream with the output and is no bias of its projection; empty where there is none.
    bias
        Whether something besides a mask is added to scores, such as a bias by distance. It is then taken as it is given to the
        attention function, and so is the mask.
    gated
        Whether the numbers of the heads' outputs are multiplied before the output projection, by a gate or a norm in between.
    sinks
        Whether each head has a score for a key that holds nothing, so that a pattern's rows sum to less than 1.
    """

    module: str
    output: str
    query: str = ""
    key: str = ""
    value: str = ""
    fused: str = ""
    fused_layout: Literal["concatenated", "interleaved"] = "concatenated"
    query_norm: str = ""
    key_norm: str = ""
    rotary: Rotary = "none"
    scale: Literal["module", "none", "size"] = "module"
    followed: bool = False
    scales: tuple[float, ...] = ()
    softcap: str | float = ""
    factor: float = 1.0
    shift: str = ""
    bias: bool = False
    sinks: bool = False
    gated: bool = False

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True)
class Stack:
    """One tower of blocks: the decoder of a language model, or an encoder.

    Attributes
    ----------
    role
        ``"decoder"`` (causal) or ``"encoder"`` (sees both sides, unless ``config.is_decoder``).
    root
        From the base model to the module the other paths start at; empty for the base model itself.
    name
        Name of a stack that is read by the last one and reads it, in the same layers; empty for the last one.
    blocks
        The list of blocks; several lists that run one after the other are joined by ``+``.
    leaves
        Path of the norm whose output is the state that leaves a block, where that is not the block's first output; the state that
        enters is then what left the block before. Empty where it is.
    wiring
        How a block adds to the residual stream; see the design of :class:`flowgraph.Trace`.
    wiring_switch
        (config attribute, value, wiring that holds then).
    attention, cross_attention
        Self-attention, and attention to the states of another stack where the blocks have one, between self-attention and MLP. If
        some blocks do not attend, the paths of attention end in ``?``.
    cross_norm, cross_post_norm
        The norm before the attention to another stack, for ``post_norm`` the one after it; the second norm of ``sandwich``
        blocks, after it.
    cross_first, cross_shared, cross_run
        For two stacks that read each other in the same layers: whether attention to the other stack stands before attention to the
        stack itself, the module that runs once for each of the two, and which of its runs is this stack's. Layers that do not have it
        do not read the other stack.
    source_projection
        The linear layer between the other stack's last states and what keys and values are made of, from the base model on; empty
        where there is none.
    mixer, mixer_factor
        The module that mixes tokens in attention's place, or beside it (a state-space model, a convolution), in the blocks that
        have one, and the number that its output is multiplied by before it joins the stream.
    attention_norm, mlp_norm
        The norms before attention and MLP, empty where there is none; for ``post_norm`` the norms after them.
    attention_post_norm, mlp_post_norm
        The second norms of ``sandwich`` blocks, after attention and MLP.
    mlp_output
        The output projection of the MLP. Its input are the neurons.
    mlp_activation
        The elementwise function of the MLP: a module, or ``"function:gelu"`` with a name of transformers' activations.
    mlp_input, mlp_gate
        Projections of the MLP's input: neurons = activation(input) without a gate, activation(gate) · input with one.
    mlp_gate_up
        One projection for both: [gate; input].
    mlp
        The module whose output is the MLP's, where it is no input projection, activation and output projection (a mixture of
        experts, say). It then has no neurons, and the paths above are empty.
    mlp_beside, mlp_beside_factor
        A second module that writes beside the MLP, or after it, and that mixes no tokens (shared experts, an input of its own for
        each layer), and the number that its output is multiplied by. The two are one node, without neurons.
    mlp_factor
        Number that the MLP's output is multiplied by before it joins the stream.
    embedding, position_embedding
        Token embedding, and learned positions. A model of images or sound has no token embedding.
    embedding_scale
        ``"sqrt_d_model"`` where token embeddings are multiplied by √d_model, or another factor.
    embedding_is_residual
        False where something else happens between embedding and the first block (projection, norm, token types).
    final_norm
        Norm before the head.
    entering_norm
        With ``post_norm``, the norm at the beginning of a block where the stream itself goes through it: what it gives is then the
        state that enters the layer, and the norm at the beginning of the next block, after the last one ``final_norm``, stands behind
        the MLP in ``mlp_norm``'s place. Empty where norms on the stream stand behind attention and MLP.
    stream_factors
        With it, the numbers that the state is multiplied by before attention's and the MLP's output join it. The factors of both are
        relative to them.
    norms
        Paths of attention_norm, attention_post_norm, mlp_norm and mlp_post_norm in each layer, where some layers of a ``sandwich``
        stack have no second norms; empty where all layers name them alike.
    channel_factors
        Paths, from the block on, of the vectors that attention's and the MLP's outputs are multiplied by, number by number, before
        they join the stream (LayerScale); empty where there are none.
    sizes
        Sizes, where the config does not say them.
    parts
        What each layer holds, of ``"attention"``, ``"mixer"`` and ``"mlp"`` joined by ``+``, where layers differ.
    order
        Number of the block that each layer runs, where blocks run several times in a pass; empty where each runs once.
    attentions
        Paths of the modules that attend, in the order in which they run, for ``wiring="unknown"``: attention is then known, and
        nothing of the residual stream.
    windows, passed
        With it, of attention within windows of an image, the position at each place of the windows in each layer; and the paths of
        the blocks of earlier stages, whose positions are smaller. The layers are those of one stage.
    uneven
        With it, whether heads differ in size from layer to layer, so that of attention patterns alone are kept.
    reason
        With it, the reason why no more is known.
    """

    blocks: str
    attention: Attention
    attention_norm: str
    mlp_norm: str
    mlp_output: str
    mlp_activation: str
    embedding: str
    wiring: Wiring = "sequential"
    wiring_switch: tuple[str, object, Wiring] | None = None
    role: Literal["decoder", "encoder"] = "decoder"
    root: str = ""
    cross_attention: Attention | None = None
    cross_norm: str = ""
    cross_post_norm: str = ""
    cross_first: bool = False
    cross_shared: str = ""
    cross_run: int = 0
    name: str = ""
    leaves: str = ""
    source_projection: str = ""
    attention_post_norm: str = ""
    mlp_post_norm: str = ""
    mlp_input: str = ""
    mlp_gate: str = ""
    mlp_gate_up: str = ""
    mixer: str = ""
    mixer_factor: float = 1.0
    mlp: str = ""
    mlp_factor: float = 1.0
    mlp_beside: str = ""
    mlp_beside_factor: float = 1.0
    position_embedding: str = ""
    embedding_scale: Literal["none", "sqrt_d_model"] | float = "none"
    embedding_is_residual: bool = True
    final_norm: str = ""
    entering_norm: str = ""
    stream_factors: tuple[float, float] = (1.0, 1.0)
    norms: tuple[tuple[str, str, str, str], ...] = ()
    channel_factors: tuple[str, str] = ("", "")
    sizes: Sizes | None = None
    parts: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    attentions: tuple[str, ...] = ()
    windows: tuple[tuple[int, ...], ...] = ()
    passed: tuple[str, ...] = ()
    uneven: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        _check_types(self)


@dataclass(frozen=True)
class Family:
    """One row: everything that differs between architectures.

    Attributes
    ----------
    name
        Name of the family.
    model_types
        Values of ``config.model_type`` that this row is meant for.
    stacks
        The towers; the last one ends in the head.
    norm
        ``"layer"``, ``"rms"`` (x/rms·w) or ``"rms_unit_offset"`` (x/rms·(1 + w)); None: each norm is held against these formulas
        when the model is loaded.
    head
        Modules from the final norm's output to the logits, applied in order; empty for families without one.
    head_kind
        ``"linear"``: norm + linear, direct logit attribution exists. ``"masked"``: a masked language model's head.
        ``"classes"``: a classifier's head that is no norm + linear at one position.
    logit_softcap
        Config attribute of the soft-cap on the logits, or its number.
    logit_factor
        Number that the head's output is multiplied by.
    logit_bias
        Attribute path of a tensor that is added to the logits and is no bias of the head's module; empty where there is none.
    context
        Config attributes of the longest input, the first that exists counts.
    positions_start_after_padding
        Positions are counted from ``pad_token_id + 1``, so that many fewer can be used.
    found
        Whether the row was found by search in a model, and not written by hand.
    """

    name: str
    model_types: tuple[str, ...]
    stacks: tuple[Stack, ...]
    norm: NormKind | None = "layer"
    head: tuple[str, ...] = ("lm_head",)
    head_kind: Literal["linear", "masked", "classes"] = "linear"
    logit_softcap: str | float = ""
    logit_factor: float = 1.0
    logit_bias: str = ""
    context: tuple[str, ...] = ("max_position_embeddings", "n_positions", "n_ctx")
    positions_start_after_padding: bool = False
    found: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.stacks:
            raise ArgumentError(
                f"family {self.name!r}: stacks=() names no tower of blocks; expected at least one Stack"
            )
        for stack in self.stacks:
            split = (stack.attention.query, stack.attention.key, stack.attention.value)
            # Half of the three names would leave a projection unread, and the proof would say so less clearly.
            if (stack.attention.fused and any(split)) or (any(split) and not all(split)):
                raise ArgumentError(
                    f"family {self.name!r}: give either query=, key= and value= or fused=, or none of them, got {split} "
                    f"and {stack.attention.fused!r}"
                )
            if (stack.wiring == "sandwich") != bool(stack.attention_post_norm and stack.mlp_post_norm):
                raise ArgumentError(
                    f"family {self.name!r}: attention_post_norm= and mlp_post_norm= belong to wiring='sandwich', "
                    f"got wiring={stack.wiring!r}"
                )
            if stack.wiring == "unknown" or (stack.parts and not any("mlp" in part for part in stack.parts)):
                continue
            projections = (stack.mlp_input, stack.mlp_gate_up, stack.mlp_gate, stack.mlp_activation, stack.mlp_output)
            if stack.mlp:
                if any(projections):
                    raise ArgumentError(
                        f"family {self.name!r}: mlp= stands for an MLP without neurons; got mlp={stack.mlp!r} beside {projections}"
                    )
                continue
            if bool(stack.mlp_gate_up) == bool(stack.mlp_input) or (stack.mlp_gate and not stack.mlp_input):
                raise ArgumentError(
                    f"family {self.name!r}: give either mlp_input=, with mlp_gate= for a gated MLP, or mlp_gate_up=, got "
                    f"{(stack.mlp_input, stack.mlp_gate)} and {stack.mlp_gate_up!r}"
                )


def _check_types(row: Any) -> None:
    """Refuse a field of a row whose value does not fit its annotation; a list passes for a tuple.

    Raises
    ------
    ArgumentError
        Naming the field.
    """
    for name, hint in _hints(row.__class__).items():
        # Rows are written by hand: a misspelt value would otherwise match no branch and be taken for the default.
        value = getattr(row, name)
        if not _fits(value, hint):
            expected = hint.__name__ if isinstance(hint, type) else re.sub(r"(\w+\.)+(?=\w)", "", str(hint))
            raise ArgumentError(f"{type(row).__name__}: {name}={value!r}; expected {expected}")


@lru_cache(maxsize=8)
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        if inner[-1] is Ellipsis:
            return all(_fits(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(map(_fits, value, inner))
    return value is None if hint in (None, type(None)) else isinstance(value, hint)


_GPT2_STACK = Stack(
    blocks="h",
    attention=Attention(module="attn", fused="attn.c_attn", output="attn.c_proj"),
    attention_norm="ln_1",
    mlp_norm="ln_2",
    mlp_input="mlp.c_fc",
    mlp_activation="mlp.act",
    mlp_output="mlp.c_proj",
    embedding="wte",
    position_embedding="wpe",
    final_norm="ln_f",
)
_LLAMA_ATTENTION = Attention(
    module="self_attn",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    rotary="half",
)
_LLAMA_STACK = Stack(
    root="language_model?",
    blocks="layers",
    attention=_LLAMA_ATTENTION,
    attention_norm="input_layernorm",
    mlp_norm="post_attention_layernorm",
    mlp_input="mlp.up_proj",
    mlp_gate="mlp.gate_proj",
    mlp_activation="mlp.act_fn",
    mlp_output="mlp.down_proj",
    embedding="embed_tokens",
    final_norm="norm",
)
_NORMED_HEADS = replace(_LLAMA_ATTENTION, query_norm="self_attn.q_norm", key_norm="self_attn.k_norm")
_GEMMA_STACK = replace(_LLAMA_STACK, embedding_scale="sqrt_d_model")
_SANDWICH_STACK = replace(
    _GEMMA_STACK,
    wiring="sandwich",
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_BERT_STACK = Stack(
    role="encoder",
    wiring="post_norm",
    blocks="encoder.layer",
    attention=Attention(
        module="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        output="attention.output.dense",
    ),
    attention_norm="attention.output.LayerNorm",
    mlp_norm="output.LayerNorm",
    mlp_input="intermediate.dense",
    mlp_activation="intermediate.intermediate_act_fn",
    mlp_output="output.dense",
    embedding="embeddings.word_embeddings",
    position_embedding="embeddings.position_embeddings",
    embedding_is_residual=False,
)

_LXMERT_CROSS = Attention(
    module="visual_attention.att?",
    query="visual_attention.att.query?",
    key="visual_attention.att.key?",
    value="visual_attention.att.value?",
    output="visual_attention.output.dense?",
    scale="size",
    followed=True,
)


def _lxmert(own: str, layers: str, **further: Any) -> Stack:
    """A stream of LXMERT; ``own`` begins the names of its modules in the layers that both streams share."""
    return Stack(
        role="encoder",
        wiring="post_norm",
        blocks=f"encoder.{layers}+encoder.x_layers",
        attention=Attention(
            module=f"attention.self|{own}_self_att.self",
            query=f"attention.self.query|{own}_self_att.self.query",
            key=f"attention.self.key|{own}_self_att.self.key",
            value=f"attention.self.value|{own}_self_att.self.value",
            output=f"attention.output.dense|{own}_self_att.output.dense",
            scale="size",
            followed=True,
        ),
        attention_norm=f"attention.output.LayerNorm|{own}_self_att.output.LayerNorm",
        cross_attention=_LXMERT_CROSS,
        cross_norm="visual_attention.output.LayerNorm?",
        cross_first=True,
        cross_shared="visual_attention",
        mlp_norm=f"output.LayerNorm|{own}_output.LayerNorm",
        mlp_input=f"intermediate.dense|{own}_inter.dense",
        mlp_activation=f"intermediate.intermediate_act_fn|{own}_inter.intermediate_act_fn",
        mlp_output=f"output.dense|{own}_output.dense",
        leaves=f"output.LayerNorm|{own}_output.LayerNorm",
        embedding_is_residual=False,
        **further,
    )


_ROWS = (
    Family(name="gpt2", model_types=("gpt2",), stacks=(_GPT2_STACK,)),
    Family(
        name="gpt_neo",
        model_types=("gpt_neo",),
        stacks=(
            replace(
                _GPT2_STACK,
                attention=Attention(
                    module="attn.attention",
                    query="attn.attention.q_proj",
                    key="attn.attention.k_proj",
                    value="attn.attention.v_proj",
                    output="attn.attention.out_proj",
                    scale="none",
                ),
            ),
        ),
    ),
    Family(
        name="gptj",
        model_types=("gptj",),
        stacks=(
            replace(
                _GPT2_STACK,
                wiring="parallel",
                attention=Attention(
                    module="attn",
                    query="attn.q_proj",
                    key="attn.k_proj",
                    value="attn.v_proj",
                    output="attn.out_proj",
                    rotary="interleaved",
                ),
                mlp_norm="ln_1",
                mlp_input="mlp.fc_in",
                mlp_output="mlp.fc_out",
                position_embedding="",
            ),
        ),
    ),
    Family(
        name="gpt_neox",
        model_types=("gpt_neox",),
        stacks=(
            Stack(
                wiring="parallel",
                wiring_switch=("use_parallel_residual", False, "sequential"),
                blocks="layers",
                attention=Attention(
                    module="attention",
                    fused="attention.query_key_value",
                    fused_layout="interleaved",
                    output="attention.dense",
                    rotary="half",
                ),
                attention_norm="input_layernorm",
                mlp_norm="post_attention_layernorm",
                mlp_input="mlp.dense_h_to_4h",
                mlp_activation="mlp.act",
                mlp_output="mlp.dense_4h_to_h",
                embedding="embed_in",
                final_norm="final_layer_norm",
            ),
        ),
        head=("lm_head|embed_out",),
    ),
    Family(
        name="opt",
        model_types=("opt",),
        stacks=(
            Stack(
                wiring="sequential",
                wiring_switch=("do_layer_norm_before", False, "post_norm"),
                root="decoder",
                blocks="layers",
                attention=replace(_LLAMA_ATTENTION, output="self_attn.out_proj", rotary="none"),
                attention_norm="self_attn_layer_norm",
                mlp_norm="final_layer_norm",
                mlp_input="fc1",
                mlp_activation="activation_fn",
                mlp_output="fc2",
                embedding="embed_tokens",
                position_embedding="embed_positions",
                final_norm="final_layer_norm?",
            ),
        ),
        head=("model.decoder.project_out?", "lm_head"),
    ),
    Family(name="llama", model_types=("llama",), stacks=(_LLAMA_STACK,), norm="rms"),
    Family(name="mistral", model_types=("mistral",), stacks=(_LLAMA_STACK,), norm="rms"),
    Family(name="qwen2", model_types=("qwen2",), stacks=(_LLAMA_STACK,), norm="rms"),
    Family(
        name="qwen3",
        model_types=("qwen3",),
        stacks=(replace(_LLAMA_STACK, attention=_NORMED_HEADS),),
        norm="rms",
    ),
    Family(
        name="phi3",
        model_types=("phi3",),
        stacks=(
            replace(
                _LLAMA_STACK,
                attention=Attention(
                    module="self_attn",
                    fused="self_attn.qkv_proj",
                    output="self_attn.o_proj",
                    rotary="half",
                ),
                mlp_input="",
                mlp_gate="",
                mlp_gate_up="mlp.gate_up_proj",
                mlp_activation="mlp.activation_fn",
            ),
        ),
        norm="rms",
    ),
    Family(name="gemma", model_types=("gemma",), stacks=(_GEMMA_STACK,), norm="rms_unit_offset"),
    Family(
        name="gemma2",
        model_types=("gemma2",),
        stacks=(replace(_SANDWICH_STACK, attention=replace(_LLAMA_ATTENTION, softcap="attn_logit_softcapping")),),
        norm="rms_unit_offset",
        logit_softcap="final_logit_softcapping",
    ),
    Family(
        name="gemma3",
        model_types=("gemma3_text", "gemma3"),
        stacks=(replace(_SANDWICH_STACK, attention=_NORMED_HEADS),),
        norm="rms_unit_offset",
        logit_softcap="final_logit_softcapping",
    ),
    Family(name="bert", model_types=("bert",), stacks=(_BERT_STACK,), head=("cls",), head_kind="masked"),
    Family(
        name="roberta",
        model_types=("roberta", "xlm-roberta"),
        stacks=(_BERT_STACK,),
        head=("lm_head",),
        head_kind="masked",
        positions_start_after_padding=True,
    ),
    Family(
        name="distilbert",
        model_types=("distilbert",),
        stacks=(
            replace(
                _BERT_STACK,
                blocks="transformer.layer",
                attention=Attention(
                    module="attention",
                    query="attention.q_lin",
                    key="attention.k_lin",
                    value="attention.v_lin",
                    output="attention.out_lin",
                ),
                attention_norm="sa_layer_norm",
                mlp_norm="output_layer_norm",
                mlp_input="ffn.lin1",
                mlp_activation="ffn.activation",
                mlp_output="ffn.lin2",
            ),
        ),
        head=("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        head_kind="masked",
    ),
    Family(
        name="lxmert",
        model_types=("lxmert",),
        stacks=(
            _lxmert("visn", "r_layers", embedding="", name="vision", cross_run=1),
            _lxmert("lang", "layer", embedding="embeddings.word_embeddings"),
        ),
        head=NOT_READ,
    ),
)

FAMILIES: dict[str, Family] = {row.name: row for row in _ROWS}


def register_family(family: Family, *, replace_existing: bool = False) -> None:
    """Add a row, so that models of this architecture can be loaded.

    The row is proved on each model it is used for: a wrong row raises
    :class:`~flowgraph.errors.ArchitectureError` and never gives wrong numbers.

    Parameters
    ----------
    family
        The row. Start from the row that is nearest: ``dataclasses.replace(FAMILIES["llama"], name=…, …)``.
    replace_existing
        Allow a row of the same name to be replaced.

    Raises
    ------
    ArgumentError
        If it is no row, or a row of this name exists and ``replace_existing`` is False.

    Examples
    --------
    >>> from dataclasses import replace
    >>> fg.register_family(replace(fg.FAMILIES["llama"], name="my_llama"))
    >>> "my_llama" in fg.FAMILIES
    True
    """
    if not isinstance(family, Family):
        raise ArgumentError(
            f"register_family got {family!r}; expected a Family, such as dataclasses.replace(FAMILIES['llama'], name=…, …)"
        )
    if family.name in FAMILIES and not replace_existing:
        raise ArgumentError(
            f"a family named {family.name!r} is already registered; choose another name or pass replace_existing=True"
        )
    FAMILIES[family.name] = family
