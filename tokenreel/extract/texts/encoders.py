"""Text encoders by name: NAME, or NAME:WHICH for those that read weights of a name or folder.

A package adds an encoder by an entry point in the group `tokenreel.text_encoders`: a class that is
called as TextEncoder says.

Shapes: C channels of a pooled vector, L tokens of a text, D channels of a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.errors import UsageError
from tokenreel.cache.plugins import Table

ENCODERS = Table(
    "text encoder",
    "tokenreel.text_encoders",
    {
        "minilm": "tokenreel.extract.texts.transformer_encoders:MiniLm",
        "sentence-transformers": "tokenreel.extract.texts.transformer_encoders:SentenceEncoder",
        "transformers": "tokenreel.extract.texts.transformer_encoders:TransformersEncoder",
        "hashed-words": "tokenreel.extract.texts.hashed_words:HashedWords",
    },
)


@dataclass(frozen=True, eq=False)
class EncodedText:
    """A text as vectors.

    Attributes:
        place: of the text among those given.
        pooled: (C,) float32.
        tokens: (L, D) float32.
        is_cut: whether the text is longer than the encoder takes, so that its end is left out.
    """

    place: int
    pooled: NDArray[np.float32]
    tokens: NDArray[np.float32]
    is_cut: bool


class TextEncoder(Protocol):
    """A frozen encoder of texts.

    Args:
        which: what follows the colon of NAME:WHICH; "" without one.
        max_tokens: longest text; None: what it was made for.
        device: of torch, such as "cpu"; an encoder without torch pays no heed to it.

    Raises:
        UsageError: weights that are unavailable, or a word that means nothing.
    """

    def __init__(self, which: str, *, max_tokens: int | None, device: str) -> None: ...

    def identity(self) -> dict[str, Any]:
        """What its vectors depend on, with `sha256` of weights, words and settings."""
        ...

    def encode(self, texts: Sequence[str]) -> Iterator[EncodedText]:
        """Vectors of every text, in any order; none depends on the order of the texts."""
        ...


def encoder_label(encoder: str) -> str:
    """The name of an encoder as files and messages have it: of a folder its own name alone.

    >>> encoder_label("transformers:models/videoclip-text/"), encoder_label("minilm")
    ('transformers:videoclip-text', 'minilm')
    """
    name, colon, which = encoder.partition(":")
    if which and (which.endswith("/") or Path(which).is_absolute() or Path(which).is_dir()):
        which = Path(which).resolve().name
    return f"{name}{colon}{which}"


def load_encoder(encoder: str, *, max_tokens: int | None = None, device: str = "cpu") -> Any:
    """The TextEncoder of a name.

    Raises:
        UsageError: no such name, with the nearest, or see TextEncoder.
    """
    name, _, which = encoder.partition(":")
    if not name:
        raise UsageError(f"encoder={encoder!r}: give one of {', '.join(ENCODERS.names())}")
    return ENCODERS.load(name)(which, max_tokens=max_tokens, device=device)
