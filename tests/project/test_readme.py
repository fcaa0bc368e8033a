"""The README's examples run as a reader would run them: in order, in one folder.

A block whose first line is a comment with a file name is that file. A `console` block is run, and
its output compared. Any other block is only for reading.
"""

import io
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import BAI_DAEMON, BAI_EMIT, ROOT, is_installed, run

with io.open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
    BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)

_FILE_NAME = re.compile(r"(?:#|//) ([\w-]+\.\w+)\n")
FILES = {_FILE_NAME.match(code).group(1): code for _, code in BLOCKS if _FILE_NAME.match(code)}
CONSOLES = [code for language, code in BLOCKS if language == "console"]

PROGRAMS = {"python": sys.executable, "bai-emit": BAI_EMIT, "bai-daemon": BAI_DAEMON}
# What differs each time: the time of a metric, and durations.
_TIME = re.compile(r'(?<="time": ")[^"]*|(?<=seconds": )[0-9.e-]+|(?<=\.ns": )[0-9.]+')


@pytest.fixture(scope="module")
def folder(tmpdir_factory):
    folder = tmpdir_factory.mktemp("readme")
    for name, code in FILES.items():
        folder.join(name).write_text(code, "utf-8")
    # bai-emit is on the PATH, as after pip install, and is bin/bai-emit, as in a checkout.
    for name, program in PROGRAMS.items():
        script = folder.ensure("bin", name)
        script.write('#!/bin/sh\nexec "%s" "$@"\n' % program)
        script.chmod(0o755)
    return folder


@pytest.mark.parametrize("console", CONSOLES, ids=lambda console: console.splitlines()[0][2:42])
def test_a_console_block_shows_what_its_commands_print(console, folder):
    for program in ("Rscript", "g++", "hyperfine", "jq"):
        if re.search(r"(\$|--|\|) %s " % re.escape(program), console) and not is_installed(program):
            pytest.skip("%s is not installed" % program)
    if "-lbenchmark" in console and not os.path.exists("/usr/include/benchmark/benchmark.h"):
        pytest.skip("libbenchmark-dev is not installed")
    if "--benchmark-json" in console:
        pytest.importorskip("pytest_benchmark")
    if "bai-daemon" in console and sys.version_info < (3, 9):
        pytest.skip("bai-daemon needs Python 3.9")
    lines = console.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    shown = [line for line in lines if not line.startswith("$ ")]
    result = run(
        ["bash", "-c", "\n".join(commands)],
        cwd=str(folder),
        env={"PATH": "%s:%s" % (folder.join("bin"), os.environ["PATH"])},
        stderr=subprocess.STDOUT,
    )
    assert _TIME.sub("", result.out).splitlines() == [_TIME.sub("", line) for line in shown]
    assert result.code == 0


def test_a_console_block_uses_every_file():
    assert FILES
    for name in FILES:
        stem = name.split(".")[0]  # bench.cpp is run as bench, once it is compiled
        assert any(stem in console for console in CONSOLES), name
