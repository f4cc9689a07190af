"""Progress: plain lines in a log, nothing when it is switched off."""

import io
import sys

import pytest

from tokenreel.cache import progress
from tokenreel.cache.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_off_a_terminal_every_line_is_whole_and_has_no_carriage_return(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    for _ in Progress(range(3), desc="extract", unit="frame"):
        pass
    text = sys.stderr.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    assert "\n\n" not in text
    assert text.splitlines()[-1].startswith("extract: 3/3 frame, 100 %")


def test_a_short_job_writes_one_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress(desc="extract", unit="frame") as bar:
        bar.update(5)
        bar.set_postfix_str("2 failed", refresh=False)
    (line,) = sys.stderr.getvalue().splitlines()
    assert line.startswith("extract: 5 frame,")
    assert line.endswith("2 failed")


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_switched_off_it_writes_nothing(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(Progress(range(3), desc="embed", unit="clip", enabled=False)) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    list(Progress(range(3), desc="embed", unit="clip"))
    assert "\r" in sys.stderr.getvalue()


def test_off_a_terminal_a_line_is_written_every_half_minute_and_none_before_a_count(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress(desc="embed", unit="clip", total=200, initial=4) as bar:
        assert sys.stderr.getvalue() == ""
        for now, count in ((29.0, 1), (31.0, 100), (32.0, 1), (62.0, 1)):
            seconds[0] = now
            bar.update(count)
    lines = [line.split(",")[0] for line in sys.stderr.getvalue().splitlines()]
    assert lines == ["embed: 105/200 clip", "embed: 107/200 clip", "embed: 107/200 clip"]


def test_a_total_that_is_given_counts_and_not_the_length(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(Progress([7], desc="embed", unit="clip", total=4)) == [7]
    assert sys.stderr.getvalue().startswith("embed: 1/4 clip, 25 %")


class Buffered(io.StringIO):
    shown = ""

    def flush(self) -> None:
        self.shown = self.getvalue()


def test_a_line_is_flushed_when_it_is_written(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Buffered())
    with Progress(desc="embed", unit="clip") as bar:
        bar.update()
        bar.display()
        assert sys.stderr.shown.startswith("embed: 1 clip,")
        assert sys.stderr.shown.endswith("\n")
        bar.display("words")
        assert sys.stderr.shown.splitlines()[-1] == "words"
