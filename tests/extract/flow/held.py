"""Processes that wait at a place until they are told to stop: their moment is no matter of speed.

A started process imports this module, so it imports no pytest, and no torch before it is used.
"""

import signal
import sys
import threading
import time

from tokenreel.extract.signals import STOP_SIGNALS, Stopping

LONGEST_SECONDS = 300.0  # far beyond any test: a process that is told nothing ends all the same


def told_to_stop() -> threading.Event:
    """An event that is set once a run of this process is told to stop."""
    told, stop = threading.Event(), Stopping.stop

    def tell(self, number):
        stop(self, number)
        told.set()

    Stopping.stop = tell
    return told


def hold_third_segment():
    """Let no clip go on to its third segment before the run is told to stop."""
    told = told_to_stop()

    def hold(event, words):
        if event == "open" and str(words[0]).endswith("/c/2/0/0"):
            told.wait(LONGEST_SECONDS)

    sys.addaudithook(hold)


def hold_new_store():
    """Let no store be made: a signal comes before."""

    def hold(event, words):
        if event == "os.mkdir" and "/.tmp-store-" in str(words[0]):
            time.sleep(LONGEST_SECONDS)

    sys.addaudithook(hold)


def extract_long_clip(pipe, manifest, config, store, options):
    """As `gpus._extract`, but the clip "long" is in work until the run is told to stop."""
    from tokenreel.extract.flow import gpus
    from tokenreel.extract.flow.commits import ClipCommits

    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # as in a process that is spawned
    told, write = told_to_stop(), ClipCommits.write

    def held(self, entry, *words, **named):
        if entry.clip.clip_id == "long":
            told.wait(LONGEST_SECONDS)
        write(self, entry, *words, **named)

    ClipCommits.write = held
    gpus._extract(pipe, manifest, config, store, options)
