"""One table of exit statuses: the code's, the README's, and what each fault of a machine gives."""

import errno
import logging
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tokenreel.cache import errors
from tokenreel.cache.errors import (
    STATUSES,
    ClipFailed,
    EmbeddingFileError,
    MachineError,
    StoreError,
    TokenReelError,
    UnreadableFile,
    UsageError,
    machine_error,
    process_lost,
)
from tokenreel.pipeline.cli.console import new_app, run_app

README = Path(__file__).parents[2] / "README.md"


def kinds(parent=TokenReelError):
    yield parent
    for child in parent.__subclasses__():
        if child.__module__.startswith("tokenreel"):
            yield from kinds(child)


def test_the_table_of_the_readme_is_that_of_the_code():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", README.read_text(), re.MULTILINE)
    assert {int(number): text for number, text in rows} == STATUSES


def test_what_a_service_does_is_the_machine_s_and_no_file_s_fault():
    error = errors.ServiceError(errno.EPROTO, "the service refused the request (400)", "s3://b/k")
    wrapped = ValueError("is damaged")
    wrapped.__cause__ = error
    for found in (errors.machine_error(error), errors.limit_behind(wrapped)):
        assert (str(found), found.exit_status) == (
            "s3://b/k: the service refused the request (400)",
            6,
        )


def test_every_error_ends_a_command_with_a_status_of_the_table():
    assert {kind.exit_status for kind in kinds()} <= STATUSES.keys()
    tree = dict(re.findall(r"(\w+) +(\d)(?: |$)", errors.__doc__, re.MULTILINE))
    assert {kind.__name__: str(kind.exit_status) for kind in kinds()} | tree == {
        kind.__name__: str(kind.exit_status) for kind in kinds()
    }
    assert {kind.__name__ for kind in vars(errors).values() if isinstance(kind, type)} - {
        "partial",
        "Path",
        "ServiceError",  # an OSError
    } == tree.keys()
    assert (errors.INTERRUPTED, errors.TERMINATED) == (128 + signal.SIGINT, 128 + signal.SIGTERM)


MACHINE = ["ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM"]
MACHINE += ["EAGAIN", "EIO", "ESTALE", "ETIMEDOUT"]


@pytest.fixture(autouse=True)
def same_level():
    """run_app sets the level of the log, as a program's first lines do."""
    ours = logging.getLogger("tokenreel")
    level = ours.level
    yield
    ours.setLevel(level)


def status_of(error: BaseException, capsys) -> tuple[int, str]:
    """Exit status and message of a command that raises an error."""
    app = new_app("test")

    @app.command()
    def fail() -> None:
        raise error

    with patch("sys.argv", ["test"]), pytest.raises(SystemExit) as end:
        run_app(app)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("name", MACHINE)
def test_what_the_machine_lacks_is_its_fault_not_the_stores(name, capsys):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "results/a.csv")
    found = machine_error(error)
    assert isinstance(found, StoreError)
    assert found.exit_status == 6
    assert str(found).startswith(f"results/a.csv: {error.strerror}; ")
    assert status_of(error, capsys) == (6, f"error: {found}\n")


@pytest.mark.parametrize("name", ["ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP"])
def test_a_wrong_path_is_the_users(name, capsys):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)), "a.csv")
    assert machine_error(error) is None
    assert status_of(error, capsys)[0] == UsageError.exit_status == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "error: not enough memory; "),
        (MemoryError("Unable to allocate 60 GiB"), "not enough memory: Unable to allocate 60 GiB"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), "not enough memory: CUDA out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "not enough memory: ",
        ),
        (
            RuntimeError("can't start new thread"),
            "too many threads or processes, or no memory for one (see ulimit -u and -v)",
        ),
    ],
)
def test_too_little_memory_and_too_many_threads_end_with_6(error, words, capsys):
    status, printed = status_of(error, capsys)
    assert (status, words in printed) == (6, True), printed


@pytest.mark.parametrize(("exit_code", "status"), [(-9, 6), (-11, 3), (1, 3), (None, 3)])
def test_only_a_process_that_was_killed_is_the_machines(exit_code, status):
    assert process_lost("a process", exit_code, "rerun").exit_status == status


COMMAND = """
import os, signal, sys, time
from tokenreel.pipeline.cli.console import new_app, run_app

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run aside
app = new_app("test")

@app.command()
def end(how: str) -> None:
    if how.isdigit():
        sys.exit(int(how))
    if how == "waits":
        print("ready", flush=True)
        while True:  # signal.pause() would miss a signal that comes just before it
            time.sleep(0.05)
    getattr(os, how)()

run_app(app)
"""


def start_limited(how):
    """A command whose memory is limited, as by ulimit -v."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32)),
    )


@pytest.mark.parametrize("how", ["0", "3", "abort"])
def test_a_library_that_aborts_where_memory_is_limited_ends_with_6_and_a_sentence(how):
    command = start_limited(how)
    _, printed = command.communicate(timeout=600)
    wanted = int(how) if how.isdigit() else 6
    assert command.returncode == wanted, printed
    words = (
        "error: a library ended this command (SIGABRT), perhaps for lack of memory: ulimit -v is "
        "4194304; allow more and rerun the same command to resume\n"
    )
    assert printed == ("" if how.isdigit() else words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_whose_memory_is_limited_is_stopped_as_any_other(number):
    command = start_limited("waits")
    assert command.stdout.readline() == "ready\n"
    command.send_signal(number)
    command.communicate(timeout=600)
    assert command.returncode == 128 + number


def test_any_other_error_is_ours_and_is_not_hidden():
    app = new_app("test")

    @app.command()
    def fail() -> None:
        raise RuntimeError("a fault")

    with patch("sys.argv", ["test"]), pytest.raises(RuntimeError, match="a fault"):
        run_app(app)


def test_a_disk_without_inodes_is_said_to_lack_them(tmp_path, monkeypatch):
    error = OSError(errno.ENOSPC, "No space left on device", tmp_path / "absent/a.csv")
    real = os.statvfs(tmp_path)
    for free, files, lacks in [(9, 0, True), (0, 9, False), (0, 0, False), (9, 9, False)]:
        values = [*real[:4], free, 100, files, files, *real[8:]]
        monkeypatch.setattr(os, "statvfs", lambda _, values=values: os.statvfs_result(values))
        assert ("no inodes are left" in str(machine_error(error))) == lacks


def test_an_embedding_file_that_may_not_be_read_is_both():
    assert issubclass(UnreadableFile, EmbeddingFileError)
    assert issubclass(UnreadableFile, MachineError)
    assert UnreadableFile.exit_status == 6
    assert ClipFailed("a", stage="read", reason="b").exit_status == 3
