"""Decode processes that hang, die or keep still: bodies that take the place of `worker.serve`.

A started process imports the module of its body, so this one imports no backbone and no pytest.
"""

import os
import resource
import signal
import time
from contextlib import suppress

from tokenreel.extract.decode_pool import worker

__all__ = ["beat_for_ever", "crash", "die_midway", "hang", "open_too_many_files", "tell_endpoint"]


def hang(pipe, ring):
    """A decoder that takes a job and never answers."""
    pipe.recv()
    time.sleep(60)


def crash(pipe, ring):
    """A decoder that dies in native code."""
    pipe.recv()
    os.kill(os.getpid(), 11)


def tell_endpoint(pipe, ring):
    """A process that says which server of S3 it would ask."""
    pipe.send(os.environ.get("AWS_ENDPOINT_URL"))


def beat_for_ever(pipe, ring):
    """A decoder on its way to a clip late in a long video: alive, and without a frame."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.recv()
    for _ in range(40):
        pipe.send(worker.Heartbeat())
        time.sleep(0.25)


def open_too_many_files(pipe, ring):
    """A decode process that may open no further file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    with suppress(OSError):
        while True:
            os.open("/dev/null", os.O_RDONLY)
    worker.serve(pipe, ring)


def die_midway(pipe, ring):
    """PyAV kills its process at frame 70 of a clip; decord does not."""
    whole = worker.fill_chunks

    def fatal(job, filler, alive):
        for number, is_full in enumerate(whole(job, filler, alive)):
            if job.decoder == "pyav" and number == 70:
                os.kill(os.getpid(), 11)
            yield is_full

    worker.fill_chunks = fatal
    worker.serve(pipe, ring)
