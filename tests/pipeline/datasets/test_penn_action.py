"""`penn_action`: frames packed without a change, CARL's files, labels that do not fit."""

import os
import pickle
import shutil

import av
import numpy as np
import pytest
import torch
from scipy.io import savemat

from tokenreel.cache.errors import UsageError
from tokenreel.pipeline.datasets import check_dataset, load_dataset
from tokenreel.pipeline.datasets.formats.jpegs import pack_jpegs


def make_published(root, jpegs, num_frames=6, labels=(0, 0, 1, 1, 1, 1), action="squats"):
    frames = root / "frames" / "0001"
    frames.mkdir(parents=True)
    for number, data in enumerate(jpegs(num_frames), start=1):
        (frames / f"{number:06d}.jpg").write_bytes(data)
    (root / "labels").mkdir()
    savemat(root / "labels" / "0001.mat", {"action": action.rstrip("s"), "train": -1})
    if labels is not None:
        folder = root / "penn_action_labels" / "val" / action
        folder.mkdir(parents=True)
        np.save(folder / "0001.npy", np.array(labels))
    return root


def make_carl(root, labels, video="penn_action/videos/0001_squat.mp4"):
    (root / "videos").mkdir(parents=True)
    (root / "videos" / "0001_squat.mp4").touch()
    entry = {"id": 0, "name": "0001_squat", "video_file": video, "frame_label": labels}
    entry |= {"seq_len": 4, "action_label": 10}
    for split in ("train", "val"):
        (root / f"{split}.pkl").write_bytes(pickle.dumps(([entry], [[0]])))
    return root


def test_frames_become_one_video_that_decodes_to_the_same_pixels(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs)

    manifest = load_dataset("penn_action", root, {})

    (clip,) = manifest.clips
    assert (clip.clip_id, clip.split, clip.action) == ("val/0001_squat", "val", "squat")
    assert [(s.start_seconds, s.stop_seconds, s.phase) for s in clip.spans] == [
        (0.0, 0.06, 0),
        (0.06, 0.22, 1),
    ]
    with av.open(str(manifest.root / clip.video)) as container:
        assert all(packet.is_keyframe for packet in container.demux() if packet.size)
    with av.open(str(manifest.root / clip.video)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(6) / 25)
    for number, frame in enumerate(frames, start=1):
        with av.open(str(root / "frames" / "0001" / f"{number:06d}.jpg")) as picture:
            (alone,) = picture.decode(video=0)
        np.testing.assert_array_equal(
            frame.to_ndarray(format="rgb24"), alone.to_ndarray(format="rgb24")
        )


@pytest.mark.parametrize(
    ("num_frames", "labels", "num_kept", "phases"),
    [(4, (0, 1, 2, 3, 3, 3), 4, [0, 1, 3, 3]), (6, (0, 1, 2, 3), 4, [0, 1, 2, 3])],
)
def test_the_longer_of_labels_and_frames_is_resampled(
    tmp_path, jpegs, num_frames, labels, num_kept, phases
):
    root = make_published(tmp_path, jpegs, num_frames, labels)

    manifest = load_dataset("penn_action", root, {})

    (clip,) = manifest.clips
    assert clip.video == f"0001-{num_kept}.mkv"  # other labels: another video
    with av.open(str(manifest.root / clip.video)) as container:
        reds = [f.to_ndarray(format="rgb24")[0, 0, 0] for f in container.decode(video=0)]
    kept = [number * num_frames // num_kept for number in range(num_kept)]
    assert np.round(np.array(reds) / 10).tolist() == kept  # jpegs: ten brighter each
    times = np.arange(num_kept) / 25
    read = [
        next(s.phase for s in clip.spans if s.start_seconds <= t < s.stop_seconds) for t in times
    ]
    assert read == phases
    assert any("resampled" in note for note in manifest.notes)


def test_without_phase_labels_the_split_is_the_flag_in_the_mat_file(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs, labels=None)
    manifest = load_dataset("penn_action", root, {"packed": str(tmp_path / "elsewhere")})
    assert [(c.split, c.action, c.spans) for c in manifest.clips] == [("val", "squat", ())]
    assert (tmp_path / "elsewhere").is_dir()
    assert not (root / "packed").exists()


def test_a_second_load_uses_the_packed_video_again_and_a_check_packs_nothing(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs)
    check = check_dataset("penn_action", root, {})
    assert not (root / "packed").exists()
    assert [(s.split, s.published, s.listed, s.found) for s in check.splits] == [
        ("train", 1140, 0, 0),
        ("val", 966, 1, 1),
    ]
    first = load_dataset("penn_action", root, {})
    before = (first.root / first.clips[0].video).stat().st_mtime_ns
    again = load_dataset("penn_action", root, {})
    assert (again.root / again.clips[0].video).stat().st_mtime_ns == before


def column(labels):
    return np.array(labels)[:, None]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, column])
