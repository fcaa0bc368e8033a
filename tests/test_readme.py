"""The examples of the README are run, in their order, in an empty folder."""

import io
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, run

with io.open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
    BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)

# A block of code is the file that its first line names.
FILES = {
    re.match(r"(?:#|//) (\S+)\n", code).group(1): code
    for language, code in BLOCKS
    if language != "console"
}
_TIME = re.compile(r'(?<="time": ")[^"]*')
CONSOLES = [code for language, code in BLOCKS if language == "console"]


@pytest.fixture(scope="module")
def folder(tmpdir_factory):
    folder = tmpdir_factory.mktemp("readme")
    for name, code in FILES.items():
        folder.join(name).write_text(code, "utf-8")
    # The Python and the command under test, under the names that users know.
    for name in ("python", "bai-emit", "bai-daemon"):
        folder.join("bin", name).ensure().remove()
        source = sys.executable
        if name != "python":
            source = os.path.join(os.path.dirname(sys.executable), name)
        folder.join("bin", name).write('#!/bin/sh\nexec "%s" "$@"\n' % source)
        folder.join("bin", name).chmod(0o755)
    return folder


def exists(program):
    return any(os.access(os.path.join(p, program), os.X_OK) for p in os.environ["PATH"].split(":"))


@pytest.mark.parametrize("console", CONSOLES)
def test_an_example_prints_what_the_readme_shows(console, folder):
    for program in ("Rscript", "g++"):
        if re.search(r"^\$ %s" % re.escape(program), console, re.MULTILINE) and not exists(program):
            pytest.skip("%s is not installed: apt-get install r-base-core g++" % program)
    if "bai-daemon" in console and sys.version_info < (3, 9):
        pytest.skip("bai-daemon needs Python 3.9")
    script = "\n".join(
        line[2:] + "\n" if line.startswith("$ ") else "" for line in console.splitlines()
    )
    expected = "".join(line + "\n" for line in console.splitlines() if not line.startswith("$ "))
    result = run(
        ["bash", "-c", script],
        cwd=str(folder),
        env={"PATH": "%s:%s" % (folder.join("bin"), os.environ["PATH"])},
        stderr=subprocess.STDOUT,
    )
    assert _TIME.sub("", result.out) == _TIME.sub("", expected)
    assert result.code == 0


def test_no_file_of_the_readme_is_left_unused():
    assert set(FILES) == {name for name in FILES if any(name.split(".")[0] in c for c in CONSOLES)}
    assert len(FILES) == 5
