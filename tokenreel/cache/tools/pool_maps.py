"""Pool the maps of a store's clips: means over space and over time, one unit a clip.

A map of T frames of N = h w tokens becomes T + N tokens: the mean of each frame, then the mean of
each place over the frames.  It is what a model reads that needs no full map.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

from tokenreel.cache.codec import codec_from_identity, codec_identity
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip import OF_MANIFEST, ClipRecord, SourceInfo
from tokenreel.cache.format.identity import FORMAT_VERSION, StoreIdentity
from tokenreel.cache.format.store_files import create_store
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import Store, open_store
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

UNIT = "pooled"


def pool_store(path: str | Path, out: str | Path) -> tuple[str, ...]:
    """Write the pooled maps of a store's clips, as float16, into a new one.

    The identity of the new store has the unit "pooled", T + N rows of one column as its grid, and
    the grid of the maps under `frames`.

    Args:
        path: a store with as many frames of every clip.
        out: the new store; one that a killed run left is resumed.

    Returns:
        The clips that were written.

    Raises:
        UsageError: a store of pictures, of pooled maps, or of clips of several lengths.
        WrongIdentity: `out` is another store.
    """
    store = open_store(path)
    identity = pooled_identity(store)
    create_store(
        out,
        identity,
        made_with={**store.made_with, "made_by": "pool", "source": store.path.name},
        calibration={},
    )
    written = []
    with StoreWriter(out, writer_id="pool") as writer:
        for record in store.records.values():
            if writer.is_committed(record.clip_id):
                continue
            try:
                _pool_clip(store, writer, identity, record)
            except ClaimHeld:
                continue
            written.append(record.clip_id)
    return tuple(written)


def pooled_identity(store: Store) -> StoreIdentity:
    """The identity of the pooled maps of a store.

    Raises:
        UsageError: see pool_store.
    """
    if not store.identity.blocks:
        raise UsageError(f"{store.path} keeps no tokens: pool a store of clip maps")
    if store.identity.unit == UNIT:
        raise UsageError(f"{store.path} holds pooled maps already")
    counts = {record.num_frames for record in store.records.values()}
    if len(counts) != 1:
        known = f"from {min(counts)} to {max(counts)}" if counts else "no"
        raise UsageError(
            f"{store.path} has clips of {known} frames, a map has as many of each: extract with "
            "frames=uniform:T"
        )
    [frames] = counts
    identity = store.identity
    height, width = store.codec.reduced_shape(identity.num_tokens, identity.dim, identity.grid)[2]
    first = (*store.facts.former_fingerprints, store.fingerprint)[0]
    values = identity.model_dump() | {
        "format_version": FORMAT_VERSION,
        "unit": UNIT,
        "grid": (frames + height * width, 1),
        "frames": {**identity.frames, "count": frames, "pooled_grid": [height, width]},
        "cls": "none",
        "codec": {**codec_identity("fp16", {}), "from_fingerprint": first},
    }
    return StoreIdentity.model_validate(values)


def _pool_clip(
    store: Store, writer: StoreWriter, identity: StoreIdentity, record: ClipRecord
) -> None:
    name, codec = record.clip_id, codec_from_identity(identity.codec, {})
    clip = writer.begin(
        Clip(**{field: getattr(record, field) for field in OF_MANIFEST}),
        dataset=record.dataset,
        phases=record.phases,
        source=SourceInfo.from_dict(record.source),
        time_base=Fraction(*record.time_base),
        rules=record.rules,
    )
    try:
        for view in range(record.num_views):
            tokens = store.read(name, slice(0, record.num_frames), view=view)
            encoded = {}
            for block in tokens.codes:
                whole = tokens.decode(block)
                parts = [whole.mean(axis=axis, dtype=np.float64) for axis in (1, 0)]
                rows = np.concatenate(parts).astype(np.float32)[None]
                encoded[block] = codec.encode(rows, block=block, grid=identity.grid)
            clip.append(view, encoded, {}, None)
        labels = np.unique(store.labels(name))
        clip.commit(
            store.pts(name)[:1],
            store.frame_index(name)[:1],
            labels if len(labels) == 1 else np.array([-1], np.int16),
            np.zeros(1, np.uint8),
            stop_pts=store.stop_pts(name)[-1:],
        )
    except BaseException:
        clip.abort()
        raise
