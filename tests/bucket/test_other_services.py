"""A store on az://, written, verified and read once, where azurite is installed."""

import os
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cache import stores
from tests.ports import free_port
from tokenreel.cache.bucket import objects
from tokenreel.cache.bucket.local_cache import FOLDER
from tokenreel.cache.read.store_reader import open_store
from tokenreel.cache.tools.maintenance import diff_stores
from tokenreel.cache.tools.verify import verify_store
from tokenreel.cache.write.store_writer import StoreWriter

ACCOUNT = "devstoreaccount1"
KEY = (  # azurite's own, which is in its documentation
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def run_server(command: list[str], port: int, folder: Path) -> subprocess.Popen:
    with (folder / "server.txt").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, (folder / "server.txt").read_text()
        with suppress(OSError):
            with suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
            return server
        time.sleep(0.1)
    server.kill()
    raise AssertionError("no server")


def write_verify_and_read(url: str, here: Path) -> None:
    stores.make_store(url)
    stores.make_store(here)
    for path in (url, here):
        with StoreWriter(path, writer_id="w") as writer:
            stores.write_clip(writer, "a", 70)
    assert verify_store(url, deep=True).problems == ()
    assert diff_stores(url, here) == []
    assert list(open_store(url).records) == ["a"]


@pytest.mark.slow
def test_a_store_on_az_is_written_verified_and_read(tmp_path, monkeypatch):
    azurite = os.environ.get("TOKENREEL_AZURITE") or shutil.which("azurite-blob")
    if not azurite:
        pytest.skip("npm install azurite, and name its azurite-blob in TOKENREEL_AZURITE")
    port = free_port()
    command = [azurite, "--inMemoryPersistence", "--blobPort", str(port), "--skipApiVersionCheck"]
    server = run_server(command, port, tmp_path)
    try:
        for name, value in {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{ACCOUNT}",
            FOLDER: str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        objects.forget_clients()
        _make_container(port, "tests")
        write_verify_and_read("az://tests/store", tmp_path / "here")
    finally:
        server.kill()
        server.wait()
        objects.forget_clients()


def _make_container(port: int, name: str) -> None:
    """Create a container, by a request signed with the account's key."""
    import base64
    import hashlib
    import hmac
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-08-06"
    text = (
        f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/{ACCOUNT}/{name}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        },
    )
    urllib.request.urlopen(request).close()