def test_the_pickles_of_carl_are_read_with_lists_arrays_or_tensors(tmp_path, kind):
    root = make_carl(tmp_path, kind([0.0, 1.0, -1.0, 3.0]))

    manifest = load_dataset("penn_action", root, {})

    assert [clip.clip_id for clip in manifest.clips] == ["train/0001_squat", "val/0001_squat"]
    clip = manifest.clips[0]
    assert (clip.video, clip.action) == ("videos/0001_squat.mp4", "squat")
    assert [(s.phase, s.where) for s in clip.spans] == [(p, "train.pkl[0]") for p in (0, 1, 3)]


@pytest.mark.parametrize("video", ["x\\videos\\{}", "C/x/y/{}", "videos/{}", "{}"])
def test_the_videos_of_carl_are_below_the_root_or_in_videos(tmp_path, video):
    root = make_carl(tmp_path, [True, False], video.format("0001_squat.mp4"))
    clip = load_dataset("penn_action", root, {}).clips[0]
    assert clip.video == "videos/0001_squat.mp4"
    assert [span.phase for span in clip.spans] == [1, 0]


def test_a_video_of_carl_in_another_folder_is_below_the_folder_of_its_name(tmp_path):
    root = make_carl(tmp_path, [0], "penn_action/clips/0001_squat.mp4")
    (root / "videos").rename(root / "clips")
    assert load_dataset("penn_action", root, {}).clips[0].video == "clips/0001_squat.mp4"


def test_clips_of_carl_without_a_video_are_counted(tmp_path):
    root = make_carl(tmp_path, [0])
    entry = {"name": "0002_squat", "video_file": "0002_squat.mp4", "frame_label": [0]}
    here = {"name": "0001_squat", "video_file": "0001_squat.mp4", "frame_label": [0]}
    (root / "train.pkl").write_bytes(pickle.dumps([entry, here, entry]))
    (root / "val.pkl").unlink()
    check = check_dataset("penn_action", root, {})
    assert check.notes == (
        "2 of 3 train clips have no video",
        "no val.pkl: the val split is left out",
    )
    assert [(s.split, s.listed, s.found) for s in check.splits] == [("train", 3, 1), ("val", 0, 0)]


@pytest.mark.parametrize(
    ("labels", "video", "message"),
    [
        ([0, 4], "x.mp4", r"train\.pkl\[0\]: frame 1 has phase 4; squat has 4, from 0"),
        ([0, 0.5], "x.mp4", r"frame 1 has phase 0\.5"),
        ([0, float("nan")], "x.mp4", r"frame 1 has phase nan"),
        (["a"], "x.mp4", r"frame labels are <U1"),
        ([[0], [0, 1]], "x.mp4", r"frame labels are lists of several lengths"),
        (3, "x.mp4", r"frame labels are int64 \(\)"),
        ([2**70], "x.mp4", r"frame labels are object"),
        (None, "x.mp4", r"frame labels are object"),
        ([0], "../x.mp4", r"the video '\.\./x\.mp4' leaves the root"),
    ],
)
def test_a_wrong_entry_of_a_pickle_is_named(tmp_path, labels, video, message):
    root = make_carl(tmp_path, labels, video if video.startswith("..") else "0001_squat.mp4")
    with pytest.raises(UsageError, match=message):
        load_dataset("penn_action", root, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": b"0001_squat"}, r"train\.pkl\[0\]: name is a bytes, not text"),
        ({"name": 10**30}, r"train\.pkl\[0\]: name is a int, not text"),
        ({"video_file": ["a.mp4"]}, r"train\.pkl\[0\]: video_file is a list, not text"),
        ({"video_file": "a" * 5000}, r"train\.pkl\[0\]: the video 'aaa.*File name too long"),
    ],
)
def test_an_entry_of_a_pickle_with_other_words_than_text_is_named(tmp_path, changes, message):
    entry = {"name": "0001_squat", "video_file": "a.mp4", "frame_label": [0]} | changes
    (tmp_path / "train.pkl").write_bytes(pickle.dumps([entry]))
    with pytest.raises(UsageError, match=message):
        load_dataset("penn_action", tmp_path, {})


def test_an_unknown_action_is_told_the_nearest(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs, action="squad")
    with pytest.raises(UsageError, match=r"action 'squad', did you mean squat\?"):
        load_dataset("penn_action", root, {})


def test_a_frame_that_is_no_jpeg_is_named_and_fails_its_own_clip_alone(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs)
    picture = root / "frames" / "0001" / "000003.jpg"
    data = picture.read_bytes()
    picture.write_text("text")
    manifest = load_dataset("penn_action", root, {})
    assert any("frames/0001, picture 3: not a JPEG" in note for note in manifest.notes)
    absent = [c.clip_id for c in manifest.clips if not (manifest.root / c.video).is_file()]
    assert [clip_id.split("/")[1][:4] for clip_id in absent] == ["0001"]
    picture.write_bytes(data)
    again = load_dataset("penn_action", root, {})
    assert again.clips == manifest.clips
    assert all((again.root / clip.video).is_file() for clip in again.clips)


def with_thumbnail(data):
    """A JPEG picture with another, whole one in its header, as cameras write them."""
    header = b"Exif\0\0" + data
    return data[:2] + b"\xff\xe1" + (len(header) + 2).to_bytes(2, "big") + header + data[2:]


