"""The fixtures for the tests of the daemon, which needs Python 3.9 or newer."""

import os
import sys

import pytest

# Older versions, which read this file too, cannot even parse the tests.
collect_ignore_glob = [] if sys.version_info >= (3, 9) else ["*"]

for variable in list(os.environ):
    if variable.startswith("BAI_DAEMON_"):
        del os.environ[variable]


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """The folders that daemons create for their pipes are in the folder of the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(autouse=True)
def no_secrets(monkeypatch):
    """No secret of another test is left out of what this one logs."""
    from benchmarkai.daemon import redaction

    monkeypatch.setattr(redaction, "_patterns", {})


@pytest.fixture
def start_daemon(tmp_path):
    """A function that starts a daemon in the folder of the test: start_daemon("stdout")."""
    from tests.daemon.harness import Daemon

    def call(*arguments, **options):
        return Daemon(str(tmp_path), *arguments, **options)

    return call


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that this process has opened as a daemon does."""
    from benchmarkai.daemon.pipe import Pipe

    with Pipe(str(tmp_path / "pipe"), 0o622) as pipe:
        yield pipe


@pytest.fixture
def messages(caplog):
    """A function that returns what this process has logged so far, from the level info."""
    caplog.set_level("INFO", "bai-daemon")
    return lambda: [record.getMessage() for record in caplog.records]
