"""Slots and buffers of the engine: each is given back once, when the last piece is done."""

import numpy as np
import pytest
import torch

from tests.extract.extraction import CONFIG
from tokenreel.extract.encode.identity import build_identity
from tokenreel.extract.flow.batching import Batch, Piece
from tokenreel.extract.flow.devices import machine_for
from tokenreel.extract.flow.engine import SLOTS, Engine, _Countdown, _Running


@pytest.mark.parametrize("count", [1, 3])
def test_a_countdown_calls_once_at_its_last_call(count):
    called = []
    down = _Countdown(count, lambda: called.append(1))
    for number in range(1, count + 1):
        down()
        assert len(called) == (number == count)


@pytest.fixture
def parts():
    emitted, released = [], []
    engine = Engine(
        machine_for(CONFIG),
        None,
        None,
        build_identity(CONFIG),
        emit=emitted.append,
        release=released.append,
    )
    pixels = np.zeros((5, 1, 3, 32, 32), np.uint8)
    pieces = [
        Piece(None, first, first, pixels[first:stop], None, 0) for first, stop in ((0, 2), (2, 5))
    ]
    batch = Batch(torch.zeros(1, dtype=torch.uint8), pieces, 5)
    return engine, _Running(batch, slot=engine._slots.get()), emitted, released


def test_a_slot_is_free_when_the_last_piece_of_its_batch_is_done(parts):
    engine, running, emitted, released = parts
    engine._copy(running)
    assert released == [running.batch]
    assert [rows.piece for rows in emitted] == running.batch.pieces
    assert [rows.rows for rows in emitted] == [slice(0, 2), slice(2, 5)]
    for rows, free in zip(emitted, (SLOTS - 1, SLOTS), strict=True):
        rows.done()
        assert engine._slots.qsize() == free


def test_a_batch_that_is_abandoned_gives_back_its_slot_and_its_buffer(parts):
    engine, running, emitted, released = parts
    engine._abandon(running)
    assert (emitted, released, engine._slots.qsize()) == ([], [running.batch], SLOTS)
