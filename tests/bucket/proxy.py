"""A proxy between a store and its bucket: counts what passes, and does wrong where it is told."""

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>AKIDOFTESTS</Message></Error>"


class Proxy:
    """A proxy of HTTP that does something wrong to chosen requests.

    Attributes:
        fault: (number of the request, method, path) -> "" or what is wrong with its answer: a
            status, "cut" in the middle of the body, "slow", "lost" after the server did it, or
            "stale" for the listing that was given before.
        seen: faults so far.
        sent: (method, path, bytes of the body) of every answer so far.
    """

    def __init__(self, address: str) -> None:
        self.fault: Callable[[int, str, str], str] = lambda *_: ""
        self.seen: list[str] = []
        self.sent: list[tuple[str, str, int]] = []
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def forget_listings(self) -> None:
        """Give no listing of before now as a stale one."""
        self._listings.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
