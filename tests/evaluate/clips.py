"""Small embedding files for the tests of phase 3."""

import numpy as np

from tokenreel.cache.embeddings import EmbeddedClip, write_embeddings


def make_clip(
    clip_id, split, *, action="act", frames=12, labelled=True, group="", noise=0.1, seed=0
):
    """Three phases of equal length, each near a corner, and the time in the last channel."""
    rng = np.random.default_rng([seed, *clip_id.encode()])
    labels = np.arange(frames) * 3 // frames
    embeddings = np.eye(4)[labels] + noise * rng.standard_normal((frames, 4))
    embeddings[:, 3] = np.arange(frames) / frames
    return EmbeddedClip(
        clip_id=clip_id,
        split=split,
        action=action,
        group=group,
        embeddings=embeddings.astype(np.float32),
        labels=(labels if labelled else np.full(frames, -1)).astype(np.int16),
        times_seconds=np.arange(frames) / 25,
        phases=("a", "b", "c") if labelled else (),
        frame_index=np.arange(frames),
    )


def labelled_clips(action="act", **changes):
    """Two clips to learn from and three to be judged."""
    names = [("t0", "train"), ("t1", "train"), ("v0", "val"), ("v1", "val"), ("v2", "val")]
    return [make_clip(f"{action}/{n}", split, action=action, **changes) for n, split in names]


def write_run(folder, clips, **provenance):
    """An embedding file of ours in the folder of a run."""
    about = {"run": folder.name, "recipe": "r", "seed": 0, **provenance}
    return write_embeddings(folder / "embeddings.h5", clips, provenance=about)
