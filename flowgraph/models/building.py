"""From a model and the row that describes it to its :class:`~flowgraph.models.anatomy.Anatomy`; which row is found elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from .anatomy import Anatomy
from .block import Block, Norm, Projection
from .families import FUNCTION, NOT_READ, Attention, Family, NormKind, Sizes, Stack, Wiring
from .hooks import Turns
from .kinds import base_of, is_encoder_decoder, unread_head
from .norms import found_kind
from .parameters import bias_of, is_matrix, matrix_of, output_embeddings, shape_of
from .paths import block_of, find, list_of


def build(model: Any, row: Family) -> Anatomy:
    """The parts that a row names, with the stacks that the last one reads where the row has several."""
    found = _build(model, row, row.stacks[-1])
    if found.cross is None or len(row.stacks) == 1:
        return found
    headless = replace(row, head=NOT_READ, context=())
    others = {stack.name: _build(model, headless, stack) for stack in row.stacks[:-1]}
    return replace(found, sources={name: replace(one, unread_head=()) for name, one in others.items()})


def _build(model: Any, row: Family, stack: Stack) -> Anatomy:
    """The parts of one stack."""
    base = base_of(model)
    config = model.config.get_text_config()
    root = (find(base, stack.root) if stack.root else None) or base
    # Chunks run the MLP's modules several times on parts of the positions.
    if getattr(config, "chunk_size_feed_forward", 0):
        raise ArchitectureError(
            f"{type(model).__name__} computes its MLPs in chunks of positions (chunk_size_feed_forward="
            f"{config.chunk_size_feed_forward}), so no hook sees them whole; load it with chunk_size_feed_forward=0"
        )
    sizes = stack.sizes or _sizes(config)
    if stack.wiring == "unknown":
        return _patterns_only(model, row, stack, sizes)
    row, head = _head(model, row)
    position_embedding = find(root, stack.position_embedding) if stack.position_embedding else None
    last = find(root, stack.final_norm) if stack.final_norm else None
    final_norm = None if last is None else _norm(last, row.norm, sizes.d_model)
    blocks = _in_order(list_of(root, stack.blocks), row, stack, sizes)
    if stack.leaves:
        blocks = _with_own_states(blocks, stack)
    if stack.entering_norm:
        assert final_norm is not None
        blocks, final_norm = _shifted(blocks, stack, final_norm), None
    found = Anatomy(
        family=row,
        stack=stack,
        model=model,
        config=config,
        wiring=_wiring(stack, config),
        causal=stack.role == "decoder" or bool(getattr(config, "is_decoder", False)),
        blocks=blocks,
        embedding=find(root, stack.embedding),
        position_embedding=position_embedding,
        final_norm=final_norm,
        head=head,
        n_heads=sizes.heads,
        n_kv_heads=sizes.kv_heads,
        d_head=sizes.d_head,
        d_value=sizes.d_value,
        d_model=sizes.d_model,
        d_vocab=_vocabulary_size(model, head),
        context=_context(row, config, position_embedding),
        softcap=_number(config, row.logit_softcap),
        attention_softcap=_number(config, stack.attention.softcap),
        unread_head=() if head else unread_head(model),
    )
    if stack.cross_attention is None:
        return found
    cross = tuple(block.cross for block in found.blocks if block.cross is not None)
    if stack.cross_first:
        # A layer that does not read the other stack has a block without attention in its place.
        blocks = tuple(replace(one, cross=None) if one.cross and one.cross.attention is None else one for one in blocks)
    part = replace(
        replace(found, blocks=blocks), stack=_cross_stack(stack, stack.cross_attention), blocks=cross, causal=False, head=(), final_norm=None,
        position_embedding=None, attention_softcap=_number(config, stack.cross_attention.softcap),
        source_projection=Projection(find(base, stack.source_projection)) if stack.source_projection else None,
    )  # fmt: skip
    return replace(found, blocks=blocks, cross=part)


def _with_own_states(blocks: tuple[Block, ...], stack: Stack) -> tuple[Block, ...]:
    """The blocks with the norms whose outputs are the states that leave them, and that enter the next."""
    ends = [find(block.module, stack.leaves) for block in blocks]
    return tuple(
        replace(block, enters=before, leaves=end)
        for block, before, end in zip(blocks, [None, *ends], ends, strict=False)
    )


def _cross_stack(stack: Stack, cross: Attention) -> Stack:
    """The attention to another stack as a stack of blocks without MLPs."""
    return replace(
        stack, attention=cross, cross_attention=None, attention_norm=stack.cross_norm, attention_post_norm=stack.cross_post_norm,
        mlp="", mlp_output="", mlp_input="", mlp_gate="", mlp_gate_up="", mlp_norm="", mlp_post_norm="", mlp_beside="", mixer="",
        parts=(),
    )  # fmt: skip


def _patterns_only(model: Any, row: Family, stack: Stack, sizes: Sizes) -> Anatomy:
    """The modules that attend, and nothing around them."""
    base = base_of(model)
    none = Norm(nn.Identity(), "none")
    blocks = tuple(
        Block(
            index=i, module=find(base, block_of(path) if stack.windows else path), attention=find(base, path), mixer=None, mixer_factor=1.0, query=None, key=None,
            value=None, fused=None, attention_output=None, query_norm=None, key_norm=None, attention_norm=none,
            attention_post_norm=None, mlp_norm=none, mlp_post_norm=None, mlp=None, mlp_factor=1.0, mlp_beside=None, mlp_beside_factor=1.0, mlp_input=None, mlp_gate=None,
            mlp_output=None, activation=None, scale=stack.attention.scales[i],
            windows=torch.tensor(stack.windows[i]) if stack.windows else None,
        )
        for i, path in enumerate(stack.attentions)
    )  # fmt: skip
    if len(set(stack.attentions)) < len(blocks):
        turns = {path: Turns() for path in stack.attentions}
        blocks = tuple(
            replace(block, turns=turns[path], turn=stack.attentions[:i].count(path))
            for i, (path, block) in enumerate(zip(stack.attentions, blocks, strict=True))
        )
    return Anatomy(
        family=row, stack=stack, model=model, config=model.config.get_text_config(), wiring="unknown",
        causal=stack.role == "decoder", blocks=blocks, embedding=find(base, stack.embedding), position_embedding=None,
        final_norm=None, head=(), n_heads=sizes.heads, n_kv_heads=sizes.kv_heads, d_head=sizes.d_head, d_value=sizes.d_value,
        d_model=sizes.d_model, d_vocab=0, context=_context(row, model.config.get_text_config(), None), softcap=None,
        attention_softcap=_number(model.config, stack.attention.softcap),
    )  # fmt: skip


def _sizes(config: Any) -> Sizes:
    """Sizes under the names that most configs have for them."""
    heads, d_model = int(config.num_attention_heads), int(config.hidden_size)
    d_head = int(getattr(config, "head_dim", None) or d_model // heads)
    return Sizes(heads, int(getattr(config, "num_key_value_heads", None) or heads), d_head, d_head, d_model)


def _head(model: Any, row: Family) -> tuple[Family, tuple[Any, ...]]:
    """The row with the model's own head, and the head's modules; none for a bare model or a head of another kind.

    A model that fits a row by its blocks may have another head (CamemBERT is BERT with RoBERTa's head). If transformers knows
    its output embeddings, the modules beside the base model are taken as the head; the proof then decides.
    """
    found = [(path, find(model, path)) for path in row.head]
    complete = all(module is not None or path.endswith("?") for path, module in found)
    modules = tuple(module for _, module in found if module is not None) if complete else ()
    output = output_embeddings(model)
    if row.head == NOT_READ:
        return row, ()
    if output is None:
        # A head without output embeddings scores something else, as that of next sentences does under BERT's name.
        return row, modules if modules and shape_of(modules[-1]) is not None else ()
    if modules and (row.head_kind == "masked" or all(is_matrix(module) for module in modules)):
        added = find(model, row.logit_bias) if row.logit_bias else None
        return row, modules if added is None else (*modules[:-1], BiasedHead(modules[-1], added, row.logit_factor))
    names = unread_head(model)
    if not names and is_encoder_decoder(model):
        # A decoder that is a language model by itself has a head of its own.
        names = tuple(f"decoder.{name}" for name in unread_head(model.get_decoder()))
    modules = tuple(find(model, name) for name in names)
    kind: Literal["linear", "masked"] = "linear" if modules == (output,) else "masked"
    return replace(row, head=names, head_kind=kind), modules


class BiasedHead:
    """A head's last module with a tensor that the model adds to the logits, as one linear layer with a bias.

    Parameters
    ----------
    module
        The linear layer.
    added
        What is added to its output, as long as the vocabulary.
    factor
        Number that the layer's output is multiplied by before.
    """

    def __init__(self, module: Any, added: Tensor, factor: float) -> None:
        self.module, self.added, self.factor = module, added, factor

    @property
    def weight(self) -> Tensor:
        """[d_vocab, d_model]."""
        return matrix_of(self.module)

    @property
    def bias(self) -> Tensor:
        """[d_vocab] the layer's own bias and what is added."""
        own = bias_of(self.module)
        added = self.added.detach().reshape(-1) / self.factor
        return added if own is None else own + added

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of states."""
        return torch.nn.functional.linear(x, self.weight, self.bias.to(x.dtype))


def _vocabulary_size(model: Any, head: tuple[Any, ...]) -> int:
    if not head:
        return 0
    output = output_embeddings(model)
    return int((shape_of(head[-1] if output is None else output) or (0,))[0])


def _wiring(stack: Stack, config: Any) -> Wiring:
    if stack.wiring_switch is not None:
        attribute, value, wiring = stack.wiring_switch
        if getattr(config, attribute, None) == value:
            return wiring
    return stack.wiring


def _context(row: Family, config: Any, positions: Any) -> int | None:
    """The longest input: the config's number, but at most the learned positions after the padding's."""
    # Some configs name a longer input than their table of positions holds.
    # XLNet says −1 for any length.
    said = next((int(value) for name in row.context if (value := getattr(config, name, None)) and value > 0), None)
    # Positions are counted from the padding's on where the table has one, as RoBERTa and its kin do; others skip a fixed
    # number of rows, as OPT does.
    padding = getattr(positions, "padding_idx", None)
    if padding is None and row.positions_start_after_padding:
        padding = getattr(config, "pad_token_id", None)
    unused = int(padding) + 1 if padding is not None else int(getattr(positions, "offset", 0))
    rows = getattr(positions, "num_embeddings", None)
    if said is None or rows is None:
        return said
    return min(said, int(rows) - unused)


def _number(config: Any, attribute: str | float) -> float | None:
    if not isinstance(attribute, str):
        return attribute
    value = getattr(config, attribute, None) if attribute else None
    return None if value is None else float(value)


def _in_order(modules: Any, row: Family, stack: Stack, sizes: Sizes) -> tuple[Block, ...]:
    """The block of each layer."""
    if not stack.order:
        return tuple(_block(i, module, row, stack, sizes) for i, module in enumerate(modules))
    turns = [Turns() for _ in modules]
    blocks = (_block(i, modules[n], row, stack, sizes) for i, n in enumerate(stack.order))
    return tuple(
        replace(block, turns=turns[n], turn=stack.order[:i].count(n))
        for i, (n, block) in enumerate(zip(stack.order, blocks, strict=True))
    )


def _shifted(blocks: tuple[Block, ...], stack: Stack, final: Norm) -> tuple[Block, ...]:
    """The blocks of a stream that goes through a norm before each part, each with the norm that begins the next one behind its MLP."""
    of_attention, of_mlp = stack.stream_factors
    entering = [block.mlp_norm for block in blocks]
    return tuple(
        replace(
            block, enters=own.module, leaves=behind.module, mlp_norm=replace(behind, times=of_mlp),
            attention_norm=replace(block.attention_norm, times=of_attention),
        )
        for block, own, behind in zip(blocks, entering, [*entering[1:], final], strict=True)
    )  # fmt: skip


def _norm(module: Any, kind: NormKind | None, width: int) -> Norm:
    """The norm of a row's kind, or of the kind that its formula shows."""
    if kind is not None:
        return Norm(module, kind)
    if isinstance(module, nn.Identity):
        return Norm(module, "none")
    found = found_kind(module, width)
    if found is None:
        raise ArchitectureError(f"{type(module).__name__} is no norm of a known formula")
    return Norm(module, *found)


def _block(index: int, block: nn.Module, row: Family, stack: Stack, sizes: Sizes) -> Block:
    """One block, with what it attends to in another stack."""
    found = _one_attention(index, block, row, stack, sizes)
    if stack.cross_attention is None:
        return found
    other = _cross_stack(stack, stack.cross_attention)
    cross = _one_attention(index, block, row, other, sizes)
    shared = find(block, stack.cross_shared) if stack.cross_shared else None
    if shared is not None:
        cross = replace(cross, module=shared, turns=Turns(), turn=stack.cross_run)
    return replace(found, cross=cross)


def _one_attention(index: int, block: nn.Module, row: Family, stack: Stack, sizes: Sizes) -> Block:
    def norm(path: str, width: int = sizes.d_model) -> Norm | None:
        found = find(block, path) if path else None
        return None if found is None else _norm(found, row.norm, width)

    def norm_or_none(path: str) -> Norm:
        return norm(path) or Norm(nn.Identity(), "none")

    def module(path: str) -> nn.Module | None:
        return find(block, path) if path else None

    attention = stack.attention
    before, after, before_mlp, after_mlp = (
        stack.norms[index]
        if stack.norms
        else (stack.attention_norm, stack.attention_post_norm, stack.mlp_norm, stack.mlp_post_norm)
    )
    holds = stack.parts[index].split("+") if stack.parts else ("attention", "mixer", "mlp")
    has_mlp = "mlp" in holds
    attention_factor, mlp_factor = (
        find(block, path).detach() if path else number
        for path, number in zip(stack.channel_factors, (attention.factor, stack.mlp_factor), strict=True)
    )
    mlp_output = Projection(find(block, stack.mlp_output), factor=mlp_factor) if stack.mlp_output and has_mlp else None
    mlp_input, mlp_gate = (None, None) if mlp_output is None else _mlp_inputs(block, stack, mlp_output.d_in)
    output = find(block, attention.output) if "attention" in holds else None
    found = None if output is None else find(block, attention.module)
    shift = find(block, attention.shift) if attention.shift else None
    projection = Projection(output, factor=attention_factor, shift=None if shift is None else shift.detach())
    return Block(
        index=index,
        module=block,
        attention=found,
        mixer=module(stack.mixer) if "mixer" in holds else None,
        mixer_factor=stack.mixer_factor,
        query=module(attention.query),
        key=module(attention.key),
        value=module(attention.value),
        fused=module(attention.fused),
        attention_output=None if output is None else _of_heads(projection, sizes),
        query_norm=norm(attention.query_norm, sizes.d_head),
        key_norm=norm(attention.key_norm, sizes.d_head),
        attention_norm=norm_or_none(before),
        attention_post_norm=norm(after),
        mlp_norm=norm_or_none(before_mlp if has_mlp else ""),
        mlp_post_norm=norm(after_mlp),
        mlp=mlp_output.module if mlp_output is not None else module(stack.mlp) if has_mlp else None,
        mlp_factor=mlp_factor,
        mlp_beside=module(stack.mlp_beside) if has_mlp else None,
        mlp_beside_factor=stack.mlp_beside_factor,
        mlp_input=mlp_input,
        mlp_gate=mlp_gate,
        mlp_output=mlp_output,
        activation=_activation(block, stack.mlp_activation) if mlp_output is not None else None,
        scale=1.0
        if found is None
        else attention.scales[index]
        if attention.scales
        else sizes.d_head**-0.5
        if attention.scale == "size"
        else _attention_scale(found, attention),
    )


def _of_heads(output: Projection, sizes: Sizes) -> Projection:
    """The projection of heads' outputs, whose heads may be smaller here than in other layers."""
    own = output.d_in // sizes.heads
    return output if own == sizes.d_value else replace(output, heads=(sizes.heads, own, sizes.d_value))


def _activation(block: nn.Module, path: str) -> Any:
    """The elementwise function of an MLP: a module of the block, or a function of the library by its name."""
    if not path.startswith(FUNCTION):
        return find(block, path)
    from transformers.activations import ACT2FN

    return ACT2FN[path.removeprefix(FUNCTION)]


def _mlp_inputs(block: nn.Module, stack: Stack, d_mlp: int) -> tuple[Projection, Projection | None]:
    """The MLP's input projection and its gate."""
    # One module holds [gate; input]: the first d_mlp outputs are the gate.
    if stack.mlp_gate_up:
        fused = find(block, stack.mlp_gate_up)
        return Projection(fused, (d_mlp, None)), Projection(fused, (None, d_mlp))
    gate = Projection(find(block, stack.mlp_gate)) if stack.mlp_gate else None
    return Projection(find(block, stack.mlp_input)), gate


def _attention_scale(module: Any, attention: Attention) -> float:
    if attention.scale == "none":
        return 1.0
    return float(module.scaling) if hasattr(module, "scaling") else 1.0 / float(module.scale_attn)
