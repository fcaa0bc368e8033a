"""The fixtures for the tests with real servers."""

import pytest

from tests.daemon.backends.servers import AWS_CREDENTIALS, Moto, Proxy


@pytest.fixture
def start_server(tmp_path):
    """A function that starts a server of a class: start_server(InfluxDB)."""
    started = []

    def call(kind, *arguments):
        if kind is not Proxy:
            folder = tmp_path / f"server{len(started)}"
            folder.mkdir()
            arguments = (folder, *arguments)
        started.append(kind(*arguments))
        return started[-1]

    yield call
    for server in reversed(started):
        server.stop()


@pytest.fixture
def cloudwatch(start_server, monkeypatch):
    """A stand-in for CloudWatch, to which all clients of AWS turn."""
    server = start_server(Moto)
    for name, value in AWS_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return server
