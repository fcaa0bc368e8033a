"""The examples in the documentation run as a reader would run them, and its links lead somewhere.

Each page has a folder, in which its blocks run in order. A block whose first line is a comment with
a file name is that file. A `console` block is run, and its output compared. Any other block is only
for reading.
"""

import glob
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, is_installed, path_with_programs, read_text, run

PAGES = [
    os.path.relpath(path, ROOT)
    for folder in ("", "docs", "examples")
    for path in sorted(glob.glob(os.path.join(ROOT, folder, "*.md")))
]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"(?:#|//) ([\w-]+\.\w+)\n")


def blocks_of(page):
    return _BLOCK.findall(read_text(page))


def files_of(page):
    found = [(_FILE_NAME.match(code), code) for _, code in blocks_of(page)]
    return {match.group(1): code for match, code in found if match}


CONSOLES = [
    (page, code) for page in PAGES for language, code in blocks_of(page) if language == "console"
]

# What differs each time: the time of a metric, and durations.
_TIME = re.compile(r'(?<="time": ")[^"]*|(?<=seconds": )[0-9.e-]+')


@pytest.fixture(scope="module")
def folder_of(tmpdir_factory):
    """A function that returns the folder of a page, with the files of its blocks, and the PATH.

    bai-emit is on the PATH, as after pip install, and is bin/bai-emit, as in a checkout.
    """
    folders = {}

    def make(page):
        folder = tmpdir_factory.mktemp("page")
        for name, code in files_of(page).items():
            folder.join(name).write_text(code, "utf-8")
        return folder, path_with_programs(folder.join("bin"))

    return lambda page: folders.get(page) or folders.setdefault(page, make(page))


@pytest.mark.parametrize(
    "page, console", CONSOLES, ids=["%s: %s" % (page, code[2:42]) for page, code in CONSOLES]
)
def test_a_console_block_shows_what_its_commands_print(page, console, folder_of):
    for program in ("Rscript", "g++"):
        if re.search(r"\$ %s " % re.escape(program), console) and not is_installed(program):
            pytest.skip("%s is not installed" % program)
    if "bai-daemon" in console and sys.version_info < (3, 9):
        pytest.skip("bai-daemon needs Python 3.9")
    folder, path = folder_of(page)
    lines = console.splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    shown = [line for line in lines if not line.startswith("$ ")]
    result = run(
        ["bash", "-c", "\n".join(commands)],
        cwd=str(folder),
        env={"PATH": path},
        stderr=subprocess.STDOUT,
    )
    assert _TIME.sub("", result.out).splitlines() == [_TIME.sub("", line) for line in shown]
    assert result.code == 0


@pytest.mark.parametrize("page", ["README.md", "docs/emit.md", "docs/reader.md"])
def test_the_files_of_a_page_are_used_in_it(page):
    shown = [console for other, console in CONSOLES if other == page]
    assert files_of(page)
    for name in files_of(page):
        stem = name.split(".")[0]  # bench.cpp is run as bench, once it is compiled
        assert any(re.search(r"\b%s\b" % stem, console) for console in shown), name


def anchors_in(text):
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_lead_to_a_file_and_a_heading(page):
    text = _BLOCK.sub("", read_text(page))
    links = re.findall(r"\]\((?!https?:)(\S+?)\)|^\[.+\]: (?!https?:)(\S+)$", text, re.MULTILINE)
    for link in map("".join, links):
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not anchor or anchor in anchors_in(read_text(target)), link
    defined = set(re.findall(r"^\[(.+?)\]: ", text, re.MULTILINE))
    assert set(re.findall(r"\]\[(.+?)\]", text)) <= defined


def test_the_readme_can_be_read_in_a_few_minutes():
    readme = read_text("README.md")
    assert len(readme.splitlines()) <= 150
    assert len(readme.split()) <= 1200
