"""Faults between a store and its bucket: refused, slow, cut and stale answers change no byte."""

import http.client
import importlib.util
import logging
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.local_cache import BYTES
from tokenreel.cache.bucket.path import store_path
from tokenreel.cache.errors import MachineError
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

_spec = importlib.util.spec_from_file_location(
    "stores", Path(__file__).parents[1] / "cache" / "stores.py"
)
stores = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(stores)

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>AKIDOFTESTS</Message></Error>"


class Proxy:
    """A proxy of HTTP that does something wrong to chosen requests.

    Attributes:
        fault: (number of the request, method, path) -> "" or what is wrong with its answer: a
            status, "cut" in the middle of the body, "slow", "lost" after the server did it, or
            "stale" for the listing that was given before.
        seen: faults so far.
    """

    def __init__(self, address: str) -> None:
        self.fault: Callable[[int, str, str], str] = lambda *_: ""
        self.seen: list[str] = []
        self._count, self._listings = 0, {}
        self._lock, target = threading.Lock(), urlsplit(address)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy._lock:
                    proxy._count += 1
                    kind = proxy.fault(proxy._count, self.command, self.path)
                    proxy.seen += [kind] if kind else []
                if kind.isdigit():
                    self.answer(int(kind), {}, SLOW_DOWN)
                    return
                if kind == "slow":
                    time.sleep(1.5)
                there = http.client.HTTPConnection(target.hostname, target.port, timeout=30)
                there.request(self.command, self.path, data, dict(self.headers))
                found = there.getresponse()
                body, headers = found.read(), dict(found.getheaders())
                there.close()
                if "list-type" in self.path:
                    old = proxy._listings.setdefault(self.path, body)
                    body = old if kind == "stale" else body
                if kind == "lost":
                    self.close_connection = True
                    return
                self.answer(found.status, headers, body, cut=kind == "cut")

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do  # noqa: N815

            def answer(self, status, headers, body, *, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else len(body)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.close_connection = True

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def proxy(s3, s3_address, monkeypatch):
    made = Proxy(s3_address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.0)
    objects.forget_clients()
    yield made
    made.close()


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    path = stores.make_store(tmp_path_factory.mktemp("local") / "s")
    with StoreWriter(path, writer_id="w") as writer:
        stores.write_clip(writer, "a", 70)
    return path


def tokens_of(path) -> list[bytes]:
    store = open_store(path)
    tokens = store.read("a")
    return [tokens.codes[block].tobytes() for block in (1, 3)] + [store.labels("a").tobytes()]


@pytest.mark.parametrize("kind", ["503", "500", "cut", "lost", "slow"])
def test_reads_survive_faults(proxy, upload, local, monkeypatch, kind):
    url = upload(local)
    monkeypatch.setenv(BYTES, "0")
    every = 40 if kind == "slow" else 4
    proxy.fault = lambda number, method, path: kind if number % every == 0 else ""
    assert tokens_of(url) == tokens_of(local)
    assert proxy.seen.count(kind) >= 2 or kind == "slow"


@pytest.mark.parametrize("kind", ["503", "cut", "lost"])
def test_writes_survive_faults_and_are_done_once(proxy, s3, local, kind):
    url = stores.make_store(f"{s3}/store")
    proxy.fault = lambda number, method, path: kind if number % 5 == 0 else ""
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 70)
    assert len(proxy.seen) > 5
    proxy.fault = lambda *_: ""
    assert diff_stores(url, local) == []
    assert verify_store(url, deep=True).problems == ()
    assert not list((url / "claims").iterdir())


def test_a_stale_listing_shows_fewer_clips_and_never_a_wrong_one(proxy, s3):
    url = stores.make_store(f"{s3}/store")
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a", 5)
    assert list(open_store(url).records) == ["a"]
    with StoreWriter(url, writer_id="w") as writer:
        stores.write_clip(writer, "a2", 5)
        proxy.fault = lambda number, method, path: "stale" if "list-type" in path else ""
        assert writer.is_committed("a2")  # a look at the object itself
    old = open_store(url)
    assert set(old.records) <= {"a", "a2"}
    assert all(len(old.read(name).codes[1]) == 5 for name in old.records)
    proxy.fault = lambda *_: ""
    assert list(open_store(url).records) == ["a", "a2"]


def test_a_service_that_stays_away_is_a_fault_of_the_machine(proxy, upload, local, caplog):
    url = upload(local)
    store = open_store(url)
    proxy.fault = lambda *_: "503"
    with caplog.at_level(logging.DEBUG), pytest.raises(MachineError) as caught:
        store.read("a")
    assert "503" in str(caught.value)
    assert "damaged" not in str(caught.value)
    for text in (str(caught.value), repr(caught.value.__cause__), caplog.text):
        assert "AKIDOFTESTS" not in text
        assert "secret-of-tests" not in text
    proxy.fault = lambda *_: ""
    assert len(store.read("a").codes[1]) == 70


def test_a_refused_key_is_said_without_the_key(proxy, upload, local):
    url = upload(local)
    proxy.fault = lambda *_: "403"
    with pytest.raises(MachineError, match="credentials are refused or have expired") as caught:
        open_store(url)
    assert "AKIDOFTESTS" not in str(caught.value)
    assert caught.value.__cause__ is None or "AKID" not in repr(caught.value.__cause__)


def test_an_answer_to_a_commit_that_is_lost_is_no_lost_commit(proxy, s3):
    url = store_path(stores.make_store(f"{s3}/store"))
    proxy.fault = lambda number, method, path: (
        "lost" if method == "PUT" and path.endswith("/zarr.json") and number % 2 else ""
    )
    with StoreWriter(url, writer_id="w") as writer:
        record = stores.write_clip(writer, "a", 5)
    assert record.num_frames == 5
    store = open_store(url)
    assert np.array_equal(store.labels("a"), np.arange(5) % 2)
