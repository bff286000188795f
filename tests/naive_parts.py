"""A run with some parts shown, of GPT-2 and Llama, written out from the weights: one term and one MLP at a time, in loops."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from flowgraph.interventions.parts import Part
from tests.naive_interventions import layer_norm, rms_norm, rotated


class Gpt2:
    """The parts of GPT-2's forward pass."""

    def __init__(self, model: Any) -> None:
        self.base, self.model = model.transformer, model
        self.heads, self.layers = model.config.n_head, len(self.base.h)
        self.d = model.config.n_embd // self.heads

    def embedded(self, ids: list[int]) -> Tensor:
        return self.base.wte.weight[ids] + self.base.wpe.weight[: len(ids)]

    def qkv(self, layer: int, head: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        block = self.base.h[layer]
        x = layer_norm(x, block.ln_1)
        made = []
        for n in range(3):
            columns = slice((n * self.heads + head) * self.d, (n * self.heads + head + 1) * self.d)
            made.append(x @ block.attn.c_attn.weight[:, columns] + block.attn.c_attn.bias[columns])
        return made[0], made[1], made[2]

    def written(self, layer: int, head: int, z: Tensor) -> Tensor:
        return z @ self.base.h[layer].attn.c_proj.weight[head * self.d : (head + 1) * self.d]

    def bias(self, layer: int) -> Tensor:
        return self.base.h[layer].attn.c_proj.bias

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.base.h[layer]
        inner = layer_norm(x, block.ln_2) @ block.mlp.c_fc.weight + block.mlp.c_fc.bias
        return torch.nn.functional.gelu(inner, approximate="tanh") @ block.mlp.c_proj.weight + block.mlp.c_proj.bias

    def logits(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.base.ln_f) @ self.model.lm_head.weight.T


class Llama:
    """The parts of Llama's forward pass."""

    def __init__(self, model: Any) -> None:
        self.base, self.model = model.model, model
        self.heads, self.layers = model.config.num_attention_heads, len(self.base.layers)
        self.group = self.heads // model.config.num_key_value_heads
        self.d = model.config.hidden_size // self.heads

    def embedded(self, ids: list[int]) -> Tensor:
        return self.base.embed_tokens.weight[ids]

    def qkv(self, layer: int, head: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        block, theta = self.base.layers[layer], self.model.config.rope_parameters["rope_theta"]
        x = rms_norm(x, block.input_layernorm)

        def of(name: str, owner: int) -> Tensor:
            weight = getattr(block.self_attn, f"{name}_proj").weight
            return x @ weight[owner * self.d : (owner + 1) * self.d].T

        shared = head // self.group
        return rotated(of("q", head), theta), rotated(of("k", shared), theta), of("v", shared)

    def written(self, layer: int, head: int, z: Tensor) -> Tensor:
        return z @ self.base.layers[layer].self_attn.o_proj.weight[:, head * self.d : (head + 1) * self.d].T

    def bias(self, layer: int) -> Tensor:
        return torch.zeros((), dtype=self.base.norm.weight.dtype)

    def mlp(self, layer: int, x: Tensor) -> Tensor:
        block = self.base.layers[layer]
        x = rms_norm(x, block.post_attention_layernorm)
        inner = torch.nn.functional.silu(x @ block.mlp.gate_proj.weight.T) * (x @ block.mlp.up_proj.weight.T)
        return inner @ block.mlp.down_proj.weight.T

    def logits(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.base.norm) @ self.model.lm_head.weight.T


FORWARDS: dict[str, Callable[[Any], Any]] = {"gpt2": Gpt2, "llama": Llama}


def _weights(scores: list[Tensor]) -> Tensor:
    return torch.stack(scores).softmax(0)


def masked(forward: Any, clean: list[int], other: list[int], shown: Collection[Part], *, strict: bool = True) -> Tensor:
    """[d_vocab] logits of the last position with some parts shown."""
    theirs, live, length = forward.embedded(other), forward.embedded(clean), len(clean)
    for layer in range(forward.layers):
        add_live, add_theirs = torch.zeros_like(live), torch.zeros_like(live)
        for head in range(forward.heads):
            q, k, v = forward.qkv(layer, head, live)
            q_other, k_other, v_other = forward.qkv(layer, head, theirs)
            for t in range(length):
                is_shown = [Part(layer, t, head, s) in shown for s in range(t + 1)]
                keys = [k[s] if is_shown[s] or not strict else k_other[s] for s in range(t + 1)]
                own = _weights([q[t] @ key / forward.d**0.5 for key in keys])
                others = _weights([q_other[t] @ k_other[s] / forward.d**0.5 for s in range(t + 1)])
                for s in range(t + 1):
                    unseen = forward.written(layer, head, others[s] * v_other[s])
                    add_theirs[t] += unseen
                    add_live[t] += forward.written(layer, head, own[s] * v[s]) if is_shown[s] else unseen
        live, theirs = live + add_live + forward.bias(layer), theirs + add_theirs + forward.bias(layer)
        out_live, out_theirs = forward.mlp(layer, live), forward.mlp(layer, theirs)
        for t in range(length):
            live[t] += out_live[t] if Part(layer, t) in shown else out_theirs[t]
        theirs = theirs + out_theirs
    return forward.logits(live[-1])
