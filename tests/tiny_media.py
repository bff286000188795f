"""Tiny random models of images and sound, their biases and norms included."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

_COMMON = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
}  # fmt: skip
_IMAGE = {**_COMMON, "image_size": 24, "patch_size": 8, "num_channels": 3}
_SOUND = {
    **_COMMON, "conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (5, 4), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False, "vocab_size": 12,
    "classifier_proj_size": 16,
}  # fmt: skip
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", _IMAGE),
    "deit": ("DeiT", _IMAGE),
    "beit": ("Beit", {**_IMAGE, "use_relative_position_bias": True, "layer_scale_init_value": 0.3}),
    "dinov2": ("Dinov2", {**_IMAGE, "mlp_ratio": 2}),
    "dinov2_registers": ("Dinov2WithRegisters", {**_IMAGE, "mlp_ratio": 2, "num_register_tokens": 2}),
    "dinov3": ("DINOv3ViT", {**_IMAGE, "num_register_tokens": 2, "num_attention_heads": 3}),
    "clip": ("CLIPVision", _IMAGE),
    "siglip": ("SiglipVision", _IMAGE),
    "wav2vec2": ("Wav2Vec2", _SOUND),
    "wav2vec2_stable": ("Wav2Vec2", {**_SOUND, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}),
    "hubert": ("Hubert", _SOUND),
    "ast": ("AST", {**_COMMON, "patch_size": 8, "num_mel_bins": 24, "max_length": 40, "frequency_stride": 6, "time_stride": 7}),
}  # fmt: skip


def tiny(name: str, head: str = "Model", **settings: Any) -> nn.Module:
    """A model of :data:`SETTINGS` with random numbers everywhere; ``head`` ends its class name."""
    prefix, own = SETTINGS[name]
    config = getattr(transformers, f"{prefix}Config")(**own | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = getattr(transformers, f"{prefix}{head}")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    return model


def values(name: str, *, seed: int = 1, rows: int = 24, columns: int = 24, samples: int = 230) -> torch.Tensor:
    """An input as the model takes it, with a row axis."""
    generator = torch.Generator().manual_seed(seed)
    if name in ("wav2vec2", "wav2vec2_stable", "hubert"):
        return torch.randn(1, samples, generator=generator)
    shape = (1, 40, 24) if name == "ast" else (1, 3, rows, columns)
    return torch.randn(shape, generator=generator)
