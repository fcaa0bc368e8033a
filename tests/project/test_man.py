"""The man pages say what --help says."""

import inspect
import json
import os
import sys

import pytest

from tests.helpers import ROOT, is_installed, read_text, run, run_python

PAGES = ["bai-daemon.1", "bai-emit.1"]

with_daemon = pytest.mark.skipif(sys.version_info < (3, 9), reason="the daemon needs Python 3.9")
with_groff = pytest.mark.skipif(not is_installed("groff"), reason="groff is not installed")


def path_of(page):
    return os.path.join(ROOT, "docs", "man", page)


@with_daemon
def test_the_man_pages_are_those_that_the_click_commands_make():
    # In a process of its own: a click command remembers the --help of its first context.
    code = "import json; from docs.man.make import make_pages; print(json.dumps(make_pages()))"
    result = run_python(code, cwd=ROOT)
    assert (result.code, result.err) == (0, "")
    pages = json.loads(result.out)
    assert sorted(pages) == PAGES
    for page in PAGES:
        assert read_text(path_of(page)) == pages[page], "write it again: python -m docs.man.make"


def all_commands():
    """Return (command, context) of each command and subcommand, by the name of its page."""
    import click

    from benchmarkai.command.options import bai_emit
    from benchmarkai.daemon.cli import bai_daemon

    context = click.Context(bai_daemon, **bai_daemon.context_settings)
    names = bai_daemon.list_commands(context)
    daemon = [(bai_daemon, context)]
    daemon += [(bai_daemon.get_command(context, name), context) for name in names]
    return {"bai-daemon.1": daemon, "bai-emit.1": [(bai_emit, click.Context(bai_emit))]}


@with_daemon
@with_groff
@pytest.mark.parametrize("page", PAGES)
def test_man_shows_all_that_help_shows(page):
    shown = run(["groff", "-man", "-Tutf8", "-P-cbou", path_of(page)])
    text = " ".join(shown.out.split())
    for command, context in all_commands()[page]:
        paragraphs = inspect.cleandoc(command.help).replace("\b\n", "").split("\n\n")
        for parameter in command.get_params(context):
            paragraphs.append(" ".join(parameter.get_help_record(context) or ()))
        # In the page, this title is a heading.
        paragraphs += (command.epilog or "").partition("Exit codes:")[2].split("\n  ")
        for paragraph in paragraphs:
            assert " ".join(paragraph.split()) in text


@with_groff
@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_warning(page):
    assert run(["groff", "-man", "-Tutf8", "-ww", "-z", path_of(page)]) == (0, "", "")


@pytest.mark.skipif(not is_installed("mandoc"), reason="mandoc is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_misses_only_the_date(page):
    result = run(["mandoc", "-Tlint", "-Wwarning", path_of(page)])
    (line,) = (result.out + result.err).splitlines()
    assert line.endswith('WARNING: missing date, using "": TH')
