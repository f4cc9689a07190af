"""An endpoint on this machine that answers as a script says."""

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Script:
    """What a server answers, and what it was asked."""

    answers: list[Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


def completion(text, reason="stop"):
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return send(json.dumps({"choices": [choice]}).encode())


def send(data, status=200, kind="application/json", length=None, **headers):
    """Answer with these bytes; a `length` that is larger breaks off in the middle."""

    def answer(request):
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(length or len(data)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)
        if length:
            request.wfile.flush()
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True

    return answer


def stall(seconds, between=None):
    """Say nothing for so long; with `between`, a byte now and then.  Ends when the client leaves.

    The function that it returns has an attribute `was_left`: how often the client left first.
    """

    def answer(request):
        request.send_response(200)
        request.send_header("Content-Length", "100000")
        request.end_headers()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                if between:
                    request.wfile.write(b" ")
                    request.wfile.flush()
                if _has_left(request.connection, between or 0.02):
                    answer.was_left += 1
                    break
        except OSError:
            answer.was_left += 1
        request.close_connection = True

    answer.was_left = 0
    return answer


def _has_left(connection, seconds):
    """Whether the client closes its connection within some seconds."""
    readable, _, _ = select.select([connection], [], [], seconds)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


@contextmanager
def serve(*answers) -> Iterator[Script]:
    """The answers in their order, then "fine" for ever."""
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                script.bodies.append(body)
                script.keys.append(self.headers.get("Authorization"))
                answer = script.answers.pop(0) if script.answers else completion("fine")
            answer(self)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
