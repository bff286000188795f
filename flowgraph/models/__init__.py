"""Models: from a name, a folder or an object in memory to parts that are found by data and proved by identities."""

from .anatomy import Anatomy, Block, Norm, Projection
from .cache import cache_folder, cached_models, remove
from .families import FAMILIES, Attention, Family, Stack, register_family
from .known import KNOWN_MODELS, KnownModel, fetch
from .loading import LoadedModel, load_model
from .vocabulary import Vocabulary

__all__ = [
    "FAMILIES",
    "KNOWN_MODELS",
    "Anatomy",
    "Attention",
    "Block",
    "Family",
    "KnownModel",
    "LoadedModel",
    "Norm",
    "Projection",
    "Stack",
    "Vocabulary",
    "cache_folder",
    "cached_models",
    "fetch",
    "load_model",
    "register_family",
    "remove",
]
