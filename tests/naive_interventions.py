"""Forward passes of GPT-2 and Llama written out from the weights, in which a receiver can be told what a sender wrote.

The residual stream is kept as a table of who wrote what; nothing here is shared with the package. Loops instead of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Stream = dict[str, Tensor]
"""Name of a sender (or of a bias) → what it wrote, [position, d_model]."""
Seen = Mapping[str, Tensor]
"""Sender → what one receiver is told it wrote."""


def read(stream: Stream, seen: Seen) -> Tensor:
    """The sum of the stream, as a receiver sees it."""
    return sum((seen.get(name, value) for name, value in stream.items()), torch.zeros(()))


def layer_norm(x: Tensor, module: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias


def rms_norm(x: Tensor, module: Any) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt() * module.weight


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.T / q.shape[-1] ** 0.5
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v


def gpt2(model: Any, ids: list[int], cuts: Mapping[tuple[str, str], Seen]) -> tuple[Tensor, Stream]:
    """[d_vocab] logits of the last position, and who wrote what. ``cuts``: (receiver, what of it) → what it sees."""
    base, heads = model.transformer, model.config.n_head
    d = model.config.n_embd // heads
    stream: Stream = {"embed": base.wte.weight[ids] + base.wpe.weight[: len(ids)]}
    for layer, block in enumerate(base.h):
        weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
        outputs: Stream = {}
        for h in range(heads):
            name = f"L{layer}H{h}"
            part = {}
            for n, c in enumerate("qkv"):
                columns = slice((n * heads + h) * d, (n * heads + h + 1) * d)
                x = layer_norm(read(stream, cuts.get((name, c), {})), block.ln_1)
                part[c] = x @ weight[:, columns] + bias[columns]
            outputs[name] = attend(part["q"], part["k"], part["v"]) @ block.attn.c_proj.weight[h * d : (h + 1) * d]
        stream |= outputs | {f"b{layer}": block.attn.c_proj.bias.expand(len(ids), -1)}
        x = layer_norm(read(stream, cuts.get((f"L{layer}.mlp", "mlp"), {})), block.ln_2)
        inner = torch.nn.functional.gelu(x @ block.mlp.c_fc.weight + block.mlp.c_fc.bias, approximate="tanh")
        stream[f"L{layer}.mlp"] = inner @ block.mlp.c_proj.weight + block.mlp.c_proj.bias
    last = layer_norm(read(stream, cuts.get(("logits", "logits"), {})), base.ln_f)
    return last[-1] @ model.lm_head.weight.T, stream


def rotated(x: Tensor, theta: float) -> Tensor:
    n = x.shape[-1]
    # Angles in float32, as the library makes them.
    frequency = 1.0 / theta ** (torch.arange(0, n, 2, dtype=torch.float32) / n)
    angle = torch.arange(len(x), dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().repeat(1, 2).to(x.dtype), angle.sin().repeat(1, 2).to(x.dtype)
    return x * cos + torch.cat([-x[:, n // 2 :], x[:, : n // 2]], -1) * sin


def llama(model: Any, ids: list[int], cuts: Mapping[tuple[str, str], Seen]) -> tuple[Tensor, Stream]:
    """As :func:`gpt2`, with rotary positions, groups of heads, and a gated MLP."""
    base, config = model.model, model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    d, theta = config.hidden_size // heads, config.rope_parameters["rope_theta"]
    stream: Stream = {"embed": base.embed_tokens.weight[ids]}
    for layer, block in enumerate(base.layers):
        outputs: Stream = {}
        for h in range(heads):
            part = {}
            group = h // (heads // groups)
            for c, owner in (("q", h), ("k", group), ("v", group)):
                name = f"L{layer}H{owner}" if c == "q" or heads == groups else f"L{layer}KV{owner}"
                weight = getattr(block.self_attn, f"{c}_proj").weight[owner * d : (owner + 1) * d]
                part[c] = rms_norm(read(stream, cuts.get((name, c), {})), block.input_layernorm) @ weight.T
            z = attend(rotated(part["q"], theta), rotated(part["k"], theta), part["v"])
            outputs[f"L{layer}H{h}"] = z @ block.self_attn.o_proj.weight[:, h * d : (h + 1) * d].T
        stream |= outputs
        x = rms_norm(read(stream, cuts.get((f"L{layer}.mlp", "mlp"), {})), block.post_attention_layernorm)
        inner = torch.nn.functional.silu(x @ block.mlp.gate_proj.weight.T) * (x @ block.mlp.up_proj.weight.T)
        stream[f"L{layer}.mlp"] = inner @ block.mlp.down_proj.weight.T
    last = rms_norm(read(stream, cuts.get(("logits", "logits"), {})), base.norm)
    return last[-1] @ model.lm_head.weight.T, stream


FORWARDS: dict[str, Callable[..., tuple[Tensor, Stream]]] = {"gpt2": gpt2, "llama": llama}


def logit_difference(logits: Tensor, target: int, foil: int | None) -> float:
    base = logits.mean() if foil is None else logits[foil]
    return float(logits[target] - base)
