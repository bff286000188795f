"""Models whose circuit is known because it was written by hand: plain GPT-2 and Llama classes with constructed weights.

A sequence of random tokens is given twice. A previous-token head notes at each position which token came before; an induction
head looks for the position whose note is the token at hand, and copies what stands there. Everything a head reads or writes
lies in a slot of its own of the residual stream, and a constant so large that norms hardly change anything keeps slots apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VARIANTS = ("plain", "mover", "negative")
"""``mover``: the induction head only names a token; a head of a third layer finds it and moves it to the output.
``negative``: a second head of the induction head's layer writes against it, at a third of its strength."""

_WORDS = 12
_PLACES = 24
_HEADS = 4
_CONSTANT = 200.0
_GAIN = 20.0


@dataclass(frozen=True)
class Circuit:
    """A model and its heads: ``previous``, ``induction`` and by variant ``mover`` or ``negative``, as (layer, head)."""

    model: GPT2LMHeadModel | LlamaForCausalLM
    heads: dict[str, tuple[int, int]]


class _Stream:
    """Slots of a residual stream; each has a twin of opposite sign, so that the mean over all is 0 and LayerNorm only scales."""

    def __init__(self, sizes: dict[str, int], width: int) -> None:
        self.first, end = {}, 0
        for name, size in sizes.items():
            self.first[name] = end
            end += size
        self.half, self.width = width // 2, width
        assert end <= self.half

    def write(self, slot: str, i: int, amount: float = 1.0) -> Tensor:
        row = torch.zeros(self.width, dtype=torch.float64)
        row[self.first[slot] + i], row[self.half + self.first[slot] + i] = amount, -amount
        return row

    def read(self, slot: str, i: int) -> Tensor:
        return self.write(slot, i, 0.5)


def gpt2_circuit(variant: str = "plain", *, beta: float = 60.0, dtype: torch.dtype = torch.float64) -> Circuit:
    """The circuit in GPT-2: learned positions, LayerNorm, biases. ``beta`` is how sharply heads attend."""
    layers = 3 if variant == "mover" else 2
    sizes = {"token": _WORDS, "previous": _WORDS, "named": _WORDS, "out": _WORDS, "place": _PLACES, "constant": 1}
    d_head = math.ceil(2 * sum(sizes.values()) / _HEADS / 2) * 2
    width = d_head * _HEADS
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=_WORDS,
            n_positions=_PLACES,
            n_embd=width,
            n_layer=layers,
            n_head=_HEADS,
            n_inner=4,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            attn_implementation="eager",
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    model = model.to(dtype).eval().requires_grad_(False)
    stream = _Stream(sizes, width)
    for parameter in model.parameters():
        parameter.zero_()
    for word in range(_WORDS):
        model.transformer.wte.weight[word] = stream.write("token", word).to(dtype)
        model.lm_head.weight[word] = (_GAIN * stream.read("out", word)).to(dtype)
    for place in range(_PLACES):
        row = stream.write("place", place) + stream.write("constant", 0, _CONSTANT)
        model.transformer.wpe.weight[place] = row.to(dtype)
    scale = _CONSTANT * math.sqrt(2 / width)
    for block in model.transformer.h:
        block.ln_1.weight.fill_(scale)
        block.ln_2.weight.fill_(scale)
    model.transformer.ln_f.weight.fill_(scale)

    def head(at: tuple[int, int], query: list, key: list, value: str, out: str, amount: float = 1.0) -> None:
        """Channel c of the query reads ``query[c]``, of the key ``key[c]``; the value's slot is copied to another."""
        attention = model.transformer.h[at[0]].attn
        sharp = math.sqrt(beta * math.sqrt(d_head))
        start = at[1] * d_head
        for n, slots in enumerate((query, key)):
            for channel, slot in enumerate(slots):
                attention.c_attn.weight[:, n * width + start + channel] = (sharp * stream.read(*slot)).to(dtype)
        for word in range(_WORDS):
            attention.c_attn.weight[:, 2 * width + start + word] = stream.read(value, word).to(dtype)
            attention.c_proj.weight[start + word] = stream.write(out, word, amount).to(dtype)

    words = range(_WORDS)
    heads = {"previous": (0, 1), "induction": (1, 2)}
    head(
        heads["previous"], [("place", p) for p in range(1, _PLACES)], [("place", p) for p in range(_PLACES - 1)], "token", "previous"
    )  # fmt: skip
    tokens, notes = [("token", w) for w in words], [("previous", w) for w in words]
    head(heads["induction"], tokens, notes, "token", "named" if variant == "mover" else "out")
    if variant == "mover":
        heads["mover"] = (2, 0)
        head(heads["mover"], [("named", w) for w in words], tokens, "token", "out")
    if variant == "negative":
        heads["negative"] = (1, 3)
        head(heads["negative"], tokens, notes, "token", "out", -1 / 3)
    return Circuit(model, heads)


