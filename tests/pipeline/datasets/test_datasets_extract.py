"""Every data set through extraction in miniature: real formats, rendered videos, true labels."""

import json
import pickle
from dataclasses import replace

import numpy as np

from tokenreel.cache.manifest import Manifest
from tokenreel.cache.read.store_reader import open_store
from tokenreel.extract.config import ExtractConfig
from tokenreel.extract.flow.runner import extract_clips
from tokenreel.pipeline.datasets import load_dataset

EVENTS = {f"E_{start:06d}_{start + 2:06d}": start for start in (0, 2, 4)}
TINY = {"backbone": "vit_tiny_patch16_224", "weights": "random:0", "image_size": 32}
TINY |= {"blocks": (11,), "device": "cpu", "codec": "fp16"}


def make_finegym(root, write_video):
    times = {}
    for video in ("one", "two"):
        write_video(root / "videos" / f"{video}.mp4", 160)
        times[video] = {
            event: {
                "event": 2,
                "timestamps": [[start, start + 2]],
                "segments": {"A_0000_0001": {"stages": 1, "timestamps": [[0.4, 0.8]]}},
            }
            for event, start in EVENTS.items()
        }
    lines = [
        f"{v}_{e}_A_0000_0001 {n}" for n, (v, e) in enumerate((v, e) for v in times for e in EVENTS)
    ]
    (root / "finegym_annotation_info_v1.1.json").write_text(json.dumps(times))
    (root / "gym99_train_element_v1.1.txt").write_text("\n".join(lines[:4]))
    (root / "gym99_val_element.txt").write_text("\n".join(lines[4:]))


def make_penn_action(root, jpegs):
    frames = root / "frames" / "0001"
    frames.mkdir(parents=True)
    for number, data in enumerate(jpegs(6), start=1):
        (frames / f"{number:06d}.jpg").write_bytes(data)
    labels = root / "penn_action_labels" / "train" / "bowl"
    labels.mkdir(parents=True)
    np.save(labels / "0001.npy", [0, 0, 1, 1, 2, 2])


def make_pouring(root, write_video):
    write_video(root / "videos" / "milk.mp4", 10)
    entry = {"name": "milk", "video_file": "videos/milk.mp4"}
    entry["frame_label"] = np.array([0.0] * 5 + [4.0] * 5, np.float32)
    (root / "val.pkl").write_bytes(pickle.dumps([entry]))


def load_all(path):
    """The clips of four data sets as one manifest, to extract them in one go."""
    clips = []
    phases = {}
    for name in ("finegym", "penn_action", "pouring", "kinetics400"):
        manifest = load_dataset(name, path / name, {})
        below = manifest.root.relative_to(path)
        phases |= manifest.phases
        clips += [
            replace(clip, clip_id=f"{name}/{clip.clip_id}", video=f"{below}/{clip.video}")
            for clip in manifest.clips
        ]
    return Manifest("all", path, tuple(sorted(clips, key=lambda clip: clip.clip_id)), phases)


def test_every_data_set_is_decoded_cut_and_labelled_frame_by_frame(tmp_path, write_video, jpegs):
    make_finegym(tmp_path / "finegym", write_video)
    make_penn_action(tmp_path / "penn_action", jpegs)
    make_pouring(tmp_path / "pouring", write_video)
    write_video(tmp_path / "kinetics400" / "videos" / "val" / "tying tie" / "a.mp4", 6)

    config = ExtractConfig(**TINY, fps=25.0)
    report = extract_clips(load_all(tmp_path), config, tmp_path / "store", progress=False)

    assert report.failed == []
    store = open_store(tmp_path / "store")
    events = [clip_id for clip_id in sorted(store.records) if clip_id.startswith("finegym")]
    assert len(events) == 6
    for number, clip_id in enumerate(events):
        expected = np.full(50, -1)
        expected[10:21] = number
        np.testing.assert_array_equal(store.labels(clip_id), expected)
    assert store.labels("penn_action/train/0001_bowl").tolist() == [0, 0, 1, 1, 2, 2]
    assert store.labels("pouring/val/milk").tolist() == [0] * 5 + [4] * 5
    assert store.records["kinetics400/val/a"].action == "tying tie"