@pytest.mark.parametrize("thumbnail", [False, True])
@pytest.mark.parametrize("part", ["end", "scan", "header", "size"])
def test_a_picture_that_is_cut_short_is_named(tmp_path, jpegs, part, thumbnail):
    root = make_published(tmp_path, jpegs)
    picture = root / "frames" / "0001" / "000003.jpg"
    data = picture.read_bytes()
    data = with_thumbnail(data) if thumbnail else data
    picture.write_bytes(data)
    whole = load_dataset("penn_action", root, {"packed": str(tmp_path / "whole")})
    assert whole.notes == ()
    ends = {"end": len(data) - 2, "scan": data.rfind(b"\xff\xda") + 20}
    ends["size"] = data.rfind(b"\xff\xc0") + 9  # behind the width
    picture.write_bytes(data[: ends.get(part, data.rfind(b"\xff\xda"))])
    manifest = load_dataset("penn_action", root, {})
    assert any("0001, picture 3: a JPEG picture that is cut short" in n for n in manifest.notes)


@pytest.mark.parametrize("marker", [b"\xff\xc8", b"\xff\xcc"])  # JPG, and DAC of arithmetic
@pytest.mark.parametrize("before", [b"\xff\xd8", b"\xff\xda"])
def test_segments_that_are_no_frame_header_have_no_size(tmp_path, jpegs, marker, before):
    data = jpegs(1)[0]
    at = 2 if before == b"\xff\xd8" else data.rfind(before)
    data = data[:at] + marker + b"\x00\x04\x00\x00\xff" + data[at:]  # then filling
    assert pack_jpegs(tmp_path / "a.mkv", [data], fps=25, where="a") == 1
    with av.open(str(tmp_path / "a.mkv")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (64, 48)


def test_every_packed_picture_is_a_key_frame(tmp_path, jpegs):
    pack_jpegs(tmp_path / "a.mkv", jpegs(4), fps=25, where="a")
    with av.open(str(tmp_path / "a.mkv")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [True] * 4
    assert [float(packet.pts * packet.time_base) for packet in packets] == [0, 0.04, 0.08, 0.12]


def test_a_video_that_lacks_a_frame_in_between_is_left_out(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs)
    before = load_dataset("penn_action", root, {"pack": "no"})
    (root / "frames" / "0001" / "000003.jpg").unlink()
    manifest = load_dataset("penn_action", root, {"pack": "no"})
    left = {clip.clip_id for clip in before.clips} - {clip.clip_id for clip in manifest.clips}
    assert [clip_id.split("/")[1][:4] for clip_id in left] == ["0001"]
    assert any(note.startswith("1 of ") and "lack a frame" in note for note in manifest.notes)


def test_a_picture_whose_name_is_no_number_leaves_its_video_out(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs)
    (root / "frames" / "0001" / "cover.jpg").write_bytes(jpegs(1)[0])
    manifest = load_dataset("penn_action", root, {"pack": "no"})
    assert manifest.clips == ()
    assert manifest.notes[0].startswith("1 of 1 videos lack a frame before their last")


def test_videos_without_frames_are_counted_and_folders_that_cannot_be_read_are_listed(
    tmp_path, jpegs, monkeypatch
):
    root = make_published(tmp_path, jpegs)
    folder = root / "penn_action_labels" / "val" / "squats"
    for number in ("0002", "0003", "0004"):
        shutil.copy(folder / "0001.npy", folder / f"{number}.npy")
    (root / "frames" / "0004").mkdir()
    lists = os.listdir

    def refuse(path):
        if os.fspath(path).endswith("0004"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return lists(path)

    monkeypatch.setattr(os, "listdir", refuse)
    check = check_dataset("penn_action", root, {})
    assert [(s.split, s.listed, s.found) for s in check.splits if s.listed] == [("val", 4, 1)]
    assert check.notes == ("2 of 4 videos have no frames",)
    [reason] = check.unreadable
    assert reason.startswith(f"{root / 'frames' / '0004'}: it cannot be listed: Permission denied")


def test_without_phase_labels_other_actions_of_the_mat_files_are_left_out(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs, labels=None)
    for number, action in (("0002", "strum_guitar"), ("0003", "bowling")):
        savemat(root / "labels" / f"{number}.mat", {"action": action, "train": 1})
        shutil.copytree(root / "frames" / "0001", root / "frames" / number)
    manifest = load_dataset("penn_action", root, {"pack": "no"})
    assert [clip.clip_id for clip in manifest.clips] == ["train/0003_bowl", "val/0001_squat"]


def test_a_phase_beyond_those_of_an_action_is_named(tmp_path, jpegs):
    root = make_published(tmp_path, jpegs, labels=(0, 1, 2, 3, 3, 4))
    with pytest.raises(UsageError, match=r"squats/0001\.npy: frame 5 has phase 4; squat has 4"):
        load_dataset("penn_action", root, {"pack": "no"})


def test_a_root_in_neither_layout_is_shown_both(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)neither frames/ nor train\.pkl.*expected.*empty"):
        load_dataset("penn_action", tmp_path, {})
