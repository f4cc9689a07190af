"""Features that a user already has, into a store: files and a statement of what made them.

The statement is a TOML or JSON file with the fields of ImportStatement; features.py says how the
files may look.  Everything is looked at before anything is written; then the writer's protocol.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenreel.cache.codec import Encoded, calibrate, codec_identity
from tokenreel.cache.codec.base import Array
from tokenreel.cache.errors import UsageError
from tokenreel.cache.format.clip_record import SourceInfo
from tokenreel.cache.format.identity import StoreIdentity
from tokenreel.cache.format.layout import SEGMENT, segments
from tokenreel.cache.format.store_files import create_store, load_arrays
from tokenreel.cache.tools.feature_files import FeatureFile, find_features, opened
from tokenreel.cache.write.claims import ClaimHeld
from tokenreel.cache.write.store_writer import StoreWriter

__all__ = ["ImportStatement", "import_features", "read_statement"]

SAMPLE_FILES, SAMPLE_FRAMES = 32, 8
TICKS = 90_000  # of a second, where a file tells its times


class ImportStatement(BaseModel):
    """What the user says of features that something else made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="name of the data set")
    architecture: str = Field(description="name of the backbone")
    weights: str = Field(default="stated", description="name of the weights, for people")
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="hash of the weights")
    blocks: tuple[int, ...] = Field(description="0-based blocks the tokens come from")
    grid: tuple[int, int] = Field(description="rows and columns of the tokens; [1, 1] for one")
    dim: int = Field(gt=0, description="channels of a token")
    image_size: tuple[int, int] = Field(description="height and width that the backbone saw")
    transform: dict[str, Any] = Field(description="how frames became images: any names and values")
    frames: dict[str, Any] = Field(default={"policy": "all"}, description="which frames")
    fps: float = Field(gt=0, description="frames a second, for files that do not tell times")
    codec: str = Field(default="fp16", description="how the store keeps them")


def read_statement(path: str | Path) -> ImportStatement:
    """Read a statement, TOML or JSON.

    Raises:
        UsageError: no such file, or what is wrong in it.
    """
    path = Path(path)
    try:
        text = path.read_text()
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return ImportStatement.model_validate(values)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(ImportStatement.model_fields)
        raise UsageError(f"{path}: {wrong}; the fields are {known}") from error
    except ValueError as error:
        raise UsageError(f"{path}: neither TOML nor JSON: {error}") from error


def import_features(folder: str | Path, store: str | Path, statement: ImportStatement) -> list[str]:
    """Write features into a store; run again after an interruption, it goes on.

    Args:
        folder: of the files.
        store: the store; made when absent.
        statement: what made the features.

    Returns:
        The clips written.

    Raises:
        UsageError: a file whose shape is not the stated one, a missing block, NaN.
        WrongIdentity: the store was made with other settings.
    """
    folder, store = Path(folder), Path(store)
    num_tokens = statement.grid[0] * statement.grid[1]
    files = find_features(
        folder, blocks=tuple(sorted(statement.blocks)), num_tokens=num_tokens, dim=statement.dim
    )
    if (store / "recipe.json").is_file():
        calibration: Mapping[str, Array] = load_arrays(store / "calibration")
    else:
        calibration = calibrate(statement.codec, _sample(files, statement), grid=statement.grid)
    stated = statement.model_dump(exclude={"dataset", "weights", "fps", "codec"})
    stated |= {"blocks": sorted(statement.blocks), "cls": "none"}
    identity = StoreIdentity(**stated, codec=codec_identity(statement.codec, calibration))
    made_with = {"made_by": "import", "dataset": statement.dataset, "weights": statement.weights}
    create_store(store, identity, made_with=made_with, calibration=calibration)
    written = []
    with StoreWriter(store, writer_id="import") as writer:
        for file in files:
            if not writer.is_committed(file.clip.clip_id):
                try:
                    _write(writer, file, statement)
                except ClaimHeld:
                    continue
                written.append(file.clip.clip_id)
    return written


def _sample(files: Sequence[FeatureFile], statement: ImportStatement) -> dict[int, Array]:
    """Eight frames of each of at most 32 files, spread: block -> (F, N, D)."""
    parts: dict[int, list[Array]] = {block: [] for block in statement.blocks}
    for file in files[:: -(-len(files) // SAMPLE_FILES)]:
        step = -(-file.num_frames // SAMPLE_FRAMES)
        for block in parts:
            with opened(file.paths[block], block) as array:
                parts[block].append(_tokens(array[::step], statement))
    return {block: np.concatenate(some) for block, some in parts.items()}


def _tokens(rows: Any, statement: ImportStatement) -> Array:
    values: Array = np.asarray(rows, np.float32)
    return values.reshape(len(values), -1, statement.dim)


def _write(writer: StoreWriter, file: FeatureFile, statement: ImportStatement) -> None:
    first = file.paths[min(file.paths)]
    digest = hashlib.sha256()
    for path in sorted(set(file.paths.values())):
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    size = sum(path.stat().st_size for path in set(file.paths.values()))
    source = SourceInfo(first.name, size, digest.hexdigest(), "import", "1", {})
    base = 1 / Fraction(statement.fps).limit_denominator(100_000)
    pts = np.arange(file.num_frames)
    if file.times_seconds is not None:
        base, pts = Fraction(1, TICKS), np.rint(file.times_seconds * TICKS).astype(np.int64)
    clip = writer.begin(
        file.clip, dataset=statement.dataset, phases=file.phases, source=source, time_base=base
    )
    try:
        for part in segments(file.num_frames)[clip.resume_frames // SEGMENT :]:
            encoded: dict[int, Encoded] = {}
            for block, path in file.paths.items():
                with opened(path, block) as array:
                    tokens = _tokens(array[part.start : part.stop], statement)
                    encoded[block] = writer.codec.encode(tokens, block=block, grid=statement.grid)
            clip.append(0, encoded, {}, None)
        clip.commit(pts, np.arange(file.num_frames), file.labels, np.zeros(len(pts), np.uint8))
    except BaseException:
        clip.abort()
        raise
