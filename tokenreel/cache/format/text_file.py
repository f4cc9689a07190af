"""The file of text vectors: what an encoder makes of the texts of clips; FORMAT.md has its layout.

`extract text` writes it, training reads it, without torch.  Each text is held once, however many
clips have it: two clips with the same row have the same text.

Shapes: n clips, P prompts, m different texts, C channels of a pooled vector, L tokens of a text, D
channels of a token.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.canonical import canonical_json, read_json
from tokenreel.cache.embedding_arrays import (
    NUMBERS_OF_TEXT_FILE,
    TEXTS_OF_TEXT_FILE,
    load_arrays,
    require_file,
    unreadable_embeddings,
)
from tokenreel.cache.embeddings import BLOCK, check_sum, sum_after_block, text_of
from tokenreel.cache.errors import EmbeddingFileError, UsageError
from tokenreel.cache.files import make_directory, whole_file
from tokenreel.cache.locks import create_hdf5

FORMAT = "tokenreel-texts"
VERSION = 1
MAGIC = b"tokenreel-texts sha256 "
MISSING = -1  # the row of a clip that has no text for a prompt
REQUIRED = ("clip_id", "prompts", "texts", "pooled", "rows")


@dataclass(frozen=True, eq=False)
class TextFile:
    """Vectors of the texts of clips.

    Attributes:
        path: where it was read from.
        sha256: of the file's bytes, which tells it from any other.
        provenance: encoder, models and counts; see FORMAT.md.
        clip_ids: (n,), sorted.
        prompts: (P,), such as "A" to "D".
        texts: (m,) different texts.
        pooled: (m, C) float32, finite.
        rows: (n, P) int64, which of the texts a clip has for a prompt; -1 where none.
        token_vectors: (sum of L, D) float16, the tokens of all texts end to end; None where the
            file has pooled vectors alone.
        token_counts: (m,) int64, L of each text; None likewise.
    """

    path: Path
    sha256: str
    provenance: dict[str, Any]
    clip_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    pooled: NDArray[np.float32]
    rows: NDArray[np.int64]
    token_vectors: NDArray[np.float16] | None = None
    token_counts: NDArray[np.int64] | None = None

    @property
    def encoder(self) -> str:
        """Name of the encoder, such as "transformers:bert-base-uncased"."""
        return str(self.provenance["encoder"]["name"])

    @property
    def encoder_sha256(self) -> str:
        """SHA-256 of the encoder: its weights, words and settings."""
        return str(self.provenance["encoder"]["sha256"])

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the texts are of; "" for texts that do not name one."""
        return tuple(self.provenance["models"])

    @property
    def dim(self) -> int:
        """C."""
        return int(self.pooled.shape[1])

    @property
    def has_tokens(self) -> bool:
        """Whether it has the vectors of tokens beside the pooled ones."""
        return self.token_vectors is not None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {clip_id: place for place, clip_id in enumerate(self.clip_ids)}

    @cached_property
    def _token_starts(self) -> NDArray[np.int64]:
        assert self.token_counts is not None
        return np.concatenate([[0], np.cumsum(self.token_counts)])

    def rows_of(self, prompt: str, clip_ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each clip's text for a prompt, (k,); -1 where it has none.

        Raises:
            UsageError: the file has no such prompt.
        """
        column = self._column(prompt)
        places = [self._places.get(clip_id, MISSING) for clip_id in clip_ids]
        return np.array([MISSING if p < 0 else self.rows[p, column] for p in places], np.int64)

    def missing(
        self, clip_ids: Sequence[str], prompts: Sequence[str] | None = None
    ) -> dict[str, list[str]]:
        """Prompt -> those of the clips that have no text for it; prompts that lack none left out.

        Args:
            clip_ids: the clips that are wanted.
            prompts: the prompts; all of the file when None.

        Raises:
            UsageError: the file has no such prompt.
        """
        found = {
            prompt: [
                clip_id
                for clip_id, row in zip(clip_ids, self.rows_of(prompt, clip_ids), strict=True)
                if row == MISSING
            ]
            for prompt in (self.prompts if prompts is None else prompts)
        }
        return {prompt: without for prompt, without in found.items() if without}

    def tokens_of(
        self, rows: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Token vectors of k texts, padded with zeros to the longest of them.

        Args:
            rows: of the texts, from 0.

        Returns:
            (k, L, D) vectors, and (k, L) True where there is a token.

        Raises:
            UsageError: the file has pooled vectors alone, or a row is -1: a missing text.
        """
        if self.token_vectors is None or self.token_counts is None:
            raise UsageError(
                f"{self.path} has pooled vectors alone: make it anew by `extract text DATASET "
                "--from FILE tokens=true`"
            )
        wanted = np.asarray(rows, np.int64)
        if (wanted < 0).any():
            raise UsageError(f"{self.path}: no tokens of a text that is missing (row -1)")
        counts = self.token_counts[wanted]
        longest = int(counts.max(initial=0))
        vectors = np.zeros((len(wanted), longest, self.token_vectors.shape[1]), np.float32)
        for place, (row, count) in enumerate(zip(wanted, counts, strict=True)):
            start = self._token_starts[row]
            vectors[place, :count] = self.token_vectors[start : start + count]
        return vectors, np.arange(longest) < counts[:, None]

    def require_encoder(self, name: str, sha256: str | None = None) -> None:
        """Refuse texts of another encoder.

        Args:
            name: of the encoder that a run was trained with.
            sha256: of it; None: any of that name.

        Raises:
            UsageError: with both encoders.
        """
        if (name, sha256 or self.encoder_sha256) != (self.encoder, self.encoder_sha256):
            here = f"{self.encoder} ({self.encoder_sha256[:12]})"
            wanted = name + (f" ({sha256[:12]})" if sha256 else "")
            raise UsageError(
                f"{self.path} has texts of the encoder {here}, wanted {wanted}: run `extract text` "
                "with that encoder, into another file"
            )

    def _column(self, prompt: str) -> int:
        if prompt not in self.prompts:
            near = difflib.get_close_matches(prompt, self.prompts, n=1)
            raise UsageError(
                f"{self.path} has no texts of prompt {prompt!r}"
                + (f", did you mean {near[0]!r}?" if near else "")
                + f" (it has {', '.join(self.prompts)})"
            )
        return self.prompts.index(prompt)


def write_text_file(
    path: str | Path,
    *,
    clip_ids: Sequence[str],
    prompts: Sequence[str],
    texts: Sequence[str],
    pooled: NDArray[np.float32],
    rows: NDArray[np.int64],
    provenance: Mapping[str, Any],
    tokens: Sequence[NDArray[np.floating[Any]]] | None = None,
) -> Path:
    """Write a file of text vectors atomically: on an error a former file stays as it was.

    Args:
        path: the file; its folder is created if absent.
        clip_ids: (n,), sorted.
        prompts: (P,).
        texts: (m,), different from each other.
        pooled: (m, C), finite.
        rows: (n, P), from -1, which is a missing text.
        provenance: with `encoder` (`name` and `sha256`) and `models`; plain JSON values.
        tokens: (L, D) of each text; they are rounded to float16.

    Raises:
        ValueError: shapes, names or values that do not fit together.
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        "clip_id": list(clip_ids),
        "prompts": list(prompts),
        "texts": list(texts),
        "pooled": np.ascontiguousarray(pooled, np.float32),
        "rows": np.ascontiguousarray(rows, np.int64),
    }
    if tokens is not None:
        with np.errstate(over="ignore"):  # infinity is refused below
            halves = [np.asarray(each).astype(np.float16) for each in tokens]
        arrays["tokens"] = np.concatenate(halves)
        arrays["token_counts"] = np.array([len(each) for each in tokens], np.int64)
    _check(arrays)
    _check_provenance(dict(provenance))
    make_directory(path.absolute().parent)
    size = sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))
    size += sum(len(text.encode()) for name in TEXTS_OF_TEXT_FILE for text in arrays[name])
    with whole_file(path) as beside:
        with create_hdf5(beside, num_bytes=size, userblock_size=BLOCK) as file:
            for name, array in arrays.items():
                kind = h5py.string_dtype() if name in TEXTS_OF_TEXT_FILE else None
                file.create_dataset(name, data=array, dtype=kind)
            file.attrs.update(format=FORMAT, version=VERSION)
            # not an attribute: those of HDF5 have at most 64 KiB
            file.create_dataset(
                "provenance",
                data=[canonical_json(dict(provenance)).decode()],
                dtype=h5py.string_dtype(),
            )
        with beside.open("r+b") as handle:
            handle.write(MAGIC + sum_after_block(beside))
    return path


def read_text_file(path: str | Path) -> TextFile:
    """Read a file of text vectors and check all of it.

    Raises:
        EmbeddingFileError: absent, no such file, torn, altered, or open in another process.
    """
    path = Path(path)
    sha256 = _sum_in_block(path)
    check_sum(path, magic=MAGIC)
    names = (*TEXTS_OF_TEXT_FILE, *NUMBERS_OF_TEXT_FILE, "provenance")
    arrays, attributes = load_arrays(path, names=names)
    try:
        version = attributes.get("version", "none")
        if text_of(attributes.get("format", "")) != FORMAT or version != VERSION:
            raise ValueError(f"not version {VERSION} of the file of text vectors, but {version}")
        lacking = [name for name in (*REQUIRED, "provenance") if name not in arrays]
        if lacking:
            raise ValueError(f"no array {lacking[0]!r}")
        _check(arrays)
        provenance = read_json(text_of("".join(arrays["provenance"])))
        _check_provenance(provenance)
        tokens, counts = arrays.get("tokens"), arrays.get("token_counts")
        return TextFile(
            path,
            sha256,
            provenance,
            tuple(arrays["clip_id"]),
            tuple(arrays["prompts"]),
            tuple(arrays["texts"]),
            np.asarray(arrays["pooled"], np.float32),
            np.asarray(arrays["rows"], np.int64),
            None if tokens is None else np.asarray(tokens, np.float16),
            None if counts is None else np.asarray(counts, np.int64),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise EmbeddingFileError(f"{path}: {error or type(error).__name__}") from error


def _sum_in_block(path: Path) -> str:
    """The sum that the user block of a file names.

    Raises:
        EmbeddingFileError: no file, or none of text vectors.
    """
    if not path.exists():
        raise EmbeddingFileError(f"{path}: no such file of text vectors: `extract text` makes it")
    require_file(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(len(MAGIC) + 64)
    except OSError as error:
        raise unreadable_embeddings(path, error) from error
    if not start.startswith(MAGIC):
        hint = "looks like texts, which `extract text` reads" if start[:1] == b"{" else ""
        raise EmbeddingFileError(
            f"{path} is not a file of text vectors: it {hint or 'was not made by `extract text`'}"
        )
    return start.removeprefix(MAGIC).decode("ascii", "replace")


def _check(arrays: Mapping[str, Any]) -> None:
    """Raise ValueError where arrays do not fit together."""
    clip_ids, prompts, texts = (arrays[name] for name in TEXTS_OF_TEXT_FILE)
    pooled, rows = arrays["pooled"], arrays["rows"]
    for name, values in (("clip_id", clip_ids), ("prompts", prompts), ("texts", texts)):
        if not values:
            raise ValueError(f"{name} is empty")
        if len(set(values)) != len(values) or not all(values):
            raise ValueError(f"{name} has an empty or a repeated value")
    if np.ndim(pooled) != 2 or len(pooled) != len(texts) or not pooled.shape[1]:
        raise ValueError(f"pooled is {np.shape(pooled)} for {len(texts)} texts")
    if not np.isfinite(pooled).all():
        raise ValueError("pooled has NaN or infinity")
    if np.shape(rows) != (len(clip_ids), len(prompts)) or rows.dtype.kind not in "iu":
        raise ValueError(f"rows is {np.shape(rows)} for {len(clip_ids)} clips")
    if rows.min() < MISSING or rows.max() >= len(texts):
        raise ValueError(f"rows go from {rows.min()} to {rows.max()} for {len(texts)} texts")
    if ("tokens" in arrays) != ("token_counts" in arrays):
        raise ValueError("tokens and token_counts go together")
    if "tokens" in arrays:
        tokens, counts = arrays["tokens"], arrays["token_counts"]
        if np.shape(counts) != (len(texts),) or counts.dtype.kind not in "iu":
            raise ValueError(f"token_counts is {np.shape(counts)} for {len(texts)} texts")
        if counts.min() < 1 or np.ndim(tokens) != 2 or len(tokens) != counts.sum():
            raise ValueError(f"tokens is {np.shape(tokens)} for token_counts of {counts.sum()}")
        if not np.isfinite(tokens).all():
            raise ValueError("tokens has NaN or infinity")


def _check_provenance(provenance: Any) -> None:
    """Raise ValueError where a provenance lacks its encoder or its models."""
    encoder = provenance.get("encoder") if isinstance(provenance, dict) else None
    is_named = isinstance(encoder, dict) and all(
        isinstance(encoder.get(name), str) for name in ("name", "sha256")
    )
    if not is_named or not isinstance(provenance.get("models"), list):
        shown = json.dumps(provenance, default=str)[:60]
        raise ValueError(f"its provenance names no encoder and no models: {shown}")
