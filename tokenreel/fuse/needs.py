"""What a config needs of a store, refused before anything is trained."""

from tokenreel.cache.errors import UsageError
from tokenreel.cache.reader import Store
from tokenreel.fuse.config import FuseConfig

__all__ = ["blocks_of", "require_store", "uses_cls", "uses_tokens"]


def blocks_of(config: FuseConfig, store: Store) -> tuple[int, ...]:
    """The blocks whose tokens a config uses, those of the store by default.

    Raises:
        UsageError: the store lacks one.
    """
    wanted = config.pooling.blocks or store.recipe.blocks
    missing = set(wanted) - set(store.recipe.blocks)
    if missing:
        raise UsageError(
            f"pooling.blocks wants {sorted(wanted)}, {store.path} holds "
            f"{list(store.recipe.blocks)}: `{_extract(store)} "
            f"blocks={','.join(map(str, sorted(set(wanted) | set(store.recipe.blocks))))} "
            "--out STORE` makes one that does, or set pooling.blocks"
        )
    return tuple(sorted(wanted))


def _extract(store: Store) -> str:
    """The command that makes a store of the same data set."""
    return f"extract run {store.made_with.get('dataset') or 'DATASET'}"


def uses_cls(config: FuseConfig) -> bool:
    """Whether a config pools CLS vectors."""
    return config.pooling.kind in ("cls", "fixed_width")


def uses_tokens(config: FuseConfig) -> bool:
    """Whether a config pools spatial tokens."""
    return config.pooling.kind not in ("cls", "fixed_width")


def require_store(config: FuseConfig, store: Store) -> None:
    """Refuse, before anything is trained, a store without what a config needs.

    Raises:
        UsageError: what is missing, and the command that would make it.
    """
    if uses_tokens(config):
        blocks_of(config, store)
    if uses_cls(config) and store.recipe.cls == "none":
        raise UsageError(
            f"{store.path} holds no CLS tokens, {store.recipe.architecture} has none: "
            f"`{_extract(store)} backbone=vit_small_patch16_224 --out STORE` makes one that does, "
            "or set pooling.kind"
        )
    if config.model != "frozen" and config.optim.epochs and not store.select(split="train"):
        raise UsageError(f"{store.path} has no clips of the split train: nothing to train on")
