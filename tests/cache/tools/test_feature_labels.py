"""Labels of features from tables: which frames get which phase, and what is no phase."""

from pathlib import Path

import numpy as np
import pytest

from tokenreel.cache.csv_tables import read_table
from tokenreel.cache.errors import UsageError
from tokenreel.cache.tools.feature_labels import read_label_tables

TIMES = np.arange(6) / 2  # 0 to 2.5 s
SPANS = "file,start_seconds,stop_seconds,phase\n"


def tables(folder: Path, *, spans: str = "", phases: str = "", arrays=()):
    """The tables of a folder; arrays are written as NAME.npy and named for the file a."""
    if spans:
        (folder / "labels.csv").write_text(SPANS + spans)
    if phases:
        (folder / "phases.csv").write_text("action,phase\n" + phases)
    lines = {}
    if len(arrays):
        np.save(folder / "l.npy", arrays)
        (folder / "clips.csv").write_text("file,labels\na,l.npy\n")
        [line] = read_table(folder / "clips.csv", required=("file", "labels"))
        lines["a"] = line
    return read_label_tables(folder, lines)


@pytest.mark.parametrize(
    ("spans", "wanted"),
    [
        ("a,0,1,0\na,1,2,3\n", [0, 0, 3, 3, -1, -1]),  # from its start to before its stop
        ("a,1,2,3\na,0,1,0\n", [0, 0, 3, 3, -1, -1]),
        ("a,0.1,0.6,7\nb,0,9,1\n", [-1, 7, -1, -1, -1, -1]),
        ("a,0,0.5,1\na,2,2.1,2\na,0.5,0.6,32767\n", [1, 32767, -1, -1, 2, -1]),
        ("b,0,9,1\n", None),
    ],
)
def test_a_span_labels_the_frames_from_its_start_to_before_its_stop(tmp_path, spans, wanted):
    found = tables(tmp_path, spans=spans).labels("a", "", TIMES)
    assert found is None if wanted is None else found.tolist() == wanted
    assert found is None or found.dtype == np.int16


PHASES = "turn,up\nturn,down\nleap,10\nleap,20\n"


@pytest.mark.parametrize(
    ("action", "phase", "number"),
    [("turn", "up", 0), ("turn", "down", 1), ("turn", "1", 1), ("leap", "20", 1), ("", "5", 5)],
)
def test_a_phase_is_a_name_of_its_action_or_its_number(tmp_path, action, phase, number):
    found = tables(tmp_path, spans=f"a,0,1,{phase}\n", phases=PHASES)
    assert found.phases == {"turn": ("up", "down"), "leap": ("10", "20")}
    assert found.labels("a", action, TIMES).tolist() == [number, number, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("action", "spans", "message"),
    [
        ("turn", "a,0,1,dwn\n", r"csv:2: unknown phase 'dwn', did you mean down\? \(known: up, d"),
        ("turn", "a,0,1,2\n", r"csv:2: unknown phase '2'.* \(known: up, down\)"),
        ("leap", "a,0,1,1\n", r"csv:2: unknown phase '1'.* \(known: 10, 20\)"),  # names are numbers
        ("", "a,0,1,32768\n", r"csv:2: unknown phase '32768' \(known: numbers from 0"),
        ("", "a,1,1,0\n", r"csv:2: reversed, it starts at 1.0 s and stops at 1.0 s"),
        ("", "a,2,1,0\n", r"csv:2: reversed"),
        ("", "a,0,1,0\na,2,3,0\na,0.5,0.6,0\n", r"csv:4: overlaps labels\.csv:2"),
        ("", "a,1,2,0\na,0,1.5,0\n", r"csv:3: overlaps labels\.csv:2"),
        ("", "a,0,3,0\na,1,2,0\n", r"csv:3: overlaps labels\.csv:2"),
        ("", "a,2.6,3,0\n", r"csv:2: no frame from 2.6 to 3.0 s; the last is at 2.500 s"),
    ],
)
def test_a_span_that_means_nothing_is_named_by_its_line(tmp_path, action, spans, message):
    found = tables(tmp_path, spans=spans, phases=PHASES)
    with pytest.raises(UsageError, match=message):
        found.labels("a", action, TIMES)


def test_a_phase_that_is_listed_twice_is_refused_and_one_of_two_actions_is_not(tmp_path):
    assert tables(tmp_path, phases="a,x\nb,x\n").phases == {"a": ("x",), "b": ("x",)}
    with pytest.raises(UsageError, match=r"phases\.csv:4: phase 'x' of 'a' is listed twice"):
        tables(tmp_path, phases="a,x\na,y\na,x\n")


@pytest.mark.parametrize(
    ("action", "values", "wanted"),
    [
        ("", [0, -1, 5, 32767, 1, 1], None),
        ("turn", [0, -1, 1, 1, 1, 1], None),
        ("turn", [0, 2, 3, 1, 1, 1], "frame 1 has phase 2, wanted -1 to 1"),
        ("turn", [0, 0, 0, 0, -2, -3], "frame 4 has phase -2, wanted -1 to 1"),
        ("", [0, 0, -2, 0, 0, 0], "frame 2 has phase -2, wanted -1 to 32767"),
        ("", [0, 0, 32768, 0, 0, 0], "label 32768 of frame 2 of a"),
        ("", [[0], [1], [2], [3], [4], [5]], r"l\.npy is int64\(6, 1\), wanted whole numbers \(6,"),
        ("", [0, 1], r"l\.npy is int64\(2,\), wanted whole numbers \(6,"),
    ],
)
def test_a_file_of_labels_has_a_phase_of_the_action_for_each_frame(
    tmp_path, action, values, wanted
):
    found = tables(tmp_path, arrays=values, phases=PHASES)
    assert found.label_files == {tmp_path / "l.npy"}
    if wanted is None:
        assert found.labels("a", action, TIMES).tolist() == values
        return
    with pytest.raises(UsageError, match=rf"clips\.csv:2: .*{wanted}"):
        found.labels("a", action, TIMES)
