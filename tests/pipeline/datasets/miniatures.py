"""Each data set in miniature: its real format, from rendered frames that carry their number."""

import io
import json
import pickle

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.extract.barcodes import barcode, every_40_ms, write_barcodes
from tests.pipeline.datasets.test_pouring import example, record

FAST = {"crf": "12", "bf": "2", "g": "25", "preset": "veryfast"}


def write_video(path, count, first=0):
    """An MP4 at 25 frames a second, with B-frames and a key frame each second."""
    return write_barcodes(path, every_40_ms(count), options=FAST, first=first)


def jpegs(count, first=0):
    """JPEG pictures of barcodes."""
    pictures = []
    for number in range(first, first + count):
        file = io.BytesIO()
        Image.fromarray(barcode(number)).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    return pictures


def make_finegym(root, num_videos=2, events=((0, 2), (2, 4), (4, 7), (8, 10))):
    """Source videos, the times in JSON, element lists and names; one event is in both splits."""
    times, lines = {}, []
    for number in range(num_videos):
        video = f"video_-{number:04d}"
        write_video(root / "videos" / f"{video}.mp4", 260, first=300 * number)
        times[video] = {}
        for start, stop in events:
            event = f"E_{start:06d}_{stop:06d}"
            times[video][event] = {
                "event": 2,
                "timestamps": [[start + 0.04, stop]],
                "segments": {
                    "A_0000_0001": {"stages": 1, "timestamps": [[0.2, 0.6]]},
                    "A_0001_0002": {"stages": 2, "timestamps": [[0.8, 1.0], [1.0, 1.4]]},
                },
            }
            for element in ("A_0000_0001", "A_0001_0002"):
                lines.append(f"{video}_{event}_{element} {len(lines) % 99}")
        times[video]["E_000011_000012"] = {"event": 1, "timestamps": [[11, 12]], "segments": None}
    folder = root / "annotations"
    folder.mkdir(parents=True)
    (folder / "finegym_annotation_info_v1.1.json").write_text(json.dumps(times))
    half = len(lines) // 2 + 1  # the event in the middle has an element on each side
    (folder / "gym99_train_element_v1.1.txt").write_text("\n".join(lines[:half]) + "\n")
    (folder / "gym99_val_element.txt").write_text("\n".join(lines[half:]))
    names = [f"Clabel: {n:3d}; set: 21; Glabel: {n:3d}; (FX) move {n}" for n in range(99)]
    (folder / "gym99_categories.txt").write_text("\n".join(names))


def make_penn_action(root, counts=(40, 31, 52)):
    """Folders of frames, .mat files and labels of phases."""
    actions = ("bowl", "squat", "tennis_serve")
    for number, (count, action) in enumerate(zip(counts, actions, strict=True), start=1):
        frames = root / "frames" / f"{number:04d}"
        frames.mkdir(parents=True)
        for index, data in enumerate(jpegs(count, first=100 * number), start=1):
            (frames / f"{index:06d}.jpg").write_bytes(data)
        (root / "labels").mkdir(exist_ok=True)
        content = {"action": action, "train": 1, "nframes": count, "dimensions": [48, 80, count]}
        savemat(root / "labels" / f"{number:04d}.mat", content)
        split = "val" if number == 2 else "train"
        folder = root / "penn_action_labels" / split / action
        folder.mkdir(parents=True)
        np.save(folder / f"{number:04d}.npy", np.arange(count) * 3 // count)


def make_carl(root, names, num_phases):
    """The mp4 files and pickles of CARL, for Penn Action and Pouring."""
    for split, (name, count) in zip(("train", "val"), names, strict=True):
        write_video(root / "videos" / f"{name}.mp4", count)
        entry = {"id": 0, "name": name, "video_file": f"x/videos/{name}.mp4", "seq_len": count}
        entry["frame_label"] = np.floor(np.arange(count) * num_phases / count)
        (root / f"{split}.pkl").write_bytes(pickle.dumps(([entry], [[0]])))


def make_pouring(root):
    """TFRecords of JPEG frames and labels."""
    root.mkdir(parents=True, exist_ok=True)
    counts = {"train-0-of-2": (45, 30), "train-1-of-2": (33,), "val-0-of-1": (41,)}
    for part, lengths in counts.items():
        data = b""
        for number, count in enumerate(lengths):
            labels = [5 * index // count for index in range(count)]
            name = f"{part}_{number}".encode()
            data += record(example(name, jpegs(count, first=100 * number), labels))
        (root / f"pouring_{part}.tfrecord").write_bytes(data)


def make_kinetics400(root):
    """The published list, and videos in all three layouts."""
    rows = ["label,youtube_id,time_start,time_end,split"]
    places = {
        "train": ("riding a bike", "train"),
        "val": ("riding a bike", "videos/val/riding a bike"),
        "test": ("riding a bike", "videos_test/riding a bike"),
    }
    for number, (split, (label, folder)) in enumerate(places.items()):
        for index in range(2):
            video = f"abcdefgh-{number}{index}"
            rows.append(f"{label},{video},{10 * index},{10 * index + 10},{split}")
            name = f"{video}_{10 * index:06d}_{10 * index + 10:06d}.mp4"
            write_video(root / folder / name, 40 + 7 * number, first=100 * index)
    (root / "kinetics-400.csv").write_text("\n".join(rows))


MINIATURES = {
    "finegym": make_finegym,
    "kinetics400": make_kinetics400,
    "penn_action": make_penn_action,
    "pouring": make_pouring,
}
