"""bin/test says what is missing, makes its environment anew where it must, and sums up."""

import os
import shutil
import sys

import pytest

from tests.helpers import NOT_MEASURED, ROOT, add_program, run

VERSION = "%d.%d" % sys.version_info[:2]

# In place of the index that pip is configured for, one that nobody serves.
NO_NETWORK = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "NO_PROXY": "127.0.0.1",
}

UNREACHABLE = "bin/test: pip cannot reach its package index (see .tox/.bin-test/pip.log)"

needs_new_python = pytest.mark.skipif(sys.version_info < (3, 9), reason="bin/test needs Python 3.9")


@pytest.fixture
def checkout(tmpdir):
    """A folder with bin/test, and a space in its path."""
    folder = tmpdir.join("check out")
    for name in ("bin/test", "tests/project/summary.py"):
        shutil.copy(os.path.join(ROOT, name), str(folder.join(name).ensure()))
    return folder


@pytest.fixture
def bin_test(checkout, tmpdir):
    """A function that runs bin/test, where python3 is this Python."""
    add_program(tmpdir.join("programs", "python3"), sys.executable)
    path = "%s:%s" % (tmpdir.join("programs"), os.environ["PATH"])

    def bin_test(*arguments, **env):
        command = ["/bin/sh", str(checkout.join("bin", "test"))] + list(arguments)
        return run(command, env=dict(NOT_MEASURED, **dict({"PATH": path}, **env)))

    return bin_test


@pytest.fixture
def made(checkout, tmpdir):
    """A function that makes the environment of bin/test, with a tox that prints its arguments."""
    tmpdir.join("tox.py").write(
        "import os, sys\n"
        "if __name__ == '__main__':\n"
        "    print('tox', *sys.argv[1:], 'with', os.environ['PIP_RETRIES'], 'retries')\n"
        "    sys.exit(3)\n"
    )

    def made(made_in):
        environment = checkout.join(".tox", ".bin-test")
        add_program(environment.join("bin", "python"), sys.executable)
        if made_in:
            environment.join("made-in").write(made_in + "\n")

    return made


def test_without_python3_one_line_says_which_is_required(bin_test, tmpdir):
    tmpdir.mkdir("path").join("dirname").mksymlinkto("/usr/bin/dirname")
    line = "bin/test: Python 3.9 or newer is required; python3 is missing\n"
    assert bin_test(PATH=str(tmpdir.join("path"))) == (1, "", line)


@pytest.mark.skipif(sys.version_info >= (3, 9), reason="this Python is new enough")
def test_with_an_old_python3_one_line_says_which_is_required(bin_test):
    line = "bin/test: Python 3.9 or newer is required; python3 is %s\n" % VERSION
    assert bin_test() == (1, "", line)


@needs_new_python
@pytest.mark.parametrize("made_in", [None, "/elsewhere"], ids=["half made", "moved"])
def test_without_ensurepip_one_line_says_which_package_to_install(made_in, bin_test, made, tmpdir):
    made(made_in)
    tmpdir.join("ensurepip.py").write("raise ImportError")  # as in Debian without python3-venv
    line = "bin/test: python3-venv is missing: apt install python3-venv\n"
    assert bin_test(PYTHONPATH=str(tmpdir)) == (1, "", line)


@needs_new_python
@pytest.mark.slow
def test_an_environment_that_was_moved_is_made_anew(bin_test, checkout, made):
    pytest.importorskip("ensurepip")
    made("/elsewhere")
    old = checkout.join(".tox", "py311").ensure()
    assert bin_test(**NO_NETWORK) == (
        1,
        "",
        "bin/test: making .tox with Python %s\n%s: is there a network?\n" % (VERSION, UNREACHABLE),
    )
    assert checkout.join(".tox", ".bin-test", "bin", "pip").exists()
    assert not old.exists()
    assert not checkout.join(".tox", ".bin-test", "made-in").exists()


@needs_new_python
@pytest.mark.slow
def test_what_is_made_runs_without_a_network(bin_test, checkout, made, tmpdir):
    made(str(checkout.realpath()))
    gone = checkout.join("build", "lib", "benchmarkai", "gone.py").ensure()
    assert bin_test("-e", "py311", PYTHONPATH=str(tmpdir), **NO_NETWORK) == (
        3,
        "tox -e py311 with 1 retries\n",
        UNREACHABLE + ": only what is in .tox already can run\n",
    )
    assert not gone.exists()


@needs_new_python
@pytest.mark.slow
def test_the_summary_has_what_failed_and_what_no_environment_ran(tmpdir):
    tmpdir.join("test_a.py").write(
        """
import os, pytest
def test_b(): pass
@pytest.mark.skipif(True, reason="no R")
@pytest.mark.parametrize("x", [1, 2])
def test_c(x): pass
@pytest.mark.skipif(os.environ["ENV"] == "old", reason="too old")
def test_d(record_property): record_property("x", 1)
def test_e(): assert os.environ["ENV"] == "new"
"""
    )
    tmpdir.join("test_f.py").write("import pytest\npytest.importorskip('f', reason='no f')")
    tmpdir.join("test_g.py").write(
        "import os, pytest\n"
        "if os.environ['ENV'] == 'old': pytest.importorskip('g')\n"
        "def test_h(): pass\n"
    )
    files = [str(tmpdir.join(name + ".xml")) for name in ("old", "new")]
    for name, file in zip(("old", "new"), files):
        command = [sys.executable, "-m", "pytest", "-q", "--junitxml", file, str(tmpdir)]
        assert run(command, env=dict(NOT_MEASURED, ENV=name), cwd=str(tmpdir)).code == (
            name == "old"
        )
    summary = os.path.join(ROOT, "tests", "project", "summary.py")
    assert run([sys.executable, summary] + files) == (
        0,
        "passed: old 1, new 4\n"
        "failed: test_a.test_e (old)\n"
        "skipped everywhere: 2, no R\n"
        "skipped everywhere: 1, no f\n",
        "",
    )
