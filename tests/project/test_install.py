"""pip installs the package on every Python, including those that cannot compile the daemon."""

import os
import shutil
import sys

import pytest

from tests.helpers import BAI_DAEMON, ROOT, is_installed, run


@pytest.fixture
def pip_install(tmpdir):
    """A function that installs the project with the pip of this Python."""
    for module in ("setuptools", "wheel"):
        pytest.importorskip(module)  # offline, pip cannot get them for the build
    # pip may build in the folder of the source, and leave files there.
    for name in ("benchmarkai", "bin", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, name), str(tmpdir.join("source", name)), ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(os.path.join(ROOT, name), str(tmpdir.join("source")))

    def install(python, options, env):
        command = [python, "-m", "pip", "install", "--no-deps", "--no-index"]
        command += ["--no-build-isolation"] + options + ["./source"]
        result = run(command, cwd=str(tmpdir), env=env)
        assert result.code == 0, result
        assert "Successfully installed" in result.out
        return result

    return install


def test_pip_installs_a_working_command_and_prints_no_error(tmpdir, pip_install):
    result = pip_install(
        sys.executable,
        ["--target", str(tmpdir.join("target"))],
        {"PYTHONDONTWRITEBYTECODE": ""},  # pip compiles what it installs, as for a user
    )
    assert "error" not in (result.out + result.err).lower()

    result = run(
        [str(tmpdir.join("target", "bin", "bai-emit")), "alexnet.latency=0.42"],
        cwd=str(tmpdir),
        env={"PYTHONPATH": str(tmpdir.join("target"))},
    )
    assert result == (0, '{"alexnet.latency": 0.42}\n', "")


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("mandb"), reason="man-db is not installed")
def test_man_finds_the_pages_of_installed_commands(tmpdir, pip_install):
    pip_install(sys.executable, ["--ignore-installed", "--prefix", "prefix"], {})
    path = str(tmpdir.join("prefix", "bin")) + os.pathsep + os.environ["PATH"]
    for command in ("bai-emit", "bai-daemon"):
        page = tmpdir.join("prefix", "share", "man", "man1", command + ".1")
        found = run(["man", "-w", command], env={"PATH": path, "MANPATH": ""})
        assert found == (0, str(page) + "\n", "")


def installed_script(folder, pip_install):
    """Install the project in a new virtual environment; return its python and its bai-emit."""
    pytest.importorskip("venv")
    assert run([sys.executable, "-m", "venv", "--without-pip", folder]).code == 0
    python, bai_emit = (os.path.join(folder, "bin", name) for name in ("python", "bai-emit"))
    # pip and setuptools come from here, where the project may be installed too.
    pip_install(python, ["--ignore-installed"], {"PYTHONPATH": os.pathsep.join(sys.path)})
    return python, bai_emit


def test_an_installed_command_starts_python_without_a_shell(tmpdir, pip_install):
    python, bai_emit = installed_script(str(tmpdir.join("venv")), pip_install)
    with open(bai_emit) as script, open(os.path.join(ROOT, "bin", "bai-emit")) as source:
        assert script.readline() == "#!%s\n" % python
        source.readline()
        assert script.read() == source.read()


@pytest.mark.parametrize("name", ["with space", "l" * 250], ids=["a space", "too long"])
def test_the_command_works_in_a_path_that_a_first_line_cannot_have(name, tmpdir, pip_install):
    python, bai_emit = installed_script(str(tmpdir.join(name)), pip_install)
    tmpdir.join("link").mksymlinkto(bai_emit)
    for command in ([bai_emit], [str(tmpdir.join("link"))], [python, bai_emit]):
        result = run(command + ["alexnet.latency=0.42", "it's  $HOME=1"])
        assert result == (0, '{"alexnet.latency": 0.42, "it\'s  $HOME": 1}\n', "")
    assert run([bai_emit, "a"]).code == 2


@pytest.mark.skipif(sys.version_info >= (3, 9), reason="this Python is new enough")
def test_an_old_python_is_told_in_one_line_which_one_the_daemon_needs():
    line = "bai-daemon: Python 3.9 or newer is required; this is %d.%d\n" % sys.version_info[:2]
    assert run([BAI_DAEMON, "stdout"]) == (1, "", line)
