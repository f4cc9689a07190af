"""A small server of S3 over a folder: answers after some milliseconds, at so many bytes a second.

It knows what a reader of stores asks for: GET with and without ranges, HEAD, and listings.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 2**16  # bytes that are sent at once
DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


class Link:
    """A link of some bytes a second that all answers share."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate, self._free, self._lock = bytes_per_second, 0.0, threading.Lock()

    def wait(self, num_bytes: int) -> None:
        """Wait until the bytes have gone through."""
        with self._lock:
            self._free = max(self._free, time.monotonic()) + num_bytes / self._rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


def serve(folder: str, latency_seconds: float, bytes_per_second: float, pipe: Connection) -> None:
    """Serve the folder as a bucket of any name; the port goes into the pipe."""
    root, link = Path(folder), Link(bytes_per_second)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = 2**16

        def do_GET(self) -> None:
            time.sleep(latency_seconds)
            split = urlsplit(self.path)
            _, _, key = unquote(split.path).lstrip("/").partition("/")
            if not key:
                self._send(200, listing(root, parse_qs(split.query, keep_blank_values=True)))
                return
            path = root / key
            if not path.is_file():
                self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            size = path.stat().st_size
            first, stop = 0, size
            if given := self.headers.get("Range"):
                start, _, last = given.removeprefix("bytes=").partition("-")
                if start:
                    first, stop = int(start), min(int(last) + 1, size) if last else size
                else:
                    first = max(0, size - int(last))
            data = b""
            if self.command == "GET":
                with path.open("rb") as file:
                    file.seek(first)
                    data = file.read(stop - first)
            status = 206 if given else 200
            self._send(status, data, stop - first, f"bytes {first}-{stop - 1}/{size}")

        do_HEAD = do_GET  # noqa: N815

        def _send(
            self, status: int, data: bytes, length: int | None = None, where: str = ""
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data) if length is None else length))
            self.send_header("Last-Modified", DATE)
            self.send_header("ETag", '"1"')
            if status == 206:
                self.send_header("Content-Range", where)
            self.end_headers()
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                link.wait(len(piece))
                self.wfile.write(piece)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    pipe.send(server.server_port)
    server.serve_forever()


def listing(root: Path, query: dict[str, list[str]]) -> bytes:
    """The answer to ListObjectsV2, in one page."""
    prefix = query.get("prefix", [""])[0]
    keys = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    keys = [key for key in keys if key.startswith(prefix)]
    folders: list[str] = []
    if query.get("delimiter"):
        inner = [key.removeprefix(prefix) for key in keys]
        folders = sorted({f"{prefix}{key.partition('/')[0]}/" for key in inner if "/" in key})
        keys = [key for key in keys if "/" not in key.removeprefix(prefix)]
    objects = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f'<ETag>"1"</ETag><Size>{(root / key).stat().st_size}</Size></Contents>'
        for key in keys
    )
    common = "".join(
        f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>" for name in folders
    )
    text = (
        f"<ListBucketResult><Name>b</Name><Prefix>{prefix}</Prefix>"
        f"<KeyCount>{len(keys)}</KeyCount>"
        f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{objects}{common}"
        "</ListBucketResult>"
    )
    return text.encode()
