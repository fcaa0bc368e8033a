"""Users, passwords and tokens: they reach the server, and nothing else."""

import base64
import os
import re

import pytest

from tests.daemon.backends.servers import Proxy
from tests.daemon.harness import PATH, run_daemon
from tests.helpers import BAI_EMIT, ROOT, run

# The arguments of the backends with users, before the URL.
ARGUMENTS = {
    "influxdb": ["influxdb", "--database", "benchmarks", "--url"],
    "prometheus": ["prometheus", "--gateway"],
    "elasticsearch": ["elasticsearch", "--url"],
    "opensearch": ["opensearch", "--url"],
}
PASSWORD = "pä€ \\:'x"
BASIC = "Basic " + base64.b64encode(f"größe:{PASSWORD}".encode()).decode()


@pytest.fixture
def send(tmp_path, start_server):
    """A function that sends a metric to a server that rejects all credentials."""

    def call(name, *arguments, body=b"", cwd=None, stdin=None, **env):
        proxy = start_server(Proxy, None, lambda number: (401, {}, body))
        arguments = [*ARGUMENTS[name], proxy.url, *arguments]
        options = ["--spool", str(tmp_path / "spool"), "--log-level", "debug"]
        command = ["--shutdown-timeout", "0.5", "--", BAI_EMIT, "a=1"]
        result = run_daemon(*arguments, *options, *command, env=env, cwd=cwd, stdin=stdin)
        assert result.code == 1
        return proxy, result.err

    return call


@pytest.mark.parametrize("name", ARGUMENTS)
def test_basic_authentication_is_in_utf_8(name, send):
    proxy, logged = send(name, "--user", "größe", BAI_DAEMON_PASSWORD=PASSWORD)
    assert proxy.authorizations
    assert set(proxy.authorizations) == {BASIC}
    assert "HTTP 401" in logged


@pytest.mark.parametrize(
    "name, variable, scheme",
    [("influxdb", "BAI_DAEMON_TOKEN", "Token"), ("elasticsearch", "BAI_DAEMON_API_KEY", "ApiKey")],
)
def test_a_token_is_sent_as_it_is(name, variable, scheme, send):
    proxy, _ = send(name, **{variable: "qwertz=="})
    assert set(proxy.authorizations) == {scheme + " qwertz=="}


def test_a_user_and_an_api_key_are_a_usage_error():
    arguments = [*ARGUMENTS["elasticsearch"], "http://localhost", "--user", "me", "--", "true"]
    result = run_daemon(*arguments, env={"BAI_DAEMON_API_KEY": "qwertz"})
    assert (result.code, result.out) == (2, "")
    assert "give either a user or another way to authenticate, not both" in result.err


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_secret_that_the_server_sends_back_is_not_logged(name, send):
    body = f"x {PASSWORD} {BASIC} x".encode()
    _, logged = send(name, "--user", "größe", body=body, BAI_DAEMON_PASSWORD=PASSWORD)
    assert "cannot deliver: " in logged
    assert "***" in logged
    for secret in (PASSWORD, repr(PASSWORD)[1:-1], "\\xe2\\x82\\xac", BASIC):
        assert secret not in logged


def test_what_a_client_says_about_its_options_does_not_show_a_secret(tmp_path):
    (tmp_path / "urllib3.py").write_text(
        "class Timeout:\n"
        "    def __init__(self, **options): pass\n"
        "class ProxyManager:\n"
        "    def __init__(self, *arguments, **options): raise ValueError(repr(options))\n"
        "class exceptions:\n"
        "    ProxySchemeUnknown = KeyError\n"
    )
    env = {
        "HTTP_PROXY": "http://me:qwertz@127.0.0.1:1",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), ROOT]),
    }
    result = run_daemon(*ARGUMENTS["elasticsearch"], "http://h:1", "--", "true", env=env)
    assert (result.code, result.out) == (2, "")
    assert "'proxy-authorization': 'Basic ***'" in result.err


@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_line_in_the_log_sends_what_is_kept_with_the_same_secret(way, send, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "token").write_text("qwertz")
    if way == "option":
        proxy, logged = send("influxdb", "--token-file", "token", cwd=folder)
    else:
        proxy, logged = send("influxdb", cwd=folder, BAI_DAEMON_TOKEN_FILE="./token")
    proxy.fault = lambda number: (204, {})
    (line,) = re.findall("send with: (.*)", logged)
    assert f" --token-file '{folder}/token' " in line
    result = run(["sh", "-c", line], env={"PATH": PATH}, cwd="/")
    assert result.code == 0, result.err
    assert "delivered 1" in result.err
    assert set(proxy.authorizations) == {"Token qwertz"}


def test_the_line_in_the_log_has_no_secret_that_was_in_a_variable(send):
    proxy, logged = send("influxdb", BAI_DAEMON_TOKEN="qwertz")
    proxy.fault = lambda number: (204, {})
    (line,) = re.findall("send with: (.*)", logged)
    assert "token" not in line
    result = run(["sh", "-c", line], env={"PATH": PATH, "BAI_DAEMON_TOKEN": "qwertz"})
    assert result.code == 0, result.err
    assert set(proxy.authorizations) == {"Token qwertz"}


def test_a_secret_from_stdin_is_read_from_there_again(send):
    proxy, logged = send("influxdb", "--token-file", "-", stdin=b"qwertz\n")
    proxy.fault = lambda number: (204, {})
    (line,) = re.findall("send with: (.*)", logged)
    assert " --token-file - " in line
    result = run(["sh", "-c", line], env={"PATH": PATH}, stdin=b"qwertz\n")
    assert result.code == 0, result.err
    assert set(proxy.authorizations) == {"Token qwertz"}
