"""Models: from a name, a folder or an object in memory to parts that are found by data and proved by identities.

Each name is imported at its first use, so listing, fetching and removing known models does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..importing import late_names

if TYPE_CHECKING:
    from .anatomy import Anatomy, Block, Norm, Projection
    from .cache import cache_folder, cached_models, remove
    from .families import FAMILIES, Attention, Family, Sizes, Stack, register_family
    from .known import KNOWN_MODELS, KnownModel, fetch
    from .loaded import LoadedModel
    from .loading import load_model
    from .registered import register_attention
    from .vocabulary import Vocabulary

_WHERE = {
    "anatomy": ("Anatomy", "Block", "Norm", "Projection"),
    "cache": ("cache_folder", "cached_models", "remove"),
    "families": ("FAMILIES", "Attention", "Family", "Sizes", "Stack", "register_family"),
    "known": ("KNOWN_MODELS", "KnownModel", "fetch"),
    "loaded": ("LoadedModel",),
    "loading": ("load_model",),
    "registered": ("register_attention",),
    "vocabulary": ("Vocabulary",),
}
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "FAMILIES", "KNOWN_MODELS", "Anatomy", "Attention", "Block", "Family", "KnownModel", "LoadedModel", "Norm",
    "Projection", "Sizes", "Stack", "Vocabulary", "cache_folder", "cached_models", "fetch", "load_model", "register_attention", "register_family",
    "remove",
]  # fmt: skip


__getattr__ = late_names(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return sorted(__all__)
