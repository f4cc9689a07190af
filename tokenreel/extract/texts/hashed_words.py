"""A stand-in for a text encoder: every word is a vector of signs made from its hash.

It knows no language: texts are near each other as far as they share words, in whatever order.  It
needs no weights, and is the same on every machine.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.extract.texts.encoders import EncodedText

DIM = 256
MAX_WORDS = 256
VERSION = 1  # of how words become vectors


class HashedWords:
    """The encoder `hashed-words`: 256 channels, unit length."""

    def __init__(self, which: str, *, max_tokens: int | None, device: str) -> None:
        if which:
            raise UsageError(f"encoder=hashed-words:{which}: it is one alone: encoder=hashed-words")
        self._most = max_tokens or MAX_WORDS

    def identity(self) -> dict[str, Any]:
        """See TextEncoder."""
        settings = {"version": VERSION, "max_tokens": self._most, "pooling": "mean"}
        digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()
        return {**settings, "sha256": digest}

    def encode(self, texts: Sequence[str]) -> Iterator[EncodedText]:
        """See TextEncoder; a text without a letter or digit is one word."""
        for place, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower()) or [text]
            tokens = np.stack([_signs(word) for word in words[: self._most]])
            total = tokens.sum(axis=0, dtype=np.float64)
            length = float(np.linalg.norm(total))
            if length == 0:  # opposite words: the first stands for the text
                total, length = tokens[0].astype(np.float64), 1.0
            pooled = (total / length).astype(np.float32)
            yield EncodedText(place, pooled, tokens, len(words) > self._most)


@lru_cache(maxsize=65536)
def _signs(word: str) -> NDArray[np.float32]:
    """(256,) of +-1/16, a unit vector."""
    data = hashlib.shake_256(word.encode("utf-8", "surrogatepass")).digest(DIM // 8)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(np.float32)
    return (2 * bits - 1) / np.float32(DIM**0.5)
