"""What killed writers left on a bucket: objects of clips never committed, claims, parts of uploads.

TokenReel puts each object by one request and leaves no multipart upload; other programs that copy a
store do.  Those below a store are aborted where boto3 is installed, which s3 needs for that.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenreel.cache.bucket.objects import ENDPOINTS, ObjectState
from tokenreel.cache.bucket.path import bucket_path
from tokenreel.cache.files import CLOCK, clock_of, newest_change
from tokenreel.cache.format.clip import folder_of
from tokenreel.cache.format.index import BESIDE, beside_of
from tokenreel.cache.write.bucket_claims import BucketClaims
from tokenreel.cache.write.bucket_writer import scratch_of
from tokenreel.cache.write.claims import ClaimHeld, is_live

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftover:
    """Something that a killed writer left.

    Attributes:
        name: for people.
        num_bytes: of it.
        keys: of its objects.
        clip: folder of the clip that it is of, or None.
        upload: id of a multipart upload, or "".
        folder: on this machine, or None.
    """

    name: str
    num_bytes: int = 0
    keys: tuple[str, ...] = ()
    clip: Path | None = None
    upload: str = ""
    folder: Path | None = None


def collect_on_bucket(
    path: Path, *, older_than_seconds: float, delete: bool
) -> list[tuple[str, int]]:
    """As collect_garbage, of a store on a bucket and of its folder on this machine.

    Ages are by the clock of the bucket.
    """
    now = clock_of(path)
    found = list(_leftovers(path, now - older_than_seconds))
    if not delete:
        return [(left.name, left.num_bytes) for left in found]
    claims, kept = BucketClaims(path / "claims", owner="gc"), []
    try:
        for left in found:
            try:
                _delete(path, left, claims)
            except ClaimHeld:
                kept.append(left)
    finally:
        claims.release_all()
    return [(left.name, left.num_bytes) for left in found if left not in kept]


def _leftovers(path: Path, before: float) -> Iterator[Leftover]:
    store = bucket_path(path)
    folders: dict[Path, list[ObjectState]] = {}
    for entry, state in (store / "clips").objects():
        parts = entry.relative_to(store / "clips").parts
        if len(parts) > 2:  # <hh>/<key>/...
            folders.setdefault(path / "clips" / parts[0] / parts[1], []).append(state)
    for folder, states in folders.items():
        group = bucket_path(folder / "zarr.json").key
        is_old = max(state.modified for state in states) <= before
        if any(state.key == group for state in states) or not is_old:
            continue  # beside its place a clip that is whole is put there by the next writer
        key = folder.name.removeprefix(BESIDE)
        if not is_live(path / "claims" / f"{key}.json"):
            names = tuple(state.key for state in states)
            yield Leftover(str(folder), sum(state.num_bytes for state in states), names, folder)
    for entry, state in (store / "claims").objects():
        if state.modified > before:
            continue
        claim = path / "claims" / entry.name
        is_clock = entry.name.startswith(CLOCK)
        if is_clock or not is_live(claim):
            of = None if entry.name.startswith(".tmp-") else path / folder_of(entry.stem)
            yield Leftover(str(entry), state.num_bytes, (state.key,), of)
    for place in (store, store / "workers"):
        for state in place.bucket.level(place.key)[1]:
            name = state.key.rpartition("/")[2]
            if name.startswith(".tmp-") and state.modified <= before:
                yield Leftover(str(place / name), 0, (state.key,))
    yield from _uploads(path, before)
    here = scratch_of(path)
    for folder in sorted(here.glob("clips/??/.tmp-*")):
        with suppress(FileNotFoundError):
            if time.time() - newest_change(folder) >= time.time() - before:
                sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
                yield Leftover(str(folder), sum(sizes), folder=folder)


def _delete(path: Path, left: Leftover, claims: BucketClaims) -> None:
    """Delete a leftover, under the claim of its clip: no writer takes it over meanwhile."""
    bucket = bucket_path(path).bucket
    if left.folder is not None:
        shutil.rmtree(left.folder, ignore_errors=True)
    elif left.upload:
        _client().abort_multipart_upload(Bucket=bucket.name, Key=left.keys[0], UploadId=left.upload)
    elif left.clip is None:
        bucket.delete(left.keys)
    else:
        claim = claims.take(left.clip.name.removeprefix(BESIDE))
        if not (left.clip / "zarr.json").is_file():
            clips = bucket_path(path / "clips").key
            bucket.delete([key for key in left.keys if key.startswith(f"{clips}/")])
        claim.release()  # which deletes the claim itself


def _uploads(path: Path, before: float) -> Iterator[Leftover]:
    """Multipart uploads below a store that were never completed."""
    store = bucket_path(path)
    if store.scheme != "s3":
        return
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        log.info("%s: multipart uploads are not looked at: pip install boto3", path)
        return
    try:
        pages = _client().get_paginator("list_multipart_uploads")
        prefix = f"{store.key}/".lstrip("/")
        for page in pages.paginate(Bucket=store.bucket.name, Prefix=prefix):
            for upload in page.get("Uploads", ()):
                if upload["Initiated"].timestamp() <= before:
                    name = f"multipart upload of s3://{store.bucket.name}/{upload['Key']}"
                    yield Leftover(name, 0, (upload["Key"],), upload=upload["UploadId"])
    except (BotoCoreError, ClientError) as error:
        reply = getattr(error, "response", {})  # its text may repeat a key
        why = reply.get("Error", {}).get("Code") or type(error).__name__
        log.warning("%s: multipart uploads are not looked at (%s)", path, why)


def _client() -> Any:
    import boto3

    endpoint = next((os.environ[key] for key in ENDPOINTS["s3"] if os.environ.get(key)), None)
    return boto3.client("s3", endpoint_url=endpoint)


def remove_clip(folder: Path) -> None:
    """Remove a committed clip: its group first, so that it is never half in the store."""
    for place in (folder, beside_of(folder)):
        (place / "zarr.json").unlink()
        clip = bucket_path(place)
        clip.bucket.delete([state.key for _, state in clip.objects()])
