"""Clips, an endpoint, and the file of answers that comes of them."""

import hashlib

import numpy as np
import pytest

from tests.extract.extraction import write_video
from tests.extract.texts.server import completion, send, serve
from tokenreel.cache.errors import UsageError
from tokenreel.cache.locks import lock_folder
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.extract.texts import describe as module
from tokenreel.extract.texts.describe import PROMPTS, count_open_questions, describe_clips
from tokenreel.extract.texts.endpoint import Endpoint
from tokenreel.extract.texts.key_frames import key_frames
from tokenreel.extract.texts.text_lines import read_text_lines

TWO = {"A": PROMPTS["A"], "D": PROMPTS["D"]}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(root / f"{number}.mp4", 20 + number)
    return Manifest("mine", root, tuple(Clip(f"c/{n}", f"{n}.mp4") for n in range(3)))


def ask(manifest, out, script, *, prompts=TWO, most_requests=None, **options):
    endpoint = Endpoint(
        script.url, "m", attempts=2, sleep=lambda _: None, most_requests=most_requests
    )
    try:
        return describe_clips(
            manifest, out, endpoint, model="m", prompts=prompts, height=32, **options
        )
    finally:
        endpoint.close()


def test_every_question_of_every_clip_is_asked_once_and_kept(tmp_path, manifest):
    out = tmp_path / "new" / "t.jsonl"
    with serve() as script:
        report = ask(manifest, out, script)
        assert (report.num_asked, report.failed, report.exit_status) == (6, {}, 0)
        lines = read_text_lines(out)
        assert {(line.clip, line.prompt) for line in lines} == {
            (f"c/{n}", name) for n in range(3) for name in TWO
        }
        assert {line.text for line in lines} == {"fine"}
        again = ask(manifest, out, script)
        assert (again.num_asked, again.num_held, len(script.bodies)) == (0, 6, 6)
    assert read_text_lines(out) == lines


def test_the_picture_is_the_key_frames_of_the_clip_from_left_to_right(manifest):
    clip = Clip("c", "0.mp4", start_seconds=0.2, stop_seconds=0.6)  # frames 5 to 14 of 25 a second
    picture = key_frames(clip, manifest.root, count=5, height=48)
    assert picture.times_seconds == (0.24, 0.32, 0.4, 0.48, 0.56)
    assert picture.pixels.shape == (48, 5 * 64, 3)
    grey = [int(np.median(part)) for part in np.split(picture.pixels, 5, axis=1)]
    assert np.allclose(grey, [5 * frame for frame in (6, 8, 10, 12, 14)], atol=3)
    assert picture.jpeg()[:2] == b"\xff\xd8"
    other = key_frames(clip, manifest.root, count=4, height=48)
    assert picture.sha256 != other.sha256


def test_a_picture_that_changed_is_asked_about_again(tmp_path, manifest):
    out = tmp_path / "t.jsonl"
    with serve() as script:
        ask(manifest, out, script)
        report = ask(manifest, out, script, num_frames=3)
    assert (report.num_asked, report.num_held) == (6, 0)
    assert [len(line.times_seconds) for line in read_text_lines(out)] == [5] * 6 + [3] * 6


def test_a_bad_video_and_a_refused_question_are_listed_and_the_rest_goes_on(tmp_path, manifest):
    clips = (*manifest.clips, Clip("d", "none.mp4"))
    broken = Manifest("mine", manifest.root, clips)
    with serve(send(b"too large", 400)) as script:
        report = ask(broken, tmp_path / "t.jsonl", script, parallel=1)
    assert set(report.failed) == {"c/0, A", "d, A", "d, D"}
    assert "too large" in report.failed["c/0, A"]
    assert (report.num_asked, report.num_left, report.exit_status) == (5, 0, 3)


def test_an_endpoint_that_dies_ends_the_work_and_the_same_command_finishes_it(
    tmp_path, manifest, monkeypatch
):
    monkeypatch.setattr(module, "MOST_IN_A_ROW", 2)
    out = tmp_path / "t.jsonl"
    with serve(completion("one"), *[send(b"", 500)] * 4) as script:
        report = ask(manifest, out, script, parallel=1)
        assert (report.num_asked, len(report.failed), report.num_left) == (1, 2, 3)
        assert "2 questions in a row" in report.stopped
        assert report.exit_status == 3
        done = ask(manifest, out, script)
    assert (done.num_asked, done.num_held, done.exit_status) == (5, 1, 0)


def test_the_requests_that_are_allowed_are_used_and_the_rest_is_left(tmp_path, manifest):
    out = tmp_path / "t.jsonl"
    with serve() as script:
        report = ask(manifest, out, script, most_requests=4, parallel=3)
        assert len(script.bodies) == 4
    assert (report.num_asked, report.num_left, report.exit_status) == (4, 2, 3)
    assert len(read_text_lines(out)) == 4


def test_after_a_kill_in_a_line_it_is_removed_and_asked_again(tmp_path, manifest, caplog):
    out = tmp_path / "t.jsonl"
    with serve() as script:
        ask(manifest, out, script, parallel=1)
        whole = out.read_bytes()
        out.write_bytes(whole[:-10])
        assert count_open_questions(manifest.clips, out, TWO, "m") == (1, 1)
        assert out.read_bytes() == whole[:-10]  # counting writes nothing
        report = ask(manifest, out, script, parallel=1)
    assert (report.num_asked, report.num_held) == (1, 5)
    assert out.read_bytes() == whole
    assert "a line that was cut off" in caplog.text


def test_a_cut_answer_is_counted(tmp_path, manifest):
    with serve(completion("and so", "length")) as script:
        report = ask(manifest, tmp_path / "t.jsonl", script, parallel=1)
    assert report.num_cut == 1
    assert [line.is_cut for line in read_text_lines(tmp_path / "t.jsonl")] == [True] + [False] * 5


def test_a_prompt_has_one_question_in_a_file(tmp_path, manifest):
    out = tmp_path / "t.jsonl"
    with serve() as script:
        ask(manifest, out, script)
        with pytest.raises(UsageError, match="give the prompt another name"):
            ask(manifest, out, script, prompts={"A": "what else?"})
        assert len(script.bodies) == 6


def test_two_processes_do_not_write_one_file(tmp_path, manifest):
    busy = pytest.raises(UsageError, match="another process")
    with serve() as script, lock_folder(tmp_path), busy:
        ask(manifest, tmp_path / "t.jsonl", script)


def test_a_hostile_answer_is_text_and_nothing_else(tmp_path, manifest):
    text = '"}\n{"clip": "c/1", "prompt": "A", "text": "forged"}\x1b[2J\u2028'
    with serve(completion(text)) as script:
        ask(manifest, tmp_path / "t.jsonl", script, parallel=1)
    lines = read_text_lines(tmp_path / "t.jsonl")
    assert (len(lines), lines[0].text) == (6, text.strip())


def test_a_wrong_key_ends_the_work_and_keeps_what_is_there(tmp_path, manifest):
    out = tmp_path / "t.jsonl"
    refused = pytest.raises(UsageError, match="OPENAI_API_KEY")
    with serve(completion("one"), send(b"no", 401)) as script, refused:
        ask(manifest, out, script, parallel=1)
    assert len(read_text_lines(out)) == 1


def test_the_hash_of_a_picture_is_that_of_its_pixels_and_shape(manifest):
    picture = key_frames(manifest.clips[0], manifest.root, count=2, height=16)
    data = repr(picture.pixels.shape).encode() + picture.pixels.tobytes()
    assert picture.sha256 == hashlib.sha256(data).hexdigest()
