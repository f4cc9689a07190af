"""A bucket of S3 on this machine: moto, one process for all tests."""

import itertools
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bucket.proxy import Proxy
from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket import path as paths

SERVER = """
import sys
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
handler = MotoRequestHandler
server = make_server(
    "127.0.0.1", 0, app, threaded=True, request_handler=handler, fd=int(sys.argv[1])
)
server.serve_forever()
"""
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the machine uses
_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server, whose port is taken before it starts and is never free."""
    pytest.importorskip("moto")
    environment = {key: value for key, value in os.environ.items() if key[:4] != "AWS_"}
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(listening.fileno())],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment | {"MOTO_PORT": str(port)},
            pass_fds=[listening.fileno()],
        )
    address = f"http://127.0.0.1:{port}"
    try:
        DIRECT.open(f"{address}/moto-api/").close()  # waits; refused where the server has ended
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens to, and that nobody else can have meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def credentials(monkeypatch, tmp_path) -> None:
    """Credentials of nobody, a cache of this test, and waits that are short."""
    for key in [key for key in os.environ if key[:4] == "AWS_" or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    for key, value in {
        "AWS_ACCESS_KEY_ID": "AKIDOFTESTS",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "no profiles"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no profiles"),
        "TOKENREEL_CACHE_DIR": str(tmp_path / "cache"),
        "TOKENREEL_CACHE_BYTES": "1G",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(objects, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(objects, "MOST_SECONDS", 0.05)
    monkeypatch.setattr(objects, "RETRIES", 4)
    objects.forget_clients()
    paths._blocks.clear()  # buckets in memory have equal names and tags
    yield
    objects.forget_clients()


@pytest.fixture
def s3(s3_address, credentials, monkeypatch) -> str:
    """The URL of an empty bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_address)
    name = f"bucket-{next(_numbers)}"
    request = urllib.request.Request(f"{s3_address}/{name}", method="PUT")
    DIRECT.open(request).close()
    return f"s3://{name}"


@pytest.fixture
def proxy(s3, s3_address, monkeypatch):
    made = Proxy(s3_address)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.address)
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
