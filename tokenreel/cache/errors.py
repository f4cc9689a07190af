"""The exception tree, with the exit status that each error gives a command.

    TokenReelError                 3   a job finished with failures
    |-- UsageError                 2   a wrong word, key, path or value (also a ValueError)
    |-- StoreError                 5
    |   |-- StoreNotFound          2   no token store at the path
    |   |-- WrongIdentity            4   a store made with other settings
    |   |-- Damaged                5   a missing, torn or altered file
    |   `-- ClipNotFound           2   the store has no such clip, block, view or frame
    |-- EmbeddingFileError         5
    `-- ClipFailed                 3   one clip could not be processed; the batch continues

Arguments of the wrong type or value raise TypeError and ValueError, as everywhere in Python.
"""

from functools import partial


class TokenReelError(Exception):
    """Base of everything that TokenReel raises about files and jobs."""

    exit_status = 3


class UsageError(TokenReelError, ValueError):
    """A word, key, path or value that the user gave is wrong."""

    exit_status = 2


class StoreError(TokenReelError):
    """A token store cannot be used."""

    exit_status = 5


class StoreNotFound(StoreError):
    """There is no token store at the path."""

    exit_status = 2


class WrongIdentity(StoreError):
    """The store was made with other settings; the message lists the fields that differ."""

    exit_status = 4


class Damaged(StoreError):
    """A file of the store is missing, torn or altered."""


class ClipNotFound(StoreError):
    """The store holds no such clip, block, view or frame."""

    exit_status = 2


class EmbeddingFileError(TokenReelError):
    """An embedding file is missing, torn or not in the documented layout."""

    exit_status = 5


class ClipFailed(TokenReelError):
    """One clip could not be processed.

    Attributes:
        clip_id: the clip.
        stage: "open", "decode", "transform", "backbone", "encode", "write", "labels" or "read".
        reason: one sentence, as printed in the closing table.
    """

    def __init__(self, clip_id: str, *, stage: str, reason: str) -> None:
        super().__init__(f"{clip_id}: {stage}: {reason}")
        self.clip_id = clip_id
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return partial(ClipFailed, stage=self.stage, reason=self.reason), (self.clip_id,)
