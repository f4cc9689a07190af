"""A client of an OpenAI-compatible endpoint: one question about one picture, one answer.

What goes wrong for a moment (no connection, a stall, 429, 500 to 504, half an answer, a page of
HTML) is tried again, later and later; what will not change (a wrong key, address or model, a
redirect to another host) ends the work.  The key is sent to the named host alone, and is in no
message, file or log.
"""

import base64
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import httpx

from tokenreel.cache.canonical import read_json
from tokenreel.cache.errors import TokenReelError, UsageError

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
FINAL = {  # for every clip: what to do
    401: "check OPENAI_API_KEY",
    403: "check OPENAI_API_KEY, and that it may use the model",
    404: "check --base-url, which often ends in /v1, and --model",
    405: "check --base-url, which often ends in /v1",
}
MOST_ANSWER_BYTES = 4 * 2**20
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
SHOWN = 200  # characters of an answer in a message


class NoAnswer(TokenReelError):
    """One question got no answer; others may."""


class OutOfRequests(TokenReelError):
    """The number of requests that may be sent is used up."""


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: without space around it.
        is_cut: whether it was ended by the greatest length.
    """

    text: str
    is_cut: bool


class Endpoint:
    """Asks one model, from any number of threads.

    Args:
        url: up to and with /v1; the key is not part of it.
        model: name of the model.
        key: sent as a bearer token; "" sends none.
        timeout_seconds: of one request, all in all.
        attempts: of one question.
        per_minute: most requests a minute; None: as many as threads can.
        most_requests: of all questions together; None: any number.
        most_tokens: of an answer.
        sleep: waits for seconds; None: as long, unless `stop` is called.
        seed: of the waiting times, which are random so that clients do not return together.

    Raises:
        UsageError: an address that is not http or https, or holds a key; or a key that would be
            sent unencrypted to another machine.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        *,
        timeout_seconds: float = 120.0,
        attempts: int = 6,
        per_minute: float | None = None,
        most_requests: int | None = None,
        most_tokens: int = 300,
        sleep: Callable[[float], object] | None = None,
        seed: int = 0,
    ) -> None:
        self._host = check_url(url, has_key=bool(key))
        self._url, self._model, self._key = url.rstrip("/"), model, key
        self._timeout, self._attempts, self._most_tokens = timeout_seconds, attempts, most_tokens
        self._interval = 60 / per_minute if per_minute else 0.0
        self._most_requests = most_requests
        self._stopped = threading.Event()
        self._sleep = sleep or self._stopped.wait
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._next_start = 0.0
        self.num_requests = 0
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(
            headers=headers, timeout=timeout_seconds, follow_redirects=False
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def stop(self) -> None:
        """Send nothing more: questions that wait for their next attempt get no answer."""
        self._stopped.set()

    def ask(self, question: str, jpeg: bytes) -> Answer:
        """The answer of the model to a question about a picture.

        Raises:
            NoAnswer: none came in all attempts, or the endpoint refuses this question.
            OutOfRequests: no more may be sent.
            UsageError: no question will be answered: a wrong key, address or model, or a redirect.
        """
        picture = base64.b64encode(jpeg).decode()
        url = {"url": f"data:image/jpeg;base64,{picture}"}
        content = [{"type": "text", "text": question}, {"type": "image_url", "image_url": url}]
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._most_tokens,
            "temperature": 0,
        }
        reason = ""
        for attempt in range(self._attempts):
            self._wait_for_start()
            if self._stopped.is_set():
                raise NoAnswer(f"stopped; the last attempt: {reason}" if reason else "stopped")
            wait = 0.0
            try:
                status, headers, data = self._post(body)
            except (httpx.TransportError, httpx.DecodingError) as error:
                reason = self._clean(f"{type(error).__name__}: {error}")
            else:
                if status == httpx.codes.OK:
                    try:
                        return _read_answer(data)
                    except ValueError as error:
                        reason = self._clean(f"{error}: {_shown(data)}")
                else:
                    reason = self._clean(f"status {status}: {_shown(data)}")
                    self._end_where_final(status, headers, reason)
                    wait = _retry_after(headers.get("retry-after", ""))
            if attempt + 1 < self._attempts:
                backoff = FIRST_WAIT_SECONDS * 2**attempt * (0.5 + self._random.random())
                wait = min(wait, LONGEST_RETRY_AFTER_SECONDS)
                self._sleep(max(wait, min(backoff, LONGEST_WAIT_SECONDS)))
        raise NoAnswer(f"no answer in {self._attempts} attempts; the last: {reason}")

    def _post(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and body of one request, in bounded time and memory."""
        until = time.monotonic() + self._timeout
        url = f"{self._url}/chat/completions"
        with self._client.stream("POST", url, json=body) as response:
            data = b""
            for part in response.iter_bytes():
                data += part
                if len(data) > MOST_ANSWER_BYTES:
                    raise httpx.ReadError(f"an answer of more than {MOST_ANSWER_BYTES} bytes")
                if time.monotonic() > until:
                    raise httpx.ReadTimeout(f"not complete after {self._timeout:g} s")
            return response.status_code, response.headers, data

    def _end_where_final(self, status: int, headers: httpx.Headers, reason: str) -> None:
        """Raise unless the same request may be answered later."""
        if 300 <= status < 400:
            there = urlsplit(headers.get("location", "")).hostname or self._host
            raise UsageError(
                f"{self._host} sends the request on to {there}, which is not followed, for it "
                "would take the pictures there: name that address by --base-url if you trust it"
            )
        if status in FINAL:
            raise UsageError(f"{self._host}: {reason}: {FINAL[status]}")
        if status not in AGAIN:
            raise NoAnswer(reason)

    def _wait_for_start(self) -> None:
        """Count a request, and wait until it may start."""
        with self._lock:
            if self._most_requests is not None and self.num_requests >= self._most_requests:
                raise OutOfRequests(f"{self._most_requests} requests are sent (--max-requests)")
            self.num_requests += 1
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._interval
        if start > now:
            self._sleep(start - now)

    def _clean(self, text: str) -> str:
        """A reason without the key, should the server repeat it."""
        return text.replace(self._key, "[key]") if self._key else text


def check_url(url: str, *, has_key: bool) -> str:
    """The host of an address.

    Raises:
        UsageError: see Endpoint.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(f"--base-url {url!r}: give an address such as https://HOST/v1")
    if parts.username or parts.password or parts.query:
        raise UsageError("--base-url holds a key or a query: give the key by OPENAI_API_KEY")
    if has_key and parts.scheme == "http" and not _is_this_machine(host):
        raise UsageError(
            f"--base-url {url}: OPENAI_API_KEY would be sent unencrypted to {host}: use https, or "
            "unset the key where the server needs none"
        )
    return host


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _read_answer(data: bytes) -> Answer:
    """The first choice of a chat completion.

    Raises:
        ValueError: anything else, or an empty text.
    """
    value = read_json(data)
    try:
        choice = value["choices"][0]
        text = choice["message"]["content"]
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("not a chat completion") from None
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an empty answer")
    return Answer(text.strip(), reason == "length")


def _shown(data: bytes) -> str:
    text = " ".join(data[: 4 * SHOWN].decode("utf-8", "replace").split())
    return text[:SHOWN] or "no text"


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header: a number, or a date; 0 where it is neither."""
    try:
        return max(float(value), 0.0) if float(value) < float("inf") else 0.0
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return 0.0
