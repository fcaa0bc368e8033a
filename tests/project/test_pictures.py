"""The pictures of the documentation are small, and show what real runs print."""

import io
import os
import re
import struct
import sys
import xml.etree.ElementTree

import pytest

from tests.helpers import ROOT, is_installed, run

PICTURES = os.path.join(ROOT, "docs", "pictures")
SVG = "{http://www.w3.org/2000/svg}"

needs_the_daemon = pytest.mark.skipif(
    sys.version_info < (3, 9), reason="bai-daemon needs Python 3.9"
)


def read(*path):
    with io.open(os.path.join(*path), "rb") as file:
        return file.read()


def make(picture, folder, *options):
    """Make the picture, and return its bytes."""
    command = [sys.executable, os.path.join(PICTURES, "make"), "--only", picture]
    result = run(command + ["--folder", str(folder)] + list(options), limit=120)
    assert result.code == 0, result.err
    return read(str(folder), picture)


def assert_screenshot(image):
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">LL", image[16:24]) == (1000, 822)
    assert image[-8:-4] == b"IEND"


@pytest.mark.parametrize("name", ["terminal.svg", "path.svg"])
def test_a_drawing_is_small_and_has_a_title(name):
    image = read(PICTURES, name)
    drawing = xml.etree.ElementTree.fromstring(image)
    assert drawing.tag == SVG + "svg"
    assert drawing.find(SVG + "title").text
    assert len(image) < 8000


def test_the_screenshot_is_small_and_complete():
    image = read(PICTURES, "prometheus.png")
    assert_screenshot(image)
    assert len(image) < 64000


@needs_the_daemon
def test_the_path_of_a_metric_leads_to_every_backend():
    from benchmarkai.daemon.backends import NAMES

    drawing = xml.etree.ElementTree.fromstring(read(PICTURES, "path.svg"))
    texts = " ".join(text.text.lower() for text in drawing.iter(SVG + "text"))
    assert [name for name in NAMES if name not in texts] == []


@needs_the_daemon
@pytest.mark.slow
def test_the_terminal_shows_what_its_commands_print(tmpdir):
    time = re.compile('(?<="time": ")[^"]*')
    made = make("terminal.svg", tmpdir).decode("utf-8")
    assert len(time.findall(made)) == 1
    assert time.sub("", made) == time.sub("", read(PICTURES, "terminal.svg").decode("utf-8"))


@needs_the_daemon
@pytest.mark.slow
def test_prometheus_shows_the_metrics_of_the_training(tmpdir):
    pytest.importorskip("prometheus_client", reason="pip install '.[prometheus]'")
    for program in ("chromium", "prometheus", "prometheus-pushgateway"):
        if not is_installed(program):
            pytest.skip("%s is not installed" % program)
    # It fails if a metric is not in the legend of the page.
    assert_screenshot(make("prometheus.png", tmpdir, "--pause", "0.03"))
