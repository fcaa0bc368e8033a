"""pip installs the package on every Python, including those that cannot compile the daemon."""

import os
import shutil
import sys

import pytest

from tests.helpers import BAI_DAEMON, ROOT, run


def test_pip_installs_a_working_command_and_prints_no_error(tmpdir):
    for module in ("setuptools", "wheel"):
        pytest.importorskip(module)  # offline, pip cannot get them for the build
    # pip may build in the folder of the source, and leave files there.
    for name in ("benchmarkai", "bin"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, name), str(tmpdir.join("source", name)), ignore=ignored)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(os.path.join(ROOT, name), str(tmpdir.join("source")))

    result = run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
        + ["--no-build-isolation", "--target", str(tmpdir.join("target")), "./source"],
        cwd=str(tmpdir),
        env={"PYTHONDONTWRITEBYTECODE": ""},  # pip compiles what it installs, as for a user
    )
    assert result.code == 0, result
    assert "Successfully installed" in result.out
    assert "error" not in (result.out + result.err).lower()

    result = run(
        [str(tmpdir.join("target", "bin", "bai-emit")), "alexnet.latency=0.42"],
        cwd=str(tmpdir),
        env={"PYTHONPATH": str(tmpdir.join("target"))},
    )
    assert result == (0, '{"alexnet.latency": 0.42}\n', "")


@pytest.mark.skipif(sys.version_info >= (3, 9), reason="this Python is new enough")
def test_an_old_python_is_told_in_one_line_which_one_the_daemon_needs():
    line = "bai-daemon: Python 3.9 or newer is required; this is %d.%d\n" % sys.version_info[:2]
    assert run([BAI_DAEMON, "stdout"]) == (1, "", line)