def llama_circuit(*, beta: float = 60.0, dtype: torch.dtype = torch.float64) -> Circuit:
    """The circuit in Llama: rotary positions make the previous-token head, RMSNorm, two heads to a key."""
    words, d_head, n_heads, n_groups = 14, 64, 4, 2
    width, base, constant, sharp_previous = n_heads * d_head, 1e12, 300.0, 400.0
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=n_heads,
            num_key_value_heads=n_groups,
            head_dim=d_head,
            rope_parameters={"rope_type": "default", "rope_theta": base},
            max_position_embeddings=256,
            attn_implementation="eager",
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
            rms_norm_eps=1e-6,
        )
    )
    model = model.to(dtype).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    token, previous, out, one = 0, words, 2 * words, 3 * words
    rows = range(words)
    for word in rows:
        model.model.embed_tokens.weight[word, token + word] = 1.0
        model.lm_head.weight[word, out + word] = _GAIN
    model.model.embed_tokens.weight[:, one] = constant
    norms = [norm for layer in model.model.layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
    for norm in (*norms, model.model.norm):
        norm.weight.fill_(constant / math.sqrt(width))
    planes = d_head // 2
    angles = base ** (-torch.arange(planes, dtype=torch.float64) / planes)
    fast = (torch.arange(planes) < 6).double()  # planes that turn by a good part of a circle at each step
    heads = {"previous": (0, 1), "induction": (1, 2)}

    def parts(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        layer, head = heads[name]
        attention, group = model.model.layers[layer].self_attn, head // (n_heads // n_groups)
        own, shared = slice(head * d_head, (head + 1) * d_head), slice(group * d_head, (group + 1) * d_head)
        return (
            attention.q_proj.weight[own], attention.k_proj.weight[shared], attention.v_proj.weight[shared],
            attention.o_proj.weight[:, own],
        )  # fmt: skip

    query, key, value, output = parts("previous")
    sharp = math.sqrt(sharp_previous * math.sqrt(d_head)) / constant
    # The query is the key turned back by one position: their product is largest where the key is one to the left.
    query[:, one] = (sharp * torch.cat([fast * angles.cos(), -fast * angles.sin()])).to(dtype)
    key[:, one] = (sharp * torch.cat([fast, torch.zeros(planes, dtype=torch.float64)])).to(dtype)
    for word in rows:
        value[word, token + word], output[previous + word, word] = 1.0, 1.0
    query, key, value, output = parts("induction")
    sharp = math.sqrt(beta * math.sqrt(d_head))
    for word in rows:
        plane = planes - 1 - word  # planes so slow that positions do not matter
        query[plane, token + word], key[plane, previous + word] = sharp, sharp
        value[word, token + word], output[out + word, word] = 1.0, 1.0
    return Circuit(model, heads)


def repeated(words: int, *, count: int = 16, period: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """([count, length] ids, [count] what follows): token 0, a random sequence, and its beginning again."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.stack([1 + torch.randperm(words - 1, generator=generator)[:period] for _ in range(count)])
    again = period // 2
    ids = torch.cat([torch.zeros(count, 1, dtype=torch.long), first, first[:, :again]], dim=1)
    return ids, first[:, again]
