"""Copy clips from one store into another: as they are, or recoded by another codec."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from tokenreel.cache.bucket.path import is_bucket, store_path
from tokenreel.cache.codec import (
    Encoded,
    calibrate,
    codec_from_identity,
    codec_identity,
    require_fits,
)
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import UsageError, WrongIdentity
from tokenreel.cache.files import file_inside, sync_directory, temporary_name, write_synced
from tokenreel.cache.format.clip import (
    OF_MANIFEST,
    ClipRecord,
    SourceInfo,
    clip_group,
    folder_of,
    load_clip,
)
from tokenreel.cache.format.identity import FORMAT_VERSION, StoreIdentity
from tokenreel.cache.format.layout import SEGMENT, segments
from tokenreel.cache.format.store_files import create_store, create_twin, load_arrays, load_identity
from tokenreel.cache.manifest import Clip
from tokenreel.cache.read.store_reader import Store, Tokens, open_store
from tokenreel.cache.tools.imported_clips import record_changes
from tokenreel.cache.write.bucket_claims import claim_clip
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

log = logging.getLogger(__name__)

SAMPLE_CLIPS = 32
SAMPLE_FRAMES = 8  # of a clip


@dataclass(frozen=True)
class CopyReport:
    """Clips that were copied from store to store.

    Attributes:
        copied: their ids.
        differing: of each clip that the target had before and that is of another video, or has
            other labels, what the target, which keeps its own, and the source have; by id.
    """

    copied: tuple[str, ...]
    differing: Mapping[str, str]

    @property
    def exit_status(self) -> int:
        """3 where clips differ, else 0."""
        return 3 if self.differing else 0


def merge_store(source: str | Path, into: str | Path, *, writer_id: str = "merge") -> CopyReport:
    """Copy the clips that `into` lacks; each is checked and committed like an extracted one.

    Where one of the two is on a bucket, `into` is made if it is not there.

    Clips that it has stay as they are; those that differ are named.

    Raises:
        WrongIdentity: the stores have different identities.
    """
    store = open_store(source)
    target_path = store_path(into)
    if store.path.absolute() in target_path.absolute().parents:
        raise UsageError(f"{into} is inside the store {source}: name another folder")
    is_there = (target_path / "recipe.json").exists()
    if not is_there and (is_bucket(store.path) or is_bucket(target_path)):
        create_twin(target_path, store.path)
    target = load_identity(target_path)[0]
    _require_same_codec(store, target)
    advice = "only stores of the same settings can be merged"
    target.require(store.identity, path=into, advice=advice)
    return _copy_clips(store, into, Tokens.encoded, writer_id=writer_id)


def _require_same_codec(store: Store, target: StoreIdentity) -> None:
    """Refuse stores that differ in the codec alone, with the command that makes them alike."""
    differing = {name.partition(".")[0] for name, _, _ in target.differences(store.identity)}
    if differing != {"codec"}:
        return
    ours, theirs = store.identity.codec["name"], target.codec["name"]
    if ours == theirs:  # calibrated on other frames: the general table says so
        return
    raise WrongIdentity(
        f"different codecs ({ours}, {theirs}): `tokenreel store migrate {store.path} NEW --codec "
        f"{theirs}` first, then merge NEW"
    )


def upgrade_store(path: str | Path, out: str | Path) -> CopyReport:
    """Write the clips of a store of format 1 into a new one of format 2; tokens stay byte for byte.

    The new store records the fingerprint of the former: runs, checkpoints and embedding files made
    on the store of format 1 are valid for it.

    Args:
        path: a store of format 1.
        out: the new store; one that a killed run left is resumed.

    Raises:
        UsageError: the store is of format 2 already.
        WrongIdentity: `out` is another store.
        Damaged: run verify and repair first.
    """
    store = open_store(path)
    if store.identity.format_version == FORMAT_VERSION:
        raise UsageError(f"{path} is of format {FORMAT_VERSION} already: use it as it is")
    identity = store.identity.model_copy(update={"format_version": FORMAT_VERSION})
    former = (*store.facts.former_fingerprints, store.fingerprint)
    create_store(
        out,
        identity,
        made_with=store.made_with,
        calibration=load_arrays(store.path / "calibration"),
        canary=load_arrays(store.path / "canary"),
        facts=replace(store.facts, former_fingerprints=former),
    )
    if store.fingerprint not in open_store(out).facts.former_fingerprints:
        raise WrongIdentity(f"{out} was not made of {path}: use another folder")
    return _copy_clips(store, out, Tokens.encoded, writer_id="migrate")


def migrate_store(path: str | Path) -> list[str]:
    """Bring a store to the last state of its format, in place.

    Clips of the first stores of version 1 do not name the fingerprint of their store; it is added,
    so that a clip copied from a store of another identity is refused.

    Returns:
        The clips that were changed; none when the store is current, as one of format 2 always is.

    Raises:
        WrongIdentity: the store is of a version later than this package knows.
        Damaged: run verify and repair first.
        ClaimHeld: other writers work on some of the clips; the rest is changed.
    """
    store, changed = open_store(path), []
    held: list[ClaimHeld] = []
    for record in store.records.values():
        folder = file_inside(store.path, folder_of(record.key))
        if _names_its_store(folder):
            continue
        try:
            if _add_fingerprint(store, folder, record.key):
                changed.append(record.clip_id)
        except ClaimHeld as error:
            held.append(error)
    log.info("%s: %d clip(s) changed", store.path, len(changed))
    if held:
        raise ClaimHeld(
            f"{path}: {len(changed)} clip(s) changed, {len(held)} left to other writers ({held[0]}"
            "): run `tokenreel store migrate` again when they have ended"
        )
    return changed


def _names_its_store(folder: Path) -> bool:
    return b'"fingerprint":' in (folder / "zarr.json").read_bytes()


def _add_fingerprint(store: Store, folder: Path, key: str) -> bool:
    """Write a clip's group with the fingerprint; False where another writer replaced the clip.

    Under the clip's claim: a writer that replaces the clip would get the former record.

    Raises:
        ClaimHeld: another writer works on the clip.
    """
    claim = claim_clip(store.path, key, owner="migrate")
    try:
        if _names_its_store(folder):
            return False
        found, seals = load_clip(folder, key)
        group = clip_group(found, seals, identity=store.identity)
        if is_bucket(folder):
            (folder / "zarr.json").write_bytes(group)
            return True
        beside = temporary_name(folder)  # not in the clip: a kill leaves it where gc looks
        write_synced(beside, group)
        beside.replace(folder / "zarr.json")
        sync_directory(folder)
    finally:
        claim.release()
    return True


def recode_store(path: str | Path, out: str | Path, *, codec: str) -> CopyReport:
    """Write the clips of a store into a new one that keeps them by another, smaller codec.

    The new identity names the fingerprint of the source, or of the store that the source was
    migrated from: recoded tokens differ a little from those that an extraction with this codec
    gives, so the two never mix.

    Args:
        path: a store of fp16 or int8.
        out: the new store; one that a killed run left is resumed.
        codec: as for an extraction; from int8 a codec that loses more, such as pool2+int8.

    Raises:
        UsageError: an unknown codec, one that keeps more than the source has, or that does not
            fit its tokens; nothing is written.
        WrongIdentity: `out` is another store.
    """
    store = open_store(path)
    kept = store.codec.name
    is_finer = codec in ("fp16", kept) or (kept == "int8" and "fp16" in codec)
    if kept not in ("fp16", "int8") or is_finer:
        raise UsageError(
            f"{path} holds {kept}, which cannot be recoded as {codec}: fp16 can be as any codec, "
            "int8 as a smaller one (pool2+int8, pca:128+int8, int4); extract again"
        )
    shape = store.identity
    require_fits(codec, num_tokens=shape.num_tokens, dim=shape.dim, grid=shape.grid)
    if (store_path(out) / "recipe.json").is_file():
        calibration: Mapping[str, Array] = load_arrays(store_path(out) / "calibration")
    else:
        calibration = calibrate(codec, sample_tokens(store), grid=store.identity.grid)
    first = (*store.facts.former_fingerprints, store.fingerprint)[0]
    fields = {**codec_identity(codec, calibration), "from_fingerprint": first}
    update = {"codec": fields, "format_version": FORMAT_VERSION}
    identity = store.identity.model_copy(update=update)
    made_with = {**store.made_with, "made_by": "migrate", "source": store.path.name}
    facts = replace(store.facts, former_fingerprints=())
    create_store(out, identity, made_with=made_with, calibration=calibration, facts=facts)
    target = codec_from_identity(identity.codec, calibration)

    def recode(tokens: Tokens, block: int) -> Encoded:
        return target.encode(tokens.decode(block), block=block, grid=identity.grid)

    return _copy_clips(store, out, recode, writer_id="migrate")


def sample_tokens(store: Store) -> dict[int, Array]:
    """Eight frames of each of at most 32 clips, spread over the store: block -> (F, N, D)."""
    if not store.records:
        raise UsageError(f"{store.path} holds no clips to calibrate a codec on")
    records = list(store.records.values())
    parts: dict[int, list[Array]] = {block: [] for block in store.identity.blocks}
    for record in records[:: -(-len(records) // SAMPLE_CLIPS)]:
        count = min(SAMPLE_FRAMES, record.num_frames)
        tokens = store.read(
            record.clip_id, np.linspace(0, record.num_frames - 1, count).astype(int)
        )
        for block in parts:
            parts[block].append(tokens.decode(block))
    return {block: np.concatenate(samples) for block, samples in parts.items()}


def _copy_clips(
    store: Store,
    into: str | Path,
    convert: Callable[[Tokens, int], Encoded],
    *,
    writer_id: str,
) -> CopyReport:
    held, copied = open_store(into), []
    differing = {
        name: what
        for name, record in store.records.items()
        if name in held.records and (what := record_changes(held.record(name), record))
    }
    with StoreWriter(into, writer_id=writer_id) as writer:
        for record in store.records.values():
            if writer.is_committed(record.clip_id):
                continue
            try:
                _copy_clip(store, writer, record, convert)
            except ClaimHeld as held:
                log.info("%s", held)
                continue
            copied.append(record.clip_id)
    return CopyReport(tuple(copied), differing)


def _copy_clip(
    store: Store,
    writer: StoreWriter,
    record: ClipRecord,
    convert: Callable[[Tokens, int], Encoded],
) -> None:
    name = record.clip_id
    clip = writer.begin(
        Clip(**{field: getattr(record, field) for field in OF_MANIFEST}),
        dataset=record.dataset,
        phases=record.phases,
        source=SourceInfo.from_dict(record.source),
        time_base=Fraction(*record.time_base),
        byte_arrays=record.byte_arrays,
        extra=record.extra,
        rules=record.rules,
    )
    try:
        for view in range(record.num_views):
            for part in segments(record.num_frames)[clip.resume_frames // SEGMENT :]:
                rows = slice(part.start, part.stop)
                tokens = store.read(name, rows, view=view)
                encoded = {block: convert(tokens, block) for block in tokens.codes}
                cls: dict[int, Array] = {}
                normed = None
                if store.identity.cls != "none":
                    cls = {b: store.read_cls(name, rows, block=b, view=view) for b in encoded}
                    normed = store.read_cls(name, rows, view=view)
                if encoded or normed is not None:  # else a store of bytes alone
                    clip.append(view, encoded, cls, normed)
        for part in segments(record.num_frames)[clip.resume_frames // SEGMENT :]:
            for array in record.byte_arrays:
                clip.append_bytes(array, store.read_bytes(name, array, part))
        clip.commit(
            store.pts(name),
            store.frame_index(name),
            store.labels(name),
            store.flags(name),
            stop_pts=store.stop_pts(name),
        )
    except BaseException:
        clip.abort()
        raise
