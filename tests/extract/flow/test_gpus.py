"""Processes of `--gpus`: a run that is stopped or fails, with processes that a test plays."""

import multiprocessing
import signal
from types import SimpleNamespace

import pytest

from tests.cache import stores
from tests.extract.extraction import CONFIG
from tokenreel.cache.errors import ClipFailed, MachineError, TokenReelError, UsageError
from tokenreel.cache.manifest import Clip, Manifest
from tokenreel.cache.write.store_writer import StoreWriter
from tokenreel.extract.flow import gpus
from tokenreel.extract.flow.gpus import extract_on_gpus
from tokenreel.extract.report import ExtractReport

CLIPS = tuple(Clip(name, f"{name}.mp4") for name in "abcd")


class Children:
    """Processes that send what they are given, and more once they are terminated.

    Attributes:
        first: messages of each before it is terminated.
        last: of each when it is.
        codes: exit status of each.
        ended: numbers of those that were terminated.
    """

    def __init__(self, first, last, codes=(0, 0)):
        self.first, self.last, self.codes, self.ended = first, last, codes, []
        self.options = []

    def start(self, device, manifest, config, store, options):
        number = len(self.options)
        self.options.append(options)
        ours, theirs = multiprocessing.Pipe()

        def terminate():
            self.ended.append(number)
            for message in self.last[number]:
                theirs.send(message)
            theirs.close()

        for message in self.first[number]:
            theirs.send(message)
        if self.last[number] is None:
            theirs.close()
        process = SimpleNamespace(
            terminate=terminate, join=lambda: None, exitcode=self.codes[number]
        )
        return gpus._Child(device, process, ours)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run processes that are played, in a store that has the clip a."""
    store = stores.make_store(tmp_path / "store")
    with StoreWriter(store, writer_id="w") as writer:
        stores.write_clip(writer, "a", frames=8)
    manifest = Manifest("toy", tmp_path, CLIPS)
    monkeypatch.setattr(gpus, "find_changes", lambda *_, **__: "changes")

    def play(children, number=0, **options):
        def receive(found):
            if number and not play.sent:
                play.sent = True
                signal.raise_signal(number)
            real(found)

        real, play.sent = gpus._receive, False
        monkeypatch.setattr(gpus, "_start", children.start)
        monkeypatch.setattr(gpus, "_receive", receive)
        config = CONFIG.model_copy(update={"max_failures": 1})
        return extract_on_gpus(("cuda:0", "cuda:1"), manifest, config, store, progress=False)

    return play


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_ends_every_process_once_and_their_reports_are_merged(run, number, status):
    first = [[ExtractReport(num_clips=4, committed=["b"])], [ExtractReport(num_clips=4)]]
    last = [
        [ExtractReport(num_clips=4, committed=["b"], skipped=["a", "c"])],
        [ExtractReport(num_clips=4, skipped=["a"]), MachineError("out of memory")],
    ]
    children = Children(first, last)
    report = run(children, number)
    assert children.ended == [0, 1]
    assert (report.committed, report.skipped) == (["b"], ["a"]), "nobody has c"
    assert (report.signal, report.exit_status, report.num_missing) == (number, status, 2)
    assert [o["share"] for o in children.options] == [(0, 2), (1, 2)]
    assert {o["processes"] for o in children.options} == {2}
    assert {o["changes"] for o in children.options} == {"changes"}


def test_too_many_failures_of_all_processes_end_them(run):
    failed = [ClipFailed(name, stage="decode", reason="no") for name in "bc"]
    first = [[ExtractReport(failed=failed[:1])], [ExtractReport(failed=failed[1:])]]
    children = Children(first, [[], []])
    with pytest.raises(TokenReelError, match="2 clips failed, more than max_failures=1"):
        run(children)
    assert sorted(children.ended) == [0, 1]


def test_a_process_that_is_killed_is_told_and_the_others_end_their_work(run):
    children = Children([[], [ExtractReport()]], [None, None], codes=(-9, 0))
    with pytest.raises(TokenReelError, match=r"the process of cuda:0(?s:.*)rerun to resume"):
        run(children)
    assert children.ended == []


def test_an_error_that_a_process_sent_is_not_hidden_by_its_end(run):
    children = Children([[UsageError("no weights")], []], [None, None], codes=(2, 0))
    with pytest.raises(UsageError, match="no weights"):
        run(children)
