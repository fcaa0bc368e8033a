"""The backend in CONTRIBUTING works as a reader would install it."""

import csv
import os
import re
import sys

import pytest

from tests.helpers import read_text, run


@pytest.mark.slow  # pip builds a package
@pytest.mark.skipif(sys.version_info < (3, 9), reason="bai-daemon needs Python 3.9")
def test_the_example_backend_is_installed_and_delivers_metrics(tmpdir):
    pytest.importorskip("setuptools", minversion="61")  # offline, pip cannot get it for the build
    section = read_text("CONTRIBUTING.md").split("## A backend of your own\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for language, code in blocks:
        if language:
            name = re.match(r"# ([\w.]+)\n", code).group(1)
            tmpdir.join("bai-csv", name).ensure().write_text(code, "utf-8")
    (commands,) = (code for language, code in blocks if not language)

    # Not beside bai-daemon, which other tests use, but where it finds it too.
    site = str(tmpdir.join("site"))
    options = "--no-index --no-deps --no-build-isolation --target '%s'" % site
    pip = "'%s' -m pip install %s " % (sys.executable, options)
    result = run(
        ["sh", "-e", "-c", commands.replace("pip install ", pip)],
        cwd=str(tmpdir),
        env={
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
            "PYTHONPATH": site,
        },
    )
    assert result.code == 0, result
    with open(str(tmpdir.join("metrics.csv"))) as file:
        ((_, metric, value),) = csv.reader(file)
    assert (metric, value) == ("loss", "0.42")
