"""Attention maps of LSTP, for runs with files of `fuse attend` in their folder.

RUN/attention/NAME.npz holds weights (T, E, rows, columns), times_seconds, labels, clip_id and
phases; NAME.png beside it shows them over the frames as the backbone saw them.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embedding_arrays import load_arrays
from tokenreel.cache.errors import EmbeddingFileError
from tokenreel.evaluate.report.data.gather import ReportConfig, RunPage
from tokenreel.evaluate.report.page.html import Html, absent, tag
from tokenreel.evaluate.report.pictures.frames import jpeg_bytes, to_uri
from tokenreel.evaluate.report.sections.alignment import run_title
from tokenreel.evaluate.report.sections.explore import explore_line

log = logging.getLogger(__name__)

WIDEST = 1400  # pixels of a picture on the page


@dataclass(frozen=True, eq=False)
class Attended:
    """The attention of a run over a clip.

    Attributes:
        run: of which it is.
        clip_id: the clip.
        weights: (T, E, rows, columns) float, >= 0.
        picture: the PNG beside the numbers; it may be missing.
    """

    run: RunPage
    clip_id: str
    weights: NDArray[np.floating]
    picture: Path


def read_attention(runs: Sequence[RunPage], config: ReportConfig) -> list[Attended]:
    """The attention files of the runs; a file of another layout is left out and logged."""
    found = []
    for run in runs:
        paths = sorted((run.folder / "attention").glob("*.npz"))[: config.attention_clips]
        for path in paths:
            try:
                arrays, _ = load_arrays(path, names=("clip_id", "weights"))
                clip_id, weights = str(arrays["clip_id"][0]), arrays["weights"]
            except (EmbeddingFileError, LookupError) as error:
                log.warning("%s: not the attention of a clip (%s): left out", path, error)
                continue
            if weights.ndim != 4 or not np.isfinite(weights).all() or 0 in weights.shape:
                log.warning("%s: weights of shape %s, or not finite: left out", path, weights.shape)
                continue
            found.append(Attended(run, clip_id, weights, path.with_suffix(".png")))
    return found


def focus(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Share of the tokens that each entity attends to, (E,), from 1 / N to 1.

    The exponential of the entropy of its weights over a frame's N tokens, over N, averaged over
    frames; a frame without attention is left out.

    >>> focus(np.array([[[[1.0, 0.0]], [[0.5, 0.5]]]])).tolist()
    [0.5, 1.0]
    """
    flat = weights.reshape(*weights.shape[:2], -1).astype(np.float64)
    sums = flat.sum(axis=2, keepdims=True)
    shares = np.divide(flat, sums, out=np.zeros_like(flat), where=sums > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    effective = np.exp(-(shares * logs).sum(axis=2)) / flat.shape[2]
    counted = sums[..., 0] > 0
    total = np.where(counted, effective, 0).sum(axis=0)
    mean: NDArray[np.float64] = total / np.maximum(counted.sum(axis=0), 1)
    return mean


def attention_article(found: Attended) -> Html:
    """The picture of a clip and the share of tokens that each entity attends to."""
    _, entities, rows, columns = found.weights.shape
    shares = "; ".join(
        f"entity {i} looks at {100 * share:.0f} % of the tokens"
        for i, share in enumerate(focus(found.weights))
    )
    facts = f"{found.clip_id}: {entities} entities over {rows} x {columns} tokens; {shares}"
    caption = tag("figcaption", run_title(found.run), tag("small", facts))
    words = f"Attention of {found.run.recipe} over {found.clip_id}: a column a moment, the frame "
    picture = saved_picture(found.picture, words + "above, then a row for each entity")
    line = explore_line(found.run, found.clip_id)
    return tag("figure", caption, picture, line, class_="attention")


def saved_picture(path: Path, words: str) -> Html:
    """A picture that a command wrote, as part of the page, or why it is not there."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(path.read_bytes())) as picture:
            image = picture.convert("RGB")
    except OSError as error:
        reason = error.strerror or "not a picture"
        return absent(f"Without the picture {path.name}: {reason}.")
    if image.width > WIDEST:
        size = (WIDEST, round(image.height * WIDEST / image.width))
        image = image.resize(size, Pillow.Resampling.LANCZOS)
    uri = to_uri(jpeg_bytes(np.asarray(image)), "jpeg")
    return tag("img", src=uri, alt=words, width=image.width, height=image.height)
