"""What a message tells to install, and how, for each kind of Python."""

import shlex
import sys
import sysconfig
from importlib.machinery import PathFinder

import pytest

from benchmarkai.daemon.install import how_to_install
from tests.helpers import ROOT, run

needs_pip = pytest.mark.skipif(not PathFinder.find_spec("pip"), reason="there is no pip")
CODE = "import sys; from benchmarkai.daemon.install import how_to_install as how; print(how(%r))"


@pytest.fixture
def system(monkeypatch, tmp_path):
    """The folders of this Python are those of a system: tmp_path has PEP 668's file, and apt."""
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    (tmp_path / "apt").touch(0o755)
    return tmp_path


@needs_pip
def test_an_environment_with_pip_is_named_in_the_command(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "an environment")
    command = how_to_install(["a>=1", "b"])
    assert command == f"{shlex.quote(sys.executable)} -m pip install 'a>=1' b"
    # pip is there, and takes the options.
    assert run(["sh", "-c", command + " --help"]).code == 0


def test_an_environment_without_pip_is_named_to_uv(tmp_path):
    assert run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "new env")]).code == 0
    python = str(tmp_path / "new env" / "bin" / "python")
    result = run([python, "-c", CODE % ["a>=1"]], env={"PYTHONPATH": ROOT})
    assert result == (0, f"uv pip install --python '{python}' 'a>=1'\n", "")


def test_the_python_of_the_system_gets_packages_of_the_system(system):
    assert (
        how_to_install(["click>=8", "urllib3>=1.26"]) == "apt install python3-click python3-urllib3"
    )


def test_what_the_system_lacks_goes_into_a_virtual_environment(system):
    how = "run pip install 'urllib3>=1.26' other in a virtual environment"
    assert how_to_install(["urllib3>=1.26", "other"]) == how
    (system / "apt").unlink()
    how = "run pip install 'urllib3>=1.26' in a virtual environment"
    assert how_to_install(["urllib3>=1.26"]) == how


@needs_pip
def test_a_python_that_lets_pip_install_gets_it_from_pip(system):
    (system / "EXTERNALLY-MANAGED").unlink()
    assert how_to_install(["a"]) == f"{shlex.quote(sys.executable)} -m pip install a"
