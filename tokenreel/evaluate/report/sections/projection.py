"""Embeddings in two dimensions, coloured and shaped by phase: PCA, or t-SNE."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tokenreel.cache.embeddings import EmbeddedClip
from tokenreel.evaluate.report.data.gather import Group, ReportConfig, RunPage
from tokenreel.evaluate.report.page.html import Html, join, phase_class, svg, tag
from tokenreel.evaluate.report.sections.alignment import run_title

SIZE, EDGE = 260.0, 12.0
# A shape a phase, drawn from its centre, so that colour alone identifies no phase.
SHAPES = (
    "m-2.6 0a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0-5.2 0z",
    "m-2.4-2.4h4.8v4.8h-4.8z",
    "m0-3.2l3 5.4h-6z",
    "m0-3.4l3.1 3.4l-3.1 3.4l-3.1-3.4z",
    "m0 3.2l3-5.4h-6z",
    "m-.8-3h1.6v2.2h2.2v1.6h-2.2v2.2h-1.6v-2.2h-2.2v-1.6h2.2z",
    "m-3.4-1.2h6.8v2.4h-6.8z",
    "m-1.2-3.4h2.4v6.8h-2.4z",
)


def project(
    frames: NDArray[np.float32], *, method: Literal["pca", "tsne"]
) -> tuple[NDArray[np.float64], str]:
    """Two coordinates of each frame, (n, 2), and what they are.

    PCA: the directions of most variance, each signed so that its largest weight is positive.
    t-SNE: scikit-learn's, started from PCA with seed 0.

    Args:
        frames: (n, C), n >= 1.
        method: "pca" or "tsne"; for t-SNE fewer than 8 frames are projected by PCA.
    """
    centred = frames.astype(np.float64) - frames.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)
    top = directions[:, ::-1][:, :2]
    if top.shape[1] < 2:  # one channel
        top = np.hstack([top, np.zeros((len(top), 1))])
    top = top * np.sign(top[np.abs(top).argmax(axis=0), [0, 1]] + 1e-300)
    points = centred @ top
    if method == "tsne" and len(frames) >= 8:
        return _tsne(centred, points)
    total = float(values.sum())
    share = float(values[::-1][:2].sum()) / total if total > 0 else 1.0
    return points, f"PCA, {100 * share:.0f} % of the variance"


def _tsne(
    centred: NDArray[np.float64], start: NDArray[np.float64]
) -> tuple[NDArray[np.float64], str]:
    """t-SNE from the principal components, scaled down as its authors' code does."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(centred) - 1) / 3)
    small = 1e-4 * start / (start[:, 0].std() or 1.0)
    model = TSNE(random_state=0, init=small.astype(np.float32), perplexity=perplexity)
    found = model.fit_transform(centred.astype(np.float32))
    return np.asarray(found, np.float64), f"t-SNE, perplexity {perplexity:g}"


def projection_article(group: Group, runs: Sequence[RunPage], config: ReportConfig) -> Html:
    """The projections of a group, one a run, and the legend of its phases."""
    clips = group.clips(runs[0])
    labels = sorted({int(label) for clip in clips for label in clip.labels})
    phases = clips[0].phases
    items = []
    for label in labels:
        name = "no label" if label < 0 else phases[label] if label < len(phases) else str(label)
        mark = _marks(np.array([[6.0, 6.0]]), label)
        sample = Html(
            f'<svg class="sample dot" viewBox="0 0 12 12" aria-hidden="true">{mark}</svg>'
        )
        items.append(tag("li", sample, name))
    figures = [_figure(run, group.clips(run), config) for run in runs if group.clips(run)]
    return tag(
        "article",
        tag("h3", group.title),
        tag("ul", *items, class_="legend"),
        tag("div", *figures, class_="projections"),
    )


def _figure(run: RunPage, clips: Sequence[EmbeddedClip], config: ReportConfig) -> Html:
    total = sum(clip.num_frames for clip in clips)
    step = max(1, -(-total // config.points))
    frames = np.concatenate([clip.embeddings for clip in clips])[::step]
    labels = np.concatenate([clip.labels for clip in clips])[::step]
    points, words = project(frames, method=config.projection)
    text = f"{words}; {len(frames)} of {total} frames of {len(clips)} clips"
    return draw_cloud(run, points, labels, text)


def draw_cloud(
    run: RunPage, points: NDArray[np.float64], labels: NDArray[np.integer], text: str
) -> Html:
    """Points of a run as a figure.

    Args:
        run: whose they are.
        points: (n, 2).
        labels: (n,), which give colour and shape.
        text: what they are.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    scale = (SIZE - 2 * EDGE) / max(float((high - low).max()), 1e-12)
    places = (points - (low + high) / 2) * scale * [1, -1] + SIZE / 2
    order = sorted(set(labels.tolist()))
    marks = [_marks(places[labels == label], label) for label in order]
    drawing = svg(SIZE, SIZE, *marks, label=f"{run.recipe}: {text}", class_="cloud")
    return tag("figure", tag("figcaption", run_title(run), tag("small", text)), drawing)


def _marks(places: NDArray[np.float64], label: int) -> Html:
    shape = SHAPES[label % len(SHAPES)] if label >= 0 else "m-1.5 0h3m-1.5-1.5v3"
    d = "".join(f"M{x:.1f} {y:.1f}{shape}" for x, y in places.tolist())
    return join(Html(f'<path class="{phase_class(label)}" d="{d}"/>'))
