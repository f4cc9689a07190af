"""A bucket of S3 on this machine: moto, one process for all tests."""

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket.proxy import Proxy
from tokenreel.cache.bucket import objects

START_SECONDS = 60
_numbers = itertools.count()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server."""
    pytest.importorskip("moto")
    address = f"http://127.0.0.1:{(port := free_port())}"
    environment = {key: value for key, value in os.environ.items() if key[:4] != "AWS_"}
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server of S3 has ended"
                assert time.monotonic() < deadline, "no server of S3"
                time.sleep(0.05)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def credentials(monkeypatch, tmp_path) -> None:
    """Credentials of nobody, a cache of this test, and waits that are short."""
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        monkeypatch.delenv(key)
    for key, value in {
        "AWS_ACCESS_KEY_ID": "AKIDOFTESTS",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_REGION": "us-east-1",
        "TOKENREEL_CACHE_DIR": str(tmp_path / "cache"),
        "TOKENREEL_CACHE_BYTES": "1G",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(objects, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(objects, "MOST_SECONDS", 0.05)
    monkeypatch.setattr(objects, "RETRIES", 4)
    objects.forget_clients()
    yield
    objects.forget_clients()


@pytest.fixture
def s3(s3_address, credentials, monkeypatch) -> str:
    """The URL of an empty bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    name = f"bucket-{next(_numbers)}"
    request = urllib.request.Request(f"{s3_address}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{name}"


@pytest.fixture
def proxy(s3, s3_address, monkeypatch):
    made = Proxy(s3_address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
    monkeypatch.setattr(objects, "ANSWER_SECONDS", 1.0)
    objects.forget_clients()
    yield made
    made.close()


@pytest.fixture
def upload(s3):
    """Copy a folder into the bucket, and give its URL."""
    import obstore

    def copy(folder: Path, name: str = "store") -> str:
        _, client = objects._client_of("s3", s3.removeprefix("s3://"))
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                where = f"{name}/{file.relative_to(folder).as_posix()}"
                obstore.put(client, where, file.read_bytes())
        return f"{s3}/{name}"

    return copy


@pytest.fixture
def memory(credentials) -> str:
    """The URL of an empty bucket in the memory of this process."""
    store = pytest.importorskip("obstore.store")
    objects._clients["gs", "memory"] = store.MemoryStore()
    return "gs://memory"
