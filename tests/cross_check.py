"""States, patterns, outputs of heads and direct logit attribution beside those of TransformerLens, an implementation of its own.

``pip install 'transformer-lens<4' && python -m tests.cross_check`` prints a table: for each family the largest difference of each
quantity, as a part of the largest number of it. TransformerLens computes each model by its own code from converted weights; release 4
wraps the models of transformers instead, and would compare them with themselves.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

import flowgraph as fg
from tests.tiny_models import tiny_model

IDS = [20, 31, 42, 53, 64, 75, 86, 97, 8, 19]
_NEOX = {"positional_embedding_type": "rotary", "normalization_type": "LN", "act_fn": "gelu"}
_LLAMA = {
    "positional_embedding_type": "rotary",
    "normalization_type": "RMS",
    "act_fn": "silu",
    "gated_mlp": True,
    "final_rms": True,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"positional_embedding_type": "standard", "normalization_type": "LN", "act_fn": "gelu_new"},
    "gpt_neox": {**_NEOX, "rotary_adjacent_pairs": False},
    "gptj": {**_NEOX, "act_fn": "gelu_new", "rotary_adjacent_pairs": True},
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "mistral": _LLAMA,
}  # fmt: skip
"""Family → how TransformerLens computes it; sizes follow from the model."""


def hooked(name: str, loaded: fg.LoadedModel) -> Any:
    """The model of a family in TransformerLens' own code, with the same weights."""
    lens = importlib.import_module("transformer_lens")
    conversions = importlib.import_module("transformer_lens.pretrained.weight_conversions")
    config, anatomy = loaded.model.config, loaded.anatomy
    rotary = {}
    if FAMILIES[name]["positional_embedding_type"] == "rotary":
        parameters = getattr(config, "rope_parameters", None) or {}
        share = parameters.get("partial_rotary_factor", 1.0)
        rotary = {
            "rotary_dim": getattr(config, "rotary_dim", None) or int(anatomy.d_head * share),
            "rotary_base": parameters.get("rope_theta", 10_000),
        }
    wanted: dict[str, Any] = {
        "n_layers": len(anatomy.blocks), "d_model": anatomy.d_model, "n_ctx": 64, "d_head": anatomy.d_head, "n_heads": anatomy.n_heads,
        "d_mlp": anatomy.mlp_width, "d_vocab": anatomy.d_vocab, "eps": anatomy.blocks[0].attention_norm.epsilon, "dtype": torch.float32,
        "original_architecture": type(loaded.model).__name__, "device": "cpu", "seed": 0,
        "parallel_attn_mlp": anatomy.wiring == "parallel", **rotary, **FAMILIES[name],
    }  # fmt: skip
    if anatomy.n_kv_heads != anatomy.n_heads:
        wanted["n_key_value_heads"] = anatomy.n_kv_heads
    window = getattr(config, "sliding_window", None) if name == "mistral" else None
    if window is not None:
        wanted |= {"use_local_attn": True, "window_size": window, "attn_types": ["local"] * len(anatomy.blocks)}
    built = lens.HookedTransformer(lens.HookedTransformerConfig(**wanted))
    convert = getattr(conversions, f"convert_{_CONVERTED.get(name, name)}_weights")
    built.load_state_dict(convert(loaded.model, built.cfg), strict=False)
    return built


_CONVERTED = {"gpt_neox": "neox"}


def differences(name: str) -> dict[str, float]:
    """Quantity → largest difference over layers, heads and positions, as a part of the largest number."""
    loaded = fg.load_model(tiny_model(name))
    trace = fg.trace(loaded, IDS, position=len(IDS) - 1, logits="all")
    with torch.no_grad():
        logits, cache = hooked(name, loaded).run_with_cache(torch.tensor([IDS]), remove_batch_dim=True)

    def of(hook: str) -> Tensor:
        return torch.stack([cache[f"blocks.{layer}.{hook}"] for layer in range(trace.n_layers)])

    pairs = {
        "pattern": (trace.pattern, of("attn.hook_pattern")),
        "state before a layer": (trace.resid_pre, of("hook_resid_pre")),
        "state after a layer": (trace.resid_post, of("hook_resid_post")),
        "outputs of heads": (trace.z, of("attn.hook_z").transpose(1, 2)),
        "attention output": (trace.attn_out, of("hook_attn_out")),
        "MLP output": (trace.mlp_out, of("hook_mlp_out")),
        "logits": (trace.logits, logits[0]),
    }
    found = {what: float((own - other).abs().max() / other.abs().max()) for what, (own, other) in pairs.items()}
    assert trace.target is not None
    parts = fg.direct_logit_attribution(trace)
    results = cache.stack_head_results(layer=-1, pos_slice=-1)
    scaled = cache.apply_ln_to_stack(results, layer=-1, pos_slice=-1) * cache.model.ln_final.w
    other = (scaled @ cache.model.W_U[:, trace.target]).reshape(parts.heads.shape).detach()
    own = torch.from_numpy(parts.heads).float()
    found["heads' direct effect"] = float((own - other).abs().max() / other.abs().max())
    return found


def main() -> None:
    """Print the table."""
    rows = {name: differences(name) for name in FAMILIES}
    quantities = next(iter(rows.values()))
    print("| family |", " | ".join(quantities), "|")
    print("|---|", "---|" * len(quantities), sep="")
    for name, row in rows.items():
        print(f"| `{name}` |", " | ".join(f"{row[what]:.0e}" for what in quantities), "|")


if __name__ == "__main__":
    main()
