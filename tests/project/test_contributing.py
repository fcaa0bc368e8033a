"""The backend in CONTRIBUTING works as a contributor would add it."""

import csv
import os
import re
import shutil
import sys
import textwrap

import pytest

from tests.helpers import ROOT, run


@pytest.mark.skipif(sys.version_info < (3, 9), reason="bai-daemon needs Python 3.9")
def test_the_example_backend_delivers_metrics(tmpdir):
    with open(os.path.join(ROOT, "CONTRIBUTING.md")) as file:
        text = file.read()
    ((code, name),) = re.findall(r"```python\n( *# (\w+)\.py\n.*?)\n *```", text, re.DOTALL)
    for folder in ("benchmarkai", "bin"):
        shutil.copytree(os.path.join(ROOT, folder), str(tmpdir.join(folder)))
    backends = tmpdir.join("benchmarkai", "daemon", "backends")
    backends.join(name + ".py").write(textwrap.dedent(code))
    init = backends.join("__init__.py")
    init.write(init.read().replace('    "stdout",\n', '    "stdout",\n    "%s",\n' % name))

    (shown,) = re.findall(r"^3\. Try it: `bai-daemon (.*)`\.$", text, re.MULTILINE)
    python = '"%s" bin/' % sys.executable
    command = python + "bai-daemon " + shown.replace("bai-emit", python + "bai-emit")
    result = run(["sh", "-c", command], cwd=str(tmpdir))
    assert result.code == 0, result.err
    with open(str(tmpdir.join("metrics.csv"))) as file:
        ((_, metric, value),) = csv.reader(file)
    assert (metric, value) == ("loss", "0.42")
