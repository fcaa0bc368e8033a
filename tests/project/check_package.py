"""Build the sdist and the wheel, and use both in clean environments.

tox -e package runs it, as python -m tests.project.check_package.
"""

import glob
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile

from tests.helpers import ROOT

LINE = b'{"alexnet.latency": 0.42}\n'

# Only of use in a git checkout.
NOT_IN_SDIST = {".github/workflows/tests.yml", ".gitignore", ".pre-commit-config.yaml"}


def run(*arguments, **options):
    print("+", *arguments, flush=True)
    return subprocess.run(arguments, check=True, timeout=300, **options)


def check_contents(sdist):
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    compiled = {name for name in files if "__pycache__" in name or name.endswith(".pyc")}
    assert not compiled, compiled
    if not os.path.exists(os.path.join(ROOT, ".git")):
        return
    listing = run("git", "ls-files", "-z", cwd=ROOT, stdout=subprocess.PIPE).stdout.decode()
    tracked = {name for name in listing.split("\0") if os.path.isfile(os.path.join(ROOT, name))}
    missing = tracked - NOT_IN_SDIST - files
    assert not missing, f"not in the sdist: {sorted(missing)}; see MANIFEST.in"


def check_description(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(name).decode()
    assert "](https://github.com/" in description
    relative = re.findall(r"\]\((?!https?:).*?\)", description)
    assert not relative, f"links that lead nowhere on PyPI: {relative}"


def check_use(folder, package, click):
    venv.create(folder, with_pip=True)
    python, bai_emit = (os.path.join(folder, "bin", name) for name in ("python", "bai-emit"))
    run(python, "-m", "pip", "install", "--quiet", *([] if click else ["--no-deps"]), package)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BENCHMARK_AI")}
    for command in ([bai_emit], [python, "-m", "benchmarkai"]):
        for words, stdin in ((["alexnet.latency=0.42"], b""), ([], LINE)):
            done = run(
                *command, *words, input=stdin, stdout=subprocess.PIPE, cwd="/", env=environment
            )
            assert done.stdout == LINE, done.stdout
    found = run(
        python,
        "-c",
        "import benchmarkai, os; print(os.listdir(os.path.dirname(benchmarkai.__file__)))\n"
        "try: import click\n"
        "except ImportError: print('no click')",
        stdout=subprocess.PIPE,
        cwd="/",
        env=environment,
    ).stdout.decode()
    assert "py.typed" in found
    assert ("no click" in found) != click, found
    if click:
        run(bai_emit, "--version", cwd="/", env=environment)
        bai_daemon = os.path.join(folder, "bin", "bai-daemon")
        done = run(
            *(bai_daemon, "stdout", "--", bai_emit, "alexnet.latency=0.42"),
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment,
        )
        assert b'"name": "alexnet.latency", "value": 0.42' in done.stdout, done.stdout


def check_uv(folder, sdist):
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    (source,) = glob.glob(os.path.join(folder, "*"))
    tools, programs = (os.path.join(folder, name) for name in ("tools", "bin"))
    options = {"UV_TOOL_DIR": tools, "UV_TOOL_BIN_DIR": programs, "UV_PYTHON": sys.executable}
    environment = dict(os.environ, **options)
    uv = [sys.executable, "-m", "uv"]
    run(*uv, "tool", "install", source, env=environment)
    bai_emit = os.path.join(programs, "bai-emit")
    with open(bai_emit) as script:
        first_line = script.readline()
    assert first_line.startswith("#!" + tools) and first_line.endswith("/python\n"), first_line
    for command in ([*uv, "run", "bai-emit"], [bai_emit]):
        done = run(
            *command,
            "alexnet.latency=0.42",
            stdout=subprocess.PIPE,
            cwd=source,
            env=environment,
        )
        assert done.stdout == LINE, done.stdout


def main(folder):
    dist = os.path.join(folder, "dist")
    command = [sys.executable, "-m", "build", "--outdir", dist, ROOT]
    build = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    log = build.stdout.decode()
    assert build.returncode == 0, log
    # Where dynamic in pyproject.toml lacks a field of setup.py, setuptools warns, and goes on.
    assert "defined outside of `pyproject.toml`" not in log, log
    (wheel,), (sdist,) = (glob.glob(os.path.join(dist, name)) for name in ("*.whl", "*.tar.gz"))
    assert wheel.endswith("-py2.py3-none-any.whl"), wheel
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    check_contents(sdist)
    check_description(wheel)
    check_use(os.path.join(folder, "no-click"), wheel, click=False)
    check_use(os.path.join(folder, "from sdist"), sdist, click=True)
    check_uv(os.path.join(folder, "uv"), sdist)


if __name__ == "__main__":
    # Not in the checkout: where its path has a space, pip installs no working script of a wheel.
    with tempfile.TemporaryDirectory() as folder:
        main(folder)
