"""The files of the project agree with each other."""

import re

import click
import pytest

import benchmarkai
from benchmarkai import settings
from benchmarkai.command.options import bai_emit
from tests.helpers import read_text


def names_of(requirements):
    return {re.split(r"[^\w-]", line.strip(" -"))[0] for line in requirements if line.strip(" -")}


def test_the_conda_environment_has_all_that_the_tests_need():
    deps = re.search(r"\[testenv\]\ndeps =\n((?: .*\n)+)", read_text("tox.ini")).group(1)
    required = re.search(r"install_requires=\[(.*)\]", read_text("setup.py")).group(1)
    runner = re.search(r"requires =\n((?: .*\n)+)", read_text("tox.ini")).group(1)
    needed = names_of(deps.splitlines()) | names_of(runner.splitlines())
    needed |= names_of(re.findall(r'"(.*?)"', required))
    text = read_text("test-environment.yml")
    assert text.startswith("name: benchmark-ai-client-library-tests\n")
    assert needed <= names_of(text.split("dependencies:")[1].splitlines())


def test_the_changelog_has_this_version():
    assert re.search(
        r"^## \[%s\]" % re.escape(benchmarkai.__version__), read_text("CHANGELOG.md"), re.MULTILINE
    )


@pytest.mark.parametrize("option", [p for p in bai_emit.params if isinstance(p, click.Option)])
def test_every_option_has_help_and_is_documented(option):
    assert option.help
    assert "`%s" % option.opts[-1] in read_text("docs", "emit.md")


@pytest.mark.parametrize("name", sorted(benchmarkai.__all__))
def test_every_public_name_is_documented(name):
    assert name in read_text("docs", "emit.md")


@pytest.mark.parametrize("variable", ["MODE", "FIFO_PATH", "MAX_WAIT", "WAIT_STEP"])
def test_every_variable_is_documented_with_its_default(variable):
    name, default = getattr(settings, variable), getattr(settings, "DEFAULT_" + variable)
    (row,) = re.findall(r"^\| `%s` \|.*$" % name, read_text("docs", "emit.md"), re.MULTILINE)
    assert row.endswith("| `%s` |" % default)
