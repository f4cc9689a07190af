"""One question to an endpoint that misbehaves in every way an endpoint does."""

import email.utils
import socket
import time
from types import SimpleNamespace

import pytest

from tests.extract.texts.server import Script, completion, send, serve, stall
from tokenreel.cache.errors import UsageError
from tokenreel.extract.texts import endpoint as endpoint_module
from tokenreel.extract.texts.endpoint import Endpoint, NoAnswer, OutOfRequests, check_url

KEY = "sk-secret"
TRANSIENT = {
    "429": send(b"slow down", 429),
    "500": send(b"oops", 500),
    "503": send(b"", 503),
    "a page of HTML": send(b"<html>Welcome</html>", kind="text/html"),
    "nonsense": send(b'{"choices": []}'),
    "a list": send(b"[]"),
    "an answer that is no text": completion(["a"]),
    "an empty answer": completion("  "),
    "half an answer": send(b'{"choices": [{"mess', length=500),
    "JSON that is cut": send(b'{"choices": [{"mess'),
    "half of a surrogate pair": send(b'{"choices": [{"message": {"content": "\\ud800"}}]}'),
    "an endless answer": send(b" " * (5 * 2**20)),
}


def ask(script, answers=6, **options):
    slept = []
    options = {
        "key": KEY,
        "timeout_seconds": 120,
        "attempts": answers,
        "sleep": slept.append,
    } | options
    endpoint = Endpoint(script.url, "m", **options)
    try:
        return endpoint.ask("what?", b"jpeg"), slept, endpoint
    finally:
        endpoint.close()


def test_a_question_is_one_chat_completion_with_the_picture_and_the_key():
    with serve(completion(" pours tea\n")) as script:
        answer, slept, _ = ask(script)
    assert (answer.text, answer.is_cut, slept) == ("pours tea", False, [])
    assert script.keys == [f"Bearer {KEY}"]
    body = script.bodies[0]
    text, image = body["messages"][0]["content"]
    assert (body["model"], body["temperature"], text["text"]) == ("m", 0, "what?")
    assert image["image_url"]["url"] == "data:image/jpeg;base64,anBlZw=="


def test_without_a_key_none_is_sent():
    with serve() as script:
        ask(script, key="")
    assert script.keys == [None]


@pytest.mark.parametrize("answer", TRANSIENT.values(), ids=TRANSIENT)
def test_what_is_wrong_for_a_moment_is_tried_again_later_and_later(answer):
    with serve(answer, answer, completion("fine at last")) as script:
        found, slept, endpoint = ask(script)
    assert found.text == "fine at last"
    assert endpoint.num_requests == 3
    assert 0.5 <= slept[0] <= 1.5
    assert 1 <= slept[1] <= 3


@pytest.mark.parametrize("between", [None, 0.05], ids=["silent", "trickling"])
def test_a_stall_ends_at_the_time_limit_of_a_request(between):
    answer = stall(120, between)
    with serve(answer) as script:
        started = time.monotonic()
        found, _, _ = ask(script, answers=100, timeout_seconds=0.3)
        assert 0.3 < time.monotonic() - started < 100, "left long before the server ends"
        wait_for(lambda: answer.was_left == 1)
    assert found.text == "fine"


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_is_gone_is_no_answer_after_all_attempts():
    with socket.socket() as port:  # bound, so that nobody else answers there
        port.bind(("127.0.0.1", 0))
        gone = Script(url=f"http://127.0.0.1:{port.getsockname()[1]}/v1")
        with pytest.raises(NoAnswer, match=r"no answer in 3 attempts; the last: ConnectError"):
            ask(gone, answers=3)


def test_a_wait_that_the_server_names_is_kept_as_a_number_or_a_date():
    date = email.utils.formatdate(time.time() + 90, usegmt=True)
    with serve(send(b"", 429, Retry_After="7"), send(b"", 503, Retry_After=date)) as script:
        _, slept, _ = ask(script)
    assert slept[0] == 7
    assert 60 < slept[1] <= 90


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "soon"])
def test_a_wait_that_means_nothing_is_the_usual_one(value):
    with serve(send(b"", 429, Retry_After=value)) as script:
        _, slept, _ = ask(script)
    assert 0.5 <= slept[0] <= 1.5


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "check OPENAI_API_KEY"), (403, "may use the model"), (404, "ends in /v1"), (405, "/v1")],
)
def test_what_will_not_change_ends_the_work_and_never_shows_the_key(status, advice):
    wrong = send(f"Incorrect key: {KEY}".encode(), status)
    with serve(wrong) as script, pytest.raises(UsageError) as error:
        ask(script)
    assert advice in str(error.value)
    assert "[key]" in str(error.value)
    assert KEY not in str(error.value)
    assert len(script.bodies) == 1


def test_a_question_that_is_refused_is_not_repeated():
    refused = pytest.raises(NoAnswer, match="status 400: image too large")
    with serve(send(b"image too large", 400)) as script, refused:
        ask(script)
    assert len(script.bodies) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status):
    with serve() as elsewhere, serve(send(b"", status, Location=elsewhere.url + "/x")) as script:
        with pytest.raises(UsageError, match=r"sends the request on to 127\.0\.0\.1"):
            ask(script)
        assert elsewhere.bodies == []


def test_no_more_requests_are_sent_than_allowed_repeats_counted():
    used_up = pytest.raises(OutOfRequests, match="2 requests are sent")
    with serve(send(b"", 500), send(b"", 500)) as script, used_up:
        ask(script, most_requests=2)
    assert len(script.bodies) == 2


def test_requests_start_at_the_rate_that_is_given(monkeypatch):
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(endpoint_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with serve() as script:
        endpoint = Endpoint(script.url, "m", per_minute=60, sleep=sleep)
        for late in (0.0, 0.25, 5.0, 0.0):
            now[0] += late
            endpoint.ask("what?", b"")
        endpoint.close()
    assert slept == [0.75, 1.0]  # the third came late by itself


def test_a_stopped_endpoint_sends_nothing():
    with serve() as script:
        endpoint = Endpoint(script.url, "m")
        endpoint.stop()
        with pytest.raises(NoAnswer, match="stopped"):
            endpoint.ask("what?", b"")
        endpoint.close()
    assert script.bodies == []


def test_an_answer_at_the_greatest_length_is_marked():
    with serve(completion("and then", "length")) as script:
        assert ask(script)[0].is_cut


@pytest.mark.parametrize(
    ("url", "has_key", "reason"),
    [
        ("ftp://host/v1", False, "https://HOST/v1"),
        ("host/v1", False, "https://HOST/v1"),
        ("https://", False, "https://HOST/v1"),
        ("https://me:word@host/v1", False, "holds a key"),
        ("https://host/v1?api_key=1", False, "holds a key or a query"),
        ("http://node7:8000/v1", True, "unencrypted to node7"),
        ("http://10.0.0.7/v1", True, "unencrypted"),
    ],
)
def test_addresses_that_are_refused(url, has_key, reason):
    with pytest.raises(UsageError, match=reason):
        check_url(url, has_key=has_key)


@pytest.mark.parametrize(
    ("url", "has_key"),
    [
        ("https://host/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://node7:8000/v1", False),
    ],
)
def test_addresses_that_are_taken(url, has_key):
    assert check_url(url, has_key=has_key)
