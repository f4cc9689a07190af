"""The report of an extraction: each line of its table, its exit status, and what is counted."""

import signal

import pytest

from tokenreel.cache.errors import ClipFailed, TokenReelError
from tokenreel.extract.report import ExtractReport


def failed(clip_id, stage="decode"):
    return ClipFailed(clip_id, stage=stage, reason="torn")


def test_each_line_of_the_table_by_hand():
    report = ExtractReport(
        committed=["a", "b"],
        skipped=["c"],
        failed=[failed("d", "rules")],
        quarantined=[failed("e", "rules"), failed("f")],
        num_over_limit=4,
        replaced=["b"],
        changed={"g": "x", "h": "y"},
        left=list("lmnopq"),
        labels=["split of 1 clip"],
        num_compared=7,
        num_hashed=2,
        missing={"i": "no such file"},
        num_unlisted=3,
        num_frames=50,
        num_repeated=5,
        num_moved=6,
        num_tried_again=1,
        num_bytes=1_500_000_000,
        peak_bytes=2_000_000_000,
        peak_device_bytes=300_000_000,
        num_clips=9,
        signal=signal.SIGINT,
    )
    report.seconds |= {"decode": 1.0, "backbone": 2.0, "write": 0.5, "wait": 0.25, "total": 4.0}
    assert report.table().splitlines() == [
        "clips   2 committed, 1 skipped, 1 failed, 2 in quarantine, 4 left out by --limit, "
        "3 without a listed time, 2 changed (1 replaced)",
        "frames  50 in 4.0 s (12.5/s), 5 repeated, 6 with repeated time stamps",
        "tokens  1.500 GB",
        "stages  decode 1.0 s, backbone 2.0 s, encode 0.0 s, write 0.5 s, wait 0.2 s",
        "memory  2.00 GB at most, GPU 0.3 GB",
        "2 clip(s) have other frames by the present rules of time and geometry than by those of "
        "the store: `extract run ... --changed replace` adds them",
        "videos  7 compared with the store, 2 hashed, 2 clip(s) changed, 1 without their video",
        "2 clip(s) are of videos or ranges that changed, not extracted again: `extract run ... "
        "--changed replace` extracts them again, `--changed keep` keeps them",
        "split of 1 clip",
        "the store has the labels that were extracted: `tokenreel store relabel STORE --root ROOT` "
        "renews them once all fit, no video is read",
        "6 clip(s) of the store are no longer in the data set and stay: l, m, n, o, p, "
        "... (6 in all)",
        "1 clip(s) in quarantine were tried again: their videos, ranges or labels changed since "
        "they failed",
        "retry clips in quarantine with `extract retry STORE`",
        "stopped early, 1 clips missing; rerun to resume",
    ]
    assert report.status() == ("decode 25%, backbone 50%, encode 0%, write 12%, 1.50 GB, 1 failed")


def test_a_report_of_nothing_says_nothing_but_its_counts():
    assert ExtractReport(left=list("lmnop")).table().splitlines() == [
        "clips   0 committed, 0 skipped, 0 failed",
        "frames  0 in 0.0 s (0.0/s)",
        "tokens  0.000 GB",
        "stages  decode 0.0 s, backbone 0.0 s, encode 0.0 s, write 0.0 s, wait 0.0 s",
        "memory  0.00 GB at most",
        "5 clip(s) of the store are no longer in the data set and stay: l, m, n, o, p",
    ]
    assert ExtractReport().status() == (
        "decode 0%, backbone 0%, encode 0%, write 0%, 0.00 GB, 0 failed"
    )


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 0),
        ({"skipped": ["a"], "left": ["b"], "missing": {"a": "gone"}}, 0),
        ({"failed": [failed("a")]}, 3),
        ({"quarantined": [failed("a")]}, 3),
        ({"unreadable": ["x"]}, 3),
        ({"labels": ["split"]}, 3),
        ({"changed": {"a": "x"}}, 3),
        ({"committed": ["a"], "skipped": ["b"], "num_clips": 3}, 3),
        ({"committed": ["a"], "skipped": ["b"], "num_clips": 2}, 0),
        ({"changed": {"a": "x"}, "accepts_changed": True}, 0),
    ],
)
def test_the_status_is_3_where_not_all_is_as_the_data_set_has_it(given, status):
    assert ExtractReport(**given).exit_status == status
    assert ExtractReport(**given).require_reached() is None


def test_a_changed_clip_is_reached_once_whether_it_is_kept_or_replaced():
    report = ExtractReport(committed=["a"], skipped=["b"], changed={"a": "", "b": "", "c": ""})
    for num_clips, missing in ((1, 0), (3, 0), (5, 2)):
        report.num_clips = num_clips
        assert report.num_missing == missing
    report.quarantined, report.failed = [failed("d")], [failed("e")]
    assert report.num_missing == 0


def test_clips_that_were_not_extracted_are_counted():
    report = ExtractReport(committed=["a"], num_clips=3)
    assert report.table().splitlines()[-1] == "2 clip(s) were not extracted; rerun to resume"


def test_more_failures_than_allowed_name_the_last():
    report = ExtractReport(failed=[failed("a"), failed("b")])
    for allowed, is_over in ((None, False), (2, False), (1, True), (0, True)):
        assert report.has_too_many_failures(allowed) is is_over
    report.check_failures(2)
    with pytest.raises(TokenReelError, match=r"2 clips failed, .*=1; the last: b: decode: torn"):
        report.check_failures(1)


def test_quarantine_adds_the_clips_of_this_run_that_are_not_in_the_report():
    report = ExtractReport(failed=[failed("a")], quarantined=[failed("b")])
    records = [{"clip_id": name, "stage": "open", "reason": "gone"} for name in "abcd"]
    report.note_quarantine(records, {"a", "b", "c"})
    assert [str(failure) for failure in report.failed] == ["a: decode: torn", "c: open: gone"]


def test_frames_written_are_counted_with_their_bytes():
    report = ExtractReport(num_appended=1, num_bytes=10)
    report.wrote(2, 30)
    report.wrote(1, 5)
    assert (report.num_appended, report.num_bytes, report.num_frames) == (4, 45, 0)
