"""The local server of `tokenreel explore`: read-only, for one person on this machine.

A request is answered only if
- it is GET or HEAD,
- its path begins with the token that the command printed,
- its Host is this server's loopback address, so no name of another site leads here, and
- its Origin, where a browser sends one, is this server, and so is Sec-Fetch-Site.
Files come from one list; texts travel as JSON and are never markup; the page may load nothing from
elsewhere (Content-Security-Policy).
"""

import json
import secrets
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import ClipNotFound, TokenReelError, UsageError
from tokenreel.pipeline.explore.frames import FramesUnseen
from tokenreel.pipeline.explore.views import Explorer, parse_clicks

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
FILES = {  # of the page, with their kinds
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    **dict.fromkeys(
        ("main.js", "api.js", "state.js", "canvas.js", "lists.js", "charts.js"),
        "text/javascript; charset=utf-8",
    ),
}


def make_app(explorer: Explorer, *, token: str, port: int) -> ASGIApp:
    """The application.

    Args:
        explorer: what is shown.
        token: first part of every path.
        port: of the server, for the check of Host and Origin.
    """
    routes = [
        Route("/", _file_of("index.html")),
        *(Route(f"/{name}", _file_of(name)) for name in FILES),
        Route("/api/store", _answer(lambda _: explorer.describe())),
        Route("/api/clips", _answer(lambda q: _clips(explorer, q))),
        Route("/api/clip", _answer(lambda q: explorer.clip(q.text("clip")))),
        Route("/api/overlay", _answer(lambda q: _overlay(explorer, q))),
        Route("/api/along", _answer(lambda q: _along(explorer, q))),
        Route("/api/similar", _similar(explorer)),
        Route(
            "/api/near", _answer(lambda q: _run(explorer, q).near(q.text("clip"), q.int("frame")))
        ),
        Route("/api/phases", _answer(lambda q: _run(explorer, q).phases(q.text("clip")))),
        Route(
            "/api/align",
            _answer(lambda q: _run(explorer, q).align(q.text("clip"), q.text("other"))),
        ),
        Route(
            "/api/attention",
            _answer(lambda q: _run(explorer, q).attention(q.text("clip"), q.int("frame"))),
        ),
        Route("/frame", _frame(explorer)),
    ]
    return Guard(Starlette(routes=routes), token=token, port=port)


class Guard:
    """Refuses what is not this person's own browser, and sets the headers of every answer.

    Args:
        app: that answers the rest.
        token: first part of every path.
        port: of the server.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # a socket is not opened

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal:
            await refusal(scope, receive, send_with_headers)
            return
        prefix = b"/" + self._token
        inner = scope["path"][len(prefix) :]
        await self._app({**scope, "path": inner, "raw_path": b""}, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", b"sec-fetch-site"):
                return PlainTextResponse(f"{name.decode()} is given twice", 400)
            headers[name] = value
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("nothing can be changed here", 405)
        host = headers.get(b"host", b"").decode("latin-1")
        if host not in self._hosts:
            return PlainTextResponse("this is not the address of this server", 421)
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") != f"http://{host}":
            return PlainTextResponse("another site asks: refused", 403)
        site = headers.get(b"sec-fetch-site", b"none")
        if site not in (b"same-origin", b"none"):
            return PlainTextResponse("another site asks: refused", 403)
        given = scope["path"].split("/")[1].encode("utf-8", "replace")
        if not secrets.compare_digest(given, self._token):
            return PlainTextResponse("open the address that the command printed", 404)
        return None


class Query:
    """The words of a request."""

    def __init__(self, request: Request) -> None:
        self._words = request.query_params

    def text(self, name: str, default: str | None = None) -> str:
        """A word; UsageError where it is missing and has no default."""
        value = self._words.get(name, default)
        if value is None:
            raise UsageError(f"{name} is missing")
        return str(value)

    def int(self, name: str, default: int | None = None) -> int:
        """A whole number; UsageError for another word."""
        text = self.text(name, None if default is None else str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise UsageError(f"{name}={text!r} is not a whole number")
        return int(text)

    def clicks(self) -> list[Any]:
        """The clicks."""
        try:
            value = read_json(self.text("clicks"))
        except ValueError as error:
            raise UsageError(f"clicks are not JSON: {error}") from error
        return parse_clicks(value)

    def has(self, name: str) -> bool:
        """Whether a word is given."""
        return name in self._words


def _clips(explorer: Explorer, query: Query) -> Any:
    return explorer.clips(
        split=query.text("split", ""),
        action=query.text("action") if query.has("action") else None,
        phase=query.text("phase", ""),
        text=query.text("text", ""),
        offset=query.int("offset", 0),
    )


def _overlay(explorer: Explorer, query: Query) -> Any:
    return explorer.overlay(
        query.text("clip"),
        kind=query.text("kind"),
        block=query.int("block"),
        view=query.int("view", 0),
        first=query.int("first"),
        count=query.int("count", 1),
    )


def _along(explorer: Explorer, query: Query) -> Any:
    return explorer.along(
        query.text("clip"), query.clicks(), block=query.int("block"), view=query.int("view", 0)
    )


def _run(explorer: Explorer, query: Query) -> Any:
    number = query.int("run")
    if number >= len(explorer.runs):
        raise UsageError(f"run {number}: the explorer was started with {len(explorer.runs)}")
    return explorer.runs[number]


def _answer(make: Callable[[Query], Any]) -> Callable[[Request], Response]:
    """An endpoint of JSON; an error of ours is {"error": sentence}."""

    def endpoint(request: Request) -> Response:
        try:
            return _json(make(Query(request)))
        except TokenReelError as error:
            return _json({"error": str(error)}, _status(error))

    return endpoint


def _similar(explorer: Explorer) -> Callable[[Request], Response]:
    """An endpoint of lines of JSON: answers that grow better."""

    def endpoint(request: Request) -> Response:
        query = Query(request)
        try:
            answers = explorer.similar(
                query.text("clip"),
                query.clicks(),
                block=query.int("block"),
                view=query.int("view", 0),
            )
            first = next(answers)
        except TokenReelError as error:
            return _json({"error": str(error)}, _status(error))

        def lines() -> Iterator[bytes]:
            yield _line(first)
            try:
                yield from map(_line, answers)
            except TokenReelError as error:
                yield _line({"error": str(error)})

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return endpoint


def _frame(explorer: Explorer) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        query = Query(request)
        try:
            data = explorer.frames.jpeg(
                query.text("clip"), query.int("frame"), view=query.int("view", 0)
            )
        except TokenReelError as error:
            return _json({"error": str(error)}, _status(error))
        return Response(data, media_type="image/jpeg")

    return endpoint


def _file_of(name: str) -> Callable[[Request], Response]:
    def endpoint(_: Request) -> Response:
        data = (resources.files(__package__) / "page" / name).read_bytes()
        return Response(data, headers={"content-type": FILES[name]})

    return endpoint


def _status(error: TokenReelError) -> int:
    return 404 if isinstance(error, ClipNotFound | FramesUnseen | UsageError) else 500


def _line(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _json(value: Any, status: int = 200) -> Response:
    return Response(_line(value), status, media_type="application/json")
