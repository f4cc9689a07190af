"""Vectors of clips beside those of their texts, which retrieval compares.

A file of pairs names in its provenance, under `pairs`, the prompts and the channels C of a vector,
and the classes that clips have scores of.  The embedding of a clip is its vector for each prompt,
then its scores of the classes; its targets are the vector of its text for each prompt, then for
each prompt a number that is equal for equal texts, -1 where it has none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddingFile
from tokenreel.evaluate.data.results import Score
from tokenreel.evaluate.protocol import Settings
from tokenreel.evaluate.tasks.task import Metric, Request, RowPlan

KS = (1, 5, 10)
Ranks = Callable[[NDArray[Any], NDArray[Any], NDArray[np.int64]], NDArray[np.int64]]
Chance = Callable[[NDArray[np.int64]], float]


@dataclass(frozen=True)
class Pairs:
    """What the vectors of a file are of.

    Attributes:
        prompts: of its texts.
        channels: C.
        classes: of the scores after the vectors.
    """

    prompts: tuple[str, ...]
    channels: int
    classes: tuple[str, ...] = ()


def pairs_of(file: EmbeddingFile) -> Pairs | None:
    """The pairs of a file; None where it is of something else."""
    given = file.provenance.get("pairs")
    if not isinstance(given, dict):
        return None
    prompts, channels = given.get("prompts"), given.get("channels")
    classes = given.get("classes", [])
    lists = isinstance(prompts, list) and isinstance(classes, list) and bool(prompts)
    if not lists or type(channels) is not int or channels < 1:
        return None
    found = Pairs(tuple(map(str, prompts or ())), channels, tuple(map(str, classes)))
    sizes = found.channels * len(found.prompts)
    clip = file.clips[0]
    fits = clip.embeddings.shape[1] == sizes + len(found.classes)
    return found if fits and len(clip.targets) == sizes + len(found.prompts) else None


def missing_pairs(file: EmbeddingFile) -> tuple[str, str]:
    """Why a file has no vectors of clips beside texts, and the status of the rows; else "", ""."""
    if pairs_of(file) is None:
        return "no vectors of clips beside those of texts in the embedding file", "skipped"
    return "", ""


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """The clips of a split that have a text of a prompt.

    Attributes:
        prompt: its name.
        places: (n,), of those clips among all of the split.
        clips: (n, C) vectors of clips.
        texts: (n, C) vectors of their texts.
        numbers: (n,), equal for equal texts.
        num_without: clips of the split without a text.
    """

    prompt: str
    places: NDArray[np.int64]
    clips: NDArray[np.float64]
    texts: NDArray[np.float64]
    numbers: NDArray[np.int64]
    num_without: int


def of_prompts(file: EmbeddingFile, split: str) -> list[PromptPairs]:
    """The pairs of a split, prompt by prompt."""
    pairs = pairs_of(file)
    clips = [clip for clip in file.clips if clip.split == split]
    if pairs is None or not clips:
        return []
    values = np.concatenate([clip.embeddings for clip in clips]).astype(np.float64)
    targets = np.stack([clip.targets for clip in clips]).astype(np.float64)
    channels, count = pairs.channels, len(pairs.prompts)
    found = []
    for place, prompt in enumerate(pairs.prompts):
        own = slice(place * channels, (place + 1) * channels)
        numbers = targets[:, count * channels + place].astype(np.int64)
        has = np.flatnonzero(numbers >= 0)
        found.append(
            PromptPairs(
                prompt,
                has,
                values[has][:, own],
                targets[has][:, own],
                numbers[has],
                len(clips) - len(has),
            )
        )
    return found


def retrieval_rows(column: str, settings: Settings, file: EmbeddingFile) -> list[RowPlan]:
    """R@1, 5 and 10, the mean over prompts and of each prompt."""
    pairs = pairs_of(file)
    names = [f"{column}@{k}" for k in KS]
    names += [f"{column}-{prompt}@{k}" for prompt in (pairs.prompts if pairs else ()) for k in KS]
    return [RowPlan(tuple(names))]


def compute_retrieval(
    column: str, file: EmbeddingFile, request: Request, ranks: Ranks, chance: Chance
) -> list[Score]:
    """The rows of a direction.

    Raises:
        ValueError: fewer than two clips of the split have a text.
    """
    split = request.blank.split
    each = of_prompts(file, split)
    rows: list[Score] = []
    shares: dict[int, list[float]] = {k: [] for k in KS}
    lucky = []
    for data in each:
        if len(data.clips) < 2:
            raise ValueError(
                f"{len(data.clips)} clips of the split {split} have a text of prompt {data.prompt}"
            )
        found = ranks(data.clips, data.texts, data.numbers)
        lucky.append(chance(data.numbers))
        without = f"; {data.num_without} clips without a text" if data.num_without else ""
        note = (
            f"chance {lucky[-1]:.4f} at 1; {len(np.unique(data.numbers))} texts of "
            f"{len(data.clips)} clips{without}"
        )
        for k in KS:
            value = float((found <= k).mean())
            shares[k].append(value)
            rows.append(
                replace(
                    request.blank,
                    task=f"{column}-{data.prompt}@{k}",
                    value=value,
                    num_pairs=len(found),
                    num_dropped=data.num_without,
                    note=note,
                )
            )
    if not rows:
        raise ValueError(f"no clips of the split {split}")
    note = (
        f"chance {np.mean(lucky):.4f} at 1; mean over prompts {', '.join(d.prompt for d in each)}"
    )
    return [
        replace(request.blank, task=f"{column}@{k}", value=float(np.mean(shares[k])), note=note)
        for k in KS
    ] + rows


def resampled_retrieval(
    column: str, file: EmbeddingFile, settings: Settings, ranks: Ranks
) -> dict[str, Metric]:
    """R@1 averaged over prompts, on clips that are drawn as queries."""
    each = of_prompts(file, settings.split)
    hits = [(data.places, ranks(data.clips, data.texts, data.numbers) <= 1) for data in each]

    def value(drawn: NDArray[np.int64]) -> float:
        shares = []
        for places, hit in hits:
            counts = drawn[places]
            if counts.sum():
                shares.append(float(counts @ hit / counts.sum()))
        return float(np.mean(shares)) if shares else float("nan")

    return {f"{column}@1": value}


def class_scores_of(
    file: EmbeddingFile, split: str
) -> tuple[NDArray[np.float32], NDArray[np.int64], Sequence[str]]:
    """Scores of classes (n, K), the class of each clip (n,) and the K names; clips of no class out.

    Without scores all are empty.
    """
    pairs = pairs_of(file)
    if pairs is None or not pairs.classes:
        return np.empty((0, 0), np.float32), np.empty(0, np.int64), ()
    known = {name: place for place, name in enumerate(pairs.classes)}
    clips = [clip for clip in file.clips if clip.split == split and clip.action in known]
    count = len(pairs.classes)
    scores = [np.empty((0, count), np.float32), *(clip.embeddings[:, -count:] for clip in clips)]
    classes = np.array([known[clip.action] for clip in clips], np.int64)
    return np.concatenate(scores), classes, pairs.classes
