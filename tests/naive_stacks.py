"""Forward passes of T5 and of BART's kin (BART, Marian, Whisper) written out from the weights, in float64 or whatever the model has.

The residual streams are tables of who wrote what, one for each stack, and each receiver can be told what a sender wrote. Streams whose
norms stand on the stream itself are read by running these norms anew on what the receiver is told. Nothing is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Seen = Mapping[str, Tensor]
Cuts = Mapping[tuple[str, str], Seen]
"""(receiver, what of it) → sender → what that receiver is told it wrote."""
Norm = Callable[[Tensor], Tensor]


class Stream:
    """Who wrote what, in order, and the norms that stand on the stream."""

    def __init__(self, entries: Iterable[tuple[str, Tensor]]) -> None:
        self.entries: list[tuple[str, Any]] = list(entries)

    def read(self, seen: Seen) -> Tensor:
        """The state, as a receiver sees it."""
        state: Any = 0.0
        for name, entry in self.entries:
            state = entry(state) if callable(entry) else state + seen.get(name, entry)
        return state

    def add(self, name: str, output: Tensor) -> None:
        self.entries.append((name, output))

    def norm(self, norm: Norm) -> None:
        self.entries.append(("", norm))

    @property
    def wrote(self) -> dict[str, Tensor]:
        """What each sender wrote."""
        return {name: entry for name, entry in self.entries if not callable(entry) and not name.startswith("bias")}


def t5_norm(module: Any) -> Norm:
    return lambda x: x / (x.square().mean(-1, keepdim=True) + module.variance_epsilon).sqrt() * module.weight


def layer_norm(module: Any) -> Norm:
    def norm(x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias

    return norm


class Heads:
    """One attention: its receivers read, its heads write."""

    def __init__(self, name: str, norm: Norm, parts: Mapping[str, Any], n_heads: int, scale: float, bias: Any) -> None:
        self.name, self.norm, self.parts, self.n_heads, self.scale, self.bias = name, norm, parts, n_heads, scale, bias

    def write(self, stream: Stream, cuts: Cuts, end: Callable[[Seen], Tensor] | None = None) -> None:
        """Add what the heads write; keys and values are made of ``end`` where it is given."""
        outputs = []
        for head in range(self.n_heads):
            receiver, made = f"{self.name}H{head}", {}
            for c in "qkv":
                seen, layer = cuts.get((receiver, c), {}), self.parts[c]
                x = end(seen) if end is not None and c != "q" else self.norm(stream.read(seen))
                rows = slice(head * len(layer.weight) // self.n_heads, (head + 1) * len(layer.weight) // self.n_heads)
                made[c] = x @ layer.weight[rows].T + (0 if layer.bias is None else layer.bias[rows])
            scores = made["q"] @ made["k"].T * self.scale + (0 if self.bias is None else self.bias[head])
            z = scores.softmax(-1) @ made["v"]
            out = self.parts["o"]
            columns = slice(
                head * out.weight.shape[1] // self.n_heads, (head + 1) * out.weight.shape[1] // self.n_heads
            )
            outputs.append((receiver, z @ out.weight[:, columns].T))
        for receiver, output in outputs:
            stream.add(receiver, output)
        if self.parts["o"].bias is not None:
            stream.add(f"bias {self.name}", self.parts["o"].bias.expand(len(outputs[0][1]), -1))


def causal(count: int, like: Tensor) -> Tensor:
    hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
    return torch.zeros(count, count, dtype=like.dtype).masked_fill(hidden, float("-inf"))


def t5(model: Any, feed: Mapping[str, Tensor], cuts: Cuts) -> tuple[Tensor, dict[str, Tensor]]:
    """[d_vocab] logits of the last position, and who wrote what. Senders of the encoder begin with ``enc.``."""
    heads, streams, end = model.config.num_heads, {}, None
    for prefix, stack, ids in (
        ("enc.", model.encoder, feed["input_ids"][0]),
        ("", model.decoder, feed["decoder_input_ids"][0]),
    ):
        stream = streams[prefix] = Stream([(f"{prefix}embed", stack.embed_tokens.weight[ids])])
        bias = stack.block[0].layer[0].SelfAttention.compute_bias(len(ids), len(ids))[0]
        bias = bias if prefix else bias + causal(len(ids), bias)
        for n, block in enumerate(stack.block):
            own, cross, mlp = block.layer[0], (block.layer[1] if not prefix else None), block.layer[-1]
            name = f"{prefix}L{n}"
            Heads(name, t5_norm(own.layer_norm), of_t5(own.SelfAttention), heads, 1.0, bias).write(stream, cuts)
            if cross is not None:
                of_cross = of_t5(cross.EncDecAttention)
                Heads(f"{name}.cross.", t5_norm(cross.layer_norm), of_cross, heads, 1.0, None).write(stream, cuts, end)
            x = t5_norm(mlp.layer_norm)(stream.read(cuts.get((f"{name}.mlp", "mlp"), {})))
            stream.add(f"{name}.mlp", mlp.DenseReluDense(x))
        last, final = stream, t5_norm(stack.final_layer_norm)
        end = lambda seen, last=last, final=final: final(last.read(seen))  # noqa: E731
    state = end(cuts.get(("logits", "logits"), {}))[-1]
    scale = model.model_dim**-0.5 if model.config.tie_word_embeddings else 1.0
    return state * scale @ model.lm_head.weight.T, streams["enc."].wrote | streams[""].wrote


def of_t5(attention: Any) -> dict[str, Any]:
    return {c: getattr(attention, c) for c in "qkvo"}


def bart(model: Any, feed: Mapping[str, Tensor], cuts: Cuts) -> tuple[Tensor, dict[str, Tensor]]:
    """As :func:`t5`, for models whose parts are named as BART's. Embeddings are taken from the model's own first blocks."""
    base, streams, end = model.model, {}, None
    is_before = model.config.model_type == "whisper"
    entered = first_states(model, feed)
    for prefix, stack in (("enc.", base.encoder), ("", base.decoder)):
        heads = stack.layers[0].self_attn.num_heads
        stream = streams[prefix] = Stream([(f"{prefix}embed", entered[prefix])])
        mask = None if prefix else causal(len(entered[prefix]), entered[prefix]).expand(heads, -1, -1)
        for n, block in enumerate(stack.layers):
            name = f"{prefix}L{n}"
            kinds = [("self_attn", name, mask, None)] + (
                [] if prefix else [("encoder_attn", f"{name}.cross.", None, end)]
            )
            for kind, of, bias, read in kinds:
                attention, norm = getattr(block, kind), layer_norm(getattr(block, f"{kind}_layer_norm"))
                parts = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "o": attention.out_proj}
                before = norm if is_before else torch.clone
                Heads(of, before, parts, heads, attention.head_dim**-0.5, bias).write(stream, cuts, read)
                if not is_before:
                    stream.norm(norm)
            norm = layer_norm(block.final_layer_norm)
            x = stream.read(cuts.get((f"{name}.mlp", "mlp"), {}))
            x = norm(x) if is_before else x
            stream.add(f"{name}.mlp", block.fc2(block.activation_fn(block.fc1(x))))
            if not is_before:
                stream.norm(norm)
        final = layer_norm(stack.layer_norm) if is_before else torch.clone
        end = lambda seen, last=stream, final=final: final(last.read(seen))  # noqa: E731
    state = end(cuts.get(("logits", "logits"), {}))[-1]
    added = getattr(model, "final_logits_bias", torch.zeros(1, 1).to(state))
    head = model.proj_out if is_before else model.lm_head
    return state @ head.weight.T + added[0], streams["enc."].wrote | streams[""].wrote


def first_states(model: Any, feed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What enters the first block of each stack."""
    seen: dict[str, Tensor] = {}

    def keep(prefix: str) -> Any:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            seen[prefix] = (args[0] if args else kwargs["hidden_states"])[0].detach().clone()

        return hook

    handles = [
        stack.layers[0].register_forward_pre_hook(keep(prefix), with_kwargs=True)
        for prefix, stack in (("enc.", model.model.encoder), ("", model.model.decoder))
    ]
    try:
        with torch.no_grad():
            model(**feed)
    finally:
        for handle in handles:
            handle.remove()
    return seen


FORWARDS = {"t5": t5, "bart": bart, "marian": bart, "whisper": bart}
