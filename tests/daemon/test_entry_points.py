"""Backends of other packages, which name them as entry points."""

import os
import sys

import pytest

from benchmarkai.daemon import backends
from tests.daemon.harness import PATH, run_daemon
from tests.helpers import NOT_MEASURED, ROOT, run_python

MODULE = """
from benchmarkai.daemon.backends import base

class Backend(base.Backend):
    "Print names."

    def send(self, metrics):
        for metric in metrics:
            print("theirs", metric.name)

number = 42
"""

LACKING = """
from benchmarkai.daemon.backends import base

class Backend(base.Backend):
    def __init__(self):
        import nonexistent
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a package with a module and entry points: {name: object}.

    This process finds it, and a program with the variables that the function returns.
    """

    def call(package, module, points, site="site"):
        folder = tmp_path / site
        information = folder / f"{package}-1.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\n")
        lines = [f"[{backends.ENTRY_POINTS}]", *(" = ".join(pair) for pair in points.items())]
        (information / "entry_points.txt").write_text("\n".join(lines))
        (folder / f"{package}.py").write_text(module)
        monkeypatch.syspath_prepend(str(folder))
        return {"PYTHONPATH": os.pathsep.join([str(folder), ROOT]), "PATH": PATH}

    return call


def test_an_installed_backend_is_listed_and_works(install):
    env = install("theirs", MODULE, {"names": "theirs:Backend"})
    assert (
        "\n  names          Print names.\n\nOther commands:\n" in run_daemon("--help", env=env).out
    )
    assert run_daemon("nope", env=env).err.endswith(", kafka, names\n")
    result = run_daemon("names", "--", "bai-emit", "loss=0.42", env=env)
    assert (result.code, result.out) == (0, "theirs loss\n")
    assert "delivering to names" in result.err


@pytest.mark.parametrize("name", ["stdout", "status"])
def test_ours_come_before_others_of_the_same_name(install, name):
    env = install("theirs", MODULE, {name: "theirs:Backend"})
    out = run_daemon("--help", env=env).out
    assert out.count(f"\n  {name} ") == 1 and "Print names." not in out
    assert "Print names." not in run_daemon(name, "--help", env=env).out


def test_of_two_packages_with_the_same_name_the_first_in_the_path_counts(install):
    first = install("first", MODULE.replace("theirs", "first"), {"names": "first:Backend"}, "1")
    second = install("second", MODULE, {"names": "second:Backend"}, "2")
    for env, out in ((first, "first loss\n"), (second, "theirs loss\n")):
        path = os.pathsep.join([env["PYTHONPATH"], first["PYTHONPATH"], second["PYTHONPATH"]])
        env = {**env, "PYTHONPATH": path}
        assert run_daemon("names", "--", "bai-emit", "loss=0.42", env=env).out == out


@pytest.mark.parametrize(
    "module, value, reason",
    [
        (MODULE, "nowhere:Backend", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import nonexistent", "broken:Backend", "ModuleNotFoundError: No module named 'nonexi"),
        ("raise KeyError('two\\nlines')", "broken:Backend", "KeyError: 'two\\nlines'"),
        ("raise OSError('two\\nlines')", "broken:Backend", "OSError: two lines"),
        ("raise SystemExit(3)", "broken:Backend", "SystemExit: 3"),
        ("x = (", "broken:Backend", "SyntaxError: "),
        (MODULE, "broken:Other", "AttributeError: "),
        (MODULE, "broken", "TypeError: it is not a subclass of benchmarkai.daemon.backe"),
        (MODULE, "broken:number", "TypeError: it is not a subclass of benchmarkai.daemon.backe"),
        (MODULE, "broken:base.Unavailable", "TypeError: it is not a subclass of benchmarkai.d"),
        (MODULE + "Backend.options = None", "broken:Backend", "TypeError: 'NoneType' object is "),
        (
            MODULE + "Backend.options = ['--file']",
            "broken:Backend",
            "TypeError: not all of its",
        ),
    ],
)
def test_the_error_of_a_backend_that_cannot_be_loaded_is_one_line(
    install, monkeypatch, module, value, reason
):
    install("broken", module, {"names": value})
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    with pytest.raises(backends.LoadError) as caught:
        backends.load("names")
    assert str(caught.value).startswith(f"cannot load the backend 'names' from {value}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_backend_that_cannot_be_loaded_leaves_the_others_alone(install):
    env = install("theirs", "import nonexistent", {"names": "theirs:Backend"})
    result = run_daemon("names", "--file", "x", env=env)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(
        "bai-daemon: cannot load the backend 'names' from theirs:Backend: "
    )
    result = run_daemon("--help", env=env)
    assert (result.code, result.err) == (0, "")
    text = " ".join(result.out.split())
    assert "names cannot load the backend 'names' from theirs:Backend: ModuleNotFoundE" in text
    assert "kafka Write to a topic of Kafka." in text
    assert run_daemon("stdout", "--", "bai-emit", "loss=0.42", env=env).code == 0
    completion = {
        "_BAI_DAEMON_COMPLETE": "bash_complete",
        "COMP_WORDS": "bai-daemon ",
        "COMP_CWORD": "1",
    }
    result = run_daemon(env={**env, **completion})
    assert result.err == "" and "stdout" in result.out and "names" in result.out


def test_a_backend_that_lacks_its_client_says_so(install):
    env = install("theirs", LACKING, {"names": "theirs:Backend"})
    message = "bai-daemon: nonexistent is not installed: the backend names needs it\n"
    assert run_daemon("names", env=env) == (2, "", message)


def test_the_entry_points_are_read_only_when_needed():
    code = (
        "import sys; sys.argv[:] = ['bai-daemon', 'stdout', '--log-level', 'error', '--', 'true']\n"
        "from benchmarkai.daemon import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'importlib.metadata' not in sys.modules"
    )
    assert run_python(code, env=NOT_MEASURED) == (0, "", "")
