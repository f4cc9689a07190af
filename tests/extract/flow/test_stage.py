"""Stages: in order, bounded, and an error ends the run without blocking anybody."""

import queue
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from tokenreel.extract.decode_pool.pool import Attempt, DecodedChunk
from tokenreel.extract.flow import stage as stages
from tokenreel.extract.flow.batching import Batcher
from tokenreel.extract.flow.stage import Stage, WriterThreads


def wait_until(happens, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_stage_processes_every_item_in_order():
    done = []
    with Stage("s", done.append, depth=2) as stage:
        for number in range(50):
            stage.put(number)
    assert done == list(range(50))


class SlowQueue(queue.Queue):
    """Each item comes three seconds after it is asked for, by a pretended clock."""

    def __init__(self, clock):
        super().__init__(2)
        self.clock = clock

    def get(self):
        item = super().get()
        self.clock[0] += 3.0
        return item


def test_a_stage_counts_the_seconds_of_its_work_and_of_waiting_between_items(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stages, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def work(seconds):
        now[0] += seconds

    stage = Stage("s", work, depth=2)
    stage._items = SlowQueue(now)
    with stage:
        for seconds in (5.0, 7.0, 11.0):
            stage.put(seconds)
    assert stage.busy_seconds == 5 + 7 + 11
    assert stage.idle_seconds == 2 * 3  # before the first item it is not idle


def test_put_waits_while_the_queue_is_full():
    gate, entered = threading.Event(), threading.Event()

    def work(_):
        entered.set()
        gate.wait()

    put = []

    def fill(stage):
        for number in range(5):
            stage.put(number)
            put.append(number)

    with Stage("s", work, depth=2) as stage:
        filler = threading.Thread(target=fill, args=(stage,))
        filler.start()
        try:
            entered.wait()
            wait_until(lambda: len(put) >= 3)
            time.sleep(0.05)
            assert put == [0, 1, 2]  # one in work, two waiting
        finally:
            gate.set()
            filler.join()
    assert put == [0, 1, 2, 3, 4]


def test_after_an_error_items_are_discarded_and_put_raises_the_error():
    discarded = []

    def work(number):
        if number == 1:
            raise OSError("disk full")

    def put_ten():
        with Stage("s", work, depth=1, discard=discarded.append) as stage:
            for number in range(10):
                stage.put(number)

    with pytest.raises(OSError, match="disk full"):
        put_ten()
    assert set(discarded) <= set(range(2, 10))
    assert discarded


def test_drop_discards_queued_items_and_finishes_the_current_one():
    gate, entered, done, discarded = threading.Event(), threading.Event(), [], []

    def work(number):
        entered.set()
        gate.wait()
        done.append(number)

    with Stage("s", work, depth=3, discard=discarded.append) as stage:
        for number in range(3):
            stage.put(number)
        entered.wait()
        stage.drop()
        gate.set()
    assert (done, discarded) == ([0], [1, 2])


def test_error_while_discarding_never_blocks_and_the_first_error_is_raised():
    def fail(number):
        raise OSError(f"device lost at {number}")

    def put_ten():
        with Stage("s", fail, depth=1, discard=fail) as stage:
            for number in range(10):
                stage.put(number)

    with pytest.raises(OSError, match="device lost at 0"):
        put_ten()


def test_writer_threads_keep_the_order_of_a_clip_and_call_done_after_each_task():
    done, followed = {0: [], 1: [], 2: []}, []
    with WriterThreads(2) as lanes:
        for number in range(30):
            position = number % 3
            lanes.put(
                position,
                lambda position=position, number=number: done[position].append(number),
                lambda: followed.append(1),
            )
    assert done == {position: list(range(position, 30, 3)) for position in range(3)}
    assert len(followed) == 30


def test_writer_thread_that_fails_still_calls_done():
    followed = []

    def fail():
        raise OSError("disk full")

    def put_six():
        with WriterThreads(1) as lanes:
            for _ in range(6):
                lanes.put(0, fail, lambda: followed.append(1))

    with pytest.raises(OSError, match="disk full"):
        put_six()
    assert followed


def test_items_that_wait_behind_one_that_fails_are_discarded():
    done, left = [], []

    def work(item):
        if item == 0:
            raise OSError("disk full")
        done.append(item)

    stage = Stage("s", work, depth=3, discard=left.append)
    for item in range(3):
        stage.put(item)
    with pytest.raises(OSError, match="disk full"), stage:
        pass
    assert (done, left) == ([], [1, 2])


def test_the_wait_for_the_first_item_is_no_idle_time():
    with Stage("s", lambda _: None, depth=1) as stage:
        time.sleep(0.05)
        stage.put(1)
    assert stage.idle_seconds == 0


def test_finish_looks_around_while_it_waits(monkeypatch):
    monkeypatch.setattr(stages, "TICK_SECONDS", 0.01)
    ticks, has_looked = [], threading.Event()

    def look_around():
        ticks.append(1)
        if len(ticks) > 3:
            has_looked.set()

    with Stage("s", lambda _: has_looked.wait(60), depth=1) as stage:
        stage.put(1)
        stage.finish(look_around)
    assert has_looked.is_set()


def test_writer_threads_tell_their_mean_and_follow_each_task_that_was_put():
    lanes, put, followed = WriterThreads(2), [], []
    for stage, seconds in zip(lanes._stages, (1.0, 2.0), strict=True):
        stage.busy_seconds = seconds
    assert lanes.busy_seconds == 1.5

    def fail():
        raise OSError("disk full")

    def put_all():
        with WriterThreads(1) as own:
            for number in range(6):
                put.append(number)
                own.put(0, fail, lambda: followed.append(1))

    with pytest.raises(OSError, match="disk full"):
        put_all()
    assert len(followed) == len(put)


def chunk(position, count, *, value=0, shape=(1, 3, 2, 2), frame_size=None):
    images = np.full((count, *shape), value, np.uint8)
    return DecodedChunk(
        attempt=Attempt(position, 1, "pyav"),
        images=images,
        frame_size=frame_size,
        skipped=0,
        pts=np.arange(count),
        index=np.arange(count),
        seconds=0.0,
        release=lambda: None,
    )


def batcher(**changes):
    options = {"batch_frames": 4, "buffer_bytes": 4 * 12, "mixes": True, "pins": False} | changes
    return Batcher(**options)


def layout(batch):
    return [(p.attempt.position, p.row, p.first, p.num_frames) for p in batch.pieces]


def test_batches_are_filled_across_clips():
    batches = batcher()
    assert list(batches.add(chunk(0, 3), first=0, wanted=slice(0, None))) == []
    (full,) = batches.add(chunk(1, 3, value=7), first=10, wanted=slice(0, None))
    assert layout(full) == [(0, 0, 0, 3), (1, 3, 10, 1)]
    assert full.buffer.numpy()[36:].tolist() == [7] * 12
    (rest,) = batches.rest()
    assert layout(rest) == [(1, 0, 11, 2)]


def test_without_mixing_each_frame_has_a_fixed_row_and_each_clip_its_batches():
    batches = batcher(mixes=False)
    assert list(batches.add(chunk(0, 3), first=0, wanted=slice(0, None))) == []
    (full,) = batches.add(chunk(1, 5), first=0, wanted=slice(0, None))
    assert layout(full) == [(1, 0, 0, 4)]
    (ended,) = batches.end(1)
    assert layout(ended) == [(1, 0, 4, 1)]
    batches.forget(0)
    assert list(batches.rest()) == []


def test_only_the_wanted_images_of_a_chunk_are_taken():
    batches = batcher()
    (full,) = batches.add(chunk(0, 8), first=5, wanted=slice(0, 6))
    assert layout(full) == [(0, 0, 5, 4)]
    assert [layout(batch) for batch in batches.rest()] == [[(0, 0, 9, 2)]]


def test_a_batch_of_large_windows_ends_when_its_buffer_is_full():
    batches = batcher(buffer_bytes=100)
    windows = chunk(0, 5, shape=(5, 3, 3), frame_size=(9, 9))  # 45 bytes each
    found = [*batches.add(windows, first=0, wanted=slice(0, None)), *batches.rest()]
    assert [layout(batch)[0][2:] for batch in found] == [(0, 2), (2, 2), (4, 1)]


def test_windows_are_whole_in_their_batch_and_buffers_filled_to_the_byte():
    batches = batcher(batch_frames=6, buffer_bytes=200, window_frames=2)
    windows = chunk(0, 8, shape=(5, 3, 3), frame_size=(9, 9))  # 45 bytes each: 4 in a buffer
    found = [*batches.add(windows, first=0, wanted=slice(0, None)), *batches.rest()]
    assert [layout(batch) for batch in found] == [[(0, 0, 0, 4)], [(0, 0, 4, 4)]]
    odd = batcher(batch_frames=6, buffer_bytes=230, window_frames=2)  # 5 would fit: 4 are taken
    found = [*odd.add(windows, first=0, wanted=slice(0, None)), *odd.rest()]
    assert [layout(batch) for batch in found] == [[(0, 0, 0, 4)], [(0, 0, 4, 4)]]


def test_a_batch_whose_buffer_is_full_is_given_at_once():
    batches = batcher(batch_frames=6, buffer_bytes=90)
    windows = chunk(0, 2, shape=(5, 3, 3), frame_size=(9, 9))
    [batch] = batches.add(windows, first=0, wanted=slice(0, None))
    assert layout(batch) == [(0, 0, 0, 2)]


def test_pieces_say_where_their_pixels_are_and_every_batch_is_given_in_the_end():
    batches = batcher(mixes=False)
    for position in (0, 1):
        given = chunk(position, 2, value=position + 1)
        assert list(batches.add(given, first=0, wanted=slice(0, None))) == []
    assert list(batches.add(chunk(0, 1, value=9), first=2, wanted=slice(0, None))) == []
    found = {batch.pieces[0].attempt.position: batch for batch in batches.rest()}
    assert [(piece.row, piece.offset) for piece in found[0].pieces] == [(0, 0), (2, 24)]
    assert found[0].buffer[:36].tolist() == [1] * 24 + [9] * 12
    assert found[1].buffer[:24].tolist() == [2] * 24


def test_a_forgotten_batch_gives_its_buffer_back_and_shared_batches_are_kept():
    batches = batcher(mixes=False)
    list(batches.add(chunk(0, 1), first=0, wanted=slice(0, None)))
    buffer = batches._open[0].buffer
    batches.forget(0)
    list(batches.add(chunk(1, 1), first=0, wanted=slice(0, None)))
    [batch] = batches.rest()
    assert batch.buffer is buffer
    shared = batcher()
    list(shared.add(chunk(0, 1), first=0, wanted=slice(0, None)))
    assert list(shared.end(-1)) == []
    shared.forget(-1)
    assert [layout(batch) for batch in shared.rest()] == [[(0, 0, 0, 1)]]


def test_released_buffers_are_reused():
    batches = batcher()
    (first,) = batches.add(chunk(0, 4), first=0, wanted=slice(0, None))
    batches.release(first)
    (second,) = batches.add(chunk(0, 4), first=4, wanted=slice(0, None))
    assert second.buffer is first.buffer
    (third,) = batches.add(chunk(0, 4), first=8, wanted=slice(0, None))
    assert third.buffer is not second.buffer
