"""What HTTP status codes and Retry-After mean, and Basic authentication."""

import email.utils
import socket
import time

import pytest

from benchmarkai.daemon.backends.base import Rejected, Unavailable
from benchmarkai.daemon.backends.http import Client, basic_auth, error_for, retry_after
from benchmarkai.daemon.redaction import protect, redact


def date_in(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_success_is_no_error(status):
    assert error_for(status, "OK", {"Retry-After": "10"}) is None


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_bad_request_is_rejected(status):
    error = error_for(status, "the line is bad", {"Retry-After": "10"})
    assert type(error) is Rejected
    assert str(error) == f"HTTP {status}: the line is bad"


@pytest.mark.parametrize(
    "status", [300, 301, 302, 304, 307, 401, 403, 404, 405, 408, 409, 429, 500, 502, 503, 504, 599]
)
@pytest.mark.parametrize("headers, seconds", [(None, None), ({}, None), ({"Retry-After": "7"}, 7)])
def test_any_other_error_is_worth_a_retry(status, headers, seconds):
    error = error_for(status, "not now", headers)
    assert type(error) is Unavailable
    assert str(error) == f"HTTP {status}: not now"
    assert error.retry_after == seconds


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize(
    "reason, text",
    [
        ("", ""),
        ("<html>\r\n\t<title> No </title>\n", "<html> <title> No </title>"),
        ("x" * 301, "x" * 300),
        (ValueError("bad\nvalue"), "bad value"),
        (None, "None"),
    ],
)
def test_the_reason_is_one_short_line(status, reason, text):
    assert str(error_for(status, reason)) == f"HTTP {status}: {text}"


def test_a_secret_is_not_in_the_reason_not_even_the_beginning_of_it():
    protect("qw  ertz")
    assert str(error_for(400, "no qw  ertz")) == "HTTP 400: no ***"
    assert str(error_for(401, "x" * 298 + "qw  ertz")) == f"HTTP 401: {'x' * 298}**"


@pytest.mark.parametrize(
    "user, password, value",
    [
        ("me", "qwertz", "Basic bWU6cXdlcnR6"),
        ("me", "", "Basic bWU6"),
        ("me", None, "Basic bWU6"),
        ("me", "a:b", "Basic bWU6YTpi"),
        ("test", "123\xa3", "Basic dGVzdDoxMjPCow=="),  # the example of RFC 7617, 2.1
    ],
)
def test_basic_authentication_is_in_utf_8_and_protected(user, password, value):
    assert basic_auth(user, password) == value
    assert redact(f"'Authorization': '{value}'") == "'Authorization': 'Basic ***'"


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        (" 7 ", 7),
        ("-5", 0),
        ("3600", 3600),
        ("3601", 3600),
        ("1e400", 3600),
        ("inf", 3600),
        ("9" * 5000, 3600),
        ("-inf", 0),
        ("nan", None),
        ("-NaN", None),
        ("", None),
        ("soon", None),
        ("7 s", None),
        ("1, 2", None),
        ("\u0667", 7),  # a digit to Python
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 99 Dec 2026 23:59:59 GMT", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_a_number_of_seconds_between_zero_and_an_hour(value, seconds):
    assert retry_after({"Retry-After": value}) == seconds
    assert error_for(503, "", {"Retry-After": value}).retry_after == seconds


def test_retry_after_may_be_a_date():
    assert 95 < retry_after({"Retry-After": date_in(100)}) <= 100
    assert retry_after({"Retry-After": date_in(-100)}) == 0
    assert retry_after({"Retry-After": date_in(10000)}) == 3600


@pytest.mark.parametrize("headers", [None, {}, {"Retry-After": None}, {"Date": "7"}])
def test_without_the_header_there_is_no_retry_after(headers):
    assert retry_after(headers) is None


def test_a_server_that_is_down_is_reported_in_the_words_of_the_system():
    pytest.importorskip("urllib3")
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = "http://%s:%s" % nobody_listens.getsockname()
        with pytest.raises(Unavailable) as caught:
            Client(url).post("/", b"", "text/plain")
    assert str(caught.value) == f"{url}: Connection refused"
