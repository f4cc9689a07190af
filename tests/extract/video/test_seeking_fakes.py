"""Seeks in a container of packets made by hand: where they land, what is refused afterwards."""

from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tokenreel.extract.video import seeking
from tokenreel.extract.video.seeking import PacketIndex, Untrusted
from tokenreel.extract.video.types import VideoError, VideoInfo

PATH = Path("a.mp4")
INFO = VideoInfo(80, 48, "h264", Fraction(1, 100), 0, 0.8, False, Fraction(10), "mp4", 8)
TIMES = [0, 10, 20, 30, 40, 50, 60, 70]
KEYS = (0, 2, 4, 6)
PLACES = [1000 + time for time in TIMES]


class Packet(SimpleNamespace):
    def decode(self):
        return self.frames


def packet(pts, **other):
    """A packet with its frame, at the place in the file that the index has."""
    frame = SimpleNamespace(pts=pts, time_base=Fraction(1, 100), is_corrupt=False)
    held = {"pts": pts, "dts": pts, "size": 9, "pos": None if pts is None else 1000 + pts}
    held |= {"is_keyframe": pts in (0, 20, 40, 60), "is_discard": False, "is_corrupt": False}
    return Packet(**(held | {"frames": [frame]} | other))


END = {"dts": None, "size": 0, "pos": None, "frames": []}  # the packet that ends a stream


class Container:
    """Packets, and for each time that is sought the number of the packet where the seek lands."""

    def __init__(self, packets, lands=None):
        self.packets, self.lands = packets, lands or {}
        self.sought, self.first = [], 0

    def seek(self, ticks, *, stream, backward, any_frame):
        assert (stream, backward, any_frame) == ("stream", True, False)
        self.sought.append(ticks)
        self.first = self.lands.get(ticks, TIMES.index(ticks))

    def demux(self, stream):
        assert stream == "stream"
        return iter(self.packets[self.first :])


@pytest.fixture
def index():
    times = np.array(TIMES, np.int64)
    return PacketIndex(times, np.array(PLACES, np.int64), times, KEYS, (0, 20, 40, 60))


def show(monkeypatch, container):
    """Every file is this container; a frame is its number and its time."""

    @contextmanager
    def opened(path, file=None):
        yield container, "stream"

    watch = SimpleNamespace(check_container=lambda number: None)
    monkeypatch.setattr(seeking, "opened", opened)
    monkeypatch.setattr(seeking, "DamageWatch", lambda *_: watch)
    monkeypatch.setattr(seeking, "DisplayMatrix", lambda: SimpleNamespace(of=lambda frame: None))
    monkeypatch.setattr(seeking, "frame_of", lambda frame, number, ticks, *_: (number, ticks))


def whole(**replaced):
    """All packets, those named by `at_TIME` replaced, and the end."""
    held = [replaced.get(f"at_{time}", packet(time)) for time in TIMES]
    return [*held, packet(None, **END)]


def read(index, key):
    return list(seeking._read_from_key(PATH, INFO, index, key))


def test_frames_from_a_key_on_have_their_numbers(monkeypatch, index):
    show(monkeypatch, Container(whole()))
    assert read(index, 2) == [(4, 40), (5, 50), (6, 60), (7, 70)]


def test_a_seek_that_lands_at_an_earlier_key_is_read_from_there(monkeypatch, index):
    container = Container(whole(), {60: 4})
    show(monkeypatch, container)
    assert read(index, 3) == [(4, 40), (5, 50), (6, 60), (7, 70)]
    assert container.sought == [60]


def test_a_seek_that_lands_behind_its_key_is_tried_from_the_key_before(monkeypatch, index):
    container = Container(whole(), {40: 6})
    show(monkeypatch, container)
    assert read(index, 2) == [(number, 10 * number) for number in range(2, 8)]
    assert container.sought == [40, 20]


@pytest.mark.parametrize("place", [1041, None])
def test_a_packet_at_another_place_of_the_file_is_not_the_key_of_its_time(
    monkeypatch, index, place
):
    container = Container(whole(at_40=packet(40, pos=place)))
    show(monkeypatch, container)
    assert read(index, 2)[0] == (2, 20)
    assert container.sought == [40, 20]


@pytest.mark.parametrize(
    ("key", "tries", "sought"),
    [(3, 3, [60, 40, 20]), (3, 1, [60]), (1, 3, [20, 0]), (3, 4, [60, 40, 20, 0])],
)
def test_a_seek_is_tried_from_a_few_keys_and_none_before_the_first(index, key, tries, sought):
    container = Container(whole(), dict.fromkeys(TIMES, 5))
    with pytest.raises(Untrusted, match="a seek does not land on its key frame"):
        seeking._land(container, "stream", index, key, tries)
    assert container.sought == sought


def test_a_seek_behind_the_last_packet_is_no_landing(index):
    container = Container(whole(), dict.fromkeys(TIMES, 99))
    with pytest.raises(Untrusted, match="a seek does not land on its key frame"):
        seeking._land(container, "stream", index, 1, 1)


def test_a_corrupt_frame_after_a_seek_ends_it_by_its_number(monkeypatch, index):
    bad = packet(50)
    bad.frames[0].is_corrupt = True
    show(monkeypatch, Container(whole(at_50=bad)))
    frames = seeking._read_from_key(PATH, INFO, index, 2)
    assert next(frames) == (4, 40)
    with pytest.raises(Untrusted, match=r"^frame 5 is marked corrupt"):
        next(frames)


def test_a_frame_that_is_lost_at_the_end_ends_a_seek(monkeypatch, index):
    show(monkeypatch, Container(whole(at_70=packet(70, frames=[]))))
    with pytest.raises(Untrusted, match=r"^7 frames of 8 packets"):
        read(index, 2)


def test_a_scan_has_the_packets_and_the_keys(monkeypatch, index):
    show(monkeypatch, Container(whole(at_30=packet(30, pos=None))))
    found = seeking.scan_packets(PATH)
    assert (found.pts.tolist(), found.shown.tolist()) == (TIMES, TIMES)
    assert found.place.tolist() == [1000, 1010, 1020, -1, 1040, 1050, 1060, 1070]
    assert (found.keys, found.first_pts) == (index.keys, index.first_pts)


def test_a_corrupt_packet_ends_a_scan_by_its_number(monkeypatch):
    show(monkeypatch, Container(whole(at_30=packet(30, is_corrupt=True))))
    with pytest.raises(VideoError, match=r"^packet 3 is marked corrupt"):
        seeking.scan_packets(PATH)


def test_a_packet_without_a_time_is_no_ground_for_seeks(monkeypatch):
    show(monkeypatch, Container(whole(at_30=packet(None, dts=30))))
    with pytest.raises(Untrusted, match=r"^packet 3 has no time"):
        seeking.scan_packets(PATH)


def test_a_stream_without_packets_is_no_ground_for_seeks(monkeypatch):
    show(monkeypatch, Container([packet(None, **END)]))
    with pytest.raises(Untrusted, match=r"^no packets"):
        seeking.scan_packets(PATH)
