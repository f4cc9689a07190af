"""Signals that stop a run: which is counted, what a second one does, what children see."""

import signal

import pytest

from tokenreel.extract.signals import STOP_SIGNALS, Stopping, blocked_in_children, stop_on_signals


def handlers():
    return {number: signal.getsignal(number) for number in STOP_SIGNALS}


def test_the_first_signal_is_the_one_that_ends_a_run():
    stopping = Stopping()
    assert (stopping.signal, stopping.is_overdue) == (0, False)
    stopping.stop(signal.SIGUSR1)
    stopping.stop(signal.SIGINT)
    assert (stopping.signal, stopping.is_overdue) == (signal.SIGUSR1, False)


@pytest.mark.parametrize(
    ("number", "ends_at_once"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, True),
        (signal.SIGUSR1, False),
        (signal.SIGUSR2, False),
    ],
)
def test_only_ctrl_c_and_sigterm_end_the_process_when_they_come_again(number, ends_at_once, caplog):
    before = handlers()
    with stop_on_signals() as stopping:
        signal.raise_signal(number)
        assert stopping.event.is_set()
        assert stopping.signal == number
        assert (signal.getsignal(number) == signal.SIG_DFL) == ends_at_once
    assert ("send it again to end at once" in caplog.text) == ends_at_once
    assert handlers() == before


def test_of_the_signals_that_come_while_children_start_the_first_is_answered_afterwards():
    seen, before = [], handlers()
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    try:
        for number in numbers:
            signal.signal(number, lambda number, _: seen.append(number))
        with blocked_in_children(*numbers):
            assert set(numbers) <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
            for number in numbers:
                signal.raise_signal(number)
            assert seen == []
        assert seen == [signal.SIGUSR1]
        assert not set(numbers) & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        for number in numbers:
            signal.signal(number, before[number])
