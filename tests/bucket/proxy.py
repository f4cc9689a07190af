"""A proxy between a store and its bucket: counts what passes, and does wrong where it is told."""

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>AKIDOFTESTS</Message></Error>"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections at once; more than 5 would wait for a second


class Proxy:
    """A proxy of HTTP that does something wrong to chosen requests.

    Attributes:
        fault: (number of the request, method, path) -> "" or what is wrong with its answer: a
            status, "cut" in the middle of the body, "slow" beyond the patience of who asks, "held"
            until `free` is set, "lost" after the server did it, or "stale" for the listing that
            was given before.
        free: set to let go of answers that are held.
        seen: faults so far.
        sent: (method, path, bytes of the body) of every answer so far.
    """

    def __init__(self, address: str) -> None:
        self.fault: Callable[[int, str, str], str] = lambda *_: ""
        self.free = threading.Event()
        self.seen: list[str] = []
        self.sent: list[tuple[str, str, int]] = []
        self._count, self._listings = 0, {}
        self._every: tuple[int, str] | None = None
        self._lock, target = threading.Lock(), urlsplit(address)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy._lock:
                    span = self.headers.get("Range", "")
                    kind = proxy._next_fault(self.command, self.path, span)
                    proxy.seen += [kind] if kind else []
                if kind.isdigit():
                    self.answer(int(kind), {}, SLOW_DOWN)
                    return
                if kind == "slow":
                    with suppress(OSError):
                        self.connection.recv(1, socket.MSG_PEEK)  # until it is closed over there
                if kind == "held":
                    proxy.free.wait()
                there = http.client.HTTPConnection(target.hostname, target.port)
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
                proxy.sent.append((self.command, urlsplit(self.path).path, len(body)))
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

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail_every(self, count: int, kind: str) -> None:
        """Do wrong to every n-th request, but not to the same one twice: a retry is enough."""
        self._every, self._passed, self._spared = (count, kind), 0, set()

    def heal(self) -> None:
        """Do nothing wrong from now on."""
        self.fault, self._every = lambda *_: "", None

    def _next_fault(self, method: str, path: str, span: str) -> str:
        self._count += 1
        if self._every is None:
            return self.fault(self._count, method, path)
        self._passed += 1
        if (method, path, span) in self._spared:
            self._spared.remove((method, path, span))
        elif self._passed >= self._every[0]:
            self._passed = 0
            self._spared.add((method, path, span))
            return self._every[1]
        return ""

    def forget_listings(self) -> None:
        """Give no listing of before now as a stale one."""
        self._listings.clear()

    def close(self) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()
