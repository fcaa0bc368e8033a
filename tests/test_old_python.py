"""bai-daemon where Python is too old for it."""

import compileall
import os
import sys

import pytest
from conftest import ROOT, run

BAI_DAEMON = os.path.join(os.path.dirname(sys.executable), "bai-daemon")


@pytest.mark.skipif(sys.version_info >= (3, 9), reason="this Python is new enough")
def test_the_daemon_says_in_one_line_which_python_it_needs():
    result = run([BAI_DAEMON, "stdout"])
    version = "%d.%d" % sys.version_info[:2]
    line = "bai-daemon: this is Python %s, and it needs 3.9 or newer\n" % version
    assert (result.code, result.out, result.err) == (1, "", line)


def test_every_python_compiles_every_module(tmpdir):
    for name in ("daemon", os.path.join("daemon", "backends")):
        for file in os.listdir(os.path.join(ROOT, "benchmarkai", name)):
            if file.endswith(".py"):
                copy = tmpdir.join(name.replace(os.sep, "-") + "-" + file)
                with open(os.path.join(ROOT, "benchmarkai", name, file), "rb") as source:
                    copy.write_binary(source.read())
    assert compileall.compile_dir(str(tmpdir), quiet=1)
