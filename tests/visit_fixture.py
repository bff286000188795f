"""Graphs that the original VISIT drew of two tiny models, the models themselves, and ours beside them.

The files in ``tests/data`` hold what the original computed: labels in this project's grammar, token ids, probability of the
target in percent and its rank, and the numbers that it prints; then the edges with their weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import transformers

import flowgraph
from flowgraph.semantic.visit import visit_graph

DATA = Path(__file__).parent / "data"
ORIGINALS = ("gpt2", "llama")


def original_model(name):
    """The models that the original was run on: weights drawn by the name of the parameter from one seed, in their order."""
    common = {"vocab_size": 211, "attn_implementation": "eager", "bos_token_id": None, "eos_token_id": None}
    if name == "gpt2":
        config = transformers.GPT2Config(n_embd=48, n_layer=3, n_head=4, n_positions=32, **common)
    else:
        config = transformers.LlamaConfig(
            hidden_size=48, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=32, **common,
        )  # fmt: skip
    made = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}[name]
    with torch.random.fork_rng(devices=[]):
        model = made(config)
    random = np.random.RandomState(1234)
    for path, parameter in sorted(model.named_parameters()):
        drawn = random.standard_normal(tuple(parameter.shape)).astype(np.float32)
        is_norm = "ln_" in path or "layernorm" in path or path.endswith("norm.weight")
        if is_norm and path.endswith("weight"):
            drawn = 1 + 0.2 * drawn
        elif path.endswith("bias"):
            drawn = 0.1 * drawn
        elif any(part in path for part in ("wte", "embed_tokens", "lm_head")):
            drawn = 0.8 * drawn
        elif "wpe" in path:
            drawn = 0.3 * drawn
        else:
            drawn = drawn * (0.9 / np.sqrt(48))
        parameter.data.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return flowgraph.load_model(model.eval())


def pair_of(name):
    """A graph of the original and ours, nodes and edges by label; ``edges`` is (source, target) → weight."""
    original = json.loads((DATA / f"visit_{name}.json").read_text())
    trace = flowgraph.trace(original_model(name), original["token_ids"], target=original["target"])
    version = original["original"]["version"]
    graph = visit_graph(trace, version=version, **original["settings"])
    labels = [str(node) for node in graph.nodes]
    theirs = [entry["label"] for entry in original["nodes"]]
    return SimpleNamespace(
        name=name,
        version=version,
        original=original,
        trace=trace,
        graph=graph,
        nodes={entry["label"]: entry for entry in original["nodes"]},
        node=dict(zip(labels, graph.nodes, strict=True)),
        readings=dict(zip(labels, graph.readings, strict=True)),
        expected={(theirs[source], theirs[target]): weight for source, target, weight in original["edges"]},
        edges=edges_of(graph),
    )


def edges_of(graph):
    found = {
        (str(graph.nodes[s]), str(graph.nodes[t])): float(w)
        for s, t, w in zip(graph.source, graph.target, graph.weight, strict=True)
    }
    assert len(found) == len(graph)
    return found


def same_list(entries, tokens):
    """Whether a reading lists these tokens in this order, but for swaps of tokens whose logits are as good as equal."""
    logits = {token: logit for token, _, logit in entries}
    return len(entries) == len(tokens) and all(
        token == there or (token in logits and abs(logits[token] - logit) < 1e-3)
        for token, (there, _, logit) in zip(tokens, entries, strict=True)
    )


def stands_as(reading, expected):
    """Whether probability (in percent, three digits) and rank of the target are the original's."""
    return (
        abs(100 * reading.target_probability - expected["percent"]) <= 0.002
        and abs(reading.target_rank - expected["rank"]) <= 1
    )
