"""TokenReel: run a frozen vision transformer once over every video, then train on its tokens.

The names below are the library; each is imported when it is first used, so that `import tokenreel`
loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenreel.cache.embeddings import EmbeddedClip, read_embeddings, write_embeddings
    from tokenreel.cache.manifest import Clip, LabelSpan, Manifest
    from tokenreel.cache.read.store_reader import open_store
    from tokenreel.cache.read.store_set import StoreSet
    from tokenreel.cache.search.query import Click
    from tokenreel.cache.search.search import SimilarPatch, similar_patches
    from tokenreel.fuse.data.token_dataset import ClipSampler, TokenBatch, TokenDataset
    from tokenreel.pipeline.phases.library import (
        embed_store,
        evaluate_files,
        extract_videos,
        train_model,
    )

__version__ = "0.1.0"

_HOMES = {
    "tokenreel.cache.embeddings": ("EmbeddedClip", "read_embeddings", "write_embeddings"),
    "tokenreel.cache.manifest": ("Clip", "LabelSpan", "Manifest"),
    "tokenreel.cache.read.store_reader": ("open_store",),
    "tokenreel.cache.read.store_set": ("StoreSet",),
    "tokenreel.cache.search.query": ("Click",),
    "tokenreel.cache.search.search": ("SimilarPatch", "similar_patches"),
    "tokenreel.fuse.data.token_dataset": ("ClipSampler", "TokenBatch", "TokenDataset"),
    "tokenreel.pipeline.phases.library": (
        "embed_store",
        "evaluate_files",
        "extract_videos",
        "train_model",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Click",
    "Clip",
    "ClipSampler",
    "EmbeddedClip",
    "LabelSpan",
    "Manifest",
    "SimilarPatch",
    "StoreSet",
    "TokenBatch",
    "TokenDataset",
    "embed_store",
    "evaluate_files",
    "extract_videos",
    "open_store",
    "read_embeddings",
    "similar_patches",
    "train_model",
    "write_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'tokenreel' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
